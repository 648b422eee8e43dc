//! `tmws replay`: plays transcripts against a server, and prints what differs.

use std::{
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};

use super::{Failure, Output, arguments};
use crate::{
    bridge::TOKEN_VARIABLE,
    exit::Exit,
    replay::{Against, MAY_DIFFER, Options, Report, Rule, play},
    transcript::Transcript,
};

/// Runs the command.
///
/// # Errors
/// The failure, with exit code; that a server broke a rule is none.
pub(super) async fn run(arguments: arguments::Replay, output: &mut Output) -> Result<Exit, Failure> {
    if arguments.explain {
        return explain(output);
    }
    let allowed = rules(&arguments.allow)?;
    let transcripts = transcripts(&arguments.paths)?;
    let options = Options { timeout: Duration::from_secs(arguments.timeout), is_exact: arguments.exact };
    let mut against = against(arguments.against.as_deref())?;
    let (mut told, mut failed) = (Vec::new(), 0);
    for (path, transcript) in &transcripts {
        let mut report = play(transcript, &mut against, &options).await.map_err(|error| {
            Failure::new(Exit::Usage, "reach the server", error.to_string()).with_hint(
                "`--against` takes a command in one argument, or an address such as ws://127.0.0.1:7337/ws",
            )
        })?;
        report.allow(&allowed);
        failed += usize::from(!report.is_ok());
        if output.is_json() {
            told.push(as_json(path, &report));
        } else {
            output.line(&format!("{}: {}", path.display(), report.to_text(arguments.verbose).trim_end()))?;
        }
    }
    if output.is_json() {
        output.json(
            &json!({"ok": failed == 0, "played": transcripts.len(), "failed": failed, "transcripts": told}),
        )?;
    } else if transcripts.len() > 1 {
        output.line(&format!("{} transcripts, {failed} failed", transcripts.len()))?;
    }
    Ok(if failed == 0 { Exit::Ok } else { Exit::Failed })
}

fn as_json(path: &Path, report: &Report) -> Value {
    let mut value = report.to_json();
    value["path"] = path.to_string_lossy().into();
    value
}

/// Prints the rules.
fn explain(output: &mut Output) -> Result<Exit, Failure> {
    if output.is_json() {
        let rules: Vec<Value> =
            Rule::ALL.iter().map(|rule| json!({"rule": rule.name(), "text": rule.text()})).collect();
        let may_differ: Vec<Value> =
            MAY_DIFFER.iter().map(|(what, text)| json!({"what": what, "text": text})).collect();
        output.json(&json!({"rules": rules, "may_differ": may_differ}))?;
        return Ok(Exit::Ok);
    }
    output.line("What a server must do as recorded; --allow NAME tolerates one:")?;
    let rows: Vec<[String; 2]> =
        Rule::ALL.iter().map(|rule| [format!("  {}", rule.name()), rule.text().to_owned()]).collect();
    rows.iter().try_for_each(|[name, text]| output.line(&format!("{name:<15}{text}")))?;
    output.line("What may differ:")?;
    MAY_DIFFER.iter().try_for_each(|(what, text)| output.line(&format!("  {what}: {text}")))?;
    Ok(Exit::Ok)
}

fn rules(names: &[String]) -> Result<Vec<Rule>, Failure> {
    let find = |name: &String| {
        Rule::parse(name).ok_or_else(|| {
            let known = Rule::ALL.iter().map(|rule| rule.name());
            let cause = format!("there is no rule `{name}`{}", crate::nearest::hint(name, known));
            Failure::new(Exit::Usage, "read the command line", cause)
                .with_hint("`tmws replay --explain` prints all rules")
        })
    };
    names.iter().map(find).collect()
}

/// Reads the files, and all `.jsonl` files of the folders, in order.
fn transcripts(paths: &[PathBuf]) -> Result<Vec<(PathBuf, Transcript)>, Failure> {
    let mut files = Vec::new();
    for path in paths {
        let failure = |cause: String| Failure::new(Exit::Usage, format!("read {}", path.display()), cause);
        let before = files.len();
        collect(path, true, &mut files).map_err(|error| failure(error.to_string()))?;
        if files.len() == before {
            return Err(failure("no file in this folder ends in `.jsonl`".to_owned())
                .with_hint("`tmws record` writes transcripts"));
        }
    }
    let read = |path: PathBuf| {
        let action = || format!("read {}", path.display());
        let text = fs::read_to_string(&path)
            .map_err(|error| Failure::new(Exit::Usage, action(), error.to_string()))?;
        let transcript = Transcript::validate(&text).map_err(|error| {
            Failure::new(Exit::Usage, action(), error.to_string())
                .with_hint("`tmws schema show transcript/v1` prints the format")
        })?;
        Ok((path, transcript))
    };
    files.into_iter().map(read).collect()
}

fn collect(path: &Path, is_named: bool, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if fs::metadata(path)?.is_dir() {
        let mut entries: Vec<PathBuf> =
            fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
        entries.sort();
        return entries.iter().try_for_each(|entry| collect(entry, false, files));
    }
    if is_named || path.extension().is_some_and(|extension| extension == "jsonl") {
        files.push(path.to_owned());
    }
    Ok(())
}

fn against(text: Option<&str>) -> Result<Against, Failure> {
    let Some(text) = text else {
        let program = std::env::current_exe().map_err(|error| Failure::of_io("find this program", &error))?;
        return Ok(Against::Itself(program));
    };
    if text.split_once("://").is_some_and(|(scheme, _)| scheme.bytes().all(|byte| byte.is_ascii_alphabetic()))
    {
        let token = std::env::var_os(TOKEN_VARIABLE).filter(|token| !token.is_empty());
        return Ok(Against::Url { url: text.to_owned(), token });
    }
    let cause = match words(text) {
        Some(words) if !words.is_empty() => return Ok(Against::Command(words)),
        Some(_) => "`--against` is empty".to_owned(),
        None => format!("`--against {text}` has a quote that is not closed, or ends in a backslash"),
    };
    Err(Failure::new(Exit::Usage, "read the command line", cause).with_hint(
        "it takes a command in one argument, as in `--against 'python server.py --stdio'`, or an address",
    ))
}

/// The words of a command line: quotes hold words together, a backslash takes the next character as it is.
fn words(text: &str) -> Option<Vec<OsString>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut characters = text.chars();
    while let Some(c) = characters.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => word.get_or_insert_default().push(characters.next()?),
            (_, Some(open)) if c == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (_, None) if c.is_whitespace() => words.extend(word.take().map(OsString::from)),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word.map(OsString::from));
    quote.is_none().then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_cut_into_words() {
        let table: [(&str, Option<&[&str]>); 6] = [
            ("server --stdio", Some(&["server", "--stdio"])),
            ("  'a b'c \"d 'e\\\"\" ''", Some(&["a bc", "d 'e\"", ""])),
            (r"a\ b 'c\d'", Some(&["a b", r"c\d"])),
            ("", Some(&[])),
            ("'open", None),
            ("end\\", None),
        ];
        for (text, expected) in table {
            let expected = expected.map(|words| words.iter().map(OsString::from).collect::<Vec<_>>());
            assert_eq!(words(text), expected, "{text}");
        }
    }
}
