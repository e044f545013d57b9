//! What happens to a message, as numbers on the wire and words for people.

use crate::clock::now_us;
use crate::envelope::Hop;

macro_rules! hops {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $word:literal;)*) => {
        /// What has happened.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum HopKind { $($(#[$doc])* $name = $number,)* }

        impl HopKind {
            /// All of them.
            pub const ALL: &[HopKind] = &[$(HopKind::$name),*];

            /// The word.
            pub fn word(self) -> &'static str {
                match self { $(HopKind::$name => $word,)* }
            }

            /// Of a number; `None`: of a later version.
            pub fn of(number: u8) -> Option<HopKind> {
                match number { $($number => Some(HopKind::$name),)* _ => None }
            }
        }
    };
}

hops! {
    /// The near side has taken it.
    Accepted = 1, "accepted";
    /// The bus keeps it.
    Sent = 2, "sent";
    /// The far side has it.
    Taken = 3, "taken";
    /// A service was asked.
    Called = 4, "called";
    /// Its answer is on its way home.
    Replied = 5, "replied";
    /// The caller has it, or it is kept for it.
    Delivered = 6, "delivered";
    /// Nobody wants it any more.
    Expired = 7, "expired";
    /// It is put aside.
    Parked = 8, "parked";
    /// A rule has dropped it.
    Dropped = 9, "dropped";
    /// It was done before, and got the answer of then.
    Duplicate = 10, "duplicate";
    /// It is tried again later.
    Retried = 11, "retried";
    /// An operator has sent it again.
    Replayed = 12, "replayed";
    /// Its answer came when nobody waited any more, and is kept.
    Late = 13, "late";
    /// Whether it was done is not known.
    Unknown = 14, "unknown";
    /// The bus has not kept it.
    Failed = 15, "failed";
}

impl Hop {
    /// It happens now.
    pub fn now(kind: HopKind, node: &str) -> Hop {
        Hop::at(kind, node, now_us())
    }

    /// It happened then.
    pub fn at(kind: HopKind, node: &str, time_us: u64) -> Hop {
        Hop { kind: kind as u8, time_us, node: node.into(), detail: "".into() }
    }

    /// With a reason.
    #[must_use]
    pub fn because(mut self, detail: impl Into<Box<str>>) -> Hop {
        self.detail = detail.into();
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hop_has_a_number_and_a_word_of_its_own() {
        for kind in HopKind::ALL {
            assert_eq!(HopKind::of(*kind as u8), Some(*kind));
        }
        let words: std::collections::HashSet<_> = HopKind::ALL.iter().map(|kind| kind.word()).collect();
        assert_eq!(words.len(), HopKind::ALL.len());
    }
}
