//! The host's side in a component: each call is one import. Only what is called is linked, so only that is asked for.

use super::{crypto, http, kv, log};
use crate::guest::capabilities::wharf::host as wit;

pub(super) fn config() -> String {
    wit::config::get()
}

pub(super) fn log(level: log::Level, message: &str) {
    let level = match level {
        log::Level::Debug => wit::log::Level::Debug,
        log::Level::Info => wit::log::Level::Info,
        log::Level::Warn => wit::log::Level::Warn,
        log::Level::Error => wit::log::Level::Error,
    };
    wit::log::log(level, message);
}

fn kv_error(error: wit::kv::Error) -> kv::Error {
    match error {
        wit::kv::Error::Unavailable(why) => kv::Error::Unavailable(why),
        wit::kv::Error::TooLarge(why) => kv::Error::TooLarge(why),
        wit::kv::Error::Full(why) => kv::Error::Full(why),
        wit::kv::Error::NotACounter => kv::Error::NotACounter,
    }
}

pub(super) fn kv_get(key: &str) -> Result<Option<Vec<u8>>, kv::Error> {
    wit::kv::get(key).map_err(kv_error)
}

pub(super) fn kv_set(key: &str, value: &[u8], ttl_ms: Option<u64>) -> Result<(), kv::Error> {
    wit::kv::set(key, value, ttl_ms).map_err(kv_error)
}

pub(super) fn kv_delete(key: &str) -> Result<bool, kv::Error> {
    wit::kv::delete(key).map_err(kv_error)
}

pub(super) fn kv_compare_and_set(key: &str, expected: Option<&[u8]>, value: &[u8], ttl_ms: Option<u64>) -> Result<bool, kv::Error> {
    wit::kv::compare_and_set(key, expected, value, ttl_ms).map_err(kv_error)
}

pub(super) fn kv_increment(key: &str, by: i64, ttl_ms: Option<u64>) -> Result<i64, kv::Error> {
    wit::kv::increment(key, by, ttl_ms).map_err(kv_error)
}

pub(super) fn count(name: &str, by: u64) {
    wit::metrics::count(name, by);
}

pub(super) fn now_ms() -> u64 {
    wit::clock::now_ms()
}

pub(super) fn monotonic_ns() -> u64 {
    wit::clock::monotonic_ns()
}

pub(super) fn random_bytes(count: u32) -> Vec<u8> {
    wit::random::bytes(count)
}

pub(super) fn random_u64() -> u64 {
    wit::random::u64()
}

fn hash_algorithm(algorithm: crypto::Hash) -> wit::crypto::HashAlgorithm {
    match algorithm {
        crypto::Hash::Sha256 => wit::crypto::HashAlgorithm::Sha256,
        crypto::Hash::Sha384 => wit::crypto::HashAlgorithm::Sha384,
        crypto::Hash::Sha512 => wit::crypto::HashAlgorithm::Sha512,
    }
}

pub(super) fn hash(algorithm: crypto::Hash, data: &[u8]) -> Vec<u8> {
    wit::crypto::hash(hash_algorithm(algorithm), data)
}

pub(super) fn hmac(algorithm: crypto::Hash, key: &[u8], data: &[u8]) -> Vec<u8> {
    wit::crypto::hmac(hash_algorithm(algorithm), key, data)
}

pub(super) fn verify(algorithm: crypto::Signature, key: &[u8], message: &[u8], signature: &[u8]) -> Result<bool, crypto::BadKey> {
    let algorithm = match algorithm {
        crypto::Signature::Hs256 => wit::crypto::SignatureAlgorithm::Hs256,
        crypto::Signature::Hs384 => wit::crypto::SignatureAlgorithm::Hs384,
        crypto::Signature::Hs512 => wit::crypto::SignatureAlgorithm::Hs512,
        crypto::Signature::Rs256 => wit::crypto::SignatureAlgorithm::Rs256,
        crypto::Signature::Rs384 => wit::crypto::SignatureAlgorithm::Rs384,
        crypto::Signature::Rs512 => wit::crypto::SignatureAlgorithm::Rs512,
        crypto::Signature::Es256 => wit::crypto::SignatureAlgorithm::Es256,
        crypto::Signature::Es384 => wit::crypto::SignatureAlgorithm::Es384,
        crypto::Signature::EdDsa => wit::crypto::SignatureAlgorithm::Eddsa,
    };
    wit::crypto::verify(algorithm, key, message, signature).map_err(|wit::crypto::Error::BadKey(why)| crypto::BadKey(why))
}

pub(super) fn equal(a: &[u8], b: &[u8]) -> bool {
    wit::crypto::equal(a, b)
}

pub(super) fn fetch(request: http::Request) -> Result<http::Response, http::Error> {
    let request = wit::http::Request {
        service: request.service,
        method: request.method,
        path: request.path,
        headers: request.headers,
        body: request.body,
    };
    match wit::http::fetch(&request) {
        Ok(answer) => Ok(http::Response { status: answer.status, headers: answer.headers, body: answer.body }),
        Err(wit::http::Error::Denied(why)) => Err(http::Error::Denied(why)),
        Err(wit::http::Error::Invalid(why)) => Err(http::Error::Invalid(why)),
        Err(wit::http::Error::Timeout) => Err(http::Error::Timeout),
        Err(wit::http::Error::Unavailable(why)) => Err(http::Error::Unavailable(why)),
        Err(wit::http::Error::TooLarge) => Err(http::Error::TooLarge),
    }
}

pub(super) fn exchange_id() -> String {
    wit::exchange::id()
}

pub(super) fn exchange_route() -> String {
    wit::exchange::route()
}

pub(super) fn exchange_path() -> String {
    wit::exchange::path()
}

pub(super) fn exchange_authority() -> String {
    wit::exchange::authority()
}

pub(super) fn exchange_scheme() -> String {
    wit::exchange::scheme()
}

pub(super) fn exchange_query() -> Option<String> {
    wit::exchange::query()
}

pub(super) fn exchange_peer() -> String {
    wit::exchange::peer()
}

pub(super) fn exchange_header(name: &str) -> Option<String> {
    wit::exchange::header(name)
}

pub(super) fn exchange_header_all() -> Vec<(String, Vec<u8>)> {
    wit::exchange::header_all()
}

pub(super) fn exchange_response_header(name: &str) -> Option<String> {
    wit::exchange::response_header(name)
}

pub(super) fn exchange_attr(name: &str) -> Option<String> {
    wit::exchange::attr(name)
}
