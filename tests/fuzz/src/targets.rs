//! What is fuzzed, and what must hold.
//!
//! The code under test comes from `crate::house`, so that `planted/` can run the same targets against a copy with bugs.

#![allow(clippy::panic, reason = "a target answers by panicking: there is nobody behind it to tell")]

use crate::driver::{Random, Target, note};
use crate::house::codec::body::{Decoder, Piece};
use crate::house::codec::write::{self, Forwarded};
use crate::house::codec::{Framing, HeadLimits, Version, request, response};
use crate::house::path;
use bytes::BytesMut;
use std::fmt::Write as _;
use wharf_core::head::{Fields, Known, Method, RequestHead, ResponseHead, Scheme, text};

/// A client's bytes: heads, bodies, whatever follows.
pub const REQUEST: Target = Target { name: "request", run: run_request, make: make_request, words: WORDS };

/// An upstream's bytes. The first one says what was asked.
pub const ANSWER: Target = Target { name: "answer", run: run_answer, make: make_answer, words: WORDS };

/// A path as a client wrote it.
pub const PATH: Target = Target { name: "path", run: run_path, make: make_path, words: PATH_WORDS };

/// Small, so that inputs reach them.
const LIMITS: HeadLimits = HeadLimits { bytes_max: 512, fields_max: 12 };

// === requests ===

fn run_request(input: &[u8]) {
    let whole = read(input, &mut |rest| rest, &request_head);
    assert_eq!(read(input, &mut cuts(input), &request_head), whole, "the events depend on how the bytes were cut");
}

/// One head: the framing of what follows, or why there is none.
type ReadHead<'a> = &'a dyn Fn(&mut BytesMut, &mut String) -> Result<Option<Framing>, &'static str>;

/// What an earlier request has left behind: nothing of it may be seen again.
fn worn() -> RequestHead {
    let mut head = RequestHead::from_text(Method::Other("OLD".into()), "old.example", "/old", Some("old"));
    head.fields.add(b"x-old", b"old");
    head
}

/// The same of an answer's head.
fn worn_answer() -> ResponseHead {
    let mut head = ResponseHead::new(599);
    head.fields.add(b"x-old", b"old");
    head
}

fn request_head(buf: &mut BytesMut, events: &mut String) -> Result<Option<Framing>, &'static str> {
    let before = buf.clone();
    let mut head = worn();
    let received = match request::parse(buf, &LIMITS, Scheme::Http, &mut head) {
        Ok(Some(received)) => received,
        Ok(None) => {
            assert!(buf.eq_ignore_ascii_case(&before), "an unfinished head was changed");
            assert!(buf.len() < LIMITS.bytes_max + 2, "a head beyond its limit was not refused");
            return Ok(None);
        }
        Err(refusal) => {
            assert!(matches!(refusal.status, 400 | 414 | 417 | 431 | 501 | 505), "{refusal:?}");
            return Err(refusal.what.word());
        }
    };
    let raw = before.get(..before.len() - buf.len()).unwrap_or_default();
    assert_eq!(before.get(raw.len()..), Some(&buf[..]), "what follows the head was changed");
    let _ = write!(
        events,
        "<{} {} {}?{:?} {:?} {:?} {} {} {:?} {}>",
        head.method.as_str(),
        head.authority(),
        head.path(),
        head.query(),
        received.framing,
        received.version,
        received.keep_alive,
        received.expects_continue,
        received.upgrade,
        lines(&head.fields, |_| true),
    );
    note(head.method.as_str());
    note(&format!("{:?}{}{:?}", kind(received.framing), received.keep_alive, received.upgrade.is_some()));
    note(&head.fields.len().to_string());

    let seen = second_reading(raw.strip_prefix(b"\r\n").unwrap_or(raw));
    let mut first = seen.first.split(' ');
    let (method, target, version) = (first.next(), first.next().unwrap_or_default(), first.next());
    assert_eq!(method, Some(head.method.as_str()));
    assert_eq!(version, Some(if received.version == Version::Http11 { "HTTP/1.1" } else { "HTTP/1.0" }));
    assert_eq!(first.next(), None);
    assert_eq!(received.framing, seen.framing(received.version).unwrap_or(Framing::None));
    assert_eq!(lines(&head.fields, |known| known != Known::Host), seen.passed_on(|name| name != "host" && name != "expect"));

    // Host: exactly one, and the one that everybody sees.
    let hosts: Vec<_> = seen.named("host").collect();
    assert!(hosts.len() == 1 || (hosts.is_empty() && received.version == Version::Http10), "{} hosts", hosts.len());
    let authority = head.authority();
    assert!(head.fields.all(b"host").all(|host| host == authority.as_bytes()));
    assert_eq!(head.fields.all(b"host").count(), usize::from(!authority.is_empty()));
    assert!(
        !authority
            .bytes()
            .any(|byte| byte.is_ascii_uppercase() || matches!(byte, b'@' | b'/' | b'\\' | b'%' | b'?' | b'#' | 0..=b' ' | 0x7f..))
    );
    let absolute = (!target.starts_with('/')).then_some(target);
    let meant = absolute.and_then(|target| target.split_once("://")).map(|(_, rest)| rest.split(['/', '?']).next().unwrap_or_default());
    let meant = meant.or(hosts.first().copied()).unwrap_or_default().to_ascii_lowercase();
    assert!(meant.starts_with(authority.split(':').next().unwrap_or_default()), "{meant:?} became {authority:?}");

    // Path: one canonical form, the same segments.
    if head.path() != "*" {
        assert!(path::is_canonical(head.path_bytes()), "{:?}", head.path());
    }
    let query = target.split_once('?').map(|(_, query)| query);
    assert_eq!(head.query(), query);

    if let Some(protocol) = &received.upgrade {
        assert!(received.version == Version::Http11 && received.framing == Framing::None);
        assert!(!["h2", "h2c"].contains(&protocol.to_ascii_lowercase().split('/').next().unwrap_or_default()));
        assert!(seen.options().any(|option| option == "upgrade") && seen.named("upgrade").count() == 1);
    }
    assert_eq!(received.keep_alive, seen.persists(received.version));
    request_reads_back(&head, &received);
    Ok(Some(received.framing))
}

fn request_reads_back(head: &RequestHead, received: &request::Received) {
    if head.authority().is_empty() {
        return;
    }
    let mut out = BytesMut::new();
    write::request_head(
        &mut out,
        head,
        &received.framing,
        received.upgrade.as_deref(),
        &Forwarded { peer: [127, 0, 0, 1].into(), host: None },
    );
    // Written for people who read strictly.
    let written = second_reading(&out);
    assert_eq!(written.framing(Version::Http11).unwrap_or(Framing::None), received.framing);
    assert_eq!(written.named("host").collect::<Vec<_>>(), [head.authority()]);
    assert_eq!(written.named("x-forwarded-for").count(), 1);
    let mut read = RequestHead::default();
    let Ok(Some(again)) = request::parse(&mut out, &HeadLimits::default(), Scheme::Http, &mut read) else {
        panic!("what was written does not read back: {:?}", written.first)
    };
    assert!(out.is_empty());
    let ours = |known| {
        !matches!(known, Known::Host | Known::ContentLength | Known::XForwardedFor | Known::XForwardedHost | Known::XForwardedProto)
    };
    assert_eq!(lines(&read.fields, ours), lines(&head.fields, ours));
    assert_eq!(
        (read.method.as_str(), read.authority(), read.path(), read.query()),
        (head.method.as_str(), head.authority(), head.path(), head.query())
    );
    assert_eq!((again.framing, again.upgrade, again.keep_alive), (received.framing, received.upgrade.clone(), true));
}

// === answers ===

fn run_answer(input: &[u8]) {
    let (bits, input) = input.split_first().map_or((0, input), |(&bits, rest)| (bits, rest));
    let asked = response::Asked { head_method: bits & 1 != 0, connect: bits & 2 != 0, upgrade: bits & 4 != 0 };
    let head = |buf: &mut BytesMut, events: &mut String| response_head(buf, events, &asked);
    let whole = read(input, &mut |rest| rest, &head);
    assert_eq!(read(input, &mut cuts(input), &head), whole, "the events depend on how the bytes were cut");
}

fn response_head(buf: &mut BytesMut, events: &mut String, asked: &response::Asked) -> Result<Option<Framing>, &'static str> {
    loop {
        let before = buf.clone();
        let mut head = worn_answer();
        let event = match response::parse(buf, &LIMITS, asked, &mut head) {
            Ok(Some(event)) => event,
            Ok(None) => {
                assert!(buf.eq_ignore_ascii_case(&before), "an unfinished head was changed");
                assert!(buf.len() < LIMITS.bytes_max, "a head beyond its limit was not refused");
                return Ok(None);
            }
            Err(refusal) => {
                assert_eq!(refusal.status, 502);
                return Err(refusal.what.word());
            }
        };
        let seen = second_reading(before.get(..before.len() - buf.len()).unwrap_or_default());
        let version = if seen.first.starts_with("HTTP/1.1 ") { Version::Http11 } else { Version::Http10 };
        assert!(version == Version::Http11 || seen.first.starts_with("HTTP/1.0 "), "{:?}", seen.first);
        let code = seen.first.get(9..12).and_then(|code| code.parse::<u16>().ok());
        let said = seen.framing(version);
        let received = match event {
            response::Event::Interim(status) => {
                assert!(Some(status) == code && (100..200).contains(&status) && status != 101);
                assert!(matches!(said, None | Some(Framing::Length(0))));
                let _ = write!(events, "<interim {status}>");
                note("interim");
                continue;
            }
            response::Event::Final(received) => received,
        };
        let status = head.status;
        assert!(Some(status) == code && ((200..600).contains(&status) || (status == 101 && asked.upgrade)));
        let _ = write!(events, "<{status} {:?} {} {}>", received.framing, received.keep_alive, lines(&head.fields, |_| true));
        note(&format!("{}{:?}{}", status / 100, kind(received.framing), received.keep_alive));
        note(&head.fields.len().to_string());
        let bodiless = asked.head_method || matches!(status, 101 | 204 | 304) || (asked.connect && status < 300);
        assert_eq!(received.framing, if bodiless { Framing::None } else { said.unwrap_or(Framing::UntilClose) });
        if received.keep_alive {
            assert!(seen.persists(version) && received.framing != Framing::UntilClose && status != 101);
        }
        if status != 101 && status != 204 {
            assert_eq!(lines(&head.fields, |_| true), seen.passed_on(|name| name != "expect"));
        }
        let mut out = BytesMut::new();
        let date = b"Sun, 22 Nov 2026 15:00:00 GMT";
        let upgrade = head.fields.known(Known::Upgrade).map(|token| text(token).into_owned());
        write::response_head(&mut out, &head, &received.framing, Version::Http11, received.keep_alive, date, upgrade.as_deref());
        let written = second_reading(&out);
        if !bodiless {
            assert_eq!(written.framing(Version::Http11).unwrap_or(Framing::UntilClose), received.framing);
        }
        assert!(written.named("date").count() >= 1);
        let mut again = ResponseHead::default();
        let Ok(Some(response::Event::Final(_))) = response::parse(&mut out, &HeadLimits::default(), asked, &mut again) else {
            panic!("what was written does not read back: {:?}", written.first)
        };
        assert!(out.is_empty());
        let theirs = |known| !matches!(known, Known::Date | Known::ContentLength | Known::Upgrade);
        assert_eq!(lines(&again.fields, theirs), lines(&head.fields, theirs));
        return Ok(Some(received.framing));
    }
}

// === bodies, both ways ===

/// Reads a connection to its end and tells what happened.
fn read<'a>(input: &'a [u8], cut: &mut dyn FnMut(&'a [u8]) -> &'a [u8], head: ReadHead<'_>) -> String {
    let mut events = String::new();
    let mut rest = input;
    let mut buf = BytesMut::new();
    let mut body: Option<(Decoder, Framing, Vec<u8>, usize)> = None;
    loop {
        let more = match &mut body {
            None => match head(&mut buf, &mut events) {
                Ok(Some(framing)) => {
                    let begins = input.len() - rest.len() - buf.len();
                    body = Some((Decoder::new(framing), framing, Vec::new(), begins));
                    false
                }
                Ok(None) => true,
                Err(word) => {
                    note(word);
                    let _ = write!(events, "<refused {word}>");
                    return events;
                }
            },
            Some((decoder, framing, data, begins)) => match decoder.decode(&mut buf) {
                Ok(Piece::Data(piece)) => {
                    assert!(!piece.is_empty());
                    data.extend_from_slice(&piece);
                    false
                }
                Ok(Piece::End(trailers)) => {
                    assert!(decoder.is_done());
                    let ends = input.len() - rest.len() - buf.len();
                    let sent = input.get(*begins..ends).unwrap_or_default();
                    check_body(*framing, sent, data, trailers.as_ref());
                    let _ = write!(
                        events,
                        "{}<end {}>",
                        data.escape_ascii(),
                        trailers.map_or(String::new(), |trailers| lines(&trailers, |_| true))
                    );
                    note("end");
                    body = None;
                    false
                }
                Ok(Piece::More) => true,
                Err(refusal) => {
                    note(refusal.what.word());
                    let sent = input.get(*begins..).unwrap_or_default();
                    if *framing == Framing::Chunked && !sent.contains(&b';') {
                        assert!(second_chunks(sent).is_none_or(|(_, trailers)| trailers), "a plain body was refused: {refusal}");
                    }
                    let _ = write!(events, "{}<refused {}>", data.escape_ascii(), refusal.what.word());
                    return events;
                }
            },
        };
        if more {
            if rest.is_empty() {
                let cut_short = body.as_mut().map(|(decoder, ..)| decoder.end_of_input().is_err());
                let _ = write!(events, "<{cut_short:?}>");
                if let Some((.., data, _)) = body {
                    let _ = write!(events, "{}", data.escape_ascii());
                }
                return events;
            }
            let piece = cut(rest);
            buf.extend_from_slice(piece);
            rest = rest.get(piece.len()..).unwrap_or_default();
        }
    }
}

/// Pieces of one to some bytes, the same ones for the same input.
fn cuts<'a>(input: &[u8]) -> impl FnMut(&'a [u8]) -> &'a [u8] + use<'a> {
    let mut random = Random(input.iter().fold(0, |seed, &byte| seed * 31 % 0xffff_ffff_ffff + u64::from(byte)));
    let most = [1, 3, 20, 200].get(random.below(4)).copied().unwrap_or(1);
    move |rest| rest.get(..(1 + random.below(most)).min(rest.len())).unwrap_or_default()
}

fn check_body(framing: Framing, sent: &[u8], data: &[u8], trailers: Option<&Fields>) {
    match framing {
        Framing::None => assert!(sent.is_empty() && data.is_empty()),
        Framing::Length(length) => assert!(sent == data && data.len() as u64 == length),
        Framing::UntilClose => panic!("it ends only with the connection"),
        Framing::Chunked => {
            let Some((again, _)) = second_chunks(sent) else {
                panic!("chunks were taken that are none: {:?}", sent.escape_ascii().to_string())
            };
            assert_eq!(again, data);
            let mut out = BytesMut::new();
            if !data.is_empty() {
                write::chunk_head(&mut out, data.len());
                out.extend_from_slice(data);
                out.extend_from_slice(write::CHUNK_TAIL);
            }
            write::last_chunk(&mut out, trailers);
            assert_eq!(second_chunks(&out), Some((data.to_vec(), trailers.is_some_and(|trailers| !trailers.is_empty()))));
        }
    }
}

// === a second, naive reading ===

/// Chunks of a whole body, read as the grammar stands: data, and whether trailers follow. `None`: it is no such body.
/// Knows nothing of limits, and nothing of which fields may trail.
fn second_chunks(mut sent: &[u8]) -> Option<(Vec<u8>, bool)> {
    let mut data = Vec::new();
    loop {
        let (line, rest) = crlf(sent)?;
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let extension = line.get(digits..)?.trim_ascii_start();
        if !matches!(extension.first(), None | Some(b';')) || (extension.is_empty() && digits != line.len()) {
            return None;
        }
        if extension.iter().any(|&byte| (byte < 0x20 && byte != b'\t') || byte == 0x7f) || digits > 16 {
            return None;
        }
        let size = usize::from_str_radix(std::str::from_utf8(line.get(..digits)?).ok()?, 16).ok()?;
        if size == 0 {
            let mut rest = rest;
            let mut trailers = false;
            loop {
                let (line, behind) = crlf(rest)?;
                rest = behind;
                if line.is_empty() {
                    return Some((data, trailers));
                }
                trailers = true;
            }
        }
        data.extend_from_slice(rest.get(..size)?);
        sent = rest.get(size..)?.strip_prefix(b"\r\n")?;
    }
}

/// Up to the first CR LF, and what follows it. A lone CR or LF before it is no line.
fn crlf(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|byte| matches!(byte, b'\r' | b'\n'))?;
    let rest = text.get(at..)?.strip_prefix(b"\r\n")?;
    Some((text.get(..at)?, rest))
}

/// A head as the second reading has it.
pub struct Seen {
    /// Request or status line.
    pub first: String,
    /// Lower-case names, trimmed values, all that stand there.
    pub fields: Vec<(String, String)>,
}

/// Reads a whole head line by line, and panics where it is not exactly what the RFC's grammar says: whatever was taken
/// must be readable like this by anybody behind us.
pub fn second_reading(raw: &[u8]) -> Seen {
    let mut rest = raw;
    let mut all = Vec::new();
    loop {
        let Some((line, behind)) = crlf(rest) else { panic!("a line does not end in CR LF: {:?}", raw.escape_ascii().to_string()) };
        rest = behind;
        if line.is_empty() {
            break;
        }
        assert!(
            !line.iter().any(|&byte| (byte < 0x20 && byte != b'\t') || byte == 0x7f),
            "a control character: {:?}",
            line.escape_ascii().to_string()
        );
        all.push(line);
    }
    assert!(rest.is_empty(), "the head ends before its end");
    let mut all = all.into_iter();
    let first = text(all.next().unwrap_or_default()).into_owned();
    let fields = all
        .map(|line| {
            let Some(colon) = line.iter().position(|&byte| byte == b':') else { panic!("a field without a colon") };
            let (name, value) = line.split_at(colon);
            let token = |&byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            assert!(!name.is_empty() && name.iter().all(token), "a name that is no token: {:?}", name.escape_ascii().to_string());
            let value = value.get(1..).unwrap_or_default();
            let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
            let from = value.iter().position(|byte| !blank(byte)).unwrap_or(value.len());
            let to = value.iter().rposition(|byte| !blank(byte)).map_or(from, |last| last + 1);
            (text(name).to_ascii_lowercase(), text(value.get(from..to).unwrap_or_default()).into_owned())
        })
        .collect();
    Seen { first, fields }
}

impl Seen {
    fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.fields.iter().filter(move |(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    fn options(&self) -> impl Iterator<Item = String> {
        self.named("connection").flat_map(|value| value.split(',')).map(|option| option.trim().to_ascii_lowercase())
    }

    fn persists(&self, version: Version) -> bool {
        !self.options().any(|option| option == "close")
            && (version == Version::Http11 || self.options().any(|option| option == "keep-alive"))
    }

    /// Panics where it is said twice or unclearly.
    fn framing(&self, version: Version) -> Option<Framing> {
        let lengths: Vec<_> = self.named("content-length").collect();
        let codings: Vec<_> = self.named("transfer-encoding").collect();
        match (lengths.as_slice(), codings.as_slice()) {
            ([], []) => None,
            ([length], []) => {
                assert!(!length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit()), "length {length:?}");
                Some(Framing::Length(length.parse().unwrap_or_else(|_| panic!("length {length:?} is too large"))))
            }
            ([], [coding]) => {
                assert!(coding.eq_ignore_ascii_case("chunked") && version == Version::Http11, "coding {coding:?} in {version:?}");
                Some(Framing::Chunked)
            }
            _ => panic!("framing is said more than once: {lengths:?} {codings:?}"),
        }
    }

    /// The fields that go on, as [`lines`] writes them.
    fn passed_on(&self, also: impl Fn(&str) -> bool) -> String {
        const STAYS: &[&str] = &[
            "host",
            "content-length",
            "forwarded",
            "x-real-ip",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-port",
            "x-forwarded-proto",
            "x-forwarded-prefix",
            "x-forwarded-server",
            "x-forwarded-ssl",
        ];
        const ENDS: &[&str] = &[
            "connection",
            "keep-alive",
            "proxy-connection",
            "transfer-encoding",
            "te",
            "trailer",
            "upgrade",
            "http2-settings",
            "proxy-authenticate",
            "proxy-authorization",
        ];
        let options: Vec<_> = self.options().collect();
        let mut out = String::new();
        for (name, value) in &self.fields {
            // What an upstream that reads `_` as `-` would take for the host's word.
            let plain = name.replace('_', "-");
            let alias = plain != *name && [ENDS, STAYS].concat().contains(&&*plain);
            if !alias && !ENDS.contains(&name.as_str()) && (STAYS.contains(&name.as_str()) || !options.contains(name)) && also(name) {
                let _ = writeln!(out, "{name}: {value}");
            }
        }
        out
    }
}

fn lines(fields: &Fields, which: impl Fn(Known) -> bool) -> String {
    let mut out = String::new();
    for (known, name, value) in fields.iter().filter(|(known, ..)| which(*known)) {
        assert!(!known.is_hop_by_hop() || known == Known::Upgrade, "a field about one connection: {}", text(name));
        let _ = writeln!(out, "{}: {}", text(name), text(value));
    }
    out
}

fn kind(framing: Framing) -> Framing {
    if let Framing::Length(1..) = framing { Framing::Length(1) } else { framing }
}

// === paths ===

fn run_path(input: &[u8]) {
    let made = match path::canonical(input) {
        Ok(made) => made,
        Err(bad) => {
            note(&format!("{bad:?}"));
            assert!(!path::is_canonical(input), "refused although it is canonical: {bad}");
            // Nothing that is plain is refused.
            let plain = |&byte: &u8| byte.is_ascii_alphanumeric() || b"-_~/!$&'()*+,=:@".contains(&byte);
            assert!(input.first() != Some(&b'/') || !input.iter().all(plain), "a plain path was refused: {bad}");
            // Nor is valid text, for what a decoder could make of it that takes it for something else.
            if matches!(bad, path::BadPath::HiddenByte(0x80..)) {
                let (once, twice) = (decode(input), decode(&decode(input)));
                let valid = |text: &[u8]| std::str::from_utf8(text).is_ok();
                assert!(!valid(&once) || !valid(&twice), "valid UTF-8 was refused: {bad}");
            }
            return;
        }
    };
    assert_eq!(made.is_none(), path::is_canonical(input));
    let path = made.as_deref().unwrap_or(input);
    assert!(path::is_canonical(path), "the canonical form is not canonical: {:?}", path.escape_ascii().to_string());
    assert_eq!(path::canonical(path), Ok(None), "the canonical form has another canonical form");
    note(&format!("{}{}", made.is_some(), path.iter().filter(|&&byte| byte == b'/').count()));
    note(&path.iter().filter(|&&byte| matches!(byte, b'%' | b';' | b'.')).map(|&byte| char::from(byte)).collect::<String>());

    assert_eq!(path.first(), Some(&b'/'));
    assert!(path.iter().all(|&byte| (0x21..0x7f).contains(&byte) && !matches!(byte, b'\\' | b'?' | b'#')));
    // However often somebody behind us decodes it, it stays in its folder.
    let mut decoded = path.to_vec();
    for times in 0..3 {
        let shown = || path.escape_ascii().to_string();
        for segment in decoded.split(|&byte| byte == b'/') {
            // Nor does it leave by what some cut off, take off or leave out.
            let name = segment.split(|byte| b";?#".contains(byte)).next().unwrap_or_default();
            let line = name.split(|byte| b"\r\n".contains(byte)).next().unwrap_or_default();
            let joined: Vec<u8> = name.iter().copied().filter(|byte| !b"\t\r\n".contains(byte)).collect();
            for name in [name, line, joined.as_slice()] {
                assert!(!matches!(stripped(name).as_slice(), b"." | b".."), "a dot segment, decoded {times} times: {:?}", shown());
            }
        }
        // Nor by what some decoders of UTF-8 make of it.
        let hidden = shortest(&decoded).into_iter().find(|byte| matches!(byte, 0 | b'.' | b'/' | b'\\'));
        assert_eq!(hidden, None, "hidden in UTF-8, decoded {times} times: {:?}", shown());
        // A line that ends in it ends in its last segment.
        let behind = decoded.iter().position(|byte| matches!(byte, b'\r' | b'\n')).and_then(|at| decoded.get(at..)).unwrap_or_default();
        assert!(!behind.contains(&b'/'), "a slash behind the end of a line, decoded {times} times: {:?}", shown());
        assert!(!decoded.windows(2).any(|two| two == b"//"), "an empty segment, decoded {times} times");
        assert!(!decoded.iter().any(|byte| matches!(byte, 0 | b'\\')), "a hidden byte, decoded {times} times");
        let slashes = |text: &[u8]| text.iter().filter(|&&byte| byte == b'/').count();
        let again = decode(&decoded);
        assert_eq!(slashes(&again), slashes(&decoded), "a hidden slash, decoded {times} times");
        decoded = again;
    }
    // The same resource as the naive reading of what came in.
    assert_eq!(
        decode(path),
        resolve(&decode(input)),
        "{:?} became {:?}",
        input.escape_ascii().to_string(),
        path.escape_ascii().to_string()
    );
}

/// A name without white space at its ends, and without the bytes that are white space to those who read Latin-1.
fn stripped(name: &[u8]) -> Vec<u8> {
    let text = match std::str::from_utf8(name) {
        Ok(text) => text.to_owned(),
        // Text, but for some bytes of Latin-1.
        Err(_) => name.utf8_chunks().map(|chunk| chunk.valid().to_owned() + &latin1(chunk.invalid())).collect(),
    };
    text.trim_matches(|char: char| char <= ' ' || char.is_whitespace()).as_bytes().to_vec()
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}

/// What a decoder of UTF-8 takes for ASCII that was written in more than one byte, if it looks at the first byte of each
/// character only, in the forms that could be made of up to eight.
fn shortest(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for (at, first) in text.iter().enumerate().filter(|(_, first)| **first >= 0xc0) {
        let ones = first.leading_ones() as usize;
        let Some(behind) = text.get(at + 1..at + ones) else { continue };
        let mut value = u64::from(*first) & (0xff >> ones >> 1);
        for byte in behind {
            value = (value << 6) + u64::from(byte % 64);
        }
        out.extend(u8::try_from(value).ok().filter(u8::is_ascii));
    }
    out
}

/// Every `%xx` that is one becomes its byte.
fn decode(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some((&byte, tail)) = rest.split_first() {
        let pair = tail.get(..2).filter(|pair| byte == b'%' && pair.iter().all(u8::is_ascii_hexdigit));
        match pair.and_then(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()) {
            Some(decoded) => {
                out.push(decoded);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    out
}

/// RFC 3986 section 5.2.4 and one slash for many, on a decoded path.
fn resolve(path: &[u8]) -> Vec<u8> {
    let mut kept: Vec<&[u8]> = Vec::new();
    let segments: Vec<_> = path.split(|&byte| byte == b'/').skip(1).collect();
    let folder = matches!(segments.last(), Some(&(b"" | b"." | b"..")));
    for segment in segments {
        match segment {
            b"" | b"." => {}
            b".." => drop(kept.pop()),
            name => kept.push(name),
        }
    }
    let mut out = Vec::new();
    for name in &kept {
        out.push(b'/');
        out.extend_from_slice(name);
    }
    if folder || kept.is_empty() {
        out.push(b'/');
    }
    out
}

// === made inputs ===

const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\r",
    b"\0",
    b": ",
    b" ",
    b"\t",
    b"GET ",
    b"POST ",
    b"HTTP/1.1",
    b"HTTP/1.0",
    b"HTTP/1.1 200 OK\r\n",
    b"Host: h\r\n",
    b"Host: a\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 0\r\n",
    b"content-length:",
    b"Transfer-Encoding: chunked\r\n",
    b"transfer-encoding:",
    b"chunked",
    b", chunked",
    b"gzip",
    b"identity",
    b"Connection: close\r\n",
    b"connection: keep-alive\r\n",
    b"Connection: x-a, ",
    b"Upgrade: websocket\r\nConnection: upgrade\r\n",
    b"Upgrade: h2c\r\n",
    b"TE: trailers\r\n",
    b"Trailer: x\r\n",
    b"Expect: 100-continue\r\n",
    b"X-A: b\r\n",
    b"X-Forwarded-For: 1.1.1.1\r\n",
    b"0\r\n\r\n",
    b"0\r\n",
    b"5\r\nhello\r\n",
    b"1;a=b\r\nx\r\n",
    b";ext=\"v\"",
    b"http://",
    b"https://h",
    b"/../",
    b"%2e",
    b"?q",
    b"#f",
    b"*",
    b"[::1]",
    b":80",
    b":65536",
    b"@",
    b"101 ",
    b"204 ",
    b"304 ",
    b"100 ",
    b"\x80",
    b"\xff",
    b"ffffffffffffffff",
    b"99999999999999999999999",
    b"Content-Length: 18446744073709551616\r\n",
    b"+",
    b"0x",
];

fn make_request(random: &mut Random) -> Vec<u8> {
    let mut out = String::new();
    for _ in 0..1 + random.below(2) {
        let method = random.word(&["GET", "GET", "POST", "HEAD", "OPTIONS", "PUT", "X-Y"], &["CONNECT", "", "G T", "get"]);
        let target = random.word(
            &["/", "/a/b?c=d", "/a/../b", "//x/./y", "http://o.example/p?q", "http://O:81", "/%7Ea%20b", "/a;p=1"],
            &["*", "x", "/%2e%2e/x", "/a%2fb", "/a#b", "http://u@h/", "https://", "/a?b#c"],
        );
        let version = random.word(&["HTTP/1.1", "HTTP/1.1", "HTTP/1.0"], &["HTTP/2.0", "HTTP/1.2", "http/1.1", ""]);
        let _ = write!(out, "{method} {target} {version}\r\n");
        out += random.word(
            &["Host: h\r\n", "host:Example.com:8080\r\n", "HOST: [::1]:80 \r\n", "Host: a.b.\r\n"],
            &["", "Host:\r\n", "Host: a\r\nHost: a\r\n", "Host: a@b\r\n", "Host: a/b\r\n", "Host : a\r\n"],
        );
        make_fields(random, &mut out);
    }
    out.into_bytes()
}

fn make_answer(random: &mut Random) -> Vec<u8> {
    let mut out = String::new();
    out.push(char::from(random.below(8) as u8));
    for _ in 0..1 + random.below(2) {
        let version = random.word(&["HTTP/1.1", "HTTP/1.1", "HTTP/1.0"], &["HTTP/2.0", "http/1.1", ""]);
        let status = random.word(
            &["200 OK", "200 OK", "404 Not Found", "204 No Content", "304 ", "100 Continue", "103 x", "500", "101 Switching Protocols"],
            &["600 x", "099 x", "20 x", "2000 x", ""],
        );
        let _ = write!(out, "{version} {status}\r\n");
        make_fields(random, &mut out);
    }
    out.into_bytes()
}

fn make_fields(random: &mut Random, out: &mut String) {
    for _ in 0..random.below(5) {
        *out += random.word(
            &[
                "X-A: b",
                "x-b:c",
                "X-C:  d \t",
                "Connection: close",
                "connection: Keep-Alive",
                "Connection: x-a, X-B",
                "Cookie: a=b",
                "TE: trailers",
                "Connection: upgrade\r\nUpgrade: websocket",
                "Expect: 100-continue",
                "X-Forwarded-For: 1.1.1.1",
                "Date: now",
                "Keep-Alive: 5",
                "Empty:",
            ],
            &[
                "X : y",
                " x: y",
                "X: a\0b",
                "X: a\nY: b",
                "X: a\rb",
                ": x",
                "x",
                "Connection: \"",
                "Expect: x",
                "Upgrade: h2c",
                "Content-Length: 5",
            ],
        );
        *out += random.word(&["\r\n"], &["\n", "\r", "\r\n ", ""]);
    }
    match random.below(4) {
        0 => {
            let len = random.below(12);
            let _ = write!(out, "Content-Length: {len}\r\n\r\n");
            *out += "0123456789\r\n".get(..len).unwrap_or_default();
        }
        1 => {
            *out += random.word(
                &["Transfer-Encoding: chunked\r\n\r\n", "transfer-encoding:CHUNKED\r\n\r\n"],
                &["Transfer-Encoding: gzip, chunked\r\n\r\n"],
            );
            for _ in 0..random.below(4) {
                let len = 1 + random.below(20);
                let extension = random.word(&["", "", ";a=b", " ; a", ";\"\""], &[" ", ";\0", ";\n", "h", "\t"]);
                let _ = write!(out, "{len:x}{extension}\r\n");
                *out += "0123456789\r\n0\r\n\r\n12345".get(..len).unwrap_or_default();
                *out += random.word(&["\r\n"], &["\n", "", "x\r\n", "\r"]);
            }
            *out += random
                .word(&["0\r\n\r\n", "0\r\nX-T: 1\r\n\r\n", "00;e\r\n\r\n"], &["0\r\nHost: h\r\n\r\n", "0\r\n\n", "-0\r\n\r\n", "0\r\n"]);
        }
        _ => *out += random.word(&["\r\n"], &["\n", "\r", ""]),
    }
}

const PATH_WORDS: &[&[u8]] = &[
    b"/",
    b"//",
    b"/.",
    b"/..",
    b"/./",
    b"/../",
    b"..;",
    b"..;/",
    b"..%20",
    b"/%09..",
    b"..%3F",
    b"%23",
    b"%0D%0A",
    b"%85",
    b"%C2%A0",
    b"%C0%AE",
    b"%C0n",
    b"%E0%80%AF",
    b"%F8%80%80%80%AE",
    b"%25C0%25AE",
    b"%C3%A0",
    b".;x",
    b"%2e",
    b"%2E%2e",
    b"%2f",
    b"%5c",
    b"%00",
    b"%25",
    b"%252e",
    b"%252f",
    b"%25252e",
    b"%3b",
    b"%",
    b"%zz",
    b"%4",
    b"%41",
    b"%7e",
    b"%c3%a9",
    b"\\",
    b"\0",
    b" ",
    b"?",
    b"#",
    b";",
    b"|",
    b"<>",
    b"a",
    b"..",
    b"...",
    b"\xc0\xae",
    b"%c0%ae",
];

fn make_path(random: &mut Random) -> Vec<u8> {
    let mut out = String::new();
    for _ in 0..random.below(6) {
        out += random.word(&["/", "/", "//"], &["\\", "%2f", ""]);
        out += random.word(
            &["a", "b.c", "x~y", "%7e", "%41b", "a%20b", ".", "..", "%2e", "...", ".h", "a;b=c", "%25a", "a:b@c", "%3B", "|"],
            &["%252e", "%25%32%65", "..;x", "%2f", "%00", "%", "%4", "%zz", "\u{e9}", "?", "\0", "%5c"],
        );
    }
    if out.is_empty() { "/".into() } else { out.into_bytes() }
}
