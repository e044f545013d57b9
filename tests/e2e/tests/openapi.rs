//! The published admin API is the one that is served: `host/gateway/openapi.json` is what `/openapi.json` answers.
//!
//! After a deliberate change `WHARF_BLESS=1 cargo test -p wharf-e2e --test openapi` writes the file anew.

use serde_json::Value;
use std::fs;
use wharf_e2e::docs::root;
use wharf_harness::Wharf;

const CONFIG: &str = "\
node: { state_dir: \"@DIR@/state\" }
access_log: { to: off }
admin: { bind: \"127.0.0.1:0\" }
listeners: { main: { bind: \"127.0.0.1:0\" } }
services: {}
routes: [ { name: all, to: { answer: { status: 204 } } } ]
";

#[test]
fn the_published_admin_api_is_the_one_that_is_served() {
    let wharf = Wharf::start(CONFIG).unwrap();
    assert_eq!(wharf.admin().with_token("").get("/openapi.json").status, 401, "the document is for those who have the token");
    let served = wharf.admin().get("/openapi.json").expect();
    let text = format!("{served:#}\n");
    let file = root().join("host/gateway/openapi.json");
    if std::env::var_os("WHARF_BLESS").is_some() {
        fs::write(&file, &text).unwrap();
    }
    let published: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    for (path, verbs) in served["paths"].as_object().unwrap() {
        assert_eq!(verbs, &published["paths"][path], "{path}. hint: WHARF_BLESS=1 writes the file anew");
    }
    assert_eq!(served, published, "hint: WHARF_BLESS=1 writes the file anew");
}

/// What operators read of it is true: every operation is named in the page about it.
#[test]
fn every_operation_is_in_the_page_for_operators() {
    let document: Value = serde_json::from_str(&fs::read_to_string(root().join("host/gateway/openapi.json")).unwrap()).unwrap();
    let page = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    for path in document["paths"].as_object().unwrap().keys() {
        assert!(page.contains(&format!("`{path}`")), "docs/operations.md does not name {path}");
    }
}

/// The same for metrics: what a busy demo would export has a row there.
#[test]
fn every_metric_is_in_the_page_for_operators() {
    let wharf = Wharf::start(CONFIG).unwrap();
    let page = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let metrics = wharf.admin().metrics().0;
    let names: Vec<&str> = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    assert!(names.len() > 10, "{metrics}");
    for name in names {
        assert!(page.contains(&format!("`{name}`")), "docs/operations.md does not name {name}");
    }
}
