//! HPACK (RFC 7541): the fields of HTTP/2's heads in few bytes. Pure; what the fields mean is not known here.
//!
//! Both sides remember fields that were said before in a table of 4 KiB. What a client may make us remember, and how far it
//! may blow a block up, is bounded: the first by the table, the second by whoever takes the fields.

mod decode;
mod encode;
mod huffman;
mod table;

pub use decode::{Broken, Decoder, Said};
pub use encode::Encoder;

/// Bytes of the table of fields that were said before, which is what both sides begin with (RFC 9113 section 6.5.2). We never
/// ask for another size, and take no larger one that a client offers.
pub const TABLE_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use wharf_core::head::Known;

    type Fields = Vec<(Vec<u8>, Vec<u8>)>;

    fn read(decoder: &mut Decoder, block: &[u8]) -> Result<Fields, Broken> {
        let mut fields = Fields::new();
        decoder.decode(block, |said| {
            assert_eq!(said.known, Known::of(said.name), "{:?}", String::from_utf8_lossy(said.name));
            fields.push((said.name.to_vec(), said.value.to_vec()));
            true
        })?;
        Ok(fields)
    }

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.chars().filter_map(|digit| Some(digit.to_digit(16)? as u8)).collect();
        digits.chunks(2).map(|two| two[0] << 4 | two[1]).collect()
    }

    fn list(fields: &[(&str, &str)]) -> Fields {
        fields.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
    }

    /// RFC 7541 appendix C.3 and C.4: the same three requests, as they are and by Huffman's code.
    #[test]
    fn the_requests_of_the_rfc_are_read() {
        for blocks in [
            [
                "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
                "8286 84be 5808 6e6f 2d63 6163 6865",
                "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
            ],
            [
                "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
                "8286 84be 5886 a8eb 1064 9cbf",
                "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
            ],
        ] {
            let mut decoder = Decoder::default();
            let host = (":authority", "www.example.com");
            let expected = [
                list(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), host]),
                list(&[(":method", "GET"), (":scheme", "http"), (":path", "/"), host, ("cache-control", "no-cache")]),
                list(&[(":method", "GET"), (":scheme", "https"), (":path", "/index.html"), host, ("custom-key", "custom-value")]),
            ];
            for (block, expected) in blocks.iter().zip(expected) {
                assert_eq!(read(&mut decoder, &bytes(block)).unwrap(), expected);
            }
            assert_eq!(decoder.size(), 164);
        }
    }

    /// RFC 7541 appendix C.6, where a table of 256 bytes forgets.
    #[test]
    fn a_small_table_forgets_what_is_oldest() {
        let mut decoder = Decoder::default();
        let mut first = bytes("3fe1 01");
        first.extend(bytes(
            "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
        ));
        let date = ("date", "Mon, 21 Oct 2013 20:13:21 GMT");
        let place = ("location", "https://www.example.com");
        assert_eq!(read(&mut decoder, &first).unwrap(), list(&[(":status", "302"), ("cache-control", "private"), date, place]));
        assert_eq!(decoder.size(), 222);
        let second = bytes("4883 640e ffc1 c0bf");
        assert_eq!(read(&mut decoder, &second).unwrap(), list(&[(":status", "307"), ("cache-control", "private"), date, place]));
        let third = bytes(
            "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
        );
        let fields = read(&mut decoder, &third).unwrap();
        assert_eq!(fields.len(), 6);
        assert_eq!(fields[4], (b"content-encoding".to_vec(), b"gzip".to_vec()));
        assert_eq!(fields[5].1, b"foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1");
        assert_eq!(decoder.size(), 215);
    }

    #[test]
    fn what_is_broken_is_said_and_never_guessed() {
        for (what, block) in [
            ("index 0", "80"),
            ("an index behind the table", "be"),
            ("a name behind the table", "7f 00 01 61"),
            ("a length longer than the block", "40 01 61 7f 00"),
            ("a number without an end", "ff ff ff"),
            ("a number beyond all bounds", "ff ff ff ff ff ff ff ff ff 7f"),
            ("a table larger than was agreed", "3f e2 1f"),
            ("a size behind a field", "82 20"),
            ("three sizes", "20 20 20"),
            ("padding that is not ones", "40 01 61 81 18"),
            ("eight bits of padding", "40 01 61 82 1f ff"),
            ("the end of the string within it", "40 01 61 84 ff ff ff ff"),
            ("a name that is cut", "40 05 61"),
        ] {
            assert_eq!(read(&mut Decoder::default(), &bytes(block)), Err(Broken), "{what}");
        }
    }

    #[test]
    fn whoever_takes_the_fields_ends_a_block_that_is_blown_up() {
        let mut decoder = Decoder::default();
        let mut left = 3;
        let ended = decoder.decode(&[0x82; 1000], |_| {
            left -= 1;
            left > 0
        });
        assert_eq!(ended, Err(Broken));
        assert_eq!(left, 0);
    }

    /// Every head that we write is read as it was, over many heads on one connection, whatever the other side makes of the
    /// table in between.
    #[test]
    fn what_is_written_is_read() {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut draw = move |bound: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % bound
        };
        let names: [&[u8]; 8] = [b"content-type", b"server", b"x-a", b"set-cookie", b"x-long-name-of-our-own", b"etag", b"date", b"vary"];
        for _ in 0..50 {
            let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
            for _ in 0..100 {
                if draw(20) == 0 {
                    encoder.resize([0, 64, 200, 4096, 1 << 20][draw(5) as usize]);
                }
                let status = [200, 204, 404, 418, 502][draw(5) as usize];
                let mut expected = list(&[(":status", &status.to_string())]);
                let mut out = BytesMut::new();
                encoder.begin(&mut out);
                encoder.status(status, &mut out);
                for _ in 0..draw(12) {
                    let name = names[draw(8) as usize];
                    let (len, bytes) = (draw(4) * draw(80), if draw(3) == 0 { 220 } else { 3 });
                    let value: Vec<u8> = (0..len).map(|_| 32 + draw(bytes) as u8).collect();
                    encoder.field(Known::of(name), name, &value, &mut out);
                    expected.push((name.to_vec(), value));
                }
                assert_eq!(read(&mut decoder, &out).unwrap(), expected);
            }
        }
    }

    #[test]
    fn what_is_said_again_and_again_takes_a_byte_and_what_is_secret_is_kept_nowhere() {
        let mut encoder = Encoder::default();
        let head = |encoder: &mut Encoder| {
            let mut out = BytesMut::new();
            encoder.begin(&mut out);
            encoder.status(200, &mut out);
            encoder.field(Known::Server, b"server", b"somebody's own server", &mut out);
            encoder.field(Known::SetCookie, b"set-cookie", b"session=secret", &mut out);
            out
        };
        let secret = 2 + 1 + b"session=secret".len();
        let (first, second, third) = (head(&mut encoder), head(&mut encoder), head(&mut encoder));
        assert!(first.len() > second.len(), "by Huffman's code from the second time on");
        assert_eq!(third.len(), 1 + 1 + secret);
        assert_eq!(third[2] & 0xf0, 0x10, "never to be indexed");
    }
}
