//! What operators look at and change. The door `Books`.

use super::depot::Depot;
use super::group::Noted;
use super::queue::{Job, closed};
use std::sync::Arc;
use tokio::sync::oneshot;
use wharf_core::BoxFuture;
use wharf_core::bus::{Books, BusError, BusErrorKind, Extent, Standing};

/// See the head of the file.
pub(super) struct Ledger(pub(super) Arc<Depot>);

impl Ledger {
    async fn moved(&self, topic: &str, group: &str, to: Vec<(u32, Standing)>) -> Result<(), BusError> {
        let topic = self.0.topic(topic)?;
        for (partition, _) in &to {
            self.0.partition(&topic.name, *partition)?;
        }
        self.0.no_trouble()?;
        let group = topic.group(&group.into(), &self.0)?;
        let values = self.0.written(&to)?;
        let noted = to.into_iter().map(|(partition, standing)| Noted { partition, turn: 0, standing }).collect();
        let (reply, said) = oneshot::channel();
        self.0.queue.put(Job::Note { group: group.clone(), noted, values, is_move: true, reply })?;
        said.await.unwrap_or_else(|_| Err(closed())).map_err(|error| match error.kind {
            BusErrorKind::NotYours => {
                let message = format!("group {} of topic {} has members; stop them, then move it", group.name, topic.name);
                BusError::new(BusErrorKind::NotYours, message)
            }
            _ => error,
        })
    }
}

impl Books for Ledger {
    fn extents<'a>(&'a self, topic: &'a str, group: Option<&'a str>) -> BoxFuture<'a, Result<Vec<Extent>, BusError>> {
        Box::pin(async move {
            let topic = self.0.topic(topic)?;
            let group = group.and_then(|group| topic.groups().get(group).cloned());
            let mut standings = group.map(|group| group.standings()).unwrap_or_default();
            standings.resize(topic.partitions.len(), None);
            let extent = |(partition, standing): (&Arc<super::partition::Partition>, Option<Standing>)| {
                let held = partition.held();
                Extent { partition: partition.number, first: held.first, end: held.end, standing }
            };
            Ok(topic.partitions.iter().zip(standings).map(extent).collect())
        })
    }

    fn offsets_at<'a>(&'a self, topic: &'a str, time_ms: u64) -> BoxFuture<'a, Result<Vec<u64>, BusError>> {
        Box::pin(async move {
            let topic = self.0.topic(topic)?;
            let said = self.0.reading.times(topic.partitions.clone(), time_ms);
            said.await.unwrap_or_else(|_| Err(closed()))
        })
    }

    fn move_group<'a>(&'a self, topic: &'a str, group: &'a str, to: Vec<(u32, Standing)>) -> BoxFuture<'a, Result<(), BusError>> {
        Box::pin(self.moved(topic, group, to))
    }
}
