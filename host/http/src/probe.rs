//! Checks: is an endpoint well? A connection, a GET, or the gRPC health service over HTTP/2 without TLS.
//!
//! Each check has a connection of its own, so that it says whether the endpoint still accepts one; nothing is kept. Nothing
//! here has a time-out: whoever asks drops the future. What is read is bounded. Checks run on the control runtime and never
//! on a core, so convenience counts for more than instructions.

use crate::codec::body::{Decoder, Piece};
use crate::codec::{HeadLimits, response};
use bytes::{BufMut, Bytes, BytesMut};
use std::fmt::Write as _;
use std::io;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use wharf_core::BoxFuture;
use wharf_core::head::ResponseHead;
use wharf_core::outlet::{EndpointRef, Probe};

/// Bytes of a body that a text is looked for in.
const BODY_MAX: usize = 64 * 1024;
/// Bytes of the answer to a gRPC check; a good one has seven.
const GRPC_BODY_MAX: usize = 1024;
/// Interim answers before the real one.
const INTERIM_MAX: u32 = 16;

/// A connection is enough.
#[derive(Debug)]
pub struct Tcp;

impl Probe for Tcp {
    fn ask<'a>(&'a self, endpoint: &'a EndpointRef) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async { connect(endpoint).await.map(drop) })
    }

    fn what(&self) -> &str {
        "a connection"
    }
}

/// A GET.
#[derive(Debug)]
pub struct Http {
    path: Box<str>,
    host: Option<Box<str>>,
    statuses: Vec<u16>,
    body: Option<Box<str>>,
    what: Box<str>,
}

impl Http {
    /// A GET of `path` (with its query), to `host` or the endpoint's address. Well is who answers with one of `statuses` (none:
    /// 200 to 299), with `body` somewhere in the first 64 KiB of its body. The caller has checked path and host.
    pub fn new(path: &str, host: Option<&str>, statuses: Vec<u16>, body: Option<&str>) -> Http {
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
        Http { path: path.into(), host: host.map(Into::into), statuses, body: body.map(Into::into), what: what.into() }
    }

    async fn get(&self, endpoint: &EndpointRef) -> Result<(), String> {
        let mut stream = connect(endpoint).await?;
        let host = self.host.as_deref().unwrap_or(&endpoint.text);
        let request =
            format!("GET {} HTTP/1.1\r\nhost: {host}\r\nuser-agent: wharf-check\r\naccept: */*\r\nconnection: close\r\n\r\n", self.path);
        stream.write_all(request.as_bytes()).await.map_err(broke)?;
        let mut buf = BytesMut::with_capacity(4096);
        let (head, received) = head(&mut stream, &mut buf).await?;
        let good = match self.statuses.is_empty() {
            true => (200..300).contains(&head.status),
            false => self.statuses.contains(&head.status),
        };
        if !good {
            return Err(format!("status {}", head.status));
        }
        let Some(wanted) = &self.body else { return Ok(()) };
        let mut decoder = Decoder::new(received.framing);
        let mut body = Vec::new();
        loop {
            match decoder.decode(&mut buf).map_err(|refusal| format!("its body is not valid: {}", refusal.what))? {
                Piece::Data(piece) => {
                    body.extend_from_slice(&piece);
                    if body.windows(wanted.len().max(1)).any(|part| part == wanted.as_bytes()) {
                        return Ok(());
                    }
                    if body.len() >= BODY_MAX {
                        return Err(format!("the first {BODY_MAX} bytes of its body do not hold {wanted:?}"));
                    }
                }
                Piece::End(_) => return Err(format!("its body does not hold {wanted:?}")),
                Piece::More => {
                    buf.reserve(8 * 1024);
                    if stream.read_buf(&mut buf).await.map_err(broke)? == 0 {
                        return Err(format!("its body ended without {wanted:?}"));
                    }
                }
            }
        }
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

/// The gRPC health service (`grpc.health.v1.Health/Check`), by prior knowledge of HTTP/2.
#[derive(Debug)]
pub struct Grpc {
    service: Box<str>,
    what: Box<str>,
}

impl Grpc {
    /// About this service; empty: about the whole server.
    pub fn new(service: &str) -> Grpc {
        let what = if service.is_empty() { "gRPC health".to_owned() } else { format!("gRPC health of {service}") };
        Grpc { service: service.into(), what: what.into() }
    }

    async fn check(&self, endpoint: &EndpointRef) -> Result<(), String> {
        let stream = connect(endpoint).await?;
        let (mut sender, connection) = h2::client::handshake(stream).await.map_err(|error| format!("no HTTP/2: {error}"))?;
        let asking = async {
            let request = http::Request::post(format!("http://{}/grpc.health.v1.Health/Check", endpoint.text))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .header("user-agent", "wharf-check")
                .body(())
                .map_err(|error| format!("the request cannot be made: {error}"))?;
            std::future::poll_fn(|task| sender.poll_ready(task)).await.map_err(|error| error.to_string())?;
            let (answer, mut body) = sender.send_request(request, false).map_err(|error| error.to_string())?;
            body.send_data(self.message(), true).map_err(|error| error.to_string())?;
            let answer = answer.await.map_err(|error| error.to_string())?;
            if answer.status() != 200 {
                return Err(format!("status {}", answer.status().as_u16()));
            }
            // A refusal comes with the head, and without a body.
            grpc_status(answer.headers())?;
            let mut body = answer.into_body();
            let mut message = BytesMut::new();
            while let Some(piece) = body.data().await {
                let piece = piece.map_err(|error| error.to_string())?;
                let _ = body.flow_control().release_capacity(piece.len());
                if message.len() + piece.len() > GRPC_BODY_MAX {
                    return Err(format!("its answer has more than {GRPC_BODY_MAX} bytes"));
                }
                message.extend_from_slice(&piece);
            }
            if let Some(trailers) = body.trailers().await.map_err(|error| error.to_string())? {
                grpc_status(&trailers)?;
            }
            serving(&message)
        };
        // The connection moves only while it is polled; it ends when nobody asks any more.
        tokio::select! {
            biased;
            said = asking => said,
            ended = connection => Err(ended.err().map_or_else(|| "closed the connection".to_owned(), |error| error.to_string())),
        }
    }

    /// `HealthCheckRequest { service }` behind the five bytes that every gRPC message begins with.
    fn message(&self) -> Bytes {
        let mut message = BytesMut::new();
        if !self.service.is_empty() {
            message.put_u8(0x0a);
            let mut left = self.service.len();
            while left >= 0x80 {
                message.put_u8((left & 0x7f) as u8 | 0x80);
                left >>= 7;
            }
            message.put_u8(left as u8);
            message.put_slice(self.service.as_bytes());
        }
        let mut framed = BytesMut::new();
        framed.put_u8(0);
        framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
        framed.unsplit(message);
        framed.freeze()
    }
}

impl Probe for Grpc {
    fn ask<'a>(&'a self, endpoint: &'a EndpointRef) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(self.check(endpoint))
    }

    fn what(&self) -> &str {
        &self.what
    }
}

/// No `grpc-status` but 0.
fn grpc_status(fields: &http::HeaderMap) -> Result<(), String> {
    match fields.get("grpc-status") {
        Some(status) if status.as_bytes() != b"0" => Err(format!("gRPC status {}", String::from_utf8_lossy(status.as_bytes()))),
        _ => Ok(()),
    }
}

/// `HealthCheckResponse { status: SERVING }`; fields that are not known are passed over.
fn serving(framed: &[u8]) -> Result<(), String> {
    let invalid = || "its answer is no HealthCheckResponse".to_owned();
    let (&[compressed, a, b, c, d], mut rest) = framed.split_first_chunk::<5>().ok_or_else(invalid)?;
    if compressed != 0 || u32::from_be_bytes([a, b, c, d]) as usize != rest.len() {
        return Err(invalid());
    }
    let mut status = 0;
    while !rest.is_empty() {
        let key = varint(&mut rest).ok_or_else(invalid)?;
        match (key >> 3, key & 7) {
            (1, 0) => status = varint(&mut rest).ok_or_else(invalid)?,
            (_, 0) => {
                varint(&mut rest).ok_or_else(invalid)?;
            }
            (_, 2) => {
                let len = varint(&mut rest).and_then(|len| usize::try_from(len).ok()).ok_or_else(invalid)?;
                rest = rest.get(len..).ok_or_else(invalid)?;
            }
            (_, 1) => rest = rest.get(8..).ok_or_else(invalid)?,
            (_, 5) => rest = rest.get(4..).ok_or_else(invalid)?,
            _ => return Err(invalid()),
        }
    }
    match status {
        1 => Ok(()),
        0 => Err("gRPC health UNKNOWN".into()),
        2 => Err("gRPC health NOT_SERVING".into()),
        3 => Err("gRPC health SERVICE_UNKNOWN".into()),
        other => Err(format!("gRPC health {other}")),
    }
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

async fn connect(endpoint: &EndpointRef) -> Result<TcpStream, String> {
    TcpStream::connect(endpoint.address).await.map_err(|error| format!("cannot be connected to: {error}"))
}

async fn head(stream: &mut TcpStream, buf: &mut BytesMut) -> Result<(ResponseHead, response::Received), String> {
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
        Http::new("/healthz?full", None, statuses.to_vec(), body).ask(&endpoint).await
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
        for probe in [Box::new(Tcp) as Box<dyn Probe>, Box::new(Http::new("/", None, Vec::new(), None)), Box::new(Grpc::new(""))] {
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
        for probe in [Box::new(Http::new("/", None, Vec::new(), None)) as Box<dyn Probe>, Box::new(Grpc::new("x"))] {
            assert!(tokio::time::timeout(Duration::from_millis(50), probe.ask(&endpoint)).await.is_err());
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut heard = Vec::new();
            // Its connection is closed: this would wait for ever.
            stream.read_to_end(&mut heard).await.unwrap();
            assert!(!heard.is_empty());
        }
    }

    /// A server that answers one call with this: a message in its frame, and a `grpc-status` in the trailers.
    async fn grpc(asked: &'static [u8], message: &'static [u8], status: &'static str) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = at(listener.local_addr().unwrap());
        let serving = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            let (request, mut respond) = connection.accept().await.unwrap().unwrap();
            let answering = async move {
                assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
                let mut heard = BytesMut::new();
                let mut body = request.into_body();
                while let Some(piece) = body.data().await {
                    heard.extend_from_slice(&piece.unwrap());
                }
                assert_eq!(heard, asked);
                let head = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
                let mut sending = respond.send_response(head, false).unwrap();
                sending.send_data(Bytes::from_static(message), false).unwrap();
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", status.parse().unwrap());
                sending.send_trailers(trailers).unwrap();
            };
            tokio::join!(answering, async { while connection.accept().await.is_some() {} });
        });
        let said = Grpc::new("orders").ask(&endpoint).await;
        serving.abort();
        said
    }

    #[tokio::test]
    async fn the_grpc_health_service_is_understood() {
        let asked = b"\0\0\0\0\x08\x0a\x06orders";
        assert_eq!(grpc(asked, b"\0\0\0\0\x02\x08\x01", "0").await, Ok(()));
        assert_eq!(grpc(asked, b"\0\0\0\0\x02\x08\x02", "0").await, Err("gRPC health NOT_SERVING".into()));
        assert_eq!(grpc(asked, b"\0\0\0\0\0", "0").await, Err("gRPC health UNKNOWN".into()));
        assert_eq!(grpc(asked, b"", "5").await, Err("gRPC status 5".into()));
        assert!(grpc(asked, b"\0\0\0\0\x09\x08\x01", "0").await.unwrap_err().contains("HealthCheckResponse"));
    }

    #[test]
    fn no_answer_makes_the_reader_fall() {
        let framed = |message: &[u8]| [&[0, 0, 0, 0, message.len() as u8][..], message].concat();
        assert_eq!(serving(&framed(b"\x12\x02hi\x08\x01\x1d1234\x21\0\0\0\0\0\0\0\0")), Ok(()));
        for wrong in [&b""[..], b"\0", b"\x01\0\0\0\0", b"\0\0\0\0\x01\x08", b"\0\0\0\0\x02\x12\x7f", b"\0\0\0\0\x01\x0b"] {
            assert!(serving(wrong).is_err(), "{wrong:?}");
        }
        let mut seed = 7u64;
        for _ in 0..20_000 {
            let message: Vec<u8> = (0..seed % 12)
                .map(|_| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (seed >> 33) as u8
                })
                .collect();
            let _ = serving(&framed(&message));
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        }
    }
}
