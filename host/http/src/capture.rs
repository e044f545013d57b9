//! Copies of bodies for the record: the first bytes of what passes, of routes that ask for it.
//!
//! A copy never delays and never changes what it is made of: it is taken of pieces that pass anyway, and where there is no
//! memory for it there is none, which is counted. Compressed bodies are not looked into. What must not be told is left out
//! by whoever writes the record.

use crate::check::is_one_of;
use bytes::Bytes;
use std::cell::{Ref, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use wharf_core::body::{Body, BodyStream};
use wharf_core::exchange::{Answer, Exchange};
use wharf_core::fault::Fault;
use wharf_core::head::{Fields, Known};
use wharf_core::metrics::Count;

/// What of a route's bodies is copied.
#[derive(Clone, Debug)]
pub struct Capture {
    /// Requests' bodies.
    pub request: bool,
    /// Answers' bodies.
    pub response: bool,
    /// Of each so many bytes at most.
    pub bytes_max: usize,
    /// Only bodies of these media types: `application/json`, `text/*`, `*+json`.
    pub types: Vec<Box<str>>,
    /// The memory that all copies share.
    pub budget: Arc<Budget>,
}

/// The memory that copies in flight may take, over all cores.
#[derive(Debug, Default)]
pub struct Budget {
    max: AtomicUsize,
    used: AtomicUsize,
    dropped: Arc<Count>,
}

impl Budget {
    /// So many bytes; `dropped` counts the copies that were not made for want of them, and is shared by all cores.
    pub fn new(max: usize, dropped: Arc<Count>) -> Budget {
        Budget { max: max.into(), used: AtomicUsize::new(0), dropped }
    }

    /// Another bound, from now on.
    pub fn set_max(&self, max: usize) {
        self.max.store(max, Relaxed);
    }

    /// Bytes taken now.
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    fn take(&self, bytes: usize) -> bool {
        let max = self.max.load(Relaxed);
        let fits = |used: usize| used.checked_add(bytes).filter(|&sum| sum <= max);
        let taken = self.used.try_update(Relaxed, Relaxed, fits).is_ok();
        if !taken {
            self.dropped.add_shared(1);
        }
        taken
    }
}

/// The beginning of one body.
#[derive(Debug)]
pub struct Copied {
    bytes: Vec<u8>,
    room: usize,
    all: u64,
    media_type: Box<str>,
    coding: Option<Box<str>>,
    no_memory: bool,
    budget: Arc<Budget>,
}

impl Copied {
    /// What there is of it.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Bytes that have passed.
    pub fn all(&self) -> u64 {
        self.all
    }

    /// Its media type, without parameters.
    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    /// The coding that it is compressed by; nothing of it is copied.
    pub fn coding(&self) -> Option<&str> {
        self.coding.as_deref()
    }

    /// There was no memory for it.
    pub fn lacked_memory(&self) -> bool {
        self.no_memory
    }

    fn take(&mut self, piece: &[u8]) {
        self.all += piece.len() as u64;
        let left = self.room - self.bytes.len();
        self.bytes.extend_from_slice(piece.get(..left).unwrap_or(piece));
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.room, Relaxed);
    }
}

/// The copies of one exchange.
#[derive(Default)]
pub struct Copies {
    request: Option<Rc<RefCell<Copied>>>,
    response: Option<Rc<RefCell<Copied>>>,
}

impl Copies {
    /// Those of an exchange, if there are any.
    pub fn of(exchange: &Exchange) -> Option<&Copies> {
        exchange.watched.as_ref()?.copies.as_ref()?.downcast_ref()
    }

    /// Of the request.
    pub fn request(&self) -> Option<Ref<'_, Copied>> {
        self.request.as_ref()?.try_borrow().ok()
    }

    /// Of the answer.
    pub fn response(&self) -> Option<Ref<'_, Copied>> {
        self.response.as_ref()?.try_borrow().ok()
    }
}

impl Capture {
    /// Begins to copy the request's body.
    pub(crate) fn of_request(&self, exchange: &mut Exchange) {
        // What follows an upgrade is no body.
        if !self.request || exchange.upgrade.is_some() || matches!(exchange.body, Body::Empty) {
            return;
        }
        let Some(copy) = self.begin(&exchange.facts.request.fields, &exchange.body) else { return };
        tee(&mut exchange.body, &copy);
        put(exchange, |copies| copies.request = Some(copy));
    }

    /// Begins to copy the answer's body, as the service gave it: before the gateway compresses it.
    pub(crate) fn of_answer(&self, exchange: &mut Exchange, answer: &mut Answer) {
        if !self.response || answer.tunnel.is_some() || matches!(answer.body, Body::Empty) {
            return;
        }
        let Some(copy) = self.begin(&answer.head.fields, &answer.body) else { return };
        tee(&mut answer.body, &copy);
        put(exchange, |copies| copies.response = Some(copy));
    }

    fn begin(&self, fields: &Fields, body: &Body) -> Option<Rc<RefCell<Copied>>> {
        let kind = fields.known(Known::ContentType).filter(|kind| is_one_of(kind, &self.types))?;
        let kind = wharf_core::head::text(kind);
        let media_type = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let coding = fields.joined(b"content-encoding").filter(|coding| !coding.trim().eq_ignore_ascii_case("identity"));
        let coding = coding.map(|coding| coding.as_ref().into());
        let wanted = match (&coding, body.size()) {
            (Some(_), _) => 0,
            (None, Some(size)) => usize::try_from(size).unwrap_or(usize::MAX).min(self.bytes_max),
            (None, None) => self.bytes_max,
        };
        let has_memory = self.budget.take(wanted);
        let room = if has_memory { wanted } else { 0 };
        Some(Rc::new(RefCell::new(Copied {
            bytes: Vec::with_capacity(room),
            room,
            all: 0,
            media_type: media_type.into(),
            coding,
            no_memory: !has_memory,
            budget: self.budget.clone(),
        })))
    }
}

/// Puts a copy beside the others of its exchange.
fn put(exchange: &mut Exchange, put: impl FnOnce(&mut Copies)) {
    let place = &mut exchange.watched.get_or_insert_default().copies;
    let mut copies: Box<Copies> = place.take().and_then(|copies| copies.downcast().ok()).unwrap_or_default();
    put(&mut copies);
    *place = Some(copies);
}

fn tee(body: &mut Body, copy: &Rc<RefCell<Copied>>) {
    match std::mem::take(body) {
        Body::Empty => {}
        Body::Full(all) => {
            copy.borrow_mut().take(&all);
            *body = Body::Full(all);
        }
        Body::Stream(inner) => *body = Body::Stream(Box::new(Tee { inner, copy: copy.clone() })),
    }
}

/// A body that is copied while it passes.
struct Tee {
    inner: Box<dyn BodyStream>,
    copy: Rc<RefCell<Copied>>,
}

impl BodyStream for Tee {
    fn poll_chunk(&mut self, task: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        let polled = self.inner.poll_chunk(task);
        if let Poll::Ready(Ok(Some(piece))) = &polled
            && let Ok(mut copy) = self.copy.try_borrow_mut()
        {
            copy.take(piece);
        }
        polled
    }

    fn trailers(&mut self) -> Option<Fields> {
        self.inner.trailers()
    }

    fn size(&self) -> Option<u64> {
        self.inner.size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::task::Waker;
    use std::time::Instant;
    use wharf_core::head::ResponseHead;

    struct Pieces(VecDeque<&'static str>);

    impl BodyStream for Pieces {
        fn poll_chunk(&mut self, _: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
            match self.0.pop_front() {
                // Nothing is there yet.
                Some("") => Poll::Pending,
                piece => Poll::Ready(Ok(piece.map(|piece| Bytes::from_static(piece.as_bytes())))),
            }
        }
    }

    fn capture(bytes_max: usize, memory: usize) -> Capture {
        let types = vec!["application/json".into(), "text/*".into()];
        Capture { request: true, response: true, bytes_max, types, budget: Arc::new(Budget::new(memory, Arc::default())) }
    }

    fn answer(kind: &str, coding: Option<&str>, body: Body) -> Answer {
        let mut head = ResponseHead::new(200);
        head.fields.add(b"content-type", kind.as_bytes());
        coding.into_iter().for_each(|coding| head.fields.add(b"content-encoding", coding.as_bytes()));
        Answer { head: head.into(), body, tunnel: None }
    }

    /// What comes out of a body, a piece for each poll.
    fn read(body: &mut Body) -> Vec<Option<String>> {
        let Body::Stream(stream) = body else { return Vec::new() };
        let mut task = Context::from_waker(Waker::noop());
        let mut out = Vec::new();
        loop {
            match stream.poll_chunk(&mut task) {
                Poll::Ready(Ok(Some(piece))) => out.push(Some(String::from_utf8(piece.to_vec()).unwrap())),
                Poll::Ready(_) => return out,
                Poll::Pending => out.push(None),
            }
        }
    }

    #[test]
    fn a_copy_has_the_beginning_and_the_stream_is_as_it_was() {
        let capture = capture(7, 100);
        let mut exchange = Exchange::blank(Instant::now());
        let pieces = Pieces(["{\"a", "", "\": 1", ", more}"].into());
        let mut answer = answer("text/plain; charset=utf-8", None, Body::Stream(Box::new(pieces)));
        capture.of_answer(&mut exchange, &mut answer);
        let read = read(&mut answer.body);
        assert_eq!(read, [Some("{\"a".into()), None, Some("\": 1".into()), Some(", more}".into())]);
        let copies = Copies::of(&exchange).unwrap();
        let copy = copies.response().unwrap();
        assert_eq!((copy.bytes(), copy.all(), copy.media_type()), (&b"{\"a\": 1"[..], 14, "text/plain"));
    }

    #[test]
    fn only_the_types_that_are_wanted_are_copied_and_compressed_ones_are_marked() {
        let capture = capture(100, 1000);
        let copied = |kind: &str, coding: Option<&str>| {
            let mut exchange = Exchange::blank(Instant::now());
            capture.of_answer(&mut exchange, &mut answer(kind, coding, Body::Full(Bytes::from_static(b"secret"))));
            let copy = Copies::of(&exchange)?.response()?;
            Some((String::from_utf8(copy.bytes().to_vec()).unwrap(), copy.coding().map(str::to_owned), copy.all()))
        };
        assert_eq!(copied("Application/JSON", None), Some(("secret".into(), None, 6)));
        assert_eq!(copied("application/json", Some("identity")), Some(("secret".into(), None, 6)));
        assert_eq!(copied("application/json", Some("gzip")), Some((String::new(), Some("gzip".into()), 6)));
        assert_eq!(copied("image/png", None), None);
    }

    #[test]
    fn copies_in_flight_share_their_memory_and_give_it_back() {
        let capture = capture(60, 100);
        let begin = |body: Body| {
            let mut exchange = Exchange::blank(Instant::now());
            exchange.facts.request.fields.add(b"content-type", b"text/plain");
            exchange.body = body;
            capture.of_request(&mut exchange);
            exchange
        };
        let stream = || Body::Stream(Box::new(Pieces(VecDeque::new())));
        let (first, second) = (begin(stream()), begin(stream()));
        assert!(!Copies::of(&first).unwrap().request().unwrap().lacked_memory());
        assert!(Copies::of(&second).unwrap().request().unwrap().lacked_memory());
        assert_eq!((capture.budget.used(), capture.budget.dropped.get()), (60, 1));
        // One that says its size takes no more than that.
        let small = begin(Body::Full(Bytes::from_static(&[b'a'; 40])));
        assert_eq!(capture.budget.used(), 100);
        drop((first, second, small));
        assert_eq!(capture.budget.used(), 0);
    }
}
