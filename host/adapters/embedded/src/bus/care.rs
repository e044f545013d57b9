//! The thread that looks after what nobody asks for: members that have died, partitions that were not released in time,
//! messages that are old. It sleeps until the next of them is due.
//!
//! Old messages are removed a stretch at a time (about a MiB), by the writer and with whatever it writes at that time, so
//! that no message waits for a removal.

use super::depot::{Depot, Topic};
use super::partition::{Partition, Stretch};
use super::queue::{Job, Trim};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// It looks at least this often, as clocks may be set.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// After trouble with the disk.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

/// When to look.
#[derive(Default)]
pub(super) struct Care {
    plan: Mutex<Plan>,
    changed: Condvar,
}

#[derive(Default)]
struct Plan {
    at: Option<Instant>,
    is_closed: bool,
}

impl Care {
    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Not later than this.
    pub(super) fn look_at(&self, at: Instant) {
        let mut plan = self.plan();
        if plan.at.is_none_or(|planned| at < planned) {
            plan.at = Some(at);
            self.changed.notify_one();
        }
    }

    pub(super) fn close(&self) {
        self.plan().is_closed = true;
        self.changed.notify_one();
    }

    /// `false`: it is over.
    fn wait(&self) -> bool {
        let mut plan = self.plan();
        let latest = Instant::now() + LOOK_EVERY;
        loop {
            if plan.is_closed {
                return false;
            }
            let at = plan.at.map_or(latest, |at| at.min(latest));
            let rest = at.saturating_duration_since(Instant::now());
            if rest.is_zero() {
                plan.at = None;
                return true;
            }
            plan = self.changed.wait_timeout(plan, rest).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// The thread's work.
pub(super) fn run(depot: &Depot) {
    while depot.care.wait() {
        let now = Instant::now();
        let topics = depot.topics();
        for topic in topics.values() {
            let groups: Vec<_> = topic.groups().values().cloned().collect();
            for at in groups.iter().filter_map(|group| group.look(now)) {
                depot.care.look_at(at);
            }
        }
        depot.figures.disk_bytes.set(i64::try_from(depot.disk.bytes()).unwrap_or(i64::MAX));
        let look_at = match due(depot, topics.values()) {
            Due::Remove(topic, partition, stretch) => match remove(depot, topic, partition, stretch) {
                Ok(()) => Some(now),
                Err(trouble) => {
                    tracing::debug!(%trouble, "old messages are not removed at present");
                    now.checked_add(AGAIN_AFTER)
                }
            },
            Due::In(rest) => now.checked_add(rest),
            Due::Nothing => None,
        };
        if let Some(at) = look_at {
            depot.care.look_at(at);
        }
    }
}

enum Due<'a> {
    Remove(&'a Arc<Topic>, &'a Arc<Partition>, Stretch),
    /// The next is too old then.
    In(Duration),
    Nothing,
}

/// What is to be removed next: what is too old, then the oldest of what is too much.
fn due<'a>(depot: &Depot, topics: impl Iterator<Item = &'a Arc<Topic>>) -> Due<'a> {
    let now_ms = (depot.clock)();
    let store_is_full = depot.kept_bytes.load(Relaxed) > depot.config.store_bytes_max;
    let mut in_ms: Option<u64> = None;
    let mut oldest: Option<(&Arc<Topic>, &Arc<Partition>, Stretch)> = None;
    for topic in topics {
        let is_full = topic.bytes.load(Relaxed) > depot.config.topic_bytes_max;
        for partition in topic.partitions.iter() {
            let (front, is_last) = {
                let held = partition.held();
                let stretches = held.stretches();
                (stretches.front().copied(), stretches.len() < 2)
            };
            let Some(stretch) = front else { continue };
            let over_ms = stretch.last_ms.saturating_add(topic.keep_ms);
            if over_ms <= now_ms {
                return Due::Remove(topic, partition, stretch);
            }
            in_ms = Some(in_ms.map_or(over_ms - now_ms, |known| known.min(over_ms - now_ms)));
            // The stretch that still grows is not too much, only ever too old.
            let is_too_much = (store_is_full || is_full) && !is_last;
            if is_too_much && oldest.as_ref().is_none_or(|(_, _, known)| stretch.last_ms < known.last_ms) {
                oldest = Some((topic, partition, stretch));
            }
        }
    }
    match (oldest, in_ms) {
        (Some((topic, partition, stretch)), _) => Due::Remove(topic, partition, stretch),
        // A little later, so that many that end one after the other are one look.
        (None, Some(ms)) => Due::In(Duration::from_millis(ms.saturating_add(50))),
        (None, None) => Due::Nothing,
    }
}

fn remove(depot: &Depot, topic: &Arc<Topic>, partition: &Arc<Partition>, stretch: Stretch) -> Result<(), String> {
    let lines = depot.disk.lines(partition.topic, partition.number, stretch.first, stretch.end, usize::MAX)?;
    for group in topic.groups().values() {
        let standing = group.standing(partition.number);
        if let Some(standing) = standing.filter(|standing| standing.next < stretch.end) {
            depot.figures.unread.add_shared(stretch.end - standing.next.max(stretch.first));
            depot.figures.warn_unread(&topic.name, &group.name, (depot.clock)());
        }
    }
    let (reply, said) = oneshot::channel();
    let trim = Trim { partition: partition.clone(), stretch, lines };
    depot.queue.put(Job::Trim { trim, reply }).map_err(|error| error.message.into_string())?;
    said.blocking_recv().unwrap_or_else(|_| Err("the bus is closed".to_owned()))
}
