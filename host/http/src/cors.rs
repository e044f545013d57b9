//! Cross-origin requests (the Fetch standard): which pages of other origins may read what a route answers.
//!
//! The gateway answers preflights itself, before any plugin: a browser sends them without credentials. What an upstream
//! says about origins is replaced, so that a policy is in one place.

use crate::house::House;
use crate::pattern::Pattern;
use crate::routes::{Arrival, Found};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use wharf_core::LocalBoxFuture;
use wharf_core::edit::Edits;
use wharf_core::exchange::{Exchange, Facts};
use wharf_core::fault::{Fault, FaultKind};
use wharf_core::head::{Fields, Method, RequestHead};
use wharf_core::rules::{Authenticate, Decision, RuleReply};

/// The policy of one route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// Who may read.
    pub origins: Origins,
    /// Methods that a page may use beside those that need no leave; empty: the one it asks for.
    pub methods: Vec<Box<str>>,
    /// Headers, in lower case, that a page may send; empty: those it asks for.
    pub headers: Vec<Box<str>>,
    /// Headers of the answer that a page may read beside the usual ones.
    pub expose: Vec<Box<str>>,
    /// A page may send cookies and the like. Never together with any origin.
    pub credentials: bool,
    /// How long a browser may remember the leave.
    pub max_age: Duration,
}

/// Origins that may read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// All.
    Any,
    /// Those on the list, and those that a pattern fits.
    These {
        /// As a browser writes them: scheme, host, port if it is not the usual one, lower case.
        exact: Vec<Box<str>>,
        /// Each fits whole origins.
        patterns: Vec<Pattern>,
    },
}

/// The fields that are the policy's.
const OWN: [&[u8]; 7] = [
    b"access-control-allow-origin",
    b"access-control-allow-credentials",
    b"access-control-allow-methods",
    b"access-control-allow-headers",
    b"access-control-expose-headers",
    b"access-control-max-age",
    b"access-control-allow-private-network",
];

impl Cors {
    fn allows(&self, origin: &str) -> bool {
        match &self.origins {
            Origins::Any => true,
            Origins::These { exact, patterns } => {
                exact.iter().any(|have| **have == *origin) || patterns.iter().any(|pattern| pattern.fits(origin))
            }
        }
    }

    /// What stands under `access-control-allow-origin`.
    fn allowed<'o>(&self, origin: &'o str) -> &'o str {
        // Without credentials one answer serves all, and caches keep one.
        if self.origins == Origins::Any && !self.credentials { "*" } else { origin }
    }

    /// The answer differs by origin, so a cache must, too.
    fn varies(&self) -> bool {
        self.origins != Origins::Any || self.credentials
    }

    /// The answer to a preflight.
    ///
    /// # Errors
    /// The origin, the method or a header is not allowed; the browser would refuse, too, but it would not say why.
    fn preflight(&self, head: &RequestHead) -> Result<RuleReply, String> {
        let field = |name: &[u8]| head.fields.joined(name).unwrap_or_default().into_owned();
        let (origin, method, headers) =
            (field(b"origin"), field(b"access-control-request-method"), field(b"access-control-request-headers"));
        if !self.allows(&origin) {
            return Err(format!("origin {origin:?} is not allowed here (`cors.origins`)"));
        }
        let simple = matches!(method.as_str(), "GET" | "HEAD" | "POST");
        if !self.methods.is_empty() && !simple && !self.methods.iter().any(|have| **have == *method) {
            return Err(format!("method {method:?} is not allowed to other origins (`cors.methods`)"));
        }
        let asked = headers.split(',').map(str::trim).filter(|name| !name.is_empty());
        let refused =
            asked.clone().find(|name| !self.headers.is_empty() && !self.headers.iter().any(|have| have.eq_ignore_ascii_case(name)));
        if let Some(name) = refused {
            return Err(format!("header {name:?} is not allowed to other origins (`cors.headers`)"));
        }
        let mut fields = vec![("access-control-allow-origin".to_owned(), self.allowed(&origin).to_owned())];
        let mut add = |name: &str, value: String| {
            if !value.is_empty() {
                fields.push((name.to_owned(), value));
            }
        };
        add("access-control-allow-methods", if self.methods.is_empty() { method } else { self.methods.join(", ") });
        add(
            "access-control-allow-headers",
            if self.headers.is_empty() { asked.collect::<Vec<_>>().join(", ") } else { self.headers.join(", ") },
        );
        if self.credentials {
            add("access-control-allow-credentials", "true".into());
        }
        add("access-control-max-age", self.max_age.as_secs().to_string());
        add("vary", "origin, access-control-request-method, access-control-request-headers".into());
        Ok(RuleReply { status: 204, fields, body: Bytes::new() })
    }

    /// Puts the policy on an answer to a request of this origin.
    pub(crate) fn mark(&self, origin: Option<&str>, fields: &mut Fields) {
        OWN.iter().for_each(|name| fields.remove(name));
        if self.varies() {
            add_vary(fields, "origin");
        }
        let Some(origin) = origin.filter(|origin| self.allows(origin)) else { return };
        fields.add(b"access-control-allow-origin", self.allowed(origin).as_bytes());
        if self.credentials {
            fields.add(b"access-control-allow-credentials", b"true");
        }
        if !self.expose.is_empty() {
            fields.add(b"access-control-expose-headers", self.expose.join(", ").as_bytes());
        }
    }
}

/// Says that the answer differs by this request field, if it does not say so already.
pub(crate) fn add_vary(fields: &mut Fields, name: &str) {
    let have = fields.joined(b"vary").unwrap_or_default().into_owned();
    if !have.split(',').any(|part| part.trim() == "*" || part.trim().eq_ignore_ascii_case(name)) {
        fields.add(b"vary", name.as_bytes());
    }
}

/// Does a browser ask whether it may ask?
pub(crate) fn is_preflight(method: &Method, fields: &Fields) -> bool {
    let has = |name: &[u8]| fields.get(name).is_some();
    *method == Method::Options && has(b"origin") && has(b"access-control-request-method")
}

/// The method that a preflight asks about; `None`: it is none.
pub fn asked_method(head: &RequestHead) -> Option<Method> {
    if !is_preflight(&head.method, &head.fields) {
        return None;
    }
    Some(Method::from_token(&head.fields.joined(b"access-control-request-method")?))
}

/// The route that a preflight asks about, if that has a policy. It is the one of the method that will be used: a route for
/// POST must not need to name OPTIONS as well.
#[cold]
pub(crate) fn asked_about(house: &House, exchange: &Exchange, from: Arrival<'_>) -> Option<Found> {
    let head = &exchange.facts.request;
    let found = house.routes.find_as(head, from, &asked_method(head)?);
    let steps = house.entries.get(found.route()?)?.steps.as_ref()?;
    steps.cors.is_some().then_some(found)
}

/// Answers preflights, behind the door of rules that answer themselves.
pub struct Preflights(pub Arc<Cors>);

impl Authenticate for Preflights {
    fn check<'a>(&'a self, facts: &'a mut Facts) -> LocalBoxFuture<'a, Result<Decision, Fault>> {
        let said = match is_preflight(&facts.request.method, &facts.request.fields) {
            false => Ok(Decision::Next(Edits::default())),
            true => self.0.preflight(&facts.request).map(Decision::Reply).map_err(|why| Fault::caller(FaultKind::Denied, why)),
        };
        Box::pin(async { said })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(origins: Origins) -> Cors {
        Cors {
            origins,
            methods: Vec::new(),
            headers: Vec::new(),
            expose: Vec::new(),
            credentials: false,
            max_age: Duration::from_secs(600),
        }
    }

    fn these() -> Origins {
        let patterns = vec![Pattern::whole(r"https://[a-z]+\.example").unwrap()];
        Origins::These { exact: vec!["https://app.test".into()], patterns }
    }

    fn preflight(origin: &str, method: &str, headers: &str) -> RequestHead {
        let mut head = RequestHead::from_text(Method::Options, "h", "/", None);
        head.fields.add(b"origin", origin.as_bytes());
        head.fields.add(b"access-control-request-method", method.as_bytes());
        head.fields.add(b"access-control-request-headers", headers.as_bytes());
        head
    }

    fn field(reply: &RuleReply, name: &str) -> Option<String> {
        reply.fields.iter().find(|(have, _)| have == name).map(|(_, value)| value.clone())
    }

    #[test]
    fn a_preflight_is_told_what_is_allowed_and_why_not() {
        let cors = Cors { methods: vec!["PUT".into()], headers: vec!["x-a".into()], credentials: true, ..policy(these()) };
        let good = cors.preflight(&preflight("https://app.test", "PUT", "X-A")).unwrap();
        assert_eq!(field(&good, "access-control-allow-origin").as_deref(), Some("https://app.test"));
        assert_eq!(field(&good, "access-control-allow-credentials").as_deref(), Some("true"));
        assert_eq!(field(&good, "access-control-max-age").as_deref(), Some("600"));
        for (origin, method, headers, says) in [
            ("https://evil.test", "PUT", "", "evil.test"),
            ("https://app.test", "DELETE", "", "DELETE"),
            ("https://app.test", "PUT", "x-a, x-b", "x-b"),
            // A pattern fits whole origins.
            ("https://a.example.evil.test", "PUT", "", "origins"),
            ("null", "PUT", "", "null"),
        ] {
            let said = cors.preflight(&preflight(origin, method, headers)).unwrap_err();
            assert!(said.contains(says), "{said}");
        }
        assert!(cors.preflight(&preflight("https://a.example", "GET", "")).is_ok());
        let open = policy(Origins::Any).preflight(&preflight("https://x.test", "PATCH", "x-any")).unwrap();
        assert_eq!(field(&open, "access-control-allow-origin").as_deref(), Some("*"));
        assert_eq!(field(&open, "access-control-allow-methods").as_deref(), Some("PATCH"));
        assert_eq!(field(&open, "access-control-allow-headers").as_deref(), Some("x-any"));
        assert_eq!(field(&open, "access-control-allow-credentials"), None);
    }

    #[test]
    fn an_answer_is_marked_for_its_origin_and_differs_by_it() {
        let marked = |cors: &Cors, origin: Option<&str>| {
            let mut fields = Fields::default();
            fields.add(b"access-control-allow-origin", b"*");
            fields.add(b"vary", b"Accept");
            cors.mark(origin, &mut fields);
            let text = |name: &[u8]| fields.joined(name).map(|value| value.into_owned());
            (text(b"access-control-allow-origin"), text(b"vary").unwrap())
        };
        let cors = policy(these());
        assert_eq!(marked(&cors, Some("https://app.test")), (Some("https://app.test".into()), "Accept, origin".into()));
        // What the upstream said does not count.
        assert_eq!(marked(&cors, Some("https://evil.test")), (None, "Accept, origin".into()));
        assert_eq!(marked(&cors, None), (None, "Accept, origin".into()));
        assert_eq!(marked(&policy(Origins::Any), Some("https://x.test")), (Some("*".into()), "Accept".into()));
    }
}
