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
//! What every call does is plain code between two reads of the clock (`at_once`, `over`); what a few do is in futures of its
//! own that are boxed when it comes to that, so that all others carry none of it along.
//!
//! What a question is made of is in `rules/`; this file knows no role.

use crate::error::{Broken, Stop, panic_text};
use crate::grants::http::Home;
use crate::grants::log::Gate;
use crate::guest_thread::{Ended, Moved, Moving};
use crate::instance::{Instance, Tally};
use crate::limits::{GRACE, REHEARSAL};
use crate::moment::Moment;
use crate::pool::{CUTS, LONG, Pool, Seat};
use crate::ready::Ready;
use crate::turn::{self, Turned};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;
use wharf_core::exchange::Facts;
use wharf_core::fault::Fault;
use wharf_core::metrics::nanos;

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
    let asked = Moment::now();
    let seated = match pool.take() {
        Ok(Seat::Warm(instance)) => Ok((instance, asked)),
        Ok(Seat::Cold) => Box::pin(made(pool, asked)).await,
        Err(broken) => Err(broken),
    };
    let (instance, begun) = match seated {
        Ok(seated) => seated,
        Err(broken) => return over(pool, Q::NAME, (Err(broken), Tally::default()), asked),
    };
    let mut given = Some((instance, question));
    // Ready in any case: what a turn needs of this task is its waker.
    let first = std::future::poll_fn(|task| match given.take() {
        Some((instance, question)) => Poll::Ready(at_once(pool, facts, instance, question, (asked, begun), task)),
        None => Poll::Pending,
    });
    match first.await {
        Ok(said) => said,
        Err(later) => Box::pin(go_on(pool, facts, Q::NAME, later, asked)).await,
    }
}

/// A call that did not end in its first turn.
struct Later<A> {
    call: Moving<Done<A>>,
    shared: Arc<Facts>,
    deadline: Moment,
    /// It waits for a host call; else it computes.
    waits: bool,
}

/// The whole of a call that ends in its first turn.
fn at_once<Q: Question>(
    pool: &Rc<Pool>,
    facts: &mut Facts,
    instance: Box<Instance>,
    question: Q,
    (asked, begun): (Moment, Moment),
    task: &mut Context<'_>,
) -> Result<Result<Q::Answer, Broken>, Later<Q::Answer>> {
    let mut shared = pool.core.facts_box();
    if let Some(inside) = Arc::get_mut(&mut shared) {
        std::mem::swap(inside, facts);
    }
    let deadline = begun.after(pool.deadline_ns);
    let mut call = Box::pin(run(instance, shared.clone(), question, deadline));
    let said = match first_turn(pool, begun, call.as_mut(), task) {
        First::Over(said) => said,
        First::Waits => return Err(Later { call, shared, deadline, waits: true }),
        First::Leaves => return Err(Later { call, shared, deadline, waits: false }),
    };
    put_back(pool, facts, shared);
    Ok(over(pool, Q::NAME, said, asked))
}

/// The rest of a call that goes on after its first turn.
async fn go_on<A: Send + 'static>(
    pool: &Rc<Pool>,
    facts: &mut Facts,
    name: Name,
    Later { call, shared, deadline, waits }: Later<A>,
    asked: Moment,
) -> Result<A, Broken> {
    let said = match waits {
        true => stay(pool, call, deadline).await,
        false => elsewhere(pool, call, deadline).await,
    };
    put_back(pool, facts, shared);
    over(pool, name, said, asked)
}

/// The facts are the exchange's again.
fn put_back(pool: &Pool, facts: &mut Facts, mut shared: Arc<Facts>) {
    // Unique again in all cases but two: the guest thread has not let go yet of a call that we gave up, or a
    // panic took the store's copy with it. Then the exchange goes on with a copy.
    match Arc::get_mut(&mut shared) {
        Some(inside) => {
            std::mem::swap(inside, facts);
            pool.core.keep_box(shared);
        }
        None => facts.clone_from(&shared),
    }
}

/// A question is over: it is counted, and its instance goes back.
fn over<A>(pool: &Pool, name: Name, (said, tally): Said<A>, asked: Moment) -> Result<A, Broken> {
    let now = Moment::now();
    let took = now.since(asked);
    if let Some(watch) = tally.first_turn
        && (took > LONG || watch.is_some())
    {
        pool.watched(watch, took, now);
    }
    pool.metrics.record(name, said.as_ref().err(), &tally, took);
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

/// Making an instance has the time of a rehearsal, as the contract says; the question's own time begins afterwards.
async fn made(pool: &Rc<Pool>, begun: Moment) -> Result<(Box<Instance>, Moment), Broken> {
    let (ready, home, gate) = (pool.ready.clone(), pool.core.home(), pool.gate.clone());
    let mut making: Moving<Done<()>> = Box::pin(async move {
        match make(&ready, home, gate).await {
            Ok(instance) => Done { said: Ok(()), instance: Some(instance), tally: Tally::default() },
            Err(broken) => Done { said: Err(broken), instance: None, tally: Tally::default() },
        }
    });
    let deadline = begun.after(nanos(REHEARSAL));
    let first = std::future::poll_fn(|task| Poll::Ready(first_turn(pool, begun, making.as_mut(), task))).await;
    let (made, _) = match first {
        First::Over(made) => made,
        First::Waits => stay(pool, making, deadline).await,
        First::Leaves => elsewhere(pool, making, deadline).await,
    };
    made.map(|((), instance)| (instance, Moment::now()))
}

/// What became of a first turn.
enum First<A> {
    Over(Said<A>),
    Waits,
    /// It goes on elsewhere, or begins there.
    Leaves,
}

fn first_turn<A, F>(pool: &Rc<Pool>, begun: Moment, call: Pin<&mut F>, task: &mut Context<'_>) -> First<A>
where
    F: Future<Output = Done<A>> + ?Sized,
{
    if pool.is_banished(begun) {
        return First::Leaves;
    }
    pool.approach(begun);
    let watch = pool.watch();
    match turn::on_core(pool.core.presence(), begun, call, task) {
        Turned::Done(mut done) => {
            pool.proved();
            // Its end is told by the caller's clock; see `Pool::watched`.
            done.tally.first_turn = Some(watch);
            First::Over(settle(Ended::Done(done, Moved::default())))
        }
        Turned::Panicked(panic) => First::Over(settle(Ended::Panicked(panic))),
        Turned::Waits => First::Waits,
        Turned::Cut => First::Leaves,
    }
}

/// A call that waits for a host call stays on its core.
async fn stay<A: Send + 'static>(pool: &Rc<Pool>, mut call: Moving<Done<A>>, deadline: Moment) -> Said<A> {
    let place = match Place::take(pool) {
        Ok(place) => place,
        Err(broken) => return (Err(broken), Tally::default()),
    };
    let presence = pool.core.presence();
    let mut taken = 0;
    let turns = std::future::poll_fn(|task| match turn::on_core(presence, Moment::now(), call.as_mut(), task) {
        Turned::Waits if taken < TURNS_MAX => {
            taken += 1;
            Poll::Pending
        }
        other => Poll::Ready(other),
    });
    match tokio::time::timeout_at(deadline.instant().into(), turns).await {
        Ok(Turned::Done(done)) => settle(Ended::Done(done, Moved::default())),
        Ok(Turned::Panicked(panic)) => settle(Ended::Panicked(panic)),
        Ok(Turned::Cut | Turned::Waits) => moved(pool, call, deadline, place).await,
        Err(_) => settle(Ended::TooLate(Moved::default())),
    }
}

/// A call that computes leaves its core.
async fn elsewhere<A: Send + 'static>(pool: &Rc<Pool>, call: Moving<Done<A>>, deadline: Moment) -> Said<A> {
    match Place::take(pool) {
        Ok(place) => moved(pool, call, deadline, place).await,
        Err(broken) => (Err(broken), Tally::default()),
    }
}

async fn moved<A: Send + 'static>(pool: &Rc<Pool>, call: Moving<Done<A>>, deadline: Moment, _place: Place<'_>) -> Said<A> {
    pool.metrics.moved();
    // One that comes here at its deadline was kept from its processor, see `instance::at_tick`.
    let deadline = deadline.max(Moment::now().after(nanos(AT_LEAST))).instant();
    let ended = pool.ready.code.loaded().engine.guest_threads.run(call, deadline.into(), pool.is_hopeless());
    // The guest thread ends it at its deadline; if that thread is itself late (low priority on a full machine), the
    // exchange does not wait for it. Dropping the receiver tells it to let go.
    match tokio::time::timeout_at((deadline + GRACE).into(), ended).await {
        Ok(Ok(ended)) => {
            // A short call whose thread was taken away by the kernel at a bad moment is moved too, and ends in its next
            // turn. One that goes on for several is a long one.
            if matches!(ended, Ended::Done(_, moved) if moved.cut >= CUTS) {
                pool.strike(Moment::now());
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

/// What a call that has to be moved may take in any case: the turns that show whether it computes.
const AT_LEAST: Duration = Duration::from_millis(1);
const _: () = assert!(GRACE.as_millis() + AT_LEAST.as_millis() < 10, "the promise is deadline + 10 ms");

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
async fn run<Q: Question>(mut instance: Box<Instance>, facts: Arc<Facts>, question: Q, deadline: Moment) -> Done<Q::Answer> {
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
