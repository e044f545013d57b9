//! The life of one call: token, slot, arguments, body, audit, desk, audit, reply.
//!
//! A call that has reached its desk goes on when the caller hangs up: half a change would be worse than an unread
//! answer. Whatever stops it (deadline, panic) is written to the audit log like any other outcome.

use crate::audit::Audit;
use crate::guard::{self, Hosts, Stranger};
use crate::metrics::Seen;
use crate::options::Options;
use crate::reply::{self, No};
use crate::stamp::stamp;
use crate::table::Entry;
use crate::token::Token;
use aws_lc_rs::{digest, rand};
use axum::body::Body;
use axum::extract::{Query, RawPathParams, rejection::RawPathParamsRejection};
use axum::http::{HeaderMap, Request, Response, StatusCode, Uri, header};
use bytes::Bytes;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use wharf_core::desk::{Ask, DeskError, Input, Operation};

/// Who calls.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Actor(pub(crate) SocketAddr);

/// What every call needs.
pub(crate) struct House {
    pub(crate) options: Options,
    pub(crate) token: Token,
    pub(crate) hosts: Hosts,
    pub(crate) audit: Arc<Audit>,
    pub(crate) seen: Seen,
    pub(crate) looks: Arc<Semaphore>,
    pub(crate) changes: Arc<Semaphore>,
}

impl House {
    /// Does this request carry the token?
    pub(crate) fn authenticate(&self, headers: &HeaderMap) -> Result<(), No> {
        let stranger = match guard::bearer(headers) {
            Ok(presented) if self.token.is(presented) => return Ok(()),
            Ok(_) => Stranger::WrongToken,
            Err(stranger) => stranger,
        };
        self.seen.turned_away("token");
        Err(stranger.into())
    }
}

pub(crate) async fn operate(
    house: Arc<House>,
    entry: Arc<Entry>,
    actor: Actor,
    path: Result<RawPathParams, RawPathParamsRejection>,
    request: Request<Body>,
) -> Response<Body> {
    let name = entry.operation.name;
    let said = answer(house.clone(), entry, actor, path, request).await;
    match said {
        Ok(answer) if answer.is_empty() => reply::json_text(StatusCode::NO_CONTENT, answer),
        Ok(answer) => reply::json_text(StatusCode::OK, answer),
        Err(no) => {
            tracing::debug!(operation = name, actor = %actor.0, status = no.status.as_u16(), message = no.message, "admin call refused");
            no.into_response()
        }
    }
}

async fn answer(
    house: Arc<House>,
    entry: Arc<Entry>,
    actor: Actor,
    path: Result<RawPathParams, RawPathParamsRejection>,
    request: Request<Body>,
) -> Result<Bytes, No> {
    house.authenticate(request.headers())?;
    let slot = slot(&house, &entry.operation)?;
    let args = args(&entry.operation, path, request.uri())?;
    let body = body(&house.options, &entry.operation, request).await?;
    let name = entry.operation.name;
    let ask = Ask { args, body };
    let task = tokio::spawn(async move {
        let _slot = slot;
        let done = if entry.operation.changes { change(&house, &entry, actor, ask).await } else { serve(&house, &entry, ask).await };
        house.seen.called(name, done.is_ok());
        done
    });
    task.await.unwrap_or_else(|_| Err(broken(name)))
}

/// A change is written down before it is done and after.
async fn change(house: &House, entry: &Entry, actor: Actor, ask: Ask) -> Result<Bytes, No> {
    let name = entry.operation.name;
    let id = id();
    let args: serde_json::Map<String, Value> = ask.args.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
    let line = |event: &str| json!({"time": stamp(SystemTime::now()), "id": id, "event": event, "operation": name, "actor": actor.0.to_string(), "args": args});
    let mut asked = line("asked");
    if let (Some(asked), false) = (asked.as_object_mut(), ask.body.is_empty()) {
        let sha256 = hex(digest::digest(&digest::SHA256, &ask.body).as_ref());
        asked.insert("body".to_owned(), json!({"bytes": ask.body.len(), "sha256": sha256}));
    }
    if let Err(why) = write(&house.audit, asked).await {
        house.seen.turned_away("audit");
        tracing::error!(operation = name, %why, "the audit log cannot be written, changes are refused");
        return Err(No::new(
            StatusCode::INSUFFICIENT_STORAGE,
            "storage",
            format!("{name} was not done: the audit log cannot be written: {why}"),
        )
        .hint("free space on the disk of the state folder (`node.state_dir`), or make it writable"));
    }
    let began = Instant::now();
    let done = serve(house, entry, ask).await;
    let mut answered = line("answered");
    if let Some(answered) = answered.as_object_mut() {
        answered.insert("ms".to_owned(), (began.elapsed().as_millis() as u64).into());
        let outcome = match &done {
            Ok(_) => json!({"done": true}),
            Err(no) => json!({"done": false, "kind": no.kind, "message": no.message}),
        };
        answered.insert("outcome".to_owned(), outcome);
    }
    if let Err(why) = write(&house.audit, answered).await {
        // It is done and was announced in the log; only how it ended is missing there.
        house.seen.audit_lost.add_shared(1);
        tracing::error!(operation = name, id, %why, "the outcome of a change could not be written to the audit log");
    }
    tracing::info!(operation = name, actor = %actor.0, id, done = done.is_ok(), "admin change");
    done
}

async fn serve(house: &House, entry: &Entry, ask: Ask) -> Result<Bytes, No> {
    let name = entry.operation.name;
    let limit = Duration::from_millis(house.options.operation_ms_max);
    let desk = entry.desk.clone();
    // In a task of its own: a desk that panics ends its call, not the audit of it.
    let mut task = tokio::spawn(async move { desk.serve(name, ask).await });
    match timeout(limit, &mut task).await {
        Ok(Ok(said)) => said.map_err(|error: DeskError| No::from(error)),
        Ok(Err(_)) => Err(broken(name)),
        Err(_) => {
            task.abort();
            Err(No::new(
                StatusCode::GATEWAY_TIMEOUT,
                "timeout",
                format!("{name} did not end within {} ms and was given up", limit.as_millis()),
            )
            .hint("look at the present state before you repeat it"))
        }
    }
}

fn slot(house: &House, operation: &Operation) -> Result<OwnedSemaphorePermit, No> {
    let (slots, max, what) = match operation.changes {
        true => (&house.changes, house.options.changes_max, "changes"),
        false => (&house.looks, house.options.looks_max, "looks"),
    };
    slots.clone().try_acquire_owned().map_err(|_| {
        house.seen.turned_away("busy");
        let message = format!("{} was not begun: {max} {what} are in progress, which is the limit", operation.name);
        No::new(StatusCode::TOO_MANY_REQUESTS, "busy", message).hint("try again when one of them has ended")
    })
}

fn args(operation: &Operation, path: Result<RawPathParams, RawPathParamsRejection>, uri: &Uri) -> Result<Vec<(String, String)>, No> {
    let invalid = |message: String| No::new(StatusCode::BAD_REQUEST, "invalid", message);
    let path = path.map_err(|error| invalid(format!("the path of {} cannot be read: {error}", operation.name)))?;
    let mut args: Vec<(String, String)> = path.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let Query(query) = Query::<Vec<(String, String)>>::try_from_uri(uri)
        .map_err(|error| invalid(format!("the query of {} cannot be read: {error}", operation.name)))?;
    for (name, value) in query {
        if !operation.query.iter().any(|(known, _)| *known == name) {
            let known: Vec<&str> = operation.query.iter().map(|(known, _)| *known).collect();
            let hint = if known.is_empty() { "it takes no query".to_owned() } else { format!("it takes {}", known.join(", ")) };
            return Err(invalid(format!("{} takes no argument {name:?}", operation.name)).hint(hint));
        }
        if args.iter().any(|(have, _)| *have == name) {
            return Err(invalid(format!("argument {name:?} of {} is given twice", operation.name)));
        }
        args.push((name, value));
    }
    Ok(args)
}

async fn body(options: &Options, operation: &Operation, request: Request<Body>) -> Result<Bytes, No> {
    let name = operation.name;
    let invalid = |message: String| No::new(StatusCode::BAD_REQUEST, "invalid", message);
    let (head, body) = request.into_parts();
    let limit = match operation.input {
        Input::None => 0,
        Input::Json(_) => options.json_bytes_max,
        Input::Bytes(limit) => limit,
    };
    let too_large = || match operation.input {
        Input::None => invalid(format!("{name} takes no body")),
        _ => No::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", format!("the body of {name} is larger than its limit of {limit} bytes")),
    };
    // The announced size is refused before a byte of it is read.
    let announced = head.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|size| size > limit as u64) {
        return Err(too_large());
    }
    if let (Input::Json(_), Some(kind)) = (operation.input, head.headers.get(header::CONTENT_TYPE)) {
        let kind = kind.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/json") {
            return Err(No::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid", format!("{name} takes JSON, not {kind:?}"))
                .hint("send `content-type: application/json`"));
        }
    }
    let whole = timeout(Duration::from_millis(options.body_ms_max), Limited::new(body, limit).collect()).await;
    let bytes = match whole {
        Ok(Ok(collected)) => collected.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(too_large()),
        Ok(Err(_)) => return Err(invalid(format!("the body of {name} was cut short"))),
        Err(_) => {
            let message = format!("the body of {name} did not arrive within {} ms", options.body_ms_max);
            return Err(No::new(StatusCode::REQUEST_TIMEOUT, "timeout", message));
        }
    };
    if let Input::Json(_) = operation.input {
        serde_json::from_slice::<serde::de::IgnoredAny>(&bytes)
            .map_err(|error| invalid(format!("the body of {name} is not JSON: {error}")))?;
    }
    Ok(bytes)
}

async fn write(audit: &Arc<Audit>, line: Value) -> std::io::Result<()> {
    let audit = audit.clone();
    tokio::task::spawn_blocking(move || audit.write(&line)).await.map_err(std::io::Error::other)?
}

fn broken(name: &str) -> No {
    tracing::error!(operation = name, "an operation panicked");
    No::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", format!("{name} failed inside the gateway; its log says where"))
}

/// Joins the two lines of one change.
fn id() -> String {
    let mut random = [0; 8];
    // Without random bytes the lines are joined by their order; that is no reason to refuse a change.
    let _ = rand::fill(&mut random);
    hex(&random)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
