//! Patterns as values: the file, its checks, its expressions, its triggers. No I/O beyond reading a given file.

mod builtin;
mod expression;
pub mod library;
pub mod lint;
pub mod loader;
mod model;
pub mod router;
mod steps;
pub mod trust;
pub mod yaml;

pub use builtin::BUILTINS;
pub use expression::{Expression, ExpressionError, Template};
pub use model::{
    Auto, BindSource, CacheScopeRule, CacheSpec, Effect, Mode, OnError, Origin, OutputSpec, Pattern,
    PatternKind, PatternLimits, Permissions, PromptSpec, Shrink, StepSpec, TestSpec, Triggers, Version,
};
pub use steps::{Family, STEPS, StepRow};

pub(crate) use loader::inputs_with_defaults;
