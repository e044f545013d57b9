//! Compression through a real gateway: on by default, never where it must not be, and streams are not held back.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests stop at the first surprise")]

use flate2::read::GzDecoder;
use flate2::write::GzDecoder as Inflating;
use std::io::{Read as _, Write as _};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;
use wharf_harness::{Act, Connection, Reply, Upstream, Wharf};

fn gateway(up: &Upstream, more: &str) -> Wharf {
    Wharf::start(format!(
        r#"
node: {{ state_dir: "@DIR@/state" }}
admin: {{ bind: "127.0.0.1:0" }}
access_log: {{ to: off }}
workers: 1
listeners: {{ main: {{ bind: "127.0.0.1:0" }} }}
services: {{ up: {{ endpoints: ["{}"], timeouts: {{ body: 30s }} }} }}
routes: [{{name: a, to: up{more}}}]
"#,
        up.address()
    ))
    .unwrap()
}

fn ask(wharf: &Wharf, method: &str, target: &str, fields: &str) -> Reply {
    let mut connection = Connection::open(wharf.listener("main")).unwrap();
    connection.send(format!("{method} {target} HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n").as_bytes()).unwrap();
    connection.reply(method).unwrap()
}

fn words(len: usize) -> Vec<u8> {
    "some words that repeat, ".bytes().cycle().take(len).collect()
}

fn answer(head: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 200 OK\r\n{head}Content-Length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

fn unzipped(reply: &Reply) -> Vec<u8> {
    let mut out = Vec::new();
    GzDecoder::new(reply.body.as_slice()).read_to_end(&mut out).unwrap();
    out
}

/// Answers `/KIND/SIZE`.
fn sized() -> Upstream {
    Upstream::start(|seen| {
        let target = seen.request.target();
        let mut parts = target.split('/').skip(1);
        let head = match parts.next().unwrap() {
            "json" => "Content-Type: application/json\r\nETag: \"v1\"\r\n",
            "events" => "Content-Type: text/event-stream\r\n",
            "grpc" => "Content-Type: application/grpc\r\n",
            "image" => "Content-Type: image/png\r\n",
            "encoded" => "Content-Type: text/css\r\nContent-Encoding: br\r\n",
            "fixed" => "Content-Type: text/css\r\nCache-Control: no-transform\r\n",
            _ => "Content-Type: text/plain\r\n",
        };
        vec![Act::Send(answer(head, &words(parts.next().unwrap().parse().unwrap())))]
    })
}

#[test]
fn an_answer_is_compressed_for_whom_asks_for_it_and_for_nobody_else() {
    let up = sized();
    let wharf = gateway(&up, "");
    for size in [1024, 5000, 32 * 1024, 32 * 1024 + 1, 1 << 20] {
        let target = format!("/json/{size}");
        let made = ask(&wharf, "GET", &target, "Accept-Encoding: gzip\r\n");
        assert_eq!(made.field("content-encoding").as_deref(), Some("gzip"), "{size}");
        assert_eq!((made.field("vary").as_deref(), made.field("etag").as_deref()), (Some("accept-encoding"), Some("W/\"v1\"")));
        assert!(made.body.len() < size / 4, "{} bytes of {size}", made.body.len());
        assert_eq!(unzipped(&made), words(size), "{size}");
        let plain = ask(&wharf, "GET", &target, "");
        assert_eq!((plain.body.clone(), plain.field("content-encoding"), plain.field("vary")), (words(size), None, None));
        assert_eq!((plain.field("etag").as_deref(), plain.chunked), (Some("\"v1\""), false), "byte for byte as it was sent");
    }
    for (accepts, coding) in [("gzip, br", "br"), ("zstd, gzip, br", "zstd"), ("gzip;q=1, br;q=0.5", "gzip")] {
        let made = ask(&wharf, "GET", "/json/5000", &format!("Accept-Encoding: {accepts}\r\n"));
        assert_eq!(made.field("content-encoding").as_deref(), Some(coding), "{accepts}");
    }
}

#[test]
fn what_must_not_be_compressed_is_passed_as_it_is() {
    let up = sized();
    let wharf = gateway(&up, "");
    let accepts = "Accept-Encoding: gzip, br, zstd\r\n";
    for target in ["/json/1023", "/events/5000", "/grpc/5000", "/image/5000", "/encoded/5000", "/fixed/5000"] {
        let reply = ask(&wharf, "GET", target, accepts);
        let size: usize = target.rsplit('/').next().unwrap().parse().unwrap();
        assert_eq!(reply.body, words(size), "{target}");
        assert_eq!(reply.field("vary"), None, "{target}");
    }
    let part = ask(&wharf, "GET", "/json/5000", &format!("{accepts}Range: bytes=0-9\r\n"));
    assert_eq!((part.field("content-encoding"), part.body.len()), (None, 5000));
    let head = ask(&wharf, "HEAD", "/json/5000", accepts);
    assert_eq!((head.field("content-encoding"), head.field("content-length").as_deref()), (None, Some("5000")));
    let off = gateway(&up, ", compression: off");
    assert_eq!(ask(&off, "GET", "/json/5000", accepts).field("content-encoding"), None);
    let only = gateway(&up, ", compression: {codings: [gzip], types: [image/png], body_bytes_min: 4KiB}");
    assert_eq!(ask(&only, "GET", "/image/5000", accepts).field("content-encoding").as_deref(), Some("gzip"));
    assert_eq!(ask(&only, "GET", "/json/5000", accepts).field("content-encoding"), None);
}

/// Lets an upstream's script go on step by step.
#[derive(Default)]
struct Steps(Mutex<u64>, Condvar);

impl Steps {
    fn allow(&self, step: u64) {
        *self.0.lock().unwrap() = step;
        self.1.notify_all();
    }

    fn wait(&self, step: u64) {
        let (allowed, _) = self.1.wait_timeout_while(self.0.lock().unwrap(), Duration::from_secs(20), |allowed| *allowed < step).unwrap();
        assert!(*allowed >= step, "the test does not go on");
    }
}

/// Three pieces of a stream, each sent only when the test has seen the one before: one that is held back would hang.
fn seen_as_it_comes(kind: &str, accepts: &str, compressed: bool) {
    let steps = Arc::new(Steps::default());
    let allowed = steps.clone();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let kind = kind.to_owned();
    let serving = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut room = [0; 4096];
        let _ = stream.read(&mut room).unwrap();
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        for step in 1..=3 {
            allowed.wait(step);
            write!(stream, "9\r\ndata: {step}\n\n\r\n").unwrap();
        }
        allowed.wait(4);
        write!(stream, "0\r\n\r\n").unwrap();
    });
    let wharf = Wharf::start(format!(
        "node: {{ state_dir: \"@DIR@/state\" }}\nadmin: {{ bind: \"127.0.0.1:0\" }}\naccess_log: {{ to: off }}\nworkers: 1\nlisteners: {{ main: {{ bind: \"127.0.0.1:0\" }} }}\nservices: {{ up: {{ endpoints: [\"{address}\"], timeouts: {{ body: 30s }} }} }}\nroutes: [{{name: a, to: up}}]\n"
    ))
    .unwrap();
    let mut connection = Connection::open(wharf.listener("main")).unwrap();
    connection.send(format!("GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: {accepts}\r\n\r\n").as_bytes()).unwrap();
    let mut raw = Vec::new();
    let mut room = [0; 4096];
    for step in 1..=3 {
        steps.allow(step);
        let wanted = format!("data: {step}\n\n");
        loop {
            let read = connection.stream.read(&mut room).unwrap();
            assert!(read > 0, "the stream ended before {wanted:?}");
            raw.extend_from_slice(&room[..read]);
            if text_of(&raw, compressed).contains(&wanted) {
                break;
            }
        }
    }
    steps.allow(4);
    let head = String::from_utf8_lossy(&raw).to_ascii_lowercase();
    assert_eq!(head.contains("content-encoding"), compressed, "{head}");
    serving.join().unwrap();
}

/// What a client can read of a chunked answer that has not ended.
fn text_of(raw: &[u8], compressed: bool) -> String {
    let Some(end) = raw.windows(4).position(|part| part == b"\r\n\r\n") else { return String::new() };
    let (mut rest, mut body) = (&raw[end + 4..], Vec::new());
    while let Some(line) = rest.windows(2).position(|part| part == b"\r\n") {
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..line]).unwrap(), 16).unwrap();
        let Some(piece) = rest.get(line + 2..line + 2 + size) else { break };
        body.extend_from_slice(piece);
        rest = rest.get(line + 4 + size..).unwrap_or_default();
    }
    if !compressed {
        return String::from_utf8(body).unwrap();
    }
    let mut inflating = Inflating::new(Vec::new());
    inflating.write_all(&body).unwrap();
    inflating.flush().unwrap();
    String::from_utf8(inflating.get_ref().clone()).unwrap()
}

#[test]
fn an_event_stream_is_never_compressed_and_each_event_is_passed_on_at_once() {
    seen_as_it_comes("text/event-stream", "gzip, br, zstd", false);
}

#[test]
fn a_compressed_stream_is_flushed_when_its_source_has_nothing_more() {
    seen_as_it_comes("application/x-ndjson", "gzip", true);
}
