//! The traits a plugin implements: one for its life, one for each question.

use crate::answer::{Decision, Edits, Fault, Instead, Target};
use crate::request::{Request, Response};

/// The life of one instance. A plugin without configuration needs no implementation: see
/// [`export_filter!`](crate::export_filter) and its sisters.
pub trait Plugin: Sized + 'static {
    /// The JSON Schema (draft 2020-12) of the configuration; empty: there is none.
    const SCHEMA: &'static str = "";

    /// Makes the instance from its configuration, which has passed the schema; `{}` where there is none.
    ///
    /// # Errors
    /// The text goes to the operator and the version is not activated: say which key is wrong and what would be right.
    fn configure(config: &str) -> Result<Self, String>;

    /// What the instance needs in order to answer. Asked once, after `configure`.
    fn needs(&self) -> Needs {
        Needs::default()
    }
}

/// Who is it, and may they?
pub trait Auth {
    /// Asked once for each request, first. Set the attribute `consumer` to name the caller.
    fn check(&self, request: &Request) -> Decision;
}

/// Where to?
pub trait Route {
    /// `None`: there is no such place, and the client gets 404.
    fn pick(&self, request: &Request) -> Option<Target>;
}

/// Look at, and change, the heads of request and answer.
pub trait Filter {
    /// Asked after auth and before routing, if [`Needs::phases`] has the request.
    fn on_request(&self, request: &Request) -> Decision {
        let _ = request;
        Decision::next()
    }

    /// Asked when the head of an answer is there, if [`Needs::phases`] has the response.
    fn on_response(&self, response: &Response) -> Edits {
        let _ = response;
        Edits::none()
    }
}

/// What instead, when there is no answer?
pub trait Degrade {
    /// Asked only on a fault, once.
    fn on_fault(&self, request: &Request, fault: &Fault) -> Instead;
}

/// Which halves of an exchange a filter sees. A half that is not asked for costs nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phases {
    /// [`Filter::on_request`] is called.
    pub request: bool,
    /// [`Filter::on_response`] is called.
    pub response: bool,
}

impl Phases {
    /// Requests only.
    pub const REQUEST: Phases = Phases { request: true, response: false };
    /// Answers only.
    pub const RESPONSE: Phases = Phases { request: false, response: true };
    /// Both.
    pub const BOTH: Phases = Phases { request: true, response: true };
}

/// Something that a plugin can ask to be handed with every question. What each is, and when there is none, says `fact` in
/// `wharf:types`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact<Name = String> {
    /// The canonical path, without query.
    Path,
    /// What stands behind `?`.
    Query,
    /// Host and port as the client meant them.
    Authority,
    /// `http` or `https`.
    Scheme,
    /// Address of the client.
    Peer,
    /// Name of the route.
    Route,
    /// A field of the head in hand, by its name in lower case.
    Header(Name),
    /// An attribute, by its name.
    Attr(Name),
}

impl Fact {
    /// A field of the head in hand; in lower case, whatever `name` is.
    pub fn header(name: impl Into<String>) -> Fact {
        let mut name = name.into();
        name.make_ascii_lowercase();
        Fact::Header(name)
    }

    /// An attribute.
    pub fn attr(name: impl Into<String>) -> Fact {
        Fact::Attr(name.into())
    }

    /// The same, without a name of its own.
    pub(crate) fn borrowed(&self) -> Fact<&str> {
        self.map(String::as_str)
    }
}

impl<Name> Fact<Name> {
    pub(crate) fn map<'a, Other>(&'a self, of: impl FnOnce(&'a Name) -> Other) -> Fact<Other> {
        match self {
            Fact::Path => Fact::Path,
            Fact::Query => Fact::Query,
            Fact::Authority => Fact::Authority,
            Fact::Scheme => Fact::Scheme,
            Fact::Peer => Fact::Peer,
            Fact::Route => Fact::Route,
            Fact::Header(name) => Fact::Header(of(name)),
            Fact::Attr(name) => Fact::Attr(of(name)),
        }
    }
}

/// What an instance needs in order to answer. The host passes exactly this with every question, and each costs about as
/// much as the smallest question itself, so ask for what most questions need. The rest can be read all the same, for one
/// call to the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Handed with questions about requests, in this order, at most 64.
    pub request: Vec<Fact>,
    /// Handed with questions about answers, in this order, at most 64.
    pub response: Vec<Fact>,
    /// Which halves a filter sees.
    pub phases: Phases,
}

impl Default for Needs {
    /// Nothing but the method or the status, both halves.
    fn default() -> Needs {
        Needs { request: Vec::new(), response: Vec::new(), phases: Phases::BOTH }
    }
}

impl Needs {
    /// Nothing but the method or the status, both halves.
    pub fn none() -> Needs {
        Needs::default()
    }

    /// And the path, with requests.
    #[must_use]
    pub fn path(self) -> Needs {
        self.and(Fact::Path)
    }

    /// And the query, with requests.
    #[must_use]
    pub fn query(self) -> Needs {
        self.and(Fact::Query)
    }

    /// And host and port, with requests.
    #[must_use]
    pub fn authority(self) -> Needs {
        self.and(Fact::Authority)
    }

    /// And the scheme, with requests.
    #[must_use]
    pub fn scheme(self) -> Needs {
        self.and(Fact::Scheme)
    }

    /// And the client's address, with requests.
    #[must_use]
    pub fn peer(self) -> Needs {
        self.and(Fact::Peer)
    }

    /// And the route's name, with requests.
    #[must_use]
    pub fn route(self) -> Needs {
        self.and(Fact::Route)
    }

    /// And this request field.
    #[must_use]
    pub fn header(self, name: impl Into<String>) -> Needs {
        self.and(Fact::header(name))
    }

    /// And this attribute, with requests.
    #[must_use]
    pub fn attr(self, name: impl Into<String>) -> Needs {
        self.and(Fact::attr(name))
    }

    /// And this field of the answer.
    #[must_use]
    pub fn response_header(mut self, name: impl Into<String>) -> Needs {
        self.on_response(Fact::header(name));
        self
    }

    /// And this attribute, with answers.
    #[must_use]
    pub fn response_attr(mut self, name: impl Into<String>) -> Needs {
        self.on_response(Fact::attr(name));
        self
    }

    /// And only these halves.
    #[must_use]
    pub fn phases(mut self, phases: Phases) -> Needs {
        self.phases = phases;
        self
    }

    /// Asks for this with requests, once, and says at which place it comes: for [`Request::at`].
    pub fn on_request(&mut self, fact: Fact) -> usize {
        place(&mut self.request, fact)
    }

    /// Asks for this with answers, once, and says at which place it comes: for [`Response::at`].
    pub fn on_response(&mut self, fact: Fact) -> usize {
        place(&mut self.response, fact)
    }

    fn and(mut self, fact: Fact) -> Needs {
        self.on_request(fact);
        self
    }
}

fn place(facts: &mut Vec<Fact>, fact: Fact) -> usize {
    match facts.iter().position(|have| *have == fact) {
        Some(place) => place,
        None => {
            facts.push(fact);
            facts.len() - 1
        }
    }
}

/// Reads a configuration into a struct of the plugin's own. Put `#[serde(deny_unknown_fields)]` on the struct, so that a
/// mistyped key is refused.
///
/// # Errors
/// What is wrong and where, in words for the operator.
#[cfg(feature = "serde")]
pub fn config<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| format!("the configuration cannot be read: {error}"))
}
