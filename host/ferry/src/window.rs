//! How far a partition is: which of its messages are open, begun and done. Pure.
//!
//! Messages come in the order of offsets and are done in any order. What is known is kept as runs of offsets with one mark,
//! so that it stays small however far the quick ones run ahead of a slow one; [`Window::standing`] is its written form.

use std::collections::VecDeque;
use wharf_core::bus::{Mark, Standing};

/// Runs beyond which no more is begun: twice as many would still fit what a bus keeps (`STANDING_BYTES_MAX`) while they are
/// short.
pub const RUNS_MAX: usize = 900;

/// One partition's messages from the first that is not done.
#[derive(Clone, Debug, Default)]
pub struct Window {
    next: u64,
    /// One behind the other without gaps, neighbours with different marks, the first not done.
    runs: VecDeque<Run>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    /// The first offset behind it.
    end: u64,
    mark: Mark,
}

impl Window {
    /// What somebody has left behind.
    pub fn of(standing: &Standing) -> Window {
        let mut window = Window { next: standing.next, runs: VecDeque::new() };
        let mut end = standing.next;
        for (mark, count) in &standing.runs {
            end += count;
            window.push(end, *mark);
        }
        window.tidy();
        window
    }

    /// The first offset that is not known to be done.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The first offset that has not come yet, nor is known.
    fn end(&self) -> u64 {
        self.runs.back().map_or(self.next, |run| run.end)
    }

    /// A message has come: what is known of it. Offsets that were passed over are of no message, and done.
    pub fn take(&mut self, offset: u64) -> Mark {
        if offset < self.end() {
            return self.mark(offset);
        }
        self.push(offset, Mark::Done);
        self.push(offset + 1, Mark::Open);
        self.tidy();
        Mark::Open
    }

    /// What is known of an offset.
    pub fn mark(&self, offset: u64) -> Mark {
        if offset < self.next {
            return Mark::Done;
        }
        let at = self.runs.partition_point(|run| run.end <= offset);
        self.runs.get(at).map_or(Mark::Open, |run| run.mark)
    }

    /// Marks a message that has come.
    pub fn set(&mut self, offset: u64, mark: Mark) {
        let at = self.runs.partition_point(|run| run.end <= offset);
        let Some(run) = self.runs.get(at).copied().filter(|run| offset >= self.next && run.mark != mark) else { return };
        let begin = at.checked_sub(1).and_then(|before| self.runs.get(before)).map_or(self.next, |before| before.end);
        self.runs.remove(at);
        // What was one run is up to three; parts that are empty, or like their neighbour, are none.
        let mut at = at;
        for part in [Run { end: offset, mark: run.mark }, Run { end: offset + 1, mark }, run] {
            let begin = at.checked_sub(1).and_then(|before| self.runs.get(before)).map_or(self.next.min(begin), |before| before.end);
            if part.end <= begin {
                continue;
            }
            match at.checked_sub(1).and_then(|before| self.runs.get_mut(before)) {
                Some(before) if before.mark == part.mark => before.end = part.end,
                _ => {
                    self.runs.insert(at, part);
                    at += 1;
                }
            }
        }
        // The last part may be like what follows.
        if let (Some(last), Some(following)) = (at.checked_sub(1).and_then(|last| self.runs.get(last)).copied(), self.runs.get(at).copied())
            && last.mark == following.mark
        {
            self.runs.remove(at - 1);
        }
        self.tidy();
    }

    /// Its written form.
    pub fn standing(&self) -> Standing {
        let mut begin = self.next;
        let mut runs: Vec<(Mark, u64)> = Vec::with_capacity(self.runs.len());
        for run in &self.runs {
            runs.push((run.mark, run.end - begin));
            begin = run.end;
        }
        // What is open at the end is what everybody knows of what has not come.
        if runs.last().is_some_and(|(mark, _)| *mark == Mark::Open) {
            runs.pop();
        }
        Standing { next: self.next, runs }
    }

    /// Is it so scattered that no more is to be begun?
    pub fn is_scattered(&self) -> bool {
        self.runs.len() >= RUNS_MAX
    }

    /// Offsets from the first that is not done to the last that has come.
    pub fn span(&self) -> u64 {
        self.end() - self.next
    }

    fn push(&mut self, end: u64, mark: Mark) {
        if end <= self.end() {
            return;
        }
        match self.runs.back_mut() {
            Some(last) if last.mark == mark => last.end = end,
            _ => self.runs.push_back(Run { end, mark }),
        }
    }

    fn tidy(&mut self) {
        while let Some(first) = self.runs.front().filter(|first| first.mark == Mark::Done) {
            self.next = first.end;
            self.runs.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;
    use std::collections::BTreeMap;

    #[test]
    fn offsets_that_never_come_are_done() {
        let mut window = Window::of(&Standing::at(5));
        assert_eq!(window.take(7), Mark::Open);
        assert_eq!((window.next(), window.mark(6), window.mark(7)), (7, Mark::Done, Mark::Open));
        assert_eq!(window.take(9), Mark::Open);
        window.set(7, Mark::Done);
        assert_eq!(window.next(), 9, "8 was no message");
    }

    #[test]
    fn whoever_is_given_the_partition_next_knows_what_was_known() {
        // Against a map of every offset, for many fates.
        for seed in 0..2_000 {
            let mut chance = Chance::new(seed);
            let first = chance.below(1 << 40);
            let (mut window, mut plain) = (Window::of(&Standing::at(first)), BTreeMap::new());
            let mut offset = first;
            for _ in 0..60 {
                if chance.below(3) == 0 {
                    offset += chance.below(3);
                    assert_eq!(window.take(offset), Mark::Open, "seed {seed}");
                    plain.insert(offset, Mark::Open);
                    offset += 1;
                } else if !plain.is_empty() {
                    let at = chance.below(plain.len() as u64) as usize;
                    let (which, mark) = plain.iter_mut().nth(at).unwrap();
                    *mark = if *mark == Mark::Open { Mark::Begun } else { Mark::Done };
                    window.set(*which, *mark);
                }
                let next = plain.iter().find(|(_, mark)| **mark != Mark::Done).map_or(offset, |(offset, _)| *offset);
                assert_eq!(window.next(), if plain.is_empty() { first } else { next }, "seed {seed}");
                let written = window.standing();
                let read = Window::of(&Standing::read(written.next, &written.marks().unwrap()).unwrap());
                for (offset, mark) in &plain {
                    assert_eq!((window.mark(*offset), read.mark(*offset), written.mark(*offset)), (*mark, *mark, *mark), "seed {seed}");
                }
                let pairs = window.runs.iter().zip(window.runs.iter().skip(1));
                assert!(pairs.clone().all(|(one, next)| one.mark != next.mark && one.end < next.end), "seed {seed}: {window:?}");
            }
        }
    }
}
