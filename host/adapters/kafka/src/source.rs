//! A member of a group. Cooperative: only partitions that move are given back, and only when their messages are ended.
//!
//! librdkafka tells of a rebalance and waits for its answer (`incremental_assign`, `incremental_unassign`), and meanwhile the
//! group waits for us: what we go on with goes on. A partition that is given is asked for its standing first; one that others
//! want is given back when it is released, or when that took too long. While librdkafka waits for the answer to a loss it
//! takes no part in the group's next generation, and what is lost is not ours from before that answer on: that is why a commit
//! that the broker has taken was made by who had the partitions.

use crate::books::commit_of;
use crate::config::KafkaConfig;
use crate::wake::{Said, Wake, Words};
use crate::{ASK_MAX, kind_of, list_of, told};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use rdkafka::ClientContext;
use rdkafka::config::{FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};
use std::collections::{BTreeMap, BTreeSet};
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use wharf_core::BoxFuture;
use wharf_core::bus::{BusError, BusErrorKind, Event, Membership, Message, Place, Source, Standing};

/// How long a note is waited for.
const NOTE_MAX: Duration = Duration::from_secs(5);
/// Between two looks without being woken: librdkafka wants to be asked, and releases run out.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub(crate) struct KafkaSource {
    member: Arc<Member>,
    /// The way to the thread that writes notes, one after the other: librdkafka tells what became of a commit only to who waits
    /// for it. It ends with the member.
    notes: mpsc::Sender<Note>,
}

/// What is to be written down, and who waits for it.
struct Note {
    standings: Vec<(u32, Standing)>,
    tell: oneshot::Sender<Result<(), BusError>>,
}

/// What tasks and threads of one member share.
struct Member {
    consumer: Mutex<Option<Arc<BaseConsumer<Group>>>>,
    topic: Arc<str>,
    release_within: Duration,
    wake: Arc<Wake>,
    words: Arc<Words>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Ours.
    owned: BTreeSet<u32>,
    /// Ours, and wanted by others.
    asked: BTreeSet<u32>,
    /// What others want, of which some is not released yet, and until when that is waited for.
    leaving: Option<(BTreeSet<u32>, Instant)>,
    paused: BTreeSet<u32>,
    /// To be told.
    events: Vec<Event>,
    /// What librdkafka has said and waits for.
    turns: Vec<Rebalance>,
    /// What is kept beside the group's offsets was not ours, and that was said.
    foreign: bool,
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
                    state.owned.retain(|partition| !partitions.contains(partition));
                }
                state.turns.push(Rebalance::Wanted(partitions, lost));
            }
        }
    }
}

impl KafkaSource {
    pub(crate) fn join(config: &KafkaConfig, membership: &Membership) -> Result<Arc<KafkaSource>, BusError> {
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
        let member = Arc::new(Member { consumer, topic: topic.clone(), release_within: *release_within, wake, words, state });
        let (notes, asked) = mpsc::channel::<Note>();
        let writing = member.clone();
        let thread = std::thread::Builder::new().name("wharf-kafka-note".into());
        let started = thread.spawn(move || {
            while let Ok(Note { standings, tell }) = asked.recv() {
                // Who has given up waiting will say how it stands then.
                if !tell.is_closed() {
                    let _ = tell.send(writing.write(&standings));
                }
            }
        });
        started.map_err(|error| BusError::new(BusErrorKind::Refused, format!("joining a group: no thread can be made: {error}")))?;
        Ok(Arc::new(KafkaSource { member, notes }))
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
                Ok(Ok(None)) | Err(_) => member.give_up_waiting(),
            }
        }
    }

    async fn noted(&self, standings: Vec<(u32, Standing)>) -> Result<(), BusError> {
        let (tell, told_of) = oneshot::channel();
        let closed = || BusError::new(BusErrorKind::Closed, "this member has left its group");
        self.notes.send(Note { standings, tell }).map_err(|_| closed())?;
        match tokio::time::timeout(NOTE_MAX, told_of).await {
            Ok(said) => said.map_err(|_| closed())?,
            Err(_) => Err(BusError::new(BusErrorKind::Unreachable, "the brokers have not taken a standing in time")),
        }
    }
}

impl Member {
    fn consumer(&self) -> Result<Arc<BaseConsumer<Group>>, BusError> {
        let consumer = self.consumer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        consumer.ok_or_else(|| BusError::new(BusErrorKind::Closed, "this member has left its group"))
    }

    /// Writes standings down, and waits for the broker's word.
    fn write(&self, standings: &[(u32, Standing)]) -> Result<(), BusError> {
        let list = commit_of(&self.topic, standings)?;
        let end = Instant::now() + NOTE_MAX;
        loop {
            let consumer = self.consumer()?;
            if let Some((other, _)) = standings.iter().find(|(partition, _)| !locked(&self.state).owned.contains(partition)) {
                let what = format!("partition {other} of topic {:?} is not this member's", self.topic);
                return Err(BusError::new(BusErrorKind::NotYours, what));
            }
            let Err(error) = consumer.commit(&list, CommitMode::Sync) else { return Ok(()) };
            match error.rdkafka_error_code() {
                // The group is between two generations, or its broker between two others: a moment later it is known.
                Some(
                    RDKafkaErrorCode::RebalanceInProgress
                    | RDKafkaErrorCode::CoordinatorLoadInProgress
                    | RDKafkaErrorCode::CoordinatorNotAvailable
                    | RDKafkaErrorCode::NotCoordinator
                    | RDKafkaErrorCode::RequestTimedOut
                    | RDKafkaErrorCode::WaitingForCoordinator,
                ) if Instant::now() < end => std::thread::sleep(Duration::from_millis(20)),
                code => {
                    let kind = code.map_or(BusErrorKind::Unreachable, kind_of);
                    return Err(BusError::new(kind, format!("a standing in topic {:?} is not taken: {error}", self.topic)));
                }
            }
        }
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
                    tokio::task::spawn_blocking(move || member.take(&consumer, &partitions));
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
    fn take(&self, consumer: &BaseConsumer<Group>, partitions: &BTreeSet<u32>) {
        let standings = loop {
            match consumer.committed_offsets(list_of(&self.topic, partitions.iter().copied()), ASK_MAX) {
                Ok(standings) => break standings,
                // Not a moment without knowing how they stand; should the group give us up meanwhile, it says so.
                Err(error) => self.words.trouble(&format!("how the group stands is not known yet: {error}")),
            }
            let gone = self.consumer().is_err() || !locked(&self.state).turns.is_empty();
            if gone {
                break TopicPartitionList::new();
            }
        };
        let mut assigned = TopicPartitionList::new();
        let mut known = BTreeMap::new();
        for partition in partitions {
            let found = standings.find_partition(&self.topic, *partition as i32);
            let standing = found.as_ref().and_then(standing_of);
            let from = match &standing {
                Some(standing) => Offset::Offset(i64::try_from(standing.next).unwrap_or(i64::MAX)),
                None => Offset::Beginning,
            };
            let foreign = found
                .is_some_and(|found| !found.metadata().is_empty() && standing.as_ref().is_some_and(|standing| standing.runs.is_empty()));
            if foreign && !std::mem::replace(&mut locked(&self.state).foreign, true) {
                tracing::warn!(
                    topic = &*self.topic,
                    partition,
                    "what is kept beside the group's offset is not ours, and is not believed; is another program in this group?"
                );
            }
            let _ = assigned.add_partition_offset(&self.topic, *partition as i32, from);
            known.insert(*partition, standing);
        }
        // Known as ours before the first message can come.
        {
            let mut state = locked(&self.state);
            for (partition, standing) in known {
                state.owned.insert(partition);
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
            let State { owned, asked, leaving, events, .. } = &mut *state;
            let Some((partitions, until)) = leaving else { return };
            if Instant::now() < *until {
                return;
            }
            for partition in partitions.iter() {
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
        {
            let mut state = locked(&self.state);
            *state = State::default();
        }
        consumer.client().context().closing.store(true, Relaxed);
        let (tell, told_of) = oneshot::channel();
        let ended = std::thread::Builder::new().name("wharf-kafka-end".into()).spawn(move || {
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
            state.owned.remove(&partition);
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

/// The standing that is kept with a committed offset; `None`: there is none. Text that is not ours is not believed.
pub(crate) fn standing_of(part: &TopicPartitionListElem<'_>) -> Option<Standing> {
    let Offset::Offset(next) = part.offset() else { return None };
    let next = u64::try_from(next).ok()?;
    let marks = BASE64.decode(part.metadata()).unwrap_or_else(|_| vec![0]);
    Some(Standing::read(next, &marks).unwrap_or(Standing::at(next)))
}
