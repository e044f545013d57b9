//! The one record of an exchange, written at its end; or two, where its request is to be told at once.

use std::net::IpAddr;
use std::time::Duration;
use wharf_core::exchange::{Exchange, ExchangeId};
use wharf_core::fault::is_word_of_server;
use wharf_core::head::{Known, ResponseHead};
use wharf_core::outlet::Endpoint;

/// Which half of an exchange a record tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// What was asked: the head of the request has been read, nothing else is known.
    Request,
    /// What became of it.
    Response,
}

/// What is known about an exchange when it is over. Borrowed: whoever keeps something copies it.
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "the names say it; units are in the types and suffixes")]
pub struct Record<'a> {
    pub part: Part,
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
    /// Microseconds from the start of the last try to the head of its answer; 0: it had none.
    pub head_us: u32,
    pub fault: Option<&'a str>,
    pub consumer: Option<&'a str>,
    pub answered_by: Option<&'a str>,
    /// The exchange itself; `None`: nobody knows what was asked.
    pub exchange: Option<&'a Exchange>,
    /// The head of the answer, if there is one.
    pub response: Option<&'a ResponseHead>,
}

impl<'a> Record<'a> {
    /// What is known when the head has been read.
    // Always: the record of every exchange begins with it, and is made where it is needed.
    #[inline(always)]
    pub(crate) fn asked(exchange: &'a Exchange, listener: &'a str, protocol: &'a str, time_ms: u64) -> Record<'a> {
        let facts = &exchange.facts;
        let request = &facts.request;
        Record {
            part: Part::Request,
            time_ms,
            id: facts.id,
            listener,
            protocol,
            client: facts.client,
            method: request.method.as_str(),
            authority: request.authority_bytes(),
            path: request.asked_path(),
            query: request.query_bytes(),
            user_agent: request.fields.known(Known::UserAgent),
            route: &facts.route,
            status: 0,
            bytes_in: 0,
            bytes_out: 0,
            duration: Duration::ZERO,
            endpoint: None,
            tries: 0,
            head_us: 0,
            fault: None,
            consumer: None,
            answered_by: None,
            exchange: Some(exchange),
            response: None,
        }
    }
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

/// Of a million.
pub const WHOLE: u32 = 1_000_000;

/// Which exchanges are recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// Of a million so many, by chance; [`WHOLE`]: all.
    pub share: u32,
    /// Always what failed: statuses of 500 and above, and faults that are not the caller's whatever the status.
    pub errors: bool,
    /// What took longer than this always.
    pub slower: Option<Duration>,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling { share: WHOLE, errors: true, slower: None }
    }
}

impl Sampling {
    /// Are all of them?
    pub fn takes_all(&self) -> bool {
        self.share >= WHOLE
    }

    /// Is it one of those that are recorded by chance? The same for the same exchange, whenever it is asked.
    pub fn draws(&self, id: ExchangeId) -> bool {
        self.takes_all() || drawn(id) < self.share
    }

    /// Is it recorded, whatever chance says?
    pub fn must(&self, status: u16, fault: Option<&str>, duration: Duration) -> bool {
        let failed = || status >= 500 || fault.is_some_and(is_word_of_server);
        (self.errors && failed()) || self.slower.is_some_and(|slower| duration > slower)
    }
}

/// A number below a million that belongs to the exchange.
fn drawn(id: ExchangeId) -> u32 {
    let mut state = id.serial ^ id.time.rotate_left(32);
    (wharf_core::trace::mixed(&mut state) % u64::from(WHOLE)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_drawn_by_chance_and_errors_and_slow_ones_come_on_top() {
        let sampling = Sampling { share: WHOLE / 10, errors: true, slower: Some(Duration::from_millis(100)) };
        let id = |serial: u64| ExchangeId { time: 1_795_360_802_007 << 16, serial };
        let taken = (0..100_000).filter(|&serial| sampling.draws(id(serial))).count();
        assert!((9_500..10_500).contains(&taken), "{taken}");
        assert!((0..1000).all(|serial| sampling.draws(id(serial)) == sampling.draws(id(serial))));
        let quick = Duration::from_millis(1);
        assert!(sampling.must(500, None, quick) && sampling.must(200, None, Duration::from_millis(101)));
        assert!(!sampling.must(404, Some("no_route"), quick) && !sampling.must(200, None, Duration::from_millis(100)));
        // A call of gRPC, a default answer, an answer that broke: the status does not tell.
        assert!(sampling.must(200, Some("no_endpoint"), quick) && !sampling.must(200, Some("client_gone"), quick));
        let off = Sampling { share: 0, errors: false, slower: None };
        assert!(!off.must(500, Some("reset"), Duration::MAX) && (0..1000).all(|serial| !off.draws(id(serial))));
    }
}
