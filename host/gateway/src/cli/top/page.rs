//! One view as a page for people: within 80 columns, and with the usual number of rows within 24 lines. What is in trouble stands
//! first, then routes and services, the busiest first. Pure.

use serde_json::Value;
use std::fmt::Write as _;

/// Rows of each table on a terminal that nobody has said more about.
pub(super) const ROWS: usize = 5;
/// Widest name.
const NAME_MAX: usize = 24;
/// Most lines about trouble.
const TROUBLES_MAX: usize = 3;
/// Longest line about trouble.
const WIDTH: usize = 80;

/// The page. `rows` of each table at most; `None`: all.
pub(super) fn text(view: &Value, rows: Option<usize>) -> String {
    let mut out = String::new();
    let mebibytes = |name: &str| number(view, name) / (1024.0 * 1024.0);
    let _ = writeln!(
        out,
        "Wharf {}  generation {}  {} requests in flight  {} connections",
        word(view, "version"),
        number(view, "generation"),
        number(view, "in_flight"),
        number(view, "connections"),
    );
    let _ = writeln!(
        out,
        "{:.1} requests/s  {:.1} 5xx/s  {:.1} faults/s  {:.1} turned away/s",
        number(view, "requests_per_s"),
        number(view, "errors_per_s"),
        number(view, "faults_per_s"),
        number(view, "turned_away_per_s"),
    );
    let most = match mebibytes("memory_max_bytes") {
        0.0 => String::new(),
        most => format!(" of {most:.0}"),
    };
    let _ = writeln!(
        out,
        "{:.2} of {} cores busy  {:.1}{most} MiB of memory",
        number(view, "busy_cores"),
        number(view, "cores"),
        mebibytes("memory_bytes"),
    );
    let troubles = list(view, "troubles");
    for trouble in troubles.iter().take(TROUBLES_MAX).filter_map(Value::as_str) {
        let _ = writeln!(out, "! {}", cut(trouble, WIDTH - 2));
    }
    if troubles.len() > TROUBLES_MAX {
        let _ = writeln!(out, "! and {} more", troubles.len() - TROUBLES_MAX);
    }
    let _ = writeln!(out, "\n{:<NAME_MAX$} {:>10} {:>9} {:>9} {:>9}", "ROUTE", "REQUESTS/S", "5XX/S", "P50 MS", "P99 MS");
    table(&mut out, &list(view, "routes"), "requests_per_s", rows, |route| {
        let name = Some(word(route, "route")).filter(|name| !name.is_empty()).unwrap_or_else(|| "(none)".into());
        let (all, bad) = (number(route, "requests_per_s"), number(route, "errors_per_s"));
        let (p50, p99) = (maybe(route, "p50_ms"), maybe(route, "p99_ms"));
        format!("{:<NAME_MAX$} {all:>10.1} {bad:>9.1} {p50:>9} {p99:>9}", cut(&name, NAME_MAX))
    });
    let _ = writeln!(
        out,
        "\n{:<NAME_MAX$} {:>10} {:>9} {:>9} {:>9} {:>7} {:>5}",
        "SERVICE", "CALLS/S", "FAILED/S", "P50 MS", "P99 MS", "FIT", "CONN"
    );
    table(&mut out, &list(view, "services"), "calls_per_s", rows, |service| {
        let (all, bad) = (number(service, "calls_per_s"), number(service, "failures_per_s"));
        let (p50, p99) = (maybe(service, "p50_ms"), maybe(service, "p99_ms"));
        let endpoints = list(service, "endpoints");
        let fit = endpoints.iter().filter(|endpoint| is(endpoint, "fit")).count();
        let fit = format!("{fit}/{}", endpoints.len());
        let connections: f64 = endpoints.iter().map(|endpoint| number(endpoint, "connections")).sum();
        let name = cut(&word(service, "service"), NAME_MAX);
        format!("{name:<NAME_MAX$} {all:>10.1} {bad:>9.1} {p50:>9} {p99:>9} {fit:>7} {connections:>5}")
    });
    out
}

/// The busiest first; those that are equally busy by name, in the order in which they come.
fn table(out: &mut String, all: &[Value], busy: &str, rows: Option<usize>, line: impl Fn(&Value) -> String) {
    let mut sorted: Vec<&Value> = all.iter().collect();
    sorted.sort_by(|one, other| number(other, busy).total_cmp(&number(one, busy)));
    let shown = rows.unwrap_or(sorted.len());
    for row in sorted.iter().take(shown) {
        let _ = writeln!(out, "{}", line(row));
    }
    if sorted.len() > shown {
        let _ = writeln!(out, "and {} more (`--rows`)", sorted.len() - shown);
    }
}

fn number(value: &Value, name: &str) -> f64 {
    value.get(name).and_then(Value::as_f64).unwrap_or_default()
}

fn maybe(value: &Value, name: &str) -> String {
    value.get(name).and_then(Value::as_f64).map_or("-".into(), |number| format!("{number:.2}"))
}

fn word(value: &Value, name: &str) -> String {
    value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn is(value: &Value, name: &str) -> bool {
    value.get(name).and_then(Value::as_bool).unwrap_or_default()
}

fn list(value: &Value, name: &str) -> Vec<Value> {
    value.get(name).and_then(Value::as_array).cloned().unwrap_or_default()
}

/// What fits into so many columns, and a sign that there was more.
fn cut(text: &str, columns: usize) -> String {
    if text.chars().count() <= columns {
        return text.to_owned();
    }
    text.chars().take(columns - 1).chain(['…']).collect()
}
