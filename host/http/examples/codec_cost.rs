//! What the codec costs, for counting instructions: 1,000 heads of one kind.
//!
//!     valgrind --tool=callgrind --toggle-collect=codec_cost::parse_request target/release/examples/codec_cost browser
//!
//! Kinds: `browser` (11 fields, 440 bytes), `bare` (one field), `answer` (6 fields), `chunks`, `unfinished` (32 KiB of head
//! without its end). Functions: `parse_request`, `write_request`, `parse_answer`, `write_answer`, `decode`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a measurement, not a part of the house")]

use bytes::BytesMut;
use std::hint::black_box;
use wharf_core::head::{RequestHead, ResponseHead, Scheme};
use wharf_http::codec::{Framing, HeadLimits, Version, body, request, response, write};
const BROWSER: &[u8] = b"GET /b/100?x=1 HTTP/1.1\r\nHost: example.com:8080\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\nAccept: text/html,application/xhtml+xml,*/*;q=0.8\r\nAccept-Language: en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\nCookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\nAuthorization: Bearer abcdef\r\nX-Request-Id: 0123456789abcdef\r\nCache-Control: no-cache\r\nConnection: keep-alive\r\n\r\n";
const BARE: &[u8] = b"GET /b/100 HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nServer: demo\r\nDate: Sun, 22 Nov 2026 15:00:00 GMT\r\nContent-Type: text/plain\r\nContent-Length: 100\r\nX-A: b\r\nConnection: keep-alive\r\n\r\n";
#[inline(never)]
fn parse_request(buf: &mut BytesMut, head: &mut RequestHead) -> request::Received {
    request::parse(buf, &HeadLimits::default(), Scheme::Http, head).unwrap().unwrap()
}
#[inline(never)]
fn parse_answer(buf: &mut BytesMut, head: &mut ResponseHead) -> response::Event {
    response::parse(buf, &HeadLimits::default(), &response::Asked::default(), head).unwrap().unwrap()
}
#[inline(never)]
fn write_request(out: &mut Vec<u8>, head: &RequestHead, r: &request::Received) {
    write::request_head(out, head, &r.framing, None, &write::Forwarded { peer: [127, 0, 0, 1].into(), host: None })
}
#[inline(never)]
fn write_answer(out: &mut Vec<u8>, head: &ResponseHead, r: &response::Received) {
    write::response_head(out, head, &r.framing, Version::Http11, true, b"Sun, 22 Nov 2026 15:00:00 GMT", None)
}
#[inline(never)]
fn parse_unfinished(buf: &mut BytesMut) {
    assert!(request::parse(buf, &HeadLimits::default(), Scheme::Http, &mut RequestHead::default()).unwrap().is_none())
}
#[inline(never)]
fn decode(d: &mut body::Decoder, b: &mut BytesMut) -> body::Piece {
    d.decode(b).unwrap()
}
fn main() {
    let what = std::env::args().nth(1).unwrap();
    let mut out = Vec::with_capacity(4096);
    let (mut head, mut answer) = (RequestHead::default(), ResponseHead::default());
    for _ in 0..1000 {
        match &*what {
            "browser" | "bare" => {
                let mut b = BytesMut::with_capacity(8192);
                b.extend_from_slice(if what == "browser" { BROWSER } else { BARE });
                let r = black_box(parse_request(&mut b, &mut head));
                out.clear();
                write_request(&mut out, &head, &r);
            }
            "answer" => {
                let mut b = BytesMut::with_capacity(8192);
                b.extend_from_slice(ANSWER);
                let response::Event::Final(r) = black_box(parse_answer(&mut b, &mut answer)) else { panic!() };
                out.clear();
                write_answer(&mut out, &answer, &r);
            }
            "unfinished" => {
                let mut b = BytesMut::from("GET / HTTP/1.1\r\nhost: a\r\n");
                for i in 0..98 {
                    b.extend_from_slice(format!("x-field-{i}: {}\r\n", "v".repeat(300)).as_bytes());
                }
                parse_unfinished(&mut b);
            }
            "chunks" => {
                let mut b = BytesMut::from("5\r\nhello\r\n0\r\n\r\n");
                let mut d = body::Decoder::new(Framing::Chunked);
                black_box(decode(&mut d, &mut b));
                black_box(decode(&mut d, &mut b));
            }
            other => panic!("no such kind: {other:?}"),
        }
    }
}
