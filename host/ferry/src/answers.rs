//! What came of a message, by its id: an outlet that looks on the reply lane of the node that sent it.
//!
//! The lane keeps answers whoever was there to read them, so that an answer is found by any near node, also after its own was
//! started again. An id says when and by whom it was made: the lane is read from that time on.

use crate::clock::now_ms;
use crate::codes::Code;
use crate::envelope::{Envelope, Load, Reply};
use crate::flow;
use crate::ids;
use crate::near::NearLane;
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use wharf_core::LocalBoxFuture;
use wharf_core::bus::{Bus, BusErrorKind, ReadFrom};
use wharf_core::exchange::{Answer, Exchange};
use wharf_core::fault::{Fault, FaultKind};
use wharf_core::head::{Method, ResponseHead};
use wharf_core::outlet::{Outlet, Wish};

/// Looks at a time: each reads a lane with a reader of its own.
const LOOKS_MAX: usize = 8;
/// Messages that one look reads before it gives up.
const MESSAGES_MAX: usize = 1_000_000;
/// Clocks of brokers and of nodes may differ by so much.
const CLOCKS: u64 = 10_000;
/// Set in the id of pieces that are gathered here: the lane's own reader may gather the same.
const ASIDE: u64 = 1 << 63;

/// See the head of the file. Core-local.
pub struct Answers {
    lane: NearLane,
    bus: Arc<dyn Bus>,
    reply_prefix: Arc<str>,
    looks: Arc<Semaphore>,
}

enum Found {
    Reply(Box<Reply>),
    NotYet,
    NoLane,
}

impl Answers {
    /// Of this lane's messages. `looks` bounds all cores together.
    pub fn new(lane: NearLane, bus: Arc<dyn Bus>, reply_prefix: Arc<str>, looks: Arc<Semaphore>) -> Answers {
        Answers { lane, bus, reply_prefix, looks }
    }

    /// How many may look at a time.
    pub fn looks() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(LOOKS_MAX))
    }

    async fn answer(&self, exchange: &Exchange) -> Result<Answer, Fault> {
        let config = &self.lane.config;
        let unknown = |what: &str| Fault::caller(FaultKind::NoRoute, format!("no message is known by this: {what}"));
        let head = &exchange.facts.request;
        if !matches!(head.method, Method::Get | Method::Head) {
            return Err(Fault::caller(FaultKind::MethodRefused, "what came of a message is asked for by GET"));
        }
        let last = head.path().rsplit('/').next().unwrap_or_default();
        let id: u64 = last.parse().map_err(|_| unknown("the last segment of the path is no id"))?;
        let (made_ms, now) = (ids::time_ms(id), now_ms());
        if made_ms > now + CLOCKS {
            return Err(unknown("the id is of a time to come"));
        }
        let _look = self
            .looks
            .try_acquire()
            .map_err(|_| Fault::overload("ferry_answers", "too many look for answers at once").after(Duration::from_secs(1)))?;
        let deadline = exchange.deadline.checked_sub(Duration::from_millis(50)).unwrap_or(exchange.deadline);
        let found = match tokio::time::timeout_at(deadline.into(), self.look(id, made_ms)).await {
            Ok(found) => found?,
            Err(_) => Found::NotYet,
        };
        match found {
            Found::Reply(reply) => flow::come_home(&self.lane, *reply, head.method == Method::Head).await,
            Found::NoLane => Err(unknown("no node with its number has ever sent one")),
            Found::NotYet if made_ms + u64::try_from(config.keep.as_millis()).unwrap_or(u64::MAX) < now => {
                Err(config.statuses.fault(Code::MessageTimeout, format!("message {id} was not answered in its time")))
            }
            Found::NotYet => {
                let mut head = ResponseHead::new(202);
                head.fields.add(b"content-type", b"application/json");
                head.fields.add(b"retry-after", b"1");
                Ok(Answer::full(head, Bytes::from(format!("{{\"id\":\"{id}\",\"state\":\"pending\"}}\n"))))
            }
        }
    }

    async fn look(&self, id: u64, made_ms: u64) -> Result<Found, Fault> {
        let topic = format!("{}{}", self.reply_prefix, ids::worker(id));
        let trouble = |error: wharf_core::bus::BusError| {
            self.lane
                .config
                .statuses
                .fault(Code::MessageError, format!("the answers on {topic:?} cannot be read: {error}"))
                .after(Duration::from_secs(1))
        };
        let extent = match self.bus.books().extents(&topic, None).await {
            Ok(extents) => extents.into_iter().next(),
            Err(error) if error.kind == BusErrorKind::NoTopic => None,
            Err(error) => return Err(trouble(error)),
        };
        let Some(extent) = extent else { return Ok(Found::NoLane) };
        let first = self.bus.books().offsets_at(&topic, made_ms.saturating_sub(CLOCKS)).await.map_err(trouble)?;
        let mut next = first.first().copied().unwrap_or(extent.first).max(extent.first);
        if next >= extent.end {
            return Ok(Found::NotYet);
        }
        let reader = self.bus.read(&topic, 0, ReadFrom::Offset(next)).map_err(trouble)?;
        let mut left = MESSAGES_MAX;
        while next < extent.end && left > 0 {
            for message in reader.next(1024).await.map_err(trouble)? {
                (next, left) = (message.place.offset + 1, left.saturating_sub(1));
                match Envelope::read(&message.value) {
                    Ok(Envelope::Reply(mut reply)) if reply.id == id && !reply.is_receipt => {
                        if matches!(reply.load, Load::Pieces { .. }) {
                            reply.id = id | ASIDE;
                        }
                        return Ok(Found::Reply(Box::new(reply)));
                    }
                    Ok(Envelope::Piece(mut piece)) if piece.id == id => {
                        piece.id |= ASIDE;
                        piece.deadline_ms = u64::MAX;
                        self.lane.node.spool.add(piece).await;
                    }
                    _ => {}
                }
            }
        }
        Ok(Found::NotYet)
    }
}

impl Outlet for Answers {
    fn call<'a>(&'a self, exchange: &'a mut Exchange, _: &'a Wish) -> LocalBoxFuture<'a, Result<Answer, Fault>> {
        Box::pin(self.answer(exchange))
    }
}
