//! What operators look at and change: offsets from the brokers, standings from the log.

use crate::cluster::Cluster;
use crate::ledger::Ledger;
use crate::stamp::Stamp;
use futures_util::future::try_join_all;
use std::sync::Arc;
use wharf_core::BoxFuture;
use wharf_core::bus::{Books, BusError, BusErrorKind, Extent, Standing};

/// The books.
pub(crate) struct RocketBooks {
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) stamp: Arc<Stamp>,
}

impl RocketBooks {
    fn ledger(&self, topic: &str, group: &str) -> Ledger {
        Ledger::new(self.cluster.clone(), topic.into(), group.into())
    }

    async fn partitions(&self, topic: &str) -> Result<std::ops::Range<u32>, BusError> {
        Ok(0..self.cluster.layout(topic).await?.queues.len() as u32)
    }
}

impl Books for RocketBooks {
    fn extents<'a>(&'a self, topic: &'a str, group: Option<&'a str>) -> BoxFuture<'a, Result<Vec<Extent>, BusError>> {
        Box::pin(async move {
            let ledger = group.map(|group| self.ledger(topic, group));
            let extent = async |partition| {
                let first = self.cluster.first(topic, partition).await?;
                let end = self.cluster.end(topic, partition).await?;
                let standing = match &ledger {
                    Some(ledger) => match ledger.look(partition).await {
                        // Without a log nobody has noted anything.
                        Err(error) if error.kind == BusErrorKind::NoTopic => None,
                        standing => standing?,
                    },
                    None => None,
                };
                Ok(Extent { partition, first: first.min(end), end, standing })
            };
            try_join_all(self.partitions(topic).await?.map(extent)).await
        })
    }

    fn offsets_at<'a>(&'a self, topic: &'a str, time_ms: u64) -> BoxFuture<'a, Result<Vec<u64>, BusError>> {
        Box::pin(async move {
            try_join_all(self.partitions(topic).await?.map(|partition| self.cluster.at_time(topic, partition, time_ms))).await
        })
    }

    fn move_group<'a>(&'a self, topic: &'a str, group: &'a str, to: Vec<(u32, Standing)>) -> BoxFuture<'a, Result<(), BusError>> {
        Box::pin(async move {
            let layout = self.cluster.layout(topic).await?;
            for (_, broker) in layout.brokers() {
                let members = self.cluster.members(&broker, group).await?;
                let here = format!("#{topic}");
                if let Some(member) = members.iter().find(|member| member.ends_with(&here)) {
                    let message = format!(
                        "group {group} has members in topic {topic}, {member} among them; hint: stop them, or let them move by themselves"
                    );
                    return Err(BusError::new(BusErrorKind::NotYours, message));
                }
            }
            let ledger = self.ledger(topic, group);
            ledger.provide(layout.queues.len() as u32).await?;
            for (partition, standing) in to {
                let session = self.stamp.number();
                // As a member would: whoever had it and is not seen any more cannot note any more.
                let (_, claimed) = ledger.claim(partition, session).await?;
                let noted = ledger.note(partition, session, claimed, &standing).await?;
                // A group that never had a member is not known to the broker, which then keeps no offset for it: the log is enough.
                let _ = ledger.remember(partition, standing.next, noted).await;
            }
            Ok(())
        })
    }
}
