//! Services, checked.

use super::*;
pub use wharf_http::client::Speaks;
use wharf_http::tls::client::{Client, Demand};
use wharf_upstream::balance::latency::Weighing;
use wharf_upstream::retry::{Backoff, Causes, Statuses};
use wharf_upstream::{BreakerPolicy, EjectionPolicy, Key, LimiterPolicy, Policy as Balance, Sticky};

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
    /// Connections kept ready to one endpoint, over all cores.
    pub connections_warm: u32,
    /// What may be asked of it.
    pub rates: Vec<RateLimit>,
    /// Tries beyond the first.
    pub retries_max: u32,
    /// Retries over calls, 0 to 1.
    pub retry_share_max: f64,
    /// What of that which is safe to try again is tried again.
    pub retry_causes: Causes,
    /// Answers that are tried again.
    pub retry_statuses: Statuses,
    /// Bounds one try.
    pub per_try: Option<Duration>,
    /// The wait before a second try.
    pub backoff: Option<Backoff>,
    /// A second try beside the first.
    pub hedge_after: Option<Duration>,
    /// Without an endpoint for the wanted tag, use all.
    pub subset_fallback: bool,
    /// What keyed policies choose by.
    pub key: Key,
    /// A prime.
    pub maglev_slots: u32,
    /// What latencies are weighed by.
    pub weighing: Weighing,
    /// Who has been served by an endpoint goes on there.
    pub sticky: Option<Sticky>,
    /// Zero: none.
    pub slow_start: Duration,
    /// 0 to 1.
    pub zone_enough: f64,
    /// 0 to 1.
    pub panic_below: f64,
    /// Checks of its endpoints.
    pub health: Option<Health>,
    /// Who is left out.
    pub ejection: EjectionPolicy,
    /// Its breaker.
    pub breaker: Option<BreakerPolicy>,
    /// Calls in flight at once.
    pub in_flight_max: Option<u32>,
    /// Its adaptive limit.
    pub limiter: Option<LimiterPolicy>,
}

/// Checks of a service's endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// What is asked.
    pub check: Check,
    /// By TLS, as calls are.
    pub tls: bool,
    /// From one check to the next.
    pub interval: Duration,
    /// For one check.
    pub timeout: Duration,
    /// Good ones in a row.
    pub healthy: u32,
    /// Bad ones in a row.
    pub unhealthy: u32,
}

/// What endpoints are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// A connection.
    Tcp,
    /// A GET.
    Http {
        /// With its query.
        path: Box<str>,
        /// `None`: the endpoint's address.
        host: Option<Box<str>>,
        /// Empty: 200 to 299.
        statuses: Vec<u16>,
        /// To be found in the body.
        body: Option<Box<str>>,
    },
    /// The gRPC health service, about this one.
    Grpc(Box<str>),
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

/// TLS to the endpoints of a service; see [`Tls`].
#[derive(Clone)]
pub struct ServiceTls {
    /// What is asked of them.
    pub demand: Demand,
    /// The same, ready to call.
    pub client: Arc<Client>,
}

impl fmt::Debug for ServiceTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the key.
        f.debug_struct("ServiceTls").field("name", &self.demand.name).finish_non_exhaustive()
    }
}

impl PartialEq for ServiceTls {
    fn eq(&self, other: &ServiceTls) -> bool {
        self.demand == other.demand
    }
}

impl Eq for ServiceTls {}
