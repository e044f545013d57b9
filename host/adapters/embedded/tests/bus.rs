//! What the embedded bus promises beyond the door: what is bounded, what survives a clean end, what goes on without memory.
//! What survives a kill and a full disk is in `bus_disk.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "clippy.toml frees tests, but takes only functions marked as tests for tests"
)]

use bytes::Bytes;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::timeout;
use wharf_core::bus::{Bus, BusErrorKind, Event, Mark, Membership, Message, Parcel, Place, ReadFrom, Reader, Source, Standing, TopicWish};
use wharf_core::metrics::Registry;
use wharf_embedded::bus::{BusConfig, EmbeddedBus};

const LONG: Duration = Duration::from_secs(20);

fn open(config: BusConfig) -> EmbeddedBus {
    EmbeddedBus::open(config, &Registry::default()).unwrap()
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { timeout(Duration::from_secs(60), future).await.unwrap() })
}

fn wish(name: &str, partitions: u32) -> TopicWish {
    TopicWish { name: name.into(), partitions, keep: None }
}

async fn send(bus: &EmbeddedBus, topic: &str, partition: u32, value: impl Into<Bytes>) -> Place {
    let (told, said) = tokio::sync::oneshot::channel();
    let parcel = Parcel::new(topic.into(), partition, value.into());
    bus.sink().send(parcel, Box::new(move |what| drop(told.send(what)))).unwrap();
    said.await.unwrap().unwrap()
}

fn member(bus: &EmbeddedBus, name: &str, dead_after: Duration, release_within: Duration) -> Arc<dyn Source> {
    let (topic, group) = ("t".into(), "g".into());
    bus.join(&Membership { topic, group, member: name.into(), dead_after, release_within }).unwrap()
}

async fn read(reader: &dyn Reader, count: usize) -> Vec<Message> {
    let mut messages = Vec::new();
    while messages.len() < count {
        messages.extend(timeout(LONG, reader.next(count - messages.len())).await.unwrap().unwrap());
    }
    messages
}

/// Events until `done` says so.
async fn until(source: &dyn Source, mut done: impl FnMut(&Event) -> bool) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        for event in timeout(LONG, source.next(100)).await.unwrap().unwrap() {
            let is_done = done(&event);
            events.push(event);
            if is_done {
                return events;
            }
        }
    }
}

fn config(folder: &Path) -> BusConfig {
    BusConfig { synced: false, ..BusConfig::new(folder) }
}

#[test]
fn messages_standings_and_topics_are_there_again_after_a_clean_end() {
    let folder = tempfile::tempdir().unwrap();
    let standing = Standing { next: 1, runs: vec![(Mark::Begun, 1), (Mark::Done, 1)] };
    run(async {
        let bus = open(config(folder.path()));
        assert_eq!(bus.provide(&wish("t", 2)).await, Ok(2));
        for at in 0..3 {
            assert_eq!(send(&bus, "t", 1, format!("m{at}")).await, Place { partition: 1, offset: at });
        }
        let source = member(&bus, "a", LONG, LONG);
        until(&*source, |event| matches!(event, Event::Given { partition: 1, .. })).await;
        source.note(vec![(1, standing.clone())]).await.unwrap();
    });
    run(async {
        let bus = open(config(folder.path()));
        assert_eq!(bus.provide(&wish("t", 1)).await, Ok(2), "it is as it was made");
        let refused = bus.provide(&wish("t", 3)).await.unwrap_err();
        assert_eq!(refused.kind, BusErrorKind::NoTopic);
        assert!(refused.message.contains("2 partitions") && refused.message.contains("3 are wished"), "{refused}");
        let source = member(&bus, "b", LONG, LONG);
        let events = until(&*source, |event| matches!(event, Event::Given { partition: 1, .. })).await;
        let given = events.iter().find_map(|event| match event {
            Event::Given { partition: 1, standing } => Some(standing.clone()),
            _ => None,
        });
        assert_eq!(given, Some(standing));
        let events = until(&*source, |event| matches!(event, Event::Message(message) if message.place.offset == 2)).await;
        let values: Vec<Bytes> =
            events.into_iter().filter_map(|event| if let Event::Message(message) = event { Some(message.value) } else { None }).collect();
        assert_eq!(values, ["m1", "m2"], "from the standing on");
        assert_eq!(send(&bus, "t", 1, "m3").await.offset, 3);
        let extents = bus.books().extents("t", Some("g")).await.unwrap();
        assert_eq!((extents[1].first, extents[1].end, extents[0].end), (0, 4, 0));
    });
}

#[test]
fn a_folder_that_is_in_use_is_refused_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let _bus = open(config(folder.path()));
    let error = EmbeddedBus::open(config(folder.path()), &Registry::default()).err().unwrap();
    assert_eq!(error.kind, BusErrorKind::Storage);
    assert!(error.message.contains("in use") && error.message.contains(&*folder.path().to_string_lossy()), "{error}");
}

#[test]
fn what_is_no_longer_in_memory_is_read_from_the_disk_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let config = BusConfig { tail_bytes_max: 20_000, tail_partition_bytes_max: 10_000, ..config(folder.path()) };
    run(async {
        let registry = Registry::default();
        let bus = EmbeddedBus::open(config.clone(), &registry).unwrap();
        bus.provide(&wish("t", 2)).await.unwrap();
        for at in 0..600u32 {
            let value = format!("{at:0200}");
            let sent = send(&bus, "t", at % 2, value).await;
            assert_eq!(sent.offset, u64::from(at / 2));
        }
        for from in [ReadFrom::Start, ReadFrom::Offset(0), ReadFrom::Time(0)] {
            let reader = bus.read("t", 1, from).unwrap();
            let messages = read(&*reader, 300).await;
            for (at, message) in messages.iter().enumerate() {
                assert_eq!(message.place.offset, at as u64);
                assert_eq!(message.value, format!("{:0200}", at * 2 + 1));
            }
        }
        let reader = bus.read("t", 0, ReadFrom::Offset(123)).unwrap();
        assert_eq!(read(&*reader, 1).await[0].place.offset, 123);
        reader.seek(ReadFrom::Offset(7));
        assert_eq!(read(&*reader, 2).await[1].place.offset, 8);
        reader.seek(ReadFrom::End);
        let (message, place) = tokio::join!(read(&*reader, 1), send(&bus, "t", 0, "last"));
        assert_eq!((message[0].place, &message[0].value[..]), (place, &b"last"[..]));
        assert!(registry.render().contains("wharf_embedded_bus_disk_reads_total"));
    });
    // And all of it after a start, when nothing is in memory.
    run(async {
        let bus = open(config);
        let reader = bus.read("t", 0, ReadFrom::Start).unwrap();
        let offsets: Vec<u64> = read(&*reader, 301).await.iter().map(|message| message.place.offset).collect();
        assert_eq!(offsets, (0..301).collect::<Vec<u64>>());
    });
}

#[test]
fn times_are_found_in_memory_and_on_the_disk_and_never_go_back() {
    let folder = tempfile::tempdir().unwrap();
    let time = Arc::new(AtomicU64::new(1_000_000));
    let clock = time.clone();
    let config = BusConfig { tail_bytes_max: 2_000, keep: Duration::from_secs(10_000_000), ..config(folder.path()) };
    let bus = EmbeddedBus::open_with_clock(config, &Registry::default(), Arc::new(move || clock.load(Relaxed))).unwrap();
    run(async {
        bus.provide(&wish("t", 1)).await.unwrap();
        for at in 0..100u64 {
            time.store(1_000_000 + at * 10, Relaxed);
            send(&bus, "t", 0, vec![0; 100]).await;
        }
        time.store(5, Relaxed);
        send(&bus, "t", 0, "with a clock set back").await;
        for (asked, offset) in [(0, 0), (1_000_000, 0), (1_000_001, 1), (1_000_500, 50), (1_000_989, 99), (1_000_990, 99), (1_000_991, 101)]
        {
            assert_eq!(bus.books().offsets_at("t", asked).await, Ok(vec![offset]), "{asked}");
            if offset < 101 {
                let reader = bus.read("t", 0, ReadFrom::Time(asked)).unwrap();
                assert_eq!(read(&*reader, 1).await[0].place.offset, offset, "{asked}");
            }
        }
    });
}

#[test]
fn old_messages_go_by_age_and_by_bytes_and_their_offsets_do_not_come_again() {
    let folder = tempfile::tempdir().unwrap();
    let config = BusConfig { topic_bytes_max: 300_000, tail_bytes_max: 50_000, ..config(folder.path()) };
    run(async {
        let bus = open(config.clone());
        bus.provide(&wish("t", 1)).await.unwrap();
        let short = TopicWish { keep: Some(Duration::from_millis(200)), ..wish("short", 1) };
        bus.provide(&short).await.unwrap();
        send(&bus, "short", 0, "gone soon").await;
        for _ in 0..1_000 {
            send(&bus, "t", 0, vec![1; 1_000]).await;
        }
        let books = bus.books();
        // A block of one has 1,021 bytes, and four of them go at a time.
        let gone = async {
            loop {
                let kept = books.extents("t", None).await.unwrap()[0].clone();
                let short = books.extents("short", None).await.unwrap()[0].clone();
                if kept.end - kept.first <= 293 && short.first == short.end {
                    return kept;
                }
                tokio::task::yield_now().await;
            }
        };
        let kept = timeout(LONG, gone).await.unwrap();
        assert!(kept.end - kept.first > 288, "not more than necessary: {kept:?}");
        let reader = bus.read("t", 0, ReadFrom::Offset(0)).unwrap();
        assert_eq!(read(&*reader, 1).await[0].place.offset, kept.first, "the oldest that is kept");
    });
    run(async {
        let bus = open(config);
        let extents = bus.books().extents("short", None).await.unwrap();
        assert_eq!((extents[0].first, extents[0].end), (1, 1));
        assert_eq!(send(&bus, "short", 0, "next").await.offset, 1, "no offset is used twice");
        assert_eq!(send(&bus, "t", 0, "next").await.offset, 1_000);
    });
}

#[test]
fn a_member_that_does_not_ask_is_dead_and_its_note_is_another_s() {
    let folder = tempfile::tempdir().unwrap();
    let bus = open(config(folder.path()));
    run(async {
        bus.provide(&wish("t", 2)).await.unwrap();
        let silent = member(&bus, "silent", Duration::from_millis(300), LONG);
        until(&*silent, |event| matches!(event, Event::Given { partition: 1, .. })).await;
        silent.note(vec![(0, Standing::at(5))]).await.unwrap();
        let other = member(&bus, "other", LONG, LONG);
        let mut given = Vec::new();
        until(&*other, |event| {
            if let Event::Given { partition, standing } = event {
                given.push((*partition, standing.next));
            }
            given.len() == 2
        })
        .await;
        given.sort_unstable();
        assert_eq!(given, [(0, 5), (1, 0)]);
        let refused = silent.note(vec![(0, Standing::at(9))]).await.unwrap_err();
        assert_eq!(refused.kind, BusErrorKind::NotYours);
        let mut lost = Vec::new();
        let events = until(&*silent, |event| {
            lost.extend(if let Event::Lost { partition } = event { Some(*partition) } else { None });
            lost.len() == 2
        })
        .await;
        assert!(events.iter().all(|event| matches!(event, Event::Asked { .. } | Event::Lost { .. })), "{events:?}");
        // It asks again: it is a member again.
        let (back, _) = tokio::join!(until(&*silent, |event| matches!(event, Event::Given { .. })), async {
            let asked = until(&*other, |event| matches!(event, Event::Asked { .. })).await;
            let Some(Event::Asked { partition }) = asked.last() else { panic!("{asked:?}") };
            other.release(*partition);
        });
        assert_eq!(back.len(), 1);
    });
}

#[test]
fn a_note_that_is_raced_by_leaving_is_found_by_the_next_member_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let bus = open(config(folder.path()));
    let mut outcomes = [0; 2];
    run(async {
        bus.provide(&wish("t", 1)).await.unwrap();
        let given = async |source: &Arc<dyn Source>| {
            let events = until(&**source, |event| matches!(event, Event::Given { .. })).await;
            events.into_iter().find_map(|event| if let Event::Given { standing, .. } = event { Some(standing.next) } else { None }).unwrap()
        };
        let mut present = member(&bus, "first", LONG, LONG);
        let mut stands = given(&present).await;
        for round in 1..=1_000 {
            let heir = member(&bus, "heir", LONG, LONG);
            let noting = present.note(vec![(0, Standing::at(round))]);
            if round % 3 == 0 {
                tokio::task::yield_now().await;
            }
            // Joined before it left, so that it is given the partition at the first moment that it can be.
            let (_, noted, found) = tokio::join!(present.leave(), noting, given(&heir));
            match noted {
                Ok(()) => {
                    outcomes[0] += 1;
                    stands = round;
                }
                Err(error) => {
                    outcomes[1] += 1;
                    assert_eq!(error.kind, BusErrorKind::NotYours);
                }
            }
            assert_eq!(found, stands, "round {round}");
            present = heir;
        }
    });
    assert_eq!(outcomes[0] + outcomes[1], 1_000);
}

#[test]
fn what_is_not_released_in_time_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let bus = open(config(folder.path()));
    run(async {
        bus.provide(&wish("t", 1)).await.unwrap();
        bus.provide(&wish("t2", 4)).await.unwrap();
        let membership = |name: &str| Membership {
            topic: "t2".into(),
            group: "g".into(),
            member: name.into(),
            dead_after: LONG,
            release_within: Duration::from_millis(50),
        };
        let first = bus.join(&membership("first")).unwrap();
        let mut count = 0;
        until(&*first, |_| {
            count += 1;
            count == 4
        })
        .await;
        let second = bus.join(&membership("second")).unwrap();
        let mut told = (0, 0);
        until(&*first, |event| {
            match event {
                Event::Asked { .. } => told.0 += 1,
                Event::Lost { .. } => told.1 += 1,
                other => panic!("{other:?}"),
            }
            told == (2, 2)
        })
        .await;
        let mut given = 0;
        until(&*second, |event| {
            given += usize::from(matches!(event, Event::Given { .. }));
            given == 2
        })
        .await;
        // Who leaves gives back at once, by saying so and by being dropped.
        drop(second);
        let mut back = 0;
        until(&*first, |event| {
            back += usize::from(matches!(event, Event::Given { .. }));
            back == 2
        })
        .await;
        first.leave().await;
        assert_eq!(first.next(1).await.unwrap_err().kind, BusErrorKind::Closed);
        assert_eq!(bus.books().move_group("t2", "g", vec![(3, Standing::at(7))]).await, Ok(()));
        assert_eq!(bus.books().extents("t2", Some("g")).await.unwrap()[3].standing, Some(Standing::at(7)));
        let _third = bus.join(&membership("third")).unwrap();
        let refused = bus.books().move_group("t2", "g", vec![(3, Standing::at(8))]).await.unwrap_err();
        assert_eq!(refused.kind, BusErrorKind::NotYours);
    });
}

#[test]
fn messages_of_one_sender_keep_their_order_and_places_are_told_as_they_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let bus = open(config(folder.path()));
    run(async {
        bus.provide(&wish("t", 3)).await.unwrap();
        let told: Arc<Mutex<Vec<(Place, String)>>> = Arc::default();
        std::thread::scope(|scope| {
            for sender in 0..4 {
                let (sink, told) = (bus.sink(), told.clone());
                scope.spawn(move || {
                    for at in 0..2_000u32 {
                        let value = format!("{sender} {at}");
                        let parcel = Parcel::new("t".into(), at % 3, value.clone().into());
                        let told = told.clone();
                        sink.send(parcel, Box::new(move |place| told.lock().unwrap().push((place.unwrap(), value)))).unwrap();
                    }
                });
            }
        });
        bus.sink().flush(LONG).await;
        assert_eq!(bus.sink().waiting(), (0, 0));
        let told = std::mem::take(&mut *told.lock().unwrap());
        assert_eq!(told.len(), 8_000);
        let mut kept = std::collections::HashMap::new();
        for partition in 0..3 {
            let end = bus.books().extents("t", None).await.unwrap()[partition].end;
            let reader = bus.read("t", partition as u32, ReadFrom::Start).unwrap();
            let mut last = [0; 4];
            for message in read(&*reader, end as usize).await {
                let value = String::from_utf8(message.value.to_vec()).unwrap();
                let (sender, at) = value.split_once(' ').unwrap();
                let (sender, at): (usize, u32) = (sender.parse().unwrap(), at.parse().unwrap());
                assert!(at >= last[sender]);
                last[sender] = at;
                kept.insert(message.place, value);
            }
        }
        assert!(told.iter().all(|(place, value)| kept.get(place) == Some(value)));
    });
}

#[test]
fn a_member_pauses_goes_elsewhere_and_stops_waiting_without_a_loss() {
    let folder = tempfile::tempdir().unwrap();
    let bus = open(config(folder.path()));
    run(async {
        bus.provide(&wish("t", 2)).await.unwrap();
        let source = member(&bus, "a", LONG, LONG);
        until(&*source, |event| matches!(event, Event::Given { partition: 1, .. })).await;
        // A wait that is given up loses nothing, whenever that is.
        for at in 0..500u64 {
            let mut waiting = source.next(1);
            let is_pending = std::future::poll_fn(|waker| std::task::Poll::Ready(waiting.as_mut().poll(waker).is_pending())).await;
            assert!(is_pending);
            send(&bus, "t", 0, "x").await;
            drop(waiting);
            let events = timeout(LONG, source.next(1)).await.unwrap().unwrap();
            assert!(matches!(&events[..], [Event::Message(message)] if message.place.offset == at), "{events:?}");
        }
        source.pause(0, true);
        send(&bus, "t", 0, "paused").await;
        send(&bus, "t", 1, "not paused").await;
        let events = timeout(LONG, source.next(10)).await.unwrap().unwrap();
        assert!(matches!(&events[..], [Event::Message(message)] if message.place.partition == 1), "{events:?}");
        // Going on wakes who waits already.
        let (events, ()) = tokio::join!(source.next(10), async { source.pause(0, false) });
        assert!(matches!(&events.unwrap()[..], [Event::Message(message)] if message.place.offset == 500));
        let (events, ()) = tokio::join!(source.next(10), async { source.seek(0, 498) });
        let offsets: Vec<u64> = events
            .unwrap()
            .iter()
            .filter_map(|event| if let Event::Message(message) = event { Some(message.place.offset) } else { None })
            .collect();
        assert_eq!(offsets, [498, 499, 500]);
    });
}

#[test]
fn what_is_too_much_is_refused_with_the_limit() {
    let folder = tempfile::tempdir().unwrap();
    let config =
        BusConfig { queue_max: 1_000, parcel_bytes_max: 100, topics_max: 2, partitions_max: 4, groups_max: 1, ..config(folder.path()) };
    let bus = open(config);
    run(async {
        bus.provide(&wish("t", 1)).await.unwrap();
        let send = |topic: &str, partition: u32, bytes: usize| {
            bus.sink().send(Parcel::new(topic.into(), partition, vec![0; bytes].into()), Box::new(|_| ())).map_err(|error| error.kind)
        };
        assert_eq!(send("t", 0, 101), Err(BusErrorKind::TooLarge));
        assert_eq!(send("t", 1, 1), Err(BusErrorKind::NoTopic));
        assert_eq!(send("none", 0, 1), Err(BusErrorKind::NoTopic));
        let refused = std::iter::repeat_with(|| send("t", 0, 1)).take(10_000_000).find_map(Result::err);
        assert_eq!(refused, Some(BusErrorKind::Full));
        bus.sink().flush(LONG).await;
        assert_eq!(send("t", 0, 1), Ok(()));
        assert_eq!(bus.provide(&wish("many", 5)).await.unwrap_err().kind, BusErrorKind::Refused);
        assert_eq!(bus.provide(&wish("no/name", 1)).await.unwrap_err().kind, BusErrorKind::Refused);
        assert_eq!(bus.provide(&wish("second", 1)).await, Ok(1));
        assert_eq!(bus.provide(&wish("third", 1)).await.unwrap_err().kind, BusErrorKind::Refused);
        let _first = member(&bus, "a", LONG, LONG);
        let membership =
            Membership { topic: "t".into(), group: "other".into(), member: "a".into(), dead_after: LONG, release_within: LONG };
        assert_eq!(bus.join(&membership).err().unwrap().kind, BusErrorKind::Refused);
        let membership = Membership { topic: "none".into(), ..membership };
        assert_eq!(bus.join(&membership).err().unwrap().kind, BusErrorKind::NoTopic);
    });
}

#[test]
fn who_waits_when_the_bus_ends_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let bus = open(config(folder.path()));
    run(async {
        bus.provide(&wish("t", 1)).await.unwrap();
        let source = member(&bus, "a", LONG, LONG);
        until(&*source, |event| matches!(event, Event::Given { .. })).await;
        let (sink, reader) = (bus.sink(), bus.read("t", 0, ReadFrom::Start).unwrap());
        let waiting = tokio::spawn(async move { source.next(1).await.map(drop) });
        let reading = tokio::spawn(async move { reader.next(1).await.map(drop) });
        tokio::task::spawn_blocking(move || drop(bus)).await.unwrap();
        for waiting in [waiting, reading] {
            assert_eq!(timeout(LONG, waiting).await.unwrap().unwrap().unwrap_err().kind, BusErrorKind::Closed);
        }
        let refused = sink.send(Parcel::new("t".into(), 0, Bytes::new()), Box::new(|_| ())).unwrap_err();
        assert_eq!(refused.kind, BusErrorKind::Closed);
        assert!(EmbeddedBus::open(config(folder.path()), &Registry::default()).is_ok(), "the folder is free");
    });
}
