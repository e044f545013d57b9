//! Reads and writes the log of standings ([`crate::marks`]) of one group in one topic.

use crate::cluster::{self, Cluster};
use crate::frame;
use crate::marks::{Fold, Record};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use wharf_core::bus::{BusError, BusErrorKind, STANDING_BYTES_MAX, Standing};

/// A record that was kept is found in its queue some milliseconds later; so long is waited for it at a time.
const SEEN_WITHIN: Duration = Duration::from_millis(500);
/// Between two tries.
const AGAIN_EVERY: Duration = Duration::from_millis(100);

/// The standings of a group.
pub(crate) struct Ledger {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) topic: Arc<str>,
    pub(crate) group: Arc<str>,
    log: Box<str>,
}

impl Ledger {
    pub(crate) fn new(cluster: Arc<Cluster>, topic: Arc<str>, group: Arc<str>) -> Ledger {
        let log = format!("{topic}{}", cluster.config.standings_suffix).into();
        Ledger { cluster, topic, group, log }
    }

    /// The topic that holds the log.
    pub(crate) fn log(&self) -> &str {
        &self.log
    }

    /// Sees to it that the log has a queue for each partition.
    pub(crate) async fn provide(&self, partitions: u32) -> Result<(), BusError> {
        let layout = match self.cluster.layout(&self.log).await {
            Err(error) if error.kind == BusErrorKind::NoTopic && self.cluster.config.makes_topics => {
                self.cluster.make_topic(&self.log, partitions, "").await?;
                self.cluster.layout(&self.log).await?
            }
            layout => layout?,
        };
        let has = layout.queues.len();
        if has < partitions as usize {
            self.cluster.forget(&self.log);
            let why = format!("it keeps the standings of {} and has {has} queues, {partitions} are needed", self.topic);
            return Err(cluster::no_topic(&self.log, &why));
        }
        Ok(())
    }

    /// Takes a partition for a session: from now on no earlier session's notes count. Answers with how the group stands, and the
    /// place of the last record of the session.
    pub(crate) async fn claim(&self, partition: u32, session: u64) -> Result<(Standing, u64), BusError> {
        let begin = self.cluster.group_offset(&self.group, &self.log, partition).await?.unwrap_or_default();
        let claimed = self.append(partition, session, None).await?;
        let mut fold = Fold::default();
        for record in self.records(partition, begin.min(claimed), claimed + 1).await? {
            fold.take(record);
        }
        if fold.session != Some(session) {
            return Err(not_yours(&self.topic, partition));
        }
        let Some(standing) = fold.standing else { return Ok((self.begin(partition).await?, claimed)) };
        // Noted at once: who reads later begins here, however old the record was.
        let noted = self.append(partition, session, Some(&standing)).await?;
        Ok((standing, noted))
    }

    /// Where a group without a note begins: at the offset that the broker keeps for it, whoever wrote it, or with the oldest.
    async fn begin(&self, partition: u32) -> Result<Standing, BusError> {
        let kept = self.cluster.group_offset(&self.group, &self.topic, partition).await?;
        let first = self.cluster.first(&self.topic, partition).await?;
        Ok(Standing::at(kept.unwrap_or_default().max(first)))
    }

    /// Writes a note, and answers with its place if the partition was the session's at that place.
    ///
    /// `after`: the place of the last record that is known to be the session's.
    pub(crate) async fn note(&self, partition: u32, session: u64, after: u64, standing: &Standing) -> Result<u64, BusError> {
        let end = Instant::now() + self.cluster.config.send_within;
        loop {
            let written = match self.append(partition, session, Some(standing)).await {
                Ok(noted) => self.records(partition, after + 1, noted).await.map(|between| (noted, between)),
                Err(error) => Err(error),
            };
            match written {
                Ok((noted, between)) => {
                    let is_taken = between.iter().any(|record| record.standing.is_none() && record.session != session);
                    return if is_taken { Err(not_yours(&self.topic, partition)) } else { Ok(noted) };
                }
                Err(error) if error.kind == BusErrorKind::Unreachable && Instant::now() + AGAIN_EVERY < end => sleep(AGAIN_EVERY).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// How the group stands, without taking anything.
    pub(crate) async fn look(&self, partition: u32) -> Result<Option<Standing>, BusError> {
        let begin = self.cluster.group_offset(&self.group, &self.log, partition).await?.unwrap_or_default();
        let end = self.cluster.end(&self.log, partition).await?;
        let mut fold = Fold::default();
        for record in self.records(partition, begin.min(end), end).await? {
            fold.take(record);
        }
        Ok(fold.standing)
    }

    /// Keeps what is known where the broker keeps offsets: how far the group is, for operators; and from where the log has to be read.
    /// Neither has to be durable, since the log is.
    pub(crate) async fn remember(&self, partition: u32, next: u64, noted: u64) -> Result<(), BusError> {
        self.cluster.set_group_offset(&self.group, &self.topic, partition, next).await?;
        self.cluster.set_group_offset(&self.group, &self.log, partition, noted).await
    }

    async fn append(&self, partition: u32, session: u64, standing: Option<&Standing>) -> Result<u64, BusError> {
        let record = Record { group: (&*self.group).into(), session, standing: standing.cloned() };
        let body = record.write().ok_or_else(|| {
            let (group, topic) = (&self.group, &self.topic);
            let what = format!("the marks of group {group} in topic {topic}, partition {partition}");
            let message = format!("{what}, take more than {STANDING_BYTES_MAX} B; hint: end what was begun long ago");
            BusError::new(BusErrorKind::TooLarge, message)
        })?;
        let properties = frame::properties([("wharf-group", &*self.group), ("WAIT", "true")].into_iter());
        self.cluster.send(&self.log, partition, &properties, &body).await
    }

    /// The group's records of these places, in order.
    async fn records(&self, partition: u32, from: u64, to: u64) -> Result<Vec<Record>, BusError> {
        let (mut at, mut found) = (from, Vec::new());
        let mut silent_until = Instant::now() + self.cluster.config.call_within;
        while at < to {
            let pulled = self.cluster.pull(&self.group, &self.log, partition, at, SEEN_WITHIN).await?;
            let is_ours = |record: &Record| record.group == (&*self.group).into();
            let read = pulled.messages.into_iter().filter(|kept| kept.offset < to).filter_map(|kept| Record::read(kept.body));
            found.extend(read.filter(is_ours));
            if pulled.next > at {
                silent_until = Instant::now() + self.cluster.config.call_within;
            } else if Instant::now() > silent_until {
                let message = format!(
                    "rocketmq has kept a record at offset {} of topic {}, partition {partition}, and does not hand it out",
                    to - 1,
                    self.log
                );
                return Err(BusError::new(BusErrorKind::Unreachable, message));
            }
            at = pulled.next.max(at);
        }
        Ok(found)
    }
}

pub(crate) fn not_yours(topic: &str, partition: u32) -> BusError {
    BusError::new(BusErrorKind::NotYours, format!("partition {partition} of topic {topic} is another member's"))
}
