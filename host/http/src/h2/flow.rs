//! What is known of one stream's flow, both ways. The connection (`wire.rs`) and whoever works on the stream share it.

use crate::codec::RefusalKind;
use crate::codec::frame::Reason;
use bytes::{Bytes, BytesMut};
use std::cell::{Cell, RefCell};
use std::task::{Context, Poll, Waker};
use wharf_core::head::Fields;

/// Of a body at once.
const PIECE_MAX: usize = 32 * 1024;

pub(super) struct Flow {
    pub(super) id: u32,
    /// Why it ended before its time.
    pub(super) reset: Cell<Option<Reason>>,
    /// It counts against what the client may have open.
    pub(super) counted: Cell<bool>,
    /// The answer's head has been written.
    pub(super) answered: Cell<bool>,
    /// The answer's end has been written.
    pub(super) sent_end: Cell<bool>,
    /// Bytes that the client takes of this stream. Below 0 when it has changed its mind.
    pub(super) room: Cell<i32>,
    /// Waits for what all streams share; was woken for it.
    pub(super) queued: Cell<bool>,
    pub(super) turn: Cell<bool>,
    writer: RefCell<Option<Waker>>,
    way_in: RefCell<WayIn>,
}

/// The request's body.
struct WayIn {
    /// Here, and not read yet.
    pieces: BytesMut,
    /// Bytes that the client may still send, and those read of which it was not told.
    window: i64,
    unsaid: u32,
    /// Bytes to come, as `content-length` says.
    left: Option<u64>,
    ended: bool,
    trailers: Result<Option<Fields>, RefusalKind>,
    reader: Option<Waker>,
}

/// What is next of a body.
pub(super) enum Piece {
    Some(Bytes),
    End,
    Reset(Reason),
}

impl Flow {
    pub(super) fn new(id: u32, window: i64, room: i32, left: Option<u64>, ended: bool) -> Flow {
        let way_in = WayIn { pieces: BytesMut::new(), window, unsaid: 0, left, ended, trailers: Ok(None), reader: None };
        Flow {
            id,
            reset: Cell::new(None),
            counted: Cell::new(true),
            answered: Cell::new(false),
            sent_end: Cell::new(false),
            room: Cell::new(room),
            queued: Cell::new(false),
            turn: Cell::new(false),
            writer: RefCell::new(None),
            way_in: RefCell::new(way_in),
        }
    }

    /// Whoever writes to it is woken when there is room, or when it ends.
    pub(super) fn park(&self, task: &Context<'_>) {
        park(&mut self.writer.borrow_mut(), task);
    }

    /// `false`: nobody waits.
    pub(super) fn wake_writer(&self) -> bool {
        // Not by reference: the one who is woken may be dropped for it.
        let waker = self.writer.borrow_mut().take();
        waker.map(Waker::wake).is_some()
    }

    /// Ready when the stream has ended before its time.
    pub(super) fn poll_reset(&self, task: &Context<'_>) -> Poll<()> {
        if self.reset.get().is_some() {
            return Poll::Ready(());
        }
        self.park(task);
        Poll::Pending
    }

    /// It ends before its time, unless it has done so already.
    pub(super) fn end(&self, reason: Reason) {
        if self.reset.get().is_none() {
            self.reset.set(Some(reason));
            self.wake_writer();
            wake_reader(&mut self.way_in.borrow_mut());
        }
    }

    /// Has all of the request come?
    pub(super) fn has_ended(&self) -> bool {
        self.way_in.borrow().ended
    }

    /// Has all of it come, and its body been read?
    pub(super) fn is_taken(&self) -> bool {
        let way_in = self.way_in.borrow();
        way_in.ended && way_in.pieces.is_empty()
    }

    /// The same, and nothing stands behind the body.
    pub(super) fn is_over(&self) -> bool {
        self.is_taken() && matches!(self.way_in.borrow().trailers, Ok(None))
    }

    /// Takes a piece of the body, for which the client used `all` bytes of its windows.
    pub(super) fn receive(&self, piece: &[u8], all: u32) -> Result<(), Reason> {
        let mut way_in = self.way_in.borrow_mut();
        if way_in.ended {
            return Err(Reason::StreamClosed);
        }
        if i64::from(all) > way_in.window {
            return Err(Reason::FlowControl);
        }
        way_in.window -= i64::from(all);
        if let Some(left) = &mut way_in.left {
            *left = left.checked_sub(piece.len() as u64).ok_or(Reason::Protocol)?;
        }
        way_in.pieces.extend_from_slice(piece);
        if !piece.is_empty() {
            wake_reader(&mut way_in);
        }
        Ok(())
    }

    /// The request is all here. `false`: its body is shorter than `content-length` says.
    pub(super) fn come_to_end(&self, trailers: Option<Result<Option<Fields>, RefusalKind>>) -> bool {
        let mut way_in = self.way_in.borrow_mut();
        if way_in.left.is_some_and(|left| left > 0) {
            return false;
        }
        way_in.ended = true;
        if let Some(trailers) = trailers {
            way_in.trailers = trailers;
        }
        wake_reader(&mut way_in);
        true
    }

    pub(super) fn poll_piece(&self, task: &Context<'_>) -> Poll<Piece> {
        if let Some(reason) = self.reset.get() {
            return Poll::Ready(Piece::Reset(reason));
        }
        let mut way_in = self.way_in.borrow_mut();
        let len = way_in.pieces.len();
        if len > 0 {
            let piece = match len {
                ..=PIECE_MAX => std::mem::take(&mut way_in.pieces),
                _ => way_in.pieces.split_to(PIECE_MAX),
            };
            return Poll::Ready(Piece::Some(piece.freeze()));
        }
        if way_in.ended {
            return Poll::Ready(Piece::End);
        }
        park(&mut way_in.reader, task);
        Poll::Pending
    }

    /// So many bytes were read. More than 0: the client is to be told that it may send so many more.
    pub(super) fn taken(&self, len: u32, half: u32) -> u32 {
        let mut way_in = self.way_in.borrow_mut();
        way_in.unsaid += len;
        if way_in.unsaid < half.max(1) || way_in.ended || self.reset.get().is_some() {
            return 0;
        }
        let more = std::mem::take(&mut way_in.unsaid);
        way_in.window += i64::from(more);
        more
    }

    /// What stands behind the body, once that has been read.
    pub(super) fn take_trailers(&self) -> Result<Option<Fields>, RefusalKind> {
        std::mem::replace(&mut self.way_in.borrow_mut().trailers, Ok(None))
    }

    #[cfg(test)]
    pub(super) fn unread(&self) -> usize {
        self.way_in.borrow().pieces.len()
    }

    /// Forgets what nobody will read; returns how many bytes that were.
    pub(super) fn forget(&self) -> u32 {
        let mut way_in = self.way_in.borrow_mut();
        way_in.trailers = Ok(None);
        std::mem::take(&mut way_in.pieces).len() as u32
    }
}

fn park(place: &mut Option<Waker>, task: &Context<'_>) {
    match place {
        Some(waker) if waker.will_wake(task.waker()) => {}
        place => *place = Some(task.waker().clone()),
    }
}

fn wake_reader(way_in: &mut WayIn) {
    if let Some(waker) = way_in.reader.take() {
        waker.wake();
    }
}
