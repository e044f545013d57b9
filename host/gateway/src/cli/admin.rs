//! The command line's way to a running gateway: plain HTTP to the admin API, on loopback, with the token file.

use super::{AdminArgs, Exit, Failure};
use crate::config::check::admin_of;
use crate::config::{self, plan};
use serde_json::Value;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;
use ureq::Agent;
use ureq::http::Response;
use wharf_wasm::{COMPONENT_BYTES_MAX, COMPONENT_TOO_LARGE};

/// An upload is compiled before it is answered.
const ANSWER_WAIT: Duration = Duration::from_secs(180);
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// Largest answer that is read.
const ANSWER_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Asks one gateway.
pub(super) struct Client {
    agent: Agent,
    base: String,
    token: String,
}

impl Client {
    /// The gateway that the arguments name, else that of the configuration file. The file may be full of mistakes: what
    /// it says about the admin API is enough, so that a bad edit does not lock the operator out.
    pub(super) fn find(args: &AdminArgs) -> Result<Client, Failure> {
        let folder = args.config.parent().unwrap_or(Path::new(""));
        let bytes = config::contents(&args.config).unwrap_or_default();
        let admin = admin_of(&String::from_utf8_lossy(&bytes), folder);
        let address = args.admin.clone().unwrap_or_else(|| reachable(&admin));
        let token = match &args.token_file {
            Some(named) => token_in(named)?,
            // The gateway makes it before it listens: where it was not asked for by name and is not there, nobody was started.
            None if !admin.token_file.exists() && args.admin.is_none() => {
                let message =
                    format!("no gateway was started with {} yet: there is no {}", args.config.display(), admin.token_file.display());
                return Err(Failure::new(Exit::Unreachable, "unreachable", message).hint(
                    "start it with `wharf run`, name its file with `--config`, or both `--admin HOST:PORT` and `--token-file FILE`",
                ));
            }
            None => token_in(&admin.token_file)?,
        };
        Ok(Client::new(&address, &token))
    }

    fn new(address: &str, token: &str) -> Client {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            // The token is for the gateway and nobody between.
            .proxy(None)
            .timeout_connect(Some(CONNECT_WAIT))
            .timeout_global(Some(ANSWER_WAIT))
            .build();
        Client { agent: config.into(), base: format!("http://{address}/v1"), token: token.to_owned() }
    }

    pub(super) fn get(&self, path: &[&str]) -> Result<Value, Failure> {
        self.answer(self.agent.get(self.url(path)).header("authorization", self.bearer()).call())
    }

    /// The metrics, in Prometheus' text format.
    pub(super) fn metrics(&self) -> Result<String, Failure> {
        let url = format!("{}/metrics", self.base.trim_end_matches("/v1"));
        let answer = self.agent.get(url).header("authorization", self.bearer()).call();
        let mut answer = answer.map_err(|error| self.unreachable(&error))?;
        if answer.status().as_u16() != 200 {
            return self.answer(Ok(answer)).map(|value| value.to_string());
        }
        answer.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string().map_err(|error| self.unreachable(&error))
    }

    /// With query arguments; empty ones are left out.
    pub(super) fn get_with(&self, path: &[&str], query: &[(&str, &str)]) -> Result<Value, Failure> {
        let mut request = self.agent.get(self.url(path)).header("authorization", self.bearer());
        for (name, value) in query.iter().filter(|(_, value)| !value.is_empty()) {
            request = request.query(name, value);
        }
        self.answer(request.call())
    }

    pub(super) fn post(&self, path: &[&str]) -> Result<Value, Failure> {
        self.answer(self.agent.post(self.url(path)).header("authorization", self.bearer()).send_empty())
    }

    pub(super) fn put_file(&self, path: &[&str], query: &[(&str, &str)], file: &Path) -> Result<Value, Failure> {
        let unreadable = |error: std::io::Error| {
            Failure::new(Exit::Usage, "file", format!("{} cannot be read: {error}", file.display()))
                .hint("name the .wasm file that the build made")
        };
        // Looked at before: a gateway that refuses a long body need not read it to its end, and what it says may be lost.
        let size = std::fs::metadata(file).map_err(unreadable)?.len();
        if size > COMPONENT_BYTES_MAX as u64 {
            let message = format!("{} has {size} bytes, and a component may have at most {COMPONENT_BYTES_MAX}", file.display());
            return Err(Failure::new(Exit::Refused, "too-large", message).hint(COMPONENT_TOO_LARGE));
        }
        let bytes = std::fs::read(file).map_err(unreadable)?;
        let mut request =
            self.agent.put(self.url(path)).header("authorization", self.bearer()).header("content-type", "application/octet-stream");
        for (name, value) in query.iter().filter(|(_, value)| !value.is_empty()) {
            request = request.query(name, value);
        }
        self.answer(request.send(&bytes[..]))
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.token)
    }

    fn url(&self, path: &[&str]) -> String {
        let mut url = self.base.clone();
        for segment in path {
            url.push('/');
            for byte in segment.bytes() {
                if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b':') {
                    url.push(byte as char);
                } else {
                    url.push_str(&format!("%{byte:02X}"));
                }
            }
        }
        url
    }

    fn answer(&self, result: Result<Response<ureq::Body>, ureq::Error>) -> Result<Value, Failure> {
        let mut response = result.map_err(|error| self.unreachable(&error))?;
        let status = response.status().as_u16();
        let text = response.body_mut().with_config().limit(ANSWER_BYTES_MAX).read_to_string().map_err(|error| self.unreachable(&error))?;
        let value: Option<Value> = serde_json::from_str(&text).ok();
        if (200..300).contains(&status) {
            return match value {
                Some(value) => Ok(value),
                None if text.is_empty() => Ok(Value::Null),
                None => Err(Failure::new(Exit::Unreachable, "unreachable", format!("{} does not speak like an admin API", self.base))
                    .hint("is this the address of the admin API, not of a listener?")),
            };
        }
        let error = value.as_ref().and_then(|value| value.get("error"));
        let said = |name: &str| error.and_then(|error| error.get(name)).and_then(Value::as_str).map(str::to_owned);
        if matches!(status, 401 | 403) {
            let message = said("message").unwrap_or_else(|| "the gateway does not accept this admin token".into());
            return Err(Failure::new(Exit::Token, "token", message)
                .hint(said("hint").unwrap_or_else(|| "name the file of this gateway with `--token-file`".into())));
        }
        let message = said("message").unwrap_or_else(|| format!("{} answered {status}, which is not what an admin API says", self.base));
        Err(Failure {
            exit: Exit::Refused,
            kind: said("kind").unwrap_or_else(|| "refused".into()),
            message,
            hint: said("hint").or_else(|| error.is_none().then(|| "is this the address of the admin API, not of a listener?".into())),
        })
    }

    fn unreachable(&self, error: &ureq::Error) -> Failure {
        let address = self.base.trim_start_matches("http://").trim_end_matches("/v1");
        let refused = matches!(error, ureq::Error::Io(io) if io.kind() == std::io::ErrorKind::ConnectionRefused)
            || matches!(error, ureq::Error::ConnectionFailed);
        if refused {
            return Failure::new(Exit::Unreachable, "unreachable", format!("no gateway listens on {address}"))
                .hint("start it with `wharf run`, or name its admin address with `--admin HOST:PORT`");
        }
        Failure::new(Exit::Unreachable, "unreachable", format!("the gateway at {address} does not answer: {error}"))
            .hint("see its log, or name its admin address with `--admin HOST:PORT`")
    }
}

fn token_in(file: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        Failure::new(Exit::Token, "token", format!("the admin token cannot be read from {}: {error}", file.display()))
            .hint("the gateway makes it at its first start, readable by its own user; name another file with `--token-file`")
    })?;
    Ok(text.trim().to_owned())
}

/// What `--admin` may say: host and port, also as a URL.
pub(super) fn address(text: &str) -> Result<String, String> {
    let bare = text.trim_start_matches("http://").trim_end_matches('/');
    config::host_and_port(bare).map(|()| bare.to_owned())
}

/// Where the admin API can be reached from its own host.
fn reachable(admin: &plan::Admin) -> String {
    let ip = match admin.bind.ip() {
        IpAddr::V4(v4) if v4.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(v6) if v6.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, admin.bind.port()).to_string()
}
