//! What the schema knows about each setting: its kind, what it is when it is not written, what it is for. Everything that
//! shows a configuration with its defaults, and the reference in the docs, is made from this, so that a setting is described
//! in one place: the doc comment of its field. Pure.
//!
//! A default stands in a description as `Default 10s.` (or ``` `text` (default) ```); a group of settings of which it is said
//! what it is by default is not there unless it is written.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

/// The schema of the configuration.
#[derive(Debug)]
pub struct Shape {
    root: Value,
}

/// What may stand in one place.
#[derive(Clone, Copy, Debug)]
pub enum Sort<'s> {
    /// A group of settings.
    Group(Group<'s>),
    /// Names and what they name.
    Named(&'s Value),
    /// A list.
    List(&'s Value),
    /// One value: its type in a word or two.
    Value(&'static str),
    /// One word of these, or a map with one of these keys.
    Choice(&'s [Value]),
    /// Anything: it is for a plugin.
    Free,
}

/// A group of settings.
#[derive(Clone, Copy, Debug)]
pub struct Group<'s> {
    /// What it is called in the schema.
    pub name: &'s str,
    /// What it is for.
    pub description: &'s str,
    settings: &'s Map<String, Value>,
    required: &'s [Value],
    /// It may be written as one word.
    pub is_short: bool,
}

/// What a setting is that is not written.
#[derive(Clone, Debug, PartialEq)]
pub enum Usual {
    /// This value.
    Value(Value),
    /// What the description says.
    Said(String),
    /// Nothing is said.
    Unsaid,
}

impl Default for Shape {
    fn default() -> Shape {
        Shape::new()
    }
}

impl Shape {
    /// Of [`super::file::File`].
    pub fn new() -> Shape {
        Shape { root: SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<super::file::File>().into() }
    }

    /// The whole file.
    pub fn file(&self) -> &Value {
        &self.root
    }

    /// What may stand in the place of this schema.
    pub fn sort<'s>(&'s self, schema: &'s Value) -> Sort<'s> {
        let (schema, name, is_short) = self.resolved(schema, "");
        let group = || {
            let settings = schema.get("properties")?.as_object()?;
            let required = schema.get("required").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            let description = schema.get("description").and_then(Value::as_str).unwrap_or_default();
            Some(Sort::Group(Group { name, description, settings, required, is_short }))
        };
        if let Some(group) = group() {
            return group;
        }
        if let Some(choices) = schema.get("oneOf").and_then(Value::as_array) {
            return Sort::Choice(choices);
        }
        if let Some(named) = schema.get("additionalProperties").filter(|named| named.is_object()) {
            return Sort::Named(named);
        }
        if let Some(items) = schema.get("items") {
            return Sort::List(items);
        }
        let kind = schema.get("type");
        let is = |wanted: &str| match kind {
            Some(Value::String(kind)) => kind == wanted,
            Some(Value::Array(kinds)) => kinds.iter().any(|kind| kind == wanted),
            _ => false,
        };
        Sort::Value(match name {
            "Time" => "time",
            "Size" => "size",
            "Percent" => "percentage",
            _ if is("boolean") => "true or false",
            _ if is("integer") => "whole number",
            _ if is("number") => "number",
            _ if is("string") => "text",
            _ => return Sort::Free,
        })
    }

    /// Follows references, and chooses of several forms the one that says most.
    fn resolved<'s>(&'s self, schema: &'s Value, name: &'s str) -> (&'s Value, &'s str, bool) {
        if let Some(name) = schema.get("$ref").and_then(Value::as_str).and_then(|to| to.rsplit('/').next()) {
            return match self.root.get("$defs").and_then(|defs| defs.get(name)) {
                Some(definition) => self.resolved(definition, name),
                None => (schema, name, false),
            };
        }
        let Some(forms) = schema.get("anyOf").and_then(Value::as_array).filter(|_| !matches!(name, "Size")) else {
            return (schema, name, false);
        };
        let is = |form: &&Value, kind: &str| form.get("type").and_then(Value::as_str) == Some(kind);
        let rest: Vec<&Value> = forms.iter().filter(|form| !is(form, "null")).collect();
        let whole = rest.iter().find(|form| !is(form, "string") || rest.len() == 1);
        let is_short = rest.len() > 1 && rest.iter().any(|form| is(form, "string"));
        let (schema, name, inner) = whole.map_or((schema, name, false), |form| self.resolved(form, name));
        (schema, name, is_short || inner)
    }
}

impl<'s> Group<'s> {
    /// Its settings with their schemas: the name first.
    pub fn settings(&self) -> Vec<(&'s str, &'s Value)> {
        let mut settings: Vec<(&str, &Value)> = self.settings.iter().map(|(name, schema)| (name.as_str(), schema)).collect();
        settings.sort_by_key(|(name, _)| (*name != "name", !self.needs(name)));
        settings
    }

    /// The schema of one setting.
    pub fn setting(&self, name: &str) -> Option<&'s Value> {
        self.settings.get(name)
    }

    /// Must it be written?
    pub fn needs(&self, name: &str) -> bool {
        self.required.iter().any(|required| required == name)
    }

    /// The setting that one word is short for; `None`: the word stands for itself (`off`, or the name of something).
    pub fn short(&self) -> Option<&'s str> {
        if self.name == "RateLimit" {
            return None;
        }
        let required: Vec<&str> = self.required.iter().filter_map(Value::as_str).collect();
        match (self.is_short, required.as_slice()) {
            (false, _) => None,
            (true, [one]) => Some(one),
            (true, _) => self.settings.keys().map(String::as_str).find(|name| *name == "service"),
        }
    }
}

/// What is said about a setting.
pub fn description(schema: &Value) -> &str {
    schema.get("description").and_then(Value::as_str).unwrap_or_default()
}

/// What a setting is when it is not written.
pub fn usual(shape: &Shape, schema: &Value) -> Usual {
    let said = description(schema);
    let text = match said.split_once("Default ") {
        Some((_, rest)) => {
            let end = rest.find(". ").or_else(|| rest.strip_suffix('.').map(str::len)).unwrap_or(rest.len());
            rest.get(..end).unwrap_or(rest)
        }
        None => match said
            .split_once(" (default)")
            .and_then(|(before, _)| before.rsplit_once('`'))
            .and_then(|(before, _)| before.rsplit_once('`'))
        {
            Some((_, word)) => word,
            None => return Usual::Unsaid,
        },
    };
    let bare = text.strip_prefix('`').and_then(|text| text.strip_suffix('`')).filter(|text| !text.contains('`')).unwrap_or(text);
    typed(shape, schema, bare).map_or_else(|| Usual::Said(text.replace('`', "")), Usual::Value)
}

/// The words of a description as a value of the setting's type, if they are one.
fn typed(shape: &Shape, schema: &Value, text: &str) -> Option<Value> {
    let whole = || text.replace(',', "").parse::<i64>().ok().map(Value::from);
    match shape.sort(schema) {
        Sort::Value("true or false") => text.parse::<bool>().ok().map(Value::from),
        Sort::Value("whole number") => whole(),
        Sort::Value("time" | "size" | "percentage") => {
            let is_amount = text.starts_with(|c: char| c.is_ascii_digit()) && !text.contains(' ');
            is_amount.then(|| text.into())
        }
        // Without backticks it is prose.
        Sort::Value("text") => description(schema).contains(&format!("`{text}`")).then(|| text.into()),
        Sort::Choice(choices) => {
            choices.iter().any(|choice| choice.get("const").and_then(Value::as_str) == Some(text)).then(|| text.into())
        }
        Sort::List(items) => text.split(", ").map(|part| typed(shape, items, part)).collect::<Option<Vec<_>>>().map(Value::Array),
        _ => None,
    }
}
