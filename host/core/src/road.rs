//! The one chain: authenticate → filter → route → call → filter → degrade.
//!
//! Every listener walks it: HTTP today, the ferry and devices later. It knows no protocol: no status codes but those
//! that rules and upstreams speak themselves, no sockets, no clock but the one it is handed.

use crate::body::{Body, BodyStream};
use crate::edit::{self, Edit, Edits};
use crate::exchange::{Answer, Exchange};
use crate::fault::{Blame, Fault, FaultKind, Ferried, Retry};
use crate::head::{Fields, ResponseHead};
use crate::last_good::{self, Kept, LastGood};
use crate::outlet::{Outlet, Outlets, Wish};
use crate::rules::{Attached, Decision, Failure, FailurePolicy, Instead, RuleReply, Rules};
use crate::trace::{Open, What};
use bytes::{Bytes, BytesMut};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// Where a route's requests go.
pub enum Target {
    /// Always there.
    Fixed(Rc<dyn Outlet>, Wish),
    /// Where the route plugin says; it chooses among these.
    Picked(Rc<Outlets>),
}

/// What a route remembers for its degrade rules; `None` where it has none.
pub type Memory = Option<Rc<RefCell<LastGood>>>;

/// Gets an answer for an exchange.
///
/// # Errors
/// The fault that no degrade rule turned into an answer. The listener says it in its own protocol.
///
/// # Cancel safety
/// Dropping the future ends the exchange: the upstream connection is closed, the rules' instances are thrown away.
pub async fn answer(exchange: &mut Exchange, rules: &Rules, target: &Target, memory: &Memory) -> Result<Answer, Fault> {
    let mut admitted = false;
    let mut answer = match go(exchange, rules, target, memory, &mut admitted).await {
        Ok(answer) => answer,
        Err(fault) => {
            exchange.trail.fault = Some(fault.word());
            // Whom no auth rule has let in is shown nothing that was kept from others, whatever a degrade rule says.
            let memory = if admitted { memory } else { &None };
            match degrade(exchange, rules, memory, &fault).await {
                Some(answer) => answer,
                None => return Err(fault),
            }
        }
    };
    // The second half of the filters; a switched protocol has no head that they could still change.
    if answer.tunnel.is_none() {
        for filter in &rules.response_filters {
            if let Err(fault) = filter_response(exchange, filter, &mut answer).await {
                exchange.trail.fault = Some(fault.word());
                return Err(fault);
            }
        }
    }
    Ok(answer)
}

async fn go(exchange: &mut Exchange, rules: &Rules, target: &Target, memory: &Memory, admitted: &mut bool) -> Result<Answer, Fault> {
    for auth in &rules.auth {
        let open = asks(exchange, auth, "auth");
        let said = auth.rule.check(&mut exchange.facts).await;
        asked(exchange, open, &said);
        if let Some(answer) = decided(exchange, auth, said)? {
            return Ok(answer);
        }
    }
    *admitted = true;
    for filter in &rules.request_filters {
        let open = asks(exchange, filter, "filter_request");
        let said = filter.rule.on_request(&mut exchange.facts).await;
        asked(exchange, open, &said);
        if let Some(answer) = decided(exchange, filter, said)? {
            return Ok(answer);
        }
    }
    let answer = match target {
        Target::Fixed(outlet, wish) => outlet.call(exchange, wish).await?,
        Target::Picked(outlets) => {
            let (outlet, wish) = picked(exchange, rules, outlets).await?;
            outlet.call(exchange, &wish).await?
        }
    };
    if !rules.degrade.is_empty() && rules.degrade_statuses.contains(&answer.head.status) {
        let status = answer.head.status;
        exchange.trail.fault = Some("upstream_status");
        // The upstream's answer is what there is, if no rule has a better one.
        return Ok(degrade_with(exchange, rules, memory, Failure::Status(status)).await.unwrap_or(answer));
    }
    Ok(match memory {
        Some(memory) => remember(exchange, memory, answer),
        None => answer,
    })
}

/// A rule is asked: where somebody traces, a span if it is a plugin's.
fn asks<D: ?Sized>(exchange: &mut Exchange, attached: &Attached<D>, role: &'static str) -> Option<Open> {
    let (version, trace) = (attached.version?, exchange.watched.as_mut()?.trace.as_mut()?);
    Some(trace.begin(Instant::now(), || What::Plugin { name: attached.name.clone(), version, role, fault: None }))
}

/// It has answered.
fn asked<T>(exchange: &mut Exchange, open: Option<Open>, said: &Result<T, Fault>) {
    let Some(open) = open else { return };
    let trace = exchange.watched.as_mut().and_then(|watched| watched.trace.as_mut());
    let Some(span) = trace.and_then(|trace| trace.span(open)) else { return };
    span.ended = Some(Instant::now());
    if let What::Plugin { fault, .. } = &mut span.what {
        *fault = said.as_ref().err().map(Fault::word);
    }
}

/// What a rule's decision means here. `Some`: it answers itself.
fn decided<D: ?Sized>(exchange: &mut Exchange, attached: &Attached<D>, said: Result<Decision, Fault>) -> Result<Option<Answer>, Fault> {
    let refused = match said {
        Ok(Decision::Next(edits)) => match edits.apply_to_request(&mut exchange.facts) {
            Ok(()) => {
                exchange.body.bar_trailers(&edits);
                return Ok(None);
            }
            Err(bad) => bad_answer(&attached.name, &bad.to_string()),
        },
        Ok(Decision::Reply(reply)) => match given(&attached.name, reply) {
            Ok(answer) => {
                exchange.trail.answered_by = Some(attached.name.clone());
                return Ok(Some(answer));
            }
            Err(fault) => fault,
        },
        Err(fault) => fault,
    };
    match attached.policy {
        FailurePolicy::Closed => Err(refused),
        FailurePolicy::Open => Ok(None),
    }
}

/// Asks the route plugin.
async fn picked(exchange: &mut Exchange, rules: &Rules, outlets: &Outlets) -> Result<(Rc<dyn Outlet>, Wish), Fault> {
    let Some(route) = &rules.route else {
        return Err(Fault::new(FaultKind::NoRoute, Blame::Host, Retry::Never, "the route names a route plugin, and none is active"));
    };
    // There is no going on without a target, so the failure policy has nothing to say here.
    let open = asks(exchange, route, "route");
    let said = route.rule.pick(&mut exchange.facts).await;
    asked(exchange, open, &said);
    let Some(said) = said? else {
        return Err(Fault::caller(FaultKind::NoRoute, format!("route plugin {:?} knows no place for this request", route.name)));
    };
    let Some(outlet) = outlets.get(said.service.as_str()) else {
        let what = format!("names service {:?}, which the configuration does not have", said.service);
        return Err(bad_answer(&route.name, &what));
    };
    if let Some(path) = said.path {
        Edits::from(vec![Edit::Path(path)])
            .apply_to_request(&mut exchange.facts)
            .map_err(|bad| bad_answer(&route.name, &bad.to_string()))?;
    }
    Ok((outlet.clone(), Wish { subset: said.subset.map(String::into_boxed_str) }))
}

async fn filter_response(exchange: &mut Exchange, filter: &Attached<dyn crate::rules::Filter>, answer: &mut Answer) -> Result<(), Fault> {
    exchange.facts.response = Some(std::mem::take(&mut *answer.head));
    let open = asks(exchange, filter, "filter_response");
    let said = filter.rule.on_response(&mut exchange.facts).await;
    asked(exchange, open, &said);
    // A rule that failed may have lost the head with its instance; then only `closed` is left.
    let head = exchange.facts.response.take();
    let fault = match (said, head) {
        (Ok(edits), Some(mut head)) => {
            let applied = edits.apply_to_response(&mut head.fields, &mut exchange.facts.attrs);
            *answer.head = head;
            match applied {
                Ok(()) => {
                    answer.body.bar_trailers(&edits);
                    return Ok(());
                }
                Err(bad) => bad_answer(&filter.name, &bad.to_string()),
            }
        }
        (Err(fault), Some(head)) => {
            *answer.head = head;
            fault
        }
        (Err(fault), None) => return Err(fault),
        (Ok(_), None) => return Err(bad_answer(&filter.name, "the head of the answer was lost")),
    };
    match filter.policy {
        FailurePolicy::Closed => Err(fault),
        FailurePolicy::Open => Ok(()),
    }
}

async fn degrade(exchange: &mut Exchange, rules: &Rules, memory: &Memory, fault: &Fault) -> Option<Answer> {
    if rules.degrade.is_empty() {
        return None;
    }
    let failure = match &fault.kind {
        FaultKind::Timeout(_) | FaultKind::Ferry(Ferried { is_timeout: true, .. }) => Failure::Timeout,
        FaultKind::Connect | FaultKind::NoEndpoint | FaultKind::Ferry(_) => Failure::Connect,
        FaultKind::Reset | FaultKind::BadAnswer => Failure::Reset,
        FaultKind::Overload(_) => Failure::Overload,
        FaultKind::Plugin(name) | FaultKind::PluginAnswer(name) => Failure::Plugin(name.clone()),
        // The caller's own fault is never dressed up, and who has gone is not answered.
        FaultKind::Malformed
        | FaultKind::TooLarge { .. }
        | FaultKind::NoRoute
        | FaultKind::MethodRefused
        | FaultKind::Denied
        | FaultKind::Limited(_)
        | FaultKind::WrongType
        | FaultKind::BadArgument
        | FaultKind::Misdirected
        | FaultKind::ClientTimeout(_)
        | FaultKind::ClientGone => return None,
    };
    degrade_with(exchange, rules, memory, failure).await
}

async fn degrade_with(exchange: &mut Exchange, rules: &Rules, memory: &Memory, failure: Failure) -> Option<Answer> {
    for degrade in &rules.degrade {
        // A degrade rule that fails itself is as if it had passed: the first fault is the one worth telling.
        let open = asks(exchange, degrade, "degrade");
        let said = degrade.rule.on_fault(&mut exchange.facts, failure.clone()).await;
        asked(exchange, open, &said);
        let reply = match said.unwrap_or(Instead::Pass) {
            Instead::Pass => continue,
            Instead::Reply(reply) => reply,
            Instead::LastGood { max_age_ms, otherwise } => {
                if let Some(answer) = recall(exchange, memory, Duration::from_millis(max_age_ms.into())) {
                    exchange.trail.answered_by = Some(degrade.name.clone());
                    return Some(answer);
                }
                match otherwise {
                    Some(reply) => reply,
                    None => continue,
                }
            }
        };
        if let Ok(answer) = given(&degrade.name, reply) {
            exchange.trail.answered_by = Some(degrade.name.clone());
            return Some(answer);
        }
    }
    None
}

fn bad_answer(plugin: &Arc<str>, what: &str) -> Fault {
    Fault::plugin(FaultKind::PluginAnswer(plugin.clone()), format!("plugin {plugin:?} gave an answer that breaks the contract: {what}"))
}

/// A rule's answer as an answer.
fn given(plugin: &Arc<str>, reply: RuleReply) -> Result<Answer, Fault> {
    if !(200..=599).contains(&reply.status) {
        return Err(bad_answer(plugin, &format!("status {} is not within 200 to 599", reply.status)));
    }
    edit::check_fields(reply.fields.iter().map(|(name, value)| (name.as_str(), value.as_str())))
        .map_err(|bad| bad_answer(plugin, &bad.to_string()))?;
    let mut fields = Fields::default();
    for (name, value) in &reply.fields {
        fields.add(name.as_bytes(), value.as_bytes());
    }
    Ok(Answer::full(ResponseHead { status: reply.status, fields }, reply.body))
}

fn recall(exchange: &Exchange, memory: &Memory, age_max: Duration) -> Option<Answer> {
    let key = last_good::key(&exchange.facts)?;
    let memory = memory.as_ref()?.borrow();
    let (kept, age) = memory.find(&key, age_max, Instant::now())?;
    let mut head = kept.head.clone();
    head.fields.set(b"age", age.as_secs().to_string().as_bytes());
    head.fields.add(b"warning", b"111 - \"revalidation failed\"");
    Some(Answer::full(head, kept.body.clone()))
}

/// Lets an answer through and keeps a copy, if it ends well and is small enough.
fn remember(exchange: &Exchange, memory: &Rc<RefCell<LastGood>>, mut answer: Answer) -> Answer {
    let Some(key) = last_good::key(&exchange.facts) else { return answer };
    if answer.tunnel.is_some() || !last_good::may_keep(&answer.head, answer.body.size()) {
        return answer;
    }
    let keep = |body: Bytes| {
        let kept = Kept { head: (*answer.head).clone(), body, at: Instant::now() };
        memory.borrow_mut().keep(key.clone(), kept);
    };
    match &answer.body {
        Body::Empty => keep(Bytes::new()),
        Body::Full(all) => keep(all.clone()),
        Body::Stream(_) => {
            if let Body::Stream(inner) = std::mem::take(&mut answer.body) {
                let copy = Copying { inner, so_far: BytesMut::new(), done: Some((memory.clone(), key, (*answer.head).clone())) };
                answer.body = Body::Stream(Box::new(copy));
            }
        }
    }
    answer
}

/// A body that is copied while it passes.
struct Copying {
    inner: Box<dyn BodyStream>,
    so_far: BytesMut,
    done: Option<(Rc<RefCell<LastGood>>, Box<str>, ResponseHead)>,
}

impl BodyStream for Copying {
    fn poll_chunk(&mut self, task: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        let polled = self.inner.poll_chunk(task);
        match &polled {
            Poll::Ready(Ok(Some(chunk))) if self.done.is_some() => {
                if self.so_far.len() + chunk.len() > last_good::ANSWER_MAX {
                    (self.done, self.so_far) = (None, BytesMut::new());
                } else {
                    self.so_far.extend_from_slice(chunk);
                }
            }
            Poll::Ready(Ok(None)) => {
                if let Some((memory, key, head)) = self.done.take() {
                    let kept = Kept { head, body: std::mem::take(&mut self.so_far).freeze(), at: Instant::now() };
                    memory.borrow_mut().keep(key, kept);
                }
            }
            Poll::Ready(Err(_)) => self.done = None,
            _ => {}
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
