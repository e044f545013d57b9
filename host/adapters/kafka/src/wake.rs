//! How a task is woken by librdkafka: its queues call us when they become non-empty, and the task looks. No thread polls.
//! What librdkafka has to say about itself is said here as well, not more often than somebody wants to read it.

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

/// Who is to be woken.
#[derive(Default)]
pub(crate) struct Wake(Mutex<Option<Waker>>);

impl Wake {
    pub(crate) fn set(&self, task: &Context<'_>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(task.waker().clone());
    }

    pub(crate) fn wake(&self) {
        let waker = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Lines of librdkafka's in our log: the first, then one in a while.
const SAY_EVERY: Duration = Duration::from_secs(30);

/// What a client says in our log.
pub(crate) struct Words {
    of: Box<str>,
    began: Instant,
    /// Milliseconds after `began` from which on something may be said again.
    next: AtomicU64,
}

impl Words {
    pub(crate) fn new(of: &str) -> Arc<Words> {
        Arc::new(Words { of: of.into(), began: Instant::now(), next: AtomicU64::new(0) })
    }

    fn may(&self) -> bool {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let next = self.next.load(Relaxed);
        now >= next && self.next.compare_exchange(next, now + SAY_EVERY.as_millis() as u64, Relaxed, Relaxed).is_ok()
    }

    pub(crate) fn trouble(&self, what: &str) {
        if self.may() {
            tracing::warn!(
                of = &*self.of,
                what,
                "kafka: trouble; it is tried again and again (further lines like this only every {SAY_EVERY:?})"
            );
        } else {
            tracing::debug!(of = &*self.of, what, "kafka");
        }
    }
}

/// The part of a context that is the same for all clients.
pub(crate) struct Said(pub(crate) Arc<Words>);

impl ClientContext for Said {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => {
                self.0.trouble(&format!("{facility}: {line}"));
            }
            _ => tracing::debug!(of = &*self.0.of, facility, line, "kafka"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.trouble(&format!("{error}: {reason}"));
    }
}
