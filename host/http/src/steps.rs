//! What a route does natively around the road. Before it: what it takes out of the path is put where rules and phrases find
//! it. After it, in this order: default answers, the error envelope, header edits, the policy for other origins.
//!
//! What can refuse or answer stands behind the doors of the road (`lists`, `rate`, `cors::Preflights`), and what changes
//! the call behind that of outlets (`rewrite`, `split`, `mirror`, `check`). Routes without any of it have no steps.

use crate::cors::{self, Cors};
use crate::edits::HeaderEdits;
use crate::envelope::Envelope;
use crate::reply;
use crate::routes::Routes;
use bytes::Bytes;
use std::sync::Arc;
use wharf_core::edit::ATTR_VALUE_MAX;
use wharf_core::exchange::{Answer, Exchange};
use wharf_core::fault::{Blame, Fault, FaultKind};
use wharf_core::head::ResponseHead;

/// The steps of one route; `Default` does nothing.
#[derive(Clone, Debug, Default)]
pub struct Steps {
    /// Its path has names: they become attributes.
    pub names: bool,
    /// Answers in the place of others; the first that fits counts.
    pub instead: Vec<Arc<DefaultAnswer>>,
    /// Errors are wrapped.
    pub envelope: Option<Arc<Envelope>>,
    /// Edits of every answer.
    pub headers: Option<Arc<HeaderEdits>>,
    /// Pages of other origins.
    pub cors: Option<Arc<Cors>>,
}

/// An answer that stands in the place of another.
#[derive(Clone, Debug)]
pub struct DefaultAnswer {
    /// In the place of the service's faults: it cannot be reached, does not answer in time, or not in valid HTTP.
    pub faults: bool,
    /// In the place of answers with one of these statuses, whoever gave them.
    pub statuses: Vec<u16>,
    /// What is answered.
    pub head: ResponseHead,
    /// With this body.
    pub body: Bytes,
}

impl Steps {
    /// None of them does anything.
    pub fn is_empty(&self) -> bool {
        let Steps { names, instead, envelope, headers, cors } = self;
        !names && instead.is_empty() && envelope.is_none() && headers.is_none() && cors.is_none()
    }

    /// Before the road.
    ///
    /// # Errors
    /// What the path holds in the place of a name is longer than an attribute may be.
    #[cold]
    pub(crate) fn before(&self, routes: &Routes, route: usize, exchange: &mut Exchange) -> Result<(), Fault> {
        exchange.sent = Some(exchange.facts.request.fields.clone().into());
        if !self.names {
            return Ok(());
        }
        let Some(matches) = routes.matches(route) else { return Ok(()) };
        let facts = &mut exchange.facts;
        let path = facts.request.path().to_owned();
        let mut long = None;
        matches.path.captures(&path, |name, value| {
            if value.len() > ATTR_VALUE_MAX {
                long = Some(name.to_owned());
            } else {
                facts.attrs.set(&format!("path.{name}"), value);
            }
        });
        match long {
            None => Ok(()),
            Some(name) => {
                let what = format!("`{name}` in the path has more than {ATTR_VALUE_MAX} bytes");
                Err(Fault::caller(FaultKind::BadArgument, what))
            }
        }
    }

    /// After it. `fault`: the one that was answered.
    #[cold]
    pub(crate) fn after(&self, exchange: &mut Exchange, answer: &mut Answer, fault: Option<&Fault>) {
        if answer.tunnel.is_some() {
            return;
        }
        let of_service = fault.is_some_and(is_of_service);
        let status = answer.head.status;
        let fits = |instead: &&Arc<DefaultAnswer>| (instead.faults && of_service) || instead.statuses.contains(&status);
        if let Some(instead) = self.instead.iter().find(fits) {
            *answer = Answer::full(instead.head.clone(), instead.body.clone());
        } else if let Some(envelope) = &self.envelope {
            envelope.wrap(exchange, answer, fault.map(reply::said_of));
        }
        if let Some(headers) = &self.headers {
            headers.apply_to_answer(exchange, answer);
        }
        if let Some(cors) = &self.cors {
            let sent = exchange.sent.as_deref().unwrap_or(&exchange.facts.request.fields);
            // The answer to a preflight says all there is to say about origins.
            if !cors::is_preflight(&exchange.facts.request.method, sent) {
                let origin = sent.get(b"origin").and_then(|origin| std::str::from_utf8(origin).ok());
                cors.mark(origin, &mut answer.head.fields);
            }
        }
    }
}

/// The service behind is to blame, or cannot take more.
fn is_of_service(fault: &Fault) -> bool {
    fault.blame == Blame::Upstream
        || matches!(
            fault.kind,
            FaultKind::Connect
                | FaultKind::NoEndpoint
                | FaultKind::Reset
                | FaultKind::BadAnswer
                | FaultKind::Timeout(_)
                | FaultKind::Overload(_)
        )
}
