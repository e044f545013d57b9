//! The one record of an exchange, written at its end.

use std::net::IpAddr;
use std::time::Duration;
use wharf_core::exchange::ExchangeId;
use wharf_core::outlet::Endpoint;

/// What is known about an exchange when it is over. Borrowed: whoever keeps something copies it.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs, reason = "the names say it; units are in the types and suffixes")]
pub struct Record<'a> {
    /// Milliseconds since 1970, at its start.
    pub time_ms: u64,
    pub id: ExchangeId,
    pub listener: &'a str,
    pub protocol: &'a str,
    pub client: IpAddr,
    pub method: &'a str,
    /// ASCII, as are path and query.
    pub authority: &'a [u8],
    pub path: &'a [u8],
    pub query: Option<&'a [u8]>,
    pub user_agent: Option<&'a [u8]>,
    pub route: &'a str,
    /// 0: the client went away before it had a status.
    pub status: u16,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub duration: Duration,
    pub endpoint: Option<&'a Endpoint>,
    pub tries: u32,
    pub fault: Option<&'a str>,
    pub consumer: Option<&'a str>,
    pub answered_by: Option<&'a str>,
}

/// Takes records. Core-local; never waits.
pub trait Recorder {
    /// Takes one.
    fn record(&self, record: &Record<'_>);
    /// A moment to hand on what has waited long enough; called about 60 times a second. `true`: something still waits.
    fn tick(&self) -> bool {
        false
    }
    /// Hands on everything: the core is about to end.
    fn flush(&self) {}
}
