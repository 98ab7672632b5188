//! Where a snapshot comes from. A source writes it to the disk; everything after that is the same for all of them.

pub(crate) mod stream;

use super::error::RunError;
use crate::disk::Disk;
use crate::progress::SharedMonitor;
use crate::repository::Repository;
use backup_plan::record::{Level, SnapshotSource};
use std::path::Path;

/// The free space is checked again after this many bytes.
pub(super) const SPACE_CHECK_BYTES: u64 = 64 << 20;
/// The file is synced after this many bytes. If the member uses the same disk, its own syncs wait for all unwritten data.
pub(crate) const SYNCED_EVERY_BYTES: u64 = 8 << 20;

/// A way to get a snapshot of a member.
pub(crate) trait Source {
    /// Its name in the record.
    const KIND: SnapshotSource;

    /// Writes a snapshot to a new file and syncs it. The returned hashes were computed before the bytes were written to the disk.
    async fn take(
        &self,
        disk: &Disk,
        path: &Path,
        space: &SpaceGuard,
        monitor: &SharedMonitor,
    ) -> Result<Taken, RunError>;
}

/// A snapshot that is on the disk.
pub(crate) struct Taken {
    /// The size of the database.
    pub(crate) data_bytes: u64,
    /// The length of the file.
    pub(crate) file_bytes: u64,
    /// SHA-256 of the file, in hexadecimal.
    pub(crate) file_sha256: String,
    /// A hash for each block of the file: the contents of `blocks.b3`.
    pub(crate) blocks: Vec<u8>,
    /// What the source has verified.
    pub(crate) verified: Vec<Level>,
}

/// Checks the reserve of free space while a run writes.
#[derive(Clone)]
pub(crate) struct SpaceGuard {
    pub(crate) repository: Repository,
    pub(crate) reserve_bytes: u64,
}

impl SpaceGuard {
    pub(crate) fn check(&self) -> Result<(), RunError> {
        let free_bytes = self.repository.space()?.free_bytes;
        if free_bytes < self.reserve_bytes {
            return Err(RunError::InsufficientSpace {
                free_bytes,
                needed_bytes: SPACE_CHECK_BYTES,
                reserve_bytes: self.reserve_bytes,
            });
        }
        Ok(())
    }
}
