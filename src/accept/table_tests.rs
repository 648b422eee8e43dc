use std::collections::BTreeSet;

use super::*;
use crate::accept::scenario::Better;

/// How many scenarios each letter has, in the order in which they run.
const LETTERS: [(char, usize); 6] = [('M', 9), ('W', 10), ('D', 8), ('R', 9), ('P', 6), ('E', 5)];

#[test]
fn the_47_scenarios_are_in_order() {
    let wanted: Vec<String> = LETTERS
        .into_iter()
        .flat_map(|(letter, count)| (1..=count).map(move |number| format!("{letter}{number}")))
        .collect();
    let ids: Vec<&str> = SCENARIOS.iter().map(|row| row.id).collect();
    assert_eq!(ids, wanted);
    assert_eq!(ids.len(), 47);
}

#[test]
fn what_must_not_fail_is_what_the_decision_says() {
    let vital: Vec<&str> = SCENARIOS.iter().filter(|row| row.is_vital).map(|row| row.id).collect();
    assert_eq!(vital, ["M7", "W5", "W10", "D3", "D4", "D6", "D7", "R3", "E1"]);
    let full: Vec<&str> = SCENARIOS.iter().filter(|row| row.is_full_only).map(|row| row.id).collect();
    assert_eq!(full, ["D2"]);
}

#[test]
fn rows_are_told_apart_and_say_what_they_are() {
    let mut titles = BTreeSet::new();
    for row in &SCENARIOS {
        assert!(!row.title.is_empty() && !row.what.is_empty(), "{}", row.id);
        assert!(titles.insert(row.title), "{}: its title stands twice", row.id);
        let mut names = BTreeSet::new();
        for figure in row.figures {
            let name = format!("{} {}", row.id, figure.name);
            assert!(names.insert(figure.name), "{name} stands twice");
            assert!(
                figure.name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'),
                "{name}"
            );
            assert!(
                ["ms", "%", "calls/s", "x", "s", "MB", ""].contains(&figure.unit),
                "{name}: {}",
                figure.unit
            );
        }
    }
}

#[test]
fn what_is_critical_is_no_better_than_what_is_wanted() {
    for row in &SCENARIOS {
        for figure in row.figures {
            let (Some(target), Some(critical)) = (figure.target, figure.critical) else {
                assert_eq!(figure.target.is_some(), figure.critical.is_some(), "{} {}", row.id, figure.name);
                continue;
            };
            let is_in_order = match figure.better {
                Better::Less => target <= critical,
                Better::More => target >= critical,
            };
            assert!(is_in_order, "{} {}", row.id, figure.name);
        }
    }
}

/// Thirty minutes, with something left for what goes slower.
#[test]
fn the_full_profile_is_within_its_time() {
    let sum: u32 = SCENARIOS.iter().map(|row| row.seconds.1).sum();
    assert!(sum <= 1_740, "{sum} s");
}

#[test]
fn scenarios_are_chosen_by_id_and_by_beginning() {
    let chosen = |patterns: &[&str]| {
        let patterns: Vec<String> = patterns.iter().map(|&pattern| pattern.to_owned()).collect();
        chosen(&patterns).map(|rows| rows.iter().map(|row| row.id).collect::<Vec<_>>())
    };
    assert_eq!(chosen(&[]).unwrap().len(), 47);
    assert_eq!(chosen(&["E*", "m1"]).unwrap(), ["M1", "E1", "E2", "E3", "E4", "E5"]);
    assert_eq!(chosen(&["W1"]).unwrap(), ["W1"]);
    assert_eq!(chosen(&["w1*"]).unwrap(), ["W1", "W10"]);
    assert_eq!(chosen(&["*"]).unwrap().len(), 47);
    for wrong in ["X1", "M0", "M10", "Z*", ""] {
        assert!(chosen(&[wrong]).unwrap_err().contains("names no scenario"), "{wrong}");
    }
}

#[test]
fn slack_widens_times_and_rates_and_nothing_that_is_counted() {
    let of = |row: &'static Row, slack| {
        let figures = row.slackened(slack).figures.iter();
        figures.map(|figure| (figure.name, figure.target, figure.critical)).collect::<Vec<_>>()
    };
    let row = |id| find(id).unwrap();
    assert_eq!(
        of(row("M1"), 3),
        [("success", Some(95.0), Some(90.0)), ("average", Some(900.0), Some(900.0))]
    );
    assert_eq!(of(row("P3"), 2)[0], ("rate", Some(50.0), Some(25.0)));
    assert_eq!(of(row("M8"), 2), [("others", Some(6.0), Some(6.0))]);
    for row in SCENARIOS.iter().map(|one| row(one.id)) {
        assert_eq!(of(row, 1), of(row, 0), "{}", row.id);
        // What must not fail counts what it measures.
        assert!(!row.is_vital || of(row, 1) == of(row, 10), "{}", row.id);
    }
}
