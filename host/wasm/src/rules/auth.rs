//! Role auth: who is it, and may they? `wharf:auth/auth@0.1.0`.

use super::{Asked, decide};
use crate::call::{Name, Question, ask};
use crate::error::Broken;
use crate::instance::Instance;
use wharf_core::LocalBoxFuture;
use wharf_core::exchange::Facts;
use wharf_core::fault::Fault;
use wharf_core::rules::{Authenticate, Decision};

pub(super) struct Rule(pub(super) Asked);

#[derive(Clone)]
struct Check;

impl Question for Check {
    type Answer = Decision;
    const NAME: Name = Name::Check;

    async fn put(&self, instance: &mut Instance, facts: &Facts) -> Result<Decision, Broken> {
        let check = instance.questions.check;
        decide(instance, facts, check).await
    }
}

impl Authenticate for Rule {
    fn check<'a>(&'a self, facts: &'a mut Facts) -> LocalBoxFuture<'a, Result<Decision, Fault>> {
        Box::pin(ask(&self.0.pool, self.0.last_good.as_ref(), facts, Check))
    }
}
