//! The only place that writes to stdout on behalf of a command, and to stderr on behalf of a person.

use std::io::{self, BufWriter, IsTerminal as _, StdoutLock, Write};

use serde_json::Value;

use super::Failure;

/// Stdout of one command: plain and aligned for people, or one compact JSON text a line for machines.
pub struct Output {
    sink: BufWriter<StdoutLock<'static>>,
    json: bool,
    terminal: bool,
}

impl Output {
    /// Stdout, for machines if `json`.
    #[must_use]
    pub fn stdout(json: bool) -> Self {
        let stdout = io::stdout();
        let terminal = stdout.is_terminal();
        Self { sink: BufWriter::new(stdout.lock()), json, terminal }
    }

    /// Whether machines read it.
    #[must_use]
    pub const fn is_json(&self) -> bool {
        self.json
    }

    /// Writes one line for people; control characters in it are dropped.
    ///
    /// # Errors
    /// Stdout is closed or full.
    pub fn line(&mut self, text: &str) -> Result<(), Failure> {
        self.write(&[clean(text).as_bytes(), b"\n"])
    }

    /// Writes text as it is: what a file of ours holds, byte for byte, unless a terminal reads it.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub fn verbatim(&mut self, text: &str) -> Result<(), Failure> {
        if self.terminal { self.write(&[clean(text).as_bytes()]) } else { self.write(&[text.as_bytes()]) }
    }

    /// Writes one JSON text on one line.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub fn json(&mut self, value: &Value) -> Result<(), Failure> {
        let text = value.to_string();
        let text = if self.terminal { escape(&text) } else { text };
        self.write(&[text.as_bytes(), b"\n"])
    }

    /// Writes a JSON text for people, indented.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub fn pretty(&mut self, value: &Value) -> Result<(), Failure> {
        let text = format!("{value:#}");
        let text = if self.terminal { escape(&text) } else { text };
        self.write(&[text.as_bytes(), b"\n"])
    }

    /// Writes rows in columns, each as wide as its widest cell; the last one is not padded.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub fn table<const N: usize>(&mut self, rows: &[[String; N]]) -> Result<(), Failure> {
        let rows: Vec<&[String]> = rows.iter().map(<[String; N]>::as_slice).collect();
        self.columns(&rows)
    }

    /// The same for rows whose length only the run knows.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub fn columns(&mut self, rows: &[impl AsRef<[String]>]) -> Result<(), Failure> {
        let rows: Vec<Vec<String>> =
            rows.iter().map(|row| row.as_ref().iter().map(|cell| one_line(cell)).collect()).collect();
        let mut widths = Vec::new();
        for row in &rows {
            widths.resize(row.len().max(widths.len()), 0);
            for (cell, width) in row.iter().zip(&mut widths) {
                *width = (*width).max(cell.chars().count());
            }
        }
        for row in &rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count()) + 2));
            }
            self.write(&[line.trim_end().as_bytes(), b"\n"])?;
        }
        Ok(())
    }

    /// Hands everything on. Must be called before the process ends.
    ///
    /// # Errors
    /// As [`Output::line`].
    pub fn finish(mut self) -> Result<(), Failure> {
        self.sink.flush().map_err(|error| Failure::of_stdout(&error))
    }

    fn write(&mut self, parts: &[&[u8]]) -> Result<(), Failure> {
        for part in parts {
            self.sink.write_all(part).map_err(|error| Failure::of_stdout(&error))?;
        }
        Ok(())
    }
}

/// Tells a person on stderr. Whatever goes wrong there cannot be told anywhere.
pub(super) fn tell(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{}", clean(text));
}

/// Whether `c` could move a terminal's cursor, change its colours or reorder its text.
fn is_hostile(c: char) -> bool {
    (c.is_control() && !matches!(c, '\n' | '\t'))
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Drops what a terminal would obey.
#[must_use]
pub(super) fn clean(text: &str) -> String {
    text.chars().filter(|c| !is_hostile(*c)).collect()
}

/// [`clean`], on one line.
fn one_line(text: &str) -> String {
    clean(text).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The same JSON text with what a terminal would obey escaped.
fn escape(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        if is_hostile(c) {
            escaped.push_str("\\u");
            // All of them lie in the basic plane: four digits.
            escaped.extend(
                [12, 8, 4, 0].map(|shift| char::from_digit((c as u32 >> shift) & 0xf, 16).unwrap_or('0')),
            );
        } else {
            escaped.push(c);
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_is_told_nothing_that_it_would_obey() {
        assert_eq!(clean("a\u{1b}[31mb\u{7}\u{9b}2J\u{202e}c\r\n\td"), "a[31mb2Jc\n\td");
        assert_eq!(one_line("a\n\tb  c"), "a b c");
        let value: Value = serde_json::from_str(&escape("\"a\u{9b}b\u{202e}\"")).unwrap();
        assert_eq!(value, "a\u{9b}b\u{202e}");
    }
}
