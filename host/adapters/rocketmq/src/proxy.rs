//! The gRPC v2 road to the proxy: settings are exchanged on one stream that stays open, messages go by `SendMessage`.
//!
//! What 5.3.3 serves of gRPC v2 for reading is POP alone: `ReceiveMessage` names a broker and never a queue, begins nowhere, and
//! two members get messages of one queue side by side; `PullMessage`, `QueryOffset`, `GetOffset`, `UpdateOffset` are in the
//! definitions and answer UNIMPLEMENTED. So reading is [`crate::cluster`]'s.

use crate::config::RocketMqConfig;
use crate::proto;
use crate::sign;
use crate::stamp::Stamp;
use futures_util::StreamExt;
use futures_util::stream;
use http::uri::PathAndQuery;
use prost::Message;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tonic::client::Grpc;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};
use tonic_prost::ProstCodec;
use wharf_core::bus::{BusError, BusErrorKind};

/// How often the proxy hears that we are there.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(10);
/// After the stream of settings has ended it is opened again at most so often.
const AGAIN_EVERY: Duration = Duration::from_millis(500);
/// What this client calls its version: the protocol's first one in which all of this was there.
const CLIENT_VERSION: &str = "5.0.7";

/// A connection to the proxy, made again by itself. Dropping it ends it.
pub(crate) struct Proxy {
    calls: Calls,
    task: JoinHandle<()>,
}

#[derive(Clone)]
struct Calls {
    channel: Channel,
    config: Arc<RocketMqConfig>,
    client: Arc<str>,
    /// Largest body that the proxy takes, as it says; 0: it has not said.
    body_bytes_max: Arc<AtomicUsize>,
}

impl Proxy {
    /// Must be called within a runtime. Connects by itself.
    pub(crate) fn new(config: Arc<RocketMqConfig>, stamp: &Stamp) -> Result<Proxy, BusError> {
        let bad = |error: tonic::transport::Error| {
            BusError::new(BusErrorKind::Refused, format!("rocketmq's proxy cannot be at {}: {error}; hint: write host:port", config.grpc))
        };
        let endpoint = Endpoint::from_shared(format!("http://{}", config.grpc)).map_err(bad)?;
        let channel = endpoint.connect_timeout(config.call_within).tcp_nodelay(true).connect_lazy();
        let calls = Calls { channel, config, client: stamp.client("sender", ""), body_bytes_max: Arc::default() };
        let task = tokio::spawn(calls.clone().look_after());
        Ok(Proxy { calls, task })
    }

    /// Sends one message to the queue that its group leads to; answers with the offset.
    pub(crate) async fn send(&self, message: proto::Message) -> Result<u64, BusError> {
        let request = proto::SendMessageRequest { messages: vec![message] };
        let answer: proto::SendMessageResponse = self.calls.unary("SendMessage", request).await?;
        let entry = answer.entries.into_iter().next().unwrap_or_default();
        let status = entry.status.or(answer.status).unwrap_or_default();
        match status.code {
            proto::OK => Ok(u64::try_from(entry.offset).unwrap_or_default()),
            _ => Err(said_no(&status, "a message")),
        }
    }

    /// Does the topic take ordered messages?
    pub(crate) async fn takes_order(&self, topic: &str) -> Result<bool, BusError> {
        let request = proto::QueryRouteRequest {
            topic: Some(proto::Resource { name: topic.to_owned() }),
            endpoints: Some(self.calls.access_point()),
        };
        let answer: proto::QueryRouteResponse = self.calls.unary("QueryRoute", request).await?;
        let status = answer.status.unwrap_or_default();
        if status.code != proto::OK {
            return Err(said_no(&status, "the route of a topic"));
        }
        Ok(answer.message_queues.iter().all(|queue| queue.accept_message_types.contains(&proto::FIFO)))
    }

    /// Largest body that the proxy takes, where it has said so.
    pub(crate) fn body_bytes_max(&self) -> Option<usize> {
        Some(self.calls.body_bytes_max.load(Relaxed)).filter(|max| *max > 0)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
        let calls = self.calls.clone();
        // The proxy would notice by itself, later.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _: Result<proto::StatusResponse, _> =
                    calls.unary("NotifyClientTermination", proto::NotifyClientTerminationRequest {}).await;
            });
        }
    }
}

impl Calls {
    /// Exchanges settings, and again whenever the stream ends; heartbeats meanwhile. For as long as the client lives.
    async fn look_after(self) {
        let mut is_well = true;
        loop {
            let began = Instant::now();
            let ended = self.exchange_settings().await;
            is_well |= began.elapsed() > HEARTBEAT_EVERY;
            if let Err(error) = ended
                && std::mem::take(&mut is_well)
            {
                tracing::warn!(proxy = %self.config.grpc, %error, "rocketmq's proxy cannot be talked to; trying again");
            }
            sleep(AGAIN_EVERY).await;
        }
    }

    async fn exchange_settings(&self) -> Result<(), BusError> {
        let settings = proto::TelemetryCommand { status: None, settings: Some(self.settings()) };
        // The stream says its settings and then nothing, and stays open: the proxy forgets the client when it ends.
        let said = stream::once(async move { settings }).chain(stream::pending());
        let mut request = Request::new(said);
        self.sign(request.metadata_mut());
        let mut grpc = Grpc::new(self.channel.clone());
        let heard = timeout(self.config.call_within, async {
            grpc.ready().await.map_err(|error| unreachable(&self.config.grpc, &error.to_string()))?;
            let codec: ProstCodec<proto::TelemetryCommand, proto::TelemetryCommand> = ProstCodec::default();
            grpc.streaming(request, path("Telemetry"), codec).await.map_err(|status| self.failed(&status))
        });
        let mut heard = heard.await.map_err(|_| unreachable(&self.config.grpc, "no answer"))??.into_inner();
        loop {
            match timeout(HEARTBEAT_EVERY, heard.message()).await {
                Err(_) => self.heartbeat().await?,
                Ok(Ok(None)) => return Ok(()),
                Ok(Err(status)) => return Err(self.failed(&status)),
                Ok(Ok(Some(command))) => {
                    let publishing = command.settings.and_then(|settings| settings.publishing);
                    if let Some(max) = publishing.and_then(|publishing| usize::try_from(publishing.max_body_size).ok()) {
                        self.body_bytes_max.store(max, Relaxed);
                    }
                }
            }
        }
    }

    async fn heartbeat(&self) -> Result<(), BusError> {
        let _: proto::StatusResponse = self.unary("Heartbeat", proto::HeartbeatRequest { client_type: proto::PRODUCER }).await?;
        Ok(())
    }

    async fn unary<Q, A>(&self, method: &str, ask: Q) -> Result<A, BusError>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let mut request = Request::new(ask);
        // The proxy is told how long we wait, so that it does not wait longer.
        request.set_timeout(self.config.call_within);
        self.sign(request.metadata_mut());
        let mut grpc = Grpc::new(self.channel.clone());
        let answer = timeout(self.config.call_within, async {
            grpc.ready().await.map_err(|error| unreachable(&self.config.grpc, &error.to_string()))?;
            let codec: ProstCodec<Q, A> = ProstCodec::default();
            grpc.unary(request, path(method), codec).await.map_err(|status| self.failed(&status))
        });
        Ok(answer.await.map_err(|_| unreachable(&self.config.grpc, "no answer in time"))??.into_inner())
    }

    fn sign(&self, metadata: &mut MetadataMap) {
        let mut headers = std::mem::take(metadata).into_headers();
        for (name, value) in
            [("x-mq-client-id", &*self.client), ("x-mq-language", "RUST"), ("x-mq-client-version", CLIENT_VERSION), ("x-mq-protocol", "v2")]
        {
            if let Ok(value) = http::HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        }
        if let Some(credentials) = &self.config.credentials {
            sign::call(credentials, &mut headers);
        }
        *metadata = MetadataMap::from_headers(headers);
    }

    fn settings(&self) -> proto::Settings {
        proto::Settings {
            client_type: Some(proto::PRODUCER),
            access_point: Some(self.access_point()),
            request_timeout: prost_types::Duration::try_from(self.config.call_within).ok(),
            publishing: Some(proto::Publishing::default()),
            user_agent: Some(proto::UserAgent {
                language: proto::RUST,
                version: CLIENT_VERSION.to_owned(),
                hostname: self.client.to_string(),
            }),
        }
    }

    fn access_point(&self) -> proto::Endpoints {
        let (host, port) = self.config.grpc.rsplit_once(':').unwrap_or((&self.config.grpc, ""));
        let scheme = if host.parse::<std::net::Ipv4Addr>().is_ok() { proto::IPV4 } else { proto::DOMAIN_NAME };
        let address = proto::Address { host: host.to_owned(), port: port.parse().unwrap_or_default() };
        proto::Endpoints { scheme, addresses: vec![address] }
    }

    fn failed(&self, status: &tonic::Status) -> BusError {
        match status.code() {
            Code::Unauthenticated | Code::PermissionDenied | Code::Unimplemented | Code::InvalidArgument => {
                let message = format!(
                    "rocketmq's proxy {} refuses: {}; hint: look at its credentials and version",
                    self.config.grpc,
                    status.message()
                );
                BusError::new(BusErrorKind::Refused, message)
            }
            _ => unreachable(&self.config.grpc, status.message()),
        }
    }
}

fn path(method: &str) -> PathAndQuery {
    let path = format!("/apache.rocketmq.v2.MessagingService/{method}");
    // The methods are named in this file.
    PathAndQuery::try_from(path).unwrap_or_else(|_| PathAndQuery::from_static("/"))
}

fn unreachable(proxy: &str, why: &str) -> BusError {
    BusError::new(BusErrorKind::Unreachable, format!("rocketmq's proxy {proxy} is out of reach: {why}"))
}

fn said_no(status: &proto::Status, what: &str) -> BusError {
    let kind = match status.code {
        41_300..=41_399 | 43_100..=43_199 => BusErrorKind::TooLarge,
        // A topic that is gone or not registered yet again; too many requests; whatever the servers have trouble with.
        40_400..=40_499 | 40_800..=40_899 | 42_900..=42_999 | 50_000.. => BusErrorKind::Unreachable,
        _ => BusErrorKind::Refused,
    };
    let said: String = status.message.chars().take(300).collect();
    let hint = if status.code == 40_014 { "; hint: topics need the attribute message.type=FIFO" } else { "" };
    BusError::new(kind, format!("rocketmq's proxy was asked for {what} and says no: code {}, {said}{hint}", status.code))
}
