//! Requests: what is taken, and as what; what is refused, and with which status.

use super::{fields, framing};
use bytes::BytesMut;
use wharf_core::head::{RequestHead, Scheme};
use wharf_http::codec::{HeadLimits, Version, request};

/// `METHOD authority path?query framing[ 1.0][ close][ continue][ upgrade=x][ +rest] [fields]`, or `status word`, or
/// `more`. Field host is left out of the fields: it is always the authority, and that is asserted.
fn told(input: &[u8], limits: &HeadLimits) -> String {
    let mut buf = BytesMut::from(input);
    let mut head = super::worn();
    let received = match request::parse(&mut buf, limits, Scheme::Http, &mut head) {
        Ok(Some(received)) => received,
        Ok(None) => {
            assert!(buf.eq_ignore_ascii_case(input), "an unfinished head is left as it is");
            return "more".into();
        }
        Err(refusal) => return format!("{} {}", refusal.status, refusal.what.word()),
    };
    let hosts: Vec<_> = head.fields.all(b"host").collect();
    if head.authority().is_empty() {
        assert!(hosts.is_empty());
    } else {
        assert_eq!(hosts, [head.authority().as_bytes()], "field host is the authority");
    }
    let mut text = format!("{} {} {}", head.method.as_str(), head.authority(), head.path());
    if let Some(query) = head.query() {
        text += &format!("?{query}");
    }
    text += &format!(" {}", framing(received.framing));
    if received.version == Version::Http10 {
        text += " 1.0";
    }
    if !received.keep_alive {
        text += " close";
    }
    if received.expects_continue {
        text += " continue";
    }
    if let Some(upgrade) = &received.upgrade {
        text += &format!(" upgrade={upgrade}");
    }
    if !buf.is_empty() {
        text += &format!(" +{}", String::from_utf8_lossy(&buf));
    }
    let rest = fields(&head.fields, &["host"]);
    if !rest.is_empty() {
        text += &format!(" [{rest}]");
    }
    text
}

fn check(cases: &[(&str, &str)]) {
    let mut wrong = Vec::new();
    for (input, expected) in cases {
        let got = told(input.as_bytes(), &HeadLimits::default());
        if got != *expected {
            wrong.push(format!("{input:?}\n  gave     {got}\n  expected {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// A request line with a host behind it.
fn check_lines(cases: &[(&str, &str)]) {
    let whole: Vec<_> = cases.iter().map(|(line, expected)| (format!("{line}\r\nHost: h\r\n\r\n"), *expected)).collect();
    check(&whole.iter().map(|(input, expected)| (input.as_str(), *expected)).collect::<Vec<_>>());
}

/// Fields of a POST behind a host.
fn check_fields(cases: &[(&str, &str)]) {
    let whole: Vec<_> =
        cases.iter().map(|(lines, expected)| (format!("POST / HTTP/1.1\r\nHost: h\r\n{lines}\r\n\r\n"), *expected)).collect();
    check(&whole.iter().map(|(input, expected)| (input.as_str(), *expected)).collect::<Vec<_>>());
}

#[test]
fn ordinary_requests_are_understood() {
    check(&[
        ("GET / HTTP/1.1\r\nHost: h\r\n\r\n", "GET h / none"),
        ("GET / HTTP/1.1\r\nhost:h\r\n\r\n", "GET h / none"),
        ("GET / HTTP/1.1\r\nHOST:  \t h \t \r\n\r\n", "GET h / none"),
        ("GET /a/b?c=d&e HTTP/1.1\r\nHost: Example.COM:8080\r\nAccept: */*\r\n\r\n", "GET example.com:8080 /a/b?c=d&e none [accept: */*]"),
        ("GET /? HTTP/1.1\r\nHost: h\r\n\r\n", "GET h /? none"),
        ("GET /?a?b/../c HTTP/1.1\r\nHost: h\r\n\r\n", "GET h /?a?b/../c none"),
        ("HEAD / HTTP/1.1\r\nHost: h\r\n\r\n", "HEAD h / none"),
        ("DELETE /x HTTP/1.1\r\nHost: h\r\n\r\n", "DELETE h /x none"),
        ("PATCH /x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi", "PATCH h /x 2 +hi [content-length: 2]"),
        ("M-SEARCH /x HTTP/1.1\r\nHost: h\r\n\r\n", "M-SEARCH h /x none"),
        ("get / HTTP/1.1\r\nHost: h\r\n\r\n", "get h / none"),
        ("GET / HTTP/1.1\r\nHost: h\r\nX_Under-Score.Dot: v\r\n\r\n", "GET h / none [x_under-score.dot: v]"),
        ("GET / HTTP/1.1\r\nHost: h\r\n!#$%&'*+-.^_`|~09aZ: v\r\n\r\n", "GET h / none [!#$%&'*+-.^_`|~09az: v]"),
        ("GET / HTTP/1.1\r\nHost: h\r\nA:\r\nB: \r\nC:\t\r\n\r\n", "GET h / none [a: |b: |c: ]"),
        ("GET / HTTP/1.1\r\nHost: h\r\nA: b\tc  d\t\r\n\r\n", "GET h / none [a: b\tc  d]"),
        ("GET / HTTP/1.1\r\nHost: h\r\nA: caf\u{e9}\r\n\r\n", "GET h / none [a: caf\u{e9}]"),
        ("GET / HTTP/1.1\r\nHost: h\r\nA: 1\r\nA: 2\r\n\r\n", "GET h / none [a: 1|a: 2]"),
        // Pipelined: what follows stays.
        ("GET /1 HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTTP/1.1\r\n", "GET h /1 none +GET /2 HTTP/1.1\r\n"),
        // One empty line before a request.
        ("\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", "GET h / none"),
        // Not finished.
        ("", "more"),
        ("\r", "more"),
        ("\r\n", "more"),
        ("G", "more"),
        ("GET / HTTP/1.", "more"),
        ("GET / HTTP/1.1\r\nHost: h\r\n", "more"),
        ("GET / HTTP/1.1\r\nHost: h\r\n\r", "more"),
    ]);
}

#[test]
fn what_is_no_request_line_is_refused() {
    check_lines(&[
        ("GET  / HTTP/1.1", "400 request_line"),
        ("GET /  HTTP/1.1", "400 request_line"),
        ("GET\t/ HTTP/1.1", "400 request_line"),
        (" GET / HTTP/1.1", "400 request_line"),
        ("GET / HTTP/1.1 ", "400 line_end"),
        ("GET / HTTP/1.1\r", "400 line_end"),
        ("GET /", "400 request_line"),
        ("GET", "400 request_line"),
        ("GET / ", "400 request_line"),
        ("GET / http/1.1", "400 request_line"),
        ("GET / HTTP/1.1x", "400 line_end"),
        ("GET / HTTP1.1", "400 request_line"),
        ("GET / HTTP/", "400 request_line"),
        ("GET / HTTP/x.1", "400 request_line"),
        ("GET / FTP/1.1", "400 request_line"),
        ("GET / HTTP/2.0", "505 version"),
        ("GET / HTTP/0.9", "505 version"),
        ("GET / HTTP/1.2", "505 version"),
        ("GET / HTTP/1.10", "400 line_end"),
        ("PRI * HTTP/2.0", "505 version"),
        ("G@T / HTTP/1.1", "400 request_line"),
        ("GET: / HTTP/1.1", "400 request_line"),
        ("G\u{e9}T / HTTP/1.1", "400 request_line"),
        ("G\0T / HTTP/1.1", "400 request_line"),
        ("GET /\0 HTTP/1.1", "400 request_line"),
        ("GET /\u{7f} HTTP/1.1", "400 request_line"),
        ("GET /a\tb HTTP/1.1", "400 request_line"),
        ("GET /a b HTTP/1.1", "400 request_line"),
        ("GET /a\rb HTTP/1.1", "400 request_line"),
    ]);
    check(&[
        ("\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", "400 line_end"),
        ("\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", "400 line_end"),
        ("\r\n\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", "400 line_end"),
        ("\rGET / HTTP/1.1\r\nHost: h\r\n\r\n", "400 line_end"),
        ("\x16\x03\x01\x02\0\x01", "400 request_line"),
    ]);
}

#[test]
fn a_target_has_one_of_four_forms() {
    check_lines(&[
        ("OPTIONS * HTTP/1.1", "OPTIONS h * none"),
        ("GET * HTTP/1.1", "400 target"),
        ("OPTIONS *a HTTP/1.1", "400 target"),
        ("CONNECT h:443 HTTP/1.1", "501 connect"),
        ("CONNECT / HTTP/1.1", "501 connect"),
        ("GET h:80 HTTP/1.1", "400 target"),
        ("GET a/b HTTP/1.1", "400 target"),
        ("GET ?a HTTP/1.1", "400 target"),
        ("GET # HTTP/1.1", "400 target"),
        ("GET ftp://h/ HTTP/1.1", "400 target"),
        ("GET ws://h/ HTTP/1.1", "400 target"),
        ("GET javascript:x HTTP/1.1", "400 target"),
        ("GET http:/h/ HTTP/1.1", "400 target"),
        ("GET http:// HTTP/1.1", "400 host"),
        ("GET http:///a HTTP/1.1", "400 host"),
        ("GET /a#b HTTP/1.1", "400 path"),
        ("GET /a?b#c HTTP/1.1", "400 query"),
        ("GET http://h#f HTTP/1.1", "400 path"),
        ("GET /\u{e9} HTTP/1.1", "400 path"),
        ("GET /?\u{e9} HTTP/1.1", "400 query"),
        ("GET /?a=\"<>|{} HTTP/1.1", "GET h /?a=\"<>|{} none"),
        // Absolute form: the target's host counts (RFC 9112 section 3.2.2).
        ("GET http://h/a HTTP/1.1", "GET h /a none"),
        ("GET http://other.example/a?b HTTP/1.1", "GET other.example /a?b none"),
        ("GET HTTP://OTHER:81 HTTP/1.1", "GET other:81 / none"),
        ("GET https://other?q HTTP/1.1", "GET other /?q none"),
        ("GET http://other/a/../b HTTP/1.1", "GET other /b none"),
        ("OPTIONS http://other HTTP/1.1", "OPTIONS other * none"),
        ("OPTIONS http://other/ HTTP/1.1", "OPTIONS other / none"),
        ("GET http://u@other/ HTTP/1.1", "400 host"),
        ("GET http://other:0/ HTTP/1.1", "400 host"),
        ("GET http://other:80:81/ HTTP/1.1", "400 host"),
        ("GET http://oth%65r/ HTTP/1.1", "400 host"),
        ("GET http://other\\/ HTTP/1.1", "400 host"),
    ]);
    check(&[
        ("GET http://other/ HTTP/1.1\r\n\r\n", "400 host_missing"),
        ("GET http://other/ HTTP/1.1\r\nHost: a b\r\n\r\n", "400 host"),
        ("GET http://other/ HTTP/1.0\r\n\r\n", "GET other / none 1.0 close"),
    ]);
}

#[test]
fn a_path_has_one_canonical_form() {
    check_lines(&[
        ("GET /a/./b HTTP/1.1", "GET h /a/b none"),
        ("GET /a/../b HTTP/1.1", "GET h /b none"),
        ("GET //a//b HTTP/1.1", "GET h /a/b none"),
        ("GET /%61%2d HTTP/1.1", "GET h /a- none"),
        ("GET /a%20b?%20 HTTP/1.1", "GET h /a%20b?%20 none"),
        ("GET /%2e%2e/a HTTP/1.1", "400 path"),
        ("GET /../a HTTP/1.1", "400 path"),
        ("GET /a/..;/b HTTP/1.1", "400 path"),
        ("GET /a%2fb HTTP/1.1", "400 path"),
        ("GET /a%5cb HTTP/1.1", "400 path"),
        ("GET /a\\b HTTP/1.1", "400 path"),
        ("GET /%252e%252e/a HTTP/1.1", "400 path"),
        ("GET /a%00 HTTP/1.1", "400 path"),
        ("GET /a%zz HTTP/1.1", "400 path"),
        ("GET /a% HTTP/1.1", "400 path"),
    ]);
}

#[test]
fn there_is_exactly_one_valid_host() {
    check(&[
        ("GET / HTTP/1.1\r\n\r\n", "400 host_missing"),
        ("GET / HTTP/1.1\r\nX: h\r\n\r\n", "400 host_missing"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400 host_twice"),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "400 host_twice"),
        ("GET / HTTP/1.1\r\nHost: a\r\nhOST:\r\n\r\n", "400 host_twice"),
        ("GET / HTTP/1.0\r\n\r\n", "GET  / none 1.0 close"),
        ("GET / HTTP/1.0\r\nHost: a\r\n\r\n", "GET a / none 1.0 close"),
        ("GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", "400 host_twice"),
        ("GET / HTTP/1.0\r\nHost: a/b\r\n\r\n", "400 host"),
    ]);
    let hosts = [
        ("a", "a"),
        ("A.b-C_d.Example", "a.b-c_d.example"),
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1:8080", "127.0.0.1:8080"),
        ("[::1]", "[::1]"),
        ("[2001:DB8::A]:443", "[2001:db8::a]:443"),
        ("[::ffff:1.2.3.4]", "[::ffff:1.2.3.4]"),
        ("a:1", "a:1"),
        ("a:65535", "a:65535"),
        ("a:00080", "a:00080"),
        // Two spellings of one name are one name.
        ("a.example.", "a.example"),
        ("a.example.:80", "a.example:80"),
        ("a:", "a"),
        ("a.:", "a"),
        ("[::1]:", "[::1]"),
    ];
    for (host, plain) in hosts {
        check(&[(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"), &format!("GET {plain} / none"))]);
    }
    for bad in [
        "",
        "h/evil",
        "a@evil",
        "u:p@h",
        "a b",
        "a\tb",
        "a,b",
        "a;b",
        "a?b",
        "a#b",
        "a\\b",
        "a%41",
        "a\"b",
        "<a>",
        "a:b",
        "a:-1",
        "a:+80",
        "a:0",
        "a:65536",
        "a:999999",
        "a:80a",
        "a:80:80",
        ":80",
        ":",
        ".",
        "..",
        ".a",
        "a..b",
        "a...",
        "[",
        "]",
        "[]",
        "[::1",
        "::1",
        "[::1]a",
        "[::1%25eth0]",
        "[::1%eth0]",
        "[v1.a]",
        "[1.2.3.4]",
        "[:::1]",
        "\u{e9}",
        "a\u{7f}",
        "*",
        "a(b)",
        "http://a",
        "a/",
    ] {
        let expected = if bad.contains('\u{7f}') { "400 field_value" } else { "400 host" };
        check(&[(&format!("GET / HTTP/1.1\r\nHost: {bad}\r\n\r\n"), expected)]);
    }
}

#[test]
fn field_lines_are_taken_literally_or_not_at_all() {
    check_fields(&[
        ("A : b", "400 field_name"),
        ("A\t: b", "400 field_name"),
        (" A: b", "400 field_name"),
        ("\tA: b", "400 field_name"),
        ("A: b\r\n c", "400 field_name"),
        ("A: b\r\n\tc: d", "400 field_name"),
        ("A:\r\n b", "400 field_name"),
        ("A", "400 field_name"),
        (": b", "400 field_name"),
        ("A b: c", "400 field_name"),
        ("A\u{e9}: b", "400 field_name"),
        ("A(b): c", "400 field_name"),
        ("A/b: c", "400 field_name"),
        ("A\0: b", "400 field_name"),
        ("\"A\": b", "400 field_name"),
        ("A,B: c", "400 field_name"),
        ("A: b\0", "400 field_value"),
        ("A: \0b", "400 field_value"),
        ("A: b\x01c", "400 field_value"),
        ("A: b\x1bc", "400 field_value"),
        ("A: b\x7fc", "400 field_value"),
        ("A: b\rc", "400 field_value"),
        ("A: b\r\rc: d", "400 field_value"),
        ("A: b\r\r", "400 field_value"),
        ("A: \rb", "400 field_value"),
        ("A: b\nC: d", "400 line_end"),
        ("A:\nC: d", "400 line_end"),
        ("A: b\n", "400 line_end"),
        ("A\r\n: b", "400 field_name"),
        ("A\n: b", "400 field_name"),
    ]);
    check(&[
        ("GET / HTTP/1.1\nHost: h\r\n\r\n", "400 line_end"),
        ("GET / HTTP/1.1\nHost: h\n\n", "400 line_end"),
        ("GET / HTTP/1.1\r\nHost: h\n\r\n", "400 line_end"),
        ("GET / HTTP/1.1\r\nHost: h\r\n\n", "400 line_end"),
        ("GET / HTTP/1.1\r\nHost: h\n\n", "400 line_end"),
        ("GET / HTTP/1.0\n\r\n", "400 line_end"),
        ("GET / HTTP/1.0\r\n\n", "400 line_end"),
        ("GET / HTTP/1.1\r\n Host: h\r\n\r\n", "400 field_name"),
        ("GET / HTTP/1.1\r\nHost: h\r\n\rX: y\r\n\r\n", "400 line_end"),
    ]);
}

#[test]
fn framing_is_said_once_and_plainly() {
    check_fields(&[
        ("Content-Length: 0", "POST h / 0 [content-length: 0]"),
        ("Content-Length: 5", "POST h / 5 [content-length: 5]"),
        ("Content-Length:5  ", "POST h / 5 [content-length: 5]"),
        ("Content-Length: 005", "POST h / 5 [content-length: 005]"),
        ("Content-Length: 18446744073709551615", "POST h / 18446744073709551615 [content-length: 18446744073709551615]"),
        ("Content-Length: 18446744073709551616", "400 length"),
        ("Content-Length: 99999999999999999999999", "400 length"),
        ("Content-Length:", "400 length"),
        ("Content-Length: +5", "400 length"),
        ("Content-Length: -5", "400 length"),
        ("Content-Length: 5 5", "400 length"),
        ("Content-Length: 5,5", "400 length"),
        ("Content-Length: 5, 5", "400 length"),
        ("Content-Length: 5;", "400 length"),
        ("Content-Length: 0x5", "400 length"),
        ("Content-Length: 5.0", "400 length"),
        ("Content-Length: 5e1", "400 length"),
        ("Content-Length: five", "400 length"),
        ("Content-Length: \u{665}", "400 length"),
        ("Content-Length: \"5\"", "400 length"),
        ("Content-Length: 5\r\nContent-Length: 5", "400 length_twice"),
        ("Content-Length: 5\r\nContent-Length: 6", "400 length_twice"),
        ("Content-Length: 0\r\ncontent-length: 0", "400 length_twice"),
        ("Content_Length: 5", "POST h / none"),
        ("Transfer-Encoding: chunked", "POST h / chunked"),
        ("Transfer-Encoding: Chunked", "POST h / chunked"),
        ("transfer-encoding:\tCHUNKED \t", "POST h / chunked"),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "400 coding"),
        ("Transfer-Encoding: chunked, chunked", "400 coding"),
        ("Transfer-Encoding: chunked,", "400 coding"),
        ("Transfer-Encoding: ,chunked", "400 coding"),
        ("Transfer-Encoding: chunked;q=1", "400 coding"),
        ("Transfer-Encoding: \"chunked\"", "400 coding"),
        ("Transfer-Encoding: chunked, gzip", "400 coding"),
        ("Transfer-Encoding: chunked, identity", "400 coding"),
        ("Transfer-Encoding: ", "400 coding"),
        ("Transfer-Encoding: chunked chunked", "400 coding"),
        ("Transfer-Encoding: \u{b}chunked", "400 field_value"),
        ("Transfer-Encoding: gzip, chunked", "501 coding_unknown"),
        ("Transfer-Encoding: gzip", "501 coding_unknown"),
        ("Transfer-Encoding: identity", "501 coding_unknown"),
        ("Transfer-Encoding: xchunked", "501 coding_unknown"),
        ("Transfer-Encoding: chunke", "501 coding_unknown"),
        ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked", "501 coding_unknown"),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "501 coding_unknown"),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", "400 length_and_coding"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5", "400 length_and_coding"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 0", "400 length_and_coding"),
        ("Transfer_Encoding: chunked\r\nContent-Length: 5", "POST h / 5 [content-length: 5]"),
        ("Transfer-Encoding : chunked\r\nContent-Length: 5", "400 field_name"),
        ("Content-Length : 5", "400 field_name"),
    ]);
    check(&[
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", "400 coding_old_version"),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", "400 length_and_coding"),
        ("POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello", "POST  / 5 1.0 close +hello [content-length: 5]"),
        ("GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello", "GET h / 5 +hello [content-length: 5]"),
        ("GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "GET h / chunked +0\r\n\r\n"),
    ]);
}

#[test]
fn fields_about_one_connection_end_here() {
    check_fields(&[
        ("Connection: close", "POST h / none close"),
        ("Connection: Keep-Alive", "POST h / none"),
        ("Connection: keep-alive, close", "POST h / none close"),
        ("Connection: keep-alive\r\nConnection: CLOSE", "POST h / none close"),
        ("Connection: , ,close,", "POST h / none close"),
        ("Connection:", "POST h / none"),
        ("Connection: x-secret\r\nX-Secret: 1\r\nX-Open: 2", "POST h / none [x-open: 2]"),
        ("X-Secret: 1\r\nConnection: close, X-SECRET", "POST h / none close"),
        ("X-A: 1\r\nX-B: 2\r\nConnection: x-a\r\nConnection: x-b", "POST h / none"),
        // A client cannot take away what frames, routes, or says where the request came from.
        ("Connection: content-length\r\nContent-Length: 5", "POST h / 5 [content-length: 5]"),
        ("Connection: host", "POST h / none"),
        ("Connection: transfer-encoding\r\nTransfer-Encoding: chunked", "POST h / chunked"),
        ("Connection: x-forwarded-for\r\nX-Forwarded-For: 1.2.3.4", "POST h / none [x-forwarded-for: 1.2.3.4]"),
        ("Connection: te\r\nTE: trailers", "POST h / none"),
        ("Connection: \"x\"", "400 connection"),
        ("Connection: a b", "400 connection"),
        ("Connection: a;b", "400 connection"),
        ("Connection: a/b", "400 connection"),
        ("TE: trailers", "POST h / none"),
        ("Trailer: x", "POST h / none"),
        ("Keep-Alive: timeout=5", "POST h / none"),
        ("Proxy-Connection: keep-alive", "POST h / none"),
        ("Proxy-Authorization: Basic x\r\nAuthorization: Basic y", "POST h / none [authorization: Basic y]"),
        ("Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\nConnection: Upgrade, HTTP2-Settings", "POST h / none"),
    ]);
    let many = |count: usize| format!("Connection: {}", (0..count).map(|n| format!("x{n}")).collect::<Vec<_>>().join(","));
    check_fields(&[(&many(32), "POST h / none"), (&many(33), "400 connection")]);
    check(&[
        ("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "GET  / none 1.0"),
        ("GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n", "GET  / none 1.0 close"),
        ("GET / HTTP/1.0\r\nKeep-Alive: 5\r\n\r\n", "GET  / none 1.0 close"),
    ]);
}

#[test]
fn a_switch_of_protocols_is_asked_for_in_full_or_not_at_all() {
    let get = |fields: &str| format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n");
    for (fields, expected) in [
        ("Connection: Upgrade\r\nUpgrade: websocket", "GET h / none upgrade=websocket"),
        ("Connection: keep-alive, upgrade\r\nUpgrade: WebSocket", "GET h / none upgrade=WebSocket"),
        ("Connection: upgrade\r\nUpgrade: foo/2.1", "GET h / none upgrade=foo/2.1"),
        ("Upgrade: websocket", "GET h / none"),
        ("Connection: close\r\nUpgrade: websocket", "GET h / none close"),
        ("Connection: upgrade", "GET h / none"),
        ("Connection: upgrade\r\nUpgrade: h2c", "GET h / none"),
        ("Connection: upgrade\r\nUpgrade: H2C", "GET h / none"),
        ("Connection: upgrade\r\nUpgrade: h2", "GET h / none"),
        ("Connection: upgrade\r\nUpgrade: H2, websocket", "GET h / none upgrade=websocket"),
        ("Connection: upgrade\r\nUpgrade: HTTP/2.0", "GET h / none"),
        ("Connection: upgrade\r\nUpgrade: TLS/1.0", "GET h / none"),
        ("Connection: upgrade\r\nUpgrade: h2c, websocket", "GET h / none upgrade=websocket"),
        ("Connection: upgrade\r\nUpgrade: a, b", "GET h / none"),
        ("Connection: upgrade\r\nUpgrade: web socket", "GET h / none"),
        ("Connection: upgrade\r\nUpgrade: a/b/c", "GET h / none"),
        ("Connection: upgrade\r\nUpgrade:", "GET h / none"),
        ("Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: websocket", "GET h / none"),
        ("Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 5", "GET h / 5 [content-length: 5]"),
        ("Connection: upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked", "GET h / chunked"),
    ] {
        check(&[(&get(fields), expected)]);
    }
    check(&[
        ("POST / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", "POST h / none"),
        ("GET / HTTP/1.0\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n", "GET h / none 1.0 close"),
        // Bytes behind the request are not the tunnel's before somebody has switched.
        (
            "GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nGET /evil HTTP/1.1\r\n",
            "GET h / none upgrade=websocket +GET /evil HTTP/1.1\r\n",
        ),
    ]);
}

#[test]
fn an_expectation_is_met_here() {
    check_fields(&[
        ("Expect: 100-continue\r\nContent-Length: 5", "POST h / 5 continue [content-length: 5]"),
        ("Expect: 100-Continue\r\nTransfer-Encoding: chunked", "POST h / chunked continue"),
        ("Expect: 100-continue", "POST h / none"),
        ("Expect: 100-continue\r\nContent-Length: 0", "POST h / 0 [content-length: 0]"),
        ("Expect: 200-ok", "417 expectation"),
        ("Expect:", "417 expectation"),
        ("Expect: 100-continue, x", "417 expectation"),
        ("Expect: 100-continue\r\nExpect: y", "417 expectation"),
    ]);
    check(&[("POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n", "POST  / 5 1.0 close [content-length: 5]")]);
}

#[test]
fn a_head_has_limits_and_says_which_one_it_broke() {
    let limits = HeadLimits { bytes_max: 100, fields_max: 3 };
    let told = |input: &str| told(input.as_bytes(), &limits);
    let head = |padding: usize| format!("GET / HTTP/1.1\r\nHost: h\r\nA: {}\r\n\r\n", "x".repeat(padding));
    let fits = 100 - head(0).len();
    assert_eq!(head(fits).len(), 100);
    assert!(told(&head(fits)).starts_with("GET h / none"));
    assert_eq!(told(&head(fits + 1)), "431 head_bytes");
    assert_eq!(told(&head(4000)), "431 head_bytes");
    // A body behind the head does not count.
    assert!(told(&(head(fits) + &"x".repeat(500))).starts_with("GET h / none +"));
    assert_eq!(told(&format!("GET /{} HTTP/1.1\r\n", "a".repeat(200))), "414 target_bytes");
    assert_eq!(told(&"G".repeat(200)), "414 target_bytes");
    assert_eq!(told("GET / HTTP/1.1\r\nHost: h\r\nA: 1\r\nB: 2\r\n\r\n"), "GET h / none [a: 1|b: 2]");
    assert_eq!(told("GET / HTTP/1.1\r\nHost: h\r\nA: 1\r\nB: 2\r\nC: 3\r\n\r\n"), "431 field_count");
    // The empty line before is not part of the head.
    assert!(told(&format!("\r\n{}", head(fits))).starts_with("GET h / none"));

    let default = HeadLimits::default();
    let many = |count: usize| format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "a: b\r\n".repeat(count - 1));
    assert!(super::requests::told(many(100).as_bytes(), &default).starts_with("GET h / none"));
    assert_eq!(super::requests::told(many(101).as_bytes(), &default), "431 field_count");
    let unbounded = HeadLimits { bytes_max: usize::MAX / 2, fields_max: usize::MAX };
    assert_eq!(super::requests::told(many(257).as_bytes(), &unbounded), "431 field_count");
}

#[test]
fn a_head_keeps_its_words_whatever_follows_in_the_buffer() {
    let mut buf = BytesMut::from(&b"GET /a HTTP/1.1\r\nHost: H\r\nX-Y: Z\r\n\r\nbody"[..]);
    let mut head = RequestHead::default();
    request::parse(&mut buf, &HeadLimits::default(), Scheme::Https, &mut head).unwrap().unwrap();
    buf.clear();
    buf.extend_from_slice(&[b'!'; 200]);
    assert_eq!(head.scheme, Scheme::Https);
    assert_eq!(head.path(), "/a");
    assert_eq!(head.fields.get(b"x-y"), Some(&b"Z"[..]));
}
