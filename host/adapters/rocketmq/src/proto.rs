//! What is spoken of `apache.rocketmq.v2`, by hand: the machine that builds needs no protobuf compiler. Names and numbers of
//! fields are those of `apache/rocketmq/v2/{service,definition}.proto` of the repository apache/rocketmq-apis, and were compared
//! with the classes of rocketmq-proto 2.0.4, which RocketMQ 5.3.3 runs. A message has only the fields that are written or read here.

use prost_types::{Duration, Timestamp};
use std::collections::HashMap;

/// What went well, of the codes.
pub(crate) const OK: i32 = 20000;
/// `ClientType::PRODUCER`.
pub(crate) const PRODUCER: i32 = 1;
/// `MessageType::FIFO`: messages of one group go to one queue, in order.
pub(crate) const FIFO: i32 = 2;
/// `Encoding::IDENTITY`.
pub(crate) const IDENTITY: i32 = 1;
/// `Language::RUST`.
pub(crate) const RUST: i32 = 5;
/// `AddressScheme::IPv4` and `DOMAIN_NAME`.
pub(crate) const IPV4: i32 = 1;
pub(crate) const DOMAIN_NAME: i32 = 3;

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Status {
    #[prost(int32, tag = "1")]
    pub(crate) code: i32,
    #[prost(string, tag = "2")]
    pub(crate) message: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Resource {
    #[prost(string, tag = "2")]
    pub(crate) name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Address {
    #[prost(string, tag = "1")]
    pub(crate) host: String,
    #[prost(int32, tag = "2")]
    pub(crate) port: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Endpoints {
    #[prost(int32, tag = "1")]
    pub(crate) scheme: i32,
    #[prost(message, repeated, tag = "2")]
    pub(crate) addresses: Vec<Address>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct MessageQueue {
    #[prost(int32, tag = "2")]
    pub(crate) id: i32,
    #[prost(int32, repeated, tag = "5")]
    pub(crate) accept_message_types: Vec<i32>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct QueryRouteRequest {
    #[prost(message, optional, tag = "1")]
    pub(crate) topic: Option<Resource>,
    #[prost(message, optional, tag = "2")]
    pub(crate) endpoints: Option<Endpoints>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct QueryRouteResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) status: Option<Status>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) message_queues: Vec<MessageQueue>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SystemProperties {
    #[prost(string, repeated, tag = "2")]
    pub(crate) keys: Vec<String>,
    #[prost(string, tag = "3")]
    pub(crate) message_id: String,
    #[prost(int32, tag = "5")]
    pub(crate) body_encoding: i32,
    #[prost(int32, tag = "6")]
    pub(crate) message_type: i32,
    #[prost(message, optional, tag = "7")]
    pub(crate) born_timestamp: Option<Timestamp>,
    #[prost(string, tag = "8")]
    pub(crate) born_host: String,
    #[prost(string, optional, tag = "17")]
    pub(crate) message_group: Option<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Message {
    #[prost(message, optional, tag = "1")]
    pub(crate) topic: Option<Resource>,
    #[prost(map = "string, string", tag = "2")]
    pub(crate) user_properties: HashMap<String, String>,
    #[prost(message, optional, tag = "3")]
    pub(crate) system_properties: Option<SystemProperties>,
    #[prost(bytes = "bytes", tag = "4")]
    pub(crate) body: bytes::Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SendMessageRequest {
    #[prost(message, repeated, tag = "1")]
    pub(crate) messages: Vec<Message>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SendResultEntry {
    #[prost(message, optional, tag = "1")]
    pub(crate) status: Option<Status>,
    #[prost(int64, tag = "4")]
    pub(crate) offset: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct SendMessageResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) status: Option<Status>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) entries: Vec<SendResultEntry>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct HeartbeatRequest {
    #[prost(int32, tag = "2")]
    pub(crate) client_type: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct NotifyClientTerminationRequest {}

/// The answer of calls that say no more: Heartbeat, NotifyClientTermination.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    pub(crate) status: Option<Status>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Publishing {
    #[prost(message, repeated, tag = "1")]
    pub(crate) topics: Vec<Resource>,
    #[prost(int32, tag = "2")]
    pub(crate) max_body_size: i32,
    #[prost(bool, tag = "3")]
    pub(crate) validate_message_type: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct UserAgent {
    #[prost(int32, tag = "1")]
    pub(crate) language: i32,
    #[prost(string, tag = "2")]
    pub(crate) version: String,
    #[prost(string, tag = "4")]
    pub(crate) hostname: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Settings {
    #[prost(int32, optional, tag = "1")]
    pub(crate) client_type: Option<i32>,
    #[prost(message, optional, tag = "2")]
    pub(crate) access_point: Option<Endpoints>,
    #[prost(message, optional, tag = "4")]
    pub(crate) request_timeout: Option<Duration>,
    /// One of the two of `pub_sub`; the other, a subscription, is never ours.
    #[prost(message, optional, tag = "5")]
    pub(crate) publishing: Option<Publishing>,
    #[prost(message, optional, tag = "7")]
    pub(crate) user_agent: Option<UserAgent>,
}

/// What is said over the stream on which settings are exchanged. The server's other commands (stack traces, verification of a
/// message, orphaned transactions) are for clients that consume or have transactions: they are read as an empty command.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct TelemetryCommand {
    #[prost(message, optional, tag = "1")]
    pub(crate) status: Option<Status>,
    #[prost(message, optional, tag = "2")]
    pub(crate) settings: Option<Settings>,
}
