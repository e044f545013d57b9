//! base64url without padding (RFC 4648 section 5), as tokens are written.
//!
//! A token's three parts are read for every request that brings a new one, and the crate's engine, made for large inputs,
//! takes 16 instructions of a component for each character; this takes half of that. What is decoded here is believed only if the
//! signature over the text itself is right, and a test holds it to the crate.

const BAD: u8 = 0x80;

/// The six bits of each character; [`BAD`] for one that is none of the 64.
const BITS: [u8; 256] = {
    let mut bits = [BAD; 256];
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut at = 0;
    #[allow(clippy::indexing_slicing, reason = "computed by the compiler")]
    while at < alphabet.len() {
        bits[alphabet[at] as usize] = at as u8;
        at += 1;
    }
    bits
};

/// The bytes of a text; `None` if it is not their one spelling.
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    let bits = |character: u8| BITS.get(usize::from(character)).copied().unwrap_or(BAD);
    let (fours, rest) = text.as_bytes().as_chunks::<4>();
    // In place, and looked at once at the end: a branch and a look at the capacity for every four would take twice as long.
    let mut bytes = vec![0; fours.len() * 3];
    let mut all = 0;
    for (four, three) in fours.iter().zip(bytes.as_chunks_mut::<3>().0) {
        let [a, b, c, d] = four.map(bits);
        all |= a | b | c | d;
        *three = [a << 2 | b >> 4, b << 4 | c >> 2, c << 6 | d];
    }
    // Bits that no byte takes must be zero: else several texts would mean the same, and each pass for another.
    match *rest {
        [] => {}
        [a, b] => {
            let (a, b) = (bits(a), bits(b));
            all |= a | b | if b & 0b1111 == 0 { 0 } else { BAD };
            bytes.push(a << 2 | b >> 4);
        }
        [a, b, c] => {
            let (a, b, c) = (bits(a), bits(b), bits(c));
            all |= a | b | c | if c & 0b11 == 0 { 0 } else { BAD };
            bytes.extend_from_slice(&[a << 2 | b >> 4, b << 4 | c >> 2]);
        }
        _ => return None,
    }
    (all & BAD == 0).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    #[test]
    fn it_says_what_the_crate_says_of_every_text() {
        let check = |text: &str| assert_eq!(decode(text), URL_SAFE_NO_PAD.decode(text).ok(), "{text:?}");
        for text in ["", "=", "AA==", "AA=", "A", "AAAAA", "+/+/", "-_-_", "AA\n", " AAA", "AAAA ", "\u{e4}\u{e4}", "AAA\u{7f}"] {
            check(text);
        }
        // All texts of one, two and three characters out of all that differ: the alphabet's ends and what lies beside them.
        let characters: Vec<char> = "AZaz09-_+/=.,@[`{:BCDPQgw\0\u{e4}".chars().collect();
        for &a in &characters {
            for &b in &characters {
                for &c in &characters {
                    for text in
                        [format!("{a}"), format!("{a}{b}"), format!("{a}{b}{c}"), format!("AAAA{a}{b}{c}A"), format!("{a}{b}{c}AAA")]
                    {
                        check(&text);
                    }
                }
            }
        }
        let mut bytes = Vec::new();
        for n in 0..200u32 {
            let text = URL_SAFE_NO_PAD.encode(&bytes);
            assert_eq!(decode(&text).as_ref(), Some(&bytes), "{text}");
            bytes.push((n.wrapping_mul(2_654_435_761) >> 24) as u8);
        }
    }
}
