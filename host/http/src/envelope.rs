//! The error envelope: errors in HTTP 200, for clients that look for `isSuccess` in the body and not at the status.

use serde_json::json;
use wharf_core::exchange::{Answer, Exchange};
use wharf_core::head::{Known, ResponseHead};

/// How errors are wrapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The upstream's errors, too; else only the gateway's own.
    pub upstream: bool,
    /// Codes for statuses; for others the status and `01`: 50301 for 503.
    pub codes: Vec<(u16, u32)>,
}

impl Envelope {
    /// Wraps an answer that is an error. `message`: what the gateway has to say, where the error is its own.
    pub(crate) fn wrap(&self, exchange: &Exchange, answer: &mut Answer, message: Option<&str>) {
        let status = answer.head.status;
        // A client of gRPC looks for its own status, and 101 and redirects are no errors.
        if status < 400 || answer.tunnel.is_some() || (message.is_none() && !self.upstream) || is_grpc(exchange) {
            return;
        }
        let code = self.codes.iter().find(|(of, _)| *of == status).map_or(u32::from(status) * 100 + 1, |(_, code)| *code);
        let body = json!({
            "code": code,
            "message": message.unwrap_or_else(|| phrase_of(status)),
            "data": null,
            "timestamp": exchange.facts.id.time >> 16,
            "isSuccess": false,
        });
        // What spoke of the body that is gone goes with it. When to come again and who it is for still hold.
        let mut head = ResponseHead::new(200);
        for (_, name, value) in answer.head.fields.iter().filter(|(known, name, _)| speaks_of_no_body(*known, name)) {
            head.fields.add(name, value);
        }
        head.fields.add(b"content-type", b"application/json");
        *answer = Answer::full(head, body.to_string().into());
    }
}

fn speaks_of_no_body(known: Known, name: &[u8]) -> bool {
    !matches!(known, Known::ContentType | Known::ContentLength | Known::CacheControl)
        && !name.starts_with(b"content-")
        && !matches!(name, b"etag" | b"last-modified" | b"accept-ranges" | b"digest" | b"repr-digest" | b"expires" | b"age")
}

pub(crate) fn is_grpc(exchange: &Exchange) -> bool {
    exchange.facts.request.fields.known(Known::ContentType).is_some_and(|kind| kind.starts_with(b"application/grpc"))
}

/// What a status says by itself (RFC 9110 section 15).
fn phrase_of(status: u16) -> &'static str {
    match status {
        400 => "bad request",
        401 => "unauthorized",
        403 => "forbidden",
        404 => "not found",
        405 => "method not allowed",
        408 => "request timeout",
        409 => "conflict",
        410 => "gone",
        413 => "content too large",
        415 => "unsupported media type",
        422 => "unprocessable content",
        429 => "too many requests",
        501 => "not implemented",
        502 => "bad gateway",
        503 => "service unavailable",
        504 => "gateway timeout",
        _ if status < 500 => "the request was refused",
        _ => "the service failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use std::time::Instant;
    use wharf_core::body::Body;

    fn wrapped(envelope: &Envelope, status: u16, message: Option<&str>) -> (u16, String, bool) {
        let mut exchange = Exchange::blank(Instant::now());
        exchange.facts.id.time = 1_700_000_000_123 << 16;
        let mut head = ResponseHead::new(status);
        head.fields.add(b"content-type", b"text/html");
        head.fields.add(b"etag", b"\"x\"");
        head.fields.add(b"retry-after", b"3");
        let mut answer = Answer::full(head, Bytes::from_static(b"<html>"));
        envelope.wrap(&exchange, &mut answer, message);
        let Body::Full(body) = &answer.body else { panic!("a full body") };
        let keeps = answer.head.fields.get(b"retry-after").is_some() && answer.head.fields.get(b"etag").is_none();
        (answer.head.status, String::from_utf8(body.to_vec()).unwrap(), keeps)
    }

    #[test]
    fn an_error_comes_in_an_envelope_with_its_code() {
        let envelope = Envelope { upstream: true, codes: vec![(500, 50000)] };
        let expected = r#"{"code":50301,"data":null,"isSuccess":false,"message":"too \"many\"","timestamp":1700000000123}"#;
        let (status, body, keeps) = wrapped(&envelope, 503, Some("too \"many\""));
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!((status, value(&body), keeps), (200, value(expected), true));
        assert!(wrapped(&envelope, 500, None).1.contains("\"code\":50000"));
        assert_eq!(wrapped(&envelope, 302, None).0, 302);
        let own = Envelope { upstream: false, ..envelope };
        assert_eq!(wrapped(&own, 404, None), (404, "<html>".into(), false));
        assert_eq!(wrapped(&own, 404, Some("nothing is served here")).0, 200);
    }
}
