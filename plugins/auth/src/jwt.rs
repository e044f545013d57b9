//! JSON Web Tokens (RFC 7515, 7519). The signature is checked by the host, natively; first of all, so that nothing of an
//! unsigned token is believed.
//!
//! A key is for one algorithm, and only keys of the token's algorithm are tried: a public key is never used as a shared
//! secret, and `none` is no algorithm. No key is ever fetched from where a token points (`jku`, `x5u`, `jwk`).

use crate::config::{Alg, JwtConfig, KeyConfig};
use crate::decide::{Identity, Verdict, is_consumer, need};
use crate::memory::Memory;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
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
    consumer_claim: String,
    /// Attribute, claim.
    claims: Vec<(String, String)>,
    scopes: Vec<String>,
    /// All claims that are looked at; the others are skipped without being built.
    used: Vec<String>,
    pub(crate) removes: Vec<String>,
    /// Tokens verified lately. Everything but the time is settled for them: keys and rules do not change in the life of
    /// an instance.
    memory: RefCell<Memory<Verified>>,
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
        let mut used: Vec<String> = vec!["exp".into(), "nbf".into(), config.consumer_claim.clone()];
        used.extend((!config.issuers.is_empty()).then(|| "iss".into()));
        used.extend((!config.audiences.is_empty()).then(|| "aud".into()));
        if !config.scopes.is_empty() {
            used.extend(["scope".into(), "scp".into()]);
        }
        used.extend(config.claims.values().cloned());
        // A claim may be used twice; its first place counts.
        if used.len() > u64::BITS as usize {
            return Err(format!("{place}.claims: {} of them, and at most 50 are allowed", config.claims.len()));
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
            consumer_claim: config.consumer_claim,
            claims: config.claims.into_iter().collect(),
            scopes: config.scopes,
            used,
            removes: if config.remove { vec![config.header.to_ascii_lowercase()] } else { Vec::new() },
            memory: RefCell::new(memory),
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
        scheme.eq_ignore_ascii_case(&self.scheme).then(|| token.trim_ascii())
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
        let (head, claims) = signed.split_once('.').ok_or(MALFORMED)?;
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| MALFORMED);
        // The longest, of RSA with 8,192 bits, has 1,024 bytes.
        let mut room = [0; 1032];
        let length = URL_SAFE_NO_PAD.decode_slice(signature, &mut room).map_err(|_| MALFORMED)?;
        let signature = room.get(..length).unwrap_or_default();
        let head = decode(head)?;
        let head: Head<'_> = serde_json::from_slice(&head).map_err(|_| MALFORMED)?;
        // RFC 7515 section 4.1.11: an extension that must be understood, and we understand none.
        if head.crit.is_some() {
            return Err(Verdict::Wrong("the token uses an extension that is not supported"));
        }
        let mut any = false;
        let mut good = false;
        for key in &self.keys {
            if key.alg.name() != head.alg || (key.kid.is_some() && head.kid.is_some() && key.kid.as_deref() != head.kid.as_deref()) {
                continue;
            }
            any = true;
            // A key that does not read was refused when it was configured.
            if crypto::verify(key.alg.signature(), &key.bytes, signed.as_bytes(), signature) == Ok(true) {
                good = true;
                break;
            }
        }
        if !good {
            return Err(Verdict::Wrong(if any { "the signature is wrong" } else { "no key is known for this token" }));
        }
        // Behind this line the token is the issuer's.
        let claims = decode(claims)?;
        self.read(&claims)
    }

    fn read(&self, text: &[u8]) -> Result<Verified, Verdict> {
        let claims = Claims::read(text, self).map_err(|_| Verdict::Wrong("the claims cannot be read"))?;
        if claims.exp.is_none() && self.require_exp {
            return Err(Verdict::Wrong("the token has no expiry"));
        }
        if !self.issuers.is_empty() && !claims.iss.as_ref().is_some_and(|iss| self.issuers.contains(iss)) {
            return Err(Verdict::Wrong("the token is from another issuer"));
        }
        if !self.audiences.is_empty() && !claims.aud.iter().any(|aud| self.audiences.contains(aud)) {
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
    #[serde(default)]
    crit: Option<IgnoredAny>,
}

/// What is looked at in the second part.
#[derive(Default)]
struct Claims {
    exp: Option<u64>,
    nbf: Option<u64>,
    iss: Option<String>,
    aud: Vec<String>,
    scopes: Vec<String>,
    consumer: Option<String>,
    /// Place in `Jwt::claims`, value.
    wanted: Vec<(usize, String)>,
}

impl Claims {
    fn read(text: &[u8], jwt: &Jwt) -> Result<Claims, serde_json::Error> {
        let mut json = serde_json::Deserializer::from_slice(text);
        let claims = json.deserialize_map(ClaimsOf(jwt))?;
        json.end()?;
        Ok(claims)
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
        while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            let Some(place) = self.0.used.iter().position(|used| *used == *name) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if seen & (1 << place) != 0 {
                return Err(A::Error::custom("a claim stands twice"));
            }
            seen |= 1 << place;
            let value: Value = map.next_value()?;
            if *name == *self.0.consumer_claim {
                claims.consumer = scalar(&value);
            }
            for (place, (_, claim)) in self.0.claims.iter().enumerate() {
                if *claim == *name
                    && let Some(text) = scalar(&value).or_else(|| value.is_array().then(|| texts(value.clone()).join(",")))
                {
                    claims.wanted.push((place, text));
                }
            }
            match &*name {
                "exp" => claims.exp = Some(millis(&value).ok_or_else(|| A::Error::custom("`exp` is no time"))?),
                "nbf" => claims.nbf = Some(millis(&value).ok_or_else(|| A::Error::custom("`nbf` is no time"))?),
                "iss" => claims.iss = if let Value::String(iss) = value { Some(iss) } else { None },
                "aud" => claims.aud = texts(value),
                "scope" | "scp" => claims.scopes.extend(texts(value).iter().flat_map(|text| text.split(' ')).map(String::from)),
                _ => {}
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
fn texts(value: Value) -> Vec<String> {
    let text = |value| if let Value::String(text) = value { Some(text) } else { None };
    match value {
        Value::Array(list) => list.into_iter().filter_map(text).collect(),
        other => text(other).into_iter().collect(),
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(yes) => Some(yes.to_string()),
        _ => None,
    }
}
