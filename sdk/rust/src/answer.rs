//! What a plugin says: edits, decisions, replies. Built by chaining; nothing is checked here, since the host checks
//! everything (see `edit` in `wharf:types`).

/// One change to the head in hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Edit {
    /// Replace all fields of this name by one, or add it.
    Set(String, String),
    /// Add a field and keep those of the same name.
    Add(String, String),
    /// Remove all fields of this name.
    Remove(String),
    /// Replace the path sent upstream. Requests only.
    Path(String),
    /// Set an attribute of the exchange.
    Attr(String, String),
}

/// Changes, applied in this order. At most 64 with 32 KiB of text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edits(pub Vec<Edit>);

impl Edits {
    /// No change.
    pub fn none() -> Edits {
        Edits::default()
    }

    /// Replaces all fields of this name by one, or adds it.
    #[must_use]
    pub fn set(self, name: impl Into<String>, value: impl Into<String>) -> Edits {
        self.with(Edit::Set(name.into(), value.into()))
    }

    /// Adds a field and keeps those of the same name.
    #[must_use]
    pub fn add(self, name: impl Into<String>, value: impl Into<String>) -> Edits {
        self.with(Edit::Add(name.into(), value.into()))
    }

    /// Removes all fields of this name.
    #[must_use]
    pub fn remove(self, name: impl Into<String>) -> Edits {
        self.with(Edit::Remove(name.into()))
    }

    /// Replaces the path sent upstream. Requests only.
    #[must_use]
    pub fn path(self, path: impl Into<String>) -> Edits {
        self.with(Edit::Path(path.into()))
    }

    /// Sets an attribute of the exchange.
    #[must_use]
    pub fn attr(self, name: impl Into<String>, value: impl Into<String>) -> Edits {
        self.with(Edit::Attr(name.into(), value.into()))
    }

    fn with(mut self, edit: Edit) -> Edits {
        self.0.push(edit);
        self
    }
}

/// What a plugin that may let a request pass says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Go on, with these edits.
    Next(Edits),
    /// Stop here and answer the client with this.
    Reply(Reply),
}

impl Decision {
    /// Go on; add edits by chaining.
    pub fn next() -> Decision {
        Decision::Next(Edits::none())
    }

    /// Stop here with this status; see [`Reply::new`] for more than that.
    pub fn reply(status: u16) -> Decision {
        Decision::Reply(Reply::new(status))
    }

    /// Sets a field of the request; of the reply, where the decision is one.
    #[must_use]
    pub fn set(self, name: impl Into<String>, value: impl Into<String>) -> Decision {
        match self {
            Decision::Next(edits) => Decision::Next(edits.set(name, value)),
            Decision::Reply(reply) => Decision::Reply(reply.header(name, value)),
        }
    }

    /// Adds a field to the request; to the reply, where the decision is one.
    #[must_use]
    pub fn add(self, name: impl Into<String>, value: impl Into<String>) -> Decision {
        match self {
            Decision::Next(edits) => Decision::Next(edits.add(name, value)),
            Decision::Reply(reply) => Decision::Reply(reply.header_too(name, value)),
        }
    }

    /// Removes a field of the request. Nothing on a reply.
    #[must_use]
    pub fn remove(self, name: impl Into<String>) -> Decision {
        self.edit(|edits| edits.remove(name))
    }

    /// Replaces the path sent upstream. Nothing on a reply.
    #[must_use]
    pub fn path(self, path: impl Into<String>) -> Decision {
        self.edit(|edits| edits.path(path))
    }

    /// Sets an attribute. Nothing on a reply.
    #[must_use]
    pub fn attr(self, name: impl Into<String>, value: impl Into<String>) -> Decision {
        self.edit(|edits| edits.attr(name, value))
    }

    fn edit(self, change: impl FnOnce(Edits) -> Edits) -> Decision {
        match self {
            Decision::Next(edits) => Decision::Next(change(edits)),
            reply => reply,
        }
    }
}

impl From<Edits> for Decision {
    fn from(edits: Edits) -> Decision {
        Decision::Next(edits)
    }
}

impl From<Reply> for Decision {
    fn from(reply: Reply) -> Decision {
        Decision::Reply(reply)
    }
}

/// An answer given in place of the upstream's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// 200 to 599.
    pub status: u16,
    /// Fields; the framing is the host's.
    pub headers: Vec<(String, String)>,
    /// At most 1 MiB.
    pub body: Vec<u8>,
}

impl Reply {
    /// An answer without fields and body.
    pub fn new(status: u16) -> Reply {
        Reply { status, ..Reply::default() }
    }

    /// Sets a field.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Reply {
        let name = name.into();
        self.headers.retain(|(have, _)| *have != name);
        self.headers.push((name, value.into()));
        self
    }

    /// Adds a field and keeps those of the same name.
    #[must_use]
    pub fn header_too(mut self, name: impl Into<String>, value: impl Into<String>) -> Reply {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The body. Say what it is with a `content-type`.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Reply {
        self.body = body.into();
        self
    }

    /// A body of JSON text.
    #[must_use]
    pub fn json(self, text: impl Into<String>) -> Reply {
        self.header("content-type", "application/json").body(text.into())
    }

    /// A body of plain text.
    #[must_use]
    pub fn text(self, text: impl Into<String>) -> Reply {
        self.header("content-type", "text/plain; charset=utf-8").body(text.into())
    }
}

/// Where a route plugin sends a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// Name of a service from the configuration.
    pub service: String,
    /// Only endpoints that carry this tag.
    pub subset: Option<String>,
    /// The path to send upstream, if not the present one.
    pub path: Option<String>,
}

impl Target {
    /// All endpoints of a service, with the present path.
    pub fn service(name: impl Into<String>) -> Target {
        Target { service: name.into(), ..Target::default() }
    }

    /// Only endpoints that carry this tag.
    #[must_use]
    pub fn subset(mut self, tag: impl Into<String>) -> Target {
        self.subset = Some(tag.into());
        self
    }

    /// With this path, which must be canonical.
    #[must_use]
    pub fn path(mut self, path: impl Into<String>) -> Target {
        self.path = Some(path.into());
        self
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No answer within the deadline; the upstream may have acted.
    Timeout,
    /// No connection to any endpoint.
    Connect,
    /// The connection broke, or the answer was not valid HTTP.
    Reset,
    /// The upstream answered with this status.
    Status(u16),
    /// A limit of the gateway was reached.
    Overload,
    /// This plugin of the route failed.
    Plugin(String),
}

/// The last good answer, if it is young enough.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastGood {
    /// Not older than this.
    pub max_age_ms: u32,
    /// What to say when there is none that young; `None`: the fault as it is.
    pub otherwise: Option<Reply>,
}

/// What a degrade plugin says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Instead {
    /// The fault as it is: the host's own error answer.
    #[default]
    Pass,
    /// This.
    Reply(Reply),
    /// The last good answer to the same request.
    LastGood(LastGood),
}

impl From<Reply> for Instead {
    fn from(reply: Reply) -> Instead {
        Instead::Reply(reply)
    }
}
