//! What was found out lately, by the exact text it was found out about. Bounded; the least recently used goes first.
//!
//! Sets of eight: a text belongs to one set, and in it eight entries are compared. No list to keep in order, no growth,
//! and the work for one look is bounded whatever the texts are.

use wharf_plugin::rules::hash;

const WAYS: usize = 8;
/// Longer texts are not worth their place: 1,024 entries stay below a few MiB.
const TEXT_BYTES_MAX: usize = 2048;

#[derive(Debug)]
pub(crate) struct Memory<V> {
    sets: Vec<Vec<Entry<V>>>,
    ttl_ms: u64,
    /// Counts looks; an entry keeps the count of its last use.
    clock: u64,
}

#[derive(Debug)]
struct Entry<V> {
    tag: u64,
    text: Box<str>,
    value: V,
    until_ms: u64,
    used: u64,
}

impl<V> Memory<V> {
    /// Room for about `entries` (rounded up to full sets), each for `ttl_ms`. 0 of either: nothing is kept.
    pub(crate) fn new(entries: u32, ttl_ms: u64) -> Memory<V> {
        let sets = match (entries as usize).div_ceil(WAYS) {
            0 => 0,
            _ if ttl_ms == 0 => 0,
            sets => sets.next_power_of_two(),
        };
        Memory { sets: (0..sets).map(|_| Vec::new()).collect(), ttl_ms, clock: 0 }
    }

    /// What is known of this very text.
    pub(crate) fn get(&mut self, text: &str, now_ms: u64) -> Option<&V> {
        if self.sets.is_empty() {
            return None;
        }
        self.clock += 1;
        let (clock, ttl_ms, tag) = (self.clock, self.ttl_ms, tag(text));
        // A clock that was set back must not make an entry live longer than its time: then it is not yet kept.
        let entry = self
            .set(tag)?
            .iter_mut()
            .find(|entry| entry.tag == tag && same(&entry.text, text) && now_ms < entry.until_ms && entry.until_ms - now_ms <= ttl_ms)?;
        entry.used = clock;
        Some(&entry.value)
    }

    /// Keeps this.
    pub(crate) fn put(&mut self, text: &str, value: V, now_ms: u64) {
        if self.sets.is_empty() || text.len() > TEXT_BYTES_MAX {
            return;
        }
        let (clock, until_ms, tag) = (self.clock, now_ms.saturating_add(self.ttl_ms), tag(text));
        let Some(set) = self.set(tag) else { return };
        let new = Entry { tag, text: text.into(), value, until_ms, used: clock };
        let old = match set.iter().position(|entry| entry.tag == tag && same(&entry.text, text)) {
            Some(same) => Some(same),
            None if set.len() < WAYS => None,
            None => set.iter().enumerate().min_by_key(|(_, entry)| entry.used).map(|(place, _)| place),
        };
        match old.and_then(|place| set.get_mut(place)) {
            Some(entry) => *entry = new,
            None => set.push(new),
        }
    }

    fn set(&mut self, tag: u64) -> Option<&mut Vec<Entry<V>>> {
        let mask = self.sets.len().checked_sub(1)?;
        self.sets.get_mut(tag as usize & mask)
    }
}

/// A token's last 16 characters are the end of its signature, as good as random, and enough to tell tokens apart.
///
/// Only who knows them reaches the comparison of the whole text, so its time tells nobody a token they do not have;
/// and only verified tokens are kept, so nobody can crowd a set with made-up ones.
fn tag(text: &str) -> u64 {
    let Some(end) = text.as_bytes().last_chunk::<16>() else { return hash(text.as_bytes()) };
    // One multiplication for eight characters. The upper half goes to the lower bits, which choose the set.
    let mixed = end.as_chunks::<8>().0.iter().fold(0u64, |mixed, eight| {
        let mixed = (mixed ^ u64::from_le_bytes(*eight)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ (mixed >> 32)
    });
    mixed ^ (mixed >> 17)
}

/// Thirty-two bytes at a time: the library that components are linked with compares single bytes.
pub(crate) fn same(one: &str, other: &str) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let differ = |a: &[u8], b: &[u8]| {
        let (a, b) = (a.as_chunks::<8>().0, b.as_chunks::<8>().0);
        a.iter().zip(b).fold(0, |differ, (a, b)| differ | (u64::from_ne_bytes(*a) ^ u64::from_ne_bytes(*b))) != 0
    };
    let ((blocks, rest), (other_blocks, other_rest)) = (one.as_bytes().as_chunks::<32>(), other.as_bytes().as_chunks::<32>());
    !blocks.iter().zip(other_blocks).any(|(a, b)| differ(a, b))
        && !differ(rest, other_rest)
        && rest.as_chunks::<8>().1.iter().eq(other_rest.as_chunks::<8>().1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_is_found_until_its_time_is_over() {
        let mut memory = Memory::new(16, 1000);
        memory.put("a", 1, 10_000);
        assert_eq!(memory.get("a", 10_000), Some(&1));
        assert_eq!(memory.get("a", 10_999), Some(&1));
        assert_eq!(memory.get("a", 11_000), None, "its time is over");
        assert_eq!(memory.get("a", 9_000), None, "the clock was set back");
        assert_eq!(memory.get("b", 10_000), None);
    }

    #[test]
    fn texts_with_the_same_end_are_told_apart() {
        let mut memory = Memory::new(16, 1000);
        let end = "e".repeat(30);
        memory.put(&format!("a{end}"), 1, 0);
        assert_eq!(memory.get(&format!("b{end}"), 0), None);
        memory.put(&format!("b{end}"), 2, 0);
        assert_eq!((memory.get(&format!("a{end}"), 0).copied(), memory.get(&format!("b{end}"), 0).copied()), (Some(1), Some(2)));
    }

    #[test]
    fn texts_are_the_same_only_if_every_byte_is() {
        for len in 0..100 {
            let text = "a".repeat(len);
            assert!(same(&text, &text.clone()), "{len}");
            assert!(!same(&text, &format!("{text}a")));
            for at in 0..len {
                let mut other = text.clone();
                other.replace_range(at..=at, "b");
                assert!(!same(&text, &other), "{at} of {len}");
            }
        }
    }

    #[test]
    fn it_never_holds_more_than_its_room_and_drops_what_was_used_longest_ago() {
        let mut memory = Memory::new(8, 1000);
        for n in 0..8 {
            memory.put(&n.to_string(), n, 0);
        }
        for n in (0..8).filter(|n| *n != 3) {
            assert_eq!(memory.get(&n.to_string(), 0), Some(&n));
        }
        memory.put("new", 8, 0);
        assert_eq!(memory.get("3", 0), None);
        assert_eq!(memory.sets.iter().map(Vec::len).sum::<usize>(), 8);
        for n in 100..10_000 {
            memory.put(&n.to_string(), n, 0);
        }
        assert_eq!(memory.sets.iter().map(Vec::len).sum::<usize>(), 8);
    }

    #[test]
    fn without_room_or_time_nothing_is_kept() {
        for mut memory in [Memory::new(0, 1000), Memory::new(8, 0)] {
            memory.put("a", 1, 0);
            assert_eq!(memory.get("a", 0), None);
        }
    }
}
