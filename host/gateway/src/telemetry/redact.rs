//! What is left out of JSON that is written: values whose names say that they are secrets. Pure. Queries, forms and fields are
//! left to `shown.rs`, the names to `secret_names.rs`.

use crate::secret_names::{Says, is_same, says};

/// What stands in their place.
pub(super) const HIDDEN: &str = "***";
/// Deepest nesting of JSON that is looked into.
const DEPTH_MAX: usize = 64;

/// A piece of JSON without the values of fields with one of these names or that of a secret, at any depth. `false`: what follows is not shown, since it is no JSON, and there nobody knows which name a value has.
/// The text may be cut anywhere.
pub(super) fn json(text: &str, more: &[Box<str>]) -> (String, bool) {
    let mut reading = Reading { rest: text, out: String::with_capacity(text.len()), open: Vec::new(), hidden: None, more };
    let whole = reading.all().is_some();
    (reading.out, whole)
}

/// What a name says, one of these or any.
pub(super) fn says_with(name: &str, more: &[Box<str>]) -> Says {
    if more.iter().any(|secret| is_same(secret, name)) { Says::Secret } else { says(name.as_bytes()) }
}

/// What may come next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Value,
    /// The first in its list, or the end of the list.
    ValueOrEnd,
    Key,
    KeyOrEnd,
    /// A comma or the end.
    More,
}

struct Reading<'a> {
    rest: &'a str,
    out: String,
    /// Of each open list or object: is it an object?
    open: Vec<bool>,
    /// How many were open where something hidden began.
    hidden: Option<usize>,
    /// Names that the operator has added.
    more: &'a [Box<str>],
}

impl<'a> Reading<'a> {
    /// `None`: it is no JSON from here on.
    fn all(&mut self) -> Option<()> {
        let mut next = Next::Value;
        let mut said = Says::Nothing;
        loop {
            self.space();
            let Some(first) = self.rest.chars().next() else { return Some(()) };
            next = match (next, first) {
                (Next::Value | Next::ValueOrEnd, '{' | '[') => {
                    if self.open.len() == DEPTH_MAX {
                        return None;
                    }
                    if said.hides(false) && self.hidden.is_none() {
                        self.say("\"***\"");
                        self.hidden = Some(self.open.len());
                    }
                    said = Says::Nothing;
                    self.take(1);
                    self.open.push(first == '{');
                    if first == '{' { Next::KeyOrEnd } else { Next::ValueOrEnd }
                }
                (Next::Value | Next::ValueOrEnd, _) if first != ']' => {
                    let len = if first == '"' { self.string() } else { self.scalar()? };
                    let is_number = first == '-' || first.is_ascii_digit();
                    if std::mem::replace(&mut said, Says::Nothing).hides(is_number) {
                        self.say("\"***\"");
                        self.skip(len);
                    } else {
                        self.take(len);
                    }
                    Next::More
                }
                (Next::Key | Next::KeyOrEnd, '"') => {
                    let len = self.string();
                    let name = self.rest.get(..len).unwrap_or_default();
                    let told: Option<String> = serde_json::from_str(name).ok();
                    said = told.as_deref().map_or(Says::Nothing, |name| says_with(name, self.more));
                    // A name that is cut has no value any more; one that cannot be read might be anything.
                    if told.is_none() && len < self.rest.len() {
                        return None;
                    }
                    self.take(len);
                    self.space();
                    match self.rest.chars().next() {
                        None => return Some(()),
                        Some(':') => self.take(1),
                        Some(_) => return None,
                    }
                    Next::Value
                }
                (Next::More, ',') if !self.open.is_empty() => {
                    self.take(1);
                    if self.open.last() == Some(&true) { Next::Key } else { Next::Value }
                }
                (Next::More | Next::KeyOrEnd, '}') if self.open.last() == Some(&true) => self.close(),
                (Next::More | Next::ValueOrEnd, ']') if self.open.last() == Some(&false) => self.close(),
                // Several values, one after the other, as in lines of JSON.
                (Next::More, _) if self.open.is_empty() => Next::Value,
                _ => return None,
            };
        }
    }

    fn close(&mut self) -> Next {
        self.take(1);
        self.open.pop();
        if self.hidden == Some(self.open.len()) {
            self.hidden = None;
        }
        Next::More
    }

    fn space(&mut self) {
        let len = self.rest.len() - self.rest.trim_start_matches([' ', '\t', '\n', '\r']).len();
        self.take(len);
    }

    /// Bytes of the string that begins here, to the end of the text if it is cut.
    fn string(&self) -> usize {
        let mut escaped = true;
        for (at, byte) in self.rest.bytes().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => return at + 1,
                _ => {}
            }
        }
        self.rest.len()
    }

    fn scalar(&self) -> Option<usize> {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
        let len = self.rest.bytes().take_while(|&byte| is_part(byte)).count();
        let word = self.rest.get(..len)?;
        let is_cut = len == self.rest.len();
        let is_word = ["true", "false", "null"].iter().any(|whole| *whole == word || (is_cut && whole.starts_with(word)));
        let is_number = word.starts_with(|first: char| first == '-' || first.is_ascii_digit());
        (len > 0 && (is_word || is_number)).then_some(len)
    }

    fn take(&mut self, len: usize) {
        if self.hidden.is_none() {
            self.out.push_str(self.rest.get(..len).unwrap_or_default());
        }
        self.skip(len);
    }

    fn skip(&mut self, len: usize) {
        self.rest = self.rest.get(len..).unwrap_or_default();
    }

    fn say(&mut self, text: &str) {
        if self.hidden.is_none() {
            self.out.push_str(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> (String, bool) {
        json(text, &["ssn".into()])
    }

    #[test]
    fn values_of_secrets_are_hidden_at_any_depth() {
        for (text, expected) in [
            (r#"{"password":"a"}"#, r#"{"password":"***"}"#),
            (r#"{"user":{"Password": 5, "name":"b"}}"#, r#"{"user":{"Password": "***", "name":"b"}}"#),
            (r#"[{"accessToken":{"a":[1,{"b":"}"}]},"c":1}]"#, r#"[{"accessToken":"***","c":1}]"#),
            (r#"{"ACCESS-TOKEN":[],"d":{}}"#, r#"{"ACCESS-TOKEN":"***","d":{}}"#),
            (r#"{"p\u0061ssword":"a","e":"password"}"#, r#"{"p\u0061ssword":"***","e":"password"}"#),
            (
                r#"{"apiKey":1,"tokens":7,"max_tokens":-1,"S_S_N":2,"ssn_of":3}"#,
                r#"{"apiKey":"***","tokens":7,"max_tokens":-1,"S_S_N":"***","ssn_of":3}"#,
            ),
            (r#"{"tokens":{"a":1},"tokens":["b"],"tokens_used":{"a":1}}"#, r#"{"tokens":"***","tokens":"***","tokens_used":{"a":1}}"#),
            (r#"{"f":"\"password\":\"x\""}"#, r#"{"f":"\"password\":\"x\""}"#),
            ("{\"g\":1}\n{\"password\":true}\n", "{\"g\":1}\n{\"password\":\"***\"}\n"),
            (r#""password""#, r#""password""#),
            ("", ""),
        ] {
            assert_eq!(shown(text), (expected.to_owned(), true), "{text}");
        }
    }

    #[test]
    fn no_cut_shows_what_the_whole_hides() {
        let text = r#"{"a":[true,null,-1.5e3],"password":"s3cret","access_token":{"x":"s3cret","y":["s3cret"]},"b":"c"}"#;
        for cut in 0..=text.len() {
            let (out, whole) = shown(&text[..cut]);
            assert!(whole && !out.contains("s3"), "{cut}: {out}");
        }
    }

    #[test]
    fn what_is_no_json_is_shown_up_to_there() {
        for (text, expected) in [
            (r#"{password:"a"}"#, "{"),
            (r#"{"a":1 "password":"b"}"#, r#"{"a":1 "#),
            (r#"{"a":'password'}"#, r#"{"a":"#),
            (r#"{"a" "b"}"#, r#"{"a" "#),
            (r#"{"a":1}} "password":"b""#, r#"{"a":1}"#),
            (r#"["a"}"#, r#"["a""#),
            (r#"{"\x70assword":"a"}"#, "{"),
            (r#"{"a":1,/*c*/"password":"b"}"#, r#"{"a":1,"#),
        ] {
            assert_eq!(shown(text), (expected.to_owned(), false), "{text}");
        }
        let deep = format!("{}{}", "[".repeat(DEPTH_MAX + 1), "]".repeat(DEPTH_MAX + 1));
        assert!(!shown(&deep).1);
    }
}
