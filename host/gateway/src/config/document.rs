//! A configuration as it is in effect: every setting with its value and where that comes from, defaults included, secrets
//! left out. What `wharf config show`, `explain` and `diff` speak from. Pure.
//!
//! It is made from what is written and from what the schema says about the rest; a test holds it to the plan that the same
//! file makes.

use super::shape::{Group, Shape, Sort, Usual, description, usual};
use super::sources::{Gathered, Outside, SourceFile, gather};
use super::substitute::{is_secret_name, told};
use super::tree::{AsValue, Node, Place};
use crate::secret_names::{Says, is_secret, says};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// What is shown in the place of a secret.
const HIDDEN: &str = "***";

/// A part of a configuration.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// One value, or what a plugin is handed.
    Leaf(Leaf),
    /// A list.
    List(Vec<Part>),
    /// A group of settings, or names and what they name, in their order.
    Map(Vec<(String, Part)>),
}

/// A value and where it comes from.
#[derive(Clone, Debug, PartialEq)]
pub struct Leaf {
    /// As it may be shown.
    pub value: Value,
    /// Where it comes from.
    pub from: From,
    /// As it is, for comparing; never shown.
    real: Value,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum From {
    /// It is written: file and line.
    Written(String),
    /// It is written under `defaults`: file and line.
    Defaults(String),
    /// Nobody says otherwise.
    Default,
    /// Nobody says otherwise, and the value is only described.
    Described,
}

impl From {
    /// In a few words.
    pub fn text(&self) -> String {
        match self {
            From::Written(at) => at.clone(),
            From::Defaults(at) => format!("defaults, {at}"),
            From::Default => "default".into(),
            From::Described => "default, described".into(),
        }
    }

    fn read(text: &str) -> From {
        match text {
            "default" => From::Default,
            "default, described" => From::Described,
            _ => match text.strip_prefix("defaults, ") {
                Some(at) => From::Defaults(at.into()),
                None => From::Written(text.into()),
            },
        }
    }

    /// Is it not written anywhere?
    pub fn is_default(&self) -> bool {
        matches!(self, From::Default | From::Described)
    }
}

/// A whole configuration as it is in effect.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Its sections.
    pub root: Part,
}

/// Reads a configuration for showing it. `None`: there is a file in it that cannot be read.
pub fn read(name: &str, path: &Path, text: &str, outside: &mut dyn Outside) -> Option<Document> {
    let Gathered { files, root, .. } = gather(name, path, text, outside);
    let shape = Shape::new();
    let making = Making { shape: &shape, files: &files };
    let mut root = making.part(shape.file(), root.as_deref()?, "")?;
    inherit(&mut root);
    Some(Document { root })
}

struct Making<'a> {
    shape: &'a Shape,
    files: &'a [SourceFile],
}

impl Making<'_> {
    fn at(&self, place: Place) -> From {
        let file = self.files.get(place.file as usize).map_or("", |file| file.name.as_str());
        From::Written(format!("{file}:{}", place.line))
    }

    fn part(&self, schema: &Value, node: &Node, name: &str) -> Option<Part> {
        if node.is_null() {
            return match self.shape.sort(schema) {
                Sort::Group(group) => Some(Part::Map(self.group(&group, None))),
                _ => None,
            };
        }
        Some(match self.shape.sort(schema) {
            Sort::Group(group) => match node.text() {
                None => Part::Map(self.group(&group, Some(node))),
                Some(_) => match group.short() {
                    None => self.leaf(node, name, Sort::Value("text")),
                    Some(short) => {
                        let word = (short.to_owned(), self.leaf(node, name, Sort::Value("text")));
                        let rest = self.group(&group, None).into_iter().filter(|(have, _)| have != short);
                        Part::Map(std::iter::once(word).chain(rest).collect())
                    }
                },
            },
            Sort::Named(inner) => {
                let entries = node.entries().iter().filter_map(|(key, value)| {
                    let name = key.text()?;
                    Some((name.to_owned(), self.named(inner, value, name)?))
                });
                Part::Map(entries.collect())
            }
            Sort::List(inner) => Part::List(node.items().iter().filter_map(|item| self.part(inner, item, name)).collect()),
            Sort::Choice(choices) => match node.entries() {
                [(key, value)] => {
                    let word = key.text().unwrap_or_default();
                    let schema = choices.iter().find_map(|choice| choice.get("properties")?.get(word)).unwrap_or(&Value::Null);
                    Part::Map(vec![(word.to_owned(), self.part(schema, value, word)?)])
                }
                _ => self.leaf(node, name, Sort::Value("text")),
            },
            sort @ (Sort::Value(_) | Sort::Free) => self.leaf(node, name, sort),
        })
    }

    /// What stands under a name of the operator's own. That of a header field may say that its value is a secret.
    fn named(&self, schema: &Value, node: &Node, name: &str) -> Option<Part> {
        let part = self.part(schema, node, name)?;
        Some(match part {
            Part::Leaf(leaf) if leaf.real.is_string() && is_secret(name) => Part::Leaf(Leaf { value: HIDDEN.into(), ..leaf }),
            part => part,
        })
    }

    /// The settings of a group: what is written, and what holds in the place of what is not.
    fn group(&self, group: &Group<'_>, node: Option<&Node>) -> Vec<(String, Part)> {
        let mut settings = Vec::new();
        for (name, schema) in group.settings() {
            if let Some(written) = node.and_then(|node| node.entry(name)) {
                settings.extend(self.part(schema, written, name).map(|part| (name.to_owned(), part)));
                continue;
            }
            let said = description(schema);
            // What only holds together with something else holds only then.
            let with = said.strip_prefix("With `").and_then(|rest| rest.split('`').next());
            if group.needs(name) || with.is_some_and(|with| node.is_none_or(|node| node.entry(with).is_none())) {
                continue;
            }
            settings.extend(self.usual(schema).map(|part| (name.to_owned(), part)));
        }
        settings
    }

    fn usual(&self, schema: &Value) -> Option<Part> {
        let leaf = |value: Value, from| Part::Leaf(Leaf { real: value.clone(), value, from });
        match usual(self.shape, schema) {
            Usual::Value(value) => Some(leaf(value, From::Default)),
            Usual::Said(said) => Some(leaf(said.into(), From::Described)),
            // A group of which nothing is said is there, with the defaults of what is in it.
            Usual::Unsaid => match self.shape.sort(schema) {
                Sort::Group(group) if !group.settings().iter().any(|(name, _)| group.needs(name)) && !group.is_short => {
                    let inner = self.group(&group, None);
                    (!inner.is_empty()).then_some(Part::Map(inner))
                }
                _ => None,
            },
        }
    }

    fn leaf(&self, node: &Node, name: &str, sort: Sort<'_>) -> Part {
        // Text stays as it is written; only what is free has the type that it looks like.
        let text = match sort {
            Sort::Value("text" | "time" | "size" | "percentage") => node.text(),
            _ => None,
        };
        let real = text.map_or_else(|| AsValue::of(node), Value::from);
        let value = if text.is_some() && node.written().is_none() { real.clone() } else { shown(node, name) };
        Part::Leaf(Leaf { value, from: self.at(node.place), real })
    }
}

/// A value without secrets: where something was substituted, and below names that are those of secrets.
fn shown(node: &Node, name: &str) -> Value {
    if let Some(written) = node.written() {
        let told = told(written);
        return if told.is_empty() { AsValue::of(node) } else { format!("{HIDDEN} {told}").into() };
    }
    let is_secret = is_secret_name(name);
    // A switch is no secret, whatever it is called, nor is a number of them.
    let is_told = |text: &str| matches!(text, "true" | "false") || (says(name.as_bytes()) == Says::Several && text.parse::<f64>().is_ok());
    if let Some(text) = node.text()
        && is_secret
        && !is_told(text)
    {
        return HIDDEN.into();
    }
    if !node.entries().is_empty() {
        let inner = |key: &Node| key.text().unwrap_or_default().to_owned();
        return Value::Object(
            node.entries()
                .iter()
                .map(|(key, value)| {
                    let name = inner(key);
                    let is_masked = is_secret && value.entries().is_empty() && !is_plain_name(&name);
                    let shown = if is_masked { shown(value, "secret") } else { shown(value, &name) };
                    (name, shown)
                })
                .collect(),
        );
    }
    if !node.items().is_empty() {
        return node.items().iter().map(|item| shown(item, if is_secret { "secret" } else { "" })).collect();
    }
    AsValue::of(node)
}

/// What stands under such a name beside a secret says where it is looked for and whose it is, and is none itself. Of whatever
/// is not in this list it is not known.
fn is_plain_name(name: &str) -> bool {
    const PLAIN: [&str; 16] = [
        "header",
        "headers",
        "query",
        "cookie",
        "cookies",
        "field",
        "name",
        "consumer",
        "consumers",
        "prefix",
        "scheme",
        "realm",
        "issuer",
        "audience",
        "algorithm",
        "algorithms",
    ];
    PLAIN.contains(&name.to_ascii_lowercase().as_str())
}

/// Routes that say nothing have what `defaults` says.
fn inherit(root: &mut Part) {
    let Part::Map(sections) = root else { return };
    let Some(defaults) = sections.iter().find(|(name, _)| name == "defaults").map(|(_, part)| part.clone()) else { return };
    let Some((_, Part::List(routes))) = sections.iter_mut().find(|(name, _)| name == "routes") else { return };
    for route in routes {
        under(route, &defaults);
    }
}

fn under(part: &mut Part, defaults: &Part) {
    match (part, defaults) {
        (Part::Map(settings), Part::Map(defaults)) => {
            for (name, default) in defaults {
                if let Some((_, setting)) = settings.iter_mut().find(|(have, _)| have == name) {
                    under(setting, default);
                }
            }
        }
        (Part::Leaf(leaf), Part::Leaf(default)) if leaf.from.is_default() => {
            let from = match &default.from {
                From::Written(at) => From::Defaults(at.clone()),
                other => other.clone(),
            };
            *leaf = Leaf { from, ..default.clone() };
        }
        _ => {}
    }
}

impl Document {
    /// A section, or nothing.
    pub fn section(&self, name: &str) -> Option<&Part> {
        self.root.get(name)
    }

    /// The items of all sections by kind and name; a section that holds no items is one itself.
    pub fn items(&self) -> BTreeMap<(String, String), &Part> {
        let mut items = BTreeMap::new();
        let Part::Map(sections) = &self.root else { return items };
        for (name, part) in sections {
            match (name.as_str(), part) {
                ("listeners" | "services" | "plugins" | "rate_limits", Part::Map(entries)) => {
                    items.extend(entries.iter().map(|(item, part)| ((name.clone(), item.clone()), part)));
                }
                ("routes", Part::List(routes)) => {
                    items.extend(routes.iter().map(|route| ((name.clone(), route.name()), route)));
                }
                ("include", _) => {}
                _ => {
                    items.insert((name.clone(), String::new()), part);
                }
            }
        }
        items
    }

    /// Where an item is written, file and line, as far as it has a value that is.
    pub fn place_of(&self, section: &str, name: &str) -> Option<String> {
        let items = self.items();
        let part = items.get(&(section.to_owned(), name.to_owned()))?;
        part.leaves().into_iter().find_map(|(_, leaf)| match &leaf.from {
            From::Written(at) => Some(at.clone()),
            _ => None,
        })
    }

    /// The same with these items as they were in `before`, or without them if they were not: what serves where they stay.
    pub fn with_older(mut self, before: Option<&Document>, held: &[(String, String)]) -> Document {
        let old = before.map(Document::items).unwrap_or_default();
        let Part::Map(sections) = &mut self.root else { return self };
        for (section, name) in held {
            let older = old.get(&(section.clone(), name.clone())).map(|part| (*part).clone());
            let at = sections.iter().position(|(have, _)| have == section);
            match (at.and_then(|at| sections.get_mut(at)), older) {
                (Some((_, Part::Map(entries))), older) if !name.is_empty() => {
                    entries.retain(|(have, _)| have != name);
                    entries.extend(older.map(|older| (name.clone(), older)));
                }
                (Some((_, Part::List(routes))), older) => {
                    let at = routes.iter().position(|route| route.name() == *name);
                    match (at, older) {
                        (Some(at), Some(older)) => routes.splice(at..=at, [older]).for_each(drop),
                        (Some(at), None) => drop(routes.remove(at)),
                        (None, older) => routes.extend(older),
                    }
                }
                (Some((_, part)), Some(older)) => *part = older,
                (None, Some(older)) if name.is_empty() => sections.push((section.clone(), older)),
                (_, None) if name.is_empty() => sections.retain(|(have, _)| have != section),
                _ => {}
            }
        }
        self
    }

    /// For machines: every value as `{"value", "from"}`.
    pub fn json(&self) -> Value {
        self.root.json()
    }

    /// What [`Document::json`] made.
    pub fn from_json(value: &Value) -> Document {
        Document { root: Part::from_json(value) }
    }

    /// As YAML, with a remark behind every value that is not written in the file itself.
    pub fn yaml(&self) -> String {
        let mut out = String::new();
        yaml(&self.root, 0, &mut out);
        out
    }
}

impl Part {
    /// The part with this name.
    pub fn get(&self, name: &str) -> Option<&Part> {
        match self {
            Part::Map(entries) => entries.iter().find(|(have, _)| have == name).map(|(_, part)| part),
            Part::Leaf(_) | Part::List(_) => None,
        }
    }

    fn name(&self) -> String {
        match self.get("name") {
            Some(Part::Leaf(leaf)) => leaf.value.as_str().map_or_else(|| leaf.value.to_string(), str::to_owned),
            _ => String::new(),
        }
    }

    /// Every value below with its path: `timeouts.head`, `endpoints[0].weight`.
    pub fn leaves(&self) -> Vec<(String, &Leaf)> {
        let mut leaves = Vec::new();
        self.collect(String::new(), &mut leaves);
        leaves
    }

    fn collect<'p>(&'p self, path: String, leaves: &mut Vec<(String, &'p Leaf)>) {
        match self {
            Part::Leaf(leaf) => leaves.push((path, leaf)),
            Part::List(items) => {
                for (at, item) in items.iter().enumerate() {
                    item.collect(format!("{path}[{at}]"), leaves);
                }
            }
            Part::Map(entries) => {
                for (name, part) in entries {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    part.collect(path, leaves);
                }
            }
        }
    }

    fn json(&self) -> Value {
        match self {
            Part::Leaf(leaf) => json!({ "value": leaf.value, "from": leaf.from.text() }),
            Part::List(items) => items.iter().map(Part::json).collect(),
            Part::Map(entries) => {
                // The order counts for whoever reads it, and a map of JSON has none: names stand in it by themselves.
                Value::Object(entries.iter().map(|(name, part)| (name.clone(), part.json())).collect::<Map<_, _>>())
            }
        }
    }

    fn from_json(value: &Value) -> Part {
        match value {
            Value::Array(items) => Part::List(items.iter().map(Part::from_json).collect()),
            Value::Object(fields) => match (fields.get("value"), fields.get("from").and_then(Value::as_str)) {
                (Some(value), Some(from)) if fields.len() == 2 => {
                    Part::Leaf(Leaf { value: value.clone(), from: From::read(from), real: value.clone() })
                }
                _ => Part::Map(fields.iter().map(|(name, part)| (name.clone(), Part::from_json(part))).collect()),
            },
            other => Part::Leaf(Leaf { value: other.clone(), from: From::Default, real: other.clone() }),
        }
    }
}

impl Leaf {
    /// Is it the same value? A secret that was read over the admin API is known by where it came from only.
    pub fn is(&self, other: &Leaf) -> bool {
        self.real == other.real || (self.value == other.value && (self.is_hidden() || other.is_hidden()) && self.real_is_gone(other))
    }

    /// Is what is shown not the value?
    pub fn is_hidden(&self) -> bool {
        self.value.as_str().is_some_and(|text| text.starts_with(HIDDEN)) || self.value.to_string().contains(HIDDEN)
    }

    fn real_is_gone(&self, other: &Leaf) -> bool {
        self.real == self.value || other.real == other.value
    }
}

/// A value as YAML of one line; what a plugin is handed as JSON, which is YAML, too.
pub fn word(value: &Value) -> String {
    match value {
        Value::String(text) => {
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/' | ':');
            let is_plain = text.chars().all(plain)
                && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c.is_ascii_digit())
                && !text.ends_with(':')
                && !matches!(text.to_ascii_lowercase().as_str(), "true" | "false" | "null" | "yes" | "no" | "on" | "off")
                && text.parse::<f64>().is_err();
            match is_plain {
                true => text.clone(),
                false if text.starts_with(HIDDEN) => Value::from(text.as_str()).to_string(),
                false => Value::from(text.replace("${", "$${")).to_string(),
            }
        }
        other => other.to_string().replace("${", "$${"),
    }
}

fn remark(from: &From) -> &'static str {
    match from {
        From::Written(_) => "",
        From::Defaults(_) => "  # from defaults",
        From::Default | From::Described => "  # default",
    }
}

fn yaml(part: &Part, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    match part {
        Part::Leaf(_) => {}
        Part::Map(entries) => {
            for (name, part) in entries {
                let _ = write!(out, "{indent}{}:", word(&Value::from(name.as_str())));
                behind(part, depth, out);
            }
        }
        Part::List(items) => {
            for item in items {
                let _ = write!(out, "{indent}-");
                match item {
                    Part::Map(entries) if !entries.is_empty() => {
                        let mut inner = String::new();
                        yaml(item, depth + 1, &mut inner);
                        let _ = write!(out, " {}", inner.trim_start());
                    }
                    other => behind(other, depth, out),
                }
            }
        }
    }
}

/// What stands behind `name:` or `-`.
fn behind(part: &Part, depth: usize, out: &mut String) {
    match part {
        Part::Leaf(Leaf { value, from: From::Described, .. }) => {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let _ = writeln!(out, "  # default: {text}");
        }
        Part::Leaf(leaf) => {
            let _ = writeln!(out, " {}{}", word(&leaf.value), remark(&leaf.from));
        }
        Part::List(items) if items.is_empty() => out.push_str(" []\n"),
        Part::Map(entries) if entries.is_empty() => out.push_str(" {}\n"),
        part => {
            out.push('\n');
            yaml(part, depth + 1, out);
        }
    }
}
