//! Answers to a 2025-03-26 batch, gathered until the last one is there.

use std::collections::{BTreeMap, HashSet};

use super::connection::Answer;
use crate::{
    schema::Sealed,
    wire::{Envelope, RequestId},
};

/// How answers to a batch travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BatchAnswers {
    /// One array, once all are there (stdio, HTTP).
    #[default]
    Array,
    /// Each as its own frame, as soon as it is there (WebSocket).
    Frames,
}

/// The place of one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    batch: u64,
    index: usize,
}

#[derive(Debug)]
struct Batch {
    answers: Vec<Option<Answer>>,
    open: usize,
}

/// The batches that are not answered yet.
#[derive(Debug, Default)]
pub(super) struct Batches {
    batches: BTreeMap<u64, Batch>,
    next: u64,
}

impl Batches {
    /// Opens a batch with so many places for answers, in the order of its elements.
    pub(super) fn open(&mut self, places: usize) -> Vec<Slot> {
        if places == 0 {
            return Vec::new();
        }
        self.next += 1;
        let batch = Batch { answers: (0..places).map(|_| None).collect(), open: places };
        self.batches.insert(self.next, batch);
        (0..places).map(|index| Slot { batch: self.next, index }).collect()
    }

    /// Fills a place, or leaves it empty for good (`None`: the request was cancelled). Gives all answers once no place
    /// is open; none at all where every request was cancelled.
    pub(super) fn close(&mut self, slot: Slot, answer: Option<Answer>) -> Option<Vec<Answer>> {
        let batch = self.batches.get_mut(&slot.batch)?;
        batch.answers[slot.index] = answer;
        batch.open -= 1;
        if batch.open > 0 {
            return None;
        }
        self.batches.remove(&slot.batch).map(|batch| batch.answers.into_iter().flatten().collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }
}

/// Cuts answers into runs whose arrays stay within `bytes_max`, as far as single answers allow.
pub(super) fn within(answers: Vec<Sealed>, bytes_max: usize) -> Vec<Vec<Sealed>> {
    let mut runs: Vec<Vec<Sealed>> = Vec::new();
    let mut size_bytes = 0;
    for answer in answers {
        let with_comma = answer.as_bytes().len() + 1;
        match runs.last_mut() {
            Some(run) if size_bytes + with_comma <= bytes_max => {
                size_bytes += with_comma;
                run.push(answer);
            }
            Some(_) | None => {
                size_bytes = with_comma + 1;
                runs.push(vec![answer]);
            }
        }
    }
    runs
}

/// Why an element of a batch is refused before it is looked at.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Requests and answers in one array.
    Mixed,
    /// The same id twice.
    SameId,
}

/// What is wrong with each element as part of this batch.
pub(super) fn refusals(elements: &[Envelope]) -> Vec<Option<Refusal>> {
    let has_responses = elements.iter().any(|element| matches!(element, Envelope::Response(_)));
    let has_others =
        elements.iter().any(|element| matches!(element, Envelope::Request(_) | Envelope::Notification(_)));
    if has_responses && has_others {
        let is_message = |element: &Envelope| !matches!(element, Envelope::Invalid { .. });
        return elements.iter().map(|element| is_message(element).then_some(Refusal::Mixed)).collect();
    }
    let mut seen: HashSet<&RequestId> = HashSet::new();
    let twice: HashSet<&RequestId> = elements
        .iter()
        .filter_map(|element| match element {
            Envelope::Request(request) => Some(&request.id),
            Envelope::Notification(_) | Envelope::Response(_) | Envelope::Invalid { .. } => None,
        })
        .filter(|id| !seen.insert(id))
        .collect();
    elements
        .iter()
        .map(|element| match element {
            Envelope::Request(request) if twice.contains(&request.id) => Some(Refusal::SameId),
            Envelope::Request(_)
            | Envelope::Notification(_)
            | Envelope::Response(_)
            | Envelope::Invalid { .. } => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        revision::Revision,
        schema::Gate,
        wire::{Frame, Method, parse_frame},
    };

    fn answer(id: i64) -> Answer {
        let id = RequestId::from_integer(id);
        let frame = Gate::new()
            .seal_result(Revision::V2025_03_26, Method::Ping, &id, &serde_json::json!({}))
            .unwrap();
        Answer { id, frame, error: None }
    }

    fn ids(answers: &[Answer]) -> Vec<&str> {
        answers.iter().map(|answer| answer.id.token()).collect()
    }

    #[test]
    fn answers_come_in_the_order_of_their_requests_once_the_last_is_there() {
        let mut batches = Batches::default();
        let slots = batches.open(3);
        assert!(batches.close(slots[2], Some(answer(3))).is_none());
        assert!(batches.close(slots[0], Some(answer(1))).is_none());
        assert!(!batches.is_empty());
        assert_eq!(ids(&batches.close(slots[1], None).unwrap()), ["1", "3"]);
        assert!(batches.is_empty());
        // A place that is closed stays closed.
        assert!(batches.close(slots[0], Some(answer(1))).is_none());
    }

    #[test]
    fn a_batch_that_was_cancelled_whole_has_no_answers() {
        let mut batches = Batches::default();
        let slots = batches.open(1);
        assert!(batches.close(slots[0], None).unwrap().is_empty());
        assert!(batches.open(0).is_empty() && batches.is_empty());
    }

    #[test]
    fn arrays_stay_within_the_limit() {
        let frames = |count: i64| -> Vec<Sealed> { (1..=count).map(|id| answer(id).frame).collect() };
        let one = frames(1)[0].as_bytes().len();
        let sizes = |limit: usize| -> Vec<usize> { within(frames(4), limit).iter().map(Vec::len).collect() };
        assert_eq!(sizes(4 * one + 5), [4]);
        assert_eq!(sizes(4 * one + 4), [3, 1]);
        assert_eq!(sizes(1), [1, 1, 1, 1]);
        let (gate, limit) = (Gate::new(), 2 * one + 3);
        assert!(within(frames(4), limit).iter().all(|run| gate.seal_batch(run).as_bytes().len() <= limit));
    }

    #[test]
    fn elements_are_refused_for_what_stands_beside_them() {
        let request = |id: u8| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#);
        let response = r#"{"jsonrpc":"2.0","id":9,"result":{}}"#.to_owned();
        let junk = r#"{"id":7}"#.to_owned();
        let table = [
            (vec![request(1), request(2), junk.clone()], vec![None, None, None]),
            (
                vec![request(1), request(2), request(1)],
                vec![Some(Refusal::SameId), None, Some(Refusal::SameId)],
            ),
            (
                vec![request(1), response.clone(), junk],
                vec![Some(Refusal::Mixed), Some(Refusal::Mixed), None],
            ),
            (vec![response.clone(), response], vec![None, None]),
        ];
        for (elements, expected) in table {
            let text = format!("[{}]", elements.join(","));
            let Ok(Frame::Batch(elements)) = parse_frame(text.as_bytes()) else { panic!("{text}") };
            assert_eq!(refusals(&elements), expected, "{text}");
        }
    }
}
