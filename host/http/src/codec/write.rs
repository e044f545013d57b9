//! Heads and chunks on their way out. Nothing a peer said about framing or its connection is written: both are ours.
//!
//! A field that came in and was not touched already stands in the received head as `name: value`, lower case and
//! checked; runs of such lines are copied as they stand, everything else is put together anew. The bytes are the same.

use super::body::may_trail;
use super::{Framing, Version};
use bytes::BytesMut;
use std::net::IpAddr;
use std::ops::Range;
use wharf_core::dotted::Dotted;
use wharf_core::head::{Fields, Known, Method, RequestHead, ResponseHead, Scheme};

/// What heads are written into.
pub trait Out {
    /// Appends.
    fn put(&mut self, bytes: &[u8]);
}

impl Out for Vec<u8> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

impl Out for BytesMut {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }
}

/// What an upstream is told about where a request came from.
///
/// `X-Forwarded-*`, `Forwarded` and `X-Real-IP` that still stand in the head are passed on, `X-Forwarded-For` with
/// `peer` appended: the front has removed what its client had no right to say.
#[derive(Clone, Copy, Debug)]
pub struct Forwarded<'a> {
    /// The address at the other end of the connection that the request came on.
    pub peer: IpAddr,
    /// `Host` is this, the upstream's own name or address, and not what the client said.
    pub host: Option<&'a str>,
}

/// Ends the data of a chunk.
pub const CHUNK_TAIL: &[u8] = b"\r\n";

pub(super) const fn bit(known: Known) -> u64 {
    1 << known as u64
}

/// Never copied from a head: about one connection only, or written by us.
pub(super) const NOT_COPIED: u64 = bit(Known::Connection)
    | bit(Known::KeepAlive)
    | bit(Known::ProxyConnection)
    | bit(Known::TransferEncoding)
    | bit(Known::Te)
    | bit(Known::Trailer)
    | bit(Known::Upgrade)
    | bit(Known::HttpTwoSettings)
    | bit(Known::ProxyAuthenticate)
    | bit(Known::ProxyAuthorization)
    | bit(Known::ContentLength);
const NOT_COPIED_IN_REQUESTS: u64 = NOT_COPIED | bit(Known::Host) | bit(Known::Expect) | bit(Known::XForwardedFor);

/// Writes the head of a request to an upstream, as HTTP/1.1. `framing` is that of the body that will follow.
// Always: one of its callers is on every road.
#[inline(always)]
pub fn request_head(out: &mut impl Out, head: &RequestHead, framing: &Framing, upgrade: Option<&str>, forwarded: &Forwarded<'_>) {
    match &head.method {
        Method::Get => out.put(b"GET "),
        Method::Post => out.put(b"POST "),
        other => {
            out.put(other.as_str().as_bytes());
            out.put(b" ");
        }
    }
    out.put(head.path_bytes());
    if let Some(query) = head.query_bytes() {
        out.put(b"?");
        out.put(query);
    }
    out.put(b" HTTP/1.1\r\nhost: ");
    let authority = head.authority_bytes();
    out.put(forwarded.host.map_or(authority, str::as_bytes));
    out.put(b"\r\n");
    let seen = copy(out, &head.fields, NOT_COPIED_IN_REQUESTS);
    out.put(b"x-forwarded-for: ");
    if seen & bit(Known::XForwardedFor) != 0 {
        for before in head.fields.known_all(Known::XForwardedFor).filter(|before| !before.is_empty()) {
            out.put(before);
            out.put(b", ");
        }
    }
    address(out, forwarded.peer);
    if seen & bit(Known::XForwardedProto) == 0 {
        out.put(match head.scheme {
            Scheme::Http => b"\r\nx-forwarded-proto: http",
            Scheme::Https => b"\r\nx-forwarded-proto: https",
        });
    }
    if seen & bit(Known::XForwardedHost) == 0 && !authority.is_empty() {
        out.put(b"\r\nx-forwarded-host: ");
        out.put(authority);
    }
    match framing {
        Framing::Length(length) => {
            out.put(b"\r\ncontent-length: ");
            out.put(itoa::Buffer::new().format(*length).as_bytes());
        }
        Framing::Chunked => out.put(b"\r\ntransfer-encoding: chunked"),
        Framing::None => {}
        Framing::UntilClose => debug_assert!(false, "a request does not end with its connection"),
    }
    if let Some(protocol) = upgrade {
        out.put(b"\r\nconnection: upgrade\r\nupgrade: ");
        out.put(protocol.as_bytes());
    }
    out.put(b"\r\n\r\n");
}

/// Writes the head of an answer. `framing` is that of the body that will follow, or, for HEAD and 304, of the one that
/// would; `version` is the client's. `date` is added where the answer has none.
// Always: one of its callers is on every road.
#[inline(always)]
pub fn response_head(
    out: &mut impl Out,
    head: &ResponseHead,
    framing: &Framing,
    version: Version,
    keep_alive: bool,
    date: &[u8; 29],
    upgrade: Option<&str>,
) {
    debug_assert!(version == Version::Http11 || *framing != Framing::Chunked, "an HTTP/1.0 client knows no chunks");
    match status_line(head.status) {
        Some(line) => out.put(line),
        None => {
            out.put(b"HTTP/1.1 ");
            out.put(itoa::Buffer::new().format(head.status).as_bytes());
            out.put(b" \r\n");
        }
    }
    let seen = copy(out, &head.fields, NOT_COPIED);
    if seen & bit(Known::Date) == 0 {
        out.put(b"date: ");
        out.put(date);
        out.put(b"\r\n");
    }
    match framing {
        Framing::Length(length) => {
            out.put(b"content-length: ");
            out.put(itoa::Buffer::new().format(*length).as_bytes());
            out.put(b"\r\n");
        }
        Framing::Chunked => out.put(b"transfer-encoding: chunked\r\n"),
        Framing::None | Framing::UntilClose => {}
    }
    if let Some(protocol) = upgrade {
        out.put(b"connection: upgrade\r\nupgrade: ");
        out.put(protocol.as_bytes());
        out.put(b"\r\n\r\n");
    } else if !keep_alive || *framing == Framing::UntilClose {
        out.put(b"connection: close\r\n\r\n");
    } else if version == Version::Http10 {
        out.put(b"connection: keep-alive\r\n\r\n");
    } else {
        out.put(b"\r\n");
    }
}

/// Writes what stands before the data of a chunk. `len` is not 0: that would be the last chunk.
pub fn chunk_head(out: &mut impl Out, len: usize) {
    debug_assert!(len != 0, "an empty chunk ends the body");
    let mut line = Short::<18>::default();
    let digits = (usize::BITS - len.leading_zeros()).div_ceil(4).max(1);
    for at in (0..digits).rev() {
        let digit = (len >> (4 * at) & 15) as u8;
        line.push(if digit < 10 { b'0' + digit } else { b'a' + digit - 10 });
    }
    line.push(b'\r');
    line.push(b'\n');
    out.put(line.as_bytes());
}

/// Writes the end of a chunked body.
pub fn last_chunk(out: &mut impl Out, trailers: Option<&Fields>) {
    out.put(b"0\r\n");
    for (known, name, value) in trailers.into_iter().flat_map(Fields::iter) {
        if may_trail(known, name) {
            out.put(name);
            out.put(b": ");
            out.put(value);
            out.put(b"\r\n");
        }
    }
    out.put(b"\r\n");
}

/// Copies all fields but the kinds in `except`; returns which kinds were there.
fn copy<O: Out>(out: &mut O, fields: &Fields, except: u64) -> u64 {
    let (text, list) = fields.parts();
    let mut seen = 0;
    // Lines found ready and not yet written.
    let mut run = 0..0;
    let put_lines = |out: &mut O, lines: Range<usize>| {
        if !lines.is_empty() {
            out.put(text.get(lines).unwrap_or_default());
        }
    };
    for field in list {
        let kind = 1 << field.known() as u64;
        seen |= kind;
        if kind & except != 0 {
            continue;
        }
        if let Some(line) = field.line() {
            if run.end != line.start {
                put_lines(out, run.clone());
                run.start = line.start;
            }
            run.end = line.end;
            continue;
        }
        put_lines(out, std::mem::take(&mut run));
        out.put(fields.bytes(field.name()));
        out.put(b": ");
        out.put(fields.bytes(field.value()));
        out.put(b"\r\n");
    }
    put_lines(out, run);
    seen
}

/// An address as text.
fn address(out: &mut impl Out, address: IpAddr) {
    match address.to_canonical() {
        IpAddr::V4(v4) => out.put(Dotted::of(v4).as_bytes()),
        IpAddr::V6(v6) => out.put(v6.to_string().as_bytes()),
    }
}

/// A few bytes on the stack.
struct Short<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Default for Short<N> {
    fn default() -> Short<N> {
        Short { bytes: [0; N], len: 0 }
    }
}

impl<const N: usize> Short<N> {
    fn push(&mut self, byte: u8) {
        debug_assert!(self.len < N, "the caller knows how much fits");
        if let Some(slot) = self.bytes.get_mut(self.len) {
            *slot = byte;
            self.len += 1;
        }
    }

    fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

macro_rules! status_lines {
    ($($code:literal $text:literal),* $(,)?) => {
        fn status_line(status: u16) -> Option<&'static [u8]> {
            Some(match status {
                $($code => concat!("HTTP/1.1 ", $code, " ", $text, "\r\n").as_bytes(),)*
                _ => return None,
            })
        }
    };
}

status_lines! {
    101 "Switching Protocols",
    200 "OK", 201 "Created", 202 "Accepted", 203 "Non-Authoritative Information", 204 "No Content", 205 "Reset Content",
    206 "Partial Content", 207 "Multi-Status", 208 "Already Reported", 226 "IM Used",
    300 "Multiple Choices", 301 "Moved Permanently", 302 "Found", 303 "See Other", 304 "Not Modified",
    307 "Temporary Redirect", 308 "Permanent Redirect",
    400 "Bad Request", 401 "Unauthorized", 402 "Payment Required", 403 "Forbidden", 404 "Not Found",
    405 "Method Not Allowed", 406 "Not Acceptable", 407 "Proxy Authentication Required", 408 "Request Timeout",
    409 "Conflict", 410 "Gone", 411 "Length Required", 412 "Precondition Failed", 413 "Content Too Large",
    414 "URI Too Long", 415 "Unsupported Media Type", 416 "Range Not Satisfiable", 417 "Expectation Failed",
    421 "Misdirected Request", 422 "Unprocessable Content", 423 "Locked", 424 "Failed Dependency", 425 "Too Early",
    426 "Upgrade Required", 428 "Precondition Required", 429 "Too Many Requests", 431 "Request Header Fields Too Large",
    451 "Unavailable For Legal Reasons",
    500 "Internal Server Error", 501 "Not Implemented", 502 "Bad Gateway", 503 "Service Unavailable",
    504 "Gateway Timeout", 505 "HTTP Version Not Supported", 507 "Insufficient Storage", 508 "Loop Detected",
    511 "Network Authentication Required",
}
