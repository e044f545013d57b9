//! The contract of the door `Store`: what every adapter promises. `suite` takes any of them.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "clippy.toml frees tests, but takes only functions marked as tests for tests"
)]

use bytes::Bytes;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wharf_core::store::{KEY_MAX, Store, StoreError, VALUE_MAX};
use wharf_embedded::kv::{Durability, Kv, KvConfig};

/// Runs the whole contract; `make` gives an empty store each time.
fn suite(make: impl Fn() -> Arc<dyn Store>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_all().build().unwrap();
    runtime.block_on(async {
        what_is_set_is_read_and_what_is_deleted_is_gone(make()).await;
        namespaces_do_not_see_each_other(make()).await;
        compare_and_set_changes_only_what_was_expected(make()).await;
        a_counter_counts_and_anything_else_is_not_a_counter(make()).await;
        what_has_a_ttl_ends_not_before_and_not_much_after(make()).await;
        keys_and_values_have_limits(make()).await;
        any_bytes_come_back_as_they_were(make()).await;
        racing_increments_lose_nothing(make()).await;
        one_of_many_racers_wins_a_compare_and_set(make()).await;
        a_dropped_write_harms_nobody(make()).await;
    });
}

fn b(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

async fn what_is_set_is_read_and_what_is_deleted_is_gone(store: Arc<dyn Store>) {
    assert_eq!(store.get("n", "k").await, Ok(None));
    assert_eq!(store.delete("n", "k").await, Ok(false));
    for value in ["1", "", "2"] {
        store.set("n", "k", b(value), None).await.unwrap();
        assert_eq!(store.get("n", "k").await, Ok(Some(b(value))));
    }
    assert_eq!(store.delete("n", "k").await, Ok(true));
    assert_eq!(store.get("n", "k").await, Ok(None));
    assert_eq!(store.delete("n", "k").await, Ok(false));
}

async fn namespaces_do_not_see_each_other(store: Arc<dyn Store>) {
    store.set("a", "bk", b("1"), None).await.unwrap();
    store.set("ab", "k", b("2"), None).await.unwrap();
    assert_eq!(store.get("a", "bk").await, Ok(Some(b("1"))));
    assert_eq!(store.get("ab", "k").await, Ok(Some(b("2"))));
    assert_eq!(store.get("b", "k").await, Ok(None));
    assert_eq!(store.delete("a", "k").await, Ok(false));
}

async fn compare_and_set_changes_only_what_was_expected(store: Arc<dyn Store>) {
    assert_eq!(store.compare_and_set("n", "k", Some(b("1")), b("2"), None).await, Ok(false));
    assert_eq!(store.compare_and_set("n", "k", None, b("1"), None).await, Ok(true));
    assert_eq!(store.compare_and_set("n", "k", None, b("2"), None).await, Ok(false));
    assert_eq!(store.compare_and_set("n", "k", Some(b("")), b("2"), None).await, Ok(false));
    assert_eq!(store.get("n", "k").await, Ok(Some(b("1"))));
    assert_eq!(store.compare_and_set("n", "k", Some(b("1")), b("2"), None).await, Ok(true));
    assert_eq!(store.get("n", "k").await, Ok(Some(b("2"))));
}

async fn a_counter_counts_and_anything_else_is_not_a_counter(store: Arc<dyn Store>) {
    assert_eq!(store.increment("n", "c", 5, None).await, Ok(5));
    assert_eq!(store.increment("n", "c", -7, None).await, Ok(-2));
    assert_eq!(store.get("n", "c").await, Ok(Some(b("-2"))), "a counter reads as decimal text");
    assert_eq!(store.increment("n", "c", i64::MIN, None).await, Ok(i64::MIN), "it saturates");
    store.set("n", "c", b("41"), None).await.unwrap();
    assert_eq!(store.increment("n", "c", 1, None).await, Ok(42), "text that is a number is a counter");
    store.set("n", "c", b("many"), None).await.unwrap();
    assert_eq!(store.increment("n", "c", 1, None).await, Err(StoreError::NotACounter));
    assert_eq!(store.get("n", "c").await, Ok(Some(b("many"))));
}

async fn what_has_a_ttl_ends_not_before_and_not_much_after(store: Arc<dyn Store>) {
    // A machine that stands still for longer than the time to live shows nothing; then it is tried with a longer one.
    for (round, ttl) in [300, 3_000, 30_000].map(Duration::from_millis).into_iter().enumerate() {
        if ttl_round(&*store, &format!("{round}"), ttl).await {
            return;
        }
    }
    panic!("four writes took longer than half a minute");
}

/// `false`: the writes took longer than the ttl.
async fn ttl_round(store: &dyn Store, namespace: &str, ttl: Duration) -> bool {
    let started = Instant::now();
    store.set(namespace, "set", b("1"), Some(ttl)).await.unwrap();
    store.compare_and_set(namespace, "cas", None, b("1"), Some(ttl)).await.unwrap();
    store.increment(namespace, "count", 1, Some(ttl)).await.unwrap();
    let sum = store.increment(namespace, "count", 1, Some(Duration::from_secs(3600))).await;
    store.set(namespace, "kept", b("1"), Some(ttl)).await.unwrap();
    store.set(namespace, "kept", b("2"), None).await.unwrap();
    let made = Instant::now();
    if made - started >= ttl {
        return false;
    }
    assert_eq!(sum, Ok(2));
    for key in ["set", "cas", "count"] {
        // What is waited for is the end of a time, so this looks until it has come. The second increment asked for an
        // hour: a counter's ttl counts from its creation.
        while store.get(namespace, key).await.unwrap().is_some() {
            assert!(made.elapsed() < ttl + Duration::from_secs(5), "{key} does not end");
            tokio::task::yield_now().await;
        }
        assert!(started.elapsed() >= ttl, "{key} ended early");
    }
    assert_eq!(store.get(namespace, "kept").await, Ok(Some(b("2"))), "setting anew without a ttl takes the end away");
    assert_eq!(store.delete(namespace, "set").await, Ok(false), "what has ended is not there");
    assert_eq!(store.compare_and_set(namespace, "cas", None, b("2"), None).await, Ok(true));
    assert_eq!(store.increment(namespace, "count", 7, None).await, Ok(7));
    true
}

async fn keys_and_values_have_limits(store: Arc<dyn Store>) {
    let key = "k".repeat(KEY_MAX);
    store.set("n", &key, vec![7; VALUE_MAX].into(), None).await.unwrap();
    assert_eq!(store.get("n", &key).await.unwrap().unwrap().len(), VALUE_MAX);
    let long = "k".repeat(KEY_MAX + 1);
    let too_large = |said: Result<(), StoreError>| assert!(matches!(said, Err(StoreError::TooLarge(_))), "{said:?}");
    for key in ["", long.as_str()] {
        too_large(store.get("n", key).await.map(drop));
        too_large(store.set("n", key, b(""), None).await);
        too_large(store.delete("n", key).await.map(drop));
        too_large(store.compare_and_set("n", key, None, b(""), None).await.map(drop));
        too_large(store.increment("n", key, 1, None).await.map(drop));
    }
    too_large(store.set("n", "k", vec![7; VALUE_MAX + 1].into(), None).await);
    too_large(store.compare_and_set("n", "k", None, vec![7; VALUE_MAX + 1].into(), None).await.map(drop));
    assert_eq!(store.get("n", "k").await, Ok(None));
}

async fn any_bytes_come_back_as_they_were(store: Arc<dyn Store>) {
    let value: Bytes = (0..=255).collect::<Vec<u8>>().into();
    for key in ["\0", "é/ /\u{7f}", "k\n"] {
        store.set("n", key, value.clone(), None).await.unwrap();
        assert_eq!(store.get("n", key).await, Ok(Some(value.clone())));
    }
}

async fn racing_increments_lose_nothing(store: Arc<dyn Store>) {
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut sums = Vec::new();
                for _ in 0..50 {
                    sums.push(store.increment("n", "c", 1, None).await.unwrap());
                }
                sums
            })
        })
        .collect();
    let mut sums = Vec::new();
    for task in tasks {
        let mine = task.await.unwrap();
        assert!(mine.is_sorted());
        sums.extend(mine);
    }
    sums.sort_unstable();
    assert!(sums.iter().copied().eq(1..=400), "every sum is given once");
}

async fn one_of_many_racers_wins_a_compare_and_set(store: Arc<dyn Store>) {
    for round in 0..20 {
        let key = format!("lock-{round}");
        let tasks: Vec<_> = (0..8)
            .map(|racer| {
                let (store, key) = (store.clone(), key.clone());
                tokio::spawn(async move { (racer, store.compare_and_set("n", &key, None, racer.to_string().into(), None).await.unwrap()) })
            })
            .collect();
        let mut winners = Vec::new();
        for task in tasks {
            let (racer, won) = task.await.unwrap();
            winners.extend(won.then_some(racer));
        }
        assert_eq!(winners.len(), 1);
        assert_eq!(store.get("n", &key).await, Ok(Some(winners[0].to_string().into())));
    }
}

async fn a_dropped_write_harms_nobody(store: Arc<dyn Store>) {
    for n in 0..50 {
        let mut write = store.set("n", "k", n.to_string().into(), None);
        let _ = std::future::poll_fn(|task| std::task::Poll::Ready(write.as_mut().poll(task))).await;
        drop(write);
    }
    store.set("n", "k", b("last"), None).await.unwrap();
    assert_eq!(store.get("n", "k").await, Ok(Some(b("last"))));
}

#[test]
fn the_store_in_memory_keeps_the_contract() {
    suite(|| Arc::new(Kv::open(KvConfig::new(Durability::Memory)).unwrap()));
}

#[test]
fn the_synced_store_keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let number = std::sync::atomic::AtomicU32::new(0);
    suite(|| {
        let number = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Arc::new(Kv::open(KvConfig::new(Durability::Synced(folder.path().join(number.to_string())))).unwrap())
    });
}
