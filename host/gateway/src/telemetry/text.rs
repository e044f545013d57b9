//! One record as a line of text, by a template of the operator's.

use super::line::{self, Redacting};
use super::shown;
use crate::config::template::{Field, Piece, Template};
use std::io::Write as _;
use std::time::Duration;
use wharf_http::record::{Part, Record};

/// Writes the line of a record, its end included.
pub(super) fn write(template: &Template, out: &mut Vec<u8>, record: &Record<'_>, redact: &Redacting) {
    for piece in &template.0 {
        match piece {
            Piece::Text(text) => out.extend_from_slice(text.as_bytes()),
            Piece::RequestHeader(name) => {
                let fields = record.exchange.map(|exchange| &exchange.facts.request.fields);
                put(out, fields.and_then(|fields| shown::header(fields, name, redact)).as_deref());
            }
            Piece::ResponseHeader(name) => {
                let fields = record.response.map(|head| &head.fields);
                put(out, fields.and_then(|fields| shown::header(fields, name, redact)).as_deref());
            }
            Piece::Field(field) => write_field(*field, out, record, redact),
        }
    }
    out.push(b'\n');
}

fn write_field(field: Field, out: &mut Vec<u8>, record: &Record<'_>, redact: &Redacting) {
    let is_over = record.part != Part::Request;
    let text = |bytes: &[u8]| wharf_core::head::text(bytes).into_owned();
    let known = |bytes: &[u8]| (!bytes.is_empty()).then(|| text(bytes));
    let word = |word: &str| (!word.is_empty()).then(|| word.to_owned());
    let over = |value: String| is_over.then_some(value);
    let head = (record.head_us > 0).then_some(record.head_us);
    let value = match field {
        Field::AnsweredBy => record.answered_by.map(str::to_owned),
        Field::Authority => known(record.authority),
        Field::BytesIn => over(record.bytes_in.to_string()),
        Field::BytesOut => over(record.bytes_out.to_string()),
        Field::ClfTime => return line::put_clf_time(out, record.time_ms),
        Field::Client => Some(record.client.to_string()),
        Field::Consumer => record.consumer.map(str::to_owned),
        Field::CtxId => Some(line::ctx_id(record)),
        Field::DurationMs => over(in_millis(record.duration)),
        Field::DurationUs => over(record.duration.as_micros().to_string()),
        Field::Endpoint => record.endpoint.map(|endpoint| endpoint.text.to_string()),
        Field::Fault => record.fault.map(str::to_owned),
        Field::Id => Some(record.id.to_string()),
        Field::Listener => word(record.listener),
        Field::Method => word(record.method),
        Field::Path => known(record.path),
        Field::Protocol => word(record.protocol),
        Field::Query => record.query.map(|query| shown::query(&text(query), redact)),
        Field::Record => Some(line::part(record.part).to_owned()),
        Field::Route => word(record.route),
        Field::Status => over(record.status.to_string()),
        Field::Time => return line::put_time(out, record.time_ms),
        Field::TraceId => line::trace_id(record),
        Field::Tries => over(record.tries.to_string()),
        Field::Uri => known(record.path).map(|path| match record.query {
            Some(query) => format!("{path}?{}", shown::query(&text(query), redact)),
            None => path,
        }),
        Field::UpstreamMs => head.map(|head| in_millis(Duration::from_micros(head.into()))),
        Field::UpstreamUs => head.map(|head| head.to_string()),
        Field::UserAgent => record.user_agent.map(text),
    };
    put(out, value.as_deref());
}

fn in_millis(time: Duration) -> String {
    let micros = time.as_micros();
    format!("{}.{:03}", micros / 1000, micros % 1000)
}

/// What nobody can take for the end of a field or of the line; `-` where there is nothing.
fn put(out: &mut Vec<u8>, text: Option<&str>) {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return out.push(b'-') };
    let cut = text.floor_char_boundary(super::access::TEXT_MAX);
    for byte in text.get(..cut).unwrap_or_default().bytes() {
        match byte {
            b'"' | b'\\' | 0..0x20 | 0x7f.. => drop(write!(out, "\\x{byte:02X}")),
            plain => out.push(plain),
        }
    }
    if cut < text.len() {
        out.extend_from_slice(b"...");
    }
}
