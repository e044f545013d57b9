//! Why bytes were refused: a word for metrics, a sentence for people, a status for the client.

use std::fmt;
use wharf_core::path::BadPath;

/// Bytes that are no valid message. The connection they came on is of no further use: where the next message begins is
/// not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What a client is answered with. For what an upstream sent: 502.
    pub status: u16,
    /// What is wrong.
    pub what: RefusalKind,
}

impl Refusal {
    /// A head that did not arrive in time.
    pub fn slow_head() -> Refusal {
        RefusalKind::SlowHead.into()
    }
}

impl From<RefusalKind> for Refusal {
    #[cold]
    fn from(what: RefusalKind) -> Refusal {
        Refusal { status: what.status(), what }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.what.fmt(f)
    }
}

impl std::error::Error for Refusal {}

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// The head is larger than allowed.
    HeadBytes {
        /// The limit.
        max: usize,
    },
    /// The head has more fields than allowed.
    FieldCount {
        /// The limit.
        max: usize,
    },
    /// The request line alone is larger than a head may be.
    TargetBytes {
        /// The limit.
        max: usize,
    },
    /// The head did not arrive in time.
    SlowHead,
    /// The head is not whole, and memory is too short to wait for the rest.
    Memory,
    /// HTTP in the clear at a port with TLS.
    PlainHttp,
    /// A TLS handshake at a port without it.
    TlsHello,
    /// Not `METHOD target HTTP/1.x`.
    RequestLine,
    /// Not `HTTP/1.x 200 text`.
    StatusLine,
    /// A status outside 100 to 599.
    Status(u16),
    /// A version other than 1.0 and 1.1.
    Version,
    /// A request target in none of the four forms, or in one that the method does not take.
    Target,
    /// A `CONNECT` request.
    Connect,
    /// A path without one safe meaning.
    Path(BadPath),
    /// A byte in the query that may not stand there.
    Query,
    /// A line that does not end in CR LF.
    LineEnd,
    /// A field name that is no token, a space around it, or a folded line.
    FieldName,
    /// A control character in a field value.
    FieldValue,
    /// No `Host`.
    HostMissing,
    /// More than one `Host`.
    HostTwice,
    /// A host that is no name or address with an optional port.
    Host,
    /// `Content-Length` that is no plain number.
    Length,
    /// More than one `Content-Length`.
    LengthTwice,
    /// `Content-Length` beside `Transfer-Encoding`.
    LengthAndCoding,
    /// `Transfer-Encoding` with chunked twice, not last, or no list of codings.
    Coding,
    /// A transfer coding other than chunked.
    CodingUnknown,
    /// `Transfer-Encoding` in an HTTP/1.0 message.
    CodingOldVersion,
    /// `Connection` that is no list of tokens, or one too long.
    Connection,
    /// `Expect` other than `100-continue`.
    Expectation,
    /// A 101 that was not asked for, or that does not say to what it switches.
    Switch,
    /// An interim answer with a body.
    InterimBody,
    /// A chunk size that is no plain hexadecimal number, or too large a one.
    ChunkSize,
    /// A chunk extension with a control character.
    ChunkExtension,
    /// Chunk extensions that are larger than allowed.
    ChunkExtensionBytes {
        /// The limit for one.
        max: usize,
    },
    /// Chunk data not followed by CR LF: it is longer than its size says.
    ChunkEnd,
    /// A trailer field that may only stand in a head.
    TrailerField,
    /// Trailer fields that are larger than allowed.
    TrailerBytes {
        /// The limit.
        max: usize,
    },
    /// More trailer fields than allowed.
    TrailerCount {
        /// The limit.
        max: usize,
    },
    /// The connection ended in the middle of the body.
    BodyCut,
}

impl RefusalKind {
    pub(crate) fn status(self) -> u16 {
        match self {
            RefusalKind::HeadBytes { .. } | RefusalKind::FieldCount { .. } => 431,
            RefusalKind::TargetBytes { .. } => 414,
            RefusalKind::SlowHead | RefusalKind::BodyCut => 408,
            RefusalKind::Memory => 503,
            RefusalKind::Version => 505,
            RefusalKind::Connect | RefusalKind::CodingUnknown => 501,
            RefusalKind::Expectation => 417,
            RefusalKind::Status(_) | RefusalKind::StatusLine | RefusalKind::Switch | RefusalKind::InterimBody => 502,
            _ => 400,
        }
    }

    /// The word for metrics and logs; one of a bounded set.
    pub fn word(&self) -> &'static str {
        match self {
            RefusalKind::HeadBytes { .. } => "head_bytes",
            RefusalKind::FieldCount { .. } => "field_count",
            RefusalKind::TargetBytes { .. } => "target_bytes",
            RefusalKind::SlowHead => "slow_head",
            RefusalKind::Memory => "memory",
            RefusalKind::PlainHttp => "plain_http",
            RefusalKind::TlsHello => "tls_hello",
            RefusalKind::RequestLine => "request_line",
            RefusalKind::StatusLine => "status_line",
            RefusalKind::Status(_) => "status",
            RefusalKind::Version => "version",
            RefusalKind::Target => "target",
            RefusalKind::Connect => "connect",
            RefusalKind::Path(_) => "path",
            RefusalKind::Query => "query",
            RefusalKind::LineEnd => "line_end",
            RefusalKind::FieldName => "field_name",
            RefusalKind::FieldValue => "field_value",
            RefusalKind::HostMissing => "host_missing",
            RefusalKind::HostTwice => "host_twice",
            RefusalKind::Host => "host",
            RefusalKind::Length => "length",
            RefusalKind::LengthTwice => "length_twice",
            RefusalKind::LengthAndCoding => "length_and_coding",
            RefusalKind::Coding => "coding",
            RefusalKind::CodingUnknown => "coding_unknown",
            RefusalKind::CodingOldVersion => "coding_old_version",
            RefusalKind::Connection => "connection",
            RefusalKind::Expectation => "expectation",
            RefusalKind::Switch => "switch",
            RefusalKind::InterimBody => "interim_body",
            RefusalKind::ChunkSize => "chunk_size",
            RefusalKind::ChunkExtension => "chunk_extension",
            RefusalKind::ChunkExtensionBytes { .. } => "chunk_extension_bytes",
            RefusalKind::ChunkEnd => "chunk_end",
            RefusalKind::TrailerField => "trailer_field",
            RefusalKind::TrailerBytes { .. } => "trailer_bytes",
            RefusalKind::TrailerCount { .. } => "trailer_count",
            RefusalKind::BodyCut => "body_cut",
        }
    }
}

impl fmt::Display for RefusalKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            RefusalKind::HeadBytes { max } => {
                return write!(f, "the head is larger than the {max} bytes allowed; send fewer or shorter fields (cookies?)");
            }
            RefusalKind::FieldCount { max } => return write!(f, "the head has more than the {max} fields allowed; send fewer"),
            RefusalKind::TargetBytes { max } => {
                return write!(f, "the request target is larger than the {max} bytes of a whole head; send the data in a body");
            }
            RefusalKind::Memory => "memory is short, and the head is not whole; try again in a second",
            RefusalKind::SlowHead => "the head did not arrive in time; send it in one piece",
            RefusalKind::PlainHttp => "the plain HTTP request was sent to an HTTPS port; ask by https://",
            RefusalKind::TlsHello => "a TLS handshake was sent to a port without TLS; ask by http://, or at the port that has it",
            RefusalKind::RequestLine => "the first line is not `METHOD target HTTP/1.1` with single spaces",
            RefusalKind::StatusLine => "the first line is not `HTTP/1.1 200 text`",
            RefusalKind::Status(status) => return write!(f, "{status} is no status; one lies between 100 and 599"),
            RefusalKind::Version => "the version is neither HTTP/1.0 nor HTTP/1.1; use one of them here",
            RefusalKind::Target => "the request target is no path, no http URI, and no `*` of an OPTIONS request; percent-encode it",
            RefusalKind::Connect => "CONNECT is not served; this is a gateway, not a forward proxy",
            RefusalKind::Path(bad) => return write!(f, "{bad}; send the path in its plain form"),
            RefusalKind::Query => "the query has a byte that is no printable ASCII, or a `#`; percent-encode it",
            RefusalKind::LineEnd => "a line of the message does not end in CR LF",
            RefusalKind::FieldName => "a field name is no token directly followed by a colon, or a line is folded",
            RefusalKind::FieldValue => "a field value has a control character; encode it",
            RefusalKind::HostMissing => "field host is missing; name the host once",
            RefusalKind::HostTwice => "field host stands there twice; name the host once",
            RefusalKind::Host => "the host is no name or address with an optional port from 1 to 65535",
            RefusalKind::Length => "field content-length is no plain decimal number",
            RefusalKind::LengthTwice => "field content-length stands there twice; say the length once",
            RefusalKind::LengthAndCoding => "content-length stands beside transfer-encoding; use one of them",
            RefusalKind::Coding => "field transfer-encoding is not exactly `chunked`, once",
            RefusalKind::CodingUnknown => "a transfer coding other than chunked is not understood; use content-encoding",
            RefusalKind::CodingOldVersion => "an HTTP/1.0 message has no transfer-encoding; say its length",
            RefusalKind::Connection => "field connection is no list of at most 32 names",
            RefusalKind::Expectation => "an expectation other than 100-continue is not met here",
            RefusalKind::Switch => "the upstream switched protocols without being asked, or without saying to which",
            RefusalKind::InterimBody => "an interim answer announces a body",
            RefusalKind::ChunkSize => "a chunk size is no plain hexadecimal number of at most 16 digits",
            RefusalKind::ChunkExtension => "a chunk extension has a control character or follows no semicolon",
            RefusalKind::ChunkExtensionBytes { max } => {
                return write!(f, "chunk extensions are larger than {max} bytes a chunk, or than the data they come with");
            }
            RefusalKind::ChunkEnd => "the data of a chunk is not followed by CR LF: it is longer than its size says",
            RefusalKind::TrailerField => "a trailer field frames, routes or authenticates; send it in the head",
            RefusalKind::TrailerBytes { max } => return write!(f, "the trailer fields are larger than the {max} bytes allowed"),
            RefusalKind::TrailerCount { max } => return write!(f, "there are more than the {max} trailer fields allowed"),
            RefusalKind::BodyCut => "the connection ended in the middle of the body",
        };
        f.write_str(text)
    }
}
