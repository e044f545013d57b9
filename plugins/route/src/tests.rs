//! What the table promises, asked natively.

use crate::Table;
use serde_json::json;
use std::collections::BTreeMap;
use wharf_plugin::testing::{self, Ask, Bench};
use wharf_plugin::{Plugin, Target};

fn table(config: serde_json::Value) -> Bench<Table> {
    let schema = jsonschema::validator_for(&serde_json::from_str(Table::SCHEMA).unwrap()).unwrap();
    assert!(schema.is_valid(&config), "{config} does not fit the schema");
    testing::configure(&config.to_string()).unwrap()
}

#[test]
fn examples_of_the_readme_fit_the_schema_and_are_accepted() {
    let schema = jsonschema::draft202012::new(&serde_json::from_str(Table::SCHEMA).unwrap()).unwrap();
    let mut examples = 0;
    for example in include_str!("../README.md").split("```json\n").skip(1) {
        let text = example.split("```").next().unwrap();
        let errors: Vec<_> = schema.iter_errors(&serde_json::from_str(text).unwrap()).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{text}\n{errors:?}");
        testing::configure::<Table>(text).unwrap();
        examples += 1;
    }
    assert!(examples >= 2);
}

#[test]
fn two_segments_win_over_one_and_one_over_the_default() {
    let table = table(json!({
        "table": {"orders": {"service": "one"}, "orders/v2": {"service": "two"}, "a%2Db": {"service": "odd"}},
        "default": {"service": "rest"}
    }));
    for (path, service) in [
        ("/orders", "one"),
        ("/orders/", "one"),
        ("/orders/v1", "one"),
        ("/orders/v1/x", "one"),
        ("/orders/v2", "two"),
        ("/orders/v2/", "two"),
        ("/orders/v2/x/y", "two"),
        ("/orders/v22", "one"),
        ("/ordersx", "rest"),
        ("/Orders", "rest"),
        ("/a%2Db", "odd"),
        ("/", "rest"),
        ("/x/orders", "rest"),
    ] {
        assert_eq!(table.pick(&Ask::get(path)), Some(Target::service(service)), "{path}");
    }
}

#[test]
fn without_a_default_an_unknown_place_is_no_place() {
    let table = table(json!({"table": {"orders": {"service": "one"}}}));
    assert_eq!(table.pick(&Ask::get("/")), None);
    assert_eq!(table.pick(&Ask::get(&format!("/{}", "x".repeat(8000)))), None);
}

#[test]
fn stripped_paths_stay_absolute() {
    let table = table(json!({"table": {
        "a": {"service": "s", "strip": 1}, "b/c": {"service": "s", "strip": 2}, "d/e": {"service": "s", "strip": 1}
    }}));
    for (path, sent) in [
        ("/a", "/"),
        ("/a/", "/"),
        ("/a/x", "/x"),
        ("/a/x/", "/x/"),
        ("/b/c", "/"),
        ("/b/c/", "/"),
        ("/b/c/d/e", "/d/e"),
        ("/d/e/f", "/e/f"),
        ("/d/e", "/e"),
    ] {
        assert_eq!(table.pick(&Ask::get(path)).unwrap().path.as_deref(), Some(sent), "{path}");
    }
}

#[test]
fn gray_requests_go_to_the_gray_subset() {
    let table = table(json!({"table": {"orders": {"service": "orders", "subset": "stable", "gray": [
        {"header": "X-Gray", "values": ["1", "yes"], "subset": "gray"},
        {"attr": "consumer", "values": ["ann", "bob"], "subset": "gray"},
        {"header": "x-anything", "service": "orders-next"}
    ]}}}));
    let to = |service: &str, subset: Option<&str>| Some(Target { service: service.into(), subset: subset.map(Into::into), path: None });
    for (ask, target) in [
        (Ask::get("/orders"), to("orders", Some("stable"))),
        (Ask::get("/orders").header("x-gray", "1"), to("orders", Some("gray"))),
        (Ask::get("/orders").header("x-gray", "no"), to("orders", Some("stable"))),
        (Ask::get("/orders").attr("consumer", "bob"), to("orders", Some("gray"))),
        (Ask::get("/orders").attr("consumer", "bo"), to("orders", Some("stable"))),
        (Ask::get("/orders").header("x-anything", ""), to("orders-next", None)),
    ] {
        assert_eq!(table.pick(&ask), target, "{ask:?}");
    }
}

#[test]
fn a_split_keeps_a_consumer_in_its_part_and_keeps_its_shares() {
    let table = table(json!({"table": {"orders": {"service": "orders", "split": {
        "by": [{"attr": "consumer"}, {"header": "x-user"}],
        "parts": [{"weight": 90, "subset": "v1"}, {"weight": 10, "subset": "v2"}, {"weight": 0, "subset": "never"}]
    }}}}));
    let mut shares: BTreeMap<String, u32> = BTreeMap::new();
    for n in 0..20_000 {
        let ask = Ask::get("/orders").attr("consumer", &format!("user-{n}"));
        let first = table.pick(&ask).unwrap();
        assert_eq!(table.pick(&ask.header("x-user", "ignored")), Some(first.clone()));
        *shares.entry(first.subset.unwrap()).or_default() += 1;
    }
    assert!((1800..=2200).contains(&shares["v2"]) && !shares.contains_key("never"), "{shares:?}");
    assert_eq!(testing::host_calls(), 0, "nothing is drawn where there is a key");
}

#[test]
fn a_split_without_a_key_is_drawn() {
    let table = table(json!({"default": {"split": {"parts": [{"weight": 3, "service": "a"}, {"weight": 1, "service": "b"}]}}}));
    let b = (0..10_000).filter(|_| table.pick(&Ask::get("/")).unwrap().service == "b").count();
    assert!((2300..=2700).contains(&b), "{b}");
}

#[test]
fn two_splits_do_not_cut_off_the_same_clients() {
    let split = json!({"service": "s", "split": {"by": [{"attr": "consumer"}], "parts": [{"weight": 1, "subset": "a"}, {"weight": 1, "subset": "b"}]}});
    let table = table(json!({"table": {"one": split, "two": split}}));
    let same = (0..2000)
        .filter(|n| {
            let at = |path| table.pick(&Ask::get(path).attr("consumer", &format!("u{n}"))).unwrap().subset;
            at("/one") == at("/two")
        })
        .count();
    assert!((900..=1100).contains(&same), "{same}");
}

#[test]
fn what_cannot_work_is_refused_with_its_place() {
    for (config, place) in [
        (json!({}), "`table` is empty"),
        (json!({"table": {"a/b/c": {"service": "s"}}}), "a/b/c"),
        (json!({"table": {"/a": {"service": "s"}}}), "slash"),
        (json!({"table": {"a": {}}}), "service is missing"),
        (json!({"table": {"a": {"service": "s", "strip": 2}}}), "strip"),
        (json!({"default": {"service": "s", "strip": 1}}), "default.strip"),
        (json!({"table": {"a": {"service": "s", "gray": [{"subset": "g"}]}}}), "gray[0]"),
        (json!({"table": {"a": {"service": "s", "gray": [{"header": "x"}]}}}), "nowhere"),
        (json!({"table": {"a": {"service": "s", "split": {"parts": [{"weight": 0}]}}}}), "weights"),
        (json!({"table": {"a": {"service": "s", "tag": "x"}}}), "unknown field"),
    ] {
        let why = testing::configure::<Table>(&config.to_string()).unwrap_err();
        assert!(why.contains(place), "{config}: {why}");
    }
}
