//! Testing a plugin without a gateway: `cargo test` on the plugin's own crate, no wasm, no sockets.
//!
//! ```
//! use wharf_plugin::prelude::*;
//! use wharf_plugin::testing::{self, Ask};
//!
//! struct Guard { name: String }
//!
//! impl Plugin for Guard {
//!     fn configure(config: &str) -> Result<Guard, String> {
//!         Ok(Guard { name: config.trim_matches('"').into() })
//!     }
//!     fn needs(&self) -> Needs {
//!         Needs::none().header("x-user")
//!     }
//! }
//!
//! impl Auth for Guard {
//!     fn check(&self, request: &Request) -> Decision {
//!         match request.header("x-user") {
//!             Some(user) if user == self.name => Decision::next().attr("consumer", user),
//!             _ => Decision::reply(401),
//!         }
//!     }
//! }
//!
//! let guard = testing::configure::<Guard>("\"ann\"").unwrap();
//! assert_eq!(guard.check(&Ask::get("/").header("x-user", "ann")), Decision::next().attr("consumer", "ann"));
//! assert_eq!(guard.check(&Ask::get("/")), Decision::reply(401));
//! ```
//!
//! The world around the plugin belongs to the thread, and `cargo test` gives each test its own: set the clock with
//! [`set_now_ms`], fill the store with [`kv_set`], answer outbound calls with [`serve`], and look at [`lines`],
//! [`counts`] and [`host_calls`] afterwards.

use crate::answer::{Decision, Edits, Fault, Instead, Target};
use crate::host::backend::{World, world};
use crate::host::{http, kv, log};
use crate::plugin::{Auth, Degrade, Fact, Filter, Needs, Plugin, Route};
use crate::request::{Method, Request, Response};
use std::rc::Rc;

/// What answers a plugin's outbound calls.
pub type Service = Box<dyn FnMut(&http::Request) -> Result<http::Response, http::Error>>;

/// One exchange, as a test describes it.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) attrs: Vec<(String, String)>,
    pub(crate) status: u16,
    pub(crate) response_headers: Vec<(String, String)>,
    pub(crate) id: String,
    pub(crate) route: String,
    pub(crate) authority: String,
    pub(crate) scheme: String,
    pub(crate) client: String,
}

impl Ask {
    /// A request. What stands behind `?` is the query.
    pub fn new(method: &str, path: &str) -> Ask {
        let (path, query) = match path.split_once('?') {
            Some((path, query)) => (path, Some(query.into())),
            None => (path, None),
        };
        Ask {
            method: method.into(),
            path: path.into(),
            query,
            status: 200,
            id: "0".repeat(32),
            route: "test".into(),
            authority: "test.example".into(),
            scheme: "http".into(),
            client: "192.0.2.1".into(),
            ..Ask::default()
        }
    }

    /// A `GET`.
    pub fn get(path: &str) -> Ask {
        Ask::new("GET", path)
    }

    /// With this field, beside those of the same name.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Ask {
        self.headers.push((name.to_ascii_lowercase(), value.into()));
        self
    }

    /// With this attribute, as an earlier plugin would have set it.
    #[must_use]
    pub fn attr(mut self, name: &str, value: &str) -> Ask {
        self.attrs.retain(|(have, _)| have != name);
        self.attrs.push((name.into(), value.into()));
        self
    }

    /// Answered with this status.
    #[must_use]
    pub fn status(mut self, status: u16) -> Ask {
        self.status = status;
        self
    }

    /// Answered with this field.
    #[must_use]
    pub fn response_header(mut self, name: &str, value: &str) -> Ask {
        self.response_headers.push((name.to_ascii_lowercase(), value.into()));
        self
    }

    /// From this address.
    #[must_use]
    pub fn client(mut self, address: &str) -> Ask {
        self.client = address.into();
        self
    }

    /// On this route.
    #[must_use]
    pub fn route(mut self, name: &str) -> Ask {
        self.route = name.into();
        self
    }

    /// The head as the host would pass it to a plugin with these needs.
    pub fn request(&self, needs: &Rc<Needs>) -> Request {
        let facts = needs.request.iter().map(|fact| self.fact(fact, &self.headers)).collect();
        Request::new(needs.clone(), self.method.clone(), facts)
    }

    /// The answer's head as the host would pass it.
    pub fn response(&self, needs: &Rc<Needs>) -> Response {
        let facts = needs.response.iter().map(|fact| self.fact(fact, &self.response_headers)).collect();
        Response::new(needs.clone(), self.status, facts)
    }

    fn fact(&self, fact: &Fact, headers: &[(String, String)]) -> Option<String> {
        match fact {
            Fact::Path => Some(self.path.clone()),
            Fact::Query => self.query.clone(),
            Fact::Authority => Some(self.authority.clone()),
            Fact::Scheme => Some(self.scheme.clone()),
            Fact::Peer => Some(self.client.clone()),
            Fact::Route => Some(self.route.clone()),
            Fact::Header(name) => Ask::joined(headers, name),
            Fact::Attr(name) => Ask::joined(&self.attrs, name),
        }
    }

    /// Several values of one name, joined by ", ".
    pub(crate) fn joined(pairs: &[(String, String)], name: &str) -> Option<String> {
        let mut values = pairs.iter().filter(|(have, _)| have == name).map(|(_, value)| value.as_str());
        let mut joined = values.next()?.to_string();
        for value in values {
            joined.push_str(", ");
            joined.push_str(value);
        }
        Some(joined)
    }
}

/// A plugin in its test bench.
#[derive(Debug)]
pub struct Bench<P> {
    /// The plugin.
    pub plugin: P,
    /// What it asked for.
    pub needs: Rc<Needs>,
}

/// Makes an instance as the host would.
///
/// # Errors
/// What the plugin says of its configuration.
pub fn configure<P: Plugin>(config: &str) -> Result<Bench<P>, String> {
    world(|world| {
        world.config = config.into();
        // As with the host: there is no exchange yet.
        world.ask = None;
    });
    let plugin = P::configure(config)?;
    let needs = Rc::new(plugin.needs());
    Ok(Bench { plugin, needs })
}

/// A plugin without configuration.
pub fn plain<P>(plugin: P) -> Bench<P> {
    Bench { plugin, needs: Rc::default() }
}

impl<P> Bench<P> {
    fn during<T>(ask: &Ask, question: impl FnOnce() -> T) -> T {
        world(|world| world.ask = Some(ask.clone()));
        let answer = question();
        world(|world| world.ask = None);
        answer
    }
}

impl<P: Auth> Bench<P> {
    /// [`Auth::check`].
    pub fn check(&self, ask: &Ask) -> Decision {
        Self::during(ask, || self.plugin.check(&ask.request(&self.needs)))
    }
}

impl<P: Route> Bench<P> {
    /// [`Route::pick`].
    pub fn pick(&self, ask: &Ask) -> Option<Target> {
        Self::during(ask, || self.plugin.pick(&ask.request(&self.needs)))
    }
}

impl<P: Filter> Bench<P> {
    /// [`Filter::on_request`].
    pub fn on_request(&self, ask: &Ask) -> Decision {
        Self::during(ask, || self.plugin.on_request(&ask.request(&self.needs)))
    }

    /// [`Filter::on_response`].
    pub fn on_response(&self, ask: &Ask) -> Edits {
        Self::during(ask, || self.plugin.on_response(&ask.response(&self.needs)))
    }
}

impl<P: Degrade> Bench<P> {
    /// [`Degrade::on_fault`].
    pub fn on_fault(&self, ask: &Ask, fault: &Fault) -> Instead {
        Self::during(ask, || self.plugin.on_fault(&ask.request(&self.needs), fault))
    }
}

/// Begins a new world: real clock, empty store, no services, nothing counted.
pub fn reset() {
    world(|world| *world = World::default());
}

/// Stops the clock here. `monotonic_ns` follows it.
pub fn set_now_ms(now: u64) {
    world(|world| world.now_ms = Some(now));
}

/// Seeds the random numbers.
pub fn seed(seed: u64) {
    world(|world| world.random = seed);
}

/// Puts a value into the plugin's store.
///
/// # Errors
/// Key or value beyond its bound.
pub fn kv_set(key: &str, value: impl AsRef<[u8]>) -> Result<(), kv::Error> {
    kv::set(key, value.as_ref(), None)
}

/// Takes the store away, or brings it back.
pub fn kv_down(down: bool) {
    world(|world| world.kv_down = down);
}

/// Answers a plugin's calls to this service.
pub fn serve(service: &str, answer: impl FnMut(&http::Request) -> Result<http::Response, http::Error> + 'static) {
    world(|world| world.services.insert(service.into(), Box::new(answer)));
}

/// Lines logged so far.
pub fn lines() -> Vec<(log::Level, String)> {
    world(|world| world.lines.clone())
}

/// A counter of the plugin's own.
pub fn counts(name: &str) -> u64 {
    world(|world| world.counts.get(name).copied().unwrap_or_default())
}

/// Calls to the host so far. Each costs 0.1 to 0.2 us in a component, so a test may promise few.
pub fn host_calls() -> u64 {
    world(|world| world.calls)
}

/// Nanoseconds for one call of `question`, as the median of many short series: a neighbour on the machine spoils some
/// of them, not the median.
pub fn ns_per_call<T>(mut question: impl FnMut() -> T) -> f64 {
    const SERIES: usize = 101;
    const CALLS: u32 = 1000;
    let mut series: Vec<f64> = (0..SERIES)
        .map(|_| {
            let start = std::time::Instant::now();
            for _ in 0..CALLS {
                std::hint::black_box(question());
            }
            start.elapsed().as_nanos() as f64 / f64::from(CALLS)
        })
        .collect();
    series.sort_by(f64::total_cmp);
    series.get(SERIES / 2).copied().unwrap_or_default()
}
