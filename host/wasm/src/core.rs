//! What one core knows of plugins: its pools, its inbox for outbound calls, its word with the ticker.

use crate::error::Broken;
use crate::grants::http::{self, Home};
use crate::guest_thread::Ended;
use crate::limits::{GRACE, REHEARSAL};
use crate::pool::Pool;
use crate::ready::{Parts, Ready, Setup};
use crate::ticker::Presence;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Instant;
use tokio::task::AbortHandle;
use wharf_core::exchange::Facts;
use wharf_core::fault::Fault;
use wharf_core::outlet::Outlets;

/// Told of every fault that a version is to blame for; called on the core where it happened, so it must be quick. The
/// catalog counts here, and brings the last good version back.
pub type FaultSink = Arc<dyn Fn(&Setup, &Fault) + Send + Sync>;

/// Boxes for facts that are kept for the next call.
const BOXES_MAX: usize = 64;

/// One core's part of the plugin room.
pub struct WasmCore {
    parts: Parts,
    faults: FaultSink,
    presence: Presence,
    home: Home,
    inbox: AbortHandle,
    outlets: Rc<RefCell<Rc<Outlets>>>,
    pools: RefCell<HashMap<u64, Weak<Pool>>>,
    boxes: RefCell<Vec<Arc<Facts>>>,
}

impl WasmCore {
    /// This core's part. Called on the core's own thread, within its runtime: the inbox is a local task.
    pub fn new(parts: Parts, number: usize, faults: FaultSink) -> Rc<WasmCore> {
        parts.engine.observe(&parts.metrics);
        let outlets = Rc::new(RefCell::new(Rc::new(Outlets::new())));
        let (home, inbox) = http::inbox(number, outlets.clone());
        #[allow(clippy::disallowed_methods, reason = "a task of this core, which is named after it")]
        let inbox = tokio::task::spawn_local(inbox).abort_handle();
        let presence = parts.engine.ticker.join(true);
        Rc::new(WasmCore { parts, faults, presence, home, inbox, outlets, pools: RefCell::default(), boxes: RefCell::default() })
    }

    /// The services that outbound calls reach from now on. Called when a generation is taken over.
    pub fn set_outlets(&self, outlets: Rc<Outlets>) {
        *self.outlets.borrow_mut() = outlets;
    }

    /// The pool of a version. The same version keeps its pool, and its warm instances, from generation to generation.
    pub(crate) fn pool(self: &Rc<WasmCore>, ready: &Arc<Ready>) -> Rc<Pool> {
        let mut pools = self.pools.borrow_mut();
        if let Some(pool) = pools.get(&ready.serial).and_then(Weak::upgrade) {
            return pool;
        }
        pools.retain(|_, pool| pool.strong_count() > 0);
        let pool = Pool::new(self, ready);
        pools.insert(ready.serial, Rc::downgrade(&pool));
        self.warm(&pool);
        pool
    }

    /// Makes the first instance ahead of the first question, on the guest thread: `configure` may take long (a Go guest
    /// starts its runtime there).
    fn warm(&self, pool: &Rc<Pool>) {
        if pool.ready.setup.quotas.fresh_per_call {
            return;
        }
        let (ready, home, gate) = (pool.ready.clone(), self.home(), pool.gate.clone());
        let making = Box::pin(async move { crate::call::make(&ready, home, gate).await });
        let made = self.parts.engine.guest_threads.prepare(making, (Instant::now() + REHEARSAL + GRACE).into());
        let pool = Rc::downgrade(pool);
        #[allow(clippy::disallowed_methods, reason = "a task of this core that ends within the rehearsal's time")]
        tokio::task::spawn_local(async move {
            // A failure says nothing new: the first question meets it again and tells it.
            if let (Ok(Ended::Done(Ok(instance), _)), Some(pool)) = (made.await, pool.upgrade()) {
                pool.add(instance);
            }
        });
    }

    pub(crate) fn presence(&self) -> &Presence {
        &self.presence
    }

    pub(crate) fn home(&self) -> Home {
        self.home.clone()
    }

    /// An empty box that only the caller holds.
    pub(crate) fn facts_box(&self) -> Arc<Facts> {
        self.boxes.borrow_mut().pop().unwrap_or_default()
    }

    /// Keeps an empty box that nobody else holds for the next call.
    pub(crate) fn keep_box(&self, shared: Arc<Facts>) {
        let mut boxes = self.boxes.borrow_mut();
        if boxes.len() < BOXES_MAX {
            boxes.push(shared);
        }
    }

    pub(crate) fn report(&self, setup: &Setup, broken: &Broken) {
        let fault = broken.fault(setup);
        tracing::debug!(plugin = %setup.plugin, version = setup.version, %fault, "a plugin failed");
        (self.faults)(setup, &fault);
    }
}

impl Drop for WasmCore {
    fn drop(&mut self) {
        self.inbox.abort();
    }
}

impl std::fmt::Debug for WasmCore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WasmCore").field("pools", &self.pools.borrow().len()).finish_non_exhaustive()
    }
}
