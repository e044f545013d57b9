//! Listeners, as people write them.

use super::*;

/// A bound address and its limits.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Address and port to bind, `0.0.0.0:8080`.
    pub bind: Item<String>,
    /// Host and port that others reach this listener by, if it is not what is bound (NAT, containers).
    #[serde(default)]
    pub advertise: Opt<String>,
    /// Networks whose `x-forwarded-*` fields are believed, `10.0.0.0/8`. Default none.
    #[serde(default)]
    pub trusted_proxies: Opt<Vec<Item<String>>>,
    /// Networks of balancers that say by the PROXY protocol, version 1 or 2, whose connection it is, and must: `10.0.0.0/8`. Default none.
    #[serde(default)]
    pub proxy_protocol_from: Opt<Vec<Item<String>>>,
    /// TLS 1.2 and 1.3. Default none: in the clear.
    #[serde(default)]
    pub tls: Opt<ListenerTls>,
    /// HTTP/2: `on` (default; by TLS as negotiated, in the clear with prior knowledge), `off`, or its limits.
    #[serde(default)]
    pub http2: Opt<OrShort<ListenerHttp2>>,
    /// Connections open at once, over all cores. Default 20,000. Never more than half the files that the process may open.
    #[serde(default)]
    pub connections_max: Opt<Whole>,
    /// Connections open at once from one address (of IPv6: one /64), over all cores. Default no limit: behind a balancer or a NAT many clients have one address.
    #[serde(default)]
    pub connections_per_source_max: Opt<Whole>,
    /// Sizes that requests may have.
    #[serde(default)]
    pub limits: Opt<ListenerLimits>,
    /// How long clients are waited for.
    #[serde(default)]
    pub timeouts: Opt<ListenerTimeouts>,
}

/// Sizes that requests may have.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerLimits {
    /// Request line and fields. Default 32KiB.
    #[serde(default)]
    pub head_bytes_max: Opt<Size>,
    /// Fields in a head. Default 100.
    #[serde(default)]
    pub fields_max: Opt<Whole>,
    /// Slower clients, bytes a second of a body or of an answer, are ended; the first 5 seconds of waiting are free. 0: none are. Default 240.
    #[serde(default)]
    pub body_rate_min: Opt<Size>,
}

/// How long clients are waited for.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerTimeouts {
    /// For the first byte of a new connection; also for its PROXY header and TLS handshake. Default 10s.
    #[serde(default)]
    pub first: Opt<Time>,
    /// For a whole head, from its first byte. Default 10s.
    #[serde(default)]
    pub head: Opt<Time>,
    /// Between two pieces of a request's body, and for a client that does not read its answer; not for gRPC. Default 5s.
    #[serde(default)]
    pub body: Opt<Time>,
    /// For a whole body, if the route's `timeouts.whole` does not end it before (event streams); not for gRPC. Default 10m.
    #[serde(default)]
    pub upload: Opt<Time>,
    /// Idle between two requests. Default 60s.
    #[serde(default)]
    pub keep_alive: Opt<Time>,
    /// A WebSocket, an event stream or a call of gRPC in which nothing moves. Default 5m.
    #[serde(default)]
    pub quiet: Opt<Time>,
}

/// TLS on a listener.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerTls {
    /// What clients are shown, by the names in the certificates. Changed files are taken without a restart.
    pub certificates: Item<Vec<Item<CertificateFiles>>>,
    /// Clients must, or may, show a certificate of their own.
    #[serde(default)]
    pub clients: Opt<ClientCertificates>,
    /// `1.2` (default) or `1.3`: the oldest version that is spoken.
    #[serde(default)]
    pub version_min: Opt<TlsVersion>,
}

/// A certificate with its chain and key.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CertificateFiles {
    /// PEM file: the certificate, then those that vouch for it. Relative paths begin at the folder of this file.
    pub chain: Item<String>,
    /// PEM file with its private key, not encrypted.
    pub key: Item<String>,
    /// Shown to clients that ask for no name, or for one that no certificate has; without a default these are refused. Default false.
    #[serde(default)]
    pub default: Opt<bool>,
}

/// Certificates of clients. What a verified one says is told to plugins: attributes `tls.subject`, `tls.name`, `tls.names`, `tls.digest`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientCertificates {
    /// PEM file with the authorities that are believed.
    pub ca: Item<String>,
    /// PEM file with what they have revoked.
    #[serde(default)]
    pub crl: Opt<String>,
    /// Clients without a certificate are refused. Default true.
    #[serde(default)]
    pub required: Opt<bool>,
}

/// The oldest version of TLS.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
pub enum TlsVersion {
    /// With authenticated encryption only.
    #[serde(rename = "1.2")]
    Tls12,
    /// Nothing older.
    #[serde(rename = "1.3")]
    Tls13,
}

/// HTTP/2 on a listener.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerHttp2 {
    /// `on` or `off`: what the bare word means.
    #[serde(default)]
    pub state: Opt<String>,
    /// Streams at once in one connection. Default 128.
    #[serde(default)]
    pub streams_max: Opt<Whole>,
    /// Bytes of a request's body that may come before they are passed on, for each stream. Default 64KiB.
    #[serde(default)]
    pub window: Opt<Size>,
}

impl FromShort for ListenerHttp2 {
    fn from_short(state: Item<String>) -> ListenerHttp2 {
        ListenerHttp2 { state: Some(state), ..ListenerHttp2::default() }
    }
}
