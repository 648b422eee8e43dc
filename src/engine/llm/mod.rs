//! Language models: the client's own, or a provider's over HTTP. Off unless configured.

mod budget;
mod key;
mod provider;
mod wire;

pub use budget::TokenLimits;
pub use key::KeySource;
pub use wire::Format;

use std::{
    fmt,
    net::IpAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use reqwest::Url;
use serde_json::Value;

use super::{Answer, Asker, ErrorKind, LlmReceipt, NotAnswered, Question};
use crate::resilience::{Backends, BreakerSettings};
pub(crate) use provider::client as https_client;
use provider::{Provider, ProviderSettings};

/// Who chooses a pattern for a query that no trigger matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fallback {
    /// The caller, among candidates.
    #[default]
    Off,
    /// The client's language model, where it offers one.
    Client,
    /// The provider's.
    Provider,
}

impl Fallback {
    /// All of them, as written in settings.
    pub const ALL: [(&'static str, Self); 3] =
        [("off", Self::Off), ("client", Self::Client), ("provider", Self::Provider)];

    /// As written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Client => "client",
            Self::Provider => "provider",
        }
    }
}

/// Where completions are POSTed to.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint(Url);

impl Endpoint {
    /// The address in `text`.
    ///
    /// # Errors
    /// What an address is, without a word of `text`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = "an address is https://HOST/PATH, whole, such as \
                     https://api.openai.com/v1/chat/completions or https://api.anthropic.com/v1/messages";
        let url = Url::parse(text).map_err(|_| wrong.to_owned())?;
        if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
            return Err(
                "an address has no user, password or fragment; keys go into llm.key_file or llm.key_env"
                    .to_owned(),
            );
        }
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let is_local =
            host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        match url.scheme() {
            "https" if url.has_host() => Ok(Self(url)),
            "http" if is_local => Ok(Self(url)),
            "http" => Err("without TLS only a provider on this machine is asked: say https://".to_owned()),
            _ => Err(wrong.to_owned()),
        }
    }
}

impl fmt::Display for Endpoint {
    /// Without the query, which may hold what is nobody's business.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut url = self.0.clone();
        url.set_query(None);
        write!(f, "{url}")?;
        if self.0.query().is_some() { f.write_str("?…") } else { Ok(()) }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What can be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LlmSettings {
    /// Who chooses a pattern where no trigger does.
    pub fallback: Fallback,
    /// Where the provider is; none without.
    pub url: Option<Endpoint>,
    /// How it is spoken to.
    pub format: Format,
    /// The model.
    pub model: Option<String>,
    /// File with the key.
    pub key_file: Option<PathBuf>,
    /// Variable with the key, where there is no file.
    pub key_env: Option<String>,
    /// Tokens of one completion at most.
    pub max_tokens: usize,
    /// Longest wait for one.
    pub timeout: Duration,
    /// Tokens that a provider may cost in an hour; zero is no limit.
    pub tokens_per_hour: usize,
    /// The same of a day.
    pub tokens_per_day: usize,
    /// Failures in a row after which the provider is left alone.
    pub breaker_failures: usize,
    /// For how long.
    pub breaker_pause: Duration,
}

impl Default for LlmSettings {
    fn default() -> Self {
        Self {
            fallback: Fallback::Off,
            url: None,
            format: Format::OpenAi,
            model: None,
            key_file: None,
            key_env: None,
            max_tokens: 1_024,
            timeout: Duration::from_secs(20),
            tokens_per_hour: 100_000,
            tokens_per_day: 500_000,
            breaker_failures: 5,
            breaker_pause: Duration::from_secs(30),
        }
    }
}

/// What is to be completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// System prompt.
    pub system: Option<String>,
    /// Prompt.
    pub prompt: String,
    /// Tokens of the completion at most.
    pub max_tokens: u32,
}

/// A completion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Its text.
    pub text: String,
    /// The model, as who ran it names it.
    pub model: String,
    /// Tokens, as reported.
    pub tokens_in: Option<u64>,
    /// As above.
    pub tokens_out: Option<u64>,
}

/// Why there is no completion. Never holds a key, nor what a provider answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LlmError {
    /// The code.
    pub kind: ErrorKind,
    /// What happened, what to do.
    pub message: String,
    /// Worth trying again after so long.
    pub retry_after: Option<Duration>,
}

impl LlmError {
    fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), retry_after: None }
    }
}

/// Why [`Models::by_client`] gave nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoCompletion {
    /// It failed.
    Failed(LlmError),
    /// Not in this run.
    Later,
}

/// The models.
#[derive(Debug)]
pub struct Models {
    fallback: Fallback,
    max_tokens: usize,
    timeout: Duration,
    provider: Option<Provider>,
}

impl Default for Models {
    fn default() -> Self {
        Self::new(LlmSettings::default())
    }
}

impl Models {
    /// The models that `settings` describe. Nothing is opened or read before one is asked.
    #[must_use]
    pub fn new(settings: LlmSettings) -> Self {
        let LlmSettings {
            fallback,
            url,
            format,
            model,
            key_file,
            key_env,
            max_tokens,
            timeout,
            tokens_per_hour,
            tokens_per_day,
            breaker_failures,
            breaker_pause,
        } = settings;
        let provider = url.zip(model).map(|(Endpoint(url), model)| {
            Provider::new(ProviderSettings {
                url,
                format,
                model,
                key: key_file.map(KeySource::File).or(key_env.map(KeySource::Variable)),
                timeout,
                tokens: TokenLimits { hour: tokens_per_hour as u64, day: tokens_per_day as u64 },
                breaker: BreakerSettings {
                    failures: u32::try_from(breaker_failures).unwrap_or(u32::MAX),
                    pause: breaker_pause,
                },
            })
        });
        Self { fallback, max_tokens, timeout, provider }
    }

    /// The same, the provider known to `backends`.
    #[must_use]
    pub fn known_to(mut self, backends: &Backends) -> Self {
        if let Some(provider) = &mut self.provider {
            provider.be_known_to(backends);
        }
        self
    }

    /// Who chooses a pattern where no trigger does.
    #[must_use]
    pub const fn fallback(&self) -> Fallback {
        self.fallback
    }

    /// Tokens of one completion at most.
    #[must_use]
    pub const fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// Longest that a completion may take.
    #[must_use]
    pub const fn timeout(&self) -> Duration {
        self.timeout
    }

    /// The provider's model, where one is configured.
    #[must_use]
    pub fn model(&self) -> Option<&str> {
        self.provider.as_ref().map(Provider::model)
    }

    /// Has the provider complete `prompt`.
    ///
    /// # Errors
    /// `denied` (none configured, or its key is refused), `busy` (budget, breaker, asked too much), `deadline`,
    /// `program_failed`, `limit_exceeded`.
    pub async fn by_provider(
        &self,
        prompt: &Prompt,
        now: Timestamp,
        deadline: Instant,
    ) -> Result<Completion, LlmError> {
        let Some(provider) = &self.provider else {
            return Err(LlmError::new(
                ErrorKind::Denied,
                "no language model is configured; set llm.url and llm.model",
            ));
        };
        provider.complete(prompt, now, deadline).await
    }

    /// Has the client complete `prompt`; `key` names the question.
    pub(super) async fn by_client(
        asker: &dyn Asker,
        key: &str,
        prompt: Prompt,
    ) -> Result<Completion, NoCompletion> {
        let failed = |kind, message: String| NoCompletion::Failed(LlmError::new(kind, message));
        let Prompt { system, prompt, max_tokens } = prompt;
        match asker.ask(key, Question::Completion { system, prompt, max_tokens }).await {
            Ok(Answer::Completed { text, model }) => {
                Ok(Completion { text, model, tokens_in: None, tokens_out: None })
            }
            Ok(Answer::Accepted(_) | Answer::Declined | Answer::Dismissed) => {
                Err(failed(ErrorKind::Denied, "the client's user did not want a completion".to_owned()))
            }
            Err(NotAnswered::Unable(reason)) => Err(failed(ErrorKind::Denied, reason)),
            Err(NotAnswered::Failed(reason)) => Err(failed(ErrorKind::ProgramFailed, reason)),
            Err(NotAnswered::Later) => Err(NoCompletion::Later),
        }
    }
}

impl LlmReceipt {
    pub(super) fn completed(completion: &Completion, elapsed: Duration) -> Self {
        Self {
            model: Some(completion.model.clone()),
            tokens_in: completion.tokens_in,
            tokens_out: completion.tokens_out,
            elapsed,
            outcome: "ok".to_owned(),
        }
    }

    pub(super) fn failed(kind: ErrorKind, model: Option<&str>, elapsed: Duration) -> Self {
        Self {
            model: model.map(str::to_owned),
            tokens_in: None,
            tokens_out: None,
            elapsed,
            outcome: kind.code().to_owned(),
        }
    }

    /// Of the value of a step `llm.complete`.
    pub(super) fn of_step(value: &Value, elapsed: Duration) -> Self {
        let count = |name: &str| value.get(name).and_then(Value::as_u64);
        Self {
            model: value.get("model").and_then(Value::as_str).map(str::to_owned),
            tokens_in: count("tokens_in"),
            tokens_out: count("tokens_out"),
            elapsed,
            outcome: "ok".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_whole_and_encrypted_unless_local() {
        for text in [
            "https://api.openai.com/v1/chat/completions",
            "https://llm.example:8443/v1/messages?api-version=1",
            "http://127.0.0.1:11434/v1/chat/completions",
            "http://localhost:1/x",
            "http://[::1]:1/x",
        ] {
            assert!(Endpoint::parse(text).is_ok(), "{text}");
        }
        for text in [
            "",
            "api.openai.com",
            "http://api.openai.com/v1",
            "http://127.0.0.1.evil.example/",
            "https://user:canary@host/",
            "https://host/#canary",
            "file:///etc/passwd",
            "ftp://127.0.0.1/",
        ] {
            let error = Endpoint::parse(text).unwrap_err();
            assert!(!error.contains("canary"), "{error}");
        }
        let shown = Endpoint::parse("https://host/v1?key=canary").unwrap().to_string();
        assert_eq!(shown, "https://host/v1?…");
    }
}
