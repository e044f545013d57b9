//! Heads: method, path, fields. One type for every protocol version; what is HTTP/1.1 about a head ends in the codec.
//!
//! A received head is its text and a list of spans into it, so that forwarding writes straight from what was read. What is
//! changed later lives in a second buffer beside it. Names are lower case from the moment the codec hands the head over:
//! matching, plugins and upstream see the same spelling. All three buffers serve one head after the other.

/// Request method (RFC 9110 section 9). Case-sensitive.
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
    /// Any other token, as received.
    Other(Box<str>),
}

impl Method {
    /// Reads a method that the codec has already found to be a token.
    pub fn from_token(token: &str) -> Method {
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

    /// May the same request be sent again without a second effect (RFC 9110 section 9.2.2)?
    pub fn is_idempotent(&self) -> bool {
        matches!(self, Method::Get | Method::Head | Method::Put | Method::Delete | Method::Options | Method::Trace)
    }
}

macro_rules! known_names {
    ($($variant:ident = $name:literal),* $(,)?) => {
        /// Field names that the host itself reads or guards, told apart once, while parsing.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        #[allow(missing_docs, reason = "each name is the field")]
        pub enum Known { Other, $($variant),* }

        impl Known {
            /// Tells a lower-case name apart. Anything not listed is [`Known::Other`].
            #[inline]
            pub fn of(name: &[u8]) -> Known {
                // By length first: most names are refused by one comparison.
                match name.len() {
                    $(len if len == $name.len() && name == $name.as_bytes() => Known::$variant,)*
                    _ => Known::Other,
                }
            }
        }
    };
}

known_names! {
    Te = "te",
    Host = "host",
    Date = "date",
    Via = "via",
    Cookie = "cookie",
    Expect = "expect",
    Server = "server",
    Trailer = "trailer",
    Upgrade = "upgrade",
    Forwarded = "forwarded",
    XRealIp = "x-real-ip",
    KeepAlive = "keep-alive",
    Connection = "connection",
    UserAgent = "user-agent",
    SetCookie = "set-cookie",
    CacheControl = "cache-control",
    RetryAfter = "retry-after",
    ContentType = "content-type",
    ContentLength = "content-length",
    XWharfMirror = "x-wharf-mirror",
    Authorization = "authorization",
    HttpTwoSettings = "http2-settings",
    TransferEncoding = "transfer-encoding",
    ProxyConnection = "proxy-connection",
    ProxyAuthorization = "proxy-authorization",
    ProxyAuthenticate = "proxy-authenticate",
    XForwardedFor = "x-forwarded-for",
    XForwardedSsl = "x-forwarded-ssl",
    XForwardedHost = "x-forwarded-host",
    XForwardedPort = "x-forwarded-port",
    XForwardedProto = "x-forwarded-proto",
    XForwardedPrefix = "x-forwarded-prefix",
    XForwardedServer = "x-forwarded-server",
}

impl Known {
    /// Is this field the host's own business, so that no plugin may set or remove it? See `edit` in `wharf:types`.
    pub fn is_hosts_own(self) -> bool {
        self.is_proxys_word() || self.is_hop_by_hop() || matches!(self, Known::Host | Known::ContentLength)
    }

    /// Does this field say something about the client that only a proxy can know? From anybody else it is invented.
    pub fn is_proxys_word(self) -> bool {
        matches!(
            self,
            Known::Forwarded
                | Known::XRealIp
                | Known::XForwardedFor
                | Known::XForwardedHost
                | Known::XForwardedPort
                | Known::XForwardedProto
                | Known::XForwardedPrefix
                | Known::XForwardedServer
                | Known::XForwardedSsl
        )
    }

    /// Is this field worth nothing from a client: what a proxy says about its client, or the mark of a copy that a mirror has
    /// made? Who gets the mark may leave out what must happen once.
    pub fn is_gateways_word(self) -> bool {
        self.is_proxys_word() || self == Known::XWharfMirror
    }

    /// Is this field taken from nobody in another spelling, nor behind a body: the host's own, or the mark of a copy?
    pub fn is_guarded(self) -> bool {
        self.is_hosts_own() || self == Known::XWharfMirror
    }

    /// Of what a proxy says, one that the host never writes itself: whoever configures it may set it for the upstream, though no plugin may.
    pub fn is_left_to_operators(self) -> bool {
        matches!(
            self,
            Known::Forwarded
                | Known::XRealIp
                | Known::XForwardedPort
                | Known::XForwardedPrefix
                | Known::XForwardedServer
                | Known::XForwardedSsl
        )
    }

    /// Is this lower-case name, with `_` for `-`, that of a field which the host guards? Gateways to CGI and WSGI
    /// programs, and many frameworks, read both letters as one (RFC 3875 section 4.1.18), so that an upstream would take
    /// `x_forwarded_for` for what the host vouches for.
    pub fn is_alias(name: &[u8]) -> bool {
        name.contains(&b'_') && Known::read_as(name).is_guarded()
    }

    /// What somebody who takes `_` for `-` reads.
    fn read_as(name: &[u8]) -> Known {
        let mut plain = [0; 24];
        // No known name is longer.
        let Some(plain) = plain.get_mut(..name.len()) else { return Known::Other };
        plain.copy_from_slice(name);
        plain.iter_mut().filter(|byte| **byte == b'_').for_each(|byte| *byte = b'-');
        Known::of(plain)
    }

    /// Does this field speak about one connection only (RFC 9110 section 7.6.1), so that it is never passed on?
    pub fn is_hop_by_hop(self) -> bool {
        matches!(
            self,
            Known::Connection
                | Known::KeepAlive
                | Known::ProxyConnection
                | Known::TransferEncoding
                | Known::Te
                | Known::Trailer
                | Known::Upgrade
                | Known::HttpTwoSettings
                | Known::ProxyAuthenticate
                | Known::ProxyAuthorization
        )
    }
}

/// A piece of a head: in the received text, or (highest bit set) in the text added later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    at: u32,
    len: u32,
}

const ADDED: u32 = 1 << 31;

impl Span {
    /// A span of the received text. Heads are far smaller than 2 GiB: the codec's limit sees to it.
    pub fn received(at: usize, len: usize) -> Span {
        Span { at: at as u32 & !ADDED, len: len as u32 }
    }

    /// Bytes it covers.
    pub fn len(self) -> usize {
        self.len as usize
    }

    /// Covers nothing.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// Where it stands in the received text. `None`: it was added later.
    pub fn range(self) -> Option<std::ops::Range<usize>> {
        (self.at & ADDED == 0).then(|| self.at as usize..self.at as usize + self.len as usize)
    }
}

/// One field: a lower-case name and a value without CR, LF and NUL.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    name: Span,
    value: Span,
    known: Known,
    is_line: bool,
}

/// Bytes of text for which memory is kept from one head to the next.
const TEXT_KEPT: usize = 4 * 1024;

/// The fields of a head, in order, and the text that all spans of the head point into.
#[derive(Clone, Debug, Default)]
pub struct Fields {
    text: Vec<u8>,
    added: Vec<u8>,
    list: Vec<Field>,
}

impl Fields {
    /// Fields over a received head. `list` comes from the codec: names are tokens in lower case, values are clean.
    pub fn received(text: Vec<u8>, list: Vec<Field>) -> Fields {
        Fields { text, added: Vec::new(), list }
    }

    /// Becomes the fields of another received head, in the memory that these had. See [`Fields::received`].
    #[inline]
    pub fn receive(&mut self, text: &[u8], list: Vec<Field>) {
        self.text.clear();
        self.added.clear();
        self.text.extend_from_slice(text);
        self.list = list;
    }

    /// Adds a field to a head that is being received, for a codec whose wire has no lines: it makes the line as it would be
    /// written. The codec vouches for name (lower-case token) and value (no CR, LF, NUL).
    pub fn receive_line(&mut self, known: Known, name: &[u8], value: &[u8]) {
        let at = self.text.len();
        for part in [name, b": ", value, b"\r\n"] {
            self.text.extend_from_slice(part);
        }
        let value = Span::received(at + name.len() + 2, value.len());
        self.list.push(Field::received_line(Span::received(at, name.len()), value, known));
    }

    /// Forgets all fields and all text, and keeps their memory, unless a large head has made it large.
    pub fn clear(&mut self) {
        self.list.clear();
        for text in [&mut self.text, &mut self.added] {
            if text.capacity() > TEXT_KEPT {
                *text = Vec::new();
            }
            text.clear();
        }
    }

    /// An empty list to be filled and given to [`Fields::receive`], in the memory that these fields had.
    pub fn take_list(&mut self) -> Vec<Field> {
        let mut list = std::mem::take(&mut self.list);
        list.clear();
        list
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// What a span of this head covers. A span of another head gives other text or none, never a panic.
    pub fn bytes(&self, span: Span) -> &[u8] {
        let len = span.len as usize;
        if span.at & ADDED == 0 {
            let at = span.at as usize;
            self.text.get(at..at + len).unwrap_or_default()
        } else {
            let at = (span.at & !ADDED) as usize;
            self.added.get(at..at + len).unwrap_or_default()
        }
    }

    /// Adds text to the head's second buffer and returns where it stands.
    pub fn keep(&mut self, text: &[u8]) -> Span {
        let at = self.added.len();
        self.added.extend_from_slice(text);
        Span { at: at as u32 | ADDED, len: text.len() as u32 }
    }

    /// The received text and the fields as spans, for a codec that writes runs of untouched fields as they stand.
    pub fn parts(&self) -> (&[u8], &[Field]) {
        (&self.text, &self.list)
    }

    /// Every field as (known name, name, value), in order.
    pub fn iter(&self) -> impl Iterator<Item = (Known, &[u8], &[u8])> {
        self.list.iter().map(|field| (field.known, self.bytes(field.name), self.bytes(field.value)))
    }

    /// First value of a name that [`Known`] lists.
    pub fn known(&self, known: Known) -> Option<&[u8]> {
        self.list.iter().find(|field| field.known == known).map(|field| self.bytes(field.value))
    }

    /// All values of a name that [`Known`] lists.
    pub fn known_all(&self, known: Known) -> impl Iterator<Item = &[u8]> {
        self.list.iter().filter(move |field| field.known == known).map(|field| self.bytes(field.value))
    }

    /// All values of a lower-case name, in order.
    pub fn all<'a, 'n>(&'a self, name: &'n [u8]) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        let known = Known::of(name);
        self.list
            .iter()
            .filter(move |field| {
                field.known == known && (known != Known::Other || (field.name.len() == name.len() && self.bytes(field.name) == name))
            })
            .map(|field| self.bytes(field.value))
    }

    /// First value of a lower-case name.
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.all(name).next()
    }

    /// Value of a lower-case name as text for people and plugins: several joined by ", " (RFC 9110 section 5.3), bytes
    /// that are not UTF-8 read as ISO 8859-1. `None`: no such field.
    pub fn joined(&self, name: &[u8]) -> Option<std::borrow::Cow<'_, str>> {
        use std::borrow::Cow;
        let known = Known::of(name);
        let mut found: Option<Cow<'_, str>> = None;
        for field in &self.list {
            if field.known != known || (known == Known::Other && self.bytes(field.name) != name) {
                continue;
            }
            let value = text(self.bytes(field.value));
            found = Some(match found {
                None => value,
                Some(before) => Cow::Owned(format!("{before}, {value}")),
            });
        }
        found
    }

    /// Adds a field at the end. The caller has checked name and value (see [`crate::edit`] for what comes from plugins).
    pub fn add(&mut self, name: &[u8], value: &[u8]) {
        let known = Known::of(name);
        let name = self.keep(name);
        let value = self.keep(value);
        self.list.push(Field { name, value, known, is_line: false });
    }

    /// Replaces all fields of this name by one at the end; see [`Fields::remove`].
    pub fn set(&mut self, name: &[u8], value: &[u8]) {
        self.remove(name);
        self.add(name, value);
    }

    /// Removes all fields of this lower-case name, and those whose name differs only by `_` for `-`: an upstream that reads
    /// both as one would find what was to be removed (see [`Known::is_alias`]).
    pub fn remove(&mut self, name: &[u8]) {
        let known = Known::read_as(name);
        let Fields { text, added, list } = self;
        list.retain(|field| match field.known {
            Known::Other => !is_spelling_of(slice(text, added, field.name), name),
            have => have != known,
        });
    }

    /// Removes the fields whose kind `gone` says yes to.
    pub fn remove_if(&mut self, mut gone: impl FnMut(Known) -> bool) {
        self.list.retain(|field| !gone(field.known));
    }

    /// Bytes that all names and values take: what limits on the size of a head count.
    pub fn text_len(&self) -> usize {
        self.list.iter().map(|field| field.name.len() + field.value.len()).sum()
    }
}

/// Are these two lower-case names one to somebody who reads `_` as `-` (see [`Known::is_alias`])?
pub fn is_spelling_of(name: &[u8], other: &[u8]) -> bool {
    let plain = |byte: &u8| if *byte == b'_' { b'-' } else { *byte };
    name.len() == other.len() && name.iter().map(plain).eq(other.iter().map(plain))
}

impl Field {
    /// A field of a received head. The codec vouches for name (lower-case token) and value (no CR, LF, NUL).
    pub fn received(name: Span, value: Span, known: Known) -> Field {
        Field { name, value, known, is_line: false }
    }

    /// The same for one whose whole line stands in the received text as it would be written: `name: value` CR LF.
    pub fn received_line(name: Span, value: Span, known: Known) -> Field {
        Field { name, value, known, is_line: true }
    }

    /// Where its line stands in the received text, line end included, if it stands there as it would be written.
    pub fn line(self) -> Option<std::ops::Range<usize>> {
        self.is_line.then_some(self.name.at as usize..self.value.at as usize + self.value.len as usize + 2)
    }

    /// Its name.
    pub fn name(self) -> Span {
        self.name
    }

    /// Its value.
    pub fn value(self) -> Span {
        self.value
    }

    /// Which of the known names it has.
    pub fn known(self) -> Known {
        self.known
    }
}

fn slice<'a>(text: &'a [u8], added: &'a [u8], span: Span) -> &'a [u8] {
    let at = (span.at & !ADDED) as usize;
    let from = if span.at & ADDED == 0 { text } else { added };
    from.get(at..at + span.len as usize).unwrap_or_default()
}

/// Bytes of a field value as text: UTF-8 where it is, else every byte as ISO 8859-1.
pub fn text(value: &[u8]) -> std::borrow::Cow<'_, str> {
    match std::str::from_utf8(value) {
        Ok(text) => text.into(),
        Err(_) => value.iter().map(|&byte| byte as char).collect::<String>().into(),
    }
}

/// How the client reached us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each name is the scheme")]
pub enum Scheme {
    #[default]
    Http,
    Https,
}

impl Scheme {
    /// Lower-case name as in a URI.
    pub fn as_str(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// The head of a request.
///
/// `authority`, `path` and `query` are ASCII: a codec refuses anything else. `path` is canonical; there is no second,
/// raw one, so nothing can be decided on one spelling and sent in another.
#[derive(Clone, Debug, Default)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// How the client reached us.
    pub scheme: Scheme,
    /// The fields, `host` included while the head is the client's.
    pub fields: Fields,
    authority: Span,
    path: Span,
    asked_path: Span,
    query: Option<Span>,
}

impl RequestHead {
    /// What a codec read beside the fields, whose text the spans are of. Field by field: a whole head is felt when it moves.
    pub fn receive(&mut self, method: Method, scheme: Scheme, authority: Span, path: Span, query: Option<Span>) {
        (self.method, self.scheme) = (method, scheme);
        (self.authority, self.path, self.asked_path, self.query) = (authority, path, path, query);
    }

    /// Forgets everything, and keeps the memory of the fields.
    pub fn clear(&mut self) {
        let RequestHead { method, scheme, fields, authority, path, asked_path, query } = self;
        fields.clear();
        (*method, *scheme) = (Method::default(), Scheme::default());
        (*authority, *path, *asked_path, *query) = (Span::default(), Span::default(), Span::default(), None);
    }

    /// A head from text, for rules' tests and calls that the house makes itself. `path` must be canonical.
    pub fn from_text(method: Method, authority: &str, path: &str, query: Option<&str>) -> RequestHead {
        let mut fields = Fields::default();
        let authority = fields.keep(authority.as_bytes());
        let path = fields.keep(path.as_bytes());
        let query = query.map(|query| fields.keep(query.as_bytes()));
        RequestHead { method, scheme: Scheme::Http, fields, authority, path, asked_path: path, query }
    }

    /// Host and port as the client meant them, lower case.
    pub fn authority(&self) -> &str {
        std::str::from_utf8(self.authority_bytes()).unwrap_or_default()
    }

    /// Host and port, for the hot road.
    pub fn authority_bytes(&self) -> &[u8] {
        self.fields.bytes(self.authority)
    }

    /// The canonical path.
    pub fn path(&self) -> &str {
        std::str::from_utf8(self.path_bytes()).unwrap_or_default()
    }

    /// The canonical path, for the hot road.
    pub fn path_bytes(&self) -> &[u8] {
        self.fields.bytes(self.path)
    }

    /// The canonical path as the client asked for it, whatever rules have made of it since: for the record.
    pub fn asked_path(&self) -> &[u8] {
        self.fields.bytes(self.asked_path)
    }

    /// What stands behind `?`, undecoded. `None`: there is no `?`.
    pub fn query(&self) -> Option<&str> {
        self.query_bytes().map(|query| std::str::from_utf8(query).unwrap_or_default())
    }

    /// What stands behind `?`, for the hot road.
    pub fn query_bytes(&self) -> Option<&[u8]> {
        self.query.map(|query| self.fields.bytes(query))
    }

    /// Replaces the path. The caller has made it canonical.
    pub fn set_path(&mut self, path: &str) {
        self.path = self.fields.keep(path.as_bytes());
    }
}

/// The head of an answer.
#[derive(Clone, Debug, Default)]
pub struct ResponseHead {
    /// 200 to 599, or 101 where an upgrade was asked for.
    pub status: u16,
    /// The fields.
    pub fields: Fields,
}

impl ResponseHead {
    /// A head with no fields yet.
    pub fn new(status: u16) -> ResponseHead {
        ResponseHead { status, fields: Fields::default() }
    }

    /// Is it the head of a stream that may be quiet for long (an event stream), so that only its quiet time bounds it?
    pub fn is_event_stream(&self) -> bool {
        const KIND: &[u8] = b"text/event-stream";
        let begins = |kind: &[u8]| kind.get(..KIND.len()).is_some_and(|kind| kind.eq_ignore_ascii_case(KIND));
        self.fields.known(Known::ContentType).is_some_and(begins)
    }

    /// Forgets everything, and keeps the memory of the fields.
    pub fn clear(&mut self) {
        self.status = 0;
        self.fields.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_added_later_is_found_beside_a_received_one() {
        let text = b"host: a\r\nx-a: 1".to_vec();
        let list = vec![
            Field::received(Span::received(0, 4), Span::received(6, 1), Known::Host),
            Field::received(Span::received(9, 3), Span::received(14, 1), Known::Other),
        ];
        let mut fields = Fields::received(text, list);
        fields.add(b"x-a", b"2");
        assert_eq!(fields.joined(b"x-a").as_deref(), Some("1, 2"));
        assert_eq!(fields.known(Known::Host), Some(&b"a"[..]));
        fields.set(b"x-a", b"3");
        assert_eq!(fields.joined(b"x-a").as_deref(), Some("3"));
        fields.remove(b"host");
        assert_eq!(fields.len(), 1);
        fields.add(b"x_a", b"4");
        fields.add(b"x-b", b"5");
        fields.set(b"x-a", b"6");
        let left: Vec<_> = fields.iter().map(|(_, name, value)| (name, value)).collect();
        assert_eq!(left, [(&b"x-b"[..], &b"5"[..]), (b"x-a", b"6")], "what upstreams may read as the same name is gone, too");
        fields.add(b"set-cookie", b"7");
        fields.remove(b"set_cookie");
        assert_eq!(fields.len(), 2, "of a name that the host knows, too");
    }

    #[test]
    fn another_spelling_of_a_guarded_name_is_known() {
        for name in [
            "x_forwarded_for",
            "x-forwarded_for",
            "x_real_ip",
            "content_length",
            "transfer_encoding",
            "x_forwarded_prefix",
            "x_wharf_mirror",
        ] {
            assert!(Known::is_alias(name.as_bytes()), "{name}");
        }
        for name in ["x-forwarded-for", "x_consumer", "_", "", "content_type", "x_forwarded_for_a_very_long_way"] {
            assert!(!Known::is_alias(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn a_value_that_is_not_utf8_reads_as_latin1_and_loses_nothing() {
        assert_eq!(text(b"caf\xe9"), "café");
        assert_eq!(text("café".as_bytes()), "café");
    }
}
