//! Native cost of one decision: `cargo bench -p wharf-plugin-degrade`.
#![allow(clippy::print_stdout, clippy::expect_used, reason = "a bench prints its figures and may give up")]

use std::hint::black_box;
use wharf_plugin::testing::{self, Ask};
use wharf_plugin::{Degrade as _, Fault};
use wharf_plugin_degrade::Rules;

fn main() {
    for (name, config) in [
        ("envelope", r#"{"rules": [{"answer": {"envelope": {}}}]}"#),
        (
            "last good, otherwise fixed",
            r#"{"rules": [{"answer": {"last_good": {"max_age_s": 60, "otherwise": {"fixed": {"text": "later"}}}}}]}"#,
        ),
    ] {
        let rules = testing::configure::<Rules>(config).expect("the configuration is good");
        let request = Ask::get("/api/x").request(&rules.needs);
        println!("degrade, {name}: {:.0} ns", testing::ns_per_call(|| rules.plugin.on_fault(black_box(&request), &Fault::Timeout)));
    }
}
