//! API keys, in a field or in the query. Only their SHA-256 is written down anywhere; a key is found by its hash, so the
//! time of the search tells nothing about the key.

use crate::config::ApiKeyConfig;
use crate::decide::{Identity, Verdict, is_consumer, need};
use serde::Deserialize;
use std::borrow::Cow;
use wharf_plugin::host::{clock, crypto, kv, log};
use wharf_plugin::{Fact, Lookup, Needs, Request};

const KEY_BYTES_MAX: usize = 1024;
const PREFIX_BYTES_MAX: usize = 128;

#[derive(Debug)]
pub(crate) struct ApiKey {
    header: Option<usize>,
    query: Option<String>,
    /// By lower-case hexadecimal SHA-256.
    keys: Lookup<String>,
    kv_prefix: Option<String>,
    pub(crate) removes: Vec<String>,
}

#[derive(Deserialize)]
struct Record {
    consumer: String,
    #[serde(default)]
    expires_ms: Option<u64>,
}

impl ApiKey {
    pub(crate) fn new(config: ApiKeyConfig, place: &str, needs: &mut Needs) -> Result<ApiKey, String> {
        if config.header.is_none() && config.query.is_none() {
            return Err(format!("{place} looks nowhere: give it `header` or `query`"));
        }
        if config.keys.is_empty() && config.kv_prefix.is_none() {
            return Err(format!("{place} knows no keys: give it `keys` or `kv_prefix`"));
        }
        if config.kv_prefix.as_ref().is_some_and(|prefix| prefix.len() > PREFIX_BYTES_MAX) {
            return Err(format!("{place}.kv_prefix: at most {PREFIX_BYTES_MAX} bytes"));
        }
        let mut keys: Vec<(String, String)> = Vec::new();
        for (number, key) in config.keys.into_iter().enumerate() {
            let sha256 = key.sha256.to_ascii_lowercase();
            if !is_sha256_hex(&sha256) {
                return Err(format!("{place}.keys[{number}].sha256: a SHA-256 is 64 hexadecimal digits; try `printf %s KEY | sha256sum`"));
            }
            if !is_consumer(&key.consumer) {
                return Err(format!("{place}.keys[{number}].consumer: {:?} is no name for a consumer", key.consumer));
            }
            if keys.iter().any(|(have, _)| *have == sha256) {
                return Err(format!("{place}.keys[{number}].sha256 stands there twice; which consumer is meant?"));
            }
            keys.push((sha256, key.consumer));
        }
        let header = match &config.header {
            Some(name) => Some(need(needs, name, &format!("{place}.header"))?),
            // Looked at by every request. Beside a field it is looked at by those without it only, and asked for then.
            None => {
                needs.on_request(Fact::Query);
                None
            }
        };
        Ok(ApiKey {
            header,
            query: config.query,
            keys: Lookup::new(keys),
            kv_prefix: config.kv_prefix,
            removes: config.header.filter(|_| config.remove).map(|name| name.to_ascii_lowercase()).into_iter().collect(),
        })
    }

    pub(crate) fn check(&self, request: &Request) -> Verdict {
        let in_field = self.header.and_then(|place| request.at(place));
        let in_query = match (&self.query, in_field) {
            (Some(name), None) => request.query().and_then(|query| argument(query, name)),
            _ => None,
        };
        // One that cannot be decoded was given all the same: it is wrong, not absent.
        let key = match (in_field, in_query) {
            (Some(key), _) => Some(Cow::Borrowed(key)),
            (None, Some(written)) => decoded(written).map(Cow::Owned),
            (None, None) => return Verdict::Absent,
        };
        let Some(key) = key.filter(|key| !key.is_empty() && key.len() <= KEY_BYTES_MAX) else {
            return Verdict::Wrong("the key is unknown");
        };
        let sha256 = hex(&crypto::hash(crypto::Hash::Sha256, key.as_bytes()));
        if let Some(consumer) = self.keys.get(&sha256) {
            return Verdict::Known(Identity { consumer: consumer.clone(), attrs: Vec::new() });
        }
        match &self.kv_prefix {
            Some(prefix) => stored(&format!("{prefix}{sha256}")),
            None => Verdict::Wrong("the key is unknown"),
        }
    }
}

fn stored(place: &str) -> Verdict {
    const UNKNOWN: Verdict = Verdict::Unknown("credentials cannot be checked at the moment");
    let record = match kv::get(place) {
        Ok(Some(record)) => record,
        Ok(None) => return Verdict::Wrong("the key is unknown"),
        Err(_) => return UNKNOWN,
    };
    match serde_json::from_slice::<Record>(&record) {
        Ok(record) if record.expires_ms.is_some_and(|until| clock::now_ms() >= until) => Verdict::Wrong("the key has expired"),
        Ok(record) if is_consumer(&record.consumer) => Verdict::Known(Identity { consumer: record.consumer, attrs: Vec::new() }),
        _ => {
            log::error(&format!("the record {place:?} in the key-value store is not what a key record must be"));
            UNKNOWN
        }
    }
}

/// The value of the first argument of this name in a query, as it is written.
fn argument<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| pair.split_once('=').filter(|(have, _)| *have == name).map(|(_, value)| value))
}

/// A value of a query; `None`: its encoding is broken, or it is no UTF-8.
fn decoded(value: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(value.len());
    let mut bytes = value.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => {
                let high = (bytes.next()? as char).to_digit(16)?;
                let low = (bytes.next()? as char).to_digit(16)?;
                (high * 16 + low) as u8
            }
            b'+' => b' ',
            other => other,
        });
    }
    String::from_utf8(decoded).ok()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        for half in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(half), 16).unwrap_or_default());
        }
    }
    text
}

pub(crate) fn is_sha256_hex(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
