//! A guest that does what its request's path says: every hostile act of the tests, and the honest ones beside them.

wit_bindgen::generate!({
    path: "../../../../../wit",
    inline: "
        package wharf:tests@0.1.0;
        world hostile {
            include wharf:plugin/auth@0.1.0;
            include wharf:plugin/route@0.1.0;
            include wharf:plugin/filter@0.1.0;
            include wharf:plugin/degrade@0.1.0;
        }
    ",
    world: "wharf:tests/hostile",
    generate_all,
});

use exports::wharf::degrade::degrade::{Fault, Instead, LastGood};
use exports::wharf::lifecycle::lifecycle::{Guest as Lifecycle, Needs, Phases};
use std::cell::RefCell;
use std::collections::HashMap;
use wharf::host::{clock, config, crypto, exchange, http, kv, log, metrics, random};
use wharf::types::types::{Decision, Edit, Fact, Reply, RequestHead, ResponseHead};

struct Hostile;

thread_local! {
    // What a careless plugin keeps from one question to the next.
    static KEPT: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
    static CALLS: RefCell<HashMap<String, u32>> = RefCell::new(HashMap::new());
}

impl Lifecycle for Hostile {
    fn schema() -> String {
        r#"{"type":"object"}"#.into()
    }

    fn configure(given: String) -> Result<Needs, String> {
        match given.as_str() {
            "\"refuse\"" => return Err("key `mode` must be \"kind\"".into()),
            "\"loop\"" => spin(),
            "\"trap\"" => trap(),
            "\"exchange\"" => drop(exchange::id()),
            "\"many\"" => return Ok(needs((0..65).map(|n| Fact::Header(format!("h{n}"))).collect())),
            "\"upper\"" => return Ok(needs(vec![Fact::Header("X-Upper".into())])),
            "\"attr\"" => return Ok(needs(vec![Fact::Attr("a".repeat(65))])),
            _ => {}
        }
        assert_eq!(given, config::get());
        Ok(needs(vec![Fact::Path, Fact::Header("x-in".into()), Fact::Header("x-twice".into())]))
    }
}

fn needs(request: Vec<Fact>) -> Needs {
    let response = vec![Fact::Header("server".into()), Fact::Route];
    Needs { request, response, phases: Phases::REQUEST | Phases::RESPONSE }
}

fn path(request: &RequestHead) -> &str {
    request.facts.first().and_then(Option::as_deref).unwrap_or_default()
}

fn spin() {
    let mut n = 0u64;
    loop {
        n = std::hint::black_box(n.wrapping_add(1));
    }
}

fn trap() {
    std::arch::wasm32::unreachable()
}

#[allow(unconditional_recursion, reason = "it is what this guest is for")]
#[inline(never)]
fn recurse(n: u64) -> u64 {
    let here = std::hint::black_box([n; 16]);
    recurse(n + 1) + here[(n % 16) as usize]
}

fn reply(text: impl Into<Vec<u8>>) -> Decision {
    Decision::Reply(Reply { status: 200, headers: Vec::new(), body: text.into() })
}

fn act(request: &RequestHead) -> Decision {
    match path(request) {
        "/loop" => spin(),
        "/loop-with-calls" => loop {
            clock::monotonic_ns();
        },
        "/recursion" => drop(recurse(0)),
        "/trap" => trap(),
        "/panic" => panic!("a guest's panic"),
        "/memory" => loop {
            KEPT.with_borrow_mut(|kept| kept.push(vec![1; 1 << 20]));
        },
        "/fill" => {
            let size = 20 << 20;
            KEPT.with_borrow_mut(|kept| {
                kept.clear();
                kept.push(vec![1; size])
            });
        }
        "/worn" => KEPT.with_borrow_mut(|kept| kept.push(vec![1; 13 << 20])),
        "/log" => {
            for n in 0..500 {
                log::log(log::Level::Info, &format!("line {n}\nsecond line"));
            }
        }
        "/stdout" => {
            let mut seen = HashMap::new();
            for n in 0..5 {
                *seen.entry(n % 3).or_insert(0) += 1;
            }
            println!("a line to stdout: {:?}", seen.len());
            eprintln!("a line to stderr");
            print!("half a line");
            let began = std::time::Instant::now();
            let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
            let _ = began.elapsed();
            return reply(format!("{} {} {}", seen.len(), wall.as_secs() > 1_000_000_000, std::env::args().count()));
        }
        "/file" => return reply(format!("{}", std::fs::read("/etc/passwd").is_err())),
        "/socket" => return reply(format!("{}", std::net::TcpStream::connect("127.0.0.1:1").is_err())),
        "/sleep" => std::thread::sleep(std::time::Duration::from_millis(1)),
        "/host-calls" => loop {
            random::u64();
        },
        "/random" => drop(random::bytes(4097)),
        "/giant-body" => return Decision::Reply(Reply { status: 200, headers: Vec::new(), body: vec![b'x'; (1 << 20) + 1] }),
        "/giant-giant-body" => return Decision::Reply(Reply { status: 200, headers: Vec::new(), body: vec![b'x'; 8 << 20] }),
        "/giant-header" => return Decision::Next(vec![Edit::Set(("x-out".into(), "v".repeat(100_000)))]),
        "/many-headers" => return Decision::Next((0..100_000).map(|n| Edit::Add((format!("x-{n}"), String::new()))).collect()),
        "/crlf" => return Decision::Next(vec![Edit::Set(("x-out".into(), "a\r\nset-cookie: b".into()))]),
        "/hosts-own" => return Decision::Next(vec![Edit::Set(("content-length".into(), "0".into()))]),
        "/slow-kv" => {
            let _ = kv::get("slow");
        }
        "/get" => drop(kv::get(&exchange::query().unwrap_or_default())),
        "/kv" => {
            let _ = kv::set("key", b"value", None);
            let sum = kv::increment("count", 5, Some(1000));
            let swapped = kv::compare_and_set("key", Some(b"value"), b"other", None);
            let long = kv::set(&"k".repeat(513), b"", None);
            return reply(format!("{:?} {sum:?} {swapped:?} {:?} {:?}", kv::get("key"), long.is_err(), kv::delete("none")));
        }
        "/fetch" => {
            let request = http::Request {
                service: exchange::query().unwrap_or_default(),
                method: "GET".into(),
                path: "/from-guest?a=b".into(),
                headers: vec![("x-from".into(), "guest".into())],
                body: Vec::new(),
            };
            return reply(match http::fetch(&request) {
                Ok(said) => format!("{} {}", said.status, String::from_utf8_lossy(&said.body)),
                Err(error) => format!("{error:?}"),
            });
        }
        "/count" => {
            for n in 0..100 {
                metrics::count(&format!("name_{n}"), 1);
            }
            metrics::count("not a name", 7);
        }
        "/verify" => {
            let tag = crypto::hmac(crypto::HashAlgorithm::Sha256, b"key", b"data");
            let yes = crypto::verify(crypto::SignatureAlgorithm::Hs256, b"key", b"data", &tag);
            let no = crypto::verify(crypto::SignatureAlgorithm::Hs256, b"kex", b"data", &tag);
            let bad = crypto::verify(crypto::SignatureAlgorithm::Es384, b"no key", b"data", &tag);
            let long = crypto::hash(crypto::HashAlgorithm::Sha512, &vec![0; 1 << 20]);
            return reply(format!("{yes:?} {no:?} {} {} {}", bad.is_err(), long.len(), crypto::equal(b"a", b"a")));
        }
        "/facts" => {
            let header = exchange::header("x-in");
            return reply(format!(
                "{} {} {} {} {:?} {} {:?} {} {:?} {:?}",
                exchange::route(),
                exchange::path(),
                exchange::authority(),
                exchange::scheme(),
                exchange::query(),
                exchange::peer(),
                header,
                exchange::header_all().len(),
                exchange::response_header("server"),
                request.facts,
            ));
        }
        "/work" => {
            // Longer than a turn, shorter than a deadline: an honest guest with much to do.
            let began = clock::monotonic_ns();
            while clock::monotonic_ns() - began < 2_000_000 {
                for n in 0..10_000u64 {
                    std::hint::black_box(n);
                }
            }
            return reply("worked");
        }
        "/calls" => {
            let calls = CALLS.with_borrow_mut(|calls| {
                let count = calls.entry("calls".into()).or_insert(0);
                *count += 1;
                *count
            });
            return reply(calls.to_string());
        }
        _ => return Decision::Next(vec![Edit::Set(("x-out".into(), request.facts.get(1).cloned().flatten().unwrap_or_default()))]),
    }
    reply("did it")
}

impl exports::wharf::auth::auth::Guest for Hostile {
    fn check(request: RequestHead) -> Decision {
        act(&request)
    }
}

impl exports::wharf::route::route::Guest for Hostile {
    fn pick(request: RequestHead) -> Option<exports::wharf::route::route::Target> {
        match path(&request) {
            "/nowhere" => None,
            "/giant" => Some(exports::wharf::route::route::Target { service: "s".repeat(100_000), subset: None, path: None }),
            _ => Some(exports::wharf::route::route::Target { service: "users".into(), subset: Some("gray".into()), path: Some("/u".into()) }),
        }
    }
}

impl exports::wharf::filter::filter::Guest for Hostile {
    fn on_request(request: RequestHead) -> Decision {
        act(&request)
    }

    fn on_response(response: ResponseHead) -> Vec<Edit> {
        let told: Vec<String> = response.facts.into_iter().flatten().collect();
        vec![Edit::Set(("x-server".into(), format!("{} {}", told.join(" "), response.status)))]
    }
}

impl exports::wharf::degrade::degrade::Guest for Hostile {
    fn on_fault(_request: RequestHead, fault: Fault) -> Instead {
        match fault {
            Fault::Timeout => Instead::Pass,
            Fault::Plugin(name) => Instead::Reply(Reply { status: 503, headers: Vec::new(), body: name.into_bytes() }),
            _ => Instead::LastGood(LastGood { max_age_ms: 1000, otherwise: None }),
        }
    }
}

export!(Hostile);
