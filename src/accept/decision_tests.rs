use std::time::Duration;

use super::*;
use crate::accept::scenario::{Better, FigureRow, Row, Seen};

/// A figure's value that is good.
fn good(figure: &FigureRow) -> f64 {
    let threshold = figure.target.or(figure.critical).unwrap_or(1.0);
    match figure.better {
        Better::Less => threshold * 0.5,
        Better::More => threshold * 1.5,
    }
}

fn passed(row: &'static Row) -> Result {
    let mut seen = Seen::default();
    seen.check("it held", true, "yes", "yes");
    for figure in row.figures {
        seen.figure(figure.name, good(figure));
    }
    Result::of(row, seen, Duration::ZERO)
}

fn failed(row: &'static Row) -> Result {
    let mut result = passed(row);
    result.seen.check("it held", false, "yes", "no");
    Result::of(row, result.seen, Duration::ZERO)
}

fn figure_at(row: &'static Row, name: &str, value: f64) -> Result {
    let mut result = passed(row);
    for (known, place) in &mut result.seen.figures {
        if *known == name {
            *place = value;
        }
    }
    Result::of(row, result.seen, Duration::ZERO)
}

fn row(id: &str) -> &'static Row {
    table::find(id).unwrap()
}

fn whole(change: impl Fn(&'static Row) -> Option<Result>) -> Vec<Result> {
    let rows = table::SCENARIOS.iter().map(|one| row(one.id));
    rows.map(|row| change(row).unwrap_or_else(|| passed(row))).collect()
}

const FULL: Asked = Asked { profile: Profile::Full, is_whole: true, scenarios: 47, is_interrupted: false };
/// Failures of these decide nothing by themselves, and no figure of theirs is critical.
const PLAIN: [&str; 6] = ["M3", "W1", "W2", "W3", "W7", "R1"];

fn with_failures(count: usize) -> Vec<Result> {
    whole(|row| PLAIN[..count].contains(&row.id).then(|| failed(row)))
}

#[test]
fn the_number_that_passed_decides() {
    for (failures, decision) in [
        (0, Decision::Go),
        (1, Decision::Go),
        (2, Decision::Go),
        (3, Decision::GoWithWarnings),
        (4, Decision::GoWithWarnings),
        (5, Decision::NoGo),
        (6, Decision::NoGo),
    ] {
        let decided = Decided::of(&with_failures(failures), FULL);
        assert_eq!((decided.decision, decided.passed), (decision, 47 - failures), "{failures} failures");
        assert_eq!(decided.reasons.iter().filter(|why| why.ends_with("failed")).count(), failures);
    }
}

#[test]
fn any_failure_of_a_vital_scenario_is_a_no_go() {
    for id in ["M7", "W5", "W10", "D3", "D4", "D6", "D7", "R3", "E1"] {
        for missing in [false, true] {
            let results = whole(|row| {
                (row.id == id).then(|| {
                    let mut result = failed(row);
                    if missing {
                        result.verdict = Verdict::Missing;
                    }
                    result
                })
            });
            let decided = Decided::of(&results, FULL);
            assert_eq!(decided.decision, Decision::NoGo, "{id}");
            assert!(decided.reasons[0].starts_with(id), "{:?}", decided.reasons);
        }
    }
}

#[test]
fn every_threshold_decides_as_the_table_says() {
    for row in table::SCENARIOS.iter().map(|one| row(one.id)) {
        for figure in row.figures {
            let past = |threshold: f64| match figure.better {
                Better::Less => threshold + threshold.abs().max(1.0) * 0.001,
                Better::More => threshold - threshold.abs().max(1.0) * 0.001,
            };
            let decided = |value| {
                let results = whole(|one| (one.id == row.id).then(|| figure_at(one, figure.name, value)));
                let decided = Decided::of(&results, FULL);
                let verdict = results.iter().find(|result| result.row.id == row.id).unwrap().verdict;
                (verdict, decided.decision)
            };
            let named = format!("{} {}", row.id, figure.name);
            assert_eq!(decided(f64::NAN), (Verdict::Failed, Decision::NoGo), "{named}");
            if let Some(critical) = figure.critical {
                assert_eq!(decided(past(critical)), (Verdict::Failed, Decision::NoGo), "{named}");
            }
            if let Some(target) = figure.target {
                assert_eq!(decided(target), (Verdict::Passed, Decision::Go), "{named}: at its target");
                if figure.critical != Some(target) {
                    assert_eq!(decided(past(target)), (Verdict::Warned, Decision::GoWithWarnings), "{named}");
                }
            }
        }
    }
}

#[test]
fn a_figure_that_was_not_measured_fails_its_scenario() {
    for row in table::SCENARIOS.iter().map(|one| row(one.id)).filter(|row| !row.figures.is_empty()) {
        let mut result = passed(row);
        result.seen.figures.pop();
        let result = Result::of(row, result.seen, Duration::ZERO);
        assert_eq!(result.verdict, Verdict::Failed, "{}", row.id);
        assert!(result.why.unwrap().contains("was not measured"));
    }
}

#[test]
fn a_scenario_that_checked_nothing_failed() {
    for row in table::SCENARIOS.iter().map(|one| row(one.id)).filter(|row| row.figures.is_empty()) {
        assert_eq!(Result::of(row, Seen::default(), Duration::ZERO).verdict, Verdict::Failed, "{}", row.id);
    }
}

#[test]
fn what_a_server_need_not_have_is_no_success_and_no_failure() {
    let told = |held| {
        let mut seen = Seen::default();
        seen.check("it says that it does not know the revision", held, "an error", "");
        seen.does_not_apply("it does not speak 2026-07-28");
        Result::of(row("W2"), seen, Duration::ZERO)
    };
    let (excused, wrong) = (told(true), told(false));
    assert_eq!((excused.verdict, excused.is_passed()), (Verdict::Waived, false));
    assert_eq!(excused.why.as_deref(), Some("it does not speak 2026-07-28"));
    assert_eq!((wrong.verdict, wrong.why), (Verdict::Failed, None));
}

#[test]
fn what_is_waived_stays_in_the_denominator_and_is_told() {
    let waived = |row| Result { verdict: Verdict::Waived, ..passed(row) };
    let of = |count: usize| whole(|row| PLAIN[..count].contains(&row.id).then(|| waived(row)));
    for (count, decision) in [(1, Decision::Go), (3, Decision::GoWithWarnings), (5, Decision::NoGo)] {
        let decided = Decided::of(&of(count), FULL);
        assert_eq!((decided.decision, decided.is_partial), (decision, true), "{count} waived");
    }
    let decided = Decided::of(&of(5), FULL);
    assert_eq!(decided.reasons[0], "42 of 47 passed; 43 must");
    assert!(!Decided::of(&of(0), FULL).is_partial);
}

#[test]
fn what_does_not_decide_passes_or_fails() {
    for asked in [Asked { profile: Profile::Quick, ..FULL }, Asked { is_whole: false, scenarios: 2, ..FULL }]
    {
        for (failures, decision) in [(0, Decision::Pass), (1, Decision::Fail), (6, Decision::Fail)] {
            assert_eq!(Decided::of(&with_failures(failures), asked).decision, decision);
        }
    }
}

#[test]
fn a_run_in_which_nothing_ran_does_not_pass() {
    let results = vec![Result { verdict: Verdict::Waived, ..passed(row("R1")) }];
    let decided = Decided::of(&results, Asked { is_whole: false, scenarios: 1, ..FULL });
    assert_eq!(
        (decided.decision, &*decided.reasons[0]),
        (Decision::Fail, "nothing ran: this proves nothing")
    );
}

#[test]
fn an_interrupted_run_never_passes() {
    for profile in [Profile::Quick, Profile::Full] {
        let asked = Asked { profile, is_interrupted: true, ..FULL };
        for results in [Vec::new(), whole(|_| None)[..40].to_vec()] {
            let decided = Decided::of(&results, asked);
            assert_eq!((decided.decision, decided.exit_code(false)), (Decision::Fail, 1));
            let told = format!("the run was interrupted after {} of 47 scenarios", results.len());
            assert_eq!(decided.reasons, [told]);
        }
    }
    // What is certain already is said.
    let results = whole(|row| (row.id == "M7").then(|| failed(row)))[..20].to_vec();
    let decided = Decided::of(&results, Asked { is_interrupted: true, ..FULL });
    assert_eq!(decided.decision, Decision::NoGo);
}

#[test]
fn exit_codes_follow_the_decision_and_strictness() {
    let warned =
        |asked| Decided::of(&whole(|row| (row.id == "R2").then(|| figure_at(row, "p95", 100.0))), asked);
    let quick = Asked { profile: Profile::Quick, ..FULL };
    for (decided, decision, code, strict) in [
        (Decided::of(&with_failures(0), FULL), Decision::Go, 0, 0),
        (warned(FULL), Decision::GoWithWarnings, 0, 1),
        (Decided::of(&with_failures(3), FULL), Decision::GoWithWarnings, 0, 1),
        (Decided::of(&with_failures(5), FULL), Decision::NoGo, 1, 1),
        (Decided::of(&with_failures(0), quick), Decision::Pass, 0, 0),
        (warned(quick), Decision::Pass, 0, 1),
        (Decided::of(&with_failures(1), quick), Decision::Fail, 1, 1),
    ] {
        assert_eq!(decided.decision, decision);
        assert_eq!((decided.exit_code(false), decided.exit_code(true)), (code, strict), "{decision}");
    }
}

#[test]
fn a_level_is_near_within_a_tenth_and_never_at_a_threshold_of_nothing() {
    let figure = |better, target, critical| FigureRow { name: "f", unit: "", better, target, critical };
    let less = figure(Better::Less, Some(100.0), Some(200.0));
    let more = figure(Better::More, Some(100.0), Some(50.0));
    let strict = figure(Better::Less, Some(0.0), Some(0.0));
    let share = FigureRow { unit: "%", ..figure(Better::More, Some(95.0), Some(90.0)) };
    let shown = figure(Better::More, None, None);
    for (figure, value, level) in [
        (less, 50.0, Level::Good),
        (less, 90.0, Level::Good),
        (less, 91.0, Level::Near),
        (less, 100.0, Level::Good),
        (less, 100.1, Level::Warning),
        (less, 200.0, Level::Warning),
        (less, 200.1, Level::Critical),
        (more, 150.0, Level::Good),
        (more, 109.0, Level::Near),
        (more, 100.0, Level::Good),
        (more, 99.9, Level::Warning),
        (more, 50.0, Level::Warning),
        (more, 49.9, Level::Critical),
        (share, 99.0, Level::Near),
        (share, 100.0, Level::Good),
        (strict, 0.0, Level::Good),
        (strict, 1.0, Level::Critical),
        (shown, 5.0, Level::Good),
        (shown, f64::NAN, Level::Critical),
    ] {
        assert_eq!(figure.level(value), level, "{figure:?} {value}");
    }
}
