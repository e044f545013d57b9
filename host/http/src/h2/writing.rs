//! An answer on its way out, in the frames of its stream.

use super::stream::Stream;
use crate::codec::frame::Reason;
use crate::deadlines::Alarm;
use crate::deadlines::TICK;
use crate::flow::Done;
use crate::pace::{Bounds, Late, Pace};
use crate::{grpc, reply};
use bytes::Bytes;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use wharf_core::body::{Body, BodyStream};
use wharf_core::exchange::Answer;
use wharf_core::fault::{Blame, Fault, FaultKind, Phase, Retry};
use wharf_core::head::{Known, ResponseHead};

/// Written in one piece, of a tunnel's bytes.
pub(super) const PIECE_MAX: usize = 32 * 1024;

/// An answer on its way out.
pub(super) struct Writing<'a> {
    stream: &'a Stream,
    alarm: &'a Alarm,
    /// Not written yet, and what is said of it beside it.
    head: Option<(Option<u64>, [u8; 29])>,
    piece: Bytes,
    body: Option<Box<dyn BodyStream>>,
    pub(super) bytes_out: u64,
    /// Whose time the alarm measures: the client's, or that of whoever makes the body.
    armed: Option<bool>,
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
        let (piece, body) = match std::mem::take(body) {
            _ if no_body => (Bytes::new(), None),
            Body::Empty => (Bytes::new(), None),
            Body::Full(all) => (all, None),
            Body::Stream(body) => (Bytes::new(), Some(body)),
        };
        Writing {
            stream,
            alarm,
            head: Some((length, date)),
            piece,
            body,
            bytes_out: 0,
            armed: None,
            pace: Pace::begin(tick),
            late: Late::Quiet,
            deadline,
            quiet: if event_stream || is_call { limits.quiet } else { limits.body },
            grpc,
            is_call,
        }
    }

    /// `head` is the answer's own, which stays where it is.
    pub(super) fn poll(&mut self, head: &ResponseHead, task: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        let (wire, flow) = (&self.stream.common.wire, &self.stream.flow);
        if let Some((length, date)) = &self.head {
            match wire.poll_head_room(flow, task) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(gone())),
                Poll::Pending => return self.poll_late(task, true),
            }
            let ends = self.piece.is_empty() && self.body.is_none();
            self.bytes_out += wire.put_answer(flow, head, *length, date, ends);
            self.head = None;
            if ends {
                return Poll::Ready(Ok(()));
            }
        }
        loop {
            // Room first, then the body: what the client does not take is not read from upstream.
            let room = match wire.poll_room(flow, task) {
                Poll::Ready(Ok(room)) => room,
                Poll::Ready(Err(_)) => return Poll::Ready(Err(gone())),
                Poll::Pending => return self.poll_late(task, true),
            };
            if self.armed == Some(true) {
                // The client has taken something, or says that it will: from here on it is another's time.
                self.armed = None;
                self.pace.moved(0, self.stream.common.core.deadlines.tick());
            }
            if self.piece.is_empty() {
                let Some(body) = &mut self.body else { return Poll::Ready(Ok(())) };
                match body.poll_chunk(task) {
                    Poll::Ready(Ok(Some(piece))) => self.piece = piece,
                    Poll::Ready(Ok(None)) => {
                        match body.trailers() {
                            Some(trailers) => wire.put_trailers(flow, &trailers),
                            None => wire.put_data(flow, &[], true),
                        }
                        return Poll::Ready(Ok(()));
                    }
                    Poll::Ready(Err(fault)) => return Poll::Ready(Err(fault)),
                    Poll::Pending => {
                        if flow.poll_reset(task).is_ready() {
                            return Poll::Ready(Err(gone()));
                        }
                        return self.poll_late(task, false);
                    }
                }
            }
            let piece = self.piece.split_to(self.piece.len().min(room));
            // A sized body without trailers ends with its last piece, not with an empty one behind it.
            let ends = self.piece.is_empty() && self.body.as_ref().is_none_or(|body| body.size() == Some(0));
            self.bytes_out += piece.len() as u64;
            self.armed = None;
            let tick = self.stream.common.core.deadlines.tick();
            self.pace.moved(piece.len() as u64, tick);
            self.stream.moved.set(tick);
            wire.put_data(flow, &piece, ends);
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
        if self.armed.replace(clients) != Some(clients) {
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
            if self.armed.replace(clients).is_none() {
                let wait = self.quiet.saturating_sub(silent);
                match self.deadline {
                    Some(end) => self.alarm.set_in_until(wait, end),
                    None => self.alarm.set_in(wait),
                }
            }
            ready!(self.alarm.poll_elapsed(task));
            self.armed = None;
        }
    }

    /// Ends an answer that cannot be completed, so that the client does not take what it has for the whole.
    pub(super) fn cut(&mut self, fault: &Fault) {
        let reason = match fault.kind {
            FaultKind::ClientGone => return,
            FaultKind::ClientTimeout(_) => Reason::Cancel,
            _ => Reason::Internal,
        };
        let (wire, flow) = (&self.stream.common.wire, &self.stream.flow);
        // A caller of gRPC is told in its own way, if what it has is whole messages or not. Trailers stand behind what
        // was said before: who takes nothing of that would keep the stream open by them.
        if self.grpc && self.head.is_none() && reason != Reason::Cancel && flow.reset.get().is_none() {
            return wire.put_trailers(flow, &reply::grpc_trailers_for(fault));
        }
        wire.reset(flow, reason);
    }
}

fn gone() -> Fault {
    Fault::caller(FaultKind::ClientGone, "the client gave the request up before it had the whole answer")
}
