//! Bytes as the text that RocketMQ's properties and keys allow, and back. Pure.
//!
//! Properties are separated by two control characters and keys by spaces, and an empty value is dropped. So control characters,
//! spaces, `%`, and the two signs by which fields are joined are written as `%` and two digits; so is every byte beyond ASCII of what
//! is no UTF-8. Nothing at all is `%`.

use bytes::Bytes;
use wharf_core::bus::BusFields;

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// As text.
pub(crate) fn escape(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "%".to_owned();
    }
    let is_text = std::str::from_utf8(bytes).is_ok();
    let mut out = Vec::with_capacity(bytes.len() + bytes.len() / 8);
    for &byte in bytes {
        if byte <= b' ' || matches!(byte, b'%' | b'&' | b'=' | 0x7f) || (byte >= 0x80 && !is_text) {
            let digit = |at: u8| DIGITS.get(usize::from(at)).copied().unwrap_or_default();
            out.extend_from_slice(&[b'%', digit(byte >> 4), digit(byte & 15)]);
        } else {
            out.push(byte);
        }
    }
    // What is left of UTF-8 is UTF-8, since whole characters stay or none of them.
    String::from_utf8(out).unwrap_or_default()
}

/// Back. What nobody here has written stays as it is.
pub(crate) fn unescape(text: &str) -> Bytes {
    if text == "%" {
        return Bytes::new();
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        match (byte, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                out.push(byte);
                rest = after;
            }
        }
    }
    out.into()
}

/// Fields as one text, in their order: `name=value&name=value`.
pub(crate) fn join(fields: &BusFields) -> String {
    let pairs: Vec<String> = fields.iter().map(|(name, value)| format!("{}={}", escape(name.as_bytes()), escape(value))).collect();
    pairs.join("&")
}

/// Back.
pub(crate) fn split(text: &str) -> BusFields {
    let name = |text: &str| String::from_utf8_lossy(&unescape(text)).into();
    text.split('&').filter_map(|pair| pair.split_once('=')).map(|(left, right)| (name(left), unescape(right))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_escaped_comes_back() {
        let all: Vec<u8> = (0..=255).collect();
        for bytes in [&b""[..], b"plain", b"a b%c", "größe ✓".as_bytes(), b"\x01\x02\xff\xfe", b"%", b"%41", &all] {
            let text = escape(bytes);
            assert!(!text.is_empty() && !text.contains(|c: char| c.is_control() || c == ' '), "{text}");
            assert_eq!(unescape(&text), bytes);
        }
    }

    #[test]
    fn fields_keep_their_order_and_doubles() {
        let fields: BusFields =
            [("b", &b"x=y&z"[..]), ("a", b""), ("b", b"\0\xff")].map(|(name, value)| (name.into(), Bytes::copy_from_slice(value))).to_vec();
        assert_eq!(split(&join(&fields)), fields);
        assert_eq!(split(&join(&BusFields::new())), BusFields::new());
    }

    #[test]
    fn foreign_text_stays_as_it_is() {
        for text in ["100%", "%zz", "a%4", "ü%"] {
            assert_eq!(unescape(text), text.as_bytes());
        }
    }
}
