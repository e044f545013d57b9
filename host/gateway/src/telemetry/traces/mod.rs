//! Traces on their way to a collector of OpenTelemetry.
//!
//! A core puts what it has traced into an outbox and goes on; the control runtime looks into it twice a second
//! ([`export`]). What does not fit is dropped and counted. Nobody is woken for a trace: on a core of its own that would cost
//! more than the trace.

pub mod export;
mod otlp;

use super::shown;
use crate::config::plan::Redact;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use wharf_core::metrics::{Count, Registry};
use wharf_core::trace::Trace;
use wharf_http::record::Record;

/// Traces of one core that may wait.
const WAITING_MAX: usize = 1024;

/// Where cores put what they have traced. House-wide.
#[derive(Debug)]
pub struct Outbox {
    slots: Vec<Mutex<Vec<Finished>>>,
    /// Made when a trace is first dropped or sent: most gateways have none.
    counts: OnceLock<Counts>,
}

#[derive(Debug)]
struct Counts {
    exported: Arc<Count>,
    queue_full: Arc<Count>,
    collector: Arc<Count>,
    rejected: Arc<Count>,
}

impl Counts {
    fn new(metrics: &Registry) -> Counts {
        let dropped = |reason: &str| {
            metrics.count("wharf_trace_spans_dropped_total", "spans that no collector has taken, by reason", &[("reason", reason)])
        };
        Counts {
            exported: metrics.count("wharf_trace_spans_exported_total", "spans that the collector has taken", &[]),
            queue_full: dropped("queue_full"),
            collector: dropped("collector"),
            rejected: dropped("rejected"),
        }
    }
}

impl Outbox {
    /// For so many cores.
    pub fn new(cores: usize) -> Arc<Outbox> {
        Arc::new(Outbox { slots: (0..cores.max(1)).map(|_| Mutex::default()).collect(), counts: OnceLock::new() })
    }

    fn slot(&self, core: usize) -> Option<MutexGuard<'_, Vec<Finished>>> {
        let slot = self.slots.get(core % self.slots.len().max(1))?;
        Some(slot.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(&self, core: usize, finished: Finished) {
        let Some(mut slot) = self.slot(core) else { return };
        if slot.len() < WAITING_MAX {
            slot.push(finished);
        } else if let Some(counts) = self.counts.get() {
            counts.queue_full.add_shared(1 + finished.trace.spans().0.len() as u64);
        }
    }

    fn take(&self) -> Vec<Finished> {
        (0..self.slots.len()).filter_map(|core| self.slot(core)).flat_map(|mut slot| std::mem::take(&mut *slot)).collect()
    }
}

/// The trace of one exchange that is over.
#[derive(Debug)]
struct Finished {
    trace: Trace,
    began: Instant,
    ended: Instant,
    /// Nanoseconds since 1970 at its end.
    ended_ns: u64,
    method: Box<str>,
    scheme: &'static str,
    authority: Box<str>,
    path: Box<str>,
    query: Option<Box<str>>,
    route: Box<str>,
    route_path: Option<Arc<str>>,
    client: Box<str>,
    peer: Box<str>,
    protocol: Box<str>,
    user_agent: Option<Box<str>>,
    id: Box<str>,
    told_id: Option<Box<str>>,
    consumer: Option<Box<str>>,
    answered_by: Option<Box<str>>,
    fault: Option<Box<str>>,
    status: u16,
    bytes_in: u64,
    /// Services that are called by TLS.
    by_tls: Arc<HashSet<Arc<str>>>,
}

impl Finished {
    fn unix_ns(&self, at: Instant) -> u64 {
        let before = self.ended.saturating_duration_since(at).as_nanos() as u64;
        let after = at.saturating_duration_since(self.ended).as_nanos() as u64;
        self.ended_ns.saturating_sub(before).saturating_add(after)
    }
}

/// The traces of one core.
pub struct Traced {
    core: usize,
    outbox: Arc<Outbox>,
    redact: Arc<Redact>,
    by_tls: Arc<HashSet<Arc<str>>>,
}

impl Traced {
    /// Those of core number `core`. `by_tls`: the services that are called by TLS.
    pub fn new(core: usize, outbox: Arc<Outbox>, redact: Arc<Redact>, by_tls: Arc<HashSet<Arc<str>>>) -> Traced {
        Traced { core, outbox, redact, by_tls }
    }
}

impl wharf_http::watch::Traces for Traced {
    fn take(&self, record: &Record<'_>, trace: &Trace, route_path: Option<&Arc<str>>, started: Instant) {
        let text = |bytes: &[u8]| -> Box<str> { wharf_core::head::text(bytes).into() };
        let exchange = record.exchange;
        let finished = Finished {
            trace: trace.clone(),
            began: started,
            ended: Instant::now(),
            ended_ns: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64),
            method: record.method.into(),
            scheme: exchange.map_or("http", |exchange| exchange.facts.request.scheme.as_str()),
            authority: text(record.authority),
            path: text(record.path),
            query: record.query.map(|query| shown::query(&text(query), &self.redact).into()),
            route: record.route.into(),
            route_path: route_path.cloned(),
            client: record.client.to_string().into(),
            peer: exchange.map_or(record.client, |exchange| exchange.peer).to_string().into(),
            protocol: record.protocol.into(),
            user_agent: record.user_agent.map(text),
            id: record.id.to_string().into(),
            told_id: exchange.and_then(|exchange| exchange.watched.as_ref()?.told_id.clone()),
            consumer: record.consumer.map(Into::into),
            answered_by: record.answered_by.map(Into::into),
            fault: record.fault.map(Into::into),
            status: record.status,
            bytes_in: record.bytes_in,
            by_tls: self.by_tls.clone(),
        };
        self.outbox.put(self.core, finished);
    }
}
