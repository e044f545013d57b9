//! The HTTP/2 front (RFC 9113): a connection, its streams read into requests and written with answers. What a request goes
//! through between the two is in `flow.rs` of the room; how heads translate is in `codec::two::front`.
//!
//! Each stream is a task of this core, the connection another; what the streams have to say in one turn goes out in one write.

mod body;
mod flow;
mod stream;
mod wire;
mod writing;

use crate::codec::{HeadLimits, RefusalKind, used};
use crate::deadlines::{Alarm, TICK};
use crate::front::{Secured, Visit, linger};
use crate::house::{Core, Http2Limits, ListenerLimits};
use crate::io::Socket;
use bytes::{Buf as _, BytesMut};
use std::future::{Future as _, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::futures::Notified;
use wharf_core::exchange::Exchange;
use wharf_core::head::Scheme;
use wire::{Asked, Limits, Requests, Wire};

/// What a connection of HTTP/2 begins with, as far as HTTP/1.1 reads it as a head.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

/// How long a connection that we end may take to end.
const FAREWELL: Duration = Duration::from_secs(5);
/// No deadline at the moment, and a waker that is kept.
const LONG: Duration = Duration::from_secs(24 * 3600);

/// What the streams of one connection share.
struct Common {
    core: Rc<Core>,
    limits: Rc<ListenerLimits>,
    alarm: Alarm,
    peer: SocketAddr,
    secured: Option<Rc<Secured>>,
    wire: Wire,
}

/// Serves one connection to its end. `early` was read of it before.
///
/// # Cancel safety
/// Dropping the future closes the connection; its streams end unanswered.
pub(crate) async fn serve(visit: Visit, early: BytesMut) {
    let Visit { core, limits, socket, alarm, peer, secured } = visit;
    let Http2Limits { streams_max, window } = limits.http2.unwrap_or_default();
    let head = HeadLimits { bytes_max: limits.head_bytes_max, fields_max: limits.fields_max };
    let scheme = if secured.is_some() { Scheme::Https } else { Scheme::Http };
    let wire = Wire::new(Limits { head, scheme, streams_max, window }, core.spare.clone());
    let common = Rc::new(Common { core, limits, alarm, peer, secured, wire });
    common.alarm.set_in(common.limits.head);
    let drain = pin!(common.core.drain.notified());
    let head = common.core.deadlines.alarm();
    let mut line =
        Line { common: &common, socket: &socket, inbox: early, drain, opened: false, broken: false, second: 0, head, within_head: false };
    poll_fn(|task| line.poll(task)).await;
    common.wire.lost();
    if line.broken {
        return linger(&socket, &common.alarm).await;
    }
    poll_fn(|task| match socket.poll_shutdown(task) {
        Poll::Ready(_) => Poll::Ready(()),
        Poll::Pending => common.alarm.poll_elapsed(task),
    })
    .await;
}

/// The connection's own end of the work: it moves bytes between its socket and [`Wire`].
struct Line<'a, 'd> {
    common: &'a Rc<Common>,
    socket: &'a Socket,
    /// Read, and no whole frame yet.
    inbox: BytesMut,
    drain: Pin<&'a mut Notified<'d>>,
    /// The client has begun as it must.
    opened: bool,
    /// The client has broken a rule that ends the connection: what we have to say about it goes out, and that is all.
    broken: bool,
    /// The core's tick when the client was last forgiven.
    second: u32,
    /// For the rest of a head that has begun to come.
    head: Alarm,
    within_head: bool,
}

impl Line<'_, '_> {
    /// Ready when the connection is over.
    fn poll(&mut self, task: &mut Context<'_>) -> Poll<()> {
        let Common { core, alarm, wire, .. } = &**self.common;
        wire.watch(task);
        if !wire.is_going() && (core.sends_away() || self.drain.as_mut().poll(task).is_ready()) {
            self.common.say_farewell();
        }
        loop {
            if self.poll_read(task).is_ready() {
                return Poll::Ready(());
            }
            let stopped = !self.broken && !wire.may_read();
            match self.poll_write(task) {
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(())) if self.broken || wire.is_done() => return Poll::Ready(()),
                // Nobody waits for what there is to read.
                Poll::Ready(Ok(())) if stopped => continue,
                _ => {}
            }
            if self.within_head && self.head.poll_elapsed(task).is_ready() {
                core.count_refused(RefusalKind::SlowHead.word());
                wire.give_up();
                self.break_off();
                continue;
            }
            ready!(alarm.poll_elapsed(task));
            if !wire.is_idle() && !self.broken {
                // The waker of a connection with streams is kept for however long they last.
                alarm.set_in(LONG);
                continue;
            }
            if wire.is_going() {
                return Poll::Ready(());
            }
            if !self.opened {
                core.count_refused("http2");
                return Poll::Ready(());
            }
            // Nothing was asked for a while. A request that is on its way now is told that it was not taken.
            self.common.say_farewell();
        }
    }

    /// Reads what is there. Ready when the client has gone.
    fn poll_read(&mut self, task: &mut Context<'_>) -> Poll<()> {
        let Common { core, limits, alarm, wire, .. } = &**self.common;
        let tick = core.deadlines.tick();
        if TICK * tick.wrapping_sub(self.second) >= Duration::from_secs(1) {
            self.second = tick;
            wire.forgive();
        }
        // What was read before comes first.
        let mut fresh = !self.opened && !self.inbox.is_empty();
        while !self.broken && wire.may_read() {
            if !std::mem::take(&mut fresh) {
                match ready!(self.socket.poll_read(task, &mut self.inbox)) {
                    Ok(1..) => {}
                    _ => return Poll::Ready(()),
                }
            }
            match wire.take(&self.inbox, &mut Doors(self.common)) {
                Ok(taken) => used(&mut self.inbox, taken),
                Err(_) => {
                    self.break_off();
                    // Whoever begins and gives up costs us an upstream call each time.
                    core.count_refused(if wire.lost_patience() { "rapid_reset" } else { "http2" });
                }
            }
            let within_head = wire.is_within_head(&self.inbox);
            if within_head && !self.within_head {
                self.head.set_in(limits.head);
            }
            self.within_head = within_head && !self.broken;
            if self.inbox.is_empty() {
                self.socket.give(&mut self.inbox);
            }
            if !self.opened && wire.is_open() {
                self.opened = true;
                if wire.is_idle() {
                    alarm.set_in(limits.keep_alive);
                }
            }
        }
        Poll::Pending
    }

    /// Nothing more is read of the client: what there is to say to it goes out, and that is all.
    fn break_off(&mut self) {
        (self.broken, self.within_head) = (true, false);
        self.common.alarm.set_in(FAREWELL);
    }

    /// Ready when everything is with the kernel.
    fn poll_write(&mut self, task: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let wire = &self.common.wire;
        loop {
            let mut out = wire.to_write();
            let mut written = Poll::Ready(Ok(()));
            while !out.is_empty() && matches!(written, Poll::Ready(Ok(()))) {
                written = self.socket.poll_write(task, &out, &[]).map_ok(|len| out.advance(len));
            }
            let all = out.is_empty();
            wire.written(out);
            ready!(written)?;
            if all {
                return self.socket.poll_flush(task);
            }
        }
    }
}

/// Where the connection's requests go.
struct Doors<'a>(&'a Rc<Common>);

impl Requests for Doors<'_> {
    fn blank(&mut self) -> Box<Exchange> {
        self.0.core.blank()
    }

    fn unused(&mut self, exchange: Box<Exchange>) {
        self.0.core.over(exchange);
    }

    fn begin(&mut self, asked: Asked) {
        stream::begin(self.0, asked);
    }
}

impl Common {
    /// No more streams; those that are open end in their own time.
    fn say_farewell(&self) {
        self.wire.say_farewell();
        if self.wire.is_idle() {
            self.alarm.set_in(FAREWELL);
        }
    }
}
