//! Plugins and their attachments, checked.

use super::*;

/// A plugin that may be attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plugin {
    /// Unique.
    pub name: Arc<str>,
    /// A component to load if the catalog has no version.
    pub file: Option<PathBuf>,
    /// The key-value store, if granted.
    pub kv: Option<Kv>,
    /// Names of the services it may call; empty: not granted.
    pub http_services: Vec<Arc<str>>,
    /// What it may use up.
    pub limits: PluginLimits,
}

/// Use of the key-value store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kv {
    /// What separates its keys from others'.
    pub namespace: Arc<str>,
    /// Keys and values together.
    pub bytes_max: u64,
    /// Keys.
    pub keys_max: u64,
}

/// What a plugin may use up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginLimits {
    /// Wall clock for one call, host calls included.
    pub deadline: Duration,
    /// Memory of one instance.
    pub memory_bytes_max: u64,
    /// Calls at once, over all cores.
    pub concurrency_max: u32,
    /// For each core.
    pub log_lines_per_second: u32,
    /// In one call.
    pub host_calls_max: u32,
    /// Calls of one instance.
    pub recycle_after_calls: u32,
    /// A fresh instance for every call.
    pub fresh_per_call: bool,
    /// This many faults ...
    pub faults_max: u32,
    /// ... within this time bring back the last good version.
    pub faults_within: Duration,
}

/// A plugin in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// The plugin's name.
    pub plugin: Arc<str>,
    /// `None`: every role that the active component answers, but `route`.
    pub role: Option<Role>,
    /// JSON text; `{}` where the file has none. One plugin with equal texts is one configured version.
    pub config: Arc<str>,
    /// `None`: what is usual for the role (`auth`, `filter`, `route`: closed; `degrade`: open).
    pub policy: Option<Policy>,
    /// As written.
    pub order: i32,
    /// Where it is attached.
    pub level: Level,
}

/// Where a plugin is attached, in the order they are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each name is the place")]
pub enum Level {
    Global,
    Host,
    Route,
    Service,
}

/// The question that a plugin answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "each name is the WIT package")]
pub enum Role {
    Auth,
    Route,
    Filter,
    Degrade,
}

impl Role {
    /// The word in the file and in WIT.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Auth => "auth",
            Role::Route => "route",
            Role::Filter => "filter",
            Role::Degrade => "degrade",
        }
    }
}

/// What a plugin's failure means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the words are those of the file, where they are explained")]
pub enum Policy {
    Closed,
    Open,
    LastGood,
}
