//! Connections to name servers and brokers: questions go out with a number, answers come back by it, in any order.
//!
//! One connection to each address, made when it is first asked over and again after it broke. What was asked over a broken one has
//! no answer ([`BusErrorKind::Unreachable`]); nothing is asked twice by itself.

use crate::config::Credentials;
use crate::frame::{self, FRAME_BYTES_MAX, Fields, Frame};
use crate::sign;
use bytes::{Bytes, BytesMut};
use std::collections::HashMap;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use wharf_core::bus::{BusError, BusErrorKind};

/// Questions that are written and not yet answered, for each connection. Callers are fewer: lanes, partitions, operators.
const ASKED_MAX: usize = 4096;
/// Questions that wait for the socket.
const UNSENT_MAX: usize = 64;
/// The broker says that the members of a group are others now (`NOTIFY_CONSUMER_IDS_CHANGED`).
const MEMBERS_CHANGED: i64 = 40;

/// Connections, by address. Dropping it closes them.
pub(crate) struct Lines {
    open: Mutex<HashMap<Box<str>, Slot>>,
    credentials: Option<Credentials>,
    /// Told when a broker says that members have come or gone.
    pub(crate) members_changed: Arc<Notify>,
}

type Slot = Arc<tokio::sync::Mutex<Option<Arc<Line>>>>;

struct Line {
    asks: mpsc::Sender<Bytes>,
    asked: Arc<Mutex<Asked>>,
    next: AtomicI32,
    tasks: [JoinHandle<()>; 2],
}

#[derive(Default)]
struct Asked {
    is_broken: bool,
    answers: HashMap<i32, oneshot::Sender<Frame>>,
}

impl Lines {
    pub(crate) fn new(credentials: Option<Credentials>) -> Lines {
        Lines { open: Mutex::default(), credentials, members_changed: Arc::default() }
    }

    /// Asks and waits for the answer, which may say no.
    pub(crate) async fn ask(&self, to: &str, code: u32, mut fields: Fields, body: &[u8], within: Duration) -> Result<Frame, BusError> {
        if let Some(credentials) = &self.credentials {
            sign::question(credentials, &mut fields, body);
        }
        let answer = async {
            let line = self.line(to).await?;
            line.ask(code, &fields, body).await
        };
        let silent = || unreachable(to, format_args!("does not answer within {} ms", within.as_millis()));
        timeout(within, answer).await.unwrap_or_else(|_| Err(Trouble(silent()))).map_err(|Trouble(error)| match error.message.is_empty() {
            true => unreachable(to, format_args!("closed the connection")),
            false => error,
        })
    }

    async fn line(&self, to: &str) -> Result<Arc<Line>, Trouble> {
        let slot = {
            let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            match open.get(to) {
                Some(slot) => slot.clone(),
                None => open.entry(to.into()).or_default().clone(),
            }
        };
        let mut slot = slot.lock().await;
        if let Some(line) = slot.as_ref().filter(|line| !line.is_broken()) {
            return Ok(line.clone());
        }
        let socket =
            TcpStream::connect(to).await.map_err(|error| Trouble(unreachable(to, format_args!("cannot be connected to: {error}"))))?;
        let _ = socket.set_nodelay(true);
        let line = Arc::new(Line::new(socket, self.members_changed.clone()));
        *slot = Some(line.clone());
        Ok(line)
    }
}

/// An error without a text is a connection that broke: who asks knows the address.
struct Trouble(BusError);

fn unreachable(to: &str, what: std::fmt::Arguments<'_>) -> BusError {
    BusError::new(BusErrorKind::Unreachable, format!("rocketmq at {to} {what}"))
}

impl Line {
    fn new(socket: TcpStream, members_changed: Arc<Notify>) -> Line {
        let (asks, mut unsent) = mpsc::channel::<Bytes>(UNSENT_MAX);
        let asked = Arc::new(Mutex::new(Asked::default()));
        let (mut from, mut to) = socket.into_split();
        let breaks = asked.clone();
        let writes = tokio::spawn(async move {
            while let Some(ask) = unsent.recv().await {
                if to.write_all(&ask).await.is_err() {
                    break;
                }
            }
            broken(&breaks);
        });
        let reading = asked.clone();
        let reads = tokio::spawn(async move {
            while let Some(frame) = next_frame(&mut from).await {
                if frame.is_answer {
                    let answer = reading.lock().unwrap_or_else(PoisonError::into_inner).answers.remove(&frame.opaque);
                    if let Some(answer) = answer {
                        let _ = answer.send(frame);
                    }
                } else if frame.code == MEMBERS_CHANGED {
                    members_changed.notify_one();
                }
            }
            broken(&reading);
        });
        Line { asks, asked, next: AtomicI32::new(1), tasks: [writes, reads] }
    }

    fn is_broken(&self) -> bool {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).is_broken
    }

    async fn ask(&self, code: u32, fields: &Fields, body: &[u8]) -> Result<Frame, Trouble> {
        let opaque = self.next.fetch_add(1, Relaxed) & i32::MAX;
        let broke = || Trouble(BusError::new(BusErrorKind::Unreachable, ""));
        let (answer, answered) = oneshot::channel();
        {
            let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            if asked.is_broken {
                return Err(broke());
            }
            if asked.answers.len() >= ASKED_MAX {
                return Err(Trouble(BusError::new(BusErrorKind::Full, format!("rocketmq owes {ASKED_MAX} answers on one connection"))));
            }
            asked.answers.insert(opaque, answer);
        }
        // Who does not wait any longer takes its question back, or the table would grow with what nobody answers.
        let _forgets = Forgets { asked: &self.asked, opaque };
        self.asks.send(frame::question(code, opaque, fields, body)).await.map_err(|_| broke())?;
        answered.await.map_err(|_| broke())
    }
}

struct Forgets<'a> {
    asked: &'a Mutex<Asked>,
    opaque: i32,
}

impl Drop for Forgets<'_> {
    fn drop(&mut self) {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).answers.remove(&self.opaque);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Everybody who waits hears that nothing will come.
fn broken(asked: &Mutex<Asked>) {
    let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
    asked.is_broken = true;
    asked.answers.clear();
}

async fn next_frame(from: &mut OwnedReadHalf) -> Option<Frame> {
    let length = from.read_u32().await.ok()? as usize;
    if length > FRAME_BYTES_MAX {
        tracing::warn!(length, limit = FRAME_BYTES_MAX, "rocketmq sent a frame that is too long; the connection is closed");
        return None;
    }
    let mut bytes = BytesMut::zeroed(length);
    from.read_exact(&mut bytes).await.ok()?;
    let frame = frame::read(bytes.freeze());
    if frame.is_err() {
        tracing::warn!("rocketmq sent what is no frame; the connection is closed");
    }
    frame.ok()
}
