//! How much memory there is, how much is used, and what follows: before the kernel ends the process, new connections are
//! refused, those that are there are told to go, and then requests are answered with 503.
//!
//! What is counted is the process's resident memory; the kernel's own, for sockets above all, is not in it. What was freed and
//! not given back is: so, while memory is short, every thread is asked to give it back.

use crate::allocator;
use crate::assemble::Generation;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use wharf_core::metrics::Registry;
use wharf_http::admission::{Pressure, Shortage};

/// Between two looks. A look costs some microseconds.
const LOOK: Duration = Duration::from_millis(20);
/// The same when more than so many percent are used: then there is less time.
const LOOK_OFTEN: (u64, Duration) = (70, Duration::from_millis(5));
/// While memory is short, unused memory is given back so often.
const GIVE_BACK: Duration = Duration::from_millis(100);

/// Looks at the memory from now on, and says how short it is. `give_back` changes whenever the cores are to give unused memory
/// back. Never resolves.
pub async fn watch(
    pressure: Arc<Pressure>,
    give_back: watch::Sender<()>,
    generations: watch::Receiver<Arc<Generation>>,
    metrics: Arc<Registry>,
) {
    let (there, resident) = (there(), Resident::find());
    let used_level = metrics.level("wharf_process_memory_bytes", "memory of the process that is in RAM", &[]);
    let max_level = metrics.level("wharf_memory_max_bytes", "memory that it may use: `node.memory_max`, or what there is", &[]);
    let short_level = metrics.level("wharf_memory_shortage", "0: enough; 1: no more connections; 2: no more requests", &[]);
    let mut shortage = Shortage::None;
    let mut wait = LOOK;
    let mut given_back = Instant::now();
    loop {
        tokio::time::sleep(wait).await;
        let max = generations.borrow().plan.node.memory_max.unwrap_or(there);
        // Where it cannot be told nothing follows from it.
        let used = resident.as_ref().and_then(Resident::used).unwrap_or(0);
        let next = shortage.next(used, max);
        let (percent, often) = LOOK_OFTEN;
        wait = if used / percent >= max / 100 { often } else { LOOK };
        if next != shortage {
            let (used, max) = (used >> 20, max >> 20);
            match next {
                Shortage::None => tracing::info!("memory is no longer short: {used} of {max} MiB are used"),
                Shortage::High => tracing::warn!("memory is short, connections are refused and sent away: {used} of {max} MiB are used"),
                Shortage::Full => {
                    tracing::error!("memory has nearly run out, requests are answered with 503: {used} of {max} MiB are used")
                }
            }
            pressure.set(next);
            shortage = next;
        }
        if shortage != Shortage::None && given_back.elapsed() >= GIVE_BACK {
            given_back = Instant::now();
            give_back.send_replace(());
            allocator::give_back();
        }
        let shown = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        used_level.set(shown(used));
        max_level.set(shown(max));
        short_level.set(next as i64);
    }
}

/// Resident memory of this process.
struct Resident {
    /// Kept open: a look is then one call of the kernel.
    statm: File,
    page: u64,
}

impl Resident {
    fn find() -> Option<Resident> {
        let statm = File::open("/proc/self/statm").ok()?;
        // One of the two is in pages: the quotient is a page, but for what came and went between the two readings.
        let bytes = kib(&std::fs::read_to_string("/proc/self/status").ok()?, "VmSize:")?;
        let about = bytes.checked_div(field(&statm, 0)?)?;
        let above = about.next_power_of_two();
        let page = if above - about > about - above / 2 { above / 2 } else { above };
        Some(Resident { statm, page })
    }

    /// Bytes.
    fn used(&self) -> Option<u64> {
        field(&self.statm, 1)?.checked_mul(self.page)
    }
}

/// A number in a file of numbers.
fn field(file: &File, at: usize) -> Option<u64> {
    let mut room = [0; 128];
    let read = file.read_at(&mut room, 0).ok()?;
    std::str::from_utf8(room.get(..read)?).ok()?.split_ascii_whitespace().nth(at)?.parse().ok()
}

/// Memory that this process could have, bytes: the machine's, or less if its control group has less.
fn there() -> u64 {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| kib(&text, "MemTotal:"));
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = group(&groups, Path::new("/sys/fs/cgroup"));
    machine.into_iter().chain(group).min().unwrap_or(u64::MAX)
}

/// A line of `/proc`, in bytes.
fn kib(text: &str, name: &str) -> Option<u64> {
    let kib: u64 = text.lines().find_map(|line| line.strip_prefix(name))?.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// The least limit of the group and of those that it is in (cgroups(7), both versions). `max` is none.
fn group(groups: &str, mounted: &Path) -> Option<u64> {
    let limits = groups.lines().filter_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        let (root, name) = match controllers {
            "" => (mounted.to_owned(), "memory.max"),
            "memory" => (mounted.join("memory"), "memory.limit_in_bytes"),
            _ => return None,
        };
        let path = Path::new(path.trim_start_matches('/'));
        // In a container the path may be the host's, and the group itself is what is mounted.
        let limit = |folder: &Path| std::fs::read_to_string(root.join(folder).join(name)).ok()?.trim().parse::<u64>().ok();
        path.ancestors().filter_map(limit).min()
    });
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn this_process_uses_memory_and_has_some_left() {
        let resident = Resident::find().unwrap();
        let (used, told) = (resident.used().unwrap(), kib(&fs::read_to_string("/proc/self/status").unwrap(), "VmRSS:").unwrap());
        assert!(used > 1 << 20 && used < there(), "{used} of {}", there());
        // Other tests of this process take and give back in between.
        assert!(used < told * 4 && told < used * 4, "{used}, {told}");
    }

    #[test]
    fn a_line_of_the_kernels_is_read() {
        assert_eq!(kib("MemFree: 1 kB\nMemTotal:       16384 kB\n", "MemTotal:"), Some(16 << 20));
        assert_eq!(kib("MemTotal: much\n", "MemTotal:"), None);
    }

    #[test]
    fn the_least_limit_of_all_groups_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let file = root.path().join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        write("memory.max", "max\n");
        write("a/memory.max", "1000\n");
        write("a/b/memory.max", "2000\n");
        write("memory/c/memory.limit_in_bytes", "500\n");
        assert_eq!(group("0::/a/b\n", root.path()), Some(1000));
        assert_eq!(group("0::/\n", root.path()), None);
        assert_eq!(group("4:cpu:/c\n5:memory:/c\n0::/a/b\n", root.path()), Some(500));
        assert_eq!(group("no group at all", root.path()), None);
    }
}
