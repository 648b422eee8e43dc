//! The body of an event stream: reads one stream of a session.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame};
use tokio::time::{Instant, Sleep, sleep};

use super::{session::Session, streams::Read};
use crate::transport::http::events;

/// A client that is sent away comes again after so long.
const RETRY: Duration = Duration::from_secs(1);

/// Reads a stream until it is complete, or somebody else reads it.
pub(super) struct Reading {
    session: Arc<Session>,
    stream: u64,
    generation: u64,
    /// Goes out before anything else.
    prelude: Option<Bytes>,
    is_over: bool,
    keep_alive: Duration,
    quiet_since: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Reading {
    pub(super) fn new(
        session: Arc<Session>,
        stream: u64,
        generation: u64,
        prelude: Option<Bytes>,
        keep_alive: Duration,
    ) -> Self {
        Self {
            session,
            stream,
            generation,
            prelude,
            is_over: false,
            keep_alive,
            quiet_since: Instant::now(),
            timer: Box::pin(sleep(keep_alive)),
        }
    }
}

impl Body for Reading {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if let Some(prelude) = this.prelude.take() {
            return Poll::Ready(Some(Ok(Frame::data(prelude))));
        }
        if this.is_over {
            return Poll::Ready(None);
        }
        match this.session.read(this.stream, this.generation, context.waker()) {
            Read::Events(events) => {
                this.quiet_since = Instant::now();
                return Poll::Ready(Some(Ok(Frame::data(events))));
            }
            Read::Leave => {
                this.is_over = true;
                return Poll::Ready(Some(Ok(Frame::data(events::retry(RETRY)))));
            }
            Read::End | Read::Lagged => {
                this.is_over = true;
                return Poll::Ready(None);
            }
            Read::Later => {}
        }
        loop {
            ready!(this.timer.as_mut().poll(context));
            let due = this.quiet_since + this.keep_alive;
            let is_quiet = due <= Instant::now();
            if is_quiet {
                this.quiet_since = Instant::now();
            }
            this.timer.as_mut().reset(this.quiet_since + this.keep_alive);
            if is_quiet {
                return Poll::Ready(Some(Ok(Frame::data(events::KEEP_ALIVE))));
            }
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.session.detach(self.stream, self.generation);
    }
}
