//! Connections that are made before a call needs them, and again when they have gone.
//!
//! Each core keeps its part of them, as its pools are its own. It looks once a second which endpoints get calls and how many
//! connections each of them lacks; the dials are tasks of the core, few at once. A dial that fails is no failure of anybody's
//! call, and says nothing about the endpoint: that is for calls and checks. [`Pace`] is pure.
//!
//! Where HTTP/2 is spoken one connection with room for a stream is all that a core wants.

use super::{Client, Dialect, Inner, Speaks, key_of, two};
use crate::deadlines::TICK;
use crate::tls;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use wharf_core::fault::{Blame, Fault};
use wharf_core::metrics::Count;
use wharf_core::outlet::{CallLimits, EndpointRef};

/// Dials of one core at once.
const DIALS_MAX: u32 = 16;
/// Of these to one endpoint; to one that has failed one.
const DIALS_TO_ONE_MAX: u32 = 4;
/// An endpoint that has failed is left alone for so long, twice as long each time again,
const LEAVE_FIRST: Duration = Duration::from_secs(1);
/// but no longer than this.
const LEAVE_MAX: Duration = Duration::from_secs(60);
/// Connections that have stood for so long were good; those of an endpoint that accepts and hangs up are not. Many servers
/// close after five idle seconds, and are dialled anew each time.
const STEADY: Duration = Duration::from_secs(2);

/// The connections of one service that one core keeps ready.
pub struct Warm {
    /// What its endpoints speak, and how.
    pub speaks: Speaks,
    /// TLS to them.
    pub tls: Option<Arc<tls::client::Client>>,
    /// Those that get calls, as of now. Asked once a second.
    pub endpoints: Box<dyn Fn() -> Vec<EndpointRef>>,
    /// Connections to each of them; at least 1. Those that calls use are among them.
    pub connections: u32,
    /// As calls have them. Of `connections_max` no more than half is taken: the rest is for whoever is busiest.
    pub limits: CallLimits,
    /// Connections made.
    pub made: Arc<Count>,
    /// Dials that failed.
    pub failed: Arc<Count>,
}

struct Wish {
    warm: Warm,
    dialect: Option<Rc<Dialect>>,
    /// `warm.limits`, with half of the connections.
    limits: CallLimits,
    /// Ticks for which connections stand if nothing is wrong.
    steady: u32,
}

/// What a core keeps ready.
#[derive(Default)]
pub(super) struct Warming {
    wishes: RefCell<Vec<Rc<Wish>>>,
    /// By what connections are kept under.
    places: RefCell<HashMap<u64, Rc<Place>>>,
    dials: Cell<u32>,
    /// There is reason to look before the second is over.
    due: Cell<bool>,
}

/// One endpoint.
#[derive(Default)]
struct Place {
    /// Connections of HTTP/1.1 that are open, at rest or not.
    open: Rc<Cell<u32>>,
    dials: Cell<u32>,
    pace: RefCell<Pace>,
}

/// Counts a connection among those of its endpoint while it is open.
pub(super) struct Open(Rc<Cell<u32>>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

impl Warming {
    /// A connection was made, by whomever.
    pub(super) fn opened(&self, key: u64) -> Option<Open> {
        let open = self.places.borrow().get(&key)?.open.clone();
        open.set(open.get() + 1);
        Some(Open(open))
    }

    pub(super) fn is_wanted(&self) -> bool {
        !self.wishes.borrow().is_empty()
    }
}

impl Client {
    /// Keeps these ready from now on, and no others. What is there stays: a service that both lists have is not warmed anew.
    pub fn keep_warm(&self, wanted: Vec<Warm>) {
        let wish = |warm: Warm| {
            let limits = CallLimits { connections_max: (warm.limits.connections_max / 2).max(1), ..warm.limits.clone() };
            let steady = ticks(STEADY.min(limits.idle / 2).min(limits.lifetime / 2));
            Rc::new(Wish { dialect: self.speaking(warm.speaks, warm.tls.clone()).dialect, warm, limits, steady })
        };
        let Warming { wishes, due, .. } = &self.inner.warming;
        // The old ones go last: the dialects that both have live on.
        let _before = wishes.replace(wanted.into_iter().map(wish).collect());
        due.set(true);
        self.inner.deadlines.stir();
    }

    /// Is there reason to look at once?
    pub(crate) fn is_warm_due(&self) -> bool {
        self.inner.warming.due.get()
    }

    /// Looks which connections are missing, and makes some of them. Called about once a second within the core's tasks.
    pub(crate) fn warm_up(&self) {
        let warming = &self.inner.warming;
        warming.due.set(false);
        let now = self.inner.deadlines.tick();
        let wishes: Vec<Rc<Wish>> = warming.wishes.borrow().clone();
        let mut seen = HashSet::new();
        for wish in wishes {
            for endpoint in (wish.warm.endpoints)() {
                let key = key_of(&endpoint, wish.dialect.as_ref());
                let place = warming.places.borrow_mut().entry(key).or_default().clone();
                seen.insert(key);
                let missing = self.inner.missing(&wish, key, &place);
                let is_full = missing == 0 && place.dials.get() == 0;
                let (is_allowed, at_once) = place.pace.borrow_mut().look(is_full, now, wish.steady);
                if !is_allowed {
                    continue;
                }
                let dials = missing.min(at_once).saturating_sub(place.dials.get());
                for _ in 0..dials.min(DIALS_MAX.saturating_sub(warming.dials.get())) {
                    let dialling = Dialling::begin(&self.inner, &place);
                    tokio::task::spawn_local(make_ready(self.inner.clone(), wish.clone(), endpoint.clone(), dialling));
                }
            }
        }
        // An endpoint that gets no calls for a while still has what it has when it comes back.
        let stays = |place: &Place| place.open.get() > 0 || place.dials.get() > 0;
        warming.places.borrow_mut().retain(|key, place| seen.contains(key) || stays(place));
    }
}

impl Inner {
    /// How many connections an endpoint lacks on this core.
    fn missing(&self, wish: &Wish, key: u64, place: &Place) -> u32 {
        let open = place.open.get();
        let older = wish.warm.connections.saturating_sub(open);
        match wish.dialect.as_ref().map_or(Speaks::Http1, |dialect| dialect.speaks) {
            Speaks::Http1 => older,
            _ if two::has_room(self, key) => 0,
            // Which of both it speaks is known when there is a first one.
            Speaks::Either if open > 0 => older,
            Speaks::Either | Speaks::Http2 => 1,
        }
    }
}

/// A dial that is under way.
struct Dialling {
    client: Rc<Inner>,
    place: Rc<Place>,
}

impl Dialling {
    fn begin(client: &Rc<Inner>, place: &Rc<Place>) -> Dialling {
        place.dials.set(place.dials.get() + 1);
        client.warming.dials.set(client.warming.dials.get() + 1);
        Dialling { client: client.clone(), place: place.clone() }
    }
}

impl Drop for Dialling {
    fn drop(&mut self) {
        self.place.dials.set(self.place.dials.get().saturating_sub(1));
        self.client.warming.dials.set(self.client.warming.dials.get().saturating_sub(1));
    }
}

/// One connection, from its dial to its pool. A task of the core.
async fn make_ready(client: Rc<Inner>, wish: Rc<Wish>, endpoint: EndpointRef, dialling: Dialling) {
    if endpoint.connections.load(Ordering::Relaxed) >= wish.limits.connections_max {
        return;
    }
    match client.make_ready(&wish, &endpoint).await {
        Ok(()) => {
            wish.warm.made.add(1);
            client.warming.due.set(true);
        }
        Err(fault) => {
            wish.warm.failed.add(1);
            dialling.place.pace.borrow_mut().failed(client.deadlines.tick());
            tracing::debug!(service = &*endpoint.service, endpoint = %endpoint, "no connection could be kept ready: {fault}");
        }
    }
}

impl Inner {
    async fn make_ready(self: &Rc<Self>, wish: &Wish, endpoint: &EndpointRef) -> Result<(), Fault> {
        let (limits, dialect) = (&wish.limits, wish.dialect.as_ref());
        // Nobody waits for it: only its own time counts.
        let deadline = Instant::now() + limits.connect * 2;
        let two = dialect.filter(|dialect| dialect.speaks != Speaks::Http1);
        let socket = match two {
            Some(dialect) => match two::make_ready(self, dialect, endpoint, deadline, limits).await? {
                Some(socket) => socket,
                None => return Ok(()),
            },
            None => {
                let (socket, counted) = self.dial(endpoint, dialect, false, (deadline, Blame::Upstream), limits).await?;
                counted.keep();
                socket
            }
        };
        self.keep(self.link(socket, endpoint, dialect, limits), limits.idle);
        Ok(())
    }
}

/// How often an endpoint is dialled: in ticks of the core's deadlines. Pure.
#[derive(Debug, Default)]
struct Pace {
    failures: u32,
    not_before: u32,
    /// Nothing has been missing since.
    full_since: Option<u32>,
}

impl Pace {
    /// A look: is nothing missing? Answers whether it may be dialled now, and how often at once.
    fn look(&mut self, is_full: bool, now: u32, steady: u32) -> (bool, u32) {
        let is_steady = |since: u32| now.saturating_sub(since) >= steady;
        match (is_full, self.full_since) {
            (true, None) => self.full_since = Some(now),
            (true, Some(since)) if is_steady(since) => self.failures = 0,
            (true, Some(_)) => {}
            (false, Some(since)) => {
                self.full_since = None;
                if is_steady(since) {
                    self.failures = 0;
                } else {
                    // It took them and let go of them.
                    self.failed(now);
                }
            }
            (false, None) => {}
        }
        (now >= self.not_before, if self.failures == 0 { DIALS_TO_ONE_MAX } else { 1 })
    }

    fn failed(&mut self, now: u32) {
        let wait = LEAVE_FIRST.saturating_mul(1 << self.failures.min(6)).min(LEAVE_MAX);
        self.failures = self.failures.saturating_add(1);
        self.not_before = now.saturating_add(ticks(wait));
    }
}

fn ticks(time: Duration) -> u32 {
    (time.as_nanos() / TICK.as_nanos()) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u32 = 60;
    const STEADY_FOR: u32 = 2 * SECOND;

    /// The seconds within which an endpoint is dialled that does `what` with each dial, of an hour.
    fn dialled(mut what: impl FnMut(&mut Pace, u32)) -> Vec<u32> {
        let mut pace = Pace::default();
        let mut at = Vec::new();
        for second in 0..3600 {
            let now = second * SECOND;
            if pace.look(false, now, STEADY_FOR).0 {
                at.push(second);
                what(&mut pace, now);
            }
        }
        at
    }

    #[test]
    fn an_endpoint_that_refuses_is_dialled_seldom() {
        let at = dialled(Pace::failed);
        assert_eq!(at.get(..5), Some([0, 1, 3, 7, 15].as_slice()));
        assert!((60..80).contains(&at.len()), "{at:?}");
        assert!(at.windows(2).all(|pair| pair[1] - pair[0] <= 61), "{at:?}");
    }

    #[test]
    fn an_endpoint_that_takes_connections_and_hangs_up_is_dialled_seldom_too() {
        let at = dialled(|pace, now| {
            pace.look(true, now, STEADY_FOR);
        });
        assert!(at.len() < 150, "{} dials in an hour", at.len());
    }

    #[test]
    fn connections_that_end_after_a_while_are_replaced_at_once() {
        let mut pace = Pace::default();
        for round in 0..100 {
            let now = round * 30 * SECOND;
            assert_eq!(pace.look(false, now, STEADY_FOR), (true, DIALS_TO_ONE_MAX), "{round}");
            pace.look(true, now + 1, STEADY_FOR);
        }
    }

    #[test]
    fn after_a_failure_one_dial_is_enough_until_all_is_well_again() {
        let mut pace = Pace::default();
        pace.failed(0);
        assert_eq!(pace.look(false, 2 * SECOND, STEADY_FOR), (true, 1));
        pace.look(true, 3 * SECOND, STEADY_FOR);
        pace.look(true, 20 * SECOND, STEADY_FOR);
        assert_eq!(pace.look(false, 21 * SECOND, STEADY_FOR), (true, DIALS_TO_ONE_MAX));
    }
}
