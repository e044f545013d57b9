//! Which route does a request take? Compiled once for a generation, asked once for a request.
//!
//! Pure: no clock, no I/O, nothing allocated while looking. It does not know what a route leads to; an index is all it
//! gives. The order in which routes are tried is fixed and can be explained:
//!
//! 1. the higher `priority`, whatever else;
//! 2. the host: exact, then the longer `*.` pattern, then any host;
//! 3. the path: exact, then the prefix with more segments;
//! 4. more header tests; a list of methods before none; the place in the configuration.
//!
//! A route whose method or header tests say no is passed over, and so is a host or a path under which nothing fits: the
//! next less specific one is tried, so adding a route for one host takes nothing away from the routes for all hosts.
//!
//! Paths are canonical on both sides (`wharf_core::path`) and case-sensitive. They are walked segment by segment in a
//! tree, so a request costs at most the depth of the tree, however many routes there are and however long its path is.
//! A segment that no route names as it stands is compared once more as a careless upstream would read it
//! (`wharf_core::path::carelessly`): else `/admin;x` would walk around the rules of `/admin`. Where such an upstream sees the
//! end of the path it ends for us, too: else `/admin%3F/public` would take the rules of `/admin/public` to `/admin`.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::hash::{BuildHasherDefault, Hasher};
use wharf_core::head::{Method, RequestHead};
use wharf_core::path::carelessly;

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
    pub headers: Vec<HeaderTest>,
    /// Higher is tried first, whatever else the routes say.
    pub priority: i32,
}

/// A host, lower case, without port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// This host.
    Exact(Box<str>),
    /// Every host below this one: `example.com` for `*.example.com`. One or more labels, never none.
    Below(Box<str>),
}

/// A canonical path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathPattern {
    /// This path; a `/` at the end counts.
    Exact(Box<str>),
    /// This path and all below it, by whole segments: `/a` takes `/a`, `/a/` and `/a/b`, never `/ab`. A `/` at the end
    /// of the pattern does not count: else `/admin` would walk around the rules of `/admin/`.
    Prefix(Box<str>),
}

impl Default for PathPattern {
    fn default() -> PathPattern {
        PathPattern::Prefix("/".into())
    }
}

/// A test of one request field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderTest {
    /// Lower-case name.
    pub name: Box<str>,
    /// One field of that name has exactly this value; `None`: there is one.
    pub value: Option<Box<[u8]>>,
}

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The route with this index in the list that was compiled.
    Route(usize),
    /// Host, path and headers fit a route, and the method does not: 405.
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
    /// This header test says no.
    Header(Box<str>),
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
    nodes: Vec<Node>,
    matches: Vec<RouteMatch>,
    /// Some route names a host.
    by_host: bool,
}

/// All routes of one priority. The numbers are roots in `Routes::nodes`.
#[derive(Debug)]
struct Level {
    priority: i32,
    exact: Map,
    below: Map,
    any: Option<u32>,
}

/// One segment of the paths of one host.
#[derive(Debug, Default)]
struct Node {
    /// Up to [`FEW`] children are compared one by one; more are hashed.
    few: Vec<(Box<[u8]>, u32)>,
    many: Map,
    exact: Vec<Candidate>,
    prefix: Vec<Candidate>,
    parent: Option<u32>,
    /// The nearest node above that has prefix routes.
    up: Option<u32>,
}

#[derive(Debug)]
struct Candidate {
    route: u32,
    methods: u16,
    other_methods: Box<[Box<str>]>,
    headers: Box<[HeaderTest]>,
    any_method: bool,
}

const FEW: usize = 8;
/// Longest name that DNS has room for; longer hosts fit no pattern, so they need not be looked up.
pub const HOST_BYTES_MAX: usize = 253;

type Map = HashMap<Box<[u8]>, u32, BuildHasherDefault<Mix>>;

impl Routes {
    /// Compiles a table. The order of the list decides only between routes that are equal in everything else.
    pub fn compile(matches: Vec<RouteMatch>) -> Routes {
        let mut routes =
            Routes { by_host: matches.iter().any(|route| !route.hosts.is_empty()), levels: Vec::new(), nodes: Vec::new(), matches };
        let matches = std::mem::take(&mut routes.matches);
        for (at, route) in matches.iter().enumerate() {
            if route.hosts.is_empty() {
                let root = routes.root(route.priority, None);
                routes.insert(root, at, route);
            }
            for host in &route.hosts {
                let root = routes.root(route.priority, Some(host));
                routes.insert(root, at, route);
            }
        }
        routes.levels.sort_by_key(|level| std::cmp::Reverse(level.priority));
        for node in &mut routes.nodes {
            for list in [&mut node.exact, &mut node.prefix] {
                list.sort_by_key(|candidate| (std::cmp::Reverse(candidate.headers.len()), candidate.any_method, candidate.route));
                list.dedup_by_key(|candidate| candidate.route);
            }
        }
        // Parents stand before their children, so one pass hands the links down.
        for at in 0..routes.nodes.len() {
            let Some(parent) = routes.nodes.get(at).and_then(|node| node.parent) else { continue };
            let up = routes.nodes.get(parent as usize).and_then(|node| if node.prefix.is_empty() { node.up } else { Some(parent) });
            if let Some(node) = routes.nodes.get_mut(at) {
                node.up = up;
            }
        }
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

    /// The route for a request. Allocates nothing.
    pub fn find(&self, head: &RequestHead) -> Found {
        // Tables without hosts, the usual small ones, need not look at it.
        let host = if self.by_host { host_of(head.authority_bytes()) } else { b"" };
        let path = head.path_bytes();
        let method = bit(&head.method);
        let mut refused = false;
        for level in &self.levels {
            if host.len() <= HOST_BYTES_MAX {
                if !level.exact.is_empty()
                    && let Some(&root) = level.exact.get(host)
                    && let Some(route) = self.walk(root, path, method, head, &mut refused)
                {
                    return Found::Route(route);
                }
                if !level.below.is_empty() {
                    for name in above(host) {
                        if let Some(&root) = level.below.get(name)
                            && let Some(route) = self.walk(root, path, method, head, &mut refused)
                        {
                            return Found::Route(route);
                        }
                    }
                }
            }
            if let Some(root) = level.any
                && let Some(route) = self.walk(root, path, method, head, &mut refused)
            {
                return Found::Route(route);
            }
        }
        if refused { Found::MethodRefused } else { Found::Nothing }
    }

    /// Do the same routes hold for both of these hosts (without ports, lower case)?
    pub(crate) fn same_hosts(&self, one: &[u8], other: &[u8]) -> bool {
        self.levels.iter().all(|level| level.roots(one).eq(level.roots(other)))
    }

    /// The value of `allow` for a request that [`Found::MethodRefused`] was said to: the methods of the routes that
    /// fit otherwise.
    pub fn allow(&self, head: &RequestHead) -> String {
        let mut methods: Vec<&str> = Vec::new();
        for judged in self.explain(head) {
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
    pub fn explain(&self, head: &RequestHead) -> Vec<Judged> {
        let host = std::str::from_utf8(host_of(head.authority().as_bytes())).unwrap_or_default();
        let mut ranked = Vec::new();
        for (at, route) in self.matches.iter().enumerate() {
            let host_rank = route.host_rank(host);
            let path_rank = route.path.rank(head.path());
            let verdict = if host_rank.is_none() {
                Verdict::Host
            } else if path_rank.is_none() {
                Verdict::Path
            } else if let Some(test) = route.headers.iter().find(|test| !test.fits(head)) {
                Verdict::Header(test.name.clone())
            } else if !route.takes_method(&head.method) {
                Verdict::Method
            } else {
                Verdict::Fits
            };
            let rank =
                host_rank.zip(path_rank).map(|(host, path)| (route.priority, host, path, route.headers.len(), !route.methods.is_empty()));
            ranked.push((rank, Judged { route: at, verdict }));
        }
        // Stable: equal routes stay in the order of the configuration.
        ranked.sort_by(|(left, _), (right, _)| right.cmp(left));
        ranked.into_iter().map(|(_, judged)| judged).collect()
    }

    /// The tree of a host at a priority, made if it is new.
    fn root(&mut self, priority: i32, host: Option<&HostPattern>) -> u32 {
        let next = self.nodes.len() as u32;
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
            self.nodes.push(Node::default());
        }
        root
    }

    fn insert(&mut self, root: u32, at: usize, route: &RouteMatch) {
        let (path, exact) = match &route.path {
            PathPattern::Exact(path) => (&**path, true),
            PathPattern::Prefix(path) => (path.trim_end_matches('/'), false),
        };
        let mut node = root;
        if let Some(segments) = path.strip_prefix('/') {
            for segment in segments.split('/') {
                node = self.child_or_new(node, segment.as_bytes());
            }
        }
        let mut methods = 0;
        for method in &route.methods {
            methods |= bit(method);
        }
        if methods & bit(&Method::Get) != 0 {
            methods |= bit(&Method::Head);
        }
        let others = route.methods.iter().filter_map(|method| if let Method::Other(token) = method { Some(token.clone()) } else { None });
        let candidate = Candidate {
            route: at as u32,
            methods: if route.methods.is_empty() { u16::MAX } else { methods },
            other_methods: others.collect(),
            headers: route.headers.clone().into(),
            any_method: route.methods.is_empty(),
        };
        if let Some(node) = self.nodes.get_mut(node as usize) {
            if exact { node.exact.push(candidate) } else { node.prefix.push(candidate) }
        }
    }

    fn child_or_new(&mut self, parent: u32, segment: &[u8]) -> u32 {
        let next = self.nodes.len() as u32;
        let Some(node) = self.nodes.get_mut(parent as usize) else { return parent };
        if let Some((child, _)) = node.child(segment) {
            return child;
        }
        if node.many.is_empty() && node.few.len() < FEW {
            node.few.push((segment.into(), next));
        } else {
            node.many.extend(node.few.drain(..));
            node.many.insert(segment.into(), next);
        }
        self.nodes.push(Node { parent: Some(parent), ..Node::default() });
        next
    }

    fn walk(&self, root: u32, path: &[u8], method: u16, head: &RequestHead, refused: &mut bool) -> Option<usize> {
        let mut node = self.nodes.get(root as usize)?;
        let mut rest = path.get(1..);
        while let Some(segments) = rest
            && !node.is_leaf()
        {
            let (child, behind) = match node.child(segments) {
                Some((child, behind)) => (Some(child), behind),
                None => match node.child_loosely(segments) {
                    Some(found) => found,
                    None => break,
                },
            };
            rest = behind;
            if let Some(child) = child {
                let Some(child) = self.nodes.get(child as usize) else { break };
                node = child;
            }
        }
        if rest.is_none()
            && let Some(route) = pick(&node.exact, method, head, refused)
        {
            return Some(route);
        }
        let mut at = Some(node);
        while let Some(node) = at {
            if let Some(route) = pick(&node.prefix, method, head, refused) {
                return Some(route);
            }
            at = node.up.and_then(|up| self.nodes.get(up as usize));
        }
        None
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

/// Which of several host patterns is the most specific one for a host? For what differs by host within a route.
#[derive(Debug, Default)]
pub struct HostTable {
    exact: Map,
    below: Map,
}

impl HostTable {
    /// Compiles a table; of equal patterns the first counts.
    pub fn compile(patterns: &[HostPattern]) -> HostTable {
        let mut table = HostTable::default();
        for (at, pattern) in patterns.iter().enumerate() {
            let (map, host) = match pattern {
                HostPattern::Exact(host) => (&mut table.exact, host),
                HostPattern::Below(host) => (&mut table.below, host),
            };
            map.entry(host.as_bytes().into()).or_insert(at as u32);
        }
        table
    }

    /// The index of the most specific pattern: exact, then the longer `*.` pattern. Allocates nothing.
    pub fn find(&self, authority: &str) -> Option<usize> {
        let host = host_of(authority.as_bytes());
        if host.len() > HOST_BYTES_MAX {
            return None;
        }
        let exact = self.exact.get(host);
        exact.or_else(|| above(host).find_map(|name| self.below.get(name))).map(|&at| at as usize)
    }
}

/// The names above a host, the longest first: `b.c`, `c` for `a.b.c`.
fn above(host: &[u8]) -> impl Iterator<Item = &[u8]> {
    let behind_dot = |name: &[u8]| name.iter().position(|&byte| byte == b'.').map(|dot| dot + 1);
    std::iter::successors(behind_dot(host).and_then(|at| host.get(at..)), move |name| behind_dot(name).and_then(|at| name.get(at..)))
}

impl Node {
    fn is_leaf(&self) -> bool {
        self.few.is_empty() && self.many.is_empty()
    }

    /// The child that the first of these segments names, and the segments behind it; `None` there: it was the last.
    fn child<'p>(&self, segments: &'p [u8]) -> Option<(u32, Option<&'p [u8]>)> {
        if self.many.is_empty() {
            // The end of the segment need not be looked for: it must be where the child's name ends.
            for (name, child) in &self.few {
                match segments.get(name.len()) {
                    None if **name == *segments => return Some((*child, None)),
                    Some(b'/') if segments.starts_with(name) => return Some((*child, segments.get(name.len() + 1..))),
                    _ => {}
                }
            }
            return None;
        }
        let end = segments.iter().position(|&byte| byte == b'/');
        let segment = end.and_then(|end| segments.get(..end)).unwrap_or(segments);
        let child = *self.many.get(segment)?;
        Some((child, end.and_then(|end| segments.get(end + 1..))))
    }

    /// The same for the careless reading of the first segment. No child: it reads as empty, so it counts for nothing.
    #[cold]
    fn child_loosely<'p>(&self, segments: &'p [u8]) -> Option<(Option<u32>, Option<&'p [u8]>)> {
        let mut halves = segments.splitn(2, |&byte| byte == b'/');
        let read = carelessly(halves.next()?)?;
        let behind = halves.next().filter(|_| !read.ends);
        if read.name.is_empty() && behind.is_some() {
            return Some((None, behind));
        }
        // An empty name at the end is a `/` at the end.
        self.child(&read.name).map(|(child, _)| (Some(child), behind))
    }
}

/// What stands behind a prefix that the path begins with, by whole segments and as [`Routes::find`] compares them; the
/// prefix without a `/` at its end. Nothing, where a careless upstream sees the end of the path in the prefix: what is
/// behind must not lead where `find` has not looked.
pub(crate) fn behind<'p>(path: &'p str, prefix: &str) -> Option<&'p str> {
    let is_whole = |rest: &&str| rest.is_empty() || rest.starts_with('/');
    if let Some(rest) = path.strip_prefix(prefix).filter(is_whole) {
        return Some(rest);
    }
    let mut rest = path;
    for wanted in prefix.split('/').skip(1) {
        loop {
            rest = rest.strip_prefix('/')?;
            let (segment, tail) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            rest = tail;
            if segment == wanted {
                break;
            }
            let read = carelessly(segment.as_bytes())?;
            if read.ends {
                rest = "";
            }
            if read.name.is_empty() && !rest.is_empty() {
                continue;
            }
            if read.name != wanted.as_bytes() {
                return None;
            }
            break;
        }
    }
    Some(rest)
}

fn pick(candidates: &[Candidate], method: u16, head: &RequestHead, refused: &mut bool) -> Option<usize> {
    for candidate in candidates {
        let takes = candidate.methods & method != 0
            && (candidate.any_method || method != OTHER || candidate.other_methods.iter().any(|token| **token == *head.method.as_str()));
        if takes {
            if candidate.headers.iter().all(|test| test.fits(head)) {
                return Some(candidate.route as usize);
            }
        } else if !*refused {
            *refused = candidate.headers.iter().all(|test| test.fits(head));
        }
    }
    None
}

impl RouteMatch {
    /// How exactly this route names the host; `None`: it is for others.
    fn host_rank(&self, host: &str) -> Option<usize> {
        if self.hosts.is_empty() {
            return Some(0);
        }
        let ranks = self.hosts.iter().filter_map(|pattern| match pattern {
            HostPattern::Exact(exact) => (**exact == *host).then_some(usize::MAX),
            HostPattern::Below(below) => host
                .len()
                .checked_sub(below.len() + 1)
                .filter(|&dot| host.ends_with(&**below) && host.as_bytes().get(dot) == Some(&b'.') && host.len() <= HOST_BYTES_MAX)
                .map(|_| below.len()),
        });
        ranks.max()
    }

    fn takes_method(&self, method: &Method) -> bool {
        self.methods.is_empty() || self.methods.contains(method) || (*method == Method::Head && self.methods.contains(&Method::Get))
    }
}

impl PathPattern {
    /// How exactly this pattern names the path; `None`: it does not fit.
    fn rank(&self, path: &str) -> Option<usize> {
        match self {
            PathPattern::Exact(exact) => (behind(path, exact) == Some("")).then_some(usize::MAX),
            PathPattern::Prefix(prefix) => {
                let prefix = prefix.trim_end_matches('/');
                behind(path, prefix).map(|_| prefix.len())
            }
        }
    }
}

impl HeaderTest {
    fn fits(&self, head: &RequestHead) -> bool {
        let mut values = head.fields.all(self.name.as_bytes());
        match &self.value {
            None => values.next().is_some(),
            Some(value) => values.any(|have| *have == **value),
        }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Verdict::Fits => f.write_str("fits"),
            Verdict::Host => f.write_str("is for other hosts"),
            Verdict::Path => f.write_str("is for other paths"),
            Verdict::Header(name) => {
                f.write_str("its test of header ")?;
                f.write_char('`')?;
                f.write_str(name)?;
                f.write_str("` says no")
            }
            Verdict::Method => f.write_str("is for other methods"),
        }
    }
}

/// The host of an authority: no port, no dot of the root at the end (`a.example.` is the same host as `a.example`).
pub fn host_of(authority: &[u8]) -> &[u8] {
    let mut at = authority.len();
    while let Some(&byte) = at.checked_sub(1).and_then(|at| authority.get(at)) {
        at -= 1;
        if byte == b':' {
            return without_root(authority.get(..at).unwrap_or_default());
        }
        if !byte.is_ascii_digit() {
            break;
        }
    }
    without_root(authority)
}

fn without_root(host: &[u8]) -> &[u8] {
    host.strip_suffix(b".").unwrap_or(host)
}

const OTHER: u16 = 1 << 9;

fn bit(method: &Method) -> u16 {
    match method {
        Method::Get => 1,
        Method::Head => 1 << 1,
        Method::Post => 1 << 2,
        Method::Put => 1 << 3,
        Method::Delete => 1 << 4,
        Method::Options => 1 << 5,
        Method::Patch => 1 << 6,
        Method::Connect => 1 << 7,
        Method::Trace => 1 << 8,
        Method::Other(_) => OTHER,
    }
}

/// A cheap hash. The keys are the operator's, never the client's, so nobody can fill a bucket from outside.
#[derive(Debug, Default)]
struct Mix(u64);

impl Mix {
    fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.add(u64::from_le_bytes(*word));
        }
        let mut last = 0;
        for &byte in rest {
            last = last << 8 | u64::from(byte);
        }
        self.add(last);
    }

    fn write_usize(&mut self, length: usize) {
        self.add(length as u64);
    }

    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(host: &str) -> HostPattern {
        HostPattern::Exact(host.into())
    }

    fn below(host: &str) -> HostPattern {
        HostPattern::Below(host.into())
    }

    fn prefix(path: &str) -> RouteMatch {
        RouteMatch { path: PathPattern::Prefix(path.into()), ..RouteMatch::default() }
    }

    fn whole(path: &str) -> RouteMatch {
        RouteMatch { path: PathPattern::Exact(path.into()), ..RouteMatch::default() }
    }

    fn get(authority: &str, path: &str) -> RequestHead {
        RequestHead::from_text(Method::Get, authority, path, None)
    }

    /// `expected`: index of the route, or -404, or -405.
    fn check(routes: &Routes, head: &RequestHead, expected: i64) {
        let found = match routes.find(head) {
            Found::Route(at) => at as i64,
            Found::MethodRefused => -405,
            Found::Nothing => -404,
        };
        assert_eq!(found, expected, "{} {}{}", head.method.as_str(), head.authority(), head.path());
    }

    #[test]
    fn the_most_specific_route_wins_and_the_rest_still_serve() {
        let routes = Routes::compile(vec![
            prefix("/"),
            prefix("/a"),
            whole("/a"),
            prefix("/a/b/"),
            RouteMatch { hosts: vec![exact("x.example")], ..prefix("/a") },
            RouteMatch { hosts: vec![below("example")], ..prefix("/c") },
            RouteMatch { hosts: vec![below("x.example")], ..prefix("/c") },
        ]);
        for (authority, path, expected) in [
            ("h", "/", 0),
            ("h", "/a", 2),
            ("h", "/a/", 1),
            ("h", "/ab", 0),
            ("h", "/a/b", 3),
            ("h", "/a/b/", 3),
            ("h", "/a/b/c", 3),
            ("h", "/a/bc", 1),
            ("h", "/A", 0),
            ("x.example", "/a", 4),
            ("x.example:8080", "/a", 4),
            ("x.example.", "/a", 4),
            ("x.example.:80", "/a/b", 4),
            ("x.example", "/b", 0),
            ("x.example", "/c", 5),
            ("y.x.example", "/c", 6),
            ("z.y.x.example", "/c", 6),
            ("example", "/c", 0),
            ("notexample", "/c", 0),
            ("[::1]", "/a", 2),
            ("[::1]:80", "/a", 2),
            ("", "/a", 2),
        ] {
            check(&routes, &get(authority, path), expected);
        }
    }

    #[test]
    fn a_wrong_method_is_told_from_a_wrong_path() {
        let routes = Routes::compile(vec![
            RouteMatch { methods: vec![Method::Get, Method::Other("PURGE".into())], ..prefix("/a") },
            RouteMatch { methods: vec![Method::Post], ..prefix("/a") },
            RouteMatch {
                methods: vec![Method::Put],
                headers: vec![HeaderTest { name: "x-t".into(), value: Some(b"1"[..].into()) }],
                ..prefix("/b")
            },
        ]);
        let ask = |method: Method, path: &str| RequestHead::from_text(method, "h", path, None);
        check(&routes, &ask(Method::Get, "/a"), 0);
        check(&routes, &ask(Method::Head, "/a"), 0);
        check(&routes, &ask(Method::Other("PURGE".into()), "/a"), 0);
        check(&routes, &ask(Method::Other("purge".into()), "/a"), -405);
        check(&routes, &ask(Method::Post, "/a"), 1);
        check(&routes, &ask(Method::Delete, "/a"), -405);
        check(&routes, &ask(Method::Get, "/c"), -404);
        assert_eq!(routes.allow(&ask(Method::Delete, "/a")), "GET, HEAD, POST, PURGE");
        // Without the header the route is not there at all, so the method is not what is wrong.
        check(&routes, &ask(Method::Put, "/b"), -404);
        let mut head = ask(Method::Put, "/b");
        head.fields.add(b"x-t", b"2");
        check(&routes, &head, -404);
        head.fields.add(b"x-t", b"1");
        check(&routes, &head, 2);
        head.method = Method::Get;
        check(&routes, &head, -405);
    }

    #[test]
    fn priority_is_above_everything() {
        let routes = Routes::compile(vec![
            RouteMatch { hosts: vec![exact("h")], ..whole("/a") },
            RouteMatch { priority: 5, headers: vec![HeaderTest { name: "x-debug".into(), value: None }], ..prefix("/") },
            RouteMatch { priority: -1, ..prefix("/") },
        ]);
        check(&routes, &get("h", "/a"), 0);
        check(&routes, &get("h", "/b"), 2);
        let mut head = get("h", "/a");
        head.fields.add(b"x-debug", b"");
        check(&routes, &head, 1);
        let said: Vec<_> = routes.explain(&get("h", "/a")).into_iter().map(|judged| (judged.route, judged.verdict)).collect();
        assert_eq!(said, [(1, Verdict::Header("x-debug".into())), (0, Verdict::Fits), (2, Verdict::Fits)]);
    }

    #[test]
    fn a_path_takes_the_route_that_a_careless_upstream_would_read() {
        let routes = Routes::compile(vec![
            prefix("/"),
            prefix("/admin"),
            prefix("/a;b"),
            prefix("/a"),
            prefix("/deep/er"),
            prefix("/admin/public"),
            whole("/whole"),
            prefix("/caf%C3%A0"),
            whole("/whole/"),
        ]);
        for (path, expected) in [
            ("/admin;x", 1),
            ("/admin;x=1/y;z", 1),
            ("/;/admin", 1),
            ("/;x/;y/admin;z", 1),
            ("/admin%3Bx", 1),
            ("/admin%253Bx", 1),
            ("/admin%3Fx", 1),
            ("/admin%23", 1),
            ("/admin%20", 1),
            ("/admin%0D%0Ax", 1),
            ("/%2561dmin/x", 1),
            ("/admin%20x", 0),
            ("/administrator;x", 0),
            ("/x;admin", 0),
            ("/x/admin;", 0),
            // What a route names as it stands goes before what it may be read as.
            ("/a;b/c", 2),
            ("/a;c", 3),
            ("/deep;x/er;y/z", 4),
            ("/deep;x/;/er", 4),
            ("/deep;x", 0),
            // Blanks that some take off.
            ("/admin%0B", 1),
            ("/admin%1C%1F", 1),
            ("/admin%85/x", 1),
            ("/admin%C2%A0", 1),
            ("/%A0admin", 1),
            // A name beyond ASCII is read as what it is.
            ("/caf%C3%A0", 7),
            ("/caf%C3%A0/x", 7),
            ("/caf%C3%A0;x", 7),
            ("/caf%C3%A0%A0", 7),
            ("/caf%C3", 0),
            // Where the path ends for some, no narrower route is looked for.
            ("/admin/public/x", 5),
            ("/admin;x/public;y", 5),
            ("/admin/public%3Fx", 5),
            ("/admin%3Fx/public", 1),
            ("/admin%253F/public", 1),
            ("/admin%23/public/x", 1),
            ("/admin/public%0D%0Ax", 5),
            ("/admin/pub%0Alic", 1),
            ("/admin;x%3F/public", 1),
            ("/admin/%3F/public", 1),
            ("/%3F/admin/public", 0),
            ("/x%3F/admin", 0),
            // A path that ends so fits an exact route, and one whose last name is empty ends with `/`.
            ("/whole%3F/x", 6),
            ("/whole;/x", 0),
            ("/whole/%3Fx", 8),
            ("/whole/;x", 8),
            ("/whole/;x/", 8),
            ("/whole/;x/y", 0),
        ] {
            check(&routes, &get("h", path), expected);
            let explained = routes.explain(&get("h", path)).into_iter().find(|judged| judged.verdict == Verdict::Fits);
            assert_eq!(explained.map(|judged| judged.route as i64), Some(expected), "explain {path}");
        }
        assert_eq!(behind("/a/b/c", "/a/b"), Some("/c"));
        assert_eq!(behind("/a;x/;/b;y/c;z", "/a/b"), Some("/c;z"));
        assert_eq!(behind("/a;x/bc", "/a/b"), None);
        assert_eq!(behind("/a;x", "/a/b"), None);
        // What such an upstream would not have read is not what is left of the path.
        assert_eq!(behind("/a%3Fx/b", "/a"), Some(""));
        assert_eq!(behind("/a/b%23/admin", "/a/b"), Some(""));
        assert_eq!(behind("/a%3Fx/b", "/a/b"), None);
        assert_eq!(behind("/a/b%3F/c", "/a"), Some("/b%3F/c"));
    }

    #[test]
    fn a_path_takes_the_route_of_what_is_left_of_it_in_a_careless_reading() {
        let names = ["admin", "public", "x", "", "caf%C3%A0"];
        let routes = Routes::compile(vec![
            prefix("/"),
            prefix("/admin"),
            prefix("/admin/public"),
            prefix("/admin/public/x"),
            prefix("/caf%C3%A0"),
            whole("/x/public"),
            whole("/x/public/"),
            prefix("/x/public/admin"),
        ]);
        let tails = ["", "", ";a", "%3Ba", "%3Fa", "%23", "%0D", "%0A", "%20", "%A0", "%C2%85", ";%3F", "%253F", "%20%23"];
        for seed in 0..60_000 {
            let mut seeded = Seeded(seed);
            // The same path twice: as it is sent, and as somebody reads it who knows nothing of this file.
            let (mut sent, mut read, mut ended) = (String::new(), String::new(), false);
            for _ in 0..=seeded.below(4) {
                let name = names[seeded.below(names.len())];
                let tail = tails[seeded.below(tails.len())];
                if name.is_empty() && tail.is_empty() {
                    continue;
                }
                sent += &format!("/{name}{tail}");
                if !ended {
                    // Nothing but a `/` is left of an empty name, and of that one of many.
                    if !read.ends_with('/') {
                        read.push('/');
                    }
                    read += name;
                    ended = ["%3F", "%23", "%0D", "%0A", "%253F"].iter().any(|end| tail.contains(end));
                }
            }
            // A CR or LF that is not in the last segment is refused.
            if !wharf_core::path::is_canonical(sent.as_bytes()) {
                continue;
            }
            let found = routes.find(&get("h", &sent));
            assert_eq!(found, routes.find(&get("h", &read)), "{sent} is read as {read}");
            let explained = routes.explain(&get("h", &sent)).into_iter().find(|judged| judged.verdict == Verdict::Fits);
            assert_eq!(found.route(), explained.map(|judged| judged.route), "explain {sent}");
        }
    }

    /// The rules of this file's head, as plainly as they can be written: look at all, keep the best.
    fn naive(matches: &[RouteMatch], head: &RequestHead) -> Found {
        let host = String::from_utf8(host_of(head.authority().as_bytes()).to_vec()).unwrap();
        let mut best: Option<(Vec<i64>, usize)> = None;
        let mut refused = false;
        for (at, route) in matches.iter().enumerate() {
            let mut host_rank = if route.hosts.is_empty() { Some(0) } else { None };
            for pattern in &route.hosts {
                let rank = match pattern {
                    HostPattern::Exact(exact) if **exact == *host => 1_000_000,
                    HostPattern::Below(below) if host.ends_with(&format!(".{below}")) => below.len() as i64,
                    _ => continue,
                };
                host_rank = host_rank.max(Some(rank));
            }
            let path_rank = match &route.path {
                PathPattern::Exact(exact) if **exact == *head.path() => 1_000_000,
                PathPattern::Prefix(prefix) => {
                    let want: Vec<&str> = prefix.split('/').skip(1).filter(|segment| !segment.is_empty()).collect();
                    let have: Vec<&str> = head.path().split('/').skip(1).collect();
                    if !have.starts_with(&want) {
                        continue;
                    }
                    want.len() as i64
                }
                _ => continue,
            };
            let Some(host_rank) = host_rank else { continue };
            let headers = route.headers.iter().all(|test| {
                let have: Vec<_> = head.fields.iter().filter(|(_, name, _)| *name == test.name.as_bytes()).collect();
                test.value.as_ref().map_or(!have.is_empty(), |value| have.iter().any(|(_, _, have)| *have == &**value))
            });
            if !headers {
                continue;
            }
            let method = route.methods.is_empty()
                || route.methods.contains(&head.method)
                || (head.method == Method::Head && route.methods.contains(&Method::Get));
            if !method {
                refused = true;
                continue;
            }
            let rank = vec![
                i64::from(route.priority),
                host_rank,
                path_rank,
                route.headers.len() as i64,
                i64::from(!route.methods.is_empty()),
                -(at as i64),
            ];
            if best.as_ref().is_none_or(|(have, _)| rank > *have) {
                best = Some((rank, at));
            }
        }
        match best {
            Some((_, at)) => Found::Route(at),
            None if refused => Found::MethodRefused,
            None => Found::Nothing,
        }
    }

    #[test]
    fn of_several_host_patterns_the_most_specific_counts() {
        let table = HostTable::compile(&[below("x"), exact("a.x"), below("b.x"), exact("x")]);
        for (authority, expected) in [
            ("a.x", Some(1)),
            ("a.x:80", Some(1)),
            ("c.x", Some(0)),
            ("b.x", Some(0)),
            ("d.b.x", Some(2)),
            ("x", Some(3)),
            ("y", None),
            ("", None),
        ] {
            assert_eq!(table.find(authority), expected, "{authority}");
        }
    }

    struct Seeded(u64);

    impl Seeded {
        fn below(&mut self, bound: usize) -> usize {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ z >> 31) % bound as u64) as usize
        }

        fn path(&mut self) -> String {
            let mut path = String::new();
            for _ in 0..=self.below(4) {
                path.push('/');
                path.push_str(["a", "b", "ab", "c", "d", "e", "f", "g", "h", "i", "j"][self.below(11)]);
            }
            match self.below(6) {
                0 => "/".into(),
                1 => path + "/",
                _ => path,
            }
        }

        fn host(&mut self) -> String {
            ["a.x", "b.x", "x", "c.a.x", "d.c.a.x", "y", "ax", "b.y"][self.below(8)].into()
        }

        fn method(&mut self) -> Method {
            [Method::Get, Method::Head, Method::Post, Method::Other("PURGE".into()), Method::Other("LIST".into())][self.below(5)].clone()
        }
    }

    #[test]
    fn the_tree_says_what_looking_at_every_route_would_say() {
        for seed in 0..3000 {
            let mut seeded = Seeded(seed);
            let matches: Vec<RouteMatch> = (0..seeded.below(40))
                .map(|_| RouteMatch {
                    hosts: (0..seeded.below(3))
                        .map(|_| if seeded.below(2) == 0 { exact(&seeded.host()) } else { below(&seeded.host()) })
                        .collect(),
                    path: if seeded.below(3) == 0 {
                        PathPattern::Exact(seeded.path().into())
                    } else {
                        PathPattern::Prefix(seeded.path().into())
                    },
                    methods: (0..seeded.below(3)).map(|_| seeded.method()).collect(),
                    headers: (0..seeded.below(4) / 2)
                        .map(|_| HeaderTest {
                            name: ["x-a", "cookie"][seeded.below(2)].into(),
                            value: [None, Some(b"1"[..].into())][seeded.below(2)].clone(),
                        })
                        .collect(),
                    priority: [0, 0, 0, 7, -1][seeded.below(5)],
                })
                .collect();
            let routes = Routes::compile(matches.clone());
            for _ in 0..60 {
                let authority = seeded.host() + ["", ":80", "."][seeded.below(3)];
                let mut head = RequestHead::from_text(seeded.method(), &authority, &seeded.path(), None);
                for _ in 0..seeded.below(3) {
                    head.fields.add([&b"x-a"[..], b"cookie"][seeded.below(2)], [&b"1"[..], b"2"][seeded.below(2)]);
                }
                let found = routes.find(&head);
                assert_eq!(found, naive(&matches, &head), "seed {seed}: {head:?} in {matches:#?}");
                let explained = routes.explain(&head);
                assert_eq!(explained.len(), matches.len());
                let first = explained.iter().find(|judged| judged.verdict == Verdict::Fits).map(|judged| judged.route);
                assert_eq!(found.route(), first, "seed {seed}: {explained:?}");
                let refused = first.is_none() && explained.iter().any(|judged| judged.verdict == Verdict::Method);
                assert_eq!(found == Found::MethodRefused, refused, "seed {seed}: {explained:?}");
            }
        }
    }

    #[test]
    fn ten_thousand_routes_cost_as_much_as_the_depth_of_the_path() {
        let matches = (0..10_000).map(|at| prefix(&format!("/team-{}/service-{}/v{}", at / 1000, at / 10 % 100, at % 10))).collect();
        let routes = Routes::compile(matches);
        for at in [0, 1, 4711, 9999] {
            check(&routes, &get("h", &format!("/team-{}/service-{}/v{}/x/y", at / 1000, at / 10 % 100, at % 10)), at);
        }
        // A hostile path and host end where the tree ends: this would take minutes if each prefix were hashed anew.
        let deep = "/a".repeat(15_000);
        let wide = "a.".repeat(15_000);
        for _ in 0..10_000 {
            check(&routes, &get(&wide, &deep), -404);
        }
    }
}
