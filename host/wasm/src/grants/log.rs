//! `wharf:host/log`: lines for the operator, with a rate that holds. Also where standard output and error end.

use crate::instance::{Guest, clipped};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;
use wasmtime::StoreContextMut;
use wasmtime::component::{LinkerInstance, WasmStr};
use wharf_core::trace::Context;
use wharf_wasm_bindings::host::Level;

/// Longest line, bytes.
const LINE_MAX: usize = 4096;

/// The rate of one version on one core. Shared with calls that are on the guest thread.
#[derive(Debug)]
pub(crate) struct Gate {
    max: u32,
    began: Instant,
    second: AtomicU64,
    lines: AtomicU32,
}

impl Gate {
    pub(crate) fn new(lines_per_second: u32) -> Gate {
        Gate { max: lines_per_second, began: Instant::now(), second: AtomicU64::new(0), lines: AtomicU32::new(0) }
    }

    /// May one more line pass? Two threads that meet at the turn of a second may let a line more through.
    fn admits(&self, now: Instant) -> bool {
        let second = now.saturating_duration_since(self.began).as_secs();
        if self.second.swap(second, Ordering::Relaxed) != second {
            self.lines.store(0, Ordering::Relaxed);
        }
        if self.lines.load(Ordering::Relaxed) >= self.max {
            return false;
        }
        self.lines.fetch_add(1, Ordering::Relaxed) < self.max
    }
}

/// What was written to standard output or error since the last end of a line.
#[derive(Debug, Default)]
pub(crate) struct Lines(Vec<u8>);

impl Lines {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

pub(super) fn link(to: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    to.func_wrap("log", |mut store: StoreContextMut<'_, Guest>, (level, message): (Level, WasmStr)| {
        store.data_mut().charge()?;
        if !store.data().gate.admits(Instant::now()) {
            store.data_mut().tally.lines_dropped += 1;
            return Ok(());
        }
        let text = message.to_str(&store)?;
        say(store.data(), level, &text);
        Ok(())
    })
}

/// Standard output (0) or error (1): whole lines go to the log.
pub(super) fn write(guest: &mut Guest, which: usize, bytes: &[u8]) {
    let Some(lines) = guest.lines.get_mut(which) else { return };
    let mut kept = std::mem::take(&mut lines.0);
    for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
        let room = LINE_MAX.saturating_sub(kept.len());
        kept.extend_from_slice(piece.get(..room).unwrap_or(piece));
        if piece.ends_with(b"\n") {
            end_line(guest, which, &kept);
            kept.clear();
        }
    }
    if let Some(lines) = guest.lines.get_mut(which) {
        lines.0 = kept;
    }
}

/// What is left without an end of line when a question is over.
pub(crate) fn flush(guest: &mut Guest) {
    for which in 0..guest.lines.len() {
        let kept = guest.lines.get_mut(which).map(|lines| std::mem::take(&mut lines.0)).unwrap_or_default();
        if !kept.is_empty() {
            end_line(guest, which, &kept);
        }
    }
}

fn end_line(guest: &mut Guest, which: usize, line: &[u8]) {
    if !guest.gate.admits(Instant::now()) {
        guest.tally.lines_dropped += 1;
        return;
    }
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end_matches(['\n', '\r']);
    // A panic begins with an empty line.
    if text.is_empty() {
        return;
    }
    if which == 1 && guest.home.is_none() {
        remember(&mut guest.last_words, text);
    }
    say(guest, if which == 0 { Level::Info } else { Level::Warn }, text);
}

/// Longest last words, bytes: some three lines.
const LAST_WORDS_MAX: usize = 512;

/// Keeps the last lines, but not the advice that every panic ends with.
fn remember(words: &mut String, line: &str) {
    if line.starts_with("note: run with `RUST_BACKTRACE") {
        return;
    }
    if words.len() + line.len() > LAST_WORDS_MAX {
        words.clear();
    }
    if !words.is_empty() {
        words.push(' ');
    }
    words.push_str(&clean(&clipped(line, LAST_WORDS_MAX)));
}

fn say(guest: &Guest, level: Level, text: &str) {
    let line = clean(text);
    let setup = &guest.terms.setup;
    let (plugin, version) = (&*setup.plugin, setup.version);
    // By which the line is found from the access log and from the trace.
    let facts = guest.facts.as_deref();
    let id = facts.map(|facts| tracing::field::display(facts.id));
    let trace = facts.and_then(|facts| Context::of(&facts.request.fields)).map(|context| context.trace_id());
    match level {
        Level::Debug => tracing::debug!(target: "plugin", plugin, version, id, trace_id = trace, "{line}"),
        Level::Info => tracing::info!(target: "plugin", plugin, version, id, trace_id = trace, "{line}"),
        Level::Warn => tracing::warn!(target: "plugin", plugin, version, id, trace_id = trace, "{line}"),
        Level::Error => tracing::error!(target: "plugin", plugin, version, id, trace_id = trace, "{line}"),
    }
}

/// One line, without control characters: a guest cannot write a second line, nor talk to the operator's terminal.
fn clean(text: &str) -> std::borrow::Cow<'_, str> {
    let clipped = clipped(text, LINE_MAX);
    if clipped.chars().any(char::is_control) {
        return clipped.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect::<String>().into();
    }
    clipped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_one_line_and_short() {
        assert_eq!(clean("a\nb\u{1b}[2J"), "a\u{fffd}b\u{fffd}[2J");
        let long = "\u{e9}".repeat(LINE_MAX);
        assert!(clean(&long).len() <= LINE_MAX + 3);
    }

    #[test]
    fn the_gate_lets_so_many_through_each_second() {
        let gate = Gate::new(3);
        let now = gate.began;
        assert_eq!((0..10).filter(|_| gate.admits(now)).count(), 3);
        let later = now + std::time::Duration::from_secs(1);
        assert_eq!((0..10).filter(|_| gate.admits(later)).count(), 3);
    }
}
