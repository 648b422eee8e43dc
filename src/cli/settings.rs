//! From flags to configuration.

use std::ffi::OsString;

use super::{Failure, arguments::Settings};
use crate::{config::Sources, exit::Exit};

/// The flags of a launch with the same settings.
pub(super) fn again(settings: &Settings) -> Vec<OsString> {
    let Settings { config, root, agent, database_url, patterns, log, payload, setting } = settings;
    let file = config.as_ref().map(|path| path.clone().into_os_string());
    let named = [
        ("--config", &file),
        ("--root", root),
        ("--agent", agent),
        ("--database-url", database_url),
        ("--patterns", patterns),
        ("--log", log),
        ("--payload", payload),
    ];
    let named = named.into_iter().filter_map(|(flag, value)| Some([flag.into(), value.clone()?])).flatten();
    let others = setting.iter().flat_map(|pair| ["--setting".into(), pair.into()]);
    named.chain(others).collect()
}

/// The process's sources with the flags of the command line.
///
/// # Errors
/// A `--setting` without `=`.
pub(super) fn sources(settings: Settings) -> Result<Sources, Failure> {
    let Settings { config, root, agent, database_url, patterns, log, payload, setting } = settings;
    let named = [
        ("--root", "root", root),
        ("--agent", "agent", agent),
        ("--database-url", "database_url", database_url),
        ("--patterns", "patterns", patterns),
        ("--log", "log", log),
        ("--payload", "payload", payload),
    ];
    let mut flags: Vec<(String, String, OsString)> = named
        .into_iter()
        .filter_map(|(flag, key, value)| Some((flag.to_owned(), key.to_owned(), value?)))
        .collect();
    for pair in setting {
        let (key, value) = pair.split_once('=').ok_or_else(|| {
            Failure::new(Exit::Usage, "read the command line", "`--setting` takes KEY=VALUE")
                .with_hint("for instance `--setting limits.call_deadline=10s`")
        })?;
        flags.push((format!("--setting {key}"), key.to_owned(), value.into()));
    }
    Ok(Sources { flags, file: config, ..Sources::of_process() })
}
