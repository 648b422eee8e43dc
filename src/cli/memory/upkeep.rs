//! Whether a store is whole, and a copy of it.

use std::{collections::BTreeMap, io, path::Path};

use serde_json::{Value, json};

use super::until_interrupted;
use crate::{
    cli::{Failure, Output, draft::Draft, progress::Progress},
    exit::Exit,
    store::{CopyError, FINDINGS_TOLD_MAX, Finding, Flaw, SqliteOptions, StoreOptions, Verification, Watch},
};

/// Keeps what is found, and shows how far it is.
struct Report {
    found: BTreeMap<Flaw, Vec<String>>,
    progress: Progress,
}

impl Report {
    fn new(progress: Progress) -> Self {
        Self { found: BTreeMap::new(), progress }
    }
}

impl Watch for Report {
    fn progress(&mut self, stage: &'static str, done: u64, total: Option<u64>) {
        self.progress.tell(|| match total {
            Some(total) => format!("checking {stage}: {done} of {total}"),
            None => format!("checking {stage}"),
        });
    }

    fn finding(&mut self, finding: &Finding) {
        self.found.entry(finding.flaw).or_default().push(finding.place.clone());
    }
}

/// `tmws memory verify`.
pub(super) async fn verify(
    thorough: bool,
    progress: bool,
    options: &StoreOptions,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let mut report = Report::new(Progress::new(progress));
    let verification = options
        .verify(thorough, &mut report)
        .await
        .map_err(|error| Failure::of_store("check the store", &error))?;
    report.progress.end(|| format!("checked {} memories", verification.memories));
    let found = report.found;
    if output.is_json() {
        output.json(&verification_json(&verification, &found))?;
    } else {
        told(&verification, &found, output)?;
    }
    Ok(if verification.is_whole() { Exit::Ok } else { Exit::Failed })
}

fn verification_json(verification: &Verification, found: &BTreeMap<Flaw, Vec<String>>) -> Value {
    let findings: Vec<Value> = verification
        .flaws
        .iter()
        .map(|(flaw, count)| {
            json!({
                "code": flaw.code(), "meaning": flaw.meaning(), "count": count,
                "places": found.get(flaw).cloned().unwrap_or_default(), "advice": flaw.advice(),
            })
        })
        .collect();
    json!({
        "whole": verification.is_whole(), "schema": verification.schema, "memories": verification.memories,
        "findings": findings, "notes": verification.notes,
    })
}

fn told(
    verification: &Verification,
    found: &BTreeMap<Flaw, Vec<String>>,
    output: &mut Output,
) -> Result<(), Failure> {
    for (flaw, count) in &verification.flaws {
        output.line(&format!("{}: {}", flaw.code(), flaw.meaning()))?;
        for place in found.get(flaw).into_iter().flatten() {
            output.line(&format!("  {place}"))?;
        }
        if *count > FINDINGS_TOLD_MAX {
            output.line(&format!("  and {} more", count - FINDINGS_TOLD_MAX))?;
        }
        output.line(&format!("  to do: {}", flaw.advice()))?;
    }
    for note in &verification.notes {
        output.line(&format!("note: {note}"))?;
    }
    let schema = verification.schema.map_or_else(String::new, |schema| format!(", schema {schema}"));
    let verdict = if verification.is_whole() {
        "nothing is wrong".to_owned()
    } else {
        format!("{} findings", verification.flaws.values().sum::<u64>())
    };
    output.line(&format!("{} memories read{schema}: {verdict}", verification.memories))
}

/// `tmws memory backup`.
pub(super) async fn backup(
    file: &Path,
    progress: bool,
    options: &StoreOptions,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let action = format!("back up to {}", file.display());
    if matches!(options, StoreOptions::Postgres(_)) {
        return Err(of_copy(&action, &CopyError::NoFile, file));
    }
    let failed = |error: &io::Error| Failure::of_io(action.clone(), error);
    let exists = || {
        Failure::new(Exit::Usage, action.clone(), "the file exists already")
            .with_hint("a backup is never written over; name another file")
    };
    if file.symlink_metadata().is_ok() {
        return Err(exists());
    }
    let mut shown = Progress::new(progress);
    shown.tell(|| "copying the store".to_owned());
    let draft = Draft::beside(file).map_err(|error| failed(&error))?;
    let interrupted =
        || Failure::new(Exit::Failed, action.clone(), "interrupted").with_hint("no file was written");
    let copying =
        async { options.copy_into(draft.path()).await.map_err(|error| of_copy(&action, &error, file)) };
    until_interrupted(copying, interrupted).await?;

    // What cannot be read back is no backup.
    let copy =
        StoreOptions::from(SqliteOptions { limits: *options.limits(), ..SqliteOptions::new(draft.path()) });
    let mut report = Report::new(shown);
    let verifying = async {
        copy.verify(true, &mut report).await.map_err(|error| Failure::of_store(action.clone(), &error))
    };
    let verification = until_interrupted(verifying, interrupted).await?;
    report.progress.end(|| format!("copied {} memories", verification.memories));
    if let Some(flaw) = verification.flaws.keys().next() {
        return Err(Failure::new(Exit::Failed, action, format!("the copy is not whole: {}", flaw.meaning()))
            .with_hint("no file was written; `tmws memory verify` tells what is wrong with the store"));
    }
    let bytes = draft.file().metadata().map_err(|error| failed(&error))?.len();
    draft.publish_new(file).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => exists(),
        _ => failed(&error),
    })?;
    if output.is_json() {
        output.json(&json!({
            "file": file.display().to_string(), "bytes": bytes, "memories": verification.memories,
            "schema": verification.schema,
        }))?;
    } else {
        let memories = verification.memories;
        output.line(&format!("{memories} memories, {bytes} bytes in {}; checked, whole", file.display()))?;
    }
    Ok(Exit::Ok)
}

fn of_copy(action: &str, error: &CopyError, file: &Path) -> Failure {
    match error {
        CopyError::Store(error) => Failure::of_store(action, error),
        CopyError::NoSpace => Failure::new(Exit::Failed, action, error.to_string())
            .with_hint("free some space, or name another disk"),
        CopyError::Unwritable { .. } => Failure::new(Exit::Failed, action, error.to_string()),
        CopyError::NoFile => {
            let quoted = file.display().to_string().replace('\'', "'\\''");
            Failure::new(Exit::Usage, action, error.to_string()).with_hint(format!(
                "PGOPTIONS='-c tmws.whole=on' pg_dump --enable-row-security --format=custom --file='{quoted}' \
                 --dbname=\"$TMWS_DATABASE_URL\"; pg_restore brings it back"
            ))
        }
    }
}
