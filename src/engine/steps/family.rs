//! A program that was started and all that came of it: ended together.
//!
//! It leads a process group, which one signal ends. What left the group (a session of its own, a daemon) is found by a
//! mark: a variable with a random value in the program's environment, which its children inherit. At the end processes
//! with exactly that mark are told to end, then made to, until none is found. Only on Linux, where `/proc` shows the
//! environment of one's own processes and a process can be held by a descriptor, so that no signal reaches another one
//! that was given its number since. What removes the variable, or runs as somebody else, is not found.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use rustix::process::{Pid, Signal, kill_process_group};

use crate::hex::hex;

/// The variable whose value is the mark. Not one of `TMWS_`, which are settings.
pub(super) const MARK: &str = "CHILD_OF_TMWS";

/// What every process that comes of one program has in its environment.
#[derive(Debug)]
pub(super) struct Mark {
    value: String,
}

impl Mark {
    /// A new one; none where marked processes could not be found again.
    pub(super) fn new() -> Option<Self> {
        let mut bytes = [0; 16];
        if !cfg!(target_os = "linux") || getrandom::fill(&mut bytes).is_err() {
            return None;
        }
        Some(Self { value: hex(&bytes) })
    }

    /// What the variable [`MARK`] is set to.
    pub(super) fn value(&self) -> &str {
        &self.value
    }
}

/// The group of a running program, and its mark. Whatever is left of them ends with the value.
#[derive(Debug)]
pub(super) struct Family {
    group: Option<Pid>,
    mark: Option<Mark>,
    /// The leader was waited for: the number may be another's by now.
    has_ended: AtomicBool,
    /// Nobody with the mark was left when all that had the group had ended.
    is_swept: AtomicBool,
}

impl Family {
    /// The family of a program that leads the group `group`.
    pub(super) const fn new(group: Option<Pid>, mark: Option<Mark>) -> Self {
        Self { group, mark, has_ended: AtomicBool::new(false), is_swept: AtomicBool::new(false) }
    }

    /// Whoever is in the group gets `signal`. Nothing once the leader was waited for.
    pub(super) fn signal(&self, signal: Signal) {
        if let Some(group) = self.group.filter(|_| !self.has_ended.load(Ordering::Acquire)) {
            // An error means that nobody is left, or that the session is not made yet: then the child is alone.
            let _ = kill_process_group(group, signal);
        }
    }

    /// Ends all that is left, the leader too if it still runs. Returns when nobody is found any longer, within bounds.
    pub(super) async fn end(self: &Arc<Self>) {
        self.end_group();
        if self.mark.is_some() {
            let family = Arc::clone(self);
            // Where the runtime ends meanwhile, dropping the value does it.
            let _ = tokio::task::spawn_blocking(move || family.sweep(true)).await;
        }
    }

    fn end_group(&self) {
        if !self.has_ended.swap(true, Ordering::AcqRel)
            && let Some(group) = self.group
        {
            // The number names no other group: it was free for no time worth the name.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }

    /// Ends all who have the mark; `gently` says so to them first.
    fn sweep(&self, gently: bool) {
        if let Some(mark) = self.mark.as_ref().filter(|_| !self.is_swept.load(Ordering::Acquire)) {
            marked::end(mark, gently);
            self.is_swept.store(true, Ordering::Release);
        }
    }
}

impl Drop for Family {
    fn drop(&mut self) {
        self.end_group();
        self.sweep(false);
    }
}

/// Where there is no `/proc` with what is needed nobody is marked.
#[cfg(not(target_os = "linux"))]
mod marked {
    pub(super) fn end(_: &super::Mark, _: bool) {}
}

#[cfg(target_os = "linux")]
mod marked {
    use std::{
        fs,
        io::Read as _,
        os::{fd::OwnedFd, unix::fs::MetadataExt as _},
        path::Path,
        time::{Duration, Instant},
    };

    use rustix::{
        event::{PollFd, PollFlags, Timespec, poll},
        process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
    };

    use super::{MARK, Mark};

    /// So often is looked for more: what is ended may have started another just before.
    const ROUNDS_MAX: usize = 20;
    /// After SIGTERM so long.
    const AFTER_TERM: Duration = Duration::from_millis(100);
    /// After SIGKILL so long; what the system cannot end by then is held up in itself.
    const AFTER_KILL: Duration = Duration::from_millis(500);
    /// Most that is read of an environment.
    const ENVIRONMENT_BYTES_MAX: u64 = 4 << 20;

    /// Ends all who have `mark`.
    pub(super) fn end(mark: &Mark, gently: bool) {
        let mut gently = gently;
        for _ in 0..ROUNDS_MAX {
            let found = find(mark);
            if found.is_empty() {
                return;
            }
            if gently {
                tell(&found, Signal::TERM, AFTER_TERM);
            }
            // Who came meanwhile had its warning in those it comes of.
            gently = false;
            tell(&found, Signal::KILL, AFTER_KILL);
        }
        tracing::warn!("a program goes on starting others as fast as they are ended; some may be left");
    }

    /// Sends `signal` and waits until they have ended, for at most `time`.
    fn tell(found: &[OwnedFd], signal: Signal, time: Duration) {
        for process in found {
            // An error means that it has ended.
            let _ = pidfd_send_signal(process, signal);
        }
        let until = Instant::now() + time;
        for process in found {
            let left = until.saturating_duration_since(Instant::now());
            let left = Timespec::try_from(left).unwrap_or_default();
            let _ = poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&left));
        }
    }

    /// Those of this user's processes that have `mark`, each held: a signal reaches it or nobody.
    fn find(mark: &Mark) -> Vec<OwnedFd> {
        let wanted = format!("{MARK}={}", mark.value());
        let user = rustix::process::geteuid().as_raw();
        let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
        entries
            .flatten()
            .filter_map(|entry| {
                let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
                // Those of others cannot be read; most are passed over without trying.
                entry.metadata().ok().filter(|held| held.uid() == user)?;
                if !has(&entry.path(), wanted.as_bytes()) {
                    return None;
                }
                let process = pidfd_open(pid, PidfdFlags::empty()).ok()?;
                // What is held now is what was read, or has the mark as well.
                has(&entry.path(), wanted.as_bytes()).then_some(process)
            })
            .collect()
    }

    /// Whether the process at `folder` of `/proc` has the variable `wanted`. One that has ended has none.
    fn has(folder: &Path, wanted: &[u8]) -> bool {
        let mut environment = Vec::new();
        fs::File::open(folder.join("environ"))
            .and_then(|file| file.take(ENVIRONMENT_BYTES_MAX).read_to_end(&mut environment))
            .is_ok()
            && environment.split(|byte| *byte == 0).any(|variable| variable == wanted)
    }
}
