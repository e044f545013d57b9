//! The clock that interrupts guests: a thread that moves the engine's epoch on while a guest is on a thread.
//!
//! It sleeps for good while no guest runs, and it runs on for a few milliseconds after the last one left, so that under
//! steady load entering a guest costs two stores and a look, never a system call.
//!
//! It runs at the highest priority it can get: a ticker that is late is a guest that keeps its thread. How often it was
//! late is counted.

use crate::WasmError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};
use wharf_core::metrics::Count;

/// One tick. With [`crate::turn::YOUNG`] it bounds a turn to 200 us, which is what a network thread may lose to a guest;
/// a shorter one would wake a core more often than guests are worth.
pub(crate) const TICK: Duration = Duration::from_micros(150);
/// Ticks without a guest after which the ticker sleeps: 5 ms.
const QUIET_TICKS: u32 = 33;
/// A tick that took longer than this was late.
const LATE: Duration = Duration::from_micros(300);

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

#[derive(Debug)]
struct Shared {
    asleep: AtomicBool,
    stop: AtomicBool,
    late: OnceLock<Arc<Count>>,
    late_early: AtomicU64,
    slots: Mutex<Vec<Arc<Slot>>>,
    thread: OnceLock<Thread>,
}

/// The thread.
#[derive(Debug)]
pub(crate) struct Ticker {
    shared: Arc<Shared>,
    handle: Option<JoinHandle<()>>,
}

impl Presence {
    /// A guest enters this thread.
    pub(crate) fn enter(&self) {
        let before = self.slot.0.load(Ordering::Relaxed);
        self.slot.0.store(before | 1, Ordering::Relaxed);
        // Either the ticker sees the slot before it sleeps, or we see that it sleeps: both sides write, fence, read.
        fence(Ordering::SeqCst);
        if self.shared.asleep.load(Ordering::Relaxed) {
            self.wake();
        }
    }

    /// It leaves. The count moves on, so the ticker sees that somebody was here.
    pub(crate) fn leave(&self) {
        let before = self.slot.0.load(Ordering::Relaxed);
        self.slot.0.store((before | 1).wrapping_add(1), Ordering::Relaxed);
    }

    #[cold]
    fn wake(&self) {
        self.shared.asleep.store(false, Ordering::Relaxed);
        if let Some(thread) = self.shared.thread.get() {
            thread.unpark();
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
    pub(crate) fn start(engine: wasmtime::EngineWeak) -> Result<Ticker, WasmError> {
        let shared = Arc::new(Shared {
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
            .spawn(move || run(&inside, &engine))
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

fn run(shared: &Shared, engine: &wasmtime::EngineWeak) {
    urgent();
    let mut seen: Vec<u64> = Vec::new();
    let mut quiet = 0;
    let mut before = Instant::now();
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
            before = Instant::now();
        }
        std::thread::sleep(TICK);
        let found = look(shared, &mut seen);
        if found.on_a_thread {
            let Some(engine) = engine.upgrade() else { return };
            engine.increment_epoch();
        }
        quiet = if found.is_empty() { quiet + 1 } else { 0 };
        let now = Instant::now();
        if found.on_a_thread && now.saturating_duration_since(before) > LATE {
            match shared.late.get() {
                Some(late) => late.add_shared(1),
                None => {
                    shared.late_early.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        before = now;
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
        let ticker = Ticker::start(engine.weak()).unwrap();
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
        presence.enter();
        assert!(endless.call(&mut store, ()).is_err());
        presence.leave();
        while !ticker.is_asleep() {
            std::thread::yield_now();
        }
    }
}
