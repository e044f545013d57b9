//! `wharf top`: what a running gateway is doing, as a view that renews itself, or once for scripts.
//!
//! Two looks at the metrics, an interval apart, make one view ([`view`], pure): rates and percentiles are those of the
//! interval, levels those of its end. Plain text; the screen is cleared only where there is one.

use super::admin::Client;
use super::{AdminArgs, Exit, Failure, print, print_failure};
use clap::Args;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// `wharf top`
#[derive(Clone, Debug, Args)]
pub struct TopArgs {
    /// Seconds between two looks
    #[arg(long, short, default_value_t = 2.0, value_parser = seconds)]
    interval: f64,
    /// Show one view and end
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    pub(super) admin: AdminArgs,
}

fn seconds(text: &str) -> Result<f64, String> {
    let within = text.parse::<f64>().ok().filter(|seconds| (0.1..=60.0).contains(seconds));
    within.ok_or_else(|| format!("`{text}` is not a number of seconds from 0.1 to 60"))
}

/// Clears the screen and goes to its first corner.
const CLEAR: &str = "\x1b[2J\x1b[H";

pub(super) fn run(args: &TopArgs, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    match look_on(args, out) {
        Ok(exit) => exit,
        Err(failure) => print_failure(&failure, args.admin.json, out, err),
    }
}

fn look_on(args: &TopArgs, out: &mut dyn Write) -> Result<Exit, Failure> {
    let client = Client::find(&args.admin)?;
    let (mut before, mut at) = (Metrics::read(&client.metrics()?), Instant::now());
    let clears = !args.once && !args.admin.json && std::io::stdout().is_terminal();
    loop {
        std::thread::sleep(Duration::from_secs_f64(args.interval)); // look again: what passes meanwhile is what is shown
        let (after, now) = (Metrics::read(&client.metrics()?), Instant::now());
        let view = view(&before, &after, now.duration_since(at).as_secs_f64());
        let shown = match (args.admin.json, args.once) {
            (true, true) => format!("{view:#}\n"),
            // A line for each look, for who reads on.
            (true, false) => format!("{view}\n"),
            (false, _) => text(&view),
        };
        if args.once {
            return Ok(print(out, &shown));
        }
        let clear = if clears { CLEAR } else { "" };
        // Nobody reads any more: the end, as for any filter.
        if out.write_all(format!("{clear}{shown}\n").as_bytes()).and_then(|()| out.flush()).is_err() {
            return Ok(Exit::Done);
        }
        (before, at) = (after, now);
    }
}

type Labels = BTreeMap<String, String>;

/// Series by name and labels.
#[derive(Debug, Default)]
struct Metrics(BTreeMap<String, Vec<(Labels, f64)>>);

impl Metrics {
    /// Reads Prometheus' text format as the gateway writes it.
    fn read(text: &str) -> Metrics {
        let mut metrics = Metrics::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let Ok(value) = value.parse() else { continue };
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            metrics.0.entry(name.to_owned()).or_default().push((labels_of(labels.trim_end_matches('}')), value));
        }
        metrics
    }

    /// The sum of all series that have this label.
    fn sum(&self, name: &str, wanted: &[(&str, &str)]) -> f64 {
        let has = |labels: &Labels| wanted.iter().all(|(name, value)| labels.get(*name).is_some_and(|have| have == value));
        self.0.get(name).into_iter().flatten().filter(|(labels, _)| has(labels)).fold(0.0, |sum, (_, value)| sum + value)
    }

    /// Every value that a label has.
    fn values(&self, name: &str, label: &str) -> BTreeSet<String> {
        self.0.get(name).into_iter().flatten().filter_map(|(labels, _)| labels.get(label).cloned()).collect()
    }

    /// Buckets of a histogram by their upper bounds, seconds.
    fn buckets(&self, name: &str, wanted: &[(&str, &str)]) -> Vec<(f64, f64)> {
        let name = format!("{name}_bucket");
        let mut found: Vec<(f64, f64)> = Vec::new();
        for bound in self.values(&name, "le") {
            let mut wanted = wanted.to_vec();
            wanted.push(("le", &bound));
            let at = if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap_or(f64::INFINITY) };
            found.push((at, self.sum(&name, &wanted)));
        }
        found.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        found
    }
}

/// `a="1",b="2"`.
fn labels_of(mut text: &str) -> Labels {
    let mut labels = BTreeMap::new();
    while let Some((name, rest)) = text.split_once("=\"") {
        let mut value = String::new();
        let mut letters = rest.char_indices();
        let mut end = rest.len();
        while let Some((at, letter)) = letters.next() {
            match letter {
                '"' => {
                    end = at + 1;
                    break;
                }
                '\\' => value.extend(letters.next().map(|(_, letter)| if letter == 'n' { '\n' } else { letter })),
                letter => value.push(letter),
            }
        }
        labels.insert(name.trim_start_matches(',').to_owned(), value);
        text = rest.get(end..).unwrap_or_default();
    }
    labels
}

/// What happened between two looks, `seconds` apart.
fn view(before: &Metrics, after: &Metrics, seconds: f64) -> Value {
    let rate = |name: &str, labels: &[(&str, &str)]| {
        // A counter that went back is that of another process.
        let grown = (after.sum(name, labels) - before.sum(name, labels)).max(0.0);
        round(grown / seconds.max(0.001))
    };
    let times = |name: &str, labels: &[(&str, &str)]| {
        let earlier = before.buckets(name, labels);
        let grown = after.buckets(name, labels).into_iter().map(|(bound, count)| {
            let was = earlier.iter().find(|(have, _)| *have == bound).map_or(0.0, |(_, count)| *count);
            (bound, (count - was).max(0.0))
        });
        let grown: Vec<_> = grown.collect();
        (millis(&grown, 0.5), millis(&grown, 0.99))
    };
    let requests = "wharf_http_requests_total";
    let routes = after.values(requests, "route").into_iter().map(|route| {
        let labels = [("route", route.as_str())];
        let (p50, p99) = times("wharf_http_request_seconds", &labels);
        json!({
            "route": route,
            "requests_per_s": rate(requests, &labels),
            "errors_per_s": rate(requests, &[("route", &route), ("class", "5xx")]),
            "p50_ms": p50,
            "p99_ms": p99,
        })
    });
    let services = after.values("wharf_upstream_endpoints", "service").into_iter().map(|service| {
        let labels = [("service", service.as_str())];
        let (p50, p99) = times("wharf_upstream_head_seconds", &labels);
        let good: f64 = ["2xx", "3xx", "4xx", "1xx"]
            .iter()
            .map(|class| rate("wharf_upstream_calls_total", &[("service", &service), ("outcome", class)]))
            .sum();
        let calls = rate("wharf_upstream_calls_total", &labels);
        let endpoints = after.0.get("wharf_upstream_endpoint_fit").into_iter().flatten();
        let endpoints = endpoints.filter(|(labels, _)| labels.get("service") == Some(&service)).filter_map(|(labels, fit)| {
            let endpoint = labels.get("endpoint")?;
            let labels = [("service", service.as_str()), ("endpoint", endpoint.as_str())];
            Some(json!({
                "endpoint": endpoint,
                "fit": *fit > 0.0,
                "ejected": after.sum("wharf_upstream_endpoint_ejected", &labels) > 0.0,
                "in_flight": after.sum("wharf_upstream_in_flight", &labels),
                "connections": after.sum("wharf_upstream_connections", &labels),
            }))
        });
        json!({
            "service": service,
            "calls_per_s": calls,
            "failures_per_s": round((calls - good).max(0.0)),
            "p50_ms": p50,
            "p99_ms": p99,
            "endpoints": endpoints.collect::<Vec<_>>(),
        })
    });
    json!({
        "seconds": round(seconds),
        "requests_per_s": rate(requests, &[]),
        "errors_per_s": rate(requests, &[("class", "5xx")]),
        "in_flight": after.sum("wharf_http_in_flight", &[]),
        "connections": after.sum("wharf_connections_open", &[]),
        "cores": after.sum("wharf_cores", &[]),
        "busy_cores": round(rate("wharf_process_cpu_milliseconds_total", &[]) / 1000.0),
        "memory_bytes": after.sum("wharf_process_memory_bytes", &[]),
        "generation": after.sum("wharf_generation", &[]),
        "routes": routes.collect::<Vec<_>>(),
        "services": services.collect::<Vec<_>>(),
    })
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// A percentile of what fell into growing buckets, milliseconds, evenly spread within each; `None`: nothing did. What is
/// beyond the last bound is said to be at it.
fn millis(buckets: &[(f64, f64)], share: f64) -> Option<f64> {
    let all = buckets.last().map(|(_, count)| *count).filter(|count| *count > 0.0)?;
    let wanted = all * share;
    let (mut below, mut so_far) = (0.0, 0.0);
    for (bound, count) in buckets {
        if *count >= wanted {
            if bound.is_infinite() {
                return Some(round(below * 1e3));
            }
            let inside = (count - so_far).max(f64::MIN_POSITIVE);
            return Some(round((below + (bound - below) * (wanted - so_far) / inside) * 1e3));
        }
        (below, so_far) = (*bound, *count);
    }
    None
}

/// The view for people.
fn text(view: &Value) -> String {
    let number = |value: &Value, name: &str| value.get(name).and_then(Value::as_f64).unwrap_or_default();
    let maybe = |value: &Value, name: &str| value.get(name).and_then(Value::as_f64).map_or("-".into(), |number| format!("{number:.2}"));
    let word = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let list = |value: &Value, name: &str| value.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{:.1} requests/s, {:.1} errors/s, {} in flight, {} connections; {:.2} of {} cores busy, {:.1} MiB, generation {}",
        number(view, "requests_per_s"),
        number(view, "errors_per_s"),
        number(view, "in_flight"),
        number(view, "connections"),
        number(view, "busy_cores"),
        number(view, "cores"),
        number(view, "memory_bytes") / (1024.0 * 1024.0),
        number(view, "generation"),
    );
    let _ = writeln!(out, "\n{:<32} {:>12} {:>10} {:>10} {:>10}", "ROUTE", "REQUESTS/S", "ERRORS/S", "P50 MS", "P99 MS");
    for route in list(view, "routes") {
        let name = Some(word(&route, "route")).filter(|name| !name.is_empty()).unwrap_or_else(|| "(none)".into());
        let (all, bad) = (number(&route, "requests_per_s"), number(&route, "errors_per_s"));
        let _ = writeln!(out, "{name:<32} {all:>12.1} {bad:>10.1} {:>10} {:>10}", maybe(&route, "p50_ms"), maybe(&route, "p99_ms"));
    }
    let _ = writeln!(out, "\n{:<32} {:>12} {:>10} {:>10} {:>10}", "SERVICE", "CALLS/S", "FAILED/S", "P50 MS", "P99 MS");
    for service in list(view, "services") {
        let (name, all, bad) = (word(&service, "service"), number(&service, "calls_per_s"), number(&service, "failures_per_s"));
        let _ = writeln!(out, "{name:<32} {all:>12.1} {bad:>10.1} {:>10} {:>10}", maybe(&service, "p50_ms"), maybe(&service, "p99_ms"));
        for endpoint in list(&service, "endpoints") {
            let is = |name: &str| endpoint.get(name).and_then(Value::as_bool).unwrap_or_default();
            let health = match (is("fit"), is("ejected")) {
                (_, true) => "left out",
                (true, _) => "fit",
                (false, _) => "ill",
            };
            let (calls, connections) = (number(&endpoint, "in_flight"), number(&endpoint, "connections"));
            let _ = writeln!(out, "  {:<30} {health:>12}  {calls} in flight, {connections} connections", word(&endpoint, "endpoint"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "# HELP x y
wharf_http_requests_total{route=\"a\",class=\"2xx\"} 100
wharf_http_requests_total{route=\"a\",class=\"5xx\"} 10
wharf_http_request_seconds_bucket{route=\"a\",le=\"0.001\"} 110
wharf_http_request_seconds_bucket{route=\"a\",le=\"0.01\"} 110
wharf_http_request_seconds_bucket{route=\"a\",le=\"+Inf\"} 110
wharf_process_cpu_milliseconds_total 1000
";
    const AFTER: &str = "wharf_http_requests_total{route=\"a\",class=\"2xx\"} 280
wharf_http_requests_total{route=\"a\",class=\"5xx\"} 30
wharf_http_requests_total{route=\"\",class=\"4xx\"} 2
wharf_http_request_seconds_bucket{route=\"a\",le=\"0.001\"} 210
wharf_http_request_seconds_bucket{route=\"a\",le=\"0.01\"} 310
wharf_http_request_seconds_bucket{route=\"a\",le=\"+Inf\"} 310
wharf_upstream_endpoints{service=\"up\"} 1
wharf_upstream_calls_total{service=\"up\",endpoint=\"10.0.0.7:80\",outcome=\"2xx\"} 6
wharf_upstream_calls_total{service=\"up\",endpoint=\"10.0.0.7:80\",outcome=\"connect\"} 2
wharf_upstream_endpoint_fit{service=\"up\",endpoint=\"10.0.0.7:80\"} 0
wharf_upstream_endpoint_ejected{service=\"up\",endpoint=\"10.0.0.7:80\"} 1
wharf_upstream_in_flight{service=\"up\",endpoint=\"10.0.0.7:80\"} 3
wharf_process_cpu_milliseconds_total 2000
wharf_process_memory_bytes 1048576
wharf_cores 4
";

    #[test]
    fn rates_and_percentiles_are_those_of_the_interval() {
        let view = view(&Metrics::read(BEFORE), &Metrics::read(AFTER), 2.0);
        assert_eq!((&view["requests_per_s"], &view["errors_per_s"]), (&json!(101.0), &json!(10.0)));
        assert_eq!((&view["busy_cores"], &view["cores"], &view["memory_bytes"]), (&json!(0.5), &json!(4.0), &json!(1_048_576.0)));
        let routes = &view["routes"];
        assert_eq!((&routes[0]["route"], &routes[0]["p50_ms"]), (&json!(""), &Value::Null));
        // A hundred within 1 ms, a hundred between 1 and 10 ms.
        assert_eq!(routes[1], json!({ "route": "a", "requests_per_s": 100.0, "errors_per_s": 10.0, "p50_ms": 1.0, "p99_ms": 9.82 }));
        let service = &view["services"][0];
        assert_eq!((&service["calls_per_s"], &service["failures_per_s"]), (&json!(4.0), &json!(1.0)));
        assert_eq!((&service["endpoints"][0]["ejected"], &service["endpoints"][0]["in_flight"]), (&json!(true), &json!(3.0)));
        let text = text(&view);
        assert!(text.starts_with("101.0 requests/s, 10.0 errors/s, 0 in flight"), "{text}");
        assert!(text.contains("(none)") && text.contains("left out") && text.contains("0.50 of 4 cores busy, 1.0 MiB"), "{text}");
    }

    #[test]
    fn another_process_is_not_a_negative_rate() {
        let view = view(&Metrics::read(AFTER), &Metrics::read(BEFORE), 1.0);
        assert_eq!((&view["requests_per_s"], &view["routes"][0]["p99_ms"]), (&json!(0.0), &Value::Null));
    }

    #[test]
    fn labels_are_read_as_they_are_written() {
        let labels = labels_of(r#"a="x\"y\\z",b="1,2=\"3\"",c="""#);
        assert_eq!((labels["a"].as_str(), labels["b"].as_str(), labels["c"].as_str()), ("x\"y\\z", "1,2=\"3\"", ""));
    }
}
