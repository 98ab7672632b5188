//! Space on a filesystem.

use super::error::RepositoryError;
use std::path::Path;

/// The default reserve of free space: this part of the filesystem, but at most `MAX_RESERVE_BYTES`.
const RESERVE_PERCENT: u64 = 15;
const MAX_RESERVE_BYTES: u64 = 10 << 30;

/// The space of a filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Free bytes, as `df` reports them as available.
    pub free_bytes: u64,
    /// Size of the filesystem, in bytes.
    pub total_bytes: u64,
}

impl Space {
    /// The space of the filesystem of a directory.
    pub(crate) fn at(dir: &Path) -> Result<Self, RepositoryError> {
        let stat = rustix::fs::statvfs(dir)
            .map_err(|error| RepositoryError::io("read the free space of", dir)(error.into()))?;
        Ok(Space {
            free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
        })
    }

    /// The default reserve of free space: 15 % of the filesystem, but at most 10 GiB.
    #[must_use]
    pub fn default_reserve_bytes(&self) -> u64 {
        (self.total_bytes / 100 * RESERVE_PERCENT).min(MAX_RESERVE_BYTES)
    }
}
