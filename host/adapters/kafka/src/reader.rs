//! One partition, read alone: assigned, without a group.

use crate::config::KafkaConfig;
use crate::source::{MessageOf, message_of};
use crate::wake::{Said, Wake, Words};
use crate::{ASK_MAX, blocking, told};
use rdkafka::ClientContext;
use rdkafka::config::{FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;
use wharf_core::BoxFuture;
use wharf_core::bus::{BusError, BusErrorKind, Message, ReadFrom, Reader};

struct Plain(Said);

impl ClientContext for Plain {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.0.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(error, reason);
    }
}

impl ConsumerContext for Plain {}

pub(crate) struct KafkaReader {
    consumer: Arc<BaseConsumer<Plain>>,
    wake: Arc<Wake>,
    words: Arc<Words>,
    topic: Arc<str>,
    partition: i32,
    /// Where to go on, where somebody has said so.
    from: Mutex<Option<ReadFrom>>,
}

impl KafkaReader {
    pub(crate) fn open(config: &KafkaConfig, topic: &str, partition: u32, from: ReadFrom) -> Result<KafkaReader, BusError> {
        let words = Words::new(topic);
        // Nobody joins this group: the library reads no partition without the name of one.
        let settings = config.consumer("wharf-readers");
        let mut consumer = BaseConsumer::from_config_and_context(&settings, Plain(Said(words.clone())))
            .map_err(|error| told(&error, "opening a reader"))?;
        let wake = Arc::<Wake>::default();
        let waking = wake.clone();
        consumer.set_nonempty_callback(move || waking.wake());
        let partition = i32::try_from(partition).unwrap_or(i32::MAX);
        Ok(KafkaReader { consumer: Arc::new(consumer), wake, words, topic: topic.into(), partition, from: Mutex::new(Some(from)) })
    }

    /// Goes where it is to go on.
    async fn go(&self, from: ReadFrom) -> Result<(), BusError> {
        let (consumer, topic, partition) = (self.consumer.clone(), self.topic.clone(), self.partition);
        blocking(move || {
            let offset = match from {
                ReadFrom::Start => Offset::Beginning,
                ReadFrom::Offset(offset) => Offset::Offset(i64::try_from(offset).unwrap_or(i64::MAX)),
                ReadFrom::End => {
                    let (_, end) = consumer
                        .fetch_watermarks(&topic, partition, ASK_MAX)
                        .map_err(|error| told(&error, "looking for the end of a topic"))?;
                    Offset::Offset(end)
                }
                ReadFrom::Time(time_ms) => {
                    let mut asked = TopicPartitionList::new();
                    let time = Offset::Offset(i64::try_from(time_ms).unwrap_or(i64::MAX));
                    asked.add_partition_offset(&topic, partition, time).map_err(|error| told(&error, "looking for a time"))?;
                    let found = consumer.offsets_for_times(asked, ASK_MAX).map_err(|error| told(&error, "looking for a time"))?;
                    found.elements().first().map_or(Offset::End, |found| found.offset())
                }
            };
            let mut assigned = TopicPartitionList::new();
            assigned.add_partition_offset(&topic, partition, offset).map_err(|error| told(&error, "reading a topic"))?;
            consumer.assign(&assigned).map_err(|error| told(&error, "reading a topic"))
        })
        .await
    }

    async fn read(&self, max: usize) -> Result<Vec<Message>, BusError> {
        loop {
            let wanted = *self.from.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(from) = wanted {
                match self.go(from).await {
                    Ok(()) => {
                        let mut now = self.from.lock().unwrap_or_else(PoisonError::into_inner);
                        if *now == wanted {
                            *now = None;
                        }
                    }
                    Err(error) if matches!(error.kind, BusErrorKind::Unreachable | BusErrorKind::NoTopic) => {
                        self.words.trouble(&error.message);
                        tokio::time::sleep(Duration::from_millis(500)).await;
                    }
                    Err(error) => return Err(error),
                }
                continue;
            }
            let said = poll_fn(|task| {
                let look = || self.look(max);
                if let found @ (Err(_) | Ok(Some(_))) = look() {
                    return Poll::Ready(found);
                }
                self.wake.set(task);
                // What came meanwhile has woken nobody.
                match look() {
                    Ok(None) => Poll::Pending,
                    found => Poll::Ready(found),
                }
            });
            // Now and then without being woken: the library wants to be asked.
            match tokio::time::timeout(Duration::from_secs(1), said).await {
                Ok(Ok(Some(messages))) => return Ok(messages),
                Ok(Err(error)) => return Err(error),
                Ok(Ok(None)) | Err(_) => {}
            }
        }
    }

    fn look(&self, max: usize) -> Result<Option<Vec<Message>>, BusError> {
        let mut found = Vec::new();
        while found.len() < max {
            match self.consumer.poll(Duration::ZERO) {
                None => break,
                Some(Ok(message)) => found.extend(message_of(&message).map(|MessageOf(message)| message)),
                Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                    return Err(BusError::new(BusErrorKind::Refused, format!("topic {:?} cannot be read: {code}", self.topic)));
                }
                Some(Err(error)) => match error.rdkafka_error_code() {
                    Some(RDKafkaErrorCode::OffsetOutOfRange | RDKafkaErrorCode::AutoOffsetReset) => {
                        *self.from.lock().unwrap_or_else(PoisonError::into_inner) = Some(ReadFrom::Start);
                        return Ok(Some(found)).map(|found| found.filter(|found| !found.is_empty()));
                    }
                    _ => self.words.trouble(&error.to_string()),
                },
            }
        }
        Ok((!found.is_empty()).then_some(found))
    }
}

impl Reader for KafkaReader {
    fn next(&self, max: usize) -> BoxFuture<'_, Result<Vec<Message>, BusError>> {
        Box::pin(self.read(max.max(1)))
    }

    fn seek(&self, from: ReadFrom) {
        *self.from.lock().unwrap_or_else(PoisonError::into_inner) = Some(from);
        self.wake.wake();
    }
}

impl Drop for KafkaReader {
    fn drop(&mut self) {
        let consumer = self.consumer.clone();
        let _ = std::thread::Builder::new().name("wharf-kafka-end".into()).spawn(move || drop(consumer));
    }
}
