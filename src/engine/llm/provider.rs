//! Completions over HTTP: one POST, no redirect, no second try, everything bounded.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use reqwest::{
    Client, Response, StatusCode, Url,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue},
};
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::{sync::OnceCell, time::timeout_at};

use super::{
    Completion, Format, LlmError, Prompt,
    budget::{Budget, Exhausted, TokenLimits},
    key::{Key, KeySource},
};
use crate::{
    engine::{ErrorKind, tokens},
    resilience::{self, Backend, BackendKind, Backends, BreakerSettings, Entry, Guard, GuardSettings, Shut},
};

/// Largest answer read.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// Longest wait for a connection.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// A provider that says when to come again is believed up to so long.
const RETRY_AFTER_MAX: Duration = Duration::from_hours(1);
/// How long a connection is kept for the next completion.
const IDLE_MAX: Duration = Duration::from_secs(30);

/// What a provider is made of.
#[derive(Clone, Debug)]
pub(super) struct ProviderSettings {
    pub(super) url: Url,
    pub(super) format: Format,
    pub(super) model: String,
    pub(super) key: Option<KeySource>,
    pub(super) timeout: Duration,
    pub(super) tokens: TokenLimits,
    pub(super) breaker: BreakerSettings,
}

/// One provider. Connects when first used.
#[derive(Debug)]
pub(super) struct Provider {
    settings: ProviderSettings,
    client: OnceCell<Client>,
    guard: Arc<Guard>,
    budget: Budget,
}

/// Why an exchange failed, and what it says about the provider.
struct Failure {
    error: LlmError,
    /// Whether the provider is to blame.
    is_its_fault: bool,
    /// It wants to be left alone for so long.
    pause: Option<Duration>,
    /// Whether it may have cost tokens all the same.
    may_cost: bool,
}

impl Failure {
    fn ours(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { error: LlmError::new(kind, message), is_its_fault: false, pause: None, may_cost: false }
    }

    fn its(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { is_its_fault: true, ..Self::ours(kind, message) }
    }
}

impl Provider {
    pub(super) fn new(settings: ProviderSettings) -> Self {
        let kind = BackendKind::Model;
        let guarded = GuardSettings { breaker: settings.breaker, ..kind.settings() };
        let guard = Arc::new(Guard::new(Backend { kind, name: name(&settings.url).into() }, guarded));
        let budget = Budget::new(settings.tokens);
        Self { settings, client: OnceCell::new(), guard, budget }
    }

    /// From now on its guard is one of `backends`.
    pub(super) fn be_known_to(&mut self, backends: &Backends) {
        let kind = BackendKind::Model;
        let guarded = GuardSettings { breaker: self.settings.breaker, ..kind.settings() };
        self.guard = backends.guard_with(kind, name(&self.settings.url), guarded);
    }

    pub(super) fn model(&self) -> &str {
        &self.settings.model
    }

    /// Completes `prompt` before `deadline`. Dropped, it closes its connection.
    pub(super) async fn complete(
        &self,
        prompt: &Prompt,
        now: Timestamp,
        deadline: Instant,
    ) -> Result<Completion, LlmError> {
        let entry = self.guard.enter(deadline).await.map_err(|shut| refused(&shut))?;
        let system = prompt.system.as_deref().map_or(0, |system| tokens::count(system).count);
        let most = tokens::count(&prompt.prompt).count + system + prompt.max_tokens as usize;
        let reserved =
            self.budget.reserve(most as u64, now).map_err(|Exhausted { setting, retry_after }| LlmError {
                retry_after: Some(retry_after),
                ..LlmError::new(
                    ErrorKind::Busy,
                    format!(
                        "the tokens for language models are spent ({setting}); there are more in {} s",
                        seconds(retry_after)
                    ),
                )
            })?;
        let own = Instant::now() + self.settings.timeout;
        let exchange = timeout_at(own.min(deadline).into(), self.exchange(prompt, now)).await;
        let result = exchange.unwrap_or_else(|_| {
            Err(Failure {
                // A caller who has no time says nothing about the provider.
                is_its_fault: own <= deadline,
                may_cost: true,
                ..Failure::ours(ErrorKind::Deadline, "the language model's provider did not answer in time")
            })
        });
        match result {
            Ok(completion) => {
                entry.succeed();
                let told = completion.tokens_in.zip(completion.tokens_out);
                reserved.settle(told.map_or(most as u64, |(read, written)| read.saturating_add(written)));
                Ok(completion)
            }
            Err(failure) => {
                if !failure.may_cost {
                    reserved.settle(0);
                }
                tell(entry, &failure);
                tracing::warn!(
                    code = failure.error.kind.code(),
                    reason = failure.error.message,
                    "no completion"
                );
                Err(failure.error)
            }
        }
    }

    async fn exchange(&self, prompt: &Prompt, now: Timestamp) -> Result<Completion, Failure> {
        let ProviderSettings { url, format, model, .. } = &self.settings;
        let client = self.client.get_or_try_init(client).await.map_err(|reason| {
            tracing::error!(reason, "no way to the language model's provider");
            Failure::ours(
                ErrorKind::ProgramFailed,
                format!("no way to the language model's provider: {reason}"),
            )
        })?;
        let headers = self.headers().await?;
        let body = format.body(url.host_str().unwrap_or_default(), model, prompt).to_string();
        let response = client
            .post(url.clone())
            .headers(headers)
            .body(body)
            .send()
            .await
            .map_err(|error| lost(&error, "did not answer"))?;
        check_status(&response, now)?;
        if !is_json(&response) {
            return Err(Failure {
                may_cost: true,
                ..Failure::its(
                    ErrorKind::ProgramFailed,
                    "the language model's provider did not answer with JSON",
                )
            });
        }
        let bytes = read_body(response).await?;
        let wrong = || Failure {
            may_cost: true,
            ..Failure::its(
                ErrorKind::ProgramFailed,
                format!("the language model's provider did not answer in the format {}", format.as_str()),
            )
        };
        let answer: Value = serde_json::from_slice(&bytes).map_err(|_| wrong())?;
        let read = format.read(&answer).ok_or_else(wrong)?;
        Ok(Completion {
            text: read.text,
            model: read.model.unwrap_or_else(|| model.clone()),
            tokens_in: read.tokens_in,
            tokens_out: read.tokens_out,
        })
    }

    async fn headers(&self) -> Result<HeaderMap, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let key = match self.settings.key.clone() {
            None => None,
            Some(source) => {
                let read = tokio::task::spawn_blocking(move || Key::read(&source)).await;
                let read = read.unwrap_or_else(|_| Err("reading it failed unexpectedly".to_owned()));
                Some(read.map_err(|reason| {
                    tracing::error!(reason, "the key of the language model's provider cannot be used");
                    Failure::ours(
                        ErrorKind::Denied,
                        "the key of the language model's provider cannot be used; the server's log says why",
                    )
                })?)
            }
        };
        let text = key.as_ref().map_or("", Key::expose);
        for (name, value) in self.settings.format.headers(text) {
            let is_secret = ["authorization", "x-api-key"].contains(&name);
            if is_secret && key.is_none() {
                continue;
            }
            let Ok(mut value) = HeaderValue::from_str(&value) else { continue };
            value.set_sensitive(is_secret);
            headers.insert(HeaderName::from_static(name), value);
        }
        Ok(headers)
    }
}

fn tell(entry: Entry<'_>, failure: &Failure) {
    let is_late = failure.error.kind == ErrorKind::Deadline;
    match (failure.is_its_fault, is_late) {
        (true, true) => {
            entry.time_out(&failure.error.message);
        }
        (true, false) => {
            entry.fail(failure.pause, &failure.error.message);
        }
        (false, true) => {
            entry.give_up();
        }
        // It was not asked, or refused what it was asked.
        (false, false) => entry.dismiss(),
    }
}

fn refused(shut: &Shut) -> LlmError {
    let Shut { is_busy, retry_after, .. } = *shut;
    let what = if is_busy {
        "too many calls wait for the language model's provider"
    } else {
        "the language model's provider failed several times and is left alone for now"
    };
    let message = format!("{what}; try again in {} s", seconds(retry_after));
    LlmError { retry_after: Some(retry_after), ..LlmError::new(ErrorKind::Busy, message) }
}

/// What a provider is called: its host.
fn name(url: &Url) -> &str {
    url.host_str().unwrap_or("provider")
}

/// A client that trusts the machine's roots, follows nothing and repeats nothing.
pub(crate) async fn client() -> Result<Client, String> {
    let found = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs)
        .await
        .map_err(|_| "the root certificates could not be read".to_owned())?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Client::builder()
        .tls_backend_preconfigured(config)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .referer(false)
        .connect_timeout(CONNECT_MAX)
        .pool_idle_timeout(IDLE_MAX)
        .user_agent(concat!("tmws/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| error.without_url().to_string())
}

/// What broke, in words of ours: those of a library may quote what was sent.
fn lost(error: &reqwest::Error, what: &str) -> Failure {
    let message = if error.is_connect() {
        "the language model's provider cannot be reached".to_owned()
    } else {
        format!("the language model's provider {what}: the connection broke")
    };
    Failure { may_cost: !error.is_connect(), ..Failure::its(ErrorKind::ProgramFailed, message) }
}

fn check_status(response: &Response, now: Timestamp) -> Result<(), Failure> {
    let status = response.status();
    if status.is_success() {
        return Ok(());
    }
    let code = status.as_u16();
    let pause = resilience::retry_after(response.headers(), now).map(|pause| pause.min(RETRY_AFTER_MAX));
    // The body is never told: it may repeat what was sent.
    Err(match status {
        StatusCode::TOO_MANY_REQUESTS => Failure {
            pause,
            error: LlmError {
                retry_after: pause,
                ..LlmError::new(
                    ErrorKind::Busy,
                    pause.map_or_else(
                        || "the language model's provider is asked too much; try again later".to_owned(),
                        |pause| {
                            let pause = seconds(pause);
                            format!("the language model's provider is asked too much; try again in {pause} s")
                        },
                    ),
                )
            },
            ..Failure::its(ErrorKind::Busy, "")
        },
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Failure::ours(
            ErrorKind::Denied,
            format!(
                "the language model's provider refuses the key (status {code}); see llm.key_file and llm.key_env"
            ),
        ),
        _ if status.is_redirection() => Failure::ours(
            ErrorKind::ProgramFailed,
            format!(
                "the language model's provider redirects (status {code}), which is not followed; llm.url must name its final address"
            ),
        ),
        _ if status.is_server_error() => Failure {
            pause,
            ..Failure::its(
                ErrorKind::ProgramFailed,
                format!("the language model's provider failed (status {code}); try again later"),
            )
        },
        _ => Failure::ours(
            ErrorKind::ProgramFailed,
            format!(
                "the language model's provider refuses the request (status {code}); see llm.url, llm.format and llm.model"
            ),
        ),
    })
}

fn is_json(response: &Response) -> bool {
    let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

async fn read_body(mut response: Response) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    loop {
        match response.chunk().await {
            Ok(None) => return Ok(bytes),
            Ok(Some(chunk)) if bytes.len() + chunk.len() <= ANSWER_BYTES_MAX => bytes.extend(&chunk),
            Ok(Some(_)) => {
                return Err(Failure {
                    may_cost: true,
                    ..Failure::its(
                        ErrorKind::LimitExceeded,
                        "the language model's provider answered with more than 1 MiB",
                    )
                });
            }
            Err(error) => return Err(lost(&error, "did not finish its answer")),
        }
    }
}

/// Whole seconds, at least one.
fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0 || duration.is_zero())
}
