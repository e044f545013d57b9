//! The gateway's access log, as it stands there.

#![allow(dead_code, unreachable_pub, reason = "the gateway uses more of it")]

#[path = "../../../host/gateway/src/telemetry/access.rs"]
pub mod access;
#[path = "../../../host/gateway/src/telemetry/line.rs"]
mod line;
#[path = "../../../host/gateway/src/telemetry/redact.rs"]
mod redact;
#[path = "../../../host/gateway/src/telemetry/shown.rs"]
mod shown;
#[path = "../../../host/gateway/src/telemetry/sink.rs"]
mod sink;
#[path = "../../../host/gateway/src/telemetry/text.rs"]
mod text;
