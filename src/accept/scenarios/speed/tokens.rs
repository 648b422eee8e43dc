//! What answers cost in tokens.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};

use crate::{
    accept::{
        scenario::{Broken, Seen},
        stage::{Program, Stage},
    },
    token_report::MissKind,
};

/// The folder of the task set in a checkout.
const DATA: &str = "compat/tokens";
/// Tasks a session, over which definitions are spread: as the report's own gate has it.
const SESSION: u64 = 5;
const LONGEST: Duration = Duration::from_mins(4);

/// P5: the program measures the task set of its token report: what it answers now, beside recorded answers of reference
/// servers with a grep tool.
pub(super) async fn reduction(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let data = stage.task_set(folder()?)?;
    there(stage)?;
    let home = stage.folder("tokens")?;
    let mut program = Program::new(stage.program(), stage.path(), false);
    program
        .command()
        .args(["token-report", "--json", "--data"])
        .arg(&data)
        .env("HOME", &home)
        .env("TMPDIR", &home)
        .current_dir(&home);
    let (status, said) = program.run("tmws token-report", LONGEST).await?;
    let broken = |seen: String| Broken::new("measuring the task set", "figures as JSON", seen);
    let report: Value = said
        .find('{')
        .and_then(|at| serde_json::Deserializer::from_str(&said[at..]).into_iter().next())
        .and_then(Result::ok)
        .ok_or_else(|| broken(format!("{status}: {}", said.chars().take(2_000).collect::<String>())))?;
    let median = |theirs: &str| {
        let all = report["aggregates"].as_array().into_iter().flatten();
        let mut all = all.filter(|it| {
            it["ours"] == "b" && it["theirs"] == theirs && it["tasks"] == "all" && it["k"] == SESSION
        });
        all.next().and_then(|it| it["median"].as_f64())
    };
    seen.figure("median", median("a-plus").ok_or_else(|| broken(said.clone()))?);
    let failures = report["failures"].as_array().ok_or_else(|| broken(said.clone()))?;
    judge(failures, status.success(), seen);
    let by_type = by_type(&data, &report)?;
    for (name, savings) in &by_type {
        let (middle, least) = (savings[savings.len() / 2], savings.first().copied().unwrap_or(f64::NAN));
        seen.note(format!(
            "{name}: {} tasks, {middle:.1} % fewer tokens in the middle, {least:.1} % in the worst case",
            savings.len()
        ));
    }
    if let Some(shell) = median("c") {
        seen.note(format!("beside a shell used well: {shell:.1} % in the middle"));
    }
    seen.note(
        "scripted, no model runs; counted in o200k_base is what a model sees, definitions spread over five tasks; the \
         other servers' answers are recorded, ours are measured now",
    );
    let told = by_type
        .iter()
        .map(|(name, savings)| ((*name).to_owned(), json!({"n": savings.len(), "savings": savings})))
        .collect();
    seen.data.push(("by_type", Value::Object(told)));
    seen.data.push(("aggregates", report["aggregates"].clone()));
    Ok(())
}

/// What the report misses. Its median is the scenario's figure, which may be past its target and yet not critical; what it
/// holds against a shell, which has no definitions to pay for, is not what is promised here: both are told.
fn judge(failures: &[Value], is_success: bool, seen: &mut Seen) {
    let told = |failure: &Value| failure["text"].as_str().unwrap_or_default().to_owned();
    let (beside, others): (Vec<&Value>, Vec<&Value>) = failures.iter().partition(|failure| {
        [MissKind::Median, MissKind::Shell].iter().any(|kind| failure["kind"] == kind.name())
    });
    seen.check(
        "every answer holds what its task asks for, and the report measures all of them",
        others.is_empty() && (is_success || !beside.is_empty()),
        "no failure",
        others.iter().map(|failure| told(failure)).collect::<Vec<_>>().join("; "),
    );
    for failure in beside {
        seen.note(told(failure));
    }
}

/// The folder of the task set in the checkout around the working folder.
fn folder() -> Result<PathBuf, Broken> {
    let missing = |seen: &dyn std::fmt::Display| {
        Broken::new(
            "looking for the task set",
            format!("{DATA}/tasks.toml in the working folder or above; run it in a checkout"),
            seen,
        )
        .missing()
    };
    let here = std::env::current_dir().map_err(|error| missing(&error))?;
    let found =
        here.ancestors().map(|folder| folder.join(DATA)).find(|data| data.join("tasks.toml").is_file());
    found.ok_or_else(|| missing(&"it is not there"))
}

/// Fails where a program that measures is not there: this one, and git, which unpacks the repositories of the tasks.
fn there(stage: &Stage) -> Result<(), Broken> {
    let missing = |name: &str, expected: &str| {
        Broken::new(format!("looking for {name}"), expected, "it is not there").missing()
    };
    if !stage.program().is_file() {
        return Err(missing("this program", &stage.program().display().to_string()));
    }
    if !std::env::split_paths(stage.path()).any(|folder| folder.join("git").is_file()) {
        return Err(missing("git", "git on PATH"));
    }
    Ok(())
}

/// Savings beside the reference servers with a grep tool, least first, by the type of the patterns that a task uses.
fn by_type(data: &Path, report: &Value) -> Result<BTreeMap<&'static str, Vec<f64>>, Broken> {
    let broken = |seen: &dyn std::fmt::Display| Broken::new("reading the task set", "tasks", seen);
    let text = std::fs::read_to_string(data.join("tasks.toml")).map_err(|error| broken(&error))?;
    let tasks: toml::Table = toml::from_str(&text).map_err(|error| broken(&error))?;
    let tasks = tasks.get("task").and_then(toml::Value::as_array).ok_or_else(|| broken(&"none"))?;
    let mut types: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    for row in report["tasks"].as_array().into_iter().flatten() {
        let Some(saving) = row["saving"]["a-plus"].as_f64() else { continue };
        let id = row["task"].as_str();
        let Some(task) = tasks.iter().find(|task| task.get("id").and_then(toml::Value::as_str) == id) else {
            continue;
        };
        let lines = task.get("b_promoted").or_else(|| task.get("b")).and_then(toml::Value::as_array);
        let lines = lines.into_iter().flatten().filter_map(toml::Value::as_str);
        let mut kinds: Vec<&str> = lines.filter_map(kind_of).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let kind = match kinds[..] {
            [] => "by question alone",
            ["hybrid"] => "hybrid",
            ["infrastructure"] => "infrastructure",
            ["memory"] => "memory",
            _ => "several types",
        };
        types.entry(kind).or_default().push(saving);
    }
    for savings in types.values_mut() {
        savings.sort_unstable_by(f64::total_cmp);
    }
    Ok(types)
}

/// The type of the built-in pattern that a line of a recipe calls, where it names one.
fn kind_of(line: &str) -> Option<&'static str> {
    let (tool, arguments) = line.trim_start_matches("? ").split_once(' ')?;
    let arguments: Value = serde_json::from_str(arguments).ok()?;
    let name = match tool {
        "execute_pattern" => arguments["pattern"].as_str()?.to_owned(),
        "get_result" => return None,
        "remember" => return Some("memory"),
        tool => tool.replacen('_', ".", 1),
    };
    Some(match name.as_str() {
        "repo.digest" | "session.primer" | "project.health" | "diff.review" | "memory.handoff" => "hybrid",
        name if name.starts_with("memory.") => "memory",
        name if name.contains('.') => "infrastructure",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::accept::{
        scenario::{Result, Verdict},
        table,
    };

    fn verdict(median: f64, kind: MissKind) -> Verdict {
        let mut seen = Seen::default();
        seen.figure("median", median);
        judge(&[json!({"kind": kind.name(), "text": "a miss"})], false, &mut seen);
        Result::of(table::find("P5").unwrap(), seen, Duration::ZERO).verdict
    }

    #[test]
    fn a_median_between_target_and_critical_is_a_warning() {
        assert_eq!(verdict(35.0, MissKind::Median), Verdict::Warned);
        assert_eq!(verdict(29.0, MissKind::Median), Verdict::Failed);
        assert_eq!(verdict(86.0, MissKind::Fact), Verdict::Failed);
        assert_eq!(verdict(86.0, MissKind::Servers), Verdict::Failed);
    }
}
