//! A connection to an endpoint: from its place among the others to the end of its TLS handshake, and how old it may become.

use super::{Dialect, Inner, key_of};
use crate::io::Socket;
use std::cell::Cell;
use std::future::{Future as _, poll_fn};
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use wharf_core::fault::{Blame, Fault, FaultKind, Phase, Retry};
use wharf_core::outlet::{CallLimits, EndpointRef};

/// How old connections become: a little less than they may, each something else, so that those which were made together do
/// not go together.
pub(super) struct Ages {
    seed: RandomState,
    given: Cell<u64>,
}

impl Default for Ages {
    fn default() -> Ages {
        Ages { seed: RandomState::new(), given: Cell::new(0) }
    }
}

impl Ages {
    fn next(&self, lifetime: Duration) -> Duration {
        let given = self.given.replace(self.given.get().wrapping_add(1));
        age(lifetime, self.seed.hash_one(given) as u32)
    }
}

/// The lifetime or up to a tenth less, as chance will have it.
fn age(lifetime: Duration, chance: u32) -> Duration {
    lifetime - (lifetime / 10).mul_f64(f64::from(chance) / f64::from(u32::MAX))
}

impl Inner {
    /// The tick from which on a connection that is made now takes no calls.
    pub(super) fn too_old_at(&self, limits: &CallLimits) -> u32 {
        match limits.lifetime {
            Duration::MAX => u32::MAX,
            lifetime => self.deadlines.tick_in(self.ages.next(lifetime)),
        }
    }

    /// Closes a connection that rests, if this core has one.
    fn closes_one(&self, endpoint: &EndpointRef, dialect: Option<&Rc<Dialect>>) -> bool {
        self.kept.borrow_mut().get_mut(&key_of(endpoint, dialect)).and_then(Vec::pop).is_some()
    }

    /// A new connection, ready for a request, and its place among those of the endpoint. `two`: HTTP/2 is wanted, or may be
    /// chosen. `deadline`: of the exchange that it is for, if that comes before `limits.connect` is over; and whose it is.
    pub(super) async fn dial<'e>(
        &self,
        endpoint: &'e EndpointRef,
        dialect: Option<&Rc<Dialect>>,
        two: bool,
        (deadline, whose): (Instant, Blame),
        limits: &CallLimits,
    ) -> Result<(Socket, Counted<'e>), Fault> {
        // One that rests makes room for one that must be new.
        let fits = counts(endpoint, limits) || (self.closes_one(endpoint, dialect) && counts(endpoint, limits));
        if !fits {
            return Err(Fault::overload(
                "connections_max",
                format!(
                    "endpoint {endpoint} of service {:?} has {} connections open; hint: raise `connections_max` or add endpoints",
                    endpoint.service, limits.connections_max
                ),
            ));
        }
        // From here on the count is given back by whoever holds the connection, or by this guard if there is none.
        let counted = Counted(endpoint);
        let Some(file) = self.files.take() else {
            return Err(Fault::overload(
                "files",
                format!(
                    "all {} files for connections are open; hint: raise the limit of open files (`ulimit -n`, `LimitNOFILE`)",
                    self.files.max()
                ),
            ));
        };
        let alarm = self.deadlines.alarm();
        alarm.set_in_until(limits.connect, deadline);
        let mut connecting = std::pin::pin!(TcpStream::connect(endpoint.address));
        let connected = poll_fn(|task| {
            if let Poll::Ready(done) = connecting.as_mut().poll(task) {
                return Poll::Ready(Some(done));
            }
            alarm.poll_elapsed(task).map(|()| None)
        })
        .await;
        let refused = |why: String| {
            Fault::upstream(FaultKind::Connect, Retry::Safe, format!("endpoint {endpoint} of service {:?} {why}", endpoint.service))
        };
        let stream = match connected {
            Some(Ok(stream)) => stream,
            Some(Err(error)) => return Err(refused(format!("cannot be connected to: {error}"))),
            None if Instant::now() >= deadline => {
                return Err(out_of_time(endpoint, whose));
            }
            None => {
                return Err(Fault::upstream(
                    FaultKind::Timeout(Phase::Connect),
                    Retry::Safe,
                    format!(
                        "endpoint {endpoint} of service {:?} did not accept within {:?} (`timeouts.connect`)",
                        endpoint.service, limits.connect
                    ),
                ));
            }
        };
        // Small writes must not wait for acknowledgements; a socket that refuses the option still works.
        let _ = stream.set_nodelay(true);
        let socket = Socket::new(stream, self.spare.clone()).counted(file);
        let Some(tls) = dialect.and_then(|dialect| dialect.tls.as_ref()) else { return Ok((socket, counted)) };
        let session = tls.session(endpoint.address.ip(), two).map_err(|error| refused(format!("cannot be called by TLS: {error}")))?;
        let socket = socket.with_tls(session);
        let shaken = poll_fn(|task| match socket.poll_handshake(task) {
            Poll::Ready(shaken) => Poll::Ready(shaken),
            Poll::Pending => alarm.poll_elapsed(task).map(|()| Err(io::ErrorKind::TimedOut.into())),
        });
        match shaken.await {
            Ok(()) => Ok((socket, counted)),
            Err(error) if error.kind() == io::ErrorKind::TimedOut && Instant::now() >= deadline => Err(out_of_time(endpoint, whose)),
            Err(error) => {
                tell_handshake(endpoint, &error);
                Err(refused(format!("failed the TLS handshake: {error}")))
            }
        }
    }
}

#[cold]
fn out_of_time(endpoint: &EndpointRef, whose: Blame) -> Fault {
    let what = format!("the exchange's time ran out while connecting to endpoint {endpoint}");
    Fault::new(FaultKind::Timeout(Phase::Whole), whose, Retry::Never, what)
}

/// Counts one more connection, if there may be one more.
fn counts(endpoint: &EndpointRef, limits: &CallLimits) -> bool {
    let fits = endpoint.connections.fetch_add(1, Ordering::Relaxed) < limits.connections_max;
    if !fits {
        endpoint.connections.fetch_sub(1, Ordering::Relaxed);
    }
    fits
}

/// A place among the connections of an endpoint, given back unless it is kept.
pub(super) struct Counted<'a>(&'a EndpointRef);

impl Counted<'_> {
    /// From here on whoever holds the connection gives it back.
    pub(super) fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A wrong certificate is the operator's to mend, and no answer of the gateway tells of it but as one fault among others.
#[cold]
fn tell_handshake(endpoint: &EndpointRef, error: &io::Error) {
    if let Some(times) = endpoint.handshakes.happened(Instant::now()) {
        tracing::warn!(service = &*endpoint.service, endpoint = %endpoint, times, "TLS handshake with an endpoint failed: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_that_were_made_together_do_not_become_too_old_together() {
        let (lifetime, ages) = (Duration::from_secs(100), Ages::default());
        let all: Vec<Duration> = (0..1000).map(|_| ages.next(lifetime)).collect();
        assert!(all.iter().all(|age| (Duration::from_secs(90)..=lifetime).contains(age)));
        for tenth in 0..10 {
            let part = Duration::from_secs(90 + tenth)..Duration::from_secs(91 + tenth);
            let here = all.iter().filter(|age| part.contains(*age)).count();
            assert!((50..200).contains(&here), "{here} of 1000 in {part:?}");
        }
        assert_eq!((age(lifetime, 0), age(lifetime, u32::MAX)), (lifetime, Duration::from_secs(90)));
    }
}
