//! Who else holds the state folder: for the message of a start that fails on it, since one folder serves one gateway.
//!
//! It decides nothing: the locks of the catalog and the store do. Looked up only once the start has failed.

use rustix::process::getpid;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// Most of a command line that is told, characters.
const COMMAND_MAX: usize = 120;

/// The process that holds the folder, as far as this one may see it: its id and its command line.
pub fn held_by(state: &Path) -> Option<(u32, String)> {
    let lock = fs::metadata(state.join("plugins/lock")).ok()?;
    let is_lock = |file: &fs::Metadata| (file.dev(), file.ino()) == (lock.dev(), lock.ino());
    let own = u32::try_from(getpid().as_raw_nonzero().get()).ok();
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()).filter(|pid| Some(*pid) != own) else {
            continue;
        };
        // Those of other users cannot be looked into.
        let Ok(files) = fs::read_dir(process.path().join("fd")) else { continue };
        if files.flatten().any(|file| fs::metadata(file.path()).is_ok_and(|file| is_lock(&file))) {
            let command = fs::read(process.path().join("cmdline")).unwrap_or_default();
            let words: Vec<_> = command.split(|&byte| byte == 0).filter(|word| !word.is_empty()).map(String::from_utf8_lossy).collect();
            return Some((pid, words.join(" ").chars().filter(|c| !c.is_control()).take(COMMAND_MAX).collect()));
        }
    }
    None
}

/// What to tell of it in the place of a lock that could not be had; `None`: nobody is seen to hold the folder.
pub fn told(state: &Path) -> Option<String> {
    let (pid, command) = held_by(state)?;
    let folder = state.display();
    Some(format!(
        "the state folder {folder} is in use by process {pid} (`{command}`); hint: `wharf upgrade` replaces that gateway without a lost \
         connection, `kill {pid}` ends it, and another folder is chosen by `node.state_dir`"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn whoever_holds_the_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("plugins")).unwrap();
        let lock = folder.path().join("plugins/lock");
        fs::write(&lock, "").unwrap();
        assert_eq!(held_by(folder.path()), None);
        let _file = fs::File::open(&lock).unwrap();
        assert_eq!(held_by(folder.path()), None, "it is this process itself");
        let mut other = Command::new("tail").arg("-f").arg(&lock).stdout(Stdio::null()).spawn().unwrap();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        let found = loop {
            match held_by(folder.path()) {
                None if std::time::Instant::now() < end => std::thread::yield_now(),
                found => break found,
            }
        };
        let said = told(folder.path());
        other.kill().unwrap();
        other.wait().unwrap();
        let (pid, command) = found.unwrap();
        assert!(pid == other.id() && command.starts_with("tail -f "), "{pid} {command}");
        assert!(said.unwrap().contains(&format!("process {pid}")));
    }
}
