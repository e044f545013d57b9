//! Checks: is an endpoint well? A connection, a GET, or the gRPC health service, over what calls go over ([`Line`]).
//!
//! Each check has a connection of its own, so that it says whether the endpoint still accepts one; nothing is kept. Nothing
//! here has a time-out: whoever asks drops the future. What is read is bounded. Checks run on the control runtime and never
//! on a core, so convenience counts for more than instructions.

use crate::codec::body::{Decoder, Piece};
use crate::codec::{HeadLimits, response};
use bytes::BytesMut;
use line::{Stream, by_two};
use std::fmt::Write as _;
use std::io;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use wharf_core::BoxFuture;
use wharf_core::head::ResponseHead;
use wharf_core::outlet::{EndpointRef, Probe};

mod grpc;
mod line;

pub use grpc::Grpc;
pub use line::Line;

/// Bytes of a body that a text is looked for in.
const BODY_MAX: usize = 64 * 1024;
/// Interim answers before the real one.
const INTERIM_MAX: u32 = 16;

/// A connection is enough.
#[derive(Debug)]
pub struct Tcp;

impl Probe for Tcp {
    fn ask<'a>(&'a self, endpoint: &'a EndpointRef) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async { line::reach(endpoint).await.map(drop) })
    }

    fn what(&self) -> &str {
        "a connection"
    }
}

/// A GET.
pub struct Http {
    path: Box<str>,
    host: Option<Box<str>>,
    statuses: Vec<u16>,
    body: Option<Box<str>>,
    line: Line,
    what: Box<str>,
}

impl Http {
    /// A GET of `path` (with its query), to `host` or the endpoint's address. Well is who answers with one of `statuses` (none:
    /// 200 to 299), with `body` somewhere in the first 64 KiB of its body. The caller has checked path and host.
    pub fn new(path: &str, host: Option<&str>, statuses: Vec<u16>, body: Option<&str>, line: Line) -> Http {
        let mut what = format!("GET {path}");
        if let Some(host) = host {
            let _ = write!(what, " of {host}");
        }
        if !statuses.is_empty() {
            let _ = write!(what, " for {statuses:?}");
        }
        if let Some(body) = body {
            let _ = write!(what, " with {body:?}");
        }
        what.push_str(&line.how());
        Http { path: path.into(), host: host.map(Into::into), statuses, body: body.map(Into::into), line, what: what.into() }
    }

    async fn get(&self, endpoint: &EndpointRef) -> Result<(), String> {
        match self.line.connect(endpoint).await? {
            (stream, true) => self.get_by_two(stream, endpoint).await,
            (stream, false) => self.get_by_one(stream, endpoint).await,
        }
    }

    async fn get_by_one(&self, mut stream: Stream, endpoint: &EndpointRef) -> Result<(), String> {
        let host = self.host.as_deref().unwrap_or(&endpoint.text);
        let request =
            format!("GET {} HTTP/1.1\r\nhost: {host}\r\nuser-agent: wharf-check\r\naccept: */*\r\nconnection: close\r\n\r\n", self.path);
        stream.write_all(request.as_bytes()).await.map_err(broke)?;
        stream.flush().await.map_err(broke)?;
        let mut buf = BytesMut::with_capacity(4096);
        let (head, received) = head(&mut stream, &mut buf).await?;
        let Some(mut search) = self.judge(head.status)? else { return Ok(()) };
        let mut decoder = Decoder::new(received.framing);
        loop {
            match decoder.decode(&mut buf).map_err(|refusal| format!("its body is not valid: {}", refusal.what))? {
                Piece::Data(piece) => {
                    if search.is_found(&piece)? {
                        return Ok(());
                    }
                }
                Piece::End(_) => return Err(search.missing()),
                Piece::More => {
                    buf.reserve(8 * 1024);
                    if stream.read_buf(&mut buf).await.map_err(broke)? == 0 {
                        return Err(search.missing());
                    }
                }
            }
        }
    }

    async fn get_by_two(&self, stream: Stream, endpoint: &EndpointRef) -> Result<(), String> {
        let host = self.host.as_deref().unwrap_or(&endpoint.text);
        by_two(stream, async |mut sender| {
            let request = http::Request::get(format!("{}://{host}{}", self.line.scheme(), self.path))
                .header("user-agent", "wharf-check")
                .header("accept", "*/*")
                .body(())
                .map_err(|error| format!("the request cannot be made: {error}"))?;
            std::future::poll_fn(|task| sender.poll_ready(task)).await.map_err(|error| error.to_string())?;
            let (answer, _) = sender.send_request(request, true).map_err(|error| error.to_string())?;
            let answer = answer.await.map_err(|error| error.to_string())?;
            let Some(mut search) = self.judge(answer.status().as_u16())? else { return Ok(()) };
            let mut body = answer.into_body();
            while let Some(piece) = body.data().await {
                let piece = piece.map_err(|error| error.to_string())?;
                let _ = body.flow_control().release_capacity(piece.len());
                if search.is_found(&piece)? {
                    return Ok(());
                }
            }
            Err(search.missing())
        })
        .await
    }

    /// Is the status good, and what is still to be looked for?
    fn judge(&self, status: u16) -> Result<Option<Search<'_>>, String> {
        let good = match self.statuses.is_empty() {
            true => (200..300).contains(&status),
            false => self.statuses.contains(&status),
        };
        match good {
            false => Err(format!("status {status}")),
            true => Ok(self.body.as_deref().map(|wanted| Search { wanted, body: Vec::new() })),
        }
    }
}

/// A text that is looked for in a body.
struct Search<'a> {
    wanted: &'a str,
    body: Vec<u8>,
}

impl Search<'_> {
    fn is_found(&mut self, piece: &[u8]) -> Result<bool, String> {
        self.body.extend_from_slice(piece);
        if self.body.windows(self.wanted.len().max(1)).any(|part| part == self.wanted.as_bytes()) {
            return Ok(true);
        }
        match self.body.len() >= BODY_MAX {
            true => Err(format!("the first {BODY_MAX} bytes of its body do not hold {:?}", self.wanted)),
            false => Ok(false),
        }
    }

    fn missing(&self) -> String {
        format!("its body does not hold {:?}", self.wanted)
    }
}

impl Probe for Http {
    fn ask<'a>(&'a self, endpoint: &'a EndpointRef) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(self.get(endpoint))
    }

    fn what(&self) -> &str {
        &self.what
    }
}

async fn head(stream: &mut Stream, buf: &mut BytesMut) -> Result<(ResponseHead, response::Received), String> {
    let limits = HeadLimits { bytes_max: 32 * 1024, fields_max: 100 };
    let asked = response::Asked { head_method: false, connect: false, upgrade: false };
    let (mut head, mut interim) = (ResponseHead::default(), 0);
    loop {
        match response::parse(buf, &limits, &asked, &mut head) {
            Ok(Some(response::Event::Final(received))) => return Ok((head, received)),
            Ok(Some(response::Event::Interim(_))) if interim < INTERIM_MAX => {
                interim += 1;
                continue;
            }
            Ok(Some(response::Event::Interim(_))) => return Err(format!("more than {INTERIM_MAX} interim answers")),
            Ok(None) => {}
            Err(refusal) => return Err(format!("its answer is no valid HTTP: {}", refusal.what)),
        }
        buf.reserve(4096);
        if stream.read_buf(buf).await.map_err(broke)? == 0 {
            return Err("closed the connection before it answered".into());
        }
    }
}

fn broke(error: io::Error) -> String {
    format!("broke the connection: {error}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::net::TcpListener;
    use wharf_core::outlet::Endpoint;

    fn at(address: SocketAddr) -> EndpointRef {
        Arc::new(Endpoint::new("s".into(), address, 1, None, [].into()))
    }

    /// Says these bytes to whoever has sent a whole head, and closes.
    async fn saying(bytes: Vec<u8>) -> EndpointRef {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = at(listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut heard = Vec::new();
            while !heard.ends_with(b"\r\n\r\n") {
                if stream.read_buf(&mut heard).await.unwrap_or(0) == 0 {
                    return;
                }
            }
            assert!(heard.starts_with(b"GET /healthz?full HTTP/1.1\r\nhost: "), "{}", String::from_utf8_lossy(&heard));
            let _ = stream.write_all(&bytes).await;
        });
        endpoint
    }

    async fn get(answer: impl Into<Vec<u8>>, statuses: &[u16], body: Option<&str>) -> Result<(), String> {
        let endpoint = saying(answer.into()).await;
        Http::new("/healthz?full", None, statuses.to_vec(), body, Line::default()).ask(&endpoint).await
    }

    #[tokio::test]
    async fn an_answer_is_judged_by_status_and_text() {
        let ok = "HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\nall is well";
        assert_eq!(get(ok, &[], None).await, Ok(()));
        assert_eq!(get(ok, &[], Some("is well")).await, Ok(()));
        assert_eq!(get(ok, &[204, 301], None).await, Err("status 200".into()));
        assert_eq!(get("HTTP/1.1 301 x\r\n\r\n", &[204, 301], None).await, Ok(()));
        assert_eq!(get("HTTP/1.1 503 x\r\n\r\n", &[], None).await, Err("status 503".into()));
        assert!(get(ok, &[], Some("ill")).await.unwrap_err().contains("does not hold \"ill\""));
        let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nall i\r\n6\r\ns well\r\n0\r\n\r\n";
        assert_eq!(get(chunked, &[], Some("is well")).await, Ok(()));
        let cut = "HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\nall is";
        assert!(get(cut, &[], Some("is well")).await.is_err());
        let mut endless = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
        endless.resize(BODY_MAX * 3, b'x');
        assert!(get(endless, &[], Some("well")).await.unwrap_err().contains("65536"));
    }

    #[tokio::test]
    async fn what_is_no_answer_is_told() {
        assert!(get("", &[], None).await.unwrap_err().contains("closed the connection"));
        assert!(get("SSH-2.0-x\r\n\r\n", &[], None).await.unwrap_err().contains("no valid HTTP"));
        assert!(get("HTTP/1.1 100 x\r\n\r\n".repeat(40), &[], None).await.unwrap_err().contains("interim"));
        // Nobody listens where somebody did.
        let gone = at(TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap());
        for probe in [
            Box::new(Tcp) as Box<dyn Probe>,
            Box::new(Http::new("/", None, Vec::new(), None, Line::default())),
            Box::new(Grpc::new("", None)),
        ] {
            assert!(probe.ask(&gone).await.unwrap_err().contains("cannot be connected to"), "{}", probe.what());
        }
    }

    #[tokio::test]
    async fn a_connection_is_enough_where_nothing_else_is_asked() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        assert_eq!(Tcp.ask(&at(listener.local_addr().unwrap())).await, Ok(()));
    }

    #[tokio::test]
    async fn a_check_that_is_never_answered_ends_with_its_future() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = at(listener.local_addr().unwrap());
        for probe in [Box::new(Http::new("/", None, Vec::new(), None, Line::default())) as Box<dyn Probe>, Box::new(Grpc::new("x", None))] {
            assert!(tokio::time::timeout(Duration::from_millis(50), probe.ask(&endpoint)).await.is_err());
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut heard = Vec::new();
            // Its connection is closed: this would wait for ever.
            stream.read_to_end(&mut heard).await.unwrap();
            assert!(!heard.is_empty());
        }
    }
}
