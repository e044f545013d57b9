//! The order of questions and the answers: the first method whose credentials the request carries decides. A wrong
//! credential is never rescued by a later method, so adding a method never lets in what was refused before.

use crate::api_key::ApiKey;
use crate::config::{Config, MethodConfig};
use crate::jwt::Jwt;
use crate::token::Token;
use wharf_plugin::rules::{ATTR_VALUE_MAX, FACTS_MAX, is_field_name, is_field_value, is_hosts_own};
use wharf_plugin::{Decision, Edit, Edits, Fact, Lookup, Needs, Reply, Request};

/// The methods, ready to be asked.
#[derive(Debug)]
pub struct Guard {
    pub(crate) needs: Needs,
    methods: Vec<Method>,
    anonymous: Option<String>,
    consumers: Option<Lookup<()>>,
    realm: String,
    /// What a request without credentials is told, made once.
    challenge: String,
}

#[derive(Debug)]
enum Method {
    Jwt(Jwt),
    Token(Token),
    ApiKey(ApiKey),
}

/// Who it is: the consumer, and what else is known as attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) consumer: String,
    pub(crate) attrs: Vec<(String, String)>,
}

/// What a method says of a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Its credentials are not there.
    Absent,
    /// They are right.
    Known(Identity),
    /// They are wrong (401); in words for the client, which never say more than it could find out anyway.
    Wrong(&'static str),
    /// They are right and not enough (403).
    NotEnough(&'static str),
    /// It cannot be told at the moment (503).
    Unknown(&'static str),
}

impl Guard {
    pub(crate) fn new(config: Config) -> Result<Guard, String> {
        if config.methods.is_empty() {
            return Err("`methods` is empty; give at least one of `jwt`, `token` and `api_key`".into());
        }
        if config.realm.contains(['"', '\\']) || !is_field_value(&config.realm) {
            return Err("`realm` must not have quotes, backslashes and control characters".into());
        }
        for name in config.anonymous.iter().chain(config.consumers.iter().flatten()) {
            if !is_consumer(name) {
                return Err(format!("{name:?} is no name for a consumer: 1 to {ATTR_VALUE_MAX} bytes without control characters"));
            }
        }
        let mut needs = Needs::none();
        let mut methods = Vec::new();
        for (number, method) in config.methods.into_iter().enumerate() {
            let place = format!("methods[{number}]");
            methods.push(match method {
                MethodConfig::Jwt(jwt) => Method::Jwt(Jwt::new(jwt, &format!("{place}.jwt"), &mut needs)?),
                MethodConfig::Token(token) => Method::Token(Token::new(token, &format!("{place}.token"), &mut needs)?),
                MethodConfig::ApiKey(key) => Method::ApiKey(ApiKey::new(key, &format!("{place}.api_key"), &mut needs)?),
            });
        }
        if needs.request.len() > FACTS_MAX {
            return Err(format!("`methods` look at more than {FACTS_MAX} different fields; attach the plugin twice"));
        }
        let mut challenges: Vec<String> = Vec::new();
        for method in &methods {
            let challenge = format!("{} realm=\"{}\"", method.scheme(), config.realm);
            if !challenges.contains(&challenge) {
                challenges.push(challenge);
            }
        }
        Ok(Guard {
            needs,
            methods,
            anonymous: config.anonymous,
            consumers: config.consumers.map(|names| Lookup::new(names.into_iter().map(|name| (name, ())))),
            realm: config.realm,
            challenge: challenges.join(", "),
        })
    }

    /// May this request pass, and as whom?
    pub(crate) fn decide(&self, request: &Request) -> Decision {
        for method in &self.methods {
            let verdict = match method {
                Method::Jwt(jwt) => jwt.check(request),
                Method::Token(token) => token.check(request),
                Method::ApiKey(key) => key.check(request),
            };
            return match verdict {
                Verdict::Absent => continue,
                Verdict::Known(who) => self.known(method, who),
                Verdict::Wrong(why) => self.wrong(method, why),
                Verdict::NotEnough(why) => forbidden(why),
                Verdict::Unknown(why) => refusal(503, "unavailable", why).header("retry-after", "1").into(),
            };
        }
        match &self.anonymous {
            Some(consumer) if self.may(consumer) => Edits::none().attr("consumer", consumer.as_str()).into(),
            _ => {
                refusal(401, "missing_credentials", "no credentials were given").header("www-authenticate", self.challenge.as_str()).into()
            }
        }
    }

    fn known(&self, method: &Method, who: Identity) -> Decision {
        if !self.may(&who.consumer) {
            return forbidden("this consumer has no access here");
        }
        let mut edits = Vec::with_capacity(1 + who.attrs.len() + method.removes().len());
        edits.push(Edit::Attr("consumer".into(), who.consumer));
        edits.extend(who.attrs.into_iter().map(|(name, value)| Edit::Attr(name, value)));
        edits.extend(method.removes().iter().cloned().map(Edit::Remove));
        Edits(edits).into()
    }

    fn may(&self, consumer: &str) -> bool {
        self.consumers.as_ref().is_none_or(|consumers| consumers.get(consumer).is_some())
    }

    fn wrong(&self, method: &Method, why: &str) -> Decision {
        // RFC 6750 section 3; `why` is a text of ours without quotes.
        let challenge = format!("{} realm=\"{}\", error=\"invalid_token\", error_description=\"{why}\"", method.scheme(), self.realm);
        refusal(401, "invalid_credentials", why).header("www-authenticate", challenge).into()
    }
}

fn forbidden(why: &str) -> Decision {
    refusal(403, "forbidden", why).into()
}

/// `error` and `why` are texts of ours that need no escaping in JSON.
fn refusal(status: u16, error: &str, why: &str) -> Reply {
    Reply::new(status).json(format!(r#"{{"error":"{error}","message":"{why}"}}"#)).header("cache-control", "no-store")
}

impl Method {
    fn scheme(&self) -> &str {
        match self {
            Method::Jwt(jwt) => &jwt.scheme,
            Method::Token(_) => "Token",
            Method::ApiKey(_) => "ApiKey",
        }
    }

    /// Fields that the upstream must not see.
    fn removes(&self) -> &[String] {
        match self {
            Method::Jwt(jwt) => &jwt.removes,
            Method::Token(token) => &token.removes,
            Method::ApiKey(key) => &key.removes,
        }
    }
}

/// The place of a field in the needs, added if it is new.
pub(crate) fn need(needs: &mut Needs, name: &str, place: &str) -> Result<usize, String> {
    let name = name.to_ascii_lowercase();
    if !is_field_name(&name) || is_hosts_own(&name) {
        return Err(format!("{place}: {name:?} is no field that can carry credentials"));
    }
    Ok(needs.on_request(Fact::Header(name)))
}

/// Fit for the attribute `consumer`, the log, and a header made of it?
pub(crate) fn is_consumer(name: &str) -> bool {
    !name.is_empty() && name.len() <= ATTR_VALUE_MAX && is_field_value(name)
}
