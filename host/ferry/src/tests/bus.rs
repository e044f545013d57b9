//! A bus in memory that keeps its promises and nothing else: what it does not promise, it does by chance. It takes time, on a
//! clock that nobody waits for (`start_paused` in `world.rs`).

use crate::chance::Chance;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Notify;
use wharf_core::BoxFuture;
use wharf_core::bus::{
    Books, Bus, BusError, BusErrorKind, Event, Extent, Mark, Membership, Message, Parcel, Place, ReadFrom, Reader, Sink, Source, Standing,
    Told, TopicWish,
};

thread_local! {
    /// Where chance comes from; tests run on one thread.
    pub(crate) static CHANCE: RefCell<Chance> = RefCell::new(Chance::new(0));
}

/// How often things go wrong: one in so many, 0: never.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// A send is told to be unreachable, and was kept or not.
    pub(crate) sends: u64,
    /// A note likewise.
    pub(crate) notes: u64,
}

fn hits(one_in: u64) -> bool {
    one_in > 0 && CHANCE.with_borrow_mut(|chance| chance.one_in(one_in))
}

fn some_time() -> Duration {
    Duration::from_micros(CHANCE.with_borrow_mut(|chance| chance.below(3_000)))
}

#[derive(Clone, Default)]
pub(crate) struct MemoryBus {
    inner: Arc<Mutex<Inner>>,
    changed: Arc<Notify>,
}

#[derive(Default)]
struct Inner {
    topics: HashMap<Arc<str>, Vec<Vec<Message>>>,
    groups: HashMap<(Arc<str>, Arc<str>), Group>,
    members: u64,
    faults: Faults,
    down: bool,
}

#[derive(Default)]
struct Group {
    standings: BTreeMap<u32, Standing>,
    /// Who has a partition.
    owners: BTreeMap<u32, u64>,
    members: BTreeMap<u64, Word>,
}

/// What a member is to be told.
#[derive(Default)]
struct Word {
    events: VecDeque<Event>,
    /// The next offset of each of its partitions.
    next: BTreeMap<u32, u64>,
    paused: Vec<u32>,
    asked: Vec<u32>,
}

impl MemoryBus {
    pub(crate) fn set_faults(&self, faults: Faults) {
        self.inner.lock().unwrap().faults = faults;
    }

    /// Nothing is reached while it is down.
    pub(crate) fn set_down(&self, down: bool) {
        self.inner.lock().unwrap().down = down;
        self.changed.notify_waiters();
    }

    /// All messages of a topic.
    pub(crate) fn all(&self, topic: &str) -> Vec<Message> {
        self.inner.lock().unwrap().topics.get(topic).into_iter().flatten().flatten().cloned().collect()
    }

    pub(crate) fn standing(&self, topic: &str, group: &str, partition: u32) -> Standing {
        let inner = self.inner.lock().unwrap();
        inner.groups.get(&(topic.into(), group.into())).and_then(|group| group.standings.get(&partition)).cloned().unwrap_or_default()
    }

    /// Takes every partition from its member and deals them out anew: `politely`, or as if the members had not been heard of.
    pub(crate) fn rebalance(&self, politely: bool) {
        let mut inner = self.inner.lock().unwrap();
        let Inner { groups, .. } = &mut *inner;
        for group in groups.values_mut() {
            let members: Vec<u64> = group.members.keys().copied().collect();
            let partitions: Vec<u32> = group.owners.keys().copied().collect();
            for partition in partitions {
                let to = members.get(CHANCE.with_borrow_mut(|chance| chance.below(members.len() as u64)) as usize).copied();
                group.hand(partition, to, politely);
            }
        }
        drop(inner);
        self.changed.notify_waiters();
    }

    fn wait(&self) -> BoxFuture<'static, ()> {
        let changed = self.changed.clone();
        Box::pin(async move { changed.notified().await })
    }
}

impl Group {
    /// Gives a partition to a member; from another one it is asked for first, or taken.
    fn hand(&mut self, partition: u32, to: Option<u64>, politely: bool) {
        let before = self.owners.get(&partition).copied().filter(|owner| self.members.contains_key(owner));
        if before == to && before.is_some() {
            return;
        }
        if let Some(owner) = before {
            let told = self.members.get_mut(&owner).unwrap();
            if politely {
                if !told.asked.contains(&partition) {
                    told.asked.push(partition);
                    told.events.push_back(Event::Asked { partition });
                }
                return;
            }
            told.forget(partition);
            told.events.push_back(Event::Lost { partition });
        }
        let Some(to) = to else {
            self.owners.insert(partition, 0);
            return;
        };
        self.owners.insert(partition, to);
        let standing = self.standings.get(&partition).cloned().unwrap_or_default();
        let told = self.members.get_mut(&to).unwrap();
        told.next.insert(partition, standing.next);
        told.events.push_back(Event::Given { partition, standing });
    }

    /// Partitions that nobody has are dealt out.
    fn deal(&mut self) {
        let partitions: Vec<u32> = self.owners.keys().copied().collect();
        for partition in partitions {
            if !self.owners.get(&partition).is_some_and(|owner| self.members.contains_key(owner)) {
                let least = self.members.keys().copied().min_by_key(|member| self.owners.values().filter(|owner| *owner == member).count());
                self.hand(partition, least, false);
            }
        }
    }
}

impl Word {
    fn forget(&mut self, partition: u32) {
        self.next.remove(&partition);
        self.asked.retain(|asked| *asked != partition);
        self.paused.retain(|paused| *paused != partition);
        self.events.retain(|event| !matches!(event, Event::Message(message) if message.place.partition == partition));
    }
}

impl Bus for MemoryBus {
    fn sink(&self) -> Arc<dyn Sink> {
        Arc::new(self.clone())
    }

    fn provide<'a>(&'a self, wish: &'a TopicWish) -> BoxFuture<'a, Result<u32, BusError>> {
        let mut inner = self.inner.lock().unwrap();
        inner.topics.entry(wish.name.clone()).or_insert_with(|| vec![Vec::new(); wish.partitions as usize]);
        let partitions = wish.partitions;
        Box::pin(async move { Ok(partitions) })
    }

    fn join(&self, membership: &Membership) -> Result<Arc<dyn Source>, BusError> {
        let mut inner = self.inner.lock().unwrap();
        inner.members += 1;
        let member = inner.members;
        let partitions = inner.topics.get(&membership.topic).map_or(0, Vec::len) as u32;
        let of = (membership.topic.clone(), membership.group.clone());
        let group = inner.groups.entry(of.clone()).or_default();
        (0..partitions).for_each(|partition| {
            group.owners.entry(partition).or_insert(0);
        });
        group.members.insert(member, Word::default());
        group.deal();
        // Who has more than its part is asked for the rest.
        let part = group.owners.len().div_ceil(group.members.len());
        let spare: Vec<u32> = group
            .members
            .keys()
            .filter(|other| **other != member)
            .flat_map(|other| {
                group.owners.iter().filter(move |(_, owner)| *owner == other).map(|(at, _)| *at).skip(part).collect::<Vec<_>>()
            })
            .collect();
        spare.into_iter().for_each(|partition| group.hand(partition, Some(member), true));
        drop(inner);
        self.changed.notify_waiters();
        Ok(Arc::new(Member { bus: self.clone(), of, member, noting: tokio::sync::Mutex::new(()) }))
    }

    fn read(&self, topic: &str, partition: u32, from: ReadFrom) -> Result<Box<dyn Reader>, BusError> {
        let reader = MemoryReader { bus: self.clone(), topic: topic.into(), partition, next: Mutex::new(0) };
        reader.seek(from);
        Ok(Box::new(reader))
    }

    fn books(&self) -> Arc<dyn Books> {
        Arc::new(self.clone())
    }
}

impl Sink for MemoryBus {
    fn send(&self, parcel: Parcel, told: Told) -> Result<(), BusError> {
        let (bus, failed) = (self.clone(), hits(self.inner.lock().unwrap().faults.sends));
        let keep = move |bus: &MemoryBus| {
            let mut inner = bus.inner.lock().unwrap();
            let Some(messages) = inner.topics.get_mut(&parcel.topic).and_then(|topic| topic.get_mut(parcel.partition as usize)) else {
                return Err(BusError::new(BusErrorKind::NoTopic, "no such topic"));
            };
            let place = Place { partition: parcel.partition, offset: messages.last().map_or(0, |last| last.place.offset + 1) };
            let time_ms = crate::clock::now_ms();
            messages.push(Message { place, time_ms, key: parcel.key, value: parcel.value, fields: parcel.fields, begun: false });
            drop(inner);
            bus.changed.notify_waiters();
            Ok(place)
        };
        let unreachable = || Err(BusError::new(BusErrorKind::Unreachable, "by chance"));
        let down = self.inner.lock().unwrap().down;
        // In order, so kept at once; told of after a while.
        let said = match (down, failed) {
            (true, _) => unreachable(),
            (false, true) => {
                if hits(2) {
                    drop(keep(&bus));
                }
                unreachable()
            }
            (false, false) => keep(&bus),
        };
        let wait = some_time();
        tokio::task::spawn_local(async move {
            tokio::time::sleep(wait).await;
            told(said);
        });
        Ok(())
    }

    fn parcel_bytes_max(&self) -> usize {
        1 << 20
    }

    fn waiting(&self) -> (u64, u64) {
        (0, 0)
    }

    fn flush(&self, _: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

struct Member {
    bus: MemoryBus,
    of: (Arc<str>, Arc<str>),
    member: u64,
    noting: tokio::sync::Mutex<()>,
}

impl Member {
    fn with<T>(&self, look: impl FnOnce(&mut Group) -> T) -> T {
        look(self.bus.inner.lock().unwrap().groups.get_mut(&self.of).unwrap())
    }

    /// Events, and the next messages of its partitions.
    fn look(&self, max: usize) -> Vec<Event> {
        let mut inner = self.bus.inner.lock().unwrap();
        let Inner { topics, groups, down, .. } = &mut *inner;
        let Some(told) = groups.get_mut(&self.of).unwrap().members.get_mut(&self.member) else { return Vec::new() };
        if *down {
            return Vec::new();
        }
        let mut events: Vec<Event> = told.events.drain(..).collect();
        for (partition, next) in &mut told.next {
            if told.paused.contains(partition) || told.asked.contains(partition) {
                continue;
            }
            let messages = &topics[&self.of.0][*partition as usize];
            let from = *next;
            for message in messages.iter().filter(|message| message.place.offset >= from).take(max) {
                *next = message.place.offset + 1;
                events.push(Event::Message(message.clone()));
            }
        }
        events
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.with(|group| {
            group.members.remove(&self.member);
            group.deal();
        });
        self.bus.changed.notify_waiters();
    }
}

impl Source for Member {
    fn next(&self, max: usize) -> BoxFuture<'_, Result<Vec<Event>, BusError>> {
        Box::pin(async move {
            loop {
                let changed = self.bus.wait();
                let events = self.look(max);
                if !events.is_empty() {
                    return Ok(events);
                }
                changed.await;
            }
        })
    }

    fn note(&self, standings: Vec<(u32, Standing)>) -> BoxFuture<'_, Result<(), BusError>> {
        Box::pin(async move {
            let _first = self.noting.lock().await;
            tokio::time::sleep(some_time()).await;
            let (failed, down) = {
                let inner = self.bus.inner.lock().unwrap();
                (hits(inner.faults.notes), inner.down)
            };
            let unreachable = Err(BusError::new(BusErrorKind::Unreachable, "by chance"));
            if down || failed && hits(2) {
                return unreachable;
            }
            let written = self.with(|group| {
                let ours = standings.iter().all(|(partition, _)| group.owners.get(partition) == Some(&self.member));
                if ours {
                    for (partition, standing) in standings {
                        // What is written can be read.
                        let marks = standing.marks().unwrap();
                        group.standings.insert(partition, Standing::read(standing.next, &marks).unwrap());
                    }
                }
                ours
            });
            tokio::time::sleep(some_time()).await;
            match (written, failed) {
                (false, _) => Err(BusError::new(BusErrorKind::NotYours, "another has it")),
                (true, true) => unreachable,
                (true, false) => Ok(()),
            }
        })
    }

    fn pause(&self, partition: u32, paused: bool) {
        self.with(|group| {
            let Some(told) = group.members.get_mut(&self.member) else { return };
            told.paused.retain(|other| *other != partition);
            if paused {
                told.paused.push(partition);
            }
        });
        self.bus.changed.notify_waiters();
    }

    fn seek(&self, partition: u32, offset: u64) {
        self.with(|group| {
            if let Some(next) = group.members.get_mut(&self.member).and_then(|told| told.next.get_mut(&partition)) {
                *next = offset;
            }
        });
        self.bus.changed.notify_waiters();
    }

    fn release(&self, partition: u32) {
        self.with(|group| {
            if group.owners.get(&partition) != Some(&self.member) {
                return;
            }
            if let Some(told) = group.members.get_mut(&self.member) {
                told.forget(partition);
            }
            group.owners.insert(partition, 0);
            let others: Vec<u64> = group.members.keys().copied().filter(|other| *other != self.member).collect();
            let to = others.first().copied().or(Some(self.member));
            group.hand(partition, to, false);
        });
        self.bus.changed.notify_waiters();
    }

    fn leave(&self) -> BoxFuture<'_, ()> {
        self.with(|group| {
            group.members.remove(&self.member);
            group.deal();
        });
        self.bus.changed.notify_waiters();
        Box::pin(async {})
    }
}

struct MemoryReader {
    bus: MemoryBus,
    topic: Arc<str>,
    partition: u32,
    next: Mutex<u64>,
}

impl Reader for MemoryReader {
    fn next(&self, max: usize) -> BoxFuture<'_, Result<Vec<Message>, BusError>> {
        Box::pin(async move {
            loop {
                let changed = self.bus.wait();
                {
                    let inner = self.bus.inner.lock().unwrap();
                    let mut next = self.next.lock().unwrap();
                    let messages = &inner.topics[&self.topic][self.partition as usize];
                    let found: Vec<Message> =
                        messages.iter().filter(|message| message.place.offset >= *next && !inner.down).take(max).cloned().collect();
                    if let Some(last) = found.last() {
                        *next = last.place.offset + 1;
                        return Ok(found);
                    }
                }
                changed.await;
            }
        })
    }

    fn seek(&self, from: ReadFrom) {
        let inner = self.bus.inner.lock().unwrap();
        let messages = inner.topics.get(&self.topic).and_then(|topic| topic.get(self.partition as usize));
        let end = messages.and_then(|messages| messages.last()).map_or(0, |last| last.place.offset + 1);
        *self.next.lock().unwrap() = match from {
            ReadFrom::Start => 0,
            ReadFrom::End => end,
            ReadFrom::Offset(offset) => offset,
            ReadFrom::Time(time_ms) => {
                messages.unwrap().iter().find(|message| message.time_ms >= time_ms).map_or(end, |found| found.place.offset)
            }
        };
    }
}

impl Books for MemoryBus {
    fn extents<'a>(&'a self, topic: &'a str, _: Option<&'a str>) -> BoxFuture<'a, Result<Vec<Extent>, BusError>> {
        let inner = self.inner.lock().unwrap();
        let found = inner.topics.get(topic).map(|topic| {
            let extent = |(partition, messages): (usize, &Vec<Message>)| Extent {
                partition: partition as u32,
                first: 0,
                end: messages.last().map_or(0, |last| last.place.offset + 1),
                standing: None,
            };
            topic.iter().enumerate().map(extent).collect()
        });
        Box::pin(async move { found.ok_or(BusError::new(BusErrorKind::NoTopic, "no such topic")) })
    }

    fn offsets_at<'a>(&'a self, topic: &'a str, time_ms: u64) -> BoxFuture<'a, Result<Vec<u64>, BusError>> {
        let inner = self.inner.lock().unwrap();
        let first = |messages: &Vec<Message>| {
            let end = messages.last().map_or(0, |last| last.place.offset + 1);
            messages.iter().find(|message| message.time_ms >= time_ms).map_or(end, |found| found.place.offset)
        };
        let found = inner.topics.get(topic).map(|topic| topic.iter().map(first).collect()).unwrap_or_default();
        Box::pin(async move { Ok(found) })
    }

    fn move_group<'a>(&'a self, _: &'a str, _: &'a str, _: Vec<(u32, Standing)>) -> BoxFuture<'a, Result<(), BusError>> {
        Box::pin(async { Err(BusError::new(BusErrorKind::Refused, "not here")) })
    }
}

/// Is this mark one that says that nothing is left to do?
pub(crate) fn is_done(standing: &Standing, offset: u64) -> bool {
    standing.mark(offset) == Mark::Done
}
