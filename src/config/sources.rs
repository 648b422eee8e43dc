//! `[sources.NAME]`: databases that patterns may read, and the queries that `db.ask` knows by name.

use std::path::Path;

use toml::{Spanned, de::DeValue};

use super::{Config, parse_duration, projects::project_name, sections::Section, show_duration};
use crate::{
    engine::steps::sql::{Address, NamedQuery, ROWS_MAX, SourceSpec, TIMEOUT_MAX},
    nearest,
    scope::ProjectId,
};

pub(super) const SECTION: Section = Section { name: "sources", take };

const KEYS: [&str; 7] = ["url", "url_env", "password_file", "projects", "rows", "timeout", "queries"];
const QUERY_KEYS: [&str; 3] = ["sql", "description", "params"];
/// Longest name of a source, a query or a value.
const NAME_CHARS_MAX: usize = 64;
/// Longest text of a query.
const SQL_BYTES_MAX: usize = 64 << 10;
/// Longest description of a query.
const DESCRIPTION_BYTES_MAX: usize = 1_000;
/// Queries of one source, values of one query.
const QUERIES_MAX: usize = 256;
const PARAMS_MAX: usize = 32;

fn take(config: &mut Config, name: &str, value: &DeValue<'_>) -> Result<(), String> {
    if !is_name(name) {
        return Err(format!("a source is named by {NAME_RULE}"));
    }
    let at = format!("sources.{name}");
    let DeValue::Table(table) = value else {
        return Err(format!("`{at}` is a table with `url` or `url_env`"));
    };
    let (mut address, mut variable) = (None, None);
    // The address is known only after all keys are.
    let mut spec = SourceSpec::new(name, Address::Variable(String::new()));
    for (key, value) in table {
        let key = &**key.get_ref();
        let place = format!("{at}.{key}");
        match key {
            "url" => {
                let fault = |fault: String| format!("`{place}` {fault}");
                address = Some(Address::parse(text(value, &place)?).map_err(fault)?);
            }
            "url_env" => {
                let name = text(value, &place)?;
                let valid = name.starts_with(|c: char| c.is_ascii_uppercase() || c == '_')
                    && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_');
                if !valid {
                    return Err(format!("`{place}` must name a variable, as in APP_DATABASE_URL"));
                }
                variable = Some(Address::Variable(name.to_owned()));
            }
            "password_file" => {
                let path = Path::new(text(value, &place)?);
                if !path.is_absolute() {
                    return Err(format!("`{place}` must be an absolute path"));
                }
                spec.password_file = Some(path.to_owned());
            }
            "projects" => {
                let names = texts(value, &place)?;
                spec.projects = Some(
                    names
                        .into_iter()
                        .map(reading_project)
                        .collect::<Result<_, _>>()
                        .map_err(|fault| format!("`{place}`: {fault}"))?,
                );
            }
            "rows" => {
                let DeValue::Integer(number) = value.get_ref() else {
                    return Err(format!("`{place}` must be a number"));
                };
                let rows = (number.radix() == 10).then(|| number.as_str().parse().ok()).flatten();
                spec.rows = rows
                    .filter(|rows| (1..=ROWS_MAX).contains(rows))
                    .ok_or_else(|| format!("`{place}` must be from 1 to {ROWS_MAX}"))?;
            }
            "timeout" => {
                let timeout =
                    parse_duration(text(value, &place)?).map_err(|fault| format!("`{place}`: {fault}"))?;
                if timeout.is_zero() || timeout > TIMEOUT_MAX {
                    return Err(format!("`{place}` must be from 1ms to {}", show_duration(TIMEOUT_MAX)));
                }
                spec.timeout = timeout;
            }
            "queries" => spec.queries = queries(value, &place)?,
            _ => return Err(unknown(&at, key, &KEYS)),
        }
    }
    spec.address = match (address, variable) {
        (Some(address), None) | (None, Some(address)) => address,
        (None, None) => return Err(format!("`{at}` needs `url` or `url_env`")),
        (Some(_), Some(_)) => return Err(format!("`{at}` has both `url` and `url_env`: keep one")),
    };
    if matches!(spec.address, Address::Sqlite(_)) && spec.password_file.is_some() {
        return Err(format!("`{at}.password_file` is for PostgreSQL"));
    }
    config.sources.push(spec);
    Ok(())
}

/// A project that may read a source. `personal` is one: everybody's own.
fn reading_project(name: &str) -> Result<ProjectId, String> {
    if *name == *ProjectId::personal().as_str() {
        return Ok(ProjectId::personal());
    }
    project_name(name)
}

fn queries(value: &Spanned<DeValue<'_>>, at: &str) -> Result<Vec<NamedQuery>, String> {
    let DeValue::Table(table) = value.get_ref() else {
        return Err(format!("`{at}` is a table of tables, as in `[{at}.open_orders]`"));
    };
    if table.len() > QUERIES_MAX {
        return Err(format!("`{at}` has more than {QUERIES_MAX} queries"));
    }
    let mut queries = Vec::with_capacity(table.len());
    for (name, value) in table {
        queries.push(query(name.get_ref(), value, &format!("{at}.{}", name.get_ref()))?);
    }
    queries.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(queries)
}

fn query(name: &str, value: &Spanned<DeValue<'_>>, at: &str) -> Result<NamedQuery, String> {
    if !is_name(name) {
        return Err(format!("a query is named by {NAME_RULE}"));
    }
    let DeValue::Table(table) = value.get_ref() else {
        return Err(format!("`{at}` is a table with `sql`, `description` and `params`"));
    };
    let mut query = NamedQuery {
        name: name.to_owned(),
        description: String::new(),
        sql: String::new(),
        params: Vec::new(),
    };
    for (key, value) in table {
        let key = &**key.get_ref();
        let place = format!("{at}.{key}");
        match key {
            "sql" => text(value, &place)?.clone_into(&mut query.sql),
            "description" => text(value, &place)?.clone_into(&mut query.description),
            "params" => {
                query.params = texts(value, &place)?.into_iter().map(str::to_owned).collect();
                let twice = |at: usize| query.params[..at].contains(&query.params[at]);
                let fine = query.params.len() <= PARAMS_MAX
                    && query.params.iter().all(|name| is_name(name))
                    && !(0..query.params.len()).any(twice);
                if !fine {
                    return Err(format!(
                        "`{place}` must be at most {PARAMS_MAX} different names, each {NAME_RULE}"
                    ));
                }
            }
            _ => return Err(unknown(at, key, &QUERY_KEYS)),
        }
    }
    if query.sql.trim().is_empty() || query.sql.len() > SQL_BYTES_MAX || query.sql.contains('\0') {
        return Err(format!("`{at}.sql` must be a query of at most 64 KiB"));
    }
    if query.description.len() > DESCRIPTION_BYTES_MAX {
        return Err(format!("`{at}.description` must have at most {DESCRIPTION_BYTES_MAX} bytes"));
    }
    Ok(query)
}

const NAME_RULE: &str = "1 to 64 letters, digits, `_` or `-`";

fn is_name(name: &str) -> bool {
    (1..=NAME_CHARS_MAX).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

fn text<'a>(value: &'a Spanned<DeValue<'_>>, place: &str) -> Result<&'a str, String> {
    match value.get_ref() {
        DeValue::String(text) => Ok(text),
        _ => Err(format!("`{place}` must be text")),
    }
}

fn texts<'a>(value: &'a Spanned<DeValue<'_>>, place: &str) -> Result<Vec<&'a str>, String> {
    let DeValue::Array(items) = value.get_ref() else {
        return Err(format!("`{place}` must be a list of texts"));
    };
    items
        .iter()
        .map(|item| text(item, place))
        .collect::<Result<_, _>>()
        .map_err(|_: String| format!("`{place}` must be a list of texts"))
}

fn unknown(at: &str, key: &str, known: &[&'static str]) -> String {
    let shown: String = key.chars().filter(|c| !c.is_control()).take(64).collect();
    format!("unknown key `{at}.{shown}`{}", nearest::hint(key, known.iter().copied()))
}
