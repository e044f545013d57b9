//! One route of the inventory: its rules, its target, and the native steps between them, in the order in which they act.
//!
//! ```text
//! rules.auth       lists, rate limits, preflights, then plugins
//! rules.filters    rate limits by consumer, then plugins
//! target           checks, then rewriting and header edits, then the mirror, then the split or the service, which begins with
//!                  its rate limits
//! steps            default answers, envelope, header edits, other origins; then compression
//! ```

use super::services::outlet_config;
use super::{Generation, Home, chain_rules};
use crate::config::plan::{self, Attachment, Plan, Target as To};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use wharf_core::last_good::LastGood;
use wharf_core::outlet::{Outlet, Outlets, Wish};
use wharf_core::road::{Memory, Target};
use wharf_core::rules::{Attached, Authenticate, FailurePolicy, Rules};
use wharf_http::check::Checked;
use wharf_http::cors::Preflights;
use wharf_http::fixed::Fixed;
use wharf_http::house::{Entry, HostRules};
use wharf_http::lists::Lists;
use wharf_http::mirror::{Copies, Mirror};
use wharf_http::rate::{By, Rate};
use wharf_http::rewrite::Rewritten;
use wharf_http::routes::HostTable;
use wharf_http::split::{Arm, Split};
use wharf_http::steps::Steps;
use wharf_upstream::{Guarded, ServiceOutlet};
use wharf_wasm::WasmCore;

/// The rate limits of a plan, each once.
pub(super) fn limits(plan: &Plan) -> impl Iterator<Item = (Box<str>, Rate, By)> {
    plan.rate_limits().map(|limit| (limit.key.clone(), limit.rate, limit.by.clone()))
}

/// What a route does, on one core.
pub(super) fn entry(
    generation: &Generation,
    home: &Home,
    wasm: Option<&Rc<WasmCore>>,
    route: &plan::Route,
    outlets: &Rc<Outlets>,
) -> Entry {
    let chain = |chain: &[Attachment]| with_native(generation, home, route, chain_rules(generation, wasm, route, chain));
    let rules = chain(&route.chain);
    let memory: Memory = (!rules.degrade.is_empty()).then(|| Rc::new(RefCell::new(LastGood::default())));
    let patterns: Vec<_> = route.host_chains.iter().map(|(pattern, _)| pattern.clone()).collect();
    let by_host = (!patterns.is_empty()).then(|| HostRules {
        table: HostTable::compile(&patterns),
        rules: route.host_chains.iter().map(|(_, attachments)| chain(attachments)).collect(),
    });
    let steps = Steps {
        names: route.matches.path.has_names(),
        instead: route.default_answers.clone(),
        envelope: route.envelope.clone(),
        headers: route.response_headers.clone(),
        cors: route.cors.clone(),
    };
    // Header edits may take away what compression looks at.
    let looks = route.request_headers.is_some();
    Entry {
        name: route.name.clone(),
        rules,
        by_host,
        target: target(generation, home, route, outlets),
        memory,
        whole: route.whole_timeout,
        whole_is_default: route.whole_is_default,
        body_bytes_max: route.body_bytes_max,
        keep_host: route.preserve_host,
        steps: (looks || !steps.is_empty()).then(|| Rc::new(steps)),
        compression: route.compression.clone(),
        watch: super::watch::of(generation, home, Some(route)),
        meters: home.meters(&route.name),
    }
}

/// The rules of a chain with the native ones around them.
fn with_native(generation: &Generation, home: &Home, route: &plan::Route, mut rules: Rules) -> Rules {
    let mut first: Vec<Attached<dyn Authenticate>> = Vec::new();
    let closed = FailurePolicy::Closed;
    if let Some(lists) = &route.access {
        first.push(Attached { name: "access".into(), policy: closed, version: None, rule: Rc::new(Lists::clone(lists)) });
    }
    let mut by_consumer = 0;
    for limit in &route.limits {
        let Some(gate) = super::gate(generation, home, ("route", &route.name), limit) else { continue };
        let rule = Rc::new(gate);
        let name: Arc<str> = "rate_limits".into();
        if limit.by == By::Consumer {
            rules.request_filters.insert(by_consumer, Attached { name, policy: closed, version: None, rule });
            by_consumer += 1;
        } else {
            first.push(Attached { name, policy: closed, version: None, rule });
        }
    }
    if let Some(cors) = &route.cors {
        first.push(Attached { name: "cors".into(), policy: closed, version: None, rule: Rc::new(Preflights(cors.clone())) });
    }
    rules.auth.splice(0..0, first);
    rules
}

fn target(generation: &Generation, home: &Home, route: &plan::Route, outlets: &Rc<Outlets>) -> Target {
    // A call that is tried once, and not counted by the service's rate limits.
    let tried_once = |name: &Arc<str>| -> Option<(&plan::Service, Rc<dyn Outlet>)> {
        let shared = home.services.borrow().get(name)?.clone();
        let service = generation.plan.services.iter().find(|service| service.name == *name)?;
        let protocol = Rc::new(home.core.client.speaking(service.speaks, service.tls.as_ref().map(|tls| tls.client.clone())));
        let config = outlet_config(service, false);
        let outlet = ServiceOutlet::new(shared.service().clone(), protocol, config, home.number.into(), Some(&shared));
        Some((service, generation.guards.before(name, Rc::new(outlet))))
    };
    // A route without retries asks its services through outlets of its own, which share all that is counted.
    let outlet_of = |name: &Arc<str>, retries: bool| -> Option<Rc<dyn Outlet>> {
        if retries {
            return outlets.get(&**name).cloned();
        }
        let (service, outlet) = tried_once(name)?;
        Some(super::services::rationed(generation, home, service, outlet))
    };
    let breaker = generation.guards.of_route(&route.name);
    let checked = |inner: Rc<dyn Outlet>| -> Rc<dyn Outlet> {
        match &route.checks {
            Some(checks) => Rc::new(Checked { checks: checks.clone(), inner }),
            None => inner,
        }
    };
    let copies = route.mirror.as_ref().and_then(|mirror| {
        let labels = [("route", &*route.name), ("service", &*mirror.service)];
        Some(Rc::new(Copies {
            // A copy is worth no retry of the service's budget, and takes nothing from those whom its rate limits let in.
            outlet: tried_once(&mirror.service)?.1,
            wish: Wish { subset: mirror.subset.clone() },
            share: mirror.share,
            body_bytes_max: mirror.body_bytes_max,
            whole: mirror.timeout,
            open_max: mirror.in_flight_max,
            open: Cell::new(0),
            sent: home.metrics.count("wharf_mirror_sent_total", "copies of requests sent", &labels),
            dropped: home.metrics.count("wharf_mirror_dropped_total", "requests not copied: no room, or a large body", &labels),
        }))
    });
    let dressed = |outlet: Rc<dyn Outlet>| -> Rc<dyn Outlet> {
        // Next to the service: a copy neither opens the breaker nor is held back by it.
        let outlet = Guarded::outlet(outlet, breaker.clone(), None);
        let mirrored: Rc<dyn Outlet> = match &copies {
            Some(copies) => Rc::new(Mirror { inner: outlet, copies: copies.clone() }),
            None => outlet,
        };
        let rewritten: Rc<dyn Outlet> = match (&route.rewrite, &route.request_headers) {
            (None, None) => mirrored,
            (path, headers) => Rc::new(Rewritten { path: path.clone(), headers: headers.clone(), inner: mirrored }),
        };
        checked(rewritten)
    };
    let plain =
        copies.is_none() && route.rewrite.is_none() && route.request_headers.is_none() && route.checks.is_none() && breaker.is_none();
    match &route.target {
        To::Service { name, subset } => match outlet_of(name, route.retries) {
            Some(outlet) => Target::Fixed(dressed(outlet), Wish { subset: subset.clone() }),
            None => Target::Picked(Rc::default()),
        },
        To::Split { arms, sticky } => {
            let arms = arms.iter().filter_map(|arm| {
                Some(Arm {
                    tests: arm.tests.clone(),
                    weight: arm.weight,
                    outlet: outlet_of(&arm.service, route.retries)?,
                    wish: Wish { subset: arm.subset.clone() },
                })
            });
            Target::Fixed(dressed(Rc::new(Split { arms: arms.collect(), sticky: sticky.clone() })), Wish::default())
        }
        To::Plugin(_) if route.retries && plain => Target::Picked(outlets.clone()),
        To::Plugin(_) => {
            let all = generation.plan.services.iter();
            let all = all.filter_map(|service| Some((service.name.as_ref().into(), dressed(outlet_of(&service.name, route.retries)?))));
            Target::Picked(Rc::new(all.collect()))
        }
        To::Ferry(lane) => match home.ferry.lane(lane) {
            Some(outlet) => Target::Fixed(dressed(outlet), Wish::default()),
            None => Target::Picked(Rc::default()),
        },
        To::FerryAnswers(lane) => match home.ferry.answers(lane) {
            Some(outlet) => Target::Fixed(dressed(outlet), Wish::default()),
            None => Target::Picked(Rc::default()),
        },
        To::Redirect(redirect) => Target::Fixed(checked(Rc::new(redirect.clone())), Wish::default()),
        To::Answer(answer) => {
            let (head, body) = answer.parts();
            Target::Fixed(checked(Rc::new(Fixed { head, body })), Wish::default())
        }
    }
}
