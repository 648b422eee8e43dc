//! Who speaks which revision: `initialize`, `server/discover`, `ping`.

use serde_json::{Map, Value, json};

use super::{
    CacheHint, Client, Connection, batch::Slot, connection::Session, fit, incoming::text, rules::Situation,
};
use crate::{
    revision::Revision,
    wire::{Method, Request, RequestId},
};

/// The revision that answers an offer: the offered one where it has a handshake, else our newest that has.
///
/// Never an error: the client decides whether it can live with the answer.
pub(super) fn negotiate(offered: &str) -> Revision {
    Revision::LEGACY
        .into_iter()
        .find(|revision| revision.as_str() == offered)
        .unwrap_or(Revision::LATEST_LEGACY)
}

impl Connection {
    /// Opens the legacy session. Done at once, so that what was sent right behind finds it.
    pub(super) fn initialize(&mut self, request: Request, slot: Option<Slot>) {
        let offered = request.params().and_then(|params| text(params, "protocolVersion")).unwrap_or_default();
        let revision = negotiate(offered);
        let admitted = match self.gate.admit_request(revision, Method::Initialize, request) {
            Ok(admitted) => admitted,
            Err((id, violation)) => {
                return self.refuse(
                    None,
                    &id,
                    slot,
                    Situation::BadParams,
                    format!("invalid params: {violation}"),
                );
            }
        };
        let member = |key: &str| admitted.params().get(key).and_then(Value::as_object).cloned();
        let client = Client {
            revision,
            info: member("clientInfo"),
            capabilities: member("capabilities").unwrap_or_default(),
        };
        self.session = Some(Session::open(client));
        let mut result = Map::new();
        result.insert("protocolVersion".to_owned(), json!(revision.as_str()));
        result.insert(
            "capabilities".to_owned(),
            fit::capabilities(revision, &self.profile.capabilities).into(),
        );
        result
            .insert("serverInfo".to_owned(), fit::implementation(revision, &self.profile.server_info).into());
        self.insert_instructions(&mut result);
        self.answer_result(revision, Method::Initialize, admitted.id(), slot, result);
    }

    /// Answers `server/discover`. Changes nothing: a client may discover and then open a session.
    pub(super) fn discover(&mut self, revision: Revision, id: &RequestId, slot: Option<Slot>) {
        let supported: Vec<&str> = Revision::MODERN.iter().map(|revision| revision.as_str()).collect();
        let mut result = Map::new();
        result.insert("supportedVersions".to_owned(), json!(supported));
        result.insert(
            "capabilities".to_owned(),
            fit::capabilities(revision, &self.profile.capabilities).into(),
        );
        self.insert_instructions(&mut result);
        self.answer_result(revision, Method::ServerDiscover, id, slot, result);
    }

    fn insert_instructions(&self, result: &mut Map<String, Value>) {
        if let Some(instructions) = &self.profile.instructions {
            result.insert("instructions".to_owned(), json!(instructions));
        }
    }

    /// Answers a legacy `ping`, in any state.
    pub(super) fn ping(&mut self, request: Request, slot: Option<Slot>) {
        let session = self.session_revision();
        let revision = session.unwrap_or(Revision::LATEST_LEGACY);
        match self.gate.admit_request(revision, Method::Ping, request) {
            Ok(admitted) => self.answer_result(revision, Method::Ping, admitted.id(), slot, Map::new()),
            Err((id, violation)) => {
                self.refuse(session, &id, slot, Situation::BadParams, format!("invalid params: {violation}"));
            }
        }
    }

    /// The cache hint that a modern result of `method` must carry, if it must.
    pub(super) fn cache_hint(&self, method: Method) -> Option<CacheHint> {
        match method {
            Method::ServerDiscover
            | Method::ToolsList
            | Method::PromptsList
            | Method::ResourcesList
            | Method::ResourcesTemplatesList => Some(self.profile.list_cache),
            Method::ResourcesRead => Some(self.profile.read_cache),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offer_is_echoed_where_it_has_a_handshake_and_countered_otherwise() {
        for revision in Revision::LEGACY {
            assert_eq!(negotiate(revision.as_str()), revision);
        }
        for offered in ["2026-07-28", "2024-10-07", "2099-01-01", "", "latest", "2025-11-25 "] {
            assert_eq!(negotiate(offered), Revision::V2025_11_25, "{offered}");
        }
    }
}
