//! Who waits for an answer on one core, by the id of the message. Pure but for wakers.
//!
//! A waiter is registered before its message is sent: however quick the answer is, somebody is there. What comes for an id that
//! nobody waits for is given back, and whoever brought it keeps it for later.

use crate::envelope::Reply;
use std::cell::RefCell;
use std::collections::HashMap;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use wharf_core::bus::BusError;

/// What a waiter is told.
#[derive(Clone, Debug)]
pub enum Word {
    /// The answer.
    Reply(Box<Reply>),
    /// The message was not kept by the bus.
    NotSent(BusError),
}

/// See the head of the file.
pub struct Waiters {
    waiting: RefCell<HashMap<u64, Seat>>,
    max: usize,
    /// Is given the answer of a waiter that went away before it looked.
    unread: Box<dyn Fn(Box<Reply>)>,
}

#[derive(Debug)]
enum Seat {
    Waits(Option<Waker>),
    Told(Word),
}

/// A place among the waiters. Dropping it gives it up.
pub struct Waiter {
    waiters: Rc<Waiters>,
    id: u64,
}

impl Waiters {
    /// At most `max` at a time. `unread` is given the answers of those who went away before they looked.
    pub fn new(max: usize, unread: impl Fn(Box<Reply>) + 'static) -> Rc<Waiters> {
        Rc::new(Waiters { waiting: RefCell::default(), max, unread: Box::new(unread) })
    }

    /// Takes a place; `None`: they are all taken, or somebody waits for this id.
    pub fn register(self: &Rc<Waiters>, id: u64) -> Option<Waiter> {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() >= self.max || waiting.contains_key(&id) {
            return None;
        }
        waiting.insert(id, Seat::Waits(None));
        Some(Waiter { waiters: self.clone(), id })
    }

    /// Tells whoever waits for this id.
    ///
    /// # Errors
    /// Nobody waits for it, or has been told already: the word is given back.
    pub fn tell(&self, id: u64, word: Word) -> Result<(), Word> {
        let mut waiting = self.waiting.borrow_mut();
        match waiting.get_mut(&id) {
            Some(seat @ Seat::Waits(_)) => {
                let before = std::mem::replace(seat, Seat::Told(word));
                drop(waiting);
                if let Seat::Waits(Some(waker)) = before {
                    waker.wake();
                }
                Ok(())
            }
            Some(Seat::Told(_)) | None => Err(word),
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.borrow().len()
    }

    /// Does nobody wait?
    pub fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
    }
}

impl Future for Waiter {
    type Output = Word;

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Word> {
        let mut waiting = self.waiters.waiting.borrow_mut();
        match waiting.remove(&self.id) {
            Some(Seat::Told(word)) => Poll::Ready(word),
            _ => {
                waiting.insert(self.id, Seat::Waits(Some(task.waker().clone())));
                Poll::Pending
            }
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let seat = self.waiters.waiting.borrow_mut().remove(&self.id);
        if let Some(Seat::Told(Word::Reply(reply))) = seat {
            (self.waiters.unread)(reply);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(id: u64) -> Word {
        Word::Reply(Box::new(Reply { id, ..Reply::default() }))
    }

    fn poll(waiter: &mut Waiter) -> Poll<Word> {
        Pin::new(waiter).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn an_answer_that_is_quicker_than_its_waiter_is_not_lost() {
        let waiters = Waiters::new(2, |_| {});
        let mut waiter = waiters.register(7).unwrap();
        assert!(waiters.tell(7, reply(7)).is_ok());
        assert!(matches!(poll(&mut waiter), Poll::Ready(Word::Reply(reply)) if reply.id == 7));
    }

    #[test]
    fn nobody_is_told_twice_and_nobody_is_told_what_another_waits_for() {
        let waiters = Waiters::new(2, |_| {});
        let (mut one, mut other) = (waiters.register(1).unwrap(), waiters.register(2).unwrap());
        assert!(waiters.register(3).is_none(), "all places are taken");
        assert!(waiters.tell(1, reply(1)).is_ok() && waiters.tell(1, reply(1)).is_err() && waiters.tell(9, reply(9)).is_err());
        assert!(poll(&mut other).is_pending() && poll(&mut one).is_ready());
        drop((one, other));
        assert!(waiters.is_empty() && waiters.tell(2, reply(2)).is_err(), "who has gone is not told");
    }

    #[test]
    fn an_answer_that_came_as_its_waiter_went_is_kept() {
        let unread = Rc::new(RefCell::new(Vec::new()));
        let kept = unread.clone();
        let waiters = Waiters::new(2, move |reply| kept.borrow_mut().push(reply.id));
        let waiter = waiters.register(1).unwrap();
        assert!(waiters.tell(1, reply(1)).is_ok());
        drop(waiter);
        assert_eq!(*unread.borrow(), [1]);
    }
}
