//! The inventory: from a checked configuration to what each core serves. The one file that names every room's parts.
//!
//! Two halves. [`Generation`] is made once, on the control thread: services, the matcher, the plugin versions that
//! answer. [`house`] turns it into one core's own: outlets, rules, targets. Nothing is decided here; a plan that cannot
//! be assembled cannot be made (`config::check`).

use crate::config::plan::{self, Attachment, Plan, Policy, RateLimit, Role as PlanRole};
use crate::ferry::FerryCore;
use crate::telemetry::traces::Outbox;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use wharf_core::LocalBoxFuture;
use wharf_core::exchange::Facts;
use wharf_core::fault::{Fault, FaultKind};
use wharf_core::metrics::Registry;
use wharf_core::outlet::Outlets;
use wharf_core::rules::{Attached, Authenticate, Decision, FailurePolicy, Picked, Route, Rules};
use wharf_http::capture::Budget;
use wharf_http::client::Client;
use wharf_http::house::{Core, House, Meters};
use wharf_http::rate::{Gate, Limits};
use wharf_http::routes::Routes;
use wharf_http::steps::Steps;
use wharf_upstream::{Service, ServiceOutlet, Services};
use wharf_wasm::{Catalog, FaultSink, Granted, Grants, KvGrant, Parts, Quotas, Ready, Role, Wanted, Wants, WasmCore, rules};

mod routes;
mod services;
mod watch;

/// What every core is sent: immutable, shared, freed with the last exchange that holds a house made from it.
pub struct Generation {
    /// Counted up.
    pub number: u64,
    /// What the file says.
    pub plan: Arc<Plan>,
    /// The compiled matcher.
    pub routes: Arc<Routes>,
    /// What callers have used of the plan's rate limits; goes on where a limit stays the same.
    limits: Limits,
    services: HashMap<Arc<str>, Arc<Service>>,
    guards: services::Guards,
    ready: HashMap<(Arc<str>, Arc<str>), Answering>,
    /// What plugin calls stand on; `None` while no plugin is attached: then there is no engine.
    parts: Option<Parts>,
    /// The state of the catalog that it was made from.
    pub catalog: u64,
    /// Where traces wait for their collector; the same in all generations.
    pub outbox: Arc<Outbox>,
    /// The memory for copies of bodies; the same in all generations.
    budget: Arc<Budget>,
}

/// The version that answers for a plugin with one configuration.
#[derive(Clone, Default)]
struct Answering {
    roles: Vec<(Role, Arc<Ready>)>,
    last_good: Option<Arc<Ready>>,
}

impl Generation {
    /// Takes stock: what the catalog has ready for a plan's attachments, now. `before`: the generation that serves.
    pub fn new(
        number: u64,
        plan: Arc<Plan>,
        routes: Arc<Routes>,
        services: &Services,
        catalog: &Catalog,
        before: Option<&Generation>,
    ) -> Generation {
        // First: what changes from here on is perhaps not in it.
        let changed = *catalog.changed().borrow();
        let mut ready: HashMap<(Arc<str>, Arc<str>), Answering> = HashMap::new();
        for (_, attachment) in attachments(&plan) {
            let key = (attachment.plugin.clone(), attachment.config.clone());
            ready.entry(key).or_insert_with(|| Answering {
                roles: Role::ALL
                    .into_iter()
                    .filter_map(|role| Some((role, catalog.ready(&attachment.plugin, &attachment.config, role)?)))
                    .collect(),
                last_good: catalog.last_good(&attachment.plugin, &attachment.config),
            });
        }
        let any = ready.values().any(|answering| !answering.roles.is_empty());
        let parts = any.then(|| catalog.parts()).and_then(|parts| {
            parts.inspect_err(|error| tracing::error!(%error, "no plugin can run; attachments answer by their failure policy")).ok()
        });
        let guards = services::Guards::of(&plan, services);
        let by_name = services::cared_for(&plan, services);
        let none = Limits::default();
        let limits = Limits::after(before.map_or(&none, |before| &before.limits), routes::limits(&plan));
        let outbox = before.map_or_else(|| Outbox::new(plan.workers), |before| before.outbox.clone());
        let budget = before.map_or_else(|| watch::budget(services.registry()), |before| before.budget.clone());
        budget.set_max(plan.recording.capture_memory);
        Generation { number, plan, routes, limits, services: by_name, guards, ready, parts, catalog: changed, outbox, budget }
    }

    /// The version that answers an attachment, for operators.
    pub fn version_of(&self, attachment: &Attachment) -> Option<(u32, Vec<Role>)> {
        let answering = self.ready.get(&(attachment.plugin.clone(), attachment.config.clone()))?;
        let version = answering.roles.first()?.1.setup.version;
        Some((version, roles_of(attachment, answering).map(|(role, _)| *role).collect()))
    }
}

/// Every attachment of a plan with the place it is written in, for messages.
fn attachments(plan: &Plan) -> impl Iterator<Item = (String, &Attachment)> {
    plan.routes.iter().flat_map(attachments_of)
}

/// Those of one route.
pub(crate) fn attachments_of(route: &plan::Route) -> impl Iterator<Item = (String, &Attachment)> {
    let target = match &route.target {
        plan::Target::Plugin(attachment) => Some((format!("route {:?}, target", route.name), attachment)),
        _ => None,
    };
    let of_hosts = route.host_chains.iter().flat_map(|(_, chain)| chain);
    let chain = route.chain.iter().chain(of_hosts).map(|attachment| {
        let level = match attachment.level {
            plan::Level::Global => "global".to_owned(),
            plan::Level::Host => "hosts".to_owned(),
            plan::Level::Route => format!("route {:?}", route.name),
            plan::Level::Service => format!("service behind route {:?}", route.name),
        };
        (format!("{level}, plugin {:?}", attachment.plugin), attachment)
    });
    target.into_iter().chain(chain)
}

/// What a plan wants of the catalog.
pub fn wants(plan: &Plan) -> Wants {
    let granted = plan
        .plugins
        .iter()
        .map(|plugin| Granted {
            plugin: plugin.name.clone(),
            grants: Arc::new(Grants {
                kv: plugin.kv.as_ref().map(|kv| KvGrant {
                    namespace: kv.namespace.to_string(),
                    bytes_max: kv.bytes_max,
                    keys_max: kv.keys_max,
                }),
                http_services: plugin.http_services.iter().map(|name| name.to_string()).collect(),
            }),
            quotas: Arc::new(quotas(&plugin.limits)),
        })
        .collect();
    let mut seen = std::collections::HashSet::new();
    let attachments = attachments(plan)
        .filter(|(place, attachment)| seen.insert((place.clone(), attachment.plugin.clone(), attachment.config.clone(), attachment.role)))
        .map(|(place, attachment)| Wanted {
            plugin: attachment.plugin.clone(),
            place: place.into(),
            role: attachment.role.map(role_of),
            config: attachment.config.clone(),
            last_good: attachment.policy == Some(Policy::LastGood),
        })
        .collect();
    Wants { granted, attachments }
}

fn quotas(limits: &plan::PluginLimits) -> Quotas {
    Quotas {
        deadline: limits.deadline,
        memory_bytes_max: usize::try_from(limits.memory_bytes_max).unwrap_or(usize::MAX),
        concurrency_max: limits.concurrency_max,
        log_lines_per_second: limits.log_lines_per_second,
        host_calls_max: limits.host_calls_max,
        recycle_calls: limits.recycle_after_calls,
        fresh_per_call: limits.fresh_per_call,
        faults_max: limits.faults_max,
        faults_window: limits.faults_within,
        ..Quotas::default()
    }
}

fn role_of(role: PlanRole) -> Role {
    match role {
        PlanRole::Auth => Role::Auth,
        PlanRole::Route => Role::Route,
        PlanRole::Filter => Role::Filter,
        PlanRole::Degrade => Role::Degrade,
    }
}

/// The roles in which an attachment is asked: the one that is written, else all but `route`, which is only ever asked as
/// a route's target.
fn roles_of<'a>(attachment: &'a Attachment, answering: &'a Answering) -> impl Iterator<Item = &'a (Role, Arc<Ready>)> {
    let wanted = attachment.role.map(role_of);
    answering.roles.iter().filter(move |(role, _)| wanted.map_or(*role != Role::Route, |wanted| wanted == *role))
}

/// What one core keeps from generation to generation.
pub struct Home {
    number: u16,
    core: Rc<Core>,
    metrics: Arc<Registry>,
    faults: FaultSink,
    wasm: RefCell<Option<Rc<WasmCore>>>,
    services: RefCell<HashMap<Arc<str>, Rc<ServiceOutlet<Client>>>>,
    /// Of the routes of the newest generation. A route that goes on counts where it did: with ten thousand of them, making
    /// all counts anew would hold every core up at each change.
    meters: RefCell<HashMap<Arc<str>, Rc<Meters>>>,
    /// Its part of the ferry.
    pub(crate) ferry: FerryCore,
}

impl Home {
    /// A core that has served nothing yet.
    pub fn new(number: u16, core: Rc<Core>, metrics: Arc<Registry>, faults: FaultSink, ferry: FerryCore) -> Home {
        Home { number, core, metrics, faults, wasm: RefCell::default(), services: RefCell::default(), meters: RefCell::default(), ferry }
    }

    /// The counts of a route.
    fn meters(&self, route: &Arc<str>) -> Rc<Meters> {
        let had = self.meters.borrow().get(route).cloned();
        had.unwrap_or_else(|| Rc::new(Meters::new(&self.metrics, route)))
    }
}

/// A rate limit in its place, at this route or service.
fn gate(generation: &Generation, home: &Home, of: (&str, &str), limit: &RateLimit) -> Option<Gate> {
    let shared = generation.limits.get(&limit.key)?.clone();
    let labels = [of, ("limit", &*limit.name)];
    let refused = home.metrics.count("wharf_rate_limited_total", "requests refused by a rate limit", &labels);
    Some(Gate { name: limit.name.clone(), limit: shared, refused })
}

/// One core's house. Called on the core's own thread.
pub fn house(generation: &Generation, home: &Home) -> House {
    let plan = &generation.plan;

    // Outlets: one for each service, with what this core remembers of it.
    let before = std::mem::take(&mut *home.services.borrow_mut());
    let mut outlets = Outlets::new();
    for service in &plan.services {
        let Some(shared) = generation.services.get(&service.name) else { continue };
        let before = before.get(&service.name).map(|outlet| &**outlet);
        let protocol = Rc::new(home.core.client.speaking(service.speaks, service.tls.as_ref().map(|tls| tls.client.clone())));
        let config = services::outlet_config(service, true);
        let outlet = Rc::new(ServiceOutlet::new(shared.clone(), protocol, config, home.number.into(), before));
        let guarded = generation.guards.before(&service.name, outlet.clone());
        outlets.insert(service.name.as_ref().into(), services::rationed(generation, home, service, guarded));
        home.services.borrow_mut().insert(service.name.clone(), outlet);
    }
    let outlets = Rc::new(outlets);
    home.core.client.keep_warm(services::warm(generation, home));

    // The plugin room, from the first generation that attaches a plugin to the first that attaches none: whoever keeps it
    // keeps the engine with its threads. (Exchanges in flight hold what they need by themselves.)
    let wasm = {
        let mut kept = home.wasm.borrow_mut();
        *kept = generation.parts.as_ref().map(|parts| {
            let wasm = kept.take().unwrap_or_else(|| WasmCore::new(parts.clone(), home.number.into(), home.faults.clone()));
            wasm.set_outlets(outlets.clone());
            wasm
        });
        kept.clone()
    };
    let wasm = wasm.as_ref();

    let entries: Vec<_> = plan.routes.iter().map(|route| routes::entry(generation, home, wasm, route, &outlets)).collect();
    // What this generation does not have is let go.
    *home.meters.borrow_mut() = entries.iter().map(|entry| (entry.name.clone(), entry.meters.clone())).collect();
    let unmatched = plan.unmatched_envelope.clone().map(|envelope| Rc::new(Steps { envelope: Some(envelope), ..Steps::default() }));
    let watch = watch::of(generation, home, None);
    House { routes: generation.routes.clone(), entries, unmatched, watch }
}

/// The rules of one chain. An attachment without a version answers by its failure policy.
fn chain_rules(generation: &Generation, wasm: Option<&Rc<WasmCore>>, route: &plan::Route, chain: &[Attachment]) -> Rules {
    let mut made = Rules { degrade_statuses: route.degrade_statuses.clone(), ..Rules::default() };
    for attachment in chain {
        let name = &attachment.plugin;
        let none = Answering::default();
        let answering = generation.ready.get(&(name.clone(), attachment.config.clone())).unwrap_or(&none);
        let mut answers = false;
        for (role, ready) in roles_of(attachment, answering) {
            let Some(wasm) = wasm else { break };
            let last_good = answering.last_good.as_ref().filter(|_| attachment.policy == Some(Policy::LastGood));
            let (policy, version) = (policy_of(attachment, *role), Some(ready.setup.version));
            answers = true;
            match role {
                Role::Auth => {
                    made.auth.extend(rules::auth(wasm, ready, last_good).map(|rule| Attached { name: name.clone(), policy, version, rule }))
                }
                Role::Filter => {
                    if let Some(rule) = rules::filter(wasm, ready, last_good) {
                        made.attach_filter(name.clone(), policy, version, rule);
                    }
                }
                Role::Degrade => made.degrade.extend(rules::degrade(wasm, ready, last_good).map(|rule| Attached {
                    name: name.clone(),
                    policy,
                    version,
                    rule,
                })),
                Role::Route => {}
            }
        }
        // Which role it would have had is not known; unless it was told to be `open`, nothing passes without it.
        let expected = attachment.role.map_or(Role::Auth, role_of);
        if !answers && expected != Role::Degrade && policy_of(attachment, expected) == FailurePolicy::Closed {
            made.auth.push(Attached {
                name: name.clone(),
                policy: FailurePolicy::Closed,
                version: None,
                rule: Rc::new(Absent(name.clone())),
            });
        }
    }
    if let plan::Target::Plugin(attachment) = &route.target {
        let answering = generation.ready.get(&(attachment.plugin.clone(), attachment.config.clone()));
        let ready = answering.and_then(|answering| answering.roles.iter().find(|(role, _)| *role == Role::Route));
        let last_good =
            answering.and_then(|answering| answering.last_good.as_ref()).filter(|_| attachment.policy == Some(Policy::LastGood));
        let version = ready.map(|(_, ready)| ready.setup.version);
        let rule: Rc<dyn Route> = match (wasm, ready) {
            (Some(wasm), Some((_, ready))) => match rules::route(wasm, ready, last_good) {
                Some(rule) => rule,
                None => Rc::new(Absent(attachment.plugin.clone())),
            },
            _ => Rc::new(Absent(attachment.plugin.clone())),
        };
        made.route = Some(Attached { name: attachment.plugin.clone(), policy: FailurePolicy::Closed, version, rule });
    }
    made
}

/// What a failure means here. `last-good` has been tried in the plugin room by then; what is left is `closed`.
fn policy_of(attachment: &Attachment, role: Role) -> FailurePolicy {
    match attachment.policy {
        Some(Policy::Open) => FailurePolicy::Open,
        Some(Policy::Closed | Policy::LastGood) => FailurePolicy::Closed,
        None if role == Role::Degrade => FailurePolicy::Open,
        None => FailurePolicy::Closed,
    }
}

/// Stands where a plugin is attached that has no version to answer.
struct Absent(Arc<str>);

impl Absent {
    fn fault(&self) -> Fault {
        let name = &self.0;
        let what = format!(
            "plugin {name:?} is attached and has no version that can serve; hint: `wharf plugin push {name} FILE`, or see `wharf plugin list`"
        );
        Fault::plugin(FaultKind::Plugin(name.clone()), what)
    }
}

impl Authenticate for Absent {
    fn check<'a>(&'a self, _: &'a mut Facts) -> LocalBoxFuture<'a, Result<Decision, Fault>> {
        Box::pin(async { Err(self.fault()) })
    }
}

impl Route for Absent {
    fn pick<'a>(&'a self, _: &'a mut Facts) -> LocalBoxFuture<'a, Result<Option<Picked>, Fault>> {
        Box::pin(async { Err(self.fault()) })
    }
}
