//! Where a call goes: by its key, by where it was before, by zone, by latency.

use super::*;
use crate::{Key, Sticky};
use wharf_core::head::Known;

fn zoned(port: u16, zone: &str) -> Listed {
    Listed { address: address(port), weight: 1, zone: Some(zone.into()), tags: [].into() }
}

async fn with(outlet: &ServiceOutlet<Fake>, fields: &[(&str, &str)]) -> Answer {
    let mut exchange = exchange(Method::Get, "/", Body::Empty);
    for (name, value) in fields {
        exchange.facts.request.fields.add(name.as_bytes(), value.as_bytes());
    }
    outlet.call(&mut exchange, &Wish::default()).await.ok().unwrap()
}

async fn port_of(house: &House, outlet: &ServiceOutlet<Fake>, fields: &[(&str, &str)]) -> u16 {
    house.fake.seen.take();
    with(outlet, fields).await;
    *house.fake.ports().last().unwrap()
}

#[tokio::test(start_paused = true)]
async fn one_key_leads_to_one_endpoint_on_every_core() {
    for policy in [Policy::RingHash, Policy::Maglev] {
        let all: Vec<(u16, u32)> = (1..=8).map(|port| (port, 1)).collect();
        let house = House::new(&all, |_| OK);
        house.care(Care { policy, ..Care::default() });
        let outlet = |core| {
            let config = OutletConfig { key: Key::Header("x-user".into()), ..config(policy) };
            ServiceOutlet::new(house.services.get("s").unwrap(), house.fake.clone(), config, core, None)
        };
        let cores = [outlet(0), outlet(1)];
        let mut before = Vec::new();
        for user in 0..400 {
            let user = user.to_string();
            let at = port_of(&house, &cores[0], &[("x-user", &user)]).await;
            assert_eq!(port_of(&house, &cores[1], &[("x-user", &user)]).await, at, "{policy:?}");
            before.push(at);
        }
        assert_eq!(before.iter().collect::<HashSet<_>>().len(), 8);
        // One is taken out: its keys go to others, and come back with it.
        house.services.get("s").unwrap().drain(address(3), true);
        let mut moved = 0;
        for (user, at) in before.iter().enumerate() {
            let now = port_of(&house, &cores[0], &[("x-user", &user.to_string())]).await;
            assert_ne!(now, 3);
            moved += u32::from(now != *at && *at != 3);
        }
        assert!(moved <= if policy == Policy::RingHash { 0 } else { 20 }, "{policy:?}: {moved} of 400 moved without need");
        house.services.get("s").unwrap().drain(address(3), false);
        for (user, at) in before.iter().enumerate() {
            assert_eq!(port_of(&house, &cores[1], &[("x-user", &user.to_string())]).await, *at);
        }
        // Without a key it is balanced all the same.
        house.fake.seen.take();
        for _ in 0..400 {
            with(&cores[0], &[]).await;
        }
        assert_eq!(house.fake.shares().len(), 8, "{policy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_stays_within_its_subset_and_is_tried_again_elsewhere() {
    let house = House::new(&[], |_| OK);
    house.tell((1..=6).map(|port| tagged(port, 1, if port <= 3 { "gray" } else { "v1" })).collect());
    house.care(Care { policy: Policy::Maglev, ..Care::default() });
    let outlet = house.outlet(OutletConfig { key: Key::Path, ..config(Policy::Maglev) });
    let mut gray = HashSet::new();
    for n in 0..100 {
        let mut at = HashSet::new();
        for _ in 0..3 {
            let mut exchange = exchange(Method::Get, &format!("/{n}"), Body::Empty);
            outlet.call(&mut exchange, &Wish { subset: Some("gray".into()) }).await.ok().unwrap();
            at.extend(house.fake.seen.take().iter().map(|seen| seen.port));
        }
        assert_eq!(at.len(), 1);
        gray.extend(at);
    }
    assert_eq!(gray, HashSet::from([1, 2, 3]));
    house.fake.then(|endpoint| if endpoint.address.port() == 2 { Does::Refuse } else { OK });
    for n in 0..100 {
        assert!(outlet.call(&mut exchange(Method::Get, &format!("/{n}"), Body::Empty), &Wish::default()).await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_with_the_gateways_cookie_goes_on_where_it_was() {
    let house = House::new(&[(1, 1), (2, 1), (3, 1)], |_| OK);
    let sticky = Sticky::Cookie { name: "at".into(), ttl: Some(Duration::from_secs(3600)), secure: true };
    let outlet = house.outlet(OutletConfig { sticky: Some(sticky), ..config(Policy::RoundRobin) });
    let cookie_of = |answer: &Answer| answer.head.fields.known(Known::SetCookie).map(|value| String::from_utf8(value.to_vec()).unwrap());
    house.fake.seen.take();
    let given = cookie_of(&with(&outlet, &[]).await).unwrap();
    let first = house.fake.ports()[0];
    let (pair, rest) = given.split_once("; ").unwrap();
    assert_eq!(rest, "Path=/; HttpOnly; SameSite=Lax; Max-Age=3600; Secure");
    assert!(!given.contains("127.0.0.1"));
    for _ in 0..20 {
        house.fake.seen.take();
        let again = with(&outlet, &[("cookie", &format!("a=b; {pair}"))]).await;
        assert_eq!((house.fake.ports(), cookie_of(&again)), (vec![first], None), "it is there already");
    }
    // It is gone: another one, and another cookie. So it is with one that nobody gave.
    house.services.get("s").unwrap().drain(address(first), true);
    for told in [pair, "at=0000000000000000", "at=x"] {
        house.fake.seen.take();
        let renewed = cookie_of(&with(&outlet, &[("cookie", told)]).await).unwrap();
        assert!(!renewed.starts_with(pair) && !house.fake.ports().contains(&first));
    }
    // One that does not answer is left for another, and the cookie says so.
    house.services.get("s").unwrap().drain(address(first), false);
    house.fake.then(move |endpoint| if endpoint.address.port() == first { Does::Refuse } else { OK });
    let renewed = cookie_of(&with(&outlet, &[("cookie", pair)]).await).unwrap();
    assert!(!renewed.starts_with(pair));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_repeats_the_gateways_header_goes_on_where_it_was() {
    let house = House::new(&[(1, 1), (2, 1), (3, 1)], |_| OK);
    let outlet = house.outlet(OutletConfig { sticky: Some(Sticky::Header("x-at".into())), ..config(Policy::Random) });
    let first = with(&outlet, &[]).await;
    let told = std::str::from_utf8(first.head.fields.get(b"x-at").unwrap()).unwrap();
    let at = house.fake.ports()[0];
    for _ in 0..20 {
        assert_eq!(port_of(&house, &outlet, &[("x-at", told)]).await, at);
    }
}

#[tokio::test(start_paused = true)]
async fn calls_stay_in_their_zone_and_second_tries_leave_it() {
    let house = House::new(&[], |_| OK);
    house.tell([1, 2].map(|port| zoned(port, "a")).into_iter().chain([3, 4].map(|port| zoned(port, "b"))).collect());
    house.care(Care { zone: Some("a".into()), ..Care::default() });
    let outlet = house.outlet(config(Policy::RoundRobin));
    for _ in 0..100 {
        assert!(get(&outlet).await.is_ok());
    }
    assert_eq!(house.fake.shares().into_keys().collect::<Vec<_>>(), [1, 2]);
    // Both break: nobody fails, since the other zone is there for second tries.
    house.fake.then(|endpoint| if endpoint.address.port() <= 2 { Does::Refuse } else { OK });
    for call in 0..100 {
        assert!(get(&outlet).await.is_ok(), "call {call}");
        tokio::time::advance(Duration::from_millis(20)).await;
    }
}

/// The room as a whole, on one core: one of ten is slow, one fails at once, and nobody tries again.
#[tokio::test(start_paused = true)]
async fn two_choices_send_the_slow_and_the_failing_less() {
    let run = async |policy: Policy| {
        let all: Vec<(u16, u32)> = (1..=10).map(|port| (port, 1)).collect();
        let house = House::new(&all, |endpoint| match endpoint.address.port() {
            1 => Does::Answer(Duration::from_millis(200), 200, 0),
            2 => Does::Answer(Duration::from_millis(1), 500, 0),
            _ => Does::Answer(Duration::from_millis(10), 200, 0),
        });
        let outlet = Rc::new(house.outlet(config(policy)));
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async {
                let mut calls = Vec::new();
                for _ in 0..4_000 {
                    let outlet = outlet.clone();
                    calls.push(tokio::task::spawn_local(async move { get(&outlet).await.is_ok() }));
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                for call in calls {
                    assert!(call.await.unwrap());
                }
            })
            .await;
        house.fake.shares()
    };
    let (turns, p2c) = (run(Policy::RoundRobin).await, run(Policy::P2cEwma).await);
    assert_eq!((turns[&1], turns[&2]), (400, 400));
    assert!(p2c[&1] < 40 && p2c[&2] < 40, "{p2c:?}");
    assert!((3..=10).all(|port| p2c[&port] > 300), "{p2c:?}");
}
