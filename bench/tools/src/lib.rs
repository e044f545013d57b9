//! What the bench's programs share: an edge-triggered epoll loop over slots, without unsafe.
//!
//! Deliberately without time-outs, limits and back-pressure: these programs mark a floor, they are no product.

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;

/// One connection and what could not be written yet.
pub struct Side<S> {
    pub stream: TcpStream,
    pub held: Vec<u8>,
    out: Vec<u8>,
    pub state: S,
}

/// A place in the table; the turn tells a new connection from an old one in the same slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    slot: u32,
    turn: u32,
}

struct Slot<S> {
    turn: u32,
    side: Option<Side<S>>,
}

/// All connections of the loop.
pub struct Table<S> {
    epoll: OwnedFd,
    slots: Vec<Slot<S>>,
    free: Vec<u32>,
}

const LISTENER: u64 = u64::MAX;

pub enum Happened {
    Accepted(TcpStream),
    /// Bytes may be there; `bool`: the other side has gone.
    Ready(Place, bool),
}

impl<S> Table<S> {
    pub fn new(listener: &TcpListener) -> io::Result<Table<S>> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        listener.set_nonblocking(true)?;
        epoll::add(&epoll, listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        Ok(Table { epoll, slots: Vec::new(), free: Vec::new() })
    }

    /// Takes a connection in.
    pub fn enter(&mut self, stream: TcpStream, state: S) -> io::Result<Place> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { turn: 0, side: None });
            self.slots.len() as u32 - 1
        });
        let entry = &mut self.slots[slot as usize];
        let place = Place { slot, turn: entry.turn };
        let data = EventData::new_u64(u64::from(place.turn) << 32 | u64::from(slot));
        epoll::add(&self.epoll, &stream, data, EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET)?;
        entry.side = Some(Side { stream, held: Vec::new(), out: Vec::new(), state });
        Ok(place)
    }

    pub fn get(&mut self, place: Place) -> Option<&mut Side<S>> {
        let slot = self.slots.get_mut(place.slot as usize)?;
        if slot.turn == place.turn { slot.side.as_mut() } else { None }
    }

    /// Closes a connection.
    pub fn leave(&mut self, place: Place) -> Option<Side<S>> {
        let slot = self.slots.get_mut(place.slot as usize)?;
        if slot.turn != place.turn {
            return None;
        }
        let side = slot.side.take()?;
        slot.turn = slot.turn.wrapping_add(1);
        self.free.push(place.slot);
        Some(side)
    }

    /// Runs for ever.
    pub fn run(&mut self, listener: &TcpListener, mut on: impl FnMut(&mut Table<S>, Happened)) -> io::Result<()> {
        let mut events: Vec<Event> = Vec::with_capacity(512);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), None) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                let (data, flags) = (event.data.u64(), event.flags);
                if data == LISTENER {
                    while let Ok((stream, _)) = listener.accept() {
                        on(self, Happened::Accepted(stream));
                    }
                    continue;
                }
                let place = Place { slot: data as u32, turn: (data >> 32) as u32 };
                let Some(side) = self.get(place) else { continue };
                let gone = flags.intersects(EventFlags::ERR | EventFlags::HUP) || side.flush().is_err();
                if flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::ERR | EventFlags::HUP) {
                    on(self, Happened::Ready(place, gone));
                }
            }
        }
    }
}

impl<S> Side<S> {
    /// Reads once. `None`: the other side has gone; `Some(0)`: there is nothing now.
    pub fn read(&mut self, into: &mut [u8]) -> Option<usize> {
        match (&self.stream).read(into) {
            Ok(0) => None,
            Ok(n) => Some(n),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Some(0),
            Err(_) => None,
        }
    }

    /// Writes now what goes, the rest when the socket says so.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if !self.out.is_empty() {
            self.out.extend_from_slice(bytes);
            return Ok(());
        }
        match (&self.stream).write(bytes) {
            Ok(n) => self.out.extend_from_slice(&bytes[n..]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.out.extend_from_slice(bytes),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.out.is_empty() {
            match (&self.stream).write(&self.out) {
                Ok(n) => drop(self.out.drain(..n)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// As many open files as the system allows this process.
pub fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// Binds with a backlog that survives a few thousand connections at once.
pub fn listen(address: &str) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    // std listens with a backlog of 128; a second call changes it.
    rustix::net::listen(&listener, 8192)?;
    Ok(listener)
}
