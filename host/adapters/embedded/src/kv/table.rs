//! The values in memory: namespaces, shards, quotas, and which keys end next.
//!
//! Any thread reads; one at a time writes (whoever holds [`Ends`]). A reader holds a shard's lock for one lookup.

use super::op::Entry;
use arc_swap::ArcSwap;
use std::cmp::Ordering::{self, Equal};
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use wharf_core::store::StoreError;

/// What one entry costs beside its key and value.
pub(crate) const ENTRY_COST: usize = 128;
const SHARDS: usize = 16;
/// Longest name of a namespace, bytes.
pub(crate) const NAMESPACE_NAME_MAX: usize = 255;

/// What one namespace may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Keys.
    pub keys_max: u64,
    /// Keys and values together, with 128 bytes for each entry.
    pub bytes_max: u64,
}

impl Default for Quota {
    fn default() -> Quota {
        Quota { keys_max: 100_000, bytes_max: 64 * 1024 * 1024 }
    }
}

/// One namespace.
pub(crate) struct Namespace {
    pub(crate) name: Box<str>,
    pub(crate) quota: Quota,
    shards: [RwLock<HashMap<Arc<str>, Entry>>; SHARDS],
    hasher: RandomState,
    pub(crate) keys: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

impl Namespace {
    fn new(name: &str, quota: Quota) -> Namespace {
        Namespace {
            name: name.into(),
            quota,
            shards: Default::default(),
            hasher: RandomState::new(),
            keys: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<Entry> {
        self.shard(key)?.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    pub(crate) fn put(&self, key: &Arc<str>, entry: Entry) {
        if let Some(shard) = self.shard(key) {
            shard.write().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), entry);
        }
    }

    pub(crate) fn remove(&self, key: &str) {
        if let Some(shard) = self.shard(key) {
            shard.write().unwrap_or_else(PoisonError::into_inner).remove(key);
        }
    }

    fn shard(&self, key: &str) -> Option<&RwLock<HashMap<Arc<str>, Entry>>> {
        self.shards.get(self.hasher.hash_one(key) as usize % SHARDS)
    }

    fn each(&self, mut look: impl FnMut(&Arc<str>, &Entry)) {
        for shard in &self.shards {
            for (key, entry) in shard.read().unwrap_or_else(PoisonError::into_inner).iter() {
                look(key, entry);
            }
        }
    }
}

/// All namespaces.
pub(crate) struct Table {
    namespaces: ArcSwap<HashMap<Box<str>, Arc<Namespace>>>,
    making: Mutex<()>,
    quota: Quota,
    quotas: HashMap<Box<str>, Quota>,
    namespaces_max: usize,
    bytes_max: u64,
    pub(crate) bytes: AtomicU64,
}

impl Table {
    pub(crate) fn new(quota: Quota, quotas: HashMap<Box<str>, Quota>, namespaces_max: usize, bytes_max: u64) -> Table {
        Table {
            namespaces: ArcSwap::default(),
            making: Mutex::default(),
            quota,
            quotas,
            namespaces_max,
            bytes_max,
            bytes: AtomicU64::new(0),
        }
    }

    pub(crate) fn get(&self, namespace: &str, key: &str) -> Option<Entry> {
        self.namespaces.load().get(namespace)?.get(key)
    }

    pub(crate) fn all(&self) -> Vec<Arc<Namespace>> {
        self.namespaces.load().values().cloned().collect()
    }

    /// The namespace, made if it is new.
    pub(crate) fn namespace(&self, name: &str) -> Result<Arc<Namespace>, StoreError> {
        if let Some(have) = self.namespaces.load().get(name) {
            return Ok(have.clone());
        }
        let max = self.namespaces_max;
        if self.namespaces.load().len() >= max {
            return Err(StoreError::Full(format!("the store has {max} namespaces, which is its namespaces_max")));
        }
        Ok(self.make(name))
    }

    /// The same without a bound, for what a restart finds on disk.
    pub(crate) fn make(&self, name: &str) -> Arc<Namespace> {
        let _one_at_a_time = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = (**self.namespaces.load()).clone();
        let quota = self.quotas.get(name).copied().unwrap_or(self.quota);
        let namespace = all.entry(name.into()).or_insert_with(|| Arc::new(Namespace::new(name, quota))).clone();
        self.namespaces.store(Arc::new(all));
        namespace
    }

    /// Counts a change of one key from `before` to `after`, or refuses it. What was counted and not made is given back by
    /// the same call the other way round, which is never refused because it only restores.
    pub(crate) fn count(
        &self,
        namespace: &Namespace,
        key: &str,
        before: Option<&Entry>,
        after: Option<&Entry>,
        bounded: bool,
    ) -> Result<(), StoreError> {
        let cost = |entry: Option<&Entry>| entry.map_or(0, |entry| (key.len() + entry.value.len() + ENTRY_COST) as u64);
        let (old, new) = (cost(before), cost(after));
        let name = &namespace.name;
        if bounded && before.is_none() && after.is_some() && namespace.keys.load(Relaxed) >= namespace.quota.keys_max {
            let max = namespace.quota.keys_max;
            return Err(StoreError::Full(format!(
                "namespace {name:?} has {max} keys, which is its keys_max; delete some or give them a ttl"
            )));
        }
        if bounded && new > old {
            let (have, max) = (namespace.bytes.load(Relaxed), namespace.quota.bytes_max);
            if have + (new - old) > max {
                return Err(StoreError::Full(format!(
                    "namespace {name:?} has {have} of its bytes_max {max}; delete some or give them a ttl"
                )));
            }
            let (have, max) = (self.bytes.load(Relaxed), self.bytes_max);
            if have + (new - old) > max {
                return Err(StoreError::Full(format!("the store has {have} of its bytes_max {max}; raise it, or delete some values")));
            }
        }
        // One writer at a time, so loading and storing is enough; readers only report.
        let shift = |count: &AtomicU64, add: u64, sub: u64| count.store((count.load(Relaxed) + add).saturating_sub(sub), Relaxed);
        shift(&namespace.keys, u64::from(after.is_some()), u64::from(before.is_some()));
        shift(&namespace.bytes, new, old);
        shift(&self.bytes, new, old);
        Ok(())
    }
}

/// Which keys end next. Also the writer's token: there is one in the house.
#[derive(Default)]
pub(crate) struct Ends {
    heap: BinaryHeap<End>,
}

/// One key's end, the earliest on top of the heap.
pub(crate) struct End {
    at_ms: u64,
    pub(crate) namespace: Arc<Namespace>,
    pub(crate) key: Arc<str>,
}

impl Ends {
    pub(crate) fn add(&mut self, at_ms: u64, namespace: &Arc<Namespace>, key: &Arc<str>) {
        if at_ms != 0 {
            self.heap.push(End { at_ms, namespace: namespace.clone(), key: key.clone() });
        }
    }

    /// When the next key ends, if there is one that does.
    pub(crate) fn next_ms(&self) -> Option<u64> {
        self.heap.peek().map(|end| end.at_ms)
    }

    /// At most `max` keys that are over and still there.
    pub(crate) fn over(&mut self, now_ms: u64, max: usize) -> Vec<End> {
        let mut over = Vec::new();
        // Stale ends (the key was set anew or deleted) count as work, too.
        for _ in 0..max {
            if self.next_ms().is_none_or(|at| at >= now_ms) {
                break;
            }
            if let Some(end) = self.heap.pop()
                && end.namespace.get(&end.key).is_some_and(|entry| entry.expires_ms == end.at_ms)
            {
                over.push(end);
            }
        }
        over
    }

    /// Throws stale ends away before they outnumber the keys: a key that is set again and again leaves one each time.
    pub(crate) fn tidy(&mut self, table: &Table) {
        let all = table.all();
        let keys: u64 = all.iter().map(|namespace| namespace.keys.load(Relaxed)).sum();
        if (self.heap.len() as u64) <= 2 * keys + 1024 {
            return;
        }
        self.heap.clear();
        for namespace in &all {
            namespace.each(|key, entry| self.add(entry.expires_ms, namespace, key));
        }
    }
}

impl Ord for End {
    fn cmp(&self, other: &End) -> Ordering {
        // Upside down, because the heap has the greatest on top.
        other.at_ms.cmp(&self.at_ms)
    }
}

impl PartialOrd for End {
    fn partial_cmp(&self, other: &End) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for End {
    fn eq(&self, other: &End) -> bool {
        self.cmp(other) == Equal
    }
}

impl Eq for End {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_of_a_key_that_is_set_again_and_again_stay_few() {
        let table = Table::new(Quota::default(), HashMap::new(), 10, u64::MAX);
        let (namespace, key) = (table.namespace("n").unwrap(), Arc::from("k"));
        let mut ends = Ends::default();
        for at in 1..=100_000u64 {
            let entry = Entry { value: "v".into(), expires_ms: at };
            table.count(&namespace, &key, namespace.get(&key).as_ref(), Some(&entry), true).unwrap();
            namespace.put(&key, entry);
            ends.add(at, &namespace, &key);
            ends.tidy(&table);
            assert!(ends.heap.len() <= 1030);
        }
        assert_eq!((namespace.keys.load(Relaxed), namespace.bytes.load(Relaxed)), (1, 2 + ENTRY_COST as u64));
        let mut found = 0;
        while ends.next_ms().is_some() {
            found += ends.over(u64::MAX, 10).len();
        }
        assert_eq!(found, 1, "only the last end is the key's");
    }
}
