//! Checks what the gateway is to say about requests.

use super::*;
use crate::config::template::Template;
use wharf_http::record::{Sampling, WHOLE};

/// Bodies in which the names of secrets are found.
const CAPTURED_TYPES: [&str; 3] = ["application/json", "*+json", "application/x-www-form-urlencoded"];

impl Checker<'_> {
    pub(super) fn access_log(&mut self, log: &Opt<file::AccessLog>) -> plan::AccessLog {
        let log = group(log);
        let to = log.and_then(|log| log.to.as_ref());
        let target = match to.and_then(Item::get).map(String::as_str) {
            None | Some("stdout") => plan::LogTarget::Stdout,
            Some("off") => plan::LogTarget::Off,
            Some(path) => plan::LogTarget::File(to.and_then(|to| self.path(to)).unwrap_or_else(|| self.folder.join(path))),
        };
        let is_file = matches!(target, plan::LogTarget::File(_));
        let also_stdout = given(of(log, |log| &log.stdout)).copied().unwrap_or(false);
        if let Some(item) = of(log, |log| &log.stdout)
            && also_stdout
            && target == plan::LogTarget::Off
        {
            self.say(item.place, "`stdout` has no meaning with `to: off`", "write `to: stdout`");
        }
        let template = self.template(log);
        let headers = group(of(log, |log| &log.headers));
        let rotate = of(log, |log| &log.rotate);
        let rotation = self.rotation(rotate);
        if let Some(item) = rotate
            && !is_file
        {
            self.say(item.place, "`rotate` is for a file, and the access log goes to none", "name the file by `to`, or remove `rotate`");
        }
        let more = |list: &[Item<String>]| list.iter().filter_map(Item::get).map(|name| name.to_ascii_lowercase().into()).collect();
        plan::AccessLog {
            target,
            also_stdout: also_stdout && is_file,
            template,
            request_headers: self.each_once(of(headers, |h| &h.request), values::field_name),
            response_headers: self.each_once(of(headers, |h| &h.response), values::field_name),
            redact: plan::Redact {
                query: more(list(of(log, |log| &log.redact_query))),
                headers: more(list(of(log, |log| &log.redact_headers))),
                fields: more(list(of(log, |log| &log.redact_fields))),
            },
            rotate: rotation,
        }
    }

    fn template(&mut self, log: Option<&file::AccessLog>) -> Option<Template> {
        let is_text = matches!(given(of(log, |log| &log.format)), Some(file::LineFormat::Text));
        let item = of(log, |log| &log.template).as_ref();
        let read = item.and_then(|item| {
            if !is_text {
                self.say(item.place, "`template` has no meaning without `format: text`", "add `format: text`, or remove `template`");
            }
            match Template::read(item.get()?) {
                Ok(template) => Some(template),
                Err((message, hint)) => {
                    self.say(item.place, message, hint);
                    None
                }
            }
        });
        is_text.then(|| read.unwrap_or_default())
    }

    fn rotation(&mut self, item: &Opt<file::Rotation>) -> Option<plan::Rotation> {
        let (place, rotate) = (item.as_ref()?.place, group(item)?);
        if rotate.size.is_none() && rotate.age.is_none() {
            self.say(place, "`rotate` needs `size` or `age`", "write `rotate: {size: 100MiB, keep: 10}`");
        }
        let size = rotate.size.is_some().then(|| self.size(&rotate.size, 100 * MIB, 4 * KIB, 1024 * GIB, "size"));
        let age = rotate.age.is_some().then(|| self.time(&rotate.age, DAY, SECOND, 366 * DAY, "age"));
        Some(plan::Rotation { bytes_max: size, age_max: age, keep: self.number(&rotate.keep, 10, 0, 1000, "keep") })
    }

    pub(super) fn recording(&mut self, log: &Opt<file::AccessLog>) -> plan::Recording {
        let log = group(log);
        let memory = self.size(of(log, |log| &log.capture_memory), 16 * MIB, 0, 4 * GIB, "capture_memory");
        plan::Recording {
            sampling: self.sampling(of(log, |log| &log.sample), &Sampling::default()),
            two: matches!(given(of(log, |log| &log.records)), Some(file::Records::Two)),
            capture_memory: usize::try_from(memory).unwrap_or(usize::MAX),
        }
    }

    fn sampling(&mut self, sample: &Opt<file::Sample>, usual: &Sampling) -> Sampling {
        let Some(sample) = group(sample) else { return usual.clone() };
        let slower = &sample.slower_than;
        Sampling {
            share: millionths(self.share(&sample.share, 100.0, "share")),
            errors: given(&sample.errors).copied().unwrap_or(true),
            slower: slower.is_some().then(|| self.time(slower, SECOND, MS, DAY, "slower_than")),
        }
    }

    /// Of one route.
    pub(super) fn sampling_of(&mut self, log: &Opt<OrShort<file::RouteLog>>, usual: &Sampling) -> Sampling {
        let Some(item) = log else { return usual.clone() };
        let Some(OrShort(log)) = item.get() else { return usual.clone() };
        if !self.is_on(&log.word, item.place, "access_log") {
            return Sampling { share: 0, errors: false, slower: None };
        }
        self.sampling(&log.sample, usual)
    }

    pub(super) fn capture(&mut self, capture: &Opt<file::Capture>) -> Option<plan::Capture> {
        let (place, capture) = (capture.as_ref()?.place, group(capture)?);
        let is = |item: &Opt<bool>| given(item).copied().unwrap_or(false);
        let (request, response) = (is(&capture.request), is(&capture.response));
        if !request && !response {
            self.say(place, "`capture` captures nothing", "write `request: true`, `response: true` or both, or remove `capture`");
        }
        let bytes_max = self.size(&capture.bytes_max, 4 * KIB, 1, MIB, "bytes_max");
        let types = self.several(&capture.types, "types", values::media_type);
        let types = if types.is_empty() { CAPTURED_TYPES.map(Into::into).into() } else { types };
        Some(plan::Capture { request, response, bytes_max: bytes_max as usize, types })
    }

    pub(super) fn traces(&mut self, traces: &Opt<file::Traces>, node: &plan::Node) -> Option<plan::Traces> {
        let (place, traces) = (traces.as_ref()?.place, group(traces)?);
        let share = millionths(self.share(&traces.share, 10.0, "share"));
        let timeout = self.time(&traces.timeout, 5 * SECOND, 10 * MS, 60 * SECOND, "timeout");
        let mut headers = Vec::new();
        for (name, value) in entries(&traces.headers) {
            let (Some(name), Some(value)) = (self.value(name, values::field_name), self.value(value, field_value)) else { continue };
            headers.push((name, value.into()));
        }
        let Some(to) = &traces.to else {
            self.say(place, "`traces` has no `to`", "name the collector: `to: http://127.0.0.1:4318/v1/traces`");
            return None;
        };
        let to = self.value(to, values::collector)?;
        let service_name = given(&traces.service_name).map_or_else(|| node.name.as_ref().into(), |name| name.as_str().into());
        Some(plan::Traces { to, share, headers, timeout, service_name })
    }
}

fn millionths(share: f64) -> u32 {
    (share * f64::from(WHOLE)).round() as u32
}
