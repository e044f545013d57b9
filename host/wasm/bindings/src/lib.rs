//! The contract of `wit/` as Rust types, and nothing else.
//!
//! They are derived by hand rather than made by `bindgen!`, which compiles to the same typed calls but would have every
//! host function take its arguments as owned `String` and `Vec`. With the types alone the room's host functions can
//! read a key, a message and a signature where they lie in the guest's memory, and copy nothing.
//!
//! A crate of its own for two reasons: what the derives expand to is unsafe by trait (the room itself has one unsafe
//! line, in `load.rs`), and it compiles slowly while it changes seldom. That these types are those of `wit/` is checked
//! whenever a component is linked (wasmtime compares every function structurally), and by the room's tests with guests
//! made from `wit/` by `wit-bindgen`.
//!
//! What goes to a guest borrows (`Lower`); what comes back is owned (`Lift`), and bounded by the store's limit on
//! copied bytes before it is copied.

use wasmtime::component::{ComponentType, Lift, Lower};

/// `wharf:types/types`.
pub mod types {
    use super::*;

    /// `method`.
    #[derive(ComponentType, Lower, Clone, Copy, Debug)]
    #[component(variant)]
    pub enum Method<'a> {
        #[component(name = "get")]
        Get,
        #[component(name = "head")]
        Head,
        #[component(name = "post")]
        Post,
        #[component(name = "put")]
        Put,
        #[component(name = "delete")]
        Delete,
        #[component(name = "options")]
        Options,
        #[component(name = "patch")]
        Patch,
        #[component(name = "connect")]
        Connect,
        #[component(name = "trace")]
        Trace,
        #[component(name = "other")]
        Other(&'a str),
    }

    /// `fact`.
    #[derive(ComponentType, Lift, Clone, Debug)]
    #[component(variant)]
    pub enum Fact {
        #[component(name = "path")]
        Path,
        #[component(name = "query")]
        Query,
        #[component(name = "authority")]
        Authority,
        #[component(name = "scheme")]
        Scheme,
        #[component(name = "peer")]
        Peer,
        #[component(name = "route")]
        Route,
        #[component(name = "header")]
        Header(String),
        #[component(name = "attr")]
        Attr(String),
    }

    /// `request-head`.
    #[derive(ComponentType, Lower, Clone, Copy, Debug)]
    #[component(record)]
    pub struct RequestHead<'a> {
        pub method: Method<'a>,
        pub facts: &'a [Option<&'a str>],
    }

    /// `response-head`.
    #[derive(ComponentType, Lower, Clone, Copy, Debug)]
    #[component(record)]
    pub struct ResponseHead<'a> {
        pub status: u16,
        pub facts: &'a [Option<&'a str>],
    }

    /// `edit`.
    #[derive(ComponentType, Lift, Clone, Debug)]
    #[component(variant)]
    pub enum Edit {
        #[component(name = "set")]
        Set((String, String)),
        #[component(name = "add")]
        Add((String, String)),
        #[component(name = "remove")]
        Remove(String),
        #[component(name = "path")]
        Path(String),
        #[component(name = "attr")]
        Attr((String, String)),
    }

    /// `reply`.
    #[derive(ComponentType, Lift, Clone, Debug)]
    #[component(record)]
    pub struct Reply {
        pub status: u16,
        pub headers: Vec<(String, String)>,
        pub body: Vec<u8>,
    }

    /// `decision`.
    #[derive(ComponentType, Lift, Clone, Debug)]
    #[component(variant)]
    pub enum Decision {
        #[component(name = "next")]
        Next(Vec<Edit>),
        #[component(name = "reply")]
        Reply(Reply),
    }
}

/// `wharf:lifecycle/lifecycle`.
pub mod lifecycle {
    use super::types::Fact;
    use super::*;

    wasmtime::component::flags! {
        Phases {
            #[component(name = "request")]
            const REQUEST;
            #[component(name = "response")]
            const RESPONSE;
        }
    }

    /// `needs`.
    #[derive(ComponentType, Lift, Clone, Debug)]
    #[component(record)]
    pub struct Needs {
        pub request: Vec<Fact>,
        pub response: Vec<Fact>,
        pub phases: Phases,
    }
}

/// `wharf:route/route`.
pub mod route {
    use super::*;

    /// `target`.
    #[derive(ComponentType, Lift, Clone, Debug)]
    #[component(record)]
    pub struct Target {
        pub service: String,
        pub subset: Option<String>,
        pub path: Option<String>,
    }
}

/// `wharf:degrade/degrade`.
pub mod degrade {
    use super::types::Reply;
    use super::*;

    /// `fault`.
    #[derive(ComponentType, Lower, Clone, Copy, Debug)]
    #[component(variant)]
    pub enum Fault<'a> {
        #[component(name = "timeout")]
        Timeout,
        #[component(name = "connect")]
        Connect,
        #[component(name = "reset")]
        Reset,
        #[component(name = "status")]
        Status(u16),
        #[component(name = "overload")]
        Overload,
        #[component(name = "plugin")]
        Plugin(&'a str),
    }

    /// `last-good`.
    #[derive(ComponentType, Lift, Clone, Debug)]
    #[component(record)]
    pub struct LastGood {
        #[component(name = "max-age-ms")]
        pub max_age_ms: u32,
        pub otherwise: Option<Reply>,
    }

    /// `instead`.
    #[derive(ComponentType, Lift, Clone, Debug)]
    #[component(variant)]
    pub enum Instead {
        #[component(name = "pass")]
        Pass,
        #[component(name = "reply")]
        Reply(Reply),
        #[component(name = "last-good")]
        LastGood(LastGood),
    }
}

/// `wharf:host/*`.
pub mod host {
    use super::*;

    /// `log.level`.
    #[derive(ComponentType, Lift, Clone, Copy, Debug, PartialEq, Eq)]
    #[component(enum)]
    #[repr(u8)]
    pub enum Level {
        #[component(name = "debug")]
        Debug,
        #[component(name = "info")]
        Info,
        #[component(name = "warn")]
        Warn,
        #[component(name = "error")]
        Error,
    }

    /// `kv.error`.
    #[derive(ComponentType, Lower, Clone, Debug)]
    #[component(variant)]
    pub enum KvError {
        #[component(name = "unavailable")]
        Unavailable(String),
        #[component(name = "too-large")]
        TooLarge(String),
        #[component(name = "full")]
        Full(String),
        #[component(name = "not-a-counter")]
        NotACounter,
    }

    /// `crypto.hash-algorithm`.
    #[derive(ComponentType, Lift, Clone, Copy, Debug, PartialEq, Eq)]
    #[component(enum)]
    #[repr(u8)]
    pub enum HashAlgorithm {
        #[component(name = "sha256")]
        Sha256,
        #[component(name = "sha384")]
        Sha384,
        #[component(name = "sha512")]
        Sha512,
    }

    /// `crypto.signature-algorithm`.
    #[derive(ComponentType, Lift, Clone, Copy, Debug, PartialEq, Eq)]
    #[component(enum)]
    #[repr(u8)]
    pub enum SignatureAlgorithm {
        #[component(name = "hs256")]
        Hs256,
        #[component(name = "hs384")]
        Hs384,
        #[component(name = "hs512")]
        Hs512,
        #[component(name = "rs256")]
        Rs256,
        #[component(name = "rs384")]
        Rs384,
        #[component(name = "rs512")]
        Rs512,
        #[component(name = "es256")]
        Es256,
        #[component(name = "es384")]
        Es384,
        #[component(name = "eddsa")]
        Eddsa,
    }

    /// `crypto.error`.
    #[derive(ComponentType, Lower, Clone, Debug)]
    #[component(variant)]
    pub enum CryptoError {
        #[component(name = "bad-key")]
        BadKey(String),
    }

    /// `http.request`.
    #[derive(ComponentType, Lift, Clone, Debug)]
    #[component(record)]
    pub struct FetchRequest {
        pub service: String,
        pub method: String,
        pub path: String,
        pub headers: Vec<(String, String)>,
        pub body: Vec<u8>,
    }

    /// `http.response`.
    #[derive(ComponentType, Lower, Clone, Debug)]
    #[component(record)]
    pub struct FetchResponse {
        pub status: u16,
        pub headers: Vec<(String, Vec<u8>)>,
        pub body: Vec<u8>,
    }

    /// `http.error`.
    #[derive(ComponentType, Lower, Clone, Debug)]
    #[component(variant)]
    pub enum FetchError {
        #[component(name = "denied")]
        Denied(String),
        #[component(name = "invalid")]
        Invalid(String),
        #[component(name = "timeout")]
        Timeout,
        #[component(name = "unavailable")]
        Unavailable(String),
        #[component(name = "too-large")]
        TooLarge,
    }
}

/// The few types of `wasi:*` 0.2 that the inert set needs.
pub mod wasi {
    use super::*;
    use wasmtime::component::Resource;

    /// Marker of `wasi:io/error.error`.
    pub struct IoError;
    /// Marker of `wasi:io/poll.pollable`.
    pub struct Pollable;
    /// Marker of `wasi:io/streams.input-stream`.
    pub struct InputStream;
    /// Marker of `wasi:io/streams.output-stream`.
    pub struct OutputStream;
    /// Marker of `wasi:cli/terminal-input.terminal-input`.
    pub struct TerminalInput;
    /// Marker of `wasi:cli/terminal-output.terminal-output`.
    pub struct TerminalOutput;
    /// Marker of `wasi:filesystem/types.descriptor`.
    pub struct Descriptor;

    /// `wasi:io/streams.stream-error`.
    #[derive(ComponentType, Lower)]
    #[component(variant)]
    pub enum StreamError {
        #[component(name = "last-operation-failed")]
        LastOperationFailed(Resource<IoError>),
        #[component(name = "closed")]
        Closed,
    }

    /// `wasi:clocks/wall-clock.datetime`.
    #[derive(ComponentType, Lower, Clone, Copy)]
    #[component(record)]
    pub struct Datetime {
        pub seconds: u64,
        pub nanoseconds: u32,
    }
}
