//! Edits: what rules ask to have changed, held to what a client is held to.
//!
//! All or nothing: an answer with one bad edit changes nothing and is a fault of its plugin.

use crate::exchange::{Attrs, Facts};
use crate::head::{Fields, Known};
use std::fmt;

/// One change asked for by a rule. See `edit` in `wharf:types` for the contract.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Replace all fields of this name by one.
    Set(String, String),
    /// Add a field.
    Add(String, String),
    /// Remove all fields of this name.
    Remove(String),
    /// Replace the path.
    Path(String),
    /// Set an attribute.
    Attr(String, String),
}

impl Edit {
    /// Bytes of its text: what the limit on an answer counts.
    pub fn text_len(&self) -> usize {
        match self {
            Edit::Set(name, value) | Edit::Add(name, value) | Edit::Attr(name, value) => name.len() + value.len(),
            Edit::Remove(text) | Edit::Path(text) => text.len(),
        }
    }
}

/// At most this many edits in one answer.
pub const EDITS_MAX: usize = 64;
/// At most this much text in one answer, bytes.
pub const EDIT_TEXT_MAX: usize = 32 * 1024;
/// Longest attribute name, bytes.
pub const ATTR_NAME_MAX: usize = 64;
/// Longest attribute value, bytes.
pub const ATTR_VALUE_MAX: usize = 1024;

/// Why an answer's edits were refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadEdit(String);

impl fmt::Display for BadEdit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadEdit {}

/// What a rule says, and whether it was found to keep the contract already.
///
/// A room that carries the answers of others checks them, to know at once whose fault a bad one is; it says so by making
/// them with [`Edits::for_request`] or [`Edits::for_response`], and they are not checked again where they are applied. All
/// others are.
#[derive(Clone, Debug, Default)]
pub struct Edits {
    list: Vec<Edit>,
    checked: Checked,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Checked {
    #[default]
    No,
    ForRequest,
    ForResponse,
}

impl Edits {
    /// Edits that may be applied to the request of an exchange with these attributes.
    ///
    /// # Errors
    /// The first edit that breaks the contract, in words.
    pub fn for_request(list: Vec<Edit>, attrs: &Attrs) -> Result<Edits, BadEdit> {
        check(&list, attrs, true, Whose::Rule)?;
        Ok(Edits { list, checked: Checked::ForRequest })
    }

    /// The same for edits that the operator has written, who may say more about the client than a rule may
    /// ([`Known::is_left_to_operators`]).
    ///
    /// # Errors
    /// As [`Edits::for_request`].
    pub fn of_operator(list: Vec<Edit>, attrs: &Attrs) -> Result<Edits, BadEdit> {
        check(&list, attrs, true, Whose::Operator)?;
        Ok(Edits { list, checked: Checked::ForRequest })
    }

    /// Edits that may be applied to the answer of an exchange with these attributes.
    ///
    /// # Errors
    /// The first edit that breaks the contract, in words. A `path` edit is one.
    pub fn for_response(list: Vec<Edit>, attrs: &Attrs) -> Result<Edits, BadEdit> {
        check(&list, attrs, false, Whose::Rule)?;
        Ok(Edits { list, checked: Checked::ForResponse })
    }

    /// Applies them to the request in hand.
    ///
    /// # Errors
    /// The first edit that breaks the contract, in words; nothing is applied then.
    pub fn apply_to_request(&self, facts: &mut Facts) -> Result<(), BadEdit> {
        if self.checked != Checked::ForRequest {
            check(self, &facts.attrs, true, Whose::Rule)?;
        }
        for edit in &self.list {
            match edit {
                Edit::Path(path) => facts.request.set_path(path),
                other => apply(other, &mut facts.request.fields, &mut facts.attrs),
            }
        }
        Ok(())
    }

    /// Applies them to the answer in hand.
    ///
    /// # Errors
    /// The first edit that breaks the contract, in words; nothing is applied then. A `path` edit is one.
    pub fn apply_to_response(&self, fields: &mut Fields, attrs: &mut Attrs) -> Result<(), BadEdit> {
        if self.checked != Checked::ForResponse {
            check(self, attrs, false, Whose::Rule)?;
        }
        for edit in &self.list {
            apply(edit, fields, attrs);
        }
        Ok(())
    }
}

impl From<Vec<Edit>> for Edits {
    fn from(list: Vec<Edit>) -> Edits {
        Edits { list, checked: Checked::No }
    }
}

impl std::ops::Deref for Edits {
    type Target = [Edit];

    fn deref(&self) -> &[Edit] {
        &self.list
    }
}

/// Two that change the same are equal, whoever has checked them.
impl PartialEq for Edits {
    fn eq(&self, other: &Edits) -> bool {
        self.list == other.list
    }
}

impl Eq for Edits {}

/// Are these the fields of an answer that a rule may give?
///
/// # Errors
/// The first field that breaks the contract, in words.
pub fn check_fields<'a>(fields: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<(), BadEdit> {
    let mut text = 0;
    for (at, (name, value)) in fields.into_iter().enumerate() {
        if at >= EDITS_MAX {
            return Err(BadEdit(format!("more than {EDITS_MAX} fields")));
        }
        text += name.len() + value.len();
        if text > EDIT_TEXT_MAX {
            return Err(BadEdit(format!("more than {EDIT_TEXT_MAX} bytes of fields")));
        }
        check_field(name, Some(value), Whose::Rule)?;
    }
    Ok(())
}

/// May an operator edit this field of a request? More than a rule may: see [`Edits::of_operator`].
///
/// # Errors
/// Why not, in words.
pub fn check_operators_field(name: &str) -> Result<(), BadEdit> {
    check_field(name, None, Whose::Operator)
}

/// Is this a token (RFC 9110 section 5.6.2) in lower case?
pub fn is_field_name(name: &[u8]) -> bool {
    !name.is_empty()
        && name.iter().all(|&byte| {
            matches!(byte,
                b'a'..=b'z' | b'0'..=b'9' | b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~')
        })
}

/// Is this a field value that may stand on the wire: no control characters but the tab?
pub fn is_field_value(value: &[u8]) -> bool {
    // The fuzzer must find that a plugin may end a line (see `tests/fuzz/planted`).
    #[cfg(wharf_planted)]
    return value.iter().all(|&byte| (byte >= 0x20 && byte != 0x7f) || matches!(byte, b'\t' | b'\n'));
    #[cfg(not(wharf_planted))]
    value.iter().all(|&byte| (byte >= 0x20 && byte != 0x7f) || byte == b'\t')
}

/// Who wants an edit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Rule,
    Operator,
}

fn check(edits: &[Edit], attrs: &Attrs, request: bool, whose: Whose) -> Result<(), BadEdit> {
    if edits.len() > EDITS_MAX {
        return Err(BadEdit(format!("{} edits, and at most {EDITS_MAX} are allowed", edits.len())));
    }
    // Before anything is looked at, and perhaps told of in full.
    let text: usize = edits.iter().map(Edit::text_len).sum();
    if text > EDIT_TEXT_MAX {
        return Err(BadEdit(format!("{text} bytes of edits, and at most {EDIT_TEXT_MAX} are allowed")));
    }
    let mut attrs_new = attrs.iter().count();
    for edit in edits {
        match edit {
            Edit::Set(name, value) | Edit::Add(name, value) => check_field(name, Some(value), whose)?,
            Edit::Remove(name) => check_field(name, None, whose)?,
            Edit::Path(path) => {
                if !request {
                    return Err(BadEdit("a path edit on an answer".into()));
                }
                if !crate::path::is_canonical(path.as_bytes()) {
                    return Err(BadEdit(format!("path {path:?} is not canonical")));
                }
            }
            Edit::Attr(name, value) => {
                if name.is_empty() || name.len() > ATTR_NAME_MAX || value.len() > ATTR_VALUE_MAX {
                    return Err(BadEdit(format!(
                        "attribute {:?}: names have 1 to {ATTR_NAME_MAX} bytes, values at most {ATTR_VALUE_MAX}",
                        name.chars().take(ATTR_NAME_MAX).collect::<String>()
                    )));
                }
                if attrs.get(name).is_none() {
                    attrs_new += 1;
                }
                if attrs_new > crate::exchange::ATTRS_MAX {
                    return Err(BadEdit(format!("more than {} attributes", crate::exchange::ATTRS_MAX)));
                }
            }
        }
    }
    Ok(())
}

fn check_field(name: &str, value: Option<&str>, whose: Whose) -> Result<(), BadEdit> {
    if !is_field_name(name.as_bytes()) {
        return Err(BadEdit(format!("{name:?} is no lower-case field name")));
    }
    let known = Known::of(name.as_bytes());
    let is_own = known.is_hosts_own() && !(whose == Whose::Operator && known.is_left_to_operators());
    if is_own || Known::is_alias(name.as_bytes()) {
        return Err(BadEdit(format!("field {name:?} is the host's own")));
    }
    if value.is_some_and(|value| !is_field_value(value.as_bytes())) {
        return Err(BadEdit(format!("the value of field {name:?} has control characters")));
    }
    Ok(())
}

fn apply(edit: &Edit, fields: &mut Fields, attrs: &mut Attrs) {
    match edit {
        Edit::Set(name, value) => fields.set(name.as_bytes(), value.as_bytes()),
        Edit::Add(name, value) => fields.add(name.as_bytes(), value.as_bytes()),
        Edit::Remove(name) => fields.remove(name.as_bytes()),
        Edit::Path(_) => debug_assert!(false, "path edits are applied by the caller"),
        // `check` has counted: there is room.
        Edit::Attr(name, value) => {
            attrs.set(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bad_edit_applies_none() {
        let mut facts = Facts::default();
        for bad in [
            Edit::Set("X-Upper".into(), "v".into()),
            Edit::Set("a b".into(), "v".into()),
            Edit::Set("x".into(), "a\r\nb: c".into()),
            Edit::Set("x".into(), "a\0".into()),
            Edit::Set("content-length".into(), "0".into()),
            Edit::Remove("host".into()),
            Edit::Set("proxy-authorization".into(), "v".into()),
            Edit::Set("proxy_authorization".into(), "v".into()),
            Edit::Path("/a/../b".into()),
            Edit::Attr(String::new(), "v".into()),
        ] {
            let edits = vec![Edit::Set("good".into(), "1".into()), bad.clone()];
            assert!(Edits::for_request(edits.clone(), &facts.attrs).is_err(), "{bad:?}");
            assert!(Edits::from(edits).apply_to_request(&mut facts).is_err(), "{bad:?}");
            assert!(facts.request.fields.is_empty(), "{bad:?}");
        }
        let many: Vec<_> = (0..=EDITS_MAX).map(|n| Edit::Attr(format!("a{n}"), "v".into())).collect();
        assert!(Edits::from(many).apply_to_request(&mut facts).is_err());
    }

    #[test]
    fn an_operator_may_say_about_the_client_what_no_plugin_may() {
        for name in ["x-real-ip", "forwarded", "x-forwarded-port", "x-forwarded-prefix"] {
            let edits = vec![Edit::Set(name.into(), "v".into())];
            assert!(Edits::for_request(edits.clone(), &Attrs::default()).is_err(), "{name}");
            let mut facts = Facts::default();
            Edits::of_operator(edits.clone(), &facts.attrs).unwrap().apply_to_request(&mut facts).unwrap();
            assert_eq!(facts.request.fields.get(name.as_bytes()), Some(&b"v"[..]));
            let made = Edits::of_operator(edits, &facts.attrs).unwrap();
            assert!(made.apply_to_response(&mut Fields::default(), &mut Attrs::default()).is_err(), "{name} says nothing of an answer");
        }
        for name in ["host", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "content-length", "connection", "x_real_ip"] {
            assert!(Edits::of_operator(vec![Edit::Set(name.into(), "v".into())], &Attrs::default()).is_err(), "{name}");
        }
    }

    #[test]
    fn an_answer_beyond_its_bound_is_refused_in_few_words_whatever_is_in_it() {
        let giant = "/../".repeat(EDIT_TEXT_MAX);
        for edit in [Edit::Path(giant.clone()), Edit::Remove(giant.clone()), Edit::Attr(giant.clone(), giant.clone())] {
            let bad = Edits::for_request(vec![edit], &Attrs::default()).unwrap_err().to_string();
            assert!(bad.contains("bytes of edits, and at most 32768") && bad.len() < 100, "{} bytes", bad.len());
        }
    }

    #[test]
    fn what_was_checked_for_a_request_is_checked_again_for_an_answer() {
        let mut facts = Facts::default();
        let path = Edits::for_request(vec![Edit::Path("/b".into())], &facts.attrs).unwrap();
        assert!(path.apply_to_response(&mut Fields::default(), &mut Attrs::default()).is_err());
        path.apply_to_request(&mut facts).unwrap();
        assert_eq!(facts.request.path(), "/b");
        let set = Edits::for_response(vec![Edit::Set("x-a".into(), "1".into())], &facts.attrs).unwrap();
        set.apply_to_request(&mut facts).unwrap();
        assert_eq!(facts.request.fields.get(b"x-a"), Some(&b"1"[..]));
    }
}
