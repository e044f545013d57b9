//! Control: what serves, and how it changes. One task at a time makes generations; cores take and acknowledge them.
//!
//! A change comes from three sides: the configuration's files (followed by `follow.rs`, SIGHUP, or asked for), the plugin
//! catalog (a push, an activation, a fall back), and nothing else. What is wrong in a file stays on its last good version
//! (`config::quarantine`), and so does what its plugin does not accept; a file of which nothing can be used changes
//! nothing. Directories change endpoints without a generation.

use crate::allocator;
use crate::assemble::{self, Generation};
use crate::config::blame::{Blame, Blamed, ItemId, ItemKind};
use crate::config::plan::{Plan, Source};
use crate::config::quarantine::{Held, Settled, settle};
use crate::config::substitute::Secrets;
use crate::config::{self, Checked, Followed, Mistakes, Surroundings};
use crate::last_good::{Keeper, Loaded, Snapshot};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};
use tokio::io::AsyncReadExt as _;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use wharf_core::directory::{Directory, Listed};
use wharf_core::metrics::{Count, Level, Registry};
use wharf_embedded::dns::{DnsDirectory, DnsTimes, Host, Source as DnsSource, SystemResolver};
use wharf_embedded::fixed::FixedDirectory;
use wharf_http::routes::Routes;
use wharf_upstream::Services;
use wharf_wasm::{COMPONENT_BYTES_MAX, Catalog, Prepared, Problem, Push};

/// How long a core may take to take a generation over before an operator is told that it has not.
const TAKE_OVER_MAX: Duration = Duration::from_secs(2);
/// How long names may take to be resolved before the first generation serves without them.
const NAMES_MAX: Duration = Duration::from_secs(5);
/// How often plugins are asked about what is left after they refused a part.
const ROUNDS_MAX: usize = 8;

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
    /// Keeps what serves for the next start.
    keeper: Keeper,
    /// There is something to keep; see [`Control::keep_on`].
    to_keep: Notify,
}

struct Counts {
    reloads: Arc<Count>,
    refused: Arc<Count>,
    generation: Arc<Level>,
    problems: Arc<Level>,
    quarantined: Vec<(ItemKind, Arc<Level>)>,
}

#[derive(Default)]
struct State {
    directories: HashMap<Arc<str>, Kept>,
    shown: Shown,
    /// What was read last.
    followed: Followed,
    /// The texts that what serves is made of, the oldest first.
    history: Vec<Snapshot>,
    /// Something stays because a plugin does not accept what the file says: another version may.
    waits_for_plugin: bool,
    /// What is never to be told.
    secrets: Secrets,
}

/// What can be put in force.
struct Fitted {
    settled: Settled,
    prepared: Prepared,
    /// What plugins did not accept, and of which routes.
    refuses: Vec<Problem>,
    routes: Vec<Arc<str>>,
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
    /// Why nothing of the newest file serves, if so.
    pub refused: Option<Refused>,
    /// What does not serve as the newest file says, though the rest does.
    pub quarantined: Vec<Quarantined>,
    /// Attachments that are not served as written.
    pub problems: Vec<Problem>,
    /// Changes in the file that only a restart brings.
    pub needs_restart: Vec<String>,
}

/// An item that stays on its last good version, or is left out.
#[derive(Clone, Debug)]
pub struct Quarantined {
    /// Which, and why.
    pub held: Held,
    /// Since when.
    pub since: SystemTime,
}

impl Control {
    /// Assembles the first generation.
    pub async fn start(
        path: PathBuf,
        loaded: Loaded,
        catalog: Arc<Catalog>,
        services: Arc<Services>,
        applied: Vec<Arc<AtomicU64>>,
        metrics: &Registry,
    ) -> (Arc<Control>, mpsc::Receiver<Ask>) {
        // Operators are few; the next one waits in its own call.
        let (asks, asked) = mpsc::channel(4);
        let started = Arc::new(loaded.settled());
        let routes = compile(&started);
        let Loaded { plan, base, mut blame, refused, followed, history, secrets } = loaded;
        let empty = Arc::new(Generation::new(0, started.clone(), routes, &services, &catalog, None));
        let control = Arc::new(Control {
            path,
            keeper: Keeper::new(&started.node.state_dir),
            to_keep: Notify::new(),
            started,
            catalog,
            services,
            generations: watch::Sender::new(empty),
            applied,
            reading: tokio::sync::Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            asks,
            state: Mutex::new(State { followed, history, secrets: secrets.clone(), ..State::default() }),
            counts: Counts {
                reloads: metrics.count("wharf_config_reloads_total", "configuration files that were put in force", &[]),
                refused: metrics.count("wharf_config_refused_total", "configuration files that were refused for a mistake", &[]),
                generation: metrics.level("wharf_generation", "number of the generation that serves", &[]),
                problems: metrics.level("wharf_plugin_problems", "attachments that are not served as written", &[]),
                quarantined: ItemKind::ALL
                    .map(|kind| {
                        let help = "items of the configuration that stay on their last good version, or are left out";
                        (kind, metrics.level("wharf_config_quarantined", help, &[("kind", kind.as_str())]))
                    })
                    .into(),
            },
        });
        // What a plugin does not accept stays as it was kept, if it was. Else there is nothing else to serve, so what can
        // serve serves.
        let fitted = match &base {
            Some(base) => control.fit(base, &plan, &mut blame, &secrets).await.ok(),
            None => None,
        };
        let (plan, held, prepared) = match fitted {
            Some(Fitted { settled, prepared, refuses, routes }) => {
                let mut state = control.lock();
                state.waits_for_plugin = !refuses.is_empty();
                if let Some(newest) = state.history.last_mut() {
                    newest.refused = routes;
                }
                drop(state);
                (Arc::new(settled.plan), settled.held, prepared)
            }
            None => {
                let prepared = control.catalog.prepare(assemble::wants(&plan)).await;
                (Arc::new(plan), Vec::new(), prepared)
            }
        };
        control.adopt(plan, prepared).await;
        control.quarantine(held);
        control.lock().shown.refused = refused;
        control.to_keep.notify_one();
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

    /// What was read last: what a look at the files is compared with.
    pub fn followed(&self) -> Followed {
        self.lock().followed.clone()
    }

    /// The texts that what serves is made of, the oldest first.
    pub fn history(&self) -> Vec<Snapshot> {
        self.lock().history.clone()
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

    /// Reads the configuration and puts it in force, all but what is wrong with it.
    ///
    /// # Errors
    /// Nothing of it could be put in force: every mistake, or every attachment that its plugin refuses. What served goes on
    /// serving.
    pub async fn reload(&self) -> Result<u64, Refused> {
        let _reading = self.reading.lock().await;
        let path = self.path.clone();
        // Binding test sockets and reading files may wait for the disk.
        let read = tokio::task::spawn_blocking(move || config::read_all(&path, &Surroundings::here())).await;
        let done = match read {
            Ok((checked, followed)) => {
                self.lock().followed = followed;
                match checked {
                    Ok(checked) => self.take(checked).await,
                    Err(mistakes) => Err(Refused::Mistakes(mistakes)),
                }
            }
            Err(panicked) => {
                tracing::error!(%panicked, "reading the configuration panicked");
                Err(Refused::Internal)
            }
        };
        match done {
            Ok(()) => self.counts.reloads.add_shared(1),
            Err(refused) => {
                self.counts.refused.add_shared(1);
                tracing::warn!(file = %self.path.display(), "the configuration was not put in force; the last good one serves on:\n{refused}");
                self.lock().shown.refused = Some(refused.clone());
                return Err(refused);
            }
        }
        self.to_keep.notify_one();
        Ok(self.serving().number)
    }

    /// Puts in force what of a configuration can be.
    async fn take(&self, checked: Checked) -> Result<(), Refused> {
        let Checked { plan, mistakes, blame, secrets, files } = checked;
        let _turn = self.turn.lock().await;
        let (plan, mut blame) = match (plan, blame, mistakes.clone()) {
            (Some(plan), Some(blame), _) => (plan, blame),
            (_, _, Some(mistakes)) => return Err(Refused::Mistakes(mistakes)),
            (_, _, None) => return Err(Refused::Internal),
        };
        let base = self.serving().plan.clone();
        let Fitted { settled, prepared, refuses, routes } = self.fit(&base, &plan, &mut blame, &secrets).await?;
        let Settled { plan, held } = settled;
        let is_new = held.is_empty() || !plan.is_like(&base);
        {
            let mut state = self.lock();
            state.waits_for_plugin = !refuses.is_empty();
            state.secrets = secrets;
        }
        if is_new {
            self.adopt(Arc::new(plan), prepared).await;
            let mut state = self.lock();
            if held.is_empty() {
                state.history.clear();
            }
            state.history.push(Snapshot { refused: routes, ..Snapshot::now(files) });
        }
        // Asked once more about the same mistakes: what can be in force is.
        let as_before = {
            let shown = &self.lock().shown;
            shown.refused.is_none() && held.iter().all(|held| shown.quarantined.iter().any(|known| known.held == *held))
        };
        self.quarantine(held);
        if is_new || as_before {
            return Ok(());
        }
        Err(mistakes.map_or(Refused::Attachments(refuses), Refused::Mistakes))
    }

    /// What of `plan` can be put in force in the place of `base`: all but what is in `blame`, and what plugins refuse.
    async fn fit(&self, base: &Plan, plan: &Plan, blame: &mut Blame, secrets: &Secrets) -> Result<Fitted, Refused> {
        let (mut refuses, mut routes) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS_MAX {
            let settled = settle(base, plan, blame);
            let prepared = self.catalog.prepare(assemble::wants(&settled.plan)).await;
            let refused: Vec<Problem> =
                prepared.problems.iter().filter(|problem| is_refusal(problem)).map(|problem| without(problem, secrets)).collect();
            let by_route = refused_routes(base, &settled.plan, &refused);
            if by_route.0.is_empty() {
                return Ok(Fitted { settled, prepared, refuses, routes });
            }
            refuses.extend(refused);
            routes.extend(by_route.0.keys().map(|id| id.name.clone()));
            blame.0.extend(by_route.0);
        }
        Err(Refused::Attachments(refuses))
    }

    /// Remembers and tells what does not serve as written.
    fn quarantine(&self, held: Vec<Held>) {
        for (kind, level) in &self.counts.quarantined {
            level.set(held.iter().filter(|held| held.item.kind == *kind).count() as i64);
        }
        let mut state = self.lock();
        let before = std::mem::take(&mut state.shown.quarantined);
        for held in held {
            let known = before.iter().find(|known| known.held.item == held.item);
            if known.is_none_or(|known| known.held != held) {
                let serving = if held.has_last_good { "its last good version serves" } else { "it is left out" };
                tracing::warn!(item = %held.item, serving, "a part of the configuration is not in force: {}", held.why.join("; "));
            }
            let since = known.map_or_else(SystemTime::now, |known| known.since);
            state.shown.quarantined.push(Quarantined { held, since });
        }
        for known in before {
            if !state.shown.quarantined.iter().any(|now| now.held.item == known.held.item) {
                tracing::info!(item = %known.held.item, "this part of the configuration is in force again");
            }
        }
    }

    /// Keeps what serves for the next start, whenever that is another than before. Aside, since a disk may take half a minute
    /// for a small file, and whoever changes the configuration need not wait for it. Never resolves.
    pub async fn keep_on(self: Arc<Self>) {
        loop {
            self.to_keep.notified().await;
            self.keep().await;
        }
    }

    async fn keep(&self) {
        let before = self.history();
        let (keeper, path, history, plan) = (self.keeper.clone(), self.path.clone(), before.clone(), self.serving().plan.clone());
        let kept = tokio::task::spawn_blocking(move || {
            let kept = keeper.keep(&path, history, &plan);
            drop(plan);
            allocator::give_back();
            kept
        });
        let kept = kept.await;
        // A change reads and builds a whole configuration, and then both threads may rest for days with what that took.
        allocator::give_back();
        match kept {
            Ok(Ok(history)) => {
                let mut state = self.lock();
                // What came meanwhile is kept next.
                if state.history == before {
                    state.history = history;
                }
            }
            Ok(Err(error)) => tracing::error!(%error, "the last good configuration could not be kept for the next start"),
            Err(panicked) => tracing::error!(%panicked, "keeping the configuration panicked"),
        }
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
                    self.tell(self.clean(left));
                }
            }
            // What a plugin refused of a file may be what the new version accepts. What is adopted then is made of the newest
            // state of the catalog, so this does not go round.
            let waits = self.lock().waits_for_plugin || matches!(self.lock().shown.refused, Some(Refused::Attachments(_)));
            if waits {
                let _ = self.reload().await;
            }
        }
    }

    fn clean(&self, problems: Vec<Problem>) -> Vec<Problem> {
        let secrets = self.lock().secrets.clone();
        problems.iter().map(|problem| without(problem, &secrets)).collect()
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

    /// Puts a plan in force: plugins, directories, then the generation.
    async fn adopt(&self, plan: Arc<Plan>, mut prepared: Prepared) {
        let mut problems = std::mem::take(&mut prepared.problems);
        self.catalog.adopt(prepared);
        // Wanted first, so that a component from a file is rehearsed with what it will be attached with.
        for (plugin, why) in self.fetch_files(&plan).await {
            tracing::error!(%plugin, why, "a plugin of the configuration has no version");
        }
        if plan.plugins.iter().any(|plugin| plugin.file.is_some()) {
            problems = self.catalog.want(assemble::wants(&plan)).await;
        }
        let problems = self.clean(problems);
        for problem in &problems {
            tracing::warn!(plugin = %problem.plugin, place = %problem.place, hint = problem.hint.as_deref(), "{}", problem.message);
        }
        self.directories(&plan).await;
        let needs_restart = needs_restart(&self.started, &plan);
        if !needs_restart.is_empty() {
            tracing::warn!(?needs_restart, "part of the configuration is only taken at a restart");
        }
        {
            let mut state = self.lock();
            state.shown.since = Some(SystemTime::now());
            state.shown.refused = None;
            state.shown.needs_restart = needs_restart;
        }
        self.tell(problems);
        let routes = Some(compile(&plan));
        self.send(plan, routes).await;
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
    // How long the end takes is asked for at the end.
    look(before.node.name == after.node.name && before.node.state_dir == after.node.state_dir, "node");
    look(before.workers == after.workers, "workers");
    look(before.access_log == after.access_log, "access_log");
    look(format!("{:?}", before.buses) == format!("{:?}", after.buses), "buses");
    look(format!("{:?}", before.ferry) == format!("{:?}", after.ferry), "ferry");
    look(before.log.json == after.log.json, "log.format");
    changed
}

/// Does a plugin not accept what it is attached with? That nothing has been uploaded yet is no mistake: a push will mend it.
fn is_refusal(problem: &Problem) -> bool {
    problem.code != "nothing-serves"
}

/// A plugin may say anything, also what it was configured with.
fn without(problem: &Problem, secrets: &Secrets) -> Problem {
    let hint = problem.hint.as_deref().map(|hint| secrets.without(hint));
    Problem { message: secrets.without(&problem.message), hint, ..problem.clone() }
}

/// The routes that plugins refuse to serve as they are written, but those that are served so already.
fn refused_routes(base: &Plan, plan: &Plan, refused: &[Problem]) -> Blame {
    let mut blame = BTreeMap::new();
    if refused.is_empty() {
        return Blame(blame);
    }
    let before: HashMap<&str, String> = base.routes.iter().map(|route| (&*route.name, format!("{route:?}"))).collect();
    for route in &plan.routes {
        let concerns = |problem: &&Problem| {
            assemble::attachments_of(route).any(|(place, attachment)| *place == *problem.place && attachment.plugin == problem.plugin)
        };
        let why: Vec<String> = refused.iter().filter(concerns).map(|problem| format!("{}: {}", problem.place, problem.message)).collect();
        if !why.is_empty() && before.get(&*route.name) != Some(&format!("{route:?}")) {
            blame.insert(ItemId::new(ItemKind::Route, &route.name), Blamed { why, anywhere: false });
        }
    }
    Blame(blame)
}
