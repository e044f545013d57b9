//! Frames by hand, and a client that makes all it can of its freedom, against what must hold whatever it does.

use super::*;
use std::task::Waker;
use std::time::Instant;
use wharf_core::head::Method;

/// Takes requests and keeps them.
#[derive(Default)]
struct Kept(Vec<Asked>);

impl Requests for Kept {
    fn blank(&mut self) -> Box<Exchange> {
        Box::new(Exchange::blank(Instant::now()))
    }

    fn unused(&mut self, _: Box<Exchange>) {}

    fn begin(&mut self, asked: Asked) {
        self.0.push(asked);
    }
}

/// A request for `/`, whole in its block: GET, http, `/`, and `:authority: a` which is put into the table.
const GET: &[u8] = b"\x82\x86\x84\x41\x01a";
/// The same with POST.
const POST: &[u8] = b"\x83\x86\x84\x41\x01a";

fn limits() -> Limits {
    Limits { head: HeadLimits::default(), scheme: Scheme::Http, streams_max: 8, window: 1000 }
}

fn frame(kind: u8, flags: u8, stream: u32, content: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    frame::put(&mut out, kind, flags, stream, content);
    out.to_vec()
}

/// A connection whose client has begun as it must, and heard our settings.
struct Client {
    wire: Wire,
    kept: Kept,
}

impl Client {
    fn new() -> Client {
        Client::with(limits())
    }

    fn with(limits: Limits) -> Client {
        let mut client = Client { wire: Wire::new(limits, Spare::new(16 * 1024)), kept: Kept::default() };
        client.says(PREFACE).unwrap();
        client.says(&frame(kind::SETTINGS, 0, 0, &[])).unwrap();
        client.says(&frame(kind::SETTINGS, flag::ACK, 0, &[])).unwrap();
        assert!(client.wire.is_open());
        client.hears();
        client
    }

    fn says(&mut self, bytes: &[u8]) -> Result<(), Reason> {
        let taken = self.wire.take(bytes, &mut self.kept)?;
        assert_eq!(taken, bytes.len(), "whole frames are taken");
        Ok(())
    }

    /// The frames that go out.
    fn hears(&mut self) -> Vec<(frame::Head, Vec<u8>)> {
        let out = self.wire.to_write();
        let (mut rest, mut frames) = (&out[..], Vec::new());
        while let Some(head) = frame::Head::read(rest) {
            frames.push((head, rest[frame::HEAD..frame::HEAD + head.len].to_vec()));
            rest = &rest[frame::HEAD + head.len..];
        }
        assert!(rest.is_empty(), "whole frames are written");
        self.wire.written(BytesMut::new());
        frames
    }

    /// The reset that its last frame brought.
    fn is_reset(&mut self, stream: u32) -> Option<u32> {
        let found = self.hears().into_iter().find(|(head, _)| head.kind == kind::RST_STREAM && head.stream == stream);
        found.and_then(|(_, content)| frame::number(&content))
    }

    fn begin(&mut self, stream: u32, ends: bool) -> Rc<Flow> {
        let end = if ends { flag::END_STREAM } else { 0 };
        self.says(&frame(kind::HEADERS, flag::END_HEADERS | end, stream, if ends { GET } else { POST })).unwrap();
        self.kept.0.last().unwrap().flow.clone()
    }
}

fn task() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

fn piece(client: &Client, flow: &Flow) -> Poll<Option<Result<Bytes, Reason>>> {
    client.wire.poll_piece(flow, &task())
}

#[test]
fn a_request_comes_in_whatever_pieces_its_bytes_come() {
    let mut all = PREFACE.to_vec();
    all.extend(frame(kind::SETTINGS, 0, 0, &[]));
    // Padded, with a priority, in three frames.
    all.extend(frame(kind::HEADERS, flag::PADDED | flag::PRIORITY | flag::END_STREAM, 1, b"\x03\0\0\0\0\x10\x82\x86pad"));
    all.extend(frame(kind::CONTINUATION, 0, 1, b"\x84"));
    all.extend(frame(kind::CONTINUATION, flag::END_HEADERS, 1, b"\x41\x01a"));
    for step in 1..all.len() {
        let (wire, mut kept, mut inbox) = (Wire::new(limits(), Spare::new(1024)), Kept::default(), Vec::new());
        for piece in all.chunks(step) {
            inbox.extend_from_slice(piece);
            let taken = wire.take(&inbox, &mut kept).unwrap();
            inbox.drain(..taken);
        }
        let [asked] = &kept.0[..] else { panic!("{} requests in pieces of {step}", kept.0.len()) };
        let head = &asked.exchange.facts.request;
        assert_eq!((&head.method, head.authority_bytes(), head.path_bytes()), (&Method::Get, &b"a"[..], &b"/"[..]));
        assert!(asked.flow.is_over());
    }
}

#[test]
fn what_breaks_the_connection_is_told_why() {
    let continued = [frame(kind::HEADERS, 0, 1, b"\x82"), frame(kind::PING, 0, 0, &[0; 8])].concat();
    let flood: Vec<u8> = (0..=USELESS_MAX).flat_map(|_| frame(kind::PRIORITY, 0, 9, &[0, 0, 0, 1, 0])).collect();
    let many = [frame(kind::HEADERS, 0, 1, b"\x82"), frame(kind::CONTINUATION, 0, 1, b"").repeat(70)].concat();
    for (what, bytes, reason) in [
        ("DATA of the connection", frame(kind::DATA, 0, 0, b"x"), Reason::Protocol),
        ("DATA of a stream not begun", frame(kind::DATA, 0, 1, b"x"), Reason::Protocol),
        ("a stream of ours", frame(kind::HEADERS, flag::END_HEADERS, 2, GET), Reason::Protocol),
        ("a frame within a block", continued, Reason::Protocol),
        ("CONTINUATION of nothing", frame(kind::CONTINUATION, flag::END_HEADERS, 1, GET), Reason::Protocol),
        ("more padding than content", frame(kind::HEADERS, flag::PADDED, 1, b"\x05abc"), Reason::Protocol),
        ("a block that is none", frame(kind::HEADERS, flag::END_HEADERS, 1, b"\x80"), Reason::Compression),
        ("a block in too many frames", many, Reason::EnhanceYourCalm),
        ("PUSH_PROMISE", frame(kind::PUSH_PROMISE, 0, 1, &[0; 4]), Reason::Protocol),
        ("a window of nothing", frame(kind::WINDOW_UPDATE, 0, 0, &[0; 4]), Reason::Protocol),
        ("a window too large", frame(kind::WINDOW_UPDATE, 0, 0, &[0x7f, 255, 255, 255]), Reason::FlowControl),
        ("a setting too large", frame(kind::SETTINGS, 0, 0, &[0, 4, 255, 0, 0, 0]), Reason::FlowControl),
        ("half a setting", frame(kind::SETTINGS, 0, 0, &[0, 4, 255]), Reason::FrameSize),
        ("PING of seven bytes", frame(kind::PING, 0, 0, &[0; 7]), Reason::FrameSize),
        ("frames that move nothing", flood, Reason::EnhanceYourCalm),
        ("a frame that is too long", vec![0, 0x40, 1, kind::DATA, 0, 0, 0, 0, 1], Reason::FrameSize),
    ] {
        let mut client = Client::new();
        assert_eq!(client.wire.take(&bytes, &mut client.kept), Err(reason), "{what}");
        let goodbye = client.hears().pop().unwrap();
        assert_eq!((goodbye.0.kind, &goodbye.1[4..]), (kind::GOAWAY, &(reason as u32).to_be_bytes()[..]), "{what}");
    }
}

#[test]
fn what_is_wrong_with_one_stream_harms_no_other() {
    let lengths = b"\x83\x86\x84\x41\x01a\x0f\x0d\x013";
    for (what, then, reason) in [
        ("more than its length", vec![frame(kind::DATA, 0, 3, b"four")], Reason::Protocol),
        ("less than its length", vec![frame(kind::DATA, flag::END_STREAM, 3, b"ab")], Reason::Protocol),
        ("more than its window", vec![frame(kind::DATA, 0, 3, &[0; 1001])], Reason::FlowControl),
        ("a second head", vec![frame(kind::HEADERS, flag::END_HEADERS, 3, GET)], Reason::Protocol),
        ("a window of nothing", vec![frame(kind::WINDOW_UPDATE, 0, 3, &[0; 4])], Reason::Protocol),
        ("DATA behind its end", vec![frame(kind::DATA, flag::END_STREAM, 3, b"abc"), frame(kind::DATA, 0, 3, b"d")], Reason::StreamClosed),
    ] {
        let mut client = Client::new();
        let other = client.begin(1, false);
        client.says(&frame(kind::HEADERS, flag::END_HEADERS, 3, lengths)).unwrap();
        let flow = client.kept.0.last().unwrap().flow.clone();
        for bytes in then {
            client.says(&bytes).unwrap();
        }
        assert_eq!(client.is_reset(3), Some(reason as u32), "{what}");
        assert!(flow.reset.get().is_some() && matches!(piece(&client, &flow), Poll::Ready(Some(Err(_)))), "{what}");
        // What was on its way is let go by; the other stream knows nothing of it.
        client.says(&frame(kind::DATA, 0, 3, b"late")).unwrap();
        client.says(&frame(kind::DATA, flag::END_STREAM, 1, b"ok")).unwrap();
        assert!(matches!(piece(&client, &other), Poll::Ready(Some(Ok(ok))) if ok == "ok"), "{what}");
        assert!(matches!(piece(&client, &other), Poll::Ready(None)));
        assert_eq!(client.is_reset(1), None);
    }
}

#[test]
fn who_begins_and_gives_up_again_and_again_is_sent_away_and_who_takes_answers_is_not() {
    let mut client = Client::new();
    let give_up = |client: &mut Client, stream| {
        client.begin(stream, false);
        client.says(&frame(kind::RST_STREAM, 0, stream, &[0, 0, 0, 8]))
    };
    let ended = (0..1000).position(|nth| give_up(&mut client, 2 * nth + 1).is_err());
    assert_eq!(ended, Some(PATIENCE as usize - 1));
    assert!(client.wire.lost_patience());

    let mut client = Client::new();
    for nth in 0..1000 {
        let flow = client.begin(4 * nth + 1, true);
        client.wire.put_answer(&flow, &ResponseHead::default(), Some(0), &[b'0'; 29], true);
        client.wire.close(&flow);
        give_up(&mut client, 4 * nth + 3).unwrap();
        client.hears();
    }
}

#[test]
fn streams_beyond_the_limit_are_refused_and_those_that_end_make_room() {
    let mut client = Client::new();
    let flows: Vec<_> = (0..8).map(|nth| client.begin(2 * nth + 1, true)).collect();
    client.says(&frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 17, GET)).unwrap();
    assert_eq!((client.is_reset(17), client.kept.0.len()), (Some(Reason::RefusedStream as u32), 8));
    client.wire.put_answer(&flows[3], &ResponseHead::default(), Some(0), &[b'0'; 29], true);
    client.begin(19, true);
    assert_eq!((client.is_reset(19), client.kept.0.len()), (None, 9));
}

#[test]
fn what_a_client_does_not_take_is_bounded_and_everybody_gets_a_turn() {
    let mut client = Client::new();
    let flows: Vec<_> = (0..4).map(|nth| client.begin(2 * nth + 1, true)).collect();
    for flow in &flows {
        assert!(client.wire.poll_head_room(flow, &task()).is_ready());
        client.wire.put_answer(flow, &ResponseHead::default(), None, &[b'0'; 29], false);
    }
    let mut sent = [0; 4];
    let write = |client: &mut Client, sent: &mut [usize; 4]| {
        for (flow, sent) in flows.iter().zip(sent) {
            if let Poll::Ready(Ok(room)) = client.wire.poll_room(flow, &task()) {
                client.wire.put_data(flow, &vec![0; room], false);
                *sent += room;
            }
        }
    };
    for _ in 0..100 {
        write(&mut client, &mut sent);
    }
    let waits = client.wire.to_write();
    assert!(waits.len() <= OUT_MAX + CONTENT_MAX, "{} bytes wait", waits.len());
    client.wire.written(waits);
    // It takes what is there, again and again: the window of the connection is all that ends it, and nobody was forgotten.
    for _ in 0..100 {
        client.hears();
        write(&mut client, &mut sent);
    }
    assert_eq!(sent.iter().sum::<usize>(), WINDOW as usize);
    client.says(&frame(kind::WINDOW_UPDATE, 0, 0, &1_000_000_u32.to_be_bytes())).unwrap();
    for _ in 0..100 {
        client.hears();
        write(&mut client, &mut sent);
    }
    assert_eq!(sent, [WINDOW as usize; 4], "each got all that its own window holds");
}

#[test]
fn a_farewell_is_said_twice_so_that_nothing_on_its_way_is_lost() {
    let mut client = Client::new();
    client.begin(1, true);
    client.wire.say_farewell();
    let heard = client.hears();
    assert_eq!((heard[0].0.kind, &heard[0].1[..4]), (kind::GOAWAY, &[0x7f, 255, 255, 255][..]));
    let ping = heard[1].1.clone();
    // Sent before the client knew.
    client.begin(3, true);
    client.says(&frame(kind::PING, flag::ACK, 0, &ping)).unwrap();
    let heard = client.hears();
    assert_eq!((heard[0].0.kind, &heard[0].1[..4]), (kind::GOAWAY, &[0, 0, 0, 3][..]));
    client.says(&frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 5, GET)).unwrap();
    assert_eq!(client.kept.0.len(), 2, "what comes behind the last word is not taken");
    assert!(!client.wire.is_done());
    for asked in std::mem::take(&mut client.kept.0) {
        client.wire.close(&asked.flow);
    }
    assert!(client.wire.is_done());
}

#[test]
fn a_window_that_shrinks_below_nothing_stops_a_stream_until_it_has_grown_again() {
    let mut client = Client::new();
    let flow = client.begin(1, true);
    client.wire.put_answer(&flow, &ResponseHead::default(), None, &[b'0'; 29], false);
    client.wire.put_data(&flow, &[0; 1000], false);
    client.says(&frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 10])).unwrap();
    assert_eq!(flow.room.get(), -990);
    assert!(client.wire.poll_room(&flow, &task()).is_pending());
    client.says(&frame(kind::WINDOW_UPDATE, 0, 1, &990_u32.to_be_bytes())).unwrap();
    assert!(client.wire.poll_room(&flow, &task()).is_pending());
    client.says(&frame(kind::WINDOW_UPDATE, 0, 1, &7_u32.to_be_bytes())).unwrap();
    assert_eq!(client.wire.poll_room(&flow, &task()), Poll::Ready(Ok(7)));
}

#[test]
fn a_head_larger_than_a_frame_is_continued() {
    let mut client = Client::new();
    let flow = client.begin(1, true);
    let mut head = ResponseHead { status: 200, ..ResponseHead::default() };
    for nth in 0..10 {
        head.fields.add(format!("x-{nth}").as_bytes(), &[b'v'; 4000]);
    }
    client.wire.put_answer(&flow, &head, None, &[b'0'; 29], true);
    let heard = client.hears();
    let kinds: Vec<_> = heard.iter().map(|(head, _)| (head.kind, head.flags)).collect();
    let (first, next) = ((kind::HEADERS, flag::END_STREAM), (kind::CONTINUATION, 0));
    assert_eq!(kinds, [first, next, (kind::CONTINUATION, flag::END_HEADERS)]);
    let block: Vec<u8> = heard.into_iter().flat_map(|(_, content)| content).collect();
    let mut fields = 0;
    Decoder::default()
        .decode(&block, |said| {
            fields += 1;
            !said.name.starts_with(b"x-") || said.value == [b'v'; 4000]
        })
        .unwrap();
    assert_eq!(fields, 12);
}

#[test]
fn what_was_sent_before_the_last_word_was_heard_harms_nothing_that_was_taken() {
    let mut client = Client::new();
    let flow = client.begin(1, true);
    client.wire.say_farewell();
    client.says(&frame(kind::PING, flag::ACK, 0, FAREWELL_PING)).unwrap();
    // All of another request, which it had begun before it knew.
    client.says(&frame(kind::HEADERS, flag::END_HEADERS, 3, POST)).unwrap();
    client.says(&frame(kind::WINDOW_UPDATE, 0, 3, &[0, 0, 0, 1])).unwrap();
    client.says(&frame(kind::DATA, 0, 3, b"late")).unwrap();
    client.says(&frame(kind::RST_STREAM, 0, 3, &[0, 0, 0, 8])).unwrap();
    assert_eq!((client.kept.0.len(), flow.reset.get()), (1, None));
    client.wire.put_answer(&flow, &ResponseHead::default(), Some(0), &[b'0'; 29], true);
    assert!(client.hears().iter().any(|(head, _)| head.kind == kind::HEADERS && head.stream == 1));
}

#[test]
fn who_waits_and_is_given_up_is_kept_by_nobody() {
    let mut client = Client::new();
    let first = client.begin(1, true);
    client.wire.put_answer(&first, &ResponseHead::default(), None, &[b'0'; 29], false);
    while let Poll::Ready(Ok(room)) = client.wire.poll_room(&first, &task()) {
        client.wire.put_data(&first, &vec![0; room], false);
        client.hears();
    }
    // The connection's window is used up, and the first keeps it so. The others wait behind it, with trailers, until they are given up.
    first.room.set(1);
    assert!(client.wire.poll_room(&first, &task()).is_pending());
    for nth in 1..=500 {
        let flow = client.begin(2 * nth + 1, false);
        client.says(&frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, flow.id, b"\x00\x01x\x01y")).unwrap();
        client.wire.put_answer(&flow, &ResponseHead::default(), None, &[b'0'; 29], false);
        assert!(client.wire.poll_room(&flow, &task()).is_pending());
        client.says(&frame(kind::RST_STREAM, 0, flow.id, &[0, 0, 0, 8])).unwrap();
        assert!(matches!(flow.take_trailers(), Ok(None)), "forgotten with its stream");
        client.wire.close(&flow);
        client.kept.0.pop();
        client.hears();
        assert_eq!(Rc::strong_count(&flow), 1);
    }
}

#[test]
fn settings_are_worth_what_they_say_last_and_many_of_them_are_too_many() {
    let mut client = Client::new();
    let flow = client.begin(1, true);
    let setting = |value: u32| [&[0, 4][..], &value.to_be_bytes()].concat();
    client.says(&frame(kind::SETTINGS, 0, 0, &[setting(5), setting(70_000), setting(9)].concat())).unwrap();
    assert_eq!(flow.room.get(), 9);
    let many = frame(kind::SETTINGS, 0, 0, &setting(1).repeat(2700));
    client.says(&many).unwrap();
    assert_eq!(client.wire.take(&many, &mut client.kept), Err(Reason::EnhanceYourCalm));
}

#[test]
fn padding_uses_up_no_window_for_good() {
    let mut client = Client::new();
    let flow = client.begin(1, false);
    for _ in 0..100 {
        client.says(&frame(kind::DATA, flag::PADDED, 1, &[&[200][..], b"x", &[0; 200]].concat())).unwrap();
        assert!(matches!(piece(&client, &flow), Poll::Ready(Some(Ok(_)))));
        client.hears();
    }
    let mut alone = Client::new();
    alone.begin(1, false);
    for _ in 0..100 {
        alone.says(&frame(kind::DATA, flag::PADDED, 1, &[&[200][..], &[0; 200]].concat())).unwrap();
        alone.hears();
    }
}

#[test]
fn a_stream_that_is_forgotten_is_no_reason_to_end_the_others() {
    let mut client = Client::new();
    let flow = client.begin(1, false);
    for nth in 1..=200 {
        client.begin(2 * nth + 1, true);
        let flow = client.kept.0.pop().unwrap().flow;
        client.wire.put_answer(&flow, &ResponseHead::default(), Some(0), &[b'0'; 29], true);
        client.wire.close(&flow);
    }
    client.hears();
    client.says(&frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, 3, b"\x00\x01x\x01y")).unwrap();
    assert_eq!((client.is_reset(3), flow.reset.get()), (Some(Reason::StreamClosed as u32), None));
}

/// Whatever a client sends: nothing panics, and all that it can make us hold stays within its bounds.
#[test]
fn whatever_a_client_sends_stays_within_its_bounds() {
    for seed in 1..=3000_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut draw = |bound: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % bound
        };
        let mut client = Client::new();
        for _ in 0..60 {
            let stream = draw(24) as u32;
            let content: Vec<u8> = match draw(6) {
                0 => GET.to_vec(),
                1 => POST.to_vec(),
                2 => (0..draw(20)).map(|_| draw(256) as u8).collect(),
                3 => vec![0; draw(1200) as usize],
                4 => (draw(1 << 20) as u32).to_be_bytes().to_vec(),
                _ => [&[0, 4][..], &(draw(1 << 17) as u32).to_be_bytes()].concat(),
            };
            let kind = [kind::HEADERS, kind::HEADERS, kind::DATA, kind::DATA, draw(11) as u8][draw(5) as usize];
            let bytes = frame(kind, draw(256) as u8 & [0x5, 0xff][draw(2) as usize], stream, &content);
            if client.wire.take(&bytes, &mut client.kept).is_err() {
                break;
            }
            // Those who work on the streams do what they do, in any order.
            let kept = client.kept.0.len() as u64;
            if kept > 0 {
                let flow = client.kept.0[draw(kept) as usize].flow.clone();
                match draw(6) {
                    0 if !flow.answered.get() && flow.reset.get().is_none() => {
                        client.wire.put_answer(&flow, &ResponseHead::default(), None, &[b'0'; 29], false);
                    }
                    1 if flow.answered.get() && !flow.sent_end.get() => {
                        if let Poll::Ready(Ok(room)) = client.wire.poll_room(&flow, &task()) {
                            client.wire.put_data(&flow, &vec![0; room], draw(3) == 0);
                        }
                    }
                    2 | 3 => {
                        let _ = piece(&client, &flow);
                    }
                    4 => {
                        client.wire.close(&flow);
                        client.kept.0.retain(|asked| !Rc::ptr_eq(&asked.flow, &flow));
                    }
                    _ => {}
                }
            }
            let state = client.wire.0.borrow();
            assert!(state.open <= 8, "seed {seed}: {} streams open", state.open);
            assert!(state.out.len() <= OUT_MAX + 2 * CONTENT_MAX, "seed {seed}: {} bytes wait", state.out.len());
            assert!(state.streams.is_sorted_by_key(|flow| flow.id), "seed {seed}");
            assert_eq!(state.streams.iter().filter(|flow| flow.counted.get()).count(), state.open as usize, "seed {seed}");
            assert!(state.streams.len() <= client.kept.0.len(), "seed {seed}: a stream that nobody works on");
            assert!(state.over.len() <= OVER_KEPT && state.waiting.len() <= 64, "seed {seed}");
            let held: usize = state.streams.iter().map(|flow| flow.unread()).sum();
            assert!(held as i64 <= whole_window(&state.limits), "seed {seed}: {held} bytes unread");
            drop(state);
            if draw(4) == 0 {
                client.hears();
            }
        }
    }
}
