//! One core: a thread with its runtime, what it keeps for as long as the process lives, and how it takes a generation.

use crate::allocator;
use crate::assemble::{self, Generation, Home};
use crate::ferry::{Ferry, FerryCore};
use crate::listen::{self, Door, Gate};
use anyhow::{Context as _, Result};
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use wharf_core::metrics::Registry;
use wharf_http::admission::{Files, Pressure};
use wharf_http::house::{Core, core_thread};
use wharf_http::record::Recorder;
use wharf_wasm::FaultSink;

/// What one core is made from.
pub struct Seed {
    /// 0 and up.
    pub number: u16,
    /// Tells nodes apart in exchange ids.
    pub node: u32,
    /// All counts.
    pub metrics: Arc<Registry>,
    /// Places for upstream connections.
    pub files: Arc<Files>,
    /// How short memory is.
    pub pressure: Arc<Pressure>,
    /// Changes when unused memory is to be given back.
    pub give_back: watch::Receiver<()>,
    /// Makes the core's access log, on its thread.
    pub recorder: Box<dyn FnOnce() -> Option<Rc<dyn Recorder>> + Send>,
    /// Told of every fault of a plugin.
    pub faults: FaultSink,
    /// The generation to serve, now and later.
    pub generations: watch::Receiver<Arc<Generation>>,
    /// The newest generation that this core serves.
    pub applied: Arc<AtomicU64>,
    /// This core's sockets.
    pub listeners: Vec<(Arc<str>, Arc<Gate>, TcpListener)>,
    /// Becomes true when connections may be accepted.
    pub open: watch::Receiver<bool>,
    /// Says that the process ends.
    pub end: watch::Receiver<Option<Ending>>,
    /// What the process has of the ferry.
    pub ferry: Arc<Ferry>,
}

/// How the process ends.
#[derive(Clone, Copy, Debug)]
pub struct Ending {
    /// Exchanges in flight, tunnels among them, are cut after this time from the first word of it.
    pub grace: Duration,
}

/// How long connections at rest are kept when the process ends.
const REST: Duration = Duration::from_secs(2);

/// Starts a core on a thread of its own.
///
/// # Errors
/// The thread or its runtime could not be made.
pub fn start(seed: Seed) -> Result<thread::JoinHandle<()>> {
    let name = format!("wharf-core-{}", seed.number);
    core_thread(name, move || serve(seed)).context("cannot start a core's thread")
}

async fn serve(seed: Seed) {
    let Seed {
        number,
        node,
        metrics,
        files,
        pressure,
        mut give_back,
        recorder,
        faults,
        mut generations,
        applied,
        listeners,
        mut open,
        mut end,
        ferry,
    } = seed;
    let core = Core::within((files, pressure), number, node, metrics.clone(), recorder());
    let home = Home::new(number, core.clone(), metrics, faults, FerryCore::new(&ferry, number));

    // The first generation before the first connection: nobody is told 404 because we were too quick.
    let (doors, sockets): (Vec<Rc<Door>>, Vec<TcpListener>) =
        listeners.into_iter().map(|(name, gate, socket)| (Rc::new(Door::new(name, gate)), socket)).unzip();
    let take = |generation: Arc<Generation>| {
        let house = assemble::house(&generation, &home);
        *core.house.borrow_mut() = Rc::new(house);
        doors.iter().for_each(|door| door.follow(&generation.plan));
        applied.store(generation.number, Ordering::Release);
    };
    let first = generations.borrow_and_update().clone();
    take(first);

    tokio::task::spawn_local(core.clone().sweep());
    let mut sockets = Some(sockets);
    let mut accepting = Vec::new();
    let (end_members, members_end) = watch::channel(None);
    let mut members = Vec::new();
    loop {
        tokio::select! {
            Ok(_) = open.wait_for(|open| *open), if sockets.is_some() => {
                let begun = doors.iter().zip(sockets.take().unwrap_or_default());
                accepting.extend(begun.map(|(door, socket)| tokio::task::spawn_local(listen::accept(core.clone(), door.clone(), socket))));
                members = home.ferry.serve(&core, &members_end);
            }
            changed = generations.changed() => {
                if changed.is_err() {
                    break;
                }
                let next = generations.borrow_and_update().clone();
                take(next);
            }
            Ok(()) = give_back.changed() => allocator::give_back(),
            _ = end.wait_for(Option::is_some) => break,
        }
    }

    // Draining: what the kernel has accepted is taken, then no more; answers say that their connection closes, HTTP/2 is told
    // to go; and who is in the middle gets his time.
    core.end();
    end_members.send_replace(Some(end.borrow().map_or(Duration::ZERO, |end| end.grace)));
    for accepting in accepting {
        let _ = accepting.await;
    }
    let begun = Instant::now();
    loop {
        // A connection that rests may bring one more request, which is answered and told to close; who brings none for this
        // long is closed as any idle one.
        let rest = begun.elapsed() >= REST && core.in_flight.get() == 0;
        // Read each time: whoever is in a hurry says so later.
        let grace = end.borrow().map_or(Duration::ZERO, |end| end.grace);
        let empty = doors.iter().all(|door| door.open() == 0) && members.iter().all(JoinHandle::is_finished);
        if empty || rest || begun.elapsed() >= grace {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    if let Some(recorder) = &core.recorder {
        recorder.flush();
    }
}
