//! What a plugin is shown: the heads of request and answer.
//!
//! What [`Needs`] asks for comes with the question and costs nothing to read. All else can be read by the same functions:
//! it is then one call to the host, made once and kept for the rest of the question.

use crate::host::exchange;
use crate::plugin::{Fact, Needs};
use std::cell::OnceCell;
use std::rc::Rc;

/// Request method. Case-sensitive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each name is the method")]
pub enum Method {
    #[default]
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Patch,
    Connect,
    Trace,
    Other(String),
}

impl Method {
    /// The method as it stands on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
            Method::Options => "OPTIONS",
            Method::Patch => "PATCH",
            Method::Connect => "CONNECT",
            Method::Trace => "TRACE",
            Method::Other(token) => token,
        }
    }
}

impl From<&str> for Method {
    fn from(token: &str) -> Method {
        match token {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "POST" => Method::Post,
            "PUT" => Method::Put,
            "DELETE" => Method::Delete,
            "OPTIONS" => Method::Options,
            "PATCH" => Method::Patch,
            "CONNECT" => Method::Connect,
            "TRACE" => Method::Trace,
            other => Method::Other(other.into()),
        }
    }
}

/// The head of a request.
#[derive(Debug)]
pub struct Request {
    method: Method,
    facts: Handed,
    needs: Rc<Needs>,
}

impl Request {
    /// A request as the host passes it: facts in the order, and of the number, of [`Needs::request`].
    pub fn new(needs: Rc<Needs>, method: Method, facts: Vec<Option<String>>) -> Request {
        Request { method, facts: Handed::new(facts), needs }
    }

    /// The method.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The value of a field, several joined by ", ". `name` in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.get(Fact::Header(name), &|| exchange::header(name))
    }

    /// What was asked for at this place of [`Needs::request`]; see [`Needs::on_request`]. For rules that are asked often:
    /// no name is compared.
    pub fn at(&self, place: usize) -> Option<&str> {
        self.facts.at(place)
    }
}

/// The head of an answer. All but its status and fields is the request's, as it is now.
#[derive(Debug)]
pub struct Response {
    status: u16,
    facts: Handed,
    needs: Rc<Needs>,
}

impl Response {
    /// An answer as the host passes it: facts in the order, and of the number, of [`Needs::response`].
    pub fn new(needs: Rc<Needs>, status: u16, facts: Vec<Option<String>>) -> Response {
        Response { status, facts: Handed::new(facts), needs }
    }

    /// 200 to 599.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The value of a field of the answer, several joined by ", ". `name` in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.get(Fact::Header(name), &|| exchange::response_header(name))
    }

    /// What was asked for at this place of [`Needs::response`]; see [`Needs::on_response`].
    pub fn at(&self, place: usize) -> Option<&str> {
        self.facts.at(place)
    }
}

/// What can be read of both: the same of the request in hand, and of the request that an answer belongs to.
macro_rules! reads_the_exchange {
    ($head:ident, $needs:ident) => {
        impl $head {
            /// The one canonical path, without query; of an answer's request, as it was sent upstream.
            pub fn path(&self) -> &str {
                self.get(Fact::Path, &|| Some(exchange::path())).unwrap_or_default()
            }

            /// What stands behind `?` in the request, undecoded. `None`: there is no `?`.
            pub fn query(&self) -> Option<&str> {
                self.get(Fact::Query, &|| exchange::query())
            }

            /// Host and port as the client meant them, lower case.
            pub fn authority(&self) -> &str {
                self.get(Fact::Authority, &|| Some(exchange::authority())).unwrap_or_default()
            }

            /// `http` or `https`, as the client used it.
            pub fn scheme(&self) -> &str {
                self.get(Fact::Scheme, &|| Some(exchange::scheme())).unwrap_or_default()
            }

            /// Address of the client, without port.
            pub fn peer(&self) -> &str {
                self.get(Fact::Peer, &|| Some(exchange::peer())).unwrap_or_default()
            }

            /// Name of the route that matched.
            pub fn route(&self) -> &str {
                self.get(Fact::Route, &|| Some(exchange::route())).unwrap_or_default()
            }

            /// The value of an attribute.
            pub fn attr(&self, name: &str) -> Option<&str> {
                self.get(Fact::Attr(name), &|| exchange::attr(name))
            }

            fn get<'a>(&'a self, wanted: Fact<&str>, ask: &dyn Fn() -> Option<String>) -> Option<&'a str> {
                self.facts.get(&self.needs.$needs, wanted, ask)
            }
        }
    };
}

reads_the_exchange!(Request, request);
reads_the_exchange!(Response, response);

/// Facts that came with the question, and those that were asked for later.
#[derive(Debug)]
struct Handed {
    facts: Vec<Option<String>>,
    later: Later,
}

/// A list that only grows, so that what was handed out by reference stays where it is.
#[derive(Debug, Default)]
struct Later(OnceCell<Box<Answered>>);

#[derive(Debug)]
struct Answered {
    fact: Fact,
    value: Option<String>,
    next: Later,
}

impl Handed {
    fn new(facts: Vec<Option<String>>) -> Handed {
        Handed { facts, later: Later::default() }
    }

    fn at(&self, place: usize) -> Option<&str> {
        self.facts.get(place)?.as_deref()
    }

    fn get(&self, asked: &[Fact], wanted: Fact<&str>, ask: &dyn Fn() -> Option<String>) -> Option<&str> {
        // At most 64, and comparing names looks at their lengths first: a map would cost more.
        match asked.iter().position(|fact| fact.borrowed() == wanted) {
            Some(place) => self.at(place),
            None => self.later.get(wanted, ask),
        }
    }
}

impl Later {
    fn get(&self, wanted: Fact<&str>, ask: &dyn Fn() -> Option<String>) -> Option<&str> {
        let mut list = self;
        loop {
            let answered = list
                .0
                .get_or_init(|| Box::new(Answered { fact: wanted.map(|name| (*name).to_owned()), value: ask(), next: Later::default() }));
            if answered.fact.borrowed() == wanted {
                return answered.value.as_deref();
            }
            list = &answered.next;
        }
    }
}
