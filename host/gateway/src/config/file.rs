//! What people write: the shape of the configuration file and the words of its schema. It says what may stand where,
//! and knows no default and no meaning; `check.rs` turns it into the plain values of `plan.rs`.
//!
//! The doc comments here are the descriptions in `schema/wharf.schema.json`, which editors show.

use super::tree::{FromShort, Item, Named, NotShort, OrShort, WholeForm};
use super::units::{PerTime, Percent, Size, Time, Whole};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use std::borrow::Cow;

mod ferry;
mod listener;
mod plugin;
mod route;
mod route_steps;
mod service;
mod telemetry;

pub use ferry::*;
pub use listener::*;
pub use plugin::*;
pub use route::*;
pub use route_steps::*;
pub use service::*;
pub use telemetry::*;

type Opt<T> = Option<Item<T>>;

/// The configuration of one Wharf gateway.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Files that are read as if they stood here: paths below the folder of this file, in which `*` stands for any characters and `?` for one; sorted. Default none.
    #[serde(default)]
    pub include: Opt<Vec<Item<String>>>,
    /// This gateway process.
    #[serde(default)]
    pub node: Opt<Node>,
    /// Threads that serve requests. Default one for each CPU core.
    #[serde(default)]
    pub workers: Opt<Whole>,
    /// What the gateway says about itself, on standard error.
    #[serde(default)]
    pub log: Opt<Log>,
    /// A record of each request.
    #[serde(default)]
    pub access_log: Opt<AccessLog>,
    /// Traces for a collector of OpenTelemetry. Default none.
    #[serde(default)]
    pub traces: Opt<Traces>,
    /// Where requests come in, by name.
    #[serde(default)]
    pub listeners: Opt<Named<Listener>>,
    /// The admin API.
    #[serde(default)]
    pub admin: Opt<Admin>,
    /// Where requests go to, by name.
    #[serde(default)]
    pub services: Opt<Named<Service>>,
    /// Where messages go, by name. Default none.
    #[serde(default)]
    pub buses: Opt<Named<Bus>>,
    /// Requests over an isolated network as messages. Default none.
    #[serde(default)]
    pub ferry: Opt<Ferry>,
    /// Plugins that may be attached, by name (1 to 64 of a-z, 0-9, `-` and `_`, the first a letter), with what they are granted.
    #[serde(default)]
    #[schemars(extend("propertyNames" = { "pattern": wharf_core::plugin_name::PATTERN }))]
    pub plugins: Opt<Named<Plugin>>,
    /// Plugins attached to everything, or to hosts.
    #[serde(default)]
    pub attachments: Opt<Attachments>,
    /// Rate limits that routes name; whoever names one counts on the same.
    #[serde(default)]
    pub rate_limits: Opt<Named<RateLimit>>,
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
    /// Where this node stands: services send its calls to endpoints of the same `zone`, as long as there are enough. Default nowhere.
    #[serde(default)]
    pub zone: Opt<String>,
    /// Memory that the process may use: from 90 % of it new connections are refused, from 95 % requests are. Default all that the machine or the container has.
    #[serde(default)]
    pub memory_max: Opt<Size>,
    /// How long the process serves on as before when it is told to end, while `/readyz` already says `draining`: as long as balancers take to notice. Told again, it begins to end at once. Default 0s.
    #[serde(default)]
    pub drain_delay: Opt<Time>,
    /// How long exchanges in flight, tunnels among them, may take to end when the process is told to end. Default 20s.
    #[serde(default)]
    pub drain: Opt<Time>,
    /// The same after an upgrade, when a newer process serves already. Default 10m.
    #[serde(default)]
    pub drain_on_upgrade: Opt<Time>,
}

/// What the gateway says about itself.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// `error`, `warn`, `info` (default) or `debug`; also `info,wharf_http=debug` for single rooms.
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

/// Any YAML; becomes JSON.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Anything(pub serde_json::Value);

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

impl JsonSchema for PerTime {
    fn schema_name() -> Cow<'static, str> {
        "PerTime".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "description": "So many in a time: `100/s`, `1000/m`, `10/30s`.", "type": "string", "pattern": r"^[0-9]+ ?/ ?([0-9]+(\.[0-9]+)? ?)?(us|ms|s|m|h|d)$" })
    }
}
