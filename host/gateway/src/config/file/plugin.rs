//! Plugins and their attachments, as people write them.

use super::*;

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
    /// The key-value store (`wharf:host/kv`). Default not granted.
    #[serde(default)]
    pub kv: Opt<KvGrant>,
    /// Calls to services (`wharf:host/http`). Default not granted.
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

impl FromShort for Attachment {
    fn from_short(plugin: Item<String>) -> Attachment {
        Attachment { plugin, role: None, config: None, policy: None, order: None }
    }
}
