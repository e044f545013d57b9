//! An outlet that needs no upstream: a fixed answer.

use bytes::Bytes;
use wharf_core::LocalBoxFuture;
use wharf_core::exchange::{Answer, Exchange};
use wharf_core::fault::Fault;
use wharf_core::head::ResponseHead;
use wharf_core::outlet::{Outlet, Wish};

/// Always the same answer.
pub struct Fixed {
    /// Its head, without framing fields.
    pub head: ResponseHead,
    /// Its body.
    pub body: Bytes,
}

impl Outlet for Fixed {
    fn call<'a>(&'a self, _: &'a mut Exchange, _: &'a Wish) -> LocalBoxFuture<'a, Result<Answer, Fault>> {
        Box::pin(async { Ok(Answer::full(self.head.clone(), self.body.clone())) })
    }
}
