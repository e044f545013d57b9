//! Blocks as they come in.

use super::table::{DYNAMIC, Entry, Table, fixed};
use super::{TABLE_BYTES, huffman};
use std::fmt;
use wharf_core::head::Known;

/// One field of a block.
#[derive(Clone, Copy, Debug)]
pub struct Said<'a> {
    /// Which one it is.
    pub known: Known,
    /// Its name, as it was said.
    pub name: &'a [u8],
    /// Its value, as it was said.
    pub value: &'a [u8],
    /// It stands in everybody's table: nothing about it needs to be looked at.
    pub fixed: bool,
}

/// The block is none, or more than its taker wants: from here on nothing on the connection can be read (RFC 9113 section 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a block of fields that is no HPACK (RFC 7541), or says far more than is allowed")
    }
}

impl std::error::Error for Broken {}

/// Reads the blocks of one connection, in their order: all of them, also those that nobody wants.
#[derive(Debug)]
pub struct Decoder {
    table: Table,
    name: Vec<u8>,
    value: Vec<u8>,
}

/// Memory kept for a text in Huffman's code.
const KEPT: usize = 1024;

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder { table: Table::new(TABLE_BYTES), name: Vec::new(), value: Vec::new() }
    }
}

impl Decoder {
    /// Bytes that the table of fields said before takes, as the RFC counts them.
    pub fn size(&self) -> usize {
        self.table.size()
    }

    /// Reads one block; `take` gets the fields, and says whether it wants more.
    ///
    /// # Errors
    /// [`Broken`]: the connection is of no further use.
    pub fn decode(&mut self, block: &[u8], mut take: impl FnMut(Said<'_>) -> bool) -> Result<(), Broken> {
        let read = self.read(block, &mut take).ok_or(Broken);
        for scratch in [&mut self.name, &mut self.value] {
            if scratch.capacity() > KEPT {
                *scratch = Vec::new();
            }
        }
        read
    }

    fn read(&mut self, block: &[u8], take: &mut impl FnMut(Said<'_>) -> bool) -> Option<()> {
        let Decoder { table, name: name_room, value: value_room } = self;
        let mut rest = block;
        // A size stands before all fields; two say the smallest and the last of several (RFC 7541 section 4.2).
        let mut sizes = 2;
        while let Some(&first) = rest.first() {
            if first & 0x80 != 0 {
                let index = number(&mut rest, 7)?;
                sizes = 0;
                let said = match fixed(index) {
                    Some(&(name, value, known)) => Said { known, name, value, fixed: true },
                    None => {
                        let entry = table.get(index.checked_sub(DYNAMIC)?)?;
                        Said { known: entry.known, name: entry.name(), value: entry.value(), fixed: false }
                    }
                };
                if !take(said) {
                    return None;
                }
                continue;
            }
            if first & 0xe0 == 0x20 {
                let size = number(&mut rest, 5)?;
                if sizes == 0 || size > TABLE_BYTES {
                    return None;
                }
                sizes -= 1;
                table.resize(size);
                continue;
            }
            sizes = 0;
            let keep = first & 0xc0 == 0x40;
            let index = number(&mut rest, if keep { 6 } else { 4 })?;
            let (name, known) = match index {
                0 => {
                    let name = text(&mut rest, name_room)?;
                    (name, Known::of(name))
                }
                index => match fixed(index) {
                    Some(&(name, _, known)) => (name, known),
                    None => {
                        let entry = table.get(index.checked_sub(DYNAMIC)?)?;
                        (entry.name(), entry.known)
                    }
                },
            };
            let value = text(&mut rest, value_room)?;
            if !take(Said { known, name, value, fixed: false }) {
                return None;
            }
            if keep {
                // Made before older ones are forgotten: its name may be one of theirs.
                let entry = Entry::new(known, name, value);
                table.insert(entry);
            }
        }
        Some(())
    }
}

/// A number whose first `bits` bits stand in the first byte (RFC 7541 section 5.1).
fn number(rest: &mut &[u8], bits: u32) -> Option<usize> {
    let (&first, mut behind) = rest.split_first()?;
    let most = (1 << bits) - 1;
    let mut number = usize::from(first) & most;
    if number == most {
        let mut shift = 0;
        loop {
            let (&byte, next) = behind.split_first()?;
            behind = next;
            number += (usize::from(byte) & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
            shift += 7;
            // No number that means anything here is longer.
            if shift > 21 {
                return None;
            }
        }
    }
    *rest = behind;
    Some(number)
}

/// A text (RFC 7541 section 5.2), in `room` if it must be decoded.
fn text<'o, 'b: 'o>(rest: &mut &'b [u8], room: &'o mut Vec<u8>) -> Option<&'o [u8]> {
    let coded = rest.first()? & 0x80 != 0;
    let len = number(rest, 7)?;
    let (said, behind) = rest.split_at_checked(len)?;
    *rest = behind;
    if !coded {
        return Some(said);
    }
    room.clear();
    huffman::decode(said, room)?;
    Some(room)
}
