//! Text with names in it: `{client}`, `{path.id}`. Read once, said for each exchange.
//!
//! Braces and not `${...}`: that stands for the environment in configuration files. A brace itself is written twice.

use crate::routes::host_of;
use std::fmt::{self, Write as _};
use wharf_core::exchange::Facts;

/// A text with names in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Phrase {
    text: Box<str>,
    parts: Box<[Part]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Plain(Box<str>),
    Name(Name),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Name {
    Client,
    Host,
    Authority,
    Scheme,
    Method,
    Path,
    Query,
    Route,
    Id,
    /// An attribute; what a path was taken apart into stands under `path.`.
    Attr(Box<str>),
    /// A group of a rewriting's own pattern, by number or name.
    Group(Box<str>),
}

/// What the names of an example come to.
#[derive(Clone, Copy)]
struct Filling {
    /// What a client, or a name that the configuration cannot know the value of, comes to.
    client: &'static str,
    value: &'static str,
    /// Such a name at the beginning.
    first: &'static str,
}

/// One of a kind: a word, a piece of a path, a number, an address that wants brackets.
const FILLINGS: [Filling; 4] = [
    Filling { client: "192.0.2.1", value: "x", first: "x" },
    Filling { client: "192.0.2.1", value: "x", first: "/x" },
    Filling { client: "192.0.2.1", value: "20", first: "20" },
    Filling { client: "2001:db8::1", value: "::1", first: "::1" },
];

/// The names that may stand in a phrase, for messages.
pub const NAMES: &str =
    "client, host, authority, scheme, method, path, query, route, id, path.NAME (of the route's template or pattern), attr.NAME";

impl Phrase {
    /// Reads a text.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(text: &str) -> Result<Phrase, String> {
        Phrase::with_groups(text, &|_| false)
    }

    /// The same for a text that may name the groups of a pattern: those that `is_group` knows.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn with_groups(text: &str, is_group: &dyn Fn(&str) -> bool) -> Result<Phrase, String> {
        let (mut parts, mut plain) = (Vec::new(), String::new());
        let mut letters = text.chars().peekable();
        while let Some(letter) = letters.next() {
            match letter {
                '{' | '}' if letters.peek() == Some(&letter) => {
                    letters.next();
                    plain.push(letter);
                }
                '}' => return Err("`}` without `{` before it; a brace itself is written twice".into()),
                '{' => {
                    let mut name = String::new();
                    loop {
                        match letters.next() {
                            Some('}') => break,
                            Some(letter) => name.push(letter),
                            None => return Err("`{` without `}` behind it; a brace itself is written twice".into()),
                        }
                    }
                    if !plain.is_empty() {
                        parts.push(Part::Plain(std::mem::take(&mut plain).into()));
                    }
                    parts.push(Part::Name(Name::new(&name, is_group)?));
                }
                other => plain.push(other),
            }
        }
        if !plain.is_empty() {
            parts.push(Part::Plain(plain.into()));
        }
        Ok(Phrase { text: text.into(), parts: parts.into() })
    }

    /// What it says about every exchange, if that is the same.
    pub(crate) fn fixed(&self) -> Option<&str> {
        match &*self.parts {
            [] => Some(""),
            [Part::Plain(text)] => Some(text),
            _ => None,
        }
    }

    /// What it says about an exchange. What is not there is nothing.
    pub fn say(&self, facts: &Facts) -> String {
        self.say_with(facts, &|_| None)
    }

    /// The same, with the groups of a pattern.
    pub(crate) fn say_with<'g>(&self, facts: &Facts, group: &dyn Fn(&str) -> Option<&'g str>) -> String {
        let mut said = String::new();
        for part in &self.parts {
            match part {
                Part::Plain(text) => said.push_str(text),
                Part::Name(name) => name.say(facts, group, &mut said),
            }
        }
        said
    }

    /// Examples of what it may say, with harmless values for its names. Of several kinds, since one fits where another does
    /// not: if none of them is fit for its place, nothing that it says is.
    pub fn examples(&self) -> impl Iterator<Item = String> {
        let count = if self.fixed().is_some() { 1 } else { FILLINGS.len() };
        FILLINGS.iter().take(count).map(|filling| {
            let parts = self.parts.iter().enumerate().map(|(at, part)| match part {
                Part::Plain(text) => text,
                Part::Name(name) => name.example(*filling, at == 0),
            });
            parts.collect()
        })
    }

    /// The names of what it takes out of the path.
    pub fn captures(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Name(Name::Attr(name)) => name.strip_prefix("path."),
            _ => None,
        })
    }
}

impl Name {
    fn new(name: &str, is_group: &dyn Fn(&str) -> bool) -> Result<Name, String> {
        Ok(match name {
            _ if is_group(name) => Name::Group(name.into()),
            "client" => Name::Client,
            "host" => Name::Host,
            "authority" => Name::Authority,
            "scheme" => Name::Scheme,
            "method" => Name::Method,
            "path" => Name::Path,
            "query" => Name::Query,
            "route" => Name::Route,
            "id" => Name::Id,
            _ => match (name.strip_prefix("attr."), name.strip_prefix("path.")) {
                (Some(attr), _) if !attr.is_empty() => Name::Attr(attr.into()),
                (_, Some(capture)) if !capture.is_empty() => Name::Attr(name.into()),
                _ => return Err(format!("`{{{name}}}` is nothing that is known here; known: {NAMES}")),
            },
        })
    }

    fn example(&self, filling: Filling, is_first: bool) -> &str {
        match self {
            Name::Client => filling.client,
            Name::Host | Name::Authority => "www.example",
            Name::Scheme => "http",
            Name::Method => "GET",
            // Every path begins so, and a whole path is what the first of all groups is.
            Name::Path => "/x",
            Name::Group(name) if **name == *"0" => "/x",
            Name::Query => "x=1",
            Name::Route => "x",
            Name::Id => "00000000000000000000000000000000",
            Name::Attr(_) | Name::Group(_) if is_first => filling.first,
            Name::Attr(_) | Name::Group(_) => filling.value,
        }
    }

    fn say<'g>(&self, facts: &Facts, group: &dyn Fn(&str) -> Option<&'g str>, said: &mut String) {
        let request = &facts.request;
        match self {
            Name::Client => drop(write!(said, "{}", facts.client)),
            Name::Host => said.push_str(std::str::from_utf8(host_of(request.authority_bytes())).unwrap_or_default()),
            Name::Authority => said.push_str(request.authority()),
            Name::Scheme => said.push_str(request.scheme.as_str()),
            Name::Method => said.push_str(request.method.as_str()),
            Name::Path => said.push_str(request.path()),
            Name::Query => said.push_str(request.query().unwrap_or_default()),
            Name::Route => said.push_str(&facts.route),
            Name::Id => drop(write!(said, "{}", facts.id)),
            Name::Attr(name) => said.push_str(facts.attrs.get(name).unwrap_or_default()),
            Name::Group(name) => said.push_str(group(name).unwrap_or_default()),
        }
    }
}

impl fmt::Display for Phrase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_core::head::{Method, RequestHead};

    #[test]
    fn a_phrase_says_what_its_names_stand_for() {
        let mut facts = Facts { request: RequestHead::from_text(Method::Put, "a.example:81", "/x/7", Some("q=1")), ..Facts::default() };
        facts.client = [10, 0, 0, 1].into();
        facts.route = "orders".into();
        facts.attrs.set("path.id", "7");
        facts.attrs.set("consumer", "acme");
        for (text, expected) in [
            ("plain", "plain"),
            ("{client} {host} {authority} {scheme}", "10.0.0.1 a.example a.example:81 http"),
            ("{method} {path}?{query} by {route}", "PUT /x/7?q=1 by orders"),
            ("{path.id}/{attr.consumer}/{attr.nobody}", "7/acme/"),
            ("{{literally}}", "{literally}"),
            ("{id}", "00000000000000000000000000000000"),
        ] {
            assert_eq!(Phrase::new(text).unwrap().say(&facts), expected, "{text}");
        }
    }

    #[test]
    fn an_example_has_something_harmless_in_the_place_of_each_name() {
        for (text, expected) in [
            ("", &[""][..]),
            ("plain", &["plain"]),
            ("{method} {path}?{query}", &["GET /x?x=1"]),
            ("{attr.a}/{attr.b}", &["x/x", "/x/x", "20/20", "::1/::1"]),
            ("[{client}]", &["[192.0.2.1]", "[2001:db8::1]"]),
        ] {
            let mut examples: Vec<String> = Phrase::new(text).unwrap().examples().collect();
            examples.dedup();
            assert_eq!(examples, expected, "{text}");
        }
    }

    #[test]
    fn a_phrase_with_a_name_that_nobody_knows_is_refused() {
        for bad in ["{", "}", "{}", "{nobody}", "{path.}", "{client", "a } b", "{1}"] {
            assert!(Phrase::new(bad).is_err(), "{bad}");
        }
    }
}
