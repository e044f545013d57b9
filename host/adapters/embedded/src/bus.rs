//! The embedded `Bus`: topics of one process on one machine, in a folder.
//!
//! **What "kept" means.** A message's `told` comes with `Ok`, and a note resolves with `Ok`, after it stands in fjall's
//! journal and `fdatasync` on it has returned: it survives `kill -9`, and a power failure as far as the disk keeps what it
//! has acknowledged. Nobody reads a message before that. Offsets are 0, 1, 2 and so on without a gap, and none is ever
//! used twice. A message that is told of as `Storage` is not kept, as this process sees it; if the process ends before
//! the disk can be written again, the next start may find it kept.
//!
//! **The road of a message.** [`Sink::send`] puts it into a bounded queue (`queue`); one thread writes what waits as one
//! group with one sync (`writer`, `record`, `disk`), appends it to the partition's tail in memory (`partition`), calls
//! `told` and wakes who waits; a member or reader takes it out of the tail (`feed`). Who is far behind reads from the
//! disk by another thread (`reading`). A third one looks after members and old messages (`care`).
//!
//! Groups (`group`, `share`, `member`) are those of this process. What is not here: other processes and machines,
//! replication, transactions, compaction by key, changing a topic that exists.

mod bell;
mod books;
mod care;
mod depot;
mod disk;
mod feed;
mod figures;
mod group;
mod member;
mod partition;
mod queue;
mod reader;
mod reading;
mod record;
mod share;
mod writer;

use crate::kv::Clock;
use books::Ledger;
use depot::Depot;
use disk::Disk;
use figures::Figures;
use member::Seat;
use queue::{Job, Slot, closed};
use reader::Desk;
use reading::Reading;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::oneshot;
use wharf_core::BoxFuture;
use wharf_core::bus::{Books, Bus, BusError, BusErrorKind, Membership, ReadFrom, Reader, Sink, Source, TopicWish};
use wharf_core::metrics::Registry;
use writer::Writer;

/// How a bus is opened.
#[derive(Clone, Debug)]
pub struct BusConfig {
    /// Where it keeps everything. No other process may use it.
    pub folder: PathBuf,
    /// Each group of writes is synced before anyone is told. Default `true`; `false`: it is handed to the system, which
    /// survives `kill -9` but no power failure.
    pub synced: bool,
    /// Bytes of key, value and fields of one message. Default 1 MiB, as with Kafka.
    pub parcel_bytes_max: usize,
    /// Messages that were taken and not yet told of. Default 65,536.
    pub queue_max: usize,
    /// Their bytes. Default 64 MiB.
    pub queue_bytes_max: u64,
    /// How long messages are kept where a topic's wish says nothing. Default 7 days, as with Kafka. A message goes at the
    /// latest an eighth of it later.
    pub keep: Duration,
    /// What a topic may keep, in bytes of its blocks; beyond it the oldest messages go, about a MiB (or a 64th of this) at
    /// a time. Each partition keeps at least the last of these steps. Default 1 GiB.
    pub topic_bytes_max: u64,
    /// The same for all topics together. Default 4 GiB. On the disk are, beside that, what has been removed and not yet
    /// cleared away, and journals of at most 256 MiB.
    pub store_bytes_max: u64,
    /// Recent messages in memory, over all partitions. Default 64 MiB.
    pub tail_bytes_max: u64,
    /// Of one partition. Default 8 MiB.
    pub tail_partition_bytes_max: u64,
    /// Topics. Default 256.
    pub topics_max: usize,
    /// Partitions of one topic. Default 256.
    pub partitions_max: u32,
    /// Groups of one topic, also those that only have a standing. Default 64.
    pub groups_max: usize,
    /// Members of one group. Default 256.
    pub members_max: usize,
    /// Readers without a group. Default 1,024.
    pub readers_max: usize,
}

impl BusConfig {
    /// The defaults, in this folder.
    pub fn new(folder: impl Into<PathBuf>) -> BusConfig {
        const MIB: u64 = 1024 * 1024;
        BusConfig {
            folder: folder.into(),
            synced: true,
            parcel_bytes_max: 1024 * 1024,
            queue_max: 65_536,
            queue_bytes_max: 64 * MIB,
            keep: Duration::from_secs(7 * 24 * 3600),
            topic_bytes_max: 1024 * MIB,
            store_bytes_max: 4096 * MIB,
            tail_bytes_max: 64 * MIB,
            tail_partition_bytes_max: 8 * MIB,
            topics_max: 256,
            partitions_max: 256,
            groups_max: 64,
            members_max: 256,
            readers_max: 1024,
        }
    }
}

/// See the head of the file. Dropped, it writes what waits and frees the folder; sinks, members and readers that are
/// still held are told `Closed`.
pub struct EmbeddedBus {
    depot: Arc<Depot>,
    sink: Arc<dyn Sink>,
    threads: Vec<JoinHandle<()>>,
}

impl EmbeddedBus {
    /// Opens a bus; what is in its folder is there again.
    ///
    /// # Errors
    /// [`BusErrorKind::Storage`]: the folder is in use, cannot be made, read or written, or is damaged. Blocks while it
    /// reads the index.
    pub fn open(config: BusConfig, registry: &Registry) -> Result<EmbeddedBus, BusError> {
        let wall = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        EmbeddedBus::open_with_clock(config, registry, Arc::new(wall))
    }

    /// The same with the caller's clock for the times of messages.
    ///
    /// # Errors
    /// As [`EmbeddedBus::open`].
    pub fn open_with_clock(config: BusConfig, registry: &Registry, clock: Clock) -> Result<EmbeddedBus, BusError> {
        let storage = |trouble: String| BusError::new(BusErrorKind::Storage, trouble);
        let disk = Disk::open(&config.folder, config.synced).map_err(storage)?;
        let (reading, questions) = Reading::new();
        let depot = Arc::new(Depot::new(config, clock, disk, reading, Figures::new(registry)));
        depot.restore().map_err(storage)?;
        depot.care.look_at(std::time::Instant::now());
        let sink = Arc::new(Slot(depot.clone()));
        // Dropped on an error from here on, it ends the threads that have started.
        let mut bus = EmbeddedBus { depot: depot.clone(), sink, threads: Vec::new() };
        let mut start = |name: &str, work: Box<dyn FnOnce() + Send>| {
            let started = std::thread::Builder::new().name(name.into()).spawn(work);
            let thread = started.map_err(|error| storage(format!("the bus's thread {name} cannot be started: {error}")))?;
            bus.threads.push(thread);
            Ok(())
        };
        let writer = Writer::new(depot.clone());
        start("wharf-bus-writer", Box::new(move || writer.run()))?;
        let reader = depot.clone();
        start("wharf-bus-reader", Box::new(move || reading::run(&reader.disk, &questions)))?;
        start("wharf-bus-care", Box::new(move || care::run(&depot)))?;
        Ok(bus)
    }

    /// Why nothing can be written at present.
    pub fn trouble(&self) -> Option<String> {
        self.depot.trouble()
    }
}

impl Drop for EmbeddedBus {
    /// Waits for the threads: what was taken is written, and the folder is free afterwards.
    fn drop(&mut self) {
        self.depot.queue.close();
        self.depot.care.close();
        self.depot.reading.close();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        self.depot.set_closed();
        self.depot.disk.close();
    }
}

impl Bus for EmbeddedBus {
    fn sink(&self) -> Arc<dyn Sink> {
        self.sink.clone()
    }

    fn provide<'a>(&'a self, wish: &'a TopicWish) -> BoxFuture<'a, Result<u32, BusError>> {
        Box::pin(async move {
            loop {
                if let Some(partitions) = self.depot.provided(wish)? {
                    return Ok(partitions);
                }
                self.depot.no_trouble()?;
                let (reply, said) = oneshot::channel();
                self.depot.queue.put(Job::Make { wish: wish.clone(), reply })?;
                match said.await.unwrap_or_else(|_| Err(closed())) {
                    // Somebody else is making it in the same group of writes.
                    Err(error) if error.kind == BusErrorKind::Unreachable => {}
                    said => return said,
                }
            }
        })
    }

    fn join(&self, membership: &Membership) -> Result<Arc<dyn Source>, BusError> {
        let topic = self.depot.topic(&membership.topic)?;
        let group = topic.group(&membership.group, &self.depot)?;
        Ok(Arc::new(Seat::take(self.depot.clone(), group, membership)?))
    }

    fn read(&self, topic: &str, partition: u32, from: ReadFrom) -> Result<Box<dyn Reader>, BusError> {
        let partition = self.depot.partition(topic, partition)?;
        Ok(Box::new(Desk::new(self.depot.clone(), partition, from)?))
    }

    fn books(&self) -> Arc<dyn Books> {
        Arc::new(Ledger(self.depot.clone()))
    }
}
