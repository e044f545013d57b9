//! Counters that cost a store, summed when somebody looks.
//!
//! Each core has its own series of a metric and is its only writer, so counting is a plain load and store; the reader
//! adds the cores up. What a series has counted stays when its holder lets it go (its route was changed, its core served
//! the last of an old generation), so a counter never goes back while its labels are known.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// A count with one writer.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds `n`. Only the series' own core calls this.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Adds `n` where several threads may count.
    pub fn add_shared(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A level that goes up and down.
#[derive(Debug, Default)]
pub struct Level(AtomicI64);

impl Level {
    /// Adds `n`, which may be negative.
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// Sets it.
    pub fn set(&self, n: i64) {
        self.0.store(n, Relaxed);
    }

    /// The present level.
    pub fn get(&self) -> i64 {
        self.0.load(Relaxed)
    }
}

/// Upper bounds of [`Times`]' buckets, microseconds: two for each doubling would be finer than anybody reads.
pub const TIME_BOUNDS_US: [u64; 16] =
    [50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 10_000_000];

/// Nanoseconds in 64 bits, saturating at 584 years: [`Duration::as_nanos`] calculates in 128, on every request.
pub const fn nanos(time: Duration) -> u64 {
    time.as_secs().saturating_mul(1_000_000_000).saturating_add(time.subsec_nanos() as u64)
}

/// Durations with one writer.
#[derive(Debug, Default)]
pub struct Times {
    buckets: [Count; TIME_BOUNDS_US.len() + 1],
    sum_ns: Count,
    /// The last traced one of each bucket; made when there is one.
    exemplars: OnceLock<Box<Mutex<Exemplars>>>,
}

type Exemplars = [Option<Exemplar>; TIME_BOUNDS_US.len() + 1];

/// One of those that were counted, which a trace tells more about.
#[derive(Clone, Copy, Debug)]
struct Exemplar {
    trace: u128,
    ns: u64,
    time_ms: u64,
}

impl Times {
    /// Counts one duration.
    pub fn record(&self, time: Duration) {
        self.record_ns(nanos(time));
    }

    /// Remembers that a trace tells more about a duration which was counted, at `time_ms` since 1970.
    pub fn exemplify(&self, time: Duration, trace: u128, time_ms: u64) {
        let ns = nanos(time);
        let at = bucket_of(ns);
        // Contended only while somebody looks; an example less is no loss.
        if let Ok(mut exemplars) = self.exemplars.get_or_init(Box::default).try_lock()
            && let Some(place) = exemplars.get_mut(at)
        {
            *place = Some(Exemplar { trace, ns, time_ms });
        }
    }

    fn exemplars(&self) -> Exemplars {
        self.exemplars.get().map(|exemplars| *held(exemplars)).unwrap_or_default()
    }

    /// Counts one duration in nanoseconds.
    pub fn record_ns(&self, ns: u64) {
        if let Some(bucket) = self.buckets.get(bucket_of(ns)) {
            bucket.add(1);
        }
        self.sum_ns.add(ns);
    }

    /// How many, and their sum.
    pub fn total(&self) -> (u64, Duration) {
        (self.buckets.iter().map(Count::get).sum(), Duration::from_nanos(self.sum_ns.get()))
    }
}

#[inline]
fn bucket_of(ns: u64) -> usize {
    let us = ns / 1000;
    TIME_BOUNDS_US.partition_point(|&bound| bound < us)
}

/// Most series of a counter or gauge. What comes later shares those whose first label is `other`.
pub const SERIES_MAX: usize = 16 * 1024;

/// Most series of a histogram, which is shown in some twenty lines.
pub const HISTOGRAMS_MAX: usize = 4096;

/// Series beyond the most that are told apart by their other labels; what comes after these is `other` in all of them.
const OTHERS_MAX: usize = 64;

#[derive(Debug)]
enum Series {
    Count(Arc<Count>),
    Level(Arc<Level>),
    Times(Arc<Times>),
}

#[derive(Debug, Default)]
struct Row {
    live: Vec<Series>,
    /// Looked through for those that are over when it has so many: entering stays cheap, however many share it.
    fold_at: usize,
    past: Past,
    /// What it has counted is that of others, too: it stays.
    heir: bool,
}

/// What was counted by series that nobody holds any more.
#[derive(Clone, Copy, Debug, Default)]
struct Past {
    count: u64,
    buckets: [u64; TIME_BOUNDS_US.len() + 1],
    sum_ns: u64,
}

#[derive(Debug)]
struct Family {
    help: &'static str,
    kind: &'static str,
    rows: BTreeMap<String, Row>,
    sweep_at: usize,
    /// Series that were entered as `other`.
    over: u64,
}

/// All metrics of the process. Made once, handed to every room.
#[derive(Debug, Default)]
pub struct Registry {
    /// Each with a lock of its own: who enters a series waits for the showing of one family, not of all.
    families: Mutex<BTreeMap<&'static str, Arc<Mutex<Family>>>>,
}

impl Registry {
    /// A series of a counter. Name in Prometheus' style, ending in `_total`.
    pub fn count(&self, name: &'static str, help: &'static str, labels: &[(&str, &str)]) -> Arc<Count> {
        let series = Arc::new(Count::default());
        self.enter(name, help, "counter", labels, Series::Count(series.clone()));
        series
    }

    /// A series of a gauge. Gauges with equal labels are added up.
    pub fn level(&self, name: &'static str, help: &'static str, labels: &[(&str, &str)]) -> Arc<Level> {
        let series = Arc::new(Level::default());
        self.enter(name, help, "gauge", labels, Series::Level(series.clone()));
        series
    }

    /// A series of a histogram of durations. Name ending in `_seconds`.
    pub fn times(&self, name: &'static str, help: &'static str, labels: &[(&str, &str)]) -> Arc<Times> {
        let series = Arc::new(Times::default());
        self.enter(name, help, "histogram", labels, Series::Times(series.clone()));
        series
    }

    fn family(&self, name: &'static str) -> Option<Arc<Mutex<Family>>> {
        held(&self.families).get(name).cloned()
    }

    /// All of them. Copied: whoever waits for one of them must not hold up who enters a series of another.
    fn all(&self) -> Vec<(&'static str, Arc<Mutex<Family>>)> {
        held(&self.families).iter().map(|(&name, family)| (name, family.clone())).collect()
    }

    fn enter(&self, name: &'static str, help: &'static str, kind: &'static str, labels: &[(&str, &str)], series: Series) {
        let made = || Arc::new(Mutex::new(Family { help, kind, rows: BTreeMap::new(), sweep_at: 32, over: 0 }));
        let family = held(&self.families).entry(name).or_insert_with(made).clone();
        let mut key = render(labels);
        let family = &mut *held(&family);
        // Rows that nobody writes are those of routes, endpoints and plugin versions that are gone. Looked for only when
        // the family has doubled: entering stays cheap, and who comes back soon goes on where they were.
        if family.rows.len() >= family.sweep_at {
            family.rows.retain(|_, row| {
                row.fold();
                row.heir || !row.live.is_empty()
            });
            family.sweep_at = 2 * family.rows.len() + 16;
        }
        let series_max = if kind == "histogram" { HISTOGRAMS_MAX } else { SERIES_MAX };
        if family.rows.len() >= series_max && !family.rows.contains_key(&key) {
            family.over += 1;
            let other = |apart: usize| {
                labels.iter().enumerate().map(move |(at, &(label, value))| (label, if at < apart { "other" } else { value }))
            };
            key = render(&other(1).collect::<Vec<_>>());
            if family.rows.len() >= series_max + OTHERS_MAX && !family.rows.contains_key(&key) {
                key = render(&other(labels.len()).collect::<Vec<_>>());
            }
        }
        let row = family.rows.entry(key).or_default();
        if row.live.len() >= row.fold_at {
            row.fold();
            row.fold_at = 2 * row.live.len();
        }
        row.live.push(series);
    }

    /// The families with more series than are told apart, and how many were entered as `other` so far.
    pub fn over(&self) -> Vec<(&'static str, u64)> {
        self.all().into_iter().map(|(name, family)| (name, held(&family).over)).filter(|&(_, over)| over > 0).collect()
    }

    /// Moves what a counter has counted under some labels to others, for good, as its holder is about to let it go: what
    /// will not come back does not need a series of its own.
    pub fn retire(&self, name: &'static str, from: &[(&str, &str)], to: &[(&str, &str)], count: &Arc<Count>) {
        self.inherit(name, from, to, |series| matches!(series, Series::Count(own) if Arc::ptr_eq(own, count)));
    }

    /// The same for a histogram.
    pub fn retire_times(&self, name: &'static str, from: &[(&str, &str)], to: &[(&str, &str)], times: &Arc<Times>) {
        self.inherit(name, from, to, |series| matches!(series, Series::Times(own) if Arc::ptr_eq(own, times)));
    }

    fn inherit(&self, name: &'static str, from: &[(&str, &str)], to: &[(&str, &str)], is_it: impl Fn(&Series) -> bool) {
        let Some(family) = self.family(name) else { return };
        let mut family = held(&family);
        // Where there was no room for its labels it counts as one of the others, and goes on doing so.
        let Some(row) = family.rows.get_mut(&render(from)) else { return };
        let Some(at) = row.live.iter().position(is_it) else { return };
        let series = row.live.swap_remove(at);
        let heir = family.rows.entry(render(to)).or_default();
        heir.past.add(&series);
        heir.heir = true;
    }

    /// Everything in Prometheus' text format 0.0.4.
    pub fn render(&self) -> String {
        self.render_as(Format::Prometheus)
    }

    /// Everything in OpenMetrics' text format 1.0.0, with the traces of single requests as exemplars.
    pub fn render_open(&self) -> String {
        self.render_as(Format::OpenMetrics)
    }

    fn render_as(&self, format: Format) -> String {
        let mut out = String::with_capacity(16 * 1024);
        for (name, family) in self.all() {
            let family = &mut *held(&family);
            // A counter's family is its name without the end that its series have.
            let of_family = match format {
                Format::OpenMetrics if family.kind == "counter" => name.strip_suffix("_total").unwrap_or(name),
                _ => name,
            };
            let _ = writeln!(out, "# HELP {of_family} {}\n# TYPE {of_family} {}", family.help, family.kind);
            for (labels, row) in &mut family.rows {
                row.fold();
                if row.live.is_empty() && row.past.is_nothing() {
                    continue;
                }
                row.render(&mut out, name, labels, family.kind, format);
            }
        }
        if format == Format::OpenMetrics {
            out.push_str("# EOF\n");
        }
        out
    }
}

fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How everything is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Prometheus,
    OpenMetrics,
}

impl Past {
    fn add(&mut self, series: &Series) {
        match series {
            Series::Count(count) => self.count += count.get(),
            // A level that nobody holds is none.
            Series::Level(_) => {}
            Series::Times(times) => {
                for (sum, bucket) in self.buckets.iter_mut().zip(&times.buckets) {
                    *sum += bucket.get();
                }
                self.sum_ns += times.sum_ns.get();
            }
        }
    }

    fn is_nothing(&self) -> bool {
        self.count == 0 && self.sum_ns == 0
    }
}

impl Row {
    /// The newest of all cores.
    fn exemplars(&self) -> Exemplars {
        let mut newest = Exemplars::default();
        for series in &self.live {
            let Series::Times(times) = series else { continue };
            for (have, found) in newest.iter_mut().zip(times.exemplars()) {
                if found.is_some_and(|found| have.is_none_or(|have| have.time_ms < found.time_ms)) {
                    *have = found;
                }
            }
        }
        newest
    }

    /// Keeps what is over. Whoever held a series has let it go after the last count.
    fn fold(&mut self) {
        let Row { live, past, .. } = self;
        live.retain_mut(|series| {
            let over = match series {
                Series::Count(count) => Arc::get_mut(count).is_some(),
                Series::Level(level) => Arc::get_mut(level).is_some(),
                Series::Times(times) => Arc::get_mut(times).is_some(),
            };
            if over {
                past.add(series);
            }
            !over
        });
    }

    fn render(&self, out: &mut String, name: &str, labels: &str, kind: &str, format: Format) {
        let braces = |inner: &str| if inner.is_empty() { String::new() } else { format!("{{{inner}}}") };
        let mut all = self.past;
        self.live.iter().for_each(|series| all.add(series));
        let Past { count, buckets, sum_ns } = all;
        if kind != "histogram" {
            let level = |series: &Series| if let Series::Level(level) = series { i128::from(level.get()) } else { 0 };
            let sum = i128::from(count) + self.live.iter().map(level).sum::<i128>();
            let _ = writeln!(out, "{name}{} {sum}", braces(labels));
            return;
        }
        let comma = if labels.is_empty() { "" } else { "," };
        let mut running = 0;
        let examples = if format == Format::OpenMetrics { self.exemplars() } else { Exemplars::default() };
        for (at, (count, example)) in buckets.iter().zip(examples).enumerate() {
            running += count;
            let _ = write!(out, "{name}_bucket{{{labels}{comma}le=\"");
            let _ = match TIME_BOUNDS_US.get(at) {
                // OpenMetrics writes every bound as a number with a point.
                Some(&bound) if format == Format::OpenMetrics => write!(out, "{:?}", bound as f64 / 1e6),
                Some(&bound) => write!(out, "{}", bound as f64 / 1e6),
                None => write!(out, "+Inf"),
            };
            let _ = write!(out, "\"}} {running}");
            if let Some(Exemplar { trace, ns, time_ms }) = example {
                let (value, time) = (ns as f64 / 1e9, time_ms as f64 / 1e3);
                let _ = write!(out, " # {{trace_id=\"{trace:032x}\"}} {value} {time:.3}");
            }
            out.push('\n');
        }
        let _ = writeln!(out, "{name}_sum{} {}", braces(labels), sum_ns as f64 / 1e9);
        let _ = writeln!(out, "{name}_count{} {running}", braces(labels));
    }
}

fn render(labels: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (at, (name, value)) in labels.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        out.push_str(name);
        out.push_str("=\"");
        for letter in value.chars() {
            match letter {
                '\\' => out.push_str("\\\\"),
                '"' => out.push_str("\\\""),
                '\n' => out.push_str("\\n"),
                other => out.push(other),
            }
        }
        out.push('"');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cores_are_added_up_and_labels_are_escaped() {
        let registry = Registry::default();
        let one = registry.count("x_total", "help", &[("route", "a\"b")]);
        let two = registry.count("x_total", "help", &[("route", "a\"b")]);
        one.add(2);
        two.add(3);
        assert!(registry.render().contains("x_total{route=\"a\\\"b\"} 5\n"));
    }

    #[test]
    fn a_counter_goes_on_when_its_holder_is_another() {
        let registry = Registry::default();
        let make = || (registry.count("x_total", "help", &[("route", "a")]), registry.times("t_seconds", "help", &[("route", "a")]));
        for sum in 1..=100 {
            // The new one is there before the old one goes, as at a reload, or after.
            let (old, new) = (make(), make());
            old.0.add(1);
            old.1.record(Duration::from_millis(1));
            drop(old);
            let text = registry.render();
            assert!(text.contains(&format!("x_total{{route=\"a\"}} {sum}\n")), "{text}");
            assert!(text.contains(&format!("t_seconds_count{{route=\"a\"}} {sum}\n")), "{text}");
            drop(new);
        }
        assert!(registry.families.lock().unwrap()["x_total"].lock().unwrap().rows.values().all(|row| row.live.len() < 4));
    }

    #[test]
    fn what_was_counted_for_those_who_are_gone_stays_in_the_sum() {
        let registry = Registry::default();
        for version in ["1", "2"] {
            let count = registry.count("v_total", "help", &[("version", version)]);
            count.add(3);
            registry.retire("v_total", &[("version", version)], &[("version", "gone")], &count);
            // Late, and lost: it was told that it is over.
            count.add(1);
        }
        let text = registry.render();
        assert!(text.ends_with("counter\nv_total{version=\"gone\"} 6\n"), "{text}");
    }

    #[test]
    fn a_level_that_nobody_holds_is_not_shown() {
        let registry = Registry::default();
        let level = registry.level("l", "help", &[]);
        level.set(3);
        assert!(registry.render().contains("l 3\n"));
        drop(level);
        assert!(!registry.render().contains("l 3\n"));
    }

    #[test]
    fn rows_that_nobody_writes_any_more_do_not_pile_up() {
        let registry = Registry::default();
        for version in 0..10_000 {
            registry.count("v_total", "help", &[("version", &version.to_string())]).add(1);
        }
        let last = registry.count("v_total", "help", &[("version", "last")]);
        last.add(7);
        assert!(registry.families.lock().unwrap()["v_total"].lock().unwrap().rows.len() < 100);
        assert!(registry.render().contains("v_total{version=\"last\"} 7\n"));
    }

    #[test]
    fn who_comes_too_late_for_a_series_of_its_own_is_told_apart_by_the_rest_and_costs_no_more() {
        let registry = Registry::default();
        let begun = std::time::Instant::now();
        let enter = |route: usize, class| registry.count("x_total", "help", &[("route", &route.to_string()), ("class", class)]);
        let held: Vec<_> = (0..100_000).flat_map(|route| [enter(route, "2xx"), enter(route, "5xx")]).collect();
        held.iter().for_each(|count| count.add(1));
        let text = registry.render();
        let apart = SERIES_MAX / 2;
        assert!(text.contains(&format!("x_total{{route=\"{}\",class=\"5xx\"}} 1\n", apart - 1)));
        for class in ["2xx", "5xx"] {
            let others = format!("x_total{{route=\"other\",class=\"{class}\"}} {}\n", 100_000 - apart);
            assert!(text.contains(&others), "{others}");
        }
        assert_eq!(registry.over(), [("x_total", 200_000 - SERIES_MAX as u64)]);
        // Quadratic it would be hours; no more than a guard.
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    }

    #[test]
    fn a_histogram_counts_into_growing_buckets() {
        let registry = Registry::default();
        let times = registry.times("t_seconds", "help", &[]);
        times.record(Duration::from_micros(50));
        times.record(Duration::from_micros(51));
        times.record(Duration::from_secs(100));
        let text = registry.render();
        assert!(text.contains("t_seconds_bucket{le=\"0.00005\"} 1\n"), "{text}");
        assert!(text.contains("t_seconds_bucket{le=\"0.0001\"} 2\n"));
        assert!(text.contains("t_seconds_bucket{le=\"+Inf\"} 3\n"));
        assert!(text.contains("t_seconds_count 3\n"));
    }

    #[test]
    fn openmetrics_has_the_trace_of_the_newest_request_in_each_bucket() {
        let registry = Registry::default();
        registry.count("x_total", "help", &[]).add(1);
        let (one, two) = (registry.times("t_seconds", "help", &[]), registry.times("t_seconds", "help", &[]));
        for (times, trace, at) in [(&one, 1, 1_000), (&two, 2, 3_000), (&one, 3, 2_000)] {
            times.record(Duration::from_micros(700));
            times.exemplify(Duration::from_micros(700), trace, at);
        }
        let text = registry.render_open();
        let line = "t_seconds_bucket{le=\"0.001\"} 3 # {trace_id=\"00000000000000000000000000000002\"} 0.0007 3.000\n";
        assert!(text.contains(line), "{text}");
        assert!(text.contains("# TYPE x counter\nx_total 1\n"), "{text}");
        assert!(text.contains("le=\"1.0\"} 3\n") && text.ends_with("# EOF\n"), "{text}");
        assert!(!registry.render().contains("trace_id"));
    }
}
