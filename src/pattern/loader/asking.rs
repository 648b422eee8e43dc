//! Questions: what precedes one runs once more, so nothing that writes may.

use super::{Report, effect, step::nested};
use crate::pattern::{Effect, StepSpec, form};

/// Steps whose answers come from whoever made the call, or may.
fn asks(step: &StepSpec) -> bool {
    ["control.ask", "llm.complete"].contains(&step.uses.uses) || step.children.iter().flatten().any(asks)
}

fn writes(step: &StepSpec) -> bool {
    effect(std::slice::from_ref(step)) != Effect::ReadOnly
}

/// Reports steps of the list at `pointer` that write or execute without coming after every question.
pub(super) fn check(report: &mut Report<'_>, pointer: &str, steps: &[StepSpec]) {
    let asking: Vec<&StepSpec> = steps.iter().filter(|step| asks(step)).collect();
    for step in steps {
        let Some(index) = report.items(pointer).iter().position(|item| item["id"] == step.id.as_str()) else {
            continue;
        };
        let at = format!("{pointer}/{index}");
        if writes(step) {
            let early = asking.iter().find(|ask| ask.id != step.id && !comes_after(steps, step, &ask.id));
            if let Some(ask) = early {
                report.at_with_hint(
                    &format!("{at}/uses"),
                    format!(
                        "`{}` writes or executes and may run before `{}` is answered: what precedes a question \
                         runs once more",
                        step.id, ask.id
                    ),
                    Some(format!("add `needs: [{}]`", ask.id)),
                );
            }
            if asks(step) && step.uses.uses == "control.foreach" {
                report.at_with_hint(
                    &format!("{at}/uses"),
                    format!(
                        "the loop `{}` asks and writes: with each question, what earlier items wrote would be \
                         written once more",
                        step.id
                    ),
                    Some("ask in a loop of its own, and write in a loop that needs it".to_owned()),
                );
            }
        }
        for (list, children) in nested(report, &at).iter().zip(&step.children) {
            check(report, list, children);
        }
    }
}

/// Whether `step` starts only after `ask` has ended.
fn comes_after(steps: &[StepSpec], step: &StepSpec, ask: &str) -> bool {
    let mut seen: Vec<&str> = Vec::new();
    let mut open: Vec<&StepSpec> = vec![step];
    while let Some(step) = open.pop() {
        for need in &step.needs {
            if need == ask {
                return true;
            }
            if !seen.contains(&need.as_str()) {
                seen.push(need);
                open.extend(steps.iter().filter(|other| other.id == *need));
            }
        }
    }
    false
}

/// Reports what no client can show in the form of the `control.ask` at `pointer`.
pub(super) fn check_form(report: &mut Report<'_>, pointer: &str) {
    let at = format!("{pointer}/with/schema");
    let Some(schema) = report.get(&at) else { return };
    if let Err(fault) = form::check(schema, true) {
        report.at_with_hint(&format!("{at}{}", fault.pointer), fault.message, fault.hint);
    }
}
