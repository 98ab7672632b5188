//! What the operator and the commands read of a cluster.

pub mod backup_request;
pub(crate) mod cache;
pub mod cluster_info;
pub(crate) mod lease;
pub(crate) mod lenient;
pub(crate) mod node_backups;
pub mod node_layout;
pub(crate) mod pod_problems;
pub(crate) mod pvc;
pub mod server_pods;
pub(crate) mod watch_backoff;
