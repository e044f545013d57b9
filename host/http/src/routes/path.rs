//! Paths: how routes name them, how exactly, and what they take out of one.
//!
//! A request must not slip around a stricter route because an upstream reads its path differently. So every pattern is
//! compared in a way that a careless reader of the path would agree with (`wharf_core::path::carelessly`):
//!
//! - a written segment is compared as it stands, then as such a reader sees it;
//! - where such a reader sees the end of the path, no pattern looks further;
//! - a segment of which such a reader sees nothing counts for nothing, so it fills no place in a template;
//! - a regular expression is compared with the whole path as such a reader sees it, and with nothing else.

use crate::pattern::Pattern;
use std::borrow::Cow;
use std::fmt;
use wharf_core::path::carelessly;

/// A canonical path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathPattern {
    /// This path; a `/` at the end counts.
    Exact(Box<str>),
    /// This path and all below it, by whole segments: `/a` takes `/a`, `/a/` and `/a/b`, never `/ab`. A `/` at the end
    /// of the pattern does not count: else `/admin` would walk around the rules of `/admin/`.
    Prefix(Box<str>),
    /// A path of which some segments may be anything.
    Template(Template),
    /// A pattern that fits the whole path, as a careless reader sees it.
    Regex(Pattern),
}

impl Default for PathPattern {
    fn default() -> PathPattern {
        PathPattern::Prefix("/".into())
    }
}

/// Most segments of a template: the matcher goes as deep for each.
const TEMPLATE_SEGMENTS_MAX: usize = 32;
/// Most names in a template or regular expression: each becomes an attribute of the exchange.
pub const CAPTURES_MAX: usize = 8;
/// Longest name of a capture, bytes.
const CAPTURE_NAME_MAX: usize = 32;

/// `/users/{id}/orders`, `/files/{rest*}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    text: Box<str>,
    pieces: Box<[Piece]>,
    rest: Option<Box<str>>,
}

/// One segment of a template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// This.
    Written(Box<str>),
    /// Anything but nothing, under this name.
    Capture(Box<str>),
}

impl Template {
    /// Reads a template. A name stands for one segment that is not empty; one with `*`, at the end, for all that follows,
    /// which may be nothing.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(text: &str) -> Result<Template, String> {
        let Some(segments) = text.strip_prefix('/') else { return Err("it does not begin with /".into()) };
        let mut template = Template { text: text.into(), pieces: Box::default(), rest: None };
        let mut pieces: Vec<Piece> = Vec::new();
        for segment in segments.split('/') {
            if template.rest.is_some() {
                return Err("a name with `*` stands for all that follows, so nothing may stand behind it".into());
            }
            let Some(inside) = segment.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')) else {
                if segment.contains(['{', '}']) {
                    return Err(format!("`{segment}`: a name in braces is a whole segment"));
                }
                pieces.push(Piece::Written(segment.into()));
                continue;
            };
            let (name, rest) = inside.strip_suffix('*').map_or((inside, false), |name| (name, true));
            if !is_capture_name(name) {
                return Err(format!("`{{{inside}}}`: a name has 1 to {CAPTURE_NAME_MAX} of a-z, A-Z, 0-9 and `_`, the first no digit"));
            }
            let taken = pieces.iter().any(|piece| matches!(piece, Piece::Capture(have) if **have == *name));
            if taken {
                return Err(format!("`{{{name}}}` stands there twice"));
            }
            if rest {
                template.rest = Some(name.into());
            } else {
                pieces.push(Piece::Capture(name.into()));
            }
        }
        template.pieces = pieces.into();
        // What is written must be canonical; what is not, is filled with what is.
        let filled: String = template.pieces.iter().map(|piece| format!("/{}", piece.written().unwrap_or("x"))).collect();
        if !filled.is_empty() && !wharf_core::path::is_canonical(filled.as_bytes()) {
            return Err("what is written of it is not canonical, so no request can have it".into());
        }
        if template.pieces.len() > TEMPLATE_SEGMENTS_MAX {
            return Err(format!("it has {} segments, and at most {TEMPLATE_SEGMENTS_MAX} are allowed", template.pieces.len()));
        }
        match template.names().count() {
            0 => Err("it names nothing".into()),
            1..=CAPTURES_MAX => Ok(template),
            more => Err(format!("it has {more} names, and at most {CAPTURES_MAX} are allowed")),
        }
    }

    /// Its names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(Piece::name).chain(self.rest.as_deref())
    }

    pub(super) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// It takes all that follows.
    pub(super) fn is_open(&self) -> bool {
        self.rest.is_some()
    }

    /// What stands in the places of its names; `None`: it does not fit.
    fn captures<'p>(&self, path: &'p str) -> Option<Vec<(&str, &'p str)>> {
        let mut found = Vec::new();
        let mut rest = path;
        for piece in &self.pieces {
            loop {
                let (segment, tail) = first(rest)?;
                rest = tail;
                if piece.written() == Some(segment) {
                    break;
                }
                let read = carelessly(segment.as_bytes());
                if let Some(read) = &read {
                    if read.ends {
                        rest = "";
                    }
                    if read.name.is_empty() && !rest.is_empty() {
                        continue;
                    }
                }
                let name = read.as_ref().map_or(segment.as_bytes(), |read| &read.name);
                match piece {
                    Piece::Written(written) if written.as_bytes() == name => {}
                    Piece::Capture(as_what) if !name.is_empty() => found.push((&**as_what, segment)),
                    _ => return None,
                }
                break;
            }
        }
        match &self.rest {
            Some(name) => found.push((name, rest.strip_prefix('/').unwrap_or(rest))),
            None if !rest.is_empty() => return None,
            None => {}
        }
        Some(found)
    }
}

impl Piece {
    fn written(&self) -> Option<&str> {
        match self {
            Piece::Written(text) => Some(text),
            Piece::Capture(_) => None,
        }
    }

    fn name(&self) -> Option<&str> {
        match self {
            Piece::Written(_) => None,
            Piece::Capture(name) => Some(name),
        }
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// May a capture be called this?
pub fn is_capture_name(name: &str) -> bool {
    let letters = name.chars().all(|char| char.is_ascii_alphanumeric() || char == '_');
    letters && !name.is_empty() && name.len() <= CAPTURE_NAME_MAX && !name.starts_with(|char: char| char.is_ascii_digit())
}

// How exactly a pattern names a path, segment by segment; the first in which two differ decides.
const PREFIX: u8 = 0;
const REGEX: u8 = 1;
const EXACT: u8 = 2;
const CAPTURE: u8 = 3;
const WRITTEN: u8 = 4;

impl PathPattern {
    /// How exactly this pattern names the path; `None`: it does not fit. The greater list is the more exact one.
    pub(super) fn rank(&self, path: &str) -> Option<Vec<u8>> {
        let written = |text: &str, end: u8| {
            let mut rank = vec![WRITTEN; text.matches('/').count()];
            rank.push(end);
            rank
        };
        match self {
            PathPattern::Exact(exact) => (behind(path, exact) == Some("")).then(|| written(exact, EXACT)),
            PathPattern::Prefix(prefix) => {
                let prefix = prefix.trim_end_matches('/');
                behind(path, prefix).map(|_| written(prefix, PREFIX))
            }
            PathPattern::Template(template) => template.captures(path).map(|_| {
                let kinds = template.pieces.iter().map(|piece| if piece.written().is_some() { WRITTEN } else { CAPTURE });
                kinds.chain([if template.is_open() { PREFIX } else { EXACT }]).collect()
            }),
            PathPattern::Regex(pattern) => pattern.fits(&reading(path)).then(|| written(literal(pattern.as_str()), REGEX)),
        }
    }

    /// Hands on what its names stand for in a path that it fits: for templates as it stands in the path, for regular
    /// expressions as a careless reader sees it.
    pub fn captures(&self, path: &str, mut take: impl FnMut(&str, &str)) {
        match self {
            PathPattern::Exact(_) | PathPattern::Prefix(_) => {}
            PathPattern::Template(template) => {
                for (name, value) in template.captures(path).unwrap_or_default() {
                    take(name, value);
                }
            }
            PathPattern::Regex(pattern) => {
                let read = reading(path);
                let Some(found) = pattern.captures(&read) else { return };
                for name in pattern.names() {
                    if let Some(value) = found.name(name) {
                        take(name, value.as_str());
                    }
                }
            }
        }
    }

    /// The names of what it takes out of a path.
    pub fn names(&self) -> Vec<&str> {
        match self {
            PathPattern::Exact(_) | PathPattern::Prefix(_) => Vec::new(),
            PathPattern::Template(template) => template.names().collect(),
            PathPattern::Regex(pattern) => pattern.names().collect(),
        }
    }

    /// It has some.
    pub fn has_names(&self) -> bool {
        !self.names().is_empty()
    }
}

/// The segments that a regular expression begins with, written out: `/a/b` of `/a/b/[0-9]+`. Only whole ones, each with a
/// `/` behind it; a `/` that may be left out does not count.
pub(super) fn literal(pattern: &str) -> &str {
    if pattern.contains('|') || pattern.contains("(?") && !pattern.contains("(?P<") && !pattern.contains("(?<") {
        // An alternative may begin otherwise, and flags may change what letters mean.
        return "";
    }
    let meta = |char: char| matches!(char, '\\' | '.' | '+' | '*' | '?' | '(' | ')' | '[' | ']' | '{' | '}' | '^' | '$' | '#' | ' ');
    let end = pattern.find(meta).unwrap_or(pattern.len());
    let repeats = pattern.get(end..).is_some_and(|rest| rest.starts_with(['*', '?', '{']));
    let plain = pattern.get(..end).unwrap_or_default();
    let plain = if repeats { plain.get(..plain.len().saturating_sub(1)).unwrap_or_default() } else { plain };
    match plain.rfind('/') {
        Some(slash) if plain.starts_with('/') => plain.get(..slash).unwrap_or_default(),
        _ => "",
    }
}

/// The first segment of a path and what is behind it.
fn first(path: &str) -> Option<(&str, &str)> {
    let path = path.strip_prefix('/')?;
    Some(path.split_at(path.find('/').unwrap_or(path.len())))
}

/// The path as a careless reader sees it: as it stands, for nearly all.
pub(super) fn reading(path: &str) -> Cow<'_, str> {
    if !path.contains(['%', ';']) {
        return Cow::Borrowed(path);
    }
    let mut read = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((segment, tail)) = first(rest) {
        rest = tail;
        let Some(careless) = carelessly(segment.as_bytes()) else {
            read.push('/');
            read.push_str(segment);
            continue;
        };
        if careless.ends {
            rest = "";
        }
        if !careless.name.is_empty() || rest.is_empty() {
            read.push('/');
            read.push_str(&String::from_utf8_lossy(&careless.name));
        }
    }
    Cow::Owned(read)
}

/// What stands behind a prefix that the path begins with, by whole segments and as [`super::Routes::find`] compares them;
/// the prefix without a `/` at its end. Nothing, where a careless upstream sees the end of the path in the prefix: what is
/// behind must not lead where `find` has not looked.
pub(crate) fn behind<'p>(path: &'p str, prefix: &str) -> Option<&'p str> {
    let is_whole = |rest: &&str| rest.is_empty() || rest.starts_with('/');
    if let Some(rest) = path.strip_prefix(prefix).filter(is_whole) {
        return Some(rest);
    }
    let mut rest = path;
    for wanted in prefix.split('/').skip(1) {
        loop {
            let (segment, tail) = first(rest)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_behind_a_prefix_is_what_a_careless_upstream_would_still_read() {
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
    fn a_template_takes_out_what_it_names() {
        let check = |template: &str, path: &str, expected: Option<&[(&str, &str)]>| {
            let template = Template::new(template).unwrap();
            assert_eq!(template.captures(path).as_deref(), expected, "{template} {path}");
        };
        check("/users/{id}/orders", "/users/42/orders", Some(&[("id", "42")]));
        check("/users/{id}/orders", "/users/42/orders/", None);
        check("/users/{id}/orders", "/users//orders", None);
        check("/users/{id}", "/users/", None);
        check("/users/{id}/", "/users/7/", Some(&[("id", "7")]));
        check("/{a}/{b}", "/x/y", Some(&[("a", "x"), ("b", "y")]));
        check("/files/{rest*}", "/files/a/b/", Some(&[("rest", "a/b/")]));
        check("/files/{rest*}", "/files", Some(&[("rest", "")]));
        check("/files/{rest*}", "/filesystem", None);
        check("/{all*}", "/", Some(&[("all", "")]));
        // As a careless upstream would read it.
        check("/users/{id}/orders", "/users;v=1/42;x/orders", Some(&[("id", "42;x")]));
        check("/users/{id}/orders", "/users/42%3Fx/orders", None);
        check("/users/{id}", "/users/42%3Fx/orders", Some(&[("id", "42%3Fx")]));
        check("/users/{id}", "/users/;x/42", Some(&[("id", "42")]));
        check("/users/{id}", "/users/;x", None);
    }

    #[test]
    fn a_template_that_means_nothing_is_refused() {
        for bad in [
            "users/{id}",
            "/users",
            "/users/{}",
            "/users/{1d}",
            "/users/{id}x",
            "/{a}/{a}",
            "/{rest*}/x",
            "/a//{b}",
            "/a/../{b}",
            "/a b/{c}",
            "/{a}/{b}/{c}/{d}/{e}/{f}/{g}/{h}/{i}",
        ] {
            assert!(Template::new(bad).is_err(), "{bad}");
        }
        assert!(Template::new(&format!("{}/{{a}}", "/s".repeat(TEMPLATE_SEGMENTS_MAX))).is_err());
    }

    #[test]
    fn a_regular_expression_stands_at_the_segments_that_it_begins_with() {
        for (pattern, expected) in [
            ("/a/b/[0-9]+", "/a/b"),
            ("/a/b[0-9]+", "/a"),
            ("/a/?b", ""),
            ("/a/b", "/a"),
            ("/a/(?P<id>[0-9]+)/x", "/a"),
            ("/a/(?i)b/c", ""),
            ("/a/x|/b/y", ""),
            (".*/x", ""),
            ("(/a)/x", ""),
            (r"/a/b\.css", "/a"),
        ] {
            assert_eq!(literal(pattern), expected, "{pattern}");
        }
    }

    #[test]
    fn a_path_is_read_as_the_careless_do() {
        for (path, expected) in [
            ("/a/b", "/a/b"),
            ("/a;x/b", "/a/b"),
            ("/;x/a", "/a"),
            ("/a%3Fx/b", "/a"),
            ("/%2561dmin", "/admin"),
            ("/a/;x", "/a/"),
            ("/", "/"),
            ("/caf%C3%A0", "/caf%C3%A0"),
        ] {
            assert_eq!(reading(path), expected, "{path}");
        }
    }
}
