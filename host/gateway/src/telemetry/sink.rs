//! Where the lines of the access log end: a file or standard output, and the one thread that may wait for it.
//!
//! A file that was moved away or removed is opened anew (looked for once a second, at once on SIGHUP). A full disk costs
//! the lines that did not fit, never the process: they are counted, the next buffer is tried again, and a line that was
//! cut in the middle is ended first, so the lines after it can be read.

use super::access::LOST;
use crate::config::plan::LogTarget;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};
use tracing::{info, warn};
use wharf_core::metrics::Count;

/// What cores and the control thread tell the writer.
pub(super) enum Message {
    /// Whole lines. The buffer goes back when it is empty.
    Lines { text: Vec<u8>, lines: u32, back: SyncSender<Vec<u8>> },
    /// Open the file anew.
    Reopen,
    /// Write what came before this, and end.
    Stop,
}

/// How often the writer looks whether its file is still there.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Sink {
    target: LogTarget,
    out: Option<Out>,
    looked: Instant,
    /// The last line written was cut.
    torn: bool,
    failing: bool,
    /// The path names no file that could be opened; lines go to the one that was, if there is one.
    astray: bool,
    written: Arc<Count>,
    lost: Arc<Count>,
}

enum Out {
    Stdout(io::Stdout),
    File { file: File, identity: (u64, u64) },
}

impl Sink {
    /// `counts`: lines written, lines lost.
    pub(super) fn open(target: LogTarget, counts: (Arc<Count>, Arc<Count>)) -> io::Result<Sink> {
        let out = Some(Out::open(&target)?);
        let (written, lost) = counts;
        Ok(Sink { target, out, looked: Instant::now(), torn: false, failing: false, astray: false, written, lost })
    }

    pub(super) fn run(mut self, waiting: &Receiver<Message>) {
        loop {
            match waiting.recv_timeout(LOOK_EVERY) {
                Ok(Message::Lines { mut text, lines, back }) => {
                    self.look();
                    self.write(&text, lines);
                    text.clear();
                    // A core that has buffers enough lets this one go.
                    let _ = back.try_send(text);
                }
                Ok(Message::Reopen) => self.reopen("asked to"),
                Err(RecvTimeoutError::Timeout) => self.look(),
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Is the file still the one that the path names?
    fn look(&mut self) {
        let LogTarget::File(path) = &self.target else { return };
        if self.looked.elapsed() < LOOK_EVERY {
            return;
        }
        self.looked = Instant::now();
        let there = std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
        match &self.out {
            Some(Out::File { identity, .. }) if there == Some(*identity) => {}
            Some(_) => self.reopen("the file was moved"),
            None => self.reopen("it could not be opened before"),
        }
    }

    fn reopen(&mut self, why: &str) {
        if matches!(self.target, LogTarget::Stdout) {
            return;
        }
        match Out::open(&self.target) {
            Ok(out) => {
                self.out = Some(out);
                self.torn = false;
                self.astray = false;
                info!(why, "access log opened anew");
            }
            // Keeps the old file if there is one: lines in a moved file are better than none. Said once, not at every look.
            Err(error) if !std::mem::replace(&mut self.astray, true) => {
                warn!(%error, why, "access log cannot be opened anew; the next try is in a second, lines go where they went");
            }
            Err(_) => {}
        }
    }

    fn write(&mut self, text: &[u8], lines: u32) {
        let result = match &mut self.out {
            None => Err((0, io::Error::other("the file is not open"))),
            Some(Out::Stdout(stdout)) => write_lines(&mut stdout.lock(), text, &mut self.torn),
            Some(Out::File { file, .. }) => write_lines(file, text, &mut self.torn),
        };
        match result {
            Ok(()) => {
                self.written.add(lines.into());
                if std::mem::take(&mut self.failing) {
                    info!("access log is written again");
                }
            }
            Err((whole, error)) => {
                self.written.add(whole);
                self.lost.add(u64::from(lines).saturating_sub(whole));
                self.failed(&error);
            }
        }
    }

    /// Says so once, not for every buffer.
    fn failed(&mut self, error: &io::Error) {
        if !std::mem::replace(&mut self.failing, true) {
            warn!(%error, "access log cannot be written; lines are dropped and counted in {LOST}");
        }
    }
}

impl Out {
    fn open(target: &LogTarget) -> io::Result<Out> {
        let path: &Path = match target {
            LogTarget::File(path) => path,
            LogTarget::Stdout | LogTarget::Off => return Ok(Out::Stdout(io::stdout())),
        };
        // Readable by the operator's group, not by everyone: paths and addresses are personal data.
        let file = OpenOptions::new().create(true).append(true).mode(0o640).open(path)?;
        let found = file.metadata()?;
        Ok(Out::File { file, identity: (found.dev(), found.ino()) })
    }
}

/// Writes whole lines. On an error: how many were written whole.
fn write_lines(out: &mut impl Write, text: &[u8], torn: &mut bool) -> Result<(), (u64, io::Error)> {
    if *torn {
        put(out, b"\n").map_err(|(_, error)| (0, error))?;
        *torn = false;
    }
    put(out, text).and_then(|()| out.flush().map_err(|error| (text.len(), error))).map_err(|(done, error)| {
        let done = text.get(..done).unwrap_or_default();
        *torn = done.last().is_some_and(|&byte| byte != b'\n');
        (done.iter().filter(|&&byte| byte == b'\n').count() as u64, error)
    })
}

/// Writes all of it. On an error: how much was written.
fn put(out: &mut impl Write, text: &[u8]) -> Result<(), (usize, io::Error)> {
    let mut done = 0;
    while let Some(rest) = text.get(done..).filter(|rest| !rest.is_empty()) {
        match out.write(rest) {
            Ok(0) => return Err((done, io::ErrorKind::WriteZero.into())),
            Ok(more) => done += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err((done, error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with room for so many bytes.
    struct Disk {
        room: usize,
        text: Vec<u8>,
    }

    impl Write for Disk {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            let fits = text.len().min(self.room);
            if fits == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.room -= fits;
            self.text.extend_from_slice(&text[..fits]);
            Ok(fits)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_log_whose_folder_is_gone_keeps_its_lines_and_is_told_of_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/access.log");
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        let written = Arc::new(Count::default());
        let mut sink = Sink::open(LogTarget::File(path.clone()), (written.clone(), Arc::default())).unwrap();
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
        for lines in 1..=3 {
            sink.reopen("the test says so");
            sink.write(b"{}\n", 1);
            // What was told stays told, and a line in a file without a name is not a lost one.
            assert!(sink.astray && !sink.failing);
            assert_eq!(written.get(), lines);
        }
        std::fs::create_dir(path.parent().unwrap()).unwrap();
        sink.reopen("the test says so");
        sink.write(b"{}\n", 1);
        assert!(!sink.astray);
        assert_eq!(std::fs::read_to_string(path).unwrap(), "{}\n");
    }

    #[test]
    fn a_line_cut_by_a_full_disk_does_not_spoil_the_next() {
        let mut disk = Disk { room: 8, text: Vec::new() };
        let mut torn = false;
        let (whole, _) = write_lines(&mut disk, b"one\ntwo two\nthree\n", &mut torn).unwrap_err();
        assert_eq!((whole, torn), (1, true));
        let (whole, _) = write_lines(&mut disk, b"four\n", &mut torn).unwrap_err();
        assert_eq!((whole, torn), (0, true));
        disk.room = 100;
        write_lines(&mut disk, b"five\n", &mut torn).unwrap();
        assert_eq!(String::from_utf8(disk.text).unwrap(), "one\ntwo \nfive\n");
    }
}
