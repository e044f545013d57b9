//! What a checked configuration says: plain values for the rooms. No serde, no option that only means "the default".
//!
//! Everything that is named here exists: a plan with a route to an unknown service cannot be made.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use wharf_core::outlet::CallLimits;
pub use wharf_http::house::Cidr;
pub use wharf_http::routes::{HostPattern, RouteMatch};

mod ferry;
mod listener;
mod plugin;
mod route;
mod service;
mod telemetry;

pub use ferry::*;
pub use listener::*;
pub use plugin::*;
pub use route::*;
pub use service::*;
pub use telemetry::*;

/// The whole configuration.
#[derive(Clone, Debug)]
pub struct Plan {
    /// This process.
    pub node: Node,
    /// Where it stands. Apart from the rest of the node: it may change while it runs.
    pub zone: Option<Box<str>>,
    /// Threads that serve requests.
    pub workers: usize,
    /// What the gateway says about itself.
    pub log: Log,
    /// How records of requests are written.
    pub access_log: AccessLog,
    /// Which are.
    pub recording: Recording,
    /// Traces, if there are any.
    pub traces: Option<Traces>,
    /// At least one.
    pub listeners: Vec<Listener>,
    /// The admin API.
    pub admin: Admin,
    /// Where messages go.
    pub buses: Vec<Bus>,
    /// Requests as messages.
    pub ferry: Ferry,
    /// In the order of the file.
    pub services: Vec<Service>,
    /// In the order of the file.
    pub plugins: Vec<Plugin>,
    /// In the order of the file, which is the order that [`RouteMatch`]es are to be compiled in.
    pub routes: Vec<Route>,
    /// How errors are said to requests that match no route.
    pub unmatched_envelope: Option<Arc<wharf_http::envelope::Envelope>>,
}

impl Plan {
    /// The rate limits of all routes and services. One that has a name is met wherever it is named.
    pub fn rate_limits(&self) -> impl Iterator<Item = &RateLimit> {
        let of_routes = self.routes.iter().flat_map(|route| &route.limits);
        of_routes.chain(self.services.iter().flat_map(|service| &service.rates))
    }

    /// Would it serve in the same way?
    pub fn is_like(&self, other: &Plan) -> bool {
        // What is secret is not shown, and compared by itself.
        format!("{self:?}") == format!("{other:?}")
            && self.listeners.iter().map(|listener| &listener.tls).eq(other.listeners.iter().map(|listener| &listener.tls))
            && self.services.iter().map(|service| &service.tls).eq(other.services.iter().map(|service| &service.tls))
    }
}

/// This process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// In logs and metrics.
    pub name: Arc<str>,
    /// Folder for everything that outlives the process.
    pub state_dir: PathBuf,
    /// Memory that the process may use, bytes; `None`: what the machine or the container has.
    pub memory_max: Option<u64>,
    /// How long it serves on as before when the process is told to end, but says that it is not ready.
    pub drain_delay: Duration,
    /// How long exchanges in flight may take to end when the process is told to end, after that delay.
    pub drain: Duration,
    /// The same after an upgrade.
    pub drain_on_upgrade: Duration,
}

/// What the gateway says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// A directive of `tracing_subscriber::EnvFilter`; known to parse.
    pub level: String,
    /// JSON instead of text.
    pub json: bool,
}

/// The admin API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// What is bound.
    pub bind: SocketAddr,
    /// Host and port to tell others; `None`: what was bound.
    pub advertise: Option<Box<str>>,
    /// Where its token is kept.
    pub token_file: PathBuf,
}

/// The host and port to tell others, for a listener that was bound to `bound`: what the file says, else the bound
/// address, else (bound to all addresses) the first address of this host that others could reach.
pub fn advertised(given: Option<&str>, bound: SocketAddr, own: &[IpAddr]) -> String {
    if let Some(given) = given {
        return given.to_owned();
    }
    if !bound.ip().is_unspecified() {
        return bound.to_string();
    }
    let same_family = |address: &&IpAddr| bound.is_ipv6() || address.is_ipv4();
    let outside = own.iter().filter(same_family).find(|address| !address.is_loopback());
    let address = outside.copied().unwrap_or(IpAddr::from([127, 0, 0, 1]));
    SocketAddr::new(address, bound.port()).to_string()
}
