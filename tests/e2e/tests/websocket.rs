//! WebSocket's frames through a real gateway, in all four ways that its two sides can speak HTTP: every one arrives as it was sent,
//! whatever it is. How a tunnel begins, ends and stalls is `websocket_tunnels.rs`; who may open one, `websocket_handshakes.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests stop at the first surprise, and print their figures"
)]

use bytes::BytesMut;
use wharf_e2e::far::{Says, converse};
use wharf_e2e::frames::{BINARY, CLOSE, CONTINUATION, Frame, PING, PONG, TEXT, close};
use wharf_e2e::pipes::{Came, Into, Pipe, pattern, run};
use wharf_e2e::sockets::{self, WAYS};

/// One thing that a client says.
enum Say {
    /// A frame, masked, in one write.
    Frame(Frame),
    /// A frame, masked, in writes of so many bytes.
    Pieces(Frame, usize),
    /// A frame that is not masked.
    Bare(Frame),
    /// Several frames in one write.
    Together(Vec<Frame>),
}

struct Case {
    name: String,
    say: Vec<Say>,
    hear: Vec<Frame>,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut case = |name: String, say: Vec<Say>, hear: Vec<Frame>| cases.push(Case { name, say, hear });
    let same = |frames: &[Frame]| (frames.iter().cloned().map(Say::Frame).collect::<Vec<_>>(), frames.to_vec());

    // Each form of the length, each side of where it changes, and of the buffers between here and there.
    for len in [0, 1, 125, 126, 127, 1_000, 16_383, 16_384, 16_385, 65_535, 65_536, 65_537, 1 << 20, 4 << 20] {
        let (say, hear) = same(&[Frame::new(BINARY, pattern(len))]);
        case(format!("a binary message of {len} bytes"), say, hear);
    }
    for len in [0, 1, 125, 126, 65_536] {
        let (say, hear) = same(&[Frame::new(TEXT, "ä€𝄞x".repeat(len / 10 + 1).as_bytes()[..len].to_vec())]);
        case(format!("a text of {len} bytes, cut where it falls"), say, hear);
    }
    for len in [0, 1, 125] {
        case(format!("a ping of {len} bytes"), vec![Say::Frame(Frame::new(PING, pattern(len)))], vec![Frame::new(PONG, pattern(len))]);
    }
    // Fragments.
    for count in [2, 3, 100] {
        let mut frames: Vec<Frame> = (0..count).map(|at| Frame::new(CONTINUATION, format!("part {at}")).more()).collect();
        frames[0].kind = TEXT;
        frames[count - 1].last = true;
        let (say, hear) = same(&frames);
        case(format!("a text of {count} fragments"), say, hear);
    }
    let fragments = [
        Frame::new(TEXT, "").more(),
        Frame::new(CONTINUATION, "").more(),
        Frame::new(CONTINUATION, "x").more(),
        Frame::new(CONTINUATION, ""),
    ];
    let (say, hear) = same(&fragments);
    case("fragments of which some are empty".into(), say, hear);
    let (say, hear) = same(&[Frame::new(TEXT, &"€".as_bytes()[..1]).more(), Frame::new(CONTINUATION, &"€".as_bytes()[1..])]);
    case("a character cut in two by a fragment".into(), say, hear);
    let begun = [Frame::new(BINARY, pattern(70_000)).more(), Frame::new(PING, "in between"), Frame::new(CONTINUATION, pattern(70_000))];
    let mut heard = begun.to_vec();
    heard[1].kind = PONG;
    case("a ping between two large fragments".into(), same(&begun).0, heard);
    case(
        "a pong that nobody asked for, between fragments".into(),
        same(&[Frame::new(TEXT, "a").more(), Frame::new(PONG, "?"), Frame::new(CONTINUATION, "b")]).0,
        vec![Frame::new(TEXT, "a").more(), Frame::new(CONTINUATION, "b")],
    );
    // How bytes are cut on their way says nothing.
    for size in [1, 2, 3, 7, 1_000] {
        let frame = Frame::new(BINARY, pattern(if size < 10 { 300 } else { 70_000 }));
        case(format!("a message in writes of {size} bytes"), vec![Say::Pieces(frame.clone(), size)], vec![frame]);
    }
    let many: Vec<Frame> = (0..1_000).map(|at| Frame::new(TEXT, format!("message {at}"))).collect();
    case("a thousand messages in one write".into(), vec![Say::Together(many.clone())], many.clone());
    case("a thousand messages in a thousand writes".into(), same(&many).0, many);
    let pings: Vec<Frame> = (0..500_u32).map(|at| Frame::new(PING, at.to_be_bytes())).collect();
    let pongs = pings.iter().map(|ping| Frame::new(PONG, ping.payload.clone())).collect();
    case("five hundred pings at once".into(), vec![Say::Together(pings)], pongs);
    // Carried, not understood: what extensions may mean by them is between the ends.
    for bits in [1, 2, 4, 7] {
        let (say, hear) = same(&[Frame::new(BINARY, "compressed?").reserved(bits)]);
        case(format!("reserved bits {bits:03b}"), say, hear);
    }
    for kind in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        let (say, hear) = same(&[Frame::new(kind, "whatever this is")]);
        case(format!("frames of kind {kind}"), say, hear);
    }
    let (say, hear) = same(&[Frame::new(TEXT, b"\xff\xfe\xc0\x80".to_vec())]);
    case("a text that is no UTF-8".into(), say, hear);
    let (say, hear) = same(&[Frame::new(CONTINUATION, "of what?")]);
    case("a continuation of nothing".into(), say, hear);
    case("a frame that is not masked".into(), vec![Say::Bare(Frame::new(TEXT, "bare"))], vec![Frame::new(CLOSE, 1002_u16.to_be_bytes())]);
    // Closes.
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999] {
        let (say, hear) = same(&[close(code, "")]);
        case(format!("a close with {code}"), say, hear);
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 5000, 65_535] {
        let (say, hear) = same(&[close(code, "not mine to judge")]);
        case(format!("a close with {code}, which means nothing"), say, hear);
    }
    for (name, frame) in [
        ("without a code", Frame::new(CLOSE, "")),
        ("with half a code", Frame::new(CLOSE, [3])),
        ("with a reason", close(1000, "good bye")),
        ("with the longest reason", close(1000, &"é".repeat(61))),
        ("with a reason that is no UTF-8", Frame::new(CLOSE, b"\x03\xe8\xff".to_vec())),
    ] {
        let (say, hear) = same(&[frame]);
        case(format!("a close {name}"), say, hear);
    }
    let (say, hear) = same(&[Frame::new(TEXT, "begun").more(), close(1001, "never mind")]);
    case("a close in the middle of a message".into(), say, hear);
    case(
        "messages and the close in one write".into(),
        vec![Say::Together(vec![Frame::new(TEXT, "a"), Frame::new(PING, "b"), close(1000, "c"), Frame::new(TEXT, "too late")])],
        vec![Frame::new(TEXT, "a"), Frame::new(PONG, "b"), close(1000, "c")],
    );
    cases
}

async fn say(into: &mut Into, case: &Case) -> std::io::Result<()> {
    for say in &case.say {
        match say {
            Say::Frame(frame) => into.send(&frame.clone().masked().bytes()).await?,
            Say::Bare(frame) => into.send(&frame.bytes()).await?,
            Say::Pieces(frame, size) => {
                for piece in frame.clone().masked().bytes().chunks(*size) {
                    into.send(piece).await?;
                    // Each its own packet, or frame of HTTP/2.
                    tokio::task::yield_now().await;
                }
            }
            Say::Together(frames) => {
                let all: Vec<u8> = frames.iter().flat_map(|frame| frame.clone().masked().bytes()).collect();
                into.send(&all).await?;
            }
        }
    }
    if !case.hear.iter().any(|frame| frame.kind == CLOSE) {
        into.send(&close(1000, "over").masked().bytes()).await?;
    }
    Ok(())
}

#[test]
fn every_frame_arrives_as_it_was_sent_whatever_the_two_sides_speak() {
    let house = sockets::house(|_| Says::yes(converse));
    let cases = cases();
    let mut faults = Vec::new();
    run(async {
        for way in WAYS {
            for case in &cases {
                let Pipe { mut into, mut from } = house.open(way, b"").await;
                let (said, (bytes, end)) = tokio::join!(say(&mut into, case), from.rest());
                into.finish().await;
                let mut wanted = case.hear.clone();
                if !wanted.iter().any(|frame| frame.kind == CLOSE) {
                    wanted.push(close(1000, "over"));
                }
                let mut held = BytesMut::from(&bytes[..]);
                let heard: Vec<Frame> = std::iter::from_fn(|| Frame::take(&mut held)).collect();
                // The far side may have gone before it took what stands behind a close.
                let left = said.is_err() && !case.hear.iter().any(|frame| frame.kind == CLOSE);
                if heard != wanted || !held.is_empty() || end != Came::End || left {
                    let said = (said, heard.len(), heard.iter().zip(&wanted).position(|(heard, wanted)| heard != wanted), held.len());
                    faults.push(format!("{:?} to {:?}: {}: {said:?}, ended {end:?}", way.0, way.1, case.name));
                }
            }
        }
    });
    println!("websocket: {} conversations, each in {} ways: {} cases, {} faults", cases.len(), WAYS.len(), cases.len() * 4, faults.len());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}
