//! `summary.md`: the decision and the table, for a pull request or a chat.

use std::fmt::Write as _;

use super::{
    html::standing,
    previous::Previous,
    text::{BEGUN, duration, with_unit},
};
use crate::accept::{
    Run,
    scenario::{Better, FigureRow, Verdict},
};

/// The document.
pub(super) fn of(run: &Run, previous: Option<&Previous>) -> String {
    let mut text = format!("# tmws accept: {}\n\n", standing(run));
    for reason in &run.decided.reasons {
        let _ = writeln!(text, "- {}", cell(reason));
    }
    let _ = writeln!(
        text,
        "\n{} of {} passed, profile {}, seed {}, {} in {}.",
        run.decided.passed,
        run.asked,
        run.profile.name(),
        run.seed,
        run.begun.strftime(BEGUN),
        duration(run.elapsed)
    );
    if let Some(previous) = previous {
        let _ = writeln!(text, "\n{}", cell(&previous.said(run)));
    }
    text.push_str("\n| | scenario | | figures | took |\n|---|---|---|---|---|\n");
    for result in &run.results {
        let row = result.row;
        let figures: Vec<String> = result
            .seen
            .figures
            .iter()
            .map(|(name, value)| {
                let Some(figure) = row.figure(name) else {
                    return format!("{name} {}", with_unit(*value, ""));
                };
                let mut told = format!("{name} {}{}", with_unit(*value, figure.unit), thresholds(figure));
                if let Some(differs) = previous.and_then(|one| one.difference(row.id, figure, *value)) {
                    let _ = write!(told, ", {}", differs.text);
                }
                told
            })
            .collect();
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} |",
            row.id,
            cell(row.title),
            word(result.verdict),
            cell(&figures.join("; ")),
            duration(result.elapsed)
        );
    }
    let failed: Vec<_> = run.results.iter().filter(|result| result.verdict.is_failure()).collect();
    if !failed.is_empty() {
        text.push_str("\n## What failed\n");
    }
    for result in failed {
        let _ = writeln!(text, "\n**{} {}** ({})\n", result.row.id, result.row.title, result.row.area.name());
        for check in result.seen.checks.iter().filter(|check| !check.held) {
            let _ = writeln!(
                text,
                "- {}: expected {}, seen {}",
                cell(&check.what),
                cell(&check.expected),
                cell(&check.seen)
            );
        }
        if let Some(why) = super::why(result) {
            let _ = writeln!(text, "- {}", cell(why));
        }
        let _ = writeln!(text, "- Call first: {}.", result.row.area.call_first());
    }
    text
}

/// What a figure is held against, in brackets; nothing where nothing is.
pub(super) fn thresholds(figure: &FigureRow) -> String {
    let sign = match figure.better {
        Better::Less => "≤",
        Better::More => "≥",
    };
    match (figure.target, figure.critical) {
        (Some(target), Some(critical)) if target.to_bits() == critical.to_bits() => {
            format!(" ({sign} {})", with_unit(target, figure.unit))
        }
        (Some(target), Some(critical)) => {
            format!(" ({sign} {}, critical {})", with_unit(target, ""), with_unit(critical, figure.unit))
        }
        (Some(one), None) | (None, Some(one)) => format!(" ({sign} {})", with_unit(one, figure.unit)),
        (None, None) => String::new(),
    }
}

/// A verdict, so that a failure is seen.
pub(super) const fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => "passed",
        Verdict::Warned => "warned",
        Verdict::Failed => "**FAILED**",
        Verdict::Missing => "**MISSING**",
        Verdict::Waived => "waived",
    }
}

/// One line that Markdown takes for nothing but text.
fn cell(text: &str) -> String {
    const MAX: usize = 600;
    let mut line = String::with_capacity(text.len());
    for c in text.chars().take(MAX) {
        match c {
            '\n' | '\r' | '\t' => line.push(' '),
            c if c.is_control() => line.push('\u{fffd}'),
            '|' | '<' | '*' | '`' | '[' | ']' | '\\' => line.extend(['\\', c]),
            c => line.push(c),
        }
    }
    if text.chars().nth(MAX).is_some() {
        line.push('…');
    }
    line
}
