//! What operators look at and change. Everything here waits for brokers, on threads where that hurts nobody.

use crate::config::KafkaConfig;
use crate::source::standing_of;
use crate::{ASK_MAX, blocking, partitions_of, told};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};
use std::sync::{Arc, Mutex, PoisonError};
use wharf_core::BoxFuture;
use wharf_core::bus::{Books, BusError, BusErrorKind, Extent, Standing};

/// Clients that are kept for the groups that were asked about last.
const CLIENTS_MAX: usize = 8;

/// A client for each group that was asked about.
type Clients = Vec<(Arc<str>, Arc<BaseConsumer>)>;

#[derive(Clone)]
pub(crate) struct KafkaBooks {
    config: Arc<KafkaConfig>,
    clients: Arc<Mutex<Clients>>,
}

impl KafkaBooks {
    pub(crate) fn new(config: Arc<KafkaConfig>) -> KafkaBooks {
        KafkaBooks { config, clients: Arc::default() }
    }

    /// A client that can ask about this group and is no member of it.
    fn client(&self, group: &str) -> Result<Arc<BaseConsumer>, BusError> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, client)) = clients.iter().find(|(of, _)| &**of == group) {
            return Ok(client.clone());
        }
        let client: BaseConsumer = self.config.consumer(group).create().map_err(|error| told(&error, "asking brokers"))?;
        let client = Arc::new(client);
        if clients.len() >= CLIENTS_MAX {
            clients.remove(0);
        }
        clients.push((group.into(), client.clone()));
        Ok(client)
    }

    /// Partitions of a topic; `None`: there is none.
    pub(crate) fn partitions(&self, topic: &str) -> Result<Option<u32>, BusError> {
        partitions_of(&*self.client("wharf-readers")?, topic)
    }

    fn of(&self, topic: &str) -> Result<u32, BusError> {
        self.partitions(topic)?.ok_or_else(|| BusError::new(BusErrorKind::NoTopic, format!("there is no topic {topic:?}")))
    }

    fn look(&self, topic: &str, group: Option<&str>) -> Result<Vec<Extent>, BusError> {
        let partitions = self.of(topic)?;
        let client = self.client(group.unwrap_or("wharf-readers"))?;
        let standings = match group {
            None => None,
            Some(_) => {
                let asked = crate::list_of(topic, 0..partitions);
                Some(client.committed_offsets(asked, ASK_MAX).map_err(|error| told(&error, "asking how a group stands"))?)
            }
        };
        let mut extents = Vec::new();
        for partition in 0..partitions {
            let (first, end) =
                client.fetch_watermarks(topic, partition as i32, ASK_MAX).map_err(|error| told(&error, "asking what a topic holds"))?;
            let standing = standings.as_ref().and_then(|standings| standing_of(&standings.find_partition(topic, partition as i32)?));
            extents.push(Extent {
                partition,
                first: u64::try_from(first).unwrap_or_default(),
                end: u64::try_from(end).unwrap_or_default(),
                standing,
            });
        }
        Ok(extents)
    }

    fn at(&self, topic: &str, time_ms: u64) -> Result<Vec<u64>, BusError> {
        let partitions = self.of(topic)?;
        let client = self.client("wharf-readers")?;
        let mut asked = TopicPartitionList::new();
        let time = Offset::Offset(i64::try_from(time_ms).unwrap_or(i64::MAX));
        for partition in 0..partitions {
            asked.add_partition_offset(topic, partition as i32, time).map_err(|error| told(&error, "looking for a time"))?;
        }
        let found = client.offsets_for_times(asked, ASK_MAX).map_err(|error| told(&error, "looking for a time"))?;
        let mut offsets = Vec::new();
        for partition in 0..partitions {
            let offset = found.find_partition(topic, partition as i32).map_or(Offset::End, |found| found.offset());
            offsets.push(match offset {
                Offset::Offset(offset) => u64::try_from(offset).unwrap_or_default(),
                _ => {
                    let ends = client
                        .fetch_watermarks(topic, partition as i32, ASK_MAX)
                        .map_err(|error| told(&error, "looking for the end of a topic"))?;
                    u64::try_from(ends.1).unwrap_or_default()
                }
            });
        }
        Ok(offsets)
    }

    fn moved(&self, topic: &str, group: &str, to: &[(u32, Standing)]) -> Result<(), BusError> {
        let client = self.client(group)?;
        let list = client.fetch_group_list(Some(group), ASK_MAX).map_err(|error| told(&error, "asking who is in a group"))?;
        let members: usize = list.groups().iter().filter(|found| found.name() == group).map(|found| found.members().len()).sum();
        if members > 0 {
            let what = format!(
                "group {group:?} has {members} members, and only one without any can be moved from outside; hint: move it by the nodes that have its partitions"
            );
            return Err(BusError::new(BusErrorKind::NotYours, what));
        }
        let asked = commit_of(topic, to)?;
        client.commit(&asked, CommitMode::Sync).map_err(|error| told(&error, "moving a group"))
    }
}

/// Standings as they are committed.
pub(crate) fn commit_of(topic: &str, standings: &[(u32, Standing)]) -> Result<TopicPartitionList, BusError> {
    let mut list = TopicPartitionList::with_capacity(standings.len());
    for (partition, standing) in standings {
        let marks =
            standing.marks().ok_or_else(|| BusError::new(BusErrorKind::TooLarge, "a standing has more marks than can be written"))?;
        let mut part = list.add_partition(topic, i32::try_from(*partition).unwrap_or(i32::MAX));
        let next = Offset::Offset(i64::try_from(standing.next).unwrap_or(i64::MAX));
        part.set_offset(next).map_err(|error| told(&error, "writing down a standing"))?;
        if !marks.is_empty() {
            part.set_metadata(BASE64.encode(marks));
        }
    }
    Ok(list)
}

impl Books for KafkaBooks {
    fn extents<'a>(&'a self, topic: &'a str, group: Option<&'a str>) -> BoxFuture<'a, Result<Vec<Extent>, BusError>> {
        let books = self.clone();
        let (topic, group) = (topic.to_owned(), group.map(str::to_owned));
        Box::pin(async move { blocking(move || books.look(&topic, group.as_deref())).await })
    }

    fn offsets_at<'a>(&'a self, topic: &'a str, time_ms: u64) -> BoxFuture<'a, Result<Vec<u64>, BusError>> {
        let books = self.clone();
        let topic = topic.to_owned();
        Box::pin(async move { blocking(move || books.at(&topic, time_ms)).await })
    }

    fn move_group<'a>(&'a self, topic: &'a str, group: &'a str, to: Vec<(u32, Standing)>) -> BoxFuture<'a, Result<(), BusError>> {
        let books = self.clone();
        let (topic, group) = (topic.to_owned(), group.to_owned());
        Box::pin(async move { blocking(move || books.moved(&topic, &group, &to)).await })
    }
}
