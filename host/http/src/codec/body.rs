//! What follows a head: sized, chunked, or until the connection ends. Pieces are slices of what was read.
//!
//! How large a body may be is for whoever reads it; what is bounded here is what a body costs beyond its data: chunk
//! lines and trailers.

use super::fields::{field_refusal, known, span, spans};
use super::{Framing, Refusal, RefusalKind};
use bytes::{Buf, Bytes, BytesMut};
use wharf_core::head::{Field, Fields, Known};

/// Longest chunk extension, bytes. Signatures in use have less than 100.
const EXTENSION_BYTES_MAX: usize = 256;
/// All extensions of a body together may be as large as its data, and this on top.
const EXTENSIONS_FREE: u64 = 16 * 1024;
/// Trailer fields together, bytes.
const TRAILER_BYTES_MAX: usize = 8 * 1024;
/// Trailer fields.
const TRAILER_FIELDS_MAX: usize = 32;
/// Hexadecimal digits of a chunk size.
const SIZE_DIGITS_MAX: u8 = 16;

/// Part of a body.
#[derive(Clone, Debug)]
pub enum Piece {
    /// Data, never empty.
    Data(Bytes),
    /// The body is complete. Trailer fields, if there are any.
    End(Option<Fields>),
    /// More bytes are needed. Some may stay in the buffer: it must be able to grow by 8 KiB.
    More,
}

/// Reads one body.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    /// Data and extensions of all chunks so far.
    data: u64,
    extensions: u64,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Done,
    Length(u64),
    UntilClose,
    Size {
        size: u64,
        digits: u8,
    },
    /// Behind the size: `;` or spaces before it. `len` counts from the size on.
    Extension {
        size: u64,
        len: usize,
        begun: bool,
    },
    SizeEnd {
        size: u64,
    },
    Data {
        left: u64,
    },
    DataEnd {
        cr: bool,
    },
    Trailers,
    Broken(RefusalKind),
}

const CHUNK: State = State::Size { size: 0, digits: 0 };

impl Decoder {
    /// For a body that is framed like this.
    pub fn new(framing: Framing) -> Decoder {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => CHUNK,
            Framing::UntilClose => State::UntilClose,
        };
        Decoder { state, data: 0, extensions: 0 }
    }

    /// Takes the next piece off the front of `buf`. What follows the body stays there.
    ///
    /// # Errors
    /// A malformed body. Its status is for a client; what an upstream did is 502. Every later call fails the same way.
    pub fn decode(&mut self, buf: &mut BytesMut) -> Result<Piece, Refusal> {
        self.next(buf).map_err(|what| {
            self.state = State::Broken(what);
            what.into()
        })
    }

    /// The body has been read to its end.
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Bytes still to come, where that is known.
    pub fn remaining(&self) -> Option<u64> {
        match self.state {
            State::Done => Some(0),
            State::Length(left) => Some(left),
            _ => None,
        }
    }

    /// The connection has ended.
    ///
    /// # Errors
    /// The body is not complete: nobody may take it for whole.
    pub fn end_of_input(&mut self) -> Result<(), Refusal> {
        match self.state {
            State::Done | State::UntilClose => {
                self.state = State::Done;
                Ok(())
            }
            State::Broken(what) => Err(what.into()),
            _ => {
                self.state = State::Broken(RefusalKind::BodyCut);
                Err(RefusalKind::BodyCut.into())
            }
        }
    }

    fn next(&mut self, buf: &mut BytesMut) -> Result<Piece, RefusalKind> {
        loop {
            match self.state {
                State::Done => return Ok(Piece::End(None)),
                State::Broken(what) => return Err(what),
                State::Trailers => return self.trailers(buf),
                _ if buf.is_empty() => return Ok(Piece::More),
                State::UntilClose => {
                    let all = buf.len();
                    return Ok(Piece::Data(super::take(buf, all)));
                }
                State::Length(left) => {
                    let (piece, left) = take(buf, left);
                    self.state = if left == 0 { State::Done } else { State::Length(left) };
                    return Ok(Piece::Data(piece));
                }
                State::Data { left } => {
                    let (piece, left) = take(buf, left);
                    self.data = self.data.saturating_add(piece.len() as u64);
                    self.state = if left == 0 { State::DataEnd { cr: false } } else { State::Data { left } };
                    return Ok(Piece::Data(piece));
                }
                _ => self.line(buf)?,
            }
        }
    }

    /// What stands between the data of two chunks, byte by byte: it may be cut anywhere, and it is short.
    fn line(&mut self, buf: &mut BytesMut) -> Result<(), RefusalKind> {
        let mut used = 0;
        for &byte in buf.iter() {
            self.state = match (self.state, byte) {
                (State::DataEnd { cr: false }, b'\r') => State::DataEnd { cr: true },
                (State::DataEnd { cr: true }, b'\n') => CHUNK,
                // The fuzzer must find that a bare LF behind the data is taken.
                #[cfg(wharf_planted)]
                (State::DataEnd { cr: false }, b'\n') => CHUNK,
                (State::DataEnd { .. }, _) => return Err(RefusalKind::ChunkEnd),

                (State::Size { digits: 1.., size }, b'\r') => State::SizeEnd { size },
                (State::Size { digits: 1.., size }, b';' | b' ' | b'\t') => State::Extension { size, len: 1, begun: byte == b';' },
                (State::Size { size, digits }, _) => {
                    let digit = (byte as char).to_digit(16).ok_or(RefusalKind::ChunkSize)?;
                    if digits == SIZE_DIGITS_MAX || size >> 59 != 0 {
                        return Err(RefusalKind::ChunkSize);
                    }
                    State::Size { size: size << 4 | u64::from(digit), digits: digits + 1 }
                }

                (State::Extension { size, len, begun }, b'\r') => {
                    if !begun {
                        return Err(RefusalKind::ChunkExtension);
                    }
                    self.extensions = self.extensions.saturating_add(len as u64);
                    if self.extensions > self.data.saturating_add(EXTENSIONS_FREE) {
                        return Err(RefusalKind::ChunkExtensionBytes { max: EXTENSION_BYTES_MAX });
                    }
                    State::SizeEnd { size }
                }
                (State::Extension { size, len, begun }, _) => {
                    let fits = match byte {
                        b'\t' | b' ' | b';' => true,
                        0..0x20 | 0x7f => false,
                        _ => begun,
                    };
                    if !fits {
                        return Err(RefusalKind::ChunkExtension);
                    }
                    if len == EXTENSION_BYTES_MAX {
                        return Err(RefusalKind::ChunkExtensionBytes { max: EXTENSION_BYTES_MAX });
                    }
                    State::Extension { size, len: len + 1, begun: begun || byte == b';' }
                }

                (State::SizeEnd { size: 0 }, b'\n') => State::Trailers,
                (State::SizeEnd { size }, b'\n') => State::Data { left: size },
                (State::SizeEnd { .. }, _) => return Err(RefusalKind::LineEnd),
                // Not lines: `next` does not come here with them.
                (other, _) => other,
            };
            used += 1;
            if matches!(self.state, State::Data { .. } | State::Trailers) {
                break;
            }
        }
        buf.advance(used);
        Ok(())
    }

    /// The end of a chunked body: an empty line, or fields before it.
    fn trailers(&mut self, buf: &mut BytesMut) -> Result<Piece, RefusalKind> {
        match buf.as_ref() {
            [] | [b'\r'] => return Ok(Piece::More),
            [b'\r', b'\n', ..] => {
                buf.advance(2);
                self.state = State::Done;
                return Ok(Piece::End(None));
            }
            [b'\r' | b'\n', ..] => return Err(RefusalKind::LineEnd),
            _ => {}
        }
        let view = buf.get(..buf.len().min(TRAILER_BYTES_MAX)).unwrap_or_default();
        let mut slots = [httparse::EMPTY_HEADER; TRAILER_FIELDS_MAX];
        let (end, mut list) = match httparse::parse_headers(view, &mut slots) {
            Ok(httparse::Status::Complete((end, headers))) => (end, spans(buf, 0, end, headers)?),
            Ok(httparse::Status::Partial) if view.len() < TRAILER_BYTES_MAX => return Ok(Piece::More),
            Ok(httparse::Status::Partial) => return Err(RefusalKind::TrailerBytes { max: TRAILER_BYTES_MAX }),
            Err(httparse::Error::TooManyHeaders) => return Err(RefusalKind::TrailerCount { max: TRAILER_FIELDS_MAX }),
            Err(other) => return Err(field_refusal(other, TRAILER_FIELDS_MAX)),
        };
        let mut text = buf.split_to(end);
        for field in &mut list {
            let known = known(&mut text, field.name());
            if !may_trail(known, span(&text, field.name())) {
                return Err(RefusalKind::TrailerField);
            }
            *field = Field::received(field.name(), field.value(), known);
        }
        self.state = State::Done;
        Ok(Piece::End(Some(Fields::received(text.to_vec(), list))))
    }
}

/// May this field come behind a body? Not what frames, routes, authenticates or says what the body is: it was needed
/// before (RFC 9110 section 6.5.1).
pub(super) fn may_trail(known: Known, name: &[u8]) -> bool {
    let needed_before = known.is_guarded()
        || Known::is_alias(name)
        || known.is_hop_by_hop()
        || matches!(
            known,
            Known::Authorization | Known::Cookie | Known::SetCookie | Known::Expect | Known::ContentType | Known::CacheControl
        )
        || matches!(name, b"content-encoding" | b"content-range" | b"location" | b"range" | b"max-forwards");
    !needed_before
}

fn take(buf: &mut BytesMut, left: u64) -> (Bytes, u64) {
    let len = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
    (super::take(buf, len), left - len as u64)
}
