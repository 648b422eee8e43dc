//! The layers together.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use tokio::sync::Semaphore;

use super::{
    Cache, CacheLimits, Entry, Invalidation, Layer, Lease, SecondLayer, Wanted,
    testing::{Chosen, Text, key},
};

const WITHIN: Duration = Duration::from_secs(5);

fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

fn wanted(generation: Option<u64>) -> Wanted {
    Wanted { now: now(), generation }
}

fn entry(text: &str, generation: Option<u64>) -> Entry<Text> {
    let expires = now() + SignedDuration::from_secs(60);
    Entry { value: Arc::new(Text(text.to_owned())), generation, expires }
}

fn alone() -> Cache<Text> {
    Cache::new(CacheLimits::default(), None)
}

fn before(second: &Arc<Chosen>) -> Cache<Text> {
    Cache::new(CacheLimits::default(), Some(Arc::clone(second) as Arc<dyn SecondLayer>))
}

async fn text(cache: &Cache<Text>, name: &str, generation: Option<u64>) -> Option<(String, Layer)> {
    let found = cache.get(&key(name), wanted(generation), WITHIN).await;
    found.map(|(entry, layer)| (entry.value.0.clone(), layer))
}

/// Lets the task that hears come to what it was told.
async fn heard(cache: &Cache<Text>, invalidations: u64) {
    let by = Instant::now() + WITHIN;
    while cache.figures().invalidations < invalidations {
        assert!(Instant::now() < by, "not heard: {:?}", cache.figures());
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn an_entry_is_found_while_it_is_good() {
    let cache = alone();
    assert_eq!(text(&cache, "a", None).await, None);
    cache.put(&key("a"), entry("A", None), now(), None, WITHIN).await;
    assert_eq!(text(&cache, "a", None).await, Some(("A".to_owned(), Layer::Local)));
    assert_eq!(text(&cache, "b", None).await, None, "another key");
    let late = Wanted { now: now() + SignedDuration::from_secs(60), generation: None };
    assert!(cache.get(&key("a"), late, WITHIN).await.is_none(), "expired by the clock that it was put by");
    let figures = cache.figures();
    assert_eq!((figures.local_hits, figures.misses, figures.fills, figures.entries), (1, 3, 1, 1));
    assert!(figures.bytes > 0 && figures.stale == 0);
}

#[tokio::test]
async fn another_generation_is_a_miss_in_both_layers() {
    let second = Arc::default();
    let (one, other) = (before(&second), before(&second));
    one.put(&key("a"), entry("A", Some(7)), now(), None, WITHIN).await;
    assert_eq!(text(&one, "a", Some(7)).await, Some(("A".to_owned(), Layer::Local)));
    assert_eq!(text(&other, "a", Some(7)).await, Some(("A".to_owned(), Layer::Shared)));
    for cache in [&one, &other] {
        assert_eq!(text(cache, "a", Some(8)).await, None);
        assert_eq!(text(cache, "a", None).await, None);
        assert!(cache.figures().stale >= 2, "{:?}", cache.figures());
    }
}

#[tokio::test]
async fn nothing_is_kept_where_nothing_may_be() {
    let second = Arc::new(Chosen::default());
    let limits = CacheLimits { local_bytes_max: 0, ..CacheLimits::default() };
    let cache = Cache::new(limits, Some(Arc::clone(&second) as Arc<dyn SecondLayer>));
    cache.put(&key("a"), entry("A", None), now(), None, WITHIN).await;
    assert_eq!(text(&cache, "a", None).await, None);
    assert!(second.kept.lock().unwrap().is_empty() && second.asked.load(Ordering::SeqCst) == 0);
    assert_eq!(cache.lease(&key("a"), WITHIN, WITHIN).await, Lease::Unavailable);
}

#[tokio::test]
async fn the_first_layer_stays_within_its_bytes() {
    let limits = CacheLimits { local_bytes_max: 64 << 10, ..CacheLimits::default() };
    let cache = Cache::new(limits, None);
    for index in 0..500 {
        cache.put(&key(&format!("k{index}")), entry(&"x".repeat(1_000), None), now(), None, WITHIN).await;
    }
    let figures = cache.figures();
    assert!(figures.bytes <= 64 << 10, "{figures:?}");
    assert!(figures.evictions >= 400 && figures.entries <= 64, "{figures:?}");
    cache.put(&key("vast"), entry(&"x".repeat(100 << 10), None), now(), None, WITHIN).await;
    assert!(cache.figures().bytes <= 64 << 10);
}

#[tokio::test]
async fn a_value_too_large_for_the_second_layer_stays_in_the_first() {
    let second = Arc::new(Chosen::default());
    let limits = CacheLimits { value_bytes_max: 1 << 10, ..CacheLimits::default() };
    let cache = Cache::new(limits, Some(Arc::clone(&second) as Arc<dyn SecondLayer>));
    cache.put(&key("a"), entry(&"x".repeat(2_000), None), now(), None, WITHIN).await;
    assert!(second.kept.lock().unwrap().is_empty());
    assert!(matches!(text(&cache, "a", None).await, Some((_, Layer::Local))));
}

#[tokio::test]
async fn what_another_instance_puts_replaces_what_is_kept_here() {
    let second = Arc::default();
    let (one, other) = (before(&second), before(&second));
    one.put(&key("a"), entry("old", None), now(), None, WITHIN).await;
    assert_eq!(text(&other, "a", None).await, Some(("old".to_owned(), Layer::Shared)));
    assert_eq!(text(&other, "a", None).await, Some(("old".to_owned(), Layer::Local)));
    one.put(&key("b"), entry("B", None), now(), None, WITHIN).await;
    heard(&other, 1).await;
    one.put(&key("a"), entry("new", None), now(), None, WITHIN).await;
    heard(&other, 2).await;
    assert_eq!(text(&other, "a", None).await, Some(("new".to_owned(), Layer::Shared)));
    // This second layer tells who put it as well; then it is read back.
    heard(&one, 3).await;
    for (name, put) in [("a", "new"), ("b", "B")] {
        assert_eq!(text(&one, name, None).await, Some((put.to_owned(), Layer::Shared)));
        assert_eq!(text(&one, name, None).await, Some((put.to_owned(), Layer::Local)));
    }
}

#[tokio::test]
async fn everything_goes_when_it_is_unknown_what_changed() {
    let second = Arc::new(Chosen::default());
    let cache = before(&second);
    for name in ["a", "b", "c"] {
        cache.put(&key(name), entry(name, None), now(), None, WITHIN).await;
    }
    heard(&cache, 3).await;
    for name in ["a", "b", "c"] {
        assert_eq!(text(&cache, name, None).await, Some((name.to_owned(), Layer::Shared)));
    }
    second.kept.lock().unwrap().clear();
    second.told.send(Invalidation::Everything).unwrap();
    heard(&cache, 6).await;
    for name in ["a", "b", "c"] {
        assert_eq!(text(&cache, name, None).await, None, "{name}");
    }
}

#[tokio::test]
async fn an_invalidation_between_reading_and_filling_is_not_lost() {
    for told in [Invalidation::Entry(*key("a").digest()), Invalidation::Everything] {
        let second = Arc::new(Chosen::default());
        let writer = before(&second);
        writer.put(&key("a"), entry("old", None), now(), None, WITHIN).await;
        writer.put(&key("witness"), entry("w", None), now(), None, WITHIN).await;
        let reader = Arc::new(before(&second));
        assert!(text(&reader, "witness", None).await.is_some(), "it listens");
        // The answer was read in the second layer, and does not arrive yet.
        second.answers.forget_permits(Semaphore::MAX_PERMITS);
        let asked = second.asked.load(Ordering::SeqCst);
        let reading = tokio::spawn({
            let reader = Arc::clone(&reader);
            async move { text(&reader, "a", None).await }
        });
        while second.asked.load(Ordering::SeqCst) == asked {
            tokio::task::yield_now().await;
        }
        second.told.send(told).unwrap();
        heard(&reader, 1).await;
        second.answers.add_permits(1_000);
        assert_eq!(reading.await.unwrap(), Some(("old".to_owned(), Layer::Shared)));
        second.kept.lock().unwrap().clear();
        assert_eq!(text(&reader, "a", None).await, None, "what was read before did not stay");
    }
}

#[tokio::test]
async fn one_instance_makes_what_the_others_wait_for() {
    let second = Arc::default();
    let (maker, waiter) = (before(&second), Arc::new(before(&second)));
    let Lease::Taken(lease) = maker.lease(&key("a"), WITHIN, WITHIN).await else { panic!("free") };
    assert_eq!(waiter.lease(&key("a"), WITHIN, WITHIN).await, Lease::Held);
    let waiting = tokio::spawn({
        let waiter = Arc::clone(&waiter);
        async move { waiter.await_shared(&key("a"), wanted(None), Instant::now() + WITHIN, WITHIN).await }
    });
    tokio::task::yield_now().await;
    maker.put(&key("a"), entry("made", None), now(), Some(lease), WITHIN).await;
    maker.give_back(&key("a"), lease, WITHIN).await;
    assert_eq!(waiting.await.unwrap().unwrap().value.0, "made");
    // A lease that was taken since refuses what an earlier holder puts late, there; here its own answer stays.
    let Lease::Taken(later) = waiter.lease(&key("a"), WITHIN, WITHIN).await else { panic!("given back") };
    assert!(later > lease);
    maker.put(&key("a"), entry("late", None), now(), Some(lease), WITHIN).await;
    let fresh = before(&second);
    assert_eq!(text(&fresh, "a", None).await, Some(("made".to_owned(), Layer::Shared)));
    let soon = Instant::now() + Duration::from_millis(30);
    assert!(waiter.await_shared(&key("never"), wanted(None), soon, WITHIN).await.is_none());
}
