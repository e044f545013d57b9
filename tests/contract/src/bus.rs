//! The promises of a [`Bus`]. Each is a function of its own that makes topics of its own, so that they run in any order, and
//! beside each other.

use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use wharf_core::bus::{
    Bus, BusError, BusErrorKind, Event, Mark, Membership, Message, Parcel, Place, ReadFrom, Reader, Sink, Source, Standing, TopicWish,
};
use wharf_harness::until;

/// Longest wait for anything.
pub const SOON: Duration = Duration::from_secs(60);

/// All promises, one after the other.
pub async fn keeps_its_promises(bus: &dyn Bus) {
    promise("messages come back as they were sent", messages_come_back_as_they_were_sent(bus)).await;
    promise("every partition keeps the order of sending", every_partition_keeps_the_order_of_sending(bus)).await;
    promise("readers begin where they are told", readers_begin_where_they_are_told(bus)).await;
    promise("what cannot be taken is said so", what_cannot_be_taken_is_said_so(bus)).await;
    promise("members share, and hand over what they noted", members_share_and_hand_over_what_they_noted(bus)).await;
    promise("whoever leaves is followed with what was noted last", whoever_leaves_is_followed_with_what_was_noted_last(bus)).await;
    promise("a note without another offset is kept, too", a_note_without_another_offset_is_kept(bus)).await;
    promise("a paused partition is silent, a sought one goes on there", a_paused_partition_is_silent(bus)).await;
    promise("asking for what comes next loses nothing when it is given up", giving_up_to_ask_loses_nothing(bus)).await;
}

async fn promise(name: &str, kept: impl Future<Output = ()>) {
    let began = Instant::now();
    timeout(Duration::from_secs(180), kept).await.unwrap_or_else(|_| panic!("{name}: not within three minutes"));
    println!("kept in {:?}: {name}", began.elapsed());
}

/// A topic of this name with a part that nobody else has.
pub async fn topic(bus: &dyn Bus, name: &str, partitions: u32) -> Arc<str> {
    let name: Arc<str> = format!("{name}-{}-{}", std::process::id(), now_us()).into();
    assert_eq!(bus.provide(&TopicWish { name: name.clone(), partitions, keep: None }).await, Ok(partitions));
    name
}

/// Sends and waits until it is kept.
pub async fn send(sink: &Arc<dyn Sink>, parcel: Parcel) -> Place {
    let (told, kept) = oneshot::channel();
    sink.send(parcel, Box::new(move |result| drop(told.send(result)))).unwrap();
    timeout(SOON, kept).await.unwrap().unwrap().unwrap()
}

/// A parcel with a number.
pub fn numbered(topic: &Arc<str>, partition: u32, number: u64) -> Parcel {
    Parcel::new(topic.clone(), partition, Bytes::copy_from_slice(&number.to_be_bytes()))
}

/// Its number.
pub fn number(message: &Message) -> u64 {
    u64::from_be_bytes(message.value[..].try_into().unwrap())
}

/// The next so many messages.
pub async fn read(reader: &dyn Reader, count: usize) -> Vec<Message> {
    let mut read = Vec::new();
    while read.len() < count {
        read.extend(timeout(SOON, reader.next(count - read.len())).await.unwrap().unwrap());
    }
    read
}

/// A member of a group with short times.
pub fn membership(topic: &Arc<str>, group: &str, member: &str) -> Membership {
    let (dead_after, release_within) = (Duration::from_secs(6), Duration::from_secs(20));
    // Groups are of a bus, not of a topic.
    let group = format!("{group}-{topic}").into();
    Membership { topic: topic.clone(), group, member: member.into(), dead_after, release_within }
}

fn now_us() -> u128 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_micros()
}

fn now_ms() -> u64 {
    (now_us() / 1000) as u64
}

/// What a member has seen, and that it was told in the order that was promised.
#[derive(Default)]
pub struct Seen {
    /// Its partitions, with what it was given with them.
    pub given: BTreeMap<u32, Standing>,
    /// Those that others want.
    pub asked: BTreeSet<u32>,
    /// Those that it has lost.
    pub lost: BTreeSet<u32>,
    /// What it was handed.
    pub messages: Vec<Message>,
}

impl Seen {
    /// Asks until it is so.
    pub async fn until(&mut self, source: &dyn Source, what: &str, is_so: impl Fn(&Seen) -> bool) {
        let end = Instant::now() + SOON;
        while !is_so(self) {
            let left = end.saturating_duration_since(Instant::now());
            let events = timeout(left, source.next(64))
                .await
                .unwrap_or_else(|_| panic!("{what}: not soon; {:?}, {} messages", self.given, self.messages.len()))
                .unwrap();
            self.take(events);
        }
    }

    fn take(&mut self, events: Vec<Event>) {
        for event in events {
            match event {
                Event::Given { partition, standing } => {
                    assert!(self.given.insert(partition, standing).is_none(), "partition {partition} was given twice");
                    self.asked.remove(&partition);
                    self.lost.remove(&partition);
                }
                Event::Asked { partition } => assert!(self.given.contains_key(&partition) && self.asked.insert(partition)),
                Event::Lost { partition } => assert!(self.given.remove(&partition).is_some() && self.lost.insert(partition)),
                Event::Message(message) => {
                    let partition = message.place.partition;
                    let is_its = self.given.contains_key(&partition) && !self.asked.contains(&partition);
                    assert!(is_its, "a message of partition {partition} that is not the member's");
                    self.messages.push(message);
                }
            }
        }
    }
}

/// Keys, values and fields of any bytes; places as they were told.
pub async fn messages_come_back_as_they_were_sent(bus: &dyn Bus) {
    let topic = topic(bus, "back", 1).await;
    let every: Vec<u8> = (0..=255).collect();
    let large = bus.sink().parcel_bytes_max() / 2;
    let mut sent = Vec::new();
    for (key, value, fields) in [
        (None, Bytes::from_static(b"plain"), vec![]),
        (Some(Bytes::from_static(b"a key % of \xff bytes")), Bytes::from(every.clone()), vec![]),
        (
            None,
            Bytes::new(),
            vec![("empty".into(), Bytes::new()), ("bytes".into(), Bytes::from(every)), ("empty".into(), Bytes::from_static(b"2"))],
        ),
        (None, Bytes::from(vec![7; large]), vec![]),
    ] {
        let parcel = Parcel { topic: topic.clone(), partition: 0, key, value, fields };
        let place = send(&bus.sink(), parcel.clone()).await;
        sent.push((place, parcel));
    }
    let read = read(&*bus.read(&topic, 0, ReadFrom::Start).unwrap(), sent.len()).await;
    for (message, (place, parcel)) in read.into_iter().zip(sent) {
        assert_eq!((message.place, message.begun), (place, false));
        assert_eq!((message.key, message.value, message.fields), (parcel.key, parcel.value, parcel.fields));
        assert!(message.time_ms > 1_700_000_000_000 && message.time_ms <= now_ms() + 1000);
    }
}

/// As they were taken by the sink, each once.
pub async fn every_partition_keeps_the_order_of_sending(bus: &dyn Bus) {
    let (partitions, each) = (5, 200);
    let topic = topic(bus, "order", partitions).await;
    let sink = bus.sink();
    let (told, mut kept) = mpsc::unbounded_channel();
    for number in 0..each {
        for partition in 0..partitions {
            let told = told.clone();
            sink.send(numbered(&topic, partition, number), Box::new(move |result| told.send(result).unwrap())).unwrap();
        }
    }
    sink.flush(SOON).await;
    let mut places = BTreeSet::new();
    for _ in 0..each * u64::from(partitions) {
        places.insert(timeout(SOON, kept.recv()).await.unwrap().unwrap().unwrap());
    }
    for partition in 0..partitions {
        let messages = read(&*bus.read(&topic, partition, ReadFrom::Start).unwrap(), each as usize).await;
        assert_eq!(messages.iter().map(number).collect::<Vec<_>>(), (0..each).collect::<Vec<_>>(), "partition {partition}");
        assert!(messages.iter().all(|message| places.remove(&message.place)));
    }
    assert!(places.is_empty());
}

/// From the start, from an offset, from a time; elsewhere when told.
pub async fn readers_begin_where_they_are_told(bus: &dyn Bus) {
    let topic = topic(bus, "readers", 2).await;
    let sink = bus.sink();
    let mut places = Vec::new();
    for number in 0..3 {
        places.push(send(&sink, numbered(&topic, 1, number)).await.offset);
    }
    let between = read(&*bus.read(&topic, 1, ReadFrom::Start).unwrap(), 3).await[2].time_ms + 1;
    tokio::task::spawn_blocking(move || until("the clock goes on", SOON, || (now_ms() > between).then_some(()))).await.unwrap();
    let ahead = bus.read(&topic, 1, ReadFrom::Offset(places[2] + 3)).unwrap();
    for number in 3..7 {
        places.push(send(&sink, numbered(&topic, 1, number)).await.offset);
    }
    let check = async |reader: &dyn Reader, expected: &[u64]| {
        assert_eq!(read(reader, expected.len()).await.iter().map(number).collect::<Vec<_>>(), expected);
    };
    check(&*ahead, &[5, 6]).await;
    check(&*bus.read(&topic, 1, ReadFrom::Time(between)).unwrap(), &[3, 4, 5, 6]).await;
    check(&*bus.read(&topic, 1, ReadFrom::Time(0)).unwrap(), &[0, 1, 2, 3, 4, 5, 6]).await;
    ahead.seek(ReadFrom::Offset(places[2]));
    check(&*ahead, &[2, 3]).await;
    // Whoever waits at the end is woken.
    let waiting = bus.read(&topic, 0, ReadFrom::Start).unwrap();
    let (read_there, sent) = tokio::join!(read(&*waiting, 1), send(&sink, numbered(&topic, 0, 9)));
    assert_eq!((read_there[0].place, number(&read_there[0])), (sent, 9));
    let books = bus.books();
    assert_eq!(books.offsets_at(&topic, between).await.map(|found| found[1]), Ok(places[3]));
    assert_eq!(books.offsets_at(&topic, now_ms() + 1_000_000).await.map(|found| found[1]), Ok(places[6] + 1));
    let extents = books.extents(&topic, None).await.unwrap();
    assert_eq!((extents.len(), extents[1].first, extents[1].end), (2, places[0], places[6] + 1));
}

/// Each no has its kind.
pub async fn what_cannot_be_taken_is_said_so(bus: &dyn Bus) {
    let topic = topic(bus, "refusals", 2).await;
    let kind = |result: Result<u32, BusError>| result.map_err(|error| error.kind);
    assert_eq!(kind(bus.provide(&TopicWish { name: topic.clone(), partitions: 3, keep: None }).await), Err(BusErrorKind::NoTopic));
    assert_eq!(kind(bus.provide(&TopicWish { name: topic.clone(), partitions: 1, keep: None }).await), Ok(2));
    let sink = bus.sink();
    let large = Parcel::new(topic.clone(), 0, Bytes::from(vec![0; sink.parcel_bytes_max() + 1]));
    assert_eq!(sink.send(large, Box::new(|_| panic!("told"))).unwrap_err().kind, BusErrorKind::TooLarge);
    // Taken or not, it is said.
    let (told, kept) = oneshot::channel();
    let refused = match sink.send(numbered(&topic, 2, 0), Box::new(move |result| drop(told.send(result)))) {
        Ok(()) => timeout(SOON, kept).await.unwrap().unwrap().unwrap_err(),
        Err(refused) => refused,
    };
    assert_eq!(refused.kind, BusErrorKind::NoTopic, "{refused}");
    assert_eq!(bus.books().extents("not-there", None).await.unwrap_err().kind, BusErrorKind::NoTopic);
}

/// Another member joins: what moves is asked back, and comes with what was noted; the rest stays where it is.
pub async fn members_share_and_hand_over_what_they_noted(bus: &dyn Bus) {
    let partitions = 4;
    let topic = topic(bus, "share", partitions).await;
    for partition in 0..partitions {
        for number in 0..5 {
            send(&bus.sink(), numbered(&topic, partition, number)).await;
        }
    }
    let one = bus.join(&membership(&topic, "group", "one")).unwrap();
    let mut seen_one = Seen::default();
    seen_one.until(&*one, "one has everything", |seen| seen.given.len() == 4 && seen.messages.len() == 20).await;
    assert!(seen_one.given.values().all(|standing| *standing == Standing::at(0)), "{:?}", seen_one.given);
    let begun = Standing { next: 2, runs: vec![(Mark::Begun, 1), (Mark::Done, 2)] };
    one.note((0..partitions).map(|partition| (partition, begun.clone())).collect()).await.unwrap();
    let group = membership(&topic, "group", "").group;
    assert_eq!(bus.books().move_group(&topic, &group, vec![(0, Standing::at(0))]).await.unwrap_err().kind, BusErrorKind::NotYours);

    let two = bus.join(&membership(&topic, "group", "two")).unwrap();
    let mut seen_two = Seen::default();
    // Both ask: a group goes on only with all of its members.
    let asking = async {
        seen_one.until(&*one, "one is asked for a half", |seen| seen.asked.len() == 2).await;
        let asked = seen_one.asked.clone();
        let last = Standing { next: 3, runs: vec![(Mark::Done, 2)] };
        one.note(asked.iter().map(|partition| (*partition, last.clone())).collect()).await.unwrap();
        for partition in &asked {
            one.release(*partition);
            seen_one.given.remove(partition);
        }
        let not_its = one.note(vec![(*asked.first().unwrap(), Standing::at(5))]).await;
        assert_eq!(not_its.unwrap_err().kind, BusErrorKind::NotYours);
        (asked, last)
    };
    let (done, ready) = oneshot::channel::<()>();
    let ((asked, last), ()) = tokio::join!(
        async {
            let asked = asking.await;
            // One goes on asking until two has what it was given.
            let _ = timeout(SOON, async {
                tokio::select! { _ = ready => {}, () = async { loop { let _ = one.next(64).await; } } => {} }
            })
            .await;
            asked
        },
        async {
            seen_two.until(&*two, "two has its half", |seen| seen.given.len() == 2 && seen.messages.len() == 4).await;
            drop(done);
        }
    );
    assert_eq!(seen_two.given, asked.iter().map(|partition| (*partition, last.clone())).collect());

    one.leave().await;
    assert_eq!(one.next(1).await.unwrap_err().kind, BusErrorKind::Closed);
    seen_two.until(&*two, "two has everything", |seen| seen.given.len() == 4).await;
    for (partition, standing) in &seen_two.given {
        assert_eq!(*standing, if asked.contains(partition) { last.clone() } else { begun.clone() }, "partition {partition}");
    }
    two.leave().await;
    bus.books().move_group(&topic, &group, vec![(1, Standing::at(4))]).await.unwrap();
    let extents = bus.books().extents(&topic, Some(&group)).await.unwrap();
    assert_eq!(extents[1].standing, Some(Standing::at(4)));
}

/// A member that is dropped is as one that has left.
pub async fn whoever_leaves_is_followed_with_what_was_noted_last(bus: &dyn Bus) {
    let topic = topic(bus, "leave", 2).await;
    let one = bus.join(&membership(&topic, "group", "one")).unwrap();
    let mut seen = Seen::default();
    seen.until(&*one, "one has both", |seen| seen.given.len() == 2).await;
    let noted = Standing { next: 0, runs: vec![(Mark::Begun, 3)] };
    one.note(vec![(0, noted.clone()), (1, Standing::at(0))]).await.unwrap();
    drop(one);
    let two = bus.join(&membership(&topic, "group", "two")).unwrap();
    let mut seen = Seen::default();
    seen.until(&*two, "two has both", |seen| seen.given.len() == 2).await;
    assert_eq!(seen.given, BTreeMap::from([(0, noted), (1, Standing::at(0))]));
    two.leave().await;
}

/// The marks change while the offset stays: this is how a message is begun.
pub async fn a_note_without_another_offset_is_kept(bus: &dyn Bus) {
    let topic = topic(bus, "marks", 1).await;
    for number in 0..4 {
        send(&bus.sink(), numbered(&topic, 0, number)).await;
    }
    let one = bus.join(&membership(&topic, "group", "one")).unwrap();
    let mut seen = Seen::default();
    seen.until(&*one, "one has it", |seen| seen.messages.len() == 4).await;
    for runs in [vec![(Mark::Begun, 1)], vec![(Mark::Begun, 2)], vec![(Mark::Begun, 1), (Mark::Done, 1)], vec![(Mark::Begun, 4)]] {
        let standing = Standing { next: 0, runs };
        one.note(vec![(0, standing.clone())]).await.unwrap();
        let group = membership(&topic, "group", "").group;
        assert_eq!(bus.books().extents(&topic, Some(&group)).await.unwrap()[0].standing, Some(standing));
    }
    // As many as there may be.
    let runs = (0..900).map(|at| (if at % 2 == 0 { Mark::Begun } else { Mark::Done }, 3)).collect();
    let standing = Standing { next: 0, runs };
    one.note(vec![(0, standing.clone())]).await.unwrap();
    one.leave().await;
    let two = bus.join(&membership(&topic, "group", "two")).unwrap();
    let mut seen = Seen::default();
    seen.until(&*two, "two has it", |seen| seen.messages.len() == 4).await;
    assert_eq!(seen.given[&0], standing);
    two.leave().await;
}

/// And neither loses anything.
pub async fn a_paused_partition_is_silent(bus: &dyn Bus) {
    let topic = topic(bus, "pause", 2).await;
    let one = bus.join(&membership(&topic, "group", "one")).unwrap();
    let mut seen = Seen::default();
    seen.until(&*one, "one has both", |seen| seen.given.len() == 2).await;
    one.pause(0, true);
    for number in 0..4 {
        send(&bus.sink(), numbered(&topic, 0, number)).await;
        send(&bus.sink(), numbered(&topic, 1, number)).await;
    }
    seen.until(&*one, "the other one speaks", |seen| seen.messages.iter().filter(|message| message.place.partition == 1).count() == 4)
        .await;
    assert!(seen.messages.drain(..).all(|message| message.place.partition == 1));
    one.pause(0, false);
    seen.until(&*one, "it goes on", |seen| seen.messages.len() == 4).await;
    assert_eq!(seen.messages.drain(..).map(|message| number(&message)).collect::<Vec<_>>(), [0, 1, 2, 3]);
    one.seek(1, 2);
    seen.until(&*one, "it begins again", |seen| seen.messages.len() == 2).await;
    assert_eq!(seen.messages.drain(..).map(|message| number(&message)).collect::<Vec<_>>(), [2, 3]);
    one.leave().await;
}

/// Cancel safety of both who are asked.
pub async fn giving_up_to_ask_loses_nothing(bus: &dyn Bus) {
    let topic = topic(bus, "cancel", 1).await;
    let (sink, reader) = (bus.sink(), bus.read(&topic, 0, ReadFrom::Start).unwrap());
    let one = bus.join(&membership(&topic, "group", "one")).unwrap();
    let (mut seen, mut by_reader) = (Seen::default(), Vec::new());
    let end = Instant::now() + SOON;
    let mut sent = 0;
    while seen.messages.len() < 100 || by_reader.len() < 100 {
        assert!(Instant::now() < end, "{} and {} of {sent}", seen.messages.len(), by_reader.len());
        if sent < 100 {
            sink.send(numbered(&topic, 0, sent), Box::new(|_| {})).unwrap();
            sent += 1;
        }
        // Given up again and again, at every moment.
        let patience = Duration::from_micros(sent % 7 * 300);
        if let Ok(events) = timeout(patience, one.next(3)).await {
            seen.take(events.unwrap());
        }
        if let Ok(messages) = timeout(patience, reader.next(3)).await {
            by_reader.extend(messages.unwrap());
        }
    }
    let expected: Vec<u64> = (0..100).collect();
    assert_eq!(seen.messages.iter().map(number).collect::<Vec<_>>(), expected);
    assert_eq!(by_reader.iter().map(number).collect::<Vec<_>>(), expected);
    one.leave().await;
}
