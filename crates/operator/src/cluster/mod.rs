//! What the operator and the commands read of a cluster.

pub mod api_schema;
pub(crate) mod backup_job;
pub mod backup_request;
pub mod backup_watch;
pub(crate) mod cache;
pub mod cluster_info;
pub(crate) mod lease;
pub(crate) mod lenient;
pub(crate) mod node_backups;
pub mod node_layout;
pub(crate) mod pod_problems;
pub(crate) mod pvc;
mod request_result;
pub mod server_pods;
pub mod volume_reader;
pub(crate) mod watch_backoff;
