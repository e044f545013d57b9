//! One journey: a request, what is known about it, and the time it has left.

use crate::body::{Body, Tunnel};
use crate::fault::Blame;
use crate::head::{Fields, RequestHead, ResponseHead};
use crate::outlet::EndpointRef;
use crate::watched::Watched;
use std::cell::Cell;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Names one exchange: unique and time-ordered. 32 hexadecimal digits, so it can serve as a W3C trace id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExchangeId {
    /// Milliseconds since 1970 in the upper 48 bits, the core's number in the lower 16.
    pub time: u64,
    /// The node's random number in the upper 32 bits, a counter of the core in the lower 32.
    pub serial: u64,
}

impl fmt::Display for ExchangeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.time, self.serial)
    }
}

/// Attributes: what rules say to later rules and to the log, never to the outside. Small, so a list.
#[derive(Clone, Debug, Default)]
pub struct Attrs(Vec<(Box<str>, Box<str>)>);

/// At most this many attributes in one exchange.
pub const ATTRS_MAX: usize = 32;

impl Attrs {
    /// The value of an attribute.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(have, _)| &**have == name).map(|(_, value)| &**value)
    }

    /// Sets an attribute. `false`: there are [`ATTRS_MAX`] others already.
    pub fn set(&mut self, name: &str, value: &str) -> bool {
        if let Some((_, have)) = self.0.iter_mut().find(|(have, _)| &**have == name) {
            *have = value.into();
            return true;
        }
        if self.0.len() >= ATTRS_MAX {
            return false;
        }
        self.0.push((name.into(), value.into()));
        true
    }

    /// All, in the order they were set.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }
}

/// What rules may look at. It owns everything and can cross threads, because a wasm call takes it along and brings it
/// back; see [`Exchange::facts`].
#[derive(Clone, Debug)]
pub struct Facts {
    /// Names the exchange in the log.
    pub id: ExchangeId,
    /// The request's head.
    pub request: RequestHead,
    /// The answer's head, once there is one (only while response filters run).
    pub response: Option<ResponseHead>,
    /// What earlier rules found out.
    pub attrs: Attrs,
    /// The client's address: the socket's, or what a trusted proxy reported.
    pub client: IpAddr,
    /// The route that matched.
    pub route: Arc<str>,
}

impl Default for Facts {
    fn default() -> Facts {
        Facts {
            id: ExchangeId::default(),
            request: RequestHead::default(),
            response: None,
            attrs: Attrs::default(),
            client: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            route: nowhere(),
        }
    }
}

/// The name of "no route yet". Taken and put back several times a request: it is made once for each core.
fn nowhere() -> Arc<str> {
    thread_local! {
        static NOWHERE: Arc<str> = Arc::from("");
    }
    NOWHERE.with(Arc::clone)
}

impl Facts {
    /// Forgets everything, and keeps the memory of the request's head.
    fn clear(&mut self) {
        // In full, so that whoever adds a field decides here, too: what is kept would be seen by the next exchange.
        let Facts { id, request, response, attrs, client, route } = self;
        request.clear();
        attrs.0.clear();
        (*id, *response) = (ExchangeId::default(), None);
        (*client, *route) = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), nowhere());
    }
}

/// One journey along a road, whatever the protocol it came by.
pub struct Exchange {
    /// What rules may look at.
    pub facts: Facts,
    /// The address at the other end of the client's connection: the last proxy's, where there is one.
    pub peer: IpAddr,
    /// The request's body. Taken by whoever sends it.
    pub body: Body,
    /// The whole exchange ends here; every wait on the road is bounded by it.
    pub deadline: Instant,
    /// It is the caller that wants it over by then (`grpc-timeout`), not the route.
    pub callers_time: bool,
    /// Services that say nothing of their own about it may take so long until their answer begins, and between its parts; zero:
    /// as they always may.
    pub patience: Duration,
    /// The upgrade that the client asked for (`websocket`), lower case. Outlets that cannot tunnel ignore it.
    pub upgrade: Option<Box<str>>,
    /// The upstream is told the client's host; else its own address.
    pub keep_host: bool,
    /// What happened, for the record that is written at the end.
    pub trail: Trail,
    /// The request's fields as the client sent them, where somebody asks for them after rules and edits have had their way.
    pub sent: Option<Box<Fields>>,
    /// Memory for the answer's head: an earlier answer's.
    pub worn: Option<Box<ResponseHead>>,
    /// What is noted beyond the trail, where somebody asks for it.
    pub watched: Option<Box<Watched>>,
}

impl Exchange {
    /// An exchange that has not begun: without a request, from nowhere, to end at `deadline`.
    pub fn blank(deadline: Instant) -> Exchange {
        Exchange {
            facts: Facts::default(),
            peer: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            body: Body::Empty,
            deadline,
            callers_time: false,
            patience: Duration::ZERO,
            upgrade: None,
            keep_host: true,
            trail: Trail::default(),
            sent: None,
            worn: None,
            watched: None,
        }
    }

    /// How far its body is, for whoever judges the answer; `None`: it is no stream, and goes out with the head. The same for
    /// all who ask.
    // Most have none, and their road is shorter without it.
    #[cold]
    #[inline(never)]
    pub fn upload(&mut self) -> Option<Rc<Upload>> {
        match self.body {
            Body::Stream(_) => Some(self.trail.upload.get_or_insert_default().clone()),
            Body::Empty | Body::Full(_) => None,
        }
    }

    /// Who is to blame when its time has run out. A caller may give as little as it likes, and that speaks against nobody.
    pub fn whose_time(&self) -> Blame {
        if self.callers_time { Blame::Caller } else { Blame::Upstream }
    }

    /// Makes it blank again, in the memory that its heads have.
    pub fn clear(&mut self) {
        // In full; see `Facts::clear`. The deadline is set by whoever begins the next exchange.
        let Exchange { facts, peer, body, deadline: _, callers_time, patience, upgrade, keep_host, trail, sent, worn, watched } = self;
        facts.clear();
        if let Some(head) = worn {
            head.clear();
        }
        (*peer, *body, *upgrade) = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), Body::Empty, None);
        (*callers_time, *patience) = (false, Duration::ZERO);
        (*keep_host, *trail, *sent, *watched) = (true, Trail::default(), None, None);
    }
}

/// What the road leaves behind for the one record at the end.
#[derive(Clone, Debug, Default)]
pub struct Trail {
    /// The endpoint that answered, or was tried last.
    pub endpoint: Option<EndpointRef>,
    /// Calls made; 0 if a rule answered.
    pub tries: u32,
    /// Microseconds from the start of the last of them to the head of its answer, at least 1; 0: it had none.
    pub head_us: u32,
    /// The fault that was answered or degraded, as a bounded word.
    pub fault: Option<&'static str>,
    /// The plugin that answered in the upstream's place.
    pub answered_by: Option<Arc<str>>,
    /// Where somebody has asked for it; see [`Exchange::upload`].
    pub upload: Option<Rc<Upload>>,
}

/// A streamed body on its way to an endpoint. Until it has gone out in full it is the client, too, that is waited for: who
/// judges an endpoint by its time begins there.
#[derive(Debug, Default)]
pub struct Upload {
    over: Cell<Option<Instant>>,
}

impl Upload {
    /// The last byte has gone out, just now. Told by who sends it.
    pub fn ends(&self, now: Instant) {
        self.over.set(Some(now));
    }

    /// When it has gone out in full; `None`: not yet.
    pub fn over(&self) -> Option<Instant> {
        self.over.get()
    }
}

/// An answer on its way back.
pub struct Answer {
    /// Status and fields, without those that speak about one connection. Boxed: an answer goes through a dozen hands.
    pub head: Box<ResponseHead>,
    /// The body.
    pub body: Body,
    /// The other side, where the status is 101.
    pub tunnel: Option<Box<dyn Tunnel>>,
}

impl Answer {
    /// An answer with a body that is all here.
    pub fn full(head: ResponseHead, body: bytes::Bytes) -> Answer {
        Answer { head: head.into(), body: body.into(), tunnel: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head::Method;

    #[test]
    fn nothing_of_an_exchange_is_left_for_the_next() {
        let now = Instant::now();
        let mut exchange = Exchange::blank(now);
        let facts = &mut exchange.facts;
        facts.id = ExchangeId { time: 1, serial: 2 };
        facts.request = RequestHead::from_text(Method::Post, "a", "/a", Some("a"));
        facts.request.fields.add(b"cookie", b"secret");
        facts.response = Some(ResponseHead::new(200));
        facts.attrs.set("consumer", "a");
        facts.client = [10, 0, 0, 1].into();
        facts.route = "a".into();
        exchange.peer = [10, 0, 0, 2].into();
        exchange.body = Body::Full(bytes::Bytes::from_static(b"secret"));
        exchange.upgrade = Some("websocket".into());
        exchange.keep_host = false;
        exchange.callers_time = true;
        exchange.patience = Duration::from_secs(1);
        exchange.trail =
            Trail { endpoint: None, tries: 3, head_us: 5, fault: Some("x"), answered_by: Some("a".into()), upload: Some(Rc::default()) };
        exchange.sent = Some(exchange.facts.request.fields.clone().into());
        let mut worn = ResponseHead::new(200);
        worn.fields.add(b"set-cookie", b"secret");
        exchange.worn = Some(worn.into());
        exchange.watched = Some(Box::default());

        exchange.clear();
        let blank = Exchange::blank(now);
        assert_eq!(format!("{:?}", exchange.facts), format!("{:?}", blank.facts));
        assert_eq!(format!("{:?}", exchange.trail), format!("{:?}", blank.trail));
        assert_eq!(format!("{:?}", exchange.worn), format!("{:?}", Some(ResponseHead::default())));
        assert_eq!((exchange.peer, exchange.upgrade, exchange.keep_host), (blank.peer, blank.upgrade, blank.keep_host));
        assert_eq!((exchange.callers_time, exchange.patience), (blank.callers_time, blank.patience));
        assert!(matches!(exchange.body, Body::Empty) && exchange.sent.is_none() && exchange.watched.is_none());
    }
}
