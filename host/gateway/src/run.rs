//! From the command line to a serving gateway, and to its end. Read from top to bottom.

use crate::assemble::Generation;
use crate::cli::RunArgs;
use crate::config;
use crate::config::plan::{self, Plan};
use crate::control::Control;
use crate::cores::{self, Seed};
use crate::desk::GatewayDesk;
use crate::follow;
use crate::last_good::{self, Loaded};
use crate::listen::{self, Gate};
use crate::telemetry::access::AccessWriter;
use crate::telemetry::logs;
use crate::telemetry::traces::export::Exporter;
use anyhow::{Context as _, Result, bail};
use rustix::process::{Resource, Rlimit};
use serde_json::{Map, Value, json};
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{LocalSet, spawn_local};
use wharf_centre::{Centre, Options, Readiness};
use wharf_core::desk::Desk;
use wharf_core::metrics::Registry;
use wharf_core::store::Store;
use wharf_embedded::kv::{Durability, Kv, KvConfig, Quota};
use wharf_http::admission::Files;
use wharf_http::record::Recorder;
use wharf_upstream::Services;
use wharf_wasm::{Catalog, CatalogParts};

/// How long exchanges in flight may take to end when the process is told to.
const GRACE: Duration = Duration::from_secs(20);
/// Files that connections leave to the admin API, the catalog, stores and logs.
const FILES_KEPT: u32 = 256;
/// How long the cores may take to serve the first generation.
const START_MAX: Duration = Duration::from_secs(30);

/// Runs the gateway until it is told to end.
///
/// # Errors
/// What kept it from serving: the configuration (every mistake), a port, the state folder. Nothing serves then.
pub fn run(args: &RunArgs) -> Result<()> {
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
    let for_clients = Files::new(files / 2);
    let mut bound = Vec::new();
    for listener in &plan.listeners {
        let (address, sockets) = listen::bind(&listener.name, listener.bind, cores)?;
        bound.push((
            listener.clone(),
            address,
            Gate::new(&listener.name, listener.connections_max, for_clients.clone(), &metrics),
            sockets,
        ));
    }
    let (admin_address, mut admin) = listen::bind("admin", plan.admin.bind, 1)?;
    let admin = admin.pop().context("no socket for the admin listener")?;

    let control = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot make the control runtime")?;
    let ended = LocalSet::new().block_on(&control, serve(args, files, loaded, logs, metrics, bound, (admin_address, admin)));
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

type Bound = (plan::Listener, std::net::SocketAddr, Arc<Gate>, Vec<TcpListener>);

async fn serve(
    args: &RunArgs,
    files: u32,
    loaded: Loaded,
    logs: logs::Logs,
    metrics: Arc<Registry>,
    mut bound: Vec<Bound>,
    (admin_address, admin): (std::net::SocketAddr, TcpListener),
) -> Result<()> {
    let plan = loaded.settled();
    let state = plan.node.state_dir.clone();
    let cores = plan.workers.max(1);
    let admin_plan = plan.admin.clone();

    // Rooms that are house-wide.
    let store = open_store(&plan).await?;
    // Not the path of the binary: after an upgrade on disk that names another one, whose code this one could not load.
    let exe = PathBuf::from("/proc/self/exe");
    let mut parts = CatalogParts::new(state.join("plugins"), exe, store, metrics.clone());
    let audit_file = state.join("audit.log");
    parts.audit = Arc::new(move |line| own_change(&audit_file, line));
    let catalog = Catalog::open(parts).context("the plugin catalog cannot be opened")?;
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
    let (stop, stopped) = watch::channel(false);
    let node = node_number();
    let mut threads = Vec::new();
    let upstream_files = Files::new(files / 2);
    for (number, applied) in applied.into_iter().enumerate() {
        let listeners = bound
            .iter_mut()
            .filter_map(|(listener, _, gate, sockets)| Some((listener.name.clone(), gate.clone(), sockets.pop()?)))
            .collect();
        let log = access.as_ref().map(AccessWriter::for_core);
        threads.push(cores::start(Seed {
            number: u16::try_from(number).unwrap_or(u16::MAX),
            node,
            metrics: metrics.clone(),
            files: upstream_files.clone(),
            recorder: Box::new(move || log.map(|log| Rc::new(log) as Rc<dyn Recorder>)),
            faults: catalog.fault_sink(),
            generations: control.generations(),
            applied,
            listeners,
            stop: stopped.clone(),
            grace: GRACE,
        })?);
    }

    // Changes, from the file and from the catalog.
    tokio::spawn(attend_log(logs, metrics.clone(), control.generations()));
    spawn_local(control.clone().follow_catalog());
    spawn_local(control.clone().keep_on());
    spawn_local(follow::follow(control.clone(), asked));

    let exporter = Exporter::start(control.generations(), metrics.clone());
    let reopener = access.as_ref().map(AccessWriter::reopener).unwrap_or_default();

    // The admin API, made of the desks.
    let desks: Vec<Arc<dyn Desk>> = vec![GatewayDesk::new(control.clone(), reopener.clone()), catalog.clone(), services.clone()];
    let mut options = Options::new(&state);
    options.token_file = admin_plan.token_file.clone();
    // Whoever is told this name will use it.
    options.allowed_hosts.extend(admin_plan.advertise.as_deref().and_then(|told| Some(told.rsplit_once(':')?.0.to_owned())));
    let ready = control.clone();
    options.readiness = Arc::new(move || {
        let applied = ready.is_applied();
        Readiness {
            ready: applied,
            reasons: if applied { Vec::new() } else { vec!["a core has not taken over the newest generation".into()] },
        }
    });
    let centre = Centre::new(desks, metrics.clone(), options).context("the admin API cannot start")?;
    let mut stopping = stopped.clone();
    let serving = tokio::spawn(centre.serve(admin, async move {
        let _ = stopping.wait_for(|stop| *stop).await;
    }));

    if !control.taken_over(START_MAX).await {
        bail!("the cores have not taken over the configuration within {START_MAX:?}; the machine may have no processor to spare");
    }
    announce(&bound, admin_address, &admin_plan)?;

    // Until it is told to end.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut rotated = signal(SignalKind::user_defined1())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = tokio::signal::ctrl_c() => break,
            _ = rotated.recv() => drop(reopener.reopen()),
            _ = hang_up.recv() => {
                reopener.reopen();
                // Aside: reading a file may take its time, and being told to end comes first.
                let asking = control.clone();
                spawn_local(async move { asking.ask_reload().await });
            }
        }
    }
    tracing::info!("ending: no new connections; exchanges in flight get up to {GRACE:?}");
    stop.send_replace(true);
    let joined = tokio::task::spawn_blocking(move || threads.into_iter().for_each(|thread| drop(thread.join())));
    let _ = joined.await;
    let _ = serving.await;
    exporter.close().await;
    if let Some(access) = &mut access {
        access.close();
    }
    tracing::info!("ended");
    Ok(())
}

async fn open_store(plan: &Plan) -> Result<Arc<dyn Store>> {
    let mut config = KvConfig::new(Durability::Synced(plan.node.state_dir.join("kv")));
    for plugin in &plan.plugins {
        if let Some(kv) = &plugin.kv {
            config.quotas.insert(kv.namespace.as_ref().into(), Quota { bytes_max: kv.bytes_max, keys_max: kv.keys_max });
        }
    }
    let opened = tokio::task::spawn_blocking(move || Kv::open(config)).await.context("opening the key-value store")?;
    Ok(Arc::new(opened.context("the key-value store cannot be opened")?))
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
fn announce(bound: &[Bound], admin: std::net::SocketAddr, admin_plan: &plan::Admin) -> Result<()> {
    let own = config::surroundings::local_addresses();
    let mut listeners = Map::new();
    for (listener, address, ..) in bound {
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
