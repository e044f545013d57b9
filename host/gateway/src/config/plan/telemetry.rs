//! What the gateway says about requests, checked.

use super::*;
use crate::config::template::Template;
use wharf_http::record::Sampling;

/// Where the access log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// Nowhere: nothing is formatted.
    Off,
    /// Standard output.
    Stdout,
    /// This file or pipe, appended to.
    File(PathBuf),
}

impl fmt::Display for LogTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogTarget::Off => f.write_str("off"),
            LogTarget::Stdout => f.write_str("on standard output"),
            LogTarget::File(path) => path.display().fmt(f),
        }
    }
}

/// How the access log is written. Taken at a start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessLog {
    /// Where it goes.
    pub target: LogTarget,
    /// To standard output as well as to the file.
    pub also_stdout: bool,
    /// Lines of this form; `None`: JSON.
    pub template: Option<Template>,
    /// Of requests, names in lower case.
    pub request_headers: Vec<Box<str>>,
    /// Of answers.
    pub response_headers: Vec<Box<str>>,
    /// What is never written.
    pub redact: Redact,
    /// When the file is put aside.
    pub rotate: Option<Rotation>,
}

/// Names, in lower case, whose values are never written, besides those that everybody takes for the names of secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Redact {
    /// Of query arguments.
    pub query: Vec<Box<str>>,
    /// Of header fields.
    pub headers: Vec<Box<str>>,
    /// Of fields in bodies.
    pub fields: Vec<Box<str>>,
}

/// When the file is put aside and another one begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// It would grow beyond this.
    pub bytes_max: Option<u64>,
    /// It was begun so long ago.
    pub age_max: Option<Duration>,
    /// Files that are kept beside the present one.
    pub keep: u32,
}

/// What is recorded. Taken with every generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recording {
    /// Of routes that say nothing else, and of requests without a route.
    pub sampling: Sampling,
    /// A record of the request and one of what became of it.
    pub two: bool,
    /// For copies of bodies on their way.
    pub capture_memory: usize,
}

/// Copies of bodies for the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capture {
    /// Of requests.
    pub request: bool,
    /// Of answers.
    pub response: bool,
    /// Of each body so many bytes.
    pub bytes_max: usize,
    /// Media types.
    pub types: Vec<Box<str>>,
}

/// Traces, for a collector of OpenTelemetry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traces {
    /// A URL, `http://HOST:PORT/PATH`.
    pub to: Box<str>,
    /// Of a million requests that are a part of no trace yet, so many begin one.
    pub share: u32,
    /// Fields for the collector.
    pub headers: Vec<(Box<str>, Box<str>)>,
    /// For the collector to take what it is sent.
    pub timeout: Duration,
    /// The gateway's name in traces.
    pub service_name: Box<str>,
}
