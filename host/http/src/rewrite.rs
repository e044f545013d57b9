//! Another path for the upstream: what stands in the place of a prefix, of a pattern, or of all of it. With the header
//! edits of the request it is the last thing that happens before the call, so plugins have seen what the client sent.
//!
//! What comes out is held to what a client is held to: it must be canonical, and a careless reader must not see its end
//! before its last segment, or names in it could lead elsewhere (`/v2/{id}/public` with `secret%3F` for `id`).

use crate::edits::HeaderEdits;
use crate::pattern::Pattern;
use crate::phrase::Phrase;
use crate::routes::behind;
use std::rc::Rc;
use std::sync::Arc;
use wharf_core::LocalBoxFuture;
use wharf_core::exchange::{Answer, Exchange, Facts};
use wharf_core::fault::{Fault, FaultKind};
use wharf_core::outlet::{Outlet, Wish};
use wharf_core::path;

/// What becomes of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rewrite {
    /// The prefix, without a `/` at its end, is replaced by another; both may be empty.
    Prefix {
        /// What the path begins with.
        from: Box<str>,
        /// What it begins with instead.
        to: Box<str>,
    },
    /// If the pattern fits the whole path, this is the path.
    Regex {
        /// The pattern.
        pattern: Pattern,
        /// With its groups by number or name.
        to: Phrase,
    },
    /// This is the path.
    Template(Phrase),
}

impl Rewrite {
    /// The new path; `None`: it stays as it is.
    ///
    /// # Errors
    /// What comes out is not fit to be sent. The caller's fault: with other arguments it would be.
    pub fn path(&self, facts: &Facts) -> Result<Option<String>, Fault> {
        let old = facts.request.path();
        let new = match self {
            Rewrite::Prefix { from, to } => match behind(old, from) {
                Some("") if to.is_empty() => "/".to_owned(),
                Some(rest) => format!("{to}{rest}"),
                None => return Ok(None),
            },
            Rewrite::Regex { pattern, to } => match pattern.captures(old) {
                Some(found) => to.say_with(facts, &|name| {
                    let group = name.parse().ok().and_then(|number: usize| found.get(number)).or_else(|| found.name(name));
                    group.map(|group| group.as_str())
                }),
                None => return Ok(None),
            },
            Rewrite::Template(phrase) => phrase.say(facts),
        };
        match fit(&new, !matches!(self, Rewrite::Prefix { .. })) {
            Ok(()) => Ok(Some(new)),
            Err(why) => Err(Fault::caller(FaultKind::BadArgument, format!("the path that this request is rewritten to {why}"))),
        }
    }

    /// Of one that no request fits, whatever its names come to: an example of the new path, and why it is not sent.
    pub fn never(&self) -> Option<(String, &'static str)> {
        let phrase = match self {
            Rewrite::Prefix { .. } => return None,
            Rewrite::Regex { to, .. } | Rewrite::Template(to) => to,
        };
        if phrase.examples().any(|example| fit(&example, true).is_ok()) {
            return None;
        }
        phrase.examples().find_map(|example| fit(&example, true).err().map(|why| (example, why)))
    }
}

/// Is this path sent?
///
/// # Errors
/// Why not.
fn fit(path: &str, whole_path_is_new: bool) -> Result<(), &'static str> {
    if !path::is_canonical(path.as_bytes()) {
        return Err("would not be canonical");
    }
    if whole_path_is_new && ends_early(path) {
        return Err("holds an encoded `?`, `#` or line end that some take for its end");
    }
    Ok(())
}

/// Does a careless reader see the end of the path before its last segment?
fn ends_early(path: &str) -> bool {
    let mut segments = path.split('/').peekable();
    while let Some(segment) = segments.next() {
        if segments.peek().is_some() && path::carelessly(segment.as_bytes()).is_some_and(|read| read.ends) {
            return true;
        }
    }
    false
}

/// Rewrites path and headers, then asks the outlet behind.
pub struct Rewritten {
    /// The path.
    pub path: Option<Arc<Rewrite>>,
    /// The headers. Their values are said before the path changes: `{path}` is what the client asked for.
    pub headers: Option<Arc<HeaderEdits>>,
    /// Who is asked.
    pub inner: Rc<dyn Outlet>,
}

impl Outlet for Rewritten {
    fn call<'a>(&'a self, exchange: &'a mut Exchange, wish: &'a Wish) -> LocalBoxFuture<'a, Result<Answer, Fault>> {
        let path = match &self.path {
            Some(rewrite) => rewrite.path(&exchange.facts),
            None => Ok(None),
        };
        let edited = path.and_then(|path| {
            self.headers.as_ref().map_or(Ok(()), |headers| headers.apply_to_request(exchange))?;
            Ok(path)
        });
        match edited {
            Ok(path) => {
                if let Some(path) = path {
                    exchange.facts.request.set_path(&path);
                }
                self.inner.call(exchange, wish)
            }
            Err(fault) => Box::pin(async { Err(fault) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_core::head::{Method, RequestHead};

    fn check(rewrite: &Rewrite, path: &str, expected: Result<Option<&str>, ()>) {
        let mut facts = Facts { request: RequestHead::from_text(Method::Get, "h", path, None), ..Facts::default() };
        facts.attrs.set("path.id", path.rsplit('/').next().unwrap());
        let said = rewrite.path(&facts);
        assert_eq!(said.as_ref().map(Option::as_deref).map_err(|_| ()), expected, "{rewrite:?} {path}: {said:?}");
    }

    #[test]
    fn a_prefix_is_replaced_by_whole_segments() {
        let rewrite = |from: &str, to: &str| Rewrite::Prefix { from: from.into(), to: to.into() };
        check(&rewrite("/a", "/v2/a"), "/a/b", Ok(Some("/v2/a/b")));
        check(&rewrite("/a", ""), "/a", Ok(Some("/")));
        check(&rewrite("/a", "/b"), "/ab", Ok(None));
        check(&rewrite("", "/all"), "/x", Ok(Some("/all/x")));
        // As the route was found, so it is taken off.
        check(&rewrite("/a", "/b"), "/a;v=1/c", Ok(Some("/b/c")));
        check(&rewrite("/a", "/b"), "/a%3Fx/admin", Ok(Some("/b")));
    }

    #[test]
    fn a_pattern_hands_its_groups_on() {
        let pattern = Pattern::whole("/users/([0-9]+)/(?P<what>.*)").unwrap();
        let to = Phrase::with_groups("/{what}/of/{1}", &|name| matches!(name, "1" | "2" | "what")).unwrap();
        let rewrite = Rewrite::Regex { pattern, to };
        check(&rewrite, "/users/7/orders", Ok(Some("/orders/of/7")));
        check(&rewrite, "/users/x/orders", Ok(None));
        // What has no single safe meaning goes nowhere.
        check(&rewrite, "/users/7/", Err(()));
        check(&rewrite, "/users/7/admin%3Fx", Err(()));
    }

    #[test]
    fn what_no_request_can_be_rewritten_to_is_known_beforehand() {
        let never = |text: &str| Rewrite::Template(Phrase::new(text).unwrap()).never().is_some();
        for text in
            ["/v2/{path.id}", "{path}", "/v2{path}", "{attr.all}/{path.id}", "/a%3Fb", "/", "/{attr.hex}%20", "/.{path.id}", "/x/{query}"]
        {
            assert!(!never(text), "{text}");
        }
        for text in
            ["", "v2", "/v2/{path}", "{client}", "/a b", "/a?b={path.id}", "/a%3Fb/{path.id}", "/../{path.id}", "/%zz/{path.id}", "/\u{fc}"]
        {
            assert!(never(text), "{text}");
        }
    }

    #[test]
    fn a_name_does_not_end_the_path_for_a_careless_upstream() {
        let rewrite = Rewrite::Template(Phrase::new("/store/{path.id}/public").unwrap());
        check(&rewrite, "/x/7", Ok(Some("/store/7/public")));
        check(&rewrite, "/x/secret%3F", Err(()));
        check(&rewrite, "/x/secret%23a", Err(()));
        check(&rewrite, "/x/", Err(()));
        let last = Rewrite::Template(Phrase::new("/search/{path.id}").unwrap());
        check(&last, "/x/c%23", Ok(Some("/search/c%23")));
        let dots = Rewrite::Template(Phrase::new("/a/.{path.id}/b").unwrap());
        check(&dots, "/x/.", Err(()));
    }
}
