//! What people write: the shape of the configuration file and the words of its schema. It says what may stand where,
//! and knows no default and no meaning; `check.rs` turns it into the plain values of `plan.rs`.
//!
//! The doc comments here are the descriptions in `schema/wharf.schema.json`, which editors show.

use super::tree::{FromShort, Item, Named, NotShort, OrShort, WholeForm};
use super::units::{Percent, Size, Time, Whole};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use std::borrow::Cow;

type Opt<T> = Option<Item<T>>;

/// The configuration of one Wharf gateway.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// This gateway process.
    #[serde(default)]
    pub node: Opt<Node>,
    /// Threads that serve requests, one for each CPU core by default. 1 to 256.
    #[serde(default)]
    pub workers: Opt<Whole>,
    /// What the gateway says about itself, on standard error.
    #[serde(default)]
    pub log: Opt<Log>,
    /// One line of JSON for each request.
    #[serde(default)]
    pub access_log: Opt<AccessLog>,
    /// Where requests come in, by name.
    #[serde(default)]
    pub listeners: Opt<Named<Listener>>,
    /// The admin API.
    #[serde(default)]
    pub admin: Opt<Admin>,
    /// Where requests go to, by name.
    #[serde(default)]
    pub services: Opt<Named<Service>>,
    /// Plugins that may be attached, by name (1 to 64 of a-z, 0-9, `-` and `_`, the first a letter), with what they are granted.
    #[serde(default)]
    #[schemars(extend("propertyNames" = { "pattern": wharf_core::plugin_name::PATTERN }))]
    pub plugins: Opt<Named<Plugin>>,
    /// Plugins attached to everything, or to hosts.
    #[serde(default)]
    pub attachments: Opt<Attachments>,
    /// What holds for routes that say nothing else.
    #[serde(default)]
    pub defaults: Opt<Defaults>,
    /// What a request must look like, and what happens to it.
    #[serde(default)]
    pub routes: Opt<Vec<Item<Route>>>,
}

/// This gateway process.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Name of this node in logs and metrics. Default `wharf`.
    #[serde(default)]
    pub name: Opt<String>,
    /// Folder for uploaded plugins, the embedded store and the admin token. Default `wharf-state`. Relative paths begin at the folder of this file.
    #[serde(default)]
    pub state_dir: Opt<String>,
}

/// What the gateway says about itself.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// `error`, `warn`, `info` (default), `debug` or `trace`; also `info,wharf_http=debug` for single rooms.
    #[serde(default)]
    pub level: Opt<String>,
    /// Default `text`.
    #[serde(default)]
    pub format: Opt<LogFormat>,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// One line of JSON for each request.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AccessLog {
    /// `stdout` (default), `off`, or the path of a file. A file that was renamed is opened anew, at once on SIGHUP.
    #[serde(default)]
    pub to: Opt<String>,
    /// Query arguments whose values are never written, compared without regard to case; added to those that never are: `token`, `access_token`, `refresh_token`, `id_token`, `api_key`, `apikey`, `key`, `secret`, `client_secret`, `password`, `passwd`, `pwd`, `signature`, `sig`, `code`, `authorization`, `session`. Of the headers only `user-agent` is ever written.
    #[serde(default)]
    pub redact_query: Opt<Vec<Item<String>>>,
}

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

/// The admin API.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    /// Address and port to bind. Default `127.0.0.1:9901`.
    #[serde(default)]
    pub bind: Opt<String>,
    /// Host and port that the command line and others reach it by, if it is not what is bound.
    #[serde(default)]
    pub advertise: Opt<String>,
    /// File with the token, made at the first start, readable by its owner only. Default `admin-token` in the state folder.
    #[serde(default)]
    pub token_file: Opt<String>,
}

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

/// A plugin that may be attached.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Plugin {
    /// A component that is loaded at start if no version of this plugin was ever uploaded. Relative paths begin at the folder of this file.
    #[serde(default)]
    pub file: Opt<String>,
    /// What it may do beyond what every plugin may. Default nothing.
    #[serde(default)]
    pub grants: Opt<Grants>,
    /// What it may use up.
    #[serde(default)]
    pub limits: Opt<PluginLimits>,
}

/// What a plugin may do beyond what every plugin may.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Grants {
    /// The key-value store (`wharf:host/kv`).
    #[serde(default)]
    pub kv: Opt<KvGrant>,
    /// Calls to services (`wharf:host/http`).
    #[serde(default)]
    pub http: Opt<HttpGrant>,
}

/// Use of the key-value store.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KvGrant {
    /// Plugins with the same namespace see each other's keys. Default the plugin's name.
    #[serde(default)]
    pub namespace: Opt<String>,
    /// Keys and values together. Default 64MiB.
    #[serde(default)]
    pub bytes_max: Opt<Size>,
    /// Default 100,000.
    #[serde(default)]
    pub keys_max: Opt<Whole>,
}

/// Calls to services.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HttpGrant {
    /// Names of the services that may be called.
    pub services: Item<Vec<Item<String>>>,
}

/// What a plugin may use up.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PluginLimits {
    /// Wall-clock time for one call, host calls included. Default 50ms.
    #[serde(default)]
    pub deadline: Opt<Time>,
    /// Memory of one instance. Default 32MiB.
    #[serde(default)]
    pub memory_bytes_max: Opt<Size>,
    /// Calls at once, over all cores. Default 256.
    #[serde(default)]
    pub concurrency_max: Opt<Whole>,
    /// Log lines a second for each core. Default 100.
    #[serde(default)]
    pub log_lines_per_second: Opt<Whole>,
    /// Host calls in one call. Default 1,000.
    #[serde(default)]
    pub host_calls_max: Opt<Whole>,
    /// An instance is thrown away after this many calls. Default 10,000.
    #[serde(default)]
    pub recycle_after_calls: Opt<Whole>,
    /// A fresh instance for every call. Default false.
    #[serde(default)]
    pub fresh_per_call: Opt<bool>,
    /// When repeated faults bring back the last good version.
    #[serde(default)]
    pub faults: Opt<Faults>,
}

/// When repeated faults bring back the last good version.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Faults {
    /// This many. Default 5.
    #[serde(default)]
    pub max: Opt<Whole>,
    /// Within this time. Default 10s.
    #[serde(default)]
    pub within: Opt<Time>,
}

/// Plugins attached to everything, or to hosts.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Attachments {
    /// For every route.
    #[serde(default)]
    pub global: Opt<AttachmentList>,
    /// For every request to a host: `api.example.com`, `*.example.com`. All that fit apply, the wider ones first.
    #[serde(default)]
    pub hosts: Opt<Named<AttachmentList>>,
}

/// Plugins in the order they are asked.
pub type AttachmentList = Vec<Item<OrShort<Attachment>>>;

/// A plugin in its place.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// Name of the plugin.
    pub plugin: Item<String>,
    /// Only in this role. Default every role that the component answers, but `route`.
    #[serde(default)]
    pub role: Opt<Role>,
    /// What the plugin is configured with here; must fit its schema.
    #[serde(default)]
    pub config: Opt<Anything>,
    /// What its failure means. Default `closed`; `open` for the role degrade.
    #[serde(default)]
    pub policy: Opt<Policy>,
    /// Lower is asked first among the attachments of the same level. Default 0.
    #[serde(default)]
    pub order: Opt<i32>,
}

/// The question that a plugin answers.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Who is it, and may they?
    Auth,
    /// Where to?
    Route,
    /// Look at heads and change them.
    Filter,
    /// What instead, when there is no answer?
    Degrade,
}

/// What a plugin's failure means.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// The request fails.
    Closed,
    /// The request goes on without it.
    Open,
    /// The last version that did well answers; without one, the request fails.
    LastGood,
}

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
    /// Send the client's `host` upstream; else the endpoint's address. Default true.
    #[serde(default)]
    pub preserve_host: Opt<bool>,
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
    /// One of these; GET includes HEAD. Default any.
    #[serde(default)]
    pub methods: Opt<Vec<Item<String>>>,
    /// All of these, by name.
    #[serde(default)]
    pub headers: Opt<Named<NotShort<HeaderMatch>>>,
}

/// A canonical path, case-sensitive.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PathMatch {
    /// This path.
    Exact(Item<String>),
    /// This path and all below it, by whole segments.
    Prefix(Item<String>),
}

/// A test of a request field.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HeaderMatch {
    /// There is one.
    Present,
    /// It has exactly this value.
    Exact(Item<String>),
}

/// What happens to a request: one of `service`, `plugin` and `answer`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct To {
    /// It is sent to this service.
    #[serde(default)]
    pub service: Opt<String>,
    /// With `service`: only to endpoints with this tag.
    #[serde(default)]
    pub subset: Opt<String>,
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
    /// From its head to the end of the answer, retries included; not for WebSockets and event streams. Default 60s.
    #[serde(default)]
    pub whole: Opt<Time>,
}

/// Any YAML; becomes JSON.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Anything(pub serde_json::Value);

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

impl FromShort for Attachment {
    fn from_short(plugin: Item<String>) -> Attachment {
        Attachment { plugin, role: None, config: None, policy: None, order: None }
    }
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

impl WholeForm for HeaderMatch {
    fn whole_form(value: &str) -> String {
        format!("write `{{exact: \"{value}\"}}` for this value, or `present` for any")
    }
}

// === the schema of what is not a plain struct ===

/// What changes how something is read, and not what may be written.
macro_rules! has_the_schema_of_what_is_inside {
    ($($wrapper:ident),*) => {$(
        impl<T: JsonSchema> JsonSchema for $wrapper<T> {
            fn inline_schema() -> bool {
                T::inline_schema()
            }

            fn schema_name() -> Cow<'static, str> {
                T::schema_name()
            }

            fn schema_id() -> Cow<'static, str> {
                T::schema_id()
            }

            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                T::json_schema(generator)
            }
        }
    )*};
}

has_the_schema_of_what_is_inside!(Item, NotShort);

impl<T: JsonSchema> JsonSchema for Named<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("NamesOf{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "additionalProperties": generator.subschema_for::<T>() })
    }
}

impl<T: JsonSchema> JsonSchema for OrShort<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("{}OrWord", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "string" }, generator.subschema_for::<T>()] })
    }
}

impl JsonSchema for Anything {
    fn schema_name() -> Cow<'static, str> {
        "Anything".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "description": "Any YAML; becomes JSON." })
    }
}

impl JsonSchema for Whole {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Whole".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": 0 })
    }
}

impl JsonSchema for Time {
    fn schema_name() -> Cow<'static, str> {
        "Time".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "description": "A time: `250ms`, `5s`, `2m`, `1h`.", "type": "string", "pattern": r"^[0-9]+(\.[0-9]+)? ?(us|ms|s|m|h|d)$" })
    }
}

impl JsonSchema for Size {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A number of bytes: `64KiB`, `10MiB`.",
            "anyOf": [{ "type": "integer", "minimum": 0 }, { "type": "string", "pattern": r"^[0-9]+(\.[0-9]+)? ?(B|KiB|MiB|GiB|kB|KB|MB|GB)?$" }]
        })
    }
}

impl JsonSchema for Percent {
    fn schema_name() -> Cow<'static, str> {
        "Percent".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "description": "A share: `20%`.", "type": "string", "pattern": r"^[0-9]+(\.[0-9]+)? ?%$" })
    }
}
