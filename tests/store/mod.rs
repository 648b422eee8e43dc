//! What every store must do, for those tests that have one: the contract, check by check, and a model of it; and how well
//! search finds.

pub(crate) mod contract;
pub(crate) mod model;
pub(crate) mod quality;
