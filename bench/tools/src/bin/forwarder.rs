//! `forwarder ADDRESS UPSTREAM`: the floor. Parses heads with httparse, drops hop-by-hop fields, adds X-Forwarded-For,
//! keeps upstream connections, and does nothing else: no bodies of requests, no chunks, no limits, no time-outs, no log.
//!
//! What a gateway costs above this is what its promises cost.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use wharf_bench_tools::{Happened, Place, Table, listen, raise_file_limit};

enum State {
    Client { forwarded_for: Vec<u8>, upstream: Option<Place> },
    Upstream { client: Option<Place>, body_left: Option<u64> },
}

struct Forwarder {
    upstream: SocketAddr,
    idle: Vec<Place>,
    buffer: Vec<u8>,
    out: Vec<u8>,
}

fn main() -> std::io::Result<()> {
    raise_file_limit();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [address, upstream] = args.as_slice() else {
        eprintln!("usage: forwarder ADDRESS UPSTREAM");
        std::process::exit(2);
    };
    let Ok(upstream) = upstream.parse() else {
        eprintln!("{upstream:?} is not an address");
        std::process::exit(2);
    };
    let listener = listen(address)?;
    println!("READY {}", listener.local_addr()?);
    std::io::stdout().flush()?;
    let mut table = Table::new(&listener)?;
    let mut forwarder = Forwarder { upstream, idle: Vec::new(), buffer: vec![0; 64 << 10], out: Vec::new() };
    table.run(&listener, |table, happened| match happened {
        Happened::Accepted(stream) => {
            let Ok(from) = stream.peer_addr() else { return };
            let forwarded_for = format!("X-Forwarded-For: {}\r\n\r\n", from.ip()).into_bytes();
            drop(table.enter(stream, State::Client { forwarded_for, upstream: None }));
        }
        Happened::Ready(place, gone) => {
            if gone || forwarder.read(table, place).is_none() {
                forwarder.end(table, place);
            }
        }
    })
}

impl Forwarder {
    /// `None`: this connection is over.
    fn read(&mut self, table: &mut Table<State>, place: Place) -> Option<()> {
        loop {
            let side = table.get(place)?;
            let n = side.read(&mut self.buffer)?;
            if n == 0 {
                return Some(());
            }
            let mut held = std::mem::take(&mut side.held);
            let buffer = std::mem::take(&mut self.buffer);
            let is_client = matches!(side.state, State::Client { .. });
            let data = if held.is_empty() {
                &buffer[..n]
            } else {
                held.extend_from_slice(&buffer[..n]);
                &held
            };
            let done = if is_client { self.request(table, place, data) } else { self.answer(table, place, data) };
            let is_full = n == buffer.len();
            self.buffer = buffer;
            done?;
            if !is_full {
                return Some(());
            }
        }
    }

    fn request(&mut self, table: &mut Table<State>, client: Place, data: &[u8]) -> Option<()> {
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut fields);
        if request.parse(data).ok()?.is_partial() {
            table.get(client)?.held = data.to_vec();
            return Some(());
        }
        let State::Client { forwarded_for, upstream: None } = &table.get(client)?.state else { return None };
        self.out.clear();
        self.out.extend_from_slice(request.method?.as_bytes());
        self.out.push(b' ');
        self.out.extend_from_slice(request.path?.as_bytes());
        self.out.extend_from_slice(b" HTTP/1.1\r\n");
        copy_fields(&mut self.out, request.headers);
        self.out.extend_from_slice(forwarded_for);
        let upstream = match self.idle.pop() {
            Some(upstream) => upstream,
            None => table.enter(TcpStream::connect(self.upstream).ok()?, State::Upstream { client: None, body_left: None }).ok()?,
        };
        let side = table.get(upstream)?;
        side.state = State::Upstream { client: Some(client), body_left: None };
        side.send(&self.out).ok()?;
        if let State::Client { upstream: mine, .. } = &mut table.get(client)?.state {
            *mine = Some(upstream);
        }
        Some(())
    }

    fn answer(&mut self, table: &mut Table<State>, upstream: Place, data: &[u8]) -> Option<()> {
        let State::Upstream { client: Some(client), body_left } = table.get(upstream)?.state else { return None };
        let left = match body_left {
            Some(left) => {
                table.get(client)?.send(data).ok()?;
                left.checked_sub(data.len() as u64)?
            }
            None => {
                let mut fields = [httparse::EMPTY_HEADER; 64];
                let mut response = httparse::Response::new(&mut fields);
                let httparse::Status::Complete(head) = response.parse(data).ok()? else {
                    table.get(upstream)?.held = data.to_vec();
                    return Some(());
                };
                let code = response.code?;
                self.out.clear();
                self.out.extend_from_slice(b"HTTP/1.1 ");
                self.out.extend_from_slice(&[b'0' + (code / 100) as u8, b'0' + (code / 10 % 10) as u8, b'0' + (code % 10) as u8, b' ']);
                self.out.extend_from_slice(response.reason.unwrap_or_default().as_bytes());
                self.out.extend_from_slice(b"\r\n");
                let length = copy_fields(&mut self.out, response.headers)?;
                self.out.extend_from_slice(b"\r\n");
                let body = &data[head..];
                self.out.extend_from_slice(body);
                table.get(client)?.send(&self.out).ok()?;
                length.checked_sub(body.len() as u64)?
            }
        };
        let done = left == 0;
        table.get(upstream)?.state =
            State::Upstream { client: if done { None } else { Some(client) }, body_left: if done { None } else { Some(left) } };
        if done {
            self.idle.push(upstream);
            if let State::Client { upstream, .. } = &mut table.get(client)?.state {
                *upstream = None;
            }
        }
        Some(())
    }

    fn end(&mut self, table: &mut Table<State>, place: Place) {
        let Some(side) = table.leave(place) else { return };
        let other = match side.state {
            State::Client { upstream, .. } => upstream,
            State::Upstream { client, .. } => {
                self.idle.retain(|idle| *idle != place);
                client
            }
        };
        if let Some(other) = other {
            table.leave(other);
        }
    }
}

/// Copies what travels on; gives the content length.
fn copy_fields(out: &mut Vec<u8>, fields: &[httparse::Header<'_>]) -> Option<u64> {
    let mut length = None;
    for field in fields {
        let name = field.name.as_bytes();
        // By length first: most fields are told apart by it.
        let hop = match name.len() {
            2 => name.eq_ignore_ascii_case(b"te"),
            7 => name.eq_ignore_ascii_case(b"upgrade"),
            10 => name.eq_ignore_ascii_case(b"connection") || name.eq_ignore_ascii_case(b"keep-alive"),
            14 => {
                if name.eq_ignore_ascii_case(b"content-length") {
                    length = std::str::from_utf8(field.value).ok()?.parse().ok();
                }
                false
            }
            16 => name.eq_ignore_ascii_case(b"proxy-connection"),
            _ => false,
        };
        if !hop {
            out.extend_from_slice(name);
            out.extend_from_slice(b": ");
            out.extend_from_slice(field.value);
            out.extend_from_slice(b"\r\n");
        }
    }
    length
}
