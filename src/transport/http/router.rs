//! From path and headers to whoever answers.

use std::{net::IpAddr, sync::Arc};

use http_body::Body as _;
use hyper::{
    Method, StatusCode,
    header::{ALLOW, HeaderName, HeaderValue},
};

use super::{
    Body, Request, Response, body, cors, dashboard,
    discovery::{self, METADATA},
    era::Said,
    health, legacy, post,
    server::Site,
    sse,
};
use crate::{
    access::{Entrant, Principal, Refused},
    scope::{AGENT_NAME, is_agent_name},
    transport::{
        dialect,
        host::PROJECT_NOT_OPEN,
        io::Line,
        websocket::{self, Language},
    },
};

/// What an agent calls itself, where its token does not say.
const AGENT: HeaderName = HeaderName::from_static("tmws-agent");

/// What a path names, under a project or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// `/mcp`
    Mcp,
    /// `/ws`
    WebSocket,
    /// `/sse`
    Sse,
    /// `/messages`
    Messages,
    /// `/ws/mcp`, where it is served
    Dialect,
}

impl Endpoint {
    /// The methods that it knows.
    const fn methods(self) -> &'static str {
        match self {
            Self::Mcp => "POST, GET, DELETE, OPTIONS",
            Self::WebSocket | Self::Sse | Self::Dialect => "GET, OPTIONS",
            Self::Messages => "POST, OPTIONS",
        }
    }

    fn knows(self, method: &Method) -> bool {
        self.methods().split(", ").any(|known| known == method.as_str())
    }
}

/// The project and the endpoint of a path: `/mcp`, `/p/<project>/mcp`, a slash behind it or not. Projects are never
/// percent-encoded: two spellings of one name would be two ways around a proxy's rule.
fn endpoint(path: &str) -> Option<(Option<&str>, Endpoint)> {
    let path = path.strip_suffix('/').unwrap_or(path);
    let (project, rest) = match path.strip_prefix("/p/") {
        Some(rest) => {
            let (project, rest) = rest.split_once('/')?;
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
            if project.is_empty() || !project.bytes().all(is_plain) {
                return None;
            }
            (Some(project), rest)
        }
        None => (None, path.strip_prefix('/')?),
    };
    let endpoint = match rest {
        "mcp" => Endpoint::Mcp,
        "ws" => Endpoint::WebSocket,
        "sse" => Endpoint::Sse,
        "messages" => Endpoint::Messages,
        "ws/mcp" => Endpoint::Dialect,
        _ => return None,
    };
    Some((project, endpoint))
}

/// The same, of what this server serves: what is switched off is not there.
fn served<'a>(site: &Site, path: &'a str) -> Option<(Option<&'a str>, Endpoint)> {
    endpoint(path).filter(|(_, endpoint)| *endpoint != Endpoint::Dialect || site.serves_dialect)
}

/// Who asks, as the socket tells.
#[derive(Clone, Copy)]
pub(super) struct Ends {
    /// The client's address.
    pub(super) peer: IpAddr,
    /// Ours, as the client reached it.
    pub(super) local: IpAddr,
}

/// Answers one request.
pub(super) async fn answer(site: &Arc<Site>, ends: Ends, line: &Arc<Line>, request: Request) -> Response {
    let origin = match site.guard.check(ends.local, request.uri(), request.headers()) {
        Ok(origin) => origin.cloned(),
        Err(offence) => {
            site.host.metrics.refused(offence.rule());
            leave_unread(line, &request);
            let is_post = request.method() == Method::POST;
            return body::refuse(site, is_post, StatusCode::FORBIDDEN, offence.text());
        }
    };
    let mut response = dispatch(site, ends, line, request).await;
    if let Some(origin) = origin {
        cors::expose(&mut response, origin);
    }
    if let Body::Events(events) = response.body_mut() {
        let events = std::mem::replace(events, Box::pin(http_body_util::Empty::new()));
        *response.body_mut() = Body::Events(Box::pin(body::Tracked { events, line: Arc::clone(line) }));
    }
    response
}

async fn dispatch(site: &Arc<Site>, ends: Ends, line: &Arc<Line>, request: Request) -> Response {
    let host = &site.host;
    if let Some(answered) = health::answer(site, ends.peer, &request).await {
        leave_unread(line, &request);
        return answered;
    }
    if let Some(answered) = dashboard::answer(site, ends.peer, &request).await {
        leave_unread(line, &request);
        return answered;
    }
    let path = request.uri().path();
    let is_post = request.method() == Method::POST;
    let Some((project, endpoint)) = served(site, path) else {
        leave_unread(line, &request);
        return elsewhere(site, &request);
    };
    if request.method() == Method::OPTIONS {
        return options(&request, endpoint.methods());
    }
    if !endpoint.knows(request.method()) {
        leave_unread(line, &request);
        return not_allowed(endpoint.methods());
    }
    let entrant = match enter(site, ends, project, endpoint, &request) {
        Ok(entrant) => entrant,
        Err(Kept::Agent) => {
            leave_unread(line, &request);
            let place = match endpoint {
                Endpoint::Dialect => "the query's agent_id, once, or the header X-Agent-ID or Tmws-Agent,",
                _ => "the header Tmws-Agent",
            };
            let reason = format!("{place} names an agent: {AGENT_NAME}");
            return body::refuse(site, is_post, StatusCode::BAD_REQUEST, &reason);
        }
        Err(Kept::Elsewhere(principal)) => {
            leave_unread(line, &request);
            host.forbid(ends.peer, &principal, PROJECT_NOT_OPEN, None, None);
            return body::refuse(site, is_post, StatusCode::FORBIDDEN, &Refused::Project.to_string());
        }
        Err(Kept::Out(refused)) => {
            leave_unread(line, &request);
            host.turn_away(ends.peer, refused);
            return discovery::unauthorized(site, request.headers(), path, is_post, refused);
        }
    };
    match endpoint {
        Endpoint::Mcp if is_post => post::post(site, &entrant, line, request).await,
        Endpoint::Mcp => match Said::by(request.headers()) {
            Said::Absent | Said::Legacy => Box::pin(legacy::other(site, &entrant, request)).await,
            // 2026-07-28 has neither streams of its own nor sessions to delete.
            Said::Modern => not_allowed("POST"),
            Said::Unknown => body::text(
                StatusCode::BAD_REQUEST,
                "the header MCP-Protocol-Version names no revision that is served here",
            ),
        },
        Endpoint::WebSocket => websocket::upgrade(Arc::clone(host), entrant, request, Language::Mcp),
        Endpoint::Dialect => websocket::upgrade(Arc::clone(host), entrant, request, Language::Dialect),
        Endpoint::Sse | Endpoint::Messages => Box::pin(sse::answer(site, &entrant, line, request)).await,
    }
}

/// The request is answered without its body being read.
fn leave_unread(line: &Line, request: &Request) {
    if !request.body().is_end_stream() {
        line.linger();
    }
}

/// Why somebody stays out.
enum Kept {
    Agent,
    /// 401
    Out(Refused),
    /// 403: the project is not open to this one.
    Elsewhere(Arc<Principal>),
}

fn enter(
    site: &Site,
    ends: Ends,
    project: Option<&str>,
    endpoint: Endpoint,
    request: &Request,
) -> Result<Entrant, Kept> {
    let access = &site.host.access;
    let agent = match endpoint {
        Endpoint::Dialect => dialect::agent(request.uri(), request.headers(), &AGENT),
        _ => request.headers().get(AGENT).map(|agent| agent.to_str().unwrap_or_default().into()),
    };
    if agent.as_deref().is_some_and(|agent| !is_agent_name(agent)) {
        return Err(Kept::Agent);
    }
    let principal = access.authenticate(request.headers()).map_err(Kept::Out)?;
    access.enter(&principal, project, agent.as_deref(), ends.peer).map_err(|_| Kept::Elsewhere(principal))
}

/// Paths that are no endpoint: metadata, or nothing.
fn elsewhere(site: &Site, request: &Request) -> Response {
    let path = request.uri().path();
    // A resource that nobody needs a token for is not protected: clients that find its metadata would look for one.
    let Some(resource) = path.strip_prefix(METADATA).filter(|_| site.host.access.needs_token()) else {
        return body::text(
            StatusCode::NOT_FOUND,
            "nothing is here: MCP is at /mcp and /ws, the dashboard at /",
        );
    };
    if !matches!(resource, "" | dashboard::PAGE | dashboard::FIGURES | health::METRICS)
        && served(site, resource).is_none()
    {
        return body::text(StatusCode::NOT_FOUND, "no such resource");
    }
    match *request.method() {
        Method::GET => discovery::metadata(site, request.headers(), resource),
        Method::OPTIONS => options(request, "GET, OPTIONS"),
        _ => not_allowed("GET, OPTIONS"),
    }
}

fn options(request: &Request, methods: &'static str) -> Response {
    if cors::is_preflight(request.method(), request.headers()) {
        return cors::preflight(request.headers(), methods);
    }
    let mut response = body::empty(StatusCode::NO_CONTENT);
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    response
}

/// 405.
pub(super) fn not_allowed(methods: &'static str) -> Response {
    let mut response =
        body::text(StatusCode::METHOD_NOT_ALLOWED, format!("only these methods are served here: {methods}"));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_an_endpoint_in_a_project_or_nothing() {
        let table = [
            ("/mcp", Some((None, Endpoint::Mcp))),
            ("/mcp/", Some((None, Endpoint::Mcp))),
            ("/ws", Some((None, Endpoint::WebSocket))),
            ("/sse", Some((None, Endpoint::Sse))),
            ("/messages", Some((None, Endpoint::Messages))),
            ("/ws/mcp", Some((None, Endpoint::Dialect))),
            ("/p/web/ws/mcp/", Some((Some("web"), Endpoint::Dialect))),
            ("/ws/mcp/x", None),
            ("/ws/", Some((None, Endpoint::WebSocket))),
            ("/p/p_0a/mcp", Some((Some("p_0a"), Endpoint::Mcp))),
            ("/p/team.x-1/ws/", Some((Some("team.x-1"), Endpoint::WebSocket))),
            ("/p/a%2fb/mcp", None),
            ("/p/%61/mcp", None),
            ("/p//mcp", None),
            ("/p/a", None),
            ("/p/a/b/mcp", None),
            ("/MCP", None),
            ("/mcp//", None),
            ("/", None),
            ("*", None),
            ("", None),
        ];
        for (path, expected) in table {
            assert_eq!(endpoint(path), expected, "{path}");
        }
    }
}
