//! What calls cost, each principal's in each project by itself.
//!
//! In memory and bounded: [`SCOPES_MAX`] scopes, the one that is unused for longest makes room; the durations of a scope
//! are a histogram whose classes are an eighth of their own size wide, so that a percentile is told at most so much too high.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;

use super::{EngineError, Execution, Outcome};
use crate::{
    cache::Layer,
    scope::{ProjectId, Scope},
};

/// Scopes remembered.
const SCOPES_MAX: usize = 1_024;
/// Patterns of one scope counted by name; all others together.
const PATTERNS_MAX: usize = 64;
/// Where patterns beyond that are counted.
const OTHERS: &str = "others";
/// Where a question is counted that ran nothing.
const CANDIDATES: &str = "candidates";
/// Classes of durations: eight to each doubling of a microsecond, up to some hours.
const CLASSES: usize = 8 * 34;

/// The figures of all scopes of a process.
#[derive(Debug, Default)]
pub struct Figures {
    scopes: Mutex<Scopes>,
}

#[derive(Debug, Default)]
struct Scopes {
    known: HashMap<(String, ProjectId), Own>,
    /// Counts calls, to know which scope is unused for longest.
    clock: u64,
}

#[derive(Debug)]
struct Own {
    figures: OwnFigures,
    last: u64,
}

/// The figures of one principal in one project.
#[derive(Clone, Debug)]
pub struct OwnFigures {
    /// When counting began.
    pub since: Timestamp,
    /// Calls that ended, well or not.
    pub calls: u64,
    /// Of these, those that failed, by code.
    pub failed: BTreeMap<&'static str, u64>,
    /// Calls by pattern, with how many of them failed.
    pub patterns: BTreeMap<String, (u64, u64)>,
    /// Calls that got the answer of an equal one that ran at the same time.
    pub shared: u64,
    /// Kept answers that were found in this process, and in the layer that instances share; lookups in vain.
    pub cache: CacheUse,
    /// Answers that told only that nothing changed.
    pub unchanged: u64,
    /// o200k_base tokens of the answers.
    pub tokens_out: u64,
    /// Answers whose tokens were estimated, as bytes / 4.
    pub tokens_estimated: u64,
    /// Bytes of the answers.
    pub bytes_out: u64,
    /// Bytes that the steps of these answers read or made.
    pub bytes_seen: u64,
    durations: Vec<u32>,
}

/// What kept answers were good for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "told where it stands")]
pub struct CacheUse {
    pub local: u64,
    pub shared: u64,
    pub misses: u64,
}

impl Figures {
    /// Notes how a call of `scope` ended. `pattern` is what it ran, where it came so far.
    pub(super) fn record(
        &self,
        scope: &Scope,
        pattern: Option<&str>,
        result: &Result<Execution, EngineError>,
        elapsed: Duration,
        now: Timestamp,
    ) {
        self.with(scope, now, |own| own.record(pattern.unwrap_or(CANDIDATES), result, elapsed));
    }

    /// Notes that a call of `scope` gets the answer of another.
    pub(super) fn record_shared(&self, scope: &Scope, now: Timestamp) {
        self.with(scope, now, |own| own.shared += 1);
    }

    fn with(&self, scope: &Scope, now: Timestamp, note: impl FnOnce(&mut OwnFigures)) {
        let mut scopes = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        scopes.clock += 1;
        let last = scopes.clock;
        let key = key_of(scope);
        if !scopes.known.contains_key(&key) && scopes.known.len() >= SCOPES_MAX {
            let oldest = scopes.known.iter().min_by_key(|(_, own)| own.last).map(|(key, _)| key.clone());
            oldest.map(|oldest| scopes.known.remove(&oldest));
        }
        let own = scopes.known.entry(key).or_insert_with(|| Own { figures: OwnFigures::new(now), last });
        own.last = last;
        note(&mut own.figures);
    }

    /// The figures of `scope`'s own principal in its own project; `None` where it made no call yet.
    #[must_use]
    pub fn of(&self, scope: &Scope) -> Option<OwnFigures> {
        let scopes = self.scopes.lock().unwrap_or_else(PoisonError::into_inner);
        scopes.known.get(&key_of(scope)).map(|own| own.figures.clone())
    }
}

fn key_of(scope: &Scope) -> (String, ProjectId) {
    (scope.principal().to_owned(), scope.project().clone())
}

impl OwnFigures {
    const fn new(since: Timestamp) -> Self {
        Self {
            since,
            calls: 0,
            failed: BTreeMap::new(),
            patterns: BTreeMap::new(),
            shared: 0,
            cache: CacheUse { local: 0, shared: 0, misses: 0 },
            unchanged: 0,
            tokens_out: 0,
            tokens_estimated: 0,
            bytes_out: 0,
            bytes_seen: 0,
            durations: Vec::new(),
        }
    }

    fn record(&mut self, pattern: &str, result: &Result<Execution, EngineError>, elapsed: Duration) {
        self.calls += 1;
        let known = self.patterns.contains_key(pattern) || self.patterns.len() < PATTERNS_MAX;
        let counted = self.patterns.entry(if known { pattern } else { OTHERS }.to_owned()).or_default();
        counted.0 += 1;
        if self.durations.is_empty() {
            self.durations = vec![0; CLASSES];
        }
        if let Some(class) = self.durations.get_mut(class_of(elapsed)) {
            *class = class.saturating_add(1);
        }
        match result {
            Ok(execution) => {
                let receipt = &execution.receipt;
                self.tokens_out += receipt.tokens_out as u64;
                self.tokens_estimated += u64::from(receipt.tokens_estimated);
                self.bytes_out += execution.text.len() as u64;
                self.bytes_seen += receipt.bytes_seen;
                self.unchanged += u64::from(matches!(execution.outcome, Outcome::Unchanged { .. }));
                match (receipt.cache, receipt.cache_layer) {
                    (_, Some(Layer::Local)) => self.cache.local += 1,
                    (_, Some(Layer::Shared)) => self.cache.shared += 1,
                    ("miss", None) => self.cache.misses += 1,
                    _ => {}
                }
            }
            Err(error) => {
                counted.1 += 1;
                *self.failed.entry(error.kind.code()).or_default() += 1;
            }
        }
    }

    /// The duration that `percent` of the calls did not exceed; `None` where there was none.
    #[must_use]
    pub fn percentile(&self, percent: u64) -> Option<Duration> {
        let all: u64 = self.durations.iter().map(|count| u64::from(*count)).sum();
        let wanted = (all * percent).div_ceil(100).max(1);
        let mut seen = 0;
        let class = self.durations.iter().position(|count| {
            seen += u64::from(*count);
            seen >= wanted
        })?;
        Some(upper_bound(class))
    }
}

/// The class of a duration: below 8 µs one a microsecond, then eight to each doubling.
fn class_of(elapsed: Duration) -> usize {
    let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
    if micros < 8 {
        return micros as usize;
    }
    let doublings = micros.ilog2() as usize - 3;
    let eighth = (micros >> doublings) as usize - 8;
    (8 + doublings * 8 + eighth).min(CLASSES - 1)
}

/// The longest duration of a class.
fn upper_bound(class: usize) -> Duration {
    if class < 8 {
        return Duration::from_micros(class as u64);
    }
    let (doublings, eighth) = ((class - 8) / 8, (class - 8) % 8);
    Duration::from_micros(((8 + eighth as u64 + 1) << doublings) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{ErrorKind, Receipt};

    fn scope(principal: &str, project: &str) -> Scope {
        Scope::mint(ProjectId::parse(project).unwrap(), principal, "default", None)
    }

    fn now() -> Timestamp {
        "2026-03-01T12:00:00Z".parse().unwrap()
    }

    #[expect(clippy::unnecessary_wraps, reason = "what a call ends with")]
    fn answered(tokens_out: usize) -> Result<Execution, EngineError> {
        let receipt = Receipt { tokens_out, bytes_seen: 1_000, cache: "off", ..Receipt::default() };
        Ok(Execution {
            outcome: Outcome::Candidates { candidates: Vec::new() },
            text: "x".repeat(10),
            receipt,
        })
    }

    fn failed() -> Result<Execution, EngineError> {
        let kind = ErrorKind::StoreUnavailable;
        Err(EngineError { kind, message: String::new(), part: None, retry_after: None, receipt: None })
    }

    #[test]
    fn nobody_sees_the_calls_of_another() {
        let figures = Figures::default();
        let (ada, ben) = (scope("ada", "web"), scope("ben", "web"));
        figures.record(&ada, Some("repo.digest"), &answered(7), Duration::from_millis(3), now());
        figures.record(&ada, Some("repo.digest"), &failed(), Duration::from_millis(3), now());
        figures.record(&scope("ada", "api"), None, &answered(1), Duration::from_millis(3), now());
        assert!(figures.of(&ben).is_none());
        assert!(figures.of(&scope("ben", "api")).is_none());
        let own = figures.of(&ada).unwrap();
        assert_eq!((own.calls, own.tokens_out, own.bytes_out, own.bytes_seen), (2, 7, 10, 1_000));
        assert_eq!(own.patterns, BTreeMap::from([("repo.digest".to_owned(), (2, 1))]));
        assert_eq!((own.failed[ErrorKind::StoreUnavailable.code()], own.shared), (1, 0));
        // Another agent or session of the same principal is the same.
        assert_eq!(figures.of(&ada.with_session("s")).unwrap().calls, 2);
    }

    #[test]
    fn a_duration_is_told_at_most_an_eighth_too_high() {
        for micros in (0..2_000).chain([12_345, 1_000_000, 59_999_999, 3_600_000_000]) {
            let elapsed = Duration::from_micros(micros);
            let told = upper_bound(class_of(elapsed));
            assert!(told >= elapsed && told.as_micros() as u64 <= micros + micros / 8, "{micros}: {told:?}");
        }
        assert_eq!(class_of(Duration::MAX), CLASSES - 1);
        let figures = Figures::default();
        let ada = scope("ada", "web");
        for milliseconds in 1..=100 {
            figures.record(&ada, Some("p"), &answered(1), Duration::from_millis(milliseconds), now());
        }
        let own = figures.of(&ada).unwrap();
        for (percent, wanted) in [(50, 50.0), (95, 95.0), (99, 99.0)] {
            let told = own.percentile(percent).unwrap().as_secs_f64() * 1_000.0;
            assert!((wanted..wanted * 1.13).contains(&told), "{percent}: {told}");
        }
        assert_eq!(OwnFigures::new(now()).percentile(50), None);
    }

    #[test]
    fn memory_is_bounded() {
        let figures = Figures::default();
        for index in 0..SCOPES_MAX * 2 {
            figures.record(
                &scope(&format!("u{index}"), "web"),
                Some("p"),
                &answered(1),
                Duration::ZERO,
                now(),
            );
        }
        assert_eq!(figures.scopes.lock().unwrap().known.len(), SCOPES_MAX);
        assert!(figures.of(&scope("u0", "web")).is_none(), "the one unused for longest made room");
        let last = scope(&format!("u{}", SCOPES_MAX * 2 - 1), "web");
        for index in 0..PATTERNS_MAX * 2 {
            figures.record(&last, Some(&format!("p{index}")), &answered(1), Duration::ZERO, now());
        }
        let own = figures.of(&last).unwrap();
        assert_eq!(own.patterns.len(), PATTERNS_MAX + 1);
        assert_eq!(own.patterns.values().map(|(calls, _)| calls).sum::<u64>(), own.calls);
    }
}
