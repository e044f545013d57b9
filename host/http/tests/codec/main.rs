//! The codec seen from outside: bytes in, events out. Each wall has one `check` and its cases as data.
//!
//! The cases are made from RFC 9110, RFC 9112 and the attacks that PROMISES.md names. What a whole connection does with
//! a refusal is tested through a socket, elsewhere.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "this is test code: a panic is how a test tells"
)]

mod bodies;
mod requests;
mod responses;
mod simulation;
mod writing;

use wharf_core::head::{Method, RequestHead, ResponseHead};
use wharf_http::codec::{Framing, RefusalKind};

/// A head that was another's before: nothing of that may be seen again.
fn worn() -> RequestHead {
    let mut head = RequestHead::from_text(Method::Other("OLD".into()), "old.example", "/old", Some("old"));
    head.fields.add(b"x-old", b"old");
    head
}

/// The same of an answer's head.
fn worn_answer() -> ResponseHead {
    let mut head = ResponseHead::new(599);
    head.fields.add(b"x-old", b"old");
    head
}

/// Framing as one word.
fn framing(framing: Framing) -> String {
    match framing {
        Framing::None => "none".into(),
        Framing::Length(length) => length.to_string(),
        Framing::Chunked => "chunked".into(),
        Framing::UntilClose => "until-close".into(),
    }
}

/// `name: value` for each field but those in `but`, joined by `|`.
fn fields(fields: &wharf_core::head::Fields, but: &[&str]) -> String {
    fields
        .iter()
        .filter(|(_, name, _)| !but.iter().any(|but| but.as_bytes() == *name))
        .map(|(_, name, value)| format!("{}: {}", wharf_core::head::text(name), wharf_core::head::text(value)))
        .collect::<Vec<_>>()
        .join("|")
}

#[test]
fn every_refusal_names_its_object_and_has_a_word_of_its_own() {
    use RefusalKind::*;
    let all = [
        HeadBytes { max: 7 },
        FieldCount { max: 7 },
        TargetBytes { max: 7 },
        SlowHead,
        RequestLine,
        StatusLine,
        Status(7),
        Version,
        Target,
        Connect,
        Path(wharf_core::path::BadPath::AboveRoot),
        Query,
        LineEnd,
        FieldName,
        FieldValue,
        HostMissing,
        HostTwice,
        Host,
        Length,
        LengthTwice,
        LengthAndCoding,
        Coding,
        CodingUnknown,
        CodingOldVersion,
        Connection,
        Expectation,
        Switch,
        InterimBody,
        ChunkSize,
        ChunkExtension,
        ChunkExtensionBytes { max: 7 },
        ChunkEnd,
        TrailerField,
        TrailerBytes { max: 7 },
        TrailerCount { max: 7 },
        BodyCut,
    ];
    let mut words: Vec<_> = all.iter().map(|kind| kind.word()).collect();
    words.sort_unstable();
    words.dedup();
    assert_eq!(words.len(), all.len(), "a word serves two refusals");
    for kind in all {
        let text = kind.to_string();
        assert!(text.len() > 20 && !text.ends_with('.') && !text.contains('\n'), "{text:?}");
        if format!("{kind:?}").contains('7') {
            assert!(text.contains('7'), "{kind:?} does not name its limit: {text:?}");
        }
    }
}
