//! Who is left out, who comes back, and when: the watcher at work, by a paused clock.

use super::*;
use crate::{EjectionPolicy, HealthPolicy};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use wharf_core::outlet::Probe;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

async fn post(outlet: &ServiceOutlet<Fake>) -> Result<Answer, Fault> {
    outlet.call(&mut exchange(Method::Post, "/", Body::Empty), &Wish::default()).await
}

/// Calls every ten milliseconds for a time, and who got them.
async fn calls_for(house: &House, outlet: &ServiceOutlet<Fake>, time: Duration) -> BTreeMap<u16, usize> {
    house.fake.seen.take();
    let end = tokio::time::Instant::now() + time;
    while tokio::time::Instant::now() < end {
        let _ = post(outlet).await;
        tokio::time::sleep(10 * MS).await;
    }
    house.fake.shares()
}

fn failing(port: u16) -> impl Fn(&EndpointRef) -> Does {
    move |endpoint| if endpoint.address.port() == port { Does::Break } else { OK }
}

#[tokio::test(start_paused = true)]
async fn who_fails_in_a_row_is_left_out_and_comes_back_in_time_each_time_later() {
    let house = House::new(&[(1, 1), (2, 1), (3, 1), (4, 1)], failing(2));
    house.watched();
    let outlet = house.outlet(config(Policy::RoundRobin));
    let mut seen: Vec<Duration> = Vec::new();
    let began = tokio::time::Instant::now();
    while began.elapsed() < 45 * SECOND {
        let _ = post(&outlet).await;
        let tries = house.fake.seen.take().iter().filter(|seen| seen.port == 2).count();
        seen.extend((0..tries).map(|_| began.elapsed()));
        tokio::time::sleep(10 * MS).await;
    }
    // Five failures, then out for 5, 10 and 20 seconds; a core that asks for a judgement spares it until there is one.
    let gaps: Vec<u64> = seen.windows(2).map(|two| (two[1] - two[0]).as_millis() as u64).filter(|gap| *gap > 1_000).collect();
    assert_eq!(gaps.len(), 3, "{seen:?}");
    for (gap, due) in gaps.iter().zip([5_000, 10_000, 20_000]) {
        assert!((due..due + 700).contains(gap), "{gaps:?}");
    }
    assert!(seen.len() <= 4 * 6, "{seen:?}");
    assert_eq!(house.metric("wharf_upstream_ejections_total{service=\"s\"}"), 4);
}

#[tokio::test(start_paused = true)]
async fn who_cannot_serve_calls_of_grpc_is_left_out_as_well() {
    for (code, is_left_out) in [("14", true), ("4", true), ("5", false), ("13", false), ("0", false)] {
        let house = House::new(&[(1, 1), (2, 1)], move |endpoint| if endpoint.address.port() == 2 { Does::Grpc(code) } else { OK });
        house.watched();
        let outlet = house.outlet(config(Policy::RoundRobin));
        for _ in 0..100 {
            assert_eq!(post(&outlet).await.unwrap().head.status, 200);
            tokio::time::sleep(10 * MS).await;
        }
        let tries = house.fake.shares().get(&2).copied().unwrap_or(0);
        assert_eq!(tries < 10, is_left_out, "grpc-status {code}: {tries} of 100 calls");
    }
}

#[tokio::test(start_paused = true)]
async fn one_good_answer_ends_a_row_and_most_statuses_are_nobodys_fault() {
    let house = House::new(&[(1, 1), (2, 1)], |_| OK);
    house.watched();
    let outlet = house.outlet(config(Policy::RoundRobin));
    let turn = Rc::new(std::cell::Cell::new(0));
    let turns = turn.clone();
    house.fake.then(move |_| {
        turns.set(turns.get() + 1);
        // Four failures of each, then a good answer.
        if turns.get() % 10 < 8 { Does::Break } else { OK }
    });
    let shares = calls_for(&house, &outlet, 5 * SECOND).await;
    assert!(shares[&1].abs_diff(shares[&2]) < 20, "{shares:?}");
    for status in [400, 404, 429, 500, 501] {
        house.fake.then(move |endpoint| Does::Answer(Duration::ZERO, if endpoint.address.port() == 2 { status } else { 200 }, 0));
        let shares = calls_for(&house, &outlet, 2 * SECOND).await;
        assert!(shares[&1].abs_diff(shares[&2]) < 5, "{status}: {shares:?}");
    }
    for status in [502, 503, 504] {
        house.fake.then(move |endpoint| Does::Answer(Duration::ZERO, if endpoint.address.port() == 2 { status } else { 200 }, 0));
        let shares = calls_for(&house, &outlet, 3 * SECOND).await;
        assert!(shares[&1] > 10 * shares.get(&2).copied().unwrap_or(0), "{status}: {shares:?}");
        house.services.get("s").unwrap().drain(address(2), true);
        house.services.get("s").unwrap().drain(address(2), false);
    }
}

#[tokio::test(start_paused = true)]
async fn never_more_than_the_share_are_left_out() {
    let all: Vec<(u16, u32)> = (1..=10).map(|port| (port, 1)).collect();
    let house = House::new(&all, |endpoint| if endpoint.address.port() <= 8 { Does::Break } else { OK });
    house.watched();
    let outlet = house.outlet(config(Policy::RoundRobin));
    for _ in 0..500 {
        let _ = post(&outlet).await;
        tokio::time::sleep(10 * MS).await;
        let set = house.services.get("s").unwrap().endpoints();
        assert!(set.shares.iter().filter(|share| share.weight == 0).count() <= 5, "{:?}", set.shares);
    }
    let set = house.services.get("s").unwrap().endpoints();
    assert_eq!(set.shares.iter().filter(|share| share.weight == 0).count(), 5);
    // Switched off, all are back at once.
    house.care(Care { ejection: EjectionPolicy { failures: 0, ..EjectionPolicy::default() }, ..Care::default() });
    assert!(house.services.get("s").unwrap().endpoints().shares.iter().all(|share| share.weight == 1));
    let shares = calls_for(&house, &outlet, 5 * SECOND).await;
    assert!(shares.len() == 10 && shares.values().all(|share| share.abs_diff(50) < 10), "{shares:?}");
}

#[tokio::test(start_paused = true)]
async fn who_fails_too_often_without_a_row_is_left_out_for_its_rate() {
    let house = House::new(&[(1, 1), (2, 1), (3, 1)], |_| OK);
    let ejection =
        EjectionPolicy { rate: Some(0.5), rate_calls_min: 20, window: 5 * SECOND, base: 20 * SECOND, ..EjectionPolicy::default() };
    house.care(Care { ejection, ..Care::default() });
    house.watched();
    let dice = RefCell::new(Dice(3));
    // 500 is no failure in a row, and one all the same.
    house.fake.then(move |endpoint| match endpoint.address.port() {
        2 if dice.borrow_mut().below(10) < 7 => Does::Answer(Duration::ZERO, 500, 0),
        _ => OK,
    });
    let outlet = house.outlet(config(Policy::RoundRobin));
    let shares = calls_for(&house, &outlet, 15 * SECOND).await;
    assert!(shares[&2] < shares[&1] / 4, "{shares:?}");
    assert_eq!(house.metric("wharf_upstream_ejections_total{service=\"s\"}"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_new_endpoint_gets_its_share_little_by_little() {
    let house = House::new(&[(1, 1), (2, 1), (3, 1)], |_| OK);
    house.care(Care { policy: Policy::RoundRobin, slow_start: 20 * SECOND, ..Care::default() });
    house.watched();
    let outlet = house.outlet(config(Policy::RoundRobin));
    let shares = calls_for(&house, &outlet, 3 * SECOND).await;
    assert!(shares.values().all(|share| share.abs_diff(100) < 5), "whoever is there from the beginning has no slow start: {shares:?}");
    house.tell(listed(&[(1, 1), (2, 1), (3, 1), (4, 1)]));
    let mut part = Vec::new();
    for _ in 0..6 {
        let shares = calls_for(&house, &outlet, 4 * SECOND).await;
        part.push(shares[&4] as f64 / (shares[&1] as f64));
    }
    for (part, due) in part.iter().zip([0.13, 0.3, 0.5, 0.7, 0.9, 1.0]) {
        assert!((part - due).abs() < 0.06, "{part:.2} where {due} is due");
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_taken_out_by_hand_gets_no_calls_even_if_all_others_are_ill() {
    let house = House::new(&[(1, 1), (2, 1)], |_| OK);
    house.watched();
    let outlet = house.outlet(config(Policy::RoundRobin));
    let ask = |address: &str| Ask { args: vec![("name".into(), "s".into()), ("address".into(), address.into())], body: Bytes::new() };
    let said = house.services.serve("upstream.drain", ask("127.0.0.1:2")).await.unwrap();
    assert_eq!(said, r#"{"service":"s","endpoint":"127.0.0.1:2","drained":true,"in_flight":0}"#);
    assert_eq!(calls_for(&house, &outlet, SECOND).await.into_keys().collect::<Vec<_>>(), [1]);
    house.fake.then(|_| Does::Refuse);
    assert!(!calls_for(&house, &outlet, SECOND).await.contains_key(&2));
    house.fake.then(|_| OK);
    let list = house.services.serve("upstream.list", Ask::default()).await.unwrap();
    assert!(std::str::from_utf8(&list).unwrap().contains(r#""state":"drained""#));
    house.services.serve("upstream.undrain", ask("127.0.0.1:2")).await.unwrap();
    assert!(calls_for(&house, &outlet, SECOND).await[&2] > 40);
    for wrong in ["127.0.0.1:9", "x", ""] {
        let refused = house.services.serve("upstream.drain", ask(wrong)).await.unwrap_err();
        assert!(refused.message.contains("has no endpoint"), "{refused}");
    }
}

/// Says what a test wants of each port, and counts.
struct Asked {
    ill: Mutex<HashSet<u16>>,
    hangs: AtomicBool,
    asked: AtomicU32,
    open: AtomicU32,
    most: AtomicU32,
}

struct Open<'a>(&'a Asked);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}

impl Asked {
    fn new() -> Arc<Asked> {
        let (ill, hangs, asked, open, most) = Default::default();
        Arc::new(Asked { ill, hangs, asked, open, most })
    }

    fn ill(&self, ports: &[u16]) {
        *self.ill.lock().unwrap() = ports.iter().copied().collect();
    }
}

impl Probe for Asked {
    fn ask<'a>(&'a self, endpoint: &'a EndpointRef) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(async move {
            self.asked.fetch_add(1, Relaxed);
            self.most.fetch_max(self.open.fetch_add(1, Relaxed) + 1, Relaxed);
            let _open = Open(self);
            tokio::time::sleep(5 * MS).await;
            if self.ill.lock().unwrap().contains(&endpoint.address.port()) {
                if self.hangs.load(Relaxed) {
                    std::future::pending::<()>().await;
                }
                return Err("status 500".into());
            }
            Ok(())
        })
    }

    fn what(&self) -> &str {
        "GET /healthz"
    }
}

fn checked(probe: &Arc<Asked>) -> Care {
    let health = HealthPolicy { probe: probe.clone(), interval: 5 * SECOND, timeout: SECOND, healthy: 2, unhealthy: 3 };
    Care { health: Some(health), ..Care::default() }
}

#[tokio::test(start_paused = true)]
async fn who_answers_checks_badly_gets_no_calls_until_it_answers_well() {
    for hangs in [false, true] {
        let (house, probe) = (House::new(&[(1, 1), (2, 1), (3, 1)], |_| OK), Asked::new());
        probe.hangs.store(hangs, Relaxed);
        house.care(checked(&probe));
        house.watched();
        let outlet = house.outlet(config(Policy::RoundRobin));
        let shares = calls_for(&house, &outlet, 10 * SECOND).await;
        assert!(shares.values().all(|share| share.abs_diff(333) < 10), "{shares:?}");
        // Three bad ones in a row, five seconds apart.
        probe.ill(&[2]);
        let shares = calls_for(&house, &outlet, 25 * SECOND).await;
        assert!((200..600).contains(&shares[&2]), "hangs {hangs}: {shares:?}");
        assert_eq!(calls_for(&house, &outlet, 20 * SECOND).await.get(&2), None, "hangs {hangs}");
        assert_eq!(house.metric("wharf_upstream_endpoint_fit{service=\"s\",endpoint=\"127.0.0.1:2\"}"), 0);
        let list = house.services.serve("upstream.list", Ask::default()).await.unwrap();
        let trouble = if hangs { "no answer within 1s" } else { "status 500" };
        let list = std::str::from_utf8(&list).unwrap();
        assert!(list.contains(r#""state":"ill""#) && list.contains(trouble) && list.contains("GET /healthz"), "{list}");
        probe.ill(&[]);
        calls_for(&house, &outlet, 12 * SECOND).await;
        let shares = calls_for(&house, &outlet, 9 * SECOND).await;
        assert!(shares[&2].abs_diff(300) < 10, "hangs {hangs}: {shares:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_endpoint_waits_for_its_first_check_and_all_ill_ones_are_used_for_want_of_others() {
    let (house, probe) = (House::new(&[(1, 1), (2, 1)], |_| OK), Asked::new());
    probe.ill(&[3]);
    house.care(checked(&probe));
    // Nobody was asked yet: better than nobody.
    let outlet = house.outlet(config(Policy::RoundRobin));
    assert!(get(&outlet).await.is_ok());
    house.watched();
    calls_for(&house, &outlet, SECOND).await;
    house.tell(listed(&[(1, 1), (2, 1), (3, 1)]));
    assert_eq!(calls_for(&house, &outlet, 20 * SECOND).await.get(&3), None, "ill from its first check on");
    probe.ill(&[1, 2, 3]);
    calls_for(&house, &outlet, 20 * SECOND).await;
    let shares = calls_for(&house, &outlet, 3 * SECOND).await;
    assert!(shares.len() == 3 && shares.values().all(|share| share.abs_diff(100) < 5), "{shares:?}");
    assert_eq!(house.metric("wharf_upstream_panic{service=\"s\"}"), 1);
    // Nobody asks any more: nobody is ill.
    house.care(Care::default());
    calls_for(&house, &outlet, 2 * SECOND).await;
    assert_eq!(house.metric("wharf_upstream_panic{service=\"s\"}"), 0);
}

#[tokio::test(start_paused = true)]
async fn checks_keep_their_pace_and_are_never_too_many_at_once() {
    let all: Vec<(u16, u32)> = (1..=200).map(|port| (port, 1)).collect();
    let (house, probe) = (House::new(&all, |_| OK), Asked::new());
    house.care(checked(&probe));
    house.watched();
    tokio::time::sleep(50 * SECOND).await;
    let asked = probe.asked.load(Relaxed);
    assert!((200 * 9..=200 * 12).contains(&asked), "{asked} checks of 200 endpoints in ten intervals");
    assert!(probe.most.load(Relaxed) <= 32, "{}", probe.most.load(Relaxed));
    // All hang: each is ended by its time-out, and asked again.
    probe.ill(&(1..=200).collect::<Vec<_>>());
    probe.hangs.store(true, Relaxed);
    tokio::time::sleep(30 * SECOND).await;
    assert!(probe.asked.load(Relaxed) > asked + 200 * 3, "{}", probe.asked.load(Relaxed));
    assert!(probe.most.load(Relaxed) <= 32);
    house.services.keep_only(&HashSet::new());
    tokio::time::sleep(10 * MS).await;
    assert_eq!(probe.open.load(Relaxed), 0, "a service that is gone asks nobody");
}
