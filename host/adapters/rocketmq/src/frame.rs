//! The remoting protocol's bytes: frames, and messages as a broker stores and hands them out. Pure.
//!
//! A frame is its length (4 bytes, of what follows), the header's length (3 bytes, behind one byte that says JSON), the header, and a
//! body. A header is an object: a code, an `opaque` by which an answer finds its question, flags, and fields that are all text.

use bytes::{Buf, Bytes};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Largest frame that is read: a broker hands out at most one message (4 MiB) beyond its 256 KiB a time.
pub(crate) const FRAME_BYTES_MAX: usize = 16 << 20;
/// The header's length beside the frame's.
const LENGTHS: usize = 8;
/// A bit of `flag`.
const ANSWER: i64 = 1;
/// RocketMQ 5.3.3, as its clients number it.
const VERSION: u32 = 479;

/// The fields of a header, in the order in which they are signed.
pub(crate) type Fields = BTreeMap<&'static str, String>;

/// A frame as it came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Frame {
    /// What is asked for, or how it went.
    pub(crate) code: i64,
    /// The question that is answered.
    pub(crate) opaque: i32,
    /// An answer, not a question.
    pub(crate) is_answer: bool,
    /// What the other side says about it.
    pub(crate) remark: String,
    fields: Map<String, Value>,
    /// What follows the header.
    pub(crate) body: Bytes,
}

/// Bytes that are no frame or no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Garbled;

/// A question, written.
pub(crate) fn question(code: u32, opaque: i32, fields: &Fields, body: &[u8]) -> Bytes {
    let header = json!({
        "code": code, "language": "RUST", "version": VERSION, "opaque": opaque, "flag": 0,
        "extFields": fields, "serializeTypeCurrentRPC": "JSON",
    });
    let header = header.to_string();
    let mut out = Vec::with_capacity(LENGTHS + header.len() + body.len());
    out.extend_from_slice(&((4 + header.len() + body.len()) as u32).to_be_bytes());
    out.extend_from_slice(&(header.len() as u32).to_be_bytes());
    out.extend_from_slice(header.as_bytes());
    out.extend_from_slice(body);
    out.into()
}

/// Reads what follows a frame's length.
pub(crate) fn read(mut bytes: Bytes) -> Result<Frame, Garbled> {
    let word = bytes.try_get_u32().map_err(|_| Garbled)?;
    let length = (word & 0x00ff_ffff) as usize;
    if word >> 24 != 0 || length > bytes.len() {
        return Err(Garbled);
    }
    let header: Value = serde_json::from_slice(&bytes.split_to(length)).map_err(|_| Garbled)?;
    let Value::Object(mut header) = header else { return Err(Garbled) };
    let number = |name: &str| header.get(name).and_then(Value::as_i64);
    let (code, opaque, flag) = (number("code").ok_or(Garbled)?, number("opaque").ok_or(Garbled)?, number("flag").unwrap_or_default());
    let remark = header.get("remark").and_then(Value::as_str).unwrap_or_default().to_owned();
    let fields = match header.remove("extFields") {
        Some(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    Ok(Frame { code, opaque: opaque as i32, is_answer: flag & ANSWER != 0, remark, fields, body: bytes })
}

impl Frame {
    /// A number among the fields; most versions write it as text.
    pub(crate) fn number(&self, name: &str) -> Option<i64> {
        match self.fields.get(name)? {
            Value::String(text) => text.parse().ok(),
            value => value.as_i64(),
        }
    }

    /// The body as JSON. fastjson leaves whole numbers unquoted where they are keys of an object, which JSON does not know:
    /// they are quoted first.
    pub(crate) fn json(&self) -> Result<Value, Garbled> {
        serde_json::from_slice(&self.body).or_else(|_| serde_json::from_slice(&quoted_keys(&self.body))).map_err(|_| Garbled)
    }
}

/// `{0:"a"}` as `{"0":"a"}`.
fn quoted_keys(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() + 16);
    let (mut rest, mut in_text, mut is_escaped) = (json, false, false);
    while let Some((&byte, after)) = rest.split_first() {
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if !in_text && digits > 0 && matches!(out.last(), Some(b'{' | b',')) && rest.get(digits) == Some(&b':') {
            out.push(b'"');
            out.extend(rest.iter().take(digits));
            out.push(b'"');
            rest = rest.get(digits..).unwrap_or_default();
            continue;
        }
        if in_text {
            (is_escaped, in_text) = (byte == b'\\' && !is_escaped, byte != b'"' || is_escaped);
        } else {
            in_text = byte == b'"';
        }
        out.push(byte);
        rest = after;
    }
    out
}

/// A message as a broker keeps it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    pub(crate) offset: u64,
    pub(crate) stored_ms: u64,
    pub(crate) body: Bytes,
    /// `name \1 value \2`, again and again.
    properties: Bytes,
}

const MAGIC_1: u32 = 0xdaa3_20a7;
const MAGIC_2: u32 = 0xdaa3_20ab;
/// Bits of `sysFlag`.
const BORN_HOST_V6: u32 = 1 << 4;
const STORE_HOST_V6: u32 = 1 << 5;

/// Reads the messages of a pull's answer.
pub(crate) fn messages(mut body: Bytes) -> Result<Vec<Kept>, Garbled> {
    let mut kept = Vec::new();
    while body.has_remaining() {
        let size = body.slice(..4.min(body.len())).try_get_u32().map_err(|_| Garbled)? as usize;
        if size < 4 || size > body.len() {
            return Err(Garbled);
        }
        kept.push(message(body.split_to(size))?);
    }
    Ok(kept)
}

fn message(mut bytes: Bytes) -> Result<Kept, Garbled> {
    let skip = |bytes: &mut Bytes, count: usize| (bytes.len() >= count).then(|| bytes.advance(count)).ok_or(Garbled);
    // Its size.
    skip(&mut bytes, 4)?;
    let magic = bytes.try_get_u32().map_err(|_| Garbled)?;
    // The body's checksum, the queue, a flag.
    skip(&mut bytes, 12)?;
    let offset = bytes.try_get_u64().map_err(|_| Garbled)?;
    // Where it stands in the log.
    skip(&mut bytes, 8)?;
    let flags = bytes.try_get_u32().map_err(|_| Garbled)?;
    // When and where it was born.
    skip(&mut bytes, 8 + if flags & BORN_HOST_V6 == 0 { 8 } else { 20 })?;
    let stored_ms = bytes.try_get_u64().map_err(|_| Garbled)?;
    // Where it is kept; how often it came back; of transactions.
    skip(&mut bytes, if flags & STORE_HOST_V6 == 0 { 8 } else { 20 } + 4 + 8)?;
    let length = bytes.try_get_u32().map_err(|_| Garbled)? as usize;
    if length > bytes.len() {
        return Err(Garbled);
    }
    let body = bytes.split_to(length);
    let topic_length = match magic {
        MAGIC_1 => usize::from(bytes.try_get_u8().map_err(|_| Garbled)?),
        MAGIC_2 => usize::from(bytes.try_get_u16().map_err(|_| Garbled)?),
        _ => return Err(Garbled),
    };
    skip(&mut bytes, topic_length)?;
    let length = usize::from(bytes.try_get_u16().map_err(|_| Garbled)?);
    if length > bytes.len() {
        return Err(Garbled);
    }
    let properties = bytes.split_to(length);
    // Nobody here compresses; what a foreign producer has compressed is handed out as it is.
    Ok(Kept { offset, stored_ms, body, properties })
}

impl Kept {
    /// All properties, the broker's own among them.
    pub(crate) fn properties(&self) -> impl Iterator<Item = (&str, &str)> {
        let text = std::str::from_utf8(&self.properties).unwrap_or_default();
        text.split('\u{2}').filter_map(|pair| pair.split_once('\u{1}'))
    }

    /// One of them.
    pub(crate) fn property(&self, name: &str) -> Option<&str> {
        self.properties().find(|(other, _)| *other == name).map(|(_, value)| value)
    }
}

/// Properties as a broker takes them.
pub(crate) fn properties<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut out = String::new();
    for (name, value) in pairs {
        for part in [name, "\u{1}", value, "\u{2}"] {
            out.push_str(part);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_read_as_it_was_written() {
        let fields = Fields::from([("topic", "orders".to_owned()), ("queueId", "3".to_owned())]);
        let mut bytes = question(11, 7, &fields, b"body");
        assert_eq!(bytes.get_u32() as usize, bytes.len());
        let frame = read(bytes).unwrap();
        assert_eq!(
            (frame.code, frame.opaque, frame.is_answer, frame.number("queueId"), &frame.body[..]),
            (11, 7, false, Some(3), &b"body"[..])
        );
    }

    #[test]
    fn garbled_bytes_are_refused() {
        for bytes in [
            &b""[..],
            &[0, 0, 0],
            &[0, 0, 0, 9, b'{', b'}'],
            &[1, 0, 0, 2, b'{', b'}'],
            &[0, 0, 0, 2, b'{', b'}'],
            &[0, 0, 0, 2, b'[', b']'],
        ] {
            assert_eq!(read(Bytes::copy_from_slice(bytes)).map(|_| ()), Err(Garbled), "{bytes:?}");
        }
        for bytes in [&[0u8, 0, 0][..], &[0, 0, 0, 0], &[0, 0, 0, 9, 1, 2, 3, 4], &[0, 0, 0, 4], &[0xff; 40]] {
            assert_eq!(messages(Bytes::copy_from_slice(bytes)).map(|_| ()), Err(Garbled), "{bytes:?}");
        }
    }

    #[test]
    fn unquoted_keys_are_read() {
        let body = Bytes::from_static(br#"{"a":{0:"h:1",12:"{3:x}\"{4:"},"b":[1,2],"c":{"5":"y"}}"#);
        let value = Frame { body, ..Frame::default() }.json().unwrap();
        assert_eq!(value, json!({"a": {"0": "h:1", "12": "{3:x}\"{4:"}, "b": [1, 2], "c": {"5": "y"}}));
    }
}
