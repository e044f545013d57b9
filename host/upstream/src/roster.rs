//! What one core remembers of a service's endpoints: balancers, counters, whom to leave alone for a moment.
//!
//! It is looked through once a call and rebuilt only when the service's set has changed. It outlives generations: a
//! reload that does not touch a service does not start its turns again.

use crate::balance::{Balancer, Policy};
use crate::metrics::EndpointCounts;
use crate::retry::TRIES_MAX;
use crate::service::{EndpointSet, Service};
use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
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
    spared_until: Cell<Option<Instant>>,
}

/// The endpoints that one call has tried.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tried {
    ids: [u64; TRIES_MAX],
    len: usize,
}

impl Tried {
    pub(crate) fn add(&mut self, id: u64) {
        if let Some(free) = self.ids.get_mut(self.len) {
            *free = id;
            self.len += 1;
        }
    }

    fn has(&self, id: u64) -> bool {
        self.ids.iter().take(self.len).any(|tried| *tried == id)
    }
}

/// The members of a subset, or all of them, and whose turn it is.
struct View {
    members: Vec<usize>,
    balancer: Balancer,
}

/// See the head of the file.
pub(crate) struct Roster {
    registry: Arc<Registry>,
    pub(crate) policy: Policy,
    start: usize,
    seen: u64,
    rows: Vec<Rc<Row>>,
    all: View,
    /// Few: only tags that endpoints really have get an entry, so that a caller's wishes cannot fill it.
    subsets: Vec<(Box<str>, View)>,
    /// When the last spared endpoint is asked again; `None` in good times, so that they pay nothing.
    sparing_until: Option<Instant>,
}

impl Roster {
    pub(crate) fn new(registry: Arc<Registry>, policy: Policy, core: usize) -> Roster {
        let all = View { members: Vec::new(), balancer: Balancer::new(policy, [].into(), core) };
        Roster { registry, policy, start: core, seen: 0, rows: Vec::new(), all, subsets: Vec::new(), sparing_until: None }
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
    pub(crate) fn pick(&mut self, subset: Option<&str>, tried: &Tried, now: Instant) -> Option<Rc<Row>> {
        if self.sparing_until.is_some_and(|until| until <= now) {
            self.sparing_until = None;
        }
        let sparing = self.sparing_until.is_some();
        let view = view(&self.rows, &mut self.all, &mut self.subsets, subset, self.policy, self.start)?;
        let rows = &self.rows;
        let row = |members: &[usize], at: usize| members.get(at).and_then(|&row| rows.get(row));
        let View { members, balancer } = view;
        let in_flight = |at| row(members, at).map_or(u32::MAX, |row| row.endpoint.in_flight.load(std::sync::atomic::Ordering::Relaxed));
        let was_tried = |at| tried.len > 0 && row(members, at).is_none_or(|row| tried.has(row.endpoint.id));
        let is_spared = |at| sparing && row(members, at).is_some_and(|row| row.spared_until.get().is_some_and(|until| until > now));
        if tried.len == 0 && !sparing {
            // By far the most calls: nobody is skipped, and the balancer's loop has nothing to ask.
            return row(members, balancer.pick(|_| false, in_flight)?).cloned();
        }
        let at = balancer
            .pick(|at| was_tried(at) || is_spared(at), in_flight)
            .or_else(|| if sparing { balancer.pick(was_tried, in_flight) } else { None })
            .or_else(|| if tried.len > 0 { balancer.pick(|_| false, in_flight) } else { None })?;
        row(members, at).cloned()
    }

    /// Is there somebody with this tag who was not tried? `None`: there is nobody with this tag at all.
    pub(crate) fn has_others(&mut self, subset: Option<&str>, tried: &Tried) -> Option<bool> {
        let rows = &self.rows;
        let view = view(rows, &mut self.all, &mut self.subsets, subset, self.policy, self.start)?;
        Some(view.members.iter().filter_map(|&at| rows.get(at)).any(|row| !tried.has(row.endpoint.id)))
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
        let rows: Vec<Rc<Row>> = set
            .endpoints
            .iter()
            .map(|endpoint| match old.get(&endpoint.id).and_then(|&at| self.rows.get(at)) {
                Some(row) if Arc::ptr_eq(&row.endpoint, endpoint) => row.clone(),
                Some(row) => {
                    Rc::new(Row { endpoint: endpoint.clone(), counts: row.counts.clone(), spared_until: row.spared_until.clone() })
                }
                None => {
                    let counts = EndpointCounts::new(self.registry.clone(), endpoint.service.clone(), endpoint.address.to_string());
                    Rc::new(Row { endpoint: endpoint.clone(), counts: Rc::new(counts), spared_until: Cell::new(None) })
                }
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
    }
}

/// The view that a wish means. A free function, because the rows are read while a view is changed.
fn view<'a>(
    rows: &[Rc<Row>],
    all: &'a mut View,
    subsets: &'a mut Vec<(Box<str>, View)>,
    subset: Option<&str>,
    policy: Policy,
    start: usize,
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

fn gather(rows: &[Rc<Row>], subset: Option<&str>, policy: Policy, start: usize) -> View {
    let takes_calls = |row: &Row| row.endpoint.weight > 0 && subset.is_none_or(|tag| row.endpoint.has_tag(tag));
    let members: Vec<usize> = rows.iter().enumerate().filter(|(_, row)| takes_calls(row)).map(|(at, _)| at).collect();
    let weights = members.iter().filter_map(|&at| rows.get(at)).map(|row| row.endpoint.weight).collect();
    View { balancer: Balancer::new(policy, weights, start), members }
}
