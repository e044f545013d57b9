//! What a route does with requests and answers beside its plugins, as people write it.

use super::*;

/// Whom a route lets in. What denies goes before what allows.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Access {
    /// By the client's address: `10.0.0.0/8`, or a single one.
    #[serde(default)]
    pub sources: Opt<SourceLists>,
    /// By header fields.
    #[serde(default)]
    pub headers: Opt<HeaderLists>,
}

/// Addresses.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceLists {
    /// Only these. Default all.
    #[serde(default)]
    pub allow: Opt<Vec<Item<String>>>,
    /// Not these.
    #[serde(default)]
    pub deny: Opt<Vec<Item<String>>>,
}

/// Header fields, by name.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeaderLists {
    /// Only requests that have all of these.
    #[serde(default)]
    pub allow: Opt<Named<NotShort<ValueMatch>>>,
    /// No request that has one of these.
    #[serde(default)]
    pub deny: Opt<Named<NotShort<ValueMatch>>>,
}

/// How many requests in how much time, exactly, over all cores. In a list of a route a bare word names one of `rate_limits`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// `100/s`, `1000/m`, `5000/h`.
    #[serde(default)]
    #[schemars(required)]
    pub rate: Opt<PerTime>,
    /// Requests that may come at once, and then at the rate. Default the number in `rate`.
    #[serde(default)]
    pub burst: Opt<Whole>,
    /// Whom it is for, each with a count of its own. Default `all`: one count.
    #[serde(default)]
    pub by: Opt<LimitBy>,
    /// Stands for a limit that is named elsewhere.
    #[serde(skip)]
    #[schemars(skip)]
    pub named: Opt<String>,
}

/// Whom a rate limit is for.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LimitBy {
    /// All together.
    All,
    /// Each client address; of IPv6 each /64.
    Client,
    /// Each consumer, as auth plugins name it. Counted right after them; those without a name are one.
    Consumer,
    /// Each value of this header; those without it are one.
    Header(Item<String>),
    /// Each value of this cookie; those without it are one.
    Cookie(Item<String>),
}

/// Pages of other origins that may read the answers. Preflights are answered by the gateway, before any plugin.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cors {
    /// `https://app.example.com`, or `*` for all.
    #[serde(default)]
    pub origins: Opt<Vec<Item<String>>>,
    /// Regular expressions that fit whole origins.
    #[serde(default)]
    pub origin_patterns: Opt<Vec<Item<String>>>,
    /// Methods that a page may use beside GET, HEAD and POST. Default the one that it asks for.
    #[serde(default)]
    pub methods: Opt<Vec<Item<String>>>,
    /// Headers that a page may send. Default those that it asks for.
    #[serde(default)]
    pub headers: Opt<Vec<Item<String>>>,
    /// Headers of the answer that a page may read.
    #[serde(default)]
    pub expose_headers: Opt<Vec<Item<String>>>,
    /// A page may send cookies. Not together with the origin `*`. Default false.
    #[serde(default)]
    pub credentials: Opt<bool>,
    /// How long a browser may remember the leave. Default 10m.
    #[serde(default)]
    pub max_age: Opt<Time>,
    /// `off`, where `defaults` has one.
    #[serde(skip)]
    #[schemars(skip)]
    pub word: Opt<String>,
}

/// What callers send and the service answers, checked just before and after the call: only for those whom auth plugins let in.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Checks {
    /// Media types that a body may have: `application/json`, `text/*`, `*+json`. Default any. Others are answered with 415.
    #[serde(default)]
    pub types: Opt<Vec<Item<String>>>,
    /// JSON Schema of the query's arguments as an object. Text is read as the number, switch or list that a property is said to be.
    #[serde(default)]
    pub query: Opt<Anything>,
    /// JSON Schema of header fields as an object, names in lower case; only those under `properties` are looked at.
    #[serde(default)]
    pub headers: Opt<Anything>,
    /// JSON Schema of what the route's template or regular expression names, as an object.
    #[serde(default)]
    pub path: Opt<Anything>,
    /// JSON Schema of the body, which must be JSON then.
    #[serde(default)]
    pub body: Opt<Anything>,
    /// Size of a body that is held to be judged. Default 256KiB.
    #[serde(default)]
    pub body_bytes_max: Opt<Size>,
    /// What the service may answer; else the answer is 502.
    #[serde(default)]
    pub answer: Opt<AnswerChecks>,
}

/// What a service may answer.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AnswerChecks {
    /// Media types of answers with a body and a status below 300. Default any.
    #[serde(default)]
    pub types: Opt<Vec<Item<String>>>,
    /// Size of the body; one that does not say its size is cut there. Default any.
    #[serde(default)]
    pub body_bytes_max: Opt<Size>,
}

/// Another path for the upstream.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Rewrite {
    /// Put this in the place of the prefix that matched.
    Prefix(Item<String>),
    /// If a pattern fits the whole path, this is the path.
    Regex(Item<RegexRewrite>),
    /// This is the path, with names in it: `/v2/users/{path.id}`.
    Template(Item<String>),
}

/// A path that a pattern fits, and what becomes of it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RegexRewrite {
    /// A regular expression for the whole path.
    pub pattern: Item<String>,
    /// The new path, with groups by number or name: `/v2/{1}/{what}`.
    pub to: Item<String>,
}

/// Changes of header fields. Values may have names in them: `{client}`, `{host}`, `{route}`, `{id}`, `{path.NAME}`, `{attr.NAME}`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HeaderEdits {
    /// Of requests, last before the call: plugins see what the client sent.
    #[serde(default)]
    pub request: Opt<FieldEdits>,
    /// Of every answer of the route, the gateway's own as well.
    #[serde(default)]
    pub response: Opt<FieldEdits>,
}

/// Changes of one head, in this order.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FieldEdits {
    /// Remove all fields of these names.
    #[serde(default)]
    pub remove: Opt<Vec<Item<String>>>,
    /// Replace all fields of a name by one.
    #[serde(default)]
    pub set: Opt<Named<String>>,
    /// Add a field.
    #[serde(default)]
    pub add: Opt<Named<String>>,
}

/// An answer in the place of another. The first that fits counts.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DefaultAnswer {
    /// In the place of faults of the service: it cannot be reached, does not answer in time, or not in valid HTTP. Default false.
    #[serde(default)]
    pub faults: Opt<bool>,
    /// In the place of answers with one of these statuses, the upstream's and the gateway's own.
    #[serde(default)]
    pub statuses: Opt<Vec<Item<Whole>>>,
    /// What is answered.
    pub answer: Item<Fixed>,
}

/// Errors in HTTP 200: `{"code":50301,"message":"...","data":null,"timestamp":...,"isSuccess":false}`. `on` is short for `{}`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// The upstream's errors (status 400 and above), too; else only the gateway's own. Default true.
    #[serde(default)]
    pub upstream: Opt<bool>,
    /// Codes by status. Default the status and `01`: 50301 for 503.
    #[serde(default)]
    pub codes: Opt<Named<Whole>>,
    /// `on` or `off`.
    #[serde(skip)]
    #[schemars(skip)]
    pub word: Opt<String>,
}

/// Compression of answers for clients that ask for it. On by default; `off` in its place turns it off.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Compression {
    /// The preferred first, where a client likes several as much. Default `[zstd, br, gzip]`.
    #[serde(default)]
    pub codings: Opt<Vec<Item<Coding>>>,
    /// Size of a body below which it is left as it is. Default 1KiB.
    #[serde(default)]
    pub body_bytes_min: Opt<Size>,
    /// Media types: `application/json`, `text/*`, `*+json`. Default those that shrink: text, JSON, XML, scripts, wasm.
    #[serde(default)]
    pub types: Opt<Vec<Item<String>>>,
    /// `on` or `off`.
    #[serde(skip)]
    #[schemars(skip)]
    pub word: Opt<String>,
}

/// A content coding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Coding {
    /// Zstandard.
    Zstd,
    /// Brotli.
    Br,
    /// gzip.
    Gzip,
}

/// Copies of requests for another service. They never delay or fail the requests; what it answers is thrown away.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// Who gets the copies, marked with `x-wharf-mirror: 1`.
    pub service: Item<String>,
    /// Only endpoints with this tag.
    #[serde(default)]
    pub subset: Opt<String>,
    /// How many of the requests are copied. Default 100%.
    #[serde(default)]
    pub share: Opt<Percent>,
    /// Size of a request's body above which it is not copied. Default 64KiB.
    #[serde(default)]
    pub body_bytes_max: Opt<Size>,
    /// Copies on their way at a time, for each core; there is no queue. Default 4.
    #[serde(default)]
    pub in_flight_max: Opt<Whole>,
    /// How long a copy and its answer may take. Default 5s.
    #[serde(default)]
    pub timeout: Opt<Time>,
}

/// One way of a split.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SplitArm {
    /// Who is asked.
    #[serde(default)]
    #[schemars(required)]
    pub service: Item<String>,
    /// Only endpoints with this tag.
    #[serde(default)]
    pub subset: Opt<String>,
    /// Its part of the requests that no test below sends elsewhere. Default 0 with tests, else 1.
    #[serde(default)]
    pub weight: Opt<Whole>,
    /// Requests with all of these headers, and cookies, go here whatever the weights.
    #[serde(default)]
    pub headers: Opt<Named<NotShort<ValueMatch>>>,
    /// See `headers`.
    #[serde(default)]
    pub cookies: Opt<Named<NotShort<ValueMatch>>>,
}

/// What the requests of a split stick to.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StickTo {
    /// The client's address.
    Client,
    /// The value of this header; of those without it, the client's address.
    Header(Item<String>),
    /// The value of this cookie; of those without it, the client's address.
    Cookie(Item<String>),
}

/// Where to ask instead. What is not given stays as it was asked.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308 (default).
    #[serde(default)]
    pub status: Opt<Whole>,
    /// `http` or `https`.
    #[serde(default)]
    pub scheme: Opt<String>,
    /// Host, with its port if it has one; may have names in it: `www.{host}`.
    #[serde(default)]
    pub host: Opt<String>,
    /// The path.
    #[serde(default)]
    pub path: Opt<NotShort<Rewrite>>,
    /// Keep the query. Default true.
    #[serde(default)]
    pub keep_query: Opt<bool>,
}

impl FromShort for RateLimit {
    fn from_short(name: Item<String>) -> RateLimit {
        RateLimit { named: Some(name), ..RateLimit::default() }
    }
}

impl FromShort for Cors {
    fn from_short(word: Item<String>) -> Cors {
        Cors { word: Some(word), ..Cors::default() }
    }
}

impl FromShort for Envelope {
    fn from_short(word: Item<String>) -> Envelope {
        Envelope { word: Some(word), ..Envelope::default() }
    }
}

impl FromShort for Compression {
    fn from_short(word: Item<String>) -> Compression {
        Compression { word: Some(word), ..Compression::default() }
    }
}

impl FromShort for SplitArm {
    fn from_short(service: Item<String>) -> SplitArm {
        SplitArm { service, ..SplitArm::default() }
    }
}

impl WholeForm for Rewrite {
    fn whole_form(path: &str) -> String {
        format!("write `{{prefix: {path}}}` in the place of the prefix that matched, or `{{template: {path}}}` for the whole path")
    }
}
