//! Answers of upstreams: what is taken, and as what; what is refused. Every refusal is a 502.

use super::{fields, framing};
use bytes::BytesMut;
use wharf_http::codec::HeadLimits;
use wharf_http::codec::response::{self, Asked, Event};

/// `status framing[ close][ +rest] [fields]`, `interim status`, the refusal's word, or `more`.
fn told(input: &[u8], asked: &Asked, limits: &HeadLimits) -> String {
    let mut buf = BytesMut::from(input);
    let mut head = super::worn_answer();
    let received = match response::parse(&mut buf, limits, asked, &mut head) {
        Ok(Some(Event::Final(received))) => received,
        Ok(Some(Event::Interim(status))) => return format!("interim {status} +{}", String::from_utf8_lossy(&buf)),
        Ok(None) => {
            assert!(buf.eq_ignore_ascii_case(input), "an unfinished head is left as it is");
            return "more".into();
        }
        Err(refusal) => {
            assert_eq!(refusal.status, 502);
            return refusal.what.word().into();
        }
    };
    let mut text = format!("{} {}", head.status, framing(received.framing));
    if !received.keep_alive {
        text += " close";
    }
    if !buf.is_empty() {
        text += &format!(" +{}", String::from_utf8_lossy(&buf));
    }
    let rest = fields(&head.fields, &[]);
    if !rest.is_empty() {
        text += &format!(" [{rest}]");
    }
    text
}

fn check(asked: Asked, cases: &[(&str, &str)]) {
    let mut wrong = Vec::new();
    for (input, expected) in cases {
        let got = told(input.as_bytes(), &asked, &HeadLimits::default());
        if got != *expected {
            wrong.push(format!("{input:?}\n  gave     {got}\n  expected {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

const GET: Asked = Asked { head_method: false, connect: false, upgrade: false };
const HEAD: Asked = Asked { head_method: true, ..GET };
const SWITCH: Asked = Asked { upgrade: true, ..GET };

#[test]
fn ordinary_answers_are_understood() {
    check(
        GET,
        &[
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "200 2 +hi [content-length: 2]"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", "200 0 [content-length: 0]"),
            ("HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\n", "200 2 [content-length: 2]"),
            ("HTTP/1.1 200\r\nContent-Length: 2\r\n\r\n", "200 2 [content-length: 2]"),
            ("HTTP/1.1 200 any text \u{e9}\t!\r\nContent-Length: 2\r\n\r\n", "200 2 [content-length: 2]"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "200 chunked"),
            ("HTTP/1.1 200 OK\r\n\r\n", "200 until-close close"),
            ("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\n", "200 1 close [content-length: 1]"),
            ("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\n", "200 1 close [content-length: 1]"),
            ("HTTP/1.0 200 OK\r\nContent-Length: 1\r\nConnection: keep-alive\r\n\r\n", "200 1 [content-length: 1]"),
            ("HTTP/1.0 200 OK\r\n\r\n", "200 until-close close"),
            ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "404 0 [content-length: 0]"),
            ("HTTP/1.1 599 x\r\nContent-Length: 0\r\n\r\n", "599 0 [content-length: 0]"),
            ("HTTP/1.1 299 x\r\nContent-Length: 0\r\n\r\n", "299 0 [content-length: 0]"),
            (
                "HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 0\r\n\r\n",
                "200 0 [set-cookie: a=1|set-cookie: b=2|content-length: 0]",
            ),
            ("HTTP/1.1 200 OK\r\nX: caf\u{e9}\r\nContent-Length: 0\r\n\r\n", "200 0 [x: caf\u{e9}|content-length: 0]"),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n", "interim 100 +HTTP/1.1 200 OK\r\n"),
            ("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", "interim 103 +"),
            ("HTTP/1.1 199 x\r\n\r\n", "interim 199 +"),
            ("", "more"),
            ("HTTP/1.1 20", "more"),
            ("HTTP/1.1 200 OK\r\nA: b\r\n", "more"),
            ("HTTP/1.1 200 OK\r\nA: b\r\n\r", "more"),
        ],
    );
}

#[test]
fn what_is_no_status_line_is_refused() {
    check(
        GET,
        &[
            ("\r\nHTTP/1.1 200 OK\r\n\r\n", "status_line"),
            ("\nHTTP/1.1 200 OK\r\n\r\n", "status_line"),
            (" HTTP/1.1 200 OK\r\n\r\n", "status_line"),
            ("HTTP/1.1  200 OK\r\n\r\n", "status_line"),
            ("HTTP/1.1\t200 OK\r\n\r\n", "status_line"),
            ("HTTP/2.0 200 OK\r\n\r\n", "status_line"),
            ("HTTP/1.2 200 OK\r\n\r\n", "status_line"),
            ("http/1.1 200 OK\r\n\r\n", "status_line"),
            ("ICY 200 OK\r\n\r\n", "status_line"),
            ("<html>", "status_line"),
            ("GET / HTTP/1.1\r\n\r\n", "status_line"),
            ("HTTP/1.1 2000 OK\r\n\r\n", "status_line"),
            ("HTTP/1.1 20 OK\r\n\r\n", "status_line"),
            ("HTTP/1.1 abc OK\r\n\r\n", "status_line"),
            ("HTTP/1.1 -20 OK\r\n\r\n", "status_line"),
            ("HTTP/1.1 200OK\r\n\r\n", "status_line"),
            ("HTTP/1.1 200 O\0K\r\n\r\n", "status_line"),
            ("HTTP/1.1 200 O\rK\r\n\r\n", "status_line"),
            ("HTTP/1.1 200 O\x7fK\r\n\r\n", "status_line"),
            ("HTTP/1.1 099 x\r\n\r\n", "status"),
            ("HTTP/1.1 000 x\r\n\r\n", "status"),
            ("HTTP/1.1 600 x\r\n\r\n", "status"),
            ("HTTP/1.1 999 x\r\n\r\n", "status"),
        ],
    );
}

#[test]
fn field_lines_are_taken_literally_or_not_at_all() {
    check(
        GET,
        &[
            ("HTTP/1.1 200 OK\nA: b\r\n\r\n", "line_end"),
            ("HTTP/1.1 200\nA: b\r\n\r\n", "line_end"),
            ("HTTP/1.1 200 OK\r\nA: b\n\r\n", "line_end"),
            ("HTTP/1.1 200 OK\r\nA: b\r\n\n", "line_end"),
            ("HTTP/1.1 200 OK\r\nA: b\nB: c\r\n\r\n", "line_end"),
            ("HTTP/1.1 200 OK\n\n", "line_end"),
            ("HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n", "field_name"),
            ("HTTP/1.1 200 OK\r\n A: b\r\n\r\n", "field_name"),
            ("HTTP/1.1 200 OK\r\nA : b\r\n\r\n", "field_name"),
            ("HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\n", "field_name"),
            ("HTTP/1.1 200 OK\r\nA b\r\n\r\n", "field_name"),
            ("HTTP/1.1 200 OK\r\nA: b\0c\r\n\r\n", "field_value"),
            ("HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n", "field_value"),
            ("HTTP/1.1 200 OK\r\nA: b\x08\r\n\r\n", "field_value"),
            ("HTTP/1.1 200 OK\r\nA: b\x7f\r\n\r\n", "field_value"),
        ],
    );
}

#[test]
fn framing_is_said_once_and_plainly() {
    check(
        GET,
        &[
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\n", "length_twice"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", "length_twice"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n", "length"),
            ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "length"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 1x\r\n\r\n", "length"),
            ("HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n", "length"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", "length"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "length_and_coding"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", "length_and_coding"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "coding_unknown"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "coding_unknown"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n", "coding"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", "coding"),
            ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "coding_old_version"),
            // The same holds where there is no body: a broken upstream is a broken upstream.
            ("HTTP/1.1 204 x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "length_and_coding"),
            ("HTTP/1.1 304 x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", "length_twice"),
        ],
    );
}

#[test]
fn an_answer_without_a_body_has_none_whatever_its_fields_say() {
    check(
        GET,
        &[
            ("HTTP/1.1 204 No Content\r\n\r\n", "204 none"),
            ("HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n", "204 none"),
            // It says a body: if that comes, it must not be the next answer.
            ("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello", "204 none close +hello"),
            ("HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", "204 none close"),
            ("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: x\r\n\r\n", "304 none [content-length: 5|etag: x]"),
            ("HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", "304 none"),
            ("HTTP/1.1 304 Not Modified\r\n\r\n", "304 none"),
        ],
    );
    check(
        HEAD,
        &[
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "200 none [content-length: 5]"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "200 none"),
            ("HTTP/1.1 200 OK\r\n\r\n", "200 none"),
            ("HTTP/1.1 500 x\r\nContent-Length: 5\r\n\r\nhello", "500 none +hello [content-length: 5]"),
        ],
    );
    let connect = Asked { connect: true, ..GET };
    check(
        connect,
        &[("HTTP/1.1 200 OK\r\n\r\n", "200 none close"), ("HTTP/1.1 403 x\r\nContent-Length: 1\r\n\r\n", "403 1 [content-length: 1]")],
    );
}

#[test]
fn protocols_switch_only_when_asked() {
    let full = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\nframe";
    check(GET, &[(full, "switch")]);
    check(HEAD, &[(full, "switch")]);
    check(
        SWITCH,
        &[
            (full, "101 none close +frame [sec-websocket-accept: x|upgrade: websocket]"),
            ("HTTP/1.1 101 x\r\nConnection: upgrade\r\n\r\n", "switch"),
            ("HTTP/1.1 101 x\r\nUpgrade: websocket\r\n\r\n", "switch"),
            ("HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: a\r\nUpgrade: b\r\n\r\n", "switch"),
            ("HTTP/1.0 101 x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", "switch"),
            ("HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\r\n", "interim_body"),
            ("HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n\r\n", "interim_body"),
            // It may also say no.
            ("HTTP/1.1 400 x\r\nContent-Length: 0\r\n\r\n", "400 0 [content-length: 0]"),
        ],
    );
    check(
        GET,
        &[
            ("HTTP/1.1 100 x\r\nContent-Length: 5\r\n\r\nhello", "interim_body"),
            ("HTTP/1.1 103 x\r\nTransfer-Encoding: chunked\r\n\r\n", "interim_body"),
        ],
    );
}

#[test]
fn fields_about_one_connection_end_here() {
    check(
        GET,
        &[
            ("HTTP/1.1 200 OK\r\nConnection: x-a\r\nX-A: 1\r\nX-B: 2\r\nContent-Length: 0\r\n\r\n", "200 0 [x-b: 2|content-length: 0]"),
            ("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5\r\nContent-Length: 0\r\n\r\n", "200 0 [content-length: 0]"),
            ("HTTP/1.1 200 OK\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n", "200 0 [content-length: 0]"),
            ("HTTP/1.1 200 OK\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n", "200 0 [content-length: 0]"),
            ("HTTP/1.1 200 OK\r\nTrailer: x\r\nTE: y\r\nContent-Length: 0\r\n\r\n", "200 0 [content-length: 0]"),
            ("HTTP/1.1 200 OK\r\nConnection: content-length\r\nContent-Length: 5\r\n\r\n", "200 5 [content-length: 5]"),
            ("HTTP/1.1 200 OK\r\nConnection: \"\r\nContent-Length: 5\r\n\r\n", "connection"),
        ],
    );
}

#[test]
fn a_head_has_limits() {
    let limits = HeadLimits { bytes_max: 64, fields_max: 2 };
    let told = |input: &str| told(input.as_bytes(), &GET, &limits);
    assert_eq!(told("HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 0\r\n\r\n"), "200 0 [a: b|content-length: 0]");
    assert_eq!(told("HTTP/1.1 200 OK\r\nA: b\r\nB: c\r\nContent-Length: 0\r\n\r\n"), "field_count");
    assert_eq!(told(&format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "b".repeat(64))), "head_bytes");
    assert_eq!(told(&format!("HTTP/1.1 200 {}\r\n\r\n", "b".repeat(64))), "head_bytes");
}
