//! Where the lines of the access log end: a file, a pipe or standard output, and the one thread that may wait for it.
//!
//! A file that was moved away or removed is opened anew (looked for once a second, at once when somebody asks). A full disk
//! costs the lines that did not fit, never the process: they are counted, the next buffer is tried again, and a line that was
//! cut in the middle is ended first, so the lines after it can be read. So does a pipe that nobody reads.

use super::access::{LOST, LOST_HELP};
use crate::config::plan::{LogTarget, Rotation};
use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant, SystemTime};
use tracing::{info, warn};
use wharf_core::metrics::{Count, Registry};

/// What cores and the control thread tell the writer.
pub(super) enum Message {
    /// Whole lines. The buffer goes back when it is empty.
    Lines { text: Vec<u8>, lines: u32, back: Option<SyncSender<Vec<u8>>> },
    /// Open the file anew.
    Reopen,
    /// Write what came before this, and end.
    Stop,
}

/// How often the writer looks whether its file is still there, or may be put aside.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often it is told that lines are lost.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// What became of lines.
pub(super) struct Counts {
    written: Arc<Count>,
    disk_full: Arc<Count>,
    no_reader: Arc<Count>,
    write: Arc<Count>,
}

impl Counts {
    pub(super) fn new(metrics: &Registry, written: Arc<Count>) -> Counts {
        let lost = |reason: &str| metrics.count(LOST, LOST_HELP, &[("reason", reason)]);
        Counts { written, disk_full: lost("disk_full"), no_reader: lost("no_reader"), write: lost("write") }
    }

    fn lost(&self, error: &io::Error) -> &Count {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => &self.disk_full,
            io::ErrorKind::BrokenPipe => &self.no_reader,
            _ if is_unread(error) => &self.no_reader,
            _ => &self.write,
        }
    }
}

/// Is it a pipe that nobody reads?
fn is_unread(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error())
}

pub(super) struct Sink {
    target: LogTarget,
    rotation: Option<Rotation>,
    out: Option<Out>,
    looked: Instant,
    /// The last line written was cut.
    torn: bool,
    /// Lines lost since somebody was told, and when that was; `None`: nothing is wrong.
    failing: Option<(u64, Instant)>,
    /// The path names no file that could be opened; lines go to the one that was, if there is one.
    astray: bool,
    /// Putting the file aside did not go well; the next try is at the next look.
    stuck: bool,
    counts: Counts,
}

enum Out {
    Stdout(io::Stdout),
    File { file: File, identity: (u64, u64), is_regular: bool, bytes: u64, begun: SystemTime },
}

impl Sink {
    pub(super) fn open(target: LogTarget, rotation: Option<Rotation>, counts: Counts) -> io::Result<Sink> {
        let out = match Out::open(&target) {
            Ok(out) => Some(out),
            Err(error) if is_unread(&error) => {
                warn!(pipe = %target, "nobody reads the access log yet; lines are dropped and counted in {LOST} until somebody does");
                None
            }
            Err(error) => return Err(error),
        };
        let failing = out.is_none().then(|| (0, Instant::now()));
        Ok(Sink { target, rotation, out, looked: Instant::now(), torn: false, failing, astray: false, stuck: false, counts })
    }

    pub(super) fn run(mut self, waiting: &Receiver<Message>) {
        loop {
            match waiting.recv_timeout(LOOK_EVERY) {
                Ok(Message::Lines { mut text, lines, back }) => {
                    self.look();
                    self.write(&text, lines);
                    text.clear();
                    // A core that has buffers enough lets this one go.
                    back.map(|back| back.try_send(text));
                }
                Ok(Message::Reopen) => self.reopen("asked to"),
                Err(RecvTimeoutError::Timeout) => self.look(),
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Is the file still the one that the path names, and not too old?
    fn look(&mut self) {
        let LogTarget::File(path) = &self.target else { return };
        if self.looked.elapsed() < LOOK_EVERY {
            return;
        }
        self.looked = Instant::now();
        self.stuck = false;
        let there = std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
        match &self.out {
            Some(Out::File { identity, begun, .. }) if there == Some(*identity) => {
                let age = begun.elapsed().unwrap_or_default();
                if self.rotation.and_then(|rotation| rotation.age_max).is_some_and(|max| age >= max) {
                    self.rotate();
                }
            }
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
            // Told when lines are lost for it.
            Err(error) if is_unread(&error) => self.out = None,
            // Keeps the old file if there is one: lines in a moved file are better than none. Said once, not at every look.
            Err(error) if !std::mem::replace(&mut self.astray, true) => {
                warn!(%error, why, "access log cannot be opened anew; the next try is in a second, lines go where they went");
            }
            Err(_) => {}
        }
    }

    /// Puts the file aside and begins another one.
    fn rotate(&mut self) {
        let (LogTarget::File(path), Some(rotation)) = (&self.target, self.rotation) else { return };
        if !matches!(&self.out, Some(Out::File { is_regular: true, bytes: 1.., .. })) || self.stuck {
            return;
        }
        match put_aside(path, rotation.keep) {
            Ok(()) => self.reopen("it was put aside"),
            Err(error) => {
                self.stuck = true;
                warn!(%error, file = %path.display(), "the access log cannot be put aside, so it grows on");
            }
        }
    }

    fn write(&mut self, text: &[u8], lines: u32) {
        let mut rest = text;
        let mut whole = 0;
        let mut failed = None;
        while !rest.is_empty() && failed.is_none() {
            let piece = self.fitting(rest);
            if piece.is_empty() {
                self.rotate();
            }
            // If it could not be put aside it grows on.
            let piece = if piece.is_empty() { self.fitting(rest) } else { piece };
            let piece = if piece.is_empty() { rest } else { piece };
            let result = match &mut self.out {
                None => Err((0, io::Error::from_raw_os_error(rustix::io::Errno::NXIO.raw_os_error()))),
                Some(Out::Stdout(stdout)) => write_lines(&mut stdout.lock(), piece, &mut self.torn),
                Some(Out::File { file, bytes, .. }) => {
                    let written = write_lines(file, piece, &mut self.torn);
                    *bytes += if written.is_ok() { piece.len() as u64 } else { 0 };
                    written
                }
            };
            match result {
                Ok(()) if piece.len() == text.len() => whole = lines.into(),
                Ok(()) => whole += count_lines(piece),
                Err((some, error)) => {
                    whole += some;
                    failed = Some(error);
                }
            }
            rest = rest.get(piece.len()..).unwrap_or_default();
        }
        self.counts.written.add_shared(whole);
        match failed {
            None => {
                if self.failing.take().is_some() {
                    info!("access log is written again");
                }
            }
            Some(error) => {
                let lost = u64::from(lines).saturating_sub(whole);
                self.counts.lost(&error).add_shared(lost);
                if error.kind() == io::ErrorKind::BrokenPipe && matches!(self.out, Some(Out::File { .. })) {
                    // Whoever reads the pipe next is found by the next look.
                    self.out = None;
                }
                self.failed(lost, &error);
            }
        }
    }

    /// As many whole lines as the file takes before it is put aside; nothing if not one. One line alone is never too long.
    fn fitting<'t>(&self, text: &'t [u8]) -> &'t [u8] {
        let (Some(Out::File { is_regular: true, bytes, .. }), Some(max)) =
            (&self.out, self.rotation.and_then(|rotation| rotation.bytes_max))
        else {
            return text;
        };
        let room = usize::try_from(max.saturating_sub(*bytes)).unwrap_or(usize::MAX);
        if text.len() <= room || self.stuck {
            return text;
        }
        let fits = text.get(..room).and_then(|fits| fits.iter().rposition(|&byte| byte == b'\n')).map(|end| end + 1);
        let first = || text.iter().position(|&byte| byte == b'\n').map_or(text.len(), |end| end + 1);
        let len = fits.unwrap_or_else(|| if *bytes == 0 { first() } else { 0 });
        text.get(..len).unwrap_or_default()
    }

    /// Says so now and then, not for every buffer.
    fn failed(&mut self, lost: u64, error: &io::Error) {
        match &mut self.failing {
            Some((so_far, told)) => {
                *so_far += lost;
                if told.elapsed() >= TELL_EVERY {
                    warn!(%error, lost = *so_far, "access log still cannot be written; lines are dropped and counted in {LOST}");
                    (*so_far, *told) = (0, Instant::now());
                }
            }
            None => {
                warn!(%error, lost, "access log cannot be written; lines are dropped and counted in {LOST}");
                self.failing = Some((0, Instant::now()));
            }
        }
    }
}

/// `access.log.1` becomes `access.log.2`, and so on; `access.log` becomes `access.log.1`.
fn put_aside(path: &Path, keep: u32) -> io::Result<()> {
    let aside = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    if keep == 0 {
        return std::fs::remove_file(path);
    }
    for number in (1..keep).rev() {
        match std::fs::rename(aside(number), aside(number + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    std::fs::rename(path, aside(1))
}

fn count_lines(text: &[u8]) -> u64 {
    text.iter().filter(|&&byte| byte == b'\n').count() as u64
}

impl Out {
    fn open(target: &LogTarget) -> io::Result<Out> {
        let path: &Path = match target {
            LogTarget::File(path) => path,
            LogTarget::Stdout | LogTarget::Off => return Ok(Out::Stdout(io::stdout())),
        };
        // Readable by the operator's group, not by everyone: paths and addresses are personal data. Not waiting: opening a
        // pipe would wait for somebody to read it, and with it the start of the gateway.
        let flags = OFlags::NONBLOCK.bits() as i32;
        let file = OpenOptions::new().create(true).append(true).mode(0o640).custom_flags(flags).open(path)?;
        // From here on it may wait: it is this thread's only business.
        let flags = rustix::fs::fcntl_getfl(&file)?;
        rustix::fs::fcntl_setfl(&file, flags - OFlags::NONBLOCK)?;
        let found = file.metadata()?;
        let begun = found.created().or_else(|_| found.modified()).unwrap_or_else(|_| SystemTime::now());
        let kind = found.file_type();
        let is_regular = !kind.is_fifo() && !kind.is_char_device() && !kind.is_socket() && kind.is_file();
        Ok(Out::File { file, identity: (found.dev(), found.ino()), is_regular, bytes: found.len(), begun })
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
        (count_lines(done), error)
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
        let counts = Counts::new(&Registry::default(), written.clone());
        let mut sink = Sink::open(LogTarget::File(path.clone()), None, counts).unwrap();
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
        for lines in 1..=3 {
            sink.reopen("the test says so");
            sink.write(b"{}\n", 1);
            // What was told stays told, and a line in a file without a name is not a lost one.
            assert!(sink.astray && sink.failing.is_none());
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

    /// What is in each file, the newest first.
    fn files(path: &Path) -> Vec<String> {
        let mut found = vec![std::fs::read_to_string(path).unwrap()];
        for number in 1.. {
            match std::fs::read_to_string(format!("{}.{number}", path.display())) {
                Ok(text) => found.push(text),
                Err(_) => return found,
            }
        }
        unreachable!()
    }

    fn sink(path: &Path, rotation: Rotation) -> (Sink, Arc<Count>) {
        let written = Arc::new(Count::default());
        let counts = Counts::new(&Registry::default(), written.clone());
        (Sink::open(LogTarget::File(path.to_owned()), Some(rotation), counts).unwrap(), written)
    }

    #[test]
    fn a_file_that_has_grown_is_put_aside_between_two_lines_and_so_many_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let (mut sink, written) = sink(&path, Rotation { bytes_max: Some(8), age_max: None, keep: 2 });
        sink.write(b"1\n2\n3\n4\n5\n", 5);
        assert_eq!(files(&path), ["5\n", "1\n2\n3\n4\n"]);
        // A line that is longer than a file may be has one for itself.
        sink.write(b"a long line\n6\n", 2);
        assert_eq!(files(&path), ["6\n", "a long line\n", "5\n"]);
        sink.write(b"7\n8\n9\n0\n", 4);
        assert_eq!(files(&path), ["0\n", "6\n7\n8\n9\n", "a long line\n"]);
        assert_eq!(written.get(), 11);
    }

    #[test]
    fn a_file_that_is_old_is_put_aside_unless_nothing_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let (mut sink, _) = sink(&path, Rotation { bytes_max: None, age_max: Some(Duration::ZERO), keep: 1 });
        let look = |sink: &mut Sink| {
            sink.looked -= LOOK_EVERY;
            sink.look();
        };
        look(&mut sink);
        assert_eq!(files(&path), [""]);
        sink.write(b"1\n", 1);
        look(&mut sink);
        assert_eq!(files(&path), ["", "1\n"]);
    }

    #[test]
    fn a_file_that_cannot_be_put_aside_grows_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        // A folder stands where the file would go.
        std::fs::create_dir_all(folder.path().join("access.log.1/x")).unwrap();
        let (mut sink, written) = sink(&path, Rotation { bytes_max: Some(4), age_max: None, keep: 1 });
        sink.write(b"1\n2\n3\n4\n", 4);
        sink.write(b"5\n", 1);
        assert_eq!((std::fs::read_to_string(&path).unwrap().as_str(), written.get()), ("1\n2\n3\n4\n5\n", 5));
    }

    #[test]
    fn a_pipe_that_nobody_reads_keeps_nobody_waiting_and_is_written_once_somebody_does() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600), 0).unwrap();
        let metrics = Registry::default();
        let counts = Counts::new(&metrics, Arc::default());
        let mut sink = Sink::open(LogTarget::File(path.clone()), None, counts).unwrap();
        sink.write(b"1\n2\n", 2);
        assert_eq!(sink.counts.no_reader.get(), 2);
        let open = || OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(&path).unwrap();
        let reader = open();
        sink.reopen("the test says so");
        sink.write(b"3\n", 1);
        assert_eq!((sink.counts.written.get(), sink.failing), (1, None));
        // The reader goes away, and another one comes.
        drop(reader);
        sink.write(b"4\n", 1);
        assert_eq!(sink.counts.no_reader.get(), 3);
        let mut reader = open();
        sink.reopen("the test says so");
        sink.write(b"5\n", 1);
        let mut text = [0; 8];
        let len = io::Read::read(&mut reader, &mut text).unwrap();
        assert_eq!(&text[..len], b"5\n");
    }
}
