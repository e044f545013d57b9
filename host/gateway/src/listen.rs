//! Listening: sockets, the accept loop of one core, and the limits that are checked before a connection costs anything.
//!
//! Each core has a socket of its own on the same address (SO_REUSEPORT), so the kernel deals connections out and no
//! core hands one to another. Sockets are made once, before any core runs, so a port that is taken stops the start
//! with a message and not in the middle.

use crate::config::plan::{Listener, Plan};
use anyhow::{Context as _, Result, bail};
use socket2::{Domain, Protocol, Socket, Type};
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use wharf_core::metrics::{Count, Level, Registry};
use wharf_http::admission::{File, Files, Pressure, Sources};
use wharf_http::front;
use wharf_http::house::{Core, ListenerLimits};

/// Connections that wait in the kernel to be accepted, for each core.
const BACKLOG: i32 = 4096;

/// Binds one address once for each core. A port of 0 is chosen by the kernel and is then the same for all.
///
/// # Errors
/// Names the listener, the address and what to do: the port is taken, or the address is not this host's.
pub fn bind(name: &str, address: SocketAddr, cores: usize) -> Result<(SocketAddr, Vec<TcpListener>)> {
    // SO_REUSEPORT would let us share a port with a stranger who set it, too. So the port is first taken alone.
    let alone = socket(address, false).and_then(|socket| {
        socket.listen(1)?;
        socket.local_addr()
    });
    let bound = match alone {
        Ok(bound) => bound.as_socket().context("the address is no IP address")?,
        Err(error) => bail!("listener {name:?} cannot bind {address}: {}", explain(&error, address)),
    };
    Ok((bound, more(name, bound, cores.max(1))?))
}

/// So many sockets that share an address with others of ours.
///
/// # Errors
/// As [`bind`].
pub fn more(name: &str, bound: SocketAddr, count: usize) -> Result<Vec<TcpListener>> {
    let listening = || -> io::Result<TcpListener> {
        let socket = socket(bound, true)?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        Ok(socket.into())
    };
    let sockets: io::Result<Vec<_>> = (0..count).map(|_| listening()).collect();
    sockets.map_err(|error| anyhow::anyhow!("listener {name:?} cannot bind {bound}: {}", explain(&error, bound)))
}

fn socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Restarting must not wait for the old connections' TIME_WAIT.
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

fn explain(error: &io::Error, address: SocketAddr) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("the port is taken; hint: stop the program that has it (`ss -ltnp 'sport = :{}'` names it) or choose another", address.port())
        }
        io::ErrorKind::AddrNotAvailable => {
            "this host does not have the address; hint: bind 0.0.0.0 or one of `ip address`, and put the address that others use under `advertise`".into()
        }
        io::ErrorKind::PermissionDenied => "ports below 1024 need a privilege; hint: grant CAP_NET_BIND_SERVICE or choose a higher port".into(),
        _ => error.to_string(),
    }
}

/// What all cores count together for one listener.
pub struct Gate {
    files: Arc<Files>,
    pressure: Arc<Pressure>,
    sources: Arc<Sources>,
    open: AtomicU32,
    open_max: AtomicU32,
    accepted: Arc<Count>,
    refused: Arc<Count>,
    failed: Arc<Count>,
    level: Arc<Level>,
    /// Another process accepts from the same sockets.
    handed_over: AtomicBool,
}

impl Gate {
    /// A gate that lets `open_max` connections in at once, over all cores.
    pub fn new(name: &str, open_max: u32, (files, pressure): (Arc<Files>, Arc<Pressure>), metrics: &Registry) -> Arc<Gate> {
        let labels = [("listener", name)];
        Arc::new(Gate {
            files,
            pressure,
            sources: Sources::new(0),
            open: AtomicU32::new(0),
            open_max: AtomicU32::new(open_max),
            accepted: metrics.count("wharf_connections_accepted_total", "connections accepted", &labels),
            refused: metrics.count(
                "wharf_connections_refused_total",
                "connections closed at once because `connections_max` was reached, or half of the files that may be open, or because memory is short",
                &labels,
            ),
            failed: metrics.count(
                "wharf_connections_failed_total",
                "connections that could not be accepted, for want of files or memory",
                &labels,
            ),
            level: metrics.level("wharf_connections_open", "client connections open", &labels),
            handed_over: AtomicBool::new(false),
        })
    }

    /// What waits to be accepted is another process's from now on, which has the same sockets.
    pub fn hand_over(&self) {
        self.handed_over.store(true, Ordering::Relaxed);
    }

    fn enter(self: &Arc<Self>) -> Option<Inside> {
        if self.pressure.is_high() {
            self.refused.add_shared(1);
            return None;
        }
        // Half of the files are for clients: each may need another one for its upstream.
        let file = self.files.take();
        let crowded = file.is_none() || self.open.fetch_add(1, Ordering::Relaxed) >= self.open_max.load(Ordering::Relaxed);
        if crowded {
            if file.is_some() {
                self.open.fetch_sub(1, Ordering::Relaxed);
            }
            self.refused.add_shared(1);
            return None;
        }
        self.accepted.add_shared(1);
        self.level.add(1);
        Some(Inside { gate: self.clone(), _file: file })
    }
}

struct Inside {
    gate: Arc<Gate>,
    _file: Option<File>,
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.gate.open.fetch_sub(1, Ordering::Relaxed);
        self.gate.level.add(-1);
    }
}

/// A listener as one core serves it. What a new configuration says about it holds for the connections that are made from
/// then on; those that are open keep what they began with.
pub struct Door {
    name: Arc<str>,
    gate: Arc<Gate>,
    limits: RefCell<Rc<ListenerLimits>>,
    open: Cell<u32>,
    /// When it was last said that connections cannot be accepted.
    told: Cell<Option<Instant>>,
}

impl Door {
    /// A door of this name, with the usual limits until it is told others.
    pub fn new(name: Arc<str>, gate: Arc<Gate>) -> Door {
        Door { name, gate, limits: RefCell::default(), open: Cell::new(0), told: Cell::new(None) }
    }

    /// Takes over what a plan says about it; nothing, if it is not there any more: then a restart will end it.
    pub fn follow(&self, plan: &Plan) {
        let Some(listener) = plan.listeners.iter().find(|listener| listener.name == self.name) else { return };
        self.gate.sources.set_max(listener.connections_per_source_max.unwrap_or(0));
        let sources = self.gate.sources.counts().then(|| self.gate.sources.clone());
        *self.limits.borrow_mut() = Rc::new(ListenerLimits { sources, ..limits(listener) });
        self.gate.open_max.store(listener.connections_max, Ordering::Relaxed);
    }
}

fn limits(listener: &Listener) -> ListenerLimits {
    ListenerLimits {
        name: listener.name.clone(),
        head_bytes_max: listener.head_bytes_max,
        fields_max: listener.fields_max,
        first: listener.first_timeout,
        head: listener.head_timeout,
        body: listener.body_timeout,
        upload: listener.upload_timeout,
        rate_min: listener.body_rate_min,
        quiet: listener.quiet,
        keep_alive: listener.keep_alive,
        trusted: listener.trusted_proxies.clone(),
        proxied_by: listener.proxied_by.clone(),
        tls: listener.tls.as_ref().map(|tls| tls.server.clone()),
        http2: listener.http2,
        sources: None,
    }
}

/// Accepts for one core until it ends; then takes what the kernel has accepted already, if nobody else does, and closes the
/// socket. Runs on the core's own thread.
pub async fn accept(core: Rc<Core>, door: Rc<Door>, listener: TcpListener) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(listener = &*door.name, %error, "the listener cannot be served"),
    };
    let mut ending = pin!(core.ending());
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            () = &mut ending => break,
        };
        match accepted {
            Ok((stream, peer)) => door.admit(&core, stream, peer),
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {}
            Err(error) => {
                // Out of files or memory. The connection stays in the kernel's queue: trying again at once would spin.
                door.count_failed(&error);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    if door.gate.handed_over.load(Ordering::Relaxed) {
        return;
    }
    // To the client these are connections like any other: closing the socket would reset them.
    while let Poll::Ready(Ok((stream, peer))) = poll_fn(|task| Poll::Ready(listener.poll_accept(task))).await {
        door.admit(&core, stream, peer);
    }
}

impl Door {
    /// Connections of this core that came in by it and are open.
    pub fn open(&self) -> u32 {
        self.open.get()
    }

    fn admit(self: &Rc<Self>, core: &Rc<Core>, stream: TcpStream, peer: SocketAddr) {
        // Closed at once and counted: a full house answers, it does not queue.
        let Some(inside) = self.gate.enter() else { return };
        let serving = front::serve(core.clone(), self.limits.borrow().clone(), stream, peer);
        let counted = Counted(self.clone());
        self.open.set(self.open.get() + 1);
        tokio::task::spawn_local(async move {
            serving.await;
            drop((inside, counted));
        });
    }

    /// Says once a second at most that connections cannot be accepted: it may go on for long, and 20 times a second.
    fn count_failed(&self, error: &io::Error) {
        self.gate.failed.add_shared(1);
        let now = Instant::now();
        if self.told.get().is_none_or(|told| now.saturating_duration_since(told) > Duration::from_secs(1)) {
            self.told.set(Some(now));
            tracing::warn!(listener = &*self.name, %error, "cannot accept; hint: raise the limit of open files (`ulimit -n`)");
        }
    }
}

struct Counted(Rc<Door>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get().saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named_with_its_remedy() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = bind("main", address, 2).unwrap_err().to_string();
        assert!(error.contains("main") && error.contains("the port is taken") && error.contains("ss -ltnp"), "{error}");
    }

    #[test]
    fn an_address_of_another_host_is_refused_with_a_hint() {
        let error = bind("main", "192.0.2.1:0".parse().unwrap(), 1).unwrap_err().to_string();
        assert!(error.contains("does not have the address") && error.contains("advertise"), "{error}");
    }

    #[test]
    fn every_core_gets_a_socket_on_the_same_port() {
        let (bound, listeners) = bind("main", "127.0.0.1:0".parse().unwrap(), 3).unwrap();
        assert_eq!(listeners.len(), 3);
        assert!(listeners.iter().all(|listener| listener.local_addr().unwrap() == bound));
    }
}
