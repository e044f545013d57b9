//! One stream: a request in, its answer out. How the request's body is read is in `body.rs`, how the answer is written in
//! `writing.rs`.

use super::body::{self, Rest, first_piece};
use super::writing::{PIECE_MAX, Writing};
use super::{Common, FAREWELL, GIVEN_UP_MAX, LONG};
use crate::codec::{HeadLimits, RefusalKind, two};
use crate::deadlines::Alarm;
use crate::flow::{self, Came, Done, Gone};
use crate::{grpc, reply, tunnel, websocket};
use bytes::{Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;
use wharf_core::body::{Body, Tunnel};
use wharf_core::fault::Fault;
use wharf_core::head::{Method, Scheme};

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
pub(super) struct Stream {
    pub(super) common: Rc<Common>,
    pub(super) respond: RefCell<SendResponse<Bytes>>,
    pub(super) bytes_in: Cell<u64>,
    /// The core's tick when something of it last moved, one way or the other. Kept for calls of gRPC.
    pub(super) moved: Cell<u32>,
    /// Its answer is being written: whoever writes it sees to a silence on both ways.
    pub(super) answering: Cell<bool>,
    /// What became of the request's body.
    pub(super) rest: RefCell<Rest>,
}

async fn serve(common: &Rc<Common>, request: http::Request<RecvStream>, respond: SendResponse<Bytes>) {
    let (core, limits) = (&common.core, &common.limits);
    let stream = Rc::new(Stream {
        common: common.clone(),
        respond: RefCell::new(respond),
        bytes_in: Cell::new(0),
        moved: Cell::new(0),
        answering: Cell::new(false),
        rest: RefCell::default(),
    });
    let (parts, mut received) = request.into_parts();
    let mut exchange = core.blank();
    let protocol = parts.extensions.get::<h2::ext::Protocol>().map(h2::ext::Protocol::as_str);
    let head_limits = HeadLimits { bytes_max: limits.head_bytes_max, fields_max: limits.fields_max };
    let scheme = if common.secured.is_some() { Scheme::Https } else { Scheme::Http };
    let mut asked = match two::request(&parts, protocol, &head_limits, scheme, &mut exchange.facts.request) {
        Ok(asked) => asked,
        Err(what) => return stream.refuse(what),
    };
    drop(parts);
    exchange.peer = common.peer.ip();
    exchange.facts.client = exchange.peer;
    exchange.upgrade = asked.upgrade.take();
    let head_method = exchange.facts.request.method == Method::Head;
    let alarm = core.deadlines.alarm();
    // A tunnel's bytes come on the same stream; they are not the request's body.
    let mut tunnelled = None;
    let grpc = grpc::is_grpc(&exchange.facts.request.fields);
    if exchange.upgrade.is_some() {
        websocket::ask(&mut exchange.facts.request.fields);
        tunnelled = Some(received);
    } else if !received.is_end_stream() {
        let first = poll_fn(|task| Poll::Ready(first_piece(&mut received, task))).await;
        exchange.body = body::of(&stream, received, first, &asked, grpc);
    }

    let given_up = Cell::new(false);
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
    // The answer's body, and with it whoever still reads that of the request.
    drop(writing);
    let fault = written.as_ref().err().map(Fault::word);
    done.finish(&limits.name, done.answer.head.status, stream.bytes_in.get(), bytes_out, fault);
    done.over();
    if written.is_ok() && !matches!(*stream.rest.borrow(), Rest::Read) {
        body::throw_away(&stream, &alarm).await;
    }
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
