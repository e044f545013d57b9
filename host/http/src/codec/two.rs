//! HTTP/2's heads as the house's own and back (RFC 9113 section 8), held to what HTTP/1.1's are held to: behind this file
//! nobody knows by which version a request came. Pure.
//!
//! - [`front`]: a client's requests and our answers, straight from HPACK and into it
//! - here: our requests to upstreams and their answers, in the types of the library that speaks with them (`h2`). It sees to frames,
//!   HPACK and pseudo-fields; what it leaves to its user is decided here: lengths and white space

pub mod front;

use super::body::may_trail;
use super::fields::number;
use super::write::{NOT_COPIED, bit};
use super::{HeadLimits, RefusalKind};
use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderMap, HeaderName, HeaderValue, SERVER, SET_COOKIE, USER_AGENT,
};
use std::net::IpAddr;
use wharf_core::dotted::Dotted;
use wharf_core::head::{Fields, Known, RequestHead, ResponseHead, Scheme};

/// What an upstream is told about where a request came from; see `write::Forwarded`.
#[derive(Clone, Copy, Debug)]
pub struct Forwarded<'a> {
    /// The address at the other end of the connection that the request came on.
    pub peer: IpAddr,
    /// The authority is this, the upstream's own name or address, and not what the client said.
    pub host: Option<&'a str>,
    /// How the upstream is reached.
    pub scheme: Scheme,
}

/// Makes the head of a request to an upstream. `length` is that of the body that follows. An `extended` CONNECT says
/// its protocol beside its head (RFC 8441 section 4).
///
/// # Errors
/// A head that HTTP/2 cannot say: a query or host with a byte that URIs do not have.
pub fn request_to(
    head: &RequestHead,
    length: Option<u64>,
    extended: bool,
    forwarded: &Forwarded<'_>,
) -> Result<http::Request<()>, http::Error> {
    let mut request = http::Request::new(());
    *request.method_mut() = match extended {
        true => http::Method::CONNECT,
        false => http::Method::from_bytes(head.method.as_str().as_bytes())?,
    };
    let mut target = Vec::with_capacity(head.path_bytes().len() + 1 + head.query_bytes().map_or(0, <[u8]>::len));
    target.extend_from_slice(head.path_bytes());
    if let Some(query) = head.query_bytes() {
        target.push(b'?');
        target.extend_from_slice(query);
    }
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(if forwarded.scheme == Scheme::Https { http::uri::Scheme::HTTPS } else { http::uri::Scheme::HTTP });
    let host = forwarded.host.map_or(head.authority_bytes(), str::as_bytes);
    parts.authority = Some(http::uri::Authority::from_maybe_shared(Bytes::copy_from_slice(host))?);
    parts.path_and_query = Some(http::uri::PathAndQuery::from_maybe_shared(Bytes::from(target))?);
    *request.uri_mut() = http::Uri::from_parts(parts)?;
    let map = request.headers_mut();
    map.reserve(head.fields.len() + 5);
    let fields = &head.fields;
    let seen = copy(fields, NOT_COPIED | bit(Known::Host) | bit(Known::Expect) | bit(Known::XForwardedFor), map)?;
    // What we, its client, can take.
    map.append("te", HeaderValue::from_static("trailers"));
    let mut from = Vec::new();
    for before in fields.known_all(Known::XForwardedFor).filter(|before| !before.is_empty()) {
        from.extend_from_slice(before);
        from.extend_from_slice(b", ");
    }
    match forwarded.peer.to_canonical() {
        IpAddr::V4(v4) => from.extend_from_slice(Dotted::of(v4).as_bytes()),
        IpAddr::V6(v6) => from.extend_from_slice(v6.to_string().as_bytes()),
    }
    map.append("x-forwarded-for", HeaderValue::from_maybe_shared(Bytes::from(from))?);
    if seen & bit(Known::XForwardedProto) == 0 {
        map.append("x-forwarded-proto", HeaderValue::from_static(head.scheme.as_str()));
    }
    if seen & bit(Known::XForwardedHost) == 0 && !head.authority_bytes().is_empty() {
        map.append("x-forwarded-host", HeaderValue::from_bytes(head.authority_bytes())?);
    }
    if let Some(length) = length {
        map.append(CONTENT_LENGTH, length.into());
    }
    Ok(request)
}

/// Reads an upstream's answer into `head`, in the memory that it had; returns the length it announces.
///
/// # Errors
/// What is no valid answer.
pub fn answer(parts: &http::response::Parts, limits: &HeadLimits, head: &mut ResponseHead) -> Result<Option<u64>, RefusalKind> {
    head.clear();
    head.status = parts.status.as_u16();
    if !(200..=599).contains(&head.status) {
        return Err(RefusalKind::Status(head.status));
    }
    if parts.headers.len() > limits.fields() {
        return Err(RefusalKind::FieldCount { max: limits.fields() });
    }
    let mut length = None;
    for (name, value) in &parts.headers {
        let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
        if matches!(value, [b' ' | b'\t', ..] | [.., b' ' | b'\t']) {
            return Err(RefusalKind::FieldValue);
        }
        let known = Known::of(name);
        match known {
            Known::ContentLength => {
                let said = number(value).ok_or(RefusalKind::Length)?;
                if length.replace(said).is_some() {
                    return Err(RefusalKind::LengthTwice);
                }
            }
            Known::TransferEncoding => return Err(RefusalKind::Coding),
            other if other.is_hop_by_hop() => continue,
            _ => {}
        }
        head.fields.receive_line(known, name, value);
    }
    if head.fields.text_len() > limits.bytes_max {
        return Err(RefusalKind::HeadBytes { max: limits.bytes_max });
    }
    Ok(length)
}

/// Trailers as they came, held to what HTTP/1.1's are held to.
///
/// # Errors
/// Too many or too large, or a field that may only stand in a head.
pub fn trailers(map: &HeaderMap, limits: &HeadLimits) -> Result<Option<Fields>, RefusalKind> {
    if map.is_empty() {
        return Ok(None);
    }
    if map.len() > limits.fields() {
        return Err(RefusalKind::TrailerCount { max: limits.fields() });
    }
    let mut fields = Fields::default();
    for (name, value) in map {
        let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
        let known = Known::of(name);
        if Known::is_alias(name) || matches!(value, [b' ' | b'\t', ..] | [.., b' ' | b'\t']) {
            continue;
        }
        if !may_trail(known, name) {
            return Err(RefusalKind::TrailerField);
        }
        fields.receive_line(known, name, value);
    }
    match fields.text_len() > limits.bytes_max {
        true => Err(RefusalKind::TrailerBytes { max: limits.bytes_max }),
        false => Ok(Some(fields)),
    }
}

/// Trailers on their way out; those that may not trail are left out.
///
/// # Errors
/// A field that HTTP/2 cannot say.
pub fn trailers_to(fields: &Fields) -> Result<HeaderMap, http::Error> {
    let mut map = HeaderMap::with_capacity(fields.len());
    for (known, name, value) in fields.iter() {
        if may_trail(known, name) {
            map.append(HeaderName::from_bytes(name)?, HeaderValue::from_bytes(value)?);
        }
    }
    Ok(map)
}

/// Copies all fields but the kinds in `except`; returns which kinds were there. The values share one piece of memory.
fn copy(fields: &Fields, except: u64, map: &mut HeaderMap) -> Result<u64, http::Error> {
    let (text, list) = fields.parts();
    let shared = Bytes::copy_from_slice(text);
    let mut seen = 0;
    for field in list {
        let kind = bit(field.known());
        seen |= kind;
        if kind & except != 0 {
            continue;
        }
        let name = match field.known() {
            Known::ContentType => CONTENT_TYPE,
            Known::Server => SERVER,
            Known::Date => DATE,
            Known::CacheControl => CACHE_CONTROL,
            Known::SetCookie => SET_COOKIE,
            Known::UserAgent => USER_AGENT,
            Known::Authorization => AUTHORIZATION,
            _ => HeaderName::from_bytes(fields.bytes(field.name()))?,
        };
        let value = match field.value().range() {
            Some(range) if range.end <= shared.len() => HeaderValue::from_maybe_shared(shared.slice(range))?,
            _ => HeaderValue::from_bytes(fields.bytes(field.value()))?,
        };
        map.append(name, value);
    }
    Ok(seen)
}
