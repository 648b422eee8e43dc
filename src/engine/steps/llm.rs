//! `llm.*`: has a language model complete texts.
//!
//! | step | output |
//! |---|---|
//! | `llm.complete` | `{text, model, tokens_in?, tokens_out?}`; the tokens as the provider reports them |
//!
//! The provider of the configuration is asked where there is one, else the client's own model, where it offers one.

use serde_json::{Map, Value, json};

use super::{StepContext, StepError, StepOutput, arguments::Arguments};
use crate::engine::{
    ErrorKind,
    llm::{Completion, LlmError, Models as Configured, NoCompletion, Prompt},
};

pub use crate::engine::llm::Models;

/// Longest prompt, its system prompt included.
const PROMPT_BYTES_MAX: usize = 256 << 10;

/// Runs the step `uses`.
pub(super) async fn run(
    uses: &str,
    ctx: &StepContext,
    with: &Map<String, Value>,
) -> Result<StepOutput, StepError> {
    let args = Arguments::new(uses, with);
    let models = &ctx.outside.llm;
    let prompt = args.text("prompt")?;
    let system = args.text_or_none("system")?;
    if prompt.len() + system.map_or(0, str::len) > PROMPT_BYTES_MAX {
        return Err(StepError::new(
            ErrorKind::LimitExceeded,
            format!("a prompt has at most {} KiB", PROMPT_BYTES_MAX >> 10),
        ));
    }
    let max_tokens = args.count("max_tokens", models.max_tokens(), 1, models.max_tokens())?;
    let prompt = Prompt {
        system: system.map(str::to_owned),
        prompt: prompt.to_owned(),
        max_tokens: u32::try_from(max_tokens).unwrap_or(u32::MAX),
    };
    let completion = if models.model().is_some() {
        models.by_provider(&prompt, ctx.now, ctx.deadline).await.map_err(of_llm)?
    } else if ctx.asker.completes() {
        Configured::by_client(&*ctx.asker, &ctx.id, prompt).await.map_err(|none| match none {
            NoCompletion::Failed(error) => of_llm(error),
            // Whoever runs steps waits for those.
            NoCompletion::Later => StepError::new(ErrorKind::Internal, "a question outlived its run"),
        })?
    } else {
        return Err(StepError::new(
            ErrorKind::Denied,
            "there is no language model to ask: the client offers none (capability `sampling`), and none is \
             configured (llm.url and llm.model)",
        ));
    };
    let Completion { text, model, tokens_in, tokens_out } = completion;
    let mut value = json!({"text": text, "model": model});
    for (name, tokens) in [("tokens_in", tokens_in), ("tokens_out", tokens_out)] {
        if let Some(tokens) = tokens {
            value[name] = json!(tokens);
        }
    }
    Ok(StepOutput::of(value))
}

fn of_llm(error: LlmError) -> StepError {
    StepError::new(error.kind, error.message).again_after(error.retry_after)
}
