//! The one thread that writes: it takes what waits, writes it as one group with one sync, then tells everyone.
//!
//! There is no time that it waits for more to come: while a group is being synced the next one gathers.
//!
//! A group that fails has not happened, as this process sees it: nobody is shown its messages, its notes are as before.
//! As nobody knows what of it reached the file, it is undone on the disk before anything else is written. If the process
//! ends before that, the next start may find it whole.

use super::bell::Bell;
use super::depot::{Depot, Topic, note_key, standing_again, topic_key, write_floor, write_topic};
use super::disk::{Kind, Put, key, partition_key, write_line};
use super::group::{Group, Noted};
use super::member::not_yours;
use super::partition::Partition;
use super::queue::{Fetched, Job, Reply, Trim};
use super::record::{Block, Draft};
use fjall::UserValue;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use wharf_core::bus::{BusError, BusErrorKind, Parcel, Place, Told};

/// Most messages and bytes of one group: more gain little by another sync saved, and make the first one wait.
const GROUP_MAX: usize = 1024;
const GROUP_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// After a failed group the disk is tried again at most this often.
const REPAIR_EVERY: Duration = Duration::from_secs(1);
/// What is expected of a record beside what the sender counts.
const RECORD_COST_BYTES: usize = 32;

/// See the head of the file.
pub(super) struct Writer {
    depot: Arc<Depot>,
    next_topic: u32,
    /// Blocks of all tails, oldest first. One that its partition has let go of already is passed over.
    tails: VecDeque<(Arc<Partition>, u64)>,
    tail_bytes: u64,
    tidy_at: usize,
    /// What has to be written first after a failed group.
    undo: Vec<Put>,
    failed_at: Option<Instant>,
}

/// One group before it is written.
#[derive(Default)]
struct Draw {
    drafts: Vec<(Arc<Partition>, Draft)>,
    blocks: Vec<(Arc<Partition>, Block)>,
    told: Vec<(Told, Place)>,
    told_bytes: u64,
    /// By key, because a group of fjall's must not have one twice: the last counts.
    puts: BTreeMap<Vec<u8>, Option<UserValue>>,
    then: Vec<Then>,
}

/// What else to do when it is written, or is not.
enum Then {
    Noted { group: Arc<Group>, noted: Vec<Noted>, reply: Reply<()> },
    Made { topic: Arc<Topic>, reply: Reply<u32> },
    Trimmed { trim: Trim, reply: oneshot::Sender<Result<(), String>> },
    Flushed { reply: oneshot::Sender<()> },
}

impl Writer {
    pub(super) fn new(depot: Arc<Depot>) -> Writer {
        let next_topic = depot.topics().values().map(|topic| topic.id + 1).max().unwrap_or_default();
        Writer { depot, next_topic, tails: VecDeque::new(), tail_bytes: 0, tidy_at: 1024, undo: Vec::new(), failed_at: None }
    }

    pub(super) fn run(mut self) {
        let mut jobs = Vec::new();
        loop {
            let fetched = self.depot.queue.fetch(&mut jobs, self.failed_at.map(|_| REPAIR_EVERY));
            if fetched == Fetched::Closed {
                return;
            }
            let trouble = self.repair().err();
            let mut waiting = jobs.drain(..).peekable();
            if let Some(trouble) = trouble {
                let mut draw = Draw::default();
                waiting.for_each(|job| self.draw(&mut draw, job));
                self.refuse(draw, &trouble, false);
                continue;
            }
            while waiting.peek().is_some() {
                let mut draw = Draw::default();
                while draw.told.len() + draw.then.len() < GROUP_MAX
                    && draw.told_bytes < GROUP_BYTES_MAX
                    && let Some(job) = waiting.next()
                {
                    self.draw(&mut draw, job);
                }
                self.write(draw);
            }
        }
    }

    fn draw(&mut self, draw: &mut Draw, job: Job) {
        match job {
            Job::Send { partition, parcel, size, told } => {
                draw.told_bytes += size;
                let offset = draw.add(&partition, &parcel, size as usize + RECORD_COST_BYTES, &self.depot);
                draw.told.push((told, Place { partition: partition.number, offset }));
            }
            Job::Note { group, noted, values, is_move, reply } => {
                let is_theirs = if is_move { group.begin_move(&noted) } else { group.begin_note(&noted) };
                if !is_theirs {
                    let _ = reply.send(Err(not_yours(&group)));
                    return;
                }
                let puts = noted.iter().map(|noted| note_key(&group, noted.partition)).zip(values.into_iter().map(Some));
                draw.puts.extend(puts);
                draw.then.push(Then::Noted { group, noted, reply });
            }
            Job::Make { wish, reply } => {
                let in_group = draw.then.iter().find_map(|then| match then {
                    Then::Made { topic, .. } if topic.name == wish.name => Some(topic.clone()),
                    _ => None,
                });
                if in_group.is_some() {
                    // Twice in one group: who comes second asks again when the first is done.
                    let message = format!("topic {} is being made at this moment; ask again", wish.name);
                    let _ = reply.send(Err(BusError::new(BusErrorKind::Unreachable, message)));
                    return;
                }
                match self.depot.provided(&wish) {
                    Ok(None) => {}
                    Ok(Some(partitions)) => return drop(reply.send(Ok(partitions))),
                    Err(error) => return drop(reply.send(Err(error))),
                }
                let id = self.next_topic;
                self.next_topic += 1;
                draw.puts.insert(topic_key(id), Some(write_topic(&wish)));
                let topic = Arc::new(Topic::new(id, wish.name, wish.partitions, wish.keep, &self.depot.config));
                draw.then.push(Then::Made { topic, reply });
            }
            Job::Trim { trim, reply } => {
                let Trim { partition, stretch, lines } = &trim;
                for line in lines.iter().filter(|line| line.end <= stretch.end) {
                    for kind in [Kind::Index, Kind::Log] {
                        draw.puts.insert(key(kind, partition.topic, partition.number, line.first), None);
                    }
                }
                let floor = write_floor(stretch.end, partition.held().time_ms);
                draw.puts.insert(partition_key(Kind::Floor, partition.topic, partition.number), Some(floor));
                draw.then.push(Then::Trimmed { trim, reply });
            }
            Job::Flush { reply } => draw.then.push(Then::Flushed { reply }),
        }
    }

    fn write(&mut self, mut draw: Draw) {
        draw.blocks.extend(draw.drafts.drain(..).map(|(partition, draft)| (partition, draft.done())));
        let mut puts: Vec<Put> = std::mem::take(&mut draw.puts).into_iter().collect();
        puts.reserve(2 * draw.blocks.len());
        for (partition, block) in &draw.blocks {
            let at = |kind| key(kind, partition.topic, partition.number, block.first);
            puts.push((at(Kind::Index), Some(write_line(block))));
            puts.push((at(Kind::Log), Some(UserValue::from(&*block.bytes))));
        }
        if !puts.is_empty() {
            let started = Instant::now();
            if let Err(trouble) = self.depot.disk.commit(puts) {
                tracing::error!(%trouble, "the bus cannot write; what is kept can be read, nothing is taken until it can");
                self.depot.set_trouble(Some(trouble.clone()));
                self.failed_at = Some(Instant::now());
                return self.refuse(draw, &trouble, true);
            }
            self.depot.figures.groups.record(started.elapsed());
        }
        self.show(draw);
    }

    /// It is written.
    fn show(&mut self, draw: Draw) {
        let Draw { blocks, told, told_bytes, then, .. } = draw;
        let depot = self.depot.clone();
        let mut bells: Vec<Arc<Bell>> = Vec::new();
        let (mut bytes, messages) = (0, told.len() as u64);
        let has_blocks = !blocks.is_empty();
        for (partition, block) in blocks {
            let (first, block_bytes) = (block.first, block.bytes.len() as u64);
            bytes += block_bytes;
            partition.topic_bytes.fetch_add(block_bytes, Relaxed);
            let mut held = partition.held();
            if held.stretches().is_empty() {
                depot.care.look_at(Instant::now());
            }
            self.tail_bytes += held.append(block, partition.stretch_max);
            self.tail_bytes -= held.forget_beyond(depot.config.tail_partition_bytes_max);
            for bell in held.bells() {
                if !bells.iter().any(|known| Arc::ptr_eq(known, bell)) {
                    bells.push(bell.clone());
                }
            }
            drop(held);
            self.tails.push_back((partition, first));
        }
        if has_blocks {
            self.bound(bytes);
        }
        depot.queue.told(messages, told_bytes);
        for (told, place) in told {
            tell(told, Ok(place));
        }
        for bell in bells {
            bell.ring();
        }
        for then in then {
            match then {
                Then::Noted { group, noted, reply } => {
                    depot.figures.notes.add(noted.len() as u64);
                    group.end_note(noted, true);
                    let _ = reply.send(Ok(()));
                }
                Then::Made { topic, reply } => {
                    let partitions = topic.partitions.len() as u32;
                    depot.add_topic(topic);
                    let _ = reply.send(Ok(partitions));
                }
                Then::Trimmed { trim, reply } => {
                    self.trimmed(&trim);
                    let _ = reply.send(Ok(()));
                }
                Then::Flushed { reply } => drop(reply.send(())),
            }
        }
        depot.figures.messages.add(messages);
        depot.figures.bytes.add(bytes);
        depot.figures.waiting.set(depot.queue.untold().0 as i64);
    }

    /// Keeps tails and store within their bounds.
    fn bound(&mut self, bytes: u64) {
        let depot = &self.depot;
        while self.tail_bytes > depot.config.tail_bytes_max
            && let Some((partition, first)) = self.tails.pop_front()
        {
            self.tail_bytes -= partition.held().forget(first);
        }
        // Entries of blocks that have gone otherwise are taken out when there are twice as many as there were.
        if self.tails.len() >= self.tidy_at {
            self.tails.retain(|(partition, first)| partition.held().remembers(*first));
            self.tidy_at = 2 * self.tails.len() + 1024;
        }
        let kept = depot.kept_bytes.fetch_add(bytes, Relaxed) + bytes;
        depot.figures.kept_bytes.set(kept as i64);
        depot.figures.tail_bytes.set(self.tail_bytes as i64);
        let is_full = |topic: &Arc<Topic>| topic.bytes.load(Relaxed) > depot.config.topic_bytes_max;
        if kept > depot.config.store_bytes_max || depot.topics().values().any(is_full) {
            depot.care.look_at(Instant::now());
        }
    }

    fn trimmed(&mut self, trim: &Trim) {
        let Trim { partition, stretch, lines } = trim;
        let gone = lines.iter().filter(|line| line.end <= stretch.end);
        let bytes = gone.clone().map(|line| u64::from(line.bytes)).sum();
        self.tail_bytes -= partition.held().trim(stretch.end, bytes, gone.count() as u32);
        partition.topic_bytes.fetch_sub(bytes, Relaxed);
        let kept = self.depot.kept_bytes.fetch_sub(bytes, Relaxed) - bytes;
        self.depot.figures.kept_bytes.set(kept as i64);
        self.depot.figures.removed_bytes.add(bytes);
    }

    /// It is not written; if it was tried, nobody knows.
    fn refuse(&mut self, draw: Draw, trouble: &str, is_unsure: bool) {
        let error = BusError::new(BusErrorKind::Storage, trouble);
        let messages = draw.told.len() as u64;
        let mut undo: BTreeMap<Vec<u8>, Option<UserValue>> = BTreeMap::new();
        for (partition, block) in &draw.blocks {
            for kind in [Kind::Index, Kind::Log] {
                undo.insert(key(kind, partition.topic, partition.number, block.first), None);
            }
        }
        self.depot.queue.told(messages, draw.told_bytes);
        for (told, _) in draw.told {
            tell(told, Err(error.clone()));
        }
        for then in draw.then {
            match then {
                Then::Noted { group, noted, reply } => {
                    for Noted { partition, .. } in &noted {
                        let before = group.standing(*partition).and_then(|standing| standing_again(&standing));
                        undo.insert(note_key(&group, *partition), before);
                    }
                    group.end_note(noted, false);
                    let _ = reply.send(Err(error.clone()));
                }
                Then::Made { topic, reply } => {
                    undo.insert(topic_key(topic.id), None);
                    let _ = reply.send(Err(error.clone()));
                }
                // What was to be removed may be gone; who reads finds what is left, and it is removed again.
                Then::Trimmed { reply, .. } => drop(reply.send(Err(trouble.to_owned()))),
                Then::Flushed { reply } => drop(reply.send(())),
            }
        }
        self.depot.figures.failed.add(1);
        if is_unsure {
            self.undo = undo.into_iter().collect();
        }
    }

    /// After a failed group: opens the disk anew once it can be written, and undoes what the group may have left.
    fn repair(&mut self) -> Result<(), String> {
        let Some(failed_at) = self.failed_at else { return Ok(()) };
        let trouble = self.depot.trouble().unwrap_or_default();
        if failed_at.elapsed() < REPAIR_EVERY {
            return Err(trouble);
        }
        let disk = &self.depot.disk;
        let repaired = disk.probe().and_then(|()| disk.reopen()).and_then(|()| disk.commit(self.undo.clone()));
        if let Err(trouble) = repaired {
            self.failed_at = Some(Instant::now());
            self.depot.set_trouble(Some(trouble.clone()));
            return Err(trouble);
        }
        self.undo.clear();
        self.failed_at = None;
        self.depot.set_trouble(None);
        tracing::info!("the bus writes again");
        Ok(())
    }
}

impl Draw {
    /// Adds a message to its partition's block; says its offset.
    fn add(&mut self, partition: &Arc<Partition>, parcel: &Parcel, bytes_expected: usize, depot: &Depot) -> u64 {
        let known = self.drafts.get_mut(partition.slot.load(Relaxed)).filter(|(known, _)| Arc::ptr_eq(known, partition));
        if let Some((_, draft)) = known {
            if draft.is_full() {
                let next = draft.next(bytes_expected);
                let full = std::mem::replace(draft, next).done();
                self.blocks.push((partition.clone(), full));
            }
            return draft.add(parcel);
        }
        let (end, last_ms) = {
            let held = partition.held();
            (held.end, held.time_ms)
        };
        // Times never go back within a partition, so that they can be searched.
        let mut draft = Draft::new(end, (depot.clock)().max(last_ms), bytes_expected);
        let offset = draft.add(parcel);
        partition.slot.store(self.drafts.len(), Relaxed);
        self.drafts.push((partition.clone(), draft));
        offset
    }
}

/// Tells somebody; if they panic that is theirs.
fn tell(told: Told, what: Result<Place, BusError>) {
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| told(what))).is_err() {
        tracing::error!("what was to be told of a message panicked");
    }
}
