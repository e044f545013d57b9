//! Every way the catalog says no: what happened, which object and limit, and what to do about it.

use crate::child::ChildError;
use crate::disk::StorageError;
use crate::error::{ErrorKind, WasmError};
use crate::examine::Unfit;
use crate::limits::{COMPONENT_TOO_LARGE, REHEARSAL};
use std::sync::Arc;
use std::time::Duration;
use wharf_core::desk::{DeskError, DeskErrorKind};
use wharf_core::plugin_name;

/// Why the catalog did not do it. What served before goes on serving, always.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct CatalogError(pub(crate) Refusal);

/// The kinds of no.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("{0:?} is not a plugin name")]
    Name(String),
    #[error("the component for plugin {plugin:?} has {bytes} bytes; at most {bytes_max} are taken")]
    TooLarge { plugin: Arc<str>, bytes: usize, bytes_max: usize },
    #[error("plugin {plugin:?}: {unfit}")]
    Unfit { plugin: Arc<str>, unfit: Unfit },
    #[error("plugin {plugin:?} is attached to {place} as {wanted}, and this component answers only {has}")]
    Role { plugin: Arc<str>, place: Arc<str>, wanted: &'static str, has: String },
    #[error("plugin {plugin:?} imports {import:?}, which the configuration does not grant it")]
    Grant { plugin: Arc<str>, import: String, line: String },
    #[error("plugin {plugin:?} could not be compiled: {error}")]
    Compile { plugin: Arc<str>, error: ChildError },
    #[error("{uploads_max} uploads are in work already; that is as many as the gateway takes at once")]
    Busy { uploads_max: usize },
    #[error("a newer process has taken over this gateway's plugins; this one only ends what it has begun")]
    Retired,
    #[error("plugin {plugin:?}: {error}")]
    Load { plugin: Arc<str>, error: WasmError },
    #[error("the plugin engine cannot be started: {0}")]
    Engine(WasmError),
    #[error("{error}")]
    Start { error: WasmError },
    #[error("the configuration schema of plugin {plugin:?} cannot be used: {error}")]
    Schema { plugin: Arc<str>, error: ChildError },
    #[error("the configuration of plugin {plugin:?} at {place} does not fit the schema of version {version}: {}{}", mistakes.join("; "), and_more(*others))]
    Config { plugin: Arc<str>, place: Arc<str>, version: u32, mistakes: Vec<String>, others: usize },
    #[error("{error} (with its configuration at {place}{})", and_more(*others))]
    Rehearsal { place: Arc<str>, error: WasmError, others: usize },
    #[error("{0}")]
    Storage(#[from] StorageError),
    #[error("the compiled form of plugin {plugin:?} could not be written: {why}")]
    CompiledStorage { plugin: Arc<str>, why: String },
    #[error("there is no plugin {plugin:?}")]
    NoPlugin { plugin: String, have: Vec<String> },
    #[error("plugin {plugin:?} has no version {version}")]
    NoVersion { plugin: Arc<str>, version: u32, have: Vec<u32> },
    #[error("plugin {plugin:?} has no earlier good version to go back to")]
    NoEarlier { plugin: Arc<str> },
    #[error("no version of plugin {plugin:?} serves, but {place} has it attached")]
    NothingServes { plugin: Arc<str>, place: Arc<str> },
    #[error("version {version} of plugin {plugin:?} is unusable: {why}")]
    Unusable { plugin: Arc<str>, version: u32, why: String },
    #[error("the stored index of plugin {plugin:?} is damaged: {why}")]
    Damaged { plugin: Arc<str>, why: String },
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    Internal(String),
}

fn and_more(others: usize) -> String {
    match others {
        0 => String::new(),
        1 => ", and 1 other configuration fails".into(),
        n => format!(", and {n} other configurations fail"),
    }
}

impl From<Refusal> for CatalogError {
    fn from(refusal: Refusal) -> CatalogError {
        CatalogError(refusal)
    }
}

impl From<StorageError> for CatalogError {
    fn from(error: StorageError) -> CatalogError {
        CatalogError(Refusal::Storage(error))
    }
}

impl CatalogError {
    /// What kind of no it is.
    pub fn kind(&self) -> DeskErrorKind {
        match &self.0 {
            Refusal::Name(_) | Refusal::Invalid(_) => DeskErrorKind::Invalid,
            Refusal::TooLarge { .. } => DeskErrorKind::TooLarge,
            Refusal::NoPlugin { .. } | Refusal::NoVersion { .. } => DeskErrorKind::NotFound,
            Refusal::NoEarlier { .. } | Refusal::NothingServes { .. } | Refusal::Unusable { .. } | Refusal::Damaged { .. } => {
                DeskErrorKind::Conflict
            }
            Refusal::Busy { .. } | Refusal::Retired => DeskErrorKind::Busy,
            Refusal::Storage(_) | Refusal::CompiledStorage { .. } => DeskErrorKind::Storage,
            Refusal::Engine(_) | Refusal::Internal(_) => DeskErrorKind::Internal,
            Refusal::Compile { error: ChildError::Start { .. }, .. } | Refusal::Schema { error: ChildError::Start { .. }, .. } => {
                DeskErrorKind::Internal
            }
            Refusal::Unfit { .. }
            | Refusal::Role { .. }
            | Refusal::Grant { .. }
            | Refusal::Compile { .. }
            | Refusal::Load { .. }
            | Refusal::Start { .. }
            | Refusal::Schema { .. }
            | Refusal::Config { .. }
            | Refusal::Rehearsal { .. } => DeskErrorKind::Refused,
        }
    }

    /// A stable word for machines: what exactly was refused.
    pub fn code(&self) -> &'static str {
        match &self.0 {
            Refusal::Name(_) => "name",
            Refusal::Invalid(_) => "argument",
            Refusal::TooLarge { .. } => "too-large",
            Refusal::Unfit { unfit, .. } => match unfit {
                Unfit::NotWasm(_) => "not-wasm",
                Unfit::CoreModule => "core-module",
                Unfit::Malformed(_) => "malformed",
                Unfit::NoLifecycle => "no-lifecycle",
                Unfit::NoRole(_) => "no-role",
                Unfit::UnknownImport(_) => "unknown-import",
                Unfit::LiveWasi(_) => "wasi-import",
            },
            Refusal::Role { .. } => "wrong-role",
            Refusal::Grant { .. } => "missing-grant",
            Refusal::Compile { error, .. } => match error {
                ChildError::Deadline(_) | ChildError::Cpu(_) => "compile-timeout",
                ChildError::Memory(_) | ChildError::Output(_) => "compile-memory",
                _ => "compile",
            },
            Refusal::Busy { .. } => "busy",
            Refusal::Retired => "retired",
            Refusal::Load { .. } => "load",
            Refusal::Start { error } => match error.kind() {
                ErrorKind::Deadline => "start-deadline",
                ErrorKind::Memory => "start-memory",
                ErrorKind::Trap | ErrorKind::Refused(_) => "start-trap",
                ErrorKind::Internal => "internal",
            },
            Refusal::Schema { .. } => "schema",
            Refusal::Config { .. } => "config",
            Refusal::Rehearsal { error, .. } => match error.kind() {
                ErrorKind::Deadline => "configure-deadline",
                ErrorKind::Memory => "configure-memory",
                ErrorKind::Trap => "configure-trap",
                ErrorKind::Refused(_) => "configure-refused",
                ErrorKind::Internal => "internal",
            },
            Refusal::Storage(_) | Refusal::CompiledStorage { .. } => "storage",
            Refusal::NoPlugin { .. } => "no-plugin",
            Refusal::NoVersion { .. } => "no-version",
            Refusal::NoEarlier { .. } => "no-earlier",
            Refusal::NothingServes { .. } => "nothing-serves",
            Refusal::Unusable { .. } => "unusable",
            Refusal::Damaged { .. } => "damaged",
            Refusal::Engine(_) => "engine",
            Refusal::Internal(_) => "internal",
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let list =
            |names: &[String]| if names.is_empty() { "there are none yet".to_owned() } else { format!("there are: {}", names.join(", ")) };
        Some(match &self.0 {
            Refusal::Name(_) => format!("a name is {}", plugin_name::RULE),
            Refusal::TooLarge { .. } => COMPONENT_TOO_LARGE.into(),
            Refusal::Unfit { unfit, .. } => unfit.hint(),
            Refusal::Role { wanted, .. } => format!("export the {wanted} interface too, or change the attachment"),
            Refusal::Grant { line, .. } => format!("grant it with `{line}` in the configuration file, or build the component without it"),
            Refusal::Compile { error, .. } => match error {
                ChildError::Deadline(_) | ChildError::Cpu(_) | ChildError::Memory(_) | ChildError::Output(_) => {
                    "make the component smaller, or raise the limits of compilation".into()
                }
                ChildError::Start { .. } => "see that the gateway's own binary can still be executed; was it replaced or removed?".into(),
                _ => "the component is not valid; `wasm-tools validate` on the file may say more".into(),
            },
            Refusal::Busy { .. } => "try again in a few seconds".into(),
            Refusal::Retired => "try again at once: a new connection reaches the newer process".into(),
            Refusal::Load { .. } => "see that every import and export has the types of wit/ of this gateway's release".into(),
            Refusal::Start { .. } => {
                "lifecycle.schema is called on a fresh, unconfigured instance: neither it nor the start of the module may trap".into()
            }
            Refusal::Schema { .. } => {
                "lifecycle.schema must return a JSON Schema (draft 2020-12) that stands alone, or an empty text".into()
            }
            Refusal::Config { .. } => "change the configuration first, or upload a version that takes it".into(),
            Refusal::Rehearsal { error, .. } => match error.kind() {
                ErrorKind::Refused(_) => "change that configuration first, or upload a version that takes it".into(),
                ErrorKind::Memory => "raise the limit, or have the plugin take less".into(),
                _ => format!("lifecycle.configure must return within {} ms, with an error text rather than a trap", REHEARSAL.as_millis()),
            },
            Refusal::Storage(error) => error.hint(),
            Refusal::CompiledStorage { .. } => "see to the disk that holds the state folder: is it full or read-only?".into(),
            Refusal::NoPlugin { have, .. } => list(have),
            Refusal::NoVersion { have, .. } => list(&have.iter().map(u32::to_string).collect::<Vec<_>>()),
            Refusal::NoEarlier { .. } => "activate a version by its number, or upload one".into(),
            Refusal::NothingServes { plugin, .. } => format!("upload one: `wharf plugin push {plugin} FILE`"),
            Refusal::Unusable { .. } => "upload the same file again to mend it, or activate another version".into(),
            Refusal::Damaged { .. } => "upload the plugin again; its versions so far are lost".into(),
            Refusal::Invalid(_) | Refusal::Engine(_) | Refusal::Internal(_) => return None,
        })
    }
}

impl From<CatalogError> for DeskError {
    fn from(error: CatalogError) -> DeskError {
        DeskError { kind: error.kind(), message: error.to_string(), hint: error.hint() }
    }
}

pub(crate) fn check_name(name: &str) -> Result<Arc<str>, CatalogError> {
    if plugin_name::is_plugin_name(name) { Ok(name.into()) } else { Err(Refusal::Name(name.chars().take(100).collect()).into()) }
}

/// Something about an attachment that keeps its plugin from serving there.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The plugin's name.
    pub plugin: Arc<str>,
    /// Where it is attached, as the configuration names it.
    pub place: Arc<str>,
    /// As in [`CatalogError::code`]. `nothing-serves`: no version has been uploaded yet, which a changed configuration
    /// may well mean to be so.
    pub code: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Problem {
    pub(crate) fn new(plugin: &Arc<str>, place: &Arc<str>, error: &CatalogError) -> Problem {
        Problem { plugin: plugin.clone(), place: place.clone(), code: error.code(), message: error.to_string(), hint: error.hint() }
    }
}

/// A duration in milliseconds, for answers.
pub(crate) fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e5).round() / 100.0
}
