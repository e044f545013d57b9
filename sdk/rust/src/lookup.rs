//! A table that is built once and asked often: text to value, in constant time, without the random seed that a
//! `HashMap` fetches from the host.
//!
//! The keys come from configuration, never from clients, so nobody can make them collide on purpose; what clients choose
//! is only what is looked up, and that costs one hash and one comparison or two.

/// Text to value. Frozen after it is built.
#[derive(Clone, Debug)]
pub struct Lookup<V> {
    /// Places into `entries`, plus one; 0 is empty. A power of two, at most half full.
    slots: Box<[u32]>,
    entries: Box<[(Box<str>, V)]>,
    longest: usize,
}

impl<V> Default for Lookup<V> {
    fn default() -> Lookup<V> {
        Lookup::new([])
    }
}

impl<V> Lookup<V> {
    /// A table of these entries. Of two with the same key, the first stays.
    pub fn new(entries: impl IntoIterator<Item = (String, V)>) -> Lookup<V> {
        let entries: Box<[(Box<str>, V)]> = entries.into_iter().map(|(key, value)| (key.into_boxed_str(), value)).collect();
        let mut slots = vec![0u32; (entries.len() * 2).next_power_of_two()].into_boxed_slice();
        let mask = slots.len() - 1;
        for (place, (key, _)) in entries.iter().enumerate() {
            let mut at = hash(key.as_bytes()) as usize & mask;
            // At most half of the slots are taken: an empty one is always found.
            while let Some(slot) = slots.get_mut(at) {
                if *slot == 0 {
                    *slot = place as u32 + 1;
                    break;
                }
                at = (at + 1) & mask;
            }
        }
        let longest = entries.iter().map(|(key, _)| key.len()).max().unwrap_or_default();
        Lookup { slots, entries, longest }
    }

    /// The value under this key.
    pub fn get(&self, key: &str) -> Option<&V> {
        if key.len() > self.longest || self.entries.is_empty() {
            return None;
        }
        let mask = self.slots.len() - 1;
        let mut at = hash(key.as_bytes()) as usize & mask;
        loop {
            let place = self.slots.get(at)?.checked_sub(1)?;
            let (have, value) = self.entries.get(place as usize)?;
            if &**have == key {
                return Some(value);
            }
            at = (at + 1) & mask;
        }
    }

    /// All entries, in the order they were given.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &V)> {
        self.entries.iter().map(|(key, value)| (&**key, value))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// FNV-1a with a final mix (of MurmurHash3), so that the low and the high bits are both good. The same everywhere and
/// for ever: shares of a weighted split depend on it.
pub fn hash(bytes: &[u8]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for &byte in bytes {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_is_found_and_no_other() {
        for count in [0, 1, 2, 3, 7, 64, 1000] {
            let table = Lookup::new((0..count).map(|n| (format!("key/{n}"), n)));
            assert_eq!(table.len(), count);
            for n in 0..count {
                assert_eq!(table.get(&format!("key/{n}")), Some(&n));
            }
            for other in ["", "key", "key/", "key/x", "key/100000000"] {
                assert_eq!(table.get(other), None, "{other} among {count}");
            }
        }
    }

    #[test]
    fn of_two_equal_keys_the_first_stays() {
        let table = Lookup::new([("a".to_string(), 1), ("a".to_string(), 2)]);
        assert_eq!(table.get("a"), Some(&1));
    }

    #[test]
    fn an_empty_key_is_a_key() {
        assert_eq!(Lookup::new([(String::new(), 1)]).get(""), Some(&1));
    }
}
