//! Services as all cores share them: name, endpoints, counts, retry budget.
//!
//! [`Services::run`] runs on the control runtime. It merges what directories list into each [`Service`]; cores look at
//! one number a call to see whether something changed. Nothing here is chosen or tried: that is `flow`.

use crate::metrics::{EndpointLevels, ServiceLevels};
use crate::retry::Budget;
use arc_swap::ArcSwap;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::MissedTickBehavior;
use wharf_core::directory::{Directory, Listing};
use wharf_core::metrics::Registry;
use wharf_core::outlet::{Endpoint, EndpointRef};

/// The endpoints of a service at one time.
#[derive(Debug, Default)]
pub struct EndpointSet {
    /// Grows with every change.
    pub version: u64,
    /// In the order of the listing.
    pub endpoints: Box<[EndpointRef]>,
}

/// One service of the house. Made by [`Services::put`].
pub struct Service {
    name: Arc<str>,
    registry: Arc<Registry>,
    directory: Mutex<Arc<dyn Directory>>,
    /// Another directory was set, or the service was retired.
    replaced: Notify,
    endpoints: ArcSwap<EndpointSet>,
    version: AtomicU64,
    merging: Mutex<HashMap<SocketAddr, EndpointLevels>>,
    levels: ServiceLevels,
    /// Calls in flight; counted only while there is a limit.
    pub(crate) in_flight: AtomicU32,
    pub(crate) budget: Budget,
    unreachable_in_a_row: AtomicU32,
}

/// Tries in a row that reached nobody before the directory is asked at once.
const UNREACHABLE_MAX: u32 = 3;
/// How often levels are set for the metrics.
const LEVELS_EVERY: Duration = Duration::from_secs(1);

impl Service {
    fn new(name: &str, directory: Arc<dyn Directory>, registry: Arc<Registry>) -> Service {
        let service = Service {
            name: name.into(),
            levels: ServiceLevels::new(&registry, name),
            registry,
            replaced: Notify::new(),
            endpoints: ArcSwap::default(),
            version: AtomicU64::new(0),
            merging: Mutex::default(),
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

    pub(crate) fn reached(&self) {
        // Mostly only read, so that cores do not take the line from each other.
        if self.unreachable_in_a_row.load(Ordering::Relaxed) != 0 {
            self.unreachable_in_a_row.store(0, Ordering::Relaxed);
        }
    }

    pub(crate) fn unreachable(&self) {
        if self.unreachable_in_a_row.fetch_add(1, Ordering::Relaxed) + 1 >= UNREACHABLE_MAX {
            self.unreachable_in_a_row.store(0, Ordering::Relaxed);
            self.refresh();
        }
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

    /// Takes a listing over. An address that stays keeps its endpoint's id, counts and connections, even if weight, zone
    /// or tags have changed; one that leaves is marked, so that its connections are not kept.
    fn merge(&self, listing: &Listing) {
        let mut levels = locked(&self.merging);
        let before = self.endpoints.load_full();
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
                levels.remove(&endpoint.address);
            }
        }
        let same =
            endpoints.len() == before.endpoints.len() && endpoints.iter().zip(&before.endpoints).all(|(new, old)| Arc::ptr_eq(new, old));
        if !same {
            for endpoint in &endpoints {
                levels
                    .entry(endpoint.address)
                    .or_insert_with(|| EndpointLevels::new(&self.registry, &self.name, &endpoint.address.to_string()));
            }
            let version = before.version + 1;
            self.endpoints.store(Arc::new(EndpointSet { version, endpoints }));
            // After the set, so that whoever sees the number finds the set.
            self.version.store(version, Ordering::Release);
        }
        drop(levels);
        self.set_levels(listing);
    }

    fn set_levels(&self, listing: &Listing) {
        let set = self.endpoints.load();
        self.levels.endpoints.set(set.endpoints.len() as i64);
        self.levels.listing_age.set(age(listing).as_secs() as i64);
        self.levels.listing_trouble.set(i64::from(listing.trouble.is_some()));
        let levels = locked(&self.merging);
        for endpoint in &set.endpoints {
            if let Some(levels) = levels.get(&endpoint.address) {
                levels.in_flight.set(i64::from(endpoint.in_flight.load(Ordering::Relaxed)));
                levels.connections.set(i64::from(endpoint.connections.load(Ordering::Relaxed)));
            }
        }
    }

    fn retire(&self) {
        for endpoint in &self.endpoints.load().endpoints {
            endpoint.gone.store(true, Ordering::Relaxed);
        }
    }

    /// Follows the directory for ever.
    async fn watch(self: Arc<Service>) {
        let mut tick = tokio::time::interval(LEVELS_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let directory = self.directory();
            let listing = directory.listing();
            self.merge(&listing);
            // Kept over the ticks: asking anew each second would also be right, but not cheap for a remote directory.
            let mut changed = directory.changed(listing.version);
            loop {
                tokio::select! {
                    listing = &mut changed => {
                        self.merge(&listing);
                        changed = directory.changed(listing.version);
                    }
                    () = self.replaced.notified() => break,
                    _ = tick.tick() => self.set_levels(&directory.listing()),
                }
            }
        }
    }
}

/// How long ago the source confirmed this. A clock set back reads as "just now".
pub(crate) fn age(listing: &Listing) -> Duration {
    SystemTime::now().duration_since(listing.confirmed).unwrap_or_default()
}

/// All services of the house by name, and the desk that lists them.
pub struct Services {
    registry: Arc<Registry>,
    by_name: Mutex<BTreeMap<Arc<str>, Arc<Service>>>,
    changed: Notify,
}

impl Services {
    /// None yet.
    pub fn new(registry: Arc<Registry>) -> Arc<Services> {
        Arc::new(Services { registry, by_name: Mutex::default(), changed: Notify::new() })
    }

    /// The service of this name, following this directory from now on. What is there stays: endpoints that both
    /// directories list keep their counts and connections.
    pub fn put(&self, name: &str, directory: Arc<dyn Directory>) -> Arc<Service> {
        let mut by_name = locked(&self.by_name);
        if let Some(service) = by_name.get(name) {
            service.set_directory(directory);
            return service.clone();
        }
        let service = Arc::new(Service::new(name, directory, self.registry.clone()));
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

fn locked<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
