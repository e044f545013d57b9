//! One component that misbehaves on command, in all four roles: `{"do": "loop"}`. Tests push it, attach it with the
//! behaviour they want, and watch the gateway contain it.
//!
//! | `do` | what happens when it is asked |
//! | --- | --- |
//! | `nothing` | passes, changes nothing |
//! | `count` | sets `x-calls` to the number of questions this instance was asked |
//! | `visits` | counts in the store, and sets `x-visits` to the sum |
//! | `std` | uses a `HashMap`, `println!`, `Instant`, `SystemTime`, the environment: must work (harmlessly) |
//! | `loop`, `recurse`, `memory`, `leak` | never ends; until the stack is full; until memory is full; 64 KiB more each time |
//! | `spin`, `nap` | computes, or sleeps by WASI, for `ms` |
//! | `trap`, `panic`, `exit` | ends, in three ways |
//! | `log-flood`, `long-line` | 5,000 lines; one of 1 MiB |
//! | `host-call-flood`, `random-flood`, `metrics-flood`, `kv-flood` | calls without end; 10,000 names; 256 KiB under each of many keys |
//! | `random-too-much`, `hash-too-much`, `kv-key-too-long` | one call beyond its bound |
//! | `slow-fetch` | calls `service`, and waits |
//! | `giant-headers`, `many-edits`, `many-attrs`, `big-reply`, `deep-json` | answers beyond (or at) the bounds of size |
//! | `crlf-header`, `nul-header`, `upper-header`, `hop-header`, `host-header`, `empty-header`, `bad-path`, `bad-status`, `bad-service` | answers beyond the bounds of meaning |
//! | `read-file`, `env` | looks for what is not its business, and says what it found in `x-found` |
//! | `loop-in-configure`, `trap-in-configure`, `panic-in-configure`, `refuse-configure`, `memory-in-configure`, `exchange-in-configure`, `fetch-in-configure`, `bad-needs`, `many-needs` | at configuration |
//!
//! `every` (default 1): only each so many-th question; the others pass. It needs the grants `kv` and `http`.
//!
//! What cannot be said in Rust is in `wat/`, one small module each.

use serde::Deserialize;
use std::cell::{Cell, RefCell};
use std::hint::black_box;
use wharf_plugin::host::{clock, crypto, exchange, http, kv, log, metrics, random};
use wharf_plugin::prelude::*;
use wharf_plugin::{Edit, Edits, Fact};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(rename = "do", default)]
    act: String,
    #[serde(default)]
    ms: u64,
    #[serde(default)]
    service: String,
    #[serde(default = "one")]
    every: u64,
}

fn one() -> u64 {
    1
}

/// The guest.
#[derive(Debug)]
pub struct Hostile {
    config: Config,
    calls: Cell<u64>,
    leaked: RefCell<Vec<Vec<u8>>>,
}

/// Behaviours, for tests that go through all of them.
pub const ALL: &[&str] = &[
    "nothing",
    "count",
    "visits",
    "std",
    "loop",
    "recurse",
    "memory",
    "leak",
    "spin",
    "nap",
    "trap",
    "panic",
    "exit",
    "log-flood",
    "long-line",
    "host-call-flood",
    "random-flood",
    "metrics-flood",
    "kv-flood",
    "random-too-much",
    "hash-too-much",
    "kv-key-too-long",
    "slow-fetch",
    "giant-headers",
    "many-edits",
    "many-attrs",
    "big-reply",
    "deep-json",
    "crlf-header",
    "nul-header",
    "upper-header",
    "hop-header",
    "host-header",
    "empty-header",
    "bad-path",
    "bad-status",
    "bad-service",
    "read-file",
    "env",
    "loop-in-configure",
    "trap-in-configure",
    "panic-in-configure",
    "refuse-configure",
    "memory-in-configure",
    "exchange-in-configure",
    "fetch-in-configure",
    "bad-needs",
    "many-needs",
];

impl Plugin for Hostile {
    const SCHEMA: &'static str = r#"{"type": "object", "properties": {"do": {"type": "string"}, "ms": {"type": "integer"}, "service": {"type": "string"}, "every": {"type": "integer", "minimum": 1}}, "additionalProperties": false}"#;

    fn configure(config: &str) -> Result<Hostile, String> {
        let config: Config = wharf_plugin::config(config)?;
        match config.act.as_str() {
            "loop-in-configure" => for_ever(),
            "trap-in-configure" => trap(),
            "panic-in-configure" => give_up(),
            "memory-in-configure" => fill_memory(),
            "refuse-configure" => return Err("`do` asks me to refuse; ask for something else".into()),
            "exchange-in-configure" => drop(exchange::id()),
            "fetch-in-configure" => drop(http::fetch(http::Request::get(config.service.as_str(), "/"))),
            "" => {}
            known if ALL.contains(&known) => {}
            unknown => return Err(format!("`do`: {unknown:?} is no behaviour; there are {ALL:?}")),
        }
        Ok(Hostile { config, calls: Cell::new(0), leaked: RefCell::default() })
    }

    fn needs(&self) -> Needs {
        match self.config.act.as_str() {
            "bad-needs" => Needs { request: vec![Fact::Header("not a name\r\n".into()), Fact::Header(String::new())], ..Needs::none() },
            "many-needs" => Needs { request: (0..5000).map(|n| Fact::Header(format!("x-{n}"))).collect(), ..Needs::none() },
            _ => Needs::none(),
        }
    }
}

/// What an act ends in, whatever the role; each role makes of it what it can.
#[derive(Default)]
struct Outcome {
    edits: Edits,
    reply: Option<Reply>,
    service: Option<&'static str>,
    path: Option<&'static str>,
}

impl Outcome {
    fn edits(edits: Edits) -> Outcome {
        Outcome { edits, ..Outcome::default() }
    }

    fn reply(reply: Reply) -> Outcome {
        Outcome { reply: Some(reply), ..Outcome::default() }
    }

    fn set(name: &str, value: &str) -> Outcome {
        // The same in both shapes, so that roles that only reply misbehave, too.
        Outcome { edits: Edits::none().set(name, value), reply: None, ..Outcome::default() }
    }
}

impl Hostile {
    fn act(&self) -> Outcome {
        self.calls.set(self.calls.get() + 1);
        if !self.calls.get().is_multiple_of(self.config.every.max(1)) {
            return Outcome::default();
        }
        match self.config.act.as_str() {
            "count" => return Outcome::set("x-calls", &self.calls.get().to_string()),
            "visits" => {
                let said = kv::increment("visits", 1, None).map_or_else(|error| format!("{error:?}"), |sum| sum.to_string());
                return Outcome::set("x-visits", &said);
            }
            "std" => return Outcome::set("x-std", &use_std()),
            "loop" => for_ever(),
            "recurse" => drop(black_box(recurse(black_box(1)))),
            "memory" => fill_memory(),
            "leak" => self.leaked.borrow_mut().push(vec![1; 64 * 1024]),
            "spin" => spin(self.config.ms),
            "nap" => std::thread::sleep(std::time::Duration::from_millis(self.config.ms)),
            "trap" => trap(),
            "panic" => give_up(),
            "exit" => std::process::exit(7),
            "log-flood" => (0..5000).for_each(|n| log::warn(&format!("line {n} of a flood {}", "x".repeat(200)))),
            "long-line" => log::warn(&"x\r\n\u{1b}[31m".repeat(128 * 1024)),
            "host-call-flood" => loop {
                black_box(clock::now_ms());
            },
            "random-flood" => loop {
                black_box(random::bytes(4096));
            },
            "metrics-flood" => (0..10_000).for_each(|n| metrics::count(&format!("name_{n}"), 1)),
            "kv-flood" => self.fill_store(),
            "random-too-much" => drop(black_box(random::bytes(1 << 20))),
            "hash-too-much" => drop(black_box(crypto::hash(crypto::Hash::Sha256, &vec![0; 2 << 20]))),
            "kv-key-too-long" => match kv::set(&"k".repeat(1000), b"", None) {
                Err(kv::Error::TooLarge(_)) => return Outcome::set("x-found", "too-large"),
                other => return Outcome::set("x-found", &format!("{other:?}")),
            },
            "slow-fetch" => {
                let answer = http::fetch(http::Request::get(self.config.service.as_str(), "/slow"));
                return Outcome::set("x-found", &answer.map_or_else(|error| format!("{error:?}"), |answer| answer.status.to_string()));
            }
            "giant-headers" => {
                return Outcome::edits((0..8).fold(Edits::none(), |edits, n| edits.set(format!("x-{n}"), "x".repeat(1 << 20))));
            }
            "many-edits" => return Outcome::edits((0..20_000).fold(Edits::none(), |edits, n| edits.add(format!("x-{n}"), "x"))),
            "many-attrs" => return Outcome::edits((0..60).fold(Edits::none(), |edits, n| edits.attr(format!("a{n}"), "x"))),
            "big-reply" => return Outcome::reply(Reply::new(200).body(vec![b'x'; 8 << 20])),
            "deep-json" => return Outcome::reply(Reply::new(200).json("[".repeat(512 * 1024))),
            "crlf-header" => return bad_field("x-a", "1\r\nx-injected: 2\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"),
            "nul-header" => return bad_field("x-a", "1\0"),
            "upper-header" => return bad_field("X-Upper", "1"),
            "hop-header" => return bad_field("transfer-encoding", "chunked"),
            "host-header" => return bad_field("host", "elsewhere.example"),
            "empty-header" => return bad_field("", "1"),
            "bad-path" => {
                return Outcome {
                    edits: Edits::none().path("/a/../../etc//passwd"),
                    path: Some("/a/../../etc//passwd"),
                    ..Outcome::default()
                };
            }
            "bad-status" => return Outcome::reply(Reply::new(99)),
            "bad-service" => return Outcome { service: Some("no-such-service"), ..Outcome::default() },
            "read-file" => {
                return Outcome::set("x-found", &found(std::fs::read_to_string("/etc/passwd").map_err(|error| error.to_string())));
            }
            "env" => return Outcome::set("x-found", &std::env::vars().count().to_string()),
            _ => {}
        }
        Outcome::default()
    }

    fn fill_store(&self) {
        for n in 0..u64::MAX {
            // A full store is not the end: a hostile guest goes on asking.
            drop(black_box(kv::set(&format!("hoard-{n}"), &vec![0; 256 * 1024], None)));
        }
    }
}

fn bad_field(name: &str, value: &str) -> Outcome {
    let mut outcome = Outcome::set(name, value);
    if let Some(Edit::Set(name, value)) = outcome.edits.0.first().cloned() {
        outcome.reply = Some(Reply { status: 200, headers: vec![(name, value)], body: Vec::new() });
    }
    outcome
}

fn found(text: Result<String, String>) -> String {
    text.map_or_else(|why| format!("refused: {}", why.replace(|c: char| c.is_control(), " ")), |text| format!("{} bytes", text.len()))
}

fn for_ever() -> ! {
    let mut turns = 0u64;
    loop {
        turns = black_box(turns.wrapping_add(1));
    }
}

fn spin(ms: u64) {
    let end = clock::monotonic_ns().saturating_add(ms.saturating_mul(1_000_000));
    while clock::monotonic_ns() < end {
        // Long turns: the number of host calls is bounded, too.
        for turn in 0..200_000u32 {
            black_box(turn);
        }
    }
}

#[allow(unconditional_recursion, reason = "that is what it is for")]
fn recurse(depth: u64) -> u64 {
    let room = black_box([depth; 64]);
    recurse(depth.wrapping_add(1)).wrapping_add(room.iter().fold(0, |sum, n| sum ^ n))
}

fn fill_memory() {
    let mut hoard: Vec<Vec<u8>> = Vec::new();
    loop {
        hoard.push(vec![1; 1 << 20]);
        black_box(&hoard);
    }
}

#[cfg(target_family = "wasm")]
fn trap() {
    core::arch::wasm32::unreachable()
}

#[cfg(not(target_family = "wasm"))]
fn trap() {
    std::process::abort()
}

#[allow(clippy::panic, reason = "that is what it is for")]
fn give_up() {
    panic!("a guest gives up")
}

/// What a plugin written without a thought of gateways does. All of it must work, and tell nothing of the host.
#[allow(clippy::print_stdout, clippy::print_stderr, reason = "plugins print, and it must do no harm")]
fn use_std() -> String {
    let start = std::time::Instant::now();
    let map: std::collections::HashMap<&str, usize> = ["a", "bb", "ccc"].into_iter().map(|text| (text, text.len())).collect();
    println!("a line on standard output: {}", map.len());
    eprintln!("a line on standard error");
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    format!("{} {} {}", map.values().sum::<usize>(), start.elapsed().as_secs() < 60, u8::from(since > 1_000_000_000))
}

impl Hostile {
    fn decision(&self) -> Decision {
        let outcome = self.act();
        match outcome.reply {
            // Edits are judged on the way through; roles without edits misbehave by their reply.
            Some(reply) if outcome.edits.0.is_empty() => reply.into(),
            _ => outcome.edits.into(),
        }
    }
}

impl Auth for Hostile {
    fn check(&self, _request: &Request) -> Decision {
        self.decision()
    }
}

impl Filter for Hostile {
    fn on_request(&self, _request: &Request) -> Decision {
        self.decision()
    }

    fn on_response(&self, _response: &Response) -> Edits {
        self.act().edits
    }
}

impl Route for Hostile {
    fn pick(&self, _request: &Request) -> Option<Target> {
        let outcome = self.act();
        let mut target = Target::service(outcome.service.unwrap_or(&self.config.service));
        target.path = outcome.path.map(Into::into);
        Some(target)
    }
}

impl Degrade for Hostile {
    fn on_fault(&self, _request: &Request, _fault: &Fault) -> Instead {
        self.act().reply.map_or(Instead::Pass, Instead::Reply)
    }
}

wharf_plugin::export!(Hostile: auth, route, filter, degrade);

#[cfg(test)]
mod tests {
    use super::ALL;

    #[test]
    fn every_behaviour_is_explained_at_the_head_of_the_file() {
        let head = include_str!("lib.rs").split("use serde").next().unwrap();
        for name in ALL {
            assert!(head.contains(&format!("`{name}`")), "{name}");
        }
        assert!(ALL.len() >= 22);
    }
}
