//! TLS below a socket: records in, plaintext out, and the other way.
//!
//! The library's unbuffered connection does the cryptography and knows no socket; here are the buffers, which come from
//! the core's spares and go back as soon as they are empty, so that an idle connection holds its keys and nothing else.
//! Nothing here decides whom to trust: that is in the configuration a session is made from.

use crate::io::{Spare, Wire};
use bytes::{Buf as _, BytesMut};
use rustls::CommonState;
use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use std::io;
use std::ops::Deref as _;
use std::task::{Context, Poll, ready};
use tokio::io::ReadBuf;

/// Plaintext encrypted at once: two records of the largest size. More would only lie in the kernel's queue.
const PLAIN_MAX: usize = 32 * 1024;
/// Room for [`PLAIN_MAX`] as records, and for a key update before them.
const OUT_ROOM: usize = PLAIN_MAX + 1024;

enum Session {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

/// One TLS connection, without its socket.
pub(crate) struct Tls {
    session: Session,
    /// Received and not yet decrypted: an unfinished record.
    inbox: BytesMut,
    /// Decrypted and not yet asked for.
    plain: BytesMut,
    out: Outbox,
    /// The other side has said that nothing more comes.
    ended: bool,
    /// The socket has ended, whatever was said.
    cut: bool,
    closing: bool,
    name: Option<Box<str>>,
}

/// Records on their way to the kernel.
#[derive(Default)]
struct Outbox {
    bytes: Vec<u8>,
    from: usize,
    to: usize,
}

/// Why a handshake failed: the client speaks HTTP in the clear.
#[derive(Debug, thiserror::Error)]
#[error("the client speaks HTTP in the clear")]
pub(crate) struct PlainHttp;

/// What a look at the inbox has led to.
enum Step {
    /// The handshake goes on when more has come.
    Handshaking,
    /// Everything that was there is decrypted, and plaintext may be sent.
    Open,
}

impl Tls {
    pub(crate) fn server(session: UnbufferedServerConnection) -> Tls {
        Tls::new(Session::Server(session))
    }

    pub(crate) fn client(session: UnbufferedClientConnection) -> Tls {
        Tls::new(Session::Client(session))
    }

    fn new(session: Session) -> Tls {
        let (inbox, plain) = (BytesMut::new(), BytesMut::new());
        Tls { session, inbox, plain, out: Outbox::default(), ended: false, cut: false, closing: false, name: None }
    }

    /// What was agreed: protocol, certificates.
    pub(crate) fn agreed(&self) -> &CommonState {
        match &self.session {
            Session::Server(session) => session.deref().deref(),
            Session::Client(session) => session.deref().deref(),
        }
    }

    /// The name that the client asked for, if this is a server's session.
    pub(crate) fn server_name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Gives bytes that were read from the socket before it was known to speak TLS.
    pub(crate) fn received(&mut self, early: BytesMut) {
        self.inbox = early;
    }

    /// What was read of the socket and is no TLS.
    pub(crate) fn into_received(mut self) -> BytesMut {
        std::mem::take(&mut self.inbox)
    }

    /// Ready when both sides know each other and all that had to be said for it is with the kernel.
    pub(crate) fn poll_handshake(&mut self, task: &mut Context<'_>, wire: &Wire, spare: &Spare) -> Poll<io::Result<()>> {
        loop {
            // No record begins like a method does. Said before the session sees it, which would answer with an alert.
            if matches!(self.session, Session::Server(_)) && self.inbox.first().is_some_and(u8::is_ascii_uppercase) {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, PlainHttp)));
            }
            let step = self.advance(spare, &[], &[]).map(|(step, _)| step);
            self.name = super::certs::heard().or(self.name.take());
            // An alert, too, is worth sending before the end.
            ready!(self.poll_flush(task, wire, spare))?;
            match step? {
                Step::Open if !self.agreed().is_handshaking() => return Poll::Ready(Ok(())),
                _ if self.ended || self.cut => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                _ => {}
            }
            ready!(self.poll_fill(task, wire, spare))?;
        }
    }

    /// Is there plaintext, or an end, or an error?
    #[cold]
    #[inline(never)]
    pub(crate) fn poll_readable(&mut self, task: &mut Context<'_>, wire: &Wire, spare: &Spare) -> Poll<io::Result<()>> {
        loop {
            if !self.plain.is_empty() || self.ended || self.cut {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_fill(task, wire, spare))?;
            let said = self.advance(spare, &[], &[]);
            if !self.out.is_empty() {
                // Key updates and alerts wait for nobody; if they do not fit now, the next write takes them along.
                let _ = self.poll_flush(task, wire, spare)?;
            }
            said?;
        }
    }

    /// Appends plaintext. `0`: the other side has ended, and said so.
    #[cold]
    #[inline(never)]
    pub(crate) fn poll_read(&mut self, task: &mut Context<'_>, wire: &Wire, spare: &Spare, into: &mut BytesMut) -> Poll<io::Result<usize>> {
        ready!(self.poll_readable(task, wire, spare))?;
        let read = self.plain.len();
        if read == 0 {
            // An end without a word may be somebody else's doing (RFC 8446 section 6.1).
            return Poll::Ready(if self.ended { Ok(0) } else { Err(io::ErrorKind::UnexpectedEof.into()) });
        }
        if into.is_empty() {
            spare.give(into);
            *into = std::mem::take(&mut self.plain);
        } else {
            into.extend_from_slice(&self.plain);
            spare.give(&mut self.plain);
        }
        Poll::Ready(Ok(read))
    }

    /// The same into a library's buffer, as far as it goes. An end without a word is an error here, too.
    pub(crate) fn poll_read_slice(
        &mut self,
        task: &mut Context<'_>,
        wire: &Wire,
        spare: &Spare,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_readable(task, wire, spare))?;
        if self.plain.is_empty() {
            return Poll::Ready(if self.ended { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) });
        }
        let len = self.plain.len().min(into.remaining());
        into.put_slice(self.plain.get(..len).unwrap_or_default());
        self.plain.advance(len);
        if self.plain.is_empty() {
            spare.give(&mut self.plain);
        }
        Poll::Ready(Ok(()))
    }

    /// Takes plaintext, as one. What it could not send at once stays here until [`Tls::poll_flush`].
    #[cold]
    #[inline(never)]
    pub(crate) fn poll_write(
        &mut self,
        task: &mut Context<'_>,
        wire: &Wire,
        spare: &Spare,
        first: &[u8],
        second: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_flush(task, wire, spare))?;
        let first = first.get(..PLAIN_MAX).unwrap_or(first);
        let second = second.get(..PLAIN_MAX - first.len()).unwrap_or(second);
        let (_, taken) = self.advance(spare, first, second)?;
        if taken == 0 && !(first.is_empty() && second.is_empty()) {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        }
        // Taken is taken, whether or not it is sent already.
        let _ = self.poll_flush(task, wire, spare)?;
        Poll::Ready(Ok(taken))
    }

    /// Ready when everything is with the kernel.
    #[cold]
    #[inline(never)]
    pub(crate) fn poll_flush(&mut self, task: &mut Context<'_>, wire: &Wire, spare: &Spare) -> Poll<io::Result<()>> {
        while let Some(rest) = self.out.bytes.get(self.out.from..self.out.to)
            && !rest.is_empty()
        {
            let written = ready!(wire.poll_write(task, rest, &[]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.from += written;
        }
        if !self.out.bytes.is_empty() {
            spare.give_out(std::mem::take(&mut self.out.bytes));
        }
        (self.out.from, self.out.to) = (0, 0);
        Poll::Ready(Ok(()))
    }

    /// Says that nothing more will be written.
    pub(crate) fn poll_shutdown(&mut self, task: &mut Context<'_>, wire: &Wire, spare: &Spare) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(task, wire, spare))?;
        if !std::mem::replace(&mut self.closing, true) {
            // Of a handshake that has failed nothing is left to say.
            let _ = self.advance(spare, &[], &[]);
            ready!(self.poll_flush(task, wire, spare))?;
        }
        wire.poll_shutdown(task)
    }

    /// Reads records, as many as one buffer takes.
    fn poll_fill(&mut self, task: &mut Context<'_>, wire: &Wire, spare: &Spare) -> Poll<io::Result<()>> {
        if ready!(wire.poll_read(task, spare, &mut self.inbox))? == 0 {
            self.cut = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Decrypts all that is there, and encrypts what is given: all of it or, before the handshake allows it, nothing.
    /// Returns how much.
    fn advance(&mut self, spare: &Spare, first: &[u8], second: &[u8]) -> io::Result<(Step, usize)> {
        let Tls { session, inbox, plain, out, ended, closing, .. } = self;
        let desk = Desk { plain, out, spare, ended, closing: *closing, first, second, taken: 0 };
        let done = match session {
            Session::Server(session) => desk.work(session, inbox),
            Session::Client(session) => desk.work(session, inbox),
        };
        if inbox.is_empty() {
            spare.give(inbox);
        }
        done
    }
}

/// The library's two kinds of session, which have no trait of their own.
trait Records {
    type Data;
    fn process<'c, 'i>(&'c mut self, inbox: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Records for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, inbox: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, ServerConnectionData> {
        self.process_tls_records(inbox)
    }
}

impl Records for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, inbox: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, ClientConnectionData> {
        self.process_tls_records(inbox)
    }
}

/// Where one look at the inbox puts what it finds, and takes what it sends.
struct Desk<'a> {
    plain: &'a mut BytesMut,
    out: &'a mut Outbox,
    spare: &'a Spare,
    ended: &'a mut bool,
    closing: bool,
    first: &'a [u8],
    second: &'a [u8],
    taken: usize,
}

impl Desk<'_> {
    fn work<S: Records>(mut self, session: &mut S, inbox: &mut BytesMut) -> io::Result<(Step, usize)> {
        loop {
            let UnbufferedStatus { discard, state } = session.process(inbox);
            let step = state.map_err(broken).and_then(|state| self.take(state));
            inbox.advance(discard.min(inbox.len()));
            match step {
                Ok(Some(step)) => return Ok((step, self.taken)),
                Ok(None) => {}
                Err(error) => {
                    // What is wrong is said to the other side before the end (RFC 8446 section 6.2).
                    if let Ok(ConnectionState::EncodeTlsData(mut alert)) = session.process(&mut []).state {
                        self.out.fit(self.spare, |room| alert.encode(room).map_err(of_encode))?;
                    }
                    return Err(error);
                }
            }
        }
    }

    /// `None`: there is more to be looked at.
    fn take<D>(&mut self, state: ConnectionState<'_, '_, D>) -> io::Result<Option<Step>> {
        match state {
            ConnectionState::ReadTraffic(mut traffic) => {
                while let Some(record) = traffic.next_record() {
                    let record = record.map_err(broken)?;
                    if self.plain.capacity() == 0 {
                        *self.plain = self.spare.take();
                    }
                    self.plain.extend_from_slice(record.payload);
                }
                Ok(None)
            }
            ConnectionState::EncodeTlsData(mut data) => {
                self.out.fit(self.spare, |room| data.encode(room).map_err(of_encode))?;
                Ok(None)
            }
            // It is ours now; whoever waits for the other side flushes first.
            ConnectionState::TransmitTlsData(data) => {
                data.done();
                Ok(None)
            }
            ConnectionState::PeerClosed | ConnectionState::Closed => {
                let again = std::mem::replace(self.ended, true);
                Ok(again.then_some(Step::Open))
            }
            ConnectionState::WriteTraffic(mut traffic) => {
                for plain in [self.first, self.second].into_iter().filter(|plain| !plain.is_empty()) {
                    self.out.fit(self.spare, |room| traffic.encrypt(plain, room).map_err(of_encrypt))?;
                    self.taken += plain.len();
                }
                if self.closing {
                    self.out.fit(self.spare, |room| traffic.queue_close_notify(room).map_err(of_encrypt))?;
                }
                Ok(Some(Step::Open))
            }
            // Early data is never offered, so none is taken.
            _ => Ok(Some(Step::Handshaking)),
        }
    }
}

/// How a record did not get into the outbox.
enum Unfit {
    /// This many bytes are wanted.
    Small(usize),
    Broken(io::Error),
}

fn of_encode(error: EncodeError) -> Unfit {
    match error {
        EncodeError::InsufficientSize(size) => Unfit::Small(size.required_size),
        EncodeError::AlreadyEncoded => Unfit::Broken(io::Error::other(error)),
    }
}

fn of_encrypt(error: EncryptError) -> Unfit {
    match error {
        EncryptError::InsufficientSize(size) => Unfit::Small(size.required_size),
        EncryptError::EncryptExhausted => Unfit::Broken(io::Error::other(error)),
    }
}

fn broken(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl Outbox {
    fn is_empty(&self) -> bool {
        self.from == self.to
    }

    /// Has a record put behind the others; the room grows to what it needs.
    fn fit(&mut self, spare: &Spare, mut put: impl FnMut(&mut [u8]) -> Result<usize, Unfit>) -> io::Result<()> {
        if self.bytes.is_empty() {
            self.bytes = spare.take_out(OUT_ROOM);
        }
        loop {
            match put(self.bytes.get_mut(self.to..).unwrap_or_default()) {
                Ok(len) => {
                    self.to += len;
                    return Ok(());
                }
                Err(Unfit::Small(wanted)) if self.bytes.len() < self.to + wanted => self.bytes.resize(self.to + wanted, 0),
                Err(Unfit::Small(_)) => return Err(io::ErrorKind::OutOfMemory.into()),
                Err(Unfit::Broken(error)) => return Err(error),
            }
        }
    }
}
