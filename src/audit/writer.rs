//! The thread that writes.

use std::{
    io, mem,
    sync::{Arc, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tracing::{error, info};

use super::{LINES_SOON, Shared, file::LogFile, line};

/// Once something came, the writer lets more gather for so long: one write, one wake-up for all of it.
const GATHERS: Duration = Duration::from_millis(20);
/// Between two waits for the disk, and between two tries to open the file.
const EVERY: Duration = Duration::from_secs(1);

pub(super) struct Writer {
    file: Option<LogFile>,
    /// Whole lines that are to be written.
    text: Vec<u8>,
    /// Bytes of them that are.
    written: usize,
    /// Lines in `text`, and how much of the queue they take.
    lines: u64,
    weight: usize,
    /// What the log says already of events left out.
    left_out_told: u64,
    synced: Instant,
    unsynced: bool,
}

impl Writer {
    /// A writer whose file is opened if it can be.
    pub(super) fn open(shared: &Shared) -> Self {
        let mut writer = Self {
            file: None,
            text: Vec::new(),
            written: 0,
            lines: 0,
            weight: 0,
            left_out_told: 0,
            synced: Instant::now(),
            unsynced: false,
        };
        let opened = writer.ensure_open(shared, false);
        writer.tell(shared, opened);
        writer
    }

    /// Writes until the log is closed.
    pub(super) fn run(mut self, shared: &Arc<Shared>) {
        loop {
            let (reopens, closes) = self.gather(shared);
            let wrote = self.ensure_open(shared, reopens).and_then(|()| self.write(shared));
            let failed = wrote.is_err();
            self.tell(shared, wrote);
            if closes && (failed || shared.lock().lines.is_empty()) {
                if failed {
                    error!(lines = self.lines, "the audit log cannot be written; its last lines are lost");
                }
                break;
            }
        }
        let synced = self.file.as_ref().map_or(Ok(()), LogFile::sync);
        if let Err(error) = synced {
            error!(%error, "the end of the audit log may not be on the disk");
        }
        shared.lock().has_ended = true;
        shared.ended.notify_all();
    }

    /// Waits for something to do, and formats the lines that came. Whether the file is to be opened anew, and whether
    /// the log ends.
    fn gather(&mut self, shared: &Shared) -> (bool, bool) {
        let mut queue = shared.lock();
        let failing = shared.failing.load(Ordering::Relaxed);
        if failing {
            // What could not be written waits where it is; no more is taken until it could.
            let waited =
                shared.wake.wait_timeout_while(queue, EVERY, |queue| !queue.closes && !queue.reopens);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        } else {
            let waits = |queue: &mut super::Queue| queue.lines.is_empty() && !queue.closes && !queue.reopens;
            if self.unsynced {
                let due = EVERY.saturating_sub(self.synced.elapsed());
                queue.sleeps = true;
                let waited = shared.wake.wait_timeout_while(queue, due, waits);
                queue = waited.unwrap_or_else(PoisonError::into_inner).0;
            } else {
                queue.sleeps = queue.lines.is_empty();
                queue = shared.wake.wait_while(queue, waits).unwrap_or_else(PoisonError::into_inner);
            }
            queue.sleeps = false;
            if !queue.lines.is_empty() {
                let gathers = |queue: &mut super::Queue| {
                    queue.lines.len() < LINES_SOON && !queue.closes && !queue.reopens
                };
                let waited = shared.wake.wait_timeout_while(queue, GATHERS, gathers);
                queue = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
        let (reopens, closes) = (mem::take(&mut queue.reopens), queue.closes);
        let lines = if self.text.is_empty() { mem::take(&mut queue.lines) } else { Vec::new() };
        drop(queue);
        self.lines += lines.len() as u64;
        for line in lines {
            line.append_to(&mut self.text, &shared.digester);
            self.weight += line.weight();
        }
        let left_out = shared.left_out.load(Ordering::Relaxed);
        if self.written == 0 && left_out > self.left_out_told {
            line::append_left_out(left_out - self.left_out_told, Timestamp::now(), &mut self.text);
            self.left_out_told = left_out;
            self.lines += 1;
        }
        (reopens, closes)
    }

    /// Opens the file where it is not open, is to be opened anew, or is no longer where it was.
    fn ensure_open(&mut self, shared: &Shared, reopens: bool) -> io::Result<()> {
        // Once a batch, that is at most fifty times a second.
        let stays = |file: &LogFile| !reopens && file.is_at(&shared.path);
        if self.file.as_ref().is_some_and(stays) {
            return Ok(());
        }
        if let Some(old) = self.file.take() {
            old.sync()?;
            info!("the audit log is opened anew");
        }
        self.file = Some(LogFile::open(&shared.path)?);
        // A line that was written in part begins anew in the new file.
        let begun = self.text[..self.written].iter().rposition(|byte| *byte == b'\n');
        self.written = begun.map_or(0, |end| end + 1);
        Ok(())
    }

    fn write(&mut self, shared: &Shared) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        while self.written < self.text.len() {
            match file.append(&self.text[self.written..]) {
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            self.unsynced = true;
        }
        if !self.text.is_empty() {
            self.text.clear();
            self.text.shrink_to(1 << 16);
            self.written = 0;
            shared.written.fetch_add(mem::take(&mut self.lines), Ordering::Relaxed);
            shared.taken.fetch_sub(mem::take(&mut self.weight), Ordering::Relaxed);
        }
        if self.unsynced && self.synced.elapsed() >= EVERY {
            self.synced = Instant::now();
            file.sync()?;
            self.unsynced = false;
        }
        Ok(())
    }

    /// Tells whether the log can be written.
    fn tell(&mut self, shared: &Shared, wrote: io::Result<()>) {
        match wrote {
            Ok(()) => {
                if shared.failing.swap(false, Ordering::AcqRel) {
                    info!("the audit log is written again");
                }
            }
            Err(error) => {
                // Whatever is wrong with it, the next try opens it anew.
                self.file = None;
                // Its text without the number: this is told to clients.
                let reason: Arc<str> = error.to_string().into();
                *shared.reason.lock().unwrap_or_else(PoisonError::into_inner) = reason;
                if !shared.failing.swap(true, Ordering::AcqRel) {
                    error!(%error, path = %shared.path.display(), "the audit log cannot be written: calls are refused");
                }
            }
        }
    }
}
