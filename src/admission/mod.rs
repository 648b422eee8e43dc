//! Admission control: which call may run now. Stands in front of the service of a shared server.
//!
//! ```text
//! call ─ rate        too many a second of one principal or connection          busy
//!   └ audit          no place in the log                                       busy
//!   └ turnstile      so many at once over all connections; waiting by turns     busy at the deadline
//!   └ share          beside others, as many of one connection as there are processors; the rest waits a moment
//!   └ the service    its time, its errors and its end are counted and written down
//! ```

mod governed;
mod meter;
mod rate;
mod share;

pub use governed::Governed;
pub(crate) use meter::failure_of;
