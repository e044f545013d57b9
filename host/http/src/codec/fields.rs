//! What both directions have in common about fields: lower case, framing, and what speaks about one connection only.

use super::{Framing, RefusalKind, Version};
use bytes::BytesMut;
use std::ops::Range;
use wharf_core::head::{Field, Known, Span};

/// Connection options that name other fields, in one head.
const NAMED_MAX: usize = 32;

/// What the fields of a head say about the message and its connection.
#[derive(Default)]
pub(super) struct Survey {
    pub(super) length: Option<u64>,
    pub(super) chunked: bool,
    pub(super) host: Option<Span>,
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    /// `Connection: upgrade`.
    pub(super) switches: bool,
    /// The one `Upgrade` field, if there is exactly one.
    pub(super) upgrade: Option<Span>,
    upgrades: u32,
    pub(super) expects_continue: bool,
    /// A field that is not passed on was seen.
    drops: bool,
    /// Fields named by `Connection`.
    named: Vec<Range<usize>>,
}

/// Splits what httparse found into spans, and insists on CR LF. httparse takes a bare LF for a line end as well; it
/// gives names without the line end before them, so the two bytes there tell.
pub(super) fn spans(text: &[u8], from: usize, end: usize, headers: &[httparse::Header<'_>]) -> Result<Vec<Field>, RefusalKind> {
    let base = text.as_ptr() as usize;
    // One more than there are: an absolute target may add a host.
    let mut list = Vec::with_capacity(headers.len() + 1);
    for header in headers {
        let name_at = (header.name.as_ptr() as usize).wrapping_sub(base);
        // The first line of trailers has no line before it.
        if name_at > from && text.get(name_at.wrapping_sub(2)..name_at) != Some(b"\r\n") {
            return Err(RefusalKind::LineEnd);
        }
        let name = Span::received(name_at, header.name.len());
        let value = Span::received((header.value.as_ptr() as usize).wrapping_sub(base), header.value.len());
        list.push(Field::received(name, value, Known::Other));
    }
    #[cfg(not(wharf_planted))]
    let ended = text.get(end.wrapping_sub(4)..end) == Some(b"\r\n\r\n");
    // The fuzzer must find that a bare LF at the end of the last field is taken.
    #[cfg(wharf_planted)]
    let ended = text.get(end.wrapping_sub(2)..end) == Some(b"\r\n");
    if ended { Ok(list) } else { Err(RefusalKind::LineEnd) }
}

impl Survey {
    /// Brings all names into lower case, in place, and reads what this room has to know.
    pub(super) fn of(text: &mut BytesMut, list: &mut [Field]) -> Result<Survey, RefusalKind> {
        let mut survey = Survey::default();
        for field in list {
            let name = span_mut(text, field.name());
            name.make_ascii_lowercase();
            let known = Known::of(name);
            if known == Known::Other {
                continue;
            }
            *field = Field::received(field.name(), field.value(), known);
            survey.take(text, known, field.value())?;
        }
        Ok(survey)
    }

    fn take(&mut self, text: &[u8], known: Known, at: Span) -> Result<(), RefusalKind> {
        let value = span(text, at);
        match known {
            Known::Host => {
                if self.host.replace(at).is_some() {
                    return Err(RefusalKind::HostTwice);
                }
            }
            Known::ContentLength => {
                if self.length.replace(number(value).ok_or(RefusalKind::Length)?).is_some() {
                    return Err(RefusalKind::LengthTwice);
                }
            }
            Known::TransferEncoding => {
                coding(value)?;
                if std::mem::replace(&mut self.chunked, true) {
                    return Err(RefusalKind::Coding);
                }
                self.drops = true;
            }
            Known::Connection => {
                self.drops = true;
                self.connection(text, at)?;
            }
            Known::Upgrade => {
                self.drops = true;
                self.upgrades += 1;
                self.upgrade = (self.upgrades == 1).then_some(at);
            }
            Known::Expect => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(RefusalKind::Expectation);
                }
                self.expects_continue = true;
                self.drops = true;
            }
            other => self.drops |= other.is_hop_by_hop(),
        }
        Ok(())
    }

    fn connection(&mut self, text: &[u8], at: Span) -> Result<(), RefusalKind> {
        let value = span(text, at);
        let begin = at.range().unwrap_or_default().start;
        let mut from = 0;
        for option in value.split(|&byte| byte == b',') {
            let trimmed = option.trim_ascii();
            let trimmed_at = begin + from + (option.len() - option.trim_ascii_start().len());
            from += option.len() + 1;
            match trimmed.len() {
                // Empty elements of a list are ignored (RFC 9110 section 5.6.1.2).
                0 => {}
                5 if trimmed.eq_ignore_ascii_case(b"close") => self.close = true,
                10 if trimmed.eq_ignore_ascii_case(b"keep-alive") => self.keep_alive = true,
                7 if trimmed.eq_ignore_ascii_case(b"upgrade") => self.switches = true,
                // Not passed on anyway.
                2 if trimmed.eq_ignore_ascii_case(b"te") => {}
                len => {
                    if !trimmed.iter().all(|&byte| is_token(byte)) || self.named.len() >= NAMED_MAX {
                        return Err(RefusalKind::Connection);
                    }
                    self.named.push(trimmed_at..trimmed_at + len);
                }
            }
        }
        Ok(())
    }

    /// Removes what is not passed on: fields about one connection, those that `Connection` names, and expectations, which
    /// are met here. What frames or routes stays, whoever names it: a client must not be able to take it away.
    pub(super) fn strip(&self, text: &[u8], list: &mut Vec<Field>, keep_upgrade: bool) {
        if !self.drops {
            return;
        }
        list.retain(|field| {
            let known = field.known();
            match known {
                Known::Upgrade => return keep_upgrade,
                Known::Expect => return false,
                Known::Host
                | Known::ContentLength
                | Known::Forwarded
                | Known::XRealIp
                | Known::XForwardedFor
                | Known::XForwardedHost
                | Known::XForwardedPort
                | Known::XForwardedProto => return true,
                _ => {}
            }
            if known.is_hop_by_hop() {
                return false;
            }
            if self.named.is_empty() {
                return true;
            }
            let name = span(text, field.name());
            !self.named.iter().any(|named| text.get(named.clone()).is_some_and(|named| named.eq_ignore_ascii_case(name)))
        });
    }

    /// Framing as the fields say it (RFC 9112 section 6.3), for messages that may have a body. `None`: they say nothing.
    pub(super) fn framing(&self, version: Version) -> Result<Option<Framing>, RefusalKind> {
        match (self.length, self.chunked) {
            (Some(_), true) => Err(RefusalKind::LengthAndCoding),
            (_, true) if version == Version::Http10 => Err(RefusalKind::CodingOldVersion),
            (None, true) => Ok(Some(Framing::Chunked)),
            (Some(length), false) => Ok(Some(Framing::Length(length))),
            (None, false) => Ok(None),
        }
    }

    /// May the connection carry another message after this one, as far as the fields say?
    pub(super) fn persists(&self, version: Version) -> bool {
        !self.close && (version == Version::Http11 || self.keep_alive)
    }
}

pub(super) fn span(text: &[u8], span: Span) -> &[u8] {
    span.range().and_then(|range| text.get(range)).unwrap_or_default()
}

pub(super) fn span_mut(text: &mut [u8], span: Span) -> &mut [u8] {
    span.range().and_then(|range| text.get_mut(range)).unwrap_or_default()
}

/// Digits only, and not more than fit.
fn number(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    let mut number: u64 = 0;
    for &byte in value {
        if !byte.is_ascii_digit() {
            return None;
        }
        number = number.checked_mul(10)?.checked_add(u64::from(byte - b'0'))?;
    }
    Some(number)
}

/// Is this exactly `chunked`? What else it may be decides between "wrong" and "not understood".
fn coding(value: &[u8]) -> Result<(), RefusalKind> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let mut others = false;
    let mut chunked = false;
    for name in value.split(|&byte| byte == b',') {
        let name = name.trim_ascii();
        if chunked || name.is_empty() || !name.iter().all(|&byte| is_token(byte)) {
            return Err(RefusalKind::Coding);
        }
        if name.eq_ignore_ascii_case(b"chunked") {
            chunked = true;
        } else {
            others = true;
        }
    }
    Err(if others { RefusalKind::CodingUnknown } else { RefusalKind::Coding })
}

/// RFC 9110 section 5.6.2.
pub(super) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        )
}

/// What httparse says about a field line.
pub(super) fn field_refusal(error: httparse::Error, fields_max: usize) -> RefusalKind {
    match error {
        httparse::Error::HeaderName => RefusalKind::FieldName,
        httparse::Error::HeaderValue => RefusalKind::FieldValue,
        httparse::Error::TooManyHeaders => RefusalKind::FieldCount { max: fields_max },
        _ => RefusalKind::LineEnd,
    }
}
