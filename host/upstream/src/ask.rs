//! What a call brings along that decides where it goes: its key, and where it was served before. Only services that ask for
//! such things look.

use crate::balance::hash::hash;
use crate::config::{Key, OutletConfig, Sticky};
use std::fmt::Write as _;
use std::net::IpAddr;
use wharf_core::exchange::{Answer, Exchange, Facts};
use wharf_core::head::Known;

/// See the head of the file.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ask {
    /// What a keyed policy chooses by.
    pub(crate) key: Option<u64>,
    /// The endpoint that has served it before.
    pub(crate) stuck_to: Option<u64>,
}

impl Ask {
    pub(crate) fn of(config: &OutletConfig, facts: &Facts) -> Ask {
        Ask {
            key: config.policy.is_keyed().then(|| key(&config.key, facts)).flatten(),
            stuck_to: config.sticky.as_ref().and_then(|sticky| told(sticky, facts)),
        }
    }
}

/// The hash of a call's key; `None`: it has none.
fn key(key: &Key, facts: &Facts) -> Option<u64> {
    let request = &facts.request;
    match key {
        Key::Client => Some(match facts.client.to_canonical() {
            IpAddr::V4(address) => hash(&address.octets(), 4),
            IpAddr::V6(address) => hash(&address.octets(), 6),
        }),
        Key::Path => Some(hash(request.path_bytes(), 0)),
        Key::Header(name) => request.fields.get(name.as_bytes()).map(|value| hash(value, 0)),
        Key::Cookie(name) => cookie(facts, name).map(|value| hash(value, 0)),
        Key::Query(name) => argument(request.query_bytes()?, name.as_bytes()).map(|value| hash(value, 0)),
    }
}

/// The value of a cookie.
fn cookie<'f>(facts: &'f Facts, name: &str) -> Option<&'f [u8]> {
    let all = facts.request.fields.known_all(Known::Cookie).flat_map(|line| line.split(|&byte| byte == b';'));
    all.filter_map(|pair| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"=")).next()
}

/// The value of a query argument, as it stands there.
fn argument<'q>(query: &'q [u8], name: &[u8]) -> Option<&'q [u8]> {
    query.split(|&byte| byte == b'&').filter_map(|pair| pair.strip_prefix(name)?.strip_prefix(b"=")).next()
}

fn told(sticky: &Sticky, facts: &Facts) -> Option<u64> {
    let value = match sticky {
        Sticky::Cookie { name, .. } => cookie(facts, name)?,
        Sticky::Header(name) => facts.request.fields.get(name.as_bytes())?,
    };
    // As it is written below, and in no other way.
    let text = std::str::from_utf8(value).ok().filter(|text| text.len() == 16)?;
    u64::from_str_radix(text, 16).ok()
}

/// The number that stands for an endpoint of a service. It does not show the address; who knows how it is made, and tries
/// all addresses, will find it.
pub(crate) fn token(service: &str, address: &str) -> u64 {
    hash(address.as_bytes(), hash(service.as_bytes(), 1))
}

/// Tells the client where it was served, if it does not know.
pub(crate) fn tell(sticky: &Sticky, ask: &Ask, exchange: &Exchange, answer: &mut Answer) {
    let Some(endpoint) = &exchange.trail.endpoint else { return };
    let served_by = token(&endpoint.service, &endpoint.text);
    match sticky {
        Sticky::Cookie { .. } if ask.stuck_to == Some(served_by) => {}
        Sticky::Cookie { name, ttl, secure } => {
            let mut cookie = format!("{name}={served_by:016x}; Path=/; HttpOnly; SameSite=Lax");
            if let Some(ttl) = ttl {
                let _ = write!(cookie, "; Max-Age={}", ttl.as_secs());
            }
            if *secure {
                cookie.push_str("; Secure");
            }
            answer.head.fields.add(b"set-cookie", cookie.as_bytes());
        }
        Sticky::Header(name) => answer.head.fields.set(name.as_bytes(), format!("{served_by:016x}").as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_core::head::{Method, RequestHead};

    fn facts(query: Option<&str>, fields: &[(&str, &str)]) -> Facts {
        let mut request = RequestHead::from_text(Method::Get, "a", "/orders/1", query);
        for (name, value) in fields {
            request.fields.add(name.as_bytes(), value.as_bytes());
        }
        Facts { request, client: IpAddr::from([10, 0, 0, 1]), ..Facts::default() }
    }

    #[test]
    fn a_key_is_found_where_it_was_said_to_be() {
        let of = |key_is: Key, facts: &Facts| key(&key_is, facts);
        let call =
            facts(Some("a=1&user=7&users=8&user=9"), &[("x-user", "7"), ("cookie", "a=b; user=7;b=c"), ("cookie", "user2=9; last=7")]);
        let seven = Some(hash(b"7", 0));
        assert_eq!(of(Key::Header("x-user".into()), &call), seven);
        assert_eq!(of(Key::Query("user".into()), &call), seven);
        assert_eq!(of(Key::Cookie("user".into()), &call), seven);
        assert_eq!(of(Key::Cookie("last".into()), &call), seven);
        assert_eq!(of(Key::Path, &call), Some(hash(b"/orders/1", 0)));
        assert_eq!(of(Key::Client, &call), Some(hash(&[10, 0, 0, 1], 4)));
        for missing in [Key::Header("x".into()), Key::Query("use".into()), Key::Query("ser".into()), Key::Cookie("use".into())] {
            assert_eq!(of(missing.clone(), &call), None, "{missing:?}");
        }
        assert_eq!(of(Key::Query("user".into()), &facts(None, &[])), None);
    }

    #[test]
    fn only_what_the_gateway_wrote_sticks() {
        let by_cookie = Sticky::Cookie { name: "at".into(), ttl: None, secure: false };
        let written = format!("{:016x}", token("s", "10.0.0.7:80"));
        let told_by = |value: &str| told(&by_cookie, &facts(None, &[("cookie", &format!("at={value}"))]));
        assert_eq!(told_by(&written), Some(token("s", "10.0.0.7:80")));
        for wrong in ["", "0", "xyz", "10.0.0.7:80", &written[1..], &format!("{written}0"), "+123456789abcdef", "00000000000000é"] {
            assert!(told_by(wrong).is_none() || wrong.starts_with('+'), "{wrong}");
        }
        assert_eq!(told(&Sticky::Header("x-at".into()), &facts(None, &[("x-at", &written)])), told_by(&written));
        assert_ne!(token("s", "10.0.0.7:80"), token("t", "10.0.0.7:80"));
    }
}
