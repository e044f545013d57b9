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
//!   (`%C0%AE` is a dot to a careless decoder, `%C0%2E` to one that is more careless still), and dot segments with what
//!   some servers take off before they resolve: path parameters (`..;x`, `..%3Bx`), blanks (`..%20`), and what they
//!   take for the end of the path (`..%3Fx`, `..%0A`);
//! - refused, too: an encoded CR or LF with a `/` behind it. Some end the path there, others leave it out and read on
//!   (Python's and the WHATWG's parsers of URLs), so no route would be right for both.
//!
//! What such a server makes of the other segments is for those who match paths: [`carelessly`].

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
    /// A dot segment with parameters, blanks or an end of the path that some see there.
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
            BadPath::DotParameters => f.write_str("a dot segment with more in it than dots"),
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
    let (mut rest, mut slash) = (path, None);
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        match class(byte) {
            PLAIN => {}
            SLASH => match behind {
                [b'/', ..] => return false,
                [b'.', ..] if is_dot_segment(behind) => return false,
                _ => {}
            },
            PERCENT => match escape(path, behind, &mut slash) {
                Some(behind) => rest = behind,
                None => return false,
            },
            _ => return false,
        }
    }
    true
}

/// What stands behind two digits, which stand behind a `%`; `None`: this is not how they stand in a canonical path. Not
/// inlined: most paths have none, and are looked at faster without.
#[inline(never)]
fn escape<'p>(path: &[u8], digits: &'p [u8], slash: &mut Option<usize>) -> Option<&'p [u8]> {
    let (&[high, low], behind) = digits.split_first_chunk::<2>()?;
    let decoded = pair(high, low).filter(|_| !high.is_ascii_lowercase() && !low.is_ascii_lowercase())?;
    if is_unreserved(decoded) || hidden(decoded, behind).is_some() || breaks_line(decoded, behind, path, slash).is_some() {
        return None;
    }
    // The dots of a segment may stand behind blanks: `/%20..`. These are the bytes that blanks begin with.
    let blank = matches!(decoded, 0..=b' ' | b'%' | 0x85 | 0xa0 | 0xc2 | 0xe1..=0xe3 | 0xef);
    if blank
        && let Some((before, segment)) = path.split_at_checked(path.len() - digits.len() - 1)
        && before.ends_with(b"/")
        && is_dot_segment(segment)
    {
        return None;
    }
    Some(behind)
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

/// Does `rest`, which stands behind a `/`, begin with a segment that some resolve as `.` or `..`? They decode first, take
/// blanks off, or control characters out, and strip what follows a `;` or what they take for the end of the path.
fn is_dot_segment(rest: &[u8]) -> bool {
    let mut dots = 0;
    let mut rest = rest;
    while let Some((char, behind)) = read_char(rest) {
        match char {
            '.' => dots += 1,
            '/' | ';' | '?' | '#' => break,
            // A name with `%` in it is no path of anybody, and whoever decodes once more may read anything there.
            '%' if dots > 0 => break,
            // Some cut here, others read on without it.
            '\r' | '\n' if dots == 1 || dots == 2 => break,
            blank if is_blank(blank) => {}
            _ => return false,
        }
        rest = behind;
    }
    dots == 1 || dots == 2
}

/// What somebody takes off the ends of a name: Java's `trim` all up to the space, Python's `strip` and Unicode's
/// `White_Space` U+0085 and U+00A0 and those far behind, JavaScript's `trim` U+FEFF.
fn is_blank(char: char) -> bool {
    char <= ' ' || char.is_whitespace() || char == '\u{feff}'
}

/// The next byte of a path as it is read by whoever decodes until nothing changes. Twice is as often as that can be: in a
/// canonical path no `%25` stands in front of an encoded `%`.
fn read_byte(path: &[u8]) -> Option<(u8, &[u8])> {
    let undone = |path: &[u8]| match *path {
        [b'%', high, low, ..] => pair(high, low),
        _ => None,
    };
    let behind = |bytes: usize| path.get(bytes..).unwrap_or_default();
    match undone(path) {
        None => path.split_first().map(|(&byte, rest)| (byte, rest)),
        Some(b'%') => match behind(3).split_first_chunk::<2>().and_then(|(&[high, low], rest)| Some((pair(high, low)?, rest))) {
            Some(twice) => Some(twice),
            None => Some((b'%', behind(3))),
        },
        Some(byte) => Some((byte, behind(3))),
    }
}

/// The next character, read likewise: of UTF-8, or of Latin-1 where it is none.
fn read_char(path: &[u8]) -> Option<(char, &[u8])> {
    let (first, behind) = read_byte(path)?;
    if first >= 0xc2 {
        let mut bytes = [first, 0, 0, 0];
        let mut rest = behind;
        for have in 2..=4 {
            let Some((byte, tail)) = read_byte(rest) else { break };
            rest = tail;
            if let Some(place) = bytes.get_mut(have - 1) {
                *place = byte;
            }
            let text = bytes.get(..have).and_then(|bytes| std::str::from_utf8(bytes).ok());
            if let Some(char) = text.and_then(|text| text.chars().next()) {
                return Some((char, rest));
            }
        }
    }
    Some((char::from(first), behind))
}

/// A segment as a careless upstream reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Careless {
    /// Its name, in canonical form.
    pub name: Vec<u8>,
    /// The path ends in it.
    pub ends: bool,
}

/// How a careless upstream reads a segment of a canonical path, where that differs from how it stands: percent-encoding
/// undone again and again, without parameters, tabs, and blanks at its ends, and cut where a parser that is given decoded
/// text sees the end of the path (RFC 3986 section 3.3: `?` and `#`; CR and LF end a line). There is no `/` to be found:
/// where one hides the path was refused.
#[cold]
pub fn carelessly(segment: &[u8]) -> Option<Careless> {
    if !segment.iter().any(|byte| matches!(byte, b'%' | b';')) {
        return None;
    }
    let (mut name, mut ends) = (Vec::with_capacity(segment.len()), false);
    // How much of the name there is without the blanks at its end; what stands behind a `;` is parameters.
    let (mut kept, mut named) = (0, true);
    let mut rest = segment;
    while let Some((char, behind)) = read_char(rest) {
        if matches!(char, '?' | '#' | '\r' | '\n') {
            ends = true;
            break;
        }
        // Left out wherever it stands, by Python's and the WHATWG's parsers of URLs.
        if char == '\t' {
            rest = behind;
            continue;
        }
        named = named && char != ';';
        let blank = is_blank(char);
        while named && rest.len() > behind.len() && (!blank || kept > 0) {
            let Some((byte, tail)) = read_byte(rest) else { break };
            if class(byte) == PLAIN {
                name.push(byte)
            } else {
                encode(&mut name, byte)
            }
            rest = tail;
        }
        if named && !blank {
            kept = name.len();
        }
        rest = behind;
    }
    name.truncate(kept);
    Some(Careless { name, ends })
}

fn digit(byte: u8) -> Option<u8> {
    (byte as char).to_digit(16).map(|digit| digit as u8)
}

fn pair(high: u8, low: u8) -> Option<u8> {
    Some(digit(high)? << 4 | digit(low)?)
}

/// A decoded byte that must not be hidden: `/`, `\`, NUL, what a careless decoder makes one of them or a dot of, or a `%`
/// that hides one of all these or another `%` from whoever decodes once more.
fn hidden(decoded: u8, rest: &[u8]) -> Option<u8> {
    match decoded {
        0 | b'/' | b'\\' => Some(decoded),
        b'%' => {
            let (&[high, low], behind) = rest.split_first_chunk::<2>()?;
            let twice = pair(high, low)?;
            // The fuzzer must find that a slash may hide (see `tests/fuzz/planted`).
            #[cfg(wharf_planted)]
            let hides = matches!(twice, 0 | b'\\' | b'.' | b'%');
            #[cfg(not(wharf_planted))]
            let hides = matches!(twice, 0 | b'/' | b'\\' | b'.' | b'%');
            (hides || is_overlong(twice, behind)).then_some(twice)
        }
        _ => is_overlong(decoded, rest).then_some(decoded),
    }
}

/// A decoded CR or LF, encoded once or twice, that does not stand in the last segment. `slash` is where that one begins,
/// looked for once.
fn breaks_line(decoded: u8, behind: &[u8], path: &[u8], slash: &mut Option<usize>) -> Option<u8> {
    let byte = match (decoded, behind) {
        (b'%', &[high, low, ..]) => pair(high, low)?,
        _ => decoded,
    };
    if !matches!(byte, b'\r' | b'\n') {
        return None;
    }
    let slash = *slash.get_or_insert_with(|| path.iter().rposition(|&byte| byte == b'/').unwrap_or_default());
    (path.len() - behind.len() <= slash).then_some(byte)
}

/// Does this byte, with what follows, stand for a character that has a shorter form, which is the only valid one (RFC 3629
/// section 3)? `rest` is read decoded. A decoder that does not look at what follows takes its low six bits, whatever it is:
/// to that one `%C0n` is a dot, too. So that counts where it makes `/`, `\`, NUL or a dot.
fn is_overlong(first: u8, rest: &[u8]) -> bool {
    // Of those that follow the first: how many, and the highest second byte that says nothing a shorter form could not.
    let (more, second_max) = match first {
        0xc0 | 0xc1 => (1, 0xbf),
        0xe0 => (2, 0x9f),
        0xf0 => (3, 0x8f),
        // Forms that were UTF-8 before RFC 3629 (RFC 2279 section 2), and what some make of the pattern.
        0xf8 => (4, 0x87),
        0xfc => (5, 0x83),
        0xfe => (6, 0x81),
        0xff => (7, 0x80),
        _ => return false,
    };
    let Some((second, mut rest)) = read_byte(rest) else { return false };
    if (0x80..=second_max).contains(&second) {
        return true;
    }
    // The usual case, or else what follows is looked at for nothing: with these bits it is no ASCII.
    if more > 1 && second & 0x3f > 1 {
        return false;
    }
    let mut value = u64::from(first == 0xc1) << 6 | u64::from(second & 0x3f);
    for _ in 1..more {
        let Some((byte, tail)) = read_byte(rest) else { return false };
        value = value << 6 | u64::from(byte & 0x3f);
        rest = tail;
    }
    matches!(u8::try_from(value), Ok(0 | b'/' | b'\\' | b'.'))
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
    let (mut rest, mut slash) = (decoded.as_slice(), None);
    while let Some(&byte) = rest.first() {
        rest = rest.get(1..).unwrap_or_default();
        if byte == b'%'
            && let Some((&[high, low], behind)) = rest.split_first_chunk::<2>()
            && let Some(value) = pair(high, low)
            && let Some(byte) = hidden(value, behind).or_else(|| breaks_line(value, behind, &decoded, &mut slash))
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
        check("/a/b%0D%0Ac", Ok("/a/b%0D%0Ac"));
        check("/a%0d/b", Err(BadPath::HiddenByte(b'\r')));
        check("/a/b%250Ac/", Err(BadPath::HiddenByte(b'\n')));
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
    fn dots_with_what_some_servers_take_off_are_refused() {
        for blank in
            ["%01", "%09", "%0a", "%0B", "%0C", "%0D%0A", "%1c", "%1F", "%20", "%20%09", "%85", "%a0", "%C2%85", "%C2%A0", "%E2%80%80"]
        {
            for path in ["/x/..@", "/x/.@", "/..@;x", "/..@%3F", "/%2e%2E@", "/x/@..", "/@.@.@"] {
                check(&path.replace('@', blank), Err(BadPath::DotParameters));
            }
            // A CR or LF is refused before the dots are seen.
            let line = blank.contains("%0D").then_some(b'\r').or(blank.contains("%0a").then_some(b'\n'));
            for path in ["/x/..@/admin", "/.@/y", "/@.@.@/x"] {
                check(&path.replace('@', blank), Err(line.map_or(BadPath::DotParameters, BadPath::HiddenByte)));
            }
            check(&format!("/..{}", blank.replace('%', "%25")), Err(BadPath::DotParameters));
        }
        for path in ["/..%3F", "/..%3fx", "/..%23x/y", "/.%23", "/..%0Ax", "/..%0dx", "/..%253F", "/..%25", "/.%20;x"] {
            check(path, Err(BadPath::DotParameters));
        }
        for same in
            ["/..%20x", "/...%20", "/.a%20", "/%20", "/%C2%A0", "/%20/x", "/.%C3%A0", "/..%C3%85", "/x%20..", "/a..%3F", "/.%E9t%E9"]
        {
            check(same, Ok(same));
        }
    }

    #[test]
    fn what_can_decode_to_a_dot_or_a_slash_is_refused_and_valid_text_never() {
        for (path, first) in [
            ("/%F8%80%80%80%AE", 0xf8),
            ("/%fc%80%80%80%80%af/x", 0xfc),
            ("/%FE%80%80%80%80%80%AE", 0xfe),
            ("/%FF%80%80%80%80%80%80%AE", 0xff),
            ("/%F8%00", 0),
            // What follows is not looked at by some.
            ("/%C0%2E%C0%2E/x", 0xc0),
            ("/..%c0/admin", 0xc0),
            ("/%C1%1C", 0xc1),
            ("/%C1%DC", 0xc1),
            ("/%C0n%C0n", 0xc0),
            ("/%E0@n", 0xe0),
            ("/%F0@@o", 0xf0),
            ("/%F8%C0@%C0n", 0xf8),
            // Encoded twice, all or half.
            ("/%25C0%25AE", 0xc0),
            ("/%25c0.", 0xc0),
            ("/%C0%25ae", 0xc0),
            ("/%25E0%80%25AF", 0xe0),
            ("/%25f8%2580%2580%2580%25ae", 0xf8),
        ] {
            check(path, Err(BadPath::HiddenByte(first)));
        }
        // Words in UTF-8 that hold these bytes, the first and last of each length, and a little Latin-1.
        for char in ['à', 'Å', 'À', 'Á', '\u{80}', '\u{7ff}', '\u{800}', '\u{ffff}', '\u{10000}', '\u{1002e}', '\u{10ffff}', 'अ', '😀']
        {
            let once: String = char.to_string().bytes().map(|byte| format!("%{byte:02X}")).collect();
            let twice = once.replace('%', "%25");
            for path in [format!("/{once}"), format!("/n{once}./o"), format!("/{once}n/{once}"), format!("/{twice}.")] {
                check(&path, Ok(&path));
            }
        }
        for same in ["/voil%E0/", "/sm%F8rrebr%F8d", "/%FCber", "/%C0", "/%C0%20propos", "/%C1lamo", "/%F0%E0n", "/%25C3%25A0", "/%E0%25"] {
            check(same, Ok(same));
        }
    }

    #[test]
    fn a_careless_reading_takes_off_parameters_blanks_and_what_is_behind_the_end() {
        let ends = |name: &str| Some((name.to_owned(), true));
        let goes_on = |name: &str| Some((name.to_owned(), false));
        for (segment, expected) in [
            ("admin", None),
            ("admin;x", goes_on("admin")),
            ("admin%3Bx%3Dy", goes_on("admin")),
            ("admin%253B", goes_on("admin")),
            ("%2561dmin", goes_on("admin")),
            ("admin%3Fx", ends("admin")),
            ("admin%23", ends("admin")),
            ("admin%2523", ends("admin")),
            ("admin%0Dx", ends("admin")),
            ("admin%20%0D%0Ax", ends("admin")),
            ("admin;x%3Fy", ends("admin")),
            ("admin%20;x%20", goes_on("admin")),
            ("%20admin%C2%A0%A0%1F%E3%80%80", goes_on("admin")),
            ("admin%85", goes_on("admin")),
            ("admin%20x%20", goes_on("admin%20x")),
            ("caf%C3%A0", goes_on("caf%C3%A0")),
            ("caf%C3%A0;x", goes_on("caf%C3%A0")),
            ("caf%25C3%25A0%A0", goes_on("caf%C3%A0")),
            ("%C3%85", goes_on("%C3%85")),
            ("ad%09min", goes_on("admin")),
            (";x", goes_on("")),
            ("%20", goes_on("")),
            ("%3Fx", ends("")),
            ("100%25", goes_on("100%25")),
        ] {
            let read = carelessly(segment.as_bytes()).map(|read| (String::from_utf8(read.name).unwrap(), read.ends));
            assert_eq!(read, expected, "{segment}");
        }
    }

    #[test]
    fn bringing_into_form_twice_changes_nothing_more() {
        // Every string of up to six of the characters that matter, and of what hides in two alphabets more.
        for (longest, alphabet) in [
            (6, ["/", ".", "%", "2", "e", ";", "a", "|"]),
            (5, ["/", ".", "%20", "%C0", "%25", "n", ";", "%3F"]),
            (5, ["/", "..", "%C2", "%A0", "%2585", "%0A", "%E0", "@"]),
        ] {
            let mut word = vec![0usize];
            while word.len() <= longest {
                let path: String = std::iter::once("/").chain(word.iter().map(|&at| alphabet[at])).collect();
                if let Ok(made) = canonical(path.as_bytes()) {
                    let made = made.unwrap_or(path.as_bytes().to_vec());
                    assert!(is_canonical(&made), "{path:?} -> {:?}", String::from_utf8_lossy(&made));
                    // Nobody reads a dot segment where there is none.
                    let dots = made.split(|&byte| byte == b'/').filter_map(carelessly).find(|read| matches!(&*read.name, b"." | b".."));
                    assert_eq!(dots, None, "{path:?}");
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
}
