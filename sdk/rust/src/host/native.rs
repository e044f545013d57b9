//! The host's side of a native build: a world in memory, one for each thread, so that tests do not meet.
//!
//! Without a test that sets it, the clock is the real one and random numbers come from a fixed seed. The crypto is real
//! (feature `native-crypto`).

use super::{crypto, http, kv, log};
use crate::testing::{Ask, Service};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Everything outside the plugin.
pub(crate) struct World {
    pub(crate) config: String,
    /// Set by a test; `None`: the real clock.
    pub(crate) now_ms: Option<u64>,
    pub(crate) kv: BTreeMap<String, (Vec<u8>, Option<u64>)>,
    pub(crate) kv_down: bool,
    pub(crate) lines: Vec<(log::Level, String)>,
    pub(crate) counts: BTreeMap<String, u64>,
    pub(crate) services: BTreeMap<String, Service>,
    pub(crate) random: u64,
    pub(crate) ask: Option<Ask>,
    /// How often a host call was made, for tests that promise few.
    pub(crate) calls: u64,
    start: Option<Instant>,
}

impl Default for World {
    fn default() -> World {
        World {
            config: "{}".into(),
            now_ms: None,
            kv: BTreeMap::new(),
            kv_down: false,
            lines: Vec::new(),
            counts: BTreeMap::new(),
            services: BTreeMap::new(),
            random: 0x9e37_79b9_7f4a_7c15,
            ask: None,
            calls: 0,
            start: None,
        }
    }
}

thread_local! {
    static WORLD: RefCell<World> = RefCell::default();
}

pub(crate) fn world<T>(look: impl FnOnce(&mut World) -> T) -> T {
    WORLD.with_borrow_mut(look)
}

/// A call to the host.
fn call<T>(answer: impl FnOnce(&mut World) -> T) -> T {
    world(|world| {
        world.calls += 1;
        answer(world)
    })
}

pub(super) fn config() -> String {
    call(|world| world.config.clone())
}

pub(super) fn log(level: log::Level, message: &str) {
    call(|world| world.lines.push((level, message.into())));
}

/// The value under a key whose time has not run out.
fn live(world: &mut World, key: &str) -> Result<Option<Vec<u8>>, kv::Error> {
    if world.kv_down {
        return Err(kv::Error::Unavailable("the test says so".into()));
    }
    if key.is_empty() || key.len() > 512 {
        return Err(kv::Error::TooLarge(format!("a key has 1 to 512 bytes, this one {}", key.len())));
    }
    let now = time(world);
    if world.kv.get(key).is_some_and(|(_, until)| until.is_some_and(|until| until <= now)) {
        world.kv.remove(key);
    }
    Ok(world.kv.get(key).map(|(value, _)| value.clone()))
}

fn put(world: &mut World, key: &str, value: &[u8], ttl_ms: Option<u64>) -> Result<(), kv::Error> {
    if value.len() > 256 * 1024 {
        return Err(kv::Error::TooLarge(format!("a value has at most 256 KiB, this one {} bytes", value.len())));
    }
    let until = ttl_ms.map(|ttl| time(world).saturating_add(ttl));
    world.kv.insert(key.into(), (value.into(), until));
    Ok(())
}

pub(super) fn kv_get(key: &str) -> Result<Option<Vec<u8>>, kv::Error> {
    call(|world| live(world, key))
}

pub(super) fn kv_set(key: &str, value: &[u8], ttl_ms: Option<u64>) -> Result<(), kv::Error> {
    call(|world| live(world, key).and_then(|_| put(world, key, value, ttl_ms)))
}

pub(super) fn kv_delete(key: &str) -> Result<bool, kv::Error> {
    call(|world| Ok(live(world, key)?.is_some() && world.kv.remove(key).is_some()))
}

pub(super) fn kv_compare_and_set(key: &str, expected: Option<&[u8]>, value: &[u8], ttl_ms: Option<u64>) -> Result<bool, kv::Error> {
    call(|world| {
        if live(world, key)?.as_deref() != expected {
            return Ok(false);
        }
        put(world, key, value, ttl_ms).map(|()| true)
    })
}

pub(super) fn kv_increment(key: &str, by: i64, ttl_ms: Option<u64>) -> Result<i64, kv::Error> {
    call(|world| {
        let Some(have) = live(world, key)? else {
            return put(world, key, by.to_string().as_bytes(), ttl_ms).map(|()| by);
        };
        let have: i64 = std::str::from_utf8(&have).ok().and_then(|text| text.parse().ok()).ok_or(kv::Error::NotACounter)?;
        let sum = have.saturating_add(by);
        if let Some((value, _)) = world.kv.get_mut(key) {
            *value = sum.to_string().into_bytes();
        }
        Ok(sum)
    })
}

pub(super) fn count(name: &str, by: u64) {
    call(|world| *world.counts.entry(name.into()).or_default() += by);
}

fn time(world: &World) -> u64 {
    world.now_ms.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64))
}

pub(super) fn now_ms() -> u64 {
    call(|world| time(world))
}

pub(super) fn monotonic_ns() -> u64 {
    call(|world| match world.now_ms {
        Some(now) => now.saturating_mul(1_000_000),
        None => world.start.get_or_insert_with(Instant::now).elapsed().as_nanos() as u64,
    })
}

pub(super) fn random_bytes(count: u32) -> Vec<u8> {
    (0..count).map(|_| random_u64() as u8).collect()
}

/// SplitMix64.
pub(super) fn random_u64() -> u64 {
    call(|world| {
        world.random = world.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = world.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    })
}

pub(super) fn fetch(request: http::Request) -> Result<http::Response, http::Error> {
    // Taken out for the call: the service of a test may look at the world, too.
    let Some(mut service) = call(|world| world.services.remove(&request.service)) else {
        return Err(http::Error::Denied(format!("service {:?} is not granted", request.service)));
    };
    let answer = service(&request);
    world(|world| world.services.insert(request.service, service));
    answer
}

fn asked<T>(answer: impl FnOnce(&Ask) -> T) -> T {
    #[allow(clippy::panic, reason = "the host traps here, too")]
    call(|world| match &world.ask {
        Some(ask) => answer(ask),
        None => panic!("wharf:host/exchange was called outside an exchange; in a component this traps"),
    })
}

pub(super) fn exchange_id() -> String {
    asked(|ask| ask.id.clone())
}

pub(super) fn exchange_route() -> String {
    asked(|ask| ask.route.clone())
}

pub(super) fn exchange_path() -> String {
    asked(|ask| ask.path.clone())
}

pub(super) fn exchange_authority() -> String {
    asked(|ask| ask.authority.clone())
}

pub(super) fn exchange_scheme() -> String {
    asked(|ask| ask.scheme.clone())
}

pub(super) fn exchange_query() -> Option<String> {
    asked(|ask| ask.query.clone())
}

pub(super) fn exchange_peer() -> String {
    asked(|ask| ask.client.clone())
}

pub(super) fn exchange_header(name: &str) -> Option<String> {
    asked(|ask| Ask::joined(&ask.headers, name))
}

pub(super) fn exchange_header_all() -> Vec<(String, Vec<u8>)> {
    asked(|ask| ask.headers.iter().map(|(name, value)| (name.clone(), value.clone().into_bytes())).collect())
}

pub(super) fn exchange_response_header(name: &str) -> Option<String> {
    asked(|ask| Ask::joined(&ask.response_headers, name))
}

pub(super) fn exchange_attr(name: &str) -> Option<String> {
    asked(|ask| Ask::joined(&ask.attrs, name))
}

#[cfg(not(feature = "native-crypto"))]
mod real {
    use super::crypto;

    fn absent() -> ! {
        #[allow(clippy::panic, reason = "only in native tests; a component asks the host")]
        {
            panic!("this native build has no crypto: enable the feature `native-crypto` of wharf-plugin")
        }
    }

    pub(crate) fn hash(_: crypto::Hash, _: &[u8]) -> Vec<u8> {
        absent()
    }

    pub(crate) fn hmac(_: crypto::Hash, _: &[u8], _: &[u8]) -> Vec<u8> {
        absent()
    }

    pub(crate) fn verify(_: crypto::Signature, _: &[u8], _: &[u8], _: &[u8]) -> Result<bool, crypto::BadKey> {
        absent()
    }

    pub(crate) fn equal(a: &[u8], b: &[u8]) -> bool {
        a == b
    }
}

#[cfg(feature = "native-crypto")]
mod real {
    use super::crypto::{BadKey, Hash, Signature};
    use aws_lc_rs::{constant_time, digest, hmac, signature};
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    pub(crate) fn hash(algorithm: Hash, data: &[u8]) -> Vec<u8> {
        let algorithm = match algorithm {
            Hash::Sha256 => &digest::SHA256,
            Hash::Sha384 => &digest::SHA384,
            Hash::Sha512 => &digest::SHA512,
        };
        digest::digest(algorithm, data).as_ref().into()
    }

    fn hmac_algorithm(algorithm: Hash) -> hmac::Algorithm {
        match algorithm {
            Hash::Sha256 => hmac::HMAC_SHA256,
            Hash::Sha384 => hmac::HMAC_SHA384,
            Hash::Sha512 => hmac::HMAC_SHA512,
        }
    }

    pub(crate) fn hmac(algorithm: Hash, key: &[u8], data: &[u8]) -> Vec<u8> {
        hmac::sign(&hmac::Key::new(hmac_algorithm(algorithm), key), data).as_ref().into()
    }

    pub(crate) fn equal(a: &[u8], b: &[u8]) -> bool {
        constant_time::verify_slices_are_equal(a, b).is_ok()
    }

    pub(crate) fn verify(algorithm: Signature, key: &[u8], message: &[u8], sign: &[u8]) -> Result<bool, BadKey> {
        let shared = |hash| Ok(hmac::verify(&hmac::Key::new(hmac_algorithm(hash), key), message, sign).is_ok());
        let algorithm: &dyn signature::VerificationAlgorithm = match algorithm {
            Signature::Hs256 => return shared(Hash::Sha256),
            Signature::Hs384 => return shared(Hash::Sha384),
            Signature::Hs512 => return shared(Hash::Sha512),
            Signature::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Signature::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
            Signature::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
            Signature::Es256 => &signature::ECDSA_P256_SHA256_FIXED,
            Signature::Es384 => &signature::ECDSA_P384_SHA384_FIXED,
            Signature::EdDsa => &signature::ED25519,
        };
        let der = der(key)?;
        let key = signature::ParsedPublicKey::new(algorithm, &der)
            .map_err(|_| BadKey("neither PEM nor DER of a SubjectPublicKeyInfo of this kind".into()))?;
        Ok(key.verify_sig(message, sign).is_ok())
    }

    /// DER as it is, or out of PEM.
    fn der(key: &[u8]) -> Result<Vec<u8>, BadKey> {
        let Some(text) = std::str::from_utf8(key).ok().map(str::trim).filter(|text| text.starts_with("-----BEGIN")) else {
            return Ok(key.into());
        };
        let inner: String = text
            .strip_prefix("-----BEGIN PUBLIC KEY-----")
            .and_then(|text| text.strip_suffix("-----END PUBLIC KEY-----"))
            .ok_or_else(|| BadKey("the PEM text is no PUBLIC KEY".into()))?
            .split_whitespace()
            .collect();
        STANDARD.decode(inner).map_err(|_| BadKey("the PEM text is no base64".into()))
    }
}

pub(super) fn hash(algorithm: crypto::Hash, data: &[u8]) -> Vec<u8> {
    call(|_| real::hash(algorithm, data))
}

pub(super) fn hmac(algorithm: crypto::Hash, key: &[u8], data: &[u8]) -> Vec<u8> {
    call(|_| real::hmac(algorithm, key, data))
}

pub(super) fn verify(algorithm: crypto::Signature, key: &[u8], message: &[u8], signature: &[u8]) -> Result<bool, crypto::BadKey> {
    call(|_| real::verify(algorithm, key, message, signature))
}

pub(super) fn equal(a: &[u8], b: &[u8]) -> bool {
    call(|_| real::equal(a, b))
}
