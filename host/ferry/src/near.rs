//! The near side: what a node has for all its lanes, what a core has for one, and the tasks that read answers.
//!
//! A lane is an outlet: [`NearLane`]. What happens to one request stands in `flow.rs`.

use crate::clock::now_us;
use crate::config::NearConfig;
use crate::envelope::{Envelope, Hello, Reply};
use crate::flow;
use crate::hops::HopKind;
use crate::ids::Ids;
use crate::record::Recorder;
use crate::spool::Spool;
use crate::waiters::{Waiters, Word};
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use wharf_core::LocalBoxFuture;
use wharf_core::bus::{BusError, Message, Parcel, Place, Reader, Sink, Told};
use wharf_core::exchange::{Answer, Exchange};
use wharf_core::fault::Fault;
use wharf_core::outlet::{Outlet, Wish};

/// Who this node is, as the far side has to know it.
#[derive(Clone, Debug)]
pub struct Seat {
    /// Its worker id.
    pub worker: u16,
    /// Which start of it: larger than that of every earlier holder of the id.
    pub run: u64,
    /// Different for any two processes.
    pub instance: u64,
    /// Where answers are to go.
    pub reply_lane: Arc<str>,
}

/// How many have been sent to each partition of a topic.
pub(crate) type Counts = Arc<[Mutex<u64>]>;

/// What a node has for all its near lanes of one bus. House-wide.
pub struct NearNode {
    /// The node's name, in hops.
    pub node: Arc<str>,
    /// The way to send.
    pub sink: Arc<dyn Sink>,
    /// Makes ids.
    pub ids: Arc<Ids>,
    /// Who this node is; `None`: nobody at present, and nothing is sent.
    pub seat: ArcSwapOption<Seat>,
    /// Where hops and answers are kept.
    pub recorder: Arc<Recorder>,
    /// Bodies in pieces.
    pub spool: Spool,
    /// A box of words for each core.
    pub posts: Vec<Arc<Post>>,
    /// How many have been sent to each partition of each topic.
    sequences: Mutex<HashMap<Arc<str>, Counts>>,
    said_foreign: AtomicBool,
}

/// Words for waiters of one core, from other threads.
#[derive(Default)]
pub struct Post(Mutex<Posted>);

#[derive(Default)]
struct Posted {
    words: Vec<(u64, Word)>,
    reader: Option<Waker>,
}

impl Post {
    /// Puts a word in and wakes the core.
    pub fn put(&self, id: u64, word: Word) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.words.push((id, word));
        let waker = inner.reader.take();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// What is in it; waits while it is empty.
    async fn take(&self) -> Vec<(u64, Word)> {
        std::future::poll_fn(|task| {
            let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if inner.words.is_empty() {
                inner.reader = Some(task.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(std::mem::take(&mut inner.words))
        })
        .await
    }
}

impl NearNode {
    /// A node that is nobody yet, with so many cores.
    pub fn new(node: Arc<str>, sink: Arc<dyn Sink>, ids: Arc<Ids>, recorder: Arc<Recorder>, spool: Spool, cores: usize) -> Arc<NearNode> {
        Arc::new(NearNode {
            node,
            sink,
            ids,
            seat: ArcSwapOption::empty(),
            recorder,
            spool,
            posts: (0..cores).map(|_| Arc::default()).collect(),
            sequences: Mutex::default(),
            said_foreign: AtomicBool::new(false),
        })
    }

    /// Announces on its own reply lane who reads it from now on.
    ///
    /// # Errors
    /// It was not kept.
    pub async fn say_hello(&self, seat: &Seat, address: &str) -> Result<Place, BusError> {
        let hello = Hello { node: (*self.node).into(), address: address.into(), run: seat.run, instance: seat.instance };
        flow::sent(&*self.sink, Parcel::new(seat.reply_lane.clone(), 0, hello.write())).await
    }

    /// Keeps an answer that nobody waits for.
    pub fn keep(&self, reply: &Reply) {
        self.recorder.keep(&self.node, reply, None);
    }

    /// Sends with the next number of its partition; the number is used up only if the message is taken.
    pub(crate) fn send_numbered(
        &self,
        counts: &[Mutex<u64>],
        parcel: impl FnOnce(u64) -> Parcel,
        partition: u32,
        told: Told,
    ) -> Result<(), BusError> {
        let Some(count) = counts.get(partition as usize) else {
            return Err(BusError::new(wharf_core::bus::BusErrorKind::NoTopic, format!("there is no partition {partition}")));
        };
        // Held until it is taken, so that numbers grow as offsets do.
        let mut count = count.lock().unwrap_or_else(PoisonError::into_inner);
        self.sink.send(parcel(*count + 1), told)?;
        *count += 1;
        Ok(())
    }

    /// The counts of a topic's partitions.
    pub(crate) fn sequences(&self, topic: &Arc<str>, partitions: u32) -> Counts {
        let mut all = self.sequences.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(topic.clone()).or_insert_with(|| (0..partitions).map(|_| Mutex::new(0)).collect()).clone()
    }

    /// Reads answers from the own lane until the lane is another's; returns why.
    ///
    /// # Cancel safety
    /// Messages that were read and not handed on come again: the position is kept behind them.
    pub async fn read_answers(&self, reader: &dyn Reader, own: Option<&Waiters>) -> String {
        loop {
            let messages = match reader.next(512).await {
                Ok(messages) => messages,
                Err(error) => return error.to_string(),
            };
            let mut last = None;
            for message in messages {
                last = Some(message.place.offset);
                if let Some(why) = self.read_answer(message, own).await {
                    return why;
                }
            }
            if let (Some(last), Some(seat)) = (last, self.seat.load_full()) {
                self.recorder.answers_read(&seat.reply_lane, last + 1);
            }
        }
    }

    async fn read_answer(&self, message: Message, own: Option<&Waiters>) -> Option<String> {
        let seat = self.seat.load_full()?;
        match Envelope::read(&message.value) {
            Ok(Envelope::Reply(reply)) => self.deliver(&seat, reply, &message.value, own),
            Ok(Envelope::Piece(piece)) => self.spool.add(piece).await,
            Ok(Envelope::Hello(hello)) => {
                // The newest start of all reads the lane; of two with one number, which must not be, the other says so first.
                if hello.instance != seat.instance && hello.run >= seat.run {
                    return Some(format!(
                        "node {:?} at {} has taken over worker id {} (run {}, ours is {})",
                        hello.node, hello.address, seat.worker, hello.run, seat.run
                    ));
                }
            }
            Ok(Envelope::Request(_)) => self.foreign(&seat, "a request"),
            Err(unreadable) => self.foreign(&seat, &unreadable.to_string()),
        }
        None
    }

    fn deliver(&self, seat: &Seat, reply: Reply, written: &Bytes, own: Option<&Waiters>) {
        self.recorder.came_home(&reply);
        if reply.is_receipt {
            return;
        }
        let id = reply.id;
        let ours = reply.run == seat.run;
        let word = match (own, ours) {
            // On the core that reads: nothing has to cross a thread.
            (Some(waiters), true) if reply.core == 0 => match waiters.tell(id, Word::Reply(Box::new(reply))) {
                Ok(()) => return,
                Err(word) => word,
            },
            (_, true) => match self.posts.get(usize::from(reply.core)) {
                Some(post) => return post.put(id, Word::Reply(Box::new(reply))),
                None => Word::Reply(Box::new(reply)),
            },
            _ => Word::Reply(Box::new(reply)),
        };
        if let Word::Reply(reply) = word {
            self.recorder.keep(&self.node, &reply, Some(written));
        }
    }

    fn foreign(&self, seat: &Seat, what: &str) {
        self.recorder.count_foreign();
        if !self.said_foreign.swap(true, Relaxed) {
            tracing::warn!(
                topic = &*seat.reply_lane,
                what,
                "a record on the own reply lane is no answer; it is passed over, and those after it are only counted"
            );
        }
    }
}

/// Hands words on to the waiters of a core; ends with the core.
pub async fn attend_post(node: Arc<NearNode>, core: usize, waiters: Rc<Waiters>) {
    let Some(post) = node.posts.get(core).cloned() else { return };
    loop {
        for (id, word) in post.take().await {
            if let Err(Word::Reply(reply)) = waiters.tell(id, word) {
                node.recorder.keep(&node.node, &reply, None);
            }
        }
    }
}

/// A lane, on one core.
pub struct NearLane {
    pub(crate) config: Arc<NearConfig>,
    pub(crate) node: Arc<NearNode>,
    pub(crate) waiters: Rc<Waiters>,
    pub(crate) core: u16,
    pub(crate) counts: Counts,
}

impl NearLane {
    /// The lane of this configuration, whose topic has so many partitions.
    pub fn new(config: Arc<NearConfig>, node: Arc<NearNode>, waiters: Rc<Waiters>, core: u16, partitions: u32) -> NearLane {
        let counts = node.sequences(&config.topic, partitions);
        NearLane { config, node, waiters, core, counts }
    }
}

impl Outlet for NearLane {
    fn call<'a>(&'a self, exchange: &'a mut Exchange, _: &'a Wish) -> LocalBoxFuture<'a, Result<Answer, Fault>> {
        Box::pin(flow::carry_over(self, exchange))
    }
}

impl NearLane {
    /// Something has happened to a message, now.
    pub(crate) fn hop(&self, id: u64, kind: HopKind, why: &str) {
        self.node.recorder.hop(id, kind, &self.node.node, now_us(), why);
    }
}
