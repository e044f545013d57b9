//! Reading and writing sockets, one system call for each step and none for a socket that is not ready.
//!
//! Straight to the kernel, past the runtime's ready-made reading and writing: a socket nearly always takes what is written,
//! and whoever is woken nearly always finds something to read. The runtime is told when a socket is drained or full, which
//! a short read or write shows; so nobody makes the call that would only be told EAGAIN.

use crate::admission::File;
use crate::tls::session::Tls;
use bytes::{Buf, BytesMut};
use rustix::io::Errno;
use rustix::net::SendFlags;
use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead as _, AsyncWrite as _, Interest, ReadBuf};
use tokio::net::TcpStream;

/// Read buffers of one core that nobody uses at the moment. The one that came back last is given out first: it is still in
/// the processor's cache.
pub(crate) struct Spare {
    room: usize,
    buffers: RefCell<Vec<BytesMut>>,
    /// For what TLS has encrypted. Nearly all of it is with the kernel at once, so one is enough.
    out: Cell<Vec<u8>>,
}

/// Buffers that wait in [`Spare`]; more are let go.
const SPARE_MAX: usize = 16;

impl Spare {
    /// Buffers of this many bytes: the most that one read takes.
    pub(crate) fn new(room: usize) -> Rc<Spare> {
        Rc::new(Spare { room, buffers: RefCell::default(), out: Cell::default() })
    }

    /// An empty buffer.
    #[inline(always)]
    pub(crate) fn take(&self) -> BytesMut {
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

    /// A buffer of at least this length, whatever is in it.
    pub(crate) fn take_out(&self, len: usize) -> Vec<u8> {
        let mut out = self.out.take();
        if out.len() < len {
            out.resize(len, 0);
        }
        out
    }

    /// Takes it back.
    pub(crate) fn give_out(&self, out: Vec<u8>) {
        self.out.set(out);
    }
}

/// A TCP connection: what goes over it is as it is.
pub(crate) struct Wire {
    stream: RefCell<TcpStream>,
    /// The last write did not fit: the runtime says when the next one will.
    full: Cell<bool>,
    /// Reads and writes since the last read that had to wait.
    streak: Cell<u32>,
}

/// Reads and writes in a row after which a socket that is always ready lets the other tasks of its core have their turn.
const STREAK_MAX: u32 = 16;

impl Wire {
    /// Pending now and then for a socket that is always ready; the task is woken at once, behind the others.
    fn poll_turn(&self, task: &mut Context<'_>) -> Poll<()> {
        let streak = self.streak.get() + 1;
        if streak <= STREAK_MAX {
            self.streak.set(streak);
            return Poll::Ready(());
        }
        self.streak.set(0);
        task.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_readable(&self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        let readable = self.stream.borrow().poll_read_ready(task);
        if readable.is_pending() {
            self.streak.set(0);
        }
        readable
    }

    /// Appends what is there, as much as one buffer takes. `0`: the other side has ended. A buffer is taken only when
    /// there is something to put into it.
    pub(crate) fn poll_read(&self, task: &mut Context<'_>, spare: &Spare, into: &mut BytesMut) -> Poll<io::Result<usize>> {
        if into.capacity() - into.len() < spare.room / 2 && self.poll_readable(task).is_pending() {
            return Poll::Pending;
        }
        self.poll_read_ready(task, spare, into)
    }

    fn poll_read_ready(&self, task: &mut Context<'_>, spare: &Spare, into: &mut BytesMut) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_turn(task));
        let stream = self.stream.borrow();
        if into.capacity() == 0 {
            *into = spare.take();
        } else if into.capacity() - into.len() < spare.room / 2 {
            into.reserve(spare.room);
        }
        let room = into.capacity() - into.len();
        loop {
            match stream.try_read_buf(into) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => {
                    if read.as_ref().is_ok_and(|&read| read > 0 && read < room) {
                        not_ready::<false>(&stream);
                    }
                    return Poll::Ready(read);
                }
            }
            if stream.poll_read_ready(task)?.is_pending() {
                break;
            }
        }
        self.streak.set(0);
        if into.is_empty() {
            spare.give(into);
        }
        Poll::Pending
    }

    /// Writes some of the two pieces, as one.
    pub(crate) fn poll_write(&self, task: &mut Context<'_>, first: &[u8], second: &[u8]) -> Poll<io::Result<usize>> {
        std::task::ready!(self.poll_turn(task));
        let all = first.len() + second.len();
        if !self.full.get() {
            let stream = self.stream.borrow();
            let written = match (first, second) {
                (one, []) | ([], one) => rustix::net::send(&*stream, one, SendFlags::NOSIGNAL),
                (first, second) => rustix::io::writev(&*stream, &[IoSlice::new(first), IoSlice::new(second)]),
            };
            match written {
                Ok(written) if written == all => return Poll::Ready(Ok(all)),
                Ok(_) | Err(Errno::AGAIN) => {
                    not_ready::<true>(&stream);
                    self.full.set(true);
                }
                Err(_) => {}
            }
            match written {
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return Poll::Ready(other.map_err(io::Error::from)),
            }
        }
        let mut stream = self.stream.borrow_mut();
        let stream = Pin::new(&mut *stream);
        let written = if second.is_empty() {
            stream.poll_write(task, first)
        } else if first.is_empty() {
            stream.poll_write(task, second)
        } else {
            stream.poll_write_vectored(task, &[IoSlice::new(first), IoSlice::new(second)])
        };
        self.full.set(!matches!(written, Poll::Ready(Ok(written)) if written == all));
        written
    }

    pub(crate) fn poll_shutdown(&self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream.borrow_mut()).poll_shutdown(task)
    }
}

/// A socket shared by the halves of one exchange on one core, with or without TLS.
pub(crate) struct Socket {
    wire: Wire,
    spare: Rc<Spare>,
    tls: Option<Box<RefCell<Tls>>>,
    /// Its place among the files of the process.
    _file: Option<File>,
}

impl Socket {
    pub(crate) fn new(stream: TcpStream, spare: Rc<Spare>) -> Socket {
        let wire = Wire { stream: RefCell::new(stream), full: Cell::new(false), streak: Cell::new(0) };
        Socket { wire, spare, tls: None, _file: None }
    }

    /// The same connection with TLS on it. What was read of it before is the session's.
    pub(crate) fn with_tls(mut self, tls: Tls) -> Socket {
        self.tls = Some(Box::new(RefCell::new(tls)));
        self
    }

    /// The same connection without the TLS that the other side does not speak, and what it said in its place.
    pub(crate) fn without_tls(mut self) -> (Socket, BytesMut) {
        let received = self.tls.take().map(|tls| tls.into_inner().into_received()).unwrap_or_default();
        (self, received)
    }

    /// The same connection with its place among the files of the process.
    pub(crate) fn counted(mut self, file: File) -> Socket {
        self._file = Some(file);
        self
    }

    /// Is there TLS on it? Then what is written in one piece is one record.
    pub(crate) fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Its TLS session, if it has one.
    #[inline]
    pub(crate) fn tls(&self) -> Option<std::cell::Ref<'_, Tls>> {
        self.tls.as_ref().map(|tls| tls.borrow())
    }

    /// Ready when both sides know each other; at once without TLS.
    pub(crate) fn poll_handshake(&self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.tls {
            None => Poll::Ready(Ok(())),
            Some(tls) => tls.borrow_mut().poll_handshake(task, &self.wire, &self.spare),
        }
    }

    /// Gives a buffer back that this socket was read into.
    pub(crate) fn give(&self, buffer: &mut BytesMut) {
        if buffer.capacity() > 0 {
            self.spare.give(buffer);
        }
    }

    /// Is there something to read (or an end, or an error)? Takes no buffer.
    #[inline(always)]
    pub(crate) fn poll_readable(&self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.tls {
            None => self.wire.poll_readable(task),
            Some(tls) => tls.borrow_mut().poll_readable(task, &self.wire, &self.spare),
        }
    }

    /// Appends what is there, as much as one buffer takes. `0`: the other side has ended. A buffer is taken only when
    /// there is something to put into it.
    #[inline(always)]
    pub(crate) fn poll_read(&self, task: &mut Context<'_>, into: &mut BytesMut) -> Poll<io::Result<usize>> {
        match &self.tls {
            None => self.wire.poll_read(task, &self.spare, into),
            Some(tls) => tls.borrow_mut().poll_read(task, &self.wire, &self.spare, into),
        }
    }

    /// The same for a socket that is known, or very likely, to be readable: saves the look. A buffer that was taken in
    /// vain is given back.
    #[inline(always)]
    pub(crate) fn poll_read_ready(&self, task: &mut Context<'_>, into: &mut BytesMut) -> Poll<io::Result<usize>> {
        match &self.tls {
            None => self.wire.poll_read_ready(task, &self.spare, into),
            Some(tls) => tls.borrow_mut().poll_read(task, &self.wire, &self.spare, into),
        }
    }

    /// Reads what nobody wants any more, as it comes over the wire.
    pub(crate) fn poll_scrap(&self, task: &mut Context<'_>, into: &mut BytesMut) -> Poll<io::Result<usize>> {
        self.wire.poll_read(task, &self.spare, into)
    }

    /// Reads into a library's buffer, as far as it goes.
    pub(crate) fn poll_read_slice(&self, task: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &self.tls {
            None => Pin::new(&mut *self.wire.stream.borrow_mut()).poll_read(task, into),
            Some(tls) => tls.borrow_mut().poll_read_slice(task, &self.wire, &self.spare, into),
        }
    }

    /// Writes some of the two pieces, as one. With TLS what was taken may still be here: see [`Socket::poll_flush`].
    #[inline(always)]
    pub(crate) fn poll_write(&self, task: &mut Context<'_>, first: &[u8], second: &[u8]) -> Poll<io::Result<usize>> {
        match &self.tls {
            None => self.wire.poll_write(task, first, second),
            Some(tls) => tls.borrow_mut().poll_write(task, &self.wire, &self.spare, first, second),
        }
    }

    /// Ready when everything that was written is with the kernel.
    #[inline(always)]
    pub(crate) fn poll_flush(&self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.tls {
            None => Poll::Ready(Ok(())),
            Some(tls) => tls.borrow_mut().poll_flush(task, &self.wire, &self.spare),
        }
    }

    /// Has the other side reset the connection? (One that has only ended its sending half may still want an answer.) Costs a
    /// system call.
    pub(crate) fn is_reset(&self) -> bool {
        !matches!(self.wire.stream.borrow().take_error(), Ok(None))
    }

    /// Makes the closing of the socket a reset: the other side must not take what it has for a complete answer.
    pub(crate) fn reset(&self) {
        // A socket that refuses the option is closed in the ordinary way, which is all that can be done.
        let _ = self.wire.stream.borrow().set_zero_linger();
    }

    pub(crate) fn poll_shutdown(&self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.tls {
            None => self.wire.poll_shutdown(task),
            Some(tls) => tls.borrow_mut().poll_shutdown(task, &self.wire, &self.spare),
        }
    }
}

/// Tells the runtime what a short read or write has shown, so that it waits for the kernel's next word.
// One for each direction, and always in place: the error that it makes is then no more than a thought.
#[inline(always)]
fn not_ready<const WRITE: bool>(stream: &TcpStream) {
    let what = if WRITE { Interest::WRITABLE } else { Interest::READABLE };
    // Dropped, it would be looked at for an allocation that an error of this kind never has.
    std::mem::forget(stream.try_io(what, || Err::<(), _>(io::ErrorKind::WouldBlock.into())));
}

/// Writes all of both pieces, consuming them. Ready when everything is with the kernel.
#[inline(always)]
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
    socket.poll_flush(task)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::task::Waker;
    use tokio::net::TcpListener;

    #[test]
    fn a_socket_that_always_takes_what_is_written_gives_others_their_turn() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let _peer = listener.accept().await.unwrap();
            let socket = Socket::new(stream, Spare::new(1024));
            let mut task = Context::from_waker(Waker::noop());
            // Far less than the kernel takes: nothing but the turn ends it.
            for _ in 0..3 {
                let taken = (0..1000).take_while(|_| socket.poll_write(&mut task, b"x", b"").is_ready()).count();
                assert_eq!(taken, STREAK_MAX as usize);
            }
        });
    }
}
