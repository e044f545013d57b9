//! What the author of a plugin may rely on, seen from outside the crate.

use wharf_plugin::host::{self, exchange, http, kv};
use wharf_plugin::prelude::*;
use wharf_plugin::testing::{self, Ask};
use wharf_plugin::{Edit, Fact, Lookup};

#[derive(Default)]
struct Hello;

impl Filter for Hello {
    fn on_request(&self, _request: &Request) -> Decision {
        Decision::next().set("x-hello", "world")
    }
}

wharf_plugin::export_filter!(Hello);

#[test]
fn a_plugin_of_ten_lines_is_asked_natively() {
    let hello = testing::plain(Hello);
    assert_eq!(hello.on_request(&Ask::get("/")), Decision::next().set("x-hello", "world"));
    assert_eq!(hello.on_response(&Ask::get("/")), Edits::none());
    assert_eq!(hello.needs.phases, Phases::BOTH);
}

/// Two roles, a configuration, names asked for.
struct Guard {
    header: String,
}

impl Plugin for Guard {
    const SCHEMA: &'static str = r#"{"type": "string"}"#;

    fn configure(config: &str) -> Result<Guard, String> {
        match config.trim_matches('"') {
            "" => Err("the configuration names a header".into()),
            header => Ok(Guard { header: header.into() }),
        }
    }

    fn needs(&self) -> Needs {
        Needs::none().header(self.header.as_str()).header("X-Other").header("x-other").response_attr("tenant").phases(Phases::RESPONSE)
    }
}

impl Auth for Guard {
    fn check(&self, request: &Request) -> Decision {
        match request.header(&self.header) {
            Some(user) => Decision::next().attr("consumer", user).remove(self.header.as_str()),
            None => Decision::reply(401).set("www-authenticate", "Basic").attr("ignored", "on a reply"),
        }
    }
}

impl Filter for Guard {
    fn on_response(&self, response: &Response) -> Edits {
        match response.attr("tenant") {
            Some(tenant) => Edits::none().set("x-tenant", tenant),
            None => Edits::none(),
        }
    }
}

wharf_plugin::export!(Guard: auth, filter);

#[test]
fn one_component_may_answer_several_questions() {
    let guard = testing::configure::<Guard>("\"x-user\"").unwrap();
    assert_eq!(guard.needs.request, [Fact::header("x-user"), Fact::header("x-other")]);
    assert_eq!(guard.needs.response, [Fact::attr("tenant")]);
    assert_eq!(guard.check(&Ask::get("/").header("X-User", "ann")), Decision::next().attr("consumer", "ann").remove("x-user"));
    assert_eq!(guard.check(&Ask::get("/")), Reply::new(401).header("www-authenticate", "Basic").into());
    assert_eq!(guard.on_response(&Ask::get("/").attr("tenant", "t")).0, [Edit::Set("x-tenant".into(), "t".into())]);
    assert!(testing::configure::<Guard>("\"\"").is_err());
}

#[test]
fn what_was_asked_for_is_free_and_all_else_costs_one_call_each() {
    let guard = testing::configure::<Guard>("\"x-user\"").unwrap();
    struct Look;
    impl Filter for Look {
        fn on_request(&self, request: &Request) -> Decision {
            for _ in 0..3 {
                assert_eq!(request.header("x-user"), Some("ann, bob"));
                assert_eq!(request.at(0), request.header("x-user"));
                assert_eq!((request.at(1), request.at(2)), (None, None));
                assert_eq!((request.header("accept"), request.header("absent"), request.attr("a")), (Some("text/html"), None, Some("1")));
                assert_eq!(request.attr("tenant"), None);
            }
            Decision::next()
        }
    }
    let look = testing::Bench { plugin: Look, needs: guard.needs };
    let before = testing::host_calls();
    look.on_request(&Ask::get("/").header("x-user", "ann").header("x-user", "bob").header("accept", "text/html").attr("a", "1"));
    assert_eq!(testing::host_calls() - before, 4);
}

#[test]
fn all_that_is_known_of_a_request_can_be_asked_for_and_read() {
    struct Look;
    impl Filter for Look {
        fn on_request(&self, request: &Request) -> Decision {
            let heads = [request.path(), request.authority(), request.scheme(), request.peer(), request.route()];
            assert_eq!(heads, ["/a", "test.example", "http", "192.0.2.7", "shop"]);
            assert_eq!((request.query(), request.attr("tenant")), (Some("b=c"), Some("t")));
            Decision::next()
        }
        fn on_response(&self, response: &Response) -> Edits {
            let heads = [response.path(), response.authority(), response.scheme(), response.peer(), response.route()];
            assert_eq!(heads, ["/a", "test.example", "http", "192.0.2.7", "shop"]);
            assert_eq!((response.query(), response.attr("tenant")), (Some("b=c"), Some("t")));
            assert_eq!((response.header("server"), response.status()), (Some("teapot"), 418));
            Edits::none()
        }
    }
    let ask = Ask::get("/a?b=c").client("192.0.2.7").route("shop").attr("tenant", "t").header("server", "not this one");
    let ask = ask.status(418).response_header("server", "teapot");
    let needs = Needs::none().path().query().authority().scheme().peer().route().header("server").attr("tenant");
    let needs = Needs { response: needs.request.clone(), ..needs };
    for (needs, calls) in [(needs, 0), (Needs::none(), 7 + 8)] {
        let look = testing::Bench { plugin: Look, needs: needs.into() };
        let before = testing::host_calls();
        look.on_request(&ask);
        look.on_response(&ask);
        assert_eq!(testing::host_calls() - before, calls);
    }
}

#[test]
fn the_store_keeps_time_and_counts() {
    testing::set_now_ms(1000);
    kv::set("a", b"1", Some(10)).unwrap();
    assert_eq!(kv::get("a").unwrap().as_deref(), Some(&b"1"[..]));
    assert_eq!(kv::compare_and_set("a", Some(b"2"), b"3", None), Ok(false));
    testing::set_now_ms(1010);
    assert_eq!(kv::get("a"), Ok(None));
    assert_eq!(kv::compare_and_set("a", None, b"x", None), Ok(true));
    assert_eq!((kv::increment("n", 5, Some(10)), kv::increment("n", i64::MAX, None)), (Ok(5), Ok(i64::MAX)));
    assert_eq!(kv::increment("a", 1, None), Err(kv::Error::NotACounter));
    assert!(matches!(kv::get(""), Err(kv::Error::TooLarge(_))));
    assert_eq!((kv::delete("a"), kv::delete("a")), (Ok(true), Ok(false)));
    testing::kv_down(true);
    assert!(matches!(kv::get("a"), Err(kv::Error::Unavailable(_))));
    testing::reset();
    assert_eq!(kv::get("n"), Ok(None));
}

#[test]
fn outbound_calls_go_only_where_a_test_answers() {
    testing::serve("users", |request| Ok(http::Response { status: 200, body: request.path.clone().into_bytes(), ..Default::default() }));
    assert_eq!(http::fetch(http::Request::get("users", "/7")).unwrap().body, b"/7");
    assert!(matches!(http::fetch(http::Request::get("elsewhere", "/")), Err(http::Error::Denied(_))));
}

#[test]
fn lines_and_counts_can_be_looked_at() {
    host::log::warn("odd");
    host::metrics::count("odd", 2);
    host::metrics::count("odd", 1);
    assert_eq!(testing::lines(), [(host::log::Level::Warn, "odd".to_string())]);
    assert_eq!((testing::counts("odd"), testing::counts("even")), (3, 0));
}

#[test]
#[should_panic(expected = "outside an exchange")]
fn the_exchange_is_not_there_while_configuring() {
    struct Early;
    impl Plugin for Early {
        fn configure(_config: &str) -> Result<Early, String> {
            exchange::id();
            Ok(Early)
        }
    }
    drop(testing::configure::<Early>("{}"));
}

#[test]
fn edits_and_replies_are_what_was_chained() {
    assert_eq!(
        Edits::none().set("a", "1").add("b", "2").remove("c").path("/d").attr("e", "3").0,
        [
            Edit::Set("a".into(), "1".into()),
            Edit::Add("b".into(), "2".into()),
            Edit::Remove("c".into()),
            Edit::Path("/d".into()),
            Edit::Attr("e".into(), "3".into())
        ]
    );
    let reply = Reply::new(418).header("a", "1").header("a", "2").header_too("a", "3").text("tea");
    assert_eq!(
        reply.headers.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>(),
        ["a=2", "a=3", "content-type=text/plain; charset=utf-8"]
    );
    assert_eq!(reply.body, b"tea");
}

#[test]
fn tables_are_made_of_text() {
    let table: Lookup<u8> = Lookup::new([("a".into(), 1)]);
    assert_eq!((table.get("a"), table.get("b")), (Some(&1), None));
}

#[test]
fn the_readme_shows_the_example_that_is_built() {
    let example = include_str!("../examples/hello.rs").split_once("use wharf").map(|(_, code)| format!("use wharf{code}")).unwrap();
    assert!(include_str!("../README.md").contains(&example));
}
