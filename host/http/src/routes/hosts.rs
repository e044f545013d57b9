//! Hosts: how routes name them, and which of several patterns is the most specific one.

use super::tree::Map;

/// A host, lower case, without port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// This host.
    Exact(Box<str>),
    /// Every host below this one: `example.com` for `*.example.com`. One or more labels, never none.
    Below(Box<str>),
}

/// Longest name that DNS has room for; longer hosts fit no pattern, so they need not be looked up.
pub const HOST_BYTES_MAX: usize = 253;

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

impl HostPattern {
    /// How exactly it names the host; `None`: it is for others.
    pub(super) fn rank(&self, host: &str) -> Option<usize> {
        match self {
            HostPattern::Exact(exact) => (**exact == *host).then_some(usize::MAX),
            HostPattern::Below(below) => host
                .len()
                .checked_sub(below.len() + 1)
                .filter(|&dot| host.ends_with(&**below) && host.as_bytes().get(dot) == Some(&b'.') && host.len() <= HOST_BYTES_MAX)
                .map(|_| below.len()),
        }
    }
}

/// The names above a host, the longest first: `b.c`, `c` for `a.b.c`.
pub(super) fn above(host: &[u8]) -> impl Iterator<Item = &[u8]> {
    let behind_dot = |name: &[u8]| name.iter().position(|&byte| byte == b'.').map(|dot| dot + 1);
    std::iter::successors(behind_dot(host).and_then(|at| host.get(at..)), move |name| behind_dot(name).and_then(|at| name.get(at..)))
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
