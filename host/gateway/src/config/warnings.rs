//! What is no mistake and most likely not meant: what is named and used nowhere, and routes that are never taken. Pure.

use super::plan::{HostPattern, Plan, Route, Target};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use wharf_core::head::Method;
use wharf_http::routes::{PathPattern, RouteMatch};

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The section of the file, and the name in it.
    pub item: (&'static str, String),
    /// What it is.
    pub message: String,
    /// What to do about it.
    pub hint: &'static str,
}

/// All of them, in the order of the file.
pub fn warnings(plan: &Plan) -> Vec<Warning> {
    let mut found = Vec::new();
    // Every name in a plan is shown between quotes, whatever kinds of targets there may be.
    let named: HashSet<String> = plan
        .routes
        .iter()
        .flat_map(|route| format!("{route:?}").split('"').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let called: HashSet<&str> = plan.plugins.iter().flat_map(|plugin| &plugin.http_services).map(|name| &**name).collect();
    // A route plugin may name any service.
    let any = plan.routes.iter().any(|route| matches!(route.target, Target::Plugin(_)));
    for service in &plan.services {
        if !any && !named.contains(&*service.name) && !called.contains(&*service.name) {
            found.push(Warning {
                item: ("services", service.name.to_string()),
                message: format!("no route leads to service `{}`, and no plugin may call it", service.name),
                hint: "remove it, or name it as the target of a route",
            });
        }
    }
    for plugin in &plan.plugins {
        if !named.contains(&*plugin.name) {
            found.push(Warning {
                item: ("plugins", plugin.name.to_string()),
                message: format!("plugin `{}` is attached nowhere", plugin.name),
                hint: "attach it under `attachments` or `plugins`, or remove it",
            });
        }
    }
    // By their paths: with ten thousand routes, looking at every pair would take minutes.
    let mut by_path: HashMap<Cow<'_, str>, Vec<usize>> = HashMap::new();
    for (at, route) in plan.routes.iter().enumerate() {
        if !looks_at_more(route) {
            by_path.entry(own_key(&route.matches.path)).or_default().push(at);
        }
    }
    for (at, route) in plan.routes.iter().enumerate() {
        let keys = keys_above(&route.matches.path);
        let near = keys.iter().filter_map(|key| by_path.get(key)).flatten();
        let over = near.filter(|&&other| other != at).filter_map(|&other| Some((other, plan.routes.get(other)?)));
        let over = over.filter(|(other, over)| hides(over, *other < at, route)).min_by_key(|&(other, _)| other);
        if let Some((_, over)) = over {
            found.push(Warning {
                item: ("routes", route.name.to_string()),
                message: format!("route `{}` is never taken: route `{}` takes every request that it matches", route.name, over.name),
                hint: "give it the higher `priority`, make the other one narrower, or remove it",
            });
        }
    }
    found
}

/// Does it look at anything but host, path and method? What it looks at may say no.
fn looks_at_more(route: &Route) -> bool {
    let RouteMatch { hosts: _, path: _, methods: _, tests, priority: _ } = &route.matches;
    !tests.is_empty()
}

/// What a route is found under.
fn own_key(path: &PathPattern) -> Cow<'_, str> {
    match path {
        PathPattern::Exact(path) | PathPattern::Prefix(path) => path.trim_end_matches('/').into(),
        other => format!("{other:?}").into(),
    }
}

/// What those are found under that may take all that this one matches: itself, and what is above it.
fn keys_above(path: &PathPattern) -> Vec<Cow<'_, str>> {
    let mut keys = vec![own_key(path)];
    if let PathPattern::Exact(path) | PathPattern::Prefix(path) = path {
        let own = path.trim_end_matches('/');
        keys.extend(own.match_indices('/').filter_map(|(at, _)| own.get(..at)).map(Cow::from));
    }
    keys
}

/// Does one route, which looks at nothing but host, path and method, take every request that another one fits? `earlier`: it
/// stands before it. In doubt it does not.
fn hides(over: &Route, earlier: bool, route: &Route) -> bool {
    let (one, two) = (&over.matches, &route.matches);
    if !takes_methods(&one.methods, &two.methods) {
        return false;
    }
    if one.priority > two.priority {
        return takes_hosts(&one.hosts, &two.hosts) && takes_path(&one.path, &two.path);
    }
    // Equally specific, with a list of methods both: the first in the file.
    let RouteMatch { hosts, path, methods, tests, priority } = two;
    let same = one.priority == *priority && one.path == *path && one.hosts == *hosts && one.tests == *tests;
    same && earlier && one.methods.is_empty() == methods.is_empty()
}

fn takes_methods(one: &[Method], two: &[Method]) -> bool {
    let has = |method: &Method| one.contains(method) || (*method == Method::Head && one.contains(&Method::Get));
    one.is_empty() || (!two.is_empty() && two.iter().all(has))
}

fn takes_hosts(one: &[HostPattern], two: &[HostPattern]) -> bool {
    let below = |name: &str, above: &str| name.strip_suffix(above).is_some_and(|rest| rest.ends_with('.'));
    let takes = |wide: &HostPattern, narrow: &HostPattern| match (wide, narrow) {
        (HostPattern::Below(above), HostPattern::Exact(name)) => below(name, above),
        (HostPattern::Below(above), HostPattern::Below(name)) => name == above || below(name, above),
        (HostPattern::Exact(_), HostPattern::Below(_)) => false,
        (one, two) => one == two,
    };
    one.is_empty() || (!two.is_empty() && two.iter().all(|narrow| one.iter().any(|wide| takes(wide, narrow))))
}

fn takes_path(one: &PathPattern, two: &PathPattern) -> bool {
    let under = |prefix: &str, path: &str| {
        let prefix = prefix.trim_end_matches('/');
        path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    match (one, two) {
        (PathPattern::Prefix(prefix), PathPattern::Exact(path) | PathPattern::Prefix(path)) => under(prefix, path),
        (one, two) => one == two,
    }
}
