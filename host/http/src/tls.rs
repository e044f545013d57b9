//! TLS (RFC 8446, RFC 5246): what sessions are made from, and sessions below sockets.
//!
//! - [`certs`]: certificates, and which one a client is shown
//! - [`server`]: what a listener offers, swapped without a lost connection
//! - [`client`]: what an upstream must prove
//! - [`identity`]: what a client's certificate says about it
//! - `session`: records in, plaintext out
//!
//! Only TLS 1.3, and TLS 1.2 with authenticated encryption, are spoken: the library knows nothing else. No file is read
//! here; whoever has one hands over its bytes.

pub mod certs;
pub mod client;
pub mod identity;
pub mod server;
pub(crate) mod session;

use rustls::CipherSuite;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use std::sync::{Arc, LazyLock};

/// HTTP/2 and HTTP/1.1 as they are negotiated (RFC 7301, RFC 9113 section 3.2).
pub(crate) const H2: &[u8] = b"h2";
pub(crate) const HTTP_1_1: &[u8] = b"http/1.1";

/// One for the process: making it reads the processor's features.
fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let mut provider = aws_lc_rs::default_provider();
        // TLS 1.3 first, as the library has it, and the cheapest of what is as good; none of them is known to be weak.
        provider.cipher_suites.sort_by_key(|suite| {
            let cost = match suite.suite() {
                CipherSuite::TLS13_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => 0,
                CipherSuite::TLS13_AES_256_GCM_SHA384
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
                | CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => 1,
                _ => 2,
            };
            (suite.tls13().is_none(), cost)
        });
        Arc::new(provider)
    });
    PROVIDER.clone()
}

/// What is wrong with certificates or keys; the text names the object and the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadTls(String);

impl BadTls {
    pub(crate) fn new(what: impl Into<String>) -> BadTls {
        BadTls(what.into())
    }

    /// What is wrong, and what to do about it.
    pub fn told(&self) -> (&str, &str) {
        self.0.split_once("; hint: ").unwrap_or((&self.0, "see the file's owner"))
    }
}
