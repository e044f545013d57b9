//! What a client's certificate says about it, for plugins and the log.

use std::fmt::Write as _;
use std::sync::Arc;
use wharf_core::exchange::{ATTRS_MAX, Attrs};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

/// Names out of one certificate that are passed on.
const NAMES_MAX: usize = 8;
/// Longest of them, bytes; longer ones are left out, not cut: half a name is another name.
const NAME_MAX: usize = 512;

/// A client that has proved to own a certificate that an authority of the listener has signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its subject, as RFC 4514 writes it: `CN=a,O=b`.
    pub subject: Option<Box<str>>,
    /// DNS and URI names, in their order: `a.example`, `spiffe://a/b`.
    pub names: Box<[Box<str>]>,
    /// SHA-256 of the certificate, lower-case hexadecimal.
    pub digest: Box<str>,
}

impl Identity {
    /// Reads a certificate (DER) that has been verified.
    pub(crate) fn of(der: &[u8], digest: &[u8]) -> Option<Arc<Identity>> {
        let (_, parsed) = X509Certificate::from_der(der).ok()?;
        let fits = |text: &str| !text.is_empty() && text.len() <= NAME_MAX;
        let mut names = Vec::new();
        if let Ok(Some(alternative)) = parsed.subject_alternative_name() {
            for name in alternative.value.general_names.iter().take(NAMES_MAX) {
                match name {
                    GeneralName::DNSName(name) | GeneralName::URI(name) if fits(name) => names.push((*name).into()),
                    _ => {}
                }
            }
        }
        let subject = parsed.subject().to_string();
        let mut hex = String::with_capacity(digest.len() * 2);
        for byte in digest {
            let _ = write!(hex, "{byte:02x}");
        }
        Some(Arc::new(Identity { subject: fits(&subject).then(|| subject.into()), names: names.into(), digest: hex.into() }))
    }

    /// Hands it to rules: attributes `tls.subject`, `tls.name` (the first), `tls.names` (all, by a space), `tls.digest`.
    /// A client cannot set attributes, so a rule may believe them.
    pub(crate) fn tell(&self, attrs: &mut Attrs) {
        const { assert!(ATTRS_MAX >= 8, "there is room before any rule has set one") };
        if let Some(subject) = &self.subject {
            attrs.set("tls.subject", subject);
        }
        if let Some(first) = self.names.first() {
            attrs.set("tls.name", first);
            attrs.set("tls.names", &self.names.join(" "));
        }
        attrs.set("tls.digest", &self.digest);
    }
}
