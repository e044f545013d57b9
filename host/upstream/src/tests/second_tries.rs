//! What is tried again, when, and what it costs.

use super::*;
use crate::EjectionPolicy;
use crate::retry::{Backoff, Causes, Statuses};

const MS: Duration = Duration::from_millis(1);

fn retrying(retry: RetryPolicy) -> OutletConfig {
    OutletConfig { retry, ..config(Policy::RoundRobin) }
}

async fn call(outlet: &ServiceOutlet<Fake>, method: Method, body: Body) -> (Result<Answer, Fault>, u32, Duration) {
    let started = tokio::time::Instant::now();
    let mut exchange = exchange(method, "/", body);
    let said = outlet.call(&mut exchange, &Wish::default()).await;
    (said, exchange.trail.tries, started.elapsed())
}

fn status(said: &Result<Answer, Fault>) -> u16 {
    said.as_ref().map_or(0, |answer| answer.head.status)
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_listed_is_tried_again_where_that_is_safe() {
    let house = House::new(&[(1, 1), (2, 1)], |endpoint| match endpoint.address.port() {
        1 => Does::Answer(Duration::ZERO, 503, 0),
        _ => OK,
    });
    // Nobody is left out for it here.
    house.care(Care { ejection: EjectionPolicy { failures: 0, ..EjectionPolicy::default() }, ..Care::default() });
    let outlet = house.outlet(retrying(RetryPolicy { statuses: Statuses::of([502, 503]), ..RetryPolicy::default() }));
    for _ in 0..4 {
        assert_eq!(status(&call(&outlet, Method::Get, Body::Empty).await.0), 200);
        assert_eq!(status(&call(&outlet, Method::Put, Body::Full(Bytes::from_static(b"x"))).await.0), 200);
    }
    house.fake.seen.take();
    let mut refused = 0;
    for _ in 0..20 {
        let (said, tries, _) = call(&outlet, Method::Post, Body::Empty).await;
        refused += u32::from(status(&said) == 503);
        assert_eq!(tries, 1, "a POST has reached somebody");
        let (_, tries, _) = call(&outlet, Method::Put, Body::Stream(Box::new(Pieces(3)))).await;
        assert_eq!(tries, 1, "a body that is gone cannot be sent again");
    }
    assert!(refused >= 8, "{refused}");
    // Where all answer like that, the caller gets such an answer and no fault.
    house.fake.then(|_| Does::Answer(Duration::ZERO, 502, 0));
    let (said, tries, _) = call(&outlet, Method::Get, Body::Empty).await;
    assert_eq!((status(&said), tries), (502, 2));
}

#[tokio::test(start_paused = true)]
async fn one_try_takes_no_longer_than_its_time() {
    let house = House::new(&[(1, 1), (2, 1)], |endpoint| match endpoint.address.port() {
        1 => Does::Answer(Duration::from_secs(60), 200, 0),
        _ => OK,
    });
    let outlet = house.outlet(retrying(RetryPolicy { per_try: Some(100 * MS), ..RetryPolicy::default() }));
    let mut waited = 0;
    for _ in 0..6 {
        let (said, tries, took) = call(&outlet, Method::Get, Body::Empty).await;
        assert_eq!(status(&said), 200);
        assert_eq!(took, (tries - 1) * 100 * MS);
        waited += tries - 1;
    }
    assert!(waited >= 3);
    house.fake.then(|_| Does::Answer(Duration::from_secs(60), 200, 0));
    let (said, tries, took) = call(&outlet, Method::Post, Body::Empty).await;
    let fault = said.err().unwrap();
    assert_eq!((fault.kind, tries, took), (FaultKind::Timeout(Phase::Head), 1, 100 * MS));
    assert_eq!(house.in_flight(), [0, 0]);
}

#[tokio::test(start_paused = true)]
async fn waits_between_tries_grow_and_never_pass_the_deadline() {
    let house = House::new(&[(1, 1), (2, 1), (3, 1), (4, 1)], |_| Does::Break);
    let backoff = Some(Backoff { base: 100 * MS, max: 300 * MS });
    let outlet = house.outlet(retrying(RetryPolicy { tries_max: 4, backoff, ..RetryPolicy::default() }));
    let (said, tries, took) = call(&outlet, Method::Get, Body::Empty).await;
    assert!(said.is_err());
    assert_eq!(tries, 4);
    // 100, 200 and 300 ms, of each at least a half.
    assert!(took >= 300 * MS && took <= 610 * MS, "{took:?}");
    let long = Some(Backoff { base: Duration::from_secs(30), max: Duration::from_secs(30) });
    let outlet = house.outlet(retrying(RetryPolicy { backoff: long, ..RetryPolicy::default() }));
    let (_, tries, took) = call(&outlet, Method::Get, Body::Empty).await;
    assert_eq!((tries, took), (1, Duration::ZERO), "the exchange ends in ten seconds");
}

#[tokio::test(start_paused = true)]
async fn a_second_try_beside_a_late_one_answers_in_its_place() {
    let house = House::new(&[(1, 1), (2, 1)], |endpoint| match endpoint.address.port() {
        1 => Does::Answer(Duration::from_secs(1), 200, 0),
        _ => Does::Answer(10 * MS, 200, 0),
    });
    let outlet = house.outlet(OutletConfig { hedge_after: Some(50 * MS), ..config(Policy::RoundRobin) });
    let mut hedged = 0;
    for _ in 0..8 {
        let (said, tries, took) = call(&outlet, Method::Get, Body::Empty).await;
        assert_eq!(status(&said), 200);
        assert!(took == 10 * MS || (took == 60 * MS && tries == 2), "{took:?} in {tries}");
        hedged += u64::from(tries - 1);
        assert_eq!(house.in_flight(), [0, 0], "who has lost is not in flight any more");
    }
    assert!(hedged >= 3);
    assert_eq!(house.metric("wharf_upstream_hedges_total{service=\"s\"}"), hedged);
    assert_eq!(house.metric("wharf_upstream_hedges_won_total{service=\"s\"}"), hedged);
    assert_eq!(house.metric("wharf_upstream_calls_total{service=\"s\",endpoint=\"127.0.0.1:1\",outcome=\"cancelled\"}"), hedged);
    house.fake.seen.take();
    let mut slow = 0;
    for _ in 0..4 {
        let (_, tries, took) = call(&outlet, Method::Post, Body::Empty).await;
        assert_eq!(tries, 1, "a POST is never made twice");
        slow += u32::from(took == Duration::from_secs(1));
    }
    assert!(slow >= 1);
}

#[tokio::test(start_paused = true)]
async fn of_two_tries_a_failure_does_not_win() {
    let house = House::new(&[(1, 1), (2, 1)], |endpoint| match endpoint.address.port() {
        1 => Does::Answer(200 * MS, 200, 0),
        _ => Does::Break,
    });
    let outlet = house.outlet(OutletConfig { hedge_after: Some(50 * MS), ..config(Policy::RoundRobin) });
    for _ in 0..6 {
        let (said, ..) = call(&outlet, Method::Get, Body::Empty).await;
        assert_eq!(status(&said), 200);
    }
    // All late and none good: a fault, and both were tried.
    house.fake.then(|_| Does::Answer(Duration::from_secs(60), 200, 0));
    let (said, tries, took) = call(&outlet, Method::Get, Body::Empty).await;
    assert_eq!((said.is_err(), tries, took), (true, 2, Duration::from_secs(10)));
}

/// Everything at once, at random: what holds for plain retries holds with all of it.
#[tokio::test(start_paused = true)]
async fn with_hedges_statuses_and_times_nothing_unsafe_is_repeated_and_the_budget_holds() {
    let mut second_tries = 0;
    for seed in 0..60 {
        let dice = Rc::new(RefCell::new(Dice(seed)));
        let endpoints: Vec<(u16, u32)> = (0..1 + dice.borrow_mut().below(5)).map(|n| (n as u16 + 1, 1)).collect();
        let bad = dice.borrow_mut().below(100);
        let plan = dice.clone();
        let house = House::new(&endpoints, move |_| {
            let mut dice = plan.borrow_mut();
            let wait = dice.below(40) as u32 * MS;
            match dice.below(100) {
                roll if roll >= bad => Does::Answer(wait, 200, 0),
                roll => [Does::Refuse, Does::Stale, Does::Break, Does::Answer(wait, 503, 0), Does::Answer(60_000 * MS, 200, 0)]
                    [roll as usize % 5],
            }
        });
        let percent = [0, 20, 100][seed as usize % 3];
        let policy = [Policy::RoundRobin, Policy::P2cEwma, Policy::Random][seed as usize / 3 % 3];
        let outlet = house.outlet(OutletConfig {
            hedge_after: Some(20 * MS),
            retry: RetryPolicy {
                budget_percent: percent,
                statuses: Statuses::of([503]),
                per_try: Some(50 * MS),
                backoff: Some(Backoff { base: 5 * MS, max: 20 * MS }),
                causes: Causes { reset: seed % 2 == 0, ..Causes::default() },
                ..RetryPolicy::default()
            },
            ..config(policy)
        });
        let (calls, mut more) = (300u32, 0);
        for call in 0..calls {
            let method = [Method::Get, Method::Post, Method::Put, Method::Other("X".into())][dice.borrow_mut().below(4) as usize].clone();
            let body = match dice.borrow_mut().below(3) {
                0 => Body::Empty,
                1 => Body::Full(Bytes::from_static(b"all")),
                _ => Body::Stream(Box::new(Pieces(3))),
            };
            let (full, stream) = (matches!(body, Body::Full(_)), !body.is_replayable());
            let idempotent = method.is_idempotent();
            let mut exchange = exchange(method, &format!("/{call}"), body);
            let _ = outlet.call(&mut exchange, &Wish::default()).await;
            let seen = house.fake.seen.take();
            let note = format!("seed {seed} call {call}: {seen:?}");
            assert!(seen.iter().all(|seen| seen.path == format!("/{call}")), "{note}");
            assert_eq!(seen.len() as u32, exchange.trail.tries, "{note}");
            // A hedge comes beside the first of three.
            assert!((1..=4).contains(&seen.len()), "{note}");
            more += seen.len() as u32 - 1;
            let arrived = seen.iter().filter(|seen| seen.arrived).count();
            assert!(arrived <= 1 || (idempotent && !stream), "{note}");
            assert!(seen.iter().filter(|seen| seen.arrived).all(|seen| seen.body.is_some() == full), "{note}");
            let allowed = 10.0 + f64::from(percent) / 100.0 * f64::from(call + 1);
            assert!(f64::from(more) <= allowed, "seed {seed}: {more} second tries in {call} calls");
        }
        second_tries += more;
        assert!(house.in_flight().iter().all(|&calls| calls == 0));
    }
    assert!(second_tries > 1_000, "{second_tries}");
}
