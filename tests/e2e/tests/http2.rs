//! HTTP/2 as strangers speak it: what must not reach an HTTP/1.1 upstream does not, floods are ended or borne, and who
//! behaves loses nothing beside them.
//!
//! `WHARF_PROVE=1` sends 10,000 frames of each flood; else 2,000.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests stop at the first surprise, and print their figures"
)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use wharf_e2e::far::{Far, Says};
use wharf_e2e::pipes::By;
use wharf_harness::two::{
    self, CONTINUATION, DATA, END, END_HEADERS, Ended, HEADERS, PADDED, PING, PRIORITY, RST_STREAM, SETTINGS, Two, WINDOW_UPDATE,
};
use wharf_harness::{Act, Upstream, Wharf};

const WAIT: Duration = Duration::from_secs(10);

fn start(upstream: &Upstream) -> Wharf {
    let address = upstream.address();
    Wharf::start(format!(
        r#"
node: {{ state_dir: "@DIR@/state" }}
admin: {{ bind: "127.0.0.1:0" }}
access_log: {{ to: "@DIR@/access.log" }}
listeners: {{ main: {{ bind: "127.0.0.1:0" }} }}
services: {{ up: {{ endpoints: ["{address}"] }} }}
routes:
  - {{ name: all, to: up }}
  - {{ name: denied, match: {{ path: {{ prefix: /denied }} }}, to: {{ answer: {{ status: 403, body: denied }} }} }}
"#
    ))
    .unwrap()
}

/// What must become of a request.
enum Wanted {
    /// Nothing of it reaches the upstream; its client is told so, by an answer of 4xx or 5xx, or by the end of stream or
    /// connection.
    Refused,
    /// It reaches the upstream, once, with these lines in its head (`!` in front: without them), and is answered 200.
    Sent(&'static [&'static str]),
    /// The gateway answers it itself with this status.
    Status(u16),
}
use Wanted::{Refused, Sent, Status};

type Fields = Vec<(&'static [u8], &'static [u8])>;

struct Case {
    name: &'static str,
    fields: Fields,
    /// Data and whether it ends the stream; `None`: the head ends it.
    body: Option<(&'static [u8], bool)>,
    trailers: Option<Fields>,
    wanted: Wanted,
}

const METHOD: (&[u8], &[u8]) = (b":method", b"GET");
const SCHEME: (&[u8], &[u8]) = (b":scheme", b"http");
const AUTHORITY: (&[u8], &[u8]) = (b":authority", b"a.example");
const PATH: (&[u8], &[u8]) = (b":path", b"/p");

fn plain(more: &[(&'static [u8], &'static [u8])]) -> Fields {
    [METHOD, SCHEME, AUTHORITY, PATH].into_iter().chain(more.iter().copied()).collect()
}

fn with(at: usize, field: (&'static [u8], &'static [u8])) -> Fields {
    let mut fields = plain(&[]);
    fields[at] = field;
    fields
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut case = |name, fields: Fields, wanted| cases.push(Case { name, fields, body: None, trailers: None, wanted });
    // A second request, or a second field, within one that HTTP/2 frames by itself.
    case("CR LF in a value", plain(&[(b"x", b"a\r\nevil: 1")]), Refused);
    case("CR in a value", plain(&[(b"x", b"a\rb")]), Refused);
    case("LF in a value", plain(&[(b"x", b"a\nevil: 1")]), Refused);
    case("NUL in a value", plain(&[(b"x", b"a\0b")]), Refused);
    case("a request in a value", plain(&[(b"x", b"a\r\n\r\nGET /evil HTTP/1.1\r\nhost: a\r\n\r\n")]), Refused);
    case("CR LF in a name", plain(&[(b"x\r\nevil", b"1")]), Refused);
    case("colon in a name", plain(&[(b"x: y\r\nz", b"1")]), Refused);
    case("a name with a colon", plain(&[(b"x:y", b"1")]), Refused);
    case("space in a name", plain(&[(b"x y", b"1")]), Refused);
    case("an empty name", plain(&[(b"", b"1")]), Refused);
    case("a name in upper case", plain(&[(b"X-Upper", b"1")]), Refused);
    case("a name beyond ASCII", plain(&[("x-é".as_bytes(), b"1")]), Refused);
    case("CR LF in the path", with(3, (b":path", b"/p HTTP/1.1\r\nevil: 1\r\nx: ")), Refused);
    case("space in the path", with(3, (b":path", b"/p HTTP/1.1")), Refused);
    case("CR LF in the query", with(3, (b":path", b"/p?a\r\nevil: 1")), Refused);
    case("space in the query", with(3, (b":path", b"/p?a b")), Refused);
    case("CR LF in the method", with(0, (b":method", b"GET / HTTP/1.1\r\nevil: 1\r\nx:")), Refused);
    case("space in the method", with(0, (b":method", b"GET /evil")), Refused);
    case("an empty method", with(0, (b":method", b"")), Refused);
    case("CR LF in the authority", with(2, (b":authority", b"a.example\r\nevil: 1")), Refused);
    case("user information in the authority", with(2, (b":authority", b"evil@a.example")), Refused);
    case("a path in the authority", with(2, (b":authority", b"a.example/evil")), Refused);
    case("a port that is none", with(2, (b":authority", b"a.example:99999")), Refused);
    case("CR LF in the scheme", with(1, (b":scheme", b"http\r\nevil: 1")), Refused);
    // Framing that only HTTP/1.1 has.
    case("transfer-encoding", plain(&[(b"transfer-encoding", b"chunked")]), Refused);
    case("connection", plain(&[(b"connection", b"x-secret")]), Refused);
    case("connection close", plain(&[(b"connection", b"close")]), Refused);
    case("keep-alive", plain(&[(b"keep-alive", b"timeout=5")]), Refused);
    case("proxy-connection", plain(&[(b"proxy-connection", b"keep-alive")]), Refused);
    case("upgrade", plain(&[(b"upgrade", b"h2c")]), Refused);
    case("te other than trailers", plain(&[(b"te", b"gzip")]), Refused);
    case("te trailers", plain(&[(b"te", b"trailers")]), Sent(&["!te:"]));
    case("content-length twice", plain(&[(b"content-length", b"0"), (b"content-length", b"0")]), Refused);
    case("content-length as a list", plain(&[(b"content-length", b"0, 0")]), Refused);
    case("content-length with a sign", plain(&[(b"content-length", b"+0")]), Refused);
    case("content-length without a body", plain(&[(b"content-length", b"5")]), Refused);
    // Pseudo-fields.
    case("no method", plain(&[])[1..].to_vec(), Refused);
    case("no scheme", vec![METHOD, AUTHORITY, PATH], Refused);
    case("no path", vec![METHOD, SCHEME, AUTHORITY], Refused);
    case("an empty path", with(3, (b":path", b"")), Refused);
    case("a path without a slash", with(3, (b":path", b"evil")), Refused);
    case("two paths", plain(&[(b":path", b"/evil")]), Refused);
    case("two methods", plain(&[(b":method", b"POST")]), Refused);
    case("two authorities", plain(&[(b":authority", b"evil.example")]), Refused);
    case("a pseudo-field behind a field", vec![METHOD, SCHEME, (b"x", b"1"), AUTHORITY, PATH], Refused);
    case("a pseudo-field nobody knows", plain(&[(b":evil", b"1")]), Refused);
    case("a status in a request", plain(&[(b":status", b"200")]), Refused);
    case("`*` for a method other than OPTIONS", with(3, (b":path", b"*")), Refused);
    case("CONNECT", vec![(b":method", b"CONNECT"), AUTHORITY], Status(501));
    case(
        "CONNECT to a protocol nobody carries",
        vec![(b":method", b"CONNECT"), (b":protocol", b"evil"), SCHEME, AUTHORITY, PATH],
        Status(501),
    );
    // One host.
    case("another host beside the authority", plain(&[(b"host", b"evil.example")]), Refused);
    case("two hosts", vec![METHOD, SCHEME, PATH, (b"host", b"a.example"), (b"host", b"a.example")], Refused);
    case("no host", vec![METHOD, SCHEME, PATH], Refused);
    case("an empty authority", with(2, (b":authority", b"")), Refused);
    case("the same host twice said", plain(&[(b"host", b"A.example")]), Sent(&["host: a.example"]));
    case("a host and no authority", vec![METHOD, SCHEME, PATH, (b"host", b"b.example")], Sent(&["host: b.example"]));
    // White space that HTTP/1.1 would take off.
    case("a value that begins with a space", plain(&[(b"x", b" a")]), Refused);
    case("a value that ends in a tab", plain(&[(b"x", b"a\t")]), Refused);
    case("a folded line", plain(&[(b"x", b"a\r\n b")]), Refused);
    // Paths around a route.
    case("a dot segment", with(3, (b":path", b"/x/../denied/a")), Status(403));
    case("an encoded dot segment", with(3, (b":path", b"/x/%2e%2e/denied/a")), Status(403));
    case("an encoded slash", with(3, (b":path", b"/x%2fdenied")), Refused);
    case("a NUL in the path", with(3, (b":path", b"/denied%00")), Refused);
    case("a backslash", with(3, (b":path", b"/x\\..\\denied")), Refused);
    case("a doubled slash", with(3, (b":path", b"//denied/a")), Status(403));
    // Who may say what.
    case("x-forwarded-for from a stranger", plain(&[(b"x-forwarded-for", b"1.2.3.4")]), Sent(&["!1.2.3.4", "x-forwarded-for: 127.0.0.1"]));
    case("the same with an underscore", plain(&[(b"x_forwarded_for", b"1.2.3.4")]), Sent(&["!1.2.3.4"]));
    case("crumbs of a cookie", plain(&[(b"cookie", b"a=1"), (b"cookie", b"b=2")]), Sent(&["cookie: a=1; b=2"]));
    case("an expectation nobody meets", plain(&[(b"expect", b"magic")]), Status(417));
    case("everything as it should be", plain(&[(b"x", b"a b")]), Sent(&["x: a b", "!transfer-encoding"]));

    let mut sent = |name, fields: Fields, body: &'static [u8], ends, trailers: Option<Fields>, wanted| {
        cases.push(Case { name, fields, body: Some((body, ends)), trailers, wanted });
    };
    let post = |more: &[(&'static [u8], &'static [u8])]| -> Fields {
        [(&b":method"[..], &b"POST"[..]), SCHEME, AUTHORITY, PATH].into_iter().chain(more.iter().copied()).collect()
    };
    sent("more data than content-length says", post(&[(b"content-length", b"3")]), b"abcGET /evil HTTP/1.1\r\n\r\n", true, None, Refused);
    sent("less data than content-length says", post(&[(b"content-length", b"30")]), b"abc", true, None, Refused);
    sent("a body that looks like a request", post(&[]), b"0\r\n\r\nGET /evil HTTP/1.1\r\n\r\n", true, None, Sent(&["content-length: 27"]));
    sent("a length that is right", post(&[(b"content-length", b"3")]), b"abc", true, None, Sent(&["content-length: 3"]));
    sent("a pseudo-field in the trailers", post(&[]), b"abc", false, Some(vec![(b":path", b"/evil")]), Refused);
    sent("a length in the trailers", post(&[]), b"abc", false, Some(vec![(b"content-length", b"3")]), Refused);
    sent("CR LF in the trailers", post(&[]), b"abc", false, Some(vec![(b"x", b"a\r\nb: c")]), Refused);
    sent("trailers", post(&[]), b"abc", false, Some(vec![(b"x-sum", b"1")]), Sent(&["transfer-encoding: chunked"]));
    cases
}

#[test]
fn nothing_that_http_1_would_read_otherwise_reaches_an_upstream() {
    // It answers when a request is whole, and resets whoever sends what is none.
    let upstream = Upstream::echo();
    let wharf = start(&upstream);
    let address = wharf.listener("main");
    let cases = cases();
    assert!(cases.len() >= 70);
    let mut faults = Vec::new();
    for case in &cases {
        upstream.forget();
        let ended = tell(address, case);
        // Asked behind it, so that whatever it left in a connection to the upstream would be seen.
        let good = ask(address, "/good");
        let requests = upstream.requests();
        let heads: Vec<String> = requests.iter().map(|request| String::from_utf8_lossy(&request.raw).into_owned()).collect();
        let (others, goods): (Vec<&String>, Vec<&String>) = heads.iter().partition(|head| !head.starts_with("GET /good "));
        let mut wrong = |what: String| faults.push(format!("{}: {what}; it ended {ended:?}; the upstream saw {heads:?}", case.name));
        if good != Ended::Answered(200, Vec::new()) || goods.len() != 1 {
            wrong(format!("the request behind it ended {good:?}"));
        }
        if heads.iter().any(|head| head.contains("evil: 1") || head.starts_with("GET /evil")) {
            wrong("it was read as more than it is".into());
        }
        let told = matches!(&ended, Ended::Answered(400.., _) | Ended::Reset(_) | Ended::GoAway(_) | Ended::Closed);
        match &case.wanted {
            // Of a body that turns out to be wrong the head may have gone; never the end of its chunks.
            Refused if !told => wrong("it was not refused".into()),
            Refused if others.iter().any(|head| case.body.is_none() || head.ends_with("0\r\n\r\n")) => wrong("it was sent on".into()),
            Status(status) if !matches!(&ended, Ended::Answered(said, _) if said == status) || !others.is_empty() => {
                wrong(format!("it was not answered {status}"));
            }
            Sent(lines) => match others.as_slice() {
                [head] => {
                    for line in *lines {
                        let without = line.strip_prefix('!');
                        if head.contains(without.unwrap_or(line)) == without.is_some() {
                            wrong(format!("{line:?} is not so"));
                        }
                    }
                    if !matches!(ended, Ended::Answered(200, _)) {
                        wrong("it was not answered".into());
                    }
                }
                _ => wrong(format!("it was sent {} times", others.len())),
            },
            _ => {}
        }
    }
    println!("http2: {} requests that HTTP/1.1 could read otherwise, {} faults", cases.len(), faults.len());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn tell(address: SocketAddr, case: &Case) -> Ended {
    let mut two = Two::open(address, &[]).unwrap();
    let mut out = two::headers(1, case.body.is_none(), &case.fields);
    if let Some((body, ends)) = case.body {
        out.extend(two::frame(DATA, if ends { END } else { 0 }, 1, body));
    }
    if let Some(trailers) = &case.trailers {
        out.extend(two::headers(1, true, trailers));
    }
    two.send(&out).unwrap();
    two.ended(1, WAIT)
}

/// A good request on a connection of its own: its status.
fn ask(address: SocketAddr, path: &str) -> Ended {
    let mut two = Two::open(address, &[]).unwrap();
    two.send(&two::get(1, "a.example", path)).unwrap();
    match two.ended(1, WAIT) {
        Ended::Answered(status, _) => Ended::Answered(status, Vec::new()),
        other => other,
    }
}

/// A client that sends a body as fast as it may, whatever it is told meanwhile.
struct Upload {
    two: Two,
    /// Bytes that it may send of the stream, and of the connection.
    room: [i64; 2],
    sent: usize,
    /// The body of the answer, once it is whole, and when that was.
    answer: Option<(Vec<u8>, Instant)>,
    /// The code by which the stream was ended.
    reset: Option<(u32, Instant)>,
}

impl Upload {
    /// Begins a body of so many bytes.
    fn begin(address: SocketAddr, path: &'static str, length: usize) -> Upload {
        let length = length.to_string();
        let mut two = Two::open(address, &[]).unwrap();
        let fields =
            [(&b":method"[..], &b"POST"[..]), SCHEME, AUTHORITY, (b":path", path.as_bytes()), (b"content-length", length.as_bytes())];
        two.send(&two::headers(1, false, &fields)).unwrap();
        Upload { two, room: [65_535, 65_535], sent: 0, answer: None, reset: None }
    }

    /// Takes the next frame; `false`: there is none.
    fn hear(&mut self, limit: Instant, body: &mut Vec<u8>) -> bool {
        let Some(frame) = self.two.next(limit) else { return false };
        match frame.kind {
            WINDOW_UPDATE => {
                let by = u32::from_be_bytes(frame.payload[..4].try_into().unwrap());
                self.room[usize::from(frame.stream == 0)] += i64::from(by);
            }
            HEADERS | DATA if frame.stream == 1 => {
                if frame.kind == DATA {
                    body.extend(&frame.payload);
                }
                if frame.flags & END != 0 {
                    assert!(self.reset.is_none(), "the answer is whole before the stream ends");
                    self.answer = Some((std::mem::take(body), Instant::now()));
                }
            }
            RST_STREAM if frame.stream == 1 => {
                self.reset = Some((u32::from_be_bytes(frame.payload[..4].try_into().unwrap()), Instant::now()));
            }
            _ => {}
        }
        true
    }

    /// Sends all of it, unless it is told to stop.
    fn send_all(&mut self, length: usize) {
        let limit = Instant::now() + WAIT;
        let mut body = Vec::new();
        while self.sent < length && self.reset.is_none() {
            let room = self.room.iter().min().map_or(0, |room| (*room).max(0) as usize);
            let piece = room.min(length - self.sent).min(16_384);
            if piece == 0 {
                assert!(self.hear(limit, &mut body), "no room for more after {} bytes, and no word why", self.sent);
                continue;
            }
            self.sent += piece;
            self.room = self.room.map(|room| room - piece as i64);
            let flags = if self.sent == length { END } else { 0 };
            self.two.send(&two::frame(DATA, flags, 1, &vec![b'x'; piece])).unwrap();
        }
        while self.answer.is_none() && self.hear(limit, &mut body) {}
    }
}

#[test]
fn an_answer_that_comes_early_is_whole_and_the_rest_of_the_request_is_taken_or_called_off() {
    let far = Far::start(By::Two, |_| Says::Answer { status: 413, fields: Vec::new(), body: "too much, says the service" });
    let wharf = Wharf::start(format!(
        r#"
node: {{ state_dir: "@DIR@/state" }}
admin: {{ bind: "127.0.0.1:0" }}
listeners: {{ main: {{ bind: "127.0.0.1:0" }} }}
services: {{ up: {{ endpoints: ["{}"], protocol: http2 }} }}
routes:
  - {{ name: all, to: up, body_bytes_max: 64MiB }}
  - {{ name: small, match: {{ path: {{ prefix: /small }} }}, to: up, body_bytes_max: 10 }}
"#,
        far.address()
    ))
    .unwrap();
    let address = wharf.listener("main");
    for (path, said) in [("/small", &b"\"body_too_large\""[..]), ("/", b"too much, says the service")] {
        let has = |upload: &Upload| upload.answer.as_ref().is_some_and(|(body, _)| body.windows(said.len()).any(|part| part == said));
        // Who sends all of it and then looks finds the answer, and a stream that ended in order.
        let length = 200_000;
        let mut upload = Upload::begin(address, path, length);
        upload.send_all(length);
        assert!(has(&upload) && upload.sent == length, "{path}: {:?}", upload.answer);
        upload.two.send(&two::frame(PING, 0, 0, b"whatelse")).unwrap();
        let limit = Instant::now() + WAIT;
        loop {
            let frame = upload.two.next(limit).unwrap();
            assert!(frame.kind != RST_STREAM, "{path}: {frame:?}");
            if frame.kind == PING && frame.flags & END != 0 {
                break;
            }
        }
        // Who sends nothing more is told after a moment that nothing more is wanted; so is who sends without an end.
        for (length, sends) in [(1_000_000, 1_000), (32 << 20, 32 << 20)] {
            let mut upload = Upload::begin(address, path, length);
            upload.two.send(&two::frame(DATA, 0, 1, &[b'x'; 1_000])).unwrap();
            (upload.sent, upload.room) = (1_000, upload.room.map(|room| room - 1_000));
            upload.send_all(sends);
            let limit = Instant::now() + WAIT;
            while upload.reset.is_none() && upload.hear(limit, &mut Vec::new()) {}
            let (code, at) = upload.reset.unwrap();
            assert!(has(&upload) && code == 0, "{path}: {code} {:?}", upload.answer);
            let waited = at - upload.answer.as_ref().unwrap().1;
            assert!(waited < Duration::from_secs(3), "{path}: {waited:?}");
            if sends < length {
                assert!(waited > Duration::from_millis(200), "{path}: {waited:?}");
            }
            assert!(upload.sent < 2 << 20, "{path}: {} bytes were taken", upload.sent);
        }
        // The connection goes on.
        assert!(matches!(ask(address, "/small"), Ended::Answered(413, _)));
    }
}

/// Frames, so many of a kind, that cost their sender little.
type Flood = (&'static str, fn(u32) -> Vec<u8>);

/// The stream that the `n`th request opens.
fn stream(n: u32) -> u32 {
    1 + 2 * n
}

const FLOODS: [Flood; 16] = [
    ("rapid reset", |n| [two::get(stream(n), "a.example", "/slow"), two::frame(RST_STREAM, 0, stream(n), &8_u32.to_be_bytes())].concat()),
    ("made-you-reset: an update of 0", |n| {
        [two::get(stream(n), "a.example", "/slow"), two::frame(WINDOW_UPDATE, 0, stream(n), &0_u32.to_be_bytes())].concat()
    }),
    ("made-you-reset: a window beyond 2^31", |n| {
        [two::get(stream(n), "a.example", "/slow"), two::frame(WINDOW_UPDATE, 0, stream(n), &0x7fff_ffff_u32.to_be_bytes())].concat()
    }),
    ("malformed heads", |n| two::headers(stream(n), true, &[(b":method", b"GET"), (b"x y", b"1")])),
    ("CONTINUATION without an end", |n| match n {
        0 => two::frame(HEADERS, 0, 1, &two::block(&[METHOD, SCHEME, AUTHORITY, PATH])),
        _ => two::frame(CONTINUATION, 0, 1, &two::block(&[(b"x-field", &[b'a'; 200])])),
    }),
    ("HPACK bomb", |n| match n {
        // Put into the table once (RFC 7541 section 6.2.1), and referred to two thousand times in each head.
        0 => {
            let mut head = two::block(&[METHOD, SCHEME, AUTHORITY, PATH]);
            head.extend([0x40, 1, b'x', 0x7f, 0x80 | 57, 29]);
            head.extend([b'a'; 3_896]);
            two::frame(HEADERS, END | END_HEADERS, 1, &head)
        }
        _ => {
            let mut head = two::block(&[METHOD, SCHEME, AUTHORITY, PATH]);
            head.extend([0x80 | 62; 2_000]);
            two::frame(HEADERS, END | END_HEADERS, stream(n), &head)
        }
    }),
    ("PING", |n| two::frame(PING, 0, 0, &u64::from(n).to_be_bytes())),
    ("SETTINGS", |n| two::frame(SETTINGS, 0, 0, &[&4_u16.to_be_bytes()[..], &(65_535 + n % 2).to_be_bytes()].concat())),
    ("PRIORITY", |n| two::frame(PRIORITY, 0, stream(n % 1000), &[0, 0, 0, 0, 16])),
    ("WINDOW_UPDATE", |_| two::frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())),
    ("empty DATA", |n| match n {
        0 => two::headers(1, false, &[(b":method", b"POST"), SCHEME, AUTHORITY, (b":path", b"/slow")]),
        _ => two::frame(DATA, 0, 1, b""),
    }),
    ("DATA of one byte", |n| match n {
        0 => two::headers(1, false, &[(b":method", b"POST"), SCHEME, AUTHORITY, (b":path", b"/slow")]),
        _ => two::frame(DATA, 0, 1, b"x"),
    }),
    ("DATA that is all padding", |n| match n {
        0 => two::headers(1, false, &[(b":method", b"POST"), SCHEME, AUTHORITY, (b":path", b"/slow")]),
        _ => two::frame(DATA, PADDED, 1, &[3, 0, 0, 0]),
    }),
    ("streams that nobody reads", |n| two::get(stream(n), "a.example", "/b/65536")),
    ("streams that do not end", |n| two::headers(stream(n), false, &[(b":method", b"POST"), SCHEME, AUTHORITY, (b":path", b"/slow")])),
    ("frames nobody knows", |n| two::frame(0xfa, 0xff, n % 7, &[0; 64])),
];

#[test]
fn a_flood_is_ended_or_borne_and_costs_others_nothing() {
    let frames: u32 = if std::env::var_os("WHARF_PROVE").is_some() { 10_000 } else { 2_000 };
    let upstream = Upstream::start(|seen| match seen.request.target().as_str() {
        "/slow" => vec![Act::Hang],
        target => {
            let size = target.strip_prefix("/b/").and_then(|size| size.parse().ok()).unwrap_or(10);
            vec![Act::Send(wharf_harness::upstream::ok(&vec![b'x'; size]))]
        }
    });
    let wharf = start(&upstream);
    let address = wharf.listener("main");
    assert_eq!(ask(address, "/warm"), Ended::Answered(200, Vec::new()));
    for (name, make) in FLOODS {
        let (cpu, memory) = (spent(&wharf), wharf.anonymous_kib());
        let over = Arc::new(AtomicBool::new(false));
        // Somebody who behaves, all the while.
        let good = thread::spawn({
            let over = over.clone();
            move || {
                let mut asked = 0;
                while !over.load(Ordering::Relaxed) || asked < 5 {
                    let ended = ask(address, "/good");
                    if ended != Ended::Answered(200, Vec::new()) {
                        return Err(format!("after {asked} good ones one ended {ended:?}"));
                    }
                    asked += 1;
                }
                Ok(asked)
            }
        });
        let (sent, ended) = flood(address, make, frames);
        let peak = wharf.anonymous_kib();
        over.store(true, Ordering::Relaxed);
        let asked = good.join().unwrap();
        let cpu = spent(&wharf) - cpu;
        let grown = peak.saturating_sub(memory);
        println!("http2 flood: {name}: {sent} of {frames} frames, {ended}; {cpu:?} of CPU beside {asked:?} good requests, {grown} KiB");
        assert!(asked.is_ok(), "{name}: {asked:?}");
        // Good requests cost as well: at most about 0.1 ms each.
        let of_good = Duration::from_micros(100) * asked.unwrap_or(0);
        assert!(cpu < Duration::from_secs(2) + of_good, "{name}: {cpu:?}");
        assert!(grown < 16 * 1024, "{name}: {grown} KiB");
    }
}

/// Sends a flood to its end, or to the end of the connection: how many frames went out, and what came of it.
fn flood(address: SocketAddr, make: fn(u32) -> Vec<u8>, frames: u32) -> (u32, &'static str) {
    // A window of 0: nothing that is answered is taken.
    let mut two = Two::open(address, &[(4, 0)]).unwrap();
    two.polite = false;
    for n in 0..frames {
        if two.send(&make(n)).is_err() {
            return (n, "ended");
        }
    }
    // Whatever has to be said is said by the time a PING behind it all is answered, or not at all.
    let _ = two.send(&two::frame(PING, 0, 0, b"farewell"));
    let limit = Instant::now() + Duration::from_secs(5);
    while let Some(frame) = two.next(limit) {
        match frame.kind {
            PING if frame.flags & END != 0 && frame.payload == b"farewell" => return (frames, "borne"),
            two::GOAWAY => return (frames, "ended"),
            _ => {}
        }
    }
    (frames, if Instant::now() < limit { "ended" } else { "left without an answer" })
}

fn spent(wharf: &Wharf) -> Duration {
    let (user, system) = wharf.cpu();
    user + system
}
