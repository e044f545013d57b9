//! Bodies: nothing, a piece that is already here, or a stream with back-pressure.

use crate::fault::Fault;
use crate::head::Fields;
use bytes::Bytes;
use std::fmt;
use std::io;
use std::task::{Context, Poll};

/// The body of a request or an answer.
#[derive(Default)]
pub enum Body {
    /// There is none. (A sized body of 0 bytes is this, too.)
    #[default]
    Empty,
    /// All of it, already read. Only such a body can be sent a second time.
    Full(Bytes),
    /// What comes as it comes.
    Stream(Box<dyn BodyStream>),
}

/// A body that comes in pieces. Whoever does not poll, does not read: that is the back-pressure.
pub trait BodyStream {
    /// The next piece, never empty; `None` at the end of a complete body.
    ///
    /// # Errors
    /// A body that is cut short, malformed or beyond its limit or deadline ends in a fault, never in `None`: a cut
    /// body is not shown as complete. After a fault or `None` it is not polled again.
    fn poll_chunk(&mut self, task: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>>;

    /// Trailer fields (RFC 9110 section 6.5), after the end.
    fn trailers(&mut self) -> Option<Fields> {
        None
    }

    /// Bytes still to come, where the framing says so in advance.
    fn size(&self) -> Option<u64> {
        None
    }
}

impl Body {
    /// Bytes still to come, where that is known in advance.
    pub fn size(&self) -> Option<u64> {
        match self {
            Body::Empty => Some(0),
            Body::Full(all) => Some(all.len() as u64),
            Body::Stream(stream) => stream.size(),
        }
    }

    /// Could it be sent again from the start?
    pub fn is_replayable(&self) -> bool {
        !matches!(self, Body::Stream(_))
    }

    /// Keeps these fields out of its trailers: what a rule has set or removed in the head is not to come behind it.
    pub(crate) fn bar_trailers(&mut self, names: impl Iterator<Item = Box<str>>) {
        if self.size().is_some() {
            return;
        }
        if let Body::Stream(inner) = std::mem::take(self) {
            *self = Body::Stream(Box::new(Barred { inner, names: names.collect() }));
        }
    }
}

struct Barred {
    inner: Box<dyn BodyStream>,
    names: Vec<Box<str>>,
}

impl BodyStream for Barred {
    fn poll_chunk(&mut self, task: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        self.inner.poll_chunk(task)
    }

    fn trailers(&mut self) -> Option<Fields> {
        let mut trailers = self.inner.trailers()?;
        self.names.iter().for_each(|name| trailers.remove(name.as_bytes()));
        Some(trailers)
    }

    fn size(&self) -> Option<u64> {
        self.inner.size()
    }
}

impl From<Bytes> for Body {
    fn from(all: Bytes) -> Body {
        if all.is_empty() { Body::Empty } else { Body::Full(all) }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Body::Empty => f.write_str("Empty"),
            Body::Full(all) => write!(f, "Full({} bytes)", all.len()),
            Body::Stream(stream) => write!(f, "Stream({:?})", stream.size()),
        }
    }
}

/// The upstream's side of a connection that has switched protocols (RFC 9110 section 7.8). Bytes, no messages.
pub trait Tunnel {
    /// Reads what is there; `0` at the end.
    ///
    /// # Errors
    /// As the socket says.
    fn poll_read(&mut self, task: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>>;

    /// Writes some of `from`.
    ///
    /// # Errors
    /// As the socket says.
    fn poll_write(&mut self, task: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>>;

    /// Says that nothing more will be written.
    ///
    /// # Errors
    /// As the socket says.
    fn poll_shutdown(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>>;
}
