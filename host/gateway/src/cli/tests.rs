//! The command line as it is typed, against an admin API of three lines.

use super::*;
use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::Path;
use std::thread::JoinHandle;

/// What a command printed, and how it ended.
#[derive(Debug)]
struct Said {
    exit: Exit,
    out: String,
    err: String,
}

fn wharf(line: &[&str]) -> Said {
    let cli = Cli::try_parse_from([&["wharf"], line].concat()).unwrap_or_else(|error| panic!("{error}"));
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let exit = execute(cli.command, &mut out, &mut err);
    Said { exit, out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap() }
}

/// Answers one request with this and returns what it was asked: the first line, the token, the body.
fn gateway(status: &'static str, body: &'static str) -> (String, JoinHandle<(String, String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let asked = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(&stream);
        let (mut first, mut token, mut length) = (String::new(), String::new(), 0);
        reader.read_line(&mut first).unwrap();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            match line.trim().split_once(": ") {
                Some((name, value)) if name.eq_ignore_ascii_case("authorization") => token = value.into(),
                Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.parse().unwrap(),
                Some(_) => {}
                None => break,
            }
        }
        let mut sent = vec![0; length];
        reader.read_exact(&mut sent).unwrap();
        write!(&stream, "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len()).unwrap();
        (first.trim().to_owned(), token, sent)
    });
    (address, asked)
}

fn token_in(folder: &Path) -> String {
    let file = folder.join("token");
    std::fs::write(&file, "secret-1\n").unwrap();
    file.display().to_string()
}

#[test]
fn every_plugin_command_asks_for_what_the_admin_api_offers() {
    let folder = tempfile::tempdir().unwrap();
    let token = token_in(folder.path());
    let wasm = folder.path().join("auth.wasm").display().to_string();
    std::fs::write(&wasm, b"\0asm-bytes").unwrap();
    for (line, asked_for, sent) in [
        (vec!["plugin", "push", "auth", &wasm], "PUT /v1/plugins/auth HTTP/1.1", &b"\0asm-bytes"[..]),
        (vec!["plugin", "push", "auth", &wasm, "--note", "a&b"], "PUT /v1/plugins/auth?note=a%26b HTTP/1.1", b"\0asm-bytes"),
        (vec!["plugin", "list"], "GET /v1/plugins HTTP/1.1", b""),
        (vec!["plugin", "versions", "auth"], "GET /v1/plugins/auth/versions HTTP/1.1", b""),
        (vec!["plugin", "activate", "auth", "3"], "POST /v1/plugins/auth/versions/3/activate HTTP/1.1", b""),
        (vec!["plugin", "rollback", "auth"], "POST /v1/plugins/auth/rollback HTTP/1.1", b""),
        (vec!["plugin", "inspect", "a/../b", "3"], "GET /v1/plugins/a%2F..%2Fb/versions/3 HTTP/1.1", b""),
        (vec!["routes"], "GET /v1/routes HTTP/1.1", b""),
        (vec!["services"], "GET /v1/services HTTP/1.1", b""),
        (vec!["config", "status"], "GET /v1/config HTTP/1.1", b""),
        (vec!["config", "reload"], "POST /v1/config/reload HTTP/1.1", b""),
    ] {
        let (address, asked) = gateway("200 OK", r#"{"plugins":[{"name":"auth","version":3,"roles":["auth"]}]}"#);
        let said = wharf(&[&line[..], &["--admin", &address, "--token-file", &token]].concat());
        assert_eq!((said.exit, said.out.as_str(), said.err.as_str()), (Exit::Done, "NAME  VERSION  ROLES\nauth  3        auth\n", ""));
        let (first, bearer, body) = asked.join().unwrap();
        assert_eq!((first.as_str(), bearer.as_str(), &body[..]), (asked_for, "Bearer secret-1", sent));
    }
}

#[test]
fn a_no_of_the_gateway_is_told_with_its_hint_and_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let token = token_in(folder.path());
    let refused = r#"{"error":{"kind":"refused","message":"component imports wharf:host/kv, which is not granted","hint":"add `plugins.auth.grants.kv: {}`"}}"#;
    let hint = "  hint: name the file of this gateway with `--token-file`\n";
    for (status, body, exit, err) in [
        (
            "422 Unprocessable",
            refused,
            Exit::Refused,
            "error: component imports wharf:host/kv, which is not granted\n  hint: add `plugins.auth.grants.kv: {}`\n".to_owned(),
        ),
        ("401 Unauthorized", "", Exit::Token, format!("error: the gateway does not accept this admin token\n{hint}")),
    ] {
        let (address, asked) = gateway(status, body);
        let said = wharf(&["plugin", "rollback", "auth", "--admin", &address, "--token-file", &token]);
        assert_eq!((said.exit, said.out.as_str(), said.err.as_str()), (exit, "", err.as_str()));
        asked.join().unwrap();
    }
    let (address, asked) = gateway("422 Unprocessable", refused);
    let said = wharf(&["plugin", "rollback", "auth", "--json", "--admin", &address, "--token-file", &token]);
    assert_eq!((said.exit, serde_json::from_str::<Value>(&said.out).unwrap()), (Exit::Refused, serde_json::from_str(refused).unwrap()));
    asked.join().unwrap();
    let (address, asked) = gateway("404 Not Found", "<html>");
    let said = wharf(&["routes", "--admin", &address, "--token-file", &token]);
    assert!(said.exit == Exit::Refused && said.err.contains("answered 404") && said.err.contains("not of a listener"), "{said:?}");
    asked.join().unwrap();
}

#[test]
fn a_gateway_that_is_not_there_and_a_token_that_is_not_there_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let token = token_in(folder.path());
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let said = wharf(&["plugin", "list", "--admin", &free, "--token-file", &token]);
    assert_eq!((said.exit, said.err.lines().next()), (Exit::Unreachable, Some(format!("error: no gateway listens on {free}").as_str())));
    let said = wharf(&["plugin", "list", "--admin", &free, "--token-file", "no/such/token"]);
    assert!(said.exit == Exit::Token && said.err.contains("no/such/token"), "{said:?}");
    let said = wharf(&["plugin", "push", "auth", "no/such.wasm", "--admin", &free, "--token-file", &token]);
    assert!(said.exit == Exit::Usage && said.err.contains("no/such.wasm"), "{said:?}");
}

#[test]
fn the_gateway_is_found_by_its_file_even_if_that_is_broken() {
    let folder = tempfile::tempdir().unwrap();
    token_in(folder.path());
    let (address, asked) = gateway("200 OK", "[]");
    let file = folder.path().join("wharf.yaml");
    std::fs::write(&file, format!("admin: {{bind: {address}, token_file: token}}\nroutes: broken\n")).unwrap();
    let said = wharf(&["plugin", "list", "--config", file.to_str().unwrap()]);
    assert_eq!((said.exit, said.out.as_str()), (Exit::Done, "none\n"));
    assert_eq!(asked.join().unwrap().1, "Bearer secret-1");
}

#[test]
fn a_gateway_that_was_never_started_is_told_from_a_token_that_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wharf.yaml");
    std::fs::write(&file, EXAMPLE).unwrap();
    let said = wharf(&["config", "status", "--config", file.to_str().unwrap()]);
    assert!(
        said.exit == Exit::Unreachable && said.err.contains("no gateway was started with") && said.err.contains("wharf run"),
        "{said:?}"
    );
}

#[test]
fn a_component_that_is_too_large_is_refused_before_it_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let token = token_in(folder.path());
    let wasm = folder.path().join("large.wasm");
    std::fs::File::create(&wasm).unwrap().set_len(wharf_wasm::COMPONENT_BYTES_MAX as u64 + 1).unwrap();
    let said = wharf(&["plugin", "push", "auth", wasm.to_str().unwrap(), "--admin", "127.0.0.1:1", "--token-file", &token]);
    assert!(said.exit == Exit::Refused && said.err.contains("67108865 bytes") && said.err.contains("at most 67108864"), "{said:?}");
}

#[test]
fn what_no_gateway_could_understand_is_wrong_use() {
    for line in [
        &["wharf", "plugin", "activate", "x", "abc"][..],
        &["wharf", "plugin", "activate", "x", "0"],
        &["wharf", "plugin", "inspect", "x", "sha256:ab"],
        &["wharf", "routes", "--admin", "foo"],
        &["wharf", "routes", "--admin", "foo:0"],
        &["wharf", "routes", "--admin", "https://foo:1"],
    ] {
        assert_eq!(Cli::try_parse_from(line).unwrap_err().exit_code(), Exit::Usage as i32, "{line:?}");
    }
    for address in ["localhost:9901", "http://127.0.0.1:9901/", "[::1]:9901"] {
        assert!(Cli::try_parse_from(["wharf", "routes", "--admin", address]).is_ok(), "{address}");
    }
}

#[test]
fn check_refuses_an_access_log_that_cannot_be_made() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wharf.yaml");
    let path = file.to_str().unwrap();
    for (to, exit) in [("none/access.log", Exit::Config), ("access.log", Exit::Done), ("wharf-state/access.log", Exit::Done)] {
        std::fs::write(&file, format!("{EXAMPLE}access_log: {{to: {to}}}\n")).unwrap();
        let said = wharf(&["check", path]);
        assert!(said.exit == exit && (exit == Exit::Done || said.err.contains("there is no folder")), "{said:?}");
    }
}

#[test]
fn a_file_that_is_no_text_says_where() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wharf.yaml");
    std::fs::write(&file, b"a: 1\nb: \xff\n").unwrap();
    let said = wharf(&["check", file.to_str().unwrap()]);
    assert!(said.err.contains("not UTF-8 from byte 8 on, in line 2") && said.err.contains("hint: save it in"), "{said:?}");
    assert!(!said.err.contains("nothing was changed"), "{said:?}");
}

#[test]
fn check_says_good_or_lists_mistakes_and_the_exit_code_says_which() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wharf.yaml");
    let path = file.to_str().unwrap();
    std::fs::write(&file, wharf(&["check", "--example"]).out).unwrap();
    let said = wharf(&["check", path]);
    assert_eq!((said.exit, said.out), (Exit::Done, format!("{path} is good: 1 listeners, 2 routes, 1 services, 0 plugins\n")));
    let said: Value = serde_json::from_str(&wharf(&["check", path, "--json"]).out).unwrap();
    assert_eq!((&said["ok"], &said["counts"]["routes"]), (&Value::Bool(true), &Value::from(2)));
    std::fs::write(&file, "listeners: {web: {bnd: 1}}\n").unwrap();
    let said = wharf(&["check", path]);
    assert!(said.exit == Exit::Config && said.err.contains("did you mean `bind`?") && said.out.is_empty(), "{said:?}");
    let said = wharf(&["check", path, "--json"]);
    let list: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((said.exit, &list["ok"], list["mistakes"].as_array().unwrap().len()), (Exit::Config, &Value::Bool(false), 1));
    let said = wharf(&["check", "no/such.yaml"]);
    assert!(said.exit == Exit::Config && said.err.starts_with("no/such.yaml: the file cannot be read: "), "{said:?}");
}

#[test]
fn check_elsewhere_takes_what_is_not_here_for_notes_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wharf.yaml");
    let path = file.to_str().unwrap();
    let text = "listeners:
  web: {bind: '192.0.2.1:${WHARF_TEST_NO_SUCH_PORT}'}
  tls: {bind: 192.0.2.1:8443, tls: {certificates: [{chain: /etc/no/such.pem, key: /etc/no/such.key}]}}
access_log: {to: /var/log/no/such/access.log}
services: {s: {endpoints: [127.0.0.1:9001]}}
plugins: {auth: {}}
routes: [{name: a, to: s, plugins: [{plugin: auth, config: {secret: '${file:no/such}'}}]}]
";
    std::fs::write(&file, text).unwrap();
    assert_eq!(wharf(&["check", path]).exit, Exit::Config);
    let said = wharf(&["check", path, "--elsewhere", "--strict"]);
    assert_eq!(said.exit, Exit::Done, "{said:?}");
    assert!(
        said.out.contains("is good, as far as that can be told elsewhere: 2 listeners, 1 routes") && said.out.contains("4 notes"),
        "{said:?}"
    );
    assert!(said.err.contains("wharf.yaml:2:15: note: there is no variable WHARF_TEST_NO_SUCH_PORT"), "{said:?}");
    let told: Value = serde_json::from_str(&wharf(&["check", path, "--elsewhere", "--json"]).out).unwrap();
    assert_eq!((&told["ok"], told["notes"].as_array().unwrap().len()), (&Value::Bool(true), 4), "{told}");
    // What is wrong anywhere is wrong there, too, and is all that is told then.
    std::fs::write(&file, text.replace("to: s,", "to: t,")).unwrap();
    let said = wharf(&["check", path, "--elsewhere"]);
    assert!(said.exit == Exit::Config && said.err.contains("1 mistake in") && !said.err.contains("no/such"), "{said:?}");
    // However many there are: a mistake is not lost among them.
    let many: String = (0..300).map(|number| format!("  n{number}: {{bind: '192.0.2.1:${{WHARF_TEST_NO_SUCH_{number}}}'}}\n")).collect();
    std::fs::write(&file, text.replace("access_log", &format!("{many}access_log"))).unwrap();
    let said = wharf(&["check", path, "--elsewhere"]);
    assert!(said.exit == Exit::Done && said.out.contains("100 notes"), "{said:?}");
    std::fs::write(&file, text.replace("access_log", &format!("{many}access_log")).replace("to: s,", "to: t,")).unwrap();
    let said = wharf(&["check", path, "--elsewhere"]);
    assert!(said.exit == Exit::Config && said.err.contains("1 mistake in"), "{said:?}");
    // A folder in the place of a file is no absence.
    std::fs::write(&file, text.replace("/etc/no/such.pem", "/etc")).unwrap();
    assert_eq!(wharf(&["check", path, "--elsewhere"]).exit, Exit::Config);
}

#[test]
fn explain_says_which_route_and_why() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wharf.yaml");
    let path = file.to_str().unwrap();
    std::fs::write(&file, EXAMPLE).unwrap();
    let explain = |more: &[&str]| wharf(&[&["explain", "--config", path], more].concat());
    let said = explain(&["http://h/orders/./1?x=1"]);
    assert!(said.exit == Exit::Done && said.out.contains("route: orders\nto: service orders\n"), "{said:?}");
    assert!(said.out.starts_with("request: GET /orders/1\nlistener: web (the only one)\n"), "{}", said.out);
    let said = explain(&["/", "--json"]);
    let said: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((&said["route"], &said["to"]), (&"welcome".into(), &"answer 200".into()));
    let said = explain(&["http://h/a/%2e%2e/..;/x"]);
    assert!(said.exit == Exit::Usage && said.err.contains("refused with 400"), "{said:?}");
    let said = explain(&["http://h?x=1#y"]);
    assert!(said.out.starts_with("request: GET /\n") || said.out.starts_with("request: GET /?x=1\n"), "{}", said.out);
    let said = explain(&["ftp://h/"]);
    assert!(said.exit == Exit::Usage && said.err.contains("no request comes in by `ftp`"), "{said:?}");
}

#[test]
fn explain_tells_the_steps_in_order_the_path_that_is_sent_and_only_the_listener_meant() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("wharf.yaml");
    let text = "\
listeners: {web: {bind: 127.0.0.1:8080}, internal: {bind: 127.0.0.1:8081, limits: {fields_max: 77}}}
services: {users: {endpoints: [127.0.0.1:9001], rate_limits: [{rate: 5/s}]}, copy: {endpoints: [127.0.0.1:9002]}}
plugins: {auth: {}}
rate_limits: {per-client: {rate: 100/s, by: client}}
defaults: {rate_limits: [per-client]}
routes:
  - name: users
    match: {path: {template: '/users/{id}'}, listeners: [internal]}
    to: users
    plugins: [{plugin: auth, role: auth}]
    access: {sources: {allow: [127.0.0.0/8]}}
    cors: {origins: ['https://a.example']}
    checks: {types: [application/json]}
    rewrite: {template: '/v2/{path.id}'}
    headers: {request: {set: {x-id: '{path.id}'}}}
    mirror: {service: copy, share: 10%}
  - {name: moved, match: {path: {prefix: /old}}, to: {redirect: {path: {prefix: /new}}}}
  - {name: rest, to: users, breaker: {errors: 50%}}
";
    std::fs::write(&file, text).unwrap();
    let explain = |more: &[&str]| {
        let said = wharf(&[&["explain", "--config", file.to_str().unwrap()], more].concat());
        assert!(said.exit == Exit::Done, "{said:?}");
        said.out
    };
    let json = |more: &[&str]| -> Value { serde_json::from_str(&explain(&[more, &["--json"]].concat())).unwrap() };

    let said = json(&["http://h:8081/users/7?x=1"]);
    assert_eq!((&said["route"], &said["path_sent"], &said["listener"]), (&json!("users"), &json!("/v2/7?x=1"), &json!("internal")));
    let steps: Vec<&str> = said["steps"].as_array().unwrap().iter().map(|step| step["step"].as_str().unwrap()).collect();
    let order = [
        "lists",
        "rate limit",
        "preflights",
        "auth plugins",
        "checks",
        "rewriting",
        "header edits",
        "copies",
        "rate limit of the service",
        "call",
        "other origins",
        "compression",
    ];
    assert_eq!(steps, order);
    let limit = &said["steps"][1];
    assert!(limit["does"].as_str().unwrap().contains("100 in 1s") && limit["from"].as_str().unwrap().ends_with("wharf.yaml:4"), "{limit}");
    let of: HashSet<&str> = said["settings"].as_array().unwrap().iter().map(|setting| setting["of"].as_str().unwrap()).collect();
    assert_eq!(of, HashSet::from(["listener internal", "route", "service"]));
    for setting in said["settings"].as_array().unwrap() {
        let value = setting["value"].to_string();
        assert!(!value.contains("; ") && !value.contains(": "), "prose in the place of a value: {setting}");
    }

    let said = explain(&["/users/7", "--listener", "internal"]);
    for line in ["listener: internal (named)", "route: users", "path sent: /v2/7"] {
        assert!(said.lines().any(|have| have == line), "{line}: {said}");
    }
    assert!(said.contains("fields_max") && said.contains("77") && !said.contains("listener web"), "{said}");
    let said = explain(&["/users/7"]);
    assert!(said.contains("listener: web (assumed: the first one") && said.contains("route: rest"), "{said}");
    assert!(said.contains("its test of the listener says no"), "{said}");
    assert_eq!(json(&["https://h/old/x?y"])["redirected_to"], "https://h/new/x?y");
    let said = wharf(&["explain", "--config", file.to_str().unwrap(), "/", "--listener", "internla"]);
    assert!(
        said.exit == Exit::Usage && said.err.contains("no listener `internla`") && said.err.contains("did you mean `internal`"),
        "{said:?}"
    );
}

#[test]
fn tables_and_lists_read_like_people_would_write_them() {
    let value = json!([
        {"name": "auth", "version": 3, "live": true, "last": null, "chain": [{"plugin": "a", "order": 1}], "note": "two\nlines"},
        {"name": "router", "version": 12, "live": false, "last": "x\u{1b}y", "chain": []},
    ]);
    let expected = "\
NAME    VERSION  LIVE  LAST
auth    3        yes   -
    chain:
      PLUGIN  ORDER
      a       1
    note:
      two
      lines
router  12       no    x\u{fffd}y
";
    // Within a row the order is that of serde_json's map, which other crates' features decide.
    let words = |text: &str| {
        let mut words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
        words.sort_unstable();
        words
    };
    let shown = show::text(&value);
    assert!(shown.starts_with("NAME    VERSION  ") && words(&shown) == words(expected), "{shown}");
    assert_eq!(show::text(&json!({"state": "ok", "tags": ["a", "b"], "more": {"x": 1}})).lines().count(), 4);
}

#[test]
fn times_read_as_times_and_digests_in_tables_by_their_first_digits() {
    let digest = "cc584c4e08ca81642e496f3c7d070a8adcaae7319a74a5640264d80310c77302";
    let one = json!({"version": 2, "digest": digest, "pushed_ms": 1_795_399_493_519_u64, "damage": null, "note": ""});
    let shown = show::text(&json!([one]));
    assert!(shown.contains("2026-11-23 02:04:53Z") && shown.contains("PUSHED") && !shown.contains("_MS"), "{shown}");
    assert!(shown.contains("cc584c4e08ca ") || shown.contains("cc584c4e08ca\n"), "{shown}");
    assert!(!shown.contains("DAMAGE") && !shown.contains("NOTE"), "a column without anything in it: {shown}");
    let shown = show::text(&json!({"plugin": "a", "digest": digest, "ms": 216.29, "wait_ms": 5, "asks_more": []}));
    assert!(shown.starts_with("plugin: a\n"), "{shown}");
    for line in [&format!("digest: {digest}"), "took: 216.29 ms", "wait: 5 ms", "asks_more: none"] {
        assert!(shown.lines().any(|have| have == line), "{line} in {shown}");
    }
}

#[test]
fn the_words_of_the_command_line_fit_together() {
    use clap::CommandFactory;
    Cli::command().debug_assert();
    assert_eq!(Cli::try_parse_from(["wharf", "serve"]).unwrap_err().exit_code(), Exit::Usage as i32);
}
