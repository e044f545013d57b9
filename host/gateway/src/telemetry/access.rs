//! The access log: one line of JSON for each request, written without ever making a request wait.
//!
//! Each core formats into a buffer of its own. A full buffer, or one older than [`AGE_MAX`], goes to the one writer
//! thread over a bounded queue; where the queue is full the lines are dropped and counted. What must not be written is
//! left out here, before anything leaves the core: values of query arguments that may be secrets. Of the request's
//! headers only `user-agent` is ever written. Files, rotation and full disks are the business of `sink.rs`.

use super::sink::{Message, Sink};
use crate::config::plan::{AccessLog as Settings, LogTarget};
use std::cell::RefCell;
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use wharf_core::dotted::Dotted;
use wharf_core::metrics::{Count, Registry};
use wharf_http::record::{Record, Recorder};

/// A buffer is handed on when it holds this much. Waking the writer costs as much as writing twenty lines.
pub const BUFFER_BYTES: usize = 128 * 1024;
/// A line waits no longer than this for others, give or take a tick.
pub const AGE_MAX: Duration = Duration::from_millis(250);
/// How long the end of the log may take.
const CLOSE_MAX: Duration = Duration::from_secs(2);
/// Buffers that may wait for the writer: 8 MiB, a second of 30,000 requests.
const QUEUE_BUFFERS: usize = 64;
/// Longest text in one field; what is longer is cut, so that one line cannot fill a buffer.
const TEXT_MAX: usize = 4096;

/// The one writer of the access log. House-wide.
pub struct AccessWriter {
    queue: SyncSender<Message>,
    thread: Option<JoinHandle<()>>,
    metrics: Arc<Registry>,
    /// Lines written, lines lost in writing; held here so that they outlive the thread.
    counts: (Arc<Count>, Arc<Count>),
    redact_query: Arc<[Box<str>]>,
}

impl AccessWriter {
    /// Opens the log and starts its thread. `None`: the log is off.
    ///
    /// # Errors
    /// The file cannot be opened now; later troubles are survived and counted.
    pub fn start(settings: &Settings, metrics: Arc<Registry>) -> io::Result<Option<AccessWriter>> {
        if settings.target == LogTarget::Off {
            return Ok(None);
        }
        let (queue, waiting) = sync_channel(QUEUE_BUFFERS);
        let counts = (
            metrics.count("wharf_access_log_lines_total", "lines of the access log that were written", &[]),
            metrics.count(LOST, LOST_HELP, &[("reason", "write")]),
        );
        let sink = Sink::open(settings.target.clone(), counts.clone())?;
        let thread = std::thread::Builder::new().name("access-log".into()).spawn(move || sink.run(&waiting))?;
        Ok(Some(AccessWriter { queue, thread: Some(thread), metrics, counts, redact_query: settings.redact_query.clone().into() }))
    }

    /// The log of one core.
    pub fn for_core(&self) -> AccessLog {
        let (back, empty) = sync_channel(4);
        let lost = self.metrics.count(LOST, LOST_HELP, &[("reason", "queue_full")]);
        AccessLog(RefCell::new(Pen {
            buffer: Vec::with_capacity(BUFFER_BYTES + TEXT_MAX),
            lines: 0,
            since: None,
            second: u64::MAX,
            stamp: [b' '; STAMP],
            queue: self.queue.clone(),
            back,
            empty,
            lost,
            redact_query: self.redact_query.clone(),
            came_in: came_in("", ""),
            listener: Box::default(),
            protocol: Box::default(),
        }))
    }

    /// Opens the file anew (SIGHUP, after a rotation). Returns at once.
    pub fn reopen(&self) {
        // If the queue is full the writer is busy, and it looks for itself every second whether the file was moved.
        let _ = self.queue.try_send(Message::Reopen);
    }

    /// Lines written so far, and lines lost in writing.
    pub fn counts(&self) -> (u64, u64) {
        (self.counts.0.get(), self.counts.1.get())
    }

    /// Writes what has been handed over and ends the thread. Cores should have flushed before. Waits for [`CLOSE_MAX`] at
    /// most: who reads the log may have stopped, and the process ends all the same.
    pub fn close(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        let end = Instant::now() + CLOSE_MAX;
        let mut told = false;
        while Instant::now() < end && !thread.is_finished() {
            told = told || !matches!(self.queue.try_send(Message::Stop), Err(TrySendError::Full(_)));
            std::thread::sleep(Duration::from_millis(1)); // look again: there is nobody to be woken by
        }
        if thread.is_finished() {
            let _ = thread.join();
        } else {
            tracing::warn!("the end of the access log could not be written within {CLOSE_MAX:?}: nobody reads it");
        }
    }
}

pub(super) const LOST: &str = "wharf_access_log_lost_total";
const LOST_HELP: &str = "lines of the access log that were not written, by reason";

/// The access log of one core.
pub struct AccessLog(RefCell<Pen>);

struct Pen {
    buffer: Vec<u8>,
    lines: u32,
    /// When a tick first saw the oldest line in the buffer.
    since: Option<Instant>,
    /// The second that `stamp` is the text of.
    second: u64,
    stamp: [u8; STAMP],
    queue: SyncSender<Message>,
    back: SyncSender<Vec<u8>>,
    empty: Receiver<Vec<u8>>,
    lost: Arc<Count>,
    redact_query: Arc<[Box<str>]>,
    /// The part of a line that only differs by listener and protocol, for those that came last.
    came_in: Vec<u8>,
    listener: Box<str>,
    protocol: Box<str>,
}

impl Recorder for AccessLog {
    fn record(&self, record: &Record<'_>) {
        // Never borrowed already: nothing in here calls back.
        if let Ok(mut pen) = self.0.try_borrow_mut() {
            pen.write(record);
            if pen.buffer.len() >= BUFFER_BYTES {
                pen.hand_over();
            }
        }
    }

    fn tick(&self) -> bool {
        let Ok(mut pen) = self.0.try_borrow_mut() else { return true };
        if pen.lines > 0 {
            let now = Instant::now();
            let since = *pen.since.get_or_insert(now);
            if now.saturating_duration_since(since) >= AGE_MAX {
                pen.hand_over();
            }
        }
        pen.lines > 0
    }

    fn flush(&self) {
        if let Ok(mut pen) = self.0.try_borrow_mut() {
            pen.hand_over();
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.0.get_mut().hand_over();
    }
}

impl Pen {
    fn hand_over(&mut self) {
        self.since = None;
        if self.lines == 0 {
            return;
        }
        let lines = std::mem::take(&mut self.lines);
        let mut next = self.empty.try_recv().unwrap_or_else(|_| Vec::with_capacity(BUFFER_BYTES + TEXT_MAX));
        next.clear();
        let text = std::mem::replace(&mut self.buffer, next);
        match self.queue.try_send(Message::Lines { text, lines, back: self.back.clone() }) {
            Ok(()) => {}
            Err(TrySendError::Full(Message::Lines { text, .. }) | TrySendError::Disconnected(Message::Lines { text, .. })) => {
                self.lost.add(lines.into());
                self.buffer = text;
                self.buffer.clear();
            }
            Err(_) => {}
        }
    }

    fn write(&mut self, record: &Record<'_>) {
        self.stamp_for(record.time_ms);
        self.lines += 1;
        let out = &mut self.buffer;
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
            put_query(out, &wharf_core::head::text(query), &self.redact_query);
        }
        if let Some(agent) = record.user_agent {
            out.extend_from_slice(b"\",\"user_agent\":\"");
            put_bytes(out, agent);
        }
        word(out, b"\",\"route\":\"", record.route);
        number(out, b"\",\"status\":", record.status.into());
        number(out, b",\"bytes_in\":", record.bytes_in);
        number(out, b",\"bytes_out\":", record.bytes_out);
        number(out, b",\"duration_us\":", record.duration.as_micros() as u64);
        if let Some(endpoint) = record.endpoint {
            out.extend_from_slice(b",\"endpoint\":\"");
            out.extend_from_slice(endpoint.text.as_bytes());
            out.push(b'"');
        }
        number(out, b",\"tries\":", record.tries.into());
        optional(out, b",\"fault\":\"", record.fault);
        optional(out, b",\"consumer\":\"", record.consumer);
        optional(out, b",\"answered_by\":\"", record.answered_by);
        out.extend_from_slice(b"}\n");
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
    for char in text.get(..cut).unwrap_or_default().chars() {
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
    if cut < text.len() {
        out.extend_from_slice("…".as_bytes());
    }
}

/// A one in each byte of a word.
const ONES: u64 = u64::from_ne_bytes([1; 8]);

/// No quote, no backslash, no control character, nothing beyond ASCII: eight bytes at a time, the last ones overlapping.
fn is_plain(text: &[u8]) -> bool {
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
        match before_secret(argument, redact) {
            Some(shown) => {
                put_text(out, shown);
                out.extend_from_slice(b"=***");
            }
            None => put_text(out, argument),
        }
    }
}

/// What may be shown of what stands between two `&`, up to the `=` behind the name of a secret; `None`: all. Some take `;`
/// for `&`, as HTML 4 recommended (appendix B.2.2); for others it is part of the value, so what is behind it is not shown.
fn before_secret<'a>(argument: &'a str, redact: &[Box<str>]) -> Option<&'a str> {
    let mut begin = 0;
    for one in argument.split(';') {
        if let Some((name, _)) = one.split_once('=')
            && is_secret(name, redact)
        {
            return argument.get(..begin + name.len());
        }
        begin += one.len() + 1;
    }
    None
}

/// Does any reading of this name name a secret: as it stands, decoded, decoded twice; and of
/// `x[token][]` or `x%3Btoken` any part?
fn is_secret(name: &str, redact: &[Box<str>]) -> bool {
    if !name.contains(['%', '+', '[']) {
        return redact.iter().any(|secret| secret.eq_ignore_ascii_case(name));
    }
    let names_one = |name: &[u8]| {
        name.split(|byte| matches!(byte, b'[' | b']' | b';' | b'&'))
            .any(|part| redact.iter().any(|secret| secret.as_bytes().eq_ignore_ascii_case(part.trim_ascii())))
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
#[path = "access_tests.rs"]
mod tests;
