//! `go test`: plain, `-v` and `-json`.

use std::collections::HashMap;

use serde_json::Value;

use super::{
    super::lines::{milliseconds, place},
    Block, Count, Failure, Report, Text,
};

/// Most tests whose output is remembered.
const TESTS_MAX: usize = 20_000;

/// Reads what `go test` prints.
pub(super) fn read(lines: &Text<'_>) -> Option<Report> {
    let json = |line: &str| {
        line.starts_with('{') && line.contains("\"Action\":\"") && line.contains("\"Package\":\"")
    };
    if lines.iter().any(|line| json(line)) {
        return Some(read_json(lines));
    }
    let looks = |line: &str| {
        package(line).is_some() || line.starts_with("--- FAIL: ") || line.starts_with("=== RUN   ")
    };
    lines.iter().any(|line| looks(line)).then(|| {
        let mut reader = Reader { report: Report::new("go"), ..Reader::default() };
        for line in lines {
            reader.line(line);
        }
        reader.end()
    })
}

/// How a package ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    Ok,
    Failed,
    Untested,
}

/// `ok  \tm/a\t0.1s`, `FAIL\tm/b [build failed]`, `?   \tm/c\t[no test files]`
fn package(line: &str) -> Option<(Ended, &str, &str)> {
    let (word, rest) = line.split_once('\t')?;
    let ended = match word.trim_end() {
        "ok" => Ended::Ok,
        "FAIL" => Ended::Failed,
        "?" | "" => Ended::Untested,
        _ => return None,
    };
    let (name, rest) = rest.split_once(['\t', ' ']).unwrap_or((rest, ""));
    let said = match ended {
        Ended::Ok => rest.starts_with('(') || rest.starts_with(|char: char| char.is_ascii_digit()),
        Ended::Failed => rest.starts_with('[') || rest.starts_with(|char: char| char.is_ascii_digit()),
        Ended::Untested => rest.contains("[no test files]") || rest.contains("coverage: "),
    };
    (said && !name.is_empty()).then_some((ended, name, rest))
}

/// `    --- FAIL: TestA/sub (0.00s)`: the word, the name.
fn verdict(line: &str) -> Option<(&str, &str)> {
    let (word, rest) = line.trim_start_matches(' ').strip_prefix("--- ")?.split_once(": ")?;
    matches!(word, "FAIL" | "PASS" | "SKIP").then(|| (word, rest.split(" (").next().unwrap_or(rest)))
}

/// A test that failed, before it is known whether one of its subtests is the reason.
struct Test {
    name: String,
    block: Block,
}

#[derive(Default)]
struct Reader {
    report: Report,
    /// Of the package being read.
    tests: Vec<Test>,
    /// What a test printed under `-v`, before its verdict.
    printed: HashMap<String, Block>,
    running: Option<String>,
    /// The failed test whose lines follow.
    open: Option<usize>,
    panic: Option<(String, Block)>,
    /// Compiler messages of a package, by its name.
    builds: HashMap<String, Block>,
    building: Option<String>,
    packages: [u64; 3],
    verbose: bool,
    /// The package did not build, which is told at its end.
    broken: bool,
}

impl Reader {
    fn line(&mut self, line: &str) {
        if let Some((ended, name, rest)) = package(line) {
            self.package(ended, name, rest);
            return;
        }
        if let Some((word, name)) = verdict(line) {
            self.building = None;
            self.verdict(word, name);
            return;
        }
        if let Some(rest) = line.strip_prefix("=== ") {
            self.open = None;
            if let Some((word, name)) = rest.split_once(' ') {
                self.verbose = true;
                let name = name.trim();
                self.running = matches!(word, "RUN" | "CONT" | "NAME").then(|| name.to_owned());
            }
            return;
        }
        if let Some(rest) = line.strip_prefix("# ") {
            self.open = None;
            let name = rest.split(" [").next().unwrap_or(rest).trim();
            if !name.contains(' ') && self.builds.len() < 1000 {
                self.building = Some(name.to_owned());
            }
            return;
        }
        let panics = line.starts_with("panic: ") || line.starts_with("fatal error: ");
        if panics && self.panic.is_none() {
            self.building = None;
            self.panic = Some((line.trim().to_owned(), Block::default()));
            return;
        }
        if let Some((_, block)) = &mut self.panic {
            block.push(line);
            return;
        }
        if let Some(name) = &self.building {
            if place(line).is_some() || line.starts_with(['\t', ' ']) {
                self.builds.entry(name.clone()).or_default().push(line);
                return;
            }
            self.building = None;
        }
        if let Some(open) = self.open {
            if line.starts_with("    ") {
                if let Some(test) = self.tests.get_mut(open) {
                    test.block.push(line);
                }
            } else {
                self.open = None;
            }
        } else if let Some(running) = &self.running
            && self.printed.len() < TESTS_MAX
        {
            self.printed.entry(running.clone()).or_default().push(line);
        }
    }

    fn verdict(&mut self, word: &str, name: &str) {
        self.open = None;
        match word {
            "PASS" => {
                self.verbose = true;
                self.report.count(Count::Passed, 1);
                self.printed.remove(name);
            }
            "SKIP" => {
                self.report.count(Count::Skipped, 1);
                self.printed.remove(name);
            }
            _ => {
                let block = self.printed.remove(name).unwrap_or_default();
                if self.tests.len() < TESTS_MAX {
                    self.tests.push(Test { name: name.to_owned(), block });
                    self.open = Some(self.tests.len() - 1);
                }
            }
        }
    }

    fn package(&mut self, ended: Ended, name: &str, rest: &str) {
        self.flush(name);
        if ended != Ended::Untested {
            let time = rest.split(['\t', ' ']).next().unwrap_or_default();
            self.report.last_for(milliseconds(time).filter(|_| time.ends_with('s')));
        }
        self.packages[match ended {
            Ended::Ok => 0,
            Ended::Failed => 1,
            Ended::Untested => 2,
        }] += 1;
        if ended == Ended::Failed && rest.contains("[build failed]") || rest.contains("[setup failed]") {
            self.report.say(format!("{name} did not build"));
            self.build(name);
        }
    }

    /// The compiler's messages about the package `name`.
    fn build(&mut self, name: &str) {
        let key = names_of_build(name).into_iter().find(|key| self.builds.contains_key(key));
        let Some(block) = key.and_then(|key| self.builds.remove(&key)) else {
            self.report.fail(Failure {
                name: name.to_owned(),
                message: "did not build".to_owned(),
                ..Failure::default()
            });
            return;
        };
        for line in block.text.lines() {
            if let Some((file, at, _, rest)) = place(line) {
                self.report.fail(Failure {
                    name: name.to_owned(),
                    file: Some(file.trim_start_matches("./").to_owned()),
                    line: Some(at),
                    message: rest.trim_start_matches(':').trim().to_owned(),
                    detail: None,
                });
            }
        }
    }

    /// Tells of the failures of one package.
    fn flush(&mut self, package: &str) {
        let tests = std::mem::take(&mut self.tests);
        self.printed.clear();
        self.running = None;
        self.open = None;
        self.building = None;
        let panic = self.panic.take();
        let n = tests.len();
        self.report.count(Count::Failed, n as u64);
        // A test whose subtests failed is told by them.
        let parents: std::collections::HashSet<&str> =
            tests.iter().filter_map(|test| test.name.rsplit_once('/')).map(|(parent, _)| parent).collect();
        let mut panicked = panic;
        let last = tests.len().saturating_sub(1);
        for (index, test) in tests.iter().enumerate() {
            let own = test.block.text.lines().any(|line| {
                let line = line.trim();
                !line.is_empty() && verdict(line).is_none()
            });
            let blamed = index == last && panicked.is_some();
            if parents.contains(test.name.as_str()) && !own && !blamed {
                continue;
            }
            let mut failure = told(&test.name, &test.block);
            if blamed && let Some((message, stack)) = panicked.take() {
                failure = told_panic(&test.name, &message, &stack);
            }
            self.report.fail(failure);
        }
        if let Some((message, stack)) = panicked {
            self.report.fail(told_panic(package, &message, &stack));
            self.report.count(Count::Failed, 1);
        }
    }

    fn end(mut self) -> Report {
        if !self.tests.is_empty() || self.panic.is_some() {
            self.flush("");
            self.report.truncated = true;
            self.report
                .say("the run printed no result of its last package: it was ended, or the output was cut");
        }
        if !self.verbose {
            self.report.passed = None;
        }
        self.report.packages = Some(self.packages);
        self.report
    }
}

fn told(name: &str, block: &Block) -> Failure {
    let text = block.dedented();
    let mut file = None;
    let mut message = String::new();
    for line in text.lines() {
        let trimmed = line.trim();
        if verdict(trimmed).is_some() || trimmed.is_empty() {
            continue;
        }
        // What ended the test is said last; what comes before it may be no more than its log.
        if let Some((path, at, _, rest)) = place(trimmed)
            && !path.contains(' ')
            && rest.starts_with(':')
        {
            file = Some((path.to_owned(), at));
            rest[1..].trim().clone_into(&mut message);
        } else if message.len() < super::MESSAGE_BYTES_MAX && message.lines().count() < 6 {
            if !message.is_empty() {
                message.push('\n');
            }
            message.push_str(trimmed);
        }
    }
    let (file, line) = file.unzip();
    if message.is_empty() {
        "failed".clone_into(&mut message);
    }
    Failure {
        name: name.to_owned(),
        file,
        line,
        detail: Some(text).filter(|text| text.lines().count() > 6),
        message,
    }
}

fn told_panic(name: &str, message: &str, stack: &Block) -> Failure {
    // The first frame that is neither the runtime's nor the testing package's; a frame's place follows its function.
    let mut ours = false;
    let mut at = None;
    for line in stack.text.lines() {
        if let Some(rest) = line.strip_prefix('\t') {
            if ours && let Some((file, line, ..)) = place(rest) {
                at = Some((file.to_owned(), line));
                break;
            }
        } else {
            ours = line.contains('(')
                && !["panic(", "runtime.", "testing.", "created by", "goroutine ", "internal/", "sync."]
                    .iter()
                    .any(|prefix| line.starts_with(prefix));
        }
    }
    let message = message.split(" [recovered").next().unwrap_or(message).to_owned();
    let (file, line) = at.unzip();
    Failure { name: name.to_owned(), file, line, message, detail: Some(stack.text.clone()) }
}

/// Reads the events of `go test -json`: verdicts from the events, places and messages from the output in them.
fn read_json(lines: &Text<'_>) -> Report {
    let mut by_package: Vec<(String, Reader)> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut builds: HashMap<String, Block> = HashMap::new();
    // Before Go 1.24 the compiler's messages stand between the events as they are.
    let mut plain = Reader { report: Report::new("go"), ..Reader::default() };
    for line in lines {
        if !line.starts_with('{') {
            plain.line(line);
            continue;
        }
        let Ok(event) = serde_json::from_str::<Value>(line) else { continue };
        let member = |name: &str| event.get(name).and_then(Value::as_str);
        let output = member("Output").map(|text| super::super::lines::clean(text.trim_end_matches('\n')));
        if member("Action") == Some("build-output") {
            let path = member("ImportPath").unwrap_or_default();
            let path = path.split(" [").next().unwrap_or(path);
            if let Some(output) = output.filter(|line| !line.starts_with("# ")) {
                builds.entry(path.to_owned()).or_default().push(&output);
            }
            continue;
        }
        let Some(package) = member("Package") else { continue };
        let place = *places.entry(package.to_owned()).or_insert_with(|| {
            by_package.push((package.to_owned(), Reader { report: Report::new("go"), ..Reader::default() }));
            by_package.len() - 1
        });
        let reader = &mut by_package[place].1;
        match (member("Action"), output) {
            (Some("output"), Some(output)) => {
                // Which test printed a line is said by the event, so it need not be guessed.
                match member("Test") {
                    Some(test)
                        if verdict(&output).is_none()
                            && !output.starts_with("=== ")
                            && !is_panic(reader, &output) =>
                    {
                        reader.verbose = true;
                        if reader.printed.len() < TESTS_MAX {
                            reader.printed.entry(test.to_owned()).or_default().push(&output);
                        }
                    }
                    // The event of the end says so too, and why.
                    _ if output.starts_with("FAIL\t") && output.ends_with(" failed]") => reader.broken = true,
                    _ => reader.line(&output),
                }
            }
            (Some("fail"), _)
                if member("Test").is_none() && (reader.broken || member("FailedBuild").is_some()) =>
            {
                reader.broken = false;
                did_not_build(reader, package, &mut builds);
            }
            _ => {}
        }
    }
    let mut report: Option<Report> = None;
    if plain.packages != [0; 3] {
        by_package.push((String::new(), plain));
    }
    for (package, mut reader) in by_package {
        reader.verbose = true;
        if std::mem::take(&mut reader.broken) {
            did_not_build(&mut reader, &package, &mut builds);
        }
        let read = reader.end();
        report = Some(match report {
            None => read,
            Some(mut report) => {
                let packages = match (report.packages, read.packages) {
                    (Some(a), Some(b)) => Some([a[0] + b[0], a[1] + b[1], a[2] + b[2]]),
                    (a, b) => a.or(b),
                };
                report = report.join(read);
                "go".clone_into(&mut report.tool);
                report.packages = packages;
                report
            }
        });
    }
    report.unwrap_or_else(|| Report::new("go"))
}

/// Tells once that `package` did not build, with the compiler's messages where they came as events of their own.
fn did_not_build(reader: &mut Reader, package: &str, builds: &mut HashMap<String, Block>) {
    for key in names_of_build(package) {
        if let Some(block) = builds.remove(&key) {
            reader.builds.insert(key, block);
        }
    }
    reader.package(Ended::Failed, package, "[build failed]");
}

/// What the compiler's messages about a package may be said of: it, or one of its tests' packages.
fn names_of_build(package: &str) -> [String; 3] {
    [package.to_owned(), format!("{package}_test"), format!("{package}.test")]
}

/// Whether `line` is, or belongs to, a panic.
fn is_panic(reader: &Reader, line: &str) -> bool {
    reader.panic.is_some() || line.starts_with("panic: ") || line.starts_with("fatal error: ")
}
