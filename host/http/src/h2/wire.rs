//! The frames of one connection (RFC 9113): what comes in becomes requests and pieces of their bodies, what goes out gathers in
//! one buffer, which whoever has the socket writes. No I/O and no clock: bytes in, bytes out.
//!
//! Everything that a client can make us hold has its bound: a stream's body its window, a block of fields its limits, answers that
//! are not taken [`OUT_MAX`] for all streams together, frames that lead to nothing [`USELESS_MAX`], streams begun for nothing
//! [`PATIENCE`].

mod state;

use super::flow::{Flow, Piece};
use crate::codec::frame::{self, CONTENT_MAX, Reason, WINDOW, WINDOW_MAX, flag, kind, setting};
use crate::codec::hpack::{Decoder, Encoder};
use crate::codec::two::front::{self, Received, Room};
use crate::codec::{HeadLimits, RefusalKind};
use crate::io::Spare;
use bytes::{BufMut as _, Bytes, BytesMut};
use state::{Farewell, Stage, State};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll};
use wharf_core::exchange::Exchange;
use wharf_core::head::{Fields, ResponseHead, Scheme};

/// What a connection of HTTP/2 begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes that wait for a client to take them, of all its answers together. Behind that nothing is read from upstream for it.
const OUT_MAX: usize = 32 * 1024;
/// With as much waiting (what we owe to its own frames comes on top), the client is not read any more.
const OWED_MAX: usize = 2 * OUT_MAX;
/// Frames in a second that move nothing, without one between them that does: more, and the connection ends.
const USELESS_MAX: u32 = 4096;
/// Streams that a client may begin and give up, or make us give up: more, and the connection ends ("rapid reset",
/// CVE-2023-44487, and "made you reset", CVE-2025-8671). Each answer gives one back.
const PATIENCE: u32 = 256;
/// Streams that have ended and are remembered, for frames that were on their way.
const OVER_KEPT: usize = 128;
/// Frames that one block of fields may come in.
const BLOCK_FRAMES_MAX: u32 = 64;
/// Asks whether a client has had our farewell; its own pings are told apart by chance enough.
const FAREWELL_PING: &[u8; 8] = b"farewell";

/// What one connection allows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) head: HeadLimits,
    pub(super) scheme: Scheme,
    pub(super) streams_max: u32,
    /// Bytes of a request's body that may come before anybody has read them.
    pub(super) window: u32,
}

/// A request that has come.
pub(super) struct Asked {
    pub(super) flow: Rc<Flow>,
    pub(super) exchange: Box<Exchange>,
    /// What else was said about it, or why it is not taken.
    pub(super) received: Result<Received, RefusalKind>,
}

/// Whoever takes requests.
pub(super) trait Requests {
    /// An exchange that has not begun, to be read into.
    fn blank(&mut self) -> Box<Exchange>;
    /// One that was not needed.
    fn unused(&mut self, exchange: Box<Exchange>);
    /// A request has come. It must not be worked on before this returns.
    fn begin(&mut self, asked: Asked);
}

/// One connection's frames, shared by those who work on its streams.
pub(super) struct Wire(RefCell<State>);

impl Wire {
    /// A connection that has just begun. Our settings stand first in what is to be written.
    pub(super) fn new(limits: Limits, spare: Rc<Spare>) -> Wire {
        let mut out = spare.take();
        let list_max = limits.head.bytes_max + 32 * limits.head.fields_max;
        let settings = [
            (setting::MAX_CONCURRENT_STREAMS, limits.streams_max),
            (setting::INITIAL_WINDOW_SIZE, limits.window),
            (setting::MAX_HEADER_LIST_SIZE, u32::try_from(list_max).unwrap_or(u32::MAX)),
            (setting::ENABLE_CONNECT_PROTOCOL, 1),
        ];
        frame::put_settings(&mut out, &settings);
        let window = whole_window(&limits);
        if let Ok(more @ 1..) = u32::try_from(window - i64::from(WINDOW)) {
            frame::put(&mut out, kind::WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
        }
        Wire(RefCell::new(State {
            limits,
            spare,
            stage: Stage::Preface,
            farewell: Farewell::Unsaid,
            decoder: Decoder::default(),
            encoder: Encoder::default(),
            room: Room::default(),
            block: None,
            streams: Vec::new(),
            open: 0,
            last: 0,
            begun: 0,
            over: VecDeque::new(),
            patience: PATIENCE,
            useless: 0,
            heard: false,
            window,
            unsaid: 0,
            room_there: WINDOW,
            first_room: WINDOW,
            frame_max: CONTENT_MAX,
            out,
            waiting: VecDeque::new(),
            waker: None,
            woken: false,
        }))
    }

    /// Takes the frames at the front of `bytes` that are all there; returns how many bytes that were.
    ///
    /// # Errors
    /// Why the connection ends. Its farewell has been written.
    pub(super) fn take(&self, bytes: &[u8], to: &mut impl Requests) -> Result<usize, Reason> {
        let mut state = self.0.borrow_mut();
        let taken = state.take(bytes, to);
        if let Err(reason) = taken {
            state.say_goodbye(reason);
        }
        taken
    }

    /// Has the client said what a connection begins with?
    pub(super) fn is_open(&self) -> bool {
        self.0.borrow().stage == Stage::Open
    }

    /// Was it given up for what its client began and gave up?
    pub(super) fn lost_patience(&self) -> bool {
        self.0.borrow().patience == 0
    }

    /// Has it streams that have not ended?
    pub(super) fn is_idle(&self) -> bool {
        self.0.borrow().streams.is_empty()
    }

    /// Was the client told that no more streams are taken?
    pub(super) fn is_going(&self) -> bool {
        self.0.borrow().farewell != Farewell::Unsaid
    }

    /// A farewell was said, and nothing more is to be done.
    pub(super) fn is_done(&self) -> bool {
        let state = self.0.borrow();
        state.farewell == Farewell::Final && state.streams.is_empty()
    }

    /// May more be read? Not while the client takes nothing of what we owe it.
    pub(super) fn may_read(&self) -> bool {
        self.0.borrow().out.len() <= OWED_MAX
    }

    /// A second has passed.
    pub(super) fn forgive(&self) {
        self.0.borrow_mut().useless = 0;
    }

    /// Whose turn it is to be woken when there is something to write.
    pub(super) fn watch(&self, task: &Context<'_>) {
        let mut state = self.0.borrow_mut();
        state.woken = false;
        match &mut state.waker {
            Some(waker) if waker.will_wake(task.waker()) => {}
            waker => *waker = Some(task.waker().clone()),
        }
    }

    /// What is to be written. It must come back by [`Wire::written`].
    pub(super) fn to_write(&self) -> BytesMut {
        std::mem::take(&mut self.0.borrow_mut().out)
    }

    /// Gives back what [`Wire::to_write`] gave, without what has been written of it.
    pub(super) fn written(&self, rest: BytesMut) {
        let mut state = self.0.borrow_mut();
        debug_assert!(state.out.is_empty(), "nobody writes while it is away");
        state.out = rest;
        if state.out.is_empty() {
            let mut out = std::mem::take(&mut state.out);
            if out.capacity() > 0 && out.capacity() <= 2 * CONTENT_MAX {
                state.spare.give(&mut out);
            }
        }
        if state.out.len() < OUT_MAX {
            state.wake_next();
        }
    }

    /// Ends the connection for what its client does not do in time.
    pub(super) fn give_up(&self) {
        self.0.borrow_mut().say_goodbye(Reason::EnhanceYourCalm);
    }

    /// Has a head begun to come, of which the rest is not here? `rest` is what was not taken.
    pub(super) fn is_within_head(&self, rest: &[u8]) -> bool {
        let is_part = |head: frame::Head| matches!(head.kind, kind::HEADERS | kind::CONTINUATION);
        self.0.borrow().block.is_some() || frame::Head::read(rest).is_some_and(is_part)
    }

    /// Tells the client that the connection ends. What it has begun, and what is on its way, is answered.
    pub(super) fn say_farewell(&self) {
        let state = &mut *self.0.borrow_mut();
        if state.farewell == Farewell::Unsaid {
            state.farewell = Farewell::Said;
            put_goaway(state.out(), WINDOW_MAX as u32, Reason::NoError);
            frame::put(&mut state.out, kind::PING, 0, 0, FAREWELL_PING);
        }
    }

    /// The connection is gone: so are its streams.
    pub(super) fn lost(&self) {
        let mut state = self.0.borrow_mut();
        state.farewell = Farewell::Final;
        state.waiting.clear();
        state.open = 0;
        for flow in std::mem::take(&mut state.streams) {
            flow.counted.set(false);
            flow.end(Reason::Cancel);
        }
    }

    /// Ready with how many bytes of its body a stream may send now.
    pub(super) fn poll_room(&self, flow: &Rc<Flow>, task: &Context<'_>) -> Poll<Result<usize, Reason>> {
        if let Some(reason) = flow.reset.get() {
            return Poll::Ready(Err(reason));
        }
        let mut state = self.0.borrow_mut();
        let of_stream = usize::try_from(flow.room.get()).unwrap_or(0);
        if of_stream == 0 {
            flow.park(task);
            // Its turn is another's: what it waits for is its own.
            state.pass_on(flow);
            return Poll::Pending;
        }
        let of_all = usize::try_from(state.room_there).unwrap_or(0).min(OUT_MAX.saturating_sub(state.out.len()));
        if of_all == 0 {
            return state.wait(flow, task);
        }
        state.pass_on(flow);
        Poll::Ready(Ok(of_stream.min(of_all).min(state.frame_max)))
    }

    /// Ready when a head may be written.
    pub(super) fn poll_head_room(&self, flow: &Rc<Flow>, task: &Context<'_>) -> Poll<Result<(), Reason>> {
        if let Some(reason) = flow.reset.get() {
            return Poll::Ready(Err(reason));
        }
        let mut state = self.0.borrow_mut();
        if state.out.len() >= OUT_MAX {
            return state.wait(flow, task);
        }
        state.pass_on(flow);
        Poll::Ready(Ok(()))
    }

    /// Writes an answer's head; returns the bytes of its fields. See [`front::answer`].
    pub(super) fn put_answer(&self, flow: &Flow, head: &ResponseHead, length: Option<u64>, date: &[u8; 29], ends: bool) -> u64 {
        let mut state = self.0.borrow_mut();
        flow.answered.set(true);
        let bytes = state.put_block(flow, ends, |encoder, out| front::answer(encoder, out, head, length, date));
        state.settle(flow);
        state.wake();
        bytes
    }

    /// Tells the client to go on with its body.
    pub(super) fn put_continue(&self, flow: &Flow) {
        if flow.reset.get().is_none() && !flow.answered.get() {
            let mut state = self.0.borrow_mut();
            state.put_block(flow, false, |encoder, out| {
                encoder.begin(out);
                encoder.status(100, out);
            });
            state.wake();
        }
    }

    /// Writes a piece of an answer's body, for which there is room ([`Wire::poll_room`]); none is needed for nothing.
    pub(super) fn put_data(&self, flow: &Flow, piece: &[u8], ends: bool) {
        let mut state = self.0.borrow_mut();
        let len = piece.len();
        debug_assert!(len <= state.frame_max, "room was asked for");
        flow.room.set(flow.room.get().saturating_sub_unsigned(len as u32));
        state.room_there = state.room_there.saturating_sub_unsigned(len as u32);
        if ends {
            flow.sent_end.set(true);
        }
        let flags = if ends { flag::END_STREAM } else { 0 };
        let head = frame::Head { len, kind: kind::DATA, flags, stream: flow.id };
        let out = state.out();
        out.put_slice(&head.bytes());
        out.put_slice(piece);
        state.useless = 0;
        state.settle(flow);
        state.wake();
    }

    /// Writes what stands behind a body; with nothing to say there, its end.
    pub(super) fn put_trailers(&self, flow: &Flow, trailers: &Fields) {
        let mut state = self.0.borrow_mut();
        if !state.put_block(flow, true, |encoder, out| front::trailers(encoder, out, trailers)) {
            // Nothing of it may stand there: take the empty head back.
            let len = state.out.len().saturating_sub(frame::HEAD);
            state.out.truncate(len);
            frame::put(&mut state.out, kind::DATA, flag::END_STREAM, flow.id, &[]);
        }
        state.settle(flow);
        state.wake();
    }

    /// Ends a stream before its time.
    pub(super) fn reset(&self, flow: &Flow, reason: Reason) {
        if flow.reset.get().is_none() {
            let mut state = self.0.borrow_mut();
            state.reset(flow, reason);
            state.wake();
        }
    }

    /// Nobody works on a stream any more. What has not ended by now is ended.
    pub(super) fn close(&self, flow: &Rc<Flow>) {
        let mut state = self.0.borrow_mut();
        state.pass_on(flow);
        if flow.reset.get().is_none() {
            let whole = flow.sent_end.get();
            if whole && flow.is_taken() {
                state.remove(flow, Reason::NoError, false);
            } else {
                // Behind a whole answer it means: no need to send the rest (RFC 9113 section 8.1).
                state.reset(flow, if whole { Reason::NoError } else { Reason::Cancel });
                state.wake();
            }
        }
        if flow.answered.get() {
            state.patience = (state.patience + 1).min(PATIENCE);
        }
        if state.farewell != Farewell::Unsaid {
            state.wake();
        }
    }

    /// The next piece of a request's body. `None`: that was all of it.
    pub(super) fn poll_piece(&self, flow: &Flow, task: &Context<'_>) -> Poll<Option<Result<Bytes, Reason>>> {
        match flow.poll_piece(task) {
            Poll::Ready(Piece::Some(piece)) => {
                let mut state = self.0.borrow_mut();
                // Somebody wanted it: the client may send as much again.
                let len = piece.len() as u32;
                if state.credit_stream(flow, len) | state.credit(len) {
                    state.wake();
                }
                Poll::Ready(Some(Ok(piece)))
            }
            Poll::Ready(Piece::End) => Poll::Ready(None),
            Poll::Ready(Piece::Reset(reason)) => Poll::Ready(Some(Err(reason))),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// Of the whole connection: what one that is stuck takes must not stop the others.
fn whole_window(limits: &Limits) -> i64 {
    (i64::from(limits.window) * 4).clamp(i64::from(WINDOW), i64::from(WINDOW_MAX))
}

fn put_goaway(out: &mut BytesMut, last: u32, reason: Reason) {
    let mut content = [0; 8];
    let (front, back) = content.split_at_mut(4);
    front.copy_from_slice(&last.to_be_bytes());
    back.copy_from_slice(&(reason as u32).to_be_bytes());
    frame::put(out, kind::GOAWAY, 0, 0, &content);
}

#[cfg(test)]
#[path = "wire/tests.rs"]
mod tests;
