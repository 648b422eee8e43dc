//! Whether a later version of a schema keeps what an earlier one promised.

use std::rc::Rc;

use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};
use serde_json::{Map, Value};

use super::{
    families::{Promise, Version},
    instances::{Schema, Valid},
};

/// Instances generated for each pair of versions.
pub(crate) const CASES: u32 = 400;
/// Attempts to make smaller what was found.
const SHRINKS: u32 = 20_000;

/// What of the promise of `older` does not hold under `newer`; the smallest instance that shows it, and why.
pub(crate) fn broken(promise: Promise, older: &Version, newer: &Version, cases: u32) -> Option<String> {
    found(promise, older, newer, cases, SHRINKS)
}

/// Whether something of it does not hold. Where nobody reads what is found, it need not be made small.
pub(crate) fn breaks(promise: Promise, older: &Version, newer: &Version, cases: u32) -> bool {
    found(promise, older, newer, cases, 0).is_some()
}

fn found(promise: Promise, older: &Version, newer: &Version, cases: u32, shrinks: u32) -> Option<String> {
    let (instances, readers) = match promise {
        Promise::Taken | Promise::Loosened => (older, newer.schema.clone()),
        Promise::Given => (newer, open(&older.schema)),
    };
    let readers = Schema::new(readers);
    for instance in &instances.recorded {
        if let Some(fault) = readers.fault(instance) {
            return Some(format!("recorded {instance}: {fault}"));
        }
    }
    let schema = Rc::new(Schema::new(instances.schema.clone()));
    faulty(&schema, cases, shrinks, |instance| readers.fault(instance))
}

/// The smallest generated instance of `schema` in which `fault` finds one.
pub(crate) fn generated(
    schema: &Rc<Schema>,
    cases: u32,
    fault: impl Fn(&Value) -> Option<String>,
) -> Option<String> {
    faulty(schema, cases, SHRINKS, fault)
}

fn faulty(
    schema: &Rc<Schema>,
    cases: u32,
    shrinks: u32,
    fault: impl Fn(&Value) -> Option<String>,
) -> Option<String> {
    let config = Config { cases, failure_persistence: None, max_shrink_iters: shrinks, ..Config::default() };
    let rng = proptest::test_runner::TestRng::deterministic_rng(config.rng_algorithm);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let outcome = runner.run(&Valid(Rc::clone(schema)), |instance| match fault(&instance) {
        None => Ok(()),
        Some(fault) => Err(TestCaseError::fail(fault)),
    });
    match outcome {
        Ok(()) => None,
        Err(TestError::Fail(why, instance)) => Some(format!("generated {instance}: {why}")),
        Err(TestError::Abort(why)) => Some(format!("nothing could be generated: {why}")),
    }
}

/// `schema` as a reader has it who passes over members that it does not know.
pub(crate) fn open(schema: &Value) -> Value {
    match schema {
        Value::Object(members) => {
            let kept = members.iter().filter(|(key, value)| {
                !(key.as_str() == "additionalProperties" && **value == Value::Bool(false))
            });
            let out: Map<String, Value> = kept.map(|(key, value)| (key.clone(), open(value))).collect();
            Value::Object(out)
        }
        Value::Array(items) => items.iter().map(open).collect(),
        other => other.clone(),
    }
}
