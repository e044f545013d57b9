//! The strict HTTP/1.1 codec: bytes in, events out. No I/O, no clock, nothing that can wait.
//!
//! Heads are split by httparse, ordinary ones by a shorter way (`split`); what they mean (RFC 9110, RFC 9112) is decided
//! here. What is ambiguous is refused, never
//! repaired: two readers of the same bytes must not disagree about where a message ends. What is read is always written
//! anew by [`write`], so an upstream never sees framing that a client made.
//!
//! - [`request`]: a client's head
//! - [`response`]: an upstream's head
//! - [`body`]: what follows a head
//! - [`write`](mod@write): heads and chunks on their way out
//!
//! Nothing here knows limits on time or on the size of a body: that is for whoever reads the socket.

pub mod body;
mod fields;
pub mod frame;
pub mod hpack;
mod lanes;
mod refusal;
pub mod request;
pub mod response;
mod split;
pub mod two;
pub mod write;

pub use refusal::{Refusal, RefusalKind};

use bytes::{Buf as _, Bytes, BytesMut};

/// How large a head may be.
///
/// A parser keeps no state between two calls: an unfinished head is looked at again from its start. Whoever reads the
/// socket decides how often that is worth it; a client that sends `bytes_max` a byte at a time would have it looked at
/// as many times.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// Request or status line and fields together, bytes.
    pub bytes_max: usize,
    /// Fields. At most [`HeadLimits::FIELDS_CEILING`]; more are taken for that.
    pub fields_max: usize,
}

impl HeadLimits {
    /// No head has more fields than this, whatever is configured: room for them is taken from the stack.
    pub const FIELDS_CEILING: usize = 256;

    /// Fields that a head may have.
    fn fields(&self) -> usize {
        self.fields_max.min(HeadLimits::FIELDS_CEILING)
    }
}

impl Default for HeadLimits {
    /// Browsers send 20 fields and 2 KiB; cookies and tokens may need ten times that.
    fn default() -> HeadLimits {
        HeadLimits { bytes_max: 32 * 1024, fields_max: 100 }
    }
}

/// Where a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body, not even an empty one.
    None,
    /// After so many bytes.
    Length(u64),
    /// After the last chunk.
    Chunked,
    /// When the connection ends: answers only.
    UntilClose,
}

/// Pieces of a body up to this size are copied out of the buffer they were read into, as heads always are. That costs less
/// than sharing the buffer (a count that all owners touch), and leaves it free for the next read at once, while it is still
/// in the cache: a body of 100 bytes would else keep 16 KiB for as long as its exchange lasts.
const COPIED_MAX: usize = 4 * 1024;

/// Takes `len` bytes of a body off the front of what was read.
pub(crate) fn take(buf: &mut BytesMut, len: usize) -> Bytes {
    match buf.get(..len) {
        Some(piece) if len <= COPIED_MAX => {
            let piece = Bytes::copy_from_slice(piece);
            used(buf, len);
            piece
        }
        _ => buf.split_to(len).freeze(),
    }
}

/// Lets go of `len` bytes at the front of what was read. Where nothing is left the whole buffer is there for the next read: to move
/// its front forward, and to take it back for that, costs more than the rest of either.
#[inline(always)]
pub(crate) fn used(buf: &mut BytesMut, len: usize) {
    if len == buf.len() { buf.clear() } else { buf.advance(len) }
}

/// Protocol version of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each name is the version")]
pub enum Version {
    Http10,
    Http11,
}
