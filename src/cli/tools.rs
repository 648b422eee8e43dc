//! `tmws tools`: what other MCP servers offer, and how to pin it.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{Failure, Output, output};
use crate::{
    compose::Local,
    engine::steps::mcp::{Pin, Standing, Surveyed},
    exit::Exit,
};

/// Longest description shown to a person, in characters.
const SHOWN_MAX: usize = 400;

/// Starts `server`, or every one that is configured, and prints its tools beside their pins.
///
/// # Errors
/// No such server, or stdout is closed. What cannot be asked, and what is not as it was pinned, is in the exit code.
pub(super) async fn run(server: Option<&str>, local: &Local, output: &mut Output) -> Result<Exit, Failure> {
    let servers = &local.engine.outside().mcp;
    let names: Vec<&str> = servers.settings().map(|(name, _)| name).collect();
    let names = match server {
        None => names,
        Some(one) if names.contains(&one) => vec![one],
        Some(one) => {
            let shown: String = one.chars().take(64).collect();
            return Err(Failure::new(
                Exit::Usage,
                "list tools",
                format!("no server `{shown}` is configured{}", crate::nearest::hint(one, names)),
            )
            .with_hint("the user's tmws.toml names servers in [servers.NAME], with `command` or `url`"));
        }
    };
    if names.is_empty() && !output.is_json() {
        output.line("No server is configured; the user's tmws.toml names them, as in")?;
        output.line("  [servers.docs]\n  command = [\"npx\", \"-y\", \"some-mcp-server\"]")?;
        return Ok(Exit::Ok);
    }
    let scope = local.scope();
    let mut is_well = true;
    for name in names {
        match servers.survey(name, &scope).await {
            Ok(tools) => {
                is_well &= !tools
                    .iter()
                    .any(|tool| matches!(tool.standing, Standing::Differs(_) | Standing::Gone(_)));
                if output.is_json() { machine(name, &tools, output)? } else { person(name, &tools, output)? }
            }
            Err(error) => {
                is_well = false;
                if output.is_json() {
                    let error = json!({"error": error.kind.code(), "message": error.message});
                    output.json(&json!({"server": name, "failed": error}))?;
                } else {
                    output::tell(&format!("tmws: {} ({})", error.message, error.kind.code()));
                }
            }
        }
    }
    Ok(if is_well { Exit::Ok } else { Exit::Failed })
}

const fn word(standing: &Standing) -> &'static str {
    match standing {
        Standing::New => "new",
        Standing::Same => "pinned",
        Standing::Differs(_) => "differs",
        Standing::Gone(_) => "gone",
    }
}

fn machine(server: &str, tools: &[Surveyed], output: &mut Output) -> Result<(), Failure> {
    let tools: Vec<Value> = tools
        .iter()
        .map(|tool| {
            let mut value = json!({
                "name": tool.name, "standing": word(&tool.standing), "description": tool.description,
                "arguments": tool.arguments, "read_only_hint": tool.read_only_hint,
            });
            if let Some(pin) = &tool.pin {
                value["schema"] = json!(pin.to_string());
            }
            if let Standing::Differs(pinned) | Standing::Gone(pinned) = &tool.standing {
                value["pinned"] = json!(pinned.to_string());
            }
            value
        })
        .collect();
    output.json(&json!({"server": server, "tools": tools}))
}

fn person(server: &str, tools: &[Surveyed], output: &mut Output) -> Result<(), Failure> {
    let rows: Vec<[String; 4]> = tools
        .iter()
        .map(|tool| {
            let hint = if tool.read_only_hint { "says it reads only" } else { "" };
            [
                word(&tool.standing).to_owned(),
                format!("{server}/{}", tool.name),
                tool.arguments.join(", "),
                hint.to_owned(),
            ]
        })
        .collect();
    output.table(&rows)?;
    for tool in tools {
        if let (Standing::Differs(pinned), Some(pin)) = (&tool.standing, &tool.pin) {
            output.line(&format!(
                "\n{server}/{} is not what was pinned, and is not called:\n  pinned {pinned}\n  now    {pin}",
                tool.name
            ))?;
        }
    }
    let new: Vec<(&Surveyed, &Pin)> = tools
        .iter()
        .filter(|tool| matches!(tool.standing, Standing::New | Standing::Differs(_)))
        .filter_map(|tool| Some((tool, tool.pin.as_ref()?)))
        .collect();
    if new.is_empty() {
        return output.line("");
    }
    output.line(
        "\n# Read what each says of itself before you add it; add `reads = true` to those that only read,",
    )?;
    output.line("# and `query = \"ARGUMENT\"` where that argument takes a question in words.")?;
    for (tool, pin) in new {
        output.line(&toml(server, tool, pin))?;
    }
    Ok(())
}

/// What to paste into `tmws.toml`.
fn toml(server: &str, tool: &Surveyed, pin: &Pin) -> String {
    let mut text = String::new();
    let clipped: String = tool.description.chars().take(SHOWN_MAX).collect();
    for line in clipped.lines().filter(|line| !line.trim().is_empty()) {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "# {}", line.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    if tool.description.chars().count() > SHOWN_MAX {
        text.push_str("# … (`tmws tools --json` has all of it)\n");
    }
    let _ = write!(text, "[servers.{server}.tools.{}]\nschema = \"{pin}\"\n", key(&tool.name));
    text
}

/// A key of TOML, quoted where it must be.
fn key(name: &str) -> String {
    let is_bare = !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
    // A basic string of TOML is written as JSON writes one.
    if is_bare { name.to_owned() } else { Value::from(name).to_string() }
}
