//! What waits for the writer, in order, within bounds. The door `Sink`.

use super::depot::Depot;
use super::disk::Line;
use super::group::{Group, Noted};
use super::partition::{Partition, Stretch};
use super::record::{FIELD_NAME_MAX, FIELDS_MAX, size};
use fjall::UserValue;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use wharf_core::BoxFuture;
use wharf_core::bus::{BusError, BusErrorKind, Parcel, Sink, Told, TopicWish};

/// Most notes and other changes that wait. There is one of a member at a time, unless it does not wait for its answers.
const CHANGES_MAX: usize = 16_384;

/// Something for the writer to do.
pub(super) enum Job {
    Send { partition: Arc<Partition>, parcel: Parcel, size: u64, told: Told },
    Note { group: Arc<Group>, noted: Vec<Noted>, values: Vec<UserValue>, is_move: bool, reply: Reply<()> },
    Make { wish: TopicWish, reply: Reply<u32> },
    Trim { trim: Trim, reply: oneshot::Sender<Result<(), String>> },
    Flush { reply: oneshot::Sender<()> },
}

/// Who waits for an answer.
pub(super) type Reply<T> = oneshot::Sender<Result<T, BusError>>;

/// Messages to be removed.
pub(super) struct Trim {
    pub(super) partition: Arc<Partition>,
    pub(super) stretch: Stretch,
    pub(super) lines: Vec<Line>,
}

/// See the head of the file.
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    filled: Condvar,
    messages_max: u64,
    bytes_max: u64,
}

#[derive(Default)]
struct Waiting {
    jobs: Vec<Job>,
    changes: usize,
    /// Messages and bytes that were taken and not yet told of, also those that the writer has already fetched.
    untold: u64,
    untold_bytes: u64,
    writer_sleeps: bool,
    is_closed: bool,
}

/// What became of the writer's waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fetched {
    Jobs,
    Nothing,
    Closed,
}

impl Queue {
    pub(super) fn new(messages_max: usize, bytes_max: u64) -> Queue {
        Queue { waiting: Mutex::default(), filled: Condvar::new(), messages_max: messages_max as u64, bytes_max }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, mut waiting: MutexGuard<'_, Waiting>, job: Job) {
        waiting.jobs.push(job);
        if std::mem::take(&mut waiting.writer_sleeps) {
            drop(waiting);
            self.filled.notify_one();
        }
    }

    /// Anything but a message.
    pub(super) fn put(&self, job: Job) -> Result<(), BusError> {
        let mut waiting = self.waiting();
        if waiting.is_closed {
            return Err(closed());
        }
        if waiting.changes >= CHANGES_MAX {
            let message = format!("{CHANGES_MAX} notes and changes wait for the disk; wait for answers before the next");
            return Err(BusError::new(BusErrorKind::Unreachable, message));
        }
        waiting.changes += 1;
        self.push(waiting, job);
        Ok(())
    }

    fn send(&self, partition: Arc<Partition>, parcel: Parcel, size: u64, told: Told) -> Result<(), BusError> {
        let mut waiting = self.waiting();
        if waiting.is_closed {
            return Err(closed());
        }
        // One message is always taken, however small the bounds are.
        if waiting.untold > 0 && (waiting.untold >= self.messages_max || waiting.untold_bytes + size > self.bytes_max) {
            let (messages, bytes) = (waiting.untold, waiting.untold_bytes);
            drop(waiting);
            let (messages_max, bytes_max) = (self.messages_max, self.bytes_max);
            let message = format!(
                "{messages} messages of {bytes} bytes wait for the disk, and {messages_max} and {bytes_max} are the limits; send slower, or raise queue_max or queue_bytes_max"
            );
            return Err(BusError::new(BusErrorKind::Full, message));
        }
        waiting.untold += 1;
        waiting.untold_bytes += size;
        self.push(waiting, Job::Send { partition, parcel, size, told });
        Ok(())
    }

    /// All that waits, for the writer; `into` is empty.
    pub(super) fn fetch(&self, into: &mut Vec<Job>, within: Option<Duration>) -> Fetched {
        let until = within.and_then(|within| Instant::now().checked_add(within));
        let mut waiting = self.waiting();
        loop {
            if !waiting.jobs.is_empty() {
                std::mem::swap(&mut waiting.jobs, into);
                waiting.changes = 0;
                return Fetched::Jobs;
            }
            if waiting.is_closed {
                return Fetched::Closed;
            }
            waiting.writer_sleeps = true;
            waiting = match until.map(|until| until.saturating_duration_since(Instant::now())) {
                Some(rest) if rest.is_zero() => return Fetched::Nothing,
                Some(rest) => self.filled.wait_timeout(waiting, rest).unwrap_or_else(PoisonError::into_inner).0,
                None => self.filled.wait(waiting).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// So many messages have been told of.
    pub(super) fn told(&self, messages: u64, bytes: u64) {
        let mut waiting = self.waiting();
        waiting.untold -= messages;
        waiting.untold_bytes -= bytes;
    }

    pub(super) fn untold(&self) -> (u64, u64) {
        let waiting = self.waiting();
        (waiting.untold, waiting.untold_bytes)
    }

    /// Nothing more is taken; what waits is written.
    pub(super) fn close(&self) {
        self.waiting().is_closed = true;
        self.filled.notify_one();
    }
}

pub(super) fn closed() -> BusError {
    BusError::new(BusErrorKind::Closed, "the embedded bus is closed")
}

/// The way to send.
pub(super) struct Slot(pub(super) Arc<Depot>);

impl Sink for Slot {
    fn send(&self, parcel: Parcel, told: Told) -> Result<(), BusError> {
        let depot = &*self.0;
        let (size, size_max) = (size(&parcel), depot.config.parcel_bytes_max);
        if size > size_max {
            let message = format!(
                "a message for topic {} has {size} bytes, and {size_max} is the limit; send it in pieces, or raise parcel_bytes_max",
                parcel.topic
            );
            return Err(BusError::new(BusErrorKind::TooLarge, message));
        }
        if parcel.fields.len() > FIELDS_MAX || parcel.fields.iter().any(|(name, _)| name.len() > FIELD_NAME_MAX) {
            let message = format!(
                "a message for topic {} has {} fields, or one with a long name; {FIELDS_MAX} and {FIELD_NAME_MAX} bytes are the limits",
                parcel.topic,
                parcel.fields.len()
            );
            return Err(BusError::new(BusErrorKind::TooLarge, message));
        }
        depot.no_trouble()?;
        let partition = depot.partition(&parcel.topic, parcel.partition)?;
        depot.queue.send(partition, parcel, size as u64, told)
    }

    fn parcel_bytes_max(&self) -> usize {
        self.0.config.parcel_bytes_max
    }

    fn waiting(&self) -> (u64, u64) {
        self.0.queue.untold()
    }

    fn flush(&self, within: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let (reply, said) = oneshot::channel();
            if self.0.queue.put(Job::Flush { reply }).is_ok() {
                let _ = tokio::time::timeout(within, said).await;
            }
        })
    }
}
