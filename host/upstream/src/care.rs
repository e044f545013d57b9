//! How a service's endpoints are looked after: who is out, who comes back, who gets which share. The control runtime's half.
//!
//! One judge for all cores, so that no two of them can leave out one endpoint too many. Cores only count (`standing`) and ask
//! for a judgement; what comes of it is another [`EndpointSet`], which they find with their next look. The decisions are in
//! `ejection`, `health` and `share`.

use crate::balance::Policy;
use crate::balance::hash::{Member, Table};
use crate::config::{Care, HealthPolicy};
use crate::ejection::{Ejection, Recent, may_eject};
use crate::health::Record;
use crate::metrics::EndpointLevels;
use crate::service::{EndpointSet, Keyed, Service, locked};
use crate::share::{Candidate, Condition, Share, Sharing, shares};
use crate::standing::Standing;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use wharf_core::directory::Listing;
use wharf_core::outlet::{Endpoint, EndpointRef};

/// What control remembers of one endpoint, as long as it is listed.
pub(crate) struct Kept {
    pub(crate) standing: Arc<Standing>,
    pub(crate) levels: EndpointLevels,
    pub(crate) drained: bool,
    pub(crate) record: Record,
    pub(crate) ejection: Ejection,
    recent: Recent,
    /// Its slow start began then.
    ramp_from: Option<Instant>,
}

/// All that control remembers, by address.
pub(crate) type Keeping = HashMap<SocketAddr, Kept>;

/// Steps of a slow start, and the shortest.
const RAMP_STEPS: u32 = 20;
const RAMP_STEP_MIN: Duration = Duration::from_millis(100);

impl Service {
    /// Looks after the endpoints in another way from now on. What is known of them stays, but for what was asked of them if
    /// that has changed.
    pub fn configure(&self, care: Care) {
        let mut keeping = locked(&self.keeping);
        let before = self.care();
        let same_questions = match (&before.health, &care.health) {
            (None, None) => true,
            (Some(before), Some(after)) => before.is_same(after),
            _ => false,
        };
        if !same_questions {
            let record = if care.health.is_some() { Record::unknown() } else { Record::default() };
            keeping.values_mut().for_each(|kept| kept.record = record.clone());
        }
        let ejects = care.ejection.failures > 0 || care.ejection.rate.is_some();
        if !ejects {
            keeping.values_mut().for_each(|kept| kept.ejection.pardon());
        }
        let after = if care.ejection.failures == 0 { u32::MAX } else { care.ejection.failures };
        self.eject_after.store(after, Ordering::Relaxed);
        self.care.store(Arc::new(care));
        self.publish(&mut keeping, self.endpoints().endpoints.clone(), now());
        drop(keeping);
        if !same_questions {
            self.checking.notify_one();
        }
        self.judging.notify_one();
    }

    /// How its endpoints are looked after.
    pub fn care(&self) -> Arc<Care> {
        self.care.load_full()
    }

    /// Resolves when there may be others to be checked, or other questions.
    pub(crate) async fn care_changed(&self) {
        self.checking.notified().await;
    }

    /// Takes an endpoint out by hand, or back in. Calls in flight go on. `false`: there is no such endpoint.
    pub fn drain(&self, address: SocketAddr, drained: bool) -> bool {
        let mut keeping = locked(&self.keeping);
        let Some(kept) = keeping.get_mut(&address) else { return false };
        if kept.drained != drained {
            kept.drained = drained;
            if !drained {
                // Whoever takes it back in has looked after it.
                kept.ejection.pardon();
                kept.ramp_from = Some(now());
            }
            let to = if drained { "out" } else { "back in" };
            tracing::info!(service = &*self.name, endpoint = %address, "endpoint was taken {to} by hand");
            self.publish(&mut keeping, self.endpoints().endpoints.clone(), now());
            self.judging.notify_one();
        }
        true
    }

    /// Takes a listing over. An address that stays keeps its endpoint's id, counts and connections, even if weight, zone
    /// or tags have changed; one that leaves is marked, so that its connections are not kept.
    pub(crate) fn merge(&self, listing: &Listing) {
        let mut keeping = locked(&self.keeping);
        let (before, care, now) = (self.endpoints(), self.care(), now());
        let old: HashMap<SocketAddr, &EndpointRef> = before.endpoints.iter().map(|endpoint| (endpoint.address, endpoint)).collect();
        let mut seen = HashSet::new();
        let endpoints: Box<[EndpointRef]> = listing
            .endpoints
            .iter()
            // An address that is listed twice is one endpoint; the first line counts.
            .filter(|listed| seen.insert(listed.address))
            .map(|listed| match old.get(&listed.address) {
                Some(old) if old.weight == listed.weight && old.zone == listed.zone && old.tags == listed.tags => (*old).clone(),
                Some(old) => Arc::new(old.relisted(listed.weight, listed.zone.clone(), listed.tags.clone())),
                None => {
                    let (zone, tags) = (listed.zone.clone(), listed.tags.clone());
                    Arc::new(Endpoint::new(self.name.clone(), listed.address, listed.weight, zone, tags))
                }
            })
            .collect();
        for endpoint in &before.endpoints {
            if !seen.contains(&endpoint.address) {
                endpoint.gone.store(true, Ordering::Relaxed);
                keeping.remove(&endpoint.address);
            }
        }
        for endpoint in &endpoints {
            keeping.entry(endpoint.address).or_insert_with(|| Kept {
                standing: Arc::new(Standing::new()),
                levels: EndpointLevels::new(self.registry(), &self.name, &endpoint.address.to_string()),
                drained: false,
                record: if care.health.is_some() { Record::unknown() } else { Record::default() },
                ejection: Ejection::default(),
                recent: Recent::default(),
                // Where all are new, none has to be spared.
                ramp_from: (!before.endpoints.is_empty() && !care.slow_start.is_zero()).then_some(now),
            });
        }
        if self.publish(&mut keeping, endpoints, now) {
            self.checking.notify_one();
            self.judging.notify_one();
        }
        drop(keeping);
        self.set_levels(listing);
    }

    /// A check has ended.
    pub(crate) fn heard(&self, address: SocketAddr, answer: Result<(), String>, policy: &HealthPolicy) {
        let mut keeping = locked(&self.keeping);
        let Some(kept) = keeping.get_mut(&address) else { return };
        let count = if answer.is_ok() { &self.levels.checks_good } else { &self.levels.checks_bad };
        count.add_shared(1);
        let before = kept.record.condition();
        if !kept.record.heard(answer, policy.healthy, policy.unhealthy) {
            return;
        }
        let (service, check) = (&*self.name, policy.probe.what());
        match kept.record.trouble() {
            Some(trouble) => tracing::warn!(service, endpoint = %address, check, trouble, "endpoint is ill and gets no calls"),
            None => tracing::info!(service, endpoint = %address, check, "endpoint is well"),
        }
        if before == Condition::Ill {
            kept.ramp_from = Some(now());
        }
        self.publish(&mut keeping, self.endpoints().endpoints.clone(), now());
        self.judging.notify_one();
    }

    /// Notes, once a second, what tries have come to.
    pub(crate) fn sample(&self) {
        if self.care().ejection.rate.is_some() {
            for kept in locked(&self.keeping).values_mut() {
                let (good, bad) = kept.standing.tallies();
                kept.recent.sample(good, bad);
            }
        }
    }

    /// Lets back in whose time is over, leaves out who has failed too often, and moves slow starts on. Says when to look
    /// again, if something is due.
    pub(crate) fn judge(&self, now: Instant) -> Option<Instant> {
        let mut keeping = locked(&self.keeping);
        let (set, care) = (self.endpoints(), self.care());
        let mut next: Option<Instant> = None;
        let mut at = |moment: Instant| next = Some(next.map_or(moment, |next| next.min(moment)));
        let counted: Vec<&EndpointRef> =
            set.endpoints.iter().filter(|one| one.weight > 0 && keeping.get(&one.address).is_some_and(|kept| !kept.drained)).collect();
        for endpoint in &set.endpoints {
            let Some(kept) = keeping.get_mut(&endpoint.address) else { continue };
            if kept.ejection.comes_back(now) {
                kept.standing.good();
                kept.ramp_from = Some(now);
                tracing::info!(service = &*self.name, endpoint = %endpoint.address, "endpoint is let back in");
            }
            if let Some(from) = kept.ramp_from {
                let whole = from.checked_add(care.slow_start).filter(|end| *end > now && care.table().is_none());
                match whole {
                    Some(_) => at(now + (care.slow_start / RAMP_STEPS).max(RAMP_STEP_MIN)),
                    None => kept.ramp_from = None,
                }
            }
        }
        let mut out = counted.iter().filter(|one| keeping.get(&one.address).is_some_and(|kept| kept.ejection.is_out())).count();
        for endpoint in &counted {
            let Some(kept) = keeping.get_mut(&endpoint.address).filter(|kept| !kept.ejection.is_out()) else { continue };
            let failures = kept.standing.failing();
            let row = care.ejection.failures > 0 && failures >= care.ejection.failures;
            if !(row || kept.recent.is_bad(&care.ejection)) || !may_eject(&care.ejection, counted.len(), out) {
                continue;
            }
            let long = kept.ejection.eject(&care.ejection, now);
            kept.standing.good();
            kept.recent.clear();
            out += 1;
            self.levels.ejections.add_shared(1);
            let why = if row { "failures in a row" } else { "its rate of failures" };
            tracing::warn!(service = &*self.name, endpoint = %endpoint.address, failures, "endpoint is left out for {long:?} for {why}");
        }
        keeping.values().filter_map(|kept| kept.ejection.until()).for_each(at);
        self.calm_down(&keeping);
        self.publish(&mut keeping, set.endpoints.clone(), now);
        next
    }

    /// Tells cores that there is no row of failures to be ended, if there is none.
    fn calm_down(&self, keeping: &Keeping) {
        if !self.trouble.load(Ordering::Relaxed) {
            return;
        }
        // First: whoever counts a failure from here on says so after us.
        self.trouble.store(false, Ordering::SeqCst);
        let rows = keeping.values().any(|kept| kept.standing.failing() > 0);
        if rows || self.unreachable_in_a_row.load(Ordering::SeqCst) > 0 {
            self.trouble.store(true, Ordering::SeqCst);
        }
    }

    /// Makes the set of these endpoints, if it is another than the one before. `true`: it is.
    fn publish(&self, keeping: &mut Keeping, endpoints: Box<[EndpointRef]>, now: Instant) -> bool {
        let (before, care) = (self.endpoints(), self.care());
        let of = |endpoint: &EndpointRef| keeping.get(&endpoint.address);
        let candidates: Vec<Candidate<'_>> = endpoints
            .iter()
            .map(|endpoint| Candidate {
                weight: endpoint.weight,
                zone: endpoint.zone.as_deref(),
                drained: of(endpoint).is_some_and(|kept| kept.drained),
                condition: of(endpoint).map_or(Condition::Unasked, |kept| kept.record.condition()),
                ejected: of(endpoint).is_some_and(|kept| kept.ejection.is_out()),
                ramp: of(endpoint).and_then(|kept| kept.ramp_from).map_or(1.0, |from| ramp(from, now, care.slow_start)),
            })
            .collect();
        let sharing = Sharing {
            ignore_weights: care.policy == Policy::RoundRobin,
            keyed: care.table().is_some(),
            zone: care.zone.as_deref(),
            zone_enough: care.zone_enough,
            panic_below: care.panic_below,
        };
        let made = shares(&candidates, &sharing);
        self.levels.panic.set(i64::from(made.panic));
        self.levels.fit.set(made.all.iter().filter(|share| share.weight > 0).count() as i64);
        let keyed = keyed(&care, &before, &endpoints, &made.all);
        let same = endpoints.len() == before.endpoints.len()
            && endpoints.iter().zip(&before.endpoints).all(|(new, old)| Arc::ptr_eq(new, old))
            && *made.all == *before.shares
            && keyed.as_ref().map(|keyed| Arc::as_ptr(&keyed.table)) == before.keyed.as_ref().map(|keyed| Arc::as_ptr(&keyed.table));
        if same {
            return false;
        }
        let standings = endpoints.iter().map(|one| of(one).map_or_else(|| Arc::new(Standing::new()), |kept| kept.standing.clone()));
        let version = before.version + 1;
        let set = EndpointSet { version, standings: standings.collect(), shares: made.all.into(), keyed, endpoints };
        self.endpoints.store(Arc::new(set));
        // After the set, so that whoever sees the number finds the set.
        self.version.store(version, Ordering::Release);
        true
    }
}

/// The table of those that get calls; the one before if they are the same.
fn keyed(care: &Care, before: &EndpointSet, endpoints: &[EndpointRef], shares: &[Share]) -> Option<Keyed> {
    let kind = care.table()?;
    let used = || endpoints.iter().zip(shares).enumerate().filter(|(_, (_, share))| share.weight > 0);
    let members: Vec<Member> = used().map(|(_, (one, _))| Member { name: (&*one.text).into(), weight: one.weight }).collect();
    let places = used().map(|(at, _)| at).collect();
    let table = match &before.keyed {
        Some(keyed) if keyed.table.is_of(kind, &members) => keyed.table.clone(),
        _ => Arc::new(Table::new(kind, members)),
    };
    Some(Keyed { table, places })
}

fn ramp(from: Instant, now: Instant, whole: Duration) -> f64 {
    if whole.is_zero() { 1.0 } else { now.saturating_duration_since(from).as_secs_f64() / whole.as_secs_f64() }
}

/// The time. In tests tokio's clock, which can be paused; elsewhere the system's own, which tokio's is with a few steps
/// between that every call would pay twice.
#[inline]
pub(crate) fn now() -> Instant {
    #[cfg(test)]
    return tokio::time::Instant::now().into_std();
    #[cfg(not(test))]
    Instant::now()
}
