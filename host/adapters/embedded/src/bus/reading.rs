//! The thread that reads old messages, so that nobody who is asked for the next ones ever waits for a disk.
//!
//! Whoever asks has at most one question open for each feed: the queue is as long as there are feeds.

use super::disk::Disk;
use super::partition::Partition;
use super::record::Block;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use wharf_core::bus::{BusError, BusErrorKind};

/// What is read at once.
const BLOCKS_MAX: usize = 256;
const BYTES_MAX: usize = 1024 * 1024;
/// After a failed read the disk is tried again at most this often.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What is wished of a partition.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wish {
    /// Blocks from this offset on.
    From(u64),
    /// The offset of the first message at or after this time.
    Time(u64),
}

/// What there was.
pub(super) enum Answer {
    Blocks(Vec<Block>),
    At(u64),
}

/// Who asks for a feed of theirs.
pub(super) trait Asks: Send + Sync {
    /// Whether they still wait for the answer to this question.
    fn waits_for(&self, partition: u32, asked: u64) -> bool;
    /// The answer.
    fn told(&self, partition: u32, asked: u64, answer: Answer);
}

/// The way to the reading thread.
pub(super) struct Reading(Mutex<Option<Sender<Question>>>);

/// What it is asked.
pub(super) enum Question {
    Feed { partition: Arc<Partition>, asked: u64, wish: Wish, who: Arc<dyn Asks> },
    Times { partitions: Arc<[Arc<Partition>]>, time_ms: u64, reply: oneshot::Sender<Result<Vec<u64>, BusError>> },
}

impl Reading {
    pub(super) fn new() -> (Reading, Receiver<Question>) {
        let (sender, receiver) = std::sync::mpsc::channel();
        (Reading(Mutex::new(Some(sender))), receiver)
    }

    pub(super) fn ask(&self, partition: Arc<Partition>, asked: u64, wish: Wish, who: Arc<dyn Asks>) {
        self.send(Question::Feed { partition, asked, wish, who });
    }

    /// For each of the partitions the offset of the first message at or after a time.
    pub(super) fn times(&self, partitions: Arc<[Arc<Partition>]>, time_ms: u64) -> oneshot::Receiver<Result<Vec<u64>, BusError>> {
        let (reply, said) = oneshot::channel();
        self.send(Question::Times { partitions, time_ms, reply });
        said
    }

    fn send(&self, question: Question) {
        if let Some(questions) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            // The thread is gone only when the bus is closed, and then nobody waits.
            let _ = questions.send(question);
        }
    }

    /// Ends the thread.
    pub(super) fn close(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// The thread's work.
pub(super) fn run(disk: &Disk, questions: &Receiver<Question>) {
    let mut later: Vec<Question> = Vec::new();
    let (mut again_at, mut in_trouble) = (Instant::now(), false);
    loop {
        let question = if later.is_empty() {
            questions.recv().map_err(|_| RecvTimeoutError::Disconnected)
        } else {
            questions.recv_timeout(again_at.saturating_duration_since(Instant::now()))
        };
        let due = match question {
            Ok(question) => vec![question],
            Err(RecvTimeoutError::Timeout) => std::mem::take(&mut later),
            Err(RecvTimeoutError::Disconnected) => return,
        };
        for question in due {
            let Some((unanswered, trouble)) = answer(disk, question) else { continue };
            if !std::mem::replace(&mut in_trouble, true) {
                tracing::error!(%trouble, "the bus cannot read old messages; it tries again until it can");
            }
            if later.is_empty() {
                again_at = Instant::now() + AGAIN_AFTER;
            }
            later.push(unanswered);
        }
        in_trouble &= !later.is_empty();
    }
}

/// Answers a question, or gives it back with what is the trouble.
fn answer(disk: &Disk, question: Question) -> Option<(Question, String)> {
    match question {
        Question::Feed { partition, asked, wish, who } => {
            if !who.waits_for(partition.number, asked) {
                return None;
            }
            let answer = match wish {
                Wish::From(offset) => disk.blocks(partition.topic, partition.number, offset, BLOCKS_MAX, BYTES_MAX).map(Answer::Blocks),
                Wish::Time(time_ms) => at_time(disk, &partition, time_ms).map(Answer::At),
            };
            match answer {
                Ok(answer) => who.told(partition.number, asked, answer),
                Err(trouble) => return Some((Question::Feed { partition, asked, wish, who }, trouble)),
            }
        }
        Question::Times { partitions, time_ms, reply } => {
            let offsets: Result<Vec<u64>, String> = partitions.iter().map(|partition| at_time(disk, partition, time_ms)).collect();
            // Who asked may have gone.
            let _ = reply.send(offsets.map_err(|trouble| BusError::new(BusErrorKind::Storage, trouble)));
        }
    }
    None
}

fn at_time(disk: &Disk, partition: &Partition, time_ms: u64) -> Result<u64, String> {
    let known = partition.held().at_time(time_ms);
    let stretch = match known {
        Ok(offset) => return Ok(offset),
        Err(stretch) => stretch,
    };
    let lines = disk.lines(partition.topic, partition.number, stretch.first, stretch.end, usize::MAX)?;
    // All messages of a block were written at one time.
    Ok(lines.iter().find(|line| line.time_ms >= time_ms).map_or(stretch.end, |line| line.first.max(stretch.first)))
}
