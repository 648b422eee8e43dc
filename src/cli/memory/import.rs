//! Taking memories in: every line is checked before the first one is stored.

use std::{fmt::Write as _, io, path::Path};

use jiff::Timestamp;
use serde_json::json;

use super::{
    lines::{self, Source},
    server_memory, until_interrupted,
};
use crate::{
    cli::{Failure, Output, arguments::Origin, progress::Progress},
    exit::Exit,
    limits::StoreLimits,
    scope::{ProjectId, Scope},
    store::{
        self, ImportReport, Memory, MemoryFilter, MemoryQuery, Retrieval, Store, StoreError, Visibility,
    },
};

/// Memories of one transaction at most.
const CHUNK_MEMORIES: usize = 500;
/// Bytes of one transaction at most, once there is a memory in it.
const CHUNK_BYTES: usize = 4 << 20;
/// Faults that are told one by one.
const FAULTS_TOLD_MAX: usize = 20;
/// Conflicts that are told one by one.
const CONFLICTS_TOLD_MAX: usize = 1_000;
/// Hits among which an equal memory must be.
const EQUALS_LOOKED_AT: usize = 5;

/// What is to be done, and for whom.
pub(super) struct Import<'a> {
    pub(super) origin: Origin,
    pub(super) adopt: bool,
    pub(super) progress: bool,
    pub(super) store: &'a dyn Store,
    pub(super) limits: &'a StoreLimits,
    pub(super) scope: &'a Scope,
    pub(super) now: Timestamp,
}

impl Import<'_> {
    pub(super) async fn run(&self, path: &Path, output: &mut Output) -> Result<Exit, Failure> {
        let mut source = Source::open(path)?;
        let mut progress = Progress::new(self.progress);
        let total = self.check(&mut source, &mut progress)?;
        let action = format!("import {}", source.name);
        let mut done = Done { total, ..Done::default() };
        let taken = {
            let done = std::cell::RefCell::new(&mut done);
            let taking = self.take(&mut source, &mut progress, &done);
            until_interrupted(taking, || Failure::new(Exit::Failed, action.clone(), "interrupted")).await
        };
        if let Err(failure) = taken {
            return Err(failure.with_hint(done.advice()));
        }
        progress.end(|| done.told());
        done.answer(output)
    }

    /// Reads every line and says which ones are no memories that may be taken. Counts the memories.
    fn check(&self, source: &mut Source, progress: &mut Progress) -> Result<u64, Failure> {
        let action = format!("import {}", source.name);
        let failed = |error: io::Error| Failure::of_io(action.clone(), &error);
        let mut faults = Faults::default();
        let mut count = 0;
        let mut lines = source.lines().map_err(failed)?;
        while let Some((number, line)) = lines.next().map_err(failed)? {
            let memories =
                match line.ok_or_else(|| "longer than 8 MiB".to_owned()).and_then(|line| self.parse(line)) {
                    Ok(memories) => memories,
                    Err(fault) => {
                        faults.add(number, &fault);
                        continue;
                    }
                };
            for memory in memories {
                match store::check_import(self.scope, memory, self.limits) {
                    Ok(()) => count += 1,
                    Err(error) => {
                        faults.foreign |= matches!(error, StoreError::Invalid { field: "project", .. });
                        faults.add(number, &error.to_string());
                    }
                }
            }
            progress.tell(|| format!("checked {count}"));
        }
        faults.answer(action, self.origin).map(|()| count)
    }

    fn parse(&self, line: &[u8]) -> Result<Vec<Memory>, String> {
        match self.origin {
            Origin::Tmws => {
                let mut memory = serde_json::from_slice(line).map_err(|error| lines::told(&error))?;
                if self.adopt {
                    take_over(&mut memory, self.scope);
                }
                Ok(vec![memory])
            }
            Origin::ServerMemory => server_memory::memories(line, self.scope, self.limits, self.now),
        }
    }

    /// Stores what the lines hold, a transaction at a time.
    async fn take(
        &self,
        source: &mut Source,
        progress: &mut Progress,
        done: &std::cell::RefCell<&mut Done>,
    ) -> Result<(), Failure> {
        let action = format!("import {}", source.name);
        let failed = |error: io::Error| Failure::of_io(action.clone(), &error);
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        let mut lines = source.lines().map_err(failed)?;
        while let Some((number, line)) = lines.next().map_err(failed)? {
            let memories = line
                .ok_or_else(|| "longer than 8 MiB".to_owned())
                .and_then(|line| self.parse(line))
                .map_err(|fault| {
                    Failure::new(
                        Exit::Failed,
                        action.clone(),
                        format!("line {number} is not what it was: {fault}"),
                    )
                })?;
            for memory in memories {
                if chunk.len() == CHUNK_MEMORIES
                    || (bytes + memory.content.len() > CHUNK_BYTES && !chunk.is_empty())
                {
                    self.store(std::mem::take(&mut chunk), &action, done).await?;
                    bytes = 0;
                    progress.tell(|| done.borrow().told());
                }
                bytes += memory.content.len();
                chunk.push(memory);
            }
        }
        if chunk.is_empty() { Ok(()) } else { self.store(chunk, &action, done).await }
    }

    async fn store(
        &self,
        chunk: Vec<Memory>,
        action: &str,
        done: &std::cell::RefCell<&mut Done>,
    ) -> Result<(), Failure> {
        let failed = |error: StoreError| Failure::of_store(action, &error);
        let mut fresh = Vec::with_capacity(chunk.len());
        let mut known = 0;
        for memory in chunk {
            if self.origin == Origin::ServerMemory && self.is_known(&memory).await.map_err(failed)? {
                known += 1;
            } else {
                fresh.push(memory);
            }
        }
        let report = self.store.import(self.scope, fresh, self.now).await.map_err(failed)?;
        done.borrow_mut().add(report, known);
        Ok(())
    }

    /// Whether its text is stored under an id of its own already.
    async fn is_known(&self, memory: &Memory) -> Result<bool, StoreError> {
        let filter = MemoryFilter { limit: EQUALS_LOOKED_AT, superseded: true, ..MemoryFilter::default() };
        let query = MemoryQuery { text: memory.content.clone(), by: Retrieval::Lexical, filter };
        let hits = self.store.search(self.scope, query, self.now).await?.hits;
        Ok(hits.iter().any(|hit| {
            hit.memory.project == memory.project
                && hit.memory.visibility == memory.visibility
                && hit.memory.content.split_whitespace().eq(memory.content.split_whitespace())
        }))
    }
}

/// Makes a memory of another project or user this one's. What belongs to no project stays so.
fn take_over(memory: &mut Memory, scope: &Scope) {
    if memory.project != ProjectId::personal().as_str() {
        scope.project().as_str().clone_into(&mut memory.project);
    }
    scope.principal().clone_into(&mut memory.principal);
    if memory.visibility == Visibility::Agent {
        scope.agent().clone_into(&mut memory.agent);
    }
}

/// What is wrong with lines.
#[derive(Default)]
struct Faults {
    told: Vec<String>,
    count: usize,
    foreign: bool,
}

impl Faults {
    fn add(&mut self, number: u64, fault: &str) {
        self.count += 1;
        if self.told.len() < FAULTS_TOLD_MAX {
            self.told.push(format!("line {number}: {fault}"));
        }
    }

    fn answer(self, action: String, origin: Origin) -> Result<(), Failure> {
        if self.count == 0 {
            return Ok(());
        }
        let mut cause = self.told.join("\n  ");
        if self.count > self.told.len() {
            let _ = write!(cause, "\n  and {} more", self.count - self.told.len());
        }
        let hint = match origin {
            _ if self.foreign => {
                "nothing was imported; `--adopt` takes memories of other projects into this one"
            }
            Origin::Tmws => "nothing was imported; each line is one memory as `tmws memory export` writes it",
            Origin::ServerMemory => {
                "nothing was imported; each line is an entity or a relation as @modelcontextprotocol/server-memory writes it"
            }
        };
        Err(Failure::new(Exit::Usage, action, cause).with_hint(hint))
    }
}

/// What was stored so far.
#[derive(Default)]
struct Done {
    total: u64,
    imported: u64,
    skipped: u64,
    conflicts: Vec<String>,
    conflicts_more: u64,
}

impl Done {
    fn add(&mut self, report: ImportReport, known: u64) {
        self.imported += report.imported;
        self.skipped += report.skipped + known;
        for id in report.conflicts {
            if self.conflicts.len() < CONFLICTS_TOLD_MAX {
                self.conflicts.push(id);
            } else {
                self.conflicts_more += 1;
            }
        }
    }

    fn told(&self) -> String {
        let done = self.imported + self.skipped + self.conflicts.len() as u64 + self.conflicts_more;
        format!("imported {done} of {}", self.total)
    }

    /// For whom it ended early.
    fn advice(&self) -> String {
        if self.imported == 0 {
            return "nothing was imported; run it again to go on".to_owned();
        }
        format!(
            "{} of {} memories are imported and stay; run it again to go on: what is there is skipped",
            self.imported, self.total
        )
    }

    fn answer(&self, output: &mut Output) -> Result<Exit, Failure> {
        if output.is_json() {
            let mut answer =
                json!({"imported": self.imported, "skipped": self.skipped, "conflicts": self.conflicts});
            if self.conflicts_more > 0 {
                answer["conflicts_more"] = self.conflicts_more.into();
            }
            output.json(&answer)?;
        } else {
            output.line(&format!("{} imported, {} known already", self.imported, self.skipped))?;
            for id in &self.conflicts {
                output.line(&format!("{id}  left alone: it exists here with other content, or was forgotten here for good (store its text anew with `memory add`)"))?;
            }
            if self.conflicts_more > 0 {
                output.line(&format!("and {} more", self.conflicts_more))?;
            }
        }
        Ok(if self.conflicts.is_empty() { Exit::Ok } else { Exit::Failed })
    }
}
