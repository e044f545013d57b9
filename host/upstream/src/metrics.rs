//! The room's metrics: names, units, labels. Labels are services, their endpoints' addresses and the words below.
//!
//! Counters belong to one core and are made when they are first needed: an endpoint that never resets has no series for
//! resets. Levels are set once a second by the service's watcher.

use std::cell::OnceCell;
use std::sync::Arc;
use wharf_core::fault::Fault;
use wharf_core::metrics::{Count, Level, Registry, Times};

const CALLS: &str = "wharf_upstream_calls_total";
const CALLS_HELP: &str = "Tries by endpoint and outcome: the class of the status, or the word of the fault.";
const HEAD: &str = "wharf_upstream_head_seconds";
const HEAD_HELP: &str = "From the start of a try to the head of its answer.";
const RETRIES: &str = "wharf_upstream_retries_total";
const RETRIES_HELP: &str = "Calls tried again.";
const EXHAUSTED: &str = "wharf_upstream_retry_budget_exhausted_total";
const EXHAUSTED_HELP: &str = "Retries not made because the service's retry budget was used up.";
const REFUSED: &str = "wharf_upstream_refused_total";
const REFUSED_HELP: &str = "Calls refused before a try: no endpoint, or the service's in_flight_max.";

/// What a try can end in. The last one is for words that are not listed, so that the label stays a bounded set.
const OUTCOMES: [&str; 17] = [
    "1xx",
    "2xx",
    "3xx",
    "4xx",
    "5xx",
    "cancelled",
    "connect",
    "timeout_connect",
    "timeout_head",
    "timeout_body",
    "timeout_whole",
    "reset",
    "bad_answer",
    "overload",
    "client_gone",
    "body_too_large",
    "other",
];
const CANCELLED: usize = 5;

/// The counters of one endpoint on one core.
pub(crate) struct EndpointCounts {
    registry: Arc<Registry>,
    service: Arc<str>,
    endpoint: String,
    calls: [OnceCell<Arc<Count>>; OUTCOMES.len()],
}

impl EndpointCounts {
    pub(crate) fn new(registry: Arc<Registry>, service: Arc<str>, endpoint: String) -> EndpointCounts {
        EndpointCounts { registry, service, endpoint, calls: Default::default() }
    }

    pub(crate) fn answered(&self, status: u16) {
        self.add(usize::from((status / 100).clamp(1, 5)) - 1);
    }

    pub(crate) fn failed(&self, fault: &Fault) {
        let word = fault.word();
        self.add(OUTCOMES.iter().position(|outcome| *outcome == word).unwrap_or(OUTCOMES.len() - 1));
    }

    pub(crate) fn cancelled(&self) {
        self.add(CANCELLED);
    }

    fn add(&self, outcome: usize) {
        let (Some(cell), Some(word)) = (self.calls.get(outcome), OUTCOMES.get(outcome)) else { return };
        cell.get_or_init(|| self.registry.count(CALLS, CALLS_HELP, &self.labels(word))).add(1);
    }

    fn labels<'a>(&'a self, outcome: &'a str) -> [(&'a str, &'a str); 3] {
        [("service", &self.service), ("endpoint", &self.endpoint), ("outcome", outcome)]
    }
}

/// The counters of one service on one core.
pub(crate) struct ServiceCounts {
    pub(crate) head: Arc<Times>,
    pub(crate) retries: Arc<Count>,
    pub(crate) exhausted: Arc<Count>,
    pub(crate) refused: Arc<Count>,
}

impl ServiceCounts {
    pub(crate) fn new(registry: &Registry, service: &str) -> ServiceCounts {
        let labels = [("service", service)];
        ServiceCounts {
            head: registry.times(HEAD, HEAD_HELP, &labels),
            retries: registry.count(RETRIES, RETRIES_HELP, &labels),
            exhausted: registry.count(EXHAUSTED, EXHAUSTED_HELP, &labels),
            refused: registry.count(REFUSED, REFUSED_HELP, &labels),
        }
    }
}

/// The levels of one service, house-wide.
pub(crate) struct ServiceLevels {
    pub(crate) endpoints: Arc<Level>,
    pub(crate) listing_age: Arc<Level>,
    pub(crate) listing_trouble: Arc<Level>,
}

impl ServiceLevels {
    pub(crate) fn new(registry: &Registry, service: &str) -> ServiceLevels {
        let labels = [("service", service)];
        ServiceLevels {
            endpoints: registry.level("wharf_upstream_endpoints", "Endpoints known.", &labels),
            listing_age: registry.level(
                "wharf_upstream_listing_age_seconds",
                "Since the directory last confirmed the service's endpoints.",
                &labels,
            ),
            listing_trouble: registry.level(
                "wharf_upstream_listing_trouble",
                "1 while the directory cannot be asked and the last good listing serves.",
                &labels,
            ),
        }
    }
}

/// The levels of one endpoint, house-wide.
pub(crate) struct EndpointLevels {
    pub(crate) in_flight: Arc<Level>,
    pub(crate) connections: Arc<Level>,
}

impl EndpointLevels {
    pub(crate) fn new(registry: &Registry, service: &str, endpoint: &str) -> EndpointLevels {
        let labels = [("service", service), ("endpoint", endpoint)];
        EndpointLevels {
            in_flight: registry.level(
                "wharf_upstream_in_flight",
                "Calls in flight; streamed bodies are included under least request and in_flight_max.",
                &labels,
            ),
            connections: registry.level("wharf_upstream_connections", "Connections open.", &labels),
        }
    }
}
