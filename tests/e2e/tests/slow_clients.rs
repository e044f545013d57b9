//! Clients that take their time: each kind is ended by its deadline, holds little, and costs those who behave nothing.
//!
//! `WHARF_PROVE=1`: 200 of each kind; else 100.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests stop at the first surprise, and print their figures"
)]

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};
use wharf_harness::two::{self, Two};
use wharf_harness::wait::Stop;
use wharf_harness::{Load, Upstream, Wharf};

/// Between two bytes of a slow client.
const GAP: Duration = Duration::from_millis(200);
/// Nobody lasts longer, whatever the bound.
const LIMIT: Duration = Duration::from_secs(40);

/// Memory that a kind may cost once, however many clients it has.
const ONCE_KIB: u64 = 4 * 1024;

/// What a client does, and how long it may last: the bound that ends it, and a second.
struct Kind {
    name: &'static str,
    lasts: Duration,
    /// Sent at once.
    first: fn() -> Vec<u8>,
    /// Sent again and again.
    then: &'static [u8],
    /// Reads the answer, a byte at a time; else whatever comes.
    reads_slowly: bool,
}

fn text(text: &str) -> Vec<u8> {
    text.into()
}

const KINDS: [Kind; 7] = [
    Kind { name: "says nothing", lasts: Duration::from_secs(2), first: Vec::new, then: b"", reads_slowly: false },
    Kind {
        name: "slow head",
        lasts: Duration::from_secs(2),
        first: || text("GET / HTTP/1.1\r\nhost: a\r\nx: "),
        then: b"a",
        reads_slowly: false,
    },
    Kind {
        name: "slow body",
        lasts: Duration::from_secs(6),
        first: || text("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n"),
        then: b"a",
        reads_slowly: false,
    },
    Kind {
        name: "slow chunks",
        lasts: Duration::from_secs(6),
        first: || text("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"),
        then: b"1\r\na\r\n",
        reads_slowly: false,
    },
    Kind {
        name: "slow read",
        lasts: Duration::from_secs(16),
        first: || text("GET /b/8000000 HTTP/1.1\r\nhost: a\r\n\r\n"),
        then: b"",
        reads_slowly: true,
    },
    Kind {
        name: "rests",
        lasts: Duration::from_secs(3),
        first: || text("GET / HTTP/1.1\r\nhost: a\r\n\r\n"),
        then: b"",
        reads_slowly: false,
    },
    Kind {
        name: "asks on without reading",
        lasts: Duration::from_secs(16),
        first: || text("GET /b/65536 HTTP/1.1\r\nhost: a\r\n\r\n").repeat(200),
        then: b"",
        reads_slowly: true,
    },
];

fn start(upstream: &Upstream) -> Wharf {
    Wharf::start(format!(
        r#"
node: {{ state_dir: "@DIR@/state" }}
admin: {{ bind: "127.0.0.1:0" }}
listeners:
  main: {{ bind: "127.0.0.1:0", timeouts: {{ first: 1s, head: 1s, body: 2s, keep_alive: 2s }} }}
services: {{ up: {{ endpoints: ["{}"], timeouts: {{ head: 20s, body: 20s }} }} }}
routes: [{{ name: all, to: up, timeouts: {{ whole: 15s }} }}]
"#,
        upstream.address()
    ))
    .unwrap()
}

#[test]
fn every_slow_client_is_ended_by_its_deadline_and_nobody_else_notices() {
    let clients = if std::env::var_os("WHARF_PROVE").is_some() { 200 } else { 100 };
    let upstream = Upstream::sized();
    let wharf = start(&upstream);
    let address = wharf.listener("main");
    for kind in &KINDS {
        let good = Load::get(address, "a.example", "/b/100").connections(4).rate(200.0).start();
        let before = wharf.anonymous_kib();
        let mut peak = 0;
        let lasted: Vec<Duration> = thread::scope(|scope| {
            let running: Vec<_> = (0..clients).map(|_| scope.spawn(|| last(address, kind))).collect();
            // All are connected and stalled for most of the time that they last.
            let stop = Stop::default();
            while !running.iter().all(thread::ScopedJoinHandle::is_finished) {
                peak = peak.max(wharf.anonymous_kib());
                stop.or_at(Instant::now() + GAP);
            }
            running.into_iter().map(|client| client.join().unwrap()).collect()
        });
        // What the process takes once, for the first of a kind, is nobody's.
        let each = peak.saturating_sub(before + ONCE_KIB) / clients;
        let (first, longest) = (lasted.iter().min().unwrap(), lasted.iter().max().unwrap());
        let good = good.stop();
        println!(
            "slow clients: {}: {clients} ended after {first:?} to {longest:?}, {each} KiB each; {} good requests beside them, p99 {:?}",
            kind.name,
            good.done,
            good.percentile(0.99)
        );
        good.expect_clean();
        assert!(*longest <= kind.lasts + Duration::from_secs(1), "{}: {longest:?}, bound {:?}", kind.name, kind.lasts);
        assert!(each <= 64, "{}: {each} KiB each", kind.name);
    }
}

/// Plays one client; returns when it was ended.
fn last(address: SocketAddr, kind: &Kind) -> Duration {
    let begun = Instant::now();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    // Ends with the connection: what a closed one takes no more of is an error.
    if stream.write_all(&(kind.first)()).is_err() {
        return begun.elapsed();
    }
    let stop = Stop::default();
    while begun.elapsed() < LIMIT {
        stop.or_at(Instant::now() + GAP);
        if stream.write_all(kind.then).is_err() || !is_open(&mut stream, kind.reads_slowly) {
            break;
        }
    }
    begun.elapsed()
}

/// Is the other side still there? Reads a byte of what it says, or all of it.
fn is_open(stream: &mut TcpStream, slowly: bool) -> bool {
    stream.set_nonblocking(true).unwrap();
    let mut room = [0; 4096];
    let room = if slowly { &mut room[..1] } else { &mut room[..] };
    let open = match stream.read(room) {
        Ok(0) => false,
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    };
    stream.set_nonblocking(false).unwrap();
    // A reset is seen even while there is something left to read.
    open && matches!(stream.take_error(), Ok(None))
}

#[test]
fn slow_streams_of_http2_end_alone() {
    let upstream = Upstream::sized();
    let wharf = start(&upstream);
    let post: [(&[u8], &[u8]); 4] = [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/b/10")];
    // One that never sends its body, and takes no answer about that either.
    let mut connection = Two::open(wharf.listener("main"), &[(4, 0)]).unwrap();
    connection.send(&two::headers(1, false, &post)).unwrap();
    let ended = connection.ended(1, Duration::from_secs(7));
    assert!(matches!(ended, two::Ended::Answered(408, _) | two::Ended::Reset(_)), "{ended:?}");
    // One whose answer is never taken.
    connection.send(&two::get(3, "a", "/b/65536")).unwrap();
    let ended = connection.ended(3, Duration::from_secs(5));
    assert!(matches!(ended, two::Ended::Reset(_)), "{ended:?}");
    // The connection goes on: with a window, another stream is answered.
    connection.send(&[two::frame(two::SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]), two::get(5, "a", "/b/10")].concat()).unwrap();
    assert!(matches!(connection.ended(5, Duration::from_secs(4)), two::Ended::Answered(200, body) if body.len() == 10));
}
