//! Who is next. Pure: no endpoint, no clock; members are numbers, loads and costs are asked for, chance comes from a seed.
//!
//! Members all take calls: weight 0, foreign tags and the ill are sorted out before (`share`, `roster`). A policy is added
//! here, in the configuration's enum, and in the simulation below. [`hash`] holds the tables of the two policies that choose
//! by a key, [`latency`] what [`Policy::P2cEwma`] compares by.

pub mod hash;
pub mod latency;
pub mod random;

use random::Random;

/// How the next endpoint is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// In turn, whatever the weights: whoever makes the shares of the members leaves them out of account (`share`). What is
    /// left of differences is meant: slow starts, other zones.
    RoundRobin,
    /// In turn, as often as the weights say, and spread out: weights 5, 1, 1 give `a a b a c a a`, not `a a a a a b c`.
    /// One addition for each member and call; nothing at all where the weights are equal.
    #[default]
    WeightedRoundRobin,
    /// By chance, as often as the weights say. Gateways that do not know each other do not fall into step.
    Random,
    /// The one with the fewest calls in flight for its weight, over all cores; in turn where several are equal.
    /// One shared load for each member and call, so for tens of endpoints rather than thousands.
    LeastRequest,
    /// The cheaper of two (of a few more, if both are bad) that are drawn by weight: cost is the latency that is expected, for each call in flight; failures
    /// make dear. The same work for ten endpoints and for a thousand.
    P2cEwma,
    /// By the call's key, on a ring; without a key as [`Policy::P2cEwma`].
    RingHash,
    /// By the call's key, in a Maglev table; without a key as [`Policy::P2cEwma`].
    Maglev,
}

impl Policy {
    /// Does it choose by a key?
    pub fn is_keyed(self) -> bool {
        matches!(self, Policy::RingHash | Policy::Maglev)
    }

    /// Does it compare latencies?
    pub fn compares_latency(self) -> bool {
        self == Policy::P2cEwma || self.is_keyed()
    }
}

/// The state of one policy over one list of members, on one core.
#[derive(Debug)]
pub struct Balancer {
    policy: Policy,
    weights: Box<[u32]>,
    /// Smooth weighted round robin: how much each is owed. Empty where turns are plain.
    owed: Vec<i64>,
    /// Where chance decides and the weights differ: their sums up to each member.
    sums: Box<[u64]>,
    /// Whose turn it is.
    turn: usize,
    /// Where the turns of skipped members go.
    detour: usize,
    random: Random,
    /// What chosen members have cost of late.
    usual: f64,
}

/// Draws that may hit a skipped member before the others are counted.
const DRAWS: usize = 8;
/// Where the cheaper of two is this many times dearer than usual, both were bad ones: so many more are drawn. With one slow
/// and one failing member of ten that would be one call in 45, and the 99th percentile of all.
const DEAR: f64 = 3.0;
const MORE_DRAWS: usize = 2;
/// How far one choice moves what is usual.
const USUAL_SHARE: f64 = 0.05;

impl Balancer {
    /// A balancer over members with these weights. `start` differs between cores, so that they do not all begin with the
    /// same endpoint; chance is drawn from it, too.
    pub fn new(policy: Policy, weights: Box<[u32]>, start: u64) -> Balancer {
        let plain = weights.windows(2).all(|two| two.first() == two.last());
        let owed =
            if matches!(policy, Policy::RoundRobin | Policy::WeightedRoundRobin) && !plain { vec![0; weights.len()] } else { Vec::new() };
        let by_chance = policy == Policy::Random || policy.compares_latency();
        let sum = |sum: &mut u64, &weight: &u32| {
            *sum += u64::from(weight);
            Some(*sum)
        };
        let sums = if by_chance && !plain { weights.iter().scan(0, sum).collect() } else { Box::default() };
        let turn = start.checked_rem(weights.len() as u64).unwrap_or(0) as usize;
        let mut balancer = Balancer { policy, turn, detour: turn, owed, weights, sums, random: Random::new(start), usual: 0.0 };
        if !balancer.owed.is_empty() {
            for _ in 0..start % 64 {
                let _ = balancer.weighted(&|_| false);
            }
        }
        balancer
    }

    /// Chance is drawn from this seed.
    #[must_use]
    pub fn seeded(mut self, seed: u64) -> Balancer {
        self.random = Random::new(seed);
        self
    }

    /// One of so many, each in turn: for who is not a member. `None`: of none.
    pub fn one_of(&mut self, many: usize) -> Option<usize> {
        self.detour = self.detour.wrapping_add(1);
        self.detour.checked_rem(many)
    }

    /// Takes over what `before` remembered of members that stay; `was` tells where a member was before.
    ///
    /// A member whose weight has changed starts afresh: a debt of a million at weight 1 would be a million missed turns.
    pub fn carry(&mut self, before: &Balancer, was: impl Fn(usize) -> Option<usize>) {
        self.detour = before.detour;
        self.random = before.random.clone();
        self.usual = before.usual;
        self.turn = before.turn.checked_rem(self.weights.len()).unwrap_or(0);
        let total: i64 = self.weights.iter().map(|&weight| i64::from(weight)).sum();
        for (at, owed) in self.owed.iter_mut().enumerate() {
            let Some(old) = was(at) else { continue };
            if self.weights.get(at) == before.weights.get(old) {
                *owed = before.owed.get(old).map_or(0, |&debt| debt.clamp(-total, total));
            }
        }
    }

    /// The next member that is not skipped. `in_flight` and `cost` are only asked by policies that need them.
    pub fn pick(&mut self, skip: impl Fn(usize) -> bool, in_flight: impl Fn(usize) -> u32, cost: impl Fn(usize) -> f64) -> Option<usize> {
        match self.policy {
            Policy::LeastRequest => self.least(&skip, &in_flight),
            Policy::RoundRobin | Policy::WeightedRoundRobin if !self.owed.is_empty() => self.weighted(&skip),
            Policy::RoundRobin | Policy::WeightedRoundRobin => self.in_turn(&skip),
            Policy::Random => self.drawn(&skip),
            Policy::P2cEwma | Policy::RingHash | Policy::Maglev => self.cheaper(&skip, &cost),
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

    /// One by chance and weight.
    fn drawn(&mut self, skip: &impl Fn(usize) -> bool) -> Option<usize> {
        for _ in 0..DRAWS {
            let at = match self.sums.last() {
                Some(&total) => {
                    let drawn = self.random.below(total);
                    self.sums.partition_point(|&sum| sum <= drawn)
                }
                None => self.random.below(self.weights.len() as u64) as usize,
            };
            if at < self.weights.len() && !skip(at) {
                return Some(at);
            }
        }
        // Most are skipped: those that are left are counted.
        let left = || self.weights.iter().enumerate().filter(|(at, _)| !skip(*at)).map(|(at, &weight)| (at, u64::from(weight)));
        let drawn = self.random.below(left().map(|(_, weight)| weight).sum());
        let mut sum = 0;
        left()
            .find(|(_, weight)| {
                sum += weight;
                drawn < sum
            })
            .map(|(at, _)| at)
    }

    /// The cheaper of two; of three or four, if both are dear.
    fn cheaper(&mut self, skip: &impl Fn(usize) -> bool, cost: &impl Fn(usize) -> f64) -> Option<usize> {
        let mut best = self.drawn(skip)?;
        // Weights have spoken when they were drawn: they do not count a second time.
        let mut least = cost(best);
        for more in 0..=MORE_DRAWS {
            if more > 0 && least <= DEAR * self.usual {
                break;
            }
            let Some(other) = self.drawn(&|at| at == best || skip(at)) else { break };
            let its = cost(other);
            if its < least {
                (best, least) = (other, its);
            }
        }
        self.usual += (least - self.usual) * USUAL_SHARE;
        Some(best)
    }
}

#[cfg(test)]
mod tests {
    use super::latency::{Estimate, Weighing};
    use super::*;
    use crate::tests::Dice;
    use std::time::Duration;

    fn pick(balancer: &mut Balancer) -> Option<usize> {
        balancer.pick(|_| false, |_| 0, |_| 1.0)
    }

    fn picks(balancer: &mut Balancer, times: usize) -> Vec<usize> {
        (0..times).map(|_| pick(balancer).unwrap()).collect()
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
            let mut balancer = Balancer::new(Policy::WeightedRoundRobin, weights.clone().into(), dice.below(100));
            let mut counts = vec![0i64; members];
            for n in 1..=3 * i64::from(total) {
                counts[pick(&mut balancer).unwrap()] += 1;
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
                counts[balancer.pick(|at| at == 1, |_| 0, |_| 1.0).unwrap()] += 1;
            }
            assert_eq!(counts[1], 0);
            let within = if policy == Policy::LeastRequest { 200..=700 } else { 390..=410 };
            assert!([0, 2, 3].iter().all(|&at| within.contains(&counts[at])), "{policy:?} {counts:?}");
            assert_eq!(balancer.pick(|_| true, |_| 0, |_| 1.0), None);
        }
        assert_eq!(Balancer::new(Policy::RoundRobin, [].into(), 3).pick(|_| false, |_| 0, |_| 1.0), None);
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
                    let at = balancer.pick(|_| false, |at| in_flight[at], |_| 1.0).unwrap();
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

    #[test]
    fn chance_keeps_to_the_weights() {
        for policy in [Policy::Random, Policy::P2cEwma] {
            for seed in 0..20 {
                let weights: [u32; 4] = [[1, 1, 1, 1], [1, 2, 3, 4], [50, 1, 1, 50]][seed as usize % 3];
                let mut balancer = Balancer::new(policy, weights.into(), seed);
                let mut counts = [0f64; 4];
                for at in picks(&mut balancer, 20_000) {
                    counts[at] += 1.0;
                }
                let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
                for (count, weight) in counts.iter().zip(weights) {
                    let due = f64::from(weight) / total;
                    // Two are drawn, never the same: who has nearly all the weight gets a little less.
                    assert!((count / 20_000.0 - due).abs() < 0.03, "{policy:?} seed {seed}: {counts:?} for {weights:?}");
                }
                let mut left = [0; 4];
                for _ in 0..2_000 {
                    left[balancer.pick(|at| at == 0 || at == 3, |_| 0, |_| 1.0).unwrap()] += 1;
                }
                assert!(left[0] + left[3] == 0 && left[1] > 0 && left[2] > 0, "{policy:?}: {left:?}");
                assert_eq!(balancer.pick(|at| at != 2, |_| 0, |_| 1.0), Some(2));
                assert_eq!(balancer.pick(|_| true, |_| 0, |_| 1.0), None);
            }
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_picks() {
        let run = |seed| picks(&mut Balancer::new(Policy::P2cEwma, [1, 2, 3].into(), seed), 100);
        assert_eq!(run(7), run(7));
        assert_ne!(run(7), run(8));
    }

    /// What a house of ten endpoints gives its callers: one is five times slower, one fails at once.
    #[derive(Debug)]
    struct Outcome {
        p99_ms: f64,
        failed: f64,
        shares: Vec<f64>,
    }

    /// Calls come at random, each endpoint works on four at a time; nobody tries again.
    fn simulate(policy: Policy, seed: u64) -> Outcome {
        const CALLS: usize = 20_000;
        let (mut dice, weighing) = (Random::new(seed), Weighing::default());
        let mut balancer = Balancer::new(policy, vec![1; 10].into(), seed);
        let mut estimates = [Estimate::default(); 10];
        let mut in_flight = [0u32; 10];
        // When each of an endpoint's four hands is free; answers on their way: when, who, how long, failed.
        let mut free = vec![[0u64; 4]; 10];
        let mut open: std::collections::BTreeSet<(u64, usize, u64, bool)> = std::collections::BTreeSet::new();
        let (mut now, mut took, mut failed, mut counts) = (0u64, Vec::new(), 0, vec![0f64; 10]);
        for _ in 0..CALLS {
            now += dice.below(8_000);
            while let Some(&(ends, at, lasted, is_fault)) = open.first().filter(|first| first.0 <= now) {
                open.pop_first();
                in_flight[at] -= 1;
                let lasted = Duration::from_micros(lasted);
                estimates[at] = match is_fault {
                    true => weighing.failed(estimates[at], ends, lasted),
                    false => weighing.answered(estimates[at], ends, lasted),
                };
            }
            let at = balancer.pick(|_| false, |at| in_flight[at], |at| weighing.cost(estimates[at], now, in_flight[at])).unwrap();
            counts[at] += 1.0 / CALLS as f64;
            in_flight[at] += 1;
            let work = match at {
                0 => 50_000 + dice.below(50_000),
                1 => 200,
                _ => 10_000 + dice.below(10_000),
            };
            let hand = free[at].iter_mut().min().unwrap();
            let ends = now.max(*hand) + work;
            *hand = ends;
            open.insert((ends, at, ends - now, at == 1));
            match at {
                1 => failed += 1,
                _ => took.push((ends - now) as f64 / 1_000.0),
            }
        }
        took.sort_by(f64::total_cmp);
        Outcome { p99_ms: took[took.len() * 99 / 100], failed: f64::from(failed) / CALLS as f64, shares: counts }
    }

    #[test]
    fn two_choices_by_latency_avoid_the_slow_and_the_failing() {
        for seed in 0..10 {
            let [turns, least, p2c] = [Policy::RoundRobin, Policy::LeastRequest, Policy::P2cEwma].map(|policy| simulate(policy, seed));
            if seed == 0 {
                println!("round robin {turns:.3?}\nleast request {least:.3?}\np2c ewma {p2c:.3?}");
            }
            assert!((turns.failed - 0.1).abs() < 0.001, "seed {seed}: {turns:?}");
            assert!(least.failed > turns.failed, "who fails at once has nothing in flight: {least:?}");
            assert!(p2c.failed < 0.02, "seed {seed}: {p2c:?}");
            assert!(p2c.p99_ms < 40.0 && p2c.p99_ms < turns.p99_ms / 2.0 && p2c.p99_ms < least.p99_ms, "seed {seed}: {p2c:?} {least:?}");
            let good = &p2c.shares[2..];
            assert!(good.iter().all(|share| (0.06..0.20).contains(share)), "seed {seed}: {p2c:?}");
        }
    }
}
