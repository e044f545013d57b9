//! The thread for guests that take long: one, of low priority, where several take turns at each tick.
//!
//! A call is moved here at its first epoch yield; from then on it competes for the processor with the kernel's help and
//! not with the connections of its core. Making instances ahead of need, schemas and rehearsals happen here as well.

use crate::WasmError;
use crate::ticker::Presence;
use crate::turn::{self, Turned};
use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::thread::JoinHandle;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Nice value of the thread: it gives way to every network thread and still makes progress beside them.
const NICE: i32 = 10;

/// A call that can change threads.
pub(crate) type Moving<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// How a call on the guest thread ended.
pub(crate) enum Ended<T> {
    /// It said something, after this many turns that a tick cut short.
    Done(T, u32),
    /// It was still waiting at its deadline and was dropped.
    TooLate,
    /// The host panicked.
    Panicked(Box<dyn Any + Send>),
}

/// The thread.
#[derive(Debug)]
pub(crate) struct GuestThread {
    handle: Handle,
    presence: Arc<Presence>,
    /// Dropped: the thread ends, and the calls on it are dropped.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl GuestThread {
    /// Starts it.
    pub(crate) fn start(presence: Presence) -> Result<GuestThread, WasmError> {
        let failed = |cause: std::io::Error| WasmError::internal(format!("the guest thread did not start: {cause}"));
        // Timers, and calls that come over from cores, are looked at after every second turn. The defaults are meant
        // for polls of microseconds; a turn here lasts a whole tick.
        let runtime = Builder::new_current_thread().enable_time().event_interval(2).global_queue_interval(2).build().map_err(failed)?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new()
            .name("wharf-guest".into())
            .spawn(move || {
                let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE);
                let _ = runtime.block_on(stopped);
            })
            .map_err(failed)?;
        Ok(GuestThread { handle, presence: Arc::new(presence), stop: Some(stop), thread: Some(thread) })
    }

    /// Runs a call here until its end, its deadline, or until nobody wants its answer any more.
    pub(crate) fn run<T: Send + 'static>(&self, mut call: Moving<T>, deadline: Instant) -> oneshot::Receiver<Ended<T>> {
        let (answer, receiver) = oneshot::channel();
        let presence = self.presence.clone();
        #[allow(clippy::disallowed_methods, reason = "a task of the guest thread, which has the thread's name")]
        self.handle.spawn(async move {
            let mut answer = answer;
            let mut cut = 0;
            let turns = std::future::poll_fn(|task| match turn::on_guest_thread(&presence, call.as_mut(), task) {
                Turned::Done(done) => Poll::Ready(Ended::Done(done, cut)),
                Turned::Panicked(panic) => Poll::Ready(Ended::Panicked(panic)),
                Turned::Cut => {
                    cut += 1;
                    Poll::Pending
                }
                Turned::Waits => Poll::Pending,
            });
            // A guest that computes is ended by its epoch callback; the timer is for one that waits.
            let ended = tokio::select! {
                ended = tokio::time::timeout_at(deadline, turns) => ended.unwrap_or(Ended::TooLate),
                () = answer.closed() => return,
            };
            let _ = answer.send(ended);
        });
        receiver
    }
}

impl Drop for GuestThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        // The last holder of the engine may be a call on this very thread; then there is nobody to wait for.
        if let Some(thread) = self.thread.take()
            && thread.thread().id() != std::thread::current().id()
        {
            let _ = thread.join();
        }
    }
}
