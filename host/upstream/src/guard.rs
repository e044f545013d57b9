//! What stands before an outlet: a breaker, an adaptive limit, or both. Only services and routes that have one are asked
//! through this; for all others it is not there.

use crate::breaker::{Breaker, Ended, Pass, Refused};
use crate::care::now;
use crate::hold::{self, Held};
use crate::judge;
use crate::limit::Limiter;
use crate::retry;
use bytes::Bytes;
use std::cell::Cell;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use wharf_core::LocalBoxFuture;
use wharf_core::body::{Body, BodyStream};
use wharf_core::exchange::{Answer, Exchange, Upload};
use wharf_core::fault::{Fault, FaultKind};
use wharf_core::head::Fields;
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
            let mut inside = Inside::enter(self, exchange)?;
            let said = self.inner.call(exchange, wish).await;
            inside.ended(&said);
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
    limiter: Option<Rc<Place>>,
    started: Instant,
    upload: Option<Rc<Upload>>,
}

/// A place of an adaptive limit. It is somebody else's while the client is waited for: who sends or reads slowly takes none
/// from those who do not, and the limit is one of what the service works on.
struct Place {
    limiter: Arc<Limiter>,
    taken: Cell<bool>,
    /// The answer is there: the request's body has no say any more.
    answered: Cell<bool>,
}

impl Place {
    fn rest(&self) {
        if self.taken.replace(false) {
            self.limiter.left();
        }
    }

    fn go_on(&self) {
        if !self.taken.replace(true) {
            self.limiter.comes_back();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.rest();
        self.limiter.closed();
    }
}

/// The body of a request whose call rests while there is nothing to send.
struct Resting {
    inner: Box<dyn BodyStream>,
    /// Gone with its call.
    place: Weak<Place>,
}

impl BodyStream for Resting {
    fn poll_chunk(&mut self, task: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        let polled = self.inner.poll_chunk(task);
        if let Some(place) = self.place.upgrade().filter(|place| !place.answered.get()) {
            if polled.is_pending() { place.rest() } else { place.go_on() }
        }
        polled
    }

    fn trailers(&mut self) -> Option<Fields> {
        self.inner.trailers()
    }

    fn size(&self) -> Option<u64> {
        self.inner.size()
    }
}

impl Held for Inside {
    fn rest(&self) {
        if let Some(place) = &self.limiter {
            place.rest();
        }
    }

    fn go_on(&self) {
        if let Some(place) = &self.limiter {
            place.go_on();
        }
    }
}

impl Inside {
    fn enter(guarded: &Guarded, exchange: &mut Exchange) -> Result<Inside, Fault> {
        let mut inside = Inside { breaker: None, limiter: None, started: now(), upload: exchange.upload() };
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
            let place = Rc::new(Place { limiter: limiter.clone(), taken: Cell::new(true), answered: Cell::new(false) });
            exchange.body = match std::mem::take(&mut exchange.body) {
                Body::Stream(inner) => Body::Stream(Box::new(Resting { inner, place: Rc::downgrade(&place) })),
                here => here,
            };
            inside.limiter = Some(place);
        }
        Ok(inside)
    }

    fn ended(&mut self, said: &Result<Answer, Fault>) {
        let now = now();
        let upload = self.upload.as_deref();
        let took = judge::took(self.started, upload, now);
        let counts = judge::counts(said, self.started, upload, now);
        let said = outcome(said).filter(|said| counts || !(said.failed || said.late));
        if let Some((breaker, pass)) = &mut self.breaker
            && let Some(pass) = pass.take()
        {
            // Whether it was slow only its client knows: where that is asked, it says nothing.
            let known = |failed: bool| failed || took.is_some() || breaker.policy().slow.is_none();
            let said = said.as_ref().filter(|said| known(said.failed));
            breaker.ended(pass, breaker.ms(now), said.map(|said| Ended { failed: said.failed, took: took.unwrap_or_default() }));
        }
        if let Some(place) = &self.limiter {
            place.answered.set(true);
            if let Some(said) = said {
                place.limiter.took(now, took, said.late);
            }
            place.go_on();
        }
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        if let Some((breaker, pass)) = &mut self.breaker {
            if let Some(pass) = pass.take() {
                let now = now();
                let took = judge::took(self.started, self.upload.as_deref(), now);
                // Given up by its caller: nobody knows what it would have been, but that it was slow.
                let slow = took.filter(|took| breaker.policy().slow.is_some() && *took > breaker.policy().slow_after);
                breaker.ended(pass, breaker.ms(now), slow.map(|took| Ended { failed: false, took }));
            }
            breaker.left();
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
