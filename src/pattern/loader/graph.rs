//! The order of steps: no step may wait for itself.

use crate::pattern::StepSpec;

/// The ids of a cycle among `steps`, first one repeated at the end.
pub(super) fn cycle(steps: &[StepSpec]) -> Option<Vec<String>> {
    #[derive(Clone, Copy, PartialEq)]
    enum State {
        New,
        Open,
        Done,
    }
    fn visit(steps: &[StepSpec], index: usize, states: &mut [State], path: &mut Vec<usize>) -> bool {
        states[index] = State::Open;
        path.push(index);
        for need in &steps[index].needs {
            let Some(next) = steps.iter().position(|step| step.id == *need) else { continue };
            match states[next] {
                State::Open => {
                    path.push(next);
                    return true;
                }
                State::New => {
                    if visit(steps, next, states, path) {
                        return true;
                    }
                }
                State::Done => {}
            }
        }
        states[index] = State::Done;
        path.pop();
        false
    }
    let mut states = vec![State::New; steps.len()];
    for index in 0..steps.len() {
        let mut path = Vec::new();
        if states[index] == State::New && visit(steps, index, &mut states, &mut path) {
            let last = path.last().copied().unwrap_or_default();
            let start = path.iter().position(|step| *step == last).unwrap_or(0);
            return Some(path[start..].iter().map(|step| steps[*step].id.clone()).collect());
        }
    }
    None
}
