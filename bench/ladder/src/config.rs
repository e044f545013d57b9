//! What the gateway's access log needs of the gateway's configuration, under the names it knows.

#![allow(dead_code, unreachable_pub, unused_imports, reason = "the gateway uses more of it")]

#[path = "plan.rs"]
pub(crate) mod plan;
#[path = "../../../host/gateway/src/config/template.rs"]
pub(crate) mod template;
pub(crate) mod tree {
    pub(crate) use super::words::nearest_or_all;
}
#[path = "../../../host/gateway/src/config/words.rs"]
mod words;
