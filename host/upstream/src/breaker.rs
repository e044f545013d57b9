//! A breaker: who asks a service that fails or hangs anyway is answered at once, and the service is left in peace.
//!
//! Closed, it counts over the last seconds; open, it refuses until its time is over; half open, it lets a few trials through,
//! and what becomes of them closes or opens it. Trials of which nothing becomes for a while are joined by as many others: who
//! sends slowly, or never reads, would keep it half open for everybody. All cores share one. Nothing here waits, locks or reads a clock: `now` is
//! milliseconds since the breaker was made, and every count is exact (one word each, compared and swapped).

use crate::metrics::BreakerLevels;
use crate::service::Guards;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

/// When a breaker opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BreakerPolicy {
    /// The part, 0 to 1, of calls within `window` that failed. `None`: not for that.
    pub errors: Option<f64>,
    /// The part of calls within `window` that were slower than `slow_after`. `None`: not for that.
    pub slow: Option<f64>,
    /// What is slow, to the head of the answer.
    pub slow_after: Duration,
    /// Calls within `window` below which it never opens.
    pub calls_min: u32,
    /// What is counted over: ten parts of it, the oldest of which leaves at once.
    pub window: Duration,
    /// How long it stays open.
    pub open: Duration,
    /// Trials while it is half open: so many good ones close it. If they have not ended within `open`, it lets as many more
    /// through. 1 at least.
    pub trials: u32,
    /// Calls in flight at once, bodies included; more are refused, without opening it. `None`: any number.
    pub in_flight_max: Option<u32>,
}

impl Default for BreakerPolicy {
    fn default() -> BreakerPolicy {
        BreakerPolicy {
            errors: Some(0.5),
            slow: None,
            slow_after: Duration::from_secs(1),
            calls_min: 20,
            window: Duration::from_secs(10),
            open: Duration::from_secs(5),
            trials: 3,
            in_flight_max: None,
        }
    }
}

/// Parts of a window.
const PARTS: usize = 10;
/// Calls that one part counts; with more all its counts are halved, so that the proportion stays.
const PART_MAX: u64 = 0xffff;

/// See the head of the file.
pub struct Breaker {
    guards: Guards,
    name: Arc<str>,
    policy: BreakerPolicy,
    born: Instant,
    /// (round, calls, failed, slow), 16 bits each; the round says which time the part is in use.
    parts: [AtomicU64; PARTS],
    /// A [`Mode`].
    mode: AtomicU64,
    /// (epoch, let through, ended well) of the trials: 20, 22, 22 bits.
    trials: AtomicU64,
    in_flight: AtomicU32,
    levels: BreakerLevels,
}

/// What a breaker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It lets everything through.
    Closed,
    /// It refuses.
    Open,
    /// It lets trials through.
    HalfOpen,
}

impl State {
    /// The word for operators.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Closed => "closed",
            State::Open => "open",
            State::HalfOpen => "half_open",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mode {
    state: State,
    /// Changes with every change of state, so that what was let through before does not count after.
    epoch: u64,
    /// Until when it is open, or lets no more trials through.
    until_ms: u64,
}

impl Mode {
    fn packed(self) -> u64 {
        let state = match self.state {
            State::Closed => 0,
            State::Open => 1,
            State::HalfOpen => 2,
        };
        state | (self.epoch & 0xf_ffff) << 2 | self.until_ms << 22
    }

    fn unpacked(word: u64) -> Mode {
        let state = match word & 3 {
            0 => State::Closed,
            1 => State::Open,
            _ => State::HalfOpen,
        };
        Mode { state, epoch: word >> 2 & 0xf_ffff, until_ms: word >> 22 }
    }

    fn next(self, state: State, until_ms: u64) -> Mode {
        // 42 bits of milliseconds are 139 years.
        Mode { state, epoch: (self.epoch + 1) & 0xf_ffff, until_ms: until_ms & 0x3ff_ffff_ffff }
    }
}

/// A call that was let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    epoch: u64,
    trial: bool,
}

/// Why a call was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is open for so much longer.
    Open(Duration),
    /// So many are in flight.
    Full(u32),
}

impl Breaker {
    pub(crate) fn new(guards: Guards, name: &str, policy: BreakerPolicy, levels: BreakerLevels) -> Breaker {
        let (parts, trials, in_flight) = Default::default();
        let mode = AtomicU64::new(Mode { state: State::Closed, epoch: 1, until_ms: 0 }.packed());
        Breaker { guards, name: name.into(), policy, born: Instant::now(), parts, mode, trials, in_flight, levels }
    }

    /// What it stands before.
    pub fn guards(&self) -> Guards {
        self.guards
    }

    /// The name of that.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// When it opens.
    pub fn policy(&self) -> &BreakerPolicy {
        &self.policy
    }

    /// What it does now.
    pub fn state(&self) -> State {
        Mode::unpacked(self.mode.load(SeqCst)).state
    }

    /// Milliseconds since it was made.
    pub(crate) fn ms(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.born).as_millis()).unwrap_or(u64::MAX)
    }

    /// May a call pass? Each pass is given back by [`Breaker::ended`], once.
    ///
    /// # Errors
    /// Why not.
    pub fn enter(&self, now_ms: u64) -> Result<Pass, Refused> {
        let flying = self.in_flight.fetch_add(1, SeqCst);
        let refuse = |why| {
            self.in_flight.fetch_sub(1, SeqCst);
            self.levels.refused.add_shared(1);
            Err(why)
        };
        if let Some(max) = self.policy.in_flight_max.filter(|max| flying >= *max) {
            return refuse(Refused::Full(max));
        }
        loop {
            let word = self.mode.load(SeqCst);
            let mode = Mode::unpacked(word);
            match mode.state {
                State::Closed => return Ok(Pass { epoch: mode.epoch, trial: false }),
                State::Open if now_ms < mode.until_ms => return refuse(Refused::Open(Duration::from_millis(mode.until_ms - now_ms))),
                State::Open => {
                    let next = mode.next(State::HalfOpen, now_ms.saturating_add(ms(self.policy.open)));
                    if self.mode.compare_exchange(word, next.packed(), SeqCst, SeqCst).is_ok() {
                        self.levels.state.set(1);
                    }
                }
                State::HalfOpen => {
                    let allowed = u64::from(self.policy.trials.max(1));
                    let taken = self.trials.try_update(SeqCst, SeqCst, |word| {
                        let (epoch, through) = (word >> 44, word >> 22 & 0x3f_ffff);
                        match epoch.wrapping_sub(mode.epoch) & 0xf_ffff {
                            0 => (through < allowed).then_some(word + (1 << 22)),
                            // This one has slept through a whole turn.
                            ahead if ahead < 0x8_0000 => None,
                            // Trials of an epoch that has begun count from zero.
                            _ => Some(mode.epoch << 44 | 1 << 22),
                        }
                    });
                    match taken {
                        Ok(_) => return Ok(Pass { epoch: mode.epoch, trial: true }),
                        Err(_) if now_ms < mode.until_ms => return refuse(Refused::Open(Duration::from_secs(1))),
                        // Those before still count, should they end.
                        Err(_) => self.more_trials(word, mode, now_ms),
                    }
                }
            }
        }
    }

    /// A call that passed has its answer, or none. `None`: it was given up by its caller, and says nothing.
    pub fn ended(&self, pass: Pass, now_ms: u64, outcome: Option<Ended>) {
        let word = self.mode.load(SeqCst);
        let mode = Mode::unpacked(word);
        if mode.epoch != pass.epoch {
            return;
        }
        let Some(ended) = outcome else {
            if pass.trial {
                // Somebody else may try. (It may be one of earlier trials, which are not counted any more.)
                let back = |word: u64| (word >> 44 == pass.epoch && word >> 22 & 0x3f_ffff > 0).then(|| word - (1 << 22));
                let _ = self.trials.try_update(SeqCst, SeqCst, back);
            }
            return;
        };
        let slow = self.policy.slow.is_some() && ended.took > self.policy.slow_after;
        if pass.trial {
            if ended.failed && self.policy.errors.is_some() || slow {
                self.turn(word, mode.next(State::Open, now_ms.saturating_add(ms(self.policy.open))));
            } else {
                let good = self.trials.try_update(SeqCst, SeqCst, |word| (word >> 44 == pass.epoch).then(|| word + 1));
                if good.is_ok_and(|before| (before & 0x3f_ffff) + 1 >= u64::from(self.policy.trials.max(1))) {
                    self.parts.iter().for_each(|part| part.store(0, SeqCst));
                    self.turn(word, mode.next(State::Closed, 0));
                }
            }
            return;
        }
        let (calls, failed, slows) = self.count(now_ms, ended.failed, slow);
        let too_many = |limit: Option<f64>, have: u64| limit.is_some_and(|limit| have > 0 && have as f64 >= limit * calls as f64);
        if calls >= u64::from(self.policy.calls_min.max(1)) && (too_many(self.policy.errors, failed) || too_many(self.policy.slow, slows)) {
            self.turn(word, mode.next(State::Open, now_ms.saturating_add(ms(self.policy.open))));
        }
    }

    /// A call is over, its body included.
    pub(crate) fn left(&self) {
        self.in_flight.fetch_sub(1, SeqCst);
    }

    /// As many trials as it has let through may come once more.
    #[cold]
    fn more_trials(&self, from: u64, mode: Mode, now_ms: u64) {
        let until_ms = now_ms.saturating_add(ms(self.policy.open)) & 0x3ff_ffff_ffff;
        // One of those that ask does it.
        if self.mode.compare_exchange(from, Mode { until_ms, ..mode }.packed(), SeqCst, SeqCst).is_ok() {
            let none = |word: u64| (word >> 44 == mode.epoch).then_some(word & !(0x3f_ffff << 22));
            let _ = self.trials.try_update(SeqCst, SeqCst, none);
        }
    }

    fn turn(&self, from: u64, to: Mode) {
        let mut have = from;
        while let Err(now) = self.mode.compare_exchange(have, to.packed(), SeqCst, SeqCst) {
            // That more trials are let through is no change of state.
            if Mode::unpacked(now).epoch != Mode::unpacked(from).epoch {
                return;
            }
            have = now;
        }
        let (what, name) = (self.guards.as_str(), &*self.name);
        match to.state {
            State::Open => {
                self.levels.opened.add_shared(1);
                self.levels.state.set(2);
                tracing::warn!("the breaker of {what} {name:?} has opened for {:?}", self.policy.open);
            }
            _ => {
                self.levels.state.set(0);
                tracing::info!("the breaker of {what} {name:?} has closed");
            }
        }
    }

    /// Counts a call, and sums the window up.
    fn count(&self, now_ms: u64, failed: bool, slow: bool) -> (u64, u64, u64) {
        let each = (ms(self.policy.window) / PARTS as u64).max(1);
        let number = now_ms / each;
        let round = |number: u64| (number / PARTS as u64 + 1) & 0xffff;
        if let Some(part) = self.parts.get((number % PARTS as u64) as usize) {
            let _ = part.try_update(SeqCst, SeqCst, |word| {
                let (mut calls, mut bad, mut late) =
                    if word >> 48 == round(number) { (word >> 32 & 0xffff, word >> 16 & 0xffff, word & 0xffff) } else { (0, 0, 0) };
                if calls >= PART_MAX {
                    (calls, bad, late) = (calls / 2, bad / 2, late / 2);
                }
                let (calls, bad, late) = (calls + 1, bad + u64::from(failed), late + u64::from(slow));
                Some(round(number) << 48 | calls << 32 | bad << 16 | late)
            });
        }
        let mut sums = (0, 0, 0);
        for number in number.saturating_sub(PARTS as u64 - 1)..=number {
            let Some(word) = self.parts.get((number % PARTS as u64) as usize).map(|part| part.load(SeqCst)) else { continue };
            if word >> 48 == round(number) {
                sums = (sums.0 + (word >> 32 & 0xffff), sums.1 + (word >> 16 & 0xffff), sums.2 + (word & 0xffff));
            }
        }
        sums
    }
}

/// What a call came to.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    /// It failed, or was answered with a status from 500.
    pub failed: bool,
    /// To the head of its answer, or to its failure.
    pub took: Duration,
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::random::Random;
    use wharf_core::metrics::Registry;

    const OK: Option<Ended> = Some(Ended { failed: false, took: Duration::from_millis(1) });
    const BAD: Option<Ended> = Some(Ended { failed: true, took: Duration::from_millis(1) });
    const SLOW: Option<Ended> = Some(Ended { failed: false, took: Duration::from_secs(3) });

    fn breaker(policy: BreakerPolicy) -> Breaker {
        Breaker::new(Guards::Service, "s", policy, BreakerLevels::new(&Registry::default(), Guards::Service, "s"))
    }

    fn call(breaker: &Breaker, now: u64, outcome: Option<Ended>) -> Result<(), Refused> {
        let pass = breaker.enter(now)?;
        breaker.ended(pass, now, outcome);
        breaker.left();
        Ok(())
    }

    #[test]
    fn it_opens_at_its_rate_and_not_before_its_least_calls() {
        let b = breaker(BreakerPolicy::default());
        for n in 0..19 {
            call(&b, n, BAD).unwrap();
            assert_eq!(b.state(), State::Closed, "{n}");
        }
        call(&b, 20, OK).unwrap();
        assert_eq!(b.state(), State::Open, "19 of 20");
        assert_eq!(call(&b, 1_020, OK), Err(Refused::Open(Duration::from_secs(4))));
        let calm = breaker(BreakerPolicy::default());
        for n in 0..10_000 {
            call(&calm, n, if n % 5 < 2 { BAD } else { OK }).unwrap();
        }
        assert_eq!(calm.state(), State::Closed, "40 % is less than 50");
    }

    #[test]
    fn what_is_older_than_the_window_does_not_count() {
        let b = breaker(BreakerPolicy::default());
        for n in 0..19 {
            call(&b, n, BAD).unwrap();
        }
        for n in 0..5 {
            call(&b, 10_500 + n, BAD).unwrap();
        }
        assert_eq!(b.state(), State::Closed);
        for n in 0..15 {
            call(&b, 19_000 + n, BAD).unwrap();
        }
        assert_eq!(b.state(), State::Open, "5 and 15 are within ten seconds");
    }

    #[test]
    fn good_trials_close_it_and_a_bad_one_opens_it_again() {
        let b = breaker(BreakerPolicy::default());
        (0..20).for_each(|n| call(&b, n, BAD).unwrap());
        let trials: Vec<Pass> = (0..3).map(|_| b.enter(6_000).unwrap()).collect();
        assert_eq!(b.state(), State::HalfOpen);
        assert!(b.enter(6_000).is_err(), "three trials and no more");
        b.ended(trials[0], 6_100, OK);
        b.ended(trials[1], 6_100, BAD);
        assert_eq!(b.state(), State::Open);
        // What an older time let through says nothing.
        b.ended(trials[2], 6_200, OK);
        assert!(b.enter(11_000).is_err());
        let given_up = b.enter(11_200).unwrap();
        b.ended(given_up, 11_200, None);
        for n in 0..3 {
            assert_eq!(b.state(), if n == 0 { State::HalfOpen } else { b.state() });
            call(&b, 11_300, OK).unwrap();
        }
        assert_eq!(b.state(), State::Closed);
        (0..19).for_each(|n| call(&b, 11_400 + n, BAD).unwrap());
        assert_eq!(b.state(), State::Closed, "it begins with a clean slate");
    }

    #[test]
    fn trials_that_never_end_do_not_keep_it_half_open() {
        let b = breaker(BreakerPolicy::default());
        (0..20).for_each(|n| call(&b, n, BAD).unwrap());
        let hung: Vec<Pass> = (0..3).map(|_| b.enter(6_000).unwrap()).collect();
        assert!(b.enter(10_999).is_err(), "they have their time");
        let more: Vec<Pass> = (0..3).map(|_| b.enter(11_000).unwrap()).collect();
        assert!(b.enter(11_000).is_err(), "three more, and no others");
        // What becomes of the first counts, should it come at last.
        b.ended(hung[0], 12_000, OK);
        b.ended(hung[1], 12_000, None);
        b.ended(more[0], 12_000, OK);
        assert_eq!(b.state(), State::HalfOpen);
        b.ended(more[1], 12_000, OK);
        assert_eq!(b.state(), State::Closed);
        b.ended(hung[2], 12_001, BAD);
        assert_eq!(b.state(), State::Closed, "an older time says nothing");
        // All of them hang, for ever: every five seconds it is tried again, and the first good ones close it.
        (0..20).for_each(|n| call(&b, 13_000 + n, BAD).unwrap());
        for round in 0..50 {
            let now = 19_000 + round * 5_000;
            (0..3).for_each(|_| assert!(b.enter(now).is_ok()));
            assert!(b.enter(now).is_err());
        }
        (0..3).for_each(|_| call(&b, 270_000, OK).unwrap());
        assert_eq!(b.state(), State::Closed);
    }

    #[test]
    fn slow_calls_open_it_too_and_calls_given_up_say_nothing() {
        let b = breaker(BreakerPolicy { errors: None, slow: Some(0.8), ..BreakerPolicy::default() });
        (0..100).for_each(|n| call(&b, n, BAD).unwrap());
        (0..100).for_each(|n| call(&b, n, None).unwrap());
        assert_eq!(b.state(), State::Closed);
        (0..400).for_each(|n| {
            let _ = call(&b, 100 + n, SLOW);
        });
        assert_eq!(b.state(), State::Open);
    }

    #[test]
    fn what_is_in_flight_has_a_bound() {
        let b = breaker(BreakerPolicy { in_flight_max: Some(2), ..BreakerPolicy::default() });
        let (one, _two) = (b.enter(0).unwrap(), b.enter(0).unwrap());
        assert_eq!(b.enter(0), Err(Refused::Full(2)));
        b.ended(one, 1, OK);
        assert_eq!(b.enter(1), Err(Refused::Full(2)), "its body is still on its way");
        b.left();
        assert!(b.enter(1).is_ok());
    }

    /// Whatever comes in whatever order: never more trials than allowed, and it always finds its way back.
    #[test]
    fn it_never_locks_itself_out() {
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let b = breaker(BreakerPolicy {
                trials: 1 + random.below(4) as u32,
                calls_min: 1 + random.below(30) as u32,
                ..BreakerPolicy::default()
            });
            let (mut now, mut open, mut through) = (0, Vec::new(), Vec::new());
            for _ in 0..2_000 {
                now += random.below(200);
                match b.enter(now) {
                    Ok(pass) => {
                        if pass.trial {
                            through.push((pass.epoch, now));
                        }
                        open.push(pass);
                    }
                    Err(Refused::Open(wait)) => assert!(wait <= Duration::from_secs(5)),
                    Err(full) => panic!("{full:?}"),
                }
                let epoch = Mode::unpacked(b.mode.load(SeqCst)).epoch;
                let trials = open.iter().filter(|pass| pass.trial && pass.epoch == epoch).count();
                let first = through.iter().find(|(of, _)| *of == epoch).map_or(now, |(_, at)| *at);
                assert!(trials <= b.policy.trials as usize * (1 + (now - first) as usize / 5_000), "seed {seed}");
                if random.below(2) == 0 && !open.is_empty() {
                    let pass = open.swap_remove(random.below(open.len() as u64) as usize);
                    b.ended(pass, now, [OK, BAD, BAD, None][random.below(4) as usize]);
                    b.left();
                }
            }
            for pass in open.drain(..) {
                b.ended(pass, now, None);
                b.left();
            }
            assert_eq!(b.in_flight.load(SeqCst), 0);
            for step in 0..20 {
                let _ = call(&b, now + 20_000 + step, OK);
            }
            assert_eq!(b.state(), State::Closed, "seed {seed}");
        }
    }

    #[test]
    fn many_threads_count_every_call() {
        let b = Arc::new(breaker(BreakerPolicy { errors: Some(2.0), ..BreakerPolicy::default() }));
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let b = b.clone();
                std::thread::spawn(move || (0..2_000).for_each(|n| call(&b, n % 900, if n % 2 == 0 { BAD } else { OK }).unwrap()))
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(b.count(900, false, false), (8_001, 4_000, 0));
    }
}
