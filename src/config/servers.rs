//! `[servers.NAME]`: other MCP servers, and which of their tools patterns may call.

use std::{collections::BTreeMap, path::Path, time::Duration};

use toml::de::DeValue;

use super::{Config, parse_duration, sections::Section, show_duration};
use crate::{
    engine::steps::mcp::{Hidden, Pin, Reach, ServerSetting, ToolSetting, WorkingFolder},
    nearest,
    scope::ProjectId,
};

pub(super) const SECTION: Section = Section { name: "servers", take };

/// Keys of one server.
const KEYS: [&str; 13] = [
    "command",
    "env",
    "env_from",
    "root",
    "url",
    "headers",
    "token_env",
    "projects",
    "idle",
    "timeout",
    "start",
    "processes",
    "tools",
];
/// Those of a server that is started, and of one that is there.
const OF_COMMAND: [&str; 3] = ["env", "env_from", "root"];
const OF_URL: [&str; 2] = ["headers", "token_env"];
/// Keys of one tool.
const TOOL_KEYS: [&str; 3] = ["schema", "reads", "query"];
const NAME_BYTES_MAX: usize = 64;
const TOOL_BYTES_MAX: usize = 256;

fn take(config: &mut Config, name: &str, value: &DeValue<'_>) -> Result<(), String> {
    let letters = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte);
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(letters) {
        return Err("a server is named by 1 to 64 lower-case letters, digits, `_` or `-`".to_owned());
    }
    let at = format!("servers.{name}");
    let setting = read(&at, value)?;
    config.servers.push((name.to_owned(), setting));
    Ok(())
}

type Table<'a> = toml::de::DeTable<'a>;

fn table<'a, 'b>(at: &str, value: &'a DeValue<'b>) -> Result<&'a Table<'b>, String> {
    match value {
        DeValue::Table(table) => Ok(table),
        _ => Err(format!("`{at}` is a table")),
    }
}

fn known(at: &str, table: &Table<'_>, keys: &[&str]) -> Result<(), String> {
    match table.iter().find(|(name, _)| !keys.contains(&&**name.get_ref())) {
        None => Ok(()),
        Some((name, _)) => {
            let shown: String = name.get_ref().chars().filter(|c| !c.is_control()).take(64).collect();
            Err(format!("unknown key `{at}.{shown}`{}", nearest::hint(name.get_ref(), keys.iter().copied())))
        }
    }
}

fn get<'a, 'b>(table: &'a Table<'b>, name: &str) -> Option<&'a DeValue<'b>> {
    table.get(name).map(toml::Spanned::get_ref)
}

fn read(at: &str, value: &DeValue<'_>) -> Result<ServerSetting, String> {
    let table = table(at, value)?;
    known(at, table, &KEYS)?;
    let misplaced = |keys: &[&str], needs: &str| match keys.iter().find(|key| get(table, key).is_some()) {
        Some(key) => Err(format!("`{at}.{key}` goes with `{needs}`")),
        None => Ok(()),
    };
    let reach = match (get(table, "command"), get(table, "url")) {
        (Some(command), None) => {
            misplaced(&OF_URL, "url")?;
            Reach::Command {
                argv: argv(at, command)?,
                environment: hidden(at, "env", get(table, "env"), variable)?,
                passed_on: texts(at, "env_from", get(table, "env_from"))?
                    .into_iter()
                    .map(|name| variable(&name).then_some(name))
                    .collect::<Option<_>>()
                    .ok_or_else(|| format!("`{at}.env_from` is a list of names of variables"))?,
                folder: folder(at, get(table, "root"))?,
            }
        }
        (None, Some(url)) => {
            misplaced(&OF_COMMAND, "command")?;
            let headers = hidden(at, "headers", get(table, "headers"), header)?;
            let token_variable = match get(table, "token_env") {
                None => None,
                Some(DeValue::String(name)) if variable(name) => Some(name.to_string()),
                Some(_) => {
                    return Err(format!("`{at}.token_env` is the name of the variable that holds a token"));
                }
            };
            let is_secret = !headers.is_empty() || token_variable.is_some();
            Reach::Url { url: address(at, url, is_secret)?, headers, token_variable }
        }
        (None, None) => return Err(format!("`{at}` needs `command` (to start it) or `url` (where it is)")),
        (Some(_), Some(_)) => return Err(format!("`{at}` has both `command` and `url`; it can have one")),
    };
    let mut setting = ServerSetting::new(reach);
    setting.projects = match get(table, "projects") {
        None => None,
        projects => {
            let projects = texts(at, "projects", projects)?;
            if let Some(wrong) = projects.iter().find(|name| *name != "*" && ProjectId::parse(name).is_none())
            {
                let shown: String = wrong.chars().take(64).collect();
                return Err(format!(
                    "`{at}.projects`: `{shown}` is no project; give ids, aliases, or \"*\" for every one"
                ));
            }
            Some(projects)
        }
    };
    for (name, into, (min, _, max)) in [
        ("idle", &mut setting.idle, ServerSetting::IDLE),
        ("timeout", &mut setting.timeout, ServerSetting::TIMEOUT),
        ("start", &mut setting.start, ServerSetting::START),
    ] {
        if let Some(value) = get(table, name) {
            *into = duration(at, name, value, min, max)?;
        }
    }
    if let Some(value) = get(table, "processes") {
        let (min, _, max) = ServerSetting::PROCESSES;
        let count = match value {
            DeValue::Integer(number) if number.radix() == 10 => number.as_str().parse().ok(),
            _ => None,
        };
        setting.processes = count
            .filter(|count| (min..=max).contains(count))
            .ok_or_else(|| format!("`{at}.processes` is a number from {min} to {max}"))?;
    }
    if let Some(value) = get(table, "tools") {
        setting.tools = tools(&format!("{at}.tools"), value)?;
    }
    Ok(setting)
}

fn argv(at: &str, value: &DeValue<'_>) -> Result<Vec<String>, String> {
    if matches!(value, DeValue::String(_)) {
        return Err(format!(
            "`{at}.command` is a list, as in [\"npx\", \"-y\", \"some-server\"]: no shell takes it apart"
        ));
    }
    let argv = texts(at, "command", Some(value))?;
    let whole = argv.first().is_some_and(|program| !program.is_empty())
        && !argv.iter().any(|word| word.contains('\0'));
    if whole { Ok(argv) } else { Err(format!("`{at}.command` is a list that begins with a program")) }
}

fn texts(at: &str, name: &str, value: Option<&DeValue<'_>>) -> Result<Vec<String>, String> {
    let wrong = || format!("`{at}.{name}` is a list of texts");
    match value {
        None => Ok(Vec::new()),
        Some(DeValue::Array(items)) => items
            .iter()
            .map(|item| match item.get_ref() {
                DeValue::String(text) => Ok(text.to_string()),
                _ => Err(wrong()),
            })
            .collect(),
        Some(_) => Err(wrong()),
    }
}

/// A table of texts that are never shown.
fn hidden(
    at: &str,
    name: &str,
    value: Option<&DeValue<'_>>,
    is_name: fn(&str) -> bool,
) -> Result<BTreeMap<String, Hidden>, String> {
    let Some(value) = value else { return Ok(BTreeMap::new()) };
    let at = format!("{at}.{name}");
    table(&at, value)?
        .iter()
        .map(|(name, value)| match value.get_ref() {
            DeValue::String(text) if is_name(name.get_ref()) && !text.contains('\0') => {
                Ok((name.get_ref().to_string(), Hidden::new(text.to_string())))
            }
            // Neither is shown: whoever swapped them would see the value.
            _ => Err(format!("`{at}` is a table of names and texts")),
        })
        .collect()
}

fn variable(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn header(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

fn folder(at: &str, value: Option<&DeValue<'_>>) -> Result<WorkingFolder, String> {
    match value {
        None | Some(DeValue::Boolean(false)) => Ok(WorkingFolder::Home),
        Some(DeValue::Boolean(true)) => Ok(WorkingFolder::Project),
        Some(DeValue::String(path)) if Path::new(&**path).is_absolute() => {
            Ok(WorkingFolder::Fixed(Path::new(&**path).to_owned()))
        }
        Some(_) => Err(format!("`{at}.root` is true (the project's root) or an absolute path")),
    }
}

/// An address that keeps what is sent there: no user, no password, and no secret without encryption off this machine.
fn address(at: &str, value: &DeValue<'_>, is_secret: bool) -> Result<String, String> {
    let wrong =
        || format!("`{at}.url` is an address as in \"https://example.org/mcp\", without user and password");
    let DeValue::String(url) = value else { return Err(wrong()) };
    let url = reqwest::Url::parse(url).map_err(|_| wrong())?;
    let host = url.host_str().unwrap_or_default();
    if host.is_empty() || !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err(wrong());
    }
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    let is_near = host == "localhost" || address.is_ok_and(|address| address.to_canonical().is_loopback());
    match url.scheme() {
        "https" => Ok(url.into()),
        "http" if is_near || !is_secret => Ok(url.into()),
        "http" => Err(format!(
            "`{at}.url` must be https: headers and tokens leave this machine otherwise unencrypted"
        )),
        _ => Err(wrong()),
    }
}

fn duration(
    at: &str,
    name: &str,
    value: &DeValue<'_>,
    min: Duration,
    max: Duration,
) -> Result<Duration, String> {
    let DeValue::String(text) = value else {
        return Err(format!("`{at}.{name}` is a duration, as in \"30s\""));
    };
    let duration = parse_duration(text).map_err(|why| format!("`{at}.{name}`: {why}"))?;
    if (min..=max).contains(&duration) {
        return Ok(duration);
    }
    Err(format!("`{at}.{name}` is from {} to {}", show_duration(min), show_duration(max)))
}

fn tools(at: &str, value: &DeValue<'_>) -> Result<BTreeMap<String, ToolSetting>, String> {
    let entries = table(at, value)?;
    entries
        .iter()
        .map(|(name, value)| {
            let name = name.get_ref();
            let fits =
                !name.is_empty() && name.len() <= TOOL_BYTES_MAX && !name.chars().any(char::is_control);
            if !fits {
                return Err(format!("`{at}`: a tool has a name of 1 to {TOOL_BYTES_MAX} bytes"));
            }
            Ok((name.to_string(), tool(&format!("{at}.{name}"), value.get_ref())?))
        })
        .collect()
}

fn tool(at: &str, value: &DeValue<'_>) -> Result<ToolSetting, String> {
    let table = table(at, value)?;
    known(at, table, &TOOL_KEYS)?;
    let pin = match get(table, "schema") {
        Some(DeValue::String(text)) => Pin::parse(text),
        _ => None,
    };
    let pin = pin.ok_or_else(|| {
        format!("`{at}.schema` is sha256: and 64 hexadecimal digits, as `tmws tools` prints them")
    })?;
    let reads = match get(table, "reads") {
        None => false,
        Some(DeValue::Boolean(reads)) => *reads,
        Some(_) => return Err(format!("`{at}.reads` is true or false")),
    };
    let query = match get(table, "query") {
        None => None,
        Some(DeValue::String(query)) if !query.is_empty() => Some(query.to_string()),
        Some(_) => return Err(format!("`{at}.query` is the name of an argument")),
    };
    if query.is_some() && !reads {
        return Err(format!("`{at}.query` goes with `reads = true`: only what reads is asked by itself"));
    }
    Ok(ToolSetting { pin, reads, query })
}
