//! THE LIFE OF A CALL: refuse early, choose, try, judge, try again.
//!
//! Core-local. It sets no timer: the protocol bounds each try by its limits and the exchange's deadline. What is decided
//! without waiting is in `balance` and `retry`; what all cores share is in `service`.

use crate::balance::Policy;
use crate::config::{OutletConfig, SubsetMissing};
use crate::hold::{self, InFlight, Place};
use crate::metrics::ServiceCounts;
use crate::retry::{self, Failed};
use crate::roster::{Roster, Row, Tried};
use crate::service::Service;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;
use wharf_core::LocalBoxFuture;
use wharf_core::body::Body;
use wharf_core::exchange::{Answer, Exchange};
use wharf_core::fault::{Blame, Fault, FaultKind, Retry};
use wharf_core::outlet::{Outlet, Protocol, Wish};

/// One service as one core calls it in one generation, by the protocol `P`.
pub struct ServiceOutlet<P> {
    service: Arc<Service>,
    protocol: Rc<P>,
    config: OutletConfig,
    core: Rc<Core>,
}

/// What outlives a generation.
struct Core {
    roster: RefCell<Roster>,
    counts: ServiceCounts,
    /// Paid into the service's retry budget every few calls.
    saved: Cell<u32>,
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
                roster: RefCell::new(Roster::new(registry.clone(), config.policy, core)),
                counts: ServiceCounts::new(&registry, service.name()),
                saved: Cell::new(0),
            })
        });
        ServiceOutlet { service, protocol, config, core }
    }

    /// The service that is called.
    pub fn service(&self) -> &Arc<Service> {
        &self.service
    }
}

impl<P: Protocol> Outlet for ServiceOutlet<P> {
    fn call<'a>(&'a self, exchange: &'a mut Exchange, wish: &'a Wish) -> LocalBoxFuture<'a, Result<Answer, Fault>> {
        // Made in its box: `Box::pin` would make it on the stack and move it there.
        let made = Box::write(Box::new_uninit(), call(self, exchange, wish));
        Box::into_pin(made)
    }
}

async fn call<P: Protocol>(outlet: &ServiceOutlet<P>, exchange: &mut Exchange, wish: &Wish) -> Result<Answer, Fault> {
    let place = outlet.admit()?;
    outlet.save();
    let idempotent = exchange.facts.request.method.is_idempotent() && exchange.upgrade.is_none();
    let mut tried = Tried::default();
    let mut started = now();
    loop {
        let row = outlet.choose(wish, &tried, started)?;
        tried.add(row.endpoint.id);
        exchange.trail.tries += 1;
        exchange.trail.endpoint = Some(row.endpoint.clone());

        // A stream can be sent once. Once taken, it leaves `Empty` behind, which must not pass for a body of nothing.
        let replayable = exchange.body.is_replayable();
        let one_try = Try::of(row.clone());
        let said = outlet.protocol.send(&row.endpoint, exchange, &outlet.config.limits).await;
        let ended = now();
        let in_flight = one_try.ended(&said);

        let fault = match &said {
            Ok(_) => {
                outlet.core.counts.head.record(ended.saturating_duration_since(started));
                outlet.service.reached();
                return match outlet.holds_bodies() {
                    // As it is: an answer is large enough for every move of it to be felt.
                    false => said,
                    true => said.map(|answer| hold::until_the_end(answer, (in_flight, place))),
                };
            }
            Err(fault) => fault,
        };
        drop(in_flight);
        if retry::is_unreachable(fault) {
            outlet.core.roster.borrow_mut().spare(&row, ended);
            outlet.service.unreachable();
        }
        let failed = Failed {
            fault,
            tries: exchange.trail.tries,
            idempotent,
            body_whole: replayable || (fault.retry == Retry::Safe && matches!(exchange.body, Body::Stream(_))),
            others: outlet.has_others(wish, &tried),
            time_left: ended < exchange.deadline,
        };
        if !retry::may_repeat(&outlet.config.retry, &failed) || !outlet.pay() {
            return said;
        }
        started = ended;
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

    fn choose(&self, wish: &Wish, tried: &Tried, now: Instant) -> Result<Rc<Row>, Fault> {
        let mut roster = self.core.roster.borrow_mut();
        roster.look(&self.service);
        roster
            .pick(wish.subset.as_deref(), tried, now)
            .or_else(|| self.any_instead(wish).then(|| roster.pick(None, tried, now)).flatten())
            .ok_or_else(|| self.nobody(wish))
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
        self.config.policy == Policy::LeastRequest || self.config.in_flight_max.is_some()
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
        self.service.budget.pay_in(self.core.saved.take());
        let paid = self.service.budget.take();
        let count = if paid { &self.core.counts.retries } else { &self.core.counts.exhausted };
        count.add(1);
        paid
    }
}

/// One try, counted whichever way it ends; dropped before its end, it was cancelled.
struct Try(Option<InFlight>);

impl Try {
    fn of(row: Rc<Row>) -> Try {
        Try(Some(InFlight::at(row)))
    }

    fn ended(mut self, said: &Result<Answer, Fault>) -> Option<InFlight> {
        let in_flight = self.0.take()?;
        match said {
            Ok(answer) => in_flight.row().counts.answered(answer.head.status),
            Err(fault) => in_flight.row().counts.failed(fault),
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

/// Tokio's clock is the system's, except in tests, where it can be paused.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
