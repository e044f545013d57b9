//! The gateway's configuration checker, its files compiled a second time without the gateway and its tests.

#![allow(dead_code, reason = "some of it only the gateway uses")]

#[path = "../../../host/gateway/src/config/chains.rs"]
mod chains;
#[path = "../../../host/gateway/src/config/check.rs"]
pub mod check;
#[path = "../../../host/gateway/src/config/file.rs"]
pub mod file;
#[path = "../../../host/gateway/src/config/plan.rs"]
pub mod plan;
#[path = "../../../host/gateway/src/config/report.rs"]
pub mod report;
#[path = "../../../host/gateway/src/config/surroundings.rs"]
pub mod surroundings;
#[path = "../../../host/gateway/src/config/tree.rs"]
pub mod tree;
#[path = "../../../host/gateway/src/config/units.rs"]
pub mod units;
#[path = "../../../host/gateway/src/config/values.rs"]
mod values;

pub use check::check;
pub use plan::Plan;
pub use report::Mistakes;
pub use surroundings::Surroundings;
