//! Asking on the terminal: one line a field.

use std::{
    io::{self, BufRead, IsTerminal as _, Write},
    thread,
};

use async_trait::async_trait;
use serde_json::{Map, Value};
use tokio::sync::{Mutex, oneshot};

use super::output::clean;
use crate::engine::{Answer, Asker, NotAnswered, Question};

/// A line that nobody types is longer.
const LINE_BYTES_MAX: u64 = 64 << 10;
/// Tries of one field at most: what is no terminal in truth must end.
const TRIES_MAX: usize = 5;

/// Asks whoever sits in front of the terminal, one question at a time.
#[derive(Default)]
pub(super) struct TerminalAsker {
    turn: Mutex<()>,
}

#[async_trait]
impl Asker for TerminalAsker {
    async fn ask(&self, _: &str, question: Question) -> Result<Answer, NotAnswered> {
        let Question::Form { message, schema } = question else {
            return Err(NotAnswered::Unable(
                "there is no language model on the command line; set llm.url and llm.model".to_owned(),
            ));
        };
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return Err(NotAnswered::Unable(
                "this pattern asks its user, and stdin or stderr is no terminal; run it in a terminal, or through \
                 an MCP client that shows forms (elicitation)"
                    .to_owned(),
            ));
        }
        let _turn = self.turn.lock().await;
        // A thread of its own: nobody can end it, and the process does not wait for it.
        let (tell, told) = oneshot::channel();
        thread::spawn(move || {
            let answer = fill(&message, &schema, &mut io::stdin().lock(), &mut io::stderr());
            let _ = tell.send(answer);
        });
        match told.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(NotAnswered::Failed(format!("the terminal cannot be read: {error}"))),
            Err(_) => Err(NotAnswered::Failed("the terminal could not be asked".to_owned())),
        }
    }
}

/// Shows the form and reads its fields. An end of input dismisses it; `!` declines.
fn fill(
    message: &str,
    schema: &Value,
    input: &mut impl BufRead,
    output: &mut impl Write,
) -> io::Result<Answer> {
    writeln!(output, "{}", clean(message))?;
    writeln!(output, "(Enter leaves a field as it is, `!` says no, Ctrl-D closes)")?;
    let required = schema.get("required").and_then(Value::as_array);
    let mut content = Map::new();
    for (name, field) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let is_required = required.is_some_and(|names| names.iter().any(|required| required == name));
        let mut tries = 0;
        let value = loop {
            prompt(name, field, is_required, output)?;
            let mut line = String::new();
            if io::Read::take(&mut *input, LINE_BYTES_MAX).read_line(&mut line)? == 0 {
                writeln!(output)?;
                return Ok(Answer::Dismissed);
            }
            let text = line.trim();
            if text == "!" {
                return Ok(Answer::Declined);
            }
            let wrong = match (text, field.get("default")) {
                ("", Some(default)) => break Some(default.clone()),
                ("", None) if !is_required => break None,
                ("", None) => "this one is needed".to_owned(),
                _ => match read(field, text) {
                    Ok(value) => break Some(value),
                    Err(wrong) => wrong,
                },
            };
            tries += 1;
            if tries >= TRIES_MAX {
                return Ok(Answer::Dismissed);
            }
            writeln!(output, "  {wrong}")?;
        };
        if let Some(value) = value {
            content.insert(name.clone(), value);
        }
    }
    Ok(Answer::Accepted(content))
}

fn prompt(name: &str, field: &Value, is_required: bool, output: &mut impl Write) -> io::Result<()> {
    let text = |member: &str| field.get(member).and_then(Value::as_str).map(clean);
    let label = text("title").unwrap_or_else(|| clean(name));
    let mark = if is_required { "*" } else { "" };
    if let Some(description) = text("description") {
        writeln!(output, "  {description}")?;
    }
    for (index, (value, title)) in choices(field).iter().enumerate() {
        writeln!(output, "  {}. {}", index + 1, clean(if title.is_empty() { value } else { title }))?;
    }
    let kind = if field.get("type").and_then(Value::as_str) == Some("boolean") { " [yes/no]" } else { "" };
    let default = match field.get("default") {
        Some(Value::Bool(default)) => format!(" ({})", if *default { "yes" } else { "no" }),
        Some(Value::String(default)) => format!(" ({})", clean(default)),
        Some(default) => format!(" ({default})"),
        None => String::new(),
    };
    write!(output, "{label}{mark}{kind}{default}: ")?;
    output.flush()
}

/// The choices of a field: value and title.
fn choices(field: &Value) -> Vec<(&str, &str)> {
    match (field.get("enum"), field.get("oneOf")) {
        (Some(Value::Array(values)), _) => {
            values.iter().filter_map(Value::as_str).map(|value| (value, "")).collect()
        }
        (_, Some(Value::Array(choices))) => choices
            .iter()
            .filter_map(|choice| {
                Some((choice.get("const")?.as_str()?, choice.get("title").and_then(Value::as_str)?))
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// What was typed as the field's value, or what is wrong with it.
fn read(field: &Value, text: &str) -> Result<Value, String> {
    match field.get("type").and_then(Value::as_str) {
        Some("boolean") => match text.to_ascii_lowercase().as_str() {
            "y" | "yes" | "true" => Ok(Value::Bool(true)),
            "n" | "no" | "false" => Ok(Value::Bool(false)),
            _ => Err("yes or no".to_owned()),
        },
        Some("integer") => text.parse::<i64>().map(Value::from).map_err(|_| "a whole number".to_owned()),
        Some("number") => text
            .parse::<f64>()
            .ok()
            .and_then(serde_json::Number::from_f64)
            .map(Value::Number)
            .ok_or_else(|| "a number".to_owned()),
        _ => {
            let choices = choices(field);
            if choices.is_empty() {
                return Ok(text.into());
            }
            let by_number = text.parse::<usize>().ok().and_then(|n| choices.get(n.checked_sub(1)?));
            choices
                .iter()
                .find(|(value, title)| *value == text || *title == text)
                .or(by_number)
                .map(|(value, _)| (*value).into())
                .ok_or_else(|| "one of the list, or its number".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_form_is_filled_in_line_by_line() {
        let schema = json!({
            "type": "object",
            "properties": {
                "port": {"type": "string", "title": "Port", "oneOf": [{"const": "80", "title": "plain"}, {"const": "443", "title": "tls"}]},
                "sure": {"type": "boolean", "default": false},
                "n": {"type": "integer"},
                "note": {"type": "string"},
            },
            "required": ["port", "n"],
        });
        for (typed, expected) in [
            ("2\n\nx\n3\n\n", json!({"port": "443", "sure": false, "n": 3})),
            (
                "plain\ny\n-1\nhello there\n",
                json!({"port": "80", "sure": true, "n": -1, "note": "hello there"}),
            ),
            ("443\nno\n\n\n7\n\n", json!({"port": "443", "sure": false, "n": 7})),
        ] {
            let mut shown = Vec::new();
            let answer = fill("Which\u{1b}[31m?", &schema, &mut typed.as_bytes(), &mut shown).unwrap();
            let Answer::Accepted(content) = answer else { panic!("{answer:?}") };
            assert_eq!(Value::Object(content), expected, "{typed:?}");
            let shown = String::from_utf8(shown).unwrap();
            assert!(shown.contains("2. tls") && shown.contains("Port*: "), "{shown}");
            assert!(!shown.contains('\u{1b}'), "{shown:?}");
        }
        for (typed, expected) in
            [("", Answer::Dismissed), ("2\n", Answer::Dismissed), ("2\n!\n", Answer::Declined)]
        {
            assert_eq!(fill("?", &schema, &mut typed.as_bytes(), &mut Vec::new()).unwrap(), expected);
        }
        let stubborn = "nine\n".repeat(9);
        assert_eq!(fill("?", &schema, &mut stubborn.as_bytes(), &mut Vec::new()).unwrap(), Answer::Dismissed);
    }
}
