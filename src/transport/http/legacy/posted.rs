//! What was posted, as far as HTTP has to know: whose answers are expected, and what is refused before the core sees it.

use hyper::StatusCode;

use crate::{
    protocol::Connection,
    schema::Gate,
    trace::TraceContext,
    transport::http::{Response, body},
    wire::{Envelope, ErrorCode, Frame, Method, RequestId, RpcError},
};

/// Longest id that is repeated in an error of ours.
const ID_BYTES_MAX: usize = 1 << 10;

/// A message, or an array of them.
pub(super) struct Message {
    pub(super) frame: Frame,
    /// The ids that answers will have.
    pub(super) ids: Vec<RequestId>,
    pub(super) is_initialize: bool,
    /// Some request may end without an answer.
    pub(super) may_cancel: bool,
    /// An array without a single message in it.
    pub(super) has_only_invalid: bool,
    /// The trace that its headers told.
    pub(super) trace: Option<TraceContext>,
}

impl Message {
    /// Looks at a frame.
    ///
    /// # Errors
    /// Why nothing of it can be taken in.
    pub(super) fn new(frame: Frame) -> Result<Self, &'static str> {
        let (mut ids, mut may_cancel, mut is_initialize) = (Vec::new(), false, false);
        let mut look = |envelope: &Envelope| match envelope {
            Envelope::Request(request) => ids.push(request.id.clone()),
            Envelope::Invalid { id, .. } => ids.extend(id.clone()),
            Envelope::Notification(notification) => {
                may_cancel |= notification.method == Method::NotificationsCancelled.as_str();
            }
            Envelope::Response(_) => {}
        };
        let mut has_only_invalid = false;
        match &frame {
            Frame::Single(envelope) => {
                look(envelope);
                match envelope {
                    Envelope::Request(request) => {
                        is_initialize = request.method == Method::Initialize.as_str();
                    }
                    Envelope::Notification(notification)
                        if notification.method == Method::Initialize.as_str() =>
                    {
                        return Err("`initialize` is a request: it needs an id");
                    }
                    Envelope::Notification(_) | Envelope::Response(_) | Envelope::Invalid { .. } => {}
                }
            }
            Frame::Batch(envelopes) => {
                if envelopes.is_empty() {
                    return Err("a batch must hold at least one message");
                }
                let has = |is: fn(&Envelope) -> bool| envelopes.iter().any(is);
                if has(|envelope| matches!(envelope, Envelope::Response(_)))
                    && has(|envelope| matches!(envelope, Envelope::Request(_) | Envelope::Notification(_)))
                {
                    return Err("a batch holds either requests and notifications, or responses");
                }
                has_only_invalid = !has(|envelope| !matches!(envelope, Envelope::Invalid { .. }));
                envelopes.iter().for_each(look);
                if has_only_invalid && ids.is_empty() {
                    return Err("nothing in the batch is a message");
                }
            }
        }
        Ok(Self { frame, ids, is_initialize, may_cancel, has_only_invalid, trace: None })
    }

    pub(super) const fn is_batch(&self) -> bool {
        matches!(self.frame, Frame::Batch(_))
    }

    /// Whether it need not wait until `connection` has room for another request.
    pub(super) fn needs_no_room(&self, connection: &Connection) -> bool {
        matches!(&self.frame, Frame::Single(envelope) if connection.needs_no_room(envelope))
    }

    /// Why it is no message, where it is none.
    pub(super) fn invalid_reason(&self) -> Option<&str> {
        match &self.frame {
            Frame::Single(Envelope::Invalid { reason, .. }) => Some(reason),
            Frame::Single(_) | Frame::Batch(_) => None,
        }
    }
}

/// An answer that is a JSON-RPC error.
pub(super) fn error(
    gate: Gate,
    status: StatusCode,
    id: Option<&RequestId>,
    code: ErrorCode,
    reason: String,
) -> Response {
    let id = id.filter(|id| id.token().len() <= ID_BYTES_MAX);
    // Without a revision every code that is used here may go without an id.
    match gate.seal_error(None, id, &RpcError::new(code, reason)) {
        Ok(frame) => body::json(status, frame),
        Err(_) => body::empty(status),
    }
}
