//! The members of one group, who has which partition, and how the group stands with each.
//!
//! A partition is not given on while a note about it is being written: whoever has gone meanwhile has it until the note
//! is on the disk or has failed. So a note that resolves with `Ok` was written while the partition was the member's, and
//! who is given it next is told of it.

use super::bell::Bell;
use super::care::Care;
use super::member::Member;
use super::partition::Partition;
use super::share::{Held, share};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use wharf_core::bus::Standing;

/// See the head of the file.
pub(super) struct Group {
    pub(super) topic: u32,
    pub(super) name: Arc<str>,
    pub(super) partitions: Arc<[Arc<Partition>]>,
    state: Mutex<State>,
    care: Arc<Care>,
}

struct State {
    /// In the order in which they joined.
    members: Vec<(u64, Arc<Member>)>,
    parts: Vec<Part>,
    /// The last number that was given: to a member, or to a turn.
    counted: u64,
}

#[derive(Default)]
struct Part {
    number: u32,
    /// Whose it is; their turn with it.
    by: Option<(u64, u64)>,
    /// It was asked back, and is taken at this time.
    taken_at: Option<Instant>,
    /// Notes that are being written.
    writing: u32,
    /// Whose it was has gone while a note was being written; whom to tell when it is another's.
    going: Option<Option<Arc<Member>>>,
    standing: Option<Standing>,
}

/// One partition in a note.
pub(super) struct Noted {
    pub(super) partition: u32,
    pub(super) turn: u64,
    pub(super) standing: Standing,
}

impl Group {
    pub(super) fn new(topic: u32, name: Arc<str>, partitions: Arc<[Arc<Partition>]>, care: Arc<Care>) -> Group {
        let parts = partitions.iter().map(|partition| Part { number: partition.number, ..Part::default() }).collect();
        Group { topic, name, partitions, state: Mutex::new(State { members: Vec::new(), parts, counted: 0 }), care }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes something, then gives out what is free and asks for what is to move.
    fn change<T>(&self, change: impl FnOnce(&mut State, &mut Vec<Arc<Bell>>) -> T) -> T {
        let mut state = self.state();
        let mut bells = Vec::new();
        let changed = change(&mut state, &mut bells);
        let soonest = state.settle(&self.partitions, Instant::now(), &mut bells);
        drop(state);
        for bell in bells {
            bell.ring();
        }
        if let Some(soonest) = soonest {
            self.care.look_at(soonest);
        }
        changed
    }

    /// As the disk knows it.
    pub(super) fn restore(&self, partition: u32, standing: Standing) {
        if let Some(part) = self.state().part(partition) {
            part.standing = Some(standing);
        }
    }

    pub(super) fn standings(&self) -> Vec<Option<Standing>> {
        self.state().parts.iter().map(|part| part.standing.clone()).collect()
    }

    pub(super) fn standing(&self, partition: u32) -> Option<Standing> {
        self.state().part(partition).and_then(|part| part.standing.clone())
    }

    /// Says the member's number, or `None` when there are `members_max` already.
    pub(super) fn join(&self, member: &Arc<Member>, members_max: usize) -> Option<u64> {
        self.change(|state, _| {
            if state.members.len() >= members_max {
                return None;
            }
            state.counted += 1;
            member.entered(state.counted);
            state.members.push((state.counted, member.clone()));
            Some(state.counted)
        })
    }

    pub(super) fn leave(&self, id: u64) {
        self.change(|state, bells| state.remove(id, false, bells));
    }

    /// The answer to `Asked`; anything else is no answer to it.
    pub(super) fn release(&self, id: u64, partition: u32) {
        self.change(|state, bells| {
            let asked = |part: &&mut Part| part.by.is_some_and(|(by, _)| by == id) && part.taken_at.is_some();
            if let Some(part) = state.part(partition).filter(asked) {
                part.go(None, bells);
            }
        });
    }

    /// The turns in which a member has these partitions; `None` when one of them is not theirs.
    pub(super) fn turns(&self, id: u64, standings: Vec<(u32, Standing)>) -> Option<Vec<Noted>> {
        let mut state = self.state();
        let noted = standings.into_iter().map(|(partition, standing)| {
            let (by, turn) = state.part(partition)?.by?;
            (by == id).then_some(Noted { partition, turn, standing })
        });
        noted.collect()
    }

    /// A note is about to be written: if this is said, [`Group::end_note`] has to follow.
    pub(super) fn begin_note(&self, noted: &[Noted]) -> bool {
        let mut state = self.state();
        let theirs = noted.iter().all(|noted| {
            let part = state.part(noted.partition);
            part.is_some_and(|part| part.going.is_none() && part.by.is_some_and(|(_, turn)| turn == noted.turn))
        });
        if theirs {
            noted.iter().filter_map(|noted| state.part(noted.partition).map(|part| part.writing += 1)).count();
        }
        theirs
    }

    /// The same for a group that has no members; what an operator notes has no turn.
    pub(super) fn begin_move(&self, noted: &[Noted]) -> bool {
        let mut state = self.state();
        if !state.members.is_empty() {
            return false;
        }
        noted.iter().filter_map(|noted| state.part(noted.partition).map(|part| part.writing += 1)).count();
        true
    }

    pub(super) fn end_note(&self, noted: Vec<Noted>, is_written: bool) {
        self.change(|state, bells| {
            for Noted { partition, standing, .. } in noted {
                let Some(part) = state.part(partition) else { continue };
                part.writing = part.writing.saturating_sub(1);
                if is_written {
                    part.standing = Some(standing);
                }
                if part.writing == 0
                    && let Some(tell) = part.going.take()
                {
                    part.go(tell, bells);
                }
            }
        });
    }

    /// Wakes all members.
    pub(super) fn wake(&self) {
        let bells: Vec<Arc<Bell>> = self.state().members.iter().map(|(_, member)| member.bell.clone()).collect();
        bells.iter().for_each(|bell| bell.ring());
    }

    /// Takes out who is dead and takes back what was not released in time; says when to look again.
    pub(super) fn look(&self, now: Instant) -> Option<Instant> {
        self.change(|state, bells| {
            let gone = |member: &Arc<Member>| member.bell.gone_at(member.dead_after).is_some_and(|at| at <= now);
            let dead: Vec<u64> = state.members.iter().filter(|(_, member)| gone(member)).map(|(id, _)| *id).collect();
            for id in dead {
                state.remove(id, true, bells);
            }
            let State { members, parts, .. } = state;
            for part in parts.iter_mut().filter(|part| part.taken_at.is_some_and(|at| at <= now) && part.going.is_none()) {
                let whose = members.iter().find(|(id, _)| part.by.is_some_and(|(by, _)| by == *id));
                part.go(whose.map(|(_, member)| member.clone()), bells);
            }
            let ends =
                members.iter().filter_map(|(_, member)| member.bell.gone_at(member.dead_after).or(now.checked_add(member.dead_after)));
            let takes = parts.iter().filter(|part| part.going.is_none()).filter_map(|part| part.taken_at);
            ends.chain(takes).min()
        })
    }
}

impl State {
    fn part(&mut self, partition: u32) -> Option<&mut Part> {
        self.parts.get_mut(partition as usize)
    }

    fn remove(&mut self, id: u64, is_dead: bool, bells: &mut Vec<Arc<Bell>>) {
        let Some(at) = self.members.iter().position(|(known, _)| *known == id) else { return };
        let (_, member) = self.members.remove(at);
        if is_dead {
            member.died(id);
        }
        for part in self.parts.iter_mut().filter(|part| part.by.is_some_and(|(by, _)| by == id) && part.going.is_none()) {
            part.go(is_dead.then(|| member.clone()), bells);
        }
    }

    /// Gives out what is free and asks for what is to move; says when the first of it is to be taken.
    fn settle(&mut self, partitions: &[Arc<Partition>], now: Instant, bells: &mut Vec<Arc<Bell>>) -> Option<Instant> {
        let seat = |members: &[(u64, Arc<Member>)], by: u64| members.iter().position(|(id, _)| *id == by);
        let held: Vec<Held> = self
            .parts
            .iter()
            .map(|part| Held { by: part.by.and_then(|(by, _)| seat(&self.members, by)), asked: part.taken_at.is_some() })
            .collect();
        let shares = share(&held, self.members.len());
        let mut soonest: Option<Instant> = None;
        for ((part, to), partition) in self.parts.iter_mut().zip(shares).zip(partitions) {
            let Some((to, heir)) = to.and_then(|to| self.members.get(to)) else { continue };
            match part.by {
                None if part.writing == 0 => {
                    self.counted += 1;
                    part.by = Some((*to, self.counted));
                    heir.given(partition, part.standing.clone());
                    bells.push(heir.bell.clone());
                }
                Some((by, _)) if by != *to && part.taken_at.is_none() && part.going.is_none() => {
                    let Some((_, member)) = self.members.iter().find(|(id, _)| *id == by) else { continue };
                    part.taken_at = now.checked_add(member.release_within);
                    soonest = [soonest, part.taken_at].into_iter().flatten().min();
                    member.asked(partition.number);
                    bells.push(member.bell.clone());
                }
                Some(_) | None => {}
            }
        }
        soonest
    }
}

impl Part {
    /// It is nobody's from now on, or as soon as no note about it is being written. Then `tell` is told.
    fn go(&mut self, tell: Option<Arc<Member>>, bells: &mut Vec<Arc<Bell>>) {
        if self.writing > 0 {
            self.going = Some(tell);
            return;
        }
        self.taken_at = None;
        let (Some(_), Some(member)) = (self.by.take(), tell) else { return };
        member.lost(self.number);
        bells.push(member.bell.clone());
    }
}
