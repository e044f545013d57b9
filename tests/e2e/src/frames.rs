//! Frames of WebSocket (RFC 6455 section 5) as bytes, valid or not, and back. The gateway carries them and understands none;
//! those who talk through it do.

#![allow(clippy::indexing_slicing, reason = "this is test code: a panic is how a test tells")]

use bytes::{Buf as _, BytesMut};

pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// What a client masks with. Constant, so that a failing case can be read.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// One frame.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    /// The last of its message.
    pub last: bool,
    /// The three reserved bits, as a number.
    pub reserved: u8,
    /// What it is.
    pub kind: u8,
    /// With which it is masked; none: it is not.
    pub mask: Option<[u8; 4]>,
    /// What it says, unmasked.
    pub payload: Vec<u8>,
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let begin = String::from_utf8_lossy(&self.payload[..self.payload.len().min(16)]).into_owned();
        let last = if self.last { "" } else { ", more" };
        write!(f, "kind {}{last}, reserved {}, {} bytes {begin:?}", self.kind, self.reserved, self.payload.len())
    }
}

impl Frame {
    /// A whole message.
    pub fn new(kind: u8, payload: impl Into<Vec<u8>>) -> Frame {
        Frame { last: true, reserved: 0, kind, mask: None, payload: payload.into() }
    }

    /// Not the last of its message.
    #[must_use]
    pub fn more(mut self) -> Frame {
        self.last = false;
        self
    }

    /// With reserved bits.
    #[must_use]
    pub fn reserved(mut self, bits: u8) -> Frame {
        self.reserved = bits;
        self
    }

    /// As a client sends it.
    #[must_use]
    pub fn masked(mut self) -> Frame {
        self.mask = Some(MASK);
        self
    }

    /// As a server sends it.
    #[must_use]
    pub fn bare(mut self) -> Frame {
        self.mask = None;
        self
    }

    /// Its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = vec![u8::from(self.last) << 7 | self.reserved << 4 | self.kind];
        let masked = if self.mask.is_some() { 0x80 } else { 0 };
        match self.payload.len() {
            len @ 0..126 => out.push(masked | len as u8),
            len @ 126..65_536 => {
                out.push(masked | 126);
                out.extend((len as u16).to_be_bytes());
            }
            len => {
                out.push(masked | 127);
                out.extend((len as u64).to_be_bytes());
            }
        }
        out.extend(self.mask.iter().flatten());
        let mask = self.mask.unwrap_or_default();
        out.extend(self.payload.iter().enumerate().map(|(at, byte)| byte ^ mask[at % 4]));
        out
    }

    /// Takes the next whole frame from the front; `None`: more bytes are needed.
    pub fn take(from: &mut BytesMut) -> Option<Frame> {
        let [first, second, rest @ ..] = &from[..] else { return None };
        let (len, rest) = match second & 0x7f {
            126 => rest.split_first_chunk().map(|(len, rest)| (u16::from_be_bytes(*len) as usize, rest))?,
            127 => rest.split_first_chunk().map(|(len, rest)| (u64::from_be_bytes(*len) as usize, rest))?,
            len => (len as usize, rest),
        };
        let (mask, rest) = match second & 0x80 {
            0 => (None, rest),
            _ => rest.split_first_chunk().map(|(mask, rest)| (Some(*mask), rest))?,
        };
        let said = rest.get(..len)?;
        let key = mask.unwrap_or_default();
        let payload = said.iter().enumerate().map(|(at, byte)| byte ^ key[at % 4]).collect();
        let frame = Frame { last: first & 0x80 != 0, reserved: first >> 4 & 7, kind: first & 0xf, mask, payload };
        let all = from.len() - rest.len() + len;
        from.advance(all);
        Some(frame)
    }
}

/// A close with a code and a reason, valid or not.
pub fn close(code: u16, reason: &str) -> Frame {
    Frame::new(CLOSE, [&code.to_be_bytes()[..], reason.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_as_it_was_written_and_not_before_it_is_whole() {
        for len in [0, 1, 125, 126, 127, 65_535, 65_536] {
            for frame in [Frame::new(BINARY, vec![7; len]).masked(), Frame::new(TEXT, vec![b'a'; len]).more().reserved(5)] {
                let bytes = frame.bytes();
                let mut held = BytesMut::from(&bytes[..bytes.len() - 1]);
                assert_eq!(Frame::take(&mut held), None);
                held.extend(&bytes[bytes.len() - 1..]);
                held.extend(b"\x81");
                assert_eq!((Frame::take(&mut held), &held[..]), (Some(frame), &b"\x81"[..]));
            }
        }
    }

    #[test]
    fn the_examples_of_the_rfc_are_written_as_there() {
        assert_eq!(Frame::new(TEXT, "Hello").bytes(), b"\x81\x05Hello");
        assert_eq!(Frame::new(TEXT, "Hello").masked().bytes(), b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58");
    }
}
