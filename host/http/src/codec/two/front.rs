//! The front's side of HTTP/2's heads: fields as HPACK brings them become a request or trailers, answers become fields.
//!
//! What is malformed (RFC 9113 section 8.1.1) ends its stream without an answer; what is well-formed, and still no request that
//! is taken here, is answered.

use super::super::body::may_trail;
use super::super::fields::{is_token, number};
use super::super::hpack::{Encoder, Said};
use super::super::lanes;
use super::super::request::{authority, protocol};
use super::super::write::{NOT_COPIED, bit};
use super::super::{HeadLimits, RefusalKind};
use bytes::BytesMut;
use std::ops::Range;
use wharf_core::head::{Fields, Known, Method, RequestHead, ResponseHead, Scheme};
use wharf_core::path;

/// Longest authority: a name of 253 letters and a port, with room to spare.
const AUTHORITY_MAX: usize = 272;

/// What a request says beside its head.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Bytes of the body, as `content-length` says.
    pub length: Option<u64>,
    /// The client waits for a 100 before it sends the body.
    pub expects_continue: bool,
    /// The protocol of an extended CONNECT (RFC 8441), which has become a GET with an upgrade.
    pub upgrade: Option<Box<str>>,
}

/// Why a head is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// It is no message; the sentence says why.
    Malformed(&'static str),
    /// It is one that is not taken here.
    Refused(RefusalKind),
}

impl Wrong {
    /// The first that was found counts; but a malformed head is malformed, whatever else may be said about it.
    fn note(self, wrong: &mut Option<Wrong>) {
        if !matches!((*wrong, self), (Some(Wrong::Malformed(_)), _) | (Some(_), Wrong::Refused(_))) {
            *wrong = Some(self);
        }
    }
}

impl From<RefusalKind> for Wrong {
    fn from(what: RefusalKind) -> Wrong {
        Wrong::Refused(what)
    }
}

/// How far a block may go beyond what is taken: larger ones end the connection, those between are answered.
pub const BEYOND: usize = 4;

/// Memory that heads are read in, one after the other.
#[derive(Debug, Default)]
pub struct Room {
    text: Vec<u8>,
    crumbs: Vec<u8>,
}

/// Memory that is kept from one head to the next.
const KEPT: usize = 4 * 1024;

impl Room {
    fn clear(&mut self) {
        for text in [&mut self.text, &mut self.crumbs] {
            if text.capacity() > KEPT {
                *text = Vec::new();
            }
            text.clear();
        }
    }

    fn keep(&mut self, text: &[u8]) -> Range<usize> {
        let at = self.text.len();
        self.text.extend_from_slice(text);
        at..self.text.len()
    }

    fn get(&self, at: &Range<usize>) -> &[u8] {
        self.text.get(at.clone()).unwrap_or_default()
    }
}

/// A request's head while its fields come in.
pub struct Asking<'a> {
    limits: &'a HeadLimits,
    room: &'a mut Room,
    head: &'a mut RequestHead,
    received: Received,
    method: Option<Method>,
    scheme: bool,
    path: Option<Range<usize>>,
    authority: Option<Range<usize>>,
    asked: Option<Range<usize>>,
    named: Option<Range<usize>>,
    /// A field that is no pseudo-field has come.
    regular: bool,
    cookies: bool,
    count: usize,
    size: usize,
    wrong: Option<Wrong>,
}

impl<'a> Asking<'a> {
    /// `head` becomes what is read, in the memory that it had.
    pub fn new(limits: &'a HeadLimits, room: &'a mut Room, head: &'a mut RequestHead) -> Asking<'a> {
        head.clear();
        room.clear();
        Asking {
            limits,
            room,
            head,
            received: Received::default(),
            method: None,
            scheme: false,
            path: None,
            authority: None,
            asked: None,
            named: None,
            regular: false,
            cookies: false,
            count: 0,
            size: 0,
            wrong: None,
        }
    }

    /// Takes a field. `false`: the block is far larger than anything that would be answered.
    pub fn take(&mut self, said: Said<'_>) -> bool {
        self.size += said.name.len() + said.value.len() + 4;
        if self.size > self.limits.bytes_max {
            self.count += 1;
            // Fields of nothing count as well: a block of small ones must not keep us long.
            return self.size <= BEYOND * self.limits.bytes_max && self.count <= self.limits.bytes_max;
        }
        if let Err(wrong) = self.field(said) {
            wrong.note(&mut self.wrong);
        }
        true
    }

    fn field(&mut self, said: Said<'_>) -> Result<(), Wrong> {
        let Said { known, name, value, fixed } = said;
        if let [b':', pseudo @ ..] = name {
            return self.pseudo(pseudo, value);
        }
        self.regular = true;
        self.count += 1;
        if self.count > self.limits.fields() {
            return Err(RefusalKind::FieldCount { max: self.limits.fields() }.into());
        }
        if !fixed {
            check(known, name, value)?;
        }
        about_connection(known)?;
        match known {
            Known::Te if value != b"trailers" => return Err(Wrong::Malformed("`te` other than `trailers`")),
            Known::Host => {
                if self.named.is_some() {
                    return Err(RefusalKind::HostTwice.into());
                }
                self.named = Some(self.room.keep(value));
                return Ok(());
            }
            Known::ContentLength => {
                let length = number(value).ok_or(Wrong::Malformed("`content-length` is no plain number"))?;
                match self.received.length.replace(length) {
                    None => {}
                    Some(before) if before != length => return Err(Wrong::Malformed("`content-length` says two numbers")),
                    Some(_) => return Err(RefusalKind::LengthTwice.into()),
                }
            }
            Known::Expect => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(RefusalKind::Expectation.into());
                }
                self.received.expects_continue = true;
                return Ok(());
            }
            // Its crumbs become one again (RFC 9113 section 8.2.3), once all are here.
            Known::Cookie => {
                self.cookies = true;
                let crumbs = &mut self.room.crumbs;
                if !value.is_empty() {
                    // One of nothing would leave a space at the end.
                    let between: &[u8] = if crumbs.is_empty() { b"" } else { b"; " };
                    crumbs.extend_from_slice(between);
                    crumbs.extend_from_slice(value);
                }
                return Ok(());
            }
            other if other.is_hop_by_hop() => return Ok(()),
            _ if Known::is_alias(name) => return Ok(()),
            _ => {}
        }
        self.head.fields.receive_line(known, name, value);
        Ok(())
    }

    fn pseudo(&mut self, name: &[u8], value: &[u8]) -> Result<(), Wrong> {
        if self.regular {
            return Err(Wrong::Malformed("a pseudo-field behind other fields"));
        }
        let place = match name {
            b"method" => {
                let Some(token) = std::str::from_utf8(value).ok().filter(|token| !token.is_empty() && token.bytes().all(is_token)) else {
                    return Err(Wrong::Malformed("`:method` is no token"));
                };
                return once(self.method.replace(Method::from_token(token)).is_none());
            }
            b"scheme" => {
                let valid = value.first().is_some_and(u8::is_ascii_alphabetic)
                    && value.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
                if !valid {
                    return Err(Wrong::Malformed("`:scheme` is none"));
                }
                return once(!std::mem::replace(&mut self.scheme, true));
            }
            b"path" => {
                if value.is_empty() || lanes::until(value, |byte| (byte <= 0x20) | (byte == 0x7f)) < value.len() {
                    return Err(Wrong::Malformed("`:path` is none"));
                }
                &mut self.path
            }
            b"authority" => &mut self.authority,
            b"protocol" => &mut self.asked,
            _ => return Err(Wrong::Malformed("a pseudo-field that requests do not have")),
        };
        once(place.replace(self.room.keep(value)).is_none())
    }

    /// Its block has ended, and with `ends` its stream's way in. What else was said about the request is returned.
    ///
    /// # Errors
    /// What is no request that is taken here. The head is of no further use then.
    pub fn end(mut self, ends: bool, scheme: Scheme) -> Result<Received, Wrong> {
        let malformed = |what| Err(Wrong::Malformed(what));
        if let Some(Wrong::Malformed(what)) = self.wrong {
            return malformed(what);
        }
        if self.size > self.limits.bytes_max {
            // What stands behind the limit was not read: it may be malformed, and this is answered all the same.
            return Err(RefusalKind::HeadBytes { max: self.limits.bytes_max }.into());
        }
        let Some(mut method) = self.method.take() else { return malformed("`:method` is missing") };
        let connect = method == Method::Connect;
        if self.asked.is_some() && !connect {
            return malformed("`:protocol` without CONNECT");
        }
        // A plain CONNECT has neither (RFC 9113 section 8.5), everything else has both.
        let plain_connect = connect && self.asked.is_none();
        if self.scheme == plain_connect || self.path.is_some() == plain_connect {
            return malformed("`:scheme` or `:path` is missing, or stands where it may not");
        }
        if ends && self.received.length.is_some_and(|length| length > 0) {
            return malformed("`content-length` of a body that does not come");
        }
        if let Some(wrong) = self.wrong {
            return Err(wrong);
        }
        if connect {
            // As HTTP/1.1 asks for it, so that rules and routes know one WebSocket only.
            self.received.upgrade = match &self.asked {
                Some(asked) if self.room.get(asked).eq_ignore_ascii_case(b"websocket") => protocol(&Method::Get, b"websocket"),
                _ => return Err(RefusalKind::Connect.into()),
            };
            method = Method::Get;
        }
        self.target(method, scheme)?;
        Ok(self.received)
    }

    fn target(&mut self, method: Method, scheme: Scheme) -> Result<(), RefusalKind> {
        let (room, fields) = (&*self.room, &mut self.head.fields);
        if self.cookies {
            fields.receive_line(Known::Cookie, b"cookie", &room.crumbs);
        }
        // Exactly one host; where both are said, they must be the same (RFC 9113 section 8.3.1).
        let mut text = [0; AUTHORITY_MAX];
        let host = match (&self.authority, &self.named) {
            (Some(asked), None) => plain(room.get(asked), &mut text)?,
            (None, Some(named)) => plain(room.get(named), &mut text)?,
            (Some(asked), Some(named)) => {
                let mut other = [0; AUTHORITY_MAX];
                let (asked, named) = (plain(room.get(asked), &mut text)?, plain(room.get(named), &mut other)?);
                if asked != named {
                    return Err(RefusalKind::HostTwice);
                }
                asked
            }
            (None, None) => return Err(RefusalKind::HostMissing),
        };
        fields.receive_line(Known::Host, b"host", host);
        let authority = fields.keep(host);
        let asked = self.path.as_ref().map_or(&b"/"[..], |path| room.get(path));
        let mark = lanes::until(asked, |byte| byte == b'?');
        let (asked, query) = asked.split_at_checked(mark).unwrap_or((asked, b""));
        let path = match asked {
            b"*" if method == Method::Options => fields.keep(asked),
            _ => match path::canonical(asked).map_err(RefusalKind::Path)? {
                None => fields.keep(asked),
                Some(canonical) => fields.keep(&canonical),
            },
        };
        let query = match query.split_first() {
            Some((_, query)) if query.iter().any(|&byte| !matches!(byte, 0x21..=0x7e) || byte == b'#') => return Err(RefusalKind::Query),
            Some((_, query)) => Some(fields.keep(query)),
            None => None,
        };
        self.head.receive(method, scheme, authority, path, query);
        Ok(())
    }
}

fn once(first: bool) -> Result<(), Wrong> {
    if first { Ok(()) } else { Err(Wrong::Malformed("a pseudo-field twice")) }
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

/// Fields about one connection, of which HTTP/2 has none (RFC 9113 section 8.2.2).
fn about_connection(known: Known) -> Result<(), Wrong> {
    match known {
        Known::Connection | Known::KeepAlive | Known::ProxyConnection | Known::Upgrade | Known::TransferEncoding => {
            Err(Wrong::Malformed("a field about one connection only"))
        }
        _ => Ok(()),
    }
}

/// What RFC 9113 section 8.2.1 asks of every field. A value with white space around it is another matter: HTTP/1.1 could not
/// say it, its reader takes the space off.
fn check(known: Known, name: &[u8], value: &[u8]) -> Result<(), Wrong> {
    // Names that are known are right.
    if known == Known::Other && (name.is_empty() || !name.iter().all(|&byte| is_token(byte) && !byte.is_ascii_uppercase())) {
        return Err(Wrong::Malformed("a field name that is no token in lower case"));
    }
    let plain = lanes::until(value, |byte| (byte < 0x20) | (byte == 0x7f));
    #[cfg(not(wharf_planted))]
    let is_control = |byte: &u8| matches!(byte, 0..=8 | 10..=31 | 127);
    #[cfg(wharf_planted)]
    let is_control = |byte: &u8| matches!(byte, 0..=8 | 11..=31 | 127);
    if plain < value.len() && value.iter().any(is_control) {
        return Err(Wrong::Malformed("a control character in a field value"));
    }
    match value {
        [b' ' | b'\t', ..] | [.., b' ' | b'\t'] => Err(RefusalKind::FieldValue.into()),
        _ => Ok(()),
    }
}

/// Trailers while they come in, held to what HTTP/1.1's are held to.
pub struct Trailing<'a> {
    limits: &'a HeadLimits,
    fields: Fields,
    count: usize,
    size: usize,
    wrong: Option<Wrong>,
}

impl<'a> Trailing<'a> {
    /// None has come.
    pub fn new(limits: &'a HeadLimits) -> Trailing<'a> {
        Trailing { limits, fields: Fields::default(), count: 0, size: 0, wrong: None }
    }

    /// Takes a field. `false`: the block is far larger than anything that would be answered.
    pub fn take(&mut self, said: Said<'_>) -> bool {
        let Said { known, name, value, .. } = said;
        self.count += 1;
        self.size += name.len() + value.len() + 4;
        if self.count > self.limits.fields() || self.size > self.limits.bytes_max {
            return self.size <= BEYOND * self.limits.bytes_max && self.count <= self.limits.bytes_max;
        }
        let wrong = match about_connection(known).and_then(|()| check(known, name, value)) {
            _ if name.starts_with(b":") => Wrong::Malformed("a pseudo-field among trailers"),
            Err(wrong @ Wrong::Malformed(_)) => wrong,
            // Left out, as other spellings of what the host guards are.
            Err(Wrong::Refused(_)) => return true,
            Ok(()) if Known::is_alias(name) => return true,
            Ok(()) if !may_trail(known, name) => RefusalKind::TrailerField.into(),
            Ok(()) => {
                self.fields.receive_line(known, name, value);
                return true;
            }
        };
        wrong.note(&mut self.wrong);
        true
    }

    /// The block has ended. `None`: there is nothing in it.
    ///
    /// # Errors
    /// Too many or too large, or a field that may only stand in a head.
    pub fn end(self) -> Result<Option<Fields>, Wrong> {
        match self.wrong {
            Some(wrong) => Err(wrong),
            None if self.count > self.limits.fields() => Err(RefusalKind::TrailerCount { max: self.limits.fields() }.into()),
            None if self.size > self.limits.bytes_max => Err(RefusalKind::TrailerBytes { max: self.limits.bytes_max }.into()),
            None => Ok(Some(self.fields).filter(|fields| !fields.is_empty())),
        }
    }
}

/// Writes the block of an answer's head; returns how many bytes its fields have as text. `length` is that of the body that follows
/// (or, for HEAD and 304, would); `None`: it is not known. `date` is added where the answer has none.
pub fn answer(encoder: &mut Encoder, out: &mut BytesMut, head: &ResponseHead, length: Option<u64>, date: &[u8; 29]) -> u64 {
    encoder.begin(out);
    encoder.status(head.status, out);
    let (mut seen, mut bytes) = (0, 0);
    let mut say = |known, name: &[u8], value: &[u8]| {
        bytes += (name.len() + value.len()) as u64;
        encoder.field(known, name, value, out);
    };
    for (known, name, value) in head.fields.iter() {
        let kind = bit(known);
        seen |= kind;
        if kind & NOT_COPIED == 0 {
            say(known, name, value);
        }
    }
    if seen & bit(Known::Date) == 0 {
        say(Known::Date, b"date", date);
    }
    if let Some(length) = length {
        say(Known::ContentLength, b"content-length", itoa::Buffer::new().format(length).as_bytes());
    }
    bytes
}

/// Writes the block of trailers; those that may not trail are left out. `false`: there is none, and nothing was written.
pub fn trailers(encoder: &mut Encoder, out: &mut BytesMut, fields: &Fields) -> bool {
    let mut any = false;
    for (known, name, value) in fields.iter() {
        if may_trail(known, name) {
            if !std::mem::replace(&mut any, true) {
                encoder.begin(out);
            }
            encoder.field(known, name, value, out);
        }
    }
    any
}
