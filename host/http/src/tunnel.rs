//! A connection that has switched protocols: bytes both ways until both ends have ended, or nothing moves for too long.

use crate::deadlines::Alarm;
use crate::io::{Socket, poll_write_all};
use bytes::{Buf, Bytes, BytesMut};
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use wharf_core::body::Tunnel;

/// Carried at once in each direction. Held only while there is something to carry.
const ROOM: usize = 16 * 1024;

/// The client's end, by whichever protocol it came.
pub(crate) trait End {
    /// Appends what is there; `0`: it has ended.
    fn poll_read(&self, task: &mut Context<'_>, into: &mut BytesMut) -> Poll<io::Result<usize>>;
    /// Writes all of it, consuming it.
    fn poll_write_all(&self, task: &mut Context<'_>, from: &mut BytesMut) -> Poll<io::Result<()>>;
    /// Says that nothing more will be written.
    fn poll_shutdown(&self, task: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Takes an empty buffer back.
    fn give(&self, buffer: &mut BytesMut);
}

impl End for Socket {
    fn poll_read(&self, task: &mut Context<'_>, into: &mut BytesMut) -> Poll<io::Result<usize>> {
        self.poll_read(task, into)
    }

    fn poll_write_all(&self, task: &mut Context<'_>, from: &mut BytesMut) -> Poll<io::Result<()>> {
        poll_write_all(self, task, from, &mut Bytes::new())
    }

    fn poll_shutdown(&self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_shutdown(task)
    }

    fn give(&self, buffer: &mut BytesMut) {
        self.give(buffer);
    }
}

pub(crate) struct Ends<'a, E> {
    pub(crate) client: &'a E,
    /// What the client sent behind its request.
    pub(crate) early: BytesMut,
    /// The head that says 101, where it is not sent already.
    pub(crate) head: Vec<u8>,
    pub(crate) alarm: &'a Alarm,
    pub(crate) quiet: Duration,
}

/// Carries until the end. Bytes carried up and down.
pub(crate) async fn carry<E: End>(ends: &mut Ends<'_, E>, mut other_side: Box<dyn Tunnel>) -> (u64, u64) {
    let mut up = Way::of(std::mem::take(&mut ends.early));
    let mut down = Way::of(BytesMut::from(ends.head.as_slice()));
    let head = ends.head.len() as u64;
    ends.alarm.set_in(ends.quiet);
    poll_fn(|task| {
        let before = up.carried + down.carried;
        let up_over = poll_up(&mut up, ends.client, &mut *other_side, task);
        let down_over = poll_down(&mut down, ends.client, &mut *other_side, task);
        match (up_over, down_over) {
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) | (Poll::Ready(Err(_)), _) | (_, Poll::Ready(Err(_))) => return Poll::Ready(()),
            _ => {}
        }
        if up.carried + down.carried != before {
            ends.alarm.set_in(ends.quiet);
        }
        ends.alarm.poll_elapsed(task)
    })
    .await;
    (up.carried, down.carried.saturating_sub(head))
}

/// One direction.
struct Way {
    buf: BytesMut,
    carried: u64,
    ended: bool,
    shut: bool,
}

impl Way {
    fn of(buf: BytesMut) -> Way {
        Way { buf, carried: 0, ended: false, shut: false }
    }
}

fn poll_up(way: &mut Way, client: &impl End, other_side: &mut dyn Tunnel, task: &mut Context<'_>) -> Poll<io::Result<()>> {
    loop {
        while !way.buf.is_empty() {
            let written = ready!(other_side.poll_write(task, &way.buf))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            way.buf.advance(written);
            way.carried += written as u64;
        }
        if way.ended {
            if !way.shut {
                ready!(other_side.poll_shutdown(task))?;
                way.shut = true;
            }
            return Poll::Ready(Ok(()));
        }
        client.give(&mut way.buf);
        way.ended = ready!(client.poll_read(task, &mut way.buf))? == 0;
    }
}

fn poll_down(way: &mut Way, client: &impl End, other_side: &mut dyn Tunnel, task: &mut Context<'_>) -> Poll<io::Result<()>> {
    let mut room = [0u8; ROOM];
    loop {
        let before = way.buf.len();
        let written = client.poll_write_all(task, &mut way.buf);
        way.carried += (before - way.buf.len()) as u64;
        ready!(written)?;
        if way.ended {
            if !way.shut {
                ready!(client.poll_shutdown(task))?;
                way.shut = true;
            }
            return Poll::Ready(Ok(()));
        }
        let read = ready!(other_side.poll_read(task, &mut room))?;
        way.ended = read == 0;
        way.buf = BytesMut::from(room.get(..read).unwrap_or_default());
    }
}
