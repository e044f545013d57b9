//! What a bus is made from, and what librdkafka is told.

use rdkafka::ClientConfig;
use std::path::PathBuf;
use std::time::Duration;

/// One Kafka cluster.
#[derive(Clone)]
pub struct KafkaConfig {
    /// Some of its brokers, `host:port`.
    pub brokers: Vec<Box<str>>,
    /// How we are called in the brokers' logs.
    pub client_id: Box<str>,
    /// Largest record that is sent; no more than the brokers take (`message.max.bytes`).
    pub parcel_bytes_max: usize,
    /// How long a record is tried to be sent.
    pub send_within: Duration,
    /// What waits to be sent. Bytes.
    pub queue_bytes_max: u64,
    /// What is fetched ahead by each member and reader. Bytes.
    pub fetch_bytes_max: u64,
    /// TLS; `None`: in the clear.
    pub tls: Option<Tls>,
    /// User and password.
    pub sasl: Option<Sasl>,
    /// Further settings of librdkafka; those that are set here win.
    pub properties: Vec<(Box<str>, Box<str>)>,
}

/// TLS to brokers. PEM files.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// Authorities that are believed; `None`: those of the machine.
    pub ca: Option<PathBuf>,
    /// Our certificate.
    pub chain: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}

/// Who we are.
#[derive(Clone)]
pub struct Sasl {
    /// `PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512`.
    pub mechanism: Box<str>,
    /// The user.
    pub user: Box<str>,
    /// The password.
    pub password: Box<str>,
}

impl KafkaConfig {
    /// The defaults, for these brokers.
    pub fn new(brokers: Vec<Box<str>>) -> KafkaConfig {
        KafkaConfig {
            brokers,
            client_id: "wharf".into(),
            parcel_bytes_max: 1_000_000,
            send_within: Duration::from_secs(10),
            queue_bytes_max: 32 << 20,
            fetch_bytes_max: 16 << 20,
            tls: None,
            sasl: None,
            properties: Vec::new(),
        }
    }

    /// What every client is told.
    pub(crate) fn client(&self) -> ClientConfig {
        let mut told = ClientConfig::new();
        for (name, value) in &self.properties {
            told.set(name.as_ref(), value.as_ref());
        }
        told.set("bootstrap.servers", self.brokers.join(","));
        told.set("client.id", self.client_id.as_ref());
        // Answers are small and wanted at once.
        told.set("socket.nagle.disable", "true");
        // Whoever is back is to be found within the second, not within ten.
        told.set("reconnect.backoff.ms", "50").set("reconnect.backoff.max.ms", "1000");
        told.set("topic.metadata.refresh.interval.ms", "60000").set("allow.auto.create.topics", "false");
        let protocol = match (&self.tls, &self.sasl) {
            (None, None) => "plaintext",
            (Some(_), None) => "ssl",
            (None, Some(_)) => "sasl_plaintext",
            (Some(_), Some(_)) => "sasl_ssl",
        };
        told.set("security.protocol", protocol);
        if let Some(Tls { ca, chain, key }) = &self.tls {
            for (name, file) in [("ssl.ca.location", ca), ("ssl.certificate.location", chain), ("ssl.key.location", key)] {
                if let Some(file) = file {
                    told.set(name, file.to_string_lossy());
                }
            }
        }
        if let Some(Sasl { mechanism, user, password }) = &self.sasl {
            told.set("sasl.mechanism", mechanism.as_ref());
            told.set("sasl.username", user.as_ref()).set("sasl.password", password.as_ref());
        }
        told
    }

    /// What the one that sends is told.
    pub(crate) fn producer(&self) -> ClientConfig {
        let mut told = self.client();
        told.set("enable.idempotence", "true").set("acks", "all").set("linger.ms", "0");
        told.set("message.timeout.ms", self.send_within.as_millis().to_string());
        told.set("message.max.bytes", (self.parcel_bytes_max + 4096).to_string());
        told.set("queue.buffering.max.kbytes", (self.queue_bytes_max / 1024).max(1).to_string());
        told.set("queue.buffering.max.messages", "100000");
        told
    }

    /// What those that read are told. `group`: the group's name, also where nobody joins it.
    pub(crate) fn consumer(&self, group: &str) -> ClientConfig {
        let mut told = self.client();
        told.set("group.id", group);
        told.set("enable.auto.commit", "false").set("enable.auto.offset.store", "false");
        told.set("auto.offset.reset", "earliest").set("isolation.level", "read_uncommitted");
        told.set("queued.max.messages.kbytes", (self.fetch_bytes_max / 1024).max(1).to_string()).set("queued.min.messages", "2000");
        // Else a partition whose queue was full is not asked for a second.
        told.set("fetch.queue.backoff.ms", "5").set("fetch.error.backoff.ms", "100");
        let most = (self.parcel_bytes_max + 4096).max(1 << 20);
        told.set("fetch.message.max.bytes", most.to_string()).set("fetch.max.bytes", most.max(8 << 20).to_string());
        told.set("receive.message.max.bytes", (most.max(8 << 20) + (1 << 20)).to_string());
        told.set("max.poll.interval.ms", "300000");
        told
    }
}
