//! Checks what services say about health, failures and load: stickiness, checks, ejection, breakers, limits, second tries.

use super::*;
use wharf_upstream::balance::hash::{MAGLEV_SLOTS, is_prime};
use wharf_upstream::balance::latency::Weighing;
use wharf_upstream::retry::{Backoff, Statuses};
use wharf_upstream::{BreakerPolicy, EjectionPolicy, Key, LimiterPolicy, Policy, Sticky};

/// Slots of a Maglev table.
const SLOTS: std::ops::RangeInclusive<u32> = 251..=1_000_003;
/// Longest text that is looked for in the answer to a check.
const CHECK_TEXT_MAX: usize = 1024;

impl Checker<'_> {
    // === who is chosen ===

    pub(super) fn key(&mut self, service: &file::Service, policy: Policy) -> Key {
        let Some(item) = &service.hash else { return Key::Client };
        if !policy.is_keyed() {
            let hint = "write `balance: ring_hash` or `balance: maglev`, or remove `hash`";
            self.say(item.place, "`hash` has no meaning where the balance is not by a key", hint);
        }
        let Some(NotShort(key)) = item.get() else { return Key::Client };
        match key {
            file::HashKey::Client => Some(Key::Client),
            file::HashKey::Path => Some(Key::Path),
            file::HashKey::Header(name) => self.value_at(name, item.place, values::field_name).map(Key::Header),
            file::HashKey::Cookie(name) => self.value_at(name, item.place, values::cookie_name).map(Key::Cookie),
            file::HashKey::Query(name) => self.value_at(name, item.place, values::query_name).map(Key::Query),
        }
        .unwrap_or_default()
    }

    pub(super) fn maglev_slots(&mut self, service: &file::Service, policy: Policy) -> u32 {
        let slots = self.number(&service.maglev_slots, MAGLEV_SLOTS, *SLOTS.start(), *SLOTS.end(), "maglev_slots");
        let Some(item) = &service.maglev_slots else { return slots };
        if policy != Policy::Maglev {
            self.say(item.place, "`maglev_slots` has no meaning without `balance: maglev`", "remove `maglev_slots`");
        }
        if is_prime(slots) {
            return slots;
        }
        let next = (slots..=*SLOTS.end()).find(|number| is_prime(*number)).unwrap_or(MAGLEV_SLOTS);
        self.say(item.place, format!("`maglev_slots` is {slots}, which is no prime"), format!("the next prime is {next}"));
        MAGLEV_SLOTS
    }

    pub(super) fn weighing(&mut self, service: &file::Service, policy: Policy) -> Weighing {
        let latency = group(&service.latency);
        if let Some(item) = &service.latency
            && !policy.compares_latency()
        {
            let hint = "write `balance: p2c_ewma`, or remove `latency`";
            self.say(item.place, "`latency` has no meaning where the balance does not compare latencies", hint);
        }
        let usual = Weighing::default();
        Weighing {
            decay: self.time(of(latency, |l| &l.decay), usual.decay, 100 * MS, HOUR, "decay"),
            failure_penalty: self.time(of(latency, |l| &l.failure_penalty), usual.failure_penalty, MS, HOUR, "failure_penalty"),
        }
    }

    pub(super) fn sticky(&mut self, sticky: &Opt<file::Sticky>) -> Option<Sticky> {
        let item = sticky.as_ref()?;
        let sticky = item.get()?;
        match (&sticky.cookie, &sticky.header) {
            (Some(cookie), None) => {
                let OrShort(set) = cookie.get()?;
                let ttl = self.maybe_time(&set.ttl, SECOND, 400 * DAY, "ttl");
                let name = self.value_at(&set.name, cookie.place, values::cookie_name)?;
                Some(Sticky::Cookie { name, ttl, secure: given(&set.secure).copied().unwrap_or(false) })
            }
            (None, Some(header)) => match wharf_core::edit::check_fields([(self.value(header, values::field_name)?.as_ref(), "x")]) {
                Ok(()) => self.value(header, values::field_name).map(Sticky::Header),
                Err(bad) => {
                    self.say(header.place, bad.to_string(), "choose a name of your own, `x-served-by`");
                    None
                }
            },
            (cookie, _) => {
                let which = if cookie.is_some() { "both `cookie` and `header`" } else { "neither `cookie` nor `header`" };
                self.say(item.place, format!("`sticky` has {which}"), "give one: `cookie: NAME` or `header: NAME`");
                None
            }
        }
    }

    // === who is well ===

    pub(super) fn health(&mut self, service: &file::Service) -> Option<plan::Health> {
        let item = service.health.as_ref()?;
        let health = item.get()?;
        let tls = match &health.tls {
            None => service.tls.is_some(),
            Some(item) => {
                let by_tls = item.get() == Some(&true);
                if by_tls && service.tls.is_none() {
                    self.say(item.place, "checks by `tls` need the service's `tls`", "add `tls` to the service, or remove it here");
                } else if health.http.is_none() && health.grpc.is_none() {
                    self.say(item.place, "`tls` has no meaning for a check by `tcp`", "remove `tls`");
                }
                by_tls
            }
        };
        if let Some(item) = &health.grpc
            && tls
            && matches!(given(&service.protocol), Some(file::Speaks::Http1))
        {
            let message = "a check by `grpc` speaks HTTP/2, and the endpoints of this service are offered HTTP/1.1 only";
            self.say(item.place, message, "write `protocol: http2` or `auto`, or check by `http`");
        }
        let tcp = given(&health.tcp) == Some(&true);
        let checks = [health.http.is_some(), tcp, health.grpc.is_some()].into_iter().filter(|given| *given).count();
        if checks != 1 {
            let which = if checks == 0 { "nothing to ask" } else { "more than one thing to ask" };
            self.say(item.place, format!("`health` has {which}"), "give one: `http: /healthz`, `tcp: true` or `grpc: SERVICE`");
        }
        let interval = self.time(&health.interval, 5 * SECOND, 100 * MS, HOUR, "interval");
        let timeout = self.time(&health.timeout, interval.min(SECOND), MS, HOUR, "timeout");
        if timeout > interval
            && let Some(item) = &health.timeout
        {
            let message = format!("the `timeout` of a check is {}, and its `interval` is {}", Time(timeout), Time(interval));
            self.say(item.place, message, "the next check begins when the interval is over: make `timeout` shorter");
        }
        let check = match &health.http {
            Some(http) => self.http_check(http)?,
            None => given(&health.grpc).map_or(plan::Check::Tcp, |service| plan::Check::Grpc(service.as_str().into())),
        };
        let (healthy, unhealthy) =
            (self.number(&health.healthy, 2, 1, 100, "healthy"), self.number(&health.unhealthy, 3, 1, 100, "unhealthy"));
        (checks == 1).then_some(plan::Health { check, tls, interval, timeout, healthy, unhealthy })
    }

    fn http_check(&mut self, item: &Item<OrShort<file::HttpCheck>>) -> Option<plan::Check> {
        let OrShort(http) = item.get()?;
        let mut statuses = Vec::new();
        for item in list(&http.statuses) {
            let Some(given_status) = item.get() else { continue };
            match given_status.within(100, 599) {
                Some(status) => statuses.push(status as u16),
                None => self.say(item.place, format!("{given_status} is no status"), "a number from 100 to 599"),
            }
        }
        if let Some(body) = &http.body
            && body.get().is_some_and(|text| text.is_empty() || text.len() > CHECK_TEXT_MAX)
        {
            self.say(
                body.place,
                "this text cannot be looked for in an answer",
                format!("give 1 to {CHECK_TEXT_MAX} bytes, or remove `body`"),
            );
        }
        let host = http.host.as_ref().and_then(|host| self.value(host, field_value)).map(String::into_boxed_str);
        let path = self.value_at(&http.path, item.place, values::check_path)?;
        Some(plan::Check::Http { path, host, statuses, body: given(&http.body).map(|body| body.as_str().into()) })
    }

    pub(super) fn ejection(&mut self, item: &Opt<file::Ejection>) -> EjectionPolicy {
        let (ejection, usual) = (group(item), EjectionPolicy::default());
        let rate = of(ejection, |e| &e.rate);
        for (setting, place) in [
            ("calls_min", of(ejection, |e| &e.calls_min).as_ref().map(|item| item.place)),
            ("window", of(ejection, |e| &e.window).as_ref().map(|item| item.place)),
        ] {
            if let Some(place) = place
                && rate.is_none()
            {
                self.say(place, format!("`{setting}` has no meaning without `rate`"), format!("add `rate: 50%`, or remove `{setting}`"));
            }
        }
        let base = self.time(of(ejection, |e| &e.base), usual.base, 100 * MS, DAY, "base");
        let max = self.time(of(ejection, |e| &e.max), usual.max.max(base), 100 * MS, DAY, "max");
        if max < base
            && let Some(item) = of(ejection, |e| &e.max)
        {
            let message = format!("`max` is {}, and the first time already lasts {} (`base`)", Time(max), Time(base));
            self.say(item.place, message, "make `max` longer, or `base` shorter");
        }
        EjectionPolicy {
            failures: self.number(of(ejection, |e| &e.failures), usual.failures, 0, 1_000_000, "failures"),
            rate: rate.is_some().then(|| self.percent(rate, 50.0, 1.0, 100.0, "rate")),
            rate_calls_min: self.number(of(ejection, |e| &e.calls_min), usual.rate_calls_min, 1, 1_000_000, "calls_min"),
            window: self.time(of(ejection, |e| &e.window), usual.window, SECOND, 60 * SECOND, "window"),
            base,
            max,
            share_max: self.percent(of(ejection, |e| &e.share_max), usual.share_max * 100.0, 0.0, 100.0, "share_max"),
        }
    }

    // === how much ===

    /// A route's breaker.
    pub(super) fn breaker_of_route(&mut self, route: &file::Route) -> Option<BreakerPolicy> {
        if let Some(item) = &route.breaker
            && route.to.get().is_some_and(|OrShort(to)| to.answer.is_some())
        {
            self.say(item.place, "`breaker` has no meaning where nobody is called", "remove `breaker`");
        }
        self.breaker(&route.breaker)
    }

    pub(super) fn breaker(&mut self, item: &Opt<file::Breaker>) -> Option<BreakerPolicy> {
        let breaker = Some(item.as_ref()?.get()?);
        let usual = BreakerPolicy::default();
        let slow = of(breaker, |b| &b.slow);
        if let Some(item) = of(breaker, |b| &b.slow_after)
            && slow.is_none()
        {
            self.say(item.place, "`slow_after` has no meaning without `slow`", "add `slow: 80%`, or remove `slow_after`");
        }
        Some(BreakerPolicy {
            errors: Some(self.percent(of(breaker, |b| &b.errors), 50.0, 1.0, 100.0, "errors")),
            slow: slow.is_some().then(|| self.percent(slow, 80.0, 1.0, 100.0, "slow")),
            slow_after: self.time(of(breaker, |b| &b.slow_after), usual.slow_after, MS, HOUR, "slow_after"),
            calls_min: self.number(of(breaker, |b| &b.calls_min), usual.calls_min, 1, 60_000, "calls_min"),
            window: self.time(of(breaker, |b| &b.window), usual.window, 100 * MS, HOUR, "window"),
            open: self.time(of(breaker, |b| &b.open), usual.open, 10 * MS, HOUR, "open"),
            trials: self.number(of(breaker, |b| &b.trials), usual.trials, 1, 10_000, "trials"),
            in_flight_max: self.maybe_number(of(breaker, |b| &b.in_flight_max), 1, 10_000_000, "in_flight_max"),
        })
    }

    pub(super) fn limiter(&mut self, item: &Opt<file::AdaptiveConcurrency>) -> Option<LimiterPolicy> {
        let limiter = Some(item.as_ref()?.get()?);
        let usual = LimiterPolicy::default();
        let min = self.number(of(limiter, |l| &l.min), usual.min, 1, 1_000_000, "min");
        let max = self.number(of(limiter, |l| &l.max), usual.max.max(min), 1, 1_000_000, "max");
        if max < min
            && let Some(item) = of(limiter, |l| &l.max)
        {
            self.say(item.place, format!("`max` is {max}, and `min` is {min}"), "make `max` larger, or `min` smaller");
        }
        Some(LimiterPolicy { min, max, tolerance: self.percent(of(limiter, |l| &l.tolerance), 150.0, 100.0, 1000.0, "tolerance") })
    }

    // === second tries ===

    pub(super) fn retry_statuses(&mut self, statuses: &Opt<Vec<Item<Whole>>>) -> Statuses {
        let mut all = Vec::new();
        for item in list(statuses) {
            let Some(given_status) = item.get() else { continue };
            match given_status.within(400, 599) {
                Some(status) => all.push(status as u16),
                None => self.say(item.place, format!("{given_status} is no status to try again for"), "a number from 400 to 599"),
            }
        }
        Statuses::of(all)
    }

    pub(super) fn backoff(&mut self, retries: Option<&file::Retries>) -> Option<Backoff> {
        let (base, max) = (of(retries, |r| &r.backoff), of(retries, |r| &r.backoff_max));
        if let (None, Some(item)) = (base, max) {
            self.say(item.place, "`backoff_max` has no meaning without `backoff`", "add `backoff: 25ms`, or remove `backoff_max`");
        }
        let base = self.maybe_time(base, MS, 60 * SECOND, "backoff")?;
        let longest = self.time(max, base * 10, MS, HOUR, "backoff_max");
        if let Some(item) = max
            && longest < base
        {
            let message = format!("`backoff_max` is {}, and the first wait is {} already", Time(longest), Time(base));
            self.say(item.place, message, "make it longer than `backoff`");
        }
        Some(Backoff { base, max: longest })
    }

    pub(super) fn hedge_after(&mut self, service: &file::Service, head: Duration) -> Option<Duration> {
        let after = self.maybe_time(&service.hedge_after, MS, HOUR, "hedge_after")?;
        if let Some(item) = &service.hedge_after
            && after >= head
        {
            let message = format!("`hedge_after` is {}, and a try ends after {} (`timeouts.head`)", Time(after), Time(head));
            self.say(item.place, message, "make it shorter: a little more than nearly all answers take");
        }
        Some(after)
    }

    // === values ===

    pub(super) fn maybe_time(&mut self, item: &Opt<Time>, least: Duration, most: Duration, what: &str) -> Option<Duration> {
        let given = *item.as_ref()?.get()?;
        if given.0 < least || given.0 > most {
            let place = item.as_ref().map(|item| item.place).unwrap_or_default();
            self.say(
                place,
                format!("`{what}` is {given}, and it may be from {} to {}", Time(least), Time(most)),
                "without it there is none",
            );
            return None;
        }
        Some(given.0)
    }

    pub(super) fn maybe_number(&mut self, item: &Opt<Whole>, least: u32, most: u32, what: &str) -> Option<u32> {
        let (place, given) = (item.as_ref()?.place, item.as_ref()?.get()?);
        let within = given.within(least.into(), most.into()).map(|number| number as u32);
        if within.is_none() {
            let message = format!("`{what}` is {given}, and it may be a whole number from {least} to {most}");
            self.say(place, message, "without it there is no such limit");
        }
        within
    }

    pub(super) fn percent(&mut self, item: &Opt<Percent>, usual: f64, least: f64, most: f64, what: &str) -> f64 {
        self.bounded(item, Percent(usual), Percent(least), Percent(most), what).0 / 100.0
    }
}
