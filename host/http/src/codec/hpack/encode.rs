//! Blocks on their way out.

use super::table::{DYNAMIC, Entry, Table, index_of};
use super::{TABLE_BYTES, huffman};
use bytes::{BufMut as _, BytesMut};
use wharf_core::head::Known;

/// Places where fields are looked for by their hash. Chance meetings cost bytes on the wire and nothing else.
const PLACES: usize = 64;
/// Longer values are rarely said twice.
const KEPT_MAX: usize = 256;

/// Writes the blocks of one connection.
///
/// A field is put into the table when it is said for the second time: what is different in each answer pushes nothing out.
#[derive(Debug)]
pub struct Encoder {
    table: Table,
    /// The smallest and the last size that the other side has asked for since the last block.
    sizes: Option<(usize, usize)>,
    seen: Option<Box<Seen>>,
    /// Entries put into the table so far.
    inserted: u32,
}

#[derive(Debug)]
struct Seen {
    /// Hashes of fields that were said and not kept.
    once: [u32; PLACES],
    /// Fields in the table: their hash, and which insertion it was.
    kept: [(u32, u32); PLACES],
}

impl Default for Encoder {
    fn default() -> Encoder {
        Encoder { table: Table::new(TABLE_BYTES), sizes: None, seen: None, inserted: 0 }
    }
}

impl Encoder {
    /// The other side's table has this size from now on, of which we use [`TABLE_BYTES`] at most.
    pub fn resize(&mut self, max: usize) {
        let max = max.min(TABLE_BYTES);
        if max != self.table.max() || self.sizes.is_some() {
            let least = self.sizes.map_or(max, |(least, _)| least.min(max));
            self.sizes = Some((least, max));
        }
    }

    /// Begins a block.
    pub fn begin(&mut self, out: &mut BytesMut) {
        if let Some((least, last)) = self.sizes.take() {
            for size in [Some(least), Some(last).filter(|&last| last != least)].into_iter().flatten() {
                self.table.resize(size);
                put_number(out, 0x20, 5, size);
            }
        }
    }

    /// Says the status, which comes first.
    pub fn status(&mut self, status: u16, out: &mut BytesMut) {
        let index = match status {
            200 => 8,
            204 => 9,
            206 => 10,
            304 => 11,
            400 => 12,
            404 => 13,
            500 => 14,
            other => {
                // Without being kept, by the name of an index.
                out.put_slice(&[0x08, 3]);
                return out.put_slice(itoa::Buffer::new().format(other).as_bytes());
            }
        };
        out.put_u8(0x80 | index);
    }

    /// Says a field, whose name is in lower case.
    pub fn field(&mut self, known: Known, name: &[u8], value: &[u8], out: &mut BytesMut) {
        let index = index_of(known, name);
        if matches!(known, Known::SetCookie | Known::Authorization | Known::ProxyAuthenticate) {
            // Who else shares the connection must not find it by trying (RFC 7541 section 7.1).
            return literal(out, 0x10, 4, index, name, value, false);
        }
        if known == Known::ContentLength || value.len() > KEPT_MAX || !self.table.has_room_for(name, value) {
            return literal(out, 0, 4, index, name, value, false);
        }
        let hash = hash(known, name, value);
        let place = hash as usize % PLACES;
        let seen = self.seen.get_or_insert_with(|| Box::new(Seen { once: [0; PLACES], kept: [(0, 0); PLACES] }));
        let (Some(once), Some(kept)) = (seen.once.get_mut(place), seen.kept.get_mut(place)) else { return };
        if kept.0 == hash {
            // Counted from the latest. One that was forgotten is farther back than the table reaches.
            let nth = self.inserted.wrapping_sub(kept.1) as usize;
            if nth < self.table.len()
                && let Some(entry) = self.table.get(nth)
                && entry.value() == value
                && entry.name() == name
            {
                return put_number(out, 0x80, 7, DYNAMIC + nth);
            }
        }
        if *once != hash {
            *once = hash;
            return literal(out, 0, 4, index, name, value, false);
        }
        literal(out, 0x40, 6, index, name, value, true);
        self.table.insert(Entry::new(known, name, value));
        self.inserted = self.inserted.wrapping_add(1);
        *kept = (hash, self.inserted);
    }
}

/// Never 0.
fn hash(known: Known, name: &[u8], value: &[u8]) -> u32 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut hash = (value.len() as u64) << 8 | known as u64;
    let mut take = |text: &[u8]| {
        let (words, rest) = text.as_chunks::<8>();
        for word in words {
            hash = (hash.rotate_left(5) ^ u64::from_le_bytes(*word)).wrapping_mul(FACTOR);
        }
        let mut last = [0; 8];
        if let Some(room) = last.get_mut(..rest.len()) {
            room.copy_from_slice(rest);
        }
        hash = (hash.rotate_left(5) ^ u64::from_le_bytes(last)).wrapping_mul(FACTOR);
    };
    take(value);
    if known == Known::Other {
        take(name);
    }
    (hash >> 32) as u32 | 1
}

fn literal(out: &mut BytesMut, kind: u8, bits: u32, index: Option<usize>, name: &[u8], value: &[u8], short: bool) {
    put_number(out, kind, bits, index.unwrap_or(0));
    if index.is_none() {
        put_text(out, name, short);
    }
    put_text(out, value, short);
}

fn put_text(out: &mut BytesMut, text: &[u8], short: bool) {
    if short {
        let len = huffman::encoded_len(text);
        if len < text.len() {
            put_number(out, 0x80, 7, len);
            return huffman::encode(text, |byte| out.put_u8(byte));
        }
    }
    put_number(out, 0, 7, text.len());
    out.extend_from_slice(text);
}

/// Writes a number whose first `bits` bits stand beside `kind` (RFC 7541 section 5.1).
fn put_number(out: &mut BytesMut, kind: u8, bits: u32, number: usize) {
    let most = (1 << bits) - 1;
    if number < most {
        return out.put_u8(kind | number as u8);
    }
    out.put_u8(kind | most as u8);
    let mut left = number - most;
    while left >= 0x80 {
        out.put_u8(left as u8 | 0x80);
        left >>= 7;
    }
    out.put_u8(left as u8);
}
