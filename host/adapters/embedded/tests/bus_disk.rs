//! What the embedded bus promises when it is killed, and when its disk is full.
//!
//! Both tests run this test binary again as a child: one to kill it while it writes, one to give it a disk without room
//! (`RLIMIT_FSIZE`: no file may grow). The child's part is a test of its own that does nothing unless its variable is set.

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
use std::time::{Duration, Instant};
use wharf_core::bus::{Bus, BusError, BusErrorKind, Event, Mark, Membership, Parcel, Place, ReadFrom, Sink, Source, Standing, TopicWish};
use wharf_core::metrics::Registry;
use wharf_embedded::bus::{BusConfig, EmbeddedBus};

const KILLED: &str = "WHARF_TEST_BUS_KILLED_IN";
const FULL: &str = "WHARF_TEST_BUS_FULL_IN";
const PARTITIONS: u32 = 3;
const LONG: Duration = Duration::from_secs(20);

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// With little memory, little kept and small steps, so that tables, removals and reads of the disk are all under way.
fn open(folder: &Path) -> EmbeddedBus {
    let config = BusConfig { topic_bytes_max: 24 * 1024 * 1024, tail_bytes_max: 100_000, ..BusConfig::new(folder) };
    EmbeddedBus::open(config, &Registry::default()).unwrap()
}

fn child(test: &str, variable: &str, folder: &Path) -> Command {
    // A process that goes beyond its file size limit is ended by a signal, unless whoever started it ignores that.
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

async fn source(bus: &EmbeddedBus) -> (Arc<dyn Source>, HashMap<u32, Standing>) {
    let membership = Membership { topic: "t".into(), group: "g".into(), member: "m".into(), dead_after: LONG, release_within: LONG };
    let source = bus.join(&membership).unwrap();
    let mut given = HashMap::new();
    while given.len() < PARTITIONS as usize {
        for event in source.next(1).await.unwrap() {
            if let Event::Given { partition, standing } = event {
                given.insert(partition, standing);
            }
        }
    }
    (source, given)
}

#[test]
fn a_kill_at_any_moment_loses_nothing_that_was_told() {
    let folder = tempfile::tempdir().unwrap();
    let (mut acknowledged, mut notes): (HashMap<(u32, u64), String>, HashMap<u32, u64>) = Default::default();
    let mut ends = [0; PARTITIONS as usize];
    for round in 0..20u64 {
        let mut child = child("writes_until_it_is_killed", KILLED, folder.path()).env("ROUND", round.to_string()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (mut seen, enough) = (0, 40 + round * 617 % 4_000);
        while let Some(Ok(line)) = lines.next() {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["told", partition, offset, value] => {
                    let place = (partition.parse().unwrap(), offset.parse().unwrap());
                    let before = acknowledged.insert(place, value.to_owned());
                    assert_eq!(before, None, "an offset was used twice: {place:?}");
                    seen += 1;
                }
                ["noted", partition, next] => drop(notes.insert(partition.parse().unwrap(), next.parse().unwrap())),
                _ => {}
            }
            if seen == enough {
                child.kill().unwrap();
            }
        }
        assert!(seen >= enough, "the child ended by itself");
        child.wait().unwrap();

        let bus = open(folder.path());
        run(async {
            let extents = bus.books().extents("t", Some("g")).await.unwrap();
            for extent in &extents {
                let partition = extent.partition;
                assert!(extent.end >= ends[partition as usize], "no offset comes again: {extent:?}");
                ends[partition as usize] = extent.end;
                let noted = notes.get(&partition).copied().unwrap_or_default();
                let standing = extent.standing.clone().unwrap_or_default();
                assert!(standing.next >= noted, "{standing:?} after {noted} was noted");
                if standing.next > 0 {
                    assert_eq!(standing.runs, [(Mark::Begun, standing.next % 7 + 1), (Mark::Done, 3)], "a note is whole");
                }
                let reader = bus.read("t", partition, ReadFrom::Start).unwrap();
                let mut next = extent.first;
                while next < extent.end {
                    for message in reader.next(500).await.unwrap() {
                        if message.place.offset != next {
                            // Only what was removed as too much while it was read may be missing.
                            let first = bus.books().extents("t", None).await.unwrap()[partition as usize].first;
                            assert!(next < first && first >= message.place.offset, "a gap from {next} to {:?}", message.place);
                        }
                        next = message.place.offset + 1;
                        let value = String::from_utf8(message.value[..16].to_vec()).unwrap();
                        if let Some(told) = acknowledged.get(&(partition, message.place.offset)) {
                            assert_eq!(*told, value);
                        }
                    }
                }
            }
            let lost = acknowledged.keys().find(|(partition, offset)| *offset >= extents[*partition as usize].end);
            assert_eq!(lost, None, "round {round}");
        });
    }
    assert!(!notes.is_empty());
}

#[test]
fn writes_until_it_is_killed() {
    let Some(folder) = std::env::var_os(KILLED) else { return };
    let round: u64 = std::env::var("ROUND").unwrap().parse().unwrap();
    let bus = open(Path::new(&folder));
    run(async {
        bus.provide(&TopicWish { name: "t".into(), partitions: PARTITIONS, keep: None }).await.unwrap();
        let (source, standings) = source(&bus).await;
        let (sink, out) = (bus.sink(), std::io::stdout());
        let mut nexts: Vec<u64> = (0..PARTITIONS).map(|partition| standings[&partition].next).collect();
        for at in 0u64.. {
            let (partition, bytes) = ((at % u64::from(PARTITIONS)) as u32, 16 + (at * 7919 % 3_000) as usize);
            let mut value = format!("{round:04}-{at:011}").into_bytes();
            let shown = String::from_utf8(value.clone()).unwrap();
            value.resize(bytes, b'.');
            let told = Box::new(move |place: Result<Place, BusError>| {
                // In one piece: the kill must not cut it.
                let line = format!("told {partition} {} {shown}\n", place.unwrap().offset);
                std::io::stdout().write_all(line.as_bytes()).unwrap();
            });
            if sink.send(Parcel::new("t".into(), partition, value.into()), told).is_err() {
                sink.flush(LONG).await;
            }
            if at % 50 == 0 {
                let next = &mut nexts[partition as usize];
                *next += 1;
                let standing = Standing { next: *next, runs: vec![(Mark::Begun, *next % 7 + 1), (Mark::Done, 3)] };
                source.note(vec![(partition, standing)]).await.unwrap();
                out.lock().write_all(format!("noted {partition} {next}\n").as_bytes()).unwrap();
            }
        }
    });
}

#[test]
fn a_full_disk_refuses_messages_and_nothing_is_lost_when_it_has_room_again() {
    let folder = tempfile::tempdir().unwrap();
    let output = child("writes_to_a_full_disk", FULL, folder.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("was full and is not"), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let bus = open(folder.path());
    run(async {
        let extents = bus.books().extents("t", Some("g")).await.unwrap();
        assert_eq!((extents[0].first, extents[0].end), (0, 101), "what was refused is not there");
        assert_eq!(extents[0].standing, Some(Standing::at(4)), "the note that failed is not there");
        let reader = bus.read("t", 0, ReadFrom::Offset(99)).unwrap();
        let mut values = Vec::new();
        while values.len() < 2 {
            values.extend(reader.next(2).await.unwrap().into_iter().map(|message| message.value));
        }
        assert_eq!(values[0].len(), 10_000);
        assert_eq!(values[1], "after");
    });
}

async fn send(sink: &dyn Sink, value: Vec<u8>) -> Result<Place, BusError> {
    let (told, said) = tokio::sync::oneshot::channel();
    sink.send(Parcel::new("t".into(), 0, value.into()), Box::new(move |what| drop(told.send(what))))?;
    said.await.unwrap()
}

#[test]
fn writes_to_a_full_disk() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Some(folder) = std::env::var_os(FULL) else { return };
    let bus = open(Path::new(&folder));
    let unlimited = getrlimit(Resource::Fsize);
    run(async {
        bus.provide(&TopicWish { name: "t".into(), partitions: PARTITIONS, keep: None }).await.unwrap();
        let (source, _) = source(&bus).await;
        let sink = bus.sink();
        for offset in 0..100 {
            assert_eq!(send(&*sink, vec![b'.'; 10_000]).await.unwrap().offset, offset);
        }
        source.note(vec![(0, Standing::at(4))]).await.unwrap();
        // No file may grow beyond one byte: to a writer that is a disk without room.
        setrlimit(Resource::Fsize, Rlimit { current: Some(1), ..unlimited }).unwrap();
        for _ in 0..20 {
            let error = send(&*sink, b"while".to_vec()).await.unwrap_err();
            assert_eq!(error.kind, BusErrorKind::Storage);
            assert!(error.message.contains("folder"), "{error}");
            assert_eq!(source.note(vec![(0, Standing::at(5))]).await.unwrap_err().kind, BusErrorKind::Storage);
            let reader = bus.read("t", 0, ReadFrom::Start).unwrap();
            assert_eq!(reader.next(1).await.unwrap()[0].place.offset, 0, "reads go on, from the disk");
        }
        assert!(bus.trouble().is_some());
        setrlimit(Resource::Fsize, unlimited).unwrap();
        let started = Instant::now();
        let place = loop {
            match send(&*sink, b"after".to_vec()).await {
                Ok(place) => break place,
                Err(error) => assert!(started.elapsed() < LONG, "{error}"),
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(place.offset, 100, "what was refused has no offset");
        assert_eq!(bus.trouble(), None);
    });
    println!("was full and is not");
}
