//! One turn of a guest on a thread: from the poll that enters it to the moment it leaves.
//!
//! What a turn knows lives in the thread and not in the store, because the same call may take turns on two threads: the
//! epoch callback asks here whose turn it is and how long it has lasted, and says here that it was cut short.

use crate::moment::Moment;
use crate::ticker::Presence;
use std::any::Any;
use std::cell::Cell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use wharf_core::metrics::nanos;

/// A turn that is younger than this when somebody looks goes on. Without it every short call that is met by a look
/// would be moved; with it no turn on a network thread is longer than this and the time between two looks.
pub(crate) const YOUNG: u64 = nanos(Duration::from_micros(50));

#[derive(Clone, Copy)]
enum Place {
    Nowhere,
    /// A network thread, since.
    Core(Moment),
    GuestThread,
}

/// Processor time that a turn uses between two looks at it before it is cut. A turn whose thread was merely kept waiting
/// by others has used next to none: it is short, and to move it to a thread of low priority would make it late.
const WORKED: Duration = Duration::from_micros(30);

thread_local! {
    static PLACE: Cell<Place> = const { Cell::new(Place::Nowhere) };
    static CUT: Cell<bool> = const { Cell::new(false) };
    /// Processor time of this thread when its present turn was first found to be long.
    static LONG_AT: Cell<Option<Duration>> = const { Cell::new(None) };
}

fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// What became of a turn.
pub(crate) enum Turned<T> {
    /// The call is over.
    Done(T),
    /// It waits for a host call.
    Waits,
    /// It was cut short and must leave the network thread.
    Cut,
    /// The host panicked inside it. The call must not be polled again.
    Panicked(Box<dyn Any + Send>),
}

/// A turn on a network thread; `now` is its beginning.
pub(crate) fn on_core<F: Future + ?Sized>(
    presence: &Presence,
    now: Moment,
    call: Pin<&mut F>,
    task: &mut Context<'_>,
) -> Turned<F::Output> {
    turn(presence, now, Place::Core(now), call, task)
}

/// A turn on a guest thread, where guests take turns at every tick.
pub(crate) fn on_guest_thread<F: Future + ?Sized>(presence: &Presence, call: Pin<&mut F>, task: &mut Context<'_>) -> Turned<F::Output> {
    turn(presence, Moment::now(), Place::GuestThread, call, task)
}

fn turn<F: Future + ?Sized>(
    presence: &Presence,
    now: Moment,
    place: Place,
    call: Pin<&mut F>,
    task: &mut Context<'_>,
) -> Turned<F::Output> {
    PLACE.set(place);
    CUT.set(false);
    LONG_AT.set(None);
    presence.enter(now);
    // A fault of the host inside a call (a bug of ours, of the engine, of a library) costs that call, not the thread
    // with all its connections. The call's store is never entered again, so what it left behind cannot be seen.
    let polled = catch_unwind(AssertUnwindSafe(|| call.poll(task)));
    presence.leave();
    PLACE.set(Place::Nowhere);
    match polled {
        Ok(Poll::Ready(done)) => Turned::Done(done),
        Ok(Poll::Pending) if CUT.get() => Turned::Cut,
        Ok(Poll::Pending) => Turned::Waits,
        Err(panic) => Turned::Panicked(panic),
    }
}

/// What the epoch callback does at a tick.
pub(crate) enum AtTick {
    /// Goes on.
    GoOn,
    /// Gives up its turn.
    GiveWay,
}

fn has_worked() -> bool {
    let now = processor_time();
    match LONG_AT.get() {
        Some(before) => now.saturating_sub(before) >= WORKED,
        None => {
            LONG_AT.set(Some(now));
            false
        }
    }
}

/// Asked by the epoch callback.
pub(crate) fn at_tick(now: Moment) -> AtTick {
    match PLACE.get() {
        Place::Core(since) if now.since(since) < YOUNG => AtTick::GoOn,
        Place::Core(_) if !has_worked() => AtTick::GoOn,
        Place::Core(_) | Place::GuestThread | Place::Nowhere => {
            CUT.set(true);
            AtTick::GiveWay
        }
    }
}

/// Asks that the present call leave its network thread; resolves at once if it has left already. Host calls that will
/// work for long without looking at the epoch (a signature on a large curve, a hash of a megabyte) await this first.
pub(crate) async fn leave_core() {
    std::future::poll_fn(|task| match PLACE.get() {
        Place::Core(_) => {
            CUT.set(true);
            task.waker().wake_by_ref();
            Poll::Pending
        }
        Place::GuestThread | Place::Nowhere => Poll::Ready(()),
    })
    .await;
}
