//! The life of a version as an operator lives it: it survives a restart, is chosen by the command line, is attached at
//! every level, gives way to the last good one, and costs nothing where there is none.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests stop at the first surprise, and print their figures"
)]

use serde_json::{Value, json};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};
use wharf_artifacts::{component, path};
use wharf_e2e::swaps::{greeted, greeting, proves};
use wharf_harness::{Connection, Load, Reply, Signal, Upstream, Wharf, until};

const WAIT: Duration = Duration::from_secs(60);

/// Everything but plugins, attachments and routes.
fn config(services: &[(&str, &Upstream)], rest: &str) -> String {
    let services: String =
        services.iter().map(|(name, upstream)| format!("  {name}: {{ endpoints: [\"{}\"] }}\n", upstream.address())).collect();
    format!(
        r#"
node: {{ state_dir: "@DIR@/state" }}
admin: {{ bind: "127.0.0.1:0" }}
access_log: {{ to: "@DIR@/access.log" }}
listeners: {{ main: {{ bind: "127.0.0.1:0" }} }}
services:
{services}
{rest}"#
    )
}

const GREETING: &str = "plugins: { greeting: {} }\nroutes: [{ name: all, to: up, plugins: [{ plugin: greeting, role: filter }] }]\n";

fn get(wharf: &Wharf, path: &str) -> Reply {
    Connection::open(wharf.listener("main")).unwrap().get("api.example.com", path).unwrap()
}

fn push(wharf: &Wharf, plugin: &str, bytes: &[u8]) -> Value {
    wharf.admin().put_bytes(&format!("/v1/plugins/{plugin}"), bytes).expect()
}

#[track_caller]
fn answer(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[track_caller]
fn refusal(output: &Output, exit: i32) -> Value {
    assert_eq!(output.status.code(), Some(exit), "{output:?}");
    let value: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert!(value["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{value}");
    value["error"].clone()
}

/// Every compiled form with what tells that a file was written anew.
fn compiled(state: &Path) -> BTreeMap<String, (u64, i64, i64)> {
    let mut found = BTreeMap::new();
    for blob in fs::read_dir(state.join("plugins/blobs")).unwrap() {
        for entry in fs::read_dir(blob.unwrap().path()).unwrap() {
            let entry = entry.unwrap();
            if entry.path().extension().is_some_and(|end| end == "cwasm") {
                let meta = entry.metadata().unwrap();
                found.insert(entry.path().display().to_string(), (meta.ino(), meta.mtime(), meta.mtime_nsec()));
            }
        }
    }
    found
}

#[test]
fn a_restart_serves_the_same_versions_at_once_without_compiling() {
    let upstream = Upstream::echo();
    let wharf = Wharf::start(config(&[("up", &upstream)], GREETING)).unwrap();
    for number in 1..=3 {
        push(&wharf, "greeting", &greeting(number));
    }
    wharf.admin().post("/v1/plugins/greeting/rollback", &Value::Null).expect();
    let versions = wharf.admin().get("/v1/plugins/greeting/versions").expect();
    let files = compiled(&wharf.dir().join("state"));
    assert_eq!(files.len(), 3);
    let token = fs::read_to_string(wharf.dir().join("state/admin-token")).unwrap();

    let wharf = wharf.kill_and_start().unwrap();
    // The very first request: READY means that the plugin serves.
    assert_eq!(greeted(&get(&wharf, "/")), Some(2));
    assert_eq!(wharf.admin().get("/v1/plugins/greeting/versions").expect(), versions);
    assert_eq!(compiled(&wharf.dir().join("state")), files, "nothing was compiled");
    assert_eq!(fs::read_to_string(wharf.dir().join("state/admin-token")).unwrap(), token);
    // The way back is remembered, too.
    wharf.admin().post("/v1/plugins/greeting/rollback", &Value::Null).expect();
    until("version 1 serves", WAIT, || (greeted(&get(&wharf, "/")) == Some(1)).then_some(()));
}

#[test]
fn the_command_line_pushes_lists_activates_and_rolls_back() {
    let upstream = Upstream::echo();
    let wharf = Wharf::start(config(&[("up", &upstream)], GREETING)).unwrap();
    let file = |number: u64| {
        let name = format!("greeting-{number}.wasm");
        fs::write(wharf.dir().join(&name), greeting(number)).unwrap();
        name
    };
    for number in 1..=3 {
        let pushed = answer(&wharf.cli(&["plugin", "push", "greeting", &file(number), "--json"]));
        assert_eq!((&pushed["version"], &pushed["activated"], &pushed["known"]), (&json!(number), &json!(true), &json!(false)), "{pushed}");
        until("the pushed version serves", WAIT, || (greeted(&get(&wharf, "/")) == Some(number)).then_some(()));
    }
    let again = answer(&wharf.cli(&["plugin", "push", "greeting", &file(3), "--json"]));
    assert_eq!((&again["version"], &again["known"]), (&json!(3), &json!(true)), "the same bytes keep their number: {again}");

    let list = answer(&wharf.cli(&["plugin", "list", "--json"]));
    let row = &list["plugins"][0];
    assert_eq!(
        (&row["plugin"], &row["serving"], &row["versions"], &row["ready"]),
        (&json!("greeting"), &json!(3), &json!(3), &json!(true)),
        "{list}"
    );
    let states = || -> Vec<String> {
        let versions = answer(&wharf.cli(&["plugin", "versions", "greeting", "--json"]));
        let rows = versions["versions"].as_array().unwrap().clone();
        rows.iter().map(|row| format!("{} {}", row["version"], row["state"].as_str().unwrap())).collect()
    };
    assert_eq!(states(), ["3 serving", "2 earlier", "1 earlier"]);

    let back = answer(&wharf.cli(&["plugin", "rollback", "greeting", "--json"]));
    assert_eq!((&back["version"], &back["previous"]), (&json!(2), &json!(3)), "{back}");
    until("version 2 serves", WAIT, || (greeted(&get(&wharf, "/")) == Some(2)).then_some(()));
    assert_eq!(states(), ["3 stored", "2 serving", "1 earlier"]);
    let chosen = answer(&wharf.cli(&["plugin", "activate", "greeting", "3", "--json"]));
    assert_eq!((&chosen["version"], &chosen["previous"]), (&json!(3), &json!(2)), "{chosen}");
    until("version 3 serves", WAIT, || (greeted(&get(&wharf, "/")) == Some(3)).then_some(()));
    assert_eq!(states(), ["3 serving", "2 earlier", "1 earlier"]);
    let seen = answer(&wharf.cli(&["plugin", "inspect", "greeting", "3", "--json"]));
    assert_eq!((&seen["state"], &seen["roles"]), (&json!("serving"), &json!(["filter"])), "{seen}");
    let routes = answer(&wharf.cli(&["routes", "--json"]));
    assert_eq!(routes["routes"][0]["chain"][0]["version"], 3, "{routes}");
    // For people the same, as a table.
    let text = String::from_utf8(wharf.cli(&["plugin", "versions", "greeting"]).stdout).unwrap();
    assert!(text.contains("serving") && text.contains("VERSION"), "{text}");

    // Every no has its exit code, its words and its hint.
    let unknown = refusal(&wharf.cli(&["plugin", "rollback", "nobody", "--json"]), 1);
    assert!(unknown["hint"].as_str().unwrap().contains("greeting"), "{unknown}");
    let no_version = refusal(&wharf.cli(&["plugin", "activate", "greeting", "77", "--json"]), 1);
    assert!(no_version["hint"].as_str().unwrap().contains("1, 2, 3"), "{no_version}");
    let module = path("core-module").display().to_string();
    let bad = refusal(&wharf.cli(&["plugin", "push", "greeting", &module, "--json"]), 1);
    assert!(bad["message"].as_str().unwrap().contains("core module"), "{bad}");
    refusal(&wharf.cli(&["plugin", "push", "greeting", "no-such-file.wasm", "--json"]), 2);
    refusal(&wharf.cli(&["plugin", "list", "--json", "--token-file", "no-such-token"]), 5);
    fs::write(wharf.dir().join("wrong-token"), "x".repeat(43)).unwrap();
    refusal(&wharf.cli(&["plugin", "list", "--json", "--token-file", "wrong-token"]), 5);
    let nobody = wharf_harness::upstream::Refusing::new();
    refusal(&wharf.cli(&["plugin", "list", "--json", "--admin", &nobody.address().to_string()]), 4);

    // Every change, and every attempt at one, is in the audit log; looks are not.
    let audit = fs::read_to_string(wharf.dir().join("state/audit.log")).unwrap();
    for operation in ["plugin.push", "plugin.activate", "plugin.rollback"] {
        assert!(audit.contains(operation), "{operation} in {audit}");
    }
    assert!(!audit.contains("plugin.list") && !audit.contains("plugin.versions"), "{audit}");
}

#[test]
fn only_the_last_twenty_versions_are_kept_and_any_of_them_can_come_back() {
    let upstream = Upstream::echo();
    let wharf = Wharf::start(config(&[("up", &upstream)], GREETING)).unwrap();
    for number in 1..=23 {
        push(&wharf, "greeting", &greeting(number));
    }
    let versions = wharf.admin().get("/v1/plugins/greeting/versions").expect();
    let kept: Vec<u64> = versions["versions"].as_array().unwrap().iter().map(|row| row["version"].as_u64().unwrap()).collect();
    assert_eq!(kept, (4..=23).rev().collect::<Vec<_>>());
    assert_eq!(compiled(&wharf.dir().join("state")).len(), 20, "the files of the others are gone");
    wharf.admin().post("/v1/plugins/greeting/versions/4/activate", &Value::Null).expect();
    until("version 4 serves", WAIT, || (greeted(&get(&wharf, "/")) == Some(4)).then_some(()));
    wharf.admin().post("/v1/plugins/greeting/versions/3/activate", &Value::Null).expect_refusal(404);
}

#[test]
fn attachments_apply_global_then_host_then_route_then_service_one_digest_with_a_config_each() {
    let upstream = Upstream::echo();
    let add = |plugin: &str, word: &str, order: u32| {
        format!(
            "{{ plugin: {plugin}, role: filter, order: {order}, config: {{ rules: [{{ on: request, add: {{ x-order: {word} }} }}] }} }}"
        )
    };
    let rest = format!(
        r#"
  up: {{ endpoints: ["{}"], plugins: [{}] }}
plugins: {{ headers: {{}}, more: {{}} }}
attachments:
  global: [{}]
  hosts:
    "api.example.com": [{}]
    "*.example.com": [{}]
routes:
  - {{ name: all, to: up, plugins: [{}, {}] }}
"#,
        upstream.address(),
        add("headers", "service", 0),
        add("headers", "global", 0),
        add("headers", "host", 0),
        add("headers", "wide-host", 0),
        add("more", "route-second", 20),
        add("headers", "route-first", 10),
    );
    let wharf = Wharf::start(config(&[], &rest)).unwrap();
    let one = push(&wharf, "headers", component("headers"));
    let other = push(&wharf, "more", component("headers"));
    assert_eq!(one["digest"], other["digest"]);
    assert_eq!(compiled(&wharf.dir().join("state")).len(), 1, "the same bytes are compiled once");
    assert_eq!(one["attachments"], 5, "{one}");

    let order = || -> Vec<String> {
        get(&wharf, "/");
        upstream.last().all("x-order").iter().flat_map(|line| line.split(", ").map(str::to_owned).collect::<Vec<_>>()).collect()
    };
    let wanted = ["global", "wide-host", "host", "route-first", "route-second", "service"];
    until("all attachments serve", WAIT, || (order().len() == wanted.len()).then_some(()));
    assert_eq!(order(), wanted);
    // Another host meets another chain.
    let reply = Connection::open(wharf.listener("main")).unwrap().get("elsewhere.test", "/").unwrap();
    assert_eq!(reply.status, 200);
    let seen: String = upstream.last().all("x-order").join(", ");
    assert_eq!(seen, "global, route-first, route-second, service");
}

#[test]
fn a_version_that_begins_to_fail_gives_way_to_the_last_good_one() {
    let upstream = Upstream::echo();
    let rest = "plugins: { greeting: { limits: { faults: { max: 3, within: 60s } } } }\n\
                routes: [{ name: all, to: up, plugins: [{ plugin: greeting, role: filter }] }]\n";
    let wharf = Wharf::start(config(&[("up", &upstream)], rest)).unwrap();
    push(&wharf, "greeting", &greeting(1));
    // Passes its rehearsal, and fails at every request.
    push(&wharf, "greeting", component("table"));
    let mut refused = 0;
    until("the last good version serves again", WAIT, || {
        let reply = get(&wharf, "/");
        refused += u32::from(reply.status == 503);
        (greeted(&reply) == Some(1)).then_some(())
    });
    assert!(refused >= 3, "three faults bring it back, not {refused}");
    let versions = wharf.admin().get("/v1/plugins/greeting/versions").expect();
    assert_eq!((&versions["versions"][0]["state"], &versions["versions"][1]["state"]), (&json!("faulty"), &json!("serving")), "{versions}");
    assert_eq!(wharf.admin().metrics().get("wharf_plugin_fallbacks_total", &[("outcome", "last_good")]), 1.0);
    let audit = fs::read_to_string(wharf.dir().join("state/audit.log")).unwrap();
    assert!(audit.contains("went back from version 2 to version 1 by itself: 3 faults"), "{audit}");
    // The verdict outlives a restart.
    let wharf = wharf.kill_and_start().unwrap();
    assert_eq!(greeted(&get(&wharf, "/")), Some(1));
}

#[test]
fn the_policy_says_what_a_failing_plugin_means() {
    let upstream = Upstream::echo();
    let route = |name: &str| {
        format!(
            "  - {{ name: {name}, match: {{ path: {{ prefix: /{name} }} }}, to: up, plugins: [{{ plugin: greeting, role: filter, policy: {name} }}] }}\n"
        )
    };
    let rest = format!(
        "plugins: {{ greeting: {{ limits: {{ faults: {{ max: 100000, within: 1s }} }} }} }}\nroutes:\n{}{}{}",
        route("closed"),
        route("open"),
        route("last-good")
    );
    let wharf = Wharf::start(config(&[("up", &upstream)], &rest)).unwrap();
    push(&wharf, "greeting", &greeting(1));
    push(&wharf, "greeting", component("table"));
    until("the failing version serves", WAIT, || (get(&wharf, "/closed").status == 503).then_some(()));
    for _ in 0..5 {
        assert_eq!(get(&wharf, "/closed").status, 503);
        let open = get(&wharf, "/open");
        assert_eq!((open.status, greeted(&open)), (200, None), "open: it goes on as if the plugin were not there");
        let last_good = get(&wharf, "/last-good");
        assert_eq!((last_good.status, greeted(&last_good)), (200, Some(1)), "last-good: the version before answers for it");
    }
}

/// A virtual machine stands still while it is moved or its host is busy, and so does a process in a debugger: a guest that
/// needs microseconds has not computed all that time, and its request is answered.
#[test]
fn a_machine_that_stands_still_longer_than_the_deadline_fails_no_request() {
    const DEADLINE: Duration = Duration::from_millis(20);
    let upstream = Upstream::echo();
    let rest = GREETING.replace("greeting: {}", &format!("greeting: {{ limits: {{ deadline: {} ms }} }}", DEADLINE.as_millis()));
    let wharf = Wharf::start(config(&[("up", &upstream)], &rest)).unwrap();
    push(&wharf, "greeting", &greeting(1));
    let load = Load::get(wharf.listener("main"), "life.example", "/").connections(16).start();
    // At some of so many moments a guest is on a thread.
    for _ in 0..if proves() { 400 } else { 40 } {
        let before = load.done();
        wharf.signal(Signal::STOP);
        let stopped = Instant::now();
        until("the stop to outlast the deadline", WAIT, || (stopped.elapsed() >= 2 * DEADLINE).then_some(()));
        wharf.signal(Signal::CONT);
        until("requests go on", WAIT, || (load.done() > before + 200).then_some(()));
    }
    load.stop().expect_clean();
}

fn threads(wharf: &Wharf) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", wharf.pid())).unwrap();
    tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("comm")).ok()).map(|name| name.trim().to_owned()).collect()
}

fn has_engine(wharf: &Wharf) -> bool {
    threads(wharf).iter().any(|name| name == "wharf-ticker" || name == "wharf-guest")
}

#[test]
fn a_gateway_without_plugins_has_no_engine() {
    let upstream = Upstream::echo();
    let plain = "routes: [{ name: all, to: up }]\n";
    let wharf = Wharf::start(config(&[("up", &upstream)], plain)).unwrap();
    Load::get(wharf.listener("main"), "x", "/").connections(4).count(200).run().expect_clean();
    assert!(!has_engine(&wharf), "{:?}", threads(&wharf));
    assert!(threads(&wharf).iter().any(|name| name.starts_with("wharf-core")), "{:?}", threads(&wharf));

    // It comes with the first plugin that is attached.
    wharf.write_config(&config(&[("up", &upstream)], GREETING));
    wharf.admin().post("/v1/config/reload", &Value::Null).expect();
    push(&wharf, "greeting", &greeting(1));
    until("the plugin serves", WAIT, || (greeted(&get(&wharf, "/")) == Some(1)).then_some(()));
    assert!(has_engine(&wharf), "{:?}", threads(&wharf));

    // And goes with the last one.
    wharf.write_config(&config(&[("up", &upstream)], plain));
    wharf.admin().post("/v1/config/reload", &Value::Null).expect();
    until("the plugin serves no more", WAIT, || greeted(&get(&wharf, "/")).is_none().then_some(()));
    until("the engine's threads end", WAIT, || (!has_engine(&wharf)).then_some(()));
}

#[test]
fn a_changed_file_is_applied_without_a_failed_request_and_a_bad_one_changes_nothing() {
    let changes = if proves() { 40 } else { 8 };
    let (blue, green) = (Upstream::named("blue"), Upstream::named("green"));
    let upstreams = [("blue", &blue), ("green", &green)];
    let text = |to: &str, number: usize| {
        config(
            &upstreams,
            &format!(
                "routes:\n  - {{ name: all, to: {to} }}\n  - {{ name: r{number}, match: {{ path: {{ exact: /r{number} }} }}, to: {{ answer: {{ status: 204 }} }} }}\n"
            ),
        )
    };
    let wharf = Wharf::start(text("blue", 0)).unwrap();
    let load = Load::get(wharf.listener("main"), "x", "/").connections(8).rate(400.0).start();
    let bad = [
        ("nowhere", text("nowhere", 0), "nowhere"),
        ("half a file", text("blue", 0)[..200].to_owned(), "wharf.yaml"),
        ("an unknown key", text("blue", 0).replace("routes:", "rootes:"), "routes"),
    ];
    for number in 1..=changes {
        let to = if number % 2 == 0 { "blue" } else { "green" };
        wharf.write_config(&text(to, number));
        // Nobody asks for it: the file is watched.
        until("the new file is in force", WAIT, || {
            (get(&wharf, &format!("/r{number}")).status == 204 && get(&wharf, "/").text() == to).then_some(())
        });
        if number % 4 == 0 {
            let (what, text, says) = &bad[(number / 4) % bad.len()];
            let before = wharf.admin().get("/v1/config").expect();
            wharf.write_config(text);
            let after = until("the bad file is refused", WAIT, || {
                let shown = wharf.admin().get("/v1/config").expect();
                (!shown["refused"].is_null()).then_some(shown)
            });
            assert_eq!(after["since_ms"], before["since_ms"], "{what}: what serves is of the file before");
            assert!(after["refused"].to_string().contains(says), "{what}: {}", after["refused"]);
            assert_eq!(get(&wharf, "/").text(), to, "{what}: the last good file serves on");
            let told = wharf.admin().post("/v1/config/reload", &Value::Null).expect_refusal(422);
            assert!(told["message"].as_str().unwrap().contains("serves on"), "{what}: {told}");
        }
    }
    let report = load.stop();
    println!("config: {changes} changes under load: {report}");
    report.expect_clean();
    let metrics = wharf.admin().metrics();
    assert!(metrics.get("wharf_config_reloads_total", &[]) >= changes as f64);
    assert!(metrics.get("wharf_config_refused_total", &[]) >= (changes / 4) as f64);
}

#[test]
fn counters_go_on_over_every_change_and_a_change_makes_one_generation() {
    let upstream = Upstream::echo();
    let wharf = Wharf::start(config(&[("up", &upstream)], GREETING)).unwrap();
    push(&wharf, "greeting", &greeting(1));
    let serves = |number| until("the version serves", WAIT, || (greeted(&get(&wharf, "/")) == Some(number)).then_some(()));
    serves(1);
    let value = |name: &str, labels: &[(&str, &str)]| wharf.admin().metrics().get(name, labels);
    // The first ones were answered while nothing served.
    let (answered, generation) = (Cell::new(0.0), Cell::new(0.0));
    let look = |more: f64| {
        (0..3).for_each(|_| assert_eq!(get(&wharf, "/").status, 200));
        let all = until("all are counted", WAIT, || {
            let all = value("wharf_http_requests_total", &[("route", "all"), ("class", "2xx")]);
            (all >= answered.get() + 3.0).then_some(all)
        });
        assert!(value("wharf_http_request_seconds_count", &[("route", "all")]) >= all);
        let now = value("wharf_generation", &[]);
        assert!(generation.get() == 0.0 || now == generation.get() + more, "generation {}, then {now}", generation.get());
        answered.set(all);
        generation.set(now);
    };
    look(0.0);
    wharf.admin().post("/v1/config/reload", &Value::Null).expect();
    look(1.0);
    push(&wharf, "greeting", &greeting(2));
    serves(2);
    look(1.0);
    wharf.admin().post("/v1/plugins/greeting/rollback", &Value::Null).expect();
    serves(1);
    look(1.0);
    wharf.write_config(&config(&[("up", &upstream)], &format!("# another\n{GREETING}")));
    until("the file is in force", WAIT, || (value("wharf_generation", &[]) > generation.get()).then_some(()));
    look(1.0);
}

#[test]
fn a_request_that_could_not_be_read_is_in_the_access_log() {
    let upstream = Upstream::echo();
    let wharf = Wharf::start(config(&[("up", &upstream)], "routes: [{ name: all, to: up }]\n")).unwrap();
    let mut client = TcpStream::connect(wharf.listener("main")).unwrap();
    client.write_all(b"GET /x%zz HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
    let mut said = String::new();
    client.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("HTTP/1.1 400"), "{said}");
    let line = until("its line is written", WAIT, || {
        let text = fs::read_to_string(wharf.dir().join("access.log")).unwrap_or_default();
        text.lines().next().map(|line| serde_json::from_str::<Value>(line).unwrap())
    });
    assert_eq!((&line["status"], &line["fault"], &line["client"]), (&json!(400), &json!("path"), &json!("127.0.0.1")), "{line}");
    assert!(said.contains(line["id"].as_str().unwrap()), "{line}: the id that the client was told");
}

#[test]
fn the_admin_api_may_be_addressed_by_the_name_that_is_advertised() {
    let upstream = Upstream::echo();
    let text = config(&[("up", &upstream)], "routes: [{ name: all, to: up }]\n");
    let text =
        text.replace("admin: { bind: \"127.0.0.1:0\" }", "admin: { bind: \"127.0.0.1:0\", advertise: \"gateway.example.com:9901\" }");
    let wharf = Wharf::start(text).unwrap();
    let token = fs::read_to_string(wharf.dir().join("state/admin-token")).unwrap();
    for (host, status) in [("gateway.example.com:9901", "200"), ("evil.example.com", "421")] {
        let mut client = TcpStream::connect(wharf.admin().address()).unwrap();
        let head =
            format!("GET /v1/config HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {}\r\nconnection: close\r\n\r\n", token.trim());
        client.write_all(head.as_bytes()).unwrap();
        let mut said = String::new();
        client.read_to_string(&mut said).unwrap();
        assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{host}: {said}");
    }
}

#[test]
fn a_changed_log_level_is_taken_without_a_restart() {
    let upstream = Upstream::echo();
    let text = |level: &str| config(&[("up", &upstream)], &format!("log: {{ level: {level} }}\nroutes: [{{ name: all, to: up }}]\n"));
    let wharf = Wharf::start(text("warn")).unwrap();
    assert!(!wharf.log().contains(" INFO "), "{}", wharf.log());
    wharf.write_config(&text("info"));
    wharf.until_said("another level level=info", WAIT);
    wharf.write_config(&text("warn"));
    wharf.admin().post("/v1/config/reload", &Value::Null).expect();
    let told = wharf.log().lines().count();
    wharf.admin().post("/v1/config/reload", &Value::Null).expect();
    // What the change itself says may come late; of the second reading nothing is said.
    assert!(wharf.log().lines().count() <= told + 2, "{}", wharf.log());
    let shown = wharf.admin().get("/v1/config").expect();
    assert_eq!(shown["needs_restart"], json!([]), "{shown}");
}

#[test]
fn a_push_mends_what_the_configuration_waits_for() {
    let upstream = Upstream::echo();
    let services = [("up", &upstream)];
    // Attached and never uploaded: that is told until it is mended.
    let wharf = Wharf::start(config(&services, GREETING)).unwrap();
    let shown = || wharf.admin().get("/v1/config").expect();
    let problems = || shown()["problems"].as_array().map_or(0, Vec::len);
    assert_eq!(problems(), 1, "{}", shown());
    push(&wharf, "greeting", &greeting(1));
    until("the problem is told no more", WAIT, || (problems() == 0).then_some(()));
    assert_eq!(wharf.admin().metrics().get("wharf_plugin_problems", &[]), 0.0);
    assert_eq!(greeted(&get(&wharf, "/")), Some(1));

    // A file that asks of a plugin what its version cannot do is refused, and comes into force with a version that can.
    let plain = "plugins: { greeting: {} }\nroutes: [{ name: all, to: up }]\n";
    wharf.write_config(&config(&services, plain));
    wharf.admin().post("/v1/config/reload", &Value::Null).expect();
    let routed =
        "plugins: { greeting: {} }\nroutes: [{ name: all, to: { plugin: greeting, config: { table: { b: { service: up } } } } }]\n";
    wharf.write_config(&config(&services, routed));
    wharf.admin().post("/v1/config/reload", &Value::Null).expect_refusal(422);
    assert!(shown()["refused"].to_string().contains("route"), "{}", shown());
    assert_eq!(get(&wharf, "/a/1").status, 200, "the file before serves on");
    push(&wharf, "greeting", component("route"));
    until("the refused file is in force", WAIT, || shown()["refused"].is_null().then_some(()));
    assert_eq!(get(&wharf, "/a/1").status, 404, "the table has no such place");
    assert_eq!(get(&wharf, "/b/1").status, 200);
}
