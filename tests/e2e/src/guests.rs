//! Hostile guests, one route each: how they are attached, and what their containment looks like from the street.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a panic is how a test tells, and nothing of it is shipped"
)]

use std::fmt::Write as _;
use std::net::SocketAddr;
use wharf_artifacts::path;

/// One behaviour.
#[derive(Clone, Copy, Debug)]
pub struct Guest {
    /// Its plugin, its route and its path, and for `hostile` what it does.
    pub name: &'static str,
    /// A component of its own; none: `hostile`, told by its configuration.
    own: bool,
    /// Statuses that the policy `closed` may answer with; for those that do no harm, 200.
    pub statuses: &'static [u16],
    /// How the metrics name it; empty: it does no harm, and is counted as `ok`.
    pub outcomes: &'static [&'static str],
}

const fn hostile(name: &'static str, statuses: &'static [u16], outcomes: &'static [&'static str]) -> Guest {
    Guest { name, own: false, statuses, outcomes }
}

const fn wat(name: &'static str, outcomes: &'static [&'static str]) -> Guest {
    Guest { name, own: true, statuses: &[503], outcomes }
}

/// All of them. Whatever the behaviour, on a busy machine the deadline may come first.
pub const ALL: &[Guest] = &[
    hostile("loop", &[503], &["deadline"]),
    hostile("spin", &[503], &["deadline"]),
    hostile("recurse", &[503], &["stack_overflow"]),
    hostile("memory", &[503], &["memory"]),
    hostile("trap", &[503], &["unreachable"]),
    hostile("panic", &[503], &["unreachable"]),
    hostile("exit", &[503], &["import"]),
    hostile("nap", &[503], &["import"]),
    hostile("log-flood", &[503], &["host_calls"]),
    hostile("host-call-flood", &[503], &["host_calls"]),
    hostile("random-flood", &[503], &["host_calls"]),
    hostile("metrics-flood", &[503], &["host_calls"]),
    hostile("kv-flood", &[503], &["host_calls"]),
    hostile("random-too-much", &[503], &["random"]),
    hostile("hash-too-much", &[502], &["too_large"]),
    // It may hear of the time-out just before it is stopped itself.
    hostile("slow-fetch", &[200, 503], &["deadline", "ok"]),
    hostile("giant-headers", &[502], &["too_large"]),
    hostile("many-edits", &[502], &["too_large", "answer"]),
    hostile("many-attrs", &[502], &["answer"]),
    hostile("big-reply", &[502], &["too_large"]),
    hostile("crlf-header", &[502], &["answer"]),
    hostile("nul-header", &[502], &["answer"]),
    hostile("upper-header", &[502], &["answer"]),
    hostile("hop-header", &[502], &["answer"]),
    hostile("host-header", &[502], &["answer"]),
    hostile("empty-header", &[502], &["answer"]),
    hostile("bad-path", &[502], &["answer"]),
    hostile("bad-status", &[502], &["answer"]),
    wat("table", &["table_growth"]),
    wat("non-utf8", &["abi"]),
    wat("wild-pointer", &["abi"]),
    wat("wild-tag", &["abi"]),
    wat("endless-list", &["abi"]),
    // What only looks hostile: it is bounded, and told nothing.
    hostile("long-line", &[200], &[]),
    hostile("read-file", &[200], &[]),
    hostile("env", &[200], &[]),
    hostile("kv-key-too-long", &[200], &[]),
];

impl Guest {
    /// Its path.
    pub fn path(&self) -> String {
        format!("/guest/{}", self.name)
    }

    /// Is this an answer of its containment?
    pub fn may_answer(&self, status: u16) -> bool {
        status == 503 || self.statuses.contains(&status)
    }

    /// Where it is named.
    pub fn plugin(&self) -> String {
        format!("g-{}", self.name)
    }
}

/// A gateway with a route for each guest and one beside them, `/near`, without any.
pub fn config(upstream: SocketAddr) -> String {
    let mut text = format!(
        r#"
node: {{ state_dir: "@DIR@/state" }}
admin: {{ bind: "127.0.0.1:0" }}
access_log: {{ to: "@DIR@/access.log" }}
listeners: {{ main: {{ bind: "127.0.0.1:0" }} }}
services: {{ up: {{ endpoints: ["{upstream}"] }} }}
plugins:
"#
    );
    for guest in ALL {
        let file = path(if guest.own { guest.name } else { "hostile" }).display();
        let grants = if guest.own { "" } else { ", grants: { kv: { bytes_max: 8MiB }, http: { services: [up] } }" };
        // Each costs its own calls and no version: falling back is another promise.
        let _ = writeln!(
            text,
            "  {}: {{ file: \"{file}\"{grants}, limits: {{ deadline: 50ms, faults: {{ max: 100000, within: 1s }} }} }}",
            guest.plugin()
        );
    }
    text.push_str("routes:\n  - { name: near, match: { path: { exact: /near } }, to: up }\n");
    for guest in ALL {
        let config = if guest.own { String::new() } else { format!(", config: {{ do: {}, ms: 5000, service: up }}", guest.name) };
        let _ = writeln!(
            text,
            "  - {{ name: {name}, match: {{ path: {{ exact: {path} }} }}, to: up, plugins: [{{ plugin: {plugin}, role: filter{config} }}] }}",
            name = guest.name,
            path = guest.path(),
            plugin = guest.plugin(),
        );
    }
    text
}
