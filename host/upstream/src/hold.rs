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

/// Lets the answer keep what it holds until its body or tunnel ends or is dropped.
pub(crate) fn until_the_end<T: 'static>(mut answer: Answer, held: T) -> Answer {
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

impl<T> BodyStream for HeldStream<T> {
    fn poll_chunk(&mut self, task: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        let polled = self.inner.poll_chunk(task);
        if matches!(polled, Poll::Ready(Ok(None) | Err(_))) {
            self.held = None;
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
