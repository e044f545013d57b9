//! The check by the gRPC health service: one call, and what its answer says.

use super::line::{Line, by_two};
use crate::client::Speaks;
use crate::tls;
use bytes::{BufMut, Bytes, BytesMut};
use std::sync::Arc;
use wharf_core::BoxFuture;
use wharf_core::outlet::{EndpointRef, Probe};

/// Bytes of the answer to a gRPC check; a good one has seven.
const GRPC_BODY_MAX: usize = 1024;

/// The gRPC health service (`grpc.health.v1.Health/Check`).
pub struct Grpc {
    service: Box<str>,
    line: Line,
    what: Box<str>,
}

impl Grpc {
    /// About this service; empty: about the whole server. By TLS, or in the clear with prior knowledge of HTTP/2.
    pub fn new(service: &str, tls: Option<Arc<tls::client::Client>>) -> Grpc {
        let about = if service.is_empty() { "gRPC health".to_owned() } else { format!("gRPC health of {service}") };
        let line = Line { speaks: Speaks::Http2, tls };
        Grpc { service: service.into(), what: format!("{about}{}", line.how()).into(), line }
    }

    async fn check(&self, endpoint: &EndpointRef) -> Result<(), String> {
        let (stream, _) = self.line.connect(endpoint).await?;
        by_two(stream, async |mut sender| {
            let request = http::Request::post(format!("{}://{}/grpc.health.v1.Health/Check", self.line.scheme(), endpoint.text))
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
        })
        .await
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;
    use wharf_core::outlet::Endpoint;

    /// A server that answers one call with this: a message in its frame, and a `grpc-status` in the trailers.
    async fn grpc(asked: &'static [u8], message: &'static [u8], status: &'static str) -> Result<(), String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let endpoint = Arc::new(Endpoint::new("s".into(), address, 1, None, [].into()));
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
        let said = Grpc::new("orders", None).ask(&endpoint).await;
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
