//! An upstream's head, held to what a client's is held to: a hostile or broken upstream must not confuse our client.

use super::fields::{Survey, field_refusal, spans};
use super::{Framing, HeadLimits, Refusal, RefusalKind, Version};
use bytes::BytesMut;
use std::mem::MaybeUninit;
use wharf_core::head::{Fields, Known, ResponseHead};

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

/// An answer, up to its body.
#[derive(Clone, Debug)]
pub struct Received {
    /// Status and fields, without those about one connection only. A 101 keeps its `Upgrade`.
    pub head: ResponseHead,
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

/// Reads a head from the front of `buf` and takes it off; what follows stays. `None`: more bytes are needed, `buf` is
/// as it was.
///
/// # Errors
/// What is no valid answer; its status is 502. The connection is of no further use.
pub fn parse(buf: &mut BytesMut, limits: &HeadLimits, asked: &Asked) -> Result<Option<Event>, Refusal> {
    // Only what is wrong goes through here: a head is too large to be moved for nothing.
    let mut event = None;
    match parse_head(buf, limits, asked, &mut event) {
        Ok(()) => Ok(event),
        Err(what) => Err(Refusal { status: 502, what }),
    }
}

fn parse_head(buf: &mut BytesMut, limits: &HeadLimits, asked: &Asked, event: &mut Option<Event>) -> Result<(), RefusalKind> {
    let view = buf.get(..buf.len().min(limits.bytes_max)).unwrap_or_default();
    // httparse would skip empty lines; here they are what a longer body than announced leaves behind.
    if matches!(view.first(), Some(b'\r' | b'\n')) {
        return Err(RefusalKind::StatusLine);
    }
    let fields_max = limits.fields_max.min(HeadLimits::FIELDS_CEILING);
    let mut slots = [const { MaybeUninit::uninit() }; HeadLimits::FIELDS_CEILING];
    let mut split = httparse::Response::new(&mut []);
    let slots = slots.get_mut(..fields_max).unwrap_or_default();
    let end = match httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut split, view, slots) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if view.len() < limits.bytes_max => return Ok(()),
        Ok(httparse::Status::Partial) => return Err(RefusalKind::HeadBytes { max: limits.bytes_max }),
        Err(httparse::Error::Token | httparse::Error::Status | httparse::Error::Version) => return Err(RefusalKind::StatusLine),
        Err(other) => return Err(field_refusal(other, fields_max)),
    };
    let mut list = spans(buf, 0, end, split.headers)?;
    let version = if split.version == Some(1) { Version::Http11 } else { Version::Http10 };
    let status = split.code.unwrap_or_default();
    if !(100..=599).contains(&status) {
        return Err(RefusalKind::Status(status));
    }

    let mut text = buf.split_to(end);
    let survey = Survey::of(&mut text, &mut list)?;
    let said = survey.framing(version)?;
    let says_body = !matches!(said, None | Some(Framing::Length(0)));
    if status < 200 {
        if says_body {
            return Err(RefusalKind::InterimBody);
        }
        if status != 101 {
            *event = Some(Event::Interim(status));
            return Ok(());
        }
        if !asked.upgrade || !survey.switches || survey.upgrade.is_none() || version != Version::Http11 {
            return Err(RefusalKind::Switch);
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
    let mut fields = Fields::received(text.freeze(), list);
    if status == 204 && said.is_some() {
        fields.remove_if(|known, _| known == Known::ContentLength);
    }
    if let Some(protocol) = survey.upgrade
        && status == 101
    {
        let protocol = fields.bytes(protocol).to_vec();
        fields.add(b"upgrade", &protocol);
    }
    *event = Some(Event::Final(Received { head: ResponseHead { status, fields }, framing, keep_alive }));
    Ok(())
}
