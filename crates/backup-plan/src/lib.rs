//! Pure decisions of a node's backups: values in, decision out. No disk, no network, no clock: what time
//! it is, is an argument.
//!
//! - [`admission`]: what the API server itself refuses of a `Backup`.
//! - [`agenda`]: whether it is due now, whatever the clock does.
//! - [`api`]: the custom resources.
//! - [`cron`]: when a backup is due.
//! - [`freshness`]: whether a node's backups are new enough, judged from outside.
//! - [`platform`]: where a node's etcd, its certificates and its files are.
//! - [`turns`]: in which order the members of a cluster take theirs.
//! - [`retention`]: which backups are kept.
//! - [`record`]: what is written beside each backup.

pub mod admission;
pub mod agenda;
pub mod api;
pub mod cron;
pub mod freshness;
pub mod platform;
pub mod record;
pub mod retention;
pub mod turns;
