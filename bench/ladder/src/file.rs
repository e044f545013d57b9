//! The part of the gateway's configuration file that the bench writes. Strict: a key that is not known here is refused,
//! so that the two rows never differ by a setting that one of them did not see.

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use wharf_core::outlet::CallLimits;
use wharf_http::house::ListenerLimits;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    #[allow(dead_code, reason = "nothing of the ladder outlives its process")]
    node: serde_json::Value,
    pub access_log: AccessLogFile,
    pub admin: Admin,
    pub listeners: Listeners,
    pub services: BTreeMap<String, Service>,
    #[allow(dead_code, reason = "the components of this file are what the ladder has linked in")]
    #[serde(default)]
    plugins: serde_json::Value,
    pub routes: Vec<Route>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessLogFile {
    pub to: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Admin {
    pub bind: SocketAddr,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listeners {
    pub main: Listener,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    pub bind: SocketAddr,
    timeouts: ListenerTimeouts,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListenerTimeouts {
    head: String,
    body: String,
    keep_alive: String,
    quiet: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    pub endpoints: Vec<SocketAddr>,
    pub timeouts: ServiceTimeouts,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceTimeouts {
    connect: String,
    head: String,
    body: String,
    idle: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    pub name: String,
    pub to: To,
    pub timeouts: RouteTimeouts,
    #[serde(default)]
    pub plugins: Vec<Attachment>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum To {
    Service(String),
    Plugin(Attachment),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RouteTimeouts {
    pub whole: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    pub plugin: String,
    pub config: serde_json::Value,
}

impl File {
    pub fn read(path: &str) -> Result<File> {
        let text = std::fs::read_to_string(path).with_context(|| format!("{path} cannot be read"))?;
        serde_saphyr::from_str(&text).map_err(|error| anyhow::anyhow!("{path} is not a configuration of the bench: {error}"))
    }

    pub fn limits(&self) -> Result<ListenerLimits> {
        let timeouts = &self.listeners.main.timeouts;
        Ok(ListenerLimits {
            head: duration(&timeouts.head)?,
            body: duration(&timeouts.body)?,
            keep_alive: duration(&timeouts.keep_alive)?,
            quiet: duration(&timeouts.quiet)?,
            ..ListenerLimits::default()
        })
    }
}

impl ServiceTimeouts {
    pub fn limits(&self) -> Result<CallLimits> {
        Ok(CallLimits {
            connect: duration(&self.connect)?,
            head: duration(&self.head)?,
            body: duration(&self.body)?,
            idle: duration(&self.idle)?,
            ..CallLimits::default()
        })
    }
}

/// `10s`, `5m`, `250ms`.
pub fn duration(text: &str) -> Result<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().with_context(|| format!("{text:?} is no duration"))?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number * 60)),
        _ => bail!("{text:?} is no duration: units are ms, s and m"),
    }
}
