//! When the certificates that listeners show end: as metrics, and from [`SOON`] before on as a warning once a day.
//!
//! It renews nothing and takes nothing out of service: a certificate that has expired is shown on (see `docs/operations.md`).

use crate::assemble::Generation;
use crate::config::plan::Plan;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use wharf_core::metrics::{Level, Registry};

/// A warning from so long before the end on: a renewal that failed on Friday is still in time after a holiday.
const SOON: Duration = Duration::from_secs(14 * 86_400);
/// A warning about one certificate comes once in this time.
const AGAIN: Duration = Duration::from_secs(86_400);
/// So often is looked how late it is.
const LOOK: Duration = Duration::from_secs(60);
/// Longest name of a certificate in a metric and in the log, bytes.
const NAME_MAX: usize = 80;

/// Listener and certificate: its first name, and how many more it has.
type Key = (Arc<str>, String);

/// Shows when they end for as long as it is polled. Never resolves.
pub async fn attend(metrics: Arc<Registry>, mut generations: watch::Receiver<Arc<Generation>>) {
    let mut each = tokio::time::interval(LOOK);
    let mut shown: BTreeMap<Key, Arc<Level>> = BTreeMap::new();
    let mut told = Told::default();
    loop {
        let ends = ends(&generations.borrow_and_update().plan);
        shown.retain(|key, _| ends.contains_key(key));
        for (key, end) in &ends {
            let level = shown.entry(key.clone()).or_insert_with(|| {
                let labels = [("listener", &*key.0), ("certificate", key.1.as_str())];
                metrics.level(
                    "wharf_tls_certificate_expires_seconds",
                    "When the certificate ends to be valid, seconds since 1970.",
                    &labels,
                )
            });
            level.set(i64::try_from(end.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()).unwrap_or(i64::MAX));
        }
        for ((listener, certificate), left) in told.due(&ends, SystemTime::now()) {
            match left {
                Some(left) => tracing::warn!(
                    %listener, certificate, hours_left = left.as_secs() / 3600,
                    "a certificate ends soon: have it renewed, and reload if its files are others"
                ),
                None => tracing::warn!(%listener, certificate, "a certificate has expired, and clients refuse it: have it renewed"),
            }
        }
        tokio::select! {
            _ = each.tick() => {}
            Ok(()) = generations.changed() => {}
        }
    }
}

/// When each certificate ends. Of several that are called the same (one of each kind of key) it is the first end that counts.
fn ends(plan: &Plan) -> BTreeMap<Key, SystemTime> {
    let mut ends: BTreeMap<Key, SystemTime> = BTreeMap::new();
    for listener in &plan.listeners {
        for certificate in listener.tls.iter().flat_map(|tls| &tls.offer.certificates) {
            let end = ends.entry((listener.name.clone(), called(certificate.names()))).or_insert(certificate.ends());
            *end = (*end).min(certificate.ends());
        }
    }
    ends
}

fn called(names: &[Box<str>]) -> String {
    let first = names.first().map_or("", |name| &**name);
    let first = first.get(..first.floor_char_boundary(NAME_MAX)).unwrap_or_default();
    match names.len() {
        0 | 1 => first.to_owned(),
        all => format!("{first} and {} more", all - 1),
    }
}

/// What was warned of, and when.
#[derive(Default)]
struct Told(HashMap<Key, (SystemTime, SystemTime)>);

impl Told {
    /// Which are to be warned of now, and how long each has left; `None`: it is over.
    fn due(&mut self, ends: &BTreeMap<Key, SystemTime>, now: SystemTime) -> Vec<(Key, Option<Duration>)> {
        self.0.retain(|key, (end, _)| ends.get(key) == Some(end));
        let mut due = Vec::new();
        for (key, &end) in ends {
            let left = end.duration_since(now).ok().filter(|left| !left.is_zero());
            let again = |&(_, at): &(SystemTime, SystemTime)| now.duration_since(at).is_ok_and(|since| since < AGAIN);
            if left.is_some_and(|left| left > SOON) || self.0.get(key).is_some_and(again) {
                continue;
            }
            self.0.insert(key.clone(), (end, now));
            due.push((key.clone(), left));
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_ends_is_told_of_once_a_day_until_it_is_another() {
        const HOUR: Duration = Duration::from_secs(3600);
        let begin = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let key: Key = ("web".into(), "a.example".into());
        let of = |end: SystemTime| BTreeMap::from([(key.clone(), end)]);
        let (first, renewed) = (of(begin + SOON + HOUR), of(begin + SOON * 6));
        let mut told = Told::default();
        let mut hours: Vec<u32> = Vec::new();
        for hour in 0..24 * 20 {
            if !told.due(&first, begin + HOUR * hour).is_empty() {
                hours.push(hour);
            }
        }
        assert_eq!(hours, (0..20).map(|day| 1 + day * 24).collect::<Vec<_>>());
        assert_eq!(told.due(&first, begin + SOON * 2), [(key.clone(), None)], "it is over");
        assert!(told.due(&renewed, begin + SOON * 2).is_empty());
        // The old one again, by a mistake: at once.
        assert_eq!(told.due(&first, begin + SOON * 2).len(), 1);
        // A clock that was set back is no reason to be silent for longer than a day.
        assert_eq!(told.due(&first, begin + SOON).len(), 1);
    }

    #[test]
    fn a_certificate_is_called_by_its_names() {
        let names = |names: &[&str]| called(&names.iter().map(|&name| name.into()).collect::<Vec<_>>());
        assert_eq!(
            (names(&[]), names(&["a.example"]), names(&["a", "b", "c"])),
            (String::new(), "a.example".into(), "a and 2 more".into())
        );
        assert_eq!(names(&["x".repeat(300).as_str()]).len(), NAME_MAX);
    }
}
