//! Decisions about a node's backups, as pure functions: no disk, no network, no clock. The current time is an
//! argument.
//!
//! - [`agenda`]: whether a run is due now, even if the clock is set.
//! - [`cron`]: when a backup is due.
//! - [`freshness`]: whether backups are stale, by their schedule.
//! - [`platform`]: where a node's etcd, its certificates and its files are.
//! - [`turns`]: in which order the members of a cluster make their backups.
//! - [`restore`]: which cluster begins from a snapshot, with which ids, at which revision.
//! - [`retention`]: which backups are kept.
//! - [`reason`]: why a run made no backup, as one word.
//! - [`encryption`]: the names of encryption keys.
//! - [`hex`]: bytes as text.
//! - [`record`]: the record of a backup.

pub mod agenda;
pub mod cron;
pub mod encryption;
pub mod freshness;
pub mod hex;
pub mod platform;
pub mod reason;
pub mod record;
pub mod restore;
pub mod retention;
pub mod turns;
