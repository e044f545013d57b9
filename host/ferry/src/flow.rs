//! THE LIFE OF A MESSAGE, near side then far side.
//!
//! ```text
//! near   seat    = node.seat                        who we are on the bus; nobody: refused
//!        body    = gathered, or sent ahead in pieces
//!        waiter  = waiters.register(id)             before the send: however quick the answer is, somebody is there
//!        kept    = sink.send(request lane)          numbered, in the order of its key
//!        answer  = waiter (deadline)                or 202 once it is kept
//!
//! far    message = source.next                      `far.rs`: read, ordered, marked as begun, **noted**, and only then:
//!        expired?                                   a receipt goes home, nobody is called
//!        begun before?                              what became of it is not known: told so, put aside, never called twice
//!        done before?                               its key is known: the answer of then
//!        answer  = walk(request)                    the road of any request: rules, routes, upstreams
//!        kept    = sink.send(ledger), sink.send(reply lane)
//!        done                                       and noted, with whatever is begun next
//! ```

use crate::clock::{moment, now_ms, now_us, steady};
use crate::codes::Code;
use crate::config::{Mode, Order};
use crate::envelope::{Envelope, Fields, Hop, Load, Once, PIECE_MARGIN, Piece, Reply, Request, Sender};
use crate::far::{Far, Fate, Taken};
use crate::hops::HopKind;
use crate::lane::Turn;
use crate::near::{NearLane, Seat};
use crate::spool::Want;
use crate::waiters::Word;
use aws_lc_rs::digest::{Context as Digest, SHA256, digest};
use bytes::{Bytes, BytesMut};
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use wharf_core::body::{Body, BodyStream};
use wharf_core::bus::{BusError, BusErrorKind, Parcel, Place, Sink};
use wharf_core::exchange::{Answer, Exchange};
use wharf_core::fault::{self, Fault, FaultKind};
use wharf_core::head::{Known, Method, RequestHead, ResponseHead};
use wharf_core::walk::{Arrived, Walked};

/// Before an exchange's own deadline the ferry says that it was too long: who waits with us says something else.
const BEFORE_DEADLINE: Duration = Duration::from_millis(20);
/// Pieces of one body on their way to the bus.
const PIECES_OPEN_MAX: usize = 4;

// === near ===

/// Gets the answer to a request from the other side.
pub(crate) async fn carry_over(lane: &NearLane, exchange: &mut Exchange) -> Result<Answer, Fault> {
    let (config, node) = (&*lane.config, &*lane.node);
    let refused = |what: String| config.statuses.fault(Code::MessageError, what);
    let Some(seat) = node.seat.load_full() else {
        let what = format!("ferry lane {:?} sends nothing: this node holds no worker id at present", config.lane);
        return Err(refused(what).after(Duration::from_secs(1)));
    };

    // What it is.
    let is_async = wants_no_answer(config.mode, &exchange.facts.request);
    let (accepted_us, deadline) = (now_us(), exchange.deadline.checked_sub(BEFORE_DEADLINE).unwrap_or(exchange.deadline));
    let left = if is_async { config.keep } else { deadline.saturating_duration_since(steady()) };
    let deadline_ms = accepted_us / 1000 + u64::try_from(left.as_millis()).unwrap_or(u64::MAX / 4);
    let id = node.ids.next(accepted_us / 1000);
    let mut request = Request {
        id,
        sender: Sender {
            node: (*node.node).into(),
            worker: seat.worker,
            run: seat.run,
            core: lane.core,
            reply_lane: (*seat.reply_lane).into(),
        },
        accepted_us,
        deadline_ms,
        is_async,
        route: (*exchange.facts.route).into(),
        trace: trace_of(&exchange.facts.request),
        client: Some(exchange.facts.client),
        order: order_of(&config.order, exchange),
        ..Request::default()
    };
    let key = once_key(&config.once_field, &exchange.facts.request);
    let partition = partition_of(&request.order, key.as_deref(), id, lane.counts.len());

    // Its body: within the message, or before it. Its key belongs to what it asks for.
    let mut once = key.as_ref().map(|_| about(&exchange.facts.request));
    let body = std::mem::take(&mut exchange.body);
    request.load = load_of(lane, &seat, &request, partition, body, once.as_mut()).await?;
    request.once = key.zip(once).map(|(key, once)| Once { key, body: half(once) });

    // Somebody is there before the answer can be.
    let waiter = match is_async {
        true => None,
        false => Some(lane.waiters.register(id).ok_or_else(|| {
            let what = format!("ferry lane {:?} has as many waiting callers as it may (`waiters_max`)", config.lane);
            refused(what).after(Duration::from_secs(1))
        })?),
    };
    node.recorder.accepted(&node.node, &request, &exchange.facts.request, partition);
    let (tell, kept) = oneshot::channel();
    let mut tell = is_async.then_some(tell);
    let (recorder, name, post) = (node.recorder.clone(), node.node.clone(), node.posts.get(usize::from(lane.core)).cloned());
    let told = Box::new(move |said: Result<Place, BusError>| {
        match &said {
            Ok(place) => recorder.sent(id, &name, *place),
            Err(error) => recorder.hop(id, HopKind::Failed, &name, now_us(), error.kind.word()),
        }
        match (tell.take(), said) {
            (Some(tell), said) => drop(tell.send(said)),
            (None, Err(error)) => {
                if let Some(post) = &post {
                    post.put(id, Word::NotSent(error));
                }
            }
            // Whoever waits, waits for the answer.
            (None, Ok(_)) => {}
        }
    });
    let head = &exchange.facts.request;
    let parcel = |sequence| {
        request.sequence = sequence;
        let value = write_request(&request, head);
        let key = (!request.order.is_empty()).then(|| request.order.clone());
        Parcel { topic: config.topic.clone(), partition, key, value, fields: Vec::new() }
    };
    node.send_numbered(&lane.counts, parcel, partition, told).map_err(|error| {
        lane.hop(id, HopKind::Failed, error.kind.word());
        not_taken(lane, error)
    })?;

    let Some(waiter) = waiter else {
        // From here on it is promised.
        return match tokio::time::timeout_at(deadline.into(), kept).await {
            Ok(Ok(Ok(_))) => {
                node.recorder.flush().await;
                Ok(accepted(&config.location, id))
            }
            Ok(Ok(Err(error))) => Err(not_taken(lane, error)),
            Ok(Err(_)) => Err(refused("the bus is closed".into())),
            Err(_) => Err(config.statuses.fault(Code::MessageTimeout, format!("message {id} was not kept by the bus in time"))),
        };
    };
    match tokio::time::timeout_at(deadline.into(), waiter).await {
        Ok(Word::Reply(reply)) => {
            let answer = come_home(lane, *reply, head.method == Method::Head).await;
            lane.hop(id, HopKind::Delivered, "");
            answer
        }
        Ok(Word::NotSent(error)) => Err(not_taken(lane, error)),
        Err(_) => {
            lane.hop(id, HopKind::Expired, "the caller waited no longer");
            Err(config.statuses.fault(Code::MessageTimeout, format!("no answer to message {id} on lane {:?} came in time", config.lane)))
        }
    }
}

/// An answer as the caller is to get it.
pub(crate) async fn come_home(lane: &NearLane, reply: Reply, is_head: bool) -> Result<Answer, Fault> {
    let statuses = &lane.config.statuses;
    if reply.code != 0 {
        return Err(statuses.fault(Code::of(reply.code), format!("message {}: {}", reply.id, reply.detail)));
    }
    let torn = |what: String| statuses.fault(Code::SystemError, format!("the answer to message {}: {what}", reply.id));
    let mut head = ResponseHead::new(reply.status);
    if !(200..=599).contains(&reply.status) {
        return Err(torn(format!("its status {} is none", reply.status)));
    }
    for (name, value) in &reply.fields {
        let known = Known::of(name);
        if known.is_hop_by_hop() || known == Known::ContentLength {
            continue;
        }
        if !is_field(name, value) {
            return Err(torn("a field of it is none".into()));
        }
        head.fields.add(name, value);
    }
    if reply.is_stored {
        head.fields.add(b"x-ferry-stored", b"1");
    }
    let body = match reply.load {
        Load::None => Body::Empty,
        _ if is_head => Body::Empty,
        Load::Here(all) => all.into(),
        Load::Pieces { count, bytes, sha256 } => {
            let spooled =
                lane.node.spool.finish(Want { id: reply.id, count, bytes, sha256 }).await.map_err(|error| torn(error.to_string()))?;
            Body::Stream(Box::new(spooled.body().await.map_err(|error| torn(error.to_string()))?))
        }
    };
    Ok(Answer { head: Box::new(head), body, tunnel: None })
}

/// The bus has not taken a message, or has given it up.
fn not_taken(lane: &NearLane, error: BusError) -> Fault {
    let what = format!("ferry lane {:?}: {error}", lane.config.lane);
    match error.kind {
        BusErrorKind::TooLarge => Fault::caller(FaultKind::TooLarge { head: false }, what),
        _ => lane.config.statuses.fault(Code::MessageError, what).after(Duration::from_secs(1)),
    }
}

/// It is taken, and this is where its answer will be.
fn accepted(location: &str, id: u64) -> Answer {
    let mut head = ResponseHead::new(202);
    head.fields.add(b"content-type", b"application/json");
    head.fields.add(b"location", format!("{location}{id}").as_bytes());
    head.fields.add(b"preference-applied", b"respond-async");
    Answer::full(head, Bytes::from(format!("{{\"id\":\"{id}\",\"location\":\"{location}{id}\"}}\n")))
}

/// Sends a body ahead of its message where it is large, and says what the message is to say of it.
async fn load_of(
    lane: &NearLane,
    seat: &Seat,
    request: &Request,
    partition: u32,
    body: Body,
    mut once: Option<&mut Digest>,
) -> Result<Load, Fault> {
    let (config, node) = (&*lane.config, &*lane.node);
    let also = |chunk: &[u8]| once.iter_mut().for_each(|once| once.update(chunk));
    let send = |number, bytes: Bytes| {
        let (tell, told) = oneshot::channel();
        let piece = |sequence| {
            let (id, deadline_ms) = (request.id, request.deadline_ms);
            let piece = Piece { id, number, sequence, worker: seat.worker, run: seat.run, deadline_ms, bytes };
            Parcel::new(config.topic.clone(), partition, piece.write())
        };
        node.send_numbered(&lane.counts, piece, partition, Box::new(move |said| drop(tell.send(said)))).map(|()| told)
    };
    // How large it may be is the route's to say.
    match gather(body, config.piece_bytes, u64::MAX, also, send).await {
        Ok((load, _)) => Ok(load),
        Err(Cut::Body(fault)) => Err(fault),
        Err(Cut::Bus(error)) => Err(not_taken(lane, error)),
        Err(Cut::TooLarge) => Err(not_taken(lane, BusError::new(BusErrorKind::TooLarge, "the body is too large"))),
    }
}

/// A body that is cut into pieces.
struct Pieces {
    size: usize,
    so_far: BytesMut,
    next: u32,
    bytes: u64,
    digest: Digest,
    open: std::collections::VecDeque<oneshot::Receiver<Result<Place, BusError>>>,
}

impl Pieces {
    fn new(size: usize) -> Pieces {
        Pieces {
            size: size.max(PIECE_MARGIN),
            so_far: BytesMut::new(),
            next: 0,
            bytes: 0,
            digest: Digest::new(&SHA256),
            open: Default::default(),
        }
    }

    fn push(&mut self, chunk: &[u8]) {
        self.so_far.extend_from_slice(chunk);
    }

    fn cut(&mut self, bytes: Bytes) -> (u32, Bytes) {
        self.digest.update(&bytes);
        self.bytes += bytes.len() as u64;
        self.next += 1;
        (self.next - 1, bytes)
    }

    /// A piece that is full; one that may yet be the only one is none.
    fn next_full(&mut self) -> Option<(u32, Bytes)> {
        let full = (self.so_far.len() > self.size).then(|| self.so_far.split_to(self.size).freeze())?;
        Some(self.cut(full))
    }

    /// What is left, at the end.
    fn next_rest(&mut self) -> Option<(u32, Bytes)> {
        let rest = (!self.so_far.is_empty()).then(|| self.so_far.split().freeze())?;
        Some(self.cut(rest))
    }

    /// All of it, where no piece was cut.
    fn only(&mut self) -> Option<Bytes> {
        (self.next == 0).then(|| self.so_far.split().freeze())
    }

    /// A piece is on its way; waits while too many are.
    async fn sent(&mut self, told: oneshot::Receiver<Result<Place, BusError>>) -> Result<(), BusError> {
        self.open.push_back(told);
        while self.open.len() >= PIECES_OPEN_MAX {
            self.first_told().await?;
        }
        Ok(())
    }

    async fn first_told(&mut self) -> Result<(), BusError> {
        let Some(first) = self.open.pop_front() else { return Ok(()) };
        first.await.map_err(|_| BusError::new(BusErrorKind::Closed, "the bus is closed"))?.map(drop)
    }

    /// All are kept.
    async fn finish(mut self) -> Result<Load, BusError> {
        while !self.open.is_empty() {
            self.first_told().await?;
        }
        let sha256 = self.digest.finish().as_ref().try_into().unwrap_or_default();
        Ok(Load::Pieces { count: self.next, bytes: self.bytes, sha256 })
    }
}

/// A body that is here, as one that comes.
struct Whole(Option<Bytes>);

impl BodyStream for Whole {
    fn poll_chunk(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<Option<Bytes>, Fault>> {
        std::task::Poll::Ready(Ok(self.0.take()))
    }
}

/// Does the caller want to go on at once?
fn wants_no_answer(mode: Mode, head: &RequestHead) -> bool {
    match mode {
        Mode::Sync => false,
        Mode::Async => true,
        Mode::Asked => head.fields.all(b"prefer").any(|value| {
            value.split(|byte| matches!(byte, b',' | b';')).any(|word| word.trim_ascii().eq_ignore_ascii_case(b"respond-async"))
        }),
    }
}

/// The trace that a request belongs to (W3C `traceparent`); 0: none.
fn trace_of(head: &RequestHead) -> u128 {
    let id = head.fields.get(b"traceparent").and_then(|value| value.get(3..35)).and_then(|id| std::str::from_utf8(id).ok());
    id.and_then(|id| u128::from_str_radix(id, 16).ok()).unwrap_or(0)
}

/// What it is in order by.
fn order_of(order: &Order, exchange: &Exchange) -> Bytes {
    let head = &exchange.facts.request;
    match order {
        Order::None => Bytes::new(),
        Order::Header(name) => head.fields.get(name.as_bytes()).map(Bytes::copy_from_slice).unwrap_or_default(),
        Order::Path => Bytes::copy_from_slice(head.path_bytes()),
        Order::Segments(count) => {
            let path = head.path_bytes();
            let end = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').nth(*count).map_or(path.len(), |(at, _)| at);
            Bytes::copy_from_slice(path.get(..end).unwrap_or(path))
        }
        Order::Client => Bytes::from(exchange.facts.client.to_string()),
    }
}

/// The caller's key. Longer ones than a line are none.
fn once_key(field: &str, head: &RequestHead) -> Option<Bytes> {
    let value = head.fields.get(field.as_bytes()).filter(|value| !field.is_empty() && !value.is_empty() && value.len() <= 512)?;
    Some(Bytes::copy_from_slice(value))
}

/// What a key belongs to, before its body: the same key with another request is another key.
fn about(head: &RequestHead) -> Digest {
    let mut digest = Digest::new(&SHA256);
    for part in [head.method.as_str().as_bytes(), head.path_bytes(), head.query_bytes().unwrap_or_default()] {
        digest.update(&(part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    digest
}

fn half(digest: Digest) -> [u8; 16] {
    digest.finish().as_ref().get(..16).and_then(|half| half.try_into().ok()).unwrap_or_default()
}

/// Messages of one order, and those of one key, meet in one partition.
fn partition_of(order: &[u8], key: Option<&[u8]>, id: u64, partitions: usize) -> u32 {
    let hash = match (order.is_empty(), key) {
        (false, _) => fnv(order),
        (true, Some(key)) => fnv(key),
        // Ids of one millisecond follow each other: dealt out in turn.
        (true, None) => (id ^ (id >> 12)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32,
    };
    u32::try_from(hash.checked_rem(partitions as u64).unwrap_or(0)).unwrap_or(0)
}

/// FNV-1a with a last mix, so that its low bits are good ones. The same on all nodes and in all versions: it decides on order.
pub(crate) fn fnv(bytes: &[u8]) -> u64 {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let mixed = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

/// The message with the head of the request, without what belongs to its connection.
fn write_request(request: &Request, head: &RequestHead) -> Bytes {
    let target;
    let path = match head.query_bytes() {
        None => head.path_bytes(),
        Some(query) => {
            target = [head.path_bytes(), b"?", query].concat();
            &target
        }
    };
    let pseudo: [(&[u8], &[u8]); 4] = [
        (b":method", head.method.as_str().as_bytes()),
        (b":scheme", head.scheme.as_str().as_bytes()),
        (b":authority", head.authority_bytes()),
        (b":path", path),
    ];
    let goes = |known: &Known| !(known.is_hosts_own() || *known == Known::Expect);
    let count = head.fields.iter().filter(|(known, ..)| goes(known)).count();
    let fields = head.fields.iter().filter(|(known, ..)| goes(known)).map(|(_, name, value)| (name, value));
    request.write_with(pseudo.len() + count, pseudo.into_iter().chain(fields))
}

/// Is it a field that may be sent: a name in lower case, a value without what ends lines (RFC 9110 section 5.5)?
fn is_field(name: &[u8], value: &[u8]) -> bool {
    let is_token = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9') || b"!#$%&'*+-.^_`|~".contains(byte);
    !name.is_empty() && name.iter().all(is_token) && !value.iter().any(|byte| matches!(byte, 0..=8 | 10..=31 | 127))
}

/// Sends, and waits until it is kept or not.
///
/// # Errors
/// See [`Sink::send`].
pub(crate) async fn sent(sink: &dyn Sink, parcel: Parcel) -> Result<Place, BusError> {
    let (tell, told) = oneshot::channel();
    sink.send(parcel, Box::new(move |said| drop(tell.send(said))))?;
    told.await.map_err(|_| BusError::new(BusErrorKind::Closed, "the bus is closed"))?
}

// === far ===

/// A message that is ours to work on: begun, and noted as such. Returns what is to be done with it.
pub(crate) async fn work(far: &Far, (partition, turn, offset): (u32, Turn, u64), taken: &Taken) -> Fate {
    let config = &*far.config;
    let request = &taken.request;
    let taken_hop = Hop::at(HopKind::Taken, &config.node, taken.taken_us);
    let mut reply = Reply {
        id: request.id,
        run: request.sender.run,
        core: request.sender.core,
        place: (partition, offset),
        hops: vec![taken_hop],
        ..Reply::default()
    };
    let hop = |kind| Hop::now(kind, &config.node);

    // Nobody wants it any more.
    if request.deadline_ms <= now_ms() && !taken.was_begun {
        reply.hops.push(hop(HopKind::Expired).because("its deadline was over when it was taken"));
        (reply.code, reply.is_receipt) = (Code::MessageTimeout.number(), true);
        return far.answered((partition, turn), request, reply, None).await;
    }

    // It is known already.
    let key = request.once.as_ref().map(key_of);
    if let Some(key) = &key
        && let Some(stored) = far.known(partition, key, request.deadline_ms).await
    {
        reply.hops.push(hop(HopKind::Duplicate));
        let hops = std::mem::take(&mut reply.hops);
        let reply = Reply { id: reply.id, run: reply.run, core: reply.core, place: reply.place, hops, is_stored: true, ..stored };
        return far.answered((partition, turn), request, reply, None).await;
    }
    // Somebody has begun it who is gone. A service that knows keys again does it once however often it is asked.
    if taken.was_begun && !(config.repeats_unknown && key.is_some()) {
        let why = "a node ended while it called the service, so it is not known whether the call had its effect";
        reply.hops.push(hop(HopKind::Unknown).because(why));
        (reply.code, reply.detail) = (Code::SystemError.number(), format!("outcome unknown: {why}").into());
        if let Err(fate) = far.park((partition, turn, offset), taken, "outcome unknown").await {
            return fate;
        }
        reply.hops.push(hop(HopKind::Parked).because("outcome unknown"));
        return far.answered((partition, turn), request, reply, key).await;
    }

    // Its body.
    let body = match &request.load {
        Load::None => Body::Empty,
        Load::Here(all) => all.clone().into(),
        Load::Pieces { count, bytes, sha256 } => {
            let want = Want { id: request.id, count: *count, bytes: *bytes, sha256: *sha256 };
            let spooled = match far.spool.finish(want).await {
                Ok(spooled) => spooled.body().await.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            match spooled {
                Ok(body) => Body::Stream(Box::new(body)),
                Err(why) => {
                    (reply.code, reply.detail) = (Code::SystemError.number(), why.as_str().into());
                    if let Err(fate) = far.park((partition, turn, offset), taken, &why).await {
                        return fate;
                    }
                    reply.hops.push(hop(HopKind::Parked).because(why));
                    return far.answered((partition, turn), request, reply, None).await;
                }
            }
        }
    };

    // The road of any request.
    reply.hops.push(hop(HopKind::Called));
    let deadline = moment(request.deadline_ms);
    let body_bytes = body.size().unwrap_or(0);
    let once = request.once.as_ref().filter(|_| !config.once_field.is_empty());
    let Walked { answer, fault, record } = {
        let told = once.map(|once| (config.once_field.as_bytes(), &*once.key));
        let own = request.fields.iter().map(|(name, value)| (&**name, &**value));
        // The service is told the key by the one name that it knows.
        let mut fields = own.filter(|(name, _)| told.is_none_or(|(field, _)| *name != field)).chain(told);
        let client = request.client.unwrap_or(std::net::Ipv4Addr::UNSPECIFIED.into());
        far.walk.walk(Arrived { protocol: "ferry", fields: &mut fields, body, client, deadline, patience: config.patience }).await
    };
    let Answer { head, body, .. } = answer;

    // A fault that is not the caller's has a code; one that had no effect may be tried again, if nobody waits.
    if let Some(word) = fault.filter(|word| fault::is_word_of_server(word)) {
        let status = head.status;
        record.finish(head, status, (body_bytes, 0), None);
        if request.is_async && far.may_try_again(word, taken) {
            return Fate::Again(word.into());
        }
        let code = if word.starts_with("timeout") { Code::NetworkTimeout } else { Code::SystemError };
        (reply.code, reply.detail) = (code.number(), word.into());
        if request.is_async && taken.tries > 0 {
            if let Err(fate) = far.park((partition, turn, offset), taken, word).await {
                return fate;
            }
            reply.hops.push(hop(HopKind::Parked).because(format!("{word} after {} tries", taken.tries + 1)));
        }
        return far.answered((partition, turn), request, reply, key).await;
    }

    // The answer, within its message or before it.
    reply.status = head.status;
    let (load, bytes_out) = match far.answer_body(request, body).await {
        Ok((load, bytes)) => (load, bytes),
        Err(why) => {
            let status = head.status;
            record.finish(head, status, (body_bytes, 0), Some("reset"));
            (reply.code, reply.status, reply.detail) = (Code::SystemError.number(), 0, why.into());
            return far.answered((partition, turn), request, reply, key).await;
        }
    };
    reply.load = load;
    reply.hops.push(hop(HopKind::Replied));
    let goes = |known: &Known| !(known.is_hop_by_hop() || *known == Known::ContentLength);
    let fields: Fields = head
        .fields
        .iter()
        .filter(|(known, ..)| goes(known))
        .map(|(_, name, value)| (Bytes::copy_from_slice(name), Bytes::copy_from_slice(value)))
        .collect();
    reply.fields = fields;
    let status = head.status;
    record.finish(head, status, (body_bytes, bytes_out), None);
    far.answered((partition, turn), request, reply, key).await
}

/// What makes a request one with another.
pub(crate) fn key_of(once: &Once) -> crate::dedupe::Key {
    let mut all = Vec::with_capacity(once.key.len() + once.body.len());
    all.extend_from_slice(&once.body);
    all.extend_from_slice(&once.key);
    digest(&SHA256, &all).as_ref().get(..16).and_then(|half| half.try_into().ok()).unwrap_or_default()
}

/// Reads an answer that was kept.
pub(crate) fn stored(value: &Bytes) -> Option<Reply> {
    match Envelope::read(value) {
        Ok(Envelope::Reply(reply)) => Some(reply),
        _ => None,
    }
}

/// Why a body was not sent.
pub(crate) enum Cut {
    /// It broke.
    Body(Fault),
    /// The bus did not take it.
    Bus(BusError),
    /// It has more bytes than may be.
    TooLarge,
}

/// Reads a whole body and says what its message is to say of it: a large one is sent ahead in pieces by `send`, of which a few
/// are on their way at a time. `also` sees all of it.
pub(crate) async fn gather(
    body: Body,
    piece_bytes: usize,
    bytes_max: u64,
    mut also: impl FnMut(&[u8]),
    mut send: impl FnMut(u32, Bytes) -> Result<oneshot::Receiver<Result<Place, BusError>>, BusError>,
) -> Result<(Load, u64), Cut> {
    let mut stream = match body {
        Body::Empty => return Ok((Load::None, 0)),
        Body::Full(all) if all.len() <= piece_bytes => {
            also(&all);
            let bytes = all.len() as u64;
            return Ok((Load::Here(all), bytes));
        }
        Body::Full(all) => Box::new(Whole(Some(all))) as Box<dyn BodyStream>,
        Body::Stream(stream) => stream,
    };
    let (mut pieces, mut bytes) = (Pieces::new(piece_bytes), 0u64);
    while let Some(chunk) = poll_fn(|task| stream.poll_chunk(task)).await.map_err(Cut::Body)? {
        bytes += chunk.len() as u64;
        if bytes > bytes_max {
            return Err(Cut::TooLarge);
        }
        also(&chunk);
        pieces.push(&chunk);
        while let Some((number, piece)) = pieces.next_full() {
            pieces.sent(send(number, piece).map_err(Cut::Bus)?).await.map_err(Cut::Bus)?;
        }
    }
    if let Some(all) = pieces.only() {
        return Ok((if all.is_empty() { Load::None } else { Load::Here(all) }, bytes));
    }
    if let Some((number, piece)) = pieces.next_rest() {
        pieces.sent(send(number, piece).map_err(Cut::Bus)?).await.map_err(Cut::Bus)?;
    }
    Ok((pieces.finish().await.map_err(Cut::Bus)?, bytes))
}

/// A fault that says that nothing has reached a service.
pub(crate) fn had_no_effect(word: &str) -> bool {
    matches!(word, "connect" | "no_endpoint" | "timeout_connect" | "overload")
}

/// The lane's key of a request: those that agree in it are worked on one after the other.
pub(crate) fn lane_key(request: &Request) -> Option<u64> {
    match (&request.once, request.order.is_empty()) {
        (_, false) => Some(fnv(&request.order)),
        (Some(once), true) => Some(fnv(&once.key)),
        (None, true) => None,
    }
}

/// Names a topic, for messages.
pub(crate) fn named(topic: &Arc<str>, partition: u32, offset: u64) -> String {
    format!("{topic}/{partition}@{offset}")
}
