//! How messages are written: those of one partition and one group of writes side by side in one block. Pure.
//!
//! A block has a version, the time at which it was written and its records. A record is its length, then key, value and
//! fields. The same bytes are kept on disk and in memory, and messages handed out are slices of them: one way to read.
//!
//! Checksums are not here: fjall has one over each block.

use bytes::Bytes;
use std::sync::Arc;
use wharf_core::bus::{BusFields, Message, Parcel, Place};

/// A block is closed when it has grown to this size. Larger ones save little more of what a block costs; and a message
/// that somebody holds for long holds its block in memory.
pub(super) const BLOCK_BYTES_MAX: usize = 64 * 1024;

/// Most fields of a message.
pub(super) const FIELDS_MAX: usize = 255;
/// Longest name of a field.
pub(super) const FIELD_NAME_MAX: usize = 255;

const VERSION: u8 = 1;
/// Version and time.
const HEAD_BYTES: usize = 9;
/// Names of fields that a reader remembers, so that each of its messages need not have copies of its own.
const NAMES_MAX: usize = 32;

/// Bytes of key, value and fields.
pub(super) fn size(parcel: &Parcel) -> usize {
    let fields: usize = parcel.fields.iter().map(|(name, value)| name.len() + value.len()).sum();
    parcel.key.as_ref().map_or(0, Bytes::len) + parcel.value.len() + fields
}

/// Messages of one partition with offsets in a row, as they are kept.
#[derive(Clone, Debug)]
pub(super) struct Block {
    /// Offset of the first.
    pub(super) first: u64,
    /// Offset after the last.
    pub(super) end: u64,
    /// When it was written, milliseconds since 1970.
    pub(super) time_ms: u64,
    /// All of it.
    pub(super) bytes: Bytes,
}

impl Block {
    /// A block as it comes from the disk. `None`: it was written by somebody else.
    pub(super) fn read(first: u64, end: u64, bytes: Bytes) -> Option<Block> {
        let (&version, rest) = bytes.split_first()?;
        let time_ms = u64::from_le_bytes(*rest.first_chunk()?);
        (version == VERSION && first < end).then_some(Block { first, end, time_ms, bytes })
    }
}

/// A block that is being written.
pub(super) struct Draft {
    first: u64,
    count: u64,
    time_ms: u64,
    bytes: Vec<u8>,
}

impl Draft {
    pub(super) fn new(first: u64, time_ms: u64, bytes_expected: usize) -> Draft {
        let mut bytes = Vec::with_capacity(HEAD_BYTES + bytes_expected);
        bytes.push(VERSION);
        bytes.extend_from_slice(&time_ms.to_le_bytes());
        Draft { first, count: 0, time_ms, bytes }
    }

    /// Adds a message, whose fields are within their bounds; says its offset.
    pub(super) fn add(&mut self, parcel: &Parcel) -> u64 {
        let out = &mut self.bytes;
        let at = out.len();
        out.extend_from_slice(&[0; 4]);
        // One more than its length, so that no key and an empty one are two.
        push_len(out, parcel.key.as_ref().map_or(0, |key| key.len() + 1));
        out.extend_from_slice(parcel.key.as_deref().unwrap_or_default());
        push_len(out, parcel.value.len());
        out.extend_from_slice(&parcel.value);
        for (name, value) in &parcel.fields {
            out.push(name.len() as u8);
            out.extend_from_slice(name.as_bytes());
            push_len(out, value.len());
            out.extend_from_slice(value);
        }
        let length = ((out.len() - at - 4) as u32).to_le_bytes();
        if let Some(place) = out.get_mut(at..at + 4) {
            place.copy_from_slice(&length);
        }
        self.count += 1;
        self.first + self.count - 1
    }

    /// The draft that follows this one in the same group.
    pub(super) fn next(&self, bytes_expected: usize) -> Draft {
        Draft::new(self.first + self.count, self.time_ms, bytes_expected)
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= BLOCK_BYTES_MAX
    }

    pub(super) fn done(self) -> Block {
        Block { first: self.first, end: self.first + self.count, time_ms: self.time_ms, bytes: self.bytes.into() }
    }
}

fn push_len(out: &mut Vec<u8>, len: usize) {
    out.extend_from_slice(&(len as u32).to_le_bytes());
}

/// Where a reader is in a block.
#[derive(Debug)]
pub(super) struct Cursor {
    block: Block,
    /// Offset and byte of the next record.
    offset: u64,
    at: usize,
}

impl Cursor {
    /// At the first message at or after this offset.
    pub(super) fn new(block: Block, offset: u64) -> Cursor {
        let mut cursor = Cursor { offset: block.first, at: HEAD_BYTES, block };
        while cursor.offset < offset && cursor.offset < cursor.block.end {
            match cursor.length() {
                Some(length) => cursor.at += 4 + length,
                None => cursor.offset = cursor.block.end - 1,
            }
            cursor.offset += 1;
        }
        cursor
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    pub(super) fn is_done(&self) -> bool {
        self.offset >= self.block.end
    }

    fn length(&self) -> Option<usize> {
        let bytes = self.block.bytes.get(self.at..)?;
        Some(u32::from_le_bytes(*bytes.first_chunk()?) as usize)
    }

    /// The next message; `None` when there is no more, or what follows cannot be read (then [`Cursor::is_done`], too).
    pub(super) fn next(&mut self, partition: u32, names: &mut Names) -> Option<Message> {
        if self.is_done() {
            return None;
        }
        let message = self.read(partition, names);
        match &message {
            Some(_) => self.offset += 1,
            None => self.offset = self.block.end,
        }
        message
    }

    fn read(&mut self, partition: u32, names: &mut Names) -> Option<Message> {
        let length = self.length()?;
        let mut rest = Rest { bytes: &self.block.bytes, at: self.at + 4, end: self.at + 4 + length };
        let key_len = rest.len()?;
        let key = if key_len == 0 { None } else { Some(rest.slice(key_len - 1)?) };
        let value_len = rest.len()?;
        let value = rest.slice(value_len)?;
        let mut fields = BusFields::new();
        while rest.at < rest.end {
            let name_len = usize::from(*rest.take(1)?.first()?);
            let name = names.name(std::str::from_utf8(rest.take(name_len)?).ok()?);
            let len = rest.len()?;
            fields.push((name, rest.slice(len)?));
        }
        self.at = rest.end;
        let place = Place { partition, offset: self.offset };
        Some(Message { place, time_ms: self.block.time_ms, key, value, fields, begun: false })
    }
}

/// What is left of a record.
struct Rest<'a> {
    bytes: &'a Bytes,
    at: usize,
    end: usize,
}

impl Rest<'_> {
    fn take(&mut self, len: usize) -> Option<&[u8]> {
        let to = self.at.checked_add(len).filter(|to| *to <= self.end)?;
        let part = self.bytes.get(self.at..to)?;
        self.at = to;
        Some(part)
    }

    fn len(&mut self) -> Option<usize> {
        Some(u32::from_le_bytes(*self.take(4)?.first_chunk()?) as usize)
    }

    fn slice(&mut self, len: usize) -> Option<Bytes> {
        let from = self.at;
        self.take(len)?;
        Some(self.bytes.slice(from..from + len))
    }
}

/// Names of fields that were met before.
#[derive(Debug, Default)]
pub(super) struct Names(Vec<Arc<str>>);

impl Names {
    fn name(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.0.iter().find(|known| &***known == name) {
            return known.clone();
        }
        let new: Arc<str> = name.into();
        if self.0.len() < NAMES_MAX {
            self.0.push(new.clone());
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parcel(key: Option<&'static str>, value: &'static str, fields: &[(&str, &'static str)]) -> Parcel {
        let mut parcel = Parcel::new("t".into(), 0, value.into());
        parcel.key = key.map(Bytes::from);
        parcel.fields = fields.iter().map(|(name, value)| ((*name).into(), Bytes::from(*value))).collect();
        parcel
    }

    #[test]
    fn what_is_written_is_read_again_from_any_offset() {
        let parcels =
            [parcel(None, "", &[]), parcel(Some(""), "a", &[("x", ""), ("", "y")]), parcel(Some("k"), "value", &[("x", "1"), ("x", "2")])];
        let mut draft = Draft::new(7, 1234, 0);
        let offsets: Vec<u64> = parcels.iter().map(|parcel| draft.add(parcel)).collect();
        assert_eq!(offsets, [7, 8, 9]);
        let written = draft.done();
        let block = Block::read(7, 10, written.bytes).unwrap();
        assert_eq!((block.first, block.end, block.time_ms), (7, 10, 1234));
        for from in 0..12 {
            let (mut cursor, mut names) = (Cursor::new(block.clone(), from), Names::default());
            let read: Vec<Message> = std::iter::from_fn(|| cursor.next(3, &mut names)).collect();
            let wished = parcels.iter().zip(7..).filter(|(_, offset)| *offset >= from);
            assert_eq!(read.len(), wished.clone().count());
            for (message, (parcel, offset)) in read.iter().zip(wished) {
                assert_eq!(message.place, Place { partition: 3, offset });
                assert_eq!((&message.key, &message.value, &message.fields), (&parcel.key, &parcel.value, &parcel.fields));
                assert_eq!(message.time_ms, 1234);
            }
            assert!(cursor.is_done());
        }
    }

    #[test]
    fn a_block_that_ends_too_early_is_no_message_and_no_panic() {
        let mut draft = Draft::new(0, 1, 0);
        draft.add(&parcel(Some("key"), "value", &[("name", "field")]));
        let whole = draft.done();
        for len in 0..whole.bytes.len() {
            let Some(block) = Block::read(0, 1, whole.bytes.slice(..len)) else { continue };
            let mut cursor = Cursor::new(block, 0);
            assert!(cursor.next(0, &mut Names::default()).is_none(), "{len}");
            assert!(cursor.is_done());
        }
    }
}
