//! What the bus counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use wharf_core::metrics::{Count, Level, Registry, Times};

/// See the head of the file.
pub(super) struct Figures {
    pub(super) messages: Arc<Count>,
    pub(super) bytes: Arc<Count>,
    pub(super) notes: Arc<Count>,
    pub(super) failed: Arc<Count>,
    pub(super) groups: Arc<Times>,
    pub(super) waiting: Arc<Level>,
    pub(super) kept_bytes: Arc<Level>,
    pub(super) tail_bytes: Arc<Level>,
    pub(super) disk_bytes: Arc<Level>,
    pub(super) removed_bytes: Arc<Count>,
    pub(super) unread: Arc<Count>,
    read: Arc<Count>,
    misses: Arc<Count>,
    warned_ms: AtomicU64,
}

impl Figures {
    pub(super) fn new(registry: &Registry) -> Figures {
        let count = |name, help| registry.count(name, help, &[]);
        Figures {
            messages: count("wharf_embedded_bus_messages_total", "Messages that the embedded bus has kept."),
            bytes: count("wharf_embedded_bus_bytes_total", "Bytes of the blocks that the embedded bus has kept."),
            notes: count("wharf_embedded_bus_notes_total", "Standings that the embedded bus has kept."),
            failed: count("wharf_embedded_bus_groups_failed_total", "Groups of writes that could not be written."),
            groups: registry.times("wharf_embedded_bus_group_seconds", "Time to write and sync one group.", &[]),
            waiting: registry.level("wharf_embedded_bus_waiting", "Messages taken and not yet told of.", &[]),
            kept_bytes: registry.level("wharf_embedded_bus_kept_bytes", "Bytes of all blocks that are kept.", &[]),
            tail_bytes: registry.level("wharf_embedded_bus_tail_bytes", "Bytes of recent blocks in memory.", &[]),
            disk_bytes: registry.level("wharf_embedded_bus_disk_bytes", "Bytes on the disk, with the journals.", &[]),
            removed_bytes: count("wharf_embedded_bus_removed_bytes_total", "Bytes of blocks that were too old or too much."),
            unread: count("wharf_embedded_bus_removed_unread_total", "Messages removed before a group was done with them."),
            read: count("wharf_embedded_bus_read_total", "Messages handed to readers."),
            misses: count("wharf_embedded_bus_disk_reads_total", "Times that a reader had to wait for the disk."),
            warned_ms: AtomicU64::new(0),
        }
    }

    /// A reader has looked.
    pub(super) fn looked(&self, messages: u64, misses: u64) {
        if messages > 0 {
            self.read.add_shared(messages);
        }
        if misses > 0 {
            self.misses.add_shared(misses);
        }
    }

    /// Says it, at most once a minute.
    pub(super) fn warn_unread(&self, topic: &str, group: &str, now_ms: u64) {
        let last = self.warned_ms.load(Relaxed);
        if now_ms.saturating_sub(last) >= 60_000 {
            self.warned_ms.store(now_ms, Relaxed);
            tracing::warn!(
                topic,
                group,
                "messages are removed that the group is not done with; let it read faster, or raise keep, topic_bytes_max or store_bytes_max"
            );
        }
    }
}
