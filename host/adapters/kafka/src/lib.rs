//! Kafka behind the doors of the bus. The only room that knows Kafka; all of it is librdkafka's.
//!
//! - [`config`]: what a bus is made from, and what librdkafka is told
//! - `sink`: idempotent, `acks=all`; `source`: a member of a group; `reader`: one partition alone; `books`: for operators
//! - `wake`: how a task is woken by librdkafka, without a thread that polls
//!
//! - `standings`, `log`: how a group's standings are kept: as records of a topic beside, `<topic>-<group>-standings`
//!
//! Offsets are committed as well, for those who look on with tools of Kafka's, about once a second. A group that was moved by
//! such a tool while it had no member goes on where it was moved to.
//!
//! It deliberately holds no messages of its own beyond those that one call hands out.

mod books;
pub mod config;
mod log;
mod reader;
mod sink;
mod source;
mod standings;
mod wake;

pub use config::{KafkaConfig, Sasl, Tls};

use books::KafkaBooks;
use rdkafka::TopicPartitionList;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use reader::KafkaReader;
use sink::KafkaSink;
use source::KafkaSource;
use std::sync::Arc;
use std::time::Duration;
use wharf_core::BoxFuture;
use wharf_core::bus::{Books, Bus, BusError, BusErrorKind, Membership, ReadFrom, Reader, Sink, Source, TopicWish};

/// How long brokers are waited for when something is asked of them.
const ASK_MAX: Duration = Duration::from_secs(10);

/// One Kafka cluster.
pub struct Kafka {
    config: Arc<KafkaConfig>,
    sink: Arc<KafkaSink>,
    books: Arc<KafkaBooks>,
}

impl Kafka {
    /// The cluster of this configuration. Nobody is waited for: brokers may come later.
    ///
    /// # Errors
    /// [`BusErrorKind::Refused`]: librdkafka does not take a setting.
    pub fn open(config: KafkaConfig) -> Result<Kafka, BusError> {
        let config = Arc::new(config);
        let sink = Arc::new(KafkaSink::open(&config)?);
        Ok(Kafka { books: Arc::new(KafkaBooks::new(config.clone(), sink.clone())), sink, config })
    }
}

/// Makes a topic if there is none; says how many partitions it has.
async fn provide(config: &Arc<KafkaConfig>, wish: &TopicWish, settings: &[(&str, &str)]) -> Result<u32, BusError> {
    let seen = || {
        let (config, name) = (config.clone(), wish.name.clone());
        blocking(move || {
            let asking: BaseConsumer = config.consumer("wharf-readers").create().map_err(|error| told(&error, "asking brokers"))?;
            partitions_of(&asking, &name)
        })
    };
    if let Some(have) = seen().await? {
        return enough(wish, have);
    }
    let admin: AdminClient<DefaultClientContext> = config.client().create().map_err(|error| told(&error, "making topics"))?;
    let keep = wish.keep.map(|keep| keep.as_millis().to_string());
    let partitions = i32::try_from(wish.partitions).unwrap_or(i32::MAX);
    let mut topic = NewTopic::new(&wish.name, partitions, TopicReplication::Fixed(-1));
    if let Some(keep) = &keep {
        topic = topic.set("retention.ms", keep);
    }
    for (name, value) in settings {
        topic = topic.set(name, value);
    }
    let options = AdminOptions::new().request_timeout(Some(ASK_MAX)).operation_timeout(Some(ASK_MAX));
    let made = admin.create_topics([&topic], &options).await.map_err(|error| told(&error, "making a topic"))?;
    let name = &wish.name;
    match made.into_iter().next() {
        // Somebody else was quicker.
        Some(Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => {}
        Some(Err((_, code))) => {
            let more: String = settings.iter().map(|(name, value)| format!(", {name}={value}")).collect();
            let message =
                format!("topic {name:?} cannot be made: {code}; hint: let an operator make it with {partitions} partitions{more}");
            return Err(BusError::new(kind_of(code), message));
        }
        None => return Err(BusError::new(BusErrorKind::Unreachable, "the brokers have not said whether the topic was made")),
    }
    // All brokers hear of it a little later.
    for _ in 0..50 {
        if let Some(have) = seen().await? {
            return enough(wish, have);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Err(BusError::new(BusErrorKind::Unreachable, format!("topic {name:?} was made and is not seen yet")))
}

fn enough(wish: &TopicWish, have: u32) -> Result<u32, BusError> {
    if have >= wish.partitions {
        return Ok(have);
    }
    let TopicWish { name, partitions, .. } = wish;
    let message = format!(
        "topic {name:?} has {have} partitions, and {partitions} are needed; hint: set `partitions: {have}` on both sides, or give the topic more while nobody sends"
    );
    Err(BusError::new(BusErrorKind::NoTopic, message))
}

impl Bus for Kafka {
    fn sink(&self) -> Arc<dyn Sink> {
        self.sink.clone()
    }

    fn provide<'a>(&'a self, wish: &'a TopicWish) -> BoxFuture<'a, Result<u32, BusError>> {
        Box::pin(provide(&self.config, wish, &[]))
    }

    fn join(&self, membership: &Membership) -> Result<Arc<dyn Source>, BusError> {
        Ok(KafkaSource::join(&self.config, &self.sink, membership)?)
    }

    fn read(&self, topic: &str, partition: u32, from: ReadFrom) -> Result<Box<dyn Reader>, BusError> {
        Ok(Box::new(KafkaReader::open(&self.config, topic, partition, from)?))
    }

    fn books(&self) -> Arc<dyn Books> {
        self.books.clone()
    }
}

/// Does something that waits for brokers, where waiting hurts nobody.
async fn blocking<T: Send + 'static>(what: impl FnOnce() -> Result<T, BusError> + Send + 'static) -> Result<T, BusError> {
    tokio::task::spawn_blocking(what).await.map_err(|_| BusError::new(BusErrorKind::Closed, "the runtime ends"))?
}

/// These partitions of a topic.
fn list_of(topic: &str, partitions: impl IntoIterator<Item = u32>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for partition in partitions {
        list.add_partition(topic, i32::try_from(partition).unwrap_or(i32::MAX));
    }
    list
}

/// Partitions of a topic; `None`: there is none.
fn partitions_of<C: rdkafka::consumer::ConsumerContext>(consumer: &BaseConsumer<C>, topic: &str) -> Result<Option<u32>, BusError> {
    let all = consumer.fetch_metadata(Some(topic), ASK_MAX).map_err(|error| told(&error, "asking about a topic"))?;
    let Some(found) = all.topics().iter().find(|found| found.name() == topic) else { return Ok(None) };
    match found.error().map(RDKafkaErrorCode::from) {
        None => Ok(Some(u32::try_from(found.partitions().len()).unwrap_or(u32::MAX))),
        Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic) => Ok(None),
        Some(code) => Err(BusError::new(kind_of(code), format!("topic {topic:?} cannot be used: {code}"))),
    }
}

/// What an error of Kafka's means to a bus.
fn kind_of(code: RDKafkaErrorCode) -> BusErrorKind {
    use RDKafkaErrorCode as Code;
    match code {
        Code::QueueFull => BusErrorKind::Full,
        Code::MessageSizeTooLarge | Code::InvalidMessageSize | Code::MessageBatchTooLarge => BusErrorKind::TooLarge,
        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition | Code::InvalidTopic => BusErrorKind::NoTopic,
        Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::SaslAuthenticationFailed
        | Code::Authentication
        | Code::SSL
        | Code::UnsupportedVersion
        | Code::PolicyViolation
        | Code::InvalidArgument
        | Code::InvalidConfig
        | Code::InvalidReplicationFactor => BusErrorKind::Refused,
        Code::IllegalGeneration | Code::UnknownMemberId | Code::FencedInstanceId | Code::StaleMemberEpoch | Code::FencedMemberEpoch => {
            BusErrorKind::NotYours
        }
        Code::KafkaStorageError => BusErrorKind::Storage,
        _ => BusErrorKind::Unreachable,
    }
}

/// An error of librdkafka's, with what was being done.
fn told(error: &KafkaError, doing: &str) -> BusError {
    let kind = match error {
        KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_) => BusErrorKind::Refused,
        other => other.rdkafka_error_code().map_or(BusErrorKind::Unreachable, kind_of),
    };
    BusError::new(kind, format!("{doing}: {error}"))
}
