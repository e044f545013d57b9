//! The values on disk: one fjall keyspace, one batch and one sync for each group of writes.
//!
//! fjall refuses everything after a write that failed (full disk), because it cannot know what reached the file. Then
//! the database is closed, and opened again when somebody tries next; memory is what counts, so the keys of the failed
//! group are written anew from there.

use super::op::Entry;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use std::path::{Path, PathBuf};
use thread_priority::{NormalThreadSchedulePolicy, ThreadPriority, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id};

/// The format's version is part of the name: another format is another keyspace.
const KEYSPACE: &str = "kv-1";
/// All values are in memory, so a cache of fjall's would hold them twice; it is only read at the start.
const CACHE_BYTES: u64 = 1024 * 1024;
/// Memory that fjall keeps before it writes a table.
const MEMTABLE_BYTES: u64 = 8 * 1024 * 1024;
/// The journal on disk, preallocated by fjall in steps of 64 MiB (sparse).
const JOURNAL_BYTES: u64 = 128 * 1024 * 1024;

/// One key to write; `None` removes it.
pub(crate) type Write<'a> = (&'a str, &'a str, Option<&'a Entry>);

/// See the head of the file.
pub(crate) struct Disk {
    folder: PathBuf,
    open: Option<(Database, Keyspace)>,
}

impl Disk {
    /// Opens the folder, made if it is missing, and shows every value in it.
    pub(crate) fn open(folder: &Path, mut show: impl FnMut(&str, &str, Entry)) -> Result<Disk, String> {
        let mut disk = Disk { folder: folder.to_owned(), open: None };
        disk.reopen()?;
        let mut unreadable = 0u64;
        if let Some((_, keyspace)) = &disk.open {
            for guard in keyspace.iter() {
                let (key, value) = guard.into_inner().map_err(|error| disk.said("be read", &error))?;
                match (split_key(&key), split_value(&value)) {
                    (Some((namespace, key)), Some(entry)) => show(namespace, key, entry),
                    _ => unreadable += 1,
                }
            }
        }
        if unreadable > 0 {
            tracing::warn!(unreadable, folder = %disk.folder.display(), "values in the store's folder that are not ours are left alone");
        }
        Ok(disk)
    }

    /// Writes a group: all of it or, seen from the next start, nothing. When it returns, the journal has been synced.
    pub(crate) fn commit<'a>(&mut self, writes: impl Iterator<Item = Write<'a>>) -> Result<(), String> {
        if self.open.is_none() {
            self.reopen()?;
        }
        let Some((database, keyspace)) = &self.open else { return Err("the store is closed".into()) };
        let mut batch = database.batch().durability(Some(PersistMode::SyncData));
        for (namespace, key, entry) in writes {
            match entry {
                Some(entry) => batch.insert(keyspace, join_key(namespace, key), join_value(entry)),
                None => batch.remove(keyspace, join_key(namespace, key)),
            }
        }
        batch.commit().map_err(|error| {
            let said = self.said("be written", &error);
            // Dropping it frees the folder's lock for the next try.
            self.open = None;
            said
        })
    }

    fn reopen(&mut self) -> Result<(), String> {
        let open = || {
            let database = Database::builder(&self.folder)
                .cache_size(CACHE_BYTES)
                .max_journaling_size(JOURNAL_BYTES)
                // Two, because one that is compacting must not keep a full memtable waiting.
                .worker_threads(2)
                .open()?;
            let keyspace = database.keyspace(KEYSPACE, || KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES))?;
            Ok((database, keyspace))
        };
        // On a thread of its own, because the workers that fjall starts here inherit its priority.
        let opened = std::thread::scope(|scope| {
            let opening = std::thread::Builder::new().name("wharf-kv-open".into()).spawn_scoped(scope, || {
                run_when_idle();
                open()
            });
            opening.map_err(|error| format!("its thread cannot be started: {error}"))?.join().map_err(|_| "opening it panicked".to_owned())
        });
        let opened = opened?.map_err(|error| self.said("be opened", &error))?;
        self.open = Some(opened);
        Ok(())
    }

    fn said(&self, what: &str, error: &fjall::Error) -> String {
        let folder = self.folder.display();
        match error {
            fjall::Error::Locked => format!("folder {folder} is in use by another process; stop it, or choose another folder"),
            fjall::Error::Io(error) => format!("folder {folder} cannot {what}: {error}; make room or rights there"),
            other => format!("folder {folder} cannot {what}: {other}"),
        }
    }
}

/// Gives the calling thread a low priority: who writes to the store waits for a disk anyway, and reads never come here.
pub(crate) fn give_way() {
    const NICE: i32 = 10;
    // Where it is refused everything works, only less politely.
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE);
}

/// Lets the calling thread, and those it will start, run only when no other thread wants to: tables are written and
/// merged meanwhile, which takes milliseconds at a time, and only when they are far behind does a writer wait for them.
fn run_when_idle() {
    let idle = ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle);
    let _ = set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, idle);
}

/// Length of the namespace's name, its name, the key.
fn join_key(namespace: &str, key: &str) -> Vec<u8> {
    let mut joined = Vec::with_capacity(1 + namespace.len() + key.len());
    joined.push(namespace.len() as u8);
    joined.extend_from_slice(namespace.as_bytes());
    joined.extend_from_slice(key.as_bytes());
    joined
}

fn split_key(joined: &[u8]) -> Option<(&str, &str)> {
    let (&len, rest) = joined.split_first()?;
    let (namespace, key) = rest.split_at_checked(usize::from(len))?;
    Some((std::str::from_utf8(namespace).ok()?, std::str::from_utf8(key).ok()?))
}

/// When it ends, big-endian, and the value.
fn join_value(entry: &Entry) -> Vec<u8> {
    let mut joined = Vec::with_capacity(8 + entry.value.len());
    joined.extend_from_slice(&entry.expires_ms.to_be_bytes());
    joined.extend_from_slice(&entry.value);
    joined
}

fn split_value(joined: &[u8]) -> Option<Entry> {
    let (expires_ms, value) = joined.split_first_chunk()?;
    Some(Entry { expires_ms: u64::from_be_bytes(*expires_ms), value: value.to_vec().into() })
}
