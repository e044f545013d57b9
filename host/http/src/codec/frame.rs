//! The frames of HTTP/2 (RFC 9113 sections 4 and 6): their heads, what they are called, and why connections and streams end.

use bytes::{BufMut as _, BytesMut};

/// Bytes of a frame's head.
pub const HEAD: usize = 9;
/// Bytes of a frame's content that everybody takes, and more than which we do not.
pub const CONTENT_MAX: usize = 16 * 1024;
/// The largest window.
pub const WINDOW_MAX: i32 = i32::MAX;
/// The windows that a connection begins with.
pub const WINDOW: i32 = 65_535;

/// Kinds of frames.
#[allow(missing_docs, reason = "each name is the frame's")]
pub mod kind {
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
}

/// Flags of frames.
#[allow(missing_docs, reason = "each name is the flag's")]
pub mod flag {
    pub const ACK: u8 = 0x1;
    pub const END_STREAM: u8 = 0x1;
    pub const END_HEADERS: u8 = 0x4;
    pub const PADDED: u8 = 0x8;
    pub const PRIORITY: u8 = 0x20;
}

/// Settings.
#[allow(missing_docs, reason = "each name is the setting's")]
pub mod setting {
    pub const HEADER_TABLE_SIZE: u16 = 1;
    pub const ENABLE_PUSH: u16 = 2;
    pub const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub const INITIAL_WINDOW_SIZE: u16 = 4;
    pub const MAX_FRAME_SIZE: u16 = 5;
    pub const MAX_HEADER_LIST_SIZE: u16 = 6;
    pub const ENABLE_CONNECT_PROTOCOL: u16 = 8;
}

/// Why a stream or a connection ends (RFC 9113 section 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each name is the code's")]
#[repr(u32)]
pub enum Reason {
    NoError = 0,
    Protocol = 1,
    Internal = 2,
    FlowControl = 3,
    StreamClosed = 5,
    FrameSize = 6,
    RefusedStream = 7,
    Cancel = 8,
    Compression = 9,
    EnhanceYourCalm = 11,
}

/// A frame's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Bytes of its content.
    pub len: usize,
    /// See [`kind`].
    pub kind: u8,
    /// See [`flag`].
    pub flags: u8,
    /// Its stream; 0: the connection.
    pub stream: u32,
}

impl Head {
    /// Reads one. `None`: it is not all here.
    pub fn read(bytes: &[u8]) -> Option<Head> {
        let &[a, b, c, kind, flags, s0, s1, s2, s3] = bytes.first_chunk()?;
        let len = u32::from_be_bytes([0, a, b, c]) as usize;
        Some(Head { len, kind, flags, stream: u32::from_be_bytes([s0, s1, s2, s3]) & 0x7fff_ffff })
    }

    /// As it stands on the wire.
    pub fn bytes(self) -> [u8; HEAD] {
        let [_, a, b, c] = (self.len as u32).to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        [a, b, c, self.kind, self.flags, s0, s1, s2, s3]
    }

    /// Has it this flag?
    pub fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Writes a frame whose content is small.
pub fn put(out: &mut BytesMut, kind: u8, flags: u8, stream: u32, content: &[u8]) {
    out.put_slice(&Head { len: content.len(), kind, flags, stream }.bytes());
    out.put_slice(content);
}

/// Writes settings.
pub fn put_settings(out: &mut BytesMut, settings: &[(u16, u32)]) {
    out.put_slice(&Head { len: settings.len() * 6, kind: kind::SETTINGS, flags: 0, stream: 0 }.bytes());
    for &(setting, value) in settings {
        out.put_u16(setting);
        out.put_u32(value);
    }
}

/// Reads a number of four bytes; what is longer or shorter is none.
pub fn number(content: &[u8]) -> Option<u32> {
    content.try_into().ok().map(u32::from_be_bytes)
}
