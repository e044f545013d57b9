//! The log of standings: how a group stands with a partition, and whose the partition is, as records in a topic beside. Pure; the
//! reading and writing of it is [`crate::ledger`]'s.
//!
//! RocketMQ keeps an offset for each group and queue, no more, and writes it down every five seconds. So standings are messages in
//! a topic of their own, `<topic>-standings`, whose queue `p` belongs to partition `p`; they are as durable as any message. The order
//! within a queue is the fence: a member that is given a partition appends a **claim**, and from there on only notes of its session
//! count, until the next claim. A member that has noted reads what came between its last record and this one: no claim of
//! another means that the partition was its own when the note became durable, and everybody who claims later will read it.

use bytes::{Buf, Bytes};
use wharf_core::bus::Standing;

/// First byte of a record.
const VERSION: u8 = 1;

/// One record. Others' groups stand in the same queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) group: Box<str>,
    /// Who wrote it: a number that is drawn for each claim.
    pub(crate) session: u64,
    /// A note; `None`: a claim.
    pub(crate) standing: Option<Standing>,
}

impl Record {
    /// As a message's body. `None`: the marks are too many.
    pub(crate) fn write(&self) -> Option<Bytes> {
        let mut out = vec![VERSION, u8::from(self.standing.is_some())];
        out.extend_from_slice(&self.session.to_be_bytes());
        out.extend_from_slice(&u16::try_from(self.group.len()).ok()?.to_be_bytes());
        out.extend_from_slice(self.group.as_bytes());
        if let Some(standing) = &self.standing {
            out.extend_from_slice(&standing.next.to_be_bytes());
            out.extend_from_slice(&standing.marks()?);
        }
        Some(out.into())
    }

    /// Back; `None`: somebody else wrote it.
    pub(crate) fn read(mut body: Bytes) -> Option<Record> {
        if body.try_get_u8().ok()? != VERSION {
            return None;
        }
        let is_note = body.try_get_u8().ok()? == 1;
        let session = body.try_get_u64().ok()?;
        let length = usize::from(body.try_get_u16().ok()?);
        if length > body.len() {
            return None;
        }
        let group = std::str::from_utf8(&body.split_to(length)).ok()?.into();
        let standing = if is_note {
            let next = body.try_get_u64().ok()?;
            Some(Standing::read(next, &body).ok()?)
        } else {
            None
        };
        Some(Record { group, session, standing })
    }
}

/// What a group's records amount to, read in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fold {
    /// Whose it is.
    pub(crate) session: Option<u64>,
    /// The last note that counts.
    pub(crate) standing: Option<Standing>,
}

impl Fold {
    /// Takes the next record of the group. The first of all counts, whatever it is: whoever begins to read in the middle begins
    /// at a record that counted.
    pub(crate) fn take(&mut self, record: Record) {
        let Record { session, standing, .. } = record;
        match standing {
            None => self.session = Some(session),
            Some(standing) if self.session.is_none_or(|holder| holder == session) => {
                *self = Fold { session: Some(session), standing: Some(standing) };
            }
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_core::bus::Mark;

    fn claim(session: u64) -> Record {
        Record { group: "g".into(), session, standing: None }
    }

    fn note(session: u64, next: u64) -> Record {
        Record { group: "g".into(), session, standing: Some(Standing { next, runs: vec![(Mark::Begun, 2), (Mark::Done, 3)] }) }
    }

    #[test]
    fn records_are_read_as_they_were_written() {
        for record in [claim(7), note(u64::MAX, 12)] {
            assert_eq!(Record::read(record.write().unwrap()), Some(record));
        }
        for foreign in [&b""[..], b"\x01", b"hello", b"\x01\x01aaaaaaaa\xff\xff"] {
            assert_eq!(Record::read(Bytes::copy_from_slice(foreign)), None);
        }
    }

    #[test]
    fn notes_count_until_the_next_claim() {
        let check = |records: &[Record], session: Option<u64>, next: Option<u64>| {
            let mut fold = Fold::default();
            records.iter().cloned().for_each(|record| fold.take(record));
            assert_eq!((fold.session, fold.standing.map(|standing| standing.next)), (session, next), "{records:?}");
        };
        check(&[], None, None);
        check(&[claim(1)], Some(1), None);
        check(&[claim(1), note(1, 5), note(1, 6)], Some(1), Some(6));
        check(&[claim(1), note(1, 5), claim(2)], Some(2), Some(5));
        check(&[claim(1), note(1, 5), claim(2), note(1, 9)], Some(2), Some(5));
        check(&[claim(1), note(1, 5), claim(2), note(1, 9), note(2, 6)], Some(2), Some(6));
        check(&[note(1, 5), note(3, 7)], Some(1), Some(5));
    }
}
