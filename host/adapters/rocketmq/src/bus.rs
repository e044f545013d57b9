//! One connection to one cluster: hands out the doors, makes topics.

use crate::books::RocketBooks;
use crate::cluster::{self, Cluster};
use crate::config::{PARCEL_BYTES_MAX, RocketMqConfig, SendBy};
use crate::gate::Gate;
use crate::proxy::Proxy;
use crate::reader::RocketReader;
use crate::sink::{RocketSink, several_brokers};
use crate::source::RocketSource;
use crate::stamp::Stamp;
use std::sync::Arc;
use tokio::runtime::Handle;
use wharf_core::BoxFuture;
use wharf_core::bus::{Books, Bus, BusError, BusErrorKind, Membership, ReadFrom, Reader, Sink, Source, TopicWish};

/// RocketMQ behind the doors of the bus.
pub struct RocketMqBus {
    cluster: Arc<Cluster>,
    proxy: Arc<Proxy>,
    stamp: Arc<Stamp>,
    gate: Arc<Gate>,
    sink: Arc<RocketSink>,
    runtime: Handle,
}

impl RocketMqBus {
    /// Connects by itself, when it is first used and whenever it has to. Must be called within a tokio runtime, whose threads
    /// do all the work and are those that tell.
    ///
    /// # Errors
    /// An address that is none; no random numbers.
    pub fn new(mut config: RocketMqConfig) -> Result<RocketMqBus, BusError> {
        config.parcel_bytes_max = config.parcel_bytes_max.min(PARCEL_BYTES_MAX);
        let (config, runtime) = (Arc::new(config), Handle::current());
        let stamp = Arc::new(Stamp::new()?);
        let cluster = Arc::new(Cluster::new(config.clone(), Arc::default()));
        let proxy = Arc::new(Proxy::new(config, &stamp)?);
        let gate = Arc::<Gate>::default();
        let sink = RocketSink::new(cluster.clone(), proxy.clone(), stamp.clone(), gate.clone(), runtime.clone());
        Ok(RocketMqBus { cluster, proxy, stamp, gate, sink: Arc::new(sink), runtime })
    }
}

impl Bus for RocketMqBus {
    fn sink(&self) -> Arc<dyn Sink> {
        self.sink.clone()
    }

    /// How long messages are kept is the broker's own setting (`fileReservedTime`) for all topics: a wish for it changes nothing.
    fn provide<'a>(&'a self, wish: &'a TopicWish) -> BoxFuture<'a, Result<u32, BusError>> {
        Box::pin(async move {
            let is_legal = |name: &str| {
                !name.is_empty() && name.len() <= 100 && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'%'))
            };
            if !is_legal(&wish.name) {
                let message = format!("topic {:?} cannot be named so on rocketmq; hint: letters, digits, `-`, `_`, at most 100", wish.name);
                return Err(BusError::new(BusErrorKind::Refused, message));
            }
            let layout = match self.cluster.layout(&wish.name).await {
                Err(error) if error.kind == BusErrorKind::NoTopic && self.cluster.config.makes_topics => {
                    self.cluster.make_topic(&wish.name, wish.partitions.max(1), "+message.type=FIFO").await?;
                    self.cluster.layout(&wish.name).await?
                }
                layout => layout?,
            };
            let has = layout.queues.len() as u32;
            if has < wish.partitions {
                self.cluster.forget(&wish.name);
                let why = format!(
                    "it has {has} queues that may be read and written, {} are wanted, and more would change the order of its messages",
                    wish.partitions
                );
                return Err(cluster::no_topic(&wish.name, &why));
            }
            if self.cluster.config.send_by == SendBy::Grpc {
                if layout.only_broker().is_none() {
                    return Err(several_brokers(&wish.name));
                }
                if !self.proxy.takes_order(&wish.name).await? {
                    let message = format!(
                        "topic {0} takes no ordered messages by gRPC; \
                         hint: `mqadmin updateTopic -t {0} -a +message.type=FIFO`, or send by remoting",
                        wish.name
                    );
                    return Err(BusError::new(BusErrorKind::Refused, message));
                }
            }
            Ok(has)
        })
    }

    fn join(&self, membership: &Membership) -> Result<Arc<dyn Source>, BusError> {
        Ok(Arc::new(RocketSource::new(&self.cluster, membership, self.stamp.clone(), &self.runtime)))
    }

    fn read(&self, topic: &str, partition: u32, from: ReadFrom) -> Result<Box<dyn Reader>, BusError> {
        let reader = RocketReader::new(self.cluster.clone(), topic, partition, from, self.gate.clone(), self.runtime.clone());
        Ok(Box::new(reader))
    }

    fn books(&self) -> Arc<dyn Books> {
        Arc::new(RocketBooks { cluster: self.cluster.clone(), stamp: self.stamp.clone() })
    }
}
