//! What one core remembers of a service's endpoints: balancers, counters, whom to leave alone for a moment.
//!
//! It is looked through once a call and rebuilt only when the service's set has changed. It outlives generations: a
//! reload that does not touch a service does not start its turns again.

use crate::ask::{Ask, token};
use crate::balance::hash::rendezvous;
use crate::balance::latency::Weighing;
use crate::balance::{Balancer, Policy};
use crate::metrics::EndpointCounts;
use crate::retry::TRIES_MAX;
use crate::service::{EndpointSet, Keyed, Service};
use crate::share::Share;
use crate::standing::Standing;
use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use wharf_core::metrics::Registry;
use wharf_core::outlet::EndpointRef;

/// A core leaves an endpoint alone for this long after it could not be reached, as long as there is another. Short:
/// this spares the retry budget, it does not judge health.
const SPARE_FOR: Duration = Duration::from_millis(500);

/// One endpoint as this core knows it.
pub(crate) struct Row {
    pub(crate) endpoint: EndpointRef,
    pub(crate) counts: Rc<EndpointCounts>,
    pub(crate) standing: Arc<Standing>,
    share: Share,
    /// What clients that stick to it say.
    token: u64,
    spared_until: Cell<Option<Instant>>,
}

/// The endpoints that one call has tried.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tried {
    ids: [u64; TRIES_MAX],
    len: usize,
}

impl Tried {
    /// None.
    pub(crate) const NONE: Tried = Tried { ids: [0; TRIES_MAX], len: 0 };

    /// These and one more.
    pub(crate) fn and(mut self, id: u64) -> Tried {
        self.add(id);
        self
    }

    pub(crate) fn add(&mut self, id: u64) {
        if let Some(free) = self.ids.get_mut(self.len) {
            *free = id;
            self.len += 1;
        }
    }

    pub(crate) fn has(&self, id: u64) -> bool {
        self.ids.iter().take(self.len).any(|tried| *tried == id)
    }
}

/// The members of a subset, or all of them, and whose turn it is.
struct View {
    members: Vec<usize>,
    balancer: Balancer,
    /// Fit ones that get no first tries: those of other zones.
    reserve: Vec<usize>,
}

/// See the head of the file.
pub(crate) struct Roster {
    registry: Arc<Registry>,
    pub(crate) policy: Policy,
    weighing: Weighing,
    start: Start,
    seen: u64,
    rows: Vec<Rc<Row>>,
    keyed: Option<Keyed>,
    all: View,
    /// Few: only tags that endpoints really have get an entry, so that a caller's wishes cannot fill it.
    subsets: Vec<(Box<str>, View)>,
    /// When the last spared endpoint is asked again; `None` in good times, so that they pay nothing.
    sparing_until: Option<Instant>,
}

/// Where a core's turns begin, and what its chance is drawn from.
#[derive(Clone, Copy)]
struct Start {
    core: u64,
    seed: u64,
}

impl Roster {
    pub(crate) fn new(registry: Arc<Registry>, policy: Policy, weighing: Weighing, core: usize, seed: u64) -> Roster {
        let start = Start { core: core as u64, seed: seed ^ (core as u64) << 32 };
        let all =
            View { members: Vec::new(), balancer: Balancer::new(policy, [].into(), start.core).seeded(start.seed), reserve: Vec::new() };
        let (rows, subsets) = (Vec::new(), Vec::new());
        Roster { registry, policy, weighing, start, seen: 0, rows, keyed: None, all, subsets, sparing_until: None }
    }

    /// Weighs latencies in another way from now on.
    pub(crate) fn weigh(&mut self, weighing: Weighing) {
        self.weighing = weighing;
    }

    /// Looks whether the service's endpoints have changed.
    pub(crate) fn look(&mut self, service: &Service) {
        if service.version() != self.seen {
            self.rebuild(&service.endpoints());
        }
    }

    /// Chooses among those with the tag. `None`: there is nobody with this tag that takes calls.
    ///
    /// `tried` ones only come again if there is nobody else.
    pub(crate) fn pick(&mut self, subset: Option<&str>, tried: &Tried, now: Instant, ask: Option<&Ask>) -> Option<Rc<Row>> {
        if self.sparing_until.is_some_and(|until| until <= now) {
            self.sparing_until = None;
        }
        if tried.len > 0 || self.sparing_until.is_some() || ask.is_some() {
            return self.pick_with_care(subset, tried, now, ask);
        }
        // By far the most calls: nobody is skipped, and the balancer's loop has nothing to ask.
        let View { members, balancer, .. } = view(&self.rows, &mut self.all, &mut self.subsets, subset, self.policy, self.start)?;
        let rows = &self.rows;
        let row = |at: usize| members.get(at).and_then(|&row| rows.get(row));
        row(balancer.pick(|_| false, |at| in_flight(row(at)), |_| 0.0)?).cloned()
    }

    fn pick_with_care(&mut self, subset: Option<&str>, tried: &Tried, now: Instant, ask: Option<&Ask>) -> Option<Rc<Row>> {
        let sparing = self.sparing_until.is_some();
        let View { members, balancer, reserve } = view(&self.rows, &mut self.all, &mut self.subsets, subset, self.policy, self.start)?;
        let (rows, weighing) = (&self.rows, &self.weighing);
        let was_tried = |row: &Row| tried.has(row.endpoint.id);
        let is_spared = |row: &Row| sparing && row.spared_until.get().is_some_and(|until| until > now);
        let is_free = |row: &Row| !was_tried(row) && !is_spared(row);

        // Where it was served before, as long as that is fit; then where its key leads; then by the policy.
        if let Some(token) = ask.and_then(|ask| ask.stuck_to) {
            let mut stuck = members.iter().chain(reserve.iter()).filter_map(|&at| rows.get(at)).filter(|row| row.token == token);
            if let Some(row) = stuck.find(|row| is_free(row)) {
                return Some(row.clone());
            }
        }
        if let Some(key) = ask.and_then(|ask| ask.key) {
            let place = match (&self.keyed, subset) {
                (Some(keyed), None) => keyed
                    .table
                    .pick(key, |at| keyed.places.get(at).and_then(|&place| rows.get(place)).is_none_or(|row| !is_free(row)))
                    .and_then(|at| keyed.places.get(at).copied()),
                // A subset is too small for a table of its own.
                _ => {
                    let free = members.iter().filter_map(|&at| Some((at, rows.get(at)?))).filter(|(_, row)| is_free(row));
                    rendezvous(key, free.map(|(at, row)| (at, &*row.endpoint.text, row.endpoint.weight)))
                }
            };
            if let Some(row) = place.and_then(|place| rows.get(place)) {
                return Some(row.clone());
            }
        }

        let row = |at: usize| members.get(at).and_then(|&row| rows.get(row));
        let load = |at| in_flight(row(at));
        let cost = |at| row(at).map_or(f64::MAX, |row| row.standing.cost(weighing, now, in_flight(Some(row))));
        if let Some(at) = balancer.pick(|at| row(at).is_none_or(|row| !is_free(row)), load, cost) {
            return row(at).cloned();
        }
        let spare: Vec<&Rc<Row>> = reserve.iter().filter_map(|&at| rows.get(at)).filter(|row| is_free(row)).collect();
        if let Some(row) = balancer.one_of(spare.len()).and_then(|at| spare.get(at).copied()) {
            return Some(row.clone());
        }
        let at = balancer
            .pick(|at| row(at).is_none_or(|row| was_tried(row)), load, cost)
            .or_else(|| if tried.len > 0 { balancer.pick(|_| false, load, cost) } else { None })?;
        row(at).cloned()
    }

    /// Is there somebody with this tag who was not tried? `None`: there is nobody with this tag at all.
    pub(crate) fn has_others(&mut self, subset: Option<&str>, tried: &Tried) -> Option<bool> {
        let rows = &self.rows;
        let view = view(rows, &mut self.all, &mut self.subsets, subset, self.policy, self.start)?;
        let mut all = view.members.iter().chain(&view.reserve).filter_map(|&at| rows.get(at));
        Some(all.any(|row| !tried.has(row.endpoint.id)))
    }

    /// Leaves an endpoint alone for a moment.
    pub(crate) fn spare(&mut self, row: &Row, now: Instant) {
        // The row may be one of an older set; the one that is picked from is the one to mark.
        if let Some(row) = self.rows.iter().find(|have| have.endpoint.id == row.endpoint.id) {
            row.spared_until.set(Some(now + SPARE_FOR));
            self.sparing_until = Some(now + SPARE_FOR);
        }
    }

    fn rebuild(&mut self, set: &EndpointSet) {
        let old: HashMap<u64, usize> = self.rows.iter().enumerate().map(|(at, row)| (row.endpoint.id, at)).collect();
        let known = set.endpoints.iter().zip(&set.shares).zip(&set.standings);
        let rows: Vec<Rc<Row>> = known
            .map(|((endpoint, &share), standing)| {
                let before = old.get(&endpoint.id).and_then(|&at| self.rows.get(at));
                if let Some(row) = before.filter(|row| Arc::ptr_eq(&row.endpoint, endpoint) && row.share == share) {
                    return row.clone();
                }
                let made =
                    || EndpointCounts::new(self.registry.clone(), endpoint.service.clone(), endpoint.address.to_string(), standing.clone());
                Rc::new(Row {
                    endpoint: endpoint.clone(),
                    counts: before.map_or_else(|| Rc::new(made()), |row| row.counts.clone()),
                    standing: standing.clone(),
                    share,
                    token: token(&endpoint.service, &endpoint.text),
                    spared_until: before.map_or(Cell::new(None), |row| row.spared_until.clone()),
                })
            })
            .collect();
        let carried = |view: &View, subset: Option<&str>| {
            let mut next = gather(&rows, subset, self.policy, self.start);
            let was = |at: usize| {
                let id = rows.get(*next.members.get(at)?)?.endpoint.id;
                let old_row = old.get(&id)?;
                view.members.iter().position(|member| member == old_row)
            };
            next.balancer.carry(&view.balancer, was);
            next
        };
        let all = carried(&self.all, None);
        let subsets: Vec<(Box<str>, View)> = self
            .subsets
            .iter()
            .map(|(tag, view)| (tag.clone(), carried(view, Some(tag))))
            .filter(|(_, view)| !view.members.is_empty())
            .collect();
        (self.rows, self.all, self.subsets, self.seen) = (rows, all, subsets, set.version);
        self.keyed = set.keyed.clone();
    }
}

/// The view that a wish means. A free function, because the rows are read while a view is changed.
fn view<'a>(
    rows: &[Rc<Row>],
    all: &'a mut View,
    subsets: &'a mut Vec<(Box<str>, View)>,
    subset: Option<&str>,
    policy: Policy,
    start: Start,
) -> Option<&'a mut View> {
    let Some(tag) = subset else {
        return (!all.members.is_empty()).then_some(all);
    };
    let at = match subsets.iter().position(|(have, _)| &**have == tag) {
        Some(at) => at,
        None => {
            let view = gather(rows, Some(tag), policy, start);
            if view.members.is_empty() {
                return None;
            }
            subsets.push((tag.into(), view));
            subsets.len() - 1
        }
    };
    subsets.get_mut(at).map(|(_, view)| view)
}

fn gather(rows: &[Rc<Row>], subset: Option<&str>, policy: Policy, start: Start) -> View {
    let some = |wanted: fn(&Row) -> bool| -> Vec<usize> {
        let tagged = |row: &Row| subset.is_none_or(|tag| row.endpoint.has_tag(tag));
        rows.iter().enumerate().filter(|(_, row)| wanted(row) && tagged(row)).map(|(at, _)| at).collect()
    };
    let mut members = some(|row| row.share.weight > 0);
    if members.is_empty() && subset.is_some() {
        // A tag stands for something that others are not: better those that are far away, or ill, than the others.
        members = some(|row| row.share.fit);
        if members.is_empty() {
            members = some(|row| row.share.last_resort);
        }
    }
    let reserve = some(|row| row.share.fit).into_iter().filter(|at| !members.contains(at)).collect();
    let of = |row: &Rc<Row>| if row.share.weight > 0 { row.share.weight } else { row.endpoint.weight };
    let weights = members.iter().filter_map(|&at| rows.get(at)).map(of).collect();
    View { balancer: Balancer::new(policy, weights, start.core).seeded(start.seed), members, reserve }
}

fn in_flight(row: Option<&Rc<Row>>) -> u32 {
    row.map_or(u32::MAX, |row| row.endpoint.in_flight.load(Relaxed))
}
