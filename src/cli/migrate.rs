//! `tmws migrate`: what a newer schema does to the store, and doing it.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Failure, Output};
use crate::{
    exit::Exit,
    store::{MigrationPlan, StoreOptions},
};

/// The store may take so long to close.
const CLOSE_MAX: Duration = Duration::from_secs(5);

pub(super) async fn run(dry_run: bool, options: &StoreOptions, output: &mut Output) -> Result<Exit, Failure> {
    let action = if dry_run { "look at the store" } else { "migrate the store" };
    let failed = |error| Failure::of_store(action, &error);
    let plan = options.migration().await.map_err(failed)?;
    if !dry_run && !plan.steps.is_empty() {
        options.open().await.map_err(failed)?.close(CLOSE_MAX).await;
    }
    let name = options.file().map_or_else(|| "the database".to_owned(), |file| file.display().to_string());
    if output.is_json() {
        output.json(&plan_json(&plan, &name, dry_run))?;
    } else {
        told(&plan, &name, dry_run, output)?;
    }
    Ok(Exit::Ok)
}

fn plan_json(plan: &MigrationPlan, name: &str, dry_run: bool) -> Value {
    let steps: Vec<Value> = plan
        .steps
        .iter()
        .map(|step| json!({"version": step.version, "name": step.name, "effect": step.effect, "rows": step.rows}))
        .collect();
    json!({
        "store": name, "found": plan.found, "wanted": plan.wanted, "memories": plan.memories, "steps": steps,
        "backup_advised": plan.advises_backup(), "dry_run": dry_run, "migrated": !dry_run && !plan.steps.is_empty(),
    })
}

fn told(plan: &MigrationPlan, name: &str, dry_run: bool, output: &mut Output) -> Result<(), Failure> {
    let Some(found) = plan.found else {
        return output
            .line(&format!("{name}: no store yet; the first use makes it with schema {}", plan.wanted));
    };
    if plan.steps.is_empty() {
        return output.line(&format!("{name}: schema {found} is the newest; nothing to do"));
    }
    output.line(&format!("{name}: schema {found}, this tmws wants {}", plan.wanted))?;
    let rows: Vec<[String; 4]> = plan
        .steps
        .iter()
        .map(|step| {
            let rows = format!("{} rows", step.rows);
            [format!("  {}", step.version), step.name.to_owned(), rows, step.effect.to_owned()]
        })
        .collect();
    output.table(&rows)?;
    if !dry_run {
        return output.line(&format!("migrated to schema {}", plan.wanted));
    }
    if plan.advises_backup() {
        let memories = plan.memories;
        output.line(&format!("{memories} memories: make a backup first (`tmws memory backup FILE`)"))?;
    }
    output.line("nothing was changed")
}
