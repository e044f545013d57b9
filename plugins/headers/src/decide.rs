//! Which rules match, and what they change. Asks the host for nothing but what a text names (`${exchange:id}` and the
//! like) and `request_header` conditions of answers.
//!
//! Two rules of safety: a value with control characters is never emitted, and a `set` whose value cannot be made
//! *removes* the field, so that a client cannot supply what the gateway meant to overwrite.

use serde::Deserialize;
use std::collections::BTreeMap;
use wharf_plugin::host::{exchange, metrics};
use wharf_plugin::rules::{ATTR_NAME_MAX, EDIT_TEXT_MAX, EDITS_MAX, hash, is_field_name, is_field_value, is_hosts_own};
use wharf_plugin::{Edit, Edits, Method, Needs, Phases, Request, Response};

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
}

#[derive(Debug)]
struct Rule {
    when: When,
    /// Its bit in the memory, for a rule that was judged on the request.
    bit: Option<usize>,
    edits: Vec<Change>,
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
    Header(String),
    RequestHeader(String),
    Attr(String),
    Id,
    Route,
    Authority,
    Client,
}

/// The head in hand, for what both halves have in common.
trait Head {
    fn header(&self, name: &str) -> Option<&str>;
    fn attr(&self, name: &str) -> Option<&str>;
}

impl Head for Request {
    fn header(&self, name: &str) -> Option<&str> {
        Request::header(self, name)
    }
    fn attr(&self, name: &str) -> Option<&str> {
        Request::attr(self, name)
    }
}

impl Head for Response {
    fn header(&self, name: &str) -> Option<&str> {
        Response::header(self, name)
    }
    fn attr(&self, name: &str) -> Option<&str> {
        Response::attr(self, name)
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
        };
        if let Some(name) = &config.consumer_header {
            check_name(name, "consumer_header")?;
            let value = Text::read("${attr:consumer}", "consumer_header", Half::Request, &mut headers.needs)?;
            headers.request.push(Rule { when: When::default(), bit: None, edits: vec![Change::Set(name.clone(), value)] });
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
        if headers.needs.request_headers.len() > 32 || headers.needs.response_headers.len() > 32 || headers.needs.attrs.len() > 32 {
            return Err("rules: more than 32 different fields or attributes are looked at; attach the plugin twice".into());
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
        for condition in &mut when.headers {
            condition.name.make_ascii_lowercase();
            match rule.on {
                Half::Request => self.needs = std::mem::take(&mut self.needs).header(&condition.name),
                Half::Response => self.needs = std::mem::take(&mut self.needs).response_header(&condition.name),
            }
        }
        for condition in &when.attrs {
            push(&mut self.needs.attrs, &condition.name);
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
            Half::Request => self.request.push(Rule { when, bit: None, edits }),
            Half::Response => {
                let mut bit = None;
                if when.path_prefix.is_some() || !when.methods.is_empty() {
                    let seen = When { path_prefix: when.path_prefix.take(), methods: std::mem::take(&mut when.methods), ..When::default() };
                    bit = Some(self.remembered.len());
                    self.remembered.push((seen, self.remembered.len()));
                    push(&mut self.needs.attrs, &self.memory.clone());
                }
                self.response.push(Rule { when, bit, edits });
            }
        }
        Ok(())
    }

    /// What is changed on a request.
    pub(crate) fn request(&self, request: &Request) -> Edits {
        let mut made = Made::default();
        for rule in &self.request {
            if rule.when.on_request(request) {
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
            false => response.attr(&self.memory).and_then(|bits| u64::from_str_radix(bits, 16).ok()).unwrap_or_default(),
        };
        let mut made = Made::default();
        for rule in &self.response {
            if rule.bit.is_none_or(|bit| remembered & (1 << bit) != 0) && rule.when.on_response(response) {
                rule.apply(response, &mut made);
            }
        }
        Edits(made.edits)
    }
}

fn push(names: &mut Vec<String>, name: &str) {
    if !names.iter().any(|have| have == name) {
        names.push(name.into());
    }
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
            && self.on_head(request)
    }

    fn on_response(&self, response: &Response) -> bool {
        let status = match self.status {
            None => true,
            Some(Status::One(status)) => response.status() == status,
            Some(Status::Range([first, last])) => (first..=last).contains(&response.status()),
        };
        status && self.on_head(response)
    }

    fn on_head(&self, head: &impl Head) -> bool {
        self.headers.iter().all(|condition| condition.holds(head.header(&condition.name)))
            && self.attrs.iter().all(|condition| condition.holds(head.attr(&condition.name)))
    }
}

impl Condition {
    fn holds(&self, value: Option<&str>) -> bool {
        match (&self.equals, self.present) {
            (Some(equals), _) => value == Some(equals),
            (None, present) => value.is_some() == present.unwrap_or(true),
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
        match what {
            "exchange:id" => return Some(Source::Id),
            "exchange:route" => return Some(Source::Route),
            "exchange:authority" => return Some(Source::Authority),
            "exchange:client" => return Some(Source::Client),
            _ => {}
        }
        let (kind, name) = what.split_once(':')?;
        if kind == "attr" && !name.is_empty() && name.len() <= ATTR_NAME_MAX {
            push(&mut needs.attrs, name);
            return Some(Source::Attr(name.into()));
        }
        let name = name.to_ascii_lowercase();
        if !is_field_name(&name) {
            return None;
        }
        match (kind, half) {
            ("header", Half::Request) | ("request_header", Half::Request) => {
                push(&mut needs.request_headers, &name);
                Some(Source::Header(name))
            }
            ("header", Half::Response) => {
                push(&mut needs.response_headers, &name);
                Some(Source::Header(name))
            }
            ("request_header", Half::Response) => Some(Source::RequestHeader(name)),
            _ => None,
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
            Source::Header(name) => into.push_str(head.header(name).or(otherwise)?),
            Source::Attr(name) => into.push_str(head.attr(name).or(otherwise)?),
            Source::RequestHeader(name) => into.push_str(exchange::header(name).as_deref().or(otherwise)?),
            Source::Id => into.push_str(&exchange::id()),
            Source::Route => into.push_str(&exchange::route()),
            Source::Authority => into.push_str(&exchange::authority()),
            Source::Client => into.push_str(&exchange::peer()),
        }
        Some(())
    }
}
