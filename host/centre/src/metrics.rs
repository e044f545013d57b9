//! What the centre counts. Labels are operation names and a few outcomes: bounded by what the desks offer.

use std::collections::HashMap;
use std::sync::Arc;
use wharf_core::metrics::{Count, Registry};

const CALLS: &str = "wharf_admin_calls_total";
const TURNED_AWAY: &str = "wharf_admin_turned_away_total";

pub(crate) struct Seen {
    calls: HashMap<&'static str, [Arc<Count>; 2]>,
    turned_away: HashMap<&'static str, Arc<Count>>,
    pub(crate) audit_lost: Arc<Count>,
}

impl Seen {
    pub(crate) fn new(registry: &Registry, operations: impl Iterator<Item = &'static str>) -> Seen {
        let series = |operation, outcome| {
            let labels = [("operation", operation), ("outcome", outcome)];
            registry.count(CALLS, "Admin operations by how they ended.", &labels)
        };
        let kinds = ["host", "origin", "token", "busy", "audit"];
        let away = |kind| registry.count(TURNED_AWAY, "Admin requests that reached no operation.", &[("reason", kind)]);
        Seen {
            calls: operations.map(|name| (name, [series(name, "done"), series(name, "refused")])).collect(),
            turned_away: kinds.map(|kind| (kind, away(kind))).into_iter().collect(),
            audit_lost: registry.count(
                "wharf_admin_audit_lost_total",
                "Outcomes of changes that could not be written to the audit log.",
                &[],
            ),
        }
    }

    pub(crate) fn called(&self, operation: &str, done: bool) {
        if let Some([yes, no]) = self.calls.get(operation) {
            if done { yes.add_shared(1) } else { no.add_shared(1) }
        }
    }

    pub(crate) fn turned_away(&self, kind: &str) {
        if let Some(count) = self.turned_away.get(kind) {
            count.add_shared(1);
        }
    }
}
