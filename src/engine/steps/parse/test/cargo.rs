//! `cargo test` (libtest, all binaries and doc tests of a run) and `cargo nextest`.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    ops::Range,
};

use super::{
    super::lines::{milliseconds, place},
    Block, Count, Failure, Report, Text, is_in, pairs,
};

/// Most panics remembered by the thread that they were in.
const PANICS_MAX: usize = 1000;

/// Where and why a thread panicked.
#[derive(Clone, Default)]
struct Panic {
    file: String,
    line: u64,
    message: String,
}

/// The panics that are said in a text.
#[derive(Default)]
struct Panics {
    by_thread: HashMap<String, Panic>,
    open: Option<(String, usize)>,
}

impl Panics {
    /// Takes note of `line`; what follows the line of a panic is its message.
    fn line(&mut self, line: &str) {
        if let Some((thread, panic)) = panicked(line) {
            let says_all = !panic.message.is_empty();
            if self.by_thread.len() < PANICS_MAX {
                self.by_thread.entry(thread.to_owned()).or_insert(panic);
            }
            self.open = (!says_all).then(|| (thread.to_owned(), 0));
            return;
        }
        let Some((thread, n)) = &mut self.open else { return };
        let text = line.trim_end();
        if *n >= 12
            || ends_panic(text)
            || text.is_empty() && *n > 0
            || text.trim_start().starts_with("stack backtrace:")
        {
            self.open = None;
            return;
        }
        *n += 1;
        if let Some(panic) = self.by_thread.get_mut(thread.as_str())
            && panic.message.len() < super::MESSAGE_BYTES_MAX
        {
            if !panic.message.is_empty() {
                panic.message.push('\n');
            }
            panic.message.push_str(text.trim());
        }
    }
}

fn ends_panic(line: &str) -> bool {
    let line = line.trim_start();
    line.starts_with("note: run with `RUST_BACKTRACE")
        || line.starts_with("note: Some details are omitted")
        || line.starts_with("test result: ")
        || line.starts_with("---- ")
        || line == "failures:"
        || line.starts_with("test ") && line.contains(" ... ")
}

/// `thread 'a::b' panicked at src/lib.rs:1:2:`, with the id of the thread, or as before 1.73 with the message first.
fn panicked(line: &str) -> Option<(&str, Panic)> {
    let rest = &line[line.find("thread '")? + "thread '".len()..];
    let (thread, rest) = rest.split_once('\'')?;
    let at = rest.find(" panicked at ")?;
    if at > 24 {
        return None;
    }
    let rest = &rest[at + " panicked at ".len()..];
    if let Some(old) = rest.strip_prefix('\'') {
        let (message, at) = old.rsplit_once("', ")?;
        let (file, line, ..) = place(at)?;
        return Some((thread, Panic { file: file.to_owned(), line, message: message.to_owned() }));
    }
    let (file, line, ..) = place(rest)?;
    Some((thread, Panic { file: file.to_owned(), line, message: String::new() }))
}

/// One `---- name stdout ----`.
struct Section {
    name: String,
    panics: Panics,
    block: Block,
    error: Option<String>,
    place: Option<(String, u64)>,
}

impl Section {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            panics: Panics::default(),
            block: Block::default(),
            error: None,
            place: None,
        }
    }

    fn line(&mut self, line: &str) {
        self.panics.line(line);
        self.block.push(line);
        if let Some(at) = line.strip_prefix("note: test did not panic as expected") {
            self.error = Some("did not panic as expected".to_owned());
            self.place =
                at.strip_prefix(" at ").and_then(place).map(|(file, line, ..)| (file.to_owned(), line));
        } else if self.error.is_none() && (line.starts_with("Error: ") || line.starts_with("error")) {
            self.error = Some(line.trim().to_owned());
        }
    }

    fn into_failure(self, said: &Panics) -> Failure {
        // The panic of the test's own thread, else the first one said; doc tests panic in `main`.
        let own = &self.panics.by_thread;
        let panic = own
            .get(&self.name)
            .or_else(|| own.get("main"))
            .or_else(|| said.by_thread.get(&self.name))
            .or_else(|| doc_test(&self.name).and_then(|_| said.by_thread.get("main")))
            .or_else(|| own.values().min_by(|a, b| (&a.file, a.line).cmp(&(&b.file, b.line))));
        let documented = doc_test(&self.name);
        let (file, line) = match (documented, panic) {
            (Some((file, line)), _) => (Some(file.to_owned()), Some(line)),
            (None, Some(panic)) => (Some(panic.file.clone()), Some(panic.line)),
            (None, None) => self.place.unzip(),
        };
        let message = panic
            .map(|panic| panic.message.clone())
            .filter(|message| !message.is_empty())
            .or(self.error)
            .unwrap_or_else(|| first_line(&self.block.text));
        let detail = Some(self.block.text).filter(|text| text.lines().count() > 1 + message.lines().count());
        Failure { name: self.name, file, line, message, detail }
    }
}

fn first_line(text: &str) -> String {
    text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("failed").to_owned()
}

/// `src/lib.rs - add (line 3)`, also ` - compile fail` and the like: a doc test's place.
fn doc_test(name: &str) -> Option<(&str, u64)> {
    let (file, rest) = name.split_once(" - ")?;
    let (_, rest) = rest.rsplit_once("(line ")?;
    let (line, _) = rest.split_once(')')?;
    Some((file, line.parse().ok()?))
}

/// Reads what `cargo test` prints.
pub(super) fn libtest(lines: &Text<'_>) -> Option<Report> {
    let programs = Programs::of(lines);
    let mut evidence: Vec<usize> = programs.begins.iter().chain(&programs.ends).copied().collect();
    evidence.extend(lines.iter().enumerate().filter_map(|(index, line)| {
        let failed = line.starts_with("error: could not compile `")
            && (line.contains(" test)") || line.contains(" test\""));
        failed.then_some(index)
    }));
    if evidence.is_empty() {
        return None;
    }
    let mut report = Report::new("cargo");
    (report.evidence, report.runs) = (evidence, programs.runs.clone());
    let mut reader = Libtest { report, programs, ..Libtest::default() };
    for (index, line) in lines.iter().enumerate() {
        reader.line(index, line);
    }
    Some(reader.end(lines))
}

/// `running 3 tests`
fn running(line: &str) -> Option<u64> {
    let rest = line.strip_prefix("running ")?;
    let n = rest.strip_suffix(" tests").or_else(|| rest.strip_suffix(" test"))?;
    n.bytes().all(|byte| byte.is_ascii_digit()).then(|| n.parse().ok()).flatten()
}

/// How many tests a result is about.
fn tests_of(line: &str) -> Option<u64> {
    let counts = line.strip_prefix("test result: ")?;
    let counts = counts.split_once(". ").map_or(counts, |(_, counts)| counts);
    let ran = |word: &str| matches!(word, "passed" | "failed" | "ignored" | "measured");
    Some(pairs(counts, ';').filter(|(_, word)| ran(word)).fold(0, |sum, (n, _)| sum.saturating_add(n)))
}

/// Which lines are those of test programs. Tests print lines that look alike; but a program says at its end as many tests as
/// at its beginning, and what stands between the two is none of its own.
#[derive(Default)]
struct Programs {
    /// `running 3 tests`.
    begins: BTreeSet<usize>,
    /// `test result: …`.
    ends: BTreeSet<usize>,
    /// The `failures:` that ends what the tests printed.
    lists: BTreeSet<usize>,
    /// From beginning to end.
    runs: Vec<Range<usize>>,
}

impl Programs {
    fn of(lines: &Text<'_>) -> Self {
        let mut programs = Self::default();
        let mut results: HashMap<u64, Vec<usize>> = HashMap::new();
        let (mut all, mut beginnings, mut headers, mut lists) = (vec![], vec![], vec![], vec![]);
        for (index, line) in lines.iter().enumerate() {
            if let Some(n) = tests_of(line) {
                results.entry(n).or_default().push(index);
                all.push(index);
            } else if let Some(n) = running(line) {
                beginnings.push((index, n));
            } else if line.starts_with("     Running ") || line.starts_with("   Doc-tests ") {
                headers.push(index);
            } else if &**line == "failures:" {
                lists.push(index);
            }
        }
        let after = |sorted: &[usize], line: usize| {
            sorted.get(sorted.partition_point(|at| *at <= line)).copied().unwrap_or(lines.len())
        };
        let begins: Vec<usize> = beginnings.iter().map(|(index, _)| *index).collect();
        let mut behind = 0;
        for (begin, n) in &beginnings {
            if *begin < behind {
                continue;
            }
            programs.begins.insert(*begin);
            let results = results.get(n).map_or(&[][..], Vec::as_slice);
            let (limit, first) = (after(&headers, *begin), after(results, *begin));
            if first >= limit {
                continue;
            }
            // Of several the last one before something else begins.
            let limit = limit.min(after(&begins, first));
            let end = results[..results.partition_point(|at| *at < limit)].last().copied().unwrap_or(first);
            programs.ends.insert(end);
            programs.runs.push(*begin..end);
            let list = lists[..lists.partition_point(|at| *at < end)].last().filter(|at| *at > begin);
            programs.lists.extend(list);
            behind = end;
        }
        // Where the beginning is cut off, an end stands alone.
        let first = begins.first().copied().unwrap_or(lines.len());
        for end in all.into_iter().take_while(|end| *end < first) {
            programs.ends.insert(end);
            let list = lists[..lists.partition_point(|at| *at < end)].last();
            programs.lists.extend(list);
        }
        programs
    }
}

#[derive(Default)]
struct Libtest {
    report: Report,
    programs: Programs,
    panics: Panics,
    section: Option<Section>,
    /// Tests whose line said FAILED since the last `running`, and how many said what.
    failed: Vec<(String, Option<String>)>,
    seen: [u64; 3],
    /// Names that have a section.
    told: HashSet<String>,
    /// Between `running` and `test result`.
    running: bool,
    announced: bool,
    /// The test of an unfinished line `test a ... `.
    current: Option<String>,
    /// What follows it on its line.
    said: Option<String>,
}

impl Libtest {
    fn line(&mut self, index: usize, line: &str) {
        if let Some(rest) = line.strip_prefix("---- ")
            && let Some(name) = rest.strip_suffix(" ----")
        {
            self.close();
            let name = name.strip_suffix(" stdout").or_else(|| name.strip_suffix(" stderr")).unwrap_or(name);
            self.section = Some(Section::new(name));
            return;
        }
        if let Some(rest) = line.strip_prefix("test result: ").filter(|_| self.programs.ends.contains(&index))
        {
            self.close();
            self.result(rest);
            return;
        }
        if let Some(section) = &mut self.section {
            let ends = line == "failures:"
                && (self.programs.lists.contains(&index) || !is_in(&self.programs.runs, index));
            if ends {
                self.close();
            } else {
                section.line(line);
            }
            return;
        }
        if self.programs.begins.contains(&index) {
            self.abandon();
            self.running = true;
            self.announced = true;
            return;
        }
        self.panics.line(line);
        if let Some((name, outcome)) = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) {
            let name = name.strip_suffix(" - should panic").unwrap_or(name);
            self.said = None;
            if !self.outcome(name, outcome) {
                self.current = Some(name.to_owned());
                self.said = outcome.starts_with("Error: ").then(|| outcome.trim_end().to_owned());
            }
        } else if let Some(name) = self.current.take_if(|_| matches!(line, "ok" | "FAILED" | "ignored")) {
            self.outcome(&name, line);
        } else if let Some(rest) = line.strip_prefix("thread '")
            && let Some((name, rest)) = rest.split_once('\'')
            && rest.contains("has overflowed its stack")
        {
            self.report.fail(Failure {
                name: name.to_owned(),
                message: "has overflowed its stack".to_owned(),
                ..Failure::default()
            });
            self.report.failed += 1;
        } else if line.starts_with("error: could not compile") || line.starts_with("error: no test target") {
            self.report.say(line.trim_start_matches("error: "));
        } else if line.contains("process didn't exit successfully") && line.contains("(signal: ") {
            let why = line.rsplit_once('(').map_or(line, |(_, why)| why.trim_end_matches(')'));
            self.report.say(format!("a test program was ended by a {why}"));
        }
    }

    /// Counts what a line says about a test; `false` where it does not say how it ended.
    fn outcome(&mut self, name: &str, outcome: &str) -> bool {
        if outcome == "ok" || outcome.starts_with("ok <") {
            self.seen[0] += 1;
        } else if outcome == "FAILED" || outcome.starts_with("FAILED <") || outcome.ends_with(" FAILED") {
            self.seen[1] += 1;
            if self.failed.len() < super::FAILURES_MAX {
                self.failed.push((name.to_owned(), self.said.take()));
            }
        } else if outcome == "ignored" || outcome.starts_with("ignored,") {
            self.seen[2] += 1;
        } else {
            return false;
        }
        true
    }

    fn close(&mut self) {
        if let Some(section) = self.section.take() {
            // A test may have a section for each stream.
            if !self.told.contains(&section.name) {
                self.told.insert(section.name.clone());
                self.report.fail(section.into_failure(&self.panics));
            }
        }
    }

    /// `FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s`
    fn result(&mut self, rest: &str) {
        let counts = rest.split_once(". ").map_or(rest, |(_, counts)| counts);
        let mut total = [0; 3];
        for (n, word) in pairs(counts, ';') {
            match word {
                "passed" => total[0] += n,
                "failed" => total[1] += n,
                "ignored" => total[2] += n,
                _ => {}
            }
        }
        if let Some((_, time)) = counts.rsplit_once("finished in ") {
            self.report.last_for(milliseconds(time));
        }
        self.count(total);
        self.unsaid();
        self.running = false;
    }

    fn count(&mut self, [passed, failed, skipped]: [u64; 3]) {
        self.report.count(Count::Passed, passed);
        self.report.count(Count::Failed, failed);
        self.report.count(Count::Skipped, skipped);
        self.seen = [0; 3];
        self.current = None;
    }

    /// Failures that have no section: their output was not captured.
    fn unsaid(&mut self) {
        for (name, said) in std::mem::take(&mut self.failed) {
            if self.told.contains(&name) {
                continue;
            }
            let section = Section { error: said, ..Section::new(&name) };
            self.report.fail(section.into_failure(&self.panics));
        }
        self.told.clear();
        self.panics = Panics::default();
    }

    /// A program whose result never came: what was seen of it counts.
    fn abandon(&mut self) {
        if self.running {
            let seen = self.seen;
            self.count(seen);
            self.unsaid();
            self.report.truncated = true;
            self.running = false;
        }
    }

    fn end(mut self, lines: &Text<'_>) -> Report {
        self.close();
        let cut = self.running;
        self.abandon();
        if cut {
            self.report.say("a test program printed no result: it was ended, or the output was cut");
        }
        if self.report.error.as_deref().is_some_and(|error| error.starts_with("could not compile")) {
            let built = super::super::build::read(lines, Some("rustc"));
            for diagnostic in built.errors() {
                self.report.fail(Failure {
                    name: diagnostic
                        .code
                        .clone()
                        .map_or_else(|| "compile error".to_owned(), |code| format!("compile error {code}")),
                    file: diagnostic.file.clone(),
                    line: diagnostic.line,
                    message: diagnostic.message.clone(),
                    detail: None,
                });
            }
        }
        self.report
    }
}

/// Words that `cargo nextest` puts before a test that did not pass.
const NEXTEST_FAILED: &[&str] = &["FAIL", "TIMEOUT", "ABORT", "EXECFAIL", "LEAK-FAIL"];

/// Reads what `cargo nextest run` prints.
pub(super) fn nextest(lines: &Text<'_>) -> Option<Report> {
    let begun = lines.iter().any(|line| {
        let line = line.trim_start();
        line.starts_with("Nextest run ID ") || line.starts_with("Summary [") && line.contains(" run: ")
    });
    if !begun {
        return None;
    }
    let mut report = Report::new("nextest");
    let mut sections: Vec<(String, Section)> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut open: Option<usize> = None;
    let mut summed = false;
    let mut seen = [0_u64; 2];
    for line in lines {
        let trimmed = line.trim_start();
        if let Some(rest) = trimmed.strip_prefix("Summary [") {
            summed = true;
            open = None;
            if let Some((time, counts)) = rest.split_once(']') {
                report.last_for(milliseconds(time));
                summary(&mut report, counts);
            }
            continue;
        }
        if let Some((word, name)) = status(trimmed) {
            open = None;
            if word == "PASS" || word == "LEAK" {
                seen[0] += 1;
            } else if NEXTEST_FAILED.contains(&word) || word.starts_with("SIG") {
                let place = *places.entry(name.to_owned()).or_insert_with(|| {
                    let (_, test) = name.rsplit_once(' ').unwrap_or(("", name));
                    let mut section = Section::new(test);
                    section.error = match word {
                        "FAIL" => None,
                        "TIMEOUT" => Some("timed out".to_owned()),
                        word => Some(format!("ended by {word}")),
                    };
                    sections.push((name.to_owned(), section));
                    sections.len() - 1
                });
                seen[1] = sections.len() as u64;
                open = (!summed && sections.len() <= super::FAILURES_MAX).then_some(place);
            }
            continue;
        }
        if trimmed.starts_with("────") || trimmed.starts_with("Cancelling") {
            open = None;
        } else if let Some(place) = open
            && !trimmed.starts_with("stdout ─")
            && !trimmed.starts_with("stderr ─")
            && !trimmed.starts_with("--- STD")
        {
            sections[place].1.line(line.strip_prefix("    ").unwrap_or(line));
        } else if let Some(error) = line.strip_prefix("error: ")
            && error.starts_with("could not compile")
        {
            report.say(error);
        }
    }
    if !summed {
        report.count(Count::Passed, seen[0]);
        report.count(Count::Failed, seen[1]);
        report.say("the run printed no summary: it was ended, or the output was cut");
        report.truncated = true;
    }
    let nothing = Panics::default();
    for (name, section) in sections {
        let mut failure = section.into_failure(&nothing);
        failure.name = name;
        report.fail(failure);
    }
    Some(report)
}

/// `FAIL [   0.004s] (1/3) crate tests::b`: the word and what follows the time and the place in the run.
fn status(line: &str) -> Option<(&str, &str)> {
    let (word, rest) = line.split_once(" [")?;
    if word.is_empty()
        || word.contains(' ')
        || !word.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-')
    {
        return None;
    }
    let (time, name) = rest.split_once(']')?;
    if !time.trim_start_matches([' ', '>']).ends_with('s') {
        return None;
    }
    let name = name.trim();
    let name = match name.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
        Some((at, rest)) if at.contains('/') => rest.trim(),
        _ => name,
    };
    Some((word, name))
}

/// `3 tests run: 2 passed (1 slow), 1 failed, 1 skipped`
fn summary(report: &mut Report, counts: &str) {
    let Some((_, counts)) = counts.split_once(" run: ") else { return };
    for (n, word) in pairs(counts, ',') {
        match word.split(' ').next().unwrap_or(word) {
            "passed" => report.count(Count::Passed, n),
            "failed" | "timed" | "exec" => report.count(Count::Failed, n),
            "skipped" => report.count(Count::Skipped, n),
            _ => {}
        }
    }
}
