//! What a write does to one key. Pure: what is there and what time it is are arguments.

use bytes::Bytes;
use wharf_core::store::StoreError;

/// One value and its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) value: Bytes,
    /// Milliseconds since 1970; 0: never.
    pub(crate) expires_ms: u64,
}

impl Entry {
    pub(crate) fn is_over(&self, now_ms: u64) -> bool {
        // Beyond the millisecond in which it ends, because that in which it was set had begun before: never early.
        self.expires_ms != 0 && self.expires_ms < now_ms
    }
}

/// A write. `ttl_ms` `None`: for ever.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Set { value: Bytes, ttl_ms: Option<u64> },
    Delete,
    CompareAndSet { expected: Option<Bytes>, value: Bytes, ttl_ms: Option<u64> },
    Increment { by: i64, ttl_ms: Option<u64> },
}

/// What its caller is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Done,
    Whether(bool),
    Sum(i64),
}

/// What it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Nothing,
    Put(Entry),
    Remove,
}

/// Decides. `present` may be over; then it counts as absent.
pub(crate) fn decide(op: &Op, present: Option<&Entry>, now_ms: u64) -> Result<(Said, Change), StoreError> {
    let live = present.filter(|entry| !entry.is_over(now_ms));
    let put = |value: &Bytes, ttl_ms: Option<u64>| {
        let expires_ms = ttl_ms.map_or(0, |ttl| now_ms.saturating_add(ttl));
        Change::Put(Entry { value: value.clone(), expires_ms })
    };
    Ok(match op {
        Op::Set { value, ttl_ms } => (Said::Done, put(value, *ttl_ms)),
        // One that is over is left to the sweeper.
        Op::Delete => (Said::Whether(live.is_some()), live.map_or(Change::Nothing, |_| Change::Remove)),
        Op::CompareAndSet { expected, value, ttl_ms } => {
            let fits = live.map(|entry| &entry.value) == expected.as_ref();
            (Said::Whether(fits), if fits { put(value, *ttl_ms) } else { Change::Nothing })
        }
        Op::Increment { by, ttl_ms } => match live {
            None => (Said::Sum(*by), put(&decimal(*by), *ttl_ms)),
            Some(entry) => {
                let have: i64 = std::str::from_utf8(&entry.value).ok().and_then(|text| text.parse().ok()).ok_or(StoreError::NotACounter)?;
                let sum = have.saturating_add(*by);
                // The end was set when the counter was made: a window that is counted in does not move.
                (Said::Sum(sum), Change::Put(Entry { value: decimal(sum), expires_ms: entry.expires_ms }))
            }
        },
    })
}

fn decimal(number: i64) -> Bytes {
    number.to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(value: &'static str, expires_ms: u64) -> Entry {
        Entry { value: value.into(), expires_ms }
    }

    #[test]
    fn a_write_does_what_its_name_says() {
        let (at, over) = (entry("1", 200), entry("1", 99));
        let set = Op::Set { value: "v".into(), ttl_ms: Some(50) };
        let cas =
            |expected: Option<&'static str>| Op::CompareAndSet { expected: expected.map(Bytes::from), value: "n".into(), ttl_ms: None };
        let add = |by| Op::Increment { by, ttl_ms: Some(50) };
        let cases = [
            (set.clone(), None, Said::Done, Change::Put(entry("v", 150))),
            (set, Some(&at), Said::Done, Change::Put(entry("v", 150))),
            (Op::Delete, None, Said::Whether(false), Change::Nothing),
            (Op::Delete, Some(&at), Said::Whether(true), Change::Remove),
            (Op::Delete, Some(&over), Said::Whether(false), Change::Nothing),
            (cas(None), None, Said::Whether(true), Change::Put(entry("n", 0))),
            (cas(None), Some(&over), Said::Whether(true), Change::Put(entry("n", 0))),
            (cas(None), Some(&at), Said::Whether(false), Change::Nothing),
            (cas(Some("1")), Some(&at), Said::Whether(true), Change::Put(entry("n", 0))),
            (cas(Some("1")), Some(&over), Said::Whether(false), Change::Nothing),
            (cas(Some("2")), Some(&at), Said::Whether(false), Change::Nothing),
            (add(5), None, Said::Sum(5), Change::Put(entry("5", 150))),
            (add(5), Some(&at), Said::Sum(6), Change::Put(entry("6", 200))),
            (add(-5), Some(&over), Said::Sum(-5), Change::Put(entry("-5", 150))),
            (add(i64::MAX), Some(&at), Said::Sum(i64::MAX), Change::Put(entry("9223372036854775807", 200))),
        ];
        for (op, present, said, change) in cases {
            assert_eq!(decide(&op, present, 100), Ok((said, change)), "{op:?} on {present:?}");
        }
        for not in ["", "x", "1.0", "9223372036854775808", "1\n"] {
            assert_eq!(decide(&add(1), Some(&entry(not, 0)), 100), Err(StoreError::NotACounter), "{not:?}");
        }
    }
}
