//! The gateway's own log: standard error, text or JSON, one level for all or one for each room.
//!
//! A thread of its own writes it: who reads standard error may be slow, or stopped, and no request waits for that. What
//! does not fit into its queue is dropped and counted.

use crate::config::plan::Log;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt, reload};

/// Lines that may wait to be written. A line has at most some 4 KiB.
const QUEUE_LINES: usize = 4096;

/// The handle by which a changed configuration changes the level. Dropped: what waits is written, for a second at most.
pub struct Logs {
    filter: reload::Handle<EnvFilter, Registry>,
    lost: ErrorCounter,
    _writer: WorkerGuard,
}

/// Is this a level, or a list of levels for rooms (`info,wharf_http=debug`)?
pub fn is_level(text: &str) -> bool {
    let is_one = |part: &str| {
        let (room, level) = part.rsplit_once('=').unwrap_or(("", part));
        !room.contains(char::is_whitespace)
            && level.parse::<LevelFilter>().is_ok()
            && !level.is_empty()
            && !level.contains(|c: char| c.is_ascii_digit())
    };
    text.split(',').all(is_one) && EnvFilter::try_new(text).is_ok()
}

/// Starts the log. Once in a process; called again it changes nothing.
///
/// # Errors
/// There is a log already, or the level is none ([`is_level`]).
pub fn start(log: &Log) -> anyhow::Result<Logs> {
    let (filter, handle) = reload::Layer::new(EnvFilter::try_new(&log.level)?);
    let registry = tracing_subscriber::registry().with(filter);
    let (writer, guard) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUE_LINES).thread_name("wharf-log").finish(std::io::stderr());
    let lost = writer.error_counter();
    if log.json {
        registry.with(fmt::layer().json().flatten_event(true).with_writer(writer)).try_init()?;
    } else {
        registry.with(fmt::layer().with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).with_writer(writer)).try_init()?;
    }
    Ok(Logs { filter: handle, lost, _writer: guard })
}

impl Logs {
    /// Lines that were dropped so far, because nobody read the ones before.
    pub fn lost(&self) -> u64 {
        self.lost.dropped_lines() as u64
    }

    /// Changes the level; the format stays as it was at the start.
    ///
    /// # Errors
    /// The level is none; then nothing changes.
    pub fn set_level(&self, level: &str) -> anyhow::Result<()> {
        self.filter.reload(EnvFilter::try_new(level)?)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::is_level;

    #[test]
    fn a_level_is_a_word_that_exists() {
        for good in ["info", "off", "warn,wharf_http=debug", "info,wharf_wasm::call=trace"] {
            assert!(is_level(good), "{good}");
        }
        for bad in ["", "loud", "infos", "wharf_http=loud", "info,", "info, warn", "3"] {
            assert!(!is_level(bad), "{bad}");
        }
    }
}
