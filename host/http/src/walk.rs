//! Requests that come by no connection of HTTP: the road, for a listener that reads messages. They are read as strictly as a
//! client's, matched by the same routes (`listeners` of a route names their listener as any other), and recorded as any other.

use crate::codec::HeadLimits;
use crate::codec::hpack::Said;
use crate::codec::two::front::{Asking, Received, Room, Wrong};
use crate::flow::{self, Came, Done, Gone};
use crate::house::{Core, ListenerLimits};
use crate::reply;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;
use wharf_core::LocalBoxFuture;
use wharf_core::body::Body;
use wharf_core::exchange::{Answer, ExchangeId};
use wharf_core::head::{Known, RequestHead, ResponseHead, Scheme};
use wharf_core::walk::{Arrived, Ending, Walk, Walked};

/// The road of one core, for one listener that is no socket.
pub struct Walker {
    core: Rc<Core>,
    limits: Rc<ListenerLimits>,
    room: RefCell<Room>,
}

impl Walker {
    /// What comes is held to the limits of a head that stand here; waits for clients mean nothing.
    pub fn new(core: Rc<Core>, limits: ListenerLimits) -> Walker {
        Walker { core, limits: Rc::new(limits), room: RefCell::default() }
    }

    async fn answered(&self, arrived: Arrived<'_>) -> Walked {
        let Arrived { protocol, fields, body, client, deadline, patience } = arrived;
        let (core, limits) = (&self.core, &self.limits);
        let mut exchange = core.blank();
        if let Err(wrong) = self.read(fields, &mut exchange.facts.request) {
            core.over(exchange);
            return self.refused(wrong, core.next_id(Instant::now()).0);
        }
        (exchange.peer, exchange.facts.client) = (client, client);
        (exchange.body, exchange.patience) = (body, patience);
        let alarm = core.deadlines.alarm();
        let came = Came { protocol, grpc: false, secured: None, until: Some(deadline), gone: Never };
        let mut done = flow::answer(core, limits, &alarm, exchange, came).await;
        // There is nobody to speak another protocol with.
        if done.answer.tunnel.take().is_some() {
            done.answer = reply::error(
                502,
                "bad_answer",
                "what answers here switches protocols, and a message cannot",
                &done.exchange.facts.id.to_string(),
            );
        }
        let answer = std::mem::replace(&mut done.answer, Answer { head: Box::default(), body: Body::Empty, tunnel: None });
        let fault = if done.is_faults { done.exchange.trail.fault } else { None };
        Walked { answer, fault, record: Box::new(Over { done, listener: limits.clone() }) }
    }

    fn read<'a>(&self, fields: &mut dyn Iterator<Item = (&'a [u8], &'a [u8])>, head: &mut RequestHead) -> Result<Received, Wrong> {
        let limits = HeadLimits { bytes_max: self.limits.head_bytes_max, fields_max: self.limits.fields_max };
        let mut room = self.room.borrow_mut();
        let mut asking = Asking::new(&limits, &mut room, head);
        for (name, value) in fields {
            // `fixed` would say that the name was known to be well-formed.
            if !asking.take(Said { known: Known::of(name), name, value, fixed: false }) {
                break;
            }
        }
        asking.end(false, Scheme::Http)
    }

    /// What is no request.
    #[cold]
    fn refused(&self, wrong: Wrong, id: ExchangeId) -> Walked {
        let (status, what) = match wrong {
            Wrong::Malformed(what) => (400, what.to_owned()),
            Wrong::Refused(kind) => (kind.status(), kind.to_string()),
        };
        let answer = reply::error(status, "malformed", &what, &id.to_string());
        Walked { answer, fault: Some("malformed"), record: Box::new(Nothing) }
    }
}

impl Walk for Walker {
    fn walk<'a>(&'a self, arrived: Arrived<'a>) -> LocalBoxFuture<'a, Walked> {
        Box::pin(self.answered(arrived))
    }
}

/// Whoever sent a message does not hang up.
struct Never;

impl Gone for Never {}

struct Over {
    done: Done,
    listener: Rc<ListenerLimits>,
}

impl Ending for Over {
    fn finish(self: Box<Self>, head: Box<ResponseHead>, status: u16, (bytes_in, bytes_out): (u64, u64), fault: Option<&'static str>) {
        let Over { mut done, listener } = *self;
        done.answer.head = head;
        done.finish(&listener.name, status, bytes_in, bytes_out, fault);
        done.over();
    }
}

struct Nothing;

impl Ending for Nothing {
    fn finish(self: Box<Self>, _: Box<ResponseHead>, _: u16, _: (u64, u64), _: Option<&'static str>) {}
}
