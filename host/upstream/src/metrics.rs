//! The room's metrics: names, units, labels. Labels are services, their endpoints' addresses and the words below.
//!
//! Counters belong to one core and are made when they are first needed: an endpoint that never resets has no series for
//! resets. Levels are set once a second by the service's watcher.

use crate::service::Guards;
use crate::standing::{Outcome, Standing};
use std::cell::OnceCell;
use std::sync::{Arc, OnceLock};
use wharf_core::fault::Fault;
use wharf_core::metrics::{Count, Level, Registry, Times};

const CALLS: &str = "wharf_upstream_calls_total";
const CALLS_HELP: &str = "Tries by endpoint and outcome: the class of the status, the word of the fault, or `unjudged`, if it failed while its client was still sending.";
const HEAD: &str = "wharf_upstream_head_seconds";
const HEAD_HELP: &str =
    "From the start of a try, or from the last byte of a body that was passed on while it came, to the head of its answer.";
const RETRIES: &str = "wharf_upstream_retries_total";
const RETRIES_HELP: &str = "Calls tried again.";
const EXHAUSTED: &str = "wharf_upstream_retry_budget_exhausted_total";
const EXHAUSTED_HELP: &str = "Retries not made because the service's retry budget was used up.";
const REFUSED: &str = "wharf_upstream_refused_total";
const REFUSED_HELP: &str = "Calls refused before a try: no endpoint, or the service's in_flight_max.";

const CHECKS: &str = "wharf_upstream_checks_total";
const CHECKS_HELP: &str = "Health checks that have ended.";

/// What a try can end in. The last one is for words that are not listed, so that the label stays a bounded set.
const OUTCOMES: [&str; 18] = [
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
    "unjudged",
    "other",
];
const CANCELLED: usize = 5;
/// Failed while its client was still sending: nobody knows whose fault it was.
const UNJUDGED: usize = 16;

/// What an outcome says of the endpoint; `None`: nothing.
fn says(outcome: &str) -> Option<Outcome> {
    match outcome {
        "1xx" | "2xx" | "3xx" | "4xx" => Some(Outcome::Good),
        "5xx" | "connect" | "timeout_connect" | "timeout_head" | "reset" | "bad_answer" => Some(Outcome::Bad),
        _ => None,
    }
}

/// The counters of one endpoint on one core.
pub(crate) struct EndpointCounts {
    registry: Arc<Registry>,
    service: Arc<str>,
    endpoint: String,
    standing: Arc<Standing>,
    calls: [OnceCell<Arc<Count>>; OUTCOMES.len()],
}

impl EndpointCounts {
    pub(crate) fn new(registry: Arc<Registry>, service: Arc<str>, endpoint: String, standing: Arc<Standing>) -> EndpointCounts {
        EndpointCounts { registry, service, endpoint, standing, calls: Default::default() }
    }

    pub(crate) fn answered(&self, status: u16) {
        self.add(usize::from((status / 100).clamp(1, 5)) - 1);
    }

    pub(crate) fn failed(&self, fault: &Fault) {
        let word = fault.word();
        self.add(OUTCOMES.iter().position(|outcome| *outcome == word).unwrap_or(OUTCOMES.len() - 1));
    }

    pub(crate) fn unjudged(&self) {
        self.add(UNJUDGED);
    }

    pub(crate) fn cancelled(&self) {
        self.add(CANCELLED);
    }

    fn add(&self, outcome: usize) {
        let (Some(cell), Some(word)) = (self.calls.get(outcome), OUTCOMES.get(outcome)) else { return };
        cell.get_or_init(|| self.first(word)).add(1);
    }

    #[cold]
    fn first(&self, word: &'static str) -> Arc<Count> {
        let count = self.registry.count(CALLS, CALLS_HELP, &self.labels(word));
        if let Some(outcome) = says(word) {
            self.standing.count_in(outcome, Arc::downgrade(&count));
        }
        count
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
    /// Only services that hedge have series for it.
    hedges: OnceCell<Hedges>,
}

/// Second tries beside the first.
pub(crate) struct Hedges {
    pub(crate) made: Arc<Count>,
    pub(crate) won: Arc<Count>,
}

impl ServiceCounts {
    pub(crate) fn hedges(&self, registry: &Registry, service: &str) -> &Hedges {
        self.hedges.get_or_init(|| Hedges {
            made: registry.count("wharf_upstream_hedges_total", "Second tries made beside a first that was late.", &[("service", service)]),
            won: registry.count("wharf_upstream_hedges_won_total", "Of these, those that answered first.", &[("service", service)]),
        })
    }

    pub(crate) fn new(registry: &Registry, service: &str) -> ServiceCounts {
        let labels = [("service", service)];
        ServiceCounts {
            head: registry.times(HEAD, HEAD_HELP, &labels),
            retries: registry.count(RETRIES, RETRIES_HELP, &labels),
            exhausted: registry.count(EXHAUSTED, EXHAUSTED_HELP, &labels),
            refused: registry.count(REFUSED, REFUSED_HELP, &labels),
            hedges: OnceCell::new(),
        }
    }
}

/// The levels of one service, house-wide.
pub(crate) struct ServiceLevels {
    pub(crate) endpoints: Arc<Level>,
    pub(crate) listing_age: Arc<Level>,
    pub(crate) listing_trouble: Arc<Level>,
    pub(crate) fit: Arc<Level>,
    pub(crate) panic: Arc<Level>,
    pub(crate) ejections: Arc<Count>,
    pub(crate) checks_good: Arc<Count>,
    pub(crate) checks_bad: Arc<Count>,
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
            fit: registry.level("wharf_upstream_endpoints_used", "Endpoints that get calls.", &labels),
            panic: registry.level("wharf_upstream_panic", "1 while so few endpoints are fit that all are used, ill or not.", &labels),
            ejections: registry.count("wharf_upstream_ejections_total", "Endpoints left out for what their calls came to.", &labels),
            checks_good: registry.count(CHECKS, CHECKS_HELP, &[("service", service), ("outcome", "good")]),
            checks_bad: registry.count(CHECKS, CHECKS_HELP, &[("service", service), ("outcome", "bad")]),
        }
    }
}

/// The levels of one endpoint, house-wide.
pub(crate) struct EndpointLevels {
    pub(crate) in_flight: Arc<Level>,
    pub(crate) connections: Arc<Level>,
    pub(crate) fit: Arc<Level>,
    pub(crate) ejected: Arc<Level>,
    /// Only where latencies are compared.
    latency: OnceLock<Arc<Level>>,
}

impl EndpointLevels {
    pub(crate) fn new(registry: &Registry, service: &str, endpoint: &str) -> EndpointLevels {
        let labels = [("service", service), ("endpoint", endpoint)];
        EndpointLevels {
            in_flight: registry.level(
                "wharf_upstream_in_flight",
                "Calls in flight; streamed bodies are included where the policy compares them, and under in_flight_max.",
                &labels,
            ),
            connections: registry.level("wharf_upstream_connections", "Connections open.", &labels),
            fit: registry.level("wharf_upstream_endpoint_fit", "1: well, in and wanted; 0: it gets no calls.", &labels),
            ejected: registry.level("wharf_upstream_endpoint_ejected", "1 while it is left out for what its calls came to.", &labels),
            latency: OnceLock::new(),
        }
    }

    pub(crate) fn latency(&self, registry: &Registry, service: &str, endpoint: &str) -> &Level {
        let labels = [("service", service), ("endpoint", endpoint)];
        self.latency.get_or_init(|| {
            registry.level("wharf_upstream_latency_estimate_microseconds", "What a call is expected to take, failures included.", &labels)
        })
    }
}

/// The series of one breaker.
pub(crate) struct BreakerLevels {
    pub(crate) state: Arc<Level>,
    pub(crate) opened: Arc<Count>,
    pub(crate) refused: Arc<Count>,
}

impl BreakerLevels {
    pub(crate) fn new(registry: &Registry, guards: Guards, name: &str) -> BreakerLevels {
        let labels = [("guards", guards.as_str()), ("name", name)];
        BreakerLevels {
            state: registry.level("wharf_breaker_state", "0 closed, 1 half open, 2 open.", &labels),
            opened: registry.count("wharf_breaker_opened_total", "Times that it has opened.", &labels),
            refused: registry.count("wharf_breaker_refused_total", "Calls that it refused.", &labels),
        }
    }
}

/// The series of one adaptive limit.
pub(crate) struct LimiterLevels {
    pub(crate) limit: Arc<Level>,
    pub(crate) refused: Arc<Count>,
}

impl LimiterLevels {
    pub(crate) fn new(registry: &Registry, service: &str) -> LimiterLevels {
        let labels = [("service", service)];
        LimiterLevels {
            limit: registry.level("wharf_adaptive_concurrency_limit", "Calls that may be in flight now.", &labels),
            refused: registry.count("wharf_adaptive_concurrency_refused_total", "Calls refused because so many were.", &labels),
        }
    }
}
