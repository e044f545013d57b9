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
    /// What they are called by, with a port or without: sent as `host` in the place of the client's, whatever the route says. Without it
    /// routes with `preserve_host: false` send the name of `dns`, else the endpoint's address. Default the client's.
    #[serde(default)]
    pub host: Opt<String>,
    /// They are called by TLS, and must prove who they are. Default in the clear.
    #[serde(default)]
    pub tls: Opt<ServiceTls>,
    /// How an endpoint is chosen. Default `round_robin`.
    #[serde(default)]
    pub balance: Opt<Balance>,
    /// What `ring_hash` and `maglev` choose by; `client`, if nothing is said. A call without it goes as under `p2c_ewma`.
    #[serde(default)]
    pub hash: Opt<NotShort<HashKey>>,
    /// Slots of the table of `maglev`, a prime, 2 bytes each. Default 65,537; 251 to 1,000,003.
    #[serde(default)]
    pub maglev_slots: Opt<Whole>,
    /// What `p2c_ewma` weighs latencies by. Default none.
    #[serde(default)]
    pub latency: Opt<Latency>,
    /// Who has been served by an endpoint goes on there, as long as it is fit.
    #[serde(default)]
    pub sticky: Opt<Sticky>,
    /// A new endpoint, or one that is back, gets its whole share after so long, beginning with a tenth. Default at once.
    #[serde(default)]
    pub slow_start: Opt<Time>,
    /// With `node.zone`: this part of an average zone's weight is enough for all calls of the own zone; with less, some go to others in proportion. Default 70%.
    #[serde(default)]
    pub zone_enough: Opt<Percent>,
    /// If less than this part of the endpoints is fit, all are used, ill or not. Default 25%; 0%: the ill never are.
    #[serde(default)]
    pub panic_below: Opt<Percent>,
    /// Asks every endpoint now and then whether it is well. Default nobody is asked.
    #[serde(default)]
    pub health: Opt<Health>,
    /// Leaves endpoints out for a while whose calls fail.
    #[serde(default)]
    pub ejection: Opt<Ejection>,
    /// Answers for a service that fails or hangs, at once. Default none.
    #[serde(default)]
    pub breaker: Opt<Breaker>,
    /// Calls in flight over all cores, bodies included, also those that wait for their clients; more are answered with 503. Default no bound but those of the listeners.
    #[serde(default)]
    pub in_flight_max: Opt<Whole>,
    /// Finds out by itself how many calls may be in flight. Default off.
    #[serde(default)]
    pub adaptive_concurrency: Opt<AdaptiveConcurrency>,
    /// A second try beside the first if that has not answered for so long; of what may be repeated only, and within the budget of retries. Default never.
    #[serde(default)]
    pub hedge_after: Opt<Time>,
    /// How long its endpoints are waited for.
    #[serde(default)]
    pub timeouts: Opt<ServiceTimeouts>,
    /// Connections to one endpoint, over all cores. Bodies that their clients still send hold nine tenths of them at most. Default 1,000.
    #[serde(default)]
    pub connections_max: Opt<Whole>,
    /// Connections that are kept ready to each endpoint that gets calls, over all cores; each core has the same part of them, rounded up. Default 0; at most half of `connections_max`.
    #[serde(default)]
    pub connections_warm: Opt<Whole>,
    /// How many requests in how much time, over all routes that lead here; beyond, the answer is 429. A bare word names one of `rate_limits`. Default none.
    #[serde(default)]
    pub rate_limits: Opt<Vec<Item<OrShort<RateLimit>>>>,
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
    /// By chance, in proportion to the weights.
    Random,
    /// The one with the fewest calls in flight, weighted.
    LeastRequest,
    /// The better of two drawn by weight: by latency, calls in flight and failures.
    P2cEwma,
    /// The same key to the same endpoint, by a ring; only the keys of an endpoint that goes are moved.
    RingHash,
    /// The same key to the same endpoint, by a table; even shares.
    Maglev,
}

/// What a call is told apart by.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HashKey {
    /// The client's address.
    Client,
    /// The path, without the query.
    Path,
    /// The value of this header.
    Header(Item<String>),
    /// The value of this cookie.
    Cookie(Item<String>),
    /// The value of this query argument.
    Query(Item<String>),
}

/// What latencies are weighed by.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Latency {
    /// After this time about a third of what was known counts. Default 10s.
    #[serde(default)]
    pub decay: Opt<Time>,
    /// What a failure counts as. Default 1s.
    #[serde(default)]
    pub failure_penalty: Opt<Time>,
}

/// Who has been served by an endpoint goes on there: one of `cookie` and `header`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sticky {
    /// By a cookie that the gateway gives.
    #[serde(default)]
    pub cookie: Opt<OrShort<StickyCookie>>,
    /// By a header that answers have, and that clients repeat.
    #[serde(default)]
    pub header: Opt<String>,
}

/// A cookie that the gateway gives: HttpOnly, SameSite=Lax, for the whole host.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StickyCookie {
    /// Its name.
    pub name: Item<String>,
    /// How long it lasts. Default as long as the browser is open.
    #[serde(default)]
    pub ttl: Opt<Time>,
    /// Only over TLS. Default false.
    #[serde(default)]
    pub secure: Opt<bool>,
}

/// What endpoints are asked, and what their answers mean: one of `http`, `tcp` and `grpc`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// A GET. A bare word is its path.
    #[serde(default)]
    pub http: Opt<OrShort<HttpCheck>>,
    /// A connection is enough.
    #[serde(default)]
    pub tcp: Opt<bool>,
    /// The gRPC health service, about this service; about the whole server if it is empty.
    #[serde(default)]
    pub grpc: Opt<String>,
    /// By TLS, as calls are: the same authorities, name and certificate. Default as the service has `tls`; false: in the clear. `tcp` never is by TLS.
    #[serde(default)]
    pub tls: Opt<bool>,
    /// From one check of an endpoint to the next, give or take a tenth. Default 5s.
    #[serde(default)]
    pub interval: Opt<Time>,
    /// For one check; not longer than the interval. Default 1s.
    #[serde(default)]
    pub timeout: Opt<Time>,
    /// Good checks in a row that make an ill endpoint well. Default 2.
    #[serde(default)]
    pub healthy: Opt<Whole>,
    /// Bad checks in a row that make a well endpoint ill. Default 3. The first check of an endpoint counts alone.
    #[serde(default)]
    pub unhealthy: Opt<Whole>,
}

/// A GET that a well endpoint answers.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpCheck {
    /// Its path, with a query if there is one.
    pub path: Item<String>,
    /// Its `host`. Default the endpoint's address.
    #[serde(default)]
    pub host: Opt<String>,
    /// Statuses of a well endpoint. Default 200 to 299.
    #[serde(default)]
    pub statuses: Opt<Vec<Item<Whole>>>,
    /// A text that is somewhere in the first 64KiB of the body.
    #[serde(default)]
    pub body: Opt<String>,
}

/// When endpoints are left out, and for how long.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ejection {
    /// Failed tries in a row: no connection, no answer, no HTTP, or 502, 503, 504. Default 5; 0: never for that.
    #[serde(default)]
    pub failures: Opt<Whole>,
    /// The part of tries within `window` that failed or were answered with 500 and above. Default never for that.
    #[serde(default)]
    pub rate: Opt<Percent>,
    /// Tries within `window` below which `rate` says nothing; 20, if nothing is said.
    #[serde(default)]
    pub calls_min: Opt<Whole>,
    /// What `rate` looks back. Default 10s; 1s to 60s.
    #[serde(default)]
    pub window: Opt<Time>,
    /// How long the first time; each time again twice as long. Default 5s.
    #[serde(default)]
    pub base: Opt<Time>,
    /// But never longer. Default 5m.
    #[serde(default)]
    pub max: Opt<Time>,
    /// At most this part of the endpoints is left out at once, and never the last. Default 50%.
    #[serde(default)]
    pub share_max: Opt<Percent>,
}

/// When calls are answered at once with 503, and for how long.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Breaker {
    /// The part of calls within `window` that failed or were answered with 500 and above. Default 50%.
    #[serde(default)]
    pub errors: Opt<Percent>,
    /// The part of calls within `window` that were slower than `slow_after`. Default never for that.
    #[serde(default)]
    pub slow: Opt<Percent>,
    /// What is slow, from the request sent to the head of the answer; 1s, if nothing is said.
    #[serde(default)]
    pub slow_after: Opt<Time>,
    /// Calls within `window` below which it never opens. Default 20.
    #[serde(default)]
    pub calls_min: Opt<Whole>,
    /// What is counted over. Default 10s.
    #[serde(default)]
    pub window: Opt<Time>,
    /// How long it stays open before it tries again. Default 5s.
    #[serde(default)]
    pub open: Opt<Time>,
    /// Trials that must go well before it closes. Those that hang are joined by as many others after another `open`. Default 3.
    #[serde(default)]
    pub trials: Opt<Whole>,
    /// Calls in flight at once, bodies included, also those that wait for their clients; more are answered with 503. Default any number.
    #[serde(default)]
    pub in_flight_max: Opt<Whole>,
}

/// How many calls may be in flight, found out by how long they take.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdaptiveConcurrency {
    /// Never less. Default 8.
    #[serde(default)]
    pub min: Opt<Whole>,
    /// Never more. Default 1,000.
    #[serde(default)]
    pub max: Opt<Whole>,
    /// Answers may take so much of what they take in calm times before fewer are let in. Default 150%; 100% to 1000%.
    #[serde(default)]
    pub tolerance: Opt<Percent>,
}

/// How long endpoints are waited for.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceTimeouts {
    /// To open a connection. Default 2s.
    #[serde(default)]
    pub connect: Opt<Time>,
    /// From the request sent, in full, to the head of the answer. Default 5s.
    #[serde(default)]
    pub head: Opt<Time>,
    /// Between two pieces of the answer's body; not for event streams and gRPC. Default 5s.
    #[serde(default)]
    pub body: Opt<Time>,
    /// Idle connections are kept this long. Default 30s.
    #[serde(default)]
    pub idle: Opt<Time>,
    /// A connection takes no new requests when it is as old as this, or up to a tenth less. Default 1h; 0s: at any age.
    #[serde(default)]
    pub lifetime: Opt<Time>,
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
    /// For one try, to the head of its answer; from the last byte of a body that is passed on while it comes. Default only what `timeouts` say.
    #[serde(default)]
    pub per_try: Opt<Time>,
    /// What is tried again, of that which is safe to try again. Default all of it.
    #[serde(default)]
    pub on: Opt<Vec<Item<RetryCause>>>,
    /// Answers that are tried again, for GET, HEAD, PUT, DELETE, OPTIONS and TRACE. Default none.
    #[serde(default)]
    pub statuses: Opt<Vec<Item<Whole>>>,
    /// The wait before the second try, twice as long before each later one, by half at random. Default none: it goes to another endpoint.
    #[serde(default)]
    pub backoff: Opt<Time>,
    /// The longest wait. Default ten times `backoff`.
    #[serde(default)]
    pub backoff_max: Opt<Time>,
}

/// A reason to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RetryCause {
    /// Nothing of the call was sent: no connection, none left, or a stream that was refused.
    Connect,
    /// The connection ended before the head of the answer.
    Reset,
    /// The head of the answer did not come in time.
    Timeout,
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

impl FromShort for StickyCookie {
    fn from_short(name: Item<String>) -> StickyCookie {
        StickyCookie { name, ttl: None, secure: None }
    }
}

impl FromShort for HttpCheck {
    fn from_short(path: Item<String>) -> HttpCheck {
        HttpCheck { path, host: None, statuses: None, body: None }
    }
}

impl WholeForm for HashKey {
    fn whole_form(name: &str) -> String {
        format!("write `hash: client`, `hash: path`, or `hash: {{header: {name}}}`; `cookie` and `query` likewise")
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
