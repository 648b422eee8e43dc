//! node's own runner (reporters `spec` and `tap`), and TAP of any origin.

use super::{
    super::lines::{milliseconds, place},
    Block, Count, Failure, Report, Text, frame,
};

/// A failed test, where it stands, and what is said of it.
type Told = (String, Option<(String, u64)>, Block);

/// Reads what `node --test` prints, or TAP.
pub(super) fn read(lines: &Text<'_>) -> Option<Report> {
    let spec = |line: &str| line.starts_with("ℹ pass ") || line.starts_with("ℹ fail ");
    if lines.iter().any(|line| spec(line)) {
        return Some(read_spec(lines));
    }
    let version = lines.iter().any(|line| line.starts_with("TAP version "));
    let plan = lines.iter().any(|line| line.strip_prefix("1..").is_some_and(|n| n.parse::<u64>().is_ok()));
    let points = lines.iter().any(|line| point(line).is_some());
    ((version || plan) && points).then(|| read_tap(lines))
}

fn tally(report: &mut Report, word: &str, n: &str) {
    let Ok(count) = n.trim().parse::<u64>() else {
        if word == "duration_ms" {
            report.last_for(milliseconds(&format!("{}ms", n.trim())));
        }
        return;
    };
    match word {
        "pass" => report.count(Count::Passed, count),
        "fail" | "cancelled" => report.count(Count::Failed, count),
        "skipped" | "todo" => report.count(Count::Skipped, count),
        "duration_ms" => report.last_for(Some(count)),
        _ => {}
    }
}

fn read_spec(lines: &Text<'_>) -> Report {
    let mut report = Report::new("node");
    let mut failing = false;
    let mut at: Option<(String, u64)> = None;
    let mut open: Option<Told> = None;
    for line in lines {
        let line: &str = line;
        if let Some((word, n)) = line.strip_prefix("ℹ ").and_then(|rest| rest.split_once(' ')) {
            tally(&mut report, word, n);
        } else if line == "✖ failing tests:" {
            failing = true;
        } else if !failing {
            // What passed is in the tally.
        } else if let Some(rest) = line.strip_prefix("test at ") {
            close_spec(&mut report, open.take());
            at = place(rest).map(|(file, line, ..)| (file.to_owned(), line));
        } else if let Some(name) = line.strip_prefix("✖ ") {
            close_spec(&mut report, open.take());
            let name = match name.rsplit_once(" (") {
                Some((name, time)) if time.ends_with("ms)") => name,
                _ => name,
            };
            open = Some((name.to_owned(), at.take(), Block::default()));
        } else if let Some((.., block)) = &mut open {
            block.push(line);
        }
    }
    close_spec(&mut report, open.take());
    report
}

fn close_spec(report: &mut Report, open: Option<Told>) {
    let Some((name, at, block)) = open else { return };
    let text = block.dedented();
    let message = headline(&text);
    let (file, line) = best(text.lines().filter_map(frame), at).unzip();
    report.fail(Failure { name, file, line, message, detail: Some(text) });
}

/// The frame in the file where the test stands, else the first one, else where the test stands.
fn best(frames: impl Iterator<Item = (String, u64)>, at: Option<(String, u64)>) -> Option<(String, u64)> {
    let mut first = None;
    for frame in frames {
        let own =
            at.as_ref().is_some_and(|(file, _)| frame.0.ends_with(file.as_str()) || file.ends_with(&frame.0));
        if own {
            return at.map(|(file, _)| (file, frame.1));
        }
        first = first.or(Some(frame));
    }
    first.or(at)
}

/// The first lines up to a stack.
fn headline(text: &str) -> String {
    let mut message = String::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()).take(8) {
        if line.starts_with("at ") || line == "{" {
            break;
        }
        if !message.is_empty() {
            message.push('\n');
        }
        message.push_str(line.trim_end_matches(" {"));
    }
    if message.is_empty() { "failed".to_owned() } else { message }
}

/// `    not ok 3 - name # SKIP why`: depth in spaces, whether it holds, the name, the directive.
fn point(line: &str) -> Option<(usize, bool, &str, &str)> {
    let trimmed = line.trim_start_matches(' ');
    let depth = line.len() - trimmed.len();
    let (ok, rest) = match trimmed.strip_prefix("not ok") {
        Some(rest) => (false, rest),
        None => (true, trimmed.strip_prefix("ok")?),
    };
    let rest = if rest.is_empty() { rest } else { rest.strip_prefix(' ')? };
    let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
    let name = rest[digits..].trim_start_matches([' ', '-']);
    let (name, directive) = name.rsplit_once(" # ").unwrap_or((name, ""));
    Some((depth, ok, name.trim(), directive.trim()))
}

/// A point of TAP that does not hold, and what its YAML says.
struct Open {
    name: String,
    location: Option<(String, u64)>,
    parent: bool,
    message: String,
    /// The key of a block scalar that is being read.
    key: Option<&'static str>,
    stack: Block,
    inside: bool,
}

fn read_tap(lines: &Text<'_>) -> Report {
    let mut report = Report::new("node");
    let mut open: Option<Open> = None;
    let mut summed = false;
    let mut seen = [0_u64; 3];
    let mut names: Vec<(usize, String)> = Vec::new();
    for line in lines {
        let line: &str = line;
        if let Some(current) = &mut open {
            let trimmed = line.trim();
            if current.inside {
                if trimmed == "..." {
                    close_tap(&mut report, &mut seen, open.take());
                } else {
                    yaml(current, trimmed);
                }
                continue;
            }
            if trimmed == "---" {
                current.inside = true;
                continue;
            }
            close_tap(&mut report, &mut seen, open.take());
        }
        if let Some(rest) = line.trim_start().strip_prefix("# Subtest: ") {
            let depth = line.len() - line.trim_start().len();
            names.retain(|(other, _)| *other < depth);
            names.push((depth, rest.to_owned()));
        } else if let Some((word, n)) = line.strip_prefix("# ").and_then(|rest| rest.split_once(' '))
            && matches!(word, "tests" | "pass" | "fail" | "cancelled" | "skipped" | "todo" | "duration_ms")
        {
            summed = true;
            tally(&mut report, word, n);
        } else if let Some((depth, ok, name, directive)) = point(line) {
            names.retain(|(other, _)| *other < depth);
            let directive = directive.to_ascii_uppercase();
            if directive.starts_with("SKIP") || directive.starts_with("TODO") {
                seen[2] += 1;
            } else if ok {
                seen[0] += 1;
            } else {
                let mut whole = String::new();
                for (_, name) in &names {
                    whole.push_str(name);
                    whole.push_str(" > ");
                }
                whole.push_str(name);
                open = Some(Open {
                    name: whole,
                    location: None,
                    parent: false,
                    message: String::new(),
                    key: None,
                    stack: Block::default(),
                    inside: false,
                });
            }
        } else if let Some(why) = line.strip_prefix("Bail out!") {
            report.say(format!("bail out: {}", why.trim()));
        }
    }
    close_tap(&mut report, &mut seen, open.take());
    if !summed {
        report.count(Count::Passed, seen[0]);
        report.count(Count::Failed, seen[1]);
        report.count(Count::Skipped, seen[2]);
    }
    report
}

fn yaml(open: &mut Open, line: &str) {
    let text = line.trim_matches(['\'', '"']);
    let scalar = |value: &str| value.trim().trim_matches(['\'', '"']).to_owned();
    let known = [
        ("location:", "location"),
        ("error:", "error"),
        ("message:", "error"),
        ("stack:", "stack"),
        ("failureType:", "type"),
        ("code:", ""),
        ("name:", ""),
        ("expected:", ""),
        ("actual:", ""),
        ("operator:", ""),
        ("duration_ms:", ""),
        ("type:", ""),
        ("severity:", ""),
    ];
    if let Some((prefix, key)) = known.iter().find(|(prefix, _)| line.starts_with(prefix)) {
        let value = scalar(&line[prefix.len()..]);
        open.key = None;
        match *key {
            "location" => {
                open.location = place(&value).map(|(file, line, ..)| (file.to_owned(), line));
            }
            "error" if value.starts_with(['|', '>']) => open.key = Some("error"),
            "error" if open.message.is_empty() => open.message = value,
            "stack" => open.key = Some("stack"),
            "type" => open.parent = value == "subtestsFailed",
            _ => {}
        }
    } else if open.key == Some("error") {
        if open.message.len() < super::MESSAGE_BYTES_MAX && !text.is_empty() {
            if !open.message.is_empty() {
                open.message.push('\n');
            }
            open.message.push_str(text);
        }
    } else if open.key == Some("stack") {
        open.stack.push(text);
    }
}

fn close_tap(report: &mut Report, seen: &mut [u64; 3], open: Option<Open>) {
    let Some(open) = open.filter(|open| !open.parent) else { return };
    seen[1] += 1;
    let frames = open.stack.text.lines().filter_map(|line| {
        let line = line.trim();
        frame(line).or_else(|| frame(&format!("at {line}")))
    });
    let (file, line) = best(frames, open.location).unzip();
    let message = if open.message.is_empty() { "not ok".to_owned() } else { open.message };
    report.fail(Failure { name: open.name, file, line, message, detail: Some(open.stack.text) });
}
