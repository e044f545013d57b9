//! What operators look at and change. Everything here waits for brokers, on threads where that hurts nobody.

use crate::config::KafkaConfig;
use crate::log::{Committed, Log, resolve};
use crate::sink::KafkaSink;
use crate::standings::Record;
use crate::{ASK_MAX, blocking, partitions_of, told};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::topic_partition_list::TopicPartitionListElem;
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
    sink: Arc<KafkaSink>,
    clients: Arc<Mutex<Clients>>,
    /// Of the groups that were asked about last, by topic and group.
    logs: Arc<Mutex<Logs>>,
}

/// What a group has noted of a topic.
type Logs = Vec<((Box<str>, Box<str>), Arc<Log>)>;

impl KafkaBooks {
    pub(crate) fn new(config: Arc<KafkaConfig>, sink: Arc<KafkaSink>) -> KafkaBooks {
        KafkaBooks { config, sink, clients: Arc::default(), logs: Arc::default() }
    }

    fn log(&self, topic: &str, group: &str) -> Arc<Log> {
        let mut logs = self.logs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, log)) = logs.iter().find(|((of, by), _)| &**of == topic && &**by == group) {
            return log.clone();
        }
        let log = Arc::new(Log::new(self.config.clone(), self.sink.clone(), topic, group));
        if logs.len() >= CLIENTS_MAX {
            logs.remove(0);
        }
        logs.push(((topic.into(), group.into()), log.clone()));
        log
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

    /// How a group stands is put in by [`KafkaBooks::looked`]; here is what is committed.
    fn look(&self, topic: &str, group: Option<&str>) -> Result<Vec<(Extent, Option<Committed>)>, BusError> {
        let partitions = self.of(topic)?;
        let client = self.client(group.unwrap_or("wharf-readers"))?;
        let committed = match group {
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
            let committed = committed.as_ref().and_then(|list| committed_of(&list.find_partition(topic, partition as i32)?));
            let (first, end) = (u64::try_from(first).unwrap_or_default(), u64::try_from(end).unwrap_or_default());
            extents.push((Extent { partition, first, end, standing: None }, committed));
        }
        Ok(extents)
    }

    async fn looked(&self, topic: String, group: Option<String>) -> Result<Vec<Extent>, BusError> {
        let (books, of, by) = (self.clone(), topic.clone(), group.clone());
        let found = blocking(move || books.look(&of, by.as_deref())).await?;
        let mut extents = Vec::with_capacity(found.len());
        for (extent, committed) in found {
            let standing = match &group {
                None => None,
                Some(group) => {
                    let noted = self.log(&topic, group).last(extent.partition, None).await?;
                    resolve(committed, noted, extent.end)
                }
            };
            extents.push(Extent { standing, ..extent });
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

    fn must_be_empty(&self, group: &str) -> Result<(), BusError> {
        let client = self.client(group)?;
        let list = client.fetch_group_list(Some(group), ASK_MAX).map_err(|error| told(&error, "asking who is in a group"))?;
        let members: usize = list.groups().iter().filter(|found| found.name() == group).map(|found| found.members().len()).sum();
        if members > 0 {
            let what = format!(
                "group {group:?} has {members} members, and only one without any can be moved from outside; hint: move it by the nodes that have its partitions"
            );
            return Err(BusError::new(BusErrorKind::NotYours, what));
        }
        Ok(())
    }

    async fn moved(&self, topic: String, group: String, to: Vec<(u32, Standing)>) -> Result<(), BusError> {
        let (books, of, by) = (self.clone(), topic.clone(), group.clone());
        let partitions = blocking(move || {
            books.must_be_empty(&by)?;
            books.of(&of)
        })
        .await?;
        let log = self.log(&topic, &group);
        log.provide(partitions).await?;
        let mut list = TopicPartitionList::with_capacity(to.len());
        for (partition, standing) in to {
            let (turn, _) = log.claim(partition).await?;
            let next = standing.next;
            let offset = log.appended(partition, &Record::Note { turn, standing }).await?;
            commit(&mut list, &topic, partition, next, offset)?;
        }
        let books = self.clone();
        blocking(move || {
            // Somebody who has joined meanwhile has claimed behind us, and finds this.
            books.client(&group)?.commit(&list, CommitMode::Sync).map_err(|error| told(&error, "moving a group"))
        })
        .await
    }
}

/// First word of the text beside what we commit.
const OURS: &str = "wharf-standing";

/// Adds what is committed for those who look on: an offset, and where the note is that counts.
pub(crate) fn commit(list: &mut TopicPartitionList, topic: &str, partition: u32, next: u64, note: u64) -> Result<(), BusError> {
    let mut part = list.add_partition(topic, i32::try_from(partition).unwrap_or(i32::MAX));
    let next = Offset::Offset(i64::try_from(next).unwrap_or(i64::MAX));
    part.set_offset(next).map_err(|error| told(&error, "writing down a standing"))?;
    part.set_metadata(format!("{OURS} {note}"));
    Ok(())
}

/// What is committed; `None`: nothing.
pub(crate) fn committed_of(part: &TopicPartitionListElem<'_>) -> Option<Committed> {
    let Offset::Offset(next) = part.offset() else { return None };
    Some(Committed { next: u64::try_from(next).ok()?, is_ours: part.metadata().split(' ').next() == Some(OURS) })
}

impl Books for KafkaBooks {
    fn extents<'a>(&'a self, topic: &'a str, group: Option<&'a str>) -> BoxFuture<'a, Result<Vec<Extent>, BusError>> {
        let books = self.clone();
        let (topic, group) = (topic.to_owned(), group.map(str::to_owned));
        Box::pin(async move { books.looked(topic, group).await })
    }

    fn offsets_at<'a>(&'a self, topic: &'a str, time_ms: u64) -> BoxFuture<'a, Result<Vec<u64>, BusError>> {
        let books = self.clone();
        let topic = topic.to_owned();
        Box::pin(async move { blocking(move || books.at(&topic, time_ms)).await })
    }

    fn move_group<'a>(&'a self, topic: &'a str, group: &'a str, to: Vec<(u32, Standing)>) -> BoxFuture<'a, Result<(), BusError>> {
        let books = self.clone();
        let (topic, group) = (topic.to_owned(), group.to_owned());
        Box::pin(async move { books.moved(topic, group, to).await })
    }
}
