//! Runs patterns. Knows nothing of JSON-RPC; gets its clock, store and workspace handed in.

mod allowed;
mod api;
mod budget;
mod etag;
mod flight;
mod inputs;
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

pub use allowed::{Allowed, lacking};
pub use api::{
    Caller, Candidate, Clock, EngineError, ErrorKind, ExecuteRequest, Execution, MemoryListener,
    MemoryTouched, Observer, Outcome, Receipt, StepReceipt, Target, Workspace,
};
pub use plan::{Plan, PlanError};
pub use resolve::{LibraryHandle, LiveLibrary, Patterns, Routed, found_text};
pub use results::ResultQuery;
pub use service::{Engine, EngineSettings, Surroundings, Unobserved, Workspaces};
pub use workspace::{RootSources, project_of, resolve_root};
