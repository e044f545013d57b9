//! Checks of what a caller sends and a service answers: media types, sizes, and arguments against JSON Schema. Asked just
//! before the call, so only of callers whom the auth plugins let in: nobody else makes the gateway hold a body.
//!
//! A refusal names the argument, the place in it, and what was expected. Schemas are compiled when the configuration is
//! read; nothing is fetched, and their patterns are linear in the text.

use crate::json;
use crate::routes::{arguments, decoded};
use bytes::{Bytes, BytesMut};
use jsonschema::Validator;
use serde_json::{Map, Value};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use wharf_core::LocalBoxFuture;
use wharf_core::body::{Body, BodyStream};
use wharf_core::exchange::{Answer, Exchange, Facts};
use wharf_core::fault::{Fault, FaultKind, Retry};
use wharf_core::head::{Fields, Known, Method, text};
use wharf_core::outlet::{Outlet, Wish};

/// Mistakes of one request that are told.
const TOLD_MAX: usize = 5;
/// Of a body larger than this, only the first.
const ALL_TOLD: usize = 16 * 1024;
/// Letters of one of them.
const TOLD_LETTERS: usize = 200;
/// Memory that one pattern of a schema may take, bytes.
const PATTERN_MAX: usize = 1 << 20;

/// The checks of one route.
#[derive(Clone, Debug, Default)]
pub struct Checks {
    /// Media types, in lower case, that a body may have; empty: any. `text/*` takes all below.
    pub types: Vec<Box<str>>,
    /// The query's arguments as an object.
    pub query: Option<Arc<Schema>>,
    /// The header fields as an object, names in lower case.
    pub headers: Option<Arc<Schema>>,
    /// What the route's path names as an object.
    pub path: Option<Arc<Schema>>,
    /// The body, which must be JSON.
    pub body: Option<Arc<Schema>>,
    /// Largest body that is held to be judged. Bytes.
    pub held_bytes_max: u64,
    /// Media types that an answer with a body and a status below 300 may have; empty: any.
    pub answer_types: Vec<Box<str>>,
    /// Largest body of an answer.
    pub answer_bytes_max: Option<u64>,
}

/// A schema, compiled.
pub struct Schema {
    validator: Validator,
    kinds: Vec<(Box<str>, Kind)>,
    text: Box<str>,
}

/// What the text of an argument stands for, by the schema's own words.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
    Switch,
    List(Box<Kind>),
}

impl Schema {
    /// Compiles a schema (draft 2020-12 unless it says otherwise).
    ///
    /// # Errors
    /// It is none, it refers to what is not in it, or a pattern of it is too large.
    pub fn new(schema: &Value) -> Result<Schema, String> {
        let patterns = jsonschema::PatternOptions::regex().size_limit(PATTERN_MAX).dfa_size_limit(PATTERN_MAX);
        let built = jsonschema::options()
            .with_draft(jsonschema::Draft::Draft202012)
            .with_pattern_options(patterns)
            .should_validate_formats(true)
            .build(schema);
        let validator = built.map_err(|error| {
            let said = error.to_string();
            // Behind that stands by which means it could be fetched, and there shall be none.
            let said = said.split(" and retrieving it failed").next().unwrap_or_default();
            match error.instance_path().as_str() {
                "" => said.to_owned(),
                place => format!("{place}: {said}"),
            }
        })?;
        let properties = schema.get("properties").and_then(Value::as_object);
        let kinds = properties.into_iter().flatten().map(|(name, schema)| (name.as_str().into(), Kind::of(schema))).collect();
        Ok(Schema { validator, kinds, text: schema.to_string().into() })
    }

    fn kind(&self, name: &str) -> &Kind {
        self.kinds.iter().find(|(have, _)| **have == *name).map_or(&Kind::Text, |(_, kind)| kind)
    }

    /// Judges arguments that come as text, each with its name, some more than once.
    fn judge_texts(&self, what: &str, texts: impl Iterator<Item = (String, String)>) -> Result<(), String> {
        let mut object = Map::new();
        for (name, value) in texts {
            let kind = self.kind(&name);
            match (object.get_mut(&name), kind) {
                (Some(Value::Array(list)), Kind::List(inner)) => list.push(inner.read(value)),
                (None, Kind::List(inner)) => drop(object.insert(name, Value::Array(vec![inner.read(value)]))),
                // Which of them the upstream takes is not known.
                (Some(_), _) => return Err(format!("{what} `{}` is given twice", short(&name))),
                (None, kind) => drop(object.insert(name, kind.read(value))),
            }
        }
        self.judge(what, &Value::Object(object), true)
    }

    /// `small`: what is judged came in few bytes. Of something large only the first mistake is looked for: all of them are
    /// looked for at once, and a large body can be made of nothing else.
    fn judge(&self, what: &str, value: &Value, small: bool) -> Result<(), String> {
        if self.validator.is_valid(value) {
            return Ok(());
        }
        let mistakes: Vec<_> = match small {
            true => self.validator.iter_errors(value).take(TOLD_MAX).collect(),
            false => self.validator.validate(value).err().into_iter().collect(),
        };
        let mut told: Vec<String> = Vec::new();
        for error in mistakes {
            let place = error.instance_path().to_string();
            let place = place.trim_start_matches('/');
            let name = if place.is_empty() { what.to_owned() } else { format!("{what} `{}`", short(place)) };
            told.push(format!("{name}: {}", short(&error.to_string())));
        }
        Err(told.join("; "))
    }
}

fn short(text: &str) -> String {
    let mut short: String = text.chars().take(TOLD_LETTERS).collect();
    if short.len() < text.len() {
        short.push_str("...");
    }
    short
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Kind {
    fn of(schema: &Value) -> Kind {
        match schema.get("type").and_then(Value::as_str) {
            Some("integer" | "number") => Kind::Number,
            Some("boolean") => Kind::Switch,
            Some("array") => Kind::List(Box::new(schema.get("items").map_or(Kind::Text, Kind::of))),
            _ => Kind::Text,
        }
    }

    /// What is not what it should be stays text, which the schema will refuse in its own words.
    fn read(&self, text: String) -> Value {
        match (self, text.as_str()) {
            (Kind::Number, _) => text.parse::<serde_json::Number>().map_or(Value::String(text), Value::Number),
            (Kind::Switch, "true") => Value::Bool(true),
            (Kind::Switch, "false") => Value::Bool(false),
            _ => Value::String(text),
        }
    }
}

impl Checks {
    /// Judges what can be judged without the body.
    fn head(&self, facts: &Facts, has_body: bool) -> Result<(), Fault> {
        let fields = &facts.request.fields;
        let kind = fields.known(Known::ContentType);
        let looks = has_body && (self.body.is_some() || !self.types.is_empty());
        if looks && fields.all(b"content-type").count() > 1 {
            // Which of them the upstream takes is not known.
            return Err(Fault::caller(FaultKind::WrongType, "the body is given more than one `content-type`"));
        }
        if has_body && !self.types.is_empty() && !kind.is_some_and(|kind| is_one_of(kind, &self.types)) {
            let said = kind.map_or("of no type".into(), |kind| format!("of type {:?}", short(&text(kind))));
            let what = format!("the body is {said}, and this route takes {}", self.types.join(", "));
            return Err(Fault::caller(FaultKind::WrongType, what));
        }
        let bad = |said: Result<(), String>| said.map_err(|what| Fault::caller(FaultKind::BadArgument, what));
        if let Some(schema) = &self.path {
            let names = facts.attrs.iter().filter_map(|(name, value)| Some((name.strip_prefix("path.")?, value)));
            bad(schema.judge_texts("path segment", names.map(|(name, value)| (name.to_owned(), plain(value.as_bytes(), false)))))?;
        }
        if let Some(schema) = &self.query {
            let query = facts.request.query_bytes().unwrap_or_default();
            let owned = |text: &[u8]| String::from_utf8_lossy(text).into_owned();
            bad(schema.judge_texts("query argument", arguments(query).map(|(name, value)| (owned(&name), owned(&value)))))?;
        }
        if let Some(schema) = &self.headers {
            let owned = |(_, name, value): (Known, &[u8], &[u8])| (String::from_utf8_lossy(name).into_owned(), text(value).into_owned());
            let known = |(name, _): &(String, String)| schema.kinds.iter().any(|(have, _)| **have == **name);
            bad(schema.judge_texts("header", fields.iter().map(owned).filter(known)))?;
        }
        Ok(())
    }

    /// Reads the body and judges it; it is whole then.
    async fn body(&self, schema: &Schema, exchange: &mut Exchange) -> Result<(), Fault> {
        let fields = &exchange.facts.request.fields;
        let is_json = |kind: &[u8]| is_one_of(kind, &["application/json".into(), "*+json".into()]);
        if matches!(exchange.body, Body::Empty) && !matches!(exchange.facts.request.method, Method::Post | Method::Put | Method::Patch) {
            return Ok(());
        }
        if !fields.known(Known::ContentType).is_some_and(is_json) {
            return Err(Fault::caller(FaultKind::WrongType, "the body is not said to be JSON, and this route takes application/json"));
        }
        if fields.all(b"content-encoding").any(|coding| !coding.eq_ignore_ascii_case(b"identity")) {
            return Err(Fault::caller(FaultKind::WrongType, "the body is encoded, and this route takes only what it can read"));
        }
        let all = whole(std::mem::take(&mut exchange.body), self.held_bytes_max).await?;
        let bad = |what: String| Fault::caller(FaultKind::BadArgument, what);
        let value = json::read(&all).map_err(|error| bad(format!("body: this is not JSON: {}", short(&error))))?;
        schema.judge("body", &value, all.len() <= ALL_TOLD).map_err(bad)?;
        exchange.body = all.into();
        Ok(())
    }

    fn answer(&self, mut answer: Answer) -> Result<Answer, Fault> {
        let bad = |what: String| Fault::upstream(FaultKind::BadAnswer, Retry::Never, what);
        if answer.tunnel.is_some() {
            return Ok(answer);
        }
        let size = answer.body.size();
        if !self.answer_types.is_empty() && answer.head.status < 300 && size != Some(0) {
            let kind = answer.head.fields.known(Known::ContentType);
            if !kind.is_some_and(|kind| is_one_of(kind, &self.answer_types)) {
                let said = kind.map_or("none".into(), |kind| format!("{:?}", short(&text(kind))));
                return Err(bad(format!("the answer has type {said}, and the route passes {}", self.answer_types.join(", "))));
            }
        }
        if let Some(max) = self.answer_bytes_max {
            let what = || bad(format!("the answer has more than the {max} bytes that the route passes (`checks.answer.body_bytes_max`)"));
            if size.is_some_and(|size| size > max) {
                return Err(what());
            }
            answer.body = match std::mem::take(&mut answer.body) {
                Body::Stream(inner) => Body::Stream(Box::new(Bounded { inner, left: max, what: what() })),
                whole => whole,
            };
        }
        Ok(answer)
    }
}

/// All of a body, up to a bound.
async fn whole(body: Body, max: u64) -> Result<Bytes, Fault> {
    let too_large = || {
        let what = format!("the body has more than the {max} bytes that are judged (`checks.body_bytes_max`)");
        Fault::caller(FaultKind::TooLarge { head: false }, what)
    };
    if body.size().is_some_and(|size| size > max) {
        return Err(too_large());
    }
    let mut stream = match body {
        Body::Empty => return Ok(Bytes::new()),
        Body::Full(all) => return Ok(all),
        Body::Stream(stream) => stream,
    };
    let mut all = BytesMut::new();
    while let Some(piece) = std::future::poll_fn(|task| stream.poll_chunk(task)).await? {
        if (all.len() + piece.len()) as u64 > max {
            return Err(too_large());
        }
        all.extend_from_slice(&piece);
    }
    Ok(all.freeze())
}

fn plain(text: &[u8], form: bool) -> String {
    String::from_utf8_lossy(&decoded(text, form)).into_owned()
}

/// Is this media type one of these: `text/html`, `text/*`, `*+json`? Parameters do not count.
pub(crate) fn is_one_of(kind: &[u8], types: &[Box<str>]) -> bool {
    let kind = kind.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii().to_ascii_lowercase();
    types.iter().any(|wanted| match (wanted.strip_suffix('*'), wanted.strip_prefix('*')) {
        (Some(begins), _) => kind.starts_with(begins.as_bytes()),
        (_, Some(ends)) => kind.ends_with(ends.as_bytes()),
        _ => *wanted.as_bytes() == *kind,
    })
}

/// An answer's body that is held to a size.
struct Bounded {
    inner: Box<dyn BodyStream>,
    left: u64,
    what: Fault,
}

impl BodyStream for Bounded {
    fn poll_chunk(&mut self, task: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        let polled = self.inner.poll_chunk(task);
        if let Poll::Ready(Ok(Some(piece))) = &polled {
            match self.left.checked_sub(piece.len() as u64) {
                Some(left) => self.left = left,
                None => return Poll::Ready(Err(self.what.clone())),
            }
        }
        polled
    }

    fn trailers(&mut self) -> Option<Fields> {
        self.inner.trailers()
    }

    fn size(&self) -> Option<u64> {
        self.inner.size()
    }
}

/// Checks, then asks the outlet behind, then checks what it said.
pub struct Checked {
    /// What is checked.
    pub checks: Arc<Checks>,
    /// Who is asked.
    pub inner: Rc<dyn Outlet>,
}

impl Outlet for Checked {
    fn call<'a>(&'a self, exchange: &'a mut Exchange, wish: &'a Wish) -> LocalBoxFuture<'a, Result<Answer, Fault>> {
        Box::pin(async {
            let checks = &self.checks;
            checks.head(&exchange.facts, exchange.body.size() != Some(0))?;
            if let Some(schema) = &checks.body {
                checks.body(schema, exchange).await?;
            }
            checks.answer(self.inner.call(exchange, wish).await?)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::time::Instant;
    use wharf_core::head::{RequestHead, ResponseHead};

    fn schema(value: Value) -> Option<Arc<Schema>> {
        Some(Arc::new(Schema::new(&value).unwrap()))
    }

    fn ready<T>(future: impl Future<Output = T>) -> T {
        let mut task = Context::from_waker(std::task::Waker::noop());
        match std::pin::pin!(future).poll(&mut task) {
            Poll::Ready(done) => done,
            Poll::Pending => panic!("nothing to wait for"),
        }
    }

    fn said(checks: &Checks, method: Method, query: &str, fields: &[(&str, &str)], body: &str) -> Result<(), (FaultKind, String)> {
        let mut exchange = Exchange::blank(Instant::now());
        exchange.facts.request = RequestHead::from_text(method, "h", "/users/x", Some(query));
        exchange.facts.attrs.set("path.id", "4%32");
        exchange.facts.attrs.set("consumer", "not an argument");
        for (name, value) in fields {
            exchange.facts.request.fields.add(name.as_bytes(), value.as_bytes());
        }
        exchange.body = Bytes::from(body.to_owned()).into();
        let judged = checks.head(&exchange.facts, !body.is_empty()).and_then(|()| match &checks.body {
            Some(schema) => ready(checks.body(schema, &mut exchange)),
            None => Ok(()),
        });
        if judged.is_ok() {
            assert_eq!(exchange.body.size(), Some(body.len() as u64), "it is sent on");
        }
        judged.map_err(|fault| (fault.kind.clone(), fault.detail().to_owned()))
    }

    #[test]
    fn an_argument_is_refused_by_name_place_and_what_was_expected() {
        let checks = Checks {
            path: schema(json!({"properties": {"id": {"type": "integer", "maximum": 42}}, "required": ["id"]})),
            query: schema(json!({
                "properties": {"limit": {"type": "integer", "maximum": 100}, "tag": {"type": "array", "maxItems": 2}, "all": {"type": "boolean"}},
                "additionalProperties": false,
            })),
            headers: schema(json!({"properties": {"x-tenant": {"pattern": "^[a-z]+$"}}, "required": ["x-tenant"]})),
            body: schema(json!({"type": "object", "properties": {"items": {"items": {"type": "integer"}}}, "required": ["items"]})),
            held_bytes_max: 50,
            ..Checks::default()
        };
        let good = [("x-tenant", "acme"), ("content-type", "application/json")];
        let body = r#"{"items":[1,2]}"#;
        assert_eq!(said(&checks, Method::Post, "limit=100&tag=a&tag=b&all=true", &good, body), Ok(()));
        assert_eq!(said(&checks, Method::Get, "", &good, ""), Ok(()));
        for (query, fields, body, says) in [
            ("limit=101", &good, body, "query argument `limit`: 101 is greater than the maximum of 100"),
            ("limit=ten", &good, body, "query argument `limit`: \"ten\" is not of type \"integer\""),
            ("limit=1&limit=2", &good, body, "query argument `limit` is given twice"),
            ("tag=a&tag=b&tag=c", &good, body, "query argument `tag`"),
            ("more=1", &good, body, "query argument: Additional properties are not allowed ('more' was unexpected)"),
            ("", &[("x-tenant", "ACME"), good[1]], body, "header `x-tenant`"),
            ("", &[("x-other", "a"), good[1]], body, "header: \"x-tenant\" is a required property"),
            ("", &good, r#"{"items":[1,"b"]}"#, "body `items/1`: \"b\" is not of type \"integer\""),
            ("", &good, r#"{"items":[1],"items":["x"]}"#, "\"items\" stands there twice"),
            ("", &good, "{", "body: this is not JSON"),
            ("", &good, "", "body: this is not JSON"),
        ] {
            let (kind, told) = said(&checks, Method::Post, query, fields, body).unwrap_err();
            assert_eq!(kind, FaultKind::BadArgument, "{told}");
            assert!(told.contains(says), "{says:?} is not in {told:?}");
        }
        let long = format!(r#"{{"items":[{}1]}}"#, "1,".repeat(50));
        assert_eq!(said(&checks, Method::Post, "", &good, &long).unwrap_err().0, FaultKind::TooLarge { head: false });
        assert_eq!(said(&checks, Method::Post, "", &[good[0], ("content-type", "text/plain")], body).unwrap_err().0, FaultKind::WrongType);
        let encoded = [good[0], good[1], ("content-encoding", "gzip")];
        assert_eq!(said(&checks, Method::Post, "", &encoded, body).unwrap_err().0, FaultKind::WrongType);
        let narrow = Checks { path: schema(json!({"properties": {"id": {"type": "integer", "maximum": 41}}})), ..Checks::default() };
        assert!(said(&narrow, Method::Get, "", &[], "").unwrap_err().1.contains("path segment `id`: 42 is greater"));
    }

    #[test]
    fn a_body_of_another_type_is_refused() {
        let checks = Checks { types: vec!["application/json".into(), "text/*".into(), "*+xml".into()], ..Checks::default() };
        for (kind, good) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("text/csv", true),
            ("image/svg+xml", true),
            ("image/png", false),
        ] {
            assert_eq!(said(&checks, Method::Post, "", &[("content-type", kind)], "x").is_ok(), good, "{kind}");
        }
        assert_eq!(said(&checks, Method::Post, "", &[], "x").unwrap_err().0, FaultKind::WrongType);
        assert_eq!(said(&checks, Method::Post, "", &[], ""), Ok(()));
    }

    #[test]
    fn a_large_body_full_of_mistakes_is_refused_for_the_first() {
        let checks = Checks {
            body: schema(json!({"properties": {"l": {"items": {"type": "string"}}}})),
            held_bytes_max: 1 << 20,
            ..Checks::default()
        };
        for (mistakes, told) in [(10, TOLD_MAX), (ALL_TOLD, 1)] {
            let body = format!("{{\"l\":[{}1]}}", "1,".repeat(mistakes));
            let (kind, what) = said(&checks, Method::Post, "", &[("content-type", "application/json")], &body).unwrap_err();
            assert_eq!((kind, what.matches("is not of type").count()), (FaultKind::BadArgument, told), "{what}");
        }
    }

    #[test]
    fn a_body_of_two_types_is_refused() {
        let types = Checks { types: vec!["application/json".into()], ..Checks::default() };
        let body = Checks { body: schema(json!({})), held_bytes_max: 50, ..Checks::default() };
        let two = [("content-type", "application/json"), ("content-type", "text/xml")];
        let encoded = [("content-type", "application/json"), ("content-encoding", "identity"), ("content-encoding", "gzip")];
        for (checks, fields) in [(&types, &two[..]), (&body, &two), (&body, &encoded)] {
            assert_eq!(said(checks, Method::Post, "", fields, "1").unwrap_err().0, FaultKind::WrongType);
        }
    }

    #[test]
    fn a_schema_fetches_nothing_and_its_patterns_are_bounded() {
        assert!(Schema::new(&json!({"$ref": "https://example.com/other.json"})).is_err());
        assert!(Schema::new(&json!({"$ref": "file:///etc/passwd"})).is_err());
        assert!(Schema::new(&json!({"type": "nothing"})).is_err());
        assert!(Schema::new(&json!({"pattern": "(a{1000}){1000}"})).is_err());
        assert!(Schema::new(&json!({"pattern": "(?=a)b"})).is_err());
    }

    #[test]
    fn an_answer_of_another_type_or_too_large_is_the_services_fault() {
        let checks = Checks { answer_types: vec!["application/json".into()], answer_bytes_max: Some(4), ..Checks::default() };
        let given = |status: u16, kind: &str, body: &'static [u8]| {
            let mut head = ResponseHead::new(status);
            head.fields.add(b"content-type", kind.as_bytes());
            let said = checks.answer(Answer::full(head, Bytes::from_static(body)));
            said.map(|answer| assert_eq!(answer.body.size(), Some(body.len() as u64), "passed as it is")).map_err(|fault| fault.kind)
        };
        assert_eq!(given(200, "application/json", b"1234"), Ok(()));
        assert_eq!(given(200, "application/json", b"12345"), Err(FaultKind::BadAnswer));
        assert_eq!(given(200, "text/html", b"1"), Err(FaultKind::BadAnswer));
        assert_eq!(given(204, "text/html", b""), Ok(()));
        assert_eq!(given(500, "text/html", b"1"), Ok(()), "an error may look as it likes");
    }
}
