//! An answer on its way out, in the frames of its stream.

use super::stream::Stream;
use crate::codec::two;
use crate::deadlines::Alarm;
use crate::deadlines::TICK;
use crate::flow::Done;
use crate::pace::{Bounds, Late, Pace};
use crate::{grpc, reply};
use bytes::Bytes;
use h2::{Reason, SendStream};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use wharf_core::body::{Body, BodyStream};
use wharf_core::exchange::Answer;
use wharf_core::fault::{Blame, Fault, FaultKind, Phase, Retry};
use wharf_core::head::Known;

/// Given to the library at once, of a body that is larger.
pub(super) const PIECE_MAX: usize = 32 * 1024;

/// An answer on its way out.
pub(super) struct Writing<'a> {
    stream: &'a Stream,
    alarm: &'a Alarm,
    head: Option<http::Response<()>>,
    send: Option<SendStream<Bytes>>,
    piece: Bytes,
    body: Option<Box<dyn BodyStream>>,
    pub(super) bytes_out: u64,
    armed: bool,
    pace: Pace,
    late: Late,
    deadline: Option<Instant>,
    quiet: Duration,
    /// It is gRPC: its end can be told in trailers.
    grpc: bool,
    /// And so is what was asked: it lasts as long as something moves, or as its caller wants.
    is_call: bool,
}

impl<'a> Writing<'a> {
    pub(super) fn new(stream: &'a Stream, alarm: &'a Alarm, head_method: bool, done: &mut Done) -> Writing<'a> {
        let (event_stream, date) = (done.answer.head.is_event_stream(), done.date());
        let (limits, tick) = (&stream.common.limits, stream.common.core.deadlines.tick());
        let grpc = grpc::is_grpc(&done.answer.head.fields);
        let is_call = grpc && grpc::is_grpc(&done.exchange.facts.request.fields);
        let deadline = match () {
            () if is_call => done.callers_deadline(),
            () if event_stream => None,
            () => Some(done.exchange.deadline),
        };
        stream.moved.set(tick);
        stream.answering.set(true);
        let Answer { head, body, .. } = &mut done.answer;
        let no_body = head_method || matches!(head.status, 204 | 304);
        let said = || head.fields.known(Known::ContentLength).and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
        let length = match body.size() {
            // What the body of a GET would have been is said, not sent.
            size if no_body => said().filter(|_| head.status != 204).or(size.filter(|&size| head_method && size > 0)),
            size => size,
        };
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
            pace: Pace::begin(tick),
            late: Late::Quiet,
            deadline,
            quiet: if event_stream || is_call { limits.quiet } else { limits.body },
            grpc,
            is_call,
        }
    }

    pub(super) fn poll(&mut self, task: &mut Context<'_>) -> Poll<Result<(), Fault>> {
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
            let tick = self.stream.common.core.deadlines.tick();
            self.pace.moved(piece.len() as u64, tick);
            self.stream.moved.set(tick);
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
        if self.is_call {
            return self.poll_silence(task, clients);
        }
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

    /// Nothing moves towards the caller of a call of gRPC. What it says itself counts as well, as in a tunnel: who listens to
    /// events may say nothing for hours, and who reports may hear nothing.
    #[cold]
    fn poll_silence(&mut self, task: &mut Context<'_>, clients: bool) -> Poll<Result<(), Fault>> {
        let deadlines = &self.stream.common.core.deadlines;
        loop {
            // Looked at whenever it is waited: a call in which much moves ends in time as well.
            if self.deadline.is_some_and(|end| deadlines.about_now() >= end) {
                let what = "the time that the caller gave the call ran out (`grpc-timeout`)";
                return Poll::Ready(Err(match clients {
                    // Trailers would stand behind what it does not take.
                    true => Fault::caller(FaultKind::ClientTimeout(Phase::Whole), what),
                    false => Fault::new(FaultKind::Timeout(Phase::Whole), Blame::Caller, Retry::Never, what),
                }));
            }
            let silent = TICK * deadlines.tick().wrapping_sub(self.stream.moved.get());
            if silent >= self.quiet {
                let what = format!("nothing moved in the call for {:?} (`timeouts.quiet` of the listener)", self.quiet);
                return Poll::Ready(Err(match clients {
                    true => Fault::caller(FaultKind::ClientTimeout(Phase::Body), what),
                    false => Fault::upstream(FaultKind::Timeout(Phase::Body), Retry::Never, what),
                }));
            }
            if !std::mem::replace(&mut self.armed, true) {
                let wait = self.quiet.saturating_sub(silent);
                match self.deadline {
                    Some(end) => self.alarm.set_in_until(wait, end),
                    None => self.alarm.set_in(wait),
                }
            }
            ready!(self.alarm.poll_elapsed(task));
            self.armed = false;
        }
    }

    /// Ends an answer that cannot be completed, so that the client does not take what it has for the whole.
    pub(super) fn cut(&mut self, fault: &Fault) {
        let reason = match fault.kind {
            FaultKind::ClientGone => return,
            FaultKind::ClientTimeout(_) => Reason::CANCEL,
            _ => Reason::INTERNAL_ERROR,
        };
        match &mut self.send {
            Some(send) => {
                // A caller of gRPC is told in its own way, if what it has is whole messages or not. Trailers stand behind what
                // was said before: who takes nothing of that would keep the stream open by them.
                if self.grpc
                    && reason != Reason::CANCEL
                    && let Ok(trailers) = two::trailers_to(&reply::grpc_trailers_for(fault))
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

fn gone() -> Fault {
    Fault::caller(FaultKind::ClientGone, "the client gave the request up before it had the whole answer")
}
