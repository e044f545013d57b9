//! A gateway that has WebSockets on all sides: its clients and its upstreams speak HTTP/1.1 and HTTP/2.

#![allow(clippy::unwrap_used, reason = "this is test code: a panic is how a test tells")]

use crate::far::{Asked, Far, Says};
use crate::pipes::{By, Pipe, open};
use std::sync::Arc;
use wharf_harness::Wharf;

/// A gateway before one upstream of each kind, which do the same.
pub struct House {
    /// The gateway.
    pub wharf: Wharf,
    _far: [Far; 2],
}

/// Starts them. The listener `hasty` ends a tunnel in which nothing moves for a second, and no request may take longer than two.
pub fn house(script: impl Fn(&Asked) -> Says + Send + Sync + 'static) -> House {
    let script = Arc::new(script);
    let far = [By::One, By::Two].map(|by| {
        let script = script.clone();
        Far::start(by, move |asked| script(asked))
    });
    let [one, two] = far.each_ref().map(Far::address);
    let wharf = Wharf::start(format!(
        r#"
node: {{ state_dir: "@DIR@/state" }}
admin: {{ bind: "127.0.0.1:0" }}
access_log: {{ to: "@DIR@/access.log" }}
listeners:
  main: {{ bind: "127.0.0.1:0" }}
  hasty: {{ bind: "127.0.0.1:0", timeouts: {{ quiet: 1s }} }}
services:
  one: {{ endpoints: ["{one}"], protocol: http1 }}
  two: {{ endpoints: ["{two}"], protocol: http2 }}
routes:
  - {{ name: one, match: {{ path: {{ prefix: /one }} }}, to: one, strip_prefix: true, timeouts: {{ whole: 2s }} }}
  - {{ name: two, match: {{ path: {{ prefix: /two }} }}, to: two, strip_prefix: true, timeouts: {{ whole: 2s }} }}
"#
    ))
    .unwrap();
    House { wharf, _far: far }
}

/// What the two sides of the gateway speak.
pub type Way = (By, By);

/// All of them.
pub const WAYS: [Way; 4] = [(By::One, By::One), (By::One, By::Two), (By::Two, By::One), (By::Two, By::Two)];

impl House {
    /// Opens a WebSocket; `early` is sent before there is an answer.
    pub async fn open(&self, way: Way, early: &[u8]) -> Pipe {
        self.open_at("main", way, early).await
    }

    /// The same on a listener.
    pub async fn open_at(&self, listener: &str, (front, behind): Way, early: &[u8]) -> Pipe {
        let target = if behind == By::One { "/one/ws" } else { "/two/ws" };
        open(self.wharf.listener(listener), front, target, &[], early).await.pipe()
    }
}
