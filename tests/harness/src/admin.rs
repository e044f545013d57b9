//! The admin API as an operator's script sees it.

use crate::message::Reply;
use crate::raw::Connection;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

/// Where and with what token. Cheap to copy; each call is a connection of its own.
#[derive(Clone, Debug)]
pub struct Admin {
    address: SocketAddr,
    token: String,
}

/// An answer of the admin API.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The body, where it is JSON; else its text as a JSON string.
    pub body: Value,
}

impl Answer {
    /// The body of a success.
    ///
    /// # Panics
    /// When it is none, telling the error.
    #[track_caller]
    pub fn expect(self) -> Value {
        assert!((200..300).contains(&self.status), "status {}: {}", self.status, self.body);
        self.body
    }

    /// The error of a refusal.
    ///
    /// # Panics
    /// When the status is another one or the error has no message.
    #[track_caller]
    pub fn expect_refusal(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.body);
        let error = self.body["error"].clone();
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "an error without a message: {}", self.body);
        error
    }
}

impl Admin {
    /// Reads the token from its file.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn new(address: SocketAddr, token_file: &Path) -> Result<Admin> {
        let token = fs::read_to_string(token_file).with_context(|| format!("token file {}", token_file.display()))?;
        Ok(Admin { address, token: token.trim().to_owned() })
    }

    /// With another token, or none (`""`).
    #[must_use]
    pub fn with_token(&self, token: &str) -> Admin {
        Admin { address: self.address, token: token.to_owned() }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `GET`.
    ///
    /// # Panics
    /// No whole answer came. The same holds for the other verbs.
    #[track_caller]
    pub fn get(&self, path: &str) -> Answer {
        self.call("GET", path, "", &[]).unwrap()
    }

    /// `DELETE`.
    #[track_caller]
    pub fn delete(&self, path: &str) -> Answer {
        self.call("DELETE", path, "", &[]).unwrap()
    }

    /// `POST` with JSON; `Value::Null` is no body.
    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.with_json("POST", path, body)
    }

    /// `PUT` with JSON; `Value::Null` is no body.
    #[track_caller]
    pub fn put(&self, path: &str, body: &Value) -> Answer {
        self.with_json("PUT", path, body)
    }

    /// `PUT` with bytes: a plugin's component.
    #[track_caller]
    pub fn put_bytes(&self, path: &str, bytes: &[u8]) -> Answer {
        self.call("PUT", path, "application/octet-stream", bytes).unwrap()
    }

    /// The metrics of now.
    ///
    /// # Panics
    /// They are not served or not readable.
    #[track_caller]
    pub fn metrics(&self) -> Metrics {
        let reply = self.ask("GET", "/metrics", "", &[]).unwrap();
        assert_eq!(reply.status, 200, "{}", reply.text());
        Metrics(reply.text())
    }

    /// Any call.
    ///
    /// # Errors
    /// No whole answer came.
    pub fn call(&self, verb: &str, path: &str, content_type: &str, body: &[u8]) -> Result<Answer> {
        let reply = self.ask(verb, path, content_type, body)?;
        let value = serde_json::from_slice(&reply.body).unwrap_or_else(|_| Value::String(reply.text()));
        Ok(Answer { status: reply.status, body: value })
    }

    #[track_caller]
    fn with_json(&self, verb: &str, path: &str, body: &Value) -> Answer {
        let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        self.call(verb, path, "application/json", &bytes).unwrap()
    }

    fn ask(&self, verb: &str, path: &str, content_type: &str, body: &[u8]) -> Result<Reply> {
        let mut connection = Connection::open(self.address).with_context(|| format!("admin listener {}", self.address))?;
        // A push compiles; the gateway's own deadline is shorter than this.
        connection.stream.set_read_timeout(Some(std::time::Duration::from_secs(240)))?;
        let mut head = format!("{verb} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.address);
        if !self.token.is_empty() {
            head.push_str(&format!("Authorization: Bearer {}\r\n", self.token));
        }
        if !body.is_empty() {
            head.push_str(&format!("Content-Type: {content_type}\r\n"));
        }
        if !body.is_empty() || verb != "GET" {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        // An early refusal closes before the body is sent whole: the answer is what counts.
        let sent = connection.send(head.as_bytes()).and_then(|()| connection.send(body));
        match (connection.reply(verb), sent) {
            (Ok(reply), _) => Ok(reply),
            (Err(error), Ok(())) => bail!("{verb} {path}: {error}"),
            (Err(error), Err(sent)) => bail!("{verb} {path}: {error} after {sent}"),
        }
    }
}

/// Prometheus text, as read.
#[derive(Clone, Debug)]
pub struct Metrics(pub String);

impl Metrics {
    /// Sum of all series of `name` that have these labels; `None`: there are none.
    pub fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let wanted: Vec<String> = labels.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
        let mut sum = None;
        for line in self.0.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let (have, inner) = series.split_once('{').unwrap_or((series, ""));
            if have == name && wanted.iter().all(|label| inner.contains(label.as_str())) {
                *sum.get_or_insert(0.0) += value.parse::<f64>().unwrap_or(0.0);
            }
        }
        sum
    }

    /// The same, 0 where there is none.
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(name, labels).unwrap_or(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_by_label() {
        let metrics = Metrics("# HELP x y\nx_total{a=\"1\",b=\"2\"} 3\nx_total{a=\"1\",b=\"3\"} 4\nx_total_more 9\nplain 1.5\n".to_owned());
        assert_eq!(metrics.find("x_total", &[("a", "1")]), Some(7.0));
        assert_eq!(metrics.find("x_total", &[("a", "1"), ("b", "3")]), Some(4.0));
        assert_eq!(metrics.find("x_total", &[("a", "2")]), None);
        assert_eq!(metrics.get("plain", &[]), 1.5);
    }
}
