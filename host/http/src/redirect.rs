//! A redirect: an answer that says where to ask instead. Needs no upstream.

use crate::phrase::Phrase;
use crate::rewrite::Rewrite;
use std::sync::Arc;
use wharf_core::LocalBoxFuture;
use wharf_core::exchange::{Answer, Exchange, Facts};
use wharf_core::fault::{Fault, FaultKind};
use wharf_core::head::ResponseHead;
use wharf_core::outlet::{Outlet, Wish};

/// Where to. What is not given stays as the client asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// `http` or `https`.
    pub scheme: Option<Box<str>>,
    /// Host, with its port if it has one.
    pub host: Option<Phrase>,
    /// The path.
    pub path: Option<Arc<Rewrite>>,
    /// The query is kept.
    pub keep_query: bool,
}

impl Redirect {
    /// Where this request is sent.
    ///
    /// # Errors
    /// There is nothing that it could be sent to. The caller's fault: with another path or host it could be.
    pub fn location(&self, facts: &Facts) -> Result<String, Fault> {
        let request = &facts.request;
        let new = match &self.path {
            Some(rewrite) => rewrite.path(facts)?,
            None => None,
        };
        let scheme = self.scheme.as_deref().unwrap_or(request.scheme.as_str());
        let host = match &self.host {
            Some(phrase) => phrase.say(facts),
            // A port speaks of the scheme that was asked; another scheme has another.
            None if self.scheme.as_deref().is_some_and(|scheme| scheme != request.scheme.as_str()) => {
                String::from_utf8_lossy(crate::routes::host_of(request.authority_bytes())).into_owned()
            }
            None => request.authority().to_owned(),
        };
        if host.is_empty() || !host.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'/' | b'?' | b'#' | b'@' | b'\\')) {
            return Err(Fault::caller(FaultKind::BadArgument, "the request names no host that it could be redirected to"));
        }
        let mut location = format!("{scheme}://{host}{}", new.as_deref().unwrap_or(request.path()));
        if self.keep_query
            && let Some(query) = request.query()
        {
            location.push('?');
            location.push_str(query);
        }
        Ok(location)
    }
}

impl Outlet for Redirect {
    fn call<'a>(&'a self, exchange: &'a mut Exchange, _: &'a Wish) -> LocalBoxFuture<'a, Result<Answer, Fault>> {
        let said = self.location(&exchange.facts).map(|location| {
            let mut head = ResponseHead::new(self.status);
            head.fields.add(b"location", location.as_bytes());
            Answer::full(head, bytes::Bytes::new())
        });
        Box::pin(async { said })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_core::head::{Method, RequestHead};

    #[test]
    fn what_is_not_given_stays_as_it_was_asked() {
        let facts =
            |authority: &str| Facts { request: RequestHead::from_text(Method::Get, authority, "/a/b", Some("q=1")), ..Facts::default() };
        let redirect = Redirect { status: 308, scheme: None, host: None, path: None, keep_query: true };
        let to = |redirect: &Redirect, authority: &str| redirect.location(&facts(authority)).unwrap();
        assert_eq!(to(&Redirect { scheme: Some("https".into()), ..redirect.clone() }, "x.example:8080"), "https://x.example/a/b?q=1");
        assert_eq!(to(&Redirect { keep_query: false, ..redirect.clone() }, "x.example:8080"), "http://x.example:8080/a/b");
        let other = Redirect {
            host: Some(Phrase::new("www.{host}").unwrap()),
            path: Some(Arc::new(Rewrite::Prefix { from: "/a".into(), to: "/new".into() })),
            ..redirect.clone()
        };
        assert_eq!(to(&other, "x.example"), "http://www.x.example/new/b?q=1");
        assert!(redirect.location(&facts("")).is_err(), "HTTP/1.0 without a host");
    }
}
