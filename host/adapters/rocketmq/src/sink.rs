//! The sink: a lane for each partition that has something to send, in which one message is on its way at a time.
//!
//! RocketMQ has no idempotent producer, and the proxy takes one message in a request if it is to choose the queue. So order costs a
//! round trip for each message of a partition; partitions go side by side. A message whose answer did not come is looked for in its
//! queue by its id, and sent again, with the same id, if it is not there. So the answers that a crash of the broker swallows make
//! nothing twice. What is still on its way while it is looked for may be kept later, behind messages that were sent after it: a slow
//! broker, not a dead one. Readers that must not do a thing twice look at the message's own identity, not at its offset.

use crate::cluster::{self, Cluster};
use crate::config::{RocketMqConfig, SendBy};
use crate::gate::Gate;
use crate::parcel::{self, TEXT_BYTES_MAX, Written};
use crate::proto;
use crate::proxy::Proxy;
use crate::spread;
use crate::stamp::Stamp;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};
use wharf_core::BoxFuture;
use wharf_core::bus::{BusError, BusErrorKind, Parcel, Place, Sink, Told};

/// Between two tries, doubled up to the second.
const AGAIN_FIRST: Duration = Duration::from_millis(50);
const AGAIN_LAST: Duration = Duration::from_secs(1);
/// How far before it was taken a message is looked for, where it is not known which was sent before it: clocks differ.
const CLOCKS_DIFFER_MS: u64 = 60_000;

/// Sends. Shared by everyone.
pub(crate) struct RocketSink {
    road: Arc<Road>,
    runtime: Handle,
}

struct Road {
    config: Arc<RocketMqConfig>,
    cluster: Arc<Cluster>,
    proxy: Arc<Proxy>,
    stamp: Arc<Stamp>,
    /// Nothing is sent while a reader finds out where the end is.
    gate: Arc<Gate>,
    lanes: Mutex<Lanes>,
    /// Something was told of.
    told: Notify,
    groups: Mutex<HashMap<usize, Arc<[Box<str>]>>>,
}

#[derive(Default)]
struct Lanes {
    /// A lane is here as long as a task works on it.
    lanes: HashMap<(Arc<str>, u32), VecDeque<Waiting>>,
    /// The numbers of those that were taken and not yet told of.
    untold: BTreeSet<u64>,
    bytes: u64,
    next: u64,
}

struct Waiting {
    number: u64,
    bytes: u64,
    written: Written,
    until: Instant,
    told: Told,
}

impl RocketSink {
    pub(crate) fn new(cluster: Arc<Cluster>, proxy: Arc<Proxy>, stamp: Arc<Stamp>, gate: Arc<Gate>, runtime: Handle) -> RocketSink {
        let config = cluster.config.clone();
        let road = Road { config, cluster, proxy, stamp, gate, lanes: Mutex::default(), told: Notify::new(), groups: Mutex::default() };
        RocketSink { road: Arc::new(road), runtime }
    }
}

impl Sink for RocketSink {
    fn send(&self, parcel: Parcel, told: Told) -> Result<(), BusError> {
        let bytes = bytes_of(&parcel);
        let limit = self.parcel_bytes_max();
        let too_large = |what: String| Err(BusError::new(BusErrorKind::TooLarge, what));
        if bytes > limit {
            return too_large(format!(
                "a message of {bytes} B for topic {} is larger than the {limit} B that rocketmq takes; hint: send a smaller one",
                parcel.topic
            ));
        }
        let Some(written) = parcel::write(&parcel) else {
            return too_large(format!(
                "key and fields of a message for topic {} take more than {TEXT_BYTES_MAX} B as text; hint: move them into the value",
                parcel.topic
            ));
        };
        let config = &self.road.config;
        let mut all = self.road.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        if all.untold.len() as u64 >= config.waiting_max || all.bytes.saturating_add(bytes as u64) > config.waiting_bytes_max {
            let message = format!(
                "{} messages of {} B wait to be sent to rocketmq, limits are {} and {} B",
                all.untold.len(),
                all.bytes,
                config.waiting_max,
                config.waiting_bytes_max
            );
            return Err(BusError::new(BusErrorKind::Full, message));
        }
        let number = all.next;
        all.next += 1;
        all.bytes += bytes as u64;
        all.untold.insert(number);
        let waiting = Waiting { number, bytes: bytes as u64, written, until: Instant::now() + config.send_within, told };
        let lane = (parcel.topic, parcel.partition);
        if let Some(queue) = all.lanes.get_mut(&lane) {
            queue.push_back(waiting);
        } else {
            all.lanes.insert(lane.clone(), VecDeque::from([waiting]));
            self.runtime.spawn(self.road.clone().work_on(lane));
        }
        Ok(())
    }

    fn parcel_bytes_max(&self) -> usize {
        // What the proxy says is of the body alone; the rest has room beside it.
        self.road.proxy.body_bytes_max().map_or(self.road.config.parcel_bytes_max, |max| max.min(self.road.config.parcel_bytes_max))
    }

    fn waiting(&self) -> (u64, u64) {
        let all = self.road.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        (all.untold.len() as u64, all.bytes)
    }

    fn flush(&self, within: Duration) -> BoxFuture<'_, ()> {
        let end = Instant::now() + within;
        let before = self.road.lanes.lock().unwrap_or_else(PoisonError::into_inner).next;
        Box::pin(async move {
            let _ = timeout_at(end, async {
                loop {
                    let told = self.road.told.notified();
                    let is_open = |all: &Lanes| all.untold.first().is_some_and(|first| *first < before);
                    if !is_open(&self.road.lanes.lock().unwrap_or_else(PoisonError::into_inner)) {
                        return;
                    }
                    told.await;
                }
            })
            .await;
        })
    }
}

fn bytes_of(parcel: &Parcel) -> usize {
    let fields: usize = parcel.fields.iter().map(|(name, value)| name.len() + value.len()).sum();
    parcel.key.as_ref().map_or(0, bytes::Bytes::len) + parcel.value.len() + fields
}

impl Road {
    /// Sends what is in a lane, one after the other, until there is nothing.
    async fn work_on(self: Arc<Self>, lane: (Arc<str>, u32)) {
        let mut before = None;
        loop {
            let next = {
                let mut all = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
                match all.lanes.get_mut(&lane).and_then(VecDeque::pop_front) {
                    Some(next) => next,
                    None => {
                        // In the same breath as the look: who sends now begins a new lane.
                        all.lanes.remove(&lane);
                        return;
                    }
                }
            };
            let (topic, partition) = (&lane.0, lane.1);
            let kept = self.send(topic, partition, &next.written, next.until, before).await;
            before = kept.as_ref().ok().copied().or(before);
            (next.told)(kept.map(|offset| Place { partition, offset }));
            {
                let mut all = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
                all.untold.remove(&next.number);
                all.bytes -= next.bytes;
            }
            self.told.notify_waiters();
        }
    }

    /// Until it is kept, or cannot be, or its time is over. It is behind the offset `before`, if that is known.
    async fn send(&self, topic: &str, partition: u32, written: &Written, until: Instant, before: Option<u64>) -> Result<u64, BusError> {
        let (id, taken_ms) = (self.stamp.message(), UNIX_EPOCH.elapsed().unwrap_or_default().as_millis() as u64);
        let (mut pause, mut is_again) = (AGAIN_FIRST, false);
        loop {
            let _ = timeout_at(until, self.gate.passed()).await;
            let tried = async {
                if std::mem::replace(&mut is_again, true)
                    && let Some(offset) = self.find(topic, partition, &id, before, taken_ms).await?
                {
                    return Ok(offset);
                }
                self.try_once(topic, partition, written, &id).await
            };
            let error = match tried.await {
                Err(error) if error.kind == BusErrorKind::Unreachable => error,
                done => return done,
            };
            if Instant::now() + pause >= until {
                let within = self.config.send_within.as_millis();
                let message = format!(
                    "a message for topic {topic}, partition {partition}, was not kept within {within} ms, or no answer came: {error}"
                );
                return Err(BusError::new(BusErrorKind::Unreachable, message));
            }
            sleep(pause).await;
            pause = (pause * 2).min(AGAIN_LAST);
        }
    }

    /// Is it there already?
    async fn find(&self, topic: &str, partition: u32, id: &str, before: Option<u64>, taken_ms: u64) -> Result<Option<u64>, BusError> {
        let (cluster, group) = (&self.cluster, &self.config.reader_group);
        let mut at = match before {
            Some(before) => before + 1,
            None => cluster.at_time(topic, partition, taken_ms.saturating_sub(CLOCKS_DIFFER_MS)).await?,
        };
        let end = cluster.end(topic, partition).await?;
        while at < end {
            let pulled = cluster.pull(group, topic, partition, at, Duration::ZERO).await?;
            if let Some(kept) = pulled.messages.iter().find(|kept| kept.property(parcel::ID) == Some(id)) {
                return Ok(Some(kept.offset));
            }
            if pulled.next <= at {
                let message = format!("rocketmq hands out nothing of topic {topic}, partition {partition}, from offset {at} to {end}");
                return Err(BusError::new(BusErrorKind::Unreachable, message));
            }
            at = pulled.next;
        }
        Ok(None)
    }

    async fn try_once(&self, topic: &str, partition: u32, written: &Written, id: &str) -> Result<u64, BusError> {
        let layout = self.cluster.layout(topic).await?;
        if layout.queues.get(partition as usize).is_none() {
            return Err(cluster::no_topic(
                topic,
                &format!("it has {} partitions, and not one with number {partition}", layout.queues.len()),
            ));
        }
        if self.config.send_by == SendBy::Remoting {
            return self.cluster.send(topic, partition, &written.properties(id), &written.body).await;
        }
        if layout.only_broker().is_none() {
            return Err(several_brokers(topic));
        }
        let group = self.groups(layout.queues.len()).get(partition as usize).map(|group| group.to_string());
        let properties = proto::SystemProperties {
            keys: written.key.iter().cloned().collect(),
            message_id: id.to_owned(),
            body_encoding: proto::IDENTITY,
            message_type: proto::FIFO,
            born_timestamp: Some(SystemTime::now().into()),
            born_host: String::new(),
            message_group: group,
        };
        let message = proto::Message {
            topic: Some(proto::Resource { name: topic.to_owned() }),
            user_properties: written.own().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            system_properties: Some(properties),
            body: written.body.clone(),
        };
        self.proxy.send(message).await
    }

    fn groups(&self, queues: usize) -> Arc<[Box<str>]> {
        let mut known = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(queues).or_insert_with(|| spread::groups(queues as u32).into()).clone()
    }
}

/// The proxy leads groups elsewhere while a broker is away.
pub(crate) fn several_brokers(topic: &str) -> BusError {
    let message = format!(
        "topic {topic} is on several brokers of rocketmq, and gRPC lets nobody say to which a message goes; \
         hint: send by remoting, or make the topic on one broker"
    );
    BusError::new(BusErrorKind::Refused, message)
}
