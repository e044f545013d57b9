//! Who is in flight, counted down by dropping: an answer that is abandoned half way counts like one that ended.
//!
//! A body that is all here ends with the head. A streamed body keeps its call in flight only where somebody asks: for
//! policies that compare what is in flight, for `in_flight_max`, for breakers and limiters. Elsewhere the count falls with the head and the stream is passed on as it is,
//! because a wrapper is an allocation and a second dynamic call for every piece.

use crate::roster::Row;
use crate::service::Service;
use bytes::Bytes;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll};
use wharf_core::body::{Body, BodyStream, Tunnel};
use wharf_core::exchange::Answer;
use wharf_core::fault::Fault;
use wharf_core::head::Fields;

/// One try in flight at an endpoint.
pub(crate) struct InFlight(Rc<Row>);

impl InFlight {
    pub(crate) fn at(row: Rc<Row>) -> InFlight {
        row.endpoint.in_flight.fetch_add(1, Relaxed);
        InFlight(row)
    }

    pub(crate) fn row(&self) -> &Row {
        &self.0
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.endpoint.in_flight.fetch_sub(1, Relaxed);
    }
}

/// One of a service's `in_flight_max` places.
pub(crate) struct Place(Arc<Service>);

impl Place {
    /// Takes a place; `None`: all are taken.
    pub(crate) fn take(service: &Arc<Service>, max: u32) -> Option<Place> {
        if service.in_flight.fetch_add(1, Relaxed) < max {
            return Some(Place(service.clone()));
        }
        service.in_flight.fetch_sub(1, Relaxed);
        None
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

/// What an answer holds until it has ended.
pub(crate) trait Held: 'static {
    /// A piece is on its way to the client, who takes it when it likes.
    fn rest(&self) {}

    /// The client has taken it: the endpoint is waited for again.
    fn go_on(&self) {}
}

impl Held for (Option<InFlight>, Option<Place>) {}

/// Lets the answer keep what it holds until its body or tunnel ends or is dropped.
pub(crate) fn until_the_end<T: Held>(mut answer: Answer, held: T) -> Answer {
    if let Some(inner) = answer.tunnel.take() {
        answer.tunnel = Some(Box::new(HeldTunnel { inner, _held: held }));
        return answer;
    }
    answer.body = match answer.body {
        Body::Stream(inner) => Body::Stream(Box::new(HeldStream { inner, held: Some(held) })),
        here => here,
    };
    answer
}

struct HeldStream<T> {
    inner: Box<dyn BodyStream>,
    held: Option<T>,
}

impl<T: Held> BodyStream for HeldStream<T> {
    fn poll_chunk(&mut self, task: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        if let Some(held) = &self.held {
            held.go_on();
        }
        let polled = self.inner.poll_chunk(task);
        match (&polled, &self.held) {
            (Poll::Ready(Ok(Some(_))), Some(held)) => held.rest(),
            (Poll::Ready(_), _) => self.held = None,
            (Poll::Pending, _) => {}
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

struct HeldTunnel<T> {
    inner: Box<dyn Tunnel>,
    _held: T,
}

impl<T> Tunnel for HeldTunnel<T> {
    fn poll_read(&mut self, task: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        self.inner.poll_read(task, into)
    }

    fn poll_write(&mut self, task: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        self.inner.poll_write(task, from)
    }

    fn poll_shutdown(&mut self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.poll_shutdown(task)
    }
}
