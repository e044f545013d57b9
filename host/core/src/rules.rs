//! The doors that rules answer at: small questions, one trait each. Core-local: built once for each CPU core.
//!
//! The wasm room implements them for plugins; tests and the bench ladder implement them natively.

use crate::LocalBoxFuture;
use crate::edit::Edits;
use crate::exchange::Facts;
use crate::fault::Fault;
use bytes::Bytes;
use std::rc::Rc;
use std::sync::Arc;

/// What a rule that may refuse says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Go on, with these edits.
    Next(Edits),
    /// Answer the client with this.
    Reply(RuleReply),
}

/// An answer given by a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleReply {
    /// 200 to 599.
    pub status: u16,
    /// Fields without the host's own; see [`crate::edit::check_fields`].
    pub fields: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
}

/// Where a route plugin sends a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Picked {
    /// Name of a service.
    pub service: String,
    /// Only endpoints with this tag.
    pub subset: Option<String>,
    /// The path to send.
    pub path: Option<String>,
}

/// What a degrade rule says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Instead {
    /// The fault as it is.
    Pass,
    /// This.
    Reply(RuleReply),
    /// The last good answer, if it is not older than `max_age_ms`; else `otherwise`; else the fault.
    LastGood {
        /// Oldest acceptable age.
        max_age_ms: u32,
        /// What to say when there is none.
        otherwise: Option<RuleReply>,
    },
}

/// The fault as a degrade rule sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of `fault` in wharf:degrade, where they are explained")]
pub enum Failure {
    Timeout,
    Connect,
    Reset,
    Status(u16),
    Overload,
    Plugin(Arc<str>),
}

// In every method: the facts are borrowed for the time of the question. A wasm call takes them along and puts them
// back; when the future is dropped in the middle they may stay empty, so a dropped question ends its exchange.

/// Who is it, and may they?
pub trait Authenticate {
    /// Asked once, first.
    ///
    /// # Errors
    /// The rule failed; the attachment's policy decides what that means.
    fn check<'a>(&'a self, facts: &'a mut Facts) -> LocalBoxFuture<'a, Result<Decision, Fault>>;
}

/// Change it.
pub trait Filter {
    /// Does it want to see requests? Asked when the chain is built.
    fn sees_requests(&self) -> bool;
    /// Does it want to see answers? Asked when the chain is built.
    fn sees_responses(&self) -> bool;
    /// Asked before routing.
    ///
    /// # Errors
    /// The rule failed.
    fn on_request<'a>(&'a self, facts: &'a mut Facts) -> LocalBoxFuture<'a, Result<Decision, Fault>>;
    /// Asked when `facts.response` is there.
    ///
    /// # Errors
    /// The rule failed.
    fn on_response<'a>(&'a self, facts: &'a mut Facts) -> LocalBoxFuture<'a, Result<Edits, Fault>>;
}

/// Where to?
pub trait Route {
    /// Asked once. `None`: there is no such place.
    ///
    /// # Errors
    /// The rule failed.
    fn pick<'a>(&'a self, facts: &'a mut Facts) -> LocalBoxFuture<'a, Result<Option<Picked>, Fault>>;
}

/// What instead?
pub trait Degrade {
    /// Asked only on a fault.
    ///
    /// # Errors
    /// The rule failed; the first fault is answered as if there were no rule.
    fn on_fault<'a>(&'a self, facts: &'a mut Facts, failure: Failure) -> LocalBoxFuture<'a, Result<Instead, Fault>>;
}

/// What a rule's failure means for the exchange. (`last-good`, the previous version of the plugin, is the wasm room's
/// business: here it has been tried already.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailurePolicy {
    /// The exchange fails.
    Closed,
    /// The exchange goes on as if the rule were not there.
    Open,
}

/// A rule in its place.
pub struct Attached<D: ?Sized> {
    /// The plugin's name.
    pub name: Arc<str>,
    /// What its failure means.
    pub policy: FailurePolicy,
    /// The plugin's version; `None`: a native rule.
    pub version: Option<u32>,
    /// The rule.
    pub rule: Rc<D>,
}

/// All rules of one route, in order. One generation: taken once for an exchange and held until its reply.
#[derive(Default)]
pub struct Rules {
    /// Asked first, in order.
    pub auth: Vec<Attached<dyn Authenticate>>,
    /// Filters that see requests, in order.
    pub request_filters: Vec<Attached<dyn Filter>>,
    /// Filters that see answers, in the order they are asked (the reverse of the attachments').
    pub response_filters: Vec<Attached<dyn Filter>>,
    /// The route plugin, where the route has no fixed target.
    pub route: Option<Attached<dyn Route>>,
    /// Asked on a fault, in order, until one answers.
    pub degrade: Vec<Attached<dyn Degrade>>,
    /// Upstream statuses that count as faults for `degrade`.
    pub degrade_statuses: Vec<u16>,
}

impl Rules {
    /// Attaches a filter to the halves it wants to see.
    pub fn attach_filter(&mut self, name: Arc<str>, policy: FailurePolicy, version: Option<u32>, rule: Rc<dyn Filter>) {
        if rule.sees_requests() {
            self.request_filters.push(Attached { name: name.clone(), policy, version, rule: rule.clone() });
        }
        if rule.sees_responses() {
            self.response_filters.insert(0, Attached { name, policy, version, rule });
        }
    }
}
