//! Runs patterns. Knows nothing of JSON-RPC; gets its clock, store and workspace handed in.

mod allowed;
mod api;
mod asking;
mod budget;
mod cached;
mod etag;
mod fallback;
mod figures;
mod flight;
mod inputs;
mod kept;
pub mod llm;
mod offer;
mod outside;
mod parts;
mod plan;
pub mod relative;
mod resolve;
mod results;
mod run;
mod service;
pub mod steps;
pub mod testing;
pub mod tokens;
mod workspace;

pub use allowed::{Allowed, lacking, rights_to_call};
pub use api::{
    Answer, Asker, Caller, Candidate, Clock, EngineError, ErrorKind, ExecuteRequest, Execution, LlmReceipt,
    MemoryListener, MemoryTouched, NobodyToAsk, NotAnswered, Observer, Outcome, Question, Receipt,
    StepReceipt, Target, Workspace,
};
pub use figures::{CacheUse, Figures, OwnFigures};
pub use offer::{CANDIDATES_TOKENS, MEMORIES_TOKENS};
pub use outside::Outside;
pub use plan::{Plan, PlanError};
pub use resolve::{LibraryHandle, LiveLibrary, Patterns, Routed, found_text};
pub use results::ResultQuery;
pub use service::{Engine, EngineSettings, Surroundings, Unobserved, Workspaces};
pub use workspace::{RootSources, project_of, resolve_root};
