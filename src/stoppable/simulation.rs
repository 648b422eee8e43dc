//! All ways through a regex at once, byte by byte: Pike's machine, as in `regex-automata`, but one that can be stopped.

use std::{mem, ops::Range};

use regex_automata::{
    nfa::thompson::{NFA, State},
    util::primitives::StateID,
};

/// Steps between two questions whether to go on: well below a millisecond.
const STEPS_PER_LOOK: usize = 16 << 10;
/// A place in the text that no group has.
const NOWHERE: usize = usize::MAX;

/// What a search needs; kept for the next one.
#[derive(Debug, Default)]
pub(super) struct Simulation {
    current: Threads,
    next: Threads,
    stack: Vec<Frame>,
    /// Places of the groups on the way that is followed.
    way: Vec<usize>,
    /// Of the match.
    found: Vec<usize>,
}

/// States that the ways stand at, those that are preferred first, and where the groups of each way are.
#[derive(Debug, Default)]
struct Threads {
    order: Vec<StateID>,
    /// Where in `order` a state would be.
    index: Vec<usize>,
    places: Vec<usize>,
}

#[derive(Debug)]
enum Frame {
    Explore(StateID),
    Restore { place: usize, at: usize },
}

impl Threads {
    fn reset(&mut self, states: usize, places: usize) {
        self.order.clear();
        if self.index.len() != states {
            self.index = vec![0; states];
        }
        if self.places.len() != states * places {
            self.places = vec![NOWHERE; states * places];
        }
    }

    /// Adds a state; false where it is there already.
    fn insert(&mut self, state: StateID) -> bool {
        let index = &mut self.index[state.as_usize()];
        if self.order.get(*index) == Some(&state) {
            return false;
        }
        *index = self.order.len();
        self.order.push(state);
        true
    }

    fn places_of(&mut self, state: StateID, places: usize) -> &mut [usize] {
        let from = state.as_usize() * places;
        &mut self.places[from..from + places]
    }
}

impl Simulation {
    /// The first match within `range`, as the engines of `regex-automata` prefer it. Of groups the first `places` are kept,
    /// two to each. With `utf8` a match begins where a character does.
    ///
    /// # Errors
    /// Of `go_on`.
    pub(super) fn search<E>(
        &mut self,
        nfa: &NFA,
        utf8: bool,
        places: usize,
        text: &[u8],
        range: Range<usize>,
        go_on: &mut impl FnMut() -> Result<(), E>,
    ) -> Result<Option<Range<usize>>, E> {
        self.current.reset(nfa.states().len(), places);
        self.next.reset(nfa.states().len(), places);
        self.way.clear();
        self.way.resize(places, NOWHERE);
        let (mut found, mut steps) = (None, 0);
        for at in range.start..=range.end {
            if self.current.order.is_empty() && found.is_some() {
                break;
            }
            let begins = !utf8 || text.get(at).is_none_or(|byte| byte & 0xC0 != 0x80);
            if found.is_none() && begins {
                self.way.fill(NOWHERE);
                steps += Self::follow(
                    &mut self.stack,
                    &mut self.way,
                    &mut self.current,
                    nfa,
                    nfa.start_anchored(),
                    (text, at),
                );
            }
            let byte = text.get(at).copied().filter(|_| at < range.end);
            for index in 0..self.current.order.len() {
                let state = self.current.order[index];
                let next = match nfa.state(state) {
                    State::Match { .. } => {
                        let places = self.current.places_of(state, places);
                        found = Some(places[0]..at);
                        self.found.clear();
                        self.found.extend_from_slice(places);
                        // What follows is preferred less.
                        break;
                    }
                    State::ByteRange { trans } => {
                        byte.filter(|byte| trans.matches_byte(*byte)).map(|_| trans.next)
                    }
                    State::Sparse(sparse) => byte.and_then(|byte| sparse.matches_byte(byte)),
                    State::Dense(dense) => byte.and_then(|byte| dense.matches_byte(byte)),
                    _ => None,
                };
                if let Some(next) = next {
                    self.way.copy_from_slice(self.current.places_of(state, places));
                    steps += Self::follow(
                        &mut self.stack,
                        &mut self.way,
                        &mut self.next,
                        nfa,
                        next,
                        (text, at + 1),
                    );
                }
            }
            steps += 1 + self.current.order.len();
            mem::swap(&mut self.current, &mut self.next);
            self.next.order.clear();
            if steps >= STEPS_PER_LOOK {
                steps = 0;
                go_on()?;
            }
        }
        Ok(found)
    }

    /// Where the groups of the last match stood: beginnings and ends in turn.
    pub(super) fn places(&self) -> impl Iterator<Item = Option<usize>> {
        self.found.iter().map(|at| Some(*at).filter(|at| *at != NOWHERE))
    }

    /// Adds to `threads` every state that `state` leads to without taking a byte. Gives the steps that this took.
    fn follow(
        stack: &mut Vec<Frame>,
        way: &mut [usize],
        threads: &mut Threads,
        nfa: &NFA,
        state: StateID,
        (text, at): (&[u8], usize),
    ) -> usize {
        let mut steps = 0;
        stack.push(Frame::Explore(state));
        while let Some(frame) = stack.pop() {
            let mut state = match frame {
                Frame::Restore { place, at } => {
                    way[place] = at;
                    continue;
                }
                Frame::Explore(state) => state,
            };
            loop {
                steps += 1;
                if !threads.insert(state) {
                    break;
                }
                match nfa.state(state) {
                    State::Fail
                    | State::Match { .. }
                    | State::ByteRange { .. }
                    | State::Sparse(_)
                    | State::Dense(_) => {
                        steps += way.len() / 8;
                        threads.places_of(state, way.len()).copy_from_slice(way);
                        break;
                    }
                    State::Look { look, next } => {
                        if !nfa.look_matcher().matches(*look, text, at) {
                            break;
                        }
                        state = *next;
                    }
                    State::Union { alternates } => {
                        let Some((first, others)) = alternates.split_first() else { break };
                        steps += others.len();
                        stack.extend(others.iter().rev().map(|state| Frame::Explore(*state)));
                        state = *first;
                    }
                    State::BinaryUnion { alt1, alt2 } => {
                        stack.push(Frame::Explore(*alt2));
                        state = *alt1;
                    }
                    State::Capture { next, slot, .. } => {
                        let place = slot.as_usize();
                        if let Some(kept) = way.get_mut(place) {
                            stack.push(Frame::Restore { place, at: *kept });
                            *kept = at;
                        }
                        state = *next;
                    }
                }
            }
        }
        steps
    }
}
