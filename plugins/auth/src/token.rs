//! Signed tokens: the fields `uid` and `token`, and a record for that uid in the key-value store.
//!
//! The record lies under `token:<uid>` (the prefix is configurable) and is JSON in one of two forms:
//!
//! - `{"secret": "...", "expires_ms": 1767225600000}`: the token is `<expires_s>.<signature>`, where `signature` is
//!   base64url without padding of HMAC-SHA-256 under the secret's bytes over `<uid>.<expires_s>`. A client that knows its
//!   secret makes its own short-lived tokens.
//! - `{"sha256": "<hex>", "expires_ms": ...}`: the token is an opaque text with this hash, as given out at login.
//!
//! Both are compared in constant time by the host. `expires_ms` of the record ends both; deleting the record revokes at
//! once, since nothing is remembered here.

use crate::api_key::{hex, is_sha256_hex};
use crate::config::TokenConfig;
use crate::decide::{Identity, Verdict, is_consumer, need};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use wharf_plugin::host::{clock, crypto, kv, log};
use wharf_plugin::{Needs, Request};

const UID_BYTES_MAX: usize = 256;
const TOKEN_BYTES_MAX: usize = 1024;
/// With the uid within the store's 512 bytes.
const PREFIX_BYTES_MAX: usize = 128;

#[derive(Debug)]
pub(crate) struct Token {
    uid: usize,
    token: usize,
    kv_prefix: String,
    leeway_ms: u64,
    pub(crate) removes: Vec<String>,
}

#[derive(Deserialize)]
struct Record {
    #[serde(default)]
    secret: Option<String>,
    #[serde(default)]
    sha256: Option<String>,
    expires_ms: u64,
    /// Who it is, where that is not the uid.
    #[serde(default)]
    consumer: Option<String>,
}

impl Token {
    pub(crate) fn new(config: TokenConfig, place: &str, needs: &mut Needs) -> Result<Token, String> {
        if config.kv_prefix.len() > PREFIX_BYTES_MAX {
            return Err(format!("{place}.kv_prefix has {} bytes, and at most {PREFIX_BYTES_MAX} are allowed", config.kv_prefix.len()));
        }
        Ok(Token {
            uid: need(needs, &config.uid_header, &format!("{place}.uid_header"))?,
            token: need(needs, &config.token_header, &format!("{place}.token_header"))?,
            kv_prefix: config.kv_prefix,
            leeway_ms: u64::from(config.leeway_s) * 1000,
            removes: match config.remove {
                true => vec![config.uid_header.to_ascii_lowercase(), config.token_header.to_ascii_lowercase()],
                false => Vec::new(),
            },
        })
    }

    pub(crate) fn check(&self, request: &Request) -> Verdict {
        // One text for all that is wrong: it must not tell which uids there are.
        const WRONG: Verdict = Verdict::Wrong("uid and token do not fit");
        let (uid, token) = match (request.at(self.uid), request.at(self.token)) {
            (None, None) => return Verdict::Absent,
            (Some(uid), Some(token)) => (uid, token),
            _ => return Verdict::Wrong("uid and token belong together"),
        };
        if uid.is_empty() || uid.len() > UID_BYTES_MAX || !uid.bytes().all(|byte| byte.is_ascii_graphic()) || token.len() > TOKEN_BYTES_MAX
        {
            return WRONG;
        }
        let record = match kv::get(&format!("{}{uid}", self.kv_prefix)) {
            Ok(Some(record)) => record,
            Ok(None) => return WRONG,
            Err(_) => return Verdict::Unknown("credentials cannot be checked at the moment"),
        };
        let Ok(record) = serde_json::from_slice::<Record>(&record) else {
            log::error(&format!(
                "the record {:?} in the key-value store is not what a token record must be",
                format!("{}{uid}", self.kv_prefix)
            ));
            return Verdict::Unknown("credentials cannot be checked at the moment");
        };
        let now_ms = clock::now_ms();
        let over = |expires_ms: u64| now_ms >= expires_ms.saturating_add(self.leeway_ms);
        if over(record.expires_ms) {
            return WRONG;
        }
        // When the token itself ends, which is said only to who has signed it.
        let mut expires_ms = u64::MAX;
        let good = match (&record.secret, &record.sha256) {
            (Some(secret), None) if !secret.is_empty() => {
                let Some((expires_s, signature)) = token.split_once('.') else { return WRONG };
                // The text is signed as it stands, so it must have one spelling only.
                let Some(expires) = expires_s.parse::<u64>().ok().filter(|number| number.to_string() == expires_s) else { return WRONG };
                let Ok(signature) = URL_SAFE_NO_PAD.decode(signature) else { return WRONG };
                expires_ms = expires.saturating_mul(1000);
                let message = format!("{uid}.{expires_s}");
                crypto::verify(crypto::Signature::Hs256, secret.as_bytes(), message.as_bytes(), &signature) == Ok(true)
            }
            (None, Some(sha256)) if is_sha256_hex(sha256) => {
                crypto::equal(hex(&crypto::hash(crypto::Hash::Sha256, token.as_bytes())).as_bytes(), sha256.as_bytes())
            }
            _ => false,
        };
        if !good {
            return WRONG;
        }
        if over(expires_ms) {
            return Verdict::Wrong("the token has expired");
        }
        let consumer = record.consumer.unwrap_or_else(|| uid.into());
        match is_consumer(&consumer) {
            true => Verdict::Known(Identity { consumer, attrs: Vec::new() }),
            false => Verdict::Unknown("credentials cannot be checked at the moment"),
        }
    }
}
