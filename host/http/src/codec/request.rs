//! A client's head: request line, host, and what the fields say about the body and the connection.
//!
//! Deliberately not here: whom to believe about `X-Forwarded-*` (the front knows its client), and routes.

use super::fields::{Survey, field_refusal, is_token, span, spans};
use super::lanes::{self, LANES};
use super::{Framing, HeadLimits, Refusal, RefusalKind, Version, split};
use bytes::BytesMut;
use std::mem::MaybeUninit;
use std::net::Ipv6Addr;
use std::ops::Range;
use wharf_core::head::{Field, Method, RequestHead, Scheme, Span};
use wharf_core::path;

/// What a request says beside its head.
#[derive(Clone, Debug)]
pub struct Received {
    /// Where the body ends; never [`Framing::UntilClose`].
    pub framing: Framing,
    /// Version of the client's protocol.
    pub version: Version,
    /// The client would send another request on this connection.
    pub keep_alive: bool,
    /// The client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// The protocol that the client would switch to (RFC 9110 section 7.8). Requests with a body do not switch.
    pub upgrade: Option<Box<str>>,
}

/// Reads a head from the front of `buf` and takes it off; what follows stays. `None`: more bytes are needed; `buf`
/// holds what it held, but for names of fields that may have become lower case.
///
/// `head` becomes what was read, in the memory that it had: method, host, canonical path, query and fields. The path of
/// `OPTIONS *` is `*`, which no canonical path is. Fields about one connection only, and those that `Connection` names,
/// are gone.
///
/// # Errors
/// What is no valid request. `buf` and `head` are of no further use then; answer and close.
pub fn parse(buf: &mut BytesMut, limits: &HeadLimits, scheme: Scheme, head: &mut RequestHead) -> Result<Option<Received>, Refusal> {
    // One empty line before a request is left over from clients that end a body with it (RFC 9112 section 2.2).
    let from = match buf.as_ref() {
        [] | [b'\r'] | [b'\r', b'\n'] => return Ok(None),
        [b'\r', b'\n', b'\r' | b'\n', ..] => return Err(RefusalKind::LineEnd.into()),
        [b'\r', b'\n', ..] => 2,
        [b'\r' | b'\n', ..] => return Err(RefusalKind::LineEnd.into()),
        _ => 0,
    };
    let (mut list, mut survey) = (head.fields.take_list(), Survey::default());
    let Split { method, target, version, end } = match ordinary(buf, from, limits, &mut list, &mut survey) {
        Some(split) => split,
        None => match thorough(buf, from, limits, &mut list, &mut survey)? {
            Some(split) => split,
            None => return Ok(None),
        },
    };
    let target = Target::of(&method, buf.get(target.clone()).unwrap_or_default(), target.start)?;
    let framing = survey.framing(version)?.unwrap_or(Framing::None);
    let has_body = !matches!(framing, Framing::None | Framing::Length(0));

    // Exactly one valid host, even where the target overrules it.
    let host = match survey.host {
        Some(host) => Some(authority(buf, host.range().unwrap_or_default())?),
        None if version == Version::Http11 => return Err(RefusalKind::HostMissing.into()),
        None => None,
    };
    let overruled = target.authority.is_some();
    let named = match target.authority {
        Some(at) => Some(authority(buf, at)?),
        None => host,
    };
    let upgrade = match survey.upgrade {
        Some(at) if survey.switches && version == Version::Http11 && framing == Framing::None => protocol(&method, span(buf, at)),
        _ => None,
    };

    let new_path = match &target.path {
        Path::Given(at) => path::canonical(buf.get(at.clone()).unwrap_or_default()).map_err(RefusalKind::Path)?,
        Path::Root => Some(b"/".to_vec()),
        Path::Star => Some(b"*".to_vec()),
    };
    let fields = &mut head.fields;
    fields.receive(buf.get(..end).unwrap_or_default(), list);
    super::used(buf, end);
    let path = match (new_path, target.path) {
        (None, Path::Given(at)) => received(at),
        (new, _) => fields.keep(new.as_deref().unwrap_or(b"/")),
    };
    let authority = match named {
        None => Span::default(),
        Some(Authority { at, rewritten: None }) if !overruled => received(at),
        // Everybody behind this line sees one host only: the one that counts.
        Some(Authority { at, rewritten }) => {
            let name = rewritten.unwrap_or_else(|| fields.bytes(received(at)).to_vec());
            fields.set(b"host", &name);
            fields.keep(&name)
        }
    };
    head.receive(method, scheme, authority, path, target.query.map(received));
    Ok(Some(Received {
        framing,
        version,
        keep_alive: survey.persists(version),
        expects_continue: survey.expects_continue && version == Version::Http11 && has_body,
        upgrade,
    }))
}

/// A head in its parts. Its fields, stripped of what is not passed on, and what all of them say are made where they stay.
struct Split {
    method: Method,
    target: Range<usize>,
    version: Version,
    end: usize,
}

/// The short way; `None`: take the other one.
fn ordinary(buf: &mut BytesMut, from: usize, limits: &HeadLimits, list: &mut Vec<Field>, survey: &mut Survey) -> Option<Split> {
    let room = buf.len().min(from + limits.bytes_max);
    let text = buf.get_mut(..room)?;
    let (method_len, target, version, line) = split::request_line(text.get(from..)?)?;
    let method = match text.get(from..from + method_len)? {
        b"GET" => Method::Get,
        b"POST" => Method::Post,
        other => Method::from_token(std::str::from_utf8(other).ok()?),
    };
    let end = split::field_lines(text, from + line, limits.fields(), list, survey)?;
    Some(Split { method, target: from + target.start..from + target.end, version, end })
}

/// By httparse. `None`: more bytes are needed.
#[cold]
fn thorough(
    buf: &mut BytesMut,
    from: usize,
    limits: &HeadLimits,
    list: &mut Vec<Field>,
    survey: &mut Survey,
) -> Result<Option<Split>, RefusalKind> {
    let view = buf.get(from..buf.len().min(from + limits.bytes_max)).unwrap_or_default();
    let mut slots = [const { MaybeUninit::uninit() }; HeadLimits::FIELDS_CEILING];
    let mut split = httparse::Request::new(&mut []);
    let end = match split.parse_with_uninit_headers(view, slots.get_mut(..limits.fields()).unwrap_or_default()) {
        Ok(httparse::Status::Complete(len)) => from + len,
        Ok(httparse::Status::Partial) if view.len() < limits.bytes_max => return Ok(None),
        Ok(httparse::Status::Partial) => return Err(too_large(view, limits.bytes_max)),
        Err(error) => return Err(refusal_of(error, view, limits.fields())),
    };
    *list = spans(buf, from, end, split.headers)?;
    let version = if split.version == Some(1) { Version::Http11 } else { Version::Http10 };
    let method = Method::from_token(split.method.unwrap_or_default());
    let target = split.path.unwrap_or_default();
    let at = (target.as_ptr() as usize).wrapping_sub(buf.as_ptr() as usize);
    let target = at..at + target.len();
    // What the target says counts before what the fields say: the short way asks in the same order.
    Target::of(&method, buf.get(target.clone()).unwrap_or_default(), at)?;
    *survey = Survey::of(buf.get_mut(..end).unwrap_or_default(), list)?;
    Ok(Some(Split { method, target, version, end }))
}

fn received(at: Range<usize>) -> Span {
    Span::received(at.start, at.len())
}

/// A head that fills its room: is it the target that is too long, or the fields?
fn too_large(view: &[u8], max: usize) -> RefusalKind {
    if view.contains(&b'\n') { RefusalKind::HeadBytes { max } } else { RefusalKind::TargetBytes { max } }
}

fn refusal_of(error: httparse::Error, view: &[u8], fields_max: usize) -> RefusalKind {
    match error {
        httparse::Error::Token | httparse::Error::Status => RefusalKind::RequestLine,
        httparse::Error::Version => {
            // Behind the second space; neither method nor target can hold one.
            let version = view.splitn(3, |&byte| byte == b' ').nth(2).unwrap_or_default();
            let well_formed = version.strip_prefix(b"HTTP/").and_then(<[u8]>::first).is_some_and(u8::is_ascii_digit);
            if well_formed { RefusalKind::Version } else { RefusalKind::RequestLine }
        }
        other => field_refusal(other, fields_max),
    }
}

struct Target {
    authority: Option<Range<usize>>,
    path: Path,
    query: Option<Range<usize>>,
}

enum Path {
    Given(Range<usize>),
    Root,
    Star,
}

impl Target {
    /// The four forms of RFC 9112 section 3.2; that of CONNECT is not served.
    fn of(method: &Method, target: &[u8], at: usize) -> Result<Target, RefusalKind> {
        match target {
            _ if *method == Method::Connect => Err(RefusalKind::Connect),
            [b'/', ..] => Target::path(target, at, None, Path::Root),
            b"*" if *method == Method::Options => Ok(Target { authority: None, path: Path::Star, query: None }),
            _ => {
                let scheme = [&b"http://"[..], b"https://"]
                    .into_iter()
                    .find(|scheme| target.get(..scheme.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(scheme)))
                    .ok_or(RefusalKind::Target)?;
                let rest = target.get(scheme.len()..).unwrap_or_default();
                let len = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#')).unwrap_or(rest.len());
                let at = at + scheme.len();
                let (rest, authority) = (rest.get(len..).unwrap_or_default(), at..at + len);
                // An OPTIONS request about a whole server, through a proxy (RFC 9112 section 3.2.4).
                let empty = if *method == Method::Options && rest.is_empty() { Path::Star } else { Path::Root };
                Target::path(rest, at + len, Some(authority), empty)
            }
        }
    }

    fn path(rest: &[u8], at: usize, authority: Option<Range<usize>>, empty: Path) -> Result<Target, RefusalKind> {
        let end = at + rest.len();
        let (path_len, query) = match rest.iter().position(|&byte| byte == b'?') {
            None => (rest.len(), None),
            Some(mark) => {
                // No early end: this way the compiler makes one vector comparison out of it.
                let bad = rest.iter().skip(mark + 1).fold(false, |bad, &byte| bad | !matches!(byte, 0x21..=0x7e) | (byte == b'#'));
                if bad {
                    return Err(RefusalKind::Query);
                }
                (mark, Some(at + mark + 1..end))
            }
        };
        let path = if path_len == 0 { empty } else { Path::Given(at..at + path_len) };
        Ok(Target { authority, path, query })
    }
}

pub(super) struct Authority {
    at: Range<usize>,
    /// Where the plain form is not just lower case.
    pub(super) rewritten: Option<Vec<u8>>,
}

/// Host and optional port (RFC 3986 section 3.2), brought into one form: lower case, in place; without the dot of the
/// root and without a colon that no port follows. Names are what DNS and hosts files can hold, and `_`; no user
/// information, no percent-encoding.
pub(super) fn authority(text: &mut [u8], at: Range<usize>) -> Result<Authority, RefusalKind> {
    let mut host_len = 0;
    // No empty label: a dot follows something that is none.
    let mut before = b'.';
    // What stands behind a host, a line end for one, is no part of a name: the block may reach beyond it.
    if let Some(block) = text.get_mut(at.start..).and_then(<[u8]>::first_chunk_mut::<LANES>) {
        let name = lanes::lower_host(block);
        if name.empty_label {
            return Err(RefusalKind::Host);
        }
        if name.len > 0 && !name.rooted {
            before = b'a';
        }
        host_len = name.len.min(at.len());
    }
    let bytes = text.get_mut(at.clone()).unwrap_or_default();
    if let [b'[', rest @ ..] = bytes {
        let len = rest.iter().position(|&byte| byte == b']').ok_or(RefusalKind::Host)?;
        let inner = rest.get_mut(..len).unwrap_or_default();
        inner.make_ascii_lowercase();
        let inner = std::str::from_utf8(inner).map_err(|_| RefusalKind::Host)?;
        inner.parse::<Ipv6Addr>().map_err(|_| RefusalKind::Host)?;
        host_len = len + 2;
    } else {
        for byte in bytes.get_mut(host_len..).unwrap_or_default() {
            let lower = name_byte(*byte);
            if lower == 0 {
                break;
            }
            if lower == b'.' && before == b'.' {
                return Err(RefusalKind::Host);
            }
            *byte = lower;
            before = lower;
            host_len += 1;
        }
        if host_len == 0 {
            return Err(RefusalKind::Host);
        }
    }
    let (host, port) = bytes.split_at_checked(host_len).ok_or(RefusalKind::Host)?;
    let rooted = host.ends_with(b".");
    match port {
        [] if !rooted => return Ok(Authority { at, rewritten: None }),
        [] | [b':'] => {}
        [b':', digits @ ..] => {
            let mut number: u32 = 0;
            for &digit in digits {
                let digit = digit.wrapping_sub(b'0');
                // Five digits fit with room to spare: no sum here overflows.
                if digit > 9 || digits.len() > 5 {
                    return Err(RefusalKind::Host);
                }
                number = number.wrapping_mul(10).wrapping_add(digit.into());
            }
            if !(1..=65535).contains(&number) {
                return Err(RefusalKind::Host);
            }
            if !rooted {
                return Ok(Authority { at, rewritten: None });
            }
        }
        _ => return Err(RefusalKind::Host),
    }
    let mut plain = host.strip_suffix(b".").unwrap_or(host).to_vec();
    if port.len() > 1 {
        plain.extend_from_slice(port);
    }
    Ok(Authority { at, rewritten: Some(plain) })
}

/// The lower case of a byte that may stand in a name; 0 for all others.
#[allow(clippy::indexing_slicing, reason = "a table of 256 is indexed by a byte")]
fn name_byte(byte: u8) -> u8 {
    NAME[byte as usize]
}

#[allow(clippy::indexing_slicing, reason = "evaluated by the compiler")]
static NAME: [u8; 256] = {
    let mut lower = [0; 256];
    let mut at = 0;
    while at < 128 {
        let byte = at as u8;
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_') {
            lower[at] = byte.to_ascii_lowercase();
        }
        at += 1;
    }
    lower
};

/// The protocol to switch to, if it is one that is tunnelled. HTTP/2 is not: it would be a second way in.
pub(super) fn protocol(method: &Method, value: &[u8]) -> Option<Box<str>> {
    let mut found = None;
    for offered in value.split(|&byte| byte == b',') {
        let offered = offered.trim_ascii();
        let mut parts = offered.splitn(2, |&byte| byte == b'/');
        let name = parts.next().unwrap_or_default();
        let version = parts.next();
        let is_one = |part: &[u8]| !part.is_empty() && part.iter().all(|&byte| is_token(byte));
        if !is_one(name) || version.is_some_and(|version| !is_one(version)) {
            return None;
        }
        // RFC 7540 section 3.2: a server must ignore `h2`, which is HTTP/2 within TLS; RFC 9113 section 3.1: `h2c` is no more.
        if [&b"h2c"[..], b"h2", b"http", b"tls"].iter().any(|other| name.eq_ignore_ascii_case(other)) {
            continue;
        }
        if name.eq_ignore_ascii_case(b"websocket") && *method != Method::Get {
            continue;
        }
        // Two that we could carry: which one the upstream took would have to be understood.
        if found.replace(offered).is_some() {
            return None;
        }
    }
    found.and_then(|found| std::str::from_utf8(found).ok()).map(Into::into)
}
