//! JSON for people: a list of objects is a table, an object is a list of names and values. Knows no command, so what the
//! gateway learns to say is shown without a change here. Times are said as times, and a digest in a table by its first
//! digits; `--json` has everything as it is.

use crate::telemetry::date_of;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::fmt::Write as _;

/// Widest column.
const COLUMN_MAX: usize = 72;

/// A value as lines of text.
pub(super) fn text(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Null => {}
        // `{"plugins": [...]}`: the list is what was asked for.
        Value::Object(fields) if fields.len() == 1 && fields.values().all(|only| only.is_array()) => {
            fields.values().for_each(|list| block(&mut out, list, 0));
        }
        other => block(&mut out, other, 0),
    }
    out
}

fn block(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Array(items) if items.is_empty() => line(out, indent, "none"),
        Value::Array(items) if items.iter().all(Value::is_object) => {
            let rows: Vec<&Map<String, Value>> = items.iter().filter_map(Value::as_object).collect();
            table(out, &rows, indent);
        }
        Value::Array(items) => items.iter().for_each(|item| entry(out, "-", item, indent)),
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(name, _)| rank(name));
            for (name, value) in fields {
                let (name, value) = said(name, value);
                entry(out, &format!("{name}:"), &value, indent);
            }
        }
        other => line(out, indent, &word(other).unwrap_or_default()),
    }
}

/// What something is called stands first, however its fields are sorted.
fn rank(name: &str) -> usize {
    let first = ["name", "kind", "plugin", "version", "route", "to", "of", "setting", "value"];
    first.iter().position(|known| *known == name).unwrap_or(first.len())
}

/// The first moment, in milliseconds since 1970, that is taken for a time and not for a duration: in 2001.
const TIMES_FROM: u64 = 1_000_000_000_000;

/// A field as people say it: `pushed_ms` is when it was pushed.
fn said<'a>(name: &'a str, value: &'a Value) -> (&'a str, Cow<'a, Value>) {
    let (plain, value) = match name.strip_suffix("_ms") {
        Some(plain) => (plain, value),
        None if name == "ms" => ("took", value),
        None => return (name, Cow::Borrowed(value)),
    };
    let text = match value.as_u64() {
        Some(time) if time >= TIMES_FROM => utc(time / 1000),
        _ => match value.as_number() {
            Some(number) => format!("{number} ms"),
            None => return (plain, Cow::Borrowed(value)),
        },
    };
    (plain, Cow::Owned(Value::String(text)))
}

/// A second since 1970 as date and time.
fn utc(second: u64) -> String {
    let (year, month, day) = date_of(second / 86_400);
    let rest = second % 86_400;
    format!("{year}-{month:02}-{day:02} {:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

fn entry(out: &mut String, name: &str, value: &Value, indent: usize) {
    match word(value) {
        Some(word) if word.contains('\n') => {
            line(out, indent, name);
            word.lines().for_each(|part| line(out, indent + 2, part));
        }
        Some(word) => line(out, indent, format!("{name} {word}").trim_end()),
        None if is_empty(value) => line(out, indent, &format!("{name} none")),
        None => {
            line(out, indent, name);
            block(out, value, indent + 2);
        }
    }
}

/// Columns in the order in which the rows first name them, but [what a row is called](rank) first; one in which no row has
/// anything is left out. What does not fit into a cell stands below its row.
fn table(out: &mut String, rows: &[&Map<String, Value>], indent: usize) {
    let mut columns: Vec<&String> = Vec::new();
    for row in rows {
        let says = |value: &Value| !value.is_null() && value.as_str() != Some("");
        let new = row.iter().filter(|(name, value)| says(value) && cell(name, value).is_some() && !columns.contains(name));
        columns.extend(new.map(|(name, _)| name).collect::<Vec<_>>());
    }
    columns.sort_by_key(|name| rank(name));
    let widths: Vec<usize> = columns
        .iter()
        .map(|name| {
            let cells = rows.iter().filter_map(|row| cell(name, row.get(*name)?)).map(|cell| cell.chars().count());
            cells.chain([title(name).chars().count()]).max().unwrap_or(0)
        })
        .collect();
    let write = |out: &mut String, cells: Vec<String>| {
        let mut text = String::new();
        for (cell, &width) in cells.iter().zip(&widths) {
            let _ = write!(text, "{cell:width$}  ");
        }
        line(out, indent, text.trim_end());
    };
    write(out, columns.iter().map(|name| title(name)).collect());
    for row in rows {
        write(out, columns.iter().map(|name| row.get(*name).and_then(|value| cell(name, value)).unwrap_or_default()).collect());
        for (name, value) in row.iter().filter(|(name, value)| cell(name, value).is_none() && !is_empty(value)) {
            entry(out, &format!("{name}:"), value, indent + 4);
        }
    }
}

fn title(name: &str) -> String {
    said(name, &Value::Null).0.to_uppercase()
}

/// What fits into a cell.
fn cell(name: &str, value: &Value) -> Option<String> {
    match value {
        // A sha-256: so many digits tell apart whatever one gateway has.
        Value::String(text) if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) => text.get(..12).map(str::to_owned),
        _ => word(&said(name, value).1).filter(|word| !word.contains('\n') && word.chars().count() <= COLUMN_MAX),
    }
}

/// A value that is one word, or a list of such.
pub(super) fn word(value: &Value) -> Option<String> {
    match value {
        Value::Null => Some("-".into()),
        Value::Bool(yes) => Some(if *yes { "yes" } else { "no" }.into()),
        Value::Number(number) => Some(number.to_string()),
        // A terminal obeys control characters; names and messages may come from outside.
        Value::String(text) => Some(text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()),
        Value::Array(items) if !items.is_empty() && items.iter().all(|item| !item.is_object() && !item.is_array()) => {
            Some(items.iter().filter_map(word).collect::<Vec<_>>().join(", "))
        }
        Value::Array(_) | Value::Object(_) => None,
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty)
}

fn line(out: &mut String, indent: usize, text: &str) {
    let _ = writeln!(out, "{:indent$}{text}", "");
}
