//! The promises of the catalog, kept with real components, real child processes and a real folder.

use crate::answers::Pushed;
use crate::catalog::{Catalog, CatalogParts, Push};
use crate::child::ChildLimits;
use crate::guests::{Configure, Guest, child_command};
use crate::limits::{Grants, KvGrant, Quotas};
use crate::ready::Role;
use crate::refusal::CatalogError;
use crate::wants::{Granted, Wanted, Wants};
use bytes::Bytes;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use wharf_core::BoxFuture;
use wharf_core::desk::{Ask, Desk as _, DeskErrorKind};
use wharf_core::metrics::Registry;
use wharf_core::store::{Store, StoreError};

/// A store that is never asked: these guests are only configured.
struct NoStore;

impl Store for NoStore {
    fn get<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        Box::pin(async { Err(StoreError::Unavailable("there is none".into())) })
    }
    fn set<'a>(&'a self, _: &'a str, _: &'a str, _: Bytes, _: Option<Duration>) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async { Err(StoreError::Unavailable("there is none".into())) })
    }
    fn delete<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async { Err(StoreError::Unavailable("there is none".into())) })
    }
    fn compare_and_set<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
        _: Option<Bytes>,
        _: Bytes,
        _: Option<Duration>,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async { Err(StoreError::Unavailable("there is none".into())) })
    }
    fn increment<'a>(&'a self, _: &'a str, _: &'a str, _: i64, _: Option<Duration>) -> BoxFuture<'a, Result<i64, StoreError>> {
        Box::pin(async { Err(StoreError::Unavailable("there is none".into())) })
    }
}

fn parts(dir: &Path) -> CatalogParts {
    let (exe, exe_args) = child_command();
    CatalogParts { exe_args, ..CatalogParts::new(dir.join("plugins"), exe, Arc::new(NoStore), Arc::new(Registry::default())) }
}

fn open(dir: &Path) -> Arc<Catalog> {
    Catalog::open(parts(dir)).unwrap()
}

fn wanted(plugin: &str, place: &str, role: Role, config: &str) -> Wanted {
    Wanted { plugin: plugin.into(), place: place.into(), role: Some(role), config: config.into(), last_good: false }
}

/// `auth` as the only plugin, attached once.
fn attached() -> Wants {
    Wants { granted: vec![], attachments: vec![wanted("auth", "route \"api\", auth 1", Role::Auth, "{}")] }
}

/// A catalog with `auth` attached and nothing uploaded.
async fn with_auth(dir: &Path) -> Arc<Catalog> {
    let catalog = open(dir);
    let problems = catalog.want(attached()).await;
    assert_eq!(problems.iter().map(|problem| problem.code).collect::<Vec<_>>(), ["nothing-serves"]);
    catalog
}

async fn push(catalog: &Arc<Catalog>, name: &str, guest: Guest) -> Result<Pushed, CatalogError> {
    catalog.push(name, guest.build().into(), Push::default()).await
}

async fn push_numbers(catalog: &Arc<Catalog>, numbers: std::ops::RangeInclusive<u32>) {
    for build in numbers {
        assert_eq!(push(catalog, "auth", Guest::numbered(build)).await.unwrap().version, build);
    }
}

fn serves(catalog: &Arc<Catalog>) -> Option<u32> {
    Some(catalog.ready("auth", "{}", Role::Auth)?.setup.version)
}

fn states(catalog: &Arc<Catalog>) -> Vec<(u32, &'static str)> {
    catalog.versions("auth").unwrap().iter().map(|row| (row.version, row.state)).collect()
}

fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for blob in std::fs::read_dir(dir.join("plugins/blobs")).unwrap() {
        let blob = blob.unwrap().path();
        found.extend(
            std::fs::read_dir(blob).unwrap().map(|file| file.unwrap().path()).filter(|file| file.extension().unwrap() == extension),
        );
    }
    found.sort();
    found
}

#[tokio::test]
async fn an_upload_serves_at_once_and_again_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    {
        let catalog = with_auth(dir.path()).await;
        let mut changed = catalog.changed();
        changed.mark_unchanged();
        let pushed = push(&catalog, "auth", Guest::numbered(1)).await.unwrap();
        assert_eq!((pushed.version, pushed.activated, pushed.attachments, &*pushed.roles), (1, true, 1, &["auth".to_owned()][..]));
        assert!(changed.has_changed().unwrap());
        assert_eq!(serves(&catalog), Some(1));
        assert_eq!(catalog.ready("auth", "{}", Role::Filter).map(|_| ()), None, "it answers no such question");
        assert_eq!(catalog.ready("auth", "{\"other\":1}", Role::Auth).map(|_| ()), None, "nobody wanted this");
    }
    // No compilation could end in this time: what serves was compiled before.
    let children = ChildLimits { wall_max: Duration::from_nanos(1), ..ChildLimits::default() };
    let catalog = Catalog::open(CatalogParts { children, ..parts(dir.path()) }).unwrap();
    assert!(catalog.want(attached()).await.is_empty());
    assert_eq!(serves(&catalog), Some(1));
}

#[tokio::test]
async fn the_same_bytes_again_keep_their_number_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = with_auth(dir.path()).await;
    push_numbers(&catalog, 1..=2).await;
    let mut changed = catalog.changed();
    changed.mark_unchanged();
    let again = push(&catalog, "auth", Guest::numbered(2)).await.unwrap();
    assert_eq!((again.version, again.known, again.activated), (2, true, true));
    assert!(!changed.has_changed().unwrap());
    let older = push(&catalog, "auth", Guest::numbered(1)).await.unwrap();
    assert_eq!((older.version, older.known, older.previous), (1, true, Some(2)));
    assert_eq!(serves(&catalog), Some(1));
    assert_eq!(push(&catalog, "other", Guest::numbered(1)).await.unwrap().version, 1, "another plugin may have the same bytes");
    assert_eq!(files(dir.path(), "wasm").len(), 2);
}

#[tokio::test]
async fn a_refused_upload_names_its_reason_and_the_old_version_serves_on() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = with_auth(dir.path()).await;
    push_numbers(&catalog, 1..=1).await;
    let good = || Guest { build: 2, ..Guest::default() };
    let object = r#"{"type":"object","required":["key"]}"#;
    let cases: Vec<(&str, Vec<u8>, &str, &[&str])> = vec![
        ("nothing", vec![], "not-wasm", &["empty"]),
        ("a zip archive", b"PK\x03\x04....".to_vec(), "not-wasm", &["zip"]),
        ("text", b"(component)".to_vec(), "not-wasm", &["text"]),
        ("a native file", b"\x7fELF....".to_vec(), "not-wasm", &["ELF"]),
        ("a core module", wat::parse_str("(module)").unwrap(), "core-module", &["core module"]),
        ("a component without roles", wat::parse_str("(component)").unwrap(), "no-role", &["exports nothing"]),
        (
            "half a component",
            {
                let wasm = good().build();
                wasm[..wasm.len() / 2].to_vec()
            },
            "malformed",
            &[],
        ),
        ("an unknown version", b"\0asm\x0e\0\x01\0".to_vec(), "malformed", &[]),
        (
            "the wrong role",
            Guest { roles: &["filter", "route"], ..good() }.build(),
            "wrong-role",
            &["route \"api\", auth 1", "as auth", "filter, route"],
        ),
        ("kv without grant", Guest { imports: &["kv"], ..good() }.build(), "missing-grant", &["wharf:host/kv@0.1.0"]),
        ("http without grant", Guest { imports: &["log", "http"], ..good() }.build(), "missing-grant", &["wharf:host/http@0.1.0"]),
        ("an unknown import", Guest { imports: &["unknown"], ..good() }.build(), "unknown-import", &["acme:unknown/thing@1.0.0"]),
        ("outbound WASI HTTP", Guest { imports: &["wasi-http"], ..good() }.build(), "wasi-import", &["wasi:http/outgoing-handler@0.2.0"]),
        ("a trap at start", Guest { traps_at_start: true, ..good() }.build(), "start-trap", &["auth", "lifecycle.schema"]),
        (
            "a trap in configure",
            Guest { configure: Configure::Trap, ..good() }.build(),
            "configure-trap",
            &["route \"api\", auth 1", "version 2"],
        ),
        (
            "an endless loop",
            Guest { configure: Configure::Loop, ..good() }.build(),
            "configure-deadline",
            &["1000 ms", "route \"api\", auth 1"],
        ),
        (
            "a refusal",
            Guest { configure: Configure::Refuse("key `x` is wrong"), ..good() }.build(),
            "configure-refused",
            &["key `x` is wrong"],
        ),
        ("a schema that is none", Guest { schema: "{\"type\":1}", ..good() }.build(), "schema", &["auth"]),
        ("a schema that is no JSON", Guest { schema: "hello", ..good() }.build(), "schema", &["not JSON"]),
        ("a configuration that does not fit", Guest { schema: object, ..good() }.build(), "config", &["route \"api\", auth 1", "key"]),
    ];
    let before = (states(&catalog), files(dir.path(), "wasm"), files(dir.path(), "cwasm"));
    for (case, wasm, code, told) in cases {
        let error = catalog.push("auth", wasm.into(), Push::default()).await.err().unwrap_or_else(|| panic!("{case} was taken"));
        assert_eq!(error.code(), code, "{case}: {error}");
        assert_eq!(error.kind(), DeskErrorKind::Refused, "{case}");
        assert!(error.hint().is_some(), "{case}: {error}");
        for part in told {
            assert!(error.to_string().contains(part), "{case}: {part:?} is not in {error}");
        }
        assert_eq!(serves(&catalog), Some(1), "{case}");
        assert_eq!((states(&catalog), files(dir.path(), "wasm"), files(dir.path(), "cwasm")), before, "{case}");
    }
    let hint = push(&catalog, "auth", Guest { imports: &["kv"], ..good() }).await.unwrap_err().hint().unwrap();
    assert!(hint.contains("plugins.auth.grants.kv"), "{hint}");
    assert_eq!(push(&catalog, "auth", good()).await.unwrap().version, 2, "no number was lost");
}

#[tokio::test]
async fn bad_arguments_are_refused_before_any_work() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(CatalogParts { component_bytes_max: 10_000, ..parts(dir.path()) }).unwrap();
    for name in ["", "Auth", "../auth", "a/b", "1st", "a.json", &"a".repeat(65)] {
        let error = push(&catalog, name, Guest::default()).await.unwrap_err();
        assert_eq!((error.code(), error.kind()), ("name", DeskErrorKind::Invalid), "{name:?}");
    }
    let error = catalog.push("auth", vec![0; 10_001].into(), Push::default()).await.unwrap_err();
    assert_eq!((error.code(), error.kind()), ("too-large", DeskErrorKind::TooLarge));
    assert!(error.to_string().contains("10001") && error.to_string().contains("10000"), "{error}");
    let note = Push { note: "x".repeat(2000), ..Push::default() };
    assert_eq!(catalog.push("auth", Guest::default().build().into(), note).await.unwrap_err().kind(), DeskErrorKind::Invalid);
    for error in
        [catalog.activate("auth", 1).await.unwrap_err(), catalog.rollback("auth").await.unwrap_err(), catalog.versions("auth").unwrap_err()]
    {
        assert_eq!(error.kind(), DeskErrorKind::NotFound);
    }
    let too_many = Catalog::open(CatalogParts {
        dir: dir.path().join("b"),
        children: ChildLimits { uploads_max: 1, ..ChildLimits::default() },
        ..parts(dir.path())
    })
    .unwrap();
    let (one, two) = tokio::join!(push(&too_many, "auth", Guest::numbered(1)), push(&too_many, "auth", Guest::numbered(2)));
    assert_eq!(one.unwrap().version, 1);
    assert_eq!(two.unwrap_err().kind(), DeskErrorKind::Busy);
}

#[tokio::test]
async fn what_the_configuration_grants_may_be_imported_and_more_than_before_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path());
    let kv = KvGrant { namespace: "auth".into(), bytes_max: 1 << 20, keys_max: 1000 };
    let grants = Grants { kv: Some(kv), http_services: vec!["users".into()] };
    let granted = Granted { plugin: "auth".into(), grants: grants.into(), quotas: Arc::default() };
    catalog.want(Wants { granted: vec![granted], ..attached() }).await;
    let first = push(&catalog, "auth", Guest { imports: &["log"], ..Guest::default() }).await.unwrap();
    assert_eq!(first.asks_more, Vec::<String>::new());
    let second = push(&catalog, "auth", Guest { imports: &["log", "kv", "http", "wasi-random"], ..Guest::default() }).await.unwrap();
    let mut more = second.asks_more.clone();
    more.sort();
    assert_eq!(more, ["wasi:random/random@0.2.0", "wharf:host/http@0.1.0", "wharf:host/kv@0.1.0"]);
    let inspected = catalog.inspect("auth", 2).await.unwrap();
    assert_eq!(inspected.wasi, ["wasi:random/random@0.2.0"]);
    assert!(inspected.imports.contains(&"wharf:host/kv@0.1.0".to_owned()), "{:?}", inspected.imports);
    // The grant is taken away: the new configuration is refused, naming the import, and the old one stands.
    let prepared = catalog.prepare(attached()).await;
    assert_eq!(prepared.problems.iter().map(|problem| problem.code).collect::<Vec<_>>(), ["missing-grant"]);
    drop(prepared);
    assert_eq!(serves(&catalog), Some(2));
}

#[tokio::test]
async fn a_version_can_be_stored_without_serving_and_activated_later() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = with_auth(dir.path()).await;
    push_numbers(&catalog, 1..=1).await;
    let staged = catalog.push("auth", Guest::numbered(2).build().into(), Push { activate: false, note: "next".into() }).await.unwrap();
    assert_eq!((staged.version, staged.activated), (2, false));
    assert_eq!((serves(&catalog), states(&catalog)), (Some(1), vec![(2, "stored"), (1, "serving")]));
    let activated = catalog.activate("auth", 2).await.unwrap();
    assert_eq!((activated.version, activated.previous), (2, Some(1)));
    assert_eq!((serves(&catalog), states(&catalog)), (Some(2), vec![(2, "serving"), (1, "earlier")]));
    let error = catalog.activate("auth", 7).await.unwrap_err();
    assert_eq!((error.kind(), error.hint().unwrap().as_str()), (DeskErrorKind::NotFound, "there are: 1, 2"));
    assert_eq!(catalog.versions("auth").unwrap()[0].note, "next");
}

#[tokio::test]
async fn rollback_takes_less_than_100_ms_and_goes_back_step_by_step() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = with_auth(dir.path()).await;
    push_numbers(&catalog, 1..=3).await;
    for to in [2, 1] {
        let back = catalog.rollback("auth").await.unwrap();
        assert_eq!((back.version, back.previous, serves(&catalog)), (to, Some(to + 1), Some(to)));
        assert!(back.ms < 100.0, "{} ms", back.ms);
    }
    let error = catalog.rollback("auth").await.unwrap_err();
    assert_eq!((error.code(), error.kind()), ("no-earlier", DeskErrorKind::Conflict));
    assert_eq!(serves(&catalog), Some(1));
    drop(catalog);
    let catalog = open(dir.path());
    catalog.want(attached()).await;
    assert_eq!(serves(&catalog), Some(1), "a restart does not undo a rollback");
    assert_eq!(catalog.activate("auth", 3).await.unwrap().version, 3);
}

#[tokio::test]
async fn the_last_20_versions_are_kept_and_the_disk_is_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::open(CatalogParts { versions_max: 3, ..parts(dir.path()) }).unwrap();
    catalog.want(attached()).await;
    push_numbers(&catalog, 1..=4).await;
    assert_eq!(states(&catalog), [(4, "serving"), (3, "earlier"), (2, "earlier")]);
    assert_eq!((files(dir.path(), "wasm").len(), files(dir.path(), "cwasm").len()), (3, 3));
    catalog.activate("auth", 2).await.unwrap();
    for build in 5..=8 {
        catalog.push("auth", Guest::numbered(build).build().into(), Push { activate: false, ..Push::default() }).await.unwrap();
    }
    assert_eq!(states(&catalog), [(8, "stored"), (7, "stored"), (2, "serving")], "the one that serves is never dropped");
    assert_eq!(files(dir.path(), "wasm").len(), 3);
    assert_eq!(CatalogParts::new("x".into(), "x".into(), Arc::new(NoStore), Arc::default()).versions_max, 20);
}

#[tokio::test]
async fn a_version_that_trips_gives_way_to_the_last_good_one_and_never_returns_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let told = Arc::new(Mutex::new(Vec::<String>::new()));
    let listening = told.clone();
    let metrics = Arc::new(Registry::default());
    let audit = Arc::new(move |line: &str| listening.lock().unwrap().push(line.to_owned()));
    let catalog = Catalog::open(CatalogParts { audit, metrics: metrics.clone(), ..parts(dir.path()) }).unwrap();
    let quotas = Quotas { faults_max: 3, faults_window: Duration::from_secs(3600), ..Quotas::default() };
    let granted = Granted { plugin: "auth".into(), grants: Arc::default(), quotas: quotas.into() };
    catalog.want(Wants { granted: vec![granted], ..attached() }).await;
    push_numbers(&catalog, 1..=3).await;
    let attending = catalog.clone();
    let attendant = tokio::spawn(async move { attending.attend().await });
    let mut changed = catalog.changed();
    for (bad, good) in [(3, 2), (2, 1)] {
        changed.mark_unchanged();
        catalog.fault("auth", bad);
        catalog.fault("auth", bad);
        catalog.fault("auth", 99);
        catalog.fault("nobody", 1);
        assert!(!changed.has_changed().unwrap());
        catalog.fault("auth", bad);
        changed.changed().await.unwrap();
        assert_eq!(serves(&catalog), Some(good));
        while told.lock().unwrap().len() < (4 - bad) as usize {
            tokio::task::yield_now().await;
        }
    }
    assert_eq!(states(&catalog), [(3, "faulty"), (2, "faulty"), (1, "serving")]);
    assert!(told.lock().unwrap()[0].contains("went back from version 3 to version 2 by itself: 3 faults within"), "{told:?}");
    assert!(metrics.render().contains("wharf_plugin_fallbacks_total{outcome=\"last_good\"} 2"), "{}", metrics.render());
    // The last one trips, too: it stays, marked, and the failure policy of its attachments answers.
    (0..3).for_each(|_| catalog.fault("auth", 1));
    while told.lock().unwrap().len() < 3 {
        tokio::task::yield_now().await;
    }
    assert!(told.lock().unwrap()[2].contains("no earlier good version"), "{told:?}");
    assert_eq!(serves(&catalog), Some(1));
    assert_eq!(catalog.rollback("auth").await.unwrap_err().code(), "no-earlier");
    // People may decide otherwise.
    catalog.activate("auth", 3).await.unwrap();
    assert_eq!(states(&catalog), [(3, "serving"), (2, "faulty"), (1, "faulty")]);
    attendant.abort();
}

#[tokio::test]
async fn a_damaged_compiled_form_is_made_again_from_the_component() {
    let dir = tempfile::tempdir().unwrap();
    {
        let catalog = with_auth(dir.path()).await;
        push_numbers(&catalog, 1..=2).await;
    }
    let compiled = files(dir.path(), "cwasm");
    std::fs::write(&compiled[0], b"not what we wrote").unwrap();
    std::fs::remove_file(&compiled[1]).unwrap();
    let catalog = open(dir.path());
    assert!(catalog.want(attached()).await.is_empty());
    assert_eq!(serves(&catalog), Some(2));
    catalog.rollback("auth").await.unwrap();
    assert_eq!(serves(&catalog), Some(1));
}

#[tokio::test]
async fn a_damaged_component_is_named_and_blocks_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let both = || {
        let mut wants = attached();
        wants.attachments.push(wanted("other", "route \"api\", filter 1", Role::Filter, "{}"));
        wants
    };
    {
        let catalog = open(dir.path());
        catalog.want(both()).await;
        push_numbers(&catalog, 1..=2).await;
        push(&catalog, "other", Guest { roles: &["filter"], ..Guest::default() }).await.unwrap();
    }
    let digest = crate::disk::sha256(&Guest::numbered(2).build());
    let blob = dir.path().join("plugins/blobs").join(digest.to_string());
    for file in std::fs::read_dir(&blob).unwrap() {
        std::fs::write(file.unwrap().path(), b"rust").unwrap();
    }
    let catalog = open(dir.path());
    let problems = catalog.want(both()).await;
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(
        problems[0].message.contains("version 2 of plugin \"auth\" is unusable")
            && problems[0].message.contains("version 1 serves instead"),
        "{problems:?}"
    );
    assert_eq!(serves(&catalog), Some(1), "the last good one serves");
    assert!(catalog.ready("other", "{}", Role::Filter).is_some());
    assert_eq!(states(&catalog), [(2, "unusable"), (1, "serving")]);
    let error = catalog.activate("auth", 2).await.unwrap_err();
    assert_eq!((error.code(), error.kind()), ("unusable", DeskErrorKind::Conflict));
    let mended = push(&catalog, "auth", Guest::numbered(2)).await.unwrap();
    assert_eq!((mended.version, mended.known), (2, true));
    assert_eq!(states(&catalog), [(2, "serving"), (1, "earlier")]);
}

#[tokio::test]
async fn a_damaged_index_is_told_and_the_plugin_can_be_uploaded_again() {
    let dir = tempfile::tempdir().unwrap();
    {
        let catalog = with_auth(dir.path()).await;
        push_numbers(&catalog, 1..=1).await;
        push(&catalog, "other", Guest::numbered(1)).await.unwrap();
    }
    std::fs::write(dir.path().join("plugins/index/auth.json"), b"{\"format\":1,").unwrap();
    let catalog = open(dir.path());
    let problems = catalog.want(attached()).await;
    assert_eq!((problems.len(), problems[0].code), (1, "damaged"), "{problems:?}");
    assert!(catalog.list().iter().any(|row| row.plugin == "auth" && row.damage.is_some()));
    assert!(catalog.list().iter().any(|row| row.plugin == "other" && row.damage.is_none() && row.versions == 1));
    push_numbers(&catalog, 1..=1).await;
    assert_eq!(serves(&catalog), Some(1));
    assert!(catalog.list().iter().all(|row| row.damage.is_none()));
}

#[tokio::test]
async fn what_cannot_be_written_down_is_not_done() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = with_auth(dir.path()).await;
    push_numbers(&catalog, 1..=2).await;
    // A file where a folder should be fails every write, whoever runs the tests.
    let new = dir.path().join("plugins/new");
    std::fs::remove_dir_all(&new).unwrap();
    std::fs::write(&new, b"").unwrap();
    for error in [
        push(&catalog, "auth", Guest::numbered(3)).await.unwrap_err(),
        catalog.rollback("auth").await.unwrap_err(),
        catalog.activate("auth", 1).await.unwrap_err(),
    ] {
        assert_eq!((error.code(), error.kind()), ("storage", DeskErrorKind::Storage), "{error}");
        assert!(error.hint().is_some());
    }
    assert_eq!((serves(&catalog), states(&catalog)), (Some(2), vec![(2, "serving"), (1, "earlier")]));
    std::fs::remove_file(&new).unwrap();
    std::fs::create_dir(&new).unwrap();
    push_numbers(&catalog, 3..=3).await;
    assert_eq!(serves(&catalog), Some(3));
}

#[tokio::test]
async fn an_unusable_folder_is_an_error_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), b"").unwrap();
    let error = Catalog::open(CatalogParts { dir: dir.path().join("file/plugins"), ..parts(dir.path()) }).err().unwrap();
    assert_eq!(error.kind(), DeskErrorKind::Storage);
    let _first = open(dir.path());
    let error = Catalog::open(parts(dir.path())).err().unwrap();
    assert!(error.to_string().contains("another gateway uses this folder"), "{error}");
}

#[tokio::test]
async fn one_digest_serves_with_several_configurations_and_one_that_fails_refuses_the_version() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path());
    let place = |n: u32, config| wanted("auth", &format!("route \"r{n}\""), Role::Auth, config);
    let long = r#"{"a":"long enough to be refused"}"#;
    let wants = Wants { granted: vec![], attachments: vec![place(1, "{}"), place(2, r#"{"a":1}"#), place(3, long), place(4, "{}")] };
    catalog.want(wants.clone()).await;
    push(&catalog, "auth", Guest::numbered(1)).await.unwrap();
    for config in ["{}", r#"{"a":1}"#, long] {
        assert_eq!(catalog.ready("auth", config, Role::Auth).unwrap().setup.version, 1);
    }
    assert_eq!(catalog.living().iter().map(|living| living.ready).collect::<Vec<_>>(), [3], "one for each configuration");
    let picky = Guest { configure: Configure::RefuseLongerThan(10), ..Guest::numbered(2) };
    let error = push(&catalog, "auth", picky.clone()).await.unwrap_err();
    assert!(error.to_string().contains("route \"r3\"") && error.to_string().contains("too long"), "{error}");
    let pickier = Guest { configure: Configure::RefuseLongerThan(3), ..Guest::numbered(2) };
    let error = push(&catalog, "auth", pickier).await.unwrap_err();
    assert!(error.to_string().contains("and 1 other configuration fails"), "{error}");
    assert_eq!(catalog.ready("auth", long, Role::Auth).unwrap().setup.version, 1);
    // Without that configuration the version passes; a configuration that it refuses is then a problem of its place.
    let fewer = Wants { attachments: wants.attachments[..2].to_vec(), ..wants.clone() };
    assert!(catalog.want(fewer).await.is_empty());
    assert_eq!(catalog.ready("auth", long, Role::Auth).map(|_| ()), None);
    assert_eq!(push(&catalog, "auth", picky).await.unwrap().version, 2);
    let prepared = catalog.prepare(wants.clone()).await;
    assert_eq!(
        prepared.problems.iter().map(|problem| (&*problem.place, problem.code)).collect::<Vec<_>>(),
        [("route \"r3\"", "configure-refused")]
    );
    drop(prepared);
    assert_eq!(catalog.ready("auth", "{}", Role::Auth).unwrap().setup.version, 2);
    let problems = catalog.want(wants).await;
    assert_eq!(problems.len(), 1);
    assert!(catalog.ready("auth", "{}", Role::Auth).is_some(), "the other places serve");
    assert_eq!(catalog.ready("auth", long, Role::Auth).map(|_| ()), None);
}

#[tokio::test]
async fn a_plugin_that_hangs_delays_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path());
    let mut wants = attached();
    wants.attachments.push(wanted("other", "route \"api\", auth 2", Role::Auth, "{}"));
    catalog.want(wants).await;
    // Compiled before, so that only the rehearsals differ.
    let hanging = Guest { configure: Configure::Loop, ..Guest::numbered(9) };
    let (hangs, serves) = tokio::join!(
        async {
            let error = push(&catalog, "auth", hanging).await.unwrap_err();
            (error, std::time::Instant::now())
        },
        async {
            let pushed = push(&catalog, "other", Guest::numbered(1)).await;
            (pushed, std::time::Instant::now())
        }
    );
    assert_eq!(hangs.0.code(), "configure-deadline");
    assert!(serves.0.unwrap().activated);
    assert!(serves.1 < hangs.1, "the good one did not wait for the bad one");
}

#[tokio::test]
async fn racing_uploads_of_one_plugin_get_numbers_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = with_auth(dir.path()).await;
    let racing = (1..=5).map(|build| push(&catalog, "auth", Guest::numbered(build)));
    let mut versions: Vec<_> = futures_util::future::join_all(racing).await.into_iter().map(|pushed| pushed.unwrap().version).collect();
    versions.sort();
    assert_eq!(versions, [1, 2, 3, 4, 5]);
    let serving = serves(&catalog).unwrap();
    drop(catalog);
    let catalog = open(dir.path());
    catalog.want(attached()).await;
    assert_eq!(serves(&catalog), Some(serving), "memory and disk agree");
}

#[tokio::test]
async fn an_upload_that_is_given_up_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = with_auth(dir.path()).await;
    push_numbers(&catalog, 1..=1).await;
    let mut changed = catalog.changed();
    changed.mark_unchanged();
    {
        let mut given_up = Box::pin(push(&catalog, "auth", Guest::numbered(2)));
        // As far as the child process, which takes much longer than this.
        while files(dir.path(), "wasm").len() < 2 {
            let polled = futures_util::future::select(&mut given_up, Box::pin(tokio::task::yield_now())).await;
            assert!(matches!(polled, futures_util::future::Either::Right(_)), "it ended already");
        }
    }
    assert!(!changed.has_changed().unwrap());
    assert_eq!((serves(&catalog), files(dir.path(), "wasm").len()), (Some(1), 1));
    push_numbers(&catalog, 2..=2).await;
}

#[tokio::test]
async fn an_old_version_is_drained_when_its_last_holder_leaves() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = with_auth(dir.path()).await;
    push_numbers(&catalog, 1..=1).await;
    let generation = catalog.ready("auth", "{}", Role::Auth).unwrap();
    push_numbers(&catalog, 2..=3).await;
    let living: Vec<_> = catalog.living().iter().map(|living| (living.version, living.state)).collect();
    assert_eq!(living, [(1, "draining"), (3, "serving")], "nobody held version 2");
    assert_eq!(generation.setup.version, 1, "who holds it keeps it");
    drop(generation);
    let living: Vec<_> = catalog.living().iter().map(|living| (living.version, living.state)).collect();
    assert_eq!(living, [(3, "serving")]);
}

#[tokio::test]
async fn compilations_that_take_too_much_are_refused_with_their_limit() {
    let dir = tempfile::tempdir().unwrap();
    let children = ChildLimits { wall_max: Duration::from_micros(1), ..ChildLimits::default() };
    let catalog = Catalog::open(CatalogParts { children, ..parts(dir.path()) }).unwrap();
    let error = push(&catalog, "auth", Guest::default()).await.unwrap_err();
    assert_eq!((error.code(), error.kind()), ("compile-timeout", DeskErrorKind::Refused));
    assert!(error.hint().unwrap().contains("limits of compilation"));
    assert!(files(dir.path(), "wasm").is_empty());
    assert!(catalog.list().is_empty());
}

async fn ask(
    catalog: &Arc<Catalog>,
    operation: &str,
    args: &[(&str, &str)],
    body: Vec<u8>,
) -> Result<serde_json::Value, wharf_core::desk::DeskError> {
    let args = args.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let answer = catalog.serve(operation, Ask { args, body: body.into() }).await?;
    Ok(serde_json::from_slice(&answer).unwrap())
}

#[tokio::test]
async fn the_desk_answers_json_that_fits_its_schemas() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = with_auth(dir.path()).await;
    let schema = Guest { schema: r#"{"type":"object"}"#, ..Guest::numbered(2) };
    let asked = [
        ("plugin.push", vec![("name", "auth"), ("note", "first")], Guest::numbered(1).build()),
        ("plugin.push", vec![("name", "auth"), ("activate", "false")], schema.build()),
        ("plugin.activate", vec![("name", "auth"), ("version", "2")], vec![]),
        ("plugin.rollback", vec![("name", "auth")], vec![]),
        ("plugin.list", vec![], vec![]),
        ("plugin.versions", vec![("name", "auth")], vec![]),
        ("plugin.inspect", vec![("name", "auth"), ("version", "2")], vec![]),
    ];
    let operations = catalog.operations();
    for (operation, args, body) in asked {
        let answer = ask(&catalog, operation, &args, body).await.unwrap_or_else(|error| panic!("{operation}: {error}"));
        let output = operations.iter().find(|known| known.name == operation).unwrap().output;
        let validator = jsonschema::validator_for(&serde_json::from_str(output).unwrap()).unwrap();
        assert!(
            validator.is_valid(&answer),
            "{operation}: {answer}: {:?}",
            validator.iter_errors(&answer).map(|e| e.to_string()).collect::<Vec<_>>()
        );
    }
    let inspected = ask(&catalog, "plugin.inspect", &[("name", "auth"), ("version", "2")], vec![]).await.unwrap();
    assert_eq!(inspected["schema"]["type"], "object");
    assert_eq!(inspected["state"], "stored");
    for (operation, args, kind) in [
        ("plugin.activate", vec![("name", "auth"), ("version", "two")], DeskErrorKind::Invalid),
        ("plugin.push", vec![("name", "auth"), ("activate", "maybe")], DeskErrorKind::Invalid),
        ("plugin.push", vec![], DeskErrorKind::Invalid),
        ("plugin.rollback", vec![("name", "nobody")], DeskErrorKind::NotFound),
        ("plugin.inspect", vec![("name", "auth"), ("version", "9")], DeskErrorKind::NotFound),
        ("plugin.nothing", vec![], DeskErrorKind::NotFound),
    ] {
        assert_eq!(ask(&catalog, operation, &args, vec![]).await.unwrap_err().kind, kind, "{operation}");
    }
}

#[tokio::test]
async fn a_catalog_without_attachments_makes_no_engine() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path());
    assert!(catalog.want(Wants::default()).await.is_empty());
    assert!(!catalog.has_engine());
    push(&catalog, "auth", Guest::default()).await.unwrap();
    assert!(!catalog.has_engine(), "an upload that is attached nowhere leaves none behind");
}

#[tokio::test]
async fn the_last_good_version_stays_ready_for_those_who_ask_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let wants = || {
        let mut wants = attached();
        wants.attachments[0].last_good = true;
        wants
    };
    let catalog = open(dir.path());
    catalog.want(wants()).await;
    let last_good = |catalog: &Arc<Catalog>| catalog.last_good("auth", "{}").map(|ready| ready.setup.version);
    push_numbers(&catalog, 1..=1).await;
    assert_eq!(last_good(&catalog), None);
    push_numbers(&catalog, 2..=3).await;
    assert_eq!((serves(&catalog), last_good(&catalog)), (Some(3), Some(2)));
    let living: Vec<_> = catalog.living().iter().map(|living| (living.version, living.state)).collect();
    assert_eq!(living, [(2, "last-good"), (3, "serving")]);
    catalog.rollback("auth").await.unwrap();
    assert_eq!((serves(&catalog), last_good(&catalog)), (Some(2), Some(1)));
    drop(catalog);
    let catalog = open(dir.path());
    catalog.want(wants()).await;
    assert_eq!((serves(&catalog), last_good(&catalog)), (Some(2), Some(1)));
    catalog.want(attached()).await;
    assert_eq!(last_good(&catalog), None, "nobody asks for it any more");
}

#[tokio::test]
async fn an_attachment_in_all_roles_loses_none_by_an_upload() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path());
    let mut wants = attached();
    wants.attachments[0].role = None;
    catalog.want(wants).await;
    push(&catalog, "auth", Guest { roles: &["auth", "filter"], ..Guest::numbered(1) }).await.unwrap();
    let error = push(&catalog, "auth", Guest { roles: &["filter"], ..Guest::numbered(2) }).await.unwrap_err();
    assert_eq!(error.code(), "wrong-role");
    assert!(error.to_string().contains("as auth"), "{error}");
    assert!(catalog.ready("auth", "{}", Role::Auth).is_some());
    assert_eq!(push(&catalog, "auth", Guest { roles: &["auth", "filter", "degrade"], ..Guest::numbered(2) }).await.unwrap().version, 2);
    let only_route = push(&catalog, "route", Guest { roles: &["route"], ..Guest::numbered(3) }).await.unwrap();
    assert_eq!(only_route.roles, ["route"], "attached nowhere: nothing is asked of it");
}

#[tokio::test]
async fn a_new_configuration_keeps_what_is_ready_and_rehearses_what_changed() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = with_auth(dir.path()).await;
    push_numbers(&catalog, 1..=1).await;
    let before = catalog.ready("auth", "{}", Role::Auth).unwrap();
    let mut wants = attached();
    wants.attachments.push(wanted("auth", "route \"more\", auth 1", Role::Auth, r#"{"a":1}"#));
    assert!(catalog.want(wants.clone()).await.is_empty());
    let after = catalog.ready("auth", "{}", Role::Auth).unwrap();
    assert!(Arc::ptr_eq(&before, &after), "the cores keep their warm instances");
    assert!(catalog.ready("auth", r#"{"a":1}"#, Role::Auth).is_some());
    let quotas = Quotas { deadline: Duration::from_millis(7), ..Quotas::default() };
    wants.granted.push(Granted { plugin: "auth".into(), grants: Arc::default(), quotas: quotas.into() });
    assert!(catalog.want(wants).await.is_empty());
    let tightened = catalog.ready("auth", "{}", Role::Auth).unwrap();
    assert_eq!(tightened.setup.quotas.deadline, Duration::from_millis(7));
    assert!(catalog.want(Wants::default()).await.is_empty());
    assert!(catalog.ready("auth", "{}", Role::Auth).is_none(), "attached nowhere");
}

#[tokio::test]
async fn an_upload_that_is_given_up_while_it_is_stored_is_stored_whole() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = with_auth(dir.path()).await;
    push_numbers(&catalog, 1..=1).await;
    let index = dir.path().join("plugins/index/auth.json");
    for build in 2..=6 {
        let before = std::fs::read(&index).unwrap();
        let mut given_up = Box::pin(push(&catalog, "auth", Guest::numbered(build)));
        while std::fs::read(&index).unwrap() == before {
            let polled = futures_util::future::select(&mut given_up, Box::pin(tokio::task::yield_now())).await;
            if matches!(polled, futures_util::future::Either::Left(_)) {
                break;
            }
        }
        drop(given_up);
        // Changes of one plugin are made in turn, so this one comes after what was begun.
        let _ = catalog.activate("auth", 999).await;
        assert_eq!(serves(&catalog), Some(build));
        assert_eq!(catalog.inspect("auth", build).await.unwrap().row.damage, None, "its component is there");
    }
}

#[tokio::test]
async fn a_bad_version_gives_way_even_if_that_cannot_be_written_down() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = open(dir.path());
    let quotas = Quotas { faults_max: 1, ..Quotas::default() };
    let granted = Granted { plugin: "auth".into(), grants: Arc::default(), quotas: quotas.into() };
    catalog.want(Wants { granted: vec![granted], ..attached() }).await;
    push_numbers(&catalog, 1..=2).await;
    std::fs::remove_dir_all(dir.path().join("plugins/new")).unwrap();
    std::fs::write(dir.path().join("plugins/new"), b"").unwrap();
    let mut changed = catalog.changed();
    changed.mark_unchanged();
    let attending = catalog.clone();
    let attendant = tokio::spawn(async move { attending.attend().await });
    catalog.fault("auth", 2);
    changed.changed().await.unwrap();
    assert_eq!(serves(&catalog), Some(1));
    attendant.abort();
}
