//! The operator: creates the objects that make backups in a cluster, and reports the state of the backups.
//!
//! A controller is a pipeline: read → decide → build (pure) → apply → report. All writes use server-side apply, and only the
//! replica that holds the lease writes.
//!
//! - [`run`]: waits for the cluster and the lease, then runs the controllers.
//! - `controllers`: one file for each controller. [`options`] has their names.
//! - [`cluster`]: what the operator reads of the cluster: the cache of its objects, its properties, the Lease, the pods.
//! - `objects`: builds the objects that make backups: DaemonSet, CronJob, Job.
//! - [`install`]: what is installed: CRDs, admission policies, manifests.
//! - [`status`]: what the operator reports: conditions, events, the state for the metrics, the overview for `status`.

mod api_error;
pub mod cluster;
mod context;
mod controllers;
pub mod install;
pub mod names;
mod objects;
pub mod options;
pub mod run;
pub mod status;

pub use api_error::api_error_message;
