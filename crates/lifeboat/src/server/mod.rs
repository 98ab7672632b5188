//! What goes on for long: the loop of a backup server, what it knows, and what it and the operator report.

pub(crate) mod metrics;
#[cfg(feature = "kubernetes")]
pub(crate) mod node_backup;
pub(crate) mod observed;
#[cfg(feature = "kubernetes")]
pub(crate) mod operator_metrics;
pub(crate) mod origin;
pub(crate) mod serve;
