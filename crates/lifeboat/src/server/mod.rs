//! What runs for a long time: the loop of a backup server, its state, and the reports of the server and the operator.

#[cfg(feature = "kubernetes")]
pub(crate) mod credential;
#[cfg(feature = "kubernetes")]
pub(crate) mod follow;
pub(crate) mod metrics;
#[cfg(feature = "kubernetes")]
pub(crate) mod node_backup;
pub(crate) mod observed;
#[cfg(feature = "kubernetes")]
pub(crate) mod operator_metrics;
pub(crate) mod origin;
pub(crate) mod plan;
pub(crate) mod serve;
#[cfg(feature = "kubernetes")]
pub(crate) mod volume_report;
