//! THE LIFE OF A REQUEST, the same for every protocol version.
//!
//! A front (`h1.rs`, `h2.rs`) reads a head from its wire, calls [`answer`], writes the answer to its wire and calls
//! [`Done::finish`]. Between the two lies this:
//!
//! ```text
//! house   = one generation of routes and rules, held until the reply
//! client  = whose request it is (trusted proxies may say)
//! entry   = house.routes.find(head)              native, compiled
//! names   = steps.before(exchange)               of its path, where it has any
//! answer  = road::answer(exchange, rules, ...)   authenticate, filter, route, call, degrade, filter
//! answer  = or reply::answer_for(fault)          the one place with status codes
//! answer  = steps.after(answer)                  native: default answers, envelope, headers, other origins
//! answer  = compression.apply(answer)            where the client asked for it and it is worth it
//! record once
//! ```

use crate::cors;
use crate::deadlines::Alarm;
use crate::front::Secured;
use crate::grpc;
use crate::house::{Core, Entry, House, ListenerLimits};
use crate::record::{Part, Record};
use crate::reply;
use crate::routes::{Arrival, Found};
use crate::watch;
use bytes::Bytes;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use wharf_core::body::{Body, BodyStream};
use wharf_core::exchange::{Answer, Exchange, ExchangeId};
use wharf_core::fault::{Fault, FaultKind, Phase, Retry};
use wharf_core::head::{Fields, Known, Method};
use wharf_core::road;

/// Between two looks whether the client is still there.
const LOOK: Duration = Duration::from_secs(1);

/// An answer, and what is needed to record it once it is written.
pub(crate) struct Done {
    pub(crate) answer: Answer,
    /// Milliseconds since 1970 at its start: what the answer's date is made from.
    pub(crate) time_ms: u64,
    /// The core's tick at that time.
    tick: u32,
    in_flight: InFlight,
    house: Rc<House>,
    entry: Option<usize>,
    /// Kept on the heap from its head to its record: it is moved from hand to hand, and it is large.
    pub(crate) exchange: Box<Exchange>,
    started: Instant,
    protocol: &'static str,
    /// The answer was made of a fault, and of nothing else.
    pub(crate) is_faults: bool,
}

/// Counts an exchange while it lasts, however it ends.
struct InFlight(Rc<Core>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.add(-1);
    }
}

/// How a request came.
pub(crate) struct Came<'a, G> {
    /// `HTTP/1.1`, for the record.
    pub(crate) protocol: &'static str,
    /// Its caller speaks gRPC: has a deadline of its own, and understands faults in its own way.
    pub(crate) grpc: bool,
    /// What TLS says about the client.
    pub(crate) secured: Option<&'a Secured>,
    /// It brings a deadline of its own along.
    pub(crate) until: Option<Instant>,
    pub(crate) gone: G,
}

/// Has the client given its request up, so that nobody is worth an answer? A type of each front's own, which makes the
/// whole of [`answer`] one: what a request passes is compiled in one piece with its front.
pub(crate) trait Gone {
    /// Asked once a second, which costs a quick request nothing.
    fn asked(&self) -> bool {
        false
    }

    /// Asked whenever the road has to wait, for who can be woken by it.
    fn polled(&self, _: &mut Context<'_>) -> bool {
        false
    }
}

/// Gets the answer to a request. Never fails: every fault is an answer by then.
///
/// # Cancel safety
/// Dropping it ends the exchange unanswered; upstream connections are closed.
pub(crate) async fn answer<G: Gone>(
    core: &Rc<Core>,
    limits: &ListenerLimits,
    alarm: &Alarm,
    mut exchange: Box<Exchange>,
    came: Came<'_, G>,
) -> Done {
    let Came { protocol, grpc, secured, until, gone } = came;
    let started = Instant::now();
    let (id, time_ms) = core.next_id(started);
    let tick = core.deadlines.tick();
    core.in_flight.add(1);
    let in_flight = InFlight(core.clone());
    let house = core.house.borrow().clone();

    // Whose request it is. From anybody else these fields are invented, so nobody behind this line sees them.
    let peer = exchange.peer;
    exchange.facts.id = id;
    exchange.facts.client = client_address(&mut exchange.facts.request.fields, peer, limits);

    let from = Arrival { client: exchange.facts.client, listener: &limits.name };
    let mut found = house.routes.find(&exchange.facts.request, from);
    if matches!(exchange.facts.request.method, Method::Options) {
        found = cors::asked_about(&house, &exchange, from).unwrap_or(found);
    }
    let entry = found.route().and_then(|at| Some((at, house.entries.get(at)?)));
    if let Some(watch) = entry.map_or(&house.watch, |(_, entry)| &entry.watch) {
        watch::begin(watch, core.recorder.as_deref(), limits, &mut exchange, entry.map(|(_, entry)| &entry.name), (protocol, time_ms));
    }
    let misdirected = secured.is_some_and(|secured| secured.tell(&mut exchange.facts, &house.routes));
    let said = match entry {
        _ if misdirected => {
            exchange.deadline = started + limits.body;
            Err(Fault::caller(FaultKind::Misdirected, "this connection was made to another host; make one to this host"))
        }
        _ if core.pressure.is_full() => {
            exchange.deadline = started + limits.body;
            Err(short_of_memory())
        }
        Some((at, entry)) => {
            exchange.facts.route = entry.name.clone();
            exchange.deadline = started + entry.whole;
            if let Some(callers) = grpc.then(|| grpc::timeout(&exchange.facts.request.fields)).flatten() {
                exchange.callers_time = callers < entry.whole;
                exchange.deadline = exchange.deadline.min(started + callers);
            }
            if let Some(until) = until {
                exchange.deadline = if entry.whole_is_default { until } else { exchange.deadline.min(until) };
            }
            if let Some(steps) = &entry.steps
                && let Err(fault) = steps.before(&house.routes, at, &mut exchange)
            {
                Err(fault)
            } else {
                within(&mut exchange, entry, alarm, gone).await
            }
        }
        None => {
            exchange.deadline = started + limits.body;
            Err(match found {
                Found::MethodRefused => Fault::caller(FaultKind::MethodRefused, "this method is not served at this path"),
                _ => Fault::caller(FaultKind::NoRoute, "no route matches"),
            })
        }
    };
    let answered = said.is_ok();
    let mut answer = said.unwrap_or_else(|fault| {
        exchange.trail.fault = Some(fault.word());
        tracing::debug!(%id, route = &*exchange.facts.route, blame = ?fault.blame, fault = fault.word(), "{fault}");
        if grpc {
            return reply::grpc_answer_for(&fault);
        }
        let mut answer = reply::answer_for(&fault, id);
        if found == Found::MethodRefused {
            let allow = house.routes.allow(&exchange.facts.request, Arrival { client: exchange.facts.client, listener: &limits.name });
            answer.head.fields.add(b"allow", allow.as_bytes());
        }
        // Who is to make another connection must see the status.
        if !misdirected && let Some(steps) = entry.map_or(&house.unmatched, |(_, entry)| &entry.steps) {
            steps.after(&mut exchange, &mut answer, Some(&fault));
        }
        answer
    });
    if let Some((_, entry)) = entry {
        if answered && let Some(steps) = &entry.steps {
            steps.after(&mut exchange, &mut answer, None);
        }
        if let Some(watch) = &entry.watch {
            watch::answered(watch, &mut exchange, &mut answer);
        }
        if let Some(compression) = &entry.compression
            && compression.is_worth(&answer.body)
            && !core.pressure.is_high()
        {
            compression.apply(&exchange, &mut answer, &core.encoders);
        }
    }
    let entry = entry.map(|(at, _)| at);
    Done { answer, time_ms, tick, in_flight, house, entry, exchange, started, protocol, is_faults: !answered }
}

/// The road, within the limits of its route.
async fn within(exchange: &mut Exchange, entry: &Entry, alarm: &Alarm, gone: impl Gone) -> Result<Answer, Fault> {
    let max = entry.body_bytes_max;
    if exchange.body.size().is_some_and(|size| size > max) {
        return Err(too_large(max));
    }
    if let Body::Stream(stream) = &exchange.body
        && stream.size().is_none()
        && let Body::Stream(inner) = std::mem::take(&mut exchange.body)
    {
        exchange.body = Body::Stream(Box::new(Capped { inner, left: max, max }));
    }
    let rules = match entry.by_host {
        None => &entry.rules,
        Some(_) => entry.rules_for(exchange.facts.request.authority()),
    };
    exchange.keep_host = entry.keep_host;
    let (deadline, whose) = (exchange.deadline, exchange.whose_time());
    alarm.set_in(LOOK.min(entry.whole));
    let mut road = std::pin::pin!(road::answer(exchange, rules, &entry.target, &entry.memory));
    std::future::poll_fn(|task| {
        if let Poll::Ready(said) = road.as_mut().poll(task) {
            return Poll::Ready(said);
        }
        if gone.polled(task) {
            return Poll::Ready(Err(given_up()));
        }
        loop {
            std::task::ready!(alarm.poll_elapsed(task));
            if gone.asked() {
                return Poll::Ready(Err(given_up()));
            }
            // Whoever waits on the road knows the deadline; this is for whoever forgot.
            if Instant::now() >= deadline {
                let what = format!("the exchange took longer than {:?} (`timeouts.whole`), or than its caller wants", entry.whole);
                return Poll::Ready(Err(Fault::new(FaultKind::Timeout(Phase::Whole), whose, Retry::Never, what)));
            }
            alarm.set_in_until(LOOK, deadline);
        }
    })
    .await
}

#[cold]
fn given_up() -> Fault {
    Fault::caller(FaultKind::ClientGone, "the client gave the request up before it was answered")
}

#[cold]
fn short_of_memory() -> Fault {
    let what = "memory is short; hint: raise `node.memory_max` or what the machine gives, lower `connections_max`, or add a gateway";
    Fault::overload("memory", what).after(Duration::from_secs(1))
}

fn too_large(max: u64) -> Fault {
    let what = format!("the body has more than the {max} bytes that this route takes (`body_bytes_max`)");
    Fault::caller(FaultKind::TooLarge { head: false }, what)
}

/// A body that does not say its size, held to the limit while it passes.
struct Capped {
    inner: Box<dyn BodyStream>,
    left: u64,
    max: u64,
}

impl BodyStream for Capped {
    fn poll_chunk(&mut self, task: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        let polled = self.inner.poll_chunk(task);
        if let Poll::Ready(Ok(Some(piece))) = &polled {
            match self.left.checked_sub(piece.len() as u64) {
                Some(left) => self.left = left,
                None => return Poll::Ready(Err(too_large(self.max))),
            }
        }
        polled
    }

    fn trailers(&mut self) -> Option<Fields> {
        self.inner.trailers()
    }
}

/// Is what this peer says about its client believed?
pub(crate) fn trusts(limits: &ListenerLimits, peer: IpAddr) -> bool {
    limits.trusted.iter().any(|range| range.holds(peer))
}

/// The client's address. Fields about it that its peer has no right to set are removed from the head.
fn client_address(fields: &mut Fields, peer: IpAddr, limits: &ListenerLimits) -> IpAddr {
    let trusted = |address: IpAddr| trusts(limits, address);
    if limits.trusted.is_empty() || !trusted(peer) {
        fields.remove_if(Known::is_gateways_word);
        return peer;
    }
    // From the right: each trusted proxy vouches for the address it appended; the first that none of ours wrote is the
    // client. Anything further left may be invented.
    let chain = fields.joined(b"x-forwarded-for").unwrap_or_default().into_owned();
    let mut client = peer;
    for part in chain.rsplit(',') {
        let Some(address) = address_of(part.trim()) else { break };
        client = address;
        if !trusted(address) {
            break;
        }
    }
    client
}

/// An address as proxies write it: alone, or, as some do, with a port or in brackets.
fn address_of(text: &str) -> Option<IpAddr> {
    let alone = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    alone.parse().ok().or_else(|| text.parse().ok().map(|with_port: SocketAddr| with_port.ip()))
}

impl Done {
    /// The body of the answer broke before anything of the answer was sent: this is said in its place.
    #[cold]
    pub(crate) fn broken(&mut self, fault: &Fault) {
        let Done { answer, house, entry, exchange, .. } = self;
        tracing::debug!(id = %exchange.facts.id, route = &*exchange.facts.route, blame = ?fault.blame, fault = fault.word(), "{fault}");
        exchange.trail.fault = Some(fault.word());
        *answer = reply::answer_for(fault, exchange.facts.id);
        let steps = entry.and_then(|at| house.entries.get(at)).map_or(&house.unmatched, |entry| &entry.steps);
        if let Some(steps) = steps {
            steps.after(exchange, answer, Some(fault));
        }
    }

    /// When the caller of a call of gRPC waits no longer, if it says so.
    #[cold]
    pub(crate) fn callers_deadline(&self) -> Option<Instant> {
        grpc::timeout(&self.exchange.facts.request.fields).and_then(|wait| self.started.checked_add(wait))
    }

    /// Gives its memory to the next exchange.
    #[inline(always)]
    pub(crate) fn over(self) {
        let Done { mut exchange, answer, in_flight, .. } = self;
        exchange.worn = Some(answer.head);
        in_flight.0.over(exchange);
    }

    /// Records the exchange: counts and, if there is one, the access log. `status` 0: the client went away first.
    pub(crate) fn finish(&self, listener: &str, status: u16, bytes_in: u64, bytes_out: u64, fault: Option<&'static str>) {
        let duration = self.started.elapsed();
        let (meters, watch) = match self.entry.and_then(|at| self.house.entries.get(at)) {
            Some(entry) => (&*entry.meters, &entry.watch),
            None => (&self.in_flight.0.unmatched, &self.house.watch),
        };
        meters.count(status, duration, bytes_in, bytes_out);
        let fault = fault.or(self.exchange.trail.fault);
        if let Some(word) = fault {
            meters.count_fault(word);
        }
        let recorder = self.in_flight.0.recorder.as_deref();
        if recorder.is_some() || watch.is_some() {
            let Exchange { facts, trail, .. } = &*self.exchange;
            let record = Record {
                part: Part::Whole,
                status,
                bytes_in,
                bytes_out,
                duration,
                endpoint: trail.endpoint.as_deref(),
                tries: trail.tries,
                head_us: trail.head_us,
                fault,
                consumer: facts.attrs.get("consumer"),
                answered_by: trail.answered_by.as_deref(),
                response: Some(&self.answer.head),
                ..Record::asked(&self.exchange, listener, self.protocol, self.time_ms)
            };
            match (watch, recorder) {
                (None, Some(recorder)) => recorder.record(&record),
                (Some(watch), recorder) => {
                    if let Some(trace) = watch::kept_trace(&self.exchange) {
                        meters.exemplify(duration, trace, self.time_ms);
                    }
                    watch::end(watch, recorder, &record, self.started);
                }
                (None, None) => {}
            }
        }
    }

    /// The date for its answer (RFC 9110 section 6.6.1): now, however long it took.
    pub(crate) fn date(&self) -> [u8; 29] {
        let core = &self.in_flight.0;
        core.date(self.time_ms + core.deadlines.millis_since(self.tick))
    }
}

/// Records what was refused before anybody knew what was asked.
#[allow(clippy::too_many_arguments, reason = "a record is made of many facts, and of nothing else")]
pub(crate) fn refused(
    core: &Core,
    limits: &ListenerLimits,
    peer: SocketAddr,
    protocol: &str,
    (id, time_ms): (ExchangeId, u64),
    started: Instant,
    status: u16,
    fault: &'static str,
    bytes_out: u64,
) {
    let Some(recorder) = &core.recorder else { return };
    recorder.record(&Record {
        part: Part::Whole,
        time_ms,
        id,
        listener: &limits.name,
        protocol,
        client: peer.ip(),
        method: "",
        authority: b"",
        path: b"",
        query: None,
        user_agent: None,
        route: "",
        status,
        bytes_in: 0,
        bytes_out,
        duration: started.elapsed(),
        endpoint: None,
        tries: 0,
        head_us: 0,
        fault: Some(fault),
        consumer: None,
        answered_by: None,
        exchange: None,
        response: None,
    });
}

use std::future::Future as _;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_proxies_write_it() {
        for (text, expected) in [
            ("192.0.2.1", Some("192.0.2.1")),
            ("192.0.2.1:4711", Some("192.0.2.1")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("[2001:db8::1]:4711", Some("2001:db8::1")),
            ("192.0.2.1:", None),
            ("192.0.2.1:70000", None),
            ("[192.0.2.1", None),
            ("unknown", None),
            ("_hidden", None),
            ("", None),
        ] {
            assert_eq!(address_of(text).map(|address| address.to_string()).as_deref(), expected, "{text}");
        }
    }
}
