//! What a setting is: its kinds, how each is read and shown.

use std::{ffi::OsStr, path::Path, path::PathBuf, time::Duration};

use super::{Config, parse_bytes, parse_duration, show_bytes, show_duration, table::SETTINGS};

/// One row of [`SETTINGS`].
pub struct SettingRow {
    /// Key in `tmws.toml` and of `--set`, sections separated by dots.
    pub key: &'static str,
    /// Variable of the environment.
    pub variable: &'static str,
    /// One line for `doctor`, the docs and the schema.
    pub summary: &'static str,
    /// It concerns every client of a shared server, so no repository may set it, not even lower.
    pub shared: bool,
    /// What it takes.
    pub kind: Kind,
}

/// What a setting takes and where it goes.
pub enum Kind {
    /// A duration with its unit; a limit.
    Duration(fn(&mut Config) -> &mut Duration, Duration, Duration),
    /// A size with its unit; a limit.
    Bytes(fn(&mut Config) -> &mut usize, usize, usize),
    /// A whole number; a limit.
    Count(fn(&mut Config) -> &mut usize, usize, usize),
    /// `true` or `false`.
    Flag(fn(&mut Config) -> &mut bool),
    /// Text; says what is wrong.
    Text(fn(&mut Config, &str) -> Result<(), String>, fn(&Config) -> String),
    /// A path.
    Path(fn(&mut Config, &Path) -> Result<(), String>, fn(&Config) -> String),
    /// Paths: a list in the file, separated as in `PATH` elsewhere.
    Paths(fn(&mut Config, Vec<PathBuf>), fn(&Config) -> Vec<PathBuf>),
    /// Words: a list in the file, separated by commas elsewhere; says what is wrong.
    Texts(fn(&mut Config, Vec<String>) -> Result<(), String>, fn(&Config) -> Vec<String>),
}

/// A value as it was given.
pub(super) enum Given<'a> {
    /// From the environment or a flag: every kind as text.
    Plain(&'a OsStr),
    /// A string of the file.
    String(&'a str),
    /// A whole number of the file, as digits.
    Integer(&'a str),
    /// A boolean of the file.
    Boolean(bool),
    /// A list of strings of the file.
    List(Vec<&'a str>),
    /// Something else; its name.
    Other(&'static str),
}

impl Given<'_> {
    fn kind(&self) -> &'static str {
        match self {
            Self::Plain(_) | Self::String(_) => "text",
            Self::Integer(_) => "a number",
            Self::Boolean(_) => "a boolean",
            Self::List(_) => "a list",
            Self::Other(name) => name,
        }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::Plain(text) => text.to_str(),
            Self::String(text) => Some(text),
            Self::Integer(_) | Self::Boolean(_) | Self::List(_) | Self::Other(_) => None,
        }
    }
}

impl SettingRow {
    /// The row of `key`.
    #[must_use]
    pub fn find(key: &str) -> Option<&'static Self> {
        SETTINGS.iter().find(|row| row.key == key)
    }

    /// Whether a repository's own file may set it (lower it, or for pattern folders name them).
    #[must_use]
    pub const fn open_to_repositories(&self) -> bool {
        match self.kind {
            Kind::Duration(..) | Kind::Bytes(..) | Kind::Count(..) | Kind::Paths(..) => !self.shared,
            Kind::Flag(_) | Kind::Text(..) | Kind::Path(..) | Kind::Texts(..) => false,
        }
    }

    /// The value as text, in the form that sets it again; secrets hidden.
    #[must_use]
    pub fn show(&self, config: &Config) -> String {
        match &self.kind {
            Kind::Duration(at, ..) => show_duration(*at(&mut config.clone())),
            Kind::Bytes(at, ..) => show_bytes(*at(&mut config.clone())),
            Kind::Count(at, ..) => at(&mut config.clone()).to_string(),
            Kind::Flag(at) => at(&mut config.clone()).to_string(),
            Kind::Text(_, show) | Kind::Path(_, show) => show(config),
            Kind::Texts(_, show) => show(config).join(","),
            Kind::Paths(_, show) => {
                let paths: Vec<String> = show(config).iter().map(|path| path.display().to_string()).collect();
                paths.join(if cfg!(windows) { ";" } else { ":" })
            }
        }
    }

    /// Sets the value.
    ///
    /// # Errors
    /// What is wrong and what is allowed, a lower-case fragment without the value of a secret.
    pub(super) fn set(&self, config: &mut Config, given: &Given<'_>) -> Result<(), String> {
        match &self.kind {
            Kind::Duration(at, min, max) => {
                let value = parse_duration(
                    given.text().ok_or_else(|| self.wants("a duration such as `30s`", given))?,
                )?;
                check_range(&value, min, max, |value| show_duration(*value))?;
                *at(config) = value;
            }
            Kind::Bytes(at, min, max) => {
                let value =
                    parse_bytes(given.text().ok_or_else(|| self.wants("a size such as `4MiB`", given))?)?;
                check_range(&value, min, max, |value| show_bytes(*value))?;
                *at(config) = value;
            }
            Kind::Count(at, min, max) => {
                let value = match given {
                    Given::Integer(digits) => digits.parse().ok(),
                    Given::Plain(text) => text.to_str().and_then(|text| text.parse().ok()),
                    Given::String(_) | Given::Boolean(_) | Given::List(_) | Given::Other(_) => None,
                };
                let value = value
                    .ok_or_else(|| format!("`{}` must be a whole number from {min} to {max}", self.key))?;
                check_range(&value, min, max, usize::to_string)?;
                *at(config) = value;
            }
            Kind::Flag(at) => {
                let value = match given {
                    Given::Boolean(value) => Some(*value),
                    Given::Plain(text) => match text.to_str() {
                        Some("true" | "1") => Some(true),
                        Some("false" | "0") => Some(false),
                        _ => None,
                    },
                    Given::String(_) | Given::Integer(_) | Given::List(_) | Given::Other(_) => None,
                };
                *at(config) = value.ok_or_else(|| format!("`{}` must be true or false", self.key))?;
            }
            Kind::Text(set, _) => {
                return set(config, given.text().ok_or_else(|| self.wants("text", given))?);
            }
            Kind::Path(set, _) => {
                let path = match given {
                    Given::Plain(text) => Path::new(text),
                    Given::String(text) => Path::new(text),
                    Given::Integer(_) | Given::Boolean(_) | Given::List(_) | Given::Other(_) => {
                        return Err(self.wants("a path", given));
                    }
                };
                if path.as_os_str().is_empty() {
                    return Err(format!("`{}` must not be empty", self.key));
                }
                return set(config, path);
            }
            Kind::Paths(set, _) => {
                let paths = match given {
                    Given::Plain(text) => {
                        std::env::split_paths(text).filter(|path| !path.as_os_str().is_empty()).collect()
                    }
                    Given::List(paths) => paths.iter().map(PathBuf::from).collect(),
                    Given::String(_) | Given::Integer(_) | Given::Boolean(_) | Given::Other(_) => {
                        return Err(self.wants("a list of paths", given));
                    }
                };
                set(config, paths);
            }
            Kind::Texts(set, _) => {
                let texts: Vec<String> = match given {
                    Given::Plain(text) => {
                        let text = text.to_str().ok_or_else(|| format!("`{}` is not UTF-8", self.key))?;
                        text.split(',')
                            .map(str::trim)
                            .filter(|item| !item.is_empty())
                            .map(str::to_owned)
                            .collect()
                    }
                    Given::List(items) => items.iter().map(|item| (*item).to_owned()).collect(),
                    Given::String(_) | Given::Integer(_) | Given::Boolean(_) | Given::Other(_) => {
                        return Err(self.wants("a list of texts", given));
                    }
                };
                return set(config, texts);
            }
        }
        Ok(())
    }

    fn wants(&self, wanted: &str, given: &Given<'_>) -> String {
        format!("`{}` must be {wanted}, not {}", self.key, given.kind())
    }
}

fn check_range<T: PartialOrd>(
    value: &T,
    min: &T,
    max: &T,
    show: impl Fn(&T) -> String,
) -> Result<(), String> {
    if value < min || value > max {
        return Err(format!("{} is out of range: {} to {}", show(value), show(min), show(max)));
    }
    Ok(())
}
