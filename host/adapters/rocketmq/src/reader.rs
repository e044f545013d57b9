//! Reads one partition without a group: by offset, from the broker. Nothing is kept anywhere.

use crate::cluster::Cluster;
use crate::gate::{Gate, Held};
use crate::parcel;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep};
use wharf_core::BoxFuture;
use wharf_core::bus::{BusError, BusErrorKind, Message, ReadFrom, Reader};

/// Longest wait of one fetch.
const FETCH_WAIT: Duration = Duration::from_secs(10);
/// After one that failed, and after one that brought nothing.
const AGAIN_EVERY: Duration = Duration::from_millis(100);
/// Our own messages are kept back for the end of a partition at most so long.
const GATE_WITHIN: Duration = Duration::from_secs(5);

/// A reader.
pub(crate) struct RocketReader {
    place: Arc<PlaceOf>,
    gate: Arc<Gate>,
    runtime: Handle,
}

/// Which partition, and where in it.
struct PlaceOf {
    cluster: Arc<Cluster>,
    topic: Arc<str>,
    partition: u32,
    state: Mutex<State>,
    /// `state` was changed from outside.
    changed: Notify,
}

#[derive(Default)]
struct State {
    at: At,
    /// Counts seeks: what was asked for before one is of no use after it.
    seeks: u64,
    fetched: VecDeque<Message>,
    failure: Option<BusError>,
}

#[derive(Clone, Copy, Default)]
enum At {
    /// Where the end is, is being asked for.
    #[default]
    Unknown,
    /// From the first message at or after this time on.
    Time(u64),
    /// From here on; messages below `floor` are not handed out.
    Offset { next: u64, floor: u64 },
}

impl RocketReader {
    pub(crate) fn new(
        cluster: Arc<Cluster>,
        topic: &str,
        partition: u32,
        from: ReadFrom,
        gate: Arc<Gate>,
        runtime: Handle,
    ) -> RocketReader {
        let place = PlaceOf { cluster, topic: topic.into(), partition, state: Mutex::default(), changed: Notify::new() };
        let reader = RocketReader { place: Arc::new(place), gate, runtime };
        reader.seek(from);
        reader
    }
}

impl Reader for RocketReader {
    fn next(&self, max: usize) -> BoxFuture<'_, Result<Vec<Message>, BusError>> {
        Box::pin(self.place.next(max.max(1)))
    }

    fn seek(&self, from: ReadFrom) {
        let seeks = {
            let mut state = self.place.state();
            state.seeks += 1;
            state.fetched.clear();
            state.failure = None;
            state.at = match from {
                ReadFrom::Start => At::Offset { next: 0, floor: 0 },
                ReadFrom::Offset(offset) => At::Offset { next: offset, floor: offset },
                ReadFrom::Time(time_ms) => At::Time(time_ms),
                ReadFrom::End => At::Unknown,
            };
            state.seeks
        };
        if from == ReadFrom::End {
            self.runtime.spawn(self.place.clone().find_end(seeks, self.gate.hold()));
        }
        self.place.changed.notify_one();
    }
}

impl PlaceOf {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for the end until it is known or cannot be.
    async fn find_end(self: Arc<Self>, seeks: u64, held: Held) {
        let (began, mut held) = (Instant::now(), Some(held));
        loop {
            let end = self.cluster.end(&self.topic, self.partition).await;
            if self.found(seeks, end) {
                return;
            }
            if began.elapsed() > GATE_WITHIN && held.take().is_some() {
                let (topic, partition) = (&self.topic, self.partition);
                tracing::warn!(%topic, partition, "rocketmq does not say where the end is; what comes meanwhile may be missed");
            }
            sleep(AGAIN_EVERY).await;
        }
    }

    /// `true`: there is nothing more to find.
    fn found(&self, seeks: u64, end: Result<u64, BusError>) -> bool {
        let mut state = self.state();
        if state.seeks != seeks {
            return true;
        }
        match end {
            Err(error) if error.kind == BusErrorKind::Unreachable => return false,
            Err(error) => state.failure = Some(error),
            Ok(end) => state.at = At::Offset { next: end, floor: end },
        }
        self.changed.notify_one();
        true
    }

    async fn next(&self, max: usize) -> Result<Vec<Message>, BusError> {
        let mut is_well = true;
        loop {
            let (at, seeks) = {
                let mut state = self.state();
                if let Some(failure) = &state.failure {
                    return Err(failure.clone());
                }
                if !state.fetched.is_empty() {
                    let count = state.fetched.len().min(max);
                    return Ok(state.fetched.drain(..count).collect());
                }
                (state.at, state.seeks)
            };
            let step = tokio::select! {
                step = self.step(at) => step,
                // What is under way is of no use any more.
                () = self.changed.notified() => continue,
            };
            match step {
                Ok((at, messages)) => {
                    is_well = true;
                    let mut state = self.state();
                    if state.seeks == seeks {
                        state.at = at;
                        state.fetched.extend(messages);
                    }
                }
                Err(error) if error.kind == BusErrorKind::Unreachable => {
                    if std::mem::take(&mut is_well) {
                        tracing::warn!(topic = %self.topic, partition = self.partition, %error, "messages cannot be read; trying again");
                    }
                    sleep(AGAIN_EVERY).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Goes on from there: answers with where to go on, and with what came.
    async fn step(&self, at: At) -> Result<(At, Vec<Message>), BusError> {
        let (topic, partition, group) = (&*self.topic, self.partition, &*self.cluster.config.reader_group);
        match at {
            At::Unknown => std::future::pending().await,
            At::Time(time_ms) => {
                let offset = self.cluster.at_time(topic, partition, time_ms).await?;
                Ok((At::Offset { next: offset, floor: offset }, Vec::new()))
            }
            At::Offset { next, floor } => {
                let pulled = self.cluster.pull(group, topic, partition, next, FETCH_WAIT).await?;
                let kept = pulled.messages.into_iter().filter(|kept| kept.offset >= floor);
                let messages: Vec<Message> = kept.map(|kept| parcel::read(kept, partition)).collect();
                if messages.is_empty() && pulled.next == next {
                    sleep(AGAIN_EVERY / 10).await;
                }
                Ok((At::Offset { next: pulled.next, floor }, messages))
            }
        }
    }
}
