//! The audit log: what was asked to change, by whom, and how it ended. JSON lines, each on disk before it counts.
//!
//! A change is written down before it is done, and its outcome after. Bodies are not written, only their size and
//! digest: they may hold secrets. Looks are not written at all.
//!
//! The file is opened for each line: changes are rare, and whoever moves the file away loses nothing.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

pub(crate) struct Audit {
    path: PathBuf,
    bytes_max: u64,
    /// One line at a time.
    turn: Mutex<()>,
}

impl Audit {
    pub(crate) fn new(path: PathBuf, bytes_max: u64) -> Audit {
        Audit { path, bytes_max, turn: Mutex::new(()) }
    }

    /// Appends one line and returns once it is on disk. Blocks; call it where blocking is allowed.
    ///
    /// # Errors
    /// The line is then not in the log, and what it announces must not be done.
    pub(crate) fn write(&self, line: &serde_json::Value) -> io::Result<()> {
        let mut bytes = serde_json::to_vec(line)?;
        bytes.push(b'\n');
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let mut file = self.open()?;
        let mut size = file.metadata()?.len();
        if size > 0 && size + bytes.len() as u64 > self.bytes_max {
            let mut old = self.path.clone().into_os_string();
            old.push(".1");
            fs::rename(&self.path, old)?;
            file = self.open()?;
            size = 0;
        }
        if size > 0 {
            // A crash in the middle of a line must not swallow the next one.
            let mut last = [0];
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
            if last != *b"\n" {
                bytes.insert(0, b'\n');
            }
        }
        let written = file.write_all(&bytes).and_then(|()| file.sync_all()).and_then(|()| sync_folder(&self.path, size));
        if written.is_err() {
            // Half a line of a change that will be refused would be a lie; if even this fails the next line mends it.
            let _ = file.set_len(size);
        }
        written
    }

    fn open(&self) -> io::Result<File> {
        if let Some(folder) = self.path.parent() {
            make_folder(folder)?;
        }
        OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&self.path)
    }
}

/// A folder in which only its owner reads and writes: what lies there is an operator's.
pub(crate) fn make_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// A new file is there for good once its folder says so.
fn sync_folder(path: &Path, size_before: u64) -> io::Result<()> {
    match path.parent() {
        Some(folder) if size_before == 0 && !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn lines(path: &Path) -> Vec<String> {
        fs::read_to_string(path).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn half_a_line_left_by_a_crash_never_swallows_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        fs::write(&path, "{\"cut").unwrap();
        Audit::new(path.clone(), 1 << 20).write(&json!({"n": 1})).unwrap();
        assert_eq!(lines(&path), ["{\"cut", "{\"n\":1}"]);
    }

    #[test]
    fn a_folder_that_was_removed_is_made_again_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        Audit::new(state.join("audit.log"), 1 << 20).write(&json!({"n": 1})).unwrap();
        assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn the_log_is_bounded_and_its_last_file_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let audit = Audit::new(path.clone(), 20);
        for n in 1..=3 {
            audit.write(&json!({"n": n, "m": n})).unwrap();
        }
        assert_eq!(lines(&path), ["{\"m\":3,\"n\":3}"]);
        assert_eq!(lines(&folder.path().join("audit.log.1")), ["{\"m\":2,\"n\":2}"]);
    }

    #[test]
    fn a_line_that_cannot_be_written_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        fs::create_dir(&path).unwrap();
        assert!(Audit::new(path, 1 << 20).write(&json!({})).is_err());
        // The device that is always full.
        if Path::new("/dev/full").exists() {
            assert!(Audit::new("/dev/full".into(), 1 << 20).write(&json!({})).is_err());
        }
    }
}
