//! What a plugin may give back: edits, a picked path, replies. Whatever it says, the message that leaves is one message,
//! the host's own fields are the host's, and an answer that is refused has changed nothing.
//!
//! What is allowed is said here a second time, naively. Bytes become values in a form that mutation does not break:
//! records end at 0x1e, their parts at 0x1f. The engine that lifts values out of a guest is not fuzzed here.

#![allow(clippy::panic, reason = "a target answers by panicking: there is nobody behind it to tell")]

use crate::driver::{Random, Target, note};
use crate::house::codec::write::{self, Forwarded};
use crate::house::codec::{Framing, HeadLimits, Version, request, response};
use crate::house::edit::{self, Edit, Edits};
use crate::house::path;
use crate::targets::{Seen, second_reading};
use bytes::BytesMut;
use std::collections::HashSet;
use wharf_core::exchange::{ATTRS_MAX, Attrs, Facts};
use wharf_core::head::{Fields, RequestHead, ResponseHead, Scheme, text};

/// What a plugin gives back, applied and sent.
pub const WIT_VALUES: Target = Target { name: "wit_values", run, make, words: WORDS };

/// As large as edits can make a head.
const LIMITS: HeadLimits = HeadLimits { bytes_max: 128 * 1024, fields_max: HeadLimits::FIELDS_CEILING };

const REQUESTS: &[&str] = &[
    "GET /a/b?c=d HTTP/1.1\r\nHost: h.example\r\nX-A: 1\r\nCookie: a=b\r\n\r\n",
    "POST /orders/7 HTTP/1.1\r\nhost: H:8080\r\ncontent-length: 5\r\nx-forwarded-for: 1.1.1.1\r\nx-a: 1\r\nx-b:2\r\nx-a: 3\r\n\r\n",
    "PUT /x/../y HTTP/1.1\r\nHost: [::1]:80\r\ntransfer-encoding: chunked\r\nTE: trailers\r\nconnection: te, x-b\r\nx-b: 1\r\n\r\n",
    "GET http://o.example/p?q HTTP/1.1\r\nHost: other\r\nx-forwarded-proto: https\r\nx-forwarded-host: f\r\n\r\n",
    "GET /chat HTTP/1.1\r\nhost: h\r\nupgrade: websocket\r\nconnection: upgrade\r\nauthorization: t\r\n\r\n",
    "OPTIONS * HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\n\r\n",
];

const ANSWERS: &[&str] = &[
    "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nx-a: 1\r\nSet-Cookie: a=b\r\nset-cookie: c=d\r\n\r\n",
    "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\nConnection: x-b\r\nx-b: 1\r\ndate: now\r\n\r\n",
    "HTTP/1.1 204 No Content\r\nserver: s\r\nx-a:1\r\n\r\n",
    "HTTP/1.1 418 \r\n\r\n",
];

/// What may not come in another spelling, beside [`HOSTS_OWN`].
const GUARDED: &[&str] = &["http2-settings", "proxy-authenticate", "proxy-authorization"];

/// As `edit` in `wharf:types` says it.
const HOSTS_OWN: &[&str] = &[
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "upgrade",
    "te",
    "trailer",
    "keep-alive",
    "proxy-connection",
    "forwarded",
    "x-real-ip",
    "http2-settings",
    "proxy-authenticate",
    "proxy-authorization",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-forwarded-prefix",
    "x-forwarded-server",
    "x-forwarded-ssl",
];

/// May be edited, and is still not for the next hop.
const NOT_SENT: &[&str] = &["http2-settings", "proxy-authenticate", "proxy-authorization", "expect"];

/// What a plugin said.
#[derive(Debug, Default)]
struct Said {
    edits: Vec<Edit>,
    status: u16,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
}

fn said(records: &[u8]) -> Said {
    let mut said = Said { status: 200, ..Said::default() };
    for record in records.split(|&byte| byte == 0x1e) {
        let Some((&tag, rest)) = record.split_first() else { continue };
        let mut parts = rest.splitn(2, |&byte| byte == 0x1f).map(|part| String::from_utf8_lossy(part).into_owned());
        let (name, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        match tag {
            b's' => said.edits.push(Edit::Set(name, value)),
            b'a' => said.edits.push(Edit::Add(name, value)),
            b'r' => said.edits.push(Edit::Remove(name)),
            b'p' => said.edits.push(Edit::Path(name)),
            b't' => said.edits.push(Edit::Attr(name, value)),
            b'f' => said.fields.push((name, value)),
            b'S' => said.status = name.parse().unwrap_or(0),
            b'B' => said.body = rest.to_vec(),
            // The last one again, many times: counts and sums have limits too.
            b'n' => {
                let times = name.parse::<usize>().unwrap_or(0).min(100);
                if let Some(last) = said.edits.last().cloned() {
                    said.edits.extend(std::iter::repeat_n(last, times));
                }
                if let Some(last) = said.fields.last().cloned() {
                    said.fields.extend(std::iter::repeat_n(last, times));
                }
            }
            _ => {}
        }
    }
    said
}

fn run(input: &[u8]) {
    let (&which, records) = input.split_first().unwrap_or((&b'0', &[]));
    let said = said(records);
    let which = usize::from(which);
    on_request(REQUESTS.get(which % REQUESTS.len()).copied().unwrap_or_default(), &said.edits);
    on_answer(ANSWERS.get(which % ANSWERS.len()).copied().unwrap_or_default(), &said.edits);
    on_reply(&said);
}

fn on_request(from: &str, edits: &[Edit]) {
    let (mut received, mut facts) = (BytesMut::from(from), Facts::default());
    let received = request::parse(&mut received, &LIMITS, Scheme::Http, &mut facts.request);
    let Ok(Some(received)) = received else { panic!("{from:?} is a good head") };
    facts.attrs.set("before", "1");
    let before = facts.clone();
    let write = |facts: &Facts| {
        let mut out = BytesMut::new();
        let forwarded = Forwarded { peer: [127, 0, 0, 1].into(), host: None };
        write::request_head(&mut out, &facts.request, &received.framing, received.upgrade.as_deref(), &forwarded);
        out
    };
    let untouched = write(&before);

    // Checked when they came, or where they are applied: it must not matter.
    let early = Edits::for_request(edits.to_vec(), &facts.attrs);
    let answer = match &early {
        Ok(checked) => checked.apply_to_request(&mut facts),
        Err(_) => Edits::from(edits.to_vec()).apply_to_request(&mut facts),
    };
    assert_eq!(early.err(), answer.clone().err());
    note(if answer.is_ok() { "edited" } else { "refused" });
    let wrong = what_is_wrong(edits, &before.attrs, true);
    if let Err(bad) = answer {
        assert!(wrong.is_some(), "edits were refused that are allowed: {bad}");
        note(wrong.unwrap_or_default());
        assert_eq!(write(&facts), untouched, "refused edits have changed the request");
        assert!(facts.attrs.iter().eq(before.attrs.iter()), "refused edits have changed attributes");
        return;
    }
    let mut out = write(&facts);
    // First what anybody behind us would see; then whether it should have come this far.
    let seen = second_reading(&out);
    assert_eq!(wrong, None, "edits were taken that are not allowed: {edits:?}");
    let expected = edited(&before.request.fields, edits);
    assert_eq!(pairs(&facts.request.fields), expected, "the edits did something else");
    same_attrs(&before.attrs, &facts.attrs, edits);

    let before_seen = second_reading(&untouched);
    assert_eq!(hosts_own(&seen), hosts_own(&before_seen), "a field of the host's own has changed");
    assert_eq!(not_own(&seen), sent(&expected), "other fields were sent than there are");
    let path = edits.iter().rev().find_map(|edit| if let Edit::Path(path) = edit { Some(path.as_str()) } else { None });
    let path = path.unwrap_or(before.request.path());
    let target = before.request.query().map_or(path.to_owned(), |query| format!("{path}?{query}"));
    assert_eq!(seen.first, format!("{} {target} HTTP/1.1", before.request.method.as_str()));
    assert!(path == "*" || path::is_canonical(path.as_bytes()), "{path:?}");
    note(&format!("{} {}", facts.request.fields.len(), path.len().min(8)));

    let mut read = RequestHead::default();
    let Ok(Some(again)) = request::parse(&mut out, &LIMITS, Scheme::Http, &mut read) else {
        panic!("what was edited does not read back: {:?}", seen.first)
    };
    assert!(out.is_empty(), "edits have made a second request");
    assert_eq!(
        (read.method.as_str(), read.authority(), read.path(), read.query()),
        (before.request.method.as_str(), before.request.authority(), path, before.request.query())
    );
    assert_eq!((again.framing, again.upgrade, again.keep_alive), (received.framing, received.upgrade.clone(), true));
}

fn on_answer(from: &str, edits: &[Edit]) {
    let asked = response::Asked::default();
    let mut received = BytesMut::from(from);
    let mut before = ResponseHead::default();
    let Ok(Some(response::Event::Final(received))) = response::parse(&mut received, &LIMITS, &asked, &mut before) else {
        panic!("{from:?} is a good head")
    };
    let (mut head, mut attrs) = (before.clone(), Attrs::default());
    let untouched = answer_bytes(&head, &received.framing);
    let early = Edits::for_response(edits.to_vec(), &attrs);
    let answer = match &early {
        Ok(checked) => checked.apply_to_response(&mut head.fields, &mut attrs),
        Err(_) => Edits::from(edits.to_vec()).apply_to_response(&mut head.fields, &mut attrs),
    };
    assert_eq!(early.err(), answer.clone().err());
    let wrong = what_is_wrong(edits, &Attrs::default(), false);
    if let Err(bad) = answer {
        assert!(wrong.is_some(), "edits were refused that are allowed: {bad}");
        assert_eq!(answer_bytes(&head, &received.framing), untouched, "refused edits have changed the answer");
        assert_eq!(attrs.iter().count(), 0, "refused edits have changed attributes");
        return;
    }
    let out = answer_bytes(&head, &received.framing);
    let seen = second_reading(&out);
    assert_eq!(wrong, None, "edits were taken that are not allowed: {edits:?}");
    let expected = edited(&before.fields, edits);
    assert_eq!(pairs(&head.fields), expected, "the edits did something else");
    same_attrs(&Attrs::default(), &attrs, edits);
    assert_eq!(hosts_own(&seen), hosts_own(&second_reading(&untouched)), "a field of the host's own has changed");
    answer_reads_back(out, head.status, received.framing, &seen, &expected);
}

fn on_reply(said: &Said) {
    let fields = said.fields.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let as_edits: Vec<Edit> = said.fields.iter().map(|(name, value)| Edit::Add(name.clone(), value.clone())).collect();
    let wrong = what_is_wrong(&as_edits, &Attrs::default(), false);
    if let Err(bad) = edit::check_fields(fields.clone()) {
        assert!(wrong.is_some(), "a reply was refused that is allowed: {bad}");
        return;
    }
    if !(200..=599).contains(&said.status) {
        return;
    }
    let mut head = ResponseHead::new(said.status);
    for (name, value) in fields {
        head.fields.add(name.as_bytes(), value.as_bytes());
    }
    let framing = if matches!(said.status, 204 | 304) { Framing::None } else { Framing::Length(said.body.len() as u64) };
    let out = answer_bytes(&head, &framing);
    let seen = second_reading(&out);
    assert_eq!(wrong, None, "a reply was taken that is not allowed: {:?}", said.fields);
    note("reply");
    answer_reads_back(out, said.status, framing, &seen, &pairs(&head.fields));
}

fn answer_bytes(head: &ResponseHead, framing: &Framing) -> BytesMut {
    let mut out = BytesMut::new();
    write::response_head(&mut out, head, framing, Version::Http11, true, b"Sun, 22 Nov 2026 15:00:00 GMT", None);
    out
}

fn answer_reads_back(mut out: BytesMut, status: u16, framing: Framing, seen: &Seen, fields: &[(String, String)]) {
    assert!(seen.first.starts_with(&format!("HTTP/1.1 {status} ")), "{:?}", seen.first);
    let ours = |(name, _): &&(String, String)| name != "date";
    let theirs: Vec<_> = not_own(seen).into_iter().filter(|field| ours(&field)).collect();
    let expected: Vec<_> = pairs_sent_back(fields).into_iter().filter(|field| ours(&field)).collect();
    assert_eq!(theirs, expected, "other fields were sent than there are");
    if fields.iter().any(|(name, _)| name == "expect") {
        // Means nothing to a client, and our own reader takes it for what a client would say.
        return;
    }
    let mut head = ResponseHead::default();
    let event = response::parse(&mut out, &LIMITS, &response::Asked::default(), &mut head);
    let Ok(Some(response::Event::Final(again))) = event else { panic!("what was edited does not read back: {:?}", seen.first) };
    assert!(out.is_empty(), "edits have made a second answer");
    assert_eq!((head.status, again.framing, again.keep_alive), (status, framing, framing != Framing::UntilClose));
}

// === the contract, a second time ===

/// The first thing that the contract does not allow; `None`: all of it is allowed.
fn what_is_wrong(edits: &[Edit], attrs: &Attrs, request: bool) -> Option<&'static str> {
    let field = |name: &str, value: &str| {
        let token = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "!#$%&'*+-.^_`|~".contains(c);
        if name.is_empty() || !name.chars().all(token) {
            return Some("name");
        }
        let plain = name.replace('_', "-");
        if HOSTS_OWN.contains(&name) || plain != name && (HOSTS_OWN.contains(&&*plain) || GUARDED.contains(&&*plain)) {
            return Some("host's own");
        }
        value.chars().any(|c| c.is_ascii_control() && c != '\t').then_some("value")
    };
    let mut text = 0;
    let mut names = 0;
    for edit in edits {
        let (wrong, len) = match edit {
            Edit::Set(name, value) | Edit::Add(name, value) => (field(name, value), name.len() + value.len()),
            Edit::Remove(name) => (field(name, ""), name.len()),
            Edit::Path(path) => ((!request || !path::is_canonical(path.as_bytes())).then_some("path"), path.len()),
            Edit::Attr(name, value) => {
                // Each counts, whether or not two have one name.
                names += usize::from(attrs.get(name).is_none());
                let fits = (1..=64).contains(&name.len()) && value.len() <= 1024;
                ((!fits).then_some("attribute"), name.len() + value.len())
            }
        };
        text += len;
        if wrong.is_some() {
            return wrong;
        }
    }
    let limits = [(edits.len() > 64, "edits"), (text > 32 * 1024, "text"), (attrs.iter().count() + names > ATTRS_MAX, "attributes")];
    limits.into_iter().find(|(broken, _)| *broken).map(|(_, what)| what)
}

/// What becomes of fields.
fn edited(fields: &Fields, edits: &[Edit]) -> Vec<(String, String)> {
    let mut list = pairs(fields);
    for edit in edits {
        match edit {
            Edit::Set(name, value) => {
                list.retain(|(have, _)| have.replace('_', "-") != name.replace('_', "-"));
                list.push((name.clone(), value.clone()));
            }
            Edit::Add(name, value) => list.push((name.clone(), value.clone())),
            Edit::Remove(name) => list.retain(|(have, _)| have.replace('_', "-") != name.replace('_', "-")),
            Edit::Path(_) | Edit::Attr(..) => {}
        }
    }
    list
}

fn same_attrs(before: &Attrs, after: &Attrs, edits: &[Edit]) {
    let mut names: HashSet<&str> = before.iter().map(|(name, _)| name).collect();
    for (at, edit) in edits.iter().enumerate() {
        let Edit::Attr(name, value) = edit else { continue };
        names.insert(name);
        let last = !edits.iter().skip(at + 1).any(|later| matches!(later, Edit::Attr(again, _) if again == name));
        assert!(!last || after.get(name) == Some(value), "attribute {name:?}");
    }
    assert_eq!(after.iter().count(), names.len());
}

fn pairs(fields: &Fields) -> Vec<(String, String)> {
    fields.iter().map(|(_, name, value)| (text(name).into_owned(), text(value).into_owned())).collect()
}

/// As a reader sees them: blanks around a value are not part of it.
fn seen_as(fields: &[(String, String)], except: &[&str]) -> Vec<(String, String)> {
    let plain = |(name, value): &(String, String)| (name.clone(), value.trim_matches([' ', '\t']).to_owned());
    fields.iter().filter(|(name, _)| !except.contains(&name.as_str()) && !HOSTS_OWN.contains(&name.as_str())).map(plain).collect()
}

fn sent(fields: &[(String, String)]) -> Vec<(String, String)> {
    seen_as(fields, NOT_SENT)
}

fn pairs_sent_back(fields: &[(String, String)]) -> Vec<(String, String)> {
    seen_as(fields, &["http2-settings", "proxy-authenticate", "proxy-authorization"])
}

fn not_own(seen: &Seen) -> Vec<(String, String)> {
    seen_as(&seen.fields, &[])
}

fn hosts_own(seen: &Seen) -> Vec<&(String, String)> {
    seen.fields.iter().filter(|(name, _)| HOSTS_OWN.contains(&name.as_str())).collect()
}

// === made values ===

const WORDS: &[&[u8]] = &[
    b"\x1es",
    b"\x1ea",
    b"\x1er",
    b"\x1ep",
    b"\x1et",
    b"\x1ef",
    b"\x1eS",
    b"\x1eB",
    b"\x1en64",
    b"\x1f",
    b"\x1e",
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b"\r\n\r\n",
    b": ",
    b"host",
    b"content-length",
    b"transfer-encoding",
    b"chunked",
    b"connection",
    b"upgrade",
    b"te",
    b"trailer",
    b"x-forwarded-for",
    b"forwarded",
    b"expect",
    b"date",
    b"proxy-authorization",
    b"http2-settings",
    b"x-a",
    b"X-A",
    b"set-cookie",
    b"HTTP/1.1",
    b" HTTP/1.1\r\nhost: evil\r\n\r\n",
    b"GET / HTTP/1.1\r\n",
    b"/..",
    b"%2e",
    b"%2f",
    b"//",
    b"?",
    b"#",
    b" ",
    b"\t",
    b"\x7f",
    b"\xc2\x85",
    b"\xff",
];

fn make(random: &mut Random) -> Vec<u8> {
    let mut out = vec![b'0' + random.below(12) as u8];
    for _ in 0..random.below(6) {
        out.push(0x1e);
        let tag = *random.pick(b"ssaaarpptfffSBn").unwrap_or(&b's');
        out.push(tag);
        let name = |random: &mut Random| {
            random.word(
                &["x-a", "x-b", "x-new", "cookie", "set-cookie", "date", "authorization", "a", "x.y_z!", "cache-control"],
                &["host", "content-length", "Connection", "transfer-encoding", "te", "", "x y", "x:", "X-A", "x\r\ny", "\u{e9}", "expect"],
            )
        };
        let value = |random: &mut Random| {
            random.word(
                &["1", "", "v", " padded ", "a, b", "caf\u{e9}", "a\tb", "x-a: 1", "5"],
                &["a\r\nhost: evil", "a\nb: c", "\0", "\r", "\u{7f}", "a\r\n\r\nGET / HTTP/1.1"],
            )
        };
        match tag {
            b'p' => out.extend_from_slice(
                random
                    .word(
                        &["/", "/a", "/a/b.c", "/a%20b", "/~x/", "/a;b=c", "/new"],
                        &["", "a", "/../b", "/a//b", "/%2e", "/%252e%252e", "/a b", "/a?x", "/a\r\nb", "*", "/%2f", "/\u{e9}"],
                    )
                    .as_bytes(),
            ),
            b'S' => out
                .extend_from_slice(random.word(&["200", "204", "304", "401", "503", "599", "299"], &["0", "100", "101", "600"]).as_bytes()),
            b'n' => out.extend_from_slice(random.word(&["1", "2", "30"], &["63", "64", "65", "100"]).as_bytes()),
            b'r' => out.extend_from_slice(name(random).as_bytes()),
            b'B' => out.extend_from_slice(value(random).as_bytes()),
            b't' => {
                out.extend_from_slice(random.word(&["consumer", "tenant", "before", "a"], &["", "\r\n"]).as_bytes());
                out.push(0x1f);
                out.extend_from_slice(value(random).as_bytes());
            }
            _ => {
                out.extend_from_slice(name(random).as_bytes());
                out.push(0x1f);
                out.extend_from_slice(value(random).as_bytes());
            }
        }
    }
    out
}
