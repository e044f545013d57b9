//! The HTTP road over real sockets: a front and a client of this room, and between them the shortest outlet there is.
//! Upstreams are scripted byte by byte, so that what they do wrong is done exactly.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "helpers of tests fail by panicking")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};
use wharf_core::LocalBoxFuture;
use wharf_core::exchange::{Answer, Exchange};
use wharf_core::fault::Fault;
use wharf_core::metrics::Registry;
use wharf_core::outlet::{CallLimits, Endpoint, EndpointRef, Outlet, Protocol, Wish};
use wharf_core::road::Target;
use wharf_core::rules::Rules;
use wharf_http::client::Client;
use wharf_http::front;
use wharf_http::house::{Core, Entry, House, ListenerLimits, Meters};
use wharf_http::routes::{RouteMatch, Routes};

/// One endpoint, one try.
struct Straight {
    client: Client,
    endpoint: EndpointRef,
    limits: CallLimits,
}

impl Outlet for Straight {
    fn call<'a>(&'a self, exchange: &'a mut Exchange, _: &'a Wish) -> LocalBoxFuture<'a, Result<Answer, Fault>> {
        Box::pin(self.client.send(&self.endpoint, exchange, &self.limits))
    }
}

struct Setting {
    calls: CallLimits,
    listener: ListenerLimits,
    whole: Duration,
    body_bytes_max: u64,
}

impl Default for Setting {
    fn default() -> Setting {
        Setting {
            calls: CallLimits::default(),
            listener: ListenerLimits::default(),
            whole: Duration::from_secs(20),
            body_bytes_max: 10 << 20,
        }
    }
}

/// Starts a front whose every request goes to `upstream`.
fn gateway(upstream: SocketAddr, setting: Setting) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime, async move {
            let metrics = Arc::new(Registry::default());
            let core = Core::new(0, 1, metrics.clone(), None);
            let endpoint = Arc::new(Endpoint::new("up".into(), upstream, 1, None, Box::default()));
            let outlet = Rc::new(Straight { client: core.client.clone(), endpoint, limits: setting.calls });
            let entry = Entry {
                name: "all".into(),
                rules: Rules::default(),
                target: Target::Fixed(outlet, Wish::default()),
                memory: None,
                by_host: None,
                keep_host: true,
                steps: None,
                compression: None,
                watch: None,
                whole: setting.whole,
                whole_is_default: false,
                body_bytes_max: setting.body_bytes_max,
                meters: Rc::new(Meters::new(&metrics, &"all".into())),
            };
            let routes = Arc::new(Routes::compile(vec![RouteMatch::default()]));
            *core.house.borrow_mut() = Rc::new(House { routes, entries: vec![entry], unmatched: None, watch: None });
            tokio::task::spawn_local(core.deadlines.clone().sweep(|_| false));
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let limits = Rc::new(setting.listener);
            loop {
                let (stream, peer) = listener.accept().await.unwrap();
                tokio::task::spawn_local(front::serve(core.clone(), limits.clone(), stream, peer));
            }
        });
    });
    address
}

/// An upstream that runs `script` for each connection, with its number.
fn upstream(script: impl Fn(usize, TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let script = Arc::new(script);
    thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let script = script.clone();
            thread::spawn(move || script(number, stream.unwrap()));
        }
    });
    address
}

/// Reads one head, and hands back what came behind it.
fn read_head(stream: &mut TcpStream, left: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = left.windows(4).position(|part| part == b"\r\n\r\n") {
            let rest = left.split_off(end + 4);
            let head = String::from_utf8(std::mem::replace(left, rest)).unwrap();
            return Some(head);
        }
        let mut room = [0; 4096];
        match stream.read(&mut room) {
            Ok(0) | Err(_) => return None,
            Ok(read) => left.extend_from_slice(&room[..read]),
        }
    }
}

/// An upstream that answers every head with `answer`, and tells what it was asked.
fn answering(answer: &'static [u8]) -> (SocketAddr, Receiver<(usize, String)>) {
    let (tell, told) = channel();
    let address = upstream(move |number, mut stream| {
        let mut left = Vec::new();
        while let Some(head) = read_head(&mut stream, &mut left) {
            let _ = tell.send((number, head));
            stream.write_all(answer).unwrap();
        }
    });
    (address, told)
}

struct Caller {
    stream: TcpStream,
    left: Vec<u8>,
}

impl Caller {
    fn new(address: SocketAddr) -> Caller {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        Caller { stream, left: Vec::new() }
    }

    fn say(&mut self, bytes: &[u8]) -> &mut Caller {
        self.stream.write_all(bytes).unwrap();
        self
    }

    fn head(&mut self) -> String {
        read_head(&mut self.stream, &mut self.left).expect("an answer")
    }

    /// Reads `len` bytes of body.
    fn body(&mut self, len: usize) -> Vec<u8> {
        while self.left.len() < len {
            let mut room = [0; 65536];
            let read = self.stream.read(&mut room).unwrap();
            assert!(read > 0, "the body ended after {} of {len} bytes", self.left.len());
            self.left.extend_from_slice(&room[..read]);
        }
        let rest = self.left.split_off(len);
        std::mem::replace(&mut self.left, rest)
    }

    /// Everything up to the end of the connection; an error where it was reset.
    fn rest(&mut self) -> std::io::Result<Vec<u8>> {
        let mut all = std::mem::take(&mut self.left);
        self.stream.read_to_end(&mut all)?;
        Ok(all)
    }
}

const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: example.org\r\n\r\n";

#[test]
fn one_upstream_connection_serves_request_after_request() {
    let (up, asked) = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-Up: 1\r\n\r\nhello");
    let mut caller = Caller::new(gateway(up, Setting::default()));
    for _ in 0..20 {
        let head = caller.say(GET).head();
        assert!(
            head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("x-up: 1\r\n") && head.contains("content-length: 5\r\n"),
            "{head}"
        );
        assert_eq!(caller.body(5), b"hello");
        let (connection, head) = asked.recv().unwrap();
        assert_eq!(connection, 0, "a second connection was opened");
        assert!(head.starts_with("GET /a HTTP/1.1\r\n") && head.contains("host: example.org\r\n"), "{head}");
        assert!(head.contains("x-forwarded-for: 127.0.0.1\r\n"), "{head}");
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let (up, _asked) = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    let mut caller = Caller::new(gateway(up, Setting::default()));
    caller.say(&GET.repeat(50));
    for _ in 0..50 {
        assert!(caller.head().starts_with("HTTP/1.1 200"));
        assert_eq!(caller.body(2), b"ok");
    }
}

#[test]
fn a_large_body_is_streamed_both_ways_whole() {
    // Echoes a chunked body as it comes: answer and request overlap.
    let up = upstream(|_, mut stream| {
        let mut left = Vec::new();
        let head = read_head(&mut stream, &mut left).unwrap();
        assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        let mut room = vec![0; 65536];
        loop {
            stream.write_all(&left).unwrap();
            if left.ends_with(b"0\r\n\r\n") {
                return;
            }
            let read = stream.read(&mut room).unwrap();
            left = room[..read].to_vec();
            if read == 0 {
                return;
            }
        }
    });
    let address = gateway(up, Setting::default());
    let mut caller = Caller::new(address);
    let mut sender = caller.stream.try_clone().unwrap();
    let sending = thread::spawn(move || {
        sender.write_all(b"POST /e HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        for n in 0..256u32 {
            sender.write_all(b"4000\r\n").unwrap();
            sender.write_all(&vec![n as u8; 0x4000]).unwrap();
            sender.write_all(b"\r\n").unwrap();
        }
        sender.write_all(b"0\r\n\r\n").unwrap();
    });
    assert!(caller.head().contains("transfer-encoding: chunked"));
    let mut total = Vec::new();
    loop {
        let line_end = loop {
            if let Some(end) = caller.left.windows(2).position(|part| part == b"\r\n") {
                break end;
            }
            let have = caller.left.len();
            let more = caller.body(have + 1);
            caller.left.splice(0..0, more);
        };
        let line = caller.body(line_end + 2);
        let size = usize::from_str_radix(std::str::from_utf8(&line[..line_end]).unwrap(), 16).unwrap();
        total.extend(caller.body(size));
        assert_eq!(caller.body(2), b"\r\n");
        if size == 0 {
            break;
        }
    }
    sending.join().unwrap();
    assert_eq!(total.len(), 256 * 0x4000);
    assert!(total.chunks(0x4000).enumerate().all(|(n, chunk)| chunk.iter().all(|&byte| byte == n as u8)));
}

#[test]
fn a_sized_answer_larger_than_any_buffer_arrives_whole() {
    let up = upstream(|_, mut stream| {
        let mut left = Vec::new();
        while read_head(&mut stream, &mut left).is_some() {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5000000\r\n\r\n").unwrap();
            stream.write_all(&vec![7; 5_000_000]).unwrap();
        }
    });
    let mut caller = Caller::new(gateway(up, Setting::default()));
    for _ in 0..3 {
        assert!(caller.say(GET).head().contains("content-length: 5000000\r\n"));
        assert!(caller.body(5_000_000).iter().all(|&byte| byte == 7));
    }
}

#[test]
fn trailers_cross_the_gateway() {
    let (up, _asked) = answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 6\r\n\r\n");
    let mut caller = Caller::new(gateway(up, Setting::default()));
    caller.say(GET).head();
    caller.stream.shutdown(Shutdown::Write).unwrap();
    let rest = caller.rest().unwrap();
    assert_eq!(String::from_utf8(rest).unwrap(), "3\r\nabc\r\n0\r\nx-sum: 6\r\n\r\n");
}

#[test]
fn a_client_that_expects_100_continue_gets_it_when_the_body_is_wanted() {
    let up = upstream(|_, mut stream| {
        let mut left = Vec::new();
        let head = read_head(&mut stream, &mut left).unwrap();
        assert!(!head.contains("expect"), "{head}");
        let mut body = left;
        while body.len() < 5 {
            let mut room = [0; 16];
            let read = stream.read(&mut room).unwrap();
            body.extend_from_slice(&room[..read]);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").unwrap();
        stream.write_all(&body).unwrap();
    });
    let mut caller = Caller::new(gateway(up, Setting::default()));
    caller.say(b"PUT /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(caller.head(), "HTTP/1.1 100 Continue\r\n\r\n");
    assert!(caller.say(b"hello").head().starts_with("HTTP/1.1 200"));
    assert_eq!(caller.body(5), b"hello");
}

#[test]
fn head_answers_carry_the_length_and_no_body() {
    let (up, _asked) = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n");
    let mut caller = Caller::new(gateway(up, Setting::default()));
    for _ in 0..2 {
        let head = caller.say(b"HEAD /a HTTP/1.1\r\nHost: a\r\n\r\n").head();
        assert!(head.contains("content-length: 12345\r\n"), "{head}");
        assert!(caller.left.is_empty());
    }
}

#[test]
fn a_http_1_0_client_gets_an_unframed_body_and_the_end() {
    let (up, _asked) = answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
    let mut caller = Caller::new(gateway(up, Setting::default()));
    caller.say(b"GET /a HTTP/1.0\r\nHost: a\r\n\r\n");
    let head = caller.head();
    assert!(!head.contains("transfer-encoding"), "{head}");
    assert_eq!(caller.rest().unwrap(), b"abc");
}

#[test]
fn an_upgrade_becomes_a_tunnel_in_both_directions() {
    let up = upstream(|_, mut stream| {
        let mut left = Vec::new();
        let head = read_head(&mut stream, &mut left).unwrap();
        assert!(head.contains("upgrade: websocket\r\n") && head.contains("connection: upgrade\r\n"), "{head}");
        // Bytes right behind the 101 belong to the tunnel.
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfirst").unwrap();
        let mut room = [0; 1024];
        loop {
            let read = stream.read(&mut room).unwrap();
            if read == 0 {
                return;
            }
            stream.write_all(&room[..read]).unwrap();
        }
    });
    let mut caller = Caller::new(gateway(up, Setting::default()));
    caller.say(b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    let head = caller.head();
    assert!(head.starts_with("HTTP/1.1 101 ") && head.contains("upgrade: websocket\r\n"), "{head}");
    assert_eq!(caller.body(5), b"first");
    for _ in 0..10 {
        caller.say(b"ping");
        assert_eq!(caller.body(4), b"ping");
    }
    caller.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(caller.rest().unwrap(), b"");
}

#[test]
fn a_kept_connection_that_the_upstream_closed_costs_no_request() {
    // Each connection serves one request and is then closed without a word.
    let up = upstream(|_, mut stream| {
        let mut left = Vec::new();
        if read_head(&mut stream, &mut left).is_some() {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        }
    });
    let mut caller = Caller::new(gateway(up, Setting::default()));
    for _ in 0..50 {
        assert!(caller.say(GET).head().starts_with("HTTP/1.1 200"));
        assert_eq!(caller.body(2), b"ok");
    }
}

#[test]
fn an_unsafe_request_is_never_sent_twice() {
    let (tell, told) = channel();
    let up = upstream(move |number, mut stream| {
        let mut left = Vec::new();
        let mut served = 0;
        while read_head(&mut stream, &mut left).is_some() {
            tell.send(number).unwrap();
            if number == 0 && served == 1 {
                return; // read, and closed without an answer
            }
            served += 1;
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
        }
    });
    let mut caller = Caller::new(gateway(up, Setting::default()));
    let post = b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
    caller.say(post).head();
    caller.body(2);
    let head = caller.say(post).head();
    assert!(head.starts_with("HTTP/1.1 502"), "{head}");
    assert_eq!(told.try_iter().collect::<Vec<_>>(), [0, 0]);
}

#[test]
fn bytes_behind_an_answer_reach_nobody() {
    let (up, asked) = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
    let mut caller = Caller::new(gateway(up, Setting::default()));
    for round in 0..5 {
        assert!(caller.say(GET).head().starts_with("HTTP/1.1 200"));
        assert_eq!(caller.body(2), b"ok");
        assert_eq!(asked.recv().unwrap().0, round, "a connection with bytes of unknown meaning was used again");
    }
}

#[test]
fn a_body_that_is_cut_is_never_shown_as_complete() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nhalf"[..],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n",
    ] {
        let up = upstream(move |_, mut stream| {
            read_head(&mut stream, &mut Vec::new());
            stream.write_all(answer).unwrap();
        });
        let address = gateway(up, Setting::default());
        for version in ["1.0", "1.1"] {
            let mut caller = Caller::new(address);
            caller.say(format!("GET /a HTTP/{version}\r\nHost: a\r\n\r\n").as_bytes());
            // A reset, or a chunked body without its end, or fewer bytes than were announced.
            if let Ok(rest) = caller.rest() {
                let text = String::from_utf8_lossy(&rest).into_owned();
                assert!(text.contains("content-length: 100000") || !text.contains("0\r\n\r\n"), "{text}");
                assert!(version == "1.1" || text.contains("content-length"), "an unframed body ended as if it were whole: {text}");
            }
        }
    }
}

#[test]
fn a_body_that_breaks_before_anything_was_sent_is_told_to_the_client() {
    // Head and broken body come in one piece: nothing of the answer is on its way when that is seen.
    for answer in [
        &b"HTTP/1.1 200 OK\r\nX-Up: 1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"[..],
        b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nab\r\n0\r\n\r\n",
    ] {
        let (up, _asked) = answering(answer);
        let address = gateway(up, Setting::default());
        for _ in 0..3 {
            let mut caller = Caller::new(address);
            let head = caller.say(GET).head();
            assert!(head.starts_with("HTTP/1.1 502") && !head.contains("x-up"), "{head}");
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().trim().parse().unwrap();
            let body = String::from_utf8(caller.body(length)).unwrap();
            assert!(body.contains("bad_answer"), "{body}");
            assert_eq!(caller.rest().unwrap(), b"", "it ends in order");
        }
    }
}

#[test]
fn an_upstream_that_says_nothing_is_given_up_on_time() {
    let up = upstream(|_, mut stream| {
        let mut room = [0; 1024];
        while stream.read(&mut room).is_ok_and(|read| read > 0) {}
    });
    let calls = CallLimits { head: Duration::from_millis(100), ..CallLimits::default() };
    let mut caller = Caller::new(gateway(up, Setting { calls, ..Setting::default() }));
    assert!(caller.say(GET).head().starts_with("HTTP/1.1 504"));
    let mut caller = Caller::new(gateway(up, Setting { whole: Duration::from_millis(100), ..Setting::default() }));
    assert!(caller.say(GET).head().starts_with("HTTP/1.1 504"));
}

#[test]
fn an_event_stream_may_be_quiet_longer_than_other_bodies_but_not_for_ever() {
    let quiet = Duration::from_millis(400);
    let start = |answer| {
        let up = answering(answer).0;
        let calls = CallLimits { body: Duration::from_millis(50), ..CallLimits::default() };
        let listener = ListenerLimits { quiet, ..ListenerLimits::default() };
        Caller::new(gateway(up, Setting { calls, listener, whole: Duration::from_millis(100), ..Setting::default() }))
    };
    let began = Instant::now();
    let mut caller = start(b"HTTP/1.1 200 OK\r\nContent-Type: Text/event-stream; charset=utf-8\r\n\r\ndata: 1\n\n");
    assert!(caller.say(GET).head().starts_with("HTTP/1.1 200"));
    assert_eq!(caller.body(14), b"9\r\ndata: 1\n\n\r\n"[..14]);
    let _ = caller.rest();
    assert!(began.elapsed() >= quiet, "it was ended after {:?}", began.elapsed());
    // Any other body is late long before.
    let mut caller = start(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\ndata");
    assert!(caller.say(GET).head().starts_with("HTTP/1.1 200"));
    caller.body(4);
    assert!(caller.rest().is_err(), "a cut body ends in a reset");
}

#[test]
fn hostile_answers_become_502() {
    for answer in [
        &b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nokk"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nBad Name: x\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/3.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"garbage\r\n\r\n",
        b"",
    ] {
        let up = upstream(move |_, mut stream| {
            read_head(&mut stream, &mut Vec::new());
            stream.write_all(answer).unwrap();
        });
        let head = Caller::new(gateway(up, Setting::default())).say(GET).head();
        assert!(head.starts_with("HTTP/1.1 502"), "{:?} gave {head}", String::from_utf8_lossy(answer));
    }
    let up = upstream(|_, mut stream| {
        read_head(&mut stream, &mut Vec::new());
        while stream.write_all(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n").is_ok() {}
    });
    assert!(Caller::new(gateway(up, Setting::default())).say(GET).head().starts_with("HTTP/1.1 502"));
}

#[test]
fn a_body_beyond_its_limit_is_refused_sized_or_not() {
    let up = upstream(|_, mut stream| {
        let mut room = vec![0; 65536];
        while stream.read(&mut room).is_ok_and(|read| read > 0) {}
    });
    let address = gateway(up, Setting { body_bytes_max: 1000, ..Setting::default() });
    let head = Caller::new(address).say(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1001\r\n\r\n").head();
    assert!(head.starts_with("HTTP/1.1 413"), "{head}");
    let mut caller = Caller::new(address);
    caller.say(b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    caller.say(format!("3e9\r\n{}\r\n0\r\n\r\n", "x".repeat(1001)).as_bytes());
    let head = caller.head();
    assert!(head.starts_with("HTTP/1.1 413"), "{head}");
}

#[test]
fn a_client_that_is_slow_with_its_head_or_body_is_told_so() {
    let (up, _asked) = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let listener = ListenerLimits { head: Duration::from_millis(100), body: Duration::from_millis(100), ..ListenerLimits::default() };
    let address = gateway(up, Setting { listener, ..Setting::default() });
    let mut caller = Caller::new(address);
    assert!(caller.say(b"GET /a HTT").head().starts_with("HTTP/1.1 408"));
    assert!(caller.rest().is_ok());
}

#[test]
fn refused_requests_are_answered_and_the_connection_ends() {
    let (up, asked) = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let address = gateway(up, Setting::default());
    for bad in [
        &b"GET /a HTTP/1.1\r\n\r\n"[..],
        b"GET /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /a/..;x/b HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let mut caller = Caller::new(address);
        let head = caller.say(bad).head();
        assert!(head.starts_with("HTTP/1.1 400") && head.contains("connection: close\r\n"), "{head}");
        caller.rest().unwrap();
    }
    assert!(asked.try_recv().is_err(), "a refused request was forwarded");
}

#[test]
fn a_client_that_resets_is_not_waited_for() {
    let (tell, told) = channel();
    let up = upstream(move |_, mut stream| {
        let mut left = Vec::new();
        tell.send(read_head(&mut stream, &mut left).is_some()).unwrap();
        // It never answers; that the gateway gives up is seen by the end of the connection.
        let _ = stream.read(&mut [0; 16]);
        tell.send(false).unwrap();
    });
    let calls = CallLimits { head: Duration::from_secs(300), ..CallLimits::default() };
    let address = gateway(up, Setting { calls, whole: Duration::from_secs(300), ..Setting::default() });
    let mut caller = Caller::new(address);
    caller.say(GET);
    assert_eq!(told.recv_timeout(Duration::from_secs(60)), Ok(true), "the request arrives");
    // One that has only said all it has to say still gets its answer.
    let mut half = Caller::new(address);
    half.say(GET).stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(told.recv_timeout(Duration::from_secs(60)), Ok(true), "the request arrives");

    socket2::SockRef::from(&caller.stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(caller);
    assert_eq!(told.recv_timeout(Duration::from_secs(60)), Ok(false), "the upstream is let go");
    assert!(told.try_recv().is_err(), "the other one is still being served");
}

#[test]
fn whose_time_it_was_that_ran_out_is_told_apart() {
    let up = upstream(|_, mut stream| {
        // Of the second one it does not read the body.
        let head = read_head(&mut stream, &mut Vec::new()).unwrap();
        let mut room = [0; 1024];
        while head.contains("/unread") || stream.read(&mut room).is_ok_and(|read| read > 0) {
            thread::park_timeout(if head.contains("/unread") { Duration::MAX } else { Duration::ZERO });
        }
    });
    let address = gateway(up, Setting { whole: Duration::from_millis(500), body_bytes_max: 1 << 30, ..Setting::default() });
    for framing in ["Content-Length: 10\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"] {
        let mut caller = Caller::new(address);
        let head = caller.say(format!("POST /a HTTP/1.1\r\nHost: a\r\n{framing}").as_bytes()).head();
        assert!(head.starts_with("HTTP/1.1 408"), "the client had not sent everything: {head}");
    }
    let mut caller = Caller::new(address);
    caller.say(b"POST /unread HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n");
    let mut sending = caller.stream.try_clone().unwrap();
    thread::spawn(move || while sending.write_all(&[0; 65536]).is_ok() {});
    let head = caller.head();
    assert!(head.starts_with("HTTP/1.1 504"), "the endpoint had not read everything: {head}");
}

#[test]
fn the_answer_is_not_late_while_the_body_is_still_on_its_way() {
    let (up, _asked) = answering(b"");
    let early = upstream(|_, mut stream| {
        let mut room = [0; 1024];
        while stream.read(&mut room).is_ok_and(|read| read > 0 && room[read - 1] != b'!') {}
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
    });
    for (up, status) in [(early, "HTTP/1.1 200"), (up, "HTTP/1.1 504")] {
        let calls = CallLimits { head: Duration::from_millis(200), ..CallLimits::default() };
        let mut caller = Caller::new(gateway(up, Setting { calls, ..Setting::default() }));
        caller.say(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nhello");
        caller.stream.set_read_timeout(Some(Duration::from_millis(600))).unwrap();
        assert!(caller.stream.read(&mut [0; 1]).is_err(), "nothing was answered before the body was there");
        caller.stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let head = caller.say(b"!").head();
        assert!(head.starts_with(status), "{head}");
    }
}

#[test]
fn an_endpoint_that_has_half_of_a_request_does_not_wait_for_the_other_half() {
    let (tell, told) = channel();
    let up = upstream(move |_, mut stream| {
        let (mut all, mut room) = (Vec::new(), [0; 1024]);
        while let Ok(read @ 1..) = stream.read(&mut room) {
            all.extend_from_slice(&room[..read]);
        }
        tell.send(all).unwrap();
    });
    let listener = ListenerLimits { body: Duration::from_millis(300), ..ListenerLimits::default() };
    let address = gateway(up, Setting { listener, ..Setting::default() });
    for leaves in [true, false] {
        let mut caller = Caller::new(address);
        caller.say(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello");
        if leaves {
            caller.stream.shutdown(Shutdown::Write).unwrap();
        }
        assert!(caller.head().starts_with("HTTP/1.1 408"));
        let got = told.recv_timeout(Duration::from_secs(60)).expect("its connection is closed");
        assert!(got.ends_with(b"hello"));
    }
}
