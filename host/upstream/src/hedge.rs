//! A try with more care than the plain one: bounded by a time of its own, and perhaps joined by a second one elsewhere.
//!
//! The second comes when the first has said nothing for a while; what the one answers is taken, and the other is dropped,
//! which closes its connection. Only calls that may be repeated get one, and it is paid for as a retry is.

use crate::ask::Ask;
use crate::care::now;
use crate::flow::{ServiceOutlet, Try, traced};
use crate::hold::InFlight;
use crate::judge;
use crate::retry;
use crate::roster::{Row, Tried};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;
use wharf_core::body::Body;
use wharf_core::exchange::{Answer, Exchange, Upload};
use wharf_core::fault::{Fault, FaultKind, Phase, Retry};
use wharf_core::outlet::{Protocol, Wish};
use wharf_core::trace;

/// What became of it.
pub(crate) struct Sent {
    pub(crate) said: Result<Answer, Fault>,
    pub(crate) in_flight: Option<InFlight>,
    /// Who said it.
    pub(crate) row: Rc<Row>,
    /// Tries beside the first.
    pub(crate) more: u32,
}

/// Makes one try, or two.
pub(crate) async fn send<P: Protocol>(
    outlet: &ServiceOutlet<P>,
    exchange: &mut Exchange,
    wish: &Wish,
    ask: &Ask,
    tried: &mut Tried,
    row: Rc<Row>,
) -> Sent {
    let hedge = outlet.config.hedge_after.filter(|_| {
        exchange.trail.tries == 1
            && exchange.upgrade.is_none()
            && exchange.body.is_replayable()
            && exchange.facts.request.method.is_idempotent()
    });
    let Some(after) = hedge else {
        let number = exchange.trail.tries;
        return one(outlet, exchange, row, number).await;
    };
    let mut twin = twin(exchange);
    let sent = both(outlet, exchange, &mut twin, wish, ask, tried, row, after).await;
    // What the second one has of the trace is the exchange's.
    let traces = (&mut exchange.watched, twin.watched.and_then(|watched| watched.trace));
    if let (Some(Some(trace)), Some(of_twin)) = (traces.0.as_mut().map(|watched| &mut watched.trace), traces.1) {
        trace.join(of_twin);
    }
    sent
}

#[allow(clippy::too_many_arguments, reason = "all that a try needs, twice")]
async fn both<P: Protocol>(
    outlet: &ServiceOutlet<P>,
    exchange: &mut Exchange,
    twin: &mut Exchange,
    wish: &Wish,
    ask: &Ask,
    tried: &mut Tried,
    row: Rc<Row>,
    after: Duration,
) -> Sent {
    let mut first = pin!(one(outlet, exchange, row, 1));
    if let Some(sent) = within(after, None, first.as_mut()).await {
        return sent;
    }
    let other = outlet.choose(wish, tried, now(), Some(ask)).ok().filter(|other| !tried.has(other.endpoint.id));
    let Some(other) = other.filter(|_| outlet.pay_hedge()) else {
        return first.await;
    };
    tried.add(other.endpoint.id);
    let mut second = pin!(one(outlet, twin, other, 2));
    let mut sent = either(outlet, first.as_mut(), second.as_mut()).await;
    sent.more += 1;
    sent
}

/// The better of two: the first good answer; if one has failed, whatever the other says.
async fn either<P>(
    outlet: &ServiceOutlet<P>,
    mut first: Pin<&mut impl Future<Output = Sent>>,
    mut second: Pin<&mut impl Future<Output = Sent>>,
) -> Sent {
    let is_good = |sent: &Sent| sent.said.as_ref().is_ok_and(|answer| retry::judged_status(answer) < 500);
    let (mut ended_first, mut ended_second) = (false, false);
    let mut bad: Option<Sent> = None;
    poll_fn(|task| {
        for is_second in [false, true] {
            let ended = if is_second { &mut ended_second } else { &mut ended_first };
            if *ended {
                continue;
            }
            let polled = if is_second { second.as_mut().poll(task) } else { first.as_mut().poll(task) };
            if let Poll::Ready(sent) = polled {
                *ended = true;
                if is_good(&sent) {
                    outlet.hedged(is_second);
                    return Poll::Ready(sent);
                }
                match bad.take() {
                    // Two failures: an answer is worth more than a fault.
                    Some(before) if before.said.is_ok() => return Poll::Ready(before),
                    Some(_) => return Poll::Ready(sent),
                    None => bad = Some(sent),
                }
            }
        }
        Poll::Pending
    })
    .await
}

/// One try, counted, timed and judged.
async fn one<P: Protocol>(outlet: &ServiceOutlet<P>, exchange: &mut Exchange, row: Rc<Row>, number: u32) -> Sent {
    let started = now();
    let one_try = Try::of(row.clone());
    let upload = exchange.upload();
    let timed = Timed { outlet, row: &row, started, upload: upload.clone(), over: false };
    let open = trace::begin_try(exchange, &row.endpoint, number, started);
    let sending = outlet.protocol.send_apart(&row.endpoint, exchange, &outlet.config.limits);
    let said = match outlet.config.retry.per_try {
        None => sending.await,
        Some(limit) => within(limit, upload.as_deref(), pin!(sending)).await.unwrap_or_else(|| {
            let what = format!(
                "endpoint {} of service {:?} did not answer within {limit:?} (`retries.per_try`)",
                row.endpoint, row.endpoint.service
            );
            Err(Fault::upstream(FaultKind::Timeout(Phase::Head), Retry::IfIdempotent, what))
        }),
    };
    if let Some(open) = open {
        traced(exchange, open, &said, now());
    }
    timed.over(&said);
    let in_flight = outlet.ended_upload(one_try, upload.as_deref(), &row, &said, (started, now()));
    Sent { said, in_flight, row, more: 0 }
}

/// What a future says within a time; `None`: nothing yet. It may be polled on. The time begins when the upload is over, if
/// there is one.
async fn within<F: Future>(limit: Duration, upload: Option<&Upload>, mut future: Pin<&mut F>) -> Option<F::Output> {
    let mut timer = pin!(tokio::time::sleep(limit));
    let mut waits = upload.is_some();
    poll_fn(|task| match future.as_mut().poll(task) {
        Poll::Ready(said) => Poll::Ready(Some(said)),
        // Whoever sends it says so while it is polled.
        Poll::Pending if waits && upload.is_some_and(|upload| upload.over().is_none()) => Poll::Pending,
        Poll::Pending => {
            if std::mem::take(&mut waits) {
                timer.as_mut().reset(tokio::time::Instant::now() + limit);
            }
            timer.as_mut().poll(task).map(|()| None)
        }
    })
    .await
}

/// Takes the time of a try into the estimate of its endpoint, whichever way it ends: who was dropped for being late was late.
struct Timed<'a, P> {
    outlet: &'a ServiceOutlet<P>,
    row: &'a Row,
    started: std::time::Instant,
    upload: Option<Rc<Upload>>,
    over: bool,
}

impl<P> Timed<'_, P> {
    fn over(mut self, said: &Result<Answer, Fault>) {
        self.over = true;
        let counts = judge::counts(said, self.started, self.upload.as_deref(), now());
        let failed = match said {
            Ok(answer) if retry::judged_status(answer) >= 500 && !counts => return,
            Err(_) if !counts => return,
            Ok(answer) => retry::judged_status(answer) >= 500,
            Err(fault) if retry::is_failure(fault) => true,
            Err(fault) if matches!(fault.kind, FaultKind::Timeout(_)) => false,
            // A limit of ours, a client that left: nothing about the endpoint.
            Err(_) => return,
        };
        self.record(failed);
    }

    fn record(&self, failed: bool) {
        if self.outlet.config.policy.compares_latency() {
            let now = now();
            let took = judge::took(self.started, self.upload.as_deref(), now);
            // Who has failed has, however long its client took.
            let Some(took) = took.or(failed.then_some(Duration::ZERO)) else { return };
            self.row.standing.took(&self.outlet.config.weighing, now, took, failed);
        }
    }
}

impl<P> Drop for Timed<'_, P> {
    fn drop(&mut self) {
        if !self.over {
            self.record(false);
        }
    }
}

/// The same request once more, for a second try beside the first.
fn twin(exchange: &Exchange) -> Exchange {
    let body = match &exchange.body {
        Body::Full(all) => Body::Full(all.clone()),
        _ => Body::Empty,
    };
    let (facts, peer, keep_host) = (exchange.facts.clone(), exchange.peer, exchange.keep_host);
    let watched = exchange.watched.as_ref().and_then(|watched| watched.twin());
    Exchange { facts, peer, body, keep_host, watched, ..Exchange::blank(exchange.deadline) }
}
