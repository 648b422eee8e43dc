//! Putting the sources together.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Component, Path, PathBuf},
};

use toml::de::DeValue;

use super::{
    Config, ConfigError, DatabaseUrl, EmbeddingModel, Kind, LegacySse, Origin, ProjectSetting,
    file::{self, Fault, Taker},
    sections::Section,
    settings::{Given, SettingRow},
    table::SETTINGS,
};
use crate::{
    cache::CacheLimits,
    engine::llm::{Fallback, LlmSettings},
    limits::{ConnectionLimits, NetworkLimits, ShutdownLimits, StoreLimits, TaskLimits},
    nearest,
    otlp::OtlpSettings,
    telemetry::LogFormat,
    tool::Payload,
};

/// Largest configuration file read, in bytes.
const FILE_BYTES_MAX: u64 = 256 << 10;

/// Where `serve` listens unless it is told otherwise: only this machine reaches it.
const LISTEN_DEFAULT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7337);

/// Variables that are no settings: what `tmws connect` is given by whoever launches it.
const READ_ELSEWHERE: [&str; 2] = ["TMWS_TOKEN", "TMWS_CONNECT_PLAN"];

/// Names of a repository's own file, in the order looked for.
const REPOSITORY_FILES: [&str; 2] = [".tmws.toml", "tmws.toml"];

/// Where values come from. The process hands in its own; a test its own.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Variables of the environment: those beginning with `TMWS_` or `XDG_`, and [`Sources::OTHERS`].
    pub environment: BTreeMap<String, OsString>,
    /// Flags in the order given: name as typed (`--root`, `--set limits.frame_in`), key, value.
    pub flags: Vec<(String, String, OsString)>,
    /// The user's file instead of the one in the XDG config folder (`--config`); it must exist.
    pub file: Option<PathBuf>,
    /// The working directory.
    pub working_directory: PathBuf,
}

impl Sources {
    /// Variables read beside `TMWS_*` and `XDG_*`.
    pub const OTHERS: [&str; 10] = [
        "HOME",
        "USERPROFILE",
        "APPDATA",
        "LOCALAPPDATA",
        "CLAUDE_PROJECT_DIR",
        "OTEL_SDK_DISABLED",
        "OTEL_SERVICE_NAME",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_EXPORTER_OTLP_HEADERS",
        "OTEL_EXPORTER_OTLP_PROTOCOL",
    ];

    /// The process's own environment and working directory, without flags.
    #[must_use]
    pub fn of_process() -> Self {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .filter(|(name, value)| !value.is_empty() && Self::wanted(name))
            .collect();
        // Without a working directory (it was removed) the root is `.`, which no file step will accept.
        let working_directory = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("."));
        Self { environment, flags: Vec::new(), file: None, working_directory }
    }

    fn wanted(name: &str) -> bool {
        name.starts_with("TMWS_") || name.starts_with("XDG_") || Self::OTHERS.contains(&name)
    }

    fn path(&self, variable: &str) -> Option<PathBuf> {
        self.environment.get(variable).map(PathBuf::from).filter(|path| path.is_absolute())
    }

    fn home(&self) -> Option<PathBuf> {
        self.path("HOME").or_else(|| self.path("USERPROFILE"))
    }

    fn folder(&self, xdg: &str, windows: &str, under_home: &str) -> Option<PathBuf> {
        self.path(xdg)
            .or_else(|| self.path(windows))
            .or_else(|| self.home().map(|home| home.join(under_home)))
            .map(|folder| folder.join("tmws"))
    }
}

/// Reads the configuration from `sources`.
///
/// # Errors
/// [`ConfigError`] for the first fault of the user's file, the environment or the flags, in this order. Faults of a
/// repository's own file are [`Config::warnings`].
pub fn load(sources: &Sources) -> Result<Config, ConfigError> {
    let mut config = defaults(sources);
    read_user_file(sources, &mut config)?;
    // The root decides where the repository's own file is; everything of the environment and the flags still wins.
    let root = root_of(sources).unwrap_or_else(|| config.root.clone());
    read_repository_file(&root, &mut config);
    read_environment(sources, &mut config)?;
    read_flags(sources, &mut config)?;
    let Config { root, tokens_file, tls_cert, tls_key, audit_file, llm, .. } = &mut config;
    let files = [tokens_file, tls_cert, tls_key, audit_file, &mut llm.key_file]
        .into_iter()
        .filter_map(Option::as_mut);
    for path in files.chain([root]).filter(|path| path.is_relative()) {
        *path = sources.working_directory.join(&path);
    }
    for (given, needed, other) in
        [("tls_cert", &config.tls_key, "tls_key"), ("tls_key", &config.tls_cert, "tls_cert")]
    {
        if !config.is_default(given) && needed.is_none() {
            let place = config.origin(given).map_or_else(String::new, ToString::to_string);
            let fault = format!("`{given}` needs `{other}` beside it");
            return Err(ConfigError { place, fault });
        }
    }
    check_llm(&config)?;
    if config.database == DatabaseUrl::Sqlite(PathBuf::new()) {
        return Err(ConfigError {
            place: "TMWS_DATABASE_URL".to_owned(),
            fault: "no place for the store: neither XDG_DATA_HOME nor HOME is set; set TMWS_DATABASE_URL=sqlite:/absolute/path".to_owned(),
        });
    }
    Ok(config)
}

/// What of a provider makes sense only together.
fn check_llm(config: &Config) -> Result<(), ConfigError> {
    let llm = &config.llm;
    let wants_provider = llm.fallback == Fallback::Provider;
    let rows = [
        ("llm.fallback", wants_provider && llm.url.is_none(), "llm.url"),
        ("llm.fallback", wants_provider && llm.model.is_none(), "llm.model"),
        ("llm.url", llm.url.is_some() && llm.model.is_none(), "llm.model"),
    ];
    let Some((key, _, other)) = rows.into_iter().find(|(_, is_wrong, _)| *is_wrong) else { return Ok(()) };
    let place = config.origin(key).map_or_else(String::new, ToString::to_string);
    Err(ConfigError { place, fault: format!("`{key}` needs `{other}` beside it") })
}

fn defaults(sources: &Sources) -> Config {
    let user_folder = sources.folder("XDG_CONFIG_HOME", "APPDATA", ".config");
    let data_folder = sources.folder("XDG_DATA_HOME", "LOCALAPPDATA", ".local/share");
    Config {
        root: sources.working_directory.clone(),
        agent: "default".to_owned(),
        database: DatabaseUrl::Sqlite(
            data_folder.as_ref().map(|folder| folder.join("tmws.db")).unwrap_or_default(),
        ),
        database_connections: crate::store::CONNECTIONS_MAX as usize,
        redis: None,
        cache: CacheLimits::default(),
        embedding_model: EmbeddingModel::default(),
        pattern_folders: user_folder.iter().map(|folder| folder.join("patterns")).collect(),
        repository_pattern_folders: Vec::new(),
        state_key: None,
        log: "warn".to_owned(),
        log_format: LogFormat::default(),
        otlp: OtlpSettings::default(),
        payload: Payload::Text,
        promote: Vec::new(),
        connection: ConnectionLimits::default(),
        network: NetworkLimits::default(),
        listen: LISTEN_DEFAULT,
        no_auth: false,
        tokens_file: None,
        allowed_hosts: Vec::new(),
        allowed_origins: Vec::new(),
        private_hosts: Vec::new(),
        tls_cert: None,
        tls_key: None,
        legacy_sse: LegacySse::Auto,
        old_dialect: false,
        audit_file: data_folder.as_ref().map(|folder| folder.join("audit.jsonl")),
        projects: Vec::new(),
        sources: Vec::new(),
        servers: Vec::new(),
        store: StoreLimits::default(),
        tasks: TaskLimits::default(),
        llm: LlmSettings::default(),
        shutdown: ShutdownLimits::default(),
        user_folder,
        data_folder,
        home: sources.home(),
        warnings: Vec::new(),
        origins: vec![Origin::Default; SETTINGS.len()],
    }
}

fn apply(config: &mut Config, row: &SettingRow, given: &Given<'_>, origin: Origin) -> Result<(), String> {
    row.set(config, given)?;
    if let Some(index) = SETTINGS.iter().position(|known| known.key == row.key) {
        config.origins[index] = origin;
    }
    Ok(())
}

/// Whether an error says that there is no such file: `HOME=/dev/null`, which services are given, says it in its own way.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn read_user_file(sources: &Sources, config: &mut Config) -> Result<(), ConfigError> {
    let path = match (&sources.file, &config.user_folder) {
        (Some(path), _) => path.clone(),
        (None, Some(folder)) => folder.join("tmws.toml"),
        (None, None) => return Ok(()),
    };
    let text = match read_file(&path) {
        Ok(text) => text,
        Err(error) if is_absent(&error) && sources.file.is_none() => return Ok(()),
        Err(error) => {
            return Err(ConfigError {
                place: path.display().to_string(),
                fault: format!("cannot be read: {error}"),
            });
        }
    };
    let faults = file::read(&text, &mut FromUser { config, path: &path });
    match faults.into_iter().next() {
        Some(Fault { line, message }) => {
            Err(ConfigError { place: format!("{}:{line}", path.display()), fault: message })
        }
        None => Ok(()),
    }
}

/// A stranger's file: whatever is wrong with it is a warning, and it can neither loosen a limit nor leave its folder.
fn read_repository_file(root: &Path, config: &mut Config) {
    if root.parent().is_none() || config.home.as_deref() == Some(root) {
        return;
    }
    let found = REPOSITORY_FILES.iter().find_map(|name| {
        let path = root.join(name);
        match read_file(&path) {
            Ok(text) => Some((path, Ok(text))),
            Err(error) if is_absent(&error) => None,
            Err(error) => Some((path, Err(error))),
        }
    });
    let Some((path, text)) = found else { return };
    let text = match text {
        Ok(text) => text,
        Err(error) => {
            config.warnings.push(format!("{} was ignored: cannot be read: {error}", path.display()));
            return;
        }
    };
    // All or nothing: tried on a copy first.
    let mut trial = config.clone();
    let faults = file::read(&text, &mut FromRepository { config: &mut trial, root, path: &path });
    if faults.is_empty() {
        *config = trial;
    } else {
        config.warnings.extend(
            faults
                .iter()
                .map(|fault| format!("{}:{} (file ignored): {}", path.display(), fault.line, fault.message)),
        );
    }
}

struct FromUser<'a> {
    config: &'a mut Config,
    path: &'a Path,
}

impl Taker for FromUser<'_> {
    fn setting(&mut self, row: &'static SettingRow, line: usize, given: &Given<'_>) -> Result<(), String> {
        apply(self.config, row, given, Origin::User { path: self.path.to_owned(), line })
    }

    fn project(&mut self, project: ProjectSetting) -> Result<(), String> {
        project.add_to(&mut self.config.projects)
    }

    fn named(&mut self, section: &'static Section, name: &str, value: &DeValue<'_>) -> Result<(), String> {
        (section.take)(self.config, name, value)
    }
}

struct FromRepository<'a> {
    config: &'a mut Config,
    root: &'a Path,
    path: &'a Path,
}

impl Taker for FromRepository<'_> {
    fn setting(&mut self, row: &'static SettingRow, line: usize, given: &Given<'_>) -> Result<(), String> {
        take_from_repository(self.config, self.root, self.path, row, line, given)
    }

    fn project(&mut self, _: ProjectSetting) -> Result<(), String> {
        Err("`projects` can only be set by the user, not by a repository".to_owned())
    }

    fn named(&mut self, section: &'static Section, _: &str, _: &DeValue<'_>) -> Result<(), String> {
        Err(format!("`{}` can only be set by the user, not by a repository", section.name))
    }
}

fn take_from_repository(
    config: &mut Config,
    root: &Path,
    path: &Path,
    row: &SettingRow,
    line: usize,
    given: &Given<'_>,
) -> Result<(), String> {
    if !row.open_to_repositories() {
        return Err(format!("`{}` can only be set by the user, not by a repository", row.key));
    }
    if let Kind::Paths(..) = row.kind {
        let Given::List(folders) = given else {
            return Err(format!("`{}` must be a list of paths", row.key));
        };
        for folder in folders {
            let inside = Path::new(folder)
                .components()
                .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
            if !inside {
                return Err(format!("`{}` of a repository must stay inside it", row.key));
            }
            config.repository_pattern_folders.push(root.join(folder));
        }
        return Ok(());
    }
    let mut wanted = config.clone();
    row.set(&mut wanted, given)?;
    let lower = match &row.kind {
        Kind::Duration(at, ..) => *at(&mut wanted) <= *at(config),
        Kind::Bytes(at, ..) | Kind::Count(at, ..) => *at(&mut wanted) <= *at(config),
        Kind::Flag(_) | Kind::Text(..) | Kind::Path(..) | Kind::Paths(..) | Kind::Texts(..) => false,
    };
    if !lower {
        return Err(format!("`{}` can only be lowered by a repository; it is {}", row.key, row.show(config)));
    }
    apply(config, row, given, Origin::Repository { path: path.to_owned(), line })
}

fn read_environment(sources: &Sources, config: &mut Config) -> Result<(), ConfigError> {
    if let Some(root) = sources.environment.get("CLAUDE_PROJECT_DIR") {
        set_plain(config, "root", root, Origin::Environment("CLAUDE_PROJECT_DIR".to_owned()))?;
    }
    for row in SETTINGS {
        if let Some(value) = sources.environment.get(row.variable) {
            set_plain(config, row.key, value, Origin::Environment(row.variable.to_owned()))?;
        }
    }
    read_otel(sources, config);
    let known = || SETTINGS.iter().map(|row| row.variable);
    for name in sources.environment.keys().filter(|name| name.starts_with("TMWS_")) {
        if !known().any(|variable| variable == name) && !READ_ELSEWHERE.contains(&name.as_str()) {
            config
                .warnings
                .push(format!("{name} is no setting and was ignored{}", nearest::hint(name, known())));
        }
    }
    Ok(())
}

const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// The variables that all of OpenTelemetry's exporters know. They are there for every program, so that what is wrong with
/// them keeps nobody from starting.
fn read_otel(sources: &Sources, config: &mut Config) {
    let text = |name: &str| sources.environment.get(name).and_then(|value| value.to_str());
    if text("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return;
    }
    config.otlp.service = text("OTEL_SERVICE_NAME").map(str::to_owned);
    if let Some(headers) = text("OTEL_EXPORTER_OTLP_HEADERS") {
        match headers.parse() {
            Ok(headers) => config.otlp.headers = headers,
            Err(fault) => config.warnings.push(format!("OTEL_EXPORTER_OTLP_HEADERS was ignored: {fault}")),
        }
    }
    let Some(url) = text(ENDPOINT).filter(|_| config.is_default("telemetry.otlp")) else { return };
    let protocol = text("OTEL_EXPORTER_OTLP_PROTOCOL").unwrap_or("http/protobuf");
    if protocol != "http/protobuf" {
        config.warnings.push(format!("{ENDPOINT} was ignored: here is only http/protobuf spoken"));
    } else if let Err(error) =
        set_plain(config, "telemetry.otlp", OsStr::new(url), Origin::Environment(ENDPOINT.to_owned()))
    {
        config.warnings.push(format!("{ENDPOINT} was ignored: {}", error.fault));
    }
}

fn read_flags(sources: &Sources, config: &mut Config) -> Result<(), ConfigError> {
    for (flag, key, value) in &sources.flags {
        set_plain(config, key, value, Origin::Flag(flag.clone()))?;
    }
    Ok(())
}

fn set_plain(config: &mut Config, key: &str, value: &OsStr, origin: Origin) -> Result<(), ConfigError> {
    let place = origin.to_string();
    let row = SettingRow::find(key).ok_or_else(|| ConfigError {
        place: place.clone(),
        fault: format!("unknown key `{key}`{}", nearest::hint(key, SETTINGS.iter().map(|row| row.key))),
    })?;
    if matches!(row.kind, Kind::Text(..)) && value.to_str().is_none() {
        return Err(ConfigError { place, fault: format!("`{key}` is not UTF-8") });
    }
    apply(config, row, &Given::Plain(value), origin).map_err(|fault| ConfigError { place, fault })
}

/// The root as flags or environment say, the strongest first.
fn root_of(sources: &Sources) -> Option<PathBuf> {
    let flag = sources.flags.iter().rev().find(|(_, key, _)| key == "root").map(|(_, _, value)| value);
    let variable =
        || sources.environment.get("TMWS_ROOT").or_else(|| sources.environment.get("CLAUDE_PROJECT_DIR"));
    flag.or_else(variable).map(|root| sources.working_directory.join(root))
}

/// Reads a small regular file; anything else (a device, a pipe, something huge) is refused.
fn read_file(path: &Path) -> io::Result<String> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "larger than 256 KiB"));
    }
    fs::read_to_string(path)
}
