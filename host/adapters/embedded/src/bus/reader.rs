//! Who reads one partition alone. The door `Reader`.

use super::bell::{Bell, Waits};
use super::depot::Depot;
use super::feed::Feed;
use super::partition::Partition;
use super::queue::closed;
use super::reading::{Answer, Asks};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Instant;
use wharf_core::BoxFuture;
use wharf_core::bus::{BusError, BusErrorKind, Message, ReadFrom, Reader};

/// What its user holds.
pub(super) struct Desk(Arc<Alone>);

struct Alone {
    depot: Arc<Depot>,
    bell: Arc<Bell>,
    feed: Mutex<Feed>,
}

impl Desk {
    pub(super) fn new(depot: Arc<Depot>, partition: Arc<Partition>, from: ReadFrom) -> Result<Desk, BusError> {
        let max = depot.config.readers_max;
        if depot.readers.fetch_add(1, Relaxed) >= max {
            depot.readers.fetch_sub(1, Relaxed);
            let message = format!("{max} readers read already, which is the bus's readers_max; raise it");
            return Err(BusError::new(BusErrorKind::Refused, message));
        }
        let bell = Arc::new(Bell::new(Instant::now()));
        partition.watch(&bell);
        Ok(Desk(Arc::new(Alone { depot, bell, feed: Mutex::new(Feed::new(partition, from)) })))
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.0.feed().partition().unwatch(&self.0.bell);
        self.0.depot.readers.fetch_sub(1, Relaxed);
    }
}

impl Alone {
    fn feed(&self) -> MutexGuard<'_, Feed> {
        self.feed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn collect(self: &Arc<Self>, max: usize) -> Result<Option<Vec<Message>>, BusError> {
        if self.depot.is_closed() {
            return Err(closed());
        }
        let who: Arc<dyn Asks> = self.clone();
        let mut messages = Vec::new();
        let taken = self.feed().take(max, &self.depot.reading, &who, |message| messages.push(message));
        self.depot.figures.looked(taken.messages, taken.misses);
        Ok((!messages.is_empty()).then_some(messages))
    }
}

impl Asks for Alone {
    fn waits_for(&self, _: u32, asked: u64) -> bool {
        self.feed().waits_for(asked)
    }

    fn told(&self, _: u32, asked: u64, answer: Answer) {
        self.feed().told(asked, answer);
        self.bell.ring();
    }
}

impl Reader for Desk {
    fn next(&self, max: usize) -> BoxFuture<'_, Result<Vec<Message>, BusError>> {
        let (alone, max) = (&self.0, max.max(1));
        Box::pin(async move {
            let _waits = Waits(&alone.bell);
            std::future::poll_fn(|to_be_woken| {
                if let Some(messages) = alone.collect(max).transpose() {
                    return Poll::Ready(messages);
                }
                // Looked at once more: what came before the bell listened has not rung it.
                alone.bell.listen(to_be_woken.waker());
                match alone.collect(max).transpose() {
                    Some(messages) => Poll::Ready(messages),
                    None => Poll::Pending,
                }
            })
            .await
        })
    }

    fn seek(&self, from: ReadFrom) {
        self.0.feed().seek(from);
        self.0.bell.ring();
    }
}
