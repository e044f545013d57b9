//! Bytes both ways through a connection that has switched protocols: a TCP connection after a 101, or a stream of HTTP/2
//! after an extended CONNECT. The client's side is opened here; the other side is [`crate::far`].

#![allow(clippy::unwrap_used, clippy::panic, reason = "this is test code: a panic is how a test tells")]

use bytes::{Bytes, BytesMut};
use h2::{RecvStream, SendStream};
use http::{Method, Request};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// The version of HTTP that a side speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// HTTP/1.1, by `Upgrade`.
    One,
    /// HTTP/2 in the clear, by an extended CONNECT.
    Two,
}

/// Nothing takes longer, or it hangs.
pub const LIMIT: Duration = Duration::from_secs(20);

/// Small frames that may wait at a test's own ends, in the library's measure.
pub(crate) const PATIENCE: usize = 16 << 20;

/// What comes out of a pipe.
#[derive(Debug, PartialEq, Eq)]
pub enum Came {
    /// Bytes.
    Some(Bytes),
    /// The other side will say nothing more, in order.
    End,
    /// The other side broke it off.
    Broken,
    /// Nothing, for [`LIMIT`].
    Silence,
}

/// Where bytes go in.
pub enum Into {
    One(OwnedWriteHalf),
    Two(SendStream<Bytes>),
}

/// Where bytes come out.
pub enum From {
    One { stream: OwnedReadHalf, held: BytesMut },
    Two(RecvStream),
}

/// Both.
pub struct Pipe {
    pub into: Into,
    pub from: From,
}

impl Pipe {
    /// Of a connection, from which `held` has been read already.
    pub fn one(stream: TcpStream, held: BytesMut) -> Pipe {
        let (read, write) = stream.into_split();
        Pipe { into: Into::One(write), from: From::One { stream: read, held } }
    }

    /// Of a stream.
    pub fn two(send: SendStream<Bytes>, received: RecvStream) -> Pipe {
        Pipe { into: Into::Two(send), from: From::Two(received) }
    }

    /// Breaks it off: TCP's reset, or a stream's.
    pub fn reset(self) {
        match (self.into, self.from) {
            (Into::One(write), From::One { stream, .. }) => {
                let stream = stream.reunite(write).unwrap();
                stream.set_zero_linger().unwrap();
            }
            (Into::Two(mut send), _) => send.send_reset(h2::Reason::CANCEL),
            _ => {}
        }
    }
}

impl Into {
    /// Sends all of it.
    ///
    /// # Errors
    /// The other side is gone, or took nothing for [`LIMIT`].
    pub async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Into::One(stream) => tokio::time::timeout(LIMIT, stream.write_all(bytes)).await?,
            Into::Two(stream) => {
                let mut bytes = Bytes::copy_from_slice(bytes);
                while !bytes.is_empty() {
                    stream.reserve_capacity(bytes.len());
                    let room = tokio::time::timeout(LIMIT, poll_fn(|task| stream.poll_capacity(task))).await?;
                    let room = room.ok_or(io::ErrorKind::BrokenPipe)?.map_err(io::Error::other)?;
                    stream.send_data(bytes.split_to(room.min(bytes.len())), false).map_err(io::Error::other)?;
                }
                Ok(())
            }
        }
    }

    /// Sends these fields as the last (HTTP/2 only).
    pub fn trailers(&mut self, fields: &[(&str, &str)]) {
        if let Into::Two(stream) = self {
            let fields = fields.iter().map(|(name, value)| (name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap()));
            let _ = stream.send_trailers(fields.collect());
        }
    }

    /// Says that nothing more will be sent.
    pub async fn finish(&mut self) {
        match self {
            Into::One(stream) => drop(stream.shutdown().await),
            Into::Two(stream) => drop(stream.send_data(Bytes::new(), true)),
        }
    }
}

impl From {
    /// What comes next.
    pub async fn next(&mut self) -> Came {
        let next = async {
            match self {
                From::One { held, .. } if !held.is_empty() => Came::Some(held.split().freeze()),
                From::One { stream, held } => {
                    held.reserve(64 * 1024);
                    match stream.read_buf(held).await {
                        Ok(0) => Came::End,
                        Ok(_) => Came::Some(held.split().freeze()),
                        Err(_) => Came::Broken,
                    }
                }
                From::Two(stream) => loop {
                    match stream.data().await {
                        None => break Came::End,
                        // The end of a stream is a frame of its own.
                        Some(Ok(piece)) if piece.is_empty() => {}
                        Some(Ok(piece)) => {
                            let _ = stream.flow_control().release_capacity(piece.len());
                            break Came::Some(piece);
                        }
                        Some(Err(_)) => break Came::Broken,
                    }
                },
            }
        };
        tokio::time::timeout(LIMIT, next).await.unwrap_or(Came::Silence)
    }

    /// The fields behind the end (HTTP/2 only).
    pub async fn trailers(&mut self) -> Head {
        let From::Two(stream) = self else { return Head::default() };
        let fields = tokio::time::timeout(LIMIT, stream.trailers()).await.ok().and_then(Result::ok).flatten().unwrap_or_default();
        Head { status: 0, fields: texts(&fields) }
    }

    /// Everything, and how it ended.
    pub async fn rest(&mut self) -> (Vec<u8>, Came) {
        let mut all = Vec::new();
        loop {
            match self.next().await {
                Came::Some(piece) => all.extend(piece),
                end => return (all, end),
            }
        }
    }
}

/// The head of an answer.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// 101 by HTTP/1.1, 200 by HTTP/2, where protocols were switched.
    pub status: u16,
    /// Names in lower case, as they came.
    pub fields: Vec<(String, String)>,
}

impl Head {
    /// The values of a field, joined.
    pub fn field(&self, name: &str) -> String {
        let values: Vec<&str> = self.fields.iter().filter(|(have, _)| have == name).map(|(_, value)| value.as_str()).collect();
        values.join(", ")
    }
}

/// What became of an attempt.
pub enum Opened {
    /// Protocols were switched.
    Switched(Head, Pipe),
    /// Something else was answered.
    Answered(Head, Vec<u8>),
    /// No answer: the connection or the stream ended.
    Broken,
}

impl Opened {
    /// The pipe.
    ///
    /// # Panics
    /// Protocols were not switched.
    #[track_caller]
    pub fn pipe(self) -> Pipe {
        self.switched().1
    }

    /// Head and pipe.
    ///
    /// # Panics
    /// Protocols were not switched.
    #[track_caller]
    pub fn switched(self) -> (Head, Pipe) {
        match self {
            Opened::Switched(head, pipe) => (head, pipe),
            Opened::Answered(head, body) => panic!("not switched but answered {head:?} {:?}", String::from_utf8_lossy(&body)),
            Opened::Broken => panic!("not switched but broken off"),
        }
    }
}

/// The key that a client of HTTP/1.1 sends.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// Opens a WebSocket at `target` as a good client does, with these fields besides; `early` is sent before there is an
/// answer.
pub async fn open(address: SocketAddr, by: By, target: &str, fields: &[(&str, &str)], early: &[u8]) -> Opened {
    match by {
        By::One => {
            let more: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let head = format!(
                "GET {target} HTTP/1.1\r\nhost: a.example\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: {KEY}\r\nsec-websocket-version: 13\r\n{more}\r\n"
            );
            open_raw(address, &[head.as_bytes(), early].concat()).await
        }
        By::Two => {
            let mut request = Request::builder()
                .method(Method::CONNECT)
                .uri(format!("http://a.example{target}"))
                .extension(h2::ext::Protocol::from_static("websocket"))
                .header("sec-websocket-version", "13");
            for (name, value) in fields {
                request = request.header(*name, *value);
            }
            open_two(address, request.body(()).unwrap(), early).await
        }
    }
}

/// The same with a head by HTTP/1.1 as it is written here.
pub async fn open_raw(address: SocketAddr, bytes: &[u8]) -> Opened {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    if stream.write_all(bytes).await.is_err() {
        return Opened::Broken;
    }
    let mut held = BytesMut::with_capacity(4096);
    let head = loop {
        match read_head(&mut held) {
            Some((line, fields)) => {
                let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
                break Head { status, fields };
            }
            None => match tokio::time::timeout(LIMIT, stream.read_buf(&mut held)).await {
                Ok(Ok(1..)) => {}
                _ => return Opened::Broken,
            },
        }
    };
    if head.status == 101 {
        return Opened::Switched(head, Pipe::one(stream, held));
    }
    let length = head.field("content-length").parse().unwrap_or(usize::MAX);
    let length = if bytes.starts_with(b"HEAD ") { 0 } else { length };
    while held.len() < length && matches!(tokio::time::timeout(LIMIT, stream.read_buf(&mut held)).await, Ok(Ok(1..))) {}
    Opened::Answered(head, held.to_vec())
}

/// The same with a request by HTTP/2 as it stands here.
pub async fn open_two(address: SocketAddr, request: Request<()>, early: &[u8]) -> Opened {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    // Patient with small messages that nobody has read yet, which the library's default is not.
    let (send, connection) = h2::client::Builder::new().data_frame_budget(PATIENCE).handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let Ok(mut send) = send.ready().await else { return Opened::Broken };
    // Settings are the first thing that a server says; the library does not tell when they have come.
    for _ in 0..2_000 {
        if send.is_extended_connect_protocol_enabled() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await; // look again
    }
    let Ok((response, mut stream)) = send.send_request(request, false) else { return Opened::Broken };
    if !early.is_empty() {
        stream.send_data(Bytes::copy_from_slice(early), false).unwrap();
    }
    let Ok(Ok(response)) = tokio::time::timeout(LIMIT, response).await else { return Opened::Broken };
    let (parts, received) = response.into_parts();
    let head = Head { status: parts.status.as_u16(), fields: texts(&parts.headers) };
    let mut pipe = Pipe::two(stream, received);
    match head.status {
        200 => Opened::Switched(head, pipe),
        _ => Opened::Answered(head, pipe.from.rest().await.0),
    }
}

/// Fields as texts.
pub(crate) fn texts(fields: &http::HeaderMap) -> Vec<(String, String)> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    fields.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect()
}

/// The start line of a head and its fields.
pub type Lines = (String, Vec<(String, String)>);

/// Takes a head of HTTP/1.1 from the front: its start line and its fields, names in lower case.
pub fn read_head(held: &mut BytesMut) -> Option<Lines> {
    let end = held.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = held.split_to(end + 4);
    let text = String::from_utf8_lossy(&head).into_owned();
    let mut lines = text.split("\r\n");
    let start = lines.next().unwrap_or_default().to_owned();
    let fields = lines.filter_map(|line| line.split_once(':'));
    let fields = fields.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
    Some((start, fields))
}

/// Bytes that show when some are missing, doubled or moved.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect()
}

/// Runs what talks through pipes.
pub fn run<T>(what: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(what)
}
