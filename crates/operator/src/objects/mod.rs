//! Builds the objects that make backups. Pure functions; the objects are typed, so that a misspelt field does not compile.

pub(crate) mod cron_job;
pub(crate) mod daemon_set;
pub(crate) mod job;
pub(crate) mod pod;
pub(crate) mod retention_flags;
pub(crate) mod volume_set;
