//! JSON for people: a list of objects is a table, an object is a list of names and values. Knows no command, so what the
//! gateway learns to say is shown without a change here.

use serde_json::{Map, Value};
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
        Value::Object(fields) => fields.iter().for_each(|(name, value)| entry(out, &format!("{name}:"), value, indent)),
        other => line(out, indent, &word(other).unwrap_or_default()),
    }
}

fn entry(out: &mut String, name: &str, value: &Value, indent: usize) {
    match word(value) {
        Some(word) if word.contains('\n') => {
            line(out, indent, name);
            word.lines().for_each(|part| line(out, indent + 2, part));
        }
        Some(word) => line(out, indent, format!("{name} {word}").trim_end()),
        None => {
            line(out, indent, name);
            block(out, value, indent + 2);
        }
    }
}

/// Columns in the order in which the rows first name them, but `name` and `version` first. What does not fit into a cell stands below its row.
fn table(out: &mut String, rows: &[&Map<String, Value>], indent: usize) {
    let mut columns: Vec<&String> = Vec::new();
    for row in rows {
        columns.extend(
            row.iter().filter(|(name, value)| cell(value).is_some() && !columns.contains(name)).map(|(name, _)| name).collect::<Vec<_>>(),
        );
    }
    // What a row is called stands first, however its fields are sorted.
    columns.sort_by_key(|name| match name.as_str() {
        "name" => 0,
        "version" => 1,
        _ => 2,
    });
    let widths: Vec<usize> = columns
        .iter()
        .map(|name| {
            let cells = rows.iter().filter_map(|row| row.get(*name).and_then(cell)).map(|cell| cell.chars().count());
            cells.chain([name.chars().count()]).max().unwrap_or(0)
        })
        .collect();
    let write = |out: &mut String, cells: Vec<String>| {
        let mut text = String::new();
        for (cell, &width) in cells.iter().zip(&widths) {
            let _ = write!(text, "{cell:width$}  ");
        }
        line(out, indent, text.trim_end());
    };
    write(out, columns.iter().map(|name| name.to_uppercase()).collect());
    for row in rows {
        write(out, columns.iter().map(|name| row.get(*name).and_then(cell).unwrap_or_default()).collect());
        for (name, value) in row.iter().filter(|(_, value)| cell(value).is_none() && !is_empty(value)) {
            entry(out, &format!("{name}:"), value, indent + 4);
        }
    }
}

/// What fits into a cell.
fn cell(value: &Value) -> Option<String> {
    word(value).filter(|word| !word.contains('\n') && word.chars().count() <= COLUMN_MAX)
}

/// A value that is one word, or a list of such.
fn word(value: &Value) -> Option<String> {
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
