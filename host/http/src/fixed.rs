//! Outlets that need no upstream: a fixed answer, and a prefix taken off on the way to another outlet.

use crate::routes::behind;
use bytes::Bytes;
use std::rc::Rc;
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

/// Takes a prefix off the path before it asks the outlet behind. Plugins have seen the whole path.
pub struct Stripped {
    /// Canonical, without a `/` at its end.
    pub prefix: Box<str>,
    /// Who is asked.
    pub inner: Rc<dyn Outlet>,
}

impl Outlet for Stripped {
    fn call<'a>(&'a self, exchange: &'a mut Exchange, wish: &'a Wish) -> LocalBoxFuture<'a, Result<Answer, Fault>> {
        let request = &mut exchange.facts.request;
        // By the same comparison that found the route, or a path would be stripped for some spellings only.
        if let Some(rest) = behind(request.path(), &self.prefix) {
            let rest = if rest.is_empty() { "/".to_owned() } else { rest.to_owned() };
            request.set_path(&rest);
        }
        self.inner.call(exchange, wish)
    }
}
