//! `wharf explain` for people, who read it in the order in which things happen: which route and why, what it does step by
//! step, which endpoints, and last the limits and times with the place that each comes from. `--json` has all of it.

use super::show;
use serde_json::{Value, json};
use std::fmt::Write as _;

/// The words in which most settings say that they are not there.
const UNSET: [&str; 4] = ["none", "off", "never", "default"];

/// What the explanation says, as text.
pub(super) fn text(answer: &Value) -> String {
    let mut out = String::new();
    let word = |name: &str| answer.get(name).map(plain).unwrap_or_default();
    let _ = writeln!(out, "request: {} {}", word("method"), word("path"));
    if answer.get("listener").is_some() {
        let _ = writeln!(out, "listener: {} ({})", word("listener"), word("listener_is"));
    }
    for source in rows(answer, "source") {
        let trusted = source.get("is_a_trusted_proxy") == Some(&Value::Bool(true));
        let said = if trusted { "a trusted proxy: what it says about the client counts" } else { "no trusted proxy: it is the client" };
        let _ = writeln!(out, "source: {said}");
    }
    match answer.get("route") {
        Some(route) => {
            let _ = writeln!(out, "route: {}\nto: {}", plain(route), word("to"));
        }
        None => {
            let _ = writeln!(out, "route: none fits; the answer is {}", word("answer"));
        }
    }
    for (name, told) in [("route_at", "at"), ("path_sent", "path sent"), ("path_refused", "refused"), ("redirected_to", "redirected to")] {
        if answer.get(name).is_some() {
            let _ = writeln!(out, "{told}: {}", word(name));
        }
    }
    let others: Vec<Value> =
        rows(answer, "tried").filter(|row| row.get("verdict").is_none_or(|verdict| verdict != "fits")).cloned().collect();
    table(&mut out, "tried before", others);
    // Each step says what it answers in the place of the service, if it may.
    let steps: Vec<Value> = rows(answer, "steps")
        .map(|row| {
            let text = |name: &str| row.get(name).filter(|value| !value.is_null()).map(plain).unwrap_or_default();
            let answers = Some(text("answers")).filter(|text| !text.is_empty()).map(|text| format!("-> {text}")).unwrap_or_default();
            json!({ "step": text("step"), "does": text("does"), "answers": answers, "from": text("from") })
        })
        .collect();
    columns(&mut out, "steps, in order", &["step", "does", "answers", "from"], &steps);
    table(&mut out, "plugins", rows(answer, "chain").cloned().collect());
    match answer.get("now") {
        Some(now) => {
            let _ = writeln!(out, "the service now:");
            indented(&mut out, &show::text(now));
        }
        None => table(&mut out, "endpoints", rows(answer, "endpoints").cloned().collect()),
    }
    // What somebody has written first, then the limits and times that hold by themselves.
    let is_default = |row: &Value| {
        row.get("from").and_then(Value::as_str).is_some_and(|from| from.starts_with("default") && !from.starts_with("defaults"))
    };
    let is_described = |row: &Value| row.get("from").is_some_and(|from| from == "default, described");
    let is_unset = |row: &Value| {
        is_described(row)
            && row
                .get("value")
                .and_then(Value::as_str)
                .is_none_or(|value| UNSET.iter().any(|word| value.starts_with(word)) || value.contains(' '))
    };
    let (set, usual): (Vec<Value>, Vec<Value>) = rows(answer, "settings").cloned().partition(|row| !is_default(row));
    let (unset, usual): (Vec<Value>, Vec<Value>) = usual.into_iter().partition(is_unset);
    let names = ["of", "setting", "value", "from"];
    columns(&mut out, "written", &names, &set);
    columns(&mut out, "by default", &["of", "setting", "value"], &usual);
    if !unset.is_empty() {
        let _ = writeln!(out, "not set: {} more (`--json`)", unset.len());
    }
    out
}

fn rows<'v>(answer: &'v Value, name: &str) -> impl Iterator<Item = &'v Value> {
    answer.get(name).and_then(Value::as_array).into_iter().flatten()
}

fn plain(value: &Value) -> String {
    show::word(value).unwrap_or_default()
}

fn table(out: &mut String, title: &str, rows: Vec<Value>) {
    if rows.is_empty() {
        return;
    }
    let _ = writeln!(out, "{title}:");
    indented(out, &show::text(&json!(rows)));
}

fn indented(out: &mut String, text: &str) {
    for line in text.lines() {
        let _ = writeln!(out, "  {line}");
    }
}

/// Columns in this order; without a head, since what stands in them says it.
fn columns(out: &mut String, title: &str, names: &[&str], rows: &[Value]) {
    if rows.is_empty() {
        return;
    }
    let _ = writeln!(out, "{title}:");
    let cell = |row: &Value, name: &str| row.get(name).filter(|value| !value.is_null()).map(plain).unwrap_or_default();
    let widths: Vec<usize> = names.iter().map(|name| rows.iter().map(|row| cell(row, name).chars().count()).max().unwrap_or(0)).collect();
    for row in rows {
        let mut line = String::new();
        for (name, &width) in names.iter().zip(&widths) {
            let _ = write!(line, "{:width$}  ", cell(row, name));
        }
        let _ = writeln!(out, "  {}", line.trim_end());
    }
}
