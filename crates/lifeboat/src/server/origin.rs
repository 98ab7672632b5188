//! What the loop and its reports share.

/// The origin of the backups that a server makes by its own schedule.
pub(crate) const ORIGIN: &str = "default";
