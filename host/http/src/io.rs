//! Reading and writing sockets, one system call for each step and none for a socket that is not ready.
//!
//! Reads go through [`tokio::io::AsyncRead`], not through `try_read`: only there a short read marks the socket as
//! drained, which saves the call that would only be told EAGAIN.

use bytes::{Buf, BytesMut};
use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;

/// Read buffers of one core that nobody uses at the moment. The one that came back last is given out first: it is still in
/// the processor's cache.
pub(crate) struct Spare {
    room: usize,
    buffers: RefCell<Vec<BytesMut>>,
}

/// Buffers that wait in [`Spare`]; more are let go.
const SPARE_MAX: usize = 16;

impl Spare {
    /// Buffers of this many bytes: the most that one read takes.
    pub(crate) fn new(room: usize) -> Rc<Spare> {
        Rc::new(Spare { room, buffers: RefCell::default() })
    }

    fn take(&self) -> BytesMut {
        let last = self.buffers.borrow_mut().pop();
        if let Some(mut buffer) = last
            && buffer.try_reclaim(self.room)
        {
            return buffer;
        }
        // There is none, or it is still looked at: those who look let it go.
        BytesMut::with_capacity(self.room)
    }

    /// Takes a buffer back and leaves none.
    pub(crate) fn give(&self, buffer: &mut BytesMut) {
        let mut buffer = std::mem::take(buffer);
        buffer.clear();
        let mut buffers = self.buffers.borrow_mut();
        if buffers.len() < SPARE_MAX {
            buffers.push(buffer);
        }
    }
}

/// A socket shared by the halves of one exchange on one core.
pub(crate) struct Socket {
    stream: RefCell<TcpStream>,
    spare: Rc<Spare>,
}

impl Socket {
    pub(crate) fn new(stream: TcpStream, spare: Rc<Spare>) -> Socket {
        Socket { stream: RefCell::new(stream), spare }
    }

    /// Gives a buffer back that this socket was read into.
    pub(crate) fn give(&self, buffer: &mut BytesMut) {
        if buffer.capacity() > 0 {
            self.spare.give(buffer);
        }
    }

    /// Is there something to read (or an end, or an error)? Takes no buffer.
    pub(crate) fn poll_readable(&self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.borrow().poll_read_ready(task)
    }

    /// Appends what is there, as much as one buffer takes. `0`: the other side has ended. A buffer is taken only when
    /// there is something to put into it.
    pub(crate) fn poll_read(&self, task: &mut Context<'_>, into: &mut BytesMut) -> Poll<io::Result<usize>> {
        if into.capacity() - into.len() < self.spare.room / 2 && self.stream.borrow().poll_read_ready(task).is_pending() {
            return Poll::Pending;
        }
        self.poll_read_ready(task, into)
    }

    /// The same for a socket that is known, or very likely, to be readable: saves the look. A buffer that was taken in
    /// vain is given back.
    pub(crate) fn poll_read_ready(&self, task: &mut Context<'_>, into: &mut BytesMut) -> Poll<io::Result<usize>> {
        let mut stream = self.stream.borrow_mut();
        if into.capacity() == 0 {
            *into = self.spare.take();
        } else if into.capacity() - into.len() < self.spare.room / 2 {
            into.reserve(self.spare.room);
        }
        let read = pin!(stream.read_buf(into)).poll(task);
        if read.is_pending() && into.is_empty() {
            self.spare.give(into);
        }
        read
    }

    /// Writes some of the two pieces, as one.
    pub(crate) fn poll_write(&self, task: &mut Context<'_>, first: &[u8], second: &[u8]) -> Poll<io::Result<usize>> {
        let mut stream = self.stream.borrow_mut();
        let stream = Pin::new(&mut *stream);
        if second.is_empty() {
            stream.poll_write(task, first)
        } else if first.is_empty() {
            stream.poll_write(task, second)
        } else {
            stream.poll_write_vectored(task, &[IoSlice::new(first), IoSlice::new(second)])
        }
    }

    /// Has the other side reset the connection? (One that has only ended its sending half may still want an answer.) Costs a
    /// system call.
    pub(crate) fn is_reset(&self) -> bool {
        !matches!(self.stream.borrow().take_error(), Ok(None))
    }

    /// Makes the closing of the socket a reset: the other side must not take what it has for a complete answer.
    pub(crate) fn reset(&self) {
        // A socket that refuses the option is closed in the ordinary way, which is all that can be done.
        let _ = self.stream.borrow().set_zero_linger();
    }

    pub(crate) fn poll_shutdown(&self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream.borrow_mut()).poll_shutdown(task)
    }
}

/// Writes all of both pieces, consuming them. Ready when everything is with the kernel.
pub(crate) fn poll_write_all(socket: &Socket, task: &mut Context<'_>, first: &mut impl Buf, second: &mut impl Buf) -> Poll<io::Result<()>> {
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
