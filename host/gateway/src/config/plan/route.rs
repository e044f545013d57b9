//! Routes, checked.

use super::*;

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
    /// Its breaker, whatever service it leads to.
    pub breaker: Option<wharf_upstream::BreakerPolicy>,
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
