//! What an operator sees of the catalog: lists, gauges, one version in full. Nothing here changes anything, except that
//! looking at a stored component may find it damaged.

use super::*;
use crate::answers::{Inspected, Living, PluginRow, VersionRow};

impl Catalog {
    /// Which versions are held by somebody. Drained versions are in here until their last holder is gone.
    pub fn living(&self) -> Vec<Living> {
        let mut living: BTreeMap<(Arc<str>, u32), usize> = BTreeMap::new();
        let state = self.lock();
        for ready in state.living.iter().filter_map(Weak::upgrade) {
            *living.entry((ready.setup.plugin.clone(), ready.setup.version)).or_default() += 1;
        }
        let what = |plugin: &str, version| match state.plugins.get(plugin).and_then(|known| known.index.history.serving()) {
            Some(serving) if serving == version => "serving",
            _ if state.spare.values().any(|spare| *spare.setup.plugin == *plugin && spare.setup.version == version) => "last-good",
            _ => "draining",
        };
        let row = |((plugin, version), ready): ((Arc<str>, u32), usize)| Living {
            plugin: plugin.to_string(),
            version,
            state: what(&plugin, version),
            ready,
        };
        living.into_iter().map(row).collect()
    }

    /// Brings the gauges up to date; the gateway calls it before metrics are read.
    pub fn show(&self) {
        let living = self.living();
        let mut state = self.lock();
        let plugins: Vec<_> = state.plugins.iter().map(|(plugin, known)| (plugin.clone(), known.index.history.serving())).collect();
        for (plugin, serving) in plugins {
            let draining = living
                .iter()
                .filter(|living| *living.plugin == *plugin && living.state == "draining")
                .map(|living| living.ready as i64)
                .sum();
            let shown = [
                ("wharf_plugin_version", "The version of the plugin that serves; 0: none.", i64::from(serving.unwrap_or(0))),
                (
                    "wharf_plugin_draining",
                    "Old versions of the plugin (times configurations) that calls or generations still hold.",
                    draining,
                ),
            ];
            for (name, help, value) in shown {
                let level = state
                    .levels
                    .entry((plugin.clone(), name))
                    .or_insert_with(|| self.parts.metrics.level(name, help, &[("plugin", &plugin)]));
                level.set(value);
            }
        }
    }

    pub(super) fn count(&self, name: &'static str, help: &'static str, label: (&'static str, &'static str)) {
        let mut state = self.lock();
        let count = state.counts.entry((label.1.into(), name)).or_insert_with(|| self.parts.metrics.count(name, help, &[label]));
        count.add_shared(1);
    }

    /// All plugins, in the order of their names.
    pub fn list(&self) -> Vec<PluginRow> {
        let state = self.lock();
        let row = |(plugin, known): (&Arc<str>, &Plugin)| PluginRow {
            plugin: plugin.to_string(),
            serving: known.index.history.serving(),
            versions: known.index.versions.len(),
            roles: known
                .index
                .history
                .serving()
                .and_then(|version| known.index.version(version))
                .map(|stored| stored.roles.clone())
                .unwrap_or_default(),
            attachments: state.wants.of(plugin).map(|wanted| wanted.place.to_string()).collect(),
            ready: state.wants.of(plugin).all(|wanted| state.ready.contains_key(&(plugin.clone(), wanted.config.clone()))),
            damage: known.damage.clone(),
        };
        state.plugins.iter().map(row).collect()
    }

    /// The versions of one plugin, the newest first.
    ///
    /// # Errors
    /// There is no such plugin.
    pub fn versions(&self, name: &str) -> Result<Vec<VersionRow>, CatalogError> {
        let plugin = self.known(name)?;
        let state = self.lock();
        let Some(known) = state.plugins.get(&plugin) else { return Ok(Vec::new()) };
        Ok(known.index.versions.iter().rev().map(|stored| known.row(stored)).collect())
    }

    /// Everything about one version. Reads its stored component and says if it is damaged.
    ///
    /// # Errors
    /// There is no such version.
    pub async fn inspect(self: &Arc<Self>, name: &str, version: u32) -> Result<Inspected, CatalogError> {
        let plugin = self.known(name)?;
        let stored = self.stored(&plugin, version)?;
        if let Some(digest) = digest_of(&stored.digest) {
            let me = self.clone();
            let damage = blocking(move || me.disk.read_component(&digest).err()).await?;
            let mut state = self.lock();
            if let (Some(why), Some(known)) = (damage, state.plugins.get_mut(&plugin)) {
                known.unusable.insert(version, why);
            }
        }
        let state = self.lock();
        let Some(known) = state.plugins.get(&plugin) else {
            return Err(Refusal::NoPlugin { plugin: name.into(), have: Vec::new() }.into());
        };
        let schema = match stored.schema.trim() {
            "" => None,
            text => serde_json::from_str(text).ok(),
        };
        Ok(Inspected { row: known.row(&stored), imports: stored.imports, wasi: stored.wasi, schema })
    }
}

impl Plugin {
    pub(super) fn row(&self, stored: &Stored) -> VersionRow {
        let (history, version) = (&self.index.history, stored.version);
        let damage = self.unusable.get(&version).cloned();
        let state = if history.serving() == Some(version) {
            "serving"
        } else if damage.is_some() {
            "unusable"
        } else if history.has_tripped(version) {
            "faulty"
        } else if history.has_served(version) {
            "earlier"
        } else {
            "stored"
        };
        VersionRow {
            version,
            state,
            digest: stored.digest.clone(),
            bytes: stored.bytes,
            roles: stored.roles.clone(),
            note: stored.note.clone(),
            pushed_ms: stored.pushed_ms,
            damage,
        }
    }
}
