//! The demo's upstream: answers every request with who it is and what it received. Ends when its standard input ends.
//!
//! `wharf-demo-upstream NAME ADDRESS` prints `READY ADDRESS`. `/b/N` answers N bytes, `/slow/MS` waits, `/status/N`
//! answers N, everything else is JSON. Deliberately not fast: benches have their own upstream.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program for people: it talks on its standard output")]

use serde_json::{Map, Value, json};
use std::io::Read;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;
use wharf_harness::upstream::{Act, Seen, Upstream, ok};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [name, address] = args.as_slice() else {
        eprintln!("usage: wharf-demo-upstream NAME ADDRESS");
        return ExitCode::from(2);
    };
    let Ok(address) = address.parse::<SocketAddr>() else {
        eprintln!("{address:?} is not an address such as 127.0.0.1:0");
        return ExitCode::from(2);
    };
    let name = name.clone();
    let upstream = match Upstream::start_at(address, move |seen| answer(&name, seen)) {
        Ok(upstream) => upstream,
        Err(error) => {
            eprintln!("{address} cannot be bound: {error}");
            return ExitCode::FAILURE;
        }
    };
    println!("READY {}", upstream.address());
    // Whoever started it holds the other end: no process outlives its demo.
    let mut rest = Vec::new();
    let _ = std::io::stdin().read_to_end(&mut rest);
    ExitCode::SUCCESS
}

fn answer(name: &str, seen: &Seen) -> Vec<Act> {
    let target = seen.request.target();
    let path = target.split('?').next().unwrap_or_default();
    let number = |prefix: &str| path.strip_prefix(prefix).and_then(|rest| rest.parse::<u64>().ok());
    if let Some(size) = number("/b/") {
        return vec![Act::Send(ok(&vec![b'x'; size.min(16 << 20) as usize]))];
    }
    let mut acts = Vec::new();
    if let Some(ms) = number("/slow/") {
        acts.push(Act::Pause(Duration::from_millis(ms.min(60_000))));
    }
    let status = number("/status/").filter(|status| (200..600).contains(status)).unwrap_or(200);
    let headers: Map<String, Value> =
        seen.request.fields().into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value.into())).collect();
    let told = json!({"upstream": name, "method": seen.request.method(), "path": target, "headers": headers, "body": seen.request.text()});
    let body = format!("{told:#}\n");
    let head =
        format!("HTTP/1.1 {status} Demo\r\nContent-Type: application/json\r\nX-Upstream: {name}\r\nContent-Length: {}\r\n\r\n", body.len());
    acts.push(Act::Send([head.as_bytes(), body.as_bytes()].concat()));
    acts
}
