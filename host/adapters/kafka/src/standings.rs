//! The log of standings: how a group stands with a partition, and whose the partition is, as records in a topic beside. Pure; the
//! reading and writing of it is [`crate::log`]'s.
//!
//! Kafka keeps an offset and a text for each group and partition, but its coordinator lets a commit wait (five milliseconds
//! since 4.0, `group.coordinator.append.linger.ms`), and a message may begin only after it is noted. A record is kept as soon as the
//! replicas have it. So standings are records of a topic of the group's own, whose partition `p` belongs to partition `p`.
//!
//! **The fence.** A member that is given a partition appends a *claim*; its place is the member's **turn**. Each note says the turn.
//! One member writes, so its notes lie one behind the other; a member whose note does not lie right behind its last one reads
//! what lies between: the claim of another, and the partition is lost. No such claim, and the partition was its own when the note became
//! durable, and everybody who claims later will read it.
//!
//! **Compaction.** The topic may be compacted: the records of a turn have a key of their own, so that the last note of each turn stays.
//! What a member wrote after it had been followed does not count against its follower's notes, wherever it lies.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use wharf_core::bus::Standing;

/// First byte of a record.
const VERSION: u8 = 1;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// Somebody takes the partition. The nonce tells claims apart.
    Claim { nonce: u64 },
    /// How the member of this turn stands.
    Note { turn: u64, standing: Standing },
}

impl Record {
    /// As a record's value. `None`: the marks are too many.
    pub(crate) fn write(&self) -> Option<Bytes> {
        let mut out = BytesMut::with_capacity(64);
        out.put_u8(VERSION);
        match self {
            Record::Claim { nonce } => {
                out.put_u8(0);
                out.put_u64(*nonce);
            }
            Record::Note { turn, standing } => {
                out.put_u8(1);
                out.put_u64(*turn);
                out.put_u64(standing.next);
                out.extend_from_slice(&standing.marks()?);
            }
        }
        Some(out.freeze())
    }

    /// Its key: whatever has the same may be thrown away once a later one is there.
    pub(crate) fn key(&self) -> Bytes {
        match self {
            Record::Claim { nonce } => format!("claim {nonce:016x}").into(),
            Record::Note { turn, .. } => format!("turn {turn}").into(),
        }
    }

    /// Back; `None`: somebody else wrote it.
    pub(crate) fn read(mut value: &[u8]) -> Option<Record> {
        if value.try_get_u8().ok()? != VERSION {
            return None;
        }
        match value.try_get_u8().ok()? {
            0 => Some(Record::Claim { nonce: value.try_get_u64().ok()? }),
            1 => {
                let (turn, next) = (value.try_get_u64().ok()?, value.try_get_u64().ok()?);
                Some(Record::Note { turn, standing: Standing::read(next, value).ok()? })
            }
            _ => None,
        }
    }
}

/// A record with its place.
pub(crate) type Placed = (u64, Record);

/// What the records before a claim amount to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Last {
    pub(crate) turn: u64,
    pub(crate) offset: u64,
    pub(crate) standing: Standing,
}

/// The note that counts: of the latest turn, the last. A member notes nothing of its own before it has read what its
/// predecessor has noted, so the notes of a later turn know of all that an earlier one was allowed to begin.
pub(crate) fn last<'a>(records: impl IntoIterator<Item = &'a Placed>) -> Option<Last> {
    let notes = records.into_iter().filter_map(|(offset, record)| match record {
        Record::Note { turn, standing } => Some((*turn, *offset, standing)),
        Record::Claim { .. } => None,
    });
    let (turn, offset, standing) = notes.max_by_key(|(turn, offset, _)| (*turn, *offset))?;
    Some(Last { turn, offset, standing: standing.clone() })
}

/// Does the claim of another stand among what lies behind this turn?
pub(crate) fn followed<'a>(turn: u64, records: impl IntoIterator<Item = &'a Placed>) -> bool {
    records.into_iter().any(|(offset, record)| *offset > turn && matches!(record, Record::Claim { .. }))
}

/// The topic of a group's standings. Kafka's names have letters, digits, `.`, `_` and `-`, and 249 of them.
pub(crate) fn topic_of(topic: &str, group: &str) -> String {
    let mut name = format!("{topic}-");
    for letter in group.chars() {
        match letter {
            'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' => name.push(letter),
            other => name.push_str(&format!("_{:x}_", u32::from(other))),
        }
    }
    name.push_str("-standings");
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_core::bus::Mark;

    fn claim() -> Record {
        Record::Claim { nonce: 7 }
    }

    fn note(turn: u64, next: u64) -> Record {
        Record::Note { turn, standing: Standing { next, runs: vec![(Mark::Begun, 2), (Mark::Done, 3)] } }
    }

    fn placed(records: &[Record]) -> Vec<Placed> {
        records.iter().cloned().enumerate().map(|(at, record)| (at as u64, record)).collect()
    }

    #[test]
    fn records_are_read_as_they_were_written() {
        for record in [claim(), note(u64::MAX, 12), Record::Note { turn: 0, standing: Standing::at(3) }] {
            assert_eq!(Record::read(&record.write().unwrap()), Some(record));
        }
        for foreign in [&b""[..], b"\x01", b"hello", b"\x01\x01aaaaaaaa\xff\xff", b"\x01\x02aaaaaaaaaaaaaaaaaaaaa", b"\x02\x00aaaaaaaa"] {
            assert_eq!(Record::read(foreign), None);
        }
    }

    #[test]
    fn what_a_follower_noted_counts_and_not_what_was_noted_too_late() {
        let check = |records: &[Record], next: Option<u64>| {
            assert_eq!(last(&placed(records)).map(|last| last.standing.next), next, "{records:?}");
        };
        check(&[], None);
        check(&[claim()], None);
        check(&[claim(), note(0, 5), note(0, 6)], Some(6));
        check(&[claim(), note(0, 5), claim(), note(2, 9), note(0, 6)], Some(9));
        // The follower has ended before it had noted anything: it has begun nothing.
        check(&[claim(), note(0, 5), claim(), note(0, 6), claim()], Some(6));
    }

    #[test]
    fn a_claim_behind_the_own_one_is_another_s() {
        let records = placed(&[claim(), note(0, 5), claim(), note(2, 5), note(0, 6)]);
        assert!(followed(0, &records));
        assert!(!followed(2, &records));
        assert!(!followed(0, &records[..2]));
    }

    #[test]
    fn each_group_has_a_topic_of_its_own() {
        assert_eq!(topic_of("orders", "far.side-1"), "orders-far.side-1-standings");
        assert_ne!(topic_of("orders", "a b"), topic_of("orders", "a_b"));
    }
}
