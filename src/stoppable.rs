//! A regex that can be stopped in the middle of a long text.
//!
//! The engines of `regex-automata` take time linear in the text, but the factor is the size of the regex, and one search
//! does not return before its end: a few hundred characters of regex on one line of a megabyte may take minutes. So they
//! get a text whole only where even the slowest of them ends within some milliseconds; a longer one is walked by
//! [`simulation`], which finds the same and looks up again and again to be told whether to go on.

mod simulation;

use std::ops::Range;

use regex_automata::{
    Input, meta,
    nfa::thompson::{NFA, WhichCaptures},
    util::{primitives::NonMaxUsize, syntax},
};

use simulation::Simulation;

/// States of a regex times bytes of a text that are handed over in one go: the slowest engine needs some 7 ns for each.
const IN_ONE_GO: usize = 2 << 20;
/// What beginning a search costs, in bytes searched.
const SEARCH_BYTES: usize = 16;
/// States of a regex times places of its groups: what a search with groups keeps in memory.
const GROUP_PLACES_MAX: usize = 1 << 20;

/// How a regex is read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reading {
    /// Letters match in both cases.
    pub(crate) ignore_case: bool,
    /// `^` and `$` match at lines, whether they end in `\n` or `\r\n`.
    pub(crate) lines: bool,
    /// The text is any bytes, and its groups are not asked for.
    pub(crate) bytes: bool,
    /// Largest compiled form, in bytes.
    pub(crate) size_max: usize,
}

/// Why a regex was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfit {
    /// Not one of this engine: what is wrong.
    #[error("not a regex of this engine (no look-around, no back-references): {0}")]
    Syntax(String),
    /// Larger than allowed once compiled.
    #[error("the regex is too large once compiled")]
    TooLarge,
    /// Its groups would need too much memory.
    #[error("the regex has too many groups for its size")]
    Groups,
}

/// A linear-time regex with an end to its patience.
#[derive(Debug)]
pub(crate) struct Stoppable {
    meta: meta::Regex,
    nfa: NFA,
    /// Bytes that are handed over in one go.
    whole_max: usize,
    bytes: bool,
}

/// What searches of one regex keep to be quick; one for each thread.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    simulation: Simulation,
    places: Vec<Option<NonMaxUsize>>,
    /// Bytes searched since `go_on` was asked.
    unasked: usize,
}

impl Scratch {
    /// Notes a search that took `bytes`; asks before the next one where that was much.
    fn note(&mut self, bytes: usize) {
        self.unasked = self.unasked.saturating_add(bytes + SEARCH_BYTES);
    }

    fn ask<E>(&mut self, regex: &Stoppable, go_on: &mut impl FnMut() -> Result<(), E>) -> Result<(), E> {
        if self.unasked <= regex.whole_max {
            return Ok(());
        }
        self.unasked = 0;
        go_on()
    }
}

/// Where the groups of a match stand; the whole match is the first.
pub(crate) type Groups = Vec<Option<Range<usize>>>;

impl Stoppable {
    /// Compiles `source`.
    ///
    /// # Errors
    /// [`Unfit`].
    pub(crate) fn new(source: &str, reading: Reading) -> Result<Self, Unfit> {
        let syntax = syntax::Config::new()
            .utf8(!reading.bytes)
            .case_insensitive(reading.ignore_case)
            .multi_line(reading.lines)
            .crlf(reading.lines);
        let captures = if reading.bytes { WhichCaptures::Implicit } else { WhichCaptures::All };
        let nfa = NFA::compiler()
            .syntax(syntax)
            .configure(
                NFA::config()
                    .utf8(!reading.bytes)
                    .which_captures(captures)
                    .nfa_size_limit(Some(reading.size_max)),
            )
            .build(source)
            .map_err(|error| {
                if error.size_limit().is_some() {
                    return Unfit::TooLarge;
                }
                let why =
                    std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
                Unfit::Syntax(why)
            })?;
        let (states, places) = (nfa.states().len(), nfa.group_info().slot_len());
        if states.saturating_mul(places) > GROUP_PLACES_MAX {
            return Err(Unfit::Groups);
        }
        let meta = meta::Builder::new()
            .syntax(syntax)
            .configure(
                meta::Config::new()
                    .utf8_empty(!reading.bytes)
                    .which_captures(captures)
                    .nfa_size_limit(Some(reading.size_max)),
            )
            .build(source)
            .map_err(|error| match error.size_limit() {
                Some(_) => Unfit::TooLarge,
                None => Unfit::Syntax(error.to_string()),
            })?;
        // Groups are copied from state to state.
        let whole_max = IN_ONE_GO / (states * (1 + places / 8)).max(1);
        Ok(Self { meta, nfa, whole_max, bytes: reading.bytes })
    }

    /// Names of the groups; the whole match, which has none, is the first.
    pub(crate) fn group_names(&self) -> impl Iterator<Item = Option<&str>> {
        self.nfa.group_info().pattern_names(regex_automata::PatternID::ZERO)
    }

    /// How much of a text is searched in one go.
    pub(crate) const fn whole_max(&self) -> usize {
        self.whole_max
    }

    /// Where it matches first within `range` of `text`; what stands around the range is seen by `^`, `$` and `\b`.
    /// `go_on` is asked every few milliseconds, all searches with `scratch` taken together, and its error ends this one.
    ///
    /// # Errors
    /// Of `go_on`.
    pub(crate) fn find<E>(
        &self,
        scratch: &mut Scratch,
        text: &[u8],
        range: Range<usize>,
        go_on: &mut impl FnMut() -> Result<(), E>,
    ) -> Result<Option<Range<usize>>, E> {
        scratch.ask(self, go_on)?;
        let Range { start, end } = range;
        if range.len() <= self.whole_max {
            let found = self.meta.find(Input::new(text).range(range)).map(|found| found.range());
            scratch.note(found.as_ref().map_or(end, |found| found.end) - start);
            return Ok(found);
        }
        scratch.simulation.search(&self.nfa, !self.bytes, 1, text, range, go_on)
    }

    /// The same with where its groups match.
    ///
    /// # Errors
    /// Of `go_on`.
    pub(crate) fn groups<E>(
        &self,
        scratch: &mut Scratch,
        text: &str,
        from: usize,
        go_on: &mut impl FnMut() -> Result<(), E>,
    ) -> Result<Option<Groups>, E> {
        scratch.ask(self, go_on)?;
        let (bytes, range) = (text.as_bytes(), from..text.len());
        let places = self.nfa.group_info().slot_len();
        if range.len() <= self.whole_max {
            scratch.places.clear();
            scratch.places.resize(places, None);
            let found = self.meta.search_slots(&Input::new(bytes).range(range), &mut scratch.places);
            let places = scratch.places.iter().map(|place| place.map(NonMaxUsize::get));
            let found = found.map(|_| groups(places));
            let whole = found.as_ref().and_then(|found| found.first()?.as_ref());
            scratch.note(whole.map_or(text.len(), |whole| whole.end) - from);
            return Ok(found);
        }
        let found = scratch.simulation.search(&self.nfa, true, places, bytes, range, go_on)?;
        Ok(found.map(|_| groups(scratch.simulation.places())))
    }

    /// All matches in `text` that do not overlap, one after the other, for as long as `each` wants more.
    ///
    /// # Errors
    /// Of `go_on`.
    pub(crate) fn each<E>(
        &self,
        scratch: &mut Scratch,
        text: &str,
        go_on: &mut impl FnMut() -> Result<(), E>,
        mut each: impl FnMut(Groups) -> bool,
    ) -> Result<(), E> {
        let has_groups = self.nfa.group_info().slot_len() > 2;
        let (mut from, mut last) = (0, None);
        while from <= text.len() {
            let found = if has_groups {
                self.groups(scratch, text, from, go_on)?
            } else {
                self.find(scratch, text.as_bytes(), from..text.len(), go_on)?.map(|found| vec![Some(found)])
            };
            let Some(found) = found else { break };
            let Some(whole) = found[0].clone() else { break };
            // An empty match right behind another one is part of it.
            if whole.is_empty() && last == Some(whole.end) {
                from = text.ceil_char_boundary(whole.end + 1).max(whole.end + 1);
                continue;
            }
            from = whole.end;
            last = Some(whole.end);
            if !each(found) {
                break;
            }
        }
        Ok(())
    }
}

/// Pairs of places as ranges.
fn groups(mut places: impl Iterator<Item = Option<usize>>) -> Groups {
    let mut groups = Vec::new();
    while let (Some(start), Some(end)) = (places.next(), places.next()) {
        groups.push(start.zip(end).map(|(start, end)| start..end));
    }
    groups
}

#[cfg(test)]
mod tests;
