//! THE LIFE OF A CONNECTION, from accepted to its first request.
//!
//! ```text
//! peer     = the PROXY protocol's word, from those that must say it
//! secured  = TLS handshake, where the listener offers it: name, certificate, protocol
//! HTTP/2 or HTTP/1.1: by ALPN; without TLS by the first bytes
//! ```
//!
//! All of it has the time of a first byte (`timeouts.first`). What follows is in `h1.rs` and `h2.rs`.

use crate::admission::OfSource;
use crate::codec::RefusalKind;
use crate::deadlines::Alarm;
use crate::house::{Core, ListenerLimits};
use crate::io::Socket;
use crate::proxied;
use crate::routes::{Routes, host_of};
use crate::tls::H2;
use crate::tls::identity::Identity;
use crate::tls::session::PlainHttp;
use crate::{h1, h2};
use aws_lc_rs::digest;
use bytes::BytesMut;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Duration;
use tokio::net::TcpStream;
use wharf_core::LocalBoxFuture;
use wharf_core::exchange::Facts;

/// A client's connection that is ready for requests.
pub(crate) struct Visit {
    pub(crate) core: Rc<Core>,
    pub(crate) limits: Rc<ListenerLimits>,
    pub(crate) socket: Socket,
    /// Its one alarm, for whatever it waits for next.
    pub(crate) alarm: Alarm,
    /// The other end; what the PROXY protocol said it is.
    pub(crate) peer: SocketAddr,
    pub(crate) secured: Option<Rc<Secured>>,
}

/// What a TLS handshake has shown.
pub(crate) struct Secured {
    /// The host that the client asked for.
    name: Option<Box<str>>,
    /// Who it is, if it proved that.
    identity: Option<Arc<Identity>>,
}

impl Secured {
    /// Tells rules who the client is. Is the request for a host with other rules than those of the host that the
    /// connection was made to (RFC 9110 section 7.4)? Then whoever guards by name would have been led around.
    pub(crate) fn tell(&self, facts: &mut Facts, routes: &Routes) -> bool {
        if let Some(identity) = &self.identity {
            identity.tell(&mut facts.attrs);
        }
        let asked = host_of(facts.request.authority_bytes());
        match &self.name {
            Some(name) => name.as_bytes() != asked && !routes.same_hosts(name.as_bytes(), asked),
            None => false,
        }
    }
}

/// Serves one connection to its end.
///
/// # Cancel safety
/// Dropping the future closes the connection; exchanges in progress end unanswered.
pub fn serve(core: Rc<Core>, limits: Rc<ListenerLimits>, stream: TcpStream, peer: SocketAddr) -> LocalBoxFuture<'static, ()> {
    // Answers go out in one piece or as fast as they come: waiting for acknowledgements only delays them.
    let _ = stream.set_nodelay(true);
    let socket = Socket::new(stream, core.spare.clone());
    let alarm = core.deadlines.alarm();
    let visit = Visit { core, limits, socket, alarm, peer, secured: None };
    // Each in a box of its own: a connection holds what it needs, and not the room for what others may come to.
    let plain = visit.limits.tls.is_none() && visit.limits.proxied_by.is_empty();
    if plain && visit.limits.sources.is_none() {
        return h1::serve(visit, BytesMut::new());
    }
    Box::pin(async move {
        let Ok((visit, early, two, of_source)) = Box::pin(open(visit)).await else { return };
        match two {
            true => Box::pin(h2::serve(visit, early)).await,
            false => h1::serve(visit, early).await,
        }
        drop(of_source);
    })
}

/// What a client may still send to a connection that we are ending, before it is cut.
const LINGER_BYTES_MAX: usize = 256 * 1024;
/// How long a connection that we end waits for its client to read what was said last.
const LINGER: Duration = Duration::from_secs(2);

/// Ends a connection so that the client can still read what was said last: closing with unread bytes in the socket would make
/// the kernel reset it (RFC 9112 section 9.6).
pub(crate) async fn linger(socket: &Socket, alarm: &Alarm) {
    alarm.set_in(LINGER);
    let (mut scrap, mut left) = (BytesMut::new(), LINGER_BYTES_MAX);
    poll_fn(|task| {
        let _ = ready!(socket.poll_shutdown(task));
        loop {
            match socket.poll_scrap(task, &mut scrap) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(read)) if read > left => return Poll::Ready(()),
                Poll::Ready(Ok(read)) => {
                    left -= read;
                    scrap.clear();
                }
                Poll::Pending => return alarm.poll_elapsed(task),
            }
        }
    })
    .await;
}

/// The connection, what was read of it already, whether it speaks HTTP/2, and its place among those of its source. Refusals
/// are counted, and nobody is answered but who speaks HTTP where TLS is spoken: for others there is no protocol yet to do it in.
async fn open(mut visit: Visit) -> Result<(Visit, BytesMut, bool, Option<OfSource>), ()> {
    let refused = |visit: &Visit, why: &'static str, error: &dyn std::fmt::Display| {
        visit.core.count_refused(why);
        tracing::debug!(listener = &*visit.limits.name, peer = %visit.peer, reason = why, "connection refused: {error}");
    };
    visit.alarm.set_in(visit.limits.first);
    let mut early = BytesMut::new();
    if visit.limits.proxied_by.iter().any(|range| range.holds(visit.peer.ip())) {
        match proxied::read(&visit, &mut early).await {
            Ok(Some(client)) => visit.peer = client,
            Ok(None) => {}
            Err(error) => {
                refused(&visit, "proxy_protocol", &error);
                return Err(());
            }
        }
    }
    // Whose connection it is is known now, and nothing dear has been done for it.
    let mut of_source = None;
    if let Some(sources) = &visit.limits.sources {
        of_source = sources.enter(visit.peer.ip());
        if of_source.is_none() {
            refused(&visit, "source_connections", &"its source has `connections_per_source_max` connections open");
            return Err(());
        }
    }
    let Some(offer) = visit.limits.tls.clone() else {
        return Ok((visit, early, false, of_source));
    };
    let mut tls = match offer.session() {
        Ok(tls) => tls,
        Err(error) => {
            refused(&visit, "tls", &error);
            return Err(());
        }
    };
    tls.received(early);
    visit.socket = visit.socket.with_tls(tls);
    let done = poll_fn(|task| match visit.socket.poll_handshake(task) {
        Poll::Ready(done) => Poll::Ready(done),
        Poll::Pending => visit.alarm.poll_elapsed(task).map(|()| Err(io::ErrorKind::TimedOut.into())),
    });
    if let Err(error) = done.await {
        if error.get_ref().is_some_and(|inner| inner.is::<PlainHttp>()) {
            let (socket, early) = visit.socket.without_tls();
            Box::pin(h1::turn_away(Visit { socket, ..visit }, early, RefusalKind::PlainHttp.into())).await;
            return Err(());
        }
        refused(&visit, "tls", &error);
        // The alert says what is wrong; by TLS 1.3 the client may have sent a request meanwhile.
        linger(&visit.socket, &visit.alarm).await;
        return Err(());
    }
    let (secured, http2) = match visit.socket.tls() {
        None => return Err(()),
        Some(tls) => {
            let agreed = tls.agreed();
            let shown = agreed.peer_certificates().and_then(<[_]>::first);
            let identity = shown.and_then(|der| Identity::of(der, digest::digest(&digest::SHA256, der).as_ref()));
            let name = tls.server_name().map(Into::into);
            (Secured { name, identity }, agreed.alpn_protocol() == Some(H2))
        }
    };
    visit.secured = Some(Rc::new(secured));
    Ok((visit, BytesMut::new(), http2, of_source))
}
