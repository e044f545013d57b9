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

/// What an instance needs in order to answer. The host passes exactly this, so ask for little.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Needs {
    /// Request fields, lower case, at most 32.
    pub request_headers: Vec<String>,
    /// Response fields, lower case, at most 32.
    pub response_headers: Vec<String>,
    /// Attributes set by earlier plugins, at most 32.
    pub attrs: Vec<String>,
    /// Which halves a filter sees.
    pub phases: Phases,
}

impl Default for Needs {
    /// No names, both halves.
    fn default() -> Needs {
        Needs { request_headers: Vec::new(), response_headers: Vec::new(), attrs: Vec::new(), phases: Phases::BOTH }
    }
}

impl Needs {
    /// No names, both halves.
    pub fn none() -> Needs {
        Needs::default()
    }

    /// And this request field.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>) -> Needs {
        push_new(&mut self.request_headers, name.into());
        self
    }

    /// And this field of the answer.
    #[must_use]
    pub fn response_header(mut self, name: impl Into<String>) -> Needs {
        push_new(&mut self.response_headers, name.into());
        self
    }

    /// And this attribute.
    #[must_use]
    pub fn attr(mut self, name: impl Into<String>) -> Needs {
        push_new(&mut self.attrs, name.into());
        self
    }

    /// And only these halves.
    #[must_use]
    pub fn phases(mut self, phases: Phases) -> Needs {
        self.phases = phases;
        self
    }
}

fn push_new(names: &mut Vec<String>, mut name: String) {
    name.make_ascii_lowercase();
    if !names.contains(&name) {
        names.push(name);
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
