//! Names that a server made up: learnt from pairs of recorded and live answers, replaced where the client uses them.

use std::collections::HashMap;

use serde_json::Value;

/// Members whose value is the server's own, whatever it looks like, and the member under which clients send it back.
const OPAQUE: &[(&str, &str)] = &[
    ("nextCursor", "cursor"),
    ("requestState", "requestState"),
    ("taskId", "taskId"),
    ("handle", "handle"),
    ("session", "session"),
    ("etag", "unless"),
];
/// A word of at least so many characters, with letters and digits, is taken for a name that was made up.
const MINTED_CHARACTERS_MIN: usize = 12;

/// What is known so far.
#[derive(Debug, Default)]
pub(super) struct Handles {
    /// By the client's member and the recorded value.
    members: HashMap<(String, String), String>,
    /// Words, wherever they stand.
    words: HashMap<String, String>,
    /// Keys of `inputRequests`, which become keys of `inputResponses`.
    inputs: HashMap<String, String>,
}

impl Handles {
    /// Two values at the same place.
    pub(super) fn learn(&mut self, recorded: &Value, live: &Value) {
        match (recorded, live) {
            (Value::Object(recorded), Value::Object(live)) => {
                for (key, value) in recorded {
                    let Some(other) = live.get(key) else { continue };
                    if let (Some(value), Some(other)) = (value.as_str(), other.as_str())
                        && let Some((_, back)) = OPAQUE.iter().find(|(server, _)| server == key)
                    {
                        self.members.insert(((*back).to_owned(), value.to_owned()), other.to_owned());
                    }
                    if key == "inputRequests" {
                        self.learn_inputs(value, other);
                    }
                    self.learn(value, other);
                }
            }
            (Value::Array(recorded), Value::Array(live)) => {
                for (value, other) in recorded.iter().zip(live) {
                    self.learn(value, other);
                }
            }
            (Value::String(recorded), Value::String(live)) => match [recorded, live].map(|text| object(text))
            {
                [Some(recorded), Some(live)] => self.learn(&recorded, &live),
                _ => self.learn_text(recorded, live),
            },
            _ => {}
        }
    }

    /// Two texts at the same place: made-up words in them correspond in their order, where they are as many.
    pub(super) fn learn_text(&mut self, recorded: &str, live: &str) {
        if recorded == live {
            return;
        }
        let [from, to] = [recorded, live].map(|text| minted(text).map(|(_, word)| word).collect::<Vec<_>>());
        if from.len() == to.len() {
            for (from, to) in from.into_iter().zip(to).filter(|(from, to)| from != to) {
                self.words.insert(from.to_owned(), to.to_owned());
            }
        }
    }

    /// Asks of the same method correspond in their order.
    fn learn_inputs(&mut self, recorded: &Value, live: &Value) {
        let (Some(recorded), Some(live)) = (recorded.as_object(), live.as_object()) else { return };
        let mut left: Vec<(&String, &Value)> = live.iter().collect();
        for (key, ask) in recorded {
            if let Some(place) = left.iter().position(|(_, other)| other["method"] == ask["method"]) {
                let (other, _) = left.remove(place);
                self.inputs.insert(key.clone(), other.clone());
            }
        }
    }

    /// `value` with all that is known replaced; whether anything was.
    pub(super) fn apply(&self, value: &mut Value) -> bool {
        self.apply_under("", value)
    }

    fn apply_under(&self, member: &str, value: &mut Value) -> bool {
        match value {
            Value::Object(members) => {
                let mut changed = false;
                if member == "inputResponses" && members.keys().any(|key| self.renamed(key).is_some()) {
                    let renamed = std::mem::take(members).into_iter();
                    *members = renamed
                        .map(|(key, value)| (self.renamed(&key).cloned().unwrap_or(key), value))
                        .collect();
                    changed = true;
                }
                for (key, value) in members {
                    changed |= self.apply_under(key, value);
                }
                changed
            }
            Value::Array(items) => {
                items.iter_mut().fold(false, |changed, item| self.apply_under(member, item) | changed)
            }
            Value::String(text) => {
                let whole = self.members.get(&(member.to_owned(), text.clone()));
                let replaced = whole.cloned().unwrap_or_else(|| self.apply_text(text));
                let changed = *text != replaced;
                *text = replaced;
                changed
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        }
    }

    fn renamed(&self, key: &str) -> Option<&String> {
        self.inputs.get(key).filter(|other| *other != key)
    }

    /// `text` with the words that are known replaced.
    pub(super) fn apply_text(&self, text: &str) -> String {
        if let Some(word) = self.words.get(text) {
            return word.clone();
        }
        let (mut replaced, mut copied) = (String::with_capacity(text.len()), 0);
        for (start, word) in minted(text) {
            if let Some(other) = self.words.get(word) {
                replaced.push_str(&text[copied..start]);
                replaced.push_str(other);
                copied = start + word.len();
            }
        }
        replaced.push_str(&text[copied..]);
        replaced
    }
}

/// The object that a text is the JSON of, as results travel in contents.
fn object(text: &str) -> Option<Value> {
    text.starts_with('{').then(|| serde_json::from_str(text).ok())?
}

/// The words of `text` that look made up, and where each begins.
fn minted(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    text.split(move |c: char| !is_part(c))
        .map(|word| (word.as_ptr() as usize - text.as_ptr() as usize, word))
        .filter(|(_, word)| {
            word.len() >= MINTED_CHARACTERS_MIN
                && word.bytes().any(|byte| byte.is_ascii_digit())
                && word.bytes().any(|byte| byte.is_ascii_alphabetic())
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_the_server_made_up_is_replaced_where_it_is_used() {
        let mut handles = Handles::default();
        handles.learn(
            &json!({"nextCursor": "2", "tools": [{"name": "echo"}], "text": "see tmws://result/r_0123456789ab", "requestState": "a.b=", "json": "{\"session\":\"s_AB\"}"}),
            &json!({"nextCursor": "Mg", "tools": [{"name": "other"}], "text": "see tmws://result/r_ba9876543210", "requestState": "c.d=", "json": "{\"session\":\"s_CD\"}"}),
        );
        handles.learn(
            &json!({"inputRequests": {"a": {"method": "roots/list"}, "b": {"method": "elicitation/create"}}}),
            &json!({"inputRequests": {"x": {"method": "elicitation/create"}, "y": {"method": "roots/list"}}}),
        );
        let table = [
            (json!({"cursor": "2", "name": "echo"}), json!({"cursor": "Mg", "name": "echo"})),
            (json!({"other": "2"}), json!({"other": "2"})),
            (
                json!({"uri": "tmws://result/r_0123456789ab/1"}),
                json!({"uri": "tmws://result/r_ba9876543210/1"}),
            ),
            (json!({"requestState": "a.b="}), json!({"requestState": "c.d="})),
            (json!({"arguments": {"session": "s_AB"}}), json!({"arguments": {"session": "s_CD"}})),
            (json!({"inputResponses": {"a": {}, "b": 1}}), json!({"inputResponses": {"y": {}, "x": 1}})),
        ];
        for (recorded, live) in table {
            let mut value = recorded.clone();
            assert_eq!(handles.apply(&mut value), recorded != live, "{recorded}");
            assert_eq!(value, live);
        }
    }

    #[test]
    fn words_of_people_are_not_made_up() {
        let words = |text| minted(text).map(|(_, word)| word).collect::<Vec<_>>();
        assert!(words("hello world test://static-text resources/list 12345678901234").is_empty());
        assert_eq!(words("é 9970688c7b4c427793e6fe0341d51e43."), ["9970688c7b4c427793e6fe0341d51e43"]);
    }
}
