//! Reading `tmws.toml`: strict, every value with its line.

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::settings::{Given, SETTINGS, SettingRow};
use crate::nearest;

/// What is wrong in a file, and on which line (from 1).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) line: usize,
    pub(super) message: String,
}

/// Hands each setting of `text` with its line to `take`, in the order of the table of settings, and returns all faults,
/// those of `take` among them.
pub(super) fn read(
    text: &str,
    mut take: impl FnMut(&'static SettingRow, usize, &Given<'_>) -> Result<(), String>,
) -> Vec<Fault> {
    let document = match DeTable::parse(text) {
        Ok(document) => document,
        Err(error) => {
            let line = error.span().map_or(1, |span| line_of(text, span.start));
            return vec![Fault { line, message: format!("not TOML: {}", one_line(error.message())) }];
        }
    };
    let mut faults = Vec::new();
    walk(text, "", document.get_ref(), &mut take, &mut faults);
    faults.sort_by_key(|fault| fault.line);
    faults
}

fn walk(
    text: &str,
    section: &str,
    table: &DeTable<'_>,
    take: &mut impl FnMut(&'static SettingRow, usize, &Given<'_>) -> Result<(), String>,
    faults: &mut Vec<Fault>,
) {
    for (name, value) in table {
        let line = line_of(text, name.span().start);
        let key = if section.is_empty() {
            name.get_ref().to_string()
        } else {
            format!("{section}.{}", name.get_ref())
        };
        let outcome = if let Some(row) = SettingRow::find(&key) {
            take(row, line, &given(value))
        } else if let (DeValue::Table(inner), true) = (value.get_ref(), is_section(&key)) {
            walk(text, &key, inner, take, faults);
            Ok(())
        } else {
            let known = SETTINGS.iter().map(|row| row.key).chain(["limits"]);
            Err(format!("unknown key `{}`{}", one_line(&key), nearest::hint(&key, known)))
        };
        if let Err(message) = outcome {
            faults.push(Fault { line, message });
        }
    }
}

fn is_section(key: &str) -> bool {
    SETTINGS.iter().any(|row| row.key.split_once('.').is_some_and(|(section, _)| section == key))
}

fn given<'a>(value: &'a Spanned<DeValue<'_>>) -> Given<'a> {
    match value.get_ref() {
        DeValue::String(text) => Given::String(text),
        DeValue::Integer(number) if number.radix() == 10 => Given::Integer(number.as_str()),
        DeValue::Integer(_) => Given::Other("a number that is not decimal"),
        DeValue::Float(_) => Given::Other("a fraction"),
        DeValue::Boolean(_) => Given::Other("a boolean"),
        DeValue::Datetime(_) => Given::Other("a date"),
        DeValue::Table(_) => Given::Other("a table"),
        DeValue::Array(items) => {
            let texts: Option<Vec<&str>> = items
                .iter()
                .map(|item| match item.get_ref() {
                    DeValue::String(text) => Some(&**text),
                    _ => None,
                })
                .collect();
            texts.map_or(Given::Other("a list of something else"), Given::List)
        }
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count()
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect()
}
