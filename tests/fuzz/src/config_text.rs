//! The configuration checker: whatever stands in the file, it answers, its mistakes have a place in the file, and a file
//! that is good means the same when it is written another way.

#![allow(clippy::panic, reason = "a target answers by panicking: there is nobody behind it to tell")]

use crate::driver::{Random, Target, note};
use crate::house::config::tree::{self, Place};
use crate::house::config::{Plan, Surroundings, check};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

/// The text of a configuration file.
pub const CONFIG: Target = Target { name: "config", run, make, words: WORDS };

/// No input of this size takes longer, on however busy a machine.
const LONGEST: Duration = Duration::from_secs(10);
/// Most text that a document is written anew as: aliases make more of it than can be read often.
const ANEW_MAX: usize = 16 * 1024;
/// A key longer than this may need another form in YAML.
const KEY_MAX: usize = 200;

fn checked(text: &str) -> Result<Plan, crate::house::config::Mistakes> {
    // A host with two addresses of its own and four cores.
    let addresses = vec![IpAddr::from([10, 0, 0, 7]), IpAddr::from([127, 0, 0, 1])];
    let around = Surroundings { addresses, cores: 4, may_bind: false, any_address: false, expired: false };
    check("fuzz.yaml", text, Path::new(""), &around)
}

fn run(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let begun = Instant::now();
    let answer = checked(&text);
    assert!(begun.elapsed() < LONGEST, "the checker took {:?}", begun.elapsed());
    match answer {
        Ok(plan) => means_the_same(&text, &plan),
        Err(mistakes) => {
            assert!(!mistakes.list.is_empty(), "refused without a mistake");
            // Line ends as YAML counts them.
            let lines: Vec<&str> = text.split('\n').collect();
            for mistake in &mistakes.list {
                let Place { line, column, width, .. } = mistake.place;
                let what: String =
                    mistake.message.chars().map(|c| if c.is_ascii_lowercase() || c == ' ' { c } else { '.' }).take(24).collect();
                note(&what);
                if line == 0 {
                    let whole =
                        ["the file is empty", "there is no listener, so nothing would be served"].contains(&mistake.message.as_str());
                    assert!(whole, "a mistake without a place: {}", mistake.message);
                    continue;
                }
                if !text.contains('\r') {
                    let there = lines.get(line as usize - 1);
                    assert!(there.is_some(), "line {line} of {}: {}", lines.len(), mistake.message);
                    let most = there.map_or(0, |there| there.chars().count()) + 1;
                    assert!((1..=most).contains(&(column as usize)), "column {column} of {most}: {}", mistake.message);
                }
                assert!(width >= 1);
            }
            let (shown, json) = (mistakes.to_string(), mistakes.json());
            assert!(shown.lines().count() >= mistakes.list.len() && json.is_object());
            match checked(&text) {
                Ok(_) => panic!("refused, then taken"),
                Err(again) => assert_eq!(again.to_string(), shown, "checked twice, told differently"),
            }
        }
    }
}

fn means_the_same(text: &str, plan: &Plan) {
    let meant = format!("{plan:?}");
    note("good");
    note(&format!("{} {} {} {}", plan.listeners.len(), plan.services.len(), plan.plugins.len(), plan.routes.len()));
    let again = |how: &str, text: &str| match checked(text) {
        Ok(plan) => assert_eq!(format!("{plan:?}"), meant, "{how}, it means something else:\n{text}"),
        Err(mistakes) => panic!("{how}, it is refused: {mistakes}"),
    };
    again("checked twice", text);
    if let Some(anew) = written_anew(text) {
        again("written anew", &anew);
    }
}

// === the same document in another form: one line, every text in quotes ===

/// `None`: it is too large, or a key would need another form.
fn written_anew(text: &str) -> Option<String> {
    let tree = tree::parse(text, &mut Vec::new()).ok()?;
    let document: Written = tree::read(&tree, &RefCell::default())?;
    let mut out = String::new();
    write(&document, &mut out)?;
    Some(out)
}

/// A node as it stands in the file.
enum Written {
    Null,
    /// Has a type of its own if it is plain: a number, a truth value.
    Plain(String),
    Text(String),
    List(Vec<Written>),
    Map(Vec<(String, Written)>),
}

fn write(node: &Written, out: &mut String) -> Option<()> {
    if out.len() > ANEW_MAX {
        return None;
    }
    match node {
        Written::Null => *out += "~",
        Written::Plain(text) => *out += text,
        Written::Text(text) => quoted(text, out),
        Written::List(items) => {
            *out += "[";
            for item in items {
                write(item, out)?;
                *out += ", ";
            }
            *out += "]";
        }
        Written::Map(entries) => {
            *out += "{";
            for (key, value) in entries {
                if key.len() > KEY_MAX {
                    return None;
                }
                quoted(key, out);
                *out += ": ";
                write(value, out)?;
                *out += ", ";
            }
            *out += "}";
        }
    }
    Some(())
}

fn quoted(text: &str, out: &mut String) {
    *out += "\"";
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            ' '..='~' => out.push(c),
            _ => {
                let _ = write!(out, "\\U{:08x}", u32::from(c));
            }
        }
    }
    *out += "\"";
}

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Written, D::Error> {
        struct Twice;
        impl<'de> Visitor<'de> for Twice {
            type Value = Written;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("anything")
            }

            /// The reader hands a value out as often as it is asked: first by its type, then as it is written.
            fn visit_map<A: MapAccess<'de>>(self, mut inside: A) -> Result<Written, A::Error> {
                let _: Option<(u32, u32, u32, u32)> = inside.next_key()?;
                Ok(match inside.next_value::<Typed>()?.0 {
                    Written::Plain(_) => Written::Plain(inside.next_value()?),
                    other => other,
                })
            }
        }
        from.deserialize_newtype_struct("\0item", Twice)
    }
}

struct Typed(Written);

impl<'de> Deserialize<'de> for Typed {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Typed, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Typed;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("anything")
            }

            fn visit_unit<E>(self) -> Result<Typed, E> {
                Ok(Typed(Written::Null))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Typed, E> {
                Ok(Typed(Written::Plain(String::new())))
            }

            fn visit_u64<E>(self, _: u64) -> Result<Typed, E> {
                Ok(Typed(Written::Plain(String::new())))
            }

            fn visit_i64<E>(self, _: i64) -> Result<Typed, E> {
                Ok(Typed(Written::Plain(String::new())))
            }

            fn visit_f64<E>(self, _: f64) -> Result<Typed, E> {
                Ok(Typed(Written::Plain(String::new())))
            }

            fn visit_str<E>(self, text: &str) -> Result<Typed, E> {
                Ok(Typed(Written::Text(text.to_owned())))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut items: A) -> Result<Typed, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(Typed(Written::List(list)))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Typed, A::Error> {
                let mut map = Vec::new();
                while let Some(entry) = entries.next_entry()? {
                    map.push(entry);
                }
                Ok(Typed(Written::Map(map)))
            }
        }
        from.deserialize_any(Any)
    }
}

// === made files ===

const WORDS: &[&[u8]] = &[
    b"\n",
    b"\n  ",
    b"\n    - ",
    b": ",
    b"- ",
    b"{",
    b"}",
    b"[",
    b"]",
    b", ",
    b"&a ",
    b"*a",
    b"<<: *a",
    b"|\n",
    b">-\n",
    b"\"",
    b"'",
    b"#",
    b"---\n",
    b"...\n",
    b"!!str ",
    b"!x ",
    b"%YAML 1.2\n",
    b"? ",
    b"~",
    b"null",
    b"true",
    b"no",
    b"0",
    b"-1",
    b"1e999",
    b".nan",
    b"0x10",
    b"18446744073709551616",
    b"5s",
    b"250ms",
    b"1.5h",
    b"10MiB",
    b"1.5B",
    b"20%",
    b"101%",
    b"\t",
    b"\r\n",
    b"\xef\xbb\xbf",
    b"\xc2\x85",
    b"\xe2\x80\xa8",
    b"\0",
    b"\x7f",
    b"0.0.0.0/0",
    b"10.0.0.0/8",
    b"::/0",
    b"[::1]:80",
    b"127.0.0.1:0",
    b"*.example",
    b"/a/../b",
    b"prefix",
    b"exact",
    b"routes:\n",
    b"listeners:\n",
    b"services:\n",
    b"plugins:\n",
    b"attachments:\n",
    b"trusted_proxies",
    b"match",
    b"to",
    b"answer",
    b"status",
    b"config",
    b"hosts",
    b"name",
    b"bind",
    b"endpoints",
    b"dns",
    b"weight",
    b"timeouts",
    b"limits",
    b"grants",
];

const USUAL: &str =
    "listeners: {web: {bind: 127.0.0.1:0}}\nservices: {orders: {endpoints: [127.0.0.1:9001]}}\nplugins: {auth: {}, router: {}}\n";

/// Files that people wrote, to be taken apart line by line.
const BASES: &[&str] = &[
    include_str!("../../../host/gateway/src/cli/example.yaml"),
    include_str!("../corpus/config/every-setting"),
    include_str!("../corpus/config/chains"),
];

fn make(random: &mut Random) -> Vec<u8> {
    if random.once_in(3) {
        return rearranged(random.pick(BASES).copied().unwrap_or_default(), random);
    }
    let mut out = String::new();
    if random.once_in(4) {
        let (place, size) = (bind(random), size(random));
        let (head, network) = (time(random), network(random));
        let _ = writeln!(
            out,
            "listeners: {{web: {{bind: {place}, trusted_proxies: [{network}], limits: {{head_bytes_max: {size}}}, timeouts: {{head: {head}}}}}}}"
        );
        out += "services: {orders: {endpoints: [127.0.0.1:9001]}}\nplugins: {auth: {}, router: {}}\n";
    } else {
        out += USUAL;
    }
    match random.below(7) {
        0 => {
            let (name, level) = (
                random.word(&["a", "n-1", "007", "no"], &["", "~", "a b", "-x", "{}"]),
                random.word(&["info", "warn,wharf_http=debug"], &["loud", "5", "a=b=c"]),
            );
            let _ = writeln!(out, "node: {{name: {name}}}\nlog: {{level: '{level}', format: json}}\nworkers: {}", random.below(300));
        }
        1 => {
            let (time, size) = (time(random), size(random));
            let _ = writeln!(out, "defaults: {{timeouts: {{whole: {time}}}, body_bytes_max: {size}}}");
        }
        2 => {
            let host = host(random);
            let _ = writeln!(out, "attachments:\n  global: [{}]\n  hosts: {{{host}: [{}]}}", attachment(random), attachment(random));
        }
        3 => {
            let to = random.word(&["stdout", "off", "a.log"], &["", "[]"]);
            let _ = writeln!(out, "access_log: {{to: {to}, redact_query: [A, b]}}\nadmin: {{bind: {}, token_file: t}}", bind(random));
        }
        _ => {}
    }
    if !random.once_in(6) {
        out += "routes:\n";
        for at in 0..1 + random.below(3) {
            let name = random.word(&["a", "b", "c.d", "r_1"], &["", "a b", "~"]);
            let (path, kind) = (
                random.word(&["/", "/a", "/a/b", "/orders"], &["a", "/a/../b", "/%2e", "//", "/a?b", "/*", ""]),
                random.word(&["prefix", "exact", "regex", "template"], &[""]),
            );
            let _ = writeln!(out, "  - name: {name}{at}\n    match: {{path: {{{kind}: {path}}}, hosts: [{}]}}", host(random));
            let _ = writeln!(out, "    to: {}", target(random));
            match random.below(8) {
                0 => {
                    let _ = writeln!(out, "    plugins: [{}]", attachment(random));
                }
                3 | 4 => {
                    let _ = writeln!(out, "    {}", step(random));
                }
                1 => {
                    let _ =
                        writeln!(out, "    priority: {}\n    strip_prefix: true", random.word(&["1", "-5", "+3"], &["x", "99999999999"]));
                }
                2 => {
                    let _ = writeln!(out, "    degrade_statuses: [{}]", random.word(&["502", "500, 599"], &["200", "x", ""]));
                }
                _ => {}
            }
        }
    }
    out.into_bytes()
}

fn bind<'a>(random: &mut Random) -> &'a str {
    random.word(
        &["127.0.0.1:0", "0.0.0.0:80", "10.0.0.7:1", "'[::]:80'"],
        &["1.2.3.4:5", ":80", "127.0.0.1", "localhost:80", "[]", "::1", "0.0.0.0:99999"],
    )
}

fn time<'a>(random: &mut Random) -> &'a str {
    random.word(&["5s", "250ms", "1.5m", "1h"], &["5", "0s", "-1s", "99999999999d", "1e3s", ".s", "1..5s", "5 s", "5\u{b5}s"])
}

fn size<'a>(random: &mut Random) -> &'a str {
    random.word(&["64KiB", "2048", "1MiB"], &["0", "1.5B", "-1", "99999999GiB", "1TiB", ".B", "1e3"])
}

fn host<'a>(random: &mut Random) -> &'a str {
    random.word(&["a.example", "'*.example'", "B.test", "'[::1]'"], &["'*'", "a:80", "http://a", "", "a..b", "'*.*.b'"])
}

fn network(random: &mut Random) -> String {
    let address = random.word(&["0.0.0.0", "10.0.0.0", "192.0.2.1", "'::'", "2001:db8::"], &["1.2.3", "", "x"]);
    if random.once_in(4) { address.to_owned() } else { format!("{}/{}", address.trim_matches('\''), random.below(40)) }
}

fn attachment<'a>(random: &mut Random) -> &'a str {
    random.word(
        &[
            "auth",
            "{plugin: auth, role: filter}",
            "{plugin: router, config: {a: [1, 2.50, ~, 'x']}, order: -1}",
            "{plugin: auth, policy: last-good}",
        ],
        &["nobody", "{plugin: auth, role: route}", "auth, auth", "{}", "[[]]", "{plugin: auth, config: {a: 1e999}}"],
    )
}

fn target<'a>(random: &mut Random) -> &'a str {
    random.word(
        &[
            "orders",
            "{service: orders, subset: gray}",
            "{plugin: router, config: {t: 1.10}}",
            "{answer: {status: 200, body: hi, headers: {x-a: b}}}",
        ],
        &[
            "nowhere",
            "{}",
            "{service: orders, plugin: router}",
            "{answer: {status: 99}}",
            "{answer: {status: 204, body: x}}",
            "{answer: {status: 200, headers: {host: x}}}",
        ],
    )
}

/// What a route does beside its plugins.
fn step<'a>(random: &mut Random) -> &'a str {
    random.word(
        &[
            "access: {sources: {deny: [10.0.0.0/8]}, headers: {allow: {x-a: {regex: 'a+'}}}}",
            "rate_limits: [{rate: 100/s, burst: 5, by: {header: x-k}}, {rate: 1/30s}]",
            "cors: {origins: ['https://a.example'], origin_patterns: ['https://[a-z]+'], credentials: true}",
            "checks: {query: {properties: {n: {type: integer}}}, body: {type: object}, answer: {types: [text/*]}}",
            "rewrite: {regex: {pattern: '/a/(.*)', to: '/{1}'}}",
            "headers: {request: {set: {x-a: '{client} {{}}'}}, response: {remove: [server]}}",
            "default_answers: [{faults: true, answer: {status: 200}}]",
            "envelope: {codes: {'503': 1}}",
            "compression: off",
            "mirror: {service: orders, share: 10%}",
        ],
        &[
            "access: {sources: {allow: []}}",
            "rate_limits: [nobody, {rate: 0/s}, {rate: 1/99d}]",
            "cors: {origins: ['*'], credentials: true}",
            "checks: {body: {$ref: 'http://a/b'}, query: [1]}",
            "rewrite: {template: '{', prefix: /a}",
            "rewrite: {regex: {pattern: '(((((', to: '/{99}'}}",
            "headers: {request: {set: {host: '{}'}}}",
            "default_answers: [{}]",
            "envelope: maybe",
            "mirror: {share: 1e9%}",
        ],
    )
}

/// Lines of a file moved, doubled, taken away and put to another depth.
fn rearranged(base: &str, random: &mut Random) -> Vec<u8> {
    let mut lines: Vec<String> = base.lines().map(str::to_owned).collect();
    for _ in 0..1 + random.below(4) {
        let (at, other) = (random.below(lines.len()), random.below(lines.len()));
        match random.below(6) {
            0 => drop(lines.drain(at..(at + 1 + random.below(4)).min(lines.len()))),
            1 => lines.swap(at, other),
            2 => {
                if let Some(line) = lines.get(at).cloned() {
                    lines.insert(other, line);
                }
            }
            3 => {
                if let Some(line) = lines.get_mut(at) {
                    line.insert_str(0, "  ");
                }
            }
            4 => {
                if let Some(line) = lines.get_mut(at) {
                    *line = line.strip_prefix("  ").unwrap_or(line).to_owned();
                }
            }
            _ => {
                // The value of another line.
                let value = lines.get(other).and_then(|line| line.split_once(": ")).map(|(_, value)| value.to_owned());
                if let (Some(line), Some(value)) = (lines.get_mut(at), value)
                    && let Some((key, _)) = line.split_once(": ")
                {
                    *line = format!("{key}: {value}");
                }
            }
        }
        if lines.is_empty() {
            break;
        }
    }
    (lines.join("\n") + "\n").into_bytes()
}
