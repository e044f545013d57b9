//! Bad uploads, damaged files, strangers at the admin door: each gets a clear no that names the object, the limit and the
//! remedy, and what served goes on serving.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests stop at the first surprise, and print their figures"
)]

use serde_json::{Value, json};
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use wharf_artifacts::{component, with_build_number};
use wharf_e2e::swaps::{greeted, greeting};
use wharf_harness::{Connection, Reply, Setup, Upstream, Wharf, exchange, until};

const WAIT: Duration = Duration::from_secs(60);

fn config(upstream: &Upstream) -> String {
    format!(
        r#"
node: {{ state_dir: "@DIR@/state" }}
admin: {{ bind: "127.0.0.1:0" }}
access_log: {{ to: "@DIR@/access.log" }}
listeners: {{ main: {{ bind: "127.0.0.1:0" }} }}
services: {{ up: {{ endpoints: ["{}"] }} }}
plugins: {{ one: {{}}, two: {{}}, shaped: {{ grants: {{ kv: {{}}, http: {{ services: [up] }} }} }} }}
routes:
  - {{ name: one, match: {{ path: {{ prefix: /one }} }}, to: up, plugins: [{{ plugin: one, role: filter }}] }}
  - {{ name: two, match: {{ path: {{ prefix: /two }} }}, to: up, plugins: [{{ plugin: two, role: filter }}] }}
  - {{ name: shaped, match: {{ path: {{ prefix: /shaped }} }}, to: up, plugins: [{{ plugin: shaped, role: filter, config: {{ do: count }} }}] }}
"#,
        upstream.address()
    )
}

fn get(wharf: &Wharf, path: &str) -> Reply {
    Connection::open(wharf.listener("main")).unwrap().get("uploads.example", path).unwrap()
}

#[track_caller]
fn serves(wharf: &Wharf, path: &str, number: u64) {
    let reply = get(wharf, path);
    assert_eq!((reply.status, greeted(&reply)), (200, Some(number)), "{path}: {}", reply.text());
}

fn push(wharf: &Wharf, plugin: &str, bytes: &[u8]) -> Value {
    wharf.admin().put_bytes(&format!("/v1/plugins/{plugin}"), bytes).expect()
}

/// One bad upload: its status, and what its message and its hint say.
#[track_caller]
fn refused(wharf: &Wharf, plugin: &str, what: &str, bytes: &[u8], status: u16, says: &[&str], hints: &str) {
    let start = Instant::now();
    let error = wharf.admin().put_bytes(&format!("/v1/plugins/{plugin}"), bytes).expect_refusal(status);
    let (message, hint) = (error["message"].as_str().unwrap(), error["hint"].as_str().unwrap_or_default());
    for part in says {
        assert!(message.contains(part), "{what}: {part:?} is not in {message:?}");
    }
    assert!(hint.contains(hints), "{what}: {hints:?} is not in {hint:?} (of {message:?})");
    assert!(start.elapsed() < WAIT, "{what} took {:?}", start.elapsed());
}

/// Name, bytes, status, what the message says, what the hint says.
type Case<'a> = (&'a str, &'a [u8], u16, &'a [&'a str], &'a str);

#[test]
fn a_bad_upload_is_told_why_and_the_old_version_serves_on() {
    let upstream = Upstream::echo();
    let wharf = Wharf::start(config(&upstream)).unwrap();
    push(&wharf, "one", &greeting(1));
    let hello = component("hello");
    let cases: &[Case<'_>] = &[
        ("empty", b"", 422, &["it is empty"], ".wasm file"),
        ("not wasm", b"#!/bin/sh", 422, &["\"one\"", "does not begin with"], ".wasm file"),
        ("a zip", b"PK\x03\x04 and more", 422, &["zip archive"], ".wasm file"),
        ("native code", b"\x7fELF and more", 422, &["native ELF", "never accepted"], ".wasm file"),
        ("text", b"(component)", 422, &["WebAssembly text"], ".wasm file"),
        ("core module", component("core-module"), 422, &["\"one\"", "core module"], "wasm32-wasip2"),
        ("cut in the middle", &hello[..hello.len() / 2], 422, &["\"one\"", "not a well-formed component"], "cut short"),
        ("no role", component("no-role"), 422, &["\"one\"", "answers no role"], "wit/worlds.wit"),
        ("wrong role", component("route"), 422, &["\"one\"", "route \"one\"", "as filter", "only route"], "export the filter interface"),
        ("missing grant", component("wants-http"), 422, &["\"one\"", "wharf:host/http"], "plugins.one.grants.http"),
        ("foreign import", component("foreign-import"), 422, &["\"one\"", "evil:corp/api"], "wit/deps"),
        ("trap at start", component("trap-at-start"), 422, &["\"one\"", "trapped"], "may trap"),
        ("loop at start", component("loop-at-start"), 422, &["\"one\"", "did not finish", "1000 ms"], "fresh"),
        ("loop in its schema", component("loop-in-schema"), 422, &["\"one\"", "did not finish", "1000 ms"], "fresh"),
        ("too much memory", component("memory-at-start"), 422, &["\"one\"", "memory"], ""),
    ];
    for &(what, bytes, status, says, hints) in cases {
        refused(&wharf, "one", what, bytes, status, says, hints);
        serves(&wharf, "/one", 1);
    }
    let huge = vec![0u8; (64 << 20) + 1];
    refused(&wharf, "one", "too large", &huge, 413, &["67108864"], "");
    serves(&wharf, "/one", 1);

    let bad_name = wharf.admin().put_bytes("/v1/plugins/No%20Name", &greeting(2)).expect_refusal(400);
    assert!(bad_name["hint"].as_str().unwrap().contains("a-z"), "{bad_name}");

    let versions = wharf.admin().get("/v1/plugins/one/versions").expect();
    assert_eq!(versions["versions"].as_array().unwrap().len(), 1, "nothing that was refused is kept: {versions}");
    let blobs = fs::read_dir(wharf.dir().join("state/plugins/blobs")).unwrap().count();
    assert_eq!(blobs, 1, "nor on disk");
    push(&wharf, "one", &greeting(3));
    until("the next good version serves", WAIT, || (greeted(&get(&wharf, "/one")) == Some(3)).then_some(()));
}

#[test]
fn a_version_that_its_configuration_does_not_fit_is_refused() {
    let upstream = Upstream::echo();
    let wharf = Wharf::start(config(&upstream)).unwrap();
    push(&wharf, "shaped", component("hostile"));
    assert!(get(&wharf, "/shaped").text().contains("x-calls: 1"));
    refused(
        &wharf,
        "shaped",
        "another schema",
        component("headers"),
        422,
        &["\"shaped\"", "does not fit the schema", "do"],
        "configuration",
    );
    assert!(get(&wharf, "/shaped").text().contains("x-calls: "), "the old one serves on");

    // The other way round: the file changes and the plugin refuses.
    for (config_of, says) in [
        ("{ do: 7 }", "does not fit the schema"),
        ("{ do: refuse-configure }", "ask for something else"),
        ("{ do: panic-in-configure }", "a guest gives up"),
    ] {
        let text = config(&upstream).replace("{ do: count }", config_of);
        wharf.write_config(&text);
        let error = wharf.admin().post("/v1/config/reload", &Value::Null).expect_refusal(422);
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(says) && !message.contains("backtrace"), "{error}");
        assert!(get(&wharf, "/shaped").text().contains("x-calls: "), "the old configuration serves on");
    }
}

fn blob(wharf: &Wharf, digest: &Value) -> PathBuf {
    wharf.dir().join("state/plugins/blobs").join(digest.as_str().unwrap())
}

fn compiled(blob: &Path) -> PathBuf {
    let found =
        fs::read_dir(blob).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.extension().is_some_and(|end| end == "cwasm"));
    found.expect("a compiled form beside the component")
}

fn damage(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    fs::write(file, bytes).unwrap();
}

#[test]
fn a_damaged_compiled_form_is_made_again() {
    let upstream = Upstream::echo();
    let wharf = Wharf::start(config(&upstream)).unwrap();
    let pushed = push(&wharf, "one", &greeting(1));
    let file = compiled(&blob(&wharf, &pushed["digest"]));
    damage(&file);
    let wharf = wharf.kill_and_start().unwrap();
    serves(&wharf, "/one", 1);
    let again = compiled(&blob(&wharf, &pushed["digest"]));
    // Its name is the sum of its content: if it loads under that name it is whole.
    assert!(wharf.log().contains("is made again"), "it says so:\n{}", wharf.log());
    assert!(again.exists());
}

#[test]
fn a_damaged_component_keeps_only_its_own_plugin_from_serving() {
    let upstream = Upstream::echo();
    let wharf = Wharf::start(config(&upstream)).unwrap();
    let one = push(&wharf, "one", &greeting(1));
    push(&wharf, "two", &greeting(2));
    let folder = blob(&wharf, &one["digest"]);
    damage(&folder.join("component.wasm"));
    fs::remove_file(compiled(&folder)).unwrap();
    let wharf = wharf.kill_and_start().unwrap();
    serves(&wharf, "/two", 2);
    assert_eq!(get(&wharf, "/one").status, 503, "closed: without its rule nothing passes");
    let versions = wharf.admin().get("/v1/plugins/one/versions").expect();
    let row = &versions["versions"][0];
    assert_eq!(list_row(&wharf, "one")["ready"], false);
    assert!(row["damage"].as_str().unwrap().contains("sha-256"), "{row}");
    let shown = wharf.admin().get("/v1/config").expect();
    let problem = &shown["problems"][0];
    assert!(problem["message"].as_str().unwrap().contains("unusable") && problem["hint"].as_str().unwrap().contains("upload"), "{problem}");
    // The remedy that it names.
    push(&wharf, "one", &greeting(1));
    until("it serves again", WAIT, || (greeted(&get(&wharf, "/one")) == Some(1)).then_some(()));
}

#[test]
fn a_cut_index_costs_at_most_its_last_change_and_no_other_plugin() {
    let upstream = Upstream::echo();
    let wharf = Wharf::start(config(&upstream)).unwrap();
    push(&wharf, "one", &greeting(1));
    push(&wharf, "one", &greeting(3));
    push(&wharf, "two", &greeting(2));
    let index = wharf.dir().join("state/plugins/index/one.json");
    let cut = |path: &Path| {
        let text = fs::read(path).unwrap();
        fs::write(path, &text[..text.len() / 2]).unwrap();
    };
    // The one before is read; it is a hard link to another file, so it is whole.
    cut(&index);
    let wharf = wharf.kill_and_start().unwrap();
    serves(&wharf, "/two", 2);
    serves(&wharf, "/one", 1);
    assert!(list_row(&wharf, "one")["damage"].is_string(), "{}", list_row(&wharf, "one"));

    // Both are gone: its versions are lost, and it says so.
    cut(&index.with_extension("json.previous"));
    let wharf = wharf.kill_and_start().unwrap();
    serves(&wharf, "/two", 2);
    assert_eq!(get(&wharf, "/one").status, 503);
    let shown = wharf.admin().get("/v1/config").expect();
    assert!(shown["problems"].to_string().contains("is damaged"), "{shown}");
    push(&wharf, "one", &greeting(4));
    until("it serves again", WAIT, || (greeted(&get(&wharf, "/one")) == Some(4)).then_some(()));
    assert!(list_row(&wharf, "one")["damage"].is_null());
}

fn list_row(wharf: &Wharf, plugin: &str) -> Value {
    let list = wharf.admin().get("/v1/plugins").expect();
    list["plugins"].as_array().unwrap().iter().find(|row| row["plugin"] == plugin).cloned().unwrap_or(Value::Null)
}

#[test]
fn a_state_folder_that_takes_no_files_refuses_the_change_and_serves_on() {
    let upstream = Upstream::echo();
    let wharf = Wharf::start(config(&upstream)).unwrap();
    push(&wharf, "one", &greeting(1));
    // Not by permissions, which do not hold an administrator: where files are written there is no folder any more.
    let new = wharf.dir().join("state/plugins/new");
    fs::remove_dir_all(&new).unwrap();
    fs::write(&new, "").unwrap();
    let error = wharf.admin().put_bytes("/v1/plugins/one", &greeting(2)).expect_refusal(507);
    assert!(error["message"].as_str().unwrap().contains("state/plugins"), "{error}");
    assert!(error["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{error}");
    serves(&wharf, "/one", 1);
    fs::remove_file(&new).unwrap();
    fs::create_dir(&new).unwrap();
    push(&wharf, "one", &greeting(2));
    until("the next change is taken", WAIT, || (greeted(&get(&wharf, "/one")) == Some(2)).then_some(()));
}

#[test]
fn a_state_folder_that_cannot_be_made_is_named_at_the_start() {
    let upstream = Upstream::echo();
    let text = config(&upstream).replace("@DIR@/state", "@DIR@/wharf.yaml/state");
    let (status, said) = Setup::new(text).start_in_vain().unwrap();
    assert!(!status.success());
    assert!(said.contains("wharf.yaml/state") && said.contains("hint"), "{said}");
}

#[test]
fn a_second_gateway_on_the_same_state_folder_is_refused() {
    let upstream = Upstream::echo();
    let first = Wharf::start(config(&upstream)).unwrap();
    push(&first, "one", &greeting(1));
    let text = config(&upstream).replace("@DIR@/state", &first.dir().join("state").display().to_string());
    let (status, said) = Setup::new(text).start_in_vain().unwrap();
    assert!(!status.success());
    assert!(said.contains("state"), "{said}");
    serves(&first, "/one", 1);
}

#[test]
fn a_taken_port_is_named_with_the_way_to_find_who_has_it() {
    let upstream = Upstream::echo();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let text = config(&upstream).replace("main: { bind: \"127.0.0.1:0\" }", &format!("main: {{ bind: \"127.0.0.1:{port}\" }}"));
    let (status, said) = Setup::new(text).start_in_vain().unwrap();
    assert!(!status.success());
    assert!(said.contains(&port) && said.contains("taken") && said.contains("hint") && said.contains("main"), "{said}");
}

#[test]
fn strangers_change_nothing_at_the_admin_door() {
    let upstream = Upstream::echo();
    let wharf = Wharf::start(config(&upstream)).unwrap();
    push(&wharf, "one", &greeting(1));
    let bytes = greeting(2);
    for (token, says) in [("", "needs the admin token"), ("wrong-token-wrong-token-wrong-token", "not the admin token")] {
        let error = wharf.admin().with_token(token).put_bytes("/v1/plugins/one", &bytes).expect_refusal(401);
        assert!(error["message"].as_str().unwrap().contains(says) && error["hint"].is_string(), "{error}");
    }
    let token = fs::read_to_string(wharf.dir().join("state/admin-token")).unwrap();
    let address = wharf.admin().address();
    let ask = |host: &str, more: &str| {
        let head = format!(
            "POST /v1/plugins/one/rollback HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {}\r\n{more}Content-Length: 0\r\nConnection: close\r\n\r\n",
            token.trim()
        );
        exchange(address, head.as_bytes(), WAIT).unwrap()
    };
    for host in ["evil.example", "127.0.0.1.evil.example", &format!("evil.example:{}", address.port())] {
        let heard = ask(host, "");
        assert_eq!(heard.status(), 421, "{host}: {}", heard.text());
        assert!(heard.text().contains("hint"), "{}", heard.text());
    }
    for more in ["Origin: http://evil.example\r\n", "Sec-Fetch-Site: cross-site\r\n"] {
        let heard = ask(&address.to_string(), more);
        assert_eq!(heard.status(), 403, "{more}: {}", heard.text());
    }
    let versions = wharf.admin().get("/v1/plugins/one/versions").expect();
    assert_eq!(versions["versions"].as_array().unwrap().len(), 1);
    serves(&wharf, "/one", 1);
}

#[test]
fn an_upload_that_is_broken_off_leaves_nothing_behind() {
    let upstream = Upstream::echo();
    let wharf = Wharf::start(config(&upstream)).unwrap();
    push(&wharf, "one", &greeting(1));
    let token = fs::read_to_string(wharf.dir().join("state/admin-token")).unwrap();
    let mut half = format!(
        "PUT /v1/plugins/one HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nContent-Type: application/octet-stream\r\nContent-Length: 100000\r\n\r\n",
        wharf.admin().address(),
        token.trim()
    )
    .into_bytes();
    half.extend_from_slice(&greeting(2)[..30_000]);
    let mut connection = Connection::open(wharf.admin().address()).unwrap();
    connection.send(&half).unwrap();
    drop(connection);
    // Changes of a plugin are one at a time, so after this one the other is over.
    let pushed = push(&wharf, "one", &with_build_number(&greeting(3), 33));
    assert_eq!((&pushed["version"], &pushed["previous"]), (&json!(2), &json!(1)));
    assert_eq!(fs::read_dir(wharf.dir().join("state/plugins/new")).unwrap().count(), 0);
}
