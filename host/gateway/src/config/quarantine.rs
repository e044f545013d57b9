//! What serves when a part of a configuration is wrong: each bad item stays on its last good version, all else moves on.
//! Pure.
//!
//! The rule that makes this safe: **every request is served wholly as the last good configuration said, or wholly as the new
//! one says, never by a mixture of both.** A mixture could open a door: who moves the authentication from a route to another
//! one and misspells the second would have neither. So more stays than what is wrong:
//!
//! - `attachments` and `defaults` are parts of every route: with a mistake in one of them all routes stay;
//! - a service that names a rate limit which stays, stays, too;
//! - a route that leads to a service, or is guarded by a plugin or a named rate limit, that stays, stays, too, if it was
//!   changed;
//! - a route that was changed, added or removed and may take a request that a route which stays takes or was meant to take
//!   stays, too, unless one of the two wins wherever both fit, before and after. If it cannot be read which requests a route
//!   was meant for, every changed route stays.
//!
//! A route that stays keeps the chain of plugins that it had, whatever became of the attachments, and what it needs of
//! services and plugins that are gone from the file. What is new and was never good is left out.

use super::blame::{Blame, ItemId, ItemKind};
use super::plan::{HostPattern, Plan, Route, RouteMatch};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use wharf_http::routes::PathPattern;

/// An item that does not serve as the newest configuration says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Which.
    pub item: ItemId,
    /// Its own mistakes, or why it stays with another one.
    pub why: Vec<String>,
    /// Its last good version serves; else there is none, and nothing of it serves.
    pub has_last_good: bool,
    /// It has mistakes of its own.
    pub is_bad: bool,
}

/// What serves.
#[derive(Clone, Debug)]
pub struct Settled {
    /// The whole of it.
    pub plan: Plan,
    /// What does not serve as written.
    pub held: Vec<Held>,
}

/// Puts together what serves: of `new` all that is not in `bad` and does not have to stay with it, of `base` the rest.
pub fn settle(base: &Plan, new: &Plan, bad: &Blame) -> Settled {
    if bad.0.is_empty() {
        return Settled { plan: new.clone(), held: Vec::new() };
    }
    let mut settling = Settling::new(base, new, bad);
    settling.needs();
    settling.routes();
    settling.settled()
}

/// A route in both configurations.
struct Pair<'p> {
    old: Option<&'p Route>,
    new: Option<&'p Route>,
    differs: bool,
    /// Everything that is named in either version: services, plugins, and more.
    names: HashSet<String>,
}

struct Settling<'p> {
    base: &'p Plan,
    new: &'p Plan,
    bad: &'p Blame,
    pairs: BTreeMap<Arc<str>, Pair<'p>>,
    /// Plugins, services and named rate limits that stay or are left out, with why.
    parts: BTreeMap<ItemId, String>,
    /// Routes that stay, with why.
    held: BTreeMap<Arc<str>, String>,
}

impl<'p> Settling<'p> {
    fn new(base: &'p Plan, new: &'p Plan, bad: &'p Blame) -> Settling<'p> {
        let old: HashMap<&str, &Route> = base.routes.iter().map(|route| (&*route.name, route)).collect();
        let fresh: HashMap<&str, &Route> = new.routes.iter().map(|route| (&*route.name, route)).collect();
        // What stands in front of what decides between routes that are equally specific.
        let order = |list: &'p [Route], others: &HashMap<&str, &Route>| -> Vec<&'p str> {
            list.iter().map(|route| &*route.name).filter(|name| others.contains_key(name)).collect()
        };
        let is_reordered = order(&base.routes, &fresh) != order(&new.routes, &old);
        let mut pairs = BTreeMap::new();
        for route in base.routes.iter().chain(&new.routes) {
            pairs.entry(route.name.clone()).or_insert_with(|| {
                let (old, new) = (old.get(&*route.name).copied(), fresh.get(&*route.name).copied());
                let (was, is) = (old.map(|route| format!("{route:?}")), new.map(|route| format!("{route:?}")));
                let differs = was != is || (is_reordered && old.is_some() && new.is_some());
                // Every name in a plan is shown between quotes, whatever kinds of targets there may be. Too many are found (a
                // path may be called as a service is), and then one route more stays.
                let quoted = |text: Option<String>| -> Vec<String> {
                    text.map(|text| text.split('"').skip(1).step_by(2).map(str::to_owned).collect()).unwrap_or_default()
                };
                Pair { old, new, differs, names: quoted(was).into_iter().chain(quoted(is)).collect() }
            });
        }
        Settling { base, new, bad, pairs, parts: BTreeMap::new(), held: BTreeMap::new() }
    }

    fn is_bad(&self, kind: ItemKind, name: &str) -> bool {
        self.bad.0.contains_key(&ItemId::new(kind, name))
    }

    /// Services, plugins and named rate limits that stay: those that are wrong, services whose limits would be stand-ins, and
    /// plugins that may call services which are nowhere.
    fn needs(&mut self) {
        for id in self.bad.0.keys().filter(|id| matches!(id.kind, ItemKind::Service | ItemKind::Plugin | ItemKind::RateLimit)) {
            self.parts.insert(id.clone(), String::new());
        }
        for service in &self.new.services {
            if let Some(limit) = service.rates.iter().find(|limit| self.is_bad(ItemKind::RateLimit, &limit.key)) {
                let (id, why) = (ItemId::new(ItemKind::Service, &service.name), format!("it needs rate limit `{}`", limit.name));
                self.parts.entry(id).or_insert(why);
            }
        }
        let stays = |name: &Arc<str>| self.parts.contains_key(&ItemId::new(ItemKind::Service, name));
        let gone = |name: &Arc<str>| stays(name) && !self.base.services.iter().any(|service| service.name == *name);
        let with: Vec<(ItemId, String)> = self
            .new
            .plugins
            .iter()
            .filter_map(|plugin| {
                let service = plugin.http_services.iter().find(|name| gone(name))?;
                Some((ItemId::new(ItemKind::Plugin, &plugin.name), format!("it may call service `{service}`, which is left out")))
            })
            .collect();
        for (id, why) in with {
            self.parts.entry(id).or_insert(why);
        }
    }

    /// Routes that stay, until none has to be added.
    fn routes(&mut self) {
        for (id, blamed) in self.bad.0.iter().filter(|(id, _)| id.kind == ItemKind::Route) {
            let is_read = self.pairs.get(&id.name).is_some_and(|pair| pair.new.is_some());
            self.held.insert(id.name.clone(), String::new());
            if blamed.anywhere || !is_read {
                self.hold_all(&format!("it is not known which requests {id} was meant for"));
            }
        }
        for kind in [ItemKind::Attachments, ItemKind::Defaults] {
            if self.is_bad(kind, "") {
                self.hold_all(&format!("`{}` is a part of every route", kind.as_str()));
            }
        }
        let parts: Vec<ItemId> = self.parts.keys().cloned().collect();
        for id in parts {
            let with: Vec<Arc<str>> = self
                .pairs
                .iter()
                .filter(|(_, pair)| pair.differs && pair.names.contains(&*id.name))
                .map(|(name, _)| name.clone())
                .collect();
            for name in with {
                self.held.entry(name).or_insert_with(|| format!("it needs {id}"));
            }
        }
        let mut waiting: Vec<Arc<str>> = self.held.keys().cloned().collect();
        while let Some(name) = waiting.pop() {
            let Some(held) = self.pairs.get(&name) else { continue };
            let with: Vec<Arc<str>> = self
                .pairs
                .iter()
                .filter(|(other, pair)| {
                    pair.differs && !self.held.contains_key(*other) && held.meets(pair) && !held.is_told_apart_from(pair)
                })
                .map(|(other, _)| other.clone())
                .collect();
            for other in with {
                self.held.insert(other.clone(), format!("it may take requests of route `{name}`, which stays"));
                waiting.push(other);
            }
        }
    }

    fn hold_all(&mut self, why: &str) {
        for (name, _) in self.pairs.iter().filter(|(_, pair)| pair.differs) {
            self.held.entry(name.clone()).or_insert_with(|| why.to_owned());
        }
    }

    fn settled(self) -> Settled {
        let Settling { base, new, bad, pairs, parts, held } = self;
        let kept: Vec<&Route> = held.keys().filter_map(|name| pairs.get(name)?.old).collect();
        // What old routes need, and what is wrong itself.
        let needed: HashSet<&str> =
            kept.iter().flat_map(|route| pairs.get(&route.name)).flat_map(|pair| &pair.names).map(String::as_str).collect();
        let stays = |kind, name: &str| parts.contains_key(&ItemId::new(kind, name));
        let of_file: HashSet<ItemId> = new
            .services
            .iter()
            .map(|service| ItemId::new(ItemKind::Service, &service.name))
            .chain(new.plugins.iter().map(|plugin| ItemId::new(ItemKind::Plugin, &plugin.name)))
            .collect();
        let wants = |kind, name: &str| stays(kind, name) || (needed.contains(name) && !of_file.contains(&ItemId::new(kind, name)));

        let mut made = Vec::new();
        let mut tell = |item: ItemId, why: &str, has_last_good: bool| {
            let blamed = bad.0.get(&item);
            let why = blamed.map_or_else(|| vec![why.to_owned()], |blamed| blamed.why.clone());
            made.push(Held { item, why, has_last_good, is_bad: blamed.is_some() });
        };
        for (id, why) in &parts {
            let has = match id.kind {
                ItemKind::Service => base.services.iter().any(|service| service.name == id.name),
                // A plan has them where they count: at the routes and services that name them.
                ItemKind::RateLimit => base.rate_limits().any(|limit| *limit.key == *id.name),
                _ => base.plugins.iter().any(|plugin| plugin.name == id.name),
            };
            tell(id.clone(), why, has);
        }
        for (name, why) in &held {
            let old = pairs.get(name).and_then(|pair| pair.old);
            tell(ItemId { kind: ItemKind::Route, name: name.clone() }, why, old.is_some());
        }
        let others = [ItemKind::Setting, ItemKind::Attachments, ItemKind::Defaults, ItemKind::Listener];
        for id in bad.0.keys().filter(|id| others.contains(&id.kind)) {
            let has = id.kind != ItemKind::Listener || base.listeners.iter().any(|listener| listener.name == id.name);
            tell(id.clone(), "", has);
        }
        made.sort_by(|left, right| (!left.is_bad, &left.item).cmp(&(!right.is_bad, &right.item)));

        let is_bad = |kind, name: &str| bad.0.contains_key(&ItemId::new(kind, name));
        let setting = |name: &str| is_bad(ItemKind::Setting, name);
        let mut plan = new.clone();
        if setting("node") {
            plan.node = base.node.clone();
        }
        if setting("workers") {
            plan.workers = base.workers;
        }
        if setting("log") {
            plan.log = base.log.clone();
        }
        if setting("access_log") {
            plan.access_log = base.access_log.clone();
            plan.recording = base.recording.clone();
        }
        if setting("traces") {
            plan.traces = base.traces.clone();
        }
        if setting("admin") {
            plan.admin = base.admin.clone();
        }
        put(&mut plan.listeners, &base.listeners, |listener| listener.name.clone(), |name| is_bad(ItemKind::Listener, name));
        if plan.listeners.is_empty() {
            plan.listeners.clone_from(&base.listeners);
        }
        put(&mut plan.services, &base.services, |service| service.name.clone(), |name| wants(ItemKind::Service, name));
        put(&mut plan.plugins, &base.plugins, |plugin| plugin.name.clone(), |name| wants(ItemKind::Plugin, name));
        // What a plugin that stays may call.
        let called: HashSet<Arc<str>> = plan.plugins.iter().flat_map(|plugin| plugin.http_services.iter().cloned()).collect();
        let have: HashSet<Arc<str>> = plan.services.iter().map(|service| service.name.clone()).collect();
        put(&mut plan.services, &base.services, |service| service.name.clone(), |name| called.contains(name) && !have.contains(name));
        put(&mut plan.routes, &base.routes, |route| route.name.clone(), |name| held.contains_key(name));
        Settled { plan, held: made }
    }
}

/// Takes the items that stay from `base`, in the place of their new versions or behind what they stood behind, and leaves
/// out those that were never there.
fn put<T: Clone>(list: &mut Vec<T>, base: &[T], name: impl Fn(&T) -> Arc<str>, stays: impl Fn(&str) -> bool) {
    let old: HashMap<Arc<str>, &T> = base.iter().map(|item| (name(item), item)).collect();
    list.retain_mut(|item| {
        let named = name(item);
        if !stays(&named) {
            return true;
        }
        match old.get(&named) {
            Some(last_good) => {
                *item = (*last_good).clone();
                true
            }
            None => false,
        }
    });
    let have: HashSet<Arc<str>> = list.iter().map(&name).collect();
    let mut before: Option<Arc<str>> = None;
    for item in base {
        let named = name(item);
        if stays(&named) && !have.contains(&named) {
            let at = before.as_ref().and_then(|before| list.iter().position(|item| name(item) == *before)).map_or(0, |at| at + 1);
            list.insert(at, item.clone());
            before = Some(named);
        } else if have.contains(&named) {
            before = Some(named);
        }
    }
}

impl Pair<'_> {
    /// May a request be taken by a version of one and by a version of the other?
    fn meets(&self, other: &Pair<'_>) -> bool {
        let versions = |pair: &Self| [pair.old, pair.new].into_iter().flatten().map(|route| &route.matches).collect::<Vec<_>>();
        let others: Vec<&RouteMatch> = [other.old, other.new].into_iter().flatten().map(|route| &route.matches).collect();
        versions(self).iter().any(|one| others.iter().any(|two| overlap(one, two)))
    }
}

impl Pair<'_> {
    /// May the older version of `self` serve beside the newer one of `moved`? They may where one of the two takes every request
    /// that both fit, whichever versions of them are compared: then the other one's version makes no difference there, and
    /// elsewhere only one of them is asked.
    fn is_told_apart_from(&self, moved: &Pair<'_>) -> bool {
        let all = |pair: &Pair<'_>| [pair.old, pair.new].into_iter().flatten().map(|route| route.matches.clone()).collect::<Vec<_>>();
        let same = |pair: &Pair<'_>| match (pair.old, pair.new) {
            (Some(old), Some(new)) => old.matches == new.matches,
            _ => true,
        };
        let beats = |one: &RouteMatch, others: &[RouteMatch]| others.iter().all(|other| beats(one, other));
        let stays = self.old.is_some_and(|old| same(self) && beats(&old.matches, &all(moved)));
        let moves = moved.new.is_some_and(|new| same(moved) && beats(&new.matches, &all(self)));
        stays || moves
    }
}

/// Does the first take every request that both fit? In doubt it does not.
fn beats(one: &RouteMatch, other: &RouteMatch) -> bool {
    // One that also looks at anything else may pass a request on.
    let bare = RouteMatch { hosts: one.hosts.clone(), path: one.path.clone(), priority: one.priority, ..RouteMatch::default() };
    if bare != *one {
        return false;
    }
    if one.priority != other.priority {
        return one.priority > other.priority;
    }
    let plain = |path: &PathPattern| match path {
        PathPattern::Exact(path) | PathPattern::Prefix(path) => !path.contains(['%', ';']),
        PathPattern::Template(_) | PathPattern::Regex(_) => false,
    };
    let exact = |hosts: &[HostPattern]| hosts.iter().all(|host| matches!(host, HostPattern::Exact(_)));
    let below = |hosts: &[HostPattern]| hosts.iter().all(|host| matches!(host, HostPattern::Below(_)));
    if one.hosts != other.hosts {
        let is_any = |hosts: &[HostPattern]| hosts.is_empty();
        return !is_any(&one.hosts) && (is_any(&other.hosts) || (exact(&one.hosts) && below(&other.hosts)));
    }
    let depth = |path: &str| path.split('/').filter(|part| !part.is_empty()).count();
    plain(&one.path)
        && plain(&other.path)
        && match (&one.path, &other.path) {
            (PathPattern::Exact(_), PathPattern::Prefix(_)) => true,
            (PathPattern::Prefix(one), PathPattern::Prefix(other)) => depth(one) > depth(other),
            _ => false,
        }
}

/// May both take the same request? In doubt they may.
fn overlap(one: &RouteMatch, two: &RouteMatch) -> bool {
    let hosts = one.hosts.is_empty() || two.hosts.is_empty() || one.hosts.iter().any(|a| two.hosts.iter().any(|b| hosts_meet(a, b)));
    hosts && paths_meet(&one.path, &two.path)
}

fn hosts_meet(one: &HostPattern, two: &HostPattern) -> bool {
    let below = |name: &str, above: &str| name.strip_suffix(above).is_some_and(|rest| rest.ends_with('.'));
    match (one, two) {
        (HostPattern::Exact(a), HostPattern::Exact(b)) => a == b,
        (HostPattern::Below(above), HostPattern::Exact(name)) | (HostPattern::Exact(name), HostPattern::Below(above)) => below(name, above),
        (HostPattern::Below(a), HostPattern::Below(b)) => a == b || below(a, b) || below(b, a),
    }
}

fn paths_meet(one: &PathPattern, two: &PathPattern) -> bool {
    // Only plain segments are told apart: what stands behind a `%` or `;` may be read as another path.
    let plain = |path: &str| !path.contains(['%', ';']);
    let segments = |path: &str| -> Vec<String> { path.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect() };
    match (one, two) {
        (PathPattern::Exact(a), PathPattern::Exact(b)) => a == b || !plain(a) || !plain(b),
        (PathPattern::Prefix(a), PathPattern::Prefix(b)) => {
            let (left, right) = (segments(a), segments(b));
            let shared = left.len().min(right.len());
            left.get(..shared) == right.get(..shared) || !plain(a) || !plain(b)
        }
        (PathPattern::Prefix(prefix), PathPattern::Exact(path)) | (PathPattern::Exact(path), PathPattern::Prefix(prefix)) => {
            let (above, below) = (segments(prefix), segments(path));
            below.get(..above.len()) == Some(above.as_slice()) || !plain(prefix) || !plain(path)
        }
        (PathPattern::Template(_) | PathPattern::Regex(_), _) | (_, PathPattern::Template(_) | PathPattern::Regex(_)) => true,
    }
}
