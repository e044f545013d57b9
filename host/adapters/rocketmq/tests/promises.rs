//! What RocketMQ's adapter promises beside the contract of the bus: order and places by both ways of sending, what a group finds
//! again, who may note, and that nothing that was told kept is lost when the broker is killed. Real servers, started once.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "clippy.toml frees tests, but takes only functions marked as tests for tests"
)]

use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use wharf_core::bus::{
    Bus, BusError, BusErrorKind, Event, Mark, Membership, Message, Parcel, Place, ReadFrom, Reader, Sink, Source, Standing, TopicWish,
};
use wharf_harness::servers::rocketmq::{RocketMq, Wish};
use wharf_rocketmq::{Credentials, RocketMqBus, RocketMqConfig, SendBy};

/// Longest wait for anything.
const SOON: Duration = Duration::from_secs(30);
/// One cluster at a time: the machine may be small.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn rocketmq_keeps_its_promises() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut server = RocketMq::start(Wish::default());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for by in [SendBy::Grpc, SendBy::Remoting] {
        runtime.block_on(promise("messages come back as they were sent", by, come_back(&server, by)));
        runtime.block_on(promise("every partition keeps the order of sending", by, order(&server, by)));
    }
    let by = SendBy::default();
    runtime.block_on(promise("the proxy serves nothing by which a queue could be read", by, unserved(&server)));
    runtime.block_on(promise("readers begin where they are told", by, readers(&server)));
    runtime.block_on(promise("what cannot be taken is said so", by, refusals(&server)));
    runtime.block_on(promise("members share, and hand over what they noted", by, share(&server)));
    runtime.block_on(promise("a dead member's partitions come with its last note", by, death(&server)));
    runtime.block_on(promise("a paused partition is silent, a sought one goes on there", by, pause_and_seek(&server)));
    for by in [SendBy::Grpc, SendBy::Remoting] {
        kill_under_sends(&runtime, &mut server, by);
    }
    two_members_and_a_restart(&runtime, &mut server);
    stalled_member(&runtime, &mut server);
}

/// A cluster that asks who we are.
#[test]
fn calls_are_signed_for_a_cluster_that_asks() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (name, secret) = ("wharf", "a-secret-of-some-length");
    let server = RocketMq::start(Wish { user: Some((name, secret)), ..Wish::default() });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        for by in [SendBy::Grpc, SendBy::Remoting] {
            let mut config = RocketMqConfig::new(&server.grpc(), &[&server.names()]);
            (config.send_by, config.send_within) = (by, Duration::from_secs(10));
            config.credentials = Some(Credentials { access_key: name.into(), secret_key: secret.into() });
            let bus = RocketMqBus::new(config.clone()).unwrap();
            let topic = topic(&bus, &format!("signed-{by:?}"), 1).await;
            send(&bus.sink(), numbered(&topic, 0, 7)).await;
            let one = bus.join(&membership(&topic, "group", "one")).unwrap();
            let mut seen = Seen::default();
            seen.until(&*one, "the message", |seen| seen.messages.len() == 1).await;
            one.note(vec![(0, Standing::at(1))]).await.unwrap();
            one.leave().await;
            for credentials in [None, Some(Credentials { access_key: name.into(), secret_key: "another".into() })] {
                config.credentials = credentials;
                let stranger = RocketMqBus::new(config.clone()).unwrap();
                let (told, kept) = oneshot::channel();
                stranger.sink().send(numbered(&topic, 0, 8), Box::new(move |result| told.send(result).unwrap())).unwrap();
                let refused = timeout(SOON, kept).await.unwrap().unwrap().unwrap_err();
                assert_eq!(refused.kind, BusErrorKind::Refused, "{refused}");
                let refused = stranger.read(&topic, 0, ReadFrom::Start).unwrap().next(1).await.unwrap_err();
                assert_eq!(refused.kind, BusErrorKind::Refused, "{refused}");
            }
        }
    });
}

/// Partitions keep their numbers while one of two brokers is away, and those of the other go on.
#[test]
fn a_broker_that_is_away_stops_its_own_partitions_only() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut server = RocketMq::start(Wish { brokers: 2, ..Wish::default() });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (bus, topic, one, mut seen) = runtime.block_on(async {
        let grpc = bus(&server, SendBy::Grpc);
        let bus = bus(&server, SendBy::Remoting);
        let topic = topic(&bus, "two", 5).await;
        let refused = grpc.provide(&TopicWish { name: topic.clone(), partitions: 5, keep: None }).await;
        assert_eq!(refused.unwrap_err().kind, BusErrorKind::Refused);
        for partition in 0..5 {
            assert_eq!(send(&bus.sink(), numbered(&topic, partition, 0)).await, Place { partition, offset: 0 });
        }
        let one = bus.join(&membership(&topic, "group", "one")).unwrap();
        let mut seen = Seen::default();
        seen.until(&*one, "one has everything", |seen| seen.given.len() == 5 && seen.messages.len() == 5).await;
        one.note((0..5).map(|partition| (partition, Standing::at(1))).collect()).await.unwrap();
        (bus, topic, one, seen)
    });
    // Of five, `b0` has the first three.
    server.broker(1).kill();
    let again = runtime.block_on(async {
        // Who comes now gets what the other broker has, when it is released.
        let two = bus.join(&membership(&topic, "group", "two")).unwrap();
        seen.until(&*one, "one is asked for a part", |seen| !seen.asked.is_empty()).await;
        two.leave().await;
        std::mem::take(&mut seen.asked)
    });
    runtime.block_on(async {
        for partition in &again {
            one.release(*partition);
            seen.given.remove(partition);
        }
        seen.until(&*one, "one has again what the other broker has", |seen| (0..3).all(|partition| seen.given.contains_key(&partition)))
            .await;
    });
    runtime.block_on(async {
        for partition in 0..3 {
            assert_eq!(send(&bus.sink(), numbered(&topic, partition, 1)).await, Place { partition, offset: 1 });
        }
        seen.until(&*one, "the others go on", |seen| seen.messages.len() == 8).await;
        println!("  asked for {again:?} while a broker was away");
    });
    let kept = {
        let (told, kept) = oneshot::channel();
        bus.sink().send(numbered(&topic, 4, 1), Box::new(move |result| told.send(result).unwrap())).unwrap();
        kept
    };
    server.broker(1).start_again();
    runtime.block_on(async {
        assert_eq!(timeout(SOON, kept).await.unwrap().unwrap(), Ok(Place { partition: 4, offset: 1 }));
        seen.until(&*one, "all of them go on", |seen| seen.messages.len() == 9).await;
        one.leave().await;
    });
}

async fn promise(name: &str, by: SendBy, kept: impl Future<Output = ()>) {
    let began = Instant::now();
    timeout(Duration::from_secs(120), kept).await.unwrap_or_else(|_| panic!("{name} ({by:?}): not within two minutes"));
    println!("kept in {:?}: {name} ({by:?})", began.elapsed());
}

fn bus(server: &RocketMq, by: SendBy) -> RocketMqBus {
    let mut config = RocketMqConfig::new(&server.grpc(), &[&server.names()]);
    config.send_by = by;
    config.tick = Duration::from_millis(200);
    RocketMqBus::new(config).unwrap()
}

async fn topic(bus: &RocketMqBus, name: &str, partitions: u32) -> Arc<str> {
    let name: Arc<str> = name.into();
    assert_eq!(bus.provide(&TopicWish { name: name.clone(), partitions, keep: None }).await, Ok(partitions));
    name
}

async fn send(sink: &Arc<dyn Sink>, parcel: Parcel) -> Place {
    let (told, kept) = oneshot::channel();
    sink.send(parcel, Box::new(move |result| told.send(result).unwrap())).unwrap();
    timeout(SOON, kept).await.unwrap().unwrap().unwrap()
}

fn numbered(topic: &Arc<str>, partition: u32, number: u64) -> Parcel {
    Parcel::new(topic.clone(), partition, Bytes::copy_from_slice(&number.to_be_bytes()))
}

fn number(message: &Message) -> u64 {
    u64::from_be_bytes(message.value[..].try_into().unwrap())
}

async fn read(reader: &dyn Reader, count: usize) -> Vec<Message> {
    let mut read = Vec::new();
    while read.len() < count {
        read.extend(timeout(SOON, reader.next(count - read.len())).await.unwrap().unwrap());
    }
    read
}

fn membership(topic: &Arc<str>, group: &str, member: &str) -> Membership {
    let (dead_after, release_within) = (Duration::from_secs(3), Duration::from_secs(20));
    Membership { topic: topic.clone(), group: group.into(), member: member.into(), dead_after, release_within }
}

/// What a member has seen.
#[derive(Default)]
struct Seen {
    given: BTreeMap<u32, Standing>,
    asked: BTreeSet<u32>,
    lost: BTreeSet<u32>,
    messages: Vec<Message>,
}

impl Seen {
    /// Asks until it is so.
    async fn until(&mut self, source: &dyn Source, what: &str, is_so: impl Fn(&Seen) -> bool) {
        let end = Instant::now() + SOON;
        while !is_so(self) {
            let left = end.saturating_duration_since(Instant::now());
            let events = timeout(left, source.next(64)).await.unwrap_or_else(|_| panic!("{what}: not soon")).unwrap();
            for event in events {
                match event {
                    Event::Given { partition, standing } => {
                        assert!(self.given.insert(partition, standing).is_none(), "partition {partition} was given twice");
                        self.asked.remove(&partition);
                        self.lost.remove(&partition);
                    }
                    Event::Asked { partition } => {
                        assert!(self.given.contains_key(&partition) && self.asked.insert(partition));
                    }
                    Event::Lost { partition } => {
                        assert!(self.given.remove(&partition).is_some() && self.lost.insert(partition));
                    }
                    Event::Message(message) => {
                        let partition = message.place.partition;
                        assert!(
                            self.given.contains_key(&partition) && !self.asked.contains(&partition),
                            "a message that is not the member's"
                        );
                        self.messages.push(message);
                    }
                }
            }
        }
    }
}

async fn come_back(server: &RocketMq, by: SendBy) {
    let bus = bus(server, by);
    let topic = topic(&bus, &format!("back-{by:?}"), 1).await;
    let every: Vec<u8> = (0..=255).collect();
    let big = Bytes::from(vec![7; 2 << 20]);
    let mut sent = Vec::new();
    for (key, value, fields) in [
        (None, Bytes::from_static(b"plain"), vec![]),
        (Some(Bytes::from_static(b"a key % of \xff bytes")), Bytes::from(every.clone()), vec![]),
        (
            Some(Bytes::new()),
            Bytes::new(),
            vec![("empty".into(), Bytes::new()), ("bytes".into(), Bytes::from(every)), ("empty".into(), Bytes::from_static(b"2"))],
        ),
        (None, big, vec![("größe".into(), Bytes::from_static("✓".as_bytes()))]),
    ] {
        let parcel = Parcel { topic: topic.clone(), partition: 0, key, value, fields };
        let place = send(&bus.sink(), parcel.clone()).await;
        sent.push((place, parcel));
    }
    let read = read(&*bus.read(&topic, 0, ReadFrom::Start).unwrap(), sent.len()).await;
    for (message, (place, parcel)) in read.into_iter().zip(sent) {
        assert_eq!((message.place, message.begun), (place, false));
        assert_eq!((message.key, message.value, message.fields), (parcel.key, parcel.value, parcel.fields));
        assert!(message.time_ms > 1_700_000_000_000);
    }
}

async fn order(server: &RocketMq, by: SendBy) {
    let bus = bus(server, by);
    let (partitions, each) = (7, 60);
    let topic = topic(&bus, &format!("order-{by:?}"), partitions).await;
    let sink = bus.sink();
    let (told, mut kept) = mpsc::unbounded_channel();
    for number in 0..each {
        for partition in 0..partitions {
            let told = told.clone();
            sink.send(numbered(&topic, partition, number), Box::new(move |result| told.send(result).unwrap())).unwrap();
        }
    }
    sink.flush(SOON).await;
    assert_eq!(sink.waiting(), (0, 0));
    let mut places = BTreeSet::new();
    for _ in 0..each * u64::from(partitions) {
        places.insert(kept.try_recv().unwrap().unwrap());
    }
    for partition in 0..partitions {
        let messages = read(&*bus.read(&topic, partition, ReadFrom::Start).unwrap(), each as usize).await;
        assert_eq!(messages.iter().map(number).collect::<Vec<_>>(), (0..each).collect::<Vec<_>>(), "partition {partition}");
        assert!(messages.iter().all(|message| places.remove(&message.place)));
    }
    assert!(places.is_empty());
}

/// Why reading goes by remoting. Once a proxy serves these, that may change.
async fn unserved(server: &RocketMq) {
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", server.grpc())).unwrap().connect().await.unwrap();
    for method in ["PullMessage", "QueryOffset", "GetOffset", "UpdateOffset"] {
        let mut grpc = tonic::client::Grpc::new(channel.clone());
        grpc.ready().await.unwrap();
        let path = format!("/apache.rocketmq.v2.MessagingService/{method}").parse().unwrap();
        let codec: tonic_prost::ProstCodec<(), ()> = tonic_prost::ProstCodec::default();
        let answer = grpc.unary(tonic::Request::new(()), path, codec).await;
        assert_eq!(answer.unwrap_err().code(), tonic::Code::Unimplemented, "{method}");
    }
}

async fn readers(server: &RocketMq) {
    let bus = bus(server, SendBy::Grpc);
    let topic = topic(&bus, "readers", 2).await;
    let sink = bus.sink();
    for number in 0..3 {
        send(&sink, numbered(&topic, 1, number)).await;
    }
    let between = read(&*bus.read(&topic, 1, ReadFrom::Start).unwrap(), 3).await[2].time_ms + 1;
    tokio::task::spawn_blocking(move || wharf_harness::until("the clock goes on", SOON, || (now_ms() > between).then_some(())))
        .await
        .unwrap();
    // Made, and only then sent: it has to come, whatever the reader knew by then.
    let end = bus.read(&topic, 1, ReadFrom::End).unwrap();
    let ahead = bus.read(&topic, 1, ReadFrom::Offset(5)).unwrap();
    for number in 3..7 {
        send(&sink, numbered(&topic, 1, number)).await;
    }
    let check = async |reader: &dyn Reader, expected: &[u64]| {
        assert_eq!(read(reader, expected.len()).await.iter().map(number).collect::<Vec<_>>(), expected);
    };
    check(&*end, &[3, 4, 5, 6]).await;
    check(&*ahead, &[5, 6]).await;
    check(&*bus.read(&topic, 1, ReadFrom::Time(between)).unwrap(), &[3, 4, 5, 6]).await;
    check(&*bus.read(&topic, 1, ReadFrom::Time(0)).unwrap(), &[0, 1, 2, 3, 4, 5, 6]).await;
    end.seek(ReadFrom::Offset(2));
    check(&*end, &[2, 3]).await;
    assert_eq!(bus.books().offsets_at(&topic, between).await, Ok(vec![0, 3]));
    assert_eq!(bus.books().offsets_at(&topic, now_ms() + 1_000_000).await, Ok(vec![0, 7]));
}

fn now_ms() -> u64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64
}

async fn refusals(server: &RocketMq) {
    let bus = bus(server, SendBy::Grpc);
    let topic = topic(&bus, "refusals", 2).await;
    let kind = |result: Result<u32, BusError>| result.map_err(|error| error.kind);
    let wish = |name: &str, partitions| TopicWish { name: name.into(), partitions, keep: None };
    assert_eq!(kind(bus.provide(&wish("refusals", 3)).await), Err(BusErrorKind::NoTopic));
    assert_eq!(kind(bus.provide(&wish("no.such.name", 3)).await), Err(BusErrorKind::Refused));
    let mut config = RocketMqConfig::new(&server.grpc(), &[&server.names()]);
    (config.makes_topics, config.waiting_max, config.parcel_bytes_max) = (false, 2, 1000);
    let narrow = RocketMqBus::new(config).unwrap();
    assert_eq!(kind(narrow.provide(&wish("not-there", 1)).await), Err(BusErrorKind::NoTopic));
    let sink = narrow.sink();
    let large = Parcel::new(topic.clone(), 0, Bytes::from(vec![0; 1001]));
    assert_eq!(sink.send(large, Box::new(|_| panic!("told"))).unwrap_err().kind, BusErrorKind::TooLarge);
    let refused = (0..100).map_while(|number| sink.send(numbered(&topic, 0, number), Box::new(|_| {})).err()).next();
    let full = std::iter::repeat_with(|| sink.send(numbered(&topic, 0, 0), Box::new(|_| {}))).take(1000).find_map(Result::err).or(refused);
    assert_eq!(full.unwrap().kind, BusErrorKind::Full);
    let (told, kept) = oneshot::channel();
    bus.sink().send(numbered(&topic, 2, 0), Box::new(move |result| told.send(result).unwrap())).unwrap();
    assert_eq!(timeout(SOON, kept).await.unwrap().unwrap().unwrap_err().kind, BusErrorKind::NoTopic);
    assert_eq!(bus.read("not-there", 0, ReadFrom::End).unwrap().next(1).await.unwrap_err().kind, BusErrorKind::NoTopic);
}

async fn share(server: &RocketMq) {
    let bus = bus(server, SendBy::Grpc);
    let partitions = 4;
    let topic = topic(&bus, "share", partitions).await;
    for partition in 0..partitions {
        for number in 0..5 {
            send(&bus.sink(), numbered(&topic, partition, number)).await;
        }
    }
    let one = bus.join(&membership(&topic, "group", "one")).unwrap();
    let mut seen_one = Seen::default();
    seen_one.until(&*one, "one has everything", |seen| seen.given.len() == 4 && seen.messages.len() == 20).await;
    assert!(seen_one.given.values().all(|standing| *standing == Standing::at(0)));
    let begun = Standing { next: 2, runs: vec![(Mark::Begun, 1), (Mark::Done, 2)] };
    one.note((0..partitions).map(|partition| (partition, begun.clone())).collect()).await.unwrap();
    assert_eq!(bus.books().move_group(&topic, "group", vec![(0, Standing::at(0))]).await.unwrap_err().kind, BusErrorKind::NotYours);

    let two = bus.join(&membership(&topic, "group", "two")).unwrap();
    seen_one.until(&*one, "one is asked for a half", |seen| seen.asked.len() == 2).await;
    let asked = seen_one.asked.clone();
    let last = Standing { next: 3, runs: vec![(Mark::Done, 2)] };
    one.note(asked.iter().map(|partition| (*partition, last.clone())).collect()).await.unwrap();
    for partition in &asked {
        one.release(*partition);
        seen_one.given.remove(partition);
    }
    let mut seen_two = Seen::default();
    seen_two.until(&*two, "two has its half", |seen| seen.given.len() == 2 && seen.messages.len() == 4).await;
    assert_eq!(seen_two.given, asked.iter().map(|partition| (*partition, last.clone())).collect());
    let not_its = one.note(vec![(*asked.first().unwrap(), Standing::at(5))]).await;
    assert_eq!(not_its.unwrap_err().kind, BusErrorKind::NotYours);

    one.leave().await;
    assert_eq!(one.next(1).await.unwrap_err().kind, BusErrorKind::Closed);
    seen_two.until(&*two, "two has everything", |seen| seen.given.len() == 4).await;
    for (partition, standing) in &seen_two.given {
        assert_eq!(*standing, if asked.contains(partition) { last.clone() } else { begun.clone() }, "partition {partition}");
    }
    two.leave().await;
    bus.books().move_group(&topic, "group", vec![(1, Standing::at(4))]).await.unwrap();
    let extents = bus.books().extents(&topic, Some("group")).await.unwrap();
    assert_eq!(extents[1].standing, Some(Standing::at(4)));
    assert!(extents.iter().all(|extent| (extent.first, extent.end) == (0, 5)));

    // The log is no topic for ordered messages: gRPC refuses it, and `provide` says so before.
    let log: Arc<str> = "share-standings".into();
    let refused = bus.provide(&TopicWish { name: log.clone(), partitions, keep: None }).await.unwrap_err();
    assert_eq!(refused.kind, BusErrorKind::Refused);
    let (told, kept) = oneshot::channel();
    bus.sink().send(numbered(&log, 0, 0), Box::new(move |result| told.send(result).unwrap())).unwrap();
    let refused = timeout(SOON, kept).await.unwrap().unwrap().unwrap_err();
    assert!(refused.kind == BusErrorKind::Refused && refused.message.contains("message.type=FIFO"), "{refused}");
}

async fn death(server: &RocketMq) {
    let bus = bus(server, SendBy::Grpc);
    let topic = topic(&bus, "death", 2).await;
    let one = bus.join(&membership(&topic, "group", "one")).unwrap();
    let mut seen = Seen::default();
    seen.until(&*one, "one has both", |seen| seen.given.len() == 2).await;
    let noted = Standing { next: 0, runs: vec![(Mark::Begun, 3)] };
    one.note(vec![(0, noted.clone()), (1, Standing::at(0))]).await.unwrap();
    drop(one);
    let two = bus.join(&membership(&topic, "group", "two")).unwrap();
    let mut seen = Seen::default();
    let died = Instant::now();
    seen.until(&*two, "two has both", |seen| seen.given.len() == 2).await;
    println!("  noticed after {:?}, a lock lives {} ms", died.elapsed(), Wish::default().lock_ms);
    assert_eq!(seen.given, BTreeMap::from([(0, noted), (1, Standing::at(0))]));
    two.leave().await;
}

async fn pause_and_seek(server: &RocketMq) {
    let bus = bus(server, SendBy::Grpc);
    let topic = topic(&bus, "pause", 2).await;
    let one = bus.join(&membership(&topic, "group", "one")).unwrap();
    let mut seen = Seen::default();
    seen.until(&*one, "one has both", |seen| seen.given.len() == 2).await;
    one.pause(0, true);
    for number in 0..4 {
        send(&bus.sink(), numbered(&topic, 0, number)).await;
        send(&bus.sink(), numbered(&topic, 1, number)).await;
    }
    seen.until(&*one, "the other one speaks", |seen| seen.messages.len() == 4).await;
    assert!(seen.messages.drain(..).all(|message| message.place.partition == 1));
    one.seek(0, 2);
    one.pause(0, false);
    seen.until(&*one, "it goes on", |seen| seen.messages.len() == 2).await;
    assert_eq!(seen.messages.drain(..).map(|message| number(&message)).collect::<Vec<_>>(), [2, 3]);
    one.seek(1, 0);
    seen.until(&*one, "it begins again", |seen| seen.messages.len() == 4).await;
    one.leave().await;
}

/// Sends, kills the broker, starts it again, goes on sending: what was told kept is there.
fn kill_under_sends(runtime: &tokio::runtime::Runtime, server: &mut RocketMq, by: SendBy) {
    let (partitions, total) = (4u32, 3000u64);
    let began = Instant::now();
    let (bus, topic, mut kept) = runtime.block_on(async {
        let bus = bus(server, by);
        let topic = topic(&bus, &format!("kill-{by:?}"), partitions).await;
        let (told, kept) = mpsc::unbounded_channel();
        for number in 0..total {
            let told = told.clone();
            let parcel = numbered(&topic, (number % u64::from(partitions)) as u32, number);
            bus.sink().send(parcel, Box::new(move |result| told.send((number, result)).unwrap())).unwrap();
        }
        (bus, topic, kept)
    });
    // Some are kept, most are under way or wait.
    for _ in 0..200 {
        let (_, result) = runtime.block_on(async { timeout(SOON, kept.recv()).await.unwrap().unwrap() });
        result.unwrap();
    }
    server.broker(0).kill();
    server.broker(0).start_again();
    runtime.block_on(async {
        bus.sink().flush(Duration::from_secs(60)).await;
        let mut told = vec![200usize, 0];
        while let Ok((_, result)) = kept.try_recv() {
            told[usize::from(result.is_err())] += 1;
        }
        assert_eq!(told, [total as usize, 0], "kept and given up");
        for partition in 0..partitions {
            let reader = bus.read(&topic, partition, ReadFrom::Start).unwrap();
            let sent: Vec<u64> = (0..total).filter(|number| number % u64::from(partitions) == u64::from(partition)).collect();
            let kept: Vec<u64> = read(&*reader, sent.len()).await.iter().map(number).collect();
            assert!(kept == sent, "partition {partition}: lost, twice or out of order: {kept:?}");
        }
        let extents = bus.books().extents(&topic, None).await.unwrap();
        assert_eq!(extents.iter().map(|extent| extent.end - extent.first).sum::<u64>(), total, "none is there twice");
        println!("kept in {:?}: {total} messages sent while the broker was killed ({by:?})", began.elapsed());
    });
}

/// A broker that is started again knows neither members nor locks: each goes on with what it had.
fn two_members_and_a_restart(runtime: &tokio::runtime::Runtime, server: &mut RocketMq) {
    let began = Instant::now();
    let (bus, topic, mut members) = runtime.block_on(async {
        let bus = bus(server, SendBy::Grpc);
        let topic = topic(&bus, "restart", 4).await;
        let mut members = Vec::new();
        for name in ["one", "two"] {
            members.push((bus.join(&membership(&topic, "group", name)).unwrap(), Seen::default()));
        }
        for (source, seen) in &mut members {
            seen.until(&**source, "each has its half", |seen| seen.given.len() - seen.asked.len() == 2).await;
            // Who came first may have had more for a moment.
            for partition in std::mem::take(&mut seen.asked) {
                source.release(partition);
                seen.given.remove(&partition);
            }
        }
        (bus, topic, members)
    });
    server.broker(0).kill();
    server.broker(0).start_again();
    runtime.block_on(async {
        for partition in 0..4 {
            send(&bus.sink(), numbered(&topic, partition, 1)).await;
        }
        for (source, seen) in &mut members {
            seen.until(&**source, "each goes on", |seen| seen.messages.len() >= 2).await;
            source.note(seen.given.keys().map(|partition| (*partition, Standing::at(1))).collect()).await.unwrap();
            source.leave().await;
        }
        println!("kept in {:?}: two members go on with what they had when the broker is started again", began.elapsed());
    });
}

/// A member that stands still while another takes its place has nothing to note when it goes on.
fn stalled_member(runtime: &tokio::runtime::Runtime, server: &mut RocketMq) {
    // Its tasks go on only while somebody blocks on this.
    let stalls = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (bus_one, one, topic) = stalls.block_on(async {
        let bus = bus(server, SendBy::Grpc);
        let topic = topic(&bus, "stalled", 2).await;
        let one = bus.join(&membership(&topic, "group", "one")).unwrap();
        Seen::default().until(&*one, "one has both", |seen| seen.given.len() == 2).await;
        one.note(vec![(0, Standing::at(1)), (1, Standing::at(1))]).await.unwrap();
        (bus, one, topic)
    });
    // The broker forgets who was there and who had locks.
    server.broker(0).kill();
    server.broker(0).start_again();
    let two = runtime.block_on(async {
        let bus = bus(server, SendBy::Grpc);
        let two = bus.join(&membership(&topic, "group", "two")).unwrap();
        let mut seen = Seen::default();
        seen.until(&*two, "two has both", |seen| seen.given.len() == 2).await;
        assert!(seen.given.values().all(|standing| *standing == Standing::at(1)), "{:?}", seen.given);
        two.note(vec![(0, Standing::at(2))]).await.unwrap();
        (bus, two)
    });
    stalls.block_on(async {
        let noted = one.note(vec![(0, Standing::at(9))]).await;
        assert_eq!(noted.unwrap_err().kind, BusErrorKind::NotYours);
        one.leave().await;
        drop(bus_one);
    });
    runtime.block_on(async {
        assert_eq!(two.0.books().extents(&topic, Some("group")).await.unwrap()[0].standing, Some(Standing::at(2)));
        two.1.leave().await;
        drop(two);
    });
    println!("kept: a member that stood still notes nothing any more");
}
