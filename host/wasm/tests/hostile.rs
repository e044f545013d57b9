//! Each hostile act costs its guest one question: the fault says which rule was broken, the metrics count it, the core
//! lives, the next question is answered.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests stop at the first surprise")]

mod common;

use common::{House, facts, on_a_core};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;
use wharf_core::fault::{Blame, FaultKind, Phase};
use wharf_core::rules::{Authenticate, Decision};
use wharf_wasm::{Quotas, rules};

/// Long enough for what must not meet it, even on a machine with two busy processors.
fn quotas() -> Quotas {
    Quotas { deadline: Duration::from_secs(5), ..Quotas::default() }
}

/// A deadline for those that only a deadline ends.
fn short() -> Quotas {
    Quotas { deadline: Duration::from_millis(30), ..Quotas::default() }
}

async fn still_answers(rule: &Rc<dyn Authenticate>) {
    // By another instance, under the same quotas; a busy machine may need a second try.
    for _ in 0..20 {
        if let Ok(Decision::Next(edits)) = rule.check(&mut facts("/")).await {
            assert_eq!(edits.len(), 1);
            return;
        }
    }
    panic!("it does not answer any more");
}

/// One act: its path, the outcome that is counted, and what the fault says.
fn check(path: &'static str, quotas: Quotas, outcome: &str, kind: FaultKind, says: &str) {
    on_a_core(async {
        let house = House::new(16);
        let (core, ready) = (house.core(), house.ready("hostile", quotas).await);
        let auth = rules::auth(&core, &ready, None).unwrap();
        let mut given = facts(path);
        let mut fault = auth.check(&mut given).await.unwrap_err();
        // On a machine so busy that the guest got no processor time nobody is to blame: asked again.
        for _ in 0..50 {
            if fault.kind != FaultKind::Overload("processor") {
                break;
            }
            fault = auth.check(&mut given).await.unwrap_err();
        }
        assert_eq!(fault.kind, kind, "{fault}");
        assert_eq!(fault.blame, Blame::Plugin);
        assert!(fault.detail().contains(says), "{fault}");
        assert!(fault.detail().contains("plugin \"hostile\" version 1"), "{fault}");
        assert_eq!(given.request.path(), path, "the facts are back");
        let line = format!("wharf_plugin_calls_total{{plugin=\"hostile\",version=\"1\",question=\"check\",outcome=\"{outcome}\"}}");
        assert_eq!(house.metric(&line), 1, "{}", house.parts.metrics.render());
        still_answers(&auth).await;
    });
}

fn plugin() -> FaultKind {
    FaultKind::Plugin("hostile".into())
}

fn answer() -> FaultKind {
    FaultKind::PluginAnswer("hostile".into())
}

#[test]
fn an_endless_loop_ends_at_its_deadline() {
    check("/loop", short(), "deadline", FaultKind::Timeout(Phase::Plugin), "deadline of 30 ms");
}

#[test]
fn a_loop_of_host_calls_ends_at_its_quota() {
    check("/host-calls", quotas(), "host_calls", plugin(), "1000 host calls");
    check("/loop-with-calls", quotas(), "host_calls", plugin(), "plugins.hostile.limits.host_calls_max");
}

#[test]
fn a_host_call_that_never_answers_ends_at_the_deadline() {
    check("/slow-kv", short(), "deadline", FaultKind::Timeout(Phase::Plugin), "host calls count");
}

#[test]
fn deep_recursion_is_a_trap() {
    check("/recursion", quotas(), "stack_overflow", plugin(), "trapped");
}

#[test]
fn a_trap_and_a_panic_are_the_guests_own() {
    check("/trap", quotas(), "unreachable", plugin(), "trapped");
    check("/panic", quotas(), "unreachable", plugin(), "trapped");
}

#[test]
fn a_memory_bomb_ends_at_its_quota() {
    check("/memory", quotas(), "memory", plugin(), "33554432 bytes of memory");
}

#[test]
fn what_the_inert_set_does_not_serve_is_named() {
    check("/socket", quotas(), "import", plugin(), "wasi:sockets");
    check("/sleep", quotas(), "import", plugin(), "wasi:");
}

#[test]
fn too_many_random_bytes_are_not_made() {
    check("/random", quotas(), "random", plugin(), "4097 random bytes");
}

#[test]
fn answers_beyond_their_bounds_are_not_carried() {
    check("/giant-body", quotas(), "answer", answer(), "1048577 bytes");
    check("/giant-giant-body", quotas(), "too_large", answer(), "bytes in one answer");
    check("/giant-header", quotas(), "answer", answer(), "100005 bytes of edits");
    check("/many-headers", quotas(), "too_large", answer(), "bytes in one answer");
}

#[test]
fn what_may_not_stand_on_the_wire_is_the_versions_fault() {
    check("/crlf", quotas(), "answer", answer(), "control characters");
    check("/hosts-own", quotas(), "answer", answer(), "host's own");
}

#[test]
fn a_flood_of_log_lines_is_dropped_and_counted_and_costs_nothing_else() {
    on_a_core(async {
        let house = House::new(16);
        let (core, ready) = (house.core(), house.ready("hostile", quotas()).await);
        let auth = rules::auth(&core, &ready, None).unwrap();
        assert!(matches!(auth.check(&mut facts("/log")).await, Ok(Decision::Reply(_))));
        // 500 lines, 100 a second; a second may turn in between.
        let dropped = house.metric("wharf_plugin_log_dropped_total{plugin=\"hostile\",version=\"1\"}");
        assert!((300..=400).contains(&dropped), "{dropped}");
    });
}

#[test]
fn a_storm_of_traps_leaves_no_instance_and_no_memory() {
    on_a_core(async {
        let house = House::new(8);
        let (core, ready) = (house.core(), house.ready("hostile", quotas()).await);
        let auth = rules::auth(&core, &ready, None).unwrap();
        for _ in 0..1000 {
            assert!(auth.check(&mut facts("/trap")).await.is_err());
        }
        still_answers(&auth).await;
        assert!(house.parts.engine.instances() <= 2);
        assert_eq!(house.metric("wharf_plugin_instances{plugin=\"hostile\",version=\"1\"}"), u64::from(house.parts.engine.instances()));
        drop(auth);
        drop(core);
        // The pool is gone with its core; the one that was made ahead may still be on its way.
        while house.parts.engine.instances() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(house.metric("wharf_plugin_memory_bytes{plugin=\"hostile\",version=\"1\"}"), 0);
    });
}

#[test]
fn a_core_goes_on_while_a_guest_loops() {
    on_a_core(async {
        let house = House::new(16);
        let (core, ready) =
            (house.core(), house.ready("hostile", Quotas { deadline: Duration::from_millis(100), ..Quotas::default() }).await);
        let auth = rules::auth(&core, &ready, None).unwrap();
        // The instance is there: making one is moved too if the machine is busy.
        still_answers(&auth).await;
        let moved = || house.metric("wharf_plugin_moved_total{plugin=\"hostile\",version=\"1\"}");
        let before = moved();
        let (turns, over) = (Rc::new(Cell::new(0u64)), Rc::new(Cell::new(false)));
        let (counted, ended) = (turns.clone(), over.clone());
        // A neighbour on the same core, who counts its turns while the guest loops. If the guest held the core there
        // would be none but the first.
        let neighbour = tokio::task::spawn_local(async move {
            while !ended.get() {
                counted.set(counted.get() + 1);
                tokio::task::yield_now().await;
            }
        });
        assert!(auth.check(&mut facts("/loop")).await.is_err());
        over.set(true);
        neighbour.await.unwrap();
        assert!(turns.get() > 50, "{} turns", turns.get());
        assert_eq!(moved() - before, 1);
    });
}

#[test]
fn a_panic_of_the_host_costs_one_question() {
    on_a_core(async {
        let house = House::new(16);
        let (core, ready) = (house.core(), house.ready("hostile", quotas()).await);
        let auth = rules::auth(&core, &ready, None).unwrap();
        for _ in 0..3 {
            let mut given = facts("/get?panic");
            let fault = auth.check(&mut given).await.unwrap_err();
            assert_eq!(fault.blame, Blame::Host);
            assert!(fault.detail().contains("a fault of the host"), "{fault}");
            assert_eq!(given.request.path(), "/get", "the facts are back");
            still_answers(&auth).await;
        }
        assert!(house.parts.engine.instances() <= 2);
    });
}

#[test]
fn several_loops_take_turns_and_an_honest_call_among_them_ends() {
    on_a_core(async {
        let house = House::new(16);
        let (core, ready) = (house.core(), house.ready("hostile", Quotas { deadline: Duration::from_secs(2), ..Quotas::default() }).await);
        let auth = rules::auth(&core, &ready, None).unwrap();
        let loops: Vec<_> = (0..4)
            .map(|_| {
                let auth = auth.clone();
                tokio::task::spawn_local(async move { auth.check(&mut facts("/loop")).await.is_err() })
            })
            .collect();
        // All four are on the guest thread, or on their way, when the honest one joins them.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(matches!(auth.check(&mut facts("/work")).await, Ok(Decision::Reply(_))));
        assert!(loops.iter().any(|looping| !looping.is_finished()), "it did not have to wait for their end");
        for looping in loops {
            assert!(looping.await.unwrap());
        }
    });
}

#[test]
fn a_version_that_keeps_looping_is_asked_elsewhere_from_the_start() {
    on_a_core(async {
        let house = House::new(16);
        let (core, ready) =
            (house.core(), house.ready("hostile", Quotas { deadline: Duration::from_millis(20), ..Quotas::default() }).await);
        let auth = rules::auth(&core, &ready, None).unwrap();
        for _ in 0..50 {
            assert!(auth.check(&mut facts("/loop")).await.is_err());
        }
        assert!(house.metric("wharf_plugin_banished_total{plugin=\"hostile\",version=\"1\"}") >= 1);
        still_answers(&auth).await;
    });
}

#[test]
fn waiting_questions_are_bounded_over_all() {
    on_a_core(async {
        let house = House::new(16);
        let limited = Quotas { concurrency_max: 3, deadline: Duration::from_secs(1), ..Quotas::default() };
        let (core, ready) = (house.core(), house.ready("hostile", limited).await);
        let auth = rules::auth(&core, &ready, None).unwrap();
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let auth = auth.clone();
                tokio::task::spawn_local(async move { auth.check(&mut facts("/slow-kv")).await.unwrap_err().kind })
            })
            .collect();
        let refused = loop {
            tokio::task::yield_now().await;
            let began = std::time::Instant::now();
            match auth.check(&mut facts("/")).await {
                Err(fault) => break fault,
                Ok(_) => assert!(began.elapsed() < Duration::from_secs(60)),
            }
        };
        assert_eq!(refused.kind, FaultKind::Overload("concurrency"));
        assert!(refused.detail().contains("plugins.hostile.limits.concurrency_max"), "{refused}");
        for one in waiting {
            assert_eq!(one.await.unwrap(), FaultKind::Timeout(Phase::Plugin));
        }
        still_answers(&auth).await;
    });
}

#[test]
fn live_instances_are_bounded_over_all() {
    on_a_core(async {
        let house = House::new(16);
        let limited = Quotas { instances_max: 2, deadline: Duration::from_secs(1), ..Quotas::default() };
        let (core, ready) = (house.core(), house.ready("hostile", limited).await);
        let auth = rules::auth(&core, &ready, None).unwrap();
        let waiting: Vec<_> = (0..4)
            .map(|_| {
                let auth = auth.clone();
                tokio::task::spawn_local(async move { auth.check(&mut facts("/slow-kv")).await.unwrap_err().kind })
            })
            .collect();
        let mut kinds = Vec::new();
        for one in waiting {
            kinds.push(one.await.unwrap());
        }
        let refused = kinds.iter().filter(|kind| **kind == FaultKind::Overload("instances")).count();
        assert!(refused >= 2, "{kinds:?}");
        still_answers(&auth).await;
    });
}
