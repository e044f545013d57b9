//! A near node, far nodes, a service and callers, each of which may be killed.

use super::bus::MemoryBus;
use crate::codes::Statuses;
use crate::config::{FarConfig, Mode, NearConfig, Order};
use crate::far::Far;
use crate::flow;
use crate::ids::Ids;
use crate::lane::Bounds;
use crate::near::{NearLane, NearNode, Seat};
use crate::record::Recorder;
use crate::spool::Spool;
use crate::waiters::Waiters;
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use wharf_core::LocalBoxFuture;
use wharf_core::body::Body;
use wharf_core::bus::{Bus, Membership, ReadFrom, TopicWish};
use wharf_core::exchange::{Answer, Exchange};
use wharf_core::fault::{Fault, FaultKind};
use wharf_core::head::{Method, RequestHead, ResponseHead};
use wharf_core::walk::{Arrived, Ending, Walk, Walked};

pub(crate) const PARTITIONS: u32 = 3;
pub(crate) const TOPIC: &str = "requests";

/// What the service has done, by the tag of the request.
#[derive(Default)]
pub(crate) struct Service {
    pub(crate) calls: RefCell<HashMap<String, u32>>,
    /// Effects: a service that knows keys has one for each.
    pub(crate) effects: RefCell<HashMap<String, u32>>,
    pub(crate) knows_keys: Cell<bool>,
    seen: RefCell<HashMap<Bytes, String>>,
    /// Longest time that it takes.
    pub(crate) takes: Cell<Duration>,
    /// It answers so many with a fault in the place of an answer.
    pub(crate) refuses: Cell<u32>,
    pub(crate) order: RefCell<Vec<String>>,
    pub(crate) beside: Cell<u32>,
    pub(crate) beside_max: Cell<u32>,
}

struct Nothing;

impl Ending for Nothing {
    fn finish(self: Box<Self>, _: Box<ResponseHead>, _: u16, _: (u64, u64), _: Option<&'static str>) {}
}

struct Door(Rc<Service>);

impl Walk for Door {
    fn walk<'a>(&'a self, arrived: Arrived<'a>) -> LocalBoxFuture<'a, Walked> {
        let service = self.0.clone();
        let fields: Vec<(Vec<u8>, Vec<u8>)> = arrived.fields.map(|(name, value)| (name.to_vec(), value.to_vec())).collect();
        Box::pin(async move {
            let get = |wanted: &[u8]| fields.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
            let tag = String::from_utf8(get(b":path").unwrap()).unwrap();
            let record = || Box::new(Nothing) as Box<dyn Ending>;
            if service.refuses.get() > 0 {
                service.refuses.set(service.refuses.get() - 1);
                return Walked { answer: Answer::full(ResponseHead::new(503), Bytes::new()), fault: Some("connect"), record: record() };
            }
            service.beside.set(service.beside.get() + 1);
            service.beside_max.set(service.beside_max.get().max(service.beside.get()));
            let _leaves = Leaves(service.clone());
            *service.calls.borrow_mut().entry(tag.clone()).or_default() += 1;
            service.order.borrow_mut().push(tag.clone());
            let most = service.takes.get().as_micros() as u64;
            let takes = Duration::from_micros(super::bus::CHANCE.with_borrow_mut(|chance| chance.below(most)));
            // The effect is somewhere within.
            tokio::time::sleep(takes / 2).await;
            let known = get(b"idempotency-key").filter(|_| service.knows_keys.get()).map(Bytes::from);
            let first = known.is_none_or(|key| service.seen.borrow_mut().insert(key, tag.clone()).is_none());
            if first {
                *service.effects.borrow_mut().entry(tag.clone()).or_default() += 1;
            }
            tokio::time::sleep(takes / 2).await;
            let mut body = tag.clone().into_bytes();
            let mut come = arrived.body;
            match &mut come {
                Body::Empty => {}
                Body::Full(all) => body.extend_from_slice(all),
                Body::Stream(stream) => {
                    while let Some(chunk) = std::future::poll_fn(|task| stream.poll_chunk(task)).await.unwrap() {
                        body.extend_from_slice(&chunk);
                    }
                }
            }
            Walked { answer: Answer::full(ResponseHead::new(200), body.into()), fault: None, record: record() }
        })
    }
}

struct Leaves(Rc<Service>);

impl Drop for Leaves {
    fn drop(&mut self) {
        self.0.beside.set(self.0.beside.get() - 1);
    }
}

/// A process: what it runs ends with it, at once.
pub(crate) struct Process(JoinHandle<()>);

impl Process {
    fn start(main: impl Future<Output = ()> + 'static) -> Process {
        Process(spawn_local(async move { LocalSet::new().run_until(main).await }))
    }

    pub(crate) fn kill(self) {
        self.0.abort();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What a caller sends, and is told.
pub(crate) struct Call {
    pub(crate) tag: String,
    pub(crate) key: Option<String>,
    pub(crate) order: Option<String>,
    pub(crate) body: Bytes,
    pub(crate) wait: Duration,
    pub(crate) is_async: bool,
    tell: oneshot::Sender<Said>,
}

/// What a caller is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// Status and body.
    Answer(u16, Bytes),
    /// A typed error.
    Code(u16, String),
    /// Any other fault.
    Fault(String),
    /// The connection broke.
    Broken,
}

pub(crate) struct World {
    pub(crate) bus: MemoryBus,
    pub(crate) service: Rc<Service>,
    pub(crate) spools: tempfile::TempDir,
    pub(crate) near: RefCell<Option<(Process, mpsc::UnboundedSender<Call>)>>,
    pub(crate) runs: Cell<u64>,
    pub(crate) piece_bytes: Cell<usize>,
}

impl World {
    pub(crate) async fn new() -> Rc<World> {
        let bus = MemoryBus::default();
        for (name, partitions) in [
            (TOPIC, PARTITIONS),
            ("requests-parked", PARTITIONS),
            ("requests-ledger", PARTITIONS),
            ("requests-receipts", PARTITIONS),
            ("reply-1", 1),
        ] {
            bus.provide(&TopicWish { name: name.into(), partitions, keep: None }).await.unwrap();
        }
        let service = Rc::new(Service::default());
        service.takes.set(Duration::from_millis(20));
        let spools = tempfile::tempdir().unwrap();
        Rc::new(World { bus, service, spools, near: RefCell::default(), runs: Cell::new(0), piece_bytes: Cell::new(1000) })
    }

    pub(crate) fn start_near(&self) {
        self.runs.set(self.runs.get() + 1);
        let (bus, run) = (self.bus.clone(), self.runs.get());
        let (calls, mut asked) = mpsc::unbounded_channel::<Call>();
        let spool = Spool::open(&self.spools.path().join(format!("near-{run}")), 1 << 30).unwrap();
        let piece_bytes = self.piece_bytes.get();
        let process = Process::start(async move {
            let ids = Arc::<Ids>::default();
            ids.set(1, crate::clock::now_ms());
            let node = NearNode::new("near-1".into(), bus.sink(), ids, Arc::new(Recorder::default()), spool, 1);
            let seat = Seat { worker: 1, run, instance: run, reply_lane: "reply-1".into() };
            while node.say_hello(&seat, "").await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let reader = bus.read("reply-1", 0, ReadFrom::Start).unwrap();
            node.seat.store(Some(Arc::new(seat)));
            let waiters = Waiters::new(10_000, |_| {});
            let (reading, own) = (node.clone(), waiters.clone());
            spawn_local(async move {
                reading.read_answers(&*reader, Some(&own)).await;
            });
            spawn_local(crate::near::attend_post(node.clone(), 0, waiters.clone()));
            while let Some(call) = asked.recv().await {
                let config = NearConfig {
                    lane: "lane".into(),
                    topic: TOPIC.into(),
                    order: Order::Header("x-order".into()),
                    mode: if call.is_async { Mode::Async } else { Mode::Asked },
                    once_field: "idempotency-key".into(),
                    keep: Duration::from_secs(60),
                    location: "/m/".into(),
                    statuses: Statuses::default(),
                    waiters_max: 1000,
                    piece_bytes,
                    answer_bytes_max: u64::MAX,
                };
                let lane = NearLane::new(Arc::new(config), node.clone(), waiters.clone(), 0, PARTITIONS);
                spawn_local(async move {
                    let said = one_call(&lane, &call).await;
                    let _ = call.tell.send(said);
                });
            }
        });
        *self.near.borrow_mut() = Some((process, calls));
    }

    pub(crate) fn kill_near(&self) {
        if let Some((process, _)) = self.near.borrow_mut().take() {
            process.kill();
        }
    }

    pub(crate) fn start_far(&self, name: &str, change: impl FnOnce(&mut FarConfig)) -> Process {
        let mut config = FarConfig {
            listener: "lane".into(),
            node: name.into(),
            topic: TOPIC.into(),
            group: "far".into(),
            parked_topic: "requests-parked".into(),
            ledger_topic: Some("requests-ledger".into()),
            receipts_topic: Some("requests-receipts".into()),
            reply_prefix: "reply-".into(),
            window: Duration::from_secs(600),
            keys_max: 10_000,
            bounds: Bounds { in_flight_max: 16, held_max: 64, rate: None },
            tries_max: 3,
            backoff: Duration::from_millis(100),
            patience: Duration::from_secs(180),
            repeats_unknown: false,
            once_field: "idempotency-key".into(),
            note_within: Duration::from_millis(20),
            piece_bytes: self.piece_bytes.get(),
            body_bytes_max: u64::MAX,
            answer_bytes_max: 1 << 30,
        };
        change(&mut config);
        let (bus, service, config) = (self.bus.clone(), self.service.clone(), Arc::new(config));
        self.runs.set(self.runs.get() + 1);
        let spool = Spool::open(&self.spools.path().join(format!("{name}-{}", self.runs.get())), 1 << 30).unwrap();
        Process::start(async move {
            let membership = Membership {
                topic: config.topic.clone(),
                group: config.group.clone(),
                member: config.node.clone(),
                dead_after: Duration::from_secs(10),
                release_within: Duration::from_secs(10),
            };
            let source = bus.join(&membership).unwrap();
            let far = Far::new(config, Arc::new(bus), source, Rc::new(Door(service)), spool, Arc::new(Recorder::default()));
            far.serve(std::future::pending()).await.unwrap();
        })
    }

    /// One request, as a caller sends it.
    pub(crate) async fn call(&self, tag: &str, change: impl FnOnce(&mut Call)) -> Said {
        let (tell, told) = oneshot::channel();
        let mut call =
            Call { tag: tag.into(), key: None, order: None, body: Bytes::new(), wait: Duration::from_secs(5), is_async: false, tell };
        change(&mut call);
        {
            let near = self.near.borrow();
            let Some((_, calls)) = &*near else { return Said::Broken };
            if calls.send(call).is_err() {
                return Said::Broken;
            }
        }
        told.await.unwrap_or(Said::Broken)
    }
}

async fn one_call(lane: &NearLane, call: &Call) -> Said {
    let deadline = (tokio::time::Instant::now() + call.wait).into_std();
    let mut exchange = Exchange::blank(deadline);
    exchange.facts.request = RequestHead::from_text(Method::Post, "example.test", &call.tag, None);
    if let Some(key) = &call.key {
        exchange.facts.request.fields.add(b"idempotency-key", key.as_bytes());
    }
    if let Some(order) = &call.order {
        exchange.facts.request.fields.add(b"x-order", order.as_bytes());
    }
    exchange.body = call.body.clone().into();
    match flow::carry_over(lane, &mut exchange).await {
        Ok(answer) => {
            let mut all = Vec::new();
            match answer.body {
                Body::Empty => {}
                Body::Full(body) => all.extend_from_slice(&body),
                Body::Stream(mut stream) => {
                    while let Some(chunk) = std::future::poll_fn(|task| stream.poll_chunk(task)).await.unwrap() {
                        all.extend_from_slice(&chunk);
                    }
                }
            }
            Said::Answer(answer.head.status, all.into())
        }
        Err(fault) => said_of(&fault),
    }
}

fn said_of(fault: &Fault) -> Said {
    match &fault.kind {
        FaultKind::Ferry(ferried) => Said::Code(ferried.code, fault.detail().into()),
        _ => Said::Fault(fault.detail().into()),
    }
}

/// Runs a test in a world of its own, on a clock that is set forward whenever nobody has anything to do.
pub(crate) fn run<F: Future<Output = ()>>(seed: u64, test: impl FnOnce(Rc<World>) -> F) {
    run_by(seed, true, test);
}

/// The same by the clock on the wall, where threads are waited for that no runtime knows.
pub(crate) fn run_by_the_wall<F: Future<Output = ()>>(seed: u64, test: impl FnOnce(Rc<World>) -> F) {
    run_by(seed, false, test);
}

fn run_by<F: Future<Output = ()>>(seed: u64, paused: bool, test: impl FnOnce(Rc<World>) -> F) {
    super::bus::CHANCE.set(crate::chance::Chance::new(seed));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(paused).build().unwrap();
    LocalSet::new().block_on(&runtime, async { test(World::new().await).await });
}
