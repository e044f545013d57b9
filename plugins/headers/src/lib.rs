//! Plugin `headers` (role filter): set, add and remove fields of requests and answers by rule.
//!
//! The decisions are in `decide.rs`; this file hands them to the gateway.

mod decide;

pub use decide::Headers;

use wharf_plugin::prelude::*;

impl Plugin for Headers {
    const SCHEMA: &'static str = include_str!("../schema.json");

    fn configure(config: &str) -> Result<Headers, String> {
        Headers::new(config, &wharf_plugin::config(config)?)
    }

    fn needs(&self) -> Needs {
        self.needs.clone()
    }
}

impl Filter for Headers {
    fn on_request(&self, request: &Request) -> Decision {
        self.request(request).into()
    }

    fn on_response(&self, response: &Response) -> Edits {
        self.response(response)
    }
}

wharf_plugin::export!(Headers: filter);

#[cfg(test)]
mod tests;
