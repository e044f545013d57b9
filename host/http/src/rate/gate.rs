//! Rate limits in their places: before a route's plugins, right after its auth plugins, and before a service.

use super::{Limit, Rate};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use wharf_core::LocalBoxFuture;
use wharf_core::edit::Edits;
use wharf_core::exchange::{Answer, Exchange, Facts};
use wharf_core::fault::{Fault, FaultKind, Limited};
use wharf_core::metrics::Count;
use wharf_core::outlet::{Outlet, Wish};
use wharf_core::rules::{Authenticate, Decision, Filter};

/// A limit in its place: behind the door of rules that refuse.
pub struct Gate {
    /// As the configuration calls it, for messages.
    pub name: Box<str>,
    /// Shared by all cores.
    pub limit: Arc<Limit>,
    /// Requests refused.
    pub refused: Arc<Count>,
}

impl Gate {
    fn pass(&self, facts: &Facts) -> Result<(), Fault> {
        let after = match self.limit.take(facts, self.limit.began.elapsed()) {
            Ok(()) => return Ok(()),
            Err(after) => after,
        };
        self.refused.add(1);
        let Rate { limit, per, .. } = self.limit.rate;
        let what = format!("more than {limit} requests in {per:?} (rate limit `{}`)", self.name);
        let millis = |time: Duration| u32::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(u32::MAX);
        Err(Fault::caller(FaultKind::Limited(Limited { limit, per_ms: millis(per), after_ms: millis(after) }), what))
    }
}

/// Before the auth plugins: what can be counted without knowing who it is.
impl Authenticate for Gate {
    fn check<'a>(&'a self, facts: &'a mut Facts) -> LocalBoxFuture<'a, Result<Decision, Fault>> {
        let said = self.pass(facts).map(|()| Decision::Next(Edits::default()));
        Box::pin(async { said })
    }
}

/// Right after them: what is counted by consumer.
impl Filter for Gate {
    fn sees_requests(&self) -> bool {
        true
    }

    fn sees_responses(&self) -> bool {
        false
    }

    fn on_request<'a>(&'a self, facts: &'a mut Facts) -> LocalBoxFuture<'a, Result<Decision, Fault>> {
        let said = self.pass(facts).map(|()| Decision::Next(Edits::default()));
        Box::pin(async { said })
    }

    fn on_response<'a>(&'a self, _: &'a mut Facts) -> LocalBoxFuture<'a, Result<Edits, Fault>> {
        Box::pin(async { Ok(Edits::default()) })
    }
}

/// A service behind its limits: what is refused here asks nobody. A call counts once, however often it is tried.
pub struct Rationed {
    /// All must let it pass.
    pub gates: Box<[Gate]>,
    /// The service.
    pub inner: Rc<dyn Outlet>,
}

impl Outlet for Rationed {
    fn call<'a>(&'a self, exchange: &'a mut Exchange, wish: &'a Wish) -> LocalBoxFuture<'a, Result<Answer, Fault>> {
        match self.gates.iter().try_for_each(|gate| gate.pass(&exchange.facts)) {
            Ok(()) => self.inner.call(exchange, wish),
            Err(fault) => Box::pin(async { Err(fault) }),
        }
    }
}
