//! Writes and reads the log of standings (see [`crate::standings`]). All but [`Log::append`] waits for brokers, on threads where
//! that hurts nobody.

use crate::config::KafkaConfig;
use crate::sink::KafkaSink;
use crate::standings::{Last, Placed, Record, last, topic_of};
use crate::{ASK_MAX, partitions_of, provide, told};
use rdkafka::config::FromClientConfig as _;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use wharf_core::bus::{BusError, BusErrorKind, Parcel, Place, Sink as _, Standing, TopicWish};

/// Notes that are read before a claim, at least, if there are as many: more than members can have written too late.
const LOOK_BACK: u64 = 64;
/// Offsets that are looked at for them grow by this: compaction leaves holes.
const LOOK_BACK_MORE: u64 = 16;
/// Of the standings' topic. Small, so that compaction finds something to do.
const SEGMENT_BYTES: &str = "33554432";

/// The standings of one group with one topic.
pub(crate) struct Log {
    config: Arc<KafkaConfig>,
    sink: Arc<KafkaSink>,
    topic: Arc<str>,
    /// Partitions that it is known to have.
    partitions: AtomicU32,
    /// Made when something is to be read for the first time.
    reader: Mutex<Option<BaseConsumer>>,
}

impl Log {
    pub(crate) fn new(config: Arc<KafkaConfig>, sink: Arc<KafkaSink>, topic: &str, group: &str) -> Log {
        Log { config, sink, topic: topic_of(topic, group).into(), partitions: AtomicU32::new(0), reader: Mutex::new(None) }
    }

    /// Makes the topic, or says why there is none.
    pub(crate) async fn provide(&self, partitions: u32) -> Result<(), BusError> {
        if self.partitions.load(Relaxed) >= partitions {
            return Ok(());
        }
        let wish = TopicWish { name: self.topic.clone(), partitions, keep: None };
        // The last note of a group counts for ever.
        let settings = [("cleanup.policy", "compact"), ("segment.bytes", SEGMENT_BYTES), ("min.cleanable.dirty.ratio", "0.2")];
        self.partitions.store(provide(&self.config, &wish, &settings).await?, Relaxed);
        Ok(())
    }

    /// Appends a record. The receiver is told its place.
    pub(crate) fn append(&self, partition: u32, record: &Record) -> Result<oneshot::Receiver<Result<Place, BusError>>, BusError> {
        let value = record.write().ok_or_else(|| BusError::new(BusErrorKind::TooLarge, "a standing has more marks than can be written"))?;
        let parcel = Parcel { topic: self.topic.clone(), partition, key: Some(record.key()), value, fields: Vec::new() };
        let (tell, told_of) = oneshot::channel();
        self.sink.send(parcel, Box::new(move |said| drop(tell.send(said))))?;
        Ok(told_of)
    }

    /// Appends a record and waits until it is kept. Returns its offset.
    pub(crate) async fn appended(&self, partition: u32, record: &Record) -> Result<u64, BusError> {
        let told_of = self.append(partition, record)?;
        let closed = || BusError::new(BusErrorKind::Closed, "the sink has ended");
        Ok(told_of.await.map_err(|_| closed())??.offset)
    }

    /// Takes a partition: the claim's offset, which is the turn, and the note that counted before it.
    pub(crate) async fn claim(self: &Arc<Log>, partition: u32) -> Result<(u64, Option<Last>), BusError> {
        let turn = self.appended(partition, &Record::Claim { nonce: nonce() }).await?;
        Ok((turn, self.clone().last(partition, Some(turn)).await?))
    }

    /// The note that counts, among those before this offset (`None`: all).
    pub(crate) async fn last(self: Arc<Log>, partition: u32, before: Option<u64>) -> Result<Option<Last>, BusError> {
        crate::blocking(move || self.look_back(partition, before)).await
    }

    /// What lies between.
    pub(crate) async fn between(self: Arc<Log>, partition: u32, from: u64, to: u64) -> Result<Vec<Placed>, BusError> {
        crate::blocking(move || self.range(partition, from, to)).await
    }

    fn look_back(&self, partition: u32, before: Option<u64>) -> Result<Option<Last>, BusError> {
        let end = match before {
            Some(end) => end,
            None => {
                let end = self.with_reader(|reader| match partitions_of(reader, &self.topic)? {
                    Some(have) if have > partition => {
                        let ends = reader
                            .fetch_watermarks(&self.topic, i32::try_from(partition).unwrap_or(i32::MAX), ASK_MAX)
                            .map_err(|error| told(&error, "looking for the end of a group's standings"))?;
                        Ok(u64::try_from(ends.1).unwrap_or_default())
                    }
                    _ => Ok(0),
                });
                end?
            }
        };
        let mut back = LOOK_BACK;
        loop {
            let from = end.saturating_sub(back);
            let records = self.range(partition, from, end)?;
            let notes = records.iter().filter(|(_, record)| matches!(record, Record::Note { .. })).count() as u64;
            if from == 0 || notes >= LOOK_BACK / 2 {
                return Ok(last(&records));
            }
            back = back.saturating_mul(LOOK_BACK_MORE);
        }
    }

    /// The records of a partition from this offset until before that one. What is no record of ours is left out.
    fn range(&self, partition: u32, from: u64, to: u64) -> Result<Vec<Placed>, BusError> {
        let mut found = Vec::new();
        if from >= to {
            return Ok(found);
        }
        let partition = i32::try_from(partition).unwrap_or(i32::MAX);
        self.with_reader(|reader| {
            let mut assigned = TopicPartitionList::new();
            let at = Offset::Offset(i64::try_from(from).unwrap_or(i64::MAX));
            assigned.add_partition_offset(&self.topic, partition, at).map_err(|error| told(&error, "reading a group's standings"))?;
            reader.assign(&assigned).map_err(|error| told(&error, "reading a group's standings"))?;
            let end = Instant::now() + ASK_MAX;
            let read = loop {
                if Instant::now() > end {
                    let what = format!("the standings in topic {:?}, partition {partition}, could not be read in time", self.topic);
                    break Err(BusError::new(BusErrorKind::Unreachable, what));
                }
                match reader.poll(Duration::from_millis(100)) {
                    Some(Ok(message)) => {
                        let offset = u64::try_from(message.offset()).unwrap_or_default();
                        if message.partition() != partition || offset < from {
                            continue;
                        }
                        if offset < to {
                            found.extend(message.payload().and_then(Record::read).map(|record| (offset, record)));
                        }
                        if offset + 1 >= to {
                            break Ok(());
                        }
                    }
                    Some(Err(KafkaError::PartitionEOF(_))) => break Ok(()),
                    // It tries again by itself.
                    Some(Err(_)) | None => {}
                }
            };
            let _ = reader.unassign();
            read
        })?;
        Ok(found)
    }

    fn with_reader<T>(&self, with: impl FnOnce(&BaseConsumer) -> Result<T, BusError>) -> Result<T, BusError> {
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let reader = match &mut *reader {
            Some(reader) => reader,
            none => {
                let mut settings = self.config.consumer("wharf-readers");
                settings.set("enable.partition.eof", "true");
                none.insert(BaseConsumer::from_config(&settings).map_err(|error| told(&error, "opening a reader"))?)
            }
        };
        with(reader)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // Its end waits for its threads, which may wait for a broker.
        let reader = self.reader.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if reader.is_some() {
            let _ = std::thread::Builder::new().name("wharf-kafka-end".into()).spawn(move || drop(reader));
        }
    }
}

/// Two claims differ by it, so that neither is thrown away for the other.
fn nonce() -> u64 {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos() as u64;
    now ^ (u64::from(std::process::id()) << 44)
}

/// What is committed for a group, and by whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Committed {
    pub(crate) next: u64,
    /// By us, who note elsewhere and commit for those who look on. Else somebody has moved the group.
    pub(crate) is_ours: bool,
}

/// How a group stands, of what is committed, what is noted, and where the topic ends.
pub(crate) fn resolve(committed: Option<Committed>, noted: Option<Last>, end: u64) -> Option<Standing> {
    match (committed, noted) {
        // Moved by a tool of Kafka's: that is meant.
        (Some(Committed { next, is_ours: false }), _) => Some(Standing::at(next)),
        // Brokers forget offsets with the topic they are of: this is another topic of the same name.
        (None, Some(noted)) if noted.standing.next > end => None,
        // The topic has lost its end; what comes next is new.
        (_, Some(noted)) if noted.standing.next > end => Some(Standing::at(end)),
        (_, Some(noted)) => Some(noted.standing),
        (Some(Committed { next, .. }), None) => Some(Standing::at(next.min(end))),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_core::bus::Mark;

    #[test]
    fn what_is_noted_counts_unless_somebody_has_moved_the_group() {
        let standing = Standing { next: 7, runs: vec![(Mark::Begun, 1)] };
        let noted = Some(Last { turn: 1, offset: 2, standing: standing.clone() });
        let ours = |next| Some(Committed { next, is_ours: true });
        assert_eq!(resolve(ours(5), noted.clone(), 9), Some(standing.clone()));
        assert_eq!(resolve(None, noted.clone(), 9), Some(standing));
        assert_eq!(resolve(Some(Committed { next: 3, is_ours: false }), noted.clone(), 9), Some(Standing::at(3)));
        assert_eq!(resolve(None, noted.clone(), 6), None, "the topic was made anew");
        assert_eq!(resolve(ours(5), noted, 6), Some(Standing::at(6)), "the topic was cut");
        assert_eq!(resolve(ours(5), None, 9), Some(Standing::at(5)));
        assert_eq!(resolve(None, None, 9), None);
    }
}
