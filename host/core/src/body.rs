//! Bodies: nothing, a piece that is already here, or a stream with back-pressure.

use crate::edit::Edit;
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

    /// Keeps the fields that these edits set, add or remove in the head out of the trailers behind it.
    pub fn bar_trailers(&mut self, edits: &[Edit]) {
        // A sized body has no trailers (RFC 9112 section 7.1.2).
        if !matches!(self, Body::Stream(stream) if stream.size().is_none()) {
            return;
        }
        let name = |edit: &Edit| match edit {
            Edit::Set(name, _) | Edit::Add(name, _) | Edit::Remove(name) => Some(name.as_str().into()),
            Edit::Path(_) | Edit::Attr(..) => None,
        };
        let names: Vec<Box<str>> = edits.iter().filter_map(name).collect();
        if !names.is_empty()
            && let Body::Stream(inner) = std::mem::take(self)
        {
            *self = Body::Stream(Box::new(Barred { inner, names }));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_rule_has_set_or_removed_does_not_come_in_a_trailer() {
        struct Ended(Option<Fields>);
        impl BodyStream for Ended {
            fn poll_chunk(&mut self, _: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
                Poll::Ready(Ok(None))
            }
            fn trailers(&mut self) -> Option<Fields> {
                self.0.take()
            }
        }
        let mut sent = Fields::default();
        for name in ["x-consumer", "x_consumer", "x-api-key", "x-checksum"] {
            sent.add(name.as_bytes(), b"v");
        }
        let mut body = Body::Stream(Box::new(Ended(Some(sent))));
        body.bar_trailers(&[Edit::Attr("a".into(), "1".into())]);
        body.bar_trailers(&[Edit::Set("x-consumer".into(), "guest".into())]);
        body.bar_trailers(&[Edit::Remove("x-api-key".into())]);
        let Body::Stream(mut stream) = body else { panic!("it is a stream") };
        let left = stream.trailers().unwrap();
        assert_eq!(left.iter().map(|(_, name, _)| name).collect::<Vec<_>>(), [b"x-checksum"]);
    }
}
