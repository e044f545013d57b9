//! How messages of the ferry are written: the value of a record on a lane. Pure.
//!
//! Four bytes say that it is ours, one which version, one what it is; then varints (LEB128, as in protocol buffers) and texts
//! behind their lengths. Nothing is trusted that is read: lanes are written by others, too. The body comes last, so that it is
//! a slice of what was received and not a copy.
//!
//! A body that is too large for one record travels in [`Piece`]s **before** its message, which says how many there are and what
//! they hash to: it is there when its message is there, and half a body is none.

use bytes::Bytes;
use std::net::IpAddr;

/// What our records begin with.
const MAGIC: &[u8; 4] = b"WFRY";
/// The one version there is.
const VERSION: u8 = 1;
/// Most fields of a head, pseudo-fields among them.
const FIELDS_MAX: u64 = 512;
/// Most hops that a message carries.
const HOPS_MAX: u64 = 64;

/// A record that is not what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Somebody else's.
    #[error("it does not begin as records of a ferry do")]
    Foreign,
    /// Of a version that is not known here.
    #[error("it is written in version {0}, and 1 is the only one known here; hint: upgrade this node first, then the one that writes")]
    Version(u8),
    /// Ours, and damaged: what was to be read.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
}

/// A record of a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Envelope {
    /// On a request lane: do this.
    Request(Request),
    /// On a reply lane: this came of it.
    Reply(Reply),
    /// On both: a part of a body.
    Piece(Piece),
    /// On a reply lane: from here on it is read by this run of its node.
    Hello(Hello),
}

/// A name and a value. Pseudo-fields (`:method`, RFC 9113 section 8.3.1) come first.
pub type Fields = Vec<(Bytes, Bytes)>;

/// A body, or where it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Load {
    /// There is none.
    #[default]
    None,
    /// All of it.
    Here(Bytes),
    /// It went before, in pieces.
    Pieces {
        /// How many.
        count: u32,
        /// Bytes of all of them.
        bytes: u64,
        /// Of all of them, one behind the other.
        sha256: [u8; 32],
    },
}

/// Who sent a request, and where its answer is to go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sender {
    /// The node's name, for people.
    pub node: Box<str>,
    /// Its worker id.
    pub worker: u16,
    /// Which start of it: grows.
    pub run: u64,
    /// The core that waits; nobody else's business.
    pub core: u16,
    /// The topic of its reply lane; empty: nobody reads an answer.
    pub reply_lane: Box<str>,
}

/// What makes two requests one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Once {
    /// The caller's key.
    pub key: Bytes,
    /// What its body hashes to: the first half of its SHA-256.
    pub body: [u8; 16],
}

/// Do this.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Unique, time-ordered.
    pub id: u64,
    /// Who sent it.
    pub sender: Sender,
    /// The sender's count of messages on this partition, since its run began: a gap is a loss.
    pub sequence: u64,
    /// When the near side took it, microseconds since 1970.
    pub accepted_us: u64,
    /// When nobody wants it any more, milliseconds since 1970.
    pub deadline_ms: u64,
    /// Nobody waits: its answer is kept.
    pub is_async: bool,
    /// An operator sent it again.
    pub is_replay: bool,
    /// The near side's route.
    pub route: Box<str>,
    /// The trace that it belongs to; 0: none.
    pub trace: u128,
    /// What its caller is known by.
    pub client: Option<IpAddr>,
    /// What it must be in order with; empty: with nothing.
    pub order: Bytes,
    /// What makes it the same as another.
    pub once: Option<Once>,
    /// The head.
    pub fields: Fields,
    /// The body.
    pub load: Load,
}

/// What came of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// The request's.
    pub id: u64,
    /// The request's sender's.
    pub run: u64,
    /// The request's sender's.
    pub core: u16,
    /// 0: the answer of a service, or of a rule. Else one of `codes`.
    pub code: u16,
    /// It says what has become of the message, and is no answer to anybody: more may come.
    pub is_receipt: bool,
    /// Its status; 0 where there is no answer.
    pub status: u16,
    /// The answer was made for an earlier request with the same key.
    pub is_stored: bool,
    /// In words, for operators and, for errors, callers.
    pub detail: Box<str>,
    /// What has happened to it on the other side.
    pub hops: Vec<Hop>,
    /// Where the request stood.
    pub place: (u32, u64),
    /// The head of the answer.
    pub fields: Fields,
    /// Its body.
    pub load: Load,
}

/// Something that has happened to a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hop {
    /// What: the journal's number for it.
    pub kind: u8,
    /// When, microseconds since 1970.
    pub time_us: u64,
    /// Where.
    pub node: Box<str>,
    /// Why, where there is something to say.
    pub detail: Box<str>,
}

/// A part of a body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Piece {
    /// The message that it is for.
    pub id: u64,
    /// 0 and up.
    pub number: u32,
    /// The sender's count, as in [`Request`]; 0 on reply lanes.
    pub sequence: u64,
    /// Of what sender and which run.
    pub worker: u16,
    /// See [`Sender::run`].
    pub run: u64,
    /// The message itself will not come after this; milliseconds since 1970.
    pub deadline_ms: u64,
    /// The bytes.
    pub bytes: Bytes,
}

/// Who reads a reply lane from here on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// The node's name.
    pub node: Box<str>,
    /// Its address.
    pub address: Box<str>,
    /// Which start of it: whoever finds a larger one on its own lane is not its reader any more.
    pub run: u64,
    /// Different for any two processes.
    pub instance: u64,
}

const REQUEST: u8 = 1;
const REPLY: u8 = 2;
const PIECE: u8 = 3;
const HELLO: u8 = 4;

/// Bytes that a head, an id and the like may take beside a body of pieces or a piece.
pub const PIECE_MARGIN: usize = 1024;

impl Request {
    /// Its written form.
    pub fn write(&self) -> Bytes {
        self.write_with(self.fields.len(), self.fields.iter().map(|(name, value)| (&**name, &**value)))
    }

    /// The same, with these fields in place of its own, so that they need not be copied first.
    pub fn write_with<'a>(&self, count: usize, fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Bytes {
        // A guess that is seldom too small: heads are some hundred bytes.
        let mut out = Out::new(REQUEST, 192 + count * 48 + self.order.len() + load_len(&self.load));
        out.number(self.id);
        out.flags([self.is_async, self.is_replay, self.once.is_some(), self.client.is_some(), self.trace != 0]);
        out.bytes(self.sender.node.as_bytes());
        out.number(self.sender.worker.into());
        out.number(self.sender.run);
        out.number(self.sender.core.into());
        out.bytes(self.sender.reply_lane.as_bytes());
        out.number(self.sequence);
        out.number(self.accepted_us);
        out.number(self.deadline_ms);
        out.bytes(self.route.as_bytes());
        if self.trace != 0 {
            out.0.extend_from_slice(&self.trace.to_be_bytes());
        }
        match self.client {
            Some(IpAddr::V4(v4)) => out.bytes(&v4.octets()),
            Some(IpAddr::V6(v6)) => out.bytes(&v6.octets()),
            None => {}
        }
        out.bytes(&self.order);
        if let Some(once) = &self.once {
            out.bytes(&once.key);
            out.0.extend_from_slice(&once.body);
        }
        out.fields(count, fields);
        out.load(&self.load);
        out.0.into()
    }
}

impl Reply {
    /// Its written form.
    pub fn write(&self) -> Bytes {
        self.write_with(self.fields.len(), self.fields.iter().map(|(name, value)| (&**name, &**value)))
    }

    /// The same, with these fields in place of its own.
    pub fn write_with<'a>(&self, count: usize, fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Bytes {
        let mut out = Out::new(REPLY, 160 + self.hops.len() * 48 + count * 48 + load_len(&self.load));
        out.number(self.id);
        out.flags([self.is_receipt, self.is_stored, false, false, false]);
        out.number(self.run);
        out.number(self.core.into());
        out.number(self.code.into());
        out.number(self.status.into());
        out.bytes(self.detail.as_bytes());
        out.number(self.place.0.into());
        out.number(self.place.1);
        out.number(self.hops.len() as u64);
        for hop in &self.hops {
            out.0.push(hop.kind);
            out.number(hop.time_us);
            out.bytes(hop.node.as_bytes());
            out.bytes(hop.detail.as_bytes());
        }
        out.fields(count, fields);
        out.load(&self.load);
        out.0.into()
    }
}

impl Piece {
    /// Its written form.
    pub fn write(&self) -> Bytes {
        let mut out = Out::new(PIECE, 64 + self.bytes.len());
        out.number(self.id);
        out.number(self.number.into());
        out.number(self.sequence);
        out.number(self.worker.into());
        out.number(self.run);
        out.number(self.deadline_ms);
        out.0.extend_from_slice(&self.bytes);
        out.0.into()
    }
}

impl Hello {
    /// Its written form.
    pub fn write(&self) -> Bytes {
        let mut out = Out::new(HELLO, 96);
        out.bytes(self.node.as_bytes());
        out.bytes(self.address.as_bytes());
        out.number(self.run);
        out.number(self.instance);
        out.0.into()
    }
}

impl Envelope {
    /// Reads a record.
    ///
    /// # Errors
    /// It is not ours, or not whole.
    pub fn read(value: &Bytes) -> Result<Envelope, Unreadable> {
        let mut from = In { all: value, at: 0 };
        if from.take(4, "magic").ok() != Some(MAGIC) {
            return Err(Unreadable::Foreign);
        }
        match from.byte("version")? {
            VERSION => {}
            other => return Err(Unreadable::Version(other)),
        }
        match from.byte("kind")? {
            REQUEST => from.request().map(Envelope::Request),
            REPLY => from.reply().map(Envelope::Reply),
            PIECE => from.piece().map(Envelope::Piece),
            HELLO => from.hello().map(Envelope::Hello),
            _ => Err(Unreadable::Damaged("its kind is not known")),
        }
    }
}

fn load_len(load: &Load) -> usize {
    match load {
        Load::None => 1,
        Load::Here(all) => all.len() + 1,
        Load::Pieces { .. } => 56,
    }
}

struct Out(Vec<u8>);

impl Out {
    fn new(kind: u8, about: usize) -> Out {
        let mut out = Vec::with_capacity(about);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&[VERSION, kind]);
        Out(out)
    }

    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn flags(&mut self, flags: [bool; 5]) {
        self.0.push(flags.iter().enumerate().map(|(bit, set)| u8::from(*set) << bit).sum());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn fields<'a>(&mut self, count: usize, fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) {
        self.number(count as u64);
        for (name, value) in fields {
            self.bytes(name);
            self.bytes(value);
        }
    }

    fn load(&mut self, load: &Load) {
        match load {
            Load::None => self.0.push(0),
            Load::Here(all) => {
                self.0.push(1);
                self.0.extend_from_slice(all);
            }
            Load::Pieces { count, bytes, sha256 } => {
                self.0.push(2);
                self.number((*count).into());
                self.number(*bytes);
                self.0.extend_from_slice(sha256);
            }
        }
    }
}

struct In<'a> {
    all: &'a Bytes,
    at: usize,
}

impl In<'_> {
    fn take(&mut self, count: usize, what: &'static str) -> Result<&[u8], Unreadable> {
        let end = self.at.checked_add(count).ok_or(Unreadable::Damaged(what))?;
        let taken = self.all.get(self.at..end).ok_or(Unreadable::Damaged(what))?;
        self.at = end;
        Ok(taken)
    }

    fn byte(&mut self, what: &'static str) -> Result<u8, Unreadable> {
        self.take(1, what)?.first().copied().ok_or(Unreadable::Damaged(what))
    }

    fn number(&mut self, what: &'static str) -> Result<u64, Unreadable> {
        let (mut number, mut shift) = (0u64, 0u32);
        loop {
            let byte = self.byte(what)?;
            if shift == 63 && byte > 1 {
                return Err(Unreadable::Damaged(what));
            }
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
            shift += 7;
        }
    }

    fn small<T: TryFrom<u64>>(&mut self, what: &'static str) -> Result<T, Unreadable> {
        T::try_from(self.number(what)?).map_err(|_| Unreadable::Damaged(what))
    }

    fn bytes(&mut self, what: &'static str) -> Result<Bytes, Unreadable> {
        let count: usize = self.small(what)?;
        let at = self.at;
        self.take(count, what)?;
        Ok(self.all.slice(at..at + count))
    }

    fn text(&mut self, what: &'static str) -> Result<Box<str>, Unreadable> {
        let count: usize = self.small(what)?;
        let bytes = self.take(count, what)?;
        std::str::from_utf8(bytes).map(Into::into).map_err(|_| Unreadable::Damaged(what))
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Unreadable> {
        self.take(N, what)?.try_into().map_err(|_| Unreadable::Damaged(what))
    }

    fn rest(&mut self) -> Bytes {
        let rest = self.all.slice(self.at.min(self.all.len())..);
        self.at = self.all.len();
        rest
    }

    fn fields(&mut self) -> Result<Fields, Unreadable> {
        let count = self.number("fields")?;
        if count > FIELDS_MAX {
            return Err(Unreadable::Damaged("fields"));
        }
        (0..count).map(|_| Ok((self.bytes("name of a field")?, self.bytes("value of a field")?))).collect()
    }

    fn load(&mut self) -> Result<Load, Unreadable> {
        let load = match self.byte("body")? {
            0 => Load::None,
            1 => return Ok(Load::Here(self.rest())),
            2 => Load::Pieces { count: self.small("pieces")?, bytes: self.number("pieces")?, sha256: self.array("pieces")? },
            _ => return Err(Unreadable::Damaged("body")),
        };
        if self.at == self.all.len() { Ok(load) } else { Err(Unreadable::Damaged("something follows its end")) }
    }

    fn request(&mut self) -> Result<Request, Unreadable> {
        let id = self.number("id")?;
        let flags = self.byte("flags")?;
        let is = |bit: u8| flags >> bit & 1 == 1;
        let node = self.text("node")?;
        let worker = self.small("worker")?;
        let run = self.number("run")?;
        let core = self.small("core")?;
        let sender = Sender { node, worker, run, core, reply_lane: self.text("reply lane")? };
        Ok(Request {
            id,
            sender,
            sequence: self.number("sequence")?,
            accepted_us: self.number("accepted")?,
            deadline_ms: self.number("deadline")?,
            is_async: is(0),
            is_replay: is(1),
            route: self.text("route")?,
            trace: if is(4) { u128::from_be_bytes(self.array("trace")?) } else { 0 },
            client: if is(3) { Some(self.address()?) } else { None },
            order: self.bytes("order")?,
            once: if is(2) { Some(Once { key: self.bytes("key")?, body: self.array("key")? }) } else { None },
            fields: self.fields()?,
            load: self.load()?,
        })
    }

    fn address(&mut self) -> Result<IpAddr, Unreadable> {
        let bytes = self.bytes("client")?;
        let v4 = <[u8; 4]>::try_from(&*bytes).map(IpAddr::from);
        v4.or_else(|_| <[u8; 16]>::try_from(&*bytes).map(IpAddr::from)).map_err(|_| Unreadable::Damaged("client"))
    }

    fn reply(&mut self) -> Result<Reply, Unreadable> {
        let id = self.number("id")?;
        let flags = self.byte("flags")?;
        Ok(Reply {
            id,
            is_receipt: flags & 1 == 1,
            is_stored: flags >> 1 & 1 == 1,
            run: self.number("run")?,
            core: self.small("core")?,
            code: self.small("code")?,
            status: self.small("status")?,
            detail: self.text("detail")?,
            place: (self.small("place")?, self.number("place")?),
            hops: self.hops()?,
            fields: self.fields()?,
            load: self.load()?,
        })
    }

    fn hops(&mut self) -> Result<Vec<Hop>, Unreadable> {
        let count = self.number("hops")?;
        if count > HOPS_MAX {
            return Err(Unreadable::Damaged("hops"));
        }
        let hop = |from: &mut Self| {
            Ok(Hop { kind: from.byte("hop")?, time_us: from.number("hop")?, node: from.text("hop")?, detail: from.text("hop")? })
        };
        (0..count).map(|_| hop(self)).collect()
    }

    fn piece(&mut self) -> Result<Piece, Unreadable> {
        Ok(Piece {
            id: self.number("id")?,
            number: self.small("number")?,
            sequence: self.number("sequence")?,
            worker: self.small("worker")?,
            run: self.number("run")?,
            deadline_ms: self.number("deadline")?,
            bytes: self.rest(),
        })
    }

    fn hello(&mut self) -> Result<Hello, Unreadable> {
        Ok(Hello { node: self.text("node")?, address: self.text("address")?, run: self.number("run")?, instance: self.number("instance")? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;

    fn some(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    fn samples() -> Vec<(Bytes, Envelope)> {
        let fields = vec![(some(":method"), some("POST")), (some(":path"), some("/orders?a=1")), (some("x-a"), some(""))];
        let request = Request {
            id: 1 << 60,
            sender: Sender { node: "near-1".into(), worker: 1023, run: 7, core: 3, reply_lane: "wharf-ferry-reply-1023".into() },
            sequence: 300,
            accepted_us: 1_700_000_000_000_000,
            deadline_ms: u64::MAX,
            is_async: true,
            is_replay: false,
            route: "orders".into(),
            trace: u128::MAX - 5,
            client: Some([10, 0, 0, 9].into()),
            order: some("customer-9"),
            once: Some(Once { key: some("k"), body: [9; 16] }),
            fields: fields.clone(),
            load: Load::Here(some("body")),
        };
        let plain = Request { load: Load::Pieces { count: 100, bytes: 1 << 30, sha256: [3; 32] }, ..Request::default() };
        let hop = Hop { kind: 2, time_us: 5, node: "far-1".into(), detail: "".into() };
        let reply = Reply {
            id: 5,
            run: 2,
            core: 1,
            status: 200,
            hops: vec![hop.clone(), Hop { detail: "why".into(), ..hop }],
            place: (5, 1 << 40),
            fields,
            load: Load::Here(some("answer")),
            ..Reply::default()
        };
        let error = Reply { code: 5000, is_stored: true, detail: "no".into(), ..Reply::default() };
        let piece = Piece { id: 9, number: 70_000, sequence: 4, worker: 3, run: 2, deadline_ms: 77, bytes: some("piece") };
        let hello = Hello { node: "near-1".into(), address: "10.0.0.1:8080".into(), run: 3, instance: 99 };
        vec![
            (request.write(), Envelope::Request(request)),
            (plain.write(), Envelope::Request(plain)),
            (reply.write(), Envelope::Reply(reply)),
            (error.write(), Envelope::Reply(error)),
            (piece.write(), Envelope::Piece(piece)),
            (hello.write(), Envelope::Hello(hello)),
        ]
    }

    #[test]
    fn what_is_written_is_read_again() {
        for (written, meant) in samples() {
            assert_eq!(Envelope::read(&written), Ok(meant));
        }
    }

    #[test]
    fn a_record_that_is_cut_is_damaged_or_has_a_shorter_body_but_is_never_taken_for_another() {
        for (written, meant) in samples() {
            for end in 0..written.len() {
                match (Envelope::read(&written.slice(..end)), &meant) {
                    (Err(_), _) => {}
                    // Bodies reach to the end: the bus keeps a record whole or not at all.
                    (Ok(Envelope::Request(read)), Envelope::Request(meant)) => assert_eq!(read.fields, meant.fields),
                    (Ok(Envelope::Reply(read)), Envelope::Reply(meant)) => assert_eq!(read.hops, meant.hops),
                    (Ok(Envelope::Piece(read)), Envelope::Piece(meant)) => assert_eq!(read.number, meant.number),
                    (Ok(read), meant) => panic!("{read:?} of {meant:?}"),
                }
            }
        }
    }

    #[test]
    fn records_of_others_and_of_later_versions_are_told_apart() {
        for foreign in ["", "{\"key\":\"1\"}", "WFR", "WFRX\u{1}\u{1}"] {
            assert_eq!(Envelope::read(&Bytes::from(foreign)), Err(Unreadable::Foreign), "{foreign:?}");
        }
        assert_eq!(Envelope::read(&some("WFRY\u{2}\u{1}")), Err(Unreadable::Version(2)));
        assert_eq!(Envelope::read(&some("WFRY\u{1}\u{9}")), Err(Unreadable::Damaged("its kind is not known")));
    }

    #[test]
    fn no_bytes_are_too_strange_to_be_read_or_refused() {
        for seed in 0..20_000 {
            let mut chance = Chance::new(seed);
            let samples = samples();
            let (written, _) = &samples[chance.below(samples.len() as u64) as usize];
            let mut bytes = written.to_vec();
            for _ in 0..=chance.below(4) {
                let at = chance.below(bytes.len() as u64) as usize;
                bytes[at] = chance.draw() as u8;
            }
            // What can be read is written as it was read.
            match Envelope::read(&bytes.into()) {
                Ok(Envelope::Request(read)) => assert_eq!(Envelope::read(&read.write()), Ok(Envelope::Request(read)), "seed {seed}"),
                Ok(Envelope::Reply(read)) => assert_eq!(Envelope::read(&read.write()), Ok(Envelope::Reply(read)), "seed {seed}"),
                _ => {}
            }
        }
    }
}
