//! What served, in which order, and what tripped: the pure memory behind rollback and behind the last good version.
//!
//! No clock, no lock, no disk: the time is an argument, and [`crate::catalog`] does what is decided here.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

/// The versions of one plugin that have served. Written to disk with the plugin's index; the faults are not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct History {
    /// Oldest first; the last one serves now. A version stands here at most once.
    trail: Vec<u32>,
    /// Versions that had too many faults and that nobody has activated by hand since.
    tripped: BTreeSet<u32>,
    /// When the serving version failed, oldest first; never longer than the number that trips it.
    #[serde(skip)]
    faults: VecDeque<Duration>,
}

impl History {
    /// The version that serves.
    pub(crate) fn serving(&self) -> Option<u32> {
        self.trail.last().copied()
    }

    /// Has it ever served (and not been rolled back since)?
    pub(crate) fn has_served(&self, version: u32) -> bool {
        self.trail.contains(&version)
    }

    /// Did it trip?
    pub(crate) fn has_tripped(&self, version: u32) -> bool {
        self.tripped.contains(&version)
    }

    /// Somebody decided that this version serves. An earlier verdict on it is forgotten: people may try again, the
    /// house by itself may not.
    pub(crate) fn activate(&mut self, version: u32) {
        self.trail.retain(|&other| other != version);
        self.trail.push(version);
        self.tripped.remove(&version);
        self.faults.clear();
    }

    /// The good versions that served before the present one, the newest first.
    pub(crate) fn earlier(&self) -> impl Iterator<Item = u32> {
        self.trail.iter().rev().skip(1).copied().filter(|version| !self.tripped.contains(version))
    }

    /// Goes back to an earlier version: whatever served after it leaves the trail, so that going back twice goes back
    /// two steps and not to and fro. (It can still be activated by its number.)
    pub(crate) fn back_to(&mut self, version: u32) {
        if let Some(at) = self.trail.iter().position(|&other| other == version) {
            self.trail.truncate(at + 1);
            self.faults.clear();
        }
    }

    /// The serving version failed once. `true`, once, when that makes `faults_max` within `window`: it is now marked,
    /// and will not come back by itself. Faults of versions that serve no more are of no interest. `faults_max` 0:
    /// never.
    pub(crate) fn fault(&mut self, version: u32, now: Duration, faults_max: u32, window: Duration) -> bool {
        if faults_max == 0 || self.serving() != Some(version) || self.tripped.contains(&version) {
            return false;
        }
        self.faults.push_back(now);
        while self.faults.front().is_some_and(|&first| now.saturating_sub(first) > window) {
            self.faults.pop_front();
        }
        if self.faults.len() < faults_max as usize {
            return false;
        }
        self.faults.clear();
        self.tripped.insert(version);
        true
    }

    /// Forgets the versions that are not kept any more.
    pub(crate) fn retain(&mut self, is_kept: impl Fn(u32) -> bool) {
        self.trail.retain(|&version| is_kept(version));
        self.tripped.retain(|&version| is_kept(version));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(10);

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn served(versions: &[u32]) -> History {
        let mut history = History::default();
        versions.iter().for_each(|&version| history.activate(version));
        history
    }

    #[test]
    fn rolling_back_twice_goes_back_two_steps() {
        let mut history = served(&[1, 2, 3]);
        let to = history.earlier().next().unwrap();
        history.back_to(to);
        assert_eq!(history.serving(), Some(2));
        let to = history.earlier().next().unwrap();
        history.back_to(to);
        assert_eq!(history.serving(), Some(1));
        assert_eq!(history.earlier().next(), None);
    }

    #[test]
    fn faults_that_are_spread_out_do_not_trip() {
        let mut history = served(&[1]);
        for at in 0..100 {
            assert!(!history.fault(1, seconds(at * 6), 3, WINDOW), "at {at}");
        }
        assert!(!history.fault(1, seconds(595), 4, WINDOW));
        assert!(history.fault(1, seconds(596), 4, WINDOW));
    }

    #[test]
    fn a_version_that_tripped_comes_back_by_hand_only() {
        let mut history = served(&[1, 2, 3]);
        assert!(history.fault(3, seconds(1), 1, WINDOW));
        assert!(!history.fault(3, seconds(1), 1, WINDOW), "it trips once");
        assert_eq!(history.earlier().collect::<Vec<_>>(), [2, 1]);
        history.back_to(2);
        assert!(history.fault(2, seconds(2), 1, WINDOW));
        assert_eq!(history.earlier().collect::<Vec<_>>(), [1]);
        history.back_to(1);
        assert!(history.fault(1, seconds(3), 1, WINDOW));
        assert_eq!(history.earlier().next(), None, "no good one is left: the failure policy stands");
        history.activate(3);
        assert!(!history.has_tripped(3));
        assert_eq!(history.earlier().next(), None, "1 and 2 keep their mark");
    }

    /// A small generator of our own: the seed is all there is to replay.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % sides
        }
    }

    /// The window, done the obvious way.
    fn naive_trip(times: &[Duration], now: Duration, faults_max: u32) -> bool {
        times.iter().filter(|&&at| now.saturating_sub(at) <= WINDOW).count() >= faults_max as usize
    }

    #[test]
    fn simulated_lives_never_return_to_a_version_that_tripped() {
        for seed in 1..=400u64 {
            let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let faults_max = 1 + dice.roll(6) as u32;
            let (mut history, mut next, mut now) = (History::default(), 1, Duration::ZERO);
            let (mut bad, mut times) = (BTreeSet::new(), Vec::new());
            for step in 0..400 {
                let told = format!("seed {seed} step {step} {history:?}");
                now += Duration::from_millis(dice.roll(4000));
                match dice.roll(10) {
                    0 => {
                        history.activate(next);
                        next += 1;
                        times.clear();
                    }
                    1 if next > 1 => {
                        let by_hand = 1 + dice.roll(u64::from(next) - 1) as u32;
                        history.activate(by_hand);
                        bad.remove(&by_hand);
                        times.clear();
                    }
                    2 => {
                        let to = history.earlier().next();
                        if let Some(to) = to {
                            assert!(!bad.contains(&to), "{told}");
                            history.back_to(to);
                            assert_eq!(history.serving(), Some(to), "{told}");
                            times.clear();
                        }
                    }
                    3 => {
                        let newest = next.saturating_sub(5);
                        let serving = history.serving();
                        history.retain(|version| version >= newest || Some(version) == serving);
                        bad.retain(|&version| version >= newest || Some(version) == serving);
                        assert_eq!(history.serving(), serving, "{told}");
                    }
                    4 if next > 1 => {
                        let version = 1 + dice.roll(u64::from(next) - 1) as u32;
                        if Some(version) != history.serving() {
                            assert!(!history.fault(version, now, 1, WINDOW), "{told}");
                        }
                    }
                    _ => {
                        let Some(version) = history.serving() else { continue };
                        let was_bad = bad.contains(&version);
                        times.push(now);
                        let tripped = history.fault(version, now, faults_max, WINDOW);
                        assert_eq!(tripped, !was_bad && naive_trip(&times, now, faults_max), "{told}");
                        if tripped {
                            bad.insert(version);
                            let to = history.earlier().next();
                            if let Some(to) = to {
                                assert!(!bad.contains(&to), "{told}");
                                history.back_to(to);
                            }
                            times.clear();
                        }
                    }
                }
                let unique: BTreeSet<_> = history.trail.iter().collect();
                assert_eq!(unique.len(), history.trail.len(), "{told}");
                assert!(history.faults.len() < faults_max.max(2) as usize, "{told}");
                assert_eq!(history.tripped, bad, "{told}");
            }
        }
    }
}
