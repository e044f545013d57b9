//! Header edits of a route: fields that are set, added and removed, their values with names in them ([`crate::phrase`]).

use crate::phrase::Phrase;
use wharf_core::edit::{BadEdit, Edit, Edits};
use wharf_core::exchange::{Answer, Exchange, Facts};
use wharf_core::fault::{Blame, Fault, FaultKind, Retry};

/// Edits in the order in which they are made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits(pub Vec<HeaderEdit>);

/// One change. Names are lower case and none of the host's own; of a request also what is left to operators
/// (`wharf_core::edit::check_operators_field`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderEdit {
    /// Replace all fields of this name by one.
    Set(Box<str>, Phrase),
    /// Add a field.
    Add(Box<str>, Phrase),
    /// Remove all fields of this name.
    Remove(Box<str>),
}

impl HeaderEdits {
    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn said(&self, facts: &Facts) -> Vec<Edit> {
        let one = |edit: &HeaderEdit| match edit {
            HeaderEdit::Set(name, value) => Edit::Set(name.to_string(), value.say(facts)),
            HeaderEdit::Add(name, value) => Edit::Add(name.to_string(), value.say(facts)),
            HeaderEdit::Remove(name) => Edit::Remove(name.to_string()),
        };
        self.0.iter().map(one).collect()
    }

    /// Edits the request.
    ///
    /// # Errors
    /// An attribute of a plugin that a value names holds what no field may.
    pub(crate) fn apply_to_request(&self, exchange: &mut Exchange) -> Result<(), Fault> {
        let edits = Edits::of_operator(self.said(&exchange.facts), &exchange.facts.attrs).map_err(bad)?;
        edits.apply_to_request(&mut exchange.facts).map_err(bad)?;
        exchange.body.bar_trailers(&edits);
        Ok(())
    }

    /// Edits the answer; one that cannot be made leaves the head as it is.
    pub(crate) fn apply_to_answer(&self, exchange: &mut Exchange, answer: &mut Answer) {
        let edits = Edits::from(self.said(&exchange.facts));
        match edits.apply_to_response(&mut answer.head.fields, &mut exchange.facts.attrs) {
            Ok(()) => answer.body.bar_trailers(&edits),
            Err(error) => tracing::debug!(id = %exchange.facts.id, route = &*exchange.facts.route, %error, "header edits were not made"),
        }
    }
}

fn bad(why: BadEdit) -> Fault {
    Fault::new(FaultKind::BadArgument, Blame::Host, Retry::Never, format!("the route's header edits cannot be made: {why}"))
}
