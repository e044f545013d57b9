//! What the rules promise, asked natively.

use crate::Headers;
use serde_json::json;
use wharf_plugin::testing::{self, Ask, Bench};
use wharf_plugin::{Decision, Edit, Edits, Plugin};

fn headers(config: serde_json::Value) -> Bench<Headers> {
    let schema = jsonschema::validator_for(&serde_json::from_str(Headers::SCHEMA).unwrap()).unwrap();
    assert!(schema.is_valid(&config), "{config} does not fit the schema");
    testing::configure(&config.to_string()).unwrap()
}

fn refused(config: serde_json::Value) -> String {
    testing::configure::<Headers>(&config.to_string()).unwrap_err()
}

fn set(name: &str, value: &str) -> Edit {
    Edit::Set(name.into(), value.into())
}

fn add(name: &str, value: &str) -> Edit {
    Edit::Add(name.into(), value.into())
}

fn remove(name: &str) -> Edit {
    Edit::Remove(name.into())
}

fn next(edits: Vec<Edit>) -> Decision {
    Decision::Next(Edits(edits))
}

#[test]
fn examples_of_the_readme_fit_the_schema_and_are_accepted() {
    let schema = jsonschema::draft202012::new(&serde_json::from_str(Headers::SCHEMA).unwrap()).unwrap();
    let mut examples = 0;
    for example in include_str!("../README.md").split("```json\n").skip(1) {
        let text = example.split("```").next().unwrap();
        let errors: Vec<_> = schema.iter_errors(&serde_json::from_str(text).unwrap()).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{text}\n{errors:?}");
        testing::configure::<Headers>(text).unwrap();
        examples += 1;
    }
    assert!(examples >= 2);
}

#[test]
fn rules_apply_in_order_and_removal_comes_first() {
    let headers = headers(json!({"rules": [
        {"on": "request", "add": {"x-b": "2"}, "set": {"x-a": "1"}, "remove": ["cookie"]},
        {"on": "request", "set": {"x-c": "3"}}
    ]}));
    assert_eq!(headers.on_request(&Ask::get("/")), next(vec![remove("cookie"), set("x-a", "1"), add("x-b", "2"), set("x-c", "3")]));
    assert!(headers.needs.phases.request && !headers.needs.phases.response);
}

#[test]
fn the_consumer_is_told_and_what_the_client_wrote_there_is_not() {
    let headers = headers(json!({"consumer_header": "x-consumer"}));
    assert_eq!(
        headers.on_request(&Ask::get("/").attr("consumer", "ann").header("x-consumer", "root")),
        next(vec![set("x-consumer", "ann")])
    );
    assert_eq!(headers.on_request(&Ask::get("/").header("x-consumer", "root")), next(vec![remove("x-consumer")]));
}

#[test]
fn a_value_that_could_split_a_head_is_never_emitted() {
    let headers = headers(json!({"rules": [{"on": "request", "set": {"x-a": "u=${header:x-in}"}, "add": {"x-b": "${attr:consumer}"}}]}));
    for bad in ["a\r\nx-evil: 1", "a\0", "a\n", "\u{1b}[31m", "\u{7f}"] {
        let ask = Ask::get("/").header("x-in", bad).attr("consumer", bad);
        assert_eq!(headers.on_request(&ask), next(vec![remove("x-a")]), "{bad:?}");
    }
    assert_eq!(testing::counts("values_refused"), 10);
    assert_eq!(headers.on_request(&Ask::get("/").header("x-in", "tab\tis fine")), next(vec![set("x-a", "u=tab\tis fine")]));
}

#[test]
fn a_missing_piece_has_its_default_or_takes_the_field_away() {
    let headers = headers(json!({"rules": [{"on": "request", "set": {"x-a": "${header:x-in:-none}!", "x-b": "${header:x-in}"}}]}));
    assert_eq!(headers.on_request(&Ask::get("/")), next(vec![set("x-a", "none!"), remove("x-b")]));
}

#[test]
fn conditions_must_all_hold() {
    let headers = headers(json!({"rules": [{"on": "request", "when": {
        "path_prefix": "/api", "methods": ["GET", "PURGE"],
        "headers": [{"name": "X-Tier", "equals": "gold"}, {"name": "x-debug", "present": false}],
        "attrs": [{"name": "consumer", "present": true}]
    }, "set": {"x-a": "1"}}]}));
    let good = || Ask::get("/api/x").header("x-tier", "gold").attr("consumer", "ann");
    for (ask, holds) in [
        (good(), true),
        (Ask::new("PURGE", "/api").header("x-tier", "gold").attr("consumer", "ann"), true),
        (Ask::get("/apix").header("x-tier", "gold").attr("consumer", "ann"), false),
        (Ask::new("POST", "/api").header("x-tier", "gold").attr("consumer", "ann"), false),
        (Ask::get("/api").header("x-tier", "silver").attr("consumer", "ann"), false),
        (good().header("x-debug", "1"), false),
        (Ask::get("/api").header("x-tier", "gold"), false),
    ] {
        let wanted = if holds { next(vec![set("x-a", "1")]) } else { Decision::next() };
        assert_eq!(headers.on_request(&ask), wanted, "{ask:?}");
    }
}

#[test]
fn answers_are_changed_by_status_and_by_their_own_fields() {
    let headers = headers(json!({"rules": [
        {"on": "response", "when": {"status": [500, 599]}, "set": {"x-failed": "${header:content-type}"}},
        {"on": "response", "when": {"status": 204}, "remove": ["x-powered-by"]},
        {"on": "response", "set": {"x-id": "${exchange:id}", "x-lang": "${request_header:accept-language:-en}"}}
    ]}));
    let always = |lang: &str| [set("x-id", &"0".repeat(32)), set("x-lang", lang)];
    let failed =
        headers.on_response(&Ask::get("/").status(503).response_header("content-type", "text/html").header("accept-language", "de"));
    assert_eq!(failed.0, [&[set("x-failed", "text/html")][..], &always("de")].concat());
    assert_eq!(headers.on_response(&Ask::get("/").status(204)).0, [&[remove("x-powered-by")][..], &always("en")].concat());
    assert_eq!(headers.on_response(&Ask::get("/")).0, always("en"));
    assert!(!headers.needs.phases.request);
}

#[test]
fn a_rule_for_answers_may_look_at_the_requests_path_and_method() {
    let headers = headers(json!({"rules": [
        {"on": "response", "when": {"path_prefix": "/static"}, "set": {"cache-control": "max-age=3600"}},
        {"on": "response", "when": {"methods": ["POST"]}, "set": {"x-posted": "1"}}
    ]}));
    for (ask, wanted) in [
        (Ask::get("/static/a.css"), vec![set("cache-control", "max-age=3600")]),
        (Ask::new("POST", "/static"), vec![set("cache-control", "max-age=3600"), set("x-posted", "1")]),
        (Ask::get("/"), vec![]),
    ] {
        let Decision::Next(edits) = headers.on_request(&ask) else { panic!("a filter of heads does not answer") };
        let answered = edits.0.into_iter().fold(ask, |ask, edit| match edit {
            Edit::Attr(name, value) => ask.attr(&name, &value),
            other => panic!("{other:?}"),
        });
        assert_eq!(headers.on_response(&answered).0, wanted, "{answered:?}");
    }
    assert_eq!(headers.on_response(&Ask::get("/static")).0, vec![], "the request was answered before it came by here");
}

#[test]
fn all_edits_stay_within_what_the_host_allows() {
    let rules: Vec<_> = (0..30).map(|n| json!({"on": "request", "set": {format!("x-{n}"): "${header:x-in}"}})).collect();
    let headers = headers(json!({ "rules": rules }));
    let Decision::Next(edits) = headers.on_request(&Ask::get("/").header("x-in", &"x".repeat(4000))) else { panic!() };
    let text: usize = edits
        .0
        .iter()
        .map(|edit| match edit {
            Edit::Set(name, value) => name.len() + value.len(),
            Edit::Remove(name) => name.len(),
            other => panic!("{other:?}"),
        })
        .sum();
    assert!(text <= wharf_plugin::rules::EDIT_TEXT_MAX && edits.0.len() == 30, "{text}");
}

#[test]
fn what_cannot_work_is_refused_with_its_place() {
    for (config, place) in [
        (json!({"rules": [{"on": "request", "set": {"Host": "a"}}]}), "rules[0].set"),
        (json!({"rules": [{"on": "request", "remove": ["x-forwarded-for"]}]}), "rules[0].remove"),
        (json!({"rules": [{"on": "request", "set": {"x-a": "a\r\nb"}}]}), "rules[0].set.x-a"),
        (json!({"rules": [{"on": "request", "set": {"x-a": "${nothing}"}}]}), "${nothing}"),
        (json!({"rules": [{"on": "request", "set": {"x-a": "${attr:a"}}]}), "without"),
        (json!({"rules": [{"on": "request"}]}), "changes nothing"),
        (json!({"rules": [{"on": "request", "when": {"status": 200}, "set": {"x-a": "1"}}]}), "rules[0].when.status"),
        (json!({"rules": [{"on": "request", "when": {"headers": [{"name": "a"}]}, "set": {"x-a": "1"}}]}), "`present`"),
        (json!({"rule": []}), "unknown field"),
        (json!({"consumer_header": "X Y"}), "consumer_header"),
    ] {
        let why = refused(config.clone());
        assert!(why.contains(place), "{config}: {why}");
    }
    let many: Vec<_> = (0..64).map(|n| json!({"on": "request", "remove": [format!("x-{n}")]})).collect();
    assert!(refused(json!({ "rules": many })).contains("at most"));
}
