//! Where the server is, which project is joined there, and who says so.

use std::{ffi::OsString, fmt, net::IpAddr};

use hyper::{Uri, header::HeaderValue, http::uri::Authority};
use serde::{Deserialize, Serialize};

use super::plan::{Plan, authorization, token_text};

use crate::{
    config::Config,
    dial::percent_decoded,
    engine::{RootSources, Workspace, project_of, resolve_root},
};

/// Variable of the environment that holds the token.
pub const TOKEN_VARIABLE: &str = "TMWS_TOKEN";

/// Which project of the server is joined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Project {
    /// That of the workspace, derived here as a stdio server derives it.
    OfWorkspace,
    /// This one: an id, or an alias that the server knows.
    Named(String),
    /// The server's default one.
    Default,
}

/// Why the address cannot be used. Never quotes what stands before the `@`.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// Not an address at all.
    #[error(
        "this is no address of a server; ws://, wss://, http:// and https:// are understood, as in ws://127.0.0.1:7337"
    )]
    Address,
    /// Another scheme.
    #[error("`{0}://` is not understood; ws://, wss://, http:// and https:// are")]
    Scheme(String),
    /// `--project` with a path of its own.
    #[error("the address names the endpoint {0} already; `--project` goes with an address without a path")]
    PathAndProject(String),
    /// The project's name cannot stand in a path.
    #[error("a project's name has letters, digits, `_`, `-` and `.`, at most 64")]
    Project,
    /// The token cannot stand in a header.
    #[error("the token from {0} has characters that no header can carry")]
    Token(TokenOrigin),
}

/// Where the token came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TokenOrigin {
    /// Nobody gave one.
    None,
    /// The address.
    Address,
    /// [`TOKEN_VARIABLE`].
    Environment,
    /// The file of a server on this machine.
    LocalFile,
}

impl fmt::Display for TokenOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "nowhere",
            Self::Address => "the address",
            Self::Environment => TOKEN_VARIABLE,
            Self::LocalFile => "the local token file",
        })
    }
}

/// How the server is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Transport {
    WebSocket,
    Http,
}

/// A server, ready to be dialled.
pub(crate) struct Target {
    pub(crate) transport: Transport,
    pub(crate) tls: bool,
    /// Without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// As the `Host` header has it.
    pub(crate) authority: String,
    pub(crate) path: String,
    /// `Authorization`, marked as sensitive.
    pub(crate) authorization: Option<HeaderValue>,
    pub(super) token_origin: TokenOrigin,
    pub(super) agent: Option<HeaderValue>,
}

/// The address without anything secret.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match (self.transport, self.tls) {
            (Transport::WebSocket, false) => "ws",
            (Transport::WebSocket, true) => "wss",
            (Transport::Http, false) => "http",
            (Transport::Http, true) => "https",
        };
        write!(f, "{scheme}://{}{}", self.authority, self.path)
    }
}

/// What an address says by itself.
struct Address {
    uri: Uri,
    transport: Transport,
    tls: bool,
    host: String,
    port: u16,
    /// Without what stands before the `@`.
    authority: String,
    token: Option<String>,
}

impl Address {
    fn read(url: &str) -> Result<Self, TargetError> {
        let uri: Uri = url.parse().map_err(|_| TargetError::Address)?;
        let (transport, tls) = match uri.scheme_str() {
            Some("ws") => (Transport::WebSocket, false),
            Some("wss") => (Transport::WebSocket, true),
            Some("http") => (Transport::Http, false),
            Some("https") => (Transport::Http, true),
            Some(other) => return Err(TargetError::Scheme(other.chars().take(20).collect())),
            None => return Err(TargetError::Address),
        };
        let authority = uri.authority().ok_or(TargetError::Address)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(TargetError::Address);
        }
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let token = userinfo(authority);
        let bare = authority.as_str().rsplit_once('@').map_or(authority.as_str(), |(_, bare)| bare);
        let authority = bare.to_owned();
        Ok(Self { uri, transport, tls, host, port, authority, token })
    }
}

impl Plan {
    /// Reads `url` and finds out what it leaves open. `local_token` is asked for a server on this machine only.
    pub(super) fn new(
        url: &str,
        project: &Project,
        token: Option<OsString>,
        config: &Config,
        local_token: impl FnOnce() -> Option<String>,
    ) -> Result<Self, TargetError> {
        let Address { uri, transport, tls, host, port, authority, token: given } = Address::read(url)?;
        let (token, token_origin) = match (given, token) {
            (Some(token), _) => (Some(token), TokenOrigin::Address),
            (None, Some(token)) => {
                let origin = TokenOrigin::Environment;
                (Some(token_text(token)?), origin)
            }
            (None, None) => match is_loopback(&host).then(local_token).flatten() {
                Some(token) => (Some(token), TokenOrigin::LocalFile),
                None => (None, TokenOrigin::None),
            },
        };
        Ok(Self {
            transport,
            tls,
            port,
            authority,
            path: path(&uri, transport, project, config)?,
            host,
            token_origin,
            agent: config.agent.clone(),
            frame_bytes_max: config.connection.frame_in_bytes_max,
            drain: config.shutdown.drain,
            exit: config.shutdown.exit,
            log: config.log.clone(),
            log_format: config.log_format,
            token,
        })
    }
}

impl Target {
    /// The server at `url`, whatever its paths mean there; the token is that of the address, else `token`.
    pub(crate) fn at(url: &str, token: Option<OsString>) -> Result<Self, TargetError> {
        let Address { uri, transport, tls, host, port, authority, token: given } = Address::read(url)?;
        let (token, token_origin) = match (given, token) {
            (Some(token), _) => (Some(token), TokenOrigin::Address),
            (None, Some(token)) => (Some(token_text(token)?), TokenOrigin::Environment),
            (None, None) => (None, TokenOrigin::None),
        };
        let authorization = token.map(|token| authorization(&token, token_origin)).transpose()?;
        let path = uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
        Ok(Self { transport, tls, host, port, authority, path, authorization, token_origin, agent: None })
    }

    /// Whether the server is on this machine.
    pub(super) fn is_local(&self) -> bool {
        is_loopback(&self.host)
    }

    /// Whether a token would travel where others can read it.
    pub(super) fn exposes_token(&self) -> bool {
        self.authorization.is_some() && !self.tls && !self.is_local()
    }
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The token before the `@`: the password, or the user where that is all.
fn userinfo(authority: &Authority) -> Option<String> {
    let (userinfo, _) = authority.as_str().rsplit_once('@')?;
    let token = userinfo.split_once(':').map_or(userinfo, |(_, password)| password);
    (!token.is_empty()).then(|| percent_decoded(token))
}

/// The endpoint: the address's own, or that of the project.
fn path(uri: &Uri, transport: Transport, project: &Project, config: &Config) -> Result<String, TargetError> {
    let endpoint = match transport {
        Transport::WebSocket => "ws",
        Transport::Http => "mcp",
    };
    let query = uri.query().map_or_else(String::new, |query| format!("?{query}"));
    if !matches!(uri.path(), "" | "/" | "/ws" | "/mcp") {
        if let Project::Named(_) = project {
            return Err(TargetError::PathAndProject(uri.path().to_owned()));
        }
        return Ok(format!("{}{query}", uri.path()));
    }
    let id = match project {
        Project::Named(id) => {
            Some(crate::scope::ProjectId::parse(id).ok_or(TargetError::Project)?.as_str().to_owned())
        }
        Project::Default => None,
        Project::OfWorkspace => workspace_project(config),
    };
    Ok(id.map_or_else(|| format!("/{endpoint}{query}"), |id| format!("/p/{id}/{endpoint}{query}")))
}

/// The project of the workspace, as a stdio server with the same settings has it.
fn workspace_project(config: &Config) -> Option<String> {
    let given = !config.is_default("root");
    let root = config.root.as_path();
    let sources = RootSources {
        tmws_root: given.then_some(root),
        cwd: (!given).then_some(root),
        home: config.home.as_deref(),
        ..RootSources::default()
    };
    match resolve_root(&sources) {
        Workspace::Root(root) => Some(project_of(&root, config.home.as_deref()).as_str().to_owned()),
        Workspace::None { reason } => {
            tracing::debug!(reason, "no workspace: the server's default project is joined");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, load};

    fn config(folder: &std::path::Path) -> Config {
        let mut sources = Sources { working_directory: folder.to_owned(), ..Sources::default() };
        sources.environment.insert("HOME".to_owned(), folder.join("home").into());
        load(&sources).unwrap()
    }

    fn target(
        url: &str,
        project: &Project,
        token: Option<&str>,
        local: Option<&str>,
    ) -> Result<Target, TargetError> {
        let folder = tempfile::tempdir().unwrap();
        let local = local.map(str::to_owned);
        Plan::new(url, project, token.map(OsString::from), &config(folder.path()), || local)?.target()
    }

    #[test]
    fn the_path_names_the_project_unless_it_is_taken_as_it_is() {
        let named = Project::Named("web".to_owned());
        let table = [
            ("ws://h:1", &named, "ws://h:1/p/web/ws"),
            ("wss://h/", &named, "wss://h/p/web/ws"),
            ("http://h/mcp", &named, "http://h/p/web/mcp"),
            ("https://[::1]:9/ws", &named, "https://[::1]:9/p/web/mcp"),
            ("ws://h/ws?a=b", &Project::Default, "ws://h/ws?a=b"),
            ("http://h", &Project::Default, "http://h/mcp"),
            ("http://h/other/mcp", &Project::OfWorkspace, "http://h/other/mcp"),
        ];
        for (url, project, expected) in table {
            assert_eq!(target(url, project, None, None).unwrap().to_string(), expected, "{url}");
        }
        let workspace = target("ws://h", &Project::OfWorkspace, None, None).unwrap();
        assert!(workspace.path.starts_with("/p/p_"), "{}", workspace.path);
    }

    #[test]
    fn the_nearest_token_wins_and_is_never_shown() {
        let table = [
            ("ws://x:S%65cret@127.0.0.1", Some("e"), "Bearer Secret", TokenOrigin::Address),
            ("ws://Secret@127.0.0.1", Some("e"), "Bearer Secret", TokenOrigin::Address),
            ("ws://127.0.0.1", Some("Secret"), "Bearer Secret", TokenOrigin::Environment),
            ("ws://localhost", None, "Bearer local", TokenOrigin::LocalFile),
        ];
        for (url, token, header, origin) in table {
            let target = target(url, &Project::Default, token, Some("local")).unwrap();
            assert_eq!(target.authorization.as_ref().unwrap(), header, "{url}");
            assert_eq!(target.token_origin, origin, "{url}");
            assert!(!target.to_string().contains("ecret"), "{target}");
            assert!(!target.exposes_token());
        }
        let far = target("ws://example.org", &Project::Default, None, Some("local")).unwrap();
        assert!(far.authorization.is_none(), "the local token stays on this machine");
        assert!(target("ws://x:t@example.org", &Project::Default, None, None).unwrap().exposes_token());
    }

    #[test]
    fn a_wrong_address_is_refused_without_its_secret() {
        let named = Project::Named("web".to_owned());
        for (url, project) in [
            ("ftp://x:Secret@h", &Project::Default),
            ("x:Secret@h", &Project::Default),
            ("ws://", &Project::Default),
            ("ws://x:Secret@h/elsewhere", &named),
            ("ws://x:Secret@h", &Project::Named("a/b".to_owned())),
            ("ws://x:Sec%0aret@h", &Project::Default),
        ] {
            let error = target(url, project, None, None).err().expect(url).to_string();
            assert!(!error.contains("Secret"), "{error}");
        }
    }
}
