//! Checks buses and the ferry.

use super::*;
use wharf_ferry::codes::Statuses;
use wharf_ferry::config::{FarConfig, Mode, NearConfig, Order};
use wharf_ferry::envelope::PIECE_MARGIN;
use wharf_ferry::lane::Bounds;

/// What a record takes beside a message's value: its frame, its key.
const RECORD_MARGIN: usize = 4096;

impl Checker<'_> {
    pub(super) fn buses(&mut self, named: &Opt<Named<file::Bus>>) -> Vec<plan::Bus> {
        let mut buses = Vec::new();
        for (key, item) in entries(named) {
            let Some(name) = self.name_of(key, "bus") else { continue };
            let Some(bus) = item.get() else { continue };
            let kind = match (&bus.embedded, &bus.kafka) {
                (Some(embedded), None) => embedded.get().map(|embedded| plan::BusKind::Embedded {
                    keep: self.time(&embedded.keep, DAY, SECOND, 365 * DAY, "keep"),
                    bytes_max: self.size(&embedded.bytes_max, 4 * GIB, 64 * MIB, 1 << 50, "bytes_max"),
                    message_bytes_max: self.size(&embedded.message_bytes_max, MIB, 64 * KIB, 64 * MIB, "message_bytes_max") as usize,
                }),
                (None, Some(kafka)) => kafka.get().map(|kafka| plan::BusKind::Kafka(Arc::new(self.kafka(kafka)))),
                (given, _) => {
                    let message = if given.is_some() { "a bus is one thing" } else { "this bus is nothing" };
                    if given.is_some() || item.is_sound() {
                        self.say(item.place, message, "give one of `embedded` and `kafka`");
                    }
                    None
                }
            };
            buses.extend(kind.map(|kind| plan::Bus { name, kind }));
        }
        buses
    }

    fn kafka(&mut self, kafka: &file::KafkaBus) -> plan::KafkaBus {
        let brokers = kafka.brokers.get().map(Vec::as_slice).unwrap_or_default();
        if brokers.is_empty() && kafka.brokers.get().is_some() {
            self.say(kafka.brokers.place, "there are no brokers", "`brokers: [host:9092]`");
        }
        let tls = group(&kafka.tls).map(|tls| [&tls.ca, &tls.chain, &tls.key].map(|item| item.as_ref().and_then(|item| self.path(item))));
        let sasl = group(&kafka.sasl).and_then(|sasl| {
            let mechanism = sasl.mechanism.get()?;
            if !["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"].contains(&mechanism.as_str()) {
                let hint = "one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512";
                self.say(sasl.mechanism.place, format!("`{mechanism}` is not a mechanism that is spoken here"), hint);
            }
            let text = |item: &Item<String>| item.get().map(|text| text.as_str().into());
            Some((mechanism.as_str().into(), text(&sasl.user)?, text(&sasl.password)?))
        });
        let authority = |broker: &Item<String>| Some(broker.get()?.as_str().into());
        for broker in brokers {
            self.value(broker, values::authority);
        }
        plan::KafkaBus {
            brokers: brokers.iter().filter_map(authority).collect(),
            message_bytes_max: self.size(&kafka.message_bytes_max, 1_000_000, 16 * KIB, 256 * MIB, "message_bytes_max") as usize,
            send_within: self.time(&kafka.send_within, 10 * SECOND, 100 * MS, HOUR, "send_within"),
            queue_bytes_max: self.size(&kafka.queue_bytes_max, 32 * MIB, MIB, 2 * GIB, "queue_bytes_max"),
            tls,
            sasl,
            properties: entries(&kafka.properties)
                .iter()
                .filter_map(|(name, value)| Some((name.get()?.as_str().into(), value.get()?.as_str().into())))
                .collect(),
        }
    }

    pub(super) fn ferry(&mut self, file: &File, node: &plan::Node, buses: &[plan::Bus]) -> plan::Ferry {
        let ferry = group(&file.ferry);
        let near = self.near(of(ferry, |ferry| &ferry.near), buses);
        let far = self.far(of(ferry, |ferry| &ferry.far), node, buses);
        let worker = ferry.filter(|ferry| ferry.worker.is_some());
        if let (None, Some(first)) = (worker, entries(of(ferry, |ferry| &ferry.near)).first()) {
            self.say(
                first.0.place,
                "lanes need a worker id, and the ferry has none",
                "add `ferry: {worker: 1}`, with a number that no other node has",
            );
        }
        plan::Ferry {
            worker: worker.map(|ferry| self.number(&ferry.worker, 0, 0, 1023, "worker") as u16),
            spool_bytes_max: self.size(of(ferry, |ferry| &ferry.spool_bytes_max), 4 * GIB, MIB, 1 << 50, "spool_bytes_max"),
            near,
            far,
        }
    }

    fn near(&mut self, named: &Opt<Named<file::NearLane>>, buses: &[plan::Bus]) -> Vec<plan::NearLane> {
        let mut lanes = Vec::new();
        for (key, item) in entries(named) {
            let Some(name) = self.name_of(key, "lane") else { continue };
            let Some(lane) = item.get() else { continue };
            let Some(bus) = self.bus(&lane.bus, buses) else { continue };
            let usual = Statuses::default();
            let statuses = group(&lane.statuses);
            let mut status = |item: &Opt<Whole>, usual: u16, what| self.number(item, usual.into(), 200, 599, what) as u16;
            let statuses = Statuses {
                message_timeout: status(of(statuses, |s| &s.message_timeout), usual.message_timeout, "message_timeout"),
                message_error: status(of(statuses, |s| &s.message_error), usual.message_error, "message_error"),
                network_timeout: status(of(statuses, |s| &s.network_timeout), usual.network_timeout, "network_timeout"),
                system_error: status(of(statuses, |s| &s.system_error), usual.system_error, "system_error"),
            };
            let config = NearConfig {
                lane: name,
                topic: self.topic(&lane.topic, "wharf-ferry-request"),
                order: self.order(&lane.order_by),
                mode: match given(&lane.mode) {
                    None | Some(file::FerryMode::Asked) => Mode::Asked,
                    Some(file::FerryMode::Sync) => Mode::Sync,
                    Some(file::FerryMode::Async) => Mode::Async,
                },
                once_field: self.field(&lane.once_by, "idempotency-key"),
                keep: self.time(&lane.keep, HOUR, SECOND, 30 * DAY, "keep"),
                location: lane
                    .location
                    .as_ref()
                    .and_then(|item| self.value(item, values::path))
                    .unwrap_or_else(|| "/ferry/messages/".into()),
                statuses,
                waiters_max: self.number(&lane.waiters_max, 10_000, 1, 10_000_000, "waiters_max") as usize,
                piece_bytes: piece_bytes(bus),
                answer_bytes_max: u64::MAX,
            };
            lanes.push(plan::NearLane {
                bus: bus.name.clone(),
                partitions: self.number(&lane.partitions, 6, 1, 1024, "partitions"),
                reply_prefix: self.topic(&lane.reply_prefix, "wharf-ferry-reply-"),
                config: Arc::new(config),
            });
        }
        lanes
    }

    fn far(&mut self, named: &Opt<Named<file::FarLane>>, node: &plan::Node, buses: &[plan::Bus]) -> Vec<plan::FarLane> {
        let mut lanes = Vec::new();
        for (key, item) in entries(named) {
            let Some(name) = self.name_of(key, "lane") else { continue };
            let Some(lane) = item.get() else { continue };
            let Some(bus) = self.bus(&lane.bus, buses) else { continue };
            let topic = self.topic(&lane.topic, "wharf-ferry-request");
            let in_flight_max = self.number(&lane.in_flight_max, 512, 1, 100_000, "in_flight_max") as usize;
            let partitions = self.number(&lane.partitions, 6, 1, 1024, "partitions");
            let config = FarConfig {
                listener: name,
                node: node.name.clone(),
                parked_topic: format!("{topic}-parked").into(),
                ledger_topic: Some(format!("{topic}-ledger").into()),
                receipts_topic: Some(format!("{topic}-receipts").into()),
                topic,
                group: self.topic(&lane.group, "wharf-ferry"),
                reply_prefix: (*self.topic(&lane.reply_prefix, "wharf-ferry-reply-")).into(),
                window: self.time(&lane.once_window, 600 * SECOND, SECOND, 7 * DAY, "once_window"),
                keys_max: 1_000_000,
                bounds: Bounds {
                    in_flight_max,
                    held_max: in_flight_max.max(64) * 2,
                    rate: given(&lane.rate_max).map(|_| f64::from(self.number(&lane.rate_max, 1000, 1, 10_000_000, "rate_max"))),
                },
                tries_max: self.number(&lane.tries_max, 5, 1, 1000, "tries_max"),
                backoff: self.time(&lane.backoff, SECOND, MS, HOUR, "backoff"),
                patience: self.time(&lane.patience, 180 * SECOND, MS, DAY, "patience"),
                repeats_unknown: given(&lane.services_know_keys).copied().unwrap_or(false),
                once_field: self.field(&lane.once_by, "idempotency-key"),
                note_within: 20 * MS,
                piece_bytes: piece_bytes(bus),
                body_bytes_max: u64::MAX,
                answer_bytes_max: self.size(&lane.answer_bytes_max, 100 * MIB, 1, 1024 * GIB, "answer_bytes_max"),
            };
            lanes.push(plan::FarLane {
                bus: bus.name.clone(),
                partitions,
                members: self.number(&lane.members, 1, 1, 64, "members") as usize,
                dead_after: self.time(&lane.dead_after, 10 * SECOND, SECOND, 300 * SECOND, "dead_after"),
                config: Arc::new(config),
            });
        }
        lanes
    }

    fn bus<'b>(&mut self, item: &Item<String>, buses: &'b [plan::Bus]) -> Option<&'b plan::Bus> {
        let name = item.get()?;
        let found = buses.iter().find(|bus| *bus.name == **name);
        if found.is_none() {
            let names: Vec<String> = buses.iter().map(|bus| bus.name.to_string()).collect();
            let hint = if names.is_empty() { "add `buses: {main: {embedded: {}}}`".into() } else { nearest_or_all(name, &names) };
            self.say(item.place, format!("there is no bus `{name}`"), hint);
        }
        found
    }

    /// The name of a topic or group, as Kafka takes it.
    fn topic(&mut self, item: &Opt<String>, usual: &str) -> Arc<str> {
        let Some((place, name)) = item.as_ref().and_then(|item| Some((item.place, item.get()?))) else { return usual.into() };
        let valid =
            !name.is_empty() && name.len() <= 200 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        if !valid {
            self.say(place, format!("`{name}` is no name of a topic or group"), "1 to 200 of a-z, A-Z, 0-9, `.`, `_` and `-`");
        }
        name.as_str().into()
    }

    fn field(&mut self, item: &Opt<String>, usual: &str) -> Box<str> {
        item.as_ref().and_then(|item| self.value(item, values::field_name)).unwrap_or_else(|| usual.into())
    }

    fn order(&mut self, item: &Opt<NotShort<file::OrderBy>>) -> Order {
        let Some(NotShort(order)) = group(item) else { return Order::None };
        match order {
            file::OrderBy::Client => Order::Client,
            file::OrderBy::Path => Order::Path,
            file::OrderBy::Segments(count) => {
                let Some((place, given)) = count.get().map(|given| (count.place, given)) else { return Order::None };
                let Some(count) = given.within(1, 64) else {
                    self.say(place, format!("`segments` is {given}, and it may be a whole number from 1 to 64"), "count from the left");
                    return Order::None;
                };
                Order::Segments(count as usize)
            }
            file::OrderBy::Header(name) => self.value(name, values::field_name).map_or(Order::None, Order::Header),
        }
    }
}

/// What of a body fits one message of a bus.
fn piece_bytes(bus: &plan::Bus) -> usize {
    let max = match &bus.kind {
        plan::BusKind::Embedded { message_bytes_max, .. } => *message_bytes_max,
        plan::BusKind::Kafka(kafka) => kafka.message_bytes_max,
    };
    // A message has a head as well, of up to 32 KiB.
    max.saturating_sub(PIECE_MARGIN + RECORD_MARGIN).saturating_sub((max / 4).min(40 * 1024)).max(1024)
}
