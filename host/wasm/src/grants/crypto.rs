//! `wharf:host/crypto`, natively: the same work inside wasm costs several times as much.
//!
//! Arguments are read where they lie in the guest's memory. A key is parsed once for an instance and kept; parsing a PEM
//! text costs more than checking a signature with it. What will take long is done off the network thread.

use crate::instance::Guest;
use crate::turn;
use aws_lc_rs::signature::{self, ParsedPublicKey, VerificationAlgorithm};
use aws_lc_rs::{constant_time, digest, hmac};
use base64::Engine as _;
use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use wasmtime::StoreContextMut;
use wasmtime::component::{LinkerInstance, WasmList};
use wharf_wasm_bindings::host::{CryptoError, HashAlgorithm, SignatureAlgorithm};

type Here<'a> = StoreContextMut<'a, Guest>;
type Pending<'a, T> = Box<dyn Future<Output = wasmtime::Result<(T,)>> + Send + 'a>;

/// Keys that one instance keeps parsed. Few plugins have more than two: the present one and the one before.
const KEYS_MAX: usize = 8;
/// Bytes that are hashed on a network thread, about 60 us of it at worst; more is done on the guest thread.
const INLINE_BYTES_MAX: usize = 32 << 10;

pub(super) fn link(to: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    to.func_wrap_async("hash", |mut here: Here<'_>, (algorithm, data): (HashAlgorithm, WasmList<u8>)| -> Pending<'_, Vec<u8>> {
        Box::new(async move {
            here.data_mut().charge()?;
            leave_if(data.len() > INLINE_BYTES_MAX).await;
            let algorithm = match algorithm {
                HashAlgorithm::Sha256 => &digest::SHA256,
                HashAlgorithm::Sha384 => &digest::SHA384,
                HashAlgorithm::Sha512 => &digest::SHA512,
            };
            Ok((digest::digest(algorithm, data.as_le_slice(&here)).as_ref().to_vec(),))
        })
    })?;
    to.func_wrap_async(
        "hmac",
        |mut here: Here<'_>, (algorithm, key, data): (HashAlgorithm, WasmList<u8>, WasmList<u8>)| -> Pending<'_, Vec<u8>> {
            Box::new(async move {
                here.data_mut().charge()?;
                leave_if(key.len() + data.len() > INLINE_BYTES_MAX).await;
                let kind = match algorithm {
                    HashAlgorithm::Sha256 => SignatureAlgorithm::Hs256,
                    HashAlgorithm::Sha384 => SignatureAlgorithm::Hs384,
                    HashAlgorithm::Sha512 => SignatureAlgorithm::Hs512,
                };
                let key = here.data().keys.borrow_mut().get(kind, key.as_le_slice(&here));
                let Ok(Key::Secret(key)) = key.as_deref() else { return Err(wasmtime::format_err!("a secret is no secret")) };
                Ok((hmac::sign(key, data.as_le_slice(&here)).as_ref().to_vec(),))
            })
        },
    )?;
    to.func_wrap_async(
        "verify",
        |mut here: Here<'_>,
         (algorithm, key, message, signature): (SignatureAlgorithm, WasmList<u8>, WasmList<u8>, WasmList<u8>)|
         -> Pending<'_, Result<bool, CryptoError>> {
            Box::new(async move {
                here.data_mut().charge()?;
                leave_if(takes_long(algorithm, signature.len()) || key.len() + message.len() > INLINE_BYTES_MAX).await;
                let here = &here;
                // Bound to a name of its own: the borrow of the keys must end before the signature is checked.
                let key = here.data().keys.borrow_mut().get(algorithm, key.as_le_slice(here));
                let (message, signature) = (message.as_le_slice(here), signature.as_le_slice(here));
                Ok((key.map(|key| key.verifies(message, signature)).map_err(CryptoError::BadKey),))
            })
        },
    )?;
    to.func_wrap("equal", |mut here: Here<'_>, (a, b): (WasmList<u8>, WasmList<u8>)| -> wasmtime::Result<(bool,)> {
        here.data_mut().charge()?;
        Ok((constant_time::verify_slices_are_equal(a.as_le_slice(&here), b.as_le_slice(&here)).is_ok(),))
    })
}

async fn leave_if(long: bool) {
    if long {
        turn::leave_core().await;
    }
}

/// Checks that take 100 us and more on the machine this was written on: P-384, and RSA beyond 4,096 bits. (An RSA
/// signature is as long as its modulus, so no key has to be parsed to know.)
fn takes_long(algorithm: SignatureAlgorithm, signature_len: usize) -> bool {
    match algorithm {
        SignatureAlgorithm::Es384 => true,
        SignatureAlgorithm::Rs256 | SignatureAlgorithm::Rs384 | SignatureAlgorithm::Rs512 => signature_len > 512,
        _ => false,
    }
}

/// The keys of one instance, last used first.
#[derive(Default)]
pub(crate) struct Keys(VecDeque<Known>);

struct Known {
    algorithm: SignatureAlgorithm,
    given: Box<[u8]>,
    key: Arc<Key>,
}

enum Key {
    Secret(Box<hmac::Key>),
    Public(Box<ParsedPublicKey>),
}

impl Keys {
    fn get(&mut self, algorithm: SignatureAlgorithm, given: &[u8]) -> Result<Arc<Key>, String> {
        // In constant time for each: a plugin may hold a secret here and be handed a guess by its caller.
        let found = self
            .0
            .iter()
            .position(|known| known.algorithm == algorithm && constant_time::verify_slices_are_equal(&known.given, given).is_ok());
        match found {
            Some(0) => {}
            Some(at) => self.0.swap(0, at),
            None => {
                let key = Arc::new(Key::parse(algorithm, given)?);
                self.0.truncate(KEYS_MAX - 1);
                self.0.push_front(Known { algorithm, given: given.into(), key });
            }
        }
        self.0.front().map(|known| known.key.clone()).ok_or_else(String::new)
    }
}

impl Key {
    fn parse(algorithm: SignatureAlgorithm, given: &[u8]) -> Result<Key, String> {
        let (algorithm, kind): (&'static dyn VerificationAlgorithm, &str) = match algorithm {
            SignatureAlgorithm::Hs256 => return Ok(secret(hmac::HMAC_SHA256, given)),
            SignatureAlgorithm::Hs384 => return Ok(secret(hmac::HMAC_SHA384, given)),
            SignatureAlgorithm::Hs512 => return Ok(secret(hmac::HMAC_SHA512, given)),
            SignatureAlgorithm::Rs256 => (&signature::RSA_PKCS1_2048_8192_SHA256, "an RSA key of 2,048 to 8,192 bits"),
            SignatureAlgorithm::Rs384 => (&signature::RSA_PKCS1_2048_8192_SHA384, "an RSA key of 2,048 to 8,192 bits"),
            SignatureAlgorithm::Rs512 => (&signature::RSA_PKCS1_2048_8192_SHA512, "an RSA key of 2,048 to 8,192 bits"),
            SignatureAlgorithm::Es256 => (&signature::ECDSA_P256_SHA256_FIXED, "a key on P-256"),
            SignatureAlgorithm::Es384 => (&signature::ECDSA_P384_SHA384_FIXED, "a key on P-384"),
            SignatureAlgorithm::Eddsa => (&signature::ED25519, "an Ed25519 key"),
        };
        let decoded;
        let der = if given.trim_ascii_start().starts_with(b"-----BEGIN") {
            decoded = from_pem(given)?;
            &decoded
        } else {
            given
        };
        match ParsedPublicKey::new(algorithm, der) {
            Ok(key) => Ok(Key::Public(Box::new(key))),
            Err(rejected) => Err(format!("this is not {kind} as PEM or DER of a SubjectPublicKeyInfo: {rejected}")),
        }
    }

    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Key::Secret(key) => hmac::verify(key, message, signature).is_ok(),
            Key::Public(key) => key.verify_sig(message, signature).is_ok(),
        }
    }
}

fn secret(algorithm: hmac::Algorithm, given: &[u8]) -> Key {
    Key::Secret(Box::new(hmac::Key::new(algorithm, given)))
}

/// The one `PUBLIC KEY` in a PEM text (RFC 7468).
fn from_pem(text: &[u8]) -> Result<Vec<u8>, String> {
    const BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
    const END: &str = "-----END PUBLIC KEY-----";
    let text = std::str::from_utf8(text).map_err(|_| "a PEM text is ASCII".to_owned())?;
    let inside =
        text.trim_start().strip_prefix(BEGIN).and_then(|rest| rest.split_once(END)).map(|(inside, _)| inside).ok_or_else(|| {
            format!("a PEM text begins with {BEGIN} and ends with {END}; other kinds (a certificate, a private key) are not keys for this")
        })?;
    let letters: String = inside.chars().filter(|letter| !letter.is_ascii_whitespace()).collect();
    base64::engine::general_purpose::STANDARD.decode(letters).map_err(|cause| format!("the PEM text is not base64: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair};

    /// DER of a SubjectPublicKeyInfo for a raw public key.
    fn spki(algorithm: &[u8], raw: &[u8]) -> Vec<u8> {
        fn tlv(tag: u8, inside: &[u8]) -> Vec<u8> {
            let mut out = vec![tag];
            match inside.len() {
                len @ 0..=127 => out.push(len as u8),
                len @ 128..=255 => out.extend([0x81, len as u8]),
                len => out.extend([0x82, (len >> 8) as u8, len as u8]),
            }
            out.extend(inside);
            out
        }
        let mut bits = vec![0];
        bits.extend(raw);
        let mut inside = tlv(0x30, algorithm);
        inside.extend(tlv(3, &bits));
        tlv(0x30, &inside)
    }

    const RSA: &[u8] = &[6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 1, 5, 0];
    const P256: &[u8] = &[6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
    const P384: &[u8] = &[6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 5, 0x2b, 0x81, 4, 0, 0x22];
    const ED: &[u8] = &[6, 3, 0x2b, 0x65, 0x70];

    fn check(algorithm: SignatureAlgorithm, der: &[u8], signature: &[u8]) {
        let pem =
            format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", base64::engine::general_purpose::STANDARD.encode(der));
        let mut keys = Keys::default();
        for given in [der, pem.as_bytes()] {
            let key = keys.get(algorithm, given).unwrap();
            assert!(key.verifies(b"message", signature), "{algorithm:?}");
            assert!(!key.verifies(b"Message", signature));
            assert!(!key.verifies(b"message", &signature[1..]));
            assert!(!key.verifies(b"message", b""));
        }
        assert_eq!(keys.0.len(), 2);
        keys.get(algorithm, der).unwrap();
        assert_eq!(keys.0.len(), 2);
        assert!(keys.get(algorithm, &der[1..]).is_err());
        assert!(keys.get(algorithm, b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----").is_err());
    }

    #[test]
    fn every_family_checks_its_own_signatures_from_pem_and_der() {
        let random = SystemRandom::new();
        let rsa = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let mut signature = vec![0; rsa.public_modulus_len()];
        for (algorithm, padding) in [
            (SignatureAlgorithm::Rs256, &signature::RSA_PKCS1_SHA256),
            (SignatureAlgorithm::Rs384, &signature::RSA_PKCS1_SHA384),
            (SignatureAlgorithm::Rs512, &signature::RSA_PKCS1_SHA512),
        ] {
            rsa.sign(padding, &random, b"message", &mut signature).unwrap();
            check(algorithm, &spki(RSA, rsa.public_key().as_ref()), &signature);
        }
        let es256 = EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        check(SignatureAlgorithm::Es256, &spki(P256, es256.public_key().as_ref()), es256.sign(&random, b"message").unwrap().as_ref());
        let es384 = EcdsaKeyPair::generate(&signature::ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        check(SignatureAlgorithm::Es384, &spki(P384, es384.public_key().as_ref()), es384.sign(&random, b"message").unwrap().as_ref());
        let ed = Ed25519KeyPair::generate().unwrap();
        check(SignatureAlgorithm::Eddsa, &spki(ED, ed.public_key().as_ref()), ed.sign(b"message").as_ref());
    }

    #[test]
    fn a_secret_is_found_again_and_the_oldest_leaves() {
        let mut keys = Keys::default();
        for n in 0..20u8 {
            let key = keys.get(SignatureAlgorithm::Hs256, &[n]).unwrap();
            let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &[n]), b"m");
            assert!(key.verifies(b"m", tag.as_ref()));
        }
        assert_eq!(keys.0.len(), KEYS_MAX);
    }
}
