//! Services in the inventory: from what the file says of them to what the upstream room is given.

use super::{Generation, Home};
use crate::config::plan::{Check, Health, Plan, Service as Planned};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use wharf_core::outlet::{Outlet, Probe};
use wharf_http::client::Speaks;
use wharf_http::client::warm::Warm;
use wharf_http::probe::{self, Line};
use wharf_http::rate::Rationed;
use wharf_upstream::{
    Breaker, Care, Guarded, Guards as Guarding, HealthPolicy, Limiter, OutletConfig, RetryPolicy, Service, Services, SubsetMissing,
};

/// The services of a plan, looked after as it says from now on.
pub(super) fn cared_for(plan: &Plan, services: &Services) -> HashMap<Arc<str>, Arc<Service>> {
    let known = plan.services.iter().filter_map(|service| Some((service, services.get(&service.name)?)));
    known
        .map(|(planned, service)| {
            service.configure(care(plan, planned));
            (planned.name.clone(), service)
        })
        .collect()
}

fn care(plan: &Plan, service: &Planned) -> Care {
    Care {
        policy: service.balance,
        maglev_slots: service.maglev_slots,
        slow_start: service.slow_start,
        zone: plan.zone.clone(),
        zone_enough: service.zone_enough,
        panic_below: service.panic_below,
        ejection: service.ejection,
        health: service.health.as_ref().map(|health| HealthPolicy {
            probe: ask(service, health),
            interval: health.interval,
            timeout: health.timeout,
            healthy: health.healthy,
            unhealthy: health.unhealthy,
        }),
    }
}

fn ask(service: &Planned, health: &Health) -> Arc<dyn Probe> {
    let tls = service.tls.as_ref().filter(|_| health.tls).map(|tls| tls.client.clone());
    // In the clear nothing says which of both it is.
    let speaks = if tls.is_none() && service.speaks == Speaks::Either { Speaks::Http1 } else { service.speaks };
    let line = Line { speaks, tls };
    match &health.check {
        Check::Tcp => Arc::new(probe::Tcp),
        Check::Http { path, host, statuses, body } => {
            Arc::new(probe::Http::new(path, host.as_deref(), statuses.clone(), body.as_deref(), line))
        }
        Check::Grpc(about) => Arc::new(probe::Grpc::new(about, line.tls)),
    }
}

/// What each core keeps ready.
pub(super) fn warm(generation: &Generation, home: &Home) -> Vec<Warm> {
    let plan = &generation.plan;
    let wanted = plan.services.iter().filter(|service| service.connections_warm > 0);
    let of_service = |service: &Planned| {
        let shared = generation.services.get(&service.name)?.clone();
        let count = |outcome| {
            let labels = [("service", &*service.name), ("outcome", outcome)];
            home.metrics.count("wharf_upstream_warmed_total", "Connections made ahead of calls.", &labels)
        };
        Some(Warm {
            speaks: service.speaks,
            tls: service.tls.as_ref().map(|tls| tls.client.clone()),
            endpoints: Box::new(move || shared.called()),
            connections: service.connections_warm.div_ceil(plan.workers.max(1) as u32),
            limits: service.limits.clone(),
            made: count("good"),
            failed: count("bad"),
        })
    };
    wanted.filter_map(of_service).collect()
}

/// The outlet of a service behind its rate limits.
pub(super) fn rationed(generation: &Generation, home: &Home, service: &Planned, inner: Rc<dyn Outlet>) -> Rc<dyn Outlet> {
    let gate = |limit| super::gate(generation, home, ("service", &service.name), limit);
    match service.rates.is_empty() {
        true => inner,
        false => Rc::new(Rationed { gates: service.rates.iter().filter_map(gate).collect(), inner }),
    }
}

/// How cores call a service.
pub(super) fn outlet_config(service: &Planned, retries: bool) -> OutletConfig {
    OutletConfig {
        policy: service.balance,
        weighing: service.weighing,
        key: service.key.clone(),
        sticky: service.sticky.clone(),
        limits: service.limits.clone(),
        retry: RetryPolicy {
            tries_max: if retries { service.retries_max.saturating_add(1) } else { 1 },
            budget_percent: (service.retry_share_max * 100.0).round() as u32,
            causes: service.retry_causes,
            statuses: service.retry_statuses,
            per_try: service.per_try,
            backoff: service.backoff,
        },
        hedge_after: service.hedge_after.filter(|_| retries),
        in_flight_max: service.in_flight_max,
        subset_missing: if service.subset_fallback { SubsetMissing::Any } else { SubsetMissing::Refuse },
    }
}

/// What stands before one service.
type Before = (Option<Arc<Breaker>>, Option<Arc<Limiter>>);

/// What stands before services and routes; one for all cores.
#[derive(Default)]
pub(super) struct Guards {
    services: HashMap<Arc<str>, Before>,
    routes: HashMap<Arc<str>, Arc<Breaker>>,
}

impl Guards {
    /// Those of a plan. What has counted before goes on counting.
    pub(super) fn of(plan: &Plan, services: &Services) -> Guards {
        let guarded = plan.services.iter().filter(|service| service.breaker.is_some() || service.limiter.is_some());
        let of_service = |service: &Planned| {
            let breaker = service.breaker.map(|policy| services.breaker(Guarding::Service, &service.name, policy));
            (service.name.clone(), (breaker, service.limiter.map(|policy| services.limiter(&service.name, policy))))
        };
        let of_routes = plan.routes.iter().filter_map(|route| Some((route, route.breaker?)));
        Guards {
            services: guarded.map(of_service).collect(),
            routes: of_routes.map(|(route, policy)| (route.name.clone(), services.breaker(Guarding::Route, &route.name, policy))).collect(),
        }
    }

    /// The outlet of a service behind what guards it.
    pub(super) fn before(&self, service: &Arc<str>, outlet: Rc<dyn Outlet>) -> Rc<dyn Outlet> {
        let (breaker, limiter) = self.services.get(service).cloned().unwrap_or_default();
        Guarded::outlet(outlet, breaker, limiter)
    }

    /// The breaker of a route.
    pub(super) fn of_route(&self, route: &Arc<str>) -> Option<Arc<Breaker>> {
        self.routes.get(route).cloned()
    }
}
