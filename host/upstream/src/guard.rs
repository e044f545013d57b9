//! What stands before an outlet: a breaker, an adaptive limit, or both. Only services and routes that have one are asked
//! through this; for all others it is not there.

use crate::breaker::{Breaker, Ended, Pass, Refused};
use crate::care::now;
use crate::hold;
use crate::limit::Limiter;
use crate::retry;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wharf_core::LocalBoxFuture;
use wharf_core::exchange::{Answer, Exchange};
use wharf_core::fault::{Fault, FaultKind};
use wharf_core::outlet::{Outlet, Wish};

/// See the head of the file.
pub struct Guarded {
    breaker: Option<Arc<Breaker>>,
    limiter: Option<Arc<Limiter>>,
    inner: Rc<dyn Outlet>,
}

impl Guarded {
    /// The outlet behind these guards; as it is, if there are none.
    pub fn outlet(inner: Rc<dyn Outlet>, breaker: Option<Arc<Breaker>>, limiter: Option<Arc<Limiter>>) -> Rc<dyn Outlet> {
        if breaker.is_none() && limiter.is_none() { inner } else { Rc::new(Guarded { breaker, limiter, inner }) }
    }
}

impl Outlet for Guarded {
    fn call<'a>(&'a self, exchange: &'a mut Exchange, wish: &'a Wish) -> LocalBoxFuture<'a, Result<Answer, Fault>> {
        Box::pin(async move {
            let mut inside = Inside::enter(self)?;
            let said = self.inner.call(exchange, wish).await;
            inside.ended(outcome(&said));
            said.map(|answer| hold::until_the_end(answer, inside))
        })
    }
}

/// What a call says of its service; `None`: nothing, since it was the caller's fault, or a limit of ours.
fn outcome(said: &Result<Answer, Fault>) -> Option<Said> {
    match said {
        Ok(answer) => {
            let status = retry::judged_status(answer);
            Some(Said { failed: status >= 500, late: matches!(status, 429 | 503 | 504) })
        }
        Err(fault) => match fault.kind {
            FaultKind::Timeout(_) => Some(Said { failed: true, late: true }),
            FaultKind::Connect | FaultKind::Reset | FaultKind::BadAnswer | FaultKind::NoEndpoint => {
                Some(Said { failed: true, late: false })
            }
            _ => None,
        },
    }
}

struct Said {
    failed: bool,
    late: bool,
}

/// A call that was let in; whichever way it ends, dropping this gives its places back.
struct Inside {
    breaker: Option<(Arc<Breaker>, Option<Pass>)>,
    limiter: Option<Arc<Limiter>>,
    started: Instant,
}

impl Inside {
    fn enter(guarded: &Guarded) -> Result<Inside, Fault> {
        let mut inside = Inside { breaker: None, limiter: None, started: now() };
        if let Some(breaker) = &guarded.breaker {
            let pass = breaker.enter(breaker.ms(inside.started)).map_err(|why| refused(breaker, why))?;
            inside.breaker = Some((breaker.clone(), Some(pass)));
        }
        if let Some(limiter) = &guarded.limiter {
            limiter.enter().map_err(|limit| {
                let what = format!(
                    "service {:?} has {limit} calls in flight, which is what its `adaptive_concurrency` has found that it can do",
                    limiter.name()
                );
                Fault::overload("adaptive_concurrency", what).after(Duration::from_secs(1))
            })?;
            inside.limiter = Some(limiter.clone());
        }
        Ok(inside)
    }

    fn ended(&mut self, said: Option<Said>) {
        let now = now();
        let took = now.saturating_duration_since(self.started);
        if let Some((breaker, pass)) = &mut self.breaker
            && let Some(pass) = pass.take()
        {
            breaker.ended(pass, breaker.ms(now), said.as_ref().map(|said| Ended { failed: said.failed, took }));
        }
        if let (Some(limiter), Some(said)) = (&self.limiter, said) {
            limiter.took(now, took, said.late);
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        if let Some((breaker, pass)) = &mut self.breaker {
            if let Some(pass) = pass.take() {
                let now = now();
                let took = now.saturating_duration_since(self.started);
                // Given up by its caller: nobody knows what it would have been, but that it was slow.
                let slow = breaker.policy().slow.is_some() && took > breaker.policy().slow_after;
                breaker.ended(pass, breaker.ms(now), slow.then_some(Ended { failed: false, took }));
            }
            breaker.left();
        }
        if let Some(limiter) = &self.limiter {
            limiter.left();
        }
    }
}

#[cold]
fn refused(breaker: &Breaker, why: Refused) -> Fault {
    let (what, name) = (breaker.guards().as_str(), breaker.name());
    match why {
        Refused::Open(wait) => {
            Fault::overload("breaker", format!("the breaker of {what} {name:?} is open, for another {wait:?}")).after(wait)
        }
        Refused::Full(max) => {
            let text = format!("{what} {name:?} has {max} calls in flight, which is its breaker's `in_flight_max`");
            Fault::overload("breaker", text).after(Duration::from_secs(1))
        }
    }
}
