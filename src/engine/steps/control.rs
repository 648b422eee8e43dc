//! `control.*`: steps about steps. The run executes what they hold; here is how their arguments are read.
//!
//! | step | output |
//! |---|---|
//! | `control.parallel` | `{<id of each step>: its value}` |
//! | `control.foreach` | `{results: [value of the last step, one an item, in their order], n, total}`; items beyond `limit` (default 100) are left out, so that `n` may be less than `total` |
//! | `control.switch` | value of the last step of the first case whose `when` holds, else of `default`, else null |
//! | `control.assert` | `true`, or the error `code` (default `assertion_failed`) with `message` |
//! | `control.ask` | `{action: "accept", content: {…}}`, `{action: "decline"}` or `{action: "cancel"}`: a no is an answer |
//!
//! Steps inside see the steps around them; from outside, their values are reached through the step that holds them.
//! `control.ask` shows a form; [`form`] says what it may hold.
//! `control.foreach` sets `.item` (or the name in `as`) and `.index`; `concurrency` is 1 to 8 (default 1).

use jsonschema::PatternOptions;
use serde_json::{Map, Value, json};

use super::{StepContext, StepError, StepOutput, arguments::Arguments};
use crate::{
    engine::{Answer, ErrorKind, NotAnswered, Question},
    pattern::form,
};

const ITEMS_MAX: usize = 1_000;
const CONCURRENCY_MAX: usize = 8;
/// Longest text above a form.
const MESSAGE_CHARS_MAX: usize = 4_000;

/// Runs the steps of this family that hold no others.
pub(super) async fn run(
    uses: &str,
    ctx: &StepContext,
    with: &Map<String, Value>,
) -> Result<StepOutput, StepError> {
    match uses {
        "control.assert" => assert(Arguments::new(uses, with)),
        "control.ask" => ask(ctx, Arguments::new(uses, with)).await,
        _ => Err(super::unknown_step(uses)),
    }
}

fn assert(args: Arguments<'_>) -> Result<StepOutput, StepError> {
    let code = args.text_or_none("code")?.unwrap_or(ErrorKind::AssertionFailed.code());
    let Some(kind) = ErrorKind::ALL.iter().copied().find(|kind| kind.code() == code) else {
        let codes: Vec<_> = ErrorKind::ALL.iter().map(|kind| kind.code()).collect();
        return Err(args.wrong("code", &format!("one of {}", codes.join(", "))));
    };
    if args.value("that") == Some(&Value::Bool(true)) {
        return Ok(StepOutput { value: Value::Bool(true), bytes: 0 });
    }
    let message = args.text_or_none("message")?.unwrap_or("a condition of the pattern does not hold");
    Err(StepError::new(kind, message))
}

async fn ask(ctx: &StepContext, args: Arguments<'_>) -> Result<StepOutput, StepError> {
    let message = args.text("message")?;
    if message.chars().count() > MESSAGE_CHARS_MAX {
        return Err(args.refuse("message", format_args!("more than {MESSAGE_CHARS_MAX} characters")));
    }
    let schema = args.value("schema").unwrap_or(&Value::Null);
    form::check(schema, false).map_err(|fault| {
        let place = if fault.pointer.is_empty() { "its root" } else { fault.pointer.as_str() };
        args.refuse("schema", format_args!("at {place}: {}", fault.message))
    })?;
    let question = Question::Form { message: message.to_owned(), schema: schema.clone() };
    let value = match ctx.asker.ask(&ctx.id, question).await.map_err(not_answered)? {
        Answer::Accepted(content) => {
            check_content(schema, &content)?;
            json!({"action": "accept", "content": content})
        }
        Answer::Declined => json!({"action": "decline"}),
        Answer::Dismissed => json!({"action": "cancel"}),
        Answer::Completed { .. } => {
            return Err(StepError::new(ErrorKind::Internal, "a form was answered by a completion"));
        }
    };
    Ok(StepOutput::of(value))
}

/// The error of a step whose question got no answer.
pub(super) fn not_answered(reason: NotAnswered) -> StepError {
    match reason {
        NotAnswered::Unable(reason) => StepError::new(ErrorKind::Denied, reason),
        NotAnswered::Failed(reason) => StepError::new(ErrorKind::ProgramFailed, reason),
        // Whoever runs steps waits for those.
        NotAnswered::Later => StepError::new(ErrorKind::Internal, "a question outlived its run"),
    }
}

/// Clients are to check what their user filled in; some do not.
fn check_content(schema: &Value, content: &Map<String, Value>) -> Result<(), StepError> {
    let mut closed = schema.clone();
    closed["additionalProperties"] = json!(false);
    let validator = jsonschema::draft202012::options()
        .with_pattern_options(PatternOptions::regex())
        .should_validate_formats(true)
        .build(&closed)
        .map_err(|_| StepError::new(ErrorKind::Internal, "a form was asked that is no schema"))?;
    let content = Value::Object(content.clone());
    let Some(error) = validator.iter_errors(&content).next() else { return Ok(()) };
    let place = error.instance_path().to_string();
    let place = if place.is_empty() { String::new() } else { format!(" at `{place:.80}`") };
    let told = super::data_clip(&error.masked().to_string(), 200);
    Err(StepError::new(
        ErrorKind::ProgramFailed,
        format!("the client's answer does not fit the form that it was shown{place}: {told}"),
    ))
}

/// The arguments of `control.foreach`.
#[derive(Debug)]
pub(in crate::engine) struct Foreach<'a> {
    /// Those to work on.
    pub(in crate::engine) items: &'a [Value],
    /// How many there were.
    pub(in crate::engine) total: usize,
    /// What expressions call the item.
    pub(in crate::engine) name: &'a str,
    /// Items at once.
    pub(in crate::engine) concurrency: usize,
}

impl<'a> Foreach<'a> {
    /// Reads them.
    pub(in crate::engine) fn read(with: &'a Map<String, Value>) -> Result<Self, StepError> {
        let args = Arguments::new("control.foreach", with);
        let items = args.list("items")?;
        let limit = args.count_or_none("limit", 0, ITEMS_MAX)?.unwrap_or(100);
        Ok(Self {
            items: &items[..items.len().min(limit)],
            total: items.len(),
            name: args.text_or_none("as")?.unwrap_or("item"),
            concurrency: args.count_or_none("concurrency", 0, CONCURRENCY_MAX)?.unwrap_or(1).max(1),
        })
    }
}

/// Index of the first case whose evaluated `when` is true; `None` where none is.
pub(in crate::engine) fn first_case(with: &Map<String, Value>) -> Result<Option<usize>, StepError> {
    let cases = Arguments::new("control.switch", with).list("cases")?;
    Ok(cases.iter().position(|case| case.get("when") == Some(&Value::Bool(true))))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn asserted(with: Value) -> Result<Value, (ErrorKind, String)> {
        let Value::Object(with) = with else { unreachable!("an object") };
        assert(Arguments::new("control.assert", &with))
            .map(|output| output.value)
            .map_err(|error| (error.kind, error.message))
    }

    #[test]
    fn an_assertion_passes_on_true_alone() {
        assert_eq!(asserted(json!({"that": true})), Ok(json!(true)));
        for that in [json!(false), json!(1), json!("true"), json!(null), json!([])] {
            let (kind, _) = asserted(json!({"that": that})).unwrap_err();
            assert_eq!(kind, ErrorKind::AssertionFailed, "{that}");
        }
        assert_eq!(
            asserted(json!({"that": false, "code": "not_found", "message": "no such branch"})),
            Err((ErrorKind::NotFound, "no such branch".to_owned()))
        );
        assert_eq!(asserted(json!({"that": true, "code": "nope"})).unwrap_err().0, ErrorKind::InvalidInput);
    }
}
