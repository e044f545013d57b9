//! Plugin `auth` (role auth): JWT, signed tokens with `uid`, API keys.
//!
//! The order of methods and what each answer looks like is in `decide.rs`; `jwt.rs`, `token.rs` and `api_key.rs` hold one
//! method each, `memory.rs` the tokens that were verified lately, `config.rs` what people write.

mod api_key;
mod config;
mod decide;
mod jwt;
mod memory;
mod token;

pub use decide::Guard;

use wharf_plugin::prelude::*;

impl Plugin for Guard {
    const SCHEMA: &'static str = include_str!("../schema.json");

    fn configure(config: &str) -> Result<Guard, String> {
        Guard::new(wharf_plugin::config(config)?)
    }

    fn needs(&self) -> Needs {
        self.needs.clone()
    }
}

impl Auth for Guard {
    fn check(&self, request: &Request) -> Decision {
        self.decide(request)
    }
}

wharf_plugin::export!(Guard: auth);

#[cfg(test)]
mod tests;
