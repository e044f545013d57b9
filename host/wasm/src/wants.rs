//! What the configuration file wants of plugins: plain values that the gateway fills in.

use crate::limits::{Grants, Quotas};
use crate::ready::Role;
use std::sync::Arc;

/// What the configuration says of a plugin, attached or not.
#[derive(Clone, Debug)]
pub struct Granted {
    /// Its name.
    pub plugin: Arc<str>,
    /// What it may ask of the house.
    pub grants: Arc<Grants>,
    /// What it may use up.
    pub quotas: Arc<Quotas>,
}

/// One attachment, as the configuration has it.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The plugin's name.
    pub plugin: Arc<str>,
    /// For messages: `route "api", auth 1`.
    pub place: Arc<str>,
    /// The question it is to answer there; `None`: all that it answers but `route`, and a new version no fewer than the
    /// one that serves.
    pub role: Option<Role>,
    /// JSON text; `{}` where the configuration says nothing.
    pub config: Arc<str>,
    /// Failure policy `last-good`: the last good version is kept ready beside the one that serves.
    pub last_good: bool,
}

/// All that the configuration says of plugins.
#[derive(Clone, Debug, Default)]
pub struct Wants {
    /// At most one for a plugin; one that has none gets no grants and the default quotas.
    pub granted: Vec<Granted>,
    /// The attachments.
    pub attachments: Vec<Wanted>,
}

impl Wants {
    pub(crate) fn granted(&self, plugin: &str) -> Granted {
        let found = self.granted.iter().find(|granted| &*granted.plugin == plugin);
        found.cloned().unwrap_or_else(|| Granted { plugin: plugin.into(), grants: Arc::default(), quotas: Arc::default() })
    }

    /// The attachments of one plugin.
    pub(crate) fn of<'a>(&'a self, plugin: &'a str) -> impl Iterator<Item = &'a Wanted> {
        self.attachments.iter().filter(move |wanted| &*wanted.plugin == plugin)
    }
}
