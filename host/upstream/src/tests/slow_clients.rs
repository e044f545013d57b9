//! What waits for a client counts against nobody: no endpoint, no breaker, no limit.

use super::*;
use crate::breaker::State;
use crate::{BreakerPolicy, EjectionPolicy, Guarded, Guards, LimiterPolicy};
use wharf_core::outlet::Endpoint;

const MS: Duration = Duration::from_millis(1);
const MINUTE: Duration = Duration::from_secs(60);

fn upload() -> Exchange {
    let mut exchange = exchange(Method::Put, "/", Body::Stream(Box::new(Pieces(3))));
    exchange.deadline += MINUTE * 10;
    exchange
}

async fn put(outlet: &dyn Outlet) -> Result<Answer, Fault> {
    outlet.call(&mut upload(), &Wish::default()).await
}

/// A breaker that opens at the first failure or slow call.
const STRICT: BreakerPolicy = BreakerPolicy {
    errors: Some(0.01),
    slow: Some(0.01),
    slow_after: Duration::from_millis(500),
    calls_min: 1,
    window: Duration::from_secs(10),
    open: Duration::from_secs(5),
    trials: 1,
    in_flight_max: None,
};

/// What a client can let happen with an upload.
const CLIENTS: [Does; 5] = [
    Does::Upload(MINUTE, Duration::from_millis(10), 200),
    Does::Cut(MINUTE),
    Does::Early(Duration::from_secs(30), 503),
    Does::Early(Duration::from_secs(30), 500),
    Does::Lost(Duration::from_secs(30)),
];

#[tokio::test(start_paused = true)]
async fn slow_uploads_and_those_that_are_cut_are_held_against_no_endpoint() {
    for policy in [Policy::RoundRobin, Policy::P2cEwma] {
        for does in CLIENTS {
            let house = House::new(&[(1, 1), (2, 1)], move |_| does);
            house.care(Care { policy, ejection: EjectionPolicy { failures: 1, ..EjectionPolicy::default() }, ..Care::default() });
            house.watched();
            let outlet = house.outlet(config(policy));
            for _ in 0..5 {
                let said = put(&outlet).await;
                assert_eq!(said.is_ok(), !matches!(does, Does::Cut(_) | Does::Lost(_)), "{does:?}");
            }
            // Nor is one that its client leaves in the middle.
            assert!(tokio::time::timeout(10_000 * MS, put(&outlet)).await.is_err());
            // The watcher has had its turn many times.
            assert_eq!(house.metric("wharf_upstream_ejections_total{service=\"s\"}"), 0, "{policy:?} {does:?}");
            assert_eq!(house.metric("wharf_upstream_retries_total{service=\"s\"}"), 0, "{policy:?} {does:?}");
            for (standing, address) in standings(&house) {
                assert_eq!(standing.failing(), 0, "{policy:?} {does:?} at {address}");
                let latency = standing.latency(&Default::default(), crate::care::now()).unwrap_or_default();
                assert!(latency <= 10 * MS, "{policy:?} {does:?}: {latency:?} at {address}");
                assert_eq!(standing.tallies().1, 0, "{policy:?} {does:?} at {address}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_slow_or_fails_once_it_has_the_body_is_held_to_it() {
    let slow = House::new(&[(1, 1)], |_| Does::Upload(MINUTE, 700 * MS, 200));
    let outlet = slow.outlet(config(Policy::P2cEwma));
    assert!(put(&outlet).await.is_ok());
    let latency = standings(&slow)[0].0.latency(&Default::default(), crate::care::now()).unwrap();
    assert!((699 * MS..=701 * MS).contains(&latency), "{latency:?}");
    for does in [Does::Upload(MINUTE, MS, 503), Does::Early(MS, 503), Does::Lost(MS), Does::Refuse] {
        let house = House::new(&[(1, 1)], move |_| does);
        let outlet = house.outlet(config(Policy::RoundRobin));
        let _ = put(&outlet).await;
        assert!(standings(&house)[0].0.failing() > 0, "{does:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn slow_uploads_and_those_that_are_cut_open_no_breaker_and_close_none() {
    for does in CLIENTS {
        let house = House::new(&[(1, 1)], move |_| does);
        let breaker = house.services.breaker(Guards::Service, "s", STRICT);
        let outlet = Guarded::outlet(Rc::new(house.outlet(config(Policy::RoundRobin))), Some(breaker.clone()), None);
        for _ in 0..5 {
            let _ = put(&*outlet).await;
        }
        // Nor does one whose client leaves it in the middle.
        assert!(tokio::time::timeout(10_000 * MS, put(&*outlet)).await.is_err());
        assert_eq!(breaker.state(), State::Closed, "{does:?}");
        // As a trial it is given back, unless it has ended well.
        house.fake.then(|_| Does::Answer(Duration::ZERO, 500, 0));
        assert!(outlet.call(&mut exchange(Method::Post, "/", Body::Empty), &Wish::default()).await.is_ok());
        assert_eq!(breaker.state(), State::Open);
        tokio::time::advance(5_000 * MS).await;
        house.fake.then(move |_| does);
        let _ = put(&*outlet).await;
        let expected = if matches!(does, Does::Upload(..)) { State::Closed } else { State::HalfOpen };
        assert_eq!(breaker.state(), expected, "{does:?}");
        house.fake.then(|_| OK);
        assert!(outlet.call(&mut exchange(Method::Get, "/", Body::Empty), &Wish::default()).await.is_ok());
        assert_eq!(breaker.state(), State::Closed, "{does:?}");
    }
    // What is slow once the body is there is slow.
    let house = House::new(&[(1, 1)], |_| Does::Upload(MINUTE, 600 * MS, 200));
    let breaker = house.services.breaker(Guards::Service, "s", STRICT);
    let outlet = Guarded::outlet(Rc::new(house.outlet(config(Policy::RoundRobin))), Some(breaker.clone()), None);
    assert!(put(&*outlet).await.is_ok());
    assert_eq!(breaker.state(), State::Open);
}

#[tokio::test(start_paused = true)]
async fn how_little_time_a_caller_gives_is_held_against_nobody() {
    let house = House::new(&[(1, 1)], |_| Does::Answer(100 * MS, 200, 0));
    house.care(Care { ejection: EjectionPolicy { failures: 1, ..EjectionPolicy::default() }, ..Care::default() });
    house.watched();
    let policy = BreakerPolicy { slow: None, ..STRICT };
    let breaker = house.services.breaker(Guards::Service, "s", policy);
    let limiter = house.services.limiter("s", LimiterPolicy::default());
    let outlet = Guarded::outlet(Rc::new(house.outlet(config(Policy::P2cEwma))), Some(breaker.clone()), Some(limiter.clone()));
    let before = limiter.limit();
    for _ in 0..100 {
        let mut hasty = exchange(Method::Get, "/", Body::Empty);
        (hasty.deadline, hasty.callers_time) = (crate::care::now() + 10 * MS, true);
        let fault = outlet.call(&mut hasty, &Wish::default()).await.err().unwrap();
        assert_eq!((fault.kind.clone(), fault.word()), (FaultKind::Timeout(Phase::Whole), "client_timeout"));
    }
    assert_eq!((breaker.state(), limiter.limit()), (State::Closed, before));
    assert_eq!(standings(&house)[0].0.failing(), 0);
    assert_eq!(standings(&house)[0].0.latency(&Default::default(), crate::care::now()), None, "it says nothing of the endpoint");
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_try_begins_when_its_body_has_gone_out() {
    let house = House::new(&[(1, 1)], |_| Does::Upload(MINUTE, 90 * MS, 200));
    let outlet = house
        .outlet(OutletConfig { retry: RetryPolicy { per_try: Some(100 * MS), ..RetryPolicy::default() }, ..config(Policy::RoundRobin) });
    assert!(put(&outlet).await.is_ok());
    house.fake.then(|_| Does::Upload(MINUTE, MINUTE, 200));
    let began = tokio::time::Instant::now();
    let fault = put(&outlet).await.err().unwrap();
    assert_eq!((fault.kind, began.elapsed()), (FaultKind::Timeout(Phase::Head), MINUTE + 100 * MS));
    assert!(standings(&house)[0].0.failing() > 0, "it had all that it needed");
}

#[tokio::test(start_paused = true)]
async fn a_slow_upload_does_not_shrink_an_adaptive_limit_nor_does_a_quick_refusal_of_one() {
    for does in [CLIENTS[0], CLIENTS[1], Does::Early(MS, 413)] {
        let house = House::new(&[(1, 1)], move |_| does);
        let limiter = house.services.limiter("s", LimiterPolicy::default());
        let outlet = Guarded::outlet(Rc::new(house.outlet(config(Policy::RoundRobin))), None, Some(limiter.clone()));
        let before = limiter.limit();
        for _ in 0..100 {
            let _ = put(&*outlet).await;
        }
        assert_eq!(limiter.limit(), before, "{does:?}");
    }
}

/// A body of which nothing comes.
struct Stalled;

impl BodyStream for Stalled {
    fn poll_chunk(&mut self, _task: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Fault>> {
        Poll::Pending
    }
}

/// A protocol that sends the body of its request, and answers with a long one.
struct Sends;

impl Protocol for Sends {
    async fn send(&self, _: &Arc<Endpoint>, exchange: &mut Exchange, _: &CallLimits) -> Result<Answer, Fault> {
        if let Body::Stream(mut body) = std::mem::take(&mut exchange.body) {
            while std::future::poll_fn(|task| body.poll_chunk(task)).await?.is_some() {}
        }
        let mut answer = Answer::full(ResponseHead::new(200), Bytes::new());
        answer.body = Body::Stream(Box::new(Pieces(10)));
        Ok(answer)
    }
}

#[tokio::test(start_paused = true)]
async fn who_sends_or_reads_slowly_takes_no_place_of_an_adaptive_limit_from_others() {
    let house = House::new(&[(1, 1)], |_| OK);
    let limiter = house.services.limiter("s", LimiterPolicy { min: 1, max: 1, tolerance: 1.5 });
    let service = house.services.get("s").unwrap();
    let inner = ServiceOutlet::new(service, Rc::new(Sends), config(Policy::RoundRobin), 0, None);
    let outlet = Guarded::outlet(Rc::new(inner), None, Some(limiter));
    let get = async || outlet.call(&mut exchange(Method::Get, "/", Body::Empty), &Wish::default()).await;
    {
        // Two that stall, and two that have begun to read.
        let mut exchanges: Vec<_> = (0..2).map(|_| exchange(Method::Post, "/", Body::Stream(Box::new(Stalled)))).collect();
        let wish = Wish::default();
        let mut stalled: Vec<_> = exchanges.iter_mut().map(|exchange| outlet.call(exchange, &wish)).collect();
        std::future::poll_fn(|task| {
            assert!(stalled.iter_mut().all(|call| call.as_mut().poll(task).is_pending()));
            Poll::Ready(())
        })
        .await;
        let mut reading = vec![get().await.ok().unwrap()];
        assert!(next(&mut reading[0]).await.is_some());
        reading.push(get().await.ok().unwrap());
        assert_eq!(get().await.err().unwrap().kind, FaultKind::Overload("adaptive_concurrency"), "nothing of it was read");
        assert!(next(&mut reading[1]).await.is_some());
        let mut whole = get().await.ok().unwrap();
        while next(&mut whole).await.is_some() {}
        while next(&mut reading[0]).await.is_some() {}
    }
    // Whichever way they have ended, they leave nothing behind.
    for _ in 0..3 {
        let mut one = get().await.ok().unwrap();
        assert!(get().await.is_err());
        while next(&mut one).await.is_some() {}
    }
}

/// What all cores know of each endpoint, and where it is.
fn standings(house: &House) -> Vec<(Arc<crate::standing::Standing>, SocketAddr)> {
    let set = house.services.get("s").unwrap().endpoints();
    set.standings.iter().cloned().zip(set.endpoints.iter().map(|endpoint| endpoint.address)).collect()
}
