//! The client side: one try over one connection. HTTP/1.1 is here, polled inside the request that waits for it; HTTP/2 is in
//! `two`, how a connection is made in `dial`, and which are made before anybody needs them in `warm`.
//!
//! There is no task for a connection and no channel between a request and its connection: the exchange that needs an
//! answer reads and writes the socket itself. Connections are kept in pools of this core, per endpoint, the last used
//! first. What an endpoint is, which one to take and whether to try again is the upstream room's business.

use crate::admission::Files;
use crate::codec::body::{Decoder, Piece};
use crate::codec::{Framing, HeadLimits, Refusal, RefusalKind, response, take, write};
use crate::deadlines::{Alarm, Deadlines};
use crate::io::{Socket, Spare, poll_write_all};
use crate::tls;
use bytes::{Buf, Bytes, BytesMut};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};
use wharf_core::LocalBoxFuture;
use wharf_core::body::{Body, BodyStream, Tunnel};
use wharf_core::exchange::{Answer, Exchange};
use wharf_core::fault::{Fault, FaultKind, Phase, Retry};
use wharf_core::head::{Fields, Known, Method, ResponseHead};
use wharf_core::outlet::{CallLimits, EndpointRef, Protocol};

mod dial;
mod line;
mod two;
mod upload;
pub mod warm;

/// Read at once from an upstream. An answer of 16 KiB and its head come with one call; a stalled one holds no more.
const READ_ROOM: usize = 32 * 1024;
/// A head on its way out, nearly always.
const OUT_ROOM: usize = 1024;
/// Interim answers (1xx) before the real one.
const INTERIM_MAX: u32 = 16;
/// Connections kept for one endpoint on one core.
const KEPT_MAX: usize = 1024;

/// The client of one core, as one service is called.
#[derive(Clone)]
pub struct Client {
    inner: Rc<Inner>,
    /// `None`: HTTP/1.1 in the clear, which costs nothing to ask for.
    dialect: Option<Rc<Dialect>>,
}

/// What the endpoints of a service speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2; in the clear with prior knowledge.
    Http2,
    /// Whichever of both the endpoint chooses, by TLS.
    Either,
}

/// How a service is called, other than by HTTP/1.1 in the clear.
struct Dialect {
    speaks: Speaks,
    tls: Option<Arc<tls::client::Client>>,
    /// Tells connections of this dialect from others to the same endpoint.
    number: u64,
}

impl Dialect {
    /// See [`key_of`].
    fn key(&self, endpoint: &EndpointRef) -> u64 {
        // Endpoints are counted up from 1, dialects are few: both fit.
        endpoint.id | self.number << 40
    }

    fn chooses(&self) -> bool {
        self.speaks == Speaks::Either
    }
}

/// What connections to an endpoint are kept under.
fn key_of(endpoint: &EndpointRef, dialect: Option<&Rc<Dialect>>) -> u64 {
    dialect.map_or(endpoint.id, |dialect| dialect.key(endpoint))
}

struct Inner {
    deadlines: Rc<Deadlines>,
    files: Arc<Files>,
    kept: RefCell<HashMap<u64, Vec<Kept>, BuildHasherDefault<IdHasher>>>,
    shared: RefCell<HashMap<u64, two::Many, BuildHasherDefault<IdHasher>>>,
    dialects: RefCell<Vec<std::rc::Weak<Dialect>>>,
    next_dialect: Cell<u64>,
    out: Cell<Vec<u8>>,
    spare: Rc<Spare>,
    ages: dial::Ages,
    warming: warm::Warming,
}

struct Kept {
    link: Box<Link>,
    /// The tick of the core's deadlines after which it is too old.
    until: u32,
}

/// One connection. Boxed from its beginning: it goes from hand to hand with every call.
struct Link {
    socket: Socket,
    buf: BytesMut,
    endpoint: EndpointRef,
    /// What it is kept under.
    key: u64,
    /// The tick from which on it is kept no more: it is too old.
    until: u32,
    /// Of the call that uses it.
    alarm: Alarm,
    /// It is one of those that are kept ready.
    _ready: Option<warm::Open>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.endpoint.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Client {
    /// A client for one core, its pools empty.
    pub fn new(deadlines: Rc<Deadlines>, files: Arc<Files>) -> Client {
        let inner = Inner {
            deadlines,
            files,
            kept: RefCell::default(),
            shared: RefCell::default(),
            dialects: RefCell::default(),
            next_dialect: Cell::new(1),
            out: Cell::default(),
            spare: Spare::new(READ_ROOM),
            ages: dial::Ages::default(),
            warming: warm::Warming::default(),
        };
        Client { inner: Rc::new(inner), dialect: None }
    }

    /// The same client for a service that speaks this. Connections are shared with all that speak the same in the same
    /// way, from one generation to the next.
    pub fn speaking(&self, speaks: Speaks, tls: Option<Arc<tls::client::Client>>) -> Client {
        let inner = self.inner.clone();
        if speaks == Speaks::Http1 && tls.is_none() {
            return Client { inner, dialect: None };
        }
        let same = |have: &Dialect| have.speaks == speaks && have.tls == tls;
        let mut dialects = inner.dialects.borrow_mut();
        dialects.retain(|dialect| dialect.strong_count() > 0);
        let found = dialects.iter().filter_map(std::rc::Weak::upgrade).find(|have| same(have));
        let dialect = found.unwrap_or_else(|| {
            let number = inner.next_dialect.replace(inner.next_dialect.get() + 1);
            let dialect = Rc::new(Dialect { speaks, tls, number });
            dialects.push(Rc::downgrade(&dialect));
            dialect
        });
        drop(dialects);
        Client { inner, dialect: Some(dialect) }
    }

    /// Closes kept connections that are too old, whose endpoint is gone, or that the other side has closed. Called now
    /// and then, not for each request.
    pub(crate) fn tidy(&self) {
        let now = self.inner.deadlines.tick_in(Duration::ZERO);
        self.inner.shared.borrow_mut().retain(|_, many| many.tidy(now));
        let mut task = Context::from_waker(Waker::noop());
        self.inner.kept.borrow_mut().retain(|_, kept| {
            kept.retain(|kept| {
                kept.until > now
                    && !kept.link.endpoint.gone.load(Ordering::Relaxed)
                    && kept.link.socket.poll_readable(&mut task).is_pending()
            });
            !kept.is_empty()
        });
    }

    /// Is any connection kept, or to be kept ready?
    pub(crate) fn keeps_any(&self) -> bool {
        !self.inner.kept.borrow().is_empty() || !self.inner.shared.borrow().is_empty() || self.inner.warming.is_wanted()
    }
}

impl Protocol for Client {
    fn send<'a>(
        &'a self,
        endpoint: &'a EndpointRef,
        exchange: &'a mut Exchange,
        limits: &'a CallLimits,
    ) -> impl Future<Output = Result<Answer, Fault>> + 'a {
        self.inner.send::<true>(endpoint, self.dialect.as_ref(), exchange, limits)
    }

    fn send_apart<'a>(
        &'a self,
        endpoint: &'a EndpointRef,
        exchange: &'a mut Exchange,
        limits: &'a CallLimits,
    ) -> LocalBoxFuture<'a, Result<Answer, Fault>> {
        Box::pin(self.inner.send::<false>(endpoint, self.dialect.as_ref(), exchange, limits))
    }
}

impl Inner {
    /// Compiled twice, as all that a call goes through: once for the plain road (`ROAD`), which alone calls it and so has
    /// it in one piece, and once for everybody else.
    async fn send<const ROAD: bool>(
        self: &Rc<Self>,
        endpoint: &EndpointRef,
        dialect: Option<&Rc<Dialect>>,
        exchange: &mut Exchange,
        limits: &CallLimits,
    ) -> Result<Answer, Fault> {
        let key = match dialect {
            None => endpoint.id,
            Some(dialect) => {
                // A WebSocket that may be had by HTTP/1.1 is: not every endpoint knows the other way.
                let switches = exchange.upgrade.is_some() && dialect.speaks != Speaks::Http2;
                if dialect.speaks != Speaks::Http1 && !switches {
                    return Box::pin(self.send_two(endpoint, dialect, exchange, limits)).await;
                }
                dialect.key(endpoint)
            }
        };
        if !exchange.body.is_replayable() {
            return self.send_upload(endpoint, dialect, exchange, limits).await;
        }
        let alone = exchange.upgrade.is_some();
        let Some(link) = poll_fn(|task| Poll::Ready(self.take_kept(task, key, alone))).await else {
            return Box::pin(self.send_afresh(endpoint, dialect, exchange, limits)).await;
        };
        let mut call = Call::new::<ROAD>(self, link, exchange, limits);
        // Looked at a moment ago, by the task that will wait: it will be woken.
        call.looked = true;
        let said = call.run::<ROAD>().await;
        // The endpoint may close a kept connection at the moment we use it. That says nothing about the request, so it is
        // sent once more on a fresh connection, where sending twice is safe.
        let raced = said.is_err() && !call.heard && matches!(call.broken, Some(Broken::Connection));
        let again = raced && exchange.body.is_replayable() && exchange.facts.request.method.is_idempotent();
        if !again {
            return said;
        }
        // Apart, and boxed: what every call carries along stays small.
        Box::pin(self.send_afresh(endpoint, dialect, exchange, limits)).await
    }

    async fn send_afresh(
        self: &Rc<Self>,
        endpoint: &EndpointRef,
        dialect: Option<&Rc<Dialect>>,
        exchange: &mut Exchange,
        limits: &CallLimits,
    ) -> Result<Answer, Fault> {
        let link = self.afresh(endpoint, dialect, exchange, limits).await?;
        self.run_apart(link, exchange, limits).await
    }

    /// A connection that was made for this exchange.
    async fn afresh(
        &self,
        endpoint: &EndpointRef,
        dialect: Option<&Rc<Dialect>>,
        exchange: &Exchange,
        limits: &CallLimits,
    ) -> Result<Box<Link>, Fault> {
        let (socket, counted) = self.dial(endpoint, dialect, false, (exchange.deadline, exchange.whose_time()), limits).await?;
        counted.keep();
        let mut link = self.link(socket, endpoint, dialect, limits);
        if exchange.upgrade.is_some() {
            // Its own: should the upgrade be refused, nobody else is given it.
            link.until = 0;
        }
        Ok(link)
    }

    /// A request whose body is passed on while it comes. It is never sent twice.
    #[cold]
    #[inline(never)]
    fn send_upload<'a>(
        self: &'a Rc<Self>,
        endpoint: &'a EndpointRef,
        dialect: Option<&'a Rc<Dialect>>,
        exchange: &'a mut Exchange,
        limits: &'a CallLimits,
    ) -> LocalBoxFuture<'a, Result<Answer, Fault>> {
        Box::pin(self.upload(endpoint, dialect, exchange, limits))
    }

    async fn upload(
        self: &Rc<Self>,
        endpoint: &EndpointRef,
        dialect: Option<&Rc<Dialect>>,
        exchange: &mut Exchange,
        limits: &CallLimits,
    ) -> Result<Answer, Fault> {
        let place = upload::Place::take(endpoint, limits)?;
        let (key, alone) = (key_of(endpoint, dialect), exchange.upgrade.is_some());
        let link = match poll_fn(|task| Poll::Ready(self.take_kept(task, key, alone))).await {
            Some(link) => link,
            None => self.afresh(endpoint, dialect, exchange, limits).await?,
        };
        place.goes_with(&mut exchange.body);
        self.run_apart(link, exchange, limits).await
    }

    /// One call off the plain road; apart, so that it takes nothing from that.
    #[inline(never)]
    fn run_apart<'a>(
        self: &'a Rc<Self>,
        link: Box<Link>,
        exchange: &'a mut Exchange,
        limits: &'a CallLimits,
    ) -> LocalBoxFuture<'a, Result<Answer, Fault>> {
        let mut call = Call::new::<false>(self, link, exchange, limits);
        Box::pin(async move { call.run::<false>().await })
    }

    async fn send_two(
        self: &Rc<Self>,
        endpoint: &EndpointRef,
        dialect: &Rc<Dialect>,
        exchange: &mut Exchange,
        limits: &CallLimits,
    ) -> Result<Answer, Fault> {
        // Whoever chose HTTP/1.1 last time left connections behind.
        if dialect.chooses()
            && let Some(link) = poll_fn(|task| Poll::Ready(self.take_kept(task, dialect.key(endpoint), false))).await
        {
            return self.run_held(link, exchange, limits).await;
        }
        match two::send(self, dialect, endpoint, exchange, limits).await? {
            two::Sent::Answered(answer) => Ok(answer),
            two::Sent::Older(socket) => {
                let link = self.link(socket, endpoint, Some(dialect), limits);
                self.run_held(link, exchange, limits).await
            }
        }
    }

    /// A call by HTTP/1.1 where that was not sure before. The connection is kept if there is no place for the body.
    async fn run_held(self: &Rc<Self>, link: Box<Link>, exchange: &mut Exchange, limits: &CallLimits) -> Result<Answer, Fault> {
        if let Err(fault) = upload::Place::held_by(&mut exchange.body, &link.endpoint, limits) {
            self.keep(link, limits.idle);
            return Err(fault);
        }
        self.run_apart(link, exchange, limits).await
    }

    fn link(&self, socket: Socket, endpoint: &EndpointRef, dialect: Option<&Rc<Dialect>>, limits: &CallLimits) -> Box<Link> {
        let (key, until) = (key_of(endpoint, dialect), self.too_old_at(limits));
        let (buf, alarm, endpoint) = (BytesMut::new(), self.deadlines.alarm(), endpoint.clone());
        Box::new(Link { socket, buf, endpoint, key, until, alarm, _ready: self.warming.opened(key) })
    }

    /// The last that was used. A request that asks for another protocol gets none (`alone`) but a connection of its own: it is
    /// never sent twice, so it must not meet one that its endpoint is just about to close; and since it gives none back, a kept
    /// one would save nothing.
    fn take_kept(&self, task: &mut Context<'_>, key: u64, alone: bool) -> Option<Box<Link>> {
        if alone {
            return None;
        }
        let mut pools = self.kept.borrow_mut();
        let kept = pools.get_mut(&key)?;
        while let Some(Kept { link, .. }) = kept.pop() {
            // Readable means that it was closed, or that it speaks out of turn. Either way it is of no use. Its age was looked
            // at when it was put here, and is `tidy`'s business since.
            if link.socket.poll_readable(task).is_pending() {
                return Some(link);
            }
        }
        None
    }

    fn keep(&self, mut link: Box<Link>, idle: Duration) {
        let too_old = link.until <= self.deadlines.tick();
        if too_old || link.endpoint.gone.load(Ordering::Relaxed) || !link.buf.is_empty() {
            return;
        }
        // An idle connection holds no buffer, and wakes nobody.
        let Link { socket, buf, alarm, .. } = &mut *link;
        socket.give(buf);
        alarm.rest();
        let mut pools = self.kept.borrow_mut();
        let kept = pools.entry(link.key).or_default();
        if kept.len() < KEPT_MAX {
            let until = self.deadlines.tick_in(idle).min(link.until);
            kept.push(Kept { link, until });
        }
    }
}

/// One try: the request on its way out, the head of the answer on its way in.
struct Call<'a> {
    client: &'a Rc<Inner>,
    exchange: &'a Exchange,
    limits: &'a CallLimits,
    link: Option<Box<Link>>,
    upload: Upload,
    asked: response::Asked,
    /// The answer's head, made in the memory of an earlier one.
    head: Option<Box<ResponseHead>>,
    /// A byte of the answer has come.
    heard: bool,
    /// The socket was not readable the last time we looked; being polled again, it very likely is.
    waited: bool,
    /// It was looked at just now, in this turn, and was not readable.
    looked: bool,
    broken: Option<Broken>,
}

enum Broken {
    /// The connection to the endpoint.
    Connection,
    /// The client's side, or a limit: the body could not be read.
    Body(Fault),
}

impl<'a> Call<'a> {
    fn new<const ROAD: bool>(client: &'a Rc<Inner>, link: Box<Link>, exchange: &'a mut Exchange, limits: &'a CallLimits) -> Call<'a> {
        let body = match &exchange.body {
            Body::Empty => Body::Empty,
            Body::Full(all) => Body::Full(all.clone()),
            Body::Stream(_) => std::mem::take(&mut exchange.body),
        };
        let head = exchange.worn.take();
        let exchange: &Exchange = exchange;
        let request = &exchange.facts.request;
        let asked = response::Asked { head_method: request.method == Method::Head, connect: false, upgrade: exchange.upgrade.is_some() };
        let host = limits.host(&link.endpoint, exchange.keep_host);
        let upload = Upload::new::<ROAD>(client.out.take(), exchange, body, host);
        // While a body is still being sent the answer is not late; its own deadline begins when it is all out.
        match upload.body {
            None => link.alarm.set_in_until(limits.wait(limits.head, exchange), exchange.deadline),
            Some(_) => link.alarm.set(exchange.deadline),
        }
        Call { client, exchange, limits, link: Some(link), upload, asked, head, heard: false, waited: false, looked: false, broken: None }
    }

    async fn run<const ROAD: bool>(&mut self) -> Result<Answer, Fault> {
        let mut interim = 0;
        let received = poll_fn(|task| self.poll_head::<ROAD>(task, &mut interim)).await;
        let received = match received {
            Ok(received) => received,
            Err(fault) => {
                // The connection is not fit for anything any more.
                self.link = None;
                return Err(fault);
            }
        };
        Ok(self.answer(received))
    }

    fn poll_head<const ROAD: bool>(&mut self, task: &mut Context<'_>, interim: &mut u32) -> Poll<Result<response::Received, Fault>> {
        let Some(link) = &mut self.link else { return Poll::Ready(Err(gone())) };
        if !self.upload.is_over() && self.broken.is_none() {
            match self.upload.poll(&link.socket, task) {
                Poll::Ready(Ok(())) => {
                    // The buffer goes to the next request while this one waits.
                    self.client.out.set(self.upload.take_out());
                    if self.upload.had_stream {
                        link.alarm.set_in_until(self.limits.wait(self.limits.head, self.exchange), self.exchange.deadline);
                        sent(self.exchange);
                    }
                }
                // An endpoint that refuses a body often answers, closes, and lets our writing break. What it said counts.
                Poll::Ready(Err(broken)) => self.broken = Some(broken),
                Poll::Pending => {}
            }
        }
        if let Some(Broken::Body(fault)) = &self.broken {
            return Poll::Ready(Err(fault.clone()));
        }
        let limits = HeadLimits { bytes_max: self.limits.head_bytes_max, fields_max: self.limits.fields_max };
        loop {
            if !link.buf.is_empty() {
                self.heard = true;
                let head = self.head.get_or_insert_default();
                match response::parse(&mut link.buf, &limits, &self.asked, head) {
                    // Another protocol than the one asked for would be carried by nobody's leave (RFC 9110 section 7.8).
                    Ok(Some(response::Event::Final(_))) if !switches_as_asked(head, self.exchange) => {
                        return Poll::Ready(Err(bad_answer(&link.endpoint, &RefusalKind::Switch.into())));
                    }
                    Ok(Some(response::Event::Final(received))) => return Poll::Ready(Ok(received)),
                    Ok(Some(response::Event::Interim(_))) => {
                        *interim += 1;
                        if *interim > INTERIM_MAX {
                            let what = format!("endpoint {} sent more than {INTERIM_MAX} interim answers", link.endpoint);
                            return Poll::Ready(Err(Fault::upstream(FaultKind::BadAnswer, Retry::Never, what)));
                        }
                        continue;
                    }
                    Ok(None) => {}
                    Err(refusal) => return Poll::Ready(Err(bad_answer(&link.endpoint, &refusal))),
                }
            }
            // Only in the turn in which it was looked at, and only if nothing has gone wrong since.
            let looked = std::mem::take(&mut self.looked) && self.upload.is_over() && self.broken.is_none();
            let read = match (looked, self.waited) {
                (true, _) => Poll::Pending,
                (false, true) => link.socket.poll_read_ready(task, &mut link.buf),
                (false, false) => link.socket.poll_read(task, &mut link.buf),
            };
            match read {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(self.closed("closed the connection"))),
                Poll::Ready(Ok(_)) => self.waited = false,
                Poll::Ready(Err(error)) => {
                    let what = format!("broke the connection: {error}");
                    self.broken.get_or_insert(Broken::Connection);
                    return Poll::Ready(Err(self.closed(&what)));
                }
                Poll::Pending => {
                    // Not while a body is being sent: then it is the body that wakes us.
                    self.waited = self.upload.is_over();
                    ready!(link.alarm.poll_elapsed(task));
                    return Poll::Ready(Err(self.late()));
                }
            }
        }
    }

    fn closed(&mut self, how: &str) -> Fault {
        self.broken.get_or_insert(Broken::Connection);
        let endpoint = self.link.as_ref().map_or(String::new(), |link| link.endpoint.to_string());
        let before = if self.heard { "in the middle of the head of its answer" } else { "before it answered" };
        Fault::upstream(FaultKind::Reset, Retry::IfIdempotent, format!("endpoint {endpoint} {how} {before}"))
    }

    fn late(&self) -> Fault {
        let endpoint = self.link.as_ref().map_or(String::new(), |link| link.endpoint.to_string());
        if Instant::now() >= self.exchange.deadline {
            if self.upload.waits {
                return out_of_time();
            }
            let what = format!("the exchange's time ran out before endpoint {endpoint} answered (`timeouts.whole`)");
            return Fault::new(FaultKind::Timeout(Phase::Whole), self.exchange.whose_time(), Retry::Never, what);
        }
        let what =
            format!("endpoint {endpoint} did not answer within {:?} (`timeouts.head`)", self.limits.wait(self.limits.head, self.exchange));
        Fault::upstream(FaultKind::Timeout(Phase::Head), Retry::IfIdempotent, what)
    }

    /// The head is there: what becomes of the connection and the body.
    fn answer(&mut self, received: response::Received) -> Answer {
        let response::Received { framing, keep_alive } = received;
        let head = self.head.take().unwrap_or_default();
        let Some(mut link) = self.link.take() else {
            return Answer { head, body: Body::Empty, tunnel: None };
        };
        if head.status == 101 {
            link.alarm.rest();
            return Answer { head, body: Body::Empty, tunnel: Some(Box::new(LinkTunnel { link })) };
        }
        let upload_over = self.upload.is_over();
        let keep_alive = keep_alive && self.broken.is_none();
        let body = match framing {
            Framing::None | Framing::Length(0) if upload_over => {
                if keep_alive {
                    self.client.keep(link, self.limits.idle);
                }
                Body::Empty
            }
            Framing::Length(all) if upload_over && link.buf.len() as u64 >= all => {
                // The usual case: it came with the head. What stands behind it belongs to nobody: `keep` sees to that.
                let all = take(&mut link.buf, all as usize);
                if keep_alive {
                    self.client.keep(link, self.limits.idle);
                }
                Body::Full(all)
            }
            framing => {
                // An event stream is bounded by whoever passes it on; see there.
                let quiet = if head.is_event_stream() { Duration::MAX } else { self.limits.wait(self.limits.body, self.exchange) };
                link.alarm.set_in(quiet);
                Body::Stream(Box::new(AnswerBody {
                    client: self.client.clone(),
                    link: Some(link),
                    decoder: Decoder::new(framing),
                    upload: (!upload_over).then(|| std::mem::take(&mut self.upload)),
                    trailers: None,
                    keep_alive,
                    idle: self.limits.idle,
                    quiet,
                    armed: true,
                    cut: None,
                }))
            }
        };
        Answer { head, body, tunnel: None }
    }
}

/// Is this no 101, or one to the protocol that the client wants?
fn switches_as_asked(head: &ResponseHead, exchange: &Exchange) -> bool {
    head.status != 101
        || exchange
            .upgrade
            .as_deref()
            .zip(head.fields.known(Known::Upgrade))
            .is_some_and(|(asked, said)| said.eq_ignore_ascii_case(asked.as_bytes()))
}

/// All of a streamed body has gone out: from here on it is the endpoint that is waited for.
#[cold]
fn sent(exchange: &Exchange) {
    if let Some(upload) = &exchange.trail.upload {
        upload.ends(Instant::now());
    }
}

/// The exchange's time is over, and its client still sends.
#[cold]
fn out_of_time() -> Fault {
    let what = "the exchange's time ran out while the client was still sending its body (`timeouts.whole`)";
    Fault::caller(FaultKind::ClientTimeout(Phase::Whole), what)
}

fn gone() -> Fault {
    Fault::upstream(FaultKind::Reset, Retry::Never, "the connection is gone")
}

fn bad_answer(endpoint: &EndpointRef, refusal: &Refusal) -> Fault {
    let what = format!("endpoint {endpoint} of service {:?} gave an answer that is not valid: {}", endpoint.service, refusal.what);
    Fault::upstream(FaultKind::BadAnswer, Retry::Never, what)
}

/// A request on its way out.
#[derive(Default)]
struct Upload {
    out: Vec<u8>,
    sent: usize,
    piece: Bytes,
    body: Option<Box<dyn BodyStream>>,
    had_stream: bool,
    chunked: bool,
    /// A chunk's data is out and its end is not.
    open_chunk: bool,
    /// Nothing is left to send until the client sends more.
    waits: bool,
}

impl Upload {
    fn new<const ROAD: bool>(mut out: Vec<u8>, exchange: &Exchange, body: Body, host: Option<&str>) -> Upload {
        out.clear();
        out.reserve(OUT_ROOM);
        let request = &exchange.facts.request;
        let framing = match &body {
            // A method that has a body by nature says that it is empty.
            Body::Empty if matches!(request.method, Method::Post | Method::Put | Method::Patch) => Framing::Length(0),
            Body::Empty => Framing::None,
            Body::Full(all) => Framing::Length(all.len() as u64),
            Body::Stream(stream) => stream.size().map_or(Framing::Chunked, Framing::Length),
        };
        let forwarded = write::Forwarded { peer: exchange.peer, host };
        write::request_head(&mut out, request, &framing, exchange.upgrade.as_deref(), &forwarded);
        let chunked = matches!(framing, Framing::Chunked);
        let (piece, body) = match body {
            Body::Empty => (Bytes::new(), None),
            Body::Full(all) => (all, None),
            Body::Stream(stream) => (Bytes::new(), Some(stream)),
        };
        Upload { out, sent: 0, piece, had_stream: body.is_some(), body, chunked, open_chunk: false, waits: false }
    }

    fn is_over(&self) -> bool {
        self.body.is_none() && self.sent == self.out.len() && self.piece.is_empty()
    }

    fn take_out(&mut self) -> Vec<u8> {
        self.sent = 0;
        std::mem::take(&mut self.out)
    }

    fn poll(&mut self, socket: &Socket, task: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        loop {
            let mut head = self.out.get(self.sent..).unwrap_or_default();
            let before = head.len();
            let written = poll_write_all(socket, task, &mut head, &mut self.piece);
            self.sent += before - head.len();
            ready!(written).map_err(|_| Broken::Connection)?;
            let Some(body) = &mut self.body else { return Poll::Ready(Ok(())) };
            self.out.clear();
            (self.sent, self.waits) = (0, false);
            if std::mem::take(&mut self.open_chunk) {
                self.out.extend_from_slice(write::CHUNK_TAIL);
            }
            match body.poll_chunk(task) {
                Poll::Ready(Ok(Some(piece))) => {
                    if self.chunked {
                        write::chunk_head(&mut self.out, piece.len());
                        self.open_chunk = true;
                    }
                    self.piece = piece;
                }
                Poll::Ready(Ok(None)) => {
                    if self.chunked {
                        write::last_chunk(&mut self.out, body.trailers().as_ref());
                    }
                    self.body = None;
                }
                Poll::Ready(Err(fault)) => return Poll::Ready(Err(Broken::Body(fault))),
                Poll::Pending => {
                    self.waits = true;
                    if self.out.is_empty() {
                        return Poll::Pending;
                    }
                    // The end of the last chunk goes out now, not with the next one, which may be long in coming.
                    let mut tail = self.out.as_slice();
                    let before = tail.len();
                    let written = poll_write_all(socket, task, &mut tail, &mut Bytes::new());
                    self.sent += before - tail.len();
                    ready!(written).map_err(|_| Broken::Connection)?;
                    return Poll::Pending;
                }
            }
        }
    }
}

/// The body of an answer on its way in.
struct AnswerBody {
    client: Rc<Inner>,
    link: Option<Box<Link>>,
    decoder: Decoder,
    /// What is left of the request: some upstreams answer while they still read.
    upload: Option<Upload>,
    trailers: Option<Fields>,
    keep_alive: bool,
    idle: Duration,
    quiet: Duration,
    armed: bool,
    /// Why the endpoint did not get the whole request. What becomes of its answer then is not its fault.
    cut: Option<Fault>,
}

impl BodyStream for AnswerBody {
    fn poll_chunk(&mut self, task: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        let Some(link) = &mut self.link else { return Poll::Ready(Err(gone())) };
        if let Some(upload) = &mut self.upload {
            match upload.poll(&link.socket, task) {
                Poll::Ready(Ok(())) => self.upload = None,
                Poll::Ready(Err(broken)) => {
                    (self.upload, self.keep_alive) = (None, false);
                    if let Broken::Body(fault) = broken {
                        self.cut = Some(fault);
                    }
                }
                Poll::Pending => {}
            }
        }
        loop {
            match self.decoder.decode(&mut link.buf) {
                Ok(Piece::Data(piece)) => {
                    self.armed = false;
                    return Poll::Ready(Ok(Some(piece)));
                }
                Ok(Piece::End(trailers)) => {
                    self.trailers = trailers;
                    if let Some(link) = self.link.take()
                        && self.keep_alive
                        && self.upload.is_none()
                    {
                        self.client.keep(link, self.idle);
                    }
                    return Poll::Ready(Ok(None));
                }
                Ok(Piece::More) => {}
                Err(refusal) => return Poll::Ready(Err(bad_answer(&link.endpoint, &refusal))),
            }
            let cut = match link.socket.poll_read(task, &mut link.buf) {
                Poll::Ready(Ok(0)) => match self.decoder.end_of_input() {
                    Ok(()) => {
                        self.link = None;
                        return Poll::Ready(Ok(None));
                    }
                    Err(_) => "closed the connection".into(),
                },
                Poll::Ready(Ok(_)) => continue,
                Poll::Ready(Err(error)) => format!("broke the connection: {error}"),
                Poll::Pending => {
                    if !self.armed {
                        self.armed = true;
                        link.alarm.set_in(self.quiet);
                    }
                    ready!(link.alarm.poll_elapsed(task));
                    if let Some(fault) = self.cut.take() {
                        return Poll::Ready(Err(fault));
                    }
                    let what = format!("endpoint {} sent nothing of the body for {:?} (`timeouts.body`)", link.endpoint, self.quiet);
                    return Poll::Ready(Err(Fault::upstream(FaultKind::Timeout(Phase::Body), Retry::Never, what)));
                }
            };
            if let Some(fault) = self.cut.take() {
                return Poll::Ready(Err(fault));
            }
            let what = format!("endpoint {} {cut} in the middle of the body", link.endpoint);
            return Poll::Ready(Err(Fault::upstream(FaultKind::Reset, Retry::Never, what)));
        }
    }

    fn trailers(&mut self) -> Option<Fields> {
        self.trailers.take()
    }

    fn size(&self) -> Option<u64> {
        self.decoder.remaining()
    }
}

/// The upstream's side of a tunnel. What came behind the 101 is read first.
struct LinkTunnel {
    link: Box<Link>,
}

impl Tunnel for LinkTunnel {
    fn poll_read(&mut self, task: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        // What was written and did not fit goes on here: this is called whenever the tunnel's task is woken.
        let _ = self.link.socket.poll_flush(task)?;
        if self.link.buf.is_empty() {
            let read = ready!(self.link.socket.poll_read(task, &mut self.link.buf))?;
            if read == 0 {
                return Poll::Ready(Ok(0));
            }
        }
        let len = self.link.buf.len().min(into.len());
        self.link.buf.split_to(len).copy_to_slice(into.get_mut(..len).unwrap_or_default());
        if self.link.buf.is_empty() {
            // A tunnel that is quiet holds no buffer.
            self.link.socket.give(&mut self.link.buf);
        }
        Poll::Ready(Ok(len))
    }

    fn poll_write(&mut self, task: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        self.link.socket.poll_write(task, from, &[])
    }

    fn poll_shutdown(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.link.socket.poll_shutdown(task)
    }
}

/// Endpoint ids are counted up: they are their own hash, spread by one multiplication.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = (self.0 ^ id).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
