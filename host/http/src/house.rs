//! What this room is given: one generation of routes, and what belongs to the core and to a listener.

use crate::admission::{Files, Pressure, Sources};
use crate::client::Client;
use crate::compress::Compression;
use crate::deadlines::Deadlines;
use crate::io::Spare;
use crate::pace::Bounds;
use crate::record::Recorder;
use crate::routes::{HostTable, Routes};
use crate::steps::Steps;
use crate::tls::server::Server;
use crate::watch::Watch;
use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::runtime::LocalOptions;
use tokio::sync::Notify;
use wharf_core::exchange::{Exchange, ExchangeId};
use wharf_core::metrics::{Count, Level, Registry, Times};
use wharf_core::road::{Memory, Target};
use wharf_core::rules::Rules;

/// One generation on one core: taken once for an exchange and held until its reply.
#[derive(Default)]
pub struct House {
    /// The matcher; it finds an index into `entries`.
    pub routes: Arc<Routes>,
    /// What each route does.
    pub entries: Vec<Entry>,
    /// What is done with the answers to requests that match no route.
    pub unmatched: Option<Rc<Steps>>,
    /// What is watched of requests that match no route.
    pub watch: Option<Rc<Watch>>,
}

/// What a route does with a request that matched.
pub struct Entry {
    /// Its name.
    pub name: Arc<str>,
    /// Its rules; empty costs nothing.
    pub rules: Rules,
    /// Rules for hosts that have attachments of their own, in place of `rules`.
    pub by_host: Option<HostRules>,
    /// Where its requests go.
    pub target: Target,
    /// What its degrade rules may recall.
    pub memory: Memory,
    /// The whole exchange, from the head read to the last byte of the answer. Event streams and tunnels are only bounded
    /// by their quiet time.
    pub whole: Duration,
    /// Nobody has set it, so that it does not bound what brings a deadline of its own along.
    pub whole_is_default: bool,
    /// Largest request body.
    pub body_bytes_max: u64,
    /// The upstream is told the client's host; else its own address.
    pub keep_host: bool,
    /// What it does natively around the road; `None` costs nothing.
    pub steps: Option<Rc<Steps>>,
    /// What of its answers is compressed for clients that ask for it.
    pub compression: Option<Arc<Compression>>,
    /// What is watched of its exchanges beyond its counts; `None` costs nothing.
    pub watch: Option<Rc<Watch>>,
    /// Its counts.
    pub meters: Rc<Meters>,
}

/// Rules that differ by host within a route.
pub struct HostRules {
    /// Finds an index into `rules`.
    pub table: HostTable,
    /// The rules.
    pub rules: Vec<Rules>,
}

impl Entry {
    /// The rules for a request to this host.
    pub(crate) fn rules_for(&self, authority: &str) -> &Rules {
        let by_host = self.by_host.as_ref().and_then(|hosts| hosts.rules.get(hosts.table.find(authority)?));
        by_host.unwrap_or(&self.rules)
    }
}

/// The counts of one route on one core.
pub struct Meters {
    /// Answers by the first digit of their status; 0 for clients that went away unanswered. Those that few routes ever give
    /// are made by the first one.
    answers: [OnceCell<Arc<Count>>; 6],
    /// Exchanges that ended with a fault, by its word; each made by the first one.
    faults: RefCell<Vec<(&'static str, Arc<Count>)>>,
    registry: Arc<Registry>,
    route: Arc<str>,
    time: Arc<Times>,
    bytes_in: Arc<Count>,
    bytes_out: Arc<Count>,
}

impl Meters {
    /// Series for a route; `""` counts what matched none.
    pub fn new(registry: &Arc<Registry>, route: &Arc<str>) -> Meters {
        let answers = <[OnceCell<_>; 6]>::default();
        // There from the beginning: what a graph or an alert is made from.
        for class in [2, 4, 5] {
            answers.get(class).map(|place| place.get_or_init(|| answers_of(registry, route, class)));
        }
        let labels = [("route", &**route)];
        Meters {
            answers,
            faults: RefCell::default(),
            registry: registry.clone(),
            route: route.clone(),
            time: registry.times("wharf_http_request_seconds", "time from the head of the request read to the end of the answer", &labels),
            bytes_in: registry.count("wharf_http_request_bytes_total", "bytes of request bodies read", &labels),
            bytes_out: registry.count("wharf_http_response_bytes_total", "bytes of answers written, heads included", &labels),
        }
    }

    pub(crate) fn count(&self, status: u16, time: Duration, bytes_in: u64, bytes_out: u64) {
        let class = usize::from(status / 100);
        if let Some(place) = self.answers.get(class) {
            place.get_or_init(|| answers_of(&self.registry, &self.route, class)).add(1);
        }
        self.time.record(time);
        self.bytes_in.add(bytes_in);
        self.bytes_out.add(bytes_out);
    }

    /// Counts an exchange that ended with a fault.
    #[cold]
    pub(crate) fn count_fault(&self, word: &'static str) {
        let mut faults = self.faults.borrow_mut();
        if let Some((_, count)) = faults.iter().find(|(have, _)| *have == word) {
            return count.add(1);
        }
        let help = "exchanges that ended with a fault, by route and word";
        let count = self.registry.count("wharf_http_faults_total", help, &[("route", &self.route), ("fault", word)]);
        count.add(1);
        faults.push((word, count));
    }

    /// Remembers the trace of an exchange that was counted with this time.
    #[cold]
    pub(crate) fn exemplify(&self, time: Duration, trace: u128, time_ms: u64) {
        self.time.exemplify(time, trace, time_ms);
    }
}

#[cold]
fn answers_of(registry: &Registry, route: &str, class: usize) -> Arc<Count> {
    let class = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"].get(class).copied().unwrap_or_default();
    let help = "requests by route and class of the answer's status";
    registry.count("wharf_http_requests_total", help, &[("route", route), ("class", class)])
}

/// What belongs to one core.
pub struct Core {
    /// All its deadlines.
    pub deadlines: Rc<Deadlines>,
    /// Its client.
    pub client: Client,
    /// The generation that new exchanges take.
    pub house: RefCell<Rc<House>>,
    /// The access log, if there is one.
    pub recorder: Option<Rc<dyn Recorder>>,
    /// Set when the process is about to end: answers say that their connection closes.
    pub draining: Cell<bool>,
    /// How short memory is.
    pub(crate) pressure: Arc<Pressure>,
    /// Wakes connections that have to be told.
    pub(crate) drain: Notify,
    /// Exchanges between head and end of answer.
    pub in_flight: Arc<Level>,
    /// What matched no route.
    pub unmatched: Meters,
    /// Buffers that clients are read into.
    pub(crate) spare: Rc<Spare>,
    /// What the encoders at work for answers take, KiB.
    pub(crate) encoders: Rc<Cell<u32>>,
    /// A buffer for the head of the next answer.
    pub(crate) out: Cell<Vec<u8>>,
    /// Requests refused before they had a route, by reason.
    pub(crate) refused: RefCell<Vec<(&'static str, Arc<Count>)>>,
    metrics: Arc<Registry>,
    number: u16,
    node: u32,
    serial: Cell<u32>,
    date: RefCell<(u64, [u8; 29])>,
    wall: RefCell<Wall>,
    #[allow(clippy::vec_box, reason = "they go from hand to hand in their boxes")]
    blank: RefCell<Vec<Box<Exchange>>>,
}

/// Exchanges whose memory is kept for the next ones: about a kilobyte each, and what their heads need.
const BLANK_MAX: usize = 64;

/// The wall clock, read once a second; between, the steady clock that every request reads anyway tells how much time has
/// passed.
struct Wall {
    read: Instant,
    /// Microseconds since 1970.
    then: u64,
}

impl Wall {
    const FOR: Duration = Duration::from_secs(1);

    fn read(now: Instant) -> Wall {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Wall { read: now, then: since.as_secs() * 1_000_000 + u64::from(since.subsec_micros()) }
    }

    fn millis(&mut self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.read);
        if passed < Wall::FOR {
            return (self.then + u64::from(passed.subsec_micros())) / 1000;
        }
        *self = Wall::read(now);
        self.then / 1000
    }
}

/// Tasks that a busy core polls between two looks at its sockets and timers. Whoever is found by a look stands behind those
/// who were ready before, so looking more often serves nobody sooner, and each look is a system call.
const TURNS: u32 = 256;

/// Starts a thread for one core, with a runtime whose tasks stay on it and need not be `Send`; it ends with `main`. Woken
/// tasks go straight to the runtime's own queue: a set of local tasks within a runtime would keep a second one.
///
/// # Errors
/// The thread or its runtime could not be made.
pub fn core_thread<F: Future<Output = ()>>(name: String, main: impl FnOnce() -> F + Send + 'static) -> io::Result<JoinHandle<()>> {
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        // Made here: it cannot change threads.
        match tokio::runtime::Builder::new_current_thread().enable_all().event_interval(TURNS).build_local(LocalOptions::default()) {
            Ok(runtime) => {
                let _ = tell.send(Ok(()));
                runtime.block_on(main());
            }
            Err(error) => drop(tell.send(Err(error))),
        }
    })?;
    told.recv().map_err(io::Error::other)??;
    Ok(thread)
}

/// How often kept connections are looked after.
const TIDY_EVERY: Duration = Duration::from_secs(1);

impl Core {
    /// A core with an empty house: it answers 404 until it is given one. `node` tells nodes apart in exchange ids.
    pub fn new(number: u16, node: u32, metrics: Arc<Registry>, recorder: Option<Rc<dyn Recorder>>) -> Rc<Core> {
        Core::within((Files::new(u32::MAX), Arc::default()), number, node, metrics, recorder)
    }

    /// The same, its upstream connections among those that `files` counts, and under this pressure.
    pub fn within(
        (files, pressure): (Arc<Files>, Arc<Pressure>),
        number: u16,
        node: u32,
        metrics: Arc<Registry>,
        recorder: Option<Rc<dyn Recorder>>,
    ) -> Rc<Core> {
        let deadlines = Deadlines::new();
        Rc::new(Core {
            client: Client::new(deadlines.clone(), files),
            deadlines,
            house: RefCell::default(),
            recorder,
            draining: Cell::new(false),
            pressure,
            drain: Notify::new(),
            in_flight: metrics.level("wharf_http_in_flight", "exchanges between the head of the request and the end of the answer", &[]),
            unmatched: Meters::new(&metrics, &Arc::default()),
            spare: Spare::new(crate::h1::READ_ROOM),
            encoders: Rc::default(),
            out: Cell::default(),
            refused: RefCell::default(),
            metrics,
            number,
            node,
            serial: Cell::new(0),
            date: RefCell::new((0, *b"Thu, 01 Jan 1970 00:00:00 GMT")),
            wall: RefCell::new(Wall::read(Instant::now())),
            blank: RefCell::default(),
        })
    }

    /// Looks after what only time changes: deadlines that go off, log lines and kept connections that have waited long
    /// enough, connections that are to be kept ready. One task of the core; never resolves.
    ///
    /// # Cancel safety
    /// Dropped, nothing goes off any more; started again, it goes on.
    pub async fn sweep(self: Rc<Self>) {
        let mut tidied = Instant::now();
        let also = |now: Instant| {
            let lines_wait = self.recorder.as_ref().is_some_and(|recorder| recorder.tick());
            let tidies = now.saturating_duration_since(tidied) >= TIDY_EVERY;
            if tidies {
                tidied = now;
                self.client.tidy();
            }
            // Not while there is to be less rather than more.
            if (tidies || self.client.is_warm_due()) && !self.sends_away() {
                self.client.warm_up();
            }
            lines_wait || self.client.keeps_any()
        };
        self.deadlines.clone().sweep(also).await;
    }

    /// Begins to end: connections are told to make no new requests.
    pub fn end(&self) {
        self.draining.set(true);
        self.drain.notify_waiters();
    }

    /// Are connections to make no new requests?
    pub(crate) fn sends_away(&self) -> bool {
        self.draining.get() || self.pressure.is_high()
    }

    /// Resolves when it begins to end.
    ///
    /// # Cancel safety
    /// Dropped, nothing is lost.
    pub async fn ending(&self) {
        let mut told = std::pin::pin!(self.drain.notified());
        // Registered before the look, so that nothing happens between both.
        told.as_mut().enable();
        if !self.draining.get() {
            told.await;
        }
    }

    /// An exchange that has not begun.
    pub(crate) fn blank(&self) -> Box<Exchange> {
        let kept = self.blank.borrow_mut().pop();
        kept.unwrap_or_else(|| Box::new(Exchange::blank(self.deadlines.about_now())))
    }

    /// Takes an exchange back that is over: making one anew for each request, field by field, costs more than its routing.
    pub(crate) fn over(&self, mut exchange: Box<Exchange>) {
        exchange.clear();
        let mut blank = self.blank.borrow_mut();
        if blank.len() < BLANK_MAX {
            blank.push(exchange);
        }
    }

    /// The next exchange's id, and the milliseconds since 1970 that it was made from.
    pub(crate) fn next_id(&self, now: Instant) -> (ExchangeId, u64) {
        let millis = self.wall.borrow_mut().millis(now);
        let serial = self.serial.replace(self.serial.get().wrapping_add(1));
        (ExchangeId { time: millis << 16 | u64::from(self.number), serial: u64::from(self.node) << 32 | u64::from(serial) }, millis)
    }

    /// The date for an answer (RFC 9110 section 6.6.1), made once a second.
    pub(crate) fn date(&self, millis: u64) -> [u8; 29] {
        let second = millis / 1000;
        let mut date = self.date.borrow_mut();
        if date.0 != second {
            *date = (second, crate::date::imf_fixdate(second));
        }
        date.1
    }

    /// Counts a refusal before there was a route.
    pub(crate) fn count_refused(&self, reason: &'static str) {
        let mut refused = self.refused.borrow_mut();
        if let Some((_, count)) = refused.iter().find(|(have, _)| *have == reason) {
            return count.add(1);
        }
        let count =
            self.metrics.count("wharf_http_refused_total", "requests refused before they had a route, by reason", &[("reason", reason)]);
        count.add(1);
        refused.push((reason, count));
    }
}

/// What one listener allows.
#[derive(Clone, Debug)]
pub struct ListenerLimits {
    /// Its name, for the record.
    pub name: Arc<str>,
    /// Bytes of a request's head.
    pub head_bytes_max: usize,
    /// Fields of a request's head.
    pub fields_max: usize,
    /// From a connection's begin to its first byte, or to the end of what must come before it (PROXY header, TLS handshake).
    pub first: Duration,
    /// From the first byte of a head to its last.
    pub head: Duration,
    /// Between two pieces of a request's body, and for a client to take a piece of its answer.
    pub body: Duration,
    /// For the whole of a request's body.
    pub upload: Duration,
    /// Slowest client in a body or an answer, bytes a second; 0: any.
    pub rate_min: u64,
    /// Between two requests.
    pub keep_alive: Duration,
    /// A tunnel or an event stream in which nothing moves.
    pub quiet: Duration,
    /// Peers whose `x-forwarded-*` fields are believed.
    pub trusted: Vec<Cidr>,
    /// Peers that say by the PROXY protocol whose connection it is, and must.
    pub proxied_by: Vec<Cidr>,
    /// TLS; `None`: in the clear.
    pub tls: Option<Arc<Server>>,
    /// Connections by source; `None`: not counted.
    pub sources: Option<Arc<Sources>>,
    /// HTTP/2; `None`: only HTTP/1.1. By TLS it is offered in the handshake as well.
    pub http2: Option<Http2Limits>,
}

/// What one HTTP/2 connection allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2Limits {
    /// Streams at once.
    pub streams_max: u32,
    /// Bytes of a request's body that may come before anybody has read them, for each stream.
    pub window: u32,
}

impl Default for Http2Limits {
    fn default() -> Http2Limits {
        Http2Limits { streams_max: 128, window: 64 * 1024 }
    }
}

impl ListenerLimits {
    /// What bounds a request's body.
    pub(crate) fn upload(&self) -> Bounds {
        Bounds { quiet: self.body, whole: self.upload, rate_min: self.rate_min }
    }

    /// What bounds an answer on its way to the client; the whole of it is the exchange's business.
    pub(crate) fn download(&self) -> Bounds {
        Bounds { quiet: self.body, whole: Duration::MAX, rate_min: self.rate_min }
    }
}

impl Default for ListenerLimits {
    fn default() -> ListenerLimits {
        ListenerLimits {
            name: "main".into(),
            head_bytes_max: 32 * 1024,
            fields_max: 100,
            first: Duration::from_secs(10),
            head: Duration::from_secs(10),
            upload: Duration::from_secs(600),
            rate_min: 240,
            body: Duration::from_secs(5),
            keep_alive: Duration::from_secs(60),
            quiet: Duration::from_secs(300),
            trusted: Vec::new(),
            proxied_by: Vec::new(),
            tls: None,
            sources: None,
            http2: Some(Http2Limits::default()),
        }
    }
}

/// A range of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// Any address of it.
    pub address: IpAddr,
    /// Leading bits that count.
    pub bits: u8,
}

impl Cidr {
    /// Is this address in it?
    pub fn holds(&self, address: IpAddr) -> bool {
        let shared = |a: u128, b: u128, width: u32| {
            let bits = u32::from(self.bits).min(width);
            bits == 0 || (a ^ b) >> (width - bits) == 0
        };
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => shared(a.to_bits().into(), b.to_bits().into(), 32),
            (IpAddr::V6(a), IpAddr::V6(b)) => shared(a.to_bits(), b.to_bits(), 128),
            _ => false,
        }
    }
}
