//! Control: what serves, and how it changes. One task at a time makes generations; cores take and acknowledge them.
//!
//! A change comes from three sides: the configuration file (watched, SIGHUP, or asked for), the plugin catalog (a push,
//! an activation, a fall back), and nothing else. A file with a mistake changes nothing: it is told, and what served goes
//! on. Directories change endpoints without a generation.

use crate::assemble::{self, Generation};
use crate::config::plan::{Plan, Source};
use crate::config::{self, Mistakes, Surroundings};
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::io::AsyncReadExt as _;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use wharf_core::directory::{Directory, Listed};
use wharf_core::metrics::{Count, Level, Registry};
use wharf_embedded::dns::{DnsDirectory, DnsTimes, Host, Source as DnsSource, SystemResolver};
use wharf_embedded::fixed::FixedDirectory;
use wharf_http::routes::Routes;
use wharf_upstream::Services;
use wharf_wasm::{COMPONENT_BYTES_MAX, Catalog, Problem, Push};

/// How long a core may take to take a generation over before an operator is told that it has not.
const TAKE_OVER_MAX: Duration = Duration::from_secs(2);
/// How long names may take to be resolved before the first generation serves without them.
const NAMES_MAX: Duration = Duration::from_secs(5);
/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A file that took another's place and was not touched for this long is whole.
const SETTLE: Duration = Duration::from_millis(50);
/// One that is written where it stands: whoever writes may be slow.
const SETTLE_IN_PLACE: Duration = Duration::from_secs(1);
/// One that says the beginning of what it said before: most likely the rest is still to come.
const SETTLE_CUT: Duration = Duration::from_secs(10);
/// How long a file that does not come to rest is waited for.
const SETTLE_MAX: Duration = Duration::from_secs(20);
/// The coarsest clock of a file system in use.
const GRAIN: Duration = Duration::from_secs(2);

/// An operator who waits for the file to be read.
pub type Ask = oneshot::Sender<Result<u64, Refused>>;

/// Why a file was not put in force.
#[derive(Clone, Debug)]
pub enum Refused {
    /// It has mistakes.
    Mistakes(Mistakes),
    /// Attachments whose plugin does not accept what the file says.
    Attachments(Vec<Problem>),
    /// A fault of ours.
    Internal,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refused::Mistakes(mistakes) => mistakes.fmt(f),
            Refused::Attachments(problems) => problems.iter().try_for_each(|problem| {
                writeln!(f, "{}: {}", problem.place, problem.message)?;
                problem.hint.iter().try_for_each(|hint| writeln!(f, "  hint: {hint}"))
            }),
            Refused::Internal => f.write_str("reading the file failed in a way that must not happen"),
        }
    }
}

/// Makes generations. House-wide; its methods are called from the control thread.
pub struct Control {
    path: PathBuf,
    /// What the process was started with.
    started: Arc<Plan>,
    catalog: Arc<Catalog>,
    services: Arc<Services>,
    generations: watch::Sender<Arc<Generation>>,
    /// The newest generation that each core serves.
    applied: Vec<Arc<AtomicU64>>,
    /// One reading of the file at a time, so that the newest is put in force last.
    reading: tokio::sync::Mutex<()>,
    /// One change at a time. Never held while a file is read: that may take as long as a disk or a network wants.
    turn: tokio::sync::Mutex<()>,
    /// Operators who want the file to be read now; see [`follow_file`].
    asks: mpsc::Sender<Ask>,
    state: Mutex<State>,
    counts: Counts,
}

struct Counts {
    reloads: Arc<Count>,
    refused: Arc<Count>,
    generation: Arc<Level>,
    problems: Arc<Level>,
}

#[derive(Default)]
struct State {
    directories: HashMap<Arc<str>, Kept>,
    shown: Shown,
}

struct Kept {
    source: Source,
    following: Option<JoinHandle<()>>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(following) = &self.following {
            following.abort();
        }
    }
}

/// What an operator is told about the configuration.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// When the file that serves was read.
    pub since: Option<SystemTime>,
    /// Why the newest file does not serve, if it does not.
    pub refused: Option<Refused>,
    /// Attachments that are not served as written.
    pub problems: Vec<Problem>,
    /// Changes in the file that only a restart brings.
    pub needs_restart: Vec<String>,
}

impl Control {
    /// Assembles the first generation.
    pub async fn start(
        path: PathBuf,
        plan: Plan,
        catalog: Arc<Catalog>,
        services: Arc<Services>,
        applied: Vec<Arc<AtomicU64>>,
        metrics: &Registry,
    ) -> (Arc<Control>, mpsc::Receiver<Ask>) {
        // Operators are few; the next one waits in its own call.
        let (asks, asked) = mpsc::channel(4);
        let plan = Arc::new(plan);
        let routes = compile(&plan);
        let empty = Arc::new(Generation::new(0, plan.clone(), routes, &services, &catalog, None));
        let control = Arc::new(Control {
            path,
            started: plan.clone(),
            catalog,
            services,
            generations: watch::Sender::new(empty),
            applied,
            reading: tokio::sync::Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            asks,
            state: Mutex::default(),
            counts: Counts {
                reloads: metrics.count("wharf_config_reloads_total", "configuration files that were put in force", &[]),
                refused: metrics.count("wharf_config_refused_total", "configuration files that were refused for a mistake", &[]),
                generation: metrics.level("wharf_generation", "number of the generation that serves", &[]),
                problems: metrics.level("wharf_plugin_problems", "attachments that are not served as written", &[]),
            },
        });
        // Not strict: it cannot refuse.
        let _ = control.adopt(plan, false).await;
        (control, asked)
    }

    /// What every core follows.
    pub fn generations(&self) -> watch::Receiver<Arc<Generation>> {
        self.generations.subscribe()
    }

    /// The generation that serves.
    pub fn serving(&self) -> Arc<Generation> {
        self.generations.borrow().clone()
    }

    /// What an operator is told.
    pub fn shown(&self) -> Shown {
        self.lock().shown.clone()
    }

    /// The file that is followed.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Do all cores serve the newest generation?
    pub fn is_applied(&self) -> bool {
        let number = self.serving().number;
        self.applied.iter().all(|core| core.load(Ordering::Acquire) >= number)
    }

    /// Has the file read and put in force, from any thread. `None`: the gateway is ending.
    pub async fn ask_reload(&self) -> Option<Result<u64, Refused>> {
        let (tell, told) = oneshot::channel();
        self.asks.send(tell).await.ok()?;
        told.await.ok()
    }

    /// Reads the file and puts it in force.
    ///
    /// # Errors
    /// Every mistake in it, or every attachment that its plugin refuses; what served goes on serving.
    pub async fn reload(&self) -> Result<u64, Refused> {
        let _reading = self.reading.lock().await;
        let path = self.path.clone();
        // Binding test sockets and reading files may wait for the disk.
        let read = tokio::task::spawn_blocking(move || config::load(&path, &Surroundings::here())).await;
        let adopted = match read {
            Ok(Ok(plan)) => {
                let _turn = self.turn.lock().await;
                self.adopt(Arc::new(plan), true).await
            }
            Ok(Err(mistakes)) => Err(Refused::Mistakes(mistakes)),
            Err(panicked) => {
                tracing::error!(%panicked, "reading the configuration panicked");
                Err(Refused::Internal)
            }
        };
        match adopted {
            Ok(()) => self.counts.reloads.add_shared(1),
            Err(refused) => {
                self.counts.refused.add_shared(1);
                tracing::warn!(file = %self.path.display(), "the configuration was not put in force; the last good one serves on:\n{refused}");
                self.lock().shown.refused = Some(refused.clone());
                return Err(refused);
            }
        }
        Ok(self.serving().number)
    }

    /// Follows the catalog: every change of what is ready becomes a generation, and may mend what could not be served as
    /// written. Never resolves.
    pub async fn follow_catalog(self: Arc<Self>) {
        let mut changed = self.catalog.changed();
        while changed.changed().await.is_ok() {
            {
                let _turn = self.turn.lock().await;
                if self.serving().catalog == *changed.borrow_and_update() {
                    // A file was put in force meanwhile, with it.
                    continue;
                }
                let plan = self.serving().plan.clone();
                self.send(plan.clone(), None).await;
                if !self.lock().shown.problems.is_empty() {
                    let left = self.catalog.prepare(assemble::wants(&plan)).await.problems;
                    self.tell(left);
                }
            }
            // A file that a plugin refused may be what the new version accepts. While it is refused nothing is adopted, so
            // this cannot go round.
            if matches!(self.lock().shown.refused, Some(Refused::Attachments(_))) {
                let _ = self.reload().await;
            }
        }
    }

    fn tell(&self, problems: Vec<Problem>) {
        self.counts.problems.set(problems.len() as i64);
        self.lock().shown.problems = problems;
    }

    /// Pushes the component files that the configuration names for plugins that have no version yet.
    async fn fetch_files(&self, plan: &Plan) -> Vec<(Arc<str>, String)> {
        let mut failed = Vec::new();
        for plugin in &plan.plugins {
            let Some(file) = &plugin.file else { continue };
            if self.catalog.versions(&plugin.name).is_ok_and(|versions| !versions.is_empty()) {
                continue;
            }
            // A byte more than is taken, so that the catalog's own words refuse it.
            let mut wasm = Vec::new();
            let read = async { tokio::fs::File::open(file).await?.take(COMPONENT_BYTES_MAX as u64 + 1).read_to_end(&mut wasm).await };
            match read.await {
                Ok(_) => {}
                Err(error) => {
                    failed.push((plugin.name.clone(), format!("its file {} cannot be read: {error}", file.display())));
                    continue;
                }
            };
            let push = Push { activate: true, note: format!("from the configuration: {}", file.display()) };
            if let Err(error) = self.catalog.push(&plugin.name, wasm.into(), push).await {
                failed.push((plugin.name.clone(), format!("its file {} was refused: {error}", file.display())));
            }
        }
        failed
    }

    /// Puts a plan in force: plugins, directories, then the generation. `strict`: not if a plugin refuses what the plan
    /// attaches it with. (At the start there is nothing else to serve, so what can serve serves.)
    async fn adopt(&self, plan: Arc<Plan>, strict: bool) -> Result<(), Refused> {
        let mut prepared = self.catalog.prepare(assemble::wants(&plan)).await;
        let mut problems = std::mem::take(&mut prepared.problems);
        // That nothing has been uploaded yet is no mistake: a push will mend it.
        let refuses: Vec<_> = problems.iter().filter(|problem| problem.code != "nothing-serves").cloned().collect();
        if strict && !refuses.is_empty() {
            return Err(Refused::Attachments(refuses));
        }
        self.catalog.adopt(prepared);
        // Wanted first, so that a component from a file is rehearsed with what it will be attached with.
        for (plugin, why) in self.fetch_files(&plan).await {
            tracing::error!(%plugin, why, "a plugin of the configuration has no version");
        }
        if plan.plugins.iter().any(|plugin| plugin.file.is_some()) {
            problems = self.catalog.want(assemble::wants(&plan)).await;
        }
        for problem in &problems {
            tracing::warn!(plugin = %problem.plugin, place = %problem.place, hint = problem.hint.as_deref(), "{}", problem.message);
        }
        self.directories(&plan).await;
        let needs_restart = needs_restart(&self.started, &plan);
        if !needs_restart.is_empty() {
            tracing::warn!(?needs_restart, "part of the configuration is only taken at a restart");
        }
        self.lock().shown = Shown { since: Some(SystemTime::now()), refused: None, problems: Vec::new(), needs_restart };
        self.tell(problems);
        let routes = Some(compile(&plan));
        self.send(plan, routes).await;
        Ok(())
    }

    /// Makes the next generation, hands it to the cores and waits until all serve it.
    async fn send(&self, plan: Arc<Plan>, routes: Option<Arc<Routes>>) {
        let before = self.serving();
        let number = before.number + 1;
        let routes = routes.unwrap_or_else(|| before.routes.clone());
        let generation = Arc::new(Generation::new(number, plan, routes, &self.services, &self.catalog, Some(&before)));
        self.generations.send_replace(generation);
        self.counts.generation.set(number as i64);
        // Before the cores have started nobody follows, and nobody has to.
        if self.generations.receiver_count() > 0 && !self.taken_over(TAKE_OVER_MAX).await {
            tracing::warn!(generation = number, "a core is slow to take over the new generation");
        }
        tracing::info!(generation = number, "serving");
    }

    /// Waits until all cores serve the newest generation, but not longer than `max`. Have they?
    pub async fn taken_over(&self, max: Duration) -> bool {
        let end = Instant::now() + max;
        while !self.is_applied() {
            if Instant::now() > end {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        true
    }

    /// One directory for each service; those whose source stays are kept with all they know.
    async fn directories(&self, plan: &Plan) {
        let mut asked = Vec::new();
        {
            let mut state = self.lock();
            let mut next = HashMap::new();
            for service in &plan.services {
                let kept = state.directories.remove(&service.name);
                if let Some(kept) = kept.filter(|kept| kept.source == service.source) {
                    next.insert(service.name.clone(), kept);
                    continue;
                }
                let kept = match &service.source {
                    // A directory that lists other endpoints takes the place of the old one; endpoints that both list
                    // keep their connections.
                    Source::Fixed(endpoints) => {
                        self.services.put(&service.name, FixedDirectory::new(listed(endpoints)));
                        Kept { source: service.source.clone(), following: None }
                    }
                    Source::Dns { name, port, refresh } => {
                        let source = DnsSource { host: Host::Name(name.clone()), port: *port, weight: 1, zone: None, tags: Box::default() };
                        let times = DnsTimes { interval: *refresh, ..DnsTimes::default() };
                        let dns = DnsDirectory::new(vec![source], Arc::new(SystemResolver), times);
                        let following = tokio::spawn(dns.run());
                        self.services.put(&service.name, dns.clone() as Arc<dyn Directory>);
                        asked.push(dns);
                        Kept { source: service.source.clone(), following: Some(following) }
                    }
                };
                next.insert(service.name.clone(), kept);
            }
            state.directories = next;
        }
        // Names get a moment, so that the first requests after a start do not find an empty service.
        let all = async {
            for dns in &asked {
                dns.asked().await;
            }
        };
        let _ = tokio::time::timeout(NAMES_MAX, all).await;
        let names: HashSet<&str> = plan.services.iter().map(|service| &*service.name).collect();
        self.services.keep_only(&names);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn compile(plan: &Plan) -> Arc<Routes> {
    Arc::new(Routes::compile(plan.routes.iter().map(|route| route.matches.clone()).collect()))
}

fn listed(endpoints: &[crate::config::plan::Endpoint]) -> Vec<Listed> {
    let one = |endpoint: &crate::config::plan::Endpoint| Listed {
        address: endpoint.address,
        weight: endpoint.weight,
        zone: endpoint.zone.clone(),
        tags: endpoint.tags.clone().into(),
    };
    endpoints.iter().map(one).collect()
}

/// What of a changed file cannot be taken while running.
fn needs_restart(before: &Plan, after: &Plan) -> Vec<String> {
    let mut changed = Vec::new();
    let mut look = |same: bool, what: &str| {
        if !same {
            changed.push(what.to_owned());
        }
    };
    // All but the sockets themselves is taken by new connections.
    let sockets = |plan: &Plan| plan.listeners.iter().map(|listener| (listener.name.clone(), listener.bind)).collect::<Vec<_>>();
    look(sockets(before) == sockets(after), "listeners");
    look(before.admin == after.admin, "admin");
    look(before.node == after.node, "node");
    look(before.workers == after.workers, "workers");
    look(before.access_log == after.access_log, "access_log");
    look(before.log.json == after.log.json, "log.format");
    changed
}

/// Reads the configuration file when it is not what was `seen` (read before the plan that serves), when an operator asks,
/// and on SIGHUP. Never resolves.
///
/// The file is looked at, not watched: a look is one call of the kernel, it sees renamed files and switched links alike,
/// works on every file system, and what else happens in the folder (a log that is always being written) costs nothing.
pub async fn follow_file(control: Arc<Control>, mut asked: mpsc::Receiver<Ask>, mut seen: Option<Vec<u8>>) {
    let mut looks = tokio::time::interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut known, mut unreadable, mut coming) = (None, false, None);
    loop {
        tokio::select! {
            ask = asked.recv() => {
                let Some(ask) = ask else { return };
                seen = contents(control.path()).await.ok().or(seen);
                let _ = ask.send(control.reload().await);
            }
            _ = looks.tick() => {
                let mark = Mark::of(control.path()).await;
                if mark.is_none() && known.take().is_some() {
                    tracing::warn!(file = %control.path().display(), "the configuration file is gone; what it said last serves on");
                }
                // One that has just been written is read again: a second change within the clock's grain leaves no mark.
                let Some(mark) = mark.filter(|mark| known != Some(*mark) || mark.is_fresh()) else { continue };
                let now = match contents(control.path()).await {
                    Ok(now) => now,
                    // Looked at again, and again: nothing says that it will change once it can be read.
                    Err(error) => {
                        if !std::mem::replace(&mut unreadable, true) {
                            tracing::warn!(file = %control.path().display(), %error, "the configuration file cannot be read; what it said last serves on");
                        }
                        continue;
                    }
                };
                unreadable = false;
                if seen.as_ref() == Some(&now) {
                    (known, coming) = (Some(mark), None);
                    continue;
                }
                let at = Instant::now();
                let same = coming.filter(|rest: &Coming| rest.mark == mark);
                let rest = same.unwrap_or(Coming { mark, since: at, first: coming.map_or(at, |rest| rest.first) });
                let wait = settle(known, mark, seen.as_deref(), &now);
                if rest.since.elapsed() < wait && rest.first.elapsed() < SETTLE_MAX {
                    coming = Some(rest);
                    looks.reset_after(wait.min(LOOK_EVERY));
                    continue;
                }
                (known, coming, seen) = (Some(mark), None, Some(now));
                // Mistakes have been logged, and are shown by the desk.
                let _ = control.reload().await;
            }
        }
    }
}

/// A change that is waited for to be whole.
#[derive(Clone, Copy)]
struct Coming {
    mark: Mark,
    /// When it looked like this for the first time.
    since: Instant,
    /// When it began.
    first: Instant,
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

async fn contents(path: &Path) -> std::io::Result<Vec<u8>> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || config::contents(&path)).await.map_err(std::io::Error::other)?
}

/// What changes when a file does.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Mark {
    file: (u64, u64),
    bytes: u64,
    modified: Option<SystemTime>,
    changed: (i64, i64),
}

impl Mark {
    async fn of(path: &Path) -> Option<Mark> {
        use std::os::unix::fs::MetadataExt;
        let found = tokio::fs::metadata(path).await.ok().filter(std::fs::Metadata::is_file)?;
        Some(Mark {
            file: (found.dev(), found.ino()),
            bytes: found.len(),
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
        let mark = |inode, bytes| Mark { file: (1, inode), bytes, modified: None, changed: (0, 0) };
        let before = Some(&b"a: 1\nb: 2\n"[..]);
        assert_eq!(settle(Some(mark(1, 10)), mark(2, 5), before, b"a: 1\n"), SETTLE, "put in its place by a rename");
        assert_eq!(settle(Some(mark(1, 10)), mark(1, 10), before, b"a: 1\nb: 3\n"), SETTLE_IN_PLACE);
        assert_eq!(settle(Some(mark(1, 10)), mark(1, 5), before, b"a: 1\n"), SETTLE_CUT, "the deny route may be still to come");
        assert_eq!(settle(Some(mark(1, 10)), mark(1, 0), before, b""), SETTLE_CUT);
    }
}
