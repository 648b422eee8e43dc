//! Lets so many run at once, and those that wait in by turns: one of each lane, then the next of each.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use tokio::sync::oneshot;

/// Set in [`Turnstile::state`] while anybody waits. Then no place is free, and only who holds the lock changes the state.
const LINE: usize = 1;
/// One free place in [`Turnstile::state`].
const PLACE: usize = 2;

/// The turnstile. Without anybody waiting, coming and going is one atomic exchange each.
pub(crate) struct Turnstile {
    /// Free places times [`PLACE`], or [`LINE`].
    state: AtomicUsize,
    line: Mutex<Line>,
    places: usize,
}

/// Who waits. A lane is in `turns` exactly once while somebody waits in it.
#[derive(Default)]
struct Line {
    lanes: HashMap<u64, VecDeque<Waiter>>,
    turns: VecDeque<u64>,
    waiting: usize,
    next_ticket: u64,
}

struct Waiter {
    ticket: u64,
    permit: oneshot::Sender<Permit>,
}

/// The right to run; given back by dropping it.
#[must_use = "the place is given back when this is dropped"]
pub(crate) struct Permit(Option<Arc<Turnstile>>);

/// What somebody gets who comes.
pub(crate) enum Entry {
    /// A place.
    Now(Permit),
    /// A place later.
    Later(Waiting),
}

/// A place in the line, left by dropping it.
pub(crate) struct Waiting {
    turnstile: Arc<Turnstile>,
    lane: u64,
    ticket: u64,
    permit: oneshot::Receiver<Permit>,
}

impl Turnstile {
    /// Lets `places` in at once. How many wait is bounded by whoever lets them come.
    pub(crate) fn new(places: usize) -> Arc<Self> {
        let places = places.clamp(1, usize::MAX / PLACE);
        Arc::new(Self { state: AtomicUsize::new(places * PLACE), line: Mutex::default(), places })
    }

    /// A place, if one is free and nobody waits.
    pub(crate) fn try_enter(self: &Arc<Self>) -> Option<Permit> {
        self.take_free().then(|| Permit(Some(Arc::clone(self))))
    }

    /// A place now, or a place in the line of `lane`.
    pub(crate) fn enter(self: &Arc<Self>, lane: u64) -> Entry {
        let mut waits = self.lock();
        // Until the sign is up that somebody waits, places come free without the lock.
        loop {
            if self.take_free() {
                drop(waits);
                return Entry::Now(Permit(Some(Arc::clone(self))));
            }
            let state = self.state.load(Ordering::Relaxed);
            let is_up = state == LINE
                || state == 0
                    && self.state.compare_exchange(0, LINE, Ordering::Relaxed, Ordering::Relaxed).is_ok();
            if is_up {
                break;
            }
        }
        let (permit, waiting) = oneshot::channel();
        let ticket = waits.next_ticket;
        waits.next_ticket += 1;
        waits.waiting += 1;
        let waiters = waits.lanes.entry(lane).or_default();
        waiters.push_back(Waiter { ticket, permit });
        if waiters.len() == 1 {
            waits.turns.push_back(lane);
        }
        Entry::Later(Waiting { turnstile: Arc::clone(self), lane, ticket, permit: waiting })
    }

    /// Places taken.
    pub(crate) fn running(&self) -> usize {
        self.places - self.state.load(Ordering::Relaxed) / PLACE
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_free(&self) -> bool {
        let taken = self.state.fetch_update(Ordering::Acquire, Ordering::Relaxed, |state| {
            (state >= PLACE).then(|| state - PLACE)
        });
        taken.is_ok()
    }

    /// Takes the sign down where nobody waits.
    fn take_down(&self, waits: &Line) {
        if waits.waiting == 0 {
            self.state.store(0, Ordering::Relaxed);
        }
    }

    /// A place came free: it is the next waiter's, else it is free.
    fn leave(self: &Arc<Self>) {
        loop {
            let freed = self.state.fetch_update(Ordering::Release, Ordering::Relaxed, |state| {
                (state != LINE).then(|| state + PLACE)
            });
            if freed.is_ok() {
                return;
            }
            let Some(waiter) = self.next() else { continue };
            match waiter.permit.send(Permit(Some(Arc::clone(self)))) {
                Ok(()) => return,
                // Whoever it was has just left: the place is still to be given.
                Err(mut permit) => drop(permit.0.take()),
            }
        }
    }

    /// Whose turn it is.
    fn next(&self) -> Option<Waiter> {
        let mut waits = self.lock();
        let lane = waits.turns.pop_front()?;
        let waiters = waits.lanes.get_mut(&lane)?;
        let waiter = waiters.pop_front()?;
        if waiters.is_empty() {
            waits.lanes.remove(&lane);
        } else {
            waits.turns.push_back(lane);
        }
        waits.waiting -= 1;
        self.take_down(&waits);
        Some(waiter)
    }

    fn give_up(&self, lane: u64, ticket: u64) {
        let mut waits = self.lock();
        let Some(waiters) = waits.lanes.get_mut(&lane) else { return };
        let Some(place) = waiters.iter().position(|waiter| waiter.ticket == ticket) else { return };
        waiters.remove(place);
        if waiters.is_empty() {
            waits.lanes.remove(&lane);
            waits.turns.retain(|of| *of != lane);
        }
        waits.waiting -= 1;
        self.take_down(&waits);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(turnstile) = self.0.take() {
            turnstile.leave();
        }
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Permit")
    }
}

impl Future for Waiting {
    type Output = Permit;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Permit> {
        // The sender lies in the line as long as this waits, or sends.
        Pin::new(&mut self.permit).poll(context).map(|permit| permit.expect("a waiter is never forgotten"))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // A permit that arrived and was not taken is given back by the receiver's own end.
        self.turnstile.give_up(self.lane, self.ticket);
    }
}

#[cfg(test)]
#[path = "turnstile_tests.rs"]
mod tests;
