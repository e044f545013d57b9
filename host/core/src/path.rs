//! One canonical path, made once, used for matching, plugins and upstream.
//!
//! A gateway that matches one spelling and forwards another can be walked around. So a path is brought into one form
//! (RFC 3986 section 6.2.2) before anybody looks at it, and what has no single safe meaning is refused:
//!
//! - percent-encoded unreserved characters are decoded, hexadecimal digits are upper case;
//! - `.` and `..` segments are resolved; a `..` above the root is refused;
//! - runs of `/` become one;
//! - characters that browsers send raw although a URI may not hold them (`"<>^` and the like) are percent-encoded;
//! - refused: `\`, control characters and bytes beyond ASCII, broken percent-encoding, an encoded `/`, `\` or NUL, a
//!   `%25` that hides one of those or a dot (decoding twice would reveal it), UTF-8 sequences longer than they may be
//!   (`%C0%AE` is a dot to a careless decoder), and dot segments with path parameters (`..;x`, `..%3Bx`), which some
//!   servers strip before they resolve.

use std::fmt;

/// Why a path has no canonical form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadPath {
    /// It does not begin with `/`.
    NotAbsolute,
    /// A raw byte that no path may hold.
    BadByte(u8),
    /// `%` without two hexadecimal digits.
    BadEncoding,
    /// An encoded byte that must not be hidden, or `%25` in front of one.
    HiddenByte(u8),
    /// A dot segment with parameters.
    DotParameters,
    /// More `..` than segments.
    AboveRoot,
}

impl fmt::Display for BadPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadPath::NotAbsolute => f.write_str("the path does not begin with /"),
            BadPath::BadByte(byte) => write!(f, "byte 0x{byte:02x} may not stand in a path"),
            BadPath::BadEncoding => f.write_str("% without two hexadecimal digits"),
            BadPath::HiddenByte(byte) => write!(f, "an encoded 0x{byte:02x} may not stand in a path"),
            BadPath::DotParameters => f.write_str("a dot segment with parameters"),
            BadPath::AboveRoot => f.write_str("the path leads above the root"),
        }
    }
}

impl std::error::Error for BadPath {}

/// Brings a path into its canonical form. `Ok(None)`: it has it already (the usual case; nothing is allocated).
///
/// # Errors
/// A path that has no single safe meaning.
pub fn canonical(path: &[u8]) -> Result<Option<Vec<u8>>, BadPath> {
    if is_canonical(path) { Ok(None) } else { rewrite(path).map(Some) }
}

/// Has this path its canonical form already?
pub fn is_canonical(path: &[u8]) -> bool {
    if path.first() != Some(&b'/') {
        return false;
    }
    // One pass over the bytes; only what is behind a `/` or a `%` is looked at twice.
    let mut rest = path;
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        match class(byte) {
            PLAIN => {}
            SLASH => match behind {
                [b'/', ..] => return false,
                [b'.', ..] if is_dot_segment(behind) => return false,
                _ => {}
            },
            PERCENT => {
                let Some((&[high, low], behind)) = behind.split_first_chunk::<2>() else { return false };
                let (Some(decoded), false) = (pair(high, low), high.is_ascii_lowercase() || low.is_ascii_lowercase()) else {
                    return false;
                };
                if is_unreserved(decoded) || hidden(decoded, behind).is_some() {
                    return false;
                }
                rest = behind;
            }
            _ => return false,
        }
    }
    true
}

const PLAIN: u8 = 0;
const SLASH: u8 = 1;
const PERCENT: u8 = 2;
const ENCODE: u8 = 3;
const REFUSE: u8 = 4;

#[allow(clippy::indexing_slicing, reason = "a table of 256 is indexed by a byte")]
fn class(byte: u8) -> u8 {
    CLASS[byte as usize]
}

/// What each byte of a path asks for. Plain are RFC 3986's `pchar` without `%`.
#[allow(clippy::indexing_slicing, reason = "evaluated by the compiler")]
static CLASS: [u8; 256] = {
    let mut class = [REFUSE; 256];
    let mut at = 0;
    while at < 128 {
        let byte = at as u8;
        class[at] = match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => PLAIN,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@' => PLAIN,
            b'/' => SLASH,
            b'%' => PERCENT,
            b'"' | b'<' | b'>' | b'[' | b']' | b'^' | b'`' | b'{' | b'|' | b'}' => ENCODE,
            _ => REFUSE,
        };
        at += 1;
    }
    class
};

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Does `rest`, which stands behind a `/`, begin with `.` or `..` as a whole segment, parameters or not? An encoded `;`
/// counts, however often it is encoded: whoever decodes first and strips parameters then resolves the dots.
fn is_dot_segment(rest: &[u8]) -> bool {
    let dots = rest.iter().take_while(|&&byte| byte == b'.').count();
    let behind = rest.get(dots..).unwrap_or_default();
    (1..=2).contains(&dots) && (matches!(behind, [] | [b'/' | b';', ..]) || behind.starts_with(b"%3B") || behind.starts_with(b"%25"))
}

fn digit(byte: u8) -> Option<u8> {
    (byte as char).to_digit(16).map(|digit| digit as u8)
}

fn pair(high: u8, low: u8) -> Option<u8> {
    Some(digit(high)? << 4 | digit(low)?)
}

/// A decoded byte that must not be hidden: `/`, `\`, NUL, or a `%` that hides one of them, a dot or another `%` from
/// whoever decodes once more.
fn hidden(decoded: u8, rest: &[u8]) -> Option<u8> {
    match decoded {
        0 | b'/' | b'\\' => Some(decoded),
        // Overlong: the same character has a shorter form, which is the only valid one.
        0xc0 | 0xc1 => followed_by(rest, 0xbf).then_some(decoded),
        0xe0 => followed_by(rest, 0x9f).then_some(decoded),
        0xf0 => followed_by(rest, 0x8f).then_some(decoded),
        b'%' => {
            let (&high, &low) = (rest.first()?, rest.get(1)?);
            // The fuzzer must find that a dot may hide (see `tests/fuzz/planted`).
            #[cfg(wharf_planted)]
            return pair(high, low).filter(|twice| matches!(twice, 0 | b'/' | b'\\' | b'%'));
            #[cfg(not(wharf_planted))]
            pair(high, low).filter(|twice| matches!(twice, 0 | b'/' | b'\\' | b'.' | b'%'))
        }
        _ => None,
    }
}

/// Does `rest` begin with an encoded byte from 0x80 to `last`?
fn followed_by(rest: &[u8], last: u8) -> bool {
    match *rest {
        [b'%', high, low, ..] => pair(high, low).is_some_and(|byte| (0x80..=last).contains(&byte)),
        _ => false,
    }
}

fn rewrite(path: &[u8]) -> Result<Vec<u8>, BadPath> {
    if path.first() != Some(&b'/') {
        return Err(BadPath::NotAbsolute);
    }
    let mut decoded = Vec::with_capacity(path.len() + 8);
    let mut rest = path;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match class(byte) {
            PERCENT => {
                let (Some(&high), Some(&low)) = (tail.first(), tail.get(1)) else { return Err(BadPath::BadEncoding) };
                let value = pair(high, low).ok_or(BadPath::BadEncoding)?;
                rest = tail.get(2..).unwrap_or_default();
                if is_unreserved(value) { decoded.push(value) } else { encode(&mut decoded, value) }
            }
            ENCODE => encode(&mut decoded, byte),
            REFUSE => return Err(BadPath::BadByte(byte)),
            _ => decoded.push(byte),
        }
    }
    // What hides is looked for in what has been decoded: `%25%32e` holds no hidden dot, what becomes of it does.
    let mut rest = decoded.as_slice();
    while let Some(&byte) = rest.first() {
        rest = rest.get(1..).unwrap_or_default();
        if byte == b'%'
            && let Some(&[high, low]) = rest.first_chunk::<2>()
            && let Some(value) = pair(high, low)
            && let Some(byte) = hidden(value, rest.get(2..).unwrap_or_default())
        {
            return Err(BadPath::HiddenByte(byte));
        }
    }
    resolve(&decoded)
}

fn encode(out: &mut Vec<u8>, byte: u8) {
    let upper = |digit: u8| if digit < 10 { b'0' + digit } else { b'A' + digit - 10 };
    out.extend([b'%', upper(byte >> 4), upper(byte & 15)]);
}

/// Resolves dot segments and runs of `/` in a path whose unreserved characters are decoded.
fn resolve(path: &[u8]) -> Result<Vec<u8>, BadPath> {
    let mut out: Vec<u8> = Vec::with_capacity(path.len());
    let mut segments = path.split(|&byte| byte == b'/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            b"" | b"." => {
                if last {
                    out.push(b'/');
                }
            }
            b".." => {
                let up = out.iter().rposition(|&byte| byte == b'/').ok_or(BadPath::AboveRoot)?;
                out.truncate(up);
                if last {
                    out.push(b'/');
                }
            }
            name if is_dot_segment(name) => return Err(BadPath::DotParameters),
            name => {
                out.push(b'/');
                out.extend_from_slice(name);
            }
        }
    }
    if out.is_empty() {
        out.push(b'/');
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: Result<&str, BadPath>) {
        let made = canonical(path.as_bytes()).map(|new| new.map_or(path.into(), |new| String::from_utf8(new).unwrap()));
        assert_eq!(made.as_deref(), expected.as_ref().map(|path| *path), "{path:?}");
        if let Ok(made) = made {
            assert!(is_canonical(made.as_bytes()), "{path:?} gave {made:?}, which is not canonical");
        }
    }

    #[test]
    fn every_path_has_one_form_or_none() {
        for same in ["/", "/a", "/a/", "/a/b.c/~x", "/a%20b", "/a;v=1", "/...", "/a/b;..x", "/%3B", "/.hidden", "/..a", "/100%25", "/a:b@c"]
        {
            check(same, Ok(same));
        }
        check("//", Ok("/"));
        check("/a//b///c", Ok("/a/b/c"));
        check("/a/./b", Ok("/a/b"));
        check("/a/.", Ok("/a/"));
        check("/a/b/..", Ok("/a/"));
        check("/a/b/../c", Ok("/a/c"));
        check("/a/%2e%2E/b", Ok("/b"));
        check("/%41%7e", Ok("/A~"));
        check("/%3b%c3%a9", Ok("/%3B%C3%A9"));
        check("/a|b\"", Ok("/a%7Cb%22"));
        check("/a/..", Ok("/"));
        check("/..", Err(BadPath::AboveRoot));
        check("/a/../..", Err(BadPath::AboveRoot));
        check("/a/..;x/b", Err(BadPath::DotParameters));
        check("/a/.;/b", Err(BadPath::DotParameters));
        check("/%2e%2e;x", Err(BadPath::DotParameters));
        check("/a/..%3bx", Err(BadPath::DotParameters));
        check("/a/.%3B", Err(BadPath::DotParameters));
        check("/a/..%253B/b", Err(BadPath::DotParameters));
        check("/.%C3%A9/..%20", Ok("/.%C3%A9/..%20"));
        check("/a%2fb", Err(BadPath::HiddenByte(b'/')));
        check("/a%5Cb", Err(BadPath::HiddenByte(b'\\')));
        check("/a%00", Err(BadPath::HiddenByte(0)));
        check("/%252e%252e/", Err(BadPath::HiddenByte(b'.')));
        check("/%25252e", Err(BadPath::HiddenByte(b'%')));
        check("/%252F", Err(BadPath::HiddenByte(b'/')));
        check("/%25%32e", Err(BadPath::HiddenByte(b'.')));
        check("/%25%32%65%25%32%65/a", Err(BadPath::HiddenByte(b'.')));
        check("/%25%35%43", Err(BadPath::HiddenByte(b'\\')));
        check("/%C0%AE%C0%AE/a", Err(BadPath::HiddenByte(0xc0)));
        check("/a/%c1%9ca", Err(BadPath::HiddenByte(0xc1)));
        check("/%e0%80%ae", Err(BadPath::HiddenByte(0xe0)));
        check("/%F0%80%80%AF", Err(BadPath::HiddenByte(0xf0)));
        // In Latin-1, and where the form is the shortest.
        check("/%C0%20propos", Ok("/%C0%20propos"));
        check("/%E0%A0%80%F0%90%80%80", Ok("/%E0%A0%80%F0%90%80%80"));
        check("/%", Err(BadPath::BadEncoding));
        check("/%4", Err(BadPath::BadEncoding));
        check("/%zz", Err(BadPath::BadEncoding));
        check("/a\\b", Err(BadPath::BadByte(b'\\')));
        check("/a b", Err(BadPath::BadByte(b' ')));
        check("/a\u{e9}", Err(BadPath::BadByte(0xc3)));
        check("/a?b", Err(BadPath::BadByte(b'?')));
        check("a", Err(BadPath::NotAbsolute));
        check("", Err(BadPath::NotAbsolute));
    }

    #[test]
    fn bringing_into_form_twice_changes_nothing_more() {
        // Every string of up to six of the characters that matter.
        let alphabet = [b'/', b'.', b'%', b'2', b'e', b';', b'a', b'|'];
        let mut word = vec![0usize];
        while word.len() <= 6 {
            let mut path = vec![b'/'];
            path.extend(word.iter().map(|&at| alphabet[at]));
            if let Ok(Some(made)) = canonical(&path) {
                assert!(is_canonical(&made), "{:?} -> {:?}", String::from_utf8_lossy(&path), String::from_utf8_lossy(&made));
            }
            let mut at = 0;
            loop {
                if at == word.len() {
                    word.push(0);
                    break;
                }
                word[at] += 1;
                if word[at] < alphabet.len() {
                    break;
                }
                word[at] = 0;
                at += 1;
            }
        }
    }
}
