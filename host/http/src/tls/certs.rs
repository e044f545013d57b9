//! Certificates, and which one a client is shown.
//!
//! By the name the client asks for (RFC 6066 section 3): the certificate with that name, else the one with a wildcard for
//! it (one label, RFC 6125 section 6.4.3), else the default, if there is one. A client that asks for no name gets the
//! default, too. Without one its handshake is refused.

use super::{BadTls, provider};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// Certificates in one chain: more is a mistake, and every handshake sends them all.
const CHAIN_MAX: usize = 16;

/// A certificate with its chain and key.
#[derive(Clone)]
pub struct Certificate {
    key: Arc<CertifiedKey>,
    names: Arc<[Box<str>]>,
    ends: SystemTime,
}

impl Certificate {
    /// Reads a chain, the server's certificate first, and its private key, both PEM (RFC 7468).
    ///
    /// # Errors
    /// What is wrong: no certificate, no key, a key of another certificate, a certificate that names no host, one that has
    /// expired at `now` or is not valid yet. `expired`: one that has is taken all the same.
    pub fn from_pem(chain: &[u8], key: &[u8], now: SystemTime, expired: bool) -> Result<Certificate, BadTls> {
        let chain = certificates(chain)?;
        let Some(first) = chain.first() else {
            return Err(BadTls::new("the file holds no certificate; hint: it begins with `-----BEGIN CERTIFICATE-----`"));
        };
        let (names, begins, ends) = read(first)?;
        if ends <= now && !expired {
            return Err(BadTls::new(format!("the certificate has expired {} ago; hint: renew it", rough(now, ends))));
        }
        if begins > now {
            return Err(BadTls::new(format!("the certificate is valid only in {}; hint: check the clock", rough(begins, now))));
        }
        if names.is_empty() {
            return Err(BadTls::new("the certificate names no host; hint: it needs a subject alternative name of the kind DNS or IP"));
        }
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| BadTls::new("the file holds no private key; hint: an unencrypted one, `-----BEGIN PRIVATE KEY-----`"))?;
        let key = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => BadTls::new("the private key is not the certificate's; hint: they are made together"),
            other => BadTls::new(format!("the private key cannot be used: {other}")),
        })?;
        Ok(Certificate { key: Arc::new(key), names: names.into(), ends })
    }

    /// The hosts it is for, lower case, wildcards as `*.example.com`.
    pub fn names(&self) -> &[Box<str>] {
        &self.names
    }

    /// When it ends to be valid.
    pub fn ends(&self) -> SystemTime {
        self.ends
    }
}

/// By what clients are shown.
impl PartialEq for Certificate {
    fn eq(&self, other: &Certificate) -> bool {
        self.key.cert == other.key.cert
    }
}

impl Eq for Certificate {}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never its key.
        write!(f, "Certificate({:?})", self.names)
    }
}

/// The certificates of a PEM file, in their order.
pub(super) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, BadTls> {
    let mut all = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        all.push(certificate.map_err(|error| BadTls::new(format!("the file is no valid PEM: {error}")))?);
        if all.len() > CHAIN_MAX * 64 {
            return Err(BadTls::new(format!("the file holds more than {} certificates", CHAIN_MAX * 64)));
        }
    }
    Ok(all)
}

fn read(der: &CertificateDer<'_>) -> Result<(Vec<Box<str>>, SystemTime, SystemTime), BadTls> {
    let (_, parsed) = X509Certificate::from_der(der).map_err(|error| BadTls::new(format!("the certificate cannot be read: {error}")))?;
    let at = |seconds: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    let validity = parsed.validity();
    let (begins, ends) = (at(validity.not_before.timestamp()), at(validity.not_after.timestamp()));
    let mut names = Vec::new();
    if let Ok(Some(alternative)) = parsed.subject_alternative_name() {
        for name in &alternative.value.general_names {
            match name {
                GeneralName::DNSName(name) => names.push(name.to_ascii_lowercase().into_boxed_str()),
                // No client asks for an address by SNI; the certificate is the default's, perhaps.
                GeneralName::IPAddress(bytes) => names.extend(address(bytes)),
                _ => {}
            }
        }
    }
    Ok((names, begins, ends))
}

fn address(bytes: &[u8]) -> Option<Box<str>> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(std::net::Ipv4Addr::from(v4).to_string().into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|v6| std::net::Ipv6Addr::from(v6).to_string().into())
}

/// A time between two moments as people say it.
fn rough(later: SystemTime, earlier: SystemTime) -> String {
    let seconds = later.duration_since(earlier).unwrap_or_default().as_secs();
    match seconds {
        0..7_200 => format!("{} minutes", seconds / 60),
        7_200..172_800 => format!("{} hours", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// All certificates of a listener.
#[derive(Clone, Debug, Default)]
pub struct Certificates {
    exact: HashMap<Box<str>, Arc<CertifiedKey>>,
    /// By what stands behind `*.`.
    below: HashMap<Box<str>, Arc<CertifiedKey>>,
    default: Option<Arc<CertifiedKey>>,
}

impl Certificates {
    /// Of several with the same name the first counts. `default` is shown to who asks for a name that none has.
    pub fn new<'a>(all: impl IntoIterator<Item = &'a Certificate>, default: Option<&Certificate>) -> Certificates {
        let mut made = Certificates { default: default.map(|certificate| certificate.key.clone()), ..Certificates::default() };
        for certificate in all {
            for name in certificate.names.iter() {
                let (map, name) = match name.strip_prefix("*.") {
                    Some(below) => (&mut made.below, below),
                    None => (&mut made.exact, &**name),
                };
                map.entry(name.into()).or_insert_with(|| certificate.key.clone());
            }
        }
        made
    }

    fn find(&self, name: Option<&str>) -> Option<&Arc<CertifiedKey>> {
        let named = name.and_then(|name| {
            let name = name.strip_suffix('.').unwrap_or(name);
            self.exact.get(name).or_else(|| self.below.get(name.split_once('.')?.1))
        });
        named.or(self.default.as_ref())
    }
}

thread_local! {
    /// The name that the client of the handshake in progress on this thread asked for. The library's unbuffered session
    /// does not tell it, and asks for the certificate in the same call, on the same thread.
    static HEARD: RefCell<Option<Box<str>>> = const { RefCell::new(None) };
}

/// The name of the handshake step that was just made on this thread, if it had one.
pub(super) fn heard() -> Option<Box<str>> {
    HEARD.take()
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // The library has made it lower case and knows it to be a name.
        let name = hello.server_name();
        HEARD.set(name.map(Into::into));
        self.find(name).cloned()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn made(names: &[&str]) -> (String, String) {
        let made = rcgen::generate_simple_self_signed(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    fn certificate(names: &[&str]) -> Certificate {
        let (chain, key) = made(names);
        Certificate::from_pem(chain.as_bytes(), key.as_bytes(), SystemTime::now(), false).unwrap()
    }

    #[test]
    fn the_exact_name_counts_before_the_wildcard_and_that_before_the_default() {
        let (exact, wild, other) = (certificate(&["a.example.com"]), certificate(&["*.example.com"]), certificate(&["other.example"]));
        let all = Certificates::new([&exact, &wild], Some(&other));
        let is = |name: Option<&str>, wanted: &Certificate| Arc::ptr_eq(all.find(name).unwrap(), &wanted.key);
        assert!(is(Some("a.example.com"), &exact));
        assert!(is(Some("a.example.com."), &exact));
        assert!(is(Some("b.example.com"), &wild));
        assert!(is(Some("b.a.example.com"), &other), "a wildcard is for one label");
        assert!(is(Some("example.com"), &other));
        assert!(is(None, &other));
        assert!(Certificates::new([&exact], None).find(Some("b.example.com")).is_none());
    }

    #[test]
    fn what_is_wrong_with_a_certificate_is_said() {
        let (chain, key) = made(&["a.example"]);
        let (_, other) = made(&["a.example"]);
        let now = SystemTime::now();
        let said =
            |chain: &str, key: &str, now| Certificate::from_pem(chain.as_bytes(), key.as_bytes(), now, false).unwrap_err().to_string();
        assert!(said("", &key, now).contains("no certificate"));
        assert!(said(&chain, "", now).contains("no private key"));
        assert!(said(&chain, &other, now).contains("not the certificate's"));
        assert!(said(&chain, &key, now + Duration::from_secs(86_400 * 365 * 4000)).contains("expired"));
        let later = now + Duration::from_secs(86_400 * 365 * 4000);
        assert!(Certificate::from_pem(chain.as_bytes(), key.as_bytes(), later, true).is_ok());
        assert!(said(&chain, &key, UNIX_EPOCH).contains("check the clock"));
        assert!(said(&chain.replace("MII", "AAA"), &key, now).contains("cannot be read"));
        let (nameless, key) = made(&[]);
        assert!(said(&nameless, &key, now).contains("names no host"));
    }
}
