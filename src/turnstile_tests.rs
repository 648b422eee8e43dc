use std::task::Waker;

use proptest::prelude::*;

use super::*;

fn later(turnstile: &Arc<Turnstile>, lane: u64) -> Waiting {
    match turnstile.enter(lane) {
        Entry::Later(waiting) => waiting,
        Entry::Now(_) => panic!("a place was free"),
    }
}

fn poll(waiting: &mut Waiting) -> Option<Permit> {
    match Pin::new(waiting).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(permit) => Some(permit),
        Poll::Pending => None,
    }
}

#[test]
fn places_are_taken_and_given_back() {
    let turnstile = Turnstile::new(2);
    let first = turnstile.try_enter().unwrap();
    let second = turnstile.try_enter().unwrap();
    assert!(turnstile.try_enter().is_none());
    assert_eq!(turnstile.running(), 2);
    drop(first);
    assert_eq!(turnstile.running(), 1);
    let third = turnstile.try_enter().unwrap();
    assert!(turnstile.try_enter().is_none());
    drop((second, third));
    assert_eq!(turnstile.running(), 0);
}

#[test]
fn a_single_call_waits_no_more_than_one_turn_behind_a_greedy_lane() {
    let turnstile = Turnstile::new(1);
    let mut running = turnstile.try_enter();
    let mut greedy: Vec<Waiting> = (0..64).map(|_| later(&turnstile, 1)).collect();
    let mut single = later(&turnstile, 2);
    assert_eq!(turnstile.lock().waiting, 65);
    drop(running.take());
    running = poll(&mut greedy[0]);
    assert!(running.is_some(), "the greedy lane came first");
    drop(running.take());
    assert!(poll(&mut single).is_some(), "then it is the other's turn");
}

#[test]
fn nobody_overtakes_who_waits() {
    let turnstile = Turnstile::new(1);
    let running = turnstile.try_enter().unwrap();
    let mut waiting = later(&turnstile, 1);
    drop(running);
    assert!(turnstile.try_enter().is_none(), "the place is the waiter's");
    let permit = poll(&mut waiting).unwrap();
    drop(permit);
    assert!(turnstile.try_enter().is_some());
}

#[test]
fn who_gives_up_leaves_no_trace_and_loses_no_place() {
    let turnstile = Turnstile::new(1);
    let running = turnstile.try_enter().unwrap();
    let first = later(&turnstile, 1);
    let mut second = later(&turnstile, 1);
    // Gives up while waiting.
    drop(first);
    drop(running);
    let running = poll(&mut second).unwrap();
    // Gives up after the place was given and before it was taken.
    let given = later(&turnstile, 3);
    drop(running);
    drop(given);
    assert_eq!((turnstile.running(), turnstile.lock().waiting), (0, 0));
    assert!(turnstile.try_enter().is_some());
}

#[derive(Clone, Debug)]
enum Act {
    Come(u64),
    Go(usize),
    GiveUp(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        3 => (0..4_u64).prop_map(Act::Come),
        2 => (0..64_usize).prop_map(Act::Go),
        1 => (0..64_usize).prop_map(Act::GiveUp),
    ];
    proptest::collection::vec(act, 0..200)
}

proptest! {
    /// Against a plain model: the places never exceed their number, none is lost, and turns go round.
    #[test]
    fn turns_go_round_and_no_place_is_lost(places in 1..4_usize, acts in acts()) {
        let turnstile = Turnstile::new(places);
        let mut running: Vec<Permit> = Vec::new();
        let mut waiting: Vec<(u64, Waiting)> = Vec::new();
        for act in acts {
            match act {
                Act::Come(lane) => match turnstile.enter(lane) {
                    Entry::Now(permit) => {
                        prop_assert!(waiting.is_empty());
                        running.push(permit);
                    }
                    Entry::Later(place) => waiting.push((lane, place)),
                },
                Act::Go(index) if !running.is_empty() => {
                    drop(running.swap_remove(index % running.len()));
                }
                Act::GiveUp(index) if !waiting.is_empty() => {
                    let index = index % waiting.len();
                    waiting.remove(index);
                }
                Act::Go(_) | Act::GiveUp(_) => {}
            }
            let before = waiting.len();
            waiting.retain_mut(|(_, place)| match poll(place) {
                Some(permit) => {
                    running.push(permit);
                    false
                }
                None => true,
            });
            prop_assert!(before - waiting.len() <= 1);
            prop_assert!(running.len() <= places);
            prop_assert!(waiting.is_empty() || running.len() == places);
            prop_assert_eq!(turnstile.running(), running.len());
            prop_assert_eq!(turnstile.lock().waiting, waiting.len());
        }
        // Everybody gets through, and between two turns of one lane every other lane that waits has one.
        let mut order = Vec::new();
        while !waiting.is_empty() {
            drop(running.pop());
            let index = waiting.iter_mut().position(|(_, place)| match poll(place) {
                Some(permit) => {
                    running.push(permit);
                    true
                }
                None => false,
            });
            let (lane, place) = waiting.remove(index.expect("somebody's turn"));
            drop(place);
            order.push((lane, waiting.iter().map(|(lane, _)| *lane).collect::<Vec<_>>()));
        }
        for (turn, (lane, left)) in order.iter().enumerate() {
            for other in left.iter().filter(|other| *other != lane) {
                let next_own = order[turn + 1..].iter().position(|(of, _)| of == lane);
                let next_other = order[turn + 1..].iter().position(|(of, _)| of == other);
                if let (Some(own), Some(other)) = (next_own, next_other) {
                    prop_assert!(other < own);
                }
            }
        }
        drop(running);
        prop_assert_eq!(turnstile.running(), 0);
    }
}

#[test]
fn threads_that_come_go_and_give_up_lose_no_place() {
    let turnstile = Turnstile::new(2);
    std::thread::scope(|scope| {
        for lane in 0..4_u64 {
            let turnstile = Arc::clone(&turnstile);
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                for round in 0..2_000 {
                    match turnstile.enter(lane) {
                        Entry::Now(permit) => drop(permit),
                        Entry::Later(waiting) if round % 3 == 0 => drop(waiting),
                        Entry::Later(waiting) => drop(runtime.block_on(waiting)),
                    }
                }
            });
        }
    });
    assert_eq!((turnstile.running(), turnstile.lock().waiting), (0, 0));
}
