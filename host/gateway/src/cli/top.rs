//! `wharf top`: what a running gateway is doing, as a view that renews itself, or once for scripts.
//!
//! Two looks at the metrics, an interval apart, make one view ([`view`], pure): rates and percentiles are those of the
//! interval, levels those of its end. `top/page.rs` shows it to people; the screen is cleared only where there is one.

use super::admin::Client;
use super::{AdminArgs, Exit, Failure, print, print_failure};
use clap::Args;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

mod page;

/// `wharf top`
#[derive(Clone, Debug, Args)]
pub struct TopArgs {
    /// Seconds between two looks
    #[arg(long, short, default_value_t = 2.0, value_parser = seconds)]
    interval: f64,
    /// Show one view and end
    #[arg(long)]
    once: bool,
    /// Rows of each table, the busiest first; by default 5 on a terminal, else all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    rows: Option<u16>,
    #[command(flatten)]
    pub(super) admin: AdminArgs,
}

fn seconds(text: &str) -> Result<f64, String> {
    let within = text.parse::<f64>().ok().filter(|seconds| (0.1..=60.0).contains(seconds));
    within.ok_or_else(|| format!("`{text}` is not a number of seconds from 0.1 to 60"))
}

/// What a try of a call comes to if there is no answer and that is nobody's wish.
const FAULTS: [&str; 8] =
    ["connect", "timeout_connect", "timeout_head", "timeout_body", "timeout_whole", "reset", "bad_answer", "overload"];

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
    let is_terminal = std::io::stdout().is_terminal();
    let clears = !args.once && !args.admin.json && is_terminal;
    let rows = args.rows.map(usize::from).or(is_terminal.then_some(page::ROWS));
    loop {
        std::thread::sleep(Duration::from_secs_f64(args.interval)); // look again: what passes meanwhile is what is shown
        let (after, now) = (Metrics::read(&client.metrics()?), Instant::now());
        let view = view(&before, &after, now.duration_since(at).as_secs_f64());
        let shown = match (args.admin.json, args.once) {
            (true, true) => format!("{view:#}\n"),
            // A line for each look, for who reads on.
            (true, false) => format!("{view}\n"),
            (false, _) => page::text(&view, rows),
        };
        if args.once {
            return Ok(print(out, &shown));
        }
        // A line between two views where one stands below the other.
        let (clear, gap) = if clears { (CLEAR, "") } else { ("", "\n") };
        // Nobody reads any more: the end, as for any filter.
        if out.write_all(format!("{clear}{shown}{gap}").as_bytes()).and_then(|()| out.flush()).is_err() {
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
        let level = |name: &str| after.sum(name, &labels);
        let breaker = after.sum("wharf_breaker_state", &[("guards", "service"), ("name", &service)]);
        json!({
            "service": service,
            "panic": level("wharf_upstream_panic") > 0.0,
            "listing_trouble": level("wharf_upstream_listing_trouble") > 0.0,
            "breaker": breaker_word(breaker),
            "calls_per_s": calls,
            "failures_per_s": round((calls - good).max(0.0)),
            "p50_ms": p50,
            "p99_ms": p99,
            "endpoints": endpoints.collect::<Vec<_>>(),
        })
    });
    let services: Vec<Value> = services.collect();
    let turned_away =
        ["wharf_http_refused_total", "wharf_connections_refused_total", "wharf_connections_failed_total", "wharf_rate_limited_total"];
    json!({
        "seconds": round(seconds),
        "version": after.values("wharf_build_info", "version").first(),
        "requests_per_s": rate(requests, &[]),
        "errors_per_s": rate(requests, &[("class", "5xx")]),
        "faults_per_s": round(FAULTS.iter().map(|word| rate("wharf_upstream_calls_total", &[("outcome", word)])).sum()),
        "turned_away_per_s": round(turned_away.iter().map(|name| rate(name, &[])).sum()),
        "in_flight": after.sum("wharf_http_in_flight", &[]),
        "connections": after.sum("wharf_connections_open", &[]),
        "cores": after.sum("wharf_cores", &[]),
        "busy_cores": round(rate("wharf_process_cpu_milliseconds_total", &[]) / 1000.0),
        "memory_bytes": after.sum("wharf_process_memory_bytes", &[]),
        "memory_max_bytes": after.sum("wharf_memory_max_bytes", &[]),
        "generation": after.sum("wharf_generation", &[]),
        "routes": routes.collect::<Vec<_>>(),
        "troubles": troubles(after, &services),
        "services": services,
    })
}

fn breaker_word(state: f64) -> &'static str {
    match state {
        state if state >= 2.0 => "open",
        state if state > 0.0 => "half open",
        _ => "closed",
    }
}

/// What somebody should look at, the worst first, each in a line.
fn troubles(now: &Metrics, services: &[Value]) -> Vec<String> {
    let mut found = Vec::new();
    let level = |name: &str| now.sum(name, &[]);
    match level("wharf_memory_shortage") {
        short if short >= 2.0 => found.push("memory has nearly run out: requests are answered with 503".to_owned()),
        short if short > 0.0 => found.push("memory is short: connections are refused".to_owned()),
        _ => {}
    }
    let name = |service: &Value| service.get("service").and_then(Value::as_str).unwrap_or_default().to_owned();
    let is = |value: &Value, what: &str| value.get(what).and_then(Value::as_bool).unwrap_or_default();
    for service in services.iter().filter(|service| is(service, "panic")) {
        found.push(format!("service {}: below its panic threshold, so all endpoints are used, ill or not", name(service)));
    }
    for (labels, state) in now.0.get("wharf_breaker_state").into_iter().flatten().filter(|(_, state)| *state > 0.0) {
        let label = |name: &str| labels.get(name).map_or("", String::as_str);
        found.push(format!("{} {}: its breaker is {}", label("guards"), label("name"), breaker_word(*state)));
    }
    for service in services {
        let endpoints = service.get("endpoints").and_then(Value::as_array).into_iter().flatten();
        let called = |endpoint: &Value| endpoint.get("endpoint").and_then(Value::as_str).unwrap_or_default().to_owned();
        let (ejected, ill): (Vec<_>, Vec<_>) =
            endpoints.filter(|one| is(one, "ejected") || !is(one, "fit")).partition(|one| is(one, "ejected"));
        for (endpoints, what) in [(ejected, "left out for its failures"), (ill, "ill or not wanted")] {
            match endpoints.as_slice() {
                [] => {}
                [one] => found.push(format!("service {}: {} is {what}", name(service), called(one))),
                [first, rest @ ..] => {
                    found.push(format!("service {}: {} and {} more, each {what}", name(service), called(first), rest.len()))
                }
            }
        }
        if is(service, "listing_trouble") {
            found.push(format!("service {}: its directory cannot be asked, the last listing serves", name(service)));
        }
    }
    let (held, plugins) = (level("wharf_config_quarantined"), level("wharf_plugin_problems"));
    if held > 0.0 {
        found.push(format!("configuration: {held} items are not as written; `wharf config status` tells which"));
    }
    if plugins > 0.0 {
        found.push(format!("plugins: {plugins} attachments are not served as written; `wharf plugin list`"));
    }
    found
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
wharf_build_info{version=\"1.2.3\",arch=\"x86_64\",os=\"linux\"} 1
wharf_generation 7
wharf_memory_max_bytes 536870912
wharf_connections_open{listener=\"web\"} 40
wharf_upstream_connections{service=\"up\",endpoint=\"10.0.0.7:80\"} 2
wharf_upstream_panic{service=\"up\"} 1
wharf_breaker_state{guards=\"route\",name=\"a\"} 2
wharf_breaker_state{guards=\"service\",name=\"up\"} 1
wharf_config_quarantined{kind=\"route\"} 1
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
        assert_eq!((&view["faults_per_s"], &service["breaker"], &service["panic"]), (&json!(1.0), &json!("half open"), &json!(true)));
    }

    /// Exactly what stands on the screen.
    #[test]
    fn a_page_is_read_at_a_glance() {
        let view = view(&Metrics::read(BEFORE), &Metrics::read(AFTER), 2.0);
        let expected = "\
Wharf 1.2.3  generation 7  0 requests in flight  40 connections
101.0 requests/s  10.0 5xx/s  1.0 faults/s  0.0 turned away/s
0.50 of 4 cores busy  1.0 of 512 MiB of memory
! service up: below its panic threshold, so all endpoints are used, ill or not
! route a: its breaker is open
! service up: its breaker is half open
! and 2 more

ROUTE                    REQUESTS/S     5XX/S    P50 MS    P99 MS
a                             100.0      10.0      1.00      9.82
(none)                          1.0       0.0         -         -

SERVICE                     CALLS/S  FAILED/S    P50 MS    P99 MS     FIT  CONN
up                              4.0       1.0         -         -     0/1     2
";
        assert_eq!(page::text(&view, None), expected);
        let cut = page::text(&view, Some(1));
        assert!(cut.contains("9.82\nand 1 more (`--rows`)\n\nSERVICE"), "{cut}");
    }

    #[test]
    fn a_page_fits_a_terminal_of_80_columns_and_24_lines() {
        let mut metrics = String::from(
            "wharf_connections_open{listener=\"web\"} 20000\nwharf_memory_shortage 2\nwharf_config_quarantined{kind=\"route\"} 3\n",
        );
        for n in 0..40 {
            let name = format!("{n:02}-{}", "a-very-long-name-".repeat(3));
            metrics += &format!("wharf_http_requests_total{{route=\"{name}\",class=\"5xx\"}} {}\n", 9_000_000 + n);
            metrics += &format!("wharf_upstream_endpoints{{service=\"{name}\"}} 100\nwharf_upstream_panic{{service=\"{name}\"}} 1\n");
            metrics += &format!("wharf_breaker_state{{guards=\"service\",name=\"{name}\"}} 2\n");
            for endpoint in 0..100 {
                metrics += &format!("wharf_upstream_endpoint_fit{{service=\"{name}\",endpoint=\"10.0.0.{endpoint}:80\"}} 0\n");
                metrics += &format!("wharf_upstream_connections{{service=\"{name}\",endpoint=\"10.0.0.{endpoint}:80\"}} 100\n");
            }
        }
        let page = page::text(&view(&Metrics::default(), &Metrics::read(&metrics), 2.0), Some(page::ROWS));
        assert!(page.lines().count() < 24, "{page}");
        for line in page.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
        let busiest = page.lines().skip_while(|line| !line.starts_with("ROUTE")).nth(1).unwrap();
        assert!(busiest.starts_with("39-"), "{page}");
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
