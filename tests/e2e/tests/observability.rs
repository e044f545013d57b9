//! What an operator sees of requests: records, copies of bodies, traces, and that none of it is in their way.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests stop at the first surprise, and say what they could not try"
)]

use serde_json::{Value, json};
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use wharf_e2e::otlp::{Span, collector, spans};
use wharf_e2e::swaps::greeting;
use wharf_harness::two::{self, Two};
use wharf_harness::upstream::ok;
use wharf_harness::{Act, Connection, Load, Reply, Setup, Upstream, Wharf, until};

const WAIT: Duration = Duration::from_secs(20);

fn config(upstream: &Upstream, access_log: &str, rest: &str) -> String {
    format!(
        r#"
node: {{ state_dir: "@DIR@/state" }}
admin: {{ bind: "127.0.0.1:0" }}
# One core, so that records come in the order of requests.
workers: 1
access_log: {access_log}
listeners: {{ main: {{ bind: "127.0.0.1:0", trusted_proxies: [127.0.0.1] }}, open: {{ bind: "127.0.0.1:0" }} }}
services: {{ up: {{ endpoints: ["{}"] }} }}
{rest}"#,
        upstream.address()
    )
}

const ALL: &str = "routes: [{ name: all, to: up }]\n";

fn ask(wharf: &Wharf, listener: &str, head: &str, body: &[u8]) -> Reply {
    let mut connection = Connection::open(wharf.listener(listener)).unwrap();
    let (line, fields) = head.split_once('\n').unwrap_or((head, ""));
    let fields: String = fields.lines().map(|field| format!("{field}\r\n")).collect();
    let length = if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
    connection.send(format!("{line} HTTP/1.1\r\nhost: shop.example\r\n{fields}{length}\r\n").as_bytes()).unwrap();
    connection.send(body).unwrap();
    connection.reply(line.split(' ').next().unwrap()).unwrap()
}

fn lines_of(path: &Path) -> Vec<String> {
    fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// The first `count` records of the access log, once they are there.
fn records(wharf: &Wharf, count: usize) -> Vec<Value> {
    let path = wharf.dir().join("access.log");
    let lines = until("the records are written", WAIT, || Some(lines_of(&path)).filter(|lines| lines.len() >= count));
    assert_eq!(lines.len(), count, "{lines:?}");
    lines.iter().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn lost(wharf: &Wharf, reason: &str) -> f64 {
    wharf.admin().metrics().get("wharf_access_log_lost_total", &[("reason", reason)])
}

// === records ===

#[test]
fn two_records_of_a_request_are_joined_by_the_id_that_a_trusted_proxy_gave() {
    let upstream = Upstream::sized();
    let log = "{ to: '@DIR@/access.log', records: two, headers: { request: [accept, cookie], response: [content-type] } }";
    let wharf = Wharf::start(config(&upstream, log, ALL)).unwrap();
    let head = "POST /a?token=s3cret&b=1\nx-request-id: from-outside-1\naccept: text/html\ncookie: s3cret";
    assert_eq!(ask(&wharf, "main", head, b"four").status, 200);
    assert_eq!(ask(&wharf, "open", head, b"").status, 200);
    let records = records(&wharf, 4);
    let (asked, became) = (&records[0], &records[1]);
    assert_eq!((&asked["record"], &became["record"]), (&json!("request"), &json!("response")));
    assert_eq!((&asked["ctxID"], &became["ctxID"]), (&json!("from-outside-1"), &json!("from-outside-1")));
    assert_eq!(asked["id"], became["id"]);
    assert_eq!((&asked["path"], &asked["query"], &asked["route"]), (&json!("/a"), &json!("token=***&b=1"), &json!("all")));
    assert_eq!(asked["request_headers"], json!({ "accept": "text/html", "cookie": "***" }));
    assert!(asked.get("status").is_none() && asked.get("duration_us").is_none(), "{asked}");
    assert_eq!((&became["status"], &became["bytes_in"], &became["tries"]), (&json!(200), &json!(4), &json!(1)));
    let micros = |name: &str| became[name].as_u64().unwrap_or_else(|| panic!("no {name} in {became}"));
    assert!(micros("upstream_us") > 0 && micros("upstream_us") <= micros("duration_us"), "{became}");
    assert!(became["response_headers"]["content-type"].is_string() || became.get("response_headers").is_none(), "{became}");
    // From anybody else such an id is worth nothing.
    let (asked, became) = (&records[2], &records[3]);
    assert_eq!((&asked["ctxID"], &became["ctxID"]), (&asked["id"], &asked["id"]));
    assert!(!fs::read_to_string(wharf.dir().join("access.log")).unwrap().contains("s3cret"));
}

#[test]
fn a_record_may_be_a_line_of_text_like_that_of_a_web_server() {
    let upstream = Upstream::sized();
    let wharf = Wharf::start(config(&upstream, "{ to: '@DIR@/access.log', format: text }", ALL)).unwrap();
    let head = "GET /a?sig=s3cret\nuser-agent: a \"quoted\" \\ one\nreferer: https://x.example/?code=s3cret&a=1";
    ask(&wharf, "main", head, b"");
    let path = wharf.dir().join("access.log");
    let line = until("the line is written", WAIT, || lines_of(&path).into_iter().next());
    let (before, rest) = line.split_once(" [").unwrap();
    assert_eq!(before, "127.0.0.1 - -");
    let (time, rest) = rest.split_once("] ").unwrap();
    assert!(time.ends_with(" +0000") && time.as_bytes()[2] == b'/' && time.len() == 26, "{time}");
    assert!(rest.starts_with("\"GET /a?sig=*** HTTP/1.1\" 200 "), "{rest}");
    assert!(rest.contains("\"https://x.example/?code=***&a=1\" \"a \\x22quoted\\x22 \\x5C one\""), "{rest}");
    assert!(rest.contains(&format!(" all {} 1 - ", upstream.address())), "{rest}");
}

#[test]
fn a_template_and_standard_output_beside_the_file() {
    let upstream = Upstream::sized();
    let log = "{ to: '@DIR@/access.log', stdout: true, format: text, template: '{{{method} {request.x-a} {response.x-none}}} {status}' }";
    let wharf = Wharf::start(config(&upstream, log, ALL)).unwrap();
    ask(&wharf, "main", "GET /\nx-a: b\nx-a: c", b"");
    let path = wharf.dir().join("access.log");
    let line = until("the line is written", WAIT, || lines_of(&path).into_iter().next());
    assert_eq!(line, "{GET b, c -} 200");
    // What is on standard output cannot be read here; that it goes there is seen by the thread that writes it.
    let named = fs::read_dir(format!("/proc/{}/task", wharf.pid())).unwrap();
    let names = named.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    assert_eq!(names.filter(|name| name.trim() == "access-log").count(), 2);
}

#[test]
fn of_a_share_errors_and_slow_requests_are_recorded_all_the_same() {
    let upstream = Upstream::start(|seen| {
        let said = match seen.request.target().as_str() {
            "/bad" => b"HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n".to_vec(),
            "/slow" => return vec![Act::Pause(Duration::from_millis(300)), Act::Send(ok(b"late"))],
            _ => ok(b"ok"),
        };
        vec![Act::Send(said)]
    });
    let rest = r#"
routes:
  - { name: all, to: up }
  - { name: quiet, match: { path: { prefix: /quiet } }, to: up, access_log: off }
  - { name: loud, match: { path: { prefix: /loud } }, to: up, access_log: { sample: { share: 100% } } }
"#;
    let log = "{ to: '@DIR@/access.log', sample: { share: 0%, slower_than: 200ms } }";
    let wharf = Wharf::start(config(&upstream, log, rest)).unwrap();
    for path in ["/", "/bad", "/quiet", "/slow", "/", "/loud", "/nobody"] {
        ask(&wharf, "open", &format!("GET {path}"), b"");
    }
    let records = records(&wharf, 3);
    let seen: Vec<_> = records.iter().map(|record| record["path"].as_str().unwrap()).collect();
    assert_eq!(seen, ["/bad", "/slow", "/loud"]);
    // The share is taken at once, without a restart.
    let text = config(&upstream, "{ to: '@DIR@/access.log', sample: { share: 100% } }", rest);
    wharf.write_config(&text);
    wharf.admin().post("/v1/config/reload", &Value::Null).expect();
    assert_eq!(wharf.admin().get("/v1/config").expect()["needs_restart"], json!([]));
    ask(&wharf, "open", "GET /now", b"");
    assert_eq!(self::records(&wharf, 4)[3]["path"], "/now");
}

#[test]
fn what_failed_is_recorded_and_counted_whatever_its_status() {
    let upstream = Upstream::sized();
    let rest = r#"
routes:
  - { name: all, to: up }
  - { name: broken, match: { path: { prefix: /broken } }, to: nowhere, envelope: {} }
  - { name: denied, match: { path: { prefix: /denied } }, to: up, envelope: {}, access: { sources: { deny: [127.0.0.1] } } }
"#;
    let text = config(&upstream, "{ to: '@DIR@/access.log', sample: { share: 0% } }", rest);
    let wharf = Wharf::start(text.replace("services: {", "services: { nowhere: { endpoints: ['127.0.0.1:1'] },")).unwrap();
    let counted = |route: &str, fault: &str| wharf.admin().metrics().get("wharf_http_faults_total", &[("route", route), ("fault", fault)]);
    for path in ["/", "/denied", "/broken", "/broken/again"] {
        let said = ask(&wharf, "open", &format!("GET {path}"), b"");
        assert_eq!(said.status, 200, "{path}");
    }
    // A client's own mistake is counted, and no reason to record what was not drawn.
    let records = records(&wharf, 2);
    let seen: Vec<_> = records.iter().map(|record| (record["path"].as_str().unwrap(), record["fault"].as_str().unwrap())).collect();
    assert_eq!(seen, [("/broken", "connect"), ("/broken/again", "connect")]);
    assert!((counted("broken", "connect") - 2.0).abs() < 0.1 && (counted("denied", "denied") - 1.0).abs() < 0.1);
    let text = wharf.admin().metrics().0;
    let series: Vec<_> = text.lines().filter(|line| line.starts_with("wharf_http_faults_total")).collect();
    assert_eq!(series.len(), 2, "none that has not happened: {series:?}");
}

#[test]
fn the_file_is_put_aside_when_it_has_grown_and_opened_anew_when_asked() {
    let upstream = Upstream::sized();
    let log = "{ to: '@DIR@/access.log', rotate: { size: 4KiB, keep: 3 } }";
    let wharf = Wharf::start(config(&upstream, log, ALL)).unwrap();
    Load::get(wharf.listener("main"), "a.example", "/").connections(2).count(300).run().expect_clean();
    let files = || -> Vec<PathBuf> {
        let path = wharf.dir().join("access.log");
        std::iter::once(path.clone()).chain((1..9).map(|number| PathBuf::from(format!("{}.{number}", path.display())))).collect()
    };
    until("all is written", WAIT, || (wharf.admin().metrics().get("wharf_access_log_lines_total", &[]) >= 300.0).then_some(()));
    let there: Vec<_> = files().into_iter().filter(|path| path.exists()).collect();
    assert_eq!(there.len(), 4, "{there:?}");
    for path in &there {
        let text = fs::read_to_string(path).unwrap();
        assert!(text.len() <= 4096 && text.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{}", path.display());
    }
    // Somebody else moves it, and says so.
    let moved = wharf.dir().join("moved.log");
    fs::rename(&files()[0], &moved).unwrap();
    let said = wharf.cli(&["log", "reopen", "--json"]);
    assert!(said.status.success(), "{said:?}");
    assert_eq!(serde_json::from_slice::<Value>(&said.stdout).unwrap(), json!({ "reopened": true }));
    until("there is a new file", WAIT, || files()[0].exists().then_some(()));
}

// === what must not be in the way ===

#[test]
fn a_pipe_without_a_reader_holds_up_neither_the_start_nor_a_request() {
    let upstream = Upstream::sized();
    let folder = tempfile::tempdir().unwrap();
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let begun = Instant::now();
    let wharf = Wharf::start(config(&upstream, &format!("{{ to: '{}' }}", pipe.display()), ALL)).unwrap();
    assert_eq!(ask(&wharf, "main", "GET /a", b"").status, 200);
    until("the line is counted as lost", WAIT, || (lost(&wharf, "no_reader") == 1.0).then_some(()));
    assert!(begun.elapsed() < WAIT);
    // Somebody reads.
    let mut reader = fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    wharf.until_said("access log opened anew", WAIT);
    ask(&wharf, "main", "GET /b", b"");
    let mut line = [0; 4096];
    let len = reader.read(&mut line).unwrap();
    let record: Value = serde_json::from_slice(line[..len].trim_ascii_end()).unwrap();
    assert_eq!(record["path"], "/b");
}

/// A file system of 64 KiB. `None`: this machine does not let us mount one.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path) -> Option<Disk> {
        fs::create_dir_all(at).unwrap();
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64k", "tmpfs"]).arg(at).output();
        done.is_ok_and(|done| done.status.success()).then(|| Disk(at.to_owned()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_costs_lines_and_no_request_and_lines_come_again_when_there_is_room() {
    let upstream = Upstream::sized();
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::mount(&folder.path().join("disk"));
    let target = match &disk {
        Some(Disk(path)) => path.join("access.log"),
        None => {
            println!("NOT TRIED: no file system may be mounted here; /dev/full stands in for a full disk, and none gets empty again");
            PathBuf::from("/dev/full")
        }
    };
    let wharf = Wharf::start(config(&upstream, &format!("{{ to: '{}' }}", target.display()), ALL)).unwrap();
    // 64 KiB are some two hundred lines.
    Load::get(wharf.listener("main"), "a.example", "/").connections(2).count(2000).run().expect_clean();
    until("every line is written or lost", WAIT, || {
        let metrics = wharf.admin().metrics();
        let sum = metrics.get("wharf_access_log_lines_total", &[]) + metrics.get("wharf_access_log_lost_total", &[]);
        (sum == 2000.0).then_some(())
    });
    assert!(lost(&wharf, "disk_full") > 500.0);
    wharf.until_said("access log cannot be written", WAIT);
    assert_eq!(wharf.log().matches("cannot be written").count(), 1, "{}", wharf.log());
    let Some(Disk(path)) = &disk else { return };
    // Whoever makes room does it in the file itself, as an operator in a hurry does.
    fs::write(path.join("access.log"), "").unwrap();
    ask(&wharf, "main", "GET /again", b"");
    let line = until("lines are written again", WAIT, || lines_of(&target).into_iter().find(|line| line.contains("/again")));
    assert!(serde_json::from_str::<Value>(&line).is_ok(), "{line}");
    wharf.until_said("access log is written again", WAIT);
    assert!(wharf.admin().metrics().get("wharf_access_log_lines_total", &[]) > 100.0);
}

// === copies of bodies ===

#[test]
fn the_beginning_of_bodies_is_recorded_without_secrets_and_the_stream_is_as_it_was() {
    let pieces = ["{\"user\":\"ada\",", "\"password\":\"s3cret\",", "\"list\":[1,2,3]}"];
    let upstream = Upstream::start(move |seen| match seen.request.target().as_str() {
        "/gzip" => vec![Act::Send(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\nzzzz".to_vec(),
        )],
        _ => {
            let mut acts =
                vec![Act::Send(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n".to_vec())];
            for piece in pieces {
                acts.push(Act::Send(format!("{:x}\r\n{piece}\r\n", piece.len()).into_bytes()));
            }
            acts.push(Act::Send(b"0\r\n\r\n".to_vec()));
            acts
        }
    });
    let rest = r#"
routes:
  - { name: all, to: up, capture: { request: true, response: true, bytes_max: 40B } }
  - { name: other, match: { path: { prefix: /other } }, to: up }
"#;
    let wharf = Wharf::start(config(&upstream, "{ to: '@DIR@/access.log', redact_fields: [Card-Number] }", rest)).unwrap();
    let sent = br#"{"cardNumber":"4111","note":"hello"}"#;
    let reply = ask(&wharf, "open", "POST /a\ncontent-type: application/json", sent);
    assert_eq!(reply.text(), pieces.concat());
    assert_eq!(upstream.last().body, sent);
    ask(&wharf, "open", "POST /gzip\ncontent-type: application/x-www-form-urlencoded", b"a=1&password=s3cret&code=s3cret");
    ask(&wharf, "open", "POST /b\ncontent-type: text/plain", b"not asked for");
    ask(&wharf, "open", "POST /other\ncontent-type: application/json", b"{}");
    // By HTTP/2 as well.
    let mut two = Two::open(wharf.listener("open"), &[]).unwrap();
    let fields: [(&[u8], &[u8]); 5] = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":authority", b"shop.example"),
        (b":path", b"/two"),
        (b"content-type", b"application/json"),
    ];
    two.send(&two::headers(1, false, &fields)).unwrap();
    two.send(&two::frame(two::DATA, 0, 1, b"{\"token\":")).unwrap();
    two.send(&two::frame(two::DATA, two::END, 1, b"\"s3cret\"}")).unwrap();
    let ended = two.ended(1, WAIT);
    assert!(matches!(ended, two::Ended::Answered(200, _)), "{ended:?}");

    let records = records(&wharf, 5);
    let all = pieces.concat().len();
    assert_eq!(
        records[0]["request_body"],
        json!({ "type": "application/json", "bytes": sent.len(), "text": r#"{"cardNumber":"***","note":"hello"}"# })
    );
    assert_eq!(
        records[0]["response_body"],
        json!({ "type": "application/json", "bytes": all, "text": r#"{"user":"ada","password":"***","list""#, "left_out": "rest" })
    );
    assert_eq!(records[1]["request_body"]["text"], "a=1&password=***&code=***");
    assert_eq!(records[1]["response_body"], json!({ "type": "application/json", "bytes": 4, "coding": "gzip" }));
    assert!(records[2].get("request_body").is_none(), "{}", records[2]);
    assert!(records[3].get("request_body").is_none() && records[3].get("response_body").is_none(), "{}", records[3]);
    assert_eq!(records[4]["request_body"]["text"], r#"{"token":"***"}"#);
    assert_eq!(records[4]["protocol"], "HTTP/2");
    assert!(!fs::read_to_string(wharf.dir().join("access.log")).unwrap().contains("s3cret"));
}

#[test]
fn a_copy_never_waits_for_the_end_of_a_stream_and_gives_up_where_memory_ends() {
    let upstream = Upstream::start(|_| {
        let head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n2\r\n[1\r\n".to_vec();
        vec![Act::Send(head), Act::Hang]
    });
    let rest = "routes: [{ name: all, to: up, timeouts: { whole: 60s }, capture: { response: true, bytes_max: 40KiB } }]\n";
    let log = "{ to: '@DIR@/access.log', capture_memory: 100KiB }";
    let wharf = Wharf::start(config(&upstream, log, rest)).unwrap();
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut connection = Connection::open(wharf.listener("open")).unwrap();
        connection.send(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        // The first piece comes though the last never does.
        let mut seen = Vec::new();
        while !seen.ends_with(b"[1\r\n") && !seen.ends_with(b"[1") {
            let mut piece = [0; 1024];
            let len = connection.stream.read(&mut piece).unwrap();
            assert!(len > 0, "{:?}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&piece[..len]);
        }
        open.push(connection);
    }
    assert_eq!(wharf.admin().metrics().get("wharf_capture_dropped_total", &[]), 1.0);
}

// === traces ===

fn traced(upstream: &Upstream, collector: &Upstream, share: &str, rest: &str) -> String {
    let traces = format!("traces: {{ to: 'http://{}/v1/traces', share: {share}, headers: {{ x-key: abc }} }}\n{rest}", collector.address());
    config(upstream, "{ to: '@DIR@/access.log' }", &traces)
}

/// The spans that the collector has, once there are so many.
fn arrived(collector: &Upstream, count: usize) -> Vec<Span> {
    until("the spans have arrived", WAIT, || Some(spans(collector)).filter(|spans| spans.len() >= count))
}

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[test]
fn a_trace_goes_in_and_out_with_a_span_for_the_request_its_plugin_and_its_try() {
    let (upstream, collector) = (Upstream::sized(), collector());
    let rest = "plugins: { greeting: {} }
routes: [{ name: orders, match: { path: { template: '/orders/{id}' } }, to: up, plugins: [{ plugin: greeting, role: filter }] }]\n";
    let wharf = Wharf::start(traced(&upstream, &collector, "0%", rest)).unwrap();
    wharf.admin().put_bytes("/v1/plugins/greeting", &greeting(1)).expect();
    until("the plugin serves", WAIT, || (ask(&wharf, "open", "GET /orders/1", b"").status == 200).then_some(()));
    let before = upstream.served();
    let head = format!("GET /orders/7?token=s3cret&a=b\ntraceparent: {PARENT}\ntracestate: rojo=1,congo=2\nuser-agent: me");
    assert_eq!(ask(&wharf, "open", &head, b"").status, 200);
    assert_eq!(upstream.served(), before + 1);
    let spans = arrived(&collector, 3);
    let of_kind = |kind: u64| spans.iter().filter(move |span| span.kind == kind).collect::<Vec<_>>();
    let (server, client, plugins) = (of_kind(2)[0], of_kind(3)[0], of_kind(1));

    assert!(spans.iter().all(|span| span.trace == "4bf92f3577b34da6a3ce929d0e0e4736" && span.state == "rojo=1,congo=2"), "{spans:?}");
    assert!(spans.iter().all(|span| span.resource["service.name"] == "wharf" && span.start_ns > 0 && span.end_ns >= span.start_ns));
    assert_eq!((server.name.as_str(), server.parent.as_str(), server.status), ("GET /orders/{id}", "00f067aa0ba902b7", 0));
    for (name, value) in [
        ("http.request.method", "GET"),
        ("http.route", "/orders/{id}"),
        ("http.response.status_code", "200"),
        ("url.path", "/orders/7"),
        ("url.query", "token=***&a=b"),
        ("url.scheme", "http"),
        ("server.address", "shop.example"),
        ("client.address", "127.0.0.1"),
        ("network.protocol.version", "1.1"),
        ("user_agent.original", "me"),
        ("wharf.route", "orders"),
    ] {
        assert_eq!(server.get(name), value, "{name}");
    }
    assert_eq!((client.parent.as_str(), client.name.as_str()), (server.id.as_str(), "GET"));
    assert_eq!(client.get("server.port"), upstream.address().port().to_string());
    assert_eq!((client.get("http.response.status_code"), client.get("wharf.service")), ("200", "up"));
    assert_eq!(client.get("url.full"), format!("http://{}/orders/7", upstream.address()));
    assert!(!plugins.is_empty());
    for plugin in plugins {
        assert_eq!((plugin.parent.as_str(), plugin.get("wharf.plugin.name")), (server.id.as_str(), "greeting"));
        assert_eq!(plugin.get("wharf.plugin.version"), "1");
    }
    // The upstream is a part of the try.
    let sent = upstream.last();
    assert_eq!(sent.field("traceparent").unwrap(), format!("00-{}-{}-01", server.trace, client.id));
    assert_eq!(sent.field("tracestate").unwrap(), "rojo=1,congo=2");
    let request = collector.last();
    assert_eq!(
        (request.field("content-type").as_deref(), request.field("x-key").as_deref()),
        (Some("application/x-protobuf"), Some("abc"))
    );
    // The record and the error text name the trace, too.
    let path = wharf.dir().join("access.log");
    let line = until("its record is written", WAIT, || lines_of(&path).into_iter().find(|line| line.contains("/orders/7")));
    assert_eq!(serde_json::from_str::<Value>(&line).unwrap()["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert!(!line.contains("s3cret"));
    // And so does the histogram, for who asks for exemplars.
    let mut admin = Connection::open(wharf.admin().address()).unwrap();
    let scrape = format!(
        "GET /metrics HTTP/1.1\r\nhost: {}\r\naccept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3\r\nconnection: close\r\n\r\n",
        wharf.admin().address()
    );
    admin.send(scrape.as_bytes()).unwrap();
    let reply = admin.reply("GET").unwrap();
    assert!(reply.field("content-type").unwrap().starts_with("application/openmetrics-text"), "{}", reply.start_line());
    let text = reply.text();
    assert!(text.contains("# {trace_id=\"4bf92f3577b34da6a3ce929d0e0e4736\"} ") && text.ends_with("# EOF\n"), "{text}");
    assert!(!wharf.admin().metrics().0.contains("trace_id"));
}

#[test]
fn every_try_is_a_span_of_its_own_and_says_how_it_ended() {
    let (upstream, collector) = (Upstream::sized(), collector());
    let nobody = wharf_harness::upstream::Refusing::new();
    let rest = format!(
        "{ALL}  - {{ name: two, match: {{ path: {{ prefix: /two }} }}, to: pair }}\n",
        ALL = "routes:\n  - { name: all, to: up }\n"
    );
    let text = traced(&upstream, &collector, "100%", &rest).replace(
        "services: { up:",
        &format!("services: {{ pair: {{ endpoints: ['{}', '{}'] }}, up:", nobody.address(), upstream.address()),
    );
    let wharf = Wharf::start(text).unwrap();
    // One of two is not there: sooner or later it is tried first.
    let pair = until("a call is tried twice", WAIT, || {
        assert_eq!(ask(&wharf, "open", "GET /two", b"").status, 200);
        let spans = spans(&collector);
        let first = spans.iter().find(|span| span.get("error.type") == "connect")?.clone();
        let second = spans.iter().find(|span| span.trace == first.trace && span.kind == 3 && span.id != first.id)?.clone();
        Some((first, second))
    });
    let (first, second) = pair;
    assert_eq!((first.status, second.status), (2, 0));
    assert_eq!(first.parent, second.parent);
    assert_eq!((first.get("http.request.resend_count"), second.get("http.request.resend_count")), ("", "1"));
    assert_eq!(second.get("http.response.status_code"), "200");
}

#[test]
fn what_is_not_sampled_is_passed_on_and_not_kept() {
    let (upstream, collector) = (Upstream::sized(), collector());
    let wharf = Wharf::start(traced(&upstream, &collector, "0%", ALL)).unwrap();
    ask(&wharf, "open", &format!("GET /a\ntraceparent: {}", PARENT.replace("-01", "-00")), b"");
    let sent = upstream.last().field("traceparent").unwrap();
    assert!(sent.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && sent.ends_with("-00"), "{sent}");
    // Whoever says nonsense begins anew, and loses his state.
    ask(&wharf, "open", "GET /b\ntraceparent: 00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01\ntracestate: a=1", b"");
    let request = upstream.last();
    let sent = request.field("traceparent").unwrap();
    assert!(sent.ends_with("-00") && !sent.contains("4bf92f"), "{sent}");
    assert_eq!((request.all("traceparent").len(), request.field("tracestate")), (1, None));
    ask(&wharf, "open", &format!("GET /c\ntraceparent: {PARENT}"), b"");
    let spans = arrived(&collector, 2);
    assert!(spans.iter().all(|span| span.kind == 3 || span.get("url.path") == "/c"), "{spans:?}");
}

#[test]
fn what_failed_is_an_error_in_its_trace_whatever_its_status() {
    let (upstream, collector) = (Upstream::sized(), collector());
    let rest = "routes: [{ name: all, to: nowhere, envelope: {} }]\n";
    let text = traced(&upstream, &collector, "100%", rest);
    let wharf = Wharf::start(text.replace("services: {", "services: { nowhere: { endpoints: ['127.0.0.1:1'] },")).unwrap();
    assert_eq!(ask(&wharf, "open", "GET /a", b"").status, 200);
    let spans = arrived(&collector, 2);
    let whole = spans.iter().find(|span| span.kind == 2).unwrap();
    assert_eq!((whole.get("http.response.status_code"), whole.get("error.type")), ("200", "connect"), "{spans:?}");
}

#[test]
fn without_traces_what_a_request_says_of_its_own_is_left_alone() {
    let upstream = Upstream::sized();
    let wharf = Wharf::start(config(&upstream, "{ to: '@DIR@/access.log' }", ALL)).unwrap();
    ask(&wharf, "open", &format!("GET /a\ntraceparent: {PARENT}\ntracestate: a=1"), b"");
    assert_eq!(upstream.last().field("traceparent").as_deref(), Some(PARENT));
    assert_eq!(upstream.last().field("tracestate").as_deref(), Some("a=1"));
}

#[test]
fn a_tunnel_is_a_part_of_its_trace() {
    let collector = collector();
    let upstream = Upstream::start(|_| {
        let said = b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n".to_vec();
        vec![Act::Send(said), Act::Echo]
    });
    let wharf = Wharf::start(traced(&upstream, &collector, "0%", ALL)).unwrap();
    let mut client = Connection::open(wharf.listener("open")).unwrap();
    let head = format!("GET /t HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: echo\r\ntraceparent: {PARENT}\r\n\r\n");
    client.send(head.as_bytes()).unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    client.send(b"over the tunnel").unwrap();
    let mut back = [0; 15];
    client.stream.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"over the tunnel");
    drop(client);
    let spans = arrived(&collector, 2);
    let server = spans.iter().find(|span| span.kind == 2).unwrap();
    let client = spans.iter().find(|span| span.kind == 3).unwrap();
    assert_eq!((server.get("http.response.status_code"), client.get("http.response.status_code")), ("101", "101"));
    assert_eq!(client.parent, server.id);
}

#[test]
fn a_collector_that_hangs_or_is_not_there_costs_spans_and_no_request() {
    let upstream = Upstream::sized();
    let silent = Upstream::silent();
    let text = traced(&upstream, &silent, "100%", ALL).replace("share: 100%", "share: 100%, timeout: 50ms");
    let wharf = Wharf::start(text.clone()).unwrap();
    Load::get(wharf.listener("open"), "a.example", "/").connections(4).count(4000).run().expect_clean();
    // Three tries of 50 ms, and waits of a second and two between them.
    let dropped = |reason: &str| wharf.admin().metrics().get("wharf_trace_spans_dropped_total", &[("reason", reason)]);
    until("spans are dropped", WAIT, || (dropped("collector") > 0.0 && dropped("queue_full") > 0.0).then_some(()));
    wharf.until_said("the collector does not take traces", WAIT);
    // Another collector is taken at once.
    let collector = collector();
    wharf.write_config(&text.replace(&silent.address().to_string(), &collector.address().to_string()));
    wharf.admin().post("/v1/config/reload", &Value::Null).expect();
    until("spans arrive", WAIT, || {
        ask(&wharf, "open", "GET /", b"");
        (!spans(&collector).is_empty()).then_some(())
    });
    let begun = Instant::now();
    wharf.stop(Duration::from_secs(20)).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(15));
}

#[test]
fn what_is_traced_at_the_end_is_sent_before_the_end() {
    let (upstream, collector) = (Upstream::sized(), collector());
    let wharf = Setup::new(traced(&upstream, &collector, "100%", ALL)).start().unwrap();
    for number in 0..20 {
        ask(&wharf, "open", &format!("GET /{number}"), b"");
    }
    wharf.stop(Duration::from_secs(20)).unwrap();
    let spans = spans(&collector);
    assert_eq!(spans.iter().filter(|span| span.kind == 2).count(), 20, "{}", spans.len());
    let ids: std::collections::HashSet<&str> = spans.iter().map(|span| span.trace.as_str()).collect();
    assert_eq!(ids.len(), 20);
    std::io::stdout().flush().unwrap();
}
