//! Desks: what a room offers an operator. The centre lists the desks it is handed; it does not know the rooms.
//!
//! Arguments and answers are JSON as text: `core` knows no serde, and the centre needs only the schema.

use crate::BoxFuture;
use bytes::Bytes;

/// What an operator must be to use an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// May look.
    Viewer,
    /// May change what serves.
    Operator,
}

/// The verb an operation is reached by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each name is the method")]
pub enum Verb {
    Get,
    Post,
    Put,
    Delete,
}

/// What the body of an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// There is none.
    None,
    /// JSON that this schema (as text) describes.
    Json(&'static str),
    /// Bytes up to this many, `application/octet-stream`.
    Bytes(usize),
}

/// One operation: a line in the OpenAPI document, a path under `/v1`, a command of the command line.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Unique, `room.verb`: `plugin.push`.
    pub name: &'static str,
    /// The verb.
    pub verb: Verb,
    /// Path under `/v1`, with `{name}` for parts that are arguments: `/plugins/{name}/versions`.
    pub path: &'static str,
    /// One sentence: what it does.
    pub summary: &'static str,
    /// Who may.
    pub role: Role,
    /// Names of query arguments, each with one sentence.
    pub query: &'static [(&'static str, &'static str)],
    /// The body.
    pub input: Input,
    /// JSON Schema of the answer, as text.
    pub output: &'static str,
    /// Does it change something? Then it is written to the audit log.
    pub changes: bool,
}

/// What an operation was asked with.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    /// Arguments from path and query, decoded.
    pub args: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

impl Ask {
    /// The value of an argument.
    pub fn arg(&self, name: &str) -> Option<&str> {
        self.args.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }
}

/// Why an operation was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct DeskError {
    /// What kind of no it is.
    pub kind: DeskErrorKind,
    /// Names the object, the limit and the remedy.
    pub message: String,
    /// What to do about it, where there is one thing to do.
    pub hint: Option<String>,
}

/// What kind of no it is; each is one HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeskErrorKind {
    /// 400: the arguments are not what they must be.
    Invalid,
    /// 404: there is no such thing.
    NotFound,
    /// 409: the thing is in another state.
    Conflict,
    /// 413: too large.
    TooLarge,
    /// 422: understood and refused; the last good state serves on.
    Refused,
    /// 429: too many at once.
    Busy,
    /// 507: it could not be written down, so it was not done.
    Storage,
    /// 500: our fault.
    Internal,
}

impl DeskError {
    /// An error without a hint.
    pub fn new(kind: DeskErrorKind, message: impl Into<String>) -> DeskError {
        DeskError { kind, message: message.into(), hint: None }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> DeskError {
        self.hint = Some(hint.into());
        self
    }
}

/// What a room offers an operator. House-wide.
pub trait Desk: Send + Sync {
    /// The operations, the same for the life of the process.
    fn operations(&self) -> Vec<Operation>;

    /// Does one. The answer is JSON.
    ///
    /// # Errors
    /// As [`DeskErrorKind`] says; what was serving goes on serving.
    fn serve<'a>(&'a self, operation: &'a str, ask: Ask) -> BoxFuture<'a, Result<Bytes, DeskError>>;
}
