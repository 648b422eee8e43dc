//! Which revision family a POST belongs to: the body decides, the header is checked against it.

use hyper::HeaderMap;

use super::headers::{PROTOCOL_VERSION, Text, text};
use crate::{
    protocol::Claim,
    revision::{Era, Revision},
    wire::{Envelope, Frame, Method},
};

/// What `MCP-Protocol-Version` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Said {
    Absent = 0,
    Legacy = 1,
    Modern = 2,
    /// Another text, or none that can be read, or several.
    Unknown = 3,
}

impl Said {
    pub(super) fn by(headers: &HeaderMap) -> Self {
        match text(headers, &PROTOCOL_VERSION) {
            Text::Absent => Self::Absent,
            Text::Unreadable => Self::Unknown,
            Text::Plain(version) => match Revision::ALL.iter().find(|known| known.as_str() == version) {
                Some(revision) if revision.era() == Era::Modern => Self::Modern,
                Some(_) => Self::Legacy,
                None => Self::Unknown,
            },
        }
    }
}

/// What a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A request whose `_meta` names a protocol version.
    Claim,
    /// `initialize` without such a claim.
    Initialize,
    /// Any other request.
    Request,
    Notification,
    Response,
    /// An array without a claim.
    Batch,
    /// An array in which a request claims to be modern.
    ClaimingBatch,
    /// JSON, but no message.
    Invalid,
}

impl Kind {
    pub(super) fn of(frame: &Frame) -> Self {
        let claims = |envelope: &Envelope| match envelope {
            Envelope::Request(request) => Claim::of_message(&request.message) != Claim::Absent,
            Envelope::Notification(_) | Envelope::Response(_) | Envelope::Invalid { .. } => false,
        };
        match frame {
            Frame::Single(envelope) if claims(envelope) => Self::Claim,
            Frame::Single(Envelope::Request(request)) if request.method == Method::Initialize.as_str() => {
                Self::Initialize
            }
            Frame::Single(Envelope::Request(_)) => Self::Request,
            Frame::Single(Envelope::Notification(_)) => Self::Notification,
            Frame::Single(Envelope::Response(_)) => Self::Response,
            Frame::Single(Envelope::Invalid { .. }) => Self::Invalid,
            Frame::Batch(envelopes) if envelopes.iter().any(claims) => Self::ClaimingBatch,
            Frame::Batch(_) => Self::Batch,
        }
    }
}

/// Where a POST goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// 2026-07-28, which compares the headers first.
    Modern,
    /// A session.
    Legacy,
    /// 202, and nothing else.
    Drop,
    /// 400 with -32020: the header names 2026-07-28, the body opens a session.
    Mismatch,
    /// 400 with -32602: the header names 2026-07-28, the body lacks its envelope.
    NoEnvelope,
    /// 400 with -32022.
    Unsupported,
    /// 400 with -32600.
    NotAMessage,
}

/// The era decision. Columns: the header is absent, names a legacy revision, names 2026-07-28, is anything else.
const ROUTES: &[(Kind, [Route; 4])] = &[
    (Kind::Claim, [Route::Modern; 4]),
    (Kind::Initialize, [Route::Legacy, Route::Legacy, Route::Mismatch, Route::Legacy]),
    (Kind::Request, [Route::Legacy, Route::Legacy, Route::NoEnvelope, Route::Unsupported]),
    (Kind::Notification, [Route::Legacy, Route::Legacy, Route::Drop, Route::Unsupported]),
    (Kind::Response, [Route::Legacy, Route::Legacy, Route::NotAMessage, Route::Unsupported]),
    (Kind::Batch, [Route::Legacy, Route::Legacy, Route::NotAMessage, Route::Unsupported]),
    (Kind::ClaimingBatch, [Route::NotAMessage; 4]),
    (Kind::Invalid, [Route::NotAMessage; 4]),
];

/// Looks the era decision up.
pub(super) fn route(kind: Kind, said: Said) -> Route {
    ROUTES.iter().find(|(of, _)| *of == kind).map_or(Route::NotAMessage, |(_, routes)| routes[said as usize])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::parse_frame;

    #[test]
    fn a_body_is_told_by_its_members_and_its_claim() {
        let claim = r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":1}}}"#;
        let table = [
            (claim.to_owned(), Kind::Claim),
            (r#"{"jsonrpc":"2.0","id":1,"method":"initialize"}"#.to_owned(), Kind::Initialize),
            (r#"{"jsonrpc":"2.0","id":1,"method":"x"}"#.to_owned(), Kind::Request),
            (r#"{"jsonrpc":"2.0","method":"initialize"}"#.to_owned(), Kind::Notification),
            (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#.to_owned(), Kind::Response),
            ("[]".to_owned(), Kind::Batch),
            (format!("[{claim}]"), Kind::ClaimingBatch),
            ("1".to_owned(), Kind::Invalid),
        ];
        for (text, kind) in table {
            assert_eq!(Kind::of(&parse_frame(text.as_bytes()).unwrap()), kind, "{text}");
        }
    }

    #[test]
    fn every_kind_has_one_row() {
        for (kind, _) in ROUTES {
            assert_eq!(ROUTES.iter().filter(|row| row.0 == *kind).count(), 1, "{kind:?}");
        }
        assert_eq!(ROUTES.len(), Kind::Invalid as usize + 1);
    }
}
