//! What a search through files found: of one file, and of all in their order.

use serde_json::{Map, Value, json};

use super::{rank::Rank, walk::Walked};
use crate::engine::steps::StepOutput;

/// What one file was.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum What {
    /// Not looked at.
    #[default]
    Nothing,
    Text,
    Binary,
    Secret,
    Large,
    Unreadable,
}

/// What one file gave.
#[derive(Default)]
pub(super) struct Scanned {
    pub(super) what: What,
    pub(super) bytes: u64,
    /// Lines that match.
    pub(super) n: usize,
    /// Of them in `value`.
    pub(super) hits: usize,
    pub(super) value: Option<(Rank, Value)>,
    pub(super) cut: bool,
}

/// What a search gave, file by file.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) n: usize,
    pub(super) files_n: usize,
    pub(super) shown: usize,
    pub(super) files: Vec<(Rank, Value)>,
    pub(super) searched: usize,
    pub(super) bytes: u64,
    pub(super) produced: usize,
    pub(super) bytes_max: usize,
    pub(super) cut: bool,
    pub(super) binary: usize,
    pub(super) large: usize,
    pub(super) secret: usize,
    pub(super) unreadable: usize,
}

impl Findings {
    /// Adds the next file, in order, with as many of its lines as `limit` and the bytes allow.
    pub(super) fn add(&mut self, limit: usize, scanned: Scanned) {
        let Scanned { what, bytes, n, hits, value, cut } = scanned;
        let count = match what {
            What::Nothing | What::Text => None,
            What::Binary => Some(&mut self.binary),
            What::Secret => Some(&mut self.secret),
            What::Large => Some(&mut self.large),
            What::Unreadable => Some(&mut self.unreadable),
        };
        if let Some(count) = count {
            *count += 1;
        }
        self.searched += usize::from(matches!(what, What::Text | What::Binary | What::Secret));
        self.bytes += bytes;
        self.cut |= cut;
        if n == 0 {
            return;
        }
        self.n += n;
        self.files_n += 1;
        let hits = hits.min(limit.saturating_sub(self.shown));
        self.cut |= hits < n;
        let Some((rank, mut value)) = value.filter(|_| hits > 0) else { return };
        if let Some(Value::Array(lines)) = value.get_mut("hits") {
            lines.truncate(hits);
        }
        self.shown += hits;
        let size = value.to_string().len();
        if self.produced + size > self.bytes_max {
            self.cut = true;
        } else {
            self.produced += size;
            self.files.push((rank, value));
        }
    }

    pub(super) fn into_output(mut self, walked: Walked) -> StepOutput {
        self.files.sort_by_key(|(rank, _)| *rank);
        let files: Vec<Value> = self.files.into_iter().map(|(_, file)| file).collect();
        let skipped: Map<String, Value> = [
            ("binary", self.binary),
            ("large", self.large),
            ("secret", self.secret),
            ("unreadable", self.unreadable + walked.unreadable),
        ]
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| (name.to_owned(), count.into()))
        .collect();
        let value = json!({
            "n": self.n,
            "files_n": self.files_n,
            "files": files,
            "searched": self.searched,
            "skipped": skipped,
            "truncated": self.cut || walked.cut,
        });
        StepOutput { value, bytes: self.bytes }
    }
}
