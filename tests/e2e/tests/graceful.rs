//! Ends that nobody notices: a drain answers what it has accepted, and an upgrade loses no request, no message of a
//! tunnel and no value in the store.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests stop at the first surprise, and print their figures"
)]

use std::collections::HashSet;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use wharf_artifacts::component;
use wharf_e2e::swaps::proves;
use wharf_harness::two::{Ended, Two, get};
use wharf_harness::{Act, Connection, Load, Setup, Signal, Upstream, Wharf, binary, until};

const WAIT: Duration = Duration::from_secs(60);

fn config(upstream: SocketAddr, node: &str, rest: &str) -> String {
    format!(
        r#"
node: {{ state_dir: "@DIR@/state"{node} }}
admin: {{ bind: "127.0.0.1:0" }}
access_log: {{ to: "@DIR@/access.log" }}
listeners: {{ main: {{ bind: "127.0.0.1:0" }} }}
services: {{ up: {{ endpoints: ["{upstream}"] }} }}
{rest}"#
    )
}

const ALL: &str = "routes: [{ name: all, to: up }]\n";

/// A gateway with a plugin that counts visits in the store and says the sum on every answer.
fn counting(upstream: SocketAddr) -> Wharf {
    let rest = "plugins: { hostile: { grants: { kv: {}, http: { services: [up] } } } }\n\
        routes: [{ name: all, to: up, plugins: [{ plugin: hostile, role: filter, config: { do: visits } }] }]\n";
    let wharf = Wharf::start(config(upstream, "", rest)).unwrap();
    wharf.admin().put_bytes("/v1/plugins/hostile", component("hostile")).expect();
    wharf
}

/// Ends the gateway, which has nothing to complain of.
fn ends_well(wharf: Wharf) {
    let (status, log) = wharf.stop(WAIT).unwrap();
    assert!(status.success() && !log.contains("ERROR"), "{status}: {log}");
}

/// Answers requests, and echoes what comes after an upgrade.
fn upstream() -> Upstream {
    Upstream::start(|seen| {
        let head = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        match seen.request.field("upgrade") {
            Some(_) => vec![Act::Send(head.to_vec()), Act::Echo],
            None => vec![Act::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec())],
        }
    })
}

/// How many drains and upgrades.
fn times() -> u32 {
    if proves() { 10 } else { 3 }
}

/// A tunnel through the gateway.
struct Socket(Connection);

impl Socket {
    fn open(address: SocketAddr) -> Result<Socket, String> {
        let mut connection = Connection::open(address).map_err(|error| format!("connect: {error}"))?;
        let asked = b"GET /ws HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
            Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        connection.send(asked).map_err(|error| format!("send: {error}"))?;
        let reply = connection.reply("GET").map_err(|error| format!("answer: {error}"))?;
        if reply.status != 101 {
            return Err(format!("status {}: {}", reply.status, reply.text()));
        }
        Ok(Socket(connection))
    }

    /// Sends a message and waits until it has come back.
    fn echo(&mut self, number: u64) -> Result<(), String> {
        let message = number.to_be_bytes();
        self.0.send(&message).map_err(|error| format!("send: {error}"))?;
        match self.0.exactly(message.len()) {
            Ok(back) if back == message => Ok(()),
            Ok(back) => Err(format!("{message:?} came back as {back:?}")),
            Err(error) => Err(format!("message {number}: {error}")),
        }
    }
}

/// Something that runs until it is told to stop, counts what went well and keeps what did not.
struct Steady {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    failed: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<()>>,
}

impl Steady {
    /// `round` gets what it left behind last time.
    fn start<T: 'static>(mut round: impl FnMut(&mut Option<T>, u64) -> Result<(), String> + Send + 'static) -> Steady {
        let (stop, done, failed): (Arc<AtomicBool>, Arc<AtomicU64>, Arc<Mutex<Vec<String>>>) = Default::default();
        let (ended, counted, told) = (stop.clone(), done.clone(), failed.clone());
        let thread = thread::spawn(move || {
            let mut kept = None;
            for number in 0.. {
                if ended.load(Relaxed) {
                    return;
                }
                match round(&mut kept, number) {
                    Ok(()) => drop(counted.fetch_add(1, Relaxed)),
                    Err(why) => {
                        kept = None;
                        let mut told = told.lock().unwrap();
                        told.push(format!("round {number}: {why}"));
                        // One is enough to fail; a gateway that is gone is not asked as fast as it can refuse.
                        if told.len() > 20 {
                            return;
                        }
                    }
                }
            }
        });
        Steady { stop, done, failed, thread: Some(thread) }
    }

    fn done(&self) -> u64 {
        self.done.load(Relaxed)
    }

    /// Stops it; how much went well.
    #[track_caller]
    fn expect_clean(mut self, what: &str) -> u64 {
        self.stop.store(true, Relaxed);
        self.thread.take().unwrap().join().unwrap();
        let failed = self.failed.lock().unwrap();
        assert!(failed.is_empty(), "{what}: {failed:#?}");
        assert!(self.done() > 0, "{what}: nothing was asked");
        self.done()
    }
}

/// Requests by HTTP/2, one after the other; a connection that is told to go is left.
fn by_two(address: SocketAddr) -> Steady {
    Steady::start(move |kept: &mut Option<(Two, u32)>, _| {
        let (two, stream) = match kept {
            Some((two, stream)) if !two.told_to_go => (two, stream),
            _ => {
                let opened = Two::open(address, &[]).map_err(|error| format!("connect: {error}"))?;
                let (two, stream) = kept.insert((opened, 1));
                (two, stream)
            }
        };
        two.send(&get(*stream, "a.example", "/")).map_err(|error| format!("send: {error}"))?;
        let ended = two.ended(*stream, WAIT);
        *stream += 2;
        match ended {
            Ended::Answered(200, _) => Ok(()),
            other => Err(format!("stream {}: {other:?}", *stream - 2)),
        }
    })
}

/// Tunnels, one after the other, of so many messages each.
fn by_socket(address: SocketAddr, messages: u64) -> Steady {
    Steady::start(move |kept: &mut Option<(Socket, u64)>, number| {
        let (socket, left) = match kept {
            Some((socket, left)) if *left > 0 => (socket, left),
            _ => {
                let (socket, left) = kept.insert((Socket::open(address)?, messages));
                (socket, left)
            }
        };
        *left -= 1;
        socket.echo(number)
    })
}

#[test]
fn an_upgrade_loses_no_request_and_no_message() {
    let upstream = upstream();
    let mut wharf = Wharf::start(config(upstream.address(), ", drain_on_upgrade: 60s", ALL)).unwrap();
    let address = wharf.listener("main");
    let load = Load::get(address, "a.example", "/").connections(4).rate(2000.0).start();
    let (two, sockets) = (by_two(address), by_socket(address, 50));
    let (mut slowest, mut replaced) = (Duration::ZERO, HashSet::new());
    for _ in 0..times() {
        // A tunnel that was there before stays where it is, and ends when its client wants it to.
        let mut lasting = Socket::open(address).unwrap();
        let before = (load.done(), two.done(), sockets.done());
        until("traffic of all kinds", WAIT, || {
            (load.done() > before.0 && two.done() > before.1 && sockets.done() > before.2).then_some(())
        });
        let begun = Instant::now();
        let old = wharf.upgrade().unwrap();
        slowest = slowest.max(begun.elapsed());
        assert!(replaced.insert(old), "process {old} was replaced twice");
        lasting.echo(1).unwrap();
        assert!(!wharf.has_ended(old, Duration::ZERO), "the old process leaves while it has a tunnel");
        lasting.echo(2).unwrap();
        drop(lasting);
        assert!(wharf.has_ended(old, WAIT), "the old process stays when its last connection has gone\n{}", wharf.log());
    }
    let report = load.stop();
    println!("{} upgrades, the slowest in {slowest:?}; HTTP/1.1: {report}", times());
    report.expect_clean();
    println!("HTTP/2: {} requests; WebSocket: {} messages", two.expect_clean("HTTP/2"), sockets.expect_clean("WebSocket"));
    wharf.stop(WAIT).unwrap();
}

#[test]
fn a_drain_answers_whatever_came_in_before() {
    let upstream = upstream();
    let mut answered = 0;
    for _ in 0..times() {
        let wharf = Wharf::start(config(upstream.address(), "", ALL)).unwrap();
        let address = wharf.listener("main");
        // Each client keeps to its one connection, until it is told to leave it.
        let done = Arc::new(AtomicU64::new(0));
        let one: Vec<JoinHandle<u64>> = (0..6)
            .map(|_| {
                let (mut connection, done) = (Connection::open(address).unwrap(), done.clone());
                thread::spawn(move || {
                    for count in 1.. {
                        let reply = connection.get("a.example", "/").unwrap();
                        assert_eq!(reply.status, 200);
                        done.fetch_add(1, Relaxed);
                        if reply.closes() {
                            return count;
                        }
                    }
                    0
                })
            })
            .collect();
        let counted = done.clone();
        let two = thread::spawn(move || {
            let mut two = Two::open(address, &[]).unwrap();
            for stream in (1..).step_by(2) {
                two.send(&get(stream, "a.example", "/")).unwrap();
                assert!(matches!(two.ended(stream, WAIT), Ended::Answered(200, _)), "stream {stream}");
                counted.fetch_add(1, Relaxed);
                if two.told_to_go {
                    return u64::from(stream).div_ceil(2);
                }
            }
            0
        });
        let mut socket = Socket::open(address).unwrap();
        until("traffic", WAIT, || (done.load(Relaxed) > 200).then_some(()));
        wharf.signal(Signal::TERM);
        wharf.until_said("ending:", WAIT);
        // A tunnel is given its time.
        for number in 0..50 {
            socket.echo(number).unwrap();
        }
        answered += one.into_iter().map(|client| client.join().unwrap()).sum::<u64>() + two.join().unwrap();
        drop(socket);
        ends_well(wharf);
    }
    println!("{} drains: {answered} requests, none failed", times());
}

/// Asked without a token, as a balancer does.
fn readiness(wharf: &Wharf) -> (u16, String) {
    let answer = wharf.admin().with_token("").get("/readyz");
    (answer.status, answer.body["reasons"].to_string())
}

#[test]
fn while_it_drains_the_admin_api_says_that_it_is_alive_and_not_ready() {
    let upstream = upstream();
    let wharf = Wharf::start(config(upstream.address(), ", drain: 1h", ALL)).unwrap();
    let mut socket = Socket::open(wharf.listener("main")).unwrap();
    assert_eq!(readiness(&wharf).0, 200);
    wharf.signal(Signal::TERM);
    wharf.until_said("ending:", WAIT);
    let (status, reasons) = readiness(&wharf);
    assert!(status == 503 && reasons.contains("draining"), "{status}: {reasons}");
    assert_eq!(wharf.admin().get("/healthz").status, 200);
    assert_eq!(wharf.admin().get("/metrics").status, 200, "how the end goes can be seen");
    for late in ["/v1/upgrade", "/v1/config/reload"] {
        let error = wharf.admin().post(late, &serde_json::Value::Null).expect_refusal(500);
        assert!(error["message"].as_str().unwrap().contains("ending"), "{error}");
    }
    socket.echo(1).unwrap();
    ends_well(wharf);
}

#[test]
fn a_balancer_may_be_given_time_to_notice_before_anything_is_turned_away() {
    let upstream = upstream();
    for again in [false, true] {
        let delay = if again { "1h" } else { "700ms" };
        let wharf = Wharf::start(config(upstream.address(), &format!(", drain_delay: {delay}"), ALL)).unwrap();
        let address = wharf.listener("main");
        let begun = Instant::now();
        wharf.signal(Signal::TERM);
        until("the word that it is not ready", WAIT, || (readiness(&wharf) == (503, r#"["draining"]"#.to_owned())).then_some(()));
        if again {
            // New connections are served as ever, and told nothing of the end.
            for _ in 0..20 {
                let reply = Connection::open(address).unwrap().get("a.example", "/").unwrap();
                assert!(reply.status == 200 && !reply.closes(), "{}", reply.text());
            }
            let error = wharf.admin().post("/v1/upgrade", &serde_json::Value::Null).expect_refusal(500);
            assert!(error["message"].as_str().unwrap().contains("ending"), "{error}");
            assert!(!wharf.log().contains("ending:"), "it did not wait");
            wharf.signal(Signal::TERM);
        }
        wharf.until_said("ending:", WAIT);
        assert!(again || begun.elapsed() >= Duration::from_millis(700), "{:?}", begun.elapsed());
        ends_well(wharf);
    }
}

#[test]
fn a_tunnel_is_cut_when_the_drain_is_over_and_at_once_when_told_again() {
    let upstream = upstream();
    for again in [false, true] {
        let drain = if again { "1h" } else { "300ms" };
        let wharf = Wharf::start(config(upstream.address(), &format!(", drain: {drain}"), ALL)).unwrap();
        let mut socket = Socket::open(wharf.listener("main")).unwrap();
        wharf.signal(Signal::TERM);
        wharf.until_said("ending:", WAIT);
        if again {
            socket.echo(1).unwrap();
        }
        let (status, _) = wharf.stop(WAIT).unwrap();
        assert!(status.success(), "{status}");
        assert!(socket.echo(2).is_err());
    }
}

#[test]
fn the_store_changes_hands_and_no_value_is_lost_or_counted_twice() {
    let upstream = upstream();
    let mut wharf = counting(upstream.address());
    let address = wharf.listener("main");
    let seen: Arc<Mutex<HashSet<u64>>> = Arc::default();
    let counted = seen.clone();
    let load = Load::get(address, "a.example", "/").connections(4).rate(300.0).judge(move |_, reply| {
        let visits = reply.field("x-visits").unwrap_or_default();
        let fresh = visits.parse().is_ok_and(|sum| counted.lock().unwrap().insert(sum));
        if fresh { Ok(()) } else { Err(format!("status {}, x-visits {visits:?}", reply.status)) }
    });
    let load = load.start();
    for _ in 0..times() {
        let before = load.done();
        until("traffic", WAIT, || (load.done() > before + 20).then_some(()));
        // Still draining when the next upgrade begins: the store is handed on along the line.
        let mut lasting = Socket::open(address).unwrap();
        wharf.upgrade().unwrap();
        lasting.echo(1).unwrap();
    }
    let report = load.stop();
    println!("{report}");
    report.expect_clean();
    let seen = seen.lock().unwrap();
    let most = seen.iter().max().copied().unwrap();
    // A filter is asked on both ways, and of a tunnel on one.
    assert_eq!(most, 2 * report.done + u64::from(times()), "{} answers", report.done);
    drop(seen);
    wharf.stop(WAIT).unwrap();
}

/// The process in the middle has nothing to do any more, but for the first one that asks it for the store.
#[test]
fn who_still_drains_after_two_upgrades_has_the_store() {
    let upstream = upstream();
    let mut wharf = counting(upstream.address());
    let mut slow = Connection::open(wharf.listener("main")).unwrap();
    slow.send(b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 1\r\n\r\n").unwrap();
    until("the request", WAIT, || (wharf.admin().metrics().get("wharf_http_in_flight", &[]) > 0.0).then_some(()));
    let (first, second) = (wharf.upgrade().unwrap(), wharf.upgrade().unwrap());
    assert_eq!(Connection::open(wharf.listener("main")).unwrap().get("a.example", "/").unwrap().status, 200);
    slow.send(b"x").unwrap();
    let reply = slow.reply("POST").unwrap();
    assert_eq!((reply.status, reply.field("x-visits").is_some()), (200, true), "{}", reply.text());
    assert!(wharf.has_ended(first, WAIT) && wharf.has_ended(second, WAIT));
    wharf.stop(WAIT).unwrap();
}

/// A gateway started by a copy of the binary, which can be replaced.
fn replaceable(upstream: SocketAddr) -> (Wharf, tempfile::TempDir) {
    let bin = tempfile::tempdir().unwrap();
    fs::copy(binary().unwrap(), bin.path().join("wharf")).unwrap();
    (Setup::new(config(upstream, "", ALL)).binary(bin.path().join("wharf")).start().unwrap(), bin)
}

/// Replaces a file as a package manager does.
fn replace(file: &Path, text: &str) {
    let draft = file.with_extension("new");
    fs::write(&draft, text).unwrap();
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(draft, file).unwrap();
}

#[test]
fn an_upgrade_that_fails_changes_nothing() {
    let upstream = upstream();
    let (wharf, bin) = replaceable(upstream.address());
    let load = Load::get(wharf.listener("main"), "a.example", "/").connections(2).rate(500.0).start();
    let file = bin.path().join("wharf");
    let real = fs::read(&file).unwrap();
    let refused = |script: &str, why: &str| {
        match script {
            "" => fs::remove_file(&file).unwrap(),
            script => replace(&file, script),
        }
        // The command line is the test's own binary: that of the gateway is broken.
        let said = Command::new(binary().unwrap())
            .args(["upgrade", "--config"])
            .arg(wharf.dir().join("wharf.yaml"))
            .env("WHARF_ADMIN", wharf.admin().address().to_string())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&said.stderr).into_owned();
        let told = why.split('|').any(|why| text.contains(why));
        assert!(!said.status.success() && told, "{script:?}: {text}");
    };
    refused("", "cannot be started");
    refused("no program at all", "cannot be started");
    refused("#!/bin/sh\nexit 3\n", "ended before it served");
    refused("#!/bin/sh\nexec sleep 1000\n", "did not begin to take over");
    refused("#!/bin/sh\nexec sleep 1000 <&-\n", "lives on|cannot be handed over");
    // Says that it is ready to serve, takes the store, and does not.
    let say = |word: &str| format!("printf '\\000\\000\\000\\{:03o}\\000\\000\\000\\000\"{word}\"' >&0\n", word.len() + 2);
    refused(&format!("#!/bin/sh\n{}{}exec sleep 1000\n", say("begun"), say("prepared")), "did not serve");
    // Another configuration that cannot be served: the same binary as before, and it says so itself.
    let port = wharf.admin().address().port();
    let taken = config(upstream.address(), "", ALL).replace("main:", &format!("other: {{ bind: \"127.0.0.1:{port}\" }}, main:"));
    wharf.write_config(&taken);
    let mut back = file.clone();
    back.set_extension("back");
    fs::write(&back, &real).unwrap();
    fs::set_permissions(&back, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&back, &file).unwrap();
    let said = wharf.cli(&["upgrade"]);
    assert!(!said.status.success(), "{said:?}");
    until("the new process's own word", WAIT, || wharf.log().contains("the port is taken").then_some(()));

    let before = load.done();
    until("traffic", WAIT, || (load.done() > before + 50).then_some(()));
    let report = load.stop();
    report.expect_clean();
    // And the next one succeeds.
    wharf.write_config(&config(upstream.address(), "", ALL));
    let mut wharf = wharf;
    let old = wharf.upgrade().unwrap();
    assert!(wharf.has_ended(old, WAIT));
    assert_eq!(Connection::open(wharf.listener("main")).unwrap().get("a.example", "/").unwrap().status, 200);
    wharf.stop(WAIT).unwrap();
}

#[test]
fn a_signal_upgrades_as_the_command_does() {
    let upstream = upstream();
    let mut wharf = Wharf::start(config(upstream.address(), "", ALL)).unwrap();
    wharf.signal(Signal::USR2);
    wharf.until_said("the new process serves", WAIT);
    let line = wharf.log().lines().find(|line| line.contains("the new process serves")).unwrap().to_owned();
    let pid: u32 = line.rsplit_once("pid=").unwrap().1.trim().parse().unwrap();
    wharf.is_replaced_by(pid);
    assert_eq!(Connection::open(wharf.listener("main")).unwrap().get("a.example", "/").unwrap().status, 200);
    let (status, _) = wharf.stop(WAIT).unwrap();
    assert!(status.success());
}
