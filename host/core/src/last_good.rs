//! The last good answers of one route, kept for degrade rules. Pure: `now` is an argument.
//!
//! Kept are complete 200 answers to GET, keyed by authority, path, query and consumer, so that nobody is shown what
//! another consumer was shown. Bounded by [`ANSWER_MAX`] for each and [`ROUTE_MAX`] for the route; the oldest leave first.

use crate::exchange::Facts;
use crate::head::{Known, Method, ResponseHead};
use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Largest body that is kept.
pub const ANSWER_MAX: usize = 64 * 1024;
/// All kept bodies and heads of one route on one core.
pub const ROUTE_MAX: usize = 4 * 1024 * 1024;

/// One kept answer.
#[derive(Clone, Debug)]
pub struct Kept {
    /// Its head.
    pub head: ResponseHead,
    /// Its body.
    pub body: Bytes,
    /// When it was given.
    pub at: Instant,
}

/// The kept answers of one route on one core.
#[derive(Debug, Default)]
pub struct LastGood {
    kept: HashMap<Box<str>, (u64, Kept)>,
    order: VecDeque<(u64, Box<str>)>,
    serial: u64,
    bytes: usize,
}

/// The key of an exchange; `None`: its answer is never kept.
pub fn key(facts: &Facts) -> Option<Box<str>> {
    if facts.request.method != Method::Get {
        return None;
    }
    let consumer = facts.attrs.get("consumer");
    // Credentials that no rule has turned into a consumer: whose answer it is cannot be told.
    if consumer.is_none()
        && (facts.request.fields.known(Known::Authorization).is_some() || facts.request.fields.known(Known::Cookie).is_some())
    {
        return None;
    }
    let request = &facts.request;
    let query = request.query().map_or(String::new(), |query| format!("?{query}"));
    Some(format!("{}\n{}{query}\n{}", request.authority(), request.path(), consumer.unwrap_or_default()).into())
}

/// May an answer with this head be kept?
pub fn may_keep(head: &ResponseHead, size: Option<u64>) -> bool {
    head.status == 200
        && size.is_none_or(|size| size <= ANSWER_MAX as u64)
        && head.fields.known(Known::SetCookie).is_none()
        && !head.fields.known_all(Known::CacheControl).any(|value| {
            let value = value.to_ascii_lowercase();
            value.windows(8).any(|part| part == b"no-store") || value.windows(7).any(|part| part == b"private")
        })
}

impl LastGood {
    /// Keeps a complete answer.
    pub fn keep(&mut self, key: Box<str>, kept: Kept) {
        let size = cost(&key, &kept);
        if kept.body.len() > ANSWER_MAX || size > ROUTE_MAX {
            return;
        }
        self.forget(&key);
        self.serial += 1;
        self.bytes += size;
        self.order.push_back((self.serial, key.clone()));
        self.kept.insert(key, (self.serial, kept));
        while self.bytes > ROUTE_MAX {
            let Some((serial, oldest)) = self.order.pop_front() else { break };
            // A key that was kept again since has a younger entry further behind.
            if self.kept.get(&oldest).is_some_and(|(have, _)| *have == serial) {
                self.forget(&oldest);
            }
        }
        // Entries of forgotten keys are dropped before they outnumber the living.
        if self.order.len() > 2 * self.kept.len() + 64 {
            let kept = &self.kept;
            self.order.retain(|(serial, key)| kept.get(key).is_some_and(|(have, _)| have == serial));
        }
    }

    /// The kept answer, if it is young enough, and its age.
    pub fn find(&self, key: &str, age_max: Duration, now: Instant) -> Option<(&Kept, Duration)> {
        let (_, kept) = self.kept.get(key)?;
        let age = now.saturating_duration_since(kept.at);
        (age <= age_max).then_some((kept, age))
    }

    fn forget(&mut self, key: &str) {
        if let Some((key, (_, kept))) = self.kept.remove_entry(key) {
            self.bytes = self.bytes.saturating_sub(cost(&key, &kept));
        }
    }
}

fn cost(key: &str, kept: &Kept) -> usize {
    2 * key.len() + kept.body.len() + kept.head.fields.text_len() + 256
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_leave_when_the_route_is_full() {
        let now = Instant::now();
        let mut last_good = LastGood::default();
        for n in 0..200 {
            let kept = Kept { head: ResponseHead::new(200), body: vec![0; 60_000].into(), at: now };
            last_good.keep(n.to_string().into(), kept);
            assert!(last_good.bytes <= ROUTE_MAX);
        }
        assert!(last_good.find("0", Duration::MAX, now).is_none());
        assert!(last_good.find("199", Duration::MAX, now).is_some());
        assert!(last_good.find("199", Duration::from_secs(1), now + Duration::from_secs(2)).is_none());
    }

    #[test]
    fn keeping_one_key_again_and_again_stays_small() {
        let now = Instant::now();
        let mut last_good = LastGood::default();
        for _ in 0..10_000 {
            last_good.keep("k".into(), Kept { head: ResponseHead::new(200), body: Bytes::from_static(b"x"), at: now });
        }
        assert!(last_good.order.len() < 100 && last_good.bytes < 1000);
    }
}
