//! A member of a group. Cooperative: only partitions that move are given back, and only when their messages are ended.
//!
//! librdkafka tells of a rebalance and waits for its answer (`incremental_assign`, `incremental_unassign`), and meanwhile the
//! group waits for us: what we go on with goes on. A partition that is given is claimed first, and its standing read; one that
//! others want is given back when it is released, or when that took too long.
//!
//! A note is a record of the group's log ([`crate::standings`] says why that is a fence).

use crate::books::{commit, committed_of};
use crate::config::KafkaConfig;
use crate::log::{Log, resolve};
use crate::sink::KafkaSink;
use crate::standings::{Record, followed};
use crate::wake::{Said, Wake, Words};
use crate::{ASK_MAX, blocking, list_of, partitions_of, told};
use bytes::Bytes;
use rdkafka::ClientContext;
use rdkafka::config::{FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use wharf_core::BoxFuture;
use wharf_core::bus::{BusError, BusErrorKind, Event, Membership, Message, Place, Source, Standing};

/// How long a note is waited for.
const NOTE_MAX: Duration = Duration::from_secs(5);
/// Between two commits for those who look on.
const COMMIT_EVERY: Duration = Duration::from_secs(1);
/// Between two tries to take a partition.
const TAKE_AGAIN: Duration = Duration::from_millis(200);
/// Between two looks without being woken: librdkafka wants to be asked, and releases run out.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub(crate) struct KafkaSource {
    member: Arc<Member>,
    /// One note at a time: a member's notes lie one behind the other.
    noting: tokio::sync::Mutex<()>,
}

/// What tasks and threads of one member share.
struct Member {
    consumer: Mutex<Option<Arc<BaseConsumer<Group>>>>,
    topic: Arc<str>,
    log: Arc<Log>,
    release_within: Duration,
    wake: Arc<Wake>,
    words: Arc<Words>,
    state: Arc<Mutex<State>>,
}

/// A partition that is ours, in the log.
#[derive(Clone, Copy)]
struct Held {
    /// Where our claim stands.
    turn: u64,
    /// Where our last record stands.
    last: u64,
}

#[derive(Default)]
struct State {
    /// Ours.
    owned: BTreeSet<u32>,
    /// Those of them that may be noted.
    held: BTreeMap<u32, Held>,
    /// To be committed for those who look on: the offset, and where the note stands.
    to_commit: BTreeMap<u32, (u64, u64)>,
    committed: Option<Instant>,
    /// Ours, and wanted by others.
    asked: BTreeSet<u32>,
    /// What others want, of which some is not released yet, and until when that is waited for.
    leaving: Option<(BTreeSet<u32>, Instant)>,
    paused: BTreeSet<u32>,
    /// To be told.
    events: Vec<Event>,
    /// What librdkafka has said and waits for.
    turns: Vec<Rebalance>,
}

enum Rebalance {
    Given(BTreeSet<u32>),
    Wanted(BTreeSet<u32>, bool),
}

/// What librdkafka calls.
pub(crate) struct Group {
    said: Said,
    state: Arc<Mutex<State>>,
    closing: AtomicBool,
}

impl State {
    /// It is not ours any more. Was it?
    fn disown(&mut self, partition: u32) -> bool {
        self.held.remove(&partition);
        self.owned.remove(&partition)
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ClientContext for Group {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.said.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.said.error(error, reason);
    }
}

impl ConsumerContext for Group {
    fn rebalance(&self, consumer: &BaseConsumer<Group>, what: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let partitions = list.elements().iter().filter_map(|part| u32::try_from(part.partition()).ok()).collect();
        if self.closing.load(Relaxed) {
            // It is being closed, and waits for the answer.
            let _ = match what {
                RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => consumer.incremental_assign(list),
                _ => consumer.incremental_unassign(list),
            };
            return;
        }
        let mut state = locked(&self.state);
        match what {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => state.turns.push(Rebalance::Given(partitions)),
            _ => {
                let lost = consumer.assignment_lost();
                if lost {
                    // From now on, whatever is asked of us meanwhile.
                    for partition in &partitions {
                        state.disown(*partition);
                    }
                }
                state.turns.push(Rebalance::Wanted(partitions, lost));
            }
        }
    }
}

impl KafkaSource {
    pub(crate) fn join(config: &Arc<KafkaConfig>, sink: &Arc<KafkaSink>, membership: &Membership) -> Result<Arc<KafkaSource>, BusError> {
        let Membership { topic, group, member, dead_after, release_within } = membership;
        let words = Words::new(group);
        let state = Arc::<Mutex<State>>::default();
        let mut settings = config.consumer(group);
        settings.set("client.id", member.as_ref());
        settings.set("partition.assignment.strategy", "cooperative-sticky");
        // Brokers take no less than six seconds unless told to.
        let session = dead_after.as_millis().max(6_000);
        settings.set("session.timeout.ms", session.to_string()).set("heartbeat.interval.ms", (session / 4).min(3_000).to_string());
        let context = Group { said: Said(words.clone()), state: state.clone(), closing: AtomicBool::new(false) };
        let mut consumer = BaseConsumer::from_config_and_context(&settings, context).map_err(|error| told(&error, "joining a group"))?;
        let wake = Arc::<Wake>::default();
        let waking = wake.clone();
        consumer.set_nonempty_callback(move || waking.wake());
        consumer.subscribe(&[topic]).map_err(|error| told(&error, "joining a group"))?;
        let consumer = Mutex::new(Some(Arc::new(consumer)));
        let log = Arc::new(Log::new(config.clone(), sink.clone(), topic, group));
        let member = Member { consumer, topic: topic.clone(), log, release_within: *release_within, wake, words, state };
        Ok(Arc::new(KafkaSource { member: Arc::new(member), noting: tokio::sync::Mutex::new(()) }))
    }

    async fn told(&self, max: usize) -> Result<Vec<Event>, BusError> {
        loop {
            let member = &self.member;
            let said = poll_fn(|task| {
                match member.look(max) {
                    Ok(None) => {}
                    found => return Poll::Ready(found),
                }
                member.wake.set(task);
                // What came meanwhile has woken nobody.
                match member.look(max) {
                    Ok(None) => Poll::Pending,
                    found => Poll::Ready(found),
                }
            });
            match tokio::time::timeout(LOOK_EVERY, said).await {
                Ok(Ok(Some(events))) => return Ok(events),
                Ok(Err(error)) => return Err(error),
                Ok(Ok(None)) | Err(_) => {
                    member.give_up_waiting();
                    member.commit();
                }
            }
        }
    }

    async fn noted(&self, standings: Vec<(u32, Standing)>) -> Result<(), BusError> {
        let noting = async {
            let _alone = self.noting.lock().await;
            self.member.write(standings).await
        };
        let late = || BusError::new(BusErrorKind::Unreachable, "the brokers have not taken a standing in time");
        tokio::time::timeout(NOTE_MAX, noting).await.unwrap_or_else(|_| Err(late()))
    }
}

impl Member {
    fn consumer(&self) -> Result<Arc<BaseConsumer<Group>>, BusError> {
        let consumer = self.consumer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        consumer.ok_or_else(|| BusError::new(BusErrorKind::Closed, "this member has left its group"))
    }

    fn not_ours(&self, partition: u32) -> BusError {
        BusError::new(BusErrorKind::NotYours, format!("partition {partition} of topic {:?} is not this member's", self.topic))
    }

    /// Writes standings down, and waits until they are kept and known to be ours.
    async fn write(&self, standings: Vec<(u32, Standing)>) -> Result<(), BusError> {
        self.consumer()?;
        let mut records = Vec::with_capacity(standings.len());
        for (partition, standing) in standings {
            let held = locked(&self.state).held.get(&partition).copied().ok_or_else(|| self.not_ours(partition))?;
            let next = standing.next;
            records.push((partition, held, next, Record::Note { turn: held.turn, standing }));
        }
        let (mut sent, mut trouble) = (Vec::with_capacity(records.len()), None);
        for (partition, held, next, record) in records {
            match self.log.append(partition, &record) {
                Ok(told_of) => sent.push((partition, held, next, told_of)),
                Err(error) => trouble = Some(error),
            }
        }
        // What was sent is known to be there, also when something else was not.
        let mut lost = None;
        for (partition, held, next, told_of) in sent {
            let kept = told_of.await.map_err(|_| BusError::new(BusErrorKind::Closed, "the sink has ended"));
            match kept.and_then(|kept| kept) {
                Ok(place) => {
                    if !self.is_fenced(partition, held, place.offset).await? {
                        lost = Some(partition);
                        continue;
                    }
                    locked(&self.state).to_commit.insert(partition, (next, place.offset));
                }
                Err(error) => trouble = Some(error),
            }
        }
        self.commit();
        match (lost, trouble) {
            (Some(partition), _) => Err(self.not_ours(partition)),
            (None, Some(error)) => Err(error),
            (None, None) => Ok(()),
        }
    }

    /// Was the partition ours when the record at this offset became durable?
    async fn is_fenced(&self, partition: u32, held: Held, offset: u64) -> Result<bool, BusError> {
        let is_next = offset == held.last + 1;
        let is_followed = !is_next && followed(held.turn, &self.log.clone().between(partition, held.last + 1, offset).await?);
        let mut state = locked(&self.state);
        // Given away, and perhaps given again, meanwhile.
        let same = state.held.get(&partition).is_some_and(|now| now.turn == held.turn);
        if is_followed && same {
            state.held.remove(&partition);
        } else if let Some(now) = state.held.get_mut(&partition).filter(|_| same) {
            now.last = offset;
        }
        Ok(same && !is_followed)
    }

    /// Commits what was noted, for those who look on, if the last time is long enough ago. Nobody waits for it.
    fn commit(&self) {
        let list = {
            let mut state = locked(&self.state);
            if state.to_commit.is_empty() || state.committed.is_some_and(|last| last.elapsed() < COMMIT_EVERY) {
                return;
            }
            state.committed = Some(Instant::now());
            self.list_to_commit(&mut state)
        };
        if let Ok(consumer) = self.consumer() {
            // It fails while the group is between two generations; the next one says it again.
            let _ = consumer.commit(&list, CommitMode::Async);
        }
    }

    fn list_to_commit(&self, state: &mut State) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for (partition, (next, note)) in std::mem::take(&mut state.to_commit) {
            if state.owned.contains(&partition) {
                let _ = commit(&mut list, &self.topic, partition, next, note);
            }
        }
        list
    }

    /// What there is to be told, without waiting.
    fn look(self: &Arc<Member>, max: usize) -> Result<Option<Vec<Event>>, BusError> {
        let consumer = self.consumer()?;
        let mut messages = Vec::new();
        while messages.len() < max {
            // It calls the context when it has something other than a message.
            let said = consumer.poll(Duration::ZERO);
            self.attend(&consumer);
            match said {
                None => {
                    if !locked(&self.state).turns.is_empty() {
                        continue;
                    }
                    break;
                }
                Some(Ok(message)) => messages.extend(message_of(&message)),
                Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                    return Err(BusError::new(BusErrorKind::Refused, format!("topic {:?} cannot be read: {code}", self.topic)));
                }
                Some(Err(error)) => self.words.trouble(&error.to_string()),
            }
        }
        let mut state = locked(&self.state);
        let mut events = std::mem::take(&mut state.events);
        // What is not ours any more, or is asked back, is handed out no more; it was not lost: it is read again by its next owner.
        let ours = |message: &MessageOf| {
            let partition = message.0.place.partition;
            state.owned.contains(&partition) && !state.asked.contains(&partition)
        };
        events.extend(messages.into_iter().filter(ours).map(|MessageOf(message)| Event::Message(message)));
        Ok((!events.is_empty()).then_some(events))
    }

    /// Answers what librdkafka has said of a rebalance, or begins to.
    fn attend(self: &Arc<Member>, consumer: &Arc<BaseConsumer<Group>>) {
        let turns = std::mem::take(&mut locked(&self.state).turns);
        for turn in turns {
            match turn {
                Rebalance::Given(partitions) => {
                    let (member, consumer) = (self.clone(), consumer.clone());
                    // Asking how the group stands with them waits for a broker.
                    tokio::spawn(async move { member.take(consumer, partitions).await });
                }
                Rebalance::Wanted(partitions, lost) => {
                    let mut state = locked(&self.state);
                    let State { owned, asked, leaving, events, .. } = &mut *state;
                    if lost {
                        asked.retain(|partition| !partitions.contains(partition));
                        events.extend(partitions.iter().map(|partition| Event::Lost { partition: *partition }));
                        *leaving = None;
                        drop(state);
                        self.give(consumer, &partitions);
                    } else {
                        let wanted: Vec<u32> = partitions.iter().copied().filter(|partition| owned.contains(partition)).collect();
                        asked.extend(&wanted);
                        events.extend(wanted.iter().map(|partition| Event::Asked { partition: *partition }));
                        *leaving = Some((partitions, Instant::now() + self.release_within));
                        drop(state);
                        self.give_what_is_released();
                    }
                }
            }
        }
    }

    /// Partitions are ours: from where they stand.
    async fn take(&self, consumer: Arc<BaseConsumer<Group>>, partitions: BTreeSet<u32>) {
        let known = loop {
            match self.claim(&consumer, &partitions).await {
                Ok(known) => break known,
                // Not a moment without knowing how they stand; should the group give us up meanwhile, it says so.
                Err(error) => self.words.trouble(&format!("how the group stands is not known yet: {error}")),
            }
            let gone = self.consumer().is_err() || !locked(&self.state).turns.is_empty();
            if gone {
                break BTreeMap::new();
            }
            tokio::time::sleep(TAKE_AGAIN).await;
        };
        let mut assigned = TopicPartitionList::new();
        for partition in &partitions {
            let from = match known.get(partition) {
                Some((_, Some(standing))) => Offset::Offset(i64::try_from(standing.next).unwrap_or(i64::MAX)),
                Some((_, None)) => Offset::Beginning,
                // Not ours after all. librdkafka wants an answer, and what it reads is handed to nobody.
                None => Offset::End,
            };
            let _ = assigned.add_partition_offset(&self.topic, i32::try_from(*partition).unwrap_or(i32::MAX), from);
        }
        // Known as ours before the first message can come.
        {
            let mut state = locked(&self.state);
            for (partition, (held, standing)) in known {
                state.owned.insert(partition);
                state.held.insert(partition, held);
                state.asked.remove(&partition);
                state.paused.remove(&partition);
                state.events.push(Event::Given { partition, standing: standing.unwrap_or_default() });
            }
        }
        if let Err(error) = consumer.incremental_assign(&assigned) {
            self.words.trouble(&format!("partitions cannot be taken: {error}"));
        }
        self.wake.wake();
    }

    /// Claims partitions in the log, and reads how the group stands with them.
    async fn claim(
        &self,
        consumer: &Arc<BaseConsumer<Group>>,
        partitions: &BTreeSet<u32>,
    ) -> Result<BTreeMap<u32, (Held, Option<Standing>)>, BusError> {
        let (asked, topic, all) = (consumer.clone(), self.topic.clone(), partitions.clone());
        let (count, found) = blocking(move || {
            let count = partitions_of(&asked, &topic)?
                .ok_or_else(|| BusError::new(BusErrorKind::NoTopic, format!("there is no topic {topic:?}")))?;
            let committed = asked
                .committed_offsets(list_of(&topic, all.iter().copied()), ASK_MAX)
                .map_err(|error| told(&error, "asking how a group stands"))?;
            let mut found = BTreeMap::new();
            for partition in all {
                let number = i32::try_from(partition).unwrap_or(i32::MAX);
                let (_, end) =
                    asked.fetch_watermarks(&topic, number, ASK_MAX).map_err(|error| told(&error, "asking what a topic holds"))?;
                let committed = committed.find_partition(&topic, number).as_ref().and_then(committed_of);
                found.insert(partition, (committed, u64::try_from(end).unwrap_or_default()));
            }
            Ok((count, found))
        })
        .await?;
        self.log.provide(count).await?;
        let mut known = BTreeMap::new();
        let mut to_commit = TopicPartitionList::new();
        for (partition, (committed, end)) in found {
            let (turn, noted) = self.log.claim(partition).await?;
            let noted_next = noted.as_ref().map(|noted| noted.standing.next);
            let standing = resolve(committed, noted, end);
            let mut held = Held { turn, last: turn };
            if noted_next.is_some() && standing.as_ref().map(|standing| standing.next) != noted_next {
                tracing::warn!(
                    topic = &*self.topic,
                    partition,
                    noted = noted_next,
                    next = standing.as_ref().map(|standing| standing.next),
                    "the group was moved by somebody else, or its topic was cut or made anew; it goes on from there"
                );
                // Else whoever comes next would go there again.
                let standing = standing.clone().unwrap_or_default();
                let next = standing.next;
                held.last = self.log.appended(partition, &Record::Note { turn, standing }).await?;
                commit(&mut to_commit, &self.topic, partition, next, held.last)?;
            }
            known.insert(partition, (held, standing));
        }
        if to_commit.count() > 0 {
            let consumer = consumer.clone();
            blocking(move || consumer.commit(&to_commit, CommitMode::Sync).map_err(|error| told(&error, "saying where a group goes on")))
                .await?;
        }
        Ok(known)
    }

    /// Gives partitions back.
    fn give(&self, consumer: &BaseConsumer<Group>, partitions: &BTreeSet<u32>) {
        if let Err(error) = consumer.incremental_unassign(&list_of(&self.topic, partitions.iter().copied())) {
            self.words.trouble(&format!("partitions cannot be given back: {error}"));
        }
    }

    /// Answers others' wish for partitions, once all of them are released.
    fn give_what_is_released(&self) {
        let partitions = {
            let mut state = locked(&self.state);
            let State { owned, leaving, .. } = &mut *state;
            match leaving {
                Some((partitions, _)) if !partitions.iter().any(|partition| owned.contains(partition)) => std::mem::take(partitions),
                _ => return,
            }
        };
        locked(&self.state).leaving = None;
        if let Ok(consumer) = self.consumer() {
            self.give(&consumer, &partitions);
        }
    }

    /// Partitions that were not released in time are given back all the same.
    fn give_up_waiting(&self) {
        {
            let mut state = locked(&self.state);
            let State { owned, held, asked, leaving, events, .. } = &mut *state;
            let Some((partitions, until)) = leaving else { return };
            if Instant::now() < *until {
                return;
            }
            for partition in partitions.iter() {
                held.remove(partition);
                if owned.remove(partition) {
                    asked.remove(partition);
                    events.push(Event::Lost { partition: *partition });
                }
            }
        }
        self.give_what_is_released();
        self.wake.wake();
    }

    /// Ends the membership, on a thread where that may take its time.
    fn end(&self) -> Option<oneshot::Receiver<()>> {
        let consumer = self.consumer.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let last = {
            let mut state = locked(&self.state);
            let last = self.list_to_commit(&mut state);
            *state = State::default();
            last
        };
        consumer.client().context().closing.store(true, Relaxed);
        let (tell, told_of) = oneshot::channel();
        let ended = std::thread::Builder::new().name("wharf-kafka-end".into()).spawn(move || {
            if last.count() > 0 {
                let _ = consumer.commit(&last, CommitMode::Sync);
            }
            // A rebalance that waits for its answer is answered by the loss of everything.
            if let Ok(all) = consumer.assignment() {
                let _ = consumer.incremental_unassign(&all);
            }
            drop(consumer);
            let _ = tell.send(());
        });
        ended.is_ok().then_some(told_of)
    }
}

impl Source for KafkaSource {
    fn next(&self, max: usize) -> BoxFuture<'_, Result<Vec<Event>, BusError>> {
        Box::pin(self.told(max.max(1)))
    }

    fn note(&self, standings: Vec<(u32, Standing)>) -> BoxFuture<'_, Result<(), BusError>> {
        Box::pin(self.noted(standings))
    }

    fn pause(&self, partition: u32, paused: bool) {
        let Ok(consumer) = self.member.consumer() else { return };
        let list = list_of(&self.member.topic, [partition]);
        let done = if paused { consumer.pause(&list) } else { consumer.resume(&list) };
        if let Err(error) = done {
            self.member.words.trouble(&format!("partition {partition} cannot be paused: {error}"));
        }
    }

    fn seek(&self, partition: u32, offset: u64) {
        let (member, wake) = (self.member.clone(), self.member.wake.clone());
        let offset = Offset::Offset(i64::try_from(offset).unwrap_or(i64::MAX));
        tokio::task::spawn_blocking(move || {
            let Ok(consumer) = member.consumer() else { return };
            if let Err(error) = consumer.seek(&member.topic, i32::try_from(partition).unwrap_or(i32::MAX), offset, ASK_MAX) {
                member.words.trouble(&format!("partition {partition} cannot be read from {offset:?}: {error}"));
            }
            wake.wake();
        });
    }

    fn release(&self, partition: u32) {
        {
            let mut state = locked(&self.member.state);
            if !state.asked.remove(&partition) {
                return;
            }
            state.disown(partition);
        }
        self.member.give_what_is_released();
    }

    fn leave(&self) -> BoxFuture<'_, ()> {
        let ended = self.member.end();
        self.member.wake.wake();
        Box::pin(async move {
            if let Some(ended) = ended {
                let _ = tokio::time::timeout(ASK_MAX, ended).await;
            }
        })
    }
}

impl Drop for KafkaSource {
    fn drop(&mut self) {
        drop(self.member.end());
    }
}

/// A message as this house has it.
pub(crate) struct MessageOf(pub(crate) Message);

/// Copies a message out of librdkafka's memory, which is a whole batch's.
pub(crate) fn message_of(message: &BorrowedMessage<'_>) -> Option<MessageOf> {
    let place = Place { partition: u32::try_from(message.partition()).ok()?, offset: u64::try_from(message.offset()).ok()? };
    let fields = message.headers().map_or_else(Vec::new, |headers| {
        headers.iter().map(|header| (Arc::from(header.key), header.value.map_or_else(Bytes::new, Bytes::copy_from_slice))).collect()
    });
    Some(MessageOf(Message {
        place,
        time_ms: message.timestamp().to_millis().and_then(|time| u64::try_from(time).ok()).unwrap_or_default(),
        key: message.key().map(Bytes::copy_from_slice),
        value: message.payload().map_or_else(Bytes::new, Bytes::copy_from_slice),
        fields,
        begun: false,
    }))
}
