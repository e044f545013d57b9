//! Listeners, checked.

use super::*;

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
    /// Over all cores.
    pub connections_max: u32,
    /// Request line and fields.
    pub head_bytes_max: usize,
    /// Fields in a head.
    pub fields_max: usize,
    /// For a whole head.
    pub head_timeout: Duration,
    /// Between two pieces of a body, and for a client that does not read.
    pub body_timeout: Duration,
    /// Idle between two requests.
    pub keep_alive: Duration,
    /// A tunnel or an event stream in which nothing moves.
    pub quiet: Duration,
}
