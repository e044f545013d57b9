//! The handshake of WebSocket where the two sides speak different versions of HTTP (RFC 6455 section 4, RFC 8441): HTTP/1.1
//! proves with a key that it was understood, HTTP/2 does not. Frames are carried and not understood.

use aws_lc_rs::{digest, rand};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use wharf_core::exchange::Exchange;
use wharf_core::head::Fields;

pub(crate) const KEY: &[u8] = b"sec-websocket-key";
pub(crate) const ACCEPT: &[u8] = b"sec-websocket-accept";

/// Gives a request that came by HTTP/2 what HTTP/1.1 asks for.
pub(crate) fn ask(fields: &mut Fields) {
    let mut nonce = [0; 16];
    // It proves that the answer is one to this request; without randomness it proves a little less.
    let _ = rand::fill(&mut nonce);
    fields.set(KEY, STANDARD.encode(nonce).as_bytes());
    if fields.get(b"sec-websocket-version").is_none() {
        fields.add(b"sec-websocket-version", b"13");
    }
}

/// The answer to a key.
pub(crate) fn accept(key: &[u8]) -> String {
    let mut hash = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key);
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(hash.finish())
}

/// The protocol to ask for by HTTP/2, which knows a way for WebSocket only (RFC 8441): a request for a switch to another one
/// is a plain request there.
pub(crate) fn asked(exchange: &Exchange) -> Option<&str> {
    exchange.upgrade.as_deref().filter(|protocol| protocol.eq_ignore_ascii_case("websocket"))
}

/// Is there one valid key (RFC 6455 section 4.1: sixteen bytes, in base64)?
pub(crate) fn has_key(fields: &Fields) -> bool {
    let mut keys = fields.all(KEY);
    matches!((keys.next(), keys.next()), (Some(key), None) if STANDARD.decode(key).is_ok_and(|nonce| nonce.len() == 16))
}

/// Does the upstream's answer fit the key that it was asked with?
pub(crate) fn fits(request: &Fields, answer: &Fields) -> bool {
    let key = request.get(KEY).unwrap_or_default();
    answer.get(ACCEPT).is_some_and(|said| said == accept(key).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc_is_answered_as_there() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let (mut request, mut answer) = (Fields::default(), Fields::default());
        ask(&mut request);
        assert_eq!(request.get(KEY).map(<[u8]>::len), Some(24));
        assert!(!fits(&request, &answer));
        answer.add(ACCEPT, accept(request.get(KEY).unwrap()).as_bytes());
        assert!(fits(&request, &answer));
    }

    #[test]
    fn a_key_is_sixteen_bytes_and_said_once() {
        let mut fields = Fields::default();
        assert!(!has_key(&fields));
        fields.add(KEY, b"dGhlIHNhbXBsZSBub25jZQ==");
        assert!(has_key(&fields));
        fields.add(KEY, b"dGhlIHNhbXBsZSBub25jZQ==");
        assert!(!has_key(&fields));
        for bad in [&b""[..], b"dGhl", b"dGhlIHNhbXBsZSBub25jZQ", b"????????????????????????"] {
            fields.set(KEY, bad);
            assert!(!has_key(&fields), "{bad:?}");
        }
    }
}
