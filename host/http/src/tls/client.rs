//! What an upstream must prove before it is called by TLS, and what we prove to it.

use super::certs::certificates;
use super::server::roots;
use super::session::Tls;
use super::{BadTls, H2, HTTP_1_1, provider};
use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

/// Sessions remembered for resumption, for one service.
const SESSIONS_MAX: usize = 256;

/// Whom to believe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authorities {
    /// These, PEM.
    Given(Vec<u8>),
    /// Those that the machine trusts.
    Machine,
}

/// What is asked of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Who vouches for it.
    pub authorities: Authorities,
    /// The name it must have, and is asked for; `None`: the endpoint's address.
    pub name: Option<Box<str>>,
    /// What we show: chain and key, PEM.
    pub shown: Option<(Vec<u8>, Vec<u8>)>,
    /// HTTP/2 is offered.
    pub http2: bool,
    /// HTTP/1.1 is offered.
    pub http1: bool,
}

/// Read once: a machine's trust changes with its packages, and the gateway is started anew then.
fn machines_roots() -> Result<RootCertStore, BadTls> {
    static FOUND: LazyLock<RootCertStore> = LazyLock::new(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        roots
    });
    match FOUND.is_empty() {
        true => Err(BadTls::new("this machine trusts no authority; hint: install `ca-certificates`, or name a file with `ca`")),
        false => Ok(FOUND.clone()),
    }
}

/// Our side of TLS to the endpoints of one service, shared by all cores.
pub struct Client {
    /// With HTTP/2, if it is spoken.
    config: Arc<ClientConfig>,
    /// Without.
    older: Arc<ClientConfig>,
    name: Option<ServerName<'static>>,
    demand: Demand,
}

/// By what is asked.
impl PartialEq for Client {
    fn eq(&self, other: &Client) -> bool {
        self.demand == other.demand
    }
}

impl Client {
    /// Our side.
    ///
    /// # Errors
    /// What is wrong with authorities, name, certificate or key.
    pub fn new(demand: &Demand) -> Result<Client, BadTls> {
        let roots = match &demand.authorities {
            Authorities::Given(pem) => roots(pem)?,
            Authorities::Machine => machines_roots()?,
        };
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| BadTls::new(format!("TLS cannot be offered: {error}")))?
            .with_root_certificates(roots);
        let mut config = match &demand.shown {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| BadTls::new("the file holds no private key"))?;
                let bad = |error| BadTls::new(format!("the certificate that we show cannot be used: {error}"));
                builder.with_client_auth_cert(certificates(chain)?, key).map_err(bad)?
            }
        };
        config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
        let mut older = config.clone();
        older.alpn_protocols = vec![HTTP_1_1.to_vec()];
        config.alpn_protocols.extend(demand.http2.then(|| H2.to_vec()));
        config.alpn_protocols.extend(demand.http1.then(|| HTTP_1_1.to_vec()));
        let name = match &demand.name {
            None => None,
            Some(name) => Some(
                ServerName::try_from(name.to_string())
                    .map_err(|_| BadTls::new(format!("{name:?} is no name that a certificate could have")))?,
            ),
        };
        Ok(Client { config: Arc::new(config), older: Arc::new(older), name, demand: demand.clone() })
    }

    /// A session for a connection to `address` that begins; `two`: HTTP/2 may be chosen.
    pub(crate) fn session(&self, address: IpAddr, two: bool) -> io::Result<Tls> {
        let (config, name) = self.terms(address, two);
        UnbufferedClientConnection::new(config, name).map(Tls::client).map_err(io::Error::other)
    }

    /// The same on the same terms, with the library's own buffers: for what is asked seldom, and not by a core.
    pub(crate) fn buffered(&self, address: IpAddr, two: bool) -> io::Result<ClientConnection> {
        let (config, name) = self.terms(address, two);
        ClientConnection::new(config, name).map_err(io::Error::other)
    }

    fn terms(&self, address: IpAddr, two: bool) -> (Arc<ClientConfig>, ServerName<'static>) {
        let config = if two { &self.config } else { &self.older };
        (config.clone(), self.name.clone().unwrap_or_else(|| ServerName::from(address)))
    }
}
