//! THE LIFE OF A CALL: refuse early, choose, try, judge, try again.
//!
//! Core-local. The plain road sets no timer: the protocol bounds each try by its limits and the exchange's deadline. What is
//! decided without waiting is in `balance` and `retry`; what all cores share is in `service`. What only some services want
//! (keys, stickiness, a time for each try, hedges) is in `ask` and `hedge`; a call of the others passes it by.

use crate::ask::{self, Ask};
use crate::balance::Policy;
use crate::balance::random::Random;
use crate::care::now;
use crate::config::{OutletConfig, SubsetMissing};
use crate::hedge;
use crate::hold::{self, InFlight, Place};
use crate::judge;
use crate::metrics::ServiceCounts;
use crate::retry::{self, Failed};
use crate::roster::{Roster, Row, Tried};
use crate::service::Service;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wharf_core::LocalBoxFuture;
use wharf_core::body::Body;
use wharf_core::exchange::{Answer, Exchange, Upload};
use wharf_core::fault::{Blame, Fault, FaultKind, Retry};
use wharf_core::outlet::{Outlet, Protocol, Wish};
use wharf_core::trace::{self, Open};

/// One service as one core calls it in one generation, by the protocol `P`.
pub struct ServiceOutlet<P> {
    service: Arc<Service>,
    pub(crate) protocol: Rc<P>,
    pub(crate) config: OutletConfig,
    /// Calls of this service want more than the plain road has.
    careful: bool,
    core: Rc<Core>,
}

/// What outlives a generation.
struct Core {
    roster: RefCell<Roster>,
    counts: ServiceCounts,
    /// Paid into the service's retry budget every few calls.
    saved: Cell<u32>,
    /// For waits.
    random: RefCell<Random>,
}

/// Calls' worth of retry budget that a core keeps back, so that calls do not fight for one cache line.
const SAVED_CALLS: u32 = 16;

impl<P: Protocol> ServiceOutlet<P> {
    /// The outlet of a service on core number `core`. `before` is the outlet of that name that this core had in the
    /// generation before: turns and counters are taken over if it is still the same service.
    pub fn new(
        service: Arc<Service>,
        protocol: Rc<P>,
        config: OutletConfig,
        core: usize,
        before: Option<&ServiceOutlet<P>>,
    ) -> ServiceOutlet<P> {
        let kept = before.filter(|before| Arc::ptr_eq(&before.service, &service)).map(|before| before.core.clone());
        let kept = kept.filter(|kept| kept.roster.borrow().policy == config.policy);
        let core = kept.unwrap_or_else(|| {
            let registry = service.registry().clone();
            Rc::new(Core {
                roster: RefCell::new(Roster::new(registry.clone(), config.policy, config.weighing, core, service.seed)),
                counts: ServiceCounts::new(&registry, service.name()),
                saved: Cell::new(0),
                random: RefCell::new(Random::new(service.seed ^ core as u64)),
            })
        });
        core.roster.borrow_mut().weigh(config.weighing);
        let retry = &config.retry;
        let careful = config.policy.compares_latency()
            || config.sticky.is_some()
            || config.hedge_after.is_some()
            || retry.per_try.is_some()
            || retry.backoff.is_some()
            || !retry.statuses.is_empty();
        ServiceOutlet { service, protocol, config, careful, core }
    }

    /// The service that is called.
    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }
}

impl<P: Protocol> Outlet for ServiceOutlet<P> {
    fn call<'a>(&'a self, exchange: &'a mut Exchange, wish: &'a Wish) -> LocalBoxFuture<'a, Result<Answer, Fault>> {
        if self.careful {
            return Box::pin(call_with_care(self, exchange, wish));
        }
        // Made in its box: `Box::pin` would make it on the stack and move it there.
        let made = Box::write(Box::new_uninit(), call(self, exchange, wish));
        Box::into_pin(made)
    }
}

/// The plain road: one try, nearly always. What follows a failure is [`go_on`]'s, so that nobody else carries it along.
async fn call<P: Protocol>(outlet: &ServiceOutlet<P>, exchange: &mut Exchange, wish: &Wish) -> Result<Answer, Fault> {
    let place = outlet.admit()?;
    outlet.save();
    let started = now();
    let (tried, first) = {
        let row = outlet.choose(wish, &Tried::NONE, started, None)?;
        exchange.trail.tries += 1;
        exchange.trail.endpoint = Some(row.endpoint.clone());

        // A stream can be sent once. Once taken, it leaves `Empty` behind, which must not pass for a body of nothing.
        let replayable = exchange.body.is_replayable();
        if !replayable {
            exchange.upload();
        }
        let one_try = Try::of(row.clone());
        let open = trace::begin_try(exchange, &row.endpoint, exchange.trail.tries, started);
        let said = outlet.protocol.send(&row.endpoint, exchange, &outlet.config.limits).await;
        let ended = now();
        let took = ended.saturating_duration_since(started);
        if let Some(open) = open {
            traced(exchange, open, &said, ended);
        }
        let in_flight = if replayable {
            let in_flight = one_try.ended(&said);
            outlet.note(&row, &said, Some(took), ended);
            in_flight
        } else {
            outlet.ended_upload(one_try, exchange.trail.upload.as_deref(), &row, &said, (started, ended))
        };
        if said.is_ok() {
            exchange.trail.head_us = micros(took);
            return match outlet.holds_bodies() {
                // As it is: an answer is large enough for every move of it to be felt.
                false => said,
                true => said.map(|answer| hold::until_the_end(answer, (in_flight, place))),
            };
        }
        // In a block, or the future would have room for the answer, and every answer would pass through it.
        (Tried::NONE.and(row.endpoint.id), Made { said, in_flight, ended, replayable })
    };
    Box::pin(go_on(outlet, exchange, wish, None, tried, place, Some(first))).await
}

/// The road of services that want more.
async fn call_with_care<P: Protocol>(outlet: &ServiceOutlet<P>, exchange: &mut Exchange, wish: &Wish) -> Result<Answer, Fault> {
    let place = outlet.admit()?;
    outlet.save();
    let ask = Ask::of(&outlet.config, &exchange.facts);
    let mut said = go_on(outlet, exchange, wish, Some(&ask), Tried::default(), place, None).await;
    if let (Some(sticky), Ok(answer)) = (&outlet.config.sticky, &mut said) {
        ask::tell(sticky, &ask, exchange, answer);
    }
    said
}

/// A try that was made.
struct Made {
    said: Result<Answer, Fault>,
    in_flight: Option<InFlight>,
    ended: Instant,
    /// All of the body could have been sent once more.
    replayable: bool,
}

/// Judge, and try again, until there is an answer or no reason to go on. Begins with a try that has failed, if there is one.
async fn go_on<P: Protocol>(
    outlet: &ServiceOutlet<P>,
    exchange: &mut Exchange,
    wish: &Wish,
    ask: Option<&Ask>,
    mut tried: Tried,
    place: Option<Place>,
    mut first: Option<Made>,
) -> Result<Answer, Fault> {
    let idempotent = exchange.facts.request.method.is_idempotent() && exchange.upgrade.is_none();
    loop {
        let made = match first.take() {
            Some(made) => made,
            None => outlet.try_once(exchange, wish, ask, &mut tried).await?,
        };
        let answered;
        let fault = match &made.said {
            Ok(answer) if ask.is_none() || !outlet.config.retry.statuses.has(answer.head.status) => return outlet.answer(made, place),
            Ok(_) => {
                answered = Fault::upstream(FaultKind::BadAnswer, Retry::IfIdempotent, "");
                &answered
            }
            Err(fault) => fault,
        };
        let failed = Failed {
            fault,
            tries: exchange.trail.tries,
            idempotent,
            body_whole: made.replayable || (fault.retry == Retry::Safe && matches!(exchange.body, Body::Stream(_))),
            others: outlet.has_others(wish, &tried),
            time_left: made.ended < exchange.deadline,
        };
        let wait = match retry::may_repeat(&outlet.config.retry, &failed) {
            true => outlet.wait(&failed, exchange.deadline, made.ended),
            false => None,
        };
        let Some(wait) = wait.filter(|_| outlet.pay()) else { return outlet.answer(made, place) };
        drop(made);
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

impl<P: Protocol> ServiceOutlet<P> {
    /// One more try, with or without care.
    async fn try_once(&self, exchange: &mut Exchange, wish: &Wish, ask: Option<&Ask>, tried: &mut Tried) -> Result<Made, Fault> {
        let started = now();
        let row = self.choose(wish, tried, started, ask)?;
        tried.add(row.endpoint.id);
        exchange.trail.tries += 1;
        exchange.trail.endpoint = Some(row.endpoint.clone());
        let replayable = exchange.body.is_replayable();
        exchange.upload();
        if let Some(ask) = ask {
            let sent = Box::pin(hedge::send(self, exchange, wish, ask, tried, row)).await;
            exchange.trail.tries += sent.more;
            exchange.trail.endpoint = Some(sent.row.endpoint.clone());
            let ended = now();
            exchange.trail.head_us = if sent.said.is_ok() { micros(ended.saturating_duration_since(started)) } else { 0 };
            return Ok(Made { said: sent.said, in_flight: sent.in_flight, ended, replayable });
        }
        let one_try = Try::of(row.clone());
        let open = trace::begin_try(exchange, &row.endpoint, exchange.trail.tries, started);
        let said = self.protocol.send_apart(&row.endpoint, exchange, &self.config.limits).await;
        let ended = now();
        if let Some(open) = open {
            traced(exchange, open, &said, ended);
        }
        let in_flight = self.ended_upload(one_try, exchange.trail.upload.as_deref(), &row, &said, (started, ended));
        exchange.trail.head_us = if said.is_ok() { micros(ended.saturating_duration_since(started)) } else { 0 };
        Ok(Made { said, in_flight, ended, replayable })
    }
}

impl<P> ServiceOutlet<P> {
    fn admit(&self) -> Result<Option<Place>, Fault> {
        let Some(max) = self.config.in_flight_max else { return Ok(None) };
        Place::take(&self.service, max).map(Some).ok_or_else(|| {
            self.core.counts.refused.add(1);
            let name = self.service.name();
            Fault::overload("in_flight_max", format!("service {name:?} has {max} calls in flight, which is its in_flight_max"))
        })
    }

    // Always: the plain road would pay for the calls of the others.
    #[inline(always)]
    pub(crate) fn choose(&self, wish: &Wish, tried: &Tried, now: Instant, ask: Option<&Ask>) -> Result<Rc<Row>, Fault> {
        let mut roster = self.core.roster.borrow_mut();
        roster.look(&self.service);
        roster
            .pick(wish.subset.as_deref(), tried, now, ask)
            .or_else(|| self.any_instead(wish).then(|| roster.pick(None, tried, now, ask)).flatten())
            .ok_or_else(|| self.nobody(wish))
    }

    /// What one try says of its endpoint, for all cores. `took`: where it is the endpoint's time alone.
    #[inline(always)]
    fn note(&self, row: &Row, said: &Result<Answer, Fault>, took: Option<Duration>, ended: Instant) {
        match said {
            Ok(answer) => {
                if let Some(took) = took {
                    self.core.counts.head.record(took);
                }
                if retry::is_failing_status(retry::judged_status(answer)) {
                    if self.service.answered_badly(&row.standing) {
                        self.core.roster.borrow_mut().spare(row, ended);
                    }
                } else {
                    self.service.good(&row.standing);
                }
            }
            Err(fault) => self.note_failure(row, fault, ended),
        }
    }

    /// The same of a try whose client may still send its body.
    #[cold]
    pub(crate) fn ended_upload(
        &self,
        one_try: Try,
        upload: Option<&Upload>,
        row: &Row,
        said: &Result<Answer, Fault>,
        (started, ended): (Instant, Instant),
    ) -> Option<InFlight> {
        let failed = said.as_ref().map_or(true, |answer| retry::judged_status(answer) >= 500);
        if failed && !judge::counts(said, started, upload, ended) {
            return one_try.unjudged(said);
        }
        let in_flight = one_try.ended(said);
        self.note(row, said, judge::took(started, upload, ended), ended);
        in_flight
    }

    #[cold]
    fn note_failure(&self, row: &Row, fault: &Fault, ended: Instant) {
        let unreachable = retry::is_unreachable(fault);
        let judged = (unreachable || retry::is_failure(fault)) && self.service.failed(&row.standing, unreachable);
        if unreachable || judged {
            self.core.roster.borrow_mut().spare(row, ended);
        }
    }

    /// An answer, or the fault that it has come to, as it is handed on.
    fn answer(&self, made: Made, place: Option<Place>) -> Result<Answer, Fault> {
        match self.holds_bodies() {
            false => made.said,
            true => made.said.map(|answer| hold::until_the_end(answer, (made.in_flight, place))),
        }
    }

    /// The wait before the next try; `None`: there is no time for it.
    fn wait(&self, failed: &Failed<'_>, deadline: Instant, now: Instant) -> Option<Duration> {
        let Some(backoff) = &self.config.retry.backoff else { return Some(Duration::ZERO) };
        backoff.wait(failed.tries, deadline.saturating_duration_since(now), &mut self.core.random.borrow_mut())
    }

    fn has_others(&self, wish: &Wish, tried: &Tried) -> bool {
        let mut roster = self.core.roster.borrow_mut();
        roster.look(&self.service);
        roster
            .has_others(wish.subset.as_deref(), tried)
            .or_else(|| self.any_instead(wish).then(|| roster.has_others(None, tried)).flatten())
            .unwrap_or(false)
    }

    fn any_instead(&self, wish: &Wish) -> bool {
        wish.subset.is_some() && self.config.subset_missing == SubsetMissing::Any
    }

    #[cold]
    fn nobody(&self, wish: &Wish) -> Fault {
        self.core.counts.refused.add(1);
        let name = self.service.name();
        let detail = match &wish.subset {
            Some(tag) if self.config.subset_missing == SubsetMissing::Refuse => format!(
                "service {name:?} has no endpoint with tag {tag:?} that takes calls, and its subset_missing is `refuse`; list an endpoint with this tag"
            ),
            _ => {
                format!("service {name:?} has no endpoint that takes calls; the operation upstream.list shows its listing and its trouble")
            }
        };
        Fault::new(FaultKind::NoEndpoint, Blame::Upstream, Retry::Safe, detail)
    }

    /// Does anybody ask how many bodies are still on their way? See `hold`.
    fn holds_bodies(&self) -> bool {
        let compares = self.config.policy == Policy::LeastRequest || self.config.policy.compares_latency();
        compares || self.config.in_flight_max.is_some()
    }

    /// Every call pays its share of the retry budget.
    fn save(&self) {
        let saved = self.core.saved.get() + self.config.retry.budget_percent;
        if saved >= SAVED_CALLS * self.config.retry.budget_percent {
            self.service.budget.pay_in(saved);
            self.core.saved.set(0);
        } else {
            self.core.saved.set(saved);
        }
    }

    /// Pays for one retry.
    fn pay(&self) -> bool {
        let paid = self.take_from_budget();
        if paid {
            self.core.counts.retries.add(1);
        }
        paid
    }

    /// Pays for a second try beside the first.
    pub(crate) fn pay_hedge(&self) -> bool {
        let paid = self.take_from_budget();
        if paid {
            self.core.counts.hedges(self.service.registry(), self.service.name()).made.add(1);
        }
        paid
    }

    /// One of two tries has answered.
    pub(crate) fn hedged(&self, won: bool) {
        if won {
            self.core.counts.hedges(self.service.registry(), self.service.name()).won.add(1);
        }
    }

    fn take_from_budget(&self) -> bool {
        self.service.budget.pay_in(self.core.saved.take());
        let paid = self.service.budget.take();
        if !paid {
            self.core.counts.exhausted.add(1);
        }
        paid
    }
}

/// At least one: none is for what did not happen. A head is waited for an hour at most, and there is room for 71 minutes.
#[inline]
fn micros(time: Duration) -> u32 {
    (time.as_secs() as u32).wrapping_mul(1_000_000).wrapping_add(time.subsec_micros()).max(1)
}

/// Ends the span of a try.
#[cold]
pub(crate) fn traced(exchange: &mut Exchange, open: Open, said: &Result<Answer, Fault>, ended: Instant) {
    let status = said.as_ref().map_or(0, |answer| answer.head.status);
    trace::end_try(exchange, open, ended, status, said.as_ref().err().map(Fault::word));
}

/// One try, counted whichever way it ends; dropped before its end, it was cancelled.
pub(crate) struct Try(Option<InFlight>);

impl Try {
    pub(crate) fn of(row: Rc<Row>) -> Try {
        Try(Some(InFlight::at(row)))
    }

    pub(crate) fn ended(mut self, said: &Result<Answer, Fault>) -> Option<InFlight> {
        let in_flight = self.0.take()?;
        match said {
            Ok(answer) => in_flight.row().counts.answered(answer.head.status),
            Err(fault) => in_flight.row().counts.failed(fault),
        }
        Some(in_flight)
    }

    /// It failed, and not for its endpoint's sake.
    pub(crate) fn unjudged(mut self, said: &Result<Answer, Fault>) -> Option<InFlight> {
        let in_flight = self.0.take()?;
        match said {
            Err(fault) if fault.blame == Blame::Caller => in_flight.row().counts.failed(fault),
            _ => in_flight.row().counts.unjudged(),
        }
        Some(in_flight)
    }
}

impl Drop for Try {
    fn drop(&mut self) {
        if let Some(in_flight) = &self.0 {
            in_flight.row().counts.cancelled();
        }
    }
}
