//! Follows the files of the configuration: which have changed, and when they have come to rest.
//!
//! Files are looked at, not watched: a look is one call of the kernel for each file, it sees renamed files and switched
//! links alike, works on every file system, and what else happens in their folders (a log that is always being written)
//! costs nothing. What is included is followed like the file that includes it, and so are folders in which a pattern is
//! looked for.

use crate::config::Followed;
use crate::control::{Ask, Control};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::mpsc;

/// How often files are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A file that took another's place and was not touched for this long is whole.
const SETTLE: Duration = Duration::from_millis(50);
/// One that is written where it stands: whoever writes may be slow.
const SETTLE_IN_PLACE: Duration = Duration::from_secs(1);
/// One that says the beginning of what it said before: most likely the rest is still to come.
const SETTLE_CUT: Duration = Duration::from_secs(10);
/// How long files that do not come to rest are waited for.
const SETTLE_MAX: Duration = Duration::from_secs(20);
/// The coarsest clock of a file system in use.
const GRAIN: Duration = Duration::from_secs(2);

/// Reads the configuration when its files are not what was read last, when an operator asks, and on SIGHUP. Never resolves.
pub async fn follow(control: Arc<Control>, mut asked: mpsc::Receiver<Ask>) {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut known, mut unreadable, mut gone, mut coming): (Option<Marks>, _, _, Option<Coming>) = (None, false, false, None);
    let mut seen = control.followed();
    loop {
        tokio::select! {
            ask = asked.recv() => {
                let Some(ask) = ask else { return };
                let _ = ask.send(control.reload().await);
                (seen, known, coming) = (control.followed(), None, None);
            }
            _ = looks.tick() => {
                let file = control.path();
                let marks = Marks::of(&seen).await;
                if Mark::of(file).await.is_none_or(|mark| !mark.is_file) {
                    if !std::mem::replace(&mut gone, true) {
                        tracing::warn!(file = %file.display(), "the configuration file is gone; what it said last serves on");
                    }
                    continue;
                }
                gone = false;
                // What has just been written is read again: a second change within the clock's grain leaves no mark.
                if known.as_ref() == Some(&marks) && !marks.is_fresh() {
                    continue;
                }
                let now = again(&seen).await;
                if now.files.first().is_none_or(|(_, held)| held.is_none()) {
                    // Looked at again, and again: nothing says that it will change once it can be read.
                    if !std::mem::replace(&mut unreadable, true) {
                        tracing::warn!(file = %file.display(), "the configuration file cannot be read; what it said last serves on");
                    }
                    continue;
                }
                unreadable = false;
                if now == seen {
                    (known, coming) = (Some(marks), None);
                    continue;
                }
                let at = Instant::now();
                let first = coming.as_ref().map_or(at, |rest| rest.first);
                let rest = coming.take().filter(|rest| rest.marks == marks).unwrap_or(Coming { marks, since: at, first });
                let wait = wait_for(known.as_ref(), &rest.marks, &seen, &now);
                if rest.since.elapsed() < wait && rest.first.elapsed() < SETTLE_MAX {
                    coming = Some(rest);
                    looks.reset_after(wait.min(LOOK_EVERY));
                    continue;
                }
                // Mistakes have been logged, and are shown by the desk.
                let _ = control.reload().await;
                (seen, known, coming) = (control.followed(), None, None);
            }
        }
    }
}

/// A change that is waited for to be whole.
struct Coming {
    marks: Marks,
    /// When it looked like this for the first time.
    since: Instant,
    /// When it began.
    first: Instant,
}

/// How long what has changed must rest: as long as the file that needs it longest.
fn wait_for(known: Option<&Marks>, marks: &Marks, seen: &Followed, now: &Followed) -> Duration {
    let before = |path: &Path| known.and_then(|known| known.get(path));
    let changed = seen.files.iter().zip(&now.files).filter(|((_, then), (_, now))| then != now);
    let waits = changed.filter_map(|((path, then), (_, now))| {
        Some(settle(before(path), marks.get(path)?, then.as_deref(), now.as_deref().unwrap_or_default()))
    });
    waits.max().unwrap_or(SETTLE)
}

/// How long a file must rest until it is taken for whole: half a file is no configuration, even one without a mistake.
fn settle(known: Option<Mark>, mark: Mark, before: Option<&[u8]>, now: &[u8]) -> Duration {
    if known.is_none_or(|known| known.file != mark.file) {
        SETTLE
    } else if before.is_some_and(|before| before.starts_with(now)) {
        SETTLE_CUT
    } else {
        SETTLE_IN_PLACE
    }
}

/// What is followed, as it is now.
async fn again(seen: &Followed) -> Followed {
    let seen = seen.clone();
    let read = tokio::task::spawn_blocking(move || seen.again()).await;
    read.unwrap_or_default()
}

/// The marks of everything that is followed.
#[derive(Clone, PartialEq, Eq)]
struct Marks(Vec<(PathBuf, Option<Mark>)>);

impl Marks {
    async fn of(followed: &Followed) -> Marks {
        let mut marks = Vec::new();
        let paths = followed.files.iter().map(|(path, _)| path).chain(followed.folders.iter().map(|(path, ..)| path));
        for path in paths {
            marks.push((path.clone(), Mark::of(path).await));
        }
        Marks(marks)
    }

    fn get(&self, path: &Path) -> Option<Mark> {
        self.0.iter().find(|(have, _)| have == path).and_then(|(_, mark)| *mark)
    }

    fn is_fresh(&self) -> bool {
        self.0.iter().any(|(_, mark)| mark.is_some_and(|mark| mark.is_fresh()))
    }
}

/// What changes when a file does.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Mark {
    file: (u64, u64),
    is_file: bool,
    bytes: u64,
    modified: Option<SystemTime>,
    changed: (i64, i64),
}

impl Mark {
    async fn of(path: &Path) -> Option<Mark> {
        use std::os::unix::fs::MetadataExt;
        let path = if path == Path::new("") { Path::new(".") } else { path };
        let found = tokio::fs::metadata(path).await.ok()?;
        Some(Mark {
            file: (found.dev(), found.ino()),
            is_file: found.is_file(),
            // A folder's size says nothing.
            bytes: if found.is_file() { found.len() } else { 0 },
            modified: found.modified().ok(),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }

    fn is_fresh(&self) -> bool {
        self.modified.is_some_and(|modified| modified.elapsed().is_ok_and(|age| age < GRAIN))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_a_file_is_waited_for_longer_than_a_whole_one() {
        let mark = |inode, bytes| Mark { file: (1, inode), is_file: true, bytes, modified: None, changed: (0, 0) };
        let before = Some(&b"a: 1\nb: 2\n"[..]);
        assert_eq!(settle(Some(mark(1, 10)), mark(2, 5), before, b"a: 1\n"), SETTLE, "put in its place by a rename");
        assert_eq!(settle(Some(mark(1, 10)), mark(1, 10), before, b"a: 1\nb: 3\n"), SETTLE_IN_PLACE);
        assert_eq!(settle(Some(mark(1, 10)), mark(1, 5), before, b"a: 1\n"), SETTLE_CUT, "the deny route may be still to come");
        assert_eq!(settle(Some(mark(1, 10)), mark(1, 0), before, b""), SETTLE_CUT);
    }

    #[test]
    fn the_file_that_needs_the_longest_rest_is_waited_for() {
        let mark = |inode| Some(Mark { file: (1, inode), is_file: true, bytes: 1, modified: None, changed: (0, 0) });
        let of = |texts: [&str; 2]| Followed {
            files: ["a", "b"].iter().zip(texts).map(|(name, text)| (PathBuf::from(name), Some(text.into()))).collect(),
            folders: Vec::new(),
        };
        let marks = |a, b| Marks(vec![(PathBuf::from("a"), mark(a)), (PathBuf::from("b"), mark(b))]);
        let known = marks(1, 2);
        let wait = |now: &Marks, texts| wait_for(Some(&known), now, &of(["one", "two"]), &of(texts));
        assert_eq!(wait(&marks(3, 2), ["other", "two"]), SETTLE);
        assert_eq!(wait(&marks(3, 2), ["other", "tw"]), SETTLE_CUT);
        assert_eq!(wait(&marks(1, 2), ["other", "two"]), SETTLE_IN_PLACE);
        assert_eq!(wait(&marks(1, 2), ["one", "two"]), SETTLE, "a file was added");
    }
}
