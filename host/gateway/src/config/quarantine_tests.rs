//! What stays with what is wrong, and that no request meets a mixture of two configurations.

use crate::config::blame::{Blame, ItemKind};
use crate::config::quarantine::{Settled, settle};
use crate::config::sources::Alone;
use crate::config::*;
use std::collections::HashMap;
use std::path::Path;
use wharf_core::head::{Method, RequestHead};
use wharf_http::routes::Routes;

fn checked(text: &str) -> Checked {
    let around = Surroundings { addresses: Vec::new(), cores: 4, may_bind: false, any_address: true, expired: false };
    check_files("t.yaml", Path::new("t.yaml"), text, &around, &mut Alone).0
}

fn good(text: &str) -> Plan {
    checked(text).into_plan().unwrap_or_else(|mistakes| panic!("{mistakes}\n{text}"))
}

fn settled(before: &str, after: &str) -> Settled {
    let after = checked(after);
    let blame = after.blame.unwrap_or_else(|| panic!("{}", after.mistakes.unwrap()));
    settle(&good(before), &after.plan.unwrap(), &blame)
}

fn held(settled: &Settled) -> Vec<String> {
    let how = |held: &quarantine::Held| if held.has_last_good { "stays" } else { "left out" };
    let mut list: Vec<String> = settled.held.iter().map(|held| format!("{} {}", held.item, how(held))).collect();
    list.sort();
    list
}

const HEAD: &str = "listeners: {web: {bind: 127.0.0.1:0}}\nplugins: {auth: {}, audit: {}}\n";

fn with(rest: &str) -> String {
    format!("{HEAD}services:\n  a: {{endpoints: [127.0.0.1:9001]}}\n  b: {{endpoints: [127.0.0.1:9002]}}\n{rest}")
}

#[test]
fn a_bad_route_stays_and_all_else_moves_on() {
    let before = with("routes:\n  - {name: x, match: {path: {prefix: /x}}, to: a}\n  - {name: y, match: {path: {prefix: /y}}, to: a}\n");
    let after = with(
        "routes:\n  - {name: x, match: {path: {prefix: /x}}, to: c}\n  - {name: y, match: {path: {prefix: /y}}, to: b}\n  - {name: z, match: {path: {prefix: /z}}, to: d}\n",
    );
    let settled = settled(&before, &after);
    assert_eq!(held(&settled), ["route `x` stays", "route `z` left out"]);
    let to = |name: &str| settled.plan.routes.iter().find(|route| &*route.name == name).map(|route| format!("{:?}", route.target));
    assert!(to("x").unwrap().contains("\"a\"") && to("y").unwrap().contains("\"b\"") && to("z").is_none());
    assert!(settled.held[0].why[0].contains("there is no service `c`"), "{:?}", settled.held);
}

#[test]
fn a_service_that_is_wrong_stays_and_so_do_changed_routes_that_lead_to_it() {
    let routes = |more: &str| {
        format!(
            "routes:\n  - {{name: x, match: {{path: {{prefix: /x}}}}, to: a}}\n  - {{name: y, match: {{path: {{prefix: /y}}}}, to: a{more}}}\n"
        )
    };
    let service = |a: &str| format!("{HEAD}services: {{a: {a}, b: {{endpoints: [127.0.0.1:9002]}}}}\n");
    let before = service("{endpoints: [127.0.0.1:9001], plugins: [auth]}") + &routes("");
    // Authentication moves from the service to one of its routes, and the service has a slip.
    let after = service("{endpoints: [127.0.0.1:9001], retries: {max: 99}}") + &routes(", plugins: [auth]");
    let settled = settled(&before, &after);
    assert_eq!(held(&settled), ["route `x` stays", "route `y` stays", "service `a` stays"]);
    for route in &settled.plan.routes {
        assert_eq!(route.chain.len(), 1, "neither both nor none: {route:?}");
    }
}

#[test]
fn what_a_route_that_stays_needs_is_kept_though_the_file_has_it_no_more() {
    let before = with("routes: [{name: x, to: a, plugins: [audit]}]\n");
    let after = "listeners: {web: {bind: 127.0.0.1:0}}\nplugins: {auth: {}}\nservices: {b: {endpoints: [127.0.0.1:9002]}}\nroutes: [{name: x, to: bb, plugins: [auth]}]\n";
    let settled = settled(&before, after);
    assert_eq!(held(&settled), ["route `x` stays"]);
    let mut names: Vec<&str> = settled.plan.services.iter().map(|service| &*service.name).collect();
    names.sort_unstable();
    assert_eq!(names, ["a", "b"]);
    assert!(settled.plan.plugins.iter().any(|plugin| &*plugin.name == "audit"));
}

#[test]
fn a_rate_limit_that_is_wrong_stays_and_so_do_changed_routes_that_name_it() {
    let text = |limit: &str, x: &str, y: &str, to: &str| {
        with(&format!(
            "rate_limits: {{all: {limit}, other: {{rate: 5/s}}}}\nroutes:\n  - {{name: x, match: {{path: {{prefix: /x}}}}, to: a{x}}}\n  - {{name: y, match: {{path: {{prefix: /y}}}}, to: a{y}}}\n  - {{name: z, match: {{path: {{prefix: /z}}}}, to: {to}}}\n"
        ))
    };
    let limits = |settled: &Settled, name: &str| -> Vec<(String, u64)> {
        let route = settled.plan.routes.iter().find(|route| &*route.name == name).unwrap();
        route.limits.iter().map(|limit| (limit.name.to_string(), u64::from(limit.rate.limit))).collect()
    };
    let before = text("{rate: 10/s}", ", rate_limits: [all]", "", "a");
    for slip in ["{rate: fast}", "{burst: 3}", "{rate: 10/s, burst: many}", "7", "{rate: 10/s, bruts: 3}"] {
        let one = settled(&before, &text(slip, ", rate_limits: [all]", "", "b"));
        let mut names: Vec<String> = held(&one);
        // Where the stand-in is what the limit was the route does not differ.
        names.retain(|name| name != "route `x` stays");
        assert_eq!(names, ["rate limit `all` stays"], "{slip}: {:?}", one.held);
        assert_eq!(limits(&one, "x"), [("all".to_owned(), 10)], "{slip}");
        assert!(format!("{:?}", one.plan.routes[2].target).contains("\"b\""), "{slip}: all else moves on");
    }
    // A route that is to have it from now on must not serve without it.
    let two = settled(&before, &text("{rate: fast}", ", rate_limits: [all]", ", rate_limits: [all, other]", "b"));
    assert_eq!(held(&two), ["rate limit `all` stays", "route `x` stays", "route `y` stays"]);
    assert!(limits(&two, "y").is_empty());
    // One that is new and wrong: whoever is new with it is left out.
    let three = settled(
        &before,
        &(text("{rate: 10/s}", ", rate_limits: [all]", "", "b").replace("other: {rate: 5/s}", "other: {rate: 0}")
            + "  - {name: w, match: {path: {prefix: /w}}, to: a, rate_limits: [other]}\n"),
    );
    assert_eq!(held(&three), ["rate limit `other` left out", "route `w` left out"]);
}

#[test]
fn a_service_with_a_rate_limit_that_is_wrong_stays_and_is_never_served_without_it() {
    let text = |limit: &str, port: u16, more: &str| {
        format!(
            "listeners: {{web: {{bind: 127.0.0.1:0}}}}\nrate_limits: {{all: {limit}}}\nservices:\n  \
             a: {{endpoints: [127.0.0.1:{port}], rate_limits: [all]}}\n  b: {{endpoints: [127.0.0.1:2]}}\n{more}\
             routes:\n  - {{name: x, match: {{path: {{prefix: /x}}}}, to: a}}\n  - {{name: y, match: {{path: {{prefix: /y}}}}, to: b}}\n"
        )
    };
    let before = text("{rate: 10/s}", 1, "");
    let one = settled(&before, &text("{rate: fast}", 3, ""));
    assert_eq!(held(&one), ["rate limit `all` stays", "service `a` stays"]);
    let a = one.plan.services.iter().find(|service| &*service.name == "a").unwrap();
    assert_eq!(a.rates.iter().map(|limit| limit.rate.limit).collect::<Vec<_>>(), [10]);
    assert!(format!("{:?}", a.source).contains("127.0.0.1:1"), "all of it is of one configuration");
    // A service that is new with it is left out.
    let two = settled(&before, &text("{rate: fast}", 1, "  c: {endpoints: [127.0.0.1:4], rate_limits: [all]}\n"));
    assert_eq!(held(&two), ["rate limit `all` stays", "service `a` stays", "service `c` left out"]);
}

#[test]
fn attachments_that_are_wrong_hold_every_route() {
    let routes = |chain: &str| {
        with(&format!(
            "routes:\n  - {{name: x, match: {{path: {{prefix: /x}}}}, to: a{chain}}}\n  - {{name: y, match: {{path: {{prefix: /y}}}}, to: a{chain}}}\n"
        ))
    };
    // Authentication moves from the routes to all of them at once, misspelt: the routes alone would be open.
    let before = routes(", plugins: [auth]");
    let after = routes("") + "attachments: {global: [auht]}\n";
    let settled = settled(&before, &after);
    assert_eq!(held(&settled), ["attachments stays", "route `x` stays", "route `y` stays"]);
    assert!(settled.plan.routes.iter().all(|route| route.chain.len() == 1));
}

#[test]
fn a_guarded_path_is_not_opened_by_a_slip_in_its_new_route() {
    // One guarded route becomes two: an open one, and a guarded one below it with a slip.
    let before = with("routes: [{name: all, to: a, plugins: [auth]}]\n");
    let after = with("routes:\n  - {name: all, to: a}\n  - {name: private, match: {path: {prefix: /private}}, to: a, plugins: [auht]}\n");
    let one = settled(&before, &after);
    assert_eq!(held(&one), ["route `all` stays", "route `private` left out"]);
    assert_eq!(one.plan.routes.len(), 1);
    assert_eq!(one.plan.routes[0].chain.len(), 1);
    // Where it is not known what the new route was for, nothing that has changed may move.
    let after = with(
        "routes:\n  - {name: all, match: {path: {prefix: /public}}, to: a}\n  - {name: private, match: {path: {prefix: private}}, to: a, plugins: [auth]}\n",
    );
    assert_eq!(held(&settled(&before, &after)), ["route `all` stays", "route `private` left out"]);
}

#[test]
fn a_changed_route_for_everything_does_not_hold_those_that_win_over_it() {
    let text = |whole: &str, a: &str, status: &str| {
        with(&format!(
            "routes:\n  - {{name: all, to: a, timeouts: {{whole: {whole}}}}}\n  - {{name: x, match: {{path: {{prefix: /x}}}}, to: {a}}}\n  - {{name: y, match: {{path: {{exact: /y}}}}, to: {{answer: {{status: {status}}}}}}}\n"
        ))
    };
    // A bad route that was there keeps its requests: the one for everything moves.
    assert_eq!(held(&settled(&text("1s", "a", "200"), &text("2s", "c", "201"))), ["route `x` stays"]);
    // A bad one that is new would leave its requests to the new one for everything, which nobody meant; others move.
    let before = with("routes: [{name: all, to: a, timeouts: {whole: 1s}}, {name: y, match: {path: {exact: /y}}, to: a}]\n");
    assert_eq!(held(&settled(&before, &text("2s", "c", "201"))), ["route `all` stays", "route `x` left out"]);
}

#[test]
fn mistakes_that_no_item_can_be_blamed_for_are_no_business_of_quarantine() {
    for text in ["rotues: []\n", "services: 5\n", "services: {a: {}, a: {}}\n", "include: [nowhere.yaml]\n", "a: [\n"] {
        let after = checked(&format!("listeners: {{web: {{bind: 127.0.0.1:0}}}}\n{text}"));
        assert!(after.blame.is_none() && after.mistakes.is_some(), "{text}");
    }
}

#[test]
fn settings_and_listeners_stay_by_themselves() {
    let text = |web: &str, workers: &str, level: &str| {
        format!("listeners: {{web: {{bind: {web}}}}}\nworkers: {workers}\nlog: {{level: {level}}}\n")
    };
    let settled = settled(&text("127.0.0.1:8080", "2", "info"), &text("127.0.0.1", "lots", "debug"));
    assert_eq!(held(&settled), ["listener `web` stays", "setting `workers` stays"]);
    let plan = &settled.plan;
    assert_eq!((plan.listeners[0].bind.port(), plan.workers, plan.log.level.as_str()), (8080, 2, "debug"));
}

/// A number that follows from the one before.
struct Seed(u64);

impl Seed {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

/// A configuration of routes that meet each other; `slip`: one in so many has a mistake.
fn made(seed: &mut Seed, slip: usize) -> String {
    let mut text = String::from("listeners: {web: {bind: 127.0.0.1:0}}\nplugins: {auth: {}, audit: {}}\n");
    let slips = |seed: &mut Seed| slip > 0 && seed.below(slip) == 0;
    text += "services:\n";
    for service in ["a", "b", "c"] {
        if service == "a" || seed.below(4) > 0 {
            let plugins = if seed.below(3) == 0 { ", plugins: [auth]" } else { "" };
            let port = if slips(seed) { 0 } else { 9000 + seed.below(3) };
            text += &format!("  {service}: {{endpoints: [127.0.0.1:{port}]{plugins}}}\n");
        }
    }
    if seed.below(3) == 0 {
        let plugin = if slips(seed) { "auht" } else { ["auth", "audit"][seed.below(2)] };
        text += &format!("attachments: {{global: [{plugin}]}}\n");
    }
    if seed.below(5) == 0 {
        text += &format!("defaults: {{timeouts: {{whole: {}}}}}\n", if slips(seed) { "5" } else { "5s" });
    }
    text += "routes:\n";
    for name in 0..6 {
        if seed.below(4) == 0 {
            continue;
        }
        let path = ["/", "/p", "/p/q", "/r", "/r/s"][seed.below(5)];
        let kind = ["prefix", "exact"][seed.below(2)];
        let host = ["", ", hosts: [x.test]", ", hosts: ['*.test']"][seed.below(3)];
        let plugins = ["", ", plugins: [auth]", ", plugins: [audit, auth]"][seed.below(3)];
        let to = if slips(seed) { "nowhere" } else { ["a", "a", "{answer: {status: 200}}"][seed.below(3)] };
        let slipped = match seed.below(4) {
            0 if slips(seed) => ", mtach: 1",
            1 if slips(seed) => ", retries: x",
            _ => "",
        };
        let path = if slips(seed) { "p" } else { path };
        let tests = ["", "", ", methods: [GET]", ", headers: {x-a: present}"][seed.below(4)];
        let priority = ["", "", "", ", priority: 1"][seed.below(4)];
        text += &format!("  - {{name: r{name}, match: {{path: {{{kind}: {path}}}{host}{tests}}}, to: {to}{plugins}{slipped}{priority}}}\n");
    }
    text
}

/// How a plan serves each of some requests.
fn serves(plan: &Plan) -> HashMap<String, String> {
    let routes = Routes::compile(plan.routes.iter().map(|route| route.matches.clone()).collect());
    let mut how = HashMap::new();
    for host in ["x.test", "y.test", "z"] {
        for path in ["/", "/p", "/p/q", "/p/q/1", "/r", "/r/s", "/r/t", "/else"] {
            for (method, field) in [("GET", ""), ("POST", ""), ("GET", "x-a"), ("POST", "x-a")] {
                let mut head = RequestHead::from_text(Method::from_token(method), host, path, None);
                if !field.is_empty() {
                    head.fields.add(field.as_bytes(), b"1");
                }
                let from = wharf_http::routes::Arrival { client: std::net::IpAddr::from([127, 0, 0, 1]), listener: "web" };
                let route = routes.find(&head, from).route().and_then(|at| plan.routes.get(at));
                // All that a request meets but its service's endpoints: chain, target, limits.
                how.insert(format!("{method} {host}{path} {field}"), format!("{route:?}"));
            }
        }
    }
    how
}

#[test]
fn every_request_is_served_wholly_by_one_of_both_configurations() {
    let mut seed = Seed(7);
    let (mut tried, mut moved, mut stayed) = (0, 0, 0);
    while tried < 3_000 {
        // Some of what is made matches the same twice: not meant, and refused.
        let Ok(before) = checked(&made(&mut seed, 0)).into_plan() else { continue };
        let text = made(&mut seed, 8);
        let after = checked(&text);
        let (Some(plan), Some(blame)) = (&after.plan, &after.blame) else { continue };
        if blame.0.is_empty() {
            continue;
        }
        tried += 1;
        let settled = settle(&before, plan, blame);
        // What the mistakes were meant to be is not known; that a request is not served as the bad item says, is.
        let bad: Vec<String> = blame.0.keys().filter(|id| id.kind == ItemKind::Route).map(|id| format!("name: \"{}\"", id.name)).collect();
        let (old, new, now) = (serves(&before), serves(plan), serves(&settled.plan));
        for (request, how) in &now {
            if *how == old[request] {
                stayed += 1;
                continue;
            }
            moved += 1;
            assert_eq!(*how, new[request], "{request}: a mixture\n{text}");
            assert!(!bad.iter().any(|name| how.contains(name.as_str())), "{request} is served by what is wrong\n{text}");
            assert!(!blame.0.keys().any(|id| matches!(id.kind, ItemKind::Attachments | ItemKind::Defaults)), "{text}");
        }
        for route in &settled.plan.routes {
            if let plan::Target::Service { name, .. } = &route.target {
                assert!(settled.plan.services.iter().any(|service| service.name == *name), "{name} is gone\n{text}");
            }
        }
        // The same again changes nothing.
        let again = settle(&settled.plan, plan, blame);
        assert_eq!(serves(&again.plan), now, "{text}");
    }
    assert!(moved > 1_000 && stayed > 10_000, "{moved} moved, {stayed} stayed");
    let none = settle(&good(&with("routes: []\n")), &good(&with("routes: [{name: x, to: a}]\n")), &Blame::default());
    assert!(none.held.is_empty() && none.plan.routes.len() == 1);
}
