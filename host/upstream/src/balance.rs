//! Who is next. Pure: no endpoint, no clock, no randomness; members are numbers, loads are asked for.
//!
//! Members all take calls: weight 0 and foreign tags are sorted out before (`roster`). A policy is added here, in the
//! configuration's enum, and in the simulation below.

/// How the next endpoint is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// In turn, whatever the weights.
    RoundRobin,
    /// In turn, as often as the weights say, and spread out: weights 5, 1, 1 give `a a b a c a a`, not `a a a a a b c`.
    /// One addition for each member and call; nothing at all where the weights are equal.
    #[default]
    WeightedRoundRobin,
    /// The one with the fewest calls in flight for its weight, over all cores; in turn where several are equal.
    /// One shared load for each member and call, so for tens of endpoints rather than thousands.
    LeastRequest,
}

/// The state of one policy over one list of members, on one core.
#[derive(Debug)]
pub struct Balancer {
    policy: Policy,
    weights: Box<[u32]>,
    /// Smooth weighted round robin: how much each is owed. Empty where turns are plain.
    owed: Vec<i64>,
    /// Whose turn it is.
    turn: usize,
    /// Where the turns of skipped members go.
    detour: usize,
}

impl Balancer {
    /// A balancer over members with these weights. `start` differs between cores, so that they do not all begin with the
    /// same endpoint.
    pub fn new(policy: Policy, weights: Box<[u32]>, start: usize) -> Balancer {
        let plain = weights.windows(2).all(|two| two.first() == two.last());
        let owed = if policy == Policy::WeightedRoundRobin && !plain { vec![0; weights.len()] } else { Vec::new() };
        let mut balancer = Balancer { policy, turn: start.checked_rem(weights.len()).unwrap_or(0), detour: start, owed, weights };
        if !balancer.owed.is_empty() {
            for _ in 0..start % 64 {
                let _ = balancer.weighted(&|_| false);
            }
        }
        balancer
    }

    /// Takes over what `before` remembered of members that stay; `was` tells where a member was before.
    ///
    /// A member whose weight has changed starts afresh: a debt of a million at weight 1 would be a million missed turns.
    pub fn carry(&mut self, before: &Balancer, was: impl Fn(usize) -> Option<usize>) {
        self.detour = before.detour;
        self.turn = before.turn.checked_rem(self.weights.len()).unwrap_or(0);
        let total: i64 = self.weights.iter().map(|&weight| i64::from(weight)).sum();
        for (at, owed) in self.owed.iter_mut().enumerate() {
            let Some(old) = was(at) else { continue };
            if self.weights.get(at) == before.weights.get(old) {
                *owed = before.owed.get(old).map_or(0, |&debt| debt.clamp(-total, total));
            }
        }
    }

    /// The next member that is not skipped. `in_flight` is only asked by policies that need it.
    pub fn pick(&mut self, skip: impl Fn(usize) -> bool, in_flight: impl Fn(usize) -> u32) -> Option<usize> {
        match self.policy {
            Policy::LeastRequest => self.least(&skip, &in_flight),
            Policy::WeightedRoundRobin if !self.owed.is_empty() => self.weighted(&skip),
            Policy::WeightedRoundRobin | Policy::RoundRobin => self.in_turn(&skip),
        }
    }

    fn in_turn(&mut self, skip: &impl Fn(usize) -> bool) -> Option<usize> {
        let members = self.weights.len();
        if members == 0 {
            return None;
        }
        let at = self.turn;
        self.turn = if at + 1 >= members { 0 } else { at + 1 };
        if !skip(at) {
            return Some(at);
        }
        // The turn of a skipped member goes to each of the others in turn. Giving it to the next one would double the
        // load of that one.
        let left = (0..members).filter(|&at| !skip(at)).count();
        self.detour = self.detour.wrapping_add(1);
        (0..members).filter(|&at| !skip(at)).nth(self.detour.checked_rem(left)?)
    }

    fn weighted(&mut self, skip: &impl Fn(usize) -> bool) -> Option<usize> {
        let (mut total, mut best, mut most) = (0, None, i64::MIN);
        for (at, (&weight, owed)) in self.weights.iter().zip(&mut self.owed).enumerate() {
            if skip(at) {
                continue;
            }
            *owed += i64::from(weight);
            total += i64::from(weight);
            if *owed > most {
                (best, most) = (Some(at), *owed);
            }
        }
        if let Some(owed) = self.owed.get_mut(best?) {
            *owed -= total;
        }
        best
    }

    fn least(&mut self, skip: &impl Fn(usize) -> bool, in_flight: &impl Fn(usize) -> u32) -> Option<usize> {
        let members = self.weights.len();
        let mut best: Option<(usize, u64, u64)> = None;
        let at = self.turn;
        for at in (at..members).chain(0..at) {
            let Some(&weight) = self.weights.get(at) else { continue };
            if skip(at) {
                continue;
            }
            // What it would carry with this call: (a + 1) / weight, compared without dividing.
            let (calls, weight) = (u64::from(in_flight(at)) + 1, u64::from(weight));
            if best.is_none_or(|(_, best_calls, best_weight)| calls * best_weight < best_calls * weight) {
                best = Some((at, calls, weight));
            }
        }
        self.turn = if at + 1 >= members { 0 } else { at + 1 };
        best.map(|(at, ..)| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::Dice;

    fn picks(balancer: &mut Balancer, times: usize) -> Vec<usize> {
        (0..times).map(|_| balancer.pick(|_| false, |_| 0).unwrap()).collect()
    }

    #[test]
    fn smooth_weights_are_spread_out() {
        let mut balancer = Balancer::new(Policy::WeightedRoundRobin, [5, 1, 1].into(), 0);
        assert_eq!(picks(&mut balancer, 7), [0, 0, 1, 0, 2, 0, 0]);
        let mut equal = Balancer::new(Policy::WeightedRoundRobin, [7, 7, 7].into(), 1);
        assert_eq!(picks(&mut equal, 4), [1, 2, 0, 1]);
    }

    #[test]
    fn shares_follow_the_weights_within_one_call_each() {
        for seed in 0..300 {
            let mut dice = Dice(seed);
            let members = 1 + dice.below(12) as usize;
            let weights: Vec<u32> = (0..members).map(|_| 1 + dice.below(50) as u32).collect();
            let total: u32 = weights.iter().sum();
            let mut balancer = Balancer::new(Policy::WeightedRoundRobin, weights.clone().into(), dice.below(100) as usize);
            let mut counts = vec![0i64; members];
            for n in 1..=3 * i64::from(total) {
                counts[balancer.pick(|_| false, |_| 0).unwrap()] += 1;
                for (count, weight) in counts.iter().zip(&weights) {
                    let due = n as f64 * f64::from(*weight) / f64::from(total);
                    // The published bound of the algorithm grows with the members; a start in the middle may double it.
                    let bound = 2.0 * members as f64;
                    assert!((*count as f64 - due).abs() <= bound, "seed {seed}: {counts:?} for {weights:?} after {n}");
                }
            }
            for (count, weight) in counts.iter().zip(&weights) {
                assert!((count - 3 * i64::from(*weight)).abs() <= 2, "seed {seed}: {counts:?} for 3 x {weights:?}");
            }
        }
    }

    #[test]
    fn turns_of_skipped_members_are_shared_by_all_others() {
        for policy in [Policy::RoundRobin, Policy::WeightedRoundRobin, Policy::LeastRequest] {
            let mut balancer = Balancer::new(policy, [1, 1, 1, 1].into(), 0);
            let mut counts = [0; 4];
            for _ in 0..1200 {
                counts[balancer.pick(|at| at == 1, |_| 0).unwrap()] += 1;
            }
            assert_eq!(counts[1], 0);
            let within = if policy == Policy::LeastRequest { 200..=700 } else { 390..=410 };
            assert!([0, 2, 3].iter().all(|&at| within.contains(&counts[at])), "{policy:?} {counts:?}");
            assert_eq!(balancer.pick(|_| true, |_| 0), None);
        }
        assert_eq!(Balancer::new(Policy::RoundRobin, [].into(), 3).pick(|_| false, |_| 0), None);
    }

    /// Calls arrive and end at random, with one endpoint ten times slower: it must not pile up.
    #[test]
    fn least_request_levels_what_is_in_flight() {
        for seed in 0..100 {
            let mut dice = Dice(seed);
            let members = 2 + dice.below(8) as usize;
            let weights: Vec<u32> = (0..members).map(|_| 1 + dice.below(3) as u32).collect();
            let mut balancer = Balancer::new(Policy::LeastRequest, weights.clone().into(), 0);
            let mut open: Vec<usize> = Vec::new();
            let mut in_flight = vec![0u32; members];
            for _ in 0..5_000 {
                if open.len() < 200 && dice.below(10) < 6 {
                    let at = balancer.pick(|_| false, |at| in_flight[at]).unwrap();
                    let mine = f64::from(in_flight[at] + 1) / f64::from(weights[at]);
                    for (other, &weight) in weights.iter().enumerate() {
                        assert!(mine <= f64::from(in_flight[other] + 1) / f64::from(weight) + 1e-9, "seed {seed}");
                    }
                    in_flight[at] += 1;
                    open.push(at);
                } else if !open.is_empty() {
                    let which = dice.below(open.len() as u64) as usize;
                    if open[which] != 0 || dice.below(10) == 0 {
                        in_flight[open.swap_remove(which)] -= 1;
                    }
                }
            }
        }
    }

    #[test]
    fn a_list_that_changes_neither_starves_nor_floods_anybody() {
        for seed in 0..100 {
            let mut dice = Dice(seed);
            let mut weights: Vec<u32> = vec![1_000_000, 1, 1];
            let mut balancer = Balancer::new(Policy::WeightedRoundRobin, weights.clone().into(), 0);
            for _ in 0..20 {
                picks(&mut balancer, dice.below(50) as usize);
                weights = (0..1 + dice.below(6)).map(|_| [1, 2, 1_000_000][dice.below(3) as usize]).collect();
                let mut next = Balancer::new(Policy::WeightedRoundRobin, weights.clone().into(), 0);
                let shift = dice.below(3) as usize;
                next.carry(&balancer, |at| at.checked_sub(shift));
                balancer = next;
            }
            let last: Vec<u32> = (0..4).map(|n| 1 + n % 2).collect();
            let mut next = Balancer::new(Policy::WeightedRoundRobin, last.into(), 0);
            next.carry(&balancer, Some);
            let mut counts = [0; 4];
            for at in picks(&mut next, 600) {
                counts[at] += 1;
            }
            assert!(
                counts.iter().zip([100, 200, 100, 200]).all(|(count, due): (&i32, _)| (count - due).abs() <= 14),
                "seed {seed}: {counts:?}"
            );
        }
    }
}
