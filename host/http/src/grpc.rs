//! What the host says to callers of gRPC in their own way: a status in trailers, and their deadline. Messages are passed
//! on, not understood. (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>)

use std::time::Duration;
use wharf_core::fault::{Fault, FaultKind, Ferried};
use wharf_core::head::{Fields, Known};

/// Is this the head of a gRPC message, by its content type?
pub(crate) fn is_grpc(fields: &Fields) -> bool {
    const KIND: &[u8] = b"application/grpc";
    fields.known(Known::ContentType).is_some_and(|kind| match kind.split_at_checked(KIND.len()) {
        // `application/grpc-web` is carried by any HTTP and ends otherwise.
        Some((begin, rest)) => begin.eq_ignore_ascii_case(KIND) && matches!(rest, [] | [b'+' | b';', ..]),
        None => false,
    })
}

/// How long the caller waits: `grpc-timeout`, at most eight digits and a unit. `None`: it does not say, or not validly.
pub(crate) fn timeout(fields: &Fields) -> Option<Duration> {
    let value = fields.get(b"grpc-timeout")?;
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits.iter().fold(0, |count: u64, digit| count * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

/// The status code of gRPC for a fault of ours.
pub(crate) fn code(fault: &Fault) -> &'static str {
    match &fault.kind {
        FaultKind::Malformed | FaultKind::BadAnswer => "13",
        FaultKind::WrongType | FaultKind::BadArgument => "3",
        FaultKind::Denied => "7",
        FaultKind::TooLarge { .. } | FaultKind::Overload(_) | FaultKind::Limited(_) => "8",
        FaultKind::NoRoute | FaultKind::MethodRefused | FaultKind::Misdirected => "12",
        FaultKind::Timeout(_) | FaultKind::ClientTimeout(_) | FaultKind::Ferry(Ferried { is_timeout: true, .. }) => "4",
        FaultKind::ClientGone => "1",
        FaultKind::Connect
        | FaultKind::NoEndpoint
        | FaultKind::Reset
        | FaultKind::Plugin(_)
        | FaultKind::PluginAnswer(_)
        | FaultKind::Ferry(_) => "14",
    }
}

/// `message` as it is sent: percent-encoded, printable ASCII.
pub(crate) fn status(code: &str, message: &str) -> Fields {
    let mut fields = Fields::default();
    fields.add(b"grpc-status", code.as_bytes());
    let mut encoded = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(byte as char),
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    fields.add(b"grpc-message", encoded.as_bytes());
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &str, value: &str) -> Fields {
        let mut fields = Fields::default();
        fields.add(name.as_bytes(), value.as_bytes());
        fields
    }

    #[test]
    fn a_deadline_is_eight_digits_and_a_unit() {
        for (text, wanted) in [
            ("1H", 3_600_000_000_000),
            ("2M", 120_000_000_000),
            ("3S", 3_000_000_000),
            ("99999999m", 99_999_999_000_000),
            ("5u", 5_000),
            ("7n", 7),
        ] {
            assert_eq!(timeout(&with("grpc-timeout", text)).unwrap().as_nanos(), wanted, "{text}");
        }
        for bad in ["", "S", "1", "1s", "100000000S", "-1S", "1.5S", "1 S"] {
            assert_eq!(timeout(&with("grpc-timeout", bad)), None, "{bad}");
        }
    }

    #[test]
    fn grpc_is_told_by_its_content_type() {
        for yes in ["application/grpc", "application/grpc+proto", "Application/GRPC;charset=utf-8"] {
            assert!(is_grpc(&with("content-type", yes)), "{yes}");
        }
        for no in ["application/grpc-web", "application/grp", "application/json"] {
            assert!(!is_grpc(&with("content-type", no)), "{no}");
        }
    }

    #[test]
    fn a_message_is_printable_whatever_it_says() {
        assert_eq!(status("13", "a%b\n\u{e9}").get(b"grpc-message"), Some(&b"a%25b%0A%C3%A9"[..]));
    }
}
