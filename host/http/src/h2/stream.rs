//! One stream: a request in, its answer out. How the request's body is read is in `body.rs`, how the answer is written in
//! `writing.rs`.

use super::body::{self, Rest, first_piece};
use super::flow::Flow;
use super::wire::Asked;
use super::writing::{PIECE_MAX, Writing};
use super::{Common, FAREWELL, LONG};
use crate::codec::RefusalKind;
use crate::codec::frame::Reason;
use crate::deadlines::Alarm;
use crate::flow::{self, Came, Done, Gone};
use crate::{grpc, reply, tunnel, websocket};
use bytes::{Bytes, BytesMut};
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;
use wharf_core::body::{Body, Tunnel};
use wharf_core::fault::Fault;
use wharf_core::head::{Method, ResponseHead};

const PROTOCOL: &str = "HTTP/2";

/// Takes a stream into care: a task of its own, which ends with the stream.
pub(super) fn begin(common: &Rc<Common>, asked: Asked) {
    common.alarm.set_in(LONG);
    let open = Open(common.clone(), asked.flow.clone());
    // Made in its box: it is some kilobytes, and a task moves what it is given several times.
    let made = Box::write(Box::new_uninit(), async move { serve(&open.0, asked).await });
    tokio::task::spawn_local(Box::into_pin(made));
}

/// Sees to it that a stream ends with its task.
struct Open(Rc<Common>, Rc<Flow>);

impl Drop for Open {
    fn drop(&mut self) {
        let Common { limits, alarm, wire, .. } = &*self.0;
        wire.close(&self.1);
        if wire.is_idle() {
            alarm.set_in(if wire.is_going() { FAREWELL } else { limits.keep_alive });
        }
    }
}

/// What the parts of one stream share.
pub(super) struct Stream {
    pub(super) common: Rc<Common>,
    pub(super) flow: Rc<Flow>,
    pub(super) bytes_in: Cell<u64>,
    /// The core's tick when something of it last moved, one way or the other. Kept for calls of gRPC.
    pub(super) moved: Cell<u32>,
    /// Its answer is being written: whoever writes it sees to a silence on both ways.
    pub(super) answering: Cell<bool>,
    /// What became of the request's body.
    pub(super) rest: RefCell<Rest>,
}

async fn serve(common: &Rc<Common>, asked: Asked) {
    let (core, limits) = (&common.core, &common.limits);
    let Asked { flow, mut exchange, received } = asked;
    if flow.reset.get().is_some() {
        // Given up, or found to be malformed behind its head, before anything was done for it.
        return core.over(exchange);
    }
    let stream = Rc::new(Stream {
        common: common.clone(),
        flow,
        bytes_in: Cell::new(0),
        moved: Cell::new(0),
        answering: Cell::new(false),
        rest: RefCell::default(),
    });
    let mut asked = match received {
        Ok(asked) => asked,
        Err(what) => {
            core.over(exchange);
            return stream.refuse(what).await;
        }
    };
    exchange.peer = common.peer.ip();
    exchange.facts.client = exchange.peer;
    exchange.upgrade = asked.upgrade.take();
    let head_method = exchange.facts.request.method == Method::Head;
    let alarm = core.deadlines.alarm();
    // A tunnel's bytes come on the same stream; they are not the request's body.
    let mut tunnelled = false;
    let grpc = grpc::is_grpc(&exchange.facts.request.fields);
    if exchange.upgrade.is_some() {
        websocket::ask(&mut exchange.facts.request.fields);
        tunnelled = true;
    } else if !stream.flow.is_over() {
        let first = poll_fn(|task| Poll::Ready(first_piece(&stream, task))).await;
        exchange.body = body::of(&stream, first, &asked, grpc);
    }

    let given_up = Cell::new(false);
    let came = Came {
        protocol: PROTOCOL,
        grpc,
        secured: common.secured.as_deref(),
        until: None,
        gone: GivenUp { stream: &stream, seen: &given_up },
    };
    let mut done = flow::answer(core, limits, &alarm, exchange, came).await;
    if given_up.get() {
        return done.finish(&limits.name, 0, stream.bytes_in.get(), 0, None);
    }
    if tunnelled && let Some(other_side) = switched(&mut done) {
        return stream.switch(done, &alarm, other_side).await;
    }
    let mut writing = Writing::new(&stream, &alarm, head_method, &mut done);
    let written = poll_fn(|task| writing.poll(&done.answer.head, task)).await;
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
        self.seen.set(self.stream.flow.poll_reset(task).is_ready());
        self.seen.get()
    }
}

impl Stream {
    /// Answers what is no request. The connection goes on: it is the stream that is malformed.
    async fn refuse(&self, what: RefusalKind) {
        let Common { core, limits, peer, .. } = &*self.common;
        core.count_refused(what.word());
        let started = Instant::now();
        let (id, time_ms) = core.next_id(started);
        tracing::debug!(id = %id, peer = %peer, reason = what.word(), "request refused");
        let refusal = crate::codec::Refusal::from(what);
        let answer = reply::error(refusal.status, what.word(), &what.to_string(), &id.to_string());
        let Body::Full(body) = answer.body else { return };
        let alarm = core.deadlines.alarm();
        let date = core.date(time_ms);
        let bytes_out = self.say(&alarm, &answer.head, body, &date).await.unwrap_or(0);
        flow::refused(core, limits, *peer, PROTOCOL, (id, time_ms), started, refusal.status, what.word(), bytes_out);
    }

    /// Waits until a head may be written. `None`: the client has gone, or takes nothing in time.
    async fn head_room(&self, alarm: &Alarm) -> Option<()> {
        alarm.set_in(self.common.limits.body);
        unless(alarm, |task| self.common.wire.poll_head_room(&self.flow, task)).await
    }

    /// Writes a small answer. `None`: the client has gone, or has not taken it in time.
    async fn say(&self, alarm: &Alarm, head: &ResponseHead, mut body: Bytes, date: &[u8; 29]) -> Option<u64> {
        let (wire, flow, len) = (&self.common.wire, &self.flow, body.len() as u64);
        self.head_room(alarm).await?;
        wire.put_answer(flow, head, Some(len), date, false);
        while !body.is_empty() {
            let room = unless(alarm, |task| wire.poll_room(flow, task)).await?;
            let piece = body.split_to(room.min(body.len()));
            wire.put_data(flow, &piece, body.is_empty());
        }
        Some(len)
    }

    /// The upstream has switched protocols: from here on bytes are carried, not understood.
    async fn switch(self: &Rc<Self>, mut done: Done, alarm: &Alarm, other_side: Box<dyn Tunnel>) {
        let (limits, wire) = (&self.common.limits, &self.common.wire);
        done.answer.head.status = 200;
        done.answer.head.fields.remove(websocket::ACCEPT);
        if self.head_room(alarm).await.is_none() {
            return done.finish(&limits.name, 0, 0, 0, Some("client_gone"));
        }
        wire.put_answer(&self.flow, &done.answer.head, None, &done.date(), false);
        let mut ends = tunnel::Ends { client: &**self, early: BytesMut::new(), head: Vec::new(), alarm, quiet: limits.quiet };
        let (up, down) = tunnel::carry(&mut ends, other_side).await;
        done.finish(&limits.name, 101, up, down, None);
    }
}

/// What is waited for. `None`: the stream has ended, or the alarm was first.
async fn unless<T>(alarm: &Alarm, mut poll: impl FnMut(&mut Context<'_>) -> Poll<Result<T, Reason>>) -> Option<T> {
    poll_fn(|task| match poll(task) {
        Poll::Ready(got) => Poll::Ready(got.ok()),
        Poll::Pending => alarm.poll_elapsed(task).map(|()| None),
    })
    .await
}

/// As the client's end of a tunnel.
impl tunnel::End for Stream {
    fn poll_read(&self, task: &mut Context<'_>, into: &mut BytesMut) -> Poll<io::Result<usize>> {
        // All that has come, as one: small messages must not become as many small frames on the other side.
        Poll::Ready(match ready!(self.common.wire.poll_piece(&self.flow, task)) {
            Some(Ok(piece)) => {
                into.extend_from_slice(&piece);
                Ok(piece.len())
            }
            Some(Err(_)) => Err(io::ErrorKind::ConnectionReset.into()),
            None => Ok(0),
        })
    }

    fn poll_write_all(&self, task: &mut Context<'_>, from: &mut BytesMut) -> Poll<io::Result<()>> {
        let wire = &self.common.wire;
        while !from.is_empty() {
            let room = ready!(wire.poll_room(&self.flow, task)).map_err(|_| io::ErrorKind::BrokenPipe)?;
            let piece = from.split_to(room.min(from.len()).min(PIECE_MAX));
            wire.put_data(&self.flow, &piece, false);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.flow.sent_end.get() && self.flow.reset.get().is_none() {
            self.common.wire.put_data(&self.flow, &[], true);
        }
        Poll::Ready(Ok(()))
    }

    fn give(&self, buffer: &mut BytesMut) {
        *buffer = BytesMut::new();
    }
}
