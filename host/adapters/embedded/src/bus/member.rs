//! A member of a group: what it is to be told, and what it has read. The door `Source`.
//!
//! Locks are taken in this order: the group's, the member's, a partition's.

use super::bell::{Bell, Waits};
use super::depot::Depot;
use super::feed::Feed;
use super::group::{Group, Noted};
use super::partition::Partition;
use super::queue::Job;
use super::reading::{Answer, Asks};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use wharf_core::BoxFuture;
use wharf_core::bus::{BusError, BusErrorKind, Event, Membership, ReadFrom, Source, Standing};

/// See the head of the file.
pub(super) struct Member {
    pub(super) group: Arc<Group>,
    pub(super) bell: Arc<Bell>,
    pub(super) dead_after: Duration,
    pub(super) release_within: Duration,
    name: Arc<str>,
    depot: Arc<Depot>,
    own: Mutex<Own>,
}

struct Own {
    life: Life,
    events: VecDeque<Event>,
    feeds: BTreeMap<u32, Feed>,
    /// Which partition was looked at last: the next one comes first.
    last: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// In the group, by this number.
    In(u64),
    /// Taken for dead, or about to join.
    Out,
    /// It has left.
    Left,
}

/// What its user holds: dropped, the member leaves.
pub(super) struct Seat(Arc<Member>);

impl Seat {
    /// Joins the group.
    pub(super) fn take(depot: Arc<Depot>, group: Arc<Group>, membership: &Membership) -> Result<Seat, BusError> {
        let member = Arc::new(Member {
            group,
            bell: Arc::new(Bell::new(Instant::now())),
            dead_after: membership.dead_after,
            release_within: membership.release_within,
            name: membership.member.clone(),
            depot,
            own: Mutex::new(Own { life: Life::Out, events: VecDeque::new(), feeds: BTreeMap::new(), last: 0 }),
        });
        member.enter()?;
        Ok(Seat(member))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.go();
    }
}

impl Member {
    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins, at first or again after it was taken for dead.
    fn enter(self: &Arc<Self>) -> Result<(), BusError> {
        self.bell.touch();
        let max = self.depot.config.members_max;
        let Some(id) = self.group.join(self, max) else {
            let message = format!("group {} has {max} members, which is the bus's members_max; raise it", self.group.name);
            return Err(BusError::new(BusErrorKind::Refused, message));
        };
        tracing::debug!(group = %self.group.name, member = %self.name, id, "a member has joined");
        if let Some(at) = Instant::now().checked_add(self.dead_after) {
            self.depot.care.look_at(at);
        }
        Ok(())
    }

    fn go(&self) {
        let life = std::mem::replace(&mut self.own().life, Life::Left);
        if let Life::In(id) = life {
            self.group.leave(id);
        }
        let mut own = self.own();
        own.events.clear();
        let feeds = std::mem::take(&mut own.feeds);
        drop(own);
        for feed in feeds.values() {
            feed.partition().unwatch(&self.bell);
        }
        self.bell.ring();
    }

    // What the group says, while it is locked. It rings the bell afterwards.

    /// By which number the group knows it from now on.
    pub(super) fn entered(&self, id: u64) {
        let mut own = self.own();
        if own.life != Life::Left {
            own.life = Life::In(id);
        }
    }

    pub(super) fn given(&self, partition: &Arc<Partition>, standing: Option<Standing>) {
        let standing = standing.unwrap_or_default();
        let mut own = self.own();
        if own.life == Life::Left {
            return;
        }
        let feed = Feed::new(partition.clone(), ReadFrom::Offset(standing.next));
        if own.feeds.insert(partition.number, feed).is_none() {
            partition.watch(&self.bell);
        }
        own.events.push_back(Event::Given { partition: partition.number, standing });
    }

    pub(super) fn asked(&self, partition: u32) {
        let mut own = self.own();
        self.close_feed(&mut own, partition);
        own.events.push_back(Event::Asked { partition });
    }

    pub(super) fn lost(&self, partition: u32) {
        let mut own = self.own();
        self.close_feed(&mut own, partition);
        own.events.push_back(Event::Lost { partition });
    }

    pub(super) fn died(&self, id: u64) {
        let mut own = self.own();
        if own.life == Life::In(id) {
            own.life = Life::Out;
        }
        tracing::warn!(
            group = %self.group.name, member = %self.name, dead_after_ms = self.dead_after.as_millis() as u64,
            "a member has not asked for messages and is taken for dead; its partitions go to others"
        );
    }

    fn close_feed(&self, own: &mut Own, partition: u32) {
        if let Some(feed) = own.feeds.remove(&partition) {
            feed.partition().unwatch(&self.bell);
        }
    }

    /// What there is to be told.
    fn collect(self: &Arc<Self>, max: usize) -> Result<Option<Vec<Event>>, BusError> {
        let mut own = self.own();
        if own.life == Life::Left || self.depot.is_closed() {
            return Err(closed());
        }
        if own.life == Life::Out && own.events.is_empty() {
            drop(own);
            self.enter()?;
            own = self.own();
        }
        let mut events: Vec<Event> = own.events.drain(..).collect();
        let who: Arc<dyn Asks> = self.clone();
        let (mut messages, mut misses) = (0, 0);
        let Own { feeds, last, .. } = &mut *own;
        let begin = *last;
        let (after, before) = (begin.saturating_add(1).., ..=begin);
        let mut take = |number: u32, feed: &mut Feed| {
            if feed.paused || messages >= max as u64 {
                return;
            }
            let taken = feed.take(max - messages as usize, &self.depot.reading, &who, |message| events.push(Event::Message(message)));
            if taken.messages > 0 {
                *last = number;
            }
            messages += taken.messages;
            misses += taken.misses;
        };
        feeds.range_mut(after).for_each(|(number, feed)| take(*number, feed));
        feeds.range_mut(before).for_each(|(number, feed)| take(*number, feed));
        self.depot.figures.looked(messages, misses);
        Ok((!events.is_empty()).then_some(events))
    }
}

fn closed() -> BusError {
    BusError::new(BusErrorKind::Closed, "this member has left its group, or the bus is closed; join again")
}

impl Asks for Member {
    fn waits_for(&self, partition: u32, asked: u64) -> bool {
        self.own().feeds.get(&partition).is_some_and(|feed| feed.waits_for(asked))
    }

    fn told(&self, partition: u32, asked: u64, answer: Answer) {
        if let Some(feed) = self.own().feeds.get_mut(&partition) {
            feed.told(asked, answer);
        }
        self.bell.ring();
    }
}

impl Source for Seat {
    fn next(&self, max: usize) -> BoxFuture<'_, Result<Vec<Event>, BusError>> {
        let (member, max) = (&self.0, max.max(1));
        Box::pin(async move {
            let _waits = Waits(&member.bell);
            std::future::poll_fn(|to_be_woken| {
                if let Some(events) = member.collect(max).transpose() {
                    return Poll::Ready(events);
                }
                // Looked at once more: what came before the bell listened has not rung it.
                member.bell.listen(to_be_woken.waker());
                match member.collect(max).transpose() {
                    Some(events) => Poll::Ready(events),
                    None => Poll::Pending,
                }
            })
            .await
        })
    }

    fn note(&self, standings: Vec<(u32, Standing)>) -> BoxFuture<'_, Result<(), BusError>> {
        // Taken now, not when it is first polled: that is the order of notes.
        let begun = self.0.begin_note(standings);
        Box::pin(async move { begun?.await.unwrap_or_else(|_| Err(closed())) })
    }

    fn pause(&self, partition: u32, paused: bool) {
        if let Some(feed) = self.0.own().feeds.get_mut(&partition) {
            feed.paused = paused;
        }
        self.0.bell.ring();
    }

    fn seek(&self, partition: u32, offset: u64) {
        if let Some(feed) = self.0.own().feeds.get_mut(&partition) {
            feed.seek(ReadFrom::Offset(offset));
        }
        self.0.bell.ring();
    }

    fn release(&self, partition: u32) {
        let life = self.0.own().life;
        if let Life::In(id) = life {
            self.0.group.release(id, partition);
        }
    }

    fn leave(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.0.go() })
    }
}

type Noting = oneshot::Receiver<Result<(), BusError>>;

impl Member {
    fn begin_note(&self, standings: Vec<(u32, Standing)>) -> Result<Noting, BusError> {
        let values = self.depot.written(&standings)?;
        let life = self.own().life;
        let noted = match life {
            Life::In(id) => self.group.turns(id, standings),
            Life::Out => None,
            Life::Left => return Err(closed()),
        };
        let noted: Vec<Noted> = noted.ok_or_else(|| not_yours(&self.group))?;
        let (reply, said) = oneshot::channel();
        self.depot.queue.put(Job::Note { group: self.group.clone(), noted, values, is_move: false, reply })?;
        Ok(said)
    }
}

/// What a member is told whose note is not written.
pub(super) fn not_yours(group: &Group) -> BusError {
    let message = format!("a partition in this note is not this member's in group {}; what it has begun is another's to judge", group.name);
    BusError::new(BusErrorKind::NotYours, message)
}
