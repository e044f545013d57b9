//! The clock that interrupts guests: what moves the engine's epoch on when a guest has been on a thread for too long.
//!
//! The epoch moves only then. A call of microseconds never meets a tick, however often somebody looks, so looking is
//! all that costs: a thread that wakes every 100 us takes 20 to 25 us of processor time for each wake-up on a virtual
//! machine (measured), a fifth of a core for nothing while all plugins behave. So there are three who look:
//!
//! - **whoever enters a guest** looks after the others if nobody did for 50 us. On a busy gateway the cores watch each
//!   other, for the price of a comparison;
//! - **this thread, on alert**: every 100 us, while a version is on a core that has not proved itself yet (its first
//!   [`crate::pool::PROBATION`] questions there, and again after each that broke or was long), and while a call that had
//!   to be moved takes its first turns on the guest thread. With [`crate::turn::YOUNG`], and [`SOON`] for a second look,
//!   no turn is longer than 200 us then;
//! - **this thread, calm**: every [`crate::EngineLimits::tick_calm`] otherwise, for the one case that is left: a
//!   version that has behaved for long misbehaves, and no other core asks any plugin meanwhile.
//!
//! While no guest runs it sleeps for good. It runs at the highest priority it can get: a ticker that is late is a guest
//! that keeps its thread. How often it was late is counted.

use crate::WasmError;
use crate::moment::Moment;
use crate::turn::YOUNG;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::Duration;
use wasmtime::EngineWeak;
use wharf_core::metrics::{Count, nanos};

/// Between two looks on alert. With [`YOUNG`] and [`SOON`] it bounds a turn to 200 us, which is what a network thread may
/// lose to a guest.
const TICK: Duration = Duration::from_micros(100);
/// To the second look at a turn that has lasted long: it is cut if it has used the processor meanwhile (see
/// `turn::at_tick`).
const SOON: Duration = Duration::from_micros(50);
/// Looks that find nobody, after which the ticker sleeps for good. Waking it costs as much as a few looks, so waiting
/// longer than this for the next guest costs more than it can save.
const QUIET_LOOKS: u32 = 4;
/// A look on alert that came later than this was late.
const LATE: u64 = nanos(Duration::from_micros(300));
/// An alert lasts this long: some looks. It is raised anew by every turn that needs it.
const ALERT: u64 = nanos(Duration::from_millis(1));

/// Whether a guest is on one thread, and since when. Only that thread writes; on its own cache line, because the
/// writers are the busiest threads there are.
#[repr(align(128))]
#[derive(Debug)]
struct Slot {
    /// A network thread's, whose turns end soon; else that of a thread for guests.
    is_core: bool,
    /// Odd: there is one.
    turn: AtomicU64,
    /// A [`Moment`].
    since: AtomicU64,
}

/// One thread's word with the ticker.
#[derive(Debug)]
pub(crate) struct Presence {
    slot: Arc<Slot>,
    shared: Arc<Shared>,
}

struct Shared {
    engine: EngineWeak,
    calm: Duration,
    /// When somebody looked last, and until when there is alert: [`Moment`]s.
    looked: AtomicU64,
    alert: AtomicU64,
    asleep: AtomicBool,
    stop: AtomicBool,
    late: OnceLock<Arc<Count>>,
    late_early: AtomicU64,
    slots: Mutex<Vec<Arc<Slot>>>,
    thread: OnceLock<Thread>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("asleep", &self.asleep).finish_non_exhaustive()
    }
}

impl Shared {
    /// Looks at all threads, and ends the turns that have lasted too long.
    fn look(&self, slots: &[Arc<Slot>], now: u64) -> Found {
        let mut found = Found::default();
        for slot in slots {
            let turn = slot.turn.load(Ordering::SeqCst);
            found.turns = found.turns.wrapping_add(turn);
            if turn & 1 == 1 {
                found.on_a_thread = true;
                // A turn that ended and another that began between the two reads makes this one look younger than it
                // was, and it is over anyway.
                let too_long = now.saturating_sub(slot.since.load(Ordering::Relaxed)) >= YOUNG;
                found.too_long |= too_long;
                found.too_long_on_core |= too_long && slot.is_core;
            }
        }
        if found.too_long
            && let Some(engine) = self.engine.upgrade()
        {
            engine.increment_epoch();
        }
        found
    }

    #[cold]
    fn wake(&self) {
        self.asleep.store(false, Ordering::Relaxed);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    #[cold]
    fn look_after_others(&self, before: u64, now: u64) {
        if self.looked.compare_exchange(before, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
            // Held by the ticker: then it is looking.
            && let Ok(slots) = self.slots.try_lock()
        {
            self.look(&slots, now);
        }
    }

    #[cold]
    fn raise(&self, now: u64) {
        let was = self.alert.swap(now + ALERT, Ordering::Relaxed);
        if was <= now {
            // It sleeps for a calm tick; now it must not.
            self.wake();
        }
    }
}

/// The thread.
#[derive(Debug)]
pub(crate) struct Ticker {
    shared: Arc<Shared>,
    handle: Option<JoinHandle<()>>,
}

impl Presence {
    /// A guest enters this thread.
    pub(crate) fn enter(&self, now: Moment) {
        let now = now.as_ns();
        let before = self.slot.turn.load(Ordering::Relaxed);
        self.slot.since.store(now, Ordering::Relaxed);
        // Either the ticker sees the slot before it sleeps, or we see that it sleeps: both sides write and then read, and
        // all four are in the one order that there is of what is sequentially consistent.
        self.slot.turn.store(before | 1, Ordering::SeqCst);
        let looked = self.shared.looked.load(Ordering::Relaxed);
        if now.saturating_sub(looked) >= YOUNG {
            self.shared.look_after_others(looked, now);
        }
        if self.shared.asleep.load(Ordering::SeqCst) {
            self.shared.wake();
        }
    }

    /// It leaves. The count moves on, so the ticker sees that somebody was here.
    pub(crate) fn leave(&self) {
        let before = self.slot.turn.load(Ordering::Relaxed);
        self.slot.turn.store((before | 1).wrapping_add(1), Ordering::Release);
    }

    /// For a moment from now on somebody looks every 100 us.
    pub(crate) fn alert(&self, now: Moment) {
        let now = now.as_ns();
        // Renewed when half of it is over: most of those who raise it find it raised.
        if self.shared.alert.load(Ordering::Relaxed) < now + ALERT / 2 {
            self.shared.raise(now);
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut slots = self.shared.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|slot| !Arc::ptr_eq(slot, &self.slot));
    }
}

impl Ticker {
    /// Starts the thread, asleep.
    pub(crate) fn start(engine: EngineWeak, calm: Duration) -> Result<Ticker, WasmError> {
        let shared = Arc::new(Shared {
            engine,
            calm: calm.max(TICK),
            looked: AtomicU64::new(0),
            alert: AtomicU64::new(0),
            asleep: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            late: OnceLock::new(),
            late_early: AtomicU64::new(0),
            slots: Mutex::new(Vec::new()),
            thread: OnceLock::new(),
        });
        let inside = shared.clone();
        let handle = std::thread::Builder::new()
            .name("wharf-ticker".into())
            .spawn(move || run(&inside))
            .map_err(|cause| WasmError::internal(format!("the ticker thread did not start: {cause}")))?;
        let _ = shared.thread.set(handle.thread().clone());
        Ok(Ticker { shared, handle: Some(handle) })
    }

    /// A thread that guests will run on announces itself.
    pub(crate) fn join(&self, is_core: bool) -> Presence {
        let slot = Arc::new(Slot { is_core, turn: AtomicU64::new(0), since: AtomicU64::new(0) });
        self.shared.slots.lock().unwrap_or_else(PoisonError::into_inner).push(slot.clone());
        Presence { slot, shared: self.shared.clone() }
    }

    /// Where late ticks are counted from now on.
    pub(crate) fn count_late(&self, late: Arc<Count>) {
        late.add_shared(self.shared.late_early.swap(0, Ordering::Relaxed));
        let _ = self.shared.late.set(late);
    }

    /// Is it asleep?
    #[cfg(test)]
    pub(crate) fn is_asleep(&self) -> bool {
        self.shared.asleep.load(Ordering::SeqCst)
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(handle) = self.handle.take() {
            handle.thread().unpark();
            let _ = handle.join();
        }
    }
}

fn run(shared: &Shared) {
    urgent();
    let look = || {
        let slots = shared.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Moment::now().as_ns();
        shared.looked.store(now, Ordering::Relaxed);
        shared.look(&slots, now)
    };
    let (mut turns, mut quiet, mut again) = (0, 0, false);
    while !shared.stop.load(Ordering::Relaxed) {
        if quiet >= QUIET_LOOKS {
            shared.asleep.store(true, Ordering::SeqCst);
            let found = look();
            if !found.on_a_thread && found.turns == turns {
                while shared.asleep.load(Ordering::Relaxed) && !shared.stop.load(Ordering::Relaxed) {
                    std::thread::park();
                }
            }
            shared.asleep.store(false, Ordering::Relaxed);
            quiet = 0;
        }
        let before = Moment::now();
        let on_alert = before.as_ns() < shared.alert.load(Ordering::Relaxed);
        // Parked and not asleep, so that an alert ends a calm wait at once.
        std::thread::park_timeout(match (again, on_alert) {
            (true, _) => SOON,
            (false, true) => TICK,
            (false, false) => shared.calm,
        });
        let found = look();
        again = found.too_long_on_core;
        quiet = if found.on_a_thread || found.turns != turns { 0 } else { quiet + 1 };
        turns = found.turns;
        if on_alert && found.on_a_thread && Moment::now().since(before) > LATE {
            match shared.late.get() {
                Some(late) => late.add_shared(1),
                None => {
                    shared.late_early.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }
}

#[derive(Default)]
struct Found {
    on_a_thread: bool,
    too_long: bool,
    too_long_on_core: bool,
    /// Sum of all turns so far: unchanged, if nobody was here since the last look.
    turns: u64,
}

/// As much priority as we are given, and no slack on our timer. None of it is needed for correctness, so refusals are
/// not errors; what they cost is seen in the count of late ticks.
fn urgent() {
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
    let me = Some(rustix::thread::gettid());
    for nice in [-20, -10, -5] {
        if rustix::process::setpriority_process(me, nice).is_ok() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ticker_sleeps_without_guests_and_ticks_for_one() {
        let mut config = wasmtime::Config::new();
        config.epoch_interruption(true);
        let engine = wasmtime::Engine::new(&config).unwrap();
        let ticker = Ticker::start(engine.weak(), Duration::from_millis(2)).unwrap();
        while !ticker.is_asleep() {
            std::thread::yield_now();
        }
        let presence = ticker.join(true);
        // Waits for the epoch, not for a time: an endless loop that only a tick can end.
        let module = wasmtime::Module::new(&engine, wat::parse_str("(module (func (export \"f\") (loop br 0)))").unwrap()).unwrap();
        let mut store = wasmtime::Store::new(&engine, ());
        store.set_epoch_deadline(2);
        let instance = wasmtime::Instance::new(&mut store, &module, &[]).unwrap();
        let endless = instance.get_typed_func::<(), ()>(&mut store, "f").unwrap();
        presence.enter(Moment::now());
        assert!(endless.call(&mut store, ()).is_err());
        presence.leave();
        while !ticker.is_asleep() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn who_enters_a_guest_ends_the_long_turn_of_another_and_leaves_a_short_one_alone() {
        let mut config = wasmtime::Config::new();
        config.epoch_interruption(true);
        let engine = wasmtime::Engine::new(&config).unwrap();
        let ticker = Ticker::start(engine.weak(), Duration::from_secs(3600)).unwrap();
        let (one, two) = (ticker.join(true), ticker.join(true));
        // A store whose deadline is the next tick: it traps at its first check after one.
        let module = wasmtime::Module::new(&engine, wat::parse_str("(module (func (export \"f\")))").unwrap()).unwrap();
        let mut store = wasmtime::Store::new(&engine, ());
        let instance = wasmtime::Instance::new(&mut store, &module, &[]).unwrap();
        let f = instance.get_typed_func::<(), ()>(&mut store, "f").unwrap();
        let mut ticked = || {
            let ticked = f.call(&mut store, ()).is_err();
            store.set_epoch_deadline(1);
            ticked
        };
        ticked();
        let start = Moment::now().after(nanos(Duration::from_secs(1)));
        one.enter(start);
        assert!(!ticked());
        two.enter(start.after(YOUNG / 2));
        two.leave();
        assert!(!ticked(), "nobody looks again so soon");
        two.enter(start.after(YOUNG));
        two.leave();
        assert!(ticked(), "one has been there too long");
        one.leave();
        two.enter(start.after(3 * YOUNG));
        assert!(!ticked(), "it has left");
    }
}
