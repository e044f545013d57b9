//! Tests of a request beside host, path and method: header fields, query arguments, cookies, the client's address.
//!
//! Names and values of a query are compared decoded, as the upstream will read them; a name given twice fits if one of its
//! values does, and is `absent` only if there is none.

use super::Arrival;
use crate::house::Cidr;
use crate::pattern::Pattern;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use wharf_core::head::{Known, RequestHead, Scheme, text};

/// One test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// Of a field, by its lower-case name.
    Header(Box<str>, Wanted),
    /// Of a query argument, by its decoded name.
    Query(Box<str>, Wanted),
    /// Of a cookie, by its name.
    Cookie(Box<str>, Wanted),
    /// The client's address is in one of these.
    Source(Vec<Cidr>),
    /// The connection is by TLS, or is not.
    Scheme(Scheme),
    /// The connection came in by one of these listeners.
    Listener(Vec<Arc<str>>),
}

/// What is wanted of something with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// There is one.
    Present,
    /// There is none.
    Absent,
    /// One of that name has exactly this value.
    Exact(Box<[u8]>),
    /// The value of one begins with this.
    Prefix(Box<[u8]>),
    /// The pattern fits the whole value of one.
    Regex(Pattern),
}

impl Test {
    /// Does the request pass?
    pub(crate) fn fits(&self, head: &RequestHead, from: Arrival<'_>) -> bool {
        match self {
            Test::Header(name, wanted) => wanted.fits(head.fields.all(name.as_bytes()).map(Cow::Borrowed)),
            Test::Query(name, wanted) => {
                let named = arguments(head.query_bytes().unwrap_or_default()).filter(|(have, _)| **have == *name.as_bytes());
                wanted.fits(named.map(|(_, value)| value))
            }
            Test::Cookie(name, wanted) => {
                let named = cookies(head).filter(|(have, _)| *have == name.as_bytes());
                wanted.fits(named.map(|(_, value)| Cow::Borrowed(value)))
            }
            Test::Scheme(wanted) => head.scheme == *wanted,
            Test::Source(ranges) => ranges.iter().any(|range| range.holds(from.client)),
            Test::Listener(names) => names.iter().any(|name| **name == *from.listener),
        }
    }
}

impl Wanted {
    /// Does this value by itself?
    pub(crate) fn fits_one(&self, value: &[u8]) -> bool {
        self.fits(std::iter::once(Cow::Borrowed(value)))
    }

    fn fits<'v>(&self, mut values: impl Iterator<Item = Cow<'v, [u8]>>) -> bool {
        match self {
            Wanted::Present => values.next().is_some(),
            Wanted::Absent => values.next().is_none(),
            Wanted::Exact(wanted) => values.any(|value| *value == **wanted),
            Wanted::Prefix(wanted) => values.any(|value| value.starts_with(wanted)),
            Wanted::Regex(pattern) => values.any(|value| pattern.fits(&text(&value))),
        }
    }
}

/// What the test is of, for people.
impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Test::Header(name, _) => write!(f, "header `{name}`"),
            Test::Query(name, _) => write!(f, "query argument `{name}`"),
            Test::Cookie(name, _) => write!(f, "cookie `{name}`"),
            Test::Scheme(_) => f.write_str("the scheme"),
            Test::Source(_) => f.write_str("the client's address"),
            Test::Listener(_) => f.write_str("the listener"),
        }
    }
}

/// The arguments of a query, decoded.
pub(crate) fn arguments(query: &[u8]) -> impl Iterator<Item = (Cow<'_, [u8]>, Cow<'_, [u8]>)> {
    query.split(|&byte| byte == b'&').filter(|pair| !pair.is_empty()).map(|pair| {
        let mut halves = pair.splitn(2, |&byte| byte == b'=');
        let mut half = || decoded(halves.next().unwrap_or_default(), true);
        (half(), half())
    })
}

/// The cookies of a request (RFC 6265 section 5.4), as they stand.
pub(crate) fn cookies(head: &RequestHead) -> impl Iterator<Item = (&[u8], &[u8])> {
    let pairs = head.fields.known_all(Known::Cookie).flat_map(|field| field.split(|&byte| byte == b';'));
    pairs.filter_map(|pair| {
        let pair = pair.trim_ascii();
        let at = pair.iter().position(|&byte| byte == b'=')?;
        Some((pair.get(..at)?.trim_ascii(), pair.get(at + 1..)?.trim_ascii()))
    })
}

/// Percent-encoding undone once; in forms `+` is a space. What is no encoding stays as it is.
pub(crate) fn decoded(text: &[u8], form: bool) -> Cow<'_, [u8]> {
    if !text.iter().any(|&byte| byte == b'%' || (form && byte == b'+')) {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        match (byte, behind) {
            (b'%', &[high, low, ref tail @ ..]) => match (digit(high), digit(low)) {
                (Some(high), Some(low)) => {
                    out.push(high << 4 | low);
                    rest = tail;
                }
                _ => out.push(byte),
            },
            (b'+', _) if form => out.push(b' '),
            _ => out.push(byte),
        }
    }
    Cow::Owned(out)
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;
    use wharf_core::head::Method;

    const CLIENT: Arrival<'_> = Arrival { client: IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 2, 3)), listener: "web" };

    fn check(test: &Test, query: &str, cookie: &str, fits: bool) {
        let mut head = RequestHead::from_text(Method::Get, "h", "/", Some(query));
        head.fields.add(b"cookie", cookie.as_bytes());
        head.fields.add(b"x-a", b"one");
        head.fields.add(b"x-a", b"two");
        assert_eq!(test.fits(&head, CLIENT), fits, "{test:?} ? {query} ; {cookie}");
    }

    #[test]
    fn a_name_fits_if_one_of_its_values_does() {
        let header = |wanted| Test::Header("x-a".into(), wanted);
        for (wanted, fits) in [
            (Wanted::Present, true),
            (Wanted::Absent, false),
            (Wanted::Exact(b"two"[..].into()), true),
            (Wanted::Exact(b"one, two"[..].into()), false),
            (Wanted::Prefix(b"tw"[..].into()), true),
            (Wanted::Regex(Pattern::whole("o.e").unwrap()), true),
            (Wanted::Regex(Pattern::whole("o").unwrap()), false),
        ] {
            check(&header(wanted), "", "", fits);
        }
        check(&Test::Header("x-b".into(), Wanted::Absent), "", "", true);
    }

    #[test]
    fn a_query_argument_is_found_however_it_is_encoded() {
        let test = Test::Query("a b".into(), Wanted::Exact(b"1&2"[..].into()));
        for (query, fits) in [
            ("a+b=1%262", true),
            ("x=1&%61%20b=1%262", true),
            ("a+b=0&a+b=1%262", true),
            ("a+b", false),
            ("a+b=1", false),
            ("", false),
            ("A+b=1%262", false),
        ] {
            check(&test, query, "", fits);
        }
        check(&Test::Query("debug".into(), Wanted::Present), "a=1&debug", "", true);
        check(&Test::Query("debug".into(), Wanted::Absent), "d%65bug=", "", false);
        check(&Test::Query("n".into(), Wanted::Regex(Pattern::whole("[0-9]+").unwrap())), "n=%31%32", "", true);
    }

    #[test]
    fn a_cookie_is_found_among_others_and_not_in_their_values() {
        let test = Test::Cookie("lane".into(), Wanted::Exact(b"gray"[..].into()));
        for (cookie, fits) in
            [("lane=gray", true), ("a=1; lane=gray; b=2", true), ("a=lane=gray", false), ("xlane=gray", false), ("lane", false)]
        {
            check(&test, "", cookie, fits);
        }
    }

    #[test]
    fn a_source_is_the_clients_address() {
        let range = |address: [u8; 4], bits| Cidr { address: IpAddr::from(address), bits };
        check(&Test::Source(vec![range([192, 168, 0, 0], 16), range([10, 0, 0, 0], 8)]), "", "", true);
        check(&Test::Source(vec![range([10, 2, 0, 0], 16)]), "", "", false);
    }
}
