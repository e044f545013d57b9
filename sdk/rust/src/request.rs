//! What a plugin is shown: the heads of request and answer.
//!
//! Declared names ([`crate::Needs`]) come with the question and cost nothing to read. Any other name can be read all the
//! same: it is then one call to the host, made once and kept for the rest of the question.

use crate::host::exchange;
use crate::plugin::Needs;
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
    path: String,
    headers: Values,
    attrs: Values,
    needs: Rc<Needs>,
}

impl Request {
    /// A request as the host passes it: values in the order, and of the number, of the declared names.
    pub fn new(needs: Rc<Needs>, method: Method, path: String, headers: Vec<Option<String>>, attrs: Vec<Option<String>>) -> Request {
        Request { method, path, headers: Values::new(headers), attrs: Values::new(attrs), needs }
    }

    /// The method.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The one canonical path, without query.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The value of a field, several joined by ", ". `name` in lower case. Free if the name was declared, else one
    /// call to the host.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(&self.needs.request_headers, name, exchange::header)
    }

    /// The value of the declared field with this place in [`Needs::request_headers`]. What [`Request::header`] does,
    /// without comparing names.
    pub fn header_at(&self, place: usize) -> Option<&str> {
        self.headers.at(place)
    }

    /// The value of an attribute. Free if the name was declared, else one call to the host.
    pub fn attr(&self, name: &str) -> Option<&str> {
        self.attrs.get(&self.needs.attrs, name, exchange::attr)
    }

    /// The value of the declared attribute with this place in [`Needs::attrs`].
    pub fn attr_at(&self, place: usize) -> Option<&str> {
        self.attrs.at(place)
    }
}

/// The head of an answer.
#[derive(Debug)]
pub struct Response {
    status: u16,
    headers: Values,
    attrs: Values,
    needs: Rc<Needs>,
}

impl Response {
    /// An answer as the host passes it.
    pub fn new(needs: Rc<Needs>, status: u16, headers: Vec<Option<String>>, attrs: Vec<Option<String>>) -> Response {
        Response { status, headers: Values::new(headers), attrs: Values::new(attrs), needs }
    }

    /// 200 to 599.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The value of a field of the answer, several joined by ", ". Free if the name was declared, else one call.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(&self.needs.response_headers, name, exchange::response_header)
    }

    /// The value of the declared field with this place in [`Needs::response_headers`].
    pub fn header_at(&self, place: usize) -> Option<&str> {
        self.headers.at(place)
    }

    /// The value of an attribute. Free if the name was declared, else one call to the host.
    pub fn attr(&self, name: &str) -> Option<&str> {
        self.attrs.get(&self.needs.attrs, name, exchange::attr)
    }

    /// The value of the declared attribute with this place in [`Needs::attrs`].
    pub fn attr_at(&self, place: usize) -> Option<&str> {
        self.attrs.at(place)
    }
}

/// Values that came with the question, and those asked for later.
#[derive(Debug)]
struct Values {
    declared: Vec<Option<String>>,
    asked: Asked,
}

/// A list that only grows, so that what was handed out by reference stays where it is.
#[derive(Debug, Default)]
struct Asked(OnceCell<Box<Answered>>);

#[derive(Debug)]
struct Answered {
    name: String,
    value: Option<String>,
    next: Asked,
}

impl Values {
    fn new(declared: Vec<Option<String>>) -> Values {
        Values { declared, asked: Asked::default() }
    }

    fn at(&self, place: usize) -> Option<&str> {
        self.declared.get(place)?.as_deref()
    }

    fn get(&self, names: &[String], name: &str, ask: fn(&str) -> Option<String>) -> Option<&str> {
        // At most 32 names, and comparing them looks at the lengths first: a map would cost more.
        match names.iter().position(|have| have == name) {
            Some(place) => self.at(place),
            None => self.asked.get(name, ask),
        }
    }
}

impl Asked {
    fn get(&self, name: &str, ask: fn(&str) -> Option<String>) -> Option<&str> {
        let mut list = self;
        loop {
            let answered = list.0.get_or_init(|| Box::new(Answered { name: name.into(), value: ask(name), next: Asked::default() }));
            if answered.name == name {
                return answered.value.as_deref();
            }
            list = &answered.next;
        }
    }
}
