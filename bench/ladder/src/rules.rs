//! Core's questions put to the shipped plugins' rules, linked in: the same `decide.rs`, the same declared needs, no guest.
//!
//! What the SDK's types cost is in the figure (a question owns its texts, as it does inside a guest); what a boundary
//! costs is not. The world around the rules is the SDK's native one: real clock, real crypto, a store in memory. It has
//! no exchange to look into, so only what was asked for can be read; the bench's configuration reads nothing else.

use crate::file::Attachment;
use anyhow::{Result, bail};
use std::rc::Rc;
use std::sync::Arc;
use wharf_core::LocalBoxFuture;
use wharf_core::edit::{Edit, Edits};
use wharf_core::exchange::Facts;
use wharf_core::fault::Fault;
use wharf_core::head::{Fields, Method};
use wharf_core::rules::{Attached, Authenticate, Decision, FailurePolicy, Filter, Picked, Route, RuleReply, Rules};
use wharf_plugin::Fact;
use wharf_plugin_auth::Guard;
use wharf_plugin_headers::Headers;
use wharf_plugin_route::Table;

/// All rules of a route, by the plugins' names.
pub fn of(attachments: &[Attachment], target: Option<&Attachment>) -> Result<Rules> {
    let mut rules = Rules::default();
    for attachment in attachments {
        let name: Arc<str> = attachment.plugin.as_str().into();
        match &*name {
            "auth" => rules.auth.push(attached(name, Rc::new(Native::<Guard>::new(attachment)?))),
            "headers" => rules.attach_filter(name, FailurePolicy::Closed, None, Rc::new(Native::<Headers>::new(attachment)?)),
            other => bail!("plugin {other:?} is not linked in; there are auth, headers and, as a target, route"),
        }
    }
    if let Some(attachment) = target {
        if attachment.plugin != "route" {
            bail!("plugin {:?} cannot be a target; route can", attachment.plugin);
        }
        rules.route = Some(attached("route".into(), Rc::new(Native::<Table>::new(attachment)?)));
    }
    Ok(rules)
}

fn attached<D: ?Sized>(name: Arc<str>, rule: Rc<D>) -> Attached<D> {
    Attached { name, policy: FailurePolicy::Closed, version: None, rule }
}

/// A plugin's instance, as a guest would hold it.
struct Native<P> {
    plugin: P,
    needs: Rc<wharf_plugin::Needs>,
}

impl<P: wharf_plugin::Plugin> Native<P> {
    fn new(attachment: &Attachment) -> Result<Native<P>> {
        let config = serde_json::to_string(&attachment.config)?;
        let plugin = P::configure(&config).map_err(|error| anyhow::anyhow!("plugin {:?}: {error}", attachment.plugin))?;
        let needs = Rc::new(plugin.needs());
        Ok(Native { plugin, needs })
    }

    fn request(&self, facts: &Facts) -> wharf_plugin::Request {
        let head = &facts.request;
        wharf_plugin::Request::new(self.needs.clone(), method(&head.method), handed(&self.needs.request, facts, &head.fields))
    }
}

fn handed(asked: &[Fact], facts: &Facts, fields: &Fields) -> Vec<Option<String>> {
    let head = &facts.request;
    let fact = |fact: &Fact| match fact {
        Fact::Path => Some(head.path().to_owned()),
        Fact::Query => head.query().map(str::to_owned),
        Fact::Authority => Some(head.authority().to_owned()),
        Fact::Scheme => Some(head.scheme.as_str().to_owned()),
        Fact::Peer => Some(facts.client.to_string()),
        Fact::Route => Some(facts.route.as_ref().to_owned()),
        Fact::Header(name) => fields.joined(name.as_bytes()).map(std::borrow::Cow::into_owned),
        Fact::Attr(name) => facts.attrs.get(name).map(str::to_owned),
    };
    asked.iter().map(fact).collect()
}

fn method(method: &Method) -> wharf_plugin::Method {
    match method {
        Method::Get => wharf_plugin::Method::Get,
        other => other.as_str().into(),
    }
}

fn edits(said: wharf_plugin::Edits) -> Edits {
    let edit = |edit| match edit {
        wharf_plugin::Edit::Set(name, value) => Edit::Set(name, value),
        wharf_plugin::Edit::Add(name, value) => Edit::Add(name, value),
        wharf_plugin::Edit::Remove(name) => Edit::Remove(name),
        wharf_plugin::Edit::Path(path) => Edit::Path(path),
        wharf_plugin::Edit::Attr(name, value) => Edit::Attr(name, value),
    };
    said.0.into_iter().map(edit).collect::<Vec<_>>().into()
}

fn decision(said: wharf_plugin::Decision) -> Decision {
    match said {
        wharf_plugin::Decision::Next(said) => Decision::Next(edits(said)),
        wharf_plugin::Decision::Reply(said) => {
            Decision::Reply(RuleReply { status: said.status, fields: said.headers, body: said.body.into() })
        }
    }
}

impl Authenticate for Native<Guard> {
    fn check<'a>(&'a self, facts: &'a mut Facts) -> LocalBoxFuture<'a, Result<Decision, Fault>> {
        Box::pin(async { Ok(decision(wharf_plugin::Auth::check(&self.plugin, &self.request(facts)))) })
    }
}

impl Filter for Native<Headers> {
    fn sees_requests(&self) -> bool {
        self.needs.phases.request
    }

    fn sees_responses(&self) -> bool {
        self.needs.phases.response
    }

    fn on_request<'a>(&'a self, facts: &'a mut Facts) -> LocalBoxFuture<'a, Result<Decision, Fault>> {
        Box::pin(async { Ok(decision(wharf_plugin::Filter::on_request(&self.plugin, &self.request(facts)))) })
    }

    fn on_response<'a>(&'a self, facts: &'a mut Facts) -> LocalBoxFuture<'a, Result<Edits, Fault>> {
        Box::pin(async {
            // The road asks this only when there is an answer.
            let Some(head) = &facts.response else { return Ok(Edits::default()) };
            let told = handed(&self.needs.response, facts, &head.fields);
            let response = wharf_plugin::Response::new(self.needs.clone(), head.status, told);
            Ok(edits(wharf_plugin::Filter::on_response(&self.plugin, &response)))
        })
    }
}

impl Route for Native<Table> {
    fn pick<'a>(&'a self, facts: &'a mut Facts) -> LocalBoxFuture<'a, Result<Option<Picked>, Fault>> {
        Box::pin(async {
            let said = wharf_plugin::Route::pick(&self.plugin, &self.request(facts));
            Ok(said.map(|to| Picked { service: to.service, subset: to.subset, path: to.path }))
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "this is test code: a panic is how a test tells")]
mod tests {
    use super::*;
    use std::task::{Context, Poll, Waker};
    use wharf_core::head::RequestHead;

    fn now<T>(mut question: LocalBoxFuture<'_, T>) -> T {
        match question.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => answer,
            Poll::Pending => panic!("a native rule never waits"),
        }
    }

    fn attachment(plugin: &str, config: serde_json::Value) -> Attachment {
        Attachment { plugin: plugin.into(), config }
    }

    #[test]
    fn the_three_rules_answer_through_cores_doors_as_they_do_as_components() {
        let auth = attachment(
            "auth",
            serde_json::json!({ "methods": [{ "api_key": { "header": "x-key", "keys": [
            { "sha256": "2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683", "consumer": "ann" }] } }] }),
        );
        let headers = attachment("headers", serde_json::json!({ "consumer_header": "x-consumer" }));
        let route = attachment("route", serde_json::json!({ "table": { "b": { "service": "up" } } }));
        let rules = of(&[auth, headers], Some(&route)).unwrap();
        let mut facts = Facts { request: RequestHead::from_text(Method::Get, "bench", "/b/100", None), ..Facts::default() };

        let Decision::Reply(refused) = now(rules.auth[0].rule.check(&mut facts)).unwrap() else { panic!("nobody was let in") };
        assert_eq!(refused.status, 401);

        facts.request.fields.add(b"x-key", b"key");
        let Decision::Next(edits) = now(rules.auth[0].rule.check(&mut facts)).unwrap() else { panic!("ann was not let in") };
        edits.apply_to_request(&mut facts).unwrap();
        assert_eq!(facts.attrs.get("consumer"), Some("ann"));
        assert!(rules.response_filters.is_empty(), "a half that is not asked for costs nothing");
        let Decision::Next(edits) = now(rules.request_filters[0].rule.on_request(&mut facts)).unwrap() else { panic!("a filter refused") };
        assert_eq!(*edits, [Edit::Set("x-consumer".into(), "ann".into())]);
        let picked = now(rules.route.unwrap().rule.pick(&mut facts)).unwrap();
        assert_eq!(picked, Some(Picked { service: "up".into(), ..Picked::default() }));
    }

    #[test]
    fn a_plugin_that_is_not_linked_in_is_named() {
        let error = of(&[attachment("degrade", serde_json::json!({}))], None).err().unwrap().to_string();
        assert!(error.contains("degrade") && error.contains("not linked in"), "{error}");
    }
}
