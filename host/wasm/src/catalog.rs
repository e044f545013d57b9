//! THE LIFE OF A PLUGIN, from the upload to the memory given back. Read from the top: [`Catalog::push`] is the road,
//! [`Catalog::activate`] and [`Catalog::rollback`] join it half-way, and [`Catalog::attend`] is the same road backwards
//! when a version turns out bad.
//!
//! Nothing here runs on a core: the catalog lives on the control thread, hashing and disk on blocking threads,
//! compilation and schema checks in child processes, rehearsals on the guest thread. Cores only hold what
//! [`Catalog::ready`] gave their generation; an old version is freed when the last generation that holds it is.
//!
//! Two locks order the changes. A change of one plugin holds `attached` for reading and that plugin's turn; a change of
//! what is attached holds `attached` for writing. So a rehearsal is always of the configurations that will meet the
//! version, and a plugin that hangs for its second delays nobody's traffic and no other plugin.
//!
//! The single steps are in `catalog/staging.rs`, what an operator sees in `catalog/shown.rs`, the folder in `disk.rs`,
//! the order of versions in `history.rs`.

mod shown;
mod staging;

use self::staging::{Candidate, all_ready, fits, grants_fit, keeps_roles, role_fits, roles_of};
use crate::answers::{Activated, Pushed};
use crate::child::{COMPILE_CHILD, Child, ChildLimits};
use crate::core::FaultSink;
use crate::disk::{Disk, Index, StorageError, Stored, digest_of, sha256};
use crate::engine::{Engine, fingerprint};
use crate::examine::{Examined, examine};
use crate::limits::{COMPONENT_BYTES_MAX, EngineLimits};
use crate::ready::{Code, Digest, Ready, Role};
use crate::refusal::{CatalogError, Problem, Refusal, check_name, ms};
use crate::wants::{Wanted, Wants};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Instant, SystemTime};
use tokio::sync::{OwnedMutexGuard, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, Semaphore, SemaphorePermit, mpsc, watch};
use tracing::{info, warn};
use wharf_core::metrics::{Count, Level, Registry};
use wharf_core::store::Store;

/// Rehearsals of one change at once.
const REHEARSALS_AT_ONCE: usize = 4;
/// Passed schema checks remembered.
const CHECKS_KEPT: usize = 4096;
/// Longest note, bytes.
const NOTE_MAX: usize = 1024;

/// What a catalog is opened with.
pub struct CatalogParts {
    /// Its folder, made where it is not there.
    pub dir: PathBuf,
    /// Our own binary: [`std::env::current_exe`], or better `/proc/self/exe`, which is right even after the file was
    /// replaced: what another release compiles this one cannot load.
    pub exe: PathBuf,
    /// Arguments that lead it to [`crate::compile_child_main`]; [`CatalogParts::new`] sets the hidden subcommand.
    pub exe_args: Vec<OsString>,
    /// Bounds of the children.
    pub children: ChildLimits,
    /// Bounds of the engine, which is made when the first plugin needs it.
    pub engine: EngineLimits,
    /// Largest component. Default [`COMPONENT_BYTES_MAX`].
    pub component_bytes_max: usize,
    /// Versions kept of each plugin. Default 20.
    pub versions_max: usize,
    /// What the key-value capability stands on.
    pub store: Arc<dyn Store>,
    /// Where counters are registered.
    pub metrics: Arc<Registry>,
    /// Takes a line for every change that the house made by itself. (What operators do, the centre writes down.)
    pub audit: Arc<dyn Fn(&str) + Send + Sync>,
    /// The lock on its folder, lent by the gateway that this one takes over from. Default none: it takes it itself.
    pub lock: Option<File>,
}

impl CatalogParts {
    /// With the defaults.
    pub fn new(dir: PathBuf, exe: PathBuf, store: Arc<dyn Store>, metrics: Arc<Registry>) -> CatalogParts {
        CatalogParts {
            dir,
            exe,
            exe_args: vec![COMPILE_CHILD.into()],
            children: ChildLimits::default(),
            engine: EngineLimits::default(),
            component_bytes_max: COMPONENT_BYTES_MAX,
            versions_max: 20,
            store,
            metrics,
            audit: Arc::new(|_| ()),
            lock: None,
        }
    }
}

/// How a version is uploaded.
#[derive(Clone, Debug)]
pub struct Push {
    /// Let it serve if it passes.
    pub activate: bool,
    /// For people: a commit, a ticket.
    pub note: String,
}

impl Default for Push {
    fn default() -> Push {
        Push { activate: true, note: String::new() }
    }
}

/// What configurations are checked and rehearsed, not yet in force. Holding it holds up every other change of the
/// catalog, so adopt or drop it soon.
pub struct Prepared {
    wants: Arc<Wants>,
    ready: HashMap<Key, Arc<Ready>>,
    spare: HashMap<Key, Arc<Ready>>,
    /// What is wrong, attachment by attachment; the others can be adopted all the same.
    pub problems: Vec<Problem>,
    _attached: OwnedRwLockWriteGuard<()>,
}

/// A plugin, what is wrong with it already, and the code of its serving version, if one serves.
type Warm = (Arc<str>, Vec<Problem>, Result<Option<Code>, CatalogError>);

/// A plugin and one of its configurations.
type Key = (Arc<str>, Arc<str>);

/// The plugins of this node: their versions, which serve, and what is ready for the cores.
pub struct Catalog {
    pub(crate) me: Weak<Catalog>,
    parts: CatalogParts,
    disk: Disk,
    child: Child,
    state: Mutex<State>,
    /// Digests that an upload is working on: not to be swept. Taken before `state` where both are taken.
    pins: Mutex<HashMap<Digest, u32>>,
    attached: Arc<RwLock<()>>,
    turns: Mutex<HashMap<Arc<str>, Arc<tokio::sync::Mutex<()>>>>,
    uploads: Semaphore,
    changed: watch::Sender<u64>,
    trips: (mpsc::UnboundedSender<Arc<str>>, tokio::sync::Mutex<mpsc::UnboundedReceiver<Arc<str>>>),
    began: Instant,
    /// Another process has taken over: nothing is written down any more.
    retired: AtomicBool,
    /// On its way to another process. What waits for the store then, and fails, says nothing about a version.
    frozen: AtomicBool,
}

/// Nothing changes in a catalog while somebody holds this.
pub struct Frozen<'a> {
    catalog: &'a Catalog,
    _uploads: Option<SemaphorePermit<'a>>,
    _attached: OwnedRwLockWriteGuard<()>,
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.catalog.frozen.store(false, Ordering::Release);
    }
}

#[derive(Default)]
struct State {
    plugins: BTreeMap<Arc<str>, Plugin>,
    wants: Arc<Wants>,
    ready: HashMap<Key, Arc<Ready>>,
    /// Last good versions, for the attachments whose failure policy asks for them.
    spare: HashMap<Key, Arc<Ready>>,
    living: Vec<Weak<Ready>>,
    /// Ends with the last code that holds it.
    engine: Weak<Engine>,
    /// Sums of schema and configuration that fit.
    checked: HashSet<Digest>,
    levels: HashMap<(Arc<str>, &'static str), Arc<Level>>,
    counts: HashMap<(Arc<str>, &'static str), Arc<Count>>,
}

struct Plugin {
    index: Index,
    /// Versions whose stored files are damaged, and how.
    unusable: BTreeMap<u32, String>,
    /// The index itself was found damaged at the start.
    damage: Option<String>,
}

/// What is held while one plugin is changed.
struct Turn {
    /// Of an upload: swept before the next one has its turn, and not before a record that has begun is complete.
    pin: Option<Pin>,
    _attached: OwnedRwLockReadGuard<()>,
    _plugin: OwnedMutexGuard<()>,
}

/// What if a change cannot be written down?
#[derive(Clone, Copy, PartialEq, Eq)]
enum Record {
    /// Then it is not done: an operator asked for it and is told.
    Required,
    /// Then it is done in memory: the house turns away from a bad version even with a full disk.
    BestEffort,
}

/// What serves from now on.
struct Serving {
    version: u32,
    ready: Vec<Arc<Ready>>,
    /// The last good version beside it.
    spare: Vec<Arc<Ready>>,
}

impl Serving {
    /// Nothing of it is ready yet.
    fn new(version: u32) -> Serving {
        Serving { version, ready: Vec::new(), spare: Vec::new() }
    }
}

impl Catalog {
    /// Opens the folder. No plugin is loaded and no engine is made before somebody [wants](Catalog::want) one.
    ///
    /// # Errors
    /// The folder cannot be made, written or locked. Damage to a plugin's files is no error: it is told in the log and
    /// by [`Catalog::list`], and every other plugin serves.
    pub fn open(mut parts: CatalogParts) -> Result<Arc<Catalog>, CatalogError> {
        let (disk, found) = Disk::open(&parts.dir, fingerprint, parts.lock.take())?;
        let mut state = State::default();
        let (mut kept, mut may_sweep) = (BTreeSet::new(), true);
        for found in found {
            if let Some(damage) = &found.damage {
                warn!(plugin = found.plugin, damage, recovered = found.index.is_some(), "the index of a plugin is damaged");
                // Its components may be all that is left to mend it with.
                may_sweep = false;
            }
            let index = found.index.unwrap_or_else(|| Index::new(&found.plugin));
            kept.extend(index.versions.iter().map(|stored| stored.digest.clone()));
            state.plugins.insert(found.plugin.into(), Plugin { index, unusable: BTreeMap::new(), damage: found.damage });
        }
        if may_sweep {
            disk.sweep(&kept);
        }
        let child = Child::new(parts.exe.clone(), parts.exe_args.clone(), parts.children.clone());
        let uploads = Semaphore::new(parts.children.uploads_max.max(1));
        let (trip, tripped) = mpsc::unbounded_channel();
        let catalog = Arc::new_cyclic(|me| Catalog {
            me: me.clone(),
            parts,
            disk,
            child,
            state: Mutex::new(state),
            pins: Mutex::default(),
            attached: Arc::default(),
            turns: Mutex::default(),
            uploads,
            changed: watch::Sender::new(0),
            trips: (trip, tokio::sync::Mutex::new(tripped)),
            began: Instant::now(),
            retired: AtomicBool::new(false),
            frozen: AtomicBool::new(false),
        });
        catalog.show();
        Ok(catalog)
    }

    // ---- handing over ------------------------------------------------------------------------------------------

    /// Waits for changes that have begun, and keeps others waiting: uploads, activations, changed attachments.
    ///
    /// # Cancel safety
    /// Dropped, nothing has happened.
    pub async fn freeze(&self) -> Frozen<'_> {
        let all = u32::try_from(self.parts.children.uploads_max.max(1)).unwrap_or(u32::MAX);
        // An upload takes its place first, too.
        let uploads = self.uploads.acquire_many(all).await.ok();
        let attached = self.attached.clone().write_owned().await;
        self.frozen.store(true, Ordering::Release);
        Frozen { catalog: self, _uploads: uploads, _attached: attached }
    }

    /// Another process has opened the folder and changes it from now on: what would be changed here is refused.
    pub fn retire(&self, frozen: Frozen<'_>) {
        self.retired.store(true, Ordering::Release);
        // Should the other one end, the next must find the folder free, however long this one drains.
        self.disk.unlock();
        drop(frozen);
    }

    /// The lock on the folder, for the process that takes over.
    ///
    /// # Errors
    /// No more files can be opened.
    pub fn lock_file(&self) -> io::Result<File> {
        self.disk.lock()
    }

    // ---- the road ----------------------------------------------------------------------------------------------

    /// Takes an upload: examine, compile, load, ask for its schema, rehearse it with every configuration it is attached
    /// with, store it, let it serve. The same bytes again cost next to nothing and keep their number.
    ///
    /// # Errors
    /// Any step may refuse; then nothing is stored and what served goes on serving.
    ///
    /// # Cancel safety
    /// Dropped before it is stored, nothing has happened; while it is stored, it is finished all the same.
    pub async fn push(self: &Arc<Self>, name: &str, wasm: Bytes, push: Push) -> Result<Pushed, CatalogError> {
        let began = Instant::now();
        let pushed = self.take(name, wasm, push, began).await;
        let outcome = pushed.as_ref().map_or_else(|refused| refused.code(), |_| "taken");
        self.count("wharf_plugin_pushes_total", "Uploads of plugins, by what became of them.", ("outcome", outcome));
        match &pushed {
            Ok(pushed) => info!(name, version = pushed.version, activated = pushed.activated, ms = pushed.ms, "plugin uploaded"),
            Err(refused) => info!(name, outcome, reason = %refused, "plugin upload refused"),
        }
        pushed
    }

    async fn take(self: &Arc<Self>, name: &str, wasm: Bytes, push: Push, began: Instant) -> Result<Pushed, CatalogError> {
        // Receive: the cheapest refusals first.
        let plugin = check_name(name)?;
        let (bytes, bytes_max) = (wasm.len(), self.parts.component_bytes_max);
        if bytes > bytes_max {
            return Err(Refusal::TooLarge { plugin, bytes, bytes_max }.into());
        }
        if push.note.len() > NOTE_MAX {
            return Err(Refusal::Invalid(format!("the note has {} bytes; at most {NOTE_MAX} are taken", push.note.len())).into());
        }
        let uploads_max = self.parts.children.uploads_max.max(1);
        let _place = self.uploads.try_acquire().map_err(|_full| Refusal::Busy { uploads_max })?;

        // Examine.
        let looked_at = wasm.clone();
        let (digest, examined) = blocking(move || (sha256(&looked_at), examine(&looked_at))).await?;
        let examined = examined.map_err(|unfit| Refusal::Unfit { plugin: plugin.clone(), unfit })?;
        self.may_serve(&plugin, &examined)?;

        // Store the component where nobody refers to it yet, and compile it in a child.
        let pin = self.pin(digest);
        let me = self.clone();
        blocking(move || me.disk.write_component(&digest, &wasm)).await??;
        let code = self.code(&plugin, digest).await?;

        // From here on nothing that this version is rehearsed against may change.
        let mut turn = self.turn(&plugin).await;
        turn.pin = Some(pin);
        self.may_serve(&plugin, &examined)?;
        let (version, known, serving, wants) = {
            let state = self.lock();
            let index = state.plugins.get(&plugin).map(|known| &known.index);
            let known = index.and_then(|index| index.versions.iter().find(|stored| stored.digest == digest.to_string()).cloned());
            let version = known.as_ref().map_or_else(|| index.map_or(1, |index| index.next), |stored| stored.version);
            (version, known, index.and_then(|index| index.history.serving()), state.wants.clone())
        };
        let previous = serving.filter(|&serving| serving != version);
        let asks_more = self.asks_more(&plugin, previous, &examined);
        let mut pushed = Pushed {
            plugin: plugin.to_string(),
            version,
            digest: digest.to_string(),
            bytes: bytes as u64,
            roles: examined.roles.iter().map(|&role| role.as_str().to_owned()).collect(),
            known: known.is_some(),
            activated: push.activate || serving == Some(version),
            previous,
            attachments: wants.of(&plugin).count(),
            asks_more,
            ms: 0.0,
        };
        if serving == Some(version) && self.is_ready(&plugin, &wants) {
            pushed.ms = ms(began.elapsed());
            return Ok(pushed);
        }

        // Ask and rehearse.
        let schema = match &known {
            Some(stored) => stored.schema.clone(),
            None => self.ask_schema(&plugin, version, digest, &code, &wants).await?,
        };
        let candidate = Candidate { plugin: &plugin, version, digest, schema: &schema, code: &code };
        let ready = all_ready(self.rehearse(&candidate, &wants, known.is_none()).await?)?;

        // Stage and let it serve, in one step that is finished even if the caller goes away.
        let Examined { imports, wasi, .. } = examined;
        let stored = known.unwrap_or_else(|| Stored {
            version,
            digest: digest.to_string(),
            bytes: bytes as u64,
            roles: pushed.roles.clone(),
            imports,
            wasi,
            schema,
            note: push.note,
            pushed_ms: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64),
        });
        let serve = pushed.activated;
        let change = move |index: &mut Index| {
            if index.version(version).is_none() {
                index.next = version + 1;
                index.versions.push(stored.clone());
            }
            if serve {
                index.history.activate(version);
            }
        };
        let serving = match serve {
            true => Some(self.serving_with_spare(&plugin, version, ready, &change, &wants).await),
            false => None,
        };
        self.commit(turn, &plugin, change, serving, Record::Required).await?;
        pushed.ms = ms(began.elapsed());
        Ok(pushed)
    }

    /// Does the configuration, as it is now, let this component serve?
    fn may_serve(&self, plugin: &Arc<str>, examined: &Examined) -> Result<(), CatalogError> {
        let state = self.lock();
        fits(plugin, &examined.roles, &examined.imports, &state.wants)?;
        keeps_roles(&state, plugin, &examined.roles)
    }

    /// Lets a stored version serve, by its number.
    ///
    /// # Errors
    /// There is no such version, or it does not pass with the present configuration.
    pub async fn activate(self: &Arc<Self>, name: &str, version: u32) -> Result<Activated, CatalogError> {
        let began = Instant::now();
        let (plugin, turn) = (self.known(name)?, self.turn(name).await);
        self.serve_stored(turn, plugin, version, began, move |index| index.history.activate(version)).await
    }

    /// Goes back to the version that served before the present one. A second call goes one further back.
    ///
    /// # Errors
    /// There is none, or it does not pass with the present configuration.
    pub async fn rollback(self: &Arc<Self>, name: &str) -> Result<Activated, CatalogError> {
        let began = Instant::now();
        let (plugin, turn) = (self.known(name)?, self.turn(name).await);
        let earlier = {
            let state = self.lock();
            state.plugins.get(&plugin).and_then(|known| known.index.history.earlier().find(|version| !known.unusable.contains_key(version)))
        };
        let version = earlier.ok_or_else(|| Refusal::NoEarlier { plugin: plugin.clone() })?;
        self.serve_stored(turn, plugin, version, began, move |index| index.history.back_to(version)).await
    }

    async fn serve_stored(
        self: &Arc<Self>,
        turn: Turn,
        plugin: Arc<str>,
        version: u32,
        began: Instant,
        change: impl Fn(&mut Index) + Send + 'static,
    ) -> Result<Activated, CatalogError> {
        let (stored, wants) = (self.stored(&plugin, version)?, self.lock().wants.clone());
        let previous = self.serving(&plugin).filter(|&serving| serving != version);
        if previous.is_some() || !self.is_ready(&plugin, &wants) {
            let ready = self.stage(&plugin, &stored, &wants).await?;
            let serving = self.serving_with_spare(&plugin, version, ready, &change, &wants).await;
            self.commit(turn, &plugin, change, Some(serving), Record::Required).await?;
        }
        Ok(Activated { plugin: plugin.to_string(), version, previous, ms: ms(began.elapsed()) })
    }

    // ---- what is attached --------------------------------------------------------------------------------------

    /// Checks and rehearses what a configuration attaches, without putting it in force. What is already ready under
    /// the same terms is not rehearsed again.
    pub async fn prepare(self: &Arc<Self>, wants: Wants) -> Prepared {
        let wants = Arc::new(wants);
        let plugins: BTreeSet<Arc<str>> = wants.attachments.iter().map(|wanted| wanted.plugin.clone()).collect();
        // Code first, without the lock: after an update of the engine all of it is compiled anew.
        let warm: Vec<Warm> =
            stream::iter(plugins.into_iter().map(|plugin| self.warm(plugin, &wants))).buffer_unordered(REHEARSALS_AT_ONCE).collect().await;
        let attached = self.attached.clone().write_owned().await;
        let mut prepared =
            Prepared { wants: wants.clone(), ready: HashMap::new(), spare: HashMap::new(), problems: Vec::new(), _attached: attached };
        let mut all: Vec<_> = stream::iter(warm.iter().map(|(plugin, _, code)| self.prepare_one(plugin, code, &wants)))
            .buffer_unordered(REHEARSALS_AT_ONCE)
            .collect()
            .await;
        for (_, problems, _) in warm {
            prepared.problems.extend(problems);
        }
        for (plugin, ready, problems) in all.drain(..) {
            prepared.problems.extend(problems);
            prepared.ready.extend(ready.into_iter().map(keyed));
            prepared.spare.extend(self.spare(&plugin, |_| (), &wants).await.into_iter().map(keyed));
        }
        // In the order of the configuration.
        let order = |problem: &Problem| {
            wants.attachments.iter().position(|wanted| wanted.plugin == problem.plugin && wanted.place == problem.place)
        };
        prepared.problems.sort_by_key(order);
        prepared
    }

    /// Puts in force what was prepared. The cores see it in the next generation.
    pub fn adopt(&self, prepared: Prepared) {
        {
            let mut state = self.lock();
            let rehearsed = prepared.ready.values().chain(prepared.spare.values());
            let fresh: Vec<_> = rehearsed.map(Arc::downgrade).filter(|one| !state.living.iter().any(|known| known.ptr_eq(one))).collect();
            state.living.extend(fresh);
            state.wants = prepared.wants.clone();
            (state.ready, state.spare) = (prepared.ready, prepared.spare);
        }
        self.show();
        self.changed.send_modify(|generation| *generation += 1);
    }

    /// [Prepares](Catalog::prepare) and [adopts](Catalog::adopt) at once: what can serve serves, the rest is told.
    pub async fn want(self: &Arc<Self>, wants: Wants) -> Vec<Problem> {
        let mut prepared = self.prepare(wants).await;
        let problems = std::mem::take(&mut prepared.problems);
        self.adopt(prepared);
        problems
    }

    /// The serving version of a plugin, ready with this configuration (the very text that was wanted). `None`: the
    /// attachment's failure policy answers.
    pub fn ready(&self, plugin: &str, config: &str, role: Role) -> Option<Arc<Ready>> {
        let state = self.lock();
        let ready = state.ready.get(&(Arc::from(plugin), Arc::from(config)))?;
        let stored = state.plugins.get(plugin)?.index.version(ready.setup.version)?;
        stored.roles.iter().any(|have| have == role.as_str()).then(|| ready.clone())
    }

    /// The last good version beside the serving one, for an attachment that wanted it.
    pub fn last_good(&self, plugin: &str, config: &str) -> Option<Arc<Ready>> {
        self.lock().spare.get(&(Arc::from(plugin), Arc::from(config))).cloned()
    }

    /// Moves whenever [`Catalog::ready`] may answer differently: build a new generation then.
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The code of the version that serves. Where its stored files are damaged, the last good version takes its place.
    async fn warm(self: &Arc<Self>, plugin: Arc<str>, wants: &Wants) -> Warm {
        let Some((version, digest)) = self.serving_digest(&plugin) else { return (plugin, Vec::new(), Ok(None)) };
        let code = self.stored_code(&plugin, version, digest).await;
        let Err(CatalogError(Refusal::Unusable { .. })) = &code else { return (plugin, Vec::new(), code.map(Some)) };
        let turn = self.turn(&plugin).await;
        let earlier: Vec<u32> = self.lock().plugins.get(&plugin).map(|known| known.index.history.earlier().collect()).unwrap_or_default();
        for to in earlier {
            let Ok(stored) = self.stored(&plugin, to) else { continue };
            let Some(digest) = digest_of(&stored.digest) else { continue };
            let Ok(instead) = self.stored_code(&plugin, to, digest).await else { continue };
            if let Err(unwritten) =
                self.commit(turn, &plugin, move |index| index.history.back_to(to), Some(Serving::new(to)), Record::BestEffort).await
            {
                return (plugin, Vec::new(), Err(unwritten));
            }
            let damage = code.err().map(|error| error.to_string()).unwrap_or_default();
            self.tell_fallback(&plugin, version, to, &damage);
            let places = wants.of(&plugin).map(|wanted| Problem {
                plugin: plugin.clone(),
                place: wanted.place.clone(),
                code: "unusable",
                message: format!("{damage}; version {to} serves instead"),
                hint: Some(format!("upload version {version} again to mend it")),
            });
            return (plugin.clone(), places.collect(), Ok(Some(instead)));
        }
        (plugin, Vec::new(), code.map(Some))
    }

    async fn prepare_one(
        self: &Arc<Self>,
        plugin: &Arc<str>,
        code: &Result<Option<Code>, CatalogError>,
        wants: &Wants,
    ) -> (Arc<str>, Vec<Arc<Ready>>, Vec<Problem>) {
        let everywhere =
            |error: &CatalogError| wants.of(plugin).map(|wanted| Problem::new(plugin, &wanted.place, error)).collect::<Vec<_>>();
        let served = self.serving(plugin).and_then(|version| self.stored(plugin, version).ok());
        let (code, stored) = match (code, served) {
            (Ok(Some(code)), Some(stored)) => (code, stored),
            (Err(error), _) => return (plugin.clone(), Vec::new(), everywhere(error)),
            (Ok(_), _) => {
                let missing = |wanted: &Wanted| {
                    let damage = self
                        .lock()
                        .plugins
                        .get(plugin)
                        .filter(|known| known.index.versions.is_empty())
                        .and_then(|known| known.damage.clone());
                    Problem::new(
                        plugin,
                        &wanted.place,
                        &match damage {
                            Some(why) => Refusal::Damaged { plugin: plugin.clone(), why }.into(),
                            None => Refusal::NothingServes { plugin: plugin.clone(), place: wanted.place.clone() }.into(),
                        },
                    )
                };
                return (plugin.clone(), Vec::new(), wants.of(plugin).map(missing).collect());
            }
        };
        let Some(digest) = digest_of(&stored.digest) else { return (plugin.clone(), Vec::new(), Vec::new()) };
        let roles = roles_of(&stored);
        let mut problems = Vec::new();
        if let Err(error) = grants_fit(plugin, &stored.imports, wants) {
            return (plugin.clone(), Vec::new(), everywhere(&error));
        }
        for wanted in wants.of(plugin) {
            if let Err(error) = role_fits(wanted, &roles) {
                problems.push(Problem::new(plugin, &wanted.place, &error));
            }
        }
        let candidate = Candidate { plugin, version: stored.version, digest, schema: &stored.schema, code };
        let mut ready = Vec::new();
        match self.rehearse(&candidate, wants, false).await {
            Err(error) => problems.extend(everywhere(&error)),
            Ok(rehearsed) => {
                for one in rehearsed {
                    match one.result {
                        Ok(one) => ready.push(one),
                        Err(error) => problems.push(Problem::new(plugin, &one.place, &error)),
                    }
                }
            }
        }
        (plugin.clone(), ready, problems)
    }

    // ---- the road backwards ------------------------------------------------------------------------------------

    /// A core reports that a version failed once. Cheap; may be called from any thread. Too many within the plugin's
    /// window, and [`Catalog::attend`] brings the last good version back.
    pub fn fault(&self, plugin: &str, version: u32) {
        if self.frozen.load(Ordering::Acquire) {
            return;
        }
        let now = self.began.elapsed();
        let mut state = self.lock();
        let quotas = state.wants.granted(plugin).quotas;
        let Some((name, known)) = state.plugins.get_key_value(plugin).map(|(name, _)| name.clone()).and_then(|name| {
            let known = state.plugins.get_mut(plugin)?;
            Some((name, known))
        }) else {
            return;
        };
        if known.index.history.fault(version, now, quotas.faults_max, quotas.faults_window) {
            // The receiver lives as long as we do.
            let _ = self.trips.0.send(name);
        }
    }

    /// [`Catalog::fault`] for the cores' part of the room.
    pub fn fault_sink(&self) -> FaultSink {
        let me = self.me.clone();
        Arc::new(move |setup, _fault| {
            if let Some(me) = me.upgrade() {
                me.fault(&setup.plugin, setup.version);
            }
        })
    }

    /// Brings last good versions back as faults ask for it; never resolves. The gateway runs exactly one on its control
    /// thread.
    pub async fn attend(self: &Arc<Self>) {
        let mut tripped = self.trips.1.lock().await;
        while let Some(plugin) = tripped.recv().await {
            self.fall_back(&plugin).await;
        }
    }

    async fn fall_back(self: &Arc<Self>, plugin: &Arc<str>) {
        let mut turn = self.turn(plugin).await;
        let (bad, earlier, wants) = {
            let state = self.lock();
            let Some(known) = state.plugins.get(plugin) else { return };
            let history = &known.index.history;
            // Somebody may have been faster than we.
            let Some(bad) = history.serving().filter(|&version| history.has_tripped(version)) else { return };
            (bad, history.earlier().collect::<Vec<_>>(), state.wants.clone())
        };
        let quotas = wants.granted(plugin).quotas;
        let why = format!("{} faults within {:?}", quotas.faults_max, quotas.faults_window);
        for to in earlier {
            let staged = match self.stored(plugin, to) {
                Ok(stored) => self.stage(plugin, &stored, &wants).await,
                Err(error) => Err(error),
            };
            match staged {
                Err(error) => warn!(%plugin, version = to, reason = %error, "an earlier version cannot come back"),
                Ok(ready) => {
                    let change = move |index: &mut Index| index.history.back_to(to);
                    let serving = self.serving_with_spare(plugin, to, ready, &change, &wants).await;
                    match self.commit(turn, plugin, change, Some(serving), Record::BestEffort).await {
                        Ok(()) => return self.tell_fallback(plugin, bad, to, &why),
                        Err(error) => {
                            warn!(%plugin, version = to, reason = %error, "an earlier version cannot come back");
                            turn = self.turn(plugin).await;
                        }
                    }
                }
            }
        }
        self.count("wharf_plugin_fallbacks_total", "Bad versions that tripped, by what came of it.", ("outcome", "none_left"));
        let line = format!(
            "plugin {plugin:?} version {bad} had {why}, and there is no earlier good version: the failure policy of its attachments stands"
        );
        warn!("{line}");
        (self.parts.audit)(&line);
        // So that the mark outlives a restart; it is only a mark, so a disk that does not take it changes nothing.
        let _ = self.commit(turn, plugin, |_| (), None, Record::BestEffort).await;
    }

    fn tell_fallback(&self, plugin: &Arc<str>, bad: u32, to: u32, why: &str) {
        self.count("wharf_plugin_fallbacks_total", "Bad versions that tripped, by what came of it.", ("outcome", "last_good"));
        let line = format!("plugin {plugin:?} went back from version {bad} to version {to} by itself: {why}");
        warn!("{line}");
        (self.parts.audit)(&line);
    }

    // ---- the record ----------------------------------------------------------------------------------------------

    /// Writes a change of one plugin down and puts it in force: both, or neither. Runs to its end whatever becomes of
    /// the caller, and holds the plugin's turn for so long.
    async fn commit(
        self: &Arc<Self>,
        turn: Turn,
        plugin: &Arc<str>,
        change: impl Fn(&mut Index) + Send + 'static,
        serve: Option<Serving>,
        record: Record,
    ) -> Result<(), CatalogError> {
        if self.retired.load(Ordering::Acquire) {
            return Err(Refusal::Retired.into());
        }
        let (me, plugin) = (self.clone(), plugin.clone());
        blocking(move || {
            let _turn = turn;
            me.commit_now(&plugin, change, serve, record)
        })
        .await??;
        Ok(())
    }

    fn commit_now(
        &self,
        plugin: &Arc<str>,
        change: impl Fn(&mut Index),
        serve: Option<Serving>,
        record: Record,
    ) -> Result<(), StorageError> {
        let versions_max = self.parts.versions_max.max(1);
        let changed = |mut index: Index| {
            change(&mut index);
            trim(&mut index, versions_max);
            index
        };
        let before = self.lock().plugins.get(plugin).map_or_else(|| Index::new(plugin), |known| known.index.clone());
        match self.disk.write_index(&changed(before.clone())) {
            Err(error) if record == Record::Required => return Err(error),
            Err(error) => warn!(%plugin, %error, "a change is in force and could not be written down: a restart will undo it"),
            Ok(()) => {}
        }
        let digests = |index: &Index| index.versions.iter().map(|stored| stored.digest.clone()).collect::<BTreeSet<_>>();
        let (serves, old, gone) = {
            let mut state = self.lock();
            // Applied again to what is there now: a fault may have been marked while we wrote.
            let known = state.plugins.entry(plugin.clone()).or_insert_with(|| Plugin {
                index: Index::new(plugin),
                unusable: BTreeMap::new(),
                damage: None,
            });
            known.index = changed(std::mem::replace(&mut known.index, Index::new(plugin)));
            let index = &known.index;
            known.unusable.retain(|&version, _| index.version(version).is_some());
            known.damage = None;
            let gone: Vec<_> = digests(&before).difference(&digests(index)).cloned().collect();
            let mut old = Vec::new();
            let serves = serve.is_some();
            if let Some(Serving { version, ready, spare }) = serve {
                known.unusable.remove(&version);
                old.extend(state.ready.extract_if(|(name, _), _| name == plugin).map(|(_, ready)| ready));
                old.extend(state.spare.extract_if(|(name, _), _| name == plugin).map(|(_, ready)| ready));
                state.living.retain(|living| living.strong_count() > 0);
                state.living.extend(ready.iter().map(Arc::downgrade));
                state.ready.extend(ready.into_iter().map(keyed));
                state.spare.extend(spare.into_iter().map(keyed));
            }
            (serves, old, gone)
        };
        // Freed outside the lock: with the last holder goes the code.
        drop(old);
        for digest in gone.iter().filter_map(|hex| digest_of(hex)) {
            self.remove_unreferenced(&digest);
        }
        self.show();
        if serves {
            self.changed.send_modify(|generation| *generation += 1);
        }
        Ok(())
    }

    fn remove_unreferenced(&self, digest: &Digest) {
        // Held throughout: an upload that pins the digest after we looked writes its file after we removed the old one.
        let pins = lock(&self.pins);
        let hex = digest.to_string();
        let is_referred_to = self.lock().plugins.values().any(|known| known.index.versions.iter().any(|stored| stored.digest == hex));
        if !is_referred_to && !pins.contains_key(digest) {
            self.disk.remove(digest);
        }
    }

    fn pin(self: &Arc<Self>, digest: Digest) -> Pin {
        *lock(&self.pins).entry(digest).or_default() += 1;
        Pin { catalog: self.clone(), digest }
    }

    async fn turn(&self, plugin: &str) -> Turn {
        let attached = self.attached.clone().read_owned().await;
        let turn = {
            let mut turns = lock(&self.turns);
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            turns.entry(plugin.into()).or_default().clone()
        };
        Turn { pin: None, _attached: attached, _plugin: turn.lock_owned().await }
    }

    fn known(&self, name: &str) -> Result<Arc<str>, CatalogError> {
        let state = self.lock();
        match state.plugins.get_key_value(name) {
            Some((plugin, _)) => Ok(plugin.clone()),
            None => Err(Refusal::NoPlugin {
                plugin: name.chars().take(100).collect(),
                have: state.plugins.keys().map(|name| name.to_string()).collect(),
            }
            .into()),
        }
    }

    fn stored(&self, plugin: &Arc<str>, version: u32) -> Result<Stored, CatalogError> {
        let state = self.lock();
        let versions = state.plugins.get(plugin).map(|known| known.index.versions.as_slice()).unwrap_or_default();
        let found = versions.iter().find(|stored| stored.version == version).cloned();
        Ok(found.ok_or_else(|| Refusal::NoVersion {
            plugin: plugin.clone(),
            version,
            have: versions.iter().map(|stored| stored.version).collect(),
        })?)
    }

    fn serving(&self, plugin: &str) -> Option<u32> {
        self.lock().plugins.get(plugin)?.index.history.serving()
    }

    fn serving_digest(&self, plugin: &str) -> Option<(u32, Digest)> {
        let state = self.lock();
        let index = &state.plugins.get(plugin)?.index;
        let version = index.history.serving()?;
        Some((version, digest_of(&index.version(version)?.digest)?))
    }

    /// Is every wanted configuration of the serving version ready?
    fn is_ready(&self, plugin: &Arc<str>, wants: &Wants) -> bool {
        let state = self.lock();
        wants.of(plugin).all(|wanted| state.ready.contains_key(&(plugin.clone(), wanted.config.clone())))
    }

    fn asks_more(&self, plugin: &Arc<str>, previous: Option<u32>, examined: &Examined) -> Vec<String> {
        let Some(before) = previous.and_then(|version| self.stored(plugin, version).ok()) else { return Vec::new() };
        let all = examined.imports.iter().chain(&examined.wasi);
        all.filter(|import| !before.imports.contains(import) && !before.wasi.contains(import)).cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// Keeps a digest's files from being swept while an upload works on it; sweeps them afterwards if nothing refers to it.
struct Pin {
    catalog: Arc<Catalog>,
    digest: Digest,
}

impl Drop for Pin {
    fn drop(&mut self) {
        {
            let mut pins = lock(&self.catalog.pins);
            match pins.get_mut(&self.digest) {
                Some(count) if *count > 1 => *count -= 1,
                _ => {
                    pins.remove(&self.digest);
                }
            }
        }
        self.catalog.remove_unreferenced(&self.digest);
    }
}

/// Keeps the newest versions, and the one that serves whatever its age.
fn trim(index: &mut Index, versions_max: usize) {
    let serving = index.history.serving();
    let mut surplus = index.versions.len().saturating_sub(versions_max);
    index.versions.retain(|stored| {
        let goes = surplus > 0 && Some(stored.version) != serving;
        surplus -= usize::from(goes);
        !goes
    });
    let kept: BTreeSet<u32> = index.versions.iter().map(|stored| stored.version).collect();
    index.history.retain(|version| kept.contains(&version));
}

fn keyed(ready: Arc<Ready>) -> (Key, Arc<Ready>) {
    ((ready.setup.plugin.clone(), ready.setup.config.clone()), ready)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Work that hashes, reads or writes, off the control thread. It runs to its end even if nobody waits for it any more.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, CatalogError> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.map_err(|error| Refusal::Internal(format!("a worker ended early: {error}")).into())
}
