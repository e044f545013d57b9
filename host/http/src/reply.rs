//! The one place where a fault becomes an HTTP answer: its status, and what the caller is told.
//!
//! The caller is told what it can act on. What happened behind the gateway (addresses, plugin versions, limits) is in
//! the log under the same id.

use crate::grpc;
use bytes::Bytes;
use wharf_core::exchange::{Answer, ExchangeId};
use wharf_core::fault::{Fault, FaultKind, Ferried, Limited, Phase};
use wharf_core::head::{Fields, ResponseHead};

/// Status and public text of a fault.
pub(crate) fn status_of(fault: &Fault) -> (u16, &'static str) {
    match &fault.kind {
        FaultKind::Malformed => (400, "the request is malformed"),
        FaultKind::TooLarge { head: true } => (431, "the head of the request is too large"),
        FaultKind::TooLarge { head: false } => (413, "the body of the request is too large"),
        FaultKind::NoRoute => (404, "nothing is served here"),
        FaultKind::MethodRefused => (405, "this method is not served here"),
        FaultKind::Denied => (403, "this request is not let in"),
        FaultKind::Limited(_) => (429, "too many requests from this caller"),
        FaultKind::WrongType => (415, "a body of this type is not taken here"),
        FaultKind::BadArgument => (400, "an argument is not what it must be"),
        FaultKind::Misdirected => (421, "this connection was made to another host; make one to this host"),
        FaultKind::ClientTimeout(_) | FaultKind::ClientGone => (408, "the request took too long to arrive"),
        FaultKind::Timeout(Phase::Plugin) => (503, "a rule of this gateway did not answer in time"),
        FaultKind::Timeout(_) => (504, "the service behind did not answer in time"),
        FaultKind::Connect | FaultKind::NoEndpoint => (503, "the service behind cannot be reached"),
        FaultKind::Reset | FaultKind::BadAnswer => (502, "the service behind gave no valid answer"),
        FaultKind::Overload(_) => (503, "too many requests at the moment"),
        FaultKind::Plugin(_) => (503, "a rule of this gateway failed"),
        FaultKind::PluginAnswer(_) => (502, "a rule of this gateway gave no valid answer"),
        FaultKind::Ferry(ferried) => (ferried.status, ferried.text),
    }
}

/// What the caller is told of a fault.
pub(crate) fn said_of(fault: &Fault) -> &str {
    // What the caller did wrong is said in full: only the caller can mend it.
    match fault.kind {
        FaultKind::Malformed
        | FaultKind::TooLarge { .. }
        | FaultKind::MethodRefused
        | FaultKind::Limited(_)
        | FaultKind::WrongType
        | FaultKind::BadArgument => fault.detail(),
        _ => status_of(fault).1,
    }
}

/// The answer for a fault.
pub(crate) fn answer_for(fault: &Fault, id: ExchangeId) -> Answer {
    if let FaultKind::Ferry(ferried) = &fault.kind {
        return ferry_answer_for(fault, ferried, id);
    }
    let mut answer = error(status_of(fault).0, fault.word(), said_of(fault), &id.to_string());
    if matches!(fault.kind, FaultKind::Overload(_) | FaultKind::Connect | FaultKind::NoEndpoint) {
        answer.head.fields.add(b"retry-after", fault.retry_after.max(1).to_string().as_bytes());
    }
    if let FaultKind::Limited(limited) = &fault.kind {
        limit_fields(&mut answer.head.fields, limited);
    }
    answer
}

/// What callers of a ferry are told, as their old one told them, and in fields for those that do not read bodies.
fn ferry_answer_for(fault: &Fault, ferried: &Ferried, id: ExchangeId) -> Answer {
    let code = ferried.code.to_string();
    let mut head = ResponseHead::new(ferried.status);
    head.fields.add(b"content-type", b"application/json");
    head.fields.add(b"x-ferry-error-code", code.as_bytes());
    head.fields.add(b"x-ferry-error", ferried.text.as_bytes());
    if fault.retry_after > 0 {
        head.fields.add(b"retry-after", fault.retry_after.to_string().as_bytes());
    }
    let body = format!("{{\"errCode\":\"{code}\",\"errMsg\":\"{}\",\"id\":\"{id}\"}}\n", ferried.text);
    Answer::full(head, Bytes::from(body))
}

/// When to come again (RFC 9110 section 10.2.3), and the limit in the fields that clients of other gateways know.
fn limit_fields(fields: &mut Fields, limited: &Limited) {
    // Whole seconds, rounded up: who comes a moment too early is refused again.
    let seconds = |millis: u32| millis.div_ceil(1000).max(1).to_string();
    let after = seconds(limited.after_ms);
    fields.add(b"retry-after", after.as_bytes());
    fields.add(b"ratelimit-limit", limited.limit.to_string().as_bytes());
    fields.add(b"ratelimit-remaining", b"0");
    fields.add(b"ratelimit-reset", after.as_bytes());
    fields.add(b"ratelimit-policy", format!("{};w={}", limited.limit, seconds(limited.per_ms)).as_bytes());
}

/// The same for a caller that speaks gRPC: all of it is in the head, which is the trailers as well.
pub(crate) fn grpc_answer_for(fault: &Fault) -> Answer {
    let mut fields = grpc_trailers_for(fault);
    fields.add(b"content-type", b"application/grpc");
    Answer::full(ResponseHead { status: 200, fields }, Bytes::new())
}

/// The end of a call of gRPC that a fault has cut.
pub(crate) fn grpc_trailers_for(fault: &Fault) -> Fields {
    grpc::status(grpc::code(fault), said_of(fault))
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
