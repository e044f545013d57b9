//! RocketMQ 5 behind the doors of the bus. What it is made of, and what was found out about 5.3.3 by trying it.
//!
//! **Two protocols.** Messages are sent by gRPC v2 ([`SendBy::Grpc`]: `Telemetry`, `Heartbeat`, `QueryRoute`, `SendMessage`,
//! `NotifyClientTermination`). They are read by the remoting protocol, from the broker that has the queue, because what
//! gRPC v2 has for reading cannot be a member of a group as the doors mean it:
//! - `ReceiveMessage` is POP: it names a broker and never a queue (the proxy does not look at the queue's number), it begins
//!   nowhere in particular, cannot go back, and hands messages of one queue to several members side by side;
//! - `PullMessage`, `QueryOffset`, `GetOffset`, `UpdateOffset` are in the definitions and answered with UNIMPLEMENTED;
//! - there are no locks, no offsets and no member lists in it.
//!
//! A proxy in local mode serves neither of that at its remoting port ("not implemented in LocalMessageService"), so the name
//! servers are asked where brokers are, as RocketMQ's own classic clients do. In cluster mode the proxies' remoting port may be
//! named in the place of name servers; that was not tried.
//!
//! **Where a message goes.** The proxy does not look at a message's `queue_id` either. A request with one message that has a
//! message group goes to the queue that a consistent hash of the group gives; one with several goes anywhere. So a
//! partition is a queue, each has a group whose hash leads there (`spread`), and a request carries one message. Topics need
//! the attribute `message.type=FIFO`: others are refused with 40014. While a broker is away the proxy spreads over the rest: topics on
//! several brokers are sent to by remoting ([`SendBy::Remoting`]), with the queue named; it is also the faster way, by about twice.
//!
//! **What is kept once, and twice.** There is no idempotent producer. A message whose answer was lost is looked for by
//! its id (`UNIQ_KEY`) and sent again if it is not there (`sink`); what a slow broker keeps after that look is there twice.
//!
//! **Standings** are a log in a topic beside, `<topic>-standings`, whose order is the fence (`marks`, `ledger`). It must keep its records
//! (`fileReservedTime`, 72 hours by default) for longer than a group with marks stays away; a living member writes its own anew
//! every minute. What is left after that is the offset that the broker keeps for the group.
//!
//! RocketMQ's own tools see a group's offsets and lag, and cannot move it: the log has the last word
//! ([`wharf_core::bus::Books::move_group`] writes to both).
//!
//! **How fast a death is noticed** is the broker's setting for all groups: a closed connection at once, a silent one after two
//! minutes, and the locks of either a minute after the last word (`rocketmq.broker.rebalance.lockMaxLiveTime`). `dead_after`
//! changes none of it.
//!
//! **What else differs.** How long messages are kept is one setting of the broker, not of a topic. A value may have 4 MiB less what the
//! broker adds. A broker that is started again is known to the name server about ten seconds later. All connections are plain TCP.
//! A group's name may serve several topics: members are told apart by the topic in their client id.
//!
//! | file | what it knows |
//! | --- | --- |
//! | `bus`, `sink`, `source`, `reader`, `books` | the doors |
//! | `member` | what a member does by itself: heartbeats, shares, locks, claims, fetching |
//! | `ledger` over `marks` | the log of standings |
//! | `proxy` over `proto` | gRPC v2 |
//! | `cluster` over `lines` and `frame` | remoting: questions, connections, bytes |
//! | `layout`, `spread`, `parcel`, `text` | pure: which queue a partition is, which group leads there, how a message is written |

mod books;
mod bus;
mod cluster;
mod config;
mod frame;
mod gate;
mod layout;
mod ledger;
mod lines;
mod marks;
mod member;
mod parcel;
mod proto;
mod proxy;
mod reader;
mod sign;
mod sink;
mod source;
mod spread;
mod stamp;
mod text;

pub use bus::RocketMqBus;
pub use config::{Credentials, PARCEL_BYTES_MAX, RocketMqConfig, SendBy};
