//! Buses and the ferry, checked.

use super::*;
use wharf_ferry::config::{FarConfig, NearConfig};

/// Where messages go.
#[derive(Clone, Debug)]
pub struct Bus {
    /// Unique.
    pub name: Arc<str>,
    /// What it is.
    pub kind: BusKind,
}

/// What a bus is.
#[derive(Clone, Debug)]
pub enum BusKind {
    /// In the state folder.
    Embedded {
        /// How long messages are kept.
        keep: Duration,
        /// What all of them may take.
        bytes_max: u64,
        /// Largest message.
        message_bytes_max: usize,
    },
    /// Apache Kafka.
    Kafka(Arc<KafkaBus>),
}

/// Brokers of Apache Kafka.
#[derive(Clone)]
pub struct KafkaBus {
    /// `host:port`.
    pub brokers: Vec<Box<str>>,
    /// Largest message.
    pub message_bytes_max: usize,
    /// How long a message is tried to be sent.
    pub send_within: Duration,
    /// What waits to be sent.
    pub queue_bytes_max: u64,
    /// Files of TLS: authorities, certificate, key; `None`: in the clear.
    pub tls: Option<[Option<PathBuf>; 3]>,
    /// Mechanism, user, password.
    pub sasl: Option<(Box<str>, Box<str>, Box<str>)>,
    /// Further settings.
    pub properties: Vec<(Box<str>, Box<str>)>,
}

impl fmt::Debug for KafkaBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Passwords are not shown.
        let KafkaBus { brokers, message_bytes_max, send_within, queue_bytes_max, tls, sasl, properties } = self;
        let sasl = sasl.as_ref().map(|(mechanism, user, _)| (mechanism, user));
        f.debug_struct("KafkaBus")
            .field("brokers", brokers)
            .field("limits", &(message_bytes_max, send_within, queue_bytes_max))
            .field("tls", tls)
            .field("sasl", &sasl)
            .field("properties", &properties.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .finish()
    }
}

/// The ferry.
#[derive(Clone, Debug)]
pub struct Ferry {
    /// The worker id, where it is given.
    pub worker: Option<u16>,
    /// Disk for bodies in pieces.
    pub spool_bytes_max: u64,
    /// Lanes that routes send to.
    pub near: Vec<NearLane>,
    /// Lanes that are worked on.
    pub far: Vec<FarLane>,
}

/// A lane that routes send to.
#[derive(Clone, Debug)]
pub struct NearLane {
    /// The bus.
    pub bus: Arc<str>,
    /// Partitions.
    pub partitions: u32,
    /// What topics of answers begin with.
    pub reply_prefix: Arc<str>,
    /// The rest.
    pub config: Arc<NearConfig>,
}

/// A lane that is worked on.
#[derive(Clone, Debug)]
pub struct FarLane {
    /// The bus.
    pub bus: Arc<str>,
    /// Partitions.
    pub partitions: u32,
    /// Members in this process.
    pub members: usize,
    /// When one is taken for dead.
    pub dead_after: Duration,
    /// The rest.
    pub config: Arc<FarConfig>,
}
