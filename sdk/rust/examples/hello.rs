//! The whole of a plugin. `cargo build --profile plugin --target wasm32-wasip2 -p wharf-plugin --example hello` makes a
//! component of it.

use wharf_plugin::prelude::*;

#[derive(Default)]
struct Hello;

impl Filter for Hello {
    fn on_request(&self, _request: &Request) -> Decision {
        Decision::next().set("x-hello", "world")
    }
}

wharf_plugin::export_filter!(Hello);
