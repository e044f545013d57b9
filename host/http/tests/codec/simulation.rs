//! A seeded workload of whole connections: however the bytes are cut into pieces, the events are the same; and whatever
//! is read and written again reads back the same.
//!
//! The seed is printed on failure; `WHARF_SEED` replays it.

use super::{fields, framing};
use bytes::BytesMut;
use std::fmt::Write as _;
use wharf_core::head::{Known, RequestHead, Scheme};
use wharf_http::codec::body::{Decoder, Piece};
use wharf_http::codec::write::{self, Forwarded};
use wharf_http::codec::{Framing, HeadLimits, request, response};

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }
}

fn limits() -> HeadLimits {
    HeadLimits { bytes_max: 600, fields_max: 8 }
}

const METHODS: &[&str] = &["GET", "GET", "POST", "PUT", "HEAD", "OPTIONS", "BREW"];
const TARGETS: &[&str] = &["/", "/a/b?c=d", "/a/../b", "//x", "/%7ea", "http://other:81/p?q", "http://O.example"];
const HOSTS: &[&str] = &["Host: h", "Host: Example.com:8080", "host:[::1]", "Host: a."];
const LINES: &[&str] = &[
    "Accept: */*",
    "X-A:1",
    "x-b:   2\t",
    "Cookie: a=b; c=d",
    "Connection: keep-alive",
    "Connection: x-a",
    "TE: trailers",
    "Upgrade: websocket\r\nConnection: upgrade",
    "Expect: 100-continue",
    "X-Forwarded-For: 1.1.1.1",
    "Empty:",
    "Connection: close",
];
const BAD_METHODS: &[&str] = &["CONNECT", "G T", "", "G\0"];
const BAD_TARGETS: &[&str] = &["*", "/%2e%2e", "/a%2fb", "x", "/?a#b", "http://u@h/"];
const BAD_HOSTS: &[&str] = &["Host: h@evil", "Host: a\r\nHost: a", "Host:", "Accept: */*"];
const BAD_LINES: &[&str] =
    &["X : 1", "X: a\0", " folded", "X: a\nY: b", "X: a\rb", "noname", ": v", "Content-Length: 5, 5", "Transfer-Encoding: gzip"];

impl Random {
    /// Mostly one of the good ones.
    fn mostly<'a>(&mut self, good: &[&'a str], bad: &[&'a str]) -> &'a str {
        if self.below(32) == 0 { self.one(bad) } else { self.one(good) }
    }
}

/// Requests one behind the other, mostly valid, as a client might send them.
fn client_bytes(random: &mut Random) -> Vec<u8> {
    let mut out = String::new();
    for _ in 0..1 + random.below(3) {
        if random.below(16) == 0 {
            out += "\r\n";
        }
        let (method, target) = (random.mostly(METHODS, BAD_METHODS), random.mostly(TARGETS, BAD_TARGETS));
        let version = random.mostly(&["HTTP/1.1", "HTTP/1.1", "HTTP/1.0"], &["HTTP/2.0", "HTTP/1.2", "http/1.1"]);
        let _ = write!(out, "{method} {target} {version}\r\n{}\r\n", random.mostly(HOSTS, BAD_HOSTS));
        for _ in 0..random.below(7) {
            let _ = write!(out, "{}\r\n", random.mostly(LINES, BAD_LINES));
        }
        body_bytes(random, &mut out);
    }
    // Now and then a byte is damaged or the end is missing.
    let mut bytes = out.into_bytes();
    if random.below(8) == 0 {
        let at = random.below(bytes.len());
        bytes[at] = random.next() as u8;
    }
    if random.below(4) == 0 {
        bytes.truncate(random.below(bytes.len() + 1));
    }
    bytes
}

fn body_bytes(random: &mut Random, out: &mut String) {
    match random.below(4) {
        0 => {
            let len = random.below(40);
            let _ = write!(out, "Content-Length: {len}\r\n\r\n{}", "b".repeat(len));
        }
        1 => {
            *out += "Transfer-Encoding: chunked\r\n\r\n";
            for _ in 0..random.below(4) {
                let len = 1 + random.below(20);
                let _ =
                    write!(out, "{len:x}{}\r\n{}\r\n", random.mostly(&["", "", ";a=b", " ;x"], &[";\0", " ", "g", "\n"]), "c".repeat(len));
            }
            *out +=
                random.mostly(&["0\r\n\r\n", "0\r\nX-Sum: 1\r\n\r\n", "0;e\r\n\r\n"], &["0\r\nHost: x\r\n\r\n", "0\r\n\n", "+0\r\n\r\n"]);
        }
        _ => *out += "\r\n",
    }
}

fn upstream_bytes(random: &mut Random) -> Vec<u8> {
    let mut out = String::new();
    for _ in 0..1 + random.below(3) {
        let status = random.mostly(
            &["200 OK", "200 OK", "404 Not Found", "204 No Content", "304 Not Modified", "100 Continue", "200"],
            &["101 Switch", "600 x", "20 x"],
        );
        let _ = write!(out, "{} {status}\r\n", random.mostly(&["HTTP/1.1", "HTTP/1.1", "HTTP/1.0"], &["HTTP/3.0", "\r\n"]));
        for _ in 0..random.below(5) {
            let _ = write!(out, "{}\r\n", random.mostly(LINES, BAD_LINES));
        }
        if status.starts_with('2') || status.starts_with('4') { body_bytes(random, &mut out) } else { out += "\r\n" }
    }
    let mut bytes = out.into_bytes();
    if random.below(4) == 0 {
        let at = random.below(bytes.len());
        bytes[at] = random.next() as u8;
    }
    bytes
}

/// Reads one head and tells the framing of what follows; or the refusal.
type ReadHead<'a> = &'a dyn Fn(&mut BytesMut, &mut String) -> Result<Option<Framing>, String>;

/// A side of a connection, fed with pieces.
struct Reader<'a> {
    buf: BytesMut,
    head: ReadHead<'a>,
    body: Option<Decoder>,
    events: String,
    over: bool,
}

impl Reader<'_> {
    fn feed(&mut self, piece: &[u8]) {
        if self.over {
            return;
        }
        self.buf.extend_from_slice(piece);
        loop {
            match &mut self.body {
                None => match (self.head)(&mut self.buf, &mut self.events) {
                    Ok(Some(framing)) => self.body = Some(Decoder::new(framing)),
                    Ok(None) => return,
                    Err(refusal) => return self.end(&refusal),
                },
                Some(body) => match body.decode(&mut self.buf) {
                    Ok(Piece::Data(data)) => self.events.push_str(&String::from_utf8_lossy(&data)),
                    Ok(Piece::End(trailers)) => {
                        self.events.push_str("<end");
                        if let Some(trailers) = trailers {
                            self.events.push_str(&fields(&trailers, &[]));
                        }
                        self.events.push('>');
                        self.body = None;
                    }
                    Ok(Piece::More) => return,
                    Err(refusal) => return self.end(refusal.what.word()),
                },
            }
        }
    }

    fn end(&mut self, refusal: &str) {
        self.over = true;
        let _ = write!(self.events, "<refused {refusal}>");
    }
}

fn request_head(buf: &mut BytesMut, events: &mut String) -> Result<Option<Framing>, String> {
    let mut head = super::worn();
    let received = request::parse(buf, &limits(), Scheme::Http, &mut head);
    let Some(received) = received.map_err(|refusal| format!("{} {}", refusal.status, refusal.what.word()))? else {
        return Ok(None);
    };
    let _ = write!(
        events,
        "<{} {} {}?{:?} {} {:?} {} {} {:?} {}>",
        head.method.as_str(),
        head.authority(),
        head.path(),
        head.query(),
        framing(received.framing),
        received.version,
        received.keep_alive,
        received.expects_continue,
        received.upgrade,
        fields(&head.fields, &[]),
    );
    reads_back(&head, &received);
    Ok(Some(received.framing))
}

fn response_head(buf: &mut BytesMut, events: &mut String) -> Result<Option<Framing>, String> {
    let asked = response::Asked { upgrade: true, ..Default::default() };
    loop {
        let mut head = super::worn_answer();
        match response::parse(buf, &limits(), &asked, &mut head).map_err(|refusal| refusal.what.word().to_string())? {
            None => return Ok(None),
            Some(response::Event::Interim(status)) => {
                let _ = write!(events, "<interim {status}>");
            }
            Some(response::Event::Final(received)) => {
                let _ =
                    write!(events, "<{} {} {} {}>", head.status, framing(received.framing), received.keep_alive, fields(&head.fields, &[]));
                return Ok(Some(received.framing));
            }
        }
    }
}

/// What is written for an upstream is a valid request that says the same.
fn reads_back(head: &RequestHead, received: &request::Received) {
    let mut out = BytesMut::new();
    write::request_head(
        &mut out,
        head,
        &received.framing,
        received.upgrade.as_deref(),
        &Forwarded { peer: [127, 0, 0, 1].into(), host: None },
    );
    if head.authority().is_empty() {
        return;
    }
    let written = String::from_utf8_lossy(&out).into_owned();
    let mut read = RequestHead::default();
    let again = request::parse(&mut out, &HeadLimits::default(), Scheme::Http, &mut read)
        .unwrap_or_else(|refusal| panic!("{written:?} is refused: {refusal}"))
        .unwrap_or_else(|| panic!("{written:?} is not finished"));
    assert!(out.is_empty(), "something stands behind {written:?}");
    assert_eq!(read.method, head.method);
    assert_eq!(read.authority(), head.authority());
    assert_eq!(read.path(), head.path());
    assert_eq!(read.query(), head.query());
    assert_eq!(again.framing, received.framing);
    assert_eq!(again.upgrade, received.upgrade);
    assert!(again.keep_alive && !again.expects_continue);
    let ours = ["x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "host", "content-length"];
    assert_eq!(fields(&read.fields, &ours), fields(&head.fields, &ours));
    assert!(read.fields.iter().all(|(known, ..)| !known.is_hop_by_hop() && known != Known::Expect));
}

fn simulate(seed: u64, rounds: usize, make: fn(&mut Random) -> Vec<u8>, head: ReadHead<'_>) {
    let seed = std::env::var("WHARF_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(seed);
    let (mut whole_messages, mut refused) = (0, 0);
    for round in 0..rounds {
        let mut random = Random(seed.wrapping_add(round as u64));
        let bytes = make(&mut random);
        let events = |cuts: &mut dyn FnMut() -> usize| {
            let mut reader = Reader { buf: BytesMut::new(), head, body: None, events: String::new(), over: false };
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let (piece, behind) = rest.split_at(cuts().clamp(1, rest.len()));
                reader.feed(piece);
                rest = behind;
            }
            reader.events
        };
        let whole = events(&mut || usize::MAX);
        whole_messages += whole.matches("<end").count();
        refused += whole.matches("<refused").count();
        for most in [1, 2, 7, 40] {
            let cut = events(&mut || 1 + random.below(most));
            assert_eq!(cut, whole, "WHARF_SEED={} by up to {most}: {:?}", seed.wrapping_add(round as u64), String::from_utf8_lossy(&bytes));
        }
    }
    // A workload that is refused throughout, or never, shows nothing.
    println!("seed {seed}: {rounds} connections, {whole_messages} whole messages, {refused} refusals");
    if rounds > 100 {
        assert!(whole_messages > rounds / 4 && refused > rounds / 20);
    }
}

#[test]
fn however_a_client_cuts_its_bytes_the_events_are_the_same() {
    simulate(20_261_122, 20_000, client_bytes, &request_head);
}

#[test]
fn however_an_upstream_cuts_its_bytes_the_events_are_the_same() {
    simulate(20_261_122, 20_000, upstream_bytes, &response_head);
}
