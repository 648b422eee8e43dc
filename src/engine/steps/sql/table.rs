//! An answer in the making, and how large it may become.

use std::time::Instant;

use serde_json::{Value, json};

use crate::engine::steps::json_bytes;

/// Longest cell, in bytes of its text.
pub(super) const CELL_BYTES_MAX: usize = 16 << 10;
/// Longest answer, in bytes of its JSON.
const TABLE_BYTES_MAX: usize = 4 << 20;

/// How far a query may go.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Rows at most.
    pub(super) rows: usize,
    /// Bytes of all rows at most.
    pub(super) bytes: usize,
    /// When it must have ended.
    pub(super) deadline: Instant,
}

impl Limits {
    pub(super) fn new(rows: usize, bytes_max: usize, deadline: Instant) -> Self {
        // Room for the names of the columns, and for what is around the rows.
        Self { rows, bytes: (bytes_max / 4 * 3).min(TABLE_BYTES_MAX), deadline }
    }
}

/// Rows as they come.
#[derive(Debug)]
pub(super) struct Table {
    limits: Limits,
    pub(super) columns: Vec<String>,
    pub(super) types: Vec<String>,
    rows: Vec<Value>,
    bytes: usize,
    truncated: bool,
    cut: usize,
}

impl Table {
    pub(super) const fn new(limits: Limits, columns: Vec<String>, types: Vec<String>) -> Self {
        Self { limits, columns, types, rows: Vec::new(), bytes: 0, truncated: false, cut: 0 }
    }

    /// Takes a row; false where it was one too many: no further ones are wanted.
    pub(super) fn push(&mut self, cells: Vec<Value>, cut: usize) -> bool {
        let row = Value::Array(cells);
        let bytes = json_bytes(&row) + 1;
        if self.rows.len() >= self.limits.rows || self.bytes + bytes > self.limits.bytes {
            self.truncated = true;
            return false;
        }
        self.bytes += bytes;
        self.cut += cut;
        self.rows.push(row);
        true
    }

    /// Whether it has as many rows as it may.
    pub(super) const fn is_full(&self) -> bool {
        self.rows.len() >= self.limits.rows
    }

    /// As the step gives it.
    pub(super) fn into_value(self) -> Value {
        let mut value = json!({
            "columns": self.columns, "types": self.types, "n": self.rows.len(), "truncated": self.truncated,
        });
        value["rows"] = Value::Array(self.rows);
        if self.cut > 0 {
            value["cut"] = json!(self.cut);
        }
        value
    }
}

/// `text` within [`CELL_BYTES_MAX`], and whether something is missing.
pub(super) fn clipped(text: &str) -> (String, bool) {
    if text.len() <= CELL_BYTES_MAX {
        return (text.to_owned(), false);
    }
    let end = text.floor_char_boundary(CELL_BYTES_MAX);
    (format!("{}…", &text[..end]), true)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn rows_and_bytes_are_bounded_and_what_is_missing_is_said() {
        let limits = Limits::new(2, 1 << 20, Instant::now() + Duration::from_secs(1));
        let mut table = Table::new(limits, vec!["a".into()], vec!["integer".into()]);
        assert!(table.push(vec![json!(1)], 0));
        assert!(table.push(vec![json!(2)], 1));
        assert!(!table.push(vec![json!(3)], 0));
        let value = table.into_value();
        assert_eq!(value["rows"], json!([[1], [2]]));
        assert_eq!((&value["truncated"], &value["n"], &value["cut"]), (&json!(true), &json!(2), &json!(1)));

        let limits = Limits { bytes: 10, ..limits };
        let mut table = Table::new(limits, Vec::new(), Vec::new());
        assert!(!table.push(vec![json!("longer than ten bytes")], 0));
        assert_eq!(table.into_value()["n"], 0);
    }

    #[test]
    fn a_long_cell_is_cut_between_characters() {
        let text = "é".repeat(CELL_BYTES_MAX);
        let (clip, cut) = clipped(&text);
        assert!(cut && clip.len() <= CELL_BYTES_MAX + "…".len());
        assert_eq!(clipped("short"), ("short".to_owned(), false));
    }
}
