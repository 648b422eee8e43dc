//! Where a client connects, and as whom.

use crate::accept::stage::{Instance, Person};

/// A server's address and what opens it.
#[derive(Clone)]
pub struct Target {
    /// A name or an address, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Whether TLS is spoken.
    pub is_tls: bool,
    /// It is spoken to over Streamable HTTP, where both are possible.
    pub is_http: bool,
    /// Of the WebSocket, and of Streamable HTTP.
    pub socket_path: String,
    /// The path of Streamable HTTP.
    pub http_path: String,
    /// The bearer token, where one is needed.
    pub token: Option<String>,
    /// Beyond those that every request has; one of the same name stands instead.
    pub headers: Vec<(String, String)>,
}

impl Target {
    /// `person` in the project `project` of an instance.
    #[must_use]
    pub fn of(instance: &Instance, person: Person, project: &str) -> Self {
        Self {
            host: instance.address.ip().to_string(),
            port: instance.address.port(),
            is_tls: false,
            is_http: false,
            socket_path: format!("/p/{project}/ws"),
            http_path: format!("/p/{project}/mcp"),
            token: Some(person.token()),
            headers: Vec::new(),
        }
    }

    /// The same server at another port: through a proxy.
    #[must_use]
    pub fn through(&self, port: u16) -> Self {
        Self { port, ..self.clone() }
    }

    /// The server at a URL: `ws://`, `wss://`, `http://` or `https://`.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(url: &str, token: Option<String>) -> Result<Self, String> {
        let (scheme, rest) =
            url.split_once("://").ok_or("it begins with ws://, wss://, http:// or https://")?;
        let is_tls = match scheme {
            "ws" | "http" => false,
            "wss" | "https" => true,
            other => return Err(format!("{other}:// is none of ws://, wss://, http://, https://")),
        };
        let (place, path) = match rest.find('/') {
            Some(at) => (&rest[..at], &rest[at..]),
            None => (rest, "/"),
        };
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => {
                (host, port.parse().map_err(|_| format!("{port} is no port"))?)
            }
            _ => (place, if is_tls { 443 } else { 80 }),
        };
        if host.is_empty() {
            return Err("it names no host".to_owned());
        }
        Ok(Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
            is_tls,
            is_http: scheme.starts_with("http"),
            socket_path: path.to_owned(),
            http_path: path.to_owned(),
            token,
            headers: Vec::new(),
        })
    }

    /// The value of `Host`.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}
