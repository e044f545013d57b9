//! From compiled code to a version that has proved itself.
//!
//! [`Code`] is loaded and linked, knows its roles and has answered nothing yet. [`Ready`] is a version with one
//! configuration that a fresh instance has accepted; cores make their instances from it. Where versions come from, and
//! which one serves, is `catalog.rs`.

use crate::engine::{Engine, Plugin};
use crate::error::{Broken, Stop, WasmError};
use crate::guest_thread::{Ended, Moving};
use crate::instance::{Exports, Guest, Instance};
use crate::limits::{FACTS_MAX, Grants, Quotas, REHEARSAL, SCHEMA_MAX};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use wasmtime::component::{Component, InstancePre};
use wharf_core::edit::{ATTR_NAME_MAX, is_field_name};
use wharf_core::metrics::{Level, Registry};
use wharf_core::store::Store;
use wharf_wasm_bindings::types as wit;

/// Names an uploaded component: the sha-256 of its bytes. Shown in hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A question that a plugin can answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Who is it?
    Auth,
    /// Where to?
    Route,
    /// Change it.
    Filter,
    /// What instead?
    Degrade,
}

impl Role {
    /// All there are.
    pub const ALL: [Role; 4] = [Role::Auth, Role::Route, Role::Filter, Role::Degrade];

    /// The role's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Auth => "auth",
            Role::Route => "route",
            Role::Filter => "filter",
            Role::Degrade => "degrade",
        }
    }

    /// The interface that a component exports for it.
    pub fn interface(self) -> &'static str {
        match self {
            Role::Auth => "wharf:auth/auth@0.1.0",
            Role::Route => "wharf:route/route@0.1.0",
            Role::Filter => "wharf:filter/filter@0.1.0",
            Role::Degrade => "wharf:degrade/degrade@0.1.0",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// House-wide things that capabilities stand on.
#[derive(Clone)]
pub struct Parts {
    /// The engine.
    pub engine: Arc<Engine>,
    /// Where key-value lives.
    pub store: Arc<dyn Store>,
    /// Where counters live.
    pub metrics: Arc<Registry>,
}

/// One version with one configuration, as it is attached.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The plugin's name.
    pub plugin: Arc<str>,
    /// Counted up by the catalog.
    pub version: u32,
    /// What was uploaded.
    pub digest: Digest,
    /// JSON; `{}` where there is none.
    pub config: Arc<str>,
    /// What it may use.
    pub grants: Arc<Grants>,
    /// How much of it.
    pub quotas: Arc<Quotas>,
}

/// Something that an instance is handed with a question; `fact` in `wharf:types` says what each is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of `fact` in wharf:types, where they are explained")]
pub enum Fact {
    Path,
    Query,
    Authority,
    Scheme,
    Peer,
    Route,
    /// Its name, lower case.
    Header(Box<str>),
    /// Its name.
    Attr(Box<str>),
}

/// What an instance asked to be shown, in `lifecycle.configure`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// With questions about requests.
    pub request: Vec<Fact>,
    /// With questions about answers.
    pub response: Vec<Fact>,
    /// Does a filter see requests?
    pub requests: bool,
    /// Does a filter see answers?
    pub responses: bool,
}

impl Fact {
    fn check(asked: wit::Fact, half: &str) -> Result<Fact, Broken> {
        Ok(match asked {
            wit::Fact::Path => Fact::Path,
            wit::Fact::Query => Fact::Query,
            wit::Fact::Authority => Fact::Authority,
            wit::Fact::Scheme => Fact::Scheme,
            wit::Fact::Peer => Fact::Peer,
            wit::Fact::Route => Fact::Route,
            wit::Fact::Header(name) if is_field_name(name.as_bytes()) => Fact::Header(name.into()),
            wit::Fact::Header(name) => {
                return Err(Broken::Answer(format!("needs.{half} asks for field {name:?}, which is no lower-case field name")));
            }
            wit::Fact::Attr(name) if (1..=ATTR_NAME_MAX).contains(&name.len()) => Fact::Attr(name.into()),
            wit::Fact::Attr(name) => {
                let bytes = name.len();
                return Err(Broken::Answer(format!(
                    "needs.{half} asks for an attribute whose name has {bytes} bytes, and names have 1 to {ATTR_NAME_MAX}"
                )));
            }
        })
    }
}

impl Needs {
    pub(crate) fn check(said: wharf_wasm_bindings::lifecycle::Needs) -> Result<Needs, Broken> {
        use wharf_wasm_bindings::lifecycle::Phases;
        let list = |half: &str, facts: Vec<wit::Fact>| {
            if facts.len() > FACTS_MAX {
                return Err(Broken::Answer(format!("needs.{half} asks for {} facts, and at most {FACTS_MAX} are allowed", facts.len())));
            }
            facts.into_iter().map(|fact| Fact::check(fact, half)).collect::<Result<Vec<_>, _>>()
        };
        Ok(Needs {
            request: list("request", said.request)?,
            response: list("response", said.response)?,
            requests: said.phases.contains(Phases::REQUEST),
            responses: said.phases.contains(Phases::RESPONSE),
        })
    }
}

/// Loaded and linked code of one digest. Cheap to clone.
#[derive(Clone)]
pub struct Code(Arc<Loaded>);

pub(crate) struct Loaded {
    pub(crate) engine: Arc<Engine>,
    pub(crate) pre: InstancePre<Guest>,
    pub(crate) exports: Exports,
    roles: Vec<Role>,
}

impl Code {
    pub(crate) fn new(engine: &Arc<Engine>, component: Component) -> Result<Code, WasmError> {
        let exports = Exports::find(&component)?;
        let roles: Vec<Role> = Role::ALL.into_iter().filter(|&role| exports.has(role)).collect();
        if roles.is_empty() {
            return Err(WasmError::refused(
                "the component exports none of the roles auth, route, filter, degrade; build it for a world of wharf:plugin",
            ));
        }
        let linker = crate::grants::wasi_inert::complete(&engine.linker, &component)?;
        let pre = linker
            .instantiate_pre(&component)
            .map_err(|cause| WasmError::refused(format!("the component does not fit this host: {cause:#}")))?;
        Ok(Code(Arc::new(Loaded { engine: engine.clone(), pre, exports, roles })))
    }

    /// Roles that it exports.
    pub fn roles(&self) -> &[Role] {
        &self.0.roles
    }

    pub(crate) fn loaded(&self) -> &Arc<Loaded> {
        &self.0
    }

    /// Asks a fresh instance for its configuration's schema, on the guest thread. `setup` only says for whom and with
    /// which quotas; its configuration is not used.
    ///
    /// # Errors
    /// It trapped, took too long, or gave more than 64 KiB.
    pub async fn schema(&self, parts: &Parts, setup: Setup) -> Result<String, WasmError> {
        let terms = Terms::new(parts, setup.clone());
        let code = self.clone();
        let said = self
            .aside(Box::pin(async move {
                let mut instance = Instance::make(&code, &terms, None).await?;
                instance.schema().await
            }))
            .await;
        match said {
            Ok(schema) if schema.len() > SCHEMA_MAX => {
                let what = format!("a schema of {} bytes, and at most {SCHEMA_MAX} are allowed", schema.len());
                Err(Broken::Answer(what).error(&setup, "lifecycle.schema"))
            }
            Ok(schema) => Ok(schema),
            Err(broken) => Err(broken.error(&setup, "lifecycle.schema")),
        }
    }

    /// Makes a fresh instance and has it accept the configuration, within 1 s, on the guest thread.
    ///
    /// # Errors
    /// It trapped, took too long, or refused the configuration (its own words are in [`crate::ErrorKind::Refused`]).
    pub async fn rehearse(&self, parts: &Parts, setup: Setup) -> Result<Arc<Ready>, WasmError> {
        let terms = Terms::new(parts, setup.clone());
        let (code, inside) = (self.clone(), terms.clone());
        let said = self
            .aside(Box::pin(async move {
                let instance = Instance::make(&code, &inside, None).await?.configured().await?;
                Ok(instance.needs.clone())
            }))
            .await;
        let needs = said.map_err(|broken| broken.error(&setup, "lifecycle.configure"))?;
        static SERIAL: AtomicU64 = AtomicU64::new(1);
        Ok(Arc::new(Ready { setup, code: self.clone(), needs, terms, serial: SERIAL.fetch_add(1, Ordering::Relaxed) }))
    }

    async fn aside<T: Send + 'static>(&self, call: Moving<Result<T, Broken>>) -> Result<T, Broken> {
        let deadline = Instant::now() + REHEARSAL + crate::limits::GRACE;
        match self.0.engine.guest_threads.prepare(call, deadline.into()).await {
            Ok(Ended::Done(said, _)) => said,
            Ok(Ended::TooLate(_)) => Err(Broken::Stopped(Stop::Deadline)),
            Ok(Ended::Panicked(panic)) => Err(Broken::Panic(crate::error::panic_text(&*panic))),
            Err(_) => Err(Broken::Internal("the guest thread has ended".into())),
        }
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Code").field(&self.0.roles).finish()
    }
}

/// This version with this configuration has proved itself.
pub struct Ready {
    /// Which version, with what.
    pub setup: Setup,
    /// Its code.
    pub code: Code,
    /// What it asked for at its rehearsal. (Each instance asks for itself; this is what chains are built by.)
    pub needs: Needs,
    pub(crate) terms: Arc<Terms>,
    /// Unique in this process: what cores key their pools by.
    pub(crate) serial: u64,
}

impl fmt::Debug for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ready").field("setup", &self.setup).field("needs", &self.needs).finish_non_exhaustive()
    }
}

/// Under what terms instances of one version run: everything that host functions need to know about their guest.
pub(crate) struct Terms {
    pub(crate) setup: Setup,
    pub(crate) plugin: Arc<Plugin>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) metrics: Arc<Registry>,
    pub(crate) version: String,
    /// Live instances and their memory.
    pub(crate) shown: (Arc<Level>, Arc<Level>),
}

impl Terms {
    pub(crate) fn new(parts: &Parts, setup: Setup) -> Arc<Terms> {
        let plugin = parts.engine.plugin(&setup.plugin);
        let version = setup.version.to_string();
        let shown = crate::metrics::levels(&parts.metrics, &setup.plugin, &version);
        Arc::new(Terms { setup, plugin, store: parts.store.clone(), metrics: parts.metrics.clone(), version, shown })
    }
}
