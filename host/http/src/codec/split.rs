//! The short way through a head that is what nearly all heads are: capital method, plain target, `HTTP/1.1`, lines that
//! end in CR LF and hold no control characters. One pass splits it, brings names into lower case and tells them apart.
//!
//! This way refuses nothing. Whatever is not ordinary, not finished or not allowed gives `None`, and httparse is asked,
//! whose word counts. So a fault here could only be to take what must not be taken: the fuzzer reads everything that was
//! taken a second time, naively.
//!
//! Why it is here at all: httparse and what has to follow it (lower case, telling names apart, looking for bare LF) take
//! twice the instructions, which is a fifth of what the house spends on a request.

use super::Version;
use super::fields::{Survey, TELLING, is_token};
use super::lanes::{self, LANES};
use std::ops::Range;
use wharf_core::head::{Field, Known, Span};

/// The method's length, the target, the version, and where the first field begins.
pub(super) fn request_line(text: &[u8]) -> Option<(usize, Range<usize>, Version, usize)> {
    let method = text.iter().position(|byte| !byte.is_ascii_uppercase())?;
    let rest = text.get(method..)?.strip_prefix(b" ")?;
    let len = lanes::until(rest, |byte| byte.wrapping_sub(0x21) > 0x7e - 0x21);
    if method == 0 || len == 0 {
        return None;
    }
    let version = version(rest.get(len..)?.first_chunk()?, b" HTTP/1.1\r\n", b" HTTP/1.0\r\n")?;
    Some((method, method + 1..method + 1 + len, version, method + len + 12))
}

/// The version, the status, and where the first field begins.
pub(super) fn status_line(text: &[u8]) -> Option<(Version, u16, usize)> {
    let version = version(text.first_chunk()?, b"HTTP/1.1 ", b"HTTP/1.0 ")?;
    let [hundreds, tens, ones, b' '] = text.get(9..)?.first_chunk::<4>()? else { return None };
    if ![hundreds, tens, ones].iter().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let digit = |byte: &u8| u16::from(byte - b'0');
    let status = digit(hundreds) * 100 + digit(tens) * 10 + digit(ones);
    let reason = text.get(13..)?;
    let len = plain_len(reason);
    reason.get(len..)?.starts_with(b"\r\n").then_some((version, status, 13 + len + 2))
}

/// Which of the two it is. Not by patterns, which are compared byte by byte.
fn version<const LEN: usize>(text: &[u8; LEN], http11: &[u8; LEN], http10: &[u8; LEN]) -> Option<Version> {
    if text == http11 {
        Some(Version::Http11)
    } else if text == http10 {
        Some(Version::Http10)
    } else {
        None
    }
}

/// All field lines from `at` on, and the empty line behind them: where the head ends. The fields that are passed on go to
/// `list`, which is empty, what all of them say to `survey`, which is blank; behind `None` both are of no use. Names in
/// `text` are in lower case afterwards, also behind `None`.
pub(super) fn field_lines(text: &mut [u8], mut at: usize, fields_max: usize, list: &mut Vec<Field>, survey: &mut Survey) -> Option<usize> {
    // Room for what clients send; more is rare, and then the list grows.
    list.reserve(16);
    // With one more than allowed the loop ends without a head: httparse says which limit it was.
    for _ in 0..fields_max + 1 {
        let line = text.get_mut(at..)?;
        if let [b'\r', b'\n', ..] = line {
            survey.strip_named(text, list);
            return Some(at + 2);
        }
        let mut name_len = match line.first_chunk_mut::<LANES>() {
            Some(block) => lanes::lower_field(block),
            None => 0,
        };
        let mut underscore = false;
        if line.get(name_len) != Some(&b':') {
            // A long name, a rare letter, or the end of the buffer.
            for byte in line.get_mut(name_len..).unwrap_or_default() {
                let lower = lower(*byte);
                if lower == 0 {
                    break;
                }
                *byte = lower;
                underscore |= lower == b'_';
                name_len += 1;
            }
        }
        let (name, blank, value) = match line.split_at_checked(name_len)? {
            ([], _) => return None,
            (name, [b':', b' ', value @ ..]) => (name, 1, value),
            (name, [b':', value @ ..]) => (name, 0, value),
            _ => return None,
        };
        let known = Known::of(name);
        let len = plain_len(value);
        let (value, rest) = value.split_at_checked(len)?;
        // More than the one space is trimmed by httparse.
        if !rest.starts_with(b"\r\n") || matches!(value, [b' ', ..] | [.., b' ']) {
            return None;
        }
        let name = Span::received(at, name_len);
        let value_at = at + name_len + 1 + blank;
        let value = Span::received(value_at, len);
        at = value_at + len + 2;
        let passes = TELLING >> known as u64 & 1 == 0 || survey.take(text, known, value).ok()?;
        if passes && !(underscore && Known::is_alias(text.get(name.range()?)?)) {
            list.push(match blank {
                1 => Field::received_line(name, value, known),
                _ => Field::received(name, value, known),
            });
        }
    }
    None
}

/// Bytes before the first control character, tab included.
fn plain_len(text: &[u8]) -> usize {
    lanes::until(text, |byte| (byte < 0x20) | (byte == 0x7f))
}

/// The lower case of a byte that may stand in a field name; 0 for all others.
#[allow(clippy::indexing_slicing, reason = "a table of 256 is indexed by a byte")]
fn lower(byte: u8) -> u8 {
    LOWER[byte as usize]
}

#[allow(clippy::indexing_slicing, reason = "evaluated by the compiler")]
static LOWER: [u8; 256] = {
    let mut lower = [0; 256];
    let mut at = 0;
    while at < 128 {
        let byte = at as u8;
        if is_token(byte) {
            lower[at] = byte.to_ascii_lowercase();
        }
        at += 1;
    }
    lower
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_control_character_is_seen_at_every_place() {
        for len in 0..40 {
            for at in 0..len {
                for byte in 0..=255u8 {
                    // Surrounded by what a borrow could disturb.
                    for around in [b' ', b'a', 0x80, 0xff, b'~', 0x21] {
                        let mut text = vec![around; len];
                        text[at] = byte;
                        let expected = if byte < 0x20 || byte == 0x7f { at } else { len };
                        assert_eq!(plain_len(&text), expected, "{byte:#x} at {at} of {len}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_not_ordinary_is_left_to_httparse() {
        let fields = |text: &str| {
            let mut list = Vec::new();
            let end = field_lines(&mut text.as_bytes().to_vec(), 0, 2, &mut list, &mut Survey::default())?;
            Some((end, list.len()))
        };
        assert_eq!(fields("\r\n"), Some((2, 0)));
        assert_eq!(fields("A: b\r\nC:d\r\n\r\nrest"), Some((13, 2)));
        assert_eq!(fields("A:\r\n\r\n"), Some((6, 1)));
        for other in [
            "",
            "A",
            "A:",
            "A: b",
            "A: b\r",
            "A: b\r\n",
            "A: b\r\n\r",
            "A: b\n\n",
            "A: b\r\n\n",
            "A: \tb\r\n\r\n",
            "A:  b\r\n\r\n",
            "A: b \r\n\r\n",
            "A: b\tc\r\n\r\n",
            "A : b\r\n\r\n",
            " A: b\r\n\r\n",
            ": b\r\n\r\n",
            "A\r\n\r\n",
            "A: b\0\r\n\r\n",
            "A: b\r\n c\r\n\r\n",
            "A: 1\r\nB: 2\r\nC: 3\r\n\r\n",
            "Host: a\r\nHost: b\r\n\r\n",
            "Content-Length: x\r\n\r\n",
            "\n",
            "\rX",
        ] {
            assert_eq!(fields(other), None, "{other:?}");
        }
        assert!(request_line(b"GET / HTTP/1.1\r\n").is_some());
        for other in [
            "",
            "GET",
            "GET /",
            "GET / HTTP/1.1",
            "GET / HTTP/1.1\n\n\n",
            "GET  / HTTP/1.1\r\n",
            " / HTTP/1.1\r\n",
            "get / HTTP/1.1\r\n",
            "GET  HTTP/1.1\r\n",
            "GET / HTTP/2.0\r\n",
            "GET /\u{e9} HTTP/1.1\r\n",
        ] {
            assert!(request_line(other.as_bytes()).is_none(), "{other:?}");
        }
        assert!(status_line(b"HTTP/1.1 200 \r\n").is_some());
        for other in [
            "",
            "HTTP/1.1 200",
            "HTTP/1.1 200\r\n",
            "HTTP/1.1 20 OK\r\n",
            "HTTP/1.1 2x0 OK\r\n",
            "HTTP/1.1 200 OK\n",
            "HTTP/1.2 200 OK\r\n",
            "HTTP/1.1 200 O\0K\r\n",
        ] {
            assert!(status_line(other.as_bytes()).is_none(), "{other:?}");
        }
    }
}
