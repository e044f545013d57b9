//! Listeners, checked.

use super::*;
use wharf_http::house::Http2Limits;
use wharf_http::tls::server::{Offer, Server};

/// A bound address and its limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Unique.
    pub name: Arc<str>,
    /// What is bound; port 0 is any free one.
    pub bind: SocketAddr,
    /// Host and port to tell others; `None`: what was bound (see [`advertised`]).
    pub advertise: Option<Box<str>>,
    /// Networks whose forwarded fields are believed.
    pub trusted_proxies: Vec<Cidr>,
    /// Peers that speak the PROXY protocol.
    pub proxied_by: Vec<Cidr>,
    /// TLS, if it is on.
    pub tls: Option<Tls>,
    /// HTTP/2, if it is on.
    pub http2: Option<Http2Limits>,
    /// Over all cores.
    pub connections_max: u32,
    /// From one source, over all cores.
    pub connections_per_source_max: Option<u32>,
    /// Request line and fields.
    pub head_bytes_max: usize,
    /// Fields in a head.
    pub fields_max: usize,
    /// Slowest client, bytes a second; 0: any.
    pub body_rate_min: u64,
    /// For the first byte of a connection.
    pub first_timeout: Duration,
    /// For a whole body.
    pub upload_timeout: Duration,
    /// For a whole head.
    pub head_timeout: Duration,
    /// Between two pieces of a body, and for a client that does not read.
    pub body_timeout: Duration,
    /// Idle between two requests.
    pub keep_alive: Duration,
    /// A tunnel or an event stream in which nothing moves.
    pub quiet: Duration,
}

/// TLS on a listener: what was read, and what was made of it. Made while checking, so that what is wrong is a mistake of the
/// configuration.
#[derive(Clone, Debug)]
pub struct Tls {
    /// What is offered.
    pub offer: Offer,
    /// The same, ready to serve.
    pub server: Arc<Server>,
}

impl PartialEq for Tls {
    fn eq(&self, other: &Tls) -> bool {
        self.offer == other.offer
    }
}

impl Eq for Tls {}
