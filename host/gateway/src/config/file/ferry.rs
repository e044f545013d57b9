//! Buses and the ferry, as people write them.

use super::*;

/// Where messages go: one of `embedded` and `kafka`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Bus {
    /// Messages stay in the state folder of this process: for one machine, nothing to install. Default none.
    #[serde(default)]
    pub embedded: Opt<EmbeddedBus>,
    /// Apache Kafka. Default none.
    #[serde(default)]
    pub kafka: Opt<KafkaBus>,
}

/// Messages in the state folder of this process.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EmbeddedBus {
    /// How long messages are kept. Default 24h.
    #[serde(default)]
    pub keep: Opt<Time>,
    /// What all messages may take on disk; the oldest go first. Default 4GiB.
    #[serde(default)]
    pub bytes_max: Opt<Size>,
    /// Largest message. Default 1MiB.
    #[serde(default)]
    pub message_bytes_max: Opt<Size>,
}

/// Brokers of Apache Kafka.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaBus {
    /// Some of the brokers, `host:port`.
    pub brokers: Item<Vec<Item<String>>>,
    /// Largest message that the brokers take (`message.max.bytes`). Default 1000000B.
    #[serde(default)]
    pub message_bytes_max: Opt<Size>,
    /// How long a message is tried to be sent. Default 10s.
    #[serde(default)]
    pub send_within: Opt<Time>,
    /// What waits to be sent may take so much memory; beyond, requests are refused. Default 32MiB.
    #[serde(default)]
    pub queue_bytes_max: Opt<Size>,
    /// TLS to the brokers. Default none: in the clear.
    #[serde(default)]
    pub tls: Opt<KafkaTls>,
    /// User and password. Default none.
    #[serde(default)]
    pub sasl: Opt<KafkaSasl>,
    /// Further settings of librdkafka, as it names them. Default none.
    #[serde(default)]
    pub properties: Opt<Named<String>>,
}

/// TLS to brokers.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaTls {
    /// PEM file with the authorities that are believed. Default those of the machine.
    #[serde(default)]
    pub ca: Opt<String>,
    /// PEM file with our own certificate. Default none.
    #[serde(default)]
    pub chain: Opt<String>,
    /// PEM file with its private key.
    #[serde(default)]
    pub key: Opt<String>,
}

/// Who we are to brokers.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaSasl {
    /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`.
    pub mechanism: Item<String>,
    /// The user.
    pub user: Item<String>,
    /// The password: `${file:...}` or `${env:...}`.
    pub password: Item<String>,
}

/// Requests over an isolated network as messages.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ferry {
    /// The worker id of this node, 0 to 1023. No two live nodes may have the same.
    #[serde(default)]
    pub worker: Opt<Whole>,
    /// Bodies that come in pieces may take so much disk. Default 4GiB.
    #[serde(default)]
    pub spool_bytes_max: Opt<Size>,
    /// Lanes that routes send to (`to: {ferry: NAME}`), by name.
    #[serde(default)]
    pub near: Opt<Named<NearLane>>,
    /// Lanes whose messages this node works on, by name; routes name them in `listeners`.
    #[serde(default)]
    pub far: Opt<Named<FarLane>>,
}

/// A lane that routes send to.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NearLane {
    /// One of `buses`.
    pub bus: Item<String>,
    /// Topic of its requests. Default `wharf-ferry-request`.
    #[serde(default)]
    pub topic: Opt<String>,
    /// Partitions of the topic; one that has fewer is not used. The same on both sides. Default 6.
    #[serde(default)]
    pub partitions: Opt<Whole>,
    /// What the topics of answers begin with; the worker id follows. Default `wharf-ferry-reply-`.
    #[serde(default)]
    pub reply_prefix: Opt<String>,
    /// Requests that agree in it are done one after the other, in the order in which they came. Default none: side by side.
    #[serde(default)]
    pub order_by: Opt<NotShort<OrderBy>>,
    /// Do callers wait? `asked` (default): unless they send `prefer: respond-async`; `sync`: always; `async`: never.
    #[serde(default)]
    pub mode: Opt<FerryMode>,
    /// Requests with the same value in this field, and the same method, path and body, are done once. Default `idempotency-key`.
    #[serde(default)]
    pub once_by: Opt<String>,
    /// How long a request is worth doing that nobody waits for. Default 1h.
    #[serde(default)]
    pub keep: Opt<Time>,
    /// Where answers are asked for: the path of a route with `to: {ferry_answers: NAME}`; the id follows. Default `/ferry/messages/`.
    #[serde(default)]
    pub location: Opt<String>,
    /// HTTP statuses of typed errors.
    #[serde(default)]
    pub statuses: Opt<FerryStatuses>,
    /// Callers that wait at once, on each core. Default 10,000.
    #[serde(default)]
    pub waiters_max: Opt<Whole>,
}

/// What requests are in order by.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OrderBy {
    /// The client's address.
    Client,
    /// The path.
    Path,
    /// The first so many segments of the path.
    Segments(Item<Whole>),
    /// The value of this header.
    Header(Item<String>),
}

/// Do callers wait?
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FerryMode {
    /// Unless they ask not to.
    Asked,
    /// Always.
    Sync,
    /// Never.
    Async,
}

/// HTTP statuses of typed errors. Old callers expect 200 throughout.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FerryStatuses {
    /// Of 2001, no answer came in time. Default 504.
    #[serde(default)]
    pub message_timeout: Opt<Whole>,
    /// Of 2002, the message was not taken or not carried. Default 503.
    #[serde(default)]
    pub message_error: Opt<Whole>,
    /// Of 5001, the service did not answer in time. Default 504.
    #[serde(default)]
    pub network_timeout: Opt<Whole>,
    /// Of 5000, it could not be done, or it is not known whether it was. Default 500.
    #[serde(default)]
    pub system_error: Opt<Whole>,
}

/// A lane whose messages this node works on.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FarLane {
    /// One of `buses`.
    pub bus: Item<String>,
    /// Topic of its requests. Default `wharf-ferry-request`.
    #[serde(default)]
    pub topic: Opt<String>,
    /// Partitions of the topic. The same on both sides. Default 6.
    #[serde(default)]
    pub partitions: Opt<Whole>,
    /// Nodes of one group share the lane. Default `wharf-ferry`.
    #[serde(default)]
    pub group: Opt<String>,
    /// Members of the group in this process, each on a core of its own. Default 1.
    #[serde(default)]
    pub members: Opt<Whole>,
    /// What the topics of answers begin with: answers go to no others, whatever a message says. Default `wharf-ferry-reply-`.
    #[serde(default)]
    pub reply_prefix: Opt<String>,
    /// Messages that are worked on at once, of each member. Default 512.
    #[serde(default)]
    pub in_flight_max: Opt<Whole>,
    /// Messages begun in a second, of each member: a backlog is worked off at this pace. Default no limit.
    #[serde(default)]
    pub rate_max: Opt<Whole>,
    /// How long a request is known by its key, so that its like are not done again. Default 10m.
    #[serde(default)]
    pub once_window: Opt<Time>,
    /// The header that services are told the key by. Default `idempotency-key`.
    #[serde(default)]
    pub once_by: Opt<String>,
    /// Services do a request with a known key once, however often it is sent: it is sent again when it is not known whether it was done. Default false: that is answered with 5000, and the message is put aside.
    #[serde(default)]
    pub services_know_keys: Opt<bool>,
    /// How long services may take that say nothing of their own about it. Default 180s.
    #[serde(default)]
    pub patience: Opt<Time>,
    /// Tries of a message that nobody waits for, while none has reached a service. Default 5.
    #[serde(default)]
    pub tries_max: Opt<Whole>,
    /// Between two tries at first; doubled each time, up to a minute. Default 1s.
    #[serde(default)]
    pub backoff: Opt<Time>,
    /// A member of which nothing is heard for so long is taken for dead, and others work on its messages. Default 10s.
    #[serde(default)]
    pub dead_after: Opt<Time>,
    /// Largest answer that is carried back. Default 100MiB.
    #[serde(default)]
    pub answer_bytes_max: Opt<Size>,
}

impl WholeForm for OrderBy {
    fn whole_form(name: &str) -> String {
        format!("write `order_by: client`, `order_by: path`, `order_by: {{segments: 2}}`, or `order_by: {{header: {name}}}`")
    }
}
