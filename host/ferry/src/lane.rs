//! What a member of a lane's group holds and what may begin now: order for each key, many keys side by side. Pure.
//!
//! A message is taken, waits until its key is free, is begun, is ended. Between being chosen and being begun lies the note that
//! makes it ours (`Source::note`); the shell in `flow.rs` does that. A partition that is given back or lost forgets all of
//! its messages; whatever ends later is recognised by its [`Turn`] and changes nothing.

use crate::window::Window;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};
use wharf_core::bus::{Mark, Standing};

/// Counts how often partitions were given to this member: what was taken in an earlier turn is another's now.
pub type Turn = u64;

/// How much at a time.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Messages begun and not ended, over all partitions.
    pub in_flight_max: usize,
    /// Messages of one partition that wait or are begun. Beyond it, the partition is paused.
    pub held_max: usize,
    /// Messages begun in a second, if it is bounded: backlogs are worked off at this pace.
    pub rate: Option<f64>,
}

/// A message in the lane.
#[derive(Clone, Debug)]
pub struct Item<T> {
    /// Its partition.
    pub partition: u32,
    /// When it was taken.
    pub turn: Turn,
    /// Where it stands.
    pub offset: u64,
    /// What it must be in order with; `None`: with nothing.
    pub key: Option<u64>,
    /// The message.
    pub what: T,
}

/// See the head of the file.
#[derive(Debug)]
pub struct Lane<T> {
    bounds: Bounds,
    parts: HashMap<u32, Part<T>>,
    /// Free to begin, in the order in which they became so.
    ready: VecDeque<Item<T>>,
    in_flight: usize,
    turns: Turn,
    bucket: Bucket,
}

#[derive(Debug)]
struct Part<T> {
    turn: Turn,
    window: Window,
    /// Keys with a message that is ready or begun, and who waits behind it.
    keys: HashMap<u64, VecDeque<Item<T>>>,
    /// Messages that wait, are ready or begun.
    held: usize,
    begun: usize,
    dirty: bool,
    paused: bool,
    asked: bool,
}

impl<T> Lane<T> {
    /// A lane without partitions.
    pub fn new(bounds: Bounds, now: Instant) -> Lane<T> {
        Lane { bounds, parts: HashMap::new(), ready: VecDeque::new(), in_flight: 0, turns: 0, bucket: Bucket::new(bounds.rate, now) }
    }

    /// Other bounds from now on.
    pub fn set_bounds(&mut self, bounds: Bounds, now: Instant) {
        if bounds.rate != self.bounds.rate {
            self.bucket = Bucket::new(bounds.rate, now);
        }
        self.bounds = bounds;
    }

    /// A partition is ours.
    pub fn given(&mut self, partition: u32, standing: &Standing) -> Turn {
        self.lost(partition);
        self.turns += 1;
        let window = Window::of(standing);
        let part = Part { turn: self.turns, window, keys: HashMap::new(), held: 0, begun: 0, dirty: false, paused: false, asked: false };
        self.parts.insert(partition, part);
        self.turns
    }

    /// A partition is not ours any more.
    pub fn lost(&mut self, partition: u32) {
        if let Some(part) = self.parts.remove(&partition) {
            self.in_flight -= part.begun;
            self.ready.retain(|item| item.partition != partition);
        }
    }

    /// Another member is to have a partition: nothing more of it is begun.
    pub fn asked(&mut self, partition: u32) {
        let Some(part) = self.parts.get_mut(&partition) else { return };
        part.asked = true;
        part.keys.values_mut().for_each(VecDeque::clear);
        part.held = part.begun;
        self.ready.retain(|item| item.partition != partition);
    }

    /// Partitions that others want and that can be given back: nothing of them is begun, and all is noted.
    pub fn to_release(&self) -> Vec<u32> {
        self.parts.iter().filter(|(_, part)| part.asked && part.begun == 0 && !part.dirty).map(|(partition, _)| *partition).collect()
    }

    /// Is this partition ours in this turn?
    pub fn is_ours(&self, partition: u32, turn: Turn) -> bool {
        self.parts.get(&partition).is_some_and(|part| part.turn == turn)
    }

    /// Our partitions with the turn of each.
    pub fn partitions(&self) -> impl Iterator<Item = (u32, Turn)> {
        self.parts.iter().map(|(partition, part)| (*partition, part.turn))
    }

    /// A message has come: its turn, and what is known of it. `None`: it is of no partition of ours.
    pub fn take(&mut self, partition: u32, offset: u64) -> Option<(Turn, Mark)> {
        let part = self.parts.get_mut(&partition).filter(|part| !part.asked)?;
        Some((part.turn, part.window.take(offset)))
    }

    /// A message that was taken and is to be worked on.
    pub fn admit(&mut self, item: Item<T>) {
        let Some(part) = self.parts.get_mut(&item.partition).filter(|part| part.turn == item.turn && !part.asked) else { return };
        part.held += 1;
        if let Some(key) = item.key {
            if let Some(behind) = part.keys.get_mut(&key) {
                return behind.push_back(item);
            }
            part.keys.insert(key, VecDeque::new());
        }
        self.ready.push_back(item);
    }

    /// A message that needs no work, or whose work was done elsewhere: it is done.
    pub fn skip(&mut self, partition: u32, turn: Turn, offset: u64) {
        if let Some(part) = self.parts.get_mut(&partition).filter(|part| part.turn == turn) {
            part.window.set(offset, Mark::Done);
            part.dirty = true;
        }
    }

    /// The next message to begin, marked as begun; it may be worked on once that is noted. `Err`: none now; with the moment
    /// when the pace allows the next one, where that is what it waits for.
    pub fn begin(&mut self, now: Instant) -> Result<Item<T>, Option<Instant>> {
        if self.in_flight >= self.bounds.in_flight_max {
            return Err(None);
        }
        let scattered = |part: &Part<T>| part.window.is_scattered();
        let Some(at) = self.ready.iter().position(|item| !self.parts.get(&item.partition).is_some_and(scattered)) else { return Err(None) };
        self.bucket.take(now).map_err(Some)?;
        let Some(item) = self.ready.remove(at) else { return Err(None) };
        if let Some(part) = self.parts.get_mut(&item.partition) {
            part.window.set(item.offset, Mark::Begun);
            (part.begun, part.dirty) = (part.begun + 1, true);
            self.in_flight += 1;
        }
        Ok(item)
    }

    /// A message that was begun is done. `false`: its partition is another's by now.
    pub fn end(&mut self, partition: u32, turn: Turn, offset: u64, key: Option<u64>) -> bool {
        let Some(part) = self.parts.get_mut(&partition).filter(|part| part.turn == turn) else { return false };
        part.window.set(offset, Mark::Done);
        part.dirty = true;
        part.held = part.held.saturating_sub(1);
        part.begun -= 1;
        self.in_flight -= 1;
        if let Some(key) = key
            && let Some(behind) = part.keys.get_mut(&key)
        {
            match behind.pop_front() {
                Some(next) => self.ready.push_back(next),
                None => drop(part.keys.remove(&key)),
            }
        }
        true
    }

    /// A message that was begun is to be tried again later: its effect is known, it has had none. It is open again, its key waits
    /// for it, and nobody is asked to wait for it before a partition is given back. `false`: its partition is another's.
    pub fn put_back(&mut self, partition: u32, turn: Turn, offset: u64) -> bool {
        let Some(part) = self.parts.get_mut(&partition).filter(|part| part.turn == turn) else { return false };
        part.window.set(offset, Mark::Open);
        part.dirty = true;
        part.begun -= 1;
        self.in_flight -= 1;
        true
    }

    /// The time of a message that was put back has come: before all that wait.
    pub fn again(&mut self, item: Item<T>) {
        if self.parts.get(&item.partition).is_some_and(|part| part.turn == item.turn && !part.asked) {
            self.ready.push_front(item);
        }
    }

    /// How the partitions stand that have changed since they were asked for last, with the turn of each.
    pub fn changed(&mut self) -> Vec<(u32, Turn, Standing)> {
        let noted = |(partition, part): (&u32, &mut Part<T>)| {
            std::mem::take(&mut part.dirty).then(|| (*partition, part.turn, part.window.standing()))
        };
        self.parts.iter_mut().filter_map(noted).collect()
    }

    /// It could not be noted: it is asked for again.
    pub fn not_noted(&mut self, partition: u32, turn: Turn) {
        if let Some(part) = self.parts.get_mut(&partition).filter(|part| part.turn == turn) {
            part.dirty = true;
        }
    }

    /// Is there anything to note?
    pub fn is_changed(&self) -> bool {
        self.parts.values().any(|part| part.dirty)
    }

    /// Partitions that are to be paused (`true`) or go on, since it was asked last.
    pub fn pauses(&mut self) -> Vec<(u32, bool)> {
        let max = self.bounds.held_max;
        let mut told = Vec::new();
        for (partition, part) in &mut self.parts {
            // On at half: a partition at its bound would be told with every message.
            let full = part.held >= if part.paused { max / 2 + 1 } else { max } || part.window.is_scattered();
            if std::mem::replace(&mut part.paused, full) != full {
                told.push((*partition, full));
            }
        }
        told
    }

    /// Messages that are begun.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Messages that wait, are ready or begun.
    pub fn held(&self) -> usize {
        self.parts.values().map(|part| part.held).sum()
    }
}

/// A pace: so many in a second, at most a tenth of a second's at once.
#[derive(Debug)]
struct Bucket {
    rate: Option<f64>,
    left: f64,
    read: Instant,
}

impl Bucket {
    fn new(rate: Option<f64>, now: Instant) -> Bucket {
        Bucket { rate, left: 1.0, read: now }
    }

    /// Takes one; else says when there is one.
    fn take(&mut self, now: Instant) -> Result<(), Instant> {
        let Some(rate) = self.rate else { return Ok(()) };
        let most = (rate / 10.0).max(1.0);
        self.left = (self.left + now.saturating_duration_since(self.read).as_secs_f64() * rate).min(most);
        self.read = now;
        if self.left >= 1.0 {
            self.left -= 1.0;
            return Ok(());
        }
        Err(now + Duration::from_secs_f64((1.0 - self.left) / rate))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;

    const BOUNDS: Bounds = Bounds { in_flight_max: 4, held_max: 8, rate: None };

    fn item(partition: u32, turn: Turn, offset: u64, key: Option<u64>) -> Item<u64> {
        Item { partition, turn, offset, key, what: offset }
    }

    #[test]
    fn messages_of_one_key_are_worked_on_one_after_the_other_and_those_of_others_beside_them() {
        let now = Instant::now();
        let mut lane = Lane::new(BOUNDS, now);
        let turn = lane.given(0, &Standing::at(0));
        for (offset, key) in [(0, Some(7)), (1, Some(7)), (2, Some(8)), (3, None), (4, None)] {
            assert_eq!(lane.take(0, offset), Some((turn, Mark::Open)));
            lane.admit(item(0, turn, offset, key));
        }
        let begun: Vec<u64> = std::iter::from_fn(|| lane.begin(now).ok()).map(|item| item.offset).collect();
        assert_eq!(begun, [0, 2, 3, 4], "1 waits for 0");
        assert!(lane.end(0, turn, 4, None));
        assert!(lane.begin(now).is_err());
        assert!(lane.end(0, turn, 0, Some(7)));
        assert_eq!(lane.begin(now).map(|item| item.offset), Ok(1));
    }

    #[test]
    fn what_was_taken_in_an_earlier_turn_changes_nothing() {
        let now = Instant::now();
        let mut lane = Lane::new(BOUNDS, now);
        let turn = lane.given(3, &Standing::at(0));
        lane.take(3, 0);
        lane.admit(item(3, turn, 0, None));
        lane.begin(now).unwrap();
        lane.lost(3);
        assert_eq!((lane.in_flight(), lane.end(3, turn, 0, None)), (0, false));
        let again = lane.given(3, &Standing { next: 0, runs: vec![(Mark::Begun, 1)] });
        assert!(!lane.end(3, turn, 0, None));
        assert_eq!(lane.take(3, 0), Some((again, Mark::Begun)), "whoever comes next is told");
    }

    #[test]
    fn a_partition_is_given_back_when_what_was_begun_is_ended_and_noted() {
        let now = Instant::now();
        let mut lane = Lane::new(BOUNDS, now);
        let turn = lane.given(0, &Standing::at(0));
        for offset in 0..3 {
            lane.take(0, offset);
            lane.admit(item(0, turn, offset, Some(1)));
        }
        lane.begin(now).unwrap();
        lane.asked(0);
        assert!(lane.to_release().is_empty() && lane.begin(now).is_err());
        assert!(lane.end(0, turn, 0, Some(1)));
        assert!(lane.to_release().is_empty(), "it is not noted yet");
        assert_eq!(lane.changed(), [(0, turn, Standing::at(1))]);
        assert_eq!(lane.to_release(), [0]);
    }

    #[test]
    fn who_is_tried_again_later_keeps_its_place_before_its_key() {
        let now = Instant::now();
        let mut lane = Lane::new(BOUNDS, now);
        let turn = lane.given(0, &Standing::at(0));
        for offset in 0..2 {
            lane.take(0, offset);
            lane.admit(item(0, turn, offset, Some(1)));
        }
        let first = lane.begin(now).unwrap();
        assert!(lane.put_back(0, turn, 0) && lane.begin(now).is_err(), "1 waits for 0, which waits for its time");
        assert_eq!((lane.in_flight(), lane.changed()), (0, vec![(0, turn, Standing::at(0))]), "it is open again");
        lane.again(first);
        assert_eq!(lane.begin(now).map(|item| item.offset), Ok(0));
        lane.end(0, turn, 0, Some(1));
        assert_eq!(lane.begin(now).map(|item| item.offset), Ok(1));
    }

    #[test]
    fn a_partition_that_brings_too_much_is_paused_and_goes_on_at_half() {
        let now = Instant::now();
        let mut lane = Lane::new(BOUNDS, now);
        let turn = lane.given(0, &Standing::at(0));
        for offset in 0..8 {
            lane.take(0, offset);
            lane.admit(item(0, turn, offset, None));
        }
        assert_eq!((lane.pauses(), lane.pauses()), (vec![(0, true)], vec![]));
        for offset in 0..4 {
            assert_eq!(lane.begin(now).map(|item| item.offset), Ok(offset));
            assert_eq!(lane.pauses(), []);
            lane.end(0, turn, offset, None);
        }
        assert_eq!(lane.pauses(), [(0, false)]);
    }

    #[test]
    fn a_backlog_is_worked_off_at_its_pace() {
        let start = Instant::now();
        let mut lane = Lane::new(Bounds { in_flight_max: 1000, held_max: 1000, rate: Some(100.0) }, start);
        let turn = lane.given(0, &Standing::at(0));
        for offset in 0..300 {
            lane.take(0, offset);
            lane.admit(item(0, turn, offset, None));
        }
        let (mut now, mut begun) = (start, 0);
        while now < start + Duration::from_secs(1) {
            match lane.begin(now) {
                Ok(_) => begun += 1,
                Err(Some(then)) => now = then,
                Err(None) => break,
            }
        }
        assert!((100..=111).contains(&begun), "{begun}");
    }

    #[test]
    fn whatever_comes_and_ends_keys_keep_their_order_and_bounds_hold() {
        for seed in 0..3_000 {
            let mut chance = Chance::new(seed);
            let now = Instant::now();
            let mut lane = Lane::new(BOUNDS, now);
            // Offsets of each partition that has been handed out so far, and what runs.
            let (mut offsets, mut running, mut last) = ([0u64; 3], Vec::<Item<u64>>::new(), HashMap::new());
            for _ in 0..120 {
                let partition = chance.below(3) as u32;
                let at = partition as usize;
                match chance.below(8) {
                    0 => {
                        let known = lane.parts.get(&partition).map_or(Standing::at(0), |part| part.window.standing());
                        offsets[at] = known.next;
                        last.retain(|(of, _), _| *of != partition);
                        lane.given(partition, &known);
                    }
                    1 => lane.asked(partition),
                    2..=4 => {
                        if let Some((turn, mark)) = lane.take(partition, offsets[at]) {
                            if mark == Mark::Open {
                                let key = chance.one_in(2).then(|| chance.below(3));
                                lane.admit(item(partition, turn, offsets[at], key));
                            } else {
                                lane.skip(partition, turn, offsets[at]);
                            }
                            offsets[at] += 1;
                        }
                    }
                    5 | 6 => {
                        if let Ok(item) = lane.begin(now) {
                            if let Some(key) = item.key {
                                let beside = running
                                    .iter()
                                    .any(|other| (other.partition, other.turn, other.key) == (item.partition, item.turn, Some(key)));
                                assert!(!beside, "seed {seed}: two of one key side by side");
                                let before = last.insert((item.partition, key), item.offset);
                                assert!(before.is_none_or(|before| before < item.offset), "seed {seed}: out of order");
                            }
                            running.push(item);
                        }
                    }
                    _ if !running.is_empty() => {
                        let item = running.swap_remove(chance.below(running.len() as u64) as usize);
                        let ours = lane.is_ours(item.partition, item.turn);
                        assert_eq!(lane.end(item.partition, item.turn, item.offset, item.key), ours, "seed {seed}");
                    }
                    _ => {}
                }
                let ours = running.iter().filter(|item| lane.is_ours(item.partition, item.turn)).count();
                assert_eq!(lane.in_flight(), ours, "seed {seed}");
                assert!(lane.in_flight() <= BOUNDS.in_flight_max, "seed {seed}");
            }
        }
    }
}
