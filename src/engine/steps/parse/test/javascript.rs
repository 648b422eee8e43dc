//! vitest, jest and mocha.

use std::collections::HashSet;

use super::{super::lines::milliseconds, Block, Count, Failure, Report, Text, frame, pairs};

/// Notes a failure once: runners repeat those of large runs at the end.
fn fail_once(report: &mut Report, seen: &mut HashSet<String>, failure: Failure) {
    if seen.len() < 10 * super::FAILURES_MAX && seen.insert(format!("{:?}{}", failure.file, failure.name)) {
        report.fail(failure);
    }
}

/// The first lines of a block up to the first blank one behind them, and the first place that a frame names.
fn read_block(block: &Block) -> (String, Option<(String, u64)>, Option<String>) {
    let text = block.dedented();
    let mut message = String::new();
    let mut place = None;
    let mut expectation = Vec::new();
    let mut done = false;
    for line in text.lines() {
        if place.is_none() {
            place = frame(line);
        }
        let is_frame = line.trim_start().starts_with("at ") || line.trim_start().starts_with("❯ ");
        if line.trim().is_empty() || is_frame {
            done |= !message.is_empty();
        } else if !done && message.lines().count() < 4 {
            if !message.is_empty() {
                message.push('\n');
            }
            message.push_str(line.trim());
        }
        let trimmed = line.trim_start();
        let said = [
            "Expected:",
            "Received:",
            "Expected substring:",
            "Received string:",
            "Expected length:",
            "Received length:",
        ];
        if done && expectation.len() < 3 && said.iter().any(|said| trimmed.starts_with(said)) {
            expectation.push(trimmed.trim_end().to_owned());
        }
    }
    for line in expectation {
        message.push('\n');
        message.push_str(&line);
    }
    let detail = Some(text).filter(|text| text.lines().count() > message.lines().count());
    (message, place, detail)
}

/// `Tests:  1 failed, 2 passed, 3 total`, or with vitest's bars.
fn totals(report: &mut Report, text: &str, separator: char) {
    for (n, word) in pairs(text.split(" (").next().unwrap_or(text), separator) {
        match word {
            "passed" => report.count(Count::Passed, n),
            "failed" => report.count(Count::Failed, n),
            "skipped" | "todo" | "pending" => report.count(Count::Skipped, n),
            _ => {}
        }
    }
}

/// The place in the test's own file that a stack names: it says more than one in what the test calls.
fn own_frame(block: &Block, file: &str) -> Option<(String, u64)> {
    let (path, line) = block
        .text
        .lines()
        .filter_map(frame)
        .find(|(path, _)| path.ends_with(file) || file.ends_with(&format!("/{path}")))?;
    Some((if file.len() > path.len() { file.to_owned() } else { path }, line))
}

/// Reads what jest prints.
pub(super) fn jest(lines: &Text<'_>) -> Option<Report> {
    let begins = |line: &str, word: &str| line.starts_with(word) && line.contains(" total");
    let looks =
        |line: &str| begins(line, "Tests:") || begins(line, "Test Suites:") || line.starts_with("  ● ");
    if !lines.iter().any(|line| looks(line)) {
        return None;
    }
    let mut report = Report::new("jest");
    let mut seen = HashSet::new();
    let mut file: Option<String> = None;
    let mut open: Option<(String, Option<String>, Block)> = None;
    let mut summed = false;
    for line in lines {
        let line: &str = line;
        let word = line.strip_prefix(' ').unwrap_or(line);
        let suite = word.strip_prefix("FAIL ").or_else(|| word.strip_prefix("PASS "));
        let ends = suite.is_some() || line.starts_with("Test Suites:") || line.starts_with("  ● ");
        if ends {
            close_jest(&mut report, &mut seen, open.take());
        }
        if let Some(suite) = suite {
            let path = suite.trim_start();
            let path = path.split(" (").next().unwrap_or(path).trim_end();
            // With several projects the name of one comes first.
            file = Some(path.rsplit(' ').next().unwrap_or(path).to_owned());
        } else if let Some(name) = line.strip_prefix("  ● ") {
            // What a test wrote to the console is told with the same sign.
            if name != "Console" {
                open = Some((name.trim().to_owned(), file.clone(), Block::default()));
            }
        } else if begins(line, "Tests:") {
            summed = true;
            totals(&mut report, line.trim_start_matches("Tests:"), ',');
        } else if begins(line, "Test Suites:") {
            summed = true;
        } else if let Some(time) = line.strip_prefix("Time:") {
            report.last_for(milliseconds(time.split(',').next().unwrap_or(time)));
        } else if let Some((.., block)) = &mut open {
            block.push(line);
        }
    }
    close_jest(&mut report, &mut seen, open.take());
    if !summed {
        let n = report.failures_n as u64;
        report.count(Count::Failed, n);
        report.truncated = true;
        report.say("the run printed no totals: it was ended, or the output was cut");
    }
    Some(report)
}

fn close_jest(
    report: &mut Report,
    seen: &mut HashSet<String>,
    open: Option<(String, Option<String>, Block)>,
) {
    let Some((name, file, block)) = open else { return };
    let (message, place, detail) = read_block(&block);
    let suite = name == "Test suite failed to run";
    if suite {
        report.say(format!("{} did not run", file.as_deref().unwrap_or("a test suite")));
    }
    let (at, line) = match file.as_deref().and_then(|file| own_frame(&block, file)).or(place) {
        Some((path, line)) => (Some(path), Some(line)),
        None => (file.clone(), None),
    };
    fail_once(report, seen, Failure { name, file: at.or(file), line, message, detail });
}

/// Reads what vitest prints.
pub(super) fn vitest(lines: &Text<'_>) -> Option<Report> {
    let looks = |line: &str| {
        line.strip_prefix(" RUN  v").or_else(|| line.strip_prefix(" DEV  v")).is_some()
            || line.starts_with(" Test Files  ")
            || line.starts_with("⎯⎯") && line.contains(" Failed ")
    };
    if !lines.iter().any(|line| looks(line)) {
        return None;
    }
    let mut report = Report::new("vitest");
    let mut seen = HashSet::new();
    let mut open: Option<(Vec<String>, Block)> = None;
    let mut summed = false;
    for line in lines {
        let line: &str = line;
        if let Some(name) = line.strip_prefix(" FAIL  ") {
            // Tests that fail alike are told together: several headings, one block.
            match &mut open {
                Some((names, block)) if block.text.is_empty() => names.push(name.trim().to_owned()),
                _ => {
                    close_vitest(&mut report, &mut seen, open.take());
                    open = Some((vec![name.trim().to_owned()], Block::default()));
                }
            }
        } else if line.starts_with("⎯⎯") {
            close_vitest(&mut report, &mut seen, open.take());
        } else if line.starts_with(" Test Files  ") {
            close_vitest(&mut report, &mut seen, open.take());
            summed = true;
        } else if let Some(counts) = line.strip_prefix("      Tests  ") {
            summed = true;
            totals(&mut report, counts, '|');
        } else if let Some(time) = line.strip_prefix("   Duration  ") {
            report.last_for(milliseconds(time.split(" (").next().unwrap_or(time)));
        } else if let Some(rest) = line.strip_prefix("     Errors  ") {
            report.say(format!("unhandled errors: {}", rest.trim()));
        } else if let Some((_, block)) = &mut open {
            block.push(line);
        }
    }
    close_vitest(&mut report, &mut seen, open.take());
    if !summed {
        let n = report.failures_n as u64;
        report.count(Count::Failed, n);
        report.truncated = true;
        report.say("the run printed no totals: it was ended, or the output was cut");
    }
    Some(report)
}

fn close_vitest(report: &mut Report, seen: &mut HashSet<String>, open: Option<(Vec<String>, Block)>) {
    let Some((names, block)) = open else { return };
    let (message, place, detail) = read_block(&block);
    for name in names {
        // `a.test.ts [ a.test.ts ]` is a file that did not load; `|project| a.test.ts > suite > name` a test.
        let (file, name) = if let Some((file, name)) = name.split_once(" > ") {
            (file.to_owned(), name.to_owned())
        } else {
            let file = name.split(" [").next().unwrap_or(&name).to_owned();
            report.say(format!("{file} did not run"));
            (file.clone(), file)
        };
        let file = file.rsplit(' ').next().unwrap_or(&file).to_owned();
        let (at, line) = match own_frame(&block, &file).or(place.clone()) {
            Some((path, line)) => (path, Some(line)),
            None => (file, None),
        };
        let failure =
            Failure { name, file: Some(at), line, message: message.clone(), detail: detail.clone() };
        fail_once(report, seen, failure);
    }
}

/// Reads what mocha's `spec`, `dot` and similar reporters print.
pub(super) fn mocha(lines: &Text<'_>) -> Option<Report> {
    let total = |line: &str| {
        let (n, word) = line.trim().split_once(' ')?;
        let n: u64 = n.parse().ok()?;
        let (word, time) = word.split_once(" (").unwrap_or((word, ""));
        matches!(word, "passing" | "pending" | "failing")
            .then(|| (n, word.to_owned(), time.trim_end_matches(')').to_owned()))
    };
    if !lines.iter().any(|line| line.starts_with("  ") && total(line).is_some()) {
        return None;
    }
    let mut report = Report::new("mocha");
    let mut failing = false;
    let mut open: Option<(Vec<String>, bool, Block)> = None;
    for line in lines {
        let line: &str = line;
        if let Some((n, word, time)) = total(line).filter(|_| line.starts_with("  ")) {
            report.last_for(milliseconds(&time));
            match word.as_str() {
                "passing" => report.count(Count::Passed, n),
                "pending" => report.count(Count::Skipped, n),
                _ => {
                    failing = true;
                    report.count(Count::Failed, n);
                }
            }
            continue;
        }
        if !failing {
            continue;
        }
        let heading = line.strip_prefix("  ").and_then(|rest| {
            let (n, title) = rest.split_once(") ")?;
            (!n.is_empty() && n.bytes().all(|byte| byte.is_ascii_digit())).then_some(title)
        });
        if let Some(title) = heading {
            close_mocha(&mut report, open.take());
            let whole = title.ends_with(':');
            open = Some((vec![title.trim_end_matches(':').to_owned()], whole, Block::default()));
        } else if let Some((names, named, block)) = &mut open {
            // The name goes on, a line a level, up to the one that ends with a colon.
            if !*named && line.starts_with("       ") && block.text.is_empty() && names.len() < 20 {
                let name = line.trim();
                *named = name.ends_with(':');
                names.push(name.trim_end_matches(':').to_owned());
            } else {
                block.push(line);
            }
        }
    }
    close_mocha(&mut report, open.take());
    Some(report)
}

fn close_mocha(report: &mut Report, open: Option<(Vec<String>, bool, Block)>) {
    let Some((names, _, block)) = open else { return };
    let (message, place, detail) = read_block(&block);
    let (file, line) = place.unzip();
    report.fail(Failure { name: names.join(" > "), file, line, message, detail });
}
