//! The bus: messages in topics, topics in ordered partitions. House-wide.
//!
//! A [`Bus`] is one connection to one system that keeps messages. It hands out a [`Sink`] to send by, a [`Source`] for a
//! member of a group that shares a topic, a [`Reader`] for whoever reads one partition alone, and [`Books`] for operators.
//! What a member has done with its messages is a [`Standing`] for each partition, which the bus keeps for the next member.
//!
//! What every implementation promises is written here and checked by one suite (`tests/contract`).

mod standing;

pub use standing::{Mark, NotAStanding, STANDING_BYTES_MAX, STANDING_SPAN_MAX, Standing};

use crate::BoxFuture;
use bytes::Bytes;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Fields beside a message's value. Few; names are short lower-case ASCII.
pub type BusFields = Vec<(Arc<str>, Bytes)>;

/// A message to be sent.
#[derive(Clone, Debug)]
pub struct Parcel {
    /// Where to.
    pub topic: Arc<str>,
    /// Which partition; it must exist.
    pub partition: u32,
    /// What messages of one order have in common. Kept with the message; the partition is the sender's choice.
    pub key: Option<Bytes>,
    /// What it says.
    pub value: Bytes,
    /// Beside it.
    pub fields: BusFields,
}

impl Parcel {
    /// A parcel without key and fields.
    pub fn new(topic: Arc<str>, partition: u32, value: Bytes) -> Parcel {
        Parcel { topic, partition, key: None, value, fields: BusFields::new() }
    }
}

/// Where a message stands in its topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// 0 and up.
    pub partition: u32,
    /// Grows within the partition, not always by one.
    pub offset: u64,
}

/// A message as it was kept.
#[derive(Clone, Debug)]
pub struct Message {
    /// Where it stands.
    pub place: Place,
    /// When it was sent or kept, milliseconds since 1970, as the bus says it.
    pub time_ms: u64,
    /// As it was sent.
    pub key: Option<Bytes>,
    /// As it was sent.
    pub value: Bytes,
    /// As they were sent.
    pub fields: BusFields,
    /// Somebody may have begun it before, and the bus has no standing that says so (see [`Standing`]): only for a bus that
    /// counts deliveries and keeps no marks. Elsewhere `false`.
    pub begun: bool,
}

/// What a member of a group is told.
#[derive(Clone, Debug)]
pub enum Event {
    /// This partition is the member's from now on. Its messages come from `standing.next` on.
    Given {
        /// Which.
        partition: u32,
        /// What earlier members have left behind.
        standing: Standing,
    },
    /// Another member is to have it. Messages of it come no more; what is begun may be ended and noted. It is the member's
    /// until it says [`Source::release`], or the bus is tired of waiting and says `Lost`. Until then the member's other partitions
    /// may be silent, so a release is not to be put off lightly.
    Asked {
        /// Which.
        partition: u32,
    },
    /// It is another's, perhaps already for a while. Nothing of it may be begun or noted any more.
    Lost {
        /// Which.
        partition: u32,
    },
    /// The next message of a partition that is the member's. Never before its `Given`, never after its `Asked` or `Lost`,
    /// in the order of offsets.
    Message(Message),
}

/// Takes messages. Cheap to clone behind its `Arc`; used from any thread.
pub trait Sink: Send + Sync {
    /// Takes a message to be sent, and never waits. Messages of one sink to one partition are kept in the order in which
    /// they were taken. Each is kept once, however often the sink has to try; if the process ends before `told` is called,
    /// it may be kept or not.
    ///
    /// `told` is called once, from a thread of the bus and perhaps before this returns: with the message's place when it
    /// is kept as safely as the bus keeps anything (a cluster: by all in-sync replicas; one machine: after the sync), or with an
    /// error once the sink has given up ([`BusErrorKind::Unreachable`] after the bus's time to send: then it may still
    /// have been kept). It must not wait.
    ///
    /// # Errors
    /// It was not taken, `told` is dropped uncalled: [`BusErrorKind::Full`], [`BusErrorKind::TooLarge`],
    /// [`BusErrorKind::Closed`].
    fn send(&self, parcel: Parcel, told: Told) -> Result<(), BusError>;

    /// The largest parcel that it takes: bytes of key, value and fields together.
    fn parcel_bytes_max(&self) -> usize;

    /// Messages and bytes that were taken and not yet told of.
    fn waiting(&self) -> (u64, u64);

    /// Resolves when everything that was taken before has been told of, at the latest after `within`.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    fn flush(&self, within: Duration) -> BoxFuture<'_, ()>;
}

/// Is told what became of a message.
pub type Told = Box<dyn FnOnce(Result<Place, BusError>) + Send>;

/// Next messages for a member of a group; what was done with them. One reader at a time calls `next`; the rest may be called
/// from anywhere meanwhile.
pub trait Source: Send + Sync {
    /// What there is to be told: at least one event, at most about `max` messages among them. Waits while there is nothing.
    /// While a bus is out of reach it waits, too, and says so in the log once; it comes back by itself.
    ///
    /// It has to be asked again and again, also when no more messages are wanted ([`Source::pause`] is for that): who does
    /// not ask for several minutes is taken for dead.
    ///
    /// # Errors
    /// [`BusErrorKind::Closed`], and what asking again would not mend ([`BusErrorKind::Refused`], [`BusErrorKind::NoTopic`]).
    ///
    /// # Cancel safety
    /// No event is lost.
    fn next(&self, max: usize) -> BoxFuture<'_, Result<Vec<Event>, BusError>>;

    /// Writes down how the member stands with these partitions, in place of what was written before. When it resolves
    /// with `Ok`, it is durable, **and the partitions were this member's at some moment after it had become so**: whoever is
    /// given one of them later finds it. So a member that has noted a message as begun is the only one to begin it.
    ///
    /// One at a time: calls wait for each other in their order.
    ///
    /// # Errors
    /// [`BusErrorKind::NotYours`]: at least one of the partitions is another's (`Lost` follows, or came). None of them is
    /// to be taken as written. [`BusErrorKind::Unreachable`]: it may be written or not; the same may be tried again.
    ///
    /// # Cancel safety
    /// Dropping it leaves open whether it was written.
    fn note(&self, standings: Vec<(u32, Standing)>) -> BoxFuture<'_, Result<(), BusError>>;

    /// Stops or goes on handing out messages of a partition, at once for what has not been fetched by `next`: a few that are
    /// on their way may still come. It stays the member's.
    fn pause(&self, partition: u32, paused: bool);

    /// Goes on with another message of a partition: the next that comes is the first at or after `offset`.
    fn seek(&self, partition: u32, offset: u64);

    /// The answer to [`Event::Asked`]: another may have it now.
    fn release(&self, partition: u32);

    /// Leaves the group: others are given its partitions at once. What is to be noted must be noted before.
    fn leave(&self) -> BoxFuture<'_, ()>;
}

/// Next messages of one partition, for whoever reads it alone.
pub trait Reader: Send + Sync {
    /// The next messages: at least one, at most about `max`. Waits as [`Source::next`] does.
    ///
    /// # Errors
    /// As [`Source::next`].
    ///
    /// # Cancel safety
    /// No message is lost.
    fn next(&self, max: usize) -> BoxFuture<'_, Result<Vec<Message>, BusError>>;

    /// Goes on elsewhere: the next message that comes is the first from there.
    fn seek(&self, from: ReadFrom);
}

/// Where a reader begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFrom {
    /// With the oldest message that is kept.
    Start,
    /// With the first message that is kept after the reader was made.
    End,
    /// With the first message at or after this offset; with the oldest if that is gone.
    Offset(u64),
    /// With the first message that was kept at or after this time, milliseconds since 1970.
    Time(u64),
}

/// A member of a group that shares a topic.
#[derive(Clone, Debug)]
pub struct Membership {
    /// What it reads.
    pub topic: Arc<str>,
    /// With whom it shares. Each partition is one member's at a time.
    pub group: Arc<str>,
    /// How it is called in what the bus shows to operators.
    pub member: Arc<str>,
    /// A member of which the bus has heard nothing for so long is taken for dead. As near as the bus can.
    pub dead_after: Duration,
    /// How long `Asked` partitions are waited for. As near as the bus can.
    pub release_within: Duration,
}

/// What a topic is to be, where it has to be made.
#[derive(Clone, Debug)]
pub struct TopicWish {
    /// Its name.
    pub name: Arc<str>,
    /// At least so many partitions. A topic that has fewer is not changed: its messages would change their order.
    pub partitions: u32,
    /// How long messages are kept; `None`: as the bus does.
    pub keep: Option<Duration>,
}

/// One connection to one system that keeps messages.
pub trait Bus: Send + Sync {
    /// The way to send: the same for everyone.
    fn sink(&self) -> Arc<dyn Sink>;

    /// Makes a topic if there is none and the bus may; says how many partitions it has.
    ///
    /// # Errors
    /// [`BusErrorKind::NoTopic`]: there is none and it may not be made, or it has fewer partitions than wished (the message
    /// says which). [`BusErrorKind::Unreachable`], [`BusErrorKind::Refused`].
    ///
    /// # Cancel safety
    /// Dropping it leaves open whether it was made.
    fn provide<'a>(&'a self, wish: &'a TopicWish) -> BoxFuture<'a, Result<u32, BusError>>;

    /// Joins a group. A group that has never noted anything about a partition begins with its oldest message. Returns at once;
    /// what the bus has to say against it, [`Source::next`] says.
    ///
    /// # Errors
    /// What the bus can tell without asking anybody.
    fn join(&self, membership: &Membership) -> Result<Arc<dyn Source>, BusError>;

    /// Reads one partition without a group.
    ///
    /// # Errors
    /// As [`Bus::join`].
    fn read(&self, topic: &str, partition: u32, from: ReadFrom) -> Result<Box<dyn Reader>, BusError>;

    /// What operators look at and change.
    fn books(&self) -> Arc<dyn Books>;
}

/// What a topic holds, and how far a group is with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Which partition.
    pub partition: u32,
    /// Offset of the oldest message that is kept; equal to `end` if there is none.
    pub first: u64,
    /// Offset that the next message will have.
    pub end: u64,
    /// How the group stands; `None`: it has noted nothing, or no group was asked about.
    pub standing: Option<Standing>,
}

/// What operators look at and change.
pub trait Books: Send + Sync {
    /// All partitions of a topic, in order.
    ///
    /// # Errors
    /// [`BusErrorKind::NoTopic`], [`BusErrorKind::Unreachable`], [`BusErrorKind::Refused`].
    fn extents<'a>(&'a self, topic: &'a str, group: Option<&'a str>) -> BoxFuture<'a, Result<Vec<Extent>, BusError>>;

    /// For each partition, in order, the offset of the first message that was kept at or after this time; the end where
    /// there is none.
    ///
    /// # Errors
    /// As [`Books::extents`].
    fn offsets_at<'a>(&'a self, topic: &'a str, time_ms: u64) -> BoxFuture<'a, Result<Vec<u64>, BusError>>;

    /// Moves a group that has no member at present. (Members are moved by themselves: [`Source::seek`] and
    /// [`Source::note`].)
    ///
    /// # Errors
    /// [`BusErrorKind::NotYours`]: the group has members. Else as [`Books::extents`].
    fn move_group<'a>(&'a self, topic: &'a str, group: &'a str, to: Vec<(u32, Standing)>) -> BoxFuture<'a, Result<(), BusError>>;
}

/// What went wrong on a bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusErrorKind {
    /// As much waits to be sent as may. Later it may be taken.
    Full,
    /// Larger than the bus keeps. Smaller pieces would be taken.
    TooLarge,
    /// No such topic or partition.
    NoTopic,
    /// The bus did not answer in time. The same may be tried again.
    Unreachable,
    /// The bus says no: credentials, rights, versions. Somebody has to change something.
    Refused,
    /// Another member has the partition.
    NotYours,
    /// It cannot be kept: a full or failing disk.
    Storage,
    /// Our end is closed.
    Closed,
}

impl BusErrorKind {
    /// A bounded word for metrics and records.
    pub fn word(self) -> &'static str {
        match self {
            BusErrorKind::Full => "full",
            BusErrorKind::TooLarge => "too_large",
            BusErrorKind::NoTopic => "no_topic",
            BusErrorKind::Unreachable => "unreachable",
            BusErrorKind::Refused => "refused",
            BusErrorKind::NotYours => "not_yours",
            BusErrorKind::Storage => "storage",
            BusErrorKind::Closed => "closed",
        }
    }
}

/// One thing that went wrong on a bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BusError {
    /// What kind.
    pub kind: BusErrorKind,
    /// Names the object, the limit and the remedy, for operators.
    pub message: Box<str>,
}

impl BusError {
    /// An error.
    pub fn new(kind: BusErrorKind, message: impl Into<Box<str>>) -> BusError {
        BusError { kind, message: message.into() }
    }
}

impl fmt::Display for BusError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for BusError {}
