//! The HTTP/2 front (RFC 9113): a connection, its streams read into requests and written with answers. What a request goes
//! through between the two is in `flow.rs`; how heads translate is in `codec::two`.
//!
//! Frames, HPACK and flow control are the library's. Each stream is a task of this core, the connection another; what the
//! streams have to say in one turn goes out in one write.

mod body;
pub(crate) mod line;
mod stream;
mod writing;

use crate::deadlines::Alarm;
use crate::front::{Secured, Visit};
use crate::house::{Core, Http2Limits, ListenerLimits};
use bytes::{Bytes, BytesMut};
use h2::Reason;
use h2::server::{Builder, Connection};
use line::Line;
use std::cell::Cell;
use std::future::{Future as _, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::Duration;

/// What a connection of HTTP/2 begins with, as far as HTTP/1.1 reads it as a head.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";

/// Bytes of answers that the library holds for one stream that its client does not read.
const UNSENT_MAX: usize = 32 * 1024;
/// Streams reset by the client before they were taken from the library: more, and the connection ends.
const RESET_EARLY_MAX: usize = 32;
/// Streams reset that the library remembers, for frames that were on their way.
const RESET_KEPT: usize = 64;
/// Streams that the library itself has reset for their client's errors: more, and the connection ends.
const ERRORS_MAX: usize = 256;
/// Streams that a client may give up before it has had answers: more, and the connection ends ("rapid reset").
const GIVEN_UP_MAX: u32 = 256;
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
    /// Streams that have not ended.
    open: Cell<u32>,
    /// How many more streams its client may give up. Each answer gives one back.
    patience: Cell<u32>,
    /// It has been told that no more streams are taken.
    going: Cell<bool>,
}

/// Serves one connection to its end. `early` was read of it before.
///
/// # Cancel safety
/// Dropping the future closes the connection; its streams end unanswered.
pub(crate) async fn serve(visit: Visit, early: BytesMut) {
    let Visit { core, limits, socket, alarm, peer, secured } = visit;
    let (open, patience, going) = (Cell::new(0), Cell::new(GIVEN_UP_MAX), Cell::new(false));
    let common = Rc::new(Common { core, limits, alarm, peer, secured, open, patience, going });
    let Common { core, limits, alarm, .. } = &*common;
    alarm.set_in(limits.head);
    let mut handshake = pin!(builder(limits).handshake::<_, Bytes>(Line::new(Rc::new(socket), early)));
    let shaken = poll_fn(|task| match handshake.as_mut().poll(task) {
        Poll::Ready(shaken) => Poll::Ready(shaken.ok()),
        Poll::Pending => alarm.poll_elapsed(task).map(|()| None),
    });
    let Some(mut connection) = shaken.await else { return core.count_refused("http2") };
    alarm.set_in(limits.keep_alive);
    let mut drain = pin!(core.drain.notified());
    poll_fn(|task| {
        if !common.going.get() && (core.sends_away() || drain.as_mut().poll(task).is_ready()) {
            common.say_farewell(&mut connection);
        }
        loop {
            match connection.poll_accept(task) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    stream::begin(&common, request, respond);
                    continue;
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => {}
            }
            if common.patience.get() == 0 && !common.going.replace(true) {
                // Whoever begins and gives up costs us an upstream call each time (CVE-2023-44487).
                core.count_refused("rapid_reset");
                connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
                alarm.set_in(FAREWELL);
                continue;
            }
            ready!(alarm.poll_elapsed(task));
            if common.going.get() {
                return Poll::Ready(());
            }
            // Nothing was asked for a while. A request that is on its way now is told that it was not taken.
            common.say_farewell(&mut connection);
        }
    })
    .await;
}

impl Common {
    /// No more streams; those that are open end in their own time.
    fn say_farewell(&self, connection: &mut Connection<Line, Bytes>) {
        self.going.set(true);
        connection.graceful_shutdown();
        if self.open.get() == 0 {
            self.alarm.set_in(FAREWELL);
        }
    }
}

fn builder(limits: &ListenerLimits) -> Builder {
    let Http2Limits { streams_max, window } = limits.http2.unwrap_or_default();
    let mut builder = Builder::new();
    // A little more than our own limit, which is the one that is answered with words: the library counts 32 a field.
    let head_max = limits.head_bytes_max + 64 * limits.fields_max + 1024;
    builder
        .max_concurrent_streams(streams_max)
        .initial_window_size(window)
        .initial_connection_window_size(window.saturating_mul(4).min(i32::MAX as u32))
        .data_frame_budget(window as usize * 4 * line::SMALL_FRAMES)
        .max_header_list_size(u32::try_from(head_max).unwrap_or(u32::MAX))
        .max_send_buffer_size(UNSENT_MAX)
        .max_pending_accept_reset_streams(RESET_EARLY_MAX)
        .max_concurrent_reset_streams(RESET_KEPT)
        .max_local_error_reset_streams(Some(ERRORS_MAX))
        .enable_connect_protocol();
    builder
}
