//! What people write. Checked and turned into what is asked by each method's own file.

use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) methods: Vec<MethodConfig>,
    /// A request without any credentials passes as this consumer; absent: it gets 401.
    #[serde(default)]
    pub(crate) anonymous: Option<String>,
    /// Only these consumers; others get 403.
    #[serde(default)]
    pub(crate) consumers: Option<Vec<String>>,
    #[serde(default = "realm")]
    pub(crate) realm: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum MethodConfig {
    Jwt(JwtConfig),
    Token(TokenConfig),
    ApiKey(ApiKeyConfig),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct JwtConfig {
    pub(crate) keys: Vec<KeyConfig>,
    #[serde(default = "authorization")]
    pub(crate) header: String,
    #[serde(default = "bearer")]
    pub(crate) scheme: String,
    #[serde(default)]
    pub(crate) issuers: Vec<String>,
    #[serde(default)]
    pub(crate) audiences: Vec<String>,
    #[serde(default)]
    pub(crate) leeway_s: u32,
    #[serde(default = "yes")]
    pub(crate) require_exp: bool,
    #[serde(default = "sub")]
    pub(crate) consumer_claim: String,
    /// Attribute to claim.
    #[serde(default)]
    pub(crate) claims: BTreeMap<String, String>,
    /// All of these must stand in `scope` (or `scp`).
    #[serde(default)]
    pub(crate) scopes: Vec<String>,
    #[serde(default)]
    pub(crate) remove: bool,
    #[serde(default)]
    pub(crate) cache: CacheConfig,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyConfig {
    #[serde(default)]
    pub(crate) kid: Option<String>,
    pub(crate) alg: Alg,
    #[serde(default)]
    pub(crate) secret: Option<String>,
    #[serde(default)]
    pub(crate) secret_base64: Option<String>,
    #[serde(default)]
    pub(crate) public_key: Option<String>,
}

/// What a key is for. There is no `none`, and a key is never used for another algorithm than its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub(crate) enum Alg {
    #[serde(rename = "HS256")]
    Hs256,
    #[serde(rename = "HS384")]
    Hs384,
    #[serde(rename = "HS512")]
    Hs512,
    #[serde(rename = "RS256")]
    Rs256,
    #[serde(rename = "RS384")]
    Rs384,
    #[serde(rename = "RS512")]
    Rs512,
    #[serde(rename = "ES256")]
    Es256,
    #[serde(rename = "ES384")]
    Es384,
    #[serde(rename = "EdDSA")]
    EdDsa,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct CacheConfig {
    pub(crate) entries: u32,
    pub(crate) ttl_s: u32,
}

impl Default for CacheConfig {
    fn default() -> CacheConfig {
        CacheConfig { entries: 1024, ttl_s: 60 }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenConfig {
    #[serde(default = "uid")]
    pub(crate) uid_header: String,
    #[serde(default = "token")]
    pub(crate) token_header: String,
    #[serde(default = "token_prefix")]
    pub(crate) kv_prefix: String,
    #[serde(default)]
    pub(crate) leeway_s: u32,
    #[serde(default)]
    pub(crate) remove: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ApiKeyConfig {
    #[serde(default)]
    pub(crate) header: Option<String>,
    #[serde(default)]
    pub(crate) query: Option<String>,
    #[serde(default)]
    pub(crate) keys: Vec<HashedKeyConfig>,
    #[serde(default)]
    pub(crate) kv_prefix: Option<String>,
    #[serde(default)]
    pub(crate) remove: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct HashedKeyConfig {
    pub(crate) sha256: String,
    pub(crate) consumer: String,
}

fn realm() -> String {
    "wharf".into()
}

fn authorization() -> String {
    "authorization".into()
}

fn bearer() -> String {
    "Bearer".into()
}

fn sub() -> String {
    "sub".into()
}

fn uid() -> String {
    "uid".into()
}

fn token() -> String {
    "token".into()
}

fn token_prefix() -> String {
    "token:".into()
}

fn yes() -> bool {
    true
}
