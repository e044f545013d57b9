//! The store while it changes hands: here, in the other process, or on its way.
//!
//! Rooms get one [`HandedStore`] for life and need not know. Calls wait while the store is on its way, for a bounded time;
//! calls to the other process go over the line to it, and it may pass them on.

use crate::upgrade::link::Message;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedRwLockReadGuard, RwLock, mpsc, oneshot, watch};
use wharf_core::BoxFuture;
use wharf_core::store::{Store, StoreError};

/// How long a call waits for a store that is on its way.
const WAIT_MAX: Duration = Duration::from_secs(15);
/// Calls that may wait for the other process.
const ASKED_MAX: usize = 1024;

/// One call of a store, but for the value that comes with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Question {
    namespace: String,
    key: String,
    op: Op,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Op {
    Get,
    Set {
        ttl_ms: Option<u64>,
    },
    Delete,
    /// The blob is the expected value, of this length, and then the new one.
    CompareAndSet {
        expected: Option<usize>,
        ttl_ms: Option<u64>,
    },
    Increment {
        by: i64,
        ttl_ms: Option<u64>,
    },
}

/// What became of a call, but for the value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Said {
    /// There is a value, and it comes with this.
    Value,
    /// There is none.
    Nothing,
    /// It was done.
    Done,
    /// Whether it was.
    Was(bool),
    /// The sum.
    Sum(i64),
    /// The store does not answer.
    Unavailable(String),
    /// Key or value are too large.
    TooLarge(String),
    /// The namespace is full.
    Full(String),
    /// The value is no counter.
    NotACounter,
}

impl From<StoreError> for Said {
    fn from(error: StoreError) -> Said {
        match error {
            StoreError::Unavailable(why) => Said::Unavailable(why),
            StoreError::TooLarge(why) => Said::TooLarge(why),
            StoreError::Full(why) => Said::Full(why),
            StoreError::NotACounter => Said::NotACounter,
        }
    }
}

impl Said {
    fn was(self) -> Result<bool, StoreError> {
        match self {
            Said::Was(was) => Ok(was),
            other => Err(other.error()),
        }
    }

    /// The error that it is; every other answer than the one that fits is one.
    fn error(self) -> StoreError {
        match self {
            Said::TooLarge(why) => StoreError::TooLarge(why),
            Said::Full(why) => StoreError::Full(why),
            Said::NotACounter => StoreError::NotACounter,
            Said::Unavailable(why) => StoreError::Unavailable(why),
            _ => StoreError::Unavailable("the process that has the store gave another answer than was asked for".into()),
        }
    }
}

/// Who waits for which answer.
type Waiting = HashMap<u64, oneshot::Sender<(Said, Bytes)>>;

/// The way to the store of the other process.
pub(super) struct Asker {
    next: AtomicU64,
    /// `None`: the other process has gone.
    waiting: Mutex<Option<Waiting>>,
    line: mpsc::Sender<(Message, Bytes)>,
}

impl Asker {
    /// One that writes its questions here.
    pub(super) fn new(line: mpsc::Sender<(Message, Bytes)>) -> Arc<Asker> {
        Arc::new(Asker { next: AtomicU64::new(0), waiting: Mutex::new(Some(HashMap::new())), line })
    }

    fn waiting(&self) -> MutexGuard<'_, Option<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An answer has come.
    pub(super) fn said(&self, id: u64, said: Said, blob: Bytes) {
        if let Some(waiter) = self.waiting().as_mut().and_then(|waiting| waiting.remove(&id)) {
            // Who has given up is not told.
            let _ = waiter.send((said, blob));
        }
    }

    /// The other process has gone: nobody who waits will get an answer.
    pub(super) fn gone(&self) {
        self.waiting().take();
    }

    async fn ask(&self, question: Question, blob: Bytes) -> (Said, Bytes) {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (waiter, answer) = oneshot::channel();
        match self.waiting().as_mut() {
            Some(waiting) if waiting.len() < ASKED_MAX => {
                waiting.insert(id, waiter);
            }
            Some(_) => {
                let why = format!("{ASKED_MAX} calls wait for the process that has the store");
                return (Said::Unavailable(why), Bytes::new());
            }
            None => return (gone(), Bytes::new()),
        }
        // Whoever gives up takes its place along.
        let _place = Place { asker: self, id };
        if self.line.send((Message::Ask { id, question }, blob)).await.is_err() {
            return (gone(), Bytes::new());
        }
        match tokio::time::timeout(WAIT_MAX, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => (gone(), Bytes::new()),
            Err(_) => (Said::Unavailable(format!("the process that has the store did not answer within {WAIT_MAX:?}")), Bytes::new()),
        }
    }
}

struct Place<'a> {
    asker: &'a Asker,
    id: u64,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(waiting) = self.asker.waiting().as_mut() {
            waiting.remove(&self.id);
        }
    }
}

fn gone() -> Said {
    Said::Unavailable("the process that had the store has ended".into())
}

/// The store of this process. `None`: it was closed a moment ago.
type Here = Arc<RwLock<Option<Box<dyn Store>>>>;

#[derive(Clone)]
enum At {
    Here(Here),
    There(Arc<Asker>),
    OnItsWay,
}

/// See the head of the file.
pub struct HandedStore {
    at: watch::Sender<At>,
}

impl HandedStore {
    /// A store that is here.
    pub fn new(store: Box<dyn Store>) -> HandedStore {
        HandedStore { at: watch::Sender::new(here(store)) }
    }

    /// The store of another process.
    pub(super) fn there(asker: Arc<Asker>) -> HandedStore {
        HandedStore { at: watch::Sender::new(At::There(asker)) }
    }

    /// It is here from now on.
    pub(super) fn is_here(&self, store: Box<dyn Store>) {
        self.at.send_replace(here(store));
    }

    /// It is there from now on.
    pub(super) fn is_there(&self, asker: Arc<Asker>) {
        self.at.send_replace(At::There(asker));
    }

    /// Lets calls that have begun end, and closes it. Calls that come wait for where it will be.
    pub(super) async fn close(&self) {
        if let At::Here(here) = self.at.send_replace(At::OnItsWay) {
            let store = here.write().await.take();
            // Closing writes to the disk.
            let _ = tokio::task::spawn_blocking(move || drop(store)).await;
        }
    }

    /// Answers the other process.
    pub(super) async fn answer(&self, question: Question, blob: Bytes) -> (Said, Bytes) {
        let done = |said: Result<Said, StoreError>| (said.unwrap_or_else(Said::from), Bytes::new());
        let Question { namespace, key, op } = &question;
        match *op {
            Op::Get => match self.get(namespace, key).await {
                Ok(Some(value)) => (Said::Value, value),
                Ok(None) => (Said::Nothing, Bytes::new()),
                Err(error) => (error.into(), Bytes::new()),
            },
            Op::Set { ttl_ms } => done(self.set(namespace, key, blob, time(ttl_ms)).await.map(|()| Said::Done)),
            Op::Delete => done(self.delete(namespace, key).await.map(Said::Was)),
            Op::CompareAndSet { expected, ttl_ms } => {
                let (mut value, mut before) = (blob, None);
                if let Some(length) = expected {
                    if length > value.len() {
                        return (Said::TooLarge("the expected value is longer than what came with it".into()), Bytes::new());
                    }
                    before = Some(value.split_to(length));
                }
                done(self.compare_and_set(namespace, key, before, value, time(ttl_ms)).await.map(Said::Was))
            }
            Op::Increment { by, ttl_ms } => done(self.increment(namespace, key, by, time(ttl_ms)).await.map(Said::Sum)),
        }
    }

    /// Where the store is, as soon as it is somewhere.
    async fn find(&self) -> Result<Found, StoreError> {
        let at = self.at.borrow().clone();
        if let Some(found) = found(at).await {
            return Ok(found);
        }
        let mut changes = self.at.subscribe();
        let handed = async {
            loop {
                let at = changes.borrow_and_update().clone();
                if let Some(found) = found(at).await {
                    return Some(found);
                }
                changes.changed().await.ok()?;
            }
        };
        let handed = tokio::time::timeout(WAIT_MAX, handed).await.ok().flatten();
        handed.ok_or_else(|| StoreError::Unavailable(format!("the store was not handed on within {WAIT_MAX:?}")))
    }
}

/// A store that is somewhere. While it is here and somebody holds this, it is not closed.
enum Found {
    Here(OwnedRwLockReadGuard<Option<Box<dyn Store>>, Box<dyn Store>>),
    There(Arc<Asker>),
}

async fn found(at: At) -> Option<Found> {
    match at {
        At::Here(here) => OwnedRwLockReadGuard::try_map(here.read_owned().await, Option::as_ref).ok().map(Found::Here),
        At::There(asker) => Some(Found::There(asker)),
        At::OnItsWay => None,
    }
}

fn here(store: Box<dyn Store>) -> At {
    At::Here(Arc::new(RwLock::new(Some(store))))
}

fn time(ms: Option<u64>) -> Option<Duration> {
    ms.map(Duration::from_millis)
}

/// No value lives forever because its time was short.
fn ms(ttl: Option<Duration>) -> Option<u64> {
    ttl.map(|ttl| u64::try_from(ttl.as_micros().div_ceil(1000)).unwrap_or(u64::MAX))
}

fn question(namespace: &str, key: &str, op: Op) -> Question {
    Question { namespace: namespace.into(), key: key.into(), op }
}

impl Store for HandedStore {
    fn get<'a>(&'a self, namespace: &'a str, key: &'a str) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        Box::pin(async move {
            match self.find().await? {
                Found::Here(store) => store.get(namespace, key).await,
                Found::There(asker) => match asker.ask(question(namespace, key, Op::Get), Bytes::new()).await {
                    (Said::Value, value) => Ok(Some(value)),
                    (Said::Nothing, _) => Ok(None),
                    (other, _) => Err(other.error()),
                },
            }
        })
    }

    fn set<'a>(&'a self, namespace: &'a str, key: &'a str, value: Bytes, ttl: Option<Duration>) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            match self.find().await? {
                Found::Here(store) => store.set(namespace, key, value, ttl).await,
                Found::There(asker) => match asker.ask(question(namespace, key, Op::Set { ttl_ms: ms(ttl) }), value).await.0 {
                    Said::Done => Ok(()),
                    other => Err(other.error()),
                },
            }
        })
    }

    fn delete<'a>(&'a self, namespace: &'a str, key: &'a str) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move {
            match self.find().await? {
                Found::Here(store) => store.delete(namespace, key).await,
                Found::There(asker) => asker.ask(question(namespace, key, Op::Delete), Bytes::new()).await.0.was(),
            }
        })
    }

    fn compare_and_set<'a>(
        &'a self,
        namespace: &'a str,
        key: &'a str,
        expected: Option<Bytes>,
        value: Bytes,
        ttl: Option<Duration>,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move {
            match self.find().await? {
                Found::Here(store) => store.compare_and_set(namespace, key, expected, value, ttl).await,
                Found::There(asker) => {
                    let op = Op::CompareAndSet { expected: expected.as_ref().map(Bytes::len), ttl_ms: ms(ttl) };
                    let blob = [expected.as_deref().unwrap_or_default(), &value].concat();
                    asker.ask(question(namespace, key, op), blob.into()).await.0.was()
                }
            }
        })
    }

    fn increment<'a>(&'a self, namespace: &'a str, key: &'a str, by: i64, ttl: Option<Duration>) -> BoxFuture<'a, Result<i64, StoreError>> {
        Box::pin(async move {
            match self.find().await? {
                Found::Here(store) => store.increment(namespace, key, by, ttl).await,
                Found::There(asker) => {
                    let op = Op::Increment { by, ttl_ms: ms(ttl) };
                    match asker.ask(question(namespace, key, op), Bytes::new()).await.0 {
                        Said::Sum(sum) => Ok(sum),
                        other => Err(other.error()),
                    }
                }
            }
        })
    }
}
