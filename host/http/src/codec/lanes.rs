//! Sixteen bytes in one step, for the questions that the short way asks of nearly every byte.
//!
//! Written as plain loops over an array, which compilers for all targets turn into vector comparisons; answers come as a
//! number of 16 bytes, 0xff for yes, so that the first yes is found by counting zeros. No intrinsics: they would need
//! `unsafe`.

use std::hint::black_box;

/// Bytes in one step.
pub(super) const LANES: usize = 16;

/// Byte by byte: does it fit?
#[inline(always)]
fn which(block: &[u8; LANES], fits: impl Fn(u8) -> bool) -> u128 {
    let mut found = [0; LANES];
    for (found, &byte) in found.iter_mut().zip(block) {
        *found = u8::from(fits(byte)).wrapping_neg();
    }
    // Without this the compiler looks through the array to the number, and computes each of its bytes by itself.
    u128::from_le_bytes(black_box(found))
}

/// The place of the first yes; [`LANES`] if there is none.
#[inline(always)]
fn first(which: u128) -> usize {
    let low = which as u64;
    if low != 0 {
        return low.trailing_zeros() as usize / 8;
    }
    LANES / 2 + ((which >> 64) as u64).trailing_zeros() as usize / 8
}

/// Bytes before the first for which `stop` says yes.
#[inline(always)]
pub(super) fn until(text: &[u8], stop: impl Fn(u8) -> bool) -> usize {
    let (blocks, rest) = text.as_chunks::<LANES>();
    let mut len = 0;
    for block in blocks {
        let found = which(block, &stop);
        if found != 0 {
            return len + first(found);
        }
        len += LANES;
    }
    len + rest.iter().take_while(|byte| !stop(**byte)).count()
}

/// The name of a field at the front of a block, brought into lower case: letters, digits and `-`. Its length as far as the
/// block goes; behind it nothing changes.
// Never inlined: where the caller has looked at one of the bytes already, the compiler takes the block apart.
#[inline(never)]
pub(super) fn lower_field(block: &mut [u8; LANES]) -> usize {
    lower(block, |_| false)
}

/// The name of a host at the front of a block.
pub(super) struct Host {
    /// Its length as far as the block goes.
    pub(super) len: usize,
    /// Two dots beside each other, or one at the front.
    pub(super) empty_label: bool,
    /// It ends with a dot.
    pub(super) rooted: bool,
}

/// The same for the name of a host, to which `_` and dots belong, too.
#[inline(never)]
pub(super) fn lower_host(block: &mut [u8; LANES]) -> Host {
    let len = lower(block, |byte| (byte == b'.') | (byte == b'_'));
    let dots = which(block, |byte| byte == b'.') & u128::MAX.checked_shr(8 * (LANES - len) as u32).unwrap_or(0);
    Host { len, empty_label: dots & (dots << 8 | 0xff) != 0, rooted: dots.leading_zeros() as usize == 8 * (LANES - len) && dots != 0 }
}

/// Lower case for what is at the front; its length.
#[inline(always)]
fn lower(block: &mut [u8; LANES], also: impl Fn(u8) -> bool) -> usize {
    let len = first(which(block, |byte| {
        let is_part = ((byte | 0x20).wrapping_sub(b'a') < 26) | (byte.wrapping_sub(b'0') < 10) | (byte == b'-') | also(byte);
        !is_part
    }));
    if let Some(inside) = INSIDE.get(len) {
        // As a whole: else the compiler remembers some of the bytes from above, and puts the block together from pieces.
        let text = black_box(*block);
        for ((byte, old), bit) in block.iter_mut().zip(text).zip(inside) {
            *byte = old | u8::from(old.wrapping_sub(b'A') < 26).wrapping_neg() & bit;
        }
    }
    len
}

/// By length: the bit that makes a capital small, for every place inside.
#[allow(clippy::indexing_slicing, reason = "evaluated by the compiler")]
static INSIDE: [[u8; LANES]; LANES + 1] = {
    let mut inside = [[0; LANES]; LANES + 1];
    let mut len = 0;
    while len <= LANES {
        let mut at = 0;
        while at < len {
            inside[len][at] = 0x20;
            at += 1;
        }
        len += 1;
    }
    inside
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_and_lowered_whatever_stands_where() {
        for around in [b'a', b'Z', b'.', b'-', b' ', b'@', b'[', b'`', b'{', 0, 0x7f, 0x80, 0xff] {
            for at in 0..LANES {
                for byte in 0..=255u8 {
                    for with_dots in [false, true] {
                        let mut block = [around; LANES];
                        block[at] = byte;
                        let part = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-' || (matches!(byte, b'.' | b'_') && with_dots);
                        let len = block.iter().take_while(|byte| part(byte)).count();
                        let (name, behind) = block.split_at(len);
                        let expected = [&name.to_ascii_lowercase(), behind].concat();
                        let empty_label = with_dots && (name.starts_with(b".") || name.windows(2).any(|two| two == b".."));
                        let rooted = with_dots && name.ends_with(b".");
                        let mut got = block;
                        let found = if with_dots {
                            lower_host(&mut got)
                        } else {
                            Host { len: lower_field(&mut got), empty_label: false, rooted: false }
                        };
                        assert_eq!((found.len, found.empty_label, found.rooted), (len, empty_label, rooted), "{block:?}");
                        assert_eq!(got.as_slice(), expected, "{block:?}");
                    }
                }
            }
        }
    }
}
