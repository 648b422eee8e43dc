//! Reads the members of `with`: a wrong type is an answer that names the step and the member.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::{StepContext, StepError};
use crate::engine::{ErrorKind, relative};

/// The evaluated `with` of one step. A null member counts as absent, so that an expression may leave one out.
#[derive(Clone, Copy)]
pub(super) struct Arguments<'a> {
    uses: &'a str,
    with: &'a Map<String, Value>,
}

impl<'a> Arguments<'a> {
    /// The arguments of the step called `uses`.
    pub(super) const fn new(uses: &'a str, with: &'a Map<String, Value>) -> Self {
        Self { uses, with }
    }

    fn present(&self, name: &str) -> Option<&'a Value> {
        self.with.get(name).filter(|value| !value.is_null())
    }

    /// An error about the kind of member `name`.
    pub(super) fn wrong(&self, name: &str, expected: &str) -> StepError {
        StepError::new(ErrorKind::InvalidInput, format!("`{name}` of {} must be {expected}", self.uses))
    }

    /// A text that must be there and not blank.
    pub(super) fn text(&self, name: &str) -> Result<&'a str, StepError> {
        self.text_or_none(name)?
            .filter(|text| !text.trim().is_empty())
            .ok_or_else(|| self.wrong(name, "a text that is not blank"))
    }

    /// A text, if there is one; an empty one counts as absent.
    pub(super) fn text_or_none(&self, name: &str) -> Result<Option<&'a str>, StepError> {
        match self.present(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
            Some(_) => Err(self.wrong(name, "a text")),
        }
    }

    /// A whole number within `min..=max`, or `default`.
    pub(super) fn count(
        &self,
        name: &str,
        default: usize,
        min: usize,
        max: usize,
    ) -> Result<usize, StepError> {
        Ok(self.count_or_none(name, min, max)?.unwrap_or(default))
    }

    /// A whole number within `min..=max`, if there is one.
    pub(super) fn count_or_none(
        &self,
        name: &str,
        min: usize,
        max: usize,
    ) -> Result<Option<usize>, StepError> {
        let Some(value) = self.present(name) else { return Ok(None) };
        value
            .as_u64()
            .and_then(|count| usize::try_from(count).ok())
            .filter(|count| (min..=max).contains(count))
            .map(Some)
            .ok_or_else(|| self.wrong(name, &format!("a whole number from {min} to {max}")))
    }

    /// A list of whole numbers within `min..=max`, at most `items_max` of them.
    pub(super) fn counts(
        &self,
        name: &str,
        min: usize,
        max: usize,
        items_max: usize,
    ) -> Result<Option<Vec<usize>>, StepError> {
        let Some(value) = self.present(name) else { return Ok(None) };
        let expected = || self.wrong(name, &format!("a list of at most {items_max} whole numbers"));
        let items = value
            .as_array()
            .filter(|items| !items.is_empty() && items.len() <= items_max)
            .ok_or_else(expected)?;
        items
            .iter()
            .map(|item| item.as_u64().and_then(|count| usize::try_from(count).ok()))
            .map(|item| item.filter(|count| (min..=max).contains(count)).ok_or_else(expected))
            .collect::<Result<_, _>>()
            .map(Some)
    }

    /// A truth value; absent is false.
    pub(super) fn flag(&self, name: &str) -> Result<bool, StepError> {
        match self.present(name) {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(self.wrong(name, "true or false")),
        }
    }

    /// An error about member `name`.
    pub(super) fn refuse(&self, name: &str, why: impl std::fmt::Display) -> StepError {
        StepError::new(ErrorKind::InvalidInput, format!("`{name}` of {}: {why}", self.uses))
    }

    /// The directory that member `name` stands for. Only roots that the pattern was granted are known; any other text
    /// is refused, whatever it names.
    pub(super) fn granted(&self, name: &str, context: &StepContext) -> Result<std::path::PathBuf, StepError> {
        let text = self.text(name)?;
        context.roots.get(text).cloned().ok_or_else(|| {
            StepError::new(
                ErrorKind::Denied,
                format!(
                    "{}: `{name}` is not a root that this pattern was granted; use `${{ .bind.<name> }}` of a bind from \
                     workspace.root that `permissions` lists",
                    self.uses
                ),
            )
        })
    }
}

/// Values of other kinds, and times.
impl<'a> Arguments<'a> {
    /// Any value.
    pub(super) fn value(&self, name: &str) -> Option<&'a Value> {
        self.present(name)
    }

    /// A value that must be there.
    pub(super) fn required(&self, name: &str) -> Result<&'a Value, StepError> {
        self.present(name).ok_or_else(|| {
            StepError::new(ErrorKind::InvalidInput, format!("`{name}` of {} is missing", self.uses))
        })
    }

    /// A list that must be there.
    pub(super) fn list(&self, name: &str) -> Result<&'a Vec<Value>, StepError> {
        self.required(name)?.as_array().ok_or_else(|| self.wrong(name, "a list"))
    }

    /// A number from 0 to 1, if there is one.
    pub(super) fn fraction(&self, name: &str) -> Result<Option<f64>, StepError> {
        let Some(value) = self.present(name) else { return Ok(None) };
        value
            .as_f64()
            .filter(|number| (0.0..=1.0).contains(number))
            .map(Some)
            .ok_or_else(|| self.wrong(name, "a number from 0 to 1"))
    }

    /// Texts, if there are any: a list of them, or one.
    pub(super) fn texts(&self, name: &str) -> Result<Option<Vec<String>>, StepError> {
        let expected = || self.wrong(name, "a list of texts");
        match self.present(name) {
            None => Ok(None),
            Some(Value::String(one)) => Ok(Some(vec![one.clone()])),
            Some(Value::Array(items)) => items
                .iter()
                .map(|item| item.as_str().map(str::to_owned).ok_or_else(expected))
                .collect::<Result<_, _>>()
                .map(Some),
            Some(_) => Err(expected()),
        }
    }

    /// A time that, where relative, lies before `now`.
    pub(super) fn past(&self, name: &str, now: Timestamp) -> Result<Option<Timestamp>, StepError> {
        self.time(name, |text| relative::instant_before(text, now))
    }

    /// A time that, where relative, lies after `now`.
    pub(super) fn future(&self, name: &str, now: Timestamp) -> Result<Option<Timestamp>, StepError> {
        self.time(name, |text| relative::instant_after(text, now))
    }

    fn time(
        &self,
        name: &str,
        resolve: impl Fn(&str) -> Option<Timestamp>,
    ) -> Result<Option<Timestamp>, StepError> {
        let Some(text) = self.text_or_none(name)? else { return Ok(None) };
        resolve(text)
            .map(Some)
            .ok_or_else(|| self.wrong(name, "a span such as 12h, 7d or 2w, a date, or an RFC 3339 time"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn wrong_types_are_refused_by_step_and_member_and_null_is_absent() {
        let Value::Object(with) =
            json!({"a": 1, "b": "x", "c": null, "d": true, "e": "", "f": -1, "g": [1, 2]})
        else {
            unreachable!("an object")
        };
        let arguments = Arguments::new("fs.read", &with);
        assert_eq!(arguments.text("b").unwrap(), "x");
        assert_eq!(arguments.text("a").unwrap_err().message, "`a` of fs.read must be a text");
        assert_eq!(
            arguments.text("c").unwrap_err().message,
            "`c` of fs.read must be a text that is not blank"
        );
        assert_eq!(arguments.text_or_none("e").unwrap(), None);
        assert_eq!(arguments.count("a", 9, 1, 5).unwrap(), 1);
        assert_eq!(arguments.count("c", 9, 1, 5).unwrap(), 9);
        assert_eq!(
            arguments.count("f", 9, 1, 5).unwrap_err().message,
            "`f` of fs.read must be a whole number from 1 to 5"
        );
        assert!(arguments.flag("d").unwrap());
        assert!(arguments.flag("a").is_err());
        assert_eq!(arguments.counts("g", 1, 9, 4).unwrap(), Some(vec![1, 2]));
        assert!(arguments.counts("g", 2, 9, 4).is_err());
    }
}
