//! The ferry's part of the inventory: buses, what the process has of the near and the far side, and what runs on which core.
//!
//! It is made once, at the start: other buses and lanes are taken at a restart.

use crate::config::plan::{self, Plan};
use anyhow::{Context as _, Result};
use std::collections::HashMap;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, spawn_local};
use wharf_core::bus::{Bus, BusError, Membership, ReadFrom, TopicWish};
use wharf_core::metrics::Registry;
use wharf_core::outlet::Outlet;
use wharf_embedded::bus::{BusConfig, EmbeddedBus};
use wharf_ferry::answers::Answers;
use wharf_ferry::far::Far;
use wharf_ferry::ids::Ids;
use wharf_ferry::near::{self, NearLane, NearNode, Seat};
use wharf_ferry::record::Recorder;
use wharf_ferry::spool::Spool;
use wharf_ferry::waiters::Waiters;
use wharf_http::house::{Core, ListenerLimits};
use wharf_http::walk::Walker;
use wharf_kafka::{Kafka, KafkaConfig, Sasl, Tls};

/// Between two tries to reach a bus.
const AGAIN: Duration = Duration::from_secs(1);
/// Bytes of a head that came by a lane: as a listener's default.
const HEAD_BYTES_MAX: usize = 32 * 1024;

/// What the process has of the ferry. House-wide.
pub struct Ferry {
    /// One for each bus and kind of reply lane that is sent by.
    near: Vec<Near>,
    far: Vec<FarOf>,
    spool: Option<Spool>,
    recorder: Arc<Recorder>,
}

struct Near {
    bus: Arc<dyn Bus>,
    reply_prefix: Arc<str>,
    node: Arc<NearNode>,
    lanes: Vec<plan::NearLane>,
    worker: u16,
    /// Who looks for answers.
    looks: Arc<Semaphore>,
}

struct FarOf {
    bus: Arc<dyn Bus>,
    lane: plan::FarLane,
}

impl Ferry {
    /// What a plan asks for; nothing where it asks for nothing. No bus is waited for.
    ///
    /// # Errors
    /// A folder, or a bus that does not take its settings.
    pub fn open(plan: &Plan, cores: usize, metrics: &Registry) -> Result<Arc<Ferry>> {
        let recorder = Arc::new(Recorder::default());
        if plan.ferry.near.is_empty() && plan.ferry.far.is_empty() {
            return Ok(Arc::new(Ferry { near: Vec::new(), far: Vec::new(), spool: None, recorder }));
        }
        let state = plan.node.state_dir.join("ferry");
        let spool =
            Spool::open(&state.join("spool"), plan.ferry.spool_bytes_max).context("the ferry's folder for bodies cannot be made")?;
        let mut buses: HashMap<Arc<str>, Arc<dyn Bus>> = HashMap::new();
        for bus in &plan.buses {
            let opened = open_bus(bus, &state, &plan.node.name, metrics).with_context(|| format!("bus {:?} cannot be opened", bus.name))?;
            buses.insert(bus.name.clone(), opened);
        }
        let mut near: Vec<Near> = Vec::new();
        for lane in &plan.ferry.near {
            let Some(bus) = buses.get(&lane.bus) else { continue };
            let same = |near: &&mut Near| Arc::ptr_eq(&near.bus, bus) && near.reply_prefix == lane.reply_prefix;
            if let Some(near) = near.iter_mut().find(same) {
                near.lanes.push(lane.clone());
                continue;
            }
            let ids = Arc::<Ids>::default();
            let node = NearNode::new(plan.node.name.clone(), bus.sink(), ids, recorder.clone(), spool.clone(), cores);
            let worker = plan.ferry.worker.unwrap_or_default();
            near.push(Near {
                bus: bus.clone(),
                reply_prefix: lane.reply_prefix.clone(),
                node,
                lanes: vec![lane.clone()],
                worker,
                looks: Answers::looks(),
            });
        }
        let far = plan.ferry.far.iter().filter_map(|lane| Some(FarOf { bus: buses.get(&lane.bus)?.clone(), lane: lane.clone() })).collect();
        Ok(Arc::new(Ferry { near, far, spool: Some(spool), recorder }))
    }
}

fn open_bus(bus: &plan::Bus, state: &Path, node: &str, metrics: &Registry) -> Result<Arc<dyn Bus>> {
    match &bus.kind {
        plan::BusKind::Embedded { keep, bytes_max, message_bytes_max } => {
            let mut config = BusConfig::new(state.join(format!("bus-{}", bus.name)));
            (config.keep, config.store_bytes_max, config.parcel_bytes_max) = (*keep, *bytes_max, *message_bytes_max);
            Ok(Arc::new(EmbeddedBus::open(config, metrics)?))
        }
        plan::BusKind::Kafka(kafka) => {
            let mut config = KafkaConfig::new(kafka.brokers.clone());
            config.client_id = format!("wharf-{node}").into();
            (config.parcel_bytes_max, config.send_within) = (kafka.message_bytes_max, kafka.send_within);
            config.queue_bytes_max = kafka.queue_bytes_max;
            config.tls = kafka.tls.clone().map(|[ca, chain, key]| Tls { ca, chain, key });
            config.sasl = kafka.sasl.clone().map(|(mechanism, user, password)| Sasl { mechanism, user, password });
            config.properties = kafka.properties.clone();
            Ok(Arc::new(Kafka::open(config)?))
        }
    }
}

/// What one core has of the ferry.
pub struct FerryCore {
    ferry: Arc<Ferry>,
    number: usize,
    waiters: Vec<Rc<Waiters>>,
    lanes: HashMap<Arc<str>, Rc<dyn Outlet>>,
    answers: HashMap<Arc<str>, Rc<dyn Outlet>>,
}

impl FerryCore {
    /// The part of core `number`.
    pub fn new(ferry: &Arc<Ferry>, number: u16) -> FerryCore {
        let (mut waiters, mut lanes, mut answers) = (Vec::new(), HashMap::new(), HashMap::new());
        for near in &ferry.near {
            let max = near.lanes.iter().map(|lane| lane.config.waiters_max).sum();
            let node = near.node.clone();
            let own = Waiters::new(max, move |reply| node.keep(&reply));
            for lane in &near.lanes {
                let of_lane = || NearLane::new(lane.config.clone(), near.node.clone(), own.clone(), number, lane.partitions);
                let looking = Answers::new(of_lane(), near.bus.clone(), near.reply_prefix.clone(), near.looks.clone());
                answers.insert(lane.config.lane.clone(), Rc::new(looking) as Rc<dyn Outlet>);
                let outlet = of_lane();
                lanes.insert(lane.config.lane.clone(), Rc::new(outlet) as Rc<dyn Outlet>);
            }
            waiters.push(own);
        }
        FerryCore { ferry: ferry.clone(), number: number.into(), waiters, lanes, answers }
    }

    /// The outlet of a lane.
    pub fn lane(&self, name: &str) -> Option<Rc<dyn Outlet>> {
        self.lanes.get(name).cloned()
    }

    /// The outlet that knows what came of a lane's messages.
    pub fn answers(&self, name: &str) -> Option<Rc<dyn Outlet>> {
        self.answers.get(name).cloned()
    }

    /// Starts this core's tasks: those that read answers, and the members of groups that it has. `ends` becomes true when no
    /// more messages are to be begun, `grace` is how long those that are may take. The far members are returned, which end by
    /// themselves.
    pub fn serve(&self, core: &Rc<Core>, ends: &watch::Receiver<Option<Duration>>) -> Vec<JoinHandle<()>> {
        for (near, waiters) in self.ferry.near.iter().zip(&self.waiters) {
            spawn_local(near::attend_post(near.node.clone(), self.number, waiters.clone()));
        }
        if self.number == 0 {
            for at in 0..self.ferry.near.len() {
                let (ferry, waiters) = (self.ferry.clone(), self.waiters.get(at).cloned());
                spawn_local(async move {
                    if let (Some(near), Some(waiters)) = (ferry.near.get(at), waiters) {
                        keep_near(near, &waiters).await;
                    }
                });
            }
        }
        let cores = self.ferry.near.first().map_or(1, |near| near.node.posts.len()).max(1);
        let members = self.ferry.far.iter().flat_map(|far| std::iter::repeat_n(far, far.lane.members)).enumerate();
        let mine = members.filter(|(at, _)| at % cores == self.number % cores);
        let Some(spool) = self.ferry.spool.clone() else { return Vec::new() };
        mine.map(|(at, far)| {
            let limits =
                ListenerLimits { name: far.lane.config.listener.clone(), head_bytes_max: HEAD_BYTES_MAX, ..ListenerLimits::default() };
            let walker = Rc::new(Walker::new(core.clone(), limits));
            let (bus, lane, recorder, ends, spool) =
                (far.bus.clone(), far.lane.clone(), self.ferry.recorder.clone(), ends.clone(), spool.clone());
            spawn_local(async move { keep_far(at, &bus, &lane, walker, spool, recorder, ends).await })
        })
        .collect()
    }
}

/// Takes the reply lane and reads it, for as long as the core lives.
async fn keep_near(near: &Near, waiters: &Waiters) {
    let lane: Arc<str> = format!("{}{}", near.reply_prefix, near.worker).into();
    let mut told = false;
    loop {
        match take_lane(near, &lane).await {
            Ok(reader) => {
                told = false;
                tracing::info!(worker = near.worker, reply_lane = &*lane, "the ferry sends");
                let why = near.node.read_answers(&*reader, Some(waiters)).await;
                near.node.seat.store(None);
                tracing::error!(
                    worker = near.worker,
                    reply_lane = &*lane,
                    why,
                    "the ferry sends nothing more: its reply lane cannot be read"
                );
            }
            Err(error) if !told => {
                told = true;
                tracing::warn!(worker = near.worker, reply_lane = &*lane, %error, "the ferry cannot send yet, and goes on trying");
            }
            Err(_) => {}
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn take_lane(near: &Near, lane: &Arc<str>) -> Result<Box<dyn wharf_core::bus::Reader>, BusError> {
    near.bus.provide(&TopicWish { name: lane.clone(), partitions: 1, keep: None }).await?;
    for lane in &near.lanes {
        near.bus.provide(&TopicWish { name: lane.config.topic.clone(), partitions: lane.partitions, keep: None }).await?;
    }
    let run = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let seat = Seat { worker: near.worker, run, instance: run ^ u64::from(std::process::id()) << 32, reply_lane: lane.clone() };
    near.node.ids.set(near.worker, run);
    let hello = near.node.say_hello(&seat, "").await?;
    let reader = near.bus.read(lane, 0, ReadFrom::Offset(hello.offset))?;
    near.node.seat.store(Some(Arc::new(seat)));
    Ok(reader)
}

/// Is a member of a lane's group until it is told to end.
async fn keep_far(
    at: usize,
    bus: &Arc<dyn Bus>,
    lane: &plan::FarLane,
    walker: Rc<Walker>,
    spool: Spool,
    recorder: Arc<Recorder>,
    mut ends: watch::Receiver<Option<Duration>>,
) {
    let config = &lane.config;
    let mut told = false;
    while ends.borrow().is_none() {
        let membership = Membership {
            topic: config.topic.clone(),
            group: config.group.clone(),
            member: format!("{}-{at}", config.node).into(),
            dead_after: lane.dead_after,
            release_within: lane.dead_after,
        };
        let joined = async {
            let topics = [Some(&config.topic), Some(&config.parked_topic), config.ledger_topic.as_ref(), config.receipts_topic.as_ref()];
            for name in topics.into_iter().flatten() {
                bus.provide(&TopicWish { name: name.clone(), partitions: lane.partitions, keep: None }).await?;
            }
            bus.join(&membership)
        };
        let said = match joined.await {
            Ok(source) => {
                let far = Far::new(config.clone(), bus.clone(), source, walker.clone(), spool.clone(), recorder.clone());
                let mut end = ends.clone();
                far.serve(async move { end.wait_for(Option::is_some).await.ok().and_then(|end| *end).unwrap_or_default() }).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = said
            && !std::mem::replace(&mut told, true)
        {
            tracing::warn!(lane = &*config.listener, topic = &*config.topic, %error, "the lane cannot be read, and is tried again");
        }
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => {}
            _ = ends.wait_for(Option::is_some) => {}
        }
    }
}
