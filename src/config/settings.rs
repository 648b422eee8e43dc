//! The table of settings: key, variable, kind, bounds, and what it sets.

use std::{ffi::OsStr, path::Path, path::PathBuf, time::Duration};

use super::{Config, DatabaseUrl, StateKey, parse_bytes, parse_duration, show_bytes, show_duration};
use crate::tool::Payload;

/// One row of [`SETTINGS`].
pub struct SettingRow {
    /// Key in `tmws.toml` and of `--set`, sections separated by dots.
    pub key: &'static str,
    /// Variable of the environment.
    pub variable: &'static str,
    /// One line for `doctor`, the docs and the schema.
    pub summary: &'static str,
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
    /// Text; says what is wrong.
    Text(fn(&mut Config, &str) -> Result<(), String>, fn(&Config) -> String),
    /// A path.
    Path(fn(&mut Config, &Path) -> Result<(), String>, fn(&Config) -> String),
    /// Paths: a list in the file, separated as in `PATH` elsewhere.
    Paths(fn(&mut Config, Vec<PathBuf>), fn(&Config) -> Vec<PathBuf>),
}

/// A value as it was given.
pub(super) enum Given<'a> {
    /// From the environment or a flag: every kind as text.
    Plain(&'a OsStr),
    /// A string of the file.
    String(&'a str),
    /// A whole number of the file, as digits.
    Integer(&'a str),
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
            Self::List(_) => "a list",
            Self::Other(name) => name,
        }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::Plain(text) => text.to_str(),
            Self::String(text) => Some(text),
            Self::Integer(_) | Self::List(_) | Self::Other(_) => None,
        }
    }
}

/// A day is the longest that anything here may wait.
const DAY: Duration = Duration::from_hours(24);
const MILLI: Duration = Duration::from_millis(1);

/// One limit: key, kind, field of a limits struct, bounds, summary. The variable is checked against the key by a test.
macro_rules! limit {
    ($key:literal $variable:literal $kind:ident $group:ident.$field:ident $min:expr, $max:expr, $summary:literal) => {
        SettingRow {
            key: $key,
            variable: $variable,
            summary: $summary,
            kind: Kind::$kind(|config| &mut config.$group.$field, $min, $max),
        }
    };
}

/// Every setting there is, in the order that `doctor` prints.
pub static SETTINGS: &[SettingRow] = &[
    SettingRow {
        key: "root",
        variable: "TMWS_ROOT",
        summary: "workspace root; else CLAUDE_PROJECT_DIR, else the working directory",
        kind: Kind::Path(
            |config, path| {
                path.clone_into(&mut config.root);
                Ok(())
            },
            |config| config.root.display().to_string(),
        ),
    },
    SettingRow {
        key: "agent",
        variable: "TMWS_AGENT",
        summary: "name of the agent, for memories of visibility `agent`",
        kind: Kind::Text(set_agent, |config| config.agent.clone()),
    },
    SettingRow {
        key: "database_url",
        variable: "TMWS_DATABASE_URL",
        summary: "the store: `sqlite:PATH`",
        kind: Kind::Text(set_database_url, |config| config.database.to_string()),
    },
    SettingRow {
        key: "patterns",
        variable: "TMWS_PATTERNS",
        summary: "further pattern folders of the user",
        kind: Kind::Paths(
            |config, folders| {
                let own = config.user_folder.as_ref().map(|folder| folder.join("patterns"));
                config.pattern_folders = own.into_iter().chain(folders).collect();
            },
            |config| config.pattern_folders.clone(),
        ),
    },
    SettingRow {
        key: "state_key",
        variable: "TMWS_STATE_KEY",
        summary: "signs cursors and request states, so that they outlive the process; a new one each time where absent",
        kind: Kind::Text(set_state_key, |config| {
            if config.state_key.is_some() { "[secret]" } else { "from the store" }.to_owned()
        }),
    },
    SettingRow {
        key: "log",
        variable: "TMWS_LOG",
        summary: "log level, or target=level pairs",
        kind: Kind::Text(set_log, |config| config.log.clone()),
    },
    SettingRow {
        key: "payload",
        variable: "TMWS_PAYLOAD",
        summary: "how results travel: text, structured or both",
        kind: Kind::Text(set_payload, |config| config.payload.as_str().to_owned()),
    },
    limit!("limits.frame_in" "TMWS_LIMITS_FRAME_IN" Bytes connection.frame_in_bytes_max 1 << 10, 1 << 30, "largest frame accepted"),
    limit!("limits.frame_out" "TMWS_LIMITS_FRAME_OUT" Bytes connection.frame_out_bytes_max 16 << 10, 1 << 30, "largest frame sent"),
    limit!("limits.inflight_requests" "TMWS_LIMITS_INFLIGHT_REQUESTS" Count connection.inflight_requests_max 1, 65_536, "requests being worked on at once, per connection"),
    limit!("limits.writer_queue_frames" "TMWS_LIMITS_WRITER_QUEUE_FRAMES" Count connection.writer_queue_frames_max 1, 65_536, "frames waiting to be written, per connection"),
    limit!("limits.subscriptions" "TMWS_LIMITS_SUBSCRIPTIONS" Count connection.subscriptions_max 1, 65_536, "subscriptions at once, per connection"),
    limit!("limits.page_items" "TMWS_LIMITS_PAGE_ITEMS" Count connection.page_items 1, 10_000, "items per page of a list"),
    limit!("limits.call_deadline" "TMWS_LIMITS_CALL_DEADLINE" Duration connection.call_deadline MILLI, DAY, "longest that a call may take"),
    limit!("limits.ask_deadline" "TMWS_LIMITS_ASK_DEADLINE" Duration connection.ask_deadline MILLI, DAY, "longest that a question to the client waits for its answer"),
    limit!("limits.request_state_ttl" "TMWS_LIMITS_REQUEST_STATE_TTL" Duration connection.request_state_ttl MILLI, DAY, "how long a request state may be used"),
    limit!("limits.memory_content" "TMWS_LIMITS_MEMORY_CONTENT" Bytes store.content_bytes_max 1, 1 << 20, "longest content of one memory"),
    limit!("limits.memory_tags" "TMWS_LIMITS_MEMORY_TAGS" Count store.tags_max 0, 1_024, "tags of one memory"),
    limit!("limits.memory_tag" "TMWS_LIMITS_MEMORY_TAG" Bytes store.tag_bytes_max 1, 1 << 10, "longest tag"),
    limit!("limits.session_scratch" "TMWS_LIMITS_SESSION_SCRATCH" Bytes store.scratch_bytes_max 0, 16 << 20, "scratch of one session"),
    limit!("limits.session_idle" "TMWS_LIMITS_SESSION_IDLE" Duration store.session_idle MILLI, Duration::from_hours(365 * 24), "a session unused for so long is gone"),
    limit!("limits.result_handles" "TMWS_LIMITS_RESULT_HANDLES" Count store.handles_per_project_max 1, 1_000_000, "result handles of one project at once"),
    limit!("limits.result" "TMWS_LIMITS_RESULT" Bytes store.result_bytes_max 1 << 10, 64 << 20, "one stored result"),
    limit!("limits.result_ttl" "TMWS_LIMITS_RESULT_TTL" Duration store.handle_ttl MILLI, Duration::from_hours(30 * 24), "how long a result handle lives"),
    limit!("limits.store_busy" "TMWS_LIMITS_STORE_BUSY" Duration store.busy_timeout MILLI, DAY, "longest wait for a store locked by another process"),
    limit!("limits.shutdown_drain" "TMWS_LIMITS_SHUTDOWN_DRAIN" Duration shutdown.drain Duration::ZERO, DAY, "how long calls may still answer after the end of input"),
    limit!("limits.shutdown_exit" "TMWS_LIMITS_SHUTDOWN_EXIT" Duration shutdown.exit MILLI, DAY, "the process is gone so long after the end of input"),
];

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
            Kind::Duration(..) | Kind::Bytes(..) | Kind::Count(..) | Kind::Paths(..) => true,
            Kind::Text(..) | Kind::Path(..) => false,
        }
    }

    /// The value as text, in the form that sets it again; secrets hidden.
    #[must_use]
    pub fn show(&self, config: &Config) -> String {
        match &self.kind {
            Kind::Duration(at, ..) => show_duration(*at(&mut config.clone())),
            Kind::Bytes(at, ..) => show_bytes(*at(&mut config.clone())),
            Kind::Count(at, ..) => at(&mut config.clone()).to_string(),
            Kind::Text(_, show) | Kind::Path(_, show) => show(config),
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
                    Given::String(_) | Given::List(_) | Given::Other(_) => None,
                };
                let value = value
                    .ok_or_else(|| format!("`{}` must be a whole number from {min} to {max}", self.key))?;
                check_range(&value, min, max, usize::to_string)?;
                *at(config) = value;
            }
            Kind::Text(set, _) => {
                return set(config, given.text().ok_or_else(|| self.wants("text", given))?);
            }
            Kind::Path(set, _) => {
                let path = match given {
                    Given::Plain(text) => Path::new(text),
                    Given::String(text) => Path::new(text),
                    Given::Integer(_) | Given::List(_) | Given::Other(_) => {
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
                    Given::String(_) | Given::Integer(_) | Given::Other(_) => {
                        return Err(self.wants("a list of paths", given));
                    }
                };
                set(config, paths);
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

fn set_agent(config: &mut Config, text: &str) -> Result<(), String> {
    let valid = !text.is_empty()
        && text.len() <= 64
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.:".contains(&byte));
    if !valid {
        return Err("an agent is named by 1 to 64 letters, digits, `_`, `-`, `.` or `:`".to_owned());
    }
    text.clone_into(&mut config.agent);
    Ok(())
}

/// Errors never quote the URL: it may hold a password.
fn set_database_url(config: &mut Config, text: &str) -> Result<(), String> {
    let path = text.strip_prefix("sqlite://").or_else(|| text.strip_prefix("sqlite:"));
    match path {
        Some(path) if !path.is_empty() && !path.contains(['?', '#']) => {
            config.database = DatabaseUrl::Sqlite(PathBuf::from(path));
            Ok(())
        }
        _ => Err("this build takes `sqlite:PATH`, without parameters".to_owned()),
    }
}

fn set_state_key(config: &mut Config, text: &str) -> Result<(), String> {
    let key = StateKey::of_text(text).ok_or_else(|| {
        format!("a key has at least {} bytes; make one with `openssl rand -hex 32`", StateKey::TEXT_BYTES_MIN)
    })?;
    config.state_key = Some(key);
    Ok(())
}

fn set_log(config: &mut Config, text: &str) -> Result<(), String> {
    crate::telemetry::parse_filter(text).map_err(|error| error.to_string())?;
    text.clone_into(&mut config.log);
    Ok(())
}

fn set_payload(config: &mut Config, text: &str) -> Result<(), String> {
    let (_, payload) = Payload::ALL
        .into_iter()
        .find(|(name, _)| *name == text)
        .ok_or("a payload is `text`, `structured` or `both`")?;
    config.payload = payload;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variable_is_named_after_its_key() {
        for row in SETTINGS {
            let expected = format!("TMWS_{}", row.key.replace('.', "_").to_ascii_uppercase());
            assert_eq!(row.variable, expected);
        }
    }

    #[test]
    fn keys_are_unique() {
        for (index, row) in SETTINGS.iter().enumerate() {
            assert!(SETTINGS[..index].iter().all(|earlier| earlier.key != row.key), "{}", row.key);
        }
    }
}
