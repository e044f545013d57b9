//! Kafka keeps the promises of a bus: the real broker, started once.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "clippy.toml frees tests, but takes only functions marked as tests for tests"
)]

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::timeout;
use wharf_contract::bus::{SOON, Seen, keeps_its_promises, membership, number, numbered, read, send, topic};
use wharf_core::bus::{Bus, BusErrorKind, Parcel, ReadFrom, Standing, TopicWish};
use wharf_harness::servers::kafka::Kafka as Broker;
use wharf_harness::{Signal, until};
use wharf_kafka::{Kafka, KafkaConfig};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn bus(broker: &Broker) -> Kafka {
    Kafka::open(KafkaConfig::new(vec![broker.address().into()])).unwrap()
}

#[test]
fn kafka_keeps_the_promises_of_a_bus() {
    let mut broker = Broker::start();
    let runtime = runtime();
    runtime.block_on(async {
        let bus = bus(&broker);
        keeps_its_promises(&bus).await;
        a_group_that_another_tool_has_moved_goes_on_there(&bus, &broker).await;
    });
    a_broker_killed_under_sends_loses_nothing_that_was_told_kept(&runtime, &mut broker);
    whoever_stood_still_notes_nothing_any_more(&runtime, &broker);
    brokers_that_come_later_are_waited_for(&runtime, &mut broker);
}

/// As `kafka-consumer-groups` and its like do.
async fn a_group_that_another_tool_has_moved_goes_on_there(bus: &dyn Bus, broker: &Broker) {
    let topic = topic(bus, "moved", 1).await;
    for sent in 0..6 {
        send(&bus.sink(), numbered(&topic, 0, sent)).await;
    }
    let membership = membership(&topic, "group", "one");
    let stands = async |noted: u64, expected: u64| {
        let member = bus.join(&membership).unwrap();
        let mut seen = Seen::default();
        seen.until(&*member, "messages", |seen| !seen.messages.is_empty()).await;
        assert_eq!((seen.given[&0].next, number(&seen.messages[0])), (expected, expected));
        member.note(vec![(0, Standing::at(noted))]).await.unwrap();
        member.leave().await;
    };
    stands(5, 0).await;
    let settings = [("bootstrap.servers", broker.address()), ("group.id", membership.group.to_string())];
    let settings = settings.into_iter().map(|(name, value)| (name.to_owned(), value));
    let tool: BaseConsumer = settings.into_iter().collect::<ClientConfig>().create().unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition(&topic, 0);
    let shown = tool.committed_offsets(list.clone(), SOON).unwrap();
    assert_eq!(shown.elements()[0].offset(), Offset::Offset(5), "whoever looks on sees how far the group is");
    list.elements()[0].set_offset(Offset::Offset(2)).unwrap();
    tool.commit(&list, CommitMode::Sync).unwrap();
    // Once, and not again for whoever follows.
    stands(4, 2).await;
    stands(5, 4).await;
    assert_eq!(bus.books().extents(&topic, Some(&membership.group)).await.unwrap()[0].standing, Some(Standing::at(5)));
    bus.books().move_group(&topic, &membership.group, vec![(0, Standing::at(1))]).await.unwrap();
    stands(5, 1).await;
}

fn a_broker_killed_under_sends_loses_nothing_that_was_told_kept(runtime: &tokio::runtime::Runtime, broker: &mut Broker) {
    let (total, partitions) = (4_000u64, 4u32);
    let mut config = KafkaConfig::new(vec![broker.address().into()]);
    config.send_within = Duration::from_secs(60);
    let bus = Kafka::open(config).unwrap();
    let topic = runtime.block_on(topic(&bus, "killed", partitions));
    let told = Arc::new(Mutex::new(BTreeMap::new()));
    let sink = bus.sink();
    for number in 0..total {
        let tell = told.clone();
        let parcel = numbered(&topic, (number % u64::from(partitions)) as u32, number);
        sink.send(parcel, Box::new(move |said| drop(tell.lock().unwrap().insert(number, said)))).unwrap();
        if number == total / 2 {
            until("some are kept", SOON, || (told.lock().unwrap().len() > 100).then_some(()));
            broker.server().kill();
        }
    }
    let began = std::time::Instant::now();
    broker.server().start_again();
    println!("the broker accepts connections again after {:?}", began.elapsed());
    let before = told.lock().unwrap().len();
    until("one more is kept", SOON, || (told.lock().unwrap().len() > before).then_some(()));
    println!("the next message is kept after {:?}", began.elapsed());
    until("all are told of", SOON, || (told.lock().unwrap().len() as u64 == total).then_some(()));
    let told = told.lock().unwrap();
    let kept = told.values().filter(|said| said.is_ok()).count();
    println!("{kept} of {total} were kept, the broker killed between them");
    let refused = told.values().find_map(|said| said.as_ref().err());
    assert_eq!((kept as u64, refused), (total, None), "a broker that is back in time is waited for");
    runtime.block_on(async {
        for partition in 0..partitions {
            let wanted: Vec<u64> = told
                .iter()
                .filter(|(number, said)| *number % u64::from(partitions) == u64::from(partition) && said.is_ok())
                .map(|(number, _)| *number)
                .collect();
            let reader = bus.read(&topic, partition, ReadFrom::Start).unwrap();
            let mut found: Vec<u64> = Vec::new();
            while wanted.last().is_some_and(|last| !found.contains(last)) {
                found.extend(read(&*reader, 1).await.iter().map(number));
            }
            let in_order: Vec<u64> = found.iter().copied().filter(|number| wanted.contains(number)).collect();
            assert_eq!(in_order, wanted, "partition {partition}");
        }
    });
}

/// A member whose session has run out, because it was not heard of: its process stands still.
fn whoever_stood_still_notes_nothing_any_more(runtime: &tokio::runtime::Runtime, broker: &Broker) {
    let bus = bus(broker);
    // Its tasks go on only while somebody blocks on this; librdkafka's own threads go on beating for it, so the broker is asked
    // to give its place away: by a second member that joins while the first does not answer.
    let (one, topic) = runtime.block_on(async {
        let topic = topic(&bus, "stalled", 2).await;
        let mut membership = membership(&topic, "group", "one");
        membership.release_within = Duration::from_secs(3);
        let one = bus.join(&membership).unwrap();
        let mut seen = Seen::default();
        seen.until(&*one, "one has both", |seen| seen.given.len() == 2).await;
        one.note(vec![(0, Standing::at(0)), (1, Standing::at(0))]).await.unwrap();
        (one, topic)
    });
    runtime.block_on(async {
        let two = bus.join(&membership(&topic, "group", "two")).unwrap();
        let mut seen = Seen::default();
        // One is asked, does not release, and goes on asking, as members must; it is waited for no longer than it was said.
        let mut seen_one = Seen { given: BTreeMap::from([(0, Standing::at(0)), (1, Standing::at(0))]), ..Seen::default() };
        tokio::select! {
            () = seen.until(&*two, "two has one of them", |seen| seen.given.len() == 1) => {}
            () = seen_one.until(&*one, "one goes on asking", |_| false) => {}
        }
        let lost = *seen_one.lost.first().unwrap();
        assert_eq!(one.note(vec![(lost, Standing::at(1))]).await.unwrap_err().kind, BusErrorKind::NotYours);
        two.leave().await;
        one.leave().await;
    });
}

fn brokers_that_come_later_are_waited_for(runtime: &tokio::runtime::Runtime, broker: &mut Broker) {
    let bus = bus(broker);
    let topic = runtime.block_on(topic(&bus, "later", 1));
    broker.server().kill();
    let mut config = KafkaConfig::new(vec![broker.address().into()]);
    config.send_within = Duration::from_secs(60);
    let (late, given_up) =
        (Kafka::open(config.clone()).unwrap(), Kafka::open(KafkaConfig { send_within: Duration::from_millis(500), ..config }).unwrap());
    let (one, reader) = {
        let _within = runtime.enter();
        (late.join(&membership(&topic, "group", "one")).unwrap(), late.read(&topic, 0, ReadFrom::Start).unwrap())
    };
    runtime.block_on(async {
        let (told, kept) = tokio::sync::oneshot::channel();
        given_up.sink().send(numbered(&topic, 0, 1), Box::new(move |said| drop(told.send(said)))).unwrap();
        assert_eq!(timeout(SOON, kept).await.unwrap().unwrap().unwrap_err().kind, BusErrorKind::Unreachable);
        let wish = TopicWish { name: topic.clone(), partitions: 1, keep: None };
        assert_eq!(timeout(SOON, given_up.provide(&wish)).await.unwrap().unwrap_err().kind, BusErrorKind::Unreachable);
    });
    let sink = late.sink();
    let sending = runtime.spawn({
        let topic = topic.clone();
        async move { send(&sink, Parcel::new(topic, 0, 7u64.to_be_bytes().to_vec().into())).await }
    });
    broker.server().start_again();
    runtime.block_on(async {
        sending.await.unwrap();
        assert_eq!(number(&read(&*reader, 1).await[0]), 7);
        let mut seen = Seen::default();
        seen.until(&*one, "the member reads on", |seen| seen.messages.len() == 1).await;
        one.note(vec![(0, Standing::at(1))]).await.unwrap();
        one.leave().await;
    });
    broker.server().signal(Signal::TERM);
}
