//! The trace of one exchange: whose part it is of (W3C Trace Context, level 1) and what happened in it, as spans. Pure: no
//! clock and no randomness of its own.
//!
//! Who exports spans, and in which form, is the gateway's business.

use crate::exchange::Exchange;
use crate::head::Fields;
use crate::outlet::EndpointRef;
use std::sync::Arc;
use std::time::Instant;

/// Most spans of one exchange; those beyond are counted.
pub const SPANS_MAX: usize = 64;
/// Most members of a `tracestate`, and most bytes of it that are passed on (the level asks for at least 512).
const STATE_MEMBERS_MAX: usize = 32;
const STATE_BYTES_MAX: usize = 4096;

/// The field that names a trace and the span that asks.
pub const TRACEPARENT: &[u8] = b"traceparent";
/// The field with what other systems say about the trace.
pub const TRACESTATE: &[u8] = b"tracestate";

/// Which trace, which of its spans, and whether anybody keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// Never 0.
    pub trace: u128,
    /// Never 0.
    pub span: u64,
    /// Spans of it are kept.
    pub sampled: bool,
}

impl Context {
    /// The trace as everybody names it: 32 hexadecimal digits.
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace)
    }

    /// What a request says. `None`: it has no `traceparent`, or more than one, or none that is valid; then its `tracestate`
    /// is worth nothing either.
    pub fn of(fields: &Fields) -> Option<Context> {
        let mut all = fields.all(TRACEPARENT);
        let (first, second) = (all.next()?, all.next());
        if second.is_some() { None } else { Context::parse(first) }
    }

    /// Reads a `traceparent`. Versions to come may say more behind what this one does.
    pub fn parse(text: &[u8]) -> Option<Context> {
        let (head, rest) = text.split_first_chunk::<55>()?;
        let mut parts = head.split(|&byte| byte == b'-');
        let mut number = |digits: usize| parts.next().filter(|part| part.len() == digits).and_then(hex);
        let (version, trace, span, flags) = (number(2)?, number(32)?, number(16)?, number(2)?);
        let fits = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.is_empty() || rest.starts_with(b"-"),
        };
        let context = Context { trace, span: span as u64, sampled: flags & 1 == 1 };
        (fits && trace != 0 && span != 0).then_some(context)
    }

    /// As a `traceparent`.
    pub fn text(&self) -> [u8; 55] {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        let mut put = |at: usize, digits: usize, mut value: u128| {
            for place in text.iter_mut().skip(at).take(digits).rev() {
                let digit = (value & 15) as u8;
                *place = if digit < 10 { b'0' + digit } else { b'a' + digit - 10 };
                value >>= 4;
            }
        };
        put(3, 32, self.trace);
        put(36, 16, self.span.into());
        put(53, 2, self.sampled.into());
        text
    }
}

/// Lower-case hexadecimal digits, at most 32.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0u128, |value, &digit| {
        let digit = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(value << 4 | u128::from(digit))
    })
}

/// The `tracestate` of a request as one text. `None`: there is none, or it is not valid.
pub fn state_of(fields: &Fields) -> Option<Box<str>> {
    let mut joined = String::new();
    for value in fields.all(TRACESTATE) {
        let value = std::str::from_utf8(value).ok()?;
        if !joined.is_empty() && !value.is_empty() {
            joined.push(',');
        }
        joined.push_str(value);
    }
    let mut keys: Vec<&str> = Vec::new();
    for member in joined.split(',').map(|member| member.trim_matches([' ', '\t'])).filter(|member| !member.is_empty()) {
        let (key, value) = member.split_once('=')?;
        if !is_state_key(key) || !is_state_value(value) || keys.contains(&key) || keys.len() == STATE_MEMBERS_MAX {
            return None;
        }
        keys.push(key);
    }
    (!keys.is_empty() && joined.len() <= STATE_BYTES_MAX).then(|| joined.into())
}

fn is_state_key(key: &str) -> bool {
    let rest = |part: &str| part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/".contains(&byte));
    let lower = |part: &str| part.starts_with(|first: char| first.is_ascii_lowercase());
    match key.split_once('@') {
        None => key.len() <= 256 && lower(key) && rest(key),
        Some((tenant, system)) => {
            let begins = tenant.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit());
            (1..=241).contains(&tenant.len()) && (1..=14).contains(&system.len()) && begins && lower(system) && rest(tenant) && rest(system)
        }
    }
}

fn is_state_value(value: &str) -> bool {
    (1..=256).contains(&value.len())
        && !value.ends_with(' ')
        && value.bytes().all(|byte| (0x20..0x7f).contains(&byte) && byte != b',' && byte != b'=')
}

/// The trace of one exchange.
#[derive(Clone, Debug)]
pub struct Trace {
    /// The exchange's own span in it.
    pub context: Context,
    /// The span that asked, if one did.
    pub parent: Option<u64>,
    /// What other systems say about it; passed on as it is.
    pub state: Option<Box<str>>,
    spans: Vec<Span>,
    lost: u32,
    /// Where the next span's id comes from.
    seed: u64,
}

/// Something that took time within the exchange.
#[derive(Clone, Debug)]
pub struct Span {
    /// Unique in the trace.
    pub id: u64,
    /// When it began.
    pub started: Instant,
    /// When it ended; `None`: it was given up.
    pub ended: Option<Instant>,
    /// What it was.
    pub what: What,
}

/// What a span was.
#[derive(Clone, Debug)]
pub enum What {
    /// A question to a plugin.
    Plugin {
        /// The plugin's name.
        name: Arc<str>,
        /// The version that was asked.
        version: u32,
        /// `auth`, `route`, `filter_request`, `filter_response`, `degrade`.
        role: &'static str,
        /// The word of the fault, if it failed.
        fault: Option<&'static str>,
    },
    /// A try of a call upstream, until the head of its answer.
    Try {
        /// Whom it went to.
        endpoint: EndpointRef,
        /// Counted from 1.
        number: u32,
        /// The path that was sent.
        path: Box<str>,
        /// 0: there was no answer.
        status: u16,
        /// The word of the fault, if it failed.
        fault: Option<&'static str>,
    },
}

/// A span that was begun; see [`Trace::begin`].
#[derive(Clone, Copy, Debug)]
pub struct Open(u8);

impl Open {
    /// Of this nothing is kept. One byte: every call carries it along.
    const UNKEPT: Open = Open(u8::MAX);
}

const _: () = assert!(SPANS_MAX < u8::MAX as usize);

impl Trace {
    /// The trace of an exchange that `parent` asked for. `seed` is random: ids of spans are made from it.
    pub fn new(context: Context, parent: Option<u64>, state: Option<Box<str>>, seed: u64) -> Trace {
        Trace { context, parent, state, spans: Vec::new(), lost: 0, seed }
    }

    /// Begins a span. Nothing is kept of traces that are not sampled.
    pub fn begin(&mut self, started: Instant, what: impl FnOnce() -> What) -> Open {
        if !self.context.sampled {
            return Open::UNKEPT;
        }
        if self.spans.len() >= SPANS_MAX {
            self.lost += 1;
            return Open::UNKEPT;
        }
        let id = self.next_id();
        self.spans.push(Span { id, started, ended: None, what: what() });
        Open((self.spans.len() - 1) as u8)
    }

    /// The span that was begun, to say how it ended.
    pub fn span(&mut self, open: Open) -> Option<&mut Span> {
        self.spans.get_mut(usize::from(open.0))
    }

    /// What somebody who is asked within a span is told: that span, or the exchange's own where none is kept.
    pub fn within(&self, open: Open) -> Context {
        let span = self.spans.get(usize::from(open.0)).map_or(self.context.span, |span| span.id);
        Context { span, ..self.context }
    }

    /// All spans within the exchange's own, in the order in which they began, and how many more there were.
    pub fn spans(&self) -> (&[Span], u32) {
        (&self.spans, self.lost)
    }

    /// The same trace for a second try beside a first; see [`Trace::join`].
    pub fn twin(&self) -> Trace {
        let mut seed = self.seed;
        Trace { spans: Vec::new(), lost: 0, state: None, seed: mixed(&mut seed), ..*self }
    }

    /// Takes the spans of a twin that is over.
    pub fn join(&mut self, twin: Trace) {
        let room = SPANS_MAX - self.spans.len().min(SPANS_MAX);
        self.lost += twin.lost + twin.spans.len().saturating_sub(room) as u32;
        self.spans.extend(twin.spans.into_iter().take(room));
    }

    fn next_id(&mut self) -> u64 {
        loop {
            let id = mixed(&mut self.seed);
            if id != 0 && id != self.context.span {
                return id;
            }
        }
    }
}

/// The next number of a splitmix64 sequence.
pub fn mixed(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut value = *state;
    value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

/// Begins the span of a try and tells the endpoint about it in `traceparent`. Nothing happens where nobody traces.
#[inline]
pub fn begin_try(exchange: &mut Exchange, endpoint: &EndpointRef, number: u32, now: Instant) -> Option<Open> {
    match &exchange.watched {
        None => None,
        Some(_) => begin_traced_try(exchange, endpoint, number, now),
    }
}

#[cold]
fn begin_traced_try(exchange: &mut Exchange, endpoint: &EndpointRef, number: u32, now: Instant) -> Option<Open> {
    let Exchange { watched, facts, .. } = exchange;
    // What is not kept has no span of its own, and says already whose part it is.
    let trace = watched.as_mut()?.trace.as_mut().filter(|trace| trace.context.sampled)?;
    let request = &mut facts.request;
    let open = trace.begin(now, || What::Try { endpoint: endpoint.clone(), number, path: request.path().into(), status: 0, fault: None });
    request.fields.set(TRACEPARENT, &trace.within(open).text());
    Some(open)
}

/// Says how a try ended.
#[cold]
pub fn end_try(exchange: &mut Exchange, open: Open, now: Instant, answer: u16, word: Option<&'static str>) {
    let trace = exchange.watched.as_mut().and_then(|watched| watched.trace.as_mut());
    let Some(span) = trace.and_then(|trace| trace.span(open)) else { return };
    span.ended = Some(now);
    if let What::Try { status, fault, .. } = &mut span.what {
        (*status, *fault) = (answer, word);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(list: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::default();
        list.iter().for_each(|(name, value)| fields.add(name.as_bytes(), value.as_bytes()));
        fields
    }

    #[test]
    fn a_traceparent_is_read_as_strictly_as_it_is_written() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let context = Context::parse(good.as_bytes()).unwrap();
        assert_eq!(context, Context { trace: 0x4bf92f3577b34da6a3ce929d0e0e4736, span: 0xf067aa0ba902b7, sampled: true });
        assert_eq!(context.text(), *good.as_bytes().first_chunk::<55>().unwrap());
        // Of flags only the first counts; a later version may say more.
        assert!(!Context::parse(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-fe").unwrap().sampled);
        assert!(Context::parse(b"01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more").is_some());
        for bad in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 ",
            " 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-600f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0g",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01.",
            "0--4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(Context::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn two_parents_are_none() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(Context::of(&fields(&[("traceparent", good)])).is_some());
        assert_eq!(Context::of(&fields(&[("traceparent", good), ("traceparent", good)])), None);
        assert_eq!(Context::of(&fields(&[])), None);
    }

    #[test]
    fn a_tracestate_is_passed_on_whole_or_not_at_all() {
        let state = |values: &[&str]| {
            let list: Vec<_> = values.iter().map(|&value| ("tracestate", value)).collect();
            state_of(&fields(&list)).map(String::from)
        };
        assert_eq!(state(&["rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"]).as_deref(), Some("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"));
        assert_eq!(state(&["a=1", "", "fw529a3039@dt=FfTc, ,b=2"]).as_deref(), Some("a=1,fw529a3039@dt=FfTc, ,b=2"));
        let many = |count: usize| (0..count).map(|at| format!("k{at}=1")).collect::<Vec<_>>().join(",");
        assert!(state(&[&many(32)]).is_some());
        for bad in ["", ",", "a", "A=1", "a=", "a=1,a=2", "1a=1", "a@=1", "@a=1", "a=b=c", "a=\u{e9}", &many(33)] {
            assert_eq!(state(&[bad]), None, "{bad}");
        }
    }

    #[test]
    fn a_trace_keeps_so_many_spans_and_counts_the_others() {
        let now = Instant::now();
        let what = || What::Plugin { name: "a".into(), version: 1, role: "auth", fault: None };
        let context = Context { trace: 1, span: 2, sampled: true };
        let mut trace = Trace::new(context, None, None, 7);
        let first = trace.begin(now, what);
        assert_ne!(trace.within(first).span, 2);
        for _ in 0..100 {
            trace.begin(now, what);
        }
        let mut twin = trace.twin();
        twin.begin(now, what);
        trace.join(twin);
        let (spans, lost) = trace.spans();
        assert_eq!((spans.len(), lost), (SPANS_MAX, 101 - SPANS_MAX as u32 + 1));
        let ids: std::collections::HashSet<u64> = spans.iter().map(|span| span.id).collect();
        assert_eq!(ids.len(), SPANS_MAX);
        // Of one that is not sampled only the context goes on.
        let mut quiet = Trace::new(Context { sampled: false, ..context }, None, None, 7);
        let open = quiet.begin(now, what);
        assert_eq!((quiet.within(open).span, quiet.spans().0.len()), (2, 0));
    }
}
