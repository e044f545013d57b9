//! Checks services.

use super::route_steps::Usual;
use super::*;
use wharf_http::client::Speaks;
use wharf_http::tls::client::{Authorities, Client, Demand};
use wharf_upstream::Policy;
use wharf_upstream::retry::Causes;

impl Checker<'_> {
    pub(super) fn services(&mut self, file: &File, usual: &Usual) -> Vec<plan::Service> {
        let mut services = Vec::new();
        for (key, item) in entries(&file.services) {
            let Some(name) = self.name_of(key, "service") else { continue };
            let Some(service) = item.get() else { continue };
            let waits = group(&service.timeouts);
            let retries = group(&service.retries);
            let common = CallLimits::default();
            let limits = CallLimits {
                connect: self.time(of(waits, |w| &w.connect), common.connect, MS, HOUR, "connect"),
                head: self.time(of(waits, |w| &w.head), common.head, MS, HOUR, "head"),
                body: self.time(of(waits, |w| &w.body), common.body, MS, HOUR, "body"),
                idle: self.time(of(waits, |w| &w.idle), common.idle, MS, DAY, "idle"),
                lifetime: self.lifetime(of(waits, |w| &w.lifetime), common.lifetime),
                connections_max: self.number(&service.connections_max, common.connections_max, 1, 1_000_000, "connections_max"),
                host: self.service_host(service),
                host_always: service.host.is_some(),
                ..common
            };
            // By what they are: a default that is written down is one.
            let waits_are_defaults = (limits.head, limits.body) == (CallLimits::default().head, CallLimits::default().body);
            let limits = CallLimits { waits_are_defaults, ..limits };
            let policy = match &service.balance {
                None => Policy::RoundRobin,
                // A word that is not understood: with this one all that may stand beside it has a meaning.
                Some(item) => item.get().copied().map_or(Policy::Maglev, balance),
            };
            services.push(plan::Service {
                source: self.source(&name, key.place, service),
                connections_warm: self.connections_warm(service, limits.connections_max),
                rates: self.limits_of_service(service, &name, usual),
                speaks: self.speaks(service),
                tls: service.tls.as_ref().and_then(|tls| self.service_tls(tls, service)),
                retries_max: self.number(of(retries, |r| &r.max), 1, 0, 10, "max"),
                retry_share_max: self.share(of(retries, |r| &r.budget), 20.0, "budget"),
                retry_causes: causes(of(retries, |r| &r.on)),
                retry_statuses: self.retry_statuses(of(retries, |r| &r.statuses)),
                per_try: self.maybe_time(of(retries, |r| &r.per_try), MS, HOUR, "per_try"),
                backoff: self.backoff(retries),
                hedge_after: self.hedge_after(service, limits.head),
                subset_fallback: given(&service.subset_fallback).copied().unwrap_or(true),
                key: self.key(service, policy),
                maglev_slots: self.maglev_slots(service, policy),
                weighing: self.weighing(service, policy),
                sticky: self.sticky(&service.sticky),
                slow_start: self.time(&service.slow_start, Duration::ZERO, Duration::ZERO, HOUR, "slow_start"),
                zone_enough: self.percent(&service.zone_enough, 70.0, 1.0, 100.0, "zone_enough"),
                panic_below: self.percent(&service.panic_below, 25.0, 0.0, 100.0, "panic_below"),
                health: self.health(service),
                ejection: self.ejection(&service.ejection),
                breaker: self.breaker(&service.breaker),
                in_flight_max: self.maybe_number(&service.in_flight_max, 1, 10_000_000, "in_flight_max"),
                limiter: self.limiter(&service.adaptive_concurrency),
                balance: policy,
                limits,
                name,
            });
        }
        services
    }

    /// What its endpoints are called by, if not by their addresses.
    fn service_host(&mut self, service: &file::Service) -> Option<Arc<str>> {
        if let Some(item) = &service.host {
            return self.value(item, values::authority).map(Into::into);
        }
        let (host, port) = values::host_and_port(group(&service.dns)?.0.name.get()?).ok()?;
        let usual = if service.tls.is_some() { 443 } else { 80 };
        Some(if port == usual { host.into() } else { format!("{host}:{port}").into() })
    }

    fn lifetime(&mut self, item: &Opt<Time>, usual: Duration) -> Duration {
        let lifetime = self.time(item, usual, Duration::ZERO, 30 * DAY, "lifetime");
        if lifetime.is_zero() {
            return Duration::MAX;
        }
        if let Some(item) = item
            && lifetime < SECOND
        {
            self.say(item.place, format!("`lifetime` is {}, and connections are looked at once a second", Time(lifetime)), "1s, or longer");
        }
        lifetime
    }

    fn connections_warm(&mut self, service: &file::Service, max: u32) -> u32 {
        let warm = self.number(&service.connections_warm, 0, 0, 10_000, "connections_warm");
        if let Some(item) = &service.connections_warm
            && warm > max / 2
        {
            let message = format!("`connections_warm` is {warm}, more than half of `connections_max`, {max}");
            self.say(item.place, message, "the other half is for the cores that need more; make `connections_max` larger");
        }
        warm
    }

    fn source(&mut self, name: &str, place: Place, service: &file::Service) -> plan::Source {
        match (&service.endpoints, &service.dns) {
            (Some(_), Some(dns)) => {
                self.say(dns.place, format!("service `{name}` has both `endpoints` and `dns`"), "remove one of the two");
            }
            (None, None) => self.say(
                place,
                format!("service `{name}` has neither `endpoints` nor `dns`"),
                "add `endpoints: [10.0.0.7:8080]` or `dns: orders.internal:8080`",
            ),
            (None, Some(dns)) => {
                let Some(OrShort(dns_set)) = dns.get() else { return plan::Source::Fixed(Vec::new()) };
                let refresh = self.time(&dns_set.refresh, 30 * SECOND, SECOND, DAY, "refresh");
                if let Some((host, port)) = self.value_at(&dns_set.name, dns.place, values::host_and_port) {
                    if host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok() {
                        self.say(dns.place, format!("`{host}` is an address, not a name"), format!("use `endpoints: [{host}:{port}]`"));
                    }
                    return plan::Source::Dns { name: host, port, refresh };
                }
            }
            (Some(endpoints), None) => {
                if endpoints.get().is_some_and(Vec::is_empty) {
                    self.say(endpoints.place, format!("service `{name}` has no endpoints"), "add one, or remove the service");
                }
                return plan::Source::Fixed(self.endpoints(name, list(&service.endpoints)));
            }
        }
        plan::Source::Fixed(Vec::new())
    }

    fn endpoints(&mut self, service: &str, items: &[Item<OrShort<file::Endpoint>>]) -> Vec<plan::Endpoint> {
        let mut endpoints: Vec<plan::Endpoint> = Vec::new();
        for item in items {
            let Some(OrShort(endpoint)) = item.get() else { continue };
            let weight = self.number_u64(&endpoint.weight, 1, 0, 1_000_000, "weight") as u32;
            let zone = given(&endpoint.zone).map(|zone| zone.as_str().into());
            let tags = list(&endpoint.tags).iter().filter_map(Item::get).map(|tag| tag.as_str().into()).collect();
            let Some(address) = self.value_at(&endpoint.address, item.place, values::endpoint) else { continue };
            if endpoints.iter().any(|have| have.address == address) {
                let place = at(endpoint.address.place, item.place);
                self.say(
                    place,
                    format!("service `{service}` has endpoint {address} twice"),
                    "remove one; give it more `weight` for more calls",
                );
                continue;
            }
            endpoints.push(plan::Endpoint { address, weight, zone, tags });
        }
        if !endpoints.is_empty() && endpoints.iter().all(|endpoint| endpoint.weight == 0) {
            let place = items.first().map(|item| item.place).unwrap_or_default();
            self.say(
                place,
                format!("all endpoints of service `{service}` have weight 0, so none takes calls"),
                "give one a weight of 1 or more",
            );
        }
        endpoints
    }

    fn speaks(&mut self, service: &file::Service) -> Speaks {
        match (given(&service.protocol), &service.protocol, service.tls.is_some()) {
            (None, _, false) | (Some(file::Speaks::Http1), ..) => Speaks::Http1,
            (Some(file::Speaks::Http2), ..) => Speaks::Http2,
            (None, _, true) | (Some(file::Speaks::Auto), _, true) => Speaks::Either,
            (Some(file::Speaks::Auto), item, false) => {
                let place = item.as_ref().map(|item| item.place).unwrap_or_default();
                self.say(place, "`protocol: auto` needs `tls`: in the clear nothing says what an endpoint speaks", "`http1` or `http2`");
                Speaks::Http1
            }
        }
    }

    fn service_tls(&mut self, item: &Item<file::ServiceTls>, service: &file::Service) -> Option<plan::ServiceTls> {
        let tls = item.get()?;
        let authorities = match &tls.ca {
            Some(ca) => Authorities::Given(self.contents(ca)?),
            None => Authorities::Machine,
        };
        let shown = match (&tls.chain, &tls.key) {
            (None, None) => None,
            (Some(chain), Some(key)) => Some((self.contents(chain)?, self.contents(key)?)),
            (Some(one), None) | (None, Some(one)) => {
                self.say(one.place, "a certificate to show needs both `chain` and `key`", "add the other one");
                return None;
            }
        };
        let of_dns = || Some(values::host_and_port(group(&service.dns)?.0.name.get()?).ok()?.0);
        let name = given(&tls.server_name).map(|name| name.as_str().into()).or_else(of_dns);
        let speaks = given(&service.protocol);
        let (http1, http2) = (!matches!(speaks, Some(file::Speaks::Http2)), !matches!(speaks, Some(file::Speaks::Http1)));
        let demand = Demand { authorities, name, shown, http2, http1 };
        match Client::new(&demand) {
            Ok(client) => Some(plan::ServiceTls { demand, client: Arc::new(client) }),
            Err(bad) => {
                let (message, hint) = bad.told();
                self.say(item.place, message, hint);
                None
            }
        }
    }
}

fn balance(balance: file::Balance) -> Policy {
    match balance {
        file::Balance::RoundRobin => Policy::RoundRobin,
        file::Balance::Weighted => Policy::WeightedRoundRobin,
        file::Balance::Random => Policy::Random,
        file::Balance::LeastRequest => Policy::LeastRequest,
        file::Balance::P2cEwma => Policy::P2cEwma,
        file::Balance::RingHash => Policy::RingHash,
        file::Balance::Maglev => Policy::Maglev,
    }
}

/// All causes, or those that are listed.
fn causes(on: &Opt<Vec<Item<file::RetryCause>>>) -> Causes {
    if on.is_none() {
        return Causes::default();
    }
    let has = |wanted| list(on).iter().any(|item| item.get() == Some(&wanted));
    Causes { connect: has(file::RetryCause::Connect), reset: has(file::RetryCause::Reset), timeout: has(file::RetryCause::Timeout) }
}
