//! `tmws serve` as a whole: walls between those who share it, and nothing left of those who have gone.

mod askers;
mod churn;
mod dashboard;
mod dialect;
mod process;
mod telemetry;
mod walls;
