//! `wharf:host/http`: calls to services that the operator allowed.
//!
//! A guest owns no socket, and a guest that was moved is not even on the thread that does. So a call is posted to the
//! inbox of its home core, which makes it through the same outlets as any route, with their connections, retries and
//! limits; the guest is suspended until the answer comes or its question's time is over.

use crate::error::Stop;
use crate::instance::Guest;
use crate::limits::BODY_MAX;
use bytes::{Bytes, BytesMut};
use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::time::Instant;
use tokio::sync::{mpsc, oneshot};
use wasmtime::StoreContextMut;
use wasmtime::component::LinkerInstance;
use wharf_core::body::Body;
use wharf_core::edit;
use wharf_core::exchange::{Exchange, ExchangeId, Facts};
use wharf_core::fault::FaultKind;
use wharf_core::head::{Method, RequestHead};
use wharf_core::outlet::{Outlets, Wish};
use wharf_core::trace;
use wharf_wasm_bindings::host::{FetchError, FetchRequest, FetchResponse};

/// Calls of all guests of one core that have been posted and not been picked up. The inbox picks up at every turn of
/// its core, so this fills only if the core stands still.
const POSTED_MAX: usize = 1024;
/// Longest path with query.
const TARGET_MAX: usize = 8 * 1024;

/// Where a guest posts its calls.
pub(crate) type Home = mpsc::Sender<Job>;

/// One call.
pub(crate) struct Job {
    service: String,
    facts: Facts,
    body: Bytes,
    deadline: Instant,
    answer: oneshot::Sender<Result<FetchResponse, FetchError>>,
}

pub(super) fn link(to: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    type Answer = wasmtime::Result<(Result<FetchResponse, FetchError>,)>;
    to.func_wrap_async(
        "fetch",
        |mut here: StoreContextMut<'_, Guest>, (request,): (FetchRequest,)| -> Box<dyn Future<Output = Answer> + Send + '_> {
            Box::new(async move {
                here.data_mut().charge()?;
                let (receiver, deadline) = match post(here.data(), request)? {
                    Ok(posted) => posted,
                    Err(refused) => return Ok((Err(refused),)),
                };
                let said = super::kv::waited(&mut here, tokio::time::timeout_at(deadline.into(), receiver)).await;
                Ok((match said {
                    Ok(Ok(answer)) => answer,
                    Ok(Err(_)) => Err(FetchError::Unavailable("the call was given up".into())),
                    Err(_) => Err(FetchError::Timeout),
                },))
            })
        },
    )
}

type Posted = (oneshot::Receiver<Result<FetchResponse, FetchError>>, Instant);

/// Checks a call as strictly as a client's request, and posts it.
fn post(guest: &Guest, request: FetchRequest) -> wasmtime::Result<Result<Posted, FetchError>> {
    let allowed = &guest.terms.setup.grants.http_services;
    if allowed.is_empty() {
        return Err(Stop::NotGranted("wharf:host/http").into());
    }
    if !allowed.contains(&request.service) {
        return Ok(Err(FetchError::Denied(format!(
            "service {:?} is not in `plugins.{}.grants.http.services`",
            request.service, guest.terms.setup.plugin
        ))));
    }
    let (Some(home), Some(present)) = (&guest.home, &guest.facts) else {
        return Ok(Err(FetchError::Unavailable("there are no outbound calls outside an exchange".into())));
    };
    let mut head = match check(&request) {
        Ok(head) => head,
        Err(why) => return Ok(Err(FetchError::Invalid(why))),
    };
    // Part of the exchange's trace, unless the guest says otherwise below.
    if trace::Context::of(&present.request.fields).is_some() {
        for name in [trace::TRACEPARENT, trace::TRACESTATE].into_iter().filter(|name| !has(&request, name)) {
            present.request.fields.all(name).for_each(|value| head.fields.add(name, value));
        }
    }
    for (name, value) in &request.headers {
        head.fields.add(name.as_bytes(), value.as_bytes());
    }
    let deadline = guest.deadline.instant();
    let facts = Facts { request: head, ..derived(present) };
    let (answer, receiver) = oneshot::channel();
    let job = Job { service: request.service, facts, body: request.body.into(), deadline, answer };
    Ok(match home.try_send(job) {
        Ok(()) => Ok((receiver, deadline)),
        Err(_) => Err(FetchError::Unavailable(format!("{POSTED_MAX} calls are posted already"))),
    })
}

fn has(request: &FetchRequest, name: &[u8]) -> bool {
    request.headers.iter().any(|(have, _)| have.as_bytes() == name || have.as_bytes() == trace::TRACEPARENT)
}

/// What an outbound call inherits: the exchange's name, client and route, so that it can be found in the log.
fn derived(present: &Facts) -> Facts {
    let id: ExchangeId = present.id;
    Facts { id, client: present.client, route: present.route.clone(), ..Facts::default() }
}

/// The head of a call, if it may stand on the wire. Pure.
fn check(request: &FetchRequest) -> Result<RequestHead, String> {
    let token = |byte: u8| byte.is_ascii_uppercase() || byte == b'-';
    if request.method.is_empty() || request.method.len() > 32 || !request.method.bytes().all(token) {
        return Err(format!("method {:?} is no token of capital letters", clip(&request.method)));
    }
    let method = Method::from_token(&request.method);
    if matches!(method, Method::Connect | Method::Trace) {
        return Err(format!("method {} cannot be called", request.method));
    }
    if request.path.len() > TARGET_MAX {
        return Err(format!("a path of {} bytes, and at most {TARGET_MAX} are allowed", request.path.len()));
    }
    let (path, query) = match request.path.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (request.path.as_str(), None),
    };
    if !wharf_core::path::is_canonical(path.as_bytes()) {
        return Err(format!("path {:?} is not canonical (see `path` of `fact` in wharf:types)", clip(path)));
    }
    if let Some(bad) = query.and_then(|query| query.bytes().find(|byte| !byte.is_ascii_graphic() || *byte == b'#')) {
        return Err(format!("byte 0x{bad:02x} may not stand in a query"));
    }
    if request.body.len() > BODY_MAX {
        return Err(format!("a body of {} bytes, and at most {BODY_MAX} are allowed", request.body.len()));
    }
    edit::check_fields(request.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()))).map_err(|bad| bad.to_string())?;
    Ok(RequestHead::from_text(method, &request.service, path, query))
}

fn clip(text: &str) -> String {
    text.chars().take(64).collect()
}

/// A core's inbox: the sender for its guests, and the task that serves them.
pub(crate) fn inbox(number: usize, outlets: Rc<RefCell<Rc<Outlets>>>) -> (Home, impl Future<Output = ()>) {
    let (home, mut jobs) = mpsc::channel::<Job>(POSTED_MAX);
    let serve = async move {
        while let Some(job) = jobs.recv().await {
            let outlets = outlets.borrow().clone();
            #[allow(clippy::disallowed_methods, reason = "a task of this core, bounded by the call's deadline")]
            tokio::task::spawn_local(one(outlets, job));
        }
        tracing::debug!(core = number, "the inbox of outbound calls has closed");
    };
    (home, serve)
}

/// One call, until its answer, its deadline, or until nobody waits for it.
async fn one(outlets: Rc<Outlets>, job: Job) {
    let Job { service, facts, body, deadline, mut answer } = job;
    let said = tokio::select! {
        () = answer.closed() => return,
        said = tokio::time::timeout_at(deadline.into(), call(&outlets, &service, facts, body, deadline)) => said.unwrap_or(Err(FetchError::Timeout)),
    };
    let _ = answer.send(said);
}

async fn call(outlets: &Outlets, service: &str, facts: Facts, body: Bytes, deadline: Instant) -> Result<FetchResponse, FetchError> {
    let Some(outlet) = outlets.get(service) else {
        return Err(FetchError::Unavailable(format!("the configuration has no service {service:?}")));
    };
    let peer = facts.client;
    let mut exchange = Exchange { facts, body: body.into(), peer, ..Exchange::blank(deadline) };
    let wish = Wish::default();
    let answer = outlet.call(&mut exchange, &wish).await.map_err(told)?;
    let headers = answer.head.fields.iter().map(|(_, name, value)| (wharf_core::head::text(name).into_owned(), value.to_vec())).collect();
    let body = collect(answer.body).await?;
    Ok(FetchResponse { status: answer.head.status, headers, body: body.into() })
}

async fn collect(body: Body) -> Result<Bytes, FetchError> {
    match body {
        Body::Empty => Ok(Bytes::new()),
        Body::Full(all) if all.len() > BODY_MAX => Err(FetchError::TooLarge),
        Body::Full(all) => Ok(all),
        Body::Stream(mut stream) => {
            let mut all = BytesMut::new();
            while let Some(chunk) = std::future::poll_fn(|task| stream.poll_chunk(task)).await.map_err(told)? {
                if all.len() + chunk.len() > BODY_MAX {
                    return Err(FetchError::TooLarge);
                }
                all.extend_from_slice(&chunk);
            }
            Ok(all.freeze())
        }
    }
}

fn told(fault: wharf_core::fault::Fault) -> FetchError {
    match fault.kind {
        FaultKind::Timeout(_) => FetchError::Timeout,
        FaultKind::TooLarge { .. } => FetchError::TooLarge,
        // The fault's words name addresses; they are the operator's, and so is the guest's log.
        _ => FetchError::Unavailable(fault.detail().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, path: &str, headers: &[(&str, &str)]) -> FetchRequest {
        FetchRequest {
            service: "users".into(),
            method: method.into(),
            path: path.into(),
            headers: headers.iter().map(|&(name, value)| (name.into(), value.into())).collect(),
            body: Vec::new(),
        }
    }

    #[test]
    fn only_what_may_stand_on_the_wire_is_posted() {
        let head = check(&request("GET", "/a/b?c=d", &[("x-a", "b")])).unwrap();
        assert_eq!((head.path(), head.query(), head.authority()), ("/a/b", Some("c=d"), "users"));
        for bad in [
            request("", "/", &[]),
            request("get", "/", &[]),
            request("G T", "/", &[]),
            request("CONNECT", "/", &[]),
            request("GET", "", &[]),
            request("GET", "a", &[]),
            request("GET", "http://elsewhere/", &[]),
            request("GET", "/a/../b", &[]),
            request("GET", "/a b", &[]),
            request("GET", "/a?b c", &[]),
            request("GET", "/a?b\r\nx: y", &[]),
            request("GET", "/a#b", &[]),
            request("GET", "/a?b#c", &[]),
            request("GET", "/", &[("X-A", "b")]),
            request("GET", "/", &[("host", "elsewhere")]),
            request("GET", "/", &[("content-length", "5")]),
            request("GET", "/", &[("x-a", "b\r\nc: d")]),
            request("GET", &format!("/{}", "a".repeat(TARGET_MAX)), &[]),
        ] {
            assert!(check(&bad).is_err(), "{bad:?}");
        }
    }
}
