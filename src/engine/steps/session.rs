//! `session.*`: handles that hold a session's scratch.
//!
//! | step | output |
//! |---|---|
//! | `session.open` | `{session}`: a new handle, bound to this principal and project |
//! | `session.close` | `{closed}`: false where there was none; without `session`, the one of the call |

use serde_json::{Map, Value, json};

use super::{StepContext, StepError, StepOutput, arguments::Arguments};
use crate::engine::ErrorKind;

/// Runs the step `uses`.
pub(super) async fn run(
    uses: &str,
    ctx: &StepContext,
    with: &Map<String, Value>,
) -> Result<StepOutput, StepError> {
    let args = Arguments::new(uses, with);
    let value = match uses {
        "session.open" => json!({"session": ctx.store.open_session(&ctx.scope, ctx.now).await?}),
        "session.close" => {
            let handle = args.text_or_none("session")?.ok_or_else(|| {
                StepError::new(
                    ErrorKind::InvalidInput,
                    "session.close: no session was named; give its handle as `session`",
                )
            })?;
            json!({"closed": ctx.store.close_session(&ctx.scope, handle, ctx.now).await?})
        }
        _ => return Err(super::unknown_step(uses)),
    };
    Ok(StepOutput::of(value))
}
