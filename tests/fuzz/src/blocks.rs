//! Heads as clients of HTTP/2 send them: blocks of HPACK, one behind the other on one connection. What is taken of them is
//! written for an upstream, by HTTP/1.1, and must be read there as it was meant.

#![allow(clippy::panic, reason = "a target answers by panicking: there is nobody behind it to tell")]

use crate::driver::{Random, Target, note};
use crate::house::codec::hpack::{Decoder, Encoder, Said, TABLE_BYTES};
use crate::house::codec::two::front::{Asking, Room, Trailing, Wrong};
use crate::house::codec::write::{self, Forwarded};
use crate::house::codec::{Framing, HeadLimits, request};
use crate::house::path;
use bytes::BytesMut;
use std::net::IpAddr;
use wharf_core::head::{Fields, Known, Method, RequestHead, Scheme, text};

/// Blocks, each behind a byte that says how long it is.
pub const BLOCKS: Target = Target { name: "blocks", run, make, words: WORDS };

/// Small, so that inputs reach them.
const LIMITS: HeadLimits = HeadLimits { bytes_max: 512, fields_max: 12 };
const WORDS: &[&[u8]] = &[
    b"\x82\x86\x84\x41\x01a",
    b"\x83\x87\x44\x04/a/b\x41\x05h:443",
    b"\x00\x04host\x01a",
    b"\x00\x06cookie\x03a=1",
    b"\x0f\x0d\x015",
    b"\x40\x01x\x01y",
    b"\xbe\xbf",
    b"\x3f\xe1\x1f",
    b"\x20",
    b"\x00\x02te\x08trailers",
    b"\x00\x0atransfer-e",
    b"\r\n",
];

type Seen = Vec<(Vec<u8>, Vec<u8>)>;

fn run(input: &[u8]) {
    let (mut decoder, mut encoder, mut again) = (Decoder::default(), Encoder::default(), Decoder::default());
    let mut room = Room::default();
    let mut rest = input;
    while let Some((&len, behind)) = rest.split_first() {
        let (block, next) = behind.split_at(behind.len().min(len.into()));
        rest = next;
        // What an earlier request has left behind: nothing of it may be seen again.
        let mut head = RequestHead::from_text(Method::Other("OLD".into()), "old.example", "/old", Some("old"));
        head.fields.add(b"x-old", b"old");
        let (mut asking, mut trailing) = (Asking::new(&LIMITS, &mut room, &mut head), Trailing::new(&LIMITS));
        let mut seen = Seen::new();
        let read = decoder.decode(block, |said: Said<'_>| {
            assert_eq!(said.known, Known::of(said.name), "{:?}", text(said.name));
            seen.push((said.name.to_vec(), said.value.to_vec()));
            let more = asking.take(said);
            more & trailing.take(said)
        });
        assert!(decoder.size() <= TABLE_BYTES, "the table has grown to {} bytes", decoder.size());
        let told: usize = seen.iter().map(|(name, value)| name.len() + value.len()).sum();
        assert!(told <= 5 * LIMITS.bytes_max + 300, "{told} bytes were taken of one block");
        if read.is_err() {
            return note("broken");
        }
        written_again(&seen, &mut encoder, &mut again);
        match asking.end(false, Scheme::Http) {
            Err(Wrong::Malformed(what)) => note(what),
            Err(Wrong::Refused(what)) => note(what.word()),
            Ok(received) => {
                note(head.method.as_str());
                note(&head.fields.len().to_string());
                taken(&head, received.length);
            }
        }
        if let Ok(Some(fields)) = trailing.end() {
            for (known, name, value) in fields.iter() {
                assert!(!known.is_guarded() && !name.starts_with(b":"), "{} trails", text(name));
                assert!(!value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)), "a line ends within a trailer");
            }
        }
    }
}

/// Whatever was said can be said to others, and is what it was.
fn written_again(seen: &Seen, encoder: &mut Encoder, decoder: &mut Decoder) {
    let (mut out, mut said) = (BytesMut::new(), Seen::new());
    encoder.begin(&mut out);
    for (name, value) in seen {
        encoder.field(Known::of(name), name, value, &mut out);
    }
    let read = decoder.decode(&out, |field| {
        said.push((field.name.to_vec(), field.value.to_vec()));
        true
    });
    assert!(read.is_ok() && said == *seen, "what was written is read as {said:?}");
}

/// What is taken has one meaning, by HTTP/1.1 as well.
fn taken(head: &RequestHead, length: Option<u64>) {
    if head.path() != "*" {
        assert!(path::is_canonical(head.path_bytes()), "{:?}", head.path());
    }
    assert_eq!(head.fields.all(b"host").collect::<Vec<_>>(), [head.authority_bytes()]);
    let mut out = BytesMut::new();
    let framing = length.map_or(Framing::Chunked, Framing::Length);
    let forwarded = Forwarded { peer: IpAddr::from([192, 0, 2, 1]), host: None };
    write::request_head(&mut out, head, &framing, None, &forwarded);
    let (mut read, wide) = (RequestHead::default(), HeadLimits { bytes_max: 4096, fields_max: 64 });
    let received = match request::parse(&mut out, &wide, Scheme::Http, &mut read) {
        Ok(Some(received)) => received,
        other => panic!("by HTTP/1.1 it is no request: {other:?}"),
    };
    assert!(out.is_empty(), "something stands behind the head: {:?}", text(&out));
    assert_eq!(received.framing, framing);
    assert_eq!(
        (&head.method, head.authority_bytes(), head.path_bytes(), head.query_bytes()),
        (&read.method, read.authority_bytes(), read.path_bytes(), read.query_bytes())
    );
    assert_eq!(lines(&head.fields), lines(&read.fields), "an upstream reads other fields");
}

/// The fields that pass through as they are.
fn lines(fields: &Fields) -> Vec<(String, String)> {
    let through = |known: Known| !matches!(known, Known::Host | Known::ContentLength) && !known.is_proxys_word();
    let through = fields.iter().filter(|(known, ..)| through(*known));
    through.map(|(_, name, value)| (text(name).into_owned(), text(value).into_owned())).collect()
}

fn make(random: &mut Random) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..1 + random.below(4) {
        let mut block = Vec::new();
        // Method, scheme, path and authority; in some one is missing or in another's place.
        let method = random.word(&["\x02", "\x03"], &["\x04", "\x06", ""]);
        block.extend(method.bytes().map(|index| index | 0x80));
        block.extend(random.word(&["\x06", "\x07"], &["\x02", ""]).bytes().map(|index| index | 0x80));
        let target = random.word(&["/", "/a/b?c=d", "/a/../b", "/%7Ea"], &["", "*", "x", "/a#b", "/a b", "/\r\n", "/a?b#c"]);
        literal(&mut block, ":path", target);
        literal(&mut block, ":authority", random.word(&["a", "Example.com:8080", "[::1]:80", "a.b."], &["", "a@b", "a/b", "a\n"]));
        for _ in 0..random.below(6) {
            let name = random.word(
                &["x-a", "cookie", "accept", "content-length", "host", "te", "expect", "x_forwarded_for"],
                &["X-A", "", "x a", ":path", "connection", "transfer-encoding", "upgrade", "x\n"],
            );
            let value =
                random.word(&["1", "a=b", "trailers", "a", "100-continue", ""], &["a\r\nb: c", " a", "a\t", "a\0", "\u{7f}", "5, 5"]);
            literal(&mut block, name, value);
        }
        if random.once_in(3) {
            block.push(0x80 | (random.below(70) as u8));
        }
        out.push(block.len().min(255) as u8);
        out.extend(block);
    }
    out
}

/// A field as it stands, put into the table or not.
fn literal(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(if value.len().is_multiple_of(2) { 0x40 } else { 0 });
    for part in [name, value] {
        block.push(part.len() as u8);
        block.extend_from_slice(part.as_bytes());
    }
}
