//! What a member does by itself: says that it is there, shares, locks, claims, fetches, gives back.

use crate::cluster::Pulled;
use crate::layout::{self, Layout};
use crate::parcel;
use crate::source::{Holding, Shared};
use futures_util::future::join_all;
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::time::sleep;
use wharf_core::bus::{BusError, BusErrorKind, Event, Standing};

/// How often the broker hears that the member is there; it forgets a silent one after two minutes.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(5);
/// Who does not ask for so long is taken for dead.
const SILENT_MAX: Duration = Duration::from_secs(300);
/// A standing is written anew after this time: it must not get old enough to be removed from the log, and who reads the log, to claim
/// or to see whether it is still its own, reads from there on.
const NOTE_AGAIN: Duration = Duration::from_secs(60);
/// Longest wait of one fetch.
const FETCH_WAIT: Duration = Duration::from_secs(10);
/// After a fetch that failed.
const FETCH_AGAIN: Duration = Duration::from_millis(200);
/// After a fetch that brought nothing.
const FETCH_PAUSE: Duration = Duration::from_millis(20);
/// Bytes of one partition that are fetched ahead.
const FETCHED_BYTES_MAX: usize = 8 << 20;

/// What a member remembers from one look to the next.
#[derive(Default)]
struct Looks {
    beat_at: Option<Instant>,
    /// Who was there, and since when it is they.
    present: Vec<String>,
    present_since: Option<Instant>,
}

/// Until the member leaves.
pub(crate) async fn look_after(shared: Arc<Shared>) {
    let (mut looks, mut is_well) = (Looks::default(), true);
    let (topic, group) = (&shared.ledger.topic, &shared.ledger.group);
    loop {
        if shared.state().is_leaving {
            return leave(&shared).await;
        }
        match tick(&shared, &mut looks).await {
            Ok(()) => is_well = true,
            Err(error) if error.kind == BusErrorKind::Unreachable => {
                if std::mem::take(&mut is_well) {
                    tracing::warn!(%topic, %group, %error, "rocketmq is out of reach; trying again");
                }
            }
            Err(error) => {
                shared.state().failure = Some(error);
                shared.news.notify_one();
            }
        }
        tokio::select! {
            () = sleep(shared.ledger.cluster.config.tick) => {}
            () = shared.wake.notified() => {}
            () = shared.ledger.cluster.lines.members_changed.notified() => {}
        }
    }
}

async fn tick(shared: &Arc<Shared>, looks: &mut Looks) -> Result<(), BusError> {
    let (ledger, cluster) = (&shared.ledger, &shared.ledger.cluster);
    tire(shared);
    let layout = cluster.layout(&ledger.topic).await?;
    ledger.provide(layout.queues.len() as u32).await?;
    let given_back = give_back(shared, &layout).await;
    let brokers = layout.brokers();
    if shared.state().silent_for() > SILENT_MAX {
        given_back?;
        return go_silent(shared, &layout).await;
    }

    let mut present = present(shared, &brokers).await?;
    let is_there = |present: &[String]| present.iter().any(|member| **member == *shared.client);
    let mut beaten = Ok(());
    if looks.beat_at.is_none_or(|at: Instant| at.elapsed() >= HEARTBEAT_EVERY) || !is_there(&present) {
        // Every broker hears of the member, since each hands out its own queues; one that is away does not stop the others.
        for (_, broker) in &brokers {
            let beat = cluster.heartbeat(broker, &shared.client, &ledger.group, &[&ledger.topic, ledger.log()]).await;
            beaten = beaten.and(beat);
        }
        looks.beat_at = Some(Instant::now());
        present = self::present(shared, &brokers).await?;
    }

    let none = BTreeSet::new();
    let share: BTreeSet<u32> = layout::share(layout.queues.len() as u32, &present, &shared.client).collect();
    ask_back(shared, &share);
    if looks.present_since.is_none() || looks.present != present {
        (looks.present, looks.present_since) = (present, Some(Instant::now()));
    }
    // More is taken only once nobody has come or gone for a while: when a broker comes back, members find back one after the other,
    // and the first would take everything.
    let is_settled = looks.present_since.is_some_and(|since| since.elapsed() >= cluster.config.tick);
    let locked = lock(shared, &layout, if is_settled { &share } else { &none }).await;
    let remembered = remember(shared).await;
    given_back.and(beaten).and(locked).and(remembered)
}

/// Who is in the group for this topic, as the first broker says that answers: all members ask in the same order.
async fn present(shared: &Shared, brokers: &[(Arc<str>, Box<str>)]) -> Result<Vec<String>, BusError> {
    let mut last = Ok(Vec::new());
    for (_, broker) in brokers {
        last = shared.ledger.cluster.members(broker, &shared.ledger.group).await;
        if last.is_ok() {
            break;
        }
    }
    let topic = format!("#{}", shared.ledger.topic);
    Ok(last?.into_iter().filter(|member| member.ends_with(&topic)).collect())
}

/// Partitions that are not this member's share any more are asked for, once.
fn ask_back(shared: &Shared, share: &BTreeSet<u32>) {
    let mut guard = shared.state();
    let state = &mut *guard;
    for (partition, holding) in &mut state.held {
        if !share.contains(partition) && holding.asked_at.is_none() {
            holding.asked_at = Some(Instant::now());
            holding.fetched.clear();
            holding.task.abort();
            state.events.push_back(Event::Asked { partition: *partition });
            shared.news.notify_one();
        }
    }
}

/// What was asked for and not released in time is taken.
fn tire(shared: &Shared) {
    let mut state = shared.state();
    let is_late = |holding: &Holding| holding.asked_at.is_some_and(|at| at.elapsed() > shared.release_within);
    let late: Vec<u32> = state.held.iter().filter(|(_, holding)| is_late(holding)).map(|(partition, _)| *partition).collect();
    for partition in late {
        shared.lose(&mut state, partition);
        state.let_go.push((partition, None));
    }
}

/// Unlocks what was let go, after what was noted last has been remembered. What cannot be unlocked yet stays let go.
async fn give_back(shared: &Shared, layout: &Layout) -> Result<(), BusError> {
    let let_go = std::mem::take(&mut shared.state().let_go);
    let ledger = &shared.ledger;
    for (partition, remembered) in &let_go {
        if let Some((next, noted)) = remembered {
            // Without it the log is read from further back.
            let _ = ledger.remember(*partition, *next, *noted).await;
        }
    }
    let queue_of = |partition: u32| layout.queues.get(partition as usize);
    let mut result = Ok(());
    for (broker, address) in layout.brokers() {
        let is_here = |partition: u32| queue_of(partition).is_some_and(|queue| queue.broker == broker);
        let here: Vec<u32> = let_go.iter().map(|(partition, _)| *partition).filter(|partition| is_here(*partition)).collect();
        let queues: Vec<_> = here.iter().filter_map(|partition| queue_of(*partition)).collect();
        if queues.is_empty() {
            continue;
        }
        let unlocked = ledger.cluster.unlock(&address, &shared.client, &ledger.group, &ledger.topic, &queues).await;
        if unlocked.is_err() {
            shared.state().let_go.extend(here.into_iter().map(|partition| (partition, None)));
        }
        result = result.and(unlocked);
    }
    result
}

/// Holds the locks that there are, takes those that are free, and claims what it has got.
async fn lock(shared: &Arc<Shared>, layout: &Layout, share: &BTreeSet<u32>) -> Result<(), BusError> {
    let ledger = &shared.ledger;
    let held: BTreeSet<u32> = shared.state().held.keys().copied().collect();
    let wanted: BTreeSet<u32> = held.union(share).copied().collect();
    let (mut result, mut new) = (Ok(()), Vec::new());
    for (broker, address) in layout.brokers() {
        let here: Vec<(u32, _)> =
            wanted.iter().filter_map(|partition| Some((*partition, layout.queues.get(*partition as usize)?))).collect();
        let here: Vec<(u32, _)> = here.into_iter().filter(|(_, queue)| queue.broker == broker).collect();
        if here.is_empty() {
            continue;
        }
        let queues: Vec<_> = here.iter().map(|(_, queue)| *queue).collect();
        match ledger.cluster.lock(&address, &shared.client, &ledger.group, &ledger.topic, &queues).await {
            Err(error) => result = result.and(Err(error)),
            Ok(locked) => {
                let mut state = shared.state();
                for (partition, queue) in here {
                    let is_locked = locked.contains(queue);
                    if held.contains(&partition) && !is_locked {
                        shared.lose(&mut state, partition);
                    } else if is_locked && !held.contains(&partition) && !state.let_go.iter().any(|(gone, _)| *gone == partition) {
                        new.push(partition);
                    }
                }
            }
        }
    }
    let claims = new.iter().map(async |&partition| {
        let session = shared.stamp.number();
        (partition, session, ledger.claim(partition, session).await)
    });
    for (partition, session, claimed) in join_all(claims).await {
        match claimed {
            Ok((standing, noted)) => give(shared, partition, session, standing, noted),
            Err(error) => {
                shared.state().let_go.push((partition, None));
                result = result.and(Err(error));
            }
        }
    }
    result
}

fn give(shared: &Arc<Shared>, partition: u32, session: u64, standing: Standing, noted: u64) {
    tracing::info!(topic = %shared.ledger.topic, group = %shared.ledger.group, partition, next = standing.next, "partition given");
    let (changed, room) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let mut state = shared.state();
    if state.is_leaving {
        state.let_go.push((partition, None));
        return;
    }
    state.events.push_back(Event::Given { partition, standing: standing.clone() });
    let task = tokio::spawn(fetch(shared.clone(), partition, session, changed.clone(), room.clone()));
    let from = standing.next;
    let holding = Holding {
        session,
        noted,
        noted_at: Instant::now(),
        standing,
        is_news: true,
        asked_at: None,
        is_paused: false,
        from,
        floor: from,
        fetched: VecDeque::new(),
        fetched_bytes: 0,
        changed,
        room,
        task,
    };
    state.held.insert(partition, holding);
    shared.news.notify_one();
}

/// Fetches a partition's messages for as long as it is the session's.
async fn fetch(shared: Arc<Shared>, partition: u32, session: u64, changed: Arc<Notify>, room: Arc<Notify>) {
    let (ledger, cluster) = (&shared.ledger, &shared.ledger.cluster);
    let mut is_well = true;
    loop {
        let from = {
            let state = shared.state();
            let Some(holding) = state.held.get(&partition).filter(|holding| holding.session == session) else { return };
            let has_room = holding.fetched.len() < cluster.config.fetched_max && holding.fetched_bytes < FETCHED_BYTES_MAX;
            (has_room && !holding.is_paused).then_some(holding.from)
        };
        let Some(from) = from else {
            room.notified().await;
            continue;
        };
        let pulled = tokio::select! {
            pulled = cluster.pull(&ledger.group, &ledger.topic, partition, from, FETCH_WAIT) => pulled,
            () = changed.notified() => continue,
        };
        match pulled {
            Ok(pulled) => {
                is_well = true;
                let is_idle = pulled.messages.is_empty() && pulled.next == from;
                if !take_in(&shared, partition, session, from, pulled) {
                    return;
                }
                if is_idle {
                    // Nothing came although it was waited for, or the broker does not wait at present.
                    sleep(FETCH_PAUSE).await;
                }
            }
            Err(error) => {
                if std::mem::take(&mut is_well) {
                    tracing::warn!(topic = %ledger.topic, partition, %error, "messages cannot be fetched; trying again");
                }
                if error.kind != BusErrorKind::Unreachable {
                    shared.state().failure = Some(error);
                    shared.news.notify_one();
                }
                sleep(FETCH_AGAIN).await;
            }
        }
    }
}

/// Takes in what was fetched from `from` on. `false`: the partition is not the session's any more, or asked for.
fn take_in(shared: &Shared, partition: u32, session: u64, from: u64, pulled: Pulled) -> bool {
    let mut state = shared.state();
    let is_its = |holding: &&mut Holding| holding.session == session && holding.asked_at.is_none();
    let Some(holding) = state.held.get_mut(&partition).filter(is_its) else { return false };
    // Otherwise a seek came between.
    if holding.from == from {
        holding.from = pulled.next;
        for kept in pulled.messages.into_iter().filter(|kept| kept.offset >= holding.floor) {
            let message = parcel::read(kept, partition);
            holding.fetched_bytes += message.value.len();
            holding.fetched.push_back(message);
        }
        shared.news.notify_one();
    }
    true
}

/// Tells the broker how far the group is, where that is news, and writes standings anew that are old.
async fn remember(shared: &Shared) -> Result<(), BusError> {
    let news: Vec<(u32, u64, u64, u64)> = {
        let mut state = shared.state();
        let news = state.held.iter_mut().filter_map(|(partition, holding)| {
            std::mem::take(&mut holding.is_news).then_some((*partition, holding.session, holding.standing.next, holding.noted))
        });
        news.collect()
    };
    for (partition, session, next, noted) in news {
        if let Err(error) = shared.ledger.remember(partition, next, noted).await {
            if let Some(holding) = shared.state().held.get_mut(&partition).filter(|holding| holding.session == session) {
                holding.is_news = true;
            }
            return Err(error);
        }
    }
    note_again(shared).await
}

/// Old standings are written anew, unless a note is being written.
async fn note_again(shared: &Shared) -> Result<(), BusError> {
    let Ok(_turn) = shared.noting.try_lock() else { return Ok(()) };
    let old: Vec<(u32, u64, u64, Standing)> = {
        let state = shared.state();
        let old = state.held.iter().filter(|(_, holding)| holding.noted_at.elapsed() >= NOTE_AGAIN);
        old.map(|(partition, holding)| (*partition, holding.session, holding.noted, holding.standing.clone())).collect()
    };
    for (partition, session, after, standing) in old {
        let noted = shared.ledger.note(partition, session, after, &standing).await?;
        if let Some(holding) = shared.state().held.get_mut(&partition).filter(|holding| holding.session == session) {
            (holding.noted, holding.noted_at, holding.is_news) = (noted, Instant::now(), true);
        }
    }
    Ok(())
}

/// What a member owes before it goes.
async fn leave(shared: &Shared) {
    let held = std::mem::take(&mut shared.state().held);
    let gone = held.iter().map(|(partition, holding)| (*partition, holding.is_news.then_some((holding.standing.next, holding.noted))));
    shared.state().let_go.extend(gone);
    drop(held);
    if let Ok(layout) = shared.ledger.cluster.layout(&shared.ledger.topic).await {
        let _ = give_back(shared, &layout).await;
        for (_, broker) in layout.brokers() {
            let _ = shared.ledger.cluster.unregister(&broker, &shared.client, &shared.ledger.group).await;
        }
    }
}

/// Nobody has asked for minutes: others are to have its partitions. It comes back when somebody asks.
async fn go_silent(shared: &Shared, layout: &Layout) -> Result<(), BusError> {
    {
        let mut state = shared.state();
        let held: Vec<u32> = state.held.keys().copied().collect();
        if !held.is_empty() {
            let (topic, group) = (&shared.ledger.topic, &shared.ledger.group);
            tracing::warn!(%topic, %group, "this member has not asked for minutes; its partitions are given back");
        }
        for partition in held {
            shared.lose(&mut state, partition);
            state.let_go.push((partition, None));
        }
    }
    give_back(shared, layout).await?;
    for (_, broker) in layout.brokers() {
        shared.ledger.cluster.unregister(&broker, &shared.client, &shared.ledger.group).await?;
    }
    Ok(())
}
