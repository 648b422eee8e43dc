//! The expression language: a whole scalar `${ jq }`, compiled and checked at load.

mod check;
mod function;
mod meter;
mod value;

use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

use jaq_core::{
    Compiler, Ctx, Filter, Vars,
    load::{Arena, File, Loader},
};
use serde_json::{Map, Value};

pub(crate) use check::Reads;

use function::Data;
use meter::Stop;
use value::{Members, Val};

/// Bytes that an evaluation may make on the way, whatever its result: at least so many,
const WORK_BYTES_MIN: usize = 32 << 20;
/// and at most so many.
const WORK_BYTES_MAX: usize = 256 << 20;

/// A compiled jq expression over `{inputs, bind, steps, query, session}` (inside loops also the loop's own names).
#[derive(Clone)]
pub struct Expression {
    source: Arc<str>,
    reads: Arc<Reads>,
    /// Compiled when first evaluated: the check at load leaves nothing that could fail.
    filter: Arc<OnceLock<Result<Filter<Data>, String>>>,
}

/// Why an expression is refused or failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpressionError {
    /// Not jq, or a construct that is not allowed; said at load.
    #[error("{0}")]
    Refused(String),
    /// Failed on this input.
    #[error("{0}")]
    Failed(String),
    /// Ran past its deadline.
    #[error("the expression ran past its deadline")]
    Deadline,
    /// Produced more than allowed.
    #[error("the expression produced more than {0} bytes")]
    TooLarge(usize),
}

/// A YAML value with expressions in it: a scalar that is wholly `${ … }` is an expression, everything else is literal.
#[derive(Clone, Debug)]
pub enum Template {
    /// As it is.
    Literal(Value),
    /// Evaluated.
    Expression(Arc<Expression>),
    /// Of templates.
    Array(Vec<Template>),
    /// Of templates.
    Object(Vec<(String, Template)>),
}

impl std::fmt::Debug for Expression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "${{ {} }}", self.source)
    }
}

impl Expression {
    /// Compiles `source` (without the `${ }`).
    ///
    /// Functions come from a closed list; there is no `def`, recursion, unbounded loop, environment, clock, input or
    /// side effect. The machine code is made at the first evaluation or by [`Expression::prepare`].
    ///
    /// # Errors
    /// [`ExpressionError::Refused`] with what is wrong or not allowed.
    pub fn compile(source: &str) -> Result<Self, ExpressionError> {
        let source = source.trim();
        let reads = check::check(source).map_err(ExpressionError::Refused)?;
        Ok(Self { source: source.into(), reads: Arc::new(reads), filter: Arc::default() })
    }

    /// Every function that an expression may call: name and number of arguments.
    #[must_use]
    pub const fn functions() -> &'static [(&'static str, usize)] {
        function::ALLOWED
    }

    /// The source, trimmed.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Makes the first evaluation as quick as the others.
    ///
    /// # Errors
    /// [`ExpressionError::Refused`] where the check at load let something through: a bug of this crate.
    pub fn prepare(&self) -> Result<(), ExpressionError> {
        self.filter().map(drop)
    }

    fn filter(&self) -> Result<&Filter<Data>, ExpressionError> {
        let filter = self.filter.get_or_init(|| {
            let arena = Arena::default();
            let loader = Loader::new(function::definitions());
            let modules = loader
                .load(&arena, File { code: &*self.source, path: () })
                .map_err(|_| "not a jq expression".to_owned())?;
            Compiler::default().with_funs(function::natives()).compile(modules).map_err(|errors| {
                let names = errors.iter().flat_map(|(_, errors)| errors).map(|(name, _)| *name);
                format!("not defined: {}", names.collect::<Vec<_>>().join(", "))
            })
        });
        filter.as_ref().map_err(|error| ExpressionError::Refused(error.clone()))
    }

    /// Evaluates to one value (several outputs: an error; none: null), blocking for at most until `deadline`.
    ///
    /// Evaluation stops by itself at the deadline, when its result would be longer than `bytes_max` as JSON, when it
    /// makes far more than that on the way, and when a value would be nested deeper than 128. Needs 1 MiB of stack.
    ///
    /// # Errors
    /// See [`ExpressionError`]. Messages name kinds of values, never values.
    pub fn evaluate(
        &self,
        root: &Value,
        deadline: Instant,
        bytes_max: usize,
    ) -> Result<Value, ExpressionError> {
        if Instant::now() >= deadline {
            return Err(ExpressionError::Deadline);
        }
        let filter = self.filter()?;
        let work_bytes_max = bytes_max.saturating_mul(16).clamp(WORK_BYTES_MIN, WORK_BYTES_MAX);
        let result = meter::run(deadline, work_bytes_max, || {
            let ctx = Ctx::<Data>::new(&filter.lut, Vars::new([]));
            let mut outputs = filter.id.run((ctx, self.root(root)));
            let Some(first) = outputs.next() else { return Ok(Value::Null) };
            let first = first.map_err(failed)?;
            match outputs.next() {
                None => Ok(first.to_json(&mut bytes_max.clone())),
                Some(Err(error)) => Err(failed(error)),
                Some(Ok(_)) => Err(ExpressionError::Failed(
                    "the expression has several results: put [ ] around it, or take first(…)".to_owned(),
                )),
            }
        });
        match result {
            Ok(result) => result,
            Err(Stop::Deadline) => Err(ExpressionError::Deadline),
            Err(Stop::Output) => Err(ExpressionError::TooLarge(bytes_max)),
            Err(Stop::Bytes) => Err(ExpressionError::TooLarge(work_bytes_max)),
            Err(Stop::Fault) => Err(ExpressionError::Failed(
                "the expression failed unexpectedly: please report it".to_owned(),
            )),
            Err(Stop::Depth) => Err(ExpressionError::Failed(format!(
                "the expression makes a value nested deeper than {}",
                value::DEPTH_MAX
            ))),
        }
    }

    /// The root as jq sees it: only what the expression reads is copied in.
    fn root(&self, root: &Value) -> Val {
        let Value::Object(members) = root else { return Val::from_json(root) };
        if self.reads.whole {
            return Val::from_json(root);
        }
        let mut copied = Members::default();
        for path in &self.reads.paths {
            let Some((name, value)) = path.first().and_then(|name| members.get_key_value(name)) else {
                continue;
            };
            if copied.contains_key(name.as_str()) {
                continue;
            }
            let same = || self.reads.paths.iter().filter(|path| path[0] == *name);
            let copy = match value {
                Value::Object(inner) if same().all(|path| path.len() > 1) => Val::object(
                    same()
                        .filter_map(|path| inner.get_key_value(&path[1]))
                        .map(|(name, value)| (Arc::from(name.as_str()), Val::from_json(value)))
                        .collect(),
                ),
                value => Val::from_json(value),
            };
            copied.insert(name.as_str().into(), copy);
        }
        Val::object(copied)
    }

    /// The step ids that the expression mentions as `.steps.<id>`.
    #[must_use]
    pub fn mentioned_steps(&self) -> Vec<String> {
        let mut steps: Vec<String> = self
            .reads
            .paths
            .iter()
            .filter(|path| path[0] == "steps")
            .filter_map(|path| path.get(1).cloned())
            .collect();
        steps.dedup();
        steps
    }

    /// What it reads of the root.
    pub(crate) fn reads(&self) -> &Reads {
        &self.reads
    }
}

fn failed(exception: jaq_core::Exn<'_, Val>) -> ExpressionError {
    let text = match exception.get_err() {
        Ok(error) => match error.into_val() {
            Val::Text(text) => text.chars().take(300).collect(),
            other => format!("the expression failed with {}", other.kind()),
        },
        Err(_) => "the expression ended early".to_owned(),
    };
    ExpressionError::Failed(text)
}

/// The source of an expression where `text` is wholly `${ … }`.
#[must_use]
pub(crate) fn expression_source(text: &str) -> Option<&str> {
    text.trim().strip_prefix("${")?.strip_suffix('}')
}

impl Template {
    /// Compiles the expressions in `value`.
    ///
    /// # Errors
    /// [`ExpressionError::Refused`] with the JSON Pointer of the first scalar within `value` that is refused.
    pub fn compile(value: &Value) -> Result<Self, (String, ExpressionError)> {
        let mut refused = None;
        let template = Self::build(value, "", &mut |pointer, source| match Expression::compile(source) {
            Ok(expression) => Some(Arc::new(expression)),
            Err(error) => {
                refused.get_or_insert((pointer.to_owned(), error));
                None
            }
        });
        refused.map_or(Ok(template), Err)
    }

    /// Compiles with `compile`, which gets the pointer and the source of each expression; where it gives none, the
    /// template holds null.
    pub(crate) fn build(
        value: &Value,
        pointer: &str,
        compile: &mut impl FnMut(&str, &str) -> Option<Arc<Expression>>,
    ) -> Self {
        match value {
            Value::String(text) => match expression_source(text) {
                Some(source) => compile(pointer, source).map_or(Self::Literal(Value::Null), Self::Expression),
                None => Self::Literal(value.clone()),
            },
            Value::Array(items) => {
                let items = items.iter().enumerate();
                let parts: Vec<_> = items
                    .map(|(index, item)| Self::build(item, &format!("{pointer}/{index}"), compile))
                    .collect();
                if parts.iter().all(|part| matches!(part, Self::Literal(_))) {
                    Self::Literal(value.clone())
                } else {
                    Self::Array(parts)
                }
            }
            Value::Object(members) => {
                let parts: Vec<_> = members
                    .iter()
                    .map(|(name, member)| {
                        let pointer = format!("{pointer}/{}", super::yaml::pointer_part(name));
                        (name.clone(), Self::build(member, &pointer, compile))
                    })
                    .collect();
                if parts.iter().all(|(_, part)| matches!(part, Self::Literal(_))) {
                    Self::Literal(value.clone())
                } else {
                    Self::Object(parts)
                }
            }
            _ => Self::Literal(value.clone()),
        }
    }

    /// Fills in every expression; all of them together may make `bytes_max` bytes.
    ///
    /// # Errors
    /// See [`ExpressionError`].
    pub fn evaluate(
        &self,
        root: &Value,
        deadline: Instant,
        bytes_max: usize,
    ) -> Result<Value, ExpressionError> {
        let mut left = bytes_max;
        self.fill(root, deadline, &mut left).map_err(|error| match error {
            ExpressionError::TooLarge(left) if left < bytes_max => ExpressionError::TooLarge(bytes_max),
            error => error,
        })
    }

    fn fill(&self, root: &Value, deadline: Instant, left: &mut usize) -> Result<Value, ExpressionError> {
        match self {
            Self::Literal(value) => Ok(value.clone()),
            Self::Expression(expression) => {
                let value = expression.evaluate(root, deadline, *left)?;
                *left = left.saturating_sub(text_bytes(&value));
                Ok(value)
            }
            Self::Array(parts) => parts
                .iter()
                .map(|part| part.fill(root, deadline, left))
                .collect::<Result<Vec<_>, _>>()
                .map(Value::Array),
            Self::Object(parts) => {
                let mut members = Map::new();
                for (name, part) in parts {
                    members.insert(name.clone(), part.fill(root, deadline, left)?);
                }
                Ok(Value::Object(members))
            }
        }
    }

    /// Every expression in it.
    #[must_use]
    pub fn expressions(&self) -> Vec<&Arc<Expression>> {
        match self {
            Self::Literal(_) => Vec::new(),
            Self::Expression(expression) => vec![expression],
            Self::Array(parts) => parts.iter().flat_map(Self::expressions).collect(),
            Self::Object(parts) => parts.iter().flat_map(|(_, part)| part.expressions()).collect(),
        }
    }

    /// The member called `name`, where the template is an object.
    #[must_use]
    pub fn member(&self, name: &str) -> Option<Self> {
        match self {
            Self::Literal(Value::Object(members)) => members.get(name).cloned().map(Self::Literal),
            Self::Object(parts) => {
                parts.iter().find(|(known, _)| known == name).map(|(_, part)| part.clone())
            }
            _ => None,
        }
    }
}

/// Roughly the bytes of `value` as JSON text.
fn text_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 2,
        Value::Array(items) => items.iter().map(|item| text_bytes(item) + 1).sum::<usize>() + 2,
        Value::Object(members) => {
            members.iter().map(|(name, value)| name.len() + 4 + text_bytes(value)).sum::<usize>() + 2
        }
        _ => 4,
    }
}

impl From<Map<String, Value>> for Template {
    fn from(map: Map<String, Value>) -> Self {
        Self::Literal(Value::Object(map))
    }
}

#[cfg(test)]
mod tests;
