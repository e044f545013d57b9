//! What the embedded store promises beyond the door: what survives, what is bounded, what goes on without a disk.
//!
//! Two tests run this test binary again as a child: one to kill it in the middle of writing, one to give it a disk that
//! is full. The child's part is a test of its own that does nothing unless its variable is set.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "clippy.toml frees tests, but takes only functions marked as tests for tests"
)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use wharf_core::store::{Store, StoreError};
use wharf_embedded::kv::{Durability, Kv, KvConfig, Quota};

const KILLED: &str = "WHARF_TEST_KV_KILLED_IN";
const FULL: &str = "WHARF_TEST_KV_FULL_IN";

fn synced(folder: &Path) -> KvConfig {
    KvConfig::new(Durability::Synced(folder.to_owned()))
}

/// A clock that stands until it is moved.
fn clock(at: &Arc<AtomicU64>) -> wharf_embedded::kv::Clock {
    let at = at.clone();
    Arc::new(move || at.load(Relaxed))
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn a_restart_finds_what_has_not_ended() {
    let folder = tempfile::tempdir().unwrap();
    let at = Arc::new(AtomicU64::new(1_000_000));
    let open = || Kv::open_with_clock(synced(folder.path()), clock(&at)).unwrap();
    run(async {
        let store = open();
        store.set("n", "kept", "1".into(), None).await.unwrap();
        store.set("n", "gone", "1".into(), None).await.unwrap();
        assert!(store.delete("n", "gone").await.unwrap());
        store.set("n", "short", "1".into(), Some(Duration::from_secs(10))).await.unwrap();
        store.set("n", "long", "1".into(), Some(Duration::from_secs(20))).await.unwrap();
        store.increment("m", "count", 41, None).await.unwrap();
        drop(store);
        at.fetch_add(15_000, Relaxed);
        let store = open();
        let there = async |key| store.get("n", key).await.unwrap().is_some();
        assert_eq!((there("kept").await, there("gone").await, there("short").await, there("long").await), (true, false, false, true));
        assert_eq!(store.increment("m", "count", 1, None).await, Ok(42));
        drop(store);
        at.fetch_add(5_001, Relaxed);
        let store = open();
        assert_eq!(store.get("n", "long").await, Ok(None));
        // The next group sweeps what has ended, from memory and from the disk.
        store.set("n", "kept", "2".into(), None).await.unwrap();
        assert_eq!(store.report().namespaces.iter().map(|namespace| namespace.keys).sum::<u64>(), 2);
        drop(store);
        at.store(1_000_000, Relaxed);
        assert_eq!(open().get("n", "long").await, Ok(None), "swept from the disk, too");
    });
}

#[test]
fn a_folder_that_is_in_use_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let _first = Kv::open(synced(folder.path())).unwrap();
    let Err(StoreError::Unavailable(said)) = Kv::open(synced(folder.path())).map(drop) else { panic!("opened twice") };
    assert!(said.contains("in use") && said.contains(&*folder.path().to_string_lossy()), "{said}");
    let file = folder.path().join("file");
    std::fs::write(&file, "x").unwrap();
    assert!(Kv::open(synced(&file.join("below"))).is_err());
}

#[test]
fn a_full_namespace_refuses_more_and_nobody_else_suffers() {
    for durability in [Durability::Memory, Durability::Synced(tempfile::tempdir().unwrap().keep())] {
        let at = Arc::new(AtomicU64::new(1_000));
        let small = Quota { keys_max: 3, bytes_max: 1_000 };
        let config = KvConfig { quotas: HashMap::from([("small".into(), small)]), namespaces_max: 2, ..KvConfig::new(durability.clone()) };
        let store = Kv::open_with_clock(config, clock(&at)).unwrap();
        run(async {
            for key in ["a", "b", "c"] {
                store.set("small", key, "1".into(), Some(Duration::from_secs(1))).await.unwrap();
            }
            let full = |said: Result<(), StoreError>, word: &str| match said {
                Err(StoreError::Full(said)) => assert!(said.contains(word), "{said}"),
                other => panic!("{other:?}"),
            };
            full(store.set("small", "d", "1".into(), None).await, "keys_max");
            full(store.increment("small", "d", 1, None).await.map(drop), "keys_max");
            full(store.set("small", "a", vec![0; 1_000].into(), None).await, "bytes_max");
            store.set("small", "a", "2".into(), Some(Duration::from_secs(1))).await.unwrap();
            store.set("other", "d", vec![0; 1_000].into(), None).await.unwrap();
            full(store.set("third", "d", "1".into(), None).await, "namespaces_max");
            assert_eq!(store.delete("third", "d").await, Ok(false));
            at.fetch_add(1_001, Relaxed);
            // Ended keys make room at once.
            store.set("small", "d", "1".into(), None).await.unwrap();
            let report = store.report();
            assert_eq!(report.namespaces.iter().map(|namespace| namespace.keys).collect::<Vec<_>>(), [1, 1]);
            assert!(store.delete("small", "d").await.unwrap());
            assert_eq!(store.report().namespaces[1].bytes, 0);
        });
        drop(store);
        if let Durability::Synced(folder) = durability {
            std::fs::remove_dir_all(folder).unwrap();
        }
    }
    let config = KvConfig { bytes_max: 1_000, ..KvConfig::new(Durability::Memory) };
    let store = Kv::open(config).unwrap();
    let said = run(store.set("n", "k", vec![0; 1_000].into(), None));
    assert!(matches!(said, Err(StoreError::Full(_))), "{said:?}");
}

#[test]
fn ended_keys_leave_without_anybody_asking() {
    let folder = tempfile::tempdir().unwrap();
    let store = Kv::open(synced(folder.path())).unwrap();
    run(async {
        for n in 0..100 {
            store.set("n", &n.to_string(), "1".into(), Some(Duration::from_millis(50))).await.unwrap();
        }
        let started = Instant::now();
        while store.report().namespaces[0].keys > 0 {
            assert!(started.elapsed() < Duration::from_secs(10), "{:?}", store.report());
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn a_full_queue_is_an_answer_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(Kv::open(KvConfig { queue_max: 4, ..synced(folder.path()) }).unwrap());
    let (mut done, mut busy) = (0, 0);
    run(async {
        let tasks: Vec<_> = (0..500)
            .map(|n| {
                let store = store.clone();
                tokio::spawn(async move { (n, store.set("n", &n.to_string(), vec![1; 1_000].into(), None).await) })
            })
            .collect();
        for task in tasks {
            match task.await.unwrap() {
                (n, Ok(())) => {
                    assert!(store.get("n", &n.to_string()).await.unwrap().is_some());
                    done += 1;
                }
                (n, Err(StoreError::Unavailable(said))) => {
                    assert!(said.contains("busy"), "{said}");
                    assert!(store.get("n", &n.to_string()).await.unwrap().is_none());
                    busy += 1;
                }
                other => panic!("{other:?}"),
            }
        }
    });
    assert_eq!(done + busy, 500);
    assert!(done >= 4 && busy > 0, "{done} done, {busy} busy");
    assert_eq!(store.report().namespaces[0].keys, done);
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged: HashMap<String, u64> = HashMap::new();
    for round in 0..6u64 {
        let mut child = child("writes_until_it_is_killed", KILLED, folder.path()).env("ROUND", round.to_string()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = 0;
        while let Some(Ok(line)) = lines.next() {
            let Some(ack) = line.strip_prefix("ack ") else { continue };
            let (key, value) = ack.split_once(' ').unwrap();
            acknowledged.insert(key.to_owned(), value.parse().unwrap());
            seen += 1;
            if seen == 200 + round * 37 {
                // SIGKILL. What it had said before is still in the pipe, and counts.
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(seen >= 200, "the child ended by itself after {seen} writes");
        let store = Kv::open(synced(folder.path())).unwrap();
        run(async {
            for (key, value) in &acknowledged {
                let have = store.get("n", key).await.unwrap().unwrap_or_else(|| panic!("round {round}: {key} is lost"));
                let have: u64 = std::str::from_utf8(&have[..20]).unwrap().parse().unwrap();
                // A later write of the same key may have been made without being acknowledged.
                assert!(have >= *value, "round {round}: {key} is {have}, and {value} was acknowledged");
            }
        });
    }
    assert!(acknowledged.len() > 100);
}

#[test]
fn writes_until_it_is_killed() {
    let Some(folder) = std::env::var_os(KILLED) else { return };
    let round: u64 = std::env::var("ROUND").unwrap().parse().unwrap();
    let store = Arc::new(Kv::open(synced(Path::new(&folder))).unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let writers: Vec<_> = (0..16u64)
            .map(|writer| {
                let store = store.clone();
                tokio::spawn(async move {
                    for n in 0..1_000_000u64 {
                        let (key, value) = (format!("{writer}-{}", n % 10), round * 1_000_000 + n);
                        let padded = format!("{value:020}{}", "x".repeat((n as usize * 97) % 3_000));
                        store.set("n", &key, padded.into(), None).await.unwrap();
                        let mut out = std::io::stdout().lock();
                        writeln!(out, "ack {key} {value}").unwrap();
                        out.flush().unwrap();
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
    });
}

#[test]
fn a_full_disk_stops_writes_only_and_only_while_it_is_full() {
    let folder = tempfile::tempdir().unwrap();
    let output = child("writes_to_a_full_disk", FULL, folder.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("was full and is not"), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let store = Kv::open(synced(folder.path())).unwrap();
    run(async {
        assert_eq!(store.get("n", "before").await, Ok(Some("2".into())));
        assert_eq!(store.get("n", "after").await, Ok(Some("1".into())));
        assert_eq!(store.get("n", "while-0").await, Ok(None), "a write that was refused is not there");
    });
}

#[test]
fn writes_to_a_full_disk() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Some(folder) = std::env::var_os(FULL) else { return };
    let store = Kv::open(synced(Path::new(&folder))).unwrap();
    let unlimited = getrlimit(Resource::Fsize);
    run(async {
        store.set("n", "before", "1".into(), None).await.unwrap();
        // No file may grow beyond one byte: to a writer that is a disk without room.
        setrlimit(Resource::Fsize, Rlimit { current: Some(1), ..unlimited }).unwrap();
        for n in 0..20 {
            match store.set("n", &format!("while-{n}"), "1".into(), None).await {
                Err(StoreError::Unavailable(said)) => assert!(said.contains("folder"), "{said}"),
                other => panic!("{other:?}"),
            }
            assert_eq!(store.get("n", "before").await, Ok(Some("1".into())), "reads go on");
            assert_eq!(store.get("n", &format!("while-{n}")).await, Ok(None));
        }
        assert!(store.report().trouble.is_some());
        setrlimit(Resource::Fsize, unlimited).unwrap();
        let started = Instant::now();
        while let Err(error) = store.set("n", "after", "1".into(), None).await {
            assert!(started.elapsed() < Duration::from_secs(20), "{error}");
            tokio::task::yield_now().await;
        }
        assert_eq!(store.report().trouble, None);
        store.set("n", "before", "2".into(), None).await.unwrap();
    });
    println!("was full and is not");
}

/// This binary again, running one test. Through a shell, because a child must ignore the signal of the file size limit
/// from its first moment, and only a shell can say that without unsafe code.
fn child(test: &str, variable: &str, folder: &Path) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(variable, folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Prints what reading and writing costs. Asserts only that it is not absurd.
#[test]
fn what_it_costs() {
    let folder = tempfile::tempdir().unwrap();
    for (name, config) in [("memory", KvConfig::new(Durability::Memory)), ("synced", synced(folder.path()))] {
        let store = Arc::new(Kv::open(config).unwrap());
        run(async {
            for n in 0..1_000 {
                store.set("wharf:auth", &format!("user-{n}"), vec![7; 100].into(), Some(Duration::from_secs(3600))).await.unwrap();
            }
            let keys: Vec<String> = (0..1_000).map(|n| format!("user-{n}")).collect();
            let started = Instant::now();
            for _ in 0..200 {
                for key in &keys {
                    assert!(store.get("wharf:auth", key).await.unwrap().is_some());
                }
            }
            println!("{name}: get {:?}", started.elapsed() / 200_000);
            let started = Instant::now();
            for key in &keys {
                store.increment("n", key, 1, None).await.unwrap();
            }
            println!("{name}: increment, one after the other {:?}", started.elapsed() / 1_000);
            let started = Instant::now();
            let tasks: Vec<_> = (0..100)
                .map(|task| {
                    let store = store.clone();
                    tokio::spawn(async move {
                        for n in 0..100 {
                            store.set("n", &format!("{task}-{n}"), vec![7; 100].into(), None).await.unwrap();
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.unwrap();
            }
            println!("{name}: set, a hundred at a time {:?}", started.elapsed() / 10_000);
        });
    }
}
