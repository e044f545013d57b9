//! An upstream's head, held to what a client's is held to: a hostile or broken upstream must not confuse our client.

use super::fields::{Survey, field_refusal, spans};
use super::{Framing, HeadLimits, Refusal, RefusalKind, Version, split};
use bytes::BytesMut;
use std::mem::MaybeUninit;
use wharf_core::head::{Field, Known, ResponseHead};

/// What the answer is an answer to; its framing depends on that.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    /// The method was HEAD: no body, whatever the fields say.
    pub head_method: bool,
    /// The method was CONNECT: behind a 2xx begins a tunnel.
    pub connect: bool,
    /// A switch of protocols was asked for.
    pub upgrade: bool,
}

/// What an answer says beside its head.
#[derive(Clone, Debug)]
pub struct Received {
    /// Where the body ends.
    pub framing: Framing,
    /// The connection may be used again after the body. What stands behind the body in the buffer still forbids it.
    pub keep_alive: bool,
}

/// What an upstream said.
#[derive(Clone, Debug)]
pub enum Event {
    /// 100 to 199: another answer follows. Whoever reads bounds their number.
    Interim(u16),
    /// The answer.
    Final(Received),
}

/// Reads a head from the front of `buf` and takes it off; what follows stays. `None`: more bytes are needed; `buf`
/// holds what it held, but for names of fields that may have become lower case.
///
/// With the answer, `head` becomes what was read, in the memory that it had: status and fields, without those about one
/// connection only. A 101 keeps its `Upgrade`.
///
/// # Errors
/// What is no valid answer; its status is 502. The connection is of no further use.
pub fn parse(buf: &mut BytesMut, limits: &HeadLimits, asked: &Asked, head: &mut ResponseHead) -> Result<Option<Event>, Refusal> {
    let (mut list, mut survey) = (head.fields.take_list(), Survey::default());
    let (version, status, end) = match ordinary(buf, limits, &mut list, &mut survey) {
        Some(split) => split,
        None => match thorough(buf, limits, &mut list, &mut survey).map_err(bad)? {
            Some(split) => split,
            None => return Ok(None),
        },
    };
    if !(100..=599).contains(&status) {
        return Err(bad(RefusalKind::Status(status)));
    }
    let said = survey.framing(version).map_err(bad)?;
    let says_body = !matches!(said, None | Some(Framing::Length(0)));
    if status < 200 {
        if says_body {
            return Err(bad(RefusalKind::InterimBody));
        }
        if status != 101 {
            super::used(buf, end);
            return Ok(Some(Event::Interim(status)));
        }
        if !asked.upgrade || !survey.switches || survey.upgrade.is_none() || version != Version::Http11 {
            return Err(bad(RefusalKind::Switch));
        }
    }
    let mut keep_alive = survey.persists(version) && status != 101;
    let framing = if asked.head_method || matches!(status, 101 | 304) {
        // The fields speak of the body that a GET would have been given.
        Framing::None
    } else if status == 204 || (asked.connect && status < 300) {
        // An upstream that announces a body here may also send it: nobody can tell it from the next answer.
        keep_alive &= !says_body && status == 204;
        Framing::None
    } else {
        said.unwrap_or(Framing::UntilClose)
    };
    keep_alive &= framing != Framing::UntilClose;
    head.status = status;
    let fields = &mut head.fields;
    fields.receive(buf.get(..end).unwrap_or_default(), list);
    super::used(buf, end);
    if status == 204 && said.is_some() {
        fields.remove_if(|known| known == Known::ContentLength);
    }
    if let Some(protocol) = survey.upgrade
        && status == 101
    {
        let protocol = fields.bytes(protocol).to_vec();
        fields.add(b"upgrade", &protocol);
    }
    Ok(Some(Event::Final(Received { framing, keep_alive })))
}

/// Version, status and end. The fields that are passed on, and what all of them say, are made where they stay.
type Split = (Version, u16, usize);

/// The short way; `None`: take the other one.
fn ordinary(buf: &mut BytesMut, limits: &HeadLimits, list: &mut Vec<Field>, survey: &mut Survey) -> Option<Split> {
    let room = buf.len().min(limits.bytes_max);
    let text = buf.get_mut(..room)?;
    let (version, status, line) = split::status_line(text)?;
    let end = split::field_lines(text, line, limits.fields(), list, survey)?;
    Some((version, status, end))
}

/// By httparse. `None`: more bytes are needed.
#[cold]
fn thorough(buf: &mut BytesMut, limits: &HeadLimits, list: &mut Vec<Field>, survey: &mut Survey) -> Result<Option<Split>, RefusalKind> {
    let view = buf.get(..buf.len().min(limits.bytes_max)).unwrap_or_default();
    // httparse would skip empty lines; here they are what a longer body than announced leaves behind.
    if matches!(view.first(), Some(b'\r' | b'\n')) {
        return Err(RefusalKind::StatusLine);
    }
    let mut slots = [const { MaybeUninit::uninit() }; HeadLimits::FIELDS_CEILING];
    let mut split = httparse::Response::new(&mut []);
    let slots = slots.get_mut(..limits.fields()).unwrap_or_default();
    let end = match httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut split, view, slots) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if view.len() < limits.bytes_max => return Ok(None),
        Ok(httparse::Status::Partial) => return Err(RefusalKind::HeadBytes { max: limits.bytes_max }),
        Err(httparse::Error::Token | httparse::Error::Status | httparse::Error::Version) => return Err(RefusalKind::StatusLine),
        Err(other) => return Err(field_refusal(other, limits.fields())),
    };
    *list = spans(buf, 0, end, split.headers)?;
    let version = if split.version == Some(1) { Version::Http11 } else { Version::Http10 };
    let status = split.code.unwrap_or_default();
    if !(100..=599).contains(&status) {
        return Err(RefusalKind::Status(status));
    }
    *survey = Survey::of(buf.get_mut(..end).unwrap_or_default(), list)?;
    Ok(Some((version, status, end)))
}

fn bad(what: RefusalKind) -> Refusal {
    Refusal { status: 502, what }
}
