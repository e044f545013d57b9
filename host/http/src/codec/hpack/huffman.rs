//! Huffman's code as HPACK has it (RFC 7541 section 5.2 and appendix B). It is canonical: the lengths say all of it.

/// Bits of each byte's code, and of the end of the string, which never stands in one.
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28, 6, 10,
    10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6,
    7, 7, 7, 7, 7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23,
    21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22,
    22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28,
    27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27,
    26, 30,
];

const END: usize = 256;
/// Codes up to this length are read in one step.
const SHORT: usize = 9;
const LONGEST: usize = 30;

/// The codes of one length stand behind each other.
#[derive(Clone, Copy)]
struct Run {
    /// The first of them.
    code: u32,
    /// How many there are.
    count: u32,
    /// Where the first one's byte stands in [`Code::sorted`].
    at: u32,
}

struct Code {
    /// Each byte's code.
    codes: [u32; 257],
    /// Bytes by code.
    sorted: [u16; 257],
    /// By length.
    runs: [Run; LONGEST + 1],
    /// What begins with these bits: the byte, and its length eight bits above. 0: a longer one.
    short: [u16; 1 << SHORT],
}

#[allow(clippy::indexing_slicing, reason = "evaluated by the compiler")]
static CODE: Code = {
    let mut made =
        Code { codes: [0; 257], sorted: [0; 257], runs: [Run { code: 0, count: 0, at: 0 }; LONGEST + 1], short: [0; 1 << SHORT] };
    let (mut length, mut code, mut at) = (1, 0_u32, 0);
    while length <= LONGEST {
        code <<= 1;
        made.runs[length] = Run { code, count: 0, at: at as u32 };
        let mut byte = 0;
        while byte <= END {
            if LENGTHS[byte] as usize == length {
                made.codes[byte] = code;
                made.sorted[at] = byte as u16;
                made.runs[length].count += 1;
                if length <= SHORT {
                    let mut below = 0;
                    while below < 1 << (SHORT - length) {
                        made.short[((code as usize) << (SHORT - length)) + below] = (length as u16) << 8 | byte as u16;
                        below += 1;
                    }
                }
                code += 1;
                at += 1;
            }
            byte += 1;
        }
        length += 1;
    }
    made
};

/// Appends what `text` says. `None`: it is no valid code, or does not end as it must.
pub(super) fn decode(text: &[u8], into: &mut Vec<u8>) -> Option<()> {
    // No code is shorter than five bits.
    into.reserve(text.len() * 8 / 5 + 1);
    // Bits not read yet, the next one on top; zeros behind them.
    let (mut bits, mut left) = (0_u64, 0_u32);
    let mut bytes = text.iter();
    loop {
        while left <= 56 {
            let Some(&byte) = bytes.next() else { break };
            bits |= u64::from(byte) << (56 - left);
            left += 8;
        }
        let short = CODE.short.get((bits >> (64 - SHORT)) as usize).copied().unwrap_or(0);
        let (byte, length) = match short {
            0 => long((bits >> (64 - LONGEST)) as u32)?,
            short => (short & 0xff, u32::from(short >> 8)),
        };
        if length > left {
            // What is left is padding: less than a byte of ones (the beginning of the end's code).
            return (left < 8 && bits == !(u64::MAX.checked_shr(left).unwrap_or(0))).then_some(());
        }
        into.push(u8::try_from(byte).ok()?);
        bits <<= length;
        left -= length;
    }
}

/// A byte with a long code, of whose bits [`LONGEST`] are given, and its length.
fn long(bits: u32) -> Option<(u16, u32)> {
    for (length, run) in CODE.runs.iter().enumerate().skip(SHORT + 1) {
        let nth = (bits >> (LONGEST - length)).wrapping_sub(run.code);
        if nth < run.count {
            return Some((*CODE.sorted.get((run.at + nth) as usize)?, length as u32));
        }
    }
    None
}

/// Bytes that `text` takes in code.
pub(super) fn encoded_len(text: &[u8]) -> usize {
    let bits: usize = text.iter().map(|&byte| LENGTHS.get(usize::from(byte)).copied().map_or(0, usize::from)).sum();
    bits.div_ceil(8)
}

/// Writes `text` in code.
pub(super) fn encode(text: &[u8], mut put: impl FnMut(u8)) {
    let (mut bits, mut held) = (0_u64, 0_u32);
    for &byte in text {
        let at = usize::from(byte);
        let (code, length) = (CODE.codes.get(at).copied().unwrap_or(0), LENGTHS.get(at).copied().unwrap_or(0));
        bits = bits << length | u64::from(code);
        held += u32::from(length);
        while held >= 8 {
            held -= 8;
            put((bits >> held) as u8);
        }
    }
    if held > 0 {
        let padding = 8 - held;
        put((bits << padding) as u8 | 0xff >> held);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_read_as_it_was_written() {
        for byte in 0..=255 {
            for around in [&b""[..], b"0", b"\xff\n", b"abcdefgh"] {
                let text: Vec<u8> = [around, &[byte], around].concat();
                let (mut code, mut read) = (Vec::new(), Vec::new());
                encode(&text, |byte| code.push(byte));
                assert_eq!(code.len(), encoded_len(&text));
                decode(&code, &mut read).unwrap();
                assert_eq!(read, text);
            }
        }
    }

    #[test]
    fn codes_are_those_of_the_rfc() {
        assert_eq!((CODE.codes[usize::from(b'0')], CODE.codes[usize::from(b'z')]), (0, 0x7b));
        assert_eq!((CODE.codes[0], CODE.codes[255], CODE.codes[END]), (0x1ff8, 0x3ff_ffee, 0x3fff_ffff));
    }
}
