//! Certificates made for a test, and clients that speak TLS.

#![allow(clippy::unwrap_used, reason = "this is test code: a panic is how a test tells")]

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme, StreamOwned};
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;
use wharf_harness::message::Reply;

/// An authority of the test's own.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, PEM.
#[derive(Clone)]
pub struct Pair {
    /// The certificate.
    pub chain: String,
    /// Its key.
    pub key: String,
}

impl Authority {
    /// A new one, believed by nobody yet.
    pub fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority of a test");
        Authority { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    /// Its certificate, PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for these hosts; names with `://` become URIs. `subject` becomes its common name.
    pub fn pair(&self, subject: &str, names: &[&str]) -> Pair {
        self.pair_with(subject, names, |_| ())
    }

    /// The same, but it has expired long ago.
    pub fn expired(&self, subject: &str, names: &[&str]) -> Pair {
        self.pair_with(subject, names, |params| params.not_after = rcgen::date_time_ymd(2001, 1, 1))
    }

    fn pair_with(&self, subject: &str, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let (uris, hosts): (Vec<&str>, Vec<&str>) = names.iter().partition(|name| name.contains("://"));
        let mut params = CertificateParams::new(hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>()).unwrap();
        params.subject_alt_names.extend(uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())));
        params.distinguished_name.push(DnType::CommonName, subject);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Pair { chain: certificate.pem(), key: key.serialize_pem() }
    }
}

impl Default for Authority {
    fn default() -> Authority {
        Authority::new()
    }
}

/// A client of TLS, with what it is told to say.
#[derive(Clone)]
pub struct Client {
    config: Arc<ClientConfig>,
}

impl Client {
    /// Believes this authority; shows this certificate, if any; offers these protocols.
    pub fn new(authority: &Authority, shown: Option<&Pair>, protocols: &[&str]) -> Client {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match shown {
            None => builder.with_no_client_auth(),
            Some(pair) => {
                let chain = CertificateDer::pem_slice_iter(pair.chain.as_bytes()).map(Result::unwrap).collect();
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap()).unwrap()
            }
        };
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        Client { config: Arc::new(config) }
    }

    /// The same, but it would rather have other suites: its own list, turned around.
    pub fn contrary(authority: &Authority) -> Client {
        let mut provider = default_provider();
        provider.cipher_suites.reverse();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(provider)).with_safe_default_protocol_versions().unwrap();
        Client { config: Arc::new(builder.with_root_certificates(roots).with_no_client_auth()) }
    }

    /// Believes everybody: to look at what is shown.
    pub fn credulous() -> Client {
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider())).with_safe_default_protocol_versions().unwrap();
        let config = builder.dangerous().with_custom_certificate_verifier(Arc::new(Credulous)).with_no_client_auth();
        Client { config: Arc::new(config) }
    }

    /// A connection that asks for this name; for an address none is asked for.
    ///
    /// # Errors
    /// The handshake failed.
    pub fn connect(&self, address: SocketAddr, name: &str) -> io::Result<Secured> {
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        let mut session = ClientConnection::new(self.config.clone(), name).map_err(io::Error::other)?;
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        while session.is_handshaking() {
            session.complete_io(&mut stream)?;
        }
        Ok(Secured { stream: StreamOwned::new(session, stream), held: Vec::new() })
    }
}

/// A connection by TLS.
pub struct Secured {
    /// To read from and write to.
    pub stream: StreamOwned<ClientConnection, TcpStream>,
    held: Vec<u8>,
}

impl Secured {
    /// Asks by HTTP/1.1.
    ///
    /// # Errors
    /// The connection broke before the answer was whole.
    pub fn get(&mut self, host: &str, path: &str) -> io::Result<Reply> {
        self.stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes())?;
        self.stream.flush()?;
        Reply::read(&mut self.stream, &mut self.held, "GET")
    }

    /// The protocol that was agreed on.
    pub fn protocol(&self) -> Option<String> {
        self.stream.conn.alpn_protocol().map(|protocol| String::from_utf8_lossy(protocol).into_owned())
    }

    /// The suite that was agreed on.
    pub fn suite(&self) -> String {
        self.stream.conn.negotiated_cipher_suite().map(|suite| format!("{:?}", suite.suite())).unwrap_or_default()
    }

    /// The certificate that was shown (DER).
    pub fn shown(&self) -> Vec<u8> {
        self.stream.conn.peer_certificates().and_then(|chain| chain.first()).map(|first| first.to_vec()).unwrap_or_default()
    }

    /// Was an earlier session gone on with?
    pub fn is_resumed(&self) -> bool {
        self.stream.conn.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    }

    /// Waits for the other side to end; `false`: it sent something instead, or nothing happened.
    pub fn ends(&mut self) -> bool {
        matches!(self.stream.read(&mut [0; 64]), Ok(0))
    }
}

/// The certificate (DER) of a pair.
pub fn der(pair: &Pair) -> Vec<u8> {
    CertificateDer::from_pem_slice(pair.chain.as_bytes()).unwrap().to_vec()
}

#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}
