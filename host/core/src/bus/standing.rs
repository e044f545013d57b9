//! How a member of a group stands with a partition: up to where everything is done, and what is begun or done beyond.
//!
//! Messages are worked on side by side, so that they are done out of order. A bare offset would have to wait for the
//! slowest, and all that were done behind it would be done again after a crash. So the offset goes with marks for the
//! messages from it on, as runs: written together, read by whoever is given the partition next.
//!
//! The written form is small enough for the text that brokers keep beside a group's offset (4,096 bytes by default, as base64):
//! [`STANDING_BYTES_MAX`].

/// Longest written form.
pub const STANDING_BYTES_MAX: usize = 2_900;

/// How far marks may reach beyond `next`.
pub const STANDING_SPAN_MAX: u64 = 1 << 32;

/// What is known of a message that is not behind `next`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mark {
    /// Nobody has begun it.
    #[default]
    Open,
    /// It is begun, or was by somebody who is gone: its effect is not known.
    Begun,
    /// It is done.
    Done,
}

/// How a member stands with a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// All before this offset are done.
    pub next: u64,
    /// From there on: so many offsets with this mark, then so many with the next. What follows is open.
    pub runs: Vec<(Mark, u64)>,
}

/// Bytes that are no standing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not how a group's standing is written")]
pub struct NotAStanding;

/// First byte of the written form.
const VERSION: u8 = 1;

impl Standing {
    /// All before `next` are done, and nothing else is begun.
    pub fn at(next: u64) -> Standing {
        Standing { next, runs: Vec::new() }
    }

    /// The mark of an offset.
    pub fn mark(&self, offset: u64) -> Mark {
        let Some(mut ahead) = offset.checked_sub(self.next) else { return Mark::Done };
        for (mark, count) in &self.runs {
            if ahead < *count {
                return *mark;
            }
            ahead -= count;
        }
        Mark::Open
    }

    /// The marks as they are written beside the offset, which is not among them. Empty where there is none.
    /// `None`: they take more than [`STANDING_BYTES_MAX`].
    pub fn marks(&self) -> Option<Vec<u8>> {
        if self.runs.is_empty() {
            return Some(Vec::new());
        }
        let mut out = vec![VERSION];
        for (mark, count) in &self.runs {
            // Two bits for the mark, the rest for the count.
            let mut word = (count << 2) | mark.bits();
            while word >= 0x80 {
                out.push((word & 0x7f) as u8 | 0x80);
                word >>= 7;
            }
            out.push(word as u8);
        }
        (out.len() <= STANDING_BYTES_MAX).then_some(out)
    }

    /// Reads what [`Standing::marks`] has written.
    ///
    /// # Errors
    /// It was written by somebody else.
    pub fn read(next: u64, marks: &[u8]) -> Result<Standing, NotAStanding> {
        let Some((version, rest)) = marks.split_first() else { return Ok(Standing::at(next)) };
        if *version != VERSION || marks.len() > STANDING_BYTES_MAX {
            return Err(NotAStanding);
        }
        let (mut runs, mut word, mut shift, mut span) = (Vec::new(), 0u64, 0u32, 0u64);
        for byte in rest {
            word |= u64::from(byte & 0x7f).checked_shl(shift).ok_or(NotAStanding)?;
            if byte & 0x80 != 0 {
                shift += 7;
                if shift > 35 {
                    return Err(NotAStanding);
                }
                continue;
            }
            let (mark, count) = (Mark::from_bits(word & 3).ok_or(NotAStanding)?, word >> 2);
            span = span.saturating_add(count);
            if count == 0 || span > STANDING_SPAN_MAX {
                return Err(NotAStanding);
            }
            runs.push((mark, count));
            (word, shift) = (0, 0);
        }
        if shift == 0 { Ok(Standing { next, runs }) } else { Err(NotAStanding) }
    }
}

impl Mark {
    fn bits(self) -> u64 {
        match self {
            Mark::Open => 0,
            Mark::Begun => 1,
            Mark::Done => 2,
        }
    }

    fn from_bits(bits: u64) -> Option<Mark> {
        match bits {
            0 => Some(Mark::Open),
            1 => Some(Mark::Begun),
            2 => Some(Mark::Done),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        for runs in [
            vec![],
            vec![(Mark::Begun, 1)],
            vec![(Mark::Begun, 1), (Mark::Done, 900_000), (Mark::Open, 31), (Mark::Begun, 32)],
            vec![(Mark::Done, STANDING_SPAN_MAX)],
            (0..1400).map(|at| (if at % 2 == 0 { Mark::Begun } else { Mark::Done }, 33)).collect(),
        ] {
            let standing = Standing { next: 41, runs };
            assert_eq!(Standing::read(41, &standing.marks().unwrap()), Ok(standing));
        }
    }

    #[test]
    fn every_offset_has_the_mark_of_its_run() {
        let standing = Standing { next: 10, runs: vec![(Mark::Begun, 1), (Mark::Done, 2), (Mark::Open, 1), (Mark::Done, 1)] };
        let marks: Vec<Mark> = (8..16).map(|offset| standing.mark(offset)).collect();
        use Mark::{Begun, Done, Open};
        assert_eq!(marks, [Done, Done, Begun, Done, Done, Open, Done, Open]);
    }

    #[test]
    fn too_many_runs_are_not_written() {
        let runs = (0..1500).map(|at| (if at % 2 == 0 { Mark::Begun } else { Mark::Done }, 33)).collect();
        assert_eq!(Standing { next: 0, runs }.marks(), None);
    }

    #[test]
    fn foreign_bytes_are_told_from_a_standing() {
        for bytes in
            [&b"metadata of another client"[..], &[2, 5], &[1, 0x80], &[1, 3 | 4], &[1, 1], &[1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f]]
        {
            assert_eq!(Standing::read(0, bytes), Err(NotAStanding), "{bytes:?}");
        }
    }
}
