//! The desk: what an operator may see and do here. JSON is written by hand, because this room needs no more of it.

use crate::balance::latency::Weighing;
use crate::care::{Kept, now};
use crate::service::{Guards, Service, Services, age, locked};
use crate::share::{Condition, Share};
use bytes::Bytes;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use wharf_core::BoxFuture;
use wharf_core::desk::{Ask, Desk, DeskError, DeskErrorKind, Input, Operation, Role, Verb};

const LIST: &str = "upstream.list";
const REFRESH: &str = "upstream.refresh";

const DRAIN: &str = "upstream.drain";
const UNDRAIN: &str = "upstream.undrain";

const LIST_OUTPUT: &str = r#"{"type":"object","required":["services"],"properties":{"services":{"type":"array","items":{
"type":"object","required":["name","listing_age_seconds","endpoints"],"properties":{
"name":{"type":"string"},"listing_version":{"type":"integer"},"listing_age_seconds":{"type":"number"},
"trouble":{"type":["string","null"]},
"check":{"type":["string","null"],"description":"what endpoints are asked"},
"breaker":{"type":["string","null"],"enum":["closed","half_open","open",null]},
"concurrency_limit":{"type":["integer","null"],"description":"what its adaptive limit is now"},
"endpoints":{"type":"array","items":{"type":"object","properties":{
"address":{"type":"string"},"weight":{"type":"integer"},"zone":{"type":["string","null"]},
"tags":{"type":"array","items":{"type":"string"}},
"share_percent":{"type":"number","description":"of the calls that no key, tag or cookie leads elsewhere"},
"state":{"type":"string","enum":["used","reserve","ill","unknown","ejected","drained","off"]},
"back_in_seconds":{"type":["number","null"],"description":"while it is ejected"},
"check_trouble":{"type":["string","null"],"description":"what was wrong with its last check"},
"latency_ms":{"type":["number","null"],"description":"what a call is expected to take, where latencies are compared"},
"in_flight":{"type":"integer"},"connections":{"type":"integer"}}}}}}}}}"#;
const REFRESH_OUTPUT: &str = r#"{"type":"object","properties":{"asked":{"type":"string"}}}"#;
const DRAIN_OUTPUT: &str = r#"{"type":"object","properties":{"service":{"type":"string"},"endpoint":{"type":"string"},
"drained":{"type":"boolean"},"in_flight":{"type":"integer","description":"calls that are still there"}}}"#;

impl Desk for Services {
    fn operations(&self) -> Vec<Operation> {
        vec![
            Operation {
                name: LIST,
                verb: Verb::Get,
                path: "/services",
                summary: "Lists services and their endpoints: share, health, ejection, latency, calls in flight, connections, breaker, listing.",
                role: Role::Viewer,
                query: &[],
                input: Input::None,
                output: LIST_OUTPUT,
                changes: false,
            },
            change(
                DRAIN,
                "/services/{name}/endpoints/{address}/drain",
                "Takes an endpoint out: it gets no new calls, until it is taken back in or the gateway starts anew.",
            ),
            change(UNDRAIN, "/services/{name}/endpoints/{address}/undrain", "Takes an endpoint back in, ejected or not."),
            Operation {
                name: REFRESH,
                verb: Verb::Post,
                path: "/services/{name}/refresh",
                summary: "Asks the directory of a service for its endpoints now.",
                role: Role::Operator,
                query: &[],
                input: Input::None,
                output: REFRESH_OUTPUT,
                changes: true,
            },
        ]
    }

    fn serve<'a>(&'a self, operation: &'a str, ask: Ask) -> BoxFuture<'a, Result<Bytes, DeskError>> {
        Box::pin(async move {
            match operation {
                LIST => Ok(list(self)),
                DRAIN => self.drain(&ask, true),
                UNDRAIN => self.drain(&ask, false),
                REFRESH => {
                    let service = self.named(&ask)?;
                    service.refresh();
                    Ok(format!("{{\"asked\":{}}}", text(service.name())).into())
                }
                other => Err(DeskError::new(DeskErrorKind::NotFound, format!("this desk has no operation {other:?}"))),
            }
        })
    }
}

fn change(name: &'static str, path: &'static str, summary: &'static str) -> Operation {
    Operation {
        name,
        verb: Verb::Post,
        path,
        summary,
        role: Role::Operator,
        query: &[],
        input: Input::None,
        output: DRAIN_OUTPUT,
        changes: true,
    }
}

impl Services {
    fn named(&self, ask: &Ask) -> Result<Arc<Service>, DeskError> {
        let name = ask.arg("name").unwrap_or_default();
        self.get(name).ok_or_else(|| {
            DeskError::new(DeskErrorKind::NotFound, format!("there is no service {name:?}"))
                .hint("upstream.list names the services of the active configuration")
        })
    }

    fn drain(&self, ask: &Ask, drained: bool) -> Result<Bytes, DeskError> {
        let service = self.named(ask)?;
        let (name, given) = (service.name(), ask.arg("address").unwrap_or_default());
        let missing = || {
            DeskError::new(DeskErrorKind::NotFound, format!("service {name:?} has no endpoint {given:?}"))
                .hint("upstream.list shows its endpoints by address and port")
        };
        let address: SocketAddr = given.parse().map_err(|_| missing())?;
        if !service.drain(address, drained) {
            return Err(missing());
        }
        let set = service.endpoints();
        let in_flight = set.endpoints.iter().find(|one| one.address == address).map_or(0, |one| one.in_flight.load(Relaxed));
        let (service, endpoint) = (text(name), text(given));
        Ok(format!("{{\"service\":{service},\"endpoint\":{endpoint},\"drained\":{drained},\"in_flight\":{in_flight}}}").into())
    }
}

fn list(services: &Services) -> Bytes {
    let all: Vec<String> = services.all().iter().map(|service| one(services, service)).collect();
    format!("{{\"services\":[{}]}}", all.join(",")).into()
}

fn one(services: &Services, service: &Service) -> String {
    let (listing, set, care, now) = (service.listing(), service.endpoints(), service.care(), now());
    let total: f64 = set.shares.iter().map(|share| f64::from(share.weight)).sum::<f64>().max(1.0);
    let keeping = locked(&service.keeping);
    let endpoints: Vec<String> = set
        .endpoints
        .iter()
        .zip(&set.shares)
        .map(|(endpoint, share)| {
            let kept = keeping.get(&endpoint.address);
            let tags: Vec<String> = endpoint.tags.iter().map(|tag| text(tag)).collect();
            let back = kept.and_then(|kept| kept.ejection.until()).map(|until| until.saturating_duration_since(now).as_secs_f64());
            let latency = kept.filter(|_| care.policy.compares_latency()).and_then(|kept| kept.standing.latency(&Weighing::default(), now));
            format!(
                "{{\"address\":\"{}\",\"weight\":{},\"zone\":{},\"tags\":[{}],\"share_percent\":{:.1},\"state\":\"{}\",\"back_in_seconds\":{},\"check_trouble\":{},\"latency_ms\":{},\"in_flight\":{},\"connections\":{}}}",
                endpoint.address,
                endpoint.weight,
                maybe(endpoint.zone.as_deref()),
                tags.join(","),
                100.0 * f64::from(share.weight) / total,
                kept.map_or("unknown", |kept| state(kept, endpoint.weight, *share)),
                number(back, 1),
                maybe(kept.and_then(|kept| kept.record.trouble())),
                number(latency.map(|latency| latency.as_secs_f64() * 1e3), 3),
                endpoint.in_flight.load(Relaxed),
                endpoint.connections.load(Relaxed),
            )
        })
        .collect();
    format!(
        "{{\"name\":{},\"listing_version\":{},\"listing_age_seconds\":{:.1},\"trouble\":{},\"check\":{},\"breaker\":{},\"concurrency_limit\":{},\"endpoints\":[{}]}}",
        text(service.name()),
        listing.version,
        age(&listing).as_secs_f64(),
        maybe(listing.trouble.as_deref()),
        maybe(care.health.as_ref().map(|health| health.probe.what())),
        maybe(services.breaker_of(Guards::Service, service.name()).map(|breaker| breaker.state().as_str())),
        services.limiter_of(service.name()).map_or("null".to_owned(), |limiter| limiter.limit().to_string()),
        endpoints.join(","),
    )
}

/// What has become of an endpoint, in one word: why it gets no calls, where it gets none.
fn state(kept: &Kept, weight: u32, share: Share) -> &'static str {
    match kept.record.condition() {
        _ if kept.drained => "drained",
        _ if weight == 0 => "off",
        _ if kept.ejection.is_out() => "ejected",
        Condition::Ill => "ill",
        Condition::Unknown => "unknown",
        Condition::Unasked | Condition::Well if share.weight == 0 => "reserve",
        Condition::Unasked | Condition::Well => "used",
    }
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "null".to_owned(), |value| format!("{value:.digits$}"))
}

fn maybe(value: Option<&str>) -> String {
    value.map_or_else(|| "null".to_owned(), text)
}

/// A JSON string.
fn text(value: &str) -> String {
    let mut out = String::with_capacity(value.len() + 2);
    out.push('"');
    for letter in value.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            control if u32::from(control) < 0x20 => {
                let _ = write!(out, "\\u{:04x}", u32::from(control));
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_from_outside_stay_strings() {
        assert_eq!(text("a\"b\\c\n\u{1}é"), "\"a\\\"b\\\\c\\u000a\\u0001é\"");
        assert_eq!(maybe(None), "null");
    }
}
