//! The way to send: one idempotent producer, whose own thread tells what became of each record.

use crate::config::KafkaConfig;
use crate::wake::{Said, Words};
use crate::{kind_of, told};
use rdkafka::ClientContext;
use rdkafka::config::{FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use wharf_core::BoxFuture;
use wharf_core::bus::{BusError, BusErrorKind, Parcel, Place, Sink, Told};

pub(crate) struct KafkaSink {
    producer: Arc<ThreadedProducer<Delivery>>,
    parcel_bytes_max: usize,
    waiting: Arc<Waiting>,
}

#[derive(Default)]
struct Waiting {
    messages: AtomicU64,
    bytes: AtomicU64,
}

/// What goes with a record and comes back with its fate.
pub(crate) struct Ticket {
    /// In a lock only because the library wants what it carries to be shareable.
    told: Mutex<Option<Told>>,
    bytes: u64,
}

pub(crate) struct Delivery {
    said: Said,
    waiting: Arc<Waiting>,
}

impl ClientContext for Delivery {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.said.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.said.error(error, reason);
    }
}

impl ProducerContext for Delivery {
    type DeliveryOpaque = Box<Ticket>;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: Box<Ticket>) {
        self.waiting.messages.fetch_sub(1, Relaxed);
        self.waiting.bytes.fetch_sub(ticket.bytes, Relaxed);
        let said = match result {
            Ok(message) => Ok(Place {
                partition: u32::try_from(message.partition()).unwrap_or_default(),
                offset: u64::try_from(message.offset()).unwrap_or_default(),
            }),
            Err((error, message)) => {
                let what = format!("a message to topic {:?}, partition {}, was not kept: {error}", message.topic(), message.partition());
                Err(BusError::new(error.rdkafka_error_code().map_or(BusErrorKind::Unreachable, kind_of), what))
            }
        };
        if let Some(told) = ticket.told.lock().unwrap_or_else(PoisonError::into_inner).take() {
            told(said);
        }
    }
}

impl KafkaSink {
    pub(crate) fn open(config: &KafkaConfig) -> Result<KafkaSink, BusError> {
        let waiting = Arc::<Waiting>::default();
        let context = Delivery { said: Said(Words::new("sink")), waiting: waiting.clone() };
        let producer =
            ThreadedProducer::from_config_and_context(&config.producer(), context).map_err(|error| told(&error, "opening a sink"))?;
        Ok(KafkaSink { producer: Arc::new(producer), parcel_bytes_max: config.parcel_bytes_max, waiting })
    }
}

impl Drop for KafkaSink {
    fn drop(&mut self) {
        // Its end waits for its threads, which may wait for a broker.
        let producer = self.producer.clone();
        let _ = std::thread::Builder::new().name("wharf-kafka-end".into()).spawn(move || drop(producer));
    }
}

impl Sink for KafkaSink {
    fn send(&self, parcel: Parcel, told: Told) -> Result<(), BusError> {
        let Parcel { topic, partition, key, value, fields } = parcel;
        let bytes = value.len()
            + key.as_ref().map_or(0, |key| key.len())
            + fields.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        if bytes > self.parcel_bytes_max {
            let what =
                format!("a message to topic {topic:?} has {bytes} bytes, and {} are taken (`message_bytes_max`)", self.parcel_bytes_max);
            return Err(BusError::new(BusErrorKind::TooLarge, what));
        }
        let ticket = Box::new(Ticket { told: Mutex::new(Some(told)), bytes: bytes as u64 });
        let mut record: BaseRecord<'_, [u8], [u8], _> = BaseRecord::with_opaque_to(&topic, ticket).payload(&value);
        record.partition = Some(i32::try_from(partition).unwrap_or(i32::MAX));
        record.key = key.as_deref();
        if !fields.is_empty() {
            let headers = fields.iter().fold(OwnedHeaders::new_with_capacity(fields.len()), |headers, (name, value)| {
                headers.insert(Header { key: name, value: Some(&**value) })
            });
            record = record.headers(headers);
        }
        // Before: it may be told of before this returns.
        self.waiting.messages.fetch_add(1, Relaxed);
        self.waiting.bytes.fetch_add(bytes as u64, Relaxed);
        self.producer.send(record).map_err(|(error, _)| {
            self.waiting.messages.fetch_sub(1, Relaxed);
            self.waiting.bytes.fetch_sub(bytes as u64, Relaxed);
            let kind = error.rdkafka_error_code().map_or(BusErrorKind::Unreachable, kind_of);
            BusError::new(kind, format!("a message to topic {topic:?}, partition {partition}, is not taken: {error}"))
        })
    }

    fn parcel_bytes_max(&self) -> usize {
        self.parcel_bytes_max
    }

    fn waiting(&self) -> (u64, u64) {
        (self.waiting.messages.load(Relaxed), self.waiting.bytes.load(Relaxed))
    }

    fn flush(&self, within: Duration) -> BoxFuture<'_, ()> {
        let producer = self.producer.clone();
        Box::pin(async move {
            let _ = tokio::task::spawn_blocking(move || producer.flush(within)).await;
        })
    }
}
