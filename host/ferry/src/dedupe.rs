//! Which requests with a key have been done, so that their like get the same answer. Pure.
//!
//! A key is known for a window of time, partition by partition: whoever is given a partition reads its ledger, and knows what
//! its predecessor knew. Answers themselves stay in the ledger; the newest are remembered as well, as far as they fit.

use bytes::Bytes;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// What makes requests one: a digest of the caller's key and of what it belongs to.
pub(crate) type Key = [u8; 16];

/// What is known of a request with this key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// Nothing.
    Nothing,
    /// A message with it is being worked on.
    Calling,
    /// It was done: its answer stands there in the ledger, and is this where it is still remembered.
    Done(u64, Option<Bytes>),
}

/// See the head of the file.
#[derive(Debug)]
pub(crate) struct Dedupe {
    window_ms: u64,
    keys_max: usize,
    answers_bytes_max: usize,
    answers_bytes: usize,
    parts: HashMap<u32, Keys>,
    /// Partitions and keys with remembered answers, oldest first.
    remembered: VecDeque<(u32, Key)>,
}

#[derive(Debug, Default)]
struct Keys {
    known: HashMap<Key, State>,
    /// Oldest first. A key that was done twice stands here twice.
    times: VecDeque<(u64, Key)>,
}

#[derive(Debug)]
enum State {
    Calling,
    Done { time_ms: u64, offset: u64, answer: Option<Bytes> },
}

impl Dedupe {
    /// Keys are known for `window`, at most `keys_max` in each partition; answers of this many bytes are remembered.
    pub(crate) fn new(window: Duration, keys_max: usize, answers_bytes_max: usize) -> Dedupe {
        let window_ms = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        Dedupe { window_ms, keys_max, answers_bytes_max, answers_bytes: 0, parts: HashMap::new(), remembered: VecDeque::new() }
    }

    /// What is known of a key.
    pub(crate) fn ask(&mut self, partition: u32, key: &Key, now_ms: u64) -> Known {
        self.sweep(partition, now_ms);
        match self.parts.get(&partition).and_then(|keys| keys.known.get(key)) {
            None => Known::Nothing,
            Some(State::Calling) => Known::Calling,
            Some(State::Done { offset, answer, .. }) => Known::Done(*offset, answer.clone()),
        }
    }

    /// A message with this key is being worked on.
    pub(crate) fn begin(&mut self, partition: u32, key: Key) {
        self.parts.entry(partition).or_default().known.entry(key).or_insert(State::Calling);
    }

    /// It has come to nothing, and is as if it had not been begun.
    pub(crate) fn forget(&mut self, partition: u32, key: &Key) {
        if let Some(keys) = self.parts.get_mut(&partition)
            && matches!(keys.known.get(key), Some(State::Calling))
        {
            keys.known.remove(key);
        }
    }

    /// It is done, and its answer is in the ledger.
    pub(crate) fn done(&mut self, partition: u32, key: Key, time_ms: u64, offset: u64, answer: Bytes) {
        let keys = self.parts.entry(partition).or_default();
        let kept = answer.len() <= self.answers_bytes_max / 16;
        if kept {
            self.answers_bytes += answer.len();
            self.remembered.push_back((partition, key));
        }
        let before = keys.known.insert(key, State::Done { time_ms, offset, answer: kept.then_some(answer) });
        if let Some(State::Done { answer: Some(answer), .. }) = before {
            self.answers_bytes -= answer.len();
        }
        keys.times.push_back((time_ms, key));
        self.sweep(partition, time_ms);
        while self.answers_bytes > self.answers_bytes_max {
            let Some((partition, key)) = self.remembered.pop_front() else { break };
            let state = self.parts.get_mut(&partition).and_then(|keys| keys.known.get_mut(&key));
            if let Some(State::Done { answer, .. }) = state
                && let Some(answer) = answer.take()
            {
                self.answers_bytes -= answer.len();
            }
        }
    }

    /// The partition is another's.
    pub(crate) fn lost(&mut self, partition: u32) {
        let Some(keys) = self.parts.remove(&partition) else { return };
        let answers = keys.known.into_values().filter_map(|state| match state {
            State::Done { answer, .. } => answer,
            State::Calling => None,
        });
        self.answers_bytes -= answers.map(|answer| answer.len()).sum::<usize>();
        self.remembered.retain(|(of, _)| *of != partition);
    }

    fn sweep(&mut self, partition: u32, now_ms: u64) {
        let Some(keys) = self.parts.get_mut(&partition) else { return };
        while let Some((time, key)) = keys.times.front().copied() {
            if time.saturating_add(self.window_ms) > now_ms && keys.times.len() <= self.keys_max {
                break;
            }
            keys.times.pop_front();
            // Done again since: it stands further behind as well.
            let is_it = matches!(keys.known.get(&key), Some(State::Done { time_ms, .. }) if *time_ms == time);
            if is_it && let Some(State::Done { answer: Some(answer), .. }) = keys.known.remove(&key) {
                self.answers_bytes -= answer.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn len(dedupe: &Dedupe) -> usize {
        dedupe.parts.values().map(|keys| keys.known.len()).sum()
    }

    fn key(number: u8) -> Key {
        [number; 16]
    }

    #[test]
    fn a_key_is_known_for_its_window_and_no_longer() {
        let mut dedupe = Dedupe::new(Duration::from_millis(100), 10, 1600);
        assert_eq!(dedupe.ask(0, &key(1), 0), Known::Nothing);
        dedupe.begin(0, key(1));
        assert_eq!(dedupe.ask(0, &key(1), 0), Known::Calling);
        dedupe.done(0, key(1), 10, 7, Bytes::from_static(b"a"));
        assert_eq!(dedupe.ask(0, &key(1), 109), Known::Done(7, Some(Bytes::from_static(b"a"))));
        assert_eq!(dedupe.ask(1, &key(1), 109), Known::Nothing, "of another partition");
        assert_eq!((dedupe.ask(0, &key(1), 110), dedupe.answers_bytes), (Known::Nothing, 0));
    }

    #[test]
    fn what_came_to_nothing_may_be_begun_again_and_what_was_done_may_not() {
        let mut dedupe = Dedupe::new(Duration::from_secs(1), 10, 1600);
        dedupe.begin(0, key(1));
        dedupe.forget(0, &key(1));
        assert_eq!(dedupe.ask(0, &key(1), 0), Known::Nothing);
        dedupe.done(0, key(1), 0, 3, Bytes::new());
        dedupe.begin(0, key(1));
        dedupe.forget(0, &key(1));
        assert!(matches!(dedupe.ask(0, &key(1), 0), Known::Done(3, _)));
    }

    #[test]
    fn bounds_hold_and_the_oldest_go_first() {
        let mut dedupe = Dedupe::new(Duration::from_secs(1000), 4, 160);
        for number in 0..100u8 {
            dedupe.done(u32::from(number % 2), key(number), number.into(), number.into(), Bytes::from(vec![0; 10]));
            assert!(len(&dedupe) <= 8 && dedupe.answers_bytes <= 160, "{number}");
        }
        assert_eq!(dedupe.ask(0, &key(90), 100), Known::Nothing);
        assert!(matches!(dedupe.ask(0, &key(98), 100), Known::Done(98, Some(_))));
        dedupe.lost(0);
        dedupe.lost(1);
        assert_eq!((len(&dedupe), dedupe.answers_bytes), (0, 0));
    }

    #[test]
    fn an_answer_that_is_not_remembered_is_found_in_the_ledger() {
        let mut dedupe = Dedupe::new(Duration::from_secs(1), 10, 160);
        dedupe.done(0, key(1), 0, 5, Bytes::from(vec![0; 11]));
        assert_eq!(dedupe.ask(0, &key(1), 0), Known::Done(5, None));
    }
}
