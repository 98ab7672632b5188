//! What the exit codes mean.

/// The work is done, or the backup is proven.
pub(crate) const DONE: u8 = 0;
/// It failed, or the backup is not proven.
pub(crate) const FAILED: u8 = 1;
/// The command line is wrong.
pub(crate) const USAGE: u8 = 2;
