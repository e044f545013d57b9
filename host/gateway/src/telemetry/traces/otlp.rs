//! Traces in the protobuf form of OTLP (opentelemetry-proto 1.x, `trace/v1/trace.proto`), with the names of the semantic
//! conventions for HTTP. Pure. Written by hand: it is five messages, and they never change.

use super::Finished;
use std::time::Instant;
use wharf_core::fault::is_word_of_server;
use wharf_core::trace::{Span, Trace, What};

const SERVER: u64 = 2;
const CLIENT: u64 = 3;
const INTERNAL: u64 = 1;
const ERROR: u64 = 2;
/// Of a span's flags: the parent is in another process, and it is known whether it is.
const HAS_IS_REMOTE: u32 = 0x100;
const IS_REMOTE: u32 = 0x200;
const SAMPLED: u32 = 1;

/// Methods that the conventions name; all others are one.
const METHODS: [&str; 9] = ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"];

/// A protobuf message that is being written.
#[derive(Default)]
pub(super) struct Message(Vec<u8>);

impl Message {
    pub(super) fn bytes(self) -> Vec<u8> {
        self.0
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn key(&mut self, field: u64, wire: u64) {
        self.varint(field << 3 | wire);
    }

    fn number(&mut self, field: u64, value: u64) {
        self.key(field, 0);
        self.varint(value);
    }

    fn fixed64(&mut self, field: u64, value: u64) {
        self.key(field, 1);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn fixed32(&mut self, field: u64, value: u32) {
        self.key(field, 5);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn put(&mut self, field: u64, bytes: &[u8]) {
        self.key(field, 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn inner(&mut self, field: u64, write: impl FnOnce(&mut Message)) {
        let mut inner = Message::default();
        write(&mut inner);
        self.put(field, &inner.0);
    }

    /// An attribute, in the field of the message that attributes are in.
    fn text(&mut self, field: u64, name: &str, value: &str) {
        self.inner(field, |pair| {
            pair.put(1, name.as_bytes());
            pair.inner(2, |any| any.put(1, value.as_bytes()));
        });
    }

    fn whole(&mut self, field: u64, name: &str, value: u64) {
        self.inner(field, |pair| {
            pair.put(1, name.as_bytes());
            pair.inner(2, |any| any.number(3, value));
        });
    }
}

/// All spans of these traces as an `ExportTraceServiceRequest`, and how many they are.
pub(super) fn request(service: &str, node: &str, traces: &[Finished]) -> (Vec<u8>, u64) {
    let mut spans = 0;
    let mut request = Message::default();
    request.inner(1, |of_resource| {
        of_resource.inner(1, |resource| {
            resource.text(1, "service.name", service);
            resource.text(1, "service.instance.id", node);
            resource.text(1, "service.version", env!("CARGO_PKG_VERSION"));
        });
        of_resource.inner(2, |of_scope| {
            of_scope.inner(1, |scope| {
                scope.put(1, b"wharf");
                scope.put(2, env!("CARGO_PKG_VERSION").as_bytes());
            });
            for finished in traces {
                of_scope.inner(2, |span| server(span, finished));
                for inner in finished.trace.spans().0 {
                    of_scope.inner(2, |span| within(span, finished, inner));
                    spans += 1;
                }
                spans += 1;
            }
        });
    });
    (request.bytes(), spans)
}

/// What all spans begin with.
fn begin(span: &mut Message, trace: &Trace, id: u64, parent: Option<u64>, is_remote: bool) {
    span.put(1, &trace.context.trace.to_be_bytes());
    span.put(2, &id.to_be_bytes());
    if let Some(state) = &trace.state {
        span.put(3, state.as_bytes());
    }
    if let Some(parent) = parent {
        span.put(4, &parent.to_be_bytes());
    }
    span.fixed32(16, SAMPLED | HAS_IS_REMOTE | if is_remote { IS_REMOTE } else { 0 });
}

fn times(span: &mut Message, finished: &Finished, began: Instant, ended: Instant) {
    span.fixed64(7, finished.unix_ns(began));
    span.fixed64(8, finished.unix_ns(ended));
}

fn failed(span: &mut Message, why: &str) {
    span.inner(15, |status| {
        status.put(2, why.as_bytes());
        status.number(3, ERROR);
    });
}

fn known_method(method: &str) -> Option<&str> {
    METHODS.into_iter().find(|known| *known == method)
}

fn method(span: &mut Message, method: &str) {
    span.text(9, "http.request.method", known_method(method).unwrap_or("_OTHER"));
    if known_method(method).is_none() {
        span.text(9, "http.request.method_original", method);
    }
}

/// The exchange's own span.
fn server(span: &mut Message, finished: &Finished) {
    let trace = &finished.trace;
    begin(span, trace, trace.context.span, trace.parent, true);
    let verb = known_method(&finished.method).unwrap_or("HTTP");
    let name = finished.route_path.as_ref().map_or_else(|| verb.to_owned(), |path| format!("{verb} {path}"));
    span.put(5, name.as_bytes());
    span.number(6, SERVER);
    times(span, finished, finished.began, finished.ended);
    method(span, &finished.method);
    span.text(9, "url.scheme", finished.scheme);
    span.text(9, "url.path", &finished.path);
    if let Some(query) = &finished.query {
        span.text(9, "url.query", query);
    }
    let (host, port) = host_and_port(&finished.authority);
    if !host.is_empty() {
        span.text(9, "server.address", host);
    }
    if let Some(port) = port {
        span.whole(9, "server.port", port.into());
    }
    if let Some(path) = &finished.route_path {
        span.text(9, "http.route", path);
    }
    span.text(9, "client.address", &finished.client);
    span.text(9, "network.peer.address", &finished.peer);
    span.text(9, "network.protocol.name", "http");
    span.text(9, "network.protocol.version", finished.protocol.trim_start_matches("HTTP/"));
    if let Some(agent) = &finished.user_agent {
        span.text(9, "user_agent.original", agent);
    }
    span.whole(9, "http.request.body.size", finished.bytes_in);
    if !finished.route.is_empty() {
        span.text(9, "wharf.route", &finished.route);
    }
    span.text(9, "wharf.exchange.id", &finished.id);
    if let Some(told) = &finished.told_id {
        span.text(9, "wharf.ctx_id", told);
    }
    if let Some(consumer) = &finished.consumer {
        span.text(9, "wharf.consumer", consumer);
    }
    if let Some(plugin) = &finished.answered_by {
        span.text(9, "wharf.answered_by", plugin);
    }
    if let Some(fault) = &finished.fault {
        span.text(9, "wharf.fault", fault);
    }
    let (_, lost) = trace.spans();
    if lost > 0 {
        span.whole(9, "wharf.spans_left_out", lost.into());
    }
    match finished.status {
        // Nobody has got an answer.
        0 => {
            span.text(9, "error.type", "client_gone");
            failed(span, "the client went away before it had an answer");
        }
        status => {
            span.whole(9, "http.response.status_code", status.into());
            // Where errors are 200 (gRPC, envelopes) the fault tells.
            if status >= 500 || finished.fault.as_deref().is_some_and(is_word_of_server) {
                let kind = finished.fault.as_deref().map_or_else(|| status.to_string(), str::to_owned);
                span.text(9, "error.type", &kind);
                failed(span, &kind);
            }
        }
    }
}

/// A span within it.
fn within(span: &mut Message, finished: &Finished, inner: &Span) {
    let trace = &finished.trace;
    begin(span, trace, inner.id, Some(trace.context.span), false);
    let cancelled = inner.ended.is_none();
    let ended = inner.ended.unwrap_or(finished.ended);
    match &inner.what {
        What::Plugin { name, version, role, fault } => {
            span.put(5, format!("plugin {name}").as_bytes());
            span.number(6, INTERNAL);
            times(span, finished, inner.started, ended);
            span.text(9, "wharf.plugin.name", name);
            span.whole(9, "wharf.plugin.version", (*version).into());
            span.text(9, "wharf.plugin.role", role);
            if let Some(kind) = fault.or(cancelled.then_some("cancelled")) {
                span.text(9, "error.type", kind);
                failed(span, kind);
            }
        }
        What::Try { endpoint, number, path, status, fault } => {
            span.put(5, known_method(&finished.method).unwrap_or("HTTP").as_bytes());
            span.number(6, CLIENT);
            times(span, finished, inner.started, ended);
            method(span, &finished.method);
            let scheme = if finished.by_tls.contains(&endpoint.service) { "https" } else { "http" };
            span.text(9, "url.full", &format!("{scheme}://{}{path}", endpoint.text));
            span.text(9, "server.address", &endpoint.address.ip().to_string());
            span.whole(9, "server.port", endpoint.address.port().into());
            span.text(9, "network.peer.address", &endpoint.address.ip().to_string());
            span.text(9, "wharf.service", &endpoint.service);
            if *number > 1 {
                span.whole(9, "http.request.resend_count", u64::from(*number) - 1);
            }
            if *status > 0 {
                span.whole(9, "http.response.status_code", (*status).into());
            }
            let kind = match fault.or(cancelled.then_some("cancelled")) {
                Some(word) => Some(word.to_owned()),
                None => (*status >= 400).then(|| status.to_string()),
            };
            if let Some(kind) = kind {
                span.text(9, "error.type", &kind);
                failed(span, &kind);
            }
        }
    }
}

fn host_and_port(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':').map(|(host, port)| (host, port.parse())) {
        Some((host, Ok(port))) => (host, Some(port)),
        _ => (authority, None),
    }
}

/// How many spans a collector says it has not taken, by its `ExportTraceServiceResponse`.
pub(super) fn rejected(answer: &[u8]) -> u64 {
    let partial = first(answer, 1, 2).and_then(|(_, bytes)| bytes);
    partial.and_then(|partial| first(partial, 1, 0)).map_or(0, |(value, _)| value)
}

/// The first field of a message with this number and wire type: its number, or its bytes.
fn first(mut message: &[u8], wanted: u64, wanted_wire: u64) -> Option<(u64, Option<&[u8]>)> {
    fn varint(message: &mut &[u8]) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = message.split_first()?;
            *message = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }
    while !message.is_empty() {
        let key = varint(&mut message)?;
        let (value, bytes) = match key & 7 {
            0 => (varint(&mut message)?, None),
            wire @ (1 | 2 | 5) => {
                let len = match wire {
                    1 => 8,
                    5 => 4,
                    _ => usize::try_from(varint(&mut message)?).ok()?,
                };
                let (bytes, rest) = message.split_at_checked(len)?;
                message = rest;
                (0, Some(bytes))
            }
            _ => return None,
        };
        if key >> 3 == wanted && key & 7 == wanted_wire {
            return Some((value, bytes));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_protobuf_wants_them() {
        let mut message = Message::default();
        message.number(1, 150);
        message.put(2, b"testing");
        message.fixed32(16, 1);
        // The first two are the examples of the encoding's own documentation.
        assert_eq!(message.bytes(), b"\x08\x96\x01\x12\x07testing\x85\x01\x01\x00\x00\x00");
    }

    #[test]
    fn what_a_collector_did_not_take_is_read() {
        let mut answer = Message::default();
        answer.inner(1, |partial| {
            partial.number(1, 300);
            partial.put(2, b"too many");
        });
        assert_eq!(rejected(&answer.bytes()), 300);
        for nonsense in [&b""[..], b"\x0a", b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\xff\xff", b"\x0b\x01", b"<html>"] {
            assert_eq!(rejected(nonsense), 0, "{nonsense:?}");
        }
    }
}
