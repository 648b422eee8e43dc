//! Patterns as values: the file, its checks, its expressions, its triggers. No I/O beyond reading a given file.

mod arguments;
pub mod argv;
mod builtin;
mod expression;
pub mod form;
pub mod host;
pub mod jinja;
pub mod library;
pub mod lint;
pub mod loader;
mod model;
pub mod router;
mod steps;
mod trigger;
pub mod trust;
pub mod yaml;

pub use builtin::BUILTINS;
pub use expression::{Expression, ExpressionError, Template};
pub use model::{
    Auto, BindSource, CacheScopeRule, CacheSpec, Deprecated, Effect, Mode, OnError, Origin, OutputSpec,
    Pattern, PatternKind, PatternLimits, Permissions, PromptSpec, Shrink, StepSpec, TestSource, TestSpec,
    Triggers, Version,
};
pub use steps::{Family, STEPS, StepRow};
pub use trigger::TriggerRegex;

pub(crate) use loader::inputs_with_defaults;
