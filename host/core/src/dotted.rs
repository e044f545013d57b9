//! IPv4 addresses as text. The formatter would cost more than the rest of the line that the address stands in.

use std::net::Ipv4Addr;

/// An address as text.
pub struct Dotted {
    text: [u8; ROOM],
    len: usize,
}

/// The longest address and a dot behind it.
const ROOM: usize = 16;

impl Dotted {
    /// Writes an address.
    #[allow(clippy::indexing_slicing, reason = "a table of 256 is indexed by a byte")]
    pub fn of(address: Ipv4Addr) -> Dotted {
        let mut text = [0; ROOM];
        let mut len = 0;
        for octet in address.octets() {
            let (digits, more) = &OCTETS[octet as usize];
            if let Some(place) = text.get_mut(len..len + 4) {
                place.copy_from_slice(digits);
            }
            len += usize::from(*more);
        }
        // Without the last dot.
        Dotted { text, len: len - 1 }
    }

    /// The text.
    pub fn as_bytes(&self) -> &[u8] {
        self.text.get(..self.len).unwrap_or_default()
    }
}

/// Digits and dot of each octet, and how many bytes that is.
#[allow(clippy::indexing_slicing, reason = "evaluated by the compiler")]
static OCTETS: [([u8; 4], u8); 256] = {
    let mut octets = [([0; 4], 0); 256];
    let mut octet = 0;
    while octet < 256 {
        let (mut text, mut len) = ([0; 4], 0);
        if octet >= 100 {
            text[len] = b'0' + (octet / 100) as u8;
            len += 1;
        }
        if octet >= 10 {
            text[len] = b'0' + (octet / 10 % 10) as u8;
            len += 1;
        }
        text[len] = b'0' + (octet % 10) as u8;
        text[len + 1] = b'.';
        octets[octet] = (text, len as u8 + 2);
        octet += 1;
    }
    octets
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_written_as_the_formatter_writes_it() {
        for octet in 0..=255 {
            for address in [[octet, 0, 10, 255], [255, octet, 99, 100], [9, 255, octet, 1], [255, 255, 255, octet]].map(Ipv4Addr::from) {
                assert_eq!(Dotted::of(address).as_bytes(), address.to_string().as_bytes());
            }
        }
    }
}
