//! What the adapter has to be told, checked by whoever reads files; no defaults of the file are decided here but those of
//! [`RocketMqConfig::new`].

use std::time::Duration;

/// How messages are sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SendBy {
    /// By gRPC v2, to the proxy. It lets nobody name a queue, but it takes all messages of one group to one queue, and how
    /// it chooses is known, so that each partition has a group that leads there. That holds while all queues of a topic are
    /// on one broker; a topic on several is refused.
    #[default]
    Grpc,
    /// By the remoting protocol, to the broker, with the queue named: for topics on several brokers.
    Remoting,
}

/// Who we are, for a cluster that asks.
#[derive(Clone)]
pub struct Credentials {
    /// The name.
    pub access_key: Box<str>,
    /// What signs.
    pub secret_key: Box<str>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("access_key", &self.access_key).finish_non_exhaustive()
    }
}

/// How RocketMQ is reached, and what may wait.
#[derive(Clone, Debug)]
pub struct RocketMqConfig {
    /// `host:port` of the gRPC proxy.
    pub grpc: Box<str>,
    /// `host:port` of the name servers, or of the remoting port of proxies in cluster mode, which answer alike.
    pub names: Vec<Box<str>>,
    /// For a cluster that asks.
    pub credentials: Option<Credentials>,
    /// How messages are sent.
    pub send_by: SendBy,
    /// Whether [`wharf_core::bus::Bus::provide`] makes topics that are missing. Default: yes.
    pub makes_topics: bool,
    /// What is appended to a topic's name for the topic that keeps the standings of its groups. Default `-standings`.
    pub standings_suffix: Box<str>,
    /// The consumer group that readers without a group call themselves. Nothing is kept for it. Default `wharf-readers`.
    pub reader_group: Box<str>,
    /// Messages that wait to be sent. Default 10,000.
    pub waiting_max: u64,
    /// Bytes that wait to be sent. Default 64 MiB.
    pub waiting_bytes_max: u64,
    /// Largest message: key, value, fields. Default and most: 4 MiB less 64 KiB, since a broker takes 4 MiB with its own additions.
    pub parcel_bytes_max: usize,
    /// A message that was not kept after this time is given up. Default 30 s.
    pub send_within: Duration,
    /// One call. Default 3 s, as RocketMQ's own clients.
    pub call_within: Duration,
    /// Messages of one partition that are fetched ahead. Default 256.
    pub fetched_max: usize,
    /// How often a member looks after its group: who is there, which locks hold. Default 1 s.
    pub tick: Duration,
}

/// Largest message that a broker with its own settings takes for sure.
pub const PARCEL_BYTES_MAX: usize = (4 << 20) - (64 << 10);

impl RocketMqConfig {
    /// The defaults, for this proxy and these name servers.
    pub fn new(grpc: &str, names: &[&str]) -> RocketMqConfig {
        RocketMqConfig {
            grpc: grpc.into(),
            names: names.iter().map(|&name| name.into()).collect(),
            credentials: None,
            send_by: SendBy::Grpc,
            makes_topics: true,
            standings_suffix: "-standings".into(),
            reader_group: "wharf-readers".into(),
            waiting_max: 10_000,
            waiting_bytes_max: 64 << 20,
            parcel_bytes_max: PARCEL_BYTES_MAX,
            send_within: Duration::from_secs(30),
            call_within: Duration::from_secs(3),
            fetched_max: 256,
            tick: Duration::from_secs(1),
        }
    }
}
