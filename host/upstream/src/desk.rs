//! The desk: what an operator may see and do here. JSON is written by hand, because this room needs no more of it.

use crate::service::{Service, Services, age};
use bytes::Bytes;
use std::fmt::Write as _;
use std::sync::atomic::Ordering::Relaxed;
use wharf_core::BoxFuture;
use wharf_core::desk::{Ask, Desk, DeskError, DeskErrorKind, Input, Operation, Role, Verb};

const LIST: &str = "upstream.list";
const REFRESH: &str = "upstream.refresh";

const LIST_OUTPUT: &str = r#"{"type":"object","required":["services"],"properties":{"services":{"type":"array","items":{
"type":"object","required":["name","listing_age_seconds","endpoints"],"properties":{
"name":{"type":"string"},"listing_version":{"type":"integer"},"listing_age_seconds":{"type":"number"},
"trouble":{"type":["string","null"]},"endpoints":{"type":"array","items":{"type":"object","properties":{
"address":{"type":"string"},"weight":{"type":"integer"},"zone":{"type":["string","null"]},
"tags":{"type":"array","items":{"type":"string"}},"in_flight":{"type":"integer"},"connections":{"type":"integer"}}}}}}}}}"#;
const REFRESH_OUTPUT: &str = r#"{"type":"object","properties":{"asked":{"type":"string"}}}"#;

impl Desk for Services {
    fn operations(&self) -> Vec<Operation> {
        vec![
            Operation {
                name: LIST,
                verb: Verb::Get,
                path: "/services",
                summary: "Lists services and their endpoints: weight, calls in flight, connections, age of the listing, trouble.",
                role: Role::Viewer,
                query: &[],
                input: Input::None,
                output: LIST_OUTPUT,
                changes: false,
            },
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
                LIST => Ok(list(&self.all())),
                REFRESH => {
                    let name = ask.arg("name").unwrap_or_default();
                    let Some(service) = self.get(name) else {
                        return Err(DeskError::new(DeskErrorKind::NotFound, format!("there is no service {name:?}"))
                            .hint("upstream.list names the services of the active configuration"));
                    };
                    service.refresh();
                    Ok(format!("{{\"asked\":{}}}", text(name)).into())
                }
                other => Err(DeskError::new(DeskErrorKind::NotFound, format!("this desk has no operation {other:?}"))),
            }
        })
    }
}

fn list(services: &[std::sync::Arc<Service>]) -> Bytes {
    let services: Vec<String> = services.iter().map(|service| one(service)).collect();
    format!("{{\"services\":[{}]}}", services.join(",")).into()
}

fn one(service: &Service) -> String {
    let listing = service.listing();
    let endpoints: Vec<String> = service
        .endpoints()
        .endpoints
        .iter()
        .map(|endpoint| {
            let tags: Vec<String> = endpoint.tags.iter().map(|tag| text(tag)).collect();
            format!(
                "{{\"address\":\"{}\",\"weight\":{},\"zone\":{},\"tags\":[{}],\"in_flight\":{},\"connections\":{}}}",
                endpoint.address,
                endpoint.weight,
                maybe(endpoint.zone.as_deref()),
                tags.join(","),
                endpoint.in_flight.load(Relaxed),
                endpoint.connections.load(Relaxed),
            )
        })
        .collect();
    format!(
        "{{\"name\":{},\"listing_version\":{},\"listing_age_seconds\":{:.1},\"trouble\":{},\"endpoints\":[{}]}}",
        text(service.name()),
        listing.version,
        age(&listing).as_secs_f64(),
        maybe(listing.trouble.as_deref()),
        endpoints.join(","),
    )
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
