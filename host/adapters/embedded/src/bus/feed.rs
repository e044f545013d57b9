//! How far somebody has read a partition, and what comes next: from memory while they keep up, else from the disk.
//!
//! A feed never waits. What it lacks it asks of the reading thread, at most once at a time, and goes on when told.

use super::partition::{Found, Partition};
use super::reading::{Answer, Asks, Reading, Wish};
use super::record::{Block, Cursor, Names};
use std::collections::VecDeque;
use std::sync::Arc;
use wharf_core::bus::{Message, ReadFrom};

/// Blocks that are taken out of the tail at once.
const BLOCKS_MAX: usize = 16;

/// See the head of the file.
pub(super) struct Feed {
    partition: Arc<Partition>,
    at: At,
    cursor: Option<Cursor>,
    blocks: VecDeque<Block>,
    names: Names,
    /// Counts what the reading thread is asked: an answer to an earlier question is of no use any more.
    asked: u64,
    waits: bool,
    pub(super) paused: bool,
}

#[derive(Clone, Copy)]
enum At {
    Offset(u64),
    /// Not known yet as an offset.
    Time(u64),
}

/// Figures of one look.
#[derive(Default)]
pub(super) struct Taken {
    pub(super) messages: u64,
    pub(super) misses: u64,
}

impl Feed {
    pub(super) fn new(partition: Arc<Partition>, from: ReadFrom) -> Feed {
        let (names, blocks) = (Names::default(), VecDeque::new());
        let mut feed = Feed { partition, at: At::Offset(0), cursor: None, blocks, names, asked: 0, waits: false, paused: false };
        feed.seek(from);
        feed
    }

    pub(super) fn partition(&self) -> &Arc<Partition> {
        &self.partition
    }

    pub(super) fn seek(&mut self, from: ReadFrom) {
        self.at = match from {
            ReadFrom::Start => At::Offset(0),
            ReadFrom::End => At::Offset(self.partition.held().end),
            ReadFrom::Offset(offset) => At::Offset(offset),
            ReadFrom::Time(time_ms) => At::Time(time_ms),
        };
        self.cursor = None;
        self.blocks.clear();
        self.asked += 1;
        self.waits = false;
    }

    /// Gives what there is, at most `max` messages, each to `give`; asks for what there is not.
    pub(super) fn take(&mut self, max: usize, reading: &Reading, who: &Arc<dyn Asks>, mut give: impl FnMut(Message)) -> Taken {
        let mut taken = Taken::default();
        while taken.messages < max as u64 {
            if let Some(cursor) = &mut self.cursor {
                if let Some(message) = cursor.next(self.partition.number, &mut self.names) {
                    taken.messages += 1;
                    give(message);
                    continue;
                }
                self.at = At::Offset(cursor.offset());
                self.cursor = None;
            }
            let offset = match self.at {
                At::Offset(offset) => offset,
                At::Time(_) if self.waits => break,
                At::Time(time_ms) => {
                    let known = self.partition.held().at_time(time_ms);
                    match known {
                        Ok(offset) => self.at = At::Offset(offset),
                        Err(_) => self.ask(Wish::Time(time_ms), reading, who),
                    }
                    continue;
                }
            };
            match self.blocks.pop_front() {
                Some(block) if block.end <= offset => {}
                Some(block) => self.cursor = Some(Cursor::new(block, offset)),
                None if self.waits => break,
                None => {
                    let found = self.partition.held().find(offset, BLOCKS_MAX);
                    match found {
                        Found::Blocks(blocks) => self.blocks.extend(blocks),
                        Found::OnDisk(offset) => {
                            self.at = At::Offset(offset);
                            taken.misses += 1;
                            self.ask(Wish::From(offset), reading, who);
                        }
                        Found::Nothing => break,
                    }
                }
            }
        }
        taken
    }

    fn ask(&mut self, wish: Wish, reading: &Reading, who: &Arc<dyn Asks>) {
        self.asked += 1;
        self.waits = true;
        reading.ask(self.partition.clone(), self.asked, wish, who.clone());
    }

    /// Whether it still waits for this answer.
    pub(super) fn waits_for(&self, asked: u64) -> bool {
        self.waits && self.asked == asked
    }

    pub(super) fn told(&mut self, asked: u64, answer: Answer) {
        if !self.waits_for(asked) {
            return;
        }
        self.waits = false;
        match (answer, self.at) {
            (Answer::At(offset), _) => self.at = At::Offset(offset),
            (Answer::Blocks(blocks), At::Offset(offset)) if blocks.is_empty() => {
                // Nothing is there: it was removed meanwhile.
                self.at = At::Offset(self.partition.held().next_known(offset));
            }
            (Answer::Blocks(blocks), _) => self.blocks.extend(blocks),
        }
    }
}
