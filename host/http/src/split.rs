//! Traffic split over several outlets: by what a request says, then by weight; sticky if it is told by what.
//!
//! The choice is a function of the exchange: of its id, which differs for each, or of what it sticks to, so that every core
//! and every node chooses alike.

use crate::routes::{Arrival, Test, cookies};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::net::IpAddr;
use std::rc::Rc;
use wharf_core::LocalBoxFuture;
use wharf_core::exchange::{Answer, Exchange, Facts};
use wharf_core::fault::{Blame, Fault, FaultKind, Retry};
use wharf_core::outlet::{Outlet, Wish};

/// What a request sticks to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sticky {
    /// The client's address.
    Client,
    /// The value of this field, in lower case; who does not send it is dealt out by the client's address.
    Header(Box<str>),
    /// The value of this cookie; likewise.
    Cookie(Box<str>),
}

/// One way to go.
pub struct Arm {
    /// Requests that pass all of these go here, before weights are looked at. Empty: only by weight.
    pub tests: Vec<Test>,
    /// Its part of the rest; 0: none.
    pub weight: u32,
    /// Who is asked.
    pub outlet: Rc<dyn Outlet>,
    /// With this wish.
    pub wish: Wish,
}

/// A split.
pub struct Split {
    /// The ways, in the order in which their tests are tried.
    pub arms: Vec<Arm>,
    /// What a request sticks to; `None`: each is dealt out anew.
    pub sticky: Option<Sticky>,
}

impl Split {
    fn arm(&self, facts: &Facts) -> Option<&Arm> {
        // Of headers and cookies only.
        let from = Arrival { client: facts.client, listener: "" };
        let passes = |arm: &&Arm| !arm.tests.is_empty() && arm.tests.iter().all(|test| test.fits(&facts.request, from));
        if let Some(arm) = self.arms.iter().find(passes) {
            return Some(arm);
        }
        let all: u64 = self.arms.iter().map(|arm| u64::from(arm.weight)).sum();
        let mut at = number(facts, self.sticky.as_ref()).checked_rem(all)?;
        self.arms.iter().find(|arm| match at.checked_sub(arm.weight.into()) {
            Some(rest) => {
                at = rest;
                false
            }
            None => true,
        })
    }
}

/// An even number for an exchange.
pub(crate) fn number(facts: &Facts, sticky: Option<&Sticky>) -> u64 {
    // With fixed keys: nodes must agree, and who sends the value may choose it anyway.
    let mut hasher = DefaultHasher::new();
    let client = |hasher: &mut DefaultHasher, address: IpAddr| address.to_canonical().hash(hasher);
    match sticky {
        None => (facts.id.time, facts.id.serial).hash(&mut hasher),
        Some(Sticky::Client) => client(&mut hasher, facts.client),
        Some(Sticky::Header(name)) => match facts.request.fields.get(name.as_bytes()) {
            Some(value) => value.hash(&mut hasher),
            None => client(&mut hasher, facts.client),
        },
        Some(Sticky::Cookie(name)) => match cookies(&facts.request).find(|(have, _)| *have == name.as_bytes()) {
            Some((_, value)) => value.hash(&mut hasher),
            None => client(&mut hasher, facts.client),
        },
    }
    hasher.finish()
}

impl Outlet for Split {
    fn call<'a>(&'a self, exchange: &'a mut Exchange, _: &'a Wish) -> LocalBoxFuture<'a, Result<Answer, Fault>> {
        match self.arm(&exchange.facts) {
            Some(arm) => arm.outlet.call(exchange, &arm.wish),
            None => {
                Box::pin(async { Err(Fault::new(FaultKind::NoRoute, Blame::Host, Retry::Never, "all weights of the route's split are 0")) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::Wanted;

    struct Nobody;

    impl Outlet for Nobody {
        fn call<'a>(&'a self, _: &'a mut Exchange, _: &'a Wish) -> LocalBoxFuture<'a, Result<Answer, Fault>> {
            unreachable!("only chosen")
        }
    }

    fn arm(name: &str, weight: u32, tests: Vec<Test>) -> Arm {
        Arm { tests, weight, outlet: Rc::new(Nobody), wish: Wish { subset: Some(name.into()) } }
    }

    fn chosen<'s>(split: &'s Split, facts: &Facts) -> Option<&'s str> {
        split.arm(facts).and_then(|arm| arm.wish.subset.as_deref())
    }

    fn facts(serial: u64, cookie: &str) -> Facts {
        let mut facts = Facts::default();
        facts.id.serial = serial;
        facts.request.fields.add(b"cookie", cookie.as_bytes());
        facts
    }

    #[test]
    fn shares_are_those_of_the_weights() {
        let split = Split { arms: vec![arm("a", 90, vec![]), arm("b", 10, vec![]), arm("c", 0, vec![])], sticky: None };
        let mut counts = [0; 3];
        for serial in 0..100_000 {
            let at = ["a", "b", "c"].iter().position(|name| Some(*name) == chosen(&split, &facts(serial, ""))).unwrap();
            counts[at] += 1;
        }
        assert!((89_500..90_500).contains(&counts[0]) && counts[2] == 0, "{counts:?}");
    }

    #[test]
    fn who_passes_the_tests_goes_there_whatever_the_weights() {
        let test = Test::Cookie("lane".into(), Wanted::Exact(b"gray"[..].into()));
        let split = Split { arms: vec![arm("live", 1, vec![]), arm("gray", 0, vec![test])], sticky: None };
        assert_eq!(chosen(&split, &facts(1, "lane=gray")), Some("gray"));
        assert_eq!(chosen(&split, &facts(1, "lane=blue")), Some("live"));
        let none = Split { arms: vec![arm("a", 0, vec![])], sticky: None };
        assert_eq!(chosen(&none, &facts(1, "")), None);
    }

    #[test]
    fn who_sticks_stays() {
        let split = Split { arms: vec![arm("a", 1, vec![]), arm("b", 1, vec![])], sticky: Some(Sticky::Cookie("s".into())) };
        let mut seen = [0, 0];
        for user in 0..1000 {
            let first = chosen(&split, &facts(1, &format!("s={user}")));
            assert!((2..20).all(|serial| chosen(&split, &facts(serial, &format!("x=1; s={user}"))) == first), "{user}");
            seen[usize::from(first == Some("b"))] += 1;
        }
        assert!(seen.iter().all(|count| *count > 400), "{seen:?}");
    }
}
