//! What is written about metrics is true: what is documented is there, what is there is documented, the dashboard asks for
//! nothing else, and nothing that a client says becomes a label.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests stop at the first surprise"
)]

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;
use wharf_e2e::docs::root;
use wharf_e2e::otlp::collector;
use wharf_e2e::swaps::greeting;
use wharf_harness::upstream::ok;
use wharf_harness::{Act, Connection, Load, Upstream, Wharf, raw, until};

const WAIT: Duration = Duration::from_secs(30);

/// Metrics that are there only once something rare has happened, which this test does not make happen.
const RARE: [&str; 8] = [
    "wharf_plugin_banished_total",
    "wharf_plugin_custom_total",
    "wharf_plugin_fallbacks_total",
    "wharf_plugin_last_good_total",
    "wharf_plugin_log_dropped_total",
    "wharf_plugin_moved_total",
    "wharf_plugin_wait_seconds",
    "wharf_tls_certificate_expires_seconds",
];

/// A gateway that uses all it has.
fn gateway(upstream: &Upstream, collector: &Upstream) -> Wharf {
    let address = upstream.address();
    Wharf::start(format!(
        r#"
node: {{ state_dir: "@DIR@/state" }}
admin: {{ bind: "127.0.0.1:0" }}
access_log: {{ to: "@DIR@/access.log" }}
traces: {{ to: "http://{}", share: 100% }}
listeners: {{ main: {{ bind: "127.0.0.1:0" }} }}
services:
  up:
    endpoints: ["{address}"]
    balance: p2c_ewma
    breaker: {{ errors: 90% }}
    adaptive_concurrency: {{}}
    health: {{ http: {{ path: / }}, interval: 1s }}
  slow:
    endpoints: ["{address}", "{}"]
    hedge_after: 20ms
  copies: {{ endpoints: ["{address}"], connections_warm: 2 }}
plugins: {{ greeting: {{}} }}
rate_limits: {{ few: {{ rate: 1/h }} }}
routes:
  - {{ name: all, to: up, plugins: [{{ plugin: greeting, role: filter }}], mirror: {{ service: copies }}, capture: {{ response: true }} }}
  - {{ name: few, match: {{ path: {{ prefix: /few }} }}, to: up, rate_limits: [few] }}
  - {{ name: slow, match: {{ path: {{ prefix: /slow }} }}, to: slow }}
"#,
        collector.address(),
        Box::leak(Box::new(Upstream::sized())).address(),
    ))
    .unwrap()
}

fn ask(wharf: &Wharf, path: &str) -> u16 {
    Connection::open(wharf.listener("main")).unwrap().get("shop.example", path).unwrap().status
}

/// Names of metrics in a text.
fn named(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut rest = text;
    while let Some(at) = rest.find("wharf_") {
        let from = &rest[at..];
        let end = from.find(|letter: char| !(letter.is_ascii_lowercase() || letter == '_')).unwrap_or(from.len());
        names.insert(from[..end].to_owned());
        rest = &from[end..];
    }
    names
}

/// The documented ones: what stands in tables of metrics.
fn documented() -> BTreeSet<String> {
    ["docs/operations.md", "docs/plugins.md"]
        .iter()
        .flat_map(|page| fs::read_to_string(root().join(page)).unwrap().lines().map(str::to_owned).collect::<Vec<_>>())
        .filter(|line| line.starts_with("| `wharf_"))
        .flat_map(|line| named(line.split('|').nth(1).unwrap()))
        .collect()
}

/// Those of a scrape.
fn scraped(wharf: &Wharf) -> BTreeSet<String> {
    let metrics = wharf.admin().metrics();
    metrics.0.lines().filter_map(|line| Some(line.strip_prefix("# TYPE ")?.split(' ').next()?.to_owned())).collect()
}

#[test]
fn what_is_documented_is_there_and_what_is_there_is_documented() {
    let upstream = Upstream::start(|seen| match seen.request.target().as_str() {
        "/slow" => vec![Act::Pause(Duration::from_millis(300)), Act::Send(ok(b"late"))],
        _ => vec![Act::Send(ok(b"ok"))],
    });
    let collector = collector();
    let wharf = gateway(&upstream, &collector);
    wharf.admin().put_bytes("/v1/plugins/greeting", &greeting(1)).expect();
    until("all that is counted is counted", WAIT, || {
        for path in ["/", "/few", "/few", "/slow", "/slow"] {
            ask(&wharf, path);
        }
        let _ = raw::exchange(wharf.listener("main"), b"GET /%zz HTTP/1.1\r\nhost: a\r\n\r\n", WAIT);
        wharf.admin().with_token("wrong").get("/v1/config").expect_refusal(401);
        let (documented, scraped) = (documented(), scraped(&wharf));
        let missing: Vec<_> = documented.iter().filter(|name| !scraped.contains(*name) && !RARE.contains(&name.as_str())).collect();
        if !missing.is_empty() {
            println!("documented and not there: {missing:?}");
        }
        missing.is_empty().then_some(())
    });
    let documented = documented();
    let scraped = scraped(&wharf);
    let secret: Vec<_> = scraped.iter().filter(|name| !documented.contains(*name)).collect();
    assert!(secret.is_empty(), "there and not documented: {secret:?}");
    assert!(RARE.iter().all(|name| documented.contains(*name)), "{documented:?}");
}

#[test]
fn every_query_of_the_dashboard_names_metrics_that_are_documented() {
    let documented = documented();
    let text = fs::read_to_string(root().join("docs/dashboards/wharf.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            queries.push(target["expr"].as_str().unwrap().to_owned());
        }
    }
    assert!(queries.len() >= 30, "{}", queries.len());
    for query in &queries {
        let names = named(query);
        assert!(!names.is_empty(), "{query}");
        for name in names {
            let base = name.strip_suffix("_bucket").unwrap_or(&name);
            assert!(documented.contains(base), "{name} in {query}");
        }
        assert_eq!(query.matches('(').count(), query.matches(')').count(), "{query}");
    }
}

#[test]
fn nothing_that_a_client_says_becomes_a_label() {
    let upstream = Upstream::sized();
    let collector = collector();
    let wharf = gateway(&upstream, &collector);
    let series = || -> BTreeSet<String> {
        let text = wharf.admin().metrics().0;
        text.lines().filter(|line| !line.starts_with('#')).map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
    };
    let odd = |number: u64| {
        format!("ODD{number} /few/zzz{number}?q=zzz{number} HTTP/1.1\r\nhost: zzz{number}.example\r\nuser-agent: zzz{number}\r\nx-request-id: zzz{number}\r\n\r\n")
            .into_bytes()
    };
    Load::new(wharf.listener("main"), odd).connections(1).count(20).run();
    let before = series();
    Load::new(wharf.listener("main"), odd).connections(1).count(300).run();
    let after = series();
    assert!(after.iter().all(|series| !series.contains("zzz") && !series.contains("ODD")), "{after:?}");
    let new: Vec<_> = after.difference(&before).filter(|series| series.starts_with("wharf_http")).collect();
    assert!(new.is_empty(), "{new:?}");
}

#[test]
fn top_shows_once_what_a_running_gateway_does() {
    let upstream = Upstream::sized();
    let collector = collector();
    let wharf = gateway(&upstream, &collector);
    let address = wharf.listener("main");
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let going = stop.clone();
    let load = std::thread::spawn(move || {
        let mut connection = Connection::open(address).unwrap();
        while !going.load(std::sync::atomic::Ordering::Relaxed) {
            connection.get("shop.example", "/slow/b/10").unwrap();
        }
    });
    let seen = until("top has seen requests", WAIT, || {
        let said = wharf.cli(&["top", "--once", "--json", "--interval", "0.5"]);
        assert!(said.status.success(), "{said:?}");
        let view: Value = serde_json::from_slice(&said.stdout).unwrap();
        (view["requests_per_s"].as_f64().unwrap() > 0.0).then_some(view)
    });
    let route = seen["routes"].as_array().unwrap().iter().find(|route| route["route"] == "slow").unwrap().clone();
    assert!(route["requests_per_s"].as_f64().unwrap() > 0.0 && route["p99_ms"].as_f64().unwrap() > 0.0, "{route}");
    let service = seen["services"].as_array().unwrap().iter().find(|service| service["service"] == "slow").unwrap().clone();
    assert_eq!(service["endpoints"].as_array().unwrap().len(), 2, "{service}");
    assert_eq!(service["endpoints"][0]["fit"], json!(true), "{service}");
    assert!(seen["cores"].as_f64().unwrap() >= 1.0 && seen["memory_bytes"].as_f64().unwrap() > 1e6, "{seen}");
    // For people, in a pipe: no escapes.
    let said = wharf.cli(&["top", "--once", "--interval", "0.2"]);
    let text = String::from_utf8(said.stdout).unwrap();
    assert!(text.contains("ROUTE") && text.contains("slow") && !text.contains('\u{1b}'), "{text}");
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    load.join().unwrap();
    assert_eq!(wharf.cli(&["top", "--interval", "0"]).status.code(), Some(2));
}
