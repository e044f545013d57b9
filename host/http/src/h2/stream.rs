//! One stream: a request in, its answer out.

use super::{Common, FAREWELL, GIVEN_UP_MAX, LONG};
use crate::codec::{HeadLimits, RefusalKind, two};
use crate::deadlines::Alarm;
use crate::flow::{self, Came, Done, Gone};
use crate::pace::{Bounds, Late, Pace};
use crate::{reply, tunnel, websocket};
use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use wharf_core::body::{Body, BodyStream, Tunnel};
use wharf_core::exchange::Answer;
use wharf_core::fault::{Fault, FaultKind, Phase, Retry};
use wharf_core::head::{Fields, Known, Method, Scheme};

const PROTOCOL: &str = "HTTP/2";

/// Takes a stream into care: a task of its own, which ends with the stream.
pub(super) fn begin(common: &Rc<Common>, request: http::Request<RecvStream>, respond: SendResponse<Bytes>) {
    common.open.set(common.open.get() + 1);
    common.alarm.set_in(LONG);
    let open = Open(common.clone());
    // Made in its box: it is some kilobytes, and a task moves what it is given several times.
    let made = Box::write(Box::new_uninit(), async move { serve(&open.0, request, respond).await });
    tokio::task::spawn_local(Box::into_pin(made));
}

/// Counts a stream while it lasts.
struct Open(Rc<Common>);

impl Drop for Open {
    fn drop(&mut self) {
        let Common { limits, alarm, open, going, .. } = &*self.0;
        open.set(open.get().saturating_sub(1));
        if open.get() == 0 {
            alarm.set_in(if going.get() { FAREWELL } else { limits.keep_alive });
        }
    }
}

/// What the parts of one stream share.
struct Stream {
    common: Rc<Common>,
    respond: RefCell<SendResponse<Bytes>>,
    bytes_in: Cell<u64>,
}

async fn serve(common: &Rc<Common>, request: http::Request<RecvStream>, respond: SendResponse<Bytes>) {
    let (core, limits) = (&common.core, &common.limits);
    let stream = Rc::new(Stream { common: common.clone(), respond: RefCell::new(respond), bytes_in: Cell::new(0) });
    let (parts, mut received) = request.into_parts();
    let mut exchange = core.blank();
    let protocol = parts.extensions.get::<h2::ext::Protocol>().map(h2::ext::Protocol::as_str);
    let head_limits = HeadLimits { bytes_max: limits.head_bytes_max, fields_max: limits.fields_max };
    let scheme = if common.secured.is_some() { Scheme::Https } else { Scheme::Http };
    let asked = match two::request(&parts, protocol, &head_limits, scheme, &mut exchange.facts.request) {
        Ok(asked) => asked,
        Err(what) => return stream.refuse(what),
    };
    drop(parts);
    exchange.peer = common.peer.ip();
    exchange.facts.client = exchange.peer;
    exchange.upgrade = asked.upgrade;
    let head_method = exchange.facts.request.method == Method::Head;
    let alarm = core.deadlines.alarm();
    // A tunnel's bytes come on the same stream; they are not the request's body.
    let mut tunnelled = None;
    if exchange.upgrade.is_some() {
        websocket::ask(&mut exchange.facts.request.fields);
        tunnelled = Some(received);
    } else if !received.is_end_stream() {
        let first = poll_fn(|task| Poll::Ready(first_piece(&mut received, task))).await;
        exchange.body = stream.body(received, first, asked.length, asked.expects_continue);
    }

    let given_up = Cell::new(false);
    let grpc = crate::grpc::is_grpc(&exchange.facts.request.fields);
    let came = Came { protocol: PROTOCOL, grpc, secured: common.secured.as_deref(), gone: GivenUp { stream: &stream, seen: &given_up } };
    let mut done = flow::answer(core, limits, &alarm, exchange, came).await;
    if given_up.get() {
        common.patience.set(common.patience.get().saturating_sub(1));
        return done.finish(&limits.name, 0, stream.bytes_in.get(), 0, None);
    }
    common.patience.set((common.patience.get() + 1).min(GIVEN_UP_MAX));
    if let Some(received) = tunnelled
        && let Some(other_side) = switched(&mut done)
    {
        return stream.switch(done, &alarm, received, other_side).await;
    }
    let mut writing = Writing::new(&stream, &alarm, head_method, &mut done);
    let written = poll_fn(|task| writing.poll(task)).await;
    let bytes_out = writing.bytes_out;
    if let Err(fault) = &written {
        writing.cut(fault);
    }
    let fault = written.as_ref().err().map(Fault::word);
    done.finish(&limits.name, done.answer.head.status, stream.bytes_in.get(), bytes_out, fault);
    done.over();
}

/// The other side of a tunnel. What is no proper switch becomes an answer that says so: by HTTP/2 any 2xx would mean that the
/// protocol is switched (RFC 8441 section 5).
fn switched(done: &mut Done) -> Option<Box<dyn Tunnel>> {
    let other_side = done.answer.tunnel.take();
    let head = &done.answer.head;
    let what = match &other_side {
        // Key and proof belong to HTTP/1.1: the client cannot look at them.
        Some(_) if head.status == 101 && !websocket::fits(&done.exchange.facts.request.fields, &head.fields) => {
            "the upstream's answer does not prove that it understood the WebSocket handshake"
        }
        Some(_) => return other_side,
        None if head.status < 300 => "what answers here takes no WebSocket: it did not switch protocols",
        None => return None,
    };
    let id = done.exchange.facts.id.to_string();
    done.answer = reply::error(502, "bad_answer", what, &id);
    None
}

/// Whether the client has reset its stream.
struct GivenUp<'a> {
    stream: &'a Stream,
    seen: &'a Cell<bool>,
}

impl Gone for GivenUp<'_> {
    fn polled(&self, task: &mut Context<'_>) -> bool {
        self.seen.set(self.stream.respond.borrow_mut().poll_reset(task).is_ready());
        self.seen.get()
    }
}

/// What is there of a body already. The usual case for small ones: all of it.
fn first_piece(received: &mut RecvStream, task: &mut Context<'_>) -> Option<(Bytes, bool)> {
    match received.poll_data(task) {
        Poll::Ready(Some(Ok(piece))) => {
            let _ = received.flow_control().release_capacity(piece.len());
            Some((piece, received.is_end_stream()))
        }
        // Ends and errors are met again by whoever reads the body.
        _ => None,
    }
}

impl Stream {
    /// Answers what is no request. The connection goes on: it is the stream that is malformed.
    fn refuse(&self, what: RefusalKind) {
        let Common { core, limits, peer, .. } = &*self.common;
        core.count_refused(what.word());
        let started = Instant::now();
        let (id, time_ms) = core.next_id(started);
        tracing::debug!(id = %id, peer = %peer, reason = what.word(), "request refused");
        let refusal = crate::codec::Refusal::from(what);
        let answer = reply::error(refusal.status, what.word(), &what.to_string(), &id.to_string());
        let Body::Full(body) = answer.body else { return };
        let len = body.len() as u64;
        let date = core.date(time_ms);
        let said = two::response(&answer.head, Some(len), &date).ok().and_then(|head| {
            let mut respond = self.respond.borrow_mut();
            let mut send = respond.send_response(head, false).ok()?;
            send.send_data(body, true).ok()
        });
        let bytes_out = if said.is_some() { len } else { 0 };
        flow::refused(core, limits, *peer, PROTOCOL, (id, time_ms), started, refusal.status, what.word(), bytes_out);
    }

    fn body(self: &Rc<Self>, received: RecvStream, first: Option<(Bytes, bool)>, length: Option<u64>, expects_continue: bool) -> Body {
        let piece = match first {
            Some((all, true)) => {
                self.bytes_in.set(all.len() as u64);
                return all.into();
            }
            Some((piece, false)) => piece,
            None => Bytes::new(),
        };
        Body::Stream(Box::new(ClientBody {
            stream: self.clone(),
            received,
            left: length,
            piece,
            trailers: None,
            alarm: self.common.core.deadlines.alarm(),
            armed: None,
            pace: Pace::begin(self.common.core.deadlines.tick()),
            held: expects_continue,
        }))
    }

    /// The upstream has switched protocols: from here on bytes are carried, not understood.
    async fn switch(self: &Rc<Self>, mut done: Done, alarm: &Alarm, received: RecvStream, other_side: Box<dyn Tunnel>) {
        let limits = &self.common.limits;
        done.answer.head.status = 200;
        done.answer.head.fields.remove(websocket::ACCEPT);
        let head = two::response(&done.answer.head, None, &done.date());
        let sent = head.ok().and_then(|head| self.respond.borrow_mut().send_response(head, false).ok());
        let Some(send) = sent else {
            return done.finish(&limits.name, 0, 0, 0, Some("client_gone"));
        };
        let end = StreamEnd { received: RefCell::new(received), send: RefCell::new(send), ended: Cell::new(false) };
        let mut ends = tunnel::Ends { client: &end, early: BytesMut::new(), head: Vec::new(), alarm, quiet: limits.quiet };
        let (up, down) = tunnel::carry(&mut ends, other_side).await;
        if !end.ended.get() {
            end.send.borrow_mut().send_reset(Reason::CANCEL);
        }
        done.finish(&limits.name, 101, up, down, None);
    }
}

/// The body of a request on its way in.
struct ClientBody {
    stream: Rc<Stream>,
    received: RecvStream,
    /// Of what `content-length` says; the library holds the body to it.
    left: Option<u64>,
    /// Came before anybody asked.
    piece: Bytes,
    trailers: Option<Fields>,
    alarm: Alarm,
    armed: Option<Late>,
    pace: Pace,
    /// The client waits for a 100: it is said when somebody first wants the body, not before.
    held: bool,
}

impl BodyStream for ClientBody {
    fn poll_chunk(&mut self, task: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        if std::mem::take(&mut self.held) {
            let mut go_on = http::Response::new(());
            *go_on.status_mut() = http::StatusCode::CONTINUE;
            // Whoever has gone is noticed below.
            let _ = self.stream.respond.borrow_mut().send_informational(go_on);
        }
        let mut piece = std::mem::take(&mut self.piece);
        while piece.is_empty() {
            match self.received.poll_data(task) {
                Poll::Ready(Some(Ok(next))) => {
                    // Somebody wanted it: the client may send as much again.
                    let _ = self.received.flow_control().release_capacity(next.len());
                    piece = next;
                }
                Poll::Ready(Some(Err(_))) => {
                    return Poll::Ready(Err(Fault::caller(
                        FaultKind::ClientGone,
                        "the client gave the request up in the middle of its body",
                    )));
                }
                Poll::Ready(None) => return self.poll_trailers(task),
                Poll::Pending => {
                    let bounds = self.stream.common.limits.upload();
                    let late = *self.armed.get_or_insert_with(|| {
                        let (wait, late) = self.pace.wait(self.stream.common.core.deadlines.tick(), &bounds);
                        self.alarm.set_in(wait);
                        late
                    });
                    ready!(self.alarm.poll_elapsed(task));
                    let what = format!("the client is too slow with its body: {}", late.words(&bounds));
                    return Poll::Ready(Err(Fault::caller(FaultKind::ClientTimeout(Phase::Body), what)));
                }
            }
        }
        self.armed = None;
        let len = piece.len() as u64;
        self.pace.moved(len, self.stream.common.core.deadlines.tick());
        self.left = self.left.map(|left| left.saturating_sub(len));
        self.stream.bytes_in.set(self.stream.bytes_in.get() + len);
        Poll::Ready(Ok(Some(piece)))
    }

    fn trailers(&mut self) -> Option<Fields> {
        self.trailers.take()
    }

    fn size(&self) -> Option<u64> {
        self.left
    }
}

impl ClientBody {
    fn poll_trailers(&mut self, task: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        let limits = &self.stream.common.limits;
        let refused = |what: String| Poll::Ready(Err(Fault::caller(FaultKind::Malformed, what)));
        match self.received.poll_trailers(task) {
            Poll::Ready(Ok(None)) => Poll::Ready(Ok(None)),
            Poll::Ready(Ok(Some(map))) => {
                let head_limits = HeadLimits { bytes_max: limits.head_bytes_max, fields_max: limits.fields_max };
                match two::trailers(&map, &head_limits) {
                    Ok(trailers) => {
                        self.trailers = trailers;
                        Poll::Ready(Ok(None))
                    }
                    Err(what) => {
                        self.stream.common.core.count_refused(what.word());
                        refused(what.to_string())
                    }
                }
            }
            Poll::Ready(Err(_)) => refused("the client gave the request up before its trailers".into()),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// An answer on its way out.
struct Writing<'a> {
    stream: &'a Stream,
    alarm: &'a Alarm,
    head: Option<http::Response<()>>,
    send: Option<SendStream<Bytes>>,
    piece: Bytes,
    body: Option<Box<dyn BodyStream>>,
    bytes_out: u64,
    armed: bool,
    pace: Pace,
    late: Late,
    deadline: Option<Instant>,
    quiet: Duration,
    grpc: bool,
}

impl<'a> Writing<'a> {
    fn new(stream: &'a Stream, alarm: &'a Alarm, head_method: bool, done: &mut Done) -> Writing<'a> {
        let (event_stream, date) = (done.answer.head.is_event_stream(), done.date());
        let limits = &stream.common.limits;
        let Answer { head, body, .. } = &mut done.answer;
        let no_body = head_method || matches!(head.status, 204 | 304);
        let said = || head.fields.known(Known::ContentLength).and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
        let length = match body.size() {
            // What the body of a GET would have been is said, not sent.
            size if no_body => said().filter(|_| head.status != 204).or(size.filter(|&size| head_method && size > 0)),
            size => size,
        };
        let grpc = crate::grpc::is_grpc(&head.fields);
        let response = two::response(head, length, &date);
        let (piece, body) = match std::mem::take(body) {
            _ if no_body => (Bytes::new(), None),
            Body::Empty => (Bytes::new(), None),
            Body::Full(all) => (all, None),
            Body::Stream(body) => (Bytes::new(), Some(body)),
        };
        Writing {
            stream,
            alarm,
            head: response.ok(),
            send: None,
            piece,
            body,
            bytes_out: 0,
            armed: false,
            pace: Pace::begin(stream.common.core.deadlines.tick()),
            late: Late::Quiet,
            deadline: (!event_stream).then_some(done.exchange.deadline),
            quiet: if event_stream { limits.quiet } else { limits.body },
            grpc,
        }
    }

    fn poll(&mut self, task: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        if let Some(head) = self.head.take() {
            let ends = self.piece.is_empty() && self.body.is_none();
            self.bytes_out += head.headers().iter().map(|(name, value)| (name.as_str().len() + value.len()) as u64).sum::<u64>();
            match self.stream.respond.borrow_mut().send_response(head, ends) {
                Ok(_) if ends => return Poll::Ready(Ok(())),
                Ok(send) => self.send = Some(send),
                Err(_) => return Poll::Ready(Err(gone())),
            }
        }
        let Some(send) = &mut self.send else {
            let what = "the answer has a field that HTTP/2 cannot say";
            return Poll::Ready(Err(Fault::upstream(FaultKind::BadAnswer, Retry::Never, what)));
        };
        loop {
            // Room first, then the body: what the client does not take is not read from upstream.
            send.reserve_capacity(self.piece.len().clamp(1, PIECE_MAX));
            if send.capacity() == 0 {
                match send.poll_capacity(task) {
                    Poll::Ready(Some(Ok(0))) => continue,
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(_) => return Poll::Ready(Err(gone())),
                    Poll::Pending => return self.poll_late(task, true),
                }
            }
            if self.piece.is_empty() {
                let Some(body) = &mut self.body else { return Poll::Ready(Ok(())) };
                match body.poll_chunk(task) {
                    Poll::Ready(Ok(Some(piece))) => self.piece = piece,
                    Poll::Ready(Ok(None)) => {
                        let trailers = body.trailers().and_then(|trailers| two::trailers_to(&trailers).ok()).filter(|map| !map.is_empty());
                        let sent = match trailers {
                            Some(trailers) => send.send_trailers(trailers),
                            None => send.send_data(Bytes::new(), true),
                        };
                        return Poll::Ready(sent.map_err(|_| gone()));
                    }
                    Poll::Ready(Err(fault)) => return Poll::Ready(Err(fault)),
                    Poll::Pending => {
                        if send.poll_reset(task).is_ready() {
                            return Poll::Ready(Err(gone()));
                        }
                        return self.poll_late(task, false);
                    }
                }
            }
            let piece = self.piece.split_to(self.piece.len().min(PIECE_MAX));
            // A sized body without trailers ends with its last piece, not with an empty one behind it.
            let ends = self.piece.is_empty() && self.body.as_ref().is_none_or(|body| body.size() == Some(0));
            self.bytes_out += piece.len() as u64;
            self.armed = false;
            self.pace.moved(piece.len() as u64, self.stream.common.core.deadlines.tick());
            if send.send_data(piece, ends).is_err() {
                return Poll::Ready(Err(gone()));
            }
            if ends {
                // Whoever made the body learns that it was taken to its end, and keeps its connection.
                if let Some(body) = &mut self.body {
                    let _ = body.poll_chunk(task);
                }
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// Nothing moves: because of the client, or because there is nothing to send. Whose time runs is as in `h1`.
    fn poll_late(&mut self, task: &mut Context<'_>, clients: bool) -> Poll<Result<(), Fault>> {
        let bounds = Bounds { quiet: self.quiet, ..self.stream.common.limits.download() };
        if !std::mem::replace(&mut self.armed, true) {
            let mut wait = self.quiet;
            if clients {
                (wait, self.late) = self.pace.wait(self.stream.common.core.deadlines.tick(), &bounds);
            }
            match (self.deadline, clients) {
                (Some(end), true) => self.alarm.set_in_until(wait, end),
                (Some(end), false) => self.alarm.set(end),
                (None, _) => self.alarm.set_in(wait),
            }
        }
        ready!(self.alarm.poll_elapsed(task));
        Poll::Ready(Err(match (clients, self.deadline) {
            (true, _) => {
                let what = format!("the client is too slow with its answer: {}, or its time ran out", self.late.words(&bounds));
                Fault::caller(FaultKind::ClientTimeout(Phase::Body), what)
            }
            (false, Some(_)) => {
                let what = "the exchange's time ran out in the middle of the answer (`timeouts.whole`)";
                Fault::upstream(FaultKind::Timeout(Phase::Whole), Retry::Never, what)
            }
            (false, None) => {
                let what = format!("nothing moved in the event stream for {:?} (`timeouts.quiet` of the listener)", self.quiet);
                Fault::upstream(FaultKind::Timeout(Phase::Body), Retry::Never, what)
            }
        }))
    }

    /// Ends an answer that cannot be completed, so that the client does not take what it has for the whole.
    fn cut(&mut self, fault: &Fault) {
        let reason = match fault.kind {
            FaultKind::ClientGone => return,
            FaultKind::ClientTimeout(_) => Reason::CANCEL,
            _ => Reason::INTERNAL_ERROR,
        };
        match &mut self.send {
            Some(send) => {
                // A caller of gRPC is told in its own way, if what it has is whole messages or not.
                if self.grpc
                    && let Ok(trailers) = two::trailers_to(&crate::grpc::trailers(fault))
                    && send.send_trailers(trailers).is_ok()
                {
                    return;
                }
                send.send_reset(reason);
            }
            None => self.stream.respond.borrow_mut().send_reset(reason),
        }
    }
}

/// Given to the library at once, of a body that is larger.
const PIECE_MAX: usize = 32 * 1024;

fn gone() -> Fault {
    Fault::caller(FaultKind::ClientGone, "the client gave the request up before it had the whole answer")
}

/// The client's end of a tunnel.
struct StreamEnd {
    received: RefCell<RecvStream>,
    send: RefCell<SendStream<Bytes>>,
    ended: Cell<bool>,
}

impl tunnel::End for StreamEnd {
    fn poll_read(&self, task: &mut Context<'_>, into: &mut BytesMut) -> Poll<io::Result<usize>> {
        // All that has come, as one: small messages must not become as many small frames on the other side.
        let mut received = self.received.borrow_mut();
        let before = into.len();
        while into.len() - before < PIECE_MAX {
            match received.poll_data(task) {
                Poll::Ready(Some(Ok(piece))) => {
                    let _ = received.flow_control().release_capacity(piece.len());
                    into.extend_from_slice(&piece);
                }
                // Told again when it is asked again.
                _ if into.len() > before => break,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(io::Error::other(error))),
                Poll::Ready(None) => return Poll::Ready(Ok(0)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(into.len() - before))
    }

    fn poll_write_all(&self, task: &mut Context<'_>, from: &mut BytesMut) -> Poll<io::Result<()>> {
        let mut send = self.send.borrow_mut();
        while !from.is_empty() {
            send.reserve_capacity(from.len());
            if send.capacity() == 0 {
                match ready!(send.poll_capacity(task)) {
                    Some(Ok(_)) => continue,
                    _ => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                }
            }
            let len = send.capacity().min(from.len());
            send.send_data(from.split_to(len).freeze(), false).map_err(io::Error::other)?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ended.set(true);
        Poll::Ready(self.send.borrow_mut().send_data(Bytes::new(), true).map_err(io::Error::other))
    }

    fn give(&self, buffer: &mut BytesMut) {
        *buffer = BytesMut::new();
    }
}
