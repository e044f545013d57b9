//! An upstream that takes WebSockets, by HTTP/1.1 or by HTTP/2, and does with each what the test says; it remembers what it
//! was asked.

#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods, reason = "this is test code: a panic is how a test tells")]

use crate::frames::{self, Frame};
use crate::pipes::{By, Came, PATIENCE, Pipe, read_head, texts};
use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use http::{Response, StatusCode};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

/// What an upstream was asked.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// The method.
    pub method: String,
    /// Path and query.
    pub target: String,
    /// The protocol to switch to, if one was asked for: from `Upgrade`, or from `:protocol`.
    pub protocol: Option<String>,
    /// Names in lower case.
    pub fields: Vec<(String, String)>,
    /// The head said that nothing more comes (HTTP/2 only).
    pub ended: bool,
}

impl Asked {
    /// The values of a field, joined.
    pub fn field(&self, name: &str) -> String {
        let values: Vec<&str> = self.fields.iter().filter(|(have, _)| have == name).map(|(_, value)| value.as_str()).collect();
        values.join(", ")
    }
}

/// What is done with a pipe.
pub type Life = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Begins one.
pub type Then = Box<dyn FnOnce(Pipe) -> Life + Send>;

/// What an upstream says to a request.
pub enum Says {
    /// Yes, with these fields; these bytes at once; and then this.
    Switch { fields: Vec<(&'static str, String)>, early: Vec<u8>, then: Then },
    /// No.
    Answer { status: u16, fields: Vec<(&'static str, String)>, body: &'static str },
    /// A head and nothing more, all of it in one frame (HTTP/2 only).
    Ends { status: u16, fields: Vec<(&'static str, String)> },
    /// These bytes (HTTP/1.1 only), and then the end.
    Bytes(String),
    /// Nothing, until the other side goes.
    Nothing,
    /// It goes without a word.
    Goes,
}

impl Says {
    /// Yes, and no more than that.
    pub fn yes(then: impl FnOnce(Pipe) -> Life + Send + 'static) -> Says {
        Says::Switch { fields: Vec::new(), early: Vec::new(), then: Box::new(then) }
    }
}

/// A running one; it ends when dropped.
pub struct Far {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

type Script = Arc<dyn Fn(&Asked) -> Says + Send + Sync>;

impl Far {
    /// Starts one that speaks `by` and says to each request what `script` says.
    pub fn start(by: By, script: impl Fn(&Asked) -> Says + Send + Sync + 'static) -> Far {
        Far::begin(by, true, Arc::new(script))
    }

    /// One by HTTP/2 that has not said that it takes extended CONNECTs.
    pub fn start_without_connect(script: impl Fn(&Asked) -> Says + Send + Sync + 'static) -> Far {
        Far::begin(By::Two, false, Arc::new(script))
    }

    fn begin(by: By, connects: bool, script: Script) -> Far {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (stop, stopped) = oneshot::channel();
        let record = asked.clone();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).unwrap();
                let accepting = async {
                    loop {
                        let Ok((stream, _)) = listener.accept().await else { continue };
                        let _ = stream.set_nodelay(true);
                        let (script, record) = (script.clone(), record.clone());
                        match by {
                            By::One => tokio::spawn(one(stream, script, record)),
                            By::Two => tokio::spawn(two(stream, connects, script, record)),
                        };
                    }
                };
                tokio::select! { () = accepting => {}, _ = stopped => {} }
            });
        });
        Far { address, asked, stop: Some(stop), thread: Some(thread) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How often it was asked since it was last looked at.
    pub fn count(&self) -> usize {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// What it was asked since it was last looked at.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The answer to a key (RFC 6455 section 4.2.2).
pub fn accept(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

async fn one(mut stream: TcpStream, script: Script, record: Arc<Mutex<Vec<Asked>>>) {
    let mut held = BytesMut::new();
    loop {
        let Some((start, fields)) = read_head(&mut held) else {
            match stream.read_buf(&mut held).await {
                Ok(1..) => continue,
                _ => return,
            }
        };
        let mut words = start.split(' ').map(str::to_owned);
        let mut asked = Asked {
            method: words.next().unwrap_or_default(),
            target: words.next().unwrap_or_default(),
            protocol: None,
            fields,
            ended: false,
        };
        if asked.field("connection").to_ascii_lowercase().contains("upgrade") {
            asked.protocol = Some(asked.field("upgrade"));
        }
        let length = asked.field("content-length").parse().unwrap_or(0);
        while held.len() < length {
            if !matches!(stream.read_buf(&mut held).await, Ok(1..)) {
                return;
            }
        }
        let _ = held.split_to(length);
        let says = script(&asked);
        let key = asked.field("sec-websocket-key");
        record.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
        let lines = |fields: &[(&str, String)]| -> String { fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect() };
        match says {
            Says::Switch { fields, early, then } => {
                let head = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: {}\r\n{}\r\n",
                    accept(&key),
                    lines(&fields)
                );
                if stream.write_all(&[head.as_bytes(), &early].concat()).await.is_ok() {
                    then(Pipe::one(stream, held)).await;
                }
                return;
            }
            Says::Answer { status, fields, body } => {
                let head = format!("HTTP/1.1 {status} said\r\ncontent-length: {}\r\n{}\r\n{body}", body.len(), lines(&fields));
                if stream.write_all(head.as_bytes()).await.is_err() {
                    return;
                }
            }
            Says::Bytes(bytes) => {
                let _ = stream.write_all(bytes.as_bytes()).await;
                return;
            }
            Says::Nothing => {
                while matches!(stream.read_buf(&mut held).await, Ok(1..)) {}
                return;
            }
            Says::Goes | Says::Ends { .. } => return,
        }
    }
}

async fn two(stream: TcpStream, connects: bool, script: Script, record: Arc<Mutex<Vec<Asked>>>) {
    let mut builder = h2::server::Builder::new();
    builder.data_frame_budget(PATIENCE);
    if connects {
        builder.enable_connect_protocol();
    }
    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let (parts, received) = request.into_parts();
        let asked = Asked {
            method: parts.method.to_string(),
            target: parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
            protocol: parts.extensions.get::<h2::ext::Protocol>().map(|protocol| protocol.as_str().to_owned()),
            fields: texts(&parts.headers),
            ended: received.is_end_stream(),
        };
        let says = script(&asked);
        record.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
        tokio::spawn(async move {
            let head = |status: u16, fields: &[(&str, String)]| {
                let mut head = Response::new(());
                *head.status_mut() = StatusCode::from_u16(status).unwrap();
                for (name, value) in fields {
                    head.headers_mut().append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
                }
                head
            };
            match says {
                Says::Switch { fields, early, then } => {
                    let Ok(send) = respond.send_response(head(200, &fields), false) else { return };
                    let mut pipe = Pipe::two(send, received);
                    if pipe.into.send(&early).await.is_ok() {
                        then(pipe).await;
                    }
                }
                Says::Answer { status, fields, body } => {
                    let Ok(mut send) = respond.send_response(head(status, &fields), false) else { return };
                    let _ = send.send_data(Bytes::from_static(body.as_bytes()), true);
                }
                Says::Ends { status, fields } => drop(respond.send_response(head(status, &fields), true)),
                Says::Nothing => {
                    let mut received = received;
                    while let Some(Ok(_)) = received.data().await {}
                }
                Says::Bytes(_) | Says::Goes => respond.send_reset(h2::Reason::CANCEL),
            }
        });
    }
}

/// A WebSocket's server: sends messages back frame by frame, answers pings and the close, and says 1002 to what is not
/// masked.
pub fn converse(pipe: Pipe) -> Life {
    Box::pin(async move {
        let Pipe { mut into, mut from } = pipe;
        let mut held = BytesMut::new();
        loop {
            while let Some(frame) = Frame::take(&mut held) {
                let (answer, over) = match frame.kind {
                    _ if frame.mask.is_none() => (Some(Frame::new(frames::CLOSE, 1002_u16.to_be_bytes())), true),
                    frames::PING => (Some(Frame::new(frames::PONG, frame.payload)), false),
                    frames::PONG => (None, false),
                    frames::CLOSE => (Some(frame.bare()), true),
                    _ => (Some(frame.bare()), false),
                };
                if let Some(answer) = answer
                    && into.send(&answer.bytes()).await.is_err()
                {
                    return;
                }
                if over {
                    into.finish().await;
                    // The other side ends its half, or is gone.
                    from.rest().await;
                    return;
                }
            }
            match from.next().await {
                Came::Some(piece) => held.extend(piece),
                Came::End => return into.finish().await,
                _ => return,
            }
        }
    })
}
