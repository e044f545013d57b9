//! What the host will refuse, so that a plugin can look before it answers. The host checks all the same.

pub use crate::lookup::hash;

/// At most this many facts in one list of [`crate::Needs`].
pub const FACTS_MAX: usize = 64;
/// At most this many edits in one answer.
pub const EDITS_MAX: usize = 64;
/// At most this much text in one answer, bytes.
pub const EDIT_TEXT_MAX: usize = 32 * 1024;
/// Longest attribute value, bytes.
pub const ATTR_VALUE_MAX: usize = 1024;
/// Longest attribute name, bytes.
pub const ATTR_NAME_MAX: usize = 64;

/// Is this a field name: a token (RFC 9110 section 5.6.2) in lower case?
pub fn is_field_name(name: &str) -> bool {
    !name.is_empty()
        && name.bytes().all(|byte| {
            matches!(byte,
                b'a'..=b'z' | b'0'..=b'9' | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
        })
}

/// May this stand in a field: no control characters but the tab?
pub fn is_field_value(value: &str) -> bool {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    // Eight bytes at a time: is one of them below 0x20, or 0x7f? Nearly never; then each is looked at.
    let odd = |word: u64| {
        let zero = word ^ (ONES * 0x7f);
        ((word.wrapping_sub(ONES * 0x20) & !word) | (zero.wrapping_sub(ONES) & !zero)) & (ONES << 7) != 0
    };
    let good = |byte: &u8| (*byte >= 0x20 && *byte != 0x7f) || *byte == b'\t';
    let (words, rest) = value.as_bytes().as_chunks::<8>();
    words.iter().all(|word| !odd(u64::from_ne_bytes(*word)) || word.iter().all(good)) && rest.iter().all(good)
}

/// Is this field the host's own business, so that no plugin may set or remove it? Nor may it in another spelling, with `_`
/// for `-`, which many upstreams read as one.
pub fn is_hosts_own(name: &str) -> bool {
    if name.contains('_') {
        return is_hosts_own(&name.replace('_', "-"));
    }
    matches!(
        name,
        "host"
            | "content-length"
            | "transfer-encoding"
            | "connection"
            | "upgrade"
            | "te"
            | "trailer"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "http2-settings"
            | "forwarded"
            | "x-real-ip"
    ) || name.starts_with("x-forwarded-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_that_could_split_a_head_are_told_apart() {
        for (name, good) in [("x-a", true), ("", false), ("X-A", false), ("a b", false), ("a:", false), ("a\r\nb", false), ("ä", false)] {
            assert_eq!(is_field_name(name), good, "{name:?}");
        }
        for (value, good) in [
            ("", true),
            ("a\tb", true),
            ("ä", true),
            ("a\r\nb", false),
            ("a\0", false),
            ("\u{7f}", false),
            ("0123456\t89", true),
            ("0123456\n89", false),
            ("0123456\u{7f}", false),
            ("äöüß....", true),
        ] {
            assert_eq!(is_field_value(value), good, "{value:?}");
        }
        assert!(is_hosts_own("x-forwarded-for") && is_hosts_own("host") && !is_hosts_own("x-forward"));
        assert!(is_hosts_own("proxy-authorization") && is_hosts_own("http2_settings"));
        assert!(is_hosts_own("x_forwarded-for") && !is_hosts_own("x_consumer"));
    }
}
