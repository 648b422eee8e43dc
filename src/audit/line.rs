//! What stands in a line.

use std::{net::IpAddr, sync::Arc, time::Duration};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::Digester;
use crate::{
    schema::Admitted,
    scope::{ProjectId, Scope},
    tool::{ConnectionId, Origin},
    wire::Method,
};

/// Longest name that a line repeats; what is longer, or no name at all, is left out.
const NAME_BYTES_MAX: usize = 128;
const MICROS_PER_MILLI: f64 = 1_000.0;

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With its result.
    Ok,
    /// With a question to the client.
    Asked,
    /// With an error: its code.
    Failed(&'static str),
    /// The client gave it up, or left.
    Cancelled,
}

/// One call.
pub struct CallLine {
    /// When it came.
    pub at: Timestamp,
    /// Whose it was.
    pub scope: Scope,
    /// The connection that it came on.
    pub connection: ConnectionId,
    /// Where that comes from.
    pub origin: Origin,
    /// What was asked. Only a digest of its arguments is written.
    pub request: Arc<Admitted>,
    /// How it ended.
    pub outcome: Outcome,
    /// After so long.
    pub elapsed: Duration,
}

/// What happens beside calls.
#[derive(Clone, Debug)]
pub enum Event {
    /// A session was opened for a client.
    LetIn {
        /// Whose.
        scope: Scope,
        /// Its connection.
        connection: ConnectionId,
        /// Where that comes from.
        origin: Origin,
    },
    /// Somebody was not let in.
    Refused {
        /// The address.
        peer: IpAddr,
        /// Which rule: never what was presented.
        reason: &'static str,
        /// Who it was, where the token was good.
        principal: Option<Box<str>>,
        /// Where, if they may enter there.
        project: Option<ProjectId>,
        /// What they asked for there.
        method: Option<Method>,
    },
    /// The token file was read again.
    TokensReloaded {
        /// Whether it could be used; else the tokens known before go on being valid.
        succeeded: bool,
    },
}

/// A line in the queue.
pub(super) enum Line {
    Call { weight: usize, line: Box<CallLine> },
    Event { at: Timestamp, event: Event },
}

/// As written. What there is nothing to say of is left out.
#[derive(Default, Serialize)]
struct Written<'a> {
    time: String,
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    principal: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    project: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    method: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pattern: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uri_kind: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    arguments: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ms: Option<f64>,
}

impl<'a> Written<'a> {
    fn of(event: &'static str, at: Timestamp) -> Self {
        Self { time: format!("{at:.3}"), event, ..Self::default() }
    }

    fn by(self, scope: &'a Scope, connection: ConnectionId, origin: Origin, digester: &Digester) -> Self {
        Self {
            principal: Some(scope.principal()),
            agent: Some(scope.agent()),
            project: Some(scope.project().as_str()),
            session: scope.session().map(|session| digester.session(session)),
            connection: Some(connection.0),
            peer: origin.peer,
            ..self
        }
    }

    fn append_to(&self, text: &mut Vec<u8>) {
        serde_json::to_writer(&mut *text, self).expect("texts and numbers are always written");
        text.push(b'\n');
    }
}

impl Line {
    /// How much of the queue it takes.
    pub(super) const fn weight(&self) -> usize {
        match self {
            Self::Call { weight, .. } => *weight,
            Self::Event { .. } => 1,
        }
    }

    /// Appends it as one line of JSON.
    pub(super) fn append_to(&self, text: &mut Vec<u8>, digester: &Digester) {
        match self {
            Self::Call { line, .. } => append_call(line, text, digester),
            Self::Event { at, event } => match event {
                Event::LetIn { scope, connection, origin } => {
                    Written::of("let_in", *at).by(scope, *connection, *origin, digester).append_to(text);
                }
                Event::Refused { peer, reason, principal, project, method } => Written {
                    principal: principal.as_deref(),
                    project: project.as_ref().map(ProjectId::as_str),
                    peer: Some(*peer),
                    method: method.map(Method::as_str),
                    reason: Some(reason),
                    ..Written::of("refused", *at)
                }
                .append_to(text),
                Event::TokensReloaded { succeeded } => Written {
                    outcome: Some(if *succeeded { "ok" } else { "failed" }),
                    ..Written::of("tokens_reloaded", *at)
                }
                .append_to(text),
            },
        }
    }
}

/// Appends how many events were left out.
pub(super) fn append_left_out(count: u64, at: Timestamp, text: &mut Vec<u8>) {
    Written { count: Some(count), ..Written::of("events_left_out", at) }.append_to(text);
}

fn append_call(line: &CallLine, text: &mut Vec<u8>, digester: &Digester) {
    let params = line.request.params();
    let named = |key: &str| params.get(key).and_then(Value::as_str).and_then(name);
    let mut written = Written {
        method: Some(line.request.method().as_str()),
        outcome: Some(match line.outcome {
            Outcome::Ok => "ok",
            Outcome::Asked => "input_required",
            Outcome::Failed(code) => code,
            Outcome::Cancelled => "cancelled",
        }),
        ms: Some(line.elapsed.as_micros() as f64 / MICROS_PER_MILLI),
        ..Written::of("call", line.at).by(&line.scope, line.connection, line.origin, digester)
    };
    let secret = match line.request.method() {
        Method::ToolsCall => {
            written.tool = named("name");
            let arguments = params.get("arguments");
            written.pattern =
                arguments.and_then(|given| given.get("pattern")).and_then(Value::as_str).and_then(name);
            arguments
        }
        Method::PromptsGet => {
            written.prompt = named("name");
            params.get("arguments")
        }
        Method::ResourcesRead => {
            let uri = params.get("uri").and_then(Value::as_str).unwrap_or_default();
            written.uri_kind = uri.split_once(':').and_then(|(scheme, _)| name(scheme));
            params.get("uri")
        }
        _ => None,
    };
    written.arguments = secret.map(|value| digester.value(value));
    written.append_to(text);
}

/// The text, where it could be the name of a tool, pattern or prompt, or a scheme: what a client chose freely is not
/// repeated.
fn name(text: &str) -> Option<&str> {
    let fits = !text.is_empty()
        && text.len() <= NAME_BYTES_MAX
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-@+/".contains(&byte));
    fits.then_some(text)
}
