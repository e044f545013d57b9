//! The connection as the library wants it: a stream of bytes to read and write.

use crate::io::Socket;
use bytes::{Buf as _, BytesMut};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Plaintext gathered before it is encrypted: frames that are written in one turn go out as one record, not one each.
const GATHERED_MAX: usize = 16 * 1024;

/// Read in one turn. Frames are taken in faster than the tasks of their streams run, and the library ends a connection of
/// which too many small ones wait ([`SMALL_FRAMES`]): so now and then the streams get their turn first.
const TURN: usize = 8 * 1024;

/// The library's budget for small DATA frames that nobody has read, as a multiple of the connection's window: each counts as
/// 256 bytes less its own. With 2 some two thousand small messages may wait for who reads slowly.
pub(crate) const SMALL_FRAMES: usize = 2;

pub(crate) struct Line {
    socket: Rc<Socket>,
    /// Not yet given to TLS.
    gathered: BytesMut,
    /// Read in this turn.
    turn: usize,
}

impl Line {
    pub(crate) fn new(socket: Rc<Socket>) -> Line {
        Line { socket, gathered: BytesMut::new(), turn: 0 }
    }

    fn poll_hand_over(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Line { socket, gathered, .. } = self;
        while !gathered.is_empty() {
            let written = ready!(socket.poll_write(task, gathered, &[]))?;
            gathered.advance(written);
        }
        // What is quiet holds no buffer.
        socket.give(gathered);
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Line {
    fn poll_read(mut self: Pin<&mut Self>, task: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.turn >= TURN {
            self.turn = 0;
            task.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = into.filled().len();
        let read = self.socket.poll_read_slice(task, into);
        self.turn = if read.is_pending() { 0 } else { self.turn + into.filled().len() - before };
        read
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, task: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        if !self.socket.has_tls() {
            return self.socket.poll_write(task, from, &[]);
        }
        if self.gathered.len() >= GATHERED_MAX {
            ready!(self.poll_hand_over(task))?;
        }
        let taken = from.get(..GATHERED_MAX).unwrap_or(from);
        self.gathered.extend_from_slice(taken);
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_write_vectored(self: Pin<&mut Self>, task: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut pieces = pieces.iter().filter(|piece| !piece.is_empty());
        let (first, second) = (pieces.next(), pieces.next());
        let (first, second) = (first.map_or(&[][..], |piece| piece), second.map_or(&[][..], |piece| piece));
        self.socket.poll_write(task, first, second)
    }

    fn is_write_vectored(&self) -> bool {
        !self.socket.has_tls()
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_hand_over(task))?;
        self.socket.poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(task))?;
        self.socket.poll_shutdown(task)
    }
}
