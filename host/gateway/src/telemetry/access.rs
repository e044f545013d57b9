//! The access log: a line for each request, written without ever making a request wait.
//!
//! Each core formats into a buffer of its own ([`line`](super::line), or a [`Template`]). A full buffer, or one older than
//! [`AGE_MAX`], goes to the one writer thread over a bounded queue; where the queue is full the lines are dropped and
//! counted. Files, rotation and full disks are the business of `sink.rs`.

use super::line::Line;
use super::sink::{Counts, Message, Sink};
use super::text;
use crate::config::plan::{AccessLog as Settings, LogTarget};
use crate::config::template::Template;
use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use wharf_core::metrics::{Count, Registry};
use wharf_http::record::{Record, Recorder};

/// A buffer is handed on when it holds this much. Waking the writer costs as much as writing twenty lines.
pub const BUFFER_BYTES: usize = 128 * 1024;
/// A line waits no longer than this for others, give or take a tick.
pub const AGE_MAX: Duration = Duration::from_millis(250);
/// How long the end of the log may take.
const CLOSE_MAX: Duration = Duration::from_secs(2);
/// Buffers that may wait for the writer: 8 MiB, a second of 30,000 requests.
const QUEUE_BUFFERS: usize = 64;
/// A buffer that a line with large bodies has made larger than this is not kept.
const BUFFER_KEPT: usize = 2 * BUFFER_BYTES;
/// Longest text in one field; what is longer is cut, so that one line cannot fill a buffer.
pub(super) const TEXT_MAX: usize = 4096;

/// The one writer of the access log, or two where it goes to two places. House-wide.
pub struct AccessWriter {
    threads: Vec<(SyncSender<Message>, Option<JoinHandle<()>>)>,
    metrics: Arc<Registry>,
    template: Option<Template>,
    settings: Settings,
}

impl AccessWriter {
    /// Opens the log and starts its thread. `None`: the log is off.
    ///
    /// # Errors
    /// The file cannot be opened now; later troubles are survived and counted, and so is a pipe that nobody reads yet.
    pub fn start(settings: &Settings, metrics: Arc<Registry>) -> io::Result<Option<AccessWriter>> {
        if settings.target == LogTarget::Off {
            return Ok(None);
        }
        let written = metrics.count("wharf_access_log_lines_total", "lines of the access log that were written", &[]);
        let mut threads = Vec::new();
        let mut begin = |target: &LogTarget, written: Arc<Count>| -> io::Result<()> {
            let (queue, waiting) = sync_channel(QUEUE_BUFFERS);
            let sink = Sink::open(target.clone(), settings.rotate, Counts::new(&metrics, written))?;
            let thread = std::thread::Builder::new().name("access-log".into()).spawn(move || sink.run(&waiting))?;
            threads.push((queue, Some(thread)));
            Ok(())
        };
        begin(&settings.target, written)?;
        if settings.also_stdout {
            // A thread of its own: who reads standard output may stop, and the file goes on. Its lines are counted once.
            begin(&LogTarget::Stdout, Arc::default())?;
        }
        Ok(Some(AccessWriter { threads, metrics, template: settings.template.clone(), settings: settings.clone() }))
    }

    /// The log of one core.
    pub fn for_core(&self) -> AccessLog {
        let (back, empty) = sync_channel(4);
        let lost = self.metrics.count(LOST, LOST_HELP, &[("reason", "queue_full")]);
        let mut queues = self.threads.iter().map(|(queue, _)| queue.clone());
        let Settings { redact, request_headers, response_headers, .. } = &self.settings;
        AccessLog(RefCell::new(Pen {
            buffer: Vec::with_capacity(BUFFER_BYTES + TEXT_MAX),
            lines: 0,
            since: None,
            line: Line::new(redact.clone().into(), request_headers.clone().into(), response_headers.clone().into()),
            template: self.template.clone(),
            queue: queues.next(),
            also: queues.next(),
            back,
            empty,
            lost,
        }))
    }

    /// How to have the file opened anew, from any thread.
    pub fn reopener(&self) -> Reopener {
        Reopener(self.threads.iter().map(|(queue, _)| queue.clone()).collect())
    }

    /// Writes what has been handed over and ends the threads. Cores should have flushed before. Waits for [`CLOSE_MAX`] at
    /// most: who reads the log may have stopped, and the process ends all the same.
    pub fn close(&mut self) {
        let end = Instant::now() + CLOSE_MAX;
        for (queue, thread) in &mut self.threads {
            let Some(thread) = thread.take() else { continue };
            let mut told = false;
            while Instant::now() < end && !thread.is_finished() {
                told = told || !matches!(queue.try_send(Message::Stop), Err(TrySendError::Full(_)));
                std::thread::sleep(Duration::from_millis(1)); // look again: there is nobody to be woken by
            }
            if thread.is_finished() {
                let _ = thread.join();
            } else {
                tracing::warn!("the end of the access log could not be written within {CLOSE_MAX:?}: nobody reads it");
            }
        }
    }
}

/// Has the file opened anew (a signal or an operator, after a rotation by others).
#[derive(Clone, Default)]
pub struct Reopener(Vec<SyncSender<Message>>);

impl Reopener {
    /// Returns at once. `false`: there is no access log.
    pub fn reopen(&self) -> bool {
        // If the queue is full the writer is busy, and it looks for itself every second whether the file was moved.
        self.0.iter().for_each(|queue| drop(queue.try_send(Message::Reopen)));
        !self.0.is_empty()
    }
}

pub(super) const LOST: &str = "wharf_access_log_lost_total";
pub(super) const LOST_HELP: &str = "lines of the access log that were not written, by reason";

/// The access log of one core.
pub struct AccessLog(RefCell<Pen>);

struct Pen {
    buffer: Vec<u8>,
    lines: u32,
    /// When a tick first saw the oldest line in the buffer.
    since: Option<Instant>,
    line: Line,
    /// Lines of text in the place of JSON.
    template: Option<Template>,
    queue: Option<SyncSender<Message>>,
    /// The second place, where there is one.
    also: Option<SyncSender<Message>>,
    back: SyncSender<Vec<u8>>,
    empty: Receiver<Vec<u8>>,
    lost: Arc<Count>,
}

impl Recorder for AccessLog {
    fn record(&self, record: &Record<'_>) {
        // Never borrowed already: nothing in here calls back.
        if let Ok(mut pen) = self.0.try_borrow_mut() {
            pen.write(record);
            if pen.buffer.len() >= BUFFER_BYTES {
                pen.hand_over();
            }
        }
    }

    fn tick(&self) -> bool {
        let Ok(mut pen) = self.0.try_borrow_mut() else { return true };
        if pen.lines > 0 {
            let now = Instant::now();
            let since = *pen.since.get_or_insert(now);
            if now.saturating_duration_since(since) >= AGE_MAX {
                pen.hand_over();
            }
        }
        pen.lines > 0
    }

    fn flush(&self) {
        if let Ok(mut pen) = self.0.try_borrow_mut() {
            pen.hand_over();
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.0.get_mut().hand_over();
    }
}

impl Pen {
    fn write(&mut self, record: &Record<'_>) {
        self.lines += 1;
        match &self.template {
            None => self.line.write(&mut self.buffer, record),
            Some(template) => text::write(template, &mut self.buffer, record, self.line.redact()),
        }
    }

    fn hand_over(&mut self) {
        self.since = None;
        if self.lines == 0 {
            return;
        }
        let lines = std::mem::take(&mut self.lines);
        let next = self.empty.try_recv().ok().filter(|next| next.capacity() <= BUFFER_KEPT);
        let mut next = next.unwrap_or_else(|| Vec::with_capacity(BUFFER_BYTES + TEXT_MAX));
        next.clear();
        let text = std::mem::replace(&mut self.buffer, next);
        if let Some(also) = &self.also
            && also.try_send(Message::Lines { text: text.clone(), lines, back: None }).is_err()
        {
            self.lost.add(lines.into());
        }
        let Some(queue) = &self.queue else { return };
        match queue.try_send(Message::Lines { text, lines, back: Some(self.back.clone()) }) {
            Ok(()) => {}
            Err(TrySendError::Full(Message::Lines { text, .. }) | TrySendError::Disconnected(Message::Lines { text, .. })) => {
                self.lost.add(lines.into());
                self.buffer = text;
                self.buffer.clear();
            }
            Err(_) => {}
        }
    }
}

#[cfg(test)]
#[path = "access_tests.rs"]
mod tests;
