//! The promises of an honest call: what goes in, what comes back, what is left behind.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests stop at the first surprise")]

mod common;

use common::{House, facts, on_a_core, patient};
use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use wharf_core::LocalBoxFuture;
use wharf_core::edit::Edit;
use wharf_core::exchange::{Answer, Exchange};
use wharf_core::fault::{Fault, FaultKind, Phase};
use wharf_core::head::ResponseHead;
use wharf_core::outlet::{Outlet, Outlets, Wish};
use wharf_core::rules::{Authenticate, Decision, Failure, Instead};
use wharf_wasm::{ErrorKind, Quotas, Role, rules};

async fn said(rule: &Rc<dyn Authenticate>, path: &str) -> String {
    let mut facts = facts(path);
    match rule.check(&mut facts).await {
        Ok(Decision::Reply(reply)) => String::from_utf8(reply.body.to_vec()).unwrap(),
        other => panic!("{path}: {other:?}"),
    }
}

#[test]
fn every_role_is_asked_in_cores_nouns() {
    on_a_core(async {
        let house = House::new(16);
        let code = house.code("hostile");
        assert_eq!(code.roles(), Role::ALL);
        let setup = common::setup("hostile", 1, "{}", patient());
        assert_eq!(code.schema(&house.parts, setup).await.unwrap(), r#"{"type":"object"}"#);
        let (core, ready) = (house.core(), house.ready("hostile", patient()).await);
        assert_eq!(ready.needs.request[2], wharf_wasm::Fact::Header("x-twice".into()));

        let auth = rules::auth(&core, &ready, None).unwrap();
        let mut given = facts("/");
        let said = auth.check(&mut given).await.unwrap();
        assert_eq!(said, Decision::Next(vec![Edit::Set("x-out".into(), "in".into())].into()));
        assert_eq!((given.request.path(), &*given.route), ("/", "all"), "the facts are back");

        let route = rules::route(&core, &ready, None).unwrap();
        let picked = route.pick(&mut facts("/")).await.unwrap().unwrap();
        assert_eq!((picked.service.as_str(), picked.subset.as_deref(), picked.path.as_deref()), ("users", Some("gray"), Some("/u")));
        assert_eq!(route.pick(&mut facts("/nowhere")).await.unwrap(), None);

        let filter = rules::filter(&core, &ready, None).unwrap();
        assert!(filter.sees_requests() && filter.sees_responses());
        let mut given = facts("/");
        let mut head = ResponseHead::new(418);
        head.fields.add(b"server", b"teapot");
        given.response = Some(head);
        assert_eq!(*filter.on_response(&mut given).await.unwrap(), [Edit::Set("x-server".into(), "teapot all 418".into())]);
        assert_eq!(given.response.unwrap().status, 418);

        let degrade = rules::degrade(&core, &ready, None).unwrap();
        assert_eq!(degrade.on_fault(&mut facts("/"), Failure::Timeout).await.unwrap(), Instead::Pass);
        let said = degrade.on_fault(&mut facts("/"), Failure::Plugin("x".into())).await.unwrap();
        assert!(matches!(said, Instead::Reply(reply) if reply.status == 503 && reply.body == "x"));
        let said = degrade.on_fault(&mut facts("/"), Failure::Status(502)).await.unwrap();
        assert_eq!(said, Instead::LastGood { max_age_ms: 1000, otherwise: None });
    });
}

#[test]
fn capabilities_answer_and_the_inert_wasi_set_is_enough_for_a_standard_program() {
    on_a_core(async {
        let house = House::new(16);
        let (core, ready) = (house.core(), house.ready("hostile", patient()).await);
        let auth = rules::auth(&core, &ready, None).unwrap();
        assert_eq!(said(&auth, "/kv").await, "Ok(Some([111, 116, 104, 101, 114])) Ok(5) Ok(true) true Ok(false)");
        assert_eq!(said(&auth, "/verify").await, "Ok(true) Ok(false) true 64 true");
        let seen = said(&auth, "/facts?a=b").await;
        assert_eq!(
            seen,
            r#"all /facts shop.example http Some("a=b") 0.0.0.0 Some("in") 3 None [Some("/facts"), Some("in"), Some("a, b")]"#
        );
        assert_eq!(said(&auth, "/stdout").await, "3 true 0");
        assert_eq!(said(&auth, "/file").await, "true", "there are no files");
        said(&auth, "/count").await;
        assert_eq!(house.metric("wharf_plugin_custom_total{plugin=\"hostile\",name=\"name_0\"}"), 1);
        // 64 names at most: what is beyond, and what is no name, is seen as `other`.
        assert_eq!(house.metric("wharf_plugin_custom_total{plugin=\"hostile\",name=\"other\"}"), 36 + 7);
    });
}

#[test]
fn a_warm_instance_serves_again_and_a_fresh_one_serves_once() {
    on_a_core(async {
        let house = House::new(16);
        let core = house.core();
        let warm = rules::auth(&core, &house.ready("hostile", patient()).await, None).unwrap();
        let fresh = house.ready("hostile", Quotas { fresh_per_call: true, ..patient() }).await;
        let fresh = rules::auth(&core, &fresh, None).unwrap();
        let short = house.ready("hostile", Quotas { recycle_calls: 2, fresh_per_call: false, ..patient() }).await;
        let short = rules::auth(&core, &short, None).unwrap();
        let mut seen = Vec::new();
        for n in 1..=4 {
            seen.push(said(&short, "/calls").await);
            assert_eq!(said(&fresh, "/calls").await, "1");
            assert_eq!(said(&warm, "/calls").await, n.to_string());
        }
        assert_eq!(seen, ["1", "2", "1", "2"]);
        // Memory beyond the mark: the instance is replaced before it fails.
        for _ in 0..5 {
            said(&warm, "/worn").await;
        }
    });
}

#[test]
fn facts_of_one_exchange_are_never_seen_in_another() {
    on_a_core(async {
        let house = House::new(16);
        let (core, ready) = (house.core(), house.ready("hostile", patient()).await);
        let auth = rules::auth(&core, &ready, None).unwrap();
        for n in 0..50 {
            let mut given = facts("/facts");
            given.request.fields.set(b"x-in", format!("v{n}").as_bytes());
            given.attrs.set("n", &n.to_string());
            let Ok(Decision::Reply(reply)) = auth.check(&mut given).await else { panic!() };
            assert!(String::from_utf8_lossy(&reply.body).contains(&format!("\"v{n}\"")));
            assert_eq!(given.attrs.get("n"), Some(n.to_string().as_str()));
            // A trap in between: what it held is not given to the next.
            let mut given = facts("/trap");
            assert!(auth.check(&mut given).await.is_err());
            assert_eq!(given.request.path(), "/trap");
        }
    });
}

#[test]
fn an_honest_long_call_is_moved_and_brings_its_facts_back() {
    on_a_core(async {
        let house = House::new(16);
        let (core, ready) = (house.core(), house.ready("hostile", patient()).await);
        let auth = rules::auth(&core, &ready, None).unwrap();
        // On a busy machine the ticker may come too late for one, so it is asked until one was moved.
        for _ in 0..100 {
            let mut given = facts("/work");
            given.attrs.set("mine", "yes");
            let Ok(Decision::Reply(reply)) = auth.check(&mut given).await else { panic!() };
            assert_eq!(reply.body, "worked");
            assert_eq!((given.request.path(), given.attrs.get("mine")), ("/work", Some("yes")));
            if house.metric("wharf_plugin_moved_total{plugin=\"hostile\",version=\"1\"}") > 0 {
                break;
            }
        }
        assert!(house.metric("wharf_plugin_moved_total{plugin=\"hostile\",version=\"1\"}") > 0);
        // Its instance came back to the pool of its core and is as good as before.
        assert_eq!(said(&auth, "/calls").await, "1");
        assert_eq!(said(&auth, "/calls").await, "2");
    });
}

/// Waits for what another thread or task does. Only a hang fails here.
async fn until(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < end, "{what}");
        tokio::task::yield_now().await;
    }
}

/// Answers with what it was asked; the service `slow` never does. Counts its calls: begun, and over.
struct Echo(bool, Rc<Cell<(u32, u32)>>);

impl Outlet for Echo {
    fn call<'a>(&'a self, exchange: &'a mut Exchange, _: &'a Wish) -> LocalBoxFuture<'a, Result<Answer, Fault>> {
        Box::pin(async move {
            struct Gone(Rc<Cell<(u32, u32)>>);
            impl Drop for Gone {
                fn drop(&mut self) {
                    let (begun, over) = self.0.get();
                    self.0.set((begun, over + 1));
                }
            }
            self.1.set((self.1.get().0 + 1, self.1.get().1));
            let _gone = Gone(self.1.clone());
            if self.0 {
                std::future::pending::<()>().await;
            }
            // Not at once: the guest has to wait for it.
            tokio::task::yield_now().await;
            let head = &exchange.facts.request;
            let from = head.fields.get(b"x-from").map(|from| String::from_utf8_lossy(from).into_owned());
            let text = format!("{} {}?{} {from:?}", head.authority(), head.path(), head.query().unwrap_or_default());
            Ok(Answer::full(ResponseHead::new(200), text.into()))
        })
    }
}

#[test]
fn an_outbound_call_goes_through_the_outlets_of_its_home_core() {
    on_a_core(async {
        let house = House::new(16);
        let (core, ready) = (house.core(), house.ready("hostile", patient()).await);
        let calls = Rc::new(Cell::new((0, 0)));
        let mut outlets = Outlets::new();
        outlets.insert("users".into(), Rc::new(Echo(false, calls.clone())));
        outlets.insert("forbidden".into(), Rc::new(Echo(false, calls.clone())));
        core.set_outlets(Rc::new(outlets));
        let auth = rules::auth(&core, &ready, None).unwrap();
        assert_eq!(said(&auth, "/fetch?users").await, r#"200 users /from-guest?a=b Some("guest")"#);
        assert!(said(&auth, "/fetch?forbidden").await.starts_with("Error::Denied"), "only what was granted");
        assert!(said(&auth, "/fetch?absent").await.starts_with("Error::Unavailable"));
        assert_eq!(calls.get(), (1, 1));
    });
}

#[test]
fn a_dropped_question_abandons_its_outbound_call_and_leaves_no_instance_behind() {
    on_a_core(async {
        let house = House::new(16);
        let (core, ready) = (house.core(), house.ready("hostile", patient()).await);
        let calls = Rc::new(Cell::new((0, 0)));
        let mut outlets = Outlets::new();
        outlets.insert("slow".into(), Rc::new(Echo(true, calls.clone())));
        core.set_outlets(Rc::new(outlets));
        let auth = rules::auth(&core, &ready, None).unwrap();
        said(&auth, "/calls").await;
        let before = house.parts.engine.instances();
        let mut given = facts("/fetch?slow");
        let mut call: Pin<Box<_>> = auth.check(&mut given);
        let poll = |call: &mut LocalBoxFuture<'_, Result<Decision, Fault>>| call.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(poll(&mut call), Poll::Pending));
        until("the inbox picks the call up and makes it", || calls.get() == (1, 0)).await;
        drop(call);
        until("the upstream's call ends", || calls.get() == (1, 1)).await;
        until("the instance goes", || house.parts.engine.instances() == before - 1).await;
        assert_eq!(said(&auth, "/calls").await, "1", "the next question has another");
    });
}

#[test]
fn a_configuration_is_refused_in_the_plugins_own_words() {
    on_a_core(async {
        let house = House::new(16);
        let quotas = Quotas::default();
        let refused = house.try_ready("hostile", 3, "\"refuse\"", quotas.clone()).await.unwrap_err();
        assert_eq!(*refused.kind(), ErrorKind::Refused("key `mode` must be \"kind\"".into()));
        assert!(refused.to_string().contains("plugin \"hostile\" version 3 refuses its configuration"), "{refused}");
        let trapped = house.try_ready("hostile", 1, "\"trap\"", quotas.clone()).await.unwrap_err();
        assert_eq!(*trapped.kind(), ErrorKind::Trap);
        let outside = house.try_ready("hostile", 1, "\"exchange\"", quotas.clone()).await.unwrap_err();
        assert!(outside.to_string().contains("no exchange"), "{outside}");
        for bad in ["\"many\"", "\"upper\"", "\"attr\""] {
            assert!(house.try_ready("hostile", 1, bad, quotas.clone()).await.unwrap_err().to_string().contains("needs."));
        }
        let endless = house.try_ready("hostile", 1, "\"loop\"", quotas).await.unwrap_err();
        assert_eq!(*endless.kind(), ErrorKind::Deadline);
        // The answer does not wait for the instance to be taken apart, on another thread.
        until("nothing is left of those that failed", || house.parts.engine.instances() == 0).await;
    });
}

#[test]
fn the_last_good_version_answers_for_one_that_fails() {
    on_a_core(async {
        let house = House::new(16);
        let core = house.core();
        let good = house.try_ready("hostile", 1, "{}", patient()).await.unwrap();
        // The new one may not use so much memory; the old one may.
        let less = Quotas { memory_bytes_max: 8 << 20, ..patient() };
        let new = house.try_ready("hostile", 2, "{}", less).await.unwrap();
        let auth = rules::auth(&core, &new, Some(&good)).unwrap();
        assert_eq!(said(&auth, "/fill").await, "did it");
        assert_eq!(house.metric("wharf_plugin_last_good_total{plugin=\"hostile\",version=\"2\"}"), 1);
        assert_eq!(house.metric("wharf_plugin_calls_total{plugin=\"hostile\",version=\"2\",question=\"check\",outcome=\"memory\"}"), 1);
        // Both fail: the new one's fault is told.
        let fault = auth.check(&mut facts("/trap")).await.unwrap_err();
        assert!(fault.detail().contains("version 2"), "{fault}");
    });
}

#[test]
fn faults_are_reported_and_name_plugin_version_limit_and_setting() {
    on_a_core(async {
        let house = House::new(16);
        let told = Arc::new(std::sync::Mutex::new(Vec::new()));
        let inside = told.clone();
        let core = wharf_wasm::WasmCore::new(
            house.parts.clone(),
            0,
            Arc::new(move |setup, fault| inside.lock().unwrap().push((setup.version, fault.word(), fault.detail().to_owned()))),
        );
        let quotas = Quotas { deadline: Duration::from_millis(20), ..Quotas::default() };
        let ready = house.try_ready("hostile", 7, "{}", quotas).await.unwrap();
        let auth = rules::auth(&core, &ready, None).unwrap();
        // On a machine so busy that the guest got no processor time it is an overload, and nobody's fault: asked again.
        let end = std::time::Instant::now() + Duration::from_secs(60);
        let mut fault = auth.check(&mut facts("/loop")).await.unwrap_err();
        while matches!(fault.kind, FaultKind::Overload("processor")) && std::time::Instant::now() < end {
            fault = auth.check(&mut facts("/loop")).await.unwrap_err();
        }
        assert_eq!(fault.kind, FaultKind::Timeout(Phase::Plugin));
        let told = told.lock().unwrap();
        let (version, word, detail) = &told[0];
        assert_eq!((*version, *word), (7, "timeout_plugin"));
        for part in ["\"hostile\"", "version 7", "20 ms", "plugins.hostile.limits.deadline"] {
            assert!(detail.contains(part), "{detail}");
        }
    });
}
