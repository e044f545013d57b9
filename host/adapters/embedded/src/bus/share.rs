//! Who of a group is to have which partition: even to within one, and what need not move stays. Pure.

/// One partition as it is held at present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    /// By which member, counted in the order in which they joined.
    pub(super) by: Option<usize>,
    /// It has been asked to give it up.
    pub(super) asked: bool,
}

/// For each partition the member that is to have it; all `None` where there are no members.
pub(super) fn share(held: &[Held], members: usize) -> Vec<Option<usize>> {
    let mut to: Vec<Option<usize>> = vec![None; held.len()];
    if members == 0 {
        return to;
    }
    let mut counts = vec![0usize; members];
    for by in held.iter().filter_map(|held| held.by) {
        if let Some(count) = counts.get_mut(by) {
            *count += 1;
        }
    }
    // Those who have most keep one more where it does not come out even; among equals the one that came first.
    let mut order: Vec<usize> = (0..members).collect();
    order.sort_by_key(|member| std::cmp::Reverse(counts.get(*member).copied().unwrap_or_default()));
    let (each, more) = (held.len() / members, held.len() % members);
    let mut room = vec![each; members];
    for member in order.iter().take(more) {
        if let Some(room) = room.get_mut(*member) {
            *room += 1;
        }
    }
    // What was asked back is on its way already, so the others are kept first.
    for asked in [false, true] {
        for (held, to) in held.iter().zip(&mut to) {
            let Some(by) = held.by.filter(|_| held.asked == asked) else { continue };
            if let Some(room) = room.get_mut(by).filter(|room| **room > 0) {
                *room -= 1;
                *to = Some(by);
            }
        }
    }
    let mut waiting = order.into_iter().flat_map(|member| std::iter::repeat_n(member, room.get(member).copied().unwrap_or_default()));
    for to in to.iter_mut().filter(|to| to.is_none()) {
        *to = waiting.next();
    }
    to
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(by: &[Option<usize>]) -> Vec<Held> {
        by.iter().map(|by| Held { by: *by, asked: false }).collect()
    }

    #[test]
    fn partitions_are_shared_evenly_and_only_what_must_move_moves() {
        // A seeded walk of joins and leaves; after each step all is given as the share says.
        let mut seed = 42u64;
        let mut next = move || {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) as usize
        };
        for partitions in [1usize, 5, 6, 16] {
            let (mut by, mut members) = (vec![None; partitions], 0usize);
            for step in 0..200 {
                if members == 0 || (members < 9 && next() % 2 == 0) {
                    members += 1;
                } else {
                    let gone = next() % members;
                    members -= 1;
                    for by in &mut by {
                        *by = match *by {
                            Some(at) if at == gone => None,
                            Some(at) if at > gone => Some(at - 1),
                            other => other,
                        };
                    }
                }
                let to = share(&held(&by), members);
                if members == 0 {
                    assert!(to.iter().all(Option::is_none));
                    continue;
                }
                let counts: Vec<usize> = (0..members).map(|member| to.iter().filter(|to| **to == Some(member)).count()).collect();
                let (low, high) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
                assert!(high - low <= 1 && counts.iter().sum::<usize>() == partitions, "step {step}: {counts:?}");
                let moved = by.iter().zip(&to).filter(|(by, to)| by.is_some() && by != to).count();
                let had = |member: usize| by.iter().filter(|by| **by == Some(member)).count();
                let over: usize = (0..members).map(|member| had(member).saturating_sub(counts[member])).sum();
                assert_eq!(moved, over, "step {step}: a member below its share gives nothing up");
                by = to;
            }
        }
    }

    #[test]
    fn what_was_asked_back_moves_rather_than_what_was_not() {
        let mut before = held(&[Some(0), Some(0), Some(0), Some(0)]);
        before[0].asked = true;
        before[1].asked = true;
        assert_eq!(share(&before, 2), [Some(1), Some(1), Some(0), Some(0)]);
    }
}
