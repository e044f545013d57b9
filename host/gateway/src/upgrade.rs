//! THE LIFE OF AN UPGRADE: a newer binary takes over from this process, and nobody outside notices.
//!
//! ```text
//! OLD  run.rs serves                                NEW
//! asked (`wharf upgrade`, SIGUSR2)
//! the catalog stands still
//! starts the binary as it is on disk now      ->    reads its configuration
//! hands it the sockets that listen, and the
//! lock on the catalog's folder                ->    takes them, opens the catalog, assembles, starts its cores
//!                                             <-    Begun
//!                                             <-    Prepared: could serve, but for the store (asks the old one's)
//! lets calls of the store end, closes it
//! Yours                                       ->    opens the store, accepts connections
//!                                             <-    Serving
//! drains, as on SIGTERM; its plugins use the
//! store of the new one until they are done
//! ends                                              serves
//! ```
//!
//! Whatever fails before `Serving` ends the new process, and the old one goes on as if nothing had been asked: it has
//! accepted connections all the time. The sockets are the same ones in both, so no connection that the kernel has
//! accepted is lost.

mod link;
mod store;

pub use store::HandedStore;

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use link::{FILES_MAX, Message};
use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use store::Asker;
use tokio::sync::{Semaphore, mpsc, oneshot};
use wharf_core::store::Store;
use wharf_wasm::Catalog;

/// Which way of handing over this is. Another one is refused: then a restart does it.
const PROTOCOL: u32 = 1;
/// Tells a process that it is to take over, and from whom. An id of another process in a stray variable means nothing.
const TAKE_OVER: &str = "WHARF_TAKE_OVER";
/// How long the new process may take to say its first word: who says none is no gateway.
const BEGIN_MAX: Duration = Duration::from_secs(10);
/// How long it may take from there to be prepared: it may have to compile every plugin for another engine.
const PREPARE_MAX: Duration = Duration::from_secs(150);
/// How long it may take from there until it serves. Shorter than plugins wait for the store, which is nobody's meanwhile: one
/// that hangs must cost them nothing.
const SERVE_MAX: Duration = Duration::from_secs(12);
/// How long it waits for the store. Calls that have begun end first.
const STORE_MAX: Duration = Duration::from_secs(30);
/// How long one that has closed the line may take to end.
const FAREWELL: Duration = Duration::from_secs(2);
/// How long it waits for the sockets, which are sent before it has begun to read.
const SOCKETS_MAX: Duration = Duration::from_secs(10);
/// Questions of the other process that are answered at once.
const ANSWERED_MAX: usize = 256;
/// Messages that wait to be written.
const WRITTEN_MAX: usize = 64;

/// Sockets that listen for connections of one listener. `None`: of the admin API.
pub struct Listening {
    /// Whose.
    pub listener: Option<String>,
    /// Where.
    pub address: SocketAddr,
    /// One for each core.
    pub sockets: Vec<TcpListener>,
}

/// Who wants an upgrade, and waits to be told the new process's id.
pub type Ask = oneshot::Sender<std::result::Result<u32, String>>;

/// What there is to hand over.
pub struct Estate {
    /// The binary's file, as the process was started with it: another one may be there now.
    pub binary: PathBuf,
    /// Clones of what listens.
    pub listening: Vec<Listening>,
    /// Stands still while it is handed over, and changes no more after that.
    pub catalog: Arc<Catalog>,
    /// Of this process.
    pub store: Arc<HandedStore>,
}

/// What has been handed over.
pub struct Handed {
    /// The new process.
    pub pid: u32,
    /// Listeners whose connections it accepts from now on.
    pub taken: HashSet<String>,
}

impl Estate {
    /// Starts the binary and hands everything over. `reopen` opens the store again if that fails at the last moment.
    ///
    /// # Errors
    /// The new process could not be started, ended, or was not ready in time; this one serves on.
    ///
    /// # Cancel safety
    /// Dropping it kills the new process. The store may be closed by then: only a process that ends may drop this.
    pub async fn hand_over(&self, reopen: impl AsyncFnOnce() -> Result<Box<dyn Store>>) -> Result<Handed> {
        let binary = &self.binary;
        let frozen = self.catalog.freeze().await;
        let (ours, theirs) = UnixStream::pair().context("cannot make a line to the new process")?;
        let mut child = tokio::process::Command::new(binary)
            .args(std::env::args_os().skip(1))
            .env(TAKE_OVER, std::process::id().to_string())
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("the binary {} cannot be started", binary.display()))?;
        let pid = child.id().context("the new process ended at once")?;
        tracing::info!(pid, binary = %binary.display(), "an upgrade has begun: a new process prepares itself");

        // A handful of small messages: the socket takes them before anybody reads.
        self.send_sockets(&ours).context("the sockets cannot be handed over")?;
        let (tell, told) = mpsc::channel(WRITTEN_MAX);
        let line = Line { asker: Asker::new(tell.clone()), tell };
        let mut said = line.run(ours, told, self.store.clone())?;
        let ended = |status: std::io::Result<std::process::ExitStatus>| {
            let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
            anyhow!("the new process ended before it served ({how}); it has said why in the log")
        };
        let mut wait = async |child: &mut tokio::process::Child, max: Duration, what: &str| {
            let heard = tokio::select! {
                heard = tokio::time::timeout(max, said.recv()) => heard,
                status = child.wait() => return Err(ended(status)),
            };
            match heard {
                Ok(Some(message)) => Ok(message),
                // It has closed the line: it is about to end, and how is worth knowing. If it lives on, it is killed.
                Ok(None) => match tokio::time::timeout(FAREWELL, child.wait()).await {
                    Ok(status) => Err(ended(status)),
                    Err(_) => Err(anyhow!("the new process has closed its standard input, the line to this one, and lives on")),
                },
                Err(_) => Err(anyhow!("the new process {what} within {max:?}")),
            }
        };
        let begun = (Message::Begun, BEGIN_MAX, "did not begin to take over");
        for (expected, max, not) in [begun, (Message::Prepared, PREPARE_MAX, "was not prepared")] {
            let heard = wait(&mut child, max, not).await?;
            if heard != expected {
                bail!("the new process said {heard:?} instead of {expected:?}");
            }
        }

        self.store.close().await;
        line.say(Message::Yours).await;
        let serving = match wait(&mut child, SERVE_MAX, "did not serve").await {
            Ok(Message::Serving { taken }) => Ok(taken),
            Ok(other) => Err(anyhow!("the new process said {other:?} instead of serving")),
            Err(error) => Err(error),
        };
        match serving {
            Ok(taken) => {
                self.store.is_there(line.asker.clone());
                self.catalog.retire(frozen);
                std::mem::forget(child);
                tracing::info!(pid, "the new process serves");
                Ok(Handed { pid, taken: taken.into_iter().collect() })
            }
            Err(error) => {
                // It may have the store's files open: they are ours again when it has ended.
                let _ = child.kill().await;
                self.store.is_here(reopen().await.context("the store cannot be opened again after a failed upgrade")?);
                Err(error)
            }
        }
    }

    fn send_sockets(&self, line: &UnixStream) -> Result<()> {
        line.set_write_timeout(Some(SOCKETS_MAX))?;
        for Listening { listener, address, sockets } in &self.listening {
            for some in sockets.chunks(FILES_MAX) {
                let some: Vec<BorrowedFd<'_>> = some.iter().map(AsFd::as_fd).collect();
                link::send_files(line, &Message::Sockets { listener: listener.clone(), address: *address }, &some)?;
            }
        }
        let lock = self.catalog.lock_file()?;
        link::send_files(line, &Message::Lock { protocol: PROTOCOL }, &[lock.as_fd()])
    }
}

/// What a new process has been given by the one that it takes over from.
pub struct Inheritance {
    line: UnixStream,
    listening: Vec<Listening>,
    lock: Option<File>,
}

impl Inheritance {
    /// Takes what there is to take. `None`: nobody hands anything over to this process.
    ///
    /// # Errors
    /// The old process has gone, or hands over in another way than this one takes.
    pub fn take() -> Result<Option<Inheritance>> {
        let from = std::env::var(TAKE_OVER).ok().and_then(|pid| pid.parse::<i32>().ok());
        let parent = rustix::process::getppid().map(|parent| parent.as_raw_nonzero().get());
        if from.is_none() || from != parent {
            return Ok(None);
        }
        let line = UnixStream::from(rustix::io::fcntl_dupfd_cloexec(std::io::stdin(), 3).context("standard input is not open")?);
        line.set_read_timeout(Some(SOCKETS_MAX)).context("standard input is no line to another process")?;
        let mut listening: Vec<Listening> = Vec::new();
        loop {
            let (message, files) = link::receive_files(&line).context("the old process has not handed its sockets over")?;
            match message {
                Message::Sockets { listener, address } => {
                    let sockets = files.into_iter().map(TcpListener::from);
                    match listening.iter_mut().find(|have| (&have.listener, have.address) == (&listener, address)) {
                        Some(have) => have.sockets.extend(sockets),
                        None => listening.push(Listening { listener, address, sockets: sockets.collect() }),
                    }
                }
                Message::Lock { protocol: PROTOCOL } => {
                    let lock = files.into_iter().next().map(File::from);
                    link::send_files(&line, &Message::Begun, &[])?;
                    return Ok(Some(Inheritance { line, listening, lock }));
                }
                Message::Lock { protocol } => {
                    bail!("the old process hands over in way {protocol}, this one takes over in way {PROTOCOL}; hint: restart instead")
                }
                other => bail!("the old process said {other:?} instead of handing its sockets over"),
            }
        }
    }

    /// The sockets of a listener that is to listen at this address; a port of 0 is any. `None` of the admin API.
    pub fn sockets(&mut self, listener: Option<&str>, wanted: SocketAddr) -> Option<(SocketAddr, Vec<TcpListener>)> {
        let fits = |have: &Listening| {
            let (at, port) = (have.address, wanted.port());
            have.listener.as_deref() == listener && at.ip() == wanted.ip() && (port == 0 || port == at.port())
        };
        let at = self.listening.iter().position(fits)?;
        let Listening { address, sockets, .. } = self.listening.swap_remove(at);
        Some((address, sockets))
    }

    /// The lock on the catalog's folder.
    pub fn lock(&mut self) -> Option<File> {
        self.lock.take()
    }

    /// Begins to talk to the old process. The store is its, for now.
    ///
    /// # Errors
    /// The line cannot be used.
    pub fn heir(self) -> Result<(Heir, Arc<HandedStore>)> {
        // Sockets that nobody has taken are closed here: the old process takes what waits there.
        let Inheritance { line: stream, listening: _, lock: _ } = self;
        stream.set_read_timeout(None)?;
        let (tell, told) = mpsc::channel(WRITTEN_MAX);
        let line = Line { asker: Asker::new(tell.clone()), tell };
        let store = Arc::new(HandedStore::there(line.asker.clone()));
        let said = line.run(stream, told, store.clone())?;
        Ok((Heir { line, said }, store))
    }
}

/// A new process on its way to serving.
pub struct Heir {
    line: Line,
    said: mpsc::Receiver<Message>,
}

impl Heir {
    /// Says that all is ready but for the store, waits until nobody else has it, opens it and puts it where everybody
    /// finds it.
    ///
    /// # Errors
    /// The old process has gone, or has thought better of it; or what `open` says. It serves on.
    pub async fn take_store(mut self, to: &HandedStore, open: impl Future<Output = Result<Box<dyn Store>>>) -> Result<Heir> {
        self.line.say(Message::Prepared).await;
        match tokio::time::timeout(STORE_MAX, self.said.recv()).await {
            Ok(Some(Message::Yours)) => {}
            Ok(Some(other)) => bail!("the old process said {other:?} instead of handing its store over"),
            Ok(None) => bail!("the old process has ended or given the upgrade up"),
            Err(_) => bail!("the old process did not hand its store over within {STORE_MAX:?}"),
        }
        to.is_here(open.await?);
        Ok(self)
    }

    /// Says that connections of these listeners are accepted. The old process drains from here on, and asks for the store
    /// as long as it lives.
    pub async fn serves(self, taken: impl Iterator<Item = String>) -> Elder {
        self.line.say(Message::Serving { taken: taken.collect() }).await;
        Elder(self.said)
    }
}

/// The process that this one has taken over from, while it drains.
pub struct Elder(mpsc::Receiver<Message>);

impl Elder {
    /// Waits until it has ended: until then this process is its way to the store, whoever has it by now.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub async fn gone(&mut self) {
        while self.0.recv().await.is_some() {}
    }
}

/// One end of the line, being read and written by tasks that end with the other process.
struct Line {
    tell: mpsc::Sender<(Message, Bytes)>,
    asker: Arc<Asker>,
}

impl Line {
    async fn say(&self, message: Message) {
        // Should the other one have gone, that is heard on the way back.
        let _ = self.tell.send((message, Bytes::new())).await;
    }

    /// Reads and writes from now on, until the other process ends. Its questions are answered from `store`; what is
    /// neither question nor answer comes out of the receiver.
    fn run(
        &self,
        stream: UnixStream,
        mut told: mpsc::Receiver<(Message, Bytes)>,
        store: Arc<HandedStore>,
    ) -> Result<mpsc::Receiver<Message>> {
        stream.set_nonblocking(true)?;
        let (mut from, mut to) = tokio::net::UnixStream::from_std(stream)?.into_split();
        let (hand_on, said) = mpsc::channel(8);
        let (tell, asker) = (self.tell.clone(), self.asker.clone());
        tokio::spawn(async move {
            while let Some((message, blob)) = told.recv().await {
                if link::write(&mut to, &message, &blob).await.is_err() {
                    break;
                }
            }
        });
        tokio::spawn(async move {
            let answering = Arc::new(Semaphore::new(ANSWERED_MAX));
            let why = loop {
                match link::read(&mut from).await {
                    Ok((Message::Ask { id, question }, blob)) => {
                        // No more are read while so many are being answered.
                        let Ok(place) = answering.clone().acquire_owned().await else { return };
                        let (store, tell) = (store.clone(), tell.clone());
                        tokio::spawn(async move {
                            let (said, blob) = store.answer(question, blob).await;
                            drop(place);
                            let _ = tell.send((Message::Said { id, said }, blob)).await;
                        });
                    }
                    Ok((Message::Said { id, said }, blob)) => asker.said(id, said, blob),
                    // Who does not listen any more has heard all that he needs.
                    Ok((message, _)) => drop(hand_on.try_send(message)),
                    Err(error) => break error,
                }
            };
            tracing::debug!(%why, "the line to the other process has ended");
            asker.gone();
        });
        Ok(said)
    }
}

/// The file that this process's binary was started from, to start what is there later.
///
/// Not what the kernel names: a link (`/opt/wharf/current`) is to be followed when it is used, not now.
pub fn own_binary() -> PathBuf {
    binary_named(std::env::args_os().next(), std::env::current_dir().ok().as_deref())
}

fn binary_named(name: Option<OsString>, folder: Option<&Path>) -> PathBuf {
    let named = name.map(PathBuf::from).filter(|name| name.components().count() > 1);
    match (named, folder) {
        (Some(name), _) if name.is_absolute() => name,
        (Some(name), Some(folder)) => folder.join(name),
        // Found by PATH. Asked for now: later it may be another file's name.
        _ => std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into()),
    }
}
