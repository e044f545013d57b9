//! What a route does with a request, step by step, in the order of `assemble/routes.rs`; with it, the path that is sent on.
//! Pure.

use super::place_of;
use crate::config::document::Part;
use crate::config::plan::{Attachment, RateLimit, Role, Route, Service, Target};
use serde_json::{Value, json};
use std::net::IpAddr;
use wharf_core::exchange::Facts;
use wharf_core::head::RequestHead;
use wharf_http::compress::Coding;
use wharf_http::edits::{HeaderEdit, HeaderEdits};
use wharf_http::mirror::WHOLE;
use wharf_http::rate::By;

/// A request at its route.
pub(super) struct At<'a> {
    pub(super) route: &'a Route,
    pub(super) chain: &'a [Attachment],
    /// The one service that it leads to, and how that is written.
    pub(super) service: Option<(&'a Service, Option<&'a Part>)>,
    /// The route as it is written.
    pub(super) written: Option<&'a Part>,
    /// What stands under `defaults`, and what under `rate_limits`.
    pub(super) defaults: Option<&'a Part>,
    pub(super) limits: Option<&'a Part>,
}

impl At<'_> {
    /// The steps, in order: `{"step", "setting", "does", "answers", "from"}`. Plugins stand where those of their role are asked.
    pub(super) fn steps(&self, version_of: &super::VersionOf<'_>) -> Vec<Value> {
        let route = self.route;
        let mut steps = Vec::new();
        let mut push = |step: &str, setting: &str, does: String, answers: &str, from: Option<String>| {
            steps.push(json!({ "step": step, "setting": setting, "does": does, "answers": answers, "from": from }));
        };
        let plugins = |role: Role| -> Option<String> {
            let asked: Vec<String> = self.chain.iter().filter_map(|attachment| asked(attachment, role, version_of)).collect();
            (!asked.is_empty()).then(|| asked.join(", "))
        };
        if route.access.is_some() {
            push("lists", "access", "whom it lets in".into(), "403", self.place("access"));
        }
        for limit in route.limits.iter().filter(|limit| limit.by != By::Consumer) {
            push("rate limit", "rate_limits", said(limit), "429", self.place_of_limit(limit));
        }
        if route.cors.is_some() {
            push("preflights", "cors", "answers what a page of another origin asks first".into(), "204, 403", self.place("cors"));
        }
        if let Some(plugins) = plugins(Role::Auth) {
            push("auth plugins", "plugins", plugins, "theirs", None);
        }
        for limit in route.limits.iter().filter(|limit| limit.by == By::Consumer) {
            push("rate limit", "rate_limits", said(limit), "429", self.place_of_limit(limit));
        }
        let filters = plugins(Role::Filter);
        if let Some(plugins) = &filters {
            push("filter plugins", "plugins", plugins.clone(), "theirs", None);
        }
        if let Target::Plugin(attachment) = &route.target {
            push("route plugin", "to", attachment.plugin.to_string(), "theirs", self.place("to"));
        }
        if let Some(checks) = &route.checks {
            let of = [
                (!checks.types.is_empty(), "type"),
                (checks.path.is_some(), "path"),
                (checks.query.is_some(), "query"),
                (checks.headers.is_some(), "headers"),
                (checks.body.is_some(), "body"),
            ];
            let of: Vec<&str> = of.iter().filter(|(is, _)| *is).map(|(_, what)| *what).collect();
            if !of.is_empty() {
                push("checks", "checks", of.join(", "), "400, 413, 415", self.place("checks"));
            }
        }
        match &route.target {
            Target::Redirect(redirect) => {
                push("redirect", "to", "tells the client to ask elsewhere".into(), &redirect.status.to_string(), self.place("to"));
            }
            Target::Answer(answer) => {
                push("fixed answer", "to", "nobody else is asked".into(), &answer.status.to_string(), self.place("to"));
            }
            Target::Service { .. } | Target::Split { .. } | Target::Plugin(_) | Target::Ferry(_) | Target::FerryAnswers(_) => {
                if route.rewrite.is_some() {
                    let strips = self.written.and_then(|part| part.get("rewrite")).and_then(place_of).is_none();
                    let setting = if strips { "strip_prefix" } else { "rewrite" };
                    push("rewriting", setting, "another path is sent on".into(), "400", self.place(setting));
                }
                if let Some(edits) = &route.request_headers {
                    push("header edits", "headers.request", listed(edits), "", self.place_below("headers", "request"));
                }
                if let Some(mirror) = &route.mirror {
                    let share = f64::from(mirror.share) * 100.0 / f64::from(WHOLE);
                    push(
                        "copies",
                        "mirror",
                        format!("to service {}, of {share} % of the requests", mirror.service),
                        "",
                        self.place("mirror"),
                    );
                }
                if route.breaker.is_some() {
                    push("breaker", "breaker", "of this route, besides that of the service".into(), "503", self.place("breaker"));
                }
                for limit in self.service.iter().flat_map(|(service, _)| &service.rates) {
                    push("rate limit of the service", "rate_limits", said(limit), "429", self.place_of_service_limit(limit));
                }
                push("call", "to", route.target.to_string(), "the answer", self.place("to"));
                if route.checks.as_ref().is_some_and(|checks| !checks.answer_types.is_empty() || checks.answer_bytes_max.is_some()) {
                    push("checks of the answer", "checks.answer", "type and size".into(), "502", self.place_below("checks", "answer"));
                }
            }
        }
        if let Some(plugins) = plugins(Role::Degrade) {
            push("degrade plugins", "plugins", plugins, "theirs, in the place of faults", None);
        }
        if let Some(plugins) = filters {
            push("filter plugins, second half", "plugins", plugins, "", None);
        }
        if !route.default_answers.is_empty() {
            push("default answers", "default_answers", "in the place of some answers".into(), "the answer", self.place("default_answers"));
        }
        if route.envelope.is_some() {
            push("envelope", "envelope", "errors in HTTP 200".into(), "200", self.place("envelope"));
        }
        if let Some(edits) = &route.response_headers {
            push("header edits", "headers.response", listed(edits), "", self.place_below("headers", "response"));
        }
        if route.cors.is_some() {
            push("other origins", "cors", "says which pages may read the answer".into(), "", self.place("cors"));
        }
        if let Some(compression) = &route.compression {
            let codings: Vec<&str> = compression.codings.iter().copied().map(Coding::as_str).collect();
            push("compression", "compression", format!("{}, if the client takes one", codings.join(", ")), "", self.place("compression"));
        }
        steps
    }

    /// Where the setting is written that holds for the route: at the route, or under `defaults`.
    fn place(&self, setting: &str) -> Option<String> {
        let own = self.written.and_then(|part| part.get(setting)).and_then(place_of);
        let usual = || self.defaults.and_then(|part| part.get(setting)).and_then(place_of).map(|at| format!("defaults, {at}"));
        own.or_else(usual).or_else(|| Some("default".into()))
    }

    fn place_below(&self, setting: &str, inner: &str) -> Option<String> {
        self.written.and_then(|part| part.get(setting)?.get(inner)).and_then(place_of)
    }

    fn place_of_limit(&self, limit: &RateLimit) -> Option<String> {
        self.place_of_named(limit).or_else(|| self.place("rate_limits"))
    }

    fn place_of_service_limit(&self, limit: &RateLimit) -> Option<String> {
        self.place_of_named(limit).or_else(|| self.service?.1?.get("rate_limits").and_then(place_of))
    }

    fn place_of_named(&self, limit: &RateLimit) -> Option<String> {
        let named = self.limits.filter(|_| *limit.key == *limit.name)?.get(&limit.name).and_then(place_of)?;
        Some(format!("rate_limits, {named}"))
    }
}

/// What is sent on in the place of the path, with its query; where the client is sent, for a redirect. `None`: as it came.
///
/// # Errors
/// The request is refused for it: why.
pub(super) fn sent(route: &Route, head: &RequestHead, client: IpAddr) -> Result<Option<String>, String> {
    let mut facts = Facts { request: head.clone(), client, route: route.name.clone(), ..Facts::default() };
    let mut names = Vec::new();
    route.matches.path.captures(head.path(), |name, value| names.push((format!("path.{name}"), value.to_owned())));
    for (name, value) in names {
        facts.attrs.set(&name, &value);
    }
    if let Target::Redirect(redirect) = &route.target {
        return redirect.location(&facts).map(Some).map_err(|fault| fault.to_string());
    }
    let Some(path) = route.rewrite.as_ref().map(|rewrite| rewrite.path(&facts)).transpose().map_err(|fault| fault.to_string())?.flatten()
    else {
        return Ok(None);
    };
    Ok(Some(match head.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    }))
}

/// An attachment that is asked in this role, or may be: of a plugin that has no version here the roles are not known.
fn asked(attachment: &Attachment, role: Role, version_of: &super::VersionOf<'_>) -> Option<String> {
    let known = version_of(attachment);
    let is_asked = match (&attachment.role, &known) {
        (Some(only), _) => *only == role,
        (None, Some((_, roles))) => roles.contains(&role.as_str()),
        (None, None) => true,
    };
    let name = &attachment.plugin;
    is_asked.then(|| match known {
        Some((version, _)) => format!("{name} v{version}"),
        None if attachment.role.is_none() => format!("{name} (if it has this role)"),
        None => name.to_string(),
    })
}

fn said(limit: &RateLimit) -> String {
    let by = match &limit.by {
        By::All => "all together".to_owned(),
        By::Client => "each client".to_owned(),
        By::Consumer => "each consumer".to_owned(),
        By::Header(name) => format!("each value of header `{name}`"),
        By::Cookie(name) => format!("each value of cookie `{name}`"),
    };
    let rate = limit.rate;
    let named = if *limit.key == *limit.name { format!("{}: ", limit.name) } else { String::new() };
    format!("{named}{} in {:?}, {} at once, {by}", rate.limit, rate.per, rate.burst)
}

fn listed(edits: &HeaderEdits) -> String {
    let words = edits.0.iter().map(|edit| match edit {
        HeaderEdit::Set(name, _) => format!("set {name}"),
        HeaderEdit::Add(name, _) => format!("add {name}"),
        HeaderEdit::Remove(name) => format!("remove {name}"),
    });
    words.collect::<Vec<_>>().join(", ")
}
