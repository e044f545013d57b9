//! Bodies that come in pieces: written to a file each until the message itself comes, which says how many there are and what
//! they hash to. One thread writes (`wharf-ferry-spool`), so that no core waits for a disk; memory holds the few pieces that
//! are on their way there.
//!
//! Pieces of one body come in order, on one partition. After a crash some come again from the first: a piece with number 0
//! begins anew. Files are swept when their message did not come in time, and all of them at the next start.

use crate::clock::now_ms;
use crate::envelope::Piece;
use aws_lc_rs::digest::{Context as Digest, SHA256};
use bytes::{Bytes, BytesMut};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::thread;
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::sync::{mpsc, oneshot};
use wharf_core::body::BodyStream;
use wharf_core::fault::{Fault, FaultKind, Retry};

/// Pieces on their way to the thread.
const QUEUE_MAX: usize = 8;
/// Bodies that are not whole yet.
const BODIES_MAX: usize = 4096;
/// What is read of a file at a time.
const READ: usize = 64 * 1024;

/// Why there is no body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoBody {
    /// Pieces are missing, or do not hash to what they must.
    #[error("the body of {0} bytes in pieces is not whole: {1}")]
    Torn(u64, &'static str),
    /// More than may be held.
    #[error("bodies in pieces take {0} bytes, and more are not held; hint: raise `ferry.spool_max`")]
    Full(u64),
    /// The disk.
    #[error("the body cannot be written: {0}")]
    Disk(String),
}

/// See the head of the file.
#[derive(Clone)]
pub struct Spool {
    jobs: mpsc::Sender<Job>,
    held: Arc<AtomicU64>,
}

enum Job {
    Add(Piece),
    Finish(Want, oneshot::Sender<Result<Spooled, NoBody>>),
    Forget(u64),
}

/// What a message says of its body.
#[derive(Clone, Copy, Debug)]
pub struct Want {
    /// The message.
    pub id: u64,
    /// Pieces.
    pub count: u32,
    /// Bytes of all.
    pub bytes: u64,
    /// Of all.
    pub sha256: [u8; 32],
}

/// A whole body in a file, which goes with it.
pub struct Spooled {
    path: PathBuf,
    /// Its size.
    pub bytes: u64,
    held: Arc<AtomicU64>,
}

impl Drop for Spooled {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        self.held.fetch_sub(self.bytes, Relaxed);
    }
}

impl Spool {
    /// A spool in this folder, which is its own: what is in it from an earlier run is removed.
    ///
    /// # Errors
    /// The folder or the thread cannot be made.
    pub fn open(dir: &Path, bytes_max: u64) -> io::Result<Spool> {
        let _ = fs::remove_dir_all(dir);
        fs::create_dir_all(dir)?;
        let (jobs, mut asked) = mpsc::channel(QUEUE_MAX);
        let held = Arc::new(AtomicU64::new(0));
        let mut desk = Desk { dir: dir.to_owned(), bytes_max, held: held.clone(), open: HashMap::new() };
        thread::Builder::new().name("wharf-ferry-spool".into()).spawn(move || {
            while let Some(job) = asked.blocking_recv() {
                desk.work(job);
            }
        })?;
        Ok(Spool { jobs, held })
    }

    /// Takes a piece. Waits while the disk is behind.
    pub async fn add(&self, piece: Piece) {
        let _ = self.jobs.send(Job::Add(piece)).await;
    }

    /// The body of a message that has come.
    ///
    /// # Errors
    /// See [`NoBody`].
    pub async fn finish(&self, want: Want) -> Result<Spooled, NoBody> {
        let (tell, told) = oneshot::channel();
        let gone = || NoBody::Disk("the spool has ended".into());
        self.jobs.send(Job::Finish(want, tell)).await.map_err(|_| gone())?;
        told.await.map_err(|_| gone())?
    }

    /// A body that nobody wants.
    pub async fn forget(&self, id: u64) {
        let _ = self.jobs.send(Job::Forget(id)).await;
    }

    /// Bytes of bodies in files.
    pub fn held(&self) -> u64 {
        self.held.load(Relaxed)
    }
}

/// What the thread has.
struct Desk {
    dir: PathBuf,
    bytes_max: u64,
    held: Arc<AtomicU64>,
    open: HashMap<u64, Open>,
}

/// A body that is not whole yet.
struct Open {
    file: Option<File>,
    next: u32,
    bytes: u64,
    digest: Digest,
    deadline_ms: u64,
    /// What is wrong with it.
    broken: Option<NoBody>,
}

impl Desk {
    fn work(&mut self, job: Job) {
        match job {
            Job::Add(piece) => self.add(&piece),
            Job::Finish(want, tell) => {
                let finished = self.finish(&want);
                if finished.is_err() {
                    self.forget(want.id);
                }
                let _ = tell.send(finished);
            }
            Job::Forget(id) => self.forget(id),
        }
    }

    fn path(&self, id: u64) -> PathBuf {
        self.dir.join(format!("{id}.body"))
    }

    fn add(&mut self, piece: &Piece) {
        if piece.number == 0 {
            self.forget(piece.id);
            self.sweep();
            let file = File::create(self.path(piece.id));
            let broken = file.as_ref().err().map(|error| NoBody::Disk(error.to_string()));
            let digest = Digest::new(&SHA256);
            let open = Open { file: file.ok(), next: 0, bytes: 0, digest, deadline_ms: piece.deadline_ms, broken };
            self.open.insert(piece.id, open);
        }
        let Some(open) = self.open.get_mut(&piece.id) else { return };
        if piece.number.wrapping_add(1) == open.next {
            // Sent twice by who could not know whether it was kept.
            return;
        }
        if piece.number != open.next {
            open.broken.get_or_insert(NoBody::Torn(open.bytes, "a piece is missing"));
            return;
        }
        let bytes = piece.bytes.len() as u64;
        if self.held.load(Relaxed) + bytes > self.bytes_max {
            open.broken.get_or_insert(NoBody::Full(self.bytes_max));
        }
        if let (None, Some(file)) = (&open.broken, &mut open.file) {
            match file.write_all(&piece.bytes) {
                Ok(()) => {
                    open.digest.update(&piece.bytes);
                    open.bytes += bytes;
                    open.next += 1;
                    self.held.fetch_add(bytes, Relaxed);
                }
                Err(error) => open.broken = Some(NoBody::Disk(error.to_string())),
            }
        }
    }

    fn finish(&mut self, want: &Want) -> Result<Spooled, NoBody> {
        let torn = |why| NoBody::Torn(want.bytes, why);
        let open = self.open.get(&want.id).ok_or(torn("none of its pieces came"))?;
        if let Some(broken) = &open.broken {
            return Err(broken.clone());
        }
        if (open.next, open.bytes) != (want.count, want.bytes) {
            return Err(torn("there are not as many pieces as its message says"));
        }
        let Some(open) = self.open.remove(&want.id) else { return Err(torn("it is gone")) };
        let spooled = Spooled { path: self.path(want.id), bytes: open.bytes, held: self.held.clone() };
        if open.digest.finish().as_ref() != want.sha256 {
            return Err(torn("its checksum is another"));
        }
        Ok(spooled)
    }

    fn forget(&mut self, id: u64) {
        if let Some(open) = self.open.remove(&id) {
            let _ = fs::remove_file(self.path(id));
            self.held.fetch_sub(open.bytes, Relaxed);
        }
    }

    /// Makes room: those whose message did not come, and if there are still too many, the one that waits longest.
    fn sweep(&mut self) {
        let now = now_ms();
        let late: Vec<u64> = self.open.iter().filter(|(_, open)| open.deadline_ms < now).map(|(id, _)| *id).collect();
        late.into_iter().for_each(|id| self.forget(id));
        if self.open.len() >= BODIES_MAX
            && let Some(first) = self.open.keys().min().copied()
        {
            self.forget(first);
        }
    }
}

/// A whole body on its way out of its file.
pub struct SpooledBody {
    spooled: Spooled,
    file: tokio::fs::File,
    left: u64,
}

impl Spooled {
    /// Reads it, once.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub async fn body(self) -> io::Result<SpooledBody> {
        let file = tokio::fs::File::open(&self.path).await?;
        Ok(SpooledBody { left: self.bytes, spooled: self, file })
    }
}

impl BodyStream for SpooledBody {
    fn poll_chunk(&mut self, task: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        let cut = |what: String| {
            let what = format!("a body in pieces cannot be read again: {what}");
            Poll::Ready(Err(Fault::upstream(FaultKind::Reset, Retry::Never, what)))
        };
        if self.left == 0 {
            return Poll::Ready(Ok(None));
        }
        let mut room = BytesMut::zeroed(READ.min(usize::try_from(self.left).unwrap_or(READ)));
        let mut into = ReadBuf::new(&mut room);
        match ready!(Pin::new(&mut self.file).poll_read(task, &mut into)) {
            Err(error) => cut(error.to_string()),
            Ok(()) if into.filled().is_empty() => cut(format!("{} is shorter than it was", self.spooled.path.display())),
            Ok(()) => {
                let count = into.filled().len();
                room.truncate(count);
                self.left = self.left.saturating_sub(count as u64);
                Poll::Ready(Ok(Some(room.freeze())))
            }
        }
    }

    fn size(&self) -> Option<u64> {
        Some(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    fn piece(number: u32, bytes: &'static str) -> Piece {
        Piece { id: 1, number, deadline_ms: u64::MAX, bytes: Bytes::from(bytes), ..Piece::default() }
    }

    fn want(count: u32, all: &str) -> Want {
        let sha256 = aws_lc_rs::digest::digest(&SHA256, all.as_bytes()).as_ref().try_into().unwrap();
        Want { id: 1, count, bytes: all.len() as u64, sha256 }
    }

    async fn read(spooled: Spooled) -> Vec<u8> {
        let (mut body, mut all) = (spooled.body().await.unwrap(), Vec::new());
        while let Some(chunk) = poll_fn(|task| body.poll_chunk(task)).await.unwrap() {
            all.extend_from_slice(&chunk);
        }
        all
    }

    #[tokio::test]
    async fn a_body_is_whole_or_there_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path(), 100).unwrap();
        for number in [0, 1, 1, 2] {
            spool.add(piece(number, ["one ", "two ", "three"][number as usize])).await;
        }
        assert_eq!(read(spool.finish(want(3, "one two three")).await.unwrap()).await, b"one two three");
        assert_eq!((spool.held(), fs::read_dir(dir.path()).unwrap().count()), (0, 0), "nothing is left of it");

        for (pieces, wanted) in
            [(&[0][..], want(2, "one two ")), (&[0, 2], want(2, "one three")), (&[1], want(1, "two ")), (&[0, 1], want(2, "one twO "))]
        {
            for number in pieces {
                spool.add(piece(*number, ["one ", "two ", "three"][*number as usize])).await;
            }
            assert!(matches!(spool.finish(wanted).await, Err(NoBody::Torn(..))), "{pieces:?}");
            assert_eq!((spool.held(), fs::read_dir(dir.path()).unwrap().count()), (0, 0), "{pieces:?}");
        }
    }

    #[tokio::test]
    async fn pieces_that_come_again_begin_anew_and_bounds_hold() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path(), 8).unwrap();
        for number in [0, 0, 1] {
            spool.add(piece(number, ["one ", "two "][number as usize])).await;
        }
        assert_eq!(read(spool.finish(want(2, "one two ")).await.unwrap()).await, b"one two ");
        spool.add(piece(0, "much too much")).await;
        assert_eq!(spool.finish(want(1, "much too much")).await.err(), Some(NoBody::Full(8)));
    }
}
