//! The configuration in effect: what it shows is what holds, what it hides stays hidden, and what differs is found.

use crate::config::diff::diff;
use crate::config::document::{Document, read};
use crate::config::sources::{Here, Outside};
use crate::config::warnings::warnings;
use crate::config::*;
use crate::explain::{Question, explain};
use serde_json::{Value, json};
use std::io;
use std::path::{Path, PathBuf};

/// One secret in the environment, and nothing else.
struct OneSecret;

impl Outside for OneSecret {
    fn variable(&mut self, name: &str) -> Result<Option<String>, String> {
        Ok((name == "SECRET").then(|| "hunter2-hunter2".to_owned()))
    }

    fn read(&mut self, _: &Path, _: u64) -> io::Result<Vec<u8>> {
        Err(io::Error::other("none"))
    }

    fn entries(&mut self, _: &Path, _: usize) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn is_file(&mut self, _: &Path) -> bool {
        false
    }

    fn identity(&mut self, path: &Path) -> PathBuf {
        path.to_owned()
    }
}

fn around() -> Surroundings {
    Surroundings { addresses: Vec::new(), cores: 4, may_bind: false, any_address: true, expired: false }
}

fn document(text: &str) -> Document {
    read("t.yaml", Path::new("t.yaml"), text, &mut OneSecret).unwrap()
}

fn plan(text: &str) -> Plan {
    check_files("t.yaml", Path::new("t.yaml"), text, &around(), &mut OneSecret)
        .0
        .into_plan()
        .unwrap_or_else(|mistakes| panic!("{mistakes}\n{text}"))
}

#[test]
fn what_is_shown_with_every_default_means_the_same_as_what_is_written() {
    let mut compared = 0;
    for text in super::config_tests::examples() {
        // One that names certificates, which are not here, is no plan.
        let Ok(before) = check("t.yaml", &text, Path::new(""), &around()) else { continue };
        compared += 1;
        let shown = read("t.yaml", Path::new("t.yaml"), &text, &mut Here).unwrap().yaml();
        let after = check("t.yaml", &shown, Path::new(""), &around()).unwrap_or_else(|mistakes| {
            panic!("{mistakes}\n{shown}\nhint: a group of settings that is not there unless it is written says so in its description (`Default none.`)")
        });
        // A plugin that may fail `closed` by default may as well say so.
        let meant = |plan: &Plan| format!("{plan:?}").replace("policy: None", "policy: Some(Closed)");
        assert_eq!(
            meant(&before),
            meant(&after),
            "a default that the description of a setting names is not the one that holds, or a group that is absent by default does not say so (`Default none.`):\n{shown}"
        );
    }
    assert!(compared >= 5, "{compared} configurations");
}

#[test]
fn every_value_says_where_it_comes_from() {
    let text = "listeners: {web: {bind: 127.0.0.1:0}}
services: {s: {endpoints: [127.0.0.1:9001], timeouts: {head: 1s}}}
defaults:
  timeouts: {whole: 7s}
routes:
  - {name: a, to: s}
  - {name: b, match: {path: {exact: /b}}, to: s, timeouts: {whole: 8s}}
";
    let document = document(text);
    let leaves = |section: &str, name: &str| -> Vec<(String, String)> {
        let items = document.items();
        let part = items[&(section.to_owned(), name.to_owned())];
        part.leaves().into_iter().map(|(path, leaf)| (path, format!("{} ({})", leaf.value, leaf.from.text()))).collect()
    };
    let get =
        |section: &str, name: &str, path: &str| leaves(section, name).into_iter().find(|(have, _)| have == path).map(|(_, said)| said);
    assert_eq!(get("routes", "a", "timeouts.whole").as_deref(), Some("\"7s\" (defaults, t.yaml:4)"));
    assert_eq!(get("routes", "b", "timeouts.whole").as_deref(), Some("\"8s\" (t.yaml:7)"));
    assert_eq!(get("services", "s", "timeouts.head").as_deref(), Some("\"1s\" (t.yaml:2)"));
    assert_eq!(get("services", "s", "timeouts.connect").as_deref(), Some("\"2s\" (default)"));
    assert_eq!(get("services", "s", "endpoints[0].weight").as_deref(), Some("1 (default)"));
    assert_eq!(Document::from_json(&document.json()).items().len(), document.items().len());
    assert_eq!(document.place_of("services", "s").as_deref(), Some("t.yaml:2"));
}

#[test]
fn values_of_header_fields_are_hidden_by_their_names() {
    let text = "listeners: {web: {bind: 127.0.0.1:0}}
services: {session: {endpoints: [127.0.0.1:9001]}}
plugins: {auth: {}}
routes:
  - name: a
    to: session
    headers: {request: {set: {authorization: Basic for-you, x-api-key-2: for-you, x-tokens-left: '5', x-tenant: shop}}}
    plugins: [{plugin: auth, config: {max_tokens: 100, jwt: {leeway: 30s, clientSecret: for-you}, tokens: [for-you], passwordFile: p}}]
";
    let shown = document(text).yaml();
    assert!(!shown.contains("for-you"), "{shown}");
    for there in ["127.0.0.1:9001", "shop", "100", "30s", "\"p\""] {
        assert!(shown.contains(there), "{there}: {shown}");
    }
}

const SECRETS: &str = "listeners: {web: {bind: 127.0.0.1:0}}
plugins: {auth: {}}
routes:
  - name: a
    to: {answer: {status: 200, body: 'x ${SECRET} y'}}
    plugins: [{plugin: auth, config: {jwt: {secret: not-for-you}, keys: [k-one, {id: k2, secret: k-two}], header: x-token}}]
";

#[test]
fn what_stands_beside_a_secret_and_is_none_is_shown() {
    let text = "listeners: {web: {bind: 127.0.0.1:0}}
plugins: {auth: {}}
attachments: {global: [{plugin: auth, config: {methods: [{api_key: {header: x-api-key, unknown: for-you, keys: [{sha256: abcdef, consumer: ali}]}}]}}]}
";
    let shown = document(text).yaml();
    assert!(shown.contains("x-api-key") && shown.contains("ali"), "{shown}");
    assert!(!shown.contains("abcdef") && !shown.contains("for-you"), "{shown}");
}

#[test]
fn nothing_that_is_shown_holds_a_secret() {
    let document = document(SECRETS);
    let other = self::document(&SECRETS.replace("not-for-you", "nor-for-you").replace("k-one", "k-three"));
    let plan = plan(SECRETS);
    let question = Question { url: "/".into(), ..Question::default() };
    let shown = [
        document.yaml(),
        document.json().to_string(),
        diff(&document, &other).to_string(),
        explain(&plan, Some(&document), &question, &|_| None).unwrap().to_string(),
    ];
    for text in &shown {
        for secret in ["hunter2", "for-you", "k-one", "k-two", "k-three"] {
            assert!(!text.contains(secret), "{secret}: {text}");
        }
    }
    assert!(shown[0].contains("*** ${SECRET}") && shown[0].contains("x-token"), "{}", shown[0]);
    // That it is another one is seen all the same.
    assert_eq!(diff(&document, &other)["changes"][0]["name"], "a");
    // What comes over the admin API is compared as far as it can be.
    let told = Document::from_json(&document.json());
    assert_eq!(diff(&told, &document)["same"], json!(true), "{:#}", diff(&told, &document));
}

#[test]
fn a_difference_is_told_by_item_and_setting_with_the_routes_that_it_meets() {
    let before = "listeners: {web: {bind: 127.0.0.1:0}}
services: {s: {endpoints: [127.0.0.1:9001]}, gone: {endpoints: [127.0.0.1:9002]}}
plugins: {auth: {}}
routes:
  - {name: a, match: {path: {prefix: /a}}, to: s}
  - {name: b, match: {path: {prefix: /b}}, to: s, plugins: [auth]}
  - {name: c, match: {path: {prefix: /c}}, to: {answer: {status: 200}}}
";
    let after = "listeners: {web: {bind: 127.0.0.1:1, connections_max: 5}}
services: {s: {endpoints: [127.0.0.1:9001], retries: {max: 2}}}
plugins: {auth: {limits: {deadline: 60ms}}}
defaults: {body_bytes_max: 1MiB}
routes:
  - {name: a, match: {path: {prefix: /a}}, to: s, timeouts: {whole: 5s}}
  - {name: b, match: {path: {prefix: /b}}, to: s, plugins: [auth]}
  - {name: c, match: {path: {prefix: /c}}, to: {answer: {status: 200}}}
  - {name: d, match: {path: {prefix: /d}}, to: s}
";
    let found = diff(&document(before), &document(after));
    let lines: Vec<String> = found["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| {
            let settings: Vec<String> = change["settings"]
                .as_array()
                .unwrap()
                .iter()
                .map(|setting| format!(" {}: {} -> {}", setting["setting"].as_str().unwrap(), setting["old"], setting["new"]))
                .collect();
            format!("{} {} {}{}", change["change"], change["kind"], change["name"], settings.concat()).replace('"', "")
        })
        .collect();
    assert_eq!(
        lines,
        [
            "changed defaults  body_bytes_max: 10MiB -> 1MiB",
            "changed listener web bind: 127.0.0.1:0 -> 127.0.0.1:1 connections_max: 20000 -> 5",
            "changed plugin auth limits.deadline: 50ms -> 60ms",
            "changed route a body_bytes_max: 10MiB -> 1MiB timeouts.whole: 60s -> 5s",
            "added route d",
            "removed service gone",
            "changed service s retries.max: 1 -> 2",
        ]
    );
    assert_eq!(found["needs_restart"], json!(["listeners"]));
    assert_eq!(
        found["affected"],
        json!([
            { "route": "b", "by": ["defaults: body_bytes_max", "plugin auth", "service s"] },
            { "route": "c", "by": ["defaults: body_bytes_max"] },
        ])
    );
    assert_eq!(diff(&document(before), &document(before))["same"], json!(true));
}

#[test]
fn what_is_never_used_or_taken_is_a_warning() {
    let text = "listeners: {web: {bind: 127.0.0.1:0}}
services: {s: {endpoints: [127.0.0.1:9001]}, spare: {endpoints: [127.0.0.1:9002]}, idp: {endpoints: [127.0.0.1:9003]}}
plugins: {auth: {grants: {http: {services: [idp]}}}, idle: {}}
routes:
  - {name: all, to: s, priority: 5, match: {path: {prefix: /a}}, plugins: [auth]}
  - {name: hidden, to: s, match: {path: {exact: /a/b}, hosts: [x.test]}}
  - {name: seen, to: s, match: {path: {prefix: /ab}}}
  - {name: reads, to: s, match: {path: {prefix: /c}, methods: [GET, POST]}}
  - {name: late, to: s, match: {path: {prefix: /c}, methods: [HEAD]}}
  - {name: early, to: s, match: {path: {prefix: /c}, methods: [DELETE]}}
  - {name: tested, to: s, match: {path: {prefix: /d}, headers: {x-a: present}}, priority: 9}
  - {name: open, to: s, match: {path: {prefix: /d}}}
";
    let found: Vec<String> = warnings(&plan(text)).iter().map(|warning| format!("{} {}", warning.item.0, warning.item.1)).collect();
    assert_eq!(found, ["services spare", "plugins idle", "routes hidden", "routes late"]);
    let any = "listeners: {web: {bind: 127.0.0.1:0}}\nservices: {s: {endpoints: [127.0.0.1:9001]}}\nplugins: {p: {}}\nroutes: [{name: a, to: {plugin: p}}]\n";
    assert!(warnings(&plan(any)).is_empty(), "a route plugin may name any service");
}

#[test]
fn an_explanation_names_plugins_endpoints_and_where_each_setting_comes_from() {
    let text = "listeners: {web: {bind: 127.0.0.1:0, trusted_proxies: [10.0.0.0/8]}}
services: {s: {endpoints: [{address: 127.0.0.1:9001, tags: [gray]}, {address: 127.0.0.1:9002, weight: 0}, 127.0.0.1:9003], timeouts: {head: 1s}}}
plugins: {auth: {}, late: {}}
routes:
  - {name: a, match: {path: {prefix: /a}, methods: [POST]}, to: {service: s, subset: gray}, plugins: [{plugin: late, order: 5, policy: open}, auth]}
  - {name: all, to: s}
";
    let ask = |method: &str, url: &str| {
        let question = Question {
            method: method.into(),
            url: url.into(),
            headers: Vec::new(),
            source: Some("10.1.2.3".parse().unwrap()),
            listener: None,
        };
        explain(&plan(text), Some(&document(text)), &question, &|_| None)
    };
    let said = ask("POST", "http://x/a/1?b=c").unwrap();
    assert_eq!((&said["route"], &said["to"]), (&json!("a"), &json!("service s, endpoints tagged gray")));
    let chain: Vec<String> =
        said["chain"].as_array().unwrap().iter().map(|step| format!("{} {}", step["plugin"], step["policy"]).replace('"', "")).collect();
    assert_eq!(chain, ["auth closed, by default", "late open"]);
    let chosen: Vec<&Value> = said["endpoints"].as_array().unwrap().iter().map(|row| &row["chosen"]).collect();
    assert_eq!(chosen, ["yes", "no: its weight is 0", "no: it has not the tag"]);
    assert_eq!(said["source"], json!([{ "listener": "web", "is_a_trusted_proxy": true }]));
    let setting = |of: &str, name: &str| {
        let all = said["settings"].as_array().unwrap();
        all.iter()
            .find(|row| row["of"] == of && row["setting"] == name)
            .map(|row| format!("{} {}", row["value"], row["from"]).replace('"', ""))
    };
    assert_eq!(setting("service", "timeouts.head").as_deref(), Some("1s t.yaml:2"));
    assert_eq!(setting("route", "timeouts.whole").as_deref(), Some("60s default"));
    let said = ask("GET", "/a").unwrap();
    assert_eq!((&said["route"], &said["tried"][0]), (&json!("all"), &json!({ "route": "a", "verdict": said["tried"][0]["verdict"] })));
    assert!(ask("GET", "/a/%2e%2e/..;/x").unwrap_err().contains("refused with 400"));
}
