//! The connection as the library wants it: a stream of bytes to read and write.

use super::Common;
use bytes::{Buf as _, BytesMut};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Plaintext gathered before it is encrypted: frames that are written in one turn go out as one record, not one each.
const GATHERED_MAX: usize = 16 * 1024;

pub(super) struct Line {
    common: Rc<Common>,
    /// Read before the library was asked.
    early: BytesMut,
    /// Not yet given to TLS.
    gathered: BytesMut,
}

impl Line {
    pub(super) fn new(common: Rc<Common>, early: BytesMut) -> Line {
        Line { common, early, gathered: BytesMut::new() }
    }

    fn poll_hand_over(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Line { common, gathered, .. } = self;
        while !gathered.is_empty() {
            let written = ready!(common.visit.socket.poll_write(task, gathered, &[]))?;
            gathered.advance(written);
        }
        // What is quiet holds no buffer.
        common.visit.socket.give(gathered);
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Line {
    fn poll_read(mut self: Pin<&mut Self>, task: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.early.is_empty() {
            let len = self.early.len().min(into.remaining());
            into.put_slice(self.early.get(..len).unwrap_or_default());
            self.early.advance(len);
            if self.early.is_empty() {
                self.early = BytesMut::new();
            }
            return Poll::Ready(Ok(()));
        }
        self.common.visit.socket.poll_read_slice(task, into)
    }
}

impl AsyncWrite for Line {
    fn poll_write(mut self: Pin<&mut Self>, task: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        if !self.common.visit.socket.has_tls() {
            return self.common.visit.socket.poll_write(task, from, &[]);
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
        self.common.visit.socket.poll_write(task, first, second)
    }

    fn is_write_vectored(&self) -> bool {
        !self.common.visit.socket.has_tls()
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_hand_over(task))?;
        self.common.visit.socket.poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(task))?;
        self.common.visit.socket.poll_shutdown(task)
    }
}
