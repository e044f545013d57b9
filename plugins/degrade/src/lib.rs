//! Plugin `degrade` (role degrade): what the client gets when there is no answer.
//!
//! The decisions are in `decide.rs`; this file hands them to the gateway.

mod decide;

pub use decide::Rules;

use wharf_plugin::host::clock;
use wharf_plugin::prelude::*;

impl Plugin for Rules {
    const SCHEMA: &'static str = include_str!("../schema.json");

    fn configure(config: &str) -> Result<Rules, String> {
        Rules::new(wharf_plugin::config(config)?)
    }

    fn needs(&self) -> Needs {
        self.needs.clone()
    }
}

impl Degrade for Rules {
    fn on_fault(&self, request: &Request, fault: &Fault) -> Instead {
        self.instead(request, fault, clock::now_ms)
    }
}

wharf_plugin::export!(Rules: degrade);

#[cfg(test)]
mod tests;
