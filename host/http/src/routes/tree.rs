//! The routes of one host as a tree of segments. A request costs at most the depth of the tree, however many routes there
//! are and however long its path is: a map of thousands of one- and two-segment prefixes is two look-ups.
//!
//! Only where templates stand beside written segments may more than one way through the tree be tried, the written one
//! first; there are never more ways than the configuration has templates.

use super::path::{Piece, literal, reading};
use super::test::Test;
use super::{Arrival, PathPattern, RouteMatch};
use crate::pattern::Pattern;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use wharf_core::head::{Method, RequestHead};
use wharf_core::path::carelessly;

pub(super) type Map = HashMap<Box<[u8]>, u32, BuildHasherDefault<Mix>>;

/// One segment of the paths of one host. The numbers are places in [`Tree`].
#[derive(Debug, Default)]
struct Node {
    /// Up to [`FEW`] children are compared one by one; more are hashed.
    few: Vec<(Box<[u8]>, u32)>,
    many: Map,
    /// The child for any segment, of templates.
    any: Option<u32>,
    exact: Vec<Candidate>,
    regex: Vec<(Pattern, Candidate)>,
    prefix: Vec<Candidate>,
    parent: Option<u32>,
    /// The nearest node above that has prefix routes or regular expressions.
    up: Option<u32>,
}

#[derive(Debug)]
struct Candidate {
    route: u32,
    methods: u16,
    other_methods: Box<[Box<str>]>,
    tests: Box<[Test]>,
    any_method: bool,
}

const FEW: usize = 8;

/// All nodes of all hosts.
#[derive(Debug, Default)]
pub(super) struct Tree(Vec<Node>);

/// What is asked, and what became of it.
pub(super) struct Asked<'h> {
    pub(super) head: &'h RequestHead,
    pub(super) from: &'h Arrival<'h>,
    pub(super) method: &'h Method,
    pub(super) bit: u16,
    /// Something fits but for its method.
    pub(super) refused: bool,
}

impl Tree {
    /// Where the next root will stand.
    pub(super) fn next(&self) -> u32 {
        self.0.len() as u32
    }

    pub(super) fn add_root(&mut self) {
        self.0.push(Node::default());
    }

    pub(super) fn insert(&mut self, root: u32, at: usize, route: &RouteMatch) {
        let mut node = root;
        let mut down = |path: &str| {
            for segment in path.strip_prefix('/').into_iter().flat_map(|segments| segments.split('/')) {
                node = self.child_or_new(node, segment.as_bytes());
            }
            node
        };
        let node = match &route.path {
            PathPattern::Exact(path) => down(path),
            PathPattern::Prefix(path) => down(path.trim_end_matches('/')),
            PathPattern::Regex(pattern) => down(literal(pattern.as_str())),
            PathPattern::Template(template) => {
                for piece in template.pieces() {
                    node = match piece {
                        Piece::Written(segment) => self.child_or_new(node, segment.as_bytes()),
                        Piece::Capture(_) => self.any_or_new(node),
                    };
                }
                node
            }
        };
        let candidate = Candidate::new(at, route);
        let Some(node) = self.0.get_mut(node as usize) else { return };
        match &route.path {
            PathPattern::Exact(_) => node.exact.push(candidate),
            PathPattern::Prefix(_) => node.prefix.push(candidate),
            PathPattern::Template(template) if template.is_open() => node.prefix.push(candidate),
            PathPattern::Template(_) => node.exact.push(candidate),
            PathPattern::Regex(pattern) => node.regex.push((pattern.clone(), candidate)),
        }
    }

    /// Sorts what stands at one place and links each node to those above. After the last insertion.
    pub(super) fn finish(&mut self) {
        for node in &mut self.0 {
            for list in [&mut node.exact, &mut node.prefix] {
                list.sort_by_key(Candidate::order);
                list.dedup_by_key(|candidate| candidate.route);
            }
            node.regex.sort_by_key(|(_, candidate)| candidate.order());
            node.regex.dedup_by_key(|(_, candidate)| candidate.route);
        }
        // Parents stand before their children, so one pass hands the links down.
        for at in 0..self.0.len() {
            let Some(parent) = self.0.get(at).and_then(|node| node.parent) else { continue };
            let up = self.0.get(parent as usize).and_then(|node| if node.takes_below() { Some(parent) } else { node.up });
            if let Some(node) = self.0.get_mut(at) {
                node.up = up;
            }
        }
    }

    fn child_or_new(&mut self, parent: u32, segment: &[u8]) -> u32 {
        let next = self.next();
        let Some(node) = self.0.get_mut(parent as usize) else { return parent };
        if let Some((child, _)) = node.child(segment) {
            return child;
        }
        if node.many.is_empty() && node.few.len() < FEW {
            node.few.push((segment.into(), next));
        } else {
            node.many.extend(node.few.drain(..));
            node.many.insert(segment.into(), next);
        }
        self.0.push(Node { parent: Some(parent), ..Node::default() });
        next
    }

    fn any_or_new(&mut self, parent: u32) -> u32 {
        let next = self.next();
        let Some(node) = self.0.get_mut(parent as usize) else { return parent };
        let child = *node.any.get_or_insert(next);
        if child == next {
            self.0.push(Node { parent: Some(parent), ..Node::default() });
        }
        child
    }

    /// The route for the segments of a path, from this node down.
    pub(super) fn walk(&self, from: u32, path: Option<&[u8]>, asked: &mut Asked<'_>) -> Option<usize> {
        let mut at = from;
        let mut node = self.0.get(at as usize)?;
        let mut rest = path;
        while let Some(segments) = rest
            && !node.is_leaf()
        {
            if let Some(any) = node.any {
                // Both ways from here; what stands at this node and above comes when both have led nowhere.
                if let Some(route) = self.fork(at, any, segments, asked) {
                    return Some(route);
                }
                break;
            }
            let (child, behind) = match node.child(segments) {
                Some((child, behind)) => (Some(child), behind),
                None => match node.child_loosely(segments) {
                    Some(found) => found,
                    None => break,
                },
            };
            rest = behind;
            if let Some(child) = child {
                let Some(found) = self.0.get(child as usize) else { break };
                (at, node) = (child, found);
            }
        }
        if rest.is_none()
            && let Some(route) = pick(&node.exact, asked)
        {
            return Some(route);
        }
        let mut next = Some((at, node));
        while let Some((_, node)) = next {
            if let Some(route) = pick_regex(&node.regex, asked) {
                return Some(route);
            }
            if let Some(route) = pick(&node.prefix, asked) {
                return Some(route);
            }
            // Whatever is above where this walk began is for whoever began it. Children stand behind their parents.
            next = node.up.filter(|&up| up >= from).and_then(|up| Some((up, self.0.get(up as usize)?)));
        }
        None
    }

    /// From a node with a child for any segment: the written child first, then that one.
    fn fork(&self, at: u32, any: u32, mut segments: &[u8], asked: &mut Asked<'_>) -> Option<usize> {
        let node = self.0.get(at as usize)?;
        loop {
            let strict = node.child(segments);
            if let Some((child, behind)) = strict
                && let Some(route) = self.walk(child, behind, asked)
            {
                return Some(route);
            }
            let mut halves = segments.splitn(2, |&byte| byte == b'/');
            let segment = halves.next()?;
            let behind = halves.next();
            let Some(read) = carelessly(segment) else {
                return if segment.is_empty() { None } else { self.walk(any, behind, asked) };
            };
            let behind = behind.filter(|_| !read.ends);
            match behind {
                // It counts for nothing.
                Some(behind) if read.name.is_empty() => segments = behind,
                _ => {
                    // Also where it is named as it stands, and that has led nowhere: who guards `/a` guards it from
                    // `/{name}` for `/a;b` as well.
                    if let Some((child, _)) = node.child(&read.name)
                        && let Some(route) = self.walk(child, behind, asked)
                    {
                        return Some(route);
                    }
                    return if read.name.is_empty() { None } else { self.walk(any, behind, asked) };
                }
            }
        }
    }
}

impl Node {
    fn is_leaf(&self) -> bool {
        self.few.is_empty() && self.many.is_empty() && self.any.is_none()
    }

    /// It has routes for paths below it.
    fn takes_below(&self) -> bool {
        !self.prefix.is_empty() || !self.regex.is_empty()
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

impl Candidate {
    fn new(at: usize, route: &RouteMatch) -> Candidate {
        let mut methods = 0;
        for method in &route.methods {
            methods |= bit(method);
        }
        if methods & bit(&Method::Get) != 0 {
            methods |= bit(&Method::Head);
        }
        let others = route.methods.iter().filter_map(|method| if let Method::Other(token) = method { Some(token.clone()) } else { None });
        Candidate {
            route: at as u32,
            methods: if route.methods.is_empty() { u16::MAX } else { methods },
            other_methods: others.collect(),
            tests: route.tests.clone().into(),
            any_method: route.methods.is_empty(),
        }
    }

    /// Of several at one place the least is tried first.
    fn order(&self) -> (std::cmp::Reverse<usize>, bool, u32) {
        (std::cmp::Reverse(self.tests.len()), self.any_method, self.route)
    }

    #[inline]
    fn takes(&self, asked: &mut Asked<'_>) -> bool {
        // Nearly all.
        if self.any_method && self.tests.is_empty() {
            return true;
        }
        let tests_fit = || self.tests.iter().all(|test| test.fits(asked.head, *asked.from));
        let takes = self.methods & asked.bit != 0
            && (self.any_method || asked.bit != OTHER || self.other_methods.iter().any(|token| **token == *asked.method.as_str()));
        if takes {
            return tests_fit();
        }
        if !asked.refused {
            asked.refused = tests_fit();
        }
        false
    }
}

fn pick(candidates: &[Candidate], asked: &mut Asked<'_>) -> Option<usize> {
    candidates.iter().find(|candidate| candidate.takes(asked)).map(|candidate| candidate.route as usize)
}

fn pick_regex(candidates: &[(Pattern, Candidate)], asked: &mut Asked<'_>) -> Option<usize> {
    if candidates.is_empty() {
        return None;
    }
    let head = asked.head;
    let read = reading(head.path());
    let found = candidates.iter().find(|(pattern, candidate)| pattern.fits(&read) && candidate.takes(asked));
    found.map(|(_, candidate)| candidate.route as usize)
}

const OTHER: u16 = 1 << 9;

pub(super) fn bit(method: &Method) -> u16 {
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
pub(super) struct Mix(u64);

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
