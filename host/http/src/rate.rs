//! Rate limits: how many requests in how much time, exactly, over all cores, in bounded memory.
//!
//! Each caller has one number, the time at which all that it has asked for would be paid (the generic cell rate algorithm):
//! a request that would push it further ahead than the burst allows is refused and moves nothing. The numbers are atomics
//! that all cores share; a lock is only taken for a caller that is seen for the first time.
//!
//! Callers are told apart by a keyed hash and live in buckets of a few places. A new one takes the place whose caller has
//! the least to remember: one that has paid everything loses nothing by that. So whoever invents many callers pushes out
//! other invented ones before one that has used up its limit, and memory stays what it is.
//!
//! Pure: `now` is an argument. Limits in their places are in `gate`.

use crate::routes::cookies;
use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::{BuildHasher as _, Hash as _, Hasher as _};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use wharf_core::exchange::Facts;

mod gate;
pub use gate::{Gate, Rationed};

/// How many in how much time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Requests in `per`; at least 1.
    pub limit: u32,
    /// 1 ms to 1 day.
    pub per: Duration,
    /// Requests that may come at once; at least 1.
    pub burst: u32,
}

/// Whom a limit is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum By {
    /// All of the route's (or service's) requests together.
    All,
    /// Each address; of an IPv6 address the first 64 bits, since whoever has one has all of those.
    Client,
    /// Each consumer: the attribute that auth plugins set. Who has none shares one limit with all who have none.
    Consumer,
    /// Each value of this field (lower-case name). Who does not send it shares one limit.
    Header(Box<str>),
    /// Each value of this cookie. Who does not send it shares one limit.
    Cookie(Box<str>),
}

/// Callers that one limit remembers.
const CALLERS: usize = 64 * 1024;
/// Places of one bucket.
const WAYS: usize = 8;
/// Locks for callers that are new.
const LOCKS: usize = 64;

/// One limit with what its callers have used of it.
pub struct Limit {
    rate: Rate,
    by: By,
    /// Nanoseconds that one request costs.
    cost: u64,
    /// Nanoseconds that a caller may be ahead of the clock.
    ahead_max: u64,
    began: Instant,
    one: AtomicU64,
    /// None where all share one number.
    places: Box<[Place]>,
    new: Box<[Mutex<()>]>,
    hash: RandomState,
}

/// The number of one caller.
#[derive(Default)]
struct Place {
    /// 0: nobody's.
    caller: AtomicU64,
    paid: AtomicU64,
}

impl Limit {
    /// A limit of which nothing is used. A table for [`CALLERS`] callers takes 1 MiB.
    pub fn new(rate: Rate, by: By) -> Limit {
        let per = rate.per.as_nanos() as u64;
        let cost = (per / u64::from(rate.limit.max(1))).max(1);
        let callers = if by == By::All { 0 } else { CALLERS };
        Limit {
            cost,
            ahead_max: cost.saturating_mul(u64::from(rate.burst.max(1))),
            rate,
            by,
            began: Instant::now(),
            one: AtomicU64::new(0),
            places: (0..callers).map(|_| Place::default()).collect(),
            new: (0..LOCKS).map(|_| Mutex::new(())).collect(),
            hash: RandomState::new(),
        }
    }

    /// Takes one from the caller of this exchange. `now`: since the limit began.
    ///
    /// # Errors
    /// How long until there is one again.
    fn take(&self, facts: &Facts, now: Duration) -> Result<(), Duration> {
        let now = now.as_nanos() as u64;
        let Some(caller) = self.caller(facts) else { return self.pay(&self.one, now) };
        loop {
            let Some(place) = self.find(caller).or_else(|| self.enter(caller, now)) else { return Ok(()) };
            let said = self.pay(&place.paid, now);
            // In the time between the two another caller may have got the place.
            if place.caller.load(Relaxed) == caller {
                return said.map_err(|wait| wait.max(Duration::from_nanos(1)));
            }
        }
    }

    /// Whom it is for, as a number that is never 0; `None`: for all.
    fn caller(&self, facts: &Facts) -> Option<u64> {
        let mut hasher = self.hash.build_hasher();
        match &self.by {
            By::All => return None,
            By::Client => match facts.client.to_canonical() {
                IpAddr::V4(address) => address.hash(&mut hasher),
                IpAddr::V6(address) => (address.to_bits() >> 64).hash(&mut hasher),
            },
            By::Consumer => facts.attrs.get("consumer").hash(&mut hasher),
            By::Header(name) => facts.request.fields.get(name.as_bytes()).hash(&mut hasher),
            By::Cookie(name) => {
                let value = cookies(&facts.request).find(|(have, _)| *have == name.as_bytes()).map(|(_, value)| value);
                value.hash(&mut hasher);
            }
        }
        Some(hasher.finish().max(1))
    }

    fn pay(&self, paid: &AtomicU64, now: u64) -> Result<(), Duration> {
        let mut have = paid.load(Relaxed);
        loop {
            let next = have.max(now).saturating_add(self.cost);
            let ahead = next - now;
            if ahead > self.ahead_max {
                return Err(Duration::from_nanos(ahead - self.ahead_max));
            }
            match paid.compare_exchange_weak(have, next, Relaxed, Relaxed) {
                Ok(_) => return Ok(()),
                Err(other) => have = other,
            }
        }
    }

    fn bucket(&self, caller: u64) -> &[Place] {
        let buckets = (self.places.len() / WAYS).max(1);
        let at = (caller as usize % buckets) * WAYS;
        self.places.get(at..at + WAYS).unwrap_or_default()
    }

    fn find(&self, caller: u64) -> Option<&Place> {
        self.bucket(caller).iter().find(|place| place.caller.load(Relaxed) == caller)
    }

    /// Gives a caller the place of the one that has the least to remember.
    #[cold]
    fn enter(&self, caller: u64, now: u64) -> Option<&Place> {
        // Two cores may see it for the first time at once; with two places it would have twice the limit.
        let lock = self.new.get(caller as usize / WAYS % LOCKS)?;
        let _entering = lock.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = self.find(caller) {
            return Some(place);
        }
        let least = self.bucket(caller).iter().min_by_key(|place| {
            let paid = place.paid.load(Relaxed);
            (place.caller.load(Relaxed) != 0, paid.max(now))
        })?;
        least.caller.store(0, Relaxed);
        least.paid.store(0, Relaxed);
        least.caller.store(caller, Relaxed);
        Some(least)
    }
}

impl fmt::Debug for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Limit({:?} by {:?})", self.rate, self.by)
    }
}

/// All limits that are in force, by a name that is unique in the configuration. A limit that a new configuration has, too,
/// goes on with what is used of it.
#[derive(Debug, Default)]
pub struct Limits(HashMap<Box<str>, Arc<Limit>>);

impl Limits {
    /// The limits of a new configuration, after those of the one before.
    pub fn after(before: &Limits, wanted: impl Iterator<Item = (Box<str>, Rate, By)>) -> Limits {
        let made = wanted.map(|(name, rate, by)| {
            let kept = before.0.get(&name).filter(|limit| limit.rate == rate && limit.by == by).cloned();
            (name, kept.unwrap_or_else(|| Arc::new(Limit::new(rate, by))))
        });
        Limits(made.collect())
    }

    /// The limit of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Limit>> {
        self.0.get(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const MS: Duration = Duration::from_millis(1);

    fn from(client: u32) -> Facts {
        Facts { client: Ipv4Addr::from_bits(client).into(), ..Facts::default() }
    }

    fn passed(limit: &Limit, facts: &Facts, times: usize, now: Duration) -> usize {
        (0..times).filter(|_| limit.take(facts, now).is_ok()).count()
    }

    #[test]
    fn the_burst_passes_at_once_and_then_the_rate() {
        let limit = Limit::new(Rate { limit: 100, per: Duration::from_secs(60), burst: 10 }, By::All);
        let facts = from(1);
        assert_eq!(passed(&limit, &facts, 1000, MS), 10);
        assert_eq!(limit.take(&facts, MS), Err(600 * MS));
        assert_eq!(limit.take(&facts, 600 * MS), Err(MS));
        assert_eq!(passed(&limit, &facts, 5, 601 * MS), 1);
        assert_eq!(passed(&limit, &facts, 1000, 3001 * MS), 4);
        // Patience is not saved up beyond the burst.
        assert_eq!(passed(&limit, &facts, 1000, Duration::from_secs(3600)), 10);
    }

    #[test]
    fn each_caller_has_a_limit_of_its_own() {
        let rate = Rate { limit: 5, per: Duration::from_secs(1), burst: 5 };
        let limit = Limit::new(rate, By::Client);
        for client in 0..100 {
            assert_eq!(passed(&limit, &from(client), 20, MS), 5, "{client}");
        }
        let with = |name: &str, value: &str| {
            let mut facts = from(1);
            facts.request.fields.add(name.as_bytes(), value.as_bytes());
            facts
        };
        let limit = Limit::new(rate, By::Header("x-key".into()));
        assert_eq!(passed(&limit, &with("x-key", "a"), 9, MS), 5);
        assert_eq!(passed(&limit, &with("x-key", "b"), 9, MS), 5);
        assert_eq!(passed(&limit, &from(1), 4, MS) + passed(&limit, &from(2), 4, MS), 5, "without it all are one");
        let limit = Limit::new(rate, By::Cookie("s".into()));
        assert_eq!(passed(&limit, &with("cookie", "a=1; s=x"), 9, MS), 5);
        assert_eq!(passed(&limit, &with("cookie", "s=x; a=2"), 9, MS), 0);
        let limit = Limit::new(rate, By::Consumer);
        let mut acme = from(1);
        acme.attrs.set("consumer", "acme");
        assert_eq!(passed(&limit, &acme, 9, MS), 5);
        acme.client = Ipv4Addr::new(9, 9, 9, 9).into();
        assert_eq!(passed(&limit, &acme, 9, MS), 0, "wherever it comes from");
    }

    #[test]
    fn a_network_of_version_6_is_one_caller() {
        let limit = Limit::new(Rate { limit: 5, per: Duration::from_secs(1), burst: 5 }, By::Client);
        let at = |address: &str| Facts { client: address.parse().unwrap(), ..Facts::default() };
        assert_eq!(passed(&limit, &at("2001:db8::1"), 9, MS), 5);
        assert_eq!(passed(&limit, &at("2001:db8::ffff:1"), 9, MS), 0);
        assert_eq!(passed(&limit, &at("2001:db8:0:1::1"), 9, MS), 5);
    }

    #[test]
    fn over_many_threads_exactly_the_limit_passes() {
        for by in [By::All, By::Client] {
            for round in 0..20 {
                let limit = Arc::new(Limit::new(Rate { limit: 100, per: Duration::from_secs(60), burst: 10 }, by.clone()));
                let threads: Vec<_> = (0..8)
                    .map(|_| {
                        let limit = limit.clone();
                        std::thread::spawn(move || passed(&limit, &from(7), 125, MS))
                    })
                    .collect();
                let all: usize = threads.into_iter().map(|thread| thread.join().unwrap()).sum();
                assert_eq!(all, 10, "{by:?}, round {round}");
            }
        }
    }

    #[test]
    fn many_invented_callers_do_not_reset_one_that_has_used_its_limit() {
        let limit = Limit::new(Rate { limit: 10, per: Duration::from_secs(60), burst: 10 }, By::Client);
        let greedy: Vec<_> = (0..50).map(|at| from(0x0a00_0000 + at)).collect();
        for facts in &greedy {
            assert_eq!(passed(&limit, facts, 11, MS), 10);
        }
        // Five times as many as there are places.
        for invented in 0..5 * CALLERS as u32 {
            assert_eq!(passed(&limit, &from(0x3000_0000 + invented), 1, 2 * MS), 1);
        }
        let again: usize = greedy.iter().map(|facts| passed(&limit, facts, 1, 3 * MS)).sum();
        assert_eq!(again, 0);
        assert_eq!(limit.places.len(), CALLERS, "and the table has not grown");
    }

    #[test]
    fn a_limit_that_stays_the_same_goes_on_over_a_reload() {
        let rate = Rate { limit: 10, per: Duration::from_secs(60), burst: 10 };
        let wanted = |rate| [("route a/0".into(), rate, By::All), ("route b/0".into(), rate, By::All)].into_iter();
        let before = Limits::after(&Limits::default(), wanted(rate));
        assert_eq!(passed(before.get("route a/0").unwrap(), &from(1), 20, MS), 10);
        let same = Limits::after(&before, wanted(rate));
        assert_eq!(passed(same.get("route a/0").unwrap(), &from(1), 20, MS), 0);
        assert_eq!(passed(same.get("route b/0").unwrap(), &from(1), 20, MS), 10);
        let changed = Limits::after(&same, wanted(Rate { burst: 11, ..rate }));
        assert_eq!(passed(changed.get("route a/0").unwrap(), &from(1), 20, MS), 11);
        assert!(Limits::after(&changed, std::iter::empty()).get("route a/0").is_none());
    }
}
