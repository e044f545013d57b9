//! Heads and chunks on their way out: what is written, and that it reads back as what it was.

use bytes::BytesMut;
use std::net::IpAddr;
use wharf_core::head::{Known, RequestHead, ResponseHead, Scheme};
use wharf_http::codec::write::{self, Forwarded};
use wharf_http::codec::{Framing, HeadLimits, Version, request, response};

const DATE: &[u8; 29] = b"Sun, 22 Nov 2026 15:00:00 GMT";

fn received(input: &str) -> RequestHead {
    let mut head = RequestHead::default();
    request::parse(&mut BytesMut::from(input), &HeadLimits::default(), Scheme::Http, &mut head).unwrap().unwrap();
    head
}

fn answered(input: &str) -> ResponseHead {
    let asked = response::Asked { upgrade: true, ..Default::default() };
    let mut head = ResponseHead::default();
    match response::parse(&mut BytesMut::from(input), &HeadLimits::default(), &asked, &mut head).unwrap().unwrap() {
        response::Event::Final(_) => head,
        response::Event::Interim(_) => panic!("an interim answer"),
    }
}

fn check_request(head: &RequestHead, framing: Framing, upgrade: Option<&str>, peer: &str, expected: &str) {
    let mut out = Vec::new();
    let forwarded = Forwarded { peer: peer.parse::<IpAddr>().unwrap(), host: None };
    write::request_head(&mut out, head, &framing, upgrade, &forwarded);
    assert_eq!(String::from_utf8_lossy(&out).replace("\r\n", "|"), expected);
    let mut again = BytesMut::new();
    write::request_head(&mut again, head, &framing, upgrade, &forwarded);
    assert_eq!(out, again, "both kinds of buffer are written alike");
}

fn check_response(head: &ResponseHead, framing: Framing, version: Version, keep_alive: bool, upgrade: Option<&str>, expected: &str) {
    let mut out = Vec::new();
    write::response_head(&mut out, head, &framing, version, keep_alive, DATE, upgrade);
    assert_eq!(String::from_utf8_lossy(&out).replace("\r\n", "|"), expected);
}

#[test]
fn a_request_is_written_anew() {
    let head = received(
        "GET //a/../b?q HTTP/1.1\r\nHost: Ex.Ample:81\r\nAccept:*/*\r\nX-A: 1\r\nX-B:  2 \r\nConnection: close\r\nTE: trailers\r\n\r\n",
    );
    check_request(
        &head,
        Framing::None,
        None,
        "192.0.2.1",
        "GET /b?q HTTP/1.1|host: ex.ample:81|accept: */*|x-a: 1|x-b: 2|x-forwarded-for: 192.0.2.1|x-forwarded-proto: http|\
         x-forwarded-host: ex.ample:81||",
    );
    check_request(
        &received("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"),
        Framing::Length(5),
        None,
        "10.0.0.255",
        "POST / HTTP/1.1|host: h|x-forwarded-for: 10.0.0.255|x-forwarded-proto: http|x-forwarded-host: h|content-length: 5||",
    );
    // A body whose length the client gave may be sent in chunks, and never both.
    check_request(
        &received("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n"),
        Framing::Chunked,
        None,
        "::1",
        "POST / HTTP/1.1|host: h|x-forwarded-for: ::1|x-forwarded-proto: http|x-forwarded-host: h|transfer-encoding: chunked||",
    );
    // An IPv4 client of an IPv6 listener is an IPv4 client; a request without a host says so.
    check_request(
        &received("OPTIONS * HTTP/1.0\r\n\r\n"),
        Framing::None,
        None,
        "::ffff:1.2.3.4",
        "OPTIONS * HTTP/1.1|host: |x-forwarded-for: 1.2.3.4|x-forwarded-proto: http||",
    );
    let mut head = received("GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n\r\n");
    head.scheme = Scheme::Https;
    check_request(
        &head,
        Framing::None,
        Some("websocket"),
        "1.2.3.4",
        "GET / HTTP/1.1|host: h|sec-websocket-key: k|x-forwarded-for: 1.2.3.4|x-forwarded-proto: https|x-forwarded-host: h|\
         connection: upgrade|upgrade: websocket||",
    );
}

#[test]
fn an_upstream_may_be_asked_by_its_own_name() {
    let mut out = Vec::new();
    let forwarded = Forwarded { peer: [1, 1, 1, 1].into(), host: Some("10.0.0.7:81") };
    write::request_head(&mut out, &received("GET / HTTP/1.1\r\nHost: h\r\n\r\n"), &Framing::None, None, &forwarded);
    let expected = "GET / HTTP/1.1|host: 10.0.0.7:81|x-forwarded-for: 1.1.1.1|x-forwarded-proto: http|x-forwarded-host: h||";
    assert_eq!(String::from_utf8_lossy(&out).replace("\r\n", "|"), expected);
}

#[test]
fn what_a_trusted_proxy_said_is_carried_on() {
    // The front removes these fields where their client is not trusted; what still stands there is passed on.
    check_request(
        &received(
            "GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 9.9.9.9\r\nX-Forwarded-Proto: https\r\nX-Forwarded-For: 8.8.8.8, 7.7.7.7\r\nX-Forwarded-For:\r\n\
             X-Forwarded-Host: o\r\nX-Real-IP: 9.9.9.9\r\n\r\n",
        ),
        Framing::None,
        None,
        "1.1.1.1",
        "GET / HTTP/1.1|host: h|x-forwarded-proto: https|x-forwarded-host: o|x-real-ip: 9.9.9.9|\
         x-forwarded-for: 9.9.9.9, 8.8.8.8, 7.7.7.7, 1.1.1.1||",
    );
}

#[test]
fn edits_are_written_like_received_fields() {
    let mut head = received("GET /old?q HTTP/1.1\r\nHost: h\r\nA: 1\r\nB: 2\r\nC: 3\r\nD: 4\r\n\r\n");
    head.set_path("/new");
    head.fields.remove(b"b");
    head.fields.set(b"a", b"one");
    head.fields.add(b"e", b"5");
    // Nobody may frame or switch by an edit.
    head.fields.add(b"transfer-encoding", b"chunked");
    head.fields.add(b"connection", b"close");
    head.fields.add(b"upgrade", b"h2c");
    head.fields.add(b"content-length", b"7");
    head.fields.add(b"host", b"evil");
    check_request(
        &head,
        Framing::None,
        None,
        "1.1.1.1",
        "GET /new?q HTTP/1.1|host: h|c: 3|d: 4|a: one|e: 5|x-forwarded-for: 1.1.1.1|x-forwarded-proto: http|x-forwarded-host: h||",
    );
}

#[test]
fn an_answer_is_written_anew() {
    let head = answered("HTTP/1.1 200 Fine\r\nServer: s\r\nContent-Length: 5\r\nConnection: close\r\nX:1\r\n\r\n");
    check_response(
        &head,
        Framing::Length(5),
        Version::Http11,
        true,
        None,
        "HTTP/1.1 200 OK|server: s|x: 1|date: Sun, 22 Nov 2026 15:00:00 GMT|content-length: 5||",
    );
    check_response(
        &head,
        Framing::Length(5),
        Version::Http11,
        false,
        None,
        "HTTP/1.1 200 OK|server: s|x: 1|date: Sun, 22 Nov 2026 15:00:00 GMT|content-length: 5|connection: close||",
    );
    check_response(
        &head,
        Framing::Chunked,
        Version::Http11,
        true,
        None,
        "HTTP/1.1 200 OK|server: s|x: 1|date: Sun, 22 Nov 2026 15:00:00 GMT|transfer-encoding: chunked||",
    );
    // HTTP/1.0: the connection is kept only by saying so.
    check_response(
        &head,
        Framing::Length(5),
        Version::Http10,
        true,
        None,
        "HTTP/1.1 200 OK|server: s|x: 1|date: Sun, 22 Nov 2026 15:00:00 GMT|content-length: 5|connection: keep-alive||",
    );
    check_response(
        &head,
        Framing::UntilClose,
        Version::Http10,
        true,
        None,
        "HTTP/1.1 200 OK|server: s|x: 1|date: Sun, 22 Nov 2026 15:00:00 GMT|connection: close||",
    );
    check_response(
        &answered("HTTP/1.1 204 x\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\n\r\n"),
        Framing::None,
        Version::Http11,
        true,
        None,
        "HTTP/1.1 204 No Content|date: Mon, 01 Jan 2024 00:00:00 GMT||",
    );
    check_response(
        &ResponseHead::new(299),
        Framing::Length(0),
        Version::Http11,
        true,
        None,
        "HTTP/1.1 299 |date: Sun, 22 Nov 2026 15:00:00 GMT|content-length: 0||",
    );
    check_response(
        &answered("HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: k\r\nDate: d\r\n\r\n"),
        Framing::None,
        Version::Http11,
        true,
        Some("websocket"),
        "HTTP/1.1 101 Switching Protocols|sec-websocket-accept: k|date: d|connection: upgrade|upgrade: websocket||",
    );
}

#[test]
fn every_status_reads_back() {
    for status in 200..600 {
        let mut out = BytesMut::new();
        write::response_head(&mut out, &ResponseHead::new(status), &Framing::Length(1), Version::Http11, true, DATE, None);
        let mut head = ResponseHead::default();
        match response::parse(&mut out, &HeadLimits::default(), &response::Asked::default(), &mut head) {
            Ok(Some(response::Event::Final(_))) => {
                assert_eq!(head.status, status);
                assert_eq!(head.fields.known(Known::Date), Some(&DATE[..]));
            }
            other => panic!("{status}: {other:?}"),
        }
        assert!(out.is_empty());
    }
}

#[test]
fn chunks_read_back() {
    use wharf_http::codec::body::{Decoder, Piece};
    for len in [1, 9, 10, 15, 16, 17, 255, 256, 4095, 4096, 65_535, 65_536, 1_000_000] {
        let mut out = BytesMut::new();
        write::chunk_head(&mut out, len);
        assert_eq!(out, format!("{len:x}\r\n"), "{len}");
        out.extend_from_slice(&vec![b'x'; len]);
        out.extend_from_slice(write::CHUNK_TAIL);
        write::last_chunk(&mut out, None);
        let mut decoder = Decoder::new(Framing::Chunked);
        assert!(matches!(decoder.decode(&mut out), Ok(Piece::Data(data)) if data.len() == len));
        assert!(matches!(decoder.decode(&mut out), Ok(Piece::End(None))));
    }
    let mut out = Vec::new();
    write::chunk_head(&mut out, usize::MAX);
    assert_eq!(out, b"ffffffffffffffff\r\n");
}

#[test]
fn trailers_are_written_but_for_those_that_may_not_trail() {
    let mut trailers = wharf_core::head::Fields::default();
    trailers.add(b"x-sum", b"1");
    trailers.add(b"content-length", b"5");
    trailers.add(b"host", b"evil");
    trailers.add(b"authorization", b"x");
    let mut out = Vec::new();
    write::last_chunk(&mut out, Some(&trailers));
    assert_eq!(out, b"0\r\nx-sum: 1\r\n\r\n");
    out.clear();
    write::last_chunk(&mut out, None);
    assert_eq!(out, b"0\r\n\r\n");
}
