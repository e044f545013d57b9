//! Checks plugins and what they are granted.

use super::*;

impl Checker<'_> {
    pub(super) fn plugins(&mut self, named: &Opt<Named<file::Plugin>>) -> Vec<plan::Plugin> {
        let mut plugins = Vec::new();
        for (key, item) in entries(named) {
            let Some(name) = self.name_by(values::plugin_name, key, "plugin") else { continue };
            let Some(plugin) = item.get() else { continue };
            let file = plugin.file.as_ref().and_then(|file| self.component(file));
            let grants = group(&plugin.grants);
            let kv = of(grants, |g| &g.kv).as_ref().and_then(Item::get).map(|kv| plan::Kv {
                namespace: self.named(&kv.namespace, "namespace").unwrap_or_else(|| name.clone()),
                bytes_max: self.size(&kv.bytes_max, 64 * MIB, KIB, 1024 * GIB, "bytes_max"),
                keys_max: self.number_u64(&kv.keys_max, 100_000, 1, 1_000_000_000, "keys_max"),
            });
            let http = of(grants, |g| &g.http).as_ref().and_then(Item::get).and_then(|http| http.services.get());
            let http_services =
                http.map(Vec::as_slice).unwrap_or_default().iter().filter_map(|service| self.service(service, item.place)).collect();
            plugins.push(plan::Plugin { name, file, kv, http_services, limits: self.plugin_limits(group(&plugin.limits)) });
        }
        plugins
    }

    fn component(&mut self, file: &Item<String>) -> Option<PathBuf> {
        let path = self.path(file)?;
        if !path.is_file() {
            let hint = "relative paths begin at the folder of this file; leave `file` out to upload with `wharf plugin push`";
            self.say(file.place, format!("there is no file {}", path.display()), hint);
        }
        Some(path)
    }

    fn plugin_limits(&mut self, limits: Option<&file::PluginLimits>) -> plan::PluginLimits {
        let faults = limits.and_then(|limits| group(&limits.faults));
        plan::PluginLimits {
            deadline: self.time(of(limits, |l| &l.deadline), 50 * MS, MS, 60 * SECOND, "deadline"),
            memory_bytes_max: self.size(of(limits, |l| &l.memory_bytes_max), 32 * MIB, 64 * KIB, 256 * MIB, "memory_bytes_max"),
            concurrency_max: self.number(of(limits, |l| &l.concurrency_max), 256, 1, 10_000, "concurrency_max"),
            log_lines_per_second: self.number(of(limits, |l| &l.log_lines_per_second), 100, 0, 100_000, "log_lines_per_second"),
            host_calls_max: self.number(of(limits, |l| &l.host_calls_max), 1000, 1, 1_000_000, "host_calls_max"),
            recycle_after_calls: self.number(of(limits, |l| &l.recycle_after_calls), 10_000, 1, 1_000_000_000, "recycle_after_calls"),
            fresh_per_call: limits.and_then(|limits| given(&limits.fresh_per_call)).copied().unwrap_or(false),
            faults_max: self.number(of(faults, |f| &f.max), 5, 1, 100_000, "max"),
            faults_within: self.time(of(faults, |f| &f.within), 10 * SECOND, SECOND, HOUR, "within"),
        }
    }
}
