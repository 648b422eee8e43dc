//! What an evaluation may still use. Every operation on a value passes here, so that an evaluation really stops.
//!
//! jq has no fuel of its own, and its operators on values cannot all fail; so a spent meter unwinds to
//! [`run`], past every `try` of the expression. Nothing is printed: the panic hook is not involved.

use std::{
    cell::RefCell,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    time::Instant,
};

#[cfg(panic = "abort")]
compile_error!("expressions are stopped by unwinding: build with panic = \"unwind\"");

/// Operations between two looks at the clock.
const TICKS_PER_LOOK: u32 = 128;

/// Why an evaluation was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// The deadline has passed.
    Deadline,
    /// More bytes were made on the way than allowed.
    Bytes,
    /// The JSON text of the result would be longer than allowed.
    Output,
    /// A value would be nested deeper than allowed.
    Depth,
    /// The interpreter panicked: its bug, contained.
    Fault,
}

struct Meter {
    deadline: Instant,
    bytes_left: usize,
    ticks: u32,
}

thread_local! {
    static METER: RefCell<Option<Meter>> = const { RefCell::new(None) };
}

/// Runs `f` under a meter of its own and says why it was stopped, if it was.
pub(super) fn run<T>(deadline: Instant, bytes_max: usize, f: impl FnOnce() -> T) -> Result<T, Stop> {
    let outer = METER.replace(Some(Meter { deadline, bytes_left: bytes_max, ticks: 0 }));
    let result = catch_unwind(AssertUnwindSafe(f));
    METER.replace(outer);
    result.map_err(|payload| payload.downcast::<Stop>().map_or(Stop::Fault, |stop| *stop))
}

/// Ends the evaluation that runs on this thread.
pub(super) fn stop(why: Stop) -> ! {
    resume_unwind(Box::new(why))
}

/// One operation that makes `bytes` bytes.
pub(super) fn spend(bytes: usize) {
    let stopped = METER.with_borrow_mut(|meter| {
        let meter = meter.as_mut()?;
        match meter.bytes_left.checked_sub(bytes) {
            Some(left) => meter.bytes_left = left,
            None => return Some(Stop::Bytes),
        }
        meter.ticks += 1;
        if meter.ticks >= TICKS_PER_LOOK || bytes >= 1 << 16 {
            meter.ticks = 0;
            if Instant::now() >= meter.deadline {
                return Some(Stop::Deadline);
            }
        }
        None
    });
    if let Some(why) = stopped {
        stop(why);
    }
}

/// Looks at the clock, whatever was done since the last look.
pub(super) fn look() {
    let deadline = METER.with_borrow(|meter| meter.as_ref().map(|meter| meter.deadline));
    if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
        stop(Stop::Deadline);
    }
}

/// One operation that makes nothing.
pub(super) fn tick() {
    spend(0);
}
