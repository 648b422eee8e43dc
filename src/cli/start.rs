//! From the arguments as typed to the exit code.

use std::{process::ExitCode, time::Duration};

use clap::{CommandFactory as _, Parser as _, error::ErrorKind as ClapError};

use super::{
    Failure, Output, accept,
    arguments::{Arguments, Command},
    doctor, memory, migrate, output, pattern, record, replay, run, schema, serve, settings, token,
    token_report, tools, version,
};
use crate::{
    bridge,
    compose::{Local, store_options},
    config::{self, Config, ConfigError},
    exit::Exit,
    serve as server, telemetry,
};

/// The store may take so long to close.
const CLOSE_MAX: Duration = Duration::from_secs(1);

/// Runs the process's command line.
#[must_use]
pub fn main() -> ExitCode {
    if let Some(exit) = bridge::resume() {
        return exit.into();
    }
    let exit = match Arguments::try_parse() {
        Ok(arguments) => dispatch(arguments),
        Err(error) => explain(&error),
    };
    let exit = exit.unwrap_or_else(|failure| {
        if failure.exit != Exit::Ok {
            output::tell(&failure.to_string());
        }
        failure.exit
    });
    exit.into()
}

fn dispatch(arguments: Arguments) -> Result<Exit, Failure> {
    let Arguments { settings, json, version, command } = arguments;
    if version {
        return printing(json, |output| version::run(output).map(|()| Exit::Ok));
    }
    let flags = settings::again(&settings);
    let (agent, log) = (settings.agent.clone(), settings.log.clone());
    let own: Vec<_> = match &command {
        Some(Command::Serve(arguments)) => arguments.flags().collect(),
        Some(Command::Token(arguments)) => arguments.flags().collect(),
        _ => Vec::new(),
    };
    let loaded = || {
        let mut sources = settings::sources(settings)?;
        sources.flags.extend(own);
        // No setting: it belongs to `connect` alone, and to nothing that is printed.
        sources.environment.remove(bridge::TOKEN_VARIABLE);
        config::load(&sources).map_err(Refused::Config)
    };
    match command.unwrap_or(Command::Stdio) {
        // Serving comes first: nothing stands between it and the first frame but the settings.
        Command::Stdio => {
            let config = loaded()?;
            begin_logging(&config.log, &config)?;
            Ok(server::stdio(config))
        }
        Command::Serve(_) => {
            let config = loaded()?;
            begin_logging(if config.is_default("log") { "info" } else { &config.log }, &config)?;
            serve::run(&config)
        }
        Command::Connect(arguments) => {
            let config = loaded()?;
            begin_logging(&config.log, &config)?;
            let project = match (arguments.project, arguments.no_project) {
                (Some(id), _) => bridge::Project::Named(id),
                (None, true) => bridge::Project::Default,
                (None, false) => bridge::Project::OfWorkspace,
            };
            let token = std::env::var_os(bridge::TOKEN_VARIABLE).filter(|token| !token.is_empty());
            bridge::connect(&arguments.url, &project, token, &config)
                .map_err(|error| Failure::new(Exit::Usage, "read the address", error.to_string()))
        }
        Command::Record(arguments) => {
            let is_proxy = arguments.listen.is_some();
            record::run(arguments, || match log {
                Some(log) => log.to_string_lossy().into_owned(),
                // It must work where the settings are wrong: they are the server's affair, not the recorder's.
                None => match loaded() {
                    Ok(config) if !config.is_default("log") => config.log,
                    Ok(_) | Err(_) => if is_proxy { "info" } else { "warn" }.to_owned(),
                },
            })
        }
        Command::Token(arguments) => {
            let config = loaded()?;
            begin_logging(if config.is_default("log") { "error" } else { &config.log }, &config)?;
            printing(json, |output| token::run(arguments.command, agent, &config, output))
        }
        // What needs no settings must work when they are wrong.
        Command::Schema(command) => printing(json, |output| schema::run(&command, output)),
        Command::Replay(arguments) => {
            working(|runtime| printing(json, |output| runtime.block_on(replay::run(arguments, output))))
        }
        Command::Accept(arguments) => {
            if let Some(place) = &arguments.fixture {
                return accept::fixture(place);
            }
            // It must work where the settings are wrong: they are not those of the servers that it starts.
            let filter = log.map_or_else(
                || match loaded() {
                    Ok(config) if !config.is_default("log") => config.log,
                    Ok(_) | Err(_) => "warn".to_owned(),
                },
                |log| log.to_string_lossy().into_owned(),
            );
            telemetry::start(&filter, crate::telemetry::LogFormat::default())
                .map_err(|error| Failure::new(Exit::Software, "begin logging", error.to_string()))?;
            busy(|runtime| printing(json, |output| runtime.block_on(accept::run(arguments, output))))
        }
        Command::TokenReport(arguments) => {
            working(|runtime| printing(json, |output| runtime.block_on(token_report::run(arguments, output))))
        }
        Command::Doctor(arguments) => {
            let loaded = match loaded() {
                Ok(config) => Ok(config),
                Err(Refused::Config(error)) => Err(error),
                Err(Refused::Flags(failure)) => return Err(failure),
            };
            let itself = doctor::Itself { program: std::env::current_exe().ok(), flags };
            working(|runtime| {
                printing(json, |output| {
                    runtime.block_on(doctor::run(&arguments, loaded.as_ref(), &itself, output))
                })
            })
        }
        Command::Run(arguments) => {
            with_parts(&loaded()?, json, async |local, output| run::run(arguments, local, output).await)
        }
        Command::Pattern(command) => {
            with_parts(&loaded()?, json, async |local, output| pattern::run(command, local, output).await)
        }
        Command::Tools { server } => with_parts(&loaded()?, json, async |local, output| {
            tools::run(server.as_deref(), local, output).await
        }),
        Command::Memory(command) => {
            let config = loaded()?;
            let options = store_options(&config);
            with_parts(&config, json, async |local, output| {
                memory::run(command, local, &options, output).await
            })
        }
        Command::Migrate(arguments) => {
            let config = loaded()?;
            begin_logging(if config.is_default("log") { "error" } else { &config.log }, &config)?;
            let options = store_options(&config);
            working(|runtime| {
                printing(json, |output| runtime.block_on(migrate::run(arguments.dry_run, &options, output)))
            })
        }
    }
}

/// Runs a command on the parts of a process, and closes behind it what it opened.
fn with_parts(
    config: &Config,
    json: bool,
    command: impl AsyncFnOnce(&Local, &mut Output) -> Result<Exit, Failure>,
) -> Result<Exit, Failure> {
    // What fails is told as the command's own failure; a warning of the parts beside it would only repeat it.
    begin_logging(if config.is_default("log") { "error" } else { &config.log }, config)?;
    working(|runtime| {
        printing(json, |output| {
            runtime.block_on(async {
                let local = Local::new(config);
                let exit = command(&local, output).await;
                local.engine.close().await;
                local.store.close(CLOSE_MAX).await;
                exit
            })
        })
    })
}

fn begin_logging(filter: &str, config: &Config) -> Result<(), Failure> {
    telemetry::start(filter, config.log_format)
        .map_err(|error| Failure::new(Exit::Software, "begin logging", error.to_string()))?;
    for warning in &config.warnings {
        tracing::warn!(warning, "part of the configuration was ignored");
    }
    Ok(())
}

fn working(job: impl FnOnce(&tokio::runtime::Runtime) -> Result<Exit, Failure>) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::of_io("start", &error))?;
    let exit = job(&runtime);
    // Blocking work that nobody waits for any more must not hold the shell's prompt.
    runtime.shutdown_background();
    exit
}

/// As [`working`], on all processors.
fn busy(job: impl FnOnce(&tokio::runtime::Runtime) -> Result<Exit, Failure>) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::of_io("start", &error))?;
    let exit = job(&runtime);
    runtime.shutdown_background();
    exit
}

/// Runs `command` with stdout, and hands everything on before it ends, whatever happened.
fn printing(json: bool, command: impl FnOnce(&mut Output) -> Result<Exit, Failure>) -> Result<Exit, Failure> {
    let mut output = Output::stdout(json);
    let exit = command(&mut output);
    let flushed = output.finish();
    let exit = exit?;
    flushed?;
    Ok(exit)
}

/// Why there is no configuration.
enum Refused {
    Flags(Failure),
    Config(ConfigError),
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self::Flags(failure)
    }
}

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Flags(failure) => failure,
            Refused::Config(error) => Self::from(&error),
        }
    }
}

/// Help goes to stdout; what was wrong goes to stderr in our own form.
fn explain(error: &clap::Error) -> Result<Exit, Failure> {
    match error.kind() {
        ClapError::DisplayHelp | ClapError::DisplayVersion => {
            let text = error.to_string();
            printing(false, |output| output.verbatim(&text).map(|()| Exit::Ok))
        }
        ClapError::DisplayHelpOnMissingArgumentOrSubcommand => {
            output::tell(error.to_string().trim_end());
            Ok(Exit::Usage)
        }
        _ => {
            let text = error.to_string();
            let text = text.strip_prefix("error: ").unwrap_or(&text);
            let (cause, rest) = text.split_once("\n\n").unwrap_or((text, ""));
            let cause = cause.split_whitespace().collect::<Vec<_>>().join(" ");
            let tip = rest.lines().find_map(|line| line.trim().strip_prefix("tip: ")).map(str::to_owned);
            let usage = rest
                .split_once("Usage: ")
                .map_or_else(usage, |(_, usage)| usage.split("\n\n").next().unwrap_or_default().to_owned());
            let forms: Vec<&str> = usage.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
            let hint = tip.unwrap_or_else(|| format!("usage: {}", forms.join(", or ")));
            Err(Failure::new(Exit::Usage, "read the command line", cause).with_hint(hint))
        }
    }
}

/// How the command that was typed is used: clap leaves that out where a value is wrong.
fn usage() -> String {
    let mut command = Arguments::command();
    command.build();
    let mut typed = &command;
    for word in std::env::args_os().skip(1) {
        typed = word.to_str().and_then(|word| typed.find_subcommand(word)).unwrap_or(typed);
    }
    typed.clone().render_usage().to_string().trim_start_matches("Usage: ").to_owned()
}
