//! Header edits of a route: fields that are set, added and removed, their values with names in them ([`crate::phrase`]).

use crate::phrase::Phrase;
use wharf_core::edit::{BadEdit, EDIT_TEXT_MAX, Edit, Edits};
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
        self.0.iter().filter_map(|edit| edit.said(facts)).collect()
    }

    /// What can be made of it when all of it cannot: whoever asks has a say in what a value with names in it comes to, and
    /// must not undo the others by it. One that is unfit, or longer than what the others leave, is left out; and nothing
    /// stands in its place, either.
    fn fitting(&self, facts: &Facts) -> Vec<Edit> {
        let least = |edit: &HeaderEdit| match edit {
            HeaderEdit::Set(name, value) | HeaderEdit::Add(name, value) => name.len() + value.fixed().map_or(0, str::len),
            HeaderEdit::Remove(name) => name.len(),
        };
        let mut left = EDIT_TEXT_MAX.saturating_sub(self.0.iter().map(least).sum());
        let fits = |edit: &HeaderEdit| {
            let said = edit.said(facts)?;
            let more = said.text_len().saturating_sub(least(edit));
            if more <= left && Edits::for_response(vec![said.clone()], &facts.attrs).is_ok() {
                left -= more;
                return Some(said);
            }
            match edit {
                HeaderEdit::Set(name, _) => Some(Edit::Remove(name.to_string())),
                _ => None,
            }
        };
        self.0.iter().filter_map(fits).collect()
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

    /// Edits the answer. A value that cannot be said is left out, and all else is done.
    pub(crate) fn apply_to_answer(&self, exchange: &mut Exchange, answer: &mut Answer) {
        let fields = &mut answer.head.fields;
        let mut edits = Edits::from(self.said(&exchange.facts));
        let mut made = edits.apply_to_response(fields, &mut exchange.facts.attrs);
        if let Err(error) = &made {
            tracing::debug!(id = %exchange.facts.id, route = &*exchange.facts.route, %error, "not all header edits can be made");
            edits = Edits::from(self.fitting(&exchange.facts));
            made = edits.apply_to_response(fields, &mut exchange.facts.attrs);
        }
        match made {
            Ok(()) => answer.body.bar_trailers(&edits),
            // More text than may be written in a configuration.
            Err(error) => tracing::warn!(route = &*exchange.facts.route, %error, "header edits were not made"),
        }
    }
}

impl HeaderEdit {
    /// What it comes to. Where the names in a value stand for nothing there is no field: an empty one would be taken for
    /// a value by whoever asks only whether it is there.
    fn said(&self, facts: &Facts) -> Option<Edit> {
        let comes_to = |value: &Phrase| Some(value.say(facts)).filter(|said| !said.is_empty() || value.fixed().is_some());
        match self {
            HeaderEdit::Set(name, value) => Some(match comes_to(value) {
                Some(said) => Edit::Set(name.to_string(), said),
                None => Edit::Remove(name.to_string()),
            }),
            HeaderEdit::Add(name, value) => Some(Edit::Add(name.to_string(), comes_to(value)?)),
            HeaderEdit::Remove(name) => Some(Edit::Remove(name.to_string())),
        }
    }
}

fn bad(why: BadEdit) -> Fault {
    Fault::new(FaultKind::BadArgument, Blame::Host, Retry::Never, format!("the route's header edits cannot be made: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;
    use wharf_core::head::{Method, RequestHead, ResponseHead};

    #[test]
    fn names_that_stand_for_nothing_leave_no_field() {
        let phrase = |text: &str| Phrase::new(text).unwrap();
        let edits = HeaderEdits(vec![
            HeaderEdit::Set("x-consumer".into(), phrase("{attr.consumer}")),
            HeaderEdit::Add("x-also".into(), phrase("{attr.consumer}")),
            HeaderEdit::Set("x-empty".into(), phrase("")),
        ]);
        let mut exchange = Exchange::blank(Instant::now());
        exchange.facts.request = RequestHead::from_text(Method::Get, "h", "/", None);
        exchange.facts.request.fields.add(b"x-consumer", b"invented");
        edits.apply_to_request(&mut exchange).unwrap();
        let get = |name: &str| exchange.facts.request.fields.get(name.as_bytes());
        assert_eq!((get("x-consumer"), get("x-also"), get("x-empty")), (None, None, Some(&b""[..])));
    }

    #[test]
    fn who_asks_for_a_long_path_undoes_no_edit_of_the_answer() {
        let phrase = |text: &str| Phrase::new(text).unwrap();
        let edits = HeaderEdits(vec![
            HeaderEdit::Set("x-asked".into(), phrase("{path}")),
            HeaderEdit::Add("link".into(), phrase("<{path}>; rel=canonical")),
            HeaderEdit::Set("x-short".into(), phrase("{method}")),
            HeaderEdit::Set("strict-transport-security".into(), phrase("max-age=1")),
            HeaderEdit::Remove("x-internal".into()),
        ]);
        for (path, asked, link) in [(100, true, true), (20_000, true, false), (33_000, false, false)] {
            let path = format!("/{}", "a".repeat(path));
            let mut exchange = Exchange::blank(Instant::now());
            exchange.facts.request = RequestHead::from_text(Method::Get, "h", &path, None);
            let mut head = ResponseHead::new(200);
            for name in ["x-asked", "x-internal", "x-short"] {
                head.fields.add(name.as_bytes(), b"from behind");
            }
            let mut answer = Answer::full(head, bytes::Bytes::new());
            edits.apply_to_answer(&mut exchange, &mut answer);
            let get = |name: &str| answer.head.fields.get(name.as_bytes());
            assert_eq!(get("x-asked"), asked.then_some(path.as_bytes()), "{}", path.len());
            assert_eq!(get("link").is_some(), link, "{}", path.len());
            assert_eq!((get("x-short"), get("x-internal")), (Some(&b"GET"[..]), None));
            assert_eq!(get("strict-transport-security"), Some(&b"max-age=1"[..]));
        }
    }
}
