//! A client of HTTP/2 that says what it is told, valid or not: frames by hand, fields as plain literals. What a well-behaved
//! client would refuse to send is what this one is for.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// END_STREAM, and ACK.
pub const END: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;

/// One frame as it came.
#[derive(Clone, Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With an answer: status, and its body.
    Answered(u16, Vec<u8>),
    /// The stream was reset with this code.
    Reset(u32),
    /// The connection was told to go with this code.
    GoAway(u32),
    /// The connection was closed without a word.
    Closed,
    /// Nothing came in time.
    Silent,
}

/// A frame's bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// A header block of literals that are never indexed (RFC 7541 section 6.2.3), without Huffman coding.
pub fn block(fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0x10);
        string(&mut out, name);
        string(&mut out, value);
    }
    out
}

fn string(out: &mut Vec<u8>, text: &[u8]) {
    let mut left = text.len();
    if left < 127 {
        out.push(left as u8);
    } else {
        out.push(127);
        left -= 127;
        while left >= 128 {
            out.push(left as u8 | 0x80);
            left >>= 7;
        }
        out.push(left as u8);
    }
    out.extend(text);
}

/// HEADERS, and CONTINUATION frames where they do not fit into one.
pub fn headers(stream: u32, end: bool, fields: &[(&[u8], &[u8])]) -> Vec<u8> {
    let block = block(fields);
    let mut pieces = block.chunks(16_384).peekable();
    let mut out = Vec::new();
    let mut kind = HEADERS;
    while let Some(piece) = pieces.next() {
        let mut flags = if pieces.peek().is_none() { END_HEADERS } else { 0 };
        if kind == HEADERS && end {
            flags |= END;
        }
        out.extend(frame(kind, flags, stream, piece));
        kind = CONTINUATION;
    }
    out
}

/// A plain GET without a body.
pub fn get(stream: u32, authority: &str, path: &str) -> Vec<u8> {
    let fields: [(&[u8], &[u8]); 4] =
        [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", authority.as_bytes()), (b":path", path.as_bytes())];
    headers(stream, true, &fields)
}

/// One connection.
pub struct Two {
    stream: TcpStream,
    held: Vec<u8>,
    /// Answers PINGs and SETTINGS of the other side; an attacker may not want to.
    pub polite: bool,
    /// The other side has said that it takes no more requests.
    pub told_to_go: bool,
}

impl Two {
    /// Connects, and says preface and settings.
    ///
    /// # Errors
    /// Nobody listens.
    pub fn open(address: SocketAddr, settings: &[(u16, u32)]) -> io::Result<Two> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let mut two = Two { stream, held: Vec::new(), polite: true, told_to_go: false };
        let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let payload: Vec<u8> =
            settings.iter().flat_map(|(name, value)| name.to_be_bytes().into_iter().chain(value.to_be_bytes())).collect();
        out.extend(frame(SETTINGS, 0, 0, &payload));
        two.send(&out)?;
        Ok(two)
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// The other side has closed, or takes nothing for ten seconds.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.set_write_timeout(Some(Duration::from_secs(10)))?;
        self.stream.write_all(bytes)
    }

    /// Ends our sending half.
    pub fn finish(&self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// The next frame; `None`: the end, or nothing until `limit`.
    pub fn next(&mut self, limit: Instant) -> Option<Frame> {
        loop {
            if let [a, b, c, kind, flags, s1, s2, s3, s4, ..] = self.held[..] {
                let len = u32::from_be_bytes([0, a, b, c]) as usize;
                if self.held.len() >= 9 + len {
                    let payload = self.held[9..9 + len].to_vec();
                    self.held.drain(..9 + len);
                    let frame = Frame { kind, flags, stream: u32::from_be_bytes([s1 & 0x7f, s2, s3, s4]), payload };
                    self.told_to_go |= frame.kind == GOAWAY;
                    if self.polite {
                        self.answer_politely(&frame);
                    }
                    return Some(frame);
                }
            }
            let left = limit.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
            self.stream.set_read_timeout(Some(left)).ok()?;
            let mut room = [0; 16 * 1024];
            match self.stream.read(&mut room) {
                Ok(0) | Err(_) => return None,
                Ok(read) => self.held.extend(&room[..read]),
            }
        }
    }

    fn answer_politely(&mut self, frame: &Frame) {
        match (frame.kind, frame.flags & END) {
            (SETTINGS, 0) => drop(self.send(&self::frame(SETTINGS, END, 0, b""))),
            (PING, 0) => drop(self.send(&self::frame(PING, END, 0, &frame.payload))),
            (DATA, _) if !frame.payload.is_empty() => {
                let len = (frame.payload.len() as u32).to_be_bytes();
                let _ = self.send(&self::frame(WINDOW_UPDATE, 0, 0, &len));
                if frame.flags & END == 0 {
                    let _ = self.send(&self::frame(WINDOW_UPDATE, 0, frame.stream, &len));
                }
            }
            _ => {}
        }
    }

    /// How the request on a stream ends.
    pub fn ended(&mut self, stream: u32, within: Duration) -> Ended {
        let limit = Instant::now() + within;
        let (mut status, mut body) = (None, Vec::new());
        while let Some(frame) = self.next(limit) {
            match frame.kind {
                HEADERS if frame.stream == stream && status.is_none() => {
                    let said = status_in(&frame.payload);
                    // A 100 is not the answer.
                    if said >= 200 {
                        status = Some(said);
                    }
                    if frame.flags & END != 0 {
                        return Ended::Answered(said, body);
                    }
                }
                HEADERS if frame.stream == stream => return Ended::Answered(status.unwrap_or(0), body),
                DATA if frame.stream == stream => {
                    body.extend(&frame.payload);
                    if frame.flags & END != 0 {
                        return Ended::Answered(status.unwrap_or(0), body);
                    }
                }
                RST_STREAM if frame.stream == stream => {
                    let code = code_in(&frame.payload);
                    // NO_ERROR behind a whole answer: the rest of the request is not wanted.
                    return match status {
                        Some(status) if code == 0 => Ended::Answered(status, body),
                        _ => Ended::Reset(code),
                    };
                }
                GOAWAY => {
                    let code = code_in(frame.payload.get(4..).unwrap_or_default());
                    if code != 0 {
                        return Ended::GoAway(code);
                    }
                }
                _ => {}
            }
        }
        if Instant::now() < limit { Ended::Closed } else { Ended::Silent }
    }
}

fn code_in(payload: &[u8]) -> u32 {
    payload.first_chunk().map_or(u32::MAX, |code| u32::from_be_bytes(*code))
}

/// The status that a header block begins with: indexed, or a literal of three digits (RFC 7541 section 6 and appendices).
fn status_in(block: &[u8]) -> u16 {
    let mut block = block;
    // Updates of the table's size may stand before it.
    while let [first, rest @ ..] = block
        && first & 0xe0 == 0x20
    {
        block = rest;
    }
    match block {
        [first, ..] if first & 0x80 != 0 => match first & 0x7f {
            8 => 200,
            9 => 204,
            10 => 206,
            11 => 304,
            12 => 400,
            13 => 404,
            14 => 500,
            // From the dynamic table, which is not kept here: some other status.
            _ => 299,
        },
        [_, len, rest @ ..] if len & 0x80 != 0 => huffman_digits(&rest[..(len & 0x7f) as usize]),
        [_, 3, digits @ ..] => digits.iter().take(3).fold(0, |status, digit| status * 10 + u16::from(digit.wrapping_sub(b'0'))),
        _ => 0,
    }
}

fn huffman_digits(bytes: &[u8]) -> u16 {
    let bits: Vec<u8> = bytes.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1)).collect();
    let (mut at, mut status) = (0, 0);
    for _ in 0..3 {
        let take = |len: usize| bits.iter().skip(at).take(len).fold(0_u16, |value, bit| value << 1 | u16::from(*bit));
        let five = take(5);
        let (digit, len) = if five < 3 { (five, 5) } else { (take(6).wrapping_sub(25) + 3, 6) };
        // `3` to `9` are 011001 to 011111.
        status = status * 10 + digit;
        at += len;
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_however_it_is_said() {
        assert_eq!(status_in(&[0x88]), 200);
        assert_eq!(status_in(&[0x20, 0x8c]), 400);
        assert_eq!(status_in(&[0x48, 3, b'5', b'0', b'3']), 503);
        // 503: 011011 00000 011001, padded with ones.
        assert_eq!(status_in(&[0x48, 0x83, 0b0110_1100, 0b0000_1100, 0b1111_1111]), 503);
    }
}
