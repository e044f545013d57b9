//! Which part of the calls an endpoint gets: its weight, and what is known of its health, its age and its place. Pure.
//!
//! Shares change with the set of endpoints and not with the calls, so that a call pays nothing for any of it.

use std::collections::BTreeSet;

/// What is known of one endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate<'a> {
    /// As listed; 0 takes no new calls.
    pub weight: u32,
    /// As listed.
    pub zone: Option<&'a str>,
    /// Taken out by hand.
    pub drained: bool,
    /// What checks say.
    pub condition: Condition,
    /// Left out for what its calls came to.
    pub ejected: bool,
    /// 0 to 1: how far its slow start has come.
    pub ramp: f64,
}

/// What checks say of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Nobody asks.
    #[default]
    Unasked,
    /// It has not been asked yet.
    Unknown,
    /// Well.
    Well,
    /// Ill.
    Ill,
}

/// How shares are made.
#[derive(Clone, Copy, Debug)]
pub struct Sharing<'a> {
    /// Whatever the weights are: all are equal.
    pub ignore_weights: bool,
    /// Keys would move with every step of a slow start, and with every spill into another zone: only the weights count.
    pub keyed: bool,
    /// Where this gateway stands.
    pub zone: Option<&'a str>,
    /// The part of an average zone's weight that is enough for all calls.
    pub zone_enough: f64,
    /// Below this part of fit endpoints all are used.
    pub panic_below: f64,
}

/// What an endpoint gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Against those of the others; 0 is asked by second tries only, or not at all.
    pub weight: u32,
    /// Well, in and wanted: a second try may go there.
    pub fit: bool,
    /// Not fit, but better than nobody.
    pub last_resort: bool,
}

/// All shares, and whether the ill are used for want of others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shares {
    /// In the order of the candidates.
    pub all: Vec<Share>,
    /// So few were fit that all are used.
    pub panic: bool,
}

/// An unscaled weight of 1 becomes this where ramps and zones need finer steps than whole numbers.
const FINE: f64 = 1_000.0;
/// A slow start begins with this part of the share: with nothing it would never be seen to answer.
const RAMP_LEAST: f64 = 0.1;

/// Shares of these candidates.
pub fn shares(candidates: &[Candidate<'_>], sharing: &Sharing<'_>) -> Shares {
    let wanted = |candidate: &Candidate<'_>| candidate.weight > 0 && !candidate.drained;
    let is_fit = |candidate: &Candidate<'_>| {
        wanted(candidate) && !candidate.ejected && matches!(candidate.condition, Condition::Unasked | Condition::Well)
    };
    let (all, fit) = (candidates.iter().filter(|one| wanted(one)).count(), candidates.iter().filter(|one| is_fit(one)).count());
    // Whom nobody has asked yet is better than nobody, even where the ill are not.
    let panic = all > 0 && (fit as f64) < sharing.panic_below * all as f64;
    let nobody = fit == 0 && !panic;
    let used = |candidate: &Candidate<'_>| {
        is_fit(candidate)
            || panic && wanted(candidate)
            || nobody && wanted(candidate) && !candidate.ejected && candidate.condition == Condition::Unknown
    };

    let base = |candidate: &Candidate<'_>| if sharing.ignore_weights { 1.0 } else { f64::from(candidate.weight) };
    let ramped = |candidate: &Candidate<'_>| {
        if sharing.keyed || candidate.ramp >= 1.0 { base(candidate) } else { base(candidate) * candidate.ramp.max(RAMP_LEAST) }
    };
    let own = own_zone(candidates, sharing, &used, &base);
    let is_own = |candidate: &Candidate<'_>| candidate.zone == sharing.zone;
    let sum = |own: bool| -> f64 {
        candidates.iter().filter(|one| used(one) && is_own(one) == own).map(ramped).sum::<f64>().max(f64::MIN_POSITIVE)
    };
    let plain = own.is_none() && candidates.iter().all(|one| !used(one) || sharing.keyed || one.ramp >= 1.0);
    let (sum_own, sum_other) = (sum(true), sum(false));
    let weight = |candidate: &Candidate<'_>| {
        if !used(candidate) {
            return 0;
        }
        if plain {
            return base(candidate) as u32;
        }
        let weight = match own {
            None => ramped(candidate),
            Some(part) if is_own(candidate) => ramped(candidate) * part * (sum_own + sum_other) / sum_own,
            Some(part) => ramped(candidate) * (1.0 - part) * (sum_own + sum_other) / sum_other,
        };
        // Whoever is to have something has one at least; 1,000,000 times this fits.
        if weight > 0.0 { (weight * FINE).clamp(1.0, 4e9) as u32 } else { 0 }
    };
    let share = |one: &Candidate<'_>| Share { weight: weight(one), fit: used(one), last_resort: wanted(one) && sharing.panic_below > 0.0 };
    Shares { all: candidates.iter().map(share).collect(), panic }
}

/// The part of the calls that stays in the gateway's own zone. `None`: zones make no difference.
fn own_zone(
    candidates: &[Candidate<'_>],
    sharing: &Sharing<'_>,
    used: &impl Fn(&Candidate<'_>) -> bool,
    base: &impl Fn(&Candidate<'_>) -> f64,
) -> Option<f64> {
    let zone = sharing.zone.filter(|_| !sharing.keyed)?;
    let zones: BTreeSet<Option<&str>> = candidates.iter().filter(|one| one.weight > 0).map(|one| one.zone).collect();
    let listed: f64 = candidates.iter().filter(|one| one.weight > 0).map(base).sum();
    let own: f64 = candidates.iter().filter(|one| used(one) && one.zone == Some(zone)).map(base).sum();
    let others = candidates.iter().any(|one| used(one) && one.zone != Some(zone));
    if own == 0.0 || !others {
        return None;
    }
    // Its callers are taken for an equal part of all: there are as many gateways in each zone, or a balancer that sees to it.
    let average = listed / zones.len().max(1) as f64;
    Some((own / (average * sharing.zone_enough).max(f64::MIN_POSITIVE)).min(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::random::Random;

    const USUAL: Sharing<'static> = Sharing { ignore_weights: false, keyed: false, zone: None, zone_enough: 0.7, panic_below: 0.25 };

    fn one(weight: u32) -> Candidate<'static> {
        Candidate { weight, zone: None, drained: false, condition: Condition::Unasked, ejected: false, ramp: 1.0 }
    }

    fn ill() -> Candidate<'static> {
        Candidate { condition: Condition::Ill, ..one(1) }
    }

    fn weights(shares: &Shares) -> Vec<u32> {
        shares.all.iter().map(|share| share.weight).collect()
    }

    #[test]
    fn in_good_times_shares_are_the_weights() {
        assert_eq!(weights(&shares(&[one(5), one(1), one(0)], &USUAL)), [5, 1, 0]);
        assert_eq!(weights(&shares(&[one(5), one(1), one(0)], &Sharing { ignore_weights: true, ..USUAL })), [1, 1, 0]);
        assert_eq!(shares(&[], &USUAL), Shares::default());
    }

    #[test]
    fn the_ill_the_ejected_and_the_drained_get_nothing() {
        let all = [one(1), ill(), Candidate { ejected: true, ..one(1) }, Candidate { drained: true, ..one(1) }];
        let shares = shares(&all, &USUAL);
        assert_eq!((weights(&shares), shares.panic), (vec![1, 0, 0, 0], false));
        assert_eq!(shares.all.iter().map(|share| share.fit).collect::<Vec<_>>(), [true, false, false, false]);
    }

    #[test]
    fn when_too_few_are_fit_all_are_used_but_those_taken_out_by_hand() {
        let drained = Candidate { drained: true, ..one(1) };
        for (ills, panic) in [(3, false), (4, true), (9, true)] {
            let mut all = vec![one(1), drained.clone()];
            all.extend((0..ills).map(|_| ill()));
            let shares = shares(&all, &USUAL);
            assert_eq!(shares.panic, panic, "{ills} ill beside one that is well");
            assert_eq!(shares.all[1], Share::default());
            assert!(shares.all[2..].iter().all(|share| (share.weight > 0) == panic));
        }
        let never = Sharing { panic_below: 0.0, ..USUAL };
        assert_eq!(weights(&shares(&[ill(), ill()], &never)), [0, 0]);
    }

    #[test]
    fn whom_nobody_has_asked_yet_is_better_than_nobody() {
        let unknown = Candidate { condition: Condition::Unknown, ..one(1) };
        for panic_below in [0.0, 0.25] {
            let sharing = Sharing { panic_below, ..USUAL };
            assert_eq!(weights(&shares(&[unknown.clone(), unknown.clone()], &sharing)), [1, 1]);
            let well = Candidate { condition: Condition::Well, ..one(1) };
            assert_eq!(weights(&shares(&[unknown.clone(), well], &sharing)), [0, 1]);
        }
    }

    #[test]
    fn a_slow_start_begins_with_a_tenth_and_keys_take_no_notice() {
        let at = |ramp| [one(2), Candidate { ramp, ..one(2) }];
        assert_eq!(weights(&shares(&at(0.0), &USUAL)), [2_000, 200]);
        assert_eq!(weights(&shares(&at(0.5), &USUAL)), [2_000, 1_000]);
        assert_eq!(weights(&shares(&at(1.0), &USUAL)), [2, 2]);
        assert_eq!(weights(&shares(&at(0.0), &Sharing { keyed: true, ..USUAL })), [2, 2]);
    }

    fn in_zone(zone: &'static str, condition: Condition) -> Candidate<'static> {
        Candidate { zone: Some(zone), condition, ..one(1) }
    }

    fn own_part(candidates: &[Candidate<'_>], zone: &str) -> f64 {
        let made = shares(candidates, &Sharing { zone: Some(zone), ..USUAL });
        let total: f64 = made.all.iter().map(|share| f64::from(share.weight)).sum();
        let own = made.all.iter().zip(candidates).filter(|(_, one)| one.zone == Some(zone));
        own.map(|(share, _)| f64::from(share.weight)).sum::<f64>() / total
    }

    #[test]
    fn calls_stay_in_their_zone_while_it_has_enough_and_spill_over_in_proportion() {
        use Condition::{Ill, Well};
        let house = |a_ill: usize| -> Vec<Candidate<'static>> {
            let a = (0..10).map(|n| in_zone("a", if n < a_ill { Ill } else { Well }));
            a.chain((0..10).map(|_| in_zone("b", Well))).collect()
        };
        for (a_ill, expected) in [(0, 1.0), (3, 1.0), (4, 6.0 / 7.0), (9, 1.0 / 7.0), (10, 0.0)] {
            let part = own_part(&house(a_ill), "a");
            assert!((part - expected).abs() < 0.01, "{a_ill} of 10 ill: {part} stay, {expected} is due");
        }
        // A zone that is small from the beginning is not given all the calls of its gateways.
        let uneven: Vec<_> = (0..11).map(|n| in_zone(if n == 0 { "a" } else { "b" }, Well)).collect();
        assert!((own_part(&uneven, "a") - 1.0 / (5.5 * 0.7)).abs() < 0.01);
        // Who is in no zone of ours, or alone, loses nothing.
        assert_eq!(weights(&shares(&house(0), &Sharing { zone: Some("c"), ..USUAL })), [1; 20]);
        assert_eq!(weights(&shares(&house(0)[..10], &Sharing { zone: Some("a"), ..USUAL })), [1; 10]);
    }

    #[test]
    fn whatever_happens_somebody_gets_calls_and_nobody_who_must_not() {
        let mut random = Random::new(1);
        for round in 0..20_000 {
            let candidates: Vec<Candidate<'_>> = (0..random.below(8))
                .map(|_| Candidate {
                    weight: [0, 1, 2, 1_000_000][random.below(4) as usize],
                    zone: [None, Some("a"), Some("b")][random.below(3) as usize],
                    drained: random.below(5) == 0,
                    condition: [Condition::Unasked, Condition::Unknown, Condition::Well, Condition::Ill][random.below(4) as usize],
                    ejected: random.below(3) == 0,
                    ramp: random.unit() * 1.2,
                })
                .collect();
            let sharing = Sharing {
                ignore_weights: random.below(2) == 0,
                keyed: random.below(2) == 0,
                zone: [None, Some("a")][random.below(2) as usize],
                ..USUAL
            };
            let made = shares(&candidates, &sharing);
            for (one, share) in candidates.iter().zip(&made.all) {
                assert!(share.weight == 0 || (one.weight > 0 && !one.drained && share.fit), "round {round}: {candidates:?} {made:?}");
            }
            let anybody = candidates.iter().any(|one| one.weight > 0 && !one.drained);
            assert_eq!(made.all.iter().any(|share| share.weight > 0), anybody, "round {round}: {candidates:?} {made:?}");
        }
    }
}
