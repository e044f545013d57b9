//! What the rules promise, asked natively.

use crate::Rules;
use serde_json::{Value, json};
use wharf_plugin::testing::{self, Ask, Bench};
use wharf_plugin::{Fault, Instead, Plugin, Reply};

fn rules(config: Value) -> Bench<Rules> {
    let schema = jsonschema::validator_for(&serde_json::from_str(Rules::SCHEMA).unwrap()).unwrap();
    assert!(schema.is_valid(&config), "{config} does not fit the schema");
    testing::set_now_ms(1_700_000_000_123);
    testing::configure(&config.to_string()).unwrap()
}

fn reply(instead: Instead) -> Reply {
    match instead {
        Instead::Reply(reply) => reply,
        other => panic!("{other:?}"),
    }
}

#[test]
fn examples_of_the_readme_fit_the_schema_and_are_accepted() {
    let schema = jsonschema::draft202012::new(&serde_json::from_str(Rules::SCHEMA).unwrap()).unwrap();
    let mut examples = 0;
    for example in include_str!("../README.md").split("```json\n").skip(1) {
        let text = example.split("```").next().unwrap();
        let errors: Vec<_> = schema.iter_errors(&serde_json::from_str(text).unwrap()).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{text}\n{errors:?}");
        testing::configure::<Rules>(text).unwrap();
        examples += 1;
    }
    assert!(examples >= 1);
}

#[test]
fn the_envelope_is_what_clients_of_the_old_gateways_read() {
    let rules =
        rules(json!({"rules": [{"answer": {"envelope": {}}}], "codes": {"timeout": 50004}, "messages": {"timeout": "too \"slow\""}}));
    let timeout = reply(rules.on_fault(&Ask::get("/"), &Fault::Timeout));
    assert_eq!(timeout.status, 200);
    assert_eq!(
        String::from_utf8(timeout.body).unwrap(),
        r#"{"code":50004,"message":"too \"slow\"","data":null,"timestamp":1700000000123,"isSuccess":false}"#
    );
    assert!(timeout.headers.contains(&("content-type".into(), "application/json".into())));
    let other: Value = serde_json::from_slice(&reply(rules.on_fault(&Ask::get("/"), &Fault::Connect)).body).unwrap();
    assert_eq!((&other["code"], &other["isSuccess"], &other["data"]), (&json!(50001), &json!(false), &Value::Null));
}

#[test]
fn the_first_rule_that_matches_fault_and_request_answers() {
    let fixed = |status: u16| json!({"fixed": {"status": status}});
    let rules = rules(json!({"rules": [
        {"on": ["timeout", 504], "answer": fixed(201)},
        {"on": ["status"], "path_prefix": "/api", "answer": fixed(202)},
        {"on": ["connect", "reset", "overload", "plugin"], "methods": ["GET"], "answer": fixed(203)},
        {"on": [503], "answer": "pass"},
        {"on": ["status"], "answer": fixed(204)}
    ]}));
    for (ask, fault, status) in [
        (Ask::get("/"), Fault::Timeout, Some(201)),
        (Ask::get("/api"), Fault::Status(504), Some(201)),
        (Ask::get("/api/x"), Fault::Status(502), Some(202)),
        (Ask::get("/apix"), Fault::Status(502), Some(204)),
        (Ask::get("/"), Fault::Connect, Some(203)),
        (Ask::get("/"), Fault::Reset, Some(203)),
        (Ask::get("/"), Fault::Overload, Some(203)),
        (Ask::get("/"), Fault::Plugin("auth".into()), Some(203)),
        (Ask::new("POST", "/"), Fault::Reset, None),
        (Ask::get("/"), Fault::Status(503), None),
    ] {
        let wanted = status.map_or(Instead::Pass, |status| Instead::Reply(Reply::new(status)));
        assert_eq!(rules.on_fault(&ask, &fault), wanted, "{ask:?} {fault:?}");
    }
}

#[test]
fn the_last_good_answer_comes_with_its_age_and_its_otherwise() {
    let rules = rules(json!({"rules": [
        {"on": ["timeout"], "answer": {"last_good": {"max_age_s": 60}}},
        {"answer": {"last_good": {"max_age_s": 5, "otherwise": {"fixed": {"status": 503, "text": "later", "headers": {"retry-after": "5"}}}}}}
    ]}));
    let Instead::LastGood(last) = rules.on_fault(&Ask::get("/"), &Fault::Timeout) else { panic!() };
    assert_eq!((last.max_age_ms, last.otherwise), (60_000, None));
    let Instead::LastGood(last) = rules.on_fault(&Ask::get("/"), &Fault::Reset) else { panic!() };
    assert_eq!((last.max_age_ms, last.otherwise), (5_000, Some(Reply::new(503).text("later").header("retry-after", "5"))));
}

#[test]
fn fixed_answers_carry_text_or_json() {
    let rules = rules(json!({"rules": [
        {"on": ["timeout"], "answer": {"fixed": {"json": {"items": []}}}},
        {"answer": {"fixed": {"status": 200, "text": "<p>later</p>", "headers": {"content-type": "text/html"}}}}
    ]}));
    assert_eq!(reply(rules.on_fault(&Ask::get("/"), &Fault::Timeout)), Reply::new(503).json(r#"{"items":[]}"#));
    assert_eq!(
        reply(rules.on_fault(&Ask::get("/"), &Fault::Reset)),
        Reply::new(200).body("<p>later</p>").header("content-type", "text/html")
    );
}

#[test]
fn what_cannot_work_is_refused_with_its_place() {
    for (config, place) in [
        (json!({}), "rules"),
        (json!({"rules": [{}]}), "answer"),
        (json!({"rules": [{"on": [404], "answer": "pass"}]}), "rules[0].on"),
        (json!({"rules": [{"answer": {"fixed": {"status": 101}}}]}), "rules[0].answer.fixed.status"),
        (json!({"rules": [{"answer": {"fixed": {"text": "a", "json": 1}}}]}), "both"),
        (json!({"rules": [{"answer": {"fixed": {"headers": {"content-length": "1"}}}}]}), "content-length"),
        (json!({"rules": [{"answer": {"fixed": {"headers": {"x": "a\r\nb"}}}}]}), "control"),
        (json!({"rules": [{"answer": {"last_good": {"max_age_s": 4294967295u32}}}]}), "max_age_s"),
        (json!({"rules": [{"answer": {"magic": {}}}]}), "magic"),
        (json!({"rules": [{"path_prefix": "api", "answer": "pass"}]}), "path_prefix"),
    ] {
        let why = testing::configure::<Rules>(&config.to_string()).unwrap_err();
        assert!(why.contains(place), "{config}: {why}");
    }
}
