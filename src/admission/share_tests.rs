use futures_util::poll;

use super::*;

const PLACES: usize = 2;
const WAITING_MAX: usize = 4;
const GREEDY: u64 = 1;
const OTHER: u64 = 2;

/// Both connections have just had a call, and none runs.
fn both_at_work(now: Instant) -> Shares {
    let shares = Shares::of(PLACES, WAITING_MAX);
    for lane in [GREEDY, OTHER] {
        assert!(shares.try_enter(lane, now).is_some());
    }
    shares
}

async fn enter(shares: &Shares, lane: u64) -> Share {
    shares.wait(lane).unwrap().share().await
}

#[tokio::test]
async fn who_works_alone_never_waits() {
    let shares = Shares::of(PLACES, WAITING_MAX);
    let now = Instant::now();
    let running: Vec<_> = (0..64).map(|_| shares.try_enter(GREEDY, now)).collect();
    assert!(running.iter().all(Option::is_some));
    // Nor where the other has had nothing to do for a while.
    drop(running);
    drop(shares.try_enter(OTHER, now));
    let later = now + RECENT;
    let running: Vec<_> = (0..64).map(|_| shares.try_enter(GREEDY, later)).collect();
    assert!(running.iter().all(Option::is_some));
}

#[tokio::test]
async fn beside_others_as_many_are_begun_as_there_are_places_and_the_others_do_not_wait() {
    let now = Instant::now();
    let shares = both_at_work(now);
    let mut running: Vec<_> = (0..PLACES).map(|_| shares.try_enter(GREEDY, now).unwrap()).collect();
    assert!(shares.try_enter(GREEDY, now).is_none());
    let mut first = Box::pin(enter(&shares, GREEDY));
    let mut second = Box::pin(enter(&shares, GREEDY));
    assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
    assert!(shares.try_enter(OTHER, now).is_some());
    running.pop();
    assert!(poll!(&mut second).is_pending(), "it came later");
    let begun = first.await;
    assert!(poll!(&mut second).is_pending(), "the place is the first one's");
    drop(begun);
    drop(second.await);
}

#[tokio::test]
async fn a_call_that_takes_its_time_has_its_place_for_a_moment() {
    let now = Instant::now();
    let shares = both_at_work(now);
    let _long: Vec<_> = (0..PLACES).map(|_| shares.try_enter(GREEDY, now)).collect();
    assert!(shares.try_enter(GREEDY, now + HELD_MAX / 2).is_none());
    let _next = enter(&shares, GREEDY).await;
    assert!(now.elapsed() >= HELD_MAX, "{:?}", now.elapsed());
    assert!(shares.try_enter(GREEDY, now + HELD_MAX).is_some());
}

#[tokio::test]
async fn who_gives_up_waiting_leaves_the_line() {
    let now = Instant::now();
    let shares = both_at_work(now);
    let running: Vec<_> = (0..PLACES).map(|_| shares.try_enter(GREEDY, now)).collect();
    let mut given_up = Box::pin(enter(&shares, GREEDY));
    let mut next = Box::pin(enter(&shares, GREEDY));
    assert!(poll!(&mut given_up).is_pending() && poll!(&mut next).is_pending());
    assert_eq!(shares.waiting(), 2);
    drop(given_up);
    assert_eq!(shares.waiting(), 1);
    drop(running);
    drop(next.await);
    assert_eq!(shares.waiting(), 0);
    let all: Vec<_> = (0..PLACES).map(|_| shares.try_enter(GREEDY, now)).collect();
    assert!(all.iter().all(Option::is_some));
}

#[test]
fn a_line_has_an_end() {
    let shares = Shares::of(PLACES, WAITING_MAX);
    let mut waiting: Vec<_> = (0..WAITING_MAX).map(|_| shares.wait(GREEDY).unwrap()).collect();
    assert!(shares.wait(GREEDY).is_none());
    assert!(shares.wait(OTHER).is_some(), "each has its own");
    waiting.pop();
    assert!(shares.wait(GREEDY).is_some());
    assert_eq!(shares.waiting(), WAITING_MAX - 1);
}

#[test]
fn lanes_that_nobody_is_in_are_forgotten() {
    let shares = Shares::of(PLACES, WAITING_MAX);
    let now = Instant::now();
    let held = shares.try_enter(0, now);
    for lane in 1..3 * LANES_MAX as u64 {
        drop(shares.try_enter(lane, now));
    }
    let state = shares.state();
    assert!(state.lanes.len() <= LANES_MAX);
    assert!(state.lanes.contains_key(&0), "somebody is in it");
    drop(state);
    assert!(held.is_some());
}
