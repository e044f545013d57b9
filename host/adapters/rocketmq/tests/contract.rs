//! RocketMQ keeps the promises of a bus: real servers, started once.

use wharf_contract::bus::keeps_its_promises;
use wharf_harness::servers::rocketmq::{RocketMq, Wish};
use wharf_rocketmq::{RocketMqBus, RocketMqConfig};

#[test]
fn rocketmq_keeps_the_promises_of_a_bus() {
    let server = RocketMq::start(Wish::default());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let bus = RocketMqBus::new(RocketMqConfig::new(&server.grpc(), &[&server.names()])).unwrap();
        keeps_its_promises(&bus).await;
    });
}
