//! THE LIFE OF ONE CALL, top to bottom.
//!
//! ```text
//! seat     = pool.take()            a warm instance, or the right to make one; refused early if the plugin's house is full
//! facts -> shared                   the call takes them along, so it can change threads; they come back at the end
//! turn     = poll once, here        nearly every call ends in this turn and has cost no task, no thread, no timer
//!   done   -> 8
//!   waits  -> stay here, under a timer, and take a turn whenever the host call is answered
//!   cut    -> move to the guest thread, and wait for a message
//! 8. count, give the instance back or throw it away, put the facts back, say what was said
//! ```
//!
//! What a question is made of is in `rules/`; this file knows no role.

use crate::error::{Broken, Stop, panic_text};
use crate::grants::http::Home;
use crate::grants::log::Gate;
use crate::guest_thread::{Ended, Moved, Moving};
use crate::instance::{Instance, Tally};
use crate::limits::{GRACE, REHEARSAL};
use crate::pool::{CUTS, LONG, Pool, Seat};
use crate::ready::Ready;
use crate::turn::{self, Turned};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Instant;
use wharf_core::exchange::Facts;
use wharf_core::fault::Fault;

/// Turns that a call which waits for host calls takes on its core. One that goes on asking, however short its turns are,
/// does so with the low priority of the guest thread from then on.
const TURNS_MAX: u32 = 16;

/// A question of one role.
pub(crate) trait Question: Send + 'static {
    /// What is said to it, in core's nouns.
    type Answer: Send + 'static;
    /// Its number and word in the metrics.
    const NAME: Name;

    /// Puts it to an instance.
    fn put(&self, instance: &mut Instance, facts: &Facts) -> impl Future<Output = Result<Self::Answer, Broken>> + Send;
}

/// Names of questions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Name {
    Check,
    Pick,
    OnRequest,
    OnResponse,
    OnFault,
}

impl Name {
    pub(crate) const COUNT: usize = 5;

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Name::Check => "check",
            Name::Pick => "pick",
            Name::OnRequest => "on_request",
            Name::OnResponse => "on_response",
            Name::OnFault => "on_fault",
        }
    }
}

/// What a call leaves behind.
struct Done<A> {
    said: Result<A, Broken>,
    /// None: it broke, and the instance is gone already (on the thread where it broke).
    instance: Option<Box<Instance>>,
    tally: Tally,
}

/// Asks, and if the version fails by its own fault and there is a last good one, asks that.
///
/// # Errors
/// What broke, as the exchange hears it. The facts are in place, whatever happened.
///
/// # Cancel safety
/// Dropping the future ends the call and throws its instance away; the facts may stay empty.
pub(crate) async fn ask<Q: Question + Clone>(
    pool: &Rc<Pool>,
    last_good: Option<&Rc<Pool>>,
    facts: &mut Facts,
    question: Q,
) -> Result<Q::Answer, Fault> {
    let Some(last_good) = last_good else {
        return ask_one(pool, facts, question).await.map_err(|broken| broken.fault(&pool.ready.setup));
    };
    // Apart, as are the rare ways below: what every call carries along stays small.
    Box::pin(ask_either(pool, last_good, facts, question)).await
}

async fn ask_either<Q: Question + Clone>(
    pool: &Rc<Pool>,
    last_good: &Rc<Pool>,
    facts: &mut Facts,
    question: Q,
) -> Result<Q::Answer, Fault> {
    match ask_one(pool, facts, question.clone()).await {
        Ok(answer) => Ok(answer),
        // A version that breaks most of its questions runs only where nobody else wants to: that a busy machine has no
        // processor for it is its own doing.
        Err(broken) if broken.is_plugins() || matches!(broken, Broken::NoRoom(PROCESSOR)) && pool.is_hopeless() => {
            pool.metrics.fell_back();
            // The first fault is the one worth telling: the operator has to mend the new version, not the old one.
            ask_one(last_good, facts, question).await.map_err(|_| broken.fault(&pool.ready.setup))
        }
        Err(broken) => Err(broken.fault(&pool.ready.setup)),
    }
}

async fn ask_one<Q: Question>(pool: &Rc<Pool>, facts: &mut Facts, question: Q) -> Result<Q::Answer, Broken> {
    let begun = Instant::now();
    let (said, tally) = match seated(pool, begun).await {
        Err(broken) => (Err(broken), Tally::default()),
        Ok((instance, begun)) => {
            let mut shared = pool.core.facts_box();
            if let Some(inside) = Arc::get_mut(&mut shared) {
                std::mem::swap(inside, facts);
            }
            let deadline = begun + pool.ready.setup.quotas.deadline;
            let ended = live(pool, Box::pin(run(instance, shared.clone(), question, deadline)), begun, deadline).await;
            // Unique again in all cases but two: the guest thread has not let go yet of a call that we gave up, or a
            // panic took the store's copy with it. Then the exchange goes on with a copy.
            match Arc::get_mut(&mut shared) {
                Some(inside) => {
                    std::mem::swap(inside, facts);
                    pool.core.keep_box(shared);
                }
                None => facts.clone_from(&shared),
            }
            ended
        }
    };
    let now = Instant::now();
    let took = now.saturating_duration_since(begun);
    if let Some(watch) = tally.first_turn
        && (took > LONG || watch.is_some())
    {
        pool.watched(watch, took, now);
    }
    pool.metrics.record(Q::NAME, said.as_ref().err(), &tally, took);
    match said {
        Ok((answer, instance)) => {
            pool.answered();
            pool.put(instance, now);
            Ok(answer)
        }
        Err(broken) => {
            if broken.is_plugins() {
                pool.broke(now);
                pool.core.report(&pool.ready.setup, &broken);
            }
            Err(broken)
        }
    }
}

type Said<A> = (Result<(A, Box<Instance>), Broken>, Tally);

/// An instance for this question: a warm one, or one that is made now. Making has the time of a rehearsal, as the
/// contract says; the question's own time begins afterwards.
async fn seated(pool: &Rc<Pool>, begun: Instant) -> Result<(Box<Instance>, Instant), Broken> {
    match pool.take()? {
        Seat::Warm(instance) => Ok((instance, begun)),
        Seat::Cold => Box::pin(made(pool, begun)).await,
    }
}

async fn made(pool: &Rc<Pool>, begun: Instant) -> Result<(Box<Instance>, Instant), Broken> {
    let (ready, home, gate) = (pool.ready.clone(), pool.core.home(), pool.gate.clone());
    let making = Box::pin(async move {
        match make(&ready, home, gate).await {
            Ok(instance) => Done { said: Ok(()), instance: Some(instance), tally: Tally::default() },
            Err(broken) => Done { said: Err(broken), instance: None, tally: Tally::default() },
        }
    });
    let (made, _) = live(pool, making, begun, begun + REHEARSAL).await;
    made.map(|((), instance)| (instance, Instant::now()))
}

/// From the first turn to the last.
async fn live<A: Send + 'static>(
    pool: &Rc<Pool>,
    mut call: Pin<Box<impl Future<Output = Done<A>> + Send + 'static>>,
    begun: Instant,
    deadline: Instant,
) -> Said<A> {
    if pool.is_banished(begun) {
        return Box::pin(elsewhere(pool, call, deadline)).await;
    }
    let presence = pool.core.presence();
    pool.approach(begun);
    let watch = pool.watch();
    let first = std::future::poll_fn(|task| Poll::Ready(turn::on_core(presence, begun, call.as_mut(), task))).await;
    match first {
        Turned::Done(mut done) => {
            pool.proved();
            // Its end is told by the caller's clock; see `Pool::watched`.
            done.tally.first_turn = Some(watch);
            settle(Ended::Done(done, Moved::default()))
        }
        Turned::Panicked(panic) => settle(Ended::Panicked(panic)),
        Turned::Waits => Box::pin(stay(pool, call, deadline)).await,
        Turned::Cut => Box::pin(elsewhere(pool, call, deadline)).await,
    }
}

/// A call that waits for a host call stays on its core.
async fn stay<A: Send + 'static>(
    pool: &Rc<Pool>,
    mut call: Pin<Box<impl Future<Output = Done<A>> + Send + 'static>>,
    deadline: Instant,
) -> Said<A> {
    let place = match Place::take(pool) {
        Ok(place) => place,
        Err(broken) => return (Err(broken), Tally::default()),
    };
    let presence = pool.core.presence();
    let mut taken = 0;
    let turns = std::future::poll_fn(|task| match turn::on_core(presence, Instant::now(), call.as_mut(), task) {
        Turned::Waits if taken < TURNS_MAX => {
            taken += 1;
            Poll::Pending
        }
        other => Poll::Ready(other),
    });
    match tokio::time::timeout_at(deadline.into(), turns).await {
        Ok(Turned::Done(done)) => settle(Ended::Done(done, Moved::default())),
        Ok(Turned::Panicked(panic)) => settle(Ended::Panicked(panic)),
        Ok(Turned::Cut | Turned::Waits) => moved(pool, call, deadline, place).await,
        Err(_) => settle(Ended::TooLate(Moved::default())),
    }
}

/// A call that computes leaves its core.
async fn elsewhere<A: Send + 'static>(
    pool: &Rc<Pool>,
    call: Pin<Box<impl Future<Output = Done<A>> + Send + 'static>>,
    deadline: Instant,
) -> Said<A> {
    match Place::take(pool) {
        Ok(place) => moved(pool, call, deadline, place).await,
        Err(broken) => (Err(broken), Tally::default()),
    }
}

async fn moved<A: Send + 'static>(
    pool: &Rc<Pool>,
    call: Pin<Box<impl Future<Output = Done<A>> + Send + 'static>>,
    deadline: Instant,
    _place: Place<'_>,
) -> Said<A> {
    pool.metrics.moved();
    let call: Moving<Done<A>> = call;
    let ended = pool.ready.code.loaded().engine.guest_threads.run(call, deadline.into(), pool.is_hopeless());
    // The guest thread ends it at its deadline; if that thread is itself late (low priority on a full machine), the
    // exchange does not wait for it. Dropping the receiver tells it to let go.
    match tokio::time::timeout_at((deadline + GRACE).into(), ended).await {
        Ok(Ok(ended)) => {
            // A short call whose thread was taken away by the kernel at a bad moment is moved too, and ends in its next
            // turn. One that goes on for several is a long one.
            if matches!(ended, Ended::Done(_, moved) if moved.cut >= CUTS) {
                pool.strike(Instant::now());
            }
            let starved = |moved: &Moved| moved.starved > pool.ready.setup.quotas.deadline / 2;
            match ended {
                // It took until its deadline because its thread was kept waiting: the machine is to blame.
                Ended::Done(Done { said: Err(Broken::Stopped(Stop::Deadline)), tally, .. }, moved) if starved(&moved) => {
                    (Err(Broken::NoRoom(PROCESSOR)), tally)
                }
                Ended::TooLate(moved) if starved(&moved) => (Err(Broken::NoRoom(PROCESSOR)), Tally::default()),
                ended => settle(ended),
            }
        }
        Ok(Err(_)) => (Err(Broken::Internal("the guest thread has ended".into())), Tally::default()),
        // So late that it could not even say so.
        Err(_) => (Err(Broken::NoRoom(PROCESSOR)), Tally::default()),
    }
}

/// The limit that a call met which was ready to go on and was not let.
pub(crate) const PROCESSOR: &str = "processor";

fn settle<A>(ended: Ended<Done<A>>) -> Said<A> {
    match ended {
        Ended::Done(Done { said: Ok(answer), instance: Some(instance), tally }, _) => (Ok((answer, instance)), tally),
        Ended::Done(Done { said: Err(broken), tally, .. }, _) => (Err(broken), tally),
        Ended::Done(Done { said: Ok(_), instance: None, tally }, _) => {
            (Err(Broken::Internal("an answer without an instance".into())), tally)
        }
        Ended::TooLate(_) => (Err(Broken::Stopped(Stop::Deadline)), Tally::default()),
        Ended::Panicked(panic) => (Err(Broken::Panic(panic_text(&*panic))), Tally::default()),
    }
}

/// The call itself. It owns all it needs and can change threads between two turns.
async fn run<Q: Question>(mut instance: Box<Instance>, facts: Arc<Facts>, question: Q, deadline: Instant) -> Done<Q::Answer> {
    instance.begin(facts.clone(), deadline);
    let said = question.put(&mut instance, &facts).await;
    let tally = instance.end();
    // After a trap nothing inside the instance can be trusted, itself included.
    let instance = said.is_ok().then_some(instance);
    Done { said, instance, tally }
}

/// A configured instance for a core.
pub(crate) async fn make(ready: &Arc<Ready>, home: Home, gate: Arc<Gate>) -> Result<Box<Instance>, Broken> {
    Instance::make(&ready.code, &ready.terms, Some((home, gate))).await?.configured().await
}

/// A place among the questions of one plugin that do not end at once.
struct Place<'a>(&'a Pool);

impl<'a> Place<'a> {
    fn take(pool: &'a Rc<Pool>) -> Result<Place<'a>, Broken> {
        let plugin = &pool.ready.terms.plugin;
        let place = Place(pool);
        if plugin.in_flight.fetch_add(1, Ordering::Relaxed) >= pool.ready.setup.quotas.concurrency_max {
            return Err(Broken::NoRoom("concurrency"));
        }
        Ok(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.ready.terms.plugin.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}
