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

/// The whole configuration.
#[derive(Clone, Debug)]
pub struct Plan {
    /// This process.
    pub node: Node,
    /// Threads that serve requests.
    pub workers: usize,
    /// What the gateway says about itself.
    pub log: Log,
    /// One line for each request.
    pub access_log: AccessLog,
    /// At least one.
    pub listeners: Vec<Listener>,
    /// The admin API.
    pub admin: Admin,
    /// In the order of the file.
    pub services: Vec<Service>,
    /// In the order of the file.
    pub plugins: Vec<Plugin>,
    /// In the order of the file, which is the order that [`RouteMatch`]es are to be compiled in.
    pub routes: Vec<Route>,
}

/// This process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// In logs and metrics.
    pub name: Arc<str>,
    /// Folder for everything that outlives the process.
    pub state_dir: PathBuf,
}

/// What the gateway says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// A directive of `tracing_subscriber::EnvFilter`; known to parse.
    pub level: String,
    /// JSON instead of text.
    pub json: bool,
}

/// Where the access log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// Nowhere: nothing is formatted.
    Off,
    /// Standard output.
    Stdout,
    /// This file, appended to.
    File(PathBuf),
}

impl fmt::Display for LogTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogTarget::Off => f.write_str("off"),
            LogTarget::Stdout => f.write_str("on standard output"),
            LogTarget::File(path) => path.display().fmt(f),
        }
    }
}

/// One line for each request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLog {
    /// Where it goes.
    pub target: LogTarget,
    /// Query arguments whose values are never written, lower case.
    pub redact_query: Vec<Box<str>>,
}

/// A bound address and its limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Unique.
    pub name: Arc<str>,
    /// What is bound; port 0 is any free one.
    pub bind: SocketAddr,
    /// Host and port to tell others; `None`: what was bound (see [`advertised`]).
    pub advertise: Option<Box<str>>,
    /// Networks whose forwarded fields are believed.
    pub trusted_proxies: Vec<Cidr>,
    /// Over all cores.
    pub connections_max: u32,
    /// Request line and fields.
    pub head_bytes_max: usize,
    /// Fields in a head.
    pub fields_max: usize,
    /// For a whole head.
    pub head_timeout: Duration,
    /// Between two pieces of a body, and for a client that does not read.
    pub body_timeout: Duration,
    /// Idle between two requests.
    pub keep_alive: Duration,
    /// A tunnel or an event stream in which nothing moves.
    pub quiet: Duration,
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

/// A named upstream.
#[derive(Clone, Debug)]
pub struct Service {
    /// Unique.
    pub name: Arc<str>,
    /// Where its endpoints come from.
    pub source: Source,
    /// How one is chosen.
    pub balance: Balance,
    /// Bounds of one call.
    pub limits: CallLimits,
    /// Tries beyond the first.
    pub retries_max: u32,
    /// Retries over calls, 0 to 1.
    pub retry_share_max: f64,
    /// Without an endpoint for the wanted tag, use all.
    pub subset_fallback: bool,
}

/// Where endpoints come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The file.
    Fixed(Vec<Endpoint>),
    /// A name that is asked again and again.
    Dns {
        /// The name.
        name: Box<str>,
        /// The port.
        port: u16,
        /// How often it is asked.
        refresh: Duration,
    },
}

/// One instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// 0 to 1,000,000.
    pub weight: u32,
    /// Where it stands.
    pub zone: Option<Box<str>>,
    /// What it is good for.
    pub tags: Vec<Box<str>>,
}

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the words are those of the file, where they are explained")]
pub enum Balance {
    RoundRobin,
    Weighted,
    LeastRequest,
}

/// A plugin that may be attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugin {
    /// Unique.
    pub name: Arc<str>,
    /// A component to load if the catalog has no version.
    pub file: Option<PathBuf>,
    /// The key-value store, if granted.
    pub kv: Option<Kv>,
    /// Names of the services it may call; empty: not granted.
    pub http_services: Vec<Arc<str>>,
    /// What it may use up.
    pub limits: PluginLimits,
}

/// Use of the key-value store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kv {
    /// What separates its keys from others'.
    pub namespace: Arc<str>,
    /// Keys and values together.
    pub bytes_max: u64,
    /// Keys.
    pub keys_max: u64,
}

/// What a plugin may use up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginLimits {
    /// Wall clock for one call, host calls included.
    pub deadline: Duration,
    /// Memory of one instance.
    pub memory_bytes_max: u64,
    /// Calls at once, over all cores.
    pub concurrency_max: u32,
    /// For each core.
    pub log_lines_per_second: u32,
    /// In one call.
    pub host_calls_max: u32,
    /// Calls of one instance.
    pub recycle_after_calls: u32,
    /// A fresh instance for every call.
    pub fresh_per_call: bool,
    /// This many faults ...
    pub faults_max: u32,
    /// ... within this time bring back the last good version.
    pub faults_within: Duration,
}

/// What a request must look like, and what happens to it.
#[derive(Clone, Debug)]
pub struct Route {
    /// Unique.
    pub name: Arc<str>,
    /// What a request must look like.
    pub matches: RouteMatch,
    /// Where it goes.
    pub target: Target,
    /// From the head of the request to the end of the answer.
    pub whole_timeout: Duration,
    /// Largest request body.
    pub body_bytes_max: u64,
    /// Try again what is safe.
    pub retries: bool,
    /// Upstream statuses that count as faults for degrade plugins.
    pub degrade_statuses: Vec<u16>,
    /// Taken off the path that is sent upstream: a canonical path without `/` at its end.
    pub strip_prefix: Option<Box<str>>,
    /// Send the client's `host` upstream.
    pub preserve_host: bool,
    /// The attachments in the order they are asked: global, host, route, service; within each by `order`, then as written.
    /// For hosts of which `host_chains` knows nothing.
    pub chain: Vec<Attachment>,
    /// Chains for hosts that have attachments of their own; the most specific pattern counts
    /// (`wharf_http::routes::HostTable`). Empty where the host makes no difference.
    pub host_chains: Vec<(HostPattern, Vec<Attachment>)>,
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// To this service.
    Service {
        /// Its name.
        name: Arc<str>,
        /// Only to endpoints with this tag.
        subset: Option<Box<str>>,
    },
    /// Where this route plugin says; it may name any service.
    Plugin(Attachment),
    /// Nowhere: this is the answer.
    Answer(Answer),
}

/// An answer that needs no upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// 200 to 599.
    pub status: u16,
    /// Fields, names in lower case.
    pub headers: Vec<(Box<str>, Box<str>)>,
    /// The body.
    pub body: Box<str>,
}

/// A plugin in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The plugin's name.
    pub plugin: Arc<str>,
    /// `None`: every role that the active component answers, but `route`.
    pub role: Option<Role>,
    /// JSON text; `{}` where the file has none. One plugin with equal texts is one configured version.
    pub config: Arc<str>,
    /// `None`: what is usual for the role (`auth`, `filter`, `route`: closed; `degrade`: open).
    pub policy: Option<Policy>,
    /// As written.
    pub order: i32,
    /// Where it is attached.
    pub level: Level,
}

/// Where a plugin is attached, in the order they are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each name is the place")]
pub enum Level {
    Global,
    Host,
    Route,
    Service,
}

/// The question that a plugin answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "each name is the WIT package")]
pub enum Role {
    Auth,
    Route,
    Filter,
    Degrade,
}

impl Role {
    /// The word in the file and in WIT.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Auth => "auth",
            Role::Route => "route",
            Role::Filter => "filter",
            Role::Degrade => "degrade",
        }
    }
}

/// What a plugin's failure means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the words are those of the file, where they are explained")]
pub enum Policy {
    Closed,
    Open,
    LastGood,
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
