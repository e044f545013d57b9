//! `wharf explain`: which route would a request take, and why not the others? Asks the same matcher that serves.

use super::{Exit, ExplainArgs, Failure};
use crate::config::Plan;
use crate::config::plan::Attachment;
use serde_json::{Value, json};
use wharf_core::head::{Method, RequestHead};
use wharf_http::routes::{Found, HostTable, Routes, Verdict};

pub(super) fn explain(plan: &Plan, args: &ExplainArgs) -> Result<Value, Failure> {
    let head = head(args)?;
    let client = args.client;
    let routes = Routes::compile(plan.routes.iter().map(|route| route.matches.clone()).collect());
    let mut tried = Vec::new();
    for judged in routes.explain(&head, client) {
        let Some(route) = plan.routes.get(judged.route) else { continue };
        let taken = judged.verdict == Verdict::Fits;
        tried.push(json!({ "route": &*route.name, "verdict": judged.verdict.to_string() }));
        if taken {
            break;
        }
    }
    let found = routes.find(&head, client);
    let Some(route) = found.route().and_then(|at| plan.routes.get(at)) else {
        let status = if found == Found::MethodRefused { 405 } else { 404 };
        return Ok(json!({ "path": head.path(), "answer": status, "tried": tried }));
    };
    let patterns: Vec<_> = route.host_chains.iter().map(|(pattern, _)| pattern.clone()).collect();
    let chain = HostTable::compile(&patterns)
        .find(head.authority())
        .and_then(|at| route.host_chains.get(at))
        .map_or(&route.chain, |(_, chain)| chain);
    Ok(
        json!({ "path": head.path(), "route": &*route.name, "to": route.target.to_string(), "chain": chain.iter().map(step).collect::<Vec<_>>(), "tried": tried }),
    )
}

fn step(attachment: &Attachment) -> Value {
    let level = format!("{:?}", attachment.level).to_lowercase();
    json!({ "plugin": &*attachment.plugin, "role": attachment.role.map_or("all of its roles", |role| role.as_str()), "level": level, "order": attachment.order })
}

fn head(args: &ExplainArgs) -> Result<RequestHead, Failure> {
    let usage = |message: String| Failure::new(Exit::Usage, "usage", message);
    let url = args.url.split_once("://").map_or(args.url.as_str(), |(_, rest)| rest);
    let (authority, path) = url.find('/').map_or((url, "/"), |at| url.split_at(at));
    let path = path.split('#').next().unwrap_or_default();
    let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
    let canonical = wharf_core::path::canonical(path.as_bytes())
        .map_err(|bad| usage(format!("a request for `{path}` is refused with 400: {bad}")))?
        .map(|canonical| String::from_utf8_lossy(&canonical).into_owned());
    let mut head = RequestHead::from_text(
        Method::from_token(&args.method),
        &authority.to_ascii_lowercase(),
        canonical.as_deref().unwrap_or(path),
        query,
    );
    for header in &args.headers {
        let Some((name, value)) = header.split_once(':') else { return Err(usage(format!("`{header}` is not of the form `name: value`"))) };
        head.fields.add(name.trim().to_ascii_lowercase().as_bytes(), value.trim().as_bytes());
    }
    Ok(head)
}
