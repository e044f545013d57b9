//! The README's five things behave as printed: its commands are taken from its text and run against the demo.

use wharf_e2e::docs::{Demo, Step, root, steps};
use wharf_harness::Load;

#[test]
fn the_five_things_of_the_readme_behave_as_printed() {
    let page = std::fs::read_to_string(root().join("README.md")).unwrap();
    let steps = steps(&page).unwrap();
    assert_eq!(steps.len(), 5, "the README has five things to try, each in one block: {steps:#?}");
    for step in &steps {
        assert!(matches!(step, Step::Type { expected, .. } if !expected.is_empty()), "what it prints is not shown: {step:?}");
    }
    let tries = std::fs::read_to_string(root().join("dev/demo/try.txt")).unwrap();
    for command in tries.lines().filter_map(|line| line.strip_prefix("   ")).map(str::trim) {
        let is_run = steps.iter().any(|step| matches!(step, Step::Type { script, .. } if script.lines().any(|line| line == command)));
        assert!(is_run, "`make run` prints {command:?}, which no block of the README runs");
    }

    let demo = Demo::start().unwrap();
    let request = |_| b"GET /green/x HTTP/1.1\r\nHost: demo\r\nX-Api-Key: demo-key\r\n\r\n".to_vec();
    let load = Load::new(demo.wharf.listener("main"), request).connections(2).rate(100.0).start();
    demo.follow("README.md", &steps).unwrap();
    let report = load.stop();
    println!("readme: five things, {} requests beside them, {} failed", report.done, report.failed);
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    assert!(report.done > 0);
}

#[test]
fn a_refused_request_reaches_no_upstream() {
    let demo = Demo::start().unwrap();
    let heard = wharf_harness::exchange(
        demo.wharf.listener("main"),
        b"GET /blue/hello HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n",
        std::time::Duration::from_secs(10),
    )
    .unwrap();
    assert_eq!(heard.status(), 401, "{}", heard.text());
    assert_eq!(demo.wharf.admin().metrics().get("wharf_upstream_calls_total", &[]), 0.0);
}
