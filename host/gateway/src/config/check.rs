//! From what people wrote to what the rooms are given; finds every mistake, not the first.
//!
//! A value that is wrong is written down and replaced by its default, so that the rest can be checked against it; the
//! plan is only handed out if nothing was written down.

use super::chains::Chains;
use super::file::{self, File};
use super::plan::{self, Plan};
use super::report::Mistakes;
use super::surroundings::Surroundings;
use super::tree::{self, Item, Mistake, Named, NotShort, OrShort, Place, nearest_or_all};
use super::units::{Percent, Size, Time, Whole};
use super::values::{self, Wrong};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use wharf_core::outlet::CallLimits;
use wharf_http::routes::{HeaderTest, PathPattern};

type Opt<T> = Option<Item<T>>;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const KIB: u64 = 1024;
const MIB: u64 = 1024 * 1024;
const GIB: u64 = 1024 * 1024 * 1024;

/// Most routes with different priorities: each costs every request a look.
const PRIORITIES_MAX: usize = 16;
/// Most lines of one block that are looked at when the file is no YAML: each costs a reading of the block.
const ADMIN_LINES_MAX: usize = 100;
/// Largest fixed answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Query arguments that are never written to the access log, whatever the file says.
pub const REDACT_QUERY: [&str; 17] = [
    "token",
    "access_token",
    "refresh_token",
    "id_token",
    "api_key",
    "apikey",
    "key",
    "secret",
    "client_secret",
    "password",
    "passwd",
    "pwd",
    "signature",
    "sig",
    "code",
    "authorization",
    "session",
];

/// Checks the text of a file. `folder` is where its relative paths begin.
///
/// # Errors
/// All mistakes.
pub fn check(name: &str, text: &str, folder: &Path, around: &Surroundings) -> Result<Plan, Mistakes> {
    let mut mistakes = Vec::new();
    let plan = match tree::parse(text, &mut mistakes) {
        Ok(tree) => {
            let written = RefCell::new(std::mem::take(&mut mistakes));
            let file: Option<File> = tree::read(&tree, &written);
            mistakes = written.into_inner();
            file.map(|file| {
                let mut checker = Checker::new(folder, around, &file, std::mem::take(&mut mistakes));
                let plan = checker.plan(&file);
                mistakes = checker.mistakes;
                plan
            })
        }
        Err(mistake) => {
            mistakes.push(mistake);
            None
        }
    };
    match plan {
        Some(plan) if mistakes.is_empty() => Ok(plan),
        _ => Err(Mistakes::new(name, text, mistakes)),
    }
}

/// What a file says about the admin API, whatever else may be wrong with it; defaults where it says nothing. For the
/// command line, which must reach a running gateway although its file was broken since.
pub fn admin_of(text: &str, folder: &Path) -> plan::Admin {
    let around = Surroundings { addresses: Vec::new(), cores: 1, may_bind: false, any_address: true };
    let written = RefCell::default();
    let tree = tree::parse(text, &mut Vec::new()).or_else(|_| tree::parse(&admin_blocks(text), &mut Vec::new()));
    let file = tree.ok().and_then(|tree| tree::read::<File>(&tree, &written)).unwrap_or_default();
    let mut checker = Checker::new(folder, &around, &file, Vec::new());
    let node = checker.node(&file.node);
    checker.admin(&file.admin, &node).1
}

/// The top-level blocks of a text that is no YAML which [`admin_of`] is about, each as far down as it can be read: the
/// mistake is somewhere else, or the operator is just typing it.
fn admin_blocks(text: &str) -> String {
    let mut blocks = String::new();
    for name in ["admin:", "node:"] {
        let mut lines = text.lines().skip_while(|line| !line.starts_with(name));
        let Some(first) = lines.next() else { continue };
        let below = lines.take_while(|line| line.is_empty() || line.starts_with([' ', '#'])).take(ADMIN_LINES_MAX);
        let lines: Vec<&str> = std::iter::once(first).chain(below).collect();
        let read = (1..=lines.len()).rev().filter_map(|count| lines.get(..count)).map(|lines| format!("{}\n", lines.join("\n")));
        blocks.extend({ read }.find(|block| tree::parse(block, &mut Vec::new()).is_ok()));
    }
    blocks
}

/// Collects mistakes while a file is turned into a plan.
pub(super) struct Checker<'a> {
    folder: &'a Path,
    around: &'a Surroundings,
    services: Vec<String>,
    plugins: Vec<String>,
    pub(super) mistakes: Vec<Mistake>,
}

impl<'a> Checker<'a> {
    fn new(folder: &'a Path, around: &'a Surroundings, file: &File, mistakes: Vec<Mistake>) -> Checker<'a> {
        fn names<T>(named: &Opt<Named<T>>) -> Vec<String> {
            let entries = named.as_ref().and_then(Item::get).map(|named| named.0.as_slice()).unwrap_or_default();
            entries.iter().filter_map(|(name, _)| name.get().cloned()).collect()
        }
        Checker { folder, around, services: names(&file.services), plugins: names(&file.plugins), mistakes }
    }

    fn plan(&mut self, file: &File) -> Plan {
        let node = self.node(&file.node);
        let listeners = self.listeners(&file.listeners);
        let admin = self.admin(&file.admin, &node);
        self.bound_once(&listeners, &admin);
        let services = self.services(&file.services);
        let plugins = self.plugins(&file.plugins);
        let routes = self.routes(file);
        Plan {
            node,
            workers: self.number(&file.workers, self.around.cores.min(256) as u32, 1, 256, "workers") as usize,
            log: self.log(&file.log),
            access_log: self.access_log(&file.access_log),
            listeners: listeners.into_iter().map(|(_, listener)| listener).collect(),
            admin: admin.1,
            services,
            plugins,
            routes,
        }
    }

    // === sections ===

    fn node(&mut self, node: &Opt<file::Node>) -> plan::Node {
        let node = group(node);
        let name = node.and_then(|node| self.named(&node.name, "node")).unwrap_or_else(|| "wharf".into());
        let state_dir = node.and_then(|node| given(&node.state_dir)).map_or("wharf-state", String::as_str);
        plan::Node { name, state_dir: self.folder.join(state_dir) }
    }

    fn log(&mut self, log: &Opt<file::Log>) -> plan::Log {
        let log = group(log);
        let level = log.and_then(|log| log.level.as_ref());
        if let Some(item) = level
            && let Some(level) = item.get()
            && !crate::telemetry::logs::is_level(level)
        {
            self.say(item.place, format!("`{level}` is not a log level"), "one of error, warn, info, debug, trace");
        }
        plan::Log {
            level: level.and_then(Item::get).cloned().unwrap_or_else(|| "info".into()),
            json: matches!(log.and_then(|log| given(&log.format)), Some(file::LogFormat::Json)),
        }
    }

    fn access_log(&mut self, log: &Opt<file::AccessLog>) -> plan::AccessLog {
        let log = group(log);
        let target = match log.and_then(|log| given(&log.to)).map(String::as_str) {
            None | Some("stdout") => plan::LogTarget::Stdout,
            Some("off") => plan::LogTarget::Off,
            Some(path) => plan::LogTarget::File(self.folder.join(path)),
        };
        let more = log.map(|log| list(&log.redact_query)).unwrap_or_default();
        let more = more.iter().filter_map(Item::get).map(|name| name.to_ascii_lowercase());
        let redact_query = REDACT_QUERY.iter().map(|&name| name.to_owned()).chain(more).map(String::into_boxed_str).collect();
        plan::AccessLog { target, redact_query }
    }

    fn listeners(&mut self, named: &Opt<Named<file::Listener>>) -> Vec<(Place, plan::Listener)> {
        let mut listeners = Vec::new();
        for (name, item) in entries(named) {
            let Some(name) = self.name_of(name, "listener") else { continue };
            let Some(listener) = item.get() else { continue };
            let limits = group(&listener.limits);
            let waits = group(&listener.timeouts);
            let made = plan::Listener {
                name,
                bind: self.bind(&listener.bind).unwrap_or(ANYWHERE),
                advertise: self.advertise(&listener.advertise),
                trusted_proxies: list(&listener.trusted_proxies).iter().filter_map(|item| self.value(item, values::network)).collect(),
                connections_max: self.number(&listener.connections_max, 20_000, 1, 10_000_000, "connections_max"),
                head_bytes_max: self.size(of(limits, |l| &l.head_bytes_max), 32 * KIB, KIB, MIB, "head_bytes_max") as usize,
                fields_max: self.number(of(limits, |l| &l.fields_max), 100, 1, 10_000, "fields_max") as usize,
                head_timeout: self.time(of(waits, |w| &w.head), 10 * SECOND, MS, HOUR, "head"),
                body_timeout: self.time(of(waits, |w| &w.body), 5 * SECOND, MS, HOUR, "body"),
                keep_alive: self.time(of(waits, |w| &w.keep_alive), 60 * SECOND, MS, DAY, "keep_alive"),
                quiet: self.time(of(waits, |w| &w.quiet), 300 * SECOND, MS, DAY, "quiet"),
            };
            listeners.push((listener.bind.place, made));
        }
        if entries(named).is_empty() && self.mistakes.is_empty() {
            let hint = "add `listeners: {web: {bind: 0.0.0.0:8080}}`";
            self.say(named.as_ref().map(|item| item.place).unwrap_or_default(), "there is no listener, so nothing would be served", hint);
        }
        listeners
    }

    fn admin(&mut self, admin: &Opt<file::Admin>, node: &plan::Node) -> (Place, plan::Admin) {
        let admin = group(admin);
        let bind = admin.and_then(|admin| admin.bind.as_ref());
        let token_file = admin.and_then(|admin| given(&admin.token_file));
        let made = plan::Admin {
            bind: bind.and_then(|bind| self.bind(bind)).unwrap_or(SocketAddr::from(([127, 0, 0, 1], 9901))),
            advertise: admin.and_then(|admin| self.advertise(&admin.advertise)),
            token_file: token_file.map_or_else(|| node.state_dir.join("admin-token"), |file| self.folder.join(file)),
        };
        (bind.map(|bind| bind.place).unwrap_or_default(), made)
    }

    /// No two sockets on one address.
    fn bound_once(&mut self, listeners: &[(Place, plan::Listener)], admin: &(Place, plan::Admin)) {
        let mut bound: Vec<(Place, SocketAddr, String)> = Vec::new();
        let all = listeners.iter().map(|(place, listener)| (*place, listener.bind, format!("listener `{}`", listener.name)));
        for (place, address, who) in all.chain([(admin.0, admin.1.bind, "the admin API".to_owned())]) {
            let clashes = |have: &SocketAddr| {
                address.port() != 0
                    && have.port() == address.port()
                    && have.is_ipv4() == address.is_ipv4()
                    && (have.ip() == address.ip() || have.ip().is_unspecified() || address.ip().is_unspecified())
            };
            if let Some((first, have, other)) = bound.iter().find(|(_, have, _)| clashes(have)) {
                // The admin API has a default address: then the mistake is shown where the other is bound.
                let place = if place.line == 0 { *first } else { place };
                let message = format!("{who} and {other} cannot both have port {} ({have} and {address})", address.port());
                self.say(place, message, "give one of them another port");
            }
            bound.push((place, address, who));
        }
    }

    fn services(&mut self, named: &Opt<Named<file::Service>>) -> Vec<plan::Service> {
        let mut services = Vec::new();
        for (key, item) in entries(named) {
            let Some(name) = self.name_of(key, "service") else { continue };
            let Some(service) = item.get() else { continue };
            let waits = group(&service.timeouts);
            let retries = group(&service.retries);
            let usual = CallLimits::default();
            let limits = CallLimits {
                connect: self.time(of(waits, |w| &w.connect), usual.connect, MS, HOUR, "connect"),
                head: self.time(of(waits, |w| &w.head), usual.head, MS, HOUR, "head"),
                body: self.time(of(waits, |w| &w.body), usual.body, MS, HOUR, "body"),
                idle: self.time(of(waits, |w| &w.idle), usual.idle, MS, DAY, "idle"),
                connections_max: self.number(&service.connections_max, usual.connections_max, 1, 1_000_000, "connections_max"),
                ..usual
            };
            services.push(plan::Service {
                source: self.source(&name, key.place, service),
                name,
                balance: match given(&service.balance) {
                    None | Some(file::Balance::RoundRobin) => plan::Balance::RoundRobin,
                    Some(file::Balance::Weighted) => plan::Balance::Weighted,
                    Some(file::Balance::LeastRequest) => plan::Balance::LeastRequest,
                },
                limits,
                retries_max: self.number(of(retries, |r| &r.max), 1, 0, 10, "max"),
                retry_share_max: self.share(of(retries, |r| &r.budget), 20.0, "budget"),
                subset_fallback: given(&service.subset_fallback).copied().unwrap_or(true),
            });
        }
        services
    }

    fn source(&mut self, name: &str, place: Place, service: &file::Service) -> plan::Source {
        match (&service.endpoints, &service.dns) {
            (Some(_), Some(dns)) => {
                self.say(dns.place, format!("service `{name}` has both `endpoints` and `dns`"), "remove one of the two");
            }
            (None, None) => self.say(
                place,
                format!("service `{name}` has neither `endpoints` nor `dns`"),
                "add `endpoints: [10.0.0.7:8080]` or `dns: orders.internal:8080`",
            ),
            (None, Some(dns)) => {
                let Some(OrShort(dns_set)) = dns.get() else { return plan::Source::Fixed(Vec::new()) };
                let refresh = self.time(&dns_set.refresh, 30 * SECOND, SECOND, DAY, "refresh");
                if let Some((host, port)) = self.value_at(&dns_set.name, dns.place, values::host_and_port) {
                    if host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok() {
                        self.say(dns.place, format!("`{host}` is an address, not a name"), format!("use `endpoints: [{host}:{port}]`"));
                    }
                    return plan::Source::Dns { name: host, port, refresh };
                }
            }
            (Some(endpoints), None) => {
                if endpoints.get().is_some_and(Vec::is_empty) {
                    self.say(endpoints.place, format!("service `{name}` has no endpoints"), "add one, or remove the service");
                }
                return plan::Source::Fixed(self.endpoints(name, list(&service.endpoints)));
            }
        }
        plan::Source::Fixed(Vec::new())
    }

    fn endpoints(&mut self, service: &str, items: &[Item<OrShort<file::Endpoint>>]) -> Vec<plan::Endpoint> {
        let mut endpoints: Vec<plan::Endpoint> = Vec::new();
        for item in items {
            let Some(OrShort(endpoint)) = item.get() else { continue };
            let weight = self.number_u64(&endpoint.weight, 1, 0, 1_000_000, "weight") as u32;
            let zone = given(&endpoint.zone).map(|zone| zone.as_str().into());
            let tags = list(&endpoint.tags).iter().filter_map(Item::get).map(|tag| tag.as_str().into()).collect();
            let Some(address) = self.value_at(&endpoint.address, item.place, values::endpoint) else { continue };
            if endpoints.iter().any(|have| have.address == address) {
                let place = at(endpoint.address.place, item.place);
                self.say(
                    place,
                    format!("service `{service}` has endpoint {address} twice"),
                    "remove one; give it more `weight` for more calls",
                );
                continue;
            }
            endpoints.push(plan::Endpoint { address, weight, zone, tags });
        }
        if !endpoints.is_empty() && endpoints.iter().all(|endpoint| endpoint.weight == 0) {
            let place = items.first().map(|item| item.place).unwrap_or_default();
            self.say(
                place,
                format!("all endpoints of service `{service}` have weight 0, so none takes calls"),
                "give one a weight of 1 or more",
            );
        }
        endpoints
    }

    fn plugins(&mut self, named: &Opt<Named<file::Plugin>>) -> Vec<plan::Plugin> {
        let mut plugins = Vec::new();
        for (key, item) in entries(named) {
            let Some(name) = self.name_by(values::plugin_name, key, "plugin") else { continue };
            let Some(plugin) = item.get() else { continue };
            let file = plugin.file.as_ref().and_then(|file| self.component(file));
            let grants = group(&plugin.grants);
            let kv = of(grants, |g| &g.kv).as_ref().and_then(Item::get).map(|kv| plan::Kv {
                namespace: self.named(&kv.namespace, "namespace").unwrap_or_else(|| name.clone()),
                bytes_max: self.size(&kv.bytes_max, 64 * MIB, KIB, 1024 * GIB, "bytes_max"),
                keys_max: self.number_u64(&kv.keys_max, 100_000, 1, 1_000_000_000, "keys_max"),
            });
            let http = of(grants, |g| &g.http).as_ref().and_then(Item::get).and_then(|http| http.services.get());
            let http_services =
                http.map(Vec::as_slice).unwrap_or_default().iter().filter_map(|service| self.service(service, item.place)).collect();
            plugins.push(plan::Plugin { name, file, kv, http_services, limits: self.plugin_limits(group(&plugin.limits)) });
        }
        plugins
    }

    fn component(&mut self, file: &Item<String>) -> Option<PathBuf> {
        let path = self.folder.join(file.get()?);
        if !path.is_file() {
            let hint = "relative paths begin at the folder of this file; leave `file` out to upload with `wharf plugin push`";
            self.say(file.place, format!("there is no file {}", path.display()), hint);
        }
        Some(path)
    }

    fn plugin_limits(&mut self, limits: Option<&file::PluginLimits>) -> plan::PluginLimits {
        let faults = limits.and_then(|limits| group(&limits.faults));
        plan::PluginLimits {
            deadline: self.time(of(limits, |l| &l.deadline), 50 * MS, MS, 60 * SECOND, "deadline"),
            memory_bytes_max: self.size(of(limits, |l| &l.memory_bytes_max), 32 * MIB, 64 * KIB, 256 * MIB, "memory_bytes_max"),
            concurrency_max: self.number(of(limits, |l| &l.concurrency_max), 256, 1, 10_000, "concurrency_max"),
            log_lines_per_second: self.number(of(limits, |l| &l.log_lines_per_second), 100, 0, 100_000, "log_lines_per_second"),
            host_calls_max: self.number(of(limits, |l| &l.host_calls_max), 1000, 1, 1_000_000, "host_calls_max"),
            recycle_after_calls: self.number(of(limits, |l| &l.recycle_after_calls), 10_000, 1, 1_000_000_000, "recycle_after_calls"),
            fresh_per_call: limits.and_then(|limits| given(&limits.fresh_per_call)).copied().unwrap_or(false),
            faults_max: self.number(of(faults, |f| &f.max), 5, 1, 100_000, "max"),
            faults_within: self.time(of(faults, |f| &f.within), 10 * SECOND, SECOND, HOUR, "within"),
        }
    }

    fn routes(&mut self, file: &File) -> Vec<plan::Route> {
        let defaults = group(&file.defaults);
        let whole = self.time(of(defaults.and_then(|d| group(&d.timeouts)), |t| &t.whole), 60 * SECOND, MS, DAY, "whole");
        let body = self.size(of(defaults, |d| &d.body_bytes_max), 10 * MIB, 0, 1024 * GIB, "body_bytes_max");
        let chains = Chains::read(self, file);
        let mut routes: Vec<(Place, plan::Route)> = Vec::new();
        // A route with a mistake in it matches something else than was meant: by form (a key that nobody knows is not
        // there), or by what its match says.
        let mut comparable: HashSet<Arc<str>> = HashSet::new();
        for item in list(&file.routes) {
            let Some(route) = item.get() else { continue };
            let Some(name) = self.name_of(&route.name, "route") else { continue };
            if let Some((place, _)) = routes.iter().find(|(_, have)| have.name == name) {
                let message = format!("there is a route `{name}` on line {} already", place.line);
                self.say(route.name.place, message, "names stand in logs and metrics: give it another");
                continue;
            }
            let before = self.mistakes.len();
            let matches = self.matches(route);
            if self.mistakes.len() == before && item.is_sound() {
                comparable.insert(name.clone());
            }
            if route.to.is_missing() {
                self.say(
                    route.name.place,
                    format!("route `{name}` has no `to`"),
                    "add `to: SERVICE`, `to: {plugin: ...}` or `to: {answer: ...}`",
                );
            }
            let target = self.target(&route.to);
            let service = match &target {
                Some(plan::Target::Service { name, .. }) => Some(name.clone()),
                _ => None,
            };
            let (chain, host_chains) = chains.of_route(self, route, &matches, service.as_deref());
            routes.push((
                route.name.place,
                plan::Route {
                    strip_prefix: self.strip_prefix(route, &matches),
                    name,
                    matches,
                    target: target.unwrap_or(plan::Target::Answer(plan::Answer { status: 404, headers: Vec::new(), body: "".into() })),
                    whole_timeout: self.time(of(group(&route.timeouts), |t| &t.whole), whole, MS, DAY, "whole"),
                    body_bytes_max: self.size(&route.body_bytes_max, body, 0, 1024 * GIB, "body_bytes_max"),
                    retries: given(&route.retries).copied().unwrap_or(true),
                    degrade_statuses: self.degrade_statuses(&route.degrade_statuses),
                    preserve_host: given(&route.preserve_host).copied().unwrap_or(true),
                    chain,
                    host_chains,
                },
            ));
        }
        self.told_apart(routes.iter().filter(|(_, route)| comparable.contains(&route.name)));
        routes.into_iter().map(|(_, route)| route).collect()
    }

    /// No two routes of which one can never be taken, and not too many priorities.
    fn told_apart<'r>(&mut self, routes: impl Iterator<Item = &'r (Place, plan::Route)>) {
        let mut seen: HashMap<String, &plan::Route> = HashMap::new();
        let mut priorities = HashSet::new();
        for (place, route) in routes {
            let matches = &route.matches;
            if priorities.insert(matches.priority) && priorities.len() == PRIORITIES_MAX + 1 {
                let hint = "each priority costs every request a look; most routes need none, the more specific one wins anyway";
                self.say(*place, format!("routes have more than {PRIORITIES_MAX} different priorities"), hint);
            }
            let mut rest = matches.clone();
            rest.hosts.clear();
            rest.methods.sort_by(|left, right| left.as_str().cmp(right.as_str()));
            rest.headers.sort_by(|left, right| left.name.cmp(&right.name));
            let hosts: Vec<Option<&plan::HostPattern>> =
                if matches.hosts.is_empty() { vec![None] } else { matches.hosts.iter().map(Some).collect() };
            let mut told = false;
            for host in hosts {
                let first = *seen.entry(format!("{host:?} {rest:?}")).or_insert(route);
                if first.name != route.name && !told {
                    told = true;
                    let whose = host.map_or(String::new(), |host| format!(" for host `{}`", host_text(host)));
                    let message =
                        format!("route `{}` matches exactly what route `{}` matches{whose}, so it is never taken", route.name, first.name);
                    self.say(*place, message, "remove one of the two, or tell them apart by path, method, header or `priority`");
                }
            }
        }
    }

    fn matches(&mut self, route: &file::Route) -> plan::RouteMatch {
        let matches = group(&route.matches);
        let path = match of(matches, |m| &m.path).as_ref().and_then(Item::get) {
            None => None,
            Some(NotShort(file::PathMatch::Exact(path))) => self.value(path, values::path).map(PathPattern::Exact),
            Some(NotShort(file::PathMatch::Prefix(path))) => self.value(path, values::path).map(|path| {
                let path = path.trim_end_matches('/');
                PathPattern::Prefix(if path.is_empty() { "/".into() } else { path.into() })
            }),
        };
        let mut headers = Vec::new();
        for (name, item) in entries(of(matches, |m| &m.headers)) {
            let Some(name) = self.value(name, values::field_name) else { continue };
            let value = match item.get() {
                None => continue,
                Some(NotShort(file::HeaderMatch::Present)) => None,
                Some(NotShort(file::HeaderMatch::Exact(value))) => match self.value(value, field_value) {
                    None => continue,
                    Some(value) => Some(value.into_bytes().into()),
                },
            };
            headers.push(HeaderTest { name, value });
        }
        plan::RouteMatch {
            hosts: self.several(of(matches, |m| &m.hosts), "hosts", values::host),
            path: path.unwrap_or_default(),
            methods: self.several(of(matches, |m| &m.methods), "methods", values::method),
            headers,
            priority: given(&route.priority).copied().unwrap_or(0),
        }
    }

    /// A list that must not be empty (that would match nothing) and has nothing twice.
    fn several<T: PartialEq>(&mut self, items: &Opt<Vec<Item<String>>>, what: &str, read: fn(&str) -> Result<T, Wrong>) -> Vec<T> {
        if let Some(item) = items
            && item.get().is_some_and(Vec::is_empty)
        {
            self.say(item.place, format!("`{what}` is empty, so nothing would match"), format!("leave `{what}` out to match any"));
        }
        let mut values = Vec::new();
        for item in list(items) {
            let Some(value) = self.value(item, read) else { continue };
            if values.contains(&value) {
                self.say(item.place, format!("`{}` is given twice", item.get().map_or("", String::as_str)), "remove one");
                continue;
            }
            values.push(value);
        }
        values
    }

    fn target(&mut self, item: &Item<OrShort<file::To>>) -> Option<plan::Target> {
        let OrShort(to) = item.get()?;
        let given_targets = [to.service.is_some(), to.plugin.is_some(), to.answer.is_some()].into_iter().filter(|given| *given).count();
        if given_targets != 1 {
            let message = if given_targets == 0 { "`to` leads nowhere" } else { "`to` leads to more than one place" };
            self.say(item.place, message, "give one of `service`, `plugin` and `answer`");
            return None;
        }
        for (setting, place, needs, fits) in [
            ("subset", to.subset.as_ref().map(|item| item.place), "service", to.service.is_some()),
            ("config", to.config.as_ref().map(|item| item.place), "plugin", to.plugin.is_some()),
            ("policy", to.policy.as_ref().map(|item| item.place), "plugin", to.plugin.is_some()),
        ] {
            if let Some(place) = place
                && !fits
            {
                self.say(place, format!("`{setting}` has no meaning without `{needs}`"), format!("remove `{setting}`"));
            }
        }
        if let Some(service) = &to.service {
            let name = self.service(service, item.place)?;
            return Some(plan::Target::Service { name, subset: given(&to.subset).map(|subset| subset.as_str().into()) });
        }
        if let Some(plugin) = &to.plugin {
            if let Some(policy) = &to.policy
                && matches!(policy.get(), Some(file::Policy::Open))
            {
                self.say(policy.place, "a route plugin cannot fail `open`: without it there is no place to go", "`closed` or `last-good`");
            }
            return Some(plan::Target::Plugin(plan::Attachment {
                plugin: self.plugin(plugin, item.place)?,
                role: Some(plan::Role::Route),
                config: config_text(&to.config),
                policy: given(&to.policy).map(policy),
                order: 0,
                level: plan::Level::Route,
            }));
        }
        self.answer(to.answer.as_ref()?.get()?).map(plan::Target::Answer)
    }

    fn answer(&mut self, answer: &file::Fixed) -> Option<plan::Answer> {
        let given_status = answer.status.get()?;
        let status = given_status.within(200, 599).unwrap_or_else(|| {
            self.say(answer.status.place, format!("{given_status} is no status to answer with"), "a number from 200 to 599");
            200
        }) as u16;
        let body = given(&answer.body).map_or("", String::as_str);
        if let Some(item) = &answer.body {
            if body.len() > ANSWER_BYTES_MAX {
                let message = format!("the body of this answer has {} bytes, and at most {ANSWER_BYTES_MAX} are allowed", body.len());
                self.say(item.place, message, "serve larger files from a service");
            }
            if matches!(status, 204 | 304) && !body.is_empty() {
                self.say(item.place, format!("an answer with status {status} has no body"), "remove `body`, or answer with 200");
            }
        }
        let mut headers = Vec::new();
        for (key, item) in entries(&answer.headers) {
            let (Some(name), Some(value)) = (self.value(key, values::field_name), item.get()) else { continue };
            match wharf_core::edit::check_fields([(&*name, value.as_str())]) {
                Ok(()) => headers.push((name, value.as_str().into())),
                Err(bad) => self.say(key.place, bad.to_string(), "the gateway writes framing, connection and forwarding fields itself"),
            }
        }
        Some(plan::Answer { status, headers, body: body.into() })
    }

    fn strip_prefix(&mut self, route: &file::Route, matches: &plan::RouteMatch) -> Option<Box<str>> {
        let item = route.strip_prefix.as_ref().filter(|item| item.get() == Some(&true))?;
        match &matches.path {
            PathPattern::Prefix(prefix) if **prefix != *"/" => Some(prefix.clone()),
            PathPattern::Prefix(_) => None,
            PathPattern::Exact(_) => {
                self.say(item.place, "`strip_prefix` needs `path: {prefix: ...}`", "match by prefix, or remove `strip_prefix`");
                None
            }
        }
    }

    fn degrade_statuses(&mut self, statuses: &Opt<Vec<Item<Whole>>>) -> Vec<u16> {
        if statuses.is_none() {
            return vec![502, 503, 504];
        }
        let mut all = Vec::new();
        for item in list(statuses) {
            let Some(given_status) = item.get() else { continue };
            match given_status.within(500, 599) {
                Some(status) => all.push(status as u16),
                None => self.say(item.place, format!("{given_status} is not a fault of the upstream"), "a number from 500 to 599"),
            }
        }
        all
    }

    // === values ===

    pub(super) fn say(&mut self, place: Place, message: impl Into<String>, hint: impl Into<String>) {
        self.mistakes.push(Mistake::new(place, message).hint(hint));
    }

    /// Reads text; what is wrong with it is written down.
    pub(super) fn value<T>(&mut self, item: &Item<String>, read: fn(&str) -> Result<T, Wrong>) -> Option<T> {
        self.value_at(item, item.place, read)
    }

    /// As [`Checker::value`], for text that may have been the short form of something at `outer`.
    fn value_at<T>(&mut self, item: &Item<String>, outer: Place, read: fn(&str) -> Result<T, Wrong>) -> Option<T> {
        read(item.get()?).map_err(|(message, hint)| self.say(at(item.place, outer), message, hint)).ok()
    }

    fn name_of(&mut self, item: &Item<String>, what: &str) -> Option<Arc<str>> {
        self.name_by(values::name, item, what)
    }

    fn name_by(&mut self, rule: fn(&str, &str) -> Result<(), Wrong>, item: &Item<String>, what: &str) -> Option<Arc<str>> {
        let name = item.get()?;
        if let Err((message, hint)) = rule(name, what) {
            self.say(item.place, message, hint);
        }
        Some(name.as_str().into())
    }

    fn named(&mut self, item: &Opt<String>, what: &str) -> Option<Arc<str>> {
        self.name_of(item.as_ref()?, what)
    }

    fn service(&mut self, item: &Item<String>, outer: Place) -> Option<Arc<str>> {
        let name = item.get()?;
        if !self.services.contains(name) {
            let hint = nearest_or_all(name, &self.services);
            self.say(at(item.place, outer), format!("there is no service `{name}`"), hint);
            return None;
        }
        Some(name.as_str().into())
    }

    pub(super) fn plugin(&mut self, item: &Item<String>, outer: Place) -> Option<Arc<str>> {
        let name = item.get()?;
        if !self.plugins.contains(name) {
            let hint = nearest_or_all(name, &self.plugins);
            self.say(at(item.place, outer), format!("there is no plugin `{name}`"), hint);
            return None;
        }
        Some(name.as_str().into())
    }

    fn bind(&mut self, item: &Item<String>) -> Option<SocketAddr> {
        let address = self.value(item, values::bind)?;
        if !self.around.has(address.ip()) {
            let own: Vec<String> = self.around.addresses.iter().map(ToString::to_string).collect();
            let hint = format!(
                "it has {}; bind one of these or `0.0.0.0:{}` for all, and put the address that others use under `advertise`",
                if own.is_empty() { "127.0.0.1".into() } else { own.join(", ") },
                address.port()
            );
            self.say(item.place, format!("this host does not have the address {}", address.ip()), hint);
        }
        Some(address)
    }

    fn advertise(&mut self, item: &Opt<String>) -> Option<Box<str>> {
        let (host, port) = self.value(item.as_ref()?, values::host_and_port)?;
        Some(format!("{host}:{port}").into())
    }

    fn bounded<T: PartialOrd + Copy + Display>(&mut self, item: &Opt<T>, usual: T, least: T, most: T, what: &str) -> T {
        let Some((place, value)) = item.as_ref().and_then(|item| Some((item.place, *item.get()?))) else { return usual };
        if value < least || value > most {
            self.say(place, format!("`{what}` is {value}, and it may be from {least} to {most}"), format!("{usual} is the default"));
            return usual;
        }
        value
    }

    fn number(&mut self, item: &Opt<Whole>, usual: u32, least: u32, most: u32, what: &str) -> u32 {
        // No more than `most`, so it fits.
        self.number_u64(item, usual.into(), least.into(), most.into(), what) as u32
    }

    fn number_u64(&mut self, item: &Opt<Whole>, usual: u64, least: u64, most: u64, what: &str) -> u64 {
        let Some((place, given)) = item.as_ref().and_then(|item| Some((item.place, item.get()?))) else { return usual };
        given.within(least, most).unwrap_or_else(|| {
            let message = format!("`{what}` is {given}, and it may be a whole number from {least} to {most}");
            self.say(place, message, format!("{usual} is the default"));
            usual
        })
    }

    fn time(&mut self, item: &Opt<Time>, usual: Duration, least: Duration, most: Duration, what: &str) -> Duration {
        self.bounded(item, Time(usual), Time(least), Time(most), what).0
    }

    fn size(&mut self, item: &Opt<Size>, usual: u64, least: u64, most: u64, what: &str) -> u64 {
        self.bounded(item, Size(usual), Size(least), Size(most), what).0
    }

    fn share(&mut self, item: &Opt<Percent>, usual: f64, what: &str) -> f64 {
        self.bounded(item, Percent(usual), Percent(0.0), Percent(100.0), what).0 / 100.0
    }
}

const ANYWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);

/// The inner place, unless it is that of a short form, which has none of its own.
pub(super) fn at(inner: Place, outer: Place) -> Place {
    if inner.line == 0 { outer } else { inner }
}

/// A group of settings, if it is there.
pub(super) fn group<T>(item: &Opt<T>) -> Option<&T> {
    item.as_ref().and_then(Item::get)
}

fn given<T>(item: &Opt<T>) -> Option<&T> {
    group(item)
}

/// A setting of a group that may not be there.
fn of<'g, G, T>(group: Option<&'g G>, setting: fn(&'g G) -> &'g Opt<T>) -> &'g Opt<T> {
    group.map_or(const { &None }, setting)
}

/// What a list holds; nothing if it is not there.
pub(super) fn list<T>(item: &Opt<Vec<T>>) -> &[T] {
    group(item).map(Vec::as_slice).unwrap_or_default()
}

/// What a map holds; nothing if it is not there.
pub(super) fn entries<T>(item: &Opt<Named<T>>) -> &[(Item<String>, Item<T>)] {
    group(item).map(|named| named.0.as_slice()).unwrap_or_default()
}

fn field_value(text: &str) -> Result<String, Wrong> {
    if wharf_core::edit::is_field_value(text.as_bytes()) && text.trim() == text {
        return Ok(text.into());
    }
    Err(("a header cannot have this value".into(), "no control characters, no spaces at either end".into()))
}

pub(super) fn policy(policy: &file::Policy) -> plan::Policy {
    match policy {
        file::Policy::Closed => plan::Policy::Closed,
        file::Policy::Open => plan::Policy::Open,
        file::Policy::LastGood => plan::Policy::LastGood,
    }
}

/// A plugin's configuration as JSON text.
pub(super) fn config_text(config: &Opt<file::Anything>) -> Arc<str> {
    group(config).map_or_else(|| "{}".into(), |file::Anything(value)| value.to_string().into())
}

/// A host pattern as it is written.
pub fn host_text(host: &plan::HostPattern) -> String {
    match host {
        plan::HostPattern::Exact(host) => host.to_string(),
        plan::HostPattern::Below(host) => format!("*.{host}"),
    }
}
