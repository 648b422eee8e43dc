//! The span of the step that runs here, for those steps that tell others whose call theirs is.

use crate::trace::TraceContext;

tokio::task_local! {
    static STEP: TraceContext;
}

/// Runs a step, as the span where there is one. What it starts elsewhere is outside it.
pub(in crate::engine) async fn traced<T>(span: Option<TraceContext>, step: impl Future<Output = T>) -> T {
    match span {
        Some(span) => STEP.scope(span, step).await,
        None => step.await,
    }
}

/// The span of the step that runs here.
pub(super) fn current() -> Option<TraceContext> {
    STEP.try_with(Clone::clone).ok()
}
