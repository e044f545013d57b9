//! What the process itself takes of the processor, read from `/proc` once a second, and whether its metrics have become too many.
//! (Its memory is `memory.rs`'s business.)

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use wharf_core::metrics::Registry;

/// Milliseconds of a tick in `/proc`: the kernel shows a hundredth of a second to everybody, whatever it counts in itself.
const TICK_MS: u64 = 10;

/// Shows it for as long as it is polled; `cores` threads serve. Never resolves.
pub async fn attend(metrics: Arc<Registry>, cores: usize) {
    let time = metrics.count("wharf_process_cpu_milliseconds_total", "processor time of all threads of the process", &[]);
    let threads = metrics.level("wharf_cores", "threads that serve requests, each on a core of its own", &[]);
    threads.set(cores as i64);
    let about = [("version", env!("CARGO_PKG_VERSION")), ("arch", std::env::consts::ARCH), ("os", std::env::consts::OS)];
    let build = metrics.level("wharf_build_info", "1; its labels say which build this is.", &about);
    build.set(1);
    let mut each = tokio::time::interval(Duration::from_secs(1));
    let mut told: HashSet<&str> = HashSet::new();
    loop {
        each.tick().await;
        for (name, over) in metrics.over() {
            if told.insert(name) {
                tracing::warn!(
                    metric = name,
                    over,
                    "a metric has more series than are told apart; the rest counts as `other` (fewer routes or endpoints have figures of their own)"
                );
            }
        }
        if let Some(ticks) = std::fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(ticks) {
            time.add_shared((ticks * TICK_MS).saturating_sub(time.get()));
        }
    }
}

/// Ticks in user and system mode, of `/proc/self/stat`; the name in it may hold anything.
fn ticks(text: &str) -> Option<u64> {
    let mut behind = text.rsplit_once(") ")?.1.split(' ').skip(11);
    Some(behind.next()?.parse::<u64>().ok()? + behind.next()?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_read_whatever_the_process_is_called() {
        let stat = "7 (a) S 9 (b) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15";
        assert_eq!(ticks(stat), Some(11 + 12));
        assert_eq!(ticks(""), None);
    }
}
