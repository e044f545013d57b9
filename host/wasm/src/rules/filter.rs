//! Role filter: look at, and change, the heads of request and answer. `wharf:filter/filter@0.1.0`.

use super::{Asked, Handed, Made, decide, edits, found, lawful};
use crate::call::{Name, Question, ask};
use crate::error::Broken;
use crate::instance::Instance;
use wharf_core::LocalBoxFuture;
use wharf_core::edit::Edits;
use wharf_core::exchange::Facts;
use wharf_core::fault::Fault;
use wharf_core::rules::{Decision, Filter};
use wharf_wasm_bindings::types::ResponseHead;

pub(super) struct Rule(pub(super) Asked);

#[derive(Clone)]
struct OnRequest;

impl Question for OnRequest {
    type Answer = Decision;
    const NAME: Name = Name::OnRequest;

    async fn put(&self, instance: &mut Instance, facts: &Facts) -> Result<Decision, Broken> {
        let on_request = instance.questions.on_request;
        decide(instance, facts, on_request).await
    }
}

#[derive(Clone)]
struct OnResponse;

impl Question for OnResponse {
    type Answer = Edits;
    const NAME: Name = Name::OnResponse;

    async fn put(&self, instance: &mut Instance, facts: &Facts) -> Result<Edits, Broken> {
        let Some(response) = &facts.response else {
            return Err(Broken::Internal("a response filter was asked before there was a response".into()));
        };
        let mut made = Made::new();
        let handed = Handed::new(&instance.needs.response, facts, &response.fields, &mut made);
        let head = ResponseHead { status: response.status, facts: handed.list() };
        let (said,) = found(instance.questions.on_response)?.call_async(&mut instance.store, (head,)).await?;
        lawful(Edits::for_response(edits(said), &facts.attrs))
    }
}

impl Filter for Rule {
    fn sees_requests(&self) -> bool {
        self.0.pool.ready.needs.requests
    }

    fn sees_responses(&self) -> bool {
        self.0.pool.ready.needs.responses
    }

    fn on_request<'a>(&'a self, facts: &'a mut Facts) -> LocalBoxFuture<'a, Result<Decision, Fault>> {
        Box::pin(ask(&self.0.pool, self.0.last_good.as_ref(), facts, OnRequest))
    }

    fn on_response<'a>(&'a self, facts: &'a mut Facts) -> LocalBoxFuture<'a, Result<Edits, Fault>> {
        Box::pin(ask(&self.0.pool, self.0.last_good.as_ref(), facts, OnResponse))
    }
}
