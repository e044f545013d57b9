//! Role route: where to? `wharf:route/route@0.1.0`.

use super::{Asked, Handed, Made, found};
use crate::call::{Name, Question, ask};
use crate::error::Broken;
use crate::instance::Instance;
use wharf_core::LocalBoxFuture;
use wharf_core::exchange::Facts;
use wharf_core::fault::Fault;
use wharf_core::rules::{Picked, Route};

pub(super) struct Rule(pub(super) Asked);

/// Longest service name, subset and path that are carried on; whether they exist is for the road to find out.
const TEXT_MAX: usize = 8 * 1024;

#[derive(Clone)]
struct Pick;

impl Question for Pick {
    type Answer = Option<Picked>;
    const NAME: Name = Name::Pick;

    async fn put(&self, instance: &mut Instance, facts: &Facts) -> Result<Option<Picked>, Broken> {
        let mut made = Made::new();
        let handed = Handed::new(&instance.needs.request, facts, &facts.request.fields, &mut made);
        let (said,) = found(instance.questions.pick)?.call_async(&mut instance.store, (handed.request(facts),)).await?;
        let Some(said) = said else { return Ok(None) };
        let optional = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        let text = said.service.len() + optional(&said.subset) + optional(&said.path);
        if text > TEXT_MAX {
            return Err(Broken::Answer(format!("a target of {text} bytes, and at most {TEXT_MAX} are allowed")));
        }
        Ok(Some(Picked { service: said.service, subset: said.subset, path: said.path }))
    }
}

impl Route for Rule {
    fn pick<'a>(&'a self, facts: &'a mut Facts) -> LocalBoxFuture<'a, Result<Option<Picked>, Fault>> {
        Box::pin(ask(&self.0.pool, self.0.last_good.as_ref(), facts, Pick))
    }
}
