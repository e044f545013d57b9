//! One record as a line of JSON, and what lines of text are made of as well.
//!
//! The plain line is written on every request: nothing in it is allocated, and what only a few want is behind one look
//! ([`Line::more`]). What must not be written is left out here, before anything leaves the core: values of query arguments,
//! header fields and fields of bodies whose names say that they are secrets.

use super::{redact, shown};
use crate::config::plan::Redact;
use base64::Engine as _;
use std::borrow::Cow;
use std::io::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use wharf_core::dotted::Dotted;
use wharf_core::head::Fields;
use wharf_http::capture::{Copied, Copies};
use wharf_http::record::{Part, Record};

use super::access::TEXT_MAX;

/// What is never written.
pub(super) type Redacting = Redact;

/// What lines are written with on one core.
pub(super) struct Line {
    /// The second that `stamp` is the text of.
    second: u64,
    stamp: [u8; STAMP],
    redact: Arc<Redacting>,
    /// The part of a line that only differs by listener and protocol, for those that came last.
    came_in: Vec<u8>,
    listener: Box<str>,
    protocol: Box<str>,
    request_headers: Arc<[Box<str>]>,
    response_headers: Arc<[Box<str>]>,
    /// Every line says more than the plain one.
    says_more: bool,
}

impl Line {
    pub(super) fn new(redact: Arc<Redacting>, request_headers: Arc<[Box<str>]>, response_headers: Arc<[Box<str>]>) -> Line {
        Line {
            second: u64::MAX,
            stamp: [b' '; STAMP],
            redact,
            came_in: came_in("", ""),
            listener: Box::default(),
            protocol: Box::default(),
            says_more: !request_headers.is_empty() || !response_headers.is_empty(),
            request_headers,
            response_headers,
        }
    }

    pub(super) fn redact(&self) -> &Arc<Redacting> {
        &self.redact
    }

    pub(super) fn write(&mut self, out: &mut Vec<u8>, record: &Record<'_>) {
        self.stamp_for(record.time_ms);
        out.extend_from_slice(&self.stamp);
        put_id(out, record.id.time, record.id.serial);
        if *self.listener != *record.listener || *self.protocol != *record.protocol {
            self.came_in = came_in(record.listener, record.protocol);
            (self.listener, self.protocol) = (record.listener.into(), record.protocol.into());
        }
        out.extend_from_slice(&self.came_in);
        put_ip(out, record.client);
        word(out, b"\",\"method\":\"", record.method);
        out.extend_from_slice(b"\",\"authority\":\"");
        put_bytes(out, record.authority);
        out.extend_from_slice(b"\",\"path\":\"");
        put_bytes(out, record.path);
        if let Some(query) = record.query {
            out.extend_from_slice(b"\",\"query\":\"");
            put_query(out, &wharf_core::head::text(query), &self.redact.query);
        }
        if let Some(agent) = record.user_agent {
            out.extend_from_slice(b"\",\"user_agent\":\"");
            put_bytes(out, agent);
        }
        word(out, b"\",\"route\":\"", record.route);
        if record.part == Part::Request {
            out.push(b'"');
            return self.more(out, record);
        }
        number(out, b"\",\"status\":", record.status.into());
        number(out, b",\"bytes_in\":", record.bytes_in);
        number(out, b",\"bytes_out\":", record.bytes_out);
        number(out, b",\"duration_us\":", record.duration.as_micros() as u64);
        if let Some(endpoint) = record.endpoint {
            out.extend_from_slice(b",\"endpoint\":\"");
            out.extend_from_slice(endpoint.text.as_bytes());
            upstream(out, record.head_us);
        }
        number(out, b",\"tries\":", record.tries.into());
        optional(out, b",\"fault\":\"", record.fault);
        optional(out, b",\"consumer\":\"", record.consumer);
        optional(out, b",\"answered_by\":\"", record.answered_by);
        if self.says_more || record.part != Part::Whole || record.exchange.is_some_and(|exchange| exchange.watched.is_some()) {
            return self.more(out, record);
        }
        out.extend_from_slice(b"}\n");
    }

    /// What the lines of routes that are watched say besides, and the end of the line.
    #[cold]
    fn more(&self, out: &mut Vec<u8>, record: &Record<'_>) {
        if record.part != Part::Whole {
            text(out, b",\"record\":\"", part(record.part));
            out.push(b'"');
        }
        let watched = record.exchange.and_then(|exchange| exchange.watched.as_deref());
        if record.part != Part::Whole || watched.is_some_and(|watched| watched.told_id.is_some()) {
            text(out, b",\"ctxID\":\"", &ctx_id(record));
            out.push(b'"');
        }
        optional(out, b",\"trace_id\":\"", trace_id(record).as_deref());
        if let Some(exchange) = record.exchange
            && record.part != Part::Response
        {
            self.headers(out, b",\"request_headers\":{", &self.request_headers, &exchange.facts.request.fields);
        }
        if let Some(head) = record.response
            && record.part != Part::Request
        {
            self.headers(out, b",\"response_headers\":{", &self.response_headers, &head.fields);
        }
        if let Some(copies) = record.exchange.and_then(Copies::of)
            && record.part != Part::Request
        {
            if let Some(copied) = copies.request() {
                self.body(out, b",\"request_body\":{\"type\":\"", &copied);
            }
            if let Some(copied) = copies.response() {
                self.body(out, b",\"response_body\":{\"type\":\"", &copied);
            }
        }
        out.extend_from_slice(b"}\n");
    }

    fn headers(&self, out: &mut Vec<u8>, begin: &[u8], names: &[Box<str>], fields: &Fields) {
        let mut before = begin;
        for name in names {
            let Some(value) = shown::header(fields, name, &self.redact) else { continue };
            out.extend_from_slice(before);
            text(out, b"\"", name);
            text(out, b"\":\"", &value);
            out.push(b'"');
            before = b",";
        }
        if before == b"," {
            out.push(b'}');
        }
    }

    fn body(&self, out: &mut Vec<u8>, begin: &[u8], copied: &Copied) {
        text(out, begin, copied.media_type());
        number(out, b"\",\"bytes\":", copied.all());
        if let Some(coding) = copied.coding() {
            text(out, b",\"coding\":\"", coding);
            return out.extend_from_slice(b"\"}");
        }
        if copied.lacked_memory() {
            return out.extend_from_slice(b",\"left_out\":\"memory\"}");
        }
        let (shown, whole) = self.shown_body(copied);
        match shown {
            Shown::Text(shown) => {
                out.extend_from_slice(b",\"text\":\"");
                escape(out, &shown);
            }
            Shown::Bytes(shown) => {
                out.extend_from_slice(b",\"base64\":\"");
                out.extend_from_slice(shown.as_bytes());
            }
        }
        out.push(b'"');
        if !whole {
            out.extend_from_slice(b",\"left_out\":\"not json\"");
        } else if copied.all() > copied.bytes().len() as u64 {
            out.extend_from_slice(b",\"left_out\":\"rest\"");
        }
        out.push(b'}');
    }

    /// A body without its secrets. `false`: it is not the JSON that it says it is.
    fn shown_body<'a>(&self, copied: &'a Copied) -> (Shown<'a>, bool) {
        let (bytes, kind) = (copied.bytes(), copied.media_type());
        let valid = match std::str::from_utf8(bytes) {
            Ok(text) => Some(text),
            // Cut in the middle of a letter.
            Err(error) if error.error_len().is_none() => bytes.get(..error.valid_up_to()).and_then(|good| std::str::from_utf8(good).ok()),
            Err(_) => None,
        };
        let is_json = kind.ends_with("json") || kind.ends_with("ndjson") || kind == "text/json";
        match valid {
            Some(text) if is_json => {
                let (shown, whole) = redact::json(text, &self.redact.fields);
                (Shown::Text(shown.into()), whole)
            }
            None if is_json => (Shown::Text("".into()), false),
            Some(text) if kind == "application/x-www-form-urlencoded" => (Shown::Text(shown::form(text, &self.redact).into()), true),
            Some(text) => (Shown::Text(text.into()), true),
            None => (Shown::Bytes(base64::engine::general_purpose::STANDARD.encode(bytes)), true),
        }
    }

    /// The time as text: the second is made once, the milliseconds each time.
    fn stamp_for(&mut self, time_ms: u64) {
        if time_ms / 1000 != self.second {
            self.second = time_ms / 1000;
            self.stamp = stamp_of(self.second);
        }
        let millis = (time_ms % 1000) as u16;
        if let Some(place) = self.stamp.get_mut(MILLIS..MILLIS + 3) {
            place.copy_from_slice(&[b'0' + (millis / 100) as u8, b'0' + (millis / 10 % 10) as u8, b'0' + (millis % 10) as u8]);
        }
    }
}

enum Shown<'a> {
    Text(Cow<'a, str>),
    Bytes(String),
}

/// The word of a part.
pub(super) fn part(part: Part) -> &'static str {
    match part {
        Part::Whole => "whole",
        Part::Request => "request",
        Part::Response => "response",
    }
}

/// What joins all that is said of an exchange: the id that a trusted proxy has given it, else its own.
pub(super) fn ctx_id(record: &Record<'_>) -> String {
    let told = record.exchange.and_then(|exchange| exchange.watched.as_ref()?.told_id.as_deref());
    told.map_or_else(|| record.id.to_string(), str::to_owned)
}

/// The trace that it is a part of.
pub(super) fn trace_id(record: &Record<'_>) -> Option<String> {
    let trace = record.exchange?.watched.as_ref()?.trace.as_ref()?;
    Some(trace.context.trace_id())
}

/// `2026-11-22T15:20:02.007Z`.
pub(super) fn put_time(out: &mut Vec<u8>, time_ms: u64) {
    let stamp = stamp_of(time_ms / 1000);
    out.extend_from_slice(stamp.get(TIME..MILLIS).unwrap_or_default());
    let _ = write!(out, "{:03}Z", time_ms % 1000);
}

/// `22/Nov/2026:15:20:02 +0000`, as web servers write it.
pub(super) fn put_clf_time(out: &mut Vec<u8>, time_ms: u64) {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let second = time_ms / 1000;
    let (year, month, day) = date_of(second / 86_400);
    let month = MONTHS.get(month as usize - 1).unwrap_or(&"Jan");
    let rest = second % 86_400;
    let _ = write!(out, "{day:02}/{month}/{year:04}:{:02}:{:02}:{:02} +0000", rest / 3600, rest / 60 % 60, rest % 60);
}

/// `{"time":"2026-11-22T15:20:02.000Z","id":"`: the beginning of a line.
const STAMP: usize = 41;
/// Where the time stands in it, and where the milliseconds.
const TIME: usize = 9;
const MILLIS: usize = TIME + 20;

fn stamp_of(second: u64) -> [u8; STAMP] {
    let (year, month, day) = date_of(second / 86_400);
    let rest = second % 86_400;
    let mut stamp = *b"{\"time\":\"0000-00-00T00:00:00.000Z\",\"id\":\"";
    let mut put = |at: usize, mut value: u64, digits: usize| {
        for at in (at..at + digits).rev() {
            if let Some(place) = stamp.get_mut(at) {
                *place = b'0' + (value % 10) as u8;
            }
            value /= 10;
        }
    };
    put(TIME, year, 4);
    put(TIME + 5, month, 2);
    put(TIME + 8, day, 2);
    put(TIME + 11, rest / 3600, 2);
    put(TIME + 14, rest / 60 % 60, 2);
    put(TIME + 17, rest % 60, 2);
    stamp
}

/// Year, month and day of a day since 1970-01-01 (the civil calendar counted in eras of 400 years from 1 March).
pub(crate) fn date_of(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let (day, month) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
    (year + era * 400 + u64::from(month <= 2), month, day)
}

/// Everything between the id and the client's address.
fn came_in(listener: &str, protocol: &str) -> Vec<u8> {
    let mut out = Vec::new();
    text(&mut out, b"\",\"listener\":\"", listener);
    text(&mut out, b"\",\"protocol\":\"", protocol);
    out.extend_from_slice(b"\",\"client\":\"");
    out
}

#[inline]
fn text(out: &mut Vec<u8>, name: &[u8], value: &str) {
    out.extend_from_slice(name);
    put_text(out, value);
}

/// A token of HTTP, or a name as the configuration allows them: nothing in it needs escaping.
fn word(out: &mut Vec<u8>, name: &[u8], value: &str) {
    out.extend_from_slice(name);
    if value.len() <= TEXT_MAX {
        out.extend_from_slice(value.as_bytes());
    } else {
        put_escaped(out, value);
    }
}

fn optional(out: &mut Vec<u8>, name: &[u8], value: Option<&str>) {
    if let Some(value) = value {
        text(out, name, value);
        out.push(b'"');
    }
}

/// How long the endpoint took, behind its name. Not inlined: the road that it is on would be another.
#[inline(never)]
fn upstream(out: &mut Vec<u8>, micros: u32) {
    match micros {
        0 => out.push(b'"'),
        micros => number(out, b"\",\"upstream_us\":", micros.into()),
    }
}

#[inline]
fn number(out: &mut Vec<u8>, name: &[u8], value: u64) {
    out.extend_from_slice(name);
    // Most counts are one digit.
    if value < 10 {
        out.push(b'0' + value as u8);
    } else {
        out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }
}

const HEX: [[u8; 2]; 256] = {
    let mut pairs = [[0; 2]; 256];
    let digits = b"0123456789abcdef";
    let mut at = 0;
    #[allow(clippy::indexing_slicing, reason = "evaluated by the compiler")]
    while at < 256 {
        pairs[at] = [digits[at >> 4], digits[at & 15]];
        at += 1;
    }
    pairs
};

#[allow(clippy::indexing_slicing, reason = "a table of 256 is indexed by a byte")]
fn put_id(out: &mut Vec<u8>, time: u64, serial: u64) {
    let mut digits = [[0; 2]; 16];
    let bytes = time.to_be_bytes().into_iter().chain(serial.to_be_bytes());
    for (pair, byte) in digits.iter_mut().zip(bytes) {
        *pair = HEX[byte as usize];
    }
    out.extend_from_slice(digits.as_flattened());
}

fn put_ip(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => out.extend_from_slice(Dotted::of(v4).as_bytes()),
        // Writing to a Vec cannot fail.
        IpAddr::V6(v6) => drop(write!(out, "{v6}")),
    }
}

/// Text inside quotes. Most text needs no change and is copied whole.
fn put_text(out: &mut Vec<u8>, text: &str) {
    if is_plain(text.as_bytes()) && text.len() <= TEXT_MAX {
        out.extend_from_slice(text.as_bytes());
    } else {
        put_escaped(out, text);
    }
}

/// Bytes that need not be UTF-8: read as the plugins read them.
fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    if is_plain(bytes) && bytes.len() <= TEXT_MAX {
        out.extend_from_slice(bytes);
    } else {
        put_escaped(out, &wharf_core::head::text(bytes));
    }
}

#[cold]
fn put_escaped(out: &mut Vec<u8>, text: &str) {
    let cut = text.floor_char_boundary(TEXT_MAX);
    escape(out, text.get(..cut).unwrap_or_default());
    if cut < text.len() {
        out.extend_from_slice("…".as_bytes());
    }
}

/// As [`put_escaped`], all of it.
fn escape(out: &mut Vec<u8>, text: &str) {
    for char in text.chars() {
        match char {
            '"' => out.extend_from_slice(b"\\\""),
            '\\' => out.extend_from_slice(b"\\\\"),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            // U+007F to U+009F steer terminals and are no text either.
            control if control.is_control() => drop(write!(out, "\\u{:04x}", control as u32)),
            other => out.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// A one in each byte of a word.
const ONES: u64 = u64::from_ne_bytes([1; 8]);

/// No quote, no backslash, no control character, nothing beyond ASCII: eight bytes at a time, the last ones overlapping.
pub(super) fn is_plain(text: &[u8]) -> bool {
    // What is odd sets the highest bit of its byte. The lowest odd byte does so for certain: no plain one below it carries or
    // borrows.
    let odd = |word: u64| {
        let is = |byte: u8| (word ^ (ONES * u64::from(byte))).wrapping_sub(ONES);
        (word | word.wrapping_sub(ONES * 0x20) | word.wrapping_add(ONES) | is(b'"') | is(b'\\')) & (ONES << 7)
    };
    if let Some(last) = text.last_chunk::<8>() {
        let (words, _) = text.as_chunks::<8>();
        let mut any = odd(u64::from_ne_bytes(*last));
        for word in words {
            any |= odd(u64::from_ne_bytes(*word));
        }
        any == 0
    } else {
        // In one word, behind spaces.
        odd(text.iter().fold(ONES * 0x20, |word, &byte| word << 8 | u64::from(byte))) == 0
    }
}

/// A query without the values of arguments that may be secrets. Names are compared decoded, so that `%74oken=` does not
/// slip through.
fn put_query(out: &mut Vec<u8>, query: &str, redact: &[Box<str>]) {
    let query = query.get(..query.floor_char_boundary(TEXT_MAX)).unwrap_or_default();
    for (at, argument) in query.split('&').enumerate() {
        if at > 0 {
            out.push(b'&');
        }
        match shown::before_secret(argument, redact) {
            Some(before) => {
                put_text(out, before);
                out.extend_from_slice(b"=***");
            }
            None => put_text(out, argument),
        }
    }
}
