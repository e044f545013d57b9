//! Services as all cores share them: name, endpoints, counts, retry budget.
//!
//! [`Services::run`] runs on the control runtime. It merges what directories list, and what becomes of the endpoints, into
//! each [`Service`] (`care`); cores look at one number a call to see whether something changed. Nothing here is chosen or
//! tried: that is `flow`.

use crate::balance::hash::{Table, hash};
use crate::breaker::{Breaker, BreakerPolicy};
use crate::care::{Keeping, now};
use crate::config::Care;
use crate::health;
use crate::limit::{Limiter, LimiterPolicy};
use crate::metrics::{BreakerLevels, ServiceLevels};
use crate::retry::Budget;
use crate::share::Share;
use crate::standing::Standing;
use arc_swap::ArcSwap;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::MissedTickBehavior;
use wharf_core::directory::{Directory, Listing};
use wharf_core::metrics::Registry;
use wharf_core::outlet::EndpointRef;

/// The endpoints of a service at one time.
#[derive(Debug, Default)]
pub struct EndpointSet {
    /// Grows with every change.
    pub version: u64,
    /// In the order of the listing.
    pub endpoints: Box<[EndpointRef]>,
    /// What each gets.
    pub shares: Box<[Share]>,
    /// What cores know of each.
    pub(crate) standings: Box<[Arc<Standing>]>,
    /// From keys to endpoints, where the policy chooses by a key.
    pub(crate) keyed: Option<Keyed>,
}

/// A table, and where its members stand in the set.
#[derive(Clone, Debug)]
pub(crate) struct Keyed {
    pub(crate) table: Arc<Table>,
    pub(crate) places: Arc<[usize]>,
}

/// One service of the house. Made by [`Services::put`].
pub struct Service {
    pub(crate) name: Arc<str>,
    registry: Arc<Registry>,
    /// Chance is drawn from it; another for each process, so that gateways do not fall into step.
    pub(crate) seed: u64,
    directory: Mutex<Arc<dyn Directory>>,
    /// Another directory was set, or the service was retired.
    replaced: Notify,
    pub(crate) care: ArcSwap<Care>,
    /// There may be others to be checked, or other questions.
    pub(crate) checking: Notify,
    /// Something has happened that may leave an endpoint out, or let it in.
    pub(crate) judging: Notify,
    /// Failures in a row that ask for a judgement.
    pub(crate) eject_after: AtomicU32,
    /// There is a row of failures, at an endpoint or of the whole service, that a good answer would end.
    pub(crate) trouble: AtomicBool,
    pub(crate) endpoints: ArcSwap<EndpointSet>,
    pub(crate) version: AtomicU64,
    pub(crate) keeping: Mutex<Keeping>,
    pub(crate) levels: ServiceLevels,
    /// Calls in flight; counted only while there is a limit.
    pub(crate) in_flight: AtomicU32,
    pub(crate) budget: Budget,
    pub(crate) unreachable_in_a_row: AtomicU32,
}

/// Tries in a row that reached nobody before the directory is asked at once.
const UNREACHABLE_MAX: u32 = 3;
/// How often levels are set for the metrics.
const LEVELS_EVERY: Duration = Duration::from_secs(1);

impl Service {
    fn new(name: &str, directory: Arc<dyn Directory>, registry: Arc<Registry>, seed: u64) -> Service {
        let care = Care::default();
        let service = Service {
            name: name.into(),
            seed,
            levels: ServiceLevels::new(&registry, name),
            registry,
            replaced: Notify::new(),
            endpoints: ArcSwap::default(),
            version: AtomicU64::new(0),
            keeping: Mutex::default(),
            eject_after: AtomicU32::new(care.ejection.failures),
            care: ArcSwap::from_pointee(care),
            checking: Notify::new(),
            judging: Notify::new(),
            trouble: AtomicBool::new(false),
            in_flight: AtomicU32::new(0),
            budget: Budget::default(),
            unreachable_in_a_row: AtomicU32::new(0),
            directory: Mutex::new(directory),
        };
        service.merge(&service.listing());
        service
    }

    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Its endpoints now.
    pub fn endpoints(&self) -> Arc<EndpointSet> {
        self.endpoints.load_full()
    }

    /// The endpoints that get calls and are well: those that it is worth to have connections to.
    pub fn called(&self) -> Vec<EndpointRef> {
        let set = self.endpoints.load();
        let all = set.endpoints.iter().zip(&set.shares);
        all.filter(|(_, share)| share.weight > 0 && share.fit).map(|(endpoint, _)| endpoint.clone()).collect()
    }

    /// What its directory knows now.
    pub fn listing(&self) -> Arc<Listing> {
        self.directory().listing()
    }

    /// Asks its directory's source at once.
    pub fn refresh(&self) {
        self.directory().refresh();
    }

    pub(crate) fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// The version of [`Service::endpoints`], for a look that costs one load.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// A try was answered well. Mostly one look at a line that nobody writes.
    #[inline]
    pub(crate) fn good(&self, standing: &Standing) {
        if self.trouble.load(Ordering::Relaxed) {
            self.unreachable_in_a_row.store(0, Ordering::SeqCst);
            standing.good();
        }
    }

    /// A try was answered, and in a way that speaks against the endpoint.
    #[cold]
    pub(crate) fn answered_badly(&self, standing: &Standing) -> bool {
        self.unreachable_in_a_row.store(0, Ordering::SeqCst);
        self.failed(standing, false)
    }

    /// A try has failed in a way that speaks against the endpoint. `true`: it has failed too often in a row, and will be
    /// judged.
    #[cold]
    pub(crate) fn failed(&self, standing: &Standing, unreachable: bool) -> bool {
        let row = standing.failed();
        if unreachable && self.unreachable_in_a_row.fetch_add(1, Ordering::SeqCst) + 1 >= UNREACHABLE_MAX {
            self.unreachable_in_a_row.store(0, Ordering::SeqCst);
            self.refresh();
        }
        // After what it speaks of; see `calm_down`.
        self.trouble.store(true, Ordering::SeqCst);
        // Once a row: should it not be left out now, because too many are, the watcher comes back to it every second.
        let judged = row == self.eject_after.load(Ordering::Relaxed);
        if judged {
            self.judging.notify_one();
        }
        judged
    }

    fn directory(&self) -> Arc<dyn Directory> {
        locked(&self.directory).clone()
    }

    fn set_directory(&self, directory: Arc<dyn Directory>) {
        {
            let mut have = locked(&self.directory);
            if Arc::ptr_eq(&have, &directory) {
                return;
            }
            *have = directory;
        }
        self.merge(&self.listing());
        self.replaced.notify_one();
    }

    pub(crate) fn set_levels(&self, listing: &Listing) {
        let (set, care, now) = (self.endpoints(), self.care(), now());
        self.levels.endpoints.set(set.endpoints.len() as i64);
        self.levels.listing_age.set(age(listing).as_secs() as i64);
        self.levels.listing_trouble.set(i64::from(listing.trouble.is_some()));
        let keeping = locked(&self.keeping);
        for (endpoint, share) in set.endpoints.iter().zip(&set.shares) {
            if let Some(kept) = keeping.get(&endpoint.address) {
                let levels = &kept.levels;
                levels.in_flight.set(i64::from(endpoint.in_flight.load(Ordering::Relaxed)));
                levels.connections.set(i64::from(endpoint.connections.load(Ordering::Relaxed)));
                levels.fit.set(i64::from(share.fit));
                levels.ejected.set(i64::from(kept.ejection.is_out()));
                if care.policy.compares_latency() {
                    let latency = kept.standing.latency(&Default::default(), now).unwrap_or_default();
                    levels.latency(&self.registry, &self.name, &endpoint.text).set(latency.as_micros() as i64);
                }
            }
        }
    }

    fn retire(&self) {
        for endpoint in &self.endpoints.load().endpoints {
            endpoint.gone.store(true, Ordering::Relaxed);
        }
    }

    /// Looks after the service for ever.
    async fn watch(self: Arc<Service>) {
        tokio::join!(self.follow(), health::look_after(&self, self.seed ^ hash(self.name.as_bytes(), 0)));
    }

    /// Follows the directory, and what becomes of the endpoints.
    async fn follow(&self) {
        let mut tick = tokio::time::interval(LEVELS_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let directory = self.directory();
            let listing = directory.listing();
            self.merge(&listing);
            // Kept over the ticks: asking anew each second would also be right, but not cheap for a remote directory.
            let mut changed = directory.changed(listing.version);
            loop {
                let next = self.judge(now());
                tokio::select! {
                    listing = &mut changed => {
                        self.merge(&listing);
                        changed = directory.changed(listing.version);
                    }
                    () = self.replaced.notified() => break,
                    () = self.judging.notified() => {}
                    () = at(next) => {}
                    _ = tick.tick() => {
                        self.sample();
                        self.set_levels(&directory.listing());
                    }
                }
            }
        }
    }
}

/// Resolves at a moment, if there is one.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

/// How long ago the source confirmed this. A clock set back reads as "just now".
pub(crate) fn age(listing: &Listing) -> Duration {
    SystemTime::now().duration_since(listing.confirmed).unwrap_or_default()
}

/// Held by those that they stand before; what they have counted goes with the last of them.
type Breakers = BTreeMap<(Guards, Arc<str>), Weak<Breaker>>;

/// All services of the house by name, and the desk that lists them.
pub struct Services {
    registry: Arc<Registry>,
    seed: u64,
    by_name: Mutex<BTreeMap<Arc<str>, Arc<Service>>>,
    breakers: Mutex<Breakers>,
    limiters: Mutex<BTreeMap<Arc<str>, Weak<Limiter>>>,
    changed: Notify,
}

/// What a breaker stands before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each name is the thing")]
pub enum Guards {
    Service,
    Route,
}

impl Guards {
    /// The word for metrics and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Guards::Service => "service",
            Guards::Route => "route",
        }
    }
}

impl Services {
    /// What is counted.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// None yet.
    pub fn new(registry: Arc<Registry>) -> Arc<Services> {
        Services::seeded(registry, RandomState::new().hash_one(0))
    }

    /// The same with a seed for whatever is left to chance, so that it can happen again.
    pub fn seeded(registry: Arc<Registry>, seed: u64) -> Arc<Services> {
        let (by_name, breakers, limiters) = Default::default();
        Arc::new(Services { registry, seed, by_name, breakers, limiters, changed: Notify::new() })
    }

    /// The service of this name, following this directory from now on. What is there stays: endpoints that both
    /// directories list keep their counts and connections.
    pub fn put(&self, name: &str, directory: Arc<dyn Directory>) -> Arc<Service> {
        let mut by_name = locked(&self.by_name);
        if let Some(service) = by_name.get(name) {
            service.set_directory(directory);
            return service.clone();
        }
        let service = Arc::new(Service::new(name, directory, self.registry.clone(), self.seed));
        by_name.insert(service.name().clone(), service.clone());
        self.changed.notify_one();
        service
    }

    /// Lets all other services go: they are followed no longer and their connections are not kept. Calls in flight and
    /// older generations may still use them.
    pub fn keep_only(&self, names: &HashSet<&str>) {
        locked(&self.by_name).retain(|name, service| {
            let keep = names.contains(&**name);
            if !keep {
                service.retire();
            }
            keep
        });
        self.changed.notify_one();
    }

    /// The breaker of a service or route. One that is held since before goes on with what it has counted, unless its policy
    /// has changed.
    pub fn breaker(&self, guards: Guards, name: &str, policy: BreakerPolicy) -> Arc<Breaker> {
        let mut breakers = locked(&self.breakers);
        breakers.retain(|_, breaker| breaker.strong_count() > 0);
        let key = (guards, Arc::from(name));
        match breakers.get(&key).and_then(Weak::upgrade) {
            Some(breaker) if *breaker.policy() == policy => breaker,
            _ => {
                let made = Arc::new(Breaker::new(guards, name, policy, BreakerLevels::new(&self.registry, guards, name)));
                breakers.insert(key, Arc::downgrade(&made));
                made
            }
        }
    }

    /// The adaptive limiter of a service, on the same terms.
    pub fn limiter(&self, name: &str, policy: LimiterPolicy) -> Arc<Limiter> {
        let mut limiters = locked(&self.limiters);
        limiters.retain(|_, limiter| limiter.strong_count() > 0);
        match limiters.get(name).and_then(Weak::upgrade) {
            Some(limiter) if *limiter.policy() == policy => limiter,
            _ => {
                let made = Arc::new(Limiter::new(name, policy, &self.registry));
                limiters.insert(name.into(), Arc::downgrade(&made));
                made
            }
        }
    }

    /// The breaker that stands, for operators.
    pub(crate) fn breaker_of(&self, of: Guards, name: &str) -> Option<Arc<Breaker>> {
        locked(&self.breakers).get(&(of, Arc::from(name))).and_then(Weak::upgrade)
    }

    /// The limiter that stands, for operators.
    pub(crate) fn limiter_of(&self, name: &str) -> Option<Arc<Limiter>> {
        locked(&self.limiters).get(name).and_then(Weak::upgrade)
    }

    /// The service of this name.
    pub fn get(&self, name: &str) -> Option<Arc<Service>> {
        locked(&self.by_name).get(name).cloned()
    }

    /// All, by name.
    pub fn all(&self) -> Vec<Arc<Service>> {
        locked(&self.by_name).values().cloned().collect()
    }

    /// Follows the directories of all services for ever. One task on the control runtime awaits it.
    ///
    /// # Cancel safety
    /// Dropping it ends all following; running it again goes on where it ended.
    pub async fn run(self: Arc<Services>) {
        let mut watchers = JoinSet::new();
        let mut running: HashMap<Arc<str>, (Arc<Service>, AbortHandle)> = HashMap::new();
        loop {
            let services = self.all();
            running.retain(|_, (service, watcher)| {
                let keep = services.iter().any(|have| Arc::ptr_eq(have, service));
                if !keep {
                    watcher.abort();
                }
                keep
            });
            for service in services {
                running.entry(service.name().clone()).or_insert_with(|| {
                    let watcher = watchers.spawn(service.clone().watch());
                    (service, watcher)
                });
            }
            // Those that were aborted are taken out of the set, or it would grow with every service that ever was.
            while watchers.try_join_next().is_some() {}
            self.changed.notified().await;
        }
    }
}

pub(crate) fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
