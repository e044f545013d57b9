//! What both directions have in common about fields: lower case, framing, and what speaks about one connection only.

use super::{Framing, RefusalKind, Version};
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
    /// Fields named by `Connection`.
    named: Vec<Range<usize>>,
}

/// Splits what httparse found into spans, and insists on CR LF. httparse takes a bare LF for a line end as well; it
/// gives names without the line end before them, so the two bytes there tell.
pub(super) fn spans(text: &[u8], from: usize, end: usize, headers: &[httparse::Header<'_>]) -> Result<Vec<Field>, RefusalKind> {
    let base = text.as_ptr() as usize;
    #[cfg(not(wharf_planted))]
    let mut crlf = text.get(end.wrapping_sub(4)..end) == Some(b"\r\n\r\n");
    // The fuzzer must find that a bare LF at the end of the last field is taken.
    #[cfg(wharf_planted)]
    let mut crlf = text.get(end.wrapping_sub(2)..end) == Some(b"\r\n");
    // One more than there are: an absolute target may add a host.
    let mut list = Vec::with_capacity(headers.len() + 1);
    list.extend(headers.iter().map(|header| {
        let name_at = (header.name.as_ptr() as usize).wrapping_sub(base);
        // The first line of trailers has no line before it.
        crlf &= name_at == from || text.get(name_at.wrapping_sub(2)..name_at) == Some(b"\r\n");
        let name = Span::received(name_at, header.name.len());
        let value = Span::received((header.value.as_ptr() as usize).wrapping_sub(base), header.value.len());
        Field::received(name, value, Known::Other)
    }));
    if crlf { Ok(list) } else { Err(RefusalKind::LineEnd) }
}

/// Brings a name into lower case and tells it apart.
pub(super) fn known(text: &mut [u8], name: Span) -> Known {
    let name = name.range().and_then(|range| text.get_mut(range)).unwrap_or_default();
    lower(name);
    Known::of(name)
}

/// `make_ascii_lowercase` for short tokens: words, the last one overlapping, instead of single bytes.
fn lower(token: &mut [u8]) {
    let len = token.len();
    if len < 4 {
        token.make_ascii_lowercase();
    } else if len < 8 {
        if let Some(word) = token.first_chunk_mut::<4>() {
            *word = (lower_word(u64::from(u32::from_le_bytes(*word))) as u32).to_le_bytes();
        }
        if let Some(word) = token.last_chunk_mut::<4>() {
            *word = (lower_word(u64::from(u32::from_le_bytes(*word))) as u32).to_le_bytes();
        }
    } else {
        for word in token.as_chunks_mut::<8>().0 {
            *word = lower_word(u64::from_le_bytes(*word)).to_le_bytes();
        }
        if let Some(word) = token.last_chunk_mut::<8>() {
            *word = lower_word(u64::from_le_bytes(*word)).to_le_bytes();
        }
    }
}

/// Sets bit 5 of each byte from `A` to `Z`. All bytes are ASCII, so that no sum runs over into the next.
fn lower_word(word: u64) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    let from_a = word.wrapping_add(EACH * (0x80 - b'A' as u64));
    let behind_z = word.wrapping_add(EACH * (0x7f - b'Z' as u64));
    word | ((from_a ^ behind_z) & (EACH * 0x80)) >> 2
}

/// The fields that [`Survey::take`] has something to say about, a bit each.
#[allow(clippy::indexing_slicing, reason = "evaluated by the compiler")]
pub(super) const TELLING: u64 = {
    let mut bits = 0;
    let kinds = [
        Known::Host,
        Known::ContentLength,
        Known::TransferEncoding,
        Known::Connection,
        Known::Upgrade,
        Known::Expect,
        Known::KeepAlive,
        Known::ProxyConnection,
        Known::Te,
        Known::Trailer,
        Known::HttpTwoSettings,
        Known::ProxyAuthenticate,
        Known::ProxyAuthorization,
    ];
    let mut at = 0;
    while at < kinds.len() {
        bits |= 1 << kinds[at] as u64;
        at += 1;
    }
    bits
};

impl Survey {
    /// Brings all names into lower case, in place, reads what this room has to know, and removes what is not passed on:
    /// fields about one connection only, those that `Connection` names, other spellings of what the host guards (see
    /// [`Known::is_alias`]), and expectations, which are met here.
    ///
    /// What frames or routes stays, whoever names it: a client must not be able to take it away.
    pub(super) fn of(text: &mut [u8], list: &mut Vec<Field>) -> Result<Survey, RefusalKind> {
        let mut survey = Survey::default();
        let mut kept = 0;
        for at in 0..list.len() {
            let Some(&field) = list.get(at) else { break };
            let known = known(text, field.name());
            if TELLING >> known as u64 & 1 != 0 && !survey.take(text, known, field.value())? || Known::is_alias(span(text, field.name())) {
                continue;
            }
            if let Some(slot) = list.get_mut(kept) {
                *slot = Field::received(field.name(), field.value(), known);
            }
            kept += 1;
        }
        list.truncate(kept);
        survey.strip_named(text, list);
        Ok(survey)
    }

    /// Removes the fields that `Connection` names.
    pub(super) fn strip_named(&self, text: &[u8], list: &mut Vec<Field>) {
        if !self.named.is_empty() {
            let named =
                |name: &[u8]| self.named.iter().any(|at| text.get(at.clone()).is_some_and(|named| named.eq_ignore_ascii_case(name)));
            list.retain(|field| field.known().is_hosts_own() || !named(span(text, field.name())));
        }
    }

    /// Reads a field. Is it passed on?
    pub(super) fn take(&mut self, text: &[u8], known: Known, at: Span) -> Result<bool, RefusalKind> {
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
                return Ok(false);
            }
            Known::Connection => {
                self.connection(text, at)?;
                return Ok(false);
            }
            Known::Upgrade => {
                self.upgrades += 1;
                self.upgrade = (self.upgrades == 1).then_some(at);
                return Ok(false);
            }
            Known::Expect => {
                if !is(value, b"100-continue") {
                    return Err(RefusalKind::Expectation);
                }
                self.expects_continue = true;
                return Ok(false);
            }
            other => return Ok(!other.is_hop_by_hop()),
        }
        Ok(true)
    }

    fn connection(&mut self, text: &[u8], at: Span) -> Result<(), RefusalKind> {
        let value = span(text, at);
        // What nearly everybody says.
        if is(value, b"keep-alive") {
            self.keep_alive = true;
            return Ok(());
        }
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

/// Is this the word, in whatever case? Values hold no control characters, so bit 5 is all that can differ by case.
fn is<const N: usize>(value: &[u8], word: &[u8; N]) -> bool {
    match value.first_chunk::<N>() {
        // No early end: for a few bytes that is one vector comparison.
        Some(chunk) if value.len() == N => chunk.iter().zip(word).fold(0, |other, (byte, lower)| other | ((byte | 0x20) ^ lower)) == 0,
        _ => false,
    }
}

/// Digits only, and not more than fit.
pub(super) fn number(value: &[u8]) -> Option<u64> {
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
    if is(value, b"chunked") {
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
pub(super) const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_about_one_connection_is_a_telling_one() {
        for name in [
            "te",
            "host",
            "date",
            "expect",
            "trailer",
            "upgrade",
            "forwarded",
            "keep-alive",
            "connection",
            "content-length",
            "authorization",
            "http2-settings",
            "transfer-encoding",
            "proxy-connection",
            "proxy-authorization",
            "proxy-authenticate",
            "x-forwarded-for",
            "x",
        ] {
            let known = Known::of(name.as_bytes());
            let told = matches!(known, Known::Host | Known::ContentLength | Known::Expect) || known.is_hop_by_hop();
            assert_eq!(TELLING >> known as u64 & 1 != 0, told, "{name}");
        }
    }

    #[test]
    fn a_word_is_itself_in_whatever_case() {
        for word in [&b"keep-alive"[..], b"Keep-Alive", b"KEEP-ALIVE", b"keep-alivE"] {
            assert!(is(word, b"keep-alive"));
        }
        for other in [&b""[..], b"keep-aliv", b"keep-alivee", b"keep_alive", b"keep-alive ", b"close", b"kee\xf0-alive"] {
            assert!(!is(other, b"keep-alive"));
        }
        // Words have no letters that bit 5 would make of something else that a value may hold.
        for word in [&b"keep-alive"[..], b"chunked", b"100-continue"] {
            for (at, &byte) in word.iter().enumerate() {
                let mut other = word.to_vec();
                other[at] = byte ^ 0x20;
                assert!(byte.is_ascii_alphabetic() || other[at] < 0x20, "{:?} has {byte:#x}", word.escape_ascii().to_string());
            }
        }
    }
}
