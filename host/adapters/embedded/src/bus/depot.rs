//! What all parts of the bus share: topics, the queue, the disk.

use super::BusConfig;
use super::care::Care;
use super::disk::{Disk, Kind, partition_key, read_line, split_key};
use super::figures::Figures;
use super::group::Group;
use super::partition::{Partition, StretchMax};
use super::queue::Queue;
use super::reading::Reading;
use crate::kv::Clock;
use arc_swap::ArcSwap;
use fjall::UserValue;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use wharf_core::bus::{BusError, BusErrorKind, STANDING_BYTES_MAX, Standing, TopicWish};

/// Longest name of a topic, as with Kafka.
const TOPIC_NAME_MAX: usize = 249;
/// Longest name of a group.
const GROUP_NAME_MAX: usize = 255;

pub(super) type Topics = HashMap<Arc<str>, Arc<Topic>>;

/// See the head of the file.
pub(super) struct Depot {
    pub(super) config: BusConfig,
    pub(super) clock: Clock,
    pub(super) disk: Disk,
    pub(super) queue: Queue,
    pub(super) reading: Reading,
    pub(super) care: Arc<Care>,
    pub(super) figures: Figures,
    /// Bytes of all blocks.
    pub(super) kept_bytes: AtomicU64,
    pub(super) readers: AtomicUsize,
    topics: ArcSwap<Topics>,
    in_trouble: AtomicBool,
    trouble: Mutex<Option<String>>,
    closed: AtomicBool,
}

/// One topic.
pub(super) struct Topic {
    pub(super) id: u32,
    pub(super) name: Arc<str>,
    pub(super) keep_ms: u64,
    pub(super) partitions: Arc<[Arc<Partition>]>,
    pub(super) bytes: Arc<AtomicU64>,
    groups: Mutex<BTreeMap<Arc<str>, Arc<Group>>>,
}

impl Topic {
    pub(super) fn new(id: u32, name: Arc<str>, partitions: u32, keep: Option<Duration>, config: &BusConfig) -> Topic {
        let keep_ms = u64::try_from(keep.unwrap_or(config.keep).as_millis()).unwrap_or(u64::MAX);
        let bytes = Arc::new(AtomicU64::new(0));
        let stretch_max = StretchMax {
            bytes: (config.topic_bytes_max.min(config.store_bytes_max) / 64).clamp(4 * 1024, 1024 * 1024),
            ms: (keep_ms / 8).max(1),
        };
        let partitions = (0..partitions).map(|number| Arc::new(Partition::new(id, number, stretch_max, bytes.clone()))).collect();
        Topic { id, name, keep_ms, partitions, bytes, groups: Mutex::default() }
    }

    pub(super) fn groups(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Arc<Group>>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The group of this name, made if there is none and there may be one more.
    pub(super) fn group(&self, name: &Arc<str>, depot: &Depot) -> Result<Arc<Group>, BusError> {
        let refused = |message: String| Err(BusError::new(BusErrorKind::Refused, message));
        if name.is_empty() || name.len() > GROUP_NAME_MAX {
            return refused(format!("a group's name has 1 to {GROUP_NAME_MAX} bytes, not {}", name.len()));
        }
        let mut groups = self.groups();
        if let Some(known) = groups.get(name) {
            return Ok(known.clone());
        }
        let max = depot.config.groups_max;
        if groups.len() >= max {
            return refused(format!("topic {} has {max} groups, which is the bus's groups_max; raise it", self.name));
        }
        let group = Arc::new(Group::new(self.id, name.clone(), self.partitions.clone(), depot.care.clone()));
        groups.insert(name.clone(), group.clone());
        Ok(group)
    }
}

impl Depot {
    pub(super) fn new(config: BusConfig, clock: Clock, disk: Disk, reading: Reading, figures: Figures) -> Depot {
        Depot {
            queue: Queue::new(config.queue_max, config.queue_bytes_max),
            config,
            clock,
            disk,
            reading,
            care: Arc::default(),
            figures,
            kept_bytes: AtomicU64::new(0),
            readers: AtomicUsize::new(0),
            topics: ArcSwap::default(),
            in_trouble: AtomicBool::new(false),
            trouble: Mutex::new(None),
            closed: AtomicBool::new(false),
        }
    }

    /// What the disk has, before the first one asks.
    pub(super) fn restore(&self) -> Result<(), String> {
        let mut by_id: HashMap<u32, Arc<Topic>> = HashMap::new();
        let mut unreadable = 0u64;
        self.disk.scan(Kind::Topic, |key, value| match read_topic(key, value, &self.config) {
            Some(topic) => drop(by_id.insert(topic.id, Arc::new(topic))),
            None => unreadable += 1,
        })?;
        let partition = |topic: u32, number: u32| by_id.get(&topic).and_then(|topic| topic.partitions.get(number as usize));
        self.disk.scan(Kind::Floor, |key, value| match read_floor(key, value) {
            Some((topic, number, first, time_ms)) => {
                if let Some(partition) = partition(topic, number) {
                    partition.held().restore_floor(first, time_ms);
                }
            }
            None => unreadable += 1,
        })?;
        self.disk.scan(Kind::Index, |key, value| match read_line(key, value) {
            Some((topic, number, line)) => {
                if let Some(partition) = partition(topic, number) {
                    partition.held().restore(line, partition.stretch_max);
                    partition.topic_bytes.fetch_add(u64::from(line.bytes), Relaxed);
                    self.kept_bytes.fetch_add(u64::from(line.bytes), Relaxed);
                }
            }
            None => unreadable += 1,
        })?;
        self.disk.scan(Kind::Note, |key, value| match read_note(key, value) {
            Some((topic, number, group, standing)) => {
                let Some(topic) = by_id.get(&topic) else { return };
                // More than groups_max only if that was lowered: they are still known.
                let new = || Arc::new(Group::new(topic.id, group.into(), topic.partitions.clone(), self.care.clone()));
                topic.groups().entry(group.into()).or_insert_with(new).restore(number, standing);
            }
            None => unreadable += 1,
        })?;
        if unreadable > 0 {
            let folder = self.config.folder.display();
            tracing::warn!(unreadable, %folder, "entries in the bus's folder that are not ours are left alone");
        }
        self.topics.store(Arc::new(by_id.into_values().map(|topic| (topic.name.clone(), topic)).collect()));
        Ok(())
    }

    pub(super) fn topics(&self) -> Arc<Topics> {
        self.topics.load_full()
    }

    /// Only the writer adds topics.
    pub(super) fn add_topic(&self, topic: Arc<Topic>) {
        let mut topics = Topics::clone(&self.topics.load());
        topics.insert(topic.name.clone(), topic);
        self.topics.store(Arc::new(topics));
    }

    pub(super) fn topic(&self, name: &str) -> Result<Arc<Topic>, BusError> {
        let topics = self.topics.load();
        let known = topics.get(name).cloned();
        known.ok_or_else(|| BusError::new(BusErrorKind::NoTopic, format!("the embedded bus has no topic {name}; provide it first")))
    }

    pub(super) fn partition(&self, topic: &str, partition: u32) -> Result<Arc<Partition>, BusError> {
        let topics = self.topics.load();
        if let Some(known) = topics.get(topic).and_then(|topic| topic.partitions.get(partition as usize)) {
            return Ok(known.clone());
        }
        let count = self.topic(topic)?.partitions.len();
        let message = format!("topic {topic} has {count} partitions, 0 to {}, and no partition {partition}", count.saturating_sub(1));
        Err(BusError::new(BusErrorKind::NoTopic, message))
    }

    /// How many partitions a topic has, if it is as wished; `None` if there is none and it may be made.
    pub(super) fn provided(&self, wish: &TopicWish) -> Result<Option<u32>, BusError> {
        let TopicWish { name, partitions: wished, .. } = wish;
        if let Some(topic) = self.topics.load().get(name) {
            let partitions = topic.partitions.len() as u32;
            if partitions < *wished {
                let message = format!(
                    "topic {name} has {partitions} partitions, and {wished} are wished; it is not changed, because its messages would change their order: use another topic, or wish for {partitions}"
                );
                return Err(BusError::new(BusErrorKind::NoTopic, message));
            }
            return Ok(Some(partitions));
        }
        let refused = |message: String| Err(BusError::new(BusErrorKind::Refused, message));
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        if name.is_empty() || name.len() > TOPIC_NAME_MAX || !name.bytes().all(is_name) {
            return refused(format!(
                "{name:?} is no name for a topic: 1 to {TOPIC_NAME_MAX} letters, digits, dots, underscores or hyphens"
            ));
        }
        let BusConfig { topics_max, partitions_max, .. } = self.config;
        if *wished == 0 || *wished > partitions_max {
            return refused(format!(
                "topic {name} has 1 to {partitions_max} partitions, not {wished}; wish for less, or raise partitions_max"
            ));
        }
        if self.topics.load().len() >= topics_max {
            return refused(format!("there are {topics_max} topics, which is the bus's topics_max; raise it to have {name}"));
        }
        Ok(None)
    }

    /// Standings as they are kept.
    pub(super) fn written(&self, standings: &[(u32, Standing)]) -> Result<Vec<UserValue>, BusError> {
        let write = |(partition, standing): &(u32, Standing)| {
            let Some(marks) = standing.marks() else {
                let message =
                    format!("the standing with partition {partition} takes more than {STANDING_BYTES_MAX} bytes; have fewer messages open");
                return Err(BusError::new(BusErrorKind::TooLarge, message));
            };
            Ok(write_standing(standing.next, &marks))
        };
        standings.iter().map(write).collect()
    }

    /// Why nothing can be written at present.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_trouble(&self, trouble: Option<String>) {
        self.in_trouble.store(trouble.is_some(), Relaxed);
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
    }

    pub(super) fn no_trouble(&self) -> Result<(), BusError> {
        if !self.in_trouble.load(Relaxed) {
            return Ok(());
        }
        self.trouble().map_or(Ok(()), |trouble| Err(BusError::new(BusErrorKind::Storage, trouble)))
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    /// Tells everybody who waits that it is over.
    pub(super) fn set_closed(&self) {
        self.closed.store(true, Relaxed);
        for topic in self.topics().values() {
            for partition in topic.partitions.iter() {
                let bells = partition.held().bells().to_vec();
                bells.iter().for_each(|bell| bell.ring());
            }
            for group in topic.groups().values() {
                group.wake();
            }
        }
    }
}

fn write_standing(next: u64, marks: &[u8]) -> UserValue {
    let mut value = Vec::with_capacity(8 + marks.len());
    value.extend_from_slice(&next.to_le_bytes());
    value.extend_from_slice(marks);
    value.into()
}

/// A standing whose marks were written before, as it is kept.
pub(super) fn standing_again(standing: &Standing) -> Option<UserValue> {
    Some(write_standing(standing.next, &standing.marks()?))
}

pub(super) fn note_key(group: &Group, partition: u32) -> Vec<u8> {
    let mut key = partition_key(Kind::Note, group.topic, partition);
    key.extend_from_slice(group.name.as_bytes());
    key
}

fn read_note<'a>(key: &'a [u8], value: &[u8]) -> Option<(u32, u32, &'a str, Standing)> {
    let (topic, partition, group) = split_key(key)?;
    let (next, marks) = value.split_first_chunk()?;
    let standing = Standing::read(u64::from_le_bytes(*next), marks).ok()?;
    Some((topic, partition, std::str::from_utf8(group).ok()?, standing))
}

pub(super) fn write_floor(first: u64, time_ms: u64) -> UserValue {
    let mut value = Vec::with_capacity(16);
    value.extend_from_slice(&first.to_le_bytes());
    value.extend_from_slice(&time_ms.to_le_bytes());
    value.into()
}

fn read_floor(key: &[u8], value: &[u8]) -> Option<(u32, u32, u64, u64)> {
    let (topic, partition, _) = split_key(key)?;
    let (first, time_ms) = value.split_first_chunk()?;
    Some((topic, partition, u64::from_le_bytes(*first), u64::from_le_bytes(*time_ms.first_chunk()?)))
}

pub(super) fn topic_key(id: u32) -> Vec<u8> {
    let mut key = vec![Kind::Topic as u8];
    key.extend_from_slice(&id.to_be_bytes());
    key
}

/// Partitions, milliseconds that it keeps (all ones: as the configuration says), name.
pub(super) fn write_topic(wish: &TopicWish) -> UserValue {
    let keep_ms = wish.keep.map_or(u64::MAX, |keep| u64::try_from(keep.as_millis()).unwrap_or(u64::MAX - 1));
    let mut value = Vec::with_capacity(12 + wish.name.len());
    value.extend_from_slice(&wish.partitions.to_le_bytes());
    value.extend_from_slice(&keep_ms.to_le_bytes());
    value.extend_from_slice(wish.name.as_bytes());
    value.into()
}

fn read_topic(key: &[u8], value: &[u8], config: &BusConfig) -> Option<Topic> {
    let id = u32::from_be_bytes(key.try_into().ok()?);
    let (partitions, rest) = value.split_first_chunk()?;
    let (keep_ms, name) = rest.split_first_chunk()?;
    let keep_ms = u64::from_le_bytes(*keep_ms);
    let keep = (keep_ms != u64::MAX).then(|| Duration::from_millis(keep_ms));
    Some(Topic::new(id, std::str::from_utf8(name).ok()?.into(), u32::from_le_bytes(*partitions), keep, config))
}
