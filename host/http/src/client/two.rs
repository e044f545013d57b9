//! The client side of HTTP/2 (RFC 9113): calls as streams of shared connections.
//!
//! A connection is a task of its core; a call reads and writes its stream itself. An endpoint has one connection for each
//! core until its streams are used up, then another. Like HTTP/1.1's, connections are counted over all cores.
//!
//! A connection takes fewer streams than its window has room for: clients that do not read their answers use up their own
//! streams' windows, and never that of the connection, which would stall all others.

use super::line::{Line, SMALL_FRAMES};
use super::{Dialect, Inner};
use crate::codec::{HeadLimits, RefusalKind, two};
use crate::deadlines::Alarm;
use crate::io::Socket;
use crate::{grpc, websocket};
use bytes::Bytes;
use h2::client::{Builder, ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use std::cell::{Cell, RefCell};
use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use wharf_core::body::{Body, BodyStream, Tunnel};
use wharf_core::exchange::{Answer, Exchange};
use wharf_core::fault::{Blame, Fault, FaultKind, Phase, Retry};
use wharf_core::head::{Fields, ResponseHead, Scheme};
use wharf_core::outlet::{CallLimits, EndpointRef};

/// Bytes of an answer that an endpoint may send before they are passed on, for each stream.
const WINDOW: u32 = 64 * 1024;
/// The same for all streams of a connection: 16 MiB. It is what a connection holds at most, if nobody reads; it is not set aside.
const WINDOW_OF_ALL: u32 = 256 * WINDOW;
/// Streams of one connection, whatever its endpoint allows. So many that nobody reads leave room for sixteen that are read,
/// and the next ones have another connection.
const STREAMS_MAX: u32 = 240;
/// Unread, all of them leave the window of the connection open.
const _: () = assert!(STREAMS_MAX * WINDOW < WINDOW_OF_ALL);
/// Bytes of a request that the library holds for one stream that its endpoint does not read.
const UNSENT_MAX: usize = 64 * 1024;
/// Given to the library at once, of a body that is larger.
const PIECE_MAX: usize = 32 * 1024;
/// Streams taken to be allowed until the endpoint has said how many.
const STREAMS_AT_FIRST: usize = 100;
/// Connections to one endpoint on one core.
const CONNECTIONS_MAX: usize = 64;
/// How long a new connection may take to say its settings, when a call must know them.
const SETTINGS_WAIT: Duration = Duration::from_secs(2);

/// The connections of one endpoint on one core.
#[derive(Default)]
pub(super) struct Many {
    all: Vec<Shared>,
    /// Somebody makes one; the others wait for it.
    making: Option<Rc<Notify>>,
}

/// One connection.
struct Shared {
    send: SendRequest<Bytes>,
    state: Rc<State>,
}

struct State {
    endpoint: EndpointRef,
    /// Streams in use.
    open: Cell<u32>,
    /// It has ended, or is about to.
    over: Cell<bool>,
    /// The tick after which it has been idle for too long, if it is idle then.
    until: Cell<u32>,
    /// The tick from which on it takes no new streams: it is too old.
    too_old_at: u32,
}

impl Drop for State {
    fn drop(&mut self) {
        self.endpoint.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Many {
    /// Closes what is over, too old, or whose endpoint is gone. Is any left?
    pub(super) fn tidy(&mut self, now: u32) -> bool {
        self.all.retain(|shared| {
            let state = &shared.state;
            let idle = state.open.get() == 0;
            let leave = state.until.get() <= now || state.endpoint.gone.load(Ordering::Relaxed);
            // The last handle's drop ends the connection when its last stream has ended.
            !(state.over.get() || state.too_old_at <= now || idle && leave)
        });
        !self.all.is_empty() || self.making.is_some()
    }

    /// A connection with room for one more stream: the one that has the fewest.
    fn with_room(&self, now: u32) -> Option<&Shared> {
        let takes = |shared: &&Shared| {
            let max = shared.send.current_max_send_streams().min(STREAMS_MAX as usize) as u32;
            let state = &shared.state;
            let fit = !state.over.get() && state.too_old_at > now && !state.endpoint.gone.load(Ordering::Relaxed);
            fit && state.open.get() < max
        };
        self.all.iter().filter(takes).min_by_key(|shared| shared.state.open.get())
    }
}

/// Counts a stream of a connection while it lasts.
struct Using(Rc<State>, Rc<Inner>, Duration);

impl Drop for Using {
    fn drop(&mut self) {
        let Using(state, client, idle) = self;
        state.open.set(state.open.get().saturating_sub(1));
        state.until.set(client.deadlines.tick_in(*idle));
    }
}

/// One try. `None`: the endpoint has chosen HTTP/1.1, and this is the connection.
pub(super) enum Sent {
    Answered(Answer),
    /// It speaks HTTP/1.1: a connection that was made, to be used for it.
    Older(Socket),
}

pub(super) async fn send(
    client: &Rc<Inner>,
    dialect: &Rc<Dialect>,
    endpoint: &EndpointRef,
    exchange: &mut Exchange,
    limits: &CallLimits,
) -> Result<Sent, Fault> {
    let alarm = client.deadlines.alarm();
    let (handle, using) = match handle(client, dialect, endpoint, exchange, limits, &alarm).await? {
        Got::Handle(handle, using) => (handle, using),
        Got::Older(socket) => return Ok(Sent::Older(socket)),
    };
    begin(client, dialect, endpoint, exchange, limits, alarm, handle, using).await.map(Sent::Answered)
}

enum Got {
    Handle(SendRequest<Bytes>, Using),
    Older(Socket),
}

/// A handle to a connection with room, made if there is none. Of several calls that want one at once, one makes it.
async fn handle(
    client: &Rc<Inner>,
    dialect: &Rc<Dialect>,
    endpoint: &EndpointRef,
    exchange: &Exchange,
    limits: &CallLimits,
    alarm: &Alarm,
) -> Result<Got, Fault> {
    let key = dialect.key(endpoint);
    alarm.set_in_until(limits.connect, exchange.deadline);
    loop {
        let waiting = {
            let mut shared = client.shared.borrow_mut();
            let many = shared.entry(key).or_default();
            if let Some(found) = many.with_room(client.deadlines.tick()) {
                found.state.open.set(found.state.open.get() + 1);
                return Ok(Got::Handle(found.send.clone(), Using(found.state.clone(), client.clone(), limits.idle)));
            }
            if many.all.len() >= CONNECTIONS_MAX {
                let what = format!("endpoint {endpoint} has no room for another stream in {CONNECTIONS_MAX} connections");
                return Err(Fault::overload("streams_max", what));
            }
            match &many.making {
                Some(making) => Some(making.clone()),
                None => {
                    many.making = Some(Rc::default());
                    None
                }
            }
        };
        let Some(waiting) = waiting else { break };
        let mut made = pin!(waiting.notified());
        let in_time = poll_fn(|task| match made.as_mut().poll(task) {
            Poll::Ready(()) => Poll::Ready(true),
            Poll::Pending => alarm.poll_elapsed(task).map(|()| false),
        });
        if !in_time.await {
            if Instant::now() >= exchange.deadline {
                return Err(slow(endpoint, exchange, limits));
            }
            let what =
                format!("endpoint {endpoint} of service {:?} did not open a connection within {:?}", endpoint.service, limits.connect);
            return Err(Fault::upstream(FaultKind::Timeout(Phase::Connect), Retry::Safe, what));
        }
    }
    // Ours to make; whoever waits is told, however it ends.
    make(client, dialect, endpoint, (exchange.deadline, exchange.whose_time()), limits, Making { client, key }).await
}

/// Makes a connection for those who want one. It is used once when it is handed back.
async fn make(
    client: &Rc<Inner>,
    dialect: &Rc<Dialect>,
    endpoint: &EndpointRef,
    deadline: (Instant, Blame),
    limits: &CallLimits,
    making: Making<'_>,
) -> Result<Got, Fault> {
    let (socket, counted) = client.dial(endpoint, Some(dialect), true, deadline, limits).await?;
    if dialect.chooses() && socket.tls().is_some_and(|tls| tls.agreed().alpn_protocol() != Some(crate::tls::H2)) {
        counted.keep();
        return Ok(Got::Older(socket));
    }
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW_OF_ALL)
        .data_frame_budget(WINDOW_OF_ALL as usize * SMALL_FRAMES)
        .max_header_list_size(u32::try_from(limits.head_bytes_max + 64 * limits.fields_max).unwrap_or(u32::MAX))
        .max_send_buffer_size(UNSENT_MAX)
        .initial_max_send_streams(STREAMS_AT_FIRST);
    let (send, connection) = builder.handshake(Line::new(Rc::new(socket))).await.map_err(|error| {
        let what = format!("endpoint {endpoint} of service {:?} does not speak HTTP/2: {error}", endpoint.service);
        Fault::upstream(FaultKind::Connect, Retry::Safe, what)
    })?;
    counted.keep();
    let state = Rc::new(State {
        endpoint: endpoint.clone(),
        open: Cell::new(1),
        over: Cell::new(false),
        until: Cell::new(u32::MAX),
        too_old_at: client.too_old_at(limits),
    });
    let ended = state.clone();
    tokio::task::spawn_local(async move {
        let _ = connection.await;
        ended.over.set(true);
    });
    if let Some(many) = client.shared.borrow_mut().get_mut(&making.key) {
        many.all.push(Shared { send: send.clone(), state: state.clone() });
    }
    drop(making);
    Ok(Got::Handle(send, Using(state, client.clone(), limits.idle)))
}

/// Is there a connection with room, or is one being made?
pub(super) fn has_room(client: &Inner, key: u64) -> bool {
    let shared = client.shared.borrow();
    shared.get(&key).is_some_and(|many| many.making.is_some() || many.with_room(client.deadlines.tick()).is_some())
}

/// Makes a connection before anybody wants it. `Some`: the endpoint has chosen HTTP/1.1, and this is the connection.
pub(super) async fn make_ready(
    client: &Rc<Inner>,
    dialect: &Rc<Dialect>,
    endpoint: &EndpointRef,
    deadline: Instant,
    limits: &CallLimits,
) -> Result<Option<Socket>, Fault> {
    let key = dialect.key(endpoint);
    if has_room(client, key) {
        return Ok(None);
    }
    client.shared.borrow_mut().entry(key).or_default().making = Some(Rc::default());
    Ok(match make(client, dialect, endpoint, (deadline, Blame::Upstream), limits, Making { client, key }).await? {
        Got::Handle(..) => None,
        Got::Older(socket) => Some(socket),
    })
}

struct Making<'a> {
    client: &'a Rc<Inner>,
    key: u64,
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        let making = self.client.shared.borrow_mut().get_mut(&self.key).and_then(|many| many.making.take());
        if let Some(making) = making {
            making.notify_waiters();
        }
    }
}

/// What a call and the task that sends its body tell each other.
#[derive(Default)]
struct Upload {
    over: Cell<bool>,
    /// Nothing is left to send until the client sends more.
    waits: Cell<bool>,
    /// The client's side, or a limit: the body could not be read.
    fault: RefCell<Option<Fault>>,
    told: Notify,
}

/// Ends its task when the call has ended.
struct Uploading(Rc<Upload>, tokio::task::AbortHandle);

impl Drop for Uploading {
    fn drop(&mut self) {
        self.1.abort();
    }
}

#[allow(clippy::too_many_arguments, reason = "the parts of one call, which nobody else holds together")]
async fn begin(
    client: &Rc<Inner>,
    dialect: &Rc<Dialect>,
    endpoint: &EndpointRef,
    exchange: &mut Exchange,
    limits: &CallLimits,
    alarm: Alarm,
    mut handle: SendRequest<Bytes>,
    using: Using,
) -> Result<Answer, Fault> {
    let body = match &exchange.body {
        Body::Empty => Body::Empty,
        Body::Full(all) => Body::Full(all.clone()),
        Body::Stream(_) => std::mem::take(&mut exchange.body),
    };
    let mut worn = exchange.worn.take();
    let exchange: &Exchange = exchange;
    let upgrade = websocket::asked(exchange);
    if upgrade.is_some() {
        if !websocket::has_key(&exchange.facts.request.fields) {
            // What would be proved to the client is ours to prove.
            let what = "a WebSocket handshake without one valid `sec-websocket-key`";
            return Err(Fault::caller(FaultKind::Malformed, what));
        }
        settled(&handle, &alarm, endpoint, exchange).await?;
    }
    let forwarded = two::Forwarded {
        peer: exchange.peer,
        host: limits.host(endpoint, exchange.keep_host),
        scheme: if dialect.tls.is_some() { Scheme::Https } else { Scheme::Http },
    };
    // gRPC ends a request with a DATA frame in any case, and some servers wait for it.
    let must_say_end = matches!(body, Body::Empty) && grpc::is_grpc(&exchange.facts.request.fields);
    let length = match &body {
        Body::Empty if must_say_end || exchange.facts.request.method.is_idempotent() => None,
        body => body.size(),
    };
    let unsayable = |error: &dyn std::fmt::Display| {
        let what = format!("the request cannot be said in HTTP/2: {error}");
        Fault::new(FaultKind::Malformed, wharf_core::fault::Blame::Caller, Retry::Never, what)
    };
    let mut request = two::request_to(&exchange.facts.request, length.filter(|_| upgrade.is_none()), upgrade.is_some(), &forwarded)
        .map_err(|error| unsayable(&error))?;
    if let Some(protocol) = upgrade {
        request.extensions_mut().insert(h2::ext::Protocol::from(protocol));
        // Key and version are HTTP/1.1's (RFC 8441 section 5).
        request.headers_mut().remove("sec-websocket-key");
    }
    alarm.set_in_until(limits.wait(limits.head, exchange), exchange.deadline);
    let late = |alarm: &Alarm, task: &mut Context<'_>| alarm.poll_elapsed(task);
    poll_fn(|task| match handle.poll_ready(task) {
        Poll::Ready(ready) => Poll::Ready(ready.map_err(|error| broken(endpoint, &error, true))),
        Poll::Pending => late(&alarm, task).map(|()| Err(slow(endpoint, exchange, limits))),
    })
    .await?;
    let ends = matches!(body, Body::Empty) && upgrade.is_none() && !must_say_end;
    let (response, mut stream) = handle.send_request(request, ends).map_err(|error| broken(endpoint, &error, true))?;
    let mut uploading = None;
    match body {
        Body::Empty if must_say_end => stream.send_data(Bytes::new(), true).map_err(|error| broken(endpoint, &error, false))?,
        Body::Empty => {}
        Body::Full(all) => stream.send_data(all, true).map_err(|error| broken(endpoint, &error, false))?,
        Body::Stream(body) => {
            // While a body is still being sent the answer is not late; its own deadline begins when it is all out.
            alarm.set(exchange.deadline);
            let upload = Rc::new(Upload::default());
            let task = tokio::task::spawn_local(upload_all(upload.clone(), body, stream));
            uploading = Some(Uploading(upload, task.abort_handle()));
            return answer(client, endpoint, exchange, limits, alarm, response, None, uploading, using, &mut worn).await;
        }
    }
    answer(client, endpoint, exchange, limits, alarm, response, Some(stream), uploading, using, &mut worn).await
}

#[allow(clippy::too_many_arguments, reason = "the parts of one call, which nobody else holds together")]
async fn answer(
    client: &Rc<Inner>,
    endpoint: &EndpointRef,
    exchange: &Exchange,
    limits: &CallLimits,
    alarm: Alarm,
    mut response: ResponseFuture,
    stream: Option<SendStream<Bytes>>,
    uploading: Option<Uploading>,
    using: Using,
    worn: &mut Option<Box<ResponseHead>>,
) -> Result<Answer, Fault> {
    let mut sending = uploading.is_some();
    let answered = {
        let mut told = pin!(async {
            match &uploading {
                Some(Uploading(upload, _)) => upload.told.notified().await,
                None => std::future::pending().await,
            }
        });
        poll_fn(|task| {
            if sending && told.as_mut().poll(task).is_ready() {
                sending = false;
                alarm.set_in_until(limits.wait(limits.head, exchange), exchange.deadline);
                if let Some(fault) = cut(uploading.as_ref()) {
                    return Poll::Ready(Err(fault));
                }
                super::sent(exchange);
            }
            match Pin::new(&mut response).poll(task) {
                Poll::Ready(answered) => Poll::Ready(answered.map_err(|error| broken(endpoint, &error, false))),
                Poll::Pending => alarm.poll_elapsed(task).map(|()| {
                    let clients = sending && uploading.as_ref().is_some_and(|uploading| uploading.0.waits.get());
                    Err(if clients { super::out_of_time() } else { slow(endpoint, exchange, limits) })
                }),
            }
        })
        .await?
    };
    let (parts, mut received) = answered.into_parts();
    let mut head = worn.take().unwrap_or_default();
    let head_limits = HeadLimits { bytes_max: limits.head_bytes_max, fields_max: limits.fields_max };
    let length = two::answer(&parts, &head_limits, &mut head).map_err(|what| bad_answer(endpoint, what))?;
    if websocket::asked(exchange).is_some() && head.status < 300 {
        let Some(send) = stream else { return Err(bad_answer(endpoint, RefusalKind::Switch)) };
        let tunnel = StreamTunnel { received, send, piece: Bytes::new(), _using: using };
        return Ok(Answer { head, body: Body::Empty, tunnel: Some(Box::new(tunnel)) });
    }
    if received.is_end_stream() {
        return Ok(Answer { head, body: Body::Empty, tunnel: None });
    }
    let first = poll_fn(|task| Poll::Ready(received.poll_data(task))).await;
    let piece = match first {
        Poll::Ready(Some(Ok(piece))) => {
            let _ = received.flow_control().release_capacity(piece.len());
            if received.is_end_stream() {
                return Ok(Answer { head, body: piece.into(), tunnel: None });
            }
            piece
        }
        _ => Bytes::new(),
    };
    // An event stream is bounded by whoever passes it on, and so is a call of gRPC.
    let is_call = grpc::is_grpc(&head.fields) && grpc::is_grpc(&exchange.facts.request.fields);
    let quiet = if is_call || head.is_event_stream() { Duration::MAX } else { limits.wait(limits.body, exchange) };
    alarm.set_in(quiet);
    let body = AnswerBody {
        endpoint: endpoint.clone(),
        received,
        left: length,
        piece,
        trailers: None,
        alarm,
        armed: true,
        quiet,
        limits: head_limits,
        _stream: stream,
        uploading,
        _using: using,
    };
    let _ = client;
    Ok(Answer { head, body: Body::Stream(Box::new(body)), tunnel: None })
}

/// Waits until the endpoint has said whether it takes extended CONNECTs.
async fn settled(handle: &SendRequest<Bytes>, alarm: &Alarm, endpoint: &EndpointRef, exchange: &Exchange) -> Result<(), Fault> {
    alarm.set_in_until(SETTINGS_WAIT, exchange.deadline);
    // The library does not tell when settings come; they are the first thing that comes, so a few looks suffice.
    let mut looks = tokio::time::interval(Duration::from_millis(5));
    poll_fn(|task| {
        loop {
            if handle.is_extended_connect_protocol_enabled() {
                return Poll::Ready(Ok(()));
            }
            if alarm.poll_elapsed(task).is_ready() {
                let what = format!("endpoint {endpoint} of service {:?} takes no WebSocket over HTTP/2", endpoint.service);
                return Poll::Ready(Err(Fault::upstream(FaultKind::BadAnswer, Retry::Never, what)));
            }
            ready!(looks.poll_tick(task));
        }
    })
    .await
}

/// Why the endpoint did not get the whole request, if the client let it down. What becomes of its answer then is not its
/// fault.
fn cut(uploading: Option<&Uploading>) -> Option<Fault> {
    uploading?.0.fault.borrow_mut().take()
}

async fn upload_all(upload: Rc<Upload>, mut body: Box<dyn BodyStream>, mut stream: SendStream<Bytes>) {
    let mut piece = Bytes::new();
    let done = poll_fn(|task| poll_upload(&upload.waits, &mut body, &mut stream, &mut piece, task)).await;
    if let Err(fault) = done {
        if fault.is_some() {
            stream.send_reset(Reason::CANCEL);
        }
        *upload.fault.borrow_mut() = fault;
    }
    upload.over.set(true);
    upload.told.notify_one();
}

/// `Err(None)`: the endpoint wants no more; what it says counts.
fn poll_upload(
    waits: &Cell<bool>,
    body: &mut Box<dyn BodyStream>,
    stream: &mut SendStream<Bytes>,
    piece: &mut Bytes,
    task: &mut Context<'_>,
) -> Poll<Result<(), Option<Fault>>> {
    waits.set(false);
    loop {
        stream.reserve_capacity(piece.len().clamp(1, PIECE_MAX));
        if stream.capacity() == 0 {
            match ready!(stream.poll_capacity(task)) {
                Some(Ok(0)) => continue,
                Some(Ok(_)) => {}
                _ => return Poll::Ready(Err(None)),
            }
        }
        if piece.is_empty() {
            match body.poll_chunk(task) {
                Poll::Ready(Ok(Some(next))) => *piece = next,
                Poll::Ready(Ok(None)) => {
                    let trailers = body.trailers().and_then(|trailers| two::trailers_to(&trailers).ok()).filter(|map| !map.is_empty());
                    let sent = match trailers {
                        Some(trailers) => stream.send_trailers(trailers),
                        None => stream.send_data(Bytes::new(), true),
                    };
                    return Poll::Ready(sent.map_err(|_| None));
                }
                Poll::Ready(Err(fault)) => return Poll::Ready(Err(Some(fault))),
                Poll::Pending => {
                    waits.set(true);
                    return stream.poll_reset(task).map(|_| Err(None));
                }
            }
        }
        let next = piece.split_to(piece.len().min(PIECE_MAX));
        stream.send_data(next, false).map_err(|_| None)?;
    }
}

/// What an error of the library says about the request. `unsent`: not a byte of it has gone out.
fn broken(endpoint: &EndpointRef, error: &h2::Error, unsent: bool) -> Fault {
    // RFC 9113 section 8.7: a refused stream, or one behind the last that a GOAWAY names, was not processed.
    let refused = error.reason() == Some(Reason::REFUSED_STREAM)
        || (error.is_go_away() && error.is_remote() && error.reason() == Some(Reason::NO_ERROR));
    let retry = if unsent || refused { Retry::Safe } else { Retry::IfIdempotent };
    let what = format!("endpoint {endpoint} of service {:?} ended the stream: {error}", endpoint.service);
    Fault::upstream(FaultKind::Reset, retry, what)
}

fn slow(endpoint: &EndpointRef, exchange: &Exchange, limits: &CallLimits) -> Fault {
    if Instant::now() >= exchange.deadline {
        let what = format!("the exchange's time ran out before endpoint {endpoint} answered (`timeouts.whole`)");
        return Fault::new(FaultKind::Timeout(Phase::Whole), exchange.whose_time(), Retry::Never, what);
    }
    let what = format!("endpoint {endpoint} did not answer within {:?} (`timeouts.head`)", limits.wait(limits.head, exchange));
    Fault::upstream(FaultKind::Timeout(Phase::Head), Retry::IfIdempotent, what)
}

fn bad_answer(endpoint: &EndpointRef, what: RefusalKind) -> Fault {
    super::bad_answer(endpoint, &what.into())
}

/// The body of an answer on its way in.
struct AnswerBody {
    endpoint: EndpointRef,
    received: RecvStream,
    left: Option<u64>,
    piece: Bytes,
    trailers: Option<Fields>,
    alarm: Alarm,
    armed: bool,
    quiet: Duration,
    limits: HeadLimits,
    /// Dropped, it would end the stream.
    _stream: Option<SendStream<Bytes>>,
    uploading: Option<Uploading>,
    _using: Using,
}

impl BodyStream for AnswerBody {
    fn poll_chunk(&mut self, task: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        let mut piece = std::mem::take(&mut self.piece);
        while piece.is_empty() {
            match self.received.poll_data(task) {
                Poll::Ready(Some(Ok(next))) => {
                    let _ = self.received.flow_control().release_capacity(next.len());
                    piece = next;
                }
                Poll::Ready(Some(Err(error))) => {
                    return Poll::Ready(Err(self.broken("in the middle of the body", &error)));
                }
                Poll::Ready(None) => return self.poll_end(task),
                Poll::Pending => return self.poll_late(task),
            }
        }
        self.armed = false;
        self.left = self.left.map(|left| left.saturating_sub(piece.len() as u64));
        Poll::Ready(Ok(Some(piece)))
    }

    fn trailers(&mut self) -> Option<Fields> {
        self.trailers.take()
    }

    fn size(&self) -> Option<u64> {
        self.left
    }
}

impl AnswerBody {
    #[cold]
    fn broken(&self, place: &str, error: &h2::Error) -> Fault {
        // Perhaps it was ended on our side, for what became of the request's body: then that is what happened.
        cut(self.uploading.as_ref()).unwrap_or_else(|| {
            let what = format!("endpoint {} ended the stream {place}: {error}", self.endpoint);
            Fault::upstream(FaultKind::Reset, Retry::Never, what)
        })
    }

    fn poll_end(&mut self, task: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        match self.received.poll_trailers(task) {
            Poll::Ready(Ok(None)) => Poll::Ready(Ok(None)),
            Poll::Ready(Ok(Some(map))) => match two::trailers(&map, &self.limits) {
                Ok(trailers) => {
                    self.trailers = trailers;
                    Poll::Ready(Ok(None))
                }
                Err(what) => Poll::Ready(Err(bad_answer(&self.endpoint, what))),
            },
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.broken("before its trailers", &error))),
            Poll::Pending => self.poll_late(task),
        }
    }

    fn poll_late(&mut self, task: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        if !std::mem::replace(&mut self.armed, true) {
            self.alarm.set_in(self.quiet);
        }
        ready!(self.alarm.poll_elapsed(task));
        let what = format!("endpoint {} sent nothing of the body for {:?} (`timeouts.body`)", self.endpoint, self.quiet);
        Poll::Ready(Err(Fault::upstream(FaultKind::Timeout(Phase::Body), Retry::Never, what)))
    }
}

/// The upstream's side of a tunnel.
struct StreamTunnel {
    received: RecvStream,
    send: SendStream<Bytes>,
    piece: Bytes,
    _using: Using,
}

impl Tunnel for StreamTunnel {
    fn poll_read(&mut self, task: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        // All that has come and fits, as one: small messages must not become as many small writes.
        let mut read = 0;
        while let Some(room) = into.get_mut(read..).filter(|room| !room.is_empty()) {
            if self.piece.is_empty() {
                match self.received.poll_data(task) {
                    Poll::Ready(Some(Ok(piece))) => {
                        let _ = self.received.flow_control().release_capacity(piece.len());
                        self.piece = piece;
                    }
                    // Told again when it is asked again.
                    _ if read > 0 => break,
                    Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(io::Error::other(error))),
                    Poll::Ready(None) => return Poll::Ready(Ok(0)),
                    Poll::Pending => return Poll::Pending,
                }
            }
            let len = self.piece.len().min(room.len());
            room.get_mut(..len).unwrap_or_default().copy_from_slice(&self.piece.split_to(len));
            read += len;
        }
        Poll::Ready(Ok(read))
    }

    fn poll_write(&mut self, task: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            self.send.reserve_capacity(from.len().min(PIECE_MAX));
            let room = self.send.capacity().min(from.len());
            if room > 0 {
                let piece = Bytes::copy_from_slice(from.get(..room).unwrap_or_default());
                return Poll::Ready(self.send.send_data(piece, false).map(|()| room).map_err(io::Error::other));
            }
            match ready!(self.send.poll_capacity(task)) {
                Some(Ok(_)) => {}
                _ => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
    }

    fn poll_shutdown(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.send.send_data(Bytes::new(), true).map_err(io::Error::other))
    }
}
