//! What the centre is told when it is made. Every bound has a default and a reason.

use std::path::PathBuf;
use std::sync::Arc;

/// Does this node want traffic? Shown without a token, so the reasons name states, not secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// Everything that must be there is there.
    pub ready: bool,
    /// What is not, in a few words each.
    pub reasons: Vec<String>,
}

/// What the centre is told when it is made.
pub struct Options {
    /// Where the bearer token is kept; made at the first start, mode 0600.
    pub token_file: PathBuf,
    /// Where every change is written down, one JSON object a line.
    pub audit_file: PathBuf,
    /// Size at which the audit file becomes `FILE.1` and a new one begins: two of them are what an operator can still
    /// search by hand.
    pub audit_bytes_max: u64,
    /// Host names by which the listener may be addressed, besides `localhost` and the loopback addresses.
    pub allowed_hosts: Vec<String>,
    /// May a scraper on this machine read `/metrics` without the token?
    pub metrics_open: bool,
    /// Asked at each `/readyz`.
    pub readiness: Arc<dyn Fn() -> Readiness + Send + Sync>,
    /// Version of the product, for the OpenAPI document.
    pub version: &'static str,
    /// Connections at once; the next one waits in the backlog. An operator, a console and a few scrapers need ten.
    pub connections_max: usize,
    /// Longest life of a connection: whoever does not read their answers is let go by then.
    pub connection_s_max: u64,
    /// Looks in progress at once; the next one is answered 429.
    pub looks_max: usize,
    /// Changes in progress at once; each may hold one body in memory.
    pub changes_max: usize,
    /// Time for a request head.
    pub head_ms_max: u64,
    /// Time for a request body.
    pub body_ms_max: u64,
    /// Time for an operation. A push compiles, so this is minutes, not seconds.
    pub operation_ms_max: u64,
    /// Largest JSON body.
    pub json_bytes_max: usize,
}

impl Options {
    /// The defaults, for a token and an audit file in one folder.
    pub fn new(folder: impl Into<PathBuf>) -> Options {
        let folder = folder.into();
        Options {
            token_file: folder.join("admin-token"),
            audit_file: folder.join("audit.log"),
            audit_bytes_max: 64 << 20,
            allowed_hosts: Vec::new(),
            metrics_open: true,
            readiness: Arc::new(|| Readiness { ready: true, reasons: Vec::new() }),
            version: env!("CARGO_PKG_VERSION"),
            connections_max: 64,
            connection_s_max: 600,
            looks_max: 16,
            changes_max: 4,
            head_ms_max: 10_000,
            body_ms_max: 60_000,
            operation_ms_max: 180_000,
            json_bytes_max: 1 << 20,
        }
    }
}
