//! How the proxy spreads message groups over queues, computed here to find a group that leads to a given queue. Pure.
//!
//! In 5.3.3 `SendMessageActivity` of the proxy takes the bucket `consistentHash(group.hashCode(), queues)` of a topic's writable
//! queues, in the order of broker names and queue numbers; the queue number in a message is not looked at, and a request with more
//! than one message goes anywhere.

/// Names of groups, by queue: each is taken to its queue by a proxy that sees so many queues. They are the same at every call.
pub(crate) fn groups(queues: u32) -> Vec<Box<str>> {
    let mut found: Vec<Option<Box<str>>> = vec![None; queues as usize];
    let mut missing = queues;
    for number in 0u64.. {
        if missing == 0 {
            break;
        }
        let group = format!("g{number}");
        let bucket = bucket(i64::from(java_hash(&group)), queues);
        if let Some(place @ None) = found.get_mut(bucket as usize) {
            *place = Some(group.into());
            missing -= 1;
        }
    }
    found.into_iter().flatten().collect()
}

/// Java's `String.hashCode`, for ASCII.
fn java_hash(text: &str) -> i32 {
    text.bytes().fold(0i32, |hash, byte| hash.wrapping_mul(31).wrapping_add(i32::from(byte)))
}

/// Guava's `Hashing.consistentHash`: jumps along the draws of a linear congruential generator until one leads out.
fn bucket(seed: i64, buckets: u32) -> u32 {
    let (mut state, mut candidate) = (seed as u64, 0u32);
    loop {
        state = state.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        let draw = f64::from((state >> 33) as u32 + 1) / 2_147_483_648.0;
        let next = (f64::from(candidate) + 1.0) / draw;
        // As Java, which truncates; what is too large for an int is too large for a bucket.
        if next >= f64::from(buckets) {
            return candidate;
        }
        candidate = next as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_queue_has_a_group_that_leads_to_it() {
        for queues in [1, 2, 3, 8, 64, 100] {
            let groups = groups(queues);
            let buckets: Vec<u32> = groups.iter().map(|group| bucket(i64::from(java_hash(group)), queues)).collect();
            assert_eq!(buckets, (0..queues).collect::<Vec<u32>>());
        }
    }

    #[test]
    fn hashes_are_those_of_the_originals() {
        // Of String.hashCode, and of guava 32.0.1.
        assert_eq!((java_hash(""), java_hash("g0"), java_hash("wharf-orders-0001")), (0, 3241, -1_185_784_960));
        let seeds = [0i64, 1, -1, 3_243, -1_926_834_729, 2_147_483_647, -2_147_483_648];
        assert_eq!(seeds.map(|seed| bucket(seed, 8)), [0, 6, 7, 4, 1, 0, 2]);
        assert_eq!(seeds.map(|seed| bucket(seed, 1000)), [0, 549, 313, 325, 754, 231, 185]);
    }
}
