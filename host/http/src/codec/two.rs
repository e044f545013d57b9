//! HTTP/2's heads as the house's own and back (RFC 9113 section 8), held to what HTTP/1.1's are held to: behind this file
//! nobody knows by which version a request came.
//!
//! Frames, HPACK, the order of pseudo-fields, and that no field speaks about the connection, are the library's business
//! (`h2`). What it leaves to its user is decided here: hosts, paths, lengths, cookies, white space. Pure.

use super::body::may_trail;
use super::fields::number;
use super::request::{authority, protocol};
use super::write::{NOT_COPIED, bit};
use super::{HeadLimits, RefusalKind};
use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, DATE, HeaderMap, HeaderName, HeaderValue, SERVER, SET_COOKIE,
    USER_AGENT,
};
use std::net::IpAddr;
use wharf_core::dotted::Dotted;
use wharf_core::head::{Fields, Known, Method, RequestHead, ResponseHead, Scheme};
use wharf_core::path;

/// Longest authority: a name of 253 letters and a port, with room to spare.
const AUTHORITY_MAX: usize = 272;

/// What a request says beside its head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Bytes of the body, as `content-length` says; the library holds the body to it.
    pub length: Option<u64>,
    /// The client waits for a 100 before it sends the body.
    pub expects_continue: bool,
    /// The protocol of an extended CONNECT (RFC 8441), which has become a GET with an upgrade.
    pub upgrade: Option<Box<str>>,
}

/// Reads a request's head. `protocol` is the pseudo-field of that name. `head` becomes what was read, in the memory that
/// it had.
///
/// # Errors
/// What is no valid request. `head` is of no further use then; the stream is answered, the connection goes on.
pub fn request(
    parts: &http::request::Parts,
    protocol_asked: Option<&str>,
    limits: &HeadLimits,
    scheme: Scheme,
    head: &mut RequestHead,
) -> Result<Received, RefusalKind> {
    head.clear();
    let mut received = Received::default();
    let mut method = Method::from_token(parts.method.as_str());
    if method == Method::Connect {
        // As HTTP/1.1 asks for it, so that rules and routes know one WebSocket only.
        received.upgrade = match protocol_asked {
            Some(asked) if asked.eq_ignore_ascii_case("websocket") => protocol(&Method::Get, b"websocket"),
            _ => return Err(RefusalKind::Connect),
        };
        method = Method::Get;
    }
    size(parts, limits)?;
    let named = fields(&parts.headers, &mut head.fields, &mut received)?;

    // Exactly one host; where both are said, they must be the same (RFC 9113 section 8.3.1).
    let mut room = [0; AUTHORITY_MAX];
    let host = match (parts.uri.authority(), named) {
        (Some(asked), None) => plain(asked.as_str().as_bytes(), &mut room)?,
        (None, Some(named)) => plain(named, &mut room)?,
        (Some(asked), Some(named)) => {
            let mut other = [0; AUTHORITY_MAX];
            let (asked, named) = (plain(asked.as_str().as_bytes(), &mut room)?, plain(named, &mut other)?);
            if asked != named {
                return Err(RefusalKind::HostTwice);
            }
            asked
        }
        (None, None) => return Err(RefusalKind::HostMissing),
    };
    let fields = &mut head.fields;
    fields.receive_line(Known::Host, b"host", host);
    let authority = fields.keep(host);
    let asked = parts.uri.path().as_bytes();
    let path = match asked {
        b"*" if method == Method::Options => fields.keep(asked),
        // `http` reads an absolute form without a path, and nothing, as `/`.
        _ => match path::canonical(asked).map_err(RefusalKind::Path)? {
            None => fields.keep(asked),
            Some(canonical) => fields.keep(&canonical),
        },
    };
    let query = match parts.uri.query().map(str::as_bytes) {
        Some(query) if query.iter().any(|&byte| !matches!(byte, 0x21..=0x7e) || byte == b'#') => return Err(RefusalKind::Query),
        Some(query) => Some(fields.keep(query)),
        None => None,
    };
    head.receive(method, scheme, authority, path, query);
    Ok(received)
}

/// No more than HTTP/1.1 would take.
fn size(parts: &http::request::Parts, limits: &HeadLimits) -> Result<(), RefusalKind> {
    if parts.headers.len() > limits.fields() {
        return Err(RefusalKind::FieldCount { max: limits.fields() });
    }
    let fields: usize = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    let target = parts.uri.path_and_query().map_or(0, |target| target.as_str().len());
    match target > limits.bytes_max {
        true => Err(RefusalKind::TargetBytes { max: limits.bytes_max }),
        false if fields + target > limits.bytes_max => Err(RefusalKind::HeadBytes { max: limits.bytes_max }),
        false => Ok(()),
    }
}

/// Takes the fields over, but those about one connection and other spellings of what the host guards; returns `host`.
fn fields<'m>(map: &'m HeaderMap, into: &mut Fields, received: &mut Received) -> Result<Option<&'m [u8]>, RefusalKind> {
    let mut host = None;
    let mut cookies = false;
    for (name, value) in map {
        let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
        // RFC 9113 section 8.2.1. HTTP/1.1 could not say such a value: its reader takes the space off.
        if matches!(value, [b' ' | b'\t', ..] | [.., b' ' | b'\t']) {
            return Err(RefusalKind::FieldValue);
        }
        let known = Known::of(name);
        match known {
            Known::Host => {
                if host.replace(value).is_some() {
                    return Err(RefusalKind::HostTwice);
                }
                continue;
            }
            Known::ContentLength => say_length(&mut received.length, value)?,
            Known::TransferEncoding => return Err(RefusalKind::Coding),
            Known::Connection | Known::KeepAlive | Known::ProxyConnection | Known::Upgrade => return Err(RefusalKind::Connection),
            Known::Expect => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(RefusalKind::Expectation);
                }
                received.expects_continue = true;
                continue;
            }
            // Its crumbs become one again (RFC 9113 section 8.2.3).
            Known::Cookie => {
                if !std::mem::replace(&mut cookies, true) {
                    let mut all = map.get_all(COOKIE).iter();
                    let first = all.next().map_or(value, HeaderValue::as_bytes);
                    match all.next() {
                        None => into.receive_line(known, name, first),
                        Some(second) => {
                            let crumbs: Vec<&[u8]> = [first, second.as_bytes()].into_iter().chain(all.map(HeaderValue::as_bytes)).collect();
                            into.receive_line(known, name, &crumbs.join(&b"; "[..]));
                        }
                    }
                }
                continue;
            }
            other if other.is_hop_by_hop() => continue,
            _ if Known::is_alias(name) => continue,
            _ => {}
        }
        into.receive_line(known, name, value);
    }
    Ok(host)
}

/// Takes the length down, which is said once.
fn say_length(length: &mut Option<u64>, value: &[u8]) -> Result<(), RefusalKind> {
    match length.replace(number(value).ok_or(RefusalKind::Length)?) {
        None => Ok(()),
        Some(_) => Err(RefusalKind::LengthTwice),
    }
}

/// A host in its one form.
fn plain<'r>(host: &[u8], room: &'r mut [u8; AUTHORITY_MAX]) -> Result<&'r [u8], RefusalKind> {
    room.get_mut(..host.len()).ok_or(RefusalKind::Host)?.copy_from_slice(host);
    // With the room behind it, which lets it be read in blocks.
    let named = authority(room, 0..host.len())?;
    if let Some(rewritten) = named.rewritten {
        let len = rewritten.len();
        room.get_mut(..len).ok_or(RefusalKind::Host)?.copy_from_slice(&rewritten);
        return Ok(room.get(..len).unwrap_or_default());
    }
    Ok(room.get(..host.len()).unwrap_or_default())
}

/// Makes the head of an answer for a client. `length` is that of the body that follows (or, for HEAD and 304, would);
/// `None`: it is not known. `date` is added where the answer has none.
///
/// # Errors
/// A field that HTTP/2 cannot say; our own codec lets none in.
pub fn response(head: &ResponseHead, length: Option<u64>, date: &[u8; 29]) -> Result<http::Response<()>, http::Error> {
    let mut response = http::Response::new(());
    *response.status_mut() = http::StatusCode::from_u16(head.status)?;
    let map = response.headers_mut();
    map.reserve(head.fields.len() + 2);
    let seen = copy(&head.fields, NOT_COPIED, map)?;
    if seen & bit(Known::Date) == 0 {
        map.append(DATE, HeaderValue::from_bytes(date)?);
    }
    if let Some(length) = length {
        map.append(CONTENT_LENGTH, length.into());
    }
    Ok(response)
}

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
            Known::ContentLength => say_length(&mut length, value)?,
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
