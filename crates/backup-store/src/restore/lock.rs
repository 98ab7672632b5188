//! Whether etcd runs in a data directory.

use std::fs::File;
use std::path::Path;

/// The directory of the database in a data directory.
pub(super) const SNAP_DIR: &str = "member/snap";

/// The database in a data directory.
pub(super) const DB_FILE: &str = "member/snap/db";

/// Whether a process holds the lock of the database in a data directory.
#[must_use]
pub fn is_locked(data_dir: &Path) -> bool {
    let db = File::open(data_dir.join(DB_FILE));
    db.is_ok_and(|db| {
        let lock = rustix::fs::flock(&db, rustix::fs::FlockOperation::NonBlockingLockShared);
        lock == Err(rustix::io::Errno::WOULDBLOCK)
    })
}
