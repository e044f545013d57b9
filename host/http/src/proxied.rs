//! The PROXY protocol (versions 1 and 2 of its specification, 2020-03-05): a balancer in front says whose connection it is.
//!
//! Asked only of peers that the listener names, and of them always: a header that may be there or not could be forged by
//! whoever is behind such a balancer.

use crate::front::Visit;
use bytes::{Buf as _, BytesMut};
use ppp::{HeaderResult, PartialResult as _, v1, v2};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::task::{Poll, ready};

/// Largest header: version 2 may carry certificates, and nobody sends more than a few hundred bytes.
const HEADER_MAX: usize = 4 * 1024;

/// Reads the header; what follows stays in `early`. `None`: the balancer speaks for itself (health checks).
pub(crate) async fn read(visit: &Visit, early: &mut BytesMut) -> io::Result<Option<SocketAddr>> {
    poll_fn(|task| {
        loop {
            if !early.is_empty() {
                let header = HeaderResult::parse(early);
                if header.is_complete() {
                    let (client, len) = told(&header)?;
                    early.advance(len.min(early.len()));
                    return Poll::Ready(Ok(client));
                }
                if early.len() >= HEADER_MAX {
                    return Poll::Ready(Err(io::Error::other(format!("a PROXY header of more than {HEADER_MAX} bytes"))));
                }
            }
            match visit.socket.poll_read(task, early) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Poll::Ready(read) => read.map(drop)?,
                Poll::Pending => {
                    ready!(visit.alarm.poll_elapsed(task));
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
            }
        }
    })
    .await
}

fn told(header: &HeaderResult<'_>) -> io::Result<(Option<SocketAddr>, usize)> {
    match header {
        HeaderResult::V1(header) => {
            let header = header.as_ref().map_err(|error| io::Error::other(error.to_string()))?;
            let client = match header.addresses {
                v1::Addresses::Tcp4(both) => Some((both.source_address, both.source_port).into()),
                v1::Addresses::Tcp6(both) => Some((both.source_address, both.source_port).into()),
                v1::Addresses::Unknown => None,
            };
            Ok((client, header.header.len()))
        }
        HeaderResult::V2(header) => {
            let header = header.as_ref().map_err(|error| io::Error::other(error.to_string()))?;
            let client = match (&header.command, header.addresses) {
                (v2::Command::Proxy, v2::Addresses::IPv4(both)) => Some((both.source_address, both.source_port).into()),
                (v2::Command::Proxy, v2::Addresses::IPv6(both)) => Some((both.source_address, both.source_port).into()),
                _ => None,
            };
            Ok((client, header.header.len()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Option<io::Result<(Option<SocketAddr>, usize)>> {
        let header = HeaderResult::parse(bytes);
        header.is_complete().then(|| told(&header))
    }

    #[test]
    fn both_versions_say_whose_connection_it_is() {
        let (client, len) = read(b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\nGET").unwrap().unwrap();
        assert_eq!((client, len), (Some("192.0.2.7:4711".parse().unwrap()), 44));
        let (client, _) = read(b"PROXY UNKNOWN\r\n").unwrap().unwrap();
        assert_eq!(client, None);
        let mut second = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
        second.extend([192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x67, 1, 0xbb]);
        second.extend(b"GET");
        let (client, len) = read(&second).unwrap().unwrap();
        assert_eq!((client, len), (Some("192.0.2.7:4711".parse().unwrap()), 28));
        assert!(read(&second[..27]).is_none(), "a header in pieces is waited for");
        second[12] = 0x20;
        assert_eq!(read(&second).unwrap().unwrap().0, None, "a balancer's own connection");
    }

    #[test]
    fn what_is_no_header_is_refused() {
        for bad in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"PROXY TCP4 192.0.2.7 198.51.100.1 99999 443\r\n", b"PROXY TCP9 a b 1 2\r\n"] {
            assert!(read(bad).unwrap().is_err(), "{bad:?}");
        }
    }
}
