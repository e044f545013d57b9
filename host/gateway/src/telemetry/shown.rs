//! What may be shown of queries, forms and header fields: all but the values of secrets. Pure. JSON is read by `redact.rs`.

use super::access::TEXT_MAX;
use super::redact::{HIDDEN, says_with};
use crate::config::plan::Redact;
use crate::secret_names::{is_same, says};
use std::borrow::Cow;
use wharf_core::head::Fields;

/// Query arguments that are secrets where they are called by nothing else. In bodies these are nearly always something else.
const ALONE: [&str; 2] = ["key", "code"];

/// The value of a header field as it may be written: `***` for secrets, and URLs without those in them.
pub(super) fn header<'f>(fields: &'f Fields, name: &str, redact: &Redact) -> Option<Cow<'f, str>> {
    let value = fields.joined(name.as_bytes())?;
    if redact.headers.iter().any(|secret| is_same(secret, name)) || says(name.as_bytes()).hides(is_number(&value)) {
        return Some(HIDDEN.into());
    }
    Some(if value.contains(['?', '#', '@']) { url(&value, redact).into() } else { value })
}

/// A text with URLs in it, without who asks (`user:password@`) and the secrets of queries. What stands behind a `#` is taken for
/// a query, too: it is how some hand tokens over.
fn url(text: &str, redact: &Redact) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((scheme, behind)) = rest.split_once("://") {
        let (authority, behind) = behind.split_at(behind.find(['/', '?', '#', '>', ' ']).unwrap_or(behind.len()));
        out.push_str(scheme);
        out.push_str("://");
        match authority.rsplit_once('@') {
            Some((_, host)) => out.extend([HIDDEN, "@", host]),
            None => out.push_str(authority),
        }
        rest = behind;
    }
    out.push_str(rest);
    let (before, behind) = out.split_at(out.find(['?', '#']).unwrap_or(out.len()));
    format!("{before}{}", query(behind, redact))
}

/// A query as it may be written.
pub(super) fn query(query: &str, redact: &Redact) -> String {
    let query = query.get(..query.floor_char_boundary(TEXT_MAX)).unwrap_or_default();
    let shown = query.split('&').map(|argument| match before_secret(argument, &redact.query) {
        Some(shown) => format!("{shown}={HIDDEN}"),
        None => argument.to_owned(),
    });
    shown.collect::<Vec<_>>().join("&")
}

/// A form without the values of secrets, of those in queries as well.
pub(super) fn form(form: &str, redact: &Redact) -> String {
    let is_named =
        |name: &str, value: &str| says_with(&String::from_utf8_lossy(&unescaped(name.as_bytes())), &redact.fields).hides(is_number(value));
    let pairs = form.split('&').map(|pair| match pair.split_once('=') {
        Some((name, value)) if is_named(name, value) => format!("{name}={HIDDEN}"),
        _ => match before_secret(pair, &redact.query) {
            Some(name) => format!("{name}={HIDDEN}"),
            None => pair.to_owned(),
        },
    });
    pairs.collect::<Vec<_>>().join("&")
}

fn is_number(value: &str) -> bool {
    !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit())
}

/// What may be shown of what stands between two `&`, up to the `=` behind the name of a secret; `None`: all. Some take `;`
/// for `&`, as HTML 4 recommended (appendix B.2.2); for others it is part of the value, so what is behind it is not shown. A
/// `?` or `#` begins the query of a URL that somebody did not encode.
pub(super) fn before_secret<'a>(argument: &'a str, redact: &[Box<str>]) -> Option<&'a str> {
    let mut begin = 0;
    for one in argument.split([';', '?', '#']) {
        if let Some((name, value)) = one.split_once('=')
            && is_secret(name, is_number(value), redact)
        {
            return argument.get(..begin + name.len());
        }
        begin += one.len() + 1;
    }
    None
}

/// Does any reading of this name name a secret: as it stands, decoded, decoded twice; and of
/// `x[token][]` or `x%3Btoken` any part?
fn is_secret(name: &str, number: bool, redact: &[Box<str>]) -> bool {
    let alone = |name: &[u8]| {
        let name = name.trim_ascii();
        ALONE.iter().any(|alone| name.eq_ignore_ascii_case(alone.as_bytes()))
            || (!redact.is_empty() && redact.iter().any(|secret| is_same(secret, &String::from_utf8_lossy(name))))
    };
    if !name.contains(['%', '+', '[']) {
        return alone(name.as_bytes()) || says(name.as_bytes()).hides(number);
    }
    let names_one = |name: &[u8]| {
        let mut parts = name.split(|byte| matches!(byte, b'[' | b']' | b';' | b'&'));
        says(name).hides(number) || parts.any(|part| alone(part) || says(part).hides(number))
    };
    let once = unescaped(name.as_bytes());
    names_one(name.as_bytes()) || names_one(&once) || names_one(&unescaped(&once))
}

fn unescaped(name: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        let pair = tail.first_chunk::<2>().and_then(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
        match (byte, pair) {
            (b'%', Some(value)) => {
                decoded.push(value);
                rest = tail.get(2..).unwrap_or_default();
            }
            (b'+', _) => decoded.push(b' '),
            _ => decoded.push(byte),
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redact() -> Redact {
        Redact { query: vec!["badge".into()], headers: vec!["x-tenant-key".into()], fields: vec!["ssn".into()] }
    }

    #[test]
    fn a_url_in_a_field_has_neither_who_asks_nor_the_secrets_of_its_query() {
        for (value, expected) in [
            ("https://a.example/b", "https://a.example/b"),
            ("https://a.example/b?c=d&token=e", "https://a.example/b?c=d&token=***"),
            ("https://me:hunter2@a.example/b?c=d", "https://***@a.example/b?c=d"),
            ("https://me@a.example", "https://***@a.example"),
            ("https://me:p@ss:w@a.example:8443/@b", "https://***@a.example:8443/@b"),
            ("/back#access_token=e&state=f", "/back#access_token=***&state=f"),
            ("/back?a=b#access_token=e", "/back?a=b#access_token=***"),
            ("<https://a:b@c/?x=1>; rel=next, <https://d:e@f/?jwt=1>", "<https://***@c/?x=1>; rel=next, <https://***@f/?jwt=***"),
            ("/x?next=/y?password=e", "/x?next=/y?password=***"),
            ("me@a.example", "me@a.example"),
            ("text/html; q=0.5", "text/html; q=0.5"),
        ] {
            let mut fields = Fields::default();
            fields.add(b"referer", value.as_bytes());
            assert_eq!(header(&fields, "referer", &redact()).unwrap(), expected, "{value}");
        }
    }

    #[test]
    fn header_fields_are_known_by_their_names() {
        for (name, value, expected) in [
            ("x-api-key-2", "a", "***"),
            ("x-tenant-key", "a", "***"),
            ("set-cookie", "a=b", "***"),
            ("authorization", "Bearer a", "***"),
            ("x-ratelimit-remaining-tokens", "17", "17"),
            ("x-request-id", "a", "a"),
            ("sec-websocket-key", "a", "a"),
        ] {
            let mut fields = Fields::default();
            fields.add(name.as_bytes(), value.as_bytes());
            assert_eq!(header(&fields, name, &redact()).unwrap(), expected, "{name}");
        }
    }

    #[test]
    fn queries_and_forms_are_shown_without_secrets() {
        for (text, in_query, in_form) in [
            ("a=1&userPassword=x&b=2", "a=1&userPassword=***&b=2", "a=1&userPassword=***&b=2"),
            ("max_tokens=100&tokens=abc&token=1", "max_tokens=100&tokens=***&token=***", "max_tokens=100&tokens=***&token=***"),
            ("key=1&sort_key=2&code=3&postcode=4", "key=***&sort_key=2&code=***&postcode=4", "key=***&sort_key=2&code=***&postcode=4"),
            ("Badge=1&ssn=2", "Badge=***&ssn=2", "Badge=***&ssn=***"),
            ("x%5Bapi_key%5D=1&y[key]=2", "x%5Bapi_key%5D=***&y[key]=***", "x%5Bapi_key%5D=***&y[key]=***"),
        ] {
            assert_eq!((query(text, &redact()).as_str(), form(text, &redact()).as_str()), (in_query, in_form), "{text}");
        }
    }
}
