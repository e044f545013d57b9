//! What a connection's frames make of it: the state behind [`Wire`](super::Wire), frame by frame.

use super::{Asked, BLOCK_FRAMES_MAX, FAREWELL_PING, Limits, OVER_KEPT, PREFACE, Requests, USELESS_MAX, put_goaway, whole_window};
use crate::codec::frame::{self, CONTENT_MAX, Reason, WINDOW, flag, kind, setting};
use crate::codec::hpack::{Decoder, Encoder};
use crate::codec::two::front::{self, Asking, Room, Trailing, Wrong};
use crate::h2::flow::Flow;
use crate::io::Spare;
use bytes::{BufMut as _, BytesMut};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Preface,
    /// The client's settings come first.
    Settings,
    Open,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Farewell {
    Unsaid,
    /// The client was told; what it had sent before it heard of that is taken.
    Said,
    /// Nothing more is taken.
    Final,
}

/// A block of fields of which more frames follow.
pub(super) struct Block {
    pub(super) stream: u32,
    pub(super) ends: bool,
    pub(super) own_parent: bool,
    pub(super) text: Vec<u8>,
    pub(super) frames: u32,
}

pub(super) struct State {
    pub(super) limits: Limits,
    pub(super) spare: Rc<Spare>,
    pub(super) stage: Stage,
    pub(super) farewell: Farewell,
    pub(super) decoder: Decoder,
    pub(super) encoder: Encoder,
    pub(super) room: Room,
    pub(super) block: Option<Block>,
    /// By their numbers.
    pub(super) streams: Vec<Rc<Flow>>,
    /// Those of them that count against the limit.
    pub(super) open: u32,
    /// The highest number that the client has used, and that of a stream which was taken.
    pub(super) last: u32,
    pub(super) begun: u32,
    /// Streams that ended lately, and whether it was us who reset them.
    pub(super) over: VecDeque<(u32, bool)>,
    pub(super) patience: u32,
    pub(super) useless: u32,
    /// The client has heard our settings.
    pub(super) heard: bool,
    /// Bytes that the client may still send on all streams, and those read of which it was not told.
    pub(super) window: i64,
    pub(super) unsaid: u32,
    /// Bytes that we may still send on all streams; with what a stream begins; and in one frame.
    pub(super) room_there: i32,
    pub(super) first_room: i32,
    pub(super) frame_max: usize,
    /// To be written.
    pub(super) out: BytesMut,
    /// Streams that wait for room in `out`, or for the connection's window.
    pub(super) waiting: VecDeque<Rc<Flow>>,
    pub(super) waker: Option<Waker>,
    pub(super) woken: bool,
}

impl State {
    pub(super) fn out(&mut self) -> &mut BytesMut {
        if self.out.capacity() == 0 {
            self.out = self.spare.take();
        }
        &mut self.out
    }

    /// Has the connection written what was put.
    pub(super) fn wake(&mut self) {
        if !std::mem::replace(&mut self.woken, true)
            && let Some(waker) = &self.waker
        {
            waker.wake_by_ref();
        }
    }

    /// A stream waits for what all share, in the order in which they came; one that was woken in vain keeps its place.
    pub(super) fn wait<T>(&mut self, flow: &Rc<Flow>, task: &Context<'_>) -> Poll<T> {
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
    pub(super) fn pass_on(&mut self, flow: &Flow) {
        if flow.turn.replace(false) {
            self.wake_next();
        }
    }

    pub(super) fn wake_next(&mut self) {
        while let Some(next) = self.waiting.pop_front() {
            next.queued.set(false);
            if next.reset.get().is_none() && next.wake_writer() {
                next.turn.set(true);
                return;
            }
        }
    }

    pub(super) fn take(&mut self, bytes: &[u8], to: &mut impl Requests) -> Result<usize, Reason> {
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
        if let Some(flow) = self.flow_of(id) {
            return self.trailers(&flow, ends && !own_parent, block);
        }
        let late = self.farewell == Farewell::Final && id > self.last;
        if id <= self.last || id.is_multiple_of(2) || late {
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
        let received = match received {
            Ok(received) => Ok(received),
            Err(Wrong::Refused(what)) => Err(what),
            Err(Wrong::Malformed(what)) => {
                to.unused(exchange);
                tracing::debug!(stream = id, "request is malformed: {what}");
                self.put_reset(id, Reason::Protocol);
                self.remember(id, true);
                return self.lose_patience();
            }
        };
        if self.open >= self.limits.streams_max {
            to.unused(exchange);
            self.put_reset(id, Reason::RefusedStream);
            self.remember(id, true);
            // Before it has heard of the limit it cannot know.
            return if self.heard { self.lose_patience() } else { Ok(()) };
        }
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

    /// The block behind a request's body.
    fn trailers(&mut self, flow: &Flow, ends: bool, block: &[u8]) -> Result<(), Reason> {
        let State { limits, decoder, .. } = self;
        let mut trailing = Trailing::new(&limits.head);
        decoder.decode(block, |said| trailing.take(said)).map_err(|_| Reason::Compression)?;
        if flow.has_ended() {
            return self.fail(flow, Reason::StreamClosed);
        }
        let trailers = match trailing.end() {
            Ok(trailers) if ends => Ok(trailers),
            Err(Wrong::Refused(what)) if ends => Err(what),
            _ => return self.fail(flow, Reason::Protocol),
        };
        if !flow.come_to_end(Some(trailers)) {
            return self.fail(flow, Reason::Protocol);
        }
        self.useless = 0;
        self.settle(flow);
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
        let Some(flow) = self.flow_of(head.stream) else {
            if self.is_unused(head.stream) {
                return Err(Reason::Protocol);
            }
            self.credit(all);
            if self.ended(head.stream) == Some(true) {
                return Ok(());
            }
            return self.is_closed(head.stream);
        };
        if let Err(reason) = flow.receive(piece, all) {
            self.credit(all);
            return self.fail(&flow, reason);
        }
        // Padding is read as soon as it is here.
        let padding = all - piece.len() as u32;
        if padding > 0 {
            self.credit(padding);
            self.credit_stream(&flow, padding);
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
        let Some(flow) = self.flow_of(head.stream) else {
            return if self.is_unused(head.stream) { Err(Reason::Protocol) } else { Ok(()) };
        };
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
        let Some(flow) = self.flow_of(head.stream) else { return Ok(()) };
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
                setting::MAX_FRAME_SIZE if !(CONTENT_MAX as u32..1 << 24).contains(&value) => return Err(Reason::Protocol),
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

    pub(super) fn say_goodbye(&mut self, reason: Reason) {
        self.farewell = Farewell::Final;
        let last = self.begun;
        put_goaway(self.out(), last, reason);
    }

    fn find(&self, id: u32) -> Option<usize> {
        self.streams.binary_search_by_key(&id, |flow| flow.id).ok()
    }

    /// A stream that has not ended.
    fn flow_of(&self, id: u32) -> Option<Rc<Flow>> {
        self.streams.get(self.find(id)?).cloned()
    }

    /// Has the client never begun this stream?
    fn is_unused(&self, id: u32) -> bool {
        id > self.last || id.is_multiple_of(2)
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
        self.put_reset(id, Reason::StreamClosed);
        self.lose_patience()
    }

    /// Ends a stream for what its client did.
    fn fail(&mut self, flow: &Flow, reason: Reason) -> Result<(), Reason> {
        self.reset(flow, reason);
        self.lose_patience()
    }

    /// Ends a stream before its time, and says so.
    pub(super) fn reset(&mut self, flow: &Flow, reason: Reason) {
        self.remove(flow, reason, true);
        self.put_reset(flow.id, reason);
    }

    fn put_reset(&mut self, id: u32, reason: Reason) {
        frame::put(self.out(), kind::RST_STREAM, 0, id, &(reason as u32).to_be_bytes());
    }

    /// Takes a stream out of those that the client knows of.
    pub(super) fn remove(&mut self, flow: &Flow, reason: Reason, by_us: bool) {
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
        if let Some(at) = self.find(flow.id) {
            self.streams.remove(at);
            self.remember(flow.id, by_us);
        }
    }

    /// A stream that has ended both ways counts no more.
    pub(super) fn settle(&mut self, flow: &Flow) {
        let over = flow.reset.get().is_some() || (flow.sent_end.get() && flow.has_ended());
        if over && flow.counted.replace(false) {
            self.open = self.open.saturating_sub(1);
        }
    }

    /// So many bytes were read. `true`: the client has been told.
    pub(super) fn credit(&mut self, len: u32) -> bool {
        self.unsaid += len;
        if i64::from(self.unsaid) < whole_window(&self.limits) / 2 {
            return false;
        }
        let more = std::mem::take(&mut self.unsaid);
        self.window += i64::from(more);
        self.put_window(0, more);
        true
    }

    /// The same of one stream.
    pub(super) fn credit_stream(&mut self, flow: &Flow, len: u32) -> bool {
        let more = flow.taken(len, self.limits.window / 2);
        if more > 0 {
            self.put_window(flow.id, more);
        }
        more > 0
    }

    fn put_window(&mut self, id: u32, more: u32) {
        frame::put(self.out(), kind::WINDOW_UPDATE, 0, id, &more.to_be_bytes());
    }

    /// Writes a block of fields in as many frames as it takes.
    pub(super) fn put_block<T>(&mut self, flow: &Flow, ends: bool, write: impl FnOnce(&mut Encoder, &mut BytesMut) -> T) -> T {
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
