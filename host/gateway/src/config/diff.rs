//! What would change from one configuration to another: items added, removed and changed, setting by setting, and which
//! routes meet the change without being changed themselves. Pure.

use super::document::{Document, From, Leaf, Part};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// What is taken at a restart only; of `log` all but its level, of listeners their sockets.
const AT_RESTART: [&str; 5] = ["node", "workers", "admin", "buses", "ferry"];

/// Of the access log, what is taken at once.
const TAKEN_AT_ONCE: [&str; 3] = ["records", "sample", "capture_memory"];

/// As JSON: `{"same", "needs_restart", "changes": [...], "affected": [...]}`.
pub fn diff(old: &Document, new: &Document) -> Value {
    let (before, after) = (old.items(), new.items());
    let keys: BTreeSet<&(String, String)> = before.keys().chain(after.keys()).collect();
    let mut changes = Vec::new();
    let mut restart = BTreeSet::new();
    // Names of what routes may need, and routes that are changed themselves.
    let (mut parts, mut routes) = (BTreeSet::new(), BTreeSet::new());
    // Routes that say nothing themselves: what they have of `defaults`.
    let mut affected: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut tell = |route: &str, why: String| {
        affected.entry(route.to_owned()).or_default().insert(why);
    };
    for key in keys {
        let (section, name) = key;
        let (change, settings) = match (before.get(key), after.get(key)) {
            (None, Some(_)) => ("added", Vec::new()),
            (Some(_), None) => ("removed", Vec::new()),
            (Some(one), Some(other)) => {
                let mut settings = settings(one, other);
                if section == "routes" {
                    let own = settings.iter().any(|setting| !setting.is_inherited);
                    for setting in settings.iter().filter(|setting| setting.is_inherited) {
                        tell(name, format!("defaults: {}", setting.path));
                    }
                    if !own {
                        settings.clear();
                    }
                }
                if settings.is_empty() {
                    continue;
                }
                ("changed", settings)
            }
            (None, None) => continue,
        };
        let any = |is: fn(&Setting) -> bool| settings.is_empty() || settings.iter().any(is);
        let needs_restart = match section.as_str() {
            "log" => any(|setting| setting.path != "level"),
            "listeners" => any(|setting| setting.path == "bind"),
            "access_log" => any(|setting| !TAKEN_AT_ONCE.iter().any(|taken| setting.path.starts_with(taken))),
            section => AT_RESTART.contains(&section),
        };
        if needs_restart {
            restart.insert(section.clone());
        }
        match section.as_str() {
            "services" | "plugins" | "rate_limits" => drop(parts.insert((kind(section).to_owned(), name.clone()))),
            "routes" => drop(routes.insert(name.clone())),
            "attachments" => {
                for ((_, route), _) in after.iter().filter(|((section, _), _)| section == "routes") {
                    tell(route, "attachments".into());
                }
            }
            _ => {}
        }
        changes.push(json!({
            "kind": kind(section),
            "name": name,
            "change": change,
            "needs_restart": needs_restart,
            "settings": settings.iter().map(Setting::json).collect::<Vec<_>>(),
        }));
    }
    for ((_, name), route) in after.iter().filter(|((section, _), _)| section == "routes") {
        let words: BTreeSet<&str> = route.leaves().iter().filter_map(|(_, leaf)| leaf.value.as_str()).collect();
        for (kind, part) in parts.iter().filter(|(_, part)| words.contains(part.as_str())) {
            affected.entry(name.clone()).or_default().insert(format!("{kind} {part}"));
        }
    }
    let affected: Vec<Value> =
        affected.iter().filter(|(route, _)| !routes.contains(*route)).map(|(route, by)| json!({ "route": route, "by": by })).collect();
    json!({ "same": changes.is_empty(), "needs_restart": restart, "changes": changes, "affected": affected })
}

fn kind(section: &str) -> &str {
    match section {
        "listeners" => "listener",
        "services" => "service",
        "plugins" => "plugin",
        "rate_limits" => "rate limit",
        "routes" => "route",
        other => other,
    }
}

struct Setting {
    path: String,
    old: Value,
    new: Value,
    /// Both have it of `defaults`.
    is_inherited: bool,
}

impl Setting {
    fn json(&self) -> Value {
        json!({ "setting": self.path, "old": self.old, "new": self.new })
    }
}

fn settings(one: &Part, other: &Part) -> Vec<Setting> {
    let of = |part: &'_ Part| -> Vec<(String, Leaf)> { part.leaves().into_iter().map(|(path, leaf)| (path, leaf.clone())).collect() };
    let (old, new) = (of(one), of(other));
    let find = |list: &[(String, Leaf)], path: &str| list.iter().find(|(have, _)| have == path).map(|(_, leaf)| leaf.clone());
    let paths: BTreeSet<&String> = old.iter().chain(&new).map(|(path, _)| path).collect();
    let mut settings = Vec::new();
    for path in paths {
        let (was, is) = (find(&old, path), find(&new, path));
        if let (Some(was), Some(is)) = (&was, &is)
            && was.is(is)
        {
            continue;
        }
        let inherited = |leaf: &Option<Leaf>| leaf.as_ref().is_some_and(|leaf| !matches!(leaf.from, From::Written(_)));
        let value = |leaf: &Option<Leaf>| leaf.as_ref().map_or(Value::Null, |leaf| leaf.value.clone());
        settings.push(Setting { path: path.clone(), is_inherited: inherited(&was) && inherited(&is), old: value(&was), new: value(&is) });
    }
    settings
}
