//! The one place where a fault becomes an HTTP answer: its status, and what the caller is told.
//!
//! The caller is told what it can act on. What happened behind the gateway (addresses, plugin versions, limits) is in
//! the log under the same id.

use crate::grpc;
use bytes::Bytes;
use wharf_core::exchange::{Answer, ExchangeId};
use wharf_core::fault::{Fault, FaultKind, Phase};
use wharf_core::head::ResponseHead;

/// Status and public text of a fault.
pub(crate) fn status_of(fault: &Fault) -> (u16, &'static str) {
    match &fault.kind {
        FaultKind::Malformed => (400, "the request is malformed"),
        FaultKind::TooLarge { head: true } => (431, "the head of the request is too large"),
        FaultKind::TooLarge { head: false } => (413, "the body of the request is too large"),
        FaultKind::NoRoute => (404, "nothing is served here"),
        FaultKind::MethodRefused => (405, "this method is not served here"),
        FaultKind::Misdirected => (421, "this connection was made to another host; make one to this host"),
        FaultKind::ClientTimeout(_) | FaultKind::ClientGone => (408, "the request took too long to arrive"),
        FaultKind::Timeout(Phase::Plugin) => (503, "a rule of this gateway did not answer in time"),
        FaultKind::Timeout(_) => (504, "the service behind did not answer in time"),
        FaultKind::Connect | FaultKind::NoEndpoint => (503, "the service behind cannot be reached"),
        FaultKind::Reset | FaultKind::BadAnswer => (502, "the service behind gave no valid answer"),
        FaultKind::Overload(_) => (503, "too many requests at the moment"),
        FaultKind::Plugin(_) => (503, "a rule of this gateway failed"),
        FaultKind::PluginAnswer(_) => (502, "a rule of this gateway gave no valid answer"),
    }
}

/// The answer for a fault.
pub(crate) fn answer_for(fault: &Fault, id: ExchangeId) -> Answer {
    let (status, text) = status_of(fault);
    // What the caller did wrong is said in full: only the caller can mend it.
    let said = match fault.kind {
        FaultKind::Malformed | FaultKind::TooLarge { .. } | FaultKind::MethodRefused => fault.detail(),
        _ => text,
    };
    let mut answer = error(status, fault.word(), said, &id.to_string());
    if matches!(fault.kind, FaultKind::Overload(_) | FaultKind::Connect | FaultKind::NoEndpoint) {
        answer.head.fields.add(b"retry-after", fault.retry_after.max(1).to_string().as_bytes());
    }
    answer
}

/// The same for a caller that speaks gRPC: all of it is in the head, which is the trailers as well.
pub(crate) fn grpc_answer_for(fault: &Fault) -> Answer {
    let (_, text) = status_of(fault);
    let mut fields = grpc::status(grpc::code(fault), text);
    fields.add(b"content-type", b"application/grpc");
    Answer::full(ResponseHead { status: 200, fields }, Bytes::new())
}

/// An error answer in the gateway's own form.
pub(crate) fn error(status: u16, code: &str, message: &str, id: &str) -> Answer {
    let mut body = String::with_capacity(96 + message.len());
    body.push_str("{\"code\":\"");
    body.push_str(code);
    body.push_str("\",\"message\":\"");
    for letter in message.chars() {
        match letter {
            '"' => body.push_str("\\\""),
            '\\' => body.push_str("\\\\"),
            control if control < ' ' => body.push(' '),
            other => body.push(other),
        }
    }
    body.push_str("\",\"id\":\"");
    body.push_str(id);
    body.push_str("\"}\n");
    let mut head = ResponseHead::new(status);
    head.fields.add(b"content-type", b"application/json");
    Answer::full(head, Bytes::from(body))
}
