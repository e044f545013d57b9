//! Native cost of one decision: `cargo bench -p wharf-plugin-headers`.
#![allow(clippy::print_stdout, clippy::expect_used, reason = "a bench prints its figures and may give up")]

use std::hint::black_box;
use wharf_plugin::Filter as _;
use wharf_plugin::testing::{self, Ask};
use wharf_plugin_headers::Headers;

fn main() {
    let ask = Ask::get("/api/x").attr("consumer", "ann").header("x-tier", "gold");
    for (name, config) in [
        ("consumer header", r#"{"consumer_header": "x-consumer"}"#),
        (
            "three rules, four changes",
            r#"{"consumer_header": "x-consumer", "rules": [
                {"on": "request", "when": {"path_prefix": "/api", "methods": ["GET"]}, "remove": ["cookie"], "set": {"x-a": "1"}},
                {"on": "request", "when": {"headers": [{"name": "x-tier", "equals": "gold"}]}, "set": {"x-t": "t=${header:x-tier}"}}]}"#,
        ),
    ] {
        let headers = testing::configure::<Headers>(config).expect("the configuration is good");
        let request = ask.request(&headers.needs);
        println!("headers, {name}: {:.0} ns", testing::ns_per_call(|| headers.plugin.on_request(black_box(&request))));
    }
}
