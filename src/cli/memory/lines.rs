//! Files of lines that are read twice: once to check them, once to take them.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, BufReader, Read as _, Seek as _},
    path::Path,
};

use crate::cli::Failure;

/// Longest line, in bytes: the largest memory allowed, escaped at worst, and its labels.
const LINE_BYTES_MAX: usize = 8 << 20;

/// What is imported.
pub(super) struct Source {
    /// As failures call it.
    pub(super) name: String,
    file: File,
}

impl Source {
    /// Opens a file. `-`, and what can be read once only, goes through a file that nobody else can open.
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let is_stdin = path == Path::new("-");
        let name = if is_stdin { "stdin".to_owned() } else { path.display().to_string() };
        let failed = |error: io::Error| Failure::of_io(format!("import {name}"), &error);
        let file = if is_stdin {
            spooled(&mut io::stdin().lock()).map_err(failed)?
        } else {
            let mut file = File::open(path).map_err(failed)?;
            if file.metadata().map_err(failed)?.is_file() {
                file
            } else {
                spooled(&mut file).map_err(failed)?
            }
        };
        Ok(Self { name, file })
    }

    /// Its lines, from the first one on.
    pub(super) fn lines(&mut self) -> io::Result<Lines<'_>> {
        self.file.rewind()?;
        Ok(Lines { reader: BufReader::new(&self.file), number: 0, line: Vec::new() })
    }
}

/// A file of this user that has no name any more, with all that `from` holds, ready to be read.
fn spooled(from: &mut impl io::Read) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let path = std::env::temp_dir().join(format!("tmws-{}.jsonl", crate::hex::hex(&random)));
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    fs::remove_file(&path)?;
    io::copy(from, &mut file)?;
    file.rewind()?;
    Ok(file)
}

/// Lines with their numbers, one in memory at a time.
pub(super) struct Lines<'a> {
    reader: BufReader<&'a File>,
    number: u64,
    line: Vec<u8>,
}

/// A line's number and its text; `None` where that is too long.
type Line<'l> = (u64, Option<&'l [u8]>);

impl Lines<'_> {
    /// The next line that is not blank, with its number; `None` for its text where it is too long.
    pub(super) fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        loop {
            self.line.clear();
            self.number += 1;
            let limit = LINE_BYTES_MAX as u64 + 1;
            if self.reader.by_ref().take(limit).read_until(b'\n', &mut self.line)? == 0 {
                return Ok(None);
            }
            if self.line.len() > LINE_BYTES_MAX {
                if self.line.last() != Some(&b'\n') {
                    self.reader.skip_until(b'\n')?;
                }
                return Ok(Some((self.number, None)));
            }
            if !self.line.iter().all(u8::is_ascii_whitespace) {
                break;
            }
        }
        Ok(Some((self.number, Some(&self.line))))
    }
}

/// Serde's message without its `at line 1 column 7`, which counts within our line. It names the member and never the
/// value of a text.
pub(super) fn told(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => format!("{} (column {})", &text[..end], error.column()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_numbers_and_blank_or_endless_ones_are_passed_over() {
        let mut text = b"a\n\n \r\nb\n".to_vec();
        text.resize(text.len() + LINE_BYTES_MAX + 9, b'x');
        text.extend(b"\nlast");
        let mut source = Source { name: "a".to_owned(), file: spooled(&mut &text[..]).expect("a file") };
        for _ in 0..2 {
            let mut lines = source.lines().expect("lines");
            let mut read = Vec::new();
            while let Some((number, line)) = lines.next().expect("readable") {
                read.push((number, line.map(|line| line.trim_ascii().to_vec())));
            }
            let expected =
                [(1, Some(b"a".to_vec())), (4, Some(b"b".to_vec())), (5, None), (6, Some(b"last".to_vec()))];
            assert_eq!(read, expected);
        }
    }
}
