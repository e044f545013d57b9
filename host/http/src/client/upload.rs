//! How many connections to an endpoint may be held by bodies that their clients still send. Such a body holds its connection
//! for as long as its client likes, within the limits of its listener: a few hundred slow clients would have them all.
//!
//! Over HTTP/2 a body holds a stream, and connections are made as streams are needed: nothing is counted there.

use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use wharf_core::body::{Body, BodyStream};
use wharf_core::fault::Fault;
use wharf_core::head::Fields;
use wharf_core::outlet::{CallLimits, EndpointRef};

/// One of them, given back when the body has ended.
pub(super) struct Place(Arc<AtomicU32>);

/// All but a tenth of the connections: these are for requests that are here in full, and for none if there are fewer than ten.
fn max(limits: &CallLimits) -> u32 {
    limits.connections_max - limits.connections_max / 10
}

impl Place {
    /// # Errors
    /// All are taken.
    pub(super) fn take(endpoint: &EndpointRef, limits: &CallLimits) -> Result<Place, Fault> {
        // Counted first: several may ask at once.
        let place = Place(endpoint.uploads.clone());
        let max = max(limits);
        if place.0.fetch_add(1, Ordering::Relaxed) < max {
            return Ok(place);
        }
        Err(Fault::overload(
            "connections_max",
            format!(
                "endpoint {endpoint} of service {:?} is being sent {max} bodies, and the rest of its {} connections is for requests \
                 that are here in full; hint: raise `connections_max`, or bound slow clients by `connections_per_source_max` and \
                 `body_rate_min` of the listener",
                endpoint.service, limits.connections_max
            ),
        ))
    }

    /// The same for a connection that is there already. Bodies that are here in full need none.
    ///
    /// # Errors
    /// All are taken.
    pub(super) fn held_by(body: &mut Body, endpoint: &EndpointRef, limits: &CallLimits) -> Result<(), Fault> {
        if !body.is_replayable() {
            Place::take(endpoint, limits)?.goes_with(body);
        }
        Ok(())
    }

    /// Whoever takes the body and drops it at its end gives the place back.
    pub(super) fn goes_with(self, body: &mut Body) {
        *body = match std::mem::take(body) {
            Body::Stream(inner) => Body::Stream(Box::new(Counted { inner, place: Some(self) })),
            here => here,
        };
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Counted {
    inner: Box<dyn BodyStream>,
    place: Option<Place>,
}

impl BodyStream for Counted {
    fn poll_chunk(&mut self, task: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        let polled = self.inner.poll_chunk(task);
        if matches!(polled, Poll::Ready(Ok(None) | Err(_))) {
            self.place = None;
        }
        polled
    }

    fn trailers(&mut self) -> Option<Fields> {
        self.inner.trailers()
    }

    fn size(&self) -> Option<u64> {
        self.inner.size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_core::outlet::Endpoint;

    #[test]
    fn bodies_leave_a_tenth_of_the_connections_to_requests_that_are_here_in_full() {
        for (connections_max, bodies) in [(1, 1), (9, 9), (10, 9), (1000, 900)] {
            let limits = CallLimits { connections_max, ..CallLimits::default() };
            let endpoint = Arc::new(Endpoint::new("s".into(), ([127, 0, 0, 1], 1).into(), 1, None, [].into()));
            let mut held: Vec<Place> = (0..bodies).map(|_| Place::take(&endpoint, &limits).unwrap()).collect();
            let fault = Place::take(&endpoint, &limits).err().unwrap();
            assert!(fault.detail().contains(&format!("{bodies} bodies")), "{fault}");
            drop(held.pop());
            held.push(Place::take(&endpoint, &limits).unwrap());
            drop(held);
            assert_eq!(endpoint.uploads.load(Ordering::Relaxed), 0);
        }
    }
}
