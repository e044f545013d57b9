//! Names, units and labels of this room's metrics. Labels are bounded: plugin and version by configuration, the rest by
//! the words in this room's types.
//!
//! | metric | labels | |
//! | --- | --- | --- |
//! | `wharf_plugin_calls_total` | plugin, version, question, outcome | `outcome`: `ok`, or a word of [`Broken::word`] |
//! | `wharf_plugin_call_seconds` | plugin, version | whole questions, waits included |
//! | `wharf_plugin_wait_seconds` | plugin, version | of those that waited in host calls: for how long |
//! | `wharf_plugin_host_calls_total` | plugin, version | |
//! | `wharf_plugin_moved_total` | plugin, version | questions that left their core |
//! | `wharf_plugin_banished_total` | plugin, version | times it was sent to the guest thread for a while, 1 to 32 s |
//! | `wharf_plugin_last_good_total` | plugin, version | questions asked again of the last good version |
//! | `wharf_plugin_log_dropped_total` | plugin, version | lines over the quota |
//! | `wharf_plugin_memory_bytes` | plugin, version | linear memory of its live instances |
//! | `wharf_plugin_custom_total` | plugin, name | the plugin's own |
//! | `wharf_plugin_instances` | plugin, version | live ones |
//! | `wharf_wasm_ticks_late_total` | | ticks that came late while a guest was on a thread |

use crate::call::Name;
use crate::error::Broken;
use crate::instance::Tally;
use crate::ready::Terms;
use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;
use wharf_core::metrics::{Count, Level, Registry, Times};

const CALLS: (&str, &str) = ("wharf_plugin_calls_total", "Questions put to plugins.");
const SECONDS: (&str, &str) = ("wharf_plugin_call_seconds", "Time of questions put to plugins, host calls included.");
const WAITS: (&str, &str) = ("wharf_plugin_wait_seconds", "Time that questions waited in host calls, where they did.");
const HOST_CALLS: (&str, &str) = ("wharf_plugin_host_calls_total", "Calls of plugins to the host.");
const MOVED: (&str, &str) = ("wharf_plugin_moved_total", "Questions that computed for too long and left their core.");
const BANISHED: (&str, &str) = ("wharf_plugin_banished_total", "Times that a version was sent to the guest thread for a while.");
const FELL_BACK: (&str, &str) = ("wharf_plugin_last_good_total", "Questions asked again of the last good version.");
const DROPPED: (&str, &str) = ("wharf_plugin_log_dropped_total", "Log lines of plugins over their quota.");

/// Counters of one version on one core. Series appear when they first count.
pub(crate) struct VersionMetrics {
    terms: Arc<Terms>,
    ok: [OnceCell<Kept>; Name::COUNT],
    broken: RefCell<HashMap<(usize, &'static str), Kept>>,
    times: Arc<Times>,
    host_calls: Kept,
    waits: OnceCell<Arc<Times>>,
    others: RefCell<HashMap<&'static str, Kept>>,
}

impl VersionMetrics {
    pub(crate) fn new(terms: &Arc<Terms>) -> VersionMetrics {
        let labels = labels(terms);
        let metrics = &terms.metrics;
        VersionMetrics {
            terms: terms.clone(),
            ok: Default::default(),
            broken: RefCell::default(),
            times: metrics.times(SECONDS.0, SECONDS.1, &labels),
            host_calls: Kept::new(metrics, HOST_CALLS, &labels),
            waits: OnceCell::new(),
            others: RefCell::default(),
        }
    }

    /// One question is over; it took so many nanoseconds.
    pub(crate) fn record(&self, name: Name, broken: Option<&Broken>, tally: &Tally, took: u64) {
        match broken {
            None => {
                if let Some(ok) = self.ok.get(name as usize) {
                    ok.get_or_init(|| self.calls(name, "ok")).count.add(1);
                }
            }
            Some(broken) => {
                let mut series = self.broken.borrow_mut();
                let kind = series.entry((name as usize, broken.word())).or_insert_with(|| {
                    // Once for each version and kind on each core: a version that fails at every request says so in its counts.
                    tracing::warn!(question = name.as_str(), "{}; more of this kind are only counted", broken.describe(&self.terms.setup));
                    self.calls(name, broken.word())
                });
                kind.count.add(1);
            }
        }
        self.times.record_ns(took);
        if tally.host_calls > 0 {
            self.host_calls.count.add(tally.host_calls.into());
        }
        if !tally.waited.is_zero() {
            let make = || self.terms.metrics.times(WAITS.0, WAITS.1, &labels(&self.terms));
            self.waits.get_or_init(make).record(tally.waited);
        }
        if tally.lines_dropped > 0 {
            self.other(DROPPED, tally.lines_dropped.into());
        }
    }

    pub(crate) fn moved(&self) {
        self.other(MOVED, 1);
    }

    pub(crate) fn banished(&self) {
        self.other(BANISHED, 1);
    }

    pub(crate) fn fell_back(&self) {
        self.other(FELL_BACK, 1);
    }

    fn other(&self, name: (&'static str, &'static str), n: u64) {
        let mut others = self.others.borrow_mut();
        others.entry(name.0).or_insert_with(|| Kept::new(&self.terms.metrics, name, &labels(&self.terms))).count.add(n);
    }

    fn calls(&self, name: Name, outcome: &'static str) -> Kept {
        let [plugin, version] = labels(&self.terms);
        Kept::new(&self.terms.metrics, CALLS, &[plugin, version, ("question", name.as_str()), ("outcome", outcome)])
    }
}

impl Drop for VersionMetrics {
    fn drop(&mut self) {
        let (own, gone) = (labels(&self.terms), gone(&self.terms.setup.plugin));
        self.terms.metrics.retire_times(SECONDS.0, &own, &gone, &self.times);
        if let Some(waits) = self.waits.get() {
            self.terms.metrics.retire_times(WAITS.0, &own, &gone, waits);
        }
    }
}

/// Live instances of a version, and their memory.
pub(crate) fn levels(metrics: &Registry, plugin: &str, version: &str) -> (Arc<Level>, Arc<Level>) {
    let labels = [("plugin", plugin), ("version", version)];
    let instances = metrics.level("wharf_plugin_instances", "Live instances of plugins.", &labels);
    (instances, metrics.level("wharf_plugin_memory_bytes", "Linear memory of plugins' live instances.", &labels))
}

fn labels(terms: &Terms) -> [(&'static str, &str); 2] {
    [("plugin", &terms.setup.plugin), ("version", &terms.version)]
}

const GONE: &str = "gone";

/// Where the counts of versions go that no core serves any more: one series for all of them, so that a thousand swaps do
/// not leave a thousand behind, and sums over all versions never fall.
fn gone(plugin: &str) -> [(&'static str, &str); 2] {
    [("plugin", plugin), ("version", GONE)]
}

/// A counter whose value stays in the registry when it goes.
struct Kept {
    count: Arc<Count>,
    metrics: Arc<Registry>,
    name: &'static str,
    labels: Vec<(&'static str, Box<str>)>,
}

impl Kept {
    fn new(metrics: &Arc<Registry>, (name, help): (&'static str, &'static str), labels: &[(&'static str, &str)]) -> Kept {
        let count = metrics.count(name, help, labels);
        Kept { count, metrics: metrics.clone(), name, labels: labels.iter().map(|&(label, value)| (label, value.into())).collect() }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let own: Vec<(&str, &str)> = self.labels.iter().map(|(label, value)| (*label, &**value)).collect();
        let gone: Vec<_> = own.iter().map(|&(label, value)| (label, if label == "version" { GONE } else { value })).collect();
        self.metrics.retire(self.name, &own, &gone, &self.count);
    }
}

/// A counter of a plugin's own. Several cores count in it.
pub(crate) fn custom(metrics: &Registry, plugin: &str, name: &str) -> Arc<Count> {
    metrics.count("wharf_plugin_custom_total", "Counted by plugins themselves.", &[("plugin", plugin), ("name", name)])
}

pub(crate) fn late_ticks(metrics: &Registry) -> Arc<Count> {
    metrics.count("wharf_wasm_ticks_late_total", "Ticks that came late while a guest was on a thread.", &[])
}
