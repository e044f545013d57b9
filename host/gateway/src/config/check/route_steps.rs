//! Checks what a route does beside its plugins: lists, limits, edits, rewriting, answers, copies.

use super::*;
use crate::config::units::PerTime;
use serde_json::Value;
use wharf_core::head::Known;
use wharf_http::check::{Checks, Schema};
use wharf_http::compress::{Coding, Compression};
use wharf_http::cors::{Cors, Origins};
use wharf_http::edits::{HeaderEdit, HeaderEdits};
use wharf_http::envelope::Envelope;
use wharf_http::lists::Lists;
use wharf_http::mirror::WHOLE;
use wharf_http::phrase::Phrase;
use wharf_http::rate::{By, Rate};
use wharf_http::rewrite::Rewrite;
use wharf_http::routes::RouteMatch;
use wharf_http::steps::DefaultAnswer;

/// Most rate limits of one route or service.
const LIMITS_MAX: usize = 8;
/// Most changes of one head.
const EDITS_MAX: usize = wharf_core::edit::EDITS_MAX;
/// Of the text of all edits of a head: the rest is for what names in it come to.
const EDITS_TEXT_MAX: usize = wharf_core::edit::EDIT_TEXT_MAX / 2;

/// What holds for routes that say nothing else.
pub(super) struct Usual {
    pub(super) whole: Duration,
    pub(super) body_bytes_max: u64,
    pub(super) cors: Option<Arc<Cors>>,
    pub(super) envelope: Option<Arc<Envelope>>,
    pub(super) compression: Option<Arc<Compression>>,
    named_limits: Vec<plan::RateLimit>,
}

impl Checker<'_> {
    pub(super) fn usual(&mut self, file: &File) -> Usual {
        let defaults = group(&file.defaults);
        let on = Some(Arc::new(Compression::default()));
        Usual {
            whole: self.time(of(defaults.and_then(|d| group(&d.timeouts)), |t| &t.whole), WHOLE_TIME, MS, DAY, "whole"),
            body_bytes_max: self.size(of(defaults, |d| &d.body_bytes_max), 10 * MIB, 0, 1024 * GIB, "body_bytes_max"),
            cors: self.cors(of(defaults, |d| &d.cors), None),
            envelope: self.envelope(of(defaults, |d| &d.envelope), None),
            compression: self.compression(of(defaults, |d| &d.compression), on),
            named_limits: self.named_limits(file),
        }
    }

    // === access ===

    pub(super) fn access(&mut self, access: &Opt<file::Access>) -> Option<Arc<Lists>> {
        let access = group(access)?;
        let (sources, headers) = (group(&access.sources), group(&access.headers));
        if let Some(item) = of(sources, |lists| &lists.allow)
            && item.get().is_some_and(Vec::is_empty)
        {
            self.say(item.place, "`allow` is empty, so nobody would be let in", "leave `allow` out to let all in");
        }
        let lists = Lists {
            allow_sources: self.each_once(of(sources, |lists| &lists.allow), values::network),
            deny_sources: self.each_once(of(sources, |lists| &lists.deny), values::network),
            allow: self.header_tests(of(headers, |lists| &lists.allow)),
            deny: self.header_tests(of(headers, |lists| &lists.deny)),
        };
        Some(Arc::new(lists))
    }

    // === rate limits ===

    fn named_limits(&mut self, file: &File) -> Vec<plan::RateLimit> {
        let mut limits = Vec::new();
        for (name, item) in entries(&file.rate_limits) {
            let Some(name) = self.name_of(name, "rate limit") else { continue };
            let read = item.get().and_then(|limit| self.limit(limit, item.place, &name, name.as_ref().into()));
            // What is wrong leaves a stand-in, so that whoever names it still does: without, a route would be let through
            // unlimited where only the limit stays on its last good version.
            limits.push(read.unwrap_or_else(|| plan::RateLimit {
                key: name.as_ref().into(),
                name: name.as_ref().into(),
                rate: Rate { limit: 1, per: SECOND, burst: 1 },
                by: By::All,
            }));
        }
        limits
    }

    pub(super) fn limits_of_route(&mut self, file: &File, route: &file::Route, name: &str, usual: &Usual) -> Vec<plan::RateLimit> {
        // Those of `defaults`, too, count for each route by itself.
        let key = format!("route {name}");
        match &route.rate_limits {
            Some(_) => self.limits(&route.rate_limits, &format!("routes.{name}"), &key, usual),
            None => self.limits(of(group(&file.defaults), |d| &d.rate_limits), "defaults", &key, usual),
        }
    }

    pub(super) fn limits_of_service(&mut self, service: &file::Service, name: &str, usual: &Usual) -> Vec<plan::RateLimit> {
        self.limits(&service.rate_limits, &format!("services.{name}"), &format!("service {name}"), usual)
    }

    /// The limits of a list. One that is written there is named by its place, and counted under `key`.
    fn limits(&mut self, items: &Opt<Vec<Item<OrShort<file::RateLimit>>>>, place: &str, key: &str, usual: &Usual) -> Vec<plan::RateLimit> {
        let mut limits: Vec<plan::RateLimit> = Vec::new();
        for (at, item) in list(items).iter().enumerate() {
            let Some(OrShort(limit)) = item.get() else { continue };
            let made = match &limit.named {
                Some(word) => {
                    let Some(word) = word.get() else { continue };
                    let found = usual.named_limits.iter().find(|limit| *limit.name == **word).cloned();
                    if found.is_none() {
                        let known: Vec<&str> = usual.named_limits.iter().map(|limit| &*limit.name).collect();
                        let hint = if known.is_empty() {
                            format!("write `{{rate: 100/s}}`, or add `{word}` under `rate_limits`")
                        } else {
                            nearest_or_all(word, &known)
                        };
                        self.say(item.place, format!("there is no rate limit `{word}`"), hint);
                    }
                    found
                }
                None => self.limit(limit, item.place, &format!("{place}.rate_limits[{at}]"), format!("{key}/{at}").into()),
            };
            let Some(made) = made else { continue };
            if limits.iter().any(|have| have.key == made.key) {
                self.say(item.place, format!("rate limit `{}` is given twice", made.name), "remove one");
                continue;
            }
            limits.push(made);
        }
        if limits.len() > LIMITS_MAX
            && let Some(item) = items
        {
            let message = format!("a route or service may have {LIMITS_MAX} rate limits at most");
            self.say(item.place, message, "each costs every request a count");
        }
        limits
    }

    fn limit(&mut self, limit: &file::RateLimit, place: Place, name: &str, key: Box<str>) -> Option<plan::RateLimit> {
        let Some(rate) = &limit.rate else {
            self.say(place, "a rate limit needs `rate`", "write `rate: 100/s`");
            return None;
        };
        let PerTime { count, per } = *rate.get()?;
        let burst = self.number(&limit.burst, count, 1, 1_000_000, "burst");
        let by = match group(&limit.by) {
            None | Some(file::LimitBy::All) => By::All,
            Some(file::LimitBy::Client) => By::Client,
            Some(file::LimitBy::Consumer) => By::Consumer,
            Some(file::LimitBy::Header(name)) => By::Header(self.value(name, values::field_name)?),
            Some(file::LimitBy::Cookie(name)) => By::Cookie(self.value(name, values::cookie_name)?),
        };
        Some(plan::RateLimit { key, name: name.into(), rate: Rate { limit: count, per, burst }, by })
    }

    // === answers to pages of other origins ===

    pub(super) fn cors(&mut self, cors: &Opt<OrShort<file::Cors>>, usual: Option<Arc<Cors>>) -> Option<Arc<Cors>> {
        let Some(item) = cors else { return usual };
        let OrShort(cors) = item.get()?;
        if let Some(word) = &cors.word {
            if word.get().map(String::as_str) != Some("off") {
                self.say(item.place, "`cors` is `off` or says which origins", "write `cors: {origins: [https://app.example.com]}`");
            }
            return None;
        }
        let any = list(&cors.origins).iter().any(|origin| origin.get().map(String::as_str) == Some("*"));
        let credentials = given(&cors.credentials).copied().unwrap_or(false);
        if any && credentials {
            let hint = "name the origins, or leave `credentials` out: a browser takes no answer that allows both";
            self.say(item.place, "`credentials` and the origin `*` do not go together", hint);
        }
        let patterns = self.several(&cors.origin_patterns, "origin_patterns", values::pattern);
        let origins = match any {
            true if list(&cors.origins).len() > 1 || !patterns.is_empty() => {
                self.say(item.place, "the origin `*` is every origin", "remove the others, or `*`");
                Origins::Any
            }
            true => Origins::Any,
            false => Origins::These { exact: self.several(&cors.origins, "origins", values::origin), patterns },
        };
        if matches!(&origins, Origins::These { exact, patterns } if exact.is_empty() && patterns.is_empty())
            && list(&cors.origins).is_empty()
            && list(&cors.origin_patterns).is_empty()
        {
            self.say(item.place, "`cors` names no origin", "add `origins: [https://app.example.com]`, or `cors: off`");
        }
        let methods = self.several(&cors.methods, "methods", values::method);
        let names = |checker: &mut Self, items, what| checker.several(items, what, values::field_name);
        Some(Arc::new(Cors {
            origins,
            methods: methods.iter().map(|method| method.as_str().into()).collect(),
            headers: names(self, &cors.headers, "headers"),
            expose: names(self, &cors.expose_headers, "expose_headers"),
            credentials,
            max_age: self.time(&cors.max_age, 600 * SECOND, Duration::ZERO, DAY, "max_age"),
        }))
    }

    // === checks ===

    pub(super) fn checks(&mut self, checks: &Opt<file::Checks>, matches: &RouteMatch) -> Option<Arc<Checks>> {
        let checks = group(checks)?;
        let answer = group(&checks.answer);
        if let Some(item) = &checks.path
            && !matches.path.has_names()
        {
            self.say(item.place, "the route's path names nothing that `path` could check", "match by `path: {template: /users/{id}}`");
        }
        let bound = of(answer, |answer| &answer.body_bytes_max);
        Some(Arc::new(Checks {
            types: self.several(&checks.types, "types", values::media_type),
            query: self.schema(&checks.query),
            headers: self.schema(&checks.headers),
            path: self.schema(&checks.path),
            body: self.schema(&checks.body),
            held_bytes_max: self.size(&checks.body_bytes_max, 256 * KIB, 1, 16 * MIB, "body_bytes_max"),
            answer_types: self.several(of(answer, |answer| &answer.types), "types", values::media_type),
            answer_bytes_max: bound.is_some().then(|| self.size(bound, 10 * MIB, 0, 1024 * GIB, "body_bytes_max")),
        }))
    }

    fn schema(&mut self, item: &Opt<file::Anything>) -> Option<Arc<Schema>> {
        let item = item.as_ref()?;
        let file::Anything(value) = item.get()?;
        let made = match value {
            Value::Object(_) | Value::Bool(_) => Schema::new(value),
            _ => Err("a schema is a map".into()),
        };
        let hint = "JSON Schema, draft 2020-12; it may refer to its own `$defs` only, and patterns have no look-around";
        made.map_err(|why| self.say(item.place, format!("this is no schema that can be used: {why}"), hint)).ok().map(Arc::new)
    }

    // === paths and headers on their way ===

    pub(super) fn rewrite(&mut self, route: &file::Route, matches: &RouteMatch) -> Option<Arc<Rewrite>> {
        let strip = route.strip_prefix.as_ref().filter(|item| item.get() == Some(&true));
        if let (Some(strip), Some(_)) = (strip, &route.rewrite) {
            self.say(strip.place, "`strip_prefix` and `rewrite` do not go together", "write `rewrite: {prefix: /}` for both");
        }
        if let Some(item) = &route.rewrite {
            return self.rewriting(item.get().map(|NotShort(rewrite)| rewrite)?, item.place, matches, "rewrite").map(Arc::new);
        }
        let item = strip?;
        match &matches.path {
            PathPattern::Prefix(prefix) if **prefix != *"/" => Some(Arc::new(Rewrite::Prefix { from: prefix.clone(), to: "".into() })),
            PathPattern::Prefix(_) => None,
            PathPattern::Exact(_) | PathPattern::Template(_) | PathPattern::Regex(_) => {
                self.say(item.place, "`strip_prefix` needs `path: {prefix: ...}`", "match by prefix, or remove `strip_prefix`");
                None
            }
        }
    }

    pub(super) fn rewriting(&mut self, rewrite: &file::Rewrite, place: Place, matches: &RouteMatch, what: &str) -> Option<Rewrite> {
        match rewrite {
            file::Rewrite::Prefix(to) => {
                let to = self.value(to, values::path)?;
                let PathPattern::Prefix(from) = &matches.path else {
                    let hint = "match by prefix, or use `regex` or `template` here";
                    self.say(place, format!("`{what}: {{prefix: ...}}` needs a route with `path: {{prefix: ...}}`"), hint);
                    return None;
                };
                Some(Rewrite::Prefix { from: from.trim_end_matches('/').into(), to: to.trim_end_matches('/').into() })
            }
            file::Rewrite::Regex(item) => {
                let rule = item.get()?;
                let pattern = self.value(&rule.pattern, values::pattern)?;
                let is_group = |name: &str| {
                    name.parse::<usize>().is_ok_and(|number| number <= pattern.groups()) || pattern.names().any(|have| have == name)
                };
                let to = self.phrase(&rule.to, matches, &is_group)?;
                Some(self.ever_sent(Rewrite::Regex { pattern, to }, &rule.to))
            }
            file::Rewrite::Template(item) => {
                let phrase = self.phrase(item, matches, &|_| false)?;
                Some(self.ever_sent(Rewrite::Template(phrase), item))
            }
        }
    }

    /// One that can be sent for some request at least.
    fn ever_sent(&mut self, rewrite: Rewrite, item: &Item<String>) -> Rewrite {
        if let Some((example, why)) = rewrite.never() {
            let (message, hint) = values::never_sent(item.get().map_or("", String::as_str), &example, why);
            self.say(item.place, message, hint);
        }
        rewrite
    }

    /// A text with names in it; those of the path must be named there.
    pub(super) fn phrase(&mut self, item: &Item<String>, matches: &RouteMatch, is_group: &dyn Fn(&str) -> bool) -> Option<Phrase> {
        let text = item.get()?;
        let phrase = match Phrase::with_groups(text, is_group) {
            Ok(phrase) => phrase,
            Err(why) => {
                self.say(item.place, why, "write names in braces: `{client}`, `{path.id}`");
                return None;
            }
        };
        let names = matches.path.names();
        if let Some(unknown) = phrase.captures().find(|name| !names.contains(name)) {
            let hint = if names.is_empty() {
                "match by `path: {template: /users/{id}}` to name parts of the path".to_owned()
            } else {
                nearest_or_all(unknown, &names)
            };
            self.say(item.place, format!("the route's path names no `{unknown}`"), hint);
            return None;
        }
        Some(phrase)
    }

    /// `of_request`: else of answers.
    pub(super) fn header_edits(
        &mut self,
        edits: &Opt<file::FieldEdits>,
        matches: &RouteMatch,
        of_request: bool,
    ) -> Option<Arc<HeaderEdits>> {
        let item = edits.as_ref()?;
        let edits = item.get()?;
        let (mut all, mut bytes) = (Vec::new(), 0);
        for item in list(&edits.remove) {
            all.extend(self.edited_name(item, of_request).map(HeaderEdit::Remove));
        }
        for (change, named) in [(HeaderEdit::Set as fn(Box<str>, Phrase) -> HeaderEdit, &edits.set), (HeaderEdit::Add, &edits.add)] {
            for (key, item) in entries(named) {
                let (Some(name), Some(text)) = (self.edited_name(key, of_request), item.get()) else { continue };
                if !wharf_core::edit::is_field_value(text.as_bytes()) {
                    self.say(item.place, format!("header `{name}` cannot have this value"), "no control characters");
                    continue;
                }
                bytes += name.len() + text.len();
                all.extend(self.phrase(item, matches, &|_| false).map(|phrase| change(name, phrase)));
            }
        }
        if bytes > EDITS_TEXT_MAX {
            let said = format!("{bytes} bytes in the changes of one head, and at most {EDITS_TEXT_MAX} are made");
            self.say(item.place, said, "leave some out; what is said of a request needs room, too");
        }
        if all.len() > EDITS_MAX {
            self.say(item.place, format!("{} changes of one head, and at most {EDITS_MAX} are made", all.len()), "leave some out");
        }
        (!all.is_empty()).then(|| Arc::new(HeaderEdits(all)))
    }

    fn edited_name(&mut self, item: &Item<String>, of_request: bool) -> Option<Box<str>> {
        let name = self.value(item, values::field_name)?;
        let checked = match of_request {
            true => wharf_core::edit::check_operators_field(&name),
            false => wharf_core::edit::check_fields([(&*name, "")]),
        };
        if checked.is_ok() {
            return Some(name);
        }
        self.say(item.place, format!("header `{name}` is the gateway's own"), instead(&name, of_request));
        None
    }

    // === answers ===

    pub(super) fn default_answers(&mut self, items: &Opt<Vec<Item<file::DefaultAnswer>>>) -> Vec<Arc<DefaultAnswer>> {
        let mut answers = Vec::new();
        for item in list(items) {
            let Some(given_answer) = item.get() else { continue };
            let faults = given(&given_answer.faults).copied().unwrap_or(false);
            let mut statuses = Vec::new();
            for status in list(&given_answer.statuses) {
                let Some(number) = status.get() else { continue };
                match number.within(400, 599) {
                    Some(number) => statuses.push(number as u16),
                    None => self.say(status.place, format!("{number} is not the status of an error"), "a number from 400 to 599"),
                }
            }
            if !faults && list(&given_answer.statuses).is_empty() {
                self.say(item.place, "this answer stands in the place of no other", "add `faults: true`, or `statuses: [503]`");
            }
            let Some(answer) = given_answer.answer.get().and_then(|fixed| self.answer(fixed)) else { continue };
            let (head, body) = answer.parts();
            answers.push(Arc::new(DefaultAnswer { faults, statuses, head, body }));
        }
        answers
    }

    pub(super) fn envelope(&mut self, envelope: &Opt<OrShort<file::Envelope>>, usual: Option<Arc<Envelope>>) -> Option<Arc<Envelope>> {
        let Some(item) = envelope else { return usual };
        let OrShort(envelope) = item.get()?;
        if !self.is_on(&envelope.word, item.place, "envelope") {
            return None;
        }
        let mut codes = Vec::new();
        for (key, item) in entries(&envelope.codes) {
            let status = key.get().and_then(|text| text.parse::<u16>().ok()).filter(|status| (400..=599).contains(status));
            let Some(status) = status else {
                let message = format!("`{}` is not the status of an error", key.get().map_or("", String::as_str));
                self.say(key.place, message, "a number from 400 to 599");
                continue;
            };
            let Some(code) = item.get() else { continue };
            match code.within(0, 999_999_999) {
                Some(code) => codes.push((status, code as u32)),
                None => self.say(item.place, format!("{code} is no code"), "a number from 0 to 999999999"),
            }
        }
        Some(Arc::new(Envelope { upstream: given(&envelope.upstream).copied().unwrap_or(true), codes }))
    }

    pub(super) fn compression(
        &mut self,
        compression: &Opt<OrShort<file::Compression>>,
        usual: Option<Arc<Compression>>,
    ) -> Option<Arc<Compression>> {
        let Some(item) = compression else { return usual };
        let OrShort(compression) = item.get()?;
        if !self.is_on(&compression.word, item.place, "compression") {
            return None;
        }
        let Compression { codings, bytes_min, types } = Compression::default();
        let mut wanted: Vec<Coding> = Vec::new();
        for item in list(&compression.codings) {
            let coding = match item.get() {
                Some(file::Coding::Zstd) => Coding::Zstd,
                Some(file::Coding::Br) => Coding::Brotli,
                Some(file::Coding::Gzip) => Coding::Gzip,
                None => continue,
            };
            if wanted.contains(&coding) {
                self.say(item.place, format!("`{}` is given twice", coding.as_str()), "remove one");
                continue;
            }
            wanted.push(coding);
        }
        if let Some(item) = &compression.codings
            && item.get().is_some_and(Vec::is_empty)
        {
            self.say(item.place, "`codings` is empty, so nothing would be compressed", "write `compression: off`");
        }
        let own_types = self.several(&compression.types, "types", values::media_type);
        Some(Arc::new(Compression {
            codings: if wanted.is_empty() { codings } else { wanted },
            bytes_min: self.size(&compression.body_bytes_min, bytes_min, 64, GIB, "body_bytes_min"),
            types: if own_types.is_empty() { types } else { own_types },
        }))
    }

    /// Is it `on`, or not a word at all but settings?
    pub(super) fn is_on(&mut self, word: &Opt<String>, place: Place, what: &str) -> bool {
        match word.as_ref().and_then(Item::get).map(String::as_str) {
            None | Some("on") => true,
            Some("off") => false,
            Some(other) => {
                self.say(place, format!("`{other}` is not understood here"), format!("`{what}` is `on`, `off`, or its settings"));
                false
            }
        }
    }

    // === copies ===

    pub(super) fn mirror(&mut self, mirror: &Opt<file::Mirror>) -> Option<plan::Mirror> {
        let item = mirror.as_ref()?;
        let mirror = item.get()?;
        let service = self.service(&mirror.service, item.place);
        let share = (self.share(&mirror.share, 100.0, "share") * f64::from(WHOLE)).round() as u32;
        let body_bytes_max = self.size(&mirror.body_bytes_max, 64 * KIB, 0, 16 * MIB, "body_bytes_max") as usize;
        let in_flight_max = self.number(&mirror.in_flight_max, 4, 1, 10_000, "in_flight_max");
        let timeout = self.time(&mirror.timeout, 5 * SECOND, MS, HOUR, "timeout");
        let subset = given(&mirror.subset).map(|subset| subset.as_str().into());
        Some(plan::Mirror { service: service?, subset, share, body_bytes_max, in_flight_max, timeout })
    }
}

/// What to write in the place of an edit of a field that the gateway keeps to itself.
fn instead(name: &str, of_request: bool) -> String {
    let known = Known::of(name.as_bytes());
    match known {
        Known::Host if of_request => {
            "the client's host is sent on, and `preserve_host: false` sends the name or address of the endpoint in its place; for another one write `host` of the service".into()
        }
        Known::XForwardedFor | Known::XForwardedHost | Known::XForwardedProto if of_request => {
            "the gateway writes it itself, and adds to what a client among `trusted_proxies` of the listener said; for the client alone set `x-real-ip: \"{client}\"`".into()
        }
        _ if known.is_proxys_word() => "it says something about a client: edit it under `headers.request`".into(),
        _ if Known::is_alias(name.as_bytes()) => {
            format!("many take `_` for `-`, so nobody may send it: edit `{}`, as far as that may be", name.replace('_', "-"))
        }
        _ => "the gateway frames messages and keeps connections by itself".into(),
    }
}
