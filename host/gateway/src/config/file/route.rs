//! Routes, as people write them.

use super::*;

/// What holds for routes that say nothing else.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Defaults {
    /// How long a request may take.
    #[serde(default)]
    pub timeouts: Opt<RouteTimeouts>,
    /// Size of a request's body. Default 10MiB.
    #[serde(default)]
    pub body_bytes_max: Opt<Size>,
    /// Rate limits of routes that have none of their own. A bare word names one of `rate_limits`. Default none.
    #[serde(default)]
    pub rate_limits: Opt<Vec<Item<OrShort<RateLimit>>>>,
    /// Pages of other origins that may read the answers. Default none.
    #[serde(default)]
    pub cors: Opt<OrShort<Cors>>,
    /// Errors in HTTP 200, those for requests that match no route as well. Default none.
    #[serde(default)]
    pub envelope: Opt<OrShort<Envelope>>,
    /// Compression of answers.
    #[serde(default)]
    pub compression: Opt<OrShort<Compression>>,
}

/// What a request must look like, and what happens to it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Unique; stands in logs and metrics.
    pub name: Item<String>,
    /// What a request must look like. Default everything.
    #[serde(default, rename = "match")]
    pub matches: Opt<Match>,
    /// Higher is tried first, whatever else the routes say. Default 0.
    #[serde(default)]
    pub priority: Opt<i32>,
    /// What happens to it. A bare word is a service.
    #[serde(default)]
    #[schemars(required)]
    pub to: Item<OrShort<To>>,
    /// How long it may take.
    #[serde(default)]
    pub timeouts: Opt<RouteTimeouts>,
    /// Size of the request's body. Default as `defaults` says.
    #[serde(default)]
    pub body_bytes_max: Opt<Size>,
    /// Try again what is safe to try again, as the service says. Default true.
    #[serde(default)]
    pub retries: Opt<bool>,
    /// Answers of the upstream that count as faults for degrade plugins. Default 502, 503, 504.
    #[serde(default)]
    pub degrade_statuses: Opt<Vec<Item<Whole>>>,
    /// Plugins, after those for everything and for the host.
    #[serde(default)]
    pub plugins: Opt<AttachmentList>,
    /// Take the prefix that matched off the path that is sent upstream. Default false.
    #[serde(default)]
    pub strip_prefix: Opt<bool>,
    /// Send the client's `host` upstream; else what the service is called by. Default true.
    #[serde(default)]
    pub preserve_host: Opt<bool>,
    /// Answers for what is behind this route if that fails or hangs, at once. Default none; a service may have one, too.
    #[serde(default)]
    pub breaker: Opt<Breaker>,
    /// Whom it lets in; others are answered with 403. Default none: everybody.
    #[serde(default)]
    pub access: Opt<Access>,
    /// How many requests in how much time; beyond, the answer is 429. A bare word names one of `rate_limits`. Default none but those of `defaults`.
    #[serde(default)]
    pub rate_limits: Opt<Vec<Item<OrShort<RateLimit>>>>,
    /// Pages of other origins that may read the answers; `off` for none. Default as `defaults` says.
    #[serde(default)]
    pub cors: Opt<OrShort<Cors>>,
    /// What callers may send and the service may answer. Default none: anything.
    #[serde(default)]
    pub checks: Opt<Checks>,
    /// Another path for the upstream. Default none.
    #[serde(default)]
    pub rewrite: Opt<NotShort<Rewrite>>,
    /// Changes of header fields. Default none.
    #[serde(default)]
    pub headers: Opt<HeaderEdits>,
    /// Answers in the place of others, after degrade plugins. Default none.
    #[serde(default)]
    pub default_answers: Opt<Vec<Item<DefaultAnswer>>>,
    /// Errors in HTTP 200; `on` or `off`. Default as `defaults` says.
    #[serde(default)]
    pub envelope: Opt<OrShort<Envelope>>,
    /// Compression of answers; `off` for none. Default as `defaults` says.
    #[serde(default)]
    pub compression: Opt<OrShort<Compression>>,
    /// Copies for another service. Default none.
    #[serde(default)]
    pub mirror: Opt<Mirror>,
    /// Records of its requests; `off` for none. Default as the section `access_log` says.
    #[serde(default)]
    pub access_log: Opt<OrShort<RouteLog>>,
    /// Copies of the beginning of bodies, for the record. Default none.
    #[serde(default)]
    pub capture: Opt<Capture>,
}

/// What a request must look like.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Match {
    /// One of these: `api.example.com`, or `*.example.com` for every host below. Default any.
    #[serde(default)]
    pub hosts: Opt<Vec<Item<String>>>,
    /// The path. Default any.
    #[serde(default)]
    pub path: Opt<NotShort<PathMatch>>,
    /// Came in by one of these `listeners`, by name. Default any.
    #[serde(default)]
    pub listeners: Opt<Vec<Item<String>>>,
    /// One of these; GET includes HEAD. Default any.
    #[serde(default)]
    pub methods: Opt<Vec<Item<String>>>,
    /// All of these, by name.
    #[serde(default)]
    pub headers: Opt<Named<NotShort<ValueMatch>>>,
    /// All of these arguments of the query, by name; both are compared decoded.
    #[serde(default)]
    pub query: Opt<Named<NotShort<ValueMatch>>>,
    /// All of these cookies, by name.
    #[serde(default)]
    pub cookies: Opt<Named<NotShort<ValueMatch>>>,
    /// How the request came: `https` by TLS, `http` in the clear. Default any.
    #[serde(default)]
    pub scheme: Opt<RequestScheme>,
    /// The client's address is in one of these: `10.0.0.0/8`, or a single address. Default any.
    #[serde(default)]
    pub sources: Opt<Vec<Item<String>>>,
}

/// How a request came to the gateway.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RequestScheme {
    /// In the clear.
    Http,
    /// By TLS.
    Https,
}

/// A canonical path, case-sensitive.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PathMatch {
    /// This path.
    Exact(Item<String>),
    /// This path and all below it, by whole segments.
    Prefix(Item<String>),
    /// A path with names in the place of segments: `/users/{id}/orders`; at the end one for all that follows: `/files/{rest*}`. Each name is an attribute `path.NAME`.
    Template(Item<String>),
    /// A regular expression that fits the whole path, as a careless upstream would read it. Each named group is an attribute `path.NAME`.
    Regex(Item<String>),
}

/// A test of something that has a name: a header, a query argument, a cookie.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ValueMatch {
    /// There is one.
    Present,
    /// There is none.
    Absent,
    /// It has exactly this value.
    Exact(Item<String>),
    /// Its value begins with this.
    Prefix(Item<String>),
    /// This regular expression fits its whole value.
    Regex(Item<String>),
}

/// What happens to a request: one of `service`, `split`, `plugin`, `ferry`, `ferry_answers`, `redirect` and `answer`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct To {
    /// It is sent to this service.
    #[serde(default)]
    pub service: Opt<String>,
    /// With `service`: only to endpoints with this tag.
    #[serde(default)]
    pub subset: Opt<String>,
    /// It is sent one of these ways. Default none.
    #[serde(default)]
    pub split: Opt<Vec<Item<OrShort<SplitArm>>>>,
    /// With `split`: what a request sticks to. Default nothing: each is dealt out anew.
    #[serde(default)]
    pub sticky: Opt<StickTo>,
    /// It is carried over on this lane of `ferry.near`.
    #[serde(default)]
    pub ferry: Opt<String>,
    /// The last segment of its path is the id of a message that was sent on this lane of `ferry.near`: it is answered with what came of it.
    #[serde(default)]
    pub ferry_answers: Opt<String>,
    /// It is told where to ask instead. Default none.
    #[serde(default)]
    pub redirect: Opt<Redirect>,
    /// This route plugin says where it is sent.
    #[serde(default)]
    pub plugin: Opt<String>,
    /// With `plugin`: what it is configured with here.
    #[serde(default)]
    pub config: Opt<Anything>,
    /// With `plugin`: what its failure means, `closed` (default) or `last-good`.
    #[serde(default)]
    pub policy: Opt<Policy>,
    /// It is answered at once.
    #[serde(default)]
    pub answer: Opt<Fixed>,
}

/// An answer that needs no upstream.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fixed {
    /// 200 to 599.
    pub status: Item<Whole>,
    /// Text of at most 64KiB. Default none.
    #[serde(default)]
    pub body: Opt<String>,
    /// Its fields, by name.
    #[serde(default)]
    pub headers: Opt<Named<String>>,
}

/// How long a request may take.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteTimeouts {
    /// From its head to the end of the answer, retries included; not for WebSockets and event streams; of gRPC to the head of the answer. Default 60s.
    #[serde(default)]
    pub whole: Opt<Time>,
}

impl FromShort for To {
    fn from_short(service: Item<String>) -> To {
        To { service: Some(service), ..To::default() }
    }
}

impl WholeForm for PathMatch {
    fn whole_form(path: &str) -> String {
        format!("write `path: {{prefix: {path}}}` for it and all below it, or `path: {{exact: {path}}}`")
    }
}

impl WholeForm for ValueMatch {
    fn whole_form(value: &str) -> String {
        format!("write `{{exact: \"{value}\"}}` for this value, or `present` for any, `absent` for none")
    }
}
