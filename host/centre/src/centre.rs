//! The admin listener: what is answered where, and the loop that accepts.
//!
//! It deliberately knows no operation: those come from the desks. It binds nothing either; the gateway hands it a
//! listener that is bound already.

use crate::call::{self, Actor, House};
use crate::guard::{Hosts, Stranger};
use crate::reply::{self, No};
use crate::table::Table;
use crate::{CentreError, Options, audit::Audit, metrics::Seen, openapi, token::Token};
use axum::body::Body;
use axum::extract::{RawPathParams, State, rejection::RawPathParamsRejection};
use axum::http::{HeaderMap, Request, Response, StatusCode, header};
use axum::middleware::{self, Next};
use axum::routing::{MethodFilter, MethodRouter, get};
use axum::{Extension, Router};
use hyper::service::Service as _;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use wharf_core::desk::{Desk, Verb};
use wharf_core::metrics::Registry;

/// The admin API over the desks. House-wide; made once.
pub struct Centre {
    options: Options,
    token: Token,
    audit: Arc<Audit>,
    table: Table,
    seen: Seen,
    registry: Arc<Registry>,
    openapi: String,
}

/// Connections that are still busy when the house stops get this long.
const LAST_CALLS: Duration = Duration::from_secs(5);
/// Pause of the accept loop after the system refused a connection (no file descriptors): asking again at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

impl Centre {
    /// Lists the desks, makes or reads the token.
    ///
    /// # Errors
    /// [`CentreError`] names the file or the operation and what to do; nothing serves then.
    pub fn new(desks: Vec<Arc<dyn Desk>>, registry: Arc<Registry>, options: Options) -> Result<Centre, CentreError> {
        let table = Table::new(&desks)?;
        let openapi = openapi::of_table(&table, options.version)?;
        let seen = Seen::new(&registry, table.operations().map(|operation| operation.name));
        let token = Token::open(&options.token_file)?;
        let audit = Arc::new(Audit::new(options.audit_file.clone(), options.audit_bytes_max));
        Ok(Centre { options, token, audit, table, seen, registry, openapi })
    }

    /// Serves until `stop` resolves, then lets calls in progress end for a few seconds.
    ///
    /// # Errors
    /// The listener could not be handed to the runtime. Refused connections are not errors.
    ///
    /// # Cancel safety
    /// Dropping it ends all connections at once; changes that have reached their desk still end.
    pub async fn serve(self, listener: TcpListener, stop: impl Future<Output = ()>) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let connections_max = self.options.connections_max;
        let connection_s_max = Duration::from_secs(self.options.connection_s_max);
        let head_ms_max = Duration::from_millis(self.options.head_ms_max);
        let service = TowerToHyperService::new(self.router(listener.local_addr()?));
        let places = Arc::new(Semaphore::new(connections_max));
        let (closing, is_closing) = watch::channel(());
        let mut connections = JoinSet::new();
        let mut stop = pin!(stop);
        loop {
            // The place comes first: whoever finds none waits in the backlog and costs nothing.
            let accepted = tokio::select! {
                () = &mut stop => break,
                accepted = async {
                    let place = places.clone().acquire_owned().await;
                    (listener.accept().await, place)
                } => accepted,
                Some(_) = connections.join_next() => continue,
            };
            let ((stream, actor), place) = match accepted {
                (Ok(accepted), Ok(place)) => (accepted, place),
                (Err(error), _) => {
                    tracing::warn!(%error, "the admin listener cannot accept");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
                (Ok(_), Err(_)) => break,
            };
            // Small answers; without this the last piece waits for the other side's delayed acknowledgement.
            let _ = stream.set_nodelay(true);
            let service = service.clone();
            let mut is_closing = is_closing.clone();
            connections.spawn(async move {
                let _place = place;
                let service = hyper::service::service_fn(move |mut request: Request<hyper::body::Incoming>| {
                    request.extensions_mut().insert(Actor(actor));
                    service.call(request)
                });
                let mut connection = pin!(
                    hyper::server::conn::http1::Builder::new()
                        .timer(TokioTimer::new())
                        .header_read_timeout(head_ms_max)
                        .max_buf_size(64 << 10)
                        .serve_connection(TokioIo::new(stream), service)
                );
                let whole = async {
                    tokio::select! {
                        ended = &mut connection => return ended,
                        _ = is_closing.changed() => connection.as_mut().graceful_shutdown(),
                    }
                    connection.await
                };
                match timeout(connection_s_max, whole).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(%actor, %error, "admin connection ended badly"),
                    Err(_) => tracing::debug!(%actor, "admin connection reached its time limit"),
                }
            });
        }
        drop(listener);
        drop(closing);
        let _ = timeout(LAST_CALLS, async { while connections.join_next().await.is_some() {} }).await;
        Ok(())
    }

    fn router(self, address: SocketAddr) -> Router {
        let Centre { options, token, audit, table, seen, registry, openapi } = self;
        let hosts = Hosts::new(&options.allowed_hosts).and_address(address.ip());
        let looks = Arc::new(Semaphore::new(options.looks_max));
        let changes = Arc::new(Semaphore::new(options.changes_max));
        let house = Arc::new(House { options, token, hosts, audit, seen, looks, changes });

        let mut router = Router::new();
        for (path, entries) in table.paths {
            let mut verbs = MethodRouter::new();
            for entry in entries {
                let filter = filter(entry.operation.verb);
                let (house, entry) = (house.clone(), Arc::new(entry));
                verbs = verbs.on(
                    filter,
                    move |Extension(actor): Extension<Actor>,
                          path: Result<RawPathParams, RawPathParamsRejection>,
                          request: Request<Body>| { call::operate(house.clone(), entry.clone(), actor, path, request) },
                );
            }
            router = router.route(&format!("/v1{path}"), verbs);
        }
        let openapi: bytes::Bytes = openapi.into();
        let document = {
            let house = house.clone();
            move |request: Request<Body>| async move {
                match house.authenticate(request.headers()) {
                    Ok(()) => reply::json_text(StatusCode::OK, openapi),
                    Err(no) => no.into_response(),
                }
            }
        };
        let ready = {
            let house = house.clone();
            move || async move { readiness(&house) }
        };
        let metrics = {
            let house = house.clone();
            move |Extension(actor): Extension<Actor>, request: Request<Body>| async move {
                // A scraper on this machine may look; from elsewhere (a listener on another address) it needs the token.
                let open = house.options.metrics_open && actor.0.ip().is_loopback();
                match if open { Ok(()) } else { house.authenticate(request.headers()) } {
                    Ok(()) if wants_open_metrics(request.headers()) => {
                        reply::typed(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", registry.render_open())
                    }
                    Ok(()) => reply::typed(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", registry.render()),
                    Err(no) => no.into_response(),
                }
            }
        };
        let nowhere = {
            let house = house.clone();
            move |request: Request<Body>| async move { nothing_here(&house, &request) }
        };
        router
            .route("/healthz", get(|| async { reply::json_text(StatusCode::OK, r#"{"alive":true}"#) }))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics))
            .route("/openapi.json", get(document))
            .fallback(nowhere)
            .method_not_allowed_fallback(|| async {
                let message = "this path does not know this method; the Allow field lists those it knows";
                No::new(StatusCode::METHOD_NOT_ALLOWED, "method", message).into_response()
            })
            .layer(middleware::from_fn_with_state(house, admit))
    }
}

/// Does a scraper like OpenMetrics at least as much as plain text (RFC 9110 section 12.5.1)?
fn wants_open_metrics(headers: &HeaderMap) -> bool {
    let (mut open, mut plain) = (0.0, 0.0);
    let accepted = headers.get_all(header::ACCEPT).into_iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    for range in accepted {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
        let mut weight = 1.0;
        let mut version = "";
        for part in parts {
            match part.split_once('=') {
                Some(("q", value)) => weight = value.parse().unwrap_or(0.0),
                Some(("version", value)) => version = value,
                _ => {}
            }
        }
        // Other versions than the one we write are not ours to promise.
        if kind == "application/openmetrics-text" && matches!(version, "" | "1.0.0") {
            open = f32::max(open, weight);
        } else if kind == "text/plain" {
            plain = f32::max(plain, weight);
        }
    }
    open > 0.0 && open >= plain
}

/// Everybody passes here, whatever they ask for.
async fn admit(State(house): State<Arc<House>>, request: Request<Body>, next: Next) -> Response<Body> {
    match house.hosts.admit(request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(stranger) => {
            house.seen.turned_away(if stranger == Stranger::CrossOrigin { "origin" } else { "host" });
            No::from(stranger).into_response()
        }
    }
}

fn readiness(house: &House) -> Response<Body> {
    let readiness = (house.options.readiness)();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    reply::json_text(status, serde_json::json!({"ready": readiness.ready, "reasons": readiness.reasons}).to_string())
}

/// Under `/v1` even "there is no such thing" is only said to who has the token.
fn nothing_here(house: &House, request: &Request<Body>) -> Response<Body> {
    let path = request.uri().path();
    let behind_the_token = path == "/v1" || path.starts_with("/v1/");
    match if behind_the_token { house.authenticate(request.headers()) } else { Ok(()) } {
        Ok(()) => No::new(StatusCode::NOT_FOUND, "not-found", "there is nothing at this path")
            .hint("/openapi.json lists what there is")
            .into_response(),
        Err(no) => no.into_response(),
    }
}

fn filter(verb: Verb) -> MethodFilter {
    match verb {
        Verb::Get => MethodFilter::GET,
        Verb::Post => MethodFilter::POST,
        Verb::Put => MethodFilter::PUT,
        Verb::Delete => MethodFilter::DELETE,
    }
}
