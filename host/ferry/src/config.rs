//! What this room is given: plain values, checked by the gateway.

use crate::codes::Statuses;
use crate::lane::Bounds;
use std::sync::Arc;
use std::time::Duration;

/// What a near side does with requests for one lane.
#[derive(Clone, Debug)]
pub struct NearConfig {
    /// The lane's name in the configuration.
    pub lane: Arc<str>,
    /// The topic of its requests.
    pub topic: Arc<str>,
    /// What its requests are in order by.
    pub order: Order,
    /// Do callers wait?
    pub mode: Mode,
    /// The field that makes two requests one; empty: none does. Lower case.
    pub once_field: Box<str>,
    /// How long an asynchronous request is worth doing.
    pub keep: Duration,
    /// What the place to ask for an answer begins with; the id follows.
    pub location: Box<str>,
    /// Statuses of typed errors.
    pub statuses: Statuses,
    /// Callers that wait, on one core.
    pub waiters_max: usize,
    /// Bodies up to this size travel within their message; larger ones in pieces of this size.
    pub piece_bytes: usize,
    /// Largest answer that is taken.
    pub answer_bytes_max: u64,
}

/// What requests are in order by: those that agree in it are done one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Nothing.
    None,
    /// The value of this field.
    Header(Box<str>),
    /// The path.
    Path,
    /// The first so many segments of the path.
    Segments(usize),
    /// The client's address.
    Client,
}

/// Do callers wait?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// They do, unless they ask not to (`Prefer: respond-async`, RFC 7240 section 4.1).
    Asked,
    /// They always do.
    Sync,
    /// They never do.
    Async,
}

/// A member of a lane's group on the far side.
#[derive(Clone, Debug)]
pub struct FarConfig {
    /// The name of the listener, which routes name.
    pub listener: Arc<str>,
    /// The node's name, in hops.
    pub node: Arc<str>,
    /// The topic of requests.
    pub topic: Arc<str>,
    /// With whom it is shared.
    pub group: Arc<str>,
    /// Where messages go that cannot be done; same partitions as `topic`.
    pub parked_topic: Arc<str>,
    /// Where answers of requests with a key are kept for their like; `None`: they are not.
    pub ledger_topic: Option<Arc<str>>,
    /// What reply lanes begin with: whatever a message says, word of it goes to no other topic.
    pub reply_prefix: Box<str>,
    /// Where receipts go for messages that name no reply lane.
    pub receipts_topic: Option<Arc<str>>,
    /// How long a key is known.
    pub window: Duration,
    /// Keys that are known at a time, for each partition.
    pub keys_max: usize,
    /// How much at a time.
    pub bounds: Bounds,
    /// Tries of a message that nobody waits for, while it has had no effect.
    pub tries_max: u32,
    /// Between two of them at first; doubled each time, up to a minute.
    pub backoff: Duration,
    /// How long services may take that say nothing of their own about it.
    pub patience: Duration,
    /// Services know a key again, so that a request with one is done again when it is not known whether it was done.
    pub repeats_unknown: bool,
    /// The field that the key is told by. Lower case.
    pub once_field: Box<str>,
    /// What is done is written down within this time, when nothing else is to be written.
    pub note_within: Duration,
    /// Pieces of answers.
    pub piece_bytes: usize,
    /// Largest body of a request in pieces.
    pub body_bytes_max: u64,
    /// Largest answer.
    pub answer_bytes_max: u64,
}
