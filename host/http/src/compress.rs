//! Compression of answers: whether, how, and the body while it passes.
//!
//! Only for clients that say they want it, and only of what is known to shrink: never event streams, gRPC, replaced
//! parts, what is small, encoded already, a part of something, or may not be transformed. Whoever sends no
//! `accept-encoding` gets what the upstream sent, byte for byte.
//!
//! A stream is not held back: when its source has nothing more at the moment, all that has come is flushed. A core is not
//! held up: an encoder gets [`TURN`] bytes, then others come first. Memory is bounded by what the encoders of a core may take
//! together ([`ENCODERS_KIB_MAX`]); beyond, and while memory is short, answers pass as they are.

use crate::cors::add_vary;
use brotli::CompressorWriter;
use bytes::Bytes;
use flate2::write::GzEncoder;
use std::cell::Cell;
use std::io::{self, Write as _};
use std::rc::Rc;
use std::task::{Context, Poll};
use wharf_core::body::{Body, BodyStream};
use wharf_core::exchange::{Answer, Exchange};
use wharf_core::fault::{Blame, Fault, FaultKind, Retry};
use wharf_core::head::{Fields, Known, Method, RequestHead, ResponseHead};

/// Compressed in one go: below a millisecond by the slowest encoder.
const AT_ONCE: usize = 32 * 1024;
/// Of a stream in one turn.
const TURN: usize = 32 * 1024;
/// Given to an encoder at once.
const PIECE: usize = 16 * 1024;
/// Handed on when so much has come out.
const OUT: usize = 8 * 1024;
/// What the encoders of one core may take at a time, KiB.
const ENCODERS_KIB_MAX: u32 = 48 * 1024;
/// 2 to this power is how far encoders look back: 256 KiB.
const WINDOW: u32 = 18;

/// A content coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// RFC 8878. The cheapest for its ratio.
    Zstd,
    /// RFC 7932.
    Brotli,
    /// RFC 1952. The one that every client knows.
    Gzip,
}

impl Coding {
    /// All, the preferred first.
    pub const ALL: [Coding; 3] = [Coding::Zstd, Coding::Brotli, Coding::Gzip];

    /// What an encoder takes while it is at work, KiB; measured.
    fn kib(self) -> u32 {
        match self {
            Coding::Zstd => 1300,
            Coding::Brotli => 2400,
            Coding::Gzip => 300,
        }
    }

    /// As in `content-encoding`.
    pub fn as_str(self) -> &'static str {
        match self {
            Coding::Zstd => "zstd",
            Coding::Brotli => "br",
            Coding::Gzip => "gzip",
        }
    }
}

/// What a route compresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compression {
    /// The preferred first.
    pub codings: Vec<Coding>,
    /// Bodies that are known to have fewer bytes are left as they are.
    pub bytes_min: u64,
    /// Media types in lower case: `application/json`, `text/*`, `*+json`.
    pub types: Vec<Box<str>>,
}

/// Types that shrink.
pub const TYPES: [&str; 17] = [
    "text/*",
    "*+json",
    "*+xml",
    "*+text",
    "application/json",
    "application/javascript",
    "application/x-javascript",
    "application/xml",
    "application/wasm",
    "application/x-ndjson",
    "application/manifest+json",
    "application/graphql",
    "application/toml",
    "application/yaml",
    "application/x-yaml",
    "font/ttf",
    "font/otf",
];

impl Default for Compression {
    fn default() -> Compression {
        Compression { codings: Coding::ALL.to_vec(), bytes_min: 1024, types: TYPES.iter().map(|kind| (*kind).into()).collect() }
    }
}

impl Compression {
    /// Is the body such that it is worth looking at the rest? What nearly every small answer ends at.
    #[inline]
    pub(crate) fn is_worth(&self, body: &Body) -> bool {
        match body {
            Body::Empty => false,
            Body::Full(all) => all.len() as u64 >= self.bytes_min,
            Body::Stream(stream) => stream.size().is_none_or(|size| size >= self.bytes_min),
        }
    }

    /// The coding for an answer whose body is worth it; `None`: it stays as it is.
    fn choose(&self, asked: &RequestHead, accepts: &[u8], head: &ResponseHead) -> Option<Coding> {
        let fields = &head.fields;
        let has = |name: &[u8]| fields.get(name).is_some();
        if asked.method == Method::Head
            || matches!(head.status, ..200 | 204 | 205 | 206 | 304)
            || asked.fields.get(b"range").is_some()
            // A digest is of the bytes that are sent (RFC 9530), and would not fit the others.
            || [&b"content-encoding"[..], b"content-range", b"content-digest", b"digest", b"content-md5"].into_iter().any(has)
            || fields.known_all(Known::CacheControl).any(|value| contains(value, b"no-transform"))
            || !self.shrinks(fields.known(Known::ContentType)?)
        {
            return None;
        }
        let quality = |coding: &Coding| quality(accepts, coding.as_str());
        let best = self.codings.iter().map(quality).max().filter(|best| *best > 0)?;
        self.codings.iter().copied().find(|coding| quality(coding) == best)
    }

    fn shrinks(&self, kind: &[u8]) -> bool {
        let kind = kind.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii().to_ascii_lowercase();
        // Each event must reach the client as it comes, whatever the list says.
        if matches!(kind.as_slice(), b"text/event-stream" | b"multipart/x-mixed-replace") || kind.starts_with(b"application/grpc") {
            return false;
        }
        self.types.iter().any(|wanted| match (wanted.strip_suffix('*'), wanted.strip_prefix('*')) {
            (Some(begins), _) => kind.starts_with(begins.as_bytes()),
            (_, Some(ends)) => kind.ends_with(ends.as_bytes()),
            _ => *wanted.as_bytes() == *kind,
        })
    }

    /// Compresses an answer, if that is wanted and worth it. `open`: what the core's encoders take, KiB.
    #[inline(never)]
    pub(crate) fn apply(&self, exchange: &Exchange, answer: &mut Answer, open: &Rc<Cell<u32>>) {
        let asked = &exchange.facts.request;
        // A route may take the field off on the way to the service, so that the gateway does it.
        let sent = exchange.sent.as_deref().unwrap_or(&asked.fields);
        let Some(accepts) = sent.joined(b"accept-encoding") else { return };
        let accepts = accepts.as_bytes();
        if answer.tunnel.is_some() {
            return;
        }
        let Some(coding) = self.choose(asked, accepts, &answer.head) else { return };
        if open.get() + coding.kib() > ENCODERS_KIB_MAX {
            return;
        }
        let Ok(mut encoder) = Encoder::new(coding) else { return };
        answer.body = match std::mem::take(&mut answer.body) {
            Body::Full(all) if all.len() <= AT_ONCE => match encoder.write(&all).and_then(|()| encoder.finish()) {
                Ok(out) => Body::Full(out.into()),
                Err(_) => {
                    answer.body = Body::Full(all);
                    return;
                }
            },
            Body::Full(all) => Compressed::body(encoder, None, all, (open, coding.kib())),
            Body::Stream(inner) => Compressed::body(encoder, Some(inner), Bytes::new(), (open, coding.kib())),
            Body::Empty => return,
        };
        mark(&mut answer.head.fields, coding);
    }
}

/// Says what was done (RFC 9110 sections 8.4, 8.8.1 and 12.5.5).
fn mark(fields: &mut Fields, coding: Coding) {
    fields.remove(b"content-length");
    // A part of it would be a part of other bytes.
    fields.remove(b"accept-ranges");
    fields.add(b"content-encoding", coding.as_str().as_bytes());
    add_vary(fields, "accept-encoding");
    let strong = fields.get(b"etag").filter(|tag| tag.starts_with(b"\"")).map(|tag| [b"W/", tag].concat());
    if let Some(weak) = strong {
        fields.set(b"etag", &weak);
    }
}

/// The quality that a client gives a coding, in thousandths (RFC 9110 section 12.5.3); 0: none.
fn quality(accepts: &[u8], coding: &str) -> u16 {
    let mut any = 0;
    for part in accepts.split(|&byte| byte == b',') {
        let mut pieces = part.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
        let name = pieces.next().unwrap_or_default();
        let weight = pieces.find_map(|piece| piece.strip_prefix(b"q=").or(piece.strip_prefix(b"Q="))).map_or(1000, thousandths);
        if name.eq_ignore_ascii_case(coding.as_bytes()) || (coding == "gzip" && name.eq_ignore_ascii_case(b"x-gzip")) {
            return weight;
        }
        if name == b"*" {
            any = weight;
        }
    }
    any
}

fn thousandths(weight: &[u8]) -> u16 {
    let number = std::str::from_utf8(weight).ok().and_then(|text| text.parse::<f32>().ok()).unwrap_or(0.0);
    (number.clamp(0.0, 1.0) * 1000.0) as u16
}

fn contains(value: &[u8], word: &[u8]) -> bool {
    value.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word))
}

/// One encoder with what has come out of it.
enum Encoder {
    Gzip(GzEncoder<Vec<u8>>),
    Brotli(Box<CompressorWriter<Vec<u8>>>),
    Zstd(zstd::stream::write::Encoder<'static, Vec<u8>>),
}

impl Encoder {
    /// Levels for passing traffic: most of the ratio at a fraction of the time that the best would take.
    fn new(coding: Coding) -> io::Result<Encoder> {
        Ok(match coding {
            Coding::Gzip => Encoder::Gzip(GzEncoder::new(Vec::new(), flate2::Compression::new(4))),
            Coding::Brotli => Encoder::Brotli(Box::new(CompressorWriter::new(Vec::new(), 4096, 4, WINDOW))),
            Coding::Zstd => {
                let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3)?;
                encoder.window_log(WINDOW)?;
                Encoder::Zstd(encoder)
            }
        })
    }

    fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        match self {
            Encoder::Gzip(encoder) => encoder.write_all(piece),
            Encoder::Brotli(encoder) => encoder.write_all(piece),
            Encoder::Zstd(encoder) => encoder.write_all(piece),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Encoder::Gzip(encoder) => encoder.flush(),
            Encoder::Brotli(encoder) => encoder.flush(),
            Encoder::Zstd(encoder) => encoder.flush(),
        }
    }

    fn out(&mut self) -> &mut Vec<u8> {
        match self {
            Encoder::Gzip(encoder) => encoder.get_mut(),
            Encoder::Brotli(encoder) => encoder.get_mut(),
            Encoder::Zstd(encoder) => encoder.get_mut(),
        }
    }

    /// The end of the stream, and all that has not been taken.
    fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Encoder::Gzip(encoder) => encoder.finish(),
            Encoder::Brotli(encoder) => Ok(encoder.into_inner()),
            Encoder::Zstd(encoder) => encoder.finish(),
        }
    }
}

/// A body that is compressed while it passes.
struct Compressed {
    /// Gone at the end.
    encoder: Option<Encoder>,
    /// Where it comes from; `None`: all of it is in `piece`.
    inner: Option<Box<dyn BodyStream>>,
    /// Come, and not yet given to the encoder.
    piece: Bytes,
    /// The encoder may hold something back.
    held: bool,
    _open: Open,
}

/// What an encoder takes, counted while it lasts.
struct Open {
    all: Rc<Cell<u32>>,
    kib: u32,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.all.set(self.all.get() - self.kib);
    }
}

impl Compressed {
    fn body(encoder: Encoder, inner: Option<Box<dyn BodyStream>>, piece: Bytes, (all, kib): (&Rc<Cell<u32>>, u32)) -> Body {
        all.set(all.get() + kib);
        let _open = Open { all: all.clone(), kib };
        Body::Stream(Box::new(Compressed { encoder: Some(encoder), inner, piece, held: false, _open }))
    }

    fn poll_inner(&mut self, task: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        match &mut self.inner {
            Some(inner) => inner.poll_chunk(task),
            None => Poll::Ready(Ok(None)),
        }
    }
}

fn broken(error: io::Error) -> Fault {
    Fault::new(FaultKind::Reset, Blame::Host, Retry::Never, format!("the answer could not be compressed: {error}"))
}

impl BodyStream for Compressed {
    fn poll_chunk(&mut self, task: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        let mut left = TURN;
        loop {
            let Some(encoder) = &mut self.encoder else { return Poll::Ready(Ok(None)) };
            while !self.piece.is_empty() {
                if left == 0 {
                    // Others first; what has come out can be sent meanwhile.
                    task.waker().wake_by_ref();
                    let out = std::mem::take(encoder.out());
                    return if out.is_empty() { Poll::Pending } else { Poll::Ready(Ok(Some(out.into()))) };
                }
                let part = self.piece.split_to(self.piece.len().min(PIECE).min(left));
                left -= part.len();
                self.held = true;
                encoder.write(&part).map_err(broken)?;
                if encoder.out().len() >= OUT {
                    return Poll::Ready(Ok(Some(std::mem::take(encoder.out()).into())));
                }
            }
            match self.poll_inner(task) {
                Poll::Ready(Ok(Some(piece))) => self.piece = piece,
                Poll::Ready(Ok(None)) => {
                    let last = self.encoder.take().map_or_else(|| Ok(Vec::new()), Encoder::finish).map_err(broken)?;
                    return Poll::Ready(Ok(Some(Bytes::from(last)).filter(|last| !last.is_empty())));
                }
                Poll::Ready(Err(fault)) => return Poll::Ready(Err(fault)),
                Poll::Pending => {
                    if std::mem::take(&mut self.held)
                        && let Some(encoder) = &mut self.encoder
                    {
                        encoder.flush().map_err(broken)?;
                        let out = std::mem::take(encoder.out());
                        if !out.is_empty() {
                            return Poll::Ready(Ok(Some(out.into())));
                        }
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    fn trailers(&mut self) -> Option<Fields> {
        self.inner.as_mut()?.trailers()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::io::Read as _;
    use std::task::Waker;
    use std::time::Instant;

    fn asked(method: Method, fields: &[(&str, &str)]) -> Exchange {
        let mut exchange = Exchange::blank(Instant::now());
        exchange.facts.request = RequestHead::from_text(method, "h", "/", None);
        for (name, value) in fields {
            exchange.facts.request.fields.add(name.as_bytes(), value.as_bytes());
        }
        exchange
    }

    fn answer(status: u16, fields: &[(&str, &str)], body: impl Into<Body>) -> Answer {
        let mut head = ResponseHead::new(status);
        for (name, value) in fields {
            head.fields.add(name.as_bytes(), value.as_bytes());
        }
        Answer { head: head.into(), body: body.into(), tunnel: None }
    }

    fn apply(exchange: &Exchange, answer: &mut Answer) {
        let rules = Compression::default();
        if rules.is_worth(&answer.body) {
            rules.apply(exchange, answer, &Rc::default());
        }
    }

    fn undone(coding: &str, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        match coding {
            "gzip" => drop(flate2::read::GzDecoder::new(bytes).read_to_end(&mut out)),
            "br" => drop(brotli::Decompressor::new(bytes, 4096).read_to_end(&mut out)),
            _ => drop(zstd::stream::read::Decoder::new(bytes).unwrap().read_to_end(&mut out)),
        }
        out
    }

    fn text(len: usize) -> Bytes {
        "some words that repeat, ".bytes().cycle().take(len).collect::<Vec<_>>().into()
    }

    const JSON: (&str, &str) = ("content-type", "application/json; charset=utf-8");

    #[test]
    fn an_answer_is_compressed_as_the_client_likes_it_best() {
        for (accepts, expected) in [
            ("gzip", Some("gzip")),
            ("gzip, deflate, br", Some("br")),
            ("gzip, deflate, br, zstd", Some("zstd")),
            ("gzip;q=1.0, br;q=0.5, zstd;q=0", Some("gzip")),
            ("*", Some("zstd")),
            ("*;q=0.1, zstd;q=0", Some("br")),
            ("identity", None),
            ("deflate", None),
            ("gzip;q=0", None),
            ("x-gzip", Some("gzip")),
            ("", None),
        ] {
            let mut made = answer(200, &[JSON, ("etag", "\"v1\""), ("content-length", "5000")], text(5000));
            apply(&asked(Method::Get, &[("accept-encoding", accepts)]), &mut made);
            let field = |name: &[u8]| made.head.fields.joined(name).map(|value| value.into_owned());
            assert_eq!(field(b"content-encoding").as_deref(), expected, "{accepts}");
            let Body::Full(body) = &made.body else { panic!("all at once") };
            match expected {
                Some(coding) => {
                    assert_eq!(undone(coding, body), text(5000), "{accepts}");
                    let marks = (field(b"vary"), field(b"etag"), field(b"content-length"));
                    assert_eq!(marks, (Some("accept-encoding".into()), Some("W/\"v1\"".into()), None));
                }
                None => assert_eq!((field(b"vary"), field(b"etag")), (None, Some("\"v1\"".into()))),
            }
        }
    }

    #[test]
    fn what_must_not_be_compressed_is_left_byte_for_byte() {
        let long = || text(5000);
        let get = |fields: &[(&str, &str)]| asked(Method::Get, &[&[("accept-encoding", "gzip")], fields].concat());
        let cases: Vec<(Exchange, Answer)> = vec![
            (asked(Method::Get, &[]), answer(200, &[JSON], long())),
            (asked(Method::Head, &[("accept-encoding", "gzip")]), answer(200, &[JSON], long())),
            (get(&[("range", "bytes=0-9")]), answer(200, &[JSON], long())),
            (get(&[]), answer(206, &[JSON], long())),
            (get(&[]), answer(304, &[JSON], long())),
            (get(&[]), answer(200, &[JSON], text(1023))),
            (get(&[]), answer(200, &[JSON, ("content-encoding", "br")], long())),
            (get(&[]), answer(200, &[JSON, ("content-range", "bytes 0-9/10")], long())),
            (get(&[]), answer(200, &[JSON, ("cache-control", "public, No-Transform")], long())),
            (get(&[]), answer(200, &[JSON, ("content-digest", "sha-256=:x:")], long())),
            (get(&[]), answer(200, &[("content-type", "text/event-stream; charset=utf-8")], long())),
            (get(&[]), answer(200, &[("content-type", "application/grpc+proto")], long())),
            (get(&[]), answer(200, &[("content-type", "multipart/x-mixed-replace; boundary=x")], long())),
            (get(&[]), answer(200, &[("content-type", "image/png")], long())),
            (get(&[]), answer(200, &[], long())),
        ];
        for (exchange, mut made) in cases {
            let (before, size) = (made.head.fields.len(), made.body.size());
            apply(&exchange, &mut made);
            assert_eq!((made.head.fields.len(), made.body.size()), (before, size), "{:?} {:?}", exchange.facts.request, made.head);
        }
    }

    /// Pieces and pauses (`None`), then the end.
    struct Scripted(VecDeque<Option<Bytes>>);

    impl BodyStream for Scripted {
        fn poll_chunk(&mut self, task: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
            match self.0.pop_front() {
                Some(None) => {
                    task.waker().wake_by_ref();
                    Poll::Pending
                }
                Some(piece) => Poll::Ready(Ok(piece)),
                None => Poll::Ready(Ok(None)),
            }
        }
    }

    #[test]
    fn what_has_come_is_handed_on_when_nothing_more_is_there() {
        for coding in Coding::ALL {
            // A source that has nothing says so as often as it is asked: once before the flush and once behind it.
            let script = [Some(Bytes::from_static(b"first ")), None, None, Some(Bytes::from_static(b"second")), None, None];
            let mut made = answer(200, &[JSON], Body::Stream(Box::new(Scripted(script.into()))));
            let open = Rc::new(Cell::new(0));
            let only = Compression { codings: vec![coding], ..Compression::default() };
            only.apply(&asked(Method::Get, &[("accept-encoding", "*")]), &mut made, &open);
            let Body::Stream(mut body) = made.body else { panic!("a stream") };
            let mut task = Context::from_waker(Waker::noop());
            let (mut sent, mut seen) = (Vec::new(), Vec::new());
            loop {
                match body.poll_chunk(&mut task) {
                    Poll::Ready(Ok(Some(piece))) => sent.extend_from_slice(&piece),
                    Poll::Ready(Ok(None)) => break,
                    Poll::Ready(Err(fault)) => panic!("{fault}"),
                    // What a client can read by now.
                    Poll::Pending => seen.push(String::from_utf8(undone(coding.as_str(), &sent)).unwrap()),
                }
            }
            assert_eq!(seen, ["first ", "first second"], "{coding:?}");
            assert_eq!(undone(coding.as_str(), &sent), b"first second");
            assert_eq!(open.get(), coding.kib());
            drop(body);
            assert_eq!(open.get(), 0);
        }
    }

    #[test]
    fn a_large_body_is_compressed_in_turns() {
        let all = text(1 << 20);
        let mut made = answer(200, &[JSON], all.clone());
        apply(&asked(Method::Get, &[("accept-encoding", "gzip")]), &mut made);
        let Body::Stream(mut body) = made.body else { panic!("a stream") };
        let mut task = Context::from_waker(Waker::noop());
        let (mut sent, mut turns) = (Vec::new(), 0);
        loop {
            turns += 1;
            match body.poll_chunk(&mut task) {
                Poll::Ready(Ok(Some(piece))) => sent.extend_from_slice(&piece),
                Poll::Ready(Ok(None)) => break,
                Poll::Ready(Err(fault)) => panic!("{fault}"),
                Poll::Pending => {}
            }
        }
        assert_eq!(undone("gzip", &sent), all);
        assert!(turns >= all.len() / TURN, "{turns} turns");
    }

    #[test]
    fn beyond_the_bound_answers_pass_as_they_are() {
        let open = Rc::new(Cell::new(ENCODERS_KIB_MAX));
        let mut made = answer(200, &[JSON], text(5000));
        Compression::default().apply(&asked(Method::Get, &[("accept-encoding", "gzip")]), &mut made, &open);
        assert!(made.head.fields.get(b"content-encoding").is_none());
    }
}
