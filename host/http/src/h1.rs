//! The HTTP/1.1 front: a connection, read into requests and written with answers. What a request goes through between
//! the two is in `flow.rs`.
//!
//! A connection at rest is a socket, a task and a few hundred bytes: a buffer is taken when there is something to read,
//! and the state of a request in progress lives in a box that goes with it. Bodies are read by whoever wants them,
//! through [`ClientBody`]; who does not read exerts back-pressure on the client.

use crate::codec::body::{Decoder, Piece};
use crate::codec::{Framing, HeadLimits, Refusal, RefusalKind, Version, request, take, write};
use crate::deadlines::Alarm;
use crate::flow::{self, Came, Done, Gone};
use crate::front::{Secured, Visit, linger};
use crate::h2;
use crate::house::{Core, ListenerLimits};
use crate::io::{Socket, poll_write_all};
use crate::pace::{Bounds, Late, Pace};
use crate::{reply, tunnel, websocket};
use bytes::{Buf, Bytes, BytesMut};
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use wharf_core::LocalBoxFuture;
use wharf_core::body::{Body, BodyStream, Tunnel};
use wharf_core::exchange::{Answer, Exchange};
use wharf_core::fault::{Blame, Fault, FaultKind, Phase};
use wharf_core::head::{Fields, Known, Method, Scheme};

/// Read at once from a client: a head with its cookies, or a fair piece of a body.
pub(crate) const READ_ROOM: usize = 16 * 1024;
/// An unfinished head of this size is looked at whenever more of it comes.
const LOOK_ALWAYS: usize = 4 * 1024;
/// A head on its way out, nearly always, and a small body with it.
const OUT_ROOM: usize = 4 * 1024;
/// A connection that has been silent for this long gives up all that a request in progress needs.
const WARM: Duration = Duration::from_secs(1);

/// Serves one connection to its end. `early` was read of it before.
///
/// # Cancel safety
/// Dropping the future closes the connection; an exchange in progress ends unanswered.
pub(crate) fn serve(visit: Visit, early: BytesMut) -> LocalBoxFuture<'static, ()> {
    let begun = !early.is_empty();
    // What a connection at rest is, it is in one piece: its future holds no room for what it was made of.
    Box::pin(requests(Rc::new(Front::new(visit, early)), begun))
}

/// One request after the other. `begun`: the first has begun to come.
async fn requests(front: Rc<Front>, mut begun: bool) {
    loop {
        if !std::mem::take(&mut begun) {
            front.alarm.set_in(if front.first.get() { front.limits.first } else { front.limits.keep_alive });
            if !front.readable().await {
                return;
            }
        }
        // Boxed: the state of a request is some kilobytes, and a connection at rest must not hold them. By a trait object, so
        // that the compiler keeps what a request passes in one piece instead of making it part of what happens once.
        let busy: LocalBoxFuture<'_, Next> = Box::pin(front.busy());
        match busy.await {
            Next::Rest => {}
            Next::Close => return,
            Next::Two => break,
        }
    }
    in_two(front).await;
}

/// Serves on what turned out to begin with the preface of HTTP/2. Not async itself, for the same reason as [`serve`].
fn in_two(front: Rc<Front>) -> LocalBoxFuture<'static, ()> {
    match Rc::try_unwrap(front) {
        Ok(Front { core, limits, socket, alarm, peer, secured, buf, .. }) => {
            Box::pin(h2::serve(Visit { core, limits, socket, alarm, peer, secured }, buf.into_inner()))
        }
        // Nobody else has it between two requests.
        Err(_) => Box::pin(async {}),
    }
}

/// Answers a connection that is worth no more than this, and ends it. `early`: what was read of it.
///
/// # Cancel safety
/// As [`serve`].
pub(crate) async fn turn_away(visit: Visit, early: BytesMut, refusal: Refusal) {
    Front::new(visit, early).refuse(&refusal).await;
}

/// A request as it was read.
struct Asked {
    version: Version,
    keep_alive: bool,
    head_method: bool,
}

enum Next {
    /// Nothing is left to do until the client sends more.
    Rest,
    Close,
    /// It is HTTP/2.
    Two,
}

struct Front {
    core: Rc<Core>,
    limits: Rc<ListenerLimits>,
    socket: Socket,
    alarm: Alarm,
    peer: SocketAddr,
    secured: Option<Rc<Secured>>,
    /// No request has been read yet.
    first: Cell<bool>,
    /// Received and not yet understood. Empty, and without memory, while the connection rests.
    buf: RefCell<BytesMut>,
    body: Cell<BodyState>,
    /// Of the body of the request in progress.
    bytes_in: Cell<u64>,
}

/// Whether the client has reset its connection. Costs a system call.
struct Reset<'a> {
    socket: &'a Socket,
    seen: &'a Cell<bool>,
}

impl Gone for Reset<'_> {
    fn asked(&self) -> bool {
        self.seen.set(self.socket.is_reset());
        self.seen.get()
    }
}

/// How far the body of the request in progress has been read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum BodyState {
    /// To its end, or there is none.
    Read,
    /// Not to its end.
    Open,
    /// Its client waits for `100 Continue` and has not got it.
    Held,
    /// Malformed or cut: nothing that follows can be understood.
    Broken,
}

impl Front {
    fn new(visit: Visit, early: BytesMut) -> Front {
        let Visit { core, limits, socket, alarm, peer, secured } = visit;
        Front {
            alarm,
            socket,
            buf: early.into(),
            body: Cell::new(BodyState::Read),
            bytes_in: Cell::new(0),
            core,
            limits,
            peer,
            secured,
            first: Cell::new(true),
        }
    }

    /// Requests, one after the other, until the client has been silent for a moment.
    async fn busy(self: &Rc<Self>) -> Next {
        loop {
            let mut exchange = self.core.blank();
            let Asked { version, keep_alive, head_method } = match self.head(&mut exchange).await {
                Ok(Some(asked)) => asked,
                Ok(None) => return Next::Close,
                Err(_) if self.is_two() => return Next::Two,
                Err(refusal) => return self.refuse(&refusal).await,
            };
            self.first.set(false);
            let protocol = if version == Version::Http11 { "HTTP/1.1" } else { "HTTP/1.0" };
            let gone = Cell::new(false);
            let came = Came {
                protocol,
                grpc: false,
                secured: self.secured.as_deref(),
                until: None,
                gone: Reset { socket: &self.socket, seen: &gone },
            };
            let mut done = flow::answer(&self.core, &self.limits, &self.alarm, exchange, came).await;
            if gone.get() {
                done.finish(&self.limits.name, 0, self.bytes_in.get(), 0, None);
                return Next::Close;
            }

            if let Some(other_side) = done.answer.tunnel.take() {
                return self.switch(done, version, other_side).await;
            }
            let keep_alive = keep_alive && !self.core.sends_away();
            // An upload that still runs may yet be read to its end by the answer's body; one that nobody reads will not.
            let keep_alive = keep_alive && (self.body.get() == BodyState::Read || matches!(done.answer.body, Body::Stream(_)));
            // Its scope ends here: a piece of the answer that lived until the next request would keep its buffer from use.
            let (written, bytes_out, keep_alive) = {
                let mut writing = Writing::new(self, version, keep_alive, head_method, &mut done);
                let written = poll_fn(|task| writing.poll(task)).await;
                writing.give_buffer();
                (written, writing.bytes_out, writing.keep_alive)
            };
            // Nothing of it is on its way yet, so the client can be told instead of being cut off.
            if bytes_out == 0
                && written.as_ref().is_err_and(|fault| fault.blame != Blame::Caller)
                && let Err(fault) = written
            {
                let instead: LocalBoxFuture<'_, Next> = Box::pin(self.instead(done, fault, version, head_method));
                return instead.await;
            }
            let status = done.answer.head.status;
            let fault = written.as_ref().err().map(Fault::word);
            done.finish(&self.limits.name, status, self.bytes_in.get(), bytes_out, fault);
            done.over();
            if written.is_err() {
                // The client must not take what it has for the whole.
                self.socket.reset();
                return Next::Close;
            }
            // A body that was not read to its end stands between this answer and the next request.
            if !keep_alive || self.body.get() != BodyState::Read {
                self.linger().await;
                return Next::Close;
            }
            if self.give_buffer() {
                // Between the requests of a busy client the state is kept, without a buffer; making it anew each time
                // would cost more than the request's routing.
                self.alarm.set_in(self.limits.keep_alive.min(WARM));
                if !self.readable().await {
                    return Next::Rest;
                }
            }
        }
    }

    /// Answers in the place of an answer whose body broke before anything of it was sent, and ends the connection: what
    /// follows an answer like this is seldom worth keeping it.
    #[cold]
    async fn instead(&self, mut done: Done, fault: Fault, version: Version, head_method: bool) -> Next {
        done.broken(&fault);
        let (written, bytes_out) = {
            let mut writing = Writing::new(self, version, false, head_method, &mut done);
            let written = poll_fn(|task| writing.poll(task)).await;
            writing.give_buffer();
            (written, writing.bytes_out)
        };
        done.finish(&self.limits.name, done.answer.head.status, self.bytes_in.get(), bytes_out, None);
        done.over();
        match written {
            Ok(()) => self.linger().await,
            Err(_) => self.socket.reset(),
        }
        Next::Close
    }

    /// Is what was refused the preface of HTTP/2 (RFC 9113 section 3.4), by a client that knows that we speak it?
    fn is_two(&self) -> bool {
        self.first.get() && self.limits.http2.is_some() && self.buf.borrow().starts_with(h2::PREFACE)
    }

    /// Is it a TLS handshake that came (RFC 8446 section 5.1), in the place of the first request?
    fn is_tls(&self, received: &[u8]) -> bool {
        self.first.get() && self.secured.is_none() && received.starts_with(&[22, 3])
    }

    /// Waits until there is something to read. `false`: the alarm went off first.
    async fn readable(&self) -> bool {
        let mut slept = false;
        poll_fn(|task| {
            // Woken, and not by the alarm: there is something. Whoever reads will see; looking twice is not free.
            if !std::mem::replace(&mut slept, true) || self.alarm.has_elapsed() {
                return match self.socket.poll_readable(task) {
                    Poll::Ready(_) => Poll::Ready(true),
                    Poll::Pending => self.alarm.poll_elapsed(task).map(|()| false),
                };
            }
            Poll::Ready(true)
        })
        .await
    }

    /// The next request: its head, and what is there of its body. `None`: the client ended the connection.
    async fn head(self: &Rc<Self>, exchange: &mut Exchange) -> Result<Option<Asked>, Refusal> {
        let mut begun = false;
        // How much of the buffer has been looked at in vain.
        let mut looked = 0;
        poll_fn(|task| self.poll_head(task, exchange, &mut begun, &mut looked)).await
    }

    fn poll_head(
        self: &Rc<Self>,
        task: &mut Context<'_>,
        exchange: &mut Exchange,
        begun: &mut bool,
        looked: &mut usize,
    ) -> Poll<Result<Option<Asked>, Refusal>> {
        let limits = HeadLimits { bytes_max: self.limits.head_bytes_max, fields_max: self.limits.fields_max };
        let mut buf = self.buf.borrow_mut();
        loop {
            if !buf.is_empty() {
                // A long head that comes in small pieces is read again only when a line has ended: else a client that
                // sends a byte at a time would have us read 32 KiB for each.
                let new = buf.get(*looked..).unwrap_or_default();
                if (*looked < LOOK_ALWAYS || new.contains(&b'\n') || buf.len() >= limits.bytes_max)
                    && let Some(received) = request::parse(&mut buf, &limits, self.scheme(), &mut exchange.facts.request)?
                {
                    drop(buf);
                    let asked = self.asked(received, exchange);
                    self.give_buffer();
                    return Poll::Ready(Ok(Some(asked)));
                }
                *looked = buf.len();
                // Its head has no end that would be waited for.
                if self.is_tls(&buf) {
                    return Poll::Ready(Err(RefusalKind::TlsHello.into()));
                }
                // What waits for its other half is what memory runs out by.
                if self.core.pressure.is_full() {
                    return Poll::Ready(Err(RefusalKind::Memory.into()));
                }
                if !std::mem::replace(begun, true) {
                    self.alarm.set_in(self.limits.head);
                }
            }
            // Whoever comes here has seen that there is something to read, or is woken because there is.
            match self.socket.poll_read_ready(task, &mut buf) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Ok(None)),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => {
                    ready!(self.alarm.poll_elapsed(task));
                    return Poll::Ready(if *begun { Err(Refusal::slow_head()) } else { Ok(None) });
                }
            }
        }
    }

    fn scheme(&self) -> Scheme {
        if self.secured.is_some() { Scheme::Https } else { Scheme::Http }
    }

    /// Gives the buffer back if nothing is left in it.
    fn give_buffer(&self) -> bool {
        let mut buf = self.buf.borrow_mut();
        if buf.is_empty() {
            self.socket.give(&mut buf);
        }
        buf.is_empty()
    }

    fn asked(self: &Rc<Self>, received: request::Received, exchange: &mut Exchange) -> Asked {
        let request::Received { framing, version, keep_alive, expects_continue, upgrade } = received;
        exchange.peer = self.peer.ip();
        exchange.facts.client = exchange.peer;
        exchange.body = self.body_of(framing, expects_continue);
        exchange.upgrade = upgrade;
        Asked { version, keep_alive, head_method: exchange.facts.request.method == Method::Head }
    }

    fn body_of(self: &Rc<Self>, framing: Framing, expects_continue: bool) -> Body {
        self.bytes_in.set(0);
        self.body.set(BodyState::Read);
        match framing {
            Framing::None | Framing::Length(0) => Body::Empty,
            // It came with the head: the usual case for small bodies.
            Framing::Length(all) if self.buf.borrow().len() as u64 >= all => {
                self.bytes_in.set(all);
                Body::Full(take(&mut self.buf.borrow_mut(), all as usize))
            }
            framing => {
                self.body.set(if expects_continue { BodyState::Held } else { BodyState::Open });
                Body::Stream(Box::new(ClientBody {
                    front: self.clone(),
                    decoder: Decoder::new(framing),
                    trailers: None,
                    alarm: self.core.deadlines.alarm(),
                    armed: None,
                    pace: Pace::begin(self.core.deadlines.tick()),
                    go_on: if expects_continue { CONTINUE } else { b"" },
                }))
            }
        }
    }

    /// Answers what is no request, and ends the connection: behind a framing error nothing can be trusted.
    async fn refuse(&self, refusal: &Refusal) -> Next {
        // A client of TLS reads what follows as no TLS, and says so.
        let hello = self.is_tls(&self.buf.borrow()).then(|| Refusal::from(RefusalKind::TlsHello));
        let refusal = hello.as_ref().unwrap_or(refusal);
        self.core.count_refused(refusal.what.word());
        let started = Instant::now();
        let (id, time_ms) = self.core.next_id(started);
        tracing::debug!(id = %id, listener = &*self.limits.name, peer = %self.peer, reason = refusal.what.word(), "request refused: {}", refusal.what);
        let answer = reply::error(refusal.status, refusal.what.word(), &refusal.what.to_string(), &id.to_string());
        let mut out = Vec::with_capacity(512);
        let Body::Full(body) = answer.body else { return Next::Close };
        let date = self.core.date(time_ms);
        write::response_head(&mut out, &answer.head, &Framing::Length(body.len() as u64), Version::Http11, false, &date, None);
        self.alarm.set_in(self.limits.body);
        let all = out.len() + body.len();
        let (mut out, mut body) = (out.as_slice(), body);
        let _ = poll_fn(|task| {
            if let Poll::Ready(done) = poll_write_all(&self.socket, task, &mut out, &mut body) {
                return Poll::Ready(done);
            }
            self.alarm.poll_elapsed(task).map(|()| Err(io::ErrorKind::TimedOut.into()))
        })
        .await;
        let bytes_out = (all - out.len() - body.len()) as u64;
        flow::refused(&self.core, &self.limits, self.peer, "", (id, time_ms), started, refusal.status, refusal.what.word(), bytes_out);
        self.linger().await;
        Next::Close
    }

    async fn linger(&self) {
        self.buf.take();
        linger(&self.socket, &self.alarm).await;
    }

    /// The upstream has switched protocols: from here on bytes are carried, not understood.
    async fn switch(self: &Rc<Self>, mut done: Done, version: Version, other_side: Box<dyn Tunnel>) -> Next {
        let mut out = Vec::with_capacity(512);
        if done.answer.head.status != 101 {
            // Its upstream speaks HTTP/2, which has no such proof.
            let key = done.exchange.facts.request.fields.get(websocket::KEY).unwrap_or_default();
            let accept = websocket::accept(key);
            let head = &mut done.answer.head;
            head.status = 101;
            head.fields.set(websocket::ACCEPT, accept.as_bytes());
            head.fields.set(b"upgrade", b"websocket");
        }
        let upgrade = done.answer.head.fields.known(Known::Upgrade).map(|token| token.to_vec());
        let upgrade = upgrade.as_deref().and_then(|token| std::str::from_utf8(token).ok());
        write::response_head(&mut out, &done.answer.head, &Framing::None, version, true, &done.date(), upgrade);
        let early = self.buf.take();
        let mut ends = tunnel::Ends { client: &self.socket, early, head: out, alarm: &self.alarm, quiet: self.limits.quiet };
        let (up, down) = tunnel::carry(&mut ends, other_side).await;
        done.finish(&self.limits.name, 101, up, down, None);
        Next::Close
    }
}

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The body of a request on its way in.
struct ClientBody {
    front: Rc<Front>,
    decoder: Decoder,
    trailers: Option<Fields>,
    alarm: Alarm,
    armed: Option<Late>,
    pace: Pace,
    /// What is left to write of `100 Continue`: it is said when somebody first wants the body, not before.
    go_on: &'static [u8],
}

impl BodyStream for ClientBody {
    fn poll_chunk(&mut self, task: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        let front = &self.front;
        let gone = |front: &Front, what: &'static str| {
            front.body.set(BodyState::Broken);
            Poll::Ready(Err(Fault::caller(FaultKind::ClientGone, what)))
        };
        if !self.go_on.is_empty() {
            if front.buf.borrow().is_empty() {
                match poll_write_all(&front.socket, task, &mut self.go_on, &mut Bytes::new()) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(_)) => return gone(front, "the client closed the connection instead of sending the body"),
                    Poll::Pending => return Poll::Pending,
                }
            }
            // A client that has begun to send waits for nothing.
            self.go_on = b"";
            front.body.set(BodyState::Open);
        }
        loop {
            let mut buf = front.buf.borrow_mut();
            match self.decoder.decode(&mut buf) {
                Ok(Piece::Data(piece)) => {
                    self.armed = None;
                    self.pace.moved(piece.len() as u64, front.core.deadlines.tick());
                    front.bytes_in.set(front.bytes_in.get() + piece.len() as u64);
                    return Poll::Ready(Ok(Some(piece)));
                }
                Ok(Piece::End(trailers)) => {
                    self.trailers = trailers;
                    front.body.set(BodyState::Read);
                    return Poll::Ready(Ok(None));
                }
                Ok(Piece::More) => {}
                Err(refusal) => {
                    front.body.set(BodyState::Broken);
                    front.core.count_refused(refusal.what.word());
                    return Poll::Ready(Err(Fault::caller(FaultKind::Malformed, refusal.what.to_string())));
                }
            }
            match front.socket.poll_read(task, &mut buf) {
                Poll::Ready(Ok(0) | Err(_)) => return gone(front, "the client closed the connection in the middle of the body"),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => {
                    let bounds = front.limits.upload();
                    let late = *self.armed.get_or_insert_with(|| {
                        let (wait, late) = self.pace.wait(front.core.deadlines.tick(), &bounds);
                        self.alarm.set_in(wait);
                        late
                    });
                    ready!(self.alarm.poll_elapsed(task));
                    front.body.set(BodyState::Broken);
                    let what = format!("the client is too slow with its body: {}", late.words(&bounds));
                    return Poll::Ready(Err(Fault::caller(FaultKind::ClientTimeout(Phase::Body), what)));
                }
            }
        }
    }

    fn trailers(&mut self) -> Option<Fields> {
        self.trailers.take()
    }

    fn size(&self) -> Option<u64> {
        self.decoder.remaining()
    }
}

/// An answer on its way out.
struct Writing<'a> {
    front: &'a Front,
    out: Vec<u8>,
    sent: usize,
    piece: Bytes,
    body: Option<Box<dyn BodyStream>>,
    chunked: bool,
    open_chunk: bool,
    keep_alive: bool,
    bytes_out: u64,
    armed: bool,
    pace: Pace,
    late: Late,
    deadline: Option<Instant>,
    quiet: Duration,
}

impl<'a> Writing<'a> {
    fn new(front: &'a Front, version: Version, keep_alive: bool, head_method: bool, done: &mut Done) -> Writing<'a> {
        let (event_stream, date) = (done.answer.head.is_event_stream(), done.date());
        let Answer { head, body, .. } = &mut done.answer;
        let no_body = head_method || matches!(head.status, 204 | 304);
        let framing = if no_body {
            // What the body of a GET would have been is said, not sent.
            let length = head.fields.known(Known::ContentLength).and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
            match (length, body.size()) {
                (Some(length), _) if head.status != 204 => Framing::Length(length),
                (None, Some(size)) if head_method && size > 0 => Framing::Length(size),
                _ => Framing::None,
            }
        } else {
            match body.size() {
                Some(size) => Framing::Length(size),
                None if version == Version::Http11 => Framing::Chunked,
                None => Framing::UntilClose,
            }
        };
        let keep_alive = keep_alive && !matches!(framing, Framing::UntilClose);
        let mut out = front.core.out.take();
        out.clear();
        out.reserve(OUT_ROOM);
        write::response_head(&mut out, head, &framing, version, keep_alive, &date, None);
        let (piece, body) = match std::mem::take(body) {
            _ if no_body => (Bytes::new(), None),
            Body::Empty => (Bytes::new(), None),
            // One piece for the kernel costs less than two.
            Body::Full(all) if all.len() <= out.capacity() - out.len() => {
                out.extend_from_slice(&all);
                (Bytes::new(), None)
            }
            Body::Full(all) => (all, None),
            Body::Stream(stream) => (Bytes::new(), Some(stream)),
        };
        Writing {
            front,
            out,
            sent: 0,
            piece,
            body,
            chunked: matches!(framing, Framing::Chunked),
            open_chunk: false,
            keep_alive,
            bytes_out: 0,
            armed: false,
            pace: Pace::begin(front.core.deadlines.tick()),
            late: Late::Quiet,
            deadline: (!event_stream).then_some(done.exchange.deadline),
            quiet: if event_stream { front.limits.quiet } else { front.limits.body },
        }
    }

    /// At the end: the buffer goes to the next answer.
    fn give_buffer(&mut self) {
        self.front.core.out.set(std::mem::take(&mut self.out));
    }

    fn poll(&mut self, task: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        loop {
            // What is there of the body goes out with what is there of the head.
            let waiting = self.piece.is_empty() && self.body.is_some() && self.poll_body(task)?.is_pending();
            match self.poll_out(task)? {
                Poll::Ready(()) if self.body.is_none() => return Poll::Ready(Ok(())),
                Poll::Ready(()) if waiting => return self.poll_end(task),
                Poll::Ready(()) => {}
                Poll::Pending => {
                    let bounds = Bounds { quiet: self.quiet, ..self.front.limits.download() };
                    if !std::mem::replace(&mut self.armed, true) {
                        let (wait, late) = self.pace.wait(self.front.core.deadlines.tick(), &bounds);
                        self.late = late;
                        match self.deadline {
                            Some(end) => self.front.alarm.set_in_until(wait, end),
                            None => self.front.alarm.set_in(wait),
                        }
                    }
                    ready!(self.front.alarm.poll_elapsed(task));
                    let what = format!("the client is too slow with its answer: {}, or its time ran out", self.late.words(&bounds));
                    return Poll::Ready(Err(Fault::caller(FaultKind::ClientTimeout(Phase::Body), what)));
                }
            }
        }
    }

    /// Takes the next piece of the body, if it is there.
    fn poll_body(&mut self, task: &mut Context<'_>) -> Result<Poll<()>, Fault> {
        let Some(body) = &mut self.body else { return Ok(Poll::Ready(())) };
        match body.poll_chunk(task) {
            Poll::Ready(Ok(Some(piece))) => {
                if self.chunked {
                    if self.open_chunk {
                        self.out.extend_from_slice(write::CHUNK_TAIL);
                    }
                    write::chunk_head(&mut self.out, piece.len());
                    self.open_chunk = true;
                }
                self.piece = piece;
                Ok(Poll::Ready(()))
            }
            Poll::Ready(Ok(None)) => {
                if self.chunked {
                    if self.open_chunk {
                        self.out.extend_from_slice(write::CHUNK_TAIL);
                    }
                    write::last_chunk(&mut self.out, body.trailers().as_ref());
                }
                self.body = None;
                Ok(Poll::Ready(()))
            }
            Poll::Ready(Err(fault)) => Err(fault),
            Poll::Pending => {
                if self.open_chunk {
                    // The end of a chunk is not held back until the next one comes.
                    self.out.extend_from_slice(write::CHUNK_TAIL);
                    self.open_chunk = false;
                }
                Ok(Poll::Pending)
            }
        }
    }

    fn poll_out(&mut self, task: &mut Context<'_>) -> Result<Poll<()>, Fault> {
        let mut out = self.out.get(self.sent..).unwrap_or_default();
        let before = out.len() + self.piece.len();
        let head_before = out.len();
        let written = poll_write_all(&self.front.socket, task, &mut out, &mut self.piece);
        self.sent += head_before - out.remaining();
        let moved = before - out.remaining() - self.piece.len();
        if moved > 0 {
            self.bytes_out += moved as u64;
            self.armed = false;
            self.pace.moved(moved as u64, self.front.core.deadlines.tick());
        }
        match written {
            Poll::Ready(Ok(())) => {
                self.out.clear();
                self.sent = 0;
                Ok(Poll::Ready(()))
            }
            Poll::Ready(Err(_)) => {
                Err(Fault::caller(FaultKind::ClientGone, "the client closed the connection before it had the whole answer"))
            }
            Poll::Pending => Ok(Poll::Pending),
        }
    }

    /// Nothing to write: the body's own deadline runs upstream, if it is no event stream; here only the whole exchange's.
    fn poll_end(&mut self, task: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        let phase = match self.deadline {
            Some(deadline) => {
                if !self.armed {
                    self.front.alarm.set(deadline);
                }
                Phase::Whole
            }
            // An event stream. Whatever moves, moves through here: it is we who see that nothing does.
            None => {
                if !std::mem::replace(&mut self.armed, true) {
                    self.front.alarm.set_in(self.quiet);
                }
                Phase::Body
            }
        };
        ready!(self.front.alarm.poll_elapsed(task));
        let what = match phase {
            Phase::Whole => "the exchange's time ran out in the middle of the answer (`timeouts.whole`)".to_owned(),
            _ => format!("nothing moved in the event stream for {:?} (`timeouts.quiet` of the listener)", self.quiet),
        };
        Poll::Ready(Err(Fault::upstream(FaultKind::Timeout(phase), wharf_core::fault::Retry::Never, what)))
    }
}
