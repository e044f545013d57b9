//! What the gateway says about requests, as people write it: access log, copies of bodies, traces.

use super::*;

/// A record of each request.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AccessLog {
    /// `stdout` (default), `off`, or the path of a file or named pipe. A file that was renamed is opened anew, at once on SIGUSR1, SIGHUP and `wharf log reopen`.
    #[serde(default)]
    pub to: Opt<String>,
    /// To standard output as well as to the file. Default false.
    #[serde(default)]
    pub stdout: Opt<bool>,
    /// How a record looks. Default `json`.
    #[serde(default)]
    pub format: Opt<LineFormat>,
    /// With `format: text`: the line, with the names of fields in braces. Default close to the combined format of web servers; see docs/observability.md.
    #[serde(default)]
    pub template: Opt<String>,
    /// Records of each request. Default `one`.
    #[serde(default)]
    pub records: Opt<Records>,
    /// Header fields that are written. Default none but `user-agent`.
    #[serde(default)]
    pub headers: Opt<LoggedHeaders>,
    /// Query arguments whose values are never written, compared without regard to case, `_` and `-`; added to those whose names say that they are secrets (docs/observability.md), `key` and `code`.
    #[serde(default)]
    pub redact_query: Opt<Vec<Item<String>>>,
    /// Header fields whose values are never written, even if `headers` names them; added to those whose names say that they are secrets (docs/observability.md).
    #[serde(default)]
    pub redact_headers: Opt<Vec<Item<String>>>,
    /// Fields of JSON objects and forms whose values are never written with a body, compared without regard to case, `_` and `-`; added to those whose names say that they are secrets (docs/observability.md).
    #[serde(default)]
    pub redact_fields: Opt<Vec<Item<String>>>,
    /// When the file is put aside and another one begun. Default never.
    #[serde(default)]
    pub rotate: Opt<Rotation>,
    /// Which requests are recorded. Default all.
    #[serde(default)]
    pub sample: Opt<Sample>,
    /// Memory for all copies of bodies that are on their way at a time. Default 16MiB.
    #[serde(default)]
    pub capture_memory: Opt<Size>,
}

/// How a record looks.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LineFormat {
    /// A line of JSON.
    Json,
    /// A line of text.
    Text,
}

/// Records of each request.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Records {
    /// One, when it is over.
    One,
    /// One when its head has been read and one when it is over; `ctxID` is the same in both.
    Two,
}

/// Header fields that are written.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LoggedHeaders {
    /// Of requests. Default none.
    #[serde(default)]
    pub request: Opt<Vec<Item<String>>>,
    /// Of answers. Default none.
    #[serde(default)]
    pub response: Opt<Vec<Item<String>>>,
}

/// When the file is put aside and another one begun: whichever comes first.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    /// It would grow beyond this. Default any size.
    #[serde(default)]
    pub size: Opt<Size>,
    /// It was begun so long ago. Default any age.
    #[serde(default)]
    pub age: Opt<Time>,
    /// Files that are kept beside the present one: `access.log.1` is the newest. Default 10.
    #[serde(default)]
    pub keep: Opt<Whole>,
}

/// Which requests are recorded.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// So many of them, by chance. Default 100%.
    #[serde(default)]
    pub share: Opt<Percent>,
    /// And all that failed: a status of 500 and above, or a fault that is not the client's. Default true.
    #[serde(default)]
    pub errors: Opt<bool>,
    /// And all that take longer than this. Default none.
    #[serde(default)]
    pub slower_than: Opt<Time>,
}

/// The records of a route's requests.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteLog {
    /// Which of them are recorded. Default as `access_log.sample` says.
    #[serde(default)]
    pub sample: Opt<Sample>,
    /// `on` or `off`.
    #[serde(skip)]
    #[schemars(skip)]
    pub word: Opt<String>,
}

/// Copies of the beginning of bodies, for the record.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Capture {
    /// Of requests. Default false.
    #[serde(default)]
    pub request: Opt<bool>,
    /// Of answers. Default false.
    #[serde(default)]
    pub response: Opt<bool>,
    /// Of each body so much. Default 4KiB.
    #[serde(default)]
    pub bytes_max: Opt<Size>,
    /// Media types. Default `application/json`, `*+json` and `application/x-www-form-urlencoded`, in which secrets are found.
    #[serde(default)]
    pub types: Opt<Vec<Item<String>>>,
}

/// Traces, for a collector of OpenTelemetry.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Traces {
    /// Where spans are sent by OTLP over HTTP: `http://127.0.0.1:4318/v1/traces`. What needs TLS is sent by a collector beside the gateway.
    #[serde(default)]
    #[schemars(required)]
    pub to: Opt<String>,
    /// Of requests that are a part of no trace yet, so many begin one. Of others, whoever began theirs has decided. Default 10%.
    #[serde(default)]
    pub share: Opt<Percent>,
    /// Header fields for the collector, by name. Default none.
    #[serde(default)]
    pub headers: Opt<Named<String>>,
    /// For the collector to take what it is sent. Default 5s.
    #[serde(default)]
    pub timeout: Opt<Time>,
    /// The name of this gateway in traces. Default as `node.name` says.
    #[serde(default)]
    pub service_name: Opt<String>,
}

impl FromShort for RouteLog {
    fn from_short(word: Item<String>) -> RouteLog {
        RouteLog { word: Some(word), ..RouteLog::default() }
    }
}
