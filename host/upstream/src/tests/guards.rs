//! Breakers and limits before an outlet.

use super::*;
use crate::breaker::State;
use crate::{BreakerPolicy, Guarded, Guards, LimiterPolicy};

const MS: Duration = Duration::from_millis(1);

async fn ask(outlet: &Rc<dyn Outlet>) -> Result<Answer, Fault> {
    outlet.call(&mut exchange(Method::Post, "/", Body::Empty), &Wish::default()).await
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_answers_at_once_and_leaves_the_service_in_peace() {
    let house = House::new(&[(1, 1)], |_| Does::Answer(5 * MS, 500, 0));
    let policy = BreakerPolicy { open: Duration::from_millis(7_500), ..BreakerPolicy::default() };
    let breaker = house.services.breaker(Guards::Service, "s", policy);
    let outlet = Guarded::outlet(Rc::new(house.outlet(config(Policy::RoundRobin))), Some(breaker.clone()), None);
    for _ in 0..20 {
        assert_eq!(ask(&outlet).await.ok().unwrap().head.status, 500);
    }
    assert_eq!(breaker.state(), State::Open);
    house.fake.seen.take();
    for _ in 0..100 {
        let before = tokio::time::Instant::now();
        let fault = ask(&outlet).await.err().unwrap();
        assert_eq!((fault.kind, fault.retry_after, before.elapsed()), (FaultKind::Overload("breaker"), 8, Duration::ZERO));
    }
    assert!(house.fake.ports().is_empty());
    assert_eq!(house.metric("wharf_breaker_refused_total{guards=\"service\",name=\"s\"}"), 100);
    assert_eq!(house.metric("wharf_breaker_state{guards=\"service\",name=\"s\"}"), 2);
    house.fake.then(|_| OK);
    tokio::time::advance(Duration::from_secs(8)).await;
    for _ in 0..3 {
        assert!(ask(&outlet).await.is_ok());
    }
    assert_eq!(breaker.state(), State::Closed);
    // A new generation has the same breaker; one with another policy begins anew.
    assert!(Arc::ptr_eq(&breaker, &house.services.breaker(Guards::Service, "s", policy)));
    assert!(!Arc::ptr_eq(&breaker, &house.services.breaker(Guards::Route, "s", policy)));
    assert!(!Arc::ptr_eq(&breaker, &house.services.breaker(Guards::Service, "s", BreakerPolicy::default())));
}

#[tokio::test(start_paused = true)]
async fn a_service_that_hangs_opens_its_breaker_though_callers_give_up() {
    let house = House::new(&[(1, 1)], |_| Does::Answer(Duration::from_secs(60), 200, 0));
    let breaker = house.services.breaker(Guards::Route, "r", BreakerPolicy { slow: Some(0.5), ..BreakerPolicy::default() });
    let outlet = Guarded::outlet(Rc::new(house.outlet(config(Policy::RoundRobin))), Some(breaker.clone()), None);
    let calls: Vec<_> = (0..20).map(|_| tokio::time::timeout(Duration::from_secs(2), ask(&outlet))).collect();
    assert!(futures(calls).await.iter().all(Result::is_err));
    assert_eq!(breaker.state(), State::Open);
    // Those who leave early say nothing.
    let calm = house.services.breaker(Guards::Route, "q", BreakerPolicy { slow: Some(0.5), ..BreakerPolicy::default() });
    let outlet = Guarded::outlet(Rc::new(house.outlet(config(Policy::RoundRobin))), Some(calm.clone()), None);
    let calls: Vec<_> = (0..20).map(|_| tokio::time::timeout(100 * MS, ask(&outlet))).collect();
    assert!(futures(calls).await.iter().all(Result::is_err));
    assert_eq!(calm.state(), State::Closed);
}

/// All at once, on this thread.
async fn futures<F: Future>(all: Vec<F>) -> Vec<F::Output> {
    let mut all: Vec<_> = all.into_iter().map(|one| (Box::pin(one), None)).collect();
    std::future::poll_fn(|task| {
        for (one, said) in all.iter_mut().filter(|(_, said)| said.is_none()) {
            if let Poll::Ready(ready) = one.as_mut().poll(task) {
                *said = Some(ready);
            }
        }
        if all.iter().all(|(_, said)| said.is_some()) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    all.into_iter().filter_map(|(_, said)| said).collect()
}

#[tokio::test(start_paused = true)]
async fn what_a_breaker_and_a_limit_hold_is_given_back_with_the_body() {
    let house = House::new(&[(1, 1)], |_| Does::Answer(Duration::ZERO, 200, 3));
    let breaker = house.services.breaker(Guards::Service, "s", BreakerPolicy { in_flight_max: Some(2), ..BreakerPolicy::default() });
    let limiter = house.services.limiter("s", LimiterPolicy { min: 1, max: 1, tolerance: 1.5 });
    let by = |breaker, limiter| Guarded::outlet(Rc::new(house.outlet(config(Policy::RoundRobin))), breaker, limiter);
    for (outlet, places, limit) in [(by(Some(breaker), None), 2, "breaker"), (by(None, Some(limiter)), 1, "adaptive_concurrency")] {
        let mut held = Vec::new();
        for _ in 0..places {
            held.push(ask(&outlet).await.ok().unwrap());
        }
        let fault = ask(&outlet).await.err().unwrap();
        assert_eq!(fault.kind, FaultKind::Overload(limit));
        assert!(fault.detail().contains("\"s\"") && fault.retry_after == 1, "{fault}");
        while next(&mut held[0]).await.is_some() {}
        assert!(ask(&outlet).await.is_ok());
        drop(held);
        assert!(ask(&outlet).await.is_ok());
    }
}

/// A service that works on twenty calls at once, asked by four hundred: those that are let in are served in time.
#[tokio::test(start_paused = true)]
async fn an_adaptive_limit_keeps_the_queue_short() {
    let house = House::new(&[(1, 1)], |endpoint| {
        let calls = u64::from(endpoint.in_flight.load(Relaxed));
        Does::Answer(Duration::from_millis(10 * calls.div_ceil(20).max(1)), 200, 0)
    });
    let limiter = house.services.limiter("s", LimiterPolicy::default());
    let outlet = Guarded::outlet(Rc::new(house.outlet(config(Policy::RoundRobin))), None, Some(limiter.clone()));
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async {
            // Calm first: a few at a time.
            for _ in 0..200 {
                assert!(ask(&outlet).await.is_ok());
            }
            let callers: Vec<_> = (0..400)
                .map(|_| {
                    let outlet = outlet.clone();
                    tokio::task::spawn_local(async move {
                        let end = tokio::time::Instant::now() + Duration::from_secs(60);
                        let (mut served, mut refused) = (0, 0);
                        while tokio::time::Instant::now() < end {
                            match ask(&outlet).await {
                                Ok(_) => served += 1,
                                Err(_) => refused += 1,
                            }
                            tokio::time::sleep(20 * MS).await;
                        }
                        (served, refused)
                    })
                })
                .collect();
            let (mut served, mut refused) = (0, 0);
            for caller in callers {
                let (one, other) = caller.await.unwrap();
                (served, refused) = (served + one, refused + other);
            }
            assert!(served > 50_000 && refused > 10_000, "{served} served, {refused} refused");
        })
        .await;
    assert!((20..=60).contains(&limiter.limit()), "{}", limiter.limit());
}
