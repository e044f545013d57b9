//! From the command line to a serving gateway, and to its end. Read from top to bottom.

use crate::assemble::Generation;
use crate::cli::RunArgs;
use crate::config;
use crate::config::plan::{self, Plan};
use crate::control::Control;
use crate::cores::{self, Ending, Seed};
use crate::desk::GatewayDesk;
use crate::expiry;
use crate::ferry::Ferry;
use crate::follow;
use crate::last_good::{self, Loaded};
use crate::listen::{self, Gate};
use crate::memory;
use crate::supervisor::{self, State};
use crate::telemetry::access::AccessWriter;
use crate::telemetry::traces::export::Exporter;
use crate::telemetry::{logs, process};
use crate::upgrade::{self, Estate, Handed, HandedStore, Inheritance, Listening};
use anyhow::{Context as _, Result, bail};
use rustix::process::{Resource, Rlimit};
use serde_json::{Map, Value, json};
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinHandle, LocalSet, spawn_local};
use tokio::time::Sleep;
use wharf_centre::{Centre, Options, Readiness};
use wharf_core::desk::Desk;
use wharf_core::metrics::Registry;
use wharf_core::store::Store;
use wharf_embedded::kv::{Durability, Kv, KvConfig, Quota};
use wharf_http::admission::{Files, Pressure};
use wharf_http::record::Recorder;
use wharf_upstream::Services;
use wharf_wasm::{Catalog, CatalogParts};

/// Files that connections leave to the admin API, the catalog, stores and logs.
const FILES_KEPT: u32 = 256;
/// How long the cores may take to serve the first generation.
const START_MAX: Duration = Duration::from_secs(30);

/// Runs the gateway until it is told to end, or has handed over to a newer process.
///
/// # Errors
/// What kept it from serving: the configuration (every mistake), a port, the state folder. Nothing serves then, or what
/// this process was to take over from serves on.
pub fn run(args: &RunArgs) -> Result<()> {
    let control = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot make the control runtime")?;
    let asks = {
        let _within = control.enter();
        Asks::listen().context("cannot listen for signals")?
    };
    let binary = upgrade::own_binary();
    let mut inheritance = Inheritance::take().context("cannot take over from another process")?;
    let loaded = last_good::load(&args.config, args.strict)?;
    let plan = loaded.settled();
    let logs = logs::start(&plan.log)?;
    let files = raise_open_files();
    if !loaded.blame.0.is_empty() || loaded.refused.is_some() {
        tracing::error!(
            file = %args.config.display(),
            "the configuration has mistakes: what is wrong serves as it was kept in {}, all else as the file says; `wharf check` tells the mistakes, `wharf run --strict` would not have started",
            plan.node.state_dir.display()
        );
    }
    let state = plan.node.state_dir.clone();
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&state).map_err(|error| {
        let folder = state.display();
        anyhow::anyhow!(
            "the state folder {folder} cannot be made: {error}; hint: choose another by `node.state_dir`, or mend what is in its way"
        )
    })?;

    // Everything that others will look for is bound before anything is started.
    let metrics = Arc::new(Registry::default());
    let cores = plan.workers.max(1);
    let pressure = Arc::<Pressure>::default();
    let for_clients = Files::new(files / 2);
    let mut bound = Vec::new();
    let mut listening = Vec::new();
    let mut take = |name: Option<&str>, wanted, count| -> Result<_> {
        let told = name.unwrap_or("admin");
        let (address, mut sockets) = match inheritance.as_mut().and_then(|inheritance| inheritance.sockets(name, wanted)) {
            Some(inherited) => inherited,
            None => listen::bind(told, wanted, count)?,
        };
        // One for each core; where they were more, a core has several, or what waits at the others would wait for ever.
        sockets.extend(listen::more(told, address, count.saturating_sub(sockets.len()))?);
        let kept = sockets.iter().map(TcpListener::try_clone).collect::<std::io::Result<_>>().context("cannot keep a socket")?;
        listening.push(Listening { listener: name.map(str::to_owned), address, sockets: kept });
        Ok((address, sockets))
    };
    for listener in &plan.listeners {
        let (address, sockets) = take(Some(&*listener.name), listener.bind, cores)?;
        let gate = Gate::new(&listener.name, listener.connections_max, (for_clients.clone(), pressure.clone()), &metrics);
        bound.push(Bound { listener: listener.clone(), address, gate, sockets });
    }
    let (admin_address, mut admin) = take(None, plan.admin.bind, 1)?;
    let admin = (admin_address, admin.pop().context("no socket for the admin listener")?);

    let start = Start { args, asks, files, pressure, loaded, logs, metrics, bound, admin, binary, listening, inheritance };
    let ended = LocalSet::new().block_on(&control, serve(start));
    // What still waits for a disk is not waited for.
    control.shutdown_timeout(Duration::from_secs(1));
    ended
}

/// Gives our log the level that the newest configuration says, and counts the lines of it that were dropped. Never
/// resolves, and keeps the log until the runtime ends.
async fn attend_log(logs: logs::Logs, metrics: Arc<Registry>, mut generations: watch::Receiver<Arc<Generation>>) {
    let count =
        metrics.count("wharf_log_lost_total", "lines of the gateway's own log that were dropped, because nobody read those before", &[]);
    let mut told = 0;
    let mut each = tokio::time::interval(Duration::from_secs(1));
    let mut level = generations.borrow().plan.log.level.clone();
    loop {
        tokio::select! {
            _ = each.tick() => {
                let lost = logs.lost();
                count.add_shared(lost - told);
                told = lost;
            }
            Ok(()) = generations.changed() => {
                let wanted = generations.borrow_and_update().plan.log.level.clone();
                if wanted != level {
                    // The checker has read it; should it be none all the same, the one before stays.
                    match logs.set_level(&wanted) {
                        Ok(()) => tracing::info!(level = %wanted, "the log has another level"),
                        Err(error) => tracing::warn!(level = %wanted, %error, "the log keeps its level"),
                    }
                    level = wanted;
                }
            }
        }
    }
}

/// A listener with its sockets.
struct Bound {
    listener: plan::Listener,
    address: SocketAddr,
    gate: Arc<Gate>,
    sockets: Vec<TcpListener>,
}

/// Signals that ask for something and, unheard, would end the process: listened for from its first moment. Those that tell it
/// to end may do so until it serves.
struct Asks {
    hang_up: Signal,
    rotated: Signal,
    newer: Signal,
}

impl Asks {
    fn listen() -> std::io::Result<Asks> {
        let [hang_up, rotated, newer] = [SignalKind::hangup(), SignalKind::user_defined1(), SignalKind::user_defined2()].map(signal);
        Ok(Asks { hang_up: hang_up?, rotated: rotated?, newer: newer? })
    }
}

/// What a process has when it begins to serve.
struct Start<'a> {
    args: &'a RunArgs,
    asks: Asks,
    files: u32,
    pressure: Arc<Pressure>,
    loaded: Loaded,
    logs: logs::Logs,
    metrics: Arc<Registry>,
    bound: Vec<Bound>,
    admin: (SocketAddr, TcpListener),
    binary: PathBuf,
    listening: Vec<Listening>,
    inheritance: Option<Inheritance>,
}

async fn serve(start: Start<'_>) -> Result<()> {
    let Start {
        args,
        asks: Asks { mut hang_up, mut rotated, mut newer },
        files,
        pressure,
        loaded,
        logs,
        metrics,
        mut bound,
        admin: (admin_address, admin),
        binary,
        listening,
        mut inheritance,
    } = start;
    let plan = loaded.settled();
    let state = plan.node.state_dir.clone();
    let cores = plan.workers.max(1);
    let admin_plan = plan.admin.clone();

    // Rooms that are house-wide. Whoever else has the folder is named in the place of the lock that could not be had.
    let in_use = |error: anyhow::Error| match crate::state::told(&state) {
        Some(told) => anyhow::anyhow!(told),
        None => error,
    };
    let lock = inheritance.as_mut().and_then(Inheritance::lock);
    let (store, heir) = match inheritance {
        None => (Arc::new(HandedStore::new(open_store(&plan).await.map_err(in_use)?)), None),
        Some(inheritance) => {
            let (heir, store) = inheritance.heir()?;
            (store, Some(heir))
        }
    };
    // Not the path of the binary: after an upgrade on disk that names another one, whose code this one could not load.
    let exe = PathBuf::from("/proc/self/exe");
    let mut parts = CatalogParts::new(state.join("plugins"), exe, store.clone(), metrics.clone());
    parts.lock = lock;
    let audit_file = state.join("audit.log");
    parts.audit = Arc::new(move |line| own_change(&audit_file, line));
    let catalog = Catalog::open(parts).context("the plugin catalog cannot be opened").map_err(in_use)?;
    let attending = catalog.clone();
    tokio::spawn(async move { attending.attend().await });
    let showing = catalog.clone();
    tokio::spawn(async move {
        let mut each = tokio::time::interval(Duration::from_secs(1));
        loop {
            each.tick().await;
            showing.show();
        }
    });
    let services = Services::new(metrics.clone());
    tokio::spawn(services.clone().run());
    let mut access = AccessWriter::start(&plan.access_log, metrics.clone()).map_err(|error| {
        let target = &plan.access_log.target;
        anyhow::anyhow!("the access log {target} cannot be opened: {error}; hint: make its folder, or name another file by `access_log.to`")
    })?;

    // The first generation, then the cores that serve it.
    let applied: Vec<_> = (0..cores).map(|_| Arc::new(AtomicU64::new(0))).collect();
    let (control, asked) = Control::start(args.config.clone(), loaded, catalog.clone(), services.clone(), applied.clone(), &metrics).await;
    let (end, ended) = watch::channel(None);
    let (open, opened) = watch::channel(false);
    let node = node_number();
    let ferry = Ferry::open(&plan, cores, &metrics)?;
    let mut threads = Vec::new();
    let (give_back, giving_back) = watch::channel(());
    let upstream_files = Files::new(files / 2);
    for (number, applied) in applied.into_iter().enumerate() {
        let listeners = bound.iter_mut().flat_map(|bound| bound.share_of(number, cores)).collect();
        let log = access.as_ref().map(AccessWriter::for_core);
        threads.push(cores::start(Seed {
            number: u16::try_from(number).unwrap_or(u16::MAX),
            node,
            metrics: metrics.clone(),
            files: upstream_files.clone(),
            pressure: pressure.clone(),
            give_back: giving_back.clone(),
            recorder: Box::new(move || log.map(|log| Rc::new(log) as Rc<dyn Recorder>)),
            faults: catalog.fault_sink(),
            generations: control.generations(),
            applied,
            listeners,
            open: opened.clone(),
            end: ended.clone(),
            ferry: ferry.clone(),
        })?);
    }

    // Changes, from the file and from the catalog.
    tokio::spawn(memory::watch(pressure, give_back, control.generations(), metrics.clone()));
    tokio::spawn(attend_log(logs, metrics.clone(), control.generations()));
    let following = [
        spawn_local(control.clone().follow_catalog()),
        spawn_local(control.clone().keep_on()),
        spawn_local(follow::follow(control.clone(), asked)),
    ];

    tokio::spawn(process::attend(metrics.clone(), cores));
    tokio::spawn(expiry::attend(metrics.clone(), control.generations()));
    let exporter = Exporter::start(control.generations(), metrics.clone());
    let reopener = access.as_ref().map(AccessWriter::reopener).unwrap_or_default();

    // The admin API, made of the desks.
    let (upgrades, mut upgrades_asked) = mpsc::channel(1);
    let desks: Vec<Arc<dyn Desk>> = vec![GatewayDesk::new(control.clone(), reopener.clone(), upgrades), catalog.clone(), services.clone()];
    let mut options = Options::new(&state);
    options.token_file = admin_plan.token_file.clone();
    // Whoever is told this name will use it.
    options.allowed_hosts.extend(admin_plan.advertise.as_deref().and_then(|told| Some(told.rsplit_once(':')?.0.to_owned())));
    // Set once it is told to end: balancers are to look for another node while this one still answers.
    let leaving = Arc::new(AtomicBool::new(false));
    let (ready, draining) = (control.clone(), leaving.clone());
    options.readiness = Arc::new(move || {
        let mut reasons = Vec::new();
        if draining.load(Ordering::Relaxed) {
            reasons.push("draining".into());
        }
        if !ready.is_applied() {
            reasons.push("a core has not taken over the newest generation".into());
        }
        Readiness { ready: reasons.is_empty(), reasons }
    });
    let centre = Centre::new(desks, metrics.clone(), options).context("the admin API cannot start")?;
    if !control.taken_over(START_MAX).await {
        bail!("the cores have not taken over the configuration within {START_MAX:?}; the machine may have no processor to spare");
    }
    // From here on it ends in order: whoever is told that it is ready may tell it to end.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut elder = None;
    if let Some(heir) = heir {
        let heir = heir.take_store(&store, open_store(&plan)).await?;
        // The old process may end as soon as it hears that this one serves.
        supervisor::tell(State::Heir);
        elder = Some(heir.serves(bound.iter().map(|bound| bound.listener.name.to_string())).await);
    }
    open.send_replace(true);
    let (close_admin, admin_closes) = oneshot::channel::<()>();
    let serving = tokio::spawn(centre.serve(admin, async move { drop(admin_closes.await) }));
    announce(&bound, admin_address, &admin_plan)?;
    supervisor::tell(State::Serving);

    // Until it is told to end, or a newer process serves.
    let estate = Rc::new(Estate { binary, listening, catalog, store });
    let mut upgrading: Option<JoinHandle<Result<Handed>>> = None;
    let mut waiting: Vec<upgrade::Ask> = Vec::new();
    // While it serves on although it was told to end, for as long as balancers take to notice.
    let mut delay: Option<Pin<Box<Sleep>>> = None;
    let handed = loop {
        let begin = tokio::select! {
            () = told_to_end(&mut terminate, &mut interrupt) => {
                let wait = control.serving().plan.node.drain_delay;
                // Nor is it put off while an upgrade is on its way, which ends with it: the store may be closed for it already.
                if wait.is_zero() || upgrading.is_some() || leaving.swap(true, Ordering::Relaxed) {
                    break None;
                }
                tracing::info!("told to end: `/readyz` says so, and everything is served for {wait:?} more (`node.drain_delay`)");
                supervisor::tell(State::Ending);
                delay = Some(Box::pin(tokio::time::sleep(wait)));
                false
            }
            () = over(&mut delay) => break None,
            _ = rotated.recv() => {
                reopener.reopen();
                false
            }
            _ = hang_up.recv() => {
                reopener.reopen();
                // Aside: reading a file may take its time, and being told to end comes first.
                let asking = control.clone();
                spawn_local(async move { asking.ask_reload().await });
                false
            }
            _ = newer.recv() => delay.is_none(),
            Some(ask) = upgrades_asked.recv() => {
                if delay.is_none() {
                    waiting.push(ask);
                }
                delay.is_none()
            }
            Some(done) = ended_upgrade(&mut upgrading) => {
                upgrading = None;
                let done = done.context("the upgrade failed in a way that must not happen").and_then(|done| done);
                let told = done.as_ref().map(|handed| handed.pid).map_err(|error| format!("{error:#}"));
                for ask in waiting.drain(..) {
                    let _ = ask.send(told.clone());
                }
                match done {
                    Ok(handed) => break Some(handed),
                    Err(error) => tracing::error!("the upgrade did not take place, this process serves on: {error:#}"),
                }
                false
            }
        };
        // Whoever asks while one is on its way is told what becomes of that.
        if begin && upgrading.is_none() {
            let (estate, serving) = (estate.clone(), control.serving());
            let reopen = async move || open_store(&serving.plan).await;
            upgrading = Some(spawn_local(async move { estate.hand_over(reopen).await }));
        }
    };
    if let Some(upgrading) = upgrading {
        upgrading.abort();
    }

    // The end. What others would now do as well is left to them; whoever asks for an upgrade now is told that it is too late.
    drop((upgrades_asked, waiting));
    following.iter().for_each(JoinHandle::abort);
    let node = control.serving().plan.node.clone();
    let mut grace = if handed.is_some() { node.drain_on_upgrade } else { node.drain };
    if let Some(handed) = &handed {
        bound.iter().filter(|bound| handed.taken.contains(&*bound.listener.name)).for_each(|bound| bound.gate.hand_over());
    }
    tracing::info!("ending: no new connections; exchanges in flight get up to {grace:?}");
    // The admin API stays as long as the process, or probes would find nobody; unless a newer process has it.
    let close_admin = handed.is_none().then_some(close_admin);
    if close_admin.is_some() && !leaving.swap(true, Ordering::Relaxed) {
        supervisor::tell(State::Ending);
    }
    drop(estate);
    let begun = Instant::now();
    end.send_replace(Some(Ending { grace }));
    let joined = tokio::task::spawn_blocking(move || threads.into_iter().for_each(|thread| drop(thread.join())));
    let (elder, mut hurry) = (elder.filter(|_| handed.is_some()), end.subscribe());
    let mut joined = pin!(async {
        let _ = joined.await;
        // An older process that still drains has its way to the store through this one.
        if let Some(mut elder) = elder {
            let _ = tokio::time::timeout(node.drain_on_upgrade.saturating_sub(begun.elapsed()), async {
                tokio::select! {
                    () = elder.gone() => {}
                    _ = hurry.wait_for(|ending| ending.is_some_and(|ending| ending.grace.is_zero())) => {}
                }
            })
            .await;
        }
    });
    let mut hurried = handed.is_none();
    loop {
        tokio::select! {
            _ = &mut joined => break,
            () = told_to_end(&mut terminate, &mut interrupt) => {}
        }
        // Told again: after an upgrade as if it were the first time, else at once.
        grace = if std::mem::replace(&mut hurried, true) { Duration::ZERO } else { begun.elapsed() + node.drain };
        tracing::info!("told again to end");
        end.send_replace(Some(Ending { grace }));
    }
    drop(close_admin);
    let _ = serving.await;
    exporter.close().await;
    if let Some(access) = &mut access {
        access.close();
    }
    tracing::info!("ended");
    Ok(())
}

/// Resolves when the process is told to end, by a supervisor or at a terminal.
async fn told_to_end(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Resolves when the delay is over; never while there is none.
async fn over(delay: &mut Option<Pin<Box<Sleep>>>) {
    match delay {
        Some(delay) => delay.as_mut().await,
        None => std::future::pending().await,
    }
}

/// What has become of the upgrade; never ready while there is none.
async fn ended_upgrade(upgrading: &mut Option<JoinHandle<Result<Handed>>>) -> Option<std::result::Result<Result<Handed>, JoinError>> {
    match upgrading {
        Some(upgrading) => Some(upgrading.await),
        None => std::future::pending().await,
    }
}

impl Bound {
    /// The sockets of one core out of so many.
    fn share_of(&mut self, core: usize, cores: usize) -> Vec<(Arc<str>, Arc<Gate>, TcpListener)> {
        // Each takes its part of what is left: the last one takes the rest.
        let left = self.sockets.len().div_ceil(cores.saturating_sub(core).max(1));
        let sockets = self.sockets.split_off(self.sockets.len() - left);
        sockets.into_iter().map(|socket| (self.listener.name.clone(), self.gate.clone(), socket)).collect()
    }
}

async fn open_store(plan: &Plan) -> Result<Box<dyn Store>> {
    let mut config = KvConfig::new(Durability::Synced(plan.node.state_dir.join("kv")));
    for plugin in &plan.plugins {
        if let Some(kv) = &plugin.kv {
            config.quotas.insert(kv.namespace.as_ref().into(), Quota { bytes_max: kv.bytes_max, keys_max: kv.keys_max });
        }
    }
    let opened = tokio::task::spawn_blocking(move || Kv::open(config)).await.context("opening the key-value store")?;
    Ok(Box::new(opened.context("the key-value store cannot be opened")?))
}

/// Writes down what the house changed by itself, where operators' changes are written down.
fn own_change(file: &Path, line: &str) {
    tracing::warn!(change = line, "the house made a change by itself");
    let time_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let entry = json!({ "time_ms": time_ms, "actor": "house", "change": line });
    let opened = std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(file);
    let written = opened.and_then(|mut file| file.write_all(format!("{entry}\n").as_bytes()).and_then(|()| file.sync_data()));
    if let Err(error) = written {
        tracing::error!(%error, file = %file.display(), "a change is missing from the audit log");
    }
}

/// Says where it can be reached: for people in the log, for programs in one line on standard output.
fn announce(bound: &[Bound], admin: SocketAddr, admin_plan: &plan::Admin) -> Result<()> {
    let own = config::surroundings::local_addresses();
    let mut listeners = Map::new();
    for Bound { listener, address, .. } in bound {
        let advertised = plan::advertised(listener.advertise.as_deref(), *address, &own);
        tracing::info!(listener = &*listener.name, bound = %address, advertised, "listening");
        listeners.insert(listener.name.to_string(), Value::from(address.to_string()));
    }
    tracing::info!(admin = %admin, token_file = %admin_plan.token_file.display(), "admin API");
    let line = json!({ "listeners": listeners, "admin": admin.to_string(), "token_file": admin_plan.token_file.display().to_string() });
    let mut out = std::io::stdout().lock();
    // Nobody may be reading; that is no reason not to serve.
    let _ = writeln!(out, "READY {line}").and_then(|()| out.flush());
    Ok(())
}

/// A proxied connection takes two files; the soft limit of many shells is 1,024. Returns how many connections may have: some
/// are kept for the admin API, the catalog and logs.
fn raise_open_files() -> u32 {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let mut most = limit.maximum;
    if rustix::process::setrlimit(Resource::Nofile, raised).is_err() {
        tracing::warn!(limit = limit.current, "the limit of open files cannot be raised");
        most = limit.current;
    }
    let most = most.map_or(u32::MAX, |most| u32::try_from(most).unwrap_or(u32::MAX));
    let kept = FILES_KEPT.min(most / 2);
    tracing::info!(files = most, for_connections = most - kept, "open files");
    most - kept
}

/// Tells this process from others in exchange ids: not secret, and different with every start.
fn node_number() -> u32 {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    let mixed = (time ^ u64::from(std::process::id()).rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 32) as u32
}
