//! `docs/first-plugin.md` from its first command to its last, against the demo, while requests flow.

use std::time::{Duration, Instant};
use wharf_e2e::docs::{Demo, Step, built, root, steps};
use wharf_harness::Load;

/// What the page promises, on a machine that has run `make run` once.
const PROMISED: Duration = Duration::from_secs(600);

#[test]
fn the_guide_leads_to_an_own_plugin_live_in_the_demo() {
    let page = std::fs::read_to_string(root().join("docs/first-plugin.md")).unwrap();
    let steps = steps(&page).unwrap();
    let has = |word: &str| steps.iter().any(|step| matches!(step, Step::Type { script, .. } if script.contains(word)));
    for word in ["cargo test", "--target wasm32-wasip2", "plugin push bouncer", "plugin rollback bouncer", "curl "] {
        assert!(has(word), "the guide no longer says {word:?}");
    }
    assert!(steps.iter().any(|step| matches!(step, Step::Write { .. })), "the guide shows no source");

    let demo = Demo::start().unwrap();
    if std::env::var_os("WHARF_PROVE").is_none()
        && let Some(built) = built()
    {
        // Everything but the plugin itself stays built between runs; a proof begins from nothing.
        let target = built.join("bouncer-target");
        std::fs::create_dir_all(&target).unwrap();
        std::fs::create_dir_all(&demo.own).unwrap();
        std::os::unix::fs::symlink(target, demo.own.join("target")).unwrap();
    }
    let request = |_| b"GET /blue/x HTTP/1.1\r\nHost: demo\r\nX-Api-Key: demo-key\r\n\r\n".to_vec();
    let load = Load::new(demo.wharf.listener("main"), request).connections(2).rate(100.0).start();
    let began = Instant::now();
    demo.follow("docs/first-plugin.md", &steps).unwrap();
    let took = began.elapsed();
    let report = load.stop();
    println!(
        "guide: {} steps in {:.1} s (promised: within {PROMISED:?}), {} requests beside them, {} failed",
        steps.len(),
        took.as_secs_f64(),
        report.done,
        report.failed
    );
    assert!(took < PROMISED);
    assert_eq!(report.failed, 0, "{:?}", report.failures);
    assert!(report.done > 0);
}
