//! What a service's calls are bounded by. Plain values; the gateway fills them from the file, with the units in names there.

use crate::balance::Policy;
use crate::retry::RetryPolicy;
use wharf_core::outlet::CallLimits;

/// How one service is called. A new generation brings a new one; what is counted lives on.
#[derive(Clone, Debug, Default)]
pub struct OutletConfig {
    /// Who is chosen.
    pub policy: Policy,
    /// Bounds of one try; the protocol keeps them.
    pub limits: CallLimits,
    /// What is tried again.
    pub retry: RetryPolicy,
    /// Calls of this service in flight over all cores, bodies included. `None`: only the listeners' limits hold.
    pub in_flight_max: Option<u32>,
    /// What a wish for a tag means that no endpoint has.
    pub subset_missing: SubsetMissing,
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
