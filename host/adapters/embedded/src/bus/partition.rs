//! One partition in memory: where it begins and ends, its latest blocks, and a coarse picture of all that it holds.
//!
//! Only the writer changes it; readers look. The picture is made of stretches of about a MiB, so that it stays small
//! whatever is kept: it says how much there is to remove and where a time lies; the index on disk knows it finely.

use super::bell::Bell;
use super::disk::Line;
use super::record::Block;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Most blocks in one stretch: what is removed in one step.
pub(super) const STRETCH_BLOCKS_MAX: u32 = 512;
/// What a block in memory takes beside its bytes.
const BLOCK_COST_BYTES: u64 = 128;

/// See the head of the file.
pub(super) struct Partition {
    pub(super) topic: u32,
    pub(super) number: u32,
    pub(super) stretch_max: StretchMax,
    /// What all partitions of its topic hold.
    pub(super) topic_bytes: Arc<AtomicU64>,
    held: Mutex<Held>,
    /// The writer's own note: where this partition is in the group that it is writing.
    pub(super) slot: AtomicUsize,
}

/// What a partition holds.
#[derive(Default)]
pub(super) struct Held {
    /// Offset of the oldest message that is kept.
    pub(super) first: u64,
    /// Offset of the next.
    pub(super) end: u64,
    /// When the last one was written.
    pub(super) time_ms: u64,
    tail: VecDeque<Block>,
    tail_bytes: u64,
    stretches: VecDeque<Stretch>,
    bells: Vec<Arc<Bell>>,
}

/// Blocks in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) first: u64,
    pub(super) end: u64,
    pub(super) bytes: u64,
    pub(super) blocks: u32,
    pub(super) first_ms: u64,
    pub(super) last_ms: u64,
}

/// When a stretch is long enough.
#[derive(Clone, Copy, Debug)]
pub(super) struct StretchMax {
    pub(super) bytes: u64,
    pub(super) ms: u64,
}

/// Where messages are to be had.
pub(super) enum Found {
    /// Here.
    Blocks(Vec<Block>),
    /// On the disk, from this offset on.
    OnDisk(u64),
    /// Nowhere yet.
    Nothing,
}

impl Partition {
    pub(super) fn new(topic: u32, number: u32, stretch_max: StretchMax, topic_bytes: Arc<AtomicU64>) -> Partition {
        Partition { topic, number, stretch_max, topic_bytes, held: Mutex::default(), slot: AtomicUsize::new(usize::MAX) }
    }

    pub(super) fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rings it whenever messages come.
    pub(super) fn watch(&self, bell: &Arc<Bell>) {
        self.held().bells.push(bell.clone());
    }

    pub(super) fn unwatch(&self, bell: &Arc<Bell>) {
        let mut held = self.held();
        if let Some(at) = held.bells.iter().position(|known| Arc::ptr_eq(known, bell)) {
            held.bells.swap_remove(at);
        }
    }
}

impl Held {
    /// As the disk knows it: all before `first` was removed.
    pub(super) fn restore_floor(&mut self, first: u64, time_ms: u64) {
        self.first = first;
        self.end = self.end.max(first);
        self.time_ms = self.time_ms.max(time_ms);
    }

    /// As the disk knows it: the next block.
    pub(super) fn restore(&mut self, line: Line, max: StretchMax) {
        if self.stretches.is_empty() {
            self.first = self.first.max(line.first);
        }
        self.grow(line, max);
    }

    /// A block has been written. Adds what the tail has grown by to `tail_bytes`.
    pub(super) fn append(&mut self, block: Block, max: StretchMax) -> u64 {
        let bytes = block.bytes.len() as u64;
        self.grow(Line { first: block.first, end: block.end, bytes: bytes as u32, time_ms: block.time_ms }, max);
        self.tail.push_back(block);
        self.tail_bytes += bytes + BLOCK_COST_BYTES;
        bytes + BLOCK_COST_BYTES
    }

    fn grow(&mut self, line: Line, max: StretchMax) {
        self.end = line.end;
        self.time_ms = self.time_ms.max(line.time_ms);
        let bytes = u64::from(line.bytes);
        let open = self.stretches.back_mut().filter(|stretch| {
            stretch.bytes + bytes <= max.bytes
                && stretch.blocks < STRETCH_BLOCKS_MAX
                && line.time_ms.saturating_sub(stretch.first_ms) <= max.ms
        });
        match open {
            Some(stretch) => {
                stretch.end = line.end;
                stretch.bytes += bytes;
                stretch.blocks += 1;
                stretch.last_ms = line.time_ms;
            }
            None => self.stretches.push_back(Stretch {
                first: line.first,
                end: line.end,
                bytes,
                blocks: 1,
                first_ms: line.time_ms,
                last_ms: line.time_ms,
            }),
        }
    }

    /// Lets go of the oldest block of the tail, if it is this one; says how much memory that was.
    pub(super) fn forget(&mut self, first: u64) -> u64 {
        match self.tail.front() {
            Some(block) if block.first == first => {}
            _ => return 0,
        }
        let bytes = self.tail.pop_front().map_or(0, |block| block.bytes.len() as u64 + BLOCK_COST_BYTES);
        self.tail_bytes -= bytes;
        bytes
    }

    /// Whether this block is in the tail.
    pub(super) fn remembers(&self, first: u64) -> bool {
        self.tail.front().is_some_and(|block| block.first <= first)
    }

    /// Lets go of the oldest blocks of the tail until it takes no more than this; says how much memory that was.
    pub(super) fn forget_beyond(&mut self, bytes_max: u64) -> u64 {
        let mut bytes = 0;
        while self.tail_bytes > bytes_max
            && let Some(first) = self.tail.front().map(|block| block.first)
        {
            bytes += self.forget(first);
        }
        bytes
    }

    /// All before `first` has been removed: so many blocks with so many bytes. Says how much memory the tail is less.
    pub(super) fn trim(&mut self, first: u64, bytes: u64, blocks: u32) -> u64 {
        self.first = self.first.max(first);
        let (mut bytes, mut blocks) = (bytes, blocks);
        while let Some(stretch) = self.stretches.front_mut() {
            if stretch.end <= first {
                bytes = bytes.saturating_sub(stretch.bytes);
                blocks = blocks.saturating_sub(stretch.blocks);
                self.stretches.pop_front();
            } else {
                // It has grown since it was looked at.
                if stretch.first < first {
                    stretch.first = first;
                    stretch.bytes = stretch.bytes.saturating_sub(bytes);
                    stretch.blocks = stretch.blocks.saturating_sub(blocks);
                }
                break;
            }
        }
        let mut forgotten = 0;
        while let Some(block) = self.tail.front().filter(|block| block.end <= self.first) {
            let block_first = block.first;
            forgotten += self.forget(block_first);
        }
        forgotten
    }

    pub(super) fn bells(&self) -> &[Arc<Bell>] {
        &self.bells
    }

    pub(super) fn stretches(&self) -> &VecDeque<Stretch> {
        &self.stretches
    }

    #[cfg(test)]
    fn bytes(&self) -> u64 {
        self.stretches.iter().map(|stretch| stretch.bytes).sum()
    }

    /// Messages from an offset on: at most `count` blocks.
    pub(super) fn find(&self, offset: u64, count: usize) -> Found {
        let offset = offset.max(self.first);
        if offset >= self.end {
            return Found::Nothing;
        }
        if self.tail.front().is_none_or(|block| block.first > offset) {
            return Found::OnDisk(offset);
        }
        let at = self.tail.partition_point(|block| block.end <= offset);
        Found::Blocks(self.tail.iter().skip(at).take(count).cloned().collect())
    }

    /// Where to go on when the disk has nothing between an offset and the tail.
    pub(super) fn next_known(&self, offset: u64) -> u64 {
        let known = self.tail.front().map_or(self.end, |block| block.first);
        known.max(offset).max(self.first)
    }

    /// The offset of the first message at or after a time, or the part that has to be looked through on the disk.
    pub(super) fn at_time(&self, time_ms: u64) -> Result<u64, Stretch> {
        if self.stretches.back().is_none_or(|last| last.last_ms < time_ms) {
            return Ok(self.end);
        }
        if self.tail.front().is_some_and(|block| block.time_ms < time_ms) {
            let at = self.tail.partition_point(|block| block.time_ms < time_ms);
            return Ok(self.tail.get(at).map_or(self.end, |block| block.first));
        }
        let at = self.stretches.partition_point(|stretch| stretch.last_ms < time_ms);
        match self.stretches.get(at) {
            Some(stretch) if stretch.first_ms >= time_ms => Ok(stretch.first.max(self.first)),
            Some(stretch) => Err(*stretch),
            None => Ok(self.end),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: StretchMax = StretchMax { bytes: 300, ms: 1_000 };

    fn block(first: u64, end: u64, time_ms: u64) -> Block {
        Block { first, end, time_ms, bytes: vec![0; 100].into() }
    }

    #[test]
    fn what_was_removed_while_more_came_is_not_counted_any_more() {
        let mut held = Held::default();
        for at in 0..2 {
            held.append(block(at * 10, at * 10 + 10, 1), MAX);
        }
        let planned = *held.stretches().front().unwrap();
        assert_eq!((planned.first, planned.end, planned.bytes, planned.blocks), (0, 20, 200, 2));
        held.append(block(20, 30, 2), MAX);
        let forgotten = held.trim(planned.end, planned.bytes, planned.blocks);
        assert_eq!(forgotten, 2 * (100 + BLOCK_COST_BYTES));
        assert_eq!((held.first, held.end, held.bytes()), (20, 30, 100));
        held.trim(30, 100, 1);
        assert_eq!((held.first, held.end, held.bytes()), (30, 30, 0));
        assert!(held.stretches().is_empty());
    }

    #[test]
    fn a_stretch_is_closed_by_bytes_and_by_time() {
        let mut held = Held::default();
        for (at, time_ms) in [0, 0, 0, 0, 500, 1_001].into_iter().enumerate() {
            held.append(block(at as u64, at as u64 + 1, time_ms), MAX);
        }
        let blocks: Vec<u32> = held.stretches().iter().map(|stretch| stretch.blocks).collect();
        assert_eq!(blocks, [3, 2, 1]);
    }

    #[test]
    fn messages_are_in_the_tail_or_on_the_disk_or_not_there_yet() {
        let mut held = Held::default();
        held.restore_floor(5, 0);
        for first in [5, 10, 15] {
            held.append(block(first, first + 5, first), MAX);
        }
        assert!(held.forget(10) == 0 && held.forget(5) > 0, "the oldest only");
        let found = |offset| match held.find(offset, 8) {
            Found::Blocks(blocks) => format!("from {}", blocks[0].first),
            Found::OnDisk(offset) => format!("on disk from {offset}"),
            Found::Nothing => "nothing".to_owned(),
        };
        let said: Vec<String> = [0, 9, 10, 14, 15, 19, 20, 99].into_iter().map(found).collect();
        assert_eq!(said, ["on disk from 5", "on disk from 9", "from 10", "from 10", "from 15", "from 15", "nothing", "nothing"]);
        let at: Vec<_> = [0, 5, 6, 11, 15, 16].into_iter().map(|time| held.at_time(time).map_err(|stretch| stretch.first)).collect();
        assert_eq!(at, [Ok(5), Ok(5), Err(5), Ok(15), Ok(15), Ok(20)]);
    }
}
