//! A collector of OpenTelemetry for tests: an HTTP server that takes spans, and reads them by the numbers of
//! opentelemetry-proto, not by the gateway's own code.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "test code: a panic is how a test tells, and nothing of it is shipped"
)]

use std::collections::BTreeMap;
use wharf_harness::upstream::ok;
use wharf_harness::{Act, Upstream};

/// One span.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "the names are those of the protocol")]
pub struct Span {
    pub trace: String,
    pub id: String,
    pub parent: String,
    pub state: String,
    pub name: String,
    /// 1 internal, 2 server, 3 client.
    pub kind: u64,
    pub start_ns: u64,
    pub end_ns: u64,
    pub attributes: BTreeMap<String, String>,
    /// 2: error.
    pub status: u64,
    /// Attributes of its resource.
    pub resource: BTreeMap<String, String>,
}

impl Span {
    /// An attribute as text; empty if there is none.
    pub fn get(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

/// Takes whatever is sent to it.
pub fn collector() -> Upstream {
    Upstream::start(|_| vec![Act::Send(ok(b""))])
}

/// All spans that it has been sent.
pub fn spans(collector: &Upstream) -> Vec<Span> {
    collector.requests().iter().flat_map(|request| read(&request.body)).collect()
}

/// The spans of an `ExportTraceServiceRequest`.
pub fn read(request: &[u8]) -> Vec<Span> {
    let mut spans = Vec::new();
    for of_resource in all(request, 1) {
        let resource = all(&of_resource, 1).iter().flat_map(|resource| attributes(resource, 1)).collect::<BTreeMap<_, _>>();
        for of_scope in all(&of_resource, 2) {
            for span in all(&of_scope, 2) {
                spans.push(Span { resource: resource.clone(), ..one(&span) });
            }
        }
    }
    spans
}

fn one(span: &[u8]) -> Span {
    let text = |field: u64| String::from_utf8(all(span, field).pop().unwrap_or_default()).unwrap_or_default();
    let hex = |field: u64| all(span, field).pop().unwrap_or_default().iter().map(|byte| format!("{byte:02x}")).collect();
    let number = |field: u64| numbers(span, field).pop().unwrap_or_default();
    Span {
        trace: hex(1),
        id: hex(2),
        state: text(3),
        parent: hex(4),
        name: text(5),
        kind: number(6),
        start_ns: number(7),
        end_ns: number(8),
        attributes: attributes(span, 9),
        status: all(span, 15).iter().flat_map(|status| numbers(status, 3)).next().unwrap_or_default(),
        resource: BTreeMap::new(),
    }
}

fn attributes(message: &[u8], field: u64) -> BTreeMap<String, String> {
    let pair = |pair: Vec<u8>| {
        let name = String::from_utf8(all(&pair, 1).pop()?).ok()?;
        let value = all(&pair, 2).pop()?;
        let text = all(&value, 1).pop().and_then(|text| String::from_utf8(text).ok());
        Some((name, text.or_else(|| numbers(&value, 3).pop().map(|number| number.to_string()))?))
    };
    all(message, field).into_iter().filter_map(pair).collect()
}

/// A field of a message: its number, and its value or its bytes.
type Field = (u64, u64, Vec<u8>);

fn all(message: &[u8], field: u64) -> Vec<Vec<u8>> {
    fields(message).into_iter().filter(|(number, ..)| *number == field).map(|(_, _, bytes)| bytes).collect()
}

fn numbers(message: &[u8], field: u64) -> Vec<u64> {
    fields(message).into_iter().filter(|(number, ..)| *number == field).map(|(_, value, _)| value).collect()
}

/// # Panics
/// It is no protobuf: a test has gone wrong.
fn fields(message: &[u8]) -> Vec<Field> {
    let mut rest = message;
    let varint = |rest: &mut &[u8]| {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, behind) = rest.split_first().expect("a number ends");
            *rest = behind;
            value |= u64::from(byte & 0x7f) << shift;
            if *byte < 0x80 {
                return value;
            }
        }
        panic!("a number is too long")
    };
    let mut found = Vec::new();
    while !rest.is_empty() {
        let key = varint(&mut rest);
        let len = match key & 7 {
            0 => {
                found.push((key >> 3, varint(&mut rest), Vec::new()));
                continue;
            }
            1 => 8,
            5 => 4,
            2 => varint(&mut rest) as usize,
            wire => panic!("wire type {wire}"),
        };
        let (bytes, behind) = rest.split_at(len);
        rest = behind;
        let mut number = [0; 8];
        if len <= 8 && key & 7 != 2 {
            number[..len].copy_from_slice(bytes);
        }
        found.push((key >> 3, u64::from_le_bytes(number), bytes.to_vec()));
    }
    found
}
