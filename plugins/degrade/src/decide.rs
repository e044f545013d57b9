//! What instead: the first rule that matches the fault and the request. The time is passed in, for the envelope.

use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;
use wharf_plugin::rules::{is_field_name, is_field_value, is_hosts_own};
use wharf_plugin::{Fault, Instead, LastGood, Needs, Reply, Request};

// What people write.

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) rules: Vec<RuleConfig>,
    /// For all envelopes: codes and messages by kind of fault.
    #[serde(default)]
    pub(crate) codes: BTreeMap<Kind, i64>,
    #[serde(default)]
    pub(crate) messages: BTreeMap<Kind, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RuleConfig {
    #[serde(default)]
    pub(crate) on: Vec<On>,
    #[serde(default)]
    pub(crate) path_prefix: Option<String>,
    #[serde(default)]
    pub(crate) methods: Vec<String>,
    pub(crate) answer: AnswerConfig,
}

/// A kind of fault, or one status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(crate) enum On {
    Status(u16),
    Kind(Kind),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Timeout,
    Connect,
    Reset,
    Status,
    Overload,
    Plugin,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AnswerConfig {
    Pass,
    Fixed(FixedConfig),
    Envelope(EnvelopeConfig),
    LastGood(LastGoodConfig),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FixedConfig {
    #[serde(default = "service_unavailable")]
    pub(crate) status: u16,
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) text: Option<String>,
    #[serde(default)]
    pub(crate) json: Option<Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct EnvelopeConfig {
    #[serde(default = "ok")]
    pub(crate) status: u16,
    #[serde(default)]
    pub(crate) code: Option<i64>,
    #[serde(default)]
    pub(crate) message: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LastGoodConfig {
    pub(crate) max_age_s: u32,
    #[serde(default)]
    pub(crate) otherwise: Option<OtherwiseConfig>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum OtherwiseConfig {
    Fixed(FixedConfig),
    Envelope(EnvelopeConfig),
}

fn service_unavailable() -> u16 {
    503
}

fn ok() -> u16 {
    200
}

/// The code of an envelope where the configuration gives none.
pub(crate) const CODE: i64 = 50001;

// What is asked, checked once.

/// The rules, ready to be asked.
#[derive(Debug)]
pub struct Rules {
    pub(crate) needs: Needs,
    rules: Vec<Rule>,
    codes: BTreeMap<Kind, i64>,
    messages: BTreeMap<Kind, String>,
}

#[derive(Debug)]
struct Rule {
    on: Vec<On>,
    path_prefix: Option<String>,
    methods: Vec<String>,
    answer: Answer,
}

#[derive(Debug)]
enum Answer {
    Pass,
    Now(Content),
    LastGood { max_age_ms: u32, otherwise: Option<Content> },
}

#[derive(Debug)]
enum Content {
    Fixed(Reply),
    Envelope { status: u16, code: Option<i64>, message: Option<String> },
}

impl Rules {
    /// Checks a configuration.
    pub(crate) fn new(config: Config) -> Result<Rules, String> {
        let mut rules = Vec::new();
        for (number, rule) in config.rules.into_iter().enumerate() {
            let place = format!("rules[{number}]");
            if let Some(On::Status(status)) = rule.on.iter().find(|on| matches!(on, On::Status(status) if !(500..=599).contains(status))) {
                return Err(format!("{place}.on: {status} is no fault; statuses are 500 to 599"));
            }
            if rule.path_prefix.as_ref().is_some_and(|prefix| !prefix.starts_with('/')) {
                return Err(format!("{place}.path_prefix must begin with `/`"));
            }
            let answer = match rule.answer {
                AnswerConfig::Pass => Answer::Pass,
                AnswerConfig::Fixed(fixed) => Answer::Now(Content::fixed(fixed, &format!("{place}.answer.fixed"))?),
                AnswerConfig::Envelope(envelope) => Answer::Now(Content::envelope(envelope, &format!("{place}.answer.envelope"))?),
                AnswerConfig::LastGood(last) => {
                    let place = format!("{place}.answer.last_good");
                    Answer::LastGood {
                        max_age_ms: last
                            .max_age_s
                            .checked_mul(1000)
                            .ok_or_else(|| format!("{place}.max_age_s: at most {} (49 days)", u32::MAX / 1000))?,
                        otherwise: match last.otherwise {
                            None => None,
                            Some(OtherwiseConfig::Fixed(fixed)) => Some(Content::fixed(fixed, &format!("{place}.otherwise.fixed"))?),
                            Some(OtherwiseConfig::Envelope(envelope)) => {
                                Some(Content::envelope(envelope, &format!("{place}.otherwise.envelope"))?)
                            }
                        },
                    }
                }
            };
            rules.push(Rule { on: rule.on, path_prefix: rule.path_prefix, methods: rule.methods, answer });
        }
        let looks = rules.iter().any(|rule| rule.path_prefix.is_some());
        let needs = if looks { Needs::none().path() } else { Needs::none() };
        Ok(Rules { needs, rules, codes: config.codes, messages: config.messages })
    }

    /// What instead of this fault. `now_ms` is asked only for an envelope.
    pub(crate) fn instead(&self, request: &Request, fault: &Fault, now_ms: impl Fn() -> u64) -> Instead {
        let Some(rule) = self.rules.iter().find(|rule| rule.holds(request, fault)) else { return Instead::Pass };
        match &rule.answer {
            Answer::Pass => Instead::Pass,
            Answer::Now(content) => Instead::Reply(self.reply(content, fault, &now_ms)),
            Answer::LastGood { max_age_ms, otherwise } => Instead::LastGood(LastGood {
                max_age_ms: *max_age_ms,
                otherwise: otherwise.as_ref().map(|content| self.reply(content, fault, &now_ms)),
            }),
        }
    }

    fn reply(&self, content: &Content, fault: &Fault, now_ms: &impl Fn() -> u64) -> Reply {
        let (status, code, message) = match content {
            Content::Fixed(reply) => return reply.clone(),
            Content::Envelope { status, code, message } => (*status, *code, message.as_deref()),
        };
        let kind = kind(fault);
        let code = code.or_else(|| self.codes.get(&kind).copied()).unwrap_or(CODE);
        let message = message.or_else(|| self.messages.get(&kind).map(String::as_str)).unwrap_or_else(|| words(kind));
        // The order of the keys is that of the old gateways: some clients compare text.
        let text =
            format!(r#"{{"code":{code},"message":{},"data":null,"timestamp":{},"isSuccess":false}}"#, Value::from(message), now_ms());
        Reply::new(status).json(text).header("cache-control", "no-store")
    }
}

fn kind(fault: &Fault) -> Kind {
    match fault {
        Fault::Timeout => Kind::Timeout,
        Fault::Connect => Kind::Connect,
        Fault::Reset => Kind::Reset,
        Fault::Status(_) => Kind::Status,
        Fault::Overload => Kind::Overload,
        Fault::Plugin(_) => Kind::Plugin,
    }
}

/// What the client is told where the configuration says nothing. Names nothing of the inside.
fn words(kind: Kind) -> &'static str {
    match kind {
        Kind::Timeout => "the service did not answer in time",
        Kind::Connect | Kind::Reset | Kind::Status => "the service is not available",
        Kind::Overload => "too many requests at the moment",
        Kind::Plugin => "the request could not be processed",
    }
}

impl Rule {
    fn holds(&self, request: &Request, fault: &Fault) -> bool {
        let on = self.on.is_empty()
            || self.on.iter().any(|on| match on {
                On::Status(status) => *fault == Fault::Status(*status),
                On::Kind(wanted) => *wanted == kind(fault),
            });
        on && self.path_prefix.as_ref().is_none_or(|prefix| under(request.path(), prefix))
            && (self.methods.is_empty() || self.methods.iter().any(|method| method == request.method().as_str()))
    }
}

/// Is `path` this place or one under it? `/api` holds `/api` and `/api/x`, not `/apix`.
fn under(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || prefix.ends_with('/'))
}

impl Content {
    fn fixed(config: FixedConfig, place: &str) -> Result<Content, String> {
        check_status(config.status, place)?;
        for (name, value) in &config.headers {
            if !is_field_name(name) || is_hosts_own(name) || !is_field_value(value) {
                return Err(format!(
                    "{place}.headers: {name:?} must be a field name in lower case that is not the gateway's own, with a value without control characters"
                ));
            }
        }
        let mut reply = Reply::new(config.status);
        reply = match (config.text, config.json) {
            (Some(_), Some(_)) => return Err(format!("{place} has both `text` and `json`; give one")),
            (Some(text), None) => reply.text(text),
            (None, Some(json)) => reply.json(json.to_string()),
            (None, None) => reply,
        };
        for (name, value) in config.headers {
            reply = reply.header(name, value);
        }
        Ok(Content::Fixed(reply))
    }

    fn envelope(config: EnvelopeConfig, place: &str) -> Result<Content, String> {
        check_status(config.status, place)?;
        Ok(Content::Envelope { status: config.status, code: config.code, message: config.message })
    }
}

fn check_status(status: u16, place: &str) -> Result<(), String> {
    match status {
        200..=599 => Ok(()),
        _ => Err(format!("{place}.status is {status}; an answer has 200 to 599")),
    }
}
