//! Bodies: what data they hold, where they end, what is refused.

use super::fields;
use bytes::BytesMut;
use wharf_http::codec::Framing;
use wharf_http::codec::body::{Decoder, Piece};

/// `data end[ trailers][ +rest]`, `data more`, or `data` and the refusal's status and word.
fn told(framing: Framing, input: &[u8], at_once: usize) -> String {
    let mut decoder = Decoder::new(framing);
    let mut buf = BytesMut::new();
    let mut data = Vec::new();
    let mut pieces = input.chunks(at_once);
    loop {
        match decoder.decode(&mut buf) {
            Ok(Piece::Data(piece)) => {
                assert!(!piece.is_empty(), "a piece is never empty");
                data.extend_from_slice(&piece);
            }
            Ok(Piece::End(trailers)) => {
                assert!(decoder.is_done());
                assert_eq!(decoder.remaining(), Some(0));
                assert!(decoder.end_of_input().is_ok());
                for piece in pieces {
                    buf.extend_from_slice(piece);
                }
                let mut text = format!("{} end", String::from_utf8_lossy(&data));
                if let Some(trailers) = trailers {
                    text += &format!(" [{}]", fields(&trailers, &[]));
                }
                if !buf.is_empty() {
                    text += &format!(" +{}", String::from_utf8_lossy(&buf));
                }
                return text;
            }
            Ok(Piece::More) => match pieces.next() {
                Some(piece) => buf.extend_from_slice(piece),
                None => {
                    assert!(!decoder.is_done());
                    return format!("{} more", String::from_utf8_lossy(&data));
                }
            },
            Err(refusal) => {
                assert_eq!(decoder.decode(&mut BytesMut::from("0\r\n\r\n")).unwrap_err(), refusal, "broken stays broken");
                return format!("{} {} {}", String::from_utf8_lossy(&data), refusal.status, refusal.what.word());
            }
        }
    }
}

fn check(framing: Framing, cases: &[(&str, &str)]) {
    let mut wrong = Vec::new();
    for (input, expected) in cases {
        for at_once in [usize::MAX, 1, 2, 3, 5, 7] {
            let got = told(framing, input.as_bytes(), at_once);
            if got != *expected {
                wrong.push(format!("{input:?} by {at_once}\n  gave     {got:?}\n  expected {expected:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_sized_body_ends_after_its_bytes() {
    check(Framing::None, &[("", " end"), ("x", " end +x")]);
    check(Framing::Length(0), &[("", " end"), ("x", " end +x")]);
    check(Framing::Length(5), &[("hello", "hello end"), ("hello!", "hello end +!"), ("hell", "hell more"), ("", " more")]);
    check(Framing::UntilClose, &[("", " more"), ("hello", "hello more")]);
}

#[test]
fn chunks_are_joined_and_their_extensions_dropped() {
    check(
        Framing::Chunked,
        &[
            ("0\r\n\r\n", " end"),
            ("5\r\nhello\r\n0\r\n\r\n", "hello end"),
            ("5\r\nhello\r\n1\r\n!\r\n0\r\n\r\nGET", "hello! end +GET"),
            ("a\r\n0123456789\r\n0\r\n\r\n", "0123456789 end"),
            ("A\r\n0123456789\r\n00\r\n\r\n", "0123456789 end"),
            ("0000000000000005\r\nhello\r\n0\r\n\r\n", "hello end"),
            ("5;a=b\r\nhello\r\n0\r\n\r\n", "hello end"),
            ("5;a\r\nhello\r\n0;z\r\n\r\n", "hello end"),
            ("5;a=\"b;c\"\r\nhello\r\n0\r\n\r\n", "hello end"),
            ("5 ; a = b\r\nhello\r\n0\r\n\r\n", "hello end"),
            ("5\t;a\r\nhello\r\n0\r\n\r\n", "hello end"),
            ("5;\r\nhello\r\n0\r\n\r\n", "hello end"),
            ("5;a=\u{e9}\r\nhello\r\n0\r\n\r\n", "hello end"),
            ("2\r\n\r\n\r\n0\r\n\r\n", "\r\n end"),
            ("5\r\nhel", "hel more"),
            ("5\r\nhello", "hello more"),
            ("5\r\nhello\r\n", "hello more"),
            ("5\r\nhello\r\n0\r\n", "hello more"),
            ("5\r\nhello\r\n0\r\n\r", "hello more"),
            ("", " more"),
        ],
    );
}

#[test]
fn a_chunk_size_is_hexadecimal_digits_and_nothing_else() {
    check(
        Framing::Chunked,
        &[
            ("\r\n", " 400 chunk_size"),
            (";a\r\n", " 400 chunk_size"),
            (" 5\r\nhello\r\n", " 400 chunk_size"),
            ("\t5\r\n", " 400 chunk_size"),
            ("+5\r\nhello\r\n", " 400 chunk_size"),
            ("-5\r\nhello\r\n", " 400 chunk_size"),
            ("0x5\r\nhello\r\n", " 400 chunk_size"),
            ("5h\r\nhello\r\n", " 400 chunk_size"),
            ("g\r\n", " 400 chunk_size"),
            ("5.\r\n", " 400 chunk_size"),
            ("5,5\r\n", " 400 chunk_size"),
            ("5_0\r\n", " 400 chunk_size"),
            ("\u{665}\r\n", " 400 chunk_size"),
            ("\n5\r\n", " 400 chunk_size"),
            ("5\0\r\n", " 400 chunk_size"),
            ("00000000000000005\r\n", " 400 chunk_size"),
            ("ffffffffffffffff\r\n", " 400 chunk_size"),
            ("8000000000000000\r\n", " 400 chunk_size"),
            ("7fffffffffffffff\r\nab", "ab more"),
            ("10000000000000000\r\n", " 400 chunk_size"),
            ("fffffffffffffffffffff\r\n", " 400 chunk_size"),
            ("5\n", " 400 chunk_size"),
            ("5\nhello\r\n", " 400 chunk_size"),
            ("5\rhello\r\n", " 400 line_end"),
            ("5\r\rhello\r\n", " 400 line_end"),
            ("5 \r\nhello\r\n", " 400 chunk_extension"),
            ("5 5\r\nhello\r\n", " 400 chunk_extension"),
            ("5 a\r\nhello\r\n", " 400 chunk_extension"),
            ("0\n\r\n", " 400 chunk_size"),
            ("0\r\n\n", " 400 line_end"),
            ("0\r\n\rx", " 400 line_end"),
        ],
    );
}

#[test]
fn data_beyond_its_chunk_is_refused() {
    check(
        Framing::Chunked,
        &[
            ("5\r\nhelloo\r\n0\r\n\r\n", "hello 400 chunk_end"),
            ("5\r\nhello0\r\n\r\n", "hello 400 chunk_end"),
            ("5\r\nhello\n0\r\n\r\n", "hello 400 chunk_end"),
            ("5\r\nhello\r0\r\n\r\n", "hello 400 chunk_end"),
            ("5\r\nhello\r\r\n", "hello 400 chunk_end"),
            ("4\r\nhello\r\n0\r\n\r\n", "hell 400 chunk_end"),
            ("6\r\nhello\r\n0\r\n\r\n", "hello\r 400 chunk_end"),
            ("5\r\nhello\r\n\r\n", "hello 400 chunk_size"),
            ("5\r\nhello5\r\nhello\r\n", "hello 400 chunk_end"),
        ],
    );
}

#[test]
fn extensions_are_clean_and_bounded() {
    let long = |len: usize| format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(len - 1));
    check(
        Framing::Chunked,
        &[
            ("5;a\0b\r\n", " 400 chunk_extension"),
            ("5;a\nb\r\n", " 400 chunk_extension"),
            ("5;\n", " 400 chunk_extension"),
            ("5;a\x01\r\n", " 400 chunk_extension"),
            ("5;a\x7f\r\n", " 400 chunk_extension"),
            ("5;a=\"\n\"\r\n", " 400 chunk_extension"),
            ("5;a\rb\r\n", " 400 line_end"),
            ("5;a\r\rb\r\n", " 400 line_end"),
            (&long(256), "hello end"),
            (&long(257), " 400 chunk_extension_bytes"),
        ],
    );
    // Many small chunks with large extensions: a body that is mostly lines (CVE-2023-39326).
    let flood = format!("1;{}\r\nx\r\n", "x".repeat(200)).repeat(100);
    let told = told(Framing::Chunked, flood.as_bytes(), usize::MAX);
    assert!(told.ends_with(" 400 chunk_extension_bytes") && told.len() < 120, "{told}");
    // Signed chunks of a reasonable size may go on for ever.
    let signed = format!("1000;chunk-signature={}\r\n{}\r\n", "a".repeat(64), "d".repeat(4096)).repeat(400);
    let all = super::bodies::told(Framing::Chunked, (signed + "0\r\n\r\n").as_bytes(), 4096);
    assert!(all.ends_with("d end"));
}

#[test]
fn trailers_are_checked_and_bounded() {
    check(
        Framing::Chunked,
        &[
            ("0\r\nX-Sum: 1\r\n\r\n", " end [x-sum: 1]"),
            ("0\r\nX-Sum: 1\r\nGRPC-Status: 0\r\n\r\nrest", " end [x-sum: 1|grpc-status: 0] +rest"),
            ("0\r\nX-Empty:\r\n\r\n", " end [x-empty: ]"),
            ("0\r\nX-Sum: 1\r\n", " more"),
            ("0\r\nX-Sum: 1\r\n\r", " more"),
            ("0\r\nX-Sum", " more"),
            ("0\r\nX-Sum : 1\r\n\r\n", " 400 field_name"),
            ("0\r\n X: 1\r\n\r\n", " 400 field_name"),
            ("0\r\nX: 1\r\n y\r\n\r\n", " 400 field_name"),
            ("0\r\nX: 1\0\r\n\r\n", " 400 field_value"),
            ("0\r\nX: a\rb\r\n\r\n", " 400 field_value"),
            ("0\r\nX: 1\n\r\n", " 400 line_end"),
            ("0\r\nX: 1\nY: 2\r\n\r\n", " 400 line_end"),
            ("0\r\nX: 1\r\n\n", " 400 line_end"),
            ("0\r\nGET / HTTP/1.1\r\n\r\n", " 400 field_name"),
        ],
    );
    for name in [
        "Content-Length",
        "Transfer-Encoding",
        "Host",
        "Connection",
        "Upgrade",
        "Keep-Alive",
        "TE",
        "Trailer",
        "Proxy-Connection",
        "HTTP2-Settings",
        "Authorization",
        "Proxy-Authorization",
        "Proxy-Authenticate",
        "Cookie",
        "Set-Cookie",
        "Expect",
        "Content-Type",
        "Content-Encoding",
        "Content-Range",
        "Cache-Control",
        "Location",
        "Range",
        "Max-Forwards",
        "X-Forwarded-For",
        "X-Forwarded-Host",
        "X-Forwarded-Proto",
        "X-Forwarded-Port",
        "Forwarded",
        "X-Real-IP",
        "X-Wharf-Mirror",
    ] {
        check(Framing::Chunked, &[(&format!("0\r\nX: 1\r\n{name}: 1\r\n\r\n"), " 400 trailer_field")]);
    }
    let count = |count: usize| format!("0\r\n{}\r\n", "a: b\r\n".repeat(count));
    assert!(told(Framing::Chunked, count(32).as_bytes(), usize::MAX).contains(" end "));
    assert_eq!(told(Framing::Chunked, count(33).as_bytes(), usize::MAX), " 400 trailer_count");
    let large = |len: usize| format!("0\r\na: {}\r\n\r\n", "b".repeat(len));
    assert!(told(Framing::Chunked, large(8192 - 7).as_bytes(), 1000).contains(" end "));
    assert_eq!(told(Framing::Chunked, large(8192 - 6).as_bytes(), 1000), " 400 trailer_bytes");
    assert_eq!(told(Framing::Chunked, large(1 << 20).as_bytes(), 1000), " 400 trailer_bytes");
}

#[test]
fn a_cut_body_is_never_shown_as_complete() {
    let cut = |framing, input: &str| {
        let mut decoder = Decoder::new(framing);
        let mut buf = BytesMut::from(input);
        while let Ok(Piece::Data(_)) = decoder.decode(&mut buf) {}
        let ended = decoder.end_of_input().map_err(|refusal| refusal.what.word());
        assert_eq!(decoder.is_done(), ended.is_ok());
        ended
    };
    assert_eq!(cut(Framing::None, ""), Ok(()));
    assert_eq!(cut(Framing::Length(5), "hello"), Ok(()));
    assert_eq!(cut(Framing::UntilClose, "hello"), Ok(()));
    assert_eq!(cut(Framing::UntilClose, ""), Ok(()));
    assert_eq!(cut(Framing::Chunked, "5\r\nhello\r\n0\r\n\r\n"), Ok(()));
    assert_eq!(cut(Framing::Length(5), "hell"), Err("body_cut"));
    assert_eq!(cut(Framing::Length(5), ""), Err("body_cut"));
    for cut_at in [
        "",
        "5",
        "5\r\n",
        "5\r\nhel",
        "5\r\nhello",
        "5\r\nhello\r\n",
        "5\r\nhello\r\n0",
        "5\r\nhello\r\n0\r\n",
        "5\r\nhello\r\n0\r\nX: 1\r\n",
    ] {
        assert_eq!(cut(Framing::Chunked, cut_at), Err("body_cut"), "{cut_at:?}");
    }
    assert_eq!(cut(Framing::Chunked, "x"), Err("chunk_size"));
}

#[test]
fn what_remains_is_known_for_sized_bodies_only() {
    let mut decoder = Decoder::new(Framing::Length(5));
    assert_eq!(decoder.remaining(), Some(5));
    let mut buf = BytesMut::from("he");
    assert!(matches!(decoder.decode(&mut buf), Ok(Piece::Data(piece)) if piece == "he"));
    assert_eq!(decoder.remaining(), Some(3));
    assert_eq!(Decoder::new(Framing::Chunked).remaining(), None);
    assert_eq!(Decoder::new(Framing::UntilClose).remaining(), None);
    assert_eq!(Decoder::new(Framing::None).remaining(), Some(0));
}
