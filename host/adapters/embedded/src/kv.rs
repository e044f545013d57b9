//! The embedded `Store`: values in memory, and in a folder.
//!
//! **What "done" means.** With [`Durability::Synced`], `set`, `delete`, `compare_and_set` and `increment` resolve after
//! the change stands in fjall's journal and `fdatasync` on it has returned: it survives `kill -9`, and a power failure as
//! far as the disk keeps what it has acknowledged. Nobody reads a value before that. With [`Durability::Memory`] they
//! resolve once the value is in this process's memory; a restart forgets everything.
//! A write that ends in `Unavailable` was not made, as this process sees it; if the process ends before it can write
//! again, the next start may find it made.
//!
//! All values are in memory, so `get` answers at once and goes on while the disk is full. One thread writes: it takes
//! what waits, decides it in order, commits it as one group with one sync, then shows it to readers. The queue is
//! bounded; full is an answer.
//!
//! `op` decides, `table` holds, `disk` keeps. No replication, no listing of keys: that is not what the door asks.

mod disk;
mod op;
mod table;

pub use table::Quota;

use bytes::Bytes;
use disk::{Disk, Write};
use op::{Change, Entry, Op, Said, decide};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use table::{End, Ends, NAMESPACE_NAME_MAX, Namespace, Table};
use tokio::sync::oneshot;
use wharf_core::BoxFuture;
use wharf_core::store::{KEY_MAX, Store, StoreError, VALUE_MAX};

/// When a write is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Durability {
    /// It is in this process's memory.
    Memory,
    /// It is synced in this folder, which no other process may use.
    Synced(PathBuf),
}

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct KvConfig {
    /// When a write is done.
    pub durability: Durability,
    /// What a namespace may hold.
    pub quota: Quota,
    /// What these namespaces may hold instead.
    pub quotas: HashMap<Box<str>, Quota>,
    /// Namespaces. Default 1,024: one for each plugin and room, and some.
    pub namespaces_max: usize,
    /// Keys and values of all namespaces, with 128 bytes for each entry. Default 256 MiB: it is the process's memory.
    pub bytes_max: u64,
    /// Writes that wait for the disk. Default 4,096; they may hold 16 MiB of values.
    pub queue_max: usize,
}

impl KvConfig {
    /// The defaults, with this durability.
    pub fn new(durability: Durability) -> KvConfig {
        KvConfig {
            durability,
            quota: Quota::default(),
            quotas: HashMap::new(),
            namespaces_max: 1024,
            bytes_max: 256 * 1024 * 1024,
            queue_max: 4096,
        }
    }
}

/// Milliseconds since 1970.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// See the head of the file.
pub struct Kv {
    table: Arc<Table>,
    clock: Clock,
    mode: Mode,
}

enum Mode {
    Memory(Mutex<Ends>),
    Synced(Queue),
}

/// The way to the writing thread.
struct Queue {
    /// `None` only while the store is being dropped.
    jobs: Option<SyncSender<Job>>,
    bytes: Arc<AtomicU64>,
    trouble: Arc<Mutex<Option<String>>>,
    thread: Option<JoinHandle<()>>,
}

/// A write and who waits for it.
struct Job {
    ask: Ask,
    reply: oneshot::Sender<Result<Said, StoreError>>,
}

struct Ask {
    namespace: Box<str>,
    key: Arc<str>,
    op: Op,
}

/// Most bytes of keys and values that wait for the disk.
const QUEUE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Most writes in one group: more gain little by another sync saved, and make the first one wait.
const GROUP_MAX: usize = 512;
/// Most ended keys that are swept with one group.
const SWEEP_MAX: usize = 256;
/// The same for a write in memory, whose caller is a core that has requests to serve.
const SWEEP_INLINE_MAX: usize = 8;
/// After a failed write, the disk is tried again at most this often.
const REPAIR_EVERY: Duration = Duration::from_secs(1);

/// What a store holds.
#[derive(Clone, Debug)]
pub struct KvReport {
    /// By name.
    pub namespaces: Vec<NamespaceReport>,
    /// Why writes are refused at present.
    pub trouble: Option<String>,
}

/// What a namespace holds; keys that have ended count until they are swept.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each name is the figure")]
pub struct NamespaceReport {
    pub name: Box<str>,
    pub keys: u64,
    pub bytes: u64,
    pub quota: Quota,
}

impl Kv {
    /// Opens a store; what is in its folder and has not ended is there again.
    ///
    /// # Errors
    /// The folder is in use, cannot be made, read or written, or is damaged. Blocks while it reads.
    pub fn open(config: KvConfig) -> Result<Kv, StoreError> {
        // The wall clock once, then a clock that nobody sets back: a ttl is as long as it says while the process lives.
        let wall_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        let started = Instant::now();
        Kv::open_with_clock(config, Arc::new(move || wall_ms + started.elapsed().as_millis() as u64))
    }

    /// The same with the caller's clock.
    ///
    /// # Errors
    /// As [`Kv::open`].
    pub fn open_with_clock(config: KvConfig, clock: Clock) -> Result<Kv, StoreError> {
        let KvConfig { durability, quota, quotas, namespaces_max, bytes_max, queue_max } = config;
        let table = Arc::new(Table::new(quota, quotas, namespaces_max, bytes_max));
        let mode = match durability {
            Durability::Memory => Mode::Memory(Mutex::default()),
            Durability::Synced(folder) => Mode::Synced(Queue::open(&folder, queue_max, &table, &clock)?),
        };
        Ok(Kv { table, clock, mode })
    }

    /// What it holds, for an operator.
    pub fn report(&self) -> KvReport {
        let mut namespaces: Vec<NamespaceReport> = self
            .table
            .all()
            .iter()
            .map(|namespace| NamespaceReport {
                name: namespace.name.clone(),
                keys: namespace.keys.load(Relaxed),
                bytes: namespace.bytes.load(Relaxed),
                quota: namespace.quota,
            })
            .collect();
        namespaces.sort_unstable_by(|one, two| one.name.cmp(&two.name));
        let trouble = match &self.mode {
            Mode::Memory(_) => None,
            Mode::Synced(queue) => queue.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        };
        KvReport { namespaces, trouble }
    }

    fn find(&self, namespace: &str, key: &str) -> Result<Option<Bytes>, StoreError> {
        check_key(namespace, key)?;
        let Some(entry) = self.table.get(namespace, key) else { return Ok(None) };
        // The clock is only read for keys that end.
        let over = entry.expires_ms != 0 && entry.is_over((self.clock)());
        Ok((!over).then_some(entry.value))
    }

    async fn write(&self, namespace: &str, key: &str, op: Op) -> Result<Said, StoreError> {
        check_key(namespace, key)?;
        if let Op::Set { value, .. } | Op::CompareAndSet { value, .. } = &op
            && value.len() > VALUE_MAX
        {
            let len = value.len();
            return Err(StoreError::TooLarge(format!("the value has {len} bytes, and {VALUE_MAX} is the limit; keep it in parts")));
        }
        let ask = Ask { namespace: namespace.into(), key: key.into(), op };
        match &self.mode {
            Mode::Synced(queue) => queue.put(ask).await,
            Mode::Memory(ends) => {
                let mut ends = ends.lock().unwrap_or_else(PoisonError::into_inner);
                let said = settle(&self.table, &mut ends, &[ask], (self.clock)(), SWEEP_INLINE_MAX, |_| Ok(()));
                let said = said.map(|mut said| said.pop()).unwrap_or_default();
                said.unwrap_or_else(|| Err(StoreError::Unavailable("a write got no answer".into())))
            }
        }
    }
}

fn check_key(namespace: &str, key: &str) -> Result<(), StoreError> {
    if key.is_empty() {
        return Err(StoreError::TooLarge("the key is empty".into()));
    }
    if key.len() > KEY_MAX {
        return Err(StoreError::TooLarge(format!("the key has {} bytes, and {KEY_MAX} is the limit; hash it", key.len())));
    }
    if namespace.is_empty() || namespace.len() > NAMESPACE_NAME_MAX {
        return Err(StoreError::TooLarge(format!("a namespace's name has 1 to {NAMESPACE_NAME_MAX} bytes, not {}", namespace.len())));
    }
    Ok(())
}

fn ttl_ms(ttl: Option<Duration>) -> Option<u64> {
    ttl.map(|ttl| u64::try_from(ttl.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX))
}

impl Store for Kv {
    fn get<'a>(&'a self, namespace: &'a str, key: &'a str) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        Box::pin(std::future::ready(self.find(namespace, key)))
    }

    fn set<'a>(&'a self, namespace: &'a str, key: &'a str, value: Bytes, ttl: Option<Duration>) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.write(namespace, key, Op::Set { value, ttl_ms: ttl_ms(ttl) }).await.map(|_| ()) })
    }

    fn delete<'a>(&'a self, namespace: &'a str, key: &'a str) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move { Ok(self.write(namespace, key, Op::Delete).await? == Said::Whether(true)) })
    }

    fn compare_and_set<'a>(
        &'a self,
        namespace: &'a str,
        key: &'a str,
        expected: Option<Bytes>,
        value: Bytes,
        ttl: Option<Duration>,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        let op = Op::CompareAndSet { expected, value, ttl_ms: ttl_ms(ttl) };
        Box::pin(async move { Ok(self.write(namespace, key, op).await? == Said::Whether(true)) })
    }

    fn increment<'a>(&'a self, namespace: &'a str, key: &'a str, by: i64, ttl: Option<Duration>) -> BoxFuture<'a, Result<i64, StoreError>> {
        Box::pin(async move {
            match self.write(namespace, key, Op::Increment { by, ttl_ms: ttl_ms(ttl) }).await? {
                Said::Sum(sum) => Ok(sum),
                Said::Done | Said::Whether(_) => Err(StoreError::NotACounter),
            }
        })
    }
}

/// A group that could not be written: why, and the keys of which nobody knows what the disk has.
struct Failed {
    trouble: String,
    unsure: Vec<(Arc<Namespace>, Arc<str>)>,
}

/// Decides a group in order, commits it, then shows it to readers; or leaves everything as it was.
fn settle(
    table: &Table,
    ends: &mut Ends,
    asks: &[Ask],
    now_ms: u64,
    sweep_max: usize,
    commit: impl FnOnce(&mut dyn Iterator<Item = Write<'_>>) -> Result<(), String>,
) -> Result<Vec<Result<Said, StoreError>>, Failed> {
    /// One key that the group changes: before it and after it.
    struct Changed {
        namespace: Arc<Namespace>,
        key: Arc<str>,
        before: Option<Entry>,
        after: Option<Entry>,
    }
    let mut changes: Vec<Changed> = Vec::new();
    let mut at_key: HashMap<(Box<str>, Arc<str>), usize> = HashMap::new();

    // First what is over, so that it is not in the way of a quota.
    let over = ends.over(now_ms, sweep_max);
    for End { namespace, key, .. } in &over {
        let before = namespace.get(key);
        let _ = table.count(namespace, key, before.as_ref(), None, false);
        at_key.insert((namespace.name.clone(), key.clone()), changes.len());
        changes.push(Changed { namespace: namespace.clone(), key: key.clone(), before, after: None });
    }

    let mut one = |ask: &Ask| -> Result<Said, StoreError> {
        let known = at_key.get(&(ask.namespace.clone(), ask.key.clone())).copied();
        let in_group = known.and_then(|at| changes.get(at));
        let present = match in_group {
            Some(changed) => changed.after.clone(),
            None => table.get(&ask.namespace, &ask.key),
        };
        let (said, change) = decide(&ask.op, present.as_ref(), now_ms)?;
        let after = match change {
            Change::Nothing => return Ok(said),
            Change::Put(entry) => Some(entry),
            Change::Remove => None,
        };
        let namespace = table.namespace(&ask.namespace)?;
        table.count(&namespace, &ask.key, present.as_ref(), after.as_ref(), true)?;
        match known.and_then(|at| changes.get_mut(at)) {
            Some(changed) => changed.after = after,
            None => {
                at_key.insert((ask.namespace.clone(), ask.key.clone()), changes.len());
                changes.push(Changed { namespace, key: ask.key.clone(), before: present, after });
            }
        }
        Ok(said)
    };
    let said: Vec<Result<Said, StoreError>> = asks.iter().map(&mut one).collect();

    if changes.is_empty() {
        return Ok(said);
    }
    let mut writes = changes.iter().map(|changed| (&*changed.namespace.name, &*changed.key, changed.after.as_ref()));
    if let Err(trouble) = commit(&mut writes) {
        for changed in changes.iter().rev() {
            let _ = table.count(&changed.namespace, &changed.key, changed.after.as_ref(), changed.before.as_ref(), false);
        }
        for end in over {
            let at_ms = end.namespace.get(&end.key).map_or(0, |entry| entry.expires_ms);
            ends.add(at_ms, &end.namespace, &end.key);
        }
        return Err(Failed { trouble, unsure: changes.into_iter().map(|changed| (changed.namespace, changed.key)).collect() });
    }
    for Changed { namespace, key, after, .. } in changes {
        match after {
            Some(entry) => {
                ends.add(entry.expires_ms, &namespace, &key);
                namespace.put(&key, entry);
            }
            None => namespace.remove(&key),
        }
    }
    ends.tidy(table);
    Ok(said)
}

impl Queue {
    fn open(folder: &Path, queue_max: usize, table: &Arc<Table>, clock: &Clock) -> Result<Queue, StoreError> {
        let mut ends = Ends::default();
        // What has ended meanwhile is read, too: it is hidden from `get` and swept like any other, from the disk as well.
        let disk = Disk::open(folder, |namespace, key, entry| {
            let namespace = table.make(namespace);
            let key: Arc<str> = key.into();
            let _ = table.count(&namespace, &key, None, Some(&entry), false);
            ends.add(entry.expires_ms, &namespace, &key);
            namespace.put(&key, entry);
        })
        .map_err(StoreError::Unavailable)?;
        let (jobs, waiting) = sync_channel(queue_max.max(1));
        let bytes = Arc::new(AtomicU64::new(0));
        let trouble = Arc::new(Mutex::new(None));
        let writer = Writer {
            table: table.clone(),
            clock: clock.clone(),
            ends,
            disk,
            waiting,
            bytes: bytes.clone(),
            trouble: trouble.clone(),
            unsure: Vec::new(),
            failed_at: None,
        };
        let thread = std::thread::Builder::new()
            .name("wharf-kv".into())
            .spawn(move || {
                disk::give_way();
                writer.run();
            })
            .map_err(|error| StoreError::Unavailable(format!("the store's thread cannot be started: {error}")))?;
        Ok(Queue { jobs: Some(jobs), bytes, trouble, thread: Some(thread) })
    }

    async fn put(&self, ask: Ask) -> Result<Said, StoreError> {
        let size = size(&ask);
        let busy = |what: String| Err(StoreError::Unavailable(format!("busy: {what} wait for the disk; try again later")));
        if self.bytes.fetch_add(size, Relaxed) + size > QUEUE_BYTES_MAX {
            self.bytes.fetch_sub(size, Relaxed);
            return busy(format!("{QUEUE_BYTES_MAX} bytes of writes"));
        }
        let (reply, said) = oneshot::channel();
        let sent = match &self.jobs {
            Some(jobs) => jobs.try_send(Job { ask, reply }),
            None => return Err(stopped()),
        };
        match sent {
            Ok(()) => said.await.unwrap_or_else(|_| Err(stopped())),
            Err(refused) => {
                self.bytes.fetch_sub(size, Relaxed);
                match refused {
                    TrySendError::Full(_) => busy("queue_max writes".into()),
                    TrySendError::Disconnected(_) => Err(stopped()),
                }
            }
        }
    }
}

fn size(ask: &Ask) -> u64 {
    let value = match &ask.op {
        Op::Set { value, .. } => value.len(),
        Op::CompareAndSet { value, expected, .. } => value.len() + expected.as_ref().map_or(0, Bytes::len),
        Op::Delete | Op::Increment { .. } => 0,
    };
    (ask.key.len() + value) as u64
}

fn stopped() -> StoreError {
    StoreError::Unavailable("the store has stopped".into())
}

impl Drop for Queue {
    /// Waits for the thread: what was queued is written, and the folder is free afterwards.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The one thread that writes.
struct Writer {
    table: Arc<Table>,
    clock: Clock,
    ends: Ends,
    disk: Disk,
    waiting: Receiver<Job>,
    bytes: Arc<AtomicU64>,
    trouble: Arc<Mutex<Option<String>>>,
    /// Keys of the group that failed; see `disk`. Not empty or `failed_at`: writes are refused until they are repaired.
    unsure: Vec<(Arc<Namespace>, Arc<str>)>,
    failed_at: Option<Instant>,
}

impl Writer {
    fn run(mut self) {
        loop {
            let mut jobs = match self.waiting.recv_timeout(self.rest()) {
                Ok(job) => vec![job],
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) => return,
            };
            while jobs.len() < GROUP_MAX {
                let Ok(job) = self.waiting.try_recv() else { break };
                jobs.push(job);
            }
            self.group(jobs);
        }
    }

    /// How long to wait for a write: until the next key ends, or until the disk may be tried again.
    fn rest(&self) -> Duration {
        if self.failed_at.is_some() {
            return REPAIR_EVERY;
        }
        let until_end = self.ends.next_ms().map(|at| Duration::from_millis(at.saturating_sub((self.clock)())));
        // At least a little, so that many ends in a row are one group.
        until_end.map_or(Duration::from_secs(60), |rest| rest.clamp(Duration::from_millis(20), Duration::from_secs(60)))
    }

    fn group(&mut self, jobs: Vec<Job>) {
        let (asks, replies): (Vec<Ask>, Vec<_>) = jobs.into_iter().map(|job| (job.ask, job.reply)).unzip();
        self.bytes.fetch_sub(asks.iter().map(size).sum(), Relaxed);
        let settled = self.repair().and_then(|()| {
            let Writer { table, ends, disk, .. } = self;
            let failed = match settle(table, ends, &asks, (self.clock)(), SWEEP_MAX, |writes| disk.commit(writes)) {
                Ok(said) => return Ok(said),
                Err(failed) => failed,
            };
            tracing::error!(trouble = %failed.trouble, "the store cannot write; reads go on, writes are refused until it can");
            self.unsure = failed.unsure;
            self.failed(failed.trouble.clone());
            Err(failed.trouble)
        });
        // A caller who has gone does not want to know.
        match settled {
            Ok(said) => replies.into_iter().zip(said).for_each(|(reply, said)| drop(reply.send(said))),
            Err(trouble) => replies.into_iter().for_each(|reply| drop(reply.send(Err(StoreError::Unavailable(trouble.clone()))))),
        }
    }

    /// After a failed group: writes its keys as memory has them. A group comes only after this has worked, so that the
    /// list of unsure keys does not grow.
    fn repair(&mut self) -> Result<(), String> {
        let Some(failed_at) = self.failed_at else { return Ok(()) };
        if failed_at.elapsed() < REPAIR_EVERY {
            let trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
            return Err(trouble.unwrap_or_default());
        }
        let present: Vec<_> = self.unsure.iter().map(|(namespace, key)| (namespace, key, namespace.get(key))).collect();
        let writes = present.iter().map(|(namespace, key, entry)| (&*namespace.name, &***key, entry.as_ref()));
        if let Err(trouble) = self.disk.commit(writes) {
            self.failed(trouble.clone());
            return Err(trouble);
        }
        self.unsure.clear();
        self.failed_at = None;
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = None;
        tracing::info!("the store writes again");
        Ok(())
    }

    fn failed(&mut self, trouble: String) {
        self.failed_at = Some(Instant::now());
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(trouble);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(key: &str, op: Op) -> Ask {
        Ask { namespace: "n".into(), key: key.into(), op }
    }

    fn set(key: &str, value: &'static str, ttl_ms: Option<u64>) -> Ask {
        ask(key, Op::Set { value: value.into(), ttl_ms })
    }

    fn table() -> Table {
        Table::new(Quota::default(), HashMap::new(), 10, u64::MAX)
    }

    #[test]
    fn a_group_is_decided_in_order_and_written_once_a_key() {
        let (table, mut ends) = (table(), Ends::default());
        let add = || ask("c", Op::Increment { by: 2, ttl_ms: None });
        let asks =
            [set("a", "1", None), set("a", "2", None), ask("a", Op::Delete), ask("a", Op::Delete), add(), add(), set("b", "x", None)];
        let mut written = Vec::new();
        let said = settle(&table, &mut ends, &asks, 100, 8, |writes| {
            written = writes.map(|(_, key, entry)| (key.to_owned(), entry.map(|entry| entry.value.clone()))).collect();
            Ok(())
        });
        let said: Vec<Said> = said.ok().unwrap().into_iter().map(Result::unwrap).collect();
        assert_eq!(said, [Said::Done, Said::Done, Said::Whether(true), Said::Whether(false), Said::Sum(2), Said::Sum(4), Said::Done]);
        assert_eq!(written, [("a".into(), None), ("c".into(), Some("4".into())), ("b".into(), Some("x".into()))]);
        assert_eq!(table.get("n", "a"), None);
        assert_eq!(table.all()[0].keys.load(Relaxed), 2);
    }

    #[test]
    fn a_group_that_cannot_be_written_leaves_everything_as_it_was() {
        let (table, mut ends) = (table(), Ends::default());
        let ok = |table: &Table, ends: &mut Ends, asks: &[Ask], now| settle(table, ends, asks, now, 8, |_| Ok(())).is_ok();
        assert!(ok(&table, &mut ends, &[set("a", "1", None), set("old", "1", Some(10))], 100));
        let namespace = table.namespace("n").unwrap();
        let before = (namespace.keys.load(Relaxed), namespace.bytes.load(Relaxed), table.bytes.load(Relaxed));
        let asks = [set("a", "22222", None), set("b", "1", None), ask("a", Op::Delete), set("b", "333", None)];
        let failed = settle(&table, &mut ends, &asks, 200, 8, |_| Err("no room".into())).err().unwrap();
        assert_eq!(failed.unsure.len(), 3, "old, a and b");
        assert_eq!((namespace.keys.load(Relaxed), namespace.bytes.load(Relaxed), table.bytes.load(Relaxed)), before);
        assert_eq!(table.get("n", "a").unwrap().value, "1");
        assert_eq!(table.get("n", "b"), None);
        assert!(ok(&table, &mut ends, &[], 200), "what had ended is still to be swept");
        assert_eq!(namespace.keys.load(Relaxed), 1);
    }
}
