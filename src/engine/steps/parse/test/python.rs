//! pytest (any verbosity, `--tb` of any kind) and unittest.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
};

use super::{
    super::lines::{milliseconds, number, place},
    Block, Count, Failure, Report, Text, pairs,
};

/// What a line of equal signs or underlines holds between them: `== FAILURES ==`, `__ test_a __`.
fn banner(line: &str, sign: char) -> Option<&str> {
    let inner = line.trim_start_matches(sign);
    if line.len() - inner.len() < 2 || !line.ends_with(sign) {
        return None;
    }
    let inner = inner.trim_end_matches(sign);
    inner.strip_prefix(' ')?.strip_suffix(' ').map(str::trim)
}

/// `1 failed, 2 passed in 0.12s`: whether `text` is how pytest ends, and its parts.
fn ending(text: &str) -> Option<(&str, &str)> {
    let (counts, time) = text.rsplit_once(" in ")?;
    let time = time.split(" (").next().unwrap_or(time);
    let fits = time.ends_with('s') && time.starts_with(|char: char| char.is_ascii_digit());
    let counted = counts == "no tests ran"
        || counts.split(", ").all(|pair| {
            number(pair).is_some_and(|(_, word)| {
                matches!(
                    word,
                    " passed"
                        | " failed"
                        | " skipped"
                        | " error"
                        | " errors"
                        | " xfailed"
                        | " xpassed"
                        | " warning"
                        | " warnings"
                        | " deselected"
                        | " rerun"
                ) || word.starts_with(" subtests ")
            })
        });
    (fits && counted).then_some((counts, time))
}

/// Parts of pytest's output.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Part {
    #[default]
    Progress,
    Details,
    Summary,
    Other,
}

/// The details of one failure.
#[derive(Default)]
struct Detail {
    title: String,
    block: Block,
    errors: Vec<String>,
    places: Vec<(String, u64, String)>,
    /// The frame of a long traceback in which an error was said.
    raised: Option<(String, u64)>,
    unparsed: Option<(String, u64)>,
}

impl Detail {
    fn line(&mut self, line: &str) {
        self.block.push(line);
        if let Some(error) = line.strip_prefix("E ").map(str::trim).or_else(|| line.strip_prefix("E\t")) {
            if let Some((file, at)) = python_frame(error) {
                // A file that cannot be parsed: where it is wrong is said as part of the error.
                self.unparsed = Some((file.to_owned(), at));
                self.errors.clear();
            } else if self.unparsed.is_some() && error.contains("Error: ") {
                self.errors = vec![error.to_owned()];
            } else if self.errors.len() < 8 && !error.is_empty() {
                self.errors.push(error.to_owned());
            }
        } else if let Some((file, at, _, rest)) = place(line)
            && !file.contains(' ')
            && rest.starts_with(':')
        {
            let what = rest[1..].trim();
            if self.places.len() < 40 {
                self.places.push((file.to_owned(), at, what.to_owned()));
            }
            self.raised = Some((file.to_owned(), at));
        } else if let Some((file, at)) = python_frame(line) {
            self.raised = Some((file.to_owned(), at));
        }
    }

    /// The last place in the test's own file, else the last one.
    fn place(&self, test_file: Option<&str>) -> Option<(String, u64)> {
        if self.unparsed.is_some() {
            return self.unparsed.clone();
        }
        let own = test_file.and_then(|test| {
            self.places.iter().rev().find(|(file, ..)| file == test || file.ends_with(&format!("/{test}")))
        });
        match own.or(self.places.last()) {
            Some((file, line, _)) => Some((file.clone(), *line)),
            None => self.raised.clone(),
        }
    }

    fn message(&self) -> Option<String> {
        if self.errors.is_empty() {
            return self.places.last().map(|(.., what)| what.clone()).filter(|what| !what.is_empty());
        }
        Some(self.errors.join("\n"))
    }
}

/// `  File "/x/a.py", line 10, in f`
fn python_frame(line: &str) -> Option<(&str, u64)> {
    let (file, rest) = line.trim_start().strip_prefix("File \"")?.split_once("\", line ")?;
    Some((file, number(rest)?.0))
}

/// Reads what pytest prints.
pub(super) fn pytest(lines: &Text<'_>) -> Option<Report> {
    let sessions = Sessions::of(lines);
    if sessions.evidence.is_empty() {
        return None;
    }
    let mut report = Report::new("pytest");
    (report.evidence, report.runs) = (sessions.evidence, sessions.runs);
    let mut reader = Pytest { report, ends: sessions.ends, ..Pytest::default() };
    for (index, line) in lines.iter().enumerate() {
        reader.line(index, line);
    }
    Some(reader.end())
}

/// Which lines end a session; tests print lines that look alike.
#[derive(Default)]
struct Sessions {
    ends: HashSet<usize>,
    /// Lines that pytest is known by.
    evidence: Vec<usize>,
    /// From where to where tests ran or what they printed is shown.
    runs: Vec<Range<usize>>,
}

impl Sessions {
    fn of(lines: &Text<'_>) -> Self {
        let mut sessions = Self::default();
        // Where a session began, if it said so; where its details began; an end among them, which another one unmakes.
        let (mut began, mut details, mut maybe) = (None, None, None);
        for (index, line) in lines.iter().enumerate() {
            let title = banner(line, '=');
            if ending(title.unwrap_or(line)).is_some() {
                sessions.evidence.push(index);
                match (began, details) {
                    (Some(_), _) | (None, Some(_)) => maybe = Some(index),
                    (None, None) => drop(sessions.ends.insert(index)),
                }
                continue;
            }
            match title {
                Some("test session starts") => {
                    sessions.end(began.or(details), maybe.take());
                    (began, details) = (Some(index), None);
                }
                Some("FAILURES" | "ERRORS") if details.is_none() => details = Some(index),
                // Without a beginning an end that follows the summary is one, and another session may follow.
                Some("short test summary info") if began.is_none() => {
                    sessions.runs.extend(details.take().map(|details| details..index));
                    maybe = None;
                }
                Some("FAILURES" | "ERRORS" | "short test summary info") => {}
                _ => continue,
            }
            sessions.evidence.push(index);
        }
        sessions.end(began.or(details), maybe);
        sessions
    }

    fn end(&mut self, began: Option<usize>, end: Option<usize>) {
        self.ends.extend(end);
        if let (Some(began), Some(end)) = (began, end) {
            self.runs.push(began..end);
        }
    }
}

#[derive(Default)]
struct Pytest {
    report: Report,
    ends: HashSet<usize>,
    part: Part,
    details: Vec<Detail>,
    summary: Vec<(String, String)>,
    progress: Vec<String>,
    /// No title came yet in this part: with `--tb=line` none does.
    untitled: bool,
    loose: Vec<(String, u64, String)>,
    ended: bool,
    passed_seen: u64,
    skipped_seen: u64,
}

impl Pytest {
    fn line(&mut self, index: usize, line: &str) {
        let mut title = banner(line, '=');
        if let Some((counts, time)) = ending(title.unwrap_or(line)) {
            if self.ends.contains(&index) {
                self.counts(counts, time);
                self.part = Part::Progress;
                return;
            }
            title = None;
        }
        if let Some(title) = title {
            self.untitled = true;
            self.part = match title {
                "test session starts" => Part::Progress,
                "FAILURES" | "ERRORS" => Part::Details,
                "short test summary info" => Part::Summary,
                _ => Part::Other,
            };
            return;
        }
        match self.part {
            Part::Details => {
                if let Some(title) = banner(line, '_') {
                    self.untitled = false;
                    if self.details.len() < super::FAILURES_MAX {
                        self.details.push(Detail { title: title.to_owned(), ..Detail::default() });
                    }
                } else if self.untitled {
                    if let Some((file, at, _, rest)) = place(line)
                        && rest.starts_with(": ")
                        && self.loose.len() < super::FAILURES_MAX
                    {
                        self.loose.push((file.to_owned(), at, rest[2..].to_owned()));
                    }
                } else if let Some(detail) = self.details.last_mut() {
                    detail.line(line);
                }
            }
            Part::Summary => {
                let failed = line.strip_prefix("FAILED ").or_else(|| line.strip_prefix("ERROR "));
                let failed = match failed {
                    Some(rest) => Some(split_summary(rest)).map(|(id, said)| (id.to_owned(), said)),
                    None => subtest(line),
                };
                if let Some((id, message)) = failed
                    && self.summary.len() < super::FAILURES_MAX
                {
                    self.summary.push((id, message.to_owned()));
                }
            }
            Part::Progress => self.progress(line),
            Part::Other => {
                if line.starts_with("!!!") && line.contains("Interrupted: ") {
                    self.interrupted(line);
                }
            }
        }
        if self.part == Part::Summary && line.starts_with("!!!") && line.contains("Interrupted: ") {
            self.interrupted(line);
        }
    }

    fn interrupted(&mut self, line: &str) {
        self.report.say(line.trim_matches(['!', ' ']));
    }

    /// `tests/test_a.py::test_x PASSED [ 33%]`
    fn progress(&mut self, line: &str) {
        let Some((id, rest)) = line.split_once(' ') else { return };
        if !id.contains("::") {
            if let Some(error) = line.strip_prefix("ERROR: ")
                && self.report.error.is_none()
            {
                self.report.say(error);
            }
            return;
        }
        // An id with spaces in its parameters goes on to the closing bracket.
        let (id, rest) = match line.rfind("] ") {
            Some(at) if id.contains('[') && !id.ends_with(']') => (&line[..=at], &line[at + 2..]),
            _ => (id, rest),
        };
        match rest.split(' ').next().unwrap_or_default() {
            "PASSED" => self.passed_seen += 1,
            "SKIPPED" | "XFAIL" => self.skipped_seen += 1,
            "FAILED" | "ERROR" if self.progress.len() < super::FAILURES_MAX => {
                self.progress.push(id.to_owned());
            }
            word if word.starts_with("SUBFAIL") && self.progress.len() < super::FAILURES_MAX => {
                let label = rest.trim_start_matches(|char: char| char.is_ascii_uppercase());
                let label = label.rsplit_once(" [").map_or(label, |(label, _)| label).trim();
                self.progress.push(format!("{id} {label}"));
            }
            _ => {}
        }
    }

    fn counts(&mut self, counts: &str, time: &str) {
        self.ended = true;
        for (n, word) in pairs(counts, ',') {
            match word {
                "passed" | "xpassed" => self.report.count(Count::Passed, n),
                "failed" | "error" | "errors" => self.report.count(Count::Failed, n),
                "skipped" | "xfailed" => self.report.count(Count::Skipped, n),
                _ => {}
            }
        }
        self.report.last_for(milliseconds(time));
    }

    fn end(mut self) -> Report {
        if !self.ended {
            let (passed, skipped) = (self.passed_seen, self.skipped_seen);
            self.report.count(Count::Passed, passed);
            self.report.count(Count::Skipped, skipped);
            let failed = self.summary.len().max(self.details.len()).max(self.progress.len());
            self.report.count(Count::Failed, failed as u64);
            self.report.truncated = true;
            self.report.say("the run printed no result: it was ended, or the output was cut");
        }
        // Ids from the summary (or, where there is none, from the progress); details by their title.
        let mut ids = std::mem::take(&mut self.summary);
        if ids.is_empty() {
            ids = self.progress.drain(..).map(|id| (id, String::new())).collect();
        }
        let mut by_title: HashMap<String, Vec<usize>> = HashMap::new();
        for (index, detail) in self.details.iter().enumerate().rev() {
            by_title.entry(plain_title(&detail.title).to_owned()).or_default().push(index);
        }
        let mut used = vec![false; self.details.len()];
        let mut failures = Vec::new();
        for (id, message) in ids {
            let (file, test) = id.split_once("::").unwrap_or((&id, ""));
            let title = if test.is_empty() { file.to_owned() } else { test.replace("::", ".") };
            let found = by_title.get_mut(&title).and_then(Vec::pop);
            let detail = found.map(|index| {
                used[index] = true;
                &self.details[index]
            });
            let place = if let Some(detail) = detail {
                detail.place(Some(file))
            } else {
                // A line each, with the same words as the summary, which may be cut.
                let said = message.trim_end_matches("...");
                let at = self.loose.iter().position(|(.., what)| !said.is_empty() && what.starts_with(said));
                at.map(|at| self.loose.remove(at)).map(|(file, line, _)| (file, line))
            };
            let (place_file, line) = place.map_or((file.to_owned(), None), |(file, line)| (file, Some(line)));
            let message = detail.and_then(Detail::message).or(Some(message)).filter(|text| !text.is_empty());
            failures.push(Failure {
                file: Some(place_file),
                line,
                message: message.unwrap_or_else(|| "failed".to_owned()),
                detail: detail.map(|detail| detail.block.text.clone()),
                name: id,
            });
        }
        for (detail, _) in self.details.iter().zip(&used).filter(|(_, used)| !**used) {
            let (file, line) = detail.place(None).unzip();
            failures.push(Failure {
                name: detail.title.clone(),
                file,
                line,
                message: detail.message().unwrap_or_else(|| "failed".to_owned()),
                detail: Some(detail.block.text.clone()),
            });
        }
        for failure in failures {
            self.report.fail(failure);
        }
        self.report
    }
}

/// The title of a detail as an id has it: `ERROR at setup of test_a` is about `test_a`.
fn plain_title(title: &str) -> &str {
    ["ERROR collecting ", "ERROR at setup of ", "ERROR at teardown of "]
        .iter()
        .find_map(|prefix| title.strip_prefix(prefix))
        .unwrap_or(title)
}

/// `SUBFAILED[label] (n=2) a.py::test - assert 1`: the id with what names the subtest behind it, and the message.
fn subtest(line: &str) -> Option<(String, &str)> {
    let rest = line.strip_prefix("SUBFAIL")?;
    let rest = rest.strip_prefix("ED").unwrap_or(rest);
    let id = rest[..rest.find("::")?].rfind(' ')?;
    let (label, (id, message)) = (rest[..id].trim(), split_summary(&rest[id + 1..]));
    Some((format!("{id} {label}").trim_end().to_owned(), message))
}

/// `a.py::test[x - y] - assert 1`: the id ends where a dash stands outside brackets.
fn split_summary(text: &str) -> (&str, &str) {
    let mut depth = 0_usize;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'[' => depth += 1,
            b']' => depth = depth.saturating_sub(1),
            b' ' if depth == 0 && text[at..].starts_with(" - ") => return (&text[..at], &text[at + 3..]),
            _ => {}
        }
    }
    text.rsplit_once(" - ").filter(|_| depth > 0).unwrap_or((text, ""))
}

/// A test of unittest: its heading, what is said, the frames (whether each is the test's own), what was raised.
type Told = (String, Block, Vec<(String, u64, bool)>, String);

/// Reads what unittest prints.
pub(super) fn unittest(lines: &Text<'_>) -> Option<Report> {
    let ran = |line: &str| {
        line.strip_prefix("Ran ")
            .and_then(number)
            .filter(|(_, rest)| rest.starts_with(" test") && rest.contains(" in "))
            .map(|(n, rest)| (n, rest.rsplit_once(" in ").map_or("", |(_, time)| time).to_owned()))
    };
    // The line stands under a rule; one that a test printed does not.
    let ends: Vec<usize> = (1..lines.len())
        .filter(|index| ran(&lines[*index]).is_some() && is_rule(&lines[index - 1], b'-'))
        .collect();
    if ends.is_empty() {
        return None;
    }
    let mut report = Report::new("unittest");
    report.evidence.clone_from(&ends);
    // Whether the result is still to come, which stands below.
    let mut ended = false;
    let mut failing = Failing::default();
    let mut open: Option<Told> = None;
    let mut after_rule = false;
    for (index, line) in lines.iter().enumerate() {
        let line: &str = line;
        let unexpected = line.strip_prefix("UNEXPECTED SUCCESS: ");
        if let Some(header) = unexpected.filter(|_| after_rule) {
            // They are listed under one rule.
            failing.add(header.trim());
            close_unittest(&mut report, open.take());
            let said = "unexpected success".to_owned();
            close_unittest(&mut report, Some((header.trim().to_owned(), Block::default(), Vec::new(), said)));
            continue;
        }
        let header = line.strip_prefix("FAIL: ").or_else(|| line.strip_prefix("ERROR: "));
        if let Some(header) = header.filter(|_| after_rule) {
            close_unittest(&mut report, open.take());
            failing.add(header.trim());
            open = Some((header.trim().to_owned(), Block::default(), Vec::new(), String::new()));
            after_rule = false;
            continue;
        }
        after_rule = is_rule(line, b'=');
        if let Some((n, time)) = ran(line).filter(|_| ends.binary_search(&index).is_ok()) {
            close_unittest(&mut report, open.take());
            failing.over(&mut report);
            failing.ran = n;
            report.last_for(milliseconds(&time));
            ended = true;
        } else if let Some(rest) = line
            .strip_prefix("FAILED (")
            .or_else(|| line.strip_prefix("OK ("))
            .filter(|_| std::mem::take(&mut ended))
        {
            for pair in rest.trim_end_matches(')').split(", ") {
                let Some((word, n)) = pair.split_once('=') else { continue };
                let n = n.parse().unwrap_or(0);
                match word {
                    "failures" | "errors" | "unexpected successes" => {
                        report.count(Count::Failed, n);
                        failing.failures = failing.failures.saturating_add(n);
                    }
                    "skipped" | "expected failures" => {
                        report.count(Count::Skipped, n);
                        failing.skipped = failing.skipped.saturating_add(n);
                    }
                    _ => {}
                }
            }
            failing.over(&mut report);
        } else if let Some((_, block, frames, message)) = &mut open {
            if is_rule(line, b'-') {
                continue;
            }
            block.push(line);
            if let Some((file, at)) = python_frame(line) {
                if frames.len() < 100 {
                    let own = line.trim_end().rsplit_once(" in ").is_some_and(|(_, function)| {
                        function.starts_with("test") || function == "setUp" || function == "setUpClass"
                    });
                    frames.push((file.to_owned(), at, own));
                }
            } else if message.is_empty()
                && !line.starts_with([' ', '\t'])
                && !line.is_empty()
                && !line.starts_with("Traceback (most recent call last)")
            {
                line.clone_into(message);
            }
        }
    }
    close_unittest(&mut report, open.take());
    failing.over(&mut report);
    Some(report)
}

/// The tests of one run that failed. A test with subtests is one test, and fails once for each of them; one may fail
/// and fail again while it is torn down.
#[derive(Default)]
struct Failing {
    tests: HashSet<String>,
    /// Headings that were read, of classes and modules that could not be set up too.
    said: u64,
    ran: u64,
    failures: u64,
    skipped: u64,
}

impl Failing {
    /// A failure is headed `test_a (tests.test_x.TestX.test_a) (berth=1)`.
    fn add(&mut self, header: &str) {
        self.said += 1;
        let test = header.split_once(')').map_or(header, |(test, _)| test);
        let no_test = ["setUpClass (", "tearDownClass (", "setUpModule (", "tearDownModule ("];
        if !no_test.iter().any(|of| test.starts_with(of)) {
            self.tests.insert(test.to_owned());
        }
    }

    /// The run is over: those that ran and neither failed nor were left out passed. What it counted and did not say, as
    /// where the output was cut, failed too.
    fn over(&mut self, report: &mut Report) {
        let Self { tests, said, ran, failures, skipped } = &*self;
        if *ran > 0 {
            let failed = tests.len() as u64 + failures.saturating_sub(*said);
            report.count(Count::Passed, ran.saturating_sub(failed.saturating_add(*skipped)));
            *self = Self::default();
        }
    }
}

/// `======…`
fn is_rule(line: &str, sign: u8) -> bool {
    line.len() >= 40 && line.bytes().all(|byte| byte == sign)
}

fn close_unittest(report: &mut Report, open: Option<Told>) {
    let Some((header, block, frames, message)) = open else { return };
    // `test_a (tests.test_x.TestX.test_a)`, before Python 3.11 `test_a (tests.test_x.TestX)`.
    let name = match header.split_once(" (") {
        Some((method, rest)) => {
            let class = rest.split(')').next().unwrap_or(rest);
            if class.ends_with(&format!(".{method}")) {
                class.to_owned()
            } else {
                format!("{class}.{method}")
            }
        }
        None => header,
    };
    let place = frames.iter().rev().find(|(.., own)| *own).or(frames.last());
    let (file, line) = place.map(|(file, line, _)| (file.clone(), *line)).unzip();
    let detail = Some(block.text.clone()).filter(|text| text.lines().count() > 1);
    let message = if message.is_empty() { "failed".to_owned() } else { message };
    report.fail(Failure { name, file, line, message, detail });
}
