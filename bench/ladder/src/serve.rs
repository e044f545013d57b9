//! The program: one core put together as the gateway puts its own together, and what it shows of itself.

use crate::config::plan::{AccessLog, LogTarget, Redact};
use crate::telemetry::access::AccessWriter;
use anyhow::{Context as _, Result};
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::LocalSet;
use wharf_core::BoxFuture;
use wharf_core::directory::{Directory, Listed, Listing};
use wharf_core::metrics::Registry;
use wharf_core::outlet::{Outlet, Outlets, Wish};
use wharf_core::road::Target;
use wharf_http::front;
use wharf_http::house::{Core, Entry, House, ListenerLimits, Meters, core_thread};
use wharf_http::record::Recorder;
use wharf_http::routes::{RouteMatch, Routes};
use wharf_ladder::file::{self, File, To};
use wharf_ladder::rules;
use wharf_upstream::{OutletConfig, RetryPolicy, ServiceOutlet, Services};

/// As the gateway's.
const BACKLOG: i32 = 4096;

pub(crate) fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [command, flag, path] = args.as_slice() else { return usage() };
    if command != "run" || flag != "--config" {
        return usage();
    }
    match run(path) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn usage() -> ExitCode {
    let _ = writeln!(std::io::stderr(), "usage: wharf-ladder run --config FILE");
    ExitCode::from(2)
}

/// Serves until it is ended by a signal.
fn run(path: &str) -> Result<()> {
    let file = File::read(path)?;
    let metrics = Arc::new(Registry::default());
    let access = AccessWriter::start(&access_log(&file), metrics.clone()).context("the access log cannot be opened")?;
    let limits = file.limits()?;
    let listener = listen(file.listeners.main.bind)?;
    let admin = listen(file.admin.bind)?;
    let (address, admin_address) = (listener.local_addr()?, admin.local_addr()?);

    let services = Services::new(metrics.clone());
    for (name, service) in &file.services {
        services.put(name, Arc::new(Named(service.endpoints.clone())));
    }
    let (core_metrics, core_services) = (metrics.clone(), services.clone());
    let log = access.as_ref().map(AccessWriter::for_core);
    let (tell, told) = std::sync::mpsc::channel();
    core_thread("wharf-core-0".into(), move || async move {
        let recorder = log.map(|log| Rc::new(log) as Rc<dyn Recorder>);
        // Never comes back unless it could not begin.
        let ended = serve(&file, core_metrics, &core_services, recorder, limits, listener).await;
        let _ = tell.send(ended);
    })?;

    let control = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&control, async move {
        tokio::spawn(services.run());
        tokio::task::spawn_local(show_metrics(admin, metrics));
        let line = serde_json::json!({ "listeners": { "main": address.to_string() }, "admin": admin_address.to_string() });
        let mut out = std::io::stdout().lock();
        writeln!(out, "READY {line}").and_then(|()| out.flush())?;
        drop(out);
        tokio::task::spawn_blocking(move || told.recv()).await??
    })
}

/// The gateway redacts more arguments; the bench's paths have none.
fn access_log(file: &File) -> AccessLog {
    AccessLog {
        target: LogTarget::File(file.access_log.to.clone()),
        also_stdout: false,
        template: None,
        request_headers: Vec::new(),
        response_headers: Vec::new(),
        redact: Redact { query: vec!["token".into()], ..Redact::default() },
        rotate: None,
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(address).with_context(|| format!("cannot bind {address}"))?;
    // std listens with a backlog of 128; a second call changes it.
    socket2::SockRef::from(&listener).listen(BACKLOG)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// The one core, put together as `assemble.rs` and `cores.rs` of the gateway do it.
async fn serve(
    file: &File,
    metrics: Arc<Registry>,
    services: &Services,
    recorder: Option<Rc<dyn Recorder>>,
    limits: ListenerLimits,
    listener: TcpListener,
) -> Result<()> {
    let core = Core::new(0, 1, metrics.clone(), recorder);
    let mut outlets = Outlets::new();
    for (name, service) in &file.services {
        let shared = services.get(name).with_context(|| format!("service {name:?} has gone"))?;
        let retry = RetryPolicy { tries_max: 2, ..RetryPolicy::default() };
        let config = OutletConfig { limits: service.timeouts.limits()?, retry, ..OutletConfig::default() };
        let outlet: Rc<dyn Outlet> = Rc::new(ServiceOutlet::new(shared, Rc::new(core.client.clone()), config, 0, None));
        outlets.insert(name.as_str().into(), outlet);
    }
    let outlets = Rc::new(outlets);
    let mut entries = Vec::new();
    for route in &file.routes {
        let (rules, target) = match &route.to {
            To::Service(name) => {
                let outlet = outlets.get(name.as_str()).with_context(|| format!("route {:?}: there is no service {name:?}", route.name))?;
                (rules::of(&route.plugins, None)?, Target::Fixed(outlet.clone(), Wish::default()))
            }
            To::Plugin(attachment) => (rules::of(&route.plugins, Some(attachment))?, Target::Picked(outlets.clone())),
        };
        entries.push(Entry {
            name: route.name.as_str().into(),
            rules,
            by_host: None,
            target,
            memory: None,
            whole: file::duration(&route.timeouts.whole)?,
            whole_is_default: false,
            body_bytes_max: 10 << 20,
            keep_host: false,
            steps: None,
            compression: None,
            watch: None,
            meters: Rc::new(Meters::new(&metrics, &route.name.as_str().into())),
        });
    }
    let routes = Arc::new(Routes::compile(entries.iter().map(|_| RouteMatch::default()).collect()));
    *core.house.borrow_mut() = Rc::new(House { routes, entries, unmatched: None, watch: None });

    tokio::task::spawn_local(core.clone().sweep());

    let limits = Rc::new(limits);
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        // A bench opens its connections once; what cannot be accepted is a broken bench, and the client says so.
        if let Ok((stream, peer)) = listener.accept().await {
            tokio::task::spawn_local(front::serve(core.clone(), limits.clone(), stream, peer));
        }
    }
}

/// Answers whatever is asked with the counters: the bench asks once a second.
async fn show_metrics(listener: TcpListener, metrics: Arc<Registry>) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    loop {
        let Ok((mut stream, _)) = listener.accept().await else { continue };
        let mut asked = [0; 4096];
        let _ = stream.read(&mut asked).await;
        let text = metrics.render();
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            text.len()
        );
        let _ = stream.write_all(head.as_bytes()).await;
        let _ = stream.write_all(text.as_bytes()).await;
    }
}

/// Endpoints from the file, which never change here.
struct Named(Vec<SocketAddr>);

impl Directory for Named {
    fn listing(&self) -> Arc<Listing> {
        let endpoints = self.0.iter().map(|&address| Listed { address, weight: 1, zone: None, tags: Box::default() }).collect();
        Arc::new(Listing { version: 1, endpoints, confirmed: SystemTime::now(), trouble: None })
    }

    fn changed(&self, seen: u64) -> BoxFuture<'_, Arc<Listing>> {
        match seen {
            1 => Box::pin(std::future::pending()),
            _ => Box::pin(std::future::ready(self.listing())),
        }
    }
}
