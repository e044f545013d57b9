//! Many requests over kept connections, counted and timed; strict: everything that is not the expected answer is a
//! failure, a connection that ends without notice is one, too.
//!
//! At a fixed rate latencies count from the moment a request was due, not from when a connection was free: a stall is
//! then seen by all the requests it delays.

use crate::message::Reply;
use crate::raw::Connection;
use crate::wait::Stop;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

type Make = Arc<dyn Fn(u64) -> Vec<u8> + Send + Sync>;
type Judge = Arc<dyn Fn(u64, &Reply) -> Result<(), String> + Send + Sync>;

/// Samples kept at most; beyond that requests are counted, not timed.
const SAMPLES_MAX: usize = 10_000_000;
/// Failures told in words; the rest is counted.
const FAILURES_TOLD: usize = 50;

/// A load, before it runs.
#[derive(Clone)]
pub struct Load {
    address: SocketAddr,
    connections: usize,
    rate: Option<f64>,
    count: u64,
    make: Make,
    judge: Judge,
}

impl Load {
    /// `GET path` to `host` on one connection as fast as it goes; 200 is what is expected.
    pub fn get(address: SocketAddr, host: &str, path: &str) -> Load {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes();
        Load::new(address, move |_| request.clone())
    }

    /// Requests of any kind, whole with head and body; `make` gets their number.
    pub fn new(address: SocketAddr, make: impl Fn(u64) -> Vec<u8> + Send + Sync + 'static) -> Load {
        let judge: Judge =
            Arc::new(|_, reply| if reply.status == 200 { Ok(()) } else { Err(format!("status {}: {}", reply.status, reply.text())) });
        Load { address, connections: 1, rate: None, count: u64::MAX, make: Arc::new(make), judge }
    }

    /// On so many connections, one thread each.
    #[must_use]
    pub fn connections(mut self, connections: usize) -> Load {
        self.connections = connections;
        self
    }

    /// At so many requests a second over all connections.
    #[must_use]
    pub fn rate(mut self, per_second: f64) -> Load {
        self.rate = Some(per_second);
        self
    }

    /// Ends by itself after so many requests.
    #[must_use]
    pub fn count(mut self, count: u64) -> Load {
        self.count = count;
        self
    }

    /// What is a good answer to request number n.
    #[must_use]
    pub fn judge(mut self, judge: impl Fn(u64, &Reply) -> Result<(), String> + Send + Sync + 'static) -> Load {
        self.judge = Arc::new(judge);
        self
    }

    /// Starts it.
    pub fn start(self) -> Running {
        let shared = Arc::new(Shared {
            load: self,
            began: Instant::now(),
            ticket: AtomicU64::new(0),
            done: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            told: Mutex::default(),
            stop: Stop::default(),
        });
        let drive = |number: usize| {
            let shared = shared.clone();
            thread::Builder::new()
                .name(format!("load-{number}"))
                .stack_size(256 << 10)
                .spawn(move || shared.drive())
                .expect("a thread for a connection")
        };
        let threads = (0..shared.load.connections).map(drive).collect();
        Running { shared, threads }
    }

    /// Runs it for a time.
    pub fn run_for(self, time: Duration) -> Report {
        let running = self.start();
        running.shared.stop.or_at(Instant::now() + time);
        running.stop()
    }

    /// Runs it until its count is reached.
    pub fn run(self) -> Report {
        self.start().end()
    }
}

struct Shared {
    load: Load,
    began: Instant,
    ticket: AtomicU64,
    done: AtomicU64,
    failed: AtomicU64,
    told: Mutex<Vec<(Duration, String)>>,
    stop: Stop,
}

/// When a request was due, and how long its answer took from then; microseconds since the load began.
type Sample = (u32, u32);

impl Shared {
    fn drive(&self) -> Vec<Sample> {
        let mut samples = Vec::new();
        let samples_max = SAMPLES_MAX / self.load.connections.max(1);
        let mut connection = None;
        loop {
            let number = self.ticket.fetch_add(1, Relaxed);
            if number >= self.load.count {
                return samples;
            }
            let due = match self.load.rate {
                Some(rate) => self.began + Duration::from_secs_f64(number as f64 / rate),
                None => Instant::now(),
            };
            if self.stop.is_open() || (due > Instant::now() && self.stop.or_at(due)) {
                return samples;
            }
            match self.one(&mut connection, number) {
                Ok(()) => {
                    self.done.fetch_add(1, Relaxed);
                    if samples.len() < samples_max {
                        samples.push(((due - self.began).as_micros() as u32, due.elapsed().as_micros() as u32));
                    }
                }
                Err(why) => {
                    connection = None;
                    self.failed.fetch_add(1, Relaxed);
                    let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
                    if told.len() < FAILURES_TOLD {
                        told.push((self.began.elapsed(), format!("request {number}: {why}")));
                    }
                    drop(told);
                    // A gateway that is gone must not be asked as fast as it can refuse.
                    if self.load.rate.is_none() {
                        self.stop.or_at(Instant::now() + Duration::from_millis(5));
                    }
                }
            }
        }
    }

    fn one(&self, kept: &mut Option<Connection>, number: u64) -> Result<(), String> {
        let connection = match kept {
            Some(connection) => connection,
            None => kept.insert(Connection::open(self.load.address).map_err(|error| format!("connect: {error}"))?),
        };
        let request = (self.load.make)(number);
        let method =
            request.split(|&byte| byte == b' ').next().map(|method| String::from_utf8_lossy(method).into_owned()).unwrap_or_default();
        connection.send(&request).map_err(|error| format!("send: {error}"))?;
        let reply = connection.reply(&method).map_err(|error| format!("answer: {error}"))?;
        (self.load.judge)(number, &reply)?;
        if reply.closes() {
            *kept = None;
        }
        Ok(())
    }
}

/// A load that runs; dropping it stops it.
pub struct Running {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<Vec<Sample>>>,
}

impl Running {
    /// Good answers so far.
    pub fn done(&self) -> u64 {
        self.shared.done.load(Relaxed)
    }

    /// Failures so far.
    pub fn failed(&self) -> u64 {
        self.shared.failed.load(Relaxed)
    }

    /// Stops it after the requests in flight.
    pub fn stop(self) -> Report {
        self.shared.stop.open();
        self.end()
    }

    fn end(mut self) -> Report {
        let samples = self.threads.drain(..).flat_map(|thread| thread.join().expect("a load thread does not panic")).collect();
        let failures = std::mem::take(&mut *self.shared.told.lock().unwrap_or_else(PoisonError::into_inner));
        Report {
            done: self.done(),
            failed: self.failed(),
            failures,
            began: self.shared.began,
            lasted: self.shared.began.elapsed(),
            samples,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.stop.open();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// What a load saw.
#[derive(Clone, Debug)]
pub struct Report {
    /// Good answers.
    pub done: u64,
    /// Everything else.
    pub failed: u64,
    /// The first failures: when since the start, and what.
    pub failures: Vec<(Duration, String)>,
    /// When it began.
    pub began: Instant,
    /// How long it ran.
    pub lasted: Duration,
    samples: Vec<Sample>,
}

impl Report {
    /// The latency that this share of the good answers did not exceed (`0.99`); zero when there are none.
    pub fn percentile(&self, share: f64) -> Duration {
        percentile(self.samples.iter().map(|sample| sample.1).collect(), share)
    }

    /// The same for requests that were due between two moments.
    pub fn percentile_between(&self, from: Instant, to: Instant, share: f64) -> Duration {
        let at = |moment: Instant| moment.saturating_duration_since(self.began).as_micros() as u32;
        let (from, to) = (at(from), at(to));
        percentile(self.samples.iter().filter(|sample| (from..to).contains(&sample.0)).map(|sample| sample.1).collect(), share)
    }

    /// Good answers a second.
    pub fn rate(&self) -> f64 {
        self.done as f64 / self.lasted.as_secs_f64().max(1e-9)
    }

    /// Nothing failed, and something was asked.
    ///
    /// # Panics
    /// Otherwise, telling the first failures.
    #[track_caller]
    pub fn expect_clean(&self) {
        assert!(self.failed == 0, "{} of {} requests failed: {:#?}", self.failed, self.failed + self.done, self.failures);
        assert!(self.done > 0, "the load asked nothing");
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (p50, p99, p999) = (self.percentile(0.5), self.percentile(0.99), self.percentile(0.999));
        write!(
            f,
            "{} requests in {:.1} s ({:.0}/s), {} failed, p50 {p50:?}, p99 {p99:?}, p99.9 {p999:?}",
            self.done,
            self.lasted.as_secs_f64(),
            self.rate(),
            self.failed
        )
    }
}

fn percentile(mut times: Vec<u32>, share: f64) -> Duration {
    if times.is_empty() {
        return Duration::ZERO;
    }
    let at = ((times.len() as f64 * share) as usize).min(times.len() - 1);
    Duration::from_micros((*times.select_nth_unstable(at).1).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{Act, Upstream, ok};

    #[test]
    fn every_request_is_answered_and_counted_once() {
        let upstream = Upstream::sized();
        let report = Load::get(upstream.address(), "x", "/b/10").connections(4).count(400).run();
        report.expect_clean();
        assert_eq!((report.done, upstream.served(), report.samples.len()), (400, 400, 400));
        assert!(report.percentile(0.99) >= report.percentile(0.5));
    }

    #[test]
    fn a_fixed_rate_is_kept_and_a_stall_is_seen_by_all_it_delays() {
        let upstream = Upstream::start(|seen| match seen.number {
            20 => vec![Act::Pause(Duration::from_millis(200)), Act::Send(ok(b"x"))],
            _ => vec![Act::Send(ok(b"x"))],
        });
        let report = Load::get(upstream.address(), "x", "/").rate(200.0).count(80).run();
        report.expect_clean();
        assert!(report.lasted >= Duration::from_millis(390), "{:?}", report.lasted);
        let delayed = report.samples.iter().filter(|sample| sample.1 > 50_000).count();
        assert!(delayed >= 20, "only {delayed} requests saw the stall");
    }

    #[test]
    fn a_failure_is_told_with_its_reason_and_the_load_goes_on() {
        let upstream = Upstream::start(|seen| match seen.number {
            3 => vec![Act::Close],
            5 => vec![Act::Send(b"HTTP/1.1 503 no\r\nContent-Length: 0\r\n\r\n".to_vec())],
            _ => vec![Act::Send(ok(b"x"))],
        });
        let report = Load::get(upstream.address(), "x", "/").count(20).run();
        assert_eq!((report.done, report.failed), (18, 2));
        assert!(
            report.failures[0].1.contains("ended inside an answer") && report.failures[1].1.contains("status 503"),
            "{:?}",
            report.failures
        );
    }
}
