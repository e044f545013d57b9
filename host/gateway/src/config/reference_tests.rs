//! The reference in `docs/configuration.md` is written by this file: every setting with its type, default, bounds and meaning,
//! from the schema and from what the checker says about a value that is too large. `WHARF_WRITE_EXPECTED=1` writes it anew.

use crate::config::shape::{Group, Shape, Sort, Usual, description, usual};
use crate::config::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

const BEGIN: &str = "<!-- The reference: written by a test from the schema, as is everything down to its end. -->";
const END: &str = "<!-- The end of the reference. -->";

/// One step down to a setting.
#[derive(Clone, Debug)]
enum Step {
    Setting(String, Vec<(String, Value)>),
    Name,
    Item,
}

/// What stands beside a setting so that it is looked at, of those that must be written.
fn sibling(name: &str) -> Value {
    match name {
        "bind" => json!("127.0.0.1:0"),
        "address" => json!("127.0.0.1:1"),
        "to" => json!({ "answer": { "status": 200 } }),
        "status" => json!(200),
        "services" => json!(["s"]),
        "plugin" => json!("p"),
        "name" => json!("x.test:80"),
        _ => json!("x"),
    }
}

/// A whole configuration with this value at the end of these steps.
fn with(steps: &[Step], value: Value) -> Value {
    match steps {
        [] => value,
        [Step::Name, rest @ ..] => json!({ "x": with(rest, value) }),
        [Step::Item, rest @ ..] => json!([with(rest, value)]),
        [Step::Setting(name, beside), rest @ ..] => {
            let mut settings: serde_json::Map<String, Value> = beside.iter().filter(|(have, _)| have != name).cloned().collect();
            settings.insert(name.clone(), with(rest, value));
            Value::Object(settings)
        }
    }
}

/// From where to where a setting may be: what the checker says to a value that is too large.
fn bounds(steps: &[Step], name: &str, kind: &str) -> Option<String> {
    let large = match kind {
        "time" => json!("30000d"),
        "size" => json!("900000GiB"),
        "percentage" => json!("9999%"),
        "whole number" => json!(u64::MAX),
        _ => return None,
    };
    let around = Surroundings { addresses: Vec::new(), cores: 4, may_bind: false, any_address: true, expired: false };
    let mistakes = check("t.yaml", &with(steps, large).to_string(), Path::new(""), &around).err()?;
    mistakes.list.iter().find_map(|mistake| {
        let text = format!("{} {}", mistake.message, mistake.hint.as_deref().unwrap_or_default());
        let is_it = text.contains(&format!("`{name}` is")) || text.contains("18446744073709551615");
        let (from, to) = text.split_once(" from ")?.1.split_once(" to ")?;
        let to = to.split([',', ' ']).next()?;
        is_it.then(|| format!("{} to {}", grouped(from), grouped(to)))
    })
}

/// `1000000` as people read it.
fn grouped(number: &str) -> String {
    let (sign, digits) = number.strip_prefix('-').map_or(("", number), |digits| ("-", digits));
    if digits.len() < 5 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return number.to_owned();
    }
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    format!("{sign}{out}")
}

struct Writing<'s> {
    shape: &'s Shape,
    out: String,
    seen: BTreeSet<String>,
    /// Groups that are still to be written: the path, and the steps that lead there.
    waiting: Vec<(String, Vec<Step>, &'s Value)>,
}

impl<'s> Writing<'s> {
    fn group(&mut self, path: &str, steps: &[Step], group: &Group<'s>) {
        let title = if path.is_empty() { "the file".to_owned() } else { format!("`{path}`") };
        let _ = writeln!(self.out, "### {title}\n");
        if !group.description.is_empty() {
            let short = group.short().map(|short| format!(" A bare word is its `{short}`.")).unwrap_or_default();
            let _ = writeln!(self.out, "{}{short}\n", group.description);
        }
        let _ = writeln!(self.out, "| setting | type | default | bounds | |\n| --- | --- | --- | --- | --- |");
        let required: Vec<(String, Value)> =
            group.settings().iter().filter(|(name, _)| group.needs(name)).map(|(name, _)| ((*name).to_owned(), sibling(name))).collect();
        for (name, schema) in group.settings() {
            let mut steps = steps.to_vec();
            steps.push(Step::Setting(name.to_owned(), required.clone()));
            let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
            let kind = self.kind(schema, &path, &steps);
            let default = match usual(self.shape, schema) {
                _ if group.needs(name) => "must be given".to_owned(),
                Usual::Value(Value::String(text)) => format!("`{text}`"),
                Usual::Value(Value::Array(items)) => items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
                Usual::Value(value) => grouped(&value.to_string()),
                Usual::Said(said) => said,
                Usual::Unsaid => String::new(),
            };
            let bare = kind.trim_start_matches("list of ").trim_end_matches('s');
            let probe: Vec<Step> = steps.iter().cloned().chain(kind.starts_with("list of").then_some(Step::Item)).collect();
            let bounds = bounds(&probe, name, bare).unwrap_or_default();
            let _ = writeln!(self.out, "| `{name}` | {kind} | {default} | {bounds} | {} |", meaning(description(schema)));
        }
        self.out.push('\n');
    }

    /// What may stand there, in a few words; what has settings of its own is written later.
    fn kind(&mut self, schema: &'s Value, path: &str, steps: &[Step]) -> String {
        let below = |step: Step| steps.iter().cloned().chain([step]).collect::<Vec<_>>();
        match self.shape.sort(schema) {
            Sort::Value(kind) => kind.to_owned(),
            Sort::Free => "anything".into(),
            Sort::Group(group) => {
                if self.seen.insert(group.name.to_owned()) {
                    self.waiting.push((path.to_owned(), steps.to_vec(), schema));
                }
                format!(
                    "[{}](#{})",
                    spoken(group.name),
                    anchor(self.waiting.iter().chain([]).find(|(_, _, have)| self.is(have, group.name)).map_or(path, |(path, ..)| path))
                )
            }
            Sort::Named(inner) => format!("names of: {}", self.kind(inner, &format!("{path}.NAME"), &below(Step::Name))),
            Sort::List(inner) => {
                let kind = self.kind(inner, &format!("{path}[]"), &below(Step::Item));
                if kind.starts_with('[') { format!("list of: {kind}") } else { format!("list of {kind}s").replace("texts", "text") }
            }
            Sort::Choice(choices) => {
                let words = choices.iter().filter_map(|choice| {
                    let word = choice.get("const").and_then(Value::as_str).map(|word| format!("`{word}`"));
                    word.or_else(|| Some(format!("`{{{}: ...}}`", choice.get("properties")?.as_object()?.keys().next()?)))
                });
                words.collect::<Vec<_>>().join(", ")
            }
        }
    }

    fn is(&self, schema: &Value, name: &str) -> bool {
        matches!(self.shape.sort(schema), Sort::Group(group) if group.name == name)
    }
}

fn spoken(name: &str) -> String {
    let mut words = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.push(letter.to_ascii_lowercase());
    }
    words
}

/// As pages of Markdown name their heads.
fn anchor(path: &str) -> String {
    path.to_lowercase().chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-')).collect()
}

/// What a setting is for, without what other columns say.
fn meaning(description: &str) -> String {
    let mut text = description.to_owned();
    if let Some((before, rest)) = description.split_once("Default ") {
        let behind = rest.find(". ").and_then(|end| rest.get(end + 2..)).unwrap_or_default();
        text = format!("{before}{behind}");
    }
    text.trim().replace('|', "\\|")
}

fn reference() -> String {
    let shape = Shape::new();
    let mut writing = Writing { shape: &shape, out: String::new(), seen: BTreeSet::new(), waiting: Vec::new() };
    if let Sort::Group(group) = shape.sort(shape.file()) {
        writing.group("", &[], &group);
    }
    let mut at = 0;
    while let Some((path, steps, schema)) = writing.waiting.get(at).cloned() {
        at += 1;
        if let Sort::Group(group) = shape.sort(schema) {
            writing.group(&path, &steps, &group);
        }
    }
    writing.out
}

#[test]
fn the_reference_in_the_docs_is_the_one_of_the_schema() {
    let page: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let text = std::fs::read_to_string(&page).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the page has the begin of the reference");
    let (_, after) = rest.split_once(END).expect("the page has the end of the reference");
    let whole = format!("{before}{BEGIN}\n\n{}{END}{after}", reference());
    if std::env::var_os("WHARF_WRITE_EXPECTED").is_some() {
        std::fs::write(&page, &whole).unwrap();
    }
    assert!(std::fs::read_to_string(page).unwrap() == whole, "run this test with WHARF_WRITE_EXPECTED=1, read what it wrote and commit it");
}

#[test]
fn the_reference_knows_bounds_from_the_checker_itself() {
    let text = reference();
    for line in [
        "| `workers` | whole number | one for each CPU core | 1 to 256 |",
        "| `head_bytes_max` | size | `32KiB` | 1KiB to 1MiB |",
        "| `budget` | percentage | `20%` | 0% to 100% |",
        "| `weight` | whole number | 1 | 0 to 1,000,000 |",
        "| `degrade_statuses` | list of whole numbers | 502, 503, 504 | 500 to 599 |",
        "| `priority` | whole number | 0 | -2,147,483,648 to 2,147,483,647 |",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
}
