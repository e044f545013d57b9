//! Role degrade: what instead, when there is no answer? `wharf:degrade/degrade@0.1.0`.

use super::{Asked, Handed, Made, found, reply};
use crate::call::{Name, Question, ask};
use crate::error::Broken;
use crate::instance::Instance;
use wharf_core::LocalBoxFuture;
use wharf_core::exchange::Facts;
use wharf_core::fault::Fault;
use wharf_core::rules::{Degrade, Failure, Instead};
use wharf_wasm_bindings::degrade as wit;

pub(super) struct Rule(pub(super) Asked);

#[derive(Clone)]
struct OnFault(Failure);

impl Question for OnFault {
    type Answer = Instead;
    const NAME: Name = Name::OnFault;

    async fn put(&self, instance: &mut Instance, facts: &Facts) -> Result<Instead, Broken> {
        let failure = match &self.0 {
            Failure::Timeout => wit::Fault::Timeout,
            Failure::Connect => wit::Fault::Connect,
            Failure::Reset => wit::Fault::Reset,
            Failure::Status(status) => wit::Fault::Status(*status),
            Failure::Overload => wit::Fault::Overload,
            Failure::Plugin(name) => wit::Fault::Plugin(name),
        };
        let mut made = Made::new();
        let handed = Handed::new(&instance.needs.request, facts, &facts.request.fields, &mut made);
        let (said,) = found(instance.questions.on_fault)?.call_async(&mut instance.store, (handed.request(facts), failure)).await?;
        Ok(match said {
            wit::Instead::Pass => Instead::Pass,
            wit::Instead::Reply(said) => Instead::Reply(reply(said)?),
            wit::Instead::LastGood(said) => {
                Instead::LastGood { max_age_ms: said.max_age_ms, otherwise: said.otherwise.map(reply).transpose()? }
            }
        })
    }
}

impl Degrade for Rule {
    fn on_fault<'a>(&'a self, facts: &'a mut Facts, failure: Failure) -> LocalBoxFuture<'a, Result<Instead, Fault>> {
        Box::pin(ask(&self.0.pool, self.0.last_good.as_ref(), facts, OnFault(failure)))
    }
}
