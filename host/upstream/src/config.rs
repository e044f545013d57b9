//! What a service's calls are bounded by. Plain values; the gateway fills them from the file, with the units in names there.
//!
//! [`OutletConfig`] is how one core calls; [`Care`] is what the control runtime does for all cores: checks, ejections,
//! shares.

use crate::balance::Policy;
use crate::balance::hash::{Kind, MAGLEV_SLOTS};
use crate::balance::latency::Weighing;
use crate::retry::RetryPolicy;
use std::sync::Arc;
use std::time::Duration;
use wharf_core::outlet::{CallLimits, Probe};

/// How one service is called. A new generation brings a new one; what is counted lives on.
#[derive(Clone, Debug, Default)]
pub struct OutletConfig {
    /// Who is chosen.
    pub policy: Policy,
    /// What latencies are weighed by, where the policy compares them.
    pub weighing: Weighing,
    /// What the key is, where the policy chooses by one.
    pub key: Key,
    /// Who has been served by an endpoint goes on there.
    pub sticky: Option<Sticky>,
    /// Bounds of one try; the protocol keeps them.
    pub limits: CallLimits,
    /// What is tried again.
    pub retry: RetryPolicy,
    /// A second try beside the first, after so long without an answer; of what may be repeated only. `None`: never.
    pub hedge_after: Option<Duration>,
    /// Calls of this service in flight over all cores, bodies included. `None`: only the listeners' limits hold.
    pub in_flight_max: Option<u32>,
    /// What a wish for a tag means that no endpoint has.
    pub subset_missing: SubsetMissing,
}

/// What a call is told apart by. A call without it is balanced as without a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Key {
    /// The client's address.
    #[default]
    Client,
    /// The canonical path, without the query.
    Path,
    /// The value of this field; lower case.
    Header(Box<str>),
    /// The value of this cookie.
    Cookie(Box<str>),
    /// The value of this query argument, as it stands there.
    Query(Box<str>),
}

/// How a client tells where it was served before. What it tells is a number made from the endpoint's address; any other
/// text counts as nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sticky {
    /// By a cookie that the gateway gives it.
    Cookie {
        /// Its name.
        name: Box<str>,
        /// How long it lasts; `None`: as long as the client's session.
        ttl: Option<Duration>,
        /// Only over TLS.
        secure: bool,
    },
    /// By a field that the gateway's answers have, and that the client repeats; lower case.
    Header(Box<str>),
}

/// What a wish for a tag means that no endpoint has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SubsetMissing {
    /// Any endpoint will do: a gray release that has left must not fail its users.
    #[default]
    Any,
    /// Refuse: the tag stands for something that the others must not see.
    Refuse,
}

/// How a service's endpoints are looked after, for all cores.
#[derive(Clone)]
pub struct Care {
    /// The policy of its outlets: the tables of keyed ones are made once for all cores.
    pub policy: Policy,
    /// Slots of a Maglev table.
    pub maglev_slots: u32,
    /// A new or returned endpoint gets its whole share after so long. Zero: at once. Keyed policies take no notice.
    pub slow_start: Duration,
    /// Where this gateway stands; `None`: zones make no difference.
    pub zone: Option<Box<str>>,
    /// The part, 0 to 1, of an average zone's weight that is enough to serve all calls of this zone.
    pub zone_enough: f64,
    /// Below this part, 0 to 1, of fit endpoints all are used, ill or not. 0: the ill never are.
    pub panic_below: f64,
    /// Who fails is left out for a while.
    pub ejection: EjectionPolicy,
    /// Who answers checks badly is left out until it answers well.
    pub health: Option<HealthPolicy>,
}

impl Default for Care {
    fn default() -> Care {
        Care {
            policy: Policy::default(),
            maglev_slots: MAGLEV_SLOTS,
            slow_start: Duration::ZERO,
            zone: None,
            zone_enough: 0.7,
            panic_below: 0.25,
            ejection: EjectionPolicy::default(),
            health: None,
        }
    }
}

impl Care {
    pub(crate) fn table(&self) -> Option<Kind> {
        match self.policy {
            Policy::RingHash => Some(Kind::Ring),
            Policy::Maglev => Some(Kind::Maglev(self.maglev_slots)),
            _ => None,
        }
    }
}

/// When an endpoint is left out for what its calls came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EjectionPolicy {
    /// Failures in a row. 0: not for that.
    pub failures: u32,
    /// The part, 0 to 1, of tries within `window` that failed. `None`: not for that.
    pub rate: Option<f64>,
    /// Tries within `window` below which `rate` says nothing.
    pub rate_calls_min: u32,
    /// See `rate`; whole seconds, 1 to 60.
    pub window: Duration,
    /// The first time it is left out so long; each time again twice as long.
    pub base: Duration,
    /// But never longer than this.
    pub max: Duration,
    /// At most this part of the endpoints, 0 to 1, is left out at once.
    pub share_max: f64,
}

impl Default for EjectionPolicy {
    fn default() -> EjectionPolicy {
        EjectionPolicy {
            failures: 5,
            rate: None,
            rate_calls_min: 20,
            window: Duration::from_secs(10),
            base: Duration::from_secs(5),
            max: Duration::from_secs(300),
            share_max: 0.5,
        }
    }
}

/// How endpoints are asked whether they are well.
#[derive(Clone)]
pub struct HealthPolicy {
    /// What is asked.
    pub probe: Arc<dyn Probe>,
    /// From the start of one check to the next of the same endpoint, give or take a tenth.
    pub interval: Duration,
    /// For one check.
    pub timeout: Duration,
    /// Good checks in a row that make an ill endpoint well. 1 at least; the first check of an endpoint counts alone.
    pub healthy: u32,
    /// Bad checks in a row that make a well endpoint ill. 1 at least.
    pub unhealthy: u32,
}

impl HealthPolicy {
    pub(crate) fn is_same(&self, other: &HealthPolicy) -> bool {
        let bounds = |policy: &HealthPolicy| (policy.interval, policy.timeout, policy.healthy, policy.unhealthy);
        bounds(self) == bounds(other) && self.probe.what() == other.probe.what()
    }
}
