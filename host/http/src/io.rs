//! Reading and writing sockets, one system call for each step and none for a socket that is not ready.
//!
//! Reads go through [`tokio::io::AsyncRead`], not through `try_read`: only there a short read marks the socket as
//! drained, which saves the call that would only be told EAGAIN.

use bytes::{Buf, BytesMut};
use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;

/// A socket shared by the halves of one exchange on one core.
pub(crate) struct Socket(RefCell<TcpStream>);

impl Socket {
    pub(crate) fn new(stream: TcpStream) -> Socket {
        Socket(RefCell::new(stream))
    }

    /// Is there something to read (or an end, or an error)? Takes no buffer.
    pub(crate) fn poll_readable(&self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.borrow().poll_read_ready(task)
    }

    /// Appends what is there, up to `room` bytes at once. `0`: the other side has ended. A buffer is taken only when
    /// there is something to put into it.
    pub(crate) fn poll_read(&self, task: &mut Context<'_>, into: &mut BytesMut, room: usize) -> Poll<io::Result<usize>> {
        if into.capacity() - into.len() < room / 2 && self.0.borrow().poll_read_ready(task).is_pending() {
            return Poll::Pending;
        }
        self.poll_read_ready(task, into, room)
    }

    /// The same for a socket that is known, or very likely, to be readable: saves the look. A buffer that was taken in
    /// vain is given back.
    pub(crate) fn poll_read_ready(&self, task: &mut Context<'_>, into: &mut BytesMut, room: usize) -> Poll<io::Result<usize>> {
        let mut stream = self.0.borrow_mut();
        if into.capacity() - into.len() < room / 2 {
            into.reserve(room);
        }
        let read = pin!(stream.read_buf(into)).poll(task);
        if read.is_pending() && into.is_empty() {
            *into = BytesMut::new();
        }
        read
    }

    /// Writes some of the two pieces, as one.
    pub(crate) fn poll_write(&self, task: &mut Context<'_>, first: &[u8], second: &[u8]) -> Poll<io::Result<usize>> {
        let mut stream = self.0.borrow_mut();
        let stream = Pin::new(&mut *stream);
        if second.is_empty() {
            stream.poll_write(task, first)
        } else if first.is_empty() {
            stream.poll_write(task, second)
        } else {
            stream.poll_write_vectored(task, &[IoSlice::new(first), IoSlice::new(second)])
        }
    }

    /// Makes the closing of the socket a reset: the other side must not take what it has for a complete answer.
    pub(crate) fn reset(&self) {
        // A socket that refuses the option is closed in the ordinary way, which is all that can be done.
        let _ = self.0.borrow().set_zero_linger();
    }

    pub(crate) fn poll_shutdown(&self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_shutdown(task)
    }
}

/// Writes all of both pieces, consuming them. Ready when everything is with the kernel.
pub(crate) fn poll_write_all(
    socket: &Socket,
    task: &mut Context<'_>,
    first: &mut impl Buf,
    second: &mut impl Buf,
) -> Poll<io::Result<()>> {
    while first.has_remaining() || second.has_remaining() {
        let written = std::task::ready!(socket.poll_write(task, first.chunk(), second.chunk()))?;
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        let of_first = written.min(first.remaining());
        first.advance(of_first);
        second.advance(written - of_first);
    }
    Poll::Ready(Ok(()))
}

use std::future::Future as _;
