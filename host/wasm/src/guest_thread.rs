//! The threads for guests that take long: two of low priority, on each of which several take turns at each tick.
//!
//! A call is moved to the first at its first epoch yield; from then on it competes for the processor with the kernel's
//! help and not with the connections of its core. That thread gets its small share of a busy machine, because most
//! calls that come here are short ones whose processor the kernel gave away at a bad moment, and honest ones that need a
//! millisecond. A call that is cut short again and again moves on to the second, which only runs where no other thread
//! wants to (`SCHED_IDLE`), and so does all that a version is asked which breaks most of its questions: a low share alone
//! is no good manners, since the kernel lets whoever runs finish a slice of some milliseconds while a network thread
//! waits. And even a processor that nobody else wants is not free: its neighbours share caches and memory with it, and on
//! many machines the core itself. So such versions together get an eighth of one at most.
//!
//! Making instances ahead of need, schemas and rehearsals happen on the first.

use crate::WasmError;
use crate::moment::Moment;
use crate::pool::{CUTS, Watch};
use crate::ticker::{Presence, Ticker};
use crate::turn::{self, Turned};
use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::thread::JoinHandle;
use std::time::Duration;
use thread_priority::{NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};

/// Nice value of the first thread: it gives way to every network thread and still makes progress beside them.
const NICE: i32 = 10;

/// Versions that break most of their questions rest so many times as long as they ran.
const RESTS: u64 = 7;

/// A call that can change threads.
pub(crate) type Moving<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// How a call on a guest thread ended.
pub(crate) enum Ended<T> {
    /// It said something.
    Done(T, Moved),
    /// It was still waiting at its deadline and was dropped.
    TooLate(Moved),
    /// The host panicked.
    Panicked(Box<dyn Any + Send>),
}

/// What became of a call on the guest threads.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Moved {
    /// Turns that a tick cut short.
    pub(crate) cut: u32,
    /// How long its thread was kept waiting for a processor, if it took until its deadline.
    pub(crate) starved: Duration,
}

/// Both.
#[derive(Debug)]
pub(crate) struct GuestThreads {
    first: Thread,
    long: Thread,
}

impl GuestThreads {
    /// Starts them.
    pub(crate) fn start(ticker: &Ticker) -> Result<GuestThreads, WasmError> {
        Ok(GuestThreads {
            first: Thread::start("wharf-guest", ticker.join(false), give_way)?,
            long: Thread::start("wharf-guest-long", ticker.join(false), run_when_idle)?,
        })
    }

    /// Prepares something for later questions, on the first thread.
    pub(crate) fn prepare<T: Send + 'static>(&self, call: Moving<T>, deadline: Instant) -> oneshot::Receiver<Ended<T>> {
        let (answer, receiver) = oneshot::channel();
        self.first.here.go_on(call, Moved::default(), deadline, answer, Then::Stay);
        receiver
    }

    /// Runs a call until its end, its deadline, or until nobody wants its answer any more; on the second thread from the
    /// start if it `is_hopeless`.
    pub(crate) fn run<T: Send + 'static>(&self, call: Moving<T>, deadline: Instant, is_hopeless: bool) -> oneshot::Receiver<Ended<T>> {
        let (answer, receiver) = oneshot::channel();
        if is_hopeless {
            self.long.here.go_on(call, Moved::default(), deadline, answer, Then::StayAndRest);
        } else {
            self.first.here.go_on(call, Moved::default(), deadline, answer, Then::Leave(self.long.here.clone()));
        }
        receiver
    }
}

fn give_way() {
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE);
}

fn run_when_idle() {
    give_way();
    // Where it is refused, a long guest is as polite as a short one.
    let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    let _ = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, idle);
}

/// What a task on a guest thread needs of it.
#[derive(Clone, Debug)]
struct Here {
    runtime: Handle,
    presence: Arc<Presence>,
    /// Calls that rest do so until then, all of them.
    resting: Arc<AtomicU64>,
}

/// What becomes of a call that takes long.
enum Then {
    Stay,
    /// It takes its turns, with rests between them.
    StayAndRest,
    Leave(Here),
}

#[derive(Debug)]
struct Thread {
    here: Here,
    /// Dropped: the thread ends, and the calls on it are dropped.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Thread {
    fn start(name: &str, presence: Presence, begin: fn()) -> Result<Thread, WasmError> {
        let failed = |cause: std::io::Error| WasmError::internal(format!("thread {name} did not start: {cause}"));
        // Timers, and calls that come over from cores, are looked at after every second turn. The defaults are meant
        // for polls of microseconds; a turn here lasts a whole tick.
        let runtime = Builder::new_current_thread().enable_time().event_interval(2).global_queue_interval(2).build().map_err(failed)?;
        let here = Here { runtime: runtime.handle().clone(), presence: Arc::new(presence), resting: Arc::default() };
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                begin();
                let _ = runtime.block_on(stopped);
            })
            .map_err(failed)?;
        Ok(Thread { here, stop: Some(stop), thread: Some(thread) })
    }
}

impl Here {
    /// Waits until the calls that rest may go on. `rest` is the timer of this one.
    fn poll_rested(&self, rest: &mut Option<Pin<Box<Sleep>>>, task: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(timer) = rest {
                ready!(timer.as_mut().poll(task));
                *rest = None;
            }
            let until = Moment::from_ns(self.resting.load(Ordering::Relaxed));
            if Moment::now() >= until {
                return Poll::Ready(());
            }
            *rest = Some(Box::pin(tokio::time::sleep_until(until.instant().into())));
        }
    }

    /// Takes turns with the other calls here.
    fn go_on<T: Send + 'static>(
        &self,
        mut call: Moving<T>,
        mut moved: Moved,
        deadline: Instant,
        mut answer: oneshot::Sender<Ended<T>>,
        then: Then,
    ) {
        let here = self.clone();
        #[allow(clippy::disallowed_methods, reason = "a task of the guest thread, which has the thread's name")]
        self.runtime.spawn(async move {
            let kept_waiting = Watch::read();
            let cut = &mut moved.cut;
            let (leaves, rests) = (matches!(then, Then::Leave(_)), matches!(then, Then::StayAndRest));
            let mut rest = None;
            let turns = std::future::poll_fn(|task| {
                if rests {
                    ready!(here.poll_rested(&mut rest, task));
                }
                let begun = Moment::now();
                if leaves {
                    here.presence.alert(begun);
                }
                let turned = turn::on_guest_thread(&here.presence, call.as_mut(), task);
                if rests {
                    let now = Moment::now();
                    // Only this thread writes it.
                    here.resting.store(now.after(RESTS * now.since(begun)).as_ns(), Ordering::Relaxed);
                }
                match turned {
                    Turned::Cut => {
                        *cut += 1;
                        if leaves && *cut >= CUTS {
                            return Poll::Ready(Turned::Cut);
                        }
                        // Whoever waits for this processor has it now, and not when our slice is over.
                        std::thread::yield_now();
                        Poll::Pending
                    }
                    Turned::Waits => Poll::Pending,
                    over => Poll::Ready(over),
                }
            });
            // A guest that computes is ended by its epoch callback; the timer is for one that waits.
            let turned = tokio::select! {
                turned = tokio::time::timeout_at(deadline, turns) => turned.ok(),
                () = answer.closed() => return,
            };
            if Instant::now() >= deadline || matches!(turned, Some(Turned::Cut)) {
                let now = Watch::read();
                moved.starved += now.zip(kept_waiting).map_or(Duration::ZERO, |(now, before)| now.since(before));
            }
            match (turned, then) {
                (Some(Turned::Done(done)), _) => drop(answer.send(Ended::Done(done, moved))),
                (Some(Turned::Panicked(panic)), _) => drop(answer.send(Ended::Panicked(panic))),
                (Some(Turned::Cut), Then::Leave(long)) => long.go_on(call, moved, deadline, answer, Then::Stay),
                (Some(Turned::Cut | Turned::Waits) | None, _) => drop(answer.send(Ended::TooLate(moved))),
            }
        });
    }
}

impl Drop for Thread {
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
