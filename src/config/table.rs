//! The table of settings: key, variable, kind, bounds, and what it sets.

use std::{net::IpAddr, path::Path, path::PathBuf, time::Duration};

use super::{
    Config, DatabaseUrl, EmbeddingModel, LegacySse, StateKey,
    settings::{Kind, SettingRow},
};
use crate::{
    cache::redis::RedisUrl,
    engine::llm::{Endpoint, Fallback, Format},
    pattern::host::HostRule,
    tool::{Payload, Promotion},
};

/// A day is the longest that anything here may wait.
const DAY: Duration = Duration::from_hours(24);
const MILLI: Duration = Duration::from_millis(1);
/// How an absent text of `llm` is shown, and set.
const NONE: &str = "none";

/// One limit: key, kind, field of a limits struct, bounds, summary. The variable is checked against the key by a test.
macro_rules! limit {
    ($key:literal $variable:literal $kind:ident $group:ident.$field:ident $min:expr, $max:expr, $summary:literal) => {
        SettingRow {
            key: $key,
            variable: $variable,
            summary: $summary,
            shared: false,
            kind: Kind::$kind(|config| &mut config.$group.$field, $min, $max),
        }
    };
}

/// One limit of a shared server: as above, never set by a repository.
macro_rules! network {
    ($key:literal $variable:literal $kind:ident $field:ident $min:expr, $max:expr, $summary:literal) => {
        SettingRow {
            shared: true,
            ..limit!($key $variable $kind network.$field $min, $max, $summary)
        }
    };
}

/// One limit of language models, as above.
macro_rules! llm {
    ($key:literal $variable:literal $kind:ident $field:ident $min:expr, $max:expr, $summary:literal) => {
        SettingRow {
            shared: true,
            ..limit!($key $variable $kind llm.$field $min, $max, $summary)
        }
    };
}

/// A path to a file that need not be given.
macro_rules! file {
    ($key:literal $variable:literal $field:ident $summary:literal) => {
        SettingRow {
            key: $key,
            variable: $variable,
            summary: $summary,
            shared: true,
            kind: Kind::Path(
                |config, path| {
                    config.$field = Some(path.to_owned());
                    Ok(())
                },
                |config| show_file(config.$field.as_deref(), "none"),
            ),
        }
    };
}

/// Every setting there is, in the order that `doctor` prints.
pub static SETTINGS: &[SettingRow] = &[
    SettingRow {
        key: "root",
        variable: "TMWS_ROOT",
        summary: "workspace root; else CLAUDE_PROJECT_DIR, else the working directory",
        shared: false,
        kind: Kind::Path(
            |config, path| {
                path.clone_into(&mut config.root);
                Ok(())
            },
            |config| config.root.display().to_string(),
        ),
    },
    SettingRow {
        key: "agent",
        variable: "TMWS_AGENT",
        summary: "name of the agent, for memories of visibility `agent`",
        shared: false,
        kind: Kind::Text(set_agent, |config| config.agent.clone()),
    },
    SettingRow {
        key: "database_url",
        variable: "TMWS_DATABASE_URL",
        summary: "the store: `sqlite:PATH` or `postgres://USER:PASSWORD@HOST/DATABASE`",
        shared: false,
        kind: Kind::Text(set_database_url, |config| config.database.to_string()),
    },
    SettingRow {
        key: "redis_url",
        variable: "TMWS_REDIS_URL",
        summary: "the shared layer of the cache: `redis://`, `rediss://`, `redis+cluster://A,B,C` or `redis+sentinel://A,B,C/MASTER`; `none`: this process alone",
        shared: true,
        kind: Kind::Text(set_redis_url, |config| {
            config.redis.as_ref().map_or_else(|| NONE.to_owned(), ToString::to_string)
        }),
    },
    SettingRow {
        key: "embedding_model",
        variable: "TMWS_EMBEDDING_MODEL",
        summary: "what makes the vectors of memories: `builtin` (the table in the binary), `none`, or a model's folder",
        shared: false,
        kind: Kind::Path(set_embedding_model, |config| config.embedding_model.to_string()),
    },
    SettingRow {
        key: "patterns",
        variable: "TMWS_PATTERNS",
        summary: "further pattern folders of the user",
        shared: false,
        kind: Kind::Paths(
            |config, folders| {
                let own = config.user_folder.as_ref().map(|folder| folder.join("patterns"));
                config.pattern_folders = own.into_iter().chain(folders).collect();
            },
            |config| config.pattern_folders.clone(),
        ),
    },
    SettingRow {
        key: "state_key",
        variable: "TMWS_STATE_KEY",
        summary: "signs cursors, request states and HTTP session ids; where absent, `serve` keeps one in its store, `stdio` makes one each time",
        shared: false,
        kind: Kind::Text(set_state_key, |config| {
            if config.state_key.is_some() { "[secret]" } else { "from the store" }.to_owned()
        }),
    },
    SettingRow {
        key: "log",
        variable: "TMWS_LOG",
        summary: "log level, or target=level pairs",
        shared: false,
        kind: Kind::Text(set_log, |config| config.log.clone()),
    },
    SettingRow {
        key: "log_format",
        variable: "TMWS_LOG_FORMAT",
        summary: "how the log is written: text, or json (an object a line)",
        shared: false,
        kind: Kind::Text(set_log_format, |config| config.log_format.as_str().to_owned()),
    },
    SettingRow {
        key: "telemetry.otlp",
        variable: "TMWS_TELEMETRY_OTLP",
        summary: "the OpenTelemetry collector that is told of calls (OTLP, http/protobuf), as in http://127.0.0.1:4318; `none`; where nobody says, OTEL_EXPORTER_OTLP_ENDPOINT",
        shared: true,
        kind: Kind::Text(set_otlp, |config| {
            config.otlp.url.as_ref().map_or_else(|| NONE.to_owned(), ToString::to_string)
        }),
    },
    SettingRow {
        key: "payload",
        variable: "TMWS_PAYLOAD",
        summary: "how results travel: text, structured or both",
        shared: false,
        kind: Kind::Text(set_payload, |config| config.payload.as_str().to_owned()),
    },
    SettingRow {
        key: "promote",
        variable: "TMWS_PROMOTE",
        summary: "patterns that are tools of their own: `repo.digest` is the tool `repo_digest`; those that write or execute too",
        shared: true,
        kind: Kind::Texts(set_promote, |config| config.promote.clone()),
    },
    SettingRow {
        key: "listen",
        variable: "TMWS_LISTEN",
        summary: "where `serve` listens, as ADDRESS:PORT; port 0 takes a free one",
        shared: true,
        kind: Kind::Text(set_listen, |config| config.listen.to_string()),
    },
    SettingRow {
        key: "no_auth",
        variable: "TMWS_NO_AUTH",
        summary: "`serve` lets everybody who reaches it in as the local user: true or false; on loopback only",
        shared: true,
        kind: Kind::Flag(|config| &mut config.no_auth),
    },
    file!("tokens_file" "TMWS_TOKENS_FILE" tokens_file "file with the hashes of the tokens that `serve` accepts; where absent, it makes one token, in the data folder"),
    SettingRow {
        key: "allowed_hosts",
        variable: "TMWS_ALLOWED_HOSTS",
        summary: "names that `serve` is reached by beside the address it listens on, without port",
        shared: true,
        kind: Kind::Texts(set_allowed_hosts, |config| config.allowed_hosts.clone()),
    },
    SettingRow {
        key: "allowed_origins",
        variable: "TMWS_ALLOWED_ORIGINS",
        summary: "origins of web pages that may use `serve`, as in https://app.example",
        shared: true,
        kind: Kind::Texts(set_allowed_origins, |config| config.allowed_origins.clone()),
    },
    file!("tls_cert" "TMWS_TLS_CERT" tls_cert "certificate chain (PEM); with it `serve` speaks TLS only"),
    file!("tls_key" "TMWS_TLS_KEY" tls_key "private key of the certificate (PEM)"),
    SettingRow {
        key: "legacy_sse",
        variable: "TMWS_LEGACY_SSE",
        summary: "the HTTP+SSE transport of 2024-11-05 at /sse: on, off, or auto (on loopback only)",
        shared: true,
        kind: Kind::Text(set_legacy_sse, |config| config.legacy_sse.as_str().to_owned()),
    },
    SettingRow {
        key: "old_dialect",
        variable: "TMWS_OLD_DIALECT",
        summary: "the dialect of TMWS before it spoke MCP, at /ws/mcp?agent_id=NAME: true or false",
        shared: true,
        kind: Kind::Flag(|config| &mut config.old_dialect),
    },
    SettingRow {
        key: "audit_file",
        variable: "TMWS_AUDIT_FILE",
        summary: "where `serve` writes who did what, or `off`",
        shared: true,
        kind: Kind::Path(set_audit_file, |config| show_file(config.audit_file.as_deref(), "off")),
    },
    SettingRow {
        key: "http.private_hosts",
        variable: "TMWS_HTTP_PRIVATE_HOSTS",
        summary: "hosts that `http.get` may reach though their addresses are private, as in wiki.example or localhost:8080",
        shared: true,
        kind: Kind::Texts(set_private_hosts, |config| config.private_hosts.clone()),
    },
    SettingRow {
        key: "llm.fallback",
        variable: "TMWS_LLM_FALLBACK",
        summary: "who chooses a pattern for a query that none matches: off, client (its model) or provider",
        shared: true,
        kind: Kind::Text(set_llm_fallback, |config| config.llm.fallback.as_str().to_owned()),
    },
    SettingRow {
        key: "llm.url",
        variable: "TMWS_LLM_URL",
        summary: "where completions are POSTed to, whole, as in https://api.openai.com/v1/chat/completions",
        shared: true,
        kind: Kind::Text(set_llm_url, |config| {
            config.llm.url.as_ref().map_or_else(|| NONE.to_owned(), ToString::to_string)
        }),
    },
    SettingRow {
        key: "llm.format",
        variable: "TMWS_LLM_FORMAT",
        summary: "how the provider is spoken to: openai (chat completions) or anthropic (messages)",
        shared: true,
        kind: Kind::Text(set_llm_format, |config| config.llm.format.as_str().to_owned()),
    },
    SettingRow {
        key: "llm.model",
        variable: "TMWS_LLM_MODEL",
        summary: "the provider's model",
        shared: true,
        kind: Kind::Text(set_llm_model, |config| config.llm.model.clone().unwrap_or_else(|| NONE.to_owned())),
    },
    SettingRow {
        key: "llm.key_file",
        variable: "TMWS_LLM_KEY_FILE",
        summary: "file whose first line is the provider's key; read anew for each completion",
        shared: true,
        kind: Kind::Path(
            |config, path| {
                config.llm.key_file = (path != Path::new(NONE)).then(|| path.to_owned());
                Ok(())
            },
            |config| show_file(config.llm.key_file.as_deref(), "none"),
        ),
    },
    SettingRow {
        key: "llm.key_env",
        variable: "TMWS_LLM_KEY_ENV",
        summary: "name of the variable that holds the provider's key, where there is no file",
        shared: true,
        kind: Kind::Text(set_llm_key_env, |config| {
            config.llm.key_env.clone().unwrap_or_else(|| NONE.to_owned())
        }),
    },
    llm!("llm.max_tokens" "TMWS_LLM_MAX_TOKENS" Count max_tokens 1, 1 << 20, "tokens of one completion at most"),
    llm!("llm.timeout" "TMWS_LLM_TIMEOUT" Duration timeout MILLI, DAY, "longest wait for the provider's completion"),
    llm!("llm.tokens_per_hour" "TMWS_LLM_TOKENS_PER_HOUR" Count tokens_per_hour 0, 1 << 40, "tokens that the provider may cost in an hour of UTC, counted since the start; 0 is no limit"),
    llm!("llm.tokens_per_day" "TMWS_LLM_TOKENS_PER_DAY" Count tokens_per_day 0, 1 << 40, "the same in a day of UTC"),
    llm!("llm.breaker_failures" "TMWS_LLM_BREAKER_FAILURES" Count breaker_failures 1, 1_000, "failures in a row after which the provider is left alone; then one try decides"),
    llm!("llm.breaker_pause" "TMWS_LLM_BREAKER_PAUSE" Duration breaker_pause Duration::ZERO, DAY, "for how long"),
    limit!("limits.frame_in" "TMWS_LIMITS_FRAME_IN" Bytes connection.frame_in_bytes_max 1 << 10, 1 << 30, "largest frame accepted"),
    limit!("limits.frame_out" "TMWS_LIMITS_FRAME_OUT" Bytes connection.frame_out_bytes_max 16 << 10, 1 << 30, "largest frame sent"),
    limit!("limits.inflight_requests" "TMWS_LIMITS_INFLIGHT_REQUESTS" Count connection.inflight_requests_max 1, 65_536, "requests being worked on at once, per connection"),
    limit!("limits.writer_queue_frames" "TMWS_LIMITS_WRITER_QUEUE_FRAMES" Count connection.writer_queue_frames_max 1, 65_536, "frames waiting to be written, per connection"),
    limit!("limits.subscriptions" "TMWS_LIMITS_SUBSCRIPTIONS" Count connection.subscriptions_max 1, 65_536, "subscriptions at once, per connection"),
    limit!("limits.page_items" "TMWS_LIMITS_PAGE_ITEMS" Count connection.page_items 1, 10_000, "items per page of a list"),
    limit!("limits.call_deadline" "TMWS_LIMITS_CALL_DEADLINE" Duration connection.call_deadline MILLI, DAY, "longest that a call may take"),
    limit!("limits.task_deadline" "TMWS_LIMITS_TASK_DEADLINE" Duration connection.task_deadline MILLI, DAY, "longest that a task may run"),
    limit!("limits.task_after" "TMWS_LIMITS_TASK_AFTER" Duration tasks.after Duration::ZERO, DAY, "a call that may become a task does after so long"),
    limit!("limits.task_ttl" "TMWS_LIMITS_TASK_TTL" Duration tasks.ttl Duration::from_secs(1), Duration::from_hours(30 * 24), "how long a task is kept from its making; a client may wish for less"),
    limit!("limits.tasks" "TMWS_LIMITS_TASKS" Count tasks.running_max 0, 65_536, "tasks that run at once"),
    limit!("limits.tasks_per_principal" "TMWS_LIMITS_TASKS_PER_PRINCIPAL" Count tasks.running_per_principal_max 0, 65_536, "of these, tasks of one principal"),
    limit!("limits.tasks_kept" "TMWS_LIMITS_TASKS_KEPT" Count tasks.kept_max 1, 65_536, "tasks of one principal kept in one project; the oldest that has ended makes room"),
    limit!("limits.ask_deadline" "TMWS_LIMITS_ASK_DEADLINE" Duration connection.ask_deadline MILLI, DAY, "longest that a question to the client waits for its answer"),
    limit!("limits.request_state_ttl" "TMWS_LIMITS_REQUEST_STATE_TTL" Duration connection.request_state_ttl MILLI, DAY, "how long a request state may be used"),
    limit!("limits.memory_content" "TMWS_LIMITS_MEMORY_CONTENT" Bytes store.content_bytes_max 1, 1 << 20, "longest content of one memory"),
    limit!("limits.memory_tags" "TMWS_LIMITS_MEMORY_TAGS" Count store.tags_max 0, 1_024, "tags of one memory"),
    limit!("limits.memory_tag" "TMWS_LIMITS_MEMORY_TAG" Bytes store.tag_bytes_max 1, 1 << 10, "longest tag"),
    limit!("limits.session_scratch" "TMWS_LIMITS_SESSION_SCRATCH" Bytes store.scratch_bytes_max 0, 16 << 20, "scratch of one session"),
    limit!("limits.session_idle" "TMWS_LIMITS_SESSION_IDLE" Duration store.session_idle MILLI, Duration::from_hours(365 * 24), "a session unused for so long is gone"),
    limit!("limits.result_handles" "TMWS_LIMITS_RESULT_HANDLES" Count store.handles_per_project_max 1, 1_000_000, "result handles of one project at once"),
    limit!("limits.result" "TMWS_LIMITS_RESULT" Bytes store.result_bytes_max 1 << 10, 64 << 20, "one stored result"),
    limit!("limits.result_ttl" "TMWS_LIMITS_RESULT_TTL" Duration store.handle_ttl MILLI, Duration::from_hours(30 * 24), "how long a result handle lives"),
    limit!("limits.store_busy" "TMWS_LIMITS_STORE_BUSY" Duration store.busy_timeout MILLI, DAY, "longest wait for a store locked by another process"),
    SettingRow {
        key: "limits.database_connections",
        variable: "TMWS_LIMITS_DATABASE_CONNECTIONS",
        summary: "connections to a PostgreSQL store at once, of one process",
        shared: false,
        kind: Kind::Count(|config| &mut config.database_connections, 1, 1_000),
    },
    limit!("limits.cache" "TMWS_LIMITS_CACHE" Bytes cache.local_bytes_max 0, 16 << 30, "answers kept in this process; 0 keeps none"),
    limit!("limits.cache_value" "TMWS_LIMITS_CACHE_VALUE" Bytes cache.value_bytes_max 1 << 10, 64 << 20, "one answer kept in Redis"),
    limit!("limits.shutdown_drain" "TMWS_LIMITS_SHUTDOWN_DRAIN" Duration shutdown.drain Duration::ZERO, DAY, "how long calls may still answer after the end of input"),
    limit!("limits.shutdown_exit" "TMWS_LIMITS_SHUTDOWN_EXIT" Duration shutdown.exit MILLI, DAY, "the process is gone so long after the end of input"),
    network!("limits.connections" "TMWS_LIMITS_CONNECTIONS" Count connections_max 1, 1_048_576, "connections at once"),
    network!("limits.inflight_total" "TMWS_LIMITS_INFLIGHT_TOTAL" Count inflight_total_max 1, 1_048_576, "requests being worked on at once, over all connections"),
    network!("limits.calls_per_second" "TMWS_LIMITS_CALLS_PER_SECOND" Count calls_per_second 0, 1_000_000, "calls a second of one principal, or of one connection without tokens; 0 is no limit"),
    network!("limits.calls_burst" "TMWS_LIMITS_CALLS_BURST" Count calls_burst 1, 1_000_000, "calls that may come at once before that counts"),
    network!("limits.header_timeout" "TMWS_LIMITS_HEADER_TIMEOUT" Duration header_timeout MILLI, DAY, "the head of a request must have arrived within so long"),
    network!("limits.body_timeout" "TMWS_LIMITS_BODY_TIMEOUT" Duration body_timeout MILLI, DAY, "longest time without a byte of a request's body"),
    network!("limits.write_stall" "TMWS_LIMITS_WRITE_STALL" Duration write_stall MILLI, DAY, "a client that takes nothing of what waits for it is cut off after so long"),
    network!("limits.ping_interval" "TMWS_LIMITS_PING_INTERVAL" Duration ping_interval MILLI, DAY, "a WebSocket is pinged after so long without a byte"),
    network!("limits.idle_timeout" "TMWS_LIMITS_IDLE_TIMEOUT" Duration idle_timeout MILLI, DAY, "a WebSocket is closed after so long without a byte, pongs included"),
    network!("limits.keep_alive" "TMWS_LIMITS_KEEP_ALIVE" Duration keep_alive MILLI, DAY, "a quiet event stream gets a comment every so often"),
    network!("limits.replay_events" "TMWS_LIMITS_REPLAY_EVENTS" Count replay_events_max 0, 65_536, "events of one HTTP session kept for streams that are resumed"),
    network!("limits.replay_bytes" "TMWS_LIMITS_REPLAY_BYTES" Bytes replay_bytes_max 0, 64 << 20, "the same in bytes"),
    network!("limits.http_sessions" "TMWS_LIMITS_HTTP_SESSIONS" Count http_sessions_max 1, 1_000_000, "HTTP sessions in memory at once; the one unused for longest makes room"),
    network!("limits.http_session_idle" "TMWS_LIMITS_HTTP_SESSION_IDLE" Duration http_session_idle MILLI, DAY, "an HTTP session that nobody uses is put out of memory after so long"),
    network!("limits.http_session_ttl" "TMWS_LIMITS_HTTP_SESSION_TTL" Duration http_session_ttl MILLI, Duration::from_hours(30 * 24), "how long an HTTP session id is good"),
    network!("limits.shutdown" "TMWS_LIMITS_SHUTDOWN" Duration shutdown Duration::ZERO, DAY, "how long the calls of `serve` may still answer after the signal to end"),
];

fn set_agent(config: &mut Config, text: &str) -> Result<(), String> {
    if !crate::scope::is_agent_name(text) {
        return Err(format!("an agent is named by {}", crate::scope::AGENT_NAME));
    }
    text.clone_into(&mut config.agent);
    Ok(())
}

/// Errors never quote the URL: it may hold a password.
#[expect(clippy::unnecessary_wraps, reason = "a setter of the table")]
fn set_embedding_model(config: &mut Config, path: &Path) -> Result<(), String> {
    config.embedding_model = match path.to_str() {
        Some("builtin") => EmbeddingModel::Builtin,
        Some("none") => EmbeddingModel::None,
        _ => EmbeddingModel::Folder(std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())),
    };
    Ok(())
}

/// Errors never quote the URL: it may hold a password.
fn set_redis_url(config: &mut Config, text: &str) -> Result<(), String> {
    config.redis = if text == NONE { None } else { Some(RedisUrl::parse(text)?) };
    Ok(())
}

fn set_database_url(config: &mut Config, text: &str) -> Result<(), String> {
    let path = text.strip_prefix("sqlite://").or_else(|| text.strip_prefix("sqlite:"));
    match path {
        Some(path) if !path.is_empty() && !path.contains(['?', '#']) => {
            config.database = DatabaseUrl::Sqlite(PathBuf::from(path));
            Ok(())
        }
        _ if text.starts_with("postgres://") || text.starts_with("postgresql://") => {
            config.database = DatabaseUrl::Postgres(text.to_owned());
            Ok(())
        }
        _ => {
            Err("it is `sqlite:PATH`, without parameters, or `postgres://USER:PASSWORD@HOST/DATABASE`"
                .to_owned())
        }
    }
}

fn set_state_key(config: &mut Config, text: &str) -> Result<(), String> {
    let key = StateKey::of_text(text).ok_or_else(|| {
        format!("a key has at least {} bytes; make one with `openssl rand -hex 32`", StateKey::TEXT_BYTES_MIN)
    })?;
    config.state_key = Some(key);
    Ok(())
}

fn set_log(config: &mut Config, text: &str) -> Result<(), String> {
    crate::telemetry::parse_filter(text).map_err(|error| error.to_string())?;
    text.clone_into(&mut config.log);
    Ok(())
}

fn set_log_format(config: &mut Config, text: &str) -> Result<(), String> {
    config.log_format = text.parse()?;
    Ok(())
}

fn set_otlp(config: &mut Config, text: &str) -> Result<(), String> {
    config.otlp.url = if text == NONE { None } else { Some(text.parse()?) };
    Ok(())
}

fn set_listen(config: &mut Config, text: &str) -> Result<(), String> {
    config.listen = text.parse().map_err(|_| {
        "an address to listen on is ADDRESS:PORT, such as 127.0.0.1:7337 or [::1]:7337".to_owned()
    })?;
    Ok(())
}

fn show_file(path: Option<&Path>, absent: &str) -> String {
    path.map_or_else(|| absent.to_owned(), |path| path.display().to_string())
}

fn set_private_hosts(config: &mut Config, hosts: Vec<String>) -> Result<(), String> {
    hosts.iter().try_for_each(|host| HostRule::parse(host).map(drop))?;
    config.private_hosts = hosts;
    Ok(())
}

fn set_allowed_hosts(config: &mut Config, hosts: Vec<String>) -> Result<(), String> {
    let is_host = |host: &String| {
        let name = !host.is_empty()
            && host.len() <= 253
            && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
        name || host.parse::<IpAddr>().is_ok()
    };
    if !hosts.iter().all(is_host) {
        return Err(
            "a host is a name or an address, without scheme, port and brackets, such as tmws.example or ::1"
                .to_owned(),
        );
    }
    config.allowed_hosts = hosts;
    Ok(())
}

fn set_allowed_origins(config: &mut Config, origins: Vec<String>) -> Result<(), String> {
    let is_origin = |origin: &String| {
        origin.split_once("://").is_some_and(|(scheme, rest)| {
            let lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
            !scheme.is_empty()
                && scheme.bytes().all(|byte| lower(byte) || b"+-.".contains(&byte))
                && !rest.is_empty()
                && rest.bytes().all(|byte| lower(byte) || b"-._:[]".contains(&byte))
        })
    };
    if !origins.iter().all(is_origin) {
        return Err(
            "an origin is SCHEME://HOST or SCHEME://HOST:PORT in lower case and nothing behind it, such as \
            https://app.example; there is no `*`"
                .to_owned(),
        );
    }
    config.allowed_origins = origins;
    Ok(())
}

fn set_legacy_sse(config: &mut Config, text: &str) -> Result<(), String> {
    let (_, legacy_sse) = LegacySse::ALL
        .into_iter()
        .find(|(name, _)| *name == text)
        .ok_or("the transport of 2024-11-05 is `on`, `off` or `auto`")?;
    config.legacy_sse = legacy_sse;
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "the signature of every setter")]
fn set_audit_file(config: &mut Config, path: &Path) -> Result<(), String> {
    config.audit_file = (path != Path::new("off")).then(|| path.to_owned());
    Ok(())
}

fn set_promote(config: &mut Config, names: Vec<String>) -> Result<(), String> {
    if let Some(fault) = Promotion::fault(&names) {
        return Err(fault);
    }
    config.promote = names;
    Ok(())
}

fn set_llm_fallback(config: &mut Config, text: &str) -> Result<(), String> {
    let (_, fallback) = Fallback::ALL
        .into_iter()
        .find(|(name, _)| *name == text)
        .ok_or("the fallback is `off`, `client` or `provider`")?;
    config.llm.fallback = fallback;
    Ok(())
}

/// Errors never quote the address: it may hold a key.
fn set_llm_url(config: &mut Config, text: &str) -> Result<(), String> {
    config.llm.url = if text == NONE { None } else { Some(Endpoint::parse(text)?) };
    Ok(())
}

fn set_llm_format(config: &mut Config, text: &str) -> Result<(), String> {
    let (_, format) = Format::ALL
        .into_iter()
        .find(|(name, _)| *name == text)
        .ok_or("a format is `openai` or `anthropic`")?;
    config.llm.format = format;
    Ok(())
}

fn set_llm_model(config: &mut Config, text: &str) -> Result<(), String> {
    if text.is_empty() || text.len() > 200 || text.chars().any(char::is_control) {
        return Err("a model has a name of at most 200 bytes".to_owned());
    }
    config.llm.model = (text != NONE).then(|| text.to_owned());
    Ok(())
}

/// Errors never quote the text: somebody may have put the key itself here.
fn set_llm_key_env(config: &mut Config, text: &str) -> Result<(), String> {
    if text == NONE {
        config.llm.key_env = None;
        return Ok(());
    }
    let is_name = text.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_');
    if text.is_empty() || text.len() > 100 || !is_name {
        return Err(
            "the name of a variable is capitals, digits and `_`, such as OPENAI_API_KEY; the key itself has no place here"
                .to_owned(),
        );
    }
    config.llm.key_env = Some(text.to_owned());
    Ok(())
}

fn set_payload(config: &mut Config, text: &str) -> Result<(), String> {
    let (_, payload) = Payload::ALL
        .into_iter()
        .find(|(name, _)| *name == text)
        .ok_or("a payload is `text`, `structured` or `both`")?;
    config.payload = payload;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variable_is_named_after_its_key() {
        for row in SETTINGS {
            let expected = format!("TMWS_{}", row.key.replace('.', "_").to_ascii_uppercase());
            assert_eq!(row.variable, expected);
        }
    }

    #[test]
    fn keys_are_unique() {
        for (index, row) in SETTINGS.iter().enumerate() {
            assert!(SETTINGS[..index].iter().all(|earlier| earlier.key != row.key), "{}", row.key);
        }
    }
}
