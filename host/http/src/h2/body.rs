//! The body of a request on its way in, as its stream brings it; and what is left of it when its answer is complete.

use super::stream::Stream;
use crate::codec::{HeadLimits, two};
use crate::deadlines::Alarm;
use crate::pace::{Late, Pace};
use bytes::Bytes;
use h2::RecvStream;
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
    /// It was given back before its end.
    Back(RecvStream),
}

/// What is there of a body already. The usual case for small ones: all of it.
pub(super) fn first_piece(received: &mut RecvStream, task: &mut Context<'_>) -> Option<(Bytes, bool)> {
    match received.poll_data(task) {
        Poll::Ready(Some(Ok(piece))) => {
            let _ = received.flow_control().release_capacity(piece.len());
            Some((piece, received.is_end_stream()))
        }
        // Ends and errors are met again by whoever reads the body.
        _ => None,
    }
}

/// The body of a stream's request; `first` has come already.
pub(super) fn of(stream: &Rc<Stream>, received: RecvStream, first: Option<(Bytes, bool)>, asked: &two::Received, grpc: bool) -> Body {
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
        received: Some(received),
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

/// Takes some more of a body whose request has had its whole answer. What still comes then is not wanted, and the library
/// says so when the stream is dropped: RST_STREAM with NO_ERROR behind the last frame of the answer (RFC 9113 section 8.1).
/// To reset it here would take back what of the answer is not on the wire yet.
pub(super) async fn throw_away(stream: &Stream, alarm: &Alarm) {
    alarm.set_in(THROWN_AWAY_FOR);
    let mut left = THROWN_AWAY_MAX;
    poll_fn(|task| {
        match &mut *stream.rest.borrow_mut() {
            Rest::Read => return Poll::Ready(()),
            // The task that sent it on has been ended, and has its turn for that soon.
            Rest::Lent(waker) => *waker = Some(task.waker().clone()),
            Rest::Back(received) => loop {
                match received.poll_data(task) {
                    Poll::Ready(Some(Ok(piece))) if piece.len() <= left => {
                        left -= piece.len();
                        let _ = received.flow_control().release_capacity(piece.len());
                    }
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
    /// `None`: only once it is dropped.
    received: Option<RecvStream>,
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
    /// Of a call of gRPC: it may be silent, and as slow as it likes.
    grpc: bool,
}

impl Drop for ClientBody {
    fn drop(&mut self) {
        let rest = match self.received.take() {
            Some(received) if !received.is_end_stream() => Rest::Back(received),
            _ => Rest::Read,
        };
        if let Rest::Lent(Some(waker)) = self.stream.rest.replace(rest) {
            waker.wake();
        }
    }
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
        let Some(received) = &mut self.received else { return Poll::Ready(Ok(None)) };
        while piece.is_empty() {
            match received.poll_data(task) {
                Poll::Ready(Some(Ok(next))) => {
                    // Somebody wanted it: the client may send as much again.
                    let _ = received.flow_control().release_capacity(next.len());
                    piece = next;
                }
                Poll::Ready(Some(Err(_))) => {
                    return Poll::Ready(Err(Fault::caller(
                        FaultKind::ClientGone,
                        "the client gave the request up in the middle of its body",
                    )));
                }
                Poll::Ready(None) => return self.poll_trailers(task),
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

    fn poll_trailers(&mut self, task: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        let limits = &self.stream.common.limits;
        let refused = |what: String| Poll::Ready(Err(Fault::caller(FaultKind::Malformed, what)));
        let Some(received) = &mut self.received else { return Poll::Ready(Ok(None)) };
        match received.poll_trailers(task) {
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
