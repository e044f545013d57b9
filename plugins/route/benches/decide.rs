//! Native cost of one decision: `cargo bench -p wharf-plugin-route`.
#![allow(clippy::print_stdout, clippy::expect_used, reason = "a bench prints its figures and may give up")]

use std::hint::black_box;
use wharf_plugin::Route as _;
use wharf_plugin::testing::{self, Ask};
use wharf_plugin_route::Table;

fn main() {
    let entries: Vec<String> = (0..1000)
        .map(|n| {
            format!(
                r#""svc{n}/v1": {{"service": "s{n}", "strip": 1, "gray": [{{"header": "x-gray", "values": ["1"], "subset": "gray"}}],
                "split": {{"by": [{{"attr": "consumer"}}], "parts": [{{"weight": 90, "subset": "a"}}, {{"weight": 10, "subset": "b"}}]}}}}"#
            )
        })
        .collect();
    let config = format!(r#"{{"table": {{{}}}, "default": {{"service": "rest"}}}}"#, entries.join(","));
    let table = testing::configure::<Table>(&config).expect("the configuration is good");
    for (name, ask) in [
        ("two segments of 1000, split, strip", Ask::get("/svc700/v1/items/7").attr("consumer", "ann")),
        ("the same, gray", Ask::get("/svc700/v1/items/7").header("x-gray", "1")),
        ("default", Ask::get("/other/place")),
    ] {
        let request = ask.request(&table.needs);
        println!("route, {name}: {:.0} ns", testing::ns_per_call(|| table.plugin.pick(black_box(&request))));
    }
}
