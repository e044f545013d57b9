//! What the host does for a plugin: the interfaces of `wharf:host`, one module each.
//!
//! In a component these are calls to the host. Built natively they are a small world in memory, one for each thread,
//! that [`crate::testing`] sets up. What each call means, waits for and is bounded by stands in `wit/deps/host@0.1.0`.

#[cfg(target_family = "wasm")]
#[path = "wasm.rs"]
mod backend;
#[cfg(not(target_family = "wasm"))]
#[path = "native.rs"]
pub(crate) mod backend;

/// The configuration given to [`crate::Plugin::configure`].
pub fn config() -> String {
    backend::config()
}

/// Lines for the operator. Never for the client.
pub mod log {
    use super::backend;

    /// How much the operator should care.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    #[allow(missing_docs, reason = "the usual four")]
    pub enum Level {
        Debug,
        Info,
        Warn,
        Error,
    }

    /// One line.
    pub fn line(level: Level, message: &str) {
        backend::log(level, message);
    }

    /// One line.
    pub fn debug(message: &str) {
        line(Level::Debug, message);
    }

    /// One line.
    pub fn info(message: &str) {
        line(Level::Info, message);
    }

    /// One line.
    pub fn warn(message: &str) {
        line(Level::Warn, message);
    }

    /// One line.
    pub fn error(message: &str) {
        line(Level::Error, message);
    }
}

/// Small values shared by all nodes that use the same store.
pub mod kv {
    use super::backend;

    /// Why a call did nothing.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum Error {
        /// The store does not answer. Decide without it.
        Unavailable(String),
        /// Key or value beyond its bound.
        TooLarge(String),
        /// The namespace holds as much as it may.
        Full(String),
        /// The value is not a counter.
        NotACounter,
    }

    /// The value, if there is one.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::TooLarge`].
    pub fn get(key: &str) -> Result<Option<Vec<u8>>, Error> {
        backend::kv_get(key)
    }

    /// Sets a value; `ttl_ms` none: for ever.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::TooLarge`], [`Error::Full`].
    pub fn set(key: &str, value: &[u8], ttl_ms: Option<u64>) -> Result<(), Error> {
        backend::kv_set(key, value, ttl_ms)
    }

    /// `Ok(false)`: there was no such key.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::TooLarge`].
    pub fn delete(key: &str) -> Result<bool, Error> {
        backend::kv_delete(key)
    }

    /// Sets only if the present value is `expected`. `Ok(false)`: somebody was faster.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::TooLarge`], [`Error::Full`].
    pub fn compare_and_set(key: &str, expected: Option<&[u8]>, value: &[u8], ttl_ms: Option<u64>) -> Result<bool, Error> {
        backend::kv_compare_and_set(key, expected, value, ttl_ms)
    }

    /// Adds to a counter and returns the sum.
    ///
    /// # Errors
    /// All four.
    pub fn increment(key: &str, by: i64, ttl_ms: Option<u64>) -> Result<i64, Error> {
        backend::kv_increment(key, by, ttl_ms)
    }
}

/// Counters of the plugin's own.
pub mod metrics {
    /// Adds to a counter; `name` is 1 to 64 of `[a-z0-9_]`.
    pub fn count(name: &str, by: u64) {
        super::backend::count(name, by);
    }
}

/// What time it is.
pub mod clock {
    /// Milliseconds since 1970-01-01T00:00:00Z. May jump.
    pub fn now_ms() -> u64 {
        super::backend::now_ms()
    }

    /// Nanoseconds from an arbitrary start. Never goes back.
    pub fn monotonic_ns() -> u64 {
        super::backend::monotonic_ns()
    }
}

/// From the operating system's generator (natively, in tests: from a seed).
pub mod random {
    /// At most 4,096 bytes.
    pub fn bytes(count: u32) -> Vec<u8> {
        super::backend::random_bytes(count)
    }

    /// 64 random bits.
    pub fn u64() -> u64 {
        super::backend::random_u64()
    }
}

/// Done natively by the host. Natively built, it needs this crate's feature `native-crypto`.
pub mod crypto {
    use super::backend;

    /// Hash functions.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[allow(missing_docs, reason = "each name is the function")]
    pub enum Hash {
        Sha256,
        Sha384,
        Sha512,
    }

    /// Signatures, by their names in RFC 7518 and RFC 8037.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[allow(missing_docs, reason = "each name is the algorithm")]
    pub enum Signature {
        Hs256,
        Hs384,
        Hs512,
        Rs256,
        Rs384,
        Rs512,
        Es256,
        Es384,
        EdDsa,
    }

    /// The key is none of that kind; in words.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct BadKey(pub String);

    /// The digest.
    pub fn hash(algorithm: Hash, data: &[u8]) -> Vec<u8> {
        backend::hash(algorithm, data)
    }

    /// The authentication code.
    pub fn hmac(algorithm: Hash, key: &[u8], data: &[u8]) -> Vec<u8> {
        backend::hmac(algorithm, key, data)
    }

    /// Is `signature` by the owner of `key`? For the `Hs*` family `key` is the secret, else a public key: PEM or DER.
    ///
    /// # Errors
    /// The key is none of that kind.
    pub fn verify(algorithm: Signature, key: &[u8], message: &[u8], signature: &[u8]) -> Result<bool, BadKey> {
        backend::verify(algorithm, key, message, signature)
    }

    /// Equality in time that depends on the lengths only.
    pub fn equal(a: &[u8], b: &[u8]) -> bool {
        backend::equal(a, b)
    }
}

/// Calls to services that the operator allowed.
pub mod http {
    use super::backend;

    /// A call.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Request {
        /// Name of a service from the configuration.
        pub service: String,
        /// The method.
        pub method: String,
        /// Path and query.
        pub path: String,
        /// Fields.
        pub headers: Vec<(String, String)>,
        /// At most 1 MiB.
        pub body: Vec<u8>,
    }

    /// Its answer.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Response {
        /// The status.
        pub status: u16,
        /// Fields, with their exact bytes.
        pub headers: Vec<(String, Vec<u8>)>,
        /// At most 1 MiB.
        pub body: Vec<u8>,
    }

    /// Why there is none.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum Error {
        /// Not in the allow list.
        Denied(String),
        /// Method, path or a field is malformed.
        Invalid(String),
        /// No answer within what is left of this question's deadline.
        Timeout,
        /// No endpoint, or a broken answer.
        Unavailable(String),
        /// The answer's body is too large.
        TooLarge,
    }

    impl Request {
        /// A `GET`.
        pub fn get(service: impl Into<String>, path: impl Into<String>) -> Request {
            Request { service: service.into(), method: "GET".into(), path: path.into(), ..Request::default() }
        }
    }

    /// Makes the call.
    ///
    /// # Errors
    /// As [`Error`] says.
    pub fn fetch(request: Request) -> Result<Response, Error> {
        backend::fetch(request)
    }
}

/// The exchange in progress. Outside one (in `configure`) every function here traps.
pub mod exchange {
    use super::backend;

    /// Unique and time-ordered; the same id is in the access log.
    pub fn id() -> String {
        backend::exchange_id()
    }

    /// Name of the route that matched.
    pub fn route() -> String {
        backend::exchange_route()
    }

    /// The canonical path as it is now. [`crate::Request::path`] asks for it only once.
    pub fn path() -> String {
        backend::exchange_path()
    }

    /// Host and port as the client meant them.
    pub fn authority() -> String {
        backend::exchange_authority()
    }

    /// `http` or `https`.
    pub fn scheme() -> String {
        backend::exchange_scheme()
    }

    /// Text behind `?`, undecoded.
    pub fn query() -> Option<String> {
        backend::exchange_query()
    }

    /// Address of the client without port.
    pub fn peer() -> String {
        backend::exchange_peer()
    }

    /// A request field. [`crate::Request::header`] asks for it only once.
    pub fn header(name: &str) -> Option<String> {
        backend::exchange_header(name)
    }

    /// All request fields in order, with their exact bytes.
    pub fn header_all() -> Vec<(String, Vec<u8>)> {
        backend::exchange_header_all()
    }

    /// A response field.
    pub fn response_header(name: &str) -> Option<String> {
        backend::exchange_response_header(name)
    }

    /// An attribute.
    pub fn attr(name: &str) -> Option<String> {
        backend::exchange_attr(name)
    }
}
