//! What the operator reports.

pub(crate) mod conditions;
pub mod events;
pub mod outcome;
pub mod overview;
pub mod state;
