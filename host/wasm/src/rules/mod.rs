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
use crate::ready::{Ready, Role};
use bytes::Bytes;
use std::rc::Rc;
use std::sync::Arc;
use wharf_core::edit::{self, EDIT_TEXT_MAX, EDITS_MAX, Edit};
use wharf_core::exchange::{Attrs, Facts};
use wharf_core::head::{Fields, Known, Method, RequestHead};
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

/// The values of the fields and attributes that a guest asked for, in the form the contract passes them.
struct Values<'a> {
    headers: Vec<Option<&'a str>>,
    attrs: Vec<Option<&'a str>>,
}

/// Text that a head does not hold in one piece, and for which of the names: several fields joined, or bytes that are not
/// UTF-8. It has to live somewhere while it is passed, so it is made before the values that point into it.
#[derive(Default)]
struct Joined(Vec<(usize, String)>);

impl<'a> Values<'a> {
    /// Nearly always each field is there once and is UTF-8; then nothing is copied and `joined` stays empty.
    fn new(fields: &'a Fields, names: &[Box<str>], joined: &'a mut Joined, attrs: &'a Attrs, attr_names: &[Box<str>]) -> Values<'a> {
        let headers = names.iter().map(|name| plain(fields, name)).collect::<Option<Vec<_>>>();
        let headers = headers.unwrap_or_else(|| {
            let made = |(at, name): (usize, &str)| match plain(fields, name) {
                Some(_) => None,
                None => fields.joined(name.as_bytes()).map(|text| (at, text.into_owned())),
            };
            joined.0 = names.iter().map(AsRef::as_ref).enumerate().filter_map(made).collect();
            let mut made = joined.0.iter().peekable();
            let value = |(at, name): (usize, &str)| match made.next_if(|(place, _)| *place == at) {
                Some((_, text)) => Some(text.as_str()),
                None => plain(fields, name).flatten(),
            };
            names.iter().map(AsRef::as_ref).enumerate().map(value).collect()
        });
        Values { headers, attrs: attr_names.iter().map(|name| attrs.get(name)).collect() }
    }

    fn request(&'a self, request: &'a RequestHead) -> wit::RequestHead<'a> {
        wit::RequestHead { method: method(&request.method), path: request.path(), headers: &self.headers, attrs: &self.attrs }
    }
}

/// `Some(None)`: there is no such field. `None`: its text must be made.
fn plain<'a>(fields: &'a Fields, name: &str) -> Option<Option<&'a str>> {
    let known = Known::of(name.as_bytes());
    let mut all = fields.iter().filter(|(have, text, _)| *have == known && (known != Known::Other || *text == name.as_bytes()));
    match (all.next(), all.next()) {
        (None, _) => Some(None),
        (Some((_, _, value)), None) => std::str::from_utf8(value).ok().map(Some),
        (Some(_), Some(_)) => None,
    }
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

/// Edits in core's noun. What would be costly to carry is refused here, their content by [`lawful`].
fn edits(said: Vec<wit::Edit>) -> Result<Vec<Edit>, Broken> {
    if said.len() > EDITS_MAX {
        return Err(Broken::Answer(format!("{} edits, and at most {EDITS_MAX} are allowed", said.len())));
    }
    let mut text = 0;
    let edits = said
        .into_iter()
        .map(|edit| {
            text += match &edit {
                wit::Edit::Set(pair) | wit::Edit::Add(pair) | wit::Edit::Attr(pair) => pair.0.len() + pair.1.len(),
                wit::Edit::Remove(one) | wit::Edit::Path(one) => one.len(),
            };
            match edit {
                wit::Edit::Set((name, value)) => Edit::Set(name, value),
                wit::Edit::Add((name, value)) => Edit::Add(name, value),
                wit::Edit::Remove(name) => Edit::Remove(name),
                wit::Edit::Path(path) => Edit::Path(path),
                wit::Edit::Attr((name, value)) => Edit::Attr(name, value),
            }
        })
        .collect();
    if text > EDIT_TEXT_MAX {
        return Err(Broken::Answer(format!("{text} bytes of edits, and at most {EDIT_TEXT_MAX} are allowed")));
    }
    Ok(edits)
}

/// Edits whose content keeps the contract. The road checks again where it applies them; here a bad one is still known as
/// this version's fault: it is counted, it counts against the version, and the last good one may be asked instead.
fn lawful(edits: Vec<Edit>, facts: &Facts, request: bool) -> Result<Vec<Edit>, Broken> {
    match edit::check_edits(&edits, &facts.attrs, request) {
        Ok(()) => Ok(edits),
        Err(bad) => Err(Broken::Answer(bad.to_string())),
    }
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
        wit::Decision::Next(said) => Decision::Next(lawful(edits(said)?, facts, true)?),
        wit::Decision::Reply(said) => Decision::Reply(reply(said)?),
    })
}

/// `check` and `on-request` have one shape.
async fn decide(instance: &mut Instance, facts: &Facts, export: Option<crate::instance::Decide>) -> Result<Decision, Broken> {
    let (store, needs) = (&mut instance.store, &instance.needs);
    let mut joined = Joined::default();
    let values = Values::new(&facts.request.fields, &needs.request_headers, &mut joined, &facts.attrs, &needs.attrs);
    let (said,) = found(export)?.call_async(store, (values.request(&facts.request),)).await?;
    decision(said, facts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_in_the_order_asked_for_whatever_they_are() {
        let mut fields = Fields::default();
        fields.add(b"x-twice", b"a");
        fields.add(b"x-once", b"1");
        fields.add(b"x-twice", b"b");
        fields.add(b"x-latin", b"caf\xe9");
        let names: Vec<Box<str>> = ["x-latin", "x-none", "x-twice", "x-once"].into_iter().map(Box::from).collect();
        let mut attrs = Attrs::default();
        attrs.set("consumer", "me");
        let mut joined = Joined::default();
        let values = Values::new(&fields, &names, &mut joined, &attrs, &["tenant".into(), "consumer".into()]);
        assert_eq!(values.headers, [Some("caf\u{e9}"), None, Some("a, b"), Some("1")]);
        assert_eq!(values.attrs, [None, Some("me")]);
    }

    #[test]
    fn answers_beyond_their_bounds_are_the_plugins_fault() {
        assert!(edits((0..=EDITS_MAX).map(|_| wit::Edit::Remove("a".into())).collect()).is_err());
        assert!(edits(vec![wit::Edit::Set(("a".into(), "b".repeat(EDIT_TEXT_MAX)))]).is_err());
        assert!(edits(vec![wit::Edit::Set(("a".into(), "b".into()))]).is_ok());
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
