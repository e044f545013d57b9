//! The same key, the same endpoint: a ring and a Maglev table, and what they hash with. Pure; made anew with each change of
//! the members, by whoever publishes them and never by a call.
//!
//! Both move few keys when a member comes or goes. The ring moves only those of that member; its shares are uneven by some
//! ten percent. Maglev's shares are even to about one percent, and a change moves a few keys of others, too; a look costs one
//! index in place of a search.

use std::sync::Arc;

/// Points that a member of average weight has on the ring.
const RING_POINTS: usize = 160;
/// Points of a whole ring: 10 bytes each, 640 KiB.
pub const RING_POINTS_MAX: usize = 65_536;
/// Slots of a Maglev table where nothing else is said; a prime. 2 bytes each: 128 KiB for a service, shared by all cores.
pub const MAGLEV_SLOTS: u32 = 65_537;
/// Members of one table; more are left out of it.
pub const MEMBERS_MAX: usize = 65_535;

/// A 64-bit hash of bytes, the same in every version and on every machine: several gateways send one key to one endpoint.
/// Not keyed: whoever chooses keys can choose an endpoint, as they could by sending the same key again.
pub fn hash(bytes: &[u8], seed: u64) -> u64 {
    let mut state = mixed(seed ^ 0x51_7c_c1_b7_27_22_0a_95);
    let mut pieces = bytes.chunks_exact(8);
    for piece in &mut pieces {
        let word = piece.try_into().map_or(0, u64::from_le_bytes);
        state = mixed(state ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
    }
    let mut rest = [0; 8];
    for (to, from) in rest.iter_mut().zip(pieces.remainder()) {
        *to = *from;
    }
    mixed(state ^ u64::from_le_bytes(rest) ^ mixed(bytes.len() as u64))
}

/// Spreads 64 bits: every bit of the input changes half of the output.
pub fn mixed(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A member: who it is, for ever, and its weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Told apart by this alone: the address.
    pub name: Arc<str>,
    /// 1 and up.
    pub weight: u32,
}

/// Which table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Points on a ring.
    Ring,
    /// A table with so many slots; a prime.
    Maglev(u32),
}

/// From hashes to members.
#[derive(Debug)]
pub struct Table {
    kind: Kind,
    members: Vec<Member>,
    /// Of a ring: where its points lie, in order. Empty for Maglev.
    points: Box<[u64]>,
    /// Whose each point, or slot, is.
    owners: Box<[u16]>,
}

impl Table {
    /// The table of these members. Maglev takes some ten steps a slot: a few milliseconds for [`MAGLEV_SLOTS`].
    pub fn new(kind: Kind, mut members: Vec<Member>) -> Table {
        members.truncate(MEMBERS_MAX);
        // By name, so that several gateways, to whom they are listed in another order, make the same table.
        let mut sorted: Vec<(u16, &Member)> = members.iter().enumerate().map(|(at, member)| (at as u16, member)).collect();
        sorted.sort_unstable_by(|(_, one), (_, other)| one.name.cmp(&other.name));
        let (points, owners) = match kind {
            Kind::Ring => ring(&sorted),
            Kind::Maglev(slots) => (Box::default(), maglev(&sorted, slots)),
        };
        Table { kind, members, points, owners }
    }

    /// Is this the table that these would make?
    pub fn is_of(&self, kind: Kind, members: &[Member]) -> bool {
        self.kind == kind && self.members == members.get(..MEMBERS_MAX).unwrap_or(members)
    }

    /// The member for a hash: its place in the list that the table was made from. The first that is not skipped, in an order
    /// that is the same each time; `None` if all are skipped, or a long walk found none.
    pub fn pick(&self, hash: u64, skip: impl Fn(usize) -> bool) -> Option<usize> {
        let all = self.owners.len();
        let start = match self.kind {
            Kind::Ring => self.points.partition_point(|&point| point < hash),
            Kind::Maglev(_) => usize::try_from(hash.checked_rem(all as u64)?).ok()?,
        };
        // Who is skipped is rare, and found often on the way: a walk of that length has met nearly everybody.
        let walk = all.min(16 * self.members.len() + 64);
        (0..walk)
            .filter_map(|step| self.owners.get((start + step).checked_rem(all)?))
            .map(|&owner| usize::from(owner))
            .find(|&at| !skip(at))
    }

    /// Bytes it takes.
    pub fn bytes(&self) -> usize {
        size_of_val(&*self.points) + size_of_val(&*self.owners)
    }
}

fn ring(members: &[(u16, &Member)]) -> (Box<[u64]>, Box<[u16]>) {
    let total: u64 = members.iter().map(|(_, member)| u64::from(member.weight)).sum();
    let all = (RING_POINTS * members.len()).min(RING_POINTS_MAX) as u64;
    let mut points: Vec<(u64, u16)> = Vec::with_capacity(all as usize + members.len());
    for (at, member) in members {
        let own = (all * u64::from(member.weight)).checked_div(total).unwrap_or(0).max(1);
        points.extend((0..own).map(|point| (hash(member.name.as_bytes(), point), *at)));
    }
    points.sort_unstable();
    (points.iter().map(|point| point.0).collect(), points.iter().map(|point| point.1).collect())
}

/// Each member in turn takes the next slot of its own order of all slots that is still free; who has less weight skips turns.
fn maglev(members: &[(u16, &Member)], slots: u32) -> Box<[u16]> {
    let slots_len = u64::from(slots.max(1));
    let most = members.iter().map(|(_, member)| member.weight).max().unwrap_or(0);
    if most == 0 {
        return Box::default();
    }
    // Where each is in its order, how far its next slot is from the last, and how much of a turn it has saved.
    let mut orders: Vec<(u64, u64, u64)> = members
        .iter()
        .map(|(_, member)| {
            let name = member.name.as_bytes();
            (hash(name, 1) % slots_len, hash(name, 2) % (slots_len - 1).max(1) + 1, 0)
        })
        .collect();
    let mut owners: Vec<Option<u16>> = vec![None; slots_len as usize];
    let mut left = owners.len();
    'all: loop {
        for ((place, stride, saved), (at, member)) in orders.iter_mut().zip(members) {
            *saved += u64::from(member.weight);
            if *saved < u64::from(most) {
                continue;
            }
            *saved -= u64::from(most);
            // Slots are a prime, so the order has every slot in it: a free one is found.
            loop {
                let slot = owners.get_mut(*place as usize);
                *place = (*place + *stride) % slots_len;
                if let Some(free @ None) = slot {
                    *free = Some(*at);
                    break;
                }
            }
            left -= 1;
            if left == 0 {
                break 'all;
            }
        }
    }
    owners.into_iter().map(Option::unwrap_or_default).collect()
}

/// Is it a prime? For the number of slots.
pub fn is_prime(number: u32) -> bool {
    number >= 2 && (2..).take_while(|by| by * by <= u64::from(number)).all(|by| u64::from(number) % by != 0)
}

/// The member for a hash without a table: the one whose own hash with it is highest, by weight. One hash for each member,
/// so for the few members of a subset.
pub fn rendezvous<'m>(hash_of_key: u64, members: impl Iterator<Item = (usize, &'m str, u32)>) -> Option<usize> {
    let score = |name: &str, weight: u32| {
        let unit = ((hash(name.as_bytes(), hash_of_key) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        f64::from(weight) / -unit.ln()
    };
    members.map(|(at, name, weight)| (at, score(name, weight))).max_by(|a, b| a.1.total_cmp(&b.1)).map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: u64 = 20_000;

    fn member(n: usize, weight: u32) -> Member {
        Member { name: format!("10.0.{}.{}:8080", n / 250, n % 250).into(), weight }
    }

    fn owners(table: &Table, members: &[Member]) -> Vec<Arc<str>> {
        (0..KEYS).map(|key| members[table.pick(hash(&key.to_le_bytes(), 0), |_| false).unwrap()].name.clone()).collect()
    }

    fn shares(owners: &[Arc<str>], members: &[Member]) -> Vec<f64> {
        members.iter().map(|member| owners.iter().filter(|owner| **owner == member.name).count() as f64 / KEYS as f64).collect()
    }

    #[test]
    fn shares_of_keys_follow_the_weights() {
        for (kind, within) in [(Kind::Ring, 0.35), (Kind::Maglev(MAGLEV_SLOTS), 0.12)] {
            for weights in [vec![1; 10], vec![1, 2, 3, 4], vec![1_000_000, 500_000], vec![3]] {
                let members: Vec<Member> = weights.iter().enumerate().map(|(n, &weight)| member(n, weight)).collect();
                let total: u32 = weights.iter().sum();
                let table = Table::new(kind, members.clone());
                for (share, weight) in shares(&owners(&table, &members), &members).iter().zip(&weights) {
                    let due = f64::from(*weight) / f64::from(total);
                    assert!((share / due - 1.0).abs() < within, "{kind:?} {weights:?}: {share} where {due} is due");
                }
            }
        }
    }

    #[test]
    fn few_keys_move_when_a_member_comes_or_goes() {
        for (kind, strays_max) in [(Kind::Ring, 0.0), (Kind::Maglev(MAGLEV_SLOTS), 0.05)] {
            for seed in 0..5 {
                let all: Vec<Member> = (0..20).map(|n| member(n + 20 * seed, 1)).collect();
                let fewer: Vec<Member> = all.iter().enumerate().filter(|(n, _)| *n != 7).map(|(_, member)| member.clone()).collect();
                let (before, after) = (owners(&Table::new(kind, all.clone()), &all), owners(&Table::new(kind, fewer.clone()), &fewer));
                let gone = &all[7].name;
                let moved = before.iter().zip(&after).filter(|(a, b)| a != b).count() as f64 / KEYS as f64;
                let strays = before.iter().zip(&after).filter(|(a, b)| a != b && *a != gone).count() as f64 / KEYS as f64;
                assert!(moved < 0.11, "{kind:?}: {moved} moved where one of twenty went");
                assert!(strays <= strays_max, "{kind:?}: {strays} moved that were not of the one that went");
                // Listed in another order they are the same members.
                let mut turned = all.clone();
                turned.reverse();
                assert_eq!(owners(&Table::new(kind, turned.clone()), &turned), before);
            }
        }
    }

    #[test]
    fn a_member_that_is_skipped_gives_its_keys_to_all_others() {
        for kind in [Kind::Ring, Kind::Maglev(MAGLEV_SLOTS)] {
            let members: Vec<Member> = (0..10).map(|n| member(n, 1)).collect();
            let table = Table::new(kind, members.clone());
            let mut heirs = [0; 10];
            for key in 0..KEYS {
                let hash = hash(&key.to_le_bytes(), 0);
                let usual = table.pick(hash, |_| false).unwrap();
                let instead = table.pick(hash, |at| at == 3).unwrap();
                if usual == 3 {
                    heirs[instead] += 1;
                } else {
                    assert_eq!(usual, instead, "who is not skipped keeps its keys");
                }
            }
            assert!(heirs.iter().enumerate().all(|(at, &keys)| (at == 3) == (keys == 0)), "{kind:?}: {heirs:?}");
            assert_eq!(table.pick(5, |_| true), None);
        }
    }

    #[test]
    fn a_table_is_no_larger_than_it_says() {
        let many: Vec<Member> = (0..2_000).map(|n| member(n, 1 + n as u32 % 7)).collect();
        assert!(Table::new(Kind::Ring, many.clone()).bytes() <= 10 * (RING_POINTS_MAX + many.len()));
        assert_eq!(Table::new(Kind::Maglev(MAGLEV_SLOTS), many).bytes(), 2 * MAGLEV_SLOTS as usize);
        for kind in [Kind::Ring, Kind::Maglev(MAGLEV_SLOTS), Kind::Maglev(2), Kind::Maglev(0)] {
            assert_eq!(Table::new(kind, Vec::new()).pick(1, |_| false), None);
            assert_eq!(Table::new(kind, vec![member(1, 5)]).pick(1, |_| false), Some(0));
        }
    }

    #[test]
    fn without_a_table_shares_follow_the_weights_and_only_its_keys_move() {
        let members: Vec<Member> = [1, 2, 3].iter().enumerate().map(|(n, &weight)| member(n, weight)).collect();
        let pick = |key: u64, but: Option<usize>| {
            let all = members.iter().enumerate().filter(|(at, _)| Some(*at) != but);
            rendezvous(hash(&key.to_le_bytes(), 0), all.map(|(at, member)| (at, &*member.name, member.weight))).unwrap()
        };
        let mut counts = [0f64; 3];
        for key in 0..KEYS {
            let usual = pick(key, None);
            counts[usual] += 1.0;
            assert!(usual == 1 || pick(key, Some(1)) == usual);
        }
        for (count, weight) in counts.iter().zip([1.0, 2.0, 3.0]) {
            assert!((count / KEYS as f64 / (weight / 6.0) - 1.0).abs() < 0.05, "{counts:?}");
        }
    }

    #[test]
    fn hashes_are_the_same_for_ever() {
        assert_eq!(
            [hash(b"", 0), hash(b"a", 0), hash(b"10.0.0.7:8080", 3)],
            [7_022_605_541_712_141_888, 8_716_640_839_128_233_063, 467_470_087_478_442_445]
        );
        assert_eq!([2, 3, 4, 65_537, 65_539, 65_541].map(is_prime), [true, true, false, true, true, false]);
    }
}
