#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout, reason = "a test")]
//! scratch
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use wharf_core::bus::*;
use wharf_harness::servers::rocketmq::RocketMq;
use wharf_rocketmq::*;

async fn send(sink: &Arc<dyn Sink>, parcel: Parcel) -> Result<Place, BusError> {
    let (tx, rx) = tokio::sync::oneshot::channel();
    sink.send(parcel, Box::new(move |r| { let _ = tx.send(r); })).unwrap();
    rx.await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn learn() {
    let t = std::time::Instant::now();
    let mut server = tokio::task::spawn_blocking(|| RocketMq::start(3000)).await.unwrap();
    println!("started {:?}", t.elapsed());
    for by in [SendBy::Grpc, SendBy::Remoting] {
        let mut config = RocketMqConfig::new(&server.grpc(), &[&server.names()]);
        config.send_by = by;
        let bus = RocketMqBus::new(config).unwrap();
        let name: Arc<str> = format!("t-{by:?}").into();
        let t = std::time::Instant::now();
        println!("provide {:?} {:?}", bus.provide(&TopicWish { name: name.clone(), partitions: 4, keep: None }).await, t.elapsed());
        let end = bus.read(&name, 2, ReadFrom::End).unwrap();
        let sink = bus.sink();
        for p in [0u32, 1, 2, 3, 2, 2] {
            let t = std::time::Instant::now();
            let mut parcel = Parcel::new(name.clone(), p, Bytes::from(format!("v{p}")));
            parcel.key = Some(Bytes::from_static(b"k \xff\0"));
            parcel.fields = vec![("a".into(), Bytes::from_static(b"\0x y=&%")), ("b".into(), Bytes::new())];
            println!("sent {p} {:?} {:?}", send(&sink, parcel).await, t.elapsed());
        }
        println!("end reader {:?}", tokio::time::timeout(Duration::from_secs(5), end.next(10)).await);
        let books = bus.books();
        println!("extents {:?}", books.extents(&name, Some("g1")).await);
        println!("offsets_at 0 {:?} far {:?}", books.offsets_at(&name, 0).await, books.offsets_at(&name, 4_000_000_000_000).await);
        let t = std::time::Instant::now();
        let n = 2000;
        let (tx, mut rx) = tokio::sync::mpsc::unbounded_channel();
        for i in 0..n {
            let tx = tx.clone();
            sink.send(Parcel::new(name.clone(), i % 4, Bytes::from(vec![0; 100])), Box::new(move |r| { tx.send(r).unwrap(); })).unwrap();
        }
        for _ in 0..n { rx.recv().await.unwrap().unwrap(); }
        println!("{n} sends {:?}", t.elapsed());
        let t = std::time::Instant::now();
        let m = Membership { topic: name.clone(), group: "g1".into(), member: "m1".into(), dead_after: Duration::from_secs(6), release_within: Duration::from_secs(5) };
        let source = bus.join(&m).unwrap();
        let mut seen = 0;
        while seen < n as usize + 6 {
            for event in tokio::time::timeout(Duration::from_secs(20), source.next(100)).await.unwrap().unwrap() {
                match event { Event::Message(_) => seen += 1, other => println!("{:?} {other:?}", t.elapsed()) }
            }
        }
        println!("read {seen} {:?}", t.elapsed());
        for i in 0..5u64 {
            let t = std::time::Instant::now();
            println!("note {:?} {:?}", source.note(vec![(0, Standing { next: 3 + i, runs: vec![(Mark::Begun, 1)] }), (1, Standing::at(7))]).await, t.elapsed());
        }
        println!("{:?}", books.extents(&name, Some("g1")).await);
        source.leave().await;
        println!("left {:?}", t.elapsed());
        let source = bus.join(&m).unwrap();
        println!("{:?} {:?}", source.next(0).await.unwrap().iter().filter(|e| !matches!(e, Event::Message(_))).collect::<Vec<_>>(), t.elapsed());
        drop(source);
        println!("move {:?}", books.move_group(&name, "g2", vec![(1, Standing::at(5))]).await);
        println!("{:?}", books.extents(&name, Some("g2")).await);
    }
    println!("{}", server.broker().log().len());
}
