//! Plugin `route` (role route): a table of one- and two-segment prefixes, gray releases, weighted splits.
//!
//! The decisions are in `decide.rs`; this file hands them to the gateway.

mod decide;

pub use decide::Table;

use wharf_plugin::host::random;
use wharf_plugin::prelude::*;

impl Plugin for Table {
    const SCHEMA: &'static str = include_str!("../schema.json");

    fn configure(config: &str) -> Result<Table, String> {
        Table::new(wharf_plugin::config(config)?)
    }

    fn needs(&self) -> Needs {
        self.needs.clone()
    }
}

impl Route for Table {
    fn pick(&self, request: &Request) -> Option<Target> {
        self.target(request, random::u64)
    }
}

wharf_plugin::export!(Table: route);

#[cfg(test)]
mod tests;
