//! How many processors there are, for who shares them out.

use std::{num::NonZero, thread::available_parallelism};

/// The processors that this process may use, as far as that is known.
pub(crate) fn count() -> usize {
    available_parallelism().map_or(1, NonZero::get)
}

/// How many things at once a lane has room for that keep a processor busy: one a processor, and two where there is only
/// one, since each waits for something now and then.
pub(crate) fn lane() -> usize {
    count().max(2)
}
