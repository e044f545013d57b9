//! A member of a group: what it is told, and what it notes. Who has which partition is [`crate::member`]'s, which works behind it.
//!
//! RocketMQ as it is meant (5.3.3): members tell the broker that they are there, ask who else is, share the queues by the same rule, and
//! lock theirs at the broker, for a minute at a time. Locks are in the broker's memory: they say who may try, and the log of
//! standings says who has it. **A member that is gone is noticed at once when its connection closes, and its locks end a minute after
//! (`rocketmq.broker.rebalance.lockMaxLiveTime` of the broker), whatever `dead_after` says.**

use crate::cluster::Cluster;
use crate::ledger::{Ledger, not_yours};
use crate::member;
use crate::stamp::Stamp;
use futures_util::future::join_all;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use wharf_core::BoxFuture;
use wharf_core::bus::{BusError, BusErrorKind, Event, Membership, Message, Source, Standing};

/// Longest wait for a goodbye.
const LEAVE_WITHIN: Duration = Duration::from_secs(5);

/// A member.
pub(crate) struct RocketSource {
    shared: Arc<Shared>,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// What the member's tasks and its caller share.
pub(crate) struct Shared {
    pub(crate) ledger: Ledger,
    pub(crate) stamp: Arc<Stamp>,
    pub(crate) client: Arc<str>,
    pub(crate) release_within: Duration,
    /// Whose turn it is to note.
    pub(crate) noting: tokio::sync::Mutex<()>,
    state: Mutex<State>,
    /// There is something for `next`.
    pub(crate) news: Notify,
    /// There is something for the member's task.
    pub(crate) wake: Notify,
}

/// Changed under one lock, so that nobody sees half of it.
pub(crate) struct State {
    pub(crate) held: BTreeMap<u32, Holding>,
    /// What is to be told before any message.
    pub(crate) events: VecDeque<Event>,
    /// To be unlocked, with what is to be remembered before.
    pub(crate) let_go: Vec<(u32, Option<(u64, u64)>)>,
    pub(crate) failure: Option<BusError>,
    pub(crate) is_leaving: bool,
    /// Somebody waits in `next`; if not, since when.
    is_asking: bool,
    asked_at: Instant,
    /// The partition after which the next messages are taken.
    turn: u32,
}

/// A partition that is the member's.
pub(crate) struct Holding {
    pub(crate) session: u64,
    /// The place of the last record of the session.
    pub(crate) noted: u64,
    pub(crate) noted_at: Instant,
    pub(crate) standing: Standing,
    /// The broker has not been told of `standing` yet.
    pub(crate) is_news: bool,
    pub(crate) asked_at: Option<Instant>,
    pub(crate) is_paused: bool,
    /// From where messages are fetched, and below which none is handed out.
    pub(crate) from: u64,
    pub(crate) floor: u64,
    pub(crate) fetched: VecDeque<Message>,
    pub(crate) fetched_bytes: usize,
    /// `from` or `is_paused` was changed; there is room again.
    pub(crate) changed: Arc<Notify>,
    pub(crate) room: Arc<Notify>,
    pub(crate) task: JoinHandle<()>,
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RocketSource {
    pub(crate) fn new(cluster: &Cluster, membership: &Membership, stamp: Arc<Stamp>, runtime: &Handle) -> RocketSource {
        let client = stamp.client(&membership.member, &membership.topic);
        let ledger = Ledger::new(Arc::new(cluster.another()), membership.topic.clone(), membership.group.clone());
        let state = State {
            held: BTreeMap::new(),
            events: VecDeque::new(),
            let_go: Vec::new(),
            failure: None,
            is_leaving: false,
            is_asking: false,
            asked_at: Instant::now(),
            turn: 0,
        };
        let shared = Shared {
            ledger,
            stamp,
            client,
            release_within: membership.release_within,
            noting: tokio::sync::Mutex::new(()),
            state: Mutex::new(state),
            news: Notify::new(),
            wake: Notify::new(),
        };
        let shared = Arc::new(shared);
        let task = runtime.spawn(member::look_after(shared.clone()));
        RocketSource { shared, task: Mutex::new(Some(task)) }
    }
}

impl Drop for RocketSource {
    /// As if the process had ended: nothing is given back.
    fn drop(&mut self) {
        if let Some(task) = self.task.lock().unwrap_or_else(PoisonError::into_inner).take() {
            task.abort();
        }
        let mut state = self.shared.state();
        // The task may be at work at this moment: what it gets is not to be held any more.
        state.is_leaving = true;
        state.held.clear();
    }
}

impl Shared {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A partition is another's.
    pub(crate) fn lose(&self, state: &mut State, partition: u32) {
        if state.held.remove(&partition).is_some() {
            tracing::info!(topic = %self.ledger.topic, group = %self.ledger.group, partition, "partition lost");
            state.events.push_back(Event::Lost { partition });
            self.news.notify_one();
        }
    }

    fn closed(&self) -> BusError {
        BusError::new(BusErrorKind::Closed, format!("this member has left group {}", self.ledger.group))
    }
}

impl State {
    /// Since when nobody asks.
    pub(crate) fn silent_for(&self) -> Duration {
        if self.is_asking { Duration::ZERO } else { self.asked_at.elapsed() }
    }

    /// Everything that is to be told, then messages, from each partition in turn.
    fn take(&mut self, max: usize) -> Vec<Event> {
        let mut told: Vec<Event> = self.events.drain(..).collect();
        let mut left = max.max(1);
        let after: Vec<u32> = self.held.range(self.turn.saturating_add(1)..).map(|(partition, _)| *partition).collect();
        let before: Vec<u32> = self.held.range(..=self.turn).map(|(partition, _)| *partition).collect();
        for partition in after.into_iter().chain(before) {
            let Some(holding) = self.held.get_mut(&partition).filter(|holding| !holding.is_paused) else { continue };
            let count = holding.fetched.len().min(left);
            if count > 0 {
                left -= count;
                self.turn = partition;
                for message in holding.fetched.drain(..count) {
                    holding.fetched_bytes = holding.fetched_bytes.saturating_sub(message.value.len());
                    told.push(Event::Message(message));
                }
                holding.room.notify_one();
            }
            if left == 0 {
                break;
            }
        }
        told
    }
}

/// Somebody is in `next`.
struct Asking<'a>(&'a Shared);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        (state.is_asking, state.asked_at) = (false, Instant::now());
    }
}

impl Source for RocketSource {
    fn next(&self, max: usize) -> BoxFuture<'_, Result<Vec<Event>, BusError>> {
        Box::pin(async move {
            self.shared.state().is_asking = true;
            let _asking = Asking(&self.shared);
            loop {
                {
                    let mut state = self.shared.state();
                    let told = state.take(max);
                    if !told.is_empty() {
                        return Ok(told);
                    }
                    if let Some(failure) = state.failure.take() {
                        return Err(failure);
                    }
                    if state.is_leaving {
                        return Err(self.shared.closed());
                    }
                }
                self.shared.news.notified().await;
            }
        })
    }

    fn note(&self, standings: Vec<(u32, Standing)>) -> BoxFuture<'_, Result<(), BusError>> {
        Box::pin(async move {
            let _turn = self.shared.noting.lock().await;
            let mut notes = Vec::with_capacity(standings.len());
            {
                let state = self.shared.state();
                if state.is_leaving {
                    return Err(self.shared.closed());
                }
                for (partition, standing) in standings {
                    let holding = state.held.get(&partition).ok_or_else(|| not_yours(&self.shared.ledger.topic, partition))?;
                    notes.push((partition, holding.session, holding.noted, standing));
                }
            }
            let ledger = &self.shared.ledger;
            let written = notes.iter().map(|(partition, session, after, standing)| ledger.note(*partition, *session, *after, standing));
            let written = join_all(written).await;
            let mut worst = Ok(());
            let mut state = self.shared.state();
            for ((partition, session, _, standing), result) in notes.into_iter().zip(written) {
                let holding = state.held.get_mut(&partition).filter(|holding| holding.session == session);
                match (result, holding) {
                    (Ok(noted), Some(holding)) => {
                        (holding.noted, holding.noted_at, holding.standing, holding.is_news) = (noted, Instant::now(), standing, true);
                    }
                    // It was written as the partition's, and lost since.
                    (Ok(_), None) => {}
                    (Err(error), holding) => {
                        if error.kind == BusErrorKind::NotYours && holding.is_some() {
                            self.shared.lose(&mut state, partition);
                        }
                        if worst.is_ok() || error.kind == BusErrorKind::NotYours {
                            worst = Err(error);
                        }
                    }
                }
            }
            worst
        })
    }

    fn pause(&self, partition: u32, paused: bool) {
        if let Some(holding) = self.shared.state().held.get_mut(&partition) {
            holding.is_paused = paused;
            holding.changed.notify_one();
            holding.room.notify_one();
        }
        self.shared.news.notify_one();
    }

    fn seek(&self, partition: u32, offset: u64) {
        if let Some(holding) = self.shared.state().held.get_mut(&partition) {
            (holding.from, holding.floor) = (offset, offset);
            holding.fetched.clear();
            holding.fetched_bytes = 0;
            holding.changed.notify_one();
            holding.room.notify_one();
        }
    }

    fn release(&self, partition: u32) {
        let mut state = self.shared.state();
        if let Some(holding) = state.held.remove(&partition) {
            let remembered = holding.is_news.then_some((holding.standing.next, holding.noted));
            state.let_go.push((partition, remembered));
            self.shared.wake.notify_one();
        }
    }

    fn leave(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.shared.state().is_leaving = true;
            self.shared.wake.notify_one();
            self.shared.news.notify_one();
            let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(mut task) = task
                && timeout(LEAVE_WITHIN, &mut task).await.is_err()
            {
                task.abort();
            }
            self.shared.state().held.clear();
        })
    }
}
