//! Reading `tmws.toml`: strict, every value with its line.

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{
    ProjectSetting, projects,
    sections::{SECTIONS, Section},
    settings::{Given, SettingRow},
    table::SETTINGS,
};
use crate::nearest;

/// What is wrong in a file, and on which line (from 1).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) line: usize,
    pub(super) message: String,
}

/// What a file holds, handed over as it is met.
pub(super) trait Taker {
    /// One setting of the table, with its line.
    fn setting(&mut self, row: &'static SettingRow, line: usize, given: &Given<'_>) -> Result<(), String>;

    /// One entry of `[projects]`.
    fn project(&mut self, project: ProjectSetting) -> Result<(), String>;

    /// One entry of another table of named entries.
    fn named(&mut self, section: &'static Section, name: &str, value: &DeValue<'_>) -> Result<(), String>;
}

/// Hands everything in `text` to `take`, in the order of the file, and returns all faults, those of `take` among them.
pub(super) fn read(text: &str, take: &mut impl Taker) -> Vec<Fault> {
    let document = match DeTable::parse(text) {
        Ok(document) => document,
        Err(error) => {
            let line = error.span().map_or(1, |span| line_of(text, span.start));
            return vec![Fault { line, message: format!("not TOML: {}", one_line(error.message())) }];
        }
    };
    let mut faults = Vec::new();
    walk(text, "", document.get_ref(), take, &mut faults);
    faults.sort_by_key(|fault| fault.line);
    faults
}

fn walk(text: &str, section: &str, table: &DeTable<'_>, take: &mut impl Taker, faults: &mut Vec<Fault>) {
    for (name, value) in table {
        let line = line_of(text, name.span().start);
        let key = if section.is_empty() {
            name.get_ref().to_string()
        } else {
            format!("{section}.{}", name.get_ref())
        };
        let outcome = if let Some(row) = SettingRow::find(&key) {
            take.setting(row, line, &given(value))
        } else if key == projects::SECTION {
            read_projects(text, value.get_ref(), take, faults);
            Ok(())
        } else if let Some(section) = SECTIONS.iter().find(|section| section.name == key) {
            read_named(text, section, value.get_ref(), take, faults);
            Ok(())
        } else if let (DeValue::Table(inner), true) = (value.get_ref(), is_section(&key)) {
            walk(text, &key, inner, take, faults);
            Ok(())
        } else {
            let known = SETTINGS
                .iter()
                .map(|row| row.key)
                .chain(["limits", projects::SECTION])
                .chain(SECTIONS.iter().map(|section| section.name));
            Err(format!("unknown key `{}`{}", one_line(&key), nearest::hint(&key, known)))
        };
        if let Err(message) = outcome {
            faults.push(Fault { line, message });
        }
    }
}

fn read_projects(text: &str, value: &DeValue<'_>, take: &mut impl Taker, faults: &mut Vec<Fault>) {
    for entry in projects::read(value) {
        let line = line_of(text, entry.offset);
        let outcome = entry.project.and_then(|project| take.project(project));
        faults.extend(outcome.err().map(|message| Fault { line, message }));
    }
}

fn read_named(
    text: &str,
    section: &'static Section,
    value: &DeValue<'_>,
    take: &mut impl Taker,
    faults: &mut Vec<Fault>,
) {
    let DeValue::Table(table) = value else {
        let name = section.name;
        faults
            .push(Fault { line: 1, message: format!("`{name}` is a table of tables, as in `[{name}.app]`") });
        return;
    };
    for (name, value) in table {
        let line = line_of(text, name.span().start);
        let outcome = take.named(section, name.get_ref(), value.get_ref());
        faults.extend(outcome.err().map(|message| Fault { line, message }));
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
        DeValue::Boolean(value) => Given::Boolean(*value),
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
