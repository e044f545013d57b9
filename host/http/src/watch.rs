//! What is watched of a route's exchanges: the trace that they are a part of, copies of their bodies, which of them are
//! recorded and in how many lines. Where none of it is asked for there is no [`Watch`], and a request pays for one look.
//!
//! Who keeps traces is behind [`Traces`]; who writes records behind `record::Recorder`.

use crate::capture::Capture;
use crate::flow::trusts;
use crate::house::ListenerLimits;
use crate::record::{Part, Record, Recorder, Sampling, WHOLE};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;
use wharf_core::exchange::{Answer, Exchange, ExchangeId};
use wharf_core::trace::{Context, TRACEPARENT, TRACESTATE, Trace, mixed, state_of};

/// Longest id that a proxy may give an exchange.
const TOLD_ID_MAX: usize = 128;

/// What is watched of a route's exchanges.
pub struct Watch {
    /// Traces; `None`: what a request says about its trace is passed on and not looked at.
    pub tracer: Option<Tracer>,
    /// Copies of bodies.
    pub capture: Option<Capture>,
    /// Which are recorded.
    pub sampling: Sampling,
    /// One record for the request and one for what became of it.
    pub two: bool,
}

/// How exchanges become traces.
#[derive(Clone)]
pub struct Tracer {
    /// Of a million exchanges that are a part of no trace yet, so many begin one that is kept.
    pub share: u32,
    /// The path of the route as its pattern is written, for who groups by it.
    pub route_path: Option<Arc<str>>,
    /// Who keeps them.
    pub traces: Rc<dyn Traces>,
}

/// Takes traces. Core-local; never waits.
pub trait Traces {
    /// Takes one: that of an exchange which began at `started` and is over now.
    fn take(&self, record: &Record<'_>, trace: &Trace, route_path: Option<&Arc<str>>, started: Instant);
}

/// Begins to watch an exchange that has found its route.
#[cold]
pub(crate) fn begin(
    watch: &Watch,
    recorder: Option<&dyn Recorder>,
    limits: &ListenerLimits,
    exchange: &mut Exchange,
    route: Option<&Arc<str>>,
    (protocol, time_ms): (&'static str, u64),
) {
    if let Some(route) = route {
        exchange.facts.route = route.clone();
    }
    let watched = exchange.watched.get_or_insert_default();
    if !limits.trusted.is_empty() && trusts(limits, exchange.peer) {
        let fields = &exchange.facts.request.fields;
        let is_id = |id: &&[u8]| (1..=TOLD_ID_MAX).contains(&id.len()) && id.iter().all(u8::is_ascii_graphic);
        let told = fields.get(b"x-request-id").filter(is_id).and_then(|id| std::str::from_utf8(id).ok());
        watched.told_id = told.map(Into::into);
    }
    if let Some(tracer) = &watch.tracer {
        let trace = tracer.begin(exchange.facts.id, &exchange.facts.request.fields);
        let fields = &mut exchange.facts.request.fields;
        fields.set(TRACEPARENT, &trace.context.text());
        match &trace.state {
            Some(state) => fields.set(TRACESTATE, state.as_bytes()),
            None if fields.get(TRACESTATE).is_some() => fields.remove(TRACESTATE),
            None => {}
        }
        watched.trace = Some(trace);
    }
    if let Some(capture) = &watch.capture {
        capture.of_request(exchange);
    }
    if let Some(recorder) = recorder
        && watch.two
        && watch.sampling.draws(exchange.facts.id)
    {
        recorder.record(&Record::asked(exchange, &limits.name, protocol, time_ms));
        if let Some(watched) = &mut exchange.watched {
            watched.is_announced = true;
        }
    }
}

/// It has an answer.
#[cold]
pub(crate) fn answered(watch: &Watch, exchange: &mut Exchange, answer: &mut Answer) {
    if let Some(capture) = &watch.capture {
        capture.of_answer(exchange, answer);
    }
}

/// An exchange is over.
#[cold]
pub(crate) fn end(watch: &Watch, recorder: Option<&dyn Recorder>, record: &Record<'_>, started: Instant) {
    let watched = record.exchange.and_then(|exchange| exchange.watched.as_deref());
    if let Some(tracer) = &watch.tracer
        && let Some(trace) = watched.and_then(|watched| watched.trace.as_ref())
        && trace.context.sampled
    {
        tracer.traces.take(record, trace, tracer.route_path.as_ref(), started);
    }
    let Some(recorder) = recorder else { return };
    let is_announced = watched.is_some_and(|watched| watched.is_announced);
    if !is_announced && !watch.sampling.draws(record.id) && !watch.sampling.must(record.status, record.fault, record.duration) {
        return;
    }
    if !watch.two {
        return recorder.record(record);
    }
    // What was not meant to be recorded and has to be after all: late, but both.
    if !is_announced && let Some(exchange) = record.exchange {
        recorder.record(&Record::asked(exchange, record.listener, record.protocol, record.time_ms));
    }
    recorder.record(&Record { part: Part::Response, ..*record });
}

/// The trace of an exchange that is kept, for who wants an example.
pub(crate) fn kept_trace(exchange: &Exchange) -> Option<u128> {
    let context = exchange.watched.as_ref()?.trace.as_ref()?.context;
    context.sampled.then_some(context.trace)
}

impl Tracer {
    /// The trace of a new exchange: that of whoever asked, or one of its own.
    fn begin(&self, id: ExchangeId, fields: &wharf_core::head::Fields) -> Trace {
        // Ids are unique already; mixed they look like chance to those who sample by them.
        let mut seed = id.time;
        let upper = mixed(&mut seed);
        seed ^= id.serial;
        let (lower, span) = (mixed(&mut seed), mixed(&mut seed).max(1));
        match Context::of(fields) {
            Some(asks) => Trace::new(Context { span, ..asks }, Some(asks.span), state_of(fields), seed),
            None => {
                let trace = (u128::from(upper) << 64 | u128::from(lower)).max(1);
                // From the part of the id that is to be taken for random.
                let sampled = lower % u64::from(WHOLE) < u64::from(self.share);
                Trace::new(Context { trace, span, sampled }, None, None, seed)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_core::head::Fields;

    struct Nobody;

    impl Traces for Nobody {
        fn take(&self, _: &Record<'_>, _: &Trace, _: Option<&Arc<str>>, _: Instant) {}
    }

    fn tracer(share: u32) -> Tracer {
        Tracer { share, route_path: None, traces: Rc::new(Nobody) }
    }

    fn id(serial: u64) -> ExchangeId {
        ExchangeId { time: 1_795_360_802_007 << 16, serial: 0x1234_5678 << 32 | serial }
    }

    #[test]
    fn who_is_asked_as_a_part_of_a_trace_decides_nothing() {
        for (flags, sampled) in [("01", true), ("00", false)] {
            let mut fields = Fields::default();
            fields.add(b"traceparent", format!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-{flags}").as_bytes());
            fields.add(b"tracestate", b"a=1");
            for share in [0, WHOLE] {
                let trace = tracer(share).begin(id(1), &fields);
                assert_eq!((trace.context.trace, trace.parent), (0x4bf92f3577b34da6a3ce929d0e0e4736, Some(0xf067aa0ba902b7)));
                assert_eq!((trace.context.sampled, trace.state.as_deref()), (sampled, Some("a=1")));
                assert!(trace.context.span != 0 && Some(trace.context.span) != trace.parent);
            }
        }
    }

    #[test]
    fn others_begin_a_trace_of_their_own_and_a_share_of_them_is_kept() {
        let mut fields = Fields::default();
        fields.add(b"traceparent", b"00-nonsense");
        fields.add(b"tracestate", b"a=1");
        let tracer = tracer(WHOLE / 4);
        let traces: Vec<Trace> = (0..40_000).map(|serial| tracer.begin(id(serial), &fields)).collect();
        let kept = traces.iter().filter(|trace| trace.context.sampled).count();
        assert!((9_600..10_400).contains(&kept), "{kept}");
        assert!(traces.iter().all(|trace| trace.state.is_none() && trace.parent.is_none()));
        let ids: std::collections::HashSet<u128> = traces.iter().map(|trace| trace.context.trace).collect();
        assert_eq!(ids.len(), traces.len());
    }
}
