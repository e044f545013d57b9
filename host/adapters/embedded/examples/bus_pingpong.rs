//! What a message over the embedded bus costs: sent, told of, and handed to the one member of a group, which then sends
//! the next. For 1, 16 and 256 in flight (or as wished), with and without the sync: CPU of the whole process for each, and the rate.
//!
//!     cargo run --release -p wharf-embedded --example bus_pingpong [messages [in flight ...]]
//!
//! `TMPDIR` says on which disk.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measuring program says what it saw and stops where it cannot go on")]

use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use wharf_core::bus::{Bus, Event, Membership, Parcel, Standing, TopicWish};
use wharf_core::metrics::Registry;
use wharf_embedded::bus::{BusConfig, EmbeddedBus};

fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let messages: u64 = arguments.next().map_or(200_000, |said| said.parse().unwrap());
    let wished: Vec<u64> = arguments.map(|said| said.parse().unwrap()).collect();
    let in_flights = if wished.is_empty() { vec![1, 16, 256] } else { wished };
    let folder = tempfile::tempdir().unwrap();
    println!("sync | in flight | us of CPU for each | messages/s | messages in a group | us for a group");
    for synced in [true, false] {
        for &in_flight in &in_flights {
            let count = if in_flight == 1 { messages / 10 } else { messages };
            let registry = Registry::default();
            let config = BusConfig { synced, ..BusConfig::new(folder.path().join(format!("{synced}-{in_flight}"))) };
            let bus = EmbeddedBus::open(config, &registry).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(run(&bus, in_flight, count / 10));
            let (before, groups, started) = (cpu(), groups(&registry), Instant::now());
            runtime.block_on(run(&bus, in_flight, count));
            let (spent, took) = (cpu() - before, started.elapsed());
            let now = self::groups(&registry);
            let (written, time) = (now.0 - groups.0, now.1 - groups.1);
            println!(
                "{synced:5} | {in_flight:3} | {:6.1} | {:7.0} | {:6.1} | {:6.0}",
                spent.as_secs_f64() * 1e6 / count as f64,
                count as f64 / took.as_secs_f64(),
                count as f64 / written,
                time * 1e6 / written,
            );
        }
    }
}

/// Groups so far, and the seconds that they took.
fn groups(registry: &Registry) -> (f64, f64) {
    let said = registry.render();
    let figure = |name: &str| -> f64 { said.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()).unwrap_or_default() };
    (figure("wharf_embedded_bus_group_seconds_count"), figure("wharf_embedded_bus_group_seconds_sum"))
}

async fn run(bus: &EmbeddedBus, in_flight: u64, count: u64) {
    let topic: Arc<str> = "lane".into();
    bus.provide(&TopicWish { name: topic.clone(), partitions: 1, keep: None }).await.unwrap();
    let source = bus
        .join(&Membership {
            topic: topic.clone(),
            group: "far".into(),
            member: "one".into(),
            dead_after: Duration::from_secs(60),
            release_within: Duration::from_secs(10),
        })
        .unwrap();
    let (sink, value, told) = (bus.sink(), Bytes::from(vec![7; 1024]), Arc::new(AtomicU64::new(0)));
    let send = || {
        let told = told.clone();
        let mut parcel = Parcel::new(topic.clone(), 0, value.clone());
        parcel.key = Some(Bytes::from_static(b"a-key-of-some-length"));
        parcel.fields = vec![("id".into(), Bytes::from_static(b"0123456789abcdef"))];
        sink.send(
            parcel,
            Box::new(move |what| {
                what.unwrap();
                told.fetch_add(1, Relaxed);
            }),
        )
        .unwrap();
    };
    let (mut sent, mut seen, mut end) = (0, 0, 0);
    while sent < in_flight.min(count) {
        send();
        sent += 1;
    }
    while seen < count {
        for event in source.next(256).await.unwrap() {
            if let Event::Message(message) = event {
                seen += 1;
                end = message.place.offset + 1;
                if sent < count {
                    send();
                    sent += 1;
                }
            }
        }
    }
    sink.flush(Duration::from_secs(10)).await;
    assert_eq!(told.load(Relaxed), count);
    source.note(vec![(0, Standing::at(end))]).await.unwrap();
    source.leave().await;
}
