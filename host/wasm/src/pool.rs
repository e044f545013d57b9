//! Warm instances of one version on one core, between two questions.
//!
//! Last in, first out, so that what is not needed grows old at the other end and is given back. Nothing is shared with
//! other cores; an instance that went to the guest thread comes back here.

use crate::core::WasmCore;
use crate::error::Broken;
use crate::grants::log::Gate;
use crate::instance::Instance;
use crate::metrics::VersionMetrics;
use crate::moment::Moment;
use crate::ready::Ready;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use wharf_core::metrics::nanos;

/// An instance that has not been asked for so long goes.
const IDLE: u64 = nanos(Duration::from_secs(10));

/// Questions that a version must have answered on a core, each in one turn, before it is trusted to be short.
pub(crate) const PROBATION: u32 = 1000;

/// A version that had so many long turns within [`BANISHED`] or broke a question ...
const STRIKES: u32 = 4;
/// ... is asked on the guest thread from the start, for so long. A guest that computes for ever takes 200 us from its
/// network thread each time it is asked, and one that fills its memory at a stroke takes more, because the engine
/// cannot interrupt a bulk operation; this bounds how often.
const BANISHED: u64 = nanos(Duration::from_secs(1));
/// Twice as long each time that it comes back and does it again, up to 32 s: coming back is what costs the neighbours. A
/// version that has behaved for that long begins anew.
const BANISHED_DOUBLINGS: u32 = 5;
/// A version that broke so many more questions than it answered is hopeless, for the time being.
const HOPELESS: u32 = 4;
/// A moved call that was cut short so often on the guest thread as well had much to do.
pub(crate) const CUTS: u32 = 3;
/// A turn on a network thread that lasted longer than this, without being cut short, is suspicious.
pub(crate) const LONG: u64 = nanos(Duration::from_millis(1));

/// Time that this thread has waited for a processor, so far: what a suspicious turn is measured against. On a busy
/// machine most of them are the kernel's doing and not the guest's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Watch(Duration);

impl Watch {
    pub(crate) fn read() -> Option<Watch> {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
        text.split_ascii_whitespace().nth(1)?.parse().ok().map(Duration::from_nanos).map(Watch)
    }

    pub(crate) fn since(self, before: Watch) -> Duration {
        self.0.saturating_sub(before.0)
    }
}

/// The pool of one version on one core.
pub(crate) struct Pool {
    pub(crate) ready: Arc<Ready>,
    pub(crate) core: Rc<WasmCore>,
    pub(crate) metrics: VersionMetrics,
    pub(crate) gate: Arc<Gate>,
    /// Time of one question.
    pub(crate) deadline_ns: u64,
    idle: RefCell<VecDeque<(Moment, Box<Instance>)>>,
    strikes: Cell<(Moment, u32)>,
    /// The last one, which may be over.
    banishment: Cell<Option<Banishment>>,
    suspected: Cell<bool>,
    proved: Cell<u32>,
    /// One more for each question that broke, one less for each that was answered.
    broken: Cell<u32>,
}

/// Why a version is asked on the guest thread.
#[derive(Clone, Copy)]
struct Banishment {
    until: Moment,
    /// How often it has come back to be banished again.
    relapses: u32,
}

/// Who answers the next question.
pub(crate) enum Seat {
    /// An instance that is ready.
    Warm(Box<Instance>),
    /// One that is to be made.
    Cold,
}

impl Pool {
    pub(crate) fn new(core: &Rc<WasmCore>, ready: &Arc<Ready>) -> Rc<Pool> {
        Rc::new(Pool {
            ready: ready.clone(),
            core: core.clone(),
            metrics: VersionMetrics::new(&ready.terms),
            gate: Arc::new(Gate::new(ready.setup.quotas.log_lines_per_second)),
            deadline_ns: nanos(ready.setup.quotas.deadline),
            idle: RefCell::default(),
            strikes: Cell::new((Moment::now(), 0)),
            banishment: Cell::default(),
            suspected: Cell::new(false),
            proved: Cell::new(0),
            broken: Cell::new(0),
        })
    }

    /// A seat for one question. Refused before anything is made if too many questions of the plugin wait already.
    pub(crate) fn take(&self) -> Result<Seat, Broken> {
        let in_flight = self.ready.terms.plugin.in_flight.load(Ordering::Relaxed);
        if in_flight >= self.ready.setup.quotas.concurrency_max {
            return Err(Broken::NoRoom("concurrency"));
        }
        Ok(match self.idle.borrow_mut().pop_back() {
            Some((_, instance)) => Seat::Warm(instance),
            None => Seat::Cold,
        })
    }

    /// An instance comes back.
    pub(crate) fn put(&self, instance: Box<Instance>, now: Moment) {
        let mut old = None;
        let mut idle = self.idle.borrow_mut();
        if idle.front().is_some_and(|(since, _)| now.since(*since) > IDLE) {
            old = idle.pop_front();
        }
        if instance.is_worn(now) {
            drop(idle);
            drop(instance);
        } else {
            idle.push_back((now, instance));
            drop(idle);
        }
        drop(old);
    }

    /// An instance that was made ahead of need. It joins the cold end: one that has answered already is warmer.
    pub(crate) fn add(&self, instance: Box<Instance>) {
        self.idle.borrow_mut().push_front((Moment::now(), instance));
    }

    /// Before a turn: raises the alert if the version is not trusted.
    pub(crate) fn approach(&self, now: Moment) {
        if self.proved.get() < PROBATION {
            self.core.presence().alert(now);
        }
    }

    /// A question was answered in one turn.
    pub(crate) fn proved(&self) {
        self.proved.set(self.proved.get().saturating_add(1));
    }

    /// Keeps a watch on the next turn, if the last one was suspicious. (Two reads of a file of the kernel's: too much
    /// for every turn.)
    pub(crate) fn watch(&self) -> Option<Watch> {
        if self.suspected.get() { Watch::read() } else { None }
    }

    /// A turn that was not cut short is over, and was either suspicious or watched.
    pub(crate) fn watched(&self, watch: Option<Watch>, took: u64, now: Moment) {
        let waited = watch.and_then(|before| Some(Watch::read()?.since(before)));
        match waited {
            Some(waited) if took.saturating_sub(nanos(waited)) > LONG => self.strike(now),
            // It was not the guest's doing, or it has mended its ways.
            Some(_) => self.suspected.set(false),
            None => self.suspected.set(took > LONG),
        }
    }

    /// A turn was long.
    pub(crate) fn strike(&self, now: Moment) {
        self.proved.set(0);
        let (since, strikes) = self.strikes.get();
        if now.since(since) > BANISHED {
            self.strikes.set((now, 1));
        } else if strikes + 1 >= STRIKES {
            self.strikes.set((now, 0));
            self.banish(now);
        } else {
            self.strikes.set((since, strikes + 1));
        }
    }

    /// A question broke by the version's own fault. The next one may do what this one did, and what that was nobody
    /// knows: it may have filled megabytes at a stroke, it may have done it within its tick.
    pub(crate) fn broke(&self, now: Moment) {
        self.broken.set((self.broken.get() + 1).min(2 * HOPELESS));
        self.proved.set(0);
        self.banish(now);
    }

    fn banish(&self, now: Moment) {
        let relapses = match self.banishment.get() {
            Some(Banishment { until, relapses }) if now < until => relapses,
            last => {
                self.metrics.banished();
                let relapse = |last: &Banishment| now.since(last.until) <= BANISHED << BANISHED_DOUBLINGS;
                last.filter(relapse).map_or(0, |last| (last.relapses + 1).min(BANISHED_DOUBLINGS))
            }
        };
        self.banishment.set(Some(Banishment { until: now.after(BANISHED << relapses), relapses }));
    }

    /// A question was answered.
    pub(crate) fn answered(&self) {
        let broken = self.broken.get();
        if broken > 0 {
            self.broken.set(broken - 1);
        }
    }

    /// Does it break most of its questions? Then it is asked where nobody else wants to run.
    pub(crate) fn is_hopeless(&self) -> bool {
        self.broken.get() >= HOPELESS
    }

    /// Is it to be asked on the guest thread from the start?
    pub(crate) fn is_banished(&self, now: Moment) -> bool {
        self.banishment.get().is_some_and(|banishment| now < banishment.until)
    }
}
