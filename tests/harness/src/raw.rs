//! A client that sends bytes as they are and tells what came back, and how it ended.

use crate::message::Reply;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The other side closed it.
    Closed,
    /// The other side reset it.
    Reset,
    /// Nothing ended within the deadline: it hangs, or it is kept alive.
    Deadline,
}

/// What came back.
#[derive(Clone, Debug)]
pub struct Heard {
    /// Every byte.
    pub bytes: Vec<u8>,
    /// How it ended.
    pub ended: Ended,
    /// How long it took.
    pub took: Duration,
}

impl Heard {
    /// The answers in it, for requests of these methods, and what is left over.
    pub fn replies(&self, methods: &[&str]) -> (Vec<Reply>, Vec<u8>) {
        Reply::all_in(&self.bytes, methods)
    }

    /// Status of the first answer that is not interim; 0 when there is none. Works for cut answers, too.
    pub fn status(&self) -> u16 {
        let text = String::from_utf8_lossy(&self.bytes);
        text.split("HTTP/1.")
            .skip(1)
            .filter_map(|rest| rest.split(' ').nth(1)?.get(..3)?.parse().ok())
            .find(|&status| status >= 200)
            .unwrap_or(0)
    }

    /// The bytes as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// Sends `bytes` and reads until the other side ends it or `limit` has passed.
///
/// # Errors
/// Only when no connection is made.
pub fn exchange(address: SocketAddr, bytes: &[u8], limit: Duration) -> io::Result<Heard> {
    let mut connection = Connection::open(address)?;
    // The other side may refuse and close before it has read everything: what it said counts, not our write.
    let _ = connection.send(bytes);
    Ok(connection.rest(limit))
}

/// Sends pieces with `gap` between them (a slow client) and reads all the while.
///
/// # Errors
/// Only when no connection is made.
pub fn trickle(address: SocketAddr, pieces: &[&[u8]], gap: Duration, limit: Duration) -> io::Result<Heard> {
    let began = Instant::now();
    let mut connection = Connection::open(address)?;
    let mut heard = Vec::new();
    for piece in pieces {
        if connection.send(piece).is_err() {
            break;
        }
        // Reading is the wait: an early answer or end is seen at once.
        let so_far = connection.rest(gap);
        heard.extend_from_slice(&so_far.bytes);
        if so_far.ended != Ended::Deadline || began.elapsed() > limit {
            return Ok(Heard { bytes: heard, ended: so_far.ended, took: began.elapsed() });
        }
    }
    let last = connection.rest(limit.saturating_sub(began.elapsed()));
    heard.extend_from_slice(&last.bytes);
    Ok(Heard { bytes: heard, ended: last.ended, took: began.elapsed() })
}

/// One connection, held by the test.
#[derive(Debug)]
pub struct Connection {
    /// The socket.
    pub stream: TcpStream,
    held: Vec<u8>,
}

/// A read that waits longer than this is a test that hangs.
const READ_MAX: Duration = Duration::from_secs(30);

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// As the socket says.
    pub fn open(address: SocketAddr) -> io::Result<Connection> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(READ_MAX))?;
        stream.set_write_timeout(Some(READ_MAX))?;
        Ok(Connection { stream, held: Vec::new() })
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// As the socket says.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Reads one answer to a request of `method`.
    ///
    /// # Errors
    /// The connection ended, or nothing came for 30 s.
    pub fn reply(&mut self, method: &str) -> io::Result<Reply> {
        Reply::read(&mut self.stream, &mut self.held, method)
    }

    /// Reads so many bytes, which are no answer: what comes through a tunnel.
    ///
    /// # Errors
    /// The connection ended before, or nothing came for 30 s.
    pub fn exactly(&mut self, len: usize) -> io::Result<Vec<u8>> {
        let held = self.held.len().min(len);
        let mut bytes: Vec<u8> = self.held.drain(..held).collect();
        bytes.resize(len, 0);
        self.stream.read_exact(bytes.get_mut(held..).unwrap_or_default())?;
        Ok(bytes)
    }

    /// A request without a body and its answer.
    ///
    /// # Errors
    /// As [`Connection::reply`].
    pub fn get(&mut self, host: &str, path: &str) -> io::Result<Reply> {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())?;
        self.reply("GET")
    }

    /// Says that nothing more will be sent.
    pub fn finish(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Reads until the other side ends it or `limit` has passed.
    pub fn rest(&mut self, limit: Duration) -> Heard {
        let began = Instant::now();
        let mut bytes = std::mem::take(&mut self.held);
        let mut piece = vec![0; 64 << 10];
        let ended = loop {
            let left = limit.saturating_sub(began.elapsed());
            if left.is_zero() {
                break Ended::Deadline;
            }
            // Never zero: the system would take that for "no limit".
            let _ = self.stream.set_read_timeout(Some(left.max(Duration::from_millis(1))));
            match self.stream.read(&mut piece) {
                Ok(0) => break Ended::Closed,
                Ok(n) => bytes.extend_from_slice(&piece[..n]),
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => break Ended::Deadline,
                    io::ErrorKind::Interrupted => {}
                    _ => break Ended::Reset,
                },
            }
        };
        let _ = self.stream.set_read_timeout(Some(READ_MAX));
        Heard { bytes, ended, took: began.elapsed() }
    }
}
