//! Which route does a request take? Compiled once for a generation, asked once for a request.
//!
//! Pure: no clock, no I/O, nothing allocated while looking (but for a path with `%` or `;` in it that a regular expression
//! or a template is compared with). It does not know what a route leads to; an index is all it gives. The order in which
//! routes are tried is fixed and can be explained:
//!
//! 1. the higher `priority`, whatever else;
//! 2. the host: exact, then the longer `*.` pattern, then any host;
//! 3. the path, segment by segment from the left; in the first one in which two routes differ: a written segment, then a
//!    template's name, then a path that ends there, then a regular expression that begins there, then a prefix that ends
//!    there;
//! 4. more tests (headers, query, cookies, scheme, source, listener); a list of methods before none; the place in the configuration.
//!
//! A route whose method or tests say no is passed over, and so is a host or a path under which nothing fits: the
//! next less specific one is tried, so adding a route for one host takes nothing away from the routes for all hosts.
//!
//! Paths are canonical on both sides (`wharf_core::path`) and case-sensitive. They are walked segment by segment in a
//! tree ([`tree`]). A segment that no route names as it stands is compared once more as a careless upstream would read it
//! (`wharf_core::path::carelessly`): else `/admin;x` would walk around the rules of `/admin`. Where such an upstream sees the
//! end of the path it ends for us, too: else `/admin%3F/public` would take the rules of `/admin/public` to `/admin`. What
//! that means for templates and regular expressions is in [`path`].

mod hosts;
mod path;
mod test;
#[cfg(test)]
mod tests;
mod tree;

pub use crate::pattern::{PATTERN_BYTES_MAX, Pattern};
pub use hosts::{HOST_BYTES_MAX, HostPattern, HostTable, host_of};
pub(crate) use path::behind;
pub use path::{CAPTURES_MAX, PathPattern, Template, is_capture_name};
pub use test::{Test, Wanted};
pub(crate) use test::{arguments, cookies, decoded};

use hosts::above;
use std::fmt;
use std::net::IpAddr;
use tree::{Asked, Map, Tree, bit};
use wharf_core::head::{Method, RequestHead};

/// What a request must look like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteMatch {
    /// One of these; empty: any host.
    pub hosts: Vec<HostPattern>,
    /// The path.
    pub path: PathPattern,
    /// One of these; empty: any method. `GET` includes `HEAD`.
    pub methods: Vec<Method>,
    /// All of these.
    pub tests: Vec<Test>,
    /// Higher is tried first, whatever else the routes say.
    pub priority: i32,
}

/// Where a request came from and in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival<'a> {
    /// The client's address.
    pub client: IpAddr,
    /// The name of the listener; empty where nobody asks for it.
    pub listener: &'a str,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The route with this index in the list that was compiled.
    Route(usize),
    /// Host, path and tests fit a route, and the method does not: 405.
    MethodRefused,
    /// Nothing fits: 404.
    Nothing,
}

impl Found {
    /// The index of the route, if there is one.
    pub fn route(self) -> Option<usize> {
        match self {
            Found::Route(at) => Some(at),
            Found::MethodRefused | Found::Nothing => None,
        }
    }
}

/// Why a route was taken or passed over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Everything fits. The first of these in [`Routes::explain`] is the one that is taken.
    Fits,
    /// For other hosts.
    Host,
    /// For other paths.
    Path,
    /// The test of this says no.
    Test(Box<str>),
    /// For other methods; all else fits.
    Method,
}

/// One route's part in the explanation of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Index of the route.
    pub route: usize,
    /// What became of it.
    pub verdict: Verdict,
}

/// A compiled table. Shared by all cores, never changed.
#[derive(Debug, Default)]
pub struct Routes {
    levels: Vec<Level>,
    tree: Tree,
    matches: Vec<RouteMatch>,
    /// Some route names a host.
    by_host: bool,
}

/// All routes of one priority. The numbers are roots in `Routes::tree`.
#[derive(Debug)]
struct Level {
    priority: i32,
    exact: Map,
    below: Map,
    any: Option<u32>,
}

impl Routes {
    /// Compiles a table. The order of the list decides only between routes that are equal in everything else.
    pub fn compile(matches: Vec<RouteMatch>) -> Routes {
        let mut routes = Routes { by_host: matches.iter().any(|route| !route.hosts.is_empty()), ..Routes::default() };
        for (at, route) in matches.iter().enumerate() {
            if route.hosts.is_empty() {
                let root = routes.root(route.priority, None);
                routes.tree.insert(root, at, route);
            }
            for host in &route.hosts {
                let root = routes.root(route.priority, Some(host));
                routes.tree.insert(root, at, route);
            }
        }
        routes.levels.sort_by_key(|level| std::cmp::Reverse(level.priority));
        routes.tree.finish();
        routes.matches = matches;
        routes
    }

    /// How many routes there are.
    pub fn len(&self) -> usize {
        self.matches.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.matches.is_empty()
    }

    /// What a route's requests look like.
    pub fn matches(&self, route: usize) -> Option<&RouteMatch> {
        self.matches.get(route)
    }

    /// The route for a request that came so.
    pub fn find(&self, head: &RequestHead, from: Arrival<'_>) -> Found {
        self.find_as(head, from, &head.method)
    }

    /// The same, had the request another method: for those that ask what they may ask.
    pub(crate) fn find_as(&self, head: &RequestHead, from: Arrival<'_>, method: &Method) -> Found {
        // Tables without hosts, the usual small ones, need not look at it.
        let host = if self.by_host { host_of(head.authority_bytes()) } else { b"" };
        let path = head.path_bytes().get(1..);
        let mut asked = Asked { head, from: &from, method, bit: bit(method), refused: false };
        for level in &self.levels {
            if host.len() <= HOST_BYTES_MAX {
                if !level.exact.is_empty()
                    && let Some(&root) = level.exact.get(host)
                    && let Some(route) = self.tree.walk(root, path, &mut asked)
                {
                    return Found::Route(route);
                }
                if !level.below.is_empty() {
                    for name in above(host) {
                        if let Some(&root) = level.below.get(name)
                            && let Some(route) = self.tree.walk(root, path, &mut asked)
                        {
                            return Found::Route(route);
                        }
                    }
                }
            }
            if let Some(root) = level.any
                && let Some(route) = self.tree.walk(root, path, &mut asked)
            {
                return Found::Route(route);
            }
        }
        if asked.refused { Found::MethodRefused } else { Found::Nothing }
    }

    /// Do the same routes hold for both of these hosts (without ports, lower case)?
    pub(crate) fn same_hosts(&self, one: &[u8], other: &[u8]) -> bool {
        self.levels.iter().all(|level| level.roots(one).eq(level.roots(other)))
    }

    /// The value of `allow` for a request that [`Found::MethodRefused`] was said to: the methods of the routes that
    /// fit otherwise.
    pub fn allow(&self, head: &RequestHead, from: Arrival<'_>) -> String {
        let mut methods: Vec<&str> = Vec::new();
        for judged in self.explain(head, from) {
            if judged.verdict == Verdict::Method
                && let Some(route) = self.matches.get(judged.route)
            {
                for method in &route.methods {
                    methods.push(method.as_str());
                    if *method == Method::Get {
                        methods.push("HEAD");
                    }
                }
            }
        }
        methods.sort_unstable();
        methods.dedup();
        methods.join(", ")
    }

    /// What becomes of a request, route by route: those for its host and path in the order they are tried, then all
    /// others. For people; costs as much as there are routes.
    pub fn explain(&self, head: &RequestHead, from: Arrival<'_>) -> Vec<Judged> {
        let host = std::str::from_utf8(host_of(head.authority().as_bytes())).unwrap_or_default();
        let mut ranked = Vec::new();
        for (at, route) in self.matches.iter().enumerate() {
            let host_rank = route.host_rank(host);
            let path_rank = route.path.rank(head.path());
            let verdict = if host_rank.is_none() {
                Verdict::Host
            } else if path_rank.is_none() {
                Verdict::Path
            } else if let Some(test) = route.tests.iter().find(|test| !test.fits(head, from)) {
                Verdict::Test(test.to_string().into())
            } else if !route.takes_method(&head.method) {
                Verdict::Method
            } else {
                Verdict::Fits
            };
            let rank =
                host_rank.zip(path_rank).map(|(host, path)| (route.priority, host, path, route.tests.len(), !route.methods.is_empty()));
            ranked.push((rank, Judged { route: at, verdict }));
        }
        // Stable: equal routes stay in the order of the configuration.
        ranked.sort_by(|(left, _), (right, _)| right.cmp(left));
        ranked.into_iter().map(|(_, judged)| judged).collect()
    }

    /// The tree of a host at a priority, made if it is new.
    fn root(&mut self, priority: i32, host: Option<&HostPattern>) -> u32 {
        let next = self.tree.next();
        let at = self.levels.iter().position(|level| level.priority == priority);
        let level = match at.and_then(|at| self.levels.get_mut(at)) {
            Some(level) => level,
            None => {
                self.levels.push(Level { priority, exact: Map::default(), below: Map::default(), any: None });
                let Some(level) = self.levels.last_mut() else { return next };
                level
            }
        };
        let root = match host {
            None => *level.any.get_or_insert(next),
            Some(HostPattern::Exact(host)) => *level.exact.entry(host.as_bytes().into()).or_insert(next),
            Some(HostPattern::Below(host)) => *level.below.entry(host.as_bytes().into()).or_insert(next),
        };
        if root == next {
            self.tree.add_root();
        }
        root
    }
}

impl Level {
    /// The trees for a host, in the order they are walked.
    fn roots(&self, host: &[u8]) -> impl Iterator<Item = u32> {
        let named = host.len() <= HOST_BYTES_MAX;
        let exact = self.exact.get(host).filter(|_| named).copied();
        let below = above(host).filter(move |_| named).filter_map(|name| self.below.get(name).copied());
        exact.into_iter().chain(below).chain(self.any)
    }
}

impl RouteMatch {
    /// How exactly this route names the host; `None`: it is for others.
    fn host_rank(&self, host: &str) -> Option<usize> {
        if self.hosts.is_empty() {
            return Some(0);
        }
        self.hosts.iter().filter_map(|pattern| pattern.rank(host)).max()
    }

    fn takes_method(&self, method: &Method) -> bool {
        self.methods.is_empty() || self.methods.contains(method) || (*method == Method::Head && self.methods.contains(&Method::Get))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Fits => f.write_str("fits"),
            Verdict::Host => f.write_str("is for other hosts"),
            Verdict::Path => f.write_str("is for other paths"),
            Verdict::Test(of) => write!(f, "its test of {of} says no"),
            Verdict::Method => f.write_str("is for other methods"),
        }
    }
}
