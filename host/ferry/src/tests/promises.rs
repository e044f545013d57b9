//! What the ferry promises, one by one.

use super::bus::is_done;
use super::world::{PARTITIONS, Said, TOPIC, World, run, run_by_the_wall};
use bytes::Bytes;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::sleep;
use wharf_core::bus::{Bus, Parcel};

fn text(said: &Said) -> (u16, String) {
    match said {
        Said::Answer(status, body) => (*status, String::from_utf8(body.to_vec()).unwrap()),
        Said::Code(code, why) => (*code, why.clone()),
        other => panic!("{other:?}"),
    }
}

/// Every message is done, on every partition.
fn all_done(world: &World) {
    for message in world.bus.all(TOPIC) {
        let place = message.place;
        assert!(is_done(&world.bus.standing(TOPIC, "far", place.partition), place.offset), "{place:?} is stuck");
    }
}

#[test]
fn a_caller_gets_the_answer_to_its_own_request() {
    run(1, |world| async move {
        world.start_near();
        let _far = world.start_far("far-1", |_| {});
        let calls = (0..200).map(|number| {
            let world = world.clone();
            async move {
                let tag = format!("/{number}");
                let said = world.call(&tag, |call| call.body = Bytes::from(" and its body")).await;
                assert_eq!(text(&said), (200, format!("{tag} and its body")));
            }
        });
        futures_util::future::join_all(calls).await;
        assert!(world.service.calls.borrow().values().all(|calls| *calls == 1) && world.service.calls.borrow().len() == 200);
        sleep(Duration::from_secs(1)).await;
        all_done(&world);
    });
}

#[test]
fn a_large_body_and_a_large_answer_arrive_whole() {
    run_by_the_wall(2, |world| async move {
        world.start_near();
        let _far = world.start_far("far-1", |_| {});
        let body: Bytes = (0..100_000u32).flat_map(u32::to_be_bytes).collect::<Vec<u8>>().into();
        let sent = body.clone();
        let Said::Answer(200, got) = world.call("/large", |call| call.body = sent).await else { panic!("no answer") };
        assert_eq!(&got[..6], b"/large");
        assert!(got[6..] == body[..], "{} bytes came back", got.len());
        sleep(Duration::from_secs(1)).await;
        all_done(&world);
    });
}

#[test]
fn messages_of_one_order_are_done_one_after_the_other_and_others_beside_them() {
    run(3, |world| async move {
        world.start_near();
        let _far = world.start_far("far-1", |_| {});
        let calls = (0..60).map(|number| {
            let world = world.clone();
            async move {
                let order = number % 3;
                world.call(&format!("/{order}/{number:03}"), |call| call.order = Some(order.to_string())).await
            }
        });
        futures_util::future::join_all(calls).await;
        let done = world.service.order.borrow();
        for order in 0..3 {
            let of: Vec<&String> = done.iter().filter(|tag| tag.starts_with(&format!("/{order}/"))).collect();
            assert!(of.len() == 20 && of.is_sorted(), "{of:?}");
        }
        assert!((2..=3).contains(&world.service.beside_max.get()));
    });
}

#[test]
fn a_request_with_a_key_is_done_once_and_its_like_get_its_answer() {
    run(4, |world| async move {
        world.start_near();
        let far = world.start_far("far-1", |_| {});
        let keyed = |key: &'static str, body: &'static str| {
            let world = world.clone();
            async move { world.call("/pay", |call| (call.key, call.body) = (Some(key.into()), Bytes::from(body))).await }
        };
        let (first, second) = futures_util::future::join(keyed("k", "5"), keyed("k", "5")).await;
        assert_eq!((text(&first), text(&second)), ((200, "/pay5".into()), (200, "/pay5".into())));
        assert_eq!(world.service.calls.borrow()["/pay"], 1);
        assert_eq!(text(&keyed("k", "6").await), (200, "/pay6".into()), "another body is another request");
        assert_eq!(world.service.calls.borrow()["/pay"], 2);
        // Whoever has the partition next knows it, too.
        far.kill();
        let _other = world.start_far("far-2", |_| {});
        assert_eq!(text(&keyed("k", "5").await), (200, "/pay5".into()));
        assert_eq!(world.service.calls.borrow()["/pay"], 2);
    });
}

#[test]
fn what_a_crash_made_unknown_is_told_and_put_aside_and_not_done_again() {
    run(5, |world| async move {
        world.start_near();
        world.service.takes.set(Duration::from_secs(3));
        let far = world.start_far("far-1", |_| {});
        let calling = {
            let world = world.clone();
            tokio::task::spawn_local(async move { world.call("/a", |_| {}).await })
        };
        while world.service.calls.borrow().is_empty() {
            sleep(Duration::from_millis(1)).await;
        }
        far.kill();
        let _other = world.start_far("far-2", |_| {});
        let said = calling.await.unwrap();
        assert!(matches!(&said, Said::Code(5000, why) if why.contains("outcome unknown")), "{said:?}");
        assert_eq!(world.service.calls.borrow()["/a"], 1);
        let parked = world.bus.all("requests-parked");
        assert_eq!((parked.len(), &*parked[0].fields[0].1), (1, &b"outcome unknown"[..]));
        sleep(Duration::from_secs(1)).await;
        all_done(&world);
    });
}

#[test]
fn a_service_that_knows_keys_is_asked_again_after_a_crash() {
    run(6, |world| async move {
        world.start_near();
        world.service.takes.set(Duration::from_secs(2));
        world.service.knows_keys.set(true);
        let far = world.start_far("far-1", |config| config.repeats_unknown = true);
        let calling = {
            let world = world.clone();
            tokio::task::spawn_local(async move { world.call("/a", |call| call.key = Some("k".into())).await })
        };
        while world.service.calls.borrow().is_empty() {
            sleep(Duration::from_millis(1)).await;
        }
        far.kill();
        let _other = world.start_far("far-2", |config| config.repeats_unknown = true);
        assert_eq!(text(&calling.await.unwrap()), (200, "/a".into()));
        assert_eq!((world.service.calls.borrow()["/a"], world.service.effects.borrow()["/a"]), (2, 1));
    });
}

#[test]
fn nobody_is_called_for_a_request_that_nobody_waits_for_any_more() {
    run(7, |world| async move {
        world.start_near();
        let said = world.call("/late", |call| call.wait = Duration::from_secs(1)).await;
        assert!(matches!(said, Said::Code(2001, _)), "{said:?}");
        let _far = world.start_far("far-1", |_| {});
        sleep(Duration::from_secs(1)).await;
        assert!(world.service.calls.borrow().is_empty());
        all_done(&world);
    });
}

#[test]
fn a_request_that_nobody_waits_for_is_tried_until_a_service_is_there() {
    run(8, |world| async move {
        world.start_near();
        let _far = world.start_far("far-1", |_| {});
        world.service.refuses.set(2);
        let said = world.call("/a", |call| call.is_async = true).await;
        assert_eq!(text(&said).0, 202);
        sleep(Duration::from_secs(2)).await;
        assert_eq!(world.service.effects.borrow()["/a"], 1);
        // One that is there again too late.
        world.service.refuses.set(3);
        world.call("/b", |call| call.is_async = true).await;
        sleep(Duration::from_secs(2)).await;
        assert!(!world.service.effects.borrow().contains_key("/b"));
        let parked = world.bus.all("requests-parked");
        assert_eq!((parked.len(), &*parked[0].fields[0].1), (1, &b"connect"[..]));
        all_done(&world);
    });
}

#[test]
fn what_is_no_message_is_put_aside_and_blocks_nobody() {
    run(9, |world| async move {
        world.start_near();
        for (partition, value) in [(0, &b"{\"key\":1}"[..]), (1, b"WFRY\x02\x01"), (2, b"WFRY\x01\x01\xff"), (0, b"")] {
            world.bus.sink().send(Parcel::new(TOPIC.into(), partition, Bytes::from_static(value)), Box::new(|_| {})).unwrap();
        }
        let _far = world.start_far("far-1", |_| {});
        let calls = (0..PARTITIONS * 5).map(|number| {
            let world: Rc<World> = world.clone();
            async move { world.call(&format!("/{number}"), |_| {}).await }
        });
        for said in futures_util::future::join_all(calls).await {
            assert_eq!(text(&said).0, 200);
        }
        sleep(Duration::from_secs(1)).await;
        assert_eq!(world.bus.all("requests-parked").len(), 4);
        all_done(&world);
    });
}

#[test]
fn a_bus_that_is_away_is_waited_for_and_nothing_is_lost_or_doubled() {
    run(10, |world| async move {
        world.start_near();
        let _far = world.start_far("far-1", |_| {});
        assert_eq!(text(&world.call("/before", |_| {}).await).0, 200);
        world.bus.set_down(true);
        let said = world.call("/while", |call| call.wait = Duration::from_secs(2)).await;
        assert!(matches!(said, Said::Code(2002, _)), "{said:?}");
        sleep(Duration::from_secs(60)).await;
        world.bus.set_down(false);
        assert_eq!(text(&world.call("/after", |_| {}).await), (200, "/after".into()));
        assert_eq!(world.service.calls.borrow().values().copied().collect::<Vec<_>>(), [1, 1]);
    });
}

#[test]
fn a_partition_changes_hands_without_a_message_done_twice_or_not_at_all() {
    run(11, |world| async move {
        world.start_near();
        let _one = world.start_far("far-1", |_| {});
        let calling: Vec<_> = (0..300)
            .map(|number| {
                let world = world.clone();
                tokio::task::spawn_local(async move {
                    sleep(Duration::from_millis(number * 3)).await;
                    world.call(&format!("/{number}"), |_| {}).await
                })
            })
            .collect();
        sleep(Duration::from_millis(200)).await;
        let other = world.start_far("far-2", |_| {});
        for _ in 0..5 {
            sleep(Duration::from_millis(100)).await;
            world.bus.rebalance(true);
        }
        for calling in calling {
            assert_eq!(text(&calling.await.unwrap()).0, 200);
        }
        assert!(world.service.calls.borrow().values().all(|calls| *calls == 1));
        drop(other);
    });
}
