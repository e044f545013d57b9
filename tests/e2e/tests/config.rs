//! The configuration as an operator changes it: in several files, with slips, at three in the morning, and very often.
//!
//! `WHARF_PROVE=1` reloads 1,000 times; `WHARF_RELOADS=N` that often.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests stop at the first surprise, and print their figures"
)]

use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;
use wharf_artifacts::component;
use wharf_e2e::swaps::{median, proves};
use wharf_harness::{Connection, Load, Setup, Upstream, Wharf, until};

const WAIT: Duration = Duration::from_secs(60);

const HEAD: &str = r#"
node: { state_dir: "@DIR@/state" }
admin: { bind: "127.0.0.1:0" }
access_log: { to: "@DIR@/access.log" }
listeners: { main: { bind: "127.0.0.1:0" } }
"#;

fn get(wharf: &Wharf, path: &str) -> (u16, String) {
    let reply = Connection::open(wharf.listener("main")).unwrap().get("api.example.com", path).unwrap();
    (reply.status, reply.text().to_owned())
}

fn answer(path: &str, status: u16) -> String {
    let name = path.trim_start_matches('/').replace('/', "-");
    format!("  - {{ name: {name}, match: {{ path: {{ exact: {path} }} }}, to: {{ answer: {{ status: {status} }} }} }}\n")
}

fn reload(wharf: &Wharf) -> Value {
    wharf.admin().post("/v1/config/reload", &Value::Null).expect()
}

/// Waits until what is kept for the next start says this.
fn kept(wharf: &Wharf, says: &str) {
    let file = wharf.dir().join("state/config.last-good.json");
    until("what serves is kept", WAIT, || fs::read_to_string(&file).unwrap_or_default().contains(says).then_some(()));
}

fn quarantined(shown: &Value) -> Vec<String> {
    let rows = shown["quarantined"].as_array().unwrap();
    let mut rows: Vec<String> =
        rows.iter().map(|row| format!("{} {} {}", row["kind"], row["name"], row["serving"]).replace('"', "")).collect();
    rows.sort();
    rows
}

#[test]
fn a_bad_item_stays_on_its_last_good_version_while_all_else_moves_on() {
    let wharf = Wharf::start(format!("{HEAD}routes:\n{}{}", answer("/a", 201), answer("/b", 201))).unwrap();
    let slip = answer("/a", 999);
    wharf.write_config(&format!("{HEAD}routes:\n{slip}{}{}", answer("/b", 202), answer("/c", 998)));
    let shown = reload(&wharf);
    assert_eq!(quarantined(&shown), ["route a last good", "route c nothing"], "{shown}");
    assert!(shown["refused"].is_null() && shown["quarantined"][0]["why"].to_string().contains("999"), "{shown}");
    assert_eq!([get(&wharf, "/a").0, get(&wharf, "/b").0, get(&wharf, "/c").0], [201, 202, 404]);
    assert_eq!(wharf.admin().metrics().get("wharf_config_quarantined", &[("kind", "route")]), 2.0);
    let since = shown["quarantined"][0]["since_ms"].clone();

    // Another change moves, too, and what stays stays since then.
    wharf.write_config(&format!("{HEAD}routes:\n{slip}{}", answer("/b", 203)));
    let shown = reload(&wharf);
    assert_eq!((get(&wharf, "/a").0, get(&wharf, "/b").0), (201, 203));
    assert_eq!((quarantined(&shown), &shown["quarantined"][0]["since_ms"]), (vec!["route a last good".to_owned()], &since));
    // Asked once more about the same file there is nothing to refuse.
    assert_eq!(quarantined(&reload(&wharf)), ["route a last good"]);
    assert_eq!(wharf.admin().metrics().get("wharf_config_refused_total", &[]), 0.0);
    // It is told once.
    let told = wharf.log().matches("a part of the configuration is not in force").count();
    assert_eq!(told, 2, "{}", wharf.log());

    wharf.write_config(&format!("{HEAD}routes:\n{}{}", answer("/a", 204), answer("/b", 203)));
    let shown = reload(&wharf);
    assert_eq!((get(&wharf, "/a").0, quarantined(&shown).len()), (204, 0));
    assert_eq!(wharf.admin().metrics().get("wharf_config_quarantined", &[("kind", "route")]), 0.0);

    // Of what is no YAML nothing is taken.
    wharf.write_config("routes: [\n");
    wharf.admin().post("/v1/config/reload", &Value::Null).expect_refusal(422);
    assert_eq!((get(&wharf, "/a").0, get(&wharf, "/b").0), (204, 203));
}

#[test]
fn a_restart_with_a_slip_serves_what_was_good_of_it() {
    let first = format!("{HEAD}routes:\n{}{}", answer("/a", 201), answer("/b", 201));
    let slip = |b: u16| format!("{HEAD}routes:\n{}{}", answer("/a", 999), answer("/b", b));

    // A first start with a mistake is none: there is nothing to serve in its place.
    let (status, said) = Setup::new(slip(202)).start_in_vain().unwrap();
    assert!(status.code() == Some(3) && said.contains("999"), "{status} {said}");

    let wharf = Wharf::start(first).unwrap();
    wharf.write_config(&slip(202));
    assert_eq!(quarantined(&reload(&wharf)), ["route a last good"]);
    kept(&wharf, "status: 202");
    wharf.write_config(&slip(203));
    let wharf = wharf.kill_and_start().unwrap();
    assert_eq!((get(&wharf, "/a").0, get(&wharf, "/b").0), (201, 203), "the new file, and the bad route as it was");
    assert_eq!(quarantined(&wharf.admin().get("/v1/config").expect()), ["route a last good"]);
    assert!(wharf.log().contains("the configuration has mistakes"), "{}", wharf.log());

    // Twice: what is kept is not lost by being used.
    let wharf = wharf.kill_and_start().unwrap();
    assert_eq!((get(&wharf, "/a").0, get(&wharf, "/b").0), (201, 203));
    kept(&wharf, "status: 203");
    // And with a file that says nothing at all.
    wharf.write_config(&format!("{HEAD}routes: [\n"));
    let wharf = wharf.kill_and_start().unwrap();
    assert_eq!((get(&wharf, "/a").0, get(&wharf, "/b").0), (201, 203));
    let shown = wharf.admin().get("/v1/config").expect();
    assert!(shown["refused"]["mistakes"][0]["message"].as_str().unwrap().contains("not YAML"), "{shown}");

    let path = wharf.dir().join("wharf.yaml").display().to_string();
    let strict = wharf.cli(&["run", "--strict", "--config", &path]);
    assert_eq!(strict.status.code(), Some(3), "{strict:?}");
    let kept = fs::metadata(wharf.dir().join("state/config.last-good.json")).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&kept.permissions()) & 0o777, 0o600, "texts may hold secrets");
}

fn put(dir: &Path, name: &str, text: &str) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let draft = path.with_extension("draft");
    fs::write(&draft, text).unwrap();
    fs::rename(draft, path).unwrap();
}

#[test]
fn included_files_and_values_of_files_are_followed_and_new_files_are_found() {
    let wharf = Setup::new(format!("include: [routes.d/*.yaml]\n{HEAD}routes:\n{}", answer("/a", 201)))
        .file("routes.d/one.yaml", format!("routes:\n{}", answer("/one", 201)))
        .start()
        .unwrap();
    assert_eq!(get(&wharf, "/one").0, 201);
    // Nobody asks: a look finds it.
    put(wharf.dir(), "routes.d/one.yaml", &format!("routes:\n{}", answer("/one", 202)));
    until("the included file is in force", WAIT, || (get(&wharf, "/one").0 == 202).then_some(()));
    let secret = "routes:\n  - { name: two, match: { path: { exact: /two } }, to: { answer: { status: 200, body: \"${file:word}\" } } }\n";
    put(wharf.dir(), "routes.d/word", "a-word-that-is-not-told");
    put(wharf.dir(), "routes.d/two.yaml", secret);
    until("the new file is found", WAIT, || (get(&wharf, "/two").1 == "a-word-that-is-not-told").then_some(()));
    put(wharf.dir(), "routes.d/word", "another-secret-word");
    until("the value is read again", WAIT, || (get(&wharf, "/two").1 == "another-secret-word").then_some(()));
    fs::remove_file(wharf.dir().join("routes.d/one.yaml")).unwrap();
    until("what is gone is gone", WAIT, || (get(&wharf, "/one").0 == 404).then_some(()));

    // A mistake in it is told with its name, and what it says is not.
    put(wharf.dir(), "routes.d/two.yaml", &secret.replace("status: 200", "status: \"${file:word}\""));
    let shown = until("the slip is told", WAIT, || {
        let shown = wharf.admin().get("/v1/config").expect();
        (!shown["refused"].is_null()).then_some(shown)
    });
    assert!(shown["refused"].to_string().contains("routes.d/two.yaml"), "{shown}");
    assert!(!shown.to_string().contains("another-secret") && !wharf.log().contains("another-secret"), "{shown}\n{}", wharf.log());
    assert_eq!((get(&wharf, "/two").1.as_str(), get(&wharf, "/a").0), ("another-secret-word", 201));
}

#[test]
fn what_a_plugin_does_not_accept_holds_its_route_and_no_other() {
    let text = |shaped: &str, plain: u16| {
        format!(
            "{HEAD}services: {{ up: {{ endpoints: [127.0.0.1:1] }} }}\nplugins: {{ shaped: {{ grants: {{ kv: {{}}, http: {{ services: [up] }} }} }} }}\nroutes:\n{}  - {{ name: shaped, match: {{ path: {{ exact: /shaped }} }}, to: {{ answer: {{ status: 200 }} }}, plugins: [{{ plugin: shaped, role: filter, config: {shaped} }}] }}\n",
            answer("/plain", plain)
        )
    };
    let wharf = Wharf::start(text("{ do: count }", 201)).unwrap();
    wharf.admin().put_bytes("/v1/plugins/shaped", component("hostile")).expect();
    until("the plugin serves", WAIT, || (get(&wharf, "/shaped").0 == 200).then_some(()));
    wharf.write_config(&text("{ do: 7 }", 202));
    let shown = reload(&wharf);
    assert_eq!(quarantined(&shown), ["route shaped last good"], "{shown}");
    assert!(shown["quarantined"][0]["why"].to_string().contains("does not fit the schema"), "{shown}");
    assert_eq!((get(&wharf, "/shaped").0, get(&wharf, "/plain").0), (200, 202));
    kept(&wharf, "\"refused\":[\"shaped\"]");
    // So it is after a restart.
    let wharf = wharf.kill_and_start().unwrap();
    assert_eq!((get(&wharf, "/shaped").0, get(&wharf, "/plain").0), (200, 202), "{}", wharf.log());
    assert_eq!(quarantined(&wharf.admin().get("/v1/config").expect()), ["route shaped last good"]);
}

#[test]
fn the_command_line_shows_what_serves_and_what_would_change() {
    let upstream = Upstream::echo();
    let text = |weight: u32, status: u16| {
        format!(
            "{HEAD}services: {{ up: {{ endpoints: [{{ address: \"{}\", weight: {weight} }}] }} }}\nplugins: {{ auth: {{}} }}\nroutes:\n  - {{ name: all, to: up }}\n  - {{ name: hello, match: {{ path: {{ exact: /hello }} }}, to: {{ answer: {{ status: {status}, body: \"${{WORD}}\" }} }} }}\n",
            upstream.address()
        )
    };
    let wharf = Setup::new(text(1, 200)).env("WORD", "a-secret-word").start().unwrap();
    assert_eq!(get(&wharf, "/hello"), (200, "a-secret-word".to_owned()));
    let said = |args: &[&str], exit: i32| -> String {
        let output = wharf.cli(args);
        assert_eq!(output.status.code(), Some(exit), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let shown = said(&["config", "show", "--running"], 0);
    assert!(shown.contains("whole: 60s  # default") && shown.contains("*** ${WORD}") && !shown.contains("a-secret-word"), "{shown}");
    let explained: Value = serde_json::from_str(&said(&["explain", "GET", "/x/y", "--running", "--json"], 0)).unwrap();
    assert_eq!((&explained["route"], &explained["now"]["name"]), (&json!("all"), &json!("up")), "{explained}");

    // What is running, against a file with a slip that is not one in this environment: the variable is not here.
    let new = text(2, 999).replace("999", "201").replace("${WORD}", "${WORD:-x}");
    fs::write(wharf.dir().join("new.yaml"), new.replace("@DIR@", &wharf.dir().display().to_string())).unwrap();
    let found: Value = serde_json::from_str(&said(&["diff", "--running", "new.yaml", "--json"], 0)).unwrap();
    let names: Vec<&str> = found["changes"].as_array().unwrap().iter().map(|change| change["name"].as_str().unwrap()).collect();
    assert_eq!((names, &found["affected"]), (vec!["hello", "up"], &json!([{ "route": "all", "by": ["service up"] }])), "{found:#}");

    wharf.write_config(&text(2, 999));
    said(&["config", "reload"], 3);
    assert!(said(&["config", "status"], 0).contains("999 is no status to answer with"));
    let shown = said(&["config", "show", "--running"], 0);
    assert!(shown.contains("weight: 2") && shown.contains("status: 200"), "the service moved, the route stays: {shown}");
    wharf.write_config(&text(2, 202));
    said(&["config", "reload"], 0);
    assert_eq!(get(&wharf, "/hello").0, 202);
}

/// Under the load that runs; the middle of a few looks, because the allocator breathes. Without the binary's pages, which gateways
/// of other tests share until they end.
fn memory_kib(wharf: &Wharf) -> f64 {
    let looks: Vec<f64> = (0..9)
        .map(|_| {
            thread::sleep(Duration::from_millis(60)); // look again
            wharf.anonymous_kib() as f64
        })
        .collect();
    median(&looks)
}

/// Ten thousand prefixes, as those who come from a map of them have.
#[test]
fn ten_thousand_routes_are_changed_under_load_and_hold_nobody_up() {
    const ROUTES: usize = 10_000;
    let upstream = Upstream::named("up");
    let config = |first: &str| {
        let mut text = format!("{HEAD}services: {{ up: {{ endpoints: [\"{}\"] }} }}\nroutes:\n", upstream.address());
        for at in 0..ROUTES {
            let name = if at == 0 { first.to_owned() } else { format!("r{at}") };
            let _ = writeln!(text, "  - {{ name: {name}, match: {{ path: {{ prefix: /p{at} }} }}, to: up, strip_prefix: true }}");
        }
        text
    };
    let wharf = Wharf::start(config("first")).unwrap();
    let load = Load::get(wharf.listener("main"), "a.example", "/p9999/x").connections(4).rate(200.0).start();
    until("the load", WAIT, || (load.done() > 50).then_some(()));
    for first in ["second", "third"] {
        wharf.write_config(&config(first));
        reload(&wharf);
        let metrics = wharf.admin().metrics();
        assert_eq!(metrics.get("wharf_http_requests_total", &[("route", first), ("class", "2xx")]), 0.0);
    }
    let report = load.stop();
    report.expect_clean();
    println!("10,000 routes: {} requests, the slowest {:?}", report.done, report.percentile(1.0));
    // One that waits for the whole change waits for seconds.
    assert!(report.percentile(1.0) < Duration::from_secs(2), "{:?}", report.percentile(1.0));
    assert_eq!(get(&wharf, "/p5000").0, 200);
    wharf.stop(WAIT).unwrap();
}

#[test]
fn a_thousand_reloads_fail_no_request_and_leave_nothing_behind() {
    let given = std::env::var("WHARF_RELOADS").ok().and_then(|text| text.parse::<u64>().ok());
    let reloads = given.unwrap_or(if proves() { 1_000 } else { 60 }).max(20);
    let mark = reloads / 5;
    let (blue, green) = (Upstream::named("blue"), Upstream::named("green"));
    let text = |number: u64| {
        let (first, second) = if number.is_multiple_of(2) { (&blue, &green) } else { (&green, &blue) };
        // Routes come and go, a service comes and goes, another one changes its endpoints and its limits, and there is always
        // something that is wrong.
        let routes: String = (0..10 + number % 7).map(|at| answer(&format!("/r{at}/{}", number % 3), 200 + (number % 5) as u16)).collect();
        let extra =
            if number.is_multiple_of(3) { format!("  extra: {{ endpoints: [\"{}\"] }}\n", second.address()) } else { String::new() };
        let slip = match number % 4 {
            0 => "  - { name: slip, match: { path: { exact: /slip } }, to: nowhere }\n",
            1 => "  - { name: slip, match: { path: { exact: /slip } }, to: { answer: { status: 999 } } }\n",
            2 => "  - { name: slip, match: { path: { exact: /slip } }, to: { answer: { status: 200 } } }\n",
            _ => "",
        };
        format!(
            "{HEAD}services:\n  up: {{ endpoints: [\"{}\"], connections_max: {} }}\n{extra}routes:\n  - {{ name: all, to: up, timeouts: {{ whole: {}s }} }}\n{routes}{slip}",
            first.address(),
            100 + number % 50,
            10 + number % 5,
        )
    };
    let wharf = Wharf::start(text(0).replace("to: nowhere", "to: up")).unwrap();
    let load = Load::get(wharf.listener("main"), "x", "/").connections(8).rate(400.0).start();
    until("the load runs", WAIT, || (load.done() > 100).then_some(()));
    let (mut held, mut memory) = (0, Vec::new());
    for number in 1..=reloads {
        wharf.write_config(&text(number));
        let shown = reload(&wharf);
        assert_eq!(shown["applied"], json!(true), "{shown}");
        held += quarantined(&shown).len();
        assert_eq!(get(&wharf, &format!("/r9/{}", number % 3)).0, 200 + (number % 5) as u16, "the newest file is in force");
        if number == mark || number == reloads {
            memory.push(memory_kib(&wharf));
        }
    }
    let report = load.stop();
    let growth = memory[1] / memory[0] - 1.0;
    println!(
        "reloads: {reloads} under load, {held} items held; {report}; memory after {mark} {:.1} MiB, after {reloads} {:.1} MiB ({:+.1} %)",
        memory[0] / 1024.0,
        memory[1] / 1024.0,
        100.0 * growth
    );
    report.expect_clean();
    assert!(held as u64 >= reloads / 4, "{held} items were held");
    let metrics = wharf.admin().metrics();
    assert!(metrics.get("wharf_config_reloads_total", &[]) >= reloads as f64);
    // A few reloads after a few are still near the start, and the allocator breathes.
    let growth_max = if reloads >= 1_000 { 0.05 } else { 0.25 };
    assert!(growth < growth_max, "memory grew by {:.1} %, at most {:.0} % is allowed", 100.0 * growth, 100.0 * growth_max);
}
