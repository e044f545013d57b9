//! Which rules match, and what they change. What they look at comes with the question; the host is asked for nothing but
//! `${exchange:id}`, and fields of the request in rules for answers.
//!
//! Two rules of safety: a value with control characters is never emitted, and a `set` whose value cannot be made
//! *removes* the field, so that a client cannot supply what the gateway meant to overwrite.

use serde::Deserialize;
use std::collections::BTreeMap;
use wharf_plugin::host::{exchange, metrics};
use wharf_plugin::rules::{ATTR_NAME_MAX, EDIT_TEXT_MAX, EDITS_MAX, FACTS_MAX, hash, is_field_name, is_field_value, is_hosts_own};
use wharf_plugin::{Edit, Edits, Fact, Method, Needs, Phases, Request, Response};

// What people write.

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    #[serde(default)]
    pub(crate) consumer_header: Option<String>,
    #[serde(default)]
    pub(crate) rules: Vec<RuleConfig>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RuleConfig {
    pub(crate) on: Half,
    #[serde(default)]
    pub(crate) when: When,
    #[serde(default)]
    pub(crate) remove: Vec<String>,
    #[serde(default)]
    pub(crate) set: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) add: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Half {
    Request,
    Response,
}

/// All that is given must hold.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct When {
    #[serde(default)]
    pub(crate) path_prefix: Option<String>,
    #[serde(default)]
    pub(crate) methods: Vec<String>,
    #[serde(default)]
    pub(crate) headers: Vec<Condition>,
    #[serde(default)]
    pub(crate) attrs: Vec<Condition>,
    /// Of answers: their status. One number, or the first and last of a range.
    #[serde(default)]
    pub(crate) status: Option<Status>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Condition {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) present: Option<bool>,
    #[serde(default)]
    pub(crate) equals: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Status {
    One(u16),
    Range([u16; 2]),
}

// What is asked, checked once.

/// The rules, ready to be asked.
#[derive(Debug)]
pub struct Headers {
    pub(crate) needs: Needs,
    request: Vec<Rule>,
    response: Vec<Rule>,
    /// Rules for answers that look at the request's path or method, which an answer does not show: they are judged on
    /// the request, and what matched is kept in this attribute.
    remembered: Vec<(When, usize)>,
    memory: String,
    /// Where it comes with an answer.
    memory_at: usize,
}

#[derive(Debug)]
struct Rule {
    when: When,
    /// Conditions on fields and attributes.
    checks: Vec<Check>,
    /// Its bit in the memory, for a rule that was judged on the request.
    bit: Option<usize>,
    edits: Vec<Change>,
}

/// A condition on what comes at this place.
#[derive(Debug)]
struct Check {
    place: usize,
    /// The text that it must have; `None`: it must be there, or must not.
    equals: Option<String>,
    present: bool,
}

#[derive(Debug)]
enum Change {
    Remove(String),
    Set(String, Text),
    Add(String, Text),
}

/// A value: literal, or pieces to be joined.
#[derive(Debug)]
enum Text {
    Plain(String),
    Made(Vec<Piece>),
}

#[derive(Debug)]
enum Piece {
    Text(String),
    Value { from: Source, otherwise: Option<String> },
}

#[derive(Debug)]
enum Source {
    /// What comes at this place.
    At(usize),
    RequestHeader(String),
    Id,
}

/// The head in hand, for what both halves have in common.
trait Head {
    fn at(&self, place: usize) -> Option<&str>;
}

impl Head for Request {
    fn at(&self, place: usize) -> Option<&str> {
        Request::at(self, place)
    }
}

impl Head for Response {
    fn at(&self, place: usize) -> Option<&str> {
        Response::at(self, place)
    }
}

impl Headers {
    /// Checks a configuration. `text` is its exact text, which names the memory of this attachment.
    pub(crate) fn new(text: &str, config: &Config) -> Result<Headers, String> {
        let mut headers = Headers {
            needs: Needs::none().phases(Phases { request: false, response: false }),
            request: Vec::new(),
            response: Vec::new(),
            remembered: Vec::new(),
            memory: format!("headers-{:08x}", hash(text.as_bytes()) as u32),
            memory_at: 0,
        };
        if let Some(name) = &config.consumer_header {
            check_name(name, "consumer_header")?;
            let value = Text::read("${attr:consumer}", "consumer_header", Half::Request, &mut headers.needs)?;
            let edits = vec![Change::Set(name.clone(), value)];
            headers.request.push(Rule { when: When::default(), checks: Vec::new(), bit: None, edits });
        }
        if config.rules.len() > 64 {
            return Err(format!("rules: {} of them, and at most 64 are allowed; attach the plugin twice", config.rules.len()));
        }
        for (number, rule) in config.rules.iter().enumerate() {
            headers.add_rule(&format!("rules[{number}]"), rule)?;
        }
        for (half, rules) in [("request", &headers.request), ("response", &headers.response)] {
            let count = rules.iter().map(|rule| rule.edits.len()).sum::<usize>();
            if count >= EDITS_MAX {
                return Err(format!("rules: {count} changes on a {half}, and at most {} are allowed; join some", EDITS_MAX - 1));
            }
        }
        if headers.needs.request.len() > FACTS_MAX || headers.needs.response.len() > FACTS_MAX {
            return Err(format!("rules: more than {FACTS_MAX} different fields and attributes are looked at; attach the plugin twice"));
        }
        headers.needs.phases.request = !headers.request.is_empty() || !headers.remembered.is_empty();
        headers.needs.phases.response = !headers.response.is_empty();
        Ok(headers)
    }

    fn add_rule(&mut self, place: &str, rule: &RuleConfig) -> Result<(), String> {
        let mut when = rule.when.clone();
        for condition in when.headers.iter().chain(&when.attrs) {
            if condition.present.is_none() == condition.equals.is_none() {
                return Err(format!("{place}.when: condition on {:?} needs one of `present` and `equals`", condition.name));
            }
        }
        if let Some(bad) = when.headers.iter().find(|condition| !is_field_name(&condition.name.to_ascii_lowercase())) {
            return Err(format!("{place}.when.headers: {:?} is no field name", bad.name));
        }
        if let Some(bad) = when.attrs.iter().find(|condition| !is_attr_name(&condition.name)) {
            return Err(format!("{place}.when.attrs: {:?} is no name of an attribute: 1 to {ATTR_NAME_MAX} bytes", bad.name));
        }
        let mut checks = Vec::new();
        for Condition { name, present, equals } in std::mem::take(&mut when.headers) {
            checks.push(Check { place: rule.on.need(&mut self.needs, Fact::header(name)), present: present.unwrap_or(true), equals });
        }
        for Condition { name, present, equals } in std::mem::take(&mut when.attrs) {
            checks.push(Check { place: rule.on.need(&mut self.needs, Fact::attr(name)), present: present.unwrap_or(true), equals });
        }
        if when.path_prefix.is_some() {
            // Of the answer's rules, too: they are judged on the request.
            self.needs.on_request(Fact::Path);
        }
        if when.path_prefix.as_ref().is_some_and(|prefix| !prefix.starts_with('/')) {
            return Err(format!("{place}.when.path_prefix must begin with `/`"));
        }
        if when.status.is_some() && rule.on == Half::Request {
            return Err(format!("{place}.when.status: a request has no status; use `on: response`"));
        }
        let mut edits = Vec::new();
        for name in &rule.remove {
            check_name(name, &format!("{place}.remove"))?;
            edits.push(Change::Remove(name.clone()));
        }
        for (name, value) in &rule.set {
            check_name(name, &format!("{place}.set"))?;
            edits.push(Change::Set(name.clone(), Text::read(value, &format!("{place}.set.{name}"), rule.on, &mut self.needs)?));
        }
        for (name, value) in &rule.add {
            check_name(name, &format!("{place}.add"))?;
            edits.push(Change::Add(name.clone(), Text::read(value, &format!("{place}.add.{name}"), rule.on, &mut self.needs)?));
        }
        if edits.is_empty() {
            return Err(format!("{place} changes nothing; give it `set`, `add` or `remove`"));
        }
        match rule.on {
            Half::Request => self.request.push(Rule { when, checks, bit: None, edits }),
            Half::Response => {
                let mut bit = None;
                if when.path_prefix.is_some() || !when.methods.is_empty() {
                    let seen = When { path_prefix: when.path_prefix.take(), methods: std::mem::take(&mut when.methods), ..When::default() };
                    bit = Some(self.remembered.len());
                    self.remembered.push((seen, self.remembered.len()));
                    self.memory_at = self.needs.on_response(Fact::attr(self.memory.as_str()));
                }
                self.response.push(Rule { when, checks, bit, edits });
            }
        }
        Ok(())
    }

    /// What is changed on a request.
    pub(crate) fn request(&self, request: &Request) -> Edits {
        let mut made = Made::default();
        for rule in &self.request {
            if rule.when.on_request(request) && rule.holds(request) {
                rule.apply(request, &mut made);
            }
        }
        if !self.remembered.is_empty() {
            let matched = self.remembered.iter().filter(|(when, _)| when.on_request(request)).fold(0u64, |bits, (_, bit)| bits | 1 << bit);
            made.edits.push(Edit::Attr(self.memory.clone(), format!("{matched:x}")));
        }
        Edits(made.edits)
    }

    /// What is changed on an answer.
    pub(crate) fn response(&self, response: &Response) -> Edits {
        let remembered = match self.remembered.is_empty() {
            true => 0,
            // No attribute: the request never came by here (an earlier plugin answered), so nothing is known to match.
            false => response.at(self.memory_at).and_then(|bits| u64::from_str_radix(bits, 16).ok()).unwrap_or_default(),
        };
        let mut made = Made::default();
        for rule in &self.response {
            if rule.bit.is_none_or(|bit| remembered & (1 << bit) != 0) && rule.when.on_response(response) && rule.holds(response) {
                rule.apply(response, &mut made);
            }
        }
        Edits(made.edits)
    }
}

impl Half {
    /// Where a fact comes with questions about this half.
    fn need(self, needs: &mut Needs, fact: Fact) -> usize {
        match self {
            Half::Request => needs.on_request(fact),
            Half::Response => needs.on_response(fact),
        }
    }
}

fn is_attr_name(name: &str) -> bool {
    (1..=ATTR_NAME_MAX).contains(&name.len())
}

fn check_name(name: &str, place: &str) -> Result<(), String> {
    if !is_field_name(name) {
        return Err(format!("{place}: {name:?} is no field name in lower case"));
    }
    if is_hosts_own(name) {
        return Err(format!("{place}: the field {name:?} is the gateway's own and cannot be changed by a plugin"));
    }
    Ok(())
}

impl When {
    fn on_request(&self, request: &Request) -> bool {
        self.path_prefix.as_ref().is_none_or(|prefix| under(request.path(), prefix))
            && (self.methods.is_empty() || is_one_of(&self.methods, request.method()))
    }

    fn on_response(&self, response: &Response) -> bool {
        match self.status {
            None => true,
            Some(Status::One(status)) => response.status() == status,
            Some(Status::Range([first, last])) => (first..=last).contains(&response.status()),
        }
    }
}

impl Check {
    fn holds(&self, value: Option<&str>) -> bool {
        match &self.equals {
            Some(equals) => value == Some(equals),
            None => value.is_some() == self.present,
        }
    }
}

fn is_one_of(methods: &[String], method: &Method) -> bool {
    methods.iter().any(|have| have == method.as_str())
}

/// Is `path` this place or one under it? `/api` holds `/api` and `/api/x`, not `/apix`.
fn under(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/'))
}

#[derive(Default)]
struct Made {
    edits: Vec<Edit>,
    text: usize,
}

impl Rule {
    fn holds(&self, head: &impl Head) -> bool {
        self.checks.iter().all(|check| check.holds(head.at(check.place)))
    }

    fn apply(&self, head: &impl Head, made: &mut Made) {
        for change in &self.edits {
            let edit = match change {
                Change::Remove(name) => Edit::Remove(name.clone()),
                Change::Set(name, text) => match made.value(name, text, head) {
                    Some(value) => Edit::Set(name.clone(), value),
                    // Not left as the client sent it: see the head of this file.
                    None => Edit::Remove(name.clone()),
                },
                Change::Add(name, text) => match made.value(name, text, head) {
                    Some(value) => Edit::Add(name.clone(), value),
                    None => continue,
                },
            };
            made.edits.push(edit);
        }
    }
}

impl Made {
    /// `None`: a piece is missing, or the value may not stand in a field.
    fn value(&mut self, name: &str, text: &Text, head: &impl Head) -> Option<String> {
        let value = match text {
            Text::Plain(text) => text.clone(),
            Text::Made(pieces) => {
                let mut value = String::new();
                for piece in pieces {
                    piece.write(head, &mut value)?;
                }
                if !is_field_value(&value) {
                    metrics::count("values_refused", 1);
                    return None;
                }
                value
            }
        };
        // What the host allows for a whole answer, less a reserve for names of fields that are removed.
        if self.text + name.len() + value.len() > EDIT_TEXT_MAX - 4096 {
            metrics::count("values_refused", 1);
            return None;
        }
        self.text += name.len() + value.len();
        Some(value)
    }
}

impl Text {
    fn read(text: &str, place: &str, half: Half, needs: &mut Needs) -> Result<Text, String> {
        if !is_field_value(text) {
            return Err(format!("{place}: the value has control characters"));
        }
        if text.len() > 4096 {
            return Err(format!("{place}: a value has at most 4096 bytes"));
        }
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, behind)) = rest.split_once("${") {
            let (inner, after) = behind.split_once('}').ok_or_else(|| format!("{place}: `${{` without `}}`"))?;
            if !before.is_empty() {
                pieces.push(Piece::Text(before.into()));
            }
            let (what, otherwise) = match inner.split_once(":-") {
                Some((what, otherwise)) => (what, Some(otherwise.into())),
                None => (inner, None),
            };
            let from = Source::read(what, half, needs).ok_or_else(|| {
                format!(
                    "{place}: `${{{what}}}` is unknown; there are attr:NAME, header:NAME, request_header:NAME, exchange:id, exchange:route, exchange:authority and exchange:client"
                )
            })?;
            pieces.push(Piece::Value { from, otherwise });
            rest = after;
        }
        if pieces.is_empty() {
            return Ok(Text::Plain(text.into()));
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.into()));
        }
        Ok(Text::Made(pieces))
    }
}

impl Source {
    fn read(what: &str, half: Half, needs: &mut Needs) -> Option<Source> {
        let (kind, name) = what.split_once(':')?;
        let fact = match (kind, name) {
            ("exchange", "id") => return Some(Source::Id),
            ("exchange", "route") => Fact::Route,
            ("exchange", "authority") => Fact::Authority,
            ("exchange", "client") => Fact::Peer,
            ("attr", name) if is_attr_name(name) => Fact::attr(name),
            ("header" | "request_header", name) if is_field_name(&name.to_ascii_lowercase()) => Fact::header(name),
            _ => return None,
        };
        match (kind, half, fact) {
            ("request_header", Half::Response, Fact::Header(name)) => Some(Source::RequestHeader(name)),
            (_, half, fact) => Some(Source::At(half.need(needs, fact))),
        }
    }
}

impl Piece {
    fn write(&self, head: &impl Head, into: &mut String) -> Option<()> {
        let (from, otherwise) = match self {
            Piece::Text(text) => {
                into.push_str(text);
                return Some(());
            }
            Piece::Value { from, otherwise } => (from, otherwise.as_deref()),
        };
        match from {
            Source::At(place) => into.push_str(head.at(*place).or(otherwise)?),
            Source::RequestHeader(name) => into.push_str(exchange::header(name).as_deref().or(otherwise)?),
            Source::Id => into.push_str(&exchange::id()),
        }
        Some(())
    }
}
