//! What compilers, type checkers and linters print.
//!
//! One pass for all of them, because builds mix them: each line is tried as the head of a diagnostic of each tool.

#![expect(clippy::case_sensitive_file_extension_comparisons, reason = "tools print the names as they are")]

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
};

use serde_json::{Map, Value};

use super::{
    lines::{Lines, head, number, place},
    put,
};

/// What `tool` may say.
pub(super) const TOOLS: &[&str] = &["rustc", "cc", "tsc", "mypy", "ruff", "go", "eslint", "python", "maven"];

/// Most different diagnostics kept.
const DIAGNOSTICS_MAX: usize = 2000;
/// Most places remembered, so that one that is said twice counts once.
const PLACES_MAX: usize = 200_000;
/// Longest message, in bytes.
const MESSAGE_BYTES_MAX: usize = 500;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Level {
    Error,
    Warning,
}

impl Level {
    /// Of a word such as `fatal error`; `None` for notes and helps.
    fn of(word: &str) -> Option<Self> {
        match word {
            "error" | "fatal error" | "Error" | "ERROR" => Some(Self::Error),
            "warning" | "Warning" | "WARNING" => Some(Self::Warning),
            _ => None,
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// One diagnostic, with how many places it was said of.
#[derive(Debug)]
pub(super) struct Diagnostic {
    pub(super) level: Level,
    pub(super) code: Option<String>,
    pub(super) message: String,
    pub(super) file: Option<String>,
    pub(super) line: Option<u64>,
    pub(super) column: Option<u64>,
    pub(super) n: u64,
}

/// A diagnostic as one line, or a few, say it.
#[derive(Clone, Debug, Default)]
struct Said<'a> {
    code: Option<Cow<'a, str>>,
    message: Cow<'a, str>,
    file: Option<Cow<'a, str>>,
    line: Option<u64>,
    column: Option<u64>,
}

/// What a build came to.
#[derive(Default)]
pub(super) struct Report {
    tools: Vec<&'static str>,
    errors: u64,
    warnings: u64,
    diagnostics: Vec<Diagnostic>,
    by_key: HashMap<(Level, String), usize>,
    places: HashSet<(usize, u64, u64)>,
    dropped: u64,
    error: Option<String>,
    truncated: bool,
}

impl Report {
    /// The errors, in the order in which they were said.
    pub(super) fn errors(&self) -> impl Iterator<Item = &Diagnostic> {
        self.diagnostics.iter().filter(|diagnostic| diagnostic.level == Level::Error)
    }

    fn saw(&mut self, tool: &'static str) {
        if !self.tools.contains(&tool) {
            self.tools.push(tool);
        }
    }

    fn failed(&mut self, why: &str) {
        if self.error.is_none() {
            self.error = Some(head(why.trim(), MESSAGE_BYTES_MAX).to_owned());
        }
    }

    fn add(&mut self, tool: &'static str, level: Level, said: Said<'_>) {
        self.saw(tool);
        let message = head(said.message.trim(), MESSAGE_BYTES_MAX).to_owned();
        let file = said.file.map(|file| file.strip_prefix("./").unwrap_or(&file).to_owned());
        let key = format!(
            "{}\0{}\0{message}",
            said.code.as_deref().unwrap_or_default(),
            file.as_deref().unwrap_or_default(),
        );
        let index = match self.by_key.get(&(level, key.clone())) {
            Some(index) => *index,
            None if self.diagnostics.len() == DIAGNOSTICS_MAX => {
                self.dropped += 1;
                self.total(level);
                return;
            }
            None => {
                self.by_key.insert((level, key), self.diagnostics.len());
                self.diagnostics.push(Diagnostic {
                    level,
                    code: said.code.map(Cow::into_owned),
                    message,
                    file,
                    line: said.line,
                    column: said.column,
                    n: 0,
                });
                self.diagnostics.len() - 1
            }
        };
        let place = (index, said.line.unwrap_or(0), said.column.unwrap_or(0));
        if self.places.len() >= PLACES_MAX || self.places.insert(place) {
            self.diagnostics[index].n += 1;
            self.total(level);
        }
    }

    fn total(&mut self, level: Level) {
        match level {
            Level::Error => self.errors += 1,
            Level::Warning => self.warnings += 1,
        }
    }

    /// As the step gives it: errors first.
    pub(super) fn into_value(mut self, limit: usize) -> Value {
        self.diagnostics.sort_by_key(|diagnostic| diagnostic.level);
        let n = self.diagnostics.len() as u64 + self.dropped;
        let truncated = self.truncated || n > limit as u64;
        let known = !self.tools.is_empty();
        let mut members = Map::new();
        members.insert("tool".into(), known.then(|| self.tools.join("+")).into());
        members.insert("ok".into(), known.then_some(self.errors == 0 && self.error.is_none()).into());
        members.insert("errors".into(), self.errors.into());
        members.insert("warnings".into(), self.warnings.into());
        let shown: Vec<Value> =
            self.diagnostics.into_iter().take(limit).map(Diagnostic::into_value).collect();
        members.insert("diagnostics".into(), shown.into());
        members.insert("diagnostics_n".into(), n.into());
        put(&mut members, "error", self.error);
        members.insert("truncated".into(), truncated.into());
        Value::Object(members)
    }
}

impl Diagnostic {
    fn into_value(self) -> Value {
        let mut members = Map::new();
        members.insert("level".into(), self.level.word().into());
        put(&mut members, "code", self.code);
        members.insert("message".into(), self.message.into());
        put(&mut members, "file", self.file);
        put(&mut members, "line", self.line);
        put(&mut members, "column", self.column);
        members.insert("n".into(), self.n.into());
        Value::Object(members)
    }
}

/// Reads `text` as the output of `tool`, or of whatever it looks like.
pub(super) fn parse(text: &str, tool: Option<&str>) -> Report {
    let lines = Lines::of(text);
    let mut report = read(&lines.all, tool);
    report.truncated |= lines.skipped > 0;
    report
}

/// Reads cleaned lines.
pub(super) fn read(lines: &[Cow<'_, str>], tool: Option<&str>) -> Report {
    let mut reader = Reader { report: Report::default(), only: tool, ..Reader::default() };
    for line in lines {
        reader.line(line);
    }
    reader.flush();
    reader.report
}

/// The head of a rustc or ruff diagnostic whose place comes in a later line.
struct Pending<'a> {
    tool: &'static str,
    level: Level,
    said: Said<'a>,
    /// Lines that may still pass before its place.
    patience: u8,
}

#[derive(Default)]
struct Reader<'a> {
    report: Report,
    only: Option<&'a str>,
    pending: Option<Pending<'a>>,
    /// The file that eslint's lines are about.
    file: Option<String>,
    /// The last `File "a.py", line 3` of Python.
    frame: Option<(String, u64)>,
}

impl<'a> Reader<'a> {
    fn wants(&self, tool: &str) -> bool {
        self.only.is_none_or(|only| only == tool)
    }

    fn line(&mut self, line: &'a str) {
        if let Some(pending) = &mut self.pending {
            let arrow =
                line.trim_start().strip_prefix("--> ").or_else(|| line.trim_start().strip_prefix("::: "));
            if let Some((file, at, column, _)) = arrow.and_then(place) {
                pending.said.file = Some(file.into());
                pending.said.line = Some(at);
                pending.said.column = column;
                self.flush();
                return;
            }
            pending.patience -= 1;
            if pending.patience == 0 || line.is_empty() || !line.starts_with([' ', '|']) {
                self.flush();
            }
        }
        if line.len() < 6 {
            return;
        }
        let read = self.wants("rustc") && self.rustc(line)
            || self.wants("tsc") && self.tsc(line)
            || self.placed(line)
            || self.wants("ruff") && self.ruff(line)
            || self.wants("eslint") && self.eslint(line)
            || self.wants("python") && self.python(line)
            || self.wants("maven") && self.maven(line);
        if !read {
            self.trailer(line);
        }
    }

    fn flush(&mut self) {
        if let Some(Pending { tool, level, said, .. }) = self.pending.take() {
            // Without a place ruff's head is only a line that looks like one.
            if tool != "ruff" || said.file.is_some() {
                self.report.add(tool, level, said);
            }
        }
    }

    fn rustc(&mut self, line: &'a str) -> bool {
        if line.starts_with('{') {
            return self.rustc_json(line);
        }
        let (level, rest) = if let Some(rest) = line.strip_prefix("error") {
            (Level::Error, rest)
        } else if let Some(rest) = line.strip_prefix("warning") {
            (Level::Warning, rest)
        } else {
            // `    Finished`, `   Compiling`, `    Checking`: cargo was here.
            let verb = line.trim_start();
            if line.starts_with("    ") && verb.starts_with("Finished `") || line.starts_with("   Compiling ")
            {
                self.report.saw("rustc");
                return true;
            }
            return false;
        };
        let (code, message) = match rest.strip_prefix('[').and_then(|rest| rest.split_once("]: ")) {
            Some((code, message)) => (Some(code), message),
            None => match rest.strip_prefix(": ") {
                Some(message) => (None, message),
                None => return false,
            },
        };
        if message.starts_with("TS") {
            return false;
        }
        let ends = message.starts_with("could not compile ")
            || message.starts_with("aborting due to ")
            || message.starts_with("build failed");
        if ends {
            self.report.saw("rustc");
            self.report.failed(message);
            return true;
        }
        let counted = message.ends_with(" emitted")
            || message.contains(" generated ") && message.contains(" warning")
            || message.starts_with("build failed, waiting");
        if counted {
            return true;
        }
        self.flush();
        self.pending = Some(Pending {
            tool: "rustc",
            level,
            said: Said { code: code.map(Cow::from), message: message.into(), ..Said::default() },
            patience: 12,
        });
        true
    }

    /// A line of `--message-format=json` or `--error-format=json`.
    fn rustc_json(&mut self, line: &str) -> bool {
        if !line.contains("\"level\":\"") || !line.contains("\"spans\":") {
            if line.contains("\"reason\":\"build-finished\"") {
                self.report.saw("rustc");
                if line.contains("\"success\":false") {
                    self.report.failed("the build failed");
                }
                return true;
            }
            return line.contains("\"reason\":\"compiler-artifact\"");
        }
        let Ok(value) = serde_json::from_str::<Value>(line) else { return false };
        let message = value.get("message").filter(|message| message.is_object()).unwrap_or(&value);
        let text = |name: &str| message.get(name).and_then(Value::as_str);
        let Some(level) = text("level").and_then(Level::of) else { return true };
        let said = text("message").unwrap_or_default();
        if said.starts_with("aborting due to ") || said.ends_with(" emitted") {
            return true;
        }
        let span = message.get("spans").and_then(Value::as_array).and_then(|spans| {
            spans.iter().find(|span| span.get("is_primary") == Some(&Value::Bool(true))).or(spans.first())
        });
        let member = |name: &str| span.and_then(|span| span.get(name));
        let code = message.pointer("/code/code").and_then(Value::as_str);
        self.report.add(
            "rustc",
            level,
            Said {
                code: code.map(|code| code.to_owned().into()),
                message: said.to_owned().into(),
                file: member("file_name").and_then(Value::as_str).map(|file| file.to_owned().into()),
                line: member("line_start").and_then(Value::as_u64),
                column: member("column_start").and_then(Value::as_u64),
            },
        );
        true
    }

    /// `src/a.ts(3,5): error TS2322: m`, `src/a.ts:3:5 - error TS2322: m`, `error TS18003: m`
    fn tsc(&mut self, line: &'a str) -> bool {
        let Some(at) = line.find("error TS") else { return false };
        let Some((code, message)) = line[at + "error ".len()..].split_once(": ") else { return false };
        if !code[2..].bytes().all(|byte| byte.is_ascii_digit()) {
            return false;
        }
        let before = &line[..at];
        let mut said = Said { code: Some(code.into()), message: message.into(), ..Said::default() };
        if let Some((file, line, column)) = before
            .strip_suffix("): ")
            .and_then(|before| before.rsplit_once('('))
            .and_then(|(file, at)| Some((file, at.split_once(',')?)))
            .and_then(|(file, (line, column))| Some((file, line.parse().ok()?, column.parse().ok()?)))
        {
            (said.file, said.line, said.column) = (Some(file.into()), Some(line), Some(column));
        } else if let Some((file, line, column, "")) = before.strip_suffix(" - ").and_then(place) {
            (said.file, said.line, said.column) = (Some(file.into()), Some(line), column);
        } else if !before.is_empty() {
            return false;
        }
        self.report.add("tsc", Level::Error, said);
        true
    }

    /// `a.c:3:5: error: m [-Wflag]`, `a.py:3: error: m  [code]`, `./a.go:3:5: m`, `a.py:1:8: F401 [*] m`
    fn placed(&mut self, line: &'a str) -> bool {
        let line = line.strip_prefix("vet: ").unwrap_or(line);
        let Some((file, at, column, rest)) = place(line) else { return self.linked(line) };
        let Some(rest) = rest.strip_prefix(": ") else { return false };
        let said = Said { file: Some(file.into()), line: Some(at), column, ..Said::default() };
        if let Some((word, message)) = rest.split_once(": ")
            && let word = word.split('[').next().unwrap_or(word)
            && (Level::of(word).is_some() || matches!(word, "note" | "remark" | "help"))
        {
            let Some(level) = Level::of(word) else { return true };
            // rustc's short form has the code in the word.
            if let Some(code) = rest.strip_prefix(word).and_then(|rest| rest.strip_prefix('[')) {
                let code = code.split(']').next();
                if self.wants("rustc") {
                    self.report.add(
                        "rustc",
                        level,
                        Said { code: code.map(Cow::from), message: message.into(), ..said },
                    );
                }
                return true;
            }
            let python = file.ends_with(".py") || file.ends_with(".pyi");
            let tool = match () {
                () if python => "mypy",
                () if file.ends_with(".rs") => "rustc",
                () => "cc",
            };
            if !self.wants(tool) {
                return true;
            }
            let (message, code) = match message.rfind(" [") {
                Some(open) if message.ends_with(']') => {
                    let code = &message[open + 2..message.len() - 1];
                    let fits = if python { !code.contains(' ') } else { code.starts_with('-') };
                    if fits { (message[..open].trim_end(), Some(code)) } else { (message, None) }
                }
                _ => (message, None),
            };
            let code = code.map(|code| {
                code.strip_prefix("-Werror=").map_or(code.into(), |flag| format!("-W{flag}").into())
            });
            self.report.add(tool, level, Said { code, message: message.into(), ..said });
            return true;
        }
        if file.ends_with(".go") && self.wants("go") {
            if rest.starts_with('\t') || column.is_none() && rest.starts_with(' ') {
                return true;
            }
            self.report.add("go", Level::Error, Said { message: rest.into(), ..said });
            return true;
        }
        if (file.ends_with(".py") || file.ends_with(".pyi"))
            && self.wants("ruff")
            && let Some((code, message)) = rule(rest)
        {
            let said = Said { code: Some(code.into()), message: message.into(), ..said };
            self.report.add("ruff", Level::Error, said);
            return true;
        }
        false
    }

    /// `a.c:(.text+0x5): undefined reference to `f'`, with or without the linker's name before it.
    fn linked(&mut self, line: &'a str) -> bool {
        let at = line.find("undefined reference to ").or_else(|| line.find("multiple definition of "));
        let Some(at) = at.filter(|_| self.wants("cc")) else { return false };
        let before = line[..at].trim_end_matches([':', ' ']);
        let before = before.rsplit(": ").next().unwrap_or(before);
        let file = before.split(":(").next().filter(|file| !file.is_empty() && !file.contains(' '));
        let message = line[at..].split("; ").next().unwrap_or(&line[at..]);
        self.report.add(
            "cc",
            Level::Error,
            Said { message: message.into(), file: file.map(Cow::from), ..Said::default() },
        );
        true
    }

    /// `F401 [*] m`, the place in the next line.
    fn ruff(&mut self, line: &'a str) -> bool {
        let Some((code, message)) = rule(line) else { return false };
        self.flush();
        self.pending = Some(Pending {
            tool: "ruff",
            level: Level::Error,
            said: Said { code: Some(code.into()), message: message.into(), ..Said::default() },
            patience: 3,
        });
        true
    }

    /// `  3:5  error  m  rule` below a line with the file.
    fn eslint(&mut self, line: &'a str) -> bool {
        if !line.starts_with(' ') {
            let path = line.trim_end();
            let known = [".js", ".jsx", ".ts", ".tsx", ".mjs", ".cjs", ".vue", ".mts", ".cts"];
            if known.iter().any(|ending| path.ends_with(ending)) && !path.contains(": ") {
                self.file = Some(path.to_owned());
                return true;
            }
            return false;
        }
        let Some(file) = &self.file else { return false };
        let Some((at, rest)) = number(line.trim_start()) else { return false };
        let Some((column, rest)) = rest.strip_prefix(':').and_then(number) else { return false };
        let rest = rest.trim_start();
        let Some((word, rest)) = rest.split_once(' ') else { return false };
        let Some(level) = Level::of(word) else { return false };
        let (message, code) = match rest.trim().rsplit_once("  ") {
            Some((message, code)) if !code.contains(' ') => (message.trim(), Some(code)),
            _ => (rest.trim(), None),
        };
        let file = file.clone();
        self.report.add(
            "eslint",
            level,
            Said {
                code: code.map(Cow::from),
                message: message.into(),
                file: Some(file.into()),
                line: Some(at),
                column: Some(column),
            },
        );
        true
    }

    /// A syntax error, or any exception that ended a script.
    fn python(&mut self, line: &'a str) -> bool {
        if let Some((file, rest)) =
            line.trim_start().strip_prefix("File \"").and_then(|rest| rest.split_once("\", line "))
        {
            self.frame = number(rest).map(|(at, _)| (file.to_owned(), at));
            return true;
        }
        let Some((name, message)) = line.split_once(": ") else { return false };
        let word = name.rsplit('.').next().unwrap_or(name);
        let raised = !name.contains(' ')
            && word.starts_with(|char: char| char.is_ascii_uppercase())
            && (word.ends_with("Error") || word.ends_with("Exception"));
        if !raised {
            return false;
        }
        let Some((file, at)) = self.frame.take() else { return false };
        self.report.add(
            "python",
            Level::Error,
            Said {
                code: Some(name.into()),
                message: message.into(),
                file: Some(file.into()),
                line: Some(at),
                column: None,
            },
        );
        true
    }

    /// `[ERROR] /x/A.java:[3,5] m`
    fn maven(&mut self, line: &'a str) -> bool {
        let Some((word, rest)) = line.strip_prefix('[').and_then(|rest| rest.split_once("] ")) else {
            return false;
        };
        let Some(level) = Level::of(word) else { return false };
        let Some((file, rest)) = rest.split_once(":[") else { return false };
        let Some((at, message)) = rest.split_once("] ") else { return false };
        let (line, column) = at.split_once(',').unwrap_or((at, ""));
        let Ok(line) = line.parse() else { return false };
        self.report.add(
            "maven",
            level,
            Said {
                code: None,
                message: message.into(),
                file: Some(file.into()),
                line: Some(line),
                column: column.parse().ok(),
            },
        );
        true
    }

    /// Lines that say that a build failed, or which tool it was.
    fn trailer(&mut self, line: &str) {
        let make = line.strip_prefix("make").map(|rest| rest.trim_start_matches(|char: char| char != ':'));
        if make.is_some_and(|rest| rest.starts_with(": *** ")) {
            self.report.failed(line);
        } else if line.starts_with("ninja: build stopped")
            || line.starts_with("collect2: error: ")
            || line.starts_with("clang: error: linker")
        {
            self.report.saw("cc");
            self.report.failed(line);
        } else if (line.starts_with("Success: no issues found in ")
            || line.starts_with("Found ") && line.contains("(checked "))
            && self.wants("mypy")
        {
            self.report.saw("mypy");
        } else if line == "All checks passed!" && self.wants("ruff") {
            self.report.saw("ruff");
        } else if line.starts_with("Found 0 errors") && self.wants("tsc") {
            self.report.saw("tsc");
        }
    }
}

/// `F401 [*] m`, `invalid-syntax: m`: a rule of ruff and what it says.
fn rule(text: &str) -> Option<(&str, &str)> {
    if let Some(message) = text.strip_prefix("invalid-syntax: ") {
        return Some(("invalid-syntax", message));
    }
    let (code, message) = text.split_once(' ')?;
    let letters = code.bytes().take_while(u8::is_ascii_uppercase).count();
    let digits = code.len() - letters;
    let fits = (1..=6).contains(&letters)
        && (3..=4).contains(&digits)
        && code.bytes().skip(letters).all(|byte| byte.is_ascii_digit());
    fits.then(|| (code, message.strip_prefix("[*] ").unwrap_or(message)))
}
