//! Services, as people write them.

use super::*;

/// A named upstream.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Its instances, if they are fixed.
    #[serde(default)]
    pub endpoints: Opt<Vec<Item<OrShort<Endpoint>>>>,
    /// Where its instances are looked up, if they are not fixed.
    #[serde(default)]
    pub dns: Opt<OrShort<Dns>>,
    /// What its endpoints speak. Default `http1`; with `tls`, `auto`.
    #[serde(default)]
    pub protocol: Opt<Speaks>,
    /// They are called by TLS, and must prove who they are. Default in the clear.
    #[serde(default)]
    pub tls: Opt<ServiceTls>,
    /// How an endpoint is chosen. Default `round_robin`.
    #[serde(default)]
    pub balance: Opt<Balance>,
    /// How long its endpoints are waited for.
    #[serde(default)]
    pub timeouts: Opt<ServiceTimeouts>,
    /// Connections to one endpoint, over all cores. Default 1,000.
    #[serde(default)]
    pub connections_max: Opt<Whole>,
    /// Second tries, of what is safe to try again.
    #[serde(default)]
    pub retries: Opt<Retries>,
    /// Where no endpoint carries the wanted tag, use all of them. Default true.
    #[serde(default)]
    pub subset_fallback: Opt<bool>,
    /// Plugins for every route that leads here, after the route's own.
    #[serde(default)]
    pub plugins: Opt<AttachmentList>,
}

/// One instance of a service.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// Address and port, `10.0.0.7:8080`.
    pub address: Item<String>,
    /// Share of the calls, 0 to 1,000,000; 0 takes no new calls. Default 1.
    #[serde(default)]
    pub weight: Opt<Whole>,
    /// Where it stands.
    #[serde(default)]
    pub zone: Opt<String>,
    /// What it is good for: `gray`, `v2`.
    #[serde(default)]
    pub tags: Opt<Vec<Item<String>>>,
}

/// Instances behind a DNS name.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dns {
    /// Name and port, `orders.internal:8080`.
    pub name: Item<String>,
    /// How often it is asked. Default 30s.
    #[serde(default)]
    pub refresh: Opt<Time>,
}

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// One after the other.
    RoundRobin,
    /// In proportion to the weights, smoothly mixed.
    Weighted,
    /// The one with the fewest calls in flight, weighted.
    LeastRequest,
}

/// How long endpoints are waited for.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceTimeouts {
    /// To open a connection. Default 2s.
    #[serde(default)]
    pub connect: Opt<Time>,
    /// From the request sent to the head of the answer. Default 5s.
    #[serde(default)]
    pub head: Opt<Time>,
    /// Between two pieces of the answer's body. Default 5s.
    #[serde(default)]
    pub body: Opt<Time>,
    /// Idle connections are kept this long. Default 30s.
    #[serde(default)]
    pub idle: Opt<Time>,
}

/// Second tries, of what is safe to try again.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Retries {
    /// Tries beyond the first, 0 to 10. Default 1.
    #[serde(default)]
    pub max: Opt<Whole>,
    /// Retries may be at most this share of the calls. Default 20%.
    #[serde(default)]
    pub budget: Opt<Percent>,
}

impl FromShort for Endpoint {
    fn from_short(address: Item<String>) -> Endpoint {
        Endpoint { address, weight: None, zone: None, tags: None }
    }
}

impl FromShort for Dns {
    fn from_short(name: Item<String>) -> Dns {
        Dns { name, refresh: None }
    }
}

/// What endpoints speak.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Speaks {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2; without `tls` with prior knowledge. gRPC needs it.
    Http2,
    /// With `tls`: whichever of both the endpoint chooses.
    Auto,
}

/// TLS to endpoints. Changed files are taken without a restart.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceTls {
    /// PEM file with the authorities that are believed. Default those that this machine trusts. Relative paths begin at the folder of this file.
    #[serde(default)]
    pub ca: Opt<String>,
    /// The name that its certificate must have, and that it is asked for. Default the name of `dns`, else the endpoint's address.
    #[serde(default)]
    pub server_name: Opt<String>,
    /// PEM file with the certificate that we show, and its chain; with `key`.
    #[serde(default)]
    pub chain: Opt<String>,
    /// PEM file with its private key.
    #[serde(default)]
    pub key: Opt<String>,
}
