//! The frames of one connection (RFC 9113): what comes in becomes requests and pieces of their bodies, what goes out gathers in
//! one buffer, which whoever has the socket writes. No I/O and no clock: bytes in, bytes out.
//!
//! Everything that a client can make us hold has its bound: a stream's body its window, a block of fields its limits, answers that
//! are not taken [`OUT_MAX`] for all streams together, frames that lead to nothing [`USELESS_MAX`], streams begun for nothing
//! [`PATIENCE`].

use super::flow::{Flow, Piece};
use crate::codec::frame::{self, CONTENT_MAX, Reason, WINDOW, WINDOW_MAX, flag, kind, setting};
use crate::codec::hpack::{Decoder, Encoder};
use crate::codec::two::{Received, front};
use crate::codec::{HeadLimits, RefusalKind};
use crate::io::Spare;
use bytes::{BufMut as _, Bytes, BytesMut};
use front::{Asking, Room, Trailing, Wrong};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Preface,
    /// The client's settings come first.
    Settings,
    Open,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Farewell {
    Unsaid,
    /// The client was told; what it had sent before it heard of that is taken.
    Said,
    /// Nothing more is taken.
    Final,
}

/// A block of fields of which more frames follow.
struct Block {
    stream: u32,
    ends: bool,
    own_parent: bool,
    text: Vec<u8>,
    frames: u32,
}

/// One connection's frames, shared by those who work on its streams.
pub(super) struct Wire(RefCell<State>);

struct State {
    limits: Limits,
    spare: Rc<Spare>,
    stage: Stage,
    farewell: Farewell,
    decoder: Decoder,
    encoder: Encoder,
    room: Room,
    block: Option<Block>,
    /// By their numbers.
    streams: Vec<Rc<Flow>>,
    /// Those of them that count against the limit.
    open: u32,
    /// The highest number that the client has used, and that of a stream which was taken.
    last: u32,
    begun: u32,
    /// Streams that ended lately, and whether it was us who reset them.
    over: VecDeque<(u32, bool)>,
    patience: u32,
    useless: u32,
    /// The client has heard our settings.
    heard: bool,
    /// Bytes that the client may still send on all streams, and those read of which it was not told.
    window: i64,
    unsaid: u32,
    /// Bytes that we may still send on all streams; with what a stream begins; and in one frame.
    room_there: i32,
    first_room: i32,
    frame_max: usize,
    /// To be written.
    out: BytesMut,
    /// Streams that wait for room in `out`, or for the connection's window.
    waiting: VecDeque<Rc<Flow>>,
    waker: Option<Waker>,
    woken: bool,
}

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
            put_goaway(&mut state.out(), WINDOW_MAX as u32, Reason::NoError);
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
            state.remove(flow, reason, true);
            frame::put(state.out(), kind::RST_STREAM, 0, flow.id, &(reason as u32).to_be_bytes());
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
                let reason = if whole { Reason::NoError } else { Reason::Cancel };
                state.remove(flow, reason, true);
                frame::put(state.out(), kind::RST_STREAM, 0, flow.id, &(reason as u32).to_be_bytes());
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
                let more = flow.taken(len, state.limits.window / 2);
                if more > 0 {
                    frame::put(state.out(), kind::WINDOW_UPDATE, 0, flow.id, &more.to_be_bytes());
                }
                if state.credit(len) || more > 0 {
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

impl State {
    fn out(&mut self) -> &mut BytesMut {
        if self.out.capacity() == 0 {
            self.out = self.spare.take();
        }
        &mut self.out
    }

    /// Has the connection written what was put.
    fn wake(&mut self) {
        if !std::mem::replace(&mut self.woken, true)
            && let Some(waker) = &self.waker
        {
            waker.wake_by_ref();
        }
    }

    /// A stream waits for what all share, in the order in which they came; one that was woken in vain keeps its place.
    fn wait<T>(&mut self, flow: &Rc<Flow>, task: &Context<'_>) -> Poll<T> {
        flow.park(task);
        let had_turn = flow.turn.replace(false);
        if !flow.queued.replace(true) {
            match had_turn {
                true => self.waiting.push_front(flow.clone()),
                false => self.waiting.push_back(flow.clone()),
            }
        }
        Poll::Pending
    }

    /// It has no need to wait (any more): whoever is next may look.
    fn pass_on(&mut self, flow: &Flow) {
        if flow.turn.replace(false) {
            self.wake_next();
        }
    }

    fn wake_next(&mut self) {
        while let Some(next) = self.waiting.pop_front() {
            next.queued.set(false);
            if next.reset.get().is_none() && next.wake_writer() {
                next.turn.set(true);
                return;
            }
        }
    }

    fn take(&mut self, bytes: &[u8], to: &mut impl Requests) -> Result<usize, Reason> {
        let mut at = 0;
        if self.stage == Stage::Preface {
            let (said, _) = bytes.split_at_checked(PREFACE.len()).unwrap_or((bytes, &[]));
            if !PREFACE.starts_with(said) {
                return Err(Reason::Protocol);
            }
            if said.len() < PREFACE.len() {
                return Ok(0);
            }
            self.stage = Stage::Settings;
            at = PREFACE.len();
        }
        while let Some(rest) = bytes.get(at..)
            && let Some(head) = frame::Head::read(rest)
        {
            if head.len > CONTENT_MAX {
                return Err(Reason::FrameSize);
            }
            let Some(content) = rest.get(frame::HEAD..frame::HEAD + head.len) else { break };
            self.frame(head, content, to)?;
            at += frame::HEAD + head.len;
        }
        Ok(at)
    }

    fn frame(&mut self, head: frame::Head, content: &[u8], to: &mut impl Requests) -> Result<(), Reason> {
        if self.stage == Stage::Settings && (head.kind != kind::SETTINGS || head.has(flag::ACK)) {
            return Err(Reason::Protocol);
        }
        if self.block.is_some() && head.kind != kind::CONTINUATION {
            return Err(Reason::Protocol);
        }
        // Whatever moves something sets it back.
        self.useless += 1;
        if self.useless > USELESS_MAX {
            return Err(Reason::EnhanceYourCalm);
        }
        match head.kind {
            kind::HEADERS => self.headers(head, content, to),
            kind::DATA => self.data(head, content),
            kind::WINDOW_UPDATE => self.window_update(head, content),
            kind::RST_STREAM => self.rst_stream(head, content),
            kind::SETTINGS => self.settings(head, content),
            kind::PING => self.ping(head, content),
            kind::CONTINUATION => self.continuation(head, content, to),
            kind::PRIORITY => match content {
                _ if head.stream == 0 => Err(Reason::Protocol),
                &[a, b, c, d, _] if u32::from_be_bytes([a, b, c, d]) & 0x7fff_ffff == head.stream => Err(Reason::Protocol),
                [_, _, _, _, _] => Ok(()),
                _ => Err(Reason::FrameSize),
            },
            kind::GOAWAY if head.stream != 0 => Err(Reason::Protocol),
            kind::GOAWAY if content.len() < 8 => Err(Reason::FrameSize),
            kind::PUSH_PROMISE => Err(Reason::Protocol),
            // A client that goes ends the connection itself; kinds that nobody knows mean nothing (RFC 9113 section 5.5).
            _ => Ok(()),
        }
    }

    fn headers(&mut self, head: frame::Head, content: &[u8], to: &mut impl Requests) -> Result<(), Reason> {
        if head.stream == 0 {
            return Err(Reason::Protocol);
        }
        let mut text = unpadded(head, content)?;
        let mut own_parent = false;
        if head.has(flag::PRIORITY) {
            let (priority, rest) = text.split_at_checked(5).ok_or(Reason::FrameSize)?;
            own_parent = priority.first_chunk().is_some_and(|&parent| u32::from_be_bytes(parent) & 0x7fff_ffff == head.stream);
            text = rest;
        }
        let ends = head.has(flag::END_STREAM);
        if head.has(flag::END_HEADERS) {
            return self.fields(head.stream, ends, own_parent, text, to);
        }
        self.block = Some(Block { stream: head.stream, ends, own_parent, text: text.to_vec(), frames: 1 });
        Ok(())
    }

    fn continuation(&mut self, head: frame::Head, content: &[u8], to: &mut impl Requests) -> Result<(), Reason> {
        let Some(mut block) = self.block.take().filter(|block| block.stream == head.stream) else { return Err(Reason::Protocol) };
        block.frames += 1;
        if block.frames > BLOCK_FRAMES_MAX || block.text.len() + content.len() > front::BEYOND * self.limits.head.bytes_max {
            return Err(Reason::EnhanceYourCalm);
        }
        block.text.extend_from_slice(content);
        if head.has(flag::END_HEADERS) {
            return self.fields(block.stream, block.ends, block.own_parent, &block.text, to);
        }
        self.block = Some(block);
        Ok(())
    }

    /// A whole block of fields. It is read in any case: what it says about the table counts for those behind it.
    fn fields(&mut self, id: u32, ends: bool, own_parent: bool, block: &[u8], to: &mut impl Requests) -> Result<(), Reason> {
        if let Ok(at) = self.find(id) {
            return self.trailers(at, ends && !own_parent, block);
        }
        let late = self.farewell == Farewell::Final && id > self.last;
        if id <= self.last || id % 2 == 0 || late {
            let mut left = self.limits.head.bytes_max;
            let read = self.decoder.decode(block, |said| {
                left = left.saturating_sub(said.name.len() + said.value.len() + 1);
                left > 0
            });
            read.map_err(|_| Reason::Compression)?;
            return match self.ended(id) {
                // Sent before our last word was heard, as what follows of it (RFC 9113 section 6.8).
                None if late && id % 2 == 1 => {
                    self.last = id;
                    self.remember(id, true);
                    Ok(())
                }
                // On its way when we reset the stream.
                Some(true) => Ok(()),
                Some(false) => Err(Reason::StreamClosed),
                // Perhaps so long ago that it is forgotten.
                None if id % 2 == 1 && self.over.len() >= OVER_KEPT => self.is_closed(id),
                None => Err(Reason::Protocol),
            };
        }
        (self.last, self.begun) = (id, id);
        let mut exchange = to.blank();
        let State { limits, room, decoder, .. } = self;
        let mut asking = Asking::new(&limits.head, room, &mut exchange.facts.request);
        if decoder.decode(block, |said| asking.take(said)).is_err() {
            to.unused(exchange);
            return Err(Reason::Compression);
        }
        let received = match asking.end(ends, limits.scheme) {
            _ if own_parent => Err(Wrong::Malformed("a stream that depends on itself")),
            received => received,
        };
        let refused = |received| match received {
            Ok(received) => Ok(Ok(received)),
            Err(Wrong::Refused(what)) => Ok(Err(what)),
            Err(Wrong::Malformed(what)) => Err(what),
        };
        match refused(received) {
            Ok(received) if self.open < self.limits.streams_max => {
                let length = received.as_ref().ok().and_then(|received| received.length.filter(|_| received.upgrade.is_none()));
                // Until the client has heard of a smaller window it may use the one that all begin with.
                let window = if self.heard { i64::from(self.limits.window) } else { i64::from(self.limits.window).max(i64::from(WINDOW)) };
                let flow = Rc::new(Flow::new(id, window, self.first_room, length, ends));
                self.streams.push(flow.clone());
                self.open += 1;
                self.useless = 0;
                to.begin(Asked { flow, exchange, received });
                Ok(())
            }
            Ok(_) => {
                to.unused(exchange);
                frame::put(self.out(), kind::RST_STREAM, 0, id, &(Reason::RefusedStream as u32).to_be_bytes());
                self.remember(id, true);
                // Before it has heard of the limit it cannot know.
                if self.heard { self.lose_patience() } else { Ok(()) }
            }
            Err(what) => {
                to.unused(exchange);
                tracing::debug!(stream = id, "request is malformed: {what}");
                frame::put(self.out(), kind::RST_STREAM, 0, id, &(Reason::Protocol as u32).to_be_bytes());
                self.remember(id, true);
                self.lose_patience()
            }
        }
    }

    /// The block behind a request's body.
    fn trailers(&mut self, at: usize, ends: bool, block: &[u8]) -> Result<(), Reason> {
        let State { limits, decoder, streams, .. } = self;
        let Some(flow) = streams.get(at).cloned() else { return Err(Reason::Internal) };
        let mut trailing = Trailing::new(&limits.head);
        decoder.decode(block, |said| trailing.take(said)).map_err(|_| Reason::Compression)?;
        if flow.has_ended() {
            return self.fail(&flow, Reason::StreamClosed);
        }
        let trailers = match trailing.end() {
            Ok(trailers) if ends => Ok(trailers),
            Err(Wrong::Refused(what)) if ends => Err(what),
            _ => return self.fail(&flow, Reason::Protocol),
        };
        if !flow.come_to_end(Some(trailers)) {
            return self.fail(&flow, Reason::Protocol);
        }
        self.useless = 0;
        self.settle(&flow);
        Ok(())
    }

    fn data(&mut self, head: frame::Head, content: &[u8]) -> Result<(), Reason> {
        if head.stream == 0 {
            return Err(Reason::Protocol);
        }
        let piece = unpadded(head, content)?;
        let all = content.len() as u32;
        if i64::from(all) > self.window {
            return Err(Reason::FlowControl);
        }
        self.window -= i64::from(all);
        let Ok(at) = self.find(head.stream) else {
            if self.is_unused(head.stream) {
                return Err(Reason::Protocol);
            }
            self.credit(all);
            if self.ended(head.stream) == Some(true) {
                return Ok(());
            }
            return self.is_closed(head.stream);
        };
        let Some(flow) = self.streams.get(at).cloned() else { return Err(Reason::Internal) };
        if let Err(reason) = flow.receive(piece, all) {
            self.credit(all);
            return self.fail(&flow, reason);
        }
        // Padding is read as soon as it is here.
        let padding = all - piece.len() as u32;
        self.credit(padding);
        let more = if padding > 0 { flow.taken(padding, self.limits.window / 2) } else { 0 };
        if more > 0 {
            frame::put(self.out(), kind::WINDOW_UPDATE, 0, flow.id, &more.to_be_bytes());
        }
        if !piece.is_empty() {
            self.useless = 0;
        }
        if head.has(flag::END_STREAM) {
            self.useless = 0;
            if !flow.come_to_end(None) {
                return self.fail(&flow, Reason::Protocol);
            }
            self.settle(&flow);
        }
        Ok(())
    }

    fn window_update(&mut self, head: frame::Head, content: &[u8]) -> Result<(), Reason> {
        let more = frame::number(content).ok_or(Reason::FrameSize)? & 0x7fff_ffff;
        if head.stream == 0 {
            let more = Some(more).filter(|&more| more > 0).ok_or(Reason::Protocol)?;
            self.room_there = self.room_there.checked_add_unsigned(more).ok_or(Reason::FlowControl)?;
            self.wake_next();
            return Ok(());
        }
        let Ok(at) = self.find(head.stream) else {
            return if self.is_unused(head.stream) { Err(Reason::Protocol) } else { Ok(()) };
        };
        let Some(flow) = self.streams.get(at).cloned() else { return Err(Reason::Internal) };
        if more == 0 {
            return self.fail(&flow, Reason::Protocol);
        }
        match flow.room.get().checked_add_unsigned(more) {
            Some(room) => {
                flow.room.set(room);
                flow.wake_writer();
                Ok(())
            }
            None => self.fail(&flow, Reason::FlowControl),
        }
    }

    fn rst_stream(&mut self, head: frame::Head, content: &[u8]) -> Result<(), Reason> {
        if head.stream == 0 || self.is_unused(head.stream) {
            return Err(Reason::Protocol);
        }
        frame::number(content).ok_or(Reason::FrameSize)?;
        let Ok(at) = self.find(head.stream) else { return Ok(()) };
        let Some(flow) = self.streams.get(at).cloned() else { return Err(Reason::Internal) };
        self.remove(&flow, Reason::Cancel, false);
        if flow.answered.get() { Ok(()) } else { self.lose_patience() }
    }

    fn settings(&mut self, head: frame::Head, content: &[u8]) -> Result<(), Reason> {
        if head.stream != 0 {
            return Err(Reason::Protocol);
        }
        if head.has(flag::ACK) {
            self.heard = true;
            return if content.is_empty() { Ok(()) } else { Err(Reason::FrameSize) };
        }
        let (settings, rest) = content.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(Reason::FrameSize);
        }
        self.useless += settings.len() as u32;
        if self.useless > USELESS_MAX {
            return Err(Reason::EnhanceYourCalm);
        }
        let mut first_room = None;
        for &[s0, s1, a, b, c, d] in settings {
            let value = u32::from_be_bytes([a, b, c, d]);
            match u16::from_be_bytes([s0, s1]) {
                setting::HEADER_TABLE_SIZE => self.encoder.resize(value as usize),
                setting::ENABLE_PUSH | setting::ENABLE_CONNECT_PROTOCOL if value > 1 => return Err(Reason::Protocol),
                // Of several the last one counts: each would have to be told to all streams.
                setting::INITIAL_WINDOW_SIZE => first_room = Some(i32::try_from(value).map_err(|_| Reason::FlowControl)?),
                setting::MAX_FRAME_SIZE => {
                    if !(CONTENT_MAX as u32..1 << 24).contains(&value) {
                        return Err(Reason::Protocol);
                    }
                }
                _ => {}
            }
        }
        if let Some(first_room) = first_room {
            self.resize_windows(first_room)?;
        }
        self.stage = Stage::Open;
        frame::put(self.out(), kind::SETTINGS, flag::ACK, 0, &[]);
        Ok(())
    }

    /// What streams begin with has changed, and with it what is left of the windows of those that are open (RFC 9113
    /// section 6.9.2).
    fn resize_windows(&mut self, first: i32) -> Result<(), Reason> {
        let change = i64::from(first) - i64::from(self.first_room);
        self.first_room = first;
        for flow in &self.streams {
            let room = i64::from(flow.room.get()) + change;
            flow.room.set(i32::try_from(room).map_err(|_| Reason::FlowControl)?);
            flow.wake_writer();
        }
        Ok(())
    }

    fn ping(&mut self, head: frame::Head, content: &[u8]) -> Result<(), Reason> {
        if head.stream != 0 {
            return Err(Reason::Protocol);
        }
        let content: &[u8; 8] = content.try_into().map_err(|_| Reason::FrameSize)?;
        if !head.has(flag::ACK) {
            frame::put(self.out(), kind::PING, flag::ACK, 0, content);
        } else if self.farewell == Farewell::Said && content == FAREWELL_PING {
            // Everything that was sent before the client heard of it is here.
            self.farewell = Farewell::Final;
            let last = self.begun;
            put_goaway(self.out(), last, Reason::NoError);
        }
        Ok(())
    }

    fn say_goodbye(&mut self, reason: Reason) {
        self.farewell = Farewell::Final;
        let last = self.begun;
        put_goaway(self.out(), last, reason);
    }

    fn find(&self, id: u32) -> Result<usize, usize> {
        self.streams.binary_search_by_key(&id, |flow| flow.id)
    }

    /// Has the client never begun this stream?
    fn is_unused(&self, id: u32) -> bool {
        id > self.last || id % 2 == 0
    }

    /// Whether a stream that ended lately was reset by us; `None`: it did not end lately.
    fn ended(&self, id: u32) -> Option<bool> {
        self.over.iter().rev().find(|over| over.0 == id).map(|over| over.1)
    }

    fn remember(&mut self, id: u32, by_us: bool) {
        if self.over.len() >= OVER_KEPT {
            self.over.pop_front();
        }
        self.over.push_back((id, by_us));
    }

    fn lose_patience(&mut self) -> Result<(), Reason> {
        self.patience = self.patience.saturating_sub(1);
        if self.patience == 0 { Err(Reason::EnhanceYourCalm) } else { Ok(()) }
    }

    /// The client says something on a stream that is over.
    fn is_closed(&mut self, id: u32) -> Result<(), Reason> {
        frame::put(self.out(), kind::RST_STREAM, 0, id, &(Reason::StreamClosed as u32).to_be_bytes());
        self.lose_patience()
    }

    /// Ends a stream for what its client did.
    fn fail(&mut self, flow: &Flow, reason: Reason) -> Result<(), Reason> {
        self.remove(flow, reason, true);
        frame::put(self.out(), kind::RST_STREAM, 0, flow.id, &(reason as u32).to_be_bytes());
        self.lose_patience()
    }

    /// Takes a stream out of those that the client knows of.
    fn remove(&mut self, flow: &Flow, reason: Reason, by_us: bool) {
        flow.end(reason);
        if flow.queued.replace(false) {
            // Behind one that cannot move it would wait as long as that one does.
            self.waiting.retain(|other| other.id != flow.id);
        }
        self.settle(flow);
        let unread = flow.forget();
        if self.credit(unread) {
            self.wake();
        }
        if let Ok(at) = self.find(flow.id) {
            self.streams.remove(at);
            self.remember(flow.id, by_us);
        }
    }

    /// A stream that has ended both ways counts no more.
    fn settle(&mut self, flow: &Flow) {
        let over = flow.reset.get().is_some() || (flow.sent_end.get() && flow.has_ended());
        if over && flow.counted.replace(false) {
            self.open = self.open.saturating_sub(1);
        }
    }

    /// So many bytes were read. `true`: the client has been told.
    fn credit(&mut self, len: u32) -> bool {
        self.unsaid += len;
        if i64::from(self.unsaid) < whole_window(&self.limits) / 2 {
            return false;
        }
        let more = std::mem::take(&mut self.unsaid);
        self.window += i64::from(more);
        frame::put(self.out(), kind::WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
        true
    }

    /// Writes a block of fields in as many frames as it takes.
    fn put_block<T>(&mut self, flow: &Flow, ends: bool, write: impl FnOnce(&mut Encoder, &mut BytesMut) -> T) -> T {
        if ends {
            flow.sent_end.set(true);
        }
        self.out();
        self.useless = 0;
        let State { out, encoder, frame_max, .. } = self;
        let at = out.len();
        out.put_slice(&[0; frame::HEAD]);
        let made = write(encoder, out);
        let len = out.len() - at - frame::HEAD;
        let ends = if ends { flag::END_STREAM } else { 0 };
        let mut head = frame::Head { len, kind: kind::HEADERS, flags: ends | flag::END_HEADERS, stream: flow.id };
        if len > *frame_max {
            let block = out.split_off(at + frame::HEAD);
            let mut pieces = block.chunks(*frame_max).peekable();
            out.truncate(at);
            head.flags = ends;
            while let Some(piece) = pieces.next() {
                head.len = piece.len();
                if pieces.peek().is_none() {
                    head.flags |= flag::END_HEADERS;
                }
                out.put_slice(&head.bytes());
                out.put_slice(piece);
                head = frame::Head { len: 0, kind: kind::CONTINUATION, flags: 0, stream: flow.id };
            }
        } else if let Some(room) = out.get_mut(at..at + frame::HEAD) {
            room.copy_from_slice(&head.bytes());
        }
        made
    }
}

/// The content without its padding.
fn unpadded(head: frame::Head, content: &[u8]) -> Result<&[u8], Reason> {
    if !head.has(flag::PADDED) {
        return Ok(content);
    }
    let (&padding, rest) = content.split_first().ok_or(Reason::FrameSize)?;
    let len = rest.len().checked_sub(padding.into()).ok_or(Reason::Protocol)?;
    Ok(rest.get(..len).unwrap_or_default())
}

#[cfg(test)]
#[path = "wire/tests.rs"]
mod tests;
