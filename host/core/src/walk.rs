//! Walking the whole road without a socket: a listener that is no HTTP connection hands its requests in here.
//!
//! Routes, rules, native steps, upstreams and the record are those of any request. Core-local.

use crate::LocalBoxFuture;
use crate::body::Body;
use crate::exchange::Answer;
use crate::head::ResponseHead;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// A request that came by no connection of HTTP.
pub struct Arrived<'a> {
    /// How it came, for the record: `ferry`.
    pub protocol: &'static str,
    /// Names and values, pseudo-fields first (RFC 9113 section 8.3.1). Nothing of it is trusted: it is held to what a
    /// client's HTTP/2 is held to.
    pub fields: &'a mut dyn Iterator<Item = (&'a [u8], &'a [u8])>,
    /// Its body.
    pub body: Body,
    /// Whose request it is.
    pub client: IpAddr,
    /// When nobody waits for it any more.
    pub deadline: Instant,
    /// Services that say nothing of their own about it may take so long until their answer begins, and between its parts.
    pub patience: Duration,
}

/// What came of it.
pub struct Walked {
    /// The answer. Faults are answers by then, as HTTP says them.
    pub answer: Answer,
    /// The fault whose answer it is, as a bounded word. `None`: it is a service's, or a rule's.
    pub fault: Option<&'static str>,
    /// Writes the record, once all is over.
    pub record: Box<dyn Ending>,
}

/// What is left to do when an answer has been handed on in full, or not.
pub trait Ending {
    /// Writes the record. `head` is the answer's, given back; `status` 0: nobody got it.
    fn finish(self: Box<Self>, head: Box<ResponseHead>, status: u16, bytes: (u64, u64), fault: Option<&'static str>);
}

/// The road, from its beginning.
pub trait Walk {
    /// Gets the answer.
    ///
    /// # Cancel safety
    /// Dropping the future ends the exchange unanswered and unrecorded; upstream connections are closed.
    fn walk<'a>(&'a self, arrived: Arrived<'a>) -> LocalBoxFuture<'a, Walked>;
}
