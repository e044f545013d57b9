//! What is asked of name servers and brokers, each question a function. Knows codes and fields; decides nothing.

use crate::config::{RocketMqConfig, SendBy};
use crate::frame::{self, Fields, Frame, Kept};
use crate::layout::{Layout, Queue};
use crate::lines::Lines;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::time::sleep;
use wharf_core::bus::{BusError, BusErrorKind};

// `RequestCode` of 5.3.3.
const PULL: u32 = 11;
const QUERY_OFFSET: u32 = 14;
const UPDATE_OFFSET: u32 = 15;
const MAKE_TOPIC: u32 = 17;
const SEARCH_OFFSET: u32 = 29;
const MAX_OFFSET: u32 = 30;
const MIN_OFFSET: u32 = 31;
const HEARTBEAT: u32 = 34;
const UNREGISTER: u32 = 35;
const MEMBERS: u32 = 38;
const LOCK: u32 = 41;
const UNLOCK: u32 = 42;
const ROUTE: u32 = 105;
const BROKERS: u32 = 106;
const SEND: u32 = 310;

// `ResponseCode`, those that are told apart.
const SUCCESS: i64 = 0;
const ILLEGAL: i64 = 13;
const NO_PERMISSION: i64 = 16;
const NO_TOPIC: i64 = 17;
const PULL_NOTHING: i64 = 19;
const PULL_AGAIN: i64 = 20;
const PULL_MOVED: i64 = 21;
const NOT_FOUND: i64 = 22;
const NO_GROUP: i64 = 26;

/// A pull waits for messages (bit 1) and says itself what it wants (bit 2), so that it needs no group to be registered.
const PULL_FLAGS: u32 = 2 | 4;
/// Messages of one pull; brokers hand out 32 at most by default.
const PULL_MAX: usize = 32;
/// How long a layout is taken for true.
const LAYOUT_AGE_MAX: Duration = Duration::from_secs(30);
/// After trouble it is looked at anew, at most so often.
const LAYOUT_AGE_MIN: Duration = Duration::from_millis(500);
/// Between two looks for a topic that was just made.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Topics whose layouts are remembered.
const TOPICS_MAX: usize = 4096;

/// The name servers and brokers, over connections of one client.
pub(crate) struct Cluster {
    pub(crate) config: Arc<RocketMqConfig>,
    pub(crate) lines: Lines,
    /// Of all clients of one bus: a broker that is away for one is away for the others, too.
    layouts: Arc<Layouts>,
}

/// Layouts that were seen.
#[derive(Default)]
pub(crate) struct Layouts(Mutex<HashMap<Box<str>, Seen>>);

struct Seen {
    layout: Arc<Layout>,
    at: Instant,
    is_doubted: bool,
}

/// What came of a pull.
pub(crate) struct Pulled {
    pub(crate) messages: Vec<Kept>,
    /// Where to go on.
    pub(crate) next: u64,
}

impl Cluster {
    pub(crate) fn new(config: Arc<RocketMqConfig>, layouts: Arc<Layouts>) -> Cluster {
        let lines = Lines::new(config.credentials.clone());
        Cluster { config, lines, layouts }
    }

    /// Another client of the same cluster, with connections of its own: a broker knows members by them.
    pub(crate) fn another(&self) -> Cluster {
        Cluster::new(self.config.clone(), self.layouts.clone())
    }

    /// A topic's layout, as fresh as need be.
    pub(crate) async fn layout(&self, topic: &str) -> Result<Arc<Layout>, BusError> {
        let seen = {
            let layouts = self.layouts.0.lock().unwrap_or_else(PoisonError::into_inner);
            layouts.get(topic).map(|seen| (seen.layout.clone(), seen.at.elapsed(), seen.is_doubted))
        };
        if let Some((layout, age, is_doubted)) = &seen
            && *age < if *is_doubted { LAYOUT_AGE_MIN } else { LAYOUT_AGE_MAX }
        {
            return Ok(layout.clone());
        }
        let known = seen.map(|(layout, ..)| layout);
        match (self.route(topic).await, known) {
            (Ok(new), known) => {
                let layout = known.as_deref().cloned().unwrap_or_default().after(new);
                if layout.queues.is_empty() {
                    return Err(no_topic(topic, "no queue of it may be read and written"));
                }
                let layout = Arc::new(layout);
                let mut layouts = self.layouts.0.lock().unwrap_or_else(PoisonError::into_inner);
                if layouts.len() >= TOPICS_MAX {
                    layouts.clear();
                }
                layouts.insert(topic.into(), Seen { layout: layout.clone(), at: Instant::now(), is_doubted: false });
                Ok(layout)
            }
            // Its brokers are away, or the name servers are: it is reached again where it was.
            (Err(_), Some(known)) => Ok(known),
            (Err(error), None) => Err(error),
        }
    }

    /// The layout did not lead there: it may be another by now.
    fn doubt(&self, topic: &str) {
        if let Some(seen) = self.layouts.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(topic) {
            seen.is_doubted = true;
        }
    }

    async fn route(&self, topic: &str) -> Result<Layout, BusError> {
        let fields = Fields::from([("topic", topic.to_owned()), ("acceptStandardJsonOnly", "true".to_owned())]);
        let answer = self.ask_names(ROUTE, fields).await?;
        match answer.code {
            SUCCESS => Ok(Layout::read(&json_of(&answer)?)),
            NO_TOPIC => Err(no_topic(topic, "the name server knows none")),
            _ => Err(said_no(&answer, format_args!("the route of topic {topic}"))),
        }
    }

    /// The brokers' masters, by name.
    pub(crate) async fn brokers(&self) -> Result<Vec<(Box<str>, Box<str>)>, BusError> {
        let answer = self.ask_names(BROKERS, Fields::new()).await?;
        if answer.code != SUCCESS {
            return Err(said_no(&answer, format_args!("the list of brokers")));
        }
        let said = json_of(&answer)?;
        let table = said.get("brokerAddrTable").and_then(Value::as_object);
        let master = |broker: &Value| broker.get("brokerAddrs")?.get("0")?.as_str().map(Box::from);
        let mut brokers: Vec<_> =
            table.into_iter().flatten().filter_map(|(name, broker)| Some((name.as_str().into(), master(broker)?))).collect();
        brokers.sort();
        Ok(brokers)
    }

    /// The first name server that answers.
    async fn ask_names(&self, code: u32, fields: Fields) -> Result<Frame, BusError> {
        let mut last = BusError::new(BusErrorKind::Refused, "no name server of rocketmq is given; hint: list at least one");
        for names in &self.config.names {
            match self.lines.ask(names, code, fields.clone(), &[], self.config.call_within).await {
                Ok(answer) => return Ok(answer),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Asks the broker of a partition. `own` are the fields beside topic and queue.
    async fn ask_at(&self, code: u32, topic: &str, partition: u32, own: Fields, body: &[u8], within: Duration) -> Result<Frame, BusError> {
        let layout = self.layout(topic).await?;
        let Queue { broker, id } = layout
            .queues
            .get(partition as usize)
            .ok_or_else(|| no_topic(topic, &format!("it has {} partitions, and not one with number {partition}", layout.queues.len())))?;
        let mut fields = own;
        // A proxy is told the broker by its name; a broker does not look.
        fields.insert("bname", broker.to_string());
        if code == SEND {
            fields.extend([("n", broker.to_string()), ("b", topic.to_owned()), ("e", id.to_string())]);
        } else {
            fields.extend([("topic", topic.to_owned()), ("queueId", id.to_string())]);
        }
        let answer = match layout.addresses.get(broker) {
            Some(address) => self.lines.ask(address, code, fields, body, within).await,
            None => Err(BusError::new(
                BusErrorKind::Unreachable,
                format!("rocketmq's name server knows no master of broker {broker} at present"),
            )),
        };
        if answer.as_ref().is_err_and(|error| error.kind == BusErrorKind::Unreachable) {
            self.doubt(topic);
        }
        answer
    }

    /// Messages of a partition from `offset` on. Waits up to `wait` for the first.
    pub(crate) async fn pull(&self, group: &str, topic: &str, partition: u32, offset: u64, wait: Duration) -> Result<Pulled, BusError> {
        let flags = if wait.is_zero() { PULL_FLAGS & !2 } else { PULL_FLAGS };
        let own = Fields::from([
            ("consumerGroup", group.to_owned()),
            ("queueOffset", offset.to_string()),
            ("maxMsgNums", PULL_MAX.to_string()),
            ("sysFlag", flags.to_string()),
            ("commitOffset", "0".to_owned()),
            ("suspendTimeoutMillis", wait.as_millis().to_string()),
            ("subscription", "*".to_owned()),
            ("subVersion", "0".to_owned()),
            ("expressionType", "TAG".to_owned()),
        ]);
        let answer = self.ask_at(PULL, topic, partition, own, &[], wait + self.config.call_within).await?;
        let next = answer.number("nextBeginOffset").and_then(|next| u64::try_from(next).ok()).unwrap_or(offset);
        match answer.code {
            SUCCESS => {
                let messages = frame::messages(answer.body.clone());
                let messages = messages.map_err(|_| {
                    BusError::new(
                        BusErrorKind::Refused,
                        format!("a message of topic {topic}, partition {partition}, cannot be read: its form is not known"),
                    )
                })?;
                Ok(Pulled { messages, next })
            }
            PULL_NOTHING | PULL_AGAIN | PULL_MOVED => Ok(Pulled { messages: Vec::new(), next }),
            _ => Err(said_no(&answer, format_args!("messages of topic {topic}, partition {partition}, for group {group}"))),
        }
    }

    /// Sends with the queue named; answers with the offset.
    pub(crate) async fn send(&self, topic: &str, partition: u32, properties: &str, body: &[u8]) -> Result<u64, BusError> {
        let born = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let own = Fields::from([
            ("a", "wharf".to_owned()),
            ("c", "TBW102".to_owned()),
            ("d", "4".to_owned()),
            ("f", "0".to_owned()),
            ("g", born.to_string()),
            ("h", "0".to_owned()),
            ("i", properties.to_owned()),
            ("j", "0".to_owned()),
            ("k", "false".to_owned()),
            ("m", "false".to_owned()),
        ]);
        let answer = self.ask_at(SEND, topic, partition, own, body, self.config.call_within).await?;
        let offset = answer.number("queueOffset").and_then(|offset| u64::try_from(offset).ok());
        match (answer.code, offset) {
            (SUCCESS, Some(offset)) => Ok(offset),
            _ => Err(said_no(&answer, format_args!("a message for topic {topic}, partition {partition}"))),
        }
    }

    /// Offset of the oldest message.
    pub(crate) async fn first(&self, topic: &str, partition: u32) -> Result<u64, BusError> {
        self.offset(MIN_OFFSET, topic, partition, Fields::new()).await
    }

    /// Offset that the next message will have.
    pub(crate) async fn end(&self, topic: &str, partition: u32) -> Result<u64, BusError> {
        self.offset(MAX_OFFSET, topic, partition, Fields::new()).await
    }

    /// Offset of the first message that was kept at or after this time; the end where there is none.
    pub(crate) async fn at_time(&self, topic: &str, partition: u32, time_ms: u64) -> Result<u64, BusError> {
        let own = Fields::from([("timestamp", time_ms.to_string()), ("boundaryType", "lower".to_owned())]);
        self.offset(SEARCH_OFFSET, topic, partition, own).await
    }

    async fn offset(&self, code: u32, topic: &str, partition: u32, own: Fields) -> Result<u64, BusError> {
        let answer = self.ask_at(code, topic, partition, own, &[], self.config.call_within).await?;
        match (answer.code, answer.number("offset").and_then(|offset| u64::try_from(offset).ok())) {
            (SUCCESS, Some(offset)) => Ok(offset),
            _ => Err(said_no(&answer, format_args!("an offset of topic {topic}, partition {partition}"))),
        }
    }

    /// The offset that is kept for a group.
    pub(crate) async fn group_offset(&self, group: &str, topic: &str, partition: u32) -> Result<Option<u64>, BusError> {
        let own = Fields::from([("consumerGroup", group.to_owned()), ("setZeroIfNotFound", "false".to_owned())]);
        let answer = self.ask_at(QUERY_OFFSET, topic, partition, own, &[], self.config.call_within).await?;
        match answer.code {
            SUCCESS => Ok(answer.number("offset").and_then(|offset| u64::try_from(offset).ok())),
            NOT_FOUND => Ok(None),
            _ => Err(said_no(&answer, format_args!("the offset of group {group} in topic {topic}, partition {partition}"))),
        }
    }

    /// Keeps an offset for a group; the broker writes it down some seconds later.
    pub(crate) async fn set_group_offset(&self, group: &str, topic: &str, partition: u32, offset: u64) -> Result<(), BusError> {
        let own = Fields::from([("consumerGroup", group.to_owned()), ("commitOffset", offset.to_string())]);
        let answer = self.ask_at(UPDATE_OFFSET, topic, partition, own, &[], self.config.call_within).await?;
        match answer.code {
            SUCCESS => Ok(()),
            _ => Err(said_no(&answer, format_args!("to keep the offset of group {group} in topic {topic}, partition {partition}"))),
        }
    }

    /// Makes a topic: where messages are sent by gRPC on the first broker, otherwise on all that are there, as evenly as can be.
    pub(crate) async fn make_topic(&self, topic: &str, partitions: u32, attributes: &str) -> Result<(), BusError> {
        let mut brokers = self.brokers().await?;
        if self.config.send_by == SendBy::Grpc {
            brokers.truncate(1);
        }
        if brokers.is_empty() {
            return Err(BusError::new(BusErrorKind::Unreachable, "rocketmq's name server knows no broker at present"));
        }
        let count = brokers.len() as u64;
        let before = |at: u64| (u64::from(partitions) * at).div_ceil(count) as u32;
        for (at, (_, address)) in (0..).zip(&brokers) {
            let queues = before(at + 1) - before(at);
            if queues > 0 {
                self.make_queues(address, topic, queues, attributes).await?;
            }
        }
        // A layout that was seen is kept, so it must not be seen before all of it is there.
        let end = Instant::now() + self.config.call_within;
        loop {
            match self.route(topic).await {
                Ok(layout) if layout.queues.len() >= partitions as usize => return Ok(()),
                Err(error) if Instant::now() > end => return Err(error),
                _ if Instant::now() > end => return Err(no_topic(topic, "it was made, and the name server does not know all of it yet")),
                _ => sleep(LOOK_EVERY).await,
            }
        }
    }

    async fn make_queues(&self, broker: &str, topic: &str, queues: u32, attributes: &str) -> Result<(), BusError> {
        let fields = Fields::from([
            ("topic", topic.to_owned()),
            ("defaultTopic", "TBW102".to_owned()),
            ("readQueueNums", queues.to_string()),
            ("writeQueueNums", queues.to_string()),
            ("perm", "6".to_owned()),
            ("topicFilterType", "SINGLE_TAG".to_owned()),
            ("topicSysFlag", "0".to_owned()),
            ("order", "false".to_owned()),
            ("attributes", attributes.to_owned()),
        ]);
        let answer = self.lines.ask(broker, MAKE_TOPIC, fields, &[], self.config.call_within).await?;
        match answer.code {
            SUCCESS => Ok(()),
            _ => Err(said_no(&answer, format_args!("to make topic {topic}"))),
        }
    }

    /// Somebody is making the topic, perhaps: its layout is looked at as if for the first time.
    pub(crate) fn forget(&self, topic: &str) {
        self.layouts.0.lock().unwrap_or_else(PoisonError::into_inner).remove(topic);
    }

    /// Tells a broker that a member is there, and what its group reads.
    pub(crate) async fn heartbeat(&self, broker: &str, client: &str, group: &str, topics: &[&str]) -> Result<(), BusError> {
        let read = |topic: &&str| {
            json!({
                "classFilterMode": false, "topic": topic, "subString": "*", "tagsSet": [], "codeSet": [], "subVersion": 1,
                "expressionType": "TAG",
            })
        };
        let topics: Vec<_> = topics.iter().map(read).collect();
        let body = json!({
            "clientID": client,
            "producerDataSet": [],
            "consumerDataSet": [{
                "groupName": group, "consumeType": "CONSUME_PASSIVELY", "messageModel": "CLUSTERING",
                "consumeFromWhere": "CONSUME_FROM_FIRST_OFFSET", "subscriptionDataSet": topics, "unitMode": false,
            }],
        });
        let answer = self.lines.ask(broker, HEARTBEAT, Fields::new(), body.to_string().as_bytes(), self.config.call_within).await?;
        if answer.code == SUCCESS { Ok(()) } else { Err(said_no(&answer, format_args!("the heartbeat of group {group}"))) }
    }

    /// Who is in a group, in the order of names.
    pub(crate) async fn members(&self, broker: &str, group: &str) -> Result<Vec<String>, BusError> {
        let fields = Fields::from([("consumerGroup", group.to_owned())]);
        let answer = self.lines.ask(broker, MEMBERS, fields, &[], self.config.call_within).await?;
        match answer.code {
            SUCCESS => {
                let said = json_of(&answer)?;
                let list = said.get("consumerIdList").and_then(Value::as_array).into_iter().flatten();
                let mut members: Vec<String> = list.filter_map(Value::as_str).map(str::to_owned).collect();
                members.sort();
                Ok(members)
            }
            // 5.3.3 says SYSTEM_ERROR with these words where there is none.
            _ if answer.remark.starts_with("no consumer for this group") => Ok(Vec::new()),
            _ => Err(said_no(&answer, format_args!("the members of group {group}"))),
        }
    }

    /// Locks queues for a member, or holds its locks; answers with those that it has now.
    pub(crate) async fn lock(
        &self,
        broker: &str,
        client: &str,
        group: &str,
        topic: &str,
        queues: &[&Queue],
    ) -> Result<Vec<Queue>, BusError> {
        let body = locks(client, group, topic, queues);
        let answer = self.lines.ask(broker, LOCK, Fields::new(), &body, self.config.call_within).await?;
        if answer.code != SUCCESS {
            return Err(said_no(&answer, format_args!("locks for group {group}")));
        }
        let said = json_of(&answer)?;
        let list = said.get("lockOKMQSet").and_then(Value::as_array).into_iter().flatten();
        let queue = |locked: &Value| {
            let id = u32::try_from(locked.get("queueId")?.as_u64()?).ok()?;
            Some(Queue { broker: locked.get("brokerName")?.as_str()?.into(), id })
        };
        Ok(list.filter_map(queue).collect())
    }

    /// Gives locks back.
    pub(crate) async fn unlock(&self, broker: &str, client: &str, group: &str, topic: &str, queues: &[&Queue]) -> Result<(), BusError> {
        let body = locks(client, group, topic, queues);
        self.lines.ask(broker, UNLOCK, Fields::new(), &body, self.config.call_within).await.map(|_| ())
    }

    /// Tells a broker that a member goes.
    pub(crate) async fn unregister(&self, broker: &str, client: &str, group: &str) -> Result<(), BusError> {
        let fields = Fields::from([("clientID", client.to_owned()), ("consumerGroup", group.to_owned())]);
        self.lines.ask(broker, UNREGISTER, fields, &[], self.config.call_within).await.map(|_| ())
    }
}

fn locks(client: &str, group: &str, topic: &str, queues: &[&Queue]) -> Vec<u8> {
    let queue = |queue: &&Queue| json!({"topic": topic, "brokerName": &*queue.broker, "queueId": queue.id});
    let body = json!({
        "consumerGroup": group, "clientId": client, "onlyThisBroker": false, "mqSet": queues.iter().map(queue).collect::<Vec<_>>(),
    });
    body.to_string().into_bytes()
}

fn json_of(answer: &Frame) -> Result<Value, BusError> {
    answer
        .json()
        .map_err(|_| BusError::new(BusErrorKind::Refused, "rocketmq answers what is no JSON; hint: its version may be too new or too old"))
}

/// There is no such topic, or not as it must be.
pub(crate) fn no_topic(topic: &str, why: &str) -> BusError {
    let hint = format!("`mqadmin updateTopic -t {topic} -a +message.type=FIFO -r N -w N`");
    BusError::new(BusErrorKind::NoTopic, format!("topic {topic} cannot be used on rocketmq: {why}; hint: {hint}"))
}

fn said_no(answer: &Frame, what: std::fmt::Arguments<'_>) -> BusError {
    let kind = match answer.code {
        NO_PERMISSION | ILLEGAL | NO_GROUP => BusErrorKind::Refused,
        NO_TOPIC => BusErrorKind::NoTopic,
        // Busy, starting, stopping, not flushed in time: another time it may say yes.
        _ => BusErrorKind::Unreachable,
    };
    let remark: String = answer.remark.chars().take(300).collect();
    BusError::new(kind, format!("rocketmq was asked for {what} and says no: code {}, {remark}", answer.code))
}
