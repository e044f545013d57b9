//! What the gateway's plan says about the access log, as it stands there.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

#[path = "../../../host/gateway/src/config/plan/telemetry.rs"]
mod telemetry;
pub use telemetry::*;
