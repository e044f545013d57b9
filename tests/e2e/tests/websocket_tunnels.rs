//! A WebSocket as a tunnel through a real gateway, in all four ways that its two sides can speak HTTP: what comes early is not
//! lost, ends are ends, who stalls holds nobody else, and a gateway that ends gives tunnels time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests stop at the first surprise, and print their figures"
)]

use bytes::BytesMut;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use wharf_e2e::far::{Says, converse};
use wharf_e2e::frames::{BINARY, Frame, TEXT, close};
use wharf_e2e::pipes::{Came, Into, Pipe, pattern, run};
use wharf_e2e::sockets::{self, WAYS, Way};
use wharf_harness::until;
use wharf_harness::wharf::Signal;

const WAIT: Duration = Duration::from_secs(20);

/// Runs a promise in all four ways.
fn each_way(name: &str, promise: impl AsyncFn(Way)) {
    run(async {
        for way in WAYS {
            println!("websocket: {name}: {:?} to {:?}", way.0, way.1);
            promise(way).await;
        }
    });
}

/// Reads until there is a whole frame.
async fn frame(pipe: &mut Pipe, held: &mut BytesMut) -> Frame {
    loop {
        if let Some(frame) = Frame::take(held) {
            return frame;
        }
        match pipe.from.next().await {
            Came::Some(piece) => held.extend(piece),
            end => panic!("{end:?} in the place of a frame"),
        }
    }
}

async fn echoes(pipe: &mut Pipe, text: &str) {
    pipe.into.send(&Frame::new(TEXT, text).masked().bytes()).await.unwrap();
    assert_eq!(frame(pipe, &mut BytesMut::new()).await, Frame::new(TEXT, text));
}

#[test]
fn what_is_sent_before_the_answer_is_carried_behind_it() {
    let house = sockets::house(|_| Says::yes(converse));
    each_way("early bytes of the client", async |way| {
        for len in [1, 100, 20_000] {
            let early = [Frame::new(BINARY, pattern(len)).masked().bytes(), close(1000, "").masked().bytes()].concat();
            let mut pipe = house.open(way, &early).await;
            let wanted = [Frame::new(BINARY, pattern(len)).bytes(), close(1000, "").bytes()].concat();
            assert_eq!(pipe.from.rest().await, (wanted, Came::End));
        }
    });
}

#[test]
fn what_an_upstream_says_with_its_yes_or_first_of_all_is_carried() {
    let greeting = || Frame::new(TEXT, "welcome").bytes();
    let house = sockets::house(move |asked| match asked.target.as_str() {
        "/ws" => Says::Switch { fields: Vec::new(), early: [greeting(), close(1001, "").bytes()].concat(), then: Box::new(ends) },
        _ => Says::Goes,
    });
    each_way("early bytes of the upstream, and its end", async |way| {
        let mut pipe = house.open(way, b"").await;
        assert_eq!(pipe.from.rest().await, ([greeting(), close(1001, "").bytes()].concat(), Came::End));
    });
}

/// Ends in order, and takes what comes.
fn ends(mut pipe: Pipe) -> wharf_e2e::far::Life {
    Box::pin(async move {
        pipe.into.finish().await;
        pipe.from.rest().await;
    })
}

#[test]
fn one_half_may_end_before_the_other() {
    // What the far side heard until the client's end.
    let (told, mut heard) = mpsc::unbounded_channel();
    let house = sockets::house(move |_| {
        let told = told.clone();
        Says::yes(move |mut pipe| {
            Box::pin(async move {
                pipe.into.send(b"first").await.unwrap();
                pipe.into.finish().await;
                told.send(pipe.from.rest().await).unwrap();
            })
        })
    });
    run(async {
        for way in WAYS {
            println!("websocket: the upstream's half ends first: {:?} to {:?}", way.0, way.1);
            let mut pipe = house.open(way, b"").await;
            assert_eq!(pipe.from.rest().await, (b"first".to_vec(), Came::End));
            pipe.into.send(&pattern(100_000)).await.unwrap();
            pipe.into.finish().await;
            let (bytes, end) = tokio::time::timeout(WAIT, heard.recv()).await.unwrap().unwrap();
            assert!(bytes == pattern(100_000) && end == Came::End, "{} bytes, {end:?}", bytes.len());
        }
    });
    drop(house);

    let house = sockets::house(|_| {
        Says::yes(|mut pipe| {
            Box::pin(async move {
                let (bytes, end) = pipe.from.rest().await;
                let _ = pipe.into.send(format!("{} bytes, {end:?}", bytes.len()).as_bytes()).await;
                pipe.into.finish().await;
            })
        })
    });
    each_way("the client's half ends first", async |way| {
        let mut pipe = house.open(way, b"").await;
        pipe.into.send(&pattern(100_000)).await.unwrap();
        pipe.into.finish().await;
        assert_eq!(pipe.from.rest().await, (b"100000 bytes, End".to_vec(), Came::End));
    });
}

#[test]
fn a_side_that_breaks_off_ends_the_other_at_once() {
    let (told, mut heard) = mpsc::unbounded_channel();
    let house = sockets::house(move |_| {
        let told = told.clone();
        Says::yes(move |mut pipe| {
            Box::pin(async move {
                match pipe.from.next().await {
                    Came::Some(word) if &word[..] == b"break" => pipe.reset(),
                    Came::Some(word) if &word[..] == b"leave" => drop(pipe),
                    _ => drop(told.send(pipe.from.next().await)),
                }
            })
        })
    });
    run(async {
        for way in WAYS {
            for word in ["break", "leave"] {
                println!("websocket: the upstream is told to {word}: {:?} to {:?}", way.0, way.1);
                let mut pipe = house.open(way, word.as_bytes()).await;
                let end = pipe.from.next().await;
                assert!(matches!(end, Came::End | Came::Broken), "{end:?}");
            }
            println!("websocket: the client breaks off, or is gone: {:?} to {:?}", way.0, way.1);
            for resets in [true, false] {
                let pipe = house.open(way, b"stay").await;
                match resets {
                    true => pipe.reset(),
                    false => drop(pipe),
                }
                let end = tokio::time::timeout(WAIT, heard.recv()).await.unwrap().unwrap();
                assert!(matches!(end, Came::End | Came::Broken), "{end:?}");
            }
        }
    });
}

#[test]
fn both_sides_may_speak_as_much_as_they_like_at_once() {
    const ALL: usize = 24 << 20;
    let (told, mut heard) = mpsc::unbounded_channel();
    let house = sockets::house(move |_| {
        let told = told.clone();
        Says::yes(move |pipe| {
            Box::pin(async move {
                let Pipe { mut into, mut from } = pipe;
                let speaking = async {
                    into.send(&pattern(ALL)).await.unwrap();
                    into.finish().await;
                };
                let ((), came) = tokio::join!(speaking, from.rest());
                told.send(came).unwrap();
            })
        })
    });
    run(async {
        for way in WAYS {
            println!("websocket: both speak at once: {:?} to {:?}", way.0, way.1);
            let Pipe { mut into, mut from } = house.open(way, b"").await;
            let speaking = async {
                into.send(&pattern(ALL)).await.unwrap();
                into.finish().await;
            };
            let ((), (bytes, end)) = tokio::join!(speaking, from.rest());
            assert!(bytes == pattern(ALL) && end == Came::End, "{} bytes, {end:?}", bytes.len());
            let (bytes, end) = heard.recv().await.unwrap();
            assert!(bytes == pattern(ALL) && end == Came::End, "{} bytes, {end:?}", bytes.len());
        }
    });
}

/// So much is sent to a side that does not read.
const LARGE: usize = 96 << 20;
/// What the system's buffers of two connections may hold of it, and more.
const HELD_MAX: u64 = 32 << 20;

/// Sends it piece by piece, and says how far it came.
async fn pour(into: &mut Into, sent: &AtomicU64) {
    let piece = pattern(64 << 10);
    while sent.load(Relaxed) < LARGE as u64 && into.send(&piece).await.is_ok() {
        sent.fetch_add(piece.len() as u64, Relaxed);
    }
    into.finish().await;
}

/// Waits until nothing more gets through: how much did.
async fn until_stalled(sent: &AtomicU64) -> u64 {
    let (mut last, mut since) = (0, Instant::now());
    let end = Instant::now() + WAIT;
    while Instant::now() < end {
        let now = sent.load(Relaxed);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        if now > 0 && since.elapsed() > Duration::from_millis(500) {
            return now;
        }
        tokio::time::sleep(Duration::from_millis(10)).await; // look again
    }
    panic!("{last} bytes and more are taken by who does not read");
}

fn whole(bytes: &[u8]) -> bool {
    bytes.len() == LARGE && bytes.chunks(64 << 10).all(|piece| piece == pattern(64 << 10))
}

#[test]
fn who_does_not_read_holds_the_other_side_back_and_no_memory_here() {
    let sent = Arc::new(AtomicU64::new(0));
    let pouring = sent.clone();
    let go = Arc::new(tokio::sync::Notify::new());
    let waits = go.clone();
    let house = sockets::house(move |_| {
        let (pouring, waits) = (pouring.clone(), waits.clone());
        Says::yes(move |mut pipe| {
            Box::pin(async move {
                match pipe.from.next().await {
                    Came::Some(word) if &word[..] == b"pour" => pour(&mut pipe.into, &pouring).await,
                    begun => {
                        // What came with the first word is a part of it.
                        let mut bytes = match begun {
                            Came::Some(begun) => begun.strip_prefix(b"read later").map(<[u8]>::to_vec).unwrap_or_default(),
                            _ => Vec::new(),
                        };
                        waits.notified().await;
                        let (rest, end) = pipe.from.rest().await;
                        bytes.extend(rest);
                        let _ = pipe.into.send(format!("{} {end:?}", whole(&bytes)).as_bytes()).await;
                        pipe.into.finish().await;
                    }
                }
            })
        })
    });
    each_way("a side that does not read", async |way| {
        let before = house.wharf.anonymous_kib();
        sent.store(0, Relaxed);
        let mut pipe = house.open(way, b"pour").await;
        let held = until_stalled(&sent).await;
        let grown = house.wharf.anonymous_kib().saturating_sub(before);
        println!("websocket: {held} bytes under way to a client that does not read, {grown} KiB here");
        assert!(held < HELD_MAX && grown < 2048, "{held} bytes, {grown} KiB");
        let (bytes, end) = pipe.from.rest().await;
        assert!(whole(&bytes) && end == Came::End, "{} bytes, {end:?}", bytes.len());
        pipe.into.finish().await;

        sent.store(0, Relaxed);
        let Pipe { mut into, mut from } = house.open(way, b"read later").await;
        let ((), held) = tokio::join!(pour(&mut into, &sent), async {
            let held = until_stalled(&sent).await;
            let grown = house.wharf.anonymous_kib().saturating_sub(before);
            println!("websocket: {held} bytes under way to an upstream that does not read, {grown} KiB here");
            assert!(grown < 2048, "{grown} KiB");
            go.notify_one();
            held
        });
        assert!(held < HELD_MAX, "{held} bytes");
        let (bytes, end) = from.rest().await;
        assert_eq!((String::from_utf8_lossy(&bytes).as_ref(), end), ("true End", Came::End));
    });
}

#[test]
fn a_tunnel_ends_when_nothing_moves_and_not_by_the_time_of_its_request() {
    let house = sockets::house(|_| Says::yes(converse));
    run(async {
        for way in WAYS {
            println!("websocket: nothing moves for a second, or something always does: {:?} to {:?}", way.0, way.1);
            // `timeouts.whole` of the route is 2 s, `timeouts.quiet` of the listener 1 s.
            let (mut busy, mut quiet) = tokio::join!(house.open_at("hasty", way, b""), house.open_at("hasty", way, b""));
            let begun = Instant::now();
            let ended = async {
                let end = quiet.from.next().await;
                (end, begun.elapsed())
            };
            let moving = async {
                let mut times = 0;
                while begun.elapsed() < Duration::from_millis(2_500) {
                    echoes(&mut busy, "still here").await;
                    times += 1;
                    tokio::time::sleep(Duration::from_millis(100)).await; // look again
                }
                times
            };
            let ((end, after), times) = tokio::join!(ended, moving);
            assert!(matches!(end, Came::End | Came::Broken) && after >= Duration::from_millis(900), "{end:?} after {after:?}");
            assert!(after < Duration::from_secs(4) && times > 5, "after {after:?}, {times} times");
        }
    });
}

#[test]
fn a_hundred_talk_at_once_and_each_hears_its_own() {
    let house = sockets::house(|_| Says::yes(converse));
    let talks = AtomicU64::new(0);
    each_way("a hundred at once", async |way| {
        let mut pipes = Vec::new();
        for _ in 0..100 {
            pipes.push(house.open(way, b"").await);
        }
        for round in 0..10 {
            for (at, pipe) in pipes.iter_mut().enumerate() {
                pipe.into.send(&Frame::new(TEXT, format!("{at} in round {round}")).masked().bytes()).await.unwrap();
            }
            for (at, pipe) in pipes.iter_mut().enumerate() {
                assert_eq!(frame(pipe, &mut BytesMut::new()).await, Frame::new(TEXT, format!("{at} in round {round}")));
                talks.fetch_add(1, Relaxed);
            }
        }
    });
    assert_eq!(talks.load(Relaxed), 4_000);
    // All of it goes with its connections.
    until("no connection is left open", WAIT, || {
        (house.wharf.admin().metrics().get("wharf_connections_open", &[("listener", "main")]) == 0.0).then_some(())
    });
}

#[test]
fn a_draining_gateway_gives_its_tunnels_time_and_takes_no_new_ones() {
    for way in WAYS {
        println!("websocket: draining: {:?} to {:?}", way.0, way.1);
        let house = sockets::house(|_| Says::yes(converse));
        run(async {
            let mut pipe = house.open(way, b"").await;
            echoes(&mut pipe, "before").await;
            house.wharf.signal(Signal::TERM);
            house.wharf.until_said("ending", WAIT);
            let address = house.wharf.listener("main");
            until("no new connections are taken", WAIT, || std::net::TcpStream::connect(address).is_err().then_some(()));
            echoes(&mut pipe, "after").await;
            pipe.into.send(&close(1000, "thank you").masked().bytes()).await.unwrap();
            let (bytes, end) = pipe.from.rest().await;
            assert_eq!((bytes, end), (close(1000, "thank you").bytes(), Came::End));
            pipe.into.finish().await;
        });
        let begun = Instant::now();
        house.wharf.stop(WAIT).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(10), "it went {:?} after its last tunnel", begun.elapsed());
    }
}
