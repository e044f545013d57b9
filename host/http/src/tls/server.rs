//! What a listener offers to those who connect to it by TLS.

use super::certs::{Certificate, Certificates, certificates};
use super::session::Tls;
use super::{BadTls, H2, HTTP_1_1, provider};
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::{NoServerSessionStorage, ProducesTickets, UnbufferedServerConnection, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig};
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// Who must, or may, show a certificate of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificates {
    /// The authorities that are believed, PEM.
    pub authorities: Vec<u8>,
    /// What they have revoked since, PEM. Empty: nothing is known.
    pub revoked: Vec<u8>,
    /// Who shows none is refused; else only who shows a bad one.
    pub required: bool,
}

/// What is offered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// By name.
    pub certificates: Vec<Certificate>,
    /// Shown to who asks for another name, or none.
    pub default: Option<Certificate>,
    /// `None`: no client is asked for one.
    pub clients: Option<ClientCertificates>,
    /// Not below 1.3; else 1.2 as well.
    pub only_1_3: bool,
    /// HTTP/2 is spoken.
    pub http2: bool,
}

/// A listener's side of TLS, shared by all cores. Another offer is another of these; connections keep what they began with.
pub struct Server {
    config: Arc<ServerConfig>,
}

impl Server {
    /// A server's side. Sessions begun with another that believes the same clients can be resumed with this one, as long
    /// as one of both is alive.
    ///
    /// # Errors
    /// What is wrong with the authorities or revocations; certificates were read before.
    pub fn new(offer: &Offer) -> Result<Server, BadTls> {
        Ok(Server { config: Arc::new(make(offer)?) })
    }

    /// A session for a connection that begins.
    pub(crate) fn session(&self) -> io::Result<Tls> {
        UnbufferedServerConnection::new(self.config.clone()).map(Tls::server).map_err(io::Error::other)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Server")
    }
}

/// Keys for session tickets. Tickets instead of a store: any core can resume what another began. A ticket carries the
/// client's identity, so it must not be taken where other authorities are believed.
fn tickets_for(clients: Option<&ClientCertificates>) -> Result<Arc<dyn ProducesTickets>, BadTls> {
    type Made = Vec<(Option<ClientCertificates>, Weak<dyn ProducesTickets>)>;
    static MADE: Mutex<Made> = Mutex::new(Vec::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    made.retain(|(_, tickets)| tickets.strong_count() > 0);
    let same = made.iter().find(|(have, _)| have.as_ref() == clients).and_then(|(_, tickets)| tickets.upgrade());
    if let Some(tickets) = same {
        return Ok(tickets);
    }
    let tickets = Ticketer::new().map_err(|error| BadTls::new(format!("no key for session tickets: {error}")))?;
    made.push((clients.cloned(), Arc::downgrade(&tickets)));
    Ok(tickets)
}

fn make(offer: &Offer) -> Result<ServerConfig, BadTls> {
    let versions: &[_] = if offer.only_1_3 { &[&TLS13] } else { &[&TLS13, &TLS12] };
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)
        .map_err(|error| BadTls::new(format!("TLS cannot be offered: {error}")))?;
    let builder = match &offer.clients {
        None => builder.with_no_client_auth(),
        Some(clients) => {
            let roots = roots(&clients.authorities)?;
            let mut revoked = Vec::new();
            for list in CertificateRevocationListDer::pem_slice_iter(&clients.revoked) {
                revoked.push(list.map_err(|error| BadTls::new(format!("the revocation list is no valid PEM: {error}")))?);
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider()).with_crls(revoked);
            // The lists are the operator's choice: who is on none of them is not held to have been revoked.
            let verifier = verifier.allow_unknown_revocation_status();
            let verifier = if clients.required { verifier } else { verifier.allow_unauthenticated() };
            let verifier = verifier.build().map_err(|error| BadTls::new(format!("the authorities for clients cannot be used: {error}")))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let certificates = Certificates::new(&offer.certificates, offer.default.as_ref());
    let mut config = builder.with_cert_resolver(Arc::new(certificates));
    // The choice among suites is ours, which are in the order of their cost; see `provider`.
    config.ignore_client_order = true;
    config.alpn_protocols = if offer.http2 { vec![H2.into(), HTTP_1_1.into()] } else { vec![HTTP_1_1.into()] };
    config.ticketer = tickets_for(offer.clients.as_ref())?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // One ticket for a connection: browsers use one, and each costs a record and its encryption.
    config.send_tls13_tickets = 1;
    Ok(config)
}

/// Authorities out of a PEM file.
pub(super) fn roots(pem: &[u8]) -> Result<RootCertStore, BadTls> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate).map_err(|error| BadTls::new(format!("an authority's certificate cannot be used: {error}")))?;
    }
    if roots.is_empty() {
        return Err(BadTls::new("the file of authorities holds no certificate; hint: it begins with `-----BEGIN CERTIFICATE-----`"));
    }
    Ok(roots)
}
