//! The clock that interrupts guests: what moves the engine's epoch on while a guest is on a thread.
//!
//! A thread that wakes every 150 us is not cheap: on a virtual machine 20 to 25 us of processor time for each wake-up
//! (measured), a sixth of a core for nothing while all plugins behave. So there are three sources of ticks:
//!
//! - **whoever enters a guest** ticks if nobody did for 150 us. On a busy gateway the cores interrupt each other, for
//!   the price of a comparison;
//! - **this thread, on alert**: every 150 us, while a version runs that has not proved itself yet (its first
//!   [`crate::pool::PROBATION`] questions on a core), and for a second after any turn had to be cut short;
//! - **this thread, calm**: every [`crate::EngineLimits::tick_calm`] otherwise, for the one case that is left: a
//!   version that has behaved for long misbehaves, and no other core asks any plugin meanwhile.
//!
//! While no guest runs it sleeps for good. It runs at the highest priority it can get: a ticker that is late is a guest
//! that keeps its thread. How often it was late is counted.

use crate::WasmError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};
use wasmtime::EngineWeak;
use wharf_core::metrics::Count;

/// One tick. With [`crate::turn::YOUNG`] it bounds a turn to 200 us, which is what a network thread may lose to a guest.
pub(crate) const TICK: Duration = Duration::from_micros(150);
/// Ticks without a guest after which the ticker sleeps for good. Waking it costs as much as a few ticks, so waiting
/// longer than this for the next guest costs more than it can save.
const QUIET_TICKS: u32 = 4;
/// A tick on alert that took longer than this was late.
const LATE: Duration = Duration::from_micros(300);
/// An alert lasts this long.
const ALERT: Duration = Duration::from_secs(1);

/// Whether a guest is on one thread. Odd: it is. Only that thread writes; on its own cache line, because the writers
/// are the busiest threads there are.
#[repr(align(128))]
#[derive(Debug, Default)]
struct Slot(AtomicU64);

/// One thread's word with the ticker.
#[derive(Debug)]
pub(crate) struct Presence {
    slot: Arc<Slot>,
    shared: Arc<Shared>,
}

struct Shared {
    engine: EngineWeak,
    began: Instant,
    calm: Duration,
    /// When the epoch moved last, and until when there is alert; nanoseconds since `began`.
    ticked: AtomicU64,
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
    fn ns(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.began);
        since.as_secs() * 1_000_000_000 + u64::from(since.subsec_nanos())
    }

    fn tick(&self) {
        if let Some(engine) = self.engine.upgrade() {
            engine.increment_epoch();
        }
    }

    #[cold]
    fn wake(&self) {
        self.asleep.store(false, Ordering::Relaxed);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    #[cold]
    fn tick_for_others(&self, before: u64, now: u64) {
        if self.ticked.compare_exchange(before, now, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.tick();
        }
    }

    #[cold]
    fn raise(&self, now: u64) {
        let was = self.alert.swap(now + ALERT.as_nanos() as u64, Ordering::Relaxed);
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
    pub(crate) fn enter(&self, now: Instant) {
        let before = self.slot.0.load(Ordering::Relaxed);
        self.slot.0.store(before | 1, Ordering::Relaxed);
        let (now, ticked) = (self.shared.ns(now), self.shared.ticked.load(Ordering::Relaxed));
        if now.saturating_sub(ticked) >= TICK.as_nanos() as u64 {
            self.shared.tick_for_others(ticked, now);
        }
        // Either the ticker sees the slot before it sleeps, or we see that it sleeps: both sides write, fence, read.
        fence(Ordering::SeqCst);
        if self.shared.asleep.load(Ordering::Relaxed) {
            self.shared.wake();
        }
    }

    /// It leaves. The count moves on, so the ticker sees that somebody was here.
    pub(crate) fn leave(&self) {
        let before = self.slot.0.load(Ordering::Relaxed);
        self.slot.0.store((before | 1).wrapping_add(1), Ordering::Relaxed);
    }

    /// From now on, and for a second, ticks come every 150 us.
    pub(crate) fn alert(&self, now: Instant) {
        let now = self.shared.ns(now);
        // Renewed when half of it is over: most of those who raise it find it raised.
        if self.shared.alert.load(Ordering::Relaxed) < now + ALERT.as_nanos() as u64 / 2 {
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
            began: Instant::now(),
            calm: calm.max(TICK),
            ticked: AtomicU64::new(0),
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
    pub(crate) fn join(&self) -> Presence {
        let slot = Arc::new(Slot::default());
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
    let mut seen: Vec<u64> = Vec::new();
    let mut quiet = 0;
    while !shared.stop.load(Ordering::Relaxed) {
        if quiet >= QUIET_TICKS {
            shared.asleep.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            if look(shared, &mut seen).is_empty() {
                while shared.asleep.load(Ordering::Relaxed) && !shared.stop.load(Ordering::Relaxed) {
                    std::thread::park();
                }
            }
            shared.asleep.store(false, Ordering::Relaxed);
            quiet = 0;
        }
        let before = Instant::now();
        let on_alert = shared.ns(before) < shared.alert.load(Ordering::Relaxed);
        // Parked and not asleep, so that an alert ends a calm tick at once.
        std::thread::park_timeout(if on_alert { TICK } else { shared.calm });
        let found = look(shared, &mut seen);
        let now = Instant::now();
        if found.on_a_thread {
            shared.ticked.store(shared.ns(now), Ordering::Relaxed);
            shared.tick();
        }
        quiet = if found.is_empty() { quiet + 1 } else { 0 };
        if on_alert && found.on_a_thread && now.saturating_duration_since(before) > LATE {
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
    was_here: bool,
}

impl Found {
    fn is_empty(&self) -> bool {
        !self.on_a_thread && !self.was_here
    }
}

fn look(shared: &Shared, seen: &mut Vec<u64>) -> Found {
    let slots = shared.slots.lock().unwrap_or_else(PoisonError::into_inner);
    seen.resize(slots.len(), 0);
    let mut found = Found::default();
    for (slot, seen) in slots.iter().zip(seen.iter_mut()) {
        let now = slot.0.load(Ordering::Relaxed);
        found.on_a_thread |= now & 1 == 1;
        found.was_here |= now != *seen;
        *seen = now;
    }
    found
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
        let presence = ticker.join();
        // Waits for the epoch, not for a time: an endless loop that only a tick can end.
        let module = wasmtime::Module::new(&engine, wat::parse_str("(module (func (export \"f\") (loop br 0)))").unwrap()).unwrap();
        let mut store = wasmtime::Store::new(&engine, ());
        store.set_epoch_deadline(2);
        let instance = wasmtime::Instance::new(&mut store, &module, &[]).unwrap();
        let endless = instance.get_typed_func::<(), ()>(&mut store, "f").unwrap();
        presence.enter(Instant::now());
        assert!(endless.call(&mut store, ()).is_err());
        presence.leave();
        while !ticker.is_asleep() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn who_enters_a_guest_ticks_for_the_others_at_most_once_in_a_tick() {
        let mut config = wasmtime::Config::new();
        config.epoch_interruption(true);
        let engine = wasmtime::Engine::new(&config).unwrap();
        let ticker = Ticker::start(engine.weak(), Duration::from_secs(3600)).unwrap();
        let (one, two) = (ticker.join(), ticker.join());
        let start = ticker.shared.began + Duration::from_secs(1);
        let ticked = || ticker.shared.ticked.load(Ordering::Relaxed);
        one.enter(start);
        assert_eq!(ticked(), 1_000_000_000);
        two.enter(start + TICK / 2);
        assert_eq!(ticked(), 1_000_000_000);
        two.enter(start + TICK);
        assert_eq!(ticked(), 1_000_150_000);
    }
}
