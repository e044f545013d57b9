//! What the admin listener promises, seen through a real loopback socket.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "this is test code: a panic is how a test tells")]

use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::{Notify, oneshot};
use wharf_centre::{Centre, CentreError, Options, Readiness, openapi};
use wharf_core::BoxFuture;
use wharf_core::desk::{Ask, Desk, DeskError, DeskErrorKind, Input, Operation, Role, Verb};
use wharf_core::metrics::Registry;

const ANY: &str = r#"{"type":"object"}"#;

/// A desk with one operation for every way a call can end.
#[derive(Default)]
struct Things {
    entered: AtomicUsize,
    changed: AtomicUsize,
    gate: Arc<Notify>,
}

const fn operation(name: &'static str, verb: Verb, path: &'static str, input: Input, changes: bool) -> Operation {
    Operation {
        name,
        verb,
        path,
        summary: "For the test.",
        role: Role::Operator,
        query: &[("tail", "How many.")],
        input,
        output: ANY,
        changes,
    }
}

impl Desk for Things {
    fn operations(&self) -> Vec<Operation> {
        vec![
            operation("thing.list", Verb::Get, "/things", Input::None, false),
            operation("thing.show", Verb::Get, "/things/{name}", Input::None, false),
            operation("thing.put", Verb::Put, "/things/{name}", Input::Json(ANY), true),
            operation("thing.push", Verb::Post, "/things/{name}/versions", Input::Bytes(64), true),
            operation("thing.wait", Verb::Post, "/wait", Input::None, true),
            operation("thing.look-long", Verb::Get, "/wait", Input::None, false),
            operation("thing.panic", Verb::Post, "/panic", Input::None, true),
        ]
    }

    fn serve<'a>(&'a self, operation: &'a str, ask: Ask) -> BoxFuture<'a, Result<bytes::Bytes, DeskError>> {
        Box::pin(async move {
            self.entered.fetch_add(1, SeqCst);
            match operation {
                "thing.wait" | "thing.look-long" => self.gate.notified().await,
                "thing.panic" => panic!("for the test"),
                _ => {}
            }
            if ask.arg("name") == Some("missing") {
                return Err(DeskError::new(DeskErrorKind::NotFound, "thing \"missing\" is not there").hint("make it first"));
            }
            if operation != "thing.list" && operation != "thing.show" {
                self.changed.fetch_add(1, SeqCst);
            }
            let args: Vec<String> = ask.args.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let answer = json!({"operation": operation, "args": args, "bytes": ask.body.len()});
            Ok(answer.to_string().into())
        })
    }
}

struct Served {
    address: SocketAddr,
    folder: TempDir,
    token: String,
    desk: Arc<Things>,
    registry: Arc<Registry>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Served {
    fn start(change: impl FnOnce(&mut Options)) -> Served {
        let folder = tempfile::tempdir().unwrap();
        let mut options = Options::new(folder.path());
        change(&mut options);
        let (desk, registry) = (Arc::new(Things::default()), Arc::new(Registry::default()));
        let token_file = options.token_file.clone();
        let centre = Centre::new(vec![desk.clone() as Arc<dyn Desk>], registry.clone(), options).unwrap();
        let token = fs::read_to_string(token_file).unwrap().trim().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(centre.serve(listener, async { stopped.await.unwrap_or(()) })).unwrap();
        });
        Served { address, folder, token, desk, registry, stop: Some(stop), thread: Some(thread) }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// Sends bytes as they are and reads until the other side closes.
    fn raw(&self, bytes: &str) -> Reply {
        let mut stream = self.connect();
        stream.write_all(bytes.as_bytes()).unwrap();
        Reply::read(&mut stream)
    }

    fn ask_with(&self, line: &str, fields: &[&str], body: &str) -> Reply {
        let mut text = format!("{line} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.address);
        for field in fields {
            text.push_str(field);
            text.push_str("\r\n");
        }
        if !body.is_empty() {
            text.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        text.push_str("\r\n");
        text.push_str(body);
        self.raw(&text)
    }

    fn ask(&self, line: &str, body: &str) -> Reply {
        self.ask_with(line, &[&self.bearer()], body)
    }

    fn bearer(&self) -> String {
        format!("Authorization: Bearer {}", self.token)
    }

    fn audit(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.folder.path().join("audit.log")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn changed(&self) -> usize {
        self.desk.changed.load(SeqCst)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !std::thread::panicking()
        {
            panic!("the centre's thread panicked");
        }
    }
}

#[derive(Debug)]
struct Reply {
    status: u16,
    head: String,
    body: String,
}

impl Reply {
    fn read(stream: &mut TcpStream) -> Reply {
        let mut bytes = Vec::new();
        if let Err(error) = stream.read_to_end(&mut bytes) {
            panic!("no end of answer: {error}; so far {:?}", String::from_utf8_lossy(&bytes));
        }
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Reply { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    #[track_caller]
    fn refused(&self, status: u16, kind: &str) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        let error = self.json()["error"].clone();
        assert_eq!(error["kind"], kind, "{self:?}");
        assert!(!error["message"].as_str().unwrap().is_empty());
        error
    }
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < end, "{what} did not happen within 10 s");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

#[test]
fn no_operation_is_reached_without_the_token() {
    let served = Served::start(|_| {});
    let lines = [
        "GET /v1/things",
        "PUT /v1/things/a",
        "POST /v1/things/a/versions",
        "POST /v1/wait",
        "GET /v1/nothing",
        "GET /v1",
        "GET /openapi.json",
    ];
    for line in lines {
        for field in ["X-None: 1", "Authorization: Bearer wrong", "Authorization: Basic d2hhcmY6", "Authorization: Bearer"] {
            let reply = served.ask_with(line, &[field], "");
            reply.refused(401, "token");
            assert!(reply.head.contains("www-authenticate: bearer"), "{line} {field}");
            assert!(!reply.body.contains(&served.token));
        }
    }
    let in_query = served.ask_with(&format!("GET /v1/things?access_token={}", served.token), &[], "");
    in_query.refused(401, "token");
    assert_eq!(served.changed(), 0);
    assert!(served.registry.render().contains("wharf_admin_turned_away_total{reason=\"token\"} 29\n"), "{}", served.registry.render());
}

#[test]
fn an_operation_gets_its_arguments_decoded_and_its_body_whole() {
    let served = Served::start(|_| {});
    let reply = served.ask("GET /v1/things/a%20b?tail=3", "");
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json(), json!({"operation": "thing.show", "args": ["name=a b", "tail=3"], "bytes": 0}));
    assert!(reply.head.contains("content-type: application/json") && reply.head.contains("cache-control: no-store"));
    let reply = served.ask("POST /v1/things/a/versions", &"x".repeat(64));
    assert_eq!(reply.json()["bytes"], 64);
    let chunked = served.ask_with(
        "POST /v1/things/a/versions",
        &[&served.bearer(), "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n"],
        "",
    );
    assert_eq!(chunked.json()["bytes"], 5, "{chunked:?}");
}

#[test]
fn a_desk_s_no_becomes_a_status_with_its_hint() {
    let served = Served::start(|_| {});
    let error = served.ask("PUT /v1/things/missing", "{}").refused(404, "not-found");
    assert_eq!(error["message"], "thing \"missing\" is not there");
    assert_eq!(error["hint"], "make it first");
}

#[test]
fn arguments_that_an_operation_does_not_know_are_refused_by_name() {
    let served = Served::start(|_| {});
    let error = served.ask("GET /v1/things?head=1", "").refused(400, "invalid");
    assert!(error["message"].as_str().unwrap().contains("\"head\"") && error["hint"].as_str().unwrap().contains("tail"));
    served.ask("GET /v1/things?tail=1&tail=2", "").refused(400, "invalid");
    served.ask("GET /v1/things/%ff", "").refused(400, "invalid");
}

#[test]
fn a_body_that_does_not_fit_its_operation_is_refused() {
    let served = Served::start(|options| options.json_bytes_max = 32);
    served.ask("POST /v1/things/a/versions", &"x".repeat(65)).refused(413, "too-large");
    let spilled = format!("Transfer-Encoding: chunked\r\n\r\n41\r\n{}\r\n0\r\n", "x".repeat(65));
    served.ask_with("POST /v1/things/a/versions", &[&served.bearer(), &spilled], "").refused(413, "too-large");
    served.ask("PUT /v1/things/a", &format!("{{\"a\":\"{}\"}}", "x".repeat(32))).refused(413, "too-large");
    let error = served.ask("PUT /v1/things/a", "{\"a\":").refused(400, "invalid");
    assert!(error["message"].as_str().unwrap().contains("line 1 column"), "{error}");
    served.ask_with("PUT /v1/things/a", &[&served.bearer(), "Content-Type: text/plain"], "{}").refused(415, "invalid");
    served.ask("GET /v1/things", "x").refused(400, "invalid");
    assert_eq!(served.changed(), 0);
    assert_eq!(served.audit().len(), 0, "what reaches no desk is no change");
}

#[test]
fn a_body_that_never_comes_is_given_up_in_time() {
    let served = Served::start(|options| options.body_ms_max = 50);
    let began = Instant::now();
    let text = format!(
        "POST /v1/things/a/versions HTTP/1.1\r\nHost: localhost\r\n{}\r\nContent-Length: 10\r\nConnection: close\r\n\r\nabc",
        served.bearer()
    );
    served.raw(&text).refused(408, "timeout");
    assert!(began.elapsed() < Duration::from_secs(10));
    assert_eq!(served.changed(), 0);
}

#[test]
fn a_head_that_never_ends_loses_its_connection() {
    let served = Served::start(|options| options.head_ms_max = 50);
    for beginning in ["GET /v1/things HT", "GET / HTTP/1.1\r\nHost: localhost\r\n", ""] {
        let mut stream = served.connect();
        stream.write_all(beginning.as_bytes()).unwrap();
        let mut rest = Vec::new();
        // Closed or reset are both an end; only waiting would not be.
        if let Err(error) = stream.read_to_end(&mut rest) {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{beginning:?}");
        }
    }
}

#[test]
fn health_and_readiness_need_no_token() {
    let state = Arc::new(Mutex::new(Readiness { ready: false, reasons: vec!["no generation yet".to_owned()] }));
    let asked = state.clone();
    let served = Served::start(|options| options.readiness = Arc::new(move || asked.lock().unwrap().clone()));
    assert_eq!(served.ask_with("GET /healthz", &[], "").status, 200);
    let reply = served.ask_with("GET /readyz", &[], "");
    assert_eq!((reply.status, reply.json()), (503, json!({"ready": false, "reasons": ["no generation yet"]})));
    *state.lock().unwrap() = Readiness { ready: true, reasons: vec![] };
    assert_eq!(served.ask_with("GET /readyz", &[], "").status, 200);
}

#[test]
fn metrics_are_open_on_loopback_until_told_otherwise() {
    let served = Served::start(|_| {});
    served.registry.count("x_total", "An x.", &[]).add(1);
    let reply = served.ask_with("GET /metrics", &[], "");
    assert_eq!(reply.status, 200);
    assert!(reply.head.contains("content-type: text/plain; version=0.0.4"));
    assert!(reply.body.contains("# TYPE x_total counter\n"), "{}", reply.body);
    let served = Served::start(|options| options.metrics_open = false);
    served.ask_with("GET /metrics", &[], "").refused(401, "token");
    assert_eq!(served.ask("GET /metrics", "").status, 200);
}

#[test]
fn a_foreign_host_or_page_reaches_nothing_even_with_the_token() {
    let served = Served::start(|_| {});
    for path in ["/v1/things", "/healthz", "/metrics", "/nothing"] {
        let text = |host: &str| format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{}\r\n\r\n", served.bearer());
        served.raw(&text("rebound.example")).refused(421, "host");
        served.raw(&text("localhost\r\nHost: localhost")).refused(400, "host");
        served.ask_with(&format!("GET {path}"), &[&served.bearer(), "Origin: http://evil.example"], "").refused(403, "origin");
    }
    let same = format!("Origin: http://{}", served.address);
    assert_eq!(served.ask_with("GET /v1/things", &[&served.bearer(), &same], "").status, 200);
    served.raw("GET /healthz HTTP/1.0\r\n\r\n").refused(400, "host");
}

#[test]
fn an_unknown_path_tells_nothing() {
    let served = Served::start(|_| {});
    for path in ["/", "/nothing", "/%761/things", "/v2/things", "/healthz/", "//v1/things", "/.git/config"] {
        let reply = served.ask_with(&format!("GET {path}"), &[], "");
        reply.refused(404, "not-found");
        assert!(!reply.body.contains("thing.") && !reply.body.contains(served.folder.path().to_str().unwrap()));
    }
    served.ask("GET /v1/nothing", "").refused(404, "not-found");
    let reply = served.ask("DELETE /v1/things", "");
    reply.refused(405, "method");
    assert!(reply.head.contains("allow: get"), "{}", reply.head);
}

#[test]
fn every_change_is_on_disk_before_and_after() {
    let served = Served::start(|_| {});
    assert_eq!(served.ask("GET /v1/things", "").status, 200);
    assert_eq!(served.ask("PUT /v1/things/a?tail=2", "{\"secret\":\"s3cret\"}").status, 200);
    served.ask("PUT /v1/things/missing", "{}").refused(404, "not-found");
    let audit = served.audit();
    assert_eq!(audit.len(), 4, "a look is no change: {audit:?}");
    let [asked, answered, _, refused] = &audit[..] else { panic!("{audit:?}") };
    assert_eq!(asked["event"], "asked");
    assert_eq!(asked["operation"], "thing.put");
    assert_eq!(asked["args"], json!({"name": "a", "tail": "2"}));
    assert_eq!(asked["body"]["bytes"], 19);
    assert_eq!(asked["body"]["sha256"].as_str().unwrap().len(), 64);
    assert!(asked["actor"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert!(asked["time"].as_str().unwrap().ends_with('Z'));
    assert_eq!(answered["event"], "answered");
    assert_eq!(answered["id"], asked["id"]);
    assert_eq!(answered["outcome"], json!({"done": true}));
    assert_eq!(refused["outcome"]["kind"], "not-found");
    let text = fs::read_to_string(served.folder.path().join("audit.log")).unwrap();
    assert!(!text.contains("s3cret") && !text.contains(&served.token), "{text}");
}

#[test]
fn a_change_that_cannot_be_written_down_is_not_done() {
    // A folder in the file's place cannot be appended to, whoever runs this test.
    let served = Served::start(|options| fs::create_dir_all(&options.audit_file).unwrap());
    let error = served.ask("PUT /v1/things/a", "{}").refused(507, "storage");
    assert!(error["hint"].as_str().unwrap().contains("node.state_dir"));
    assert_eq!(served.changed(), 0);
    assert_eq!(served.ask("GET /v1/things", "").status, 200, "looking goes on");
    let full = Path::new("/dev/full");
    if full.exists() {
        let served = Served::start(|options| options.audit_file = PathBuf::from(full));
        served.ask("PUT /v1/things/a", "{}").refused(507, "storage");
        assert_eq!(served.changed(), 0);
    }
}

#[test]
fn a_change_ends_when_its_caller_has_gone() {
    let served = Served::start(|_| {});
    let mut stream = served.connect();
    stream.write_all(format!("POST /v1/wait HTTP/1.1\r\nHost: localhost\r\n{}\r\n\r\n", served.bearer()).as_bytes()).unwrap();
    eventually("the change being asked for", || served.audit().len() == 1);
    drop(stream);
    assert_eq!(served.ask_with("GET /healthz", &[], "").status, 200);
    served.desk.gate.notify_one();
    eventually("the outcome in the audit log", || served.audit().len() == 2);
    assert_eq!(served.changed(), 1);
    assert_eq!(served.audit()[1]["outcome"], json!({"done": true}));
}

#[test]
fn an_operation_that_hangs_is_given_up_and_one_that_panics_is_told() {
    let served = Served::start(|options| options.operation_ms_max = 50);
    served.ask("POST /v1/wait", "").refused(504, "timeout");
    served.ask("POST /v1/panic", "").refused(500, "internal");
    let outcomes: Vec<Value> =
        served.audit().into_iter().filter(|line| line["event"] == "answered").map(|line| line["outcome"]["kind"].clone()).collect();
    assert_eq!(outcomes, ["timeout", "internal"]);
    assert!(served.registry.render().contains("wharf_admin_calls_total{operation=\"thing.panic\",outcome=\"refused\"} 1\n"));
}

#[test]
fn changes_in_progress_are_bounded_and_do_not_stop_looks() {
    let served = Arc::new(Served::start(|options| (options.changes_max, options.looks_max) = (2, 1)));
    let (sender, ended) = mpsc::channel();
    let mut threads = Vec::new();
    for _ in 0..2 {
        let (served, sender) = (served.clone(), sender.clone());
        threads.push(std::thread::spawn(move || sender.send(served.ask("POST /v1/wait", "").status).unwrap()));
    }
    eventually("two changes in progress", || served.audit().len() == 2);
    let reply = served.ask("POST /v1/wait", "");
    reply.refused(429, "busy");
    assert!(reply.head.contains("retry-after: 1"));
    assert_eq!(served.ask("GET /v1/things", "").status, 200);
    // `notify_one` keeps one permit when nobody waits yet, so both are let go whatever the order.
    eventually("both changes ended", || {
        served.desk.gate.notify_one();
        served.audit().len() == 4
    });
    assert_eq!((ended.recv().unwrap(), ended.recv().unwrap()), (200, 200));
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn connections_are_bounded_and_the_next_one_is_served_when_one_goes() {
    let served = Served::start(|options| options.connections_max = 1);
    let mut first = served.connect();
    first.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut byte = [0];
    first.read_exact(&mut byte).unwrap();
    let mut second = served.connect();
    second.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    second.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert!(second.read(&mut byte).is_err(), "there was no place for the second");
    drop(first);
    second.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(Reply::read(&mut second).status, 200);
}

#[test]
fn a_stop_lets_a_call_in_progress_end() {
    let mut served = Served::start(|_| {});
    let mut stream = served.connect();
    stream.write_all(format!("GET /v1/wait HTTP/1.1\r\nHost: localhost\r\n{}\r\n\r\n", served.bearer()).as_bytes()).unwrap();
    eventually("the look in progress", || served.desk.entered.load(SeqCst) == 1);
    drop(served.stop.take());
    served.desk.gate.notify_one();
    let reply = Reply::read(&mut stream);
    assert_eq!(reply.status, 200);
    assert!(reply.head.contains("connection: close"), "{}", reply.head);
}

#[test]
fn the_openapi_document_has_every_operation_and_is_the_same_every_time() {
    let served = Served::start(|_| {});
    let reply = served.ask("GET /openapi.json", "");
    let document = reply.json();
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["paths"]["/v1/things/{name}"]["put"]["operationId"], "thing.put");
    assert_eq!(
        document["paths"]["/v1/things/{name}/versions"]["post"]["requestBody"]["content"]["application/octet-stream"]["schema"]["maxLength"],
        64
    );
    let parameters = &document["paths"]["/v1/things/{name}"]["get"]["parameters"];
    assert_eq!((&parameters[0]["in"], &parameters[1]["in"]), (&json!("path"), &json!("query")));
    let desks: Vec<Arc<dyn Desk>> = vec![Arc::new(Things::default())];
    assert_eq!(openapi::document(&desks, env!("CARGO_PKG_VERSION")).unwrap(), reply.body);
}

/// A desk that offers one operation, however wrong.
struct Lone(Operation);

impl Desk for Lone {
    fn operations(&self) -> Vec<Operation> {
        vec![self.0.clone()]
    }

    fn serve<'a>(&'a self, _: &'a str, _: Ask) -> BoxFuture<'a, Result<bytes::Bytes, DeskError>> {
        Box::pin(async { Ok(bytes::Bytes::new()) })
    }
}

#[test]
fn desks_that_contradict_each_other_are_refused_at_the_start_by_name() {
    let check = |lone: Operation, why: &str| {
        let name = lone.name;
        let desks: Vec<Arc<dyn Desk>> = vec![Arc::new(Things::default()), Arc::new(Lone(lone))];
        let Err(CentreError::Operation { operation, why: said }) = openapi::document(&desks, "0") else { panic!("{name} was taken") };
        assert_eq!(operation, name);
        assert!(said.contains(why), "{said}");
    };
    check(operation("thing.list", Verb::Get, "/other", Input::None, false), "has this name");
    check(operation("other.list", Verb::Get, "/things", Input::None, false), "\"thing.list\" has the same verb and path");
    check(operation("other.show", Verb::Get, "/things/{id}", Input::None, false), "is also \"/things/{name}\"");
    check(operation("other.bad", Verb::Get, "things", Input::None, false), "is not of the form");
    check(operation("other.get", Verb::Get, "/other", Input::None, true), "a GET changes nothing");
    let mut schema = operation("other.schema", Verb::Get, "/other", Input::None, false);
    schema.output = "{";
    check(schema, "is not JSON");
}

#[test]
fn schemas_shared_by_operations_are_kept_once() {
    let mut shared = operation("other.show", Verb::Get, "/other", Input::None, false);
    shared.output = r##"{"$defs":{"Thing":{"type":"object","properties":{"next":{"$ref":"#/$defs/Thing"}}}},"type":"array","items":{"$ref":"#/$defs/Thing"}}"##;
    let desks: Vec<Arc<dyn Desk>> = vec![Arc::new(Lone(shared))];
    let document: Value = serde_json::from_str(&openapi::document(&desks, "0").unwrap()).unwrap();
    let pointer = json!({"$ref": "#/components/schemas/Thing"});
    assert_eq!(document["paths"]["/v1/other"]["get"]["responses"]["200"]["content"]["application/json"]["schema"]["items"], pointer);
    assert_eq!(document["components"]["schemas"]["Thing"]["properties"]["next"], pointer);
}
