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
    /// Connections open at once, over all cores. Default 20,000.
    #[serde(default)]
    pub connections_max: Opt<Whole>,
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
}

/// How long clients are waited for.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenerTimeouts {
    /// For a whole head, from its first byte. Default 10s.
    #[serde(default)]
    pub head: Opt<Time>,
    /// Between two pieces of a request's body, and for a client that does not read its answer. Default 5s.
    #[serde(default)]
    pub body: Opt<Time>,
    /// Idle between two requests. Default 60s.
    #[serde(default)]
    pub keep_alive: Opt<Time>,
    /// A WebSocket or an event stream in which nothing moves. Default 5m.
    #[serde(default)]
    pub quiet: Opt<Time>,
}
