//! What the catalog answers an operator. Plain rows; their JSON is the admin API's, so a name here is a promise.

use serde::Serialize;

/// An upload that was taken.
#[derive(Clone, Debug, Serialize)]
pub struct Pushed {
    pub plugin: String,
    pub version: u32,
    /// sha-256, hexadecimal.
    pub digest: String,
    pub bytes: u64,
    pub roles: Vec<String>,
    /// The same bytes were uploaded before and keep their number.
    pub known: bool,
    /// Does this version serve now?
    pub activated: bool,
    /// The version that served before.
    pub previous: Option<u32>,
    /// At how many places the configuration attaches the plugin.
    pub attachments: usize,
    /// Imports that the version before did not have.
    pub asks_more: Vec<String>,
    /// Time from the last byte of the upload.
    pub ms: f64,
}

/// A version that serves now.
#[derive(Clone, Debug, Serialize)]
pub struct Activated {
    pub plugin: String,
    pub version: u32,
    /// The version that served before.
    pub previous: Option<u32>,
    pub ms: f64,
}

/// Versions that somebody still holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Living {
    pub plugin: String,
    pub version: u32,
    /// `serving`, `last-good` (kept ready beside it) or `draining`.
    pub state: &'static str,
    /// Configurations of it that are held by a generation or a call.
    pub ready: usize,
}

/// One plugin in a list.
#[derive(Clone, Debug, Serialize)]
pub struct PluginRow {
    pub plugin: String,
    /// The version that serves.
    pub serving: Option<u32>,
    /// How many are stored.
    pub versions: usize,
    /// Of the version that serves.
    pub roles: Vec<String>,
    /// Where it is attached.
    pub attachments: Vec<String>,
    /// Is it ready at all of them?
    pub ready: bool,
    /// The stored index was found damaged at the start.
    pub damage: Option<String>,
}

/// One version in a list.
#[derive(Clone, Debug, Serialize)]
pub struct VersionRow {
    pub version: u32,
    /// `serving`, `earlier` (rollback can reach it), `faulty` (it tripped), `stored` (it does not and rollback will not
    /// reach it), `unusable` (its stored file is damaged).
    pub state: &'static str,
    pub digest: String,
    pub bytes: u64,
    pub roles: Vec<String>,
    pub note: String,
    /// Milliseconds since 1970.
    pub pushed_ms: u64,
    /// Why it is unusable.
    pub damage: Option<String>,
}

/// Everything about one version.
#[derive(Clone, Debug, Serialize)]
pub struct Inspected {
    #[serde(flatten)]
    pub row: VersionRow,
    /// `wharf:*` interfaces that it imports.
    pub imports: Vec<String>,
    /// `wasi:*` interfaces that it imports; all inert.
    pub wasi: Vec<String>,
    /// JSON Schema of its configuration; none: it takes none.
    pub schema: Option<serde_json::Value>,
}
