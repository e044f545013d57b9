//! Core's questions put to guests, one file per role: the noun that goes in, the noun that comes out.
//!
//! Each rule is made from a version that has proved itself and from this core's part of the room. Rules of the same
//! version share its instances; dropping the rule of an old generation leaves them to the new one.

mod auth;
mod degrade;
mod filter;
mod route;

use crate::core::WasmCore;
use crate::error::Broken;
use crate::instance::Instance;
use crate::limits::BODY_MAX;
use crate::pool::Pool;
use crate::ready::{Fact, Ready, Role};
use bytes::Bytes;
use std::rc::Rc;
use std::sync::Arc;
use wharf_core::edit::{self, BadEdit, EDITS_MAX, Edit, Edits};
use wharf_core::exchange::Facts;
use wharf_core::head::{Fields, Method};
use wharf_core::rules::{Authenticate, Decision, Degrade, Filter, Route, RuleReply};
use wharf_wasm_bindings::types as wit;

/// A version's auth rule; `None` if it has not that role. With `last_good` (the attachment's policy `last-good`) a
/// question that the version fails by its own fault is asked again of that one.
pub fn auth(core: &Rc<WasmCore>, ready: &Arc<Ready>, last_good: Option<&Arc<Ready>>) -> Option<Rc<dyn Authenticate>> {
    Some(Rc::new(auth::Rule(Asked::new(core, ready, last_good, Role::Auth)?)))
}

/// A version's route rule; see [`auth`].
pub fn route(core: &Rc<WasmCore>, ready: &Arc<Ready>, last_good: Option<&Arc<Ready>>) -> Option<Rc<dyn Route>> {
    Some(Rc::new(route::Rule(Asked::new(core, ready, last_good, Role::Route)?)))
}

/// A version's filter rule; see [`auth`].
pub fn filter(core: &Rc<WasmCore>, ready: &Arc<Ready>, last_good: Option<&Arc<Ready>>) -> Option<Rc<dyn Filter>> {
    Some(Rc::new(filter::Rule(Asked::new(core, ready, last_good, Role::Filter)?)))
}

/// A version's degrade rule; see [`auth`].
pub fn degrade(core: &Rc<WasmCore>, ready: &Arc<Ready>, last_good: Option<&Arc<Ready>>) -> Option<Rc<dyn Degrade>> {
    Some(Rc::new(degrade::Rule(Asked::new(core, ready, last_good, Role::Degrade)?)))
}

/// Who is asked: the version's pool on this core, and the last good version's.
struct Asked {
    pool: Rc<Pool>,
    last_good: Option<Rc<Pool>>,
}

impl Asked {
    fn new(core: &Rc<WasmCore>, ready: &Arc<Ready>, last_good: Option<&Arc<Ready>>, role: Role) -> Option<Asked> {
        if !ready.code.roles().contains(&role) {
            return None;
        }
        let last_good = last_good.filter(|last| last.serial != ready.serial && last.code.roles().contains(&role));
        Some(Asked { pool: core.pool(ready), last_good: last_good.map(|last| core.pool(last)) })
    }
}

/// A question to an export that the role check has found. It is there in every instance of the same code.
fn found<T: Copy>(export: Option<T>) -> Result<T, Broken> {
    export.ok_or_else(|| Broken::Internal("an export of the role is gone".into()))
}

/// What a guest asked to be handed, in the form the contract passes it.
enum Handed<'a> {
    /// No more than this, and each is text that the exchange holds: nothing is allocated.
    Few([Option<&'a str>; FEW], usize),
    Many(Vec<Option<&'a str>>),
}

const FEW: usize = 6;

/// Texts that the exchange does not hold in one piece, and their places: several fields joined, bytes that are not UTF-8,
/// an address. They have to live somewhere while they are passed, so they are made before the list that points to them.
type Made = Vec<(usize, String)>;

impl<'a> Handed<'a> {
    fn new(asked: &[Fact], facts: &'a Facts, fields: &'a Fields, made: &'a mut Made) -> Handed<'a> {
        if asked.len() <= FEW {
            let mut few = [None; FEW];
            if asked.iter().zip(&mut few).all(|(fact, place)| held(fact, facts, fields).map(|value| *place = value).is_some()) {
                return Handed::Few(few, asked.len());
            }
        }
        Handed::made(asked, facts, fields, made)
    }

    #[cold]
    fn made(asked: &[Fact], facts: &'a Facts, fields: &'a Fields, made: &'a mut Made) -> Handed<'a> {
        let make = |(at, fact): (usize, &Fact)| match (held(fact, facts, fields), fact) {
            (None, Fact::Header(name)) => fields.joined(name.as_bytes()).map(|text| (at, text.into_owned())),
            (None, Fact::Peer) => Some((at, facts.client.to_string())),
            _ => None,
        };
        *made = asked.iter().enumerate().filter_map(make).collect();
        let mut made = made.iter().peekable();
        let value = |(at, fact): (usize, &Fact)| match made.next_if(|(place, _)| *place == at) {
            Some((_, text)) => Some(text.as_str()),
            None => held(fact, facts, fields).flatten(),
        };
        Handed::Many(asked.iter().enumerate().map(value).collect())
    }

    fn list(&self) -> &[Option<&'a str>] {
        match self {
            Handed::Few(few, len) => few.get(..*len).unwrap_or_default(),
            Handed::Many(many) => many,
        }
    }

    fn request<'s>(&'s self, facts: &'s Facts) -> wit::RequestHead<'s> {
        wit::RequestHead { method: method(&facts.request.method), facts: self.list() }
    }
}

/// A fact as the exchange holds it. `Some(None)`: there is no such thing. `None`: its text must be made.
fn held<'a>(fact: &Fact, facts: &'a Facts, fields: &'a Fields) -> Option<Option<&'a str>> {
    Some(match fact {
        Fact::Path => Some(facts.request.path()),
        Fact::Query => facts.request.query(),
        Fact::Authority => Some(facts.request.authority()),
        Fact::Scheme => Some(facts.request.scheme.as_str()),
        Fact::Peer => return None,
        Fact::Route => Some(&facts.route),
        Fact::Header(name) => {
            let mut all = fields.all(name.as_bytes());
            match (all.next(), all.next()) {
                (None, _) => None,
                (Some(value), None) => Some(std::str::from_utf8(value).ok()?),
                (Some(_), Some(_)) => return None,
            }
        }
        Fact::Attr(name) => facts.attrs.get(name),
    })
}

fn method(method: &Method) -> wit::Method<'_> {
    match method {
        Method::Get => wit::Method::Get,
        Method::Head => wit::Method::Head,
        Method::Post => wit::Method::Post,
        Method::Put => wit::Method::Put,
        Method::Delete => wit::Method::Delete,
        Method::Options => wit::Method::Options,
        Method::Patch => wit::Method::Patch,
        Method::Connect => wit::Method::Connect,
        Method::Trace => wit::Method::Trace,
        Method::Other(token) => wit::Method::Other(token),
    }
}

/// Edits in core's noun, in the list they came in.
fn edits(said: Vec<wit::Edit>) -> Vec<Edit> {
    let edit = |edit| match edit {
        wit::Edit::Set((name, value)) => Edit::Set(name, value),
        wit::Edit::Add((name, value)) => Edit::Add(name, value),
        wit::Edit::Remove(name) => Edit::Remove(name),
        wit::Edit::Path(path) => Edit::Path(path),
        wit::Edit::Attr((name, value)) => Edit::Attr(name, value),
    };
    said.into_iter().map(edit).collect()
}

/// Edits that keep the contract, or else the version's fault: it is counted, it counts against the version, and the last
/// good one may be asked instead. (Where they are applied it would be too late for that.)
fn lawful(checked: Result<Edits, BadEdit>) -> Result<Edits, Broken> {
    checked.map_err(|bad| Broken::Answer(bad.to_string()))
}

fn reply(said: wit::Reply) -> Result<RuleReply, Broken> {
    if !(200..=599).contains(&said.status) {
        return Err(Broken::Answer(format!("status {} is not within 200 to 599", said.status)));
    }
    if said.body.len() > BODY_MAX {
        return Err(Broken::Answer(format!("a body of {} bytes, and at most {BODY_MAX} are allowed", said.body.len())));
    }
    if said.headers.len() > EDITS_MAX {
        return Err(Broken::Answer(format!("{} fields in a reply, and at most {EDITS_MAX} are allowed", said.headers.len())));
    }
    edit::check_fields(said.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())))
        .map_err(|bad| Broken::Answer(bad.to_string()))?;
    Ok(RuleReply { status: said.status, fields: said.headers, body: Bytes::from(said.body) })
}

fn decision(said: wit::Decision, facts: &Facts) -> Result<Decision, Broken> {
    Ok(match said {
        wit::Decision::Next(said) => Decision::Next(lawful(Edits::for_request(edits(said), &facts.attrs))?),
        wit::Decision::Reply(said) => Decision::Reply(reply(said)?),
    })
}

/// `check` and `on-request` have one shape.
async fn decide(instance: &mut Instance, facts: &Facts, export: Option<crate::instance::Decide>) -> Result<Decision, Broken> {
    let mut made = Made::new();
    let handed = Handed::new(&instance.needs.request, facts, &facts.request.fields, &mut made);
    let (said,) = found(export)?.call_async(&mut instance.store, (handed.request(facts),)).await?;
    decision(said, facts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_core::edit::EDIT_TEXT_MAX;
    use wharf_core::head::RequestHead;

    #[test]
    fn facts_come_in_the_order_asked_for_whatever_they_are() {
        let mut facts = Facts { request: RequestHead::from_text(Method::Get, "shop.example:8080", "/a", Some("")), ..Facts::default() };
        facts.request.fields.add(b"x-twice", b"a");
        facts.request.fields.add(b"x-once", b"1");
        facts.request.fields.add(b"x-twice", b"b");
        facts.request.fields.add(b"x-latin", b"caf\xe9");
        facts.attrs.set("consumer", "me");
        (facts.client, facts.route) = ([192, 0, 2, 1].into(), "shop".into());
        let header = |name: &str| Fact::Header(name.into());
        let attr = |name: &str| Fact::Attr(name.into());
        let all = [
            (header("x-latin"), Some("caf\u{e9}")),
            (Fact::Peer, Some("192.0.2.1")),
            (header("x-none"), None),
            (header("x-twice"), Some("a, b")),
            (Fact::Route, Some("shop")),
            (header("x-once"), Some("1")),
            (Fact::Query, Some("")),
            (attr("tenant"), None),
            (Fact::Path, Some("/a")),
            (Fact::Authority, Some("shop.example:8080")),
            (attr("consumer"), Some("me")),
            (Fact::Scheme, Some("http")),
        ];
        // Each alone, some, and all: by whichever way they are handed.
        for from in 0..all.len() {
            for to in from..=all.len() {
                let (asked, values): (Vec<Fact>, Vec<Option<&str>>) = all[from..to].iter().cloned().unzip();
                let mut made = Made::new();
                let handed = Handed::new(&asked, &facts, &facts.request.fields, &mut made);
                assert_eq!(handed.list(), values, "{asked:?}");
            }
        }
    }

    #[test]
    fn answers_beyond_their_bounds_are_the_plugins_fault() {
        let next = |said: Vec<wit::Edit>| decision(wit::Decision::Next(said), &Facts::default());
        assert!(next((0..=EDITS_MAX).map(|_| wit::Edit::Remove("a".into())).collect()).is_err());
        assert!(next(vec![wit::Edit::Set(("a".into(), "b".repeat(EDIT_TEXT_MAX)))]).is_err());
        assert!(next(vec![wit::Edit::Set(("a".into(), "b".into()))]).is_ok());
        let answer = |body: usize, fields: usize| wit::Reply {
            status: 200,
            headers: (0..fields).map(|_| ("a".into(), "b".into())).collect(),
            body: vec![0; body],
        };
        assert!(reply(answer(BODY_MAX, 1)).is_ok());
        assert!(reply(answer(BODY_MAX + 1, 1)).is_err());
        assert!(reply(answer(0, EDITS_MAX + 1)).is_err());
    }
}
