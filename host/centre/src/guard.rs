//! Who may knock at all: the address they used, the page that sent them, the token they carry. Pure.
//!
//! The listener is on loopback, but so is every browser tab on this machine: a page can point a name of its own at
//! 127.0.0.1 (DNS rebinding) and can post across origins. The Host allow-list ends the first, the Origin check the
//! second; the token is asked for on top of both.

use axum::http::{HeaderMap, Uri, header};
use std::net::IpAddr;

/// Why somebody is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stranger {
    /// No Host, two, or an unreadable one.
    HostMalformed,
    /// A Host that is not ours.
    HostUnknown,
    /// A page of another origin.
    CrossOrigin,
    /// No token.
    NoToken,
    /// Another token.
    WrongToken,
}

/// The names under which the listener may be addressed, lower case, without ports.
#[derive(Clone, Debug)]
pub(crate) struct Hosts(Vec<String>);

impl Hosts {
    pub(crate) fn new(extra: &[String]) -> Hosts {
        let loopback = ["localhost", "127.0.0.1", "[::1]"].map(str::to_owned);
        Hosts(loopback.into_iter().chain(extra.iter().map(|host| host.to_ascii_lowercase())).collect())
    }

    /// Also by the address it listens on, where that is one address.
    pub(crate) fn and_address(mut self, address: IpAddr) -> Hosts {
        if !address.is_unspecified() {
            self.0.push(match address {
                IpAddr::V4(v4) => v4.to_string(),
                IpAddr::V6(v6) => format!("[{v6}]"),
            });
        }
        self
    }

    /// Lets a request in that came by one of our names and not from a page of another origin.
    pub(crate) fn admit(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), Stranger> {
        let mut hosts = headers.get_all(header::HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else { return Err(Stranger::HostMalformed) };
        let host = host.to_str().map_err(|_| Stranger::HostMalformed)?;
        let name = without_port(host).ok_or(Stranger::HostMalformed)?;
        let is_ours = |name: &str| self.0.iter().any(|ours| ours.eq_ignore_ascii_case(name));
        if !is_ours(name) {
            return Err(Stranger::HostUnknown);
        }
        // The absolute form names a host, too (RFC 9112 section 3.2.2).
        if let Some(authority) = uri.authority()
            && !without_port(authority.as_str()).is_some_and(is_ours)
        {
            return Err(Stranger::HostUnknown);
        }
        for origin in headers.get_all(header::ORIGIN) {
            let same = origin.to_str().is_ok_and(|origin| {
                let rest = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
                rest.is_some_and(|rest| rest.eq_ignore_ascii_case(host))
            });
            if !same {
                return Err(Stranger::CrossOrigin);
            }
        }
        // What a browser says of itself, where it says it.
        if headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site" || site == "same-site") {
            return Err(Stranger::CrossOrigin);
        }
        Ok(())
    }
}

/// The token that a request carries (RFC 6750 section 2.1). Never taken from the query: it would end up in logs.
pub(crate) fn bearer(headers: &HeaderMap) -> Result<&[u8], Stranger> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Err(Stranger::NoToken) };
    match value.as_bytes().split_at_checked(7) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(b"bearer ") => Ok(token.trim_ascii()),
        _ => Err(Stranger::NoToken),
    }
}

fn without_port(host: &str) -> Option<&str> {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let end = rest.find(']')? + 2;
            host.split_at_checked(end)?
        }
        None => host.split_at_checked(host.find(':').unwrap_or(host.len()))?,
    };
    let port_is_fine = match port.strip_prefix(':') {
        Some(digits) => digits.len() <= 5 && digits.bytes().all(|digit| digit.is_ascii_digit()),
        None => port.is_empty(),
    };
    (port_is_fine && !name.is_empty() && !name.contains('@')).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderName, HeaderValue};

    fn admit(pairs: &[(&'static str, &'static str)]) -> Result<(), Stranger> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        Hosts::new(&["ops.example".to_owned()]).admit(&Uri::from_static("/v1/x"), &headers)
    }

    #[test]
    fn only_our_own_names_open_the_door() {
        for ours in ["localhost", "LOCALHOST:9080", "127.0.0.1:1", "[::1]:9080", "[::1]", "ops.example:443"] {
            assert_eq!(admit(&[("host", ours)]), Ok(()), "{ours}");
        }
        for foreign in ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:9080", "[::2]", "127.0.0.2"] {
            assert_eq!(admit(&[("host", foreign)]), Err(Stranger::HostUnknown), "{foreign}");
        }
        for malformed in ["", ":9080", "a@localhost", "localhost:port", "[::1", "[::1]x", "localhost:123456"] {
            assert_eq!(admit(&[("host", malformed)]), Err(Stranger::HostMalformed), "{malformed}");
        }
        assert_eq!(admit(&[]), Err(Stranger::HostMalformed));
        assert_eq!(admit(&[("host", "localhost"), ("host", "localhost")]), Err(Stranger::HostMalformed));
    }

    #[test]
    fn a_page_of_another_origin_stays_outside() {
        assert_eq!(admit(&[("host", "localhost:1"), ("origin", "http://localhost:1")]), Ok(()));
        for origin in ["http://localhost:2", "http://localhost", "null", "http://evil.example", "", "localhost:1"] {
            assert_eq!(admit(&[("host", "localhost:1"), ("origin", origin)]), Err(Stranger::CrossOrigin), "{origin}");
        }
        assert_eq!(admit(&[("host", "localhost"), ("sec-fetch-site", "cross-site")]), Err(Stranger::CrossOrigin));
        assert_eq!(admit(&[("host", "localhost"), ("sec-fetch-site", "same-origin")]), Ok(()));
    }

    #[test]
    fn an_absolute_form_cannot_name_another_host() {
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("localhost"));
        let hosts = Hosts::new(&[]);
        assert_eq!(hosts.admit(&Uri::from_static("http://localhost:7/v1/x"), &headers), Ok(()));
        assert_eq!(hosts.admit(&Uri::from_static("http://evil.example/v1/x"), &headers), Err(Stranger::HostUnknown));
    }

    #[test]
    fn the_token_is_read_from_one_place() {
        let mut headers = HeaderMap::new();
        assert_eq!(bearer(&headers), Err(Stranger::NoToken));
        headers.insert("authorization", HeaderValue::from_static("bEARER abc "));
        assert_eq!(bearer(&headers), Ok(&b"abc"[..]));
        headers.insert("authorization", HeaderValue::from_static("Basic abc"));
        assert_eq!(bearer(&headers), Err(Stranger::NoToken));
        headers.insert("authorization", HeaderValue::from_static("Bearer a"));
        headers.append("authorization", HeaderValue::from_static("Bearer b"));
        assert_eq!(bearer(&headers), Err(Stranger::NoToken));
    }
}
