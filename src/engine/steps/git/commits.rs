//! Reads what `git log` and `git diff` print with `-z`: commits, changed files, patches.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::engine::steps::fs::secret_reason;

/// Starts a commit; git cannot print it anywhere else at the beginning of a record that is not a path.
const MARK: u8 = 1;
/// Most text of one file's patch, in bytes.
const PATCH_BYTES_MAX: usize = 24 << 10;

/// `--format` whose records [`Records::commit`] reads.
pub(super) const FORMAT: &str = "--format=%x01%H%x00%P%x00%ct%x00%aN%x00%s%x00%b";
/// As [`FORMAT`], without the body of the message.
pub(super) const FORMAT_SHORT: &str = "--format=%x01%H%x00%P%x00%ct%x00%aN%x00%s%x00";

/// One commit.
pub(super) struct Commit {
    pub(super) hash: String,
    pub(super) parents: usize,
    pub(super) seconds: i64,
    pub(super) author: String,
    pub(super) subject: String,
    pub(super) body: String,
    pub(super) changes: Changes,
}

/// Files changed.
#[derive(Default)]
pub(super) struct Changes {
    pub(super) files: Vec<Change>,
    /// So many of them, from the first on, have their numbers of lines.
    numbered: usize,
    /// Text of all patches, one after the other.
    patch: Vec<u8>,
}

/// One changed file.
#[derive(Default)]
pub(super) struct Change {
    pub(super) path: String,
    pub(super) from: Option<String>,
    /// Letter of git: A, C, D, M, R, T, U.
    pub(super) letter: u8,
    pub(super) add: u64,
    pub(super) del: u64,
    pub(super) binary: bool,
}

/// Records between NUL bytes.
pub(super) struct Records<'a> {
    rest: Option<&'a [u8]>,
}

impl<'a> Records<'a> {
    /// The records of `bytes`; one that was cut off at the end is dropped when `cut`.
    pub(super) fn new(bytes: &'a [u8], cut: bool) -> Self {
        let end =
            if cut { bytes.iter().rposition(|&byte| byte == 0).map_or(0, |at| at + 1) } else { bytes.len() };
        Self { rest: Some(&bytes[..end]).filter(|rest| !rest.is_empty()) }
    }

    fn peek(&self) -> Option<&'a [u8]> {
        self.rest.map(|rest| rest.split(|&byte| byte == 0).next().unwrap_or_default())
    }

    pub(super) fn next_record(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest?;
        let (record, rest) = match rest.iter().position(|&byte| byte == 0) {
            Some(at) => (&rest[..at], Some(&rest[at + 1..])),
            None => (rest, None),
        };
        self.rest = rest.filter(|rest| !rest.is_empty());
        Some(record)
    }

    fn next_text(&mut self) -> Option<String> {
        self.next_record().map(|record| String::from_utf8_lossy(record).into_owned())
    }

    /// The next commit with its changes.
    pub(super) fn commit(&mut self) -> Option<Commit> {
        let hash = self.next_text()?.strip_prefix(char::from(MARK))?.to_owned();
        let parents = self.next_text()?.split_whitespace().count();
        let seconds = self.next_text()?.parse().ok()?;
        let author = self.next_text()?;
        let subject = self.next_text()?;
        let body = self.next_text()?.trim().to_owned();
        let changes = self.changes();
        Some(Commit { hash, parents, seconds, author, subject, body, changes })
    }

    /// The changes up to the next commit or the end.
    pub(super) fn changes(&mut self) -> Changes {
        let mut changes = Changes::default();
        while let Some(record) = self.peek() {
            let record = record.strip_prefix(b"\n").unwrap_or(record);
            if record.first() == Some(&MARK) {
                break;
            }
            self.next_record();
            if record.is_empty() {
                // An empty record stands before the patches, which end the output.
                if self.rest.is_some_and(|rest| rest.starts_with(b"diff ") || rest.starts_with(b"* Unmerged"))
                {
                    changes.patch = self.rest.take().unwrap_or_default().to_vec();
                }
            } else if record.first() == Some(&b':') {
                self.raw(record, &mut changes);
            } else {
                self.numstat(record, &mut changes);
            }
        }
        changes
    }

    fn raw(&mut self, record: &[u8], changes: &mut Changes) {
        let letter = record
            .split(|&byte| byte == b' ')
            .next_back()
            .and_then(|last| last.first())
            .copied()
            .unwrap_or(b'M');
        let Some(first) = self.next_text() else { return };
        let (from, path) = match letter {
            b'R' | b'C' => (Some(first), self.next_text().unwrap_or_default()),
            _ => (None, first),
        };
        changes.files.push(Change { path, from, letter, ..Change::default() });
    }

    fn numstat(&mut self, record: &[u8], changes: &mut Changes) {
        let text = String::from_utf8_lossy(record);
        let mut fields = text.splitn(3, '\t');
        let (Some(add), Some(del), Some(path)) = (fields.next(), fields.next(), fields.next()) else {
            return;
        };
        let (from, path) = if path.is_empty() {
            (self.next_text(), self.next_text().unwrap_or_default())
        } else {
            (None, path.to_owned())
        };
        let binary = add == "-";
        let [add, del] = [add, del].map(|count| u64::from(count.parse::<u32>().unwrap_or(0)));
        // Raw records, where there are any, come before in the same order; unmerged files have no numbers.
        let expected = changes.files[changes.numbered..]
            .iter()
            .position(|file| file.letter != b'U' && file.path == path);
        let at = expected.map_or(changes.files.len(), |offset| changes.numbered + offset);
        changes.numbered = at + 1;
        if let Some(file) = changes.files.get_mut(at) {
            (file.add, file.del, file.binary) = (add, del, binary);
        } else {
            let letter = if from.is_some() { b'R' } else { b'M' };
            changes.files.push(Change { path, from, letter, add, del, binary });
        }
    }
}

impl Changes {
    /// Added and removed lines.
    pub(super) fn totals(&self) -> (u64, u64) {
        self.files.iter().fold((0, 0), |(add, del), file| (add + file.add, del + file.del))
    }

    /// The files as shown, at most `limit`.
    pub(super) fn shown(&self, limit: usize) -> Vec<Value> {
        self.files.iter().take(limit).map(Change::shown).collect()
    }

    /// The patches as shown, within `bytes_max` in all, and whether something was left out. The patch of a file that
    /// holds credentials by its name is withheld.
    pub(super) fn patches(&self, bytes_max: usize) -> (Vec<Value>, bool) {
        let sections = sections(&self.patch);
        let paired = sections.len() == self.files.len();
        let closed = |file: &Change| {
            [Some(&file.path), file.from.as_ref()]
                .into_iter()
                .flatten()
                .any(|path| secret_reason(std::path::Path::new(path)).is_some())
        };
        // Sections are in the order of the files. Where that cannot be relied on, a closed file closes them all.
        if !paired && self.files.iter().any(closed) {
            return (Vec::new(), true);
        }
        let mut room = bytes_max;
        let mut cut = false;
        let mut shown = Vec::new();
        for (index, section) in sections.iter().enumerate() {
            let file = self.files.get(index).filter(|_| paired);
            let mut entry = Map::new();
            if let Some(file) = file {
                entry.insert("path".into(), file.path.as_str().into());
                if closed(file) {
                    entry.insert("withheld".into(), true.into());
                    shown.push(Value::Object(entry));
                    continue;
                }
            }
            let body = hunks(section);
            let kept = line_boundary(body, PATCH_BYTES_MAX.min(room));
            if kept < body.len() {
                cut = true;
                entry.insert("truncated".into(), true.into());
            }
            if kept == 0 && !body.is_empty() {
                break;
            }
            room -= kept;
            entry.insert("text".into(), String::from_utf8_lossy(&body[..kept]).trim_end_matches('\n').into());
            shown.push(Value::Object(entry));
        }
        (shown, cut)
    }
}

impl Change {
    fn shown(&self) -> Value {
        let mut value =
            json!({"path": self.path, "state": state(self.letter), "add": self.add, "del": self.del});
        if let Some(from) = &self.from {
            value["from"] = from.as_str().into();
        }
        if self.binary {
            value["binary"] = true.into();
        }
        value
    }
}

/// The word for a letter of git.
pub(super) const fn state(letter: u8) -> &'static str {
    match letter {
        b'A' => "added",
        b'C' => "copied",
        b'D' => "deleted",
        b'R' => "renamed",
        b'T' => "retyped",
        b'U' => "conflict",
        b'?' => "untracked",
        _ => "modified",
    }
}

/// Splits the text of patches before each `diff ` line: within a patch, no line begins so.
fn sections(patch: &[u8]) -> Vec<&[u8]> {
    let mut starts = Vec::new();
    let mut at = 0;
    for line in patch.split_inclusive(|&byte| byte == b'\n') {
        if line.starts_with(b"diff ") || line.starts_with(b"* Unmerged path ") {
            starts.push(at);
        }
        at += line.len();
    }
    starts
        .iter()
        .enumerate()
        .map(|(index, &start)| &patch[start..starts.get(index + 1).copied().unwrap_or(patch.len())])
        .collect()
}

/// A patch without the lines that repeat its path: from the first hunk on, else all of it.
fn hunks(section: &[u8]) -> &[u8] {
    let mut at = 0;
    for line in section.split_inclusive(|&byte| byte == b'\n') {
        if line.starts_with(b"@@") {
            return &section[at..];
        }
        at += line.len();
    }
    section
}

/// The largest number of bytes up to `max` that ends with a line.
fn line_boundary(text: &[u8], max: usize) -> usize {
    if text.len() <= max {
        return text.len();
    }
    text[..max].iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1)
}

/// A hash, short enough to read: its first eight digits.
pub(super) fn short(hash: &str) -> &str {
    hash.get(..8).unwrap_or(hash)
}

/// An instant as RFC 3339 in UTC; what is out of the calendar is empty.
pub(super) fn date(seconds: i64) -> String {
    Timestamp::from_second(seconds).map_or_else(|_| String::new(), |instant| instant.to_string())
}

/// At most `max` characters of `text`, with an ellipsis where there were more.
pub(super) fn clip(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    let mut clipped: String = text.chars().take(max - 1).collect();
    clipped.push('…');
    clipped
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patches_are_paired_with_their_files_and_shortened_by_lines() {
        let long = "+x\n".repeat(20_000);
        let text = format!(
            ":1 1 a b M\0a\0:1 1 a b M\0b.pem\0:1 1 a b M\0c\01\t0\ta\01\t0\tb.pem\09\t0\tc\0\0diff --git a/a b/a\n--- a/a\n+++ b/a\n@@ -1 +1 @@\n-1\n+diff --git\ndiff --git a/b.pem b/b.pem\n@@ -1 +1 @@\n+secret\ndiff --git a/c b/c\n@@ -0,0 +1 @@\n{long}"
        );
        let changes = Records::new(text.as_bytes(), false).changes();
        assert_eq!(changes.totals(), (11, 0));
        let (patches, cut) = changes.patches(100_000);
        assert!(cut);
        assert_eq!(patches[0], json!({"path": "a", "text": "@@ -1 +1 @@\n-1\n+diff --git"}));
        assert_eq!(patches[1], json!({"path": "b.pem", "withheld": true}));
        assert_eq!(patches[2]["truncated"], true);
        assert!(patches[2]["text"].as_str().unwrap().ends_with("\n+x"));
        // Where files and patches cannot be paired, a closed file closes them all.
        let unpaired = text.replacen("diff --git a/c", "differ --git a/c", 1);
        let changes = Records::new(unpaired.as_bytes(), false).changes();
        assert_eq!(changes.patches(100_000), (Vec::new(), true));
    }

    #[test]
    fn a_record_that_was_cut_off_is_left_out() {
        let text = b"\x01aaaa\0\x0010\0Ada\0first\0\0\n1\t2\tx\x003\t4\tlong/pa";
        let commit = Records::new(text, true).commit().unwrap();
        assert_eq!((commit.changes.files.len(), commit.changes.totals()), (1, (1, 2)));
    }

    proptest! {
        #[test]
        fn nothing_that_a_program_prints_can_panic(
            text in r"((\x01a|:1 2 R100|:1 2 M|:1 2 U|1\t2\t|-\t-\tb|[0-9]{1,22}\t1\tc|diff --git a|\* Unmerged path x|@@|\n|x|é)?\x00?){0,40}",
            cut: bool,
            bytes_max in 0_usize..100,
        ) {
            let mut records = Records::new(text.as_bytes(), cut);
            while let Some(commit) = records.commit() {
                let _ = (commit.changes.totals(), commit.changes.shown(3), commit.changes.patches(bytes_max));
            }
            let changes = Records::new(text.as_bytes(), cut).changes();
            let _ = (changes.totals(), changes.patches(bytes_max));
        }
    }
}
