//! A line and what belongs to it.

use super::{super::lines::place, Level, Read};

/// Most text of one event that is kept, in bytes.
const EVENT_BYTES_MAX: usize = 16 << 10;
/// Most lines of one event.
const EVENT_LINES_MAX: usize = 2000;

/// What kind of trace is being read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trace {
    None,
    /// Frames until a line that is not indented: the exception.
    Python,
    /// The exception of Python was said; a blank line may lead to another.
    PythonSaid,
    /// `panicked at`: the message, notes, a backtrace.
    Rust,
    /// `panic:`, goroutines.
    Go,
    /// `at …` lines.
    Frames,
}

/// An event being gathered.
pub(super) struct Event<'a> {
    /// Its first line, from 1.
    pub(super) number: usize,
    read: Read<'a>,
    more: String,
    lines: usize,
    trace: Trace,
    /// The line that says what was raised.
    raised: Option<String>,
    place: Option<String>,
}

impl<'a> Event<'a> {
    pub(super) fn begin(number: usize, line: &'a str, read: Read<'a>) -> Self {
        let mut event = Self {
            number,
            read,
            more: String::new(),
            lines: 0,
            trace: Trace::None,
            raised: None,
            place: None,
        };
        let message: &str = &event.read.message;
        event.trace = trace(message);
        if event.trace == Trace::Rust {
            event.place = message.split_once(" panicked at ").and_then(|(_, at)| at_place(at));
        }
        if event.trace == Trace::None && raises(line) {
            event.trace = Trace::Frames;
        }
        if let Some(stack) = event.read.stack.take() {
            for line in stack.lines().take(60) {
                event.note(line);
            }
        }
        event
    }

    /// Whether `line` goes on with this event.
    pub(super) fn takes(&self, line: &str) -> bool {
        if self.lines >= EVENT_LINES_MAX {
            return false;
        }
        let indented = line.starts_with([' ', '\t']);
        match self.trace {
            Trace::Python => return true,
            Trace::PythonSaid => {
                return line.is_empty()
                    || line.starts_with("During handling of the above")
                    || line.starts_with("The above exception was the direct cause")
                    || trace(line) == Trace::Python;
            }
            Trace::Rust => {
                if self.lines == 0
                    || line.starts_with("note: ")
                    || line.starts_with("stack backtrace:")
                    || indented
                {
                    return true;
                }
                // A message may have several lines; `left` and `right` are indented.
                return false;
            }
            Trace::Go => {
                return indented
                    || line.is_empty()
                    || line.starts_with("goroutine ")
                    || line.starts_with("created by ")
                    || line.starts_with("[signal ")
                    || line.starts_with("main.") && line.contains('(')
                    || line.ends_with(')')
                        && line.contains('.')
                        && line.contains('(')
                        && !line.contains(' ');
            }
            Trace::Frames | Trace::None => {}
        }
        if indented {
            // A line that is indented but has a time or a level of its own is an event.
            let trimmed = line.trim_start();
            let frame =
                trimmed.starts_with("at ") || trimmed.starts_with("... ") || trimmed.starts_with("File \"");
            return frame || super::line::read(trimmed).time.is_none();
        }
        let npm = ["npm error", "npm ERR!", "npm warn"];
        if npm.iter().any(|prefix| self.read.message.starts_with(prefix) && line.starts_with(prefix)) {
            return true;
        }
        line.starts_with("Caused by: ")
            || line.starts_with("Suppressed: ")
            || trace(line) == Trace::Python && self.bad()
            || self.lines == 0 && self.bad() && self.read.time.is_some() && raises(line)
    }

    fn bad(&self) -> bool {
        self.read.level.is_some_and(|level| level <= Level::Warn)
    }

    pub(super) fn push(&mut self, line: &str) {
        self.lines += 1;
        match self.trace {
            Trace::Python if line.starts_with("Traceback (") => {}
            Trace::Python if !line.starts_with([' ', '\t']) && !line.is_empty() => {
                self.raised = Some(line.trim_end().to_owned());
                self.trace = Trace::PythonSaid;
            }
            Trace::None | Trace::PythonSaid if trace(line) == Trace::Python => self.trace = Trace::Python,
            Trace::Rust if self.lines == 1 && self.raised.is_none() => {
                self.raised = Some(line.trim().to_owned());
            }
            Trace::None if raises(line) => {
                self.raised = Some(line.trim_end().to_owned());
                self.trace = Trace::Frames;
            }
            _ => {}
        }
        self.note(line);
    }

    /// Remembers a line, and the place it names.
    fn note(&mut self, line: &str) {
        let trimmed = line.trim();
        if let Some(rest) = trimmed.strip_prefix("File \"") {
            // The innermost frame of Python comes last.
            if let Some((file, rest)) = rest.split_once("\", line ") {
                let at: String = rest.chars().take_while(char::is_ascii_digit).collect();
                self.place = Some(format!("{file}:{at}"));
            }
        } else if self.place.is_none() {
            self.place =
                frame(trimmed).or_else(|| (self.trace == Trace::Go).then(|| at_place(trimmed)).flatten());
        }
        if self.more.len() < EVENT_BYTES_MAX && !trimmed.is_empty() {
            self.more.push('\n');
            self.more.push_str(line.trim_end());
        }
    }

    pub(super) fn level(&self) -> Level {
        let traced =
            matches!(self.trace, Trace::Python | Trace::PythonSaid | Trace::Frames) && self.place.is_some();
        match self.read.level {
            Some(level) => level,
            None if matches!(self.trace, Trace::Rust | Trace::Go) => Level::Fatal,
            None if traced => Level::Error,
            None => Level::Other,
        }
    }

    pub(super) fn time(&self) -> Option<&str> {
        self.read.time.as_deref()
    }

    pub(super) fn place(&self) -> Option<String> {
        self.place.clone()
    }

    /// What events are compared by: the message, and what was raised.
    pub(super) fn subject(&self) -> String {
        let message = self.read.message.trim();
        match &self.raised {
            Some(raised) if message.starts_with("Traceback (") => raised.clone(),
            Some(raised) => format!("{message} | {raised}"),
            None => message.to_owned(),
        }
    }

    /// One line for reading.
    pub(super) fn sample(&self) -> String {
        self.subject()
    }
}

fn trace(message: &str) -> Trace {
    if message.contains("Traceback (most recent call last)") {
        Trace::Python
    } else if message.starts_with("thread '") && message.contains(" panicked at ") {
        Trace::Rust
    } else if message.starts_with("panic: ") || message.starts_with("fatal error: ") {
        Trace::Go
    } else {
        Trace::None
    }
}

/// `java.lang.X: m`, `TypeError: m`, `Exception in thread "main" …`: what frames may follow.
fn raises(line: &str) -> bool {
    if line.starts_with("Exception in thread ") {
        return true;
    }
    let name = line.split([':', ' ']).next().unwrap_or(line);
    let word = name.rsplit('.').next().unwrap_or(name);
    name.len() < 200
        && (word.ends_with("Error") || word.ends_with("Exception"))
        && word.starts_with(|char: char| char.is_ascii_uppercase())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._$".contains(&byte))
}

/// The place in a frame of Java, JavaScript or Rust.
fn frame(line: &str) -> Option<String> {
    let rest = line.strip_prefix("at ")?;
    let inside = match rest.rfind('(') {
        Some(open) if rest.ends_with(')') => &rest[open + 1..rest.len() - 1],
        _ => rest.rsplit(' ').next().unwrap_or(rest),
    };
    let inside = inside.strip_prefix("file://").unwrap_or(inside);
    if inside.starts_with("node:") || inside.contains("node_modules/") || inside.starts_with("/rustc/") {
        return None;
    }
    at_place(inside)
}

fn at_place(text: &str) -> Option<String> {
    place(text).map(|(file, line, ..)| format!("{file}:{line}"))
}
