//! All that the loop needs to know, so that a process can begin with it.
//!
//! Reading a command line, settings and a repository touches far more of the program than relaying does, and pages that
//! were touched once stay in memory. So `connect` finds everything out, and then starts the program anew in the same
//! process: the second start goes straight to the loop. It is also where the allocator can be told to give back what
//! large messages took, and where a token leaves the command line and the environment, which other programs can read:
//! the plan goes through a pipe.

use std::{
    convert::Infallible,
    ffi::OsString,
    fs::File,
    io::{self, Read as _, Write as _},
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    process::Command,
    time::Duration,
};

use hyper::header::HeaderValue;
use rustix::{
    fs::{Mode, OFlags, fcntl_setfl, open},
    io::{FdFlags, fcntl_setfd},
};
use serde::{Deserialize, Serialize};

use super::target::{TOKEN_VARIABLE, Target, TargetError, TokenOrigin, Transport};
use crate::{limits::ShutdownLimits, telemetry::LogFormat};

/// Variable of the environment that holds the number of the pipe with the plan.
const PLAN_VARIABLE: &str = "TMWS_CONNECT_PLAN";
/// The program as it runs now, even if its file has been replaced.
const ITSELF: &str = "/proc/self/exe";
/// glibc's allocator: one heap, and large blocks go back to the system when they are freed. By itself it raises both
/// thresholds to the largest block that was ever freed, and so keeps what one large message needed. Blocks as large as
/// the parts in which an HTTP body arrives count as large: on the heap they would hold it open behind them.
const ALLOCATOR: [(&str, &str); 3] =
    [("MALLOC_ARENA_MAX", "1"), ("MALLOC_MMAP_THRESHOLD_", "32768"), ("MALLOC_TRIM_THRESHOLD_", "32768")];

#[derive(Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) transport: Transport,
    pub(super) tls: bool,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) authority: String,
    pub(super) path: String,
    pub(super) token_origin: TokenOrigin,
    pub(super) agent: String,
    pub(super) frame_bytes_max: usize,
    pub(super) drain: Duration,
    pub(super) exit: Duration,
    /// Log filter.
    pub(super) log: String,
    /// How its lines are written.
    pub(super) log_format: LogFormat,
    pub(super) token: Option<String>,
}

impl Plan {
    /// The plan that was handed over, where this is a second start.
    pub(super) fn handed_over() -> Option<Self> {
        let mut arguments = std::env::args_os().skip(1);
        if arguments.next()? != "connect" || arguments.next().is_some() {
            return None;
        }
        let pipe: u32 = std::env::var_os(PLAN_VARIABLE)?.to_str()?.parse().ok()?;
        if pipe <= 2 {
            return None;
        }
        // An opening of our own: the inherited number stays behind as the end of a pipe that is empty and closed.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut pipe = File::from(open(format!("/proc/self/fd/{pipe}"), flags, Mode::empty()).ok()?);
        let mut plan = Vec::new();
        pipe.read_to_end(&mut plan).ok()?;
        serde_json::from_slice(&plan).ok()
    }

    /// Starts the program anew with this plan. Comes back only where that cannot be.
    pub(super) fn start_anew(&self) {
        let Err(error) = self.hand_over();
        tracing::debug!(%error, "the program could not start itself anew; it goes on as it is");
    }

    fn hand_over(&self) -> io::Result<Infallible> {
        let (reader, mut writer) = io::pipe()?;
        // A plan that does not fit into the pipe must not wait for a reader.
        fcntl_setfl(&writer, OFlags::NONBLOCK)?;
        writer.write_all(&serde_json::to_vec(self)?)?;
        drop(writer);
        fcntl_setfd(&reader, FdFlags::empty())?;
        let mut command = Command::new(ITSELF);
        command
            .arg0("tmws")
            .arg("connect")
            .env(PLAN_VARIABLE, reader.as_raw_fd().to_string())
            .env_remove(TOKEN_VARIABLE);
        for (name, value) in ALLOCATOR {
            if std::env::var_os(name).is_none() {
                command.env(name, value);
            }
        }
        Err(command.exec())
    }

    pub(super) fn shutdown(&self) -> ShutdownLimits {
        ShutdownLimits { drain: self.drain, exit: self.exit }
    }

    /// The server that it names.
    pub(super) fn target(&self) -> Result<Target, TargetError> {
        let authorization = self.token.as_ref().map(|token| authorization(token, self.token_origin));
        Ok(Target {
            transport: self.transport,
            tls: self.tls,
            host: self.host.clone(),
            port: self.port,
            authority: self.authority.clone(),
            path: self.path.clone(),
            authorization: authorization.transpose()?,
            token_origin: self.token_origin,
            agent: HeaderValue::try_from(&self.agent).ok(),
        })
    }
}

/// `Authorization` with this token, marked as sensitive.
pub(super) fn authorization(token: &str, origin: TokenOrigin) -> Result<HeaderValue, TargetError> {
    let value = HeaderValue::try_from(format!("Bearer {token}"));
    let mut value = value.map_err(|_| TargetError::Token(origin))?;
    value.set_sensitive(true);
    Ok(value)
}

/// The token of the environment, as text.
pub(super) fn token_text(token: OsString) -> Result<String, TargetError> {
    token.into_string().map_err(|_| TargetError::Token(TokenOrigin::Environment))
}
