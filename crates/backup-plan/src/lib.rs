//! Pure decisions of a node's backups: values in, decision out. No disk, no network, no clock: what time
//! it is, is an argument.
//!
//! - [`cron`]: when a backup is due.
//! - [`turns`]: in which order the members of a cluster take theirs.
//! - [`retention`]: which backups are kept.
//! - [`record`]: what is written beside each backup.

pub mod cron;
pub mod record;
pub mod retention;
pub mod turns;
