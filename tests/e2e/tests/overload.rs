//! Overload is answered before it is an outage: when memory runs short connections are refused, then requests; operators
//! are always let in; and when it is over, it is over.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests stop at the first surprise, and print their figures"
)]

use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;
use wharf_harness::two::{Ended, Two, get};
use wharf_harness::{Connection, Upstream, Wharf, until};

const WAIT: Duration = Duration::from_secs(60);
/// How long a shortage may last when nothing holds the memory any more.
const OVER: Duration = Duration::from_secs(5);
/// Connections that fill the memory, and with how much each.
const GREEDY: usize = 7000;
const HEAD: usize = 30 * 1024;
/// What the gateway may use beyond what it uses at the start, MiB.
const ROOM: u64 = 120;

fn config(upstream: &Upstream, node: &str) -> String {
    format!(
        r#"
node: {{ state_dir: "@DIR@/state"{node} }}
admin: {{ bind: "127.0.0.1:0" }}
access_log: {{ to: "@DIR@/access.log" }}
listeners: {{ main: {{ bind: "127.0.0.1:0", timeouts: {{ first: 60s, head: 60s }} }} }}
services: {{ up: {{ endpoints: ["{}"] }} }}
routes: [{{ name: all, to: up }}]
"#,
        upstream.address()
    )
}

fn level(wharf: &Wharf, name: &str) -> u64 {
    wharf.admin().metrics().get(name, &[]) as u64
}

/// Bounds the memory of a gateway at what it uses now and `room` MiB beyond; MiB.
fn bound(wharf: &Wharf, upstream: &Upstream, room: u64) -> u64 {
    until("a look at the memory", WAIT, || (level(wharf, "wharf_process_memory_bytes") > 0).then_some(()));
    let max = (level(wharf, "wharf_process_memory_bytes") >> 20) + room;
    wharf.write_config(&config(upstream, &format!(", memory_max: {max}MiB")));
    until("the bound", WAIT, || (level(wharf, "wharf_memory_max_bytes") == max << 20).then_some(()));
    max
}

#[test]
fn memory_that_runs_short_is_answered_and_never_runs_out() {
    let upstream = Upstream::named("up");
    let wharf = Wharf::start(config(&upstream, "")).unwrap();
    let address = wharf.listener("main");
    let level = |name: &str| level(&wharf, name);
    let max = bound(&wharf, &upstream, ROOM);

    let mut greedy: Vec<TcpStream> = (0..GREEDY).map(|_| TcpStream::connect(address).unwrap()).collect();
    let open = || wharf.admin().metrics().get("wharf_connections_open", &[("listener", "main")]) as usize;
    until("all connections", WAIT, || (open() >= GREEDY).then_some(()));
    let mut good = Connection::open(address).unwrap();
    assert_eq!(good.get("a.example", "/").unwrap().status, 200);
    let mut two = Two::open(address, &[]).unwrap();
    two.send(&get(1, "a.example", "/")).unwrap();
    assert!(matches!(two.ended(1, WAIT), Ended::Answered(200, _)));

    // A head that does not end. Those that are not there any more were refused, which is the point.
    let head = [b"GET / HTTP/1.1\r\nHost: a.example\r\nX-Long: ".to_vec(), vec![b'a'; HEAD]].concat();
    let (mut most, mut high, mut full) = (0, false, false);
    let (begun, mut sent) = (level("wharf_process_memory_bytes"), 0);
    for some in greedy.chunks_mut(50) {
        for stream in some {
            sent += stream.write_all(&head).map_or(0, |()| head.len() as u64);
        }
        // As fast as the gateway looks: with so little memory a loopback device could fill it between two looks.
        let shortage = until("a look", WAIT, || {
            let (used, shortage) = (level("wharf_process_memory_bytes"), level("wharf_memory_shortage"));
            most = most.max(used);
            (shortage > 0 || used >= begun + sent / 2).then_some(shortage)
        });
        high |= shortage == 1;
        full |= shortage == 2;
        if full {
            break;
        }
    }
    until("a shortage", WAIT, || {
        most = most.max(level("wharf_process_memory_bytes"));
        full |= level("wharf_memory_shortage") == 2;
        full.then_some(())
    });
    println!("memory_max {max} MiB, at most {} MiB used; short first: {high}", most >> 20);

    // Who is there is told, and sent away.
    let reply = good.get("a.example", "/").unwrap();
    assert_eq!((reply.status, reply.field("retry-after").as_deref(), reply.closes()), (503, Some("1"), true), "{}", reply.text());
    assert!(reply.text().contains("overload"), "{}", reply.text());
    two.send(&get(3, "a.example", "/")).unwrap();
    assert!(matches!(two.ended(3, WAIT), Ended::Answered(503, _)) && two.told_to_go);
    // Who comes is not let in.
    let refused = || wharf.admin().metrics().get("wharf_connections_refused_total", &[("listener", "main")]);
    let before = refused();
    assert!(Connection::open(address).unwrap().get("a.example", "/").is_err());
    assert!(refused() > before);
    // Operators are.
    assert_eq!(wharf.admin().get("/readyz").status, 200);
    assert!(most < max << 20, "{most} of {}", max << 20);

    greedy.clear();
    until("the shortage to be over", OVER, || (level("wharf_memory_shortage") == 0).then_some(()));
    assert_eq!(Connection::open(address).unwrap().get("a.example", "/").unwrap().status, 200);
    wharf.stop(WAIT).unwrap();
}

/// What made memory short has gone at once, and from then on nobody comes who would make the cores work.
#[test]
fn a_shortage_ends_with_what_it_came_from() {
    let upstream = Upstream::named("up");
    let wharf = Wharf::start(config(&upstream, "")).unwrap();
    let address = wharf.listener("main");
    let level = |name: &str| level(&wharf, name);
    bound(&wharf, &upstream, ROOM / 2);

    let head = [b"GET / HTTP/1.1\r\nHost: a.example\r\nX-Long: ".to_vec(), vec![b'a'; HEAD]].concat();
    let mut brief: Vec<TcpStream> = Vec::new();
    until("a shortage", WAIT, || {
        for _ in 0..100 {
            let mut stream = TcpStream::connect(address).unwrap();
            // One that was refused is no loss.
            let _ = stream.write_all(&head);
            brief.push(stream);
        }
        assert!(brief.len() < GREEDY, "memory does not run short");
        (level("wharf_memory_shortage") > 0).then_some(())
    });
    drop(brief);
    until("an answer", OVER, || Connection::open(address).ok()?.get("a.example", "/").ok().filter(|reply| reply.status == 200));
    wharf.stop(WAIT).unwrap();
}
