//! Checks: every endpoint is asked now and then whether it is well.
//!
//! [`Record`] says what answers mean and is pure. [`look_after`] asks: on the control runtime, each check with its time-out, a
//! bounded number at once. Who comes too late is asked later; nobody is asked twice at the same time.

use crate::balance::random::Random;
use crate::config::HealthPolicy;
use crate::service::Service;
use crate::share::Condition;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Checks of one service at once.
const AT_ONCE: usize = 32;

/// What the answers of one endpoint have come to.
#[derive(Clone, Debug, Default)]
pub struct Record {
    condition: Condition,
    /// Answers in a row that speak against `condition`.
    against: u32,
    trouble: Option<String>,
}

impl Record {
    /// An endpoint that nobody has asked.
    pub fn unknown() -> Record {
        Record { condition: Condition::Unknown, ..Record::default() }
    }

    /// What is known.
    pub fn condition(&self) -> Condition {
        self.condition
    }

    /// What was wrong the last time, if it was.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// An answer. `true`: the endpoint is well now and was not, or the other way round.
    pub fn heard(&mut self, answer: Result<(), String>, healthy: u32, unhealthy: u32) -> bool {
        let says = if answer.is_ok() { Condition::Well } else { Condition::Ill };
        self.trouble = answer.err();
        if says == self.condition {
            self.against = 0;
            return false;
        }
        self.against = self.against.saturating_add(1);
        let enough = match self.condition {
            // Whoever waits for three answers before a first word waits for nothing.
            Condition::Unasked | Condition::Unknown => 1,
            Condition::Ill => healthy,
            Condition::Well => unhealthy,
        };
        let turned = self.against >= enough;
        if turned {
            (self.condition, self.against) = (says, 0);
        }
        turned
    }
}

/// The wait until the next check: the interval, give or take a tenth, so that checks of many endpoints and many gateways
/// do not come together.
fn spread(interval: Duration, random: &mut Random) -> Duration {
    interval.mul_f64(0.9 + 0.2 * random.unit())
}

/// Asks the endpoints of a service for ever, as its policy says by then. Awaited by the service's watcher.
///
/// # Cancel safety
/// Dropping it ends the checks that are in progress.
pub(crate) async fn look_after(service: &Service, seed: u64) {
    let mut random = Random::new(seed);
    let mut asking: JoinSet<(SocketAddr, Result<(), String>)> = JoinSet::new();
    // When each is asked next; `None`: it is being asked.
    let mut due: HashMap<SocketAddr, Option<Instant>> = HashMap::new();
    let mut policy: Option<HealthPolicy> = None;
    loop {
        let wanted = service.care().health.clone();
        if !policy.as_ref().zip(wanted.as_ref()).is_some_and(|(have, wanted)| have.is_same(wanted)) {
            // Other questions: what was asked before does not count.
            asking.abort_all();
            while asking.join_next().await.is_some() {}
            due.clear();
        }
        // Though the question is the same, it may be asked in a newer way: with a renewed certificate.
        policy = wanted;
        let now = Instant::now();
        let mut next: Option<Instant> = None;
        if let Some(policy) = &policy {
            let set = service.endpoints();
            due.retain(|address, _| set.endpoints.iter().any(|endpoint| endpoint.address == *address));
            for endpoint in &set.endpoints {
                let at = due.entry(endpoint.address).or_insert(Some(now));
                match *at {
                    Some(moment) if moment <= now && asking.len() < AT_ONCE => {
                        *at = None;
                        let (endpoint, probe, limit) = (endpoint.clone(), policy.probe.clone(), policy.timeout);
                        asking.spawn(async move {
                            let asked = tokio::time::timeout(limit, probe.ask(&endpoint)).await;
                            (endpoint.address, asked.unwrap_or_else(|_| Err(format!("no answer within {limit:?}"))))
                        });
                    }
                    // One that is due and finds no room is asked when another has ended.
                    Some(moment) if moment > now => next = Some(next.map_or(moment, |next| next.min(moment))),
                    _ => {}
                }
            }
        }
        tokio::select! {
            Some(ended) = asking.join_next() => {
                // One that was aborted, or fell, has nothing to say; it is asked anew.
                let Ok((address, answer)) = ended else { due.clear(); continue };
                if let Some(policy) = &policy {
                    service.heard(address, answer, policy);
                    if let Some(at) = due.get_mut(&address) {
                        *at = Some(now + spread(policy.interval, &mut random));
                    }
                }
            }
            () = service.care_changed() => {}
            () = until(next) => {}
        }
    }
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ill() -> Result<(), String> {
        Err("status 500".into())
    }

    #[test]
    fn the_first_answer_counts_alone_and_later_ones_in_a_row() {
        let mut record = Record::unknown();
        assert!(record.heard(Ok(()), 2, 3) && record.condition() == Condition::Well);
        for answer in [ill(), ill(), Ok(()), ill(), ill()] {
            assert!(!record.heard(answer, 2, 3));
        }
        assert_eq!((record.condition(), record.trouble()), (Condition::Well, Some("status 500")));
        assert!(record.heard(ill(), 2, 3) && record.condition() == Condition::Ill);
        for answer in [Ok(()), ill(), Ok(())] {
            assert!(!record.heard(answer, 2, 3));
        }
        assert!(record.heard(Ok(()), 2, 3) && record.condition() == Condition::Well && record.trouble().is_none());
        assert!(Record::unknown().heard(ill(), 9, 9));
    }

    #[test]
    fn checks_keep_their_interval_to_a_tenth() {
        let mut random = Random::new(3);
        let waits: Vec<Duration> = (0..1_000).map(|_| spread(Duration::from_secs(10), &mut random)).collect();
        assert!(waits.iter().all(|wait| (9_000..=11_000).contains(&wait.as_millis())));
        assert!(waits.iter().any(|wait| wait.as_millis() < 9_300) && waits.iter().any(|wait| wait.as_millis() > 10_700));
    }
}
