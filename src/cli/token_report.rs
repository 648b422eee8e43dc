//! `tmws token-report`: measures, prints, and says whether the gate is passed.

use std::path::PathBuf;

use super::{Failure, Output, arguments};
use crate::{
    exit::Exit,
    token_report::{markdown, measure, text},
};

/// Where a checkout has the tasks.
const DATA: &str = "compat/tokens";

/// Runs the command.
///
/// # Errors
/// The failure, with exit code; a gate that is not passed is none.
pub(super) async fn run(arguments: arguments::TokenReport, output: &mut Output) -> Result<Exit, Failure> {
    const ACTION: &str = "measure tokens";
    let data = folder(arguments.data)?;
    let report = measure(&data).await.map_err(|cause| Failure::new(Exit::Failed, ACTION, cause))?;
    let session = usize::from(arguments.k);
    if output.is_json() {
        output.json(&report.to_json())?;
    } else if arguments.markdown {
        output.verbatim(&markdown(&report, session))?;
    } else {
        let (tables, lines) = text(&report, session);
        for table in tables {
            output.columns(&table)?;
            output.line("")?;
        }
        lines.iter().try_for_each(|line| output.line(line))?;
    }
    Ok(if report.failures().is_empty() { Exit::Ok } else { Exit::Failed })
}

/// The folder of tasks and transcripts: the one named, else that of the checkout around the working folder.
fn folder(named: Option<PathBuf>) -> Result<PathBuf, Failure> {
    if let Some(folder) = named {
        return Ok(folder);
    }
    let here = std::env::current_dir().map_err(|error| Failure::of_io("find the working folder", &error))?;
    let found =
        here.ancestors().map(|folder| folder.join(DATA)).find(|data| data.join("tasks.toml").is_file());
    found.ok_or_else(|| {
        Failure::new(Exit::Usage, "find the tasks", format!("there is no {DATA}/tasks.toml here or above"))
            .with_hint("run it in a checkout of TMWS, or name the folder with --data")
    })
}
