//! Ten thousand fates: callers with and without keys while nodes are killed, partitions change hands and the bus fails, each
//! by its seed, and after each what must hold. `WHARF_SEED=N` runs one of them.

use super::bus::{CHANCE, Faults, is_done};
use super::world::{Said, TOPIC, World, run};
use std::rc::Rc;
use std::time::Duration;
use tokio::task::spawn_local;
use tokio::time::sleep;
use wharf_core::bus::Bus as _;

/// Fates in one run: all are different, and the same in every run.
const SEEDS: u64 = 10_000;

fn chance(bound: u64) -> u64 {
    CHANCE.with_borrow_mut(|chance| chance.below(bound))
}

/// What a caller knows in the end.
struct Told {
    tag: String,
    keyed: bool,
    said: Said,
    /// It has been told nothing, or that it is not known, before.
    asked: u32,
}

/// Asks until it is told something that is final: who has a key asks again whenever it was told nothing that is.
async fn insist(world: Rc<World>, number: u64) -> Told {
    let keyed = chance(2) == 0;
    let tag = format!("/{number}");
    let order = (chance(3) == 0).then(|| chance(2).to_string());
    sleep(Duration::from_millis(chance(1_500))).await;
    let mut asked = 0;
    loop {
        asked += 1;
        let said = world
            .call(&tag, |call| {
                call.key = keyed.then(|| format!("key-{number}"));
                call.order = order.clone();
                call.wait = Duration::from_millis(1_500);
            })
            .await;
        let open = matches!(said, Said::Broken | Said::Code(2001 | 2002, _));
        if !(keyed && open) || asked > 60 {
            return Told { tag, keyed, said, asked };
        }
        sleep(Duration::from_millis(100)).await;
    }
}

fn live(seed: u64) {
    run(seed, |world| async move {
        let knows_keys = chance(2) == 0;
        world.service.knows_keys.set(knows_keys);
        let far = |name: &str| world.start_far(name, |config| config.repeats_unknown = knows_keys);
        world.start_near();
        let mut fars = vec![far("far-1"), far("far-2")];
        let callers: Vec<_> = (0..8).map(|number| spawn_local(insist(world.clone(), number))).collect();
        world.bus.set_faults(Faults { sends: [0, 10, 30][chance(3) as usize], notes: [0, 10, 30][chance(3) as usize] });
        for _ in 0..chance(8) {
            sleep(Duration::from_millis(chance(400))).await;
            match chance(5) {
                0 => {
                    let at = chance(fars.len() as u64) as usize;
                    fars.swap_remove(at).kill();
                    sleep(Duration::from_millis(chance(100))).await;
                    fars.push(far("far-again"));
                }
                1 => {
                    world.kill_near();
                    sleep(Duration::from_millis(chance(100))).await;
                    world.start_near();
                }
                2 => world.bus.rebalance(true),
                // As after a pause of the whole machine: the one that had it does not know yet.
                3 => world.bus.rebalance(false),
                _ => {
                    world.bus.set_down(true);
                    sleep(Duration::from_millis(chance(2_000))).await;
                    world.bus.set_down(false);
                }
            }
        }
        world.bus.set_faults(Faults::default());
        let mut told = Vec::new();
        for caller in callers {
            told.push(caller.await.unwrap());
        }
        // Whatever is still on its way ends.
        sleep(Duration::from_secs(30)).await;

        let (calls, effects) = (world.service.calls.borrow(), world.service.effects.borrow());
        for Told { tag, keyed, said, asked } in &told {
            let (calls, effects) = (calls.get(tag).copied().unwrap_or(0), effects.get(tag).copied().unwrap_or(0));
            let context = format!(
                "seed {seed}: {tag} (key: {keyed}, service knows keys: {knows_keys}) asked {asked} times, was told {said:?}; {calls} calls, {effects} effects"
            );
            assert!(effects <= 1, "doubled: {context}");
            assert!(calls <= 1 || *keyed && knows_keys, "called twice: {context}");
            match said {
                Said::Answer(200, body) => {
                    assert_eq!(&**body, tag.as_bytes(), "foreign: {context}");
                    assert_eq!(effects, 1, "untrue: {context}");
                }
                Said::Code(5000, why) if why.contains("outcome unknown") => {
                    assert!(!(*keyed && knows_keys), "it could have been asked again: {context}");
                    assert!(
                        world
                            .bus
                            .all("requests-parked")
                            .iter()
                            .any(|message| message.fields.iter().any(|(_, value)| &**value == b"outcome unknown")),
                        "{context}"
                    );
                }
                Said::Code(2001 | 2002, _) | Said::Broken if !keyed => {}
                other => panic!("{other:?}: {context}"),
            }
        }
        for message in world.bus.all(TOPIC) {
            let (partition, offset) = (message.place.partition, message.place.offset);
            let standing = world.bus.standing(TOPIC, "far", partition);
            assert!(is_done(&standing, offset), "seed {seed}: {partition}@{offset} is stuck: {standing:?}");
        }
        let _ = world.bus.sink();
    });
}

#[test]
fn whatever_fails_nothing_is_lost_doubled_or_mistaken() {
    if let Some(seed) = std::env::var("WHARF_SEED").ok().and_then(|seed| seed.parse().ok()) {
        return live(seed);
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    std::thread::scope(|scope| {
        let running: Vec<_> =
            (0..threads).map(|first| scope.spawn(move || (first..SEEDS).step_by(threads as usize).for_each(live))).collect();
        running.into_iter().for_each(|thread| thread.join().unwrap());
    });
}
