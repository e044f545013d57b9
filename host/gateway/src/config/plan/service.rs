//! Services, checked.

use super::*;
pub use wharf_http::client::Speaks;
use wharf_http::tls::client::{Client, Demand};

/// A named upstream.
#[derive(Clone, Debug)]
pub struct Service {
    /// Unique.
    pub name: Arc<str>,
    /// Where its endpoints come from.
    pub source: Source,
    /// What they speak.
    pub speaks: Speaks,
    /// TLS to them, if it is on.
    pub tls: Option<ServiceTls>,
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

/// TLS to the endpoints of a service; see [`Tls`].
#[derive(Clone)]
pub struct ServiceTls {
    /// What is asked of them.
    pub demand: Demand,
    /// The same, ready to call.
    pub client: Arc<Client>,
    /// The files it was read from.
    pub files: Vec<PathBuf>,
}

impl fmt::Debug for ServiceTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the key.
        f.debug_struct("ServiceTls").field("name", &self.demand.name).field("files", &self.files).finish()
    }
}

impl PartialEq for ServiceTls {
    fn eq(&self, other: &ServiceTls) -> bool {
        self.demand == other.demand
    }
}

impl Eq for ServiceTls {}
