//! `wharf diff`: what would change, as text that people read from the top.

use super::admin::Client;
use super::{DiffArgs, Exit, Failure, Trouble, document};
use crate::config::diff::diff;
use crate::config::document::{Document, word};
use serde_json::Value;
use std::fmt::Write as _;

/// What would change.
pub(super) fn of(args: &DiffArgs) -> Result<Value, Trouble> {
    let usage = |message: &str| Failure::new(Exit::Usage, "usage", message);
    let (old, new) = match (args.running, args.files.as_slice()) {
        (true, [new]) => {
            let running = Client::find(&args.admin)?.get(&["config", "effective"])?;
            (Document::from_json(&running), document(new)?.1)
        }
        (false, [old, new]) => (document(old)?.1, document(new)?.1),
        (true, _) => return Err(usage("with `--running` name one file").into()),
        (false, _) => return Err(usage("name two files, or one and `--running`").into()),
    };
    Ok(diff(&old, &new))
}

/// For people.
pub(super) fn text(found: &Value) -> String {
    let list = |name: &str| found.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let said = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut out = String::new();
    for change in list("changes") {
        let mark = match said(&change, "change").as_str() {
            "added" => '+',
            "removed" => '-',
            _ => '~',
        };
        let restart = if change.get("needs_restart") == Some(&Value::Bool(true)) { "  (at a restart)" } else { "" };
        let _ = writeln!(out, "{}{restart}", format!("{mark} {} {}", said(&change, "kind"), said(&change, "name")).trim_end());
        for setting in change.get("settings").and_then(Value::as_array).into_iter().flatten() {
            let value = |name: &str| match setting.get(name) {
                None | Some(Value::Null) => "nothing".to_owned(),
                Some(value) => word(value),
            };
            let _ = writeln!(out, "    {}: {} -> {}", said(setting, "setting"), value("old"), value("new"));
        }
    }
    let affected = list("affected");
    if !affected.is_empty() {
        out.push_str("affected without being changed themselves:\n");
        for route in affected {
            let by: Vec<&str> = route.get("by").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
            let _ = writeln!(out, "  route {}, by {}", said(&route, "route"), by.join(", "));
        }
    }
    if out.is_empty() {
        out.push_str("nothing would change\n");
    }
    out
}
