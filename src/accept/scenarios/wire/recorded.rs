//! W6: recorded old clients.
//!
//! The recordings (`compat/transcripts`: clients of other people, as they spoke to servers of other people) and the server
//! that they are played against (`compat/fixture`, started as `tmws accept --fixture`) are in the program, so that what
//! is installed is tried, without a checkout beside it.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use serde::Deserialize;
use tokio::time::timeout;

use crate::{
    accept::{
        scenario::{Broken, Seen},
        stage::{Held, Program, Stage},
    },
    replay::{Against, Options, Report, play},
    transcript::{Transcript, Transport},
};

/// Name and text of each.
const RECORDINGS: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/recordings.rs"));
/// Where a recording rightly goes otherwise.
const EXPECTED: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/compat/expected-failures.toml"));
/// Longest wait for one message.
const PATIENCE: Duration = Duration::from_secs(30);
const START_MAX: Duration = Duration::from_secs(20);
/// Played at the same time.
const TOGETHER: usize = 4;

/// `compat/expected-failures.toml`.
#[derive(Deserialize)]
struct File {
    expected: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    transcript: String,
    rule: String,
    lines: Vec<usize>,
}

/// W6: each recording is played against a fixture server of its own; every rule of `tmws replay` is kept, but where the
/// list says otherwise, and there it must be otherwise.
pub(super) async fn run(stage: &Stage, seen: &mut Seen) -> Result<(), Broken> {
    let file: File = toml::from_str(EXPECTED).map_err(|error| {
        Broken::new("reading what goes otherwise", "compat/expected-failures.toml", error)
    })?;
    if RECORDINGS.is_empty() {
        return Err(Broken::new(
            "looking for recordings",
            "those of compat/transcripts, taken into the program when it was built",
            "none: it was built without them",
        ));
    }
    let (mut replayed, mut requests) = (0, 0);
    let mut revisions: Vec<(String, usize)> = Vec::new();
    let mut running = stream::iter(RECORDINGS.iter().map(|(name, text)| {
        let expected = &file.expected;
        async move { (*name, one(stage, name, text, expected).await) }
    }))
    .buffer_unordered(TOGETHER);
    while let Some((name, played)) = running.next().await {
        let revision = name.split('/').nth(1).unwrap_or_default();
        match revisions.iter_mut().find(|(known, _)| known == revision) {
            Some((_, count)) => *count += 1,
            None => revisions.push((revision.to_owned(), 1)),
        }
        match played {
            Ok((count, faults)) if faults.is_empty() => {
                replayed += 1;
                requests += count;
            }
            Ok((_, faults)) => seen.check(name, false, "every rule is kept", faults.join("; ")),
            Err(broken) => {
                seen.check(format!("{name}: {}", broken.what), false, broken.expected, broken.seen);
            }
        }
    }
    revisions.sort();
    let revisions: Vec<String> =
        revisions.into_iter().map(|(revision, count)| format!("{count} of {revision}")).collect();
    seen.figure("replayed", 100.0 * f64::from(replayed) / RECORDINGS.len() as f64);
    seen.note(format!(
        "{replayed} of {} recordings of real clients ({}), {requests} requests in them",
        RECORDINGS.len(),
        revisions.join(", ")
    ));
    Ok(())
}

/// How many requests it has, and what was wrong.
async fn one(
    stage: &Stage,
    name: &str,
    text: &str,
    expected: &[Entry],
) -> Result<(usize, Vec<String>), Broken> {
    let transcript = Transcript::validate(text)
        .map_err(|error| Broken::new(format!("reading {name}"), "a recording", error))?;
    let options = Options { timeout: PATIENCE, is_exact: false };
    let (mut held, mut against) = match transcript.header.transport {
        Transport::Stdio => {
            let words =
                [stage.program().as_os_str(), "accept".as_ref(), "--fixture".as_ref(), "stdio".as_ref()];
            (None, Against::Command(words.into_iter().map(Into::into).collect()))
        }
        over => {
            let (held, address) = serve(stage).await?;
            let url = match over {
                Transport::Ws => format!("ws://{address}/ws"),
                _ => format!("http://{address}/mcp"),
            };
            (Some(held), Against::Url { url, token: None })
        }
    };
    let report = play(&transcript, &mut against, &options)
        .await
        .map_err(|error| Broken::new(format!("playing {name}"), "a replay", error))?;
    if let Some(held) = &mut held {
        held.end(rustix::process::Signal::TERM, START_MAX).await?;
    }
    let count = report.steps.iter().map(|step| step.requests.len()).sum();
    Ok((count, judge(name, &report, expected)))
}

/// Starts a fixture server on a port of its own: where it listens.
pub(super) async fn serve(stage: &Stage) -> Result<(Held, String), Broken> {
    let mut program = Program::new(stage.program(), stage.path(), false);
    program.command().args(["accept", "--fixture", "127.0.0.1:0"]);
    let held = program.start("the fixture server", stage.ledger())?;
    let address = |line: &str| {
        let (_, rest) = line.split_once("listening on http://")?;
        rest.split_once('/').map(|(address, _)| address.to_owned())
    };
    match timeout(START_MAX, held.log().find(address)).await {
        Ok(Some(address)) => {
            let reached = address.parse().map_err(|error| {
                Broken::new("starting the fixture server", "an address", format!("{address}: {error}"))
            })?;
            Ok((held, stage.way(reached).await?.to_string()))
        }
        _ => Err(Broken::new("starting the fixture server", "it listens", held.log().text())),
    }
}

/// How the findings are not those that are expected.
fn judge(name: &str, report: &Report, expected: &[Entry]) -> Vec<String> {
    let mut expected: Vec<(usize, &str)> = expected
        .iter()
        .filter(|entry| entry.transcript == name)
        .flat_map(|entry| entry.lines.iter().map(|line| (*line, entry.rule.as_str())))
        .collect();
    let mut faults = Vec::new();
    let listed = expected.clone();
    for (step, finding) in report.findings() {
        let found = (step.line, finding.rule.name());
        expected.retain(|entry| *entry != found);
        if !listed.contains(&found) {
            faults.push(format!("line {} breaks `{}`: {}", found.0, found.1, finding.text));
        }
    }
    faults.extend(
        expected.iter().map(|(line, rule)| format!("line {line} should break `{rule}`, and does not")),
    );
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_of_every_revision_are_in_the_program() {
        for revision in crate::revision::Revision::ALL {
            let infix = format!("/{revision}/");
            assert!(RECORDINGS.iter().any(|(name, _)| name.contains(&infix)), "{revision}");
        }
        let strange = |(name, _): &&(&str, &str)| name.contains("/own-") || name.starts_with("by-hand");
        assert_eq!(RECORDINGS.iter().find(strange), None);
    }
}
