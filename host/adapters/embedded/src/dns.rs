//! Endpoints behind host names, asked again and again; fixed addresses may stand beside them in one service.
//!
//! Names are resolved by the system (`getaddrinfo`: hosts file, search list, both address families), which does not
//! tell how long an answer may be kept; so the interval is ours. An answer that is empty, late or an error changes
//! nothing: unknown is not empty. The last good addresses of that name stay, [`Listing::confirmed`] grows old and
//! [`Listing::trouble`] says why. No SRV records, no order of preference: all addresses of a name are equal.

use crate::fixed::changed;
use futures_util::future::join_all;
use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use wharf_core::BoxFuture;
use wharf_core::directory::{Directory, Listed, Listing};
use wharf_core::seldom::Seldom;

/// Asks for the addresses of a name.
pub trait Resolve: Send + Sync {
    /// All addresses of a host name, in any order.
    ///
    /// # Errors
    /// The name is unknown, or nobody could be asked.
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>>;
}

/// The system's own resolver. A lookup that is given up goes on in a thread of tokio's blocking pool until the system
/// gives up, too; at most one a name and interval.
#[derive(Debug, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((name, 0)).await?.map(|address| address.ip()).collect()) })
    }
}

/// Who stands behind a line of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// Fixed.
    Address(IpAddr),
    /// To be resolved.
    Name(Box<str>),
}

/// One line of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Who.
    pub host: Host,
    /// TCP port, the same for all addresses of a name.
    pub port: u16,
    /// Of each address.
    pub weight: u32,
    /// Of each address.
    pub zone: Option<Box<str>>,
    /// Of each address.
    pub tags: Box<[Box<str>]>,
}

/// How often and how long.
#[derive(Clone, Copy, Debug)]
pub struct DnsTimes {
    /// From one answer to the next question. Default 30 s, the shortest time that name servers of clusters usually give.
    pub interval: Duration,
    /// For one question. Default 5 s, the system's own for one name server.
    pub timeout: Duration,
    /// Between two questions that [`Directory::refresh`] asks for. Default 1 s: failed calls come in hundreds.
    pub refresh_gap: Duration,
}

impl Default for DnsTimes {
    fn default() -> DnsTimes {
        DnsTimes { interval: Duration::from_secs(30), timeout: Duration::from_secs(5), refresh_gap: Duration::from_secs(1) }
    }
}

/// See the head of the file.
pub struct DnsDirectory {
    resolver: Arc<dyn Resolve>,
    times: DnsTimes,
    state: Mutex<State>,
    listing: watch::Sender<Arc<Listing>>,
    /// Rounds of questions that have ended, for [`DnsDirectory::asked`].
    rounds: watch::Sender<u64>,
    wake: Arc<Notify>,
}

struct State {
    sources: Vec<Source>,
    /// One for each name.
    names: Vec<Known>,
}

/// What is known of one name.
#[derive(Clone)]
struct Known {
    name: Box<str>,
    /// Sorted, without doubles. Empty: never answered.
    addresses: Vec<IpAddr>,
    confirmed: SystemTime,
    trouble: Option<String>,
    /// When that is told of.
    told: Arc<Seldom>,
}

impl DnsDirectory {
    /// A directory of these sources. Fixed addresses are listed at once, names after [`DnsDirectory::run`] has asked.
    pub fn new(sources: Vec<Source>, resolver: Arc<dyn Resolve>, times: DnsTimes) -> Arc<DnsDirectory> {
        let listing = Listing { version: 1, endpoints: Vec::new(), confirmed: SystemTime::now(), trouble: None };
        let directory = DnsDirectory {
            resolver,
            times,
            state: Mutex::new(State { sources: Vec::new(), names: Vec::new() }),
            listing: watch::Sender::new(Arc::new(listing)),
            rounds: watch::Sender::new(0),
            wake: Arc::new(Notify::new()),
        };
        directory.set(sources);
        Arc::new(directory)
    }

    /// The configuration was read again, and says this now. Names that stay keep their addresses.
    pub fn set(&self, sources: Vec<Source>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut names: Vec<Known> = Vec::new();
        for source in &sources {
            let Host::Name(name) = &source.host else { continue };
            if names.iter().any(|known| known.name == *name) {
                continue;
            }
            let kept = state.names.iter().find(|known| known.name == *name).cloned();
            names.push(kept.unwrap_or_else(|| Known {
                name: name.clone(),
                addresses: Vec::new(),
                confirmed: SystemTime::now(),
                trouble: Some(format!("name {name:?} was not asked yet")),
                told: Arc::default(),
            }));
        }
        *state = State { sources, names };
        self.publish(&state);
        self.wake.notify_one();
    }

    /// Asks until the directory is dropped. One task for each directory, on the control runtime.
    pub fn run(self: &Arc<Self>) -> impl Future<Output = ()> + Send + 'static {
        let (weak, wake, times) = (Arc::downgrade(self), self.wake.clone(), self.times);
        async move {
            loop {
                let asked_at = Instant::now();
                let Some(directory) = weak.upgrade() else { return };
                directory.ask().await;
                drop(directory);
                tokio::select! {
                    () = tokio::time::sleep(times.interval) => {}
                    // Dropping the directory wakes, too.
                    () = wake.notified() => {
                        if weak.strong_count() > 0 {
                            tokio::time::sleep_until(asked_at + times.refresh_gap).await;
                        }
                    }
                }
            }
        }
    }

    /// Resolves once every name was asked, answered or not: what a start waits for before it serves.
    ///
    /// # Cancel safety
    /// May be dropped at any time.
    pub async fn asked(&self) {
        let mut rounds = self.rounds.subscribe();
        let _ = rounds.wait_for(|rounds| *rounds > 0).await;
    }

    /// One round: all names at once, each with its time-out.
    async fn ask(&self) {
        let names: Vec<Box<str>> = self.locked().names.iter().map(|known| known.name.clone()).collect();
        let questions = names.iter().map(|name| tokio::time::timeout(self.times.timeout, self.resolver.resolve(name)));
        let answers = join_all(questions).await;
        let now = SystemTime::now();
        let mut state = self.locked();
        for (name, answer) in names.iter().zip(answers) {
            // The configuration may have changed meanwhile.
            let Some(known) = state.names.iter_mut().find(|known| known.name == *name) else { continue };
            let kept = known.addresses.len();
            let trouble = match answer {
                Ok(Ok(mut addresses)) if !addresses.is_empty() => {
                    addresses.sort_unstable();
                    addresses.dedup();
                    (known.addresses, known.confirmed, known.trouble) = (addresses, now, None);
                    continue;
                }
                Ok(Ok(_)) => "has no addresses".to_owned(),
                Ok(Err(error)) => format!("could not be resolved: {error}"),
                Err(_) => format!("was not resolved within {:?}", self.times.timeout),
            };
            let trouble = format!("name {name:?} {trouble}; its last {kept} addresses are kept");
            if let Some(times) = known.told.happened(Instant::now().into_std()) {
                tracing::warn!(times, "{trouble}");
            }
            known.trouble = Some(trouble);
        }
        self.publish(&state);
        drop(state);
        self.rounds.send_modify(|rounds| *rounds += 1);
    }

    /// Makes the listing of what is known.
    fn publish(&self, state: &State) {
        let mut seen = HashSet::new();
        let mut endpoints = Vec::new();
        for source in &state.sources {
            let fixed;
            let addresses: &[IpAddr] = match &source.host {
                Host::Address(address) => {
                    fixed = [*address];
                    &fixed
                }
                Host::Name(name) => state.names.iter().find(|known| known.name == *name).map_or(&[], |known| &known.addresses),
            };
            for &address in addresses {
                let address = SocketAddr::new(address, source.port);
                // Two names of one machine are one endpoint; the first line says what it is.
                if seen.insert(address) {
                    endpoints.push(Listed { address, weight: source.weight, zone: source.zone.clone(), tags: source.tags.clone() });
                }
            }
        }
        // The oldest answer is what the whole is worth. Fixed addresses are as new as the configuration.
        let confirmed = state.names.iter().map(|known| known.confirmed).min().unwrap_or_else(SystemTime::now);
        let troubles: Vec<&str> = state.names.iter().filter_map(|known| known.trouble.as_deref()).collect();
        let trouble = (!troubles.is_empty()).then(|| troubles.join("; "));
        self.listing.send_modify(|listing| {
            let version = listing.version + u64::from(listing.endpoints != endpoints);
            *listing = Arc::new(Listing { version, endpoints, confirmed, trouble });
        });
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for DnsDirectory {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}

impl Directory for DnsDirectory {
    fn listing(&self) -> Arc<Listing> {
        self.listing.borrow().clone()
    }

    fn changed(&self, seen: u64) -> BoxFuture<'_, Arc<Listing>> {
        Box::pin(changed(self.listing.subscribe(), seen))
    }

    fn refresh(&self) {
        self.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    /// A name server whose answers are set; `None`: it never answers.
    #[derive(Default)]
    struct Zone {
        names: Mutex<HashMap<String, Option<Vec<&'static str>>>>,
        asked: AtomicU32,
    }

    impl Zone {
        fn set(&self, name: &str, addresses: Option<Vec<&'static str>>) {
            self.names.lock().unwrap().insert(name.into(), addresses);
        }
    }

    impl Resolve for Zone {
        fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
            self.asked.fetch_add(1, Relaxed);
            let answer = self.names.lock().unwrap().get(name).cloned();
            Box::pin(async move {
                match answer {
                    None => Err(io::Error::other("no such name")),
                    Some(None) => std::future::pending().await,
                    Some(Some(addresses)) => Ok(addresses.iter().map(|address| address.parse().unwrap()).collect()),
                }
            })
        }
    }

    fn source(host: &str, port: u16) -> Source {
        let host = host.parse().map_or_else(|_| Host::Name(host.into()), Host::Address);
        Source { host, port, weight: 1, zone: None, tags: [].into() }
    }

    fn addresses(listing: &Listing) -> Vec<String> {
        listing.endpoints.iter().map(|listed| listed.address.to_string()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn names_and_fixed_addresses_are_one_listing_without_doubles() {
        let zone = Arc::new(Zone::default());
        zone.set("a", Some(vec!["10.0.0.2", "::1", "10.0.0.1", "10.0.0.2"]));
        zone.set("b", Some(vec!["10.0.0.1", "10.0.0.9"]));
        let sources = vec![source("10.0.0.9", 80), source("a", 80), source("b", 80), source("b", 81)];
        let directory = DnsDirectory::new(sources, zone, DnsTimes::default());
        assert_eq!(addresses(&directory.listing()), ["10.0.0.9:80"], "fixed addresses need nobody's answer");
        assert!(directory.listing().trouble.is_some());
        tokio::spawn(directory.run());
        directory.asked().await;
        let listing = directory.listing();
        assert_eq!(addresses(&listing), ["10.0.0.9:80", "10.0.0.1:80", "10.0.0.2:80", "[::1]:80", "10.0.0.1:81", "10.0.0.9:81"]);
        assert_eq!(listing.trouble, None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_late_or_failed_answer_keeps_the_last_good_one_and_says_so() {
        let zone = Arc::new(Zone::default());
        zone.set("a", Some(vec!["10.0.0.1", "10.0.0.2"]));
        let directory = DnsDirectory::new(vec![source("a", 80)], zone.clone(), DnsTimes::default());
        tokio::spawn(directory.run());
        directory.asked().await;
        let good = directory.listing();
        let bad: [(Option<Option<Vec<&str>>>, &str); 3] =
            [(Some(Some(vec![])), "has no addresses"), (Some(None), "within 5s"), (None, "no such name")];
        for (answer, word) in bad {
            match answer {
                Some(answer) => zone.set("a", answer),
                None => drop(zone.names.lock().unwrap().remove("a")),
            }
            tokio::time::sleep(Duration::from_secs(40)).await;
            let listing = directory.listing();
            assert_eq!((listing.version, addresses(&listing)), (good.version, addresses(&good)));
            assert_eq!(listing.confirmed, good.confirmed, "its age grows");
            let trouble = listing.trouble.clone().unwrap();
            assert!(trouble.contains(word) && trouble.contains("\"a\"") && trouble.contains("last 2 addresses"), "{trouble}");
        }
        zone.set("a", Some(vec!["10.0.0.3"]));
        let listing = directory.changed(good.version).await;
        assert_eq!(addresses(&listing), ["10.0.0.3:80"]);
        assert!(listing.trouble.is_none() && listing.confirmed >= good.confirmed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refresh_asks_at_once_but_not_in_hundreds() {
        let zone = Arc::new(Zone::default());
        zone.set("a", Some(vec!["10.0.0.1"]));
        let directory = DnsDirectory::new(vec![source("a", 80)], zone.clone(), DnsTimes::default());
        tokio::spawn(directory.run());
        directory.asked().await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        let before = zone.asked.load(Relaxed);
        zone.set("a", Some(vec!["10.0.0.2"]));
        let started = Instant::now();
        directory.refresh();
        assert_eq!(addresses(&*directory.changed(directory.listing().version).await), ["10.0.0.2:80"]);
        assert!(started.elapsed() < Duration::from_millis(10));
        for _ in 0..1_000 {
            directory.refresh();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(zone.asked.load(Relaxed) - before <= 12, "ten seconds of failing calls");
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_configuration_keeps_what_it_knows() {
        let zone = Arc::new(Zone::default());
        zone.set("a", Some(vec!["10.0.0.1"]));
        let directory = DnsDirectory::new(vec![source("a", 80)], zone.clone(), DnsTimes::default());
        let running = tokio::spawn(directory.run());
        directory.asked().await;
        directory.set(vec![source("b", 80), source("a", 81)]);
        assert_eq!(addresses(&directory.listing()), ["10.0.0.1:81"]);
        zone.set("b", Some(vec!["10.0.0.5"]));
        assert_eq!(addresses(&*directory.changed(directory.listing().version).await), ["10.0.0.5:80", "10.0.0.1:81"]);
        drop(directory);
        running.await.unwrap();
    }

    #[tokio::test]
    async fn the_systems_resolver_knows_localhost() {
        let directory = DnsDirectory::new(vec![source("localhost", 80)], Arc::new(SystemResolver), DnsTimes::default());
        tokio::spawn(directory.run());
        directory.asked().await;
        let listing = directory.listing();
        assert!(!listing.endpoints.is_empty() && listing.endpoints.iter().all(|listed| listed.address.ip().is_loopback()), "{listing:?}");
    }
}
