//! Deadlines of one core: one array of ticks, looked at every 17 ms.
//!
//! A proxied request has half a dozen deadlines and nearly none of them fires. A timer wheel pays for arming and
//! disarming each; here setting one is a store into an array, and a sweep costs about a nanosecond for each
//! connection. Deadlines are therefore late by up to one tick and never early. The sweep is parked while nobody has a
//! deadline slot.
//!
//! Not here: timers that must be exact. Nothing on the road needs one.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use wharf_core::metrics::nanos;

/// One tick is 2^24 ns, 16.8 ms: converting an instant is a shift.
const TICK_SHIFT: u32 = 24;

/// The same as a time.
pub(crate) const TICK: Duration = Duration::from_nanos(1 << TICK_SHIFT);

const NEVER: u32 = u32::MAX;
/// The deadline has passed and its alarm has not been set since.
const FIRED: u32 = 0;

/// All deadlines of one core.
pub struct Deadlines {
    start: Instant,
    /// The tick of the last sweep: a clock that costs nothing to read.
    tick: Cell<u32>,
    /// When that was.
    swept: Cell<Instant>,
    slots: RefCell<Slots>,
    used: Notify,
}

#[derive(Default)]
struct Slots {
    at: Vec<u32>,
    wakers: Vec<Option<Waker>>,
    free: Vec<u32>,
}

impl Slots {
    fn clear(&mut self, slot: u32) {
        if let Some(at) = self.at.get_mut(slot as usize) {
            *at = NEVER;
        }
        if let Some(waker) = self.wakers.get_mut(slot as usize) {
            *waker = None;
        }
    }
}

/// One slot: what one connection or call holds. Set and set again at will.
pub struct Alarm {
    of: Rc<Deadlines>,
    slot: u32,
    at: Cell<u32>,
}

impl Deadlines {
    /// Deadlines for a core that lives no longer than two years.
    pub fn new() -> Rc<Deadlines> {
        let start = Instant::now();
        Rc::new(Deadlines { start, tick: Cell::new(0), swept: Cell::new(start), slots: RefCell::default(), used: Notify::new() })
    }

    /// Takes a slot, unset.
    pub fn alarm(self: &Rc<Self>) -> Alarm {
        let mut slots = self.slots.borrow_mut();
        let slot = slots.free.pop().unwrap_or_else(|| {
            slots.at.push(NEVER);
            slots.wakers.push(None);
            (slots.at.len() - 1) as u32
        });
        if slots.at.len() - slots.free.len() == 1 {
            // The sweep was parked, so its clock stood still.
            self.look(Instant::now());
            self.used.notify_one();
        }
        Alarm { of: self.clone(), slot, at: Cell::new(NEVER) }
    }

    /// Sweeps until dropped: one task of the core. `also` is called once a tick, for whoever else wants to look around
    /// now and then (the access log's age, kept connections); while it answers `true` the sweep is not parked.
    pub async fn sweep(self: Rc<Self>, mut also: impl FnMut(Instant) -> bool) {
        let mut ticks = tokio::time::interval(Duration::from_nanos(1 << TICK_SHIFT));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let now = Instant::now();
            self.fire(now);
            let wanted = also(now);
            let idle = !wanted && {
                let slots = self.slots.borrow();
                slots.free.len() == slots.at.len()
            };
            if idle {
                self.used.notified().await;
            }
        }
    }

    /// The time of the last sweep: at most a tick old, and free to read.
    pub fn about_now(&self) -> Instant {
        self.start + Duration::from_nanos(u64::from(self.tick.get()) << TICK_SHIFT)
    }

    /// Milliseconds that have passed since [`Deadlines::tick`] was this. As exact as a tick, and free.
    pub(crate) fn millis_since(&self, tick: u32) -> u64 {
        (u64::from(self.tick.get().wrapping_sub(tick)) << TICK_SHIFT) / 1_000_000
    }

    /// For [`Deadlines::millis_since`].
    pub(crate) fn tick(&self) -> u32 {
        self.tick.get()
    }

    /// Has the sweep go on if it was parked.
    pub(crate) fn stir(&self) {
        self.used.notify_one();
    }

    fn fire(&self, now: Instant) {
        let tick = self.look(now);
        let mut due = Vec::new();
        {
            let mut slots = self.slots.borrow_mut();
            let Slots { at, wakers, .. } = &mut *slots;
            for (at, waker) in at.iter_mut().zip(wakers) {
                if at.wrapping_sub(1) < tick {
                    *at = FIRED;
                    due.extend(waker.take());
                }
            }
        }
        // Woken outside the borrow: a waker may run anything.
        due.into_iter().for_each(Waker::wake);
    }

    /// Looks at the clock for all who ask for the tick.
    fn look(&self, now: Instant) -> u32 {
        let tick = self.tick_before(now);
        self.tick.set(tick);
        self.swept.set(now);
        tick
    }

    /// Ticks that have fully passed, so that no deadline fires early.
    fn tick_before(&self, now: Instant) -> u32 {
        (nanos(now.saturating_duration_since(self.start)) >> TICK_SHIFT) as u32
    }

    /// The tick that is surely not before `wait` from now. Reads no clock.
    pub(crate) fn tick_in(&self, wait: Duration) -> u32 {
        let ticks = (nanos(wait) >> TICK_SHIFT).min(u64::from(NEVER / 2)) as u32;
        self.tick.get().saturating_add(ticks + 2)
    }

    fn tick_after(&self, at: Instant) -> u32 {
        let passed = nanos(at.saturating_duration_since(self.start)) >> TICK_SHIFT;
        // 0 is FIRED and MAX is NEVER.
        (passed + 1).min(u64::from(NEVER - 1)) as u32
    }
}

impl Alarm {
    /// Sets the deadline, in place of the one before.
    pub fn set(&self, at: Instant) {
        self.set_tick(self.of.tick_after(at));
    }

    /// Sets the deadline to `wait` from now, reading no clock: it is late by up to two ticks.
    #[inline]
    pub fn set_in(&self, wait: Duration) {
        self.set_tick(self.of.tick_in(wait));
    }

    /// Sets the deadline to `wait` from now, but not beyond `end`.
    pub fn set_in_until(&self, wait: Duration, end: Instant) {
        let tick = self.of.tick_in(wait);
        // Nearly always the wait ends first. A sum tells so for a fraction of what turning `end` into a tick costs.
        let first = self.of.swept.get().checked_add(wait + 2 * TICK).is_some_and(|at| at <= end);
        self.set_tick(if first { tick } else { tick.min(self.of.tick_after(end)) });
    }

    /// Unsets the deadline and forgets who waited for it.
    pub fn rest(&self) {
        self.at.set(NEVER);
        self.of.slots.borrow_mut().clear(self.slot);
    }

    fn set_tick(&self, tick: u32) {
        // Most settings fall into the tick that is set already.
        if (self.at.replace(tick) != tick || self.has_elapsed())
            && let Some(slot) = self.of.slots.borrow_mut().at.get_mut(self.slot as usize)
        {
            *slot = tick;
        }
    }

    /// Ready once the deadline has passed; else the task will be woken when it does.
    pub fn poll_elapsed(&self, task: &mut Context<'_>) -> Poll<()> {
        let mut slots = self.of.slots.borrow_mut();
        let slot = self.slot as usize;
        if slots.at.get(slot) == Some(&FIRED) {
            return Poll::Ready(());
        }
        if let Some(waker) = slots.wakers.get_mut(slot) {
            match waker {
                Some(have) if have.will_wake(task.waker()) => {}
                _ => *waker = Some(task.waker().clone()),
            }
        }
        Poll::Pending
    }

    /// Waits for the deadline to pass.
    pub async fn elapsed(&self) {
        std::future::poll_fn(|task| self.poll_elapsed(task)).await;
    }

    /// Has the deadline passed? Leaves it to others to be woken when it does.
    pub fn has_elapsed(&self) -> bool {
        self.of.slots.borrow().at.get(self.slot as usize) == Some(&FIRED)
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        let mut slots = self.of.slots.borrow_mut();
        slots.clear(self.slot);
        slots.free.push(self.slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fired(alarm: &Alarm) -> bool {
        alarm.poll_elapsed(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn a_deadline_fires_within_a_tick_and_never_early() {
        let deadlines = Deadlines::new();
        let alarm = deadlines.alarm();
        let at = deadlines.start + Duration::from_millis(100);
        alarm.set(at);
        deadlines.fire(at - Duration::from_nanos(1));
        assert!(!fired(&alarm));
        deadlines.fire(at + Duration::from_millis(17));
        assert!(fired(&alarm));
        // Setting it again arms it again, even to the same instant.
        alarm.set(at);
        assert!(!fired(&alarm));
        alarm.set(at + Duration::from_secs(9));
        deadlines.fire(at + Duration::from_secs(5));
        assert!(!fired(&alarm));
        alarm.rest();
        deadlines.fire(at + Duration::from_secs(60));
        assert!(!alarm.has_elapsed());
    }

    #[test]
    fn a_slot_is_used_again_and_forgets_its_past() {
        let deadlines = Deadlines::new();
        let first = deadlines.alarm();
        first.set(deadlines.start);
        drop(first);
        let second = deadlines.alarm();
        deadlines.fire(deadlines.start + Duration::from_secs(1));
        assert!(!fired(&second));
        assert_eq!(deadlines.slots.borrow().at.len(), 1);
    }
}
