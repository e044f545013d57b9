//! The far side: a member of a lane's group, and its tasks. What happens to one message stands in `flow.rs`.
//!
//! Three tasks on one core: one reads events and orders what came (`lane`), one writes down what is begun and done and starts
//! what has been written down as begun, and one for each message that is worked on. A message is begun only after
//! [`Source::note`] has said so: then it is nobody else's.

use crate::clock::{now_ms, now_us, steady};
use crate::config::FarConfig;
use crate::dedupe::{Dedupe, Key, Known};
use crate::envelope::{Envelope, Load, Piece, Reply, Request};
use crate::flow::{self, Cut};
use crate::hops::HopKind;
use crate::lane::{Item, Lane, Turn};
use crate::record::Recorder;
use crate::spool::Spool;
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::task::spawn_local;
use wharf_core::body::Body;
use wharf_core::bus::{Bus, BusError, BusErrorKind, Event, Mark, Message, Parcel, ReadFrom, Sink, Source, Standing};
use wharf_core::walk::Walk;

/// A member of a lane's group, on one core.
pub struct Far {
    pub(crate) config: Arc<FarConfig>,
    pub(crate) walk: Rc<dyn Walk>,
    pub(crate) spool: Spool,
    bus: Arc<dyn Bus>,
    source: Arc<dyn Source>,
    sink: Arc<dyn Sink>,
    recorder: Arc<Recorder>,
    lane: RefCell<Lane<Taken>>,
    dedupe: RefCell<Dedupe>,
    /// Begun, and to be written down before they are worked on.
    begun: RefCell<Vec<Item<Taken>>>,
    /// What came of partitions whose ledger is being read.
    early: RefCell<HashMap<u32, Vec<Message>>>,
    /// Offsets of pieces, by the message that they are for.
    pieces: RefCell<HashMap<u64, Pieces>>,
    /// The last sequence of each sender and run, by partition.
    sequences: RefCell<HashMap<(u32, u16, u64), u64>>,
    /// Something is begun, and to be written down at once.
    to_note: Notify,
    /// Something is done, and to be written down soon.
    done: Notify,
    /// The pace allows nothing before this; a task waits for it.
    paced: Cell<bool>,
    /// Told to end: nothing more is begun.
    ending: Cell<bool>,
}

/// Where the pieces of a body stand, and until when their message may come.
struct Pieces {
    partition: u32,
    turn: Turn,
    offsets: Vec<u64>,
    deadline_ms: u64,
}

/// A request that was taken.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    pub(crate) request: Rc<Request>,
    /// As it was kept, for whoever puts it aside.
    pub(crate) written: Bytes,
    pub(crate) key: Option<Bytes>,
    pub(crate) taken_us: u64,
    /// Somebody had begun it.
    pub(crate) was_begun: bool,
    /// Times that it was tried, without effect.
    pub(crate) tries: u32,
}

/// What is to be done with a message that was worked on.
pub(crate) enum Fate {
    /// It is done.
    Done,
    /// It had no effect, and is to be tried again: why.
    Again(Box<str>),
    /// The bus does not take what has to be said. The message stays begun.
    Stuck,
}

/// Between tries to say something to a bus that does not take it.
const SAY_AGAIN: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(2)];
/// A key that is being worked on is looked at again after this.
const KEY_BUSY: Duration = Duration::from_millis(50);
/// Longest wait between two tries of a message.
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// Bodies in pieces whose message has not come.
const PIECES_MAX: usize = 4096;
/// Remembered answers of requests with keys.
const ANSWERS_BYTES_MAX: usize = 32 << 20;

impl Far {
    /// A member that has joined and reads nothing yet.
    pub fn new(
        config: Arc<FarConfig>,
        bus: Arc<dyn Bus>,
        source: Arc<dyn Source>,
        walk: Rc<dyn Walk>,
        spool: Spool,
        recorder: Arc<Recorder>,
    ) -> Rc<Far> {
        Rc::new(Far {
            lane: RefCell::new(Lane::new(config.bounds, steady())),
            dedupe: RefCell::new(Dedupe::new(config.window, config.keys_max, ANSWERS_BYTES_MAX)),
            sink: bus.sink(),
            config,
            walk,
            spool,
            bus,
            source,
            recorder,
            begun: RefCell::default(),
            early: RefCell::default(),
            pieces: RefCell::default(),
            sequences: RefCell::default(),
            to_note: Notify::new(),
            done: Notify::new(),
            paced: Cell::new(false),
            ending: Cell::new(false),
        })
    }

    /// Serves until it is told to end (`end` resolves), and what is begun has ended or `grace` is over. Returns what the bus has
    /// said against it, if it was that.
    pub async fn serve(self: Rc<Far>, end: impl Future<Output = Duration>) -> Result<(), BusError> {
        let noting = spawn_local(self.clone().keep_noting());
        let reading = self.clone().read();
        let ended = tokio::select! {
            said = reading => said.map(|()| Duration::ZERO),
            grace = end => Ok(grace),
        };
        self.ending.set(true);
        if let Ok(grace) = ended {
            let over = steady() + grace;
            while self.lane.borrow().in_flight() > 0 && steady() < over {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            self.to_note.notify_one();
            let standings = self.changed();
            if !standings.is_empty() {
                let _ = tokio::time::timeout(Duration::from_secs(5), self.source.note(standings)).await;
            }
        }
        noting.abort();
        self.source.leave().await;
        ended.map(drop)
    }

    /// Messages that are begun, and those that wait as well.
    pub fn load(&self) -> (usize, usize) {
        let lane = self.lane.borrow();
        (lane.in_flight(), lane.held())
    }

    async fn read(self: Rc<Far>) -> Result<(), BusError> {
        loop {
            for event in self.source.next(512).await? {
                match event {
                    Event::Given { partition, standing } => self.given(partition, &standing),
                    Event::Asked { partition } => {
                        self.lane.borrow_mut().asked(partition);
                        self.to_note.notify_one();
                    }
                    Event::Lost { partition } => self.lost(partition),
                    Event::Message(message) => {
                        if let Some(message) = self.not_early(message) {
                            self.take(message).await;
                        }
                    }
                }
            }
            self.go();
        }
    }

    /// A message of a partition whose ledger is read; others wait for that.
    fn not_early(&self, message: Message) -> Option<Message> {
        match self.early.borrow_mut().get_mut(&message.place.partition) {
            Some(early) => {
                early.push(message);
                None
            }
            None => Some(message),
        }
    }

    fn given(self: &Rc<Far>, partition: u32, standing: &Standing) {
        let turn = self.lane.borrow_mut().given(partition, standing);
        tracing::info!(lane = &*self.config.listener, topic = &*self.config.topic, partition, next = standing.next, "partition taken over");
        let Some(ledger) = self.config.ledger_topic.clone() else { return };
        // What earlier members have done with keys comes first.
        self.early.borrow_mut().insert(partition, Vec::new());
        self.source.pause(partition, true);
        let far = self.clone();
        spawn_local(async move {
            while let Err(error) = far.read_ledger(&ledger, partition).await {
                tracing::warn!(topic = &*ledger, partition, %error, "the ledger cannot be read; its partition waits for it");
                tokio::time::sleep(SAY_AGAIN[1]).await;
                if !far.lane.borrow().is_ours(partition, turn) {
                    return;
                }
            }
            if !far.lane.borrow().is_ours(partition, turn) {
                return;
            }
            let early = far.early.borrow_mut().remove(&partition).unwrap_or_default();
            for message in early {
                far.take(message).await;
            }
            far.source.pause(partition, false);
            far.go();
        });
    }

    fn lost(&self, partition: u32) {
        self.lane.borrow_mut().lost(partition);
        self.dedupe.borrow_mut().lost(partition);
        self.early.borrow_mut().remove(&partition);
        self.sequences.borrow_mut().retain(|(of, ..), _| *of != partition);
        let mut gone = Vec::new();
        self.pieces.borrow_mut().retain(|id, pieces| {
            let stays = pieces.partition != partition;
            if !stays {
                gone.push(*id);
            }
            stays
        });
        let spool = self.spool.clone();
        spawn_local(async move {
            for id in gone {
                spool.forget(id).await;
            }
        });
        tracing::info!(lane = &*self.config.listener, topic = &*self.config.topic, partition, "partition given away");
    }

    async fn read_ledger(&self, ledger: &str, partition: u32) -> Result<(), BusError> {
        let extents = self.bus.books().extents(ledger, None).await?;
        let Some(extent) = extents.into_iter().find(|extent| extent.partition == partition) else {
            return Err(BusError::new(
                BusErrorKind::NoTopic,
                format!("topic {ledger:?} has no partition {partition}; hint: make it with as many as {:?}", self.config.topic),
            ));
        };
        let since = now_ms().saturating_sub(u64::try_from(self.config.window.as_millis()).unwrap_or(u64::MAX));
        let first = self.bus.books().offsets_at(ledger, since).await?.get(partition as usize).copied().unwrap_or(extent.first);
        if first >= extent.end {
            return Ok(());
        }
        let reader = self.bus.read(ledger, partition, ReadFrom::Offset(first))?;
        loop {
            for message in reader.next(1024).await? {
                let (offset, time_ms) = (message.place.offset, message.time_ms);
                if let Some(key) = message.key.as_deref().and_then(|key| Key::try_from(key).ok()) {
                    self.dedupe.borrow_mut().done(partition, key, time_ms, offset, message.value);
                }
                if offset + 1 >= extent.end {
                    return Ok(());
                }
            }
        }
    }

    async fn take(self: &Rc<Far>, message: Message) {
        let place = message.place;
        let Some((turn, mark)) = self.lane.borrow_mut().take(place.partition, place.offset) else { return };
        if mark == Mark::Done {
            return;
        }
        match Envelope::read(&message.value) {
            Ok(Envelope::Request(request)) => {
                self.count_on(place.partition, request.sender.worker, request.sender.run, request.sequence, request.id);
                let was_begun = mark == Mark::Begun || message.begun;
                let lane_key = flow::lane_key(&request);
                let Message { key, value: written, .. } = message;
                let taken = Taken { request: Rc::new(request), written, key, taken_us: now_us(), was_begun, tries: 0 };
                self.lane.borrow_mut().admit(Item { partition: place.partition, turn, offset: place.offset, key: lane_key, what: taken });
            }
            Ok(Envelope::Piece(piece)) => self.take_piece(place.partition, turn, place.offset, piece).await,
            Ok(Envelope::Reply(_) | Envelope::Hello(_)) => self.set_aside(message, turn, "it is no request"),
            Err(unreadable) => self.set_aside(message, turn, &unreadable.to_string()),
        }
    }

    async fn take_piece(&self, partition: u32, turn: Turn, offset: u64, piece: Piece) {
        self.count_on(partition, piece.worker, piece.run, piece.sequence, piece.id);
        let gone = {
            let mut all = self.pieces.borrow_mut();
            let of = all.entry(piece.id).or_insert(Pieces { partition, turn, offsets: Vec::new(), deadline_ms: piece.deadline_ms });
            of.offsets.push(offset);
            // Bodies whose message never came hold the partition's standing back.
            let now = now_ms();
            let late: Vec<u64> = all.iter().filter(|(id, of)| of.deadline_ms < now && **id != piece.id).map(|(id, _)| *id).collect();
            let many = (all.len() > PIECES_MAX).then(|| all.keys().min().copied()).flatten();
            let gone: Vec<_> = late.into_iter().chain(many).filter_map(|id| Some((id, all.remove(&id)?))).collect();
            gone
        };
        for (id, pieces) in gone {
            self.skip_pieces(&pieces);
            self.spool.forget(id).await;
        }
        self.spool.add(piece).await;
    }

    fn skip_pieces(&self, pieces: &Pieces) {
        let mut lane = self.lane.borrow_mut();
        pieces.offsets.iter().for_each(|offset| lane.skip(pieces.partition, pieces.turn, *offset));
    }

    /// A gap in a sender's numbers is a message that was lost on its way here.
    fn count_on(&self, partition: u32, worker: u16, run: u64, sequence: u64, id: u64) {
        let mut sequences = self.sequences.borrow_mut();
        let last = sequences.insert((partition, worker, run), sequence);
        if let Some(last) = last {
            if sequence > last + 1 {
                let lost = sequence - last - 1;
                self.recorder.gap(&self.config.topic, lost);
                tracing::warn!(
                    topic = &*self.config.topic,
                    partition,
                    worker,
                    run,
                    from = last + 1,
                    lost,
                    id,
                    "a gap: messages of this sender did not come; its journal knows them"
                );
            } else if sequence < last {
                // Read again from further back.
                sequences.insert((partition, worker, run), last.max(sequence));
            }
        } else {
            // Of earlier runs nothing more comes.
            sequences.retain(|(of, by, of_run), _| (*of, *by) != (partition, worker) || *of_run >= run);
        }
    }

    /// A record that is no message for us is put aside, and blocks nobody.
    fn set_aside(self: &Rc<Far>, message: Message, turn: Turn, why: &str) {
        let Message { place, key, value, .. } = message;
        self.recorder.count_unreadable(&self.config.topic);
        tracing::warn!(record = flow::named(&self.config.topic, place.partition, place.offset), why, "a record is put aside");
        let parcel = self.parked(place.partition, place.offset, key, value, why);
        let far = self.clone();
        spawn_local(async move {
            if far.say(parcel, place.partition, turn).await.is_ok() {
                far.lane.borrow_mut().skip(place.partition, turn, place.offset);
                far.done.notify_one();
            }
        });
    }

    fn parked(&self, partition: u32, offset: u64, key: Option<Bytes>, value: Bytes, why: &str) -> Parcel {
        let fields = vec![
            (Arc::from("reason"), Bytes::copy_from_slice(why.as_bytes())),
            (Arc::from("from"), Bytes::from(flow::named(&self.config.topic, partition, offset))),
            (Arc::from("node"), Bytes::copy_from_slice(self.config.node.as_bytes())),
        ];
        Parcel { topic: self.config.parked_topic.clone(), partition, key, value, fields }
    }

    /// Begins what may begin, and tells the bus what is too much.
    fn go(self: &Rc<Far>) {
        if self.ending.get() {
            return;
        }
        let now = steady();
        let mut lane = self.lane.borrow_mut();
        let mut begun = self.begun.borrow_mut();
        let before = begun.len();
        loop {
            match lane.begin(now) {
                Ok(item) => begun.push(item),
                Err(then) => {
                    if let Some(then) = then.filter(|_| !self.paced.replace(true)) {
                        let far = self.clone();
                        spawn_local(async move {
                            tokio::time::sleep_until(then.into()).await;
                            far.paced.set(false);
                            far.go();
                        });
                    }
                    break;
                }
            }
        }
        if begun.len() > before {
            self.to_note.notify_one();
        }
        let early = self.early.borrow();
        for (partition, paused) in lane.pauses() {
            // While its ledger is read it is paused anyhow.
            if !early.contains_key(&partition) {
                self.source.pause(partition, paused);
            }
        }
    }

    /// Writes down what is begun and done, and starts what has been written down as begun.
    async fn keep_noting(self: Rc<Far>) {
        let mut wait = SAY_AGAIN[0];
        loop {
            if self.begun.borrow().is_empty() {
                if self.lane.borrow().is_changed() {
                    // What is done can wait for company, what is to begin cannot.
                    let _ = tokio::time::timeout(self.config.note_within, self.to_note.notified()).await;
                } else {
                    tokio::select! {
                        () = self.to_note.notified() => {}
                        () = self.done.notified() => {}
                    }
                }
            }
            let begun = std::mem::take(&mut *self.begun.borrow_mut());
            let changed = self.lane.borrow_mut().changed();
            if changed.is_empty() {
                self.start(begun);
                self.release();
                continue;
            }
            let standings = changed.iter().map(|(partition, _, standing)| (*partition, standing.clone())).collect();
            match self.source.note(standings).await {
                Ok(()) => {
                    wait = SAY_AGAIN[0];
                    self.start(begun);
                }
                Err(error) => {
                    self.not_noted(&error, changed, begun).await;
                    if error.kind != BusErrorKind::NotYours {
                        tokio::time::sleep(wait).await;
                        wait = (wait * 2).min(SAY_AGAIN[1]);
                    }
                }
            }
            self.release();
        }
    }

    fn start(self: &Rc<Far>, begun: Vec<Item<Taken>>) {
        for item in begun {
            if self.lane.borrow().is_ours(item.partition, item.turn) {
                spawn_local(self.clone().run(item));
            }
        }
    }

    /// It was not written down: nothing of it is started before it is.
    async fn not_noted(self: &Rc<Far>, error: &BusError, changed: Vec<(u32, Turn, Standing)>, begun: Vec<Item<Taken>>) {
        if error.kind == BusErrorKind::NotYours {
            // Of one partition at least; the others are.
            for (partition, turn, standing) in changed {
                match self.source.note(vec![(partition, standing)]).await {
                    Ok(()) => {}
                    Err(error) if error.kind == BusErrorKind::NotYours => self.lost(partition),
                    Err(_) => self.lane.borrow_mut().not_noted(partition, turn),
                }
            }
        } else {
            tracing::warn!(lane = &*self.config.listener, %error, "what is begun cannot be written down; nothing more is begun until it can");
            let mut lane = self.lane.borrow_mut();
            changed.iter().for_each(|(partition, turn, _)| lane.not_noted(*partition, *turn));
        }
        // Before those that came since. What was written down after all is written down again.
        let mut lane = self.lane.borrow_mut();
        begun.iter().for_each(|item| lane.not_noted(item.partition, item.turn));
        self.begun.borrow_mut().splice(0..0, begun);
    }

    fn release(self: &Rc<Far>) {
        let free = self.lane.borrow().to_release();
        for partition in free {
            self.lost(partition);
            self.source.release(partition);
        }
    }

    fn changed(&self) -> Vec<(u32, Standing)> {
        let changed = self.lane.borrow_mut().changed();
        changed.into_iter().map(|(partition, _, standing)| (partition, standing)).collect()
    }

    /// Works on one message until it is done.
    async fn run(self: Rc<Far>, mut item: Item<Taken>) {
        let (partition, turn, offset) = (item.partition, item.turn, item.offset);
        let once = item.what.request.once.as_ref().map(flow::key_of);
        let fate = flow::work(&self, (partition, turn, offset), &item.what).await;
        if let Some(once) = &once {
            self.dedupe.borrow_mut().forget(partition, once);
        }
        match fate {
            Fate::Done => {
                let pieces = match &item.what.request.load {
                    Load::Pieces { .. } => self.pieces.borrow_mut().remove(&item.what.request.id),
                    _ => None,
                };
                if let Some(pieces) = pieces {
                    self.skip_pieces(&pieces);
                }
                self.lane.borrow_mut().end(partition, turn, offset, item.key);
                self.done.notify_one();
                self.go();
            }
            Fate::Again(why) => {
                self.recorder.hop(item.what.request.id, HopKind::Retried, &self.config.node, now_us(), &why);
                if !self.lane.borrow_mut().put_back(partition, turn, offset) {
                    return;
                }
                self.done.notify_one();
                self.go();
                item.what.tries += 1;
                item.what.was_begun = false;
                let backoff = self.config.backoff.saturating_mul(1 << (item.what.tries - 1).min(16)).min(BACKOFF_MAX);
                tokio::time::sleep(backoff).await;
                self.lane.borrow_mut().again(item);
                self.go();
            }
            // It stays begun: who has the partition next is told.
            Fate::Stuck => {}
        }
    }

    // What the life of a message asks for.

    /// The answer of an earlier request with this key; waits for one that is being worked on. `None`: there is none, and this
    /// one is it from now on.
    pub(crate) async fn known(&self, partition: u32, key: &Key, deadline_ms: u64) -> Option<Reply> {
        loop {
            let known = self.dedupe.borrow_mut().ask(partition, key, now_ms());
            match known {
                Known::Nothing => {
                    self.dedupe.borrow_mut().begin(partition, *key);
                    return None;
                }
                Known::Calling if deadline_ms <= now_ms() => {
                    let detail = "another message with its key was worked on until its deadline".into();
                    return Some(Reply { code: crate::codes::Code::MessageTimeout.number(), detail, ..Reply::default() });
                }
                Known::Calling => tokio::time::sleep(KEY_BUSY).await,
                Known::Done(_, Some(written)) => return flow::stored(&written),
                Known::Done(offset, None) => return self.read_stored(partition, offset).await,
            }
        }
    }

    async fn read_stored(&self, partition: u32, offset: u64) -> Option<Reply> {
        let ledger = self.config.ledger_topic.as_ref()?;
        let reader = self.bus.read(ledger, partition, ReadFrom::Offset(offset)).ok()?;
        let messages = tokio::time::timeout(Duration::from_secs(10), reader.next(1)).await.ok()?.ok()?;
        flow::stored(&messages.first().filter(|message| message.place.offset == offset)?.value)
    }

    /// Says what came of a message: to its ledger where it has a key, and home.
    pub(crate) async fn answered(&self, (partition, turn): (u32, Turn), request: &Request, reply: Reply, key: Option<Key>) -> Fate {
        let kept = async {
            let (Some(key), Some(ledger)) = (key, &self.config.ledger_topic) else { return Ok(()) };
            let mut kept = Reply { hops: Vec::new(), ..reply.clone() };
            if let Load::Pieces { bytes, .. } = kept.load {
                kept = Reply {
                    code: crate::codes::Code::SystemError.number(),
                    detail: format!("it was done; its answer had {bytes} bytes, which is more than is kept for requests with the same key")
                        .into(),
                    load: Load::None,
                    fields: Vec::new(),
                    ..kept
                };
            }
            let value = kept.write();
            let parcel = Parcel { key: Some(Bytes::copy_from_slice(&key)), ..Parcel::new(ledger.clone(), partition, value.clone()) };
            let place = self.say(parcel, partition, turn).await?;
            self.dedupe.borrow_mut().done(partition, key, now_ms(), place.offset, value);
            Ok(())
        };
        let home = async {
            let Some(topic) = self.home_of(request) else { return Ok(()) };
            match self.say(Parcel::new(topic.clone(), 0, reply.write()), partition, turn).await {
                // Nobody can ever read it there.
                Err(error) if error.kind == BusErrorKind::NoTopic => {
                    tracing::warn!(topic = &*topic, id = request.id, %error, "an answer has no lane to go home by; it is dropped");
                    Ok(())
                }
                said => said.map(drop),
            }
        };
        let (kept, home): (Result<(), BusError>, Result<(), BusError>) = futures_util::future::join(kept, home).await;
        self.recorder.far(&self.config.node, request, &reply);
        if kept.is_ok() && home.is_ok() { Fate::Done } else { Fate::Stuck }
    }

    /// Where word of a message goes: only to lanes that are meant for it, whatever the message says.
    fn home_of(&self, request: &Request) -> Option<Arc<str>> {
        let lane = &*request.sender.reply_lane;
        if lane.starts_with(&*self.config.reply_prefix) {
            return Some(lane.into());
        }
        self.config.receipts_topic.clone()
    }

    /// The body of an answer: within its message, or before it.
    pub(crate) async fn answer_body(&self, request: &Request, body: Body) -> Result<(Load, u64), String> {
        let config = &self.config;
        let topic = self.home_of(request);
        let send = |number, bytes| {
            let piece =
                Piece { id: request.id, number, run: request.sender.run, deadline_ms: request.deadline_ms, bytes, ..Piece::default() };
            let (tell, told) = oneshot::channel();
            let Some(topic) = topic.clone() else { return Err(BusError::new(BusErrorKind::NoTopic, "nobody reads the answer")) };
            self.sink.send(Parcel::new(topic, 0, piece.write()), Box::new(move |said| drop(tell.send(said)))).map(|()| told)
        };
        flow::gather(body, config.piece_bytes, config.answer_bytes_max, |_| {}, send).await.map_err(|cut| match cut {
            Cut::Body(fault) => fault.to_string(),
            Cut::Bus(error) => error.to_string(),
            Cut::TooLarge => {
                format!("the answer has more than the {} bytes that are carried back (`answer_bytes_max`)", config.answer_bytes_max)
            }
        })
    }

    /// Puts a message aside, with the reason.
    ///
    /// # Errors
    /// What becomes of the message instead.
    pub(crate) async fn park(&self, (partition, turn, offset): (u32, Turn, u64), taken: &Taken, why: &str) -> Result<(), Fate> {
        let parcel = self.parked(partition, offset, taken.key.clone(), taken.written.clone(), why);
        self.recorder.count_parked(&self.config.topic);
        self.say(parcel, partition, turn).await.map(drop).map_err(|_| Fate::Stuck)
    }

    /// May a message that nobody waits for, and that had no effect, be tried again?
    pub(crate) fn may_try_again(&self, word: &str, taken: &Taken) -> bool {
        flow::had_no_effect(word) && taken.tries + 1 < self.config.tries_max && taken.request.deadline_ms > now_ms()
    }

    /// Sends until it is kept, as long as the message that it is about is ours.
    async fn say(&self, parcel: Parcel, partition: u32, turn: Turn) -> Result<wharf_core::bus::Place, BusError> {
        let mut wait = SAY_AGAIN[0];
        loop {
            match flow::sent(&*self.sink, parcel.clone()).await {
                Err(error) if matches!(error.kind, BusErrorKind::Full | BusErrorKind::Unreachable | BusErrorKind::Storage) => {
                    if !self.lane.borrow().is_ours(partition, turn) {
                        return Err(error);
                    }
                    tokio::time::sleep(wait).await;
                    wait = (wait * 2).min(SAY_AGAIN[1]);
                }
                said => return said,
            }
        }
    }
}
