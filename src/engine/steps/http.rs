//! `http.get`: fetches from the hosts that the pattern's permissions name.
//!
//! | step | value |
//! |---|---|
//! | `http.get` | `{status, url, content_type, bytes, text \| json \| binary, truncated, encoding?, lossy?}`; `url` is where redirects ended; `json` where the content says that it is JSON, `binary: true` instead of content that is no text |
//!
//! A status of 400 and more is data. Content is cut at `max_bytes` (default 1 MiB), and never unpacked.
//!
//! Each URL, redirects included, must be of an allowed host; its name is resolved, every address that it has is looked at
//! (`address`), and the connection goes to one of those very addresses. Nothing of the caller or of this process is
//! sent: no token, no cookie, no referrer, and no proxy of the environment is used.

mod address;
mod fetch;

use std::{
    fmt, io,
    net::IpAddr,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use reqwest::Url;
use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer};
use serde_json::{Map, Value, json};

use self::fetch::{Fetched, fetch};
use super::{ENDS_EARLY, StepContext, StepError, StepOutput, arguments::Arguments};
use crate::{
    engine::ErrorKind,
    pattern::host::{self, HostRule},
    resilience::{self, BackendKind, Pauses},
};

/// Bytes of content taken unless said, and at most.
const CONTENT_BYTES: usize = 1 << 20;
const CONTENT_BYTES_MAX: usize = 16 << 20;
/// Redirects followed.
const REDIRECTS_MAX: usize = 5;
/// Longest `accept`, in bytes.
const ACCEPT_BYTES_MAX: usize = 200;

/// Finds the addresses of a name.
#[async_trait]
pub trait Names: Send + Sync {
    /// All of its addresses, in the order that they should be tried.
    async fn addresses(&self, name: &str) -> io::Result<Vec<IpAddr>>;
}

/// The system's resolver.
struct SystemNames;

#[async_trait]
impl Names for SystemNames {
    async fn addresses(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        Ok(tokio::net::lookup_host((name, 0)).await?.map(|address| address.ip()).collect())
    }
}

/// The way to HTTP hosts. Nothing is opened or read before the first fetch.
pub struct Http {
    private_hosts: Vec<HostRule>,
    names: Arc<dyn Names>,
    roots: Option<Vec<CertificateDer<'static>>>,
    tls: OnceLock<Arc<ClientConfig>>,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("private_hosts", &self.private_hosts).finish_non_exhaustive()
    }
}

impl Default for Http {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Http {
    /// Private addresses are reached for `private_hosts` only.
    #[must_use]
    pub fn new(private_hosts: Vec<HostRule>) -> Self {
        Self { private_hosts, names: Arc::new(SystemNames), roots: None, tls: OnceLock::new() }
    }

    /// The same with another resolver.
    #[must_use]
    pub fn with_names(self, names: Arc<dyn Names>) -> Self {
        Self { names, ..self }
    }

    /// The same, trusting `roots` instead of the machine's root certificates.
    #[must_use]
    pub fn with_roots(self, roots: Vec<CertificateDer<'static>>) -> Self {
        Self { roots: Some(roots), ..self }
    }

    fn allows_private(&self, url: &Url) -> bool {
        self.private_hosts.iter().any(|rule| rule.is_of(url))
    }

    /// How TLS is spoken. Reads the machine's root certificates the first time.
    async fn tls(&self) -> io::Result<Arc<ClientConfig>> {
        if let Some(tls) = self.tls.get() {
            return Ok(Arc::clone(tls));
        }
        let certificates = match &self.roots {
            Some(roots) => roots.clone(),
            None => tokio::task::spawn_blocking(|| rustls_native_certs::load_native_certs().certs)
                .await
                .map_err(io::Error::other)?,
        };
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates);
        if roots.is_empty() {
            return Err(io::Error::other(
                "no root certificate was found on this machine; SSL_CERT_FILE names a file of them",
            ));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::clone(self.tls.get_or_init(|| Arc::new(config))))
    }
}

/// Runs the step `uses`.
///
/// # Errors
/// `denied` for a host that is not allowed or an address that may not be reached, `invalid_input`, `program_failed` where
/// the host cannot be reached or does not speak HTTP, `deadline`, `cancelled`. No message holds a URL.
pub async fn run(
    uses: &str,
    context: &StepContext,
    with: &Map<String, Value>,
) -> Result<StepOutput, StepError> {
    let args = Arguments::new(uses, with);
    let url = host::url(args.text("url")?, None).map_err(|fault| args.refuse("url", fault))?;
    let accept = args.text_or_none("accept")?.unwrap_or("*/*");
    if accept.len() > ACCEPT_BYTES_MAX || !accept.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
        return Err(args.wrong("accept", "media types, such as application/json"));
    }
    let most = CONTENT_BYTES_MAX.min(context.bytes_max);
    let max = args.count("max_bytes", CONTENT_BYTES.min(most), 1, CONTENT_BYTES_MAX)?.min(most);
    let allowed: Vec<HostRule> =
        context.permissions.http.iter().filter_map(|host| HostRule::parse(host).ok()).collect();
    let deadline = context.deadline.checked_sub(ENDS_EARLY).unwrap_or(context.deadline);
    let way = Way { context, accept, bytes_max: max, deadline };
    tokio::select! {
        biased;
        () = context.cancel.cancelled() => Err(StepError::new(ErrorKind::Cancelled, "cancelled by the caller")),
        fetched = resilience::by(deadline, follow(&way, &allowed, url)) => fetched
            .unwrap_or_else(|_| Err(StepError::new(
                ErrorKind::Deadline,
                "the host took longer than the step may; ask for less, or allow more time",
            )))
            .map(output),
    }
}

/// How one step fetches.
struct Way<'a> {
    context: &'a StepContext,
    accept: &'a str,
    bytes_max: usize,
    deadline: Instant,
}

impl Way<'_> {
    /// Fetches `url` behind its host's guard; again, where the host was not reached, or asks for that with a 503.
    async fn fetch(&self, url: &Url) -> Result<Fetched, StepError> {
        let outside = &self.context.outside;
        let guard = outside.backends.guard(BackendKind::Host, &host_of(url));
        let mut pauses = Pauses::of_a_read();
        loop {
            let entry = guard.enter(self.deadline).await?;
            let mut is_connected = false;
            let fetching = fetch(&outside.http, url.clone(), self.accept, self.bytes_max, &mut is_connected);
            let result = fetching.await;
            let again = match &result {
                Ok(fetched) if matches!(fetched.status, 502..=504) => {
                    entry.fail(None, "it answered 502, 503 or 504");
                    fetched.retry_after.filter(|_| fetched.status == 503)
                }
                Ok(_) => {
                    entry.succeed();
                    None
                }
                // It was not asked: its address may not be reached.
                Err(error) if error.kind == ErrorKind::Denied => {
                    entry.dismiss();
                    None
                }
                Err(_) => {
                    entry.fail(None, "it was not reached, or did not answer");
                    (!is_connected).then_some(Duration::ZERO)
                }
            };
            match again {
                Some(at_least) if pauses.wait(&guard, at_least, self.deadline).await => {}
                _ => return result,
            }
        }
    }
}

/// Fetches `url`, and what it redirects to.
async fn follow(way: &Way<'_>, allowed: &[HostRule], mut url: Url) -> Result<Fetched, StepError> {
    for followed in 0..=REDIRECTS_MAX {
        let named = host_of(&url);
        if !allowed.iter().any(|rule| rule.admits(&url)) {
            let how = if followed > 0 { "a redirect leads to " } else { "" };
            return Err(StepError::new(
                ErrorKind::Denied,
                format!("{how}{named}, which is not among the hosts in permissions.http"),
            ));
        }
        let fetched = way.fetch(&url).await?;
        let Some(location) = fetched.location else { return Ok(fetched) };
        let refuse =
            |kind, why: &str| Err(StepError::new(kind, format!("{named} redirects to a URL that {why}")));
        let next = match location
            .to_str()
            .map_err(|_| "is no text".to_owned())
            .and_then(|text| host::url(text, Some(&url)))
        {
            Ok(next) => next,
            Err(fault) => return refuse(ErrorKind::Denied, &fault),
        };
        if url.scheme() == "https" && next.scheme() == "http" {
            return refuse(ErrorKind::Denied, "is not encrypted, though the first one is");
        }
        url = next;
    }
    Err(StepError::new(
        ErrorKind::ProgramFailed,
        format!("{} redirects more than {REDIRECTS_MAX} times", host_of(&url)),
    ))
}

/// Host and port of `url`, for messages.
fn host_of(url: &Url) -> String {
    let host = host::normal(url.host_str().unwrap_or_default());
    match url.port() {
        Some(port) => format!("{host:.253}:{port}"),
        None => format!("{host:.253}"),
    }
}

fn output(fetched: Fetched) -> StepOutput {
    let Fetched { url, status, content_type, encoding, body, truncated, .. } = fetched;
    let bytes = body.len() as u64;
    let mut value = Map::new();
    value.insert("status".to_owned(), status.into());
    value.insert("url".to_owned(), url.as_str().into());
    value.insert("content_type".to_owned(), content_type.as_deref().into());
    value.insert("bytes".to_owned(), bytes.into());
    let packed = encoding.is_some();
    if let Some(encoding) = encoding {
        value.insert("encoding".to_owned(), encoding.into());
    }
    let parsed = || serde_json::from_slice::<Value>(&body).ok();
    if packed || body.contains(&0) {
        value.insert("binary".to_owned(), true.into());
    } else if let Some(parsed) = (!truncated && is_json(content_type.as_deref())).then(parsed).flatten() {
        value.insert("json".to_owned(), parsed);
    } else {
        let (text, lossy) = text(&body, truncated);
        value.insert("text".to_owned(), json!(text));
        if lossy {
            value.insert("lossy".to_owned(), true.into());
        }
    }
    value.insert("truncated".to_owned(), truncated.into());
    StepOutput { value: Value::Object(value), bytes }
}

/// The text of `body`, and whether some of it was none. A cut does not split a character.
fn text(body: &[u8], truncated: bool) -> (String, bool) {
    match str::from_utf8(body) {
        Ok(text) => (text.to_owned(), false),
        Err(error) if truncated && error.error_len().is_none() => {
            (String::from_utf8_lossy(&body[..error.valid_up_to()]).into_owned(), false)
        }
        Err(_) => (String::from_utf8_lossy(body).into_owned(), true),
    }
}

fn is_json(content_type: Option<&str>) -> bool {
    let essence = content_type.and_then(|text| text.split(';').next()).unwrap_or_default().trim();
    let essence = essence.to_ascii_lowercase();
    essence == "application/json" || essence.ends_with("+json")
}
