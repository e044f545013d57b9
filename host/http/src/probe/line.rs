//! What a check goes over: a connection of its own, with TLS where calls have it, and HTTP/2 where they speak that.
//!
//! Calls have a socket of their core's, with the core's buffers; a check is asked on another thread and seldom, so it has the
//! library's buffered session and a stream that any reader takes.

use crate::client::Speaks;
use crate::tls;
use bytes::Bytes;
use h2::client::SendRequest;
use rustls::ClientConnection;
use std::fmt;
use std::future::poll_fn;
use std::io::{self, Read as _, Write as _};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use wharf_core::outlet::EndpointRef;

/// How an endpoint is spoken to. The default is HTTP/1.1 in the clear.
#[derive(Clone, Default)]
pub struct Line {
    /// What it speaks.
    pub speaks: Speaks,
    /// What it must prove, and what it is shown; `None`: in the clear.
    pub tls: Option<Arc<tls::client::Client>>,
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Line({:?}{})", self.speaks, self.how())
    }
}

impl Line {
    /// For operators, behind what is asked.
    pub(super) fn how(&self) -> String {
        match &self.tls {
            Some(_) => " by TLS".to_owned(),
            None => String::new(),
        }
    }

    pub(super) fn scheme(&self) -> &'static str {
        if self.tls.is_some() { "https" } else { "http" }
    }

    /// A connection, its handshake done; `true`: HTTP/2 is spoken.
    pub(super) async fn connect(&self, endpoint: &EndpointRef) -> Result<(Stream, bool), String> {
        let wire = reach(endpoint).await?;
        let Some(tls) = &self.tls else { return Ok((Stream::Clear(wire), self.speaks == Speaks::Http2)) };
        let failed = |error: io::Error| format!("failed the TLS handshake: {error}");
        let session = tls.buffered(endpoint.address.ip(), self.speaks != Speaks::Http1).map_err(failed)?;
        let mut secret = Box::new(Secret { wire, session });
        poll_fn(|task| secret.poll_handshake(task)).await.map_err(failed)?;
        let chose_two = secret.session.alpn_protocol() == Some(tls::H2);
        let two = self.speaks == Speaks::Http2 || self.speaks == Speaks::Either && chose_two;
        Ok((Stream::Secret(secret), two))
    }
}

pub(super) async fn reach(endpoint: &EndpointRef) -> Result<TcpStream, String> {
    TcpStream::connect(endpoint.address).await.map_err(|error| format!("cannot be connected to: {error}"))
}

/// Asks over HTTP/2.
pub(super) async fn by_two(stream: Stream, ask: impl AsyncFnOnce(SendRequest<Bytes>) -> Result<(), String>) -> Result<(), String> {
    let (sender, connection) = h2::client::handshake(stream).await.map_err(|error| format!("no HTTP/2: {error}"))?;
    // The connection moves only while it is polled; it ends when nobody asks any more.
    tokio::select! {
        biased;
        said = ask(sender) => said,
        ended = connection => Err(ended.err().map_or_else(|| "closed the connection".to_owned(), |error| error.to_string())),
    }
}

/// A connection, with or without TLS.
pub(super) enum Stream {
    Clear(TcpStream),
    Secret(Box<Secret>),
}

/// TLS and the socket below.
pub(super) struct Secret {
    wire: TcpStream,
    session: ClientConnection,
}

/// The socket as the library wants it: it says when it would have to wait.
struct Wire<'a>(&'a TcpStream);

impl io::Read for Wire<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(into)
    }
}

impl io::Write for Wire<'_> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.0.try_write(from)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Secret {
    fn poll_handshake(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_send(task))?;
            if !self.session.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            if ready!(self.poll_receive(task))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Ready when all records are with the kernel.
    fn poll_send(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.session.wants_write() {
            ready!(self.wire.poll_write_ready(task))?;
            match self.session.write_tls(&mut Wire(&self.wire)) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads records. `0`: there are no more.
    fn poll_receive(&mut self, task: &mut Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.wire.poll_read_ready(task))?;
            match self.session.read_tls(&mut Wire(&self.wire)) {
                Ok(read) => {
                    let processed = self.session.process_new_packets().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error));
                    if processed.is_err() {
                        // What is wrong is said to the other side before the end, if it can be said at once.
                        let _ = self.poll_send(task);
                    }
                    return Poll::Ready(processed.map(|_| read));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_read(&mut self, task: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.session.reader().read(into.initialize_unfilled()) {
                Ok(read) => {
                    into.advance(read);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            // A key update must not wait for the next word of ours.
            let _ = self.poll_send(task)?;
            let _ = ready!(self.poll_receive(task))?;
        }
    }

    fn poll_write(&mut self, task: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_send(task))?;
        let written = self.session.writer().write(from)?;
        // Taken is taken; the rest goes with the next turn.
        let _ = self.poll_send(task)?;
        Poll::Ready(Ok(written))
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, task: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Clear(stream) => Pin::new(stream).poll_read(task, into),
            Stream::Secret(secret) => secret.poll_read(task, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, task: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Clear(stream) => Pin::new(stream).poll_write(task, from),
            Stream::Secret(secret) => secret.poll_write(task, from),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Clear(stream) => Pin::new(stream).poll_flush(task),
            Stream::Secret(secret) => secret.poll_send(task),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Clear(stream) => Pin::new(stream).poll_shutdown(task),
            Stream::Secret(secret) => {
                secret.session.send_close_notify();
                ready!(secret.poll_send(task))?;
                Pin::new(&mut secret.wire).poll_shutdown(task)
            }
        }
    }
}
