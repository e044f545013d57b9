//! What can go wrong with a plugin, told once: for the operator who uploads ([`WasmError`]) and for the exchange that
//! asked ([`Fault`]).

use crate::limits::COPY_MAX;
use crate::ready::Setup;
use std::fmt;
use wharf_core::fault::{Fault, FaultKind, Phase};

/// Why a guest was stopped by us. Carried through the engine as the error of the call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Stop {
    #[error("its deadline has passed")]
    Deadline,
    #[error("it asked for more linear memory than it may have")]
    Memory,
    #[error("it asked for a larger table than it may have")]
    Table,
    #[error("it made more host calls than it may")]
    HostCalls,
    #[error("it called {0:?}, which this host links but does not serve")]
    Import(String),
    #[error("it called wharf:host/exchange while there was no exchange")]
    NoExchange,
    #[error("it called {0:?}, which it is not granted")]
    NotGranted(&'static str),
    #[error("it asked for {0} random bytes, and at most 4096 are given at once")]
    Random(u32),
}

/// How a question to a guest failed.
#[derive(Debug)]
pub(crate) enum Broken {
    /// We stopped it.
    Stopped(Stop),
    /// It trapped.
    Trap(Trapped),
    /// It passed more bytes at once than are copied.
    TooMuch,
    /// Its answer breaks the contract.
    Answer(String),
    /// It refused its configuration.
    Refused(String),
    /// No room for an instance: the limit's name.
    NoRoom(&'static str),
    /// A fault of ours.
    Panic(String),
    /// The engine failed.
    Internal(String),
}

/// A trap, as far as it is known.
#[derive(Debug)]
pub(crate) struct Trapped {
    /// Its bounded word.
    word: &'static str,
    /// What the engine calls it.
    cause: String,
    /// Where: for who has the plugin's sources.
    trace: String,
    /// What it wrote to standard error before: a panic's own words.
    pub(crate) last_words: String,
}

impl Trapped {
    fn told(word: &'static str, error: &wasmtime::Error) -> Broken {
        Broken::Trap(Trapped { word, cause: error.root_cause().to_string(), trace: format!("{error:?}"), last_words: String::new() })
    }
}

impl From<wasmtime::Error> for Broken {
    fn from(error: wasmtime::Error) -> Broken {
        if let Some(stop) = error.downcast_ref::<Stop>() {
            return Broken::Stopped(stop.clone());
        }
        if let Some(trap) = error.downcast_ref::<wasmtime::Trap>() {
            use wasmtime::Trap;
            let word = match trap {
                Trap::StackOverflow => "stack_overflow",
                Trap::MemoryOutOfBounds | Trap::HeapMisaligned => "out_of_bounds",
                Trap::TableOutOfBounds | Trap::IndirectCallToNull | Trap::BadSignature => "table",
                Trap::UnreachableCodeReached => "unreachable",
                Trap::IntegerOverflow | Trap::IntegerDivisionByZero | Trap::BadConversionToInteger => "arithmetic",
                _ => "other",
            };
            return Trapped::told(word, &error);
        }
        // The engine keeps the type of this error to itself; its text is the only sign.
        if error.chain().any(|cause| cause.to_string().starts_with("too much data is being copied")) {
            return Broken::TooMuch;
        }
        Trapped::told("abi", &error)
    }
}

impl Broken {
    /// A bounded word for metrics.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Broken::Stopped(stop) => match stop {
                Stop::Deadline => "deadline",
                Stop::Memory => "memory",
                Stop::Table => "table_growth",
                Stop::HostCalls => "host_calls",
                Stop::Import(_) => "import",
                Stop::NoExchange => "no_exchange",
                Stop::NotGranted(_) => "not_granted",
                Stop::Random(_) => "random",
            },
            Broken::Trap(trapped) => trapped.word,
            Broken::TooMuch => "too_large",
            Broken::Answer(_) => "answer",
            Broken::Refused(_) => "refused",
            Broken::NoRoom(limit) => limit,
            Broken::Panic(_) => "panic",
            Broken::Internal(_) => "internal",
        }
    }

    /// Is the plugin to blame, so that it counts against its version?
    pub(crate) fn is_plugins(&self) -> bool {
        !matches!(self, Broken::NoRoom(_) | Broken::Panic(_) | Broken::Internal(_))
    }

    /// In one line, with the limit and the remedy where there is one.
    pub(crate) fn describe(&self, setup: &Setup) -> String {
        let Setup { plugin, version, quotas, .. } = setup;
        let who = format!("plugin {plugin:?} version {version}");
        let setting = |name: &str| format!("`plugins.{plugin}.limits.{name}`");
        match self {
            Broken::Stopped(Stop::Deadline) => format!(
                "{who} was stopped: its deadline of {} ms has passed (host calls count); raise {} or shorten the rule",
                quotas.deadline.as_millis(),
                setting("deadline")
            ),
            Broken::Stopped(Stop::Memory) => format!(
                "{who} was stopped: it asked for more than {} bytes of memory; raise {} or mend the plugin",
                quotas.memory_bytes_max,
                setting("memory_bytes_max")
            ),
            Broken::Stopped(Stop::HostCalls) => format!(
                "{who} was stopped: it made more than {} host calls for one question; raise {} or mend the plugin",
                quotas.host_calls_max,
                setting("host_calls_max")
            ),
            Broken::Stopped(stop) => format!("{who} was stopped: {stop}"),
            Broken::Trap(Trapped { cause, last_words, .. }) if last_words.is_empty() => format!("{who} trapped: {cause}"),
            Broken::Trap(Trapped { cause, last_words, .. }) => format!("{who} trapped: {cause}; its last words: {last_words}"),
            Broken::TooMuch => format!("{who} was stopped: it passed more than {COPY_MAX} bytes in one answer or host call"),
            Broken::Answer(what) => format!("{who} gave an answer that breaks the contract: {what}"),
            Broken::Refused(why) => format!("{who} refuses its configuration: {why}"),
            Broken::NoRoom("instances") => {
                format!("{who} has {} live instances, and no more are allowed; shorten its waits", quotas.instances_max)
            }
            Broken::NoRoom("concurrency") => format!(
                "{who} has {} questions waiting, and no more are allowed; raise {} or shorten its waits",
                quotas.concurrency_max,
                setting("concurrency_max")
            ),
            Broken::NoRoom(crate::call::PROCESSOR) => {
                format!("{who} got no processor time within its deadline: this machine is busier than it can be; send it less")
            }
            Broken::NoRoom(_) => format!("{who} found no room: all instances that this machine allows are taken; raise vm.max_map_count"),
            Broken::Panic(text) => format!("the host failed inside a call of {who}: {text}"),
            Broken::Internal(text) => format!("the engine failed for {who}: {text}"),
        }
    }

    /// As the exchange hears it.
    pub(crate) fn fault(&self, setup: &Setup) -> Fault {
        use wharf_core::fault::{Blame, Retry};
        let mut words = self.describe(setup);
        if let Broken::Trap(Trapped { trace, .. }) = self {
            words = format!("{words}\n{trace}");
        }
        match self {
            Broken::Stopped(Stop::Deadline) => Fault::plugin(FaultKind::Timeout(Phase::Plugin), words),
            Broken::TooMuch | Broken::Answer(_) => Fault::plugin(FaultKind::PluginAnswer(setup.plugin.clone()), words),
            Broken::NoRoom(limit) => Fault::overload(limit, words),
            Broken::Panic(_) | Broken::Internal(_) => Fault::new(FaultKind::Plugin(setup.plugin.clone()), Blame::Host, Retry::Never, words),
            _ => Fault::plugin(FaultKind::Plugin(setup.plugin.clone()), words),
        }
    }

    /// As the operator hears it, at upload and activation.
    pub(crate) fn error(&self, setup: &Setup, during: &str) -> WasmError {
        let kind = match self {
            Broken::Stopped(Stop::Deadline) => ErrorKind::Deadline,
            Broken::Stopped(Stop::Memory) => ErrorKind::Memory,
            Broken::Refused(why) => ErrorKind::Refused(why.clone()),
            Broken::NoRoom(_) | Broken::Panic(_) | Broken::Internal(_) => ErrorKind::Internal,
            _ => ErrorKind::Trap,
        };
        let who = format!("plugin {:?} version {}", setup.plugin, setup.version);
        let text = match self {
            // The quota's deadline is for questions; these two have one of their own.
            Broken::Stopped(Stop::Deadline) => {
                format!("{who} did not finish `{during}` within {} ms; do less in it", crate::limits::REHEARSAL.as_millis())
            }
            Broken::Refused(_) => self.describe(setup),
            _ => format!("{} (in `{during}`)", self.describe(setup)),
        };
        WasmError { kind, text }
    }
}

/// What went wrong, to be told to an operator. `Display` names plugin, limit and remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WasmError {
    kind: ErrorKind,
    text: String,
}

/// Kinds of [`WasmError`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The guest trapped or broke a rule of the host.
    Trap,
    /// It did not finish in time.
    Deadline,
    /// It wanted more memory than it may have.
    Memory,
    /// It refused, with its own words; or we refused what it is.
    Refused(String),
    /// A fault on our side, or a full machine.
    Internal,
}

impl WasmError {
    pub(crate) fn internal(text: impl Into<String>) -> WasmError {
        WasmError { kind: ErrorKind::Internal, text: text.into() }
    }

    pub(crate) fn refused(text: impl Into<String>) -> WasmError {
        let text = text.into();
        WasmError { kind: ErrorKind::Refused(text.clone()), text }
    }

    /// What kind it is.
    pub fn kind(&self) -> &ErrorKind {
        &self.kind
    }
}

impl fmt::Display for WasmError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for WasmError {}

/// The words of a panic.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without words".into())
}
