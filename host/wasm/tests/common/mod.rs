//! What the tests of this room and its micro-bench stand on: guests built from `tests/guests`, an engine, one core.

#![allow(dead_code, reason = "each test binary uses some of it")]

use bytes::Bytes;
use std::collections::HashMap;
use std::future::Future;
use std::path::PathBuf;
use std::process::Command;
use std::rc::Rc;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use wharf_core::BoxFuture;
use wharf_core::exchange::{ExchangeId, Facts};
use wharf_core::head::{Method, RequestHead};
use wharf_core::metrics::Registry;
use wharf_core::store::{Store, StoreError};
use wharf_wasm::{Code, Digest, Engine, EngineLimits, Grants, KvGrant, Parts, Quotas, Ready, Setup, WasmCore, WasmError};

/// A guest of `tests/guests`, compiled: built once for all processes by cargo, compiled once for this one.
pub(crate) fn compiled(name: &'static str) -> Arc<Vec<u8>> {
    type Compiled = Mutex<HashMap<&'static str, Arc<Vec<u8>>>>;
    static COMPILED: OnceLock<Compiled> = OnceLock::new();
    let mut compiled = COMPILED.get_or_init(Compiled::default).lock().unwrap();
    compiled
        .entry(name)
        .or_insert_with(|| {
            let wasm = std::fs::read(built().join(format!("{name}.wasm"))).unwrap();
            Arc::new(wharf_wasm::compile(&wasm).unwrap())
        })
        .clone()
}

fn built() -> &'static PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("guests");
        let guests = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/guests");
        let done = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["build", "--release", "--locked", "--target", "wasm32-wasip2", "--target-dir"])
            .arg(&target)
            // What the outer cargo set for the host's code is not for guests.
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .current_dir(guests)
            .status()
            .unwrap();
        assert!(done.success(), "the guests do not build");
        target.join("wasm32-wasip2/release")
    })
}

/// An engine with house-wide parts.
pub(crate) struct House {
    pub(crate) parts: Parts,
    dir: tempfile::TempDir,
}

impl House {
    pub(crate) fn new(instances_max: u32) -> House {
        let engine = Engine::start(&EngineLimits { instances_max, ..EngineLimits::default() }).unwrap();
        let parts = Parts { engine, store: Arc::new(Memory::default()), metrics: Arc::new(Registry::default()) };
        House { parts, dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn code(&self, guest: &'static str) -> Code {
        let compiled = compiled(guest);
        let path = self.dir.path().join(guest);
        std::fs::write(&path, &*compiled).unwrap();
        self.parts.engine.load(&path, &sha256(&compiled)).unwrap()
    }

    pub(crate) async fn ready(&self, guest: &'static str, quotas: Quotas) -> Arc<Ready> {
        self.try_ready(guest, 1, "{}", quotas).await.unwrap()
    }

    pub(crate) async fn try_ready(&self, guest: &'static str, version: u32, config: &str, quotas: Quotas) -> Result<Arc<Ready>, WasmError> {
        self.code(guest).rehearse(&self.parts, setup(guest, version, config, quotas)).await
    }

    /// A version of a plugin that is not one of the guests here.
    pub(crate) async fn shipped(&self, name: &str, wasm: &[u8], version: u32, config: &str, quotas: Quotas) -> Arc<Ready> {
        let compiled = wharf_wasm::compile(wasm).unwrap();
        let path = self.dir.path().join(name);
        std::fs::write(&path, &compiled).unwrap();
        let code = self.parts.engine.load(&path, &sha256(&compiled)).unwrap();
        code.rehearse(&self.parts, setup(name, version, config, quotas)).await.unwrap()
    }

    pub(crate) fn core(&self) -> Rc<WasmCore> {
        WasmCore::new(self.parts.clone(), 0, Arc::new(|_, _| {}))
    }

    /// The value of a line of the metrics, 0 where there is none.
    pub(crate) fn metric(&self, line: &str) -> u64 {
        let text = self.parts.metrics.render();
        text.lines().filter_map(|have| have.strip_prefix(line)?.trim().parse::<f64>().ok()).sum::<f64>() as u64
    }
}

pub(crate) fn setup(guest: &str, version: u32, config: &str, quotas: Quotas) -> Setup {
    let kv = KvGrant { namespace: "tests".into(), bytes_max: 1 << 20, keys_max: 100 };
    Setup {
        plugin: guest.into(),
        version,
        digest: Digest([0; 32]),
        config: config.into(),
        grants: Arc::new(Grants { kv: Some(kv), http_services: vec!["users".into(), "slow".into(), "absent".into()] }),
        quotas: Arc::new(quotas),
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref().try_into().unwrap()
}

/// Quotas for tests on a machine that may be busy: only the tests of deadlines meet one.
pub(crate) fn patient() -> Quotas {
    Quotas { deadline: Duration::from_secs(20), ..Quotas::default() }
}

/// Runs on one core of the house.
pub(crate) fn on_a_core<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test)
}

/// The facts of a request for a path.
pub(crate) fn facts(path: &str) -> Facts {
    let (path, query) = match path.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (path, None),
    };
    let mut request = RequestHead::from_text(Method::Get, "shop.example", path, query);
    request.fields.add(b"x-in", b"in");
    request.fields.add(b"x-twice", b"a");
    request.fields.add(b"x-twice", b"b");
    Facts { id: ExchangeId { time: 1, serial: 2 }, request, route: "all".into(), ..Facts::default() }
}

/// A store in memory. The key `slow` is never answered, and `panic` is a bug of ours.
#[derive(Default)]
pub(crate) struct Memory(Mutex<HashMap<String, Bytes>>);

impl Memory {
    fn with<T: Send + 'static>(
        &self,
        key: &str,
        what: impl FnOnce(&mut HashMap<String, Bytes>) -> T,
    ) -> BoxFuture<'static, Result<T, StoreError>> {
        assert_ne!(key, "panic", "a fault of the host");
        if key == "slow" {
            return Box::pin(std::future::pending());
        }
        let said = what(&mut self.0.lock().unwrap());
        Box::pin(async move { Ok(said) })
    }
}

impl Store for Memory {
    fn get<'a>(&'a self, _: &'a str, key: &'a str) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>> {
        self.with(key, |map| map.get(key).cloned())
    }

    fn set<'a>(&'a self, _: &'a str, key: &'a str, value: Bytes, _: Option<Duration>) -> BoxFuture<'a, Result<(), StoreError>> {
        self.with(key, |map| drop(map.insert(key.into(), value)))
    }

    fn delete<'a>(&'a self, _: &'a str, key: &'a str) -> BoxFuture<'a, Result<bool, StoreError>> {
        self.with(key, |map| map.remove(key).is_some())
    }

    fn compare_and_set<'a>(
        &'a self,
        _: &'a str,
        key: &'a str,
        expected: Option<Bytes>,
        value: Bytes,
        _: Option<Duration>,
    ) -> BoxFuture<'a, Result<bool, StoreError>> {
        self.with(key, |map| {
            let same = map.get(key).cloned() == expected;
            if same {
                map.insert(key.into(), value);
            }
            same
        })
    }

    fn increment<'a>(&'a self, _: &'a str, key: &'a str, by: i64, _: Option<Duration>) -> BoxFuture<'a, Result<i64, StoreError>> {
        self.with(key, |map| {
            let sum = map.get(key).map_or(0, |have| String::from_utf8_lossy(have).parse().unwrap_or(0)) + by;
            map.insert(key.into(), sum.to_string().into());
            sum
        })
    }
}
