//! Copies of requests for another service, to see what it makes of real traffic. A copy never delays or fails what it was
//! made from: it is sent by a task of its own, its answer is read and thrown away, and when there is no room for it, it is
//! dropped and counted. There is no queue.
//!
//! A copy says what it is (`x-wharf-mirror: 1`), so that who gets it can leave out what must happen once. From a client that is
//! no trusted proxy the field is taken off (`flow.rs`): what it asks for happens.

use crate::split::number;
use bytes::{Bytes, BytesMut};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use wharf_core::LocalBoxFuture;
use wharf_core::body::{Body, BodyStream};
use wharf_core::exchange::{Answer, Exchange};
use wharf_core::fault::Fault;
use wharf_core::head::Fields;
use wharf_core::metrics::Count;
use wharf_core::outlet::{Outlet, Wish};

/// Of an answer to a copy so much is read, so that its connection can be used again; larger ones are cut.
const ANSWER_MAX: usize = 1 << 20;
/// What a share is counted in.
pub const WHOLE: u32 = 1_000_000;

/// A mirror in front of the outlet that answers.
pub struct Mirror {
    /// Who answers.
    pub inner: Rc<dyn Outlet>,
    /// What copies need. Shared, because a copy may outlive the house it was made in.
    pub copies: Rc<Copies>,
}

/// Where copies go, and how many.
pub struct Copies {
    /// Who gets them.
    pub outlet: Rc<dyn Outlet>,
    /// With this wish.
    pub wish: Wish,
    /// Of [`WHOLE`] requests so many are copied.
    pub share: u32,
    /// Requests with a larger body are not copied. Bytes.
    pub body_bytes_max: usize,
    /// A copy and its answer may take so long.
    pub whole: Duration,
    /// Copies on their way at a time, on this core.
    pub open_max: u32,
    /// Those that are.
    pub open: Cell<u32>,
    /// Copies sent.
    pub sent: Arc<Count>,
    /// Requests of the share that were not copied: no room, or a body that is too large.
    pub dropped: Arc<Count>,
}

/// One place among the copies on their way.
struct Place(Rc<Copies>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
    }
}

impl Outlet for Mirror {
    fn call<'a>(&'a self, exchange: &'a mut Exchange, wish: &'a Wish) -> LocalBoxFuture<'a, Result<Answer, Fault>> {
        // Other bits than a split looks at, or whoever is mirrored would be who goes one way.
        let drawn = (number(&exchange.facts, None) >> 32) % u64::from(WHOLE);
        if drawn < self.copies.share.into() && exchange.upgrade.is_none() {
            copy(&self.copies, exchange);
        }
        self.inner.call(exchange, wish)
    }
}

fn copy(copies: &Rc<Copies>, exchange: &mut Exchange) {
    let too_large = exchange.body.size().is_some_and(|size| size > copies.body_bytes_max as u64);
    if too_large || copies.open.get() >= copies.open_max {
        return copies.dropped.add(1);
    }
    copies.open.set(copies.open.get() + 1);
    let place = Place(copies.clone());
    let mut made = Exchange::blank(Instant::now());
    made.facts = exchange.facts.clone();
    made.facts.request.fields.set(b"x-wharf-mirror", b"1");
    (made.peer, made.keep_host) = (exchange.peer, exchange.keep_host);
    match std::mem::take(&mut exchange.body) {
        Body::Empty => send(place, made),
        Body::Full(all) => {
            made.body = Body::Full(all.clone());
            exchange.body = Body::Full(all);
            send(place, made);
        }
        Body::Stream(inner) => {
            let copied = Some((place, Box::new(made), BytesMut::new()));
            exchange.body = Body::Stream(Box::new(Copied { inner, copied }));
        }
    }
}

/// Sends a copy, whatever becomes of it.
fn send(place: Place, mut made: Exchange) {
    let copies = place.0.clone();
    copies.sent.add(1);
    made.deadline = Instant::now() + copies.whole;
    tokio::task::spawn_local(async move {
        let deadline = made.deadline.into();
        let answered = async {
            let Ok(answer) = copies.outlet.call(&mut made, &copies.wish).await else { return };
            let Body::Stream(mut body) = answer.body else { return };
            let mut left = ANSWER_MAX;
            while let Ok(Some(piece)) = std::future::poll_fn(|task| body.poll_chunk(task)).await {
                let Some(rest) = left.checked_sub(piece.len()) else { return };
                left = rest;
            }
        };
        let _ = tokio::time::timeout_at(deadline, answered).await;
        drop(place);
    });
}

/// A request's body that is copied while it passes, and sent as a copy once all of it has.
struct Copied {
    inner: Box<dyn BodyStream>,
    copied: Option<(Place, Box<Exchange>, BytesMut)>,
}

impl BodyStream for Copied {
    fn poll_chunk(&mut self, task: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        let polled = self.inner.poll_chunk(task);
        match &polled {
            Poll::Ready(Ok(Some(piece))) => {
                if let Some((place, _, so_far)) = &mut self.copied {
                    if so_far.len() + piece.len() > place.0.body_bytes_max {
                        place.0.dropped.add(1);
                        self.copied = None;
                    } else {
                        so_far.extend_from_slice(piece);
                    }
                }
            }
            Poll::Ready(Ok(None)) => {
                if let Some((place, mut made, so_far)) = self.copied.take() {
                    made.body = so_far.freeze().into();
                    send(place, *made);
                }
            }
            Poll::Ready(Err(_)) => self.copied = None,
            Poll::Pending => {}
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
