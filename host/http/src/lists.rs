//! Whom a route lets in: lists of addresses and of header values. What denies goes before what allows.

use crate::house::Cidr;
use crate::routes::{Arrival, Test, Wanted};
use std::net::IpAddr;
use wharf_core::LocalBoxFuture;
use wharf_core::edit::Edits;
use wharf_core::exchange::Facts;
use wharf_core::fault::{Fault, FaultKind};
use wharf_core::head::{RequestHead, is_spelling_of};
use wharf_core::rules::{Authenticate, Decision};

/// The lists of one route.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lists {
    /// Only these addresses; empty: all.
    pub allow_sources: Vec<Cidr>,
    /// Not these addresses.
    pub deny_sources: Vec<Cidr>,
    /// Only requests that pass all of these.
    pub allow: Vec<Test>,
    /// No requests that pass one of these.
    pub deny: Vec<Test>,
}

impl Lists {
    /// Why a request is not let in; `None`: it is.
    fn denies(&self, head: &RequestHead, client: IpAddr) -> Option<String> {
        let holds = |ranges: &[Cidr]| ranges.iter().any(|range| range.holds(client));
        if holds(&self.deny_sources) {
            return Some(format!("address {client} is on the list of those that are denied"));
        }
        if !self.allow_sources.is_empty() && !holds(&self.allow_sources) {
            return Some(format!("address {client} is not on the list of those that are allowed"));
        }
        let from = Arrival { client, listener: "" };
        if let Some(test) = self.deny.iter().find(|test| is_denied(test, head, from)) {
            return Some(format!("{test} has a value that is denied"));
        }
        let missing = self.allow.iter().find(|test| !is_allowed(test, head, from))?;
        Some(format!("{missing} has no value that is allowed, or one that is not"))
    }
}

/// Many servers behind read `_` in a name as `-`: one value that is denied is enough, in whichever spelling.
fn is_denied(test: &Test, head: &RequestHead, from: Arrival<'_>) -> bool {
    let in_other_spelling =
        |wanted: &Wanted, name: &str| *wanted != Wanted::Absent && aliases(head, name).any(|value| wanted.fits_one(value));
    test.fits(head, from) || matches!(test, Test::Header(name, wanted) if in_other_spelling(wanted, name))
}

/// Whichever of several values the service takes, it must be one that is allowed; and so must what it may take for one.
fn is_allowed(test: &Test, head: &RequestHead, from: Arrival<'_>) -> bool {
    let Test::Header(name, wanted) = test else { return test.fits(head, from) };
    let mut all = head.fields.all(name.as_bytes()).chain(aliases(head, name));
    test.fits(head, from) && all.all(|value| wanted.fits_one(value))
}

/// The values of fields that are named like this one but for `_` in the place of `-`.
fn aliases<'h>(head: &'h RequestHead, name: &str) -> impl Iterator<Item = &'h [u8]> {
    let name = name.as_bytes();
    head.fields.iter().filter(move |(_, have, _)| *have != name && is_spelling_of(have, name)).map(|(_, _, value)| value)
}

impl Authenticate for Lists {
    fn check<'a>(&'a self, facts: &'a mut Facts) -> LocalBoxFuture<'a, Result<Decision, Fault>> {
        let said = match self.denies(&facts.request, facts.client) {
            None => Ok(Decision::Next(Edits::default())),
            Some(why) => Err(Fault::caller(FaultKind::Denied, format!("route {:?}: {why} (`access`)", facts.route))),
        };
        Box::pin(async { said })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_core::head::Method;

    #[test]
    fn what_denies_goes_before_what_allows() {
        let range = |address: [u8; 4], bits| Cidr { address: IpAddr::from(address), bits };
        let lists = Lists {
            allow_sources: vec![range([10, 0, 0, 0], 8)],
            deny_sources: vec![range([10, 9, 0, 0], 16)],
            allow: vec![Test::Header("x-tenant".into(), Wanted::Present)],
            deny: vec![Test::Header("user-agent".into(), Wanted::Prefix(b"bad"[..].into()))],
        };
        for (client, agent, tenant, says) in [
            ([10, 1, 1, 1], "good", true, None),
            ([10, 9, 1, 1], "good", true, Some("denied")),
            ([11, 0, 0, 1], "good", true, Some("not on the list")),
            ([10, 1, 1, 1], "bad bot", true, Some("`user-agent` has a value that is denied")),
            ([10, 1, 1, 1], "good", false, Some("`x-tenant` has no value")),
        ] {
            let mut head = RequestHead::from_text(Method::Get, "h", "/", None);
            head.fields.add(b"user-agent", agent.as_bytes());
            if tenant {
                head.fields.add(b"x-tenant", b"acme");
            }
            let said = lists.denies(&head, client.into());
            assert_eq!(said.is_some(), says.is_some(), "{said:?}");
            assert!(said.unwrap_or_default().contains(says.unwrap_or_default()));
        }
        assert_eq!(Lists::default().denies(&RequestHead::default(), [1, 2, 3, 4].into()), None);
    }

    #[test]
    fn whichever_value_the_service_takes_it_is_one_that_is_allowed() {
        let exact = |name: &str, value: &[u8]| Test::Header(name.into(), Wanted::Exact(value.into()));
        let lists = Lists {
            allow: vec![exact("x-tenant", b"acme")],
            deny: vec![Test::Header("x-debug".into(), Wanted::Present)],
            ..Lists::default()
        };
        for (fields, good) in [
            (&[("x-tenant", "acme")][..], true),
            (&[("x-tenant", "acme"), ("x-tenant", "acme")], true),
            (&[("x-tenant", "acme"), ("x_tenant", "acme")], true),
            (&[("x-tenant", "acme"), ("x-tenants", "evil")], true),
            (&[("x-tenant", "acme"), ("x-tenant", "evil")], false),
            (&[("x-tenant", "evil"), ("x-tenant", "acme")], false),
            (&[("x-tenant", "acme"), ("x_tenant", "evil")], false),
            (&[("x_tenant", "acme")], false),
            (&[("x-tenant", "acme"), ("x_debug", "1")], false),
        ] {
            let mut head = RequestHead::from_text(Method::Get, "h", "/", None);
            fields.iter().for_each(|(name, value)| head.fields.add(name.as_bytes(), value.as_bytes()));
            assert_eq!(lists.denies(&head, [10, 0, 0, 1].into()).is_none(), good, "{fields:?}");
        }
    }

    #[test]
    fn an_address_in_the_form_of_the_other_protocol_is_the_same_address() {
        let lists = Lists { deny_sources: vec![Cidr { address: [10, 0, 0, 0].into(), bits: 8 }], ..Lists::default() };
        assert!(lists.denies(&RequestHead::default(), "::ffff:10.1.2.3".parse().unwrap()).is_some());
    }
}
