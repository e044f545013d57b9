//! The body of a request on its way in, as its stream brings it; and what is left of it when its answer is complete.

use super::stream::Stream;
use crate::codec::two::front::Received;
use crate::deadlines::Alarm;
use crate::pace::{Late, Pace};
use bytes::Bytes;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use wharf_core::body::{Body, BodyStream};
use wharf_core::fault::{Fault, FaultKind, Phase};
use wharf_core::head::Fields;

/// Of a body that nobody reads to its end so much is taken behind a complete answer, and for so long. A client that sends
/// everything before it looks at the answer gets it then; one that sends more is told to stop.
const THROWN_AWAY_MAX: usize = 1024 * 1024;
const THROWN_AWAY_FOR: Duration = Duration::from_millis(300);

/// What became of the body of a request.
#[derive(Default)]
pub(super) enum Rest {
    /// It was read to its end, or there is none.
    #[default]
    Read,
    /// Somebody reads it. The waker is of who waits for it to be given back.
    Lent(Option<Waker>),
    /// Nobody does any more, and its end has not come.
    Back,
}

/// What is there of a body already, and whether that is all of it: the usual case for small ones.
pub(super) fn first_piece(stream: &Stream, task: &mut Context<'_>) -> Option<(Bytes, bool)> {
    match stream.common.wire.poll_piece(&stream.flow, task) {
        Poll::Ready(Some(Ok(piece))) => Some((piece, stream.flow.is_over())),
        // Ends and errors are met again by whoever reads the body.
        _ => None,
    }
}

/// The body of a stream's request; `first` has come already.
pub(super) fn of(stream: &Rc<Stream>, first: Option<(Bytes, bool)>, asked: &Received, grpc: bool) -> Body {
    let piece = match first {
        Some((all, true)) => {
            stream.bytes_in.set(all.len() as u64);
            return all.into();
        }
        Some((piece, false)) => piece,
        None => Bytes::new(),
    };
    *stream.rest.borrow_mut() = Rest::Lent(None);
    Body::Stream(Box::new(ClientBody {
        stream: stream.clone(),
        left: asked.length,
        piece,
        trailers: None,
        alarm: stream.common.core.deadlines.alarm(),
        armed: None,
        pace: Pace::begin(stream.common.core.deadlines.tick()),
        held: asked.expects_continue,
        grpc,
    }))
}

/// Takes some more of a body whose request has had its whole answer. What still comes then is not wanted, which is
/// said when the stream is closed: RST_STREAM with NO_ERROR behind the last frame of the answer (RFC 9113 section 8.1).
pub(super) async fn throw_away(stream: &Stream, alarm: &Alarm) {
    alarm.set_in(THROWN_AWAY_FOR);
    let mut left = THROWN_AWAY_MAX;
    poll_fn(|task| {
        match &mut *stream.rest.borrow_mut() {
            Rest::Read => return Poll::Ready(()),
            // The task that sent it on has been ended, and has its turn for that soon.
            Rest::Lent(waker) => *waker = Some(task.waker().clone()),
            Rest::Back => loop {
                match stream.common.wire.poll_piece(&stream.flow, task) {
                    Poll::Ready(Some(Ok(piece))) if piece.len() <= left => left -= piece.len(),
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => break,
                }
            },
        }
        alarm.poll_elapsed(task)
    })
    .await;
}

/// The body of a request on its way in.
struct ClientBody {
    stream: Rc<Stream>,
    /// Of what `content-length` says; `wire` holds the body to it.
    left: Option<u64>,
    /// Came before anybody asked.
    piece: Bytes,
    trailers: Option<Fields>,
    alarm: Alarm,
    armed: Option<Late>,
    pace: Pace,
    /// The client waits for a 100: it is said when somebody first wants the body, not before.
    held: bool,
    /// Of a call of gRPC: it may be silent, and as slow as it likes.
    grpc: bool,
}

impl Drop for ClientBody {
    fn drop(&mut self) {
        let rest = if self.stream.flow.is_over() { Rest::Read } else { Rest::Back };
        if let Rest::Lent(Some(waker)) = self.stream.rest.replace(rest) {
            waker.wake();
        }
    }
}

impl BodyStream for ClientBody {
    fn poll_chunk(&mut self, task: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        if std::mem::take(&mut self.held) {
            // Whoever has gone is noticed below.
            self.stream.common.wire.put_continue(&self.stream.flow);
        }
        let mut piece = std::mem::take(&mut self.piece);
        while piece.is_empty() {
            match self.stream.common.wire.poll_piece(&self.stream.flow, task) {
                Poll::Ready(Some(Ok(next))) => piece = next,
                Poll::Ready(Some(Err(_))) => {
                    return Poll::Ready(Err(Fault::caller(
                        FaultKind::ClientGone,
                        "the client gave the request up in the middle of its body",
                    )));
                }
                Poll::Ready(None) => return Poll::Ready(self.end()),
                Poll::Pending if self.grpc => return self.poll_silence(task),
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
        let tick = self.stream.common.core.deadlines.tick();
        self.pace.moved(len, tick);
        self.stream.moved.set(tick);
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
    /// Nothing comes of a call of gRPC: its caller listens, perhaps for hours. Until there is an answer the whole of the
    /// exchange is bounded as well.
    #[cold]
    fn poll_silence(&mut self, task: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        if !self.stream.answering.get() {
            let quiet = self.stream.common.limits.quiet;
            if self.armed.replace(Late::Quiet).is_none() {
                self.alarm.set_in(quiet);
            }
            ready!(self.alarm.poll_elapsed(task));
            let what = format!("nothing came of the request's messages for {quiet:?} (`timeouts.quiet` of the listener)");
            return Poll::Ready(Err(Fault::caller(FaultKind::ClientTimeout(Phase::Body), what)));
        }
        Poll::Pending
    }

    /// It is all here. What stands behind it?
    fn end(&mut self) -> Result<Option<Bytes>, Fault> {
        match self.stream.flow.take_trailers() {
            Ok(trailers) => {
                self.trailers = trailers.or(self.trailers.take());
                Ok(None)
            }
            Err(what) => {
                self.stream.common.core.count_refused(what.word());
                Err(Fault::caller(FaultKind::Malformed, what.to_string()))
            }
        }
    }
}
