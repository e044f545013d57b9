//! The embedded bus keeps the promises of a bus.

use wharf_contract::bus::keeps_its_promises;
use wharf_core::metrics::Registry;
use wharf_embedded::bus::{BusConfig, EmbeddedBus};

#[test]
fn the_embedded_bus_keeps_the_promises_of_a_bus() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let bus = EmbeddedBus::open(BusConfig::new(dir.path().join("bus")), &Registry::default()).unwrap();
        keeps_its_promises(&bus).await;
    });
}
