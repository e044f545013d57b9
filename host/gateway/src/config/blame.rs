//! Whose mistakes are they? Lays each mistake to the item of the configuration that it stands in, by its place. Pure.
//!
//! An item is what may stay on its last good version by itself: a listener, a service, a plugin, a named rate limit, a route,
//! `attachments` and `defaults` as a whole, and each of the settings of the process. What stands in no item (a key that nobody knows, a
//! section that is no map) cannot be laid to one: what it would have said is not known.

use super::tree::{Mistake, Node, Place};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

/// The kinds of items.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "each name is what it is")]
pub enum ItemKind {
    Setting,
    Listener,
    Service,
    Plugin,
    RateLimit,
    Attachments,
    Defaults,
    Route,
}

impl ItemKind {
    /// All of them.
    pub const ALL: [ItemKind; 8] = [
        ItemKind::Setting,
        ItemKind::Listener,
        ItemKind::Service,
        ItemKind::Plugin,
        ItemKind::RateLimit,
        ItemKind::Attachments,
        ItemKind::Defaults,
        ItemKind::Route,
    ];

    /// The word in messages and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            ItemKind::Setting => "setting",
            ItemKind::Listener => "listener",
            ItemKind::Service => "service",
            ItemKind::Plugin => "plugin",
            ItemKind::RateLimit => "rate limit",
            ItemKind::Attachments => "attachments",
            ItemKind::Defaults => "defaults",
            ItemKind::Route => "route",
        }
    }
}

/// An item by its kind and name; `attachments` and `defaults` have no name besides, and a route may lack its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ItemId {
    /// What it is.
    pub kind: ItemKind,
    /// Its name, or nothing.
    pub name: Arc<str>,
}

impl ItemId {
    /// The item of this kind and name.
    pub fn new(kind: ItemKind, name: &str) -> ItemId {
        ItemId { kind, name: name.into() }
    }
}

impl fmt::Display for ItemId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.kind, &*self.name) {
            (kind, "") => write!(f, "{}", kind.as_str()),
            (kind, name) => write!(f, "{} `{name}`", kind.as_str()),
        }
    }
}

/// What is wrong with one item.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blamed {
    /// Its mistakes, one line each.
    pub why: Vec<String>,
    /// Of a route: it is not known which requests were meant.
    pub anywhere: bool,
}

/// The items that are wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Blame(pub BTreeMap<ItemId, Blamed>);

/// Most mistakes of one item that are told.
const WHY_MAX: usize = 5;

impl Blame {
    /// `None`: a mistake stands in no item.
    pub(crate) fn of(root: &Node, mistakes: &[Mistake]) -> Option<Blame> {
        if mistakes.is_empty() {
            return Some(Blame::default());
        }
        let wanted: BTreeSet<Place> = mistakes.iter().map(|mistake| mistake.place).collect();
        let mut at: HashMap<Place, Vec<(ItemId, bool)>> = HashMap::new();
        each_item(root, &mut |id, node, decides| {
            node.walk(&mut |node| {
                if wanted.contains(&node.place) {
                    at.entry(node.place).or_default().push((id.clone(), decides));
                }
            });
        });
        let mut blame = Blame::default();
        for mistake in mistakes {
            for (id, decides) in at.get(&mistake.place)? {
                let blamed = blame.0.entry(id.clone()).or_default();
                blamed.anywhere |= *decides || (id.kind == ItemKind::Route && id.name.is_empty());
                if blamed.why.len() < WHY_MAX && !blamed.why.contains(&mistake.message) {
                    blamed.why.push(mistake.message.clone());
                }
            }
        }
        Some(blame)
    }
}

/// Shows every item with the nodes that it is written in. An alias makes one node a part of several. `true`: a part of a
/// route that says which requests it takes.
fn each_item<'n>(root: &'n Node, look: &mut impl FnMut(ItemId, &'n Node, bool)) {
    for (key, section) in root.entries() {
        let name = key.text().unwrap_or_default();
        let kind = match name {
            "listeners" => ItemKind::Listener,
            "services" => ItemKind::Service,
            "plugins" => ItemKind::Plugin,
            "rate_limits" => ItemKind::RateLimit,
            "routes" => {
                for route in section.items() {
                    let name = route.entry("name").and_then(|name| name.text()).unwrap_or_default();
                    let id = ItemId::new(ItemKind::Route, name);
                    look(id.clone(), route, false);
                    for decides in ["match", "priority"] {
                        if let Some(node) = route.entry(decides) {
                            look(id.clone(), node, true);
                        }
                    }
                }
                continue;
            }
            "attachments" => {
                look(ItemId::new(ItemKind::Attachments, ""), section, false);
                continue;
            }
            "defaults" => {
                look(ItemId::new(ItemKind::Defaults, ""), section, false);
                continue;
            }
            "node" | "workers" | "log" | "access_log" | "traces" | "admin" | "buses" | "ferry" => {
                look(ItemId::new(ItemKind::Setting, name), section, false);
                continue;
            }
            _ => continue,
        };
        for (name, item) in section.entries() {
            let id = ItemId::new(kind, name.text().unwrap_or_default());
            look(id.clone(), name, false);
            look(id, item, false);
        }
    }
}
