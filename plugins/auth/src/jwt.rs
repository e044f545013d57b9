//! JSON Web Tokens (RFC 7515, 7519). The signature is checked by the host, natively; first of all, so that nothing of an
//! unsigned token is believed.
//!
//! A key is for one algorithm, and only keys of the token's algorithm are tried: a public key is never used as a shared
//! secret, and `none` is no algorithm. No key is ever fetched from where a token points (`jku`, `x5u`, `jwk`).

use crate::config::{Alg, JwtConfig, KeyConfig};
use crate::decide::{Identity, Verdict, is_consumer, need};
use crate::memory::{Memory, same};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use std::cell::RefCell;
use std::fmt;
use wharf_plugin::host::{clock, crypto};
use wharf_plugin::rules::{ATTR_NAME_MAX, ATTR_VALUE_MAX, is_field_value};
use wharf_plugin::{Needs, Request};

/// A longer token is refused before anything is computed for it.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

#[derive(Debug)]
pub(crate) struct Jwt {
    keys: Vec<Key>,
    header: usize,
    pub(crate) scheme: String,
    issuers: Vec<String>,
    audiences: Vec<String>,
    leeway_ms: u64,
    require_exp: bool,
    /// Attribute, claim.
    claims: Vec<(String, String)>,
    scopes: Vec<String>,
    /// All claims that are looked at; the others are skipped without being built.
    used: Vec<Claim>,
    pub(crate) removes: Vec<String>,
    /// Tokens verified lately. Everything but the time is settled for them: keys and rules do not change in the life of
    /// an instance.
    memory: RefCell<Memory<Verified>>,
    /// What the last good token had before its first dot: an issuer writes the same into all of them.
    last_head: RefCell<Option<SeenHead>>,
}

/// A claim that is looked at.
#[derive(Debug)]
struct Claim {
    name: String,
    what: What,
    /// Does it name the consumer?
    consumer: bool,
    /// Attributes made of it: places in `Jwt::claims`.
    attrs: Vec<usize>,
}

/// What a claim is for, by the RFCs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Exp,
    Nbf,
    Iss,
    Aud,
    Scope,
    Other,
}

/// A head that was read, and the keys that fit it.
#[derive(Clone, Debug)]
struct SeenHead {
    text: String,
    /// Places in `Jwt::keys`.
    keys: Vec<usize>,
}

#[derive(Debug)]
struct Key {
    kid: Option<String>,
    alg: Alg,
    bytes: Vec<u8>,
}

/// What a token says, once its signature is known to be right.
#[derive(Clone, Debug)]
struct Verified {
    /// The first millisecond in which it is no longer good.
    until_ms: Option<u64>,
    /// The first millisecond in which it is good.
    from_ms: Option<u64>,
    who: Identity,
}

impl Alg {
    fn name(self) -> &'static str {
        match self {
            Alg::Hs256 => "HS256",
            Alg::Hs384 => "HS384",
            Alg::Hs512 => "HS512",
            Alg::Rs256 => "RS256",
            Alg::Rs384 => "RS384",
            Alg::Rs512 => "RS512",
            Alg::Es256 => "ES256",
            Alg::Es384 => "ES384",
            Alg::EdDsa => "EdDSA",
        }
    }

    fn signature(self) -> crypto::Signature {
        match self {
            Alg::Hs256 => crypto::Signature::Hs256,
            Alg::Hs384 => crypto::Signature::Hs384,
            Alg::Hs512 => crypto::Signature::Hs512,
            Alg::Rs256 => crypto::Signature::Rs256,
            Alg::Rs384 => crypto::Signature::Rs384,
            Alg::Rs512 => crypto::Signature::Rs512,
            Alg::Es256 => crypto::Signature::Es256,
            Alg::Es384 => crypto::Signature::Es384,
            Alg::EdDsa => crypto::Signature::EdDsa,
        }
    }

    /// Of a shared secret: at least as long as the hash (RFC 7518 section 3.2).
    fn secret_bytes_min(self) -> Option<usize> {
        match self {
            Alg::Hs256 => Some(32),
            Alg::Hs384 => Some(48),
            Alg::Hs512 => Some(64),
            _ => None,
        }
    }
}

impl SeenHead {
    /// What stands behind the first dot, if this stands before it.
    fn claims_of<'a>(&self, signed: &'a str) -> Option<&'a str> {
        let (head, rest) = signed.split_at_checked(self.text.len())?;
        if same(head, &self.text) { rest.strip_prefix('.') } else { None }
    }
}

impl Claim {
    /// The claim of this name, which one of the RFCs may give a meaning to; added if it is not looked at yet.
    fn of<'a>(used: &'a mut Vec<Claim>, name: &str, what: What) -> &'a mut Claim {
        let place = used.iter().position(|have| have.name == name).unwrap_or(used.len());
        if place == used.len() {
            used.push(Claim { name: name.into(), what, consumer: false, attrs: Vec::new() });
        }
        #[allow(clippy::indexing_slicing, reason = "found, or added, in the lines above")]
        &mut used[place]
    }
}

impl Key {
    fn new(config: KeyConfig, place: &str) -> Result<Key, String> {
        let alg = config.alg.name();
        let bytes = match (config.alg.secret_bytes_min(), config.secret, config.secret_base64, config.public_key) {
            (Some(_), Some(secret), None, None) => secret.into_bytes(),
            (Some(_), None, Some(text), None) => {
                STANDARD.decode(text.trim()).map_err(|_| format!("{place}.secret_base64 is no base64 (RFC 4648 section 4)"))?
            }
            (Some(_), ..) => return Err(format!("{place}: {alg} needs `secret` or `secret_base64`, and no `public_key`")),
            (None, None, None, Some(key)) => key.into_bytes(),
            (None, ..) => return Err(format!("{place}: {alg} needs `public_key` (PEM, `BEGIN PUBLIC KEY`), and no secret")),
        };
        if let Some(least) = config.alg.secret_bytes_min().filter(|least| bytes.len() < *least) {
            return Err(format!("{place}: the secret has {} bytes, and {alg} asks for at least {least}", bytes.len()));
        }
        // A key that cannot be read is a mistake of the operator, to be told now and not at the first request.
        crypto::verify(config.alg.signature(), &bytes, b"", b"").map_err(|crypto::BadKey(why)| format!("{place}.public_key: {why}"))?;
        Ok(Key { kid: config.kid, alg: config.alg, bytes })
    }
}

impl Jwt {
    pub(crate) fn new(config: JwtConfig, place: &str, needs: &mut Needs) -> Result<Jwt, String> {
        if config.keys.is_empty() {
            return Err(format!("{place}.keys is empty; give at least one key"));
        }
        let mut keys = Vec::new();
        for (number, key) in config.keys.into_iter().enumerate() {
            keys.push(Key::new(key, &format!("{place}.keys[{number}]"))?);
        }
        if config.scheme.contains(|c: char| !c.is_ascii_alphanumeric() && c != '-') {
            return Err(format!("{place}.scheme: {:?} is no authentication scheme", config.scheme));
        }
        if let Some(name) = config.claims.keys().find(|name| name.is_empty() || name.len() > ATTR_NAME_MAX || *name == "consumer") {
            return Err(format!("{place}.claims: {name:?} is no name for an attribute here: 1 to {ATTR_NAME_MAX} bytes, not `consumer`"));
        }
        let claims: Vec<(String, String)> = config.claims.into_iter().collect();
        let mut used = Vec::new();
        Claim::of(&mut used, "exp", What::Exp);
        Claim::of(&mut used, "nbf", What::Nbf);
        if !config.issuers.is_empty() {
            Claim::of(&mut used, "iss", What::Iss);
        }
        if !config.audiences.is_empty() {
            Claim::of(&mut used, "aud", What::Aud);
        }
        if !config.scopes.is_empty() {
            Claim::of(&mut used, "scope", What::Scope);
            Claim::of(&mut used, "scp", What::Scope);
        }
        Claim::of(&mut used, &config.consumer_claim, What::Other).consumer = true;
        for (place, (_, claim)) in claims.iter().enumerate() {
            Claim::of(&mut used, claim, What::Other).attrs.push(place);
        }
        if used.len() > u64::BITS as usize {
            return Err(format!("{place}.claims: {} of them, and at most 50 are allowed", claims.len()));
        }
        let memory = Memory::new(config.cache.entries, u64::from(config.cache.ttl_s) * 1000);
        Ok(Jwt {
            keys,
            header: need(needs, &config.header, &format!("{place}.header"))?,
            scheme: config.scheme,
            issuers: config.issuers,
            audiences: config.audiences,
            leeway_ms: u64::from(config.leeway_s) * 1000,
            require_exp: config.require_exp,
            claims,
            scopes: config.scopes,
            used,
            removes: if config.remove { vec![config.header.to_ascii_lowercase()] } else { Vec::new() },
            memory: RefCell::new(memory),
            last_head: RefCell::default(),
        })
    }

    pub(crate) fn check(&self, request: &Request) -> Verdict {
        let Some(token) = request.at(self.header).and_then(|value| self.token(value)) else { return Verdict::Absent };
        let now_ms = clock::now_ms();
        let mut memory = self.memory.borrow_mut();
        if let Some(verified) = memory.get(token, now_ms) {
            return self.in_time(verified, now_ms);
        }
        match self.verify(token) {
            Ok(verified) => {
                let verdict = self.in_time(&verified, now_ms);
                // Only what is good now is kept: nobody can fill the memory with tokens that they were never given.
                if matches!(verdict, Verdict::Known(_)) {
                    memory.put(token, verified, now_ms);
                }
                verdict
            }
            Err(verdict) => verdict,
        }
    }

    /// The token in a field: behind the scheme, or the whole value where the configuration names no scheme.
    fn token<'a>(&self, value: &'a str) -> Option<&'a str> {
        if self.scheme.is_empty() {
            return Some(value.trim_ascii());
        }
        let (scheme, token) = value.split_at_checked(self.scheme.len())?;
        let token = token.strip_prefix(' ')?;
        (same(scheme, &self.scheme) || scheme.eq_ignore_ascii_case(&self.scheme)).then(|| token.trim_ascii())
    }

    /// Asked for every request, remembered token or not.
    fn in_time(&self, verified: &Verified, now_ms: u64) -> Verdict {
        if verified.until_ms.is_some_and(|until| now_ms >= until.saturating_add(self.leeway_ms)) {
            return Verdict::Wrong("the token has expired");
        }
        if verified.from_ms.is_some_and(|from| now_ms.saturating_add(self.leeway_ms) < from) {
            return Verdict::Wrong("the token is not valid yet");
        }
        Verdict::Known(verified.who.clone())
    }

    /// Everything about a token but the time.
    fn verify(&self, token: &str) -> Result<Verified, Verdict> {
        const MALFORMED: Verdict = Verdict::Wrong("the token is malformed");
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Verdict::Wrong("the token is too long"));
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(MALFORMED)?;
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| MALFORMED);
        let signature = decode(signature)?;
        let mut last_head = self.last_head.borrow_mut();
        let known = last_head.as_ref().and_then(|seen| seen.claims_of(signed));
        let (new_head, claims) = match known {
            Some(claims) => (None, claims),
            None => {
                let (head, claims) = signed.split_once('.').ok_or(MALFORMED)?;
                (Some(self.head(head)?), claims)
            }
        };
        let fitting = new_head.as_ref().or(last_head.as_ref()).map_or(&[][..], |seen| &seen.keys);
        let good = |key: &Key| {
            // A key that does not read was refused when it was configured.
            crypto::verify(key.alg.signature(), &key.bytes, signed.as_bytes(), &signature) == Ok(true)
        };
        if !fitting.iter().filter_map(|place| self.keys.get(*place)).any(good) {
            return Err(Verdict::Wrong(if fitting.is_empty() { "no key is known for this token" } else { "the signature is wrong" }));
        }
        // Behind this line the token is the issuer's.
        if new_head.is_some() {
            *last_head = new_head;
        }
        let claims = decode(claims)?;
        self.read(&claims)
    }

    /// Which keys fit this head?
    fn head(&self, text: &str) -> Result<SeenHead, Verdict> {
        const MALFORMED: Verdict = Verdict::Wrong("the token is malformed");
        let json = URL_SAFE_NO_PAD.decode(text).map_err(|_| MALFORMED)?;
        let head: Head<'_> = serde_json::from_slice(&json).map_err(|_| MALFORMED)?;
        // RFC 7515 section 4.1.11: names of extensions that must be understood, and we understand none. It is never empty and
        // never anything but a list of names, so what else stands there is not understood either.
        if head.crit {
            return Err(Verdict::Wrong("the token uses an extension that is not supported"));
        }
        let fits = |key: &Key| key.alg.name() == head.alg && (key.kid.is_none() || head.kid.is_none() || key.kid == head.kid);
        let keys = self.keys.iter().enumerate().filter(|(_, key)| fits(key)).map(|(place, _)| place).collect();
        Ok(SeenHead { text: text.into(), keys })
    }

    fn read(&self, json: &[u8]) -> Result<Verified, Verdict> {
        const UNREADABLE: Verdict = Verdict::Wrong("the claims cannot be read");
        // Looked at once, and not again for each text in it.
        let json = std::str::from_utf8(json).map_err(|_| UNREADABLE)?;
        let claims = Claims::read(json, self).map_err(|_| UNREADABLE)?;
        if claims.exp.is_none() && self.require_exp {
            return Err(Verdict::Wrong("the token has no expiry"));
        }
        if !self.issuers.is_empty() && !claims.issuer {
            return Err(Verdict::Wrong("the token is from another issuer"));
        }
        if !self.audiences.is_empty() && !claims.audience {
            return Err(Verdict::Wrong("the token is for another audience"));
        }
        let consumer = claims.consumer.filter(|name| is_consumer(name)).ok_or(Verdict::Wrong("the token names no consumer"))?;
        if !self.scopes.iter().all(|scope| claims.scopes.contains(scope)) {
            return Err(Verdict::NotEnough("the token lacks a scope that is needed here"));
        }
        let mut attrs = Vec::new();
        for (place, value) in claims.wanted {
            let Some((name, _)) = self.claims.get(place) else { continue };
            if value.len() > ATTR_VALUE_MAX || !is_field_value(&value) {
                return Err(Verdict::Wrong("a claim is too long or has control characters"));
            }
            attrs.push((name.clone(), value));
        }
        Ok(Verified { until_ms: claims.exp, from_ms: claims.nbf, who: Identity { consumer, attrs } })
    }
}

/// What stands before the first dot. Unknown members are ignored (RFC 7515 section 4), doubled ones refused.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    alg: std::borrow::Cow<'a, str>,
    #[serde(default)]
    kid: Option<String>,
    /// Is it there, whatever it says? (`null` in an `Option` would be absent.)
    #[serde(default, deserialize_with = "present")]
    crit: bool,
}

fn present<'de, D: Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(value).map(|_| true)
}

/// What is looked at in the second part.
#[derive(Default)]
struct Claims {
    exp: Option<u64>,
    nbf: Option<u64>,
    /// Is it one of the issuers that are believed?
    issuer: bool,
    /// Is one of ours among those it is for?
    audience: bool,
    scopes: Vec<String>,
    consumer: Option<String>,
    /// Place in `Jwt::claims`, value.
    wanted: Vec<(usize, String)>,
}

impl Claims {
    fn read(text: &str, jwt: &Jwt) -> Result<Claims, serde_json::Error> {
        let mut json = serde_json::Deserializer::from_str(text);
        let claims = json.deserialize_map(ClaimsOf(jwt))?;
        json.end()?;
        Ok(claims)
    }
}

/// The place of a name among these claims, without building it.
struct PlaceIn<'a>(&'a [Claim]);

impl<'de> DeserializeSeed<'de> for PlaceIn<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, name: D) -> Result<Option<usize>, D::Error> {
        name.deserialize_str(self)
    }
}

impl Visitor<'_> for PlaceIn<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name of a claim")
    }

    fn visit_str<E>(self, name: &str) -> Result<Option<usize>, E> {
        Ok(self.0.iter().position(|claim| same(&claim.name, name)))
    }
}

struct ClaimsOf<'a>(&'a Jwt);

impl<'de> Visitor<'de> for ClaimsOf<'_> {
    type Value = Claims;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of claims")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Claims, A::Error> {
        use serde::de::Error;
        let mut claims = Claims::default();
        // Two values for one claim would let two readers of one token see different things.
        let mut seen = 0u64;
        while let Some(found) = map.next_key_seed(PlaceIn(&self.0.used))? {
            let Some((place, claim)) = found.and_then(|place| Some((place, self.0.used.get(place)?))) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if seen & (1 << place) != 0 {
                return Err(A::Error::custom("a claim stands twice"));
            }
            seen |= 1 << place;
            let value: Value = map.next_value()?;
            for &place in &claim.attrs {
                if let Some(text) = scalar(&value).or_else(|| value.is_array().then(|| texts(&value).collect::<Vec<_>>().join(","))) {
                    claims.wanted.push((place, text));
                }
            }
            match claim.what {
                What::Exp => claims.exp = Some(millis(&value).ok_or_else(|| A::Error::custom("`exp` is no time"))?),
                What::Nbf => claims.nbf = Some(millis(&value).ok_or_else(|| A::Error::custom("`nbf` is no time"))?),
                What::Iss => claims.issuer = value.as_str().is_some_and(|iss| is_one_of(&self.0.issuers, iss)),
                What::Aud => claims.audience = texts(&value).any(|aud| is_one_of(&self.0.audiences, aud)),
                What::Scope => claims.scopes.extend(texts(&value).flat_map(|text| text.split(' ')).map(String::from)),
                What::Other => {}
            }
            if claim.consumer {
                claims.consumer = match value {
                    Value::String(text) => Some(text),
                    other => scalar(&other),
                };
            }
        }
        Ok(claims)
    }
}

/// A NumericDate (RFC 7519 section 2): seconds, perhaps with a fraction.
fn millis(value: &Value) -> Option<u64> {
    if let Some(seconds) = value.as_u64() {
        return Some(seconds.saturating_mul(1000));
    }
    let seconds = value.as_f64().filter(|seconds| seconds.is_finite())?;
    Some(if seconds <= 0.0 { 0 } else { (seconds * 1000.0) as u64 })
}

/// A text, or the texts of a list.
fn texts(value: &Value) -> impl Iterator<Item = &str> {
    let list = match value {
        Value::Array(list) => list.as_slice(),
        one => std::slice::from_ref(one),
    };
    list.iter().filter_map(Value::as_str)
}

fn is_one_of(texts: &[String], text: &str) -> bool {
    texts.iter().any(|have| same(have, text))
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(yes) => Some(yes.to_string()),
        _ => None,
    }
}
