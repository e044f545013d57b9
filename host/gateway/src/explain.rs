//! Which route would a request take, and what would happen to it? Asks the same matcher that serves; pure.
//!
//! The route with the reasons why the others lost, the plugins in the order in which they are asked, the service with its
//! endpoints, and every setting that holds for it with the place that it comes from. What the route does natively is in
//! `explain/steps.rs`.

use crate::config::document::{Document, From, Leaf, Part};
use crate::config::plan::{Attachment, Listener, Plan, Policy, Role, Target};
use crate::config::tree::nearest_or_all;
use serde_json::{Map, Value, json};
use std::net::IpAddr;
use wharf_core::head::{Method, RequestHead, Scheme};
use wharf_http::cors;
use wharf_http::routes::{Arrival, Found, HostTable, Routes, Verdict};

mod steps;

/// A request as somebody describes it.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// `GET`.
    pub method: String,
    /// `http://api.example.com/orders/1?x=1`, or only the path.
    pub url: String,
    /// `name: value`.
    pub headers: Vec<String>,
    /// The address that it comes from.
    pub source: Option<IpAddr>,
    /// The listener that it comes in by; `None`: the one that its URL fits best.
    pub listener: Option<String>,
}

/// What answers for an attachment: version and roles, where it is known.
pub type VersionOf<'a> = dyn Fn(&Attachment) -> Option<(u32, Vec<&'static str>)> + 'a;

/// The answer as JSON.
///
/// # Errors
/// No request can look like this: why.
pub fn explain(plan: &Plan, document: Option<&Document>, question: &Question, version_of: &VersionOf<'_>) -> Result<Value, String> {
    let url = Url::read(&question.url)?;
    let mut head = head(&url, question)?;
    let (listener, why) = listener(plan, &url, question.listener.as_deref())?;
    let by_tls = |listener: &Listener| if listener.tls.is_some() { Scheme::Https } else { Scheme::Http };
    head.scheme = url.scheme.unwrap_or_else(|| listener.map_or(Scheme::Http, by_tls));
    let routes = Routes::compile(plan.routes.iter().map(|route| route.matches.clone()).collect());
    let client = question.source.unwrap_or(IpAddr::from([127, 0, 0, 1]));
    let from = Arrival { client, listener: listener.map_or("", |listener| &*listener.name) };
    // A preflight goes to the route that it asks about, if that has a policy.
    let asked = cors::asked_method(&head).and_then(|method| {
        let mut as_asked = head.clone();
        as_asked.method = method;
        let found = routes.find(&as_asked, from);
        let has_policy = |at: usize| plan.routes.get(at).is_some_and(|route| route.cors.is_some());
        found.route().is_some_and(has_policy).then_some((as_asked, found))
    });
    let mut tried = Vec::new();
    for judged in routes.explain(asked.as_ref().map_or(&head, |(as_asked, _)| as_asked), from) {
        let Some(route) = plan.routes.get(judged.route) else { continue };
        let taken = judged.verdict == Verdict::Fits;
        tried.push(json!({ "route": &*route.name, "verdict": judged.verdict.to_string() }));
        if taken {
            break;
        }
    }
    let mut answer = Map::new();
    answer.insert("method".into(), head.method.as_str().into());
    answer.insert("path".into(), head.path().into());
    if let Some(listener) = listener {
        answer.insert("listener".into(), (*listener.name).into());
        answer.insert("listener_is".into(), why.into());
    }
    if let Some(source) = question.source {
        let trusts = listener.iter().map(|listener| {
            let trusted = listener.trusted_proxies.iter().any(|network| network.holds(source));
            json!({ "listener": &*listener.name, "is_a_trusted_proxy": trusted })
        });
        answer.insert("source".into(), trusts.collect());
    }
    let found = asked.map_or_else(|| routes.find(&head, from), |(_, found)| found);
    let Some(route) = found.route().and_then(|at| plan.routes.get(at)) else {
        let status = if found == Found::MethodRefused { 405 } else { 404 };
        answer.insert("answer".into(), status.into());
        answer.insert("tried".into(), tried.into());
        return Ok(answer.into());
    };
    let patterns: Vec<_> = route.host_chains.iter().map(|(pattern, _)| pattern.clone()).collect();
    let chain = HostTable::compile(&patterns)
        .find(head.authority())
        .and_then(|at| route.host_chains.get(at))
        .map_or(&route.chain, |(_, chain)| chain);
    let to = route.target.to_string();
    let defaults = || document.and_then(|document| document.section("defaults"));
    answer.insert("route".into(), (*route.name).into());
    answer.insert("to".into(), to.into());
    answer.insert("chain".into(), chain.iter().map(|attachment| step(attachment, version_of)).collect());
    let items = document.map(Document::items).unwrap_or_default();
    let item = |section: &str, name: &str| items.get(&(section.to_owned(), name.to_owned())).copied();
    if let Target::Service { name, subset } = &route.target
        && let Some(service) = item("services", name)
    {
        answer.insert("endpoints".into(), endpoints(service, subset.as_deref()));
    }
    if let Some(at) = item("routes", &route.name).and_then(place_of) {
        answer.insert("route_at".into(), at.into());
    }
    match steps::sent(route, &head, client) {
        Ok(None) => {}
        Ok(Some(sent)) if matches!(route.target, Target::Redirect(_)) => drop(answer.insert("redirected_to".into(), sent.into())),
        Ok(Some(sent)) => drop(answer.insert("path_sent".into(), sent.into())),
        Err(why) => drop(answer.insert("path_refused".into(), why.into())),
    }
    let limits = document.and_then(|document| document.section("rate_limits"));
    let service = match &route.target {
        Target::Service { name, .. } => {
            plan.services.iter().find(|service| service.name == *name).map(|service| (service, item("services", name)))
        }
        _ => None,
    };
    let at = steps::At { route, chain, service, written: item("routes", &route.name), defaults: defaults(), limits };
    answer.insert("steps".into(), at.steps(version_of).into());
    let mut settings = Vec::new();
    if let Some(listener) = listener
        && let Some(part) = item("listeners", &listener.name)
    {
        settings.extend(settings_of(&format!("listener {}", listener.name), part, &["bind", "advertise", "trusted_proxies"]));
    }
    if let Some(part) = item("routes", &route.name) {
        settings.extend(settings_of("route", part, &["name", "to", "match", "plugins"]));
    }
    if let Target::Service { name, .. } = &route.target
        && let Some(part) = item("services", name)
    {
        settings.extend(settings_of("service", part, &["endpoints", "plugins"]));
    }
    answer.insert("settings".into(), settings.into());
    answer.insert("tried".into(), tried.into());
    Ok(answer.into())
}

/// What somebody asks for, taken apart: each part as it is written.
#[derive(Debug, PartialEq, Eq)]
struct Url<'u> {
    scheme: Option<Scheme>,
    authority: &'u str,
    path: &'u str,
    query: Option<&'u str>,
}

impl<'u> Url<'u> {
    /// # Errors
    /// No request comes in by its scheme.
    fn read(text: &'u str) -> Result<Url<'u>, String> {
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (Some(Scheme::Https), rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (Some(Scheme::Http), rest),
            // Of a path with a URL in its query the query is none of this.
            Some((scheme, _)) if !scheme.contains(['/', '?', '#']) => {
                return Err(format!("no request comes in by `{scheme}`: write `http`, `https` or neither"));
            }
            _ => (None, text),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let (authority, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
        Ok(Url { scheme, authority, path: if path.is_empty() { "/" } else { path }, query })
    }

    /// The port that it names, or that its scheme stands for.
    fn port(&self) -> Option<u16> {
        let named = self.authority.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        named.or(self.scheme.map(|scheme| if scheme == Scheme::Https { 443 } else { 80 }))
    }
}

/// By which listener it comes in, and how that is known.
fn listener<'p>(plan: &'p Plan, url: &Url<'_>, named: Option<&str>) -> Result<(Option<&'p Listener>, &'static str), String> {
    if let Some(name) = named {
        let found = plan.listeners.iter().find(|listener| *listener.name == *name);
        let known: Vec<&str> = plan.listeners.iter().map(|listener| &*listener.name).collect();
        return found
            .map(|found| (Some(found), "named"))
            .ok_or_else(|| format!("there is no listener `{name}`: {}", nearest_or_all(name, &known)));
    }
    if let [only] = plan.listeners.as_slice() {
        return Ok((Some(only), "the only one"));
    }
    let is_tls = url.scheme.map(|scheme| scheme == Scheme::Https);
    let of_scheme = |listener: &&Listener| is_tls.is_none_or(|is_tls| listener.tls.is_some() == is_tls);
    if let Some(found) = plan.listeners.iter().filter(of_scheme).find(|listener| Some(listener.bind.port()) == url.port()) {
        return Ok((Some(found), "its port is that of the URL"));
    }
    if let Some(found) = plan.listeners.iter().find(of_scheme) {
        return Ok((
            Some(found),
            match is_tls {
                None => "assumed: the first one; `--listener` names another",
                Some(true) => "assumed: the first one with TLS; `--listener` names another",
                Some(false) => "assumed: the first one without TLS; `--listener` names another",
            },
        ));
    }
    Ok((plan.listeners.first(), "assumed: the first one; `--listener` names another"))
}

/// Where the first thing that is written of a part stands.
fn place_of(part: &Part) -> Option<String> {
    part.leaves().into_iter().find_map(|(_, leaf)| match &leaf.from {
        From::Written(at) => Some(at.clone()),
        From::Defaults(at) => Some(format!("defaults, {at}")),
        From::Default | From::Described => None,
    })
}

fn step(attachment: &Attachment, version_of: &VersionOf<'_>) -> Value {
    let level = format!("{:?}", attachment.level).to_lowercase();
    let policy = match attachment.policy {
        Some(Policy::Closed) => "closed",
        Some(Policy::Open) => "open",
        Some(Policy::LastGood) => "last-good",
        None if attachment.role == Some(Role::Degrade) => "open, by default",
        None => "closed, by default",
    };
    let known = version_of(attachment);
    let (version, roles) = known.map_or((None, Vec::new()), |(version, roles)| (Some(version), roles));
    let role =
        if roles.is_empty() { attachment.role.map_or("all of its roles", |role| role.as_str()).to_owned() } else { roles.join(", ") };
    json!({ "plugin": &*attachment.plugin, "role": role, "level": level, "order": attachment.order, "policy": policy, "version": version })
}

/// The endpoints as the file has them, and which of them are chosen from.
fn endpoints(service: &Part, subset: Option<&str>) -> Value {
    let Some(Part::List(list)) = service.get("endpoints") else {
        let name = service.get("dns").and_then(|dns| leaf(dns.get("name")?)).map(|leaf| leaf.value.clone());
        return json!([{ "address": name, "chosen": "as its addresses are looked up" }]);
    };
    let text = |part: &Part, name: &str| part.get(name).and_then(leaf).map(|leaf| leaf.value.clone()).unwrap_or_default();
    let tagged = |part: &Part, tag: &str| match part.get("tags") {
        Some(Part::List(tags)) => tags.iter().filter_map(leaf).any(|have| have.value == tag),
        _ => false,
    };
    let any_tagged = subset.is_none_or(|tag| list.iter().any(|part| tagged(part, tag)));
    let rows = list.iter().map(|part| {
        let chosen = match subset {
            _ if text(part, "weight") == 0 => "no: its weight is 0",
            Some(tag) if any_tagged && !tagged(part, tag) => "no: it has not the tag",
            Some(_) if !any_tagged => "yes: none has the tag, if `subset_fallback` allows it",
            _ => "yes",
        };
        json!({ "address": text(part, "address"), "weight": text(part, "weight"), "chosen": chosen })
    });
    rows.collect()
}

fn leaf(part: &Part) -> Option<&Leaf> {
    match part {
        Part::Leaf(leaf) => Some(leaf),
        Part::List(_) | Part::Map(_) => None,
    }
}

fn settings_of(of: &str, part: &Part, without: &[&str]) -> Vec<Value> {
    let leaves = part.leaves().into_iter();
    let wanted = leaves.filter(|(path, _)| !without.iter().any(|name| path.split(['.', '[']).next() == Some(name)));
    wanted.map(|(path, leaf)| json!({ "of": of, "setting": path, "value": brief(leaf, part), "from": leaf.from.text() })).collect()
}

/// The value without the prose behind it: `none: in the clear` is `none`, `25%; 0%: the ill never are` is `25%`, and of
/// `http1; with tls, auto` it is the one that holds beside the other settings of this part.
fn brief(leaf: &Leaf, part: &Part) -> Value {
    let (From::Described, Some(text)) = (&leaf.from, leaf.value.as_str()) else { return leaf.value.clone() };
    let Some((value, rest)) = text.split_once([';', ':']) else { return text.into() };
    let other = rest.trim_start().strip_prefix("with ").and_then(|rest| rest.split_once(", "));
    let is_written = |name: &str| part.get(name).is_some_and(|part| part.leaves().iter().any(|(_, leaf)| !leaf.from.is_default()));
    match other {
        Some((name, other)) if is_written(name) => other.into(),
        _ => value.into(),
    }
}

fn head(url: &Url<'_>, question: &Question) -> Result<RequestHead, String> {
    let path = url.path;
    let canonical = wharf_core::path::canonical(path.as_bytes())
        .map_err(|bad| format!("a request for `{path}` is refused with 400: {bad}"))?
        .map(|canonical| String::from_utf8_lossy(&canonical).into_owned());
    let method = if question.method.is_empty() { "GET" } else { &question.method };
    let authority = url.authority.to_ascii_lowercase();
    let mut head = RequestHead::from_text(Method::from_token(method), &authority, canonical.as_deref().unwrap_or(path), url.query);
    for header in &question.headers {
        let Some((name, value)) = header.split_once(':') else { return Err(format!("`{header}` is not of the form `name: value`")) };
        head.fields.add(name.trim().to_ascii_lowercase().as_bytes(), value.trim().as_bytes());
    }
    Ok(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart_once() {
        let (http, https) = (Some(Scheme::Http), Some(Scheme::Https));
        for (text, scheme, authority, path, query, port) in [
            ("http://a.example/b?c=d#e", http, "a.example", "/b", Some("c=d"), Some(80)),
            ("HTTPS://a.example", https, "a.example", "/", None, Some(443)),
            ("https://a.example:8443?c", https, "a.example:8443", "/", Some("c"), Some(8443)),
            ("http://[::1]:81/", http, "[::1]:81", "/", None, Some(81)),
            ("a.example:81/b", None, "a.example:81", "/b", None, Some(81)),
            ("/b?to=http://c/d", None, "", "/b", Some("to=http://c/d"), None),
            ("", None, "", "/", None, None),
            ("#a/b", None, "", "/", None, None),
        ] {
            let url = Url::read(text).unwrap();
            assert_eq!((&url, url.port()), (&Url { scheme, authority, path, query }, port), "{text}");
        }
        assert!(Url::read("ftp://a.example/").unwrap_err().contains("`ftp`"));
    }
}
