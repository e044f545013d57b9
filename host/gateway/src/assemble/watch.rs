//! What is watched of a route's exchanges, on one core: traces, copies of bodies, which of them are recorded.

use super::{Generation, Home};
use crate::config::plan::{self, LogTarget};
use crate::telemetry::traces::Traced;
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;
use wharf_core::metrics::Registry;
use wharf_http::capture::{Budget, Capture};
use wharf_http::routes::PathPattern;
use wharf_http::watch::{Tracer, Watch};

/// The memory for copies of bodies.
pub(super) fn budget(metrics: &Registry) -> Arc<Budget> {
    let help = "bodies of which no copy was made for the record, for want of memory";
    Arc::new(Budget::new(0, metrics.count("wharf_capture_dropped_total", help, &[])))
}

/// What is watched of a route; of requests that match none without one. `None`: nothing.
pub(super) fn of(generation: &Generation, home: &Home, route: Option<&plan::Route>) -> Option<Rc<Watch>> {
    let plan = &generation.plan;
    let recording = &plan.recording;
    let is_recorded = plan.access_log.target != LogTarget::Off;
    let sampling = route.map_or(&recording.sampling, |route| &route.sampling).clone();
    let capture = route.and_then(|route| route.capture.as_ref()).filter(|_| is_recorded);
    // Who may be told ids by a proxy has to look for them.
    let is_told = is_recorded && plan.listeners.iter().any(|listener| !listener.trusted_proxies.is_empty());
    let records = is_recorded && (recording.two || !sampling.takes_all());
    if plan.traces.is_none() && capture.is_none() && !is_told && !records {
        return None;
    }
    let tracer = plan.traces.as_ref().map(|traces| {
        let by_tls: HashSet<Arc<str>> =
            plan.services.iter().filter(|service| service.tls.is_some()).map(|service| service.name.clone()).collect();
        let redact = Arc::new(plan.access_log.redact.clone());
        let traced = Traced::new(home.number.into(), generation.outbox.clone(), redact, Arc::new(by_tls));
        Tracer { share: traces.share, route_path: route.and_then(|route| path_of(&route.matches.path)), traces: Rc::new(traced) }
    });
    let capture = capture.map(|capture| Capture {
        request: capture.request,
        response: capture.response,
        bytes_max: capture.bytes_max,
        types: capture.types.clone(),
        budget: generation.budget.clone(),
    });
    Some(Rc::new(Watch { tracer, capture, sampling, two: recording.two }))
}

/// The path of a route as its pattern is written. Of few values: it becomes the name of spans.
fn path_of(path: &PathPattern) -> Option<Arc<str>> {
    match path {
        PathPattern::Exact(path) => Some(path.as_ref().into()),
        PathPattern::Prefix(path) => Some(format!("{}/*", path.trim_end_matches('/')).into()),
        PathPattern::Template(template) => Some(template.to_string().into()),
        PathPattern::Regex(_) => None,
    }
}
