//! Which queue of which broker a partition is, and where that broker is reached. Pure.
//!
//! Partitions are numbered over the queues in the order of broker names and queue numbers. A broker that is away vanishes from the
//! name server's answer, and the numbers of the others must not move up: what was seen once stays. A process that starts while a
//! broker is away would number otherwise, unless the topic is made as an ordered one (`mqadmin updateTopic -o true`), whose
//! brokers the name server lists for good. Queues that are added later take part after a restart.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A partition's queue.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Queue {
    pub(crate) broker: Arc<str>,
    pub(crate) id: u32,
}

/// A topic's queues and its brokers' addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Layout {
    /// By partition.
    pub(crate) queues: Vec<Queue>,
    /// Masters, by broker.
    pub(crate) addresses: BTreeMap<Arc<str>, Box<str>>,
}

/// A queue may be read and written.
const READ_WRITE: u64 = 6;
/// More queues than any topic has: a wrong answer must not take all memory.
const QUEUES_MAX: u64 = 65_536;

impl Layout {
    /// As the name server says it.
    pub(crate) fn read(route: &Value) -> Layout {
        let list = |name: &str| route.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let text = |of: &Value, name: &str| of.get(name).and_then(Value::as_str).map(Arc::<str>::from);
        let mut layout = Layout::default();
        for broker in list("brokerDatas") {
            let master = broker.get("brokerAddrs").and_then(|all| all.get("0")).and_then(Value::as_str);
            if let (Some(name), Some(master)) = (text(broker, "brokerName"), master) {
                layout.addresses.insert(name, master.into());
            }
        }
        let mut queues = BTreeSet::new();
        let mut add = |broker: &Arc<str>, count: u64| {
            queues.extend((0..count.min(QUEUES_MAX) as u32).map(|id| Queue { broker: broker.clone(), id }));
        };
        for data in list("queueDatas") {
            let number = |name: &str| data.get(name).and_then(Value::as_u64).unwrap_or_default();
            if let Some(broker) = text(data, "brokerName")
                && number("perm") & READ_WRITE == READ_WRITE
            {
                add(&broker, number("readQueueNums").min(number("writeQueueNums")));
            }
        }
        // `broker:queues;broker:queues` of an ordered topic.
        let ordered = route.get("orderTopicConf").and_then(Value::as_str).unwrap_or_default();
        for (broker, count) in ordered.split(';').filter_map(|part| part.split_once(':')) {
            add(&broker.into(), count.parse().unwrap_or_default());
        }
        layout.queues = queues.into_iter().collect();
        layout
    }

    /// What is known after `seen` has been seen: its addresses, and the queues of both only where nothing was known.
    pub(crate) fn after(self, seen: Layout) -> Layout {
        let mut addresses = self.addresses;
        addresses.extend(seen.addresses);
        let queues = if self.queues.is_empty() { seen.queues } else { self.queues };
        Layout { queues, addresses }
    }

    /// The only broker that has queues of it.
    pub(crate) fn only_broker(&self) -> Option<&Arc<str>> {
        let first = &self.queues.first()?.broker;
        self.queues.iter().all(|queue| queue.broker == *first).then_some(first)
    }

    /// The addresses of brokers that have queues of it, in the order of their names.
    pub(crate) fn brokers(&self) -> Vec<(Arc<str>, Box<str>)> {
        let named: BTreeSet<&Arc<str>> = self.queues.iter().map(|queue| &queue.broker).collect();
        named.into_iter().filter_map(|name| Some((name.clone(), self.addresses.get(name)?.clone()))).collect()
    }
}

/// Which partitions are this member's, of so many: as equal parts as can be, in the members' order. All members come to the
/// same answer; while they do not see the same members, the broker's locks say who has a queue.
pub(crate) fn share(partitions: u32, members: &[String], member: &str) -> std::ops::Range<u32> {
    let (Ok(at), count) = (members.binary_search_by(|other| other.as_str().cmp(member)), members.len() as u64) else { return 0..0 };
    let from = |at: u64| (u64::from(partitions) * at / count) as u32;
    from(at as u64)..from(at as u64 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn route(brokers: &[(&str, &str, u32)], ordered: &str) -> Layout {
        let master = |(name, at, _): &(&str, &str, u32)| json!({"brokerName": name, "brokerAddrs": {"0": at}});
        let queues =
            |(name, _, read): &(&str, &str, u32)| json!({"brokerName": name, "readQueueNums": read, "writeQueueNums": 4, "perm": 6});
        let (masters, queues): (Vec<_>, Vec<_>) = (brokers.iter().map(master).collect(), brokers.iter().map(queues).collect());
        Layout::read(&json!({"orderTopicConf": ordered, "brokerDatas": masters, "queueDatas": queues}))
    }

    fn named(layout: &Layout) -> Vec<String> {
        layout.queues.iter().map(|queue| format!("{}/{}", queue.broker, queue.id)).collect()
    }

    #[test]
    fn partitions_are_numbered_over_brokers_and_stay() {
        let all = route(&[("b", "h:2", 2), ("a", "h:1", 1)], "");
        assert_eq!(named(&all), ["a/0", "b/0", "b/1"]);
        let without = all.clone().after(route(&[("b", "h:3", 2)], ""));
        assert_eq!(named(&without), named(&all));
        assert_eq!(without.brokers(), [("a".into(), "h:1".into()), ("b".into(), "h:3".into())]);
        assert_eq!((all.only_broker(), route(&[("b", "h", 2)], "").only_broker()), (None, Some(&"b".into())));
    }

    #[test]
    fn an_ordered_topic_knows_its_brokers_while_one_is_away() {
        assert_eq!(named(&route(&[("b", "h:2", 1)], "a:1;b:1")), ["a/0", "b/0"]);
    }

    #[test]
    fn members_share_all_partitions_and_none_twice() {
        let members: Vec<String> = ["a", "b", "c"].map(str::to_owned).to_vec();
        for partitions in [0, 1, 2, 3, 7, 64] {
            let shared: Vec<u32> = members.iter().flat_map(|member| share(partitions, &members, member)).collect();
            assert_eq!(shared, (0..partitions).collect::<Vec<u32>>());
        }
        assert_eq!(share(4, &members, "stranger"), 0..0);
    }
}
