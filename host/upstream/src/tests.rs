//! The room seen from its doors: a small honest [`Protocol`] that can refuse, break, hang and answer, a [`Directory`]
//! that changes when told, a paused clock, seeds.

mod choice;
mod guards;
mod looked_after;
mod second_tries;
mod slow_clients;

use crate::{Care, OutletConfig, Policy, RetryPolicy, ServiceOutlet, Services, SubsetMissing};
use bytes::Bytes;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::watch;
use wharf_core::BoxFuture;
use wharf_core::body::{Body, BodyStream};
use wharf_core::desk::{Ask, Desk};
use wharf_core::directory::{Directory, Listed, Listing};
use wharf_core::exchange::{Answer, Exchange, Facts};
use wharf_core::fault::{Fault, FaultKind, Phase, Retry};
use wharf_core::head::{Method, RequestHead, ResponseHead};
use wharf_core::metrics::Registry;
use wharf_core::outlet::{CallLimits, EndpointRef, Outlet, Protocol, Wish};

/// splitmix64.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// What an endpoint does with one try.
#[derive(Clone, Copy, Debug)]
enum Does {
    Refuse,
    /// The kept connection was closed before a byte was sent.
    Stale,
    /// The request was sent, then the connection broke.
    Break,
    /// Answers after a while with a status; a body of this many pieces follows as a stream.
    Answer(Duration, u16, u32),
    /// Answers with 200 and this status of gRPC, without a message.
    Grpc(&'static str),
    /// Its client takes so long to send the body; then it is answered as above.
    Upload(Duration, Duration, u16),
    /// After so long its client is gone, in the middle of the body.
    Cut(Duration),
    /// After so long it answers, with the body still on its way.
    Early(Duration, u16),
    /// After so long it breaks the connection, with the body still on its way.
    Lost(Duration),
}

const OK: Does = Does::Answer(Duration::ZERO, 200, 0);

/// One try as the endpoint saw it.
#[derive(Clone, Debug)]
struct Seen {
    path: String,
    port: u16,
    /// A byte of it may have arrived.
    arrived: bool,
    body: Option<Bytes>,
}

type Plan = Rc<dyn Fn(&EndpointRef) -> Does>;

struct Fake {
    plan: RefCell<Plan>,
    seen: RefCell<Vec<Seen>>,
}

impl Fake {
    fn new(plan: impl Fn(&EndpointRef) -> Does + 'static) -> Rc<Fake> {
        Rc::new(Fake { plan: RefCell::new(Rc::new(plan)), seen: RefCell::default() })
    }

    fn then(&self, plan: impl Fn(&EndpointRef) -> Does + 'static) {
        *self.plan.borrow_mut() = Rc::new(plan);
    }

    fn ports(&self) -> Vec<u16> {
        self.seen.borrow().iter().map(|seen| seen.port).collect()
    }

    fn shares(&self) -> BTreeMap<u16, usize> {
        let mut shares = BTreeMap::new();
        for port in self.ports() {
            *shares.entry(port).or_default() += 1;
        }
        self.seen.borrow_mut().clear();
        shares
    }
}

impl Protocol for Fake {
    fn send<'a>(
        &'a self,
        endpoint: &'a EndpointRef,
        exchange: &'a mut Exchange,
        _limits: &'a CallLimits,
    ) -> impl Future<Output = Result<Answer, Fault>> + 'a {
        let does = self.plan.borrow().clone()(endpoint);
        async move {
            let see = |arrived, body| {
                let path = exchange.facts.request.path().to_owned();
                self.seen.borrow_mut().push(Seen { path, port: endpoint.address.port(), arrived, body });
            };
            match does {
                Does::Refuse => {
                    see(false, None);
                    return Err(Fault::upstream(FaultKind::Connect, Retry::Safe, "refused"));
                }
                Does::Stale => {
                    see(false, None);
                    return Err(Fault::upstream(FaultKind::Reset, Retry::Safe, "stale"));
                }
                _ => {}
            }
            see(
                true,
                match &exchange.body {
                    Body::Full(all) => Some(all.clone()),
                    _ => None,
                },
            );
            let upload = exchange.upload();
            if !exchange.body.is_replayable() {
                drop(std::mem::take(&mut exchange.body));
            }
            let does = match does {
                Does::Upload(sending, wait, status) => {
                    tokio::time::sleep(sending).await;
                    upload.unwrap().ends(crate::care::now());
                    Does::Answer(wait, status, 0)
                }
                Does::Cut(wait) | Does::Early(wait, _) | Does::Lost(wait) => {
                    tokio::time::sleep(wait).await;
                    does
                }
                _ => does,
            };
            match does {
                Does::Cut(_) => Err(Fault::caller(FaultKind::ClientGone, "gone")),
                Does::Early(_, status) => Ok(Answer::full(ResponseHead::new(status), Bytes::new())),
                Does::Answer(wait, status, pieces) => {
                    let deadline = tokio::time::Instant::from_std(exchange.deadline);
                    if tokio::time::timeout_at(deadline, tokio::time::sleep(wait)).await.is_err() {
                        return Err(match exchange.callers_time {
                            true => Fault::new(FaultKind::Timeout(Phase::Whole), exchange.whose_time(), Retry::Never, "slow"),
                            false => Fault::upstream(FaultKind::Timeout(Phase::Head), Retry::IfIdempotent, "slow"),
                        });
                    }
                    let mut answer = Answer::full(ResponseHead::new(status), Bytes::new());
                    if pieces > 0 {
                        answer.body = Body::Stream(Box::new(Pieces(pieces)));
                    }
                    Ok(answer)
                }
                Does::Grpc(code) => {
                    let mut answer = Answer::full(ResponseHead::new(200), Bytes::new());
                    answer.head.fields.add(b"grpc-status", code.as_bytes());
                    Ok(answer)
                }
                _ => Err(Fault::upstream(FaultKind::Reset, Retry::IfIdempotent, "broken")),
            }
        }
    }
}

struct Pieces(u32);

impl BodyStream for Pieces {
    fn poll_chunk(&mut self, _task: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        self.0 = self.0.saturating_sub(1);
        Poll::Ready(Ok((self.0 > 0).then(|| Bytes::from_static(b"x"))))
    }
}

struct Told {
    listing: watch::Sender<Arc<Listing>>,
    refreshed: AtomicU32,
}

impl Told {
    fn new(endpoints: &[(u16, u32)]) -> Arc<Told> {
        let listing = Listing { version: 1, endpoints: listed(endpoints), confirmed: SystemTime::now(), trouble: None };
        Arc::new(Told { listing: watch::Sender::new(Arc::new(listing)), refreshed: AtomicU32::new(0) })
    }

    fn tell(&self, endpoints: Vec<Listed>) {
        let version = self.listing.borrow().version + 1;
        self.listing.send_replace(Arc::new(Listing { version, endpoints, confirmed: SystemTime::now(), trouble: None }));
    }
}

fn listed(endpoints: &[(u16, u32)]) -> Vec<Listed> {
    endpoints.iter().map(|&(port, weight)| Listed { address: address(port), weight, zone: None, tags: [].into() }).collect()
}

fn tagged(port: u16, weight: u32, tag: &str) -> Listed {
    Listed { address: address(port), weight, zone: None, tags: [tag.into()].into() }
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

impl Directory for Told {
    fn listing(&self) -> Arc<Listing> {
        self.listing.borrow().clone()
    }

    fn changed(&self, seen: u64) -> BoxFuture<'_, Arc<Listing>> {
        let mut listing = self.listing.subscribe();
        Box::pin(async move {
            let told = listing.wait_for(|listing| listing.version != seen).await.ok().map(|listing| listing.clone());
            match told {
                Some(listing) => listing,
                None => std::future::pending().await,
            }
        })
    }

    fn refresh(&self) {
        self.refreshed.fetch_add(1, Relaxed);
    }
}

struct House {
    registry: Arc<Registry>,
    services: Arc<Services>,
    directory: Arc<Told>,
    fake: Rc<Fake>,
}

impl House {
    fn new(endpoints: &[(u16, u32)], plan: impl Fn(&EndpointRef) -> Does + 'static) -> House {
        let registry = Arc::new(Registry::default());
        let services = Services::seeded(registry.clone(), 7);
        let directory = Told::new(endpoints);
        services.put("s", directory.clone());
        House { registry, services, directory, fake: Fake::new(plan) }
    }

    fn outlet(&self, config: OutletConfig) -> ServiceOutlet<Fake> {
        ServiceOutlet::new(self.services.get("s").unwrap(), self.fake.clone(), config, 0, None)
    }

    /// How its endpoints are looked after.
    fn care(&self, care: Care) {
        self.services.get("s").unwrap().configure(care);
    }

    /// The watcher; it ends with the test's runtime.
    fn watched(&self) {
        tokio::spawn(self.services.clone().run());
    }

    /// What the watcher does when a listing changes.
    fn tell(&self, endpoints: Vec<Listed>) {
        self.directory.tell(endpoints);
        // Another directory object with the same listing takes the way of a changed configuration.
        let again = Told::new(&[]);
        again.listing.send_replace(self.directory.listing());
        self.services.put("s", again);
    }

    fn metric(&self, line: &str) -> u64 {
        let text = self.registry.render();
        let found = text.lines().find_map(|have| have.strip_prefix(line)?.trim().parse().ok());
        found.unwrap_or_else(|| panic!("no {line} in\n{text}"))
    }

    fn in_flight(&self) -> Vec<u32> {
        let set = self.services.get("s").unwrap().endpoints();
        set.endpoints.iter().map(|endpoint| endpoint.in_flight.load(Relaxed)).collect()
    }
}

fn exchange(method: Method, path: &str, body: Body) -> Exchange {
    let request = RequestHead::from_text(method, "a", path, None);
    let deadline = tokio::time::Instant::now().into_std() + Duration::from_secs(10);
    let facts = Facts { request, ..Facts::default() };
    Exchange { facts, body, peer: address(9).ip(), ..Exchange::blank(deadline) }
}

async fn get(outlet: &ServiceOutlet<Fake>) -> Result<Answer, Fault> {
    outlet.call(&mut exchange(Method::Get, "/", Body::Empty), &Wish::default()).await
}

async fn get_tag(outlet: &ServiceOutlet<Fake>, tag: &str) -> Result<Answer, Fault> {
    outlet.call(&mut exchange(Method::Get, "/", Body::Empty), &Wish { subset: Some(tag.into()) }).await
}

async fn next(answer: &mut Answer) -> Option<Bytes> {
    let Body::Stream(stream) = &mut answer.body else { panic!("no stream") };
    std::future::poll_fn(|task| stream.poll_chunk(task)).await.unwrap()
}

fn config(policy: Policy) -> OutletConfig {
    OutletConfig { policy, ..OutletConfig::default() }
}

#[tokio::test(start_paused = true)]
async fn retries_keep_their_budget_and_repeat_nothing_unsafe() {
    let mut exhausted = 0;
    for seed in 0..60 {
        let dice = Rc::new(RefCell::new(Dice(seed)));
        let endpoints: Vec<(u16, u32)> = (0..1 + dice.borrow_mut().below(5)).map(|n| (n as u16 + 1, 1)).collect();
        let bad = dice.borrow_mut().below(100);
        let plan = dice.clone();
        let house = House::new(&endpoints, move |_| match plan.borrow_mut().below(100) {
            roll if roll >= bad => OK,
            roll => [Does::Refuse, Does::Stale, Does::Break, Does::Answer(Duration::from_secs(60), 200, 0)][roll as usize % 4],
        });
        let outlet = house.outlet(config(Policy::RoundRobin));
        let (calls, mut retries) = (400u32, 0);
        for call in 0..calls {
            let method = [Method::Get, Method::Post, Method::Put, Method::Other("X".into())][dice.borrow_mut().below(4) as usize].clone();
            let body = match dice.borrow_mut().below(3) {
                0 => Body::Empty,
                1 => Body::Full(Bytes::from_static(b"all")),
                _ => Body::Stream(Box::new(Pieces(3))),
            };
            let (full, stream) = (matches!(body, Body::Full(_)), !body.is_replayable());
            let idempotent = method.is_idempotent();
            let mut exchange = exchange(method, &format!("/{call}"), body);
            let said = outlet.call(&mut exchange, &Wish::default()).await;
            let seen = house.fake.seen.take();
            let note = format!("seed {seed} call {call}: {seen:?}");
            assert!(seen.iter().all(|seen| seen.path == format!("/{call}")), "{note}");
            assert_eq!(seen.len() as u32, exchange.trail.tries, "{note}");
            assert!((1..=3).contains(&seen.len()), "{note}");
            retries += seen.len() as u32 - 1;
            let arrived = seen.iter().filter(|seen| seen.arrived).count();
            assert!(arrived <= 1 || (idempotent && !stream), "{note}");
            assert!(seen.iter().filter(|seen| seen.arrived).all(|seen| seen.body.is_some() == full), "{note}");
            // Nobody is asked twice while there is somebody who was not asked.
            let first: HashSet<u16> = seen.iter().take(endpoints.len()).map(|seen| seen.port).collect();
            assert_eq!(first.len(), seen.len().min(endpoints.len()), "{note}");
            assert!(said.is_ok() || bad > 0, "{note}");
            assert!(f64::from(retries) <= 10.0 + 0.2 * f64::from(call + 1), "seed {seed}: {retries} retries in {call} calls");
        }
        assert_eq!(house.metric("wharf_upstream_retries_total{service=\"s\"}"), u64::from(retries));
        exhausted += u32::from(house.metric("wharf_upstream_retry_budget_exhausted_total{service=\"s\"}") > 0);
        assert!(house.in_flight().iter().all(|&calls| calls == 0));
    }
    assert!((10..50).contains(&exhausted), "{exhausted} of 60 seeds had enough failures to use their budget up");
}

#[tokio::test(start_paused = true)]
async fn a_dead_endpoint_costs_no_call_that_can_be_repeated() {
    let house = House::new(&[(1, 1), (2, 1), (3, 1)], |endpoint| if endpoint.address.port() == 2 { Does::Refuse } else { OK });
    let outlet = house.outlet(config(Policy::RoundRobin));
    for call in 0..3_000 {
        assert!(get(&outlet).await.is_ok(), "call {call}");
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    let shares = house.fake.shares();
    assert!(shares[&2] <= 8, "a core asks a dead endpoint twice a second, not with each call: {shares:?}");
    assert!((1_400..1_600).contains(&shares[&1]) && (1_400..1_600).contains(&shares[&3]), "{shares:?}");
    assert_eq!(house.metric("wharf_upstream_calls_total{service=\"s\",endpoint=\"127.0.0.1:2\",outcome=\"connect\"}"), shares[&2] as u64);
}

#[tokio::test(start_paused = true)]
async fn shares_follow_weights_that_change_and_counts_stay() {
    let house = House::new(&[(1, 5), (2, 3), (3, 0)], |_| OK);
    let outlet = house.outlet(config(Policy::WeightedRoundRobin));
    let before = house.services.get("s").unwrap().endpoints();
    before.endpoints[1].connections.store(7, Relaxed);
    for _ in 0..800 {
        assert!(get(&outlet).await.is_ok());
    }
    assert_eq!(house.fake.shares(), BTreeMap::from([(1, 500), (2, 300)]));
    house.tell(listed(&[(1, 1), (2, 3), (3, 4)]));
    for _ in 0..800 {
        assert!(get(&outlet).await.is_ok());
    }
    let shares = house.fake.shares();
    for (port, due) in [(1, 100), (2, 300), (3, 400)] {
        assert!(shares[&port].abs_diff(due) <= 8, "{shares:?}");
    }
    let after = house.services.get("s").unwrap().endpoints();
    assert_eq!((after.endpoints[1].id, after.endpoints[1].weight), (before.endpoints[1].id, 3));
    assert_eq!(after.endpoints[0].id, before.endpoints[0].id);
    assert_eq!(after.endpoints[0].weight, 1);
    assert_eq!(after.endpoints[1].connections.load(Relaxed), 7);
    // The old object and the new one count together.
    before.endpoints[0].in_flight.fetch_add(1, Relaxed);
    assert_eq!(after.endpoints[0].in_flight.load(Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_leaves_is_marked_and_comes_back_as_another() {
    let house = House::new(&[(1, 1), (2, 1)], |_| OK);
    let first = house.services.get("s").unwrap().endpoints();
    house.tell(listed(&[(2, 1), (3, 1), (3, 9)]));
    let second = house.services.get("s").unwrap().endpoints();
    assert!(first.endpoints[0].gone.load(Relaxed));
    assert!(!first.endpoints[1].gone.load(Relaxed));
    assert_eq!(second.endpoints.len(), 2, "an address that is listed twice is one endpoint");
    assert!(Arc::ptr_eq(&first.endpoints[1], &second.endpoints[0]), "what has not changed is not replaced");
    house.tell(listed(&[(1, 1), (2, 1)]));
    let third = house.services.get("s").unwrap().endpoints();
    assert_ne!(third.endpoints[0].id, first.endpoints[0].id);
    assert!(!third.endpoints[0].gone.load(Relaxed));
    house.services.keep_only(&HashSet::new());
    assert!(third.endpoints.iter().all(|endpoint| endpoint.gone.load(Relaxed)));
    assert!(house.services.get("s").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_new_generation_goes_on_where_the_old_one_was() {
    let house = House::new(&[(1, 1), (2, 1), (3, 1)], |_| OK);
    let service = house.services.get("s").unwrap();
    let mut outlet = house.outlet(config(Policy::RoundRobin));
    for _ in 0..30 {
        assert!(get(&outlet).await.is_ok());
        outlet = ServiceOutlet::new(service.clone(), house.fake.clone(), config(Policy::RoundRobin), 0, Some(&outlet));
    }
    assert_eq!(house.fake.shares(), BTreeMap::from([(1, 10), (2, 10), (3, 10)]));
    outlet = ServiceOutlet::new(service, house.fake.clone(), config(Policy::LeastRequest), 0, Some(&outlet));
    assert!(get(&outlet).await.is_ok());
    assert_eq!(
        (1..=3)
            .map(|port| house.metric(&format!("wharf_upstream_calls_total{{service=\"s\",endpoint=\"127.0.0.1:{port}\",outcome=\"2xx\"}}")))
            .sum::<u64>(),
        31,
        "a counter does not go back when its core's state is replaced"
    );
}

#[tokio::test(start_paused = true)]
async fn cores_do_not_all_begin_with_the_same_endpoint() {
    for policy in [Policy::RoundRobin, Policy::WeightedRoundRobin, Policy::LeastRequest] {
        let house = House::new(&[(1, 3), (2, 2), (3, 3)], |_| OK);
        for core in 0..16 {
            let outlet = ServiceOutlet::new(house.services.get("s").unwrap(), house.fake.clone(), config(policy), core, None);
            assert!(get(&outlet).await.is_ok());
        }
        assert!(house.fake.shares().values().all(|&share| share >= 3), "{policy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_subset_gets_its_calls_and_a_missing_one_does_as_configured() {
    let house = House::new(&[], |_| OK);
    let any = house.outlet(config(Policy::RoundRobin));
    let refuse = house.outlet(OutletConfig { subset_missing: SubsetMissing::Refuse, ..config(Policy::RoundRobin) });
    let fault = get(&any).await.err().unwrap();
    assert_eq!(fault.kind, FaultKind::NoEndpoint);
    house.tell(vec![tagged(1, 1, "v1"), tagged(2, 1, "gray"), tagged(3, 1, "gray"), tagged(4, 0, "off")]);
    for _ in 0..10 {
        assert!(get_tag(&any, "gray").await.is_ok());
    }
    assert_eq!(house.fake.shares(), BTreeMap::from([(2, 5), (3, 5)]));
    for tag in ["blue", "off"] {
        assert!(get_tag(&any, tag).await.is_ok());
        let fault = get_tag(&refuse, tag).await.err().unwrap();
        assert!(fault.kind == FaultKind::NoEndpoint && fault.detail().contains(tag), "{fault}");
    }
    house.fake.shares();
    // Within a subset, a retry stays within the subset.
    house.fake.then(|_| Does::Refuse);
    assert!(get_tag(&any, "gray").await.is_err());
    assert_eq!(house.fake.shares().into_keys().collect::<Vec<_>>(), [2, 3]);
    house.fake.then(|_| OK);
    house.tell(vec![tagged(1, 1, "v1")]);
    assert!(get_tag(&any, "gray").await.is_ok());
    assert!(get_tag(&refuse, "gray").await.is_err());
    assert_eq!(house.fake.ports(), [1]);
}

#[tokio::test(start_paused = true)]
async fn least_request_sends_a_slow_endpoint_less() {
    for seed in 0..10 {
        let house = House::new(&[(1, 1), (2, 1), (3, 1)], |endpoint| match endpoint.address.port() {
            1 => Does::Answer(Duration::from_millis(100), 200, 0),
            _ => Does::Answer(Duration::from_millis(10), 200, 0),
        });
        let outlet = Rc::new(house.outlet(config(Policy::LeastRequest)));
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let mut dice = Dice(seed);
                let mut calls = Vec::new();
                for _ in 0..2_000 {
                    let outlet = outlet.clone();
                    calls.push(tokio::task::spawn_local(async move { get(&outlet).await.is_ok() }));
                    tokio::time::sleep(Duration::from_millis(dice.below(3))).await;
                    // A third of the calls would pile up to 33 on the slow one; levelled, each has about five.
                    assert!(house.in_flight().iter().all(|&level| level <= 10), "seed {seed}: {:?}", house.in_flight());
                }
                for call in calls {
                    assert!(call.await.unwrap());
                }
            })
            .await;
        let shares = house.fake.shares();
        assert!(shares[&1] * 3 < shares[&2] && shares[&1] * 3 < shares[&3], "seed {seed}: {shares:?}");
        assert_eq!(house.in_flight(), [0, 0, 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_counts_until_it_ends_or_is_dropped_where_somebody_asks() {
    let house = House::new(&[(1, 1)], |_| Does::Answer(Duration::ZERO, 200, 3));
    let least = house.outlet(config(Policy::LeastRequest));
    let mut one = get(&least).await.ok().unwrap();
    let two = get(&least).await.ok().unwrap();
    assert_eq!(house.in_flight(), [2]);
    assert!(next(&mut one).await.is_some());
    assert!(next(&mut one).await.is_some());
    assert_eq!(house.in_flight(), [2]);
    assert!(next(&mut one).await.is_none());
    assert_eq!(house.in_flight(), [1], "at the end, not when the answer is dropped");
    drop(two);
    assert_eq!(house.in_flight(), [0]);
    let plain = house.outlet(config(Policy::RoundRobin));
    let _answer = get(&plain).await.ok().unwrap();
    assert_eq!(house.in_flight(), [0], "nobody asks: the stream is passed on unwrapped");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_full_refuses_by_name_until_a_body_ends() {
    let house = House::new(&[(1, 1)], |_| Does::Answer(Duration::ZERO, 200, 2));
    let outlet = house.outlet(OutletConfig { in_flight_max: Some(2), ..config(Policy::RoundRobin) });
    let mut one = get(&outlet).await.ok().unwrap();
    let _two = get(&outlet).await.ok().unwrap();
    let fault = get(&outlet).await.err().unwrap();
    assert_eq!(fault.kind, FaultKind::Overload("in_flight_max"));
    assert!(fault.detail().contains("\"s\"") && fault.detail().contains('2'), "{fault}");
    assert_eq!(house.metric("wharf_upstream_refused_total{service=\"s\"}"), 1);
    while next(&mut one).await.is_some() {}
    assert!(get(&outlet).await.is_ok());
    // A call that fails gives its place back, too.
    house.fake.then(|_| Does::Break);
    for _ in 0..10 {
        assert_eq!(get(&outlet).await.err().unwrap().kind, FaultKind::Reset);
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_gives_everything_back_and_is_counted() {
    let house = House::new(&[(1, 1)], |_| Does::Answer(Duration::from_secs(5), 200, 0));
    let outlet = house.outlet(OutletConfig { in_flight_max: Some(1), ..config(Policy::LeastRequest) });
    let cut = tokio::time::timeout(Duration::from_secs(1), get(&outlet)).await;
    assert!(cut.is_err());
    assert_eq!(house.in_flight(), [0]);
    assert_eq!(house.metric("wharf_upstream_calls_total{service=\"s\",endpoint=\"127.0.0.1:1\",outcome=\"cancelled\"}"), 1);
    assert!(get(&outlet).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_tried_again_after_the_deadline_or_for_an_upgrade() {
    let house = House::new(&[(1, 1), (2, 1)], |_| Does::Answer(Duration::from_secs(60), 200, 0));
    let outlet = house.outlet(config(Policy::RoundRobin));
    let started = tokio::time::Instant::now();
    assert_eq!(get(&outlet).await.err().unwrap().kind, FaultKind::Timeout(Phase::Head));
    assert_eq!(started.elapsed(), Duration::from_secs(10));
    assert_eq!(house.fake.ports().len(), 1);
    house.fake.then(|_| Does::Break);
    let mut upgrade = exchange(Method::Get, "/", Body::Empty);
    upgrade.upgrade = Some("websocket".into());
    assert!(outlet.call(&mut upgrade, &Wish::default()).await.is_err());
    assert_eq!(upgrade.trail.tries, 1);
    let once = house.outlet(OutletConfig { retry: RetryPolicy { tries_max: 1, ..RetryPolicy::default() }, ..config(Policy::RoundRobin) });
    house.fake.seen.take();
    assert!(get(&once).await.is_err());
    assert_eq!(house.fake.ports().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn three_tries_in_a_row_that_reach_nobody_ask_the_directory() {
    let house = House::new(&[(1, 1)], |_| Does::Refuse);
    let outlet = house.outlet(config(Policy::RoundRobin));
    for (does, refreshed) in [(Does::Refuse, 0), (Does::Refuse, 0), (OK, 0), (Does::Refuse, 0), (Does::Refuse, 0), (Does::Refuse, 1)] {
        house.fake.then(move |_| does);
        assert_eq!(get(&outlet).await.is_ok(), matches!(does, Does::Answer(..)));
        assert_eq!(house.directory.refreshed.load(Relaxed), refreshed);
    }
}

#[tokio::test(start_paused = true)]
async fn the_watcher_follows_every_directory_and_lets_old_ones_go() {
    let house = House::new(&[(1, 1)], |_| OK);
    let running = tokio::spawn(house.services.clone().run());
    let versions = async |services: &Services, name: &str, ports: &[u16]| {
        for _ in 0..10_000 {
            let set = services.get(name).unwrap().endpoints();
            if set.endpoints.iter().map(|endpoint| endpoint.address.port()).eq(ports.iter().copied()) {
                return;
            }
            tokio::task::yield_now().await;
        }
        panic!("{name} never listed {ports:?}");
    };
    for round in 0..20 {
        house.directory.tell(listed(&[(round + 1, 1), (round + 2, 1)]));
        versions(&house.services, "s", &[round + 1, round + 2]).await;
    }
    let (other, newer) = (Told::new(&[(9, 1)]), Told::new(&[(8, 1)]));
    house.services.put("t", other.clone());
    versions(&house.services, "t", &[9]).await;
    house.services.put("t", newer.clone());
    versions(&house.services, "t", &[8]).await;
    newer.tell(listed(&[(7, 1)]));
    versions(&house.services, "t", &[7]).await;
    other.tell(listed(&[(6, 1)]));
    tokio::time::sleep(Duration::from_secs(5)).await;
    versions(&house.services, "t", &[7]).await;
    assert_eq!(house.metric("wharf_upstream_endpoints{service=\"t\"}"), 1);
    house.services.keep_only(&HashSet::from(["s"]));
    let gone = Arc::downgrade(&newer);
    drop(newer);
    for _ in 0..10_000 {
        tokio::task::yield_now().await;
    }
    assert!(gone.upgrade().is_none(), "a service that is gone holds no directory");
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn the_desk_lists_services_and_asks_directories() {
    let house = House::new(&[(1, 5)], |_| OK);
    house.tell(vec![tagged(1, 5, "gr\"ay")]);
    let list = house.services.serve("upstream.list", Ask::default()).await.unwrap();
    let list = std::str::from_utf8(&list).unwrap();
    let expected = r#"{"address":"127.0.0.1:1","weight":5,"zone":null,"tags":["gr\"ay"],"share_percent":100.0,"state":"used","back_in_seconds":null,"check_trouble":null,"latency_ms":null,"in_flight":0,"connections":0}"#;
    assert!(list.starts_with(r#"{"services":[{"name":"s","listing_version":2,"#) && list.contains(expected), "{list}");
    let ask = |name: &str| Ask { args: vec![("name".into(), name.into())], body: Bytes::new() };
    let told = Told::new(&[(1, 1)]);
    house.services.put("s", told.clone());
    house.services.serve("upstream.refresh", ask("s")).await.unwrap();
    assert_eq!(told.refreshed.load(Relaxed), 1);
    assert!(house.services.serve("upstream.refresh", ask("nobody")).await.is_err());
}

/// Prints what the room adds to a call, by a protocol that answers at once. Asserts only that it is not absurd.
#[test]
fn what_a_call_costs() {
    struct AtOnce;
    impl Protocol for AtOnce {
        fn send<'a>(
            &'a self,
            _endpoint: &'a EndpointRef,
            _exchange: &'a mut Exchange,
            _limits: &'a CallLimits,
        ) -> impl Future<Output = Result<Answer, Fault>> + 'a {
            std::future::ready(Ok(Answer::full(ResponseHead::new(200), Bytes::new())))
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        for (name, policy, endpoints) in [
            ("equal weights, 4", Policy::WeightedRoundRobin, vec![(1, 1), (2, 1), (3, 1), (4, 1)]),
            ("weights, 4", Policy::WeightedRoundRobin, vec![(1, 1), (2, 2), (3, 1), (4, 1)]),
            ("weights, 100", Policy::WeightedRoundRobin, (1..=100).map(|port| (port, u32::from(port))).collect()),
            ("least request, 4", Policy::LeastRequest, vec![(1, 1), (2, 1), (3, 1), (4, 1)]),
        ] {
            let house = House::new(&endpoints, |_| OK);
            let service = house.services.get("s").unwrap();
            let outlet = ServiceOutlet::new(service, Rc::new(AtOnce), config(policy), 0, None);
            let mut exchange = exchange(Method::Get, "/", Body::Empty);
            let wish = Wish::default();
            let started = Instant::now();
            let calls = 200_000;
            for _ in 0..calls {
                assert!(outlet.call(&mut exchange, &wish).await.is_ok());
            }
            let each = started.elapsed() / calls;
            println!("a call through {name}: {each:?}");
            assert!(each < Duration::from_micros(50));
        }
    });
}
