//! Upstreams as good or as hostile as a test wants them; each records exactly the bytes it received.
//!
//! One thread for each connection. A script is asked once for each request and says what to do, act by act.

use crate::message::Request;
use crate::wait::Stop;
use rustix::net::{AddressFamily, SocketType, sockopt};
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// One thing an upstream does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Sends these bytes.
    Send(Vec<u8>),
    /// Sends an `x` so many times, without having them all at once.
    Fill(usize),
    /// Sends these bytes one by one, with a pause after each.
    Trickle(Vec<u8>, Duration),
    /// Waits.
    Pause(Duration),
    /// Says nothing more until the other side or the test ends it.
    Hang,
    /// Closes in order.
    Close,
    /// Resets the connection.
    Reset,
    /// Sends back whatever comes from now on.
    Echo,
}

/// What a script is told.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Which connection, from 0.
    pub connection: usize,
    /// Which request of the upstream, from 0.
    pub number: u64,
    /// Which request on this connection, from 0.
    pub on_connection: u64,
    /// The request.
    pub request: Request,
}

type Script = Arc<dyn Fn(&Seen) -> Vec<Act> + Send + Sync>;

/// Requests and bytes kept at most; beyond that they are only counted.
const KEPT_MAX: usize = 20_000;
const BYTES_KEPT_MAX: usize = 64 << 20;

#[derive(Default)]
struct Record {
    requests: Vec<Request>,
    streams: Vec<Vec<u8>>,
    /// Connections, in the order in which they said their first byte.
    spoke: Vec<usize>,
    bytes: usize,
}

struct Shared {
    script: Mutex<Script>,
    record: Mutex<Record>,
    served: AtomicU64,
    open: AtomicU64,
    stop: Stop,
    streams: Mutex<HashMap<usize, TcpStream>>,
}

/// A listening upstream; it ends when dropped.
pub struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Upstream {
    /// Starts one on a free port with a script.
    pub fn start(script: impl Fn(&Seen) -> Vec<Act> + Send + Sync + 'static) -> Upstream {
        Upstream::start_at("127.0.0.1:0".parse().unwrap(), script).unwrap()
    }

    /// Starts one on an address that the caller chose (the demo, or a restart on the same port).
    ///
    /// # Errors
    /// The address is taken.
    pub fn start_at(address: SocketAddr, script: impl Fn(&Seen) -> Vec<Act> + Send + Sync + 'static) -> io::Result<Upstream> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            script: Mutex::new(Arc::new(script)),
            record: Mutex::default(),
            served: AtomicU64::new(0),
            open: AtomicU64::new(0),
            stop: Stop::default(),
            streams: Mutex::default(),
        });
        let accepting = shared.clone();
        let thread = thread::Builder::new().name("upstream".into()).spawn(move || accept(&listener, &accepting))?;
        Ok(Upstream { address, shared, thread: Some(thread) })
    }

    /// Answers 200 with the request's own bytes (head and body as they came) as its body.
    pub fn echo() -> Upstream {
        Upstream::start(|seen| vec![Act::Send(ok(&seen.request.raw))])
    }

    /// Answers 200 with a fixed text: who is it?
    pub fn named(name: &str) -> Upstream {
        let answer = ok(name.as_bytes());
        Upstream::start(move |_| vec![Act::Send(answer.clone())])
    }

    /// Answers `/b/N` with N bytes.
    pub fn sized() -> Upstream {
        Upstream::start(|seen| {
            let size = seen.request.target().strip_prefix("/b/").and_then(|rest| rest.split('?').next()?.parse().ok()).unwrap_or(100);
            if size <= PIECE.len() { vec![Act::Send(ok(&PIECE[..size]))] } else { vec![Act::Send(ok_head(size)), Act::Fill(size)] }
        })
    }

    /// Sends the same bytes to everybody and closes: for hostile answers.
    pub fn saying(bytes: impl Into<Vec<u8>>) -> Upstream {
        let bytes = bytes.into();
        Upstream::start(move |_| vec![Act::Send(bytes.clone()), Act::Close])
    }

    /// Accepts, reads and never answers.
    pub fn silent() -> Upstream {
        Upstream::start(|_| vec![Act::Hang])
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Another script from the next request on.
    pub fn script(&self, script: impl Fn(&Seen) -> Vec<Act> + Send + Sync + 'static) {
        *self.shared.script.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(script);
    }

    /// Requests read so far.
    pub fn served(&self) -> u64 {
        self.shared.served.load(Relaxed)
    }

    /// Connections open now.
    pub fn open(&self) -> u64 {
        self.shared.open.load(Relaxed)
    }

    /// The requests so far (the first 20,000), in the order in which they were complete.
    pub fn requests(&self) -> Vec<Request> {
        self.record().requests.clone()
    }

    /// The last request.
    ///
    /// # Panics
    /// When there was none.
    #[track_caller]
    pub fn last(&self) -> Request {
        self.record().requests.last().cloned().expect("the upstream received a request")
    }

    /// Exactly the bytes that each connection brought, in the order of connecting.
    pub fn streams(&self) -> Vec<Vec<u8>> {
        self.record().streams.clone()
    }

    /// The same without those that brought nothing, in the order in which they began to.
    pub fn heard(&self) -> Vec<Vec<u8>> {
        let record = self.record();
        record.spoke.iter().map(|&connection| record.streams[connection].clone()).collect()
    }

    /// Forgets what was recorded; counts stay.
    pub fn forget(&self) {
        let mut record = self.record();
        record.requests.clear();
        record.spoke.clear();
        record.streams.iter_mut().for_each(Vec::clear);
        record.bytes = 0;
    }

    fn record(&self) -> std::sync::MutexGuard<'_, Record> {
        self.shared.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.stop.open();
        for (_, stream) in self.shared.streams.lock().unwrap_or_else(PoisonError::into_inner).drain() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        // Wakes the accept, which then sees the stop.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// An address that refuses connections for as long as this is held: bound, never listened on.
pub struct Refusing {
    address: SocketAddr,
    _socket: OwnedFd,
}

impl Refusing {
    /// Takes a free port.
    pub fn new() -> Refusing {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        rustix::net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = rustix::net::getsockname(&socket).unwrap().try_into().unwrap();
        Refusing { address, _socket: socket }
    }

    /// The address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Default for Refusing {
    fn default() -> Refusing {
        Refusing::new()
    }
}

/// A plain 200 with this body.
pub fn ok(body: &[u8]) -> Vec<u8> {
    let mut bytes = ok_head(body.len());
    bytes.extend_from_slice(body);
    bytes
}

fn ok_head(len: usize) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len}\r\n\r\n").into_bytes()
}

/// What long answers are sent in.
const PIECE: &[u8] = &[b'x'; 32 << 10];

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept() else { continue };
        if shared.stop.is_open() {
            return;
        }
        let connection = {
            let mut record = shared.record.lock().unwrap_or_else(PoisonError::into_inner);
            record.streams.push(Vec::new());
            record.streams.len() - 1
        };
        if let Ok(twin) = stream.try_clone() {
            shared.streams.lock().unwrap_or_else(PoisonError::into_inner).insert(connection, twin);
        }
        let shared = shared.clone();
        shared.open.fetch_add(1, Relaxed);
        let serving = thread::Builder::new().name(format!("upstream-{connection}")).stack_size(256 << 10);
        let started = serving.spawn(move || {
            // However it ends: a test looks at what was received, not at why the other side left.
            let _ = serve(&stream, connection, &shared);
            // The twin goes first: it would keep the socket open, and a close would close nothing.
            drop(shared.streams.lock().unwrap_or_else(PoisonError::into_inner).remove(&connection));
            drop(stream);
            shared.open.fetch_sub(1, Relaxed);
        });
        if let Err(error) = started {
            eprintln!("upstream: no thread for a connection: {error}");
        }
    }
}

fn serve(mut stream: &TcpStream, connection: usize, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let (mut held, mut piece, mut on_connection) = (Vec::new(), vec![0; 64 << 10], 0);
    let mut told_to_go_on = false;
    loop {
        while let Some(request) = Request::take(&mut held) {
            told_to_go_on = false;
            let number = shared.served.fetch_add(1, Relaxed);
            {
                let mut record = shared.record.lock().unwrap_or_else(PoisonError::into_inner);
                if record.requests.len() < KEPT_MAX {
                    record.requests.push(request.clone());
                }
            }
            let script = shared.script.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let seen = Seen { connection, number, on_connection, request };
            on_connection += 1;
            for act in script(&seen) {
                if !perform(stream, act, shared)? {
                    return Ok(());
                }
            }
        }
        if !told_to_go_on && expects_continue(&held) {
            told_to_go_on = true;
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let n = stream.read(&mut piece)?;
        if n == 0 {
            return Ok(());
        }
        keep(shared, connection, &piece[..n]);
        held.extend_from_slice(&piece[..n]);
    }
}

fn keep(shared: &Shared, connection: usize, bytes: &[u8]) {
    let mut record = shared.record.lock().unwrap_or_else(PoisonError::into_inner);
    if record.bytes + bytes.len() <= BYTES_KEPT_MAX {
        record.bytes += bytes.len();
        if record.streams[connection].is_empty() {
            record.spoke.push(connection);
        }
        record.streams[connection].extend_from_slice(bytes);
    }
}

fn expects_continue(held: &[u8]) -> bool {
    let head = held.windows(4).position(|four| four == b"\r\n\r\n").map(|end| String::from_utf8_lossy(&held[..end]).to_ascii_lowercase());
    head.is_some_and(|head| head.contains("\r\nexpect: 100-continue"))
}

/// `false`: the connection has ended.
fn perform(mut stream: &TcpStream, act: Act, shared: &Shared) -> io::Result<bool> {
    match act {
        Act::Send(bytes) => stream.write_all(&bytes)?,
        Act::Fill(mut left) => {
            while left > 0 {
                let piece = &PIECE[..left.min(PIECE.len())];
                stream.write_all(piece)?;
                left -= piece.len();
            }
        }
        Act::Trickle(bytes, gap) => {
            for byte in bytes {
                stream.write_all(&[byte])?;
                if shared.stop.or_at(Instant::now() + gap) {
                    return Ok(false);
                }
            }
        }
        Act::Pause(time) => return Ok(!shared.stop.or_at(Instant::now() + time)),
        Act::Hang => {
            // Reading until the end: the other side may leave, the test may end (which shuts the socket down).
            let mut piece = [0; 4096];
            while matches!(stream.read(&mut piece), Ok(n) if n > 0) {}
            return Ok(false);
        }
        Act::Close => {
            let _ = stream.shutdown(Shutdown::Both);
            return Ok(false);
        }
        Act::Reset => {
            // Closing with a linger of 0 sends a reset.
            sockopt::set_socket_linger(stream, Some(Duration::ZERO)).map_err(io::Error::from)?;
            return Ok(false);
        }
        Act::Echo => {
            let mut piece = vec![0; 64 << 10];
            loop {
                match stream.read(&mut piece)? {
                    0 => return Ok(false),
                    n => stream.write_all(&piece[..n])?,
                }
            }
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw::{Connection, Ended, exchange};

    const LIMIT: Duration = Duration::from_secs(10);

    #[test]
    fn an_upstream_records_exactly_what_it_received() {
        let upstream = Upstream::echo();
        let mut connection = Connection::open(upstream.address()).unwrap();
        let request = b"POST /a?b HTTP/1.1\r\nHoSt: x\r\nContent-Length: 2\r\n\r\nhi";
        connection.send(request).unwrap();
        assert_eq!(connection.reply("POST").unwrap().body, request);
        assert_eq!(connection.get("x", "/second").unwrap().status, 200);
        assert_eq!(upstream.served(), 2);
        assert_eq!(upstream.requests()[0].target(), "/a?b");
        assert!(upstream.streams()[0].starts_with(request));
    }

    #[test]
    fn a_script_can_close_reset_and_hang() {
        let upstream = Upstream::saying("HTTP/1.1 200 OK\r\n");
        let heard = exchange(upstream.address(), b"GET / HTTP/1.1\r\n\r\n", LIMIT).unwrap();
        assert_eq!((heard.text().as_str(), heard.ended), ("HTTP/1.1 200 OK\r\n", Ended::Closed));
        upstream.script(|_| vec![Act::Reset]);
        assert_eq!(exchange(upstream.address(), b"GET / HTTP/1.1\r\n\r\n", LIMIT).unwrap().ended, Ended::Reset);
        upstream.script(|_| vec![Act::Hang]);
        let heard = exchange(upstream.address(), b"GET / HTTP/1.1\r\n\r\n", Duration::from_millis(50)).unwrap();
        assert_eq!(heard.ended, Ended::Deadline);
    }

    #[test]
    fn a_refusing_address_refuses() {
        let refusing = Refusing::new();
        let refused = TcpStream::connect(refusing.address()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    }
}
