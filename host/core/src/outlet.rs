//! Outlets: who gets an answer, and from which endpoint.

use crate::exchange::{Answer, Exchange};
use crate::fault::Fault;
use crate::seldom::Seldom;
use crate::{BoxFuture, LocalBoxFuture};
use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Get me an answer from this target. Core-local.
pub trait Outlet {
    /// Chooses, sends, retries within the exchange's deadline.
    ///
    /// # Errors
    /// The last fault when no try succeeded. The body may be gone by then.
    ///
    /// # Cancel safety
    /// Dropping the future abandons the call: its connection is closed, nothing is retried.
    fn call<'a>(&'a self, exchange: &'a mut Exchange, wish: &'a Wish) -> LocalBoxFuture<'a, Result<Answer, Fault>>;
}

/// What a route, or a route plugin, wishes of the outlet.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// Only endpoints with this tag.
    pub subset: Option<Box<str>>,
}

/// All outlets by name, as one core knows them.
pub type Outlets = HashMap<Box<str>, Rc<dyn Outlet>>;

/// Send this to that endpoint. Core-local.
///
/// An outlet knows its protocol when it is compiled: a box for each try would cost as much as choosing the endpoint.
pub trait Protocol {
    /// Makes one try over a kept or a new connection, and returns when the head of the answer is there. The body of the
    /// exchange is taken unless it is replayable.
    ///
    /// # Errors
    /// The fault says with [`Fault::retry`] whether a byte may have reached the endpoint.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    fn send<'a>(
        &'a self,
        endpoint: &'a EndpointRef,
        exchange: &'a mut Exchange,
        limits: &'a CallLimits,
    ) -> impl Future<Output = Result<Answer, Fault>> + 'a;

    /// The same, for calls off the plain road: hedges, and tries after the first. A protocol may have it compiled apart,
    /// so that they do not take from the plain road that it is one piece.
    ///
    /// # Errors
    /// As [`Protocol::send`].
    ///
    /// # Cancel safety
    /// As [`Protocol::send`].
    fn send_apart<'a>(
        &'a self,
        endpoint: &'a EndpointRef,
        exchange: &'a mut Exchange,
        limits: &'a CallLimits,
    ) -> LocalBoxFuture<'a, Result<Answer, Fault>> {
        Box::pin(self.send(endpoint, exchange, limits))
    }
}

/// Is this endpoint well? House-wide; asked on the control runtime, never for a request.
pub trait Probe: Send + Sync {
    /// Asks once. It sets no time-out of its own: whoever asks bounds it by dropping the future.
    ///
    /// # Errors
    /// What is wrong, for operators: short, one line, without the endpoint's name.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    fn ask<'a>(&'a self, endpoint: &'a EndpointRef) -> BoxFuture<'a, Result<(), String>>;

    /// What is asked, for operators, such as `GET /healthz`. Two probes with the same text ask the same.
    fn what(&self) -> &str;
}

/// The bounds of one call.
#[derive(Clone, Debug)]
pub struct CallLimits {
    /// To open a connection.
    pub connect: Duration,
    /// From the request sent to the head of the answer.
    pub head: Duration,
    /// Between two pieces of the answer's body.
    pub body: Duration,
    /// Nobody has set these two, so that an exchange may bring more patience along ([`Exchange::patience`]).
    pub waits_are_defaults: bool,
    /// Idle connections are kept this long.
    pub idle: Duration,
    /// A connection takes no new calls when it is as old as this, or up to a tenth less; [`Duration::MAX`]: at any age.
    pub lifetime: Duration,
    /// Connections to one endpoint over all cores, open at once.
    pub connections_max: u32,
    /// Bytes of the answer's head.
    pub head_bytes_max: usize,
    /// Fields of the answer's head.
    pub fields_max: usize,
    /// What endpoints are called by where the client's host is not passed on; `None`: each by its own address.
    pub host: Option<Arc<str>>,
    /// It is so for every call, also of routes that would pass the client's host on.
    pub host_always: bool,
}

impl CallLimits {
    /// How long a wait of this exchange may be: `wait`, or what it brings along.
    #[inline]
    pub fn wait(&self, wait: Duration, exchange: &Exchange) -> Duration {
        if self.waits_are_defaults { wait.max(exchange.patience) } else { wait }
    }

    /// The host that a call of this endpoint names; `None`: the client's.
    #[inline]
    pub fn host<'a>(&'a self, endpoint: &'a Endpoint, keep: bool) -> Option<&'a str> {
        (!keep || self.host_always).then(|| self.host.as_deref().unwrap_or(&endpoint.text))
    }
}

impl Default for CallLimits {
    fn default() -> CallLimits {
        CallLimits {
            connect: Duration::from_secs(2),
            head: Duration::from_secs(5),
            body: Duration::from_secs(5),
            waits_are_defaults: true,
            idle: Duration::from_secs(30),
            lifetime: Duration::from_secs(3600),
            connections_max: 1000,
            head_bytes_max: 32 * 1024,
            fields_max: 100,
            host: None,
            host_always: false,
        }
    }
}

/// One instance of a service, shared by all cores. The counts are over all cores, because a limit that holds for each
/// core only is no limit.
#[derive(Debug)]
pub struct Endpoint {
    /// Unique in this process, never used twice: what connection pools are keyed by.
    pub id: u64,
    /// The service it belongs to.
    pub service: Arc<str>,
    /// Where it listens.
    pub address: SocketAddr,
    /// The address as text, for logs: written once and not for each request.
    pub text: Box<str>,
    /// 1 to 1,000,000; 0 takes no new calls.
    pub weight: u32,
    /// Where it stands.
    pub zone: Option<Box<str>>,
    /// What it is good for: `gray`, `v2`.
    pub tags: Box<[Box<str>]>,
    /// Calls in flight, over all cores. Shared with [`Endpoint::relisted`] ones, as are the next four.
    pub in_flight: Arc<AtomicU32>,
    /// Connections open, over all cores.
    pub connections: Arc<AtomicU32>,
    /// Of these, those that are held by a body which its client still sends.
    pub uploads: Arc<AtomicU32>,
    /// It has left its directory: connections to it are not kept.
    pub gone: Arc<AtomicBool>,
    /// TLS handshakes that failed: when that is told of.
    pub handshakes: Arc<Seldom>,
}

/// How endpoints are held.
pub type EndpointRef = Arc<Endpoint>;

static NEXT_ENDPOINT: AtomicU64 = AtomicU64::new(1);

impl Endpoint {
    /// A new endpoint with an id of its own.
    pub fn new(service: Arc<str>, address: SocketAddr, weight: u32, zone: Option<Box<str>>, tags: Box<[Box<str>]>) -> Endpoint {
        Endpoint {
            id: NEXT_ENDPOINT.fetch_add(1, Ordering::Relaxed),
            service,
            address,
            text: address.to_string().into(),
            weight,
            zone,
            tags,
            in_flight: Arc::default(),
            connections: Arc::default(),
            uploads: Arc::default(),
            gone: Arc::default(),
            handshakes: Arc::default(),
        }
    }

    /// The same endpoint listed anew: id, counts and kept connections stay, the rest is replaced.
    pub fn relisted(&self, weight: u32, zone: Option<Box<str>>, tags: Box<[Box<str>]>) -> Endpoint {
        Endpoint {
            id: self.id,
            service: self.service.clone(),
            address: self.address,
            text: self.text.clone(),
            weight,
            zone,
            tags,
            in_flight: self.in_flight.clone(),
            connections: self.connections.clone(),
            uploads: self.uploads.clone(),
            gone: self.gone.clone(),
            handshakes: self.handshakes.clone(),
        }
    }

    /// Has it this tag?
    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags.iter().any(|have| &**have == tag)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.address)
    }
}
