//! `tmws token-report`: what answers cost in tokens, beside those of other MCP servers and of a shell used well.
//!
//! Scripted: no model runs. Each task has a recipe per [`Arm`]; what pinned reference servers and a shell said to theirs
//! is committed as transcripts, what TMWS says is measured anew at each run, through its own frames, in a fresh copy of the
//! task's fixture and at the fixture's time. Counted is what a model sees: instructions, definitions as name, description
//! and input schema, calls, results. Where hosts differ in what they show of a result, the worst for us counts.

mod count;
mod data;
mod gate;
mod live;
mod print;

use std::{collections::BTreeMap, path::Path};

pub use count::{Aggregate, Figures, Policy, Report, Row};
pub use data::{Class, HostKind, Size, Task};
pub use gate::{Miss, MissKind};
pub use print::{markdown, summary, tasks, text};

/// Sessions of so many tasks, over which definitions are spread.
pub const SESSIONS: [usize; 3] = [1, 5, 20];

/// How a task is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Arm {
    /// Pinned reference MCP servers.
    Servers,
    /// The same with a grep tool.
    ServersWithGrep,
    /// The host's own shell and file reader.
    Shell,
    /// TMWS with its four tools.
    Tmws,
    /// TMWS with the patterns that the tasks use as tools of their own.
    Promoted,
}

impl Arm {
    /// All, in the order printed.
    pub const ALL: [Self; 5] =
        [Self::Servers, Self::ServersWithGrep, Self::Shell, Self::Tmws, Self::Promoted];

    /// As in file names and in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Servers => "a",
            Self::ServersWithGrep => "a-plus",
            Self::Shell => "c",
            Self::Tmws => "b",
            Self::Promoted => "b-promoted",
        }
    }

    /// As printed for people.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Servers => "A",
            Self::ServersWithGrep => "A+",
            Self::Shell => "C",
            Self::Tmws => "B",
            Self::Promoted => "B'",
        }
    }

    /// Whether it is TMWS.
    #[must_use]
    pub const fn is_ours(self) -> bool {
        matches!(self, Self::Tmws | Self::Promoted)
    }
}

/// What a host pays before the first question.
#[derive(Clone, Debug, Default)]
pub struct Definitions {
    /// Instructions of all servers.
    pub instructions: Vec<String>,
    /// Tools as on the wire.
    pub tools: Vec<serde_json::Value>,
}

/// One call and its answer.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// The call as a model writes it: `{"name", "arguments"}`, compact.
    pub call: String,
    /// Texts of the result's content.
    pub content: String,
    /// `structuredContent`, compact, where there is one.
    pub structured: Option<String>,
    /// How long it took.
    pub ms: f64,
}

/// What one arm said and heard in one task.
#[derive(Clone, Debug, Default)]
pub struct Conversation {
    /// In order, one a turn.
    pub exchanges: Vec<Exchange>,
}

/// Measures all tasks of the folder `data`.
///
/// # Errors
/// What cannot be read, made or asked, as a fragment with its place.
pub async fn measure(data: &Path) -> Result<Report, String> {
    let data = data::Data::read(data)?;
    let mut definitions = data.definitions.clone();
    let mut rows = Vec::new();
    for task in &data.tasks {
        let mut conversations: BTreeMap<Arm, Conversation> = data.recorded(task)?;
        let empty = Conversation::default();
        let shell = conversations.get(&Arm::Shell).unwrap_or(&empty).clone();
        for (arm, recipe) in [(Arm::Tmws, Some(&task.b)), (Arm::Promoted, task.b_promoted.as_ref())] {
            let Some(recipe) = recipe else {
                // No promoted tool helps here: it is asked as without them, and their definitions are paid all the same.
                let said = conversations.get(&Arm::Tmws).cloned().unwrap_or_default();
                conversations.insert(arm, said);
                continue;
            };
            let (said, defined) = live::converse(&data, task, recipe, &shell, arm)
                .await
                .map_err(|error| format!("{}, arm {}: {error}", task.id, arm.label()))?;
            definitions.insert(arm, defined);
            conversations.insert(arm, said);
        }
        rows.push((task, conversations));
    }
    if !definitions.contains_key(&Arm::Promoted) {
        for (_, conversations) in &mut rows {
            conversations.remove(&Arm::Promoted);
        }
    }
    Report::of(&rows, &definitions).await
}
