//! The bus on disk: one fjall keyspace, one batch and one sync for each group of writes.
//!
//! Blocks of messages are fjall's values, one for each partition and group, kept apart from the keys. Of what was measured
//! (1 KiB, 240 in a group, 6 partitions, 512 MiB kept; CPU of all threads for each message) this costs least: 2.9 us,
//! and 2.0 bytes written for each; a value for each message 10.4 us and 2.3 bytes; the same among the keys, where fjall
//! copies them from level to level, 11 us and 6 bytes for blocks, 22 us and 6.2 bytes for messages.
//! An index beside it says where blocks begin, how large they are and when they were written, so that a start and the
//! removal of old messages need not read them.
//!
//! fjall refuses everything after a write that failed, because it cannot know what reached the file. It goes on reading.
//! It is closed and opened again once a file can be written beside it; what the failed group may have left is undone then.

use super::record::Block;
use fjall::config::CompressionPolicy;
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode, UserValue};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};

/// The format's version is part of the name: another format is another keyspace.
const KEYSPACE: &str = "bus-1";
/// fjall's folder within ours.
const DATABASE: &str = "log";
/// Recent messages are in the tail; what is read from the disk is read once, in order.
const CACHE_BYTES: u64 = 2 * 1024 * 1024;
/// Memory that fjall keeps before it writes a table; up to four of them while the disk is slow.
const MEMTABLE_BYTES: u64 = 16 * 1024 * 1024;
/// The journals on disk, preallocated by fjall in steps of 64 MiB (sparse).
const JOURNAL_BYTES: u64 = 256 * 1024 * 1024;
/// Smaller values stay among the keys: the index, most standings.
const APART_BYTES_MIN: u32 = 256;
/// A file of values is written anew without what was removed when so much of it is gone; one that is gone altogether
/// just goes. Old messages go together, so little is ever written anew.
const GONE_MIN: f32 = 0.9;
/// What is written to see whether the disk takes anything again.
const PROBE_BYTES: usize = 1024 * 1024;

/// Kinds of keys. Numbers in keys are big-endian, so that their order is that of the bytes.
#[derive(Clone, Copy)]
#[repr(u8)]
pub(super) enum Kind {
    /// Topic: partitions, how long it keeps, name.
    Topic = b'T',
    /// Topic, partition: the first offset, and the time of the last message that was removed.
    Floor = b'F',
    /// Topic, partition, group's name: its standing.
    Note = b'N',
    /// Topic, partition, first offset of a block: end, bytes, time.
    Index = b'I',
    /// Topic, partition, first offset of a block: the block.
    Log = b'L',
}

/// A key and what it says from now on; `None` removes it.
pub(super) type Put = (Vec<u8>, Option<UserValue>);

/// A line of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) first: u64,
    pub(super) end: u64,
    pub(super) bytes: u32,
    pub(super) time_ms: u64,
}

/// See the head of the file.
pub(super) struct Disk {
    folder: PathBuf,
    synced: bool,
    /// `None` while it is closed. Written only to open and close.
    open: RwLock<Option<Open>>,
}

struct Open {
    database: Database,
    keyspace: Keyspace,
}

impl Disk {
    /// Opens the folder, made if it is missing.
    pub(super) fn open(folder: &Path, synced: bool) -> Result<Disk, String> {
        let disk = Disk { folder: folder.to_owned(), synced, open: RwLock::new(None) };
        disk.reopen()?;
        Ok(disk)
    }

    /// Opens it once more. Readers wait meanwhile.
    pub(super) fn reopen(&self) -> Result<(), String> {
        let mut place = self.open.write().unwrap_or_else(PoisonError::into_inner);
        // Dropping it frees the folder's lock.
        *place = None;
        let open = || {
            let database = Database::builder(self.folder.join(DATABASE))
                .cache_size(CACHE_BYTES)
                .max_journaling_size(JOURNAL_BYTES)
                .journal_compression(CompressionType::None)
                // Two, because one that is compacting must not keep a full memtable waiting.
                .worker_threads(2)
                .open()?;
            let apart = KvSeparationOptions::default()
                .compression(CompressionType::None)
                .separation_threshold(APART_BYTES_MIN)
                .staleness_threshold(GONE_MIN);
            let keyspace = database.keyspace(KEYSPACE, || {
                KeyspaceCreateOptions::default()
                    .max_memtable_size(MEMTABLE_BYTES)
                    .data_block_compression_policy(CompressionPolicy::disabled())
                    .with_kv_separation(Some(apart))
            })?;
            Ok(Open { database, keyspace })
        };
        // On a thread of its own, because the workers that fjall starts here inherit its priority. A low one, but not the
        // lowest: when they are far behind, messages wait for them.
        let opened = std::thread::scope(|scope| {
            let opening = std::thread::Builder::new().name("wharf-bus-open".into()).spawn_scoped(scope, || {
                let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), 10);
                open()
            });
            opening.map_err(|error| format!("its thread cannot be started: {error}"))?.join().map_err(|_| "opening it panicked".to_owned())
        });
        *place = Some(opened?.map_err(|error| self.said("be opened", &error))?);
        Ok(())
    }

    pub(super) fn close(&self) {
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Whether a file can be written beside the database.
    pub(super) fn probe(&self) -> Result<(), String> {
        let path = self.folder.join("probe");
        let written = std::fs::File::create(&path).and_then(|mut file| {
            file.write_all(&vec![0; PROBE_BYTES])?;
            file.sync_all()
        });
        let _ = std::fs::remove_file(&path);
        written.map_err(|error| self.said("be written", &fjall::Error::Io(error)))
    }

    /// Writes a group: all of it or, seen from the next start, nothing. When it returns it is in the journal, synced
    /// unless that was not wished. No key may come twice.
    pub(super) fn commit(&self, puts: Vec<Put>) -> Result<(), String> {
        let mode = if self.synced { PersistMode::SyncData } else { PersistMode::Buffer };
        self.with("be written", |open| {
            let mut batch = open.database.batch().durability(Some(mode));
            for (key, value) in puts {
                match value {
                    Some(value) => batch.insert(&open.keyspace, key, value),
                    None => batch.remove(&open.keyspace, key),
                }
            }
            batch.commit()
        })
    }

    /// Shows all keys of a kind, without the kind, with their values.
    pub(super) fn scan(&self, kind: Kind, mut show: impl FnMut(&[u8], &[u8])) -> Result<(), String> {
        self.with("be read", |open| {
            for guard in open.keyspace.prefix([kind as u8]) {
                let (key, value) = guard.into_inner()?;
                show(key.get(1..).unwrap_or_default(), &value);
            }
            Ok(())
        })
    }

    /// Blocks of a partition from the one with this offset on, or the first behind it: at least one if there is one, at
    /// most `count` and, beyond the first, `bytes_max`.
    pub(super) fn blocks(&self, topic: u32, partition: u32, from: u64, count: usize, bytes_max: usize) -> Result<Vec<Block>, String> {
        let mut blocks: Vec<Block> = Vec::new();
        let lines = self.lines(topic, partition, from, u64::MAX, count)?;
        self.with("be read", |open| {
            let mut bytes = 0;
            for line in lines {
                bytes += line.bytes as usize;
                if bytes > bytes_max && !blocks.is_empty() {
                    break;
                }
                // Removed a moment ago, or never written whole: what is there comes next.
                let Some(value) = open.keyspace.get(key(Kind::Log, topic, partition, line.first))? else { continue };
                match Block::read(line.first, line.end, value.to_vec().into()) {
                    Some(block) => blocks.push(block),
                    None => tracing::warn!(partition, offset = line.first, "messages in the bus's folder are not ours: left out"),
                }
            }
            Ok(())
        })?;
        Ok(blocks)
    }

    /// At most `count` lines of the index: of the block with offset `from`, and of those that begin before `to`.
    pub(super) fn lines(&self, topic: u32, partition: u32, from: u64, to: u64, count: usize) -> Result<Vec<Line>, String> {
        self.with("be read", |open| {
            let low = key(Kind::Index, topic, partition, 0);
            let read = |guard: fjall::Guard| -> fjall::Result<Option<Line>> {
                let (key, value) = guard.into_inner()?;
                Ok(key.get(1..).and_then(|key| read_line(key, &value)).map(|(_, _, line)| line))
            };
            let mut lines = Vec::new();
            if let Some(guard) = open.keyspace.range(low..key(Kind::Index, topic, partition, from)).next_back() {
                lines.extend(read(guard)?.filter(|line| line.end > from));
            }
            for guard in open.keyspace.range(key(Kind::Index, topic, partition, from)..key(Kind::Index, topic, partition, to)) {
                if lines.len() >= count {
                    break;
                }
                lines.extend(read(guard)?);
            }
            Ok(lines)
        })
    }

    /// Bytes that it takes at present, with the journals.
    pub(super) fn bytes(&self) -> u64 {
        self.with("be read", |open| open.database.disk_space()).unwrap_or_default()
    }

    fn with<T>(&self, what: &str, work: impl FnOnce(&Open) -> fjall::Result<T>) -> Result<T, String> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        let Some(open) = open.as_ref() else { return Err(format!("folder {} is closed", self.folder.display())) };
        work(open).map_err(|error| self.said(what, &error))
    }

    fn said(&self, what: &str, error: &fjall::Error) -> String {
        let folder = self.folder.display();
        match error {
            fjall::Error::Locked => format!("the bus's folder {folder} is in use by another process; stop it, or choose another folder"),
            fjall::Error::Io(error) => format!("the bus's folder {folder} cannot {what}: {error}; make room or rights there"),
            other => format!("the bus's folder {folder} cannot {what}: {other}; make room or rights there"),
        }
    }
}

/// A key of kind [`Kind::Index`] or [`Kind::Log`].
pub(super) fn key(kind: Kind, topic: u32, partition: u32, offset: u64) -> Vec<u8> {
    let mut key = partition_key(kind, topic, partition);
    key.extend_from_slice(&offset.to_be_bytes());
    key
}

/// A key of kind [`Kind::Floor`]; the beginning of one of kind [`Kind::Note`].
pub(super) fn partition_key(kind: Kind, topic: u32, partition: u32) -> Vec<u8> {
    let mut key = Vec::with_capacity(17);
    key.push(kind as u8);
    key.extend_from_slice(&topic.to_be_bytes());
    key.extend_from_slice(&partition.to_be_bytes());
    key
}

/// Topic and partition off a key without its kind, and what follows.
pub(super) fn split_key(key: &[u8]) -> Option<(u32, u32, &[u8])> {
    let (topic, rest) = key.split_first_chunk()?;
    let (partition, rest) = rest.split_first_chunk()?;
    Some((u32::from_be_bytes(*topic), u32::from_be_bytes(*partition), rest))
}

/// A line of the index as it is kept.
pub(super) fn write_line(block: &Block) -> UserValue {
    let mut line = Vec::with_capacity(20);
    line.extend_from_slice(&block.end.to_le_bytes());
    line.extend_from_slice(&(block.bytes.len() as u32).to_le_bytes());
    line.extend_from_slice(&block.time_ms.to_le_bytes());
    line.into()
}

/// Topic, partition and line, from a key without its kind.
pub(super) fn read_line(key: &[u8], value: &[u8]) -> Option<(u32, u32, Line)> {
    let (topic, partition, first) = split_key(key)?;
    let (end, rest) = value.split_first_chunk()?;
    let (bytes, rest) = rest.split_first_chunk()?;
    let line = Line {
        first: u64::from_be_bytes(first.try_into().ok()?),
        end: u64::from_le_bytes(*end),
        bytes: u32::from_le_bytes(*bytes),
        time_ms: u64::from_le_bytes(*rest.first_chunk()?),
    };
    (line.first < line.end).then_some((topic, partition, line))
}
